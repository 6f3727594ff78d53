//! When a delta is published and when a base: by size, and by what is in place.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use countersign_certificate::Serial;
use countersign_snapshot::{
    AccessTables, Gid, Manifest, PublishInfo, Salt, Snapshot, UserState, publish, publish_base, refresh,
};
use nix::unistd::geteuid;

use crate::forged::{name_header, seal};
use crate::support::{access, accounts, id, info, quick_directory, trust};

const PAGE: u64 = 4096;

/// A base of 128 pages and more: what it takes to be worth a delta.
fn large() -> AccessTables {
    let mut tables = access();
    tables.serials[0].1.extend((0..33_000).map(|number| Serial(1 << 32 | number)));
    tables
}

fn manifest(directory: &Path) -> Manifest {
    Snapshot::open(directory, trust()).unwrap().manifest().clone()
}

fn publish_large(directory: &Path) {
    publish(directory, &large(), &accounts(), &info()).unwrap();
    let base = manifest(directory).base;
    assert!(base.generation == 1 && base.bytes > 128 * PAGE, "{base:?}");
}

/// Publishes one revocation more; gives the manifest.
fn revoke(directory: &Path, tables: &mut AccessTables, serial: u64) -> Manifest {
    tables.serials[0].1.push(Serial(serial));
    publish(directory, tables, &accounts(), &info()).unwrap();
    let snapshot = Snapshot::open(directory, trust()).unwrap();
    snapshot.verify().unwrap();
    for serial in &tables.serials[0].1 {
        assert!(snapshot.serial_revoked(id(40), *serial).unwrap(), "{serial:?}");
    }
    snapshot.manifest().clone()
}

#[test]
fn a_revocation_writes_two_pages_and_leaves_the_base_alone() {
    let directory = quick_directory();
    publish_large(directory.path());
    let base = || fs::metadata(directory.path().join("access/base.1")).unwrap();
    let before = (base().ino(), base().mtime(), base().mtime_nsec());
    let manifest = revoke(directory.path(), &mut large(), 100);
    assert_eq!(manifest.base.generation, 1);
    let delta = manifest.delta.unwrap();
    assert_eq!((delta.generation, delta.bytes), (2, 2 * PAGE), "the header, and a page with one record");
    assert_eq!((base().ino(), base().mtime(), base().mtime_nsec()), before);
}

#[test]
fn what_did_not_change_is_not_written_again() {
    let directory = quick_directory();
    publish_large(directory.path());
    publish(directory.path(), &large(), &accounts(), &info()).unwrap();
    let manifest = manifest(directory.path());
    assert_eq!((manifest.generation, manifest.base.generation, manifest.delta), (2, 1, None));
}

#[test]
fn a_small_base_is_written_anew_so_that_lookups_need_no_second_file() {
    let directory = quick_directory();
    publish(directory.path(), &access(), &accounts(), &info()).unwrap();
    let manifest = revoke(directory.path(), &mut access(), 100);
    assert_eq!((manifest.base.generation, manifest.delta), (2, None));
}

#[test]
fn a_delta_that_passes_its_limit_becomes_a_base_and_the_next_change_a_small_delta() {
    let directory = quick_directory();
    publish_large(directory.path());
    let mut tables = large();
    // Sixteen pages: the header, and fifteen of 240 serials.
    tables.serials[0].1.extend((0..15 * 240).map(|number| Serial(1 << 33 | number)));
    publish(directory.path(), &tables, &accounts(), &info()).unwrap();
    let most = manifest(directory.path());
    assert_eq!((most.base.generation, most.delta.map(|delta| delta.bytes)), (1, Some(16 * PAGE)));
    let merged = revoke(directory.path(), &mut tables, 100);
    assert_eq!((merged.base.generation, merged.delta), (3, None));
    let next = revoke(directory.path(), &mut tables, 101);
    assert_eq!((next.base.generation, next.delta.map(|delta| delta.bytes)), (3, Some(2 * PAGE)));
}

#[test]
fn long_blobs_count_towards_the_limit_too() {
    let directory = quick_directory();
    publish_large(directory.path());
    let mut tables = large();
    for number in 0..5_u8 {
        let mut ca = tables.cas[1].clone();
        (ca.id, ca.key_blob) = (id(100 + number), vec![number; 16_000]);
        tables.cas.push(ca);
    }
    publish(directory.path(), &tables, &accounts(), &info()).unwrap();
    assert_eq!(manifest(directory.path()).base.generation, 2);
}

#[test]
fn a_base_that_cannot_be_built_on_is_replaced() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 6] = [
        ("it vanished", |access| fs::remove_file(access.join("base.1")).unwrap()),
        ("the manifest vanished", |access| fs::remove_file(access.join("manifest")).unwrap()),
        ("others may write it", |access| {
            fs::set_permissions(access.join("base.1"), Permissions::from_mode(0o666)).unwrap();
        }),
        ("the helper may not read it", |access| {
            fs::set_permissions(access.join("base.1"), Permissions::from_mode(0o600)).unwrap();
        }),
        ("a second name leads to it", |access| {
            fs::hard_link(access.join("base.1"), access.join("second")).unwrap();
        }),
        ("it was cut", |access| {
            let bytes = fs::read(access.join("base.1")).unwrap();
            fs::write(access.join("base.1"), &bytes[..bytes.len() - 4096]).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let directory = quick_directory();
        publish_large(directory.path());
        harm(&directory.path().join("access"));
        let manifest = revoke(directory.path(), &mut large(), 100);
        assert_eq!((manifest.base.generation, manifest.delta), (2, None), "{what}");
    }
}

#[test]
fn a_base_of_another_salt_realm_host_or_group_is_replaced() {
    let mut others = vec![info(), info(), info()];
    others[0].salt = Salt([1; 16]);
    others[1].facts.realm.0[0] ^= 1;
    others[2].facts.host = id(1);
    if geteuid().is_root() {
        others.push(PublishInfo { access_group: Some(Gid(12_345)), ..info() });
    }
    for other in others {
        let directory = quick_directory();
        publish_large(directory.path());
        publish(directory.path(), &large(), &accounts(), &other).unwrap();
        let manifest = manifest(directory.path());
        assert_eq!((manifest.base.generation, manifest.delta), (2, None), "{other:?}");
    }
}

#[test]
fn a_flipped_bit_in_any_part_of_the_base_makes_another_base() {
    let directory = quick_directory();
    publish_large(directory.path());
    let mut tables = large();
    let pages = usize::try_from(manifest(directory.path()).base.bytes / PAGE).unwrap();
    for page in [0, 1, 2, pages / 2, pages - 3, pages - 1] {
        let base = manifest(directory.path()).base.generation;
        let path = directory.path().join(format!("access/base.{base}"));
        let mut bytes = fs::read(&path).unwrap();
        bytes[page * 4096 + 20] ^= 4;
        fs::write(&path, bytes).unwrap();
        let manifest = revoke(directory.path(), &mut tables, u64::try_from(page).unwrap() + 1_000);
        assert_eq!((manifest.base.generation, manifest.delta), (base + 1, None), "page {page}");
    }
}

/// Whoever can write as root can write right checksums too. That is no attack that could be withstood, but neither are its results kept.
#[test]
fn records_changed_in_the_base_by_somebody_are_put_right_by_the_next_delta() {
    let directory = quick_directory();
    publish_large(directory.path());
    let path = directory.path().join("access/base.1");
    let mut forged = fs::read(&path).unwrap();
    // The table directory: 24 bytes for each table from byte 128; table 13, denied keys.
    let entry = 128 + 12 * 24;
    assert_eq!(forged[entry], 13);
    let first = usize::try_from(u32::from_be_bytes(*forged[entry + 4..].first_chunk().unwrap())).unwrap();
    // Another key is denied instead: still in order.
    forged[first * 4096 + 15] ^= 1;
    seal(&mut forged, 1, first);
    fs::write(&path, &forged).unwrap();
    name_header(directory.path(), &forged, 40);
    let denied = || {
        let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
        large().revoked_keys.iter().filter(|(key, _)| snapshot.key_revoked(*key).unwrap().is_some()).count()
    };
    assert_eq!(denied(), 1, "the forgery is believed");
    publish(directory.path(), &large(), &accounts(), &info()).unwrap();
    assert_eq!(denied(), 2);
    let manifest = manifest(directory.path());
    assert_eq!((manifest.base.generation, manifest.delta.map(|delta| delta.generation)), (1, Some(2)));
}

#[test]
fn base_and_delta_stay_for_readers_until_nobody_needs_them_and_no_longer() {
    let directory = quick_directory();
    let at = |now_unix_secs| PublishInfo { now_unix_secs, ..info() };
    let names = || {
        let entries = fs::read_dir(directory.path().join("access")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let mut tables = large();
    publish(directory.path(), &tables, &accounts(), &at(0)).unwrap();
    for serial in 0..3 {
        tables.serials[0].1.push(Serial(serial + 100));
        publish(directory.path(), &tables, &accounts(), &at(0)).unwrap();
    }
    assert_eq!(names(), ["base.1", "delta.2", "delta.3", "delta.4", "manifest"]);
    refresh(directory.path(), 4, &at(u64::MAX)).unwrap();
    assert_eq!(names(), ["base.1", "delta.4", "manifest"]);
    publish_base(directory.path(), &tables, &accounts(), &at(u64::MAX)).unwrap();
    assert_eq!(names(), ["base.6", "manifest"]);
}

#[test]
fn accounts_get_deltas_of_their_own() {
    let directory = quick_directory();
    let mut accounts = accounts();
    let pattern = accounts.accounts[0].clone();
    accounts.accounts.extend((0..5_000).map(|number| {
        let mut account = pattern.clone();
        (account.uid.0, account.gid.0) = (1_950_000_000 + number, 1_950_000_000 + number);
        account.login = format!("user{number}");
        account
    }));
    publish(directory.path(), &access(), &accounts, &info()).unwrap();
    accounts.accounts[1].state = UserState::Removed;
    publish(directory.path(), &access(), &accounts, &info()).unwrap();
    let read = countersign_snapshot::Accounts::open(directory.path(), trust()).unwrap();
    assert_eq!(read.account(b"bob").unwrap().as_ref(), Some(&accounts.accounts[1]));
    assert_eq!(read.account_by_uid(accounts.accounts[1].uid).unwrap().unwrap().state, UserState::Removed);
    assert_eq!(read.account(b"user17").unwrap().unwrap().display_name, pattern.display_name);
    // The header, a page for the name, one for the number, one for the name for people.
    let manifest = read.manifest();
    assert_eq!((manifest.base.generation, manifest.delta.map(|delta| delta.bytes)), (1, Some(4 * PAGE)));
    // What is below a delta must be readable by all, as what is published anew is.
    let base = directory.path().join("accounts/base.1");
    fs::set_permissions(&base, Permissions::from_mode(0o600)).unwrap();
    publish(directory.path(), &access(), &accounts, &info()).unwrap();
    let manifest = countersign_snapshot::Accounts::open(directory.path(), trust()).unwrap().manifest().clone();
    assert_eq!(manifest.base.generation, 3);
    if geteuid().is_root() {
        chown(directory.path().join("accounts/base.3"), Some(2001), None).unwrap();
        publish(directory.path(), &access(), &accounts, &info()).unwrap();
        let read = countersign_snapshot::Accounts::open(directory.path(), trust()).unwrap();
        assert_eq!(read.manifest().base.generation, 4);
    }
}
