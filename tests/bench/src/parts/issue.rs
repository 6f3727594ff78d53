//! `issue`: certificates a second on one core, without the wait for the chain: policy, layout, batch, both rehearsals of the host's
//! decision, proof, signature. Beside the raw Ed25519 rate, which is the CA's key signing the same number of bytes as often.
//! Usage: `countersign-bench issue [--quick]`.

use std::{
    collections::BTreeMap,
    error::Error,
    hint::black_box,
    num::NonZeroU64,
    time::{Instant, SystemTime},
};

use alloy_primitives::{Address, B256, FixedBytes};
use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use countersign_bench::{figure, quick, snapshot::key_pair};
use countersign_certificate::Id;
use countersign_issuer::{
    ca_key::{CaKey, CaKeyError},
    issue::{Batch, Signer, prepare},
    policy::Order,
};
use countersign_registry::{
    BlockRef, Effective, EntryRef, LogEntry, PlacedEntry, Replay,
    entries::{Entry, Kind, payload},
    head::Meta,
    shard, sign,
};
use signature::Signer as _;

const REALM: B256 = B256::repeat_byte(7);
const ADMIN: Address = Address::repeat_byte(3);
const ISSUER: Address = Address::repeat_byte(4);
const R: FixedBytes<16> = FixedBytes([5; 16]);

pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let count: u32 = if quick() { 200 } else { 5_000 };
    let folder = tempfile::tempdir()?;
    let ca_blob = BASE64.decode(key_pair(folder.path(), "ca")?)?;
    let user_blob = BASE64.decode(key_pair(folder.path(), "user")?)?;
    let ca_key = CaKey::from_file(&folder.path().join("ca"), || -> Result<_, CaKeyError> { Ok(String::new().into()) })?;

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let mut log = Log { start_secs: now.saturating_sub(20), next: BTreeMap::new() };
    let mut replay = Replay::new(REALM);
    let governance = [
        Entry::RoleSet(payload::RoleSet { actor: ADMIN, roles: 1, x25519: B256::ZERO }),
        Entry::RoleSet(payload::RoleSet { actor: ISSUER, roles: 2, x25519: B256::ZERO }),
        Entry::CaAdd(payload::CaAdd {
            r: R,
            purpose: 1,
            name: "bench".to_owned(),
            publicKey: ca_blob.into(),
            maxTtl: 3600,
            logins: Vec::new(),
            issuers: vec![ISSUER],
        }),
    ];
    let placed = log.place(1, Address::ZERO, &governance);
    replay.advance(log.block(1), &placed)?;
    let id = |kind, actor| sign::record_id(kind, actor, R.0);
    let (user, host, ca) = (id(Kind::USER_ADD, ADMIN), id(Kind::HOST_ADD, ADMIN), id(Kind::CA_ADD, Address::ZERO));
    let directory = [
        Entry::UserAdd(payload::UserAdd { r: R, login: "alice".to_owned(), displayName: String::new() }),
        Entry::HostAdd(payload::HostAdd {
            r: R,
            name: "press-7".to_owned(),
            owner: FixedBytes::ZERO,
            hostKey: Default::default(),
        }),
        Entry::GrantAdd(payload::GrantAdd {
            r: R,
            subject: FixedBytes(user.0),
            hosts: vec![FixedBytes(host.0)],
            labels: Vec::new(),
            allHosts: false,
            logins: vec!["deploy".to_owned()],
            via: 1,
            maxTtl: 0,
            approvals: 0,
            forcedCommand: String::new(),
            sourceAddresses: Vec::new(),
            intervals: Vec::new(),
            notAfter: 0,
            permits: 1,
        }),
    ];
    let placed = log.place(2, ADMIN, &directory);
    replay.advance(log.block(2), &placed)?;
    let before = replay.effective(log.block(3), &[])?;

    let begun = Instant::now();
    let five_minutes = NonZeroU64::new(300).ok_or("five minutes")?;
    let signer = signer_of(&before, ca)?;
    let prepared = (0..count)
        .map(|_| {
            let order = Order {
                user,
                host,
                login: "deploy".to_owned(),
                ttl: five_minutes,
                public_key: user_blob.clone(),
                request: None,
            };
            prepare(&before, signer, order, now)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let batch = Batch::new(&before, signer, prepared)?;
    batch.rehearse(&before, signer)?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let making = begun.elapsed();

    // The chain's part: logged in the next block, replayed. Not timed.
    let placed = log.place(4, ISSUER, std::slice::from_ref(&batch.entry));
    let after = replay.effective(log.block(4), &placed)?;

    let begun = Instant::now();
    let issued = batch.finish(&after, &ca_key)?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let whole = making.saturating_add(begun.elapsed());

    let length = issued.first().ok_or("no certificate")?.certificate.len();
    let raw_key = ssh_key::PrivateKey::read_openssh_file(&folder.path().join("ca"))?;
    let message = vec![1_u8; length];
    let begun = Instant::now();
    for _ in 0..count {
        black_box(raw_key.try_sign(black_box(&message))?);
    }
    let raw = begun.elapsed();

    let rate = |duration: std::time::Duration| f64::from(count) / duration.as_secs_f64();
    figure("issue raw Ed25519", rate(raw), "1/s", None, "the CA key signing as many bytes, one core")?;
    let ratio = rate(whole) / rate(raw);
    figure(&format!("issue (batch of {count})"), rate(whole), "1/s", Some(ratio), "the raw Ed25519 rate")?;
    Ok(())
}

fn signer_of(effective: &Effective, ca: Id) -> Result<Signer<'_>, Box<dyn Error>> {
    let record = effective.cas.get(&ca).ok_or("the CA is on the ledger")?;
    Ok(Signer { id: ca, record, issuer: ISSUER })
}

/// Places entries as a chain would: block n at second n.
struct Log {
    start_secs: u64,
    next: BTreeMap<u64, u64>,
}

impl Log {
    fn block(&self, number: u64) -> BlockRef {
        BlockRef { number, time: self.start_secs.saturating_add(number) }
    }

    fn place(&mut self, block: u64, actor: Address, entries: &[Entry]) -> Vec<PlacedEntry> {
        let time = self.block(block).time;
        let mut placed = Vec::new();
        for entry in entries {
            let class = shard::class_of_kind(entry.kind()).unwrap_or_default();
            let epoch = if class < 3 { 0 } else { shard::day(time) };
            let shard = shard::shard(class, epoch);
            let next = self.next.entry(shard).or_default();
            let meta = Meta { kind: entry.kind(), prev_block: 0, time }.pack();
            placed.push(PlacedEntry {
                at: EntryRef { block, shard, index: *next, time },
                entry: LogEntry { shard, actor, meta, data: entry.encode() },
            });
            *next = next.saturating_add(1);
        }
        placed
    }
}
