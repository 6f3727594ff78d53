//! Classes 04 to 08: batches, countersignatures, approvals, requests, acknowledgements, prekeys, deliveries, envelopes.
//!
//! An entry counts only if its writer held the role (or was bound to the user) at the start of its block, kept it throughout
//! and was not locked. What it then means also depends on the writer's role now; that is judged when views are combined.

use std::collections::BTreeSet;

use alloy_primitives::B256;
use countersign_certificate::{ApprovalTerms, Id, PublicKey, RealmId, approval_hash};

use super::{Context, Engine, Outcome};
use crate::entries::{Entry, Kind, Roles, payload};
use crate::realm::{Acknowledgement, Batch, BatchState, Delivery, Envelope, PublicData, Request};
use crate::replay::IgnoreReason;
use crate::replay::state::{BatchRecord, State};
use crate::replay::wellformed::{NAME_MAX, is_login, is_name};
use crate::sign;

impl Engine<'_> {
    pub(super) fn activity(&mut self, context: Context<'_>, entry: Entry) -> Outcome {
        let Context { at, actor, .. } = context;
        match entry {
            Entry::Batch(batch) => {
                self.state.authority(actor, Roles::ISSUER, at.block)?;
                self.log_batch(context, batch)
            }
            Entry::Countersign(countersign) => {
                self.state.authority(actor, Roles::WATCHDOG, at.block)?;
                let key = (Id(countersign.batch.0), actor, countersign.entryHash);
                if !self.state.countersignatures.contains_key(&key) {
                    self.state.countersignatures.insert(key, at);
                }
                Ok(())
            }
            Entry::Approve(approve) => {
                self.state.authority(actor, Roles::APPROVER, at.block)?;
                self.state.approvals.insert((Id(approve.request.0), at), (actor, approve.approvalHash));
                Ok(())
            }
            Entry::Deny(request) => {
                self.state.authority(actor, Roles::APPROVER, at.block)?;
                self.state.refusals.insert((request, at), actor);
                Ok(())
            }
            Entry::Request(request) => self.file_request(context, request),
            Entry::Acknowledge(acknowledge) => {
                self.state.member(actor, at.block)?;
                let key = (Id(acknowledge.delivery.0), actor);
                if self.state.acknowledgements.contains_key(&key) {
                    return Err(IgnoreReason::DuplicateId);
                }
                self.state.acknowledgements.insert(key, Acknowledgement { at, actor, digest: acknowledge.digest });
                Ok(())
            }
            Entry::Prekeys(prekeys) => {
                self.state.member(actor, at.block)?;
                self.state.prekeys.insert((actor, at), (prekeys.drop == 1, prekeys.keys));
                Ok(())
            }
            Entry::Envelope(envelope) => {
                self.state.authority(actor, State::SENDERS, at.block)?;
                self.log_envelope(context, envelope)
            }
            Entry::Delivery(delivery) => {
                self.state.authority(actor, State::SENDERS, at.block)?;
                self.log_delivery(context, delivery)
            }
            Entry::PublicData(public) => {
                self.state.authority(actor, State::SENDERS, at.block)?;
                if !is_name(&public.name, NAME_MAX) {
                    return Err(IgnoreReason::InvalidName);
                }
                let id = sign::record_id(Kind::PUBLIC_DATA, actor, public.r.0);
                if self.state.public_data.contains_key(&id) {
                    return Err(IgnoreReason::DuplicateId);
                }
                self.state.public_data.insert(id, PublicData { at, actor, name: public.name, data: public.data });
                Ok(())
            }
            _ => Err(IgnoreReason::UnknownKind),
        }
    }

    fn log_batch(&mut self, context: Context<'_>, batch: payload::Batch) -> Outcome {
        if batch.size == 0 {
            return Err(IgnoreReason::InvalidValue);
        }
        let id = sign::record_id(Kind::BATCH, context.actor, batch.r.0);
        if self.state.batches.contains_key(&id) {
            return Err(IgnoreReason::DuplicateId);
        }
        let ca = Id(batch.ca.0);
        let listed = self.state.cas.get(&ca).is_some_and(|record| record.listed_in(&context.actor, context.at.block));
        let batch = Batch {
            at: context.at,
            state: BatchState::IssuerNotListed,
            ca,
            root: batch.root,
            size: batch.size,
            not_after: batch.notAfter,
            leaves_cid: batch.leavesCid,
            issuer: context.actor,
            entry_hash: sign::entry_hash(self.state.realm, context.entry),
            countersigners: BTreeSet::new(),
        };
        self.state.batches.insert(id, BatchRecord { batch, listed });
        Ok(())
    }

    fn file_request(&mut self, context: Context<'_>, request: payload::Request) -> Outcome {
        let user = Id(request.user.0);
        if self.state.member(context.actor, context.at.block)? != user || !self.state.users.contains_key(&user) {
            return Err(IgnoreReason::NotBound);
        }
        if !is_login(&request.login) {
            return Err(IgnoreReason::InvalidName);
        }
        PublicKey::parse(&request.publicKey).map_err(|_| IgnoreReason::InvalidKey)?;
        if request.ttl == 0 {
            return Err(IgnoreReason::InvalidValue);
        }
        let id = sign::record_id(Kind::REQUEST, context.actor, request.r.0);
        if self.state.requests.contains_key(&id) {
            return Err(IgnoreReason::DuplicateId);
        }
        let host = Id(request.host.0);
        let terms = ApprovalTerms {
            request: id,
            user,
            host,
            login: request.login.as_bytes(),
            key: &request.publicKey,
            ttl_secs: request.ttl,
        };
        let hash = approval_hash(&RealmId(self.state.realm.0), &terms).map_err(|_| IgnoreReason::InvalidName)?;
        let request = Request {
            at: context.at,
            actor: context.actor,
            user,
            host,
            login: request.login,
            ttl: request.ttl,
            public_key: request.publicKey,
            reason: request.reason,
            approval_hash: B256::from(hash),
        };
        self.state.requests.insert(id, request);
        Ok(())
    }

    fn log_envelope(&mut self, context: Context<'_>, envelope: payload::Envelope) -> Outcome {
        if !is_name(&envelope.payloadName, NAME_MAX) {
            return Err(IgnoreReason::InvalidName);
        }
        let id = sign::record_id(Kind::ENVELOPE, context.actor, envelope.r.0);
        if self.state.envelopes.contains_key(&id) {
            return Err(IgnoreReason::DuplicateId);
        }
        let envelope = Envelope {
            at: context.at,
            actor: context.actor,
            payload_name: envelope.payloadName,
            payload_kind: envelope.payloadKind,
            index: envelope.index,
        };
        self.state.envelopes.insert(id, envelope);
        Ok(())
    }

    fn log_delivery(&mut self, context: Context<'_>, delivery: payload::Delivery) -> Outcome {
        if !is_name(&delivery.payloadName, NAME_MAX) {
            return Err(IgnoreReason::InvalidName);
        }
        let id = sign::record_id(Kind::DELIVERY, context.actor, delivery.r.0);
        if self.state.deliveries.contains_key(&id) {
            return Err(IgnoreReason::DuplicateId);
        }
        let delivery = Delivery {
            at: context.at,
            actor: context.actor,
            recipient: delivery.recipient,
            payload_name: delivery.payloadName,
            payload_kind: delivery.payloadKind,
            digest: delivery.digest,
            sealed_cid: delivery.sealedCid,
        };
        self.state.deliveries.insert(id, delivery);
        Ok(())
    }
}
