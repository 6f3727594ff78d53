//! The vectors of `docs/spec/leaves.md`: made by a second implementation (`tests/vectors/leaves.mjs`, Node's crypto), checked in, made
//! again here, and met byte for byte; and what is sealed passes through a block store.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test: a failure is its result"
)]

use std::{path::PathBuf, process::Command};

use countersign_delivery::{
    DirectoryStore, LeavesContext, PublicKey, SecretKey, Watchdog, open_leaves, seal_leaves, seal_leaves_with,
};
use serde_json::Value;

fn vectors_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(vectors_folder().join("leaves.json")).unwrap()).unwrap()
}

fn digits(text: &Value) -> Vec<u8> {
    let digits = text.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(text: &Value) -> [u8; N] {
    digits(text).try_into().unwrap_or_else(|_| panic!("{text} is not {N} bytes"))
}

struct Block {
    context: LeavesContext,
    issuer: SecretKey,
    watchdogs: Vec<([u8; 20], SecretKey)>,
    random: Vec<[u8; 32]>,
    leaves: Vec<Vec<u8>>,
    block: Vec<u8>,
}

impl Block {
    fn new(vector: &Value) -> Self {
        let watchdogs = vector["watchdogs"].as_array().unwrap();
        let mut seeds: Vec<([u8; 20], [u8; 32])> =
            watchdogs.iter().map(|one| (array(&one["address"]), array(&one["seed"]))).collect();
        seeds.sort_unstable();
        let mut random = vec![array(&vector["content-key"])];
        random.extend(seeds.into_iter().map(|(_, seed)| seed));
        Self {
            context: LeavesContext { realm: array(&vector["realm"]), batch: array(&vector["batch-id"]) },
            issuer: SecretKey::from_bytes(&array(&vector["issuer-secret"])),
            watchdogs: watchdogs
                .iter()
                .map(|one| (array(&one["address"]), SecretKey::from_bytes(&array(&one["secret"]))))
                .collect(),
            random,
            leaves: vector["leaves"].as_array().unwrap().iter().map(digits).collect(),
            block: digits(&vector["block"]),
        }
    }

    fn public(&self) -> Vec<Watchdog> {
        self.watchdogs.iter().map(|(address, key)| (*address, key.public())).collect()
    }
}

#[test]
fn the_vectors_are_those_that_their_script_makes() {
    let script = vectors_folder().join("leaves.mjs");
    let output = Command::new("node").arg(&script).output().expect("node is not installed: run .ci/tools");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checked_in = std::fs::read(vectors_folder().join("leaves.json")).unwrap();
    assert!(output.stdout == checked_in, "run: node tests/vectors/leaves.mjs >tests/vectors/leaves.json");
}

#[test]
fn sealing_meets_the_vectors_byte_for_byte() {
    let vectors = vectors();
    let blocks = vectors["blocks"].as_array().unwrap();
    assert_eq!(blocks.len(), 4);
    for vector in blocks {
        let one = Block::new(vector);
        assert_eq!(one.issuer.public().to_bytes(), array::<32>(&vector["issuer-public"]));
        let sealed = seal_leaves_with(&one.context, &one.issuer, &one.public(), &one.leaves, &one.random).unwrap();
        assert_eq!(sealed, one.block);
    }
}

#[test]
fn every_watchdog_opens_what_the_second_implementation_sealed() {
    for vector in vectors()["blocks"].as_array().unwrap() {
        let one = Block::new(vector);
        let issuer = PublicKey::from_bytes(array(&vector["issuer-public"])).unwrap();
        for (address, key) in &one.watchdogs {
            assert_eq!(open_leaves(&one.context, address, key, &issuer, &one.block).unwrap(), one.leaves);
        }
    }
}

#[test]
fn sealed_leaves_pass_through_the_block_store_under_their_cid() {
    let one = Block::new(&vectors()["blocks"][1]);
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(&folder.path().join("blocks")).unwrap();
    let block = seal_leaves(&one.context, &one.issuer, &one.public(), &one.leaves).unwrap();
    assert_ne!(block, one.block);
    let cid = store.put(&block).unwrap();
    let fetched = store.get(&cid).unwrap();
    let (address, key) = &one.watchdogs[2];
    assert_eq!(open_leaves(&one.context, address, key, &one.issuer.public(), &fetched).unwrap(), one.leaves);
}
