//! Each case, and many at random: OpenSSH and our own reader must say the same as was asked for.

use std::collections::BTreeSet;

use countersign_certificate::fingerprint_sha256;
use countersign_krl::{KeyError, Krl, KrlError, Revoked, RevokedCertificates};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Bench, blob, key, off_the_curve};

fn krl(ca_blob: &[u8], serials: impl IntoIterator<Item = u64>, key_ids: &[&str]) -> Krl {
    let certificates = RevokedCertificates {
        ca_blob: ca_blob.to_vec(),
        serials: serials.into_iter().collect(),
        key_ids: key_ids.iter().map(|key_id| (*key_id).to_owned()).collect(),
    };
    Krl {
        version: 7,
        generated_secs: 1_800_000_000,
        comment: "block 9".to_owned(),
        certificates: vec![certificates],
        ..Krl::default()
    }
}

#[test]
fn an_empty_list_is_44_bytes_and_revokes_nothing() {
    let bench = Bench::new();
    let (ca, subject) = (key(), key());
    let empty = Krl { version: 1, ..Krl::default() }.encode().unwrap();
    assert_eq!(empty.len(), 44);
    let path = bench.write("krl", &empty);
    let files = [bench.public("key.pub", &subject), bench.certificate(&ca, &subject, 5, "alice/1")];
    assert!(bench.revoked(&path, &files).values().all(|revoked| !revoked));
}

#[test]
fn serials_key_ids_and_keys_are_revoked_and_their_neighbours_are_not() {
    let bench = Bench::new();
    let (ca, other_ca, subject, lost) = (key(), key(), key(), key());
    let serials =
        [1, 2, 3, 1_000, 1_000_000, u64::MAX].into_iter().chain(5_000..9_000).chain((20_000..30_000).step_by(3));
    let mut list = krl(&blob(&ca), serials, &["alice/lost", "bob/5"]);
    list.keys_sha256.push(fingerprint_sha256(&blob(&lost)));
    let bytes = list.encode().unwrap();
    let (path, ours) = (bench.write("krl", &bytes), Revoked::read(&bytes).unwrap());
    let mut files = Vec::new();
    let mut wanted = Vec::new();
    let edges = [
        1,
        3,
        4,
        999,
        1_000,
        1_001,
        4_999,
        5_000,
        8_999,
        9_000,
        20_000,
        20_001,
        29_999,
        30_000,
        u64::MAX - 1,
        u64::MAX,
    ];
    for serial in edges {
        let revoked = [1, 3, 1_000, 5_000, 8_999, 20_000, 29_999, u64::MAX].contains(&serial);
        files.push(bench.certificate(&ca, &subject, serial, "alice/1"));
        wanted.push(revoked);
        assert_eq!(ours.certificate(&blob(&ca), serial, b"alice/1"), revoked, "{serial}");
        // Another CA's certificates have other serials.
        files.push(bench.certificate(&other_ca, &subject, serial, "other"));
        wanted.push(false);
        assert!(!ours.certificate(&blob(&other_ca), serial, b"other"), "{serial}");
    }
    files.push(bench.certificate(&ca, &subject, 77, "alice/lost"));
    wanted.push(true);
    files.push(bench.certificate(&ca, &subject, 78, "alice/los"));
    wanted.push(false);
    // A lost key: plain, inside a certificate, and as a CA.
    files.extend([
        bench.public("lost.pub", &lost),
        bench.certificate(&ca, &lost, 79, "a"),
        bench.certificate(&lost, &subject, 80, "b"),
    ]);
    wanted.extend([true, true, true]);
    files.push(bench.public("subject.pub", &subject));
    wanted.push(false);
    let answers = bench.revoked(&path, &files);
    for (file, wanted) in files.iter().zip(wanted) {
        assert_eq!(answers.get(file), Some(&wanted), "{}", file.display());
    }
}

/// `COUNTERSIGN_KRL_CASES` random certificates (100,000 for the whole), 1,000 where it is not set.
#[test]
fn random_certificates_are_judged_as_openssh_judges_them() {
    let cases: u64 = std::env::var("COUNTERSIGN_KRL_CASES").ok().map_or(1_000, |count| count.parse().unwrap());
    let bench = Bench::new();
    let (ca, subject) = (key(), key());
    let mut runner = TestRunner::deterministic();
    let mut draw = |strategy: BoxedStrategy<u64>| strategy.new_tree(&mut runner).unwrap().current();
    let near =
        || prop_oneof![1..3_000_u64, any::<u64>().prop_map(|serial| serial.max(1)), (u64::MAX - 99)..=u64::MAX].boxed();
    let revoked: BTreeSet<u64> = (0..2_000).map(|_| draw(near())).collect();
    let bytes = krl(&blob(&ca), revoked.iter().copied(), &[]).encode().unwrap();
    let (path, ours) = (bench.write("krl", &bytes), Revoked::read(&bytes).unwrap());
    // Half of them revoked, half drawn from the same neighbourhoods.
    let listed: Vec<u64> = revoked.iter().copied().collect();
    let drawn = (0..cases).map(|case| {
        let index = usize::try_from(draw((0..u64::MAX).boxed()) % 2_000).unwrap() % listed.len();
        if case % 2 == 0 { listed[index] } else { draw(near()) }
    });
    let serials: BTreeSet<u64> = drawn.collect();
    for some in serials.iter().copied().collect::<Vec<_>>().chunks(5_000) {
        let files: Vec<_> = some.iter().map(|serial| bench.certificate(&ca, &subject, *serial, "x")).collect();
        let answers = bench.revoked(&path, &files);
        for (serial, file) in some.iter().zip(&files) {
            let wanted = revoked.contains(serial);
            assert_eq!(answers.get(file), Some(&wanted), "{serial}");
            assert_eq!(ours.certificate(&blob(&ca), *serial, b"x"), wanted, "{serial}");
            std::fs::remove_file(file).unwrap();
        }
    }
}

/// 100,000 random serials in shapes of every kind: OpenSSH lists just those.
#[test]
fn openssh_lists_the_very_serials_that_were_asked_for() {
    let bench = Bench::new();
    let ca = key();
    let cluster = (any::<u64>(), 1..400_u64, 1..5_u64, 0..40_u64);
    let strategy = (prop::collection::vec(cluster, 0..400), prop::collection::vec(any::<u64>(), 0..5_000));
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(Default::default()),
    );
    let mut listed = 0;
    while listed < 100_000 {
        let (clusters, singles) = strategy.new_tree(&mut runner).unwrap().current();
        let mut serials: BTreeSet<u64> = singles.into_iter().collect();
        for (start, count, step, skip) in clusters {
            let numbers = (0..count).filter(|index| skip == 0 || index % (skip + 1) != 0);
            serials.extend(numbers.filter_map(|index| start.checked_add(index * step)));
        }
        serials.remove(&0);
        listed += serials.len();
        let path = bench.write("krl", krl(&blob(&ca), serials.iter().copied(), &[]).encode().unwrap());
        let found = bench.serials(&path);
        assert!(found == serials, "{} serials asked for, {} listed", serials.len(), found.len());
    }
}

/// Serials of a bitmap of `bits` bits, every second of them.
fn every_second(first: u64, bits: u64) -> BTreeSet<u64> {
    let last = first.checked_add(bits).unwrap().checked_sub(1).unwrap();
    (first..=last).step_by(2).chain([last]).collect()
}

#[test]
fn no_bitmap_is_longer_than_openssh_reads() {
    let bench = Bench::new();
    let (ca, other) = (key(), key());
    let just_within = every_second(1_000, 16_384);
    let bytes = krl(&blob(&ca), just_within.iter().copied(), &[]).encode().unwrap();
    assert!(bytes.len() < 2_400, "one bitmap: {}", bytes.len());
    let shapes = [
        just_within,
        every_second(1_000, 16_385),
        // 63 apart: a bitmap costs just less than a list, and would have 18,838 bits.
        (0..300).map(|index| 5_000 + index * 63).collect(),
        // Short runs that are no ranges by themselves, the last one over the end.
        (0..60).flat_map(|run| (0..300).map(move |index| 1 + run * 301 + index)).collect(),
        every_second(u64::MAX - 40_000, 40_000),
    ];
    for serials in shapes {
        let path = bench.write("krl", krl(&blob(&ca), serials.iter().copied(), &[]).encode().unwrap());
        assert!(bench.serials(&path) == serials, "{} serials from {:?}", serials.len(), serials.first());
        // Where sshd refuses the list, everybody is revoked.
        let answers = bench.revoked(&path, &[bench.public("other.pub", &other)]);
        assert!(answers.values().all(|revoked| !revoked));
    }
}

#[test]
fn dense_serials_cost_a_fraction_of_a_naive_list_and_random_ones_no_more() {
    let ca = key();
    let counted = krl(&blob(&ca), 1..100_001, &[]).encode().unwrap();
    assert!(counted.len() < 300, "{}", counted.len());
    let holes = krl(&blob(&ca), (1..100_001).filter(|serial| serial % 7 != 0), &[]).encode().unwrap();
    assert!(holes.len() < 100_000 / 8 + 1_000, "{}", holes.len());
    let random = (1..10_001_u64).map(|serial| serial.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let listed = krl(&blob(&ca), random, &[]).encode().unwrap();
    assert!(listed.len() < 10_000 * 8 + 300, "{}", listed.len());
}

#[test]
fn what_sshd_would_take_in_another_sense_is_refused() {
    let ca = blob(&key());
    assert!(matches!(krl(&[], [5], &[]).encode(), Err(KrlError::NoCa)));
    assert!(matches!(krl(b"garbage", [5], &[]).encode(), Err(KrlError::CaKey(_))));
    assert!(matches!(krl(&[&ca[..], b"x"].concat(), [5], &[]).encode(), Err(KrlError::CaKey(_))));
    assert!(matches!(krl(&ca, [0], &[]).encode(), Err(KrlError::SerialZero)));
    assert!(matches!(krl(&ca, [5], &["a\0b"]).encode(), Err(KrlError::KeyId)));
    assert!(matches!(krl(&ca, [5], &[""]).encode(), Err(KrlError::KeyId)));
    let nul = Krl { comment: "block\09".to_owned(), ..Krl::default() };
    assert!(matches!(nul.encode(), Err(KrlError::Comment)));
    assert!(matches!(krl(&off_the_curve(), [5], &[]).encode(), Err(KrlError::CaKey(KeyError::Point))));
    // A CA of which nothing is revoked takes no section at all: an empty one would mean nothing, or everything, to somebody.
    assert_eq!(krl(&ca, [], &[]).encode().unwrap().len(), 44 + "block 9".len());
}
