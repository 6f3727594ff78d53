//! What is not exactly one certificate is none: every truncation, flips, and each field on its own.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a vector file of another shape is a failed test")]

use std::path::Path;

use countersign_certificate::{
    Certificate, CertificateError, Id, LogProof, MAX_CERTIFICATE_BYTES, MAX_PRINCIPALS, ToBeSigned, insert_log_proof,
};
use proptest::prelude::*;
use serde_json::Value;

/// The certificates that ssh-keygen made for the vectors.
fn certificates() -> Vec<Vec<u8>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/certificate.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let cases = vectors["ssh-keygen"].as_array().unwrap().clone();
    let digits = |case: &Value| case["certificate"].as_str().unwrap().to_owned();
    let bytes = |text: String| text.as_bytes().chunks(2).map(hex_pair).collect();
    cases.iter().map(digits).map(bytes).collect()
}

fn hex_pair(pair: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
}

fn string(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [&length.to_be_bytes()[..], content].concat()
}

fn option(name: &str, data: &[u8]) -> Vec<u8> {
    [string(name.as_bytes()), string(data)].concat()
}

/// A certificate to break: each field as the bytes that stand there.
#[derive(Clone)]
struct Draft {
    kind: Vec<u8>,
    nonce: Vec<u8>,
    key: Vec<u8>,
    cert_type: u32,
    key_id: Vec<u8>,
    principals: Vec<u8>,
    critical: Vec<u8>,
    extensions: Vec<u8>,
    reserved: Vec<u8>,
    signature_key: Vec<u8>,
    signature: Vec<u8>,
}

impl Draft {
    fn new() -> Self {
        Self {
            kind: b"ssh-ed25519-cert-v01@openssh.com".to_vec(),
            nonce: vec![7; 32],
            key: string(&[1; 32]),
            cert_type: 1,
            key_id: b"alice".to_vec(),
            principals: string(b"deploy"),
            critical: Vec::new(),
            extensions: option("permit-pty", b""),
            reserved: Vec::new(),
            signature_key: [string(b"ssh-ed25519"), string(&[2; 32])].concat(),
            signature: [string(b"ssh-ed25519"), string(&[3; 64])].concat(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        [
            string(&self.kind),
            string(&self.nonce),
            self.key.clone(),
            9_u64.to_be_bytes().to_vec(),
            self.cert_type.to_be_bytes().to_vec(),
            string(&self.key_id),
            string(&self.principals),
            100_u64.to_be_bytes().to_vec(),
            200_u64.to_be_bytes().to_vec(),
            string(&self.critical),
            string(&self.extensions),
            string(&self.reserved),
            string(&self.signature_key),
            string(&self.signature),
        ]
        .concat()
    }

    fn refusal(&self) -> String {
        Certificate::parse(&self.bytes()).unwrap_err().to_string()
    }
}

#[test]
fn a_certificate_cut_off_anywhere_or_with_a_byte_more_is_refused() {
    for blob in certificates() {
        for end in 0..blob.len() {
            assert!(Certificate::parse(&blob[..end]).is_err(), "{end} of {} bytes", blob.len());
        }
        let refusal = Certificate::parse(&[&blob[..], &[0]].concat()).unwrap_err();
        assert_eq!(refusal, CertificateError::TrailingBytes { field: "certificate", count: 1 });
        let signed = Certificate::parse(&blob).unwrap().to_be_signed.bytes().to_vec();
        for end in 0..signed.len() {
            assert!(ToBeSigned::parse(&signed[..end]).is_err(), "{end} of {} signed bytes", signed.len());
        }
        assert!(ToBeSigned::parse(&blob).is_err());
    }
}

#[test]
fn the_draft_that_the_next_tests_break_is_accepted() {
    let bytes = Draft::new().bytes();
    let parsed = Certificate::parse(&bytes).unwrap();
    assert_eq!(parsed.principals, ["deploy"]);
    assert_eq!(parsed.pre_certificate(), parsed.bytes());
    assert_eq!(parsed.ttl_secs(), Some(70));
}

#[test]
fn each_broken_field_is_refused_and_named() {
    let draft = Draft::new();
    let long_nonce = vec![0; 65];
    let ed25519 = |key: &[u8]| [string(b"ssh-ed25519"), string(key)].concat();
    let many_principals = string(b"a").repeat(MAX_PRINCIPALS + 1);
    let cases: [(Draft, &str); 24] = [
        (
            Draft { kind: b"ssh-ed25519".to_vec(), ..draft.clone() },
            "certificate type is of type \"ssh-ed25519\", which is not accepted there",
        ),
        (
            Draft { kind: b"ssh-dss-cert-v01@openssh.com".to_vec(), ..draft.clone() },
            "certificate type is of type \"ssh-dss-cert-v01@openssh.com\", which is not accepted there",
        ),
        (
            Draft { kind: b"\x1b\"".to_vec(), ..draft.clone() },
            "certificate type is of type \"\\x1b\\\"\", which is not accepted there",
        ),
        (Draft { nonce: long_nonce, ..draft.clone() }, "nonce has size 65, at most 64 is accepted"),
        (Draft { key: string(&[1; 31]), ..draft.clone() }, "public key is not an Ed25519 key of 32 bytes"),
        (Draft { cert_type: 0, ..draft.clone() }, "type is not 1 (user) or 2 (host)"),
        (Draft { cert_type: 3, ..draft.clone() }, "type is not 1 (user) or 2 (host)"),
        (Draft { key_id: b"a\0b".to_vec(), ..draft.clone() }, "key id is not UTF-8 without NUL"),
        (Draft { key_id: b"\xff".to_vec(), ..draft.clone() }, "key id is not UTF-8 without NUL"),
        (Draft { principals: string(b"a\0"), ..draft.clone() }, "principals is not UTF-8 without NUL"),
        (Draft { principals: [string(b"a"), vec![0]].concat(), ..draft.clone() }, "principals ends early, at byte 139"),
        (Draft { principals: many_principals, ..draft.clone() }, "principals has size 257, at most 256 is accepted"),
        (
            Draft { critical: [option("b", b""), option("a", b"")].concat(), ..draft.clone() },
            "critical options are not sorted by name at \"a\"",
        ),
        (
            Draft { critical: [option("a", b""), option("a", b"")].concat(), ..draft.clone() },
            "critical options hold \"a\" twice",
        ),
        (
            Draft { extensions: [option("b", b""), option("a", b"")].concat(), ..draft.clone() },
            "extensions are not sorted by name at \"a\"",
        ),
        (
            Draft { extensions: [option("a", b""), option("a", b"x")].concat(), ..draft.clone() },
            "extensions hold \"a\" twice",
        ),
        (Draft { extensions: option("", b""), ..draft.clone() }, "extensions is not named in printable ASCII"),
        (Draft { extensions: option("a b", b""), ..draft.clone() }, "extensions is not named in printable ASCII"),
        (
            Draft { extensions: [option("a", b""), vec![0, 0]].concat(), ..draft.clone() },
            "extensions ends early, at byte 178",
        ),
        (Draft { reserved: vec![0], ..draft.clone() }, "reserved is not empty"),
        (Draft { signature_key: string(b"ssh-ed25519"), ..draft.clone() }, "signature key ends early, at byte 15"),
        (
            Draft { signature_key: [ed25519(&[2; 32]), vec![0]].concat(), ..draft.clone() },
            "1 bytes follow the end of signature key",
        ),
        (
            Draft { signature: [string(b"ssh-rsa"), string(&[3; 64])].concat(), ..draft.clone() },
            "signature is not of an algorithm of its key",
        ),
        (
            Draft { signature: [ed25519(&[3; 64]), vec![0]].concat(), ..draft.clone() },
            "1 bytes follow the end of signature",
        ),
    ];
    for (draft, refusal) in &cases {
        assert_eq!(draft.refusal(), *refusal);
    }
}

#[test]
fn a_certificate_is_not_accepted_as_the_key_that_signs() {
    let inner = Draft::new().bytes();
    let draft = Draft { signature_key: inner, ..Draft::new() };
    let refusal = "signature key is of type \"ssh-ed25519-cert-v01@openssh.com\", which is not accepted there";
    assert_eq!(draft.refusal(), refusal);
}

#[test]
fn a_certificate_beyond_the_size_limit_is_refused_unread() {
    let refusal = CertificateError::Oversize {
        field: "certificate",
        size: MAX_CERTIFICATE_BYTES + 1,
        max: MAX_CERTIFICATE_BYTES,
    };
    assert_eq!(Certificate::parse(&vec![0; MAX_CERTIFICATE_BYTES + 1]), Err(refusal));
}

#[test]
fn a_proof_that_would_grow_a_certificate_beyond_the_limit_is_not_inserted() {
    let empty = Draft { extensions: Vec::new(), ..Draft::new() }.bytes();
    let signed = Certificate::parse(&empty).unwrap().bytes().len();
    let padding = vec![b'x'; MAX_CERTIFICATE_BYTES - signed - 9];
    let bytes = Draft { extensions: option("z", &padding), ..Draft::new() }.bytes();
    let whole = bytes.len() - string(&Draft::new().signature).len();
    let pre = ToBeSigned::parse(&bytes[..whole]).unwrap();
    let proof = LogProof::new(Id([1; 16]), 0, 1, Vec::new()).unwrap();
    let refusal = insert_log_proof(pre.bytes(), &proof).unwrap_err();
    assert!(matches!(refusal, CertificateError::Oversize { field: "certificate", .. }), "{refusal}");
}

fn any_extensions() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::btree_map("[a-z@-]{1,20}", prop::collection::vec(any::<u8>(), 0..40), 0..8).prop_map(|options| {
        let ours = |name: &&String| name.as_str() != "log-proof@countersign";
        options.keys().filter(ours).flat_map(|name| option(name, &options[name])).collect()
    })
}

proptest! {
    #[test]
    fn a_proof_inserted_anywhere_comes_out_again(extensions in any_extensions(), index in 0..9_u32, batch in any::<[u8; 16]>()) {
        let bytes = Draft { extensions, ..Draft::new() }.bytes();
        let pre = Certificate::parse(&bytes).unwrap().pre_certificate();
        let leaves = [[5; 32]; 9];
        let proof = LogProof::among(Id(batch), &leaves, index).unwrap();
        let signed = insert_log_proof(&pre, &proof).unwrap();
        let parsed = ToBeSigned::parse(&signed).unwrap();
        prop_assert_eq!(parsed.pre_certificate(), pre);
        prop_assert_eq!(parsed.log_proof(), Ok(Some(proof)));
    }

    #[test]
    fn any_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Certificate::parse(&bytes);
        let _ = ToBeSigned::parse(&bytes);
    }

    /// ssh-key is the second opinion: what we read, it reads too, to the same fields.
    #[test]
    fn a_certificate_with_a_flipped_bit_never_reads_differently_from_ssh_key(
        which in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut blob = which.get(&certificates()).clone();
        let place = place.index(blob.len());
        blob[place] ^= 1 << bit;
        if let Ok(ours) = Certificate::parse(&blob) {
            let theirs = ssh_key::Certificate::from_bytes(&blob);
            // Points are only checked for their length here; ssh-key and sshd may know better.
            if let Ok(theirs) = theirs {
                prop_assert_eq!(theirs.serial(), ours.serial.0);
                prop_assert_eq!(theirs.key_id(), ours.key_id);
                prop_assert_eq!(theirs.valid_after(), ours.valid_after);
                prop_assert_eq!(theirs.valid_before(), ours.valid_before);
                prop_assert_eq!(theirs.valid_principals(), ours.principals.clone());
                let key = ssh_key::PublicKey::new(theirs.public_key().clone(), "").to_bytes().unwrap();
                prop_assert_eq!(&key, &ours.public_key);
                let names = |options: &ssh_key::certificate::OptionsMap| options.keys().cloned().collect::<Vec<_>>();
                let own = |options: &[countersign_certificate::CertOption<'_>]| {
                    options.iter().map(|option| option.name.to_owned()).collect::<Vec<_>>()
                };
                prop_assert_eq!(names(theirs.extensions()), own(&ours.extensions));
                prop_assert_eq!(names(theirs.critical_options()), own(&ours.critical_options));
            }
        }
    }
}

#[test]
fn ssh_key_reads_the_certificates_of_the_vectors_to_the_same_bytes() {
    for blob in certificates() {
        let theirs = ssh_key::Certificate::from_bytes(&blob).unwrap();
        assert_eq!(theirs.to_bytes().unwrap(), blob);
        let ours = Certificate::parse(&blob).unwrap();
        let key = ssh_key::PublicKey::new(theirs.public_key().clone(), "").to_bytes().unwrap();
        assert_eq!(ours.public_key, key);
    }
}
