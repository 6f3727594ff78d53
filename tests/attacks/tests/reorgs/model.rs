//! What a host must answer, worked out from the history alone: no replay, no tables, one rule of the specification after the other. A
//! history is a list of events, each in a block of its own; what the host has seen of other histories is a list of denials.

use std::collections::{BTreeMap, BTreeSet};

use attacks::cast::Who;
use countersign_registry::B256;

/// How long a denial that no history has any more stays in force, in blocks that the final view passes its own by.
const DENIAL_BLOCKS: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Person {
    Alice,
    Bob,
    Carol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum To {
    Person(Person),
    Group,
}

/// What can be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lockable {
    Key(Person),
    Person(Person),
    Ca(u8),
    Actor(Who),
    Batch(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Switch {
    RequireLogged,
    Quorum,
}

/// Records and batches are named by numbers; a certificate has its batch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Grant {
        name: u32,
        by: Who,
        to: To,
    },
    Member {
        name: u32,
        by: Who,
        person: Person,
    },
    Remove(u32),
    Lock(Lockable),
    Unlock(Lockable),
    /// The only role of its holder.
    Role {
        who: Who,
        on: bool,
    },
    CaAdd(u8),
    /// No issuer is listed any more.
    CaTighten(u8),
    /// The issuer is.
    CaLoosen(u8),
    /// By the roots, who may also switch off, or by the revoker.
    Set {
        switch: Switch,
        on: bool,
        by: Who,
    },
    Batch {
        name: u32,
        ca: u8,
        grant: u32,
    },
    /// With the hash of the batch's entry as the watchdog saw it.
    Countersign {
        name: u32,
        hash: B256,
    },
    Revoke(u32),
}

/// An event and its block; for a batch, the hash of its entry.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) block: u64,
    pub(crate) event: Event,
    pub(crate) hash: B256,
}

/// What is asked about. All certificates are alice's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Candidate {
    Key(Person),
    Logged { name: u32, ca: u8, grant: u32 },
    Unlogged { ca: u8, grant: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Denial {
    Locked(Lockable),
    Removed(u32),
    RoleLost(Who),
    Set(Switch),
    Limited(u8),
    Revoked(u32),
}

/// What holds after some events.
#[derive(Clone, Debug, Default)]
struct Standing {
    grants: BTreeMap<u32, (Who, To, u64)>,
    members: BTreeMap<u32, (Who, Person, u64)>,
    removed: BTreeSet<u32>,
    locked: BTreeSet<Lockable>,
    without_role: BTreeSet<Who>,
    /// Whether they list the issuer.
    cas: BTreeMap<u8, bool>,
    tightened_early: BTreeSet<u8>,
    set: BTreeSet<Switch>,
    revoked: BTreeSet<u32>,
    /// CA, whether it listed the issuer then, hash.
    batches: BTreeMap<u32, (u8, bool, B256)>,
    countersigned: BTreeSet<(u32, B256)>,
}

impl Standing {
    /// The group's first member, the first grant and the first CA are there from the beginning, under the name 0 (the CA: 1).
    fn beginning() -> Self {
        Self {
            grants: BTreeMap::from([(0, (Who::Admin, To::Person(Person::Alice), 0))]),
            members: BTreeMap::from([(1, (Who::Admin, Person::Carol, 0))]),
            cas: BTreeMap::from([(1, true)]),
            ..Self::default()
        }
    }

    fn may_write(&self, who: Who) -> bool {
        !self.without_role.contains(&who) && !self.locked.contains(&Lockable::Actor(who))
    }

    /// Applies an event; returns what it denies.
    fn apply(&mut self, placed: &Placed) -> Option<Denial> {
        let block = placed.block;
        match placed.event {
            Event::Grant { name, by, to } => {
                if self.may_write(by) && !self.removed.contains(&name) {
                    self.grants.insert(name, (by, to, block));
                }
            }
            Event::Member { name, by, person } => {
                if self.may_write(by) && !self.removed.contains(&name) {
                    self.members.insert(name, (by, person, block));
                }
            }
            Event::Remove(name) => {
                self.removed.insert(name);
                return Some(Denial::Removed(name));
            }
            Event::Lock(target) => {
                self.locked.insert(target);
                return Some(Denial::Locked(target));
            }
            Event::Unlock(target) => {
                self.locked.remove(&target);
            }
            Event::Role { who, on: true } => {
                self.without_role.remove(&who);
            }
            Event::Role { who, on: false } => return self.without_role.insert(who).then_some(Denial::RoleLost(who)),
            Event::CaAdd(ca) => {
                self.cas.insert(ca, !self.tightened_early.contains(&ca));
            }
            Event::CaTighten(ca) => {
                match self.cas.get_mut(&ca) {
                    Some(listed) => *listed = false,
                    None => drop(self.tightened_early.insert(ca)),
                }
                return Some(Denial::Limited(ca));
            }
            Event::CaLoosen(ca) => {
                if let Some(listed) = self.cas.get_mut(&ca) {
                    *listed = true;
                }
            }
            Event::Set { switch, on: true, by } => {
                let news = self.set.insert(switch);
                return (news || by == Who::Roots).then_some(Denial::Set(switch));
            }
            Event::Set { switch, on: false, .. } => {
                self.set.remove(&switch);
            }
            Event::Batch { name, ca, .. } => {
                if self.may_write(Who::Issuer) {
                    let listed = self.cas.get(&ca).copied().unwrap_or(false);
                    self.batches.insert(name, (ca, listed, placed.hash));
                }
            }
            Event::Countersign { name, hash } => {
                if self.may_write(Who::Watchdog) {
                    self.countersigned.insert((name, hash));
                }
            }
            Event::Revoke(name) => {
                self.revoked.insert(name);
                return Some(Denial::Revoked(name));
            }
        }
        None
    }
}

/// The chain as it stands, and what one host remembers of how it stood.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) history: Vec<Placed>,
    /// First and last block in which a denial was seen.
    seen: BTreeMap<Denial, (u64, u64)>,
    final_block: u64,
}

impl Model {
    /// The same chain to a host that remembers nothing.
    pub(crate) fn stranger(&self) -> Self {
        Self { seen: BTreeMap::new(), ..self.clone() }
    }

    /// Whether the contract lets `who` write what its role allows.
    pub(crate) fn has_role(&self, who: Who) -> bool {
        !self.standing(u64::MAX).0.without_role.contains(&who)
    }

    /// What is locked on the chain as it stands.
    pub(crate) fn locked(&self) -> Vec<Lockable> {
        self.standing(u64::MAX).0.locked.into_iter().collect()
    }

    /// Who of those that may lose their role has lost it.
    pub(crate) fn without_role(&self) -> Vec<Who> {
        self.standing(u64::MAX).0.without_role.into_iter().collect()
    }

    /// What holds after the events up to a block, and what they denied.
    fn standing(&self, until: u64) -> (Standing, Vec<(u64, Denial)>) {
        let mut standing = Standing::beginning();
        let mut denials = Vec::new();
        for placed in self.history.iter().filter(|placed| placed.block <= until) {
            denials.extend(standing.apply(placed).map(|denial| (placed.block, denial)));
        }
        (standing, denials)
    }

    /// The host looks: up to `final_block` the history is final.
    pub(crate) fn look(&mut self, final_block: u64) {
        self.final_block = self.final_block.max(final_block);
        let (_, denials) = self.standing(u64::MAX);
        for (block, denial) in denials.iter().filter(|(block, _)| *block <= final_block) {
            if self.seen.get(denial).is_some_and(|(_, last)| last <= block) {
                self.seen.remove(denial);
            }
        }
        self.seen.retain(|_, (_, last)| final_block < *last + DENIAL_BLOCKS);
        for (block, denial) in denials.into_iter().filter(|(block, _)| *block > final_block) {
            let (first, last) = self.seen.entry(denial).or_insert((block, block));
            (*first, *last) = ((*first).min(block), (*last).max(block));
        }
    }

    /// Whether the final history alone, with the deeds that stand in the latest one, lets somebody in.
    pub(crate) fn history_allows(&self, candidate: Candidate) -> bool {
        self.stranger().allows(candidate)
    }

    /// Whether the host must let somebody in.
    pub(crate) fn allows(&self, candidate: Candidate) -> bool {
        let (authority, _) = self.standing(self.final_block);
        let (latest, _) = self.standing(u64::MAX);
        let view = View { authority, latest, seen: &self.seen };
        match candidate {
            Candidate::Key(person) => {
                !view.locked(Lockable::Key(person))
                    && !view.locked(Lockable::Person(person))
                    && !view.set(Switch::RequireLogged)
                    && view.foremost(person).is_some_and(|grant| view.grant_leads(grant, person))
            }
            Candidate::Unlogged { ca, grant } => {
                view.certifies(ca) && view.grant_leads_alice(grant) && !view.set(Switch::RequireLogged)
            }
            Candidate::Logged { name, ca, grant } => {
                let revoked = view.authority.revoked.contains(&name) || view.denied(Denial::Revoked(name));
                view.certifies(ca) && view.grant_leads_alice(grant) && !revoked && view.accepted(name, ca)
            }
        }
    }
}

struct View<'a> {
    authority: Standing,
    latest: Standing,
    seen: &'a BTreeMap<Denial, (u64, u64)>,
}

impl View<'_> {
    fn denied(&self, denial: Denial) -> bool {
        self.seen.contains_key(&denial)
    }

    fn locked(&self, target: Lockable) -> bool {
        self.authority.locked.contains(&target) || self.denied(Denial::Locked(target))
    }

    fn set(&self, switch: Switch) -> bool {
        self.authority.set.contains(&switch) || self.denied(Denial::Set(switch))
    }

    fn acts(&self, who: Who) -> bool {
        !self.authority.without_role.contains(&who)
            && !self.denied(Denial::RoleLost(who))
            && !self.locked(Lockable::Actor(who))
    }

    fn certifies(&self, ca: u8) -> bool {
        self.authority.cas.contains_key(&ca) && !self.locked(Lockable::Ca(ca))
    }

    /// Whether an addition counts: not removed, and not made after a denial of its writer that is in force.
    fn counts(&self, name: u32, by: Who, block: u64) -> bool {
        let void = [Denial::Locked(Lockable::Actor(by)), Denial::RoleLost(by)]
            .iter()
            .any(|denial| self.seen.get(denial).is_some_and(|(first, _)| *first <= block));
        !self.authority.removed.contains(&name) && !self.denied(Denial::Removed(name)) && !void
    }

    fn grant_leads(&self, grant: u32, person: Person) -> bool {
        let Some((by, to, block)) = self.authority.grants.get(&grant) else { return false };
        let mut members = self.authority.members.iter();
        let is_theirs = match to {
            To::Person(subject) => *subject == person,
            To::Group => {
                members.any(|(name, (by, member, block))| *member == person && self.counts(*name, *by, *block))
            }
        };
        is_theirs && self.counts(grant, *by, *block)
    }

    /// The earliest grant that leads a person in by the final history alone. It stands before later ones until its end is final, also
    /// where it opens nothing any more.
    fn foremost(&self, person: Person) -> Option<u32> {
        let stands = |name: &u32| !self.authority.removed.contains(name);
        let is_theirs = |to: &To| match to {
            To::Person(subject) => *subject == person,
            To::Group => self.authority.members.iter().any(|(name, (_, member, _))| *member == person && stands(name)),
        };
        let grants = self.authority.grants.iter().filter(|(name, (_, to, _))| stands(name) && is_theirs(to));
        grants.min_by_key(|(_, (_, _, block))| *block).map(|(name, _)| *name)
    }

    fn grant_leads_alice(&self, grant: u32) -> bool {
        self.grant_leads(grant, Person::Alice) && !self.locked(Lockable::Person(Person::Alice))
    }

    fn accepted(&self, name: u32, ca: u8) -> bool {
        let Some((of, listed_then, hash)) = self.latest.batches.get(&name) else { return false };
        let listed_now = self.authority.cas.get(&ca) == Some(&true) && !self.denied(Denial::Limited(ca));
        let countersigned = || self.acts(Who::Watchdog) && self.latest.countersigned.contains(&(name, *hash));
        *of == ca
            && *listed_then
            && listed_now
            && self.acts(Who::Issuer)
            && !self.locked(Lockable::Batch(name))
            && (!self.set(Switch::Quorum) || countersigned())
    }
}
