//! Sealed blocks as a store delivers them, and what is inside, which a sender makes up as it likes.

use std::sync::LazyLock;

use countersign_delivery::{
    Binding, BlockCid, Context, Index, LeavesContext, Payload, PayloadKind, PublicKey, SecretKey, open, open_cid,
    open_leaves,
};
use serde_json::Value;

static VECTORS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../vectors/delivery.json")).unwrap());
static LEAVES: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../vectors/leaves.json")).unwrap());

fn bytes(vector: &Value, field: &str) -> Vec<u8> {
    crate::hex(vector[field].as_str().unwrap())
}

fn array<const N: usize>(vector: &Value, field: &str) -> [u8; N] {
    bytes(vector, field).try_into().unwrap()
}

fn kind(vector: &Value) -> PayloadKind {
    PayloadKind::try_from(u8::try_from(vector["kind"].as_u64().unwrap()).unwrap()).unwrap()
}

struct Bed {
    context: Context,
    recipient: SecretKey,
    sender: PublicKey,
    digest: [u8; 32],
    name: String,
    block: Vec<u8>,
    sealed_cid: Vec<u8>,
    cid: BlockCid,
    of_envelope: Context,
    index: Vec<u8>,
    watchdog: ([u8; 20], SecretKey),
    of_leaves: LeavesContext,
    leaves: Vec<Vec<u8>>,
}

static BED: LazyLock<Bed> = LazyLock::new(|| {
    let (delivery, envelope, leaves) = (&VECTORS["deliveries"][0], &VECTORS["envelopes"][0], &LEAVES["blocks"][0]);
    let block = bytes(delivery, "block");
    let watchdog = &leaves["watchdogs"][0];
    let binding =
        Binding { realm: array(envelope, "realm"), delivery: array(envelope, "delivery-id"), kind: kind(envelope) };
    Bed {
        context: Context {
            realm: array(delivery, "realm"),
            delivery: array(delivery, "delivery-id"),
            recipient: array(delivery, "recipient-address"),
            kind: kind(delivery),
        },
        recipient: SecretKey::from_bytes(&array(delivery, "recipient-secret")),
        sender: SecretKey::from_bytes(&array(delivery, "sender-secret")).public(),
        digest: array(delivery, "digest"),
        name: delivery["name"].as_str().unwrap().to_owned(),
        cid: BlockCid::of(&block).unwrap(),
        block,
        sealed_cid: bytes(delivery, "sealed-cid"),
        of_envelope: binding.to(array(delivery, "recipient-address")),
        index: bytes(envelope, "index"),
        watchdog: (array(watchdog, "address"), SecretKey::from_bytes(&array(watchdog, "secret"))),
        of_leaves: LeavesContext { realm: array(leaves, "realm"), batch: array(leaves, "batch-id") },
        leaves: sealed_leaves(),
    }
});

/// Those of the vectors, all bound to one batch. The largest are there by their digest alone.
fn sealed_leaves() -> Vec<Vec<u8>> {
    let blocks = LEAVES["blocks"].as_array().unwrap().iter().filter(|block| block["block"].is_string());
    blocks.map(|block| bytes(block, "block")).collect()
}

/// The first byte says what it is to be. What opens is what was sealed.
pub fn try_on(data: &[u8]) {
    let Some((what, data)) = data.split_first() else { return };
    let bed = &*BED;
    match what % 5 {
        0 => {
            if open(&bed.context, &bed.recipient, &bed.sender, &bed.digest, &bed.name, data).is_ok() {
                assert_eq!(data, bed.block, "a block that was never sealed opens");
            }
        }
        1 => {
            if let Ok(cid) = open_cid(&bed.context, &bed.recipient, &bed.sender, &bed.digest, data) {
                assert_eq!((cid, data), (bed.cid, bed.sealed_cid.as_slice()));
            }
        }
        2 => {
            // The index, and what follows it as the page.
            let (index, page) = data.split_at(data.len().min(bed.index.len()));
            let Ok(index) = Index::parse(index) else { return };
            let Ok(Some(slot)) = index.locate(&bed.of_envelope, &bed.recipient, &bed.sender) else { return };
            let Ok(Some(record)) = slot.find(page) else { return };
            let _ = record.item(None);
            let _ = record.item(Some(&bed.recipient));
        }
        3 => {
            let (address, key) = &bed.watchdog;
            if open_leaves(&bed.of_leaves, address, key, &bed.sender, data).is_ok() {
                assert!(bed.leaves.iter().any(|sealed| sealed == data), "leaves that were never sealed open");
            }
        }
        _ => {
            let _ = Payload::decode(data);
        }
    }
}

/// Each block of the vectors as what it is.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    // The largest are in the vectors by their digest alone.
    let whole = |delivery: &&Value| ["block", "container"].iter().all(|field| delivery[*field].is_string());
    for delivery in VECTORS["deliveries"].as_array().unwrap().iter().filter(whole) {
        seeds.push([&[0][..], &bytes(delivery, "block")].concat());
        seeds.push([&[1][..], &bytes(delivery, "sealed-cid")].concat());
        seeds.push([&[4][..], &bytes(delivery, "container")].concat());
    }
    for envelope in VECTORS["envelopes"].as_array().unwrap().iter().filter(|envelope| envelope["page"].is_string()) {
        seeds.push([&[2][..], &bytes(envelope, "index"), &bytes(envelope, "page")].concat());
    }
    seeds.extend(sealed_leaves().iter().map(|block| [&[3][..], block].concat()));
    // Blocks are padded to a kilobyte and more: the larger ones teach nothing.
    seeds.retain(|seed| seed.len() <= 4096);
    seeds
}
