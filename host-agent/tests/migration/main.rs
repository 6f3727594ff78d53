//! A realm that moves, as a host meets it: anvil to geth, with the source alive, lying, slow and gone; from an archive; by a statement;
//! and everything that must not move it.

#![expect(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test: a failure is its result")]

mod realm;
mod statements;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use countersign_agent::reason::Reason;
use countersign_certificate::RealmId;
use countersign_chain::ChainError;
use countersign_chain::realm_file::{Links, RealmFile};
use countersign_registry::entries::{Entry, Targets};
use countersign_registry::migration::Heads;
use countersign_registry::{Fingerprint20, U256, shard, sign};
use countersign_snapshot::Denial;
use harness::node::Client;
use harness::proxy::{Act, Proxy};
use serde_json::json;
use support::{HostFiles, World, grant, key_lock};

use realm::*;

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
    source.anvil.roll_back(1).await;
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
