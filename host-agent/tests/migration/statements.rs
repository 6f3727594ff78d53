//! A dead chain is left by a statement of the roots that a host has proved to be in force, and by nothing else.

use crate::support::{HostFiles, World};
use countersign_agent::reason::Reason;
use countersign_chain::realm_file::Links;
use countersign_registry::entries::Entry;
use countersign_registry::migration::statement::{RootSignature as Signed, Statement};
use countersign_registry::{shard, sign};
use harness::proxy::{Act, Proxy};
use serde_json::json;
use url::Url;

use crate::realm::*;

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
    beside(&host, "target.toml", target.file(), Links::default());

    let unsigned = |of: &Realm<'_>| {
        Statement::new(
            of.pin.realm,
            source.nonce.get(),
            of.pin.threshold,
            of.pin.roots.clone(),
            target.place(),
            heads.clone(),
        )
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
    // The roots withdraw a statement by a write where no host looks. While the chain lives, a host that knows their nonce asks for it all
    // the same, and what it has learnt it still knows when the chain is dead.
    let withdrawn = signed(unsigned(&source), &[0, 1]);
    let ahead = shard::period(world.latest_time().await) + u32::try_from(shard::PERIODS_AHEAD).unwrap();
    let revoked = Entry::CertRevoke { ca: countersign_registry::Id([1; 16]), serials: vec![7] };
    let unread = sign::write(shard::shard(shard::CLASS_REVOCATIONS, ahead), &revoked);
    assert!(!host.open().shards_read().contains(&unread.shard));
    source.write(&both(), vec![unread]).await.unwrap();
    world.anvil.finalize().await;
    beside(&host, "realm.toml", source.file(), by_statement());
    put(&host, &withdrawn);
    assert_eq!(host.open().cycle().await.failure, None, "{}", host.log.text());
    let failure = host.status()["last-failure"].clone();
    assert_eq!((&failure["reason"], &host.status()["realm"]), (&json!("statement-roots"), &json!(source.pin.realm)));
    assert!(
        failure["message"].as_str().unwrap().contains("the roots have written since: 2 is the next one"),
        "{failure}"
    );
    std::fs::remove_file(host.path("statement.json")).unwrap();
    beside(&host, "realm.toml", source.file_at(&dead), by_statement());
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
        (withdrawn, Reason::StatementRoots),
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
    // The nodes of the first prove all but the roots' nonce.
    let slot = json!(sign::root_set_slot(source.pin.realm));
    let proxy = Proxy::start(&world.anvil.url, move |method, params| match params[1].as_array() {
        Some(slots) if method == "eth_getProof" && slots.contains(&slot) => Act::Fail(-32000, "no such state"),
        _ => Act::Pass,
    })
    .await;
    beside(&host, "realm.toml", source.file_at(&proxy.url), Links::default());
    assert_eq!(host.open().cycle().await.failure, None, "{}", host.log.text());
    // So they make no statement good while they answer, withdrawn or not.
    beside(&host, "realm.toml", source.file_at(&proxy.url), by_statement());
    beside(&host, "target.toml", target.file(), Links::default());
    for nonce in [1, 2] {
        put(&host, &source.statement(target, &after, nonce, &successors()));
        assert_eq!(host.open().cycle().await.failure, None, "{}", host.log.text());
        let failure = host.status()["last-failure"].clone();
        assert!(failure["message"].as_str().unwrap().contains("do not prove its roots' nonce"), "{failure}");
        assert_eq!(
            (&failure["reason"], &host.status()["realm"]),
            (&json!("statement-roots"), &json!(source.pin.realm))
        );
    }
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

    // What the roots in force have signed and withdrawn since, by writing something else: this host has seen them write, although nobody
    // has ever proved their nonce to it. And what they could not withdraw by anything.
    beside(&host, "target.toml", target.file(), to("third.toml"));
    refused(&host, source.statement(target, &after, 1, &successors()), "the roots have written since").await;
    refused(
        &host,
        source.statement(target, &after, u64::MAX, &successors()),
        "cannot withdraw one that is still far off",
    )
    .await;

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
