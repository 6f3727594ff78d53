//! The final view, the latest view and the pending denials, made into what holds now.
//!
//! Authority (who, what, which keys, grants, CAs, roles) is the final view's, less what is denied; what issuers, watchdogs,
//! approvers, members and senders have done is the latest view's, by actors with their role left after that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use alloy_primitives::{Address, B256};
use countersign_certificate::{Fingerprint20, Id};

use crate::effective::{Eclipsing, Effective, Keys, Settings};
use crate::entries::{Kind, Roles};
use crate::origins::Origins;
use crate::realm::{
    Acknowledgement, Actor, Approval, Batch, BatchState, BlockRef, Ca, CaState, EntryRef, Grant, GrantTarget, Group,
    Host, Key, PayloadName, Prekey, Refusal, Removed, Request, State as RecordState, Subject, User, Waiting,
};
use crate::records::{Records, SharedSet};
use crate::replay::Leg;
use crate::replay::denial::{Denied, Target};
use crate::replay::engine::sealing_key;
use crate::replay::state::{State, WaitingRecord};

/// `late`: final on realms that were left; `pending`: seen in a latest view only, there or here.
pub(super) fn combine(
    fin: &State,
    tip: &State,
    late: Denied,
    pending: Denied,
    (final_block, latest_block): (BlockRef, BlockRef),
) -> Effective {
    let uncovers = pending.uncovers();
    let mut denied = pending;
    denied.merge(&late);
    let (late, denied) = (&late, &denied);
    let view = View { fin, tip, late, denied, time: final_block.time, settings: denied.tighten(fin.settings.now()) };
    let eclipsing = uncovers.then(|| Box::new(view.eclipsing()));
    let mut labels = view.labels();
    let users = view.users(&mut labels);
    let groups = view.groups();
    let hosts = view.hosts(&mut labels);
    drop(labels);
    let actors = view.actors();
    let cas = view.cas();
    let batches = view.batches(&actors, &cas);
    let requests = view.requests(&actors, &users);
    let approvals = view.approvals(&actors, &users, &requests);
    let deliveries = (tip.deliveries.iter())
        .filter(|(_, delivery)| has_role(&actors, &delivery.actor, State::SENDERS))
        .map(|(id, delivery)| (*id, delivery.clone()))
        .collect::<BTreeMap<_, _>>();
    let acknowledgements = (tip.acknowledgements.iter())
        .filter(|((id, actor), _)| deliveries.get(id).is_some_and(|delivery| delivery.recipient == *actor))
        .map(|((id, _), acknowledgement)| (*id, acknowledgement.clone()))
        .collect::<BTreeMap<Id, Acknowledgement>>();
    let envelopes = (tip.envelopes.iter())
        .filter(|(_, envelope)| has_role(&actors, &envelope.actor, State::SENDERS))
        .map(|(id, envelope)| (*id, envelope.clone()))
        .collect::<BTreeMap<_, _>>();
    let mut envelope_acknowledgements: BTreeMap<Id, BTreeMap<Address, Acknowledgement>> = BTreeMap::new();
    for ((id, actor), acknowledgement) in tip.acknowledgements.iter().filter(|((id, _), _)| envelopes.contains_key(id))
    {
        envelope_acknowledgements.entry(*id).or_default().insert(*actor, acknowledgement.clone());
    }
    let prekeys = view.prekeys(&actors, latest_block.time);
    let public_data = (tip.public_data.iter())
        .filter(|(_, data)| has_role(&actors, &data.actor, State::SENDERS))
        .map(|(id, data)| (*id, data.clone()))
        .collect();
    Effective {
        realm: fin.realm,
        legs: fin.legs.iter().map(|leg| Leg { realm: leg.realm, arrived: leg.arrived }).collect(),
        final_block,
        latest_block,
        settings: view.settings,
        group_members: view.group_members(),
        keys: view.keys(),
        grants: view.grants(),
        eclipsing,
        once_granted: view.once_granted(),
        once_labelled: view.once_labelled(),
        once_requested: tip.requests.clone(),
        origins: Origins {
            memberships: fin.memberships.clone(),
            locks: fin.locks.clone(),
            revoked: fin.revoked.clone(),
            removed: fin.removed.clone(),
            retired: fin.retired.clone(),
            serials: fin.serials.clone(),
            ..Origins::default()
        },
        refusals: view.refusals(&view.undenied().actors()),
        locked_keys: view.keys_in(fin.locks.iter().map(|(target, _)| target), &denied.locked),
        revoked_keys: view.keys_in(fin.revoked.iter().map(|(target, _)| target), &denied.revoked),
        revoked_serials: view.revoked_serials(),
        locked_batches: view.locked_batches(),
        payload_names: view.payload_names(),
        removed: view.removed(),
        waiting: view.waiting(),
        users,
        groups,
        hosts,
        cas,
        batches,
        requests,
        approvals,
        actors,
        deliveries,
        acknowledgements,
        envelopes,
        envelope_acknowledgements,
        prekeys,
        public_data,
        ignored: tip.ignored.iter().copied().collect(),
        newest: tip.newest,
    }
}

/// What has become of a record since it was logged.
enum Now<V> {
    Same,
    Changed(V),
    Gone,
}

struct View<'a> {
    fin: &'a State,
    tip: &'a State,
    /// What is final on realms that were left.
    late: &'a Denied,
    /// The same, and what is pending.
    denied: &'a Denied,
    /// The final block's time.
    time: u64,
    settings: Settings,
}

impl View<'_> {
    fn gone(&self, id: &Id) -> bool {
        self.fin.removed.contains_key(id) || self.denied.removed.contains(id)
    }

    /// Whether a directory record of the final view counts: not removed, no longer waiting, and not by somebody whose authority
    /// a denial that a reorg took back has ended before.
    fn stands(&self, id: &Id) -> bool {
        self.stood(id) && !self.denied.removed.contains(id) && !self.doubtful(id)
    }

    /// The same by the final view alone.
    fn stood(&self, id: &Id) -> bool {
        !self.fin.removed.contains_key(id)
            && !self.late.removed.contains(id)
            && self.fin.waiting.get(id).is_none_or(|waiting| waiting.counts_at(self.time))
    }

    /// Whether pending denials leave too few of those who stand behind a record, or not its writer.
    fn doubtful(&self, id: &Id) -> bool {
        match self.fin.waiting.get(id) {
            Some(waiting) if self.denied.voids(&waiting.writer) => true,
            Some(waiting) => {
                let left = waiting.confirmed.iter().filter(|admin| !self.denied.voids(admin)).count();
                let left = u64::try_from(left).unwrap_or(u64::MAX).saturating_add(1);
                !waiting.by_roots && left < waiting.quorum
            }
            None => self.fin.doubted.get(id).is_some_and(|(writer, _)| self.denied.voids(writer)),
        }
    }

    /// Whether what was added at `at` may go on referring to `target`.
    fn holds(&self, target: &Id, at: EntryRef) -> bool {
        self.stands(target) && self.fin.predates(target, at)
    }

    fn locked(&self, target: Target) -> bool {
        self.fin.locks.contains_key(&target) || self.denied.locked.contains(&target)
    }

    fn revoked(&self, target: Target) -> bool {
        self.fin.revoked.contains_key(&target) || self.denied.revoked.contains(&target)
    }

    fn state_of(&self, target: Target) -> RecordState {
        if self.revoked(target) {
            RecordState::Revoked
        } else if self.locked(target) {
            RecordState::Locked
        } else {
            RecordState::Active
        }
    }

    /// The records of `table` that stand, each as `now` says where that is not as it was logged. The rest is shared.
    fn standing<'t, V: Clone>(
        &self,
        table: &'t Records<Id, V>,
        mut now: impl FnMut(&Id, &'t V) -> Now<V>,
    ) -> Records<Id, V> {
        let mut standing = table.clone();
        for (id, record) in table.iter() {
            match if self.stands(id) { now(id, record) } else { Now::Gone } {
                Now::Same => {}
                Now::Changed(record) => standing.insert(*id, record),
                Now::Gone => standing.remove(id),
            }
        }
        standing
    }

    fn labels(&self) -> BTreeMap<Id, BTreeSet<String>> {
        let mut labels: BTreeMap<Id, BTreeSet<String>> = BTreeMap::new();
        for (id, record) in self.fin.labels.iter() {
            if self.stands(id) && self.holds(&record.target, record.at) {
                labels.entry(record.target).or_default().insert(record.label.clone());
            }
        }
        labels
    }

    fn users(&self, labels: &mut BTreeMap<Id, BTreeSet<String>>) -> Records<Id, User> {
        self.standing(&self.fin.users, |id, user| {
            let labels = labels.remove(id).unwrap_or_default();
            let state = self.state_of(Target::User(*id));
            if state == user.state && labels == user.labels {
                return Now::Same;
            }
            Now::Changed(User { state, labels, ..user.clone() })
        })
    }

    fn groups(&self) -> BTreeMap<Id, Group> {
        let standing = self.fin.groups.iter().filter(|(id, _)| self.stands(id));
        standing.map(|(id, group)| (*id, group.clone())).collect()
    }

    fn hosts(&self, labels: &mut BTreeMap<Id, BTreeSet<String>>) -> Records<Id, Host> {
        self.standing(&self.fin.hosts, |id, host| {
            let labels = labels.remove(id).unwrap_or_default();
            let owner = host.owner.filter(|owner| self.holds(owner, host.at));
            let state = self.state_of(Target::Host(*id));
            if state == host.state && owner == host.owner && labels == host.labels {
                return Now::Same;
            }
            Now::Changed(Host { state, owner, labels, ..host.clone() })
        })
    }

    fn group_members(&self) -> BTreeSet<(Id, Id)> {
        (self.fin.memberships.iter())
            .filter(|(id, member)| {
                self.stands(id) && self.holds(&member.group, member.at) && self.holds(&member.user, member.at)
            })
            .map(|(_, member)| (member.group, member.user))
            .collect()
    }

    /// Of two with one fingerprint the earlier: the table is in log order, since all keys are in one shard. One that is removed in
    /// the latest view only goes on hiding the later one: that counts when the removal is final.
    fn keys(&self) -> Keys {
        let mut earliest: HashMap<&Fingerprint20, &Id> = HashMap::with_capacity(self.fin.keys.len());
        for (id, key) in self.fin.keys.iter() {
            if self.stood(id) && self.stood(&key.user) && self.fin.predates(&key.user, key.at) {
                earliest.entry(&key.fingerprint).or_insert(id);
            }
        }
        let standing = self.standing(&self.fin.keys, |id, key| {
            if !self.holds(&key.user, key.at) || earliest.get(&key.fingerprint) != Some(&id) {
                return Now::Gone;
            }
            let state = self.state_of(Target::Key(key.fingerprint));
            if state == key.state { Now::Same } else { Now::Changed(Key { state, ..key.clone() }) }
        });
        Keys::from_table(standing)
    }

    fn grants(&self) -> Records<Id, Grant> {
        self.standing(&self.fin.grants, |_, grant| self.grant(grant))
    }

    fn grant(&self, grant: &Grant) -> Now<Grant> {
        let (Subject::User(subject) | Subject::Group(subject)) = grant.subject;
        if !self.holds(&subject, grant.at) {
            return Now::Gone;
        }
        let mut left = None;
        if let GrantTarget::Hosts(hosts) = &grant.target
            && !hosts.iter().all(|host| self.holds(host, grant.at))
        {
            let hosts: SharedSet<Id> = hosts.iter().filter(|host| self.holds(host, grant.at)).copied().collect();
            if hosts.is_empty() {
                return Now::Gone;
            }
            left = Some(GrantTarget::Hosts(hosts));
        }
        let certificate_only =
            self.settings.require_logged || grant.approvals > 0 || grant.max_ttl.is_some() || !grant.hours.is_empty();
        let via = if certificate_only { grant.via & !Grant::VIA_KEY } else { grant.via };
        if left.is_none() && via == grant.via {
            return Now::Same;
        }
        Now::Changed(Grant { target: left.unwrap_or_else(|| grant.target.clone()), via, ..grant.clone() })
    }

    /// Whether a directory record of the final view counts, or did before it ended.
    fn counted(&self, id: &Id) -> bool {
        self.fin.waiting.get(id).is_none_or(|waiting| waiting.counts_at(self.time))
    }

    fn once_granted(&self) -> Records<Id, Grant> {
        let mut grants = self.fin.grants.clone();
        for (id, _) in self.fin.waiting.iter().filter(|(id, _)| !self.counted(id)) {
            grants.remove(id);
        }
        grants
    }

    fn once_labelled(&self) -> BTreeMap<Id, BTreeSet<String>> {
        let mut labels: BTreeMap<Id, BTreeSet<String>> = BTreeMap::new();
        for (id, record) in self.fin.labels.iter() {
            let stands = self.stands(id) && self.holds(&record.target, record.at);
            if !stands && self.counted(id) && self.fin.hosts.contains_key(&record.target) {
                labels.entry(record.target).or_default().insert(record.label.clone());
            }
        }
        labels
    }

    /// The same by the final view alone.
    fn undenied(&self) -> View<'_> {
        View { denied: self.late, settings: self.settings, ..*self }
    }

    fn eclipsing(&self) -> Eclipsing {
        let before = self.undenied();
        Eclipsing {
            grants: before.grants(),
            group_members: before.group_members(),
            hosts: before.hosts(&mut before.labels()),
        }
    }

    fn cas(&self) -> BTreeMap<Id, Ca> {
        self.fin.cas.iter().map(|(id, record)| (*id, self.ca(id, &record.ca))).collect()
    }

    fn ca(&self, id: &Id, ca: &Ca) -> Ca {
        let retired =
            self.fin.retired.get(id).map(|at| at.time).into_iter().chain(self.denied.retired.get(id).copied()).min();
        let state = match (self.state_of(Target::Ca(*id)), retired) {
            (RecordState::Revoked, _) => CaState::Revoked,
            (RecordState::Locked, _) => CaState::Locked,
            (RecordState::Active, Some(at)) => CaState::Retired { at },
            (RecordState::Active, None) => CaState::Active,
        };
        let limits = self.denied.limits.get(id).map_or_else(|| ca.limits.clone(), |cut| ca.limits.intersect(cut));
        Ca { state, limits, ..ca.clone() }
    }

    fn actors(&self) -> BTreeMap<Address, Actor> {
        self.fin.actors.iter().map(|(address, _)| (*address, self.actor(address))).collect()
    }

    fn actor(&self, address: &Address) -> Actor {
        let Some(state) = self.fin.actors.get(address) else { return Actor::default() };
        let locked = state.locked_now() || self.denied.locked.contains(&Target::Actor(*address));
        let bound = state.binding().filter(|(binding, subject)| {
            !self.denied.unbound.contains(address) && self.stands(&binding.id) && self.holds(subject, binding.at)
        });
        let mut roles = state.roles_now() & !self.denied.roles_lost(address) & !Roles::MEMBER;
        if bound.is_some() {
            roles |= Roles::MEMBER;
        }
        let own = sealing_key(state.role_x25519).filter(|_| state.roles_now() != 0);
        Actor {
            roles: if locked { 0 } else { roles },
            x25519: own.or_else(|| bound.and_then(|(binding, _)| sealing_key(binding.x25519))),
            subject: bound.map(|(_, subject)| subject),
            locked,
        }
    }

    fn locked_batches(&self) -> BTreeSet<Id> {
        let locked = self.fin.locks.iter().map(|(target, _)| target).chain(&self.denied.locked);
        locked.filter_map(|target| if let Target::Batch(id) = target { Some(*id) } else { None }).collect()
    }

    fn batches(&self, actors: &BTreeMap<Address, Actor>, cas: &BTreeMap<Id, Ca>) -> BTreeMap<Id, Batch> {
        let mut watchdogs: BTreeMap<(Id, B256), BTreeSet<Address>> = BTreeMap::new();
        for ((batch, watchdog, hash), _) in self.tip.countersignatures.iter() {
            if has_role(actors, watchdog, Roles::WATCHDOG) {
                watchdogs.entry((*batch, *hash)).or_default().insert(*watchdog);
            }
        }
        (self.tip.batches.iter())
            .map(|(id, record)| {
                let batch = &record.batch;
                let mut countersigners = watchdogs.remove(&(*id, batch.entry_hash)).unwrap_or_default();
                countersigners.remove(&batch.issuer);
                let listed =
                    record.listed && cas.get(&batch.ca).is_some_and(|ca| ca.limits.issuers.contains(&batch.issuer));
                let have = u64::try_from(countersigners.len()).unwrap_or(u64::MAX);
                let need = self.settings.countersign_quorum;
                let state = if self.locked(Target::Batch(*id)) {
                    BatchState::Locked
                } else if !has_role(actors, &batch.issuer, Roles::ISSUER) {
                    BatchState::IssuerLostRole
                } else if !listed {
                    BatchState::IssuerNotListed
                } else if have < need {
                    BatchState::WaitingForCountersignatures { have, need }
                } else {
                    BatchState::Accepted
                };
                (*id, Batch { state, countersigners, ..batch.clone() })
            })
            .collect()
    }

    fn requests(&self, actors: &BTreeMap<Address, Actor>, users: &Records<Id, User>) -> BTreeMap<Id, Request> {
        (self.tip.requests.iter())
            .filter(|(_, request)| {
                let actor = actors.get(&request.actor).filter(|actor| !actor.locked);
                users.contains_key(&request.user) && actor.is_some_and(|actor| actor.subject == Some(request.user))
            })
            .map(|(id, request)| (*id, request.clone()))
            .collect()
    }

    fn approvals(
        &self,
        actors: &BTreeMap<Address, Actor>,
        users: &Records<Id, User>,
        requests: &BTreeMap<Id, Request>,
    ) -> BTreeMap<Id, Vec<Approval>> {
        let mut sorted: Vec<_> = self.tip.approvals.iter().collect();
        sorted.sort_by_key(|((_, at), _)| *at);
        let mut seen: BTreeSet<(Id, Id, B256)> = BTreeSet::new();
        let mut approvals: BTreeMap<Id, Vec<Approval>> = BTreeMap::new();
        for ((request, at), (actor, hash)) in sorted {
            let approver = actors.get(actor).filter(|actor| actor.roles & Roles::APPROVER != 0);
            let Some(user) = approver.and_then(|approver| approver.subject) else { continue };
            let live = users.get(&user).is_some_and(|user| user.state == RecordState::Active);
            let by_another = requests.get(request).is_some_and(|request| request.user != user);
            if live && by_another && seen.insert((*request, user, *hash)) {
                approvals.entry(*request).or_default().push(Approval { at: *at, actor: *actor, user, hash: *hash });
            }
        }
        approvals
    }

    /// Of approvers by the final view: a lock that is not final, or was taken back, lifts nobody's refusal.
    fn refusals(&self, actors: &BTreeMap<Address, Actor>) -> BTreeMap<Id, Vec<Refusal>> {
        let mut sorted: Vec<_> = self.tip.refusals.iter().collect();
        sorted.sort_by_key(|((_, at), _)| *at);
        let mut refusals: BTreeMap<Id, Vec<Refusal>> = BTreeMap::new();
        for ((request, at), actor) in sorted {
            if has_role(actors, actor, Roles::APPROVER) {
                let user = actors.get(actor).and_then(|actor| actor.subject);
                refusals.entry(*request).or_default().push(Refusal { at: *at, actor: *actor, user });
            }
        }
        refusals
    }

    fn keys_in<'t>(
        &self,
        targets: impl Iterator<Item = &'t Target>,
        denied: &'t BTreeSet<Target>,
    ) -> BTreeSet<Fingerprint20> {
        targets
            .chain(denied)
            .filter_map(|target| if let Target::Key(key) = target { Some(*key) } else { None })
            .collect()
    }

    fn revoked_serials(&self) -> BTreeMap<Id, BTreeSet<u64>> {
        let mut serials: BTreeMap<Id, BTreeSet<u64>> = BTreeMap::new();
        for (ca, serial) in self.fin.serials.keys().chain(self.denied.serials.iter().copied()) {
            serials.entry(ca).or_default().insert(serial);
        }
        serials
    }

    /// By actors that are members now. Of a key that was published twice the earlier entry counts, so that nobody's life is
    /// lengthened.
    fn prekeys(&self, actors: &BTreeMap<Address, Actor>, now: u64) -> BTreeMap<Address, Vec<Prekey>> {
        let mut entries: Vec<_> = self.tip.prekeys.iter().collect();
        entries.sort_by_key(|((actor, at), _)| (*actor, *at));
        let mut first: HashMap<(Address, B256), EntryRef> = HashMap::new();
        let mut listed: HashSet<(Address, B256)> = HashSet::new();
        let mut prekeys: BTreeMap<Address, Vec<Prekey>> = BTreeMap::new();
        for ((actor, at), (drop, keys)) in entries {
            if !has_role(actors, actor, Roles::MEMBER) {
                continue;
            }
            let own = prekeys.entry(*actor).or_default();
            if *drop {
                // What the same entry lists stays, also where it was sent twice.
                own.drain(..).for_each(|prekey| {
                    listed.remove(&(*actor, prekey.key));
                });
            }
            for key in keys {
                let at = *first.entry((*actor, *key)).or_insert(*at);
                let alive = at.time.saturating_add(Prekey::LIFE_SECS) > now;
                if alive && listed.insert((*actor, *key)) {
                    own.push(Prekey { at, key: *key });
                }
            }
        }
        for own in prekeys.values_mut() {
            own.drain(..own.len().saturating_sub(Prekey::KEPT));
        }
        prekeys.retain(|_, own| !own.is_empty());
        prekeys
    }

    fn payload_names(&self) -> BTreeMap<String, PayloadName> {
        let mut stood: Vec<_> = self.fin.payload_names.iter().filter(|(id, _)| self.stood(id)).collect();
        stood.sort_by_key(|(_, named)| named.at);
        let mut names = BTreeMap::new();
        for (id, named) in stood {
            let name = PayloadName { id: *id, at: named.at, payload_kind: named.payload_kind };
            names.entry(named.name.clone()).or_insert(name);
        }
        names.retain(|_, name| self.stands(&name.id));
        names
    }

    fn removed(&self) -> BTreeMap<Id, Removed> {
        let users = self
            .fin
            .users
            .iter()
            .filter(|(id, _)| self.gone(id))
            .map(|(id, user)| (*id, Removed { kind: Kind::USER_ADD.0, name: user.login.clone(), uid: user.uid }));
        let hosts = self
            .fin
            .hosts
            .iter()
            .filter(|(id, _)| self.gone(id))
            .map(|(id, host)| (*id, Removed { kind: Kind::HOST_ADD.0, name: host.name.clone(), uid: 0 }));
        users.chain(hosts).collect()
    }

    fn waiting(&self) -> Vec<Waiting> {
        let shown = |id: &Id, waiting: &WaitingRecord, in_final| Waiting {
            id: *id,
            kind: waiting.kind,
            at: waiting.at,
            writer: waiting.writer,
            not_before: waiting.not_before,
            confirmations: waiting.confirmations(),
            quorum: waiting.quorum,
            in_final,
        };
        let in_final = self.fin.waiting.iter().filter(|(id, waiting)| !self.gone(id) && !waiting.counts_at(self.time));
        let mut all: Vec<Waiting> =
            in_final.map(|(id, waiting)| shown(id, self.tip.waiting.get(id).unwrap_or(waiting), true)).collect();
        let fresh = self.tip.additions.iter().filter(|(id, _)| !self.gone(id));
        all.extend(fresh.map(|(id, waiting)| shown(id, self.tip.waiting.get(id).unwrap_or(waiting), false)));
        all.sort_by_key(|waiting| waiting.at);
        all
    }
}

fn has_role(actors: &BTreeMap<Address, Actor>, actor: &Address, roles: u64) -> bool {
    actors.get(actor).is_some_and(|actor| actor.roles & roles != 0)
}
