//! The vectors of `docs/spec/delivery.md`: made by a second implementation (`tests/vectors/delivery.mjs`, Node's crypto), checked in,
//! made again here, and met byte for byte.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test: a failure is its result"
)]

use std::{path::PathBuf, process::Command};

use countersign_delivery::{
    BlockCid, Contents, Context, Payload, PayloadKind, PublicKey, SecretKey, open, open_cid, seal_with,
};
use serde_json::Value;

fn vectors_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(vectors_folder().join("delivery.json")).unwrap()).unwrap()
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap_or_else(|| panic!("vector without {field}"))
}

fn bytes(vector: &Value, field: &str) -> Vec<u8> {
    let digits = text(vector, field);
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(vector: &Value, field: &str) -> [u8; N] {
    bytes(vector, field).try_into().unwrap_or_else(|_| panic!("{field} is not {N} bytes"))
}

struct Delivery {
    context: Context,
    sender: SecretKey,
    recipient: SecretKey,
    payload: Payload,
}

fn delivery(vector: &Value) -> Delivery {
    let kind = PayloadKind::try_from(u8::try_from(vector["kind"].as_u64().unwrap()).unwrap()).unwrap();
    let part = |tag: u64| {
        let parts = vector["parts"].as_array().unwrap();
        parts.iter().find(|part| part["tag"] == tag).map(|part| text(part, "text").to_owned())
    };
    let contents = match kind {
        PayloadKind::SshCertificate => Contents::SshCertificate { certificate: part(1).unwrap() },
        PayloadKind::SshKeyPair => Contents::SshKeyPair { private_key: part(2).unwrap().into(), certificate: part(1) },
    };
    Delivery {
        context: Context {
            realm: array(vector, "realm"),
            delivery: array(vector, "delivery-id"),
            recipient: array(vector, "recipient-address"),
            kind,
        },
        sender: SecretKey::from_bytes(&array(vector, "sender-secret")),
        recipient: SecretKey::from_bytes(&array(vector, "recipient-secret")),
        payload: Payload::new(text(vector, "name"), contents).unwrap(),
    }
}

#[test]
fn the_vectors_are_those_that_their_script_makes() {
    let script = vectors_folder().join("delivery.mjs");
    let output = Command::new("node").arg(&script).output().expect("node is not installed: run .ci/tools");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checked_in = std::fs::read(vectors_folder().join("delivery.json")).unwrap();
    assert!(output.stdout == checked_in, "run: node tests/vectors/delivery.mjs >tests/vectors/delivery.json");
}

#[test]
fn sealing_meets_the_vectors_byte_for_byte() {
    let vectors = vectors();
    let deliveries = vectors["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), 3);
    for vector in deliveries {
        let Delivery { context, sender, recipient, payload } = delivery(vector);
        let salt = array(vector, "salt");
        assert_eq!(sender.public().to_bytes(), array::<32>(vector, "sender-public"));
        assert_eq!(payload.encode(&salt).unwrap().as_slice(), bytes(vector, "container"));

        let to = PublicKey::from_bytes(array(vector, "recipient-public")).unwrap();
        assert_eq!(recipient.public(), to);
        let random = [salt, array(vector, "block-seed"), array(vector, "cid-seed")];
        let sealed = seal_with(&context, &sender, &to, &payload, &random).unwrap();
        assert_eq!(sealed.digest, array::<32>(vector, "digest"));
        assert_eq!(sealed.block, bytes(vector, "block"));
        assert_eq!(sealed.cid.to_string(), text(vector, "cid"));
        assert_eq!(sealed.sealed_cid, bytes(vector, "sealed-cid"));
    }
}

#[test]
fn opening_takes_what_the_second_implementation_sealed() {
    for vector in vectors()["deliveries"].as_array().unwrap() {
        let Delivery { context, sender, recipient, payload } = delivery(vector);
        let (from, digest) = (sender.public(), array(vector, "digest"));
        let cid = open_cid(&context, &recipient, &from, &digest, &bytes(vector, "sealed-cid")).unwrap();
        assert_eq!(cid, text(vector, "cid").parse().unwrap());
        let opened = open(&context, &recipient, &from, &digest, text(vector, "name"), &bytes(vector, "block")).unwrap();
        assert_eq!(opened, payload);
    }
}

#[test]
fn cids_meet_the_vectors() {
    for vector in vectors()["cids"].as_array().unwrap() {
        let length = usize::try_from(vector["bytes-of-0x63"].as_u64().unwrap()).unwrap();
        let cid = BlockCid::of(&vec![0x63; length]).unwrap();
        assert_eq!(cid.to_string(), text(vector, "text"));
        assert_eq!(cid.to_bytes().as_slice(), bytes(vector, "binary"));
    }
}

#[test]
fn every_bucket_of_the_vectors_is_the_block_length_less_49() {
    let vectors = vectors();
    let Delivery { context, sender, recipient, .. } = delivery(&vectors["deliveries"][0]);
    let frame = "ssh-ed25519-cert-v01@openssh.com \n";
    // Version, kind, salt, name length, a name of one byte, part count, part tag, part length.
    let overhead = 1 + 1 + 32 + 1 + 1 + 1 + 1 + 4 + frame.len();
    let mut checked = 0;
    for bucket in vectors["buckets"].as_array().unwrap() {
        let length = |field: &str| usize::try_from(bucket[field].as_u64().unwrap()).unwrap();
        let Some(filler) = length("container").checked_sub(overhead) else { continue };
        let certificate = frame.replace('\n', &format!("{}\n", "A".repeat(filler)));
        let payload = Payload::new("a", Contents::SshCertificate { certificate }).unwrap();
        assert_eq!(payload.encode(&[0; 32]).unwrap().len(), length("container"));
        let sealed = seal_with(&context, &sender, &recipient.public(), &payload, &[[0; 32]; 3]).unwrap();
        assert_eq!(sealed.block.len() - 49, length("padded"));
        checked += 1;
    }
    assert_eq!(checked, 7);
}
