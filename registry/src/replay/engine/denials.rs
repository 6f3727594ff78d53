//! Classes 02 and 03: locks, retirements, tightenings, revoked certificates.
//!
//! They count whoever of those the contract lets write them, and whatever they are aimed at, known or not. Only an issuer is
//! held to the CAs that list it.

use std::collections::BTreeSet;

use countersign_certificate::Id;

use super::governance::{each, parse_limits};
use super::{Context, Engine, Outcome};
use crate::entries::Entry;
use crate::replay::IgnoreReason;
use crate::replay::denial::{Denial, Target};

impl Engine<'_> {
    pub(super) fn denials(&mut self, context: Context<'_>, entry: Entry) -> Outcome {
        let block = context.at.block;
        match entry {
            Entry::Lock(targets) => {
                let mut actors = BTreeSet::new();
                for target in each(&targets) {
                    match target {
                        Target::Actor(actor) => {
                            self.state.actors.get_or_default(actor).lock(context.at);
                            actors.insert(actor);
                        }
                        target => self.state.locks.insert(target, context.at),
                    }
                    self.deny(context, Denial::Locked(target));
                }
                if !actors.is_empty() {
                    self.state.void_waiting(&actors, context.at);
                }
                Ok(())
            }
            Entry::CaRetire(cas) => {
                for ca in cas {
                    let first = self.state.retired.get(&ca).copied().filter(|first| first.time <= context.at.time);
                    let first = first.unwrap_or(context.at);
                    self.state.retired.insert(ca, first);
                    self.deny(context, Denial::Retired { ca, time: first.time });
                }
                Ok(())
            }
            Entry::CaTighten(change) => {
                let id = Id(change.ca.0);
                let limits = parse_limits(change.maxTtl, &change.logins, &change.issuers)?;
                if let Some(record) = self.state.cas.get(&id) {
                    let mut record = record.clone();
                    let cut = record.ca.limits.intersect(&limits);
                    record.limit(cut, block);
                    self.state.cas.insert(id, record);
                } else {
                    let early =
                        self.state.early_limits.get(&id).map_or(limits.clone(), |early| early.intersect(&limits));
                    self.state.early_limits.insert(id, early);
                }
                self.deny(context, Denial::Limited { ca: id, limits });
                Ok(())
            }
            Entry::SettingsTighten(settings) => {
                for item in &settings.items {
                    match self.state.settings.tighten(item.key, item.value, block) {
                        Ok(()) => self.deny(context, Denial::Setting { key: item.key, value: item.value }),
                        Err(reason) => self.ignore_item(context, reason),
                    }
                }
                Ok(())
            }
            Entry::CertRevoke { ca, serials } => {
                self.state.may_revoke(context.actor, &ca, block)?;
                for serial in serials {
                    self.state.serials.revoke(ca, serial, context.at);
                    self.deny(context, Denial::Serial { ca, serial });
                }
                Ok(())
            }
            _ => Err(IgnoreReason::UnknownKind),
        }
    }
}
