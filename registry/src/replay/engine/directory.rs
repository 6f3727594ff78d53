//! Class 01, written by ADMINs and roots: who and what there is, and who may do what.

use alloy_primitives::B256;
use countersign_certificate::{Id, PublicKey};

use super::{Context, Engine, Outcome};
use crate::entries::{Entry, Roles, payload};
use crate::realm::{Grant, GrantTarget, Group, Host, Hours, Key, State as RecordState, Subject, User};
use crate::replay::IgnoreReason;
use crate::replay::denial::Denial;
use crate::replay::state::{AccountName, Binding, LabelRecord, Membership, NamedPayload, WaitingRecord};
use crate::replay::wellformed::{self, HOST_NAME_MAX, NAME_MAX, is_login, is_name};
use crate::sign;

impl Engine<'_> {
    pub(super) fn directory(&mut self, context: Context<'_>, entry: Entry) -> Outcome {
        // Ordinals are counted before anything is judged: a lock that reorders must not move anybody's uid.
        let uid = match &entry {
            Entry::UserAdd(payload::UserAdd { login: name, .. }) | Entry::GroupAdd(payload::GroupAdd { name, .. }) => {
                Some(self.next_uid(context, name)?)
            }
            _ => None,
        };
        if !context.by_roots() {
            self.state.authority(context.actor, Roles::ADMIN, context.at.block)?;
        }
        match entry {
            Entry::MemberSet(set) => self.set_member(context, &set),
            Entry::UserAdd(add) => self.add_user(context, add, uid),
            Entry::GroupAdd(add) => self.add_group(context, add, uid),
            Entry::HostAdd(add) => self.add_host(context, add),
            Entry::LabelAdd(add) => self.add_label(context, add),
            Entry::KeyAdd(add) => self.add_key(context, add),
            Entry::GrantAdd(add) => self.add_grant(context, add),
            Entry::GroupMemberAdd(add) => self.add_membership(context, &add),
            Entry::PayloadNameAdd(add) => self.add_payload_name(context, add),
            Entry::Remove(ids) => {
                for id in ids {
                    self.state.removed.insert(id, context.at);
                    self.deny(context, Denial::Removed(id));
                }
                Ok(())
            }
            Entry::Confirm(ids) => {
                for id in ids {
                    if !self.confirm(context, id) {
                        self.ignore_item(context, IgnoreReason::NothingWaits);
                    }
                }
                Ok(())
            }
            _ => Err(IgnoreReason::UnknownKind),
        }
    }

    fn next_uid(&mut self, context: Context<'_>, name: &str) -> Result<Option<u32>, IgnoreReason> {
        if !is_login(name) {
            return Err(IgnoreReason::InvalidName);
        }
        let ordinal = self.state.ordinal;
        self.state.ordinal = ordinal.saturating_add(1);
        Ok(self.state.settings.uid(ordinal, context.at.block))
    }

    /// The id of a new record, or why there can be none.
    fn new_id(&self, context: Context<'_>, r: [u8; 16], known: impl Fn(&Id) -> bool) -> Result<Id, IgnoreReason> {
        let id = sign::record_id(context.kind, context.actor, r);
        if known(&id) {
            return Err(IgnoreReason::DuplicateId);
        }
        if self.state.removed.contains_key(&id) {
            return Err(IgnoreReason::RemovedBefore);
        }
        Ok(id)
    }

    /// Notes that a new record waits, where the realm lets additions wait. The roots' own do not.
    fn added(&mut self, context: Context<'_>, id: Id) {
        let settings = self.state.settings.in_block(context.at.block);
        let mut waiting = WaitingRecord {
            kind: context.kind.0,
            at: context.at,
            writer: context.actor,
            not_before: context.at.time,
            quorum: 1,
            ..WaitingRecord::default()
        };
        if !context.by_roots() {
            waiting.not_before = context.at.time.saturating_add(settings.directory_delay);
            waiting.quorum = settings.directory_quorum;
            if settings.directory_delay > 0 || settings.directory_quorum > 1 {
                self.state.waiting.insert(id, waiting.clone());
            }
            self.doubt(context, id);
        }
        if self.is_latest() {
            self.state.additions.push((id, waiting));
        }
    }

    /// Notes that an addition is by an ADMIN whose lock or loss of the role a reorg took back: as long as that denial is in force, it
    /// does not count.
    fn doubt(&mut self, context: Context<'_>, id: Id) {
        if self.sink.doubts(&context.actor, context.at.block) {
            self.state.doubted.insert(id, (context.actor, context.at.block));
        }
    }

    fn confirm(&mut self, context: Context<'_>, id: Id) -> bool {
        let Some(waiting) = self.state.waiting.get(&id) else { return false };
        let pointless = waiting.writer == context.actor
            || waiting.confirmed.contains(&context.actor)
            || waiting.by_roots
            || waiting.counted_before(context.at.time);
        if pointless || self.state.removed.contains_key(&id) {
            return false;
        }
        let waiting = self.state.waiting.get_or_default(id);
        if context.by_roots() {
            waiting.by_roots = true;
        } else {
            waiting.confirmed.insert(context.actor);
        }
        true
    }

    fn set_member(&mut self, context: Context<'_>, set: &payload::MemberSet) -> Outcome {
        let block = context.at.block;
        let subject = Id(set.subject.0);
        let id = sign::member_set_id(self.state.realm, context.entry);
        let state = self.state.actors.get(&set.actor);
        let bound = state.is_some_and(|actor| actor.binding().is_some());
        // A ROLE_SET without MEMBER in the same block wins, whichever the contract saw first.
        let role_lost = state.is_some_and(|actor| {
            actor.roles.iter().any(|(changed, roles)| changed.block == block && roles & Roles::MEMBER == 0)
        });
        let mut outcome = Ok(());
        let mut binding = Binding { at: context.at, subject: None, id, x25519: B256::ZERO };
        if set.member {
            if role_lost {
                outcome = Err(IgnoreReason::NoRole);
            } else if self.state.groups.contains_key(&subject) || !self.state.refers(&subject, context.at) {
                outcome = Err(IgnoreReason::UnknownReference);
            } else if self.state.removed.contains_key(&id) {
                outcome = Err(IgnoreReason::RemovedBefore);
            } else {
                binding.subject = Some(subject);
                binding.x25519 = set.x25519;
            }
        }
        // Whatever becomes of the new binding, the one before ends.
        if bound {
            self.deny(context, Denial::Unbound(set.actor));
        }
        if bound || binding.subject.is_some() {
            let waits = binding.subject.is_some();
            self.state.actors.get_or_default(set.actor).bindings.push(binding);
            if waits {
                self.added(context, id);
            }
        }
        outcome
    }

    fn add_user(&mut self, context: Context<'_>, add: payload::UserAdd, uid: Option<Option<u32>>) -> Outcome {
        let uid = uid.flatten().ok_or(IgnoreReason::UidExhausted)?;
        let id = self.new_id(context, add.r.0, |id| self.state.users.contains_key(id))?;
        if self.state.names.contains_key(&AccountName::new(&add.login)) {
            return Err(IgnoreReason::NameTaken);
        }
        self.state.names.insert(AccountName::new(&add.login), ());
        let user = User {
            at: context.at,
            state: RecordState::Active,
            login: add.login,
            display_name: add.displayName,
            uid,
            ..User::default()
        };
        self.state.users.insert(id, user);
        self.added(context, id);
        Ok(())
    }

    fn add_group(&mut self, context: Context<'_>, add: payload::GroupAdd, gid: Option<Option<u32>>) -> Outcome {
        let gid = gid.flatten().ok_or(IgnoreReason::UidExhausted)?;
        let id = self.new_id(context, add.r.0, |id| self.state.groups.contains_key(id))?;
        if self.state.names.contains_key(&AccountName::new(&add.name)) {
            return Err(IgnoreReason::NameTaken);
        }
        self.state.names.insert(AccountName::new(&add.name), ());
        self.state.groups.insert(id, Group { at: context.at, name: add.name, gid });
        self.added(context, id);
        Ok(())
    }

    fn add_host(&mut self, context: Context<'_>, add: payload::HostAdd) -> Outcome {
        if !is_name(&add.name, HOST_NAME_MAX) {
            return Err(IgnoreReason::InvalidName);
        }
        if !add.hostKey.is_empty() {
            PublicKey::parse(&add.hostKey).map_err(|_| IgnoreReason::InvalidKey)?;
        }
        let owner = (!add.owner.is_zero()).then_some(Id(add.owner.0));
        if owner.is_some_and(|owner| !self.state.users.contains_key(&owner) || !self.state.refers(&owner, context.at)) {
            return Err(IgnoreReason::UnknownReference);
        }
        let id = self.new_id(context, add.r.0, |id| self.state.hosts.contains_key(id))?;
        let host = Host { at: context.at, name: add.name, owner, host_key: add.hostKey, ..Host::default() };
        self.state.hosts.insert(id, host);
        self.added(context, id);
        Ok(())
    }

    fn add_label(&mut self, context: Context<'_>, add: payload::LabelAdd) -> Outcome {
        if !is_name(&add.label, NAME_MAX) {
            return Err(IgnoreReason::InvalidName);
        }
        let target = Id(add.target.0);
        if self.state.groups.contains_key(&target) || !self.state.refers(&target, context.at) {
            return Err(IgnoreReason::UnknownReference);
        }
        let id = self.new_id(context, add.r.0, |id| self.state.labels.contains_key(id))?;
        self.state.labels.insert(id, LabelRecord { at: context.at, target, label: add.label });
        self.added(context, id);
        Ok(())
    }

    fn add_key(&mut self, context: Context<'_>, add: payload::KeyAdd) -> Outcome {
        let fingerprint = PublicKey::parse(&add.publicKey).map_err(|_| IgnoreReason::InvalidKey)?.fingerprint();
        let user = Id(add.user.0);
        if !self.state.users.contains_key(&user) || !self.state.refers(&user, context.at) {
            return Err(IgnoreReason::UnknownReference);
        }
        let id = self.new_id(context, add.r.0, |id| self.state.keys.contains_key(id))?;
        let key = Key {
            id,
            at: context.at,
            state: RecordState::Active,
            user,
            blob: add.publicKey,
            fingerprint,
            purposes: add.purposes,
            not_after: (add.notAfter != 0).then_some(add.notAfter),
            comment: add.comment,
        };
        self.state.keys.insert(id, key);
        self.added(context, id);
        Ok(())
    }

    fn add_grant(&mut self, context: Context<'_>, add: payload::GrantAdd) -> Outcome {
        wellformed::grant(&add)?;
        let subject = Id(add.subject.0);
        if !self.state.refers(&subject, context.at) {
            return Err(IgnoreReason::UnknownReference);
        }
        let subject = match (self.state.users.contains_key(&subject), self.state.groups.contains_key(&subject)) {
            (true, _) => Subject::User(subject),
            (false, true) => Subject::Group(subject),
            (false, false) => return Err(IgnoreReason::UnknownReference),
        };
        let known_host = |host: &Id| self.state.hosts.contains_key(host) && self.state.refers(host, context.at);
        let target = if add.allHosts {
            GrantTarget::All
        } else if add.hosts.is_empty() {
            GrantTarget::Labels(add.labels.into_iter().collect())
        } else if add.hosts.iter().all(|host| known_host(&Id(host.0))) {
            GrantTarget::Hosts(add.hosts.iter().map(|host| Id(host.0)).collect())
        } else {
            return Err(IgnoreReason::UnknownReference);
        };
        let id = self.new_id(context, add.r.0, |id| self.state.grants.contains_key(id))?;
        let hours = |hours: &payload::Hours| Hours { weekday: hours.weekday, from: hours.from, to: hours.to };
        let mut grant = Grant {
            at: context.at,
            subject,
            target,
            logins: add.logins.into_iter().collect(),
            via: add.via,
            max_ttl: (add.maxTtl != 0).then_some(add.maxTtl),
            approvals: add.approvals,
            forced_command: (!add.forcedCommand.is_empty()).then_some(add.forcedCommand),
            source_addresses: add.sourceAddresses,
            hours: add.intervals.iter().map(hours).collect(),
            not_after: (add.notAfter != 0).then_some(add.notAfter),
            permits: add.permits,
        };
        self.state.sets.share(&mut grant);
        self.state.grants.insert(id, grant);
        self.added(context, id);
        Ok(())
    }

    fn add_membership(&mut self, context: Context<'_>, add: &payload::GroupMemberAdd) -> Outcome {
        let (group, user) = (Id(add.group.0), Id(add.user.0));
        let known = self.state.groups.contains_key(&group) && self.state.users.contains_key(&user);
        if !known || !self.state.refers(&group, context.at) || !self.state.refers(&user, context.at) {
            return Err(IgnoreReason::UnknownReference);
        }
        let id = self.new_id(context, add.r.0, |id| self.state.memberships.contains_key(id))?;
        self.state.memberships.insert(id, Membership { at: context.at, group, user });
        self.added(context, id);
        Ok(())
    }

    fn add_payload_name(&mut self, context: Context<'_>, add: payload::PayloadNameAdd) -> Outcome {
        if !is_name(&add.name, NAME_MAX) {
            return Err(IgnoreReason::InvalidName);
        }
        let id = self.new_id(context, add.r.0, |id| self.state.payload_names.contains_key(id))?;
        let named = NamedPayload { at: context.at, name: add.name, payload_kind: add.payloadKind };
        self.state.payload_names.insert(id, named);
        self.added(context, id);
        Ok(())
    }

    fn is_latest(&self) -> bool {
        matches!(self.sink, crate::replay::denial::Sink::Latest(_))
    }
}
