//! The agent's side of renewals: makes a device's own key where there is none, looks at the certificate that is there, and has a request
//! logged by the device's ledger key before that ends, in the background. The answer comes as any other delivery.
//!
//! Never touches a key that is there, and writes down what it is about to ask for before it asks.

use std::collections::BTreeSet;
use std::sync::Arc;

use alloy_primitives::Address;
use countersign_certificate::{BACKDATE_SECS, Id};
use countersign_chain::ChainError;
use countersign_chain::send::Mined;
use countersign_registry::entries::{Entry, Kind, payload};
use countersign_registry::realm::CaState;
use countersign_registry::{Effective, shard, sign};
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::config::{PayloadRule, Renew};
use crate::cycle::Failure;
use crate::log::{Level, Line};
use crate::reason::Reason;
use crate::receive::{Held, OutputRule, ReceiveError};
use crate::receiving::output_rule;
use crate::renewal::{Facts, LedgerClock, Open, Renewal, Seen, Step, is_due, may_ask};
use crate::state::State;
use crate::status::RenewalStatus;

/// Requests on their way to the ledger.
#[derive(Default)]
pub(crate) struct Asking {
    task: JoinSet<(String, Id, Result<Mined, ChainError>)>,
    in_flight: BTreeSet<Id>,
    clock: LedgerClock,
}

impl State {
    /// The renewals to show, by payload name.
    pub(crate) fn renewal_status(&self) -> Vec<RenewalStatus> {
        let shown = |(name, renewal): (&String, &Renewal)| RenewalStatus {
            payload_name: name.clone(),
            expires: renewal.expires_secs,
            renewing: renewal.since_secs.is_some(),
            since: renewal.since_secs,
            request: renewal.open.map(|open| open.id),
            failures: renewal.failures,
            not_before: (renewal.retry_secs > 0).then_some(renewal.retry_secs),
            reason: renewal.problem.as_ref().map(|(reason, _)| *reason),
            message: renewal.problem.as_ref().map(|(_, message)| message.clone()),
        };
        self.renewals.iter().map(shown).collect()
    }
}

impl Agent {
    /// Looks after the certificates that this device asks for itself: once a cycle, after what was delivered is in place.
    pub(crate) fn tend_renewals(&mut self, effective: &Effective, own: Address) {
        self.collect_asked();
        let rules: Vec<PayloadRule> = self.config.payload.iter().filter(|rule| rule.renew.is_some()).cloned().collect();
        let before = self.state.renewals.clone();
        self.state.renewals.retain(|name, _| rules.iter().any(|rule| rule.name.as_str() == name));
        if !rules.is_empty() {
            match self.now() {
                Ok(clock) => {
                    let now = self.receiver.asking.clock.now(effective.latest_block.time, &clock);
                    for rule in &rules {
                        self.tend_one(effective, own, rule, now);
                    }
                }
                Err(failure) => self.note(&failure),
            }
        }
        if self.state.renewals != before {
            self.mark_dirty();
        }
    }

    /// Waits until no request is on its way any more.
    pub async fn finish_asking(&mut self) {
        while let Some(done) = self.receiver.asking.task.join_next().await {
            self.asked(done);
        }
    }

    fn tend_one(&mut self, effective: &Effective, own: Address, rule: &PayloadRule, now: u64) {
        let Some(renew) = &rule.renew else { return };
        let name = rule.name.as_str();
        let (key, held) = match self.own_key_and_certificate(rule) {
            Ok(found) => found,
            Err(error) => {
                self.trouble(name, Reason::RenewKey, crate::log::chain(&error));
                return;
            }
        };
        let held = held.filter(|held| counts(effective, held));
        let due = held.as_ref().is_none_or(|held| is_due(now, (held.valid_after, held.valid_before), renew));
        let asker = may_ask(effective, own, renew, now);
        let mut renewal = self.state.renewals.get(name).cloned().unwrap_or_default();
        renewal.expires_secs = held.as_ref().map(|held| held.valid_before);
        if due && renewal.since_secs.is_none() && renewal.open.is_none() {
            // The state that knew of it may be gone.
            renewal.open = open_on_ledger(effective, own, renew, &key, held.as_ref(), now);
        }
        let facts = Facts {
            now,
            due,
            seen: renewal.open.map_or(Seen::Nowhere, |open| seen(effective, open.id)),
            in_flight: renewal.open.is_some_and(|open| self.receiver.asking.in_flight.contains(&open.id)),
            may_ask: asker.clone().map(|_| ()),
            answer_secs: renew.answer_secs.get(),
            lost_secs: self.ledger.profile().stuck_secs.saturating_mul(10),
            jitter: jitter(),
        };
        let problem = renewal.problem.clone();
        let step = renewal.step(&facts);
        if let Some((reason, message)) = renewal.problem.as_ref().filter(|now| Some(*now) != problem.as_ref()) {
            let line = Line::reason(*reason).field("payload", name).field("message", message);
            self.log.line(Level::Warning, &line);
        }
        self.state.renewals.insert(name.to_owned(), renewal);
        if let (Step::Ask, Ok(user)) = (step, asker) {
            self.ask(own, user, rule, renew, key, now);
        }
    }

    /// The plain blob of the key that this payload's certificates are for, made now where there is none, and the certificate beside it.
    fn own_key_and_certificate(&self, rule: &PayloadRule) -> Result<(Vec<u8>, Option<Held>), ReceiveError> {
        let output: OutputRule = output_rule(rule)?;
        if output.make_own_key(rule.name.as_str())? {
            let line =
                Line::event("key-made").field("payload", &rule.name).field("path", rule.path.as_path().display());
            self.log.line(Level::Notice, &line);
        }
        let missing = ReceiveError::NotOwnKey("there is no key of this name");
        let key = output.own_key()?.ok_or(missing)?;
        let held = output.held(&key)?;
        Ok((key, held))
    }

    /// Has a request logged. It is on disk before it is sent: whatever happens then, no second one is.
    fn ask(&mut self, own: Address, user: Id, rule: &PayloadRule, renew: &Renew, key: Vec<u8>, now: u64) {
        let name = rule.name.as_str();
        let mut r = [0_u8; 16];
        if let Err(error) = getrandom::fill(&mut r) {
            self.trouble(name, Reason::RenewLedger, format!("no random bytes: {error}"));
            return;
        }
        let id = sign::record_id(Kind::REQUEST, own, r);
        let Some(sender) = self.receiver.device.as_ref().map(|device| Arc::clone(&device.sender)) else { return };
        if let Some(renewal) = self.state.renewals.get_mut(name) {
            renewal.open = Some(Open { id, asked_secs: now });
            renewal.problem = None;
        }
        self.mark_dirty();
        self.flush();
        if self.dirty {
            // Not to have written it down is not to ask.
            if let Some(renewal) = self.state.renewals.get_mut(name) {
                renewal.open = None;
            }
            return;
        }
        let entry = Entry::Request(payload::Request {
            r: r.into(),
            user: user.0.into(),
            host: renew.host.0.into(),
            login: renew.login.clone(),
            ttl: renew.ttl_secs.get(),
            publicKey: key.into(),
            reason: renew.reason.clone(),
        });
        let (contract, realm, name) = (self.realm.pin.contract, self.realm.pin.realm, name.to_owned());
        self.receiver.asking.in_flight.insert(id);
        self.receiver.asking.task.spawn(async move {
            let write = sign::write(shard::shard(shard::CLASS_MEMBERS, 0), &entry);
            (name, id, sender.append(contract, realm, &write, &mut |_| {}).await)
        });
    }

    fn collect_asked(&mut self) {
        while let Some(done) = self.receiver.asking.task.try_join_next() {
            self.asked(done);
        }
    }

    fn asked(&mut self, done: Result<(String, Id, Result<Mined, ChainError>), tokio::task::JoinError>) {
        let (name, id, result) = match done {
            Ok(done) => done,
            Err(error) => {
                // Which one it was is not known; those that are not seen are given up in time.
                self.receiver.asking.in_flight.clear();
                self.note(&Failure::of(Reason::RenewLedger, &error));
                return;
            }
        };
        self.receiver.asking.in_flight.remove(&id);
        match result {
            Ok(mined) => {
                let line = Line::event("certificate-requested")
                    .field("payload", &name)
                    .field("request", id)
                    .field("transaction", mined.transaction)
                    .field("block", mined.block);
                self.log.line(Level::Notice, &line);
            }
            Err(error) => {
                let message = crate::log::chain(&error);
                let (reason, never_sent) = match &error {
                    ChainError::Funds { .. } => (Reason::RenewFunds, true),
                    ChainError::Reverted { .. } => (Reason::RenewLedger, true),
                    // It may still be mined.
                    _ => (Reason::RenewLedger, false),
                };
                self.trouble(&name, reason, message.clone());
                if let Some(renewal) = self.state.renewals.get_mut(&name).filter(|_| never_sent)
                    && let Some(open) = renewal.open.filter(|open| open.id == id)
                {
                    renewal.came_to_nothing(open.asked_secs, jitter(), reason, message);
                }
            }
        }
        self.mark_dirty();
    }

    fn trouble(&mut self, name: &str, reason: Reason, message: String) {
        let renewal = self.state.renewals.entry(name.to_owned()).or_default();
        let problem = Some((reason, message.clone()));
        if renewal.problem != problem {
            renewal.problem = problem;
            self.note(&Failure::new(reason, format!("payload {name}: {message}")));
        }
    }
}

fn jitter() -> u16 {
    let mut bytes = [0_u8; 2];
    // Without randomness the wait is what it is.
    getrandom::fill(&mut bytes).map_or(0, |()| u16::from_be_bytes(bytes))
}

/// Whether hosts of the realm still look at a certificate at all.
fn counts(effective: &Effective, held: &Held) -> bool {
    let ca = effective.cas.iter().find(|(_, ca)| *ca.public_key == *held.ca_key);
    ca.is_some_and(|(id, ca)| {
        !matches!(ca.state, CaState::Locked | CaState::Revoked)
            && effective.revoked_serials.get(id).is_none_or(|serials| !serials.contains(&held.serial))
    })
}

fn seen(effective: &Effective, request: Id) -> Seen {
    if !effective.requests.contains_key(&request) {
        return Seen::Nowhere;
    }
    if effective.refusals.get(&request).is_some_and(|refusals| !refusals.is_empty()) {
        Seen::Denied
    } else {
        Seen::Logged
    }
}

/// The newest request of this device's for these very terms that may still be answered, and was not.
fn open_on_ledger(
    effective: &Effective,
    own: Address,
    renew: &Renew,
    key: &[u8],
    held: Option<&Held>,
    now: u64,
) -> Option<Open> {
    let same = |request: &countersign_registry::realm::Request| {
        request.actor == own
            && request.host == renew.host
            && request.login == renew.login
            && request.ttl == renew.ttl_secs.get()
            && *request.public_key == *key
    };
    let (id, request) =
        effective.requests.iter().filter(|(_, request)| same(request)).max_by_key(|(_, request)| request.at)?;
    // A certificate that was made after it is its answer, also where a person made it.
    let answered = held.is_some_and(|held| {
        held.request == Some(*id) || held.valid_after.saturating_add(BACKDATE_SECS) >= request.at.time
    });
    let lives = now < request.at.time.saturating_add(renew.answer_secs.get());
    (lives && !answered && seen(effective, *id) == Seen::Logged)
        .then_some(Open { id: *id, asked_secs: request.at.time })
}
