//! Generated lies: true answers of real nodes of both clients, changed from a seed. In the process against the verifiers alone, for
//! volume; and through a proxy against the agent, one liar among three nodes.
//!
//! `COUNTERSIGN_ATTACK_SEED=n` replays a run, `COUNTERSIGN_ATTACK_MUTATIONS=n` (default 100,000, shared by the clients) makes it longer.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "what tests share fails loudly"
)]

use std::collections::BTreeMap;

use alloy_primitives::{B256, U256};
use attacks::{
    mutate::{Seeded, mutate},
    node::Client,
    on_both_clients,
    proxy::Act,
    stage::Stage,
    world::{World, grant, key_lock},
};
use countersign_certificate::Fingerprint20;
use countersign_chain::logs::{self, Verified, Want};
use countersign_registry::{
    RealmPin,
    entries::Entry,
    head::Tip,
    header::{self, HashedHeader},
    proof::AccountProof,
    shard, sign,
};
use serde_json::{Value, json};

on_both_clients!(
    no_mutated_answer_is_accepted_for_anything_but_the_truth,
    one_node_of_three_that_mutates_every_answer_neither_misleads_nor_delays,
    two_nodes_of_three_that_mutate_every_answer_do_not_mislead,
);

/// True answers about one block, and what follows from them.
struct Truth {
    pin: RealmPin,
    header: HashedHeader,
    slots: Vec<B256>,
    values: BTreeMap<B256, U256>,
    wants: Vec<(Want, Verified)>,
    block: Value,
    proof: Value,
    logs: Vec<Value>,
}

const SHARDS: [u64; 4] = [shard::GOVERNANCE, shard::DIRECTORY, shard::DENIALS, shard::DENIALS + 5];

impl Truth {
    async fn record(world: &World, number: u64) -> Self {
        let tag = format!("{number:#x}");
        let pin = world.pin.clone();
        let slots: Vec<B256> = SHARDS.iter().map(|shard| sign::head_slot(pin.realm, *shard)).collect();
        let block = world.anvil.call("eth_getBlockByNumber", json!([tag, false])).await;
        let proof = world.anvil.call("eth_getProof", json!([pin.contract, slots, tag])).await;
        let header = header::from_json(&block).unwrap();
        let values = verified(&proof, &header, &pin, &slots).unwrap();
        let mut wants = Vec::new();
        let mut logs = Vec::new();
        for (shard, slot) in SHARDS.iter().zip(&slots) {
            let word = B256::from(U256::from(*shard));
            let filter = json!([{
                "address": pin.contract, "fromBlock": "0x1", "toBlock": tag,
                "topics": [null, pin.realm, word],
            }]);
            let answer = world.anvil.call("eth_getLogs", filter).await;
            let want = Want { shard: *shard, from: Tip::default(), after: 0, slot: values[slot], until: number };
            let verified = logs::verify(&pin, &want, &answer.to_string()).unwrap();
            wants.push((want, verified));
            logs.push(answer);
        }
        Self { pin, header, slots, values, wants, block, proof, logs }
    }
}

fn verified(proof: &Value, header: &HashedHeader, pin: &RealmPin, slots: &[B256]) -> Option<BTreeMap<B256, U256>> {
    let proof: AccountProof = serde_json::from_str(&proof.to_string()).ok()?;
    proof.verify(header.state_root(), pin.contract, pin.code_hash, slots).ok()
}

/// What a verifier made of a mutated answer.
#[derive(Default, Debug)]
struct Tally {
    refused: u64,
    /// The change changed nothing that counts.
    true_still: u64,
}

impl Tally {
    fn take<T: PartialEq + std::fmt::Debug>(&mut self, got: Option<T>, truth: &T, told: impl FnOnce() -> String) {
        match got {
            None => self.refused += 1,
            Some(got) if got == *truth => self.true_still += 1,
            Some(got) => panic!("accepted {got:?} after {}", told()),
        }
    }
}

async fn truths(client: Client) -> (World, Truth, Truth) {
    let world = World::of(client).await;
    let records = world.populate().await;
    for seed in 1..4 {
        world.append(shard::DENIALS, &key_lock(Fingerprint20([seed; 20]))).await;
    }
    let older = world.latest_number().await;
    world.append(shard::DENIALS, &key_lock(records.key)).await;
    world.add(9, &Entry::GrantAdd(grant(9, records.user, records.host))).await;
    let truth = Truth::record(&world, world.latest_number().await).await;
    let older = Truth::record(&world, older).await;
    (world, truth, older)
}

async fn no_mutated_answer_is_accepted_for_anything_but_the_truth(client: Client) {
    let (_world, truth, older) = truths(client).await;
    let all: u64 = match std::env::var("COUNTERSIGN_ATTACK_MUTATIONS") {
        Ok(text) => text.parse().expect("COUNTERSIGN_ATTACK_MUTATIONS: a number"),
        Err(_) => 100_000,
    };
    // The verifiers are the same; what geth adds is another true answer to begin with.
    let count = match client {
        Client::Anvil => all - all / 5,
        Client::Geth => all / 5,
    };
    let seed = Seeded::from_environment("mutations");
    // One lie after the other has a seed of its own, so that threads share nothing.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = u64::try_from(threads).unwrap();
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (truth, older, seed) = (&truth, &older, seed.clone());
                scope.spawn(move || attack(truth, older, seed, (0..count).filter(move |n| n % threads == thread)))
            })
            .collect();
        for worker in workers {
            let Tally { refused, true_still } = worker.join().expect("the message above says which lie was accepted");
            tally.refused += refused;
            tally.true_still += true_still;
        }
    });
    println!("{client:?}: {count} mutations: {} refused, {} true still, 0 accepted", tally.refused, tally.true_still);
    assert_eq!(tally.refused + tally.true_still, count);
    // Were most mutations without effect, the figure would say nothing.
    assert!(tally.refused > count / 2, "{tally:?}");
}

fn attack(truth: &Truth, older: &Truth, seed: Seeded, numbers: impl Iterator<Item = u64>) -> Tally {
    let mut tally = Tally::default();
    for number in numbers {
        let mut random = Seeded::new(seed.clone().number().wrapping_add(number));
        let told = |told: &str| format!("mutation {number}: {told}");
        match number % 3 {
            0 => {
                let mut block = truth.block.clone();
                let what = mutate(&mut block, std::slice::from_ref(&older.block), &mut random);
                // A header is trusted by its hash: what a quorum agreed on, or nothing.
                let got = header::from_json(&block).ok().filter(|header| header.hash() == truth.header.hash());
                tally.take(got, &truth.header, || told(&what));
            }
            1 => {
                let mut proof = truth.proof.clone();
                let what = mutate(&mut proof, std::slice::from_ref(&older.proof), &mut random);
                let got = verified(&proof, &truth.header, &truth.pin, &truth.slots);
                tally.take(got, &truth.values, || told(&what));
            }
            _ => {
                let place = random.below(truth.logs.len());
                let mut logs = truth.logs[place].clone();
                let donors: Vec<Value> = truth.logs.iter().chain(&older.logs).cloned().collect();
                let what = mutate(&mut logs, &donors, &mut random);
                let (want, entries) = &truth.wants[place];
                tally.take(logs::verify(&truth.pin, want, &logs.to_string()), entries, || told(&what));
            }
        }
    }
    tally
}

#[tokio::test]
async fn a_verifier_that_believed_values_without_their_proof_would_be_caught() {
    let (_world, truth, older) = truths(Client::Anvil).await;
    let mut random = Seeded::new(1);
    let mut believed = 0;
    for _ in 0..2_000 {
        let mut proof = truth.proof.clone();
        mutate(&mut proof, std::slice::from_ref(&older.proof), &mut random);
        let Ok(proof) = serde_json::from_str::<AccountProof>(&proof.to_string()) else { continue };
        let values: BTreeMap<B256, U256> =
            proof.storage_proof.iter().map(|slot| (B256::from(slot.key), slot.value)).collect();
        believed += u32::from(values != truth.values);
    }
    assert!(believed > 100, "{believed} of 2000");
}

#[tokio::test]
async fn a_seed_gives_the_same_lies_again() {
    let original = json!({ "a": ["0x12", "0x34"], "b": { "c": "0x56" } });
    let lies = || {
        let mut random = Seeded::new(42);
        let lie = || {
            let mut lie = original.clone();
            (mutate(&mut lie, &[], &mut random), lie)
        };
        std::iter::repeat_with(lie).take(100).collect::<Vec<_>>()
    };
    assert_eq!(lies(), lies());
}

async fn one_node_of_three_that_mutates_every_answer_neither_misleads_nor_delays(client: Client) {
    let mut stage = Stage::quorum_of(client, 2, 3).await;
    let seed = Seeded::from_environment("one of three");
    let random = std::sync::Arc::new(std::sync::Mutex::new(seed));
    stage.node().does(move |_, _| {
        let random = std::sync::Arc::clone(&random);
        Act::Alter(Box::new(move |result| {
            mutate(result, &[], &mut random.lock().unwrap());
        }))
    });
    for round in 0..40 {
        stage.world.anvil.mine(1).await;
        stage.publishes_the_truth(&format!("round {round}")).await;
    }
}

async fn two_nodes_of_three_that_mutate_every_answer_do_not_mislead(client: Client) {
    let mut stage = Stage::quorum_of(client, 2, 3).await;
    let seed = Seeded::from_environment("two of three");
    let random = std::sync::Arc::new(std::sync::Mutex::new(seed));
    for node in stage.nodes.iter().take(2) {
        let random = std::sync::Arc::clone(&random);
        node.does(move |_, _| {
            let random = std::sync::Arc::clone(&random);
            Act::Alter(Box::new(move |result| {
                mutate(result, &[], &mut random.lock().unwrap());
            }))
        });
    }
    for round in 0..30 {
        stage.world.anvil.mine(1).await;
        stage.is_not_misled(&format!("round {round}")).await;
    }
    for node in &stage.nodes {
        node.is_honest();
    }
    stage.publishes_the_truth("honest again").await;
}
