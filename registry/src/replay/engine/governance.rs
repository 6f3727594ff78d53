//! Class 00, written by a threshold of roots: roles, CAs, unlocks, restores, settings, permanent revocations.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::B256;
use countersign_certificate::{Id, PublicKey, fingerprint_sha256};

use super::{Context, Engine, Outcome};
use crate::entries::{Entry, Kind, Roles, Targets, payload};
use crate::realm::{Ca, CaLimits, CaPurpose, CaState};
use crate::replay::IgnoreReason;
use crate::replay::denial::{Denial, Target};
use crate::replay::settings::setting;
use crate::replay::state::{Binding, CaRecord};
use crate::replay::wellformed::{NAME_MAX, is_login, is_name};
use crate::sign;

impl Engine<'_> {
    pub(super) fn governance(&mut self, context: Context<'_>, entry: Entry) -> Outcome {
        match entry {
            // The contract alone acts on it; readers pin the first set and see every later one through the contract.
            Entry::RootSet(_) => Ok(()),
            Entry::RoleSet(set) => {
                self.set_roles(context, &set);
                Ok(())
            }
            Entry::CaAdd(add) => self.add_ca(context, add),
            Entry::CaLoosen(limits) => self.set_limits(context, &limits),
            Entry::Unlock(targets) => {
                for target in each(&targets) {
                    self.unlock(context, target);
                }
                Ok(())
            }
            Entry::Restore(restore) => self.restore(context, &restore),
            Entry::Settings(settings) => {
                for item in &settings.items {
                    if let Err(reason) = self.state.settings.set(item.key, item.value, context.at.block) {
                        self.ignore_item(context, reason);
                    } else if item.key != setting::UID_BASE {
                        self.deny(context, Denial::Setting { key: item.key, value: item.value });
                    }
                }
                Ok(())
            }
            Entry::Revoke(targets) => {
                for target in each(&targets) {
                    self.state.revoked.insert(target, context.at);
                    self.deny(context, Denial::Revoked(target));
                }
                Ok(())
            }
            _ => Err(IgnoreReason::UnknownKind),
        }
    }

    fn set_roles(&mut self, context: Context<'_>, set: &payload::RoleSet) {
        let actor = self.state.actors.get_or_default(set.actor);
        let lost = actor.roles_now() & !set.roles;
        actor.roles.push((context.at, set.roles));
        actor.role_x25519 = set.x25519;
        let unbound = set.roles & Roles::MEMBER == 0 && actor.binding().is_some();
        if unbound {
            actor.bindings.push(Binding { at: context.at, subject: None, id: Id([0; 16]), x25519: B256::ZERO });
        }
        for role in (0..u64::BITS).filter_map(|bit| 1_u64.checked_shl(bit)).filter(|role| lost & role != 0) {
            self.deny(context, Denial::RoleLost { actor: set.actor, role });
        }
        if unbound {
            self.deny(context, Denial::Unbound(set.actor));
        }
        if lost & Roles::ADMIN != 0 {
            self.state.void_waiting(&BTreeSet::from([set.actor]), context.at);
        }
    }

    fn add_ca(&mut self, context: Context<'_>, add: payload::CaAdd) -> Outcome {
        let purpose = match add.purpose {
            1 => CaPurpose::User,
            2 => CaPurpose::Host,
            _ => return Err(IgnoreReason::InvalidLimits),
        };
        if !is_name(&add.name, NAME_MAX) {
            return Err(IgnoreReason::InvalidName);
        }
        PublicKey::parse(&add.publicKey).map_err(|_| IgnoreReason::InvalidKey)?;
        let mut limits = parse_limits(add.maxTtl, &add.logins, &add.issuers)?;
        let id = sign::record_id(Kind::CA_ADD, context.actor, add.r.0);
        if self.state.cas.contains_key(&id) {
            return Err(IgnoreReason::DuplicateId);
        }
        let key = B256::from(fingerprint_sha256(&add.publicKey));
        if self.state.ca_keys.contains_key(&key) {
            return Err(IgnoreReason::CaKeyTaken);
        }
        if let Some(early) = self.state.early_limits.get(&id) {
            limits = limits.intersect(early);
        }
        let ca = Ca {
            at: context.at,
            state: CaState::Active,
            purpose,
            name: add.name,
            public_key: add.publicKey,
            limits: limits.clone(),
        };
        self.state.ca_keys.insert(key, id);
        self.state.cas.insert(id, CaRecord { ca, issuers: vec![(context.at.block, limits.issuers)] });
        Ok(())
    }

    fn set_limits(&mut self, context: Context<'_>, change: &payload::CaLimits) -> Outcome {
        let id = Id(change.ca.0);
        let limits = parse_limits(change.maxTtl, &change.logins, &change.issuers)?;
        let Some(record) = self.state.cas.get(&id) else { return Err(IgnoreReason::UnknownReference) };
        let mut record = record.clone();
        record.limit(limits.clone(), context.at.block);
        self.state.cas.insert(id, record);
        self.deny(context, Denial::Limited { ca: id, limits });
        Ok(())
    }

    fn unlock(&mut self, context: Context<'_>, target: Target) {
        let block = context.at.block;
        let ended = match target {
            Target::Actor(actor) => {
                self.state.actors.contains_key(&actor) && self.state.actors.get_or_default(actor).unlock(block)
            }
            target => {
                let earlier = self.state.locks.get(&target).is_some_and(|locked| locked.block < block);
                if earlier {
                    self.state.locks.remove(&target);
                }
                earlier
            }
        };
        if !ended {
            self.ignore_item(context, IgnoreReason::NothingLocked);
        }
    }

    fn restore(&mut self, context: Context<'_>, restore: &payload::Restore) -> Outcome {
        let id = Id(restore.id.0);
        let (target, name, uid) = match Kind(restore.kind) {
            Kind::USER_ADD => {
                let user = self.state.users.get(&id).ok_or(IgnoreReason::UnknownReference)?;
                (Target::User(id), &user.login, user.uid)
            }
            Kind::HOST_ADD => {
                let host = self.state.hosts.get(&id).ok_or(IgnoreReason::UnknownReference)?;
                (Target::Host(id), &host.name, 0)
            }
            _ => return Err(IgnoreReason::RestoreMismatch),
        };
        if *name != restore.name || uid != restore.uid {
            return Err(IgnoreReason::RestoreMismatch);
        }
        if !self.state.removed.contains_key(&id) && !self.state.revoked.contains_key(&target) {
            return Err(IgnoreReason::NothingToRestore);
        }
        self.state.removed.remove(&id);
        self.state.revoked.remove(&target);
        self.state.restored.insert(id, context.at.block);
        Ok(())
    }
}

/// CA limits as a payload carries them.
pub(in crate::replay) fn parse_limits(
    max_ttl: u64,
    logins: &[String],
    issuers: &[alloy_primitives::Address],
) -> Result<CaLimits, IgnoreReason> {
    if !logins.iter().all(|login| is_login(login)) {
        return Err(IgnoreReason::InvalidName);
    }
    let logins = (!logins.is_empty()).then(|| logins.iter().cloned().collect());
    Ok(CaLimits { max_ttl, logins, issuers: issuers.iter().copied().collect() })
}

/// The targets of a lock, unlock or revocation, each once.
pub(in crate::replay) fn each(targets: &Targets) -> Vec<Target> {
    let all: Vec<Target> = match targets {
        Targets::Keys(keys) => keys.iter().copied().map(Target::Key).collect(),
        Targets::Users(ids) => ids.iter().copied().map(Target::User).collect(),
        Targets::Hosts(ids) => ids.iter().copied().map(Target::Host).collect(),
        Targets::Cas(ids) => ids.iter().copied().map(Target::Ca).collect(),
        Targets::Actors(actors) => actors.iter().copied().map(Target::Actor).collect(),
        Targets::Batches(ids) => ids.iter().copied().map(Target::Batch).collect(),
    };
    let mut seen: BTreeMap<Target, ()> = BTreeMap::new();
    all.into_iter().filter(|target| seen.insert(*target, ()).is_none()).collect()
}
