//! The device's prekeys, from the agent's side: enough of them on the ledger, none older than it may be, none twice. They are logged
//! in the background like acknowledgements.
//!
//! After a restore of the disk nobody can know which prekeys were used since: when the ledger shows prekeys, or an acknowledgement of
//! an envelope, by this device's key that this disk knows nothing of, all are dropped, here and on the ledger.

use std::sync::Arc;

use alloy_primitives::{Address, B256};
use countersign_chain::ChainError;
use countersign_chain::send::Mined;
use countersign_chain::sync::Ledger;
use countersign_delivery::{DeliveryError, Kept, PREKEY_LIFE_SECS, PrekeyId, Prekeys, Progress, PublicKey, Wanted};
use countersign_registry::entries::{Entry, payload};
use countersign_registry::{Effective, shard, sign};
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::config::Config;
use crate::cycle::Failure;
use crate::log::{Level, Line, Log};
use crate::reason::Reason;
use crate::state::DeliveryRecord;
use crate::status::Stage;

/// The directory's name in the state directory.
const DIRECTORY: &str = "prekeys";

/// Seconds between two tries to publish.
const RETRY_SECS: u64 = 60;

/// A prekey that is this old is replaced, though it may still be used: before senders run out. Seconds.
const FRESH_SECS: u64 = PREKEY_LIFE_SECS - 5 * shard::DAY_SECS;

/// Prekeys on their way to the ledger.
#[derive(Default)]
pub(crate) struct Publishing {
    task: JoinSet<Result<Mined, ChainError>>,
    retry_secs: u64,
    /// The next entry voids all earlier ones.
    drop: bool,
    /// The block of the last one: what was seen of the ledger before it says nothing about it.
    mined_block: u64,
}

impl Publishing {
    /// Whether a look at the ledger, up to its block `latest`, is one from before what was last published.
    fn is_ahead_of(&self, latest: u64) -> bool {
        latest < self.mined_block
    }
}

/// How many of the prekeys can still be sealed to for a while: young enough, and on the ledger or on their way there. One that was on
/// the ledger and is no more (a reorg took its entry back) stays usable for who saw it, but counts no more.
fn fresh(kept: &[Kept], ledger: &[(PrekeyId, u64)], now: u64) -> usize {
    let counts = |one: &&Kept| {
        let offered = one.progress == Progress::Made || ledger.iter().any(|(id, _)| *id == one.id);
        offered && now < one.made_secs.saturating_add(FRESH_SECS)
    };
    kept.iter().filter(counts).count()
}

/// Whether the next entry is still to void all earlier ones. What is kept was made after all others were dropped: where one of it is on the
/// ledger, the entry that brought it has voided them, also where its receipt never came, and another would void what is offered now.
fn still_drops(drop: bool, kept: &[Kept]) -> bool {
    drop && !kept.iter().any(|one| one.progress == Progress::Published)
}

/// Opens the directory of prekeys where the configuration asks for some, or where some are left from before.
pub(crate) fn open_prekeys(
    config: &Config,
    count: usize,
    ledger: &Ledger,
    owner: Address,
    log: &Log,
) -> Option<Prekeys> {
    let path = config.state_dir.as_path().join(DIRECTORY);
    if count == 0 && !path.exists() {
        return None;
    }
    match Prekeys::open(&path, ledger.pin().realm.0, owner.into_array()) {
        Ok(prekeys) => Some(prekeys),
        Err(error) => {
            log.line(Level::Error, &Line::reason(Reason::DeliveryPrekeys).field("message", crate::log::chain(&error)));
            None
        }
    }
}

impl Agent {
    /// Looks after the prekeys: once a cycle, before deliveries are opened.
    pub(crate) fn tend_prekeys(&mut self, effective: &Effective, address: Address) {
        self.collect_published();
        let Some(prekeys) = self.receiver.device.as_ref().and_then(|device| device.prekeys.clone()) else { return };
        if let Err(error) = self.tend(&prekeys, effective, address) {
            self.note(&Failure::of(Reason::DeliveryPrekeys, &error));
        }
    }

    /// Waits until no prekeys are on their way any more.
    pub async fn finish_publishing_prekeys(&mut self) {
        while let Some(done) = self.receiver.publishing.task.join_next().await {
            self.published(done);
        }
    }

    fn tend(&mut self, prekeys: &Prekeys, effective: &Effective, address: Address) -> Result<(), DeliveryError> {
        let target = self.config.device.as_ref().map_or(0, |device| device.prekeys.count());
        let now = effective.latest_block.time;
        prekeys.tidy(now)?;
        let publishing = &self.receiver.publishing;
        if !publishing.task.is_empty() || publishing.is_ahead_of(effective.latest_block.number) {
            return Ok(());
        }
        let mut kept = prekeys.list()?;
        let ledger: Vec<(PrekeyId, u64)> = effective
            .prekeys
            .get(&address)
            .into_iter()
            .flatten()
            .filter(|prekey| effective.realm_of(prekey.at.block) == effective.realm)
            .filter_map(|prekey| {
                let key = PublicKey::from_bytes(prekey.key.0).ok()?;
                Some((PrekeyId::of(&effective.realm.0, &address.into_array(), &key), prekey.at.time))
            })
            .collect();
        for one in kept.iter_mut().filter(|one| ledger.iter().any(|(id, _)| *id == one.id)) {
            prekeys.published(one)?;
            one.progress = Progress::Published;
        }
        let drop = &mut self.receiver.publishing.drop;
        *drop = still_drops(*drop, &kept);
        if self.was_restored(prekeys, &kept, &ledger, effective, address)? {
            let line = Line::event("prekeys-dropped").field("why", "the ledger knows more of them than this disk");
            self.log.line(Level::Warning, &line);
            prekeys.drop_all()?;
            kept.clear();
            self.receiver.publishing.drop = true;
        }
        if now < self.receiver.publishing.retry_secs {
            return Ok(());
        }
        let fresh = fresh(&kept, &ledger, now);
        let pending = kept.iter().any(|one| one.progress == Progress::Made);
        if !(pending || self.receiver.publishing.drop || fresh < target.div_ceil(2)) {
            return Ok(());
        }
        if fresh < target {
            prekeys.make(target.saturating_sub(fresh), now)?;
        }
        self.publish_prekeys(prekeys, now)
    }

    /// Whether the ledger shows a use of this device's keys that this disk does not know of. Each is remembered when it is met, so
    /// that it counts once.
    fn was_restored(
        &mut self,
        prekeys: &Prekeys,
        kept: &[Kept],
        ledger: &[(PrekeyId, u64)],
        effective: &Effective,
        address: Address,
    ) -> Result<bool, DeliveryError> {
        let now = effective.latest_block.time;
        let mut restored = false;
        for (id, logged_secs) in ledger {
            // What is about to die here may have died already: it was made before it was logged.
            let young = now < logged_secs.saturating_add(FRESH_SECS);
            if young && !kept.iter().any(|one| one.id == *id) {
                restored |= matches!(prekeys.wanted(*id, [0; 16], now)?, Wanted::Unknown);
            }
        }
        for (id, by) in &effective.envelope_acknowledgements {
            let (Some(own), Some(envelope)) = (by.get(&address), effective.envelopes.get(id)) else { continue };
            if !self.state.receiving.records.contains_key(id) {
                let record = DeliveryRecord {
                    at: envelope.at,
                    payload_name: envelope.payload_name.clone(),
                    digest: own.digest,
                    stage: Stage::Acknowledged,
                    failure: None,
                    changed_secs: own.at.time,
                    retry_secs: 0,
                };
                self.state.receiving.records.insert(*id, record);
                restored = true;
            }
        }
        Ok(restored)
    }

    /// Starts to log what is not known to be on the ledger.
    fn publish_prekeys(&mut self, prekeys: &Prekeys, now: u64) -> Result<(), DeliveryError> {
        let made: Vec<Kept> = prekeys
            .list()?
            .into_iter()
            .filter(|kept| kept.progress == Progress::Made)
            .take(Entry::MAX_PREKEYS)
            .collect();
        let keys: Vec<B256> = made
            .iter()
            .map(|kept| Ok(B256::from(prekeys.public(kept)?.to_bytes())))
            .collect::<Result<_, DeliveryError>>()?;
        let Some(device) = self.receiver.device.as_ref().filter(|_| !keys.is_empty()) else { return Ok(()) };
        let entry = Entry::Prekeys(payload::Prekeys { drop: u8::from(self.receiver.publishing.drop), keys });
        let sender = Arc::clone(&device.sender);
        let (contract, realm) = (self.realm.pin.contract, self.realm.pin.realm);
        self.receiver.publishing.retry_secs = now.saturating_add(RETRY_SECS);
        self.receiver.publishing.task.spawn(async move {
            let write = sign::write(shard::shard(shard::CLASS_MEMBERS, 0), &entry);
            sender.append(contract, realm, &write, &mut |_| {}).await
        });
        Ok(())
    }

    fn collect_published(&mut self) {
        while let Some(done) = self.receiver.publishing.task.try_join_next() {
            self.published(done);
        }
    }

    fn published(&mut self, done: Result<Result<Mined, ChainError>, tokio::task::JoinError>) {
        match done {
            Ok(Ok(mined)) => {
                self.receiver.publishing.drop = false;
                self.receiver.publishing.mined_block = mined.block;
                let line = Line::event("prekeys-published")
                    .field("transaction", mined.transaction)
                    .field("block", mined.block);
                self.log.line(Level::Notice, &line);
            }
            Ok(Err(error)) => self.note(&Failure::of(Reason::DeliveryPrekeys, &error)),
            Err(error) => self.note(&Failure::of(Reason::DeliveryPrekeys, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_look_from_before_what_was_just_published_decides_nothing() {
        let publishing = Publishing { mined_block: 7, ..Publishing::default() };
        assert!(publishing.is_ahead_of(6));
        assert!(!publishing.is_ahead_of(7) && !publishing.is_ahead_of(8));
        assert!(!Publishing::default().is_ahead_of(0));
    }

    #[test]
    fn an_entry_that_dropped_all_and_whose_receipt_never_came_is_not_followed_by_one_that_drops_the_new_ones() {
        let one = |progress| Kept { id: PrekeyId([1; 16]), made_secs: NOW, progress };
        assert!(still_drops(true, &[]) && still_drops(true, &[one(Progress::Made)]));
        assert!(!still_drops(true, &[one(Progress::Made), one(Progress::Published)]));
        assert!(!still_drops(false, &[one(Progress::Made)]));
    }

    #[test]
    fn what_a_reorg_took_off_the_ledger_or_what_is_old_is_no_stock() {
        let one = |number: u8, made_secs, progress| Kept { id: PrekeyId([number; 16]), made_secs, progress };
        let kept = [
            one(1, NOW, Progress::Made),
            one(2, NOW, Progress::Published),
            one(3, NOW, Progress::Published),
            one(4, NOW - FRESH_SECS, Progress::Published),
            one(5, NOW - FRESH_SECS, Progress::Made),
        ];
        let on_ledger = |numbers: &[u8]| -> Vec<(PrekeyId, u64)> {
            numbers.iter().map(|number| (PrekeyId([*number; 16]), NOW)).collect()
        };
        assert_eq!(fresh(&kept, &on_ledger(&[2, 3, 4]), NOW), 3);
        assert_eq!(fresh(&kept, &on_ledger(&[3, 4]), NOW), 2);
        assert_eq!(fresh(&kept, &[], NOW), 1);
    }
}
