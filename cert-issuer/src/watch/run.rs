//! The watchdog's service. Every failure keeps it running; a batch that it cannot judge is not countersigned.
//!
//! Each living batch is judged until it is countersigned or refused for good. A batch that has its countersignatures already is judged
//! as well, and an objection told: it costs nothing, and somebody should know. One countersignature is sent per batch entry; a note from
//! before it is sent keeps a restart from sending it again before that could have been mined.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use countersign_chain::endpoints::Limits;
use countersign_chain::keys::{ActorKey, KeySource, PASSWORD_VARIABLE};
use countersign_chain::realm_file::RealmFile;
use countersign_chain::send::Progress;
use countersign_chain::sync::{Cursor, Ledger};
use countersign_delivery::{BlockCid, SecretKey, Stores};
use countersign_registry::entries::{Entry, Roles, payload};
use countersign_registry::realm::{Batch, BatchState};
use countersign_registry::shard::{CLASS_BATCHES, DAY_SECS, class_of};
use countersign_registry::{Address, B256, Effective, Id};
use serde::{Deserialize, Serialize};

use crate::error::IssueError;
use crate::issue::check_sealing_key;
use crate::notify;
use crate::run::{StartError, first_line, read_json, unix_secs, write_json};
use crate::service::Scribe;
use crate::view::{View, wanted_shards};
use crate::watch::config::WatchConfig;
use crate::watch::judge::{Objection, Watchdog, judge};
use crate::watch::sent::Sent;

/// How long a note of a countersignature that nobody sees holds, in the chain's own measure of stuck transactions.
const RESEND_AFTER_STUCK: u64 = 10;

/// The format of `status.json`.
const STATUS_FORMAT: u32 = 1;

/// What the watchdog last did; written to `status.json` in the state directory (`docs/spec/issuer-state.md`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WatchStatus {
    /// 1. Fields may be added; none is renamed or changes its meaning.
    pub format: u32,
    /// When this was written, Unix seconds.
    pub time: u64,
    /// Latest block seen.
    pub latest_block: u64,
    /// The ledger key that countersigns.
    pub watchdog: String,
    /// How many countersignatures a batch needs.
    pub quorum: u64,
    /// Batches countersigned since the start.
    pub countersigned: u64,
    /// Living batches that this watchdog does not countersign (yet), with the code of its objection.
    pub refused: BTreeMap<String, String>,
    /// The last failure, if it still stands.
    pub error: Option<String>,
}

/// The running watchdog.
pub struct Watch {
    config: WatchConfig,
    realm: RealmFile,
    scribe: Scribe,
    key: SecretKey,
    stores: Stores,
    sent: Sent,
    ledger: Ledger,
    cursor: Cursor,
    /// Batch entries with which this watchdog is done: countersigned, or refused for good.
    done: BTreeSet<B256>,
    /// The last look was not followed through, or something may still pass.
    unfinished: bool,
    status: WatchStatus,
}

impl Watch {
    /// Opens keys, store and ledger.
    ///
    /// # Errors
    /// See [`StartError`]; a ledger key without the WATCHDOG role, or with ISSUER, is refused.
    pub async fn open(config: WatchConfig) -> Result<Self, StartError> {
        config.check_files()?;
        let realm = RealmFile::load(&config.realm).map_err(IssueError::from)?;
        let password = first_line(&config.actor_password_file)?;
        let environment = |name: &str| (name == PASSWORD_VARIABLE).then(|| password.as_str().into());
        let no_prompt = |_: &Path| Err(std::io::Error::other("a service has nobody to ask"));
        let actor =
            ActorKey::load(&KeySource::File(config.actor.clone()), environment, no_prompt).map_err(IssueError::from)?;
        let key = SecretKey::load_file(&config.delivery_key).map_err(IssueError::from)?;
        match std::fs::create_dir(&config.state) {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(StartError::File { path: config.state.clone(), source });
            }
            _ => {}
        }
        let stores = config.stores().map_err(IssueError::from)?;
        let sent = Sent::open(&config.state.join("countersigned"))?;
        let view = View::read(&realm, 1).await.map_err(IssueError::from)?;
        may_watch(&view.effective, actor.address(), &key)?;
        let watchdog = actor.address().to_string();
        let status = WatchStatus { format: STATUS_FORMAT, watchdog, ..WatchStatus::default() };
        let ledger = Ledger::new(&realm, Limits::default()).map_err(IssueError::from)?;
        let scribe = Scribe::new(realm.clone(), actor)?;
        let (cursor, done, unfinished) = (Cursor::default(), BTreeSet::new(), true);
        Ok(Self { config, realm, scribe, key, stores, sent, ledger, cursor, done, unfinished, status })
    }

    /// Works until `stop` is ready. `say` takes one line for the log at a time.
    pub async fn run(mut self, stop: impl Future<Output = ()>, mut say: impl FnMut(&str)) {
        let poll = Duration::from_secs(self.realm.profile.poll_secs.max(1));
        let mut stop = std::pin::pin!(stop);
        let mut first = true;
        loop {
            let step = async {
                let error = self.step(&mut say).await.err().map(|error| error.to_string());
                if error.is_some() && error != self.status.error {
                    say(&format!("event=failed message={:?}", error.clone().unwrap_or_default()));
                }
                self.status.error = error;
                self.status.time = unix_secs();
                if let Err(error) = write_json(&self.config.state, &self.status) {
                    say(&format!("event=status-not-written message={:?}", error.to_string()));
                }
                let refused = self.status.refused.len();
                notify::cycle(first, &format!("{} countersigned, {refused} refused", self.status.countersigned));
                first = false;
                tokio::time::sleep(poll).await;
            };
            tokio::select! {
                () = &mut stop => {
                    notify::stopping();
                    return;
                }
                () = step => {}
            }
        }
    }

    /// One look at the ledger, and what follows from it.
    async fn step(&mut self, say: &mut impl FnMut(&str)) -> Result<(), IssueError> {
        if !self.has_work().await? {
            return Ok(());
        }
        self.unfinished = true;
        let view = View::read(&self.realm, 1).await?;
        let effective = &view.effective;
        self.status.latest_block = effective.latest_block.number;
        self.status.quorum = effective.settings.countersign_quorum;
        may_watch(effective, self.scribe.address(), &self.key)?;
        let now = effective.latest_block.time;
        let living: Vec<(Id, &Batch)> = effective
            .batches
            .iter()
            .filter(|(_, batch)| batch.not_after > now && !batch.countersigners.contains(&self.scribe.address()))
            // Where nobody is asked to countersign, there is nothing to look at.
            .filter(|(_, batch)| batch.state != BatchState::Accepted || !batch.leaves_cid.is_empty())
            .map(|(id, batch)| (*id, batch))
            .collect();
        let names: BTreeSet<String> = living.iter().map(|(id, _)| id.to_string()).collect();
        self.status.refused.retain(|id, _| names.contains(id));
        let entries: BTreeSet<B256> = effective.batches.values().map(|batch| batch.entry_hash).collect();
        self.done.retain(|entry| entries.contains(entry));
        self.sent.retain(|entry| entries.contains(&entry)).map_err(|error| IssueError::Notes(error.to_string()))?;
        let mut again = false;
        for (id, batch) in living {
            if !self.done.contains(&batch.entry_hash) {
                again |= !self.look(&view, id, batch, now, say).await?;
            }
        }
        self.unfinished = again;
        Ok(())
    }

    /// Whether batches may have come, or something is unfinished.
    async fn has_work(&mut self) -> Result<bool, IssueError> {
        let heads = self.ledger.heads().await?;
        let shards = wanted_shards(heads.latest.time, DAY_SECS);
        let update = self.ledger.update(&self.cursor, &heads, &shards).await?;
        let mut new = update.final_entries.iter().chain(&update.latest_entries);
        let news = new.any(|(shard, entries)| class_of(*shard) == CLASS_BATCHES && !entries.is_empty());
        self.status.latest_block = heads.latest.number;
        self.cursor = update.cursor;
        Ok(news || self.unfinished)
    }

    /// Judges one batch; whether nothing is left to do about it.
    async fn look(
        &mut self,
        view: &View,
        id: Id,
        batch: &Batch,
        now: u64,
        say: &mut impl FnMut(&str),
    ) -> Result<bool, IssueError> {
        let watchdog = Watchdog { address: self.scribe.address(), key: &self.key, policy: &self.config.policy };
        let fetched = match BlockCid::from_bytes(&batch.leaves_cid) {
            Ok(cid) => self.stores.get(&cid).await,
            Err(error) => Err(error),
        };
        let certificates = match judge(&view.effective, id, batch, watchdog, |_| fetched) {
            Ok(leaves) => leaves.size(),
            Err(objection) => {
                let late = now.saturating_sub(batch.at.time) > self.config.patience.secs();
                let for_good = late || !objection.why.may_pass();
                self.refused(id, batch, &objection, for_good, say);
                if for_good {
                    self.done.insert(batch.entry_hash);
                }
                return Ok(for_good);
            }
        };
        if batch.state == BatchState::Accepted {
            self.status.refused.remove(&id.to_string());
            self.done.insert(batch.entry_hash);
            return Ok(true);
        }
        let holds = RESEND_AFTER_STUCK.saturating_mul(self.realm.profile.stuck_secs);
        let may_send = self.sent.may_send(batch.entry_hash, unix_secs(), holds);
        if !may_send.map_err(|error| IssueError::Notes(error.to_string()))? {
            return Ok(false);
        }
        let (batch_id, entry_hash) = (id.0.into(), batch.entry_hash);
        let entry = Entry::Countersign(payload::Countersign { batch: batch_id, entryHash: entry_hash });
        // Whether anything left this machine decides whether the note stays.
        self.sent.add(entry_hash, unix_secs()).map_err(|error| IssueError::Notes(error.to_string()))?;
        let mut left = false;
        let mut report = |progress| left |= matches!(progress, Progress::Sending { .. });
        let mined = match self.scribe.log(view, &entry, &mut report).await {
            Ok(mined) => mined,
            Err(error) => {
                if !left {
                    self.sent.strike(entry_hash).map_err(|error| IssueError::Notes(error.to_string()))?;
                }
                return Err(error);
            }
        };
        self.status.countersigned = self.status.countersigned.saturating_add(1);
        self.status.refused.remove(&id.to_string());
        let (block, transaction) = (mined.block, mined.transaction);
        say(&format!(
            "event=countersigned batch={id} certificates={certificates} block={block} transaction={transaction}"
        ));
        // Not done: should a reorg drop it, it is to be sent again. The ledger shows it in the next look.
        Ok(false)
    }

    /// Says once why a batch is not countersigned.
    fn refused(&mut self, id: Id, batch: &Batch, objection: &Objection, for_good: bool, say: &mut impl FnMut(&str)) {
        let code = objection.why.code().to_owned();
        let before = self.status.refused.insert(id.to_string(), code.clone());
        if before.as_ref() != Some(&code) || for_good {
            // One that counts all the same is worse than one that waits.
            let event = if batch.state == BatchState::Accepted { "objected" } else { "refused" };
            let text = objection.to_string();
            say(&format!(
                "event={event} batch={id} reason={code} issuer={} final={for_good} message={text:?}",
                batch.issuer
            ));
        }
    }
}

/// Whether `address` may countersign, with `key` as its sealing key.
fn may_watch(effective: &Effective, address: Address, key: &SecretKey) -> Result<(), IssueError> {
    let actor = effective.actors.get(&address).filter(|actor| !actor.locked);
    let roles = actor.map_or(0, |actor| actor.roles);
    if roles & Roles::ISSUER != 0 {
        return Err(IssueError::Watchdog {
            address,
            problem: "holds the issuer role: expected a key that logs no batches",
        });
    }
    if roles & Roles::WATCHDOG == 0 {
        return Err(IssueError::Watchdog {
            address,
            problem: "does not hold the watchdog role (it counts once it is final)",
        });
    }
    check_sealing_key(effective, address, key)
}

/// Reads the status that a running watchdog last wrote.
///
/// # Errors
/// [`StartError::File`].
pub fn read_status(config: &WatchConfig) -> Result<WatchStatus, StartError> {
    read_json(&config.state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_has_the_fields_that_its_page_lists() {
        let page = include_str!("../../../docs/spec/issuer-state.md");
        let section = page.split("## The watchdog's `status.json`").nth(1).unwrap();
        let mut listed: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let status = serde_json::to_value(WatchStatus::default()).unwrap();
        let mut fields: Vec<&str> = status.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, fields);
    }
}
