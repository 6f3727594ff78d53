//! The same lies in front of geth, the second client: other JSON, other proofs of absence, another finality. `.ci/geth` runs it.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, reason = "what tests share fails loudly")]

use std::path::PathBuf;

use attacks::{
    lie::{drop_member, flip, rehash, set},
    mutate::{Seeded, mutate},
    proxy::Act,
    stage::Stage,
    world::{Anvil, World},
};
use countersign_agent::reason::Reason;
use countersign_chain::realm_file::HeaderTrust;
use serde_json::{Value, json};

async fn geth() -> World {
    let program = std::env::var_os("COUNTERSIGN_GETH").expect("COUNTERSIGN_GETH is not set: run .ci/geth");
    World::on(Anvil::geth(&PathBuf::from(program)).await).await
}

#[tokio::test]
async fn lies_about_headers_proofs_and_logs_of_geth_are_refused() {
    let mut stage = Stage::on(geth().await, HeaderTrust::Dev, 1).await;
    for field in ["stateRoot", "timestamp", "number", "parentHash", "requestsHash", "blobGasUsed"] {
        stage.node().alters_block("latest", move |block| flip(&mut block[field]));
        stage.refuses(field, Reason::HeaderUntrusted).await;
        stage.node().alters_block("finalized", move |block| drop_member(block, field));
        stage.refuses(field, Reason::HeaderUntrusted).await;
    }
    stage.node().alters("eth_chainId", |id| *id = json!("0x1"));
    stage.refuses("chain id", Reason::ChainMismatch).await;
    let lies: [(&str, fn(&mut Value)); 4] = [
        ("code hash", |proof| flip(&mut proof["codeHash"])),
        ("no account proof", |proof| set(proof, "accountProof", json!([]))),
        ("no slots", |proof| set(proof, "storageProof", json!([]))),
        ("absence for presence", |proof| {
            for slot in proof["storageProof"].as_array_mut().unwrap() {
                set(slot, "value", "0x0");
            }
        }),
    ];
    for (what, lie) in lies {
        stage.node().alters("eth_getProof", lie);
        stage.refuses(what, Reason::ProofInvalid).await;
    }
    stage.node().alters("eth_getLogs", |logs| *logs = json!([]));
    stage.refuses("no logs", Reason::LogsIncomplete).await;
    stage.node().does(|method, params| match (method, params[0].as_str()) {
        ("eth_getBlockByNumber", Some("finalized")) => Act::Ask(json!(["0x1", false])),
        _ => Act::Pass,
    });
    stage.publishes_the_truth("an older final block").await;
}

#[tokio::test]
async fn one_liar_of_three_in_front_of_geth_neither_misleads_nor_delays() {
    let mut stage = Stage::on(geth().await, HeaderTrust::Quorum(2), 3).await;
    stage.node().alters("eth_getBlockByNumber", |block| {
        flip(&mut block["stateRoot"]);
        rehash(block);
    });
    stage.publishes_the_truth("a forged header").await;
    let random = std::sync::Arc::new(std::sync::Mutex::new(Seeded::from_environment("geth, one of three")));
    stage.node().does(move |_, _| {
        let random = std::sync::Arc::clone(&random);
        Act::Alter(Box::new(move |result| {
            mutate(result, &[], &mut random.lock().unwrap());
        }))
    });
    for round in 0..20 {
        stage.world.anvil.mine(1).await;
        stage.publishes_the_truth(&format!("round {round}")).await;
    }
}
