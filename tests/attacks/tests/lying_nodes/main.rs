//! Nodes that lie, in front of both clients: the exact reason code, the old snapshot's bytes, and the truth once it is told. Here one
//! listed lie after the other; in `table`, every answer and everything that can be done to it.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "what tests share fails loudly"
)]

mod ground;
mod proofs;
mod questions;
mod table;

use std::time::Duration;

use alloy_primitives::B256;
use attacks::{
    lie::{drop_member, flip, rehash, set},
    node::Client,
    on_both_clients,
    proxy::Act,
    stage::Stage,
    world::{HostFiles, World},
};
use countersign_agent::reason::Reason;
use countersign_chain::{
    profile::ProfileName,
    realm_file::{HeaderTrust, RealmFile},
};
use countersign_registry::{
    entries::{Entry, Targets},
    shard, sign,
};
use serde_json::{Value, json};

type Lie = fn(&mut Value);
type ListLie = fn(&mut Vec<Value>);

const SLOTS: &str = "storageProof";

on_both_clients!(
    a_header_that_was_changed_in_any_field_is_refused,
    a_header_with_a_field_of_a_later_fork_is_refused_as_one_and_a_harmless_addition_is_not,
    a_block_that_is_none_is_refused,
    another_chain_id_and_another_beginning_are_refused,
    code_or_contract_that_is_not_the_pinned_one_publishes_nothing_at_all,
    an_old_head_under_a_new_block_is_refused,
    a_final_block_that_goes_back_takes_nothing_back_and_another_one_of_its_height_is_refused,
    logs_that_are_not_the_shards_entries_are_refused,
    one_liar_of_three_neither_misleads_nor_delays_whatever_it_lies_about,
    nodes_that_disagree_and_fewer_than_enough_publish_nothing,
    two_liars_with_one_story_are_not_three_of_four,
    a_final_block_that_only_liars_call_final_grants_nothing,
    a_silent_node_of_three_costs_a_deadline_and_not_the_truth,
    a_slow_node_that_makes_many_calls_necessary_does_not_hold_the_others_back,
    all_silent_publishes_nothing,
);

async fn a_header_that_was_changed_in_any_field_is_refused(client: Client) {
    let mut stage = Stage::dev_of(client).await;
    for field in [
        "parentHash",
        "sha3Uncles",
        "miner",
        "stateRoot",
        "transactionsRoot",
        "receiptsRoot",
        "logsBloom",
        "number",
        "gasLimit",
        "gasUsed",
        "timestamp",
        "mixHash",
        "nonce",
        "baseFeePerGas",
        "withdrawalsRoot",
        "blobGasUsed",
        "excessBlobGas",
        "parentBeaconBlockRoot",
        "requestsHash",
        "hash",
    ] {
        for tag in ["latest", "finalized"] {
            stage.node().alters_block(tag, move |block| flip(&mut block[field]));
            stage.refuses(&format!("{tag}: {field} changed"), Reason::HeaderUntrusted).await;
            stage.node().alters_block(tag, move |block| drop_member(block, field));
            stage.refuses(&format!("{tag}: {field} dropped"), Reason::HeaderUntrusted).await;
        }
    }
    stage.node().is_honest();
    stage.publishes_the_truth("honest again").await;
}

async fn a_header_with_a_field_of_a_later_fork_is_refused_as_one_and_a_harmless_addition_is_not(client: Client) {
    let mut stage = Stage::dev_of(client).await;
    stage.node().alters_block("latest", |block| {
        set(block, "laterFork", "0x1");
        flip(&mut block["hash"]);
    });
    stage.refuses("a field that takes part in the hash", Reason::HeaderUntrusted).await;
    assert!(stage.host.log.text().contains("chain has upgraded"), "{}", stage.host.log.text());
    stage.node().alters_block("latest", |block| {
        set(block, "laterFork", json!([{ "deep": [1, 2] }]));
    });
    stage.publishes_the_truth("a field that does not").await;
}

async fn a_block_that_is_none_is_refused(client: Client) {
    let mut stage = Stage::dev_of(client).await;
    for (what, answer) in [
        ("null", Value::Null),
        ("a list", json!([])),
        ("an empty object", json!({})),
        ("a text", json!("0x1")),
        ("a number", json!(7)),
        ("lists for fields", json!({ "hash": ["0x00"], "number": {} })),
    ] {
        stage.node().alters_block("latest", move |block| *block = answer.clone());
        stage.refuses(what, Reason::HeaderUntrusted).await;
    }
}

async fn another_chain_id_and_another_beginning_are_refused(client: Client) {
    let mut stage = Stage::dev_of(client).await;
    stage.node().alters("eth_chainId", |id| *id = json!("0x1"));
    stage.refuses("chain id", Reason::ChainMismatch).await;
    stage.node().alters("eth_chainId", |id| *id = json!("31337"));
    stage.refuses("a chain id that is no number", Reason::EndpointsSilent).await;
    stage.node().alters_block("0x0", |block| {
        flip(&mut block["timestamp"]);
        rehash(block);
    });
    stage.refuses("a genesis that re-hashes", Reason::ChainMismatch).await;
    stage.node().alters_block("0x0", |block| flip(&mut block["timestamp"]));
    stage.refuses("a genesis that does not", Reason::HeaderUntrusted).await;
    stage.node().is_honest();
    stage.publishes_the_truth("honest again").await;
}

async fn code_or_contract_that_is_not_the_pinned_one_publishes_nothing_at_all(client: Client) {
    let mut world = World::of(client).await;
    let records = world.populate().await;
    let pin = world.pin.clone();
    world.pin.code_hash = B256::repeat_byte(1);
    let host = HostFiles::new(&world, records.host, "");
    assert_eq!(host.open().cycle().await.failure.unwrap().reason, Reason::CodeHash);
    assert!(!host.path("state/snapshot").exists());

    // An account without code, under a realm id that follows from it.
    world.pin = pin;
    world.pin.contract = world.admin.address();
    let pin = &world.pin;
    world.pin.realm = sign::realm_id(pin.chain_id, pin.contract, pin.threshold, &pin.roots, pin.salt);
    let host = HostFiles::new(&world, records.host, "");
    assert_eq!(host.open().cycle().await.failure.unwrap().reason, Reason::CodeHash);
    assert!(!host.path("state/snapshot").exists());

    // A realm id that does not follow from contract and roots is refused before anybody is asked.
    world.pin.realm = B256::repeat_byte(3);
    let refused = RealmFile::new(world.pin.clone(), ProfileName::Dev, HeaderTrust::Dev, Vec::new()).unwrap_err();
    assert!(refused.to_string().contains("realm"), "{refused}");
}

async fn an_old_head_under_a_new_block_is_refused(client: Client) {
    let mut stage = Stage::dev_of(client).await;
    let old = format!("{:#x}", stage.world.latest_number().await - 1);
    // A true proof, of the block before the lock.
    stage.node().does({
        let old = old.clone();
        move |method, params| match method {
            "eth_getProof" => Act::Ask(json!([params[0], params[1], old])),
            _ => Act::Pass,
        }
    });
    stage.refuses("the proof of the block before", Reason::ProofInvalid).await;

    // The block before, said to be the newest: older than what is published in the end, as old as it now.
    stage.node().is_honest();
    stage.publishes_the_truth("honest").await;
    stage.node().does(move |method, params| match (method, params[0].as_str()) {
        ("eth_getBlockByNumber", Some("latest")) => Act::Ask(json!([old, false])),
        _ => Act::Pass,
    });
    stage.refuses("a frozen node", Reason::LatestWentBack).await;
}

async fn a_final_block_that_goes_back_takes_nothing_back_and_another_one_of_its_height_is_refused(client: Client) {
    let mut stage = Stage::dev_of(client).await;
    let known = stage.host.snapshot().facts().final_block.number;
    stage.node().does(|method, params| match (method, params[0].as_str()) {
        ("eth_getBlockByNumber", Some("finalized")) => Act::Ask(json!(["0x1", false])),
        _ => Act::Pass,
    });
    // The older final block is a lagging node's; denials of the newest block count all the same.
    stage.publishes_the_truth("an older final block").await;
    assert_eq!(stage.host.snapshot().facts().final_block.number, known);

    let height = format!("{known:#x}");
    stage.node().does(move |method, params| match (method, params[0].as_str()) {
        ("eth_getBlockByNumber", Some("finalized")) => Act::Ask(json!([height, false])),
        _ => Act::Pass,
    });
    stage.publishes_the_truth("the same final block").await;
    let height = format!("{known:#x}");
    let node = stage.node();
    node.does(move |method, params| match (method, params[0].as_str()) {
        ("eth_getBlockByNumber", Some("finalized")) => {
            let genuine = height.clone();
            Act::Alter(Box::new(move |block| {
                set(block, "number", genuine);
                flip(&mut block["parentHash"]);
                rehash(block);
            }))
        }
        _ => Act::Pass,
    });
    stage.refuses("another final block of that height", Reason::FinalWentBack).await;
}

async fn logs_that_are_not_the_shards_entries_are_refused(client: Client) {
    let mut stage = Stage::dev_of(client).await;
    let list = |lie: ListLie| move |logs: &mut Value| lie(logs.as_array_mut().unwrap());
    let incomplete: [(&str, ListLie); 5] = [
        ("all omitted", |logs| logs.clear()),
        ("the first omitted", |logs| {
            logs.drain(..1.min(logs.len()));
        }),
        ("data altered", |logs| logs.iter_mut().for_each(|log| flip_inside(&mut log["data"]))),
        ("actor altered", |logs| logs.iter_mut().for_each(|log| flip(&mut log["topics"][3]))),
        ("cut", |logs| {
            let half = logs.len() / 2;
            logs.truncate(half);
        }),
    ];
    for (what, lie) in incomplete {
        stage.node().alters("eth_getLogs", list(lie));
        stage.refuses(what, Reason::LogsIncomplete).await;
    }
    let unusable: [(&str, Lie); 6] = [
        ("another realm's", |logs| each(logs, |log| flip(&mut log["topics"][1]))),
        ("another contract's", |logs| each(logs, |log| flip(&mut log["address"]))),
        ("another shard's", |logs| each(logs, |log| flip(&mut log["topics"][2]))),
        ("said to be removed", |logs| each(logs, |log| set(log, "removed", true))),
        ("of a block that was not asked for", |logs| each(logs, |log| set(log, "blockNumber", "0xffffff"))),
        ("without a place", |logs| each(logs, |log| set(log, "logIndex", Value::Null))),
    ];
    for (what, lie) in unusable {
        stage.node().alters("eth_getLogs", lie);
        stage.refuses(what, Reason::EndpointsSilent).await;
    }
    // The same log twice is what load balancers do, and the order of an answer means nothing.
    stage.node().alters("eth_getLogs", |logs| {
        let logs = logs.as_array_mut().unwrap();
        logs.extend(logs.clone());
        logs.reverse();
    });
    stage.publishes_the_truth("repeated and reversed").await;

    // Two entries of one transaction, each in the other's place.
    let lock = |host: u8| Entry::Lock(Targets::Hosts(vec![countersign_certificate::Id([host; 16])]));
    let writes = [0xe1, 0xe2].map(|host| sign::write(shard::DENIALS, &lock(host)));
    let pin = &stage.world.pin;
    stage.world.admin.append_many(pin.contract, pin.realm, &writes, &mut |_| ()).await.unwrap();
    stage.node().alters("eth_getLogs", |logs| {
        let logs = logs.as_array_mut().unwrap();
        let last = logs.len() - 1;
        let (one, other) = (logs[last - 1]["logIndex"].clone(), logs[last]["logIndex"].clone());
        set(&mut logs[last - 1], "logIndex", other);
        set(&mut logs[last], "logIndex", one);
    });
    stage.refuses("exchanged", Reason::LogsIncomplete).await;
    stage.node().alters("eth_getLogs", |logs| {
        let logs = logs.as_array_mut().unwrap();
        let first = logs[logs.len() - 2]["logIndex"].clone();
        set(logs.last_mut().unwrap(), "logIndex", first);
    });
    stage.refuses("two in one place", Reason::EndpointsSilent).await;
    stage.node().is_honest();
    stage.publishes_the_truth("honest again").await;
}

async fn one_liar_of_three_neither_misleads_nor_delays_whatever_it_lies_about(client: Client) {
    let mut stage = Stage::quorum_of(client, 2, 3).await;
    let lies: [(&str, &'static str, Lie); 8] = [
        ("chain id", "eth_chainId", |id| *id = json!("0x1")),
        ("another state root that re-hashes", "eth_getBlockByNumber", |block| {
            flip(&mut block["stateRoot"]);
            rehash(block);
        }),
        ("a time far ahead", "eth_getBlockByNumber", |block| {
            set(block, "timestamp", "0xffffffff");
            rehash(block);
        }),
        ("a number far ahead", "eth_getBlockByNumber", |block| {
            set(block, "number", "0xffffffffffffffff");
            rehash(block);
        }),
        ("no block", "eth_getBlockByNumber", |block| *block = Value::Null),
        ("no slots", "eth_getProof", |proof| set(proof, SLOTS, json!([]))),
        ("no logs", "eth_getLogs", |logs| *logs = json!([])),
        ("logs that were not asked for", "eth_getLogs", |logs| each(logs, |log| flip(&mut log["address"]))),
    ];
    for (what, method, lie) in lies {
        stage.world.anvil.mine(1).await;
        stage.node().alters(method, lie);
        stage.publishes_the_truth(what).await;
    }
    stage.world.anvil.mine(1).await;
    stage.node().does(|_, _| Act::HangUp);
    stage.publishes_the_truth("hangs up").await;
}

async fn nodes_that_disagree_and_fewer_than_enough_publish_nothing(client: Client) {
    let mut stage = Stage::quorum_of(client, 2, 3).await;
    let forged = |time: &'static str| {
        move |block: &mut Value| {
            set(block, "timestamp", time);
            rehash(block);
        }
    };
    stage.nodes[0].alters_block("latest", forged("0x7fffffff"));
    stage.nodes[1].alters_block("latest", forged("0x7ffffffe"));
    // Asked for the block by number, they contradict themselves; but the two tell the truth then, and that is a quorum.
    stage.publishes_the_truth("lies about the tag only").await;
    stage.world.anvil.mine(1).await;
    stage.nodes[0].alters("eth_getBlockByNumber", forged("0x7fffffff"));
    stage.nodes[1].alters("eth_getBlockByNumber", forged("0x7ffffffe"));
    stage.refuses("two liars with a story each", Reason::HeaderUntrusted).await;
    stage.nodes[1].does(|_, _| Act::HangUp);
    stage.refuses("a liar and a silent node", Reason::HeaderUntrusted).await;
    for node in &stage.nodes {
        node.does(|_, _| Act::HangUp);
    }
    stage.refuses("nobody", Reason::HeaderUntrusted).await;
    for node in &stage.nodes {
        node.is_honest();
    }
    stage.publishes_the_truth("honest again").await;
}

async fn two_liars_with_one_story_are_not_three_of_four(client: Client) {
    let mut stage = Stage::quorum_of(client, 3, 4).await;
    for node in stage.nodes.iter().take(2) {
        node.alters("eth_getBlockByNumber", |block| {
            flip(&mut block["stateRoot"]);
            rehash(block);
        });
    }
    stage.refuses("two of four", Reason::HeaderUntrusted).await;
    stage.nodes[1].is_honest();
    stage.publishes_the_truth("one of four").await;
}

async fn a_final_block_that_only_liars_call_final_grants_nothing(client: Client) {
    let mut stage = Stage::quorum_of(client, 2, 3).await;
    stage.world.anvil.leave_finality_behind().await;
    let later =
        stage.world.add(9, &Entry::GrantAdd(attacks::world::grant(9, stage.records.user, stage.records.host))).await;
    stage.node().does(|method, params| match (method, params[0].as_str()) {
        ("eth_getBlockByNumber", Some("finalized")) => Act::Ask(json!(["latest", false])),
        _ => Act::Pass,
    });
    stage.publishes_the_truth("one liar").await;
    assert_eq!(stage.host.snapshot().grant(later).unwrap(), None, "the grant is not final");
    stage.world.anvil.finalize().await;
    stage.publishes_the_truth("final now").await;
    assert!(stage.host.snapshot().grant(later).unwrap().is_some());
}

async fn a_silent_node_of_three_costs_a_deadline_and_not_the_truth(client: Client) {
    let mut stage = Stage::quorum_of(client, 2, 3).await;
    stage.node().does(|_, _| Act::Silent);
    stage.publishes_the_truth("silent").await;
    stage.world.anvil.mine(1).await;
    stage.node().does(|_, _| Act::Endless);
    stage.publishes_the_truth("endless").await;
}

async fn a_slow_node_that_makes_many_calls_necessary_does_not_hold_the_others_back(client: Client) {
    let mut stage = Stage::quorum_of(client, 2, 3).await;
    stage.world.anvil.mine(200).await;
    // One block at a time, each answer within its deadline: more than half an hour, if it had its way.
    stage.node().does(|method, params| match method {
        "eth_getLogs" if params[0]["fromBlock"] != params[0]["toBlock"] => Act::Fail(-32005, "range too large"),
        "eth_getLogs" => Act::Slow(Duration::from_secs(9)),
        _ => Act::Pass,
    });
    let cycle = stage.publishes_the_truth("slow");
    tokio::time::timeout(Duration::from_secs(60), cycle).await.expect("the next node is asked in time");
}

async fn all_silent_publishes_nothing(client: Client) {
    let (mut stage, mut three) = (Stage::dev_of(client).await, Stage::quorum_of(client, 2, 3).await);
    for node in stage.nodes.iter().chain(&three.nodes) {
        node.does(|_, _| Act::Silent);
    }
    let alone = stage.refuses("silent", Reason::EndpointsSilent);
    tokio::join!(alone, three.refuses("three of three silent", Reason::HeaderUntrusted));
}

fn each(logs: &mut Value, lie: fn(&mut Value)) {
    logs.as_array_mut().unwrap().iter_mut().for_each(lie);
}

fn flip_inside(text: &mut Value) {
    let Value::String(digits) = text else { panic!("{text} is no text") };
    // The block time, at the end of the first word.
    let digit = if digits.as_bytes()[65] == b'0' { "1" } else { "0" };
    digits.replace_range(65..66, digit);
}
