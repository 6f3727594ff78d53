//! The vectors of `docs/spec/delivery.md`: made by a second implementation (`tests/vectors/delivery.mjs`, Node's crypto), checked in,
//! made again here, and met byte for byte.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test: a failure is its result"
)]

use std::{path::PathBuf, process::Command};

use countersign_delivery::{
    Addressee, Binding, BlockCid, Contents, Context, Envelope, Index, Item, PAGE_RECORDS, Payload, PayloadKind,
    PrekeyId, PublicKey, SecretKey, open, open_cid, open_payload, seal_envelope_with, seal_payload_with, seal_with,
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
    let contents = contents(kind, part);
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

fn contents(kind: PayloadKind, part: impl Fn(u64) -> Option<String>) -> Contents {
    match kind {
        PayloadKind::SshCertificate => Contents::SshCertificate { certificate: part(1).unwrap() },
        PayloadKind::SshKeyPair => Contents::SshKeyPair { private_key: part(2).unwrap().into(), certificate: part(1) },
        PayloadKind::HostCertificate => Contents::HostCertificate { certificate: part(1).unwrap() },
        PayloadKind::X509KeyPair => {
            Contents::X509KeyPair { private_key: part(3).unwrap().into(), chain: part(4).unwrap() }
        }
        PayloadKind::OpaqueSecret => Contents::OpaqueSecret { secret: part(5).unwrap().into_bytes().into() },
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
    assert_eq!(deliveries.len(), 6);
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

struct Sent {
    binding: Binding,
    sender: SecretKey,
    items: Vec<Item>,
    blocks: Vec<Vec<u8>>,
    envelope: Envelope,
}

/// Seals an envelope of the vectors anew.
fn sent(vector: &Value) -> Sent {
    let kind = PayloadKind::try_from(u8::try_from(vector["kind"].as_u64().unwrap()).unwrap()).unwrap();
    let binding = Binding { realm: array(vector, "realm"), delivery: array(vector, "delivery-id"), kind };
    let sender = SecretKey::from_bytes(&array(vector, "sender-secret"));
    let (mut items, mut blocks) = (Vec::new(), Vec::new());
    for payload in vector["payloads"].as_array().unwrap() {
        let part = |tag: u64| {
            let parts = payload["parts"].as_array().unwrap();
            parts.iter().find(|part| part["tag"] == tag).map(|part| text(part, "text").to_owned())
        };
        let contents = Payload::new(text(vector, "name"), contents(kind, part)).unwrap();
        let sealed = seal_payload_with(&binding, &contents, &[array(payload, "salt"), array(payload, "key")]).unwrap();
        assert_eq!(sealed.block, bytes(payload, "block"));
        assert_eq!(sealed.item.digest, array::<32>(payload, "digest"));
        items.push(sealed.item);
        blocks.push(sealed.block);
    }
    let addressees: Vec<Addressee<'_>> = vector["recipients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|recipient| Addressee {
            address: array(recipient, "address"),
            key: SecretKey::from_bytes(&array(recipient, "secret")).public(),
            prekey: prekey(recipient).map(|prekey| prekey.public()),
            item: &items[usize::try_from(recipient["payload"].as_u64().unwrap()).unwrap()],
        })
        .collect();
    let seeds = [array(vector, "ephemeral-seed"), array(vector, "padding-seed")];
    let envelope = seal_envelope_with(&binding, &sender, &addressees, &seeds).unwrap();
    Sent { binding, sender, items, blocks, envelope }
}

fn prekey(recipient: &Value) -> Option<SecretKey> {
    recipient.get("prekey-secret").map(|_| SecretKey::from_bytes(&array(recipient, "prekey-secret")))
}

#[test]
fn envelopes_meet_the_vectors_and_each_recipient_finds_its_record_in_one_page() {
    let vectors = vectors();
    let envelopes = vectors["envelopes"].as_array().unwrap();
    assert_eq!(envelopes.len(), 2);
    for vector in envelopes {
        let Sent { binding, sender, items, blocks, envelope } = sent(vector);
        assert_eq!(envelope.index, bytes(vector, "index"));
        assert_eq!(envelope.index_digest(), array::<32>(vector, "index-digest"));
        let lengths: Vec<u64> =
            vector["page-bytes"].as_array().unwrap().iter().map(|bytes| bytes.as_u64().unwrap()).collect();
        assert_eq!(envelope.pages.iter().map(|page| u64::try_from(page.len()).unwrap()).collect::<Vec<_>>(), lengths);
        let digests = vector["page-digests"].as_array().unwrap();
        for (page, digest) in envelope.pages.iter().zip(digests) {
            let cid = BlockCid::of(page).unwrap();
            let hex: String = cid.to_bytes()[4..].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, digest.as_str().unwrap());
        }
        if vector.get("page").is_some() {
            assert_eq!(envelope.pages.concat(), bytes(vector, "page"));
        }
        let index = Index::parse(&envelope.index).unwrap();
        assert_eq!(index.pages().count(), envelope.pages.len());
        assert!(envelope.pages.iter().all(|page| page.len() <= 1 + 164 * PAGE_RECORDS));
        for recipient in vector["recipients"].as_array().unwrap().iter().take(5) {
            let context = binding.to(array(recipient, "address"));
            let own = SecretKey::from_bytes(&array(recipient, "secret"));
            let slot = index.locate(&context, &own, &sender.public()).unwrap().unwrap();
            let page = envelope.pages.iter().find(|page| BlockCid::of(page).unwrap() == slot.page()).unwrap();
            assert!(page.windows(16).any(|tag| tag == array::<16>(recipient, "tag")));
            let record = slot.find(page).unwrap().unwrap();
            let wanted = recipient.get("prekey-id").map(|_| PrekeyId(array(recipient, "prekey-id")));
            assert_eq!(record.prekey(), wanted);
            let payload = usize::try_from(recipient["payload"].as_u64().unwrap()).unwrap();
            let item = record.item(prekey(recipient).as_ref()).unwrap();
            assert_eq!(item, items[payload]);
            open_payload(&binding, &item, text(vector, "name"), &blocks[payload]).unwrap();
        }
    }
}
