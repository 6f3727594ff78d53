//! The agent's side of deliveries and envelopes: which of them wait, what became of each, running the configured reload command,
//! and logging the acknowledgement in the background, so that a slow chain never delays the next revocation. A delivery is applied once, an older
//! one never replaces a newer one of the same name, and one that cannot succeed is refused for good.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use countersign_certificate::Id;
use countersign_chain::ChainError;
use countersign_chain::send::{FeeCaps, Mined, Patience, Sender};
use countersign_chain::sync::Ledger;
use countersign_delivery::{BlockStore, Payload, PrekeyId, Prekeys, Puts, SecretKey, Stores};
use countersign_registry::realm::{Acknowledgement, Delivery, Envelope};
use countersign_registry::{Effective, EntryRef};
use nix::unistd::{Group, User};
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::config::{Command, Config, PayloadRule, RuleKind};
use crate::cycle::{FIRST_DELIVERY_LOOK_SECS, Failure};
use crate::device::DeviceKeys;
use crate::files::Ownership;
use crate::log::{Level, Line, Log};
use crate::prekeys::{Publishing, open_prekeys};
use crate::reason::Reason;
use crate::receive::{self, Applied, Found, KeyPairs, OutputRule, ReceiveError, Recipient, Sources};
use crate::renewing::Asking;
use crate::state::{DeliveryRecord, Receiving};
use crate::status::{DeliveryStatus, Stage};

/// How long a reload command may take.
const RELOAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long it may take once more, over the old files.
const RELOAD_BACK_DEADLINE: Duration = Duration::from_secs(10);

/// Seconds between two tries to have a payload taken up.
const RELOAD_RETRY_SECS: u64 = 60;

/// How long a cycle waits for blocks: they go on coming beside the next cycles.
const BLOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Seconds between two tries to log an acknowledgement.
const ACKNOWLEDGE_RETRY_SECS: u64 = 60;

/// How long a delivery is waited for, in seconds of block time. Without an end, one that can never be applied would have the host
/// prove one more shard each day for ever.
const GIVE_UP_SECS: u64 = 30 * countersign_registry::shard::DAY_SECS;

/// How many deliveries the status shows.
const SHOWN: usize = 32;

/// What the agent receives with.
pub(crate) struct Receiver {
    pub(crate) device: Option<Ready>,
    sources: Sources,
    /// How long one cycle waits for blocks.
    patience: Duration,
    takes_public_data: bool,
    acknowledging: JoinSet<(Id, Result<Mined, ChainError>)>,
    in_flight: BTreeSet<Id>,
    /// Until when a reload command that failed is not tried again with the same thing (Unix time), and what it said.
    reload_again: BTreeMap<Source, (u64, String)>,
    /// Files may have been written and neither settled nor taken back.
    interrupted: bool,
    /// What was said last of files that could not be put back.
    not_put_back: Option<String>,
    /// Envelopes that a crash left unacknowledged were not looked for yet.
    fresh: bool,
    pub(crate) publishing: Publishing,
    pub(crate) asking: Asking,
}

pub(crate) struct Ready {
    sealing: SecretKey,
    pub(crate) sender: Arc<Sender>,
    /// Where its prekeys are, if it has any.
    pub(crate) prekeys: Option<Prekeys>,
}

/// Where something that was applied came from: what replaces it is tried whatever became of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Letter(Id),
    Public(String, EntryRef),
}

/// What one try came to.
enum Step {
    /// With what is to be acknowledged.
    Applied(B256),
    /// An envelope that holds nothing for this device.
    Passed,
    Failed {
        reason: Reason,
        message: String,
        for_good: bool,
    },
}

/// What came: for this device, or perhaps for it among others.
enum Letter {
    Delivery(Delivery),
    Envelope(Envelope),
}

impl Letter {
    fn at(&self) -> EntryRef {
        match self {
            Self::Delivery(delivery) => delivery.at,
            Self::Envelope(envelope) => envelope.at,
        }
    }

    fn payload_name(&self) -> &str {
        match self {
            Self::Delivery(delivery) => &delivery.payload_name,
            Self::Envelope(envelope) => &envelope.payload_name,
        }
    }

    fn sender(&self) -> Address {
        match self {
            Self::Delivery(delivery) => delivery.actor,
            Self::Envelope(envelope) => envelope.actor,
        }
    }
}

impl Receiver {
    /// Loads the device's keys and opens the block stores. A device whose keys cannot be loaded does not receive, and says so;
    /// revocations go on.
    pub(crate) fn open(config: &Config, ledger: &Ledger, log: &Log) -> Self {
        let device = config.device.as_ref().and_then(|device| match DeviceKeys::load(device) {
            Ok(keys) => {
                let chain_id = ledger.pin().chain_id;
                let patience = Patience::of(ledger.profile());
                let endpoints = ledger.endpoints().clone();
                let sender = Sender::new(endpoints, keys.ledger, chain_id, patience, FeeCaps::default());
                let prekeys = open_prekeys(config, device.prekeys.count(), ledger, sender.address(), log);
                Some(Ready { sealing: keys.sealing, sender: Arc::new(sender), prekeys })
            }
            Err(error) => {
                log.line(Level::Error, &Line::reason(Reason::DeviceKeys).field("message", crate::log::chain(&error)));
                None
            }
        });
        let stores: Vec<Box<dyn BlockStore>> = config
            .block_store
            .iter()
            .filter_map(|store| match store.open() {
                Ok(store) => Some(store),
                Err(error) => {
                    let line = Line::reason(Reason::DeliveryBlockMissing).field("message", crate::log::chain(&error));
                    log.line(Level::Error, &line);
                    None
                }
            })
            .collect();
        let stores = Stores::of(stores, Puts::All);
        let takes_public_data = config.payload.iter().any(|rule| rule.kind == RuleKind::PublicData);
        let mut receiver = Self {
            device,
            sources: Sources::new(stores),
            patience: BLOCK_PATIENCE,
            takes_public_data,
            acknowledging: JoinSet::new(),
            in_flight: BTreeSet::new(),
            reload_again: BTreeMap::new(),
            interrupted: true,
            not_put_back: None,
            fresh: true,
            publishing: Publishing::default(),
            asking: Asking::default(),
        };
        receiver.put_back(config, log);
        receiver
    }

    /// Puts back what an interrupted try has left of the old files: what is new there was never known to be good, and much later,
    /// when somebody may have mended the files by hand, the old ones are not what they should give way to.
    pub(crate) fn put_back(&mut self, config: &Config, log: &Log) {
        if !std::mem::take(&mut self.interrupted) {
            return;
        }
        for rule in &config.payload {
            match output_rule(rule).and_then(|output| output.put_back()) {
                Ok(paths) => {
                    for path in paths {
                        let line =
                            Line::event("delivery-put-back").field("payload", &rule.name).field("path", path.display());
                        log.line(Level::Notice, &line);
                    }
                }
                // No such directory: nothing was ever written there, and a try to write says what is wrong.
                Err(ReceiveError::Write(error)) if error.is_not_found() => {}
                Err(ReceiveError::Owner { .. }) => {}
                Err(error) => {
                    self.interrupted = true;
                    let message = crate::log::chain(&error);
                    if self.not_put_back.as_ref() != Some(&message) {
                        log.line(Level::Error, &Line::reason(error.reason()).field("message", &message));
                        self.not_put_back = Some(message);
                    }
                }
            }
        }
    }

    /// From when on deliveries are looked for; none where this host receives nothing.
    pub(crate) fn since_secs(&self, receiving: &Receiving, now_secs: u64) -> Option<u64> {
        if self.device.is_none() && !self.takes_public_data {
            return None;
        }
        Some(receiving.since_secs.unwrap_or(now_secs.saturating_sub(FIRST_DELIVERY_LOOK_SECS)))
    }
}

impl Receiving {
    /// The deliveries to show, newest last.
    pub(crate) fn status(&self) -> Vec<DeliveryStatus> {
        let mut records: Vec<_> = self.records.iter().collect();
        records.sort_by_key(|(id, record)| (record.at, **id));
        let skipped = records.len().saturating_sub(SHOWN);
        records
            .into_iter()
            .skip(skipped)
            .map(|(id, record)| DeliveryStatus {
                id: *id,
                payload_name: record.payload_name.clone(),
                stage: record.stage,
                reason: record.failure.as_ref().map(|(reason, _)| *reason),
                message: record.failure.as_ref().map(|(_, message)| message.clone()),
                at: record.changed_secs,
            })
            .collect()
    }

    /// Forgets which delivery was applied last under a name where a reorg took it back: the one that took its place may stand earlier.
    fn forget_reverted(&mut self, effective: &Effective) {
        let stands = |name: &String, at: &EntryRef| {
            let mut deliveries = effective.deliveries.values();
            let mut envelopes = effective.envelopes.values();
            let mut public = effective.public_data.values();
            deliveries.any(|delivery| delivery.at == *at && delivery.payload_name == *name)
                || envelopes.any(|envelope| envelope.at == *at && envelope.payload_name == *name)
                || public.any(|data| data.at == *at && data.name == *name)
        };
        self.applied.retain(|name, at| at.block <= effective.final_block.number || stands(name, at));
    }

    /// Takes what the ledger says that this device has acknowledged for applied: the state that knew may be gone.
    fn learn_acknowledged(&mut self, effective: &Effective, own: Address) {
        let deliveries = effective
            .deliveries
            .iter()
            .filter(|(id, delivery)| delivery.recipient == own && effective.acknowledgements.contains_key(*id));
        let envelopes = effective
            .envelopes
            .iter()
            .filter(|(id, _)| effective.envelope_acknowledgements.get(*id).is_some_and(|by| by.contains_key(&own)));
        let deliveries = deliveries.map(|(_, delivery)| (&delivery.payload_name, delivery.at));
        let envelopes = envelopes.map(|(_, envelope)| (&envelope.payload_name, envelope.at));
        for (name, at) in deliveries.chain(envelopes) {
            self.has_applied(name, at);
        }
    }

    fn has_applied(&mut self, name: &str, at: EntryRef) {
        if self.applied.get(name).is_none_or(|applied| *applied < at) {
            self.applied.insert(name.to_owned(), at);
        }
    }

    /// Forgets what is settled and out of sight, and moves the first day to look at forward to the oldest delivery that is not
    /// settled (and not given up), or to a day before the final block.
    fn settle(&mut self, effective: &Effective, own: Option<Address>) {
        let final_block = effective.final_block;
        let acknowledgement_of = |id: &Id| {
            let own_of =
                |by: &'_ BTreeMap<Address, Acknowledgement>| own.and_then(|own| by.get(&own)).map(|one| one.at);
            let delivery = effective.acknowledgements.get(id).map(|acknowledgement| acknowledgement.at);
            delivery.or_else(|| effective.envelope_acknowledgements.get(id).and_then(own_of))
        };
        for (id, record) in &mut self.records {
            match acknowledgement_of(id) {
                Some(acknowledgement) => {
                    record.stage = Stage::Acknowledged;
                    record.failure = None;
                    record.changed_secs = record.changed_secs.max(acknowledgement.time);
                }
                // A reorg may take an acknowledgement back.
                None if record.stage == Stage::Acknowledged => record.stage = Stage::Applied,
                None => {}
            }
        }
        self.records.retain(|id, _| effective.deliveries.contains_key(id) || effective.envelopes.contains_key(id));
        self.passed.retain(|id, _| effective.envelopes.contains_key(id));
        let settled = |id: &Id, record: &DeliveryRecord| match record.stage {
            Stage::Acknowledged => acknowledgement_of(id).is_some_and(|at| at.block <= final_block.number),
            Stage::Refused => record.at.block <= final_block.number,
            Stage::Waiting | Stage::Applied => false,
        };
        let open =
            self.records.iter().filter(|(id, record)| !settled(id, record)).map(|(_, record)| record.at.time).min();
        let day_before = final_block.time.saturating_sub(countersign_registry::shard::DAY_SECS);
        let since =
            open.map_or(day_before, |open| open.min(day_before)).max(final_block.time.saturating_sub(GIVE_UP_SECS));
        self.since_secs = Some(self.since_secs.map_or(since, |before| before.max(since)));
    }
}

impl Agent {
    /// Receives what waits for this device. Returns how many of its deliveries are not yet applied and acknowledged, those that
    /// were refused for good not counted.
    pub(crate) async fn receive(&mut self, effective: &Effective) -> usize {
        self.collect_acknowledgements();
        self.receiver.put_back(&self.config, &self.log);
        self.receiver.sources.begin(self.receiver.patience);
        let before = self.state.receiving.clone();
        let unfinished = match self.receiver.device.as_ref().map(|device| device.sender.address()) {
            Some(address) => self.receive_as(effective, address).await,
            None => 0,
        };
        self.receive_public_data(effective).await;
        if let Some(address) = self.receiver.device.as_ref().map(|device| device.sender.address()) {
            self.tend_renewals(effective, address);
        }
        if self.receiver.device.is_some() || self.receiver.takes_public_data {
            let own = self.receiver.device.as_ref().map(|device| device.sender.address());
            self.state.receiving.settle(effective, own);
        }
        if self.state.receiving != before {
            self.mark_dirty();
        }
        unfinished
    }

    /// Has each cycle wait so long for the blocks of deliveries: for an agent that has nothing else to do.
    pub fn wait_for_blocks(&mut self, patience: Duration) {
        self.receiver.patience = patience;
    }

    /// Waits until no acknowledgement is on its way any more.
    pub async fn finish_acknowledging(&mut self) {
        while let Some(done) = self.receiver.acknowledging.join_next().await {
            self.acknowledged(done);
        }
    }

    async fn receive_as(&mut self, effective: &Effective, address: Address) -> usize {
        self.tend_prekeys(effective, address);
        let deliveries = receive::waiting(effective, address);
        let envelopes = receive::envelopes(effective, address);
        let mut waiting: Vec<(Id, Letter)> = deliveries
            .into_iter()
            .map(|(id, delivery)| (id, Letter::Delivery(delivery.clone())))
            .chain(envelopes.into_iter().map(|(id, envelope)| (id, Letter::Envelope(envelope.clone()))))
            .filter(|(id, letter)| self.concerns(*id, letter))
            .collect();
        waiting.sort_by_key(|(id, letter)| (letter.at(), *id));
        if waiting.is_empty() {
            return 0;
        }
        self.state.receiving.forget_reverted(effective);
        self.state.receiving.learn_acknowledged(effective, address);
        self.learn_done(effective, &waiting).await;
        let mut unfinished: usize = 0;
        for (id, letter) in waiting {
            let stage = self.state.receiving.records.get(&id).map(|record| record.stage);
            match stage {
                Some(Stage::Refused | Stage::Acknowledged) => continue,
                Some(Stage::Applied) => {}
                Some(Stage::Waiting) | None => match self.step(effective, id, &letter).await {
                    Step::Passed => {
                        if let Letter::Envelope(envelope) = &letter {
                            self.state.receiving.records.remove(&id);
                            self.state.receiving.passed.insert(id, envelope.index);
                        }
                        continue;
                    }
                    step => self.record(id, &letter, step),
                },
            }
            let record = self.state.receiving.records.get(&id);
            match record.map(|record| (record.stage, record.digest)) {
                Some((Stage::Applied, digest)) => {
                    self.acknowledge(id, digest);
                    unfinished = unfinished.saturating_add(1);
                }
                Some((Stage::Refused, _)) => {}
                _ => unfinished = unfinished.saturating_add(1),
            }
        }
        unfinished
    }

    /// At the start, finds the envelopes that were applied and neither written down nor acknowledged, before anything older is tried.
    async fn learn_done(&mut self, effective: &Effective, waiting: &[(Id, Letter)]) {
        if !std::mem::take(&mut self.receiver.fresh) {
            return;
        }
        for (id, letter) in waiting {
            if let Letter::Envelope(envelope) = letter
                && let Ok(Found::Done(digest)) = self.look(effective, *id, envelope, &mut None).await
                && !digest.is_zero()
            {
                self.state.receiving.has_applied(&envelope.payload_name, envelope.at);
            }
        }
    }

    /// Whether something is to be looked at. Of envelopes, only those whose name and kind this host takes, and only once: there may
    /// be many, and most are for others.
    fn concerns(&self, id: Id, letter: &Letter) -> bool {
        let Letter::Envelope(envelope) = letter else { return true };
        let takes = self.config.payload_rule(&envelope.payload_name).is_some_and(|rule| {
            countersign_delivery::PayloadKind::try_from(envelope.payload_kind)
                .is_ok_and(|kind| rule.kind.takes(kind, rule.key_pairs))
        });
        takes && self.state.receiving.passed.get(&id) != Some(&envelope.index)
    }

    /// Tries to apply one delivery, or what an envelope holds for this device. What is refused for good ends its prekey as well: its
    /// bytes can be opened as long as that is there.
    async fn step(&mut self, effective: &Effective, id: Id, letter: &Letter) -> Step {
        let mut asked_for = None;
        let step = self.try_one(effective, id, letter, &mut asked_for).await;
        if matches!(step, Step::Failed { for_good: true, .. })
            && let Err(error) = self.end_prekey(asked_for, id, B256::ZERO)
        {
            return Step::Failed { reason: error.reason(), message: crate::log::chain(&error), for_good: false };
        }
        step
    }

    /// As [`Self::step`]; notes the prekey that an envelope asks for.
    async fn try_one(
        &mut self,
        effective: &Effective,
        id: Id,
        letter: &Letter,
        asked_for: &mut Option<PrekeyId>,
    ) -> Step {
        let name = letter.payload_name();
        // What a reorg may still undo refuses nothing for good.
        let is_final = letter.at().block <= effective.final_block.number;
        let refused = |error: &ReceiveError| Step::Failed {
            reason: error.reason(),
            message: crate::log::chain(error),
            for_good: is_final && error.is_final(),
        };
        // Nobody else's envelope is reported as superseded: so that is opened first.
        let opened = match letter {
            Letter::Delivery(_) => None,
            Letter::Envelope(envelope) => match self.look(effective, id, envelope, asked_for).await {
                Ok(Found::Nothing) => return Step::Passed,
                // The mark of what was refused names no digest.
                Ok(Found::Done(digest)) if digest.is_zero() => {
                    let message = "was refused before, and its prekey is ended".to_owned();
                    return Step::Failed { reason: Reason::DeliveryPrekeyUsed, message, for_good: is_final };
                }
                Ok(Found::Done(digest)) => {
                    self.state.receiving.has_applied(name, letter.at());
                    return Step::Applied(digest);
                }
                Ok(Found::Payload(unsealed)) => Some(unsealed),
                Err(error) => return refused(&error),
            },
        };
        if self.state.receiving.applied.get(name).is_some_and(|applied| *applied > letter.at()) {
            let message = "a newer delivery of this name was applied before".to_owned();
            return Step::Failed { reason: Reason::DeliverySuperseded, message, for_good: is_final };
        }
        let Some(rule) = self.config.payload_rule(name).cloned() else {
            let message = "no [[payload]] of this name in the configuration".to_owned();
            return Step::Failed { reason: Reason::DeliveryName, message, for_good: false };
        };
        let source = Source::Letter(id);
        if let Some(message) = self.not_yet_again(&source) {
            return Step::Failed { reason: Reason::DeliveryReload, message, for_good: false };
        }
        let (written, prekey, digest) = match (letter, opened) {
            (Letter::Delivery(delivery), _) => {
                let payload = self.unseal(effective, id, delivery).await;
                (payload.and_then(|payload| self.apply(effective, &payload, &rule)), None, delivery.digest)
            }
            (Letter::Envelope(_), Some(unsealed)) => {
                (self.apply(effective, &unsealed.payload, &rule), unsealed.prekey, unsealed.digest)
            }
            (Letter::Envelope(_), None) => return Step::Passed,
        };
        let paths = match written {
            Ok(applied) => match self.take_up(name, source, &rule, applied).await {
                Ok(paths) => paths,
                Err((reason, message)) => return Step::Failed { reason, message, for_good: false },
            },
            Err(error) => {
                // Where writing failed, so may have putting the old files back.
                self.receiver.interrupted |= matches!(error, ReceiveError::Write(_));
                return refused(&error);
            }
        };
        // On disk before the prekey is ended and anybody hears of it: a crash must not have an older one take its place.
        self.state.receiving.has_applied(name, letter.at());
        self.flush();
        if let Err(error) = self.end_prekey(prekey, id, digest) {
            return refused(&error);
        }
        let line = Line::event("delivery-applied")
            .field("delivery", id)
            .field("payload", name)
            .field("files", paths.len())
            .field("path", rule.path.as_path().display());
        self.log.line(Level::Notice, &line);
        Step::Applied(digest)
    }

    /// Has written files taken up by whoever reads them. Where that fails the old ones come back, and are taken up again: a service
    /// that cannot live with what was sent goes on with what it had.
    async fn take_up(
        &mut self,
        name: &str,
        source: Source,
        rule: &PayloadRule,
        applied: Applied,
    ) -> Result<Vec<PathBuf>, (Reason, String)> {
        let of_write = |error: ReceiveError| (error.reason(), crate::log::chain(&error));
        // Until it is settled or taken back this may be dropped at the next `await`, and either may fail half-way.
        self.receiver.interrupted = true;
        let reloaded = match &rule.reload {
            Some(command) => reload(command, RELOAD_DEADLINE).await.map_err(|problem| (command, problem)),
            None => Ok(()),
        };
        let Err((command, problem)) = reloaded else {
            self.receiver.reload_again.remove(&source);
            let paths = applied.settle().map_err(of_write)?;
            self.receiver.interrupted = false;
            return Ok(paths);
        };
        applied.take_back().map_err(of_write)?;
        self.receiver.interrupted = false;
        let old = match reload(command, RELOAD_BACK_DEADLINE).await {
            Ok(()) => "the old files are back".to_owned(),
            Err(problem) => format!("the old files are back, and with them: {problem}"),
        };
        let message = format!("payload {name}: {problem}; {old}");
        let now = self.now().map_or(0, |clock| clock.unix_secs);
        self.receiver.reload_again.retain(|_, (again, _)| now < *again);
        self.receiver.reload_again.insert(source, (now.saturating_add(RELOAD_RETRY_SECS), message.clone()));
        Err((Reason::DeliveryReload, message))
    }

    /// What to say of a payload whose reload command failed a moment ago.
    fn not_yet_again(&self, source: &Source) -> Option<String> {
        let (again, message) = self.receiver.reload_again.get(source)?;
        let now = self.now().map_or(0, |clock| clock.unix_secs);
        (now < *again).then(|| message.clone())
    }

    fn recipient<'a>(effective: &Effective, device: &'a Ready) -> Result<Recipient<'a>, ReceiveError> {
        let recipient = Recipient { address: device.sender.address(), sealing_key: &device.sealing };
        recipient.check(effective).map(|()| recipient)
    }

    async fn look(
        &self,
        effective: &Effective,
        id: Id,
        envelope: &Envelope,
        asked_for: &mut Option<PrekeyId>,
    ) -> Result<Found, ReceiveError> {
        let Some(device) = &self.receiver.device else { return Ok(Found::Nothing) };
        let recipient = Self::recipient(effective, device)?;
        let now = self.unix_now(effective);
        let prekeys = device.prekeys.as_ref();
        let sources = &self.receiver.sources;
        receive::look_noting(effective, id, envelope, recipient, prekeys, sources, now, asked_for).await
    }

    async fn unseal(&self, effective: &Effective, id: Id, delivery: &Delivery) -> Result<Payload, ReceiveError> {
        let unlisted = ReceiveError::Recipient { recipient: delivery.recipient, problem: "without keys here" };
        let device = self.receiver.device.as_ref().ok_or(unlisted)?;
        receive::open(effective, id, delivery, Self::recipient(effective, device)?, &self.receiver.sources).await
    }

    fn unix_now(&self, effective: &Effective) -> u64 {
        self.now().map_or(0, |clock| clock.unix_secs).max(effective.latest_block.time)
    }

    fn apply(&self, effective: &Effective, payload: &Payload, rule: &PayloadRule) -> Result<Applied, ReceiveError> {
        let kind = payload.contents().kind();
        if !rule.kind.takes(kind, rule.key_pairs) {
            return Err(ReceiveError::OtherKind { found: kind, expected: rule.kind.as_str() });
        }
        let output = output_rule(rule)?;
        let own_key = if rule.kind.has_own_key() { output.own_key()? } else { None };
        let checked = receive::check(effective, payload, own_key.as_deref(), self.unix_now(effective))?;
        receive::apply(&checked, &output)
    }

    /// Ends the prekey that a payload was sealed to, before anybody hears that the payload arrived.
    fn end_prekey(&self, prekey: Option<PrekeyId>, id: Id, digest: B256) -> Result<(), ReceiveError> {
        let device = self.receiver.device.as_ref().and_then(|device| device.prekeys.as_ref());
        match (prekey, device) {
            (Some(prekey), Some(prekeys)) => prekeys.end(prekey, id.0, &digest.0).map_err(ReceiveError::Prekeys),
            _ => Ok(()),
        }
    }

    /// Writes what stands on the ledger for everybody and is new here, the newest of each name.
    async fn receive_public_data(&mut self, effective: &Effective) {
        let rules: Vec<PayloadRule> =
            self.config.payload.iter().filter(|rule| rule.kind == RuleKind::PublicData).cloned().collect();
        if rules.is_empty() {
            return;
        }
        self.state.receiving.forget_reverted(effective);
        for rule in rules {
            let name = rule.name.to_string();
            let newest = effective.public_data.values().filter(|data| data.name == name).max_by_key(|data| data.at);
            let applied = self.state.receiving.applied.get(&name);
            let Some(data) = newest.filter(|data| applied.is_none_or(|applied| *applied < data.at)) else { continue };
            let source = Source::Public(name.clone(), data.at);
            if self.not_yet_again(&source).is_some() {
                continue;
            }
            let taken_up = match output_rule(&rule).and_then(|output| receive::apply_public(&data.data, &output)) {
                Ok(applied) => self.take_up(&name, source, &rule, applied).await,
                Err(error) => Err((error.reason(), crate::log::chain(&error))),
            };
            match taken_up {
                Ok(_) => {
                    let path = rule.path.as_path().display();
                    let line = Line::event("public-data-applied").field("name", &name).field("path", path);
                    self.log.line(Level::Notice, &line);
                    self.state.receiving.applied.insert(name.clone(), data.at);
                }
                Err((reason, message)) => self.note(&Failure::new(reason, message)),
            }
        }
    }

    /// Writes down what a try came to; logs it when it differs from the one before.
    fn record(&mut self, id: Id, letter: &Letter, step: Step) {
        let (stage, failure, digest) = match step {
            Step::Applied(digest) => (Stage::Applied, None, digest),
            Step::Failed { reason, message, for_good } => {
                (if for_good { Stage::Refused } else { Stage::Waiting }, Some((reason, message)), B256::ZERO)
            }
            Step::Passed => return,
        };
        let known = self.state.receiving.records.get(&id);
        if known.is_some_and(|known| known.stage == stage && known.failure == failure) {
            return;
        }
        if let Some((reason, message)) = failure.as_ref().filter(|_| known.is_none_or(|known| known.failure != failure))
        {
            let line = Line::reason(*reason)
                .field("delivery", id)
                .field("payload", letter.payload_name())
                .field("sender", letter.sender())
                .field("message", message);
            self.log.line(Level::Warning, &line);
        }
        let record = DeliveryRecord {
            at: letter.at(),
            payload_name: letter.payload_name().to_owned(),
            digest,
            stage,
            failure,
            changed_secs: self.now().map_or(0, |clock| clock.unix_secs),
            retry_secs: 0,
        };
        self.state.receiving.records.insert(id, record);
    }

    /// Starts to log an acknowledgement, unless one is on its way or failed a moment ago.
    fn acknowledge(&mut self, id: Id, digest: B256) {
        let now = self.now().map_or(0, |clock| clock.unix_secs);
        let Some(device) = &self.receiver.device else { return };
        let Some(record) = self.state.receiving.records.get_mut(&id) else { return };
        if now < record.retry_secs || !self.receiver.in_flight.insert(id) {
            return;
        }
        record.retry_secs = now.saturating_add(ACKNOWLEDGE_RETRY_SECS);
        let sender = Arc::clone(&device.sender);
        let (contract, realm) = (self.realm.pin.contract, self.realm.pin.realm);
        self.receiver.acknowledging.spawn(async move {
            let write = receive::acknowledgement(id, digest);
            (id, sender.append(contract, realm, &write, &mut |_| {}).await)
        });
    }

    fn collect_acknowledgements(&mut self) {
        while let Some(done) = self.receiver.acknowledging.try_join_next() {
            self.acknowledged(done);
        }
    }

    fn acknowledged(&mut self, done: Result<(Id, Result<Mined, ChainError>), tokio::task::JoinError>) {
        let (id, result) = match done {
            Ok(done) => done,
            Err(error) => {
                // Which one it was is not known: all of them may be tried again.
                self.receiver.in_flight.clear();
                self.note(&Failure::of(Reason::DeliveryAcknowledge, &error));
                return;
            }
        };
        self.receiver.in_flight.remove(&id);
        match result {
            Ok(mined) => {
                let line = Line::event("delivery-acknowledged")
                    .field("delivery", id)
                    .field("transaction", mined.transaction)
                    .field("block", mined.block);
                self.log.line(Level::Notice, &line);
                if let Some(record) = self.state.receiving.records.get_mut(&id) {
                    record.failure = None;
                }
            }
            Err(error) => {
                let message = crate::log::chain(&error);
                self.note(&Failure::new(Reason::DeliveryAcknowledge, format!("delivery {id}: {message}")));
                if let Some(record) = self.state.receiving.records.get_mut(&id) {
                    record.failure = Some((Reason::DeliveryAcknowledge, message));
                }
            }
        }
        self.mark_dirty();
    }
}

/// Resolves a rule's owner and group.
pub(crate) fn output_rule(rule: &PayloadRule) -> Result<OutputRule, ReceiveError> {
    let unknown = |what: &'static str, name: &str| ReceiveError::Owner { what, name: name.to_owned() };
    let owner = User::from_name(&rule.owner).ok().flatten().ok_or_else(|| unknown("user", &rule.owner))?;
    let gid = match &rule.group {
        Some(name) => Group::from_name(name).ok().flatten().ok_or_else(|| unknown("group", name))?.gid,
        None => owner.gid,
    };
    let ownership = Ownership { uid: owner.uid.as_raw(), gid: gid.as_raw(), mode: rule.mode.bits() };
    let own = rule.kind.has_own_key() && !rule.key_pairs;
    let key_pairs = if own { KeyPairs::Refused } else { KeyPairs::Replace };
    Ok(OutputRule { path: rule.path.as_path().to_owned(), ownership, key_pairs })
}

/// Runs a reload command: no shell, no input, an environment of `PATH` alone, killed at the deadline.
async fn reload(command: &Command, deadline: Duration) -> Result<(), String> {
    let mut child = tokio::process::Command::new(command.program.as_path())
        .args(&command.arguments)
        .env_clear()
        .envs(BTreeMap::from([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")]))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", command.program.as_path().display()))?;
    match tokio::time::timeout(deadline, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{} ended with {status}", command.program.as_path().display())),
        Ok(Err(error)) => Err(format!("cannot wait for {}: {error}", command.program.as_path().display())),
        Err(_) => Err(format!(
            "{} did not end within {} s and was killed",
            command.program.as_path().display(),
            deadline.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_registry::{BlockRef, Replay};

    const DAY: u64 = 86_400;
    const NOW: u64 = 20_000 * DAY;

    fn delivery(name: &str, block: u64, time: u64) -> Delivery {
        Delivery {
            at: EntryRef { block, shard: 6 << 32, index: 0, time },
            actor: Address::ZERO,
            recipient: Address::ZERO,
            payload_name: name.to_owned(),
            payload_kind: 1,
            digest: B256::ZERO,
            sealed_cid: Vec::new().into(),
        }
    }

    /// A realm whose final block is 100 and whose latest is 110.
    fn effective(deliveries: &[(Id, Delivery)]) -> Effective {
        let mut replay = Replay::new(B256::ZERO);
        replay.advance(BlockRef { number: 100, time: NOW }, &[]).unwrap();
        let mut effective = replay.effective(BlockRef { number: 110, time: NOW + 60 }, &[]).unwrap();
        effective.deliveries.extend(deliveries.iter().cloned());
        effective
    }

    fn waiting(delivery: &Delivery) -> DeliveryRecord {
        DeliveryRecord {
            at: delivery.at,
            payload_name: delivery.payload_name.clone(),
            digest: B256::ZERO,
            stage: Stage::Waiting,
            failure: None,
            changed_secs: 0,
            retry_secs: 0,
        }
    }

    #[test]
    fn a_delivery_that_can_never_be_applied_does_not_hold_the_host_back_for_ever() {
        let id = Id([1; 16]);
        for (age, since) in [(3, 3), (29, 29), (31, 30), (400, 30)] {
            let stuck = delivery("deploy", 5, NOW - age * DAY);
            let mut receiving = Receiving { records: BTreeMap::from([(id, waiting(&stuck))]), ..Receiving::default() };
            receiving.settle(&effective(&[(id, stuck)]), None);
            assert_eq!(receiving.since_secs, Some(NOW - since * DAY), "{age} days old");
        }
    }

    #[test]
    fn a_delivery_that_a_reorg_took_back_does_not_supersede_the_one_in_its_place() {
        let (gone, stays, last) = (delivery("a", 105, NOW), delivery("b", 105, NOW), delivery("c", 99, NOW));
        let applied = [&gone, &stays, &last].map(|one| (one.payload_name.clone(), one.at));
        let mut receiving = Receiving { applied: BTreeMap::from(applied), ..Receiving::default() };
        receiving.forget_reverted(&effective(&[(Id([2; 16]), stays)]));
        assert_eq!(receiving.applied.keys().collect::<Vec<_>>(), ["b", "c"], "final ones stay, seen or not");
    }

    #[test]
    fn an_acknowledgement_that_a_reorg_took_back_is_logged_again() {
        let (id, one) = (Id([1; 16]), delivery("deploy", 105, NOW));
        let record = DeliveryRecord { stage: Stage::Acknowledged, ..waiting(&one) };
        let mut receiving = Receiving { records: BTreeMap::from([(id, record)]), ..Receiving::default() };
        receiving.settle(&effective(&[(id, one)]), None);
        assert_eq!(receiving.records[&id].stage, Stage::Applied);
    }
}
