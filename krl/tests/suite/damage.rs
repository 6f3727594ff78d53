//! Reading what nobody should have written.

use countersign_krl::{Krl, Revoked, RevokedCertificates};
use proptest::prelude::*;

use crate::support::{Bench, blob, key, keygen};

fn whole() -> Vec<u8> {
    let serials = (1..4_000).chain((10_000..12_000).step_by(2)).chain([u64::MAX]).collect();
    let certificates = vec![RevokedCertificates { ca_blob: blob(&key()), serials, key_ids: vec!["a".to_owned()] }];
    Krl { version: 1, generated_secs: 2, comment: "c".to_owned(), certificates, keys_sha256: vec![[7; 32]] }
        .encode()
        .unwrap()
}

#[test]
fn a_list_cut_anywhere_is_refused_unless_a_section_ends_there() {
    let bytes = whole();
    let readable = (0..bytes.len()).filter(|length| Revoked::read(&bytes[..*length]).is_ok()).count();
    // After the header, and between its two sections.
    assert_eq!(readable, 2);
}

#[test]
fn lists_by_openssh_are_read_and_mean_the_same() {
    let bench = Bench::new();
    let (ca, subject) = (key(), key());
    let ca_path = bench.public("ca.pub", &ca);
    let spec =
        "serial: 5\nserial: 10-20000\nserial: 30001\nserial: 30003\nserial: 18446744073709551615\nid: alice/lost\n";
    let spec = format!("{spec}hash: {}\n", ca.public_key().fingerprint(ssh_key::HashAlg::Sha256));
    let spec = format!("{spec}key: {}\n", subject.public_key().to_openssh().unwrap());
    let (spec, path) = (bench.write("spec", spec), bench.path("krl"));
    let made =
        keygen(|command| command.arg("-k").arg("-f").arg(&path).arg("-z").arg("3").arg("-s").arg(ca_path).arg(spec));
    assert!(made.status.success(), "{made:?}");
    let revoked = Revoked::read(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(revoked.version, 3);
    for (serial, wanted) in [
        (5, true),
        (6, false),
        (9, false),
        (10, true),
        (20_000, true),
        (20_001, false),
        (30_001, true),
        (30_002, false),
        (u64::MAX, true),
    ] {
        assert_eq!(revoked.certificate(&blob(&ca), serial, b"x"), wanted, "{serial}");
    }
    assert!(revoked.certificate(&blob(&ca), 6, b"alice/lost") && !revoked.certificate(&blob(&subject), 5, b"x"));
    assert!(revoked.key_sha256(&countersign_certificate::fingerprint_sha256(&blob(&ca))));
}

#[test]
fn a_range_over_all_serials_costs_no_memory() {
    let bytes = with_pieces(&[(0x21, [1_u64.to_be_bytes(), u64::MAX.to_be_bytes()].concat())]);
    let revoked = Revoked::read(&bytes).unwrap();
    assert!(revoked.certificate(b"any CA", 1, b"x") && revoked.certificate(b"another", u64::MAX, b"x"));
    assert!(!revoked.certificate(b"any CA", 0, b"x"), "serial 0 means none");
}

/// A list with a section about every CA's certificates, made of these pieces.
fn with_pieces(pieces: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut section = vec![0; 8];
    for (kind, data) in pieces {
        section.push(*kind);
        section.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        section.extend(data);
    }
    let mut bytes = Krl::default().encode().unwrap();
    bytes.push(1);
    bytes.extend(u32::try_from(section.len()).unwrap().to_be_bytes());
    bytes.extend(section);
    bytes
}

fn bitmap(first: u64, number: &[u8]) -> (u8, Vec<u8>) {
    let length = u32::try_from(number.len()).unwrap().to_be_bytes();
    (0x22, [&first.to_be_bytes()[..], &length, number].concat())
}

#[test]
fn what_openssh_refuses_our_reader_refuses() {
    let bench = Bench::new();
    let path = bench.public("key.pub", &key());
    let longest = [&[0, 0x80][..], &[0x55; 2047]].concat();
    let zero = 0_u64.to_be_bytes().to_vec();
    let nul_comment = {
        let mut bytes = Krl { comment: "a_b".to_owned(), ..Krl::default() }.encode().unwrap();
        let at = bytes.len() - 2;
        bytes[at] = 0;
        bytes
    };
    let lists = [
        ("the longest bitmap", with_pieces(&[bitmap(1, &longest)]), true),
        ("a byte more", with_pieces(&[bitmap(1, &[&[1][..], &longest[1..]].concat())]), false),
        ("another zero", with_pieces(&[bitmap(1, &[&[0][..], &longest].concat())]), false),
        ("serial 0 in a list", with_pieces(&[(0x20, zero.clone())]), false),
        ("serial 0 in a range", with_pieces(&[(0x21, [zero, 5_u64.to_be_bytes().to_vec()].concat())]), false),
        ("serial 0 in a bitmap", with_pieces(&[bitmap(0, &[1])]), false),
        ("a bitmap from 0 without it", with_pieces(&[bitmap(0, &[2])]), true),
        ("a NUL in a key id", with_pieces(&[(0x23, b"\0\0\0\x03a\0b".to_vec())]), false),
        ("a NUL in the comment", nul_comment, false),
    ];
    for (what, bytes, good) in lists {
        let list = bench.write("krl", &bytes);
        let openssh = keygen(|command| command.arg("-Q").arg("-f").arg(list).arg(&path));
        assert_eq!(openssh.status.success(), good, "OpenSSH: {what}: {openssh:?}");
        assert_eq!(Revoked::read(&bytes).is_ok(), good, "{what}");
    }
}

#[test]
fn a_small_list_of_many_ranges_does_not_fill_the_memory() {
    // 8,192 ranges in two kilobytes, over and over.
    let pieces: Vec<_> = (0..128).map(|index| bitmap(1 + index * 16_384, &[0x55; 2048])).collect();
    // With the CA these are too many by one.
    let error = Revoked::read(&with_pieces(&pieces)).unwrap_err();
    assert!(error.to_string().contains("at most 1,048,576"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..6)) {
        drop(Revoked::read(&bytes));
        bytes = whole();
        for (index, flip) in flips {
            let index = index.index(bytes.len());
            bytes[index] ^= flip;
        }
        drop(Revoked::read(&bytes));
    }
}
