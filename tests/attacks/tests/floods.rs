//! Floods: what one host pays when somebody writes a lot. A node counts the calls and the bytes of its answers; nothing here is about
//! time. What a host does not replay costs it nothing but a deeper proof, whoever writes it and however much; what it must replay it
//! fetches once, however often it looks before that is final, and keeps within a stated size.
//!
//! `./bench flood` prints the same as figures: memory, processor time, files.

#![expect(clippy::arithmetic_side_effects, clippy::expect_used, reason = "what tests share fails loudly")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use attacks::{
    lie::Liar,
    proxy::Act,
    stage::on_time,
    world::{DEVICE_KEY, HostFiles, World, device_address},
};
use countersign_agent::{agent::Agent, cycle, reason::Reason};
use countersign_certificate::Id;
use countersign_chain::{
    endpoints::Limits,
    keys::ActorKey,
    profile::ProfileName,
    realm_file::{HeaderTrust, RealmFile},
    send::{FeeCaps, Patience, RootProof, RootSignature, Sender},
    spool::Spill,
    sync::{Cursor, Ledger},
};
use countersign_registry::{
    B256, U256,
    entries::{Entry, Kind, Roles, payload},
    shard,
    sign::{self, Write},
};
use serde_json::{Value, json};

/// Calls and bytes of results, by method.
type Tally = BTreeMap<String, (usize, usize)>;

/// What a host has on disk, in bytes.
#[derive(Clone, Copy, Debug)]
struct Kept {
    state: usize,
    snapshot: usize,
}

/// A realm, a host, and a node between them that counts.
struct Field {
    world: World,
    user: Id,
    host: HostFiles,
    agent: Agent,
    member: Sender,
    tally: Arc<Mutex<Tally>>,
    _node: Liar,
    seed: u64,
}

impl Field {
    async fn new() -> Self {
        let world = World::new().await;
        let records = world.populate().await;
        let member = payload::MemberSet {
            actor: device_address(),
            member: true,
            subject: records.user.0.into(),
            x25519: B256::repeat_byte(5),
        };
        world.append(shard::DIRECTORY, &Entry::MemberSet(member)).await;
        let node = Liar::start(&world.anvil.url).await;
        let tally = Arc::new(Mutex::new(Tally::new()));
        let counts = Arc::clone(&tally);
        node.does(move |method, _| {
            let (counts, method) = (Arc::clone(&counts), method.to_owned());
            Act::Alter(Box::new(move |result: &mut Value| {
                let mut counts = counts.lock().expect("nobody panics while counting");
                let (calls, bytes) = counts.entry(method).or_default();
                *calls += 1;
                *bytes += result.to_string().len();
            }))
        });
        let realm = RealmFile::new(world.pin.clone(), ProfileName::Dev, HeaderTrust::Dev, vec![node.url()]);
        let host = HostFiles::of(&realm.expect("a realm file"), records.host, "");
        world.anvil.finalize().await;
        let agent = host.open();
        let member = sender(&world, DEVICE_KEY);
        let mut field = Self { world, user: records.user, host, agent, member, tally, _node: node, seed: 1_000 };
        field.look("the beginning").await;
        field
    }

    /// One cycle; what it asked for.
    async fn look(&mut self, what: &str) -> Tally {
        on_time(&self.world, &self.host).await;
        self.tally.lock().expect("nobody panics while counting").clear();
        assert_eq!(self.agent.cycle().await.failure, None, "{what}");
        self.tally.lock().expect("nobody panics while counting").clone()
    }

    /// A cycle with everything final and new blocks to look at.
    async fn settled(&mut self, what: &str) -> (Tally, Kept) {
        self.world.anvil.finalize().await;
        let tally = self.look(what).await;
        self.agent.flush();
        let state = std::fs::metadata(self.host.path("state/state")).expect("a state file").len();
        let snapshot = self.host.snapshot_files().values().map(Vec::len).sum();
        (tally, Kept { state: usize::try_from(state).expect("a small file"), snapshot })
    }

    /// Random bytes that were not there before.
    fn r(&mut self) -> [u8; 16] {
        self.seed += 1;
        u128::from(self.seed).to_be_bytes()
    }

    /// Writes, some in each transaction.
    async fn write(&self, sender: &Sender, realm: B256, writes: &[Write]) {
        for some in writes.chunks(20) {
            sender.append_many(self.world.pin.contract, realm, some, &mut |_| ()).await.expect("a flood is taken");
        }
    }

    async fn flood(&mut self, flood: Flood, count: usize) {
        let realm = self.world.pin.realm;
        match flood {
            Flood::Inbox => {
                let writes = vec![raw(Kind(0x0900), 1000); count];
                self.write(&self.member, realm, &writes).await;
            }
            Flood::OtherRealms => {
                for _ in 0..count {
                    let other = B256::left_padding_from(&self.r());
                    self.write(&self.member, other, &[raw(Kind(0x0900), 1)]).await;
                }
            }
            Flood::AnotherRealmsDirectory => {
                let other = self.another_realm().await;
                let writes = vec![raw(Kind::USER_ADD, 4000); count];
                self.write(&self.world.admin, other, &writes).await;
            }
            Flood::Deliveries => {
                let writes = vec![raw(Kind::DELIVERY, 24_000); count];
                for write in &writes {
                    self.write(&self.world.admin, realm, std::slice::from_ref(write)).await;
                }
            }
            Flood::SpareClass => {
                let writes = vec![raw(Kind(0x1000), 4000); count];
                self.write(&self.world.admin, realm, &writes).await;
            }
        }
    }

    /// A realm of the flooder's own, in which it holds every role.
    async fn another_realm(&mut self) -> B256 {
        let root = ActorKey::from_hex(DEVICE_KEY).expect("a key");
        let pin = &self.world.pin;
        let salt = B256::left_padding_from(&u128::from(self.seed).to_be_bytes());
        let roots = vec![root.address()];
        let realm = sign::realm_id(pin.chain_id, pin.contract, 1, &roots, salt);
        let actor = self.world.admin.address();
        let role = Entry::RoleSet(payload::RoleSet { actor, roles: Roles::ADMIN, x25519: B256::ZERO });
        let writes = [sign::write(shard::GOVERNANCE, &role)];
        let digest =
            sign::append_by_roots_digest(&sign::domain(pin.chain_id, pin.contract), realm, U256::ZERO, &writes);
        let signature = root.sign(&digest).expect("a signature").as_bytes().to_vec().into();
        let proof = RootProof { nonce: U256::ZERO, threshold: U256::ONE, roots, salt };
        let signatures = [RootSignature { index: 0, signature }];
        let admin = &self.world.admin;
        let sent = admin.append_by_roots(pin.contract, realm, proof, &writes, &signatures, &mut |_| ()).await;
        sent.expect("a realm of one's own");
        self.seed += 1;
        realm
    }

    /// Requests of the member, as long as an entry may be.
    fn requests(&mut self, count: usize) -> Vec<Write> {
        let request = |r: [u8; 16]| {
            let request = payload::Request {
                r: r.into(),
                user: self.user.0.into(),
                host: [1; 16].into(),
                login: "deploy".into(),
                ttl: 300,
                publicKey: countersign_agent::receive::public_key_blob(attacks::world::ALICE_KEY)
                    .expect("a key")
                    .into(),
                reason: "x".repeat(3500),
            };
            sign::write(shard::write_shard(Kind::REQUEST).expect("a shard"), &Entry::Request(request))
        };
        let first = self.seed;
        self.seed += u64::try_from(count).expect("a small count");
        (first..self.seed).map(|seed| request((u128::from(seed) << 32).to_be_bytes())).collect()
    }
}

/// What a host does not replay.
#[derive(Clone, Copy, Debug)]
enum Flood {
    /// By anybody, in its realm.
    Inbox,
    /// By anybody, each entry in a realm of its own.
    OtherRealms,
    /// By another realm's admin, in the shard that has the same number here.
    AnotherRealmsDirectory,
    /// Class 08 at its largest, by an issuer, for others.
    Deliveries,
    /// By a role that means nothing yet.
    SpareClass,
}

fn sender(world: &World, key: &str) -> Sender {
    let patience = Patience {
        poll: std::time::Duration::from_millis(10),
        stuck: std::time::Duration::from_secs(60),
        give_up: std::time::Duration::from_secs(20),
    };
    let key = ActorKey::from_hex(key).expect("a key");
    Sender::new(world.anvil.endpoints(), key, world.anvil.chain_id, patience, FeeCaps::default())
}

/// An entry that means nothing, of so many bytes.
fn raw(kind: Kind, size: usize) -> Write {
    Write { shard: shard::write_shard(kind).expect("a shard"), kind: kind.0, data: sign::clear(&vec![7; size]) }
}

fn calls(tally: &Tally) -> BTreeMap<&str, usize> {
    tally.iter().map(|(method, (calls, _))| (method.as_str(), *calls)).collect()
}

fn bytes(tally: &Tally, method: &str) -> usize {
    tally.get(method).map_or(0, |(_, bytes)| *bytes)
}

#[tokio::test]
async fn what_a_host_does_not_replay_costs_it_no_call_and_no_log_however_much_it_is() {
    let mut field = Field::new().await;
    // The admin holds a spare role too.
    let everything = payload::RoleSet {
        actor: field.world.admin.address(),
        roles: Roles::ADMIN | Roles::ISSUER | Roles::REVOKER | 1 << 8,
        x25519: field.world.admin_sealing.public().to_bytes().into(),
    };
    field.world.by_roots(&[sign::write(shard::GOVERNANCE, &Entry::RoleSet(everything))]).await;
    field.settled("the roles").await;
    let (quiet, kept) = field.settled("nothing happens").await;
    println!("nothing: {quiet:?} {kept:?}");
    assert_eq!(
        calls(&quiet),
        BTreeMap::from([("eth_chainId", 3), ("eth_getBlockByNumber", 6), ("eth_getProof", 2)]),
        "headers and proofs, and no logs"
    );
    for flood in [Flood::Inbox, Flood::OtherRealms, Flood::AnotherRealmsDirectory, Flood::Deliveries, Flood::SpareClass]
    {
        for count in [5, 60] {
            let what = format!("{count} of {flood:?}");
            field.flood(flood, count).await;
            let (tally, after) = field.settled(&what).await;
            println!("{what}: {tally:?} {after:?}");
            assert_eq!(calls(&tally), calls(&quiet), "{what}");
            // Each further slot of the contract may deepen the trie that proofs lead through; nothing else grows.
            let deeper = bytes(&tally, "eth_getProof").saturating_sub(bytes(&quiet, "eth_getProof"));
            assert!(deeper < 64 << 10, "{what}: proofs grew by {deeper} bytes");
            assert!(bytes(&tally, "eth_getBlockByNumber") < 32 << 10, "{what}: {tally:?}");
            assert_eq!(after.snapshot, kept.snapshot, "{what}");
            assert!(
                after.state.abs_diff(kept.state) < 64,
                "{what}: {} bytes of state, {} before",
                after.state,
                kept.state
            );
        }
    }
}

#[tokio::test]
async fn an_entry_that_a_host_must_replay_is_fetched_once_however_often_it_looks_before_that_is_final() {
    let mut field = Field::new().await;
    let (quiet, _) = field.settled("nothing happens").await;
    let realm = field.world.pin.realm;
    let mut fetched = 0;
    let mut sizes = Vec::new();
    for count in [20, 60] {
        fetched = 0;
        let writes = field.requests(count);
        let mut calls_for_logs = 0;
        for some in writes.chunks(20) {
            field.write(&field.member, realm, some).await;
            // Looked at five times: as new, with nothing new above it, and as final.
            for what in ["new", "again", "and again", "one block on"] {
                if what == "one block on" {
                    field.world.anvil.call("anvil_mine", json!(["0x1"])).await;
                }
                let tally = field.look(what).await;
                fetched += bytes(&tally, "eth_getLogs");
                calls_for_logs += calls(&tally).get("eth_getLogs").copied().unwrap_or(0);
            }
        }
        let (tally, kept) = field.settled("final").await;
        assert_eq!(bytes(&tally, "eth_getLogs"), 0, "what was seen before it was final is not fetched again");
        assert_eq!(calls_for_logs, count / 20, "one call for each block that has entries");
        assert!(bytes(&tally, "eth_getProof") < bytes(&quiet, "eth_getProof") + (8 << 10));
        // A log is hexadecimal, padded, and comes with its place and hashes.
        let written: usize = writes.iter().map(|write| write.data.len()).sum();
        assert!(fetched < written * 2 + count * 1500, "{fetched} bytes for {written}");
        sizes.push((count, fetched, kept));
    }
    println!("{sizes:?}");
    assert!(fetched > 0);
    let [(_, _, small), (count, _, large)] = sizes.try_into().unwrap_or_else(|_| panic!("two sizes"));
    let grown = large.state - small.state;
    assert!(grown < count * 4500, "{grown} bytes of state for {count} requests of 4 KiB");
    assert!(large.snapshot - small.snapshot < count * 200, "{small:?} {large:?}");
}

#[tokio::test]
async fn a_node_that_sends_more_than_may_wait_is_refused_and_leaves_its_room_to_the_next() {
    let world = World::new().await;
    world.populate().await;
    let (liar, honest) = (Liar::start(&world.anvil.url).await, Liar::start(&world.anvil.url).await);
    // Each log a thousand times over, in places of their own: nothing tells that before all of them are folded.
    liar.alters("eth_getLogs", |result| {
        let Value::Array(logs) = result else { panic!("{result} is no list") };
        let mut many = Vec::new();
        for place in 0..1000 {
            for log in logs.iter() {
                let mut log = log.clone();
                attacks::lie::set(&mut log, "logIndex", format!("{place:#x}"));
                if many.last().is_none_or(|last: &Value| last != &log) {
                    many.push(log);
                }
            }
        }
        *logs = many;
    });
    let directory = tempfile::tempdir().expect("a directory");
    let spill = |limit| Spill { directory: directory.path().to_owned(), limit };
    let ledger = |urls: Vec<url::Url>, limit| {
        let trust = if urls.len() == 1 { HeaderTrust::Dev } else { HeaderTrust::Quorum(urls.len()) };
        let realm = RealmFile::new(world.pin.clone(), ProfileName::Dev, trust, urls).expect("a realm file");
        let mut ledger = Ledger::new(&realm, Limits::default()).expect("a reader");
        ledger.spill_into(spill(limit));
        ledger
    };
    let shards = [shard::GOVERNANCE, shard::DIRECTORY];

    let mut alone = ledger(vec![liar.url()], 100_000);
    let heads = alone.heads().await.expect("headers");
    let error = alone.read(&Cursor::default(), &heads, &shards).await.expect_err("too much");
    assert_eq!(cycle::chain_reason(&error), Reason::LedgerTooLarge, "{error}");
    // With room for it, it is seen to lead nowhere.
    let error = ledger(vec![liar.url()], 64 << 20).read(&Cursor::default(), &heads, &shards).await.expect_err("a lie");
    assert_eq!(cycle::chain_reason(&error), Reason::LogsIncomplete, "{error}");

    // The honest node's log has the room that the liar's had.
    let mut both = ledger(vec![liar.url(), honest.url()], 100_000);
    let reading = both.read(&Cursor::default(), &heads, &shards).await.expect("the truth");
    assert_eq!(reading.final_entries.count(), 5);
    let files = std::fs::read_dir(directory.path()).expect("the directory").count();
    assert_eq!(files, 0, "what waits has no name");
}
