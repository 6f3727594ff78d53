//! What replay remembers: records, and the histories that say who could do what in which block.
//!
//! Roles, bindings, CA lists and actors' locks are kept as histories, so that an entry of a shard that is read late (a day or
//! period that comes into view afterwards) is judged as of its own block. In its block a writer must hold its role at the start
//! and must not lose it: authority from another shard starts with the next block, a denial in the same block wins.

use std::collections::{BTreeSet, VecDeque};

use alloy_primitives::{Address, B256};
use countersign_certificate::Id;
use serde::{Deserialize, Deserializer, Serialize};

use crate::entries::{Kind, Roles};
use crate::realm::{
    Acknowledgement, Batch, Ca, CaLimits, Delivery, EntryRef, Envelope, Grant, GrantTarget, Group, Host, Key,
    PublicData, Request, User,
};
use crate::records::{Records, Sets, SharedSet};
use crate::replay::denial::{Denial, Target};
use crate::replay::legs::LegState;
use crate::replay::serials::Serials;
use crate::replay::settings::SettingsState;
use crate::replay::{IgnoreReason, Ignored};

/// How many ignored entries are remembered.
pub(super) const IGNORED_KEPT: usize = 4096;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// The realm whose entries are applied now.
    pub(super) realm: B256,
    /// The realms of the history; the last is `realm`.
    pub(super) legs: Vec<LegState>,
    /// Entries seen, by shard.
    pub(super) next: Records<u64, u64>,
    pub(super) newest: Option<EntryRef>,
    /// The first critical entry that this version does not know.
    pub(super) upgrade: Option<(Kind, EntryRef)>,
    pub(super) settings: SettingsState,
    /// Well-formed user and group adds so far.
    pub(super) ordinal: u64,
    pub(super) actors: Records<Address, ActorState>,
    pub(super) cas: Records<Id, CaRecord>,
    /// SHA-256 of the key blob to CA.
    pub(super) ca_keys: Records<B256, Id>,
    /// Tightenings of CAs that are not there yet.
    pub(super) early_limits: Records<Id, CaLimits>,
    /// By the first retirement.
    pub(super) retired: Records<Id, EntryRef>,
    pub(super) users: Records<Id, User>,
    pub(super) groups: Records<Id, Group>,
    pub(super) hosts: Records<Id, Host>,
    /// Logins and group names, for ever.
    pub(super) names: Records<AccountName, ()>,
    pub(super) labels: Records<Id, LabelRecord>,
    pub(super) keys: Records<Id, Key>,
    #[serde(deserialize_with = "grants")]
    pub(super) grants: Records<Id, Grant>,
    pub(super) memberships: Records<Id, Membership>,
    pub(super) payload_names: Records<Id, NamedPayload>,
    /// Removed ids, known or not, with the latest entry that did it.
    pub(super) removed: Records<Id, EntryRef>,
    /// Blocks of restores: references made before do not come back.
    pub(super) restored: Records<Id, u64>,
    pub(super) waiting: Records<Id, WaitingRecord>,
    /// Additions, with writer and block, that are void as long as the writer's lock or loss of its role is pending.
    pub(super) doubted: Records<Id, (Address, u64)>,
    /// Latest lock of each target that is locked. Actors' locks are in their histories.
    pub(super) locks: Records<Target, EntryRef>,
    pub(super) revoked: Records<Target, EntryRef>,
    pub(super) serials: Serials,
    pub(super) batches: Records<Id, BatchRecord>,
    /// (batch, watchdog, entry hash)
    pub(super) countersignatures: Records<(Id, Address, B256), EntryRef>,
    pub(super) requests: Records<Id, Request>,
    pub(super) approvals: Records<(Id, EntryRef), (Address, B256)>,
    pub(super) refusals: Records<(Id, EntryRef), Address>,
    pub(super) deliveries: Records<Id, Delivery>,
    pub(super) envelopes: Records<Id, Envelope>,
    pub(super) acknowledgements: Records<(Id, Address), Acknowledgement>,
    /// Whether earlier ones are void, and the keys.
    pub(super) prekeys: Records<(Address, EntryRef), (bool, Vec<B256>)>,
    pub(super) public_data: Records<Id, PublicData>,
    pub(super) ignored: VecDeque<Ignored>,
    /// What grants have in common.
    #[serde(skip)]
    pub(super) sets: GrantSets,
    /// Directory additions of the latest view only.
    #[serde(skip)]
    pub(super) additions: Vec<(Id, WaitingRecord)>,
}

/// A login or group name, padded with zeros: it has at most 32 bytes, and none of them is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct AccountName([u8; 32]);

/// The sets of names and hosts that occur in grants, each stored once: most grants of a realm name the same few.
#[derive(Debug, Clone, Default)]
pub(super) struct GrantSets {
    names: Sets<String>,
    hosts: Sets<Id>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct ActorState {
    /// (the entry, role bits from its block on)
    pub(super) roles: Vec<(EntryRef, u64)>,
    pub(super) role_x25519: B256,
    pub(super) bindings: Vec<Binding>,
    pub(super) locks: Vec<LockSpan>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Binding {
    pub(super) at: EntryRef,
    /// None: unbound from then on.
    pub(super) subject: Option<Id>,
    /// What a CONFIRM or REMOVE names.
    pub(super) id: Id,
    pub(super) x25519: B256,
}

/// Locked from the start of block `from` to the end of block `until`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct LockSpan {
    pub(super) from: u64,
    /// The latest lock of this span.
    pub(super) last: EntryRef,
    pub(super) until: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CaRecord {
    pub(super) ca: Ca,
    /// (block, listed from then on)
    pub(super) issuers: Vec<(u64, BTreeSet<Address>)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LabelRecord {
    pub(super) at: EntryRef,
    pub(super) target: Id,
    pub(super) label: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) at: EntryRef,
    pub(crate) group: Id,
    pub(crate) user: Id,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NamedPayload {
    pub(super) at: EntryRef,
    pub(super) name: String,
    pub(super) payload_kind: u8,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BatchRecord {
    pub(super) batch: Batch,
    /// Whether the CA's record listed the issuer in the batch's block.
    pub(super) listed: bool,
}

/// An addition that counts from `not_before` on, once `quorum` distinct ADMINs stand behind it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct WaitingRecord {
    pub(super) kind: u16,
    pub(super) at: EntryRef,
    pub(super) writer: Address,
    pub(super) not_before: u64,
    pub(super) quorum: u64,
    /// ADMINs beside the writer.
    pub(super) confirmed: BTreeSet<Address>,
    /// Confirmed by a threshold of roots.
    pub(super) by_roots: bool,
}

impl AccountName {
    /// `name` is a login, as far as its form goes.
    pub(super) fn new(name: &str) -> Self {
        let mut padded = [0; 32];
        for (place, byte) in padded.iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        Self(padded)
    }
}

impl GrantSets {
    /// Makes a grant share its sets with the grants that have the same.
    pub(super) fn share(&mut self, grant: &mut Grant) {
        grant.logins = SharedSet::of(&mut self.names, std::mem::take(&mut grant.logins));
        match &mut grant.target {
            GrantTarget::Hosts(hosts) => *hosts = SharedSet::of(&mut self.hosts, std::mem::take(hosts)),
            GrantTarget::Labels(labels) => *labels = SharedSet::of(&mut self.names, std::mem::take(labels)),
            GrantTarget::All => {}
        }
    }
}

fn grants<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Records<Id, Grant>, D::Error> {
    let mut sets = GrantSets::default();
    Records::deserialize_each(deserializer, |grant| sets.share(grant))
}

impl WaitingRecord {
    pub(super) fn confirmations(&self) -> u64 {
        u64::try_from(self.confirmed.len()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Everybody who stands behind it, but the roots.
    pub(super) fn admins(&self) -> impl Iterator<Item = &Address> {
        self.confirmed.iter().chain([&self.writer])
    }

    pub(super) fn has_quorum(&self) -> bool {
        self.by_roots || self.confirmations() >= self.quorum
    }

    pub(super) fn counts_at(&self, time: u64) -> bool {
        self.has_quorum() && self.not_before <= time
    }

    /// Whether it counted before `time`: too late to void it.
    pub(super) fn counted_before(&self, time: u64) -> bool {
        self.has_quorum() && self.not_before < time
    }
}

impl ActorState {
    pub(super) fn roles_now(&self) -> u64 {
        self.roles.last().map_or(0, |(_, roles)| *roles)
    }

    /// Role bits held at the start of `block` and not lost in it.
    pub(super) fn roles_in(&self, block: u64) -> u64 {
        held_in(&self.roles, |(changed, _)| changed.block, block)
            .map(|changes| changes.map(|(_, roles)| *roles).fold(u64::MAX, |all, roles| all & roles))
            .unwrap_or(0)
    }

    /// Role bits held at the start of `block` or given in it.
    pub(super) fn roles_ever_in(&self, block: u64) -> u64 {
        let before = self.roles.iter().rev().find(|(changed, _)| changed.block < block).map_or(0, |(_, roles)| *roles);
        self.roles.iter().filter(|(changed, _)| changed.block == block).fold(before, |all, (_, roles)| all | roles)
    }

    pub(super) fn binding(&self) -> Option<(&Binding, Id)> {
        let binding = self.bindings.last()?;
        Some((binding, binding.subject?))
    }

    /// The subject it was bound to at the start of `block` and throughout.
    pub(super) fn bound_in(&self, block: u64) -> Option<Id> {
        let changes = held_in(&self.bindings, |binding| binding.at.block, block)?;
        let mut subjects = changes.map(|binding| binding.subject);
        let first = subjects.next()??;
        subjects.all(|subject| subject == Some(first)).then_some(first)
    }

    pub(super) fn locked_in(&self, block: u64) -> bool {
        self.locks.iter().any(|span| span.from <= block && span.until.is_none_or(|until| block <= until))
    }

    pub(super) fn locked_now(&self) -> bool {
        self.lock_now().is_some()
    }

    pub(super) fn lock(&mut self, at: EntryRef) {
        match self.locks.last_mut() {
            Some(span) if span.until.is_none_or(|until| until >= at.block) => {
                span.last = at;
                span.until = None;
            }
            _ => self.locks.push(LockSpan { from: at.block, last: at, until: None }),
        }
    }

    /// The lock that is in force.
    pub(super) fn lock_now(&self) -> Option<EntryRef> {
        self.locks.last().filter(|span| span.until.is_none()).map(|span| span.last)
    }

    /// The entry that took one of `roles` last, if none of them is there now.
    pub(super) fn role_loss(&self, roles: u64) -> Option<EntryRef> {
        let held = self.roles.iter().rposition(|(_, held)| held & roles != 0)?;
        self.roles.get(held.checked_add(1)?).map(|(at, _)| *at)
    }

    /// Ends the locks of earlier blocks; false if there are none.
    pub(super) fn unlock(&mut self, block: u64) -> bool {
        match self.locks.last_mut() {
            Some(span) if span.until.is_none() && span.last.block < block => {
                span.until = Some(block);
                true
            }
            _ => false,
        }
    }
}

impl CaRecord {
    /// Whether `issuer` was listed at the start of `block` and throughout.
    pub(super) fn listed_in(&self, issuer: &Address, block: u64) -> bool {
        held_in(&self.issuers, |(changed, _)| *changed, block)
            .is_some_and(|mut changes| changes.all(|(_, listed)| listed.contains(issuer)))
    }

    /// Whether `issuer` was listed at the start of `block` or at any time in it.
    pub(super) fn ever_listed_in(&self, issuer: &Address, block: u64) -> bool {
        let before = self.issuers.iter().rev().find(|(changed, _)| *changed < block);
        let within = self.issuers.iter().filter(|(changed, _)| *changed == block);
        before.into_iter().chain(within).any(|(_, listed)| listed.contains(issuer))
    }

    pub(super) fn limit(&mut self, limits: CaLimits, block: u64) {
        if self.ca.limits.issuers != limits.issuers {
            self.issuers.push((block, limits.issuers.clone()));
        }
        self.ca.limits = limits;
    }
}

/// What was in force at the start of `block`, followed by the changes in it; none if nothing was in force yet.
fn held_in<T>(history: &[T], changed: impl Fn(&T) -> u64, block: u64) -> Option<impl Iterator<Item = &T>> {
    let before = history.iter().rposition(|change| changed(change) < block)?;
    Some(history.iter().skip(before).take_while(move |change| changed(change) <= block))
}

impl State {
    /// The same state, to go on from with entries of the latest view; the tables share their content.
    pub(super) fn branch(&self) -> Self {
        Self { additions: Vec::new(), ..self.clone() }
    }

    pub(super) fn ignore(&mut self, at: EntryRef, kind: Kind, reason: IgnoreReason) {
        if self.ignored.len() >= IGNORED_KEPT {
            self.ignored.pop_front();
        }
        self.ignored.push_back(Ignored { at, kind, reason });
    }

    /// Whether `actor` may write an entry of classes 01 and 04–08 that asks for one of `roles`, in `block`.
    pub(super) fn authority(&self, actor: Address, roles: u64, block: u64) -> Result<(), IgnoreReason> {
        let Some(state) = self.actors.get(&actor) else { return Err(IgnoreReason::NoRole) };
        if state.locked_in(block) {
            return Err(IgnoreReason::ActorLocked);
        }
        if state.roles_in(block) & roles == 0 { Err(IgnoreReason::NoRole) } else { Ok(()) }
    }

    /// Whether `actor` may revoke certificates of `ca` in `block`: an issuer only those of CAs that list it.
    pub(super) fn may_revoke(&self, actor: Address, ca: &Id, block: u64) -> Result<(), IgnoreReason> {
        let roles = self.actors.get(&actor).map_or(0, |actor| actor.roles_ever_in(block));
        let listed = || self.cas.get(ca).is_some_and(|record| record.ever_listed_in(&actor, block));
        if actor.is_zero() || roles & Roles::REVOKER != 0 || listed() {
            return Ok(());
        }
        Err(IgnoreReason::IssuerNotListed)
    }

    /// The user or host for which the ledger key `actor` may write in `block`.
    pub(super) fn member(&self, actor: Address, block: u64) -> Result<Id, IgnoreReason> {
        let Some(state) = self.actors.get(&actor) else { return Err(IgnoreReason::NotBound) };
        if state.locked_in(block) {
            return Err(IgnoreReason::ActorLocked);
        }
        state.bound_in(block).ok_or(IgnoreReason::NotBound)
    }

    /// Whether a record of shard 1 that is added at `at` may refer to `target`: it is there, is not removed, and was not
    /// restored in the same block.
    pub(super) fn refers(&self, target: &Id, at: EntryRef) -> bool {
        let known =
            self.users.contains_key(target) || self.groups.contains_key(target) || self.hosts.contains_key(target);
        known && !self.removed.contains_key(target) && self.predates(target, at)
    }

    /// Whether the last restore of `target`, if any, comes before a reference made at `at`.
    pub(super) fn predates(&self, target: &Id, at: EntryRef) -> bool {
        self.restored.get(target).is_none_or(|restored| *restored < at.block)
    }

    /// Voids the waiting additions of actors that lose their authority in this block, and their confirmations of others'.
    pub(super) fn void_waiting(&mut self, actors: &BTreeSet<Address>, at: EntryRef) {
        let mut voided = Vec::new();
        let mut shaken = Vec::new();
        for (id, waiting) in self.waiting.iter().filter(|(_, waiting)| !waiting.counted_before(at.time)) {
            if actors.contains(&waiting.writer) {
                voided.push(*id);
            } else if waiting.confirmed.iter().any(|admin| actors.contains(admin)) {
                shaken.push(*id);
            }
        }
        for id in shaken {
            self.waiting.get_or_default(id).confirmed.retain(|admin| !actors.contains(admin));
        }
        for id in voided {
            self.forget(&id);
            self.removed.insert(id, at);
        }
    }

    /// Drops an addition that never counted, and frees its name.
    fn forget(&mut self, id: &Id) {
        let names: Vec<String> =
            [self.users.get(id).map(|user| user.login.clone()), self.groups.get(id).map(|group| group.name.clone())]
                .into_iter()
                .flatten()
                .collect();
        for name in &names {
            self.names.remove(&AccountName::new(name));
        }
        self.waiting.remove(id);
        self.users.remove(id);
        self.groups.remove(id);
        self.hosts.remove(id);
        self.labels.remove(id);
        self.keys.remove(id);
        self.grants.remove(id);
        self.memberships.remove(id);
        self.payload_names.remove(id);
        self.additions.retain(|(addition, _)| addition != id);
    }

    /// Drops waiting marks of additions that counted before `time`: no later block can void them. `voids_from` says from which block on
    /// a pending denial voids what somebody adds; where there is one, marks stay.
    pub(super) fn settle(&mut self, time: u64, voids_from: impl Fn(&Address) -> Option<u64>) {
        let in_doubt = |waiting: &WaitingRecord| waiting.admins().any(|admin| voids_from(admin).is_some());
        self.waiting.retain(|_, waiting| !waiting.counted_before(time) || in_doubt(waiting));
        self.doubted.retain(|_, (writer, block)| voids_from(writer).is_some_and(|first| first <= *block));
    }

    /// What is denied here and not in `other`, an earlier state of the same history, with the entry where that is known: locks,
    /// revocations, retirements, tightened CA limits, revoked serials, removals.
    pub(super) fn denials_beyond(&self, other: &Self) -> Vec<(Denial, Option<EntryRef>)> {
        let mut beyond = Vec::new();
        let locks =
            self.locks.iter().filter(|(target, at)| other.locks.get(*target).is_none_or(|lock| lock.block < at.block));
        beyond.extend(locks.map(|(target, at)| (Denial::Locked(*target), Some(*at))));
        for (address, actor) in self.actors.iter() {
            let Some(lock) = actor.lock_now() else { continue };
            let before = other.actors.get(address).and_then(ActorState::lock_now);
            if before.is_none_or(|before| before.block < lock.block) {
                beyond.push((Denial::Locked(Target::Actor(*address)), Some(lock)));
            }
        }
        let revoked = self.revoked.iter().filter(|(target, _)| !other.revoked.contains_key(*target));
        beyond.extend(revoked.map(|(target, at)| (Denial::Revoked(*target), Some(*at))));
        let retired = self.retired.iter().filter(|(ca, _)| !other.retired.contains_key(*ca));
        beyond.extend(retired.map(|(ca, at)| (Denial::Retired { ca: *ca, time: at.time }, Some(*at))));
        for (id, record) in self.cas.iter() {
            let limits = &record.ca.limits;
            if other.cas.get(id).is_some_and(|before| before.ca.limits.intersect(limits) != before.ca.limits) {
                beyond.push((Denial::Limited { ca: *id, limits: limits.clone() }, None));
            }
        }
        let serials = self.serials.iter().filter(|((ca, serial), _)| !other.serials.contains(ca, *serial));
        beyond.extend(serials.map(|((ca, serial), at)| (Denial::Serial { ca, serial }, at)));
        let removed = self.removed.iter().filter(|(id, _)| !other.removed.contains_key(*id));
        beyond.extend(removed.map(|(id, at)| (Denial::Removed(*id), Some(*at))));
        beyond
    }

    /// Forgets the records of shards of class 3 and up that `wanted` does not want.
    pub(super) fn retain_shards(&mut self, wanted: impl Fn(u64) -> bool) {
        let keep = |shard: u64| shard >> 32 < 3 || wanted(shard);
        self.next.retain(|shard, _| keep(*shard));
        self.serials.retain_shards(keep);
        self.batches.retain(|_, record| keep(record.batch.at.shard));
        self.countersignatures.retain(|_, at| keep(at.shard));
        self.requests.retain(|_, request| keep(request.at.shard));
        self.approvals.retain(|(_, at), _| keep(at.shard));
        self.refusals.retain(|(_, at), _| keep(at.shard));
        self.deliveries.retain(|_, delivery| keep(delivery.at.shard));
        self.envelopes.retain(|_, envelope| keep(envelope.at.shard));
        self.acknowledgements.retain(|_, acknowledgement| keep(acknowledgement.at.shard));
        self.prekeys.retain(|(_, at), _| keep(at.shard));
        self.public_data.retain(|_, data| keep(data.at.shard));
    }

    /// Role bits of ADMIN and ISSUER, who may write class 08.
    pub(super) const SENDERS: u64 = Roles::ADMIN | Roles::ISSUER;
}
