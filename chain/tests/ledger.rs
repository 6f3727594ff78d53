//! Reading the ledger from real nodes: what is new, what is final, what a reorg takes back.

mod support;

use countersign_chain::{
    ChainError,
    profile::ProfileName,
    proofs,
    realm_file::{HeaderTrust, RealmFile},
    sync::{Cursor, Ledger},
};
use countersign_registry::{entries::Roles, shard, sign};
use serde_json::json;
use support::{
    Anvil, FUNDED_KEY, World, key, limits, look,
    proxy::{Act, Proxy},
    texts,
};

#[tokio::test]
async fn an_entry_is_in_the_latest_view_at_once_and_in_the_final_view_two_blocks_later() {
    let world = World::new().await;
    let mut ledger = world.ledger(HeaderTrust::Dev, &[&world.anvil.url]);
    world.anvil.mine(3).await;
    let first = look(&mut ledger, &Cursor::default()).await.unwrap();
    assert_eq!(first.final_entries[&shard::GOVERNANCE].len(), 1);
    assert!(texts(&first.final_entries).is_empty());

    let mined = world.note(&["alice", "bob"]).await;
    let second = look(&mut ledger, &first.cursor).await.unwrap();
    assert_eq!(texts(&second.latest_entries), ["alice", "bob"]);
    assert!(texts(&second.final_entries).is_empty());
    assert!(second.final_entries[&shard::GOVERNANCE].is_empty(), "the cursor has it already");
    let places: Vec<(u64, u64)> =
        second.latest_entries[&shard::DIRECTORY].iter().map(|placed| (placed.at.block, placed.at.index)).collect();
    assert_eq!(places, [(mined.block, 0), (mined.block, 1)]);
    assert_eq!(
        second.latest_entries[&shard::DIRECTORY].iter().map(|placed| placed.entry.clone()).collect::<Vec<_>>(),
        mined.entries
    );

    world.anvil.mine(2).await;
    world.note(&["carol"]).await;
    let third = look(&mut ledger, &second.cursor).await.unwrap();
    assert_eq!(texts(&third.final_entries), ["alice", "bob"]);
    assert_eq!(texts(&third.latest_entries), ["carol"]);
    assert_eq!(third.latest_entries[&shard::DIRECTORY][0].at.index, 2);
}

#[tokio::test]
async fn a_saved_cursor_continues_in_a_new_process_without_repeating_entries() {
    let world = World::new().await;
    let url = &world.anvil.url;
    world.note(&["alice"]).await;
    world.anvil.mine(3).await;
    let first = look(&mut world.ledger(HeaderTrust::Dev, &[url]), &Cursor::default()).await.unwrap();
    assert_eq!(texts(&first.final_entries), ["alice"]);
    let saved = serde_json::to_string(&first.cursor).unwrap();
    world.note(&["bob"]).await;
    world.anvil.mine(3).await;
    let cursor: Cursor = serde_json::from_str(&saved).unwrap();
    let second = look(&mut world.ledger(HeaderTrust::Dev, &[url]), &cursor).await.unwrap();
    assert_eq!(texts(&second.final_entries), ["bob"]);
    let third = look(&mut world.ledger(HeaderTrust::Dev, &[url]), &second.cursor).await.unwrap();
    assert!(!third.has_new_final_entries());
    assert_eq!(third.cursor, second.cursor);
}

#[tokio::test]
async fn a_cursor_that_does_not_belong_to_the_realm_yields_an_error_and_no_entries() {
    let world = World::new().await;
    world.note(&["alice"]).await;
    world.anvil.mine(3).await;
    let mut ledger = world.ledger(HeaderTrust::Dev, &[&world.anvil.url]);
    let mut cursor = look(&mut ledger, &Cursor::default()).await.unwrap().cursor;
    cursor.shards.get_mut(&shard::DIRECTORY).unwrap().tip.slot ^= alloy_primitives::U256::from(1u64 << 40);
    world.note(&["bob"]).await;
    let error = look(&mut ledger, &cursor).await.unwrap_err();
    assert!(matches!(error, ChainError::HeadMismatch { shard: shard::DIRECTORY, .. }), "{error}");
}

#[tokio::test]
async fn a_reorg_takes_back_what_was_latest_and_nothing_that_was_final() {
    let world = World::new().await;
    let mut ledger = world.ledger(HeaderTrust::Dev, &[&world.anvil.url]);
    world.note(&["sure"]).await;
    world.anvil.mine(4).await;
    let first = look(&mut ledger, &Cursor::default()).await.unwrap();
    assert_eq!(texts(&first.final_entries), ["sure"]);
    world.note(&["gone"]).await;
    let second = look(&mut ledger, &first.cursor).await.unwrap();
    assert_eq!(texts(&second.latest_entries), ["gone"]);

    world.anvil.roll_back(1).await;
    world.anvil.mine(1).await;
    world.note(&["instead"]).await;
    let third = look(&mut ledger, &second.cursor).await.unwrap();
    assert_eq!(texts(&third.latest_entries), ["instead"]);
    world.anvil.mine(3).await;
    let fourth = look(&mut ledger, &third.cursor).await.unwrap();
    assert_eq!(texts(&fourth.final_entries), ["instead"]);
    assert_eq!(fourth.final_entries[&shard::DIRECTORY][0].at.index, 1);
}

#[tokio::test]
async fn a_chain_that_goes_back_behind_the_final_block_is_refused() {
    let world = World::new().await;
    let mut ledger = world.ledger(HeaderTrust::Dev, &[&world.anvil.url]);
    world.anvil.mine(6).await;
    let first = look(&mut ledger, &Cursor::default()).await.unwrap();
    world.anvil.roll_back(4).await;
    let error = look(&mut ledger, &first.cursor).await.unwrap_err();
    assert!(matches!(error, ChainError::WentBack { what: "latest block", .. }), "{error}");
    // The same height again, with another block: anvil gives the new blocks other times.
    world.anvil.call("evm_increaseTime", json!([1000])).await;
    world.anvil.mine(2).await;
    let heads = ledger.heads().await.unwrap();
    assert_eq!(heads.latest.number, first.final_header.number);
    let error = look(&mut ledger, &first.cursor).await.unwrap_err();
    assert!(matches!(error, ChainError::WentBack { what: "final block", .. }), "{error}");
}

#[tokio::test]
async fn a_node_that_proves_only_its_tip_is_enough_once_a_proved_tip_is_final() {
    let world = World::new().await;
    let tip_only = Proxy::start(&world.anvil.url, {
        let newest = std::sync::Mutex::new(String::new());
        move |method, params| {
            if method == "eth_getBlockByNumber" && params[0] == "latest" {
                return Act::Pass;
            }
            let mut newest = newest.lock().unwrap();
            match method {
                // The test says which block is the tip.
                "test_tip" => {
                    *newest = params[0].as_str().unwrap().to_owned();
                    Act::Say(json!(true))
                }
                "eth_getProof" if params[2]["blockHash"] != json!(*newest) && params[2] != json!(*newest) => {
                    Act::Fail(-32000, "distance to target block exceeds maximum proof window")
                }
                _ => Act::Pass,
            }
        }
    })
    .await;
    let mut ledger = world.ledger(HeaderTrust::Dev, &[&tip_only.url]);
    let nodes = support::endpoints(&[&tip_only.url]);
    let proxy = nodes.iter().next().unwrap();
    let mut cursor = Cursor::default();
    let mut outcomes = Vec::new();
    for text in ["one", "two", "three", "four"] {
        world.note(&[text]).await;
        let heads = ledger.heads().await.unwrap();
        let _: bool = proxy.call("test_tip", json!([heads.latest.hash.to_string()])).await.unwrap();
        let shards = [shard::GOVERNANCE, shard::DIRECTORY];
        match ledger.update(&cursor, &heads, &shards).await {
            Ok(update) => {
                outcomes.push(format!("{:?} {:?}", texts(&update.final_entries), texts(&update.latest_entries)));
                cursor = update.cursor;
            }
            Err(error) => {
                assert!(matches!(error, ChainError::NotYetFinal { .. }), "{error}");
                outcomes.push("not yet".into());
            }
        }
    }
    assert_eq!(outcomes, ["not yet", "not yet", r#"["one"] ["two", "three"]"#, r#"["two"] ["three", "four"]"#]);
    // A node that lost its history and a reader that was restarted in between: the saved cursor carries the proved tips.
    let mut restarted = world.ledger(HeaderTrust::Dev, &[&tip_only.url]);
    world.note(&["five"]).await;
    let heads = restarted.heads().await.unwrap();
    let _: bool = proxy.call("test_tip", json!([heads.latest.hash.to_string()])).await.unwrap();
    let update = restarted.update(&cursor, &heads, &[shard::GOVERNANCE, shard::DIRECTORY]).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["three"]);
}

#[tokio::test]
async fn empty_shards_are_proved_empty_and_many_shards_are_proved_in_batches() {
    let world = World::new().await;
    world.note(&["alice"]).await;
    let ledger = world.ledger(HeaderTrust::Dev, &[&world.anvil.url]);
    let header = ledger.heads().await.unwrap().latest;
    let shards: Vec<u64> = (0..600).map(|epoch| shard::shard(7, epoch)).chain([shard::DIRECTORY]).collect();
    let slots = proofs::prove(ledger.endpoints(), &world.pin, &header, &shards).await.unwrap();
    assert_eq!(slots.len(), 601);
    assert_eq!(slots.values().filter(|slot| slot.is_zero()).count(), 600);
    assert!(!slots[&shard::DIRECTORY].is_zero());
}

#[tokio::test]
async fn roles_and_root_set_are_read_with_proof() {
    let world = World::new().await;
    let ledger = world.ledger(HeaderTrust::Dev, &[&world.anvil.url]);
    let header = ledger.heads().await.unwrap().latest;
    let admin = proofs::actor(ledger.endpoints(), &world.pin, &header, key(FUNDED_KEY).address()).await.unwrap();
    assert_eq!(admin.roles, Roles::ADMIN | Roles::ISSUER | Roles::REVOKER);
    let nobody = proofs::actor(ledger.endpoints(), &world.pin, &header, world.root.address()).await.unwrap();
    assert_eq!(nobody, proofs::ActorSlot::default());
    let one = alloy_primitives::U256::ONE;
    assert_eq!(
        proofs::root_set(ledger.endpoints(), &world.pin, &header).await.unwrap(),
        sign::root_set_hash(one, one, &world.pin.roots)
    );
}

#[tokio::test]
async fn another_contract_than_the_pinned_one_proves_nothing() {
    let world = World::new().await;
    let mut pin = world.pin.clone();
    pin.code_hash = alloy_primitives::B256::repeat_byte(1);
    let realm = RealmFile::new(pin, ProfileName::Dev, HeaderTrust::Dev, vec![world.anvil.url.clone()]).unwrap();
    let error = look(&mut Ledger::new(&realm, limits()).unwrap(), &Cursor::default()).await.unwrap_err();
    assert!(matches!(&error, ChainError::Proof { detail, .. } if detail.contains("code hash")), "{error}");
}

#[tokio::test]
async fn another_chain_and_another_beginning_are_refused() {
    let world = World::new().await;
    let other_id = Anvil::with(&["--chain-id", "1337"]);
    let error = world.ledger(HeaderTrust::Dev, &[&other_id.url]).heads().await.unwrap_err();
    assert!(matches!(error, ChainError::WrongChain { got: 1337, expected: 31337, .. }), "{error}");
    let other_genesis = Anvil::with(&["--timestamp", "1600000000"]);
    let error = world.ledger(HeaderTrust::Dev, &[&other_genesis.url]).heads().await.unwrap_err();
    assert!(matches!(error, ChainError::WrongGenesis { .. }), "{error}");
}

#[tokio::test]
async fn on_a_private_chain_the_final_block_is_sixty_four_below_the_tip() {
    let anvil = Anvil::with(&["--chain-id", "4711"]);
    let second = Proxy::start(&anvil.url, |_, _| Act::Pass).await;
    let nodes = support::endpoints(&[&anvil.url]);
    let genesis = countersign_chain::source::genesis_hash(nodes.iter().next().unwrap()).await.unwrap();
    let roots = vec![key(FUNDED_KEY).address()];
    let (contract, salt) = (alloy_primitives::Address::repeat_byte(9), alloy_primitives::B256::ZERO);
    let pin = countersign_registry::RealmPin {
        chain_id: 4711,
        contract,
        code_hash: salt,
        realm: sign::realm_id(4711, contract, 1, &roots, salt),
        threshold: 1,
        roots,
        salt,
        deployed_block: 0,
        genesis_hash: genesis,
    };
    let urls = vec![anvil.url.clone(), second.url.clone()];
    let realm = RealmFile::new(pin, ProfileName::PrivateGeth, HeaderTrust::Quorum(2), urls).unwrap();
    let ledger = Ledger::new(&realm, limits()).unwrap();
    anvil.mine(10).await;
    let heads = ledger.heads().await.unwrap();
    assert_eq!((heads.latest.number, heads.final_header.number), (10, 0));
    anvil.mine(90).await;
    let heads = ledger.heads().await.unwrap();
    assert_eq!((heads.latest.number, heads.final_header.number), (100, 36));
}

#[tokio::test]
async fn a_shard_of_many_entries_arrives_whole_and_in_order() {
    let world = World::new().await;
    let texts_written: Vec<String> = (0..400).map(|number| format!("note {number}")).collect();
    for part in texts_written.chunks(80) {
        world.note(&part.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    world.anvil.mine(3).await;
    // Answers limited to a fraction of the whole: the range is halved until they fit.
    let realm =
        RealmFile::new(world.pin.clone(), ProfileName::Dev, HeaderTrust::Dev, vec![world.anvil.url.clone()]).unwrap();
    let mut ledger = Ledger::new(&realm, countersign_chain::endpoints::Limits { answer: 100_000, ..limits() }).unwrap();
    let update = look(&mut ledger, &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), texts_written);
}
