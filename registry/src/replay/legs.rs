//! One history over several realms: where one leg ends, and how entries of the next one are placed after it.
//!
//! A leg's blocks and indexes are those of its own chain; [`Replay`] counts on over all legs. A leg begins at exactly the heads
//! that the move names, and nothing is published before the target's MIGRATED is there. A realm is not visited twice.

use std::collections::BTreeMap;

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

use super::late::Late;
use super::state::State;
use super::{Replay, ReplayError};
use crate::entries::{Entry, Kind, payload};
use crate::head::{Meta, PlacedEntry};
use crate::migration::{Cut, MAX_LEGS, Move, MoveError, in_chain, in_leg};
use crate::realm::{BlockRef, EntryRef};
use crate::replay::IgnoreReason;
use crate::shard;

/// One realm of the history.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct LegState {
    pub(super) realm: B256,
    /// How many entries of each shard the legs before have.
    pub(super) first_index: BTreeMap<u64, u64>,
    /// What the first entry of shard 0 must be; none in the first leg.
    arrival: Option<Vec<u8>>,
    /// That entry, once it is there.
    pub(super) arrived: Option<EntryRef>,
    /// The first MIGRATE.
    pub(super) leaves: Option<(EntryRef, Vec<u8>)>,
    /// What contradicts the move: an entry that should have been MIGRATED, or a MIGRATED where no realm before is known.
    pub(super) stray: Option<EntryRef>,
}

/// Why a leg cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LegError {
    /// The move is not one from this realm, or leads back.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The move starts in another realm than this history has come to.
    #[error("the move starts in realm {got}, this history is in realm {expected}")]
    OtherRealm {
        /// Where the history is.
        expected: B256,
        /// Where the move starts.
        got: B256,
    },
    /// Other entries were replayed than the heads cover: replay the source again, up to the heads.
    #[error("shard {shard:#x}: {got} entries were replayed, the heads cover {expected}")]
    NotAtHeads {
        /// The shard.
        shard: u64,
        /// What the heads cover.
        expected: u64,
        /// What was replayed.
        got: u64,
    },
}

impl LegError {
    /// A stable word for logs and status.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Move(error) => error.reason(),
            Self::OtherRealm { .. } => "migrate-source",
            Self::NotAtHeads { .. } => "migrate-heads-unreached",
        }
    }
}

/// A realm of a history, as readers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Leg {
    /// Realm id.
    pub realm: B256,
    /// Its MIGRATED; none for the first.
    pub arrived: Option<EntryRef>,
}

impl LegState {
    pub(super) fn first(realm: B256) -> Self {
        Self { realm, ..Self::default() }
    }
}

impl State {
    /// The leg whose log is replayed now.
    pub(super) fn leg(&self) -> u64 {
        u64::try_from(self.legs.len()).unwrap_or(u64::MAX).saturating_sub(1)
    }

    /// Index of the first entry of `shard` that is of a leg.
    pub(super) fn first_index(&self, leg: u64, shard: u64) -> u64 {
        let leg = usize::try_from(leg).ok().and_then(|leg| self.legs.get(leg));
        leg.and_then(|leg| leg.first_index.get(&shard)).copied().unwrap_or(0)
    }

    /// MIGRATE and MIGRATED: what they mean is for [`Replay`]'s owner; here it is noted.
    pub(super) fn crossing(&mut self, at: EntryRef, entry: &Entry) -> Result<(), IgnoreReason> {
        let (first, is_later) = (self.first_index(self.leg(), at.shard) == at.index, self.legs.len() > 1);
        let Some(leg) = self.legs.last_mut() else { return Err(IgnoreReason::UnknownKind) };
        match entry {
            Entry::Migrate(_) if leg.leaves.is_some() => Err(IgnoreReason::Migrated),
            Entry::Migrate(migrate) => {
                leg.leaves = Some((at, Entry::Migrate(migrate.clone()).encode().to_vec()));
                Ok(())
            }
            Entry::Migrated(migrated) if first => {
                let said = Entry::Migrated(migrated.clone()).encode();
                if is_later && leg.arrival.as_deref() == Some(&said) {
                    leg.arrived = Some(at);
                } else {
                    leg.stray = Some(at);
                }
                Ok(())
            }
            _ => Err(IgnoreReason::NotFirst),
        }
    }

    /// Notes an entry that stands where the target's MIGRATED should.
    pub(super) fn check_arrival(&mut self, at: EntryRef, meta: Option<Meta>) {
        let (leg, first) = (self.leg(), self.first_index(self.leg(), at.shard));
        if leg > 0
            && at.shard == shard::GOVERNANCE
            && at.index == first
            && meta.map(|meta| meta.kind) != Some(Kind::MIGRATED)
            && let Some(leg) = self.legs.last_mut()
        {
            leg.stray = Some(at);
        }
    }

    /// Why nothing may be published of this state.
    pub(super) fn check_publishable(&self) -> Result<(), ReplayError> {
        let Some(leg) = self.legs.last() else { return Ok(()) };
        if let Some(at) = leg.stray {
            return Err(if self.legs.len() > 1 {
                ReplayError::NotArrived { realm: leg.realm }
            } else {
                ReplayError::PredecessorNeeded { at }
            });
        }
        if self.legs.len() > 1 && leg.arrived.is_none() {
            return Err(ReplayError::NotArrived { realm: leg.realm });
        }
        Ok(())
    }
}

impl Replay {
    /// Begins the next leg: from here on, entries are the target's. The replay must stand exactly at the heads that the move names;
    /// in shard 0 the MIGRATE after them may have been replayed too. Shards of class 3 and up that the heads do not name are
    /// forgotten.
    ///
    /// Nothing is published ([`ReplayError::NotArrived`]) until the target's first entry of shard 0 is replayed: exactly the MIGRATED of
    /// the move. Pending denials of the source go on counting, as [`Self::advance_source`] says.
    ///
    /// # Errors
    /// [`LegError`]; nothing has changed then.
    pub fn begin_leg(&mut self, step: &Move, cut: &Cut) -> Result<(), LegError> {
        let leg = self.state.leg();
        if step.source().realm != self.state.realm {
            return Err(LegError::OtherRealm { expected: self.state.realm, got: step.source().realm });
        }
        if self.state.legs.iter().any(|leg| leg.realm == step.target().realm) {
            return Err(MoveError::Loop { realm: step.target().realm }.into());
        }
        if self.state.legs.len() >= MAX_LEGS {
            return Err(MoveError::TooLong.into());
        }
        let leaves = self.state.legs.last().and_then(|leg| leg.leaves.as_ref()).map(|(at, _)| (at.shard, at.index));
        let covered = |shard: u64| {
            let named = step.heads().slots.contains_key(&shard);
            named.then(|| cut.entries.get(&shard).copied()).flatten().unwrap_or(0)
        };
        let first_index = |shard: u64| self.state.first_index(leg, shard).saturating_add(covered(shard));
        let read = self.state.next.iter().map(|(shard, _)| *shard).filter(|shard| shard::class_of(*shard) < 3);
        for shard in read.chain(step.heads().slots.keys().copied()) {
            let got = self.next_index(shard);
            let expected = first_index(shard);
            let migrate_only = leaves == Some((shard, expected)) && got == expected.saturating_add(1);
            if got != expected && !migrate_only {
                return Err(LegError::NotAtHeads { shard, expected: covered(shard), got: self.local_index(shard) });
            }
        }
        let shards: Vec<u64> = self.state.next.keys().chain(step.heads().slots.keys()).copied().collect();
        let first_index: BTreeMap<u64, u64> =
            shards.into_iter().map(|shard| (shard, first_index(shard))).filter(|(_, first)| *first > 0).collect();
        self.state.retain_shards(|shard| step.heads().slots.contains_key(&shard));
        for (shard, first) in &first_index {
            self.state.next.insert(*shard, *first);
        }
        let pending = std::mem::take(&mut self.pending);
        self.sources.push(Late::new(leg, first_index.clone(), pending));
        let arrival = Entry::Migrated(payload::Migrated::new(step.source(), step.heads())).encode().to_vec();
        let realm = step.target().realm;
        self.state.legs.push(LegState { realm, first_index, arrival: Some(arrival), ..LegState::default() });
        self.state.realm = realm;
        self.final_block = BlockRef { number: in_leg(leg.saturating_add(1), 0), time: self.final_block.time };
        Ok(())
    }

    /// The leg whose log is replayed: 0 for the first realm.
    #[must_use]
    pub fn leg(&self) -> u64 {
        self.state.leg()
    }

    /// The realms of the history, the first first.
    #[must_use]
    pub fn legs(&self) -> Vec<Leg> {
        self.state.legs.iter().map(|leg| Leg { realm: leg.realm, arrived: leg.arrived }).collect()
    }

    /// The MIGRATE that the final view of the current leg has, if any, and where it stands.
    #[must_use]
    pub fn migrate(&self) -> Option<(payload::Migrate, EntryRef)> {
        let (at, data) = self.state.legs.last()?.leaves.as_ref()?;
        match Entry::decode(Kind::MIGRATE, data) {
            Ok(Entry::Migrate(migrate)) => Some((migrate, *at)),
            _ => None,
        }
    }

    /// An entry of the current leg, as its own chain places it, in its place in the whole history.
    #[must_use]
    pub fn place(&self, placed: &PlacedEntry) -> PlacedEntry {
        self.place_in(self.leg(), placed)
    }

    /// The same for any leg.
    #[must_use]
    pub fn place_in(&self, leg: u64, placed: &PlacedEntry) -> PlacedEntry {
        let at = placed.at;
        let index = at.index.saturating_add(self.state.first_index(leg, at.shard));
        PlacedEntry { at: EntryRef { block: in_leg(leg, at.block), index, ..at }, entry: placed.entry.clone() }
    }

    /// A block of the current leg's chain, as it is numbered in the whole history.
    #[must_use]
    pub fn block(&self, block: BlockRef) -> BlockRef {
        BlockRef { number: in_leg(self.leg(), in_chain(block.number)), time: block.time }
    }

    /// How many final entries of `shard` have been replayed of the current leg: the index of the next one on its own chain.
    #[must_use]
    pub fn local_index(&self, shard: u64) -> u64 {
        self.next_index(shard).saturating_sub(self.state.first_index(self.leg(), shard))
    }
}
