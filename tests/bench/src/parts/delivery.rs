//! `delivery`: what it costs to send to a fleet, and to be one device of it. Sealing a payload of 1 KiB to a recipient, naming its block
//! and taking it into a Merkle tree, a second and core; a rotation for 10,000 devices; one device's share of envelopes of three sizes.
//! Beside raw X25519, of which an authenticated envelope needs two agreements for each recipient: that bounds it, below the project's goal of
//! 20,000 a second wherever one agreement takes more than 25 µs.
//! Usage: `countersign-bench delivery [--quick]`.

use std::{
    error::Error,
    hint::black_box,
    time::{Duration, Instant},
};

use countersign_bench::{figure, median_micros, quick};
use countersign_certificate::{Id, RealmId, leaf_hash, merkle};
use countersign_delivery::{
    Addressee, Binding, BlockCid, Contents, DirectoryStore, Envelope, Index, Payload, PayloadKind, PublicKey,
    SealedPayload, SecretKey, open_payload, seal_envelope, seal_payload,
};

const BINDING: Binding = Binding { realm: [1; 32], delivery: [2; 16], kind: PayloadKind::OpaqueSecret };
/// With its container this fills a block of 1 KiB.
const PAYLOAD_BYTES: usize = 960;

struct Device {
    address: [u8; 20],
    key: SecretKey,
    public: PublicKey,
    prekey: PublicKey,
}

pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let fleet: usize = if quick() { 500 } else { 10_000 };
    let sender = SecretKey::generate()?;
    let devices = (0..fleet)
        .map(|number| {
            let mut address = [0; 20];
            for (to, from) in address.iter_mut().zip(number.to_be_bytes()) {
                *to = from;
            }
            let key = SecretKey::generate()?;
            Ok(Device { address, public: key.public(), key, prekey: SecretKey::generate()?.public() })
        })
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let payload = Payload::new("token", Contents::OpaqueSecret { secret: vec![7; PAYLOAD_BYTES].into() })?;

    let raw = raw_agreements(fleet.min(2_000))?;
    figure("x25519", raw, "agreements/s", None, "one core")?;

    for (what, prekeys) in [("seal", false), ("seal-with-prekeys", true)] {
        let begun = Instant::now();
        let payloads = (0..fleet).map(|_| seal_payload(&BINDING, &payload)).collect::<Result<Vec<_>, _>>()?;
        let envelope = seal(&sender, &devices, &payloads, prekeys)?;
        let root = merkle_root(&payloads)?;
        let took = begun.elapsed();
        black_box((envelope, root));
        let rate = per_second(fleet, took);
        figure(what, rate, "payloads/s", Some(rate / (raw / 2.0)), "half of raw X25519")?;
    }

    let folder = tempfile::tempdir()?;
    for (what, count) in [("rotation-one-payload", 1), ("rotation-own-payloads", fleet)] {
        let store = DirectoryStore::open(&folder.path().join(what))?;
        let begun = Instant::now();
        let payloads = (0..count).map(|_| seal_payload(&BINDING, &payload)).collect::<Result<Vec<_>, _>>()?;
        let envelope = seal(&sender, &devices, &payloads, false)?;
        let sealed = begun.elapsed();
        let blocks = payloads.iter().map(|sealed| &sealed.block).chain(&envelope.pages).chain([&envelope.index]);
        let (mut bytes, mut stored) = (0_usize, 0_usize);
        for block in blocks {
            store.put(block)?;
            bytes = bytes.saturating_add(block.len());
            stored = stored.saturating_add(1);
        }
        let took = begun.elapsed();
        let against = format!("{fleet} devices");
        figure(&format!("{what}-transactions"), 1.0, "transactions", None, &against)?;
        figure(&format!("{what}-blocks"), number(stored), "blocks", None, &against)?;
        figure(&format!("{what}-bytes"), number(bytes), "bytes", None, &against)?;
        figure(&format!("{what}-sealing"), sealed.as_secs_f64(), "s", None, &against)?;
        figure(&format!("{what}-stored"), took.as_secs_f64(), "s", None, "in a directory, each block synced")?;
    }

    let sizes = [1, fleet / 10, fleet];
    let mut first = None;
    for size in sizes {
        let some = devices.get(..size).ok_or("fewer devices than asked for")?;
        let payloads = vec![seal_payload(&BINDING, &payload)?];
        let envelope = seal(&sender, some, &payloads, false)?;
        let (micros, bytes) = one_device(&sender, some, &envelope, &payloads)?;
        let base = *first.get_or_insert(micros);
        let name = format!("device-of-{size}");
        figure(&name, micros, "us", Some(micros / base), "the device of an envelope for one")?;
        figure(&format!("{name}-fetches"), number(bytes), "bytes", None, "index, page and payload")?;
    }
    Ok(())
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

fn per_second(count: usize, took: Duration) -> f64 {
    number(count) / took.as_secs_f64()
}

fn raw_agreements(rounds: usize) -> Result<f64, Box<dyn Error>> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    let secret = x25519_dalek::StaticSecret::from(bytes);
    let public = x25519_dalek::PublicKey::from(&secret);
    let begun = Instant::now();
    for _ in 0..rounds {
        black_box(secret.diffie_hellman(black_box(&public)));
    }
    Ok(per_second(rounds, begun.elapsed()))
}

fn seal(
    sender: &SecretKey,
    devices: &[Device],
    payloads: &[SealedPayload],
    prekeys: bool,
) -> Result<Envelope, Box<dyn Error>> {
    let addressees = devices
        .iter()
        .zip(payloads.iter().cycle())
        .map(|(device, sealed)| Addressee {
            address: device.address,
            key: device.public,
            prekey: prekeys.then_some(device.prekey),
            item: &sealed.item,
        })
        .collect::<Vec<_>>();
    Ok(seal_envelope(&BINDING, sender, &addressees)?)
}

/// Every payload's block as a leaf, as a batch of certificates would have them.
fn merkle_root(payloads: &[SealedPayload]) -> Result<[u8; 32], Box<dyn Error>> {
    let leaves: Vec<[u8; 32]> = payloads
        .iter()
        .map(|sealed| leaf_hash(&RealmId(BINDING.realm), &Id(BINDING.delivery), &sealed.block))
        .collect();
    merkle::root(&leaves).ok_or_else(|| "no leaves".into())
}

/// The middle time of some devices to find and open their records, from blocks that are there, and the bytes that one fetches.
fn one_device(
    sender: &SecretKey,
    devices: &[Device],
    envelope: &Envelope,
    payloads: &[SealedPayload],
) -> Result<(f64, usize), Box<dyn Error>> {
    let pages: std::collections::BTreeMap<BlockCid, &Vec<u8>> =
        envelope.pages.iter().map(|page| Ok((BlockCid::of(page)?, page))).collect::<Result<_, Box<dyn Error>>>()?;
    let payload = payloads.first().ok_or("no payload")?;
    let mut samples = Vec::new();
    let mut fetched = 0;
    for device in devices.iter().cycle().take(100) {
        let begun = Instant::now();
        let index = Index::parse(&envelope.index)?;
        let context = BINDING.to(device.address);
        let slot = index.locate(&context, &device.key, &sender.public())?.ok_or("no page for a recipient")?;
        let page = pages.get(&slot.page()).ok_or("a page is missing")?;
        let record = slot.find(page)?.ok_or("no record for a recipient")?;
        let item = record.item(None)?;
        black_box(open_payload(&BINDING, &item, "token", &payload.block)?);
        samples.push(begun.elapsed());
        fetched = envelope.index.len().saturating_add(page.len()).saturating_add(payload.block.len());
    }
    Ok((median_micros(&mut samples), fetched))
}
