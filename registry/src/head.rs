//! The hash chain of a shard: entry metadata, the first slot, the next slot, folding entries up to a proved slot.
//!
//! `slot = top 224 bits of keccak256(abi.encode(slot before, realm, shard, actor, meta, keccak256(data))) << 32 | block number`
//! (its low 32 bits). A block number is taken only from the slot after its entry: it is hashed into the next head or proved, so
//! a lying source cannot move an entry in time. Entries count only when the fold has reached a proved slot.

use alloy_primitives::{Address, B256, Bytes, Keccak256, U256, keccak256};
use alloy_sol_types::SolValue;
use serde::{Deserialize, Serialize};

use crate::entries::Kind;
use crate::realm::EntryRef;

/// One event of the registry contract, as it came from a log source; proves nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogEntry {
    /// Shard (class << 32 | epoch).
    pub shard: u64,
    /// Who wrote it; zero: a threshold of roots.
    pub actor: Address,
    /// Packed [`Meta`].
    pub meta: U256,
    /// Encoding byte and payload.
    pub data: Bytes,
}

/// An entry with its place: the result of a fold, the input of replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlacedEntry {
    /// Where it stands.
    pub at: EntryRef,
    /// What was logged.
    pub entry: LogEntry,
}

/// `kind << 96 | previous block << 64 | block time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The entry's kind.
    pub kind: Kind,
    /// Low 32 bits of the block of the shard's entry before; 0 for the first.
    pub prev_block: u32,
    /// Block time, Unix seconds.
    pub time: u64,
}

/// Entries that do not form a shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Bits of the meta word beyond its three fields are set.
    #[error("entry {index} of shard {shard:#x}: meta {meta:#x} has bits outside kind, previous block and time")]
    Meta {
        /// Shard.
        shard: u64,
        /// Index in the shard.
        index: u64,
        /// The word.
        meta: U256,
    },
    /// An entry of another shard.
    #[error("entry {index} of shard {shard:#x} says it belongs to shard {got:#x}")]
    Shard {
        /// Shard that is folded.
        shard: u64,
        /// Index in the shard.
        index: u64,
        /// What the entry says.
        got: u64,
    },
    /// The hop to the entry before leads elsewhere.
    #[error("entry {index} of shard {shard:#x}: expected previous block {expected}, got {got}")]
    PrevBlock {
        /// Shard.
        shard: u64,
        /// Index in the shard.
        index: u64,
        /// Low 32 bits of the block of the entry before.
        expected: u32,
        /// What the entry says.
        got: u32,
    },
    /// Blocks or times go backwards, or beyond the trusted header.
    #[error("entry {index} of shard {shard:#x}: block {block} is before block {after} or after block {until}")]
    Order {
        /// Shard.
        shard: u64,
        /// Index in the shard.
        index: u64,
        /// The entry's block.
        block: u64,
        /// Block of the entry before.
        after: u64,
        /// The trusted header's number.
        until: u64,
    },
    /// The fold did not reach the proved slot.
    #[error("shard {shard:#x}: {entries} entries fold to {folded:#x}, proved is {proved:#x}")]
    Mismatch {
        /// Shard.
        shard: u64,
        /// How many entries the shard has, as folded.
        entries: u64,
        /// Where the fold ended.
        folded: U256,
        /// What was proved.
        proved: U256,
    },
}

impl Meta {
    /// The word that is logged.
    #[must_use]
    pub fn pack(self) -> U256 {
        let middle = (u64::from(self.kind.0) << 32) | u64::from(self.prev_block);
        U256::from_limbs([self.time, middle, 0, 0])
    }

    /// The fields of a word; none if other bits are set.
    #[must_use]
    pub fn unpack(word: U256) -> Option<Self> {
        let [time, middle, 0, 0] = *word.as_limbs() else { return None };
        let prev_block = u32::try_from(middle & u64::from(u32::MAX)).ok()?;
        let kind = u16::try_from(middle >> 32).ok()?;
        Some(Self { kind: Kind(kind), prev_block, time })
    }
}

/// What an empty slot stands for in the first entry's preimage.
#[must_use]
pub fn genesis(chain_id: u64, contract: Address, realm: B256, shard: u64) -> U256 {
    let preimage = ("countersign.head.v1", U256::from(chain_id), contract, realm, shard);
    U256::from_be_bytes(keccak256(preimage.abi_encode_params()).0)
}

/// The slot after `entry`, which was written in `block` on top of `before`.
#[must_use]
pub fn next_slot(before: U256, realm: B256, entry: &LogEntry, block: u64) -> U256 {
    // `abi.encode` of static types: a word for each. In place, since this is done for every entry ever written.
    let shard = U256::from(entry.shard);
    let words: [B256; 6] =
        [before.into(), realm, shard.into(), entry.actor.into_word(), entry.meta.into(), keccak256(&entry.data)];
    let mut hasher = Keccak256::new();
    for word in words {
        hasher.update(word);
    }
    let mut slot = hasher.finalize().0;
    for (byte, hop) in slot.iter_mut().skip(28).zip(low32(block).to_be_bytes()) {
        *byte = hop;
    }
    U256::from_be_bytes(slot)
}

/// The last block of a shard with this slot, as far as the slot tells: the greatest number not above `until` with its low 32
/// bits. None for an empty slot, and where there is no such number.
#[must_use]
pub fn last_block(slot: U256, until: u64) -> Option<u64> {
    if slot.is_zero() {
        return None;
    }
    let [lowest, ..] = *slot.as_limbs();
    block_with_low_bits(low32(lowest), until)
}

/// The greatest block number not above `until` whose low 32 bits are `low`.
#[must_use]
pub fn block_with_low_bits(low: u32, until: u64) -> Option<u64> {
    let candidate = (until >> 32 << 32) | u64::from(low);
    if candidate <= until { Some(candidate) } else { candidate.checked_sub(1 << 32) }
}

/// How far a shard has been folded. The default is an empty shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tip {
    /// The slot's content; zero: no entry yet.
    pub slot: U256,
    /// How many entries.
    pub entries: u64,
    /// Block of the last entry.
    pub block: u64,
    /// Time of the last entry.
    pub time: u64,
}

/// A fold of one shard's entries, from a tip that was proved before (or from nothing) to a slot that is proved now.
#[derive(Debug, Clone)]
pub struct Fold {
    realm: B256,
    shard: u64,
    genesis: U256,
    until: u64,
    tip: Tip,
}

impl Fold {
    /// Starts at `tip`, for entries in blocks up to `until`, the number of the header under which the end will be proved.
    #[must_use]
    pub fn new(chain_id: u64, contract: Address, realm: B256, shard: u64, tip: Tip, until: u64) -> Self {
        Self { realm, shard, genesis: genesis(chain_id, contract, realm, shard), until, tip }
    }

    /// How far it has come.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Takes the next entry, which its source says is in `block`. Of `block` only the low 32 bits are used: they are hashed.
    ///
    /// # Errors
    /// [`HeadError`] if the entry cannot be the shard's next; the fold is unchanged then.
    pub fn push(&mut self, entry: LogEntry, block: u64) -> Result<PlacedEntry, HeadError> {
        let (shard, index) = (self.shard, self.tip.entries);
        if entry.shard != shard {
            return Err(HeadError::Shard { shard, index, got: entry.shard });
        }
        let meta = Meta::unpack(entry.meta).ok_or(HeadError::Meta { shard, index, meta: entry.meta })?;
        let (before, expected) =
            if self.tip.slot.is_zero() { (self.genesis, 0) } else { (self.tip.slot, low32(self.tip.block)) };
        if meta.prev_block != expected {
            return Err(HeadError::PrevBlock { shard, index, expected, got: meta.prev_block });
        }
        let order = |block| HeadError::Order { shard, index, block, after: self.tip.block, until: self.until };
        let placed = block_with_low_bits(low32(block), self.until).ok_or_else(|| order(block))?;
        if placed < self.tip.block || meta.time < self.tip.time {
            return Err(order(placed));
        }
        self.tip = Tip {
            slot: next_slot(before, self.realm, &entry, placed),
            entries: index.saturating_add(1),
            block: placed,
            time: meta.time,
        };
        Ok(PlacedEntry { at: EntryRef { block: placed, shard, index, time: meta.time }, entry })
    }

    /// Ends the fold at the proved slot.
    ///
    /// # Errors
    /// [`HeadError::Mismatch`] if it is elsewhere: entries are missing, added or changed.
    pub fn finish(self, proved: U256) -> Result<Tip, HeadError> {
        if self.tip.slot != proved {
            return Err(HeadError::Mismatch {
                shard: self.shard,
                entries: self.tip.entries,
                folded: self.tip.slot,
                proved,
            });
        }
        Ok(self.tip)
    }
}

fn low32(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}
