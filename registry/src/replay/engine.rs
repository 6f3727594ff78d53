//! Applying entries, one after the other: what each may do, and what it then does.
//!
//! The order is by block; within a block governance, denials, certificate revocations, directory, then the rest; within a shard
//! by index. Together with the histories in `state` this gives the rule of the design: between shards only block numbers order,
//! a denial in the same block wins, authority from another shard starts with the next block.

mod activity;
mod denials;
mod directory;
mod governance;

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};

use crate::entries::{Entry, Kind};
use crate::head::{LogEntry, Meta, PlacedEntry};
use crate::realm::EntryRef;
use crate::replay::IgnoreReason;
use crate::replay::denial::{Denial, Sink};
use crate::replay::state::State;
use crate::shard;

pub(super) use governance::{each, parse_limits};

type Outcome = Result<(), IgnoreReason>;

/// The entry that is being applied.
#[derive(Debug, Clone, Copy)]
struct Context<'a> {
    at: EntryRef,
    kind: Kind,
    actor: Address,
    entry: &'a LogEntry,
}

impl Context<'_> {
    /// The roots write as the zero address.
    fn by_roots(&self) -> bool {
        self.actor.is_zero()
    }
}

/// A state, and where its denials go.
#[derive(Debug)]
pub(super) struct Engine<'a> {
    pub(super) state: &'a mut State,
    pub(super) sink: Sink<'a>,
}

/// The key by which entries are sorted before they are applied.
pub(super) fn order(placed: &PlacedEntry) -> (u64, u32, u64, u64) {
    let class = shard::class_of(placed.at.shard);
    // The directory after denials and certificate revocations of the same block.
    let rank = match class {
        1 => 3,
        2 => 1,
        3 => 2,
        class => class.saturating_mul(4),
    };
    (placed.at.block, rank, placed.at.shard, placed.at.index)
}

impl Engine<'_> {
    /// Applies entries in their order; `next` are the indices after them, by shard.
    pub(super) fn apply_all(&mut self, entries: &[&PlacedEntry], next: BTreeMap<u64, u64>) {
        for placed in entries {
            self.apply(placed);
        }
        for (shard, next) in next {
            self.state.next.insert(shard, next);
        }
    }

    /// Applies one entry. Total: whatever makes no sense is recorded as ignored.
    fn apply(&mut self, placed: &PlacedEntry) {
        let at = placed.at;
        self.state.newest = self.state.newest.max(Some(at));
        self.state.check_arrival(at, Meta::unpack(placed.entry.meta));
        let Some(Meta { kind, .. }) = Meta::unpack(placed.entry.meta) else {
            self.state.ignore(at, Kind(0), IgnoreReason::WrongShard);
            return;
        };
        if kind.class() == 0x09 {
            return;
        }
        let context = Context { at, kind, actor: placed.entry.actor, entry: &placed.entry };
        if let Err(reason) = self.apply_known(context) {
            self.state.ignore(at, kind, reason);
        }
    }

    fn apply_known(&mut self, context: Context<'_>) -> Outcome {
        if shard::class_of_kind(context.kind) != Some(shard::class_of(context.at.shard)) {
            return Err(IgnoreReason::WrongShard);
        }
        // The contract takes none of them from anybody else. Were it ever to, one key must neither govern nor stop every host.
        if context.kind.class() == 0x00 && !context.by_roots() {
            return Err(IgnoreReason::NoRole);
        }
        let decoded = Entry::decode(context.kind, &context.entry.data);
        if context.kind.is_critical() {
            // A critical entry that cannot be read is as unknown as one of a later version.
            return match decoded {
                Ok(entry) => self.state.crossing(context.at, &entry),
                Err(_) => {
                    self.state.upgrade.get_or_insert((context.kind, context.at));
                    Err(IgnoreReason::UnknownKind)
                }
            };
        }
        let entry = decoded?;
        match context.kind.class() {
            0x00 => self.governance(context, entry),
            0x01 => self.directory(context, entry),
            0x02 | 0x03 => self.denials(context, entry),
            _ => self.activity(context, entry),
        }
    }

    fn ignore_item(&mut self, context: Context<'_>, reason: IgnoreReason) {
        self.state.ignore(context.at, context.kind, reason);
    }

    fn deny(&mut self, context: Context<'_>, denial: Denial) {
        self.sink.deny(denial, context.at);
    }
}

/// A sealing key, unless it is zero.
pub(super) fn sealing_key(bytes: B256) -> Option<B256> {
    (!bytes.is_zero()).then_some(bytes)
}
