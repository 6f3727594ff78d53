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
mod late;
mod legs;
mod reason;
mod serials;
mod settings;
mod state;
pub(crate) mod wellformed;

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use crate::effective::Effective;
use crate::entries::{Kind, Roles};
use crate::head::PlacedEntry;
use crate::migration::in_leg;
use crate::origins::Denied;
use crate::realm::{Batch, BatchState, BlockRef, EntryRef};
use crate::shard;
pub(crate) use denial::Target;
use denial::{PendingDenials, Sink};
use engine::Engine;
use late::Late;
use legs::LegState;
pub(crate) use serials::Serials;
pub(crate) use state::Membership;
use state::State;

pub use denial::DENIAL_BLOCKS;
pub use legs::{Leg, LegError};
pub use reason::{IgnoreReason, Ignored};
pub use settings::setting;

/// The final view and the pending denials of latest views. Serialisable; a few hundred bytes for each record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Replay {
    final_block: BlockRef,
    state: State,
    pending: PendingDenials,
    /// The realms that were left, the first first.
    sources: Vec<Late>,
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
    /// The realm has moved: a threshold of its roots has said so, and it is final.
    #[error(
        "migrated: entry {index} of shard {shard:#x} in block {block} says that the realm goes on as realm {realm} in contract \
         {contract} on chain {chain_id}; nothing new is published from here",
        index = at.index, shard = at.shard, block = at.block
    )]
    Migrated {
        /// The MIGRATE.
        at: EntryRef,
        /// EIP-155 id of the target's chain.
        chain_id: u64,
        /// The target's contract.
        contract: Address,
        /// The target's realm id.
        realm: B256,
    },
    /// The realm's first entry says that it comes from another realm, and nothing of that was replayed.
    #[error("entry {index} of shard {shard:#x} says that the realm comes from another one, whose log is missing", index = at.index, shard = at.shard)]
    PredecessorNeeded {
        /// The MIGRATED.
        at: EntryRef,
    },
    /// A leg has begun, and the target's first entry of shard 0 is not there, or is not the MIGRATED of the move.
    #[error("realm {realm} does not begin with the MIGRATED that names the realm and the heads it comes from")]
    NotArrived {
        /// The target's realm id.
        realm: B256,
    },
    /// No such realm was left.
    #[error("leg {leg} of the history is not one that was left")]
    NoSuchLeg {
        /// What was given.
        leg: u64,
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
            state: State { realm, legs: vec![LegState::first(realm)], ..State::default() },
            pending: PendingDenials::default(),
            sources: Vec::new(),
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
        self.state.next.get(&shard).copied().unwrap_or_else(|| self.state.first_index(self.state.leg(), shard))
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
        let mut engine = Engine { state: &mut self.state, sink: Sink::Final(&mut self.pending, &self.sources) };
        engine.apply_all(&entries, next);
        self.final_block = block;
        self.pending.expire(block.number);
        self.state.settle(block.time, |actor| denial::voids_from(&self.pending, &self.sources, actor));
        Ok(())
    }

    /// What holds at `latest`, given the entries that are in the latest view only. The denials among them are remembered, so
    /// that a reorg does not undo them at once.
    ///
    /// # Errors
    /// [`ReplayError::UpgradeNeeded`] if either view holds an unknown critical entry; `Migrated` if the final view holds a MIGRATE (one
    /// that only the latest view holds changes nothing yet); `PredecessorNeeded` and `NotArrived` where another realm's log comes
    /// first; the others if the entries do not continue the final view.
    pub fn effective(&mut self, latest: BlockRef, suffix: &[PlacedEntry]) -> Result<Effective, ReplayError> {
        self.view(latest, suffix, false)
    }

    /// The same of a realm that was left: what its own log says, for whoever looks at it or denies something there. Nobody is let in by it.
    ///
    /// # Errors
    /// As [`Self::effective`], but for `Migrated`.
    pub fn effective_of_left(&mut self, latest: BlockRef, suffix: &[PlacedEntry]) -> Result<Effective, ReplayError> {
        self.view(latest, suffix, true)
    }

    fn view(&mut self, latest: BlockRef, suffix: &[PlacedEntry], left: bool) -> Result<Effective, ReplayError> {
        let Fresh { entries, next } = self.fresh(latest.number, suffix)?;
        let mut tip = self.state.branch();
        let mut engine = Engine { state: &mut tip, sink: Sink::Latest(&mut self.pending) };
        engine.apply_all(&entries, next);
        if let Some((kind, at)) = tip.upgrade {
            return Err(ReplayError::UpgradeNeeded { kind, at });
        }
        if let Some((migrate, at)) = self.migrate().filter(|_| !left) {
            let (chain_id, contract, realm) = (migrate.chainId, migrate.registry, migrate.realm);
            return Err(ReplayError::Migrated { at, chain_id, contract, realm });
        }
        self.state.check_publishable()?;
        let (late, pending) = self.late_denials();
        let mut effective = combine::combine(&self.state, &tip, late, pending, (self.final_block, latest));
        effective.origins.pending = self.pending_origins();
        effective.origins.issuers = self.lost_issuers(effective.batches.values());
        Ok(effective)
    }

    /// What is denied beside the final view, here and on realms that were left.
    fn pending_origins(&self) -> Vec<(Denied, EntryRef)> {
        let all = self.pending.entries().chain(self.sources.iter().flat_map(Late::entries));
        all.filter_map(|(denial, at)| Some((denial.denied()?, at))).collect()
    }

    /// What locked, or took the role from, the issuers of batches in the final view.
    fn lost_issuers<'a>(&self, batches: impl Iterator<Item = &'a Batch>) -> BTreeMap<Address, EntryRef> {
        let lost = batches.filter(|batch| batch.state == BatchState::IssuerLostRole).map(|batch| batch.issuer);
        lost.filter_map(|issuer| {
            let actor = self.state.actors.get(&issuer)?;
            Some((issuer, actor.lock_now().or_else(|| actor.role_loss(Roles::ISSUER))?))
        })
        .collect()
    }

    /// Forgets the records of day and period shards (class 3 and up) that `wanted` does not want. A shard that is wanted again
    /// later is read from its first entry.
    pub fn retain_shards(&mut self, wanted: impl Fn(u64) -> bool) {
        self.state.retain_shards(wanted);
    }

    /// The entries that are new, in the order of replay, once it is sure that they continue the final view.
    fn fresh<'a>(&self, until: u64, entries: &'a [PlacedEntry]) -> Result<Fresh<'a>, ReplayError> {
        fresh(in_leg(self.leg(), 0), self.final_block.number, until, |shard| self.next_index(shard), entries)
    }
}

/// The entries that are new, in the order of replay, once it is sure that they continue what was read up to `final_block`, and are of
/// the leg that begins with block `first`.
fn fresh(
    first: u64,
    final_block: u64,
    until: u64,
    next_index: impl Fn(u64) -> u64,
    entries: &[PlacedEntry],
) -> Result<Fresh<'_>, ReplayError> {
    if until < final_block {
        return Err(ReplayError::Backwards { expected: final_block, got: until });
    }
    let mut fresh: Vec<&PlacedEntry> =
        entries.iter().filter(|placed| placed.at.index >= next_index(placed.at.shard)).collect();
    fresh.sort_by_key(|placed| (placed.at.shard, placed.at.index));
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    let mut last_block: BTreeMap<u64, u64> = BTreeMap::new();
    for placed in &fresh {
        let at = placed.at;
        let expected = next.entry(at.shard).or_insert_with(|| next_index(at.shard));
        if at.index != *expected {
            return Err(ReplayError::Gap { shard: at.shard, expected: *expected, got: at.index });
        }
        *expected = at.index.saturating_add(1);
        let first = if shard::class_of(at.shard) < 3 { final_block.saturating_add(1) } else { first };
        let after = last_block.insert(at.shard, at.block).unwrap_or(0).max(first);
        if at.block < after || at.block > until {
            return Err(ReplayError::OutOfView { at, after, until });
        }
    }
    fresh.sort_by_key(|placed| engine::order(placed));
    Ok(Fresh { entries: fresh, next })
}
