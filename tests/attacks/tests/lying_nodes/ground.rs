//! What all cells of the table stand on: a chain and another one with the same beginning, and one host's state from before the
//! newest entries. Each cell is an agent of its own that begins from a copy of that state, so that all have the same news before
//! them, nothing is left behind, and they can wait beside each other.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy_primitives::{B256, U256};
use attacks::{
    lie::Liar,
    node::{Client, Node},
    proxy::Act,
    stage::on_time,
    world::{HostFiles, Records, World, grant, key_lock},
};
use countersign_agent::{
    cycle::{Failure, MAX_LOOK_BACK_SECS, wanted_shards},
    reason::Reason,
};
use countersign_certificate::Id;
use countersign_chain::{
    profile::ProfileName,
    realm_file::{HeaderTrust, RealmFile},
    send::{RootProof, RootSignature},
};
use countersign_registry::{
    RealmPin,
    entries::{Entry, Roles, Targets, payload},
    shard, sign,
};
use countersign_snapshot::{Clock, Denial};
use serde_json::{Value, json};

use crate::questions::{Knowledge, Listener, Question};

/// How a cycle ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With this reason, in the status and in the log; the snapshot's bytes are what they were.
    Refused(Reason),
    /// What an honest node makes the agent publish, byte for byte; no reason anywhere.
    Truth,
    /// The same of an honest node that is behind: with the newest denials, and what has become final left out.
    FinalWithheld,
    /// The same of an honest node to which the snapshot's newest block is the final one: what the agent makes do with where it
    /// proved that block itself and gets no proof of a later final one.
    FinalBehind,
    /// The same of an honest node that shows the final block for the newest.
    LatestWithheld,
    /// The same of an honest node that has seen nothing since the snapshot before.
    NothingNew,
    /// The truth, with its newest block called final: what one node alone is believed about a development chain.
    FinalAhead,
}

/// By path below the snapshot's directory.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A liar's rule for one cell.
pub(crate) type Lie = dyn Fn(Question, &Value, &Knowledge) -> Act + Send + Sync;

/// See the module.
pub(crate) struct Ground {
    world: World,
    _fork: World,
    records: Records,
    later: Id,
    start: HostFiles,
    /// Another realm of the same contract, with entries in the same shards.
    pub(crate) other_realm: B256,
    /// What liars know.
    pub(crate) knowledge: Arc<Knowledge>,
    latest_time: u64,
    honest: Vec<Liar>,
    before: Files,
    references: Vec<(Outcome, Files)>,
    _directory: tempfile::TempDir,
}

/// Locks a host that is none.
fn lock(host: u8) -> Entry {
    Entry::Lock(Targets::Hosts(vec![Id([host; 16])]))
}

impl Ground {
    /// On a node of the test's choice.
    pub(crate) async fn of(client: Client) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [node, twin] = Node::twins(client, directory.path()).await;
        let (world, fork) = (World::on(node).await, World::on(twin).await);
        let beginning = |pin: &RealmPin| (pin.genesis_hash, pin.contract, pin.realm);
        assert_eq!(beginning(&world.pin), beginning(&fork.pin), "the same beginning, contract and realm");
        let records = world.populate().await;
        world.append(shard::DENIALS, &lock(0xe1)).await;

        let before = Arc::new(Mutex::new(BTreeMap::new()));
        let start = first_snapshot(&world, &records, &before).await;
        let (known, published) = {
            let facts = start.snapshot().facts().clone();
            (facts.final_block.number, facts.latest_block.number)
        };
        let mut before = std::mem::take(&mut *before.lock().unwrap());
        before.insert(Question::ByNumber, before[&Question::Finalized].clone());

        let other_realm = other_realm(&world).await;
        let later = world.add(9, &Entry::GrantAdd(grant(9, records.user, records.host))).await;
        world.append(shard::DENIALS, &lock(0xe2)).await;
        world.anvil.finalize().await;
        world.anvil.mine(1).await;
        // The other history: the same records, and nobody's key is locked. It lies between what is final here and the news, so that no lie
        // shows by its block's time alone: its final block is not after the news. A geth that develops gives its blocks a second each, or the
        // clock's time where that is later; where the machine was slow the news wait for the clock.
        if client == Client::Anvil {
            fork.anvil.call("evm_increaseTime", json!([20])).await;
            world.anvil.call("evm_increaseTime", json!([60])).await;
        }
        fork.populate().await;
        let news_at = world.latest_number().await + 1;
        fork.anvil.mine(news_at.saturating_sub(fork.latest_number().await)).await;
        if fork.latest_number().await > news_at {
            fork.anvil.set_head(news_at).await;
        }
        let fork_final = fork.anvil.time("finalized").await;
        while world.latest_time().await.max(Clock::now().unwrap().unix_secs) < fork_final {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let news = [key_lock(records.key), lock(0xe3)].map(|entry| sign::write(shard::DENIALS, &entry));
        world.admin.append_many(world.pin.contract, world.pin.realm, &news, &mut |_| ()).await.unwrap();
        on_time(&world, &start).await;
        let (finalized, latest) = (world.anvil.number("finalized").await, world.latest_number().await);
        assert!(known < published && published < finalized && finalized + 1 < latest, "blocks to tell apart");
        assert_eq!(fork.latest_number().await, latest, "two blocks of one height");
        assert!(fork_final <= world.latest_time().await, "the other history is final after the news");
        let address = fork.anvil.url.socket_addrs(|| None).unwrap()[0];
        let knowledge = Arc::new(Knowledge { known, finalized, latest, before, fork: address });

        let mut honest = Vec::new();
        for _ in 0..2 {
            honest.push(Liar::start(&world.anvil.url).await);
        }
        let before = files(&start);
        let latest_time = world.latest_time().await;
        let mut ground = Self {
            world,
            _fork: fork,
            records,
            later,
            start,
            other_realm,
            knowledge,
            latest_time,
            honest,
            before,
            references: Vec::new(),
            _directory: directory,
        };
        ground.references(published).await;
        ground
    }

    /// What honest nodes that see so much, or so little, make of it.
    async fn references(&mut self, published: u64) {
        let hex = |number: u64| format!("{number:#x}");
        let Knowledge { known, finalized, latest, .. } = *self.knowledge;
        for (outcome, newest, last, locked, granted) in [
            (Outcome::Truth, latest, finalized, true, true),
            (Outcome::FinalWithheld, latest, known, true, false),
            (Outcome::FinalBehind, latest, published, true, false),
            (Outcome::LatestWithheld, finalized, finalized, false, true),
            (Outcome::NothingNew, published, known, false, false),
            (Outcome::FinalAhead, latest, latest, true, true),
        ] {
            let lie: Arc<Lie> = Arc::new(move |question, _, _| match question {
                Question::Latest => Act::Ask(json!([hex(newest), false])),
                Question::Finalized => Act::Ask(json!([hex(last), false])),
                _ => Act::Pass,
            });
            let (listener, host, failure) = self.cycle(HeaderTrust::Dev, lie).await;
            assert_eq!(failure, None, "{outcome:?}");
            if outcome == Outcome::Truth {
                assert_eq!(listener.asked().into_iter().collect::<Vec<_>>(), Question::ALL, "what an agent asks for");
            }
            let snapshot = host.snapshot();
            snapshot.verify().unwrap();
            assert_eq!(snapshot.facts().latest_block.number, newest, "{outcome:?}");
            assert_eq!(snapshot.facts().final_block.number, last, "{outcome:?}");
            assert_eq!(
                snapshot.key_revoked(self.records.key).unwrap(),
                locked.then_some(Denial::Locked),
                "{outcome:?}"
            );
            assert_eq!(snapshot.grant(self.later).unwrap().is_some(), granted, "{outcome:?}");
            assert!(snapshot.grant(self.records.grant).unwrap().is_some(), "{outcome:?}");
            let told = told(&host);
            assert!(self.references.iter().all(|(_, other)| *other != told), "{outcome:?} can be told from the others");
            self.references.push((outcome, told));
        }
    }

    /// What turns slots of the realm, as they are asked for, into those of the same shards in the other one.
    pub(crate) fn other_slots(&self) -> impl Fn(&Value) -> Value + Send + Sync + 'static {
        let both = [self.world.pin.realm, self.other_realm];
        let pairs: BTreeMap<B256, B256> = wanted_shards(self.latest_time, MAX_LOOK_BACK_SECS, None)
            .into_iter()
            .map(|shard| both.map(|realm| sign::head_slot(realm, shard)).into())
            .collect();
        move |asked| {
            let asked: Vec<B256> = serde_json::from_value(asked.clone()).unwrap();
            asked.iter().map(|slot| json!(pairs[slot])).collect()
        }
    }

    /// One cycle against a node that lies so: alone, or in front of two honest ones of which two are enough.
    async fn cycle(&self, trust: HeaderTrust, lie: Arc<Lie>) -> (Arc<Listener>, HostFiles, Option<Failure>) {
        let liar = Liar::start(&self.world.anvil.url).await;
        let listener = Arc::new(Listener::default());
        liar.does({
            let (knowledge, listener) = (Arc::clone(&self.knowledge), Arc::clone(&listener));
            move |method, params| match listener.question(method, params, knowledge.finalized) {
                Some(question) => lie(question, params, &knowledge),
                None => Act::Pass,
            }
        });
        let mut urls = vec![liar.url()];
        if trust != HeaderTrust::Dev {
            urls.extend(self.honest.iter().map(Liar::url));
        }
        let realm = RealmFile::new(self.world.pin.clone(), ProfileName::Dev, trust, urls).unwrap();
        let host = HostFiles::of(&realm, self.records.host, "");
        copy(&self.start.path("state"), &host.path("state"));
        on_time(&self.world, &host).await;
        let failure = host.open().cycle().await.failure;
        (listener, host, failure)
    }

    /// How such a cycle ends, with status, log and snapshot looked at.
    ///
    /// # Errors
    /// Words for an end that is none of them.
    pub(crate) async fn outcome(&self, trust: HeaderTrust, lie: Arc<Lie>) -> Result<Outcome, String> {
        let (listener, host, failure) = self.cycle(trust, lie).await;
        listener.asked();
        let (status, log) = (host.status(), host.log.text());
        let Some(failure) = failure else {
            if status["failures"] != 0 || !status["last-failure"].is_null() || log.contains("reason=") {
                return Err(format!("published with a reason: {status} {log}"));
            }
            let told = told(&host);
            let found = self.references.iter().find(|(_, reference)| *reference == told);
            return found.map(|(outcome, _)| *outcome).ok_or_else(|| {
                format!("published what no honest node tells: {}", String::from_utf8_lossy(&told[Path::new("facts")]))
            });
        };
        let reason = failure.reason.as_str();
        if status["failures"] != 1 || status["last-failure"]["reason"] != reason {
            return Err(format!("{failure}, and the status says {status}"));
        }
        if log.matches("reason=").count() != 1 || !log.contains(&format!("reason={reason} ")) {
            return Err(format!("{failure}, and the log says {log}"));
        }
        if files(&host) != self.before {
            return Err(format!("{failure}, and the snapshot has changed"));
        }
        Ok(Outcome::Refused(failure.reason))
    }
}

/// A realm with another salt, in which the same account wrote to the same shards.
async fn other_realm(world: &World) -> B256 {
    let salt = B256::repeat_byte(8);
    let pin = &world.pin;
    let realm = sign::realm_id(pin.chain_id, pin.contract, pin.threshold, &pin.roots, salt);
    let role = Entry::RoleSet(payload::RoleSet {
        actor: world.admin.address(),
        roles: Roles::ADMIN | Roles::REVOKER,
        x25519: B256::ZERO,
    });
    let writes = [sign::write(shard::GOVERNANCE, &role)];
    let digest = sign::append_by_roots_digest(&sign::domain(pin.chain_id, pin.contract), realm, U256::ZERO, &writes);
    let signature = world.root.sign(&digest).unwrap().as_bytes().to_vec().into();
    let proof = RootProof { nonce: U256::ZERO, threshold: U256::ONE, roots: pin.roots.clone(), salt };
    let signatures = [RootSignature { index: 1, signature }];
    world.admin.append_by_roots(pin.contract, realm, proof, &writes, &signatures, &mut |_| ()).await.unwrap();
    let write = sign::write(shard::DENIALS, &lock(0xe4));
    world.admin.append(pin.contract, realm, &write, &mut |_| ()).await.unwrap();
    realm
}

/// The host's first snapshot; what was answered on the way to it is kept.
async fn first_snapshot(world: &World, records: &Records, before: &Arc<Mutex<BTreeMap<Question, Value>>>) -> HostFiles {
    let node = Liar::start(&world.anvil.url).await;
    let (listener, finalized) = (Listener::default(), world.anvil.number("finalized").await);
    let before = Arc::clone(before);
    node.does(move |method, params| {
        let Some(question) = listener.question(method, params, finalized) else { return Act::Pass };
        let before = Arc::clone(&before);
        Act::Alter(Box::new(move |result| {
            before.lock().unwrap().insert(question, result.clone());
        }))
    });
    let realm = RealmFile::new(world.pin.clone(), ProfileName::Dev, HeaderTrust::Dev, vec![node.url()]).unwrap();
    let host = HostFiles::of(&realm, records.host, "");
    on_time(world, &host).await;
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    agent.flush();
    host
}

/// Every file of the snapshot.
fn files(host: &HostFiles) -> Files {
    let below = host.path("state/snapshot");
    let files = host.snapshot_files().into_iter();
    files.map(|(path, bytes)| (path.strip_prefix(&below).unwrap().to_owned(), bytes)).collect()
}

/// What a login is answered from: the newest files, and what the manifest says of the ledger. It says when it was published as
/// well, and files of the publication before lie there for a while.
fn told(host: &HostFiles) -> Files {
    let newest = files(host).into_iter().map(|(path, bytes)| (path.with_extension(""), bytes));
    let mut files: Files = newest.filter(|(path, _)| !path.ends_with("manifest")).collect();
    let snapshot = host.snapshot();
    let says = format!("{:?} until {}", snapshot.facts(), snapshot.manifest().freshness.valid_until_secs);
    files.insert("facts".into(), says.into());
    files
}

/// A directory as it is, modes included.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).map(drop).unwrap()
        }
    }
}
