//! A realm goes on in another contract or on another chain: what both sides must say, and what of the source counts.
//!
//! MIGRATE on the source and MIGRATED on the target name each other and the same heads of the source. A reader compares them with
//! the realms that it has pinned: a wrong pin, a wrong entry or a wrong file leads nowhere. The rules are in
//! `docs/spec/migration.md`; what replay makes of two logs is in [`replay`](crate::replay). Nothing here asks a chain.

pub mod statement;

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};

use crate::entries::{EntryError, Kind, payload};
use crate::head::{Fold, HeadError, LogEntry, PlacedEntry, Tip, next_slot};
use crate::pin::RealmPin;
use crate::shard;

/// The most heads that one MIGRATE names: what fits into an entry of class 00.
pub const MAX_HEADS: usize = 50;
/// The most realms in a row.
pub const MAX_LEGS: usize = 8;

/// Bits of a block number within its chain; the leg stands above them.
const LEG_SHIFT: u32 = 48;
const IN_CHAIN: u64 = (1 << LEG_SHIFT) - 1;

/// The leg that a block number of replay belongs to: 0 for the first realm of the history.
#[must_use]
pub const fn leg_of(block: u64) -> u64 {
    block >> LEG_SHIFT
}

/// The number that the block has on its own chain.
#[must_use]
pub const fn in_chain(block: u64) -> u64 {
    block & IN_CHAIN
}

/// The number that replay gives to block `in_chain` of a leg.
#[must_use]
pub const fn in_leg(leg: u64, in_chain: u64) -> u64 {
    let within = if in_chain > IN_CHAIN { IN_CHAIN } else { in_chain };
    (leg << LEG_SHIFT) | within
}

/// Where a realm's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Place {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Hash of the chain's block 0.
    pub genesis_hash: B256,
    /// The registry contract.
    pub contract: Address,
    /// keccak256 of the contract's runtime code.
    pub code_hash: B256,
    /// Realm id.
    pub realm: B256,
}

impl From<&RealmPin> for Place {
    fn from(pin: &RealmPin) -> Self {
        Self {
            chain_id: pin.chain_id,
            genesis_hash: pin.genesis_hash,
            contract: pin.contract,
            code_hash: pin.code_hash,
            realm: pin.realm,
        }
    }
}

impl Place {
    /// The first field in which `said` is not this, with a name.
    fn difference(&self, said: &Self) -> Option<Field> {
        let fields = [
            (Field::ChainId, self.chain_id == said.chain_id),
            (Field::GenesisHash, self.genesis_hash == said.genesis_hash),
            (Field::Contract, self.contract == said.contract),
            (Field::CodeHash, self.code_hash == said.code_hash),
            (Field::Realm, self.realm == said.realm),
        ];
        fields.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
    }
}

/// A field of [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the fields of Place")]
pub enum Field {
    ChainId,
    GenesisHash,
    Contract,
    CodeHash,
    Realm,
}

impl std::fmt::Display for Field {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::ChainId => "chain id",
            Self::GenesisHash => "genesis hash",
            Self::Contract => "contract",
            Self::CodeHash => "code hash",
            Self::Realm => "realm",
        })
    }
}

/// Up to where the source's log counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Heads {
    /// A block of the source's chain in which the slots were these: every entry that counts is in it or before it.
    pub block: u64,
    /// Slot by shard; none is zero. Of shards that are not here nothing counts.
    pub slots: BTreeMap<u64, U256>,
}

impl Heads {
    /// In the form of an entry.
    #[must_use]
    pub fn to_payload(&self) -> Vec<payload::ShardHead> {
        self.slots.iter().map(|(shard, slot)| payload::ShardHead { shard: *shard, slot: *slot }).collect()
    }

    /// Why these are no heads that an entry can name.
    ///
    /// # Errors
    /// [`MoveError::Heads`].
    pub fn check(&self) -> Result<(), MoveError> {
        check_heads(self.block, &self.to_payload())
    }
}

impl payload::Migrate {
    /// The entry by which the source goes to `target`.
    #[must_use]
    pub fn new(target: &Place, heads: &Heads) -> Self {
        Self {
            chainId: target.chain_id,
            genesisHash: target.genesis_hash,
            registry: target.contract,
            codeHash: target.code_hash,
            realm: target.realm,
            blockNumber: heads.block,
            heads: heads.to_payload(),
        }
    }

    /// Where the realm goes.
    #[must_use]
    pub fn target(&self) -> Place {
        Place {
            chain_id: self.chainId,
            genesis_hash: self.genesisHash,
            contract: self.registry,
            code_hash: self.codeHash,
            realm: self.realm,
        }
    }

    /// Up to where the log counts.
    #[must_use]
    pub fn until(&self) -> Heads {
        heads_of(self.blockNumber, &self.heads)
    }
}

impl payload::Migrated {
    /// The entry by which the target says where it comes from.
    #[must_use]
    pub fn new(source: &Place, heads: &Heads) -> Self {
        Self {
            chainId: source.chain_id,
            genesisHash: source.genesis_hash,
            registry: source.contract,
            codeHash: source.code_hash,
            realm: source.realm,
            blockNumber: heads.block,
            heads: heads.to_payload(),
        }
    }

    /// Where the realm comes from.
    #[must_use]
    pub fn source(&self) -> Place {
        Place {
            chain_id: self.chainId,
            genesis_hash: self.genesisHash,
            contract: self.registry,
            code_hash: self.codeHash,
            realm: self.realm,
        }
    }

    /// Up to where the source's log counts.
    #[must_use]
    pub fn until(&self) -> Heads {
        heads_of(self.blockNumber, &self.heads)
    }
}

fn heads_of(block: u64, heads: &[payload::ShardHead]) -> Heads {
    Heads { block, slots: heads.iter().map(|head| (head.shard, head.slot)).collect() }
}

fn check_heads(block: u64, heads: &[payload::ShardHead]) -> Result<(), MoveError> {
    let fault = if block > IN_CHAIN {
        "the block number is greater than any chain has"
    } else if heads.is_empty() {
        "there is none"
    } else if heads.len() > MAX_HEADS {
        "there are more than 50"
    } else if !heads.is_sorted_by(|one, next| one.shard < next.shard) {
        "they do not ascend by shard"
    } else if heads.iter().any(|head| head.slot.is_zero()) {
        "one is zero"
    } else if heads.iter().any(|head| shard::class_of(head.shard) > shard::CLASS_DELIVERIES) {
        "one is of a shard that is not replayed"
    } else {
        return Ok(());
    };
    Err(MoveError::Heads { fault })
}

/// What both payloads have.
pub(crate) trait NamesHeads {
    fn block(&self) -> u64;
    fn heads(&self) -> &[payload::ShardHead];
}

impl NamesHeads for payload::Migrate {
    fn block(&self) -> u64 {
        self.blockNumber
    }

    fn heads(&self) -> &[payload::ShardHead] {
        &self.heads
    }
}

impl NamesHeads for payload::Migrated {
    fn block(&self) -> u64 {
        self.blockNumber
    }

    fn heads(&self) -> &[payload::ShardHead] {
        &self.heads
    }
}

/// The payload, if its heads are in their one form.
pub(crate) fn well_formed<T: NamesHeads>(payload: T, kind: Kind) -> Result<T, EntryError> {
    check_heads(payload.block(), payload.heads()).map_err(|_| EntryError::Malformed(kind))?;
    Ok(payload)
}

/// A move from one realm to the next, both sides of which fit the pins: made by [`check_move`] and [`check_arrival`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    source: Place,
    target: Place,
    heads: Heads,
}

impl Move {
    /// Where the realm comes from.
    #[must_use]
    pub const fn source(&self) -> &Place {
        &self.source
    }

    /// Where it goes.
    #[must_use]
    pub const fn target(&self) -> &Place {
        &self.target
    }

    /// Up to where the source's log counts.
    #[must_use]
    pub const fn heads(&self) -> &Heads {
        &self.heads
    }
}

/// Why a realm does not go where somebody says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// MIGRATE, or a statement, names another target than is pinned.
    #[error("the source names another target than the successor's realm file: its {field} differs")]
    Target {
        /// The first field that differs.
        field: Field,
    },
    /// MIGRATED names another source than is pinned.
    #[error("the target names another source than the predecessor's realm file: its {field} differs")]
    Source {
        /// The first field that differs.
        field: Field,
    },
    /// Both name each other, but not the same heads.
    #[error("source and target name different heads: {}", .shard.map_or_else(|| "the block number".to_owned(), |shard| format!("shard {shard:#x}")))]
    OtherHeads {
        /// The first shard that differs; none: the block number.
        shard: Option<u64>,
    },
    /// Heads that no entry can name.
    #[error("the heads are malformed: {fault}")]
    Heads {
        /// What is wrong.
        fault: &'static str,
    },
    /// The target was visited before.
    #[error("realm {realm} was left before: a realm does not return")]
    Loop {
        /// The realm.
        realm: B256,
    },
    /// More moves than readers follow.
    #[error("the realm has moved more often than readers follow (8 realms in a row)")]
    TooLong,
}

impl MoveError {
    /// A stable word for logs and status.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Target { .. } => "migrate-target",
            Self::Source { .. } => "migrate-source",
            Self::OtherHeads { .. } => "migrate-heads",
            Self::Heads { .. } => "migrate-heads-malformed",
            Self::Loop { .. } => "migrate-loop",
            Self::TooLong => "migrate-too-long",
        }
    }
}

/// Checks that the source's MIGRATE (which must be final, or a verified [`statement`]) and the target's MIGRATED (final, the first
/// entry of its shard 0) are about each other, about the pinned realms, and about the same heads.
///
/// # Errors
/// What differs.
pub fn check_move(
    source: &RealmPin,
    migrate: &payload::Migrate,
    target: &RealmPin,
    migrated: &payload::Migrated,
) -> Result<Move, MoveError> {
    if let Some(field) = Place::from(target).difference(&migrate.target()) {
        return Err(MoveError::Target { field });
    }
    check_heads(migrate.blockNumber, &migrate.heads)?;
    let arrival = check_arrival(source, target, migrated)?;
    let said = migrate.until();
    if said == arrival.heads {
        return Ok(arrival);
    }
    let shards = said.slots.keys().chain(arrival.heads.slots.keys());
    let differs = |shard: &&u64| said.slots.get(*shard) != arrival.heads.slots.get(*shard);
    Err(MoveError::OtherHeads { shard: shards.filter(differs).min().copied() })
}

/// The same for a reader that has pinned the target and does not read the source's MIGRATE: the target's roots say where its
/// history comes from.
///
/// # Errors
/// What differs.
pub fn check_arrival(source: &RealmPin, target: &RealmPin, migrated: &payload::Migrated) -> Result<Move, MoveError> {
    let (source, target) = (Place::from(source), Place::from(target));
    if let Some(field) = source.difference(&migrated.source()) {
        return Err(MoveError::Source { field });
    }
    if source.realm == target.realm {
        return Err(MoveError::Loop { realm: target.realm });
    }
    check_heads(migrated.blockNumber, &migrated.heads)?;
    Ok(Move { source, target, heads: migrated.until() })
}

/// How many entries of each shard of the source count: the heads, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// By shard, counted on the source's own chain.
    pub entries: BTreeMap<u64, u64>,
}

impl Cut {
    /// From the tips of a reader that has read exactly up to the heads, and in shard 0 perhaps to the MIGRATE after them.
    ///
    /// # Errors
    /// [`CutError`] naming the first shard whose tip is elsewhere: read the log again from its beginning then, with [`to_head`].
    pub fn at_tips(
        heads: &Heads,
        tip: impl Fn(u64) -> Option<Tip>,
        realm: B256,
        migrate: Option<&PlacedEntry>,
    ) -> Result<Self, CutError> {
        let mut entries = BTreeMap::new();
        for (shard, head) in &heads.slots {
            let tip = tip(*shard).unwrap_or_default();
            let migrate = migrate.filter(|placed| placed.entry.shard == *shard);
            let beyond = migrate
                .is_some_and(|placed| next_slot(*head, realm, &placed.entry, in_chain(placed.at.block)) == tip.slot);
            let count = match (tip.slot == *head, beyond) {
                (true, _) => Some(tip.entries),
                (false, true) => tip.entries.checked_sub(1),
                (false, false) => None,
            };
            let Some(count) = count else {
                return Err(CutError::Elsewhere { shard: *shard, head: *head, tip: tip.slot });
            };
            entries.insert(*shard, count);
        }
        Ok(Self { entries })
    }
}

/// Why a log does not lead to the heads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// The entries do not form a shard.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The head is not among the slots of the log: it is not a prefix of it.
    #[error("shard {shard:#x}: none of {entries} entries leads to the named head {head:#x}")]
    NotAPrefix {
        /// The shard.
        shard: u64,
        /// Entries folded.
        entries: u64,
        /// The named head.
        head: U256,
    },
    /// What a reader has read ends elsewhere.
    #[error("shard {shard:#x} was read to {tip:#x}, the named head is {head:#x}")]
    Elsewhere {
        /// The shard.
        shard: u64,
        /// The named head.
        head: U256,
        /// Where it was read to.
        tip: U256,
    },
}

impl CutError {
    /// A stable word for logs and status.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        "migrate-heads-unreached"
    }
}

/// Folds entries of one shard of the source, from its first on, up to the named head; those after it are not taken. Nothing about
/// them needs a proof: the roots of both sides have signed where they end.
///
/// Each entry comes with the number of the block that its source says it is in; the low 32 bits are hashed, and the whole number is
/// the greatest that is not above the named block.
///
/// # Errors
/// [`CutError`] when the entries do not fold, or end before the head.
pub fn to_head(
    step: &Move,
    shard: u64,
    entries: impl IntoIterator<Item = (LogEntry, u64)>,
) -> Result<Vec<PlacedEntry>, CutError> {
    let head = step.heads.slots.get(&shard).copied().unwrap_or_default();
    let Place { chain_id, contract, realm, .. } = step.source;
    let mut fold = Fold::new(chain_id, contract, realm, shard, Tip::default(), step.heads.block);
    let mut placed = Vec::new();
    let mut entries = entries.into_iter();
    while fold.tip().slot != head {
        let Some((entry, block)) = entries.next() else {
            return Err(CutError::NotAPrefix { shard, entries: fold.tip().entries, head });
        };
        placed.push(fold.push(entry, block)?);
    }
    Ok(placed)
}
