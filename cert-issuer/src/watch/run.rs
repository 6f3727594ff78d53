//! The watchdog's service. Every failure keeps it running; a batch that it cannot judge is not countersigned.
//!
//! Each living batch is judged until it is countersigned or refused for good. A batch that has its countersignatures already is judged
//! as well, and an objection told: it costs nothing, and somebody should know. One countersignature is sent per batch entry; a note from
//! before it is sent keeps a restart from sending it again before that could have been mined.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_chain::endpoints::Limits;
use countersign_chain::realm_file::RealmFile;
use countersign_chain::send::Progress;
use countersign_chain::spool::Spill;
use countersign_chain::sync::{Cursor, Ledger};
use countersign_delivery::{BlockCid, DeliveryError, SecretKey, Stores};
use countersign_registry::entries::{Entry, Roles, payload};
use countersign_registry::realm::{Batch, BatchState};
use countersign_registry::shard::{CLASS_BATCHES, DAY_SECS, class_of};
use countersign_registry::{Address, B256, Effective, Id};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::error::IssueError;
use crate::issue::check_sealing_key;
use crate::notify;
use crate::run::{StartError, make_state, open_actor, read_json, unix_secs, write_json};
use crate::service::Scribe;
use crate::view::{View, wanted_shards};
use crate::watch::config::WatchConfig;
use crate::watch::judge::{Objection, Watchdog, before_leaves, judge};
use crate::watch::sent::Sent;

/// How long a note of a countersignature that nobody sees holds, in the chain's own measure of stuck transactions.
const RESEND_AFTER_STUCK: u64 = 10;

/// How long one look waits for leaves, in all.
const FETCH_BUDGET: Duration = Duration::from_secs(10);

/// How many batches' leaves are fetched in one look, all at the same time.
const MOST_FETCHED: usize = 32;

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
    /// How often each entry's leaves were asked for.
    tries: BTreeMap<B256, u64>,
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
        let actor = open_actor(&config.actor, &config.actor_password_file)?;
        let key = SecretKey::load_file(&config.delivery_key).map_err(IssueError::from)?;
        make_state(&config.state)?;
        let stores = config.stores().map_err(IssueError::from)?;
        let sent = Sent::open(&config.state.join("countersigned"))?;
        let view = View::read_with(&realm, 1, Spill::into_directory(&config.state)).await.map_err(IssueError::from)?;
        may_watch(&view.effective, actor.address(), &key)?;
        let watchdog = actor.address().to_string();
        let status = WatchStatus { format: STATUS_FORMAT, watchdog, ..WatchStatus::default() };
        let mut ledger = Ledger::new(&realm, Limits::default()).map_err(IssueError::from)?;
        ledger.spill_into(Spill::into_directory(&config.state));
        let scribe = Scribe::new(realm.clone(), actor)?;
        let (cursor, done, unfinished) = (Cursor::default(), BTreeSet::new(), true);
        Ok(Self {
            config,
            realm,
            scribe,
            key,
            stores,
            sent,
            ledger,
            cursor,
            done,
            tries: BTreeMap::new(),
            unfinished,
            status,
        })
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
        let view = View::read_with(&self.realm, 1, Spill::into_directory(&self.config.state)).await?;
        let effective = &view.effective;
        self.status.latest_block = view.heads.latest.number;
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
        self.tries.retain(|entry, _| entries.contains(entry));
        let mut again = false;
        let mut wanted = Vec::new();
        for (id, batch) in living {
            if self.done.contains(&batch.entry_hash) {
                continue;
            }
            match before_leaves(effective, batch, self.scribe.address(), &self.config.policy) {
                Ok((cid, _)) => wanted.push((id, batch, cid)),
                Err(objection) => again |= !self.object(id, batch, &objection, now, say),
            }
        }
        // First what a countersignature helps, and what was looked at the least often: whoever names what nobody has, or what cannot be
        // countersigned yet, waits behind everybody else.
        let tries = |batch: &Batch| self.tries.get(&batch.entry_hash).copied().unwrap_or_default();
        wanted.sort_by_key(|(id, batch, _)| (batch.state == BatchState::Accepted, tries(batch), batch.at, *id));
        again |= wanted.len() > MOST_FETCHED;
        wanted.truncate(MOST_FETCHED);
        let mut fetching = fetch(&self.stores, wanted.iter().map(|(_, _, cid)| *cid), FETCH_BUDGET);
        while let Some(fetched) = fetching.join_next().await {
            let Ok((index, fetched)) = fetched else {
                again = true;
                continue;
            };
            let Some((id, batch, _)) = wanted.get(index) else { continue };
            let tries = self.tries.entry(batch.entry_hash).or_default();
            *tries = tries.saturating_add(1);
            again |= !self.look(&view, *id, batch, fetched, now, say).await?;
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

    /// Notes an objection; whether it is for good.
    fn object(&mut self, id: Id, batch: &Batch, objection: &Objection, now: u64, say: &mut impl FnMut(&str)) -> bool {
        let late = now.saturating_sub(batch.at.time) > self.config.patience.secs();
        let for_good = late || !objection.why.may_pass();
        self.refused(id, batch, objection, for_good, say);
        if for_good {
            self.done.insert(batch.entry_hash);
        }
        for_good
    }

    /// Judges one batch by what was fetched; whether nothing is left to do about it.
    async fn look(
        &mut self,
        view: &View,
        id: Id,
        batch: &Batch,
        fetched: Result<Vec<u8>, DeliveryError>,
        now: u64,
        say: &mut impl FnMut(&str),
    ) -> Result<bool, IssueError> {
        let watchdog = Watchdog { address: self.scribe.address(), key: &self.key, policy: &self.config.policy };
        let certificates = match judge(&view.effective, id, batch, watchdog, |_| fetched) {
            Ok(leaves) => leaves.size(),
            Err(objection) => return Ok(self.object(id, batch, &objection, now, say)),
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

/// What was fetched, by its place among what was wanted.
type Fetching = JoinSet<(usize, Result<Vec<u8>, DeliveryError>)>;

/// Fetches all that is wanted at the same time, each for at most `budget`.
fn fetch(stores: &Stores, wanted: impl Iterator<Item = BlockCid>, budget: Duration) -> Fetching {
    let mut fetching = JoinSet::new();
    for (index, cid) in wanted.enumerate() {
        let stores = stores.clone();
        fetching.spawn(async move {
            let missing = |_| {
                let store = format!("any block store within {} s", budget.as_secs());
                Err(DeliveryError::Missing { cid: cid.to_string(), store })
            };
            (index, timeout(budget, stores.get(&cid)).await.unwrap_or_else(missing))
        });
    }
    fetching
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
    use countersign_delivery::{Deadlines, DirectoryStore, GatewayStore, Puts};

    #[tokio::test]
    async fn leaves_that_nobody_gives_delay_no_others_and_all_end_in_time() {
        // A gateway that takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let here = DirectoryStore::open(folder.path()).unwrap();
        let cid = here.put(b"here").unwrap();
        let gateway = GatewayStore::new(url, Deadlines::default()).unwrap();
        let stores = Stores::of(vec![Box::new(here), Box::new(gateway)], Puts::All);
        let nowhere = (0..20_u8).map(|number| BlockCid::of(&[number]).unwrap());
        let begun = std::time::Instant::now();
        let mut fetching = fetch(&stores, nowhere.chain([cid]), Duration::from_secs(2));
        let (first, block) = fetching.join_next().await.unwrap().unwrap();
        assert_eq!((first, block.unwrap().as_slice()), (20, b"here".as_slice()));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let mut ended = 0;
        while let Some(fetched) = fetching.join_next().await {
            let error = fetched.unwrap().1.unwrap_err().to_string();
            assert!(error.ends_with(": not in any block store within 2 s"), "{error}");
            ended += 1;
        }
        assert_eq!(ended, 20);
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }

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
