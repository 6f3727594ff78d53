//! What is still denied on a realm that was left.
//!
//! Of the source's entries beyond the named heads only denials count: classes 02 and 03, REMOVE and REVOKE. They count against what the
//! history holds, whatever the target has written since: no clock orders two chains, so an UNLOCK there does not lift them. What lifts
//! a denial in one realm lifts these too, written where they were: UNLOCK, RESTORE, SETTINGS and CA_LOOSEN by the source's roots, once
//! final, end those of earlier blocks. Everything else is ignored (`migrated`). Lost roles and bindings on the source take nothing away
//! on the target, where roles are written anew.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use countersign_certificate::Id;
use serde::{Deserialize, Serialize};

use super::denial::{Denial, Denied, PendingDenials, Target};
use super::engine::{each, parse_limits};
use super::state::State;
use super::{Fresh, Replay, ReplayError, fresh};
use crate::entries::{Entry, Kind, Targets};
use crate::head::{Meta, PlacedEntry};
use crate::migration::in_leg;
use crate::realm::{BlockRef, EntryRef};
use crate::replay::{IgnoreReason, Ignored};
use crate::shard;

/// The denials of one leg that was left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Late {
    leg: u64,
    final_block: u64,
    /// The next final entry, by shard; the heads' counts at first.
    next: BTreeMap<u64, u64>,
    /// Final, and not lifted.
    standing: BTreeMap<Denial, Stood>,
    pending: PendingDenials,
}

/// Where a denial of the source stands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Stood {
    /// The latest block; what lifts it is in a later one.
    block: u64,
    /// Its entry, where that is known.
    at: Option<EntryRef>,
}

/// What an entry of the source does.
enum Effect {
    Deny(Denial),
    Lift(Lift),
}

/// What is lifted of the denials of earlier blocks.
enum Lift {
    Lock(Target),
    End(Kind, Id),
    Setting(u16),
    Limits(Id),
}

impl Lift {
    fn ends(&self, denial: &Denial) -> bool {
        match (self, denial) {
            (Self::Lock(target), Denial::Locked(locked)) => target == locked,
            (Self::End(Kind::USER_ADD, id), Denial::Revoked(Target::User(ended)) | Denial::Removed(ended))
            | (Self::End(Kind::HOST_ADD, id), Denial::Revoked(Target::Host(ended)) | Denial::Removed(ended)) => {
                id == ended
            }
            (Self::Setting(key), Denial::Setting { key: set, .. }) => key == set,
            (Self::Limits(id), Denial::Limited { ca, .. }) => id == ca,
            _ => false,
        }
    }
}

impl Late {
    pub(super) fn new(leg: u64, first: BTreeMap<u64, u64>, pending: PendingDenials) -> Self {
        Self { leg, final_block: in_leg(leg, 0), next: first, standing: BTreeMap::new(), pending }
    }

    fn next_index(&self, shard: u64) -> u64 {
        self.next.get(&shard).copied().unwrap_or(0)
    }

    fn fresh<'a>(&self, until: u64, entries: &'a [PlacedEntry]) -> Result<Fresh<'a>, ReplayError> {
        fresh(in_leg(self.leg, 0), self.final_block, until, |shard| self.next_index(shard), entries)
    }

    fn advance(&mut self, state: &State, until: u64, entries: &[PlacedEntry]) -> Result<Vec<Ignored>, ReplayError> {
        let Fresh { entries, next } = self.fresh(until, entries)?;
        let mut ignored = Vec::new();
        for placed in entries {
            match effects(state, placed) {
                Ok(effects) => {
                    for effect in effects {
                        self.take(effect, placed.at);
                    }
                }
                Err((kind, reason)) => ignored.push(Ignored { at: placed.at, kind, reason }),
            }
        }
        self.next.extend(next);
        self.final_block = until;
        self.pending.expire(until);
        Ok(ignored)
    }

    fn take(&mut self, effect: Effect, at: EntryRef) {
        match effect {
            Effect::Deny(denial) => {
                self.pending.seen_final(&denial, at.block);
                let stood = Stood { block: at.block, at: Some(at) };
                let last = self.standing.entry(denial).or_insert(stood);
                if at.block >= last.block {
                    *last = stood;
                }
            }
            Effect::Lift(lift) => self.standing.retain(|denial, last| last.block >= at.block || !lift.ends(denial)),
        }
    }

    fn see(&mut self, state: &State, until: u64, entries: &[PlacedEntry]) -> Result<(), ReplayError> {
        for placed in self.fresh(until, entries)?.entries {
            for effect in effects(state, placed).unwrap_or_default() {
                if let Effect::Deny(denial) = effect {
                    self.pending.remember(denial, placed.at);
                }
            }
        }
        Ok(())
    }

    /// Final ones.
    pub(super) fn standing(&self) -> impl Iterator<Item = &Denial> {
        self.standing.keys()
    }

    /// Everything that is denied there, with the entries that are known.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Denial, EntryRef)> {
        let standing = self.standing.iter().filter_map(|(denial, stood)| Some((denial, stood.at?)));
        self.pending.entries().chain(standing)
    }

    pub(super) fn pending(&self) -> &PendingDenials {
        &self.pending
    }

    /// The block from which a lock makes what `actor` adds on the target void, as far as it was known by then.
    pub(super) fn voids_from(&self, actor: &Address) -> Option<u64> {
        let locked = self.standing.get(&Denial::Locked(Target::Actor(*actor))).map(|stood| stood.block);
        locked.into_iter().chain(self.pending.voids_from(actor)).min()
    }
}

/// What an entry of the source beyond the heads does, by the authority that the history up to the heads knows.
fn effects(state: &State, placed: &PlacedEntry) -> Result<Vec<Effect>, (Kind, IgnoreReason)> {
    let Some(Meta { kind, .. }) = Meta::unpack(placed.entry.meta) else {
        return Err((Kind(0), IgnoreReason::WrongShard));
    };
    effects_of(state, placed, kind).map_err(|reason| (kind, reason))
}

fn effects_of(state: &State, placed: &PlacedEntry, kind: Kind) -> Result<Vec<Effect>, IgnoreReason> {
    let actor = placed.entry.actor;
    if shard::class_of_kind(kind) != Some(shard::class_of(placed.at.shard)) {
        return Err(IgnoreReason::WrongShard);
    }
    if kind.class() == 0x00 && !actor.is_zero() {
        return Err(IgnoreReason::NoRole);
    }
    let counts =
        matches!(kind, Kind::REVOKE | Kind::UNLOCK | Kind::RESTORE | Kind::SETTINGS | Kind::CA_LOOSEN | Kind::REMOVE)
            || matches!(kind.class(), 0x02 | 0x03);
    if !counts {
        return Err(IgnoreReason::Migrated);
    }
    let all = |targets: &Targets, effect: fn(Target) -> Effect| each(targets).into_iter().map(effect).collect();
    Ok(match Entry::decode(kind, &placed.entry.data)? {
        Entry::Lock(targets) => all(&targets, |target| Effect::Deny(Denial::Locked(target))),
        Entry::Revoke(targets) => all(&targets, |target| Effect::Deny(Denial::Revoked(target))),
        Entry::Unlock(targets) => all(&targets, |target| Effect::Lift(Lift::Lock(target))),
        Entry::Restore(restore) => vec![Effect::Lift(Lift::End(Kind(restore.kind), Id(restore.id.0)))],
        Entry::Settings(settings) => settings.items.iter().map(|item| Effect::Lift(Lift::Setting(item.key))).collect(),
        Entry::CaLoosen(limits) => vec![Effect::Lift(Lift::Limits(Id(limits.ca.0)))],
        Entry::Remove(ids) => ids.into_iter().map(|id| Effect::Deny(Denial::Removed(id))).collect(),
        Entry::CaRetire(cas) => {
            let time = placed.at.time;
            cas.into_iter().map(|ca| Effect::Deny(Denial::Retired { ca, time })).collect()
        }
        Entry::CaTighten(change) => {
            let limits = parse_limits(change.maxTtl, &change.logins, &change.issuers)?;
            vec![Effect::Deny(Denial::Limited { ca: Id(change.ca.0), limits })]
        }
        Entry::SettingsTighten(settings) => (settings.items.iter())
            .map(|item| Effect::Deny(Denial::Setting { key: item.key, value: item.value }))
            .collect(),
        Entry::CertRevoke { ca, serials } => {
            state.may_revoke(actor, &ca, placed.at.block)?;
            serials.into_iter().map(|serial| Effect::Deny(Denial::Serial { ca, serial })).collect()
        }
        _ => return Err(IgnoreReason::Migrated),
    })
}

impl Replay {
    /// Takes what has become final on a realm that was left, beyond the heads that its successor names: entries of `leg` in their place in
    /// the history ([`Self::place_in`]), of shards 0, 1, 2 and class 3. The denials among them stay, also when the source cannot be
    /// read any more.
    ///
    /// # Errors
    /// [`ReplayError`] if the entries do not continue what was taken; nothing has changed then.
    pub fn advance_source(&mut self, leg: u64, block: BlockRef, entries: &[PlacedEntry]) -> Result<(), ReplayError> {
        let source = self.sources.iter_mut().find(|source| source.leg == leg);
        let ignored = source.ok_or(ReplayError::NoSuchLeg { leg })?.advance(&self.state, block.number, entries)?;
        for Ignored { at, kind, reason } in ignored {
            self.state.ignore(at, kind, reason);
        }
        Ok(())
    }

    /// Remembers the denials of a latest view of a realm that was left, given the entries that are not final there.
    ///
    /// # Errors
    /// As [`Self::advance_source`].
    pub fn see_source(&mut self, leg: u64, latest: BlockRef, suffix: &[PlacedEntry]) -> Result<(), ReplayError> {
        let source = self.sources.iter_mut().find(|source| source.leg == leg);
        source.ok_or(ReplayError::NoSuchLeg { leg })?.see(&self.state, latest.number, suffix)
    }

    /// How many entries of `shard` of the left realm `leg` are known, on its own chain: those that the heads cover, and those that
    /// were taken since.
    #[must_use]
    pub fn source_index(&self, leg: u64, shard: u64) -> u64 {
        let Some(source) = self.sources.iter().find(|source| source.leg == leg) else { return 0 };
        source.next_index(shard).saturating_sub(self.state.first_index(leg, shard))
    }

    /// Keeps what `before` knows to be denied on the source and this replay does not: for a reader that had read beyond the heads, and
    /// has replayed the source again up to them. To be called right after [`Self::begin_leg`].
    pub fn keep_denials_of(&mut self, before: &Self) {
        for source in &mut self.sources {
            let Some(known) = before.sources.iter().find(|known| known.leg == source.leg) else { continue };
            for (denial, stood) in &known.standing {
                source.standing.entry(denial.clone()).or_insert(*stood);
            }
            source.pending.absorb(&known.pending);
        }
        let Some(source) = self.sources.last_mut() else { return };
        let block = before.final_block.number;
        for (denial, at) in before.state.denials_beyond(&self.state) {
            source.standing.entry(denial).or_insert(Stood { block, at });
        }
        source.pending.absorb(&before.pending);
    }

    /// Everything that is denied on left realms: the final part, and all of it.
    pub(super) fn late_denials(&self) -> (Denied, Denied) {
        let mut standing = Denied::default();
        for denial in self.sources.iter().flat_map(Late::standing) {
            standing.add(denial);
        }
        let mut all = self.pending.index();
        for source in &self.sources {
            source.pending().add_to(&mut all);
        }
        (standing, all)
    }
}
