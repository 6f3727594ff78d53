//! A realm that moves, as a host meets it: anvil to geth, with the source alive, lying, slow and gone; from an archive; by a statement;
//! and everything that must not move it.

#![expect(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test: a failure is its result")]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use countersign_agent::reason::Reason;
use countersign_certificate::RealmId;
use countersign_chain::archive;
use countersign_chain::profile::ProfileName;
use countersign_chain::realm_file::{HeaderTrust, Links, RealmFile};
use countersign_chain::send::{RootProof, RootSignature};
use countersign_chain::sync::{Cursor, Ledger};
use countersign_chain::{ChainError, keys::ActorKey, proofs};
use countersign_registry::entries::{Entry, Roles, Targets, payload};
use countersign_registry::migration::statement::{RootSignature as Signed, Statement};
use countersign_registry::migration::{Heads, Place};
use countersign_registry::{Address, B256, Fingerprint20, RealmPin, U256, shard, sign};
use countersign_snapshot::Denial;
use harness::node::Client;
use harness::proxy::{Act, Proxy};
use serde_json::json;
use support::{ADMIN_KEY, DEVICE_KEY, HostFiles, OTHER_ROOT_KEY, ROOT_KEY, World, grant, key, key_lock, limits};
use url::Url;

/// A realm of the same contract as a world's, by other first roots or another salt: it costs nothing to make one.
struct Realm<'a> {
    world: &'a World,
    pin: RealmPin,
    nonce: Cell<u64>,
    /// Those in force.
    roots: RefCell<Vec<Address>>,
}

impl<'a> Realm<'a> {
    /// Governed by both roots of the world.
    fn of(world: &'a World, salt: u8) -> Self {
        let (threshold, salt, roots) = (2, B256::repeat_byte(salt), world.pin.roots.clone());
        let realm = sign::realm_id(world.pin.chain_id, world.pin.contract, threshold, &roots, salt);
        let pin = RealmPin { realm, threshold, salt, ..world.pin.clone() };
        Self { world, pin, nonce: Cell::new(0), roots: roots.into() }
    }

    /// The world's own, of which one root is enough.
    fn own(world: &'a World) -> Self {
        let pin = world.pin.clone();
        Self { world, nonce: Cell::new(1), roots: pin.roots.clone().into(), pin }
    }

    /// Other keys take the place of both roots.
    async fn replace_roots(&self, keys: &[(u8, ActorKey)]) {
        let roots: Vec<Address> = keys.iter().map(|(_, key)| key.address()).collect();
        let set = payload::RootSet { threshold: U256::from(self.pin.threshold), roots: roots.clone() };
        self.by_roots(&[Entry::RootSet(set)]).await;
        self.roots.replace(roots);
    }

    async fn by(&self, keys: &[(u8, ActorKey)], entries: &[Entry]) -> Result<(), ChainError> {
        let pin = &self.pin;
        let writes: Vec<sign::Write> =
            entries.iter().map(|entry| sign::write(shard::write_shard(entry.kind()).unwrap(), entry)).collect();
        let nonce = U256::from(self.nonce.get());
        let domain = sign::domain(pin.chain_id, pin.contract);
        let digest = sign::append_by_roots_digest(&domain, pin.realm, nonce, &writes);
        let signature = |(index, key): &(u8, ActorKey)| RootSignature {
            index: *index,
            signature: key.sign(&digest).unwrap().as_bytes().to_vec().into(),
        };
        let signatures: Vec<RootSignature> = keys.iter().map(signature).collect();
        let threshold = U256::from(pin.threshold);
        let proof = RootProof { nonce, threshold, roots: self.roots.borrow().clone(), salt: pin.salt };
        self.world.admin.append_by_roots(pin.contract, pin.realm, proof, &writes, &signatures, &mut |_| ()).await?;
        self.nonce.set(self.nonce.get() + 1);
        Ok(())
    }

    async fn by_roots(&self, entries: &[Entry]) {
        self.by(&both(), entries).await.unwrap();
    }

    async fn append(&self, entry: &Entry) {
        let write = sign::write(shard::write_shard(entry.kind()).unwrap(), entry);
        self.world.admin.append(self.pin.contract, self.pin.realm, &write, &mut |_| ()).await.unwrap();
    }

    fn file(&self) -> RealmFile {
        self.file_at(&self.world.anvil.url)
    }

    fn file_at(&self, url: &Url) -> RealmFile {
        RealmFile::new(self.pin.clone(), ProfileName::Dev, HeaderTrust::Dev, vec![url.clone()]).unwrap()
    }

    fn place(&self) -> Place {
        Place::from(&self.pin)
    }

    /// The heads of its final log.
    async fn heads(&self) -> Heads {
        let mut ledger = Ledger::new(&self.file(), limits()).unwrap();
        let heads = ledger.heads().await.unwrap();
        let update = ledger.update(&Cursor::default(), &heads, &shards(heads.latest.time)).await.unwrap();
        let slots = update.cursor.shards.iter().map(|(shard, known)| (*shard, known.tip.slot));
        Heads { block: update.final_header.number, slots: slots.filter(|(_, slot)| !slot.is_zero()).collect() }
    }

    async fn archive(&self, path: &Path) {
        let mut ledger = Ledger::new(&self.file(), limits()).unwrap();
        let now = ledger.heads().await.unwrap();
        let reading = ledger.read(&Cursor::default(), &now, &shards(now.latest.time)).await.unwrap();
        let header = &reading.final_header;
        let root_set = proofs::root_set(ledger.endpoints(), &self.pin, header).await.unwrap();
        archive::write(path, &self.pin, header, root_set, reading.final_entries).unwrap();
    }

    /// A statement that this realm goes on in `target`, signed by these.
    fn statement(&self, target: &Realm<'_>, heads: &Heads, nonce: u64, by: &[(u8, ActorKey)]) -> Statement {
        let (threshold, roots) = (self.pin.threshold, by.iter().map(|(_, key)| key.address()).collect());
        let mut statement = Statement::new(self.pin.realm, nonce, threshold, roots, target.place(), heads.clone());
        let digest = statement.digest(self.pin.chain_id, self.pin.contract);
        statement.signatures = by
            .iter()
            .map(|(root, key)| Signed { root: *root, signature: key.sign(&digest).unwrap().as_bytes().to_vec().into() })
            .collect();
        statement
    }

    /// The same log with admin and revoker as the target must have it.
    fn arrival(&self, source: &Realm<'_>, heads: &Heads) -> Vec<Entry> {
        vec![Entry::Migrated(payload::Migrated::new(&source.place(), heads)), role(self.world)]
    }

    fn departure(&self, heads: &Heads) -> Entry {
        Entry::Migrate(payload::Migrate::new(&self.place(), heads))
    }
}

fn shards(now: u64) -> Vec<u64> {
    let mut shards = shard::access_shards(now, 86_400);
    shards.extend(shard::delivery_shards(now - 86_400, now));
    shards
}

fn both() -> [(u8, ActorKey); 2] {
    [(0, key(OTHER_ROOT_KEY)), (1, key(ROOT_KEY))]
}

/// Who comes after them.
fn successors() -> [(u8, ActorKey); 2] {
    [(0, key(DEVICE_KEY)), (1, key(ADMIN_KEY))]
}

fn role(world: &World) -> Entry {
    Entry::RoleSet(payload::RoleSet {
        actor: world.admin.address(),
        roles: Roles::ADMIN | Roles::ISSUER | Roles::REVOKER,
        x25519: world.admin_sealing.public().to_bytes().into(),
    })
}

/// A file beside the host's realm file.
fn beside(host: &HostFiles, name: &str, file: RealmFile, links: Links) -> PathBuf {
    let path = host.path(name);
    let _ = std::fs::remove_file(&path);
    file.linked(links).unwrap().create(&path).unwrap();
    path
}

fn to(successor: &str) -> Links {
    Links { successor: Some(successor.into()), ..Links::default() }
}

fn from(predecessor: &str) -> Links {
    Links { predecessor: Some(predecessor.into()), ..Links::default() }
}

/// geth gives each block a second of its own: a chain that is made in a hurry runs ahead of the clock.
async fn finalize(target: &Realm<'_>, host: &HostFiles) {
    target.world.anvil.finalize().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    host.shift.raise(i64::try_from(target.world.latest_time().await.saturating_sub(now)).unwrap());
}

/// To the target by a statement.
fn by_statement() -> Links {
    Links {
        successor: Some("target.toml".into()),
        archive: Some("source.archive".into()),
        statement: Some("statement.json".into()),
        predecessor: None,
    }
}

fn put(host: &HostFiles, statement: &Statement) {
    std::fs::write(host.path("statement.json"), serde_json::to_vec(statement).unwrap()).unwrap();
}

/// A host whose realm file is replaced by one with links.
fn host_of(realm: &Realm<'_>, host: countersign_certificate::Id, links: Links) -> HostFiles {
    let files = HostFiles::of(&realm.file(), host, "");
    beside(&files, "realm.toml", realm.file(), links);
    files
}

#[tokio::test]
async fn a_host_follows_its_realm_from_anvil_to_geth_and_what_was_denied_there_stays_denied() {
    let (source, geth) = (World::new().await, World::of(Client::Geth).await);
    let target = Realm::of(&geth, 1);
    let records = source.populate().await;
    let left = Realm::own(&source);
    let one_root = |realm: &Realm<'_>| realm.pin.threshold == 1;
    assert!(one_root(&left), "the world's own realm");

    let mode = Arc::new(AtomicU8::new(0));
    let proxy = Proxy::start(&source.anvil.url, {
        let mode = Arc::clone(&mode);
        move |method, _| match (mode.load(Ordering::Relaxed), method) {
            (1, "eth_getLogs") => Act::Say(json!([])),
            (2, _) => Act::Silent,
            (3, _) => Act::HangUp,
            _ => Act::Pass,
        }
    })
    .await;
    let host = HostFiles::of(&left.file_at(&proxy.url), records.host, "");
    beside(&host, "realm.toml", left.file_at(&proxy.url), to("target.toml"));
    beside(&host, "target.toml", target.file(), Links::default());
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());

    // The target's half first. A MIGRATE that is not final moves nobody, and one that a reorg takes back never was.
    let heads = left.heads().await;
    target.by_roots(&target.arrival(&left, &heads)).await;
    finalize(&target, &host).await;
    let departure = [sign::write(shard::GOVERNANCE, &target.departure(&heads))];
    source.by_roots(&departure).await;
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert_eq!(host.status()["realm"], json!(left.pin.realm));
    source.anvil.call("anvil_rollback", json!([1])).await;
    source.root_writes_are_gone(1);
    source.anvil.mine(4).await;
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert_eq!(host.status()["realm"], json!(left.pin.realm));
    // What is granted between the heads and the move does not count; what is denied there does.
    let late = source.add(9, &Entry::GrantAdd(grant(9, records.user, records.host))).await;
    source.by_roots(&departure).await;
    source.anvil.finalize().await;
    drop(agent);
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    let snapshot = host.snapshot();
    assert_eq!(snapshot.facts().realm, RealmId(target.pin.realm.0));
    assert_eq!(snapshot.key_grant(records.user, b"deploy").unwrap(), Some(records.grant));
    assert_eq!(snapshot.grant(late).unwrap(), None);
    assert_eq!(host.status()["realm"], json!(target.pin.realm));
    assert_eq!(host.status()["left"][0]["realm"], json!(left.pin.realm));
    assert_eq!(host.status()["latest"]["number"], geth.latest_number().await);
    assert!(host.log.text().contains("event=realm-moved"), "{}", host.log.text());

    // The archive for later, and what is written on the target.
    let file = host.path("source.archive");
    left.archive(&file).await;
    target.append(&Entry::GrantAdd(grant(10, records.user, records.host))).await;
    finalize(&target, &host).await;

    // A lock on the source counts at once; its nodes may lie, be silent or be gone, and nobody waits for them.
    source.append(shard::DENIALS, &key_lock(records.key)).await;
    for way in [1, 2, 3] {
        mode.store(way, Ordering::Relaxed);
        let begun = Instant::now();
        assert_eq!(agent.cycle().await.failure, None, "{way}: {}", host.log.text());
        assert!(begun.elapsed() < Duration::from_secs(8), "{way}: {:?}", begun.elapsed());
        assert_eq!(host.snapshot().key_revoked(records.key).unwrap(), None, "{way}");
        drop(agent);
        agent = host.open();
    }
    assert!(host.log.text().contains("reason=predecessor-silent"), "{}", host.log.text());
    mode.store(0, Ordering::Relaxed);
    assert_eq!(agent.cycle().await.failure, None);
    assert_eq!(host.snapshot().key_revoked(records.key).unwrap(), Some(Denial::Locked));
    source.anvil.finalize().await;
    assert_eq!(agent.cycle().await.failure, None);

    // The source is gone for good. The target's unlock does not lift what the source has locked, also after a restart.
    drop(source);
    mode.store(3, Ordering::Relaxed);
    target.by_roots(&[Entry::Unlock(Targets::Keys(vec![records.key]))]).await;
    finalize(&target, &host).await;
    assert_eq!(agent.cycle().await.failure, None);
    drop(agent);
    let mut agent = host.open();
    assert!(agent.republish().unwrap());
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert_eq!(host.snapshot().key_revoked(records.key).unwrap(), Some(Denial::Locked));
    assert!(host.status()["left"][0]["failure"].is_string());
    drop(agent);

    // The host is pinned to the target at last: what it knows stays known.
    let gone = RealmFile::load(&host.path("realm.toml")).unwrap().linked(Links::default()).unwrap();
    beside(&host, "source.toml", gone.clone(), Links::default());
    beside(&host, "realm.toml", target.file(), from("source.toml"));
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert_eq!(host.set_aside(), Vec::<String>::new());
    assert_eq!(host.snapshot().key_revoked(records.key).unwrap(), Some(Denial::Locked));
    drop(agent);

    // A new host has the archive alone; an archive from which an entry is missing does not do.
    let fresh = HostFiles::of(&target.file(), records.host, "");
    beside(&fresh, "realm.toml", target.file(), from("source.toml"));
    let archived = Links { archive: Some(file.clone()), ..Links::default() };
    beside(&fresh, "source.toml", gone.clone(), Links::default());
    finalize(&target, &fresh).await;
    let mut agent = fresh.open();
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::PredecessorLog);
    beside(&fresh, "source.toml", gone, archived);
    assert_eq!(agent.cycle().await.failure, None, "{}", fresh.log.text());
    let snapshot = fresh.snapshot();
    assert_eq!(snapshot.key_grant(records.user, b"deploy").unwrap(), Some(records.grant));
    assert_eq!(snapshot.login(b"alice").unwrap().unwrap().uid.0, 1_900_000_000);
    drop(agent);
    let mut agent = fresh.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", fresh.log.text());
}

#[tokio::test]
async fn a_move_that_the_two_realms_do_not_both_name_leads_nowhere() {
    let world = World::new().await;
    let id = countersign_certificate::Id([5; 16]);
    let realm = |salt| Realm::of(&world, salt);
    let realms: BTreeMap<u8, Realm<'_>> = (10..30).map(|salt| (salt, realm(salt))).collect();
    // Fewer roots than the threshold cannot write the entry at all.
    let one = both()[..1].to_vec();
    let heads = Heads { block: 1, slots: BTreeMap::from([(0, U256::ONE)]) };
    let error = realms[&10].by(&one, &[realms[&11].departure(&heads)]).await.unwrap_err();
    assert!(matches!(error, ChainError::Reverted { .. }), "{error}");

    // Sources 10, 12, … go to 11, 13, ….
    let pairs: Vec<u8> = (10..24).step_by(2).collect();
    for source in &pairs {
        realms[source].by_roots(&[role(&world)]).await;
    }
    world.anvil.finalize().await;
    let mut heads = BTreeMap::new();
    for source in &pairs {
        heads.insert(*source, realms[source].heads().await);
    }
    for source in &pairs {
        realms[source].by_roots(&[realms[&(source + 1)].departure(&heads[source])]).await;
    }
    let arrive = async |salt: u8, from: u8, heads: &Heads| {
        realms[&salt].by_roots(&realms[&salt].arrival(&realms[&from], heads)).await;
    };
    // 10 → 11 never arrives. 12 → 13 arrives with other heads. 14 → 15 arrives from another realm. 16 → 17 is sound, and 28 is an attacker's
    // who says the same. 18 → 19 begins with something else. 20 → 21 goes back.
    let other = Heads { block: heads[&12].block, slots: BTreeMap::from([(0, U256::from(7))]) };
    arrive(13, 12, &other).await;
    arrive(15, 16, &heads[&14]).await;
    arrive(17, 16, &heads[&16]).await;
    arrive(28, 16, &heads[&16]).await;
    realms[&19].by_roots(&[role(&world)]).await;
    arrive(19, 18, &heads[&18]).await;
    arrive(21, 20, &heads[&20]).await;
    world.anvil.finalize().await;
    let back = realms[&21].heads().await;
    realms[&21].by_roots(&[realms[&20].departure(&back)]).await;
    world.anvil.finalize().await;

    let cases: [(u8, Option<u8>, Reason); 7] = [
        (16, None, Reason::Migrated),
        (16, Some(28), Reason::MigrateTarget),
        (10, Some(11), Reason::SuccessorNotArrived),
        (12, Some(13), Reason::MigrateHeads),
        (14, Some(15), Reason::MigrateSource),
        (18, Some(19), Reason::SuccessorNotArrived),
        (20, Some(21), Reason::MigrateLoop),
    ];
    for (source, target, reason) in cases {
        let host = host_of(&realms[&source], id, target.map_or_else(Links::default, |_| to("target.toml")));
        if let Some(target) = target {
            beside(&host, "target.toml", realms[&target].file(), to("realm.toml"));
        }
        let failure = host.open().cycle().await.failure.unwrap();
        assert_eq!(failure.reason, reason, "{source} to {target:?}: {}", failure.message);
        assert!(!host.path("state/snapshot/access/manifest").exists(), "{source} to {target:?}");
    }

    // A file that is missing or wrong, and then right: nothing was spoilt.
    let host = host_of(&realms[&16], id, to("target.toml"));
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::SuccessorFile);
    std::fs::write(host.path("target.toml"), "version = 1\n").unwrap();
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::SuccessorFile);
    beside(&host, "target.toml", realms[&17].file(), Links::default());
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert_eq!(host.status()["realm"], json!(realms[&17].pin.realm));
    // A file that goes away later is missed at the next start only, and then keeps what is there.
    drop(agent);
    std::fs::remove_file(host.path("target.toml")).unwrap();
    assert_eq!(host.open().cycle().await.failure.unwrap().reason, Reason::SuccessorFile);

    // From the target's end.
    let cases: [(u8, Option<u8>, Reason); 4] = [
        (17, None, Reason::PredecessorNeeded),
        (17, Some(14), Reason::MigrateSource),
        (13, Some(12), Reason::PredecessorLog),
        (19, Some(18), Reason::SuccessorNotArrived),
    ];
    for (target, source, reason) in cases {
        let host = host_of(&realms[&target], id, source.map_or_else(Links::default, |_| from("source.toml")));
        if let Some(source) = source {
            beside(&host, "source.toml", realms[&source].file(), Links::default());
        }
        let failure = host.open().cycle().await.failure.unwrap();
        assert_eq!(failure.reason, reason, "{target} from {source:?}: {}", failure.message);
    }
}

#[tokio::test]
async fn a_dead_chain_is_left_by_a_statement_of_the_threshold_and_by_nothing_less() {
    let world = World::new().await;
    let id = countersign_certificate::Id([5; 16]);
    let (source, target, other) = (Realm::of(&world, 40), Realm::of(&world, 41), Realm::of(&world, 42));
    source.by_roots(&[role(&world)]).await;
    world.anvil.finalize().await;
    let heads = source.heads().await;
    target.by_roots(&target.arrival(&source, &heads)).await;
    world.anvil.finalize().await;

    let dead: Url = "http://127.0.0.1:1".parse().unwrap();
    let host = HostFiles::of(&source.file(), id, "");
    source.archive(&host.path("source.archive")).await;
    assert_eq!(host.open().cycle().await.failure, None, "{}", host.log.text());
    beside(&host, "realm.toml", source.file_at(&dead), by_statement());
    beside(&host, "target.toml", target.file(), Links::default());

    let unsigned = |of: &Realm<'_>| {
        Statement::new(of.pin.realm, 1, of.pin.threshold, of.pin.roots.clone(), target.place(), heads.clone())
    };
    let signed = |mut statement: Statement, by: &[usize]| {
        let digest = statement.digest(source.pin.chain_id, source.pin.contract);
        for index in by {
            let (root, key) = both()[*index].clone();
            let signature = key.sign(&digest).unwrap().as_bytes().to_vec().into();
            statement.signatures.push(Signed { root, signature });
        }
        statement
    };
    let mut altered = signed(unsigned(&source), &[0, 1]);
    altered.heads.block += 1;
    let mut swapped = signed(unsigned(&source), &[0, 1]);
    for signature in &mut swapped.signatures {
        signature.root = 1 - signature.root;
    }
    let mut fewer = unsigned(&source);
    fewer.threshold = 1;
    let mut elsewhere = unsigned(&source);
    elsewhere.target = other.place();
    let mut other_heads = unsigned(&source);
    other_heads.heads.block += 1;
    let cases = [
        (signed(unsigned(&source), &[0]), Reason::StatementThreshold),
        (signed(unsigned(&source), &[1, 1]), Reason::StatementDuplicate),
        (signed(unsigned(&other), &[0, 1]), Reason::StatementRealm),
        (signed(fewer, &[0]), Reason::StatementRoots),
        (altered, Reason::StatementSignature),
        (swapped, Reason::StatementSignature),
        (signed(elsewhere, &[0, 1]), Reason::MigrateTarget),
        (signed(other_heads, &[0, 1]), Reason::MigrateHeads),
    ];
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::StatementFile);
    for (statement, reason) in cases {
        put(&host, &statement);
        let failure = agent.cycle().await.failure.unwrap();
        assert_eq!(failure.reason, reason, "{}", failure.message);
        assert_eq!(host.status()["realm"], json!(source.pin.realm));
    }
    put(&host, &signed(unsigned(&source), &[1, 0]));
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert_eq!(host.status()["realm"], json!(target.pin.realm));
    drop(agent);
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
}

#[tokio::test]
async fn a_statement_by_roots_that_were_replaced_moves_nobody_whatever_log_it_names() {
    let world = World::new().await;
    let id = countersign_certificate::Id([5; 16]);
    let realms: Vec<Realm<'_>> = (50..54).map(|salt| Realm::of(&world, salt)).collect();
    let [source, stolen, target, third] = realms.as_slice() else { unreachable!("four") };
    source.by_roots(&[role(&world)]).await;
    world.anvil.finalize().await;
    let (host, fresh) = (HostFiles::of(&source.file(), id, ""), HostFiles::of(&source.file(), id, ""));
    let before = source.heads().await;
    source.archive(&fresh.path("source.archive")).await;
    source.replace_roots(&successors()).await;
    world.anvil.finalize().await;
    let after = source.heads().await;
    source.archive(&host.path("source.archive")).await;
    // Whoever has the old keys has a realm of his own that says it comes from here; so has the realm's owner.
    stolen.by_roots(&stolen.arrival(source, &before)).await;
    target.by_roots(&target.arrival(source, &after)).await;
    target.replace_roots(&successors()).await;
    world.anvil.finalize().await;

    let dead: Url = "http://127.0.0.1:1".parse().unwrap();
    let refused = async |host: &HostFiles, statement: Statement, text: &str| {
        put(host, &statement);
        let failure = host.open().cycle().await.failure.unwrap();
        assert_eq!(failure.reason, Reason::StatementRoots, "{}", failure.message);
        assert!(failure.message.contains(text), "{}", failure.message);
        assert_eq!(host.status()["realm"], json!(source.pin.realm));
    };
    let old = |nonce, heads| source.statement(stolen, heads, nonce, &both());
    // A host that has seen the roots replaced, and one that has seen nothing: with the log from before, or one that somebody made up.
    assert_eq!(host.open().cycle().await.failure, None, "{}", host.log.text());
    for host in [&host, &fresh] {
        beside(host, "realm.toml", source.file_at(&dead), by_statement());
        beside(host, "target.toml", stolen.file(), Links::default());
    }
    for nonce in [1, 2, 3] {
        refused(&host, old(nonce, &before), "not those in force").await;
        refused(&fresh, old(nonce, &before), "has never read realm").await;
    }
    // While its chain lives, a host asks it first: even one that was away while the roots were replaced.
    beside(&fresh, "realm.toml", source.file(), by_statement());
    put(&fresh, &old(1, &before));
    assert_eq!(fresh.open().cycle().await.failure, None, "{}", fresh.log.text());
    assert_eq!(fresh.status()["realm"], json!(source.pin.realm));
    assert_eq!(fresh.status()["last-failure"]["reason"], json!("statement-roots"));

    // What the roots in force have signed and withdrawn since, by writing something else.
    beside(&host, "target.toml", target.file(), to("third.toml"));
    refused(&host, source.statement(target, &after, 1, &successors()), "the roots have written since").await;

    // The right one; and in the same breath a statement of the target's own first roots, which were replaced as well.
    let ends = target.heads().await;
    third.by_roots(&third.arrival(target, &ends)).await;
    world.anvil.finalize().await;
    put(&host, &source.statement(target, &after, 2, &successors()));
    let hop = target.statement(third, &ends, 1, &both());
    std::fs::write(host.path("hop.json"), serde_json::to_vec(&hop).unwrap()).unwrap();
    let on = |statement: &str| Links { statement: Some(statement.into()), ..to("third.toml") };
    beside(&host, "target.toml", target.file(), on("hop.json"));
    beside(&host, "third.toml", third.file(), Links::default());
    assert_eq!(host.open().cycle().await.failure, None, "{}", host.log.text());
    assert_eq!(host.status()["realm"], json!(target.pin.realm));
    assert_eq!(host.status()["last-failure"]["reason"], json!("statement-roots"), "{}", host.log.text());
    // The first realm's statement again, in the name of the second.
    beside(&host, "target.toml", target.file(), on("statement.json"));
    assert_eq!(host.open().cycle().await.failure, None, "{}", host.log.text());
    assert_eq!(host.status()["realm"], json!(target.pin.realm));
    assert_eq!(host.status()["last-failure"]["reason"], json!("statement-realm"), "{}", host.log.text());
}

#[tokio::test]
async fn a_host_follows_two_moves_from_its_first_realm_file_and_what_the_first_realm_denies_holds_in_the_third() {
    let world = World::new().await;
    let records = world.populate().await;
    let first = Realm::own(&world);
    let (second, third) = (Realm::of(&world, 60), Realm::of(&world, 61));
    let lock = |seed: u8| (Fingerprint20([seed; 20]), key_lock(Fingerprint20([seed; 20])));
    let ((before, before_lock), (late, late_lock), (between, between_lock)) = (lock(1), lock(2), lock(3));
    first.append(&before_lock).await;
    world.anvil.finalize().await;
    let heads = first.heads().await;
    second.by_roots(&second.arrival(&first, &heads)).await;
    world.by_roots(&[sign::write(shard::GOVERNANCE, &second.departure(&heads))]).await;
    world.anvil.finalize().await;
    second.append(&between_lock).await;
    second.append(&Entry::GrantAdd(grant(9, records.user, records.host))).await;
    world.anvil.finalize().await;
    let heads = second.heads().await;
    third.by_roots(&third.arrival(&second, &heads)).await;
    second.by_roots(&[third.departure(&heads)]).await;
    world.anvil.finalize().await;

    let host = host_of(&first, records.host, to("second.toml"));
    beside(&host, "second.toml", second.file(), to("third.toml"));
    beside(&host, "third.toml", third.file(), Links::default());
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    let assert_holds = |denied: &[Fingerprint20]| {
        let snapshot = host.snapshot();
        assert_eq!(snapshot.facts().realm, RealmId(third.pin.realm.0));
        assert_eq!(snapshot.login(b"alice").unwrap().unwrap().uid.0, 1_900_000_000);
        assert_eq!(snapshot.key_grant(records.user, b"deploy").unwrap(), Some(records.grant));
        for key in denied {
            assert_eq!(snapshot.key_revoked(*key).unwrap(), Some(Denial::Locked), "{key:?}");
        }
    };
    assert_holds(&[before, between]);
    assert_eq!(host.snapshot().key_revoked(late).unwrap(), None);
    let left = [&first, &second].map(|realm| json!(realm.pin.realm));
    assert_eq!([0, 1].map(|leg| host.status()["left"][leg]["realm"].clone()), left);

    // What the first realm denies after both moves counts in the third, whose roots do not lift it; those before the moves they do.
    first.append(&late_lock).await;
    world.anvil.finalize().await;
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert_holds(&[before, between, late]);
    third.by_roots(&[Entry::Unlock(Targets::Keys(vec![before, late]))]).await;
    world.anvil.finalize().await;
    drop(agent);
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert_holds(&[between, late]);
    assert_eq!(host.snapshot().key_revoked(before).unwrap(), None);
}
