//! Nodes that omit, alter, lag, forge or fall silent, in front of a real chain: they cost time, never truth.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails loudly"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use countersign_chain::{
    ChainError,
    endpoints::{Endpoints, Limits},
    realm_file::HeaderTrust,
    sync::Cursor,
};
use serde_json::{Value, json};
use support::{
    Anvil, World, endpoints, look,
    proxy::{Act, Proxy},
    texts,
};
use url::Url;

/// A proxy that alters every answer to `eth_getLogs`.
async fn altering(target: &Url, alter: impl Fn(&mut Vec<Value>) + Clone + Send + Sync + 'static) -> Proxy {
    Proxy::start(target, move |method, _| {
        let alter = alter.clone();
        match method {
            "eth_getLogs" => Act::Alter(Box::new(move |result| alter(result.as_array_mut().unwrap()))),
            _ => Act::Pass,
        }
    })
    .await
}

async fn honest(target: &Url) -> Proxy {
    Proxy::start(target, |_, _| Act::Pass).await
}

async fn world_with_notes() -> World {
    let world = World::new().await;
    world.note(&["alice", "bob"]).await;
    world.note(&["carol"]).await;
    world.anvil.mine(3).await;
    world
}

/// Alone the liar yields an error and no entry; with an honest node behind it, every entry.
async fn is_caught(what: &str, alter: impl Fn(&mut Vec<Value>) + Clone + Send + Sync + 'static) {
    let world = world_with_notes().await;
    let liar = altering(&world.anvil.url, alter).await;
    let error = look(&mut world.ledger(HeaderTrust::Dev, &[&liar.url]), &Cursor::default()).await.unwrap_err();
    assert!(matches!(error, ChainError::HeadMismatch { .. } | ChainError::Malformed { .. }), "{what}: {error}");
    assert!(error.to_string().starts_with(&format!("{}:", liar.url.as_str().trim_end_matches('/'))), "{what}: {error}");
    let mut ledger = world.ledger(HeaderTrust::Dev, &[&liar.url, &world.anvil.url]);
    let update = look(&mut ledger, &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["alice", "bob", "carol"], "{what}");
}

#[tokio::test]
async fn an_omitted_entry_is_never_accepted_first_middle_or_last() {
    for omitted in ["alice", "bob", "carol"] {
        is_caught(omitted, move |logs| {
            let hex = alloy_primitives::hex::encode(omitted);
            logs.retain(|log| !log["data"].as_str().unwrap().contains(&hex));
        })
        .await;
    }
    is_caught("everything", Vec::clear).await;
}

#[tokio::test]
async fn an_altered_entry_is_never_accepted() {
    is_caught("payload", |logs| {
        for log in logs {
            let data = log["data"]
                .as_str()
                .unwrap()
                .replace(&alloy_primitives::hex::encode("bob"), &alloy_primitives::hex::encode("eve"));
            log["data"] = json!(data);
        }
    })
    .await;
    is_caught("actor", |logs| {
        for log in logs {
            log["topics"][3] = json!(format!("0x{:064x}", 1));
        }
    })
    .await;
    is_caught("block", |logs| {
        for log in logs {
            let block = u64::from_str_radix(&log["blockNumber"].as_str().unwrap()[2..], 16).unwrap();
            log["blockNumber"] = json!(format!("{:#x}", block - 1));
        }
    })
    .await;
    is_caught("meta", |logs| {
        for log in logs {
            let mut data = log["data"].as_str().unwrap().to_owned();
            let last = data.remove(65);
            data.insert(65, if last == '0' { '1' } else { '0' });
            log["data"] = json!(data);
        }
    })
    .await;
}

#[tokio::test]
async fn entries_in_another_order_are_never_accepted() {
    is_caught("order", |logs| {
        for log in logs {
            let index = u64::from_str_radix(&log["logIndex"].as_str().unwrap()[2..], 16).unwrap();
            log["logIndex"] = json!(format!("{:#x}", 9 - index));
        }
    })
    .await;
}

#[tokio::test]
async fn an_added_entry_is_never_accepted() {
    is_caught("added", |logs| {
        if let Some(mut extra) = logs.last().cloned() {
            extra["logIndex"] = json!("0xff");
            logs.push(extra);
        }
    })
    .await;
    is_caught("two in one place", |logs| {
        if let Some(mut extra) = logs.last().cloned() {
            extra["topics"][3] = json!(format!("0x{:064x}", 1));
            logs.push(extra);
        }
    })
    .await;
    is_caught("another contract's", |logs| {
        for log in logs {
            log["address"] = json!(format!("0x{:040x}", 1));
        }
    })
    .await;
    is_caught("removed", |logs| {
        for log in logs {
            log["removed"] = json!(true);
        }
    })
    .await;
}

#[tokio::test]
async fn a_log_that_is_repeated_as_it_stands_is_taken_once() {
    let world = world_with_notes().await;
    let stutterer = altering(&world.anvil.url, |logs| logs.extend(logs.clone())).await;
    let update = look(&mut world.ledger(HeaderTrust::Dev, &[&stutterer.url]), &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["alice", "bob", "carol"]);
}

fn span(params: &Value) -> u64 {
    let number = |key: &str| u64::from_str_radix(&params[0][key].as_str().unwrap()[2..], 16).unwrap();
    number("toBlock") - number("fromBlock") + 1
}

#[tokio::test]
async fn a_node_that_limits_ranges_is_asked_for_smaller_ones() {
    let world = world_with_notes().await;
    world.anvil.mine(200).await;
    world.note(&["dave"]).await;
    world.anvil.mine(3).await;
    let limited = Proxy::start(&world.anvil.url, |method, params| match method {
        "eth_getLogs" if span(params) > 10 => Act::Fail(-32005, "query exceeds max block range 10"),
        _ => Act::Pass,
    })
    .await;
    let update = look(&mut world.ledger(HeaderTrust::Dev, &[&limited.url]), &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["alice", "bob", "carol", "dave"]);
}

#[tokio::test]
async fn a_node_that_takes_single_blocks_only_is_read_by_hops() {
    let world = world_with_notes().await;
    world.anvil.mine(700).await;
    world.note(&["dave", "erin"]).await;
    world.anvil.mine(3).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let single = Proxy::start(&world.anvil.url, {
        let asked = Arc::clone(&asked);
        move |method, params| {
            if method != "eth_getLogs" {
                return Act::Pass;
            }
            asked.fetch_add(1, Ordering::SeqCst);
            if span(params) > 1 { Act::Fail(-32602, "block range too wide") } else { Act::Pass }
        }
    })
    .await;
    let update = look(&mut world.ledger(HeaderTrust::Dev, &[&single.url]), &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["alice", "bob", "carol", "dave", "erin"]);
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked < 300, "{asked} queries for 700 blocks: hops were not used");
}

#[tokio::test]
async fn a_silent_node_costs_its_deadline_and_the_next_one_answers() {
    let world = world_with_notes().await;
    let silent = Proxy::start(&world.anvil.url, |_, _| Act::Silent).await;
    let mut ledger = world.ledger(HeaderTrust::Dev, &[&silent.url, &world.anvil.url]);
    let start = Instant::now();
    let first = look(&mut ledger, &Cursor::default()).await.unwrap();
    assert_eq!(texts(&first.final_entries), ["alice", "bob", "carol"]);
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
    let asked = silent.calls();
    look(&mut ledger, &first.cursor).await.unwrap();
    assert_eq!(silent.calls(), asked, "the node that answered is asked first from then on");
}

#[tokio::test]
async fn a_node_that_proves_another_slot_value_is_passed_over() {
    let world = world_with_notes().await;
    let forger = Proxy::start(&world.anvil.url, |method, _| match method {
        "eth_getProof" => Act::Alter(Box::new(|result| {
            for proof in result["storageProof"].as_array_mut().unwrap() {
                proof["value"] = json!("0x0");
            }
        })),
        _ => Act::Pass,
    })
    .await;
    let error = look(&mut world.ledger(HeaderTrust::Dev, &[&forger.url]), &Cursor::default()).await.unwrap_err();
    assert!(matches!(error, ChainError::Proof { .. }), "{error}");
    let mut ledger = world.ledger(HeaderTrust::Dev, &[&forger.url, &world.anvil.url]);
    let update = look(&mut ledger, &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["alice", "bob", "carol"]);
}

#[tokio::test]
async fn a_node_whose_proof_is_wrong_for_a_moment_is_asked_again() {
    let world = world_with_notes().await;
    let asked = AtomicUsize::new(0);
    let hasty = Proxy::start(&world.anvil.url, move |method, _| match method {
        // Every second proof is of nothing, as of a node that is taking the next block in.
        "eth_getProof" if asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => {
            Act::Alter(Box::new(|result| result["accountProof"] = json!([])))
        }
        _ => Act::Pass,
    })
    .await;
    let update = look(&mut world.ledger(HeaderTrust::Dev, &[&hasty.url]), &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["alice", "bob", "carol"]);
}

#[tokio::test]
async fn a_header_with_another_state_root_does_not_re_hash() {
    let world = world_with_notes().await;
    let forger = Proxy::start(&world.anvil.url, |method, params| match method {
        "eth_getBlockByNumber" if params[0] == "latest" => {
            Act::Alter(Box::new(|result| result["stateRoot"] = json!(format!("0x{:064x}", 7))))
        }
        _ => Act::Pass,
    })
    .await;
    let error = world.ledger(HeaderTrust::Dev, &[&forger.url]).heads().await.unwrap_err();
    assert!(matches!(&error, ChainError::Header { block, .. } if block == "latest"), "{error}");
}

#[tokio::test]
async fn a_field_of_a_later_fork_is_refused_and_said_to_be_one() {
    let world = world_with_notes().await;
    let newer = Proxy::start(&world.anvil.url, |method, params| match method {
        "eth_getBlockByNumber" if params[0] == "latest" => Act::Alter(Box::new(|result| {
            result["quantumRoot"] = json!(format!("0x{:064x}", 7));
            result["hash"] = json!(format!("0x{:064x}", 8));
        })),
        _ => Act::Pass,
    })
    .await;
    let error = world.ledger(HeaderTrust::Dev, &[&newer.url]).heads().await.unwrap_err();
    assert!(error.to_string().contains("quantumRoot"), "{error}");
}

/// Two chains with the same beginning and different blocks: what a forger with a chain of its own would serve.
async fn two_chains() -> (World, Anvil) {
    let arguments = ["--timestamp", "1790000000"];
    let world = World::on(Anvil::with(&arguments)).await;
    world.note(&["alice"]).await;
    // More than the steps down from the tip: the common beginning, which both chains truly have, is out of reach.
    world.anvil.mine(20).await;
    let forged = Anvil::with(&arguments);
    forged.mine(30).await;
    (world, forged)
}

#[tokio::test]
async fn two_honest_nodes_of_three_outvote_a_forged_chain_of_greater_height() {
    let (world, forged) = two_chains().await;
    let (one, two) = (honest(&world.anvil.url).await, honest(&world.anvil.url).await);
    let mut ledger = world.ledger(HeaderTrust::Quorum(2), &[&forged.url, &one.url, &two.url]);
    let update = look(&mut ledger, &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["alice"]);
    let tip = world.anvil.call("eth_blockNumber", json!([])).await;
    assert_eq!(json!(format!("{:#x}", update.latest.number)), tip);
}

#[tokio::test]
async fn one_honest_node_and_one_liar_do_not_make_a_quorum_of_two() {
    let (world, forged) = two_chains().await;
    let one = honest(&world.anvil.url).await;
    let error = world.ledger(HeaderTrust::Quorum(2), &[&forged.url, &one.url]).heads().await.unwrap_err();
    assert!(matches!(error, ChainError::NoQuorum { agreed: 1, asked: 2, needed: 2, .. }), "{error}");
}

#[tokio::test]
async fn a_frozen_node_does_not_hold_a_quorum_back() {
    let world = world_with_notes().await;
    let frozen_block = world.anvil.call("eth_getBlockByNumber", json!(["latest", false])).await;
    let frozen = Proxy::start(&world.anvil.url, move |method, params| match method {
        "eth_getBlockByNumber" if params[0] == "latest" || params[0] == "finalized" => Act::Say(frozen_block.clone()),
        _ => Act::Pass,
    })
    .await;
    let (one, two) = (honest(&world.anvil.url).await, honest(&world.anvil.url).await);
    let mut ledger = world.ledger(HeaderTrust::Quorum(2), &[&frozen.url, &one.url, &two.url]);
    let first = look(&mut ledger, &Cursor::default()).await.unwrap();
    world.note(&["dave"]).await;
    world.anvil.mine(2).await;
    let second = look(&mut ledger, &first.cursor).await.unwrap();
    assert_eq!(texts(&second.final_entries), ["dave"]);
    assert_eq!(second.latest.number, first.latest.number + 3);
}

#[tokio::test]
async fn nodes_that_lag_behind_each_other_agree_on_the_highest_common_block() {
    let world = world_with_notes().await;
    let heads = world.ledger(HeaderTrust::Dev, &[&world.anvil.url]).heads().await.unwrap();
    let behind = format!("{:#x}", heads.latest.number - 2);
    let lagging = Proxy::start(&world.anvil.url, move |method, params| match method {
        "eth_getBlockByNumber" if params[0] == "latest" => Act::Ask(json!([behind, false])),
        _ => Act::Pass,
    })
    .await;
    let agreed = world.ledger(HeaderTrust::Quorum(2), &[&lagging.url, &world.anvil.url]).heads().await.unwrap();
    assert_eq!(agreed.latest.number, heads.latest.number - 2);
}

#[tokio::test]
async fn a_silent_node_costs_a_quorum_less_than_its_deadline() {
    let world = world_with_notes().await;
    let silent = Proxy::start(&world.anvil.url, |_, _| Act::Silent).await;
    let (one, two) = (honest(&world.anvil.url).await, honest(&world.anvil.url).await);
    let mut ledger = world.ledger(HeaderTrust::Quorum(2), &[&one.url, &silent.url, &two.url]);
    let update = look(&mut ledger, &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["alice", "bob", "carol"]);
}

#[tokio::test]
async fn every_failure_of_a_call_names_node_and_method() {
    let anvil = Anvil::on_demand();
    let cases: [(Act, &str); 7] = [
        (Act::Silent, "eth_chainId: no answer within 1 s"),
        (Act::HangUp, "eth_chainId: error sending request"),
        (Act::Fail(-32601, "no\nsuch method"), "eth_chainId: error -32601: no\\nsuch method"),
        (Act::Body(b"<html>".to_vec()), "eth_chainId: expected a JSON-RPC answer"),
        (Act::Body(vec![b' '; 5000]), "eth_chainId: the answer exceeds 4096 bytes"),
        (
            Act::Body(br#"{"jsonrpc":"2.0","id":999999,"result":"0x1"}"#.to_vec()),
            "eth_chainId: the answer carries the id of another call",
        ),
        (Act::Say(json!([1])), "eth_chainId: unexpected shape of the result"),
    ];
    for (act, expected) in cases {
        let act = std::sync::Mutex::new(Some(act));
        let proxy = Proxy::start(&anvil.url, move |_, _| act.lock().unwrap().take().unwrap_or(Act::HangUp)).await;
        let limits = Limits { call: Duration::from_secs(1), answer: 4096, ..Limits::default() };
        let nodes = Endpoints::new(std::slice::from_ref(&proxy.url), limits).unwrap();
        let error = nodes.iter().next().unwrap().call::<String>("eth_chainId", json!([])).await.unwrap_err();
        let whole = format!("{}: {expected}", proxy.url.as_str().trim_end_matches('/'));
        assert!(error.to_string().starts_with(&whole), "expected {whole}, got {error}");
    }
}

#[tokio::test]
async fn a_port_where_nobody_listens_fails_over() {
    let anvil = Anvil::on_demand();
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap()
    };
    let nodes = endpoints(&[&gone, &anvil.url]);
    let id: String = nodes.first("eth_chainId", |node| node.call("eth_chainId", json!([]))).await.unwrap();
    assert_eq!(id, "0x7a69");
}
