//! `replay`: folding and replaying a realm's log of 100,000 entries (and of 1,000,000 with `--long`), beside the folding alone, which
//! is two hashes an entry and the least that any reader must do. Times are the process's own processor time, so that other
//! work on a shared machine does not count. Memory is the process's peak, the log itself being made and dropped in pieces.
//! Usage: `countersign-bench replay [--quick|--long]`.

use std::{error::Error, fs, time::Duration};

use alloy_primitives::{Address, B256};
use countersign_bench::{
    figure, long, quick,
    synthetic::{self, ADMIN},
};
use countersign_registry::{
    BlockRef, LogEntry, PlacedEntry, Replay,
    entries::{Entry, payload},
    head::{Fold, Meta, Tip},
    shard,
};
use nix::{errno::Errno, time::ClockId};

const CHAIN: u64 = 31_337;
const REALM: B256 = B256::repeat_byte(7);
const CONTRACT: Address = Address::repeat_byte(9);
const START_SECS: u64 = 1_700_000_000;
/// Entries a block; pieces of the log are blocks.
const PER_BLOCK: u64 = 1_000;

pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let (label, entries) = if quick() {
        ("10k", 10_000)
    } else if long() {
        ("1M", 1_000_000)
    } else {
        ("100k", 100_000)
    };
    let (governance, directory) = (shard::shard(0, 0), shard::shard(1, 0));
    let mut replay = Replay::new(REALM);
    let mut folding = Duration::ZERO;
    let mut replaying = Duration::ZERO;

    let mut log = Log { tip: Tip::default(), shard: governance };
    let role = Entry::RoleSet(payload::RoleSet { actor: ADMIN, roles: 1, x25519: B256::ZERO });
    let placed = log.extend(1, Address::ZERO, &[role], &mut folding)?;
    replay.advance(BlockRef { number: 1, time: START_SECS }, &placed)?;

    log = Log { tip: Tip::default(), shard: directory };
    let mut made = 0_u64;
    let mut block = 2_u64;
    while made < entries {
        let piece: Vec<Entry> = (made..made.saturating_add(PER_BLOCK)).map(synthetic::directory).collect();
        let placed = log.extend(block, ADMIN, &piece, &mut folding)?;
        let begun = processor_time()?;
        replay.advance(BlockRef { number: block, time: START_SECS.saturating_add(block) }, &placed)?;
        replaying = replaying.saturating_add(processor_time()?.saturating_sub(begun));
        made = made.saturating_add(PER_BLOCK);
        block = block.saturating_add(1);
    }
    let begun = processor_time()?;
    let effective = replay.effective(BlockRef { number: block, time: START_SECS.saturating_add(block) }, &[])?;
    let viewing = processor_time()?.saturating_sub(begun);
    if !effective.ignored.is_empty() || effective.users.is_empty() {
        return Err(format!("{} entries were ignored: not what was to be measured", effective.ignored.len()).into());
    }

    let whole = folding.saturating_add(replaying).saturating_add(viewing);
    let ratio = whole.as_secs_f64() / folding.as_secs_f64();
    figure(
        &format!("replay fold ({label} entries)"),
        millis(folding),
        "ms",
        None,
        "two hashes an entry: what any reader must do",
    )?;
    figure(&format!("replay whole ({label} entries)"), millis(whole), "ms", Some(ratio), "the fold alone")?;
    figure(&format!("replay effective view ({label} entries)"), millis(viewing), "ms", None, "once a poll")?;
    let peak = peak_memory_mib()?;
    figure(&format!("replay peak memory ({label} entries)"), peak, "MiB", None, "state and one effective view")?;
    Ok(())
}

/// One shard's log as it grows.
struct Log {
    tip: Tip,
    shard: u64,
}

impl Log {
    /// Logs entries in one block; only the folding is timed.
    fn extend(
        &mut self,
        block: u64,
        actor: Address,
        entries: &[Entry],
        folding: &mut Duration,
    ) -> Result<Vec<PlacedEntry>, Box<dyn Error>> {
        let mut prev_block = u32::try_from(self.tip.block)?;
        let mut log = Vec::with_capacity(entries.len());
        for entry in entries {
            let meta = Meta { kind: entry.kind(), prev_block, time: START_SECS.saturating_add(block) }.pack();
            log.push(LogEntry { shard: self.shard, actor, meta, data: entry.encode() });
            prev_block = u32::try_from(block)?;
        }
        let begun = processor_time()?;
        let mut fold = Fold::new(CHAIN, CONTRACT, REALM, self.shard, self.tip, block);
        let placed = log.into_iter().map(|entry| fold.push(entry, block)).collect::<Result<Vec<_>, _>>()?;
        *folding = folding.saturating_add(processor_time()?.saturating_sub(begun));
        self.tip = fold.tip();
        Ok(placed)
    }
}

fn processor_time() -> Result<Duration, Errno> {
    ClockId::CLOCK_PROCESS_CPUTIME_ID.now().map(Duration::from)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::as_conversions, reason = "mebibytes of this machine fit a double")]
fn peak_memory_mib() -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    let kib: u64 = line.split_whitespace().next().ok_or("no figure in VmHWM")?.parse()?;
    Ok(kib as f64 / 1024.0)
}
