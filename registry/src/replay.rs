//! Replay: from placed entries to what holds.
//!
//! A total function: an entry that makes no sense is ignored with a reason and never stops the replay; a denial of an unknown
//! target is kept. The rules are in `docs/spec/replay.md`. [`Replay`] is the state that an agent keeps: the final view, and the
//! denials of latest views that the final view does not contain yet. The latest view is computed anew each time, on top of the
//! final one, which it shares.
//!
//! It does not check hashes: entries come from [`Fold`](crate::head::Fold), which does. It reads no clock; times are block times.

mod combine;
mod denial;
mod engine;
mod reason;
mod settings;
mod state;
pub(crate) mod wellformed;

use std::collections::BTreeMap;

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

use crate::effective::Effective;
use crate::entries::Kind;
use crate::head::PlacedEntry;
use crate::realm::{BlockRef, EntryRef};
use crate::shard;
use denial::{PendingDenials, Sink};
use engine::Engine;
use state::State;

pub use denial::DENIAL_BLOCKS;
pub use reason::{IgnoreReason, Ignored};
pub use settings::setting;

/// The final view and the pending denials of latest views. Serialisable; a few hundred bytes for each record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Replay {
    final_block: BlockRef,
    state: State,
    pending: PendingDenials,
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The log holds a critical entry that this version does not know.
    #[error(
        "upgrade-needed: entry {index} of shard {shard:#x} in block {block} has the critical kind {kind:?}, which this version \
         does not know; nothing new is published",
        index = at.index, shard = at.shard, block = at.block
    )]
    UpgradeNeeded {
        /// The kind.
        kind: Kind,
        /// The first such entry.
        at: EntryRef,
    },
    /// The view given is older than the final view.
    #[error("block {got} is before the final block {expected} that was replayed already")]
    Backwards {
        /// The final block.
        expected: u64,
        /// What was given.
        got: u64,
    },
    /// Entries of a shard are missing.
    #[error("shard {shard:#x}: expected entry {expected} next, got {got}")]
    Gap {
        /// The shard.
        shard: u64,
        /// Entries seen.
        expected: u64,
        /// Index of the next one given.
        got: u64,
    },
    /// An entry is not in the view that it was given for, or comes too late for one of shards 0 to 2.
    #[error("entry {index} of shard {shard:#x} is in block {block}, expected {after} to {until}", index = at.index, shard = at.shard, block = at.block)]
    OutOfView {
        /// The entry.
        at: EntryRef,
        /// First block allowed.
        after: u64,
        /// Last block allowed.
        until: u64,
    },
}

/// Entries that continue the final view, in the order of replay.
struct Fresh<'a> {
    entries: Vec<&'a PlacedEntry>,
    /// The index after the last of them, by shard.
    next: BTreeMap<u64, u64>,
}

impl Replay {
    /// A realm of which nothing has been read yet.
    #[must_use]
    pub fn new(realm: B256) -> Self {
        Self {
            final_block: BlockRef::default(),
            state: State { realm, ..State::default() },
            pending: PendingDenials::default(),
        }
    }

    /// Realm id.
    #[must_use]
    pub fn realm(&self) -> B256 {
        self.state.realm
    }

    /// Up to where the final view goes.
    #[must_use]
    pub fn final_block(&self) -> BlockRef {
        self.final_block
    }

    /// How many final entries of `shard` have been replayed: the index of the next one.
    #[must_use]
    pub fn next_index(&self, shard: u64) -> u64 {
        self.state.next.get(&shard).copied().unwrap_or(0)
    }

    /// [`Self::next_index`] of every shard that has entries.
    #[must_use]
    pub fn indices(&self) -> BTreeMap<u64, u64> {
        self.state.next.iter().map(|(shard, next)| (*shard, *next)).collect()
    }

    /// Moves the final view to `block`, with the entries that have become final, in any order of shards. Entries that were
    /// replayed already are skipped. A shard of class 3 and up may be read for the first time at any later advance; its
    /// entries are judged as of their own blocks.
    ///
    /// # Errors
    /// [`ReplayError`] if the entries do not continue the final view; nothing has changed then. A critical entry is no error
    /// here: [`Self::effective`] says so.
    pub fn advance(&mut self, block: BlockRef, entries: &[PlacedEntry]) -> Result<(), ReplayError> {
        let Fresh { entries, next } = self.fresh(block.number, entries)?;
        let mut engine = Engine { state: &mut self.state, sink: Sink::Final(&mut self.pending) };
        engine.apply_all(&entries, next);
        self.final_block = block;
        self.pending.expire(block.number);
        self.state.settle(block.time, |actor| self.pending.voids_from(actor));
        Ok(())
    }

    /// What holds at `latest`, given the entries that are in the latest view only. The denials among them are remembered, so
    /// that a reorg does not undo them at once.
    ///
    /// # Errors
    /// [`ReplayError::UpgradeNeeded`] if either view holds an unknown critical entry; the others if the entries do not continue
    /// the final view.
    pub fn effective(&mut self, latest: BlockRef, suffix: &[PlacedEntry]) -> Result<Effective, ReplayError> {
        let Fresh { entries, next } = self.fresh(latest.number, suffix)?;
        let mut tip = self.state.branch();
        let mut engine = Engine { state: &mut tip, sink: Sink::Latest(&mut self.pending) };
        engine.apply_all(&entries, next);
        if let Some((kind, at)) = tip.upgrade {
            return Err(ReplayError::UpgradeNeeded { kind, at });
        }
        Ok(combine::combine(&self.state, &tip, &self.pending.index(), self.final_block, latest))
    }

    /// Forgets the records of day and period shards (class 3 and up) that `wanted` does not want. A shard that is wanted again
    /// later is read from its first entry.
    pub fn retain_shards(&mut self, wanted: impl Fn(u64) -> bool) {
        self.state.retain_shards(wanted);
    }

    /// The entries that are new, in the order of replay, once it is sure that they continue the final view.
    fn fresh<'a>(&self, until: u64, entries: &'a [PlacedEntry]) -> Result<Fresh<'a>, ReplayError> {
        if until < self.final_block.number {
            return Err(ReplayError::Backwards { expected: self.final_block.number, got: until });
        }
        let mut fresh: Vec<&PlacedEntry> =
            entries.iter().filter(|placed| placed.at.index >= self.next_index(placed.at.shard)).collect();
        fresh.sort_by_key(|placed| (placed.at.shard, placed.at.index));
        let mut next: BTreeMap<u64, u64> = BTreeMap::new();
        let mut last_block: BTreeMap<u64, u64> = BTreeMap::new();
        for placed in &fresh {
            let at = placed.at;
            let expected = next.entry(at.shard).or_insert_with(|| self.next_index(at.shard));
            if at.index != *expected {
                return Err(ReplayError::Gap { shard: at.shard, expected: *expected, got: at.index });
            }
            *expected = at.index.saturating_add(1);
            let first = if shard::class_of(at.shard) < 3 { self.final_block.number.saturating_add(1) } else { 0 };
            let after = last_block.insert(at.shard, at.block).unwrap_or(0).max(first);
            if at.block < after || at.block > until {
                return Err(ReplayError::OutOfView { at, after, until });
            }
        }
        fresh.sort_by_key(|placed| engine::order(placed));
        Ok(Fresh { entries: fresh, next })
    }
}
