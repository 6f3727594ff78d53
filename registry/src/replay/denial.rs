//! Denials of the latest view, kept through reorgs.
//!
//! A denial seen in a latest view stays in force until the final view contains it (then the final view speaks for itself) or
//! has passed its block by 64 blocks without it.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use countersign_certificate::{Fingerprint20, Id};
use serde::{Deserialize, Serialize};

use crate::effective::Settings;
use crate::entries::Roles;
use crate::origins;
use crate::realm::{CaLimits, EntryRef};
use crate::replay::late::Late;

/// How many blocks the final view must have passed a denial's block by before the denial is dropped.
pub const DENIAL_BLOCKS: u64 = 64;

/// What a lock or a revocation is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Target {
    Key(Fingerprint20),
    User(Id),
    Host(Id),
    Ca(Id),
    Actor(Address),
    Batch(Id),
}

impl Target {
    /// Its lock.
    pub(crate) fn locked(&self) -> origins::Denied {
        match self {
            Self::Key(key) => origins::Denied::LockedKey(*key),
            Self::User(id) | Self::Host(id) | Self::Ca(id) | Self::Batch(id) => origins::Denied::Locked(*id),
            Self::Actor(actor) => origins::Denied::Issuer(*actor),
        }
    }

    /// Its revocation, where it is a record or a key.
    pub(crate) fn revoked(&self) -> Option<origins::Denied> {
        match self {
            Self::Key(key) => Some(origins::Denied::RevokedKey(*key)),
            Self::User(id) | Self::Host(id) | Self::Ca(id) | Self::Batch(id) => Some(origins::Denied::Revoked(*id)),
            Self::Actor(_) => None,
        }
    }
}

impl Denial {
    /// What people are told that it denies, where that has an origin of its own.
    pub(super) fn denied(&self) -> Option<origins::Denied> {
        match self {
            Self::Locked(target) => Some(target.locked()),
            Self::Revoked(target) => target.revoked(),
            Self::Retired { ca, .. } => Some(origins::Denied::Retired(*ca)),
            Self::Serial { ca, serial } => Some(origins::Denied::Serial(*ca, *serial)),
            Self::Removed(id) => Some(origins::Denied::Removed(*id)),
            Self::RoleLost { actor, role } if *role == Roles::ISSUER => Some(origins::Denied::Issuer(*actor)),
            Self::RoleLost { .. } | Self::Limited { .. } | Self::Setting { .. } | Self::Unbound(_) => None,
        }
    }
}

/// One thing that is taken away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Denial {
    Locked(Target),
    Revoked(Target),
    Retired {
        ca: Id,
        time: u64,
    },
    Limited {
        ca: Id,
        limits: CaLimits,
    },
    Setting {
        key: u16,
        value: u64,
    },
    Serial {
        ca: Id,
        serial: u64,
    },
    Removed(Id),
    /// Role bits, one at a time.
    RoleLost {
        actor: Address,
        role: u64,
    },
    Unbound(Address),
}

/// Where denials of the entries being applied go.
#[derive(Debug)]
pub(super) enum Sink<'a> {
    /// Final: what is now in the final view need not be remembered beside it. Beside the realms that were left.
    Final(&'a mut PendingDenials, &'a [Late]),
    /// Latest: remember.
    Latest(&'a mut PendingDenials),
}

impl Sink<'_> {
    pub(super) fn deny(&mut self, denial: Denial, at: EntryRef) {
        match self {
            Self::Final(pending, _) => pending.seen_final(&denial, at.block),
            Self::Latest(pending) => pending.remember(denial, at),
        }
    }

    /// Whether a pending lock or loss of its role makes void what `actor` adds in `block` of the final view.
    pub(super) fn doubts(&self, actor: &Address, block: u64) -> bool {
        match self {
            Self::Final(pending, sources) => voids_from(pending, sources, actor).is_some_and(|first| first <= block),
            Self::Latest(_) => false,
        }
    }
}

/// The block from which a lock that is pending, or that stands on a realm that was left, makes the additions of `actor` void.
pub(super) fn voids_from(pending: &PendingDenials, sources: &[Late], actor: &Address) -> Option<u64> {
    sources.iter().filter_map(|source| source.voids_from(actor)).chain(pending.voids_from(actor)).min()
}

/// Denials with the entries they were seen in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct PendingDenials {
    blocks: BTreeMap<Denial, Seen>,
}

/// The least block in which a denial was seen, and the entry of the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    first: u64,
    last: EntryRef,
}

impl Seen {
    fn join(&mut self, other: Self) {
        *self = Self { first: self.first.min(other.first), last: self.last.max(other.last) };
    }
}

impl PendingDenials {
    pub(super) fn remember(&mut self, denial: Denial, at: EntryRef) {
        let seen = Seen { first: at.block, last: at };
        self.blocks.entry(denial).or_insert(seen).join(seen);
    }

    pub(super) fn seen_final(&mut self, denial: &Denial, block: u64) {
        if self.blocks.get(denial).is_some_and(|seen| seen.last.block <= block) {
            self.blocks.remove(denial);
        }
    }

    /// Drops what the final view has passed.
    pub(super) fn expire(&mut self, final_block: u64) {
        self.blocks.retain(|_, seen| final_block < seen.last.block.saturating_add(DENIAL_BLOCKS));
    }

    /// The block from which a pending lock or loss of its role makes the additions of `actor` void.
    pub(super) fn voids_from(&self, actor: &Address) -> Option<u64> {
        let locked = self.blocks.get(&Denial::Locked(Target::Actor(*actor)));
        let lost = self.blocks.get(&Denial::RoleLost { actor: *actor, role: Roles::ADMIN });
        [locked, lost].into_iter().flatten().map(|seen| seen.first).min()
    }

    pub(super) fn index(&self) -> Denied {
        let mut denied = Denied::default();
        self.add_to(&mut denied);
        denied
    }

    /// What is denied, and the entry of the greatest block in which that was seen.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Denial, EntryRef)> {
        self.blocks.iter().map(|(denial, seen)| (denial, seen.last))
    }

    pub(super) fn add_to(&self, denied: &mut Denied) {
        for denial in self.blocks.keys() {
            denied.add(denial);
        }
    }

    /// Remembers what another has seen, too.
    pub(super) fn absorb(&mut self, other: &Self) {
        for (denial, seen) in &other.blocks {
            self.blocks.entry(denial.clone()).or_insert(*seen).join(*seen);
        }
    }
}

/// The same, sorted by what is asked.
#[derive(Debug, Default)]
pub(super) struct Denied {
    pub(super) locked: BTreeSet<Target>,
    pub(super) revoked: BTreeSet<Target>,
    pub(super) retired: BTreeMap<Id, u64>,
    pub(super) limits: BTreeMap<Id, CaLimits>,
    pub(super) serials: BTreeSet<(Id, u64)>,
    pub(super) removed: BTreeSet<Id>,
    pub(super) unbound: BTreeSet<Address>,
    settings: Vec<(u16, u64)>,
    roles_lost: BTreeMap<Address, u64>,
}

impl Denied {
    pub(super) fn add(&mut self, denial: &Denial) {
        match denial {
            Denial::Locked(target) => {
                self.locked.insert(*target);
            }
            Denial::Revoked(target) => {
                self.revoked.insert(*target);
            }
            Denial::Retired { ca, time } => {
                let earliest = self.retired.entry(*ca).or_insert(*time);
                *earliest = (*earliest).min(*time);
            }
            Denial::Limited { ca, limits } => {
                let cut = self.limits.get(ca).map_or_else(|| limits.clone(), |other| other.intersect(limits));
                self.limits.insert(*ca, cut);
            }
            Denial::Setting { key, value } => self.settings.push((*key, *value)),
            Denial::Serial { ca, serial } => {
                self.serials.insert((*ca, *serial));
            }
            Denial::Removed(id) => {
                self.removed.insert(*id);
            }
            Denial::RoleLost { actor, role } => {
                *self.roles_lost.entry(*actor).or_default() |= role;
            }
            Denial::Unbound(actor) => {
                self.unbound.insert(*actor);
            }
        }
    }

    /// Both.
    pub(super) fn merge(&mut self, other: &Self) {
        self.locked.extend(&other.locked);
        self.revoked.extend(&other.revoked);
        for (ca, time) in &other.retired {
            self.add(&Denial::Retired { ca: *ca, time: *time });
        }
        for (ca, limits) in &other.limits {
            self.add(&Denial::Limited { ca: *ca, limits: limits.clone() });
        }
        self.serials.extend(&other.serials);
        self.removed.extend(&other.removed);
        self.unbound.extend(&other.unbound);
        self.settings.extend(&other.settings);
        for (actor, roles) in &other.roles_lost {
            *self.roles_lost.entry(*actor).or_default() |= roles;
        }
    }

    /// Whether `actor` may no longer stand behind additions that do not count yet.
    pub(super) fn voids(&self, actor: &Address) -> bool {
        self.locked.contains(&Target::Actor(*actor)) || self.roles_lost(actor) & Roles::ADMIN != 0
    }

    /// Whether anything here may end a record before which another stands back.
    pub(super) fn uncovers(&self) -> bool {
        !self.removed.is_empty() || !self.locked.is_empty() || !self.roles_lost.is_empty()
    }

    /// Role bits that `actor` has lost.
    pub(super) fn roles_lost(&self, actor: &Address) -> u64 {
        self.roles_lost.get(actor).copied().unwrap_or(0)
    }

    /// `settings`, as strict as every pending change.
    pub(super) fn tighten(&self, mut settings: Settings) -> Settings {
        for (key, value) in &self.settings {
            // A looser value changes nothing: it counts once it is final.
            let _ = settings.tighten(*key, *value);
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: Denial = Denial::Locked(Target::User(Id([1; 16])));

    fn at(block: u64) -> EntryRef {
        EntryRef { block, index: block, ..EntryRef::default() }
    }

    #[test]
    fn a_denial_stays_until_final_has_passed_its_block_by_64_blocks() {
        let mut pending = PendingDenials::default();
        pending.remember(LOCK, at(100));
        pending.expire(163);
        assert!(pending.index().locked.contains(&Target::User(Id([1; 16]))));
        pending.expire(164);
        assert!(pending.index().locked.is_empty());
    }

    #[test]
    fn a_denial_ends_when_final_contains_it_but_not_by_an_earlier_one_of_the_same_target() {
        let mut pending = PendingDenials::default();
        pending.remember(LOCK, at(100));
        Sink::Final(&mut pending, &[]).deny(LOCK, at(99));
        assert_eq!(pending.blocks.len(), 1);
        Sink::Final(&mut pending, &[]).deny(LOCK, at(100));
        assert!(pending.blocks.is_empty());
    }

    #[test]
    fn a_denial_seen_again_lasts_from_its_least_to_its_greatest_block() {
        let mut pending = PendingDenials::default();
        Sink::Latest(&mut pending).deny(LOCK, at(100));
        Sink::Latest(&mut pending).deny(LOCK, at(90));
        pending.expire(160);
        assert_eq!(pending.blocks.get(&LOCK), Some(&Seen { first: 90, last: at(100) }));
    }
}
