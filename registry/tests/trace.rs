//! The fold of this crate against the contract: forge drives the shipped artefact with random calls by many writers (`contracts/test/Trace.t.sol`) and writes down what was logged; every shard must fold to the slot that the contract holds.
#![expect(clippy::unwrap_used, reason = "a trace of another shape is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use alloy_primitives::{B256, U256, hex};
use alloy_sol_types::{SolValue, sol};
use countersign_registry::head::{Fold, HeadError, LogEntry, Meta, Tip, last_block};

sol! {
    struct Placed {
        bytes32 realm;
        uint64 shard;
        address actor;
        uint256 meta;
        bytes data;
        uint256 number;
    }

    struct ShardKey {
        bytes32 realm;
        uint64 shard;
    }

    struct Trace {
        uint256 chain;
        address target;
        Placed[] log;
        ShardKey[] shards;
        uint256[] slots;
    }
}

/// A shard's entries with their blocks.
type Shard<'a> = Vec<&'a Placed>;

fn traces() -> Vec<Trace> {
    let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts");
    let tools = std::env::var_os("COUNTERSIGN_TOOLS").map_or_else(|| contracts.join("../.tools"), PathBuf::from);
    let forge = tools.join("node_modules/@foundry-rs/forge-linux-amd64/bin/forge");
    assert!(forge.exists(), "{} is missing: run .ci/tools", forge.display());
    let tools = tools.canonicalize().unwrap();
    let trace = contracts.join("out/trace/trace");
    if trace.exists() {
        std::fs::remove_file(&trace).unwrap();
    }
    let run = Command::new(forge.canonicalize().unwrap())
        .arg("test")
        .current_dir(&contracts)
        .env("FOUNDRY_PROFILE", "trace")
        .env("COUNTERSIGN_TOOLS", &tools)
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "the campaign failed\n{}{}",
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
    let text = std::fs::read_to_string(&trace).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(decode).collect()
}

fn decode(line: &str) -> Trace {
    let bytes = hex::decode(line).unwrap();
    #[expect(clippy::disallowed_methods, reason = "what it makes is encoded again and compared")]
    let trace = Trace::abi_decode(&bytes).unwrap();
    assert_eq!(trace.abi_encode(), bytes, "the trace is what was encoded");
    trace
}

/// Folds as a reader does that looks in each block: from a tip that it has, up to the entry's own block.
fn fold(trace: &Trace, realm: B256, shard: u64, entries: &[&Placed]) -> Result<Tip, HeadError> {
    let chain = u64::try_from(trace.chain).unwrap();
    let mut tip = Tip::default();
    for placed in entries {
        let number = u64::try_from(placed.number).unwrap();
        let entry = LogEntry { shard: placed.shard, actor: placed.actor, meta: placed.meta, data: placed.data.clone() };
        let mut fold = Fold::new(chain, trace.target, realm, shard, tip, number);
        assert_eq!(fold.push(entry, number)?.at.block, number, "the entry's block");
        tip = fold.tip();
    }
    Ok(tip)
}

fn finish(trace: &Trace, key: &ShardKey, tip: Tip, slot: U256) -> Result<Tip, HeadError> {
    Fold::new(u64::try_from(trace.chain).unwrap(), trace.target, key.realm, key.shard, tip, tip.block).finish(slot)
}

#[test]
fn every_shard_of_a_random_log_folds_to_the_contracts_slot() {
    let traces = traces();
    let (mut entries, mut shards, mut wrapped, mut refused) = (0, 0, 0, 0);
    for trace in &traces {
        let mut logs: BTreeMap<(B256, u64), Shard<'_>> = BTreeMap::new();
        for placed in &trace.log {
            logs.entry((placed.realm, placed.shard)).or_default().push(placed);
        }
        assert_eq!(logs.len(), trace.shards.len(), "every shard that was written has a slot");
        assert_eq!(trace.shards.len(), trace.slots.len());
        for (key, slot) in trace.shards.iter().zip(&trace.slots) {
            let log = logs.get(&(key.realm, key.shard)).unwrap();
            let tip = fold(trace, key.realm, key.shard, log).unwrap();
            finish(trace, key, tip, *slot).unwrap();
            assert_eq!(last_block(*slot, tip.block), Some(tip.block), "the slot tells the last block");
            entries += log.len();
            shards += 1;
            wrapped += usize::from(log.iter().any(|placed| placed.number >> 32 != log.first().unwrap().number >> 32));

            // Without any one entry, or with its time changed, the same log does not lead to the slot.
            for (index, placed) in log.iter().enumerate().step_by(7) {
                let mut fewer = log.clone();
                fewer.remove(index);
                let moved = Placed { meta: placed.meta + U256::from(1), ..(*placed).clone() };
                let mut changed = log.clone();
                changed.splice(index..=index, [&moved]);
                for other in [fewer, changed] {
                    let result =
                        fold(trace, key.realm, key.shard, &other).and_then(|tip| finish(trace, key, tip, *slot));
                    assert!(result.is_err(), "a changed log was taken");
                    refused += 1;
                }
                assert!(Meta::unpack(placed.meta).is_some(), "nothing beyond the three fields");
            }
        }
    }
    assert!(traces.len() >= 8, "runs: {}", traces.len());
    assert!(entries > 500 && shards > 100 && wrapped > 10 && refused > 200, "{entries} {shards} {wrapped} {refused}");
}
