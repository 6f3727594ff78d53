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
    let mut bytes = Krl::default().encode().unwrap();
    let mut section = vec![0; 8];
    section.push(0x21);
    section.extend(16_u32.to_be_bytes());
    section.extend(0_u64.to_be_bytes());
    section.extend(u64::MAX.to_be_bytes());
    bytes.push(1);
    bytes.extend(u32::try_from(section.len()).unwrap().to_be_bytes());
    bytes.extend(section);
    let revoked = Revoked::read(&bytes).unwrap();
    assert!(revoked.certificate(b"any CA", 1, b"x") && revoked.certificate(b"another", u64::MAX, b"x"));
    assert!(!revoked.certificate(b"any CA", 0, b"x"), "serial 0 means none");
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
