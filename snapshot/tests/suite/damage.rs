//! Damaged files give the answer that was published, or none: never another.

use std::fs;
use std::path::{Path, PathBuf};

use countersign_certificate::{Fingerprint20, Id, RealmId, Serial};
use countersign_snapshot::{OpenError, Snapshot, Synthetic, publish, publish_delta, synthetic};
use sha2::{Digest, Sha256};

use crate::support::{access, accounts, full_grant, id, info, trust};

const PAGE: usize = 4096;

/// `access` with several pages in most tables, and a delta of several pages.
pub(crate) fn published() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (large, _) = synthetic(&Synthetic { users: 300, revoked_serials: 600, uid_base: 1_950_000_000 });
    let mut tables = access();
    tables.logins.extend(large.logins);
    tables.users.extend(large.users);
    tables.memberships.extend(large.memberships);
    tables.keys.extend(large.keys);
    tables.key_grants.extend(large.key_grants);
    tables.serials.extend(large.serials);
    publish(directory.path(), &tables, &accounts(), &info()).unwrap();
    let (other, _) = synthetic(&Synthetic { users: 150, revoked_serials: 0, uid_base: 1_960_000_000 });
    let others: std::collections::BTreeMap<_, _> = other.logins.into_iter().collect();
    for (name, login) in &mut tables.logins {
        *login = others.get(name).copied().unwrap_or(*login);
    }
    tables.grants.retain(|(grant, _)| *grant != id(11));
    tables.grants.push((id(13), full_grant()));
    tables.memberships.retain(|membership| *membership != (id(20), id(1)));
    publish_delta(directory.path(), &tables, &accounts(), &info()).unwrap();
    directory
}

/// One answer per question; `None` where reading fails.
pub(crate) fn answers(snapshot: &Snapshot) -> Vec<Option<String>> {
    fn text<T: std::fmt::Debug, E>(answer: Result<T, E>) -> Option<String> {
        answer.ok().map(|answer| format!("{answer:?}"))
    }
    let (large, _) = synthetic(&Synthetic { users: 310, revoked_serials: 610, uid_base: 0 });
    let mut all = Vec::new();
    for ordinal in (0..310).step_by(7) {
        all.push(text(snapshot.login(large.logins[ordinal].0.as_bytes())));
        all.push(text(snapshot.user(large.users[ordinal].0)));
        all.push(text(snapshot.is_member(large.memberships[ordinal].0, large.memberships[ordinal].1)));
        all.push(text(snapshot.key(large.keys[ordinal].0)));
        all.push(text(snapshot.key_grant(large.key_grants[ordinal].user, b"deploy")));
        all.push(text(snapshot.serial_revoked(large.serials[0].0, large.serials[0].1[ordinal])));
    }
    for byte in 0..80 {
        all.push(text(snapshot.grant(id(byte))));
        all.push(text(snapshot.grant_allows_login(id(byte), b"deploy")));
        all.push(text(snapshot.ca_allows_login(id(byte), b"deploy")));
        all.push(text(snapshot.batch(id(byte))));
        all.push(text(snapshot.grant_elsewhere(id(byte))));
        all.push(text(snapshot.key_revoked(Fingerprint20([byte; 20]))));
        all.push(text(snapshot.request(id(byte))));
        all.push(text(snapshot.approval(id(byte), 0)));
        all.push(text(snapshot.has_label(&[byte; 32])));
        all.push(text(snapshot.takes_realm(&RealmId([byte; 32]))));
        all.push(text(snapshot.is_granted_login(&[byte; 5])));
    }
    for ca in access().cas {
        let sha256: [u8; 32] = Sha256::digest(&ca.key_blob).into();
        all.push(text(snapshot.ca(&sha256)));
    }
    all.push(text(snapshot.is_member(id(20), id(1))));
    all.push(text(snapshot.serial_revoked(id(40), Serial(7))));
    all.push(text(snapshot.login(b"alice")));
    all.push(text(snapshot.user(Id([1; 16]))));
    all
}

fn whole_answers(directory: &Path) -> Vec<Option<String>> {
    let snapshot = Snapshot::open(directory, trust()).unwrap();
    snapshot.verify().unwrap();
    let answers = answers(&snapshot);
    assert!(answers.iter().all(Option::is_some));
    answers
}

/// Opens a damaged snapshot and compares what it still says.
fn assert_refused_or_same(directory: &Path, whole: &[Option<String>], what: &str) {
    let Ok(snapshot) = Snapshot::open(directory, trust()) else { return };
    assert!(snapshot.verify().is_err(), "{what} went unnoticed");
    for (damaged, whole) in answers(&snapshot).iter().zip(whole) {
        assert!(damaged.is_none() || damaged == whole, "{what} changed {whole:?} to {damaged:?}");
    }
}

fn file(directory: &Path, name: &str) -> (PathBuf, Vec<u8>) {
    let path = directory.join("access").join(name);
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn a_bit_flipped_in_any_page_never_changes_an_answer() {
    let directory = published();
    let whole = whole_answers(directory.path());
    for name in ["base.1", "delta.2"] {
        let (path, bytes) = file(directory.path(), name);
        assert!(bytes.len() > 4 * PAGE, "{name} has several pages");
        for page in 0..bytes.len() / PAGE {
            // One bit near the first record, one that moves from page to page, one in the checksum.
            for offset in [3, (page * 977 + 41) % 4092, 4095] {
                let mut damaged = bytes.clone();
                damaged[page * PAGE + offset] ^= 1 << (page % 8);
                fs::write(&path, &damaged).unwrap();
                assert_refused_or_same(
                    directory.path(),
                    &whole,
                    &format!("a bit at {offset} of page {page} of {name}"),
                );
            }
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(whole_answers(directory.path()), whole);
}

#[test]
fn every_bit_of_the_manifest_counts() {
    let directory = published();
    let (path, bytes) = file(directory.path(), "manifest");
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        let error = Snapshot::open(directory.path(), trust()).err().unwrap();
        assert!(matches!(error, OpenError::Corrupt { .. }), "bit {bit}: {error}");
    }
}

#[test]
fn a_file_cut_or_grown_at_any_of_64_points_is_refused() {
    let directory = published();
    for name in ["manifest", "base.1", "delta.2"] {
        let (path, bytes) = file(directory.path(), name);
        for point in 0..64 {
            fs::write(&path, &bytes[..bytes.len() * point / 64]).unwrap();
            let error = Snapshot::open(directory.path(), trust()).err().unwrap();
            assert!(matches!(error, OpenError::Corrupt { .. }), "{name} cut at {point}/64: {error}");
        }
        let mut grown = bytes.clone();
        grown.push(0);
        fs::write(&path, &grown).unwrap();
        let error = Snapshot::open(directory.path(), trust()).err().unwrap();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{name} grown: {error}");
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn pages_that_changed_places_are_refused() {
    let directory = published();
    let whole = whole_answers(directory.path());
    let (path, bytes) = file(directory.path(), "base.1");
    for page in 1..bytes.len() / PAGE - 1 {
        let mut damaged = bytes.clone();
        let (left, right) = damaged.split_at_mut((page + 1) * PAGE);
        left[page * PAGE..].swap_with_slice(&mut right[..PAGE]);
        fs::write(&path, &damaged).unwrap();
        assert_refused_or_same(directory.path(), &whole, &format!("page {page} in the place of the next"));
    }
}

#[test]
fn a_file_of_another_generation_is_refused() {
    let directory = published();
    let (_, old) = file(directory.path(), "base.1");
    publish(directory.path(), &access(), &accounts(), &info()).unwrap();
    let (path, _) = file(directory.path(), "base.3");
    fs::write(path, old).unwrap();
    let error = Snapshot::open(directory.path(), trust()).err().unwrap();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[test]
fn a_manifest_or_base_of_the_other_audience_is_refused() {
    let directory = published();
    let other = |name: &str| fs::read(directory.path().join("accounts").join(name)).unwrap();
    let (path, manifest) = file(directory.path(), "manifest");
    fs::write(&path, other("manifest")).unwrap();
    let error = Snapshot::open(directory.path(), trust()).err().unwrap();
    assert!(error.to_string().ends_with("expected a manifest of this audience"), "{error}");
    fs::write(&path, manifest).unwrap();
    fs::write(directory.path().join("access/base.1"), other("base.1")).unwrap();
    let error = Snapshot::open(directory.path(), trust()).err().unwrap();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[test]
fn a_missing_base_is_an_error_and_not_an_empty_snapshot() {
    let directory = published();
    fs::remove_file(directory.path().join("access/base.1")).unwrap();
    let error = Snapshot::open(directory.path(), trust()).err().unwrap();
    assert!(matches!(error, OpenError::Vanished { .. }), "{error}");
}

#[test]
fn a_missing_delta_is_an_error_and_not_the_base_alone() {
    let directory = published();
    fs::remove_file(directory.path().join("access/delta.2")).unwrap();
    let error = Snapshot::open(directory.path(), trust()).err().unwrap();
    assert!(matches!(error, OpenError::Vanished { .. }), "{error}");
}
