//! Replay: from placed entries to what holds.
//!
//! [`Replay`] is the state that an agent keeps (serde; postcard on disk): the final view and the pending denials of latest
//! views. Its life:
//!
//! - `Replay::new(realm)`
//! - `advance(&mut self, block: BlockRef, entries: &[PlacedEntry]) -> Result<(), ReplayError>`: entries that have become final,
//!   in any order of shards; an error is the caller's mistake (entries of shards 0–2 twice or out of order, a gap in a shard).
//! - `effective(&mut self, latest: BlockRef, suffix: &[PlacedEntry]) -> Result<Effective, UpgradeNeeded>`: with the entries
//!   that are in the latest view only.
//! - `retain_shards(&mut self, wanted: impl Fn(u64) -> bool)`: forgets day and period shards that are no longer needed.
//! - `next_index(&self, shard: u64) -> u64`: how many final entries of a shard it has seen.
//!
//! A total function: an entry that makes no sense is ignored with a reason and never stops the replay.

use serde::{Deserialize, Serialize};

use crate::entries::Kind;
use crate::realm::EntryRef;

/// An entry (or one item of a packed one) that had no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ignored {
    /// Where.
    pub at: EntryRef,
    /// Its kind.
    pub kind: Kind,
}

/// State.
#[derive(Debug, Clone)]
pub struct Replay {}
