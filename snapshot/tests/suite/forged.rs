//! Files whose checksums are right and whose content is not: what a faulty publisher or a faulty disk controller could leave. They are
//! read without a panic, an overflow, a read beyond their end or an endless search; the answer may be wrong, since only root writes
//! them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use countersign_snapshot::{
    OpenError, PublishError, PublishInfo, ReadError, Snapshot, publish, publish_delta, refresh,
};
use sha2::{Digest as _, Sha256};

use crate::damage::{answers, published};
use crate::support::{access, accounts, id, info, trust};

const PAGE: usize = 4096;
const BLOB_BYTES_OFFSET: usize = 112;

/// Gives page `number` of a file of `generation` the checksum of what it holds now.
pub(crate) fn seal(bytes: &mut [u8], generation: u64, number: usize) {
    let page = &mut bytes[number * PAGE..][..PAGE];
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_be_bytes());
    hasher.update(&u32::try_from(number).unwrap().to_be_bytes());
    hasher.update(&page[..PAGE - 4]);
    page[PAGE - 4..].copy_from_slice(&hasher.finalize().to_be_bytes());
}

/// Makes the manifest name the header that a file has now; `offset` is where the manifest keeps its checksum.
pub(crate) fn name_header(directory: &Path, file: &[u8], offset: usize) {
    let path = directory.join("access/manifest");
    let mut manifest = fs::read(&path).unwrap();
    manifest[offset..offset + 4].copy_from_slice(&file[PAGE - 4..PAGE]);
    let checksum = crc32fast::hash(&manifest[..508]);
    manifest[508..].copy_from_slice(&checksum.to_be_bytes());
    fs::write(&path, manifest).unwrap();
}

/// The file with its generation, and where the manifest keeps its header's checksum.
const FILES: [(&str, u64, usize); 2] = [("base.1", 1, 40), ("delta.2", 2, 64)];

/// Numbers from a seed.
struct Numbers(Vec<u8>);

impl Numbers {
    fn of(seed: u32) -> Self {
        Self((0..4_u32).flat_map(|part| Sha256::digest([seed.to_be_bytes(), part.to_be_bytes()].concat())).collect())
    }

    fn next(&mut self, below: usize) -> usize {
        let bytes = self.0.split_off(self.0.len() - 4);
        usize::try_from(u32::from_be_bytes(*bytes.first_chunk().unwrap())).unwrap() % below
    }
}

#[test]
fn forged_files_with_right_checksums_are_read_without_falling_over() {
    let directory = published();
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..800 {
        let mut numbers = Numbers::of(seed);
        let (name, generation, offset) = FILES[numbers.next(FILES.len())];
        let path = directory.path().join("access").join(name);
        let whole = fs::read(&path).unwrap();
        let mut forged = whole.clone();
        for _ in 0..=numbers.next(3) {
            // Every third time in the header's fields and table directory.
            let page = if numbers.next(3) == 0 { 0 } else { numbers.next(whole.len() / PAGE) };
            let at = if page == 0 { numbers.next(500) } else { numbers.next(PAGE - 16) };
            let length = [1, 2, 4, 8, 16][numbers.next(5)];
            let value = [0x00, 0x01, 0x7f, 0x80, 0xff][numbers.next(5)];
            forged[page * PAGE + at..][..length].fill(value);
            seal(&mut forged, generation, page);
        }
        fs::write(&path, &forged).unwrap();
        name_header(directory.path(), &forged, offset);
        let begun = Instant::now();
        match Snapshot::open(directory.path(), trust()) {
            Ok(snapshot) => {
                opened += 1;
                answers(&snapshot);
                let _ = snapshot.verify();
            }
            Err(OpenError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("seed {seed}: {other}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "seed {seed} took {:?}", begun.elapsed());
        fs::write(&path, &whole).unwrap();
        name_header(directory.path(), &whole, offset);
    }
    assert!(opened >= 100 && refused >= 100, "both happen: {opened} opened, {refused} refused");
    Snapshot::open(directory.path(), trust()).unwrap().verify().unwrap();
}

#[test]
fn a_blob_beyond_the_blob_region_is_corrupt_whatever_its_reference_says() {
    let directory = published();
    let (name, generation, _) = FILES[1];
    let path = directory.path().join("access").join(name);
    let whole = fs::read(&path).unwrap();
    // The reference ends the grant's record of 17 + 46 bytes.
    let record = find_grant(&whole);
    for (offset, length) in
        [(u64::MAX, 1_u16), (u64::MAX, u16::MAX), (0, u16::MAX), (0, 16_384), (1 << 40, 5), (4092, 4092)]
    {
        let mut forged = whole.clone();
        let reference = record + 17 + 46 - 10;
        forged[reference..][..8].copy_from_slice(&offset.to_be_bytes());
        forged[reference + 8..][..2].copy_from_slice(&length.to_be_bytes());
        seal(&mut forged, generation, record / PAGE);
        fs::write(&path, &forged).unwrap();
        let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
        let found = snapshot.grant(id(13));
        assert!(matches!(found, Err(ReadError::Corrupt { .. })), "{length} bytes at {offset}: {found:?}");
    }
}

/// Where the delta's record of the one grant that it puts begins, by the table directory of the header: tables of 24 bytes from byte 128.
fn find_grant(delta: &[u8]) -> usize {
    let number = |at: usize, size: usize| {
        delta[at..][..size].iter().fold(0_usize, |number, byte| number * 256 + usize::from(*byte))
    };
    let entry = (128..PAGE).step_by(24).find(|at| delta[*at] == 3).unwrap();
    assert_eq!(number(entry + 2, 2), 63, "bytes of a grant in a delta");
    let first = number(entry + 4, 4) * PAGE;
    // The other one is a deletion.
    assert_eq!(number(entry + 16, 8), 2, "grants in the delta");
    [first, first + 63].into_iter().find(|record| delta[record + 16] == 1).unwrap()
}

#[test]
fn a_header_that_claims_more_blob_bytes_than_there_are_pages_is_refused() {
    let directory = published();
    for (name, generation, offset) in FILES {
        let path = directory.path().join("access").join(name);
        let whole = fs::read(&path).unwrap();
        for claim in [u64::MAX, u64::MAX - 4091, 1 << 32, 1 << 20] {
            let mut forged = whole.clone();
            forged[BLOB_BYTES_OFFSET..][..8].copy_from_slice(&claim.to_be_bytes());
            seal(&mut forged, generation, 0);
            fs::write(&path, &forged).unwrap();
            name_header(directory.path(), &forged, offset);
            let error = Snapshot::open(directory.path(), trust()).err().unwrap();
            assert!(matches!(error, OpenError::Corrupt { .. }), "{claim}: {error}");
        }
        fs::write(&path, &whole).unwrap();
        name_header(directory.path(), &whole, offset);
    }
}

#[test]
fn a_header_that_contradicts_the_manifest_or_itself_is_refused_though_its_checksum_is_right() {
    let directory = published();
    // Generation, base's generation, salt, realm, host, length, first page of the blobs, first page of the first table.
    let fields = [(16, 8), (24, 8), (32, 16), (48, 32), (80, 16), (96, 8), (104, 4), (132, 4)];
    for (name, generation, offset) in FILES {
        let path = directory.path().join("access").join(name);
        let whole = fs::read(&path).unwrap();
        for (field, size) in fields {
            let mut forged = whole.clone();
            forged[field + size - 1] ^= 1;
            seal(&mut forged, generation, 0);
            fs::write(&path, &forged).unwrap();
            name_header(directory.path(), &forged, offset);
            let error = Snapshot::open(directory.path(), trust()).err().unwrap();
            assert!(matches!(error, OpenError::Corrupt { .. }), "{name}, field at {field}: {error}");
        }
        // A header that would do, but is not the one that the manifest names: one record less in the first table.
        let mut forged = whole.clone();
        forged[128 + 23] -= 1;
        seal(&mut forged, generation, 0);
        fs::write(&path, &forged).unwrap();
        name_header(directory.path(), &whole, offset);
        let error = Snapshot::open(directory.path(), trust()).err().unwrap();
        assert!(matches!(error, OpenError::Corrupt { expected: "the header that the manifest names", .. }), "{error}");
        name_header(directory.path(), &forged, offset);
        Snapshot::open(directory.path(), trust()).unwrap();
        fs::write(&path, &whole).unwrap();
        name_header(directory.path(), &whole, offset);
    }
}

#[test]
fn a_manifest_whose_times_contradict_each_other_is_refused() {
    let directory = published();
    let path = directory.path().join("access/manifest");
    let whole = fs::read(&path).unwrap();
    // Valid until, max staleness, latest block's time and number.
    for (field, value) in [(192, 1_800_000_301), (216, 299), (216, u64::MAX), (168, 1_799_999_999), (160, 1_199)] {
        let mut forged = whole.clone();
        forged[field..field + 8].copy_from_slice(&u64::to_be_bytes(value));
        let checksum = crc32fast::hash(&forged[..508]);
        forged[508..].copy_from_slice(&checksum.to_be_bytes());
        fs::write(&path, forged).unwrap();
        let error = Snapshot::open(directory.path(), trust()).err().unwrap();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{value} at {field}: {error}");
    }
}

#[test]
fn audiences_of_different_generations_are_not_declared_fresh() {
    let directory = tempfile::tempdir().unwrap();
    // Nothing is old enough to be removed.
    let info = PublishInfo { now_unix_secs: 0, ..info() };
    publish(directory.path(), &access(), &accounts(), &info).unwrap();
    let manifest = directory.path().join("access/manifest");
    let first = fs::read(&manifest).unwrap();
    publish(directory.path(), &access(), &accounts(), &info).unwrap();
    // As if the second publication had ended after accounts.
    fs::write(&manifest, first).unwrap();
    let error = refresh(directory.path(), 1, &info).unwrap_err();
    assert!(matches!(error, PublishError::Base { .. }), "{error}");
    let error = refresh(directory.path(), 2, &info).unwrap_err();
    assert!(matches!(error, PublishError::Base { .. }), "{error}");
}

#[test]
fn files_of_an_earlier_generation_do_not_pass_for_the_one_that_the_manifest_names() {
    let directory = tempfile::tempdir().unwrap();
    publish(directory.path(), &access(), &accounts(), &info()).unwrap();
    let old = fs::read(directory.path().join("access/base.1")).unwrap();
    let mut without = access();
    without.revoked_keys.clear();
    let generation = publish(directory.path(), &without, &accounts(), &info()).unwrap();
    assert_eq!(generation, 2);
    publish_delta(directory.path(), &access(), &accounts(), &info()).unwrap();
    fs::write(directory.path().join("access/base.2"), old).unwrap();
    let error = Snapshot::open(directory.path(), trust()).err().unwrap();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}
