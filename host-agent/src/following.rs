//! Following a realm that moved: which realm of the history is read now, how the agent goes on to the next one, and what it still asks
//! of those that were left.
//!
//! It goes on only when the source's MIGRATE is final there (or a threshold of its roots has signed a statement), the target's MIGRATED
//! is final and the first entry of its log, and both name each other and the same heads. A statement is heeded after the source was asked
//! once more, and by a host only that has read and proved the source's ledger before. Until then the source is read as before; whatever
//! does not fit is a failure with a reason, and the old snapshot stays. On disk the state is either before the move or after
//! the target has been read once, never between.
//!
//! A realm that was left is asked in the background: it may be dead, slow or lie, and keeps nobody waiting for longer than a moment.

use std::path::Path;
use std::time::Duration;

use countersign_chain::endpoints::Limits;
use countersign_chain::history::{self, HistoryError, Late, Left, Roots};
use countersign_chain::proofs;
use countersign_chain::realm_file::RealmFile;
use countersign_chain::spool::Spill;
use countersign_chain::sync::{Cursor, Ledger};
use countersign_chain::{ChainError, source::Heads};
use countersign_registry::entries::payload;
use countersign_registry::migration::MAX_LEGS;
use countersign_registry::{B256, BlockRef, migration};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::agent::{Agent, AgentError, load_realm_file};
use crate::cycle::{self, Failure};
use crate::log::{Level, Line};
use crate::reason::Reason;
use crate::receiving::Receiver;
use crate::state::RootNonce;
use crate::status;

/// How long a cycle waits for a left realm that answered last time.
const PATIENCE: Duration = Duration::from_secs(2);

type Looking = JoinHandle<(Box<Ledger>, Result<Late, ChainError>)>;

/// A realm that was left, and the look at it that is under way.
pub(crate) struct Watch {
    leg: u64,
    realm: B256,
    /// Lent to the task while one runs.
    ledger: Option<Box<Ledger>>,
    task: Option<Looking>,
    /// Whether the last look ended well, and in time.
    answers: bool,
    status: status::Leg,
}

impl Watch {
    fn new(leg: u64, file: &RealmFile, spill: Spill) -> Result<Self, ChainError> {
        let mut ledger = Ledger::new(file, Limits::default())?;
        ledger.spill_into(spill);
        let status = status::Leg { realm: file.pin.realm, chain_id: file.pin.chain_id, ..status::Leg::default() };
        Ok(Self { leg, realm: file.pin.realm, ledger: Some(Box::new(ledger)), task: None, answers: true, status })
    }

    /// What the look that is under way has found, if it has ended by now; starts one where none is.
    async fn look(&mut self, cursor: &Cursor, now_secs: u64) -> Option<Result<Late, ChainError>> {
        if self.task.is_none() {
            let mut ledger = self.ledger.take()?;
            let cursor = cursor.clone();
            self.task = Some(tokio::spawn(async move {
                let found = history::look(&mut ledger, &cursor, now_secs).await;
                (ledger, found)
            }));
        }
        let task = self.task.as_mut()?;
        let patience = if self.answers { PATIENCE } else { Duration::ZERO };
        match timeout(patience, task).await {
            Ok(Ok((ledger, found))) => {
                self.task = None;
                self.ledger = Some(ledger);
                self.answers = found.is_ok();
                Some(found)
            }
            Ok(Err(_)) => {
                self.task = None;
                None
            }
            Err(_) => {
                self.answers = false;
                None
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Agent {
    /// Makes sure that what is read is the realm at which the state stands: the configured one, or one of its successors.
    pub(crate) fn find_leg(&mut self) -> Result<(), Failure> {
        let wanted = self.state.replay.realm();
        if self.realm.pin.realm != wanted {
            let configured = self.configured()?;
            let file = forward(configured, |file| file.pin.realm == wanted)?;
            let file = file.ok_or_else(|| {
                let message =
                    format!("the host follows realm {wanted}, to which no successor's realm file leads any more");
                Failure::new(Reason::SuccessorFile, message)
            })?;
            self.enter(file)?;
        }
        if self.watches.len() != self.state.left.len() {
            self.watch_left();
        }
        Ok(())
    }

    fn configured(&self) -> Result<RealmFile, Failure> {
        load_realm_file(self.config.realm_file.as_path()).map_err(|error| Failure::of(Reason::SuccessorFile, &error))
    }

    /// Reads `realm` from now on.
    fn enter(&mut self, realm: RealmFile) -> Result<(), Failure> {
        let mut ledger = Ledger::new(&realm, Limits::default())?;
        ledger.spill_into(self.spill());
        self.receiver.put_back(&self.config, &self.log);
        self.receiver = Receiver::open(&self.config, &ledger, &self.log);
        self.ledger = ledger;
        self.seen_latest.clear();
        self.status.realm = realm.pin.realm;
        self.realm = realm;
        self.watches.clear();
        Ok(())
    }

    fn spill(&self) -> Spill {
        Spill::into_directory(self.config.state_dir.as_path())
    }

    /// Sets up the looks at left realms. One whose file is missing is not asked; what it denied before goes on counting.
    fn watch_left(&mut self) {
        self.watches.clear();
        let mut files = vec![self.realm.clone()];
        files.extend(self.configured());
        files.extend(files.clone().iter().flat_map(backward));
        if let Some(configured) = files.get(1).cloned() {
            let mut file = configured;
            for _ in 0..MAX_LEGS {
                let Some(next) = file.links.successor.as_deref().and_then(|path| RealmFile::load(path).ok()) else {
                    break;
                };
                files.push(next.clone());
                file = next;
            }
        }
        for (leg, place) in (0_u64..).zip(self.state.replay.legs()).take(self.state.left.len()) {
            let file = files.iter().find(|file| file.pin.realm == place.realm);
            let missing =
                || ChainError::Setting { what: "predecessor", detail: "no realm file leads to it".to_owned() };
            let watch = file.ok_or_else(missing).and_then(|file| Watch::new(leg, file, self.spill()));
            self.watches.push(watch.unwrap_or_else(|error| Watch {
                leg,
                realm: place.realm,
                ledger: None,
                task: None,
                answers: false,
                status: status::Leg { realm: place.realm, failure: Some(error.to_string()), ..status::Leg::default() },
            }));
        }
    }

    /// Asks the realms that were left what they deny since.
    pub(crate) async fn look_at_left(&mut self, now_secs: u64) {
        let mut watches = std::mem::take(&mut self.watches);
        for watch in &mut watches {
            let Some(cursor) = usize::try_from(watch.leg).ok().and_then(|leg| self.state.left.get_mut(leg)) else {
                continue;
            };
            let Some(found) = watch.look(cursor, now_secs).await else { continue };
            let told = found.map_err(|error| crate::log::chain(&error)).and_then(|late| {
                late.tell(&mut self.state.replay, watch.leg).map_err(|error| crate::log::chain(&error))
            });
            match told {
                Ok((next, is_new)) => {
                    self.dirty |= is_new;
                    *cursor = next;
                    watch.status.last_look = Some(now_secs);
                    watch.status.failure = None;
                }
                Err(message) => {
                    if watch.status.failure.as_ref() != Some(&message) {
                        let line = Line::reason(Reason::PredecessorSilent)
                            .field("realm", watch.realm)
                            .field("message", &message);
                        self.log.line(Level::Warning, &line);
                    }
                    watch.status.failure = Some(message);
                    watch.answers = false;
                }
            }
        }
        self.status.left = watches.iter().map(|watch| watch.status.clone()).collect();
        self.watches = watches;
    }

    /// Reads what comes before a realm that continues another one, where nothing was read yet.
    pub(crate) async fn begin(&mut self, heads: &Heads) -> Result<(), Failure> {
        let is_new = self.state.cursor.final_header.is_none() && self.state.left.is_empty();
        if !is_new || self.realm.links.predecessor.is_none() {
            return Ok(());
        }
        self.is_reading_again = true;
        let said = history::arrival(&mut self.ledger, heads).await?;
        let said = said.said(&self.realm).map_err(|error| moved(&error))?;
        let before = history::before(&self.realm, &said, Limits::default(), &self.spill(), |_| ()).await;
        let before = before.map_err(|error| moved(&error))?;
        self.state.replay = before.replay;
        self.state.left = before.left.into_iter().map(|Left { cursor, .. }| cursor).collect();
        self.watch_left();
        self.is_reading_again = false;
        Ok(())
    }

    /// Goes on by a statement, where the realm file names one: its chain is dead, and may be so for good. Gives whether it did.
    ///
    /// Whose signatures count is what this host has proved itself. The log that a statement names cannot tell: its heads are the
    /// statement's own choice, from before the roots that have signed it were replaced, or of a log that somebody made up. It is for dead
    /// chains: where the source answers (`source_answers`: a moment ago), the roots' nonce is proved anew, and nodes that keep just
    /// that back make no withdrawn statement good.
    pub(crate) async fn heed_statement(&mut self, source_answers: bool) -> Result<bool, Failure> {
        let Some(path) = &self.realm.links.statement else { return Ok(false) };
        let statement = history::statement(path).map_err(|error| moved(&error))?;
        if self.state.cursor.final_header.is_none() {
            let realm = self.realm.pin.realm;
            let message = format!(
                "this host has never read realm {realm}, hence does not know whose signatures count: pin it to the realm that the \
                 statement leads to, and name this one as its predecessor"
            );
            return Err(Failure::new(Reason::StatementRoots, message));
        }
        let unproved = |failure: Failure| {
            let message = format!(
                "the nodes of realm {} answer but do not prove its roots' nonce, so that nobody can tell whether the statement is                  withdrawn ({}); where the chain is dead, name no node of it",
                statement.source, failure.message
            );
            Failure::new(Reason::StatementRoots, message)
        };
        match self.ledger.heads().await {
            Ok(heads) => {
                self.root_nonce(&heads).await.map_err(unproved)?;
            }
            Err(error) if source_answers => return Err(unproved(error.into())),
            Err(_) => {}
        }
        let migrate = self.roots().verify(&statement, &self.realm.pin, self.state.root_nonce.at_least);
        self.follow(&migrate.map_err(|error| moved(&error.into()))?).await?;
        Ok(true)
    }

    fn roots(&self) -> Roots {
        self.state.roots.clone().unwrap_or_else(|| Roots::first(&self.realm.pin))
    }

    /// Proves the roots' nonce in the final block or, where nodes do not prove that far back, in the latest one.
    pub(crate) async fn root_nonce(&mut self, heads: &Heads) -> Result<(), Failure> {
        let (endpoints, pin) = (self.ledger.endpoints(), &self.realm.pin);
        let behind = heads.latest.number.saturating_sub(heads.final_header.number);
        let mut header = &heads.final_header;
        let mut slot = proofs::root_set(endpoints, pin, header).await;
        if slot.is_err() && behind > 0 {
            header = &heads.latest;
            slot = proofs::root_set(endpoints, pin, header).await;
        }
        let nonce = self.roots().nonce(slot?).map_err(|error| Failure::of(Reason::StatementRoots, &error))?;
        let known = self.state.root_nonce;
        self.state.root_nonce.proved(nonce, header.number, header.time);
        self.dirty |= self.state.root_nonce.at_least != known.at_least || known.proved_secs.is_none();
        Ok(())
    }

    /// Goes on to where `migrate` leads: final on the realm that is read, or said in a statement that was verified.
    pub(crate) async fn follow(&mut self, migrate: &payload::Migrate) -> Result<(), Failure> {
        let (target, step) = history::successor(&self.realm, migrate, &self.state.replay.legs(), Limits::default())
            .await
            .map_err(|error| moved(&error))?;
        let (replay, left) = match history::go_on(&self.state.replay, &self.state.cursor, &step) {
            Some((replay, cursor)) => (replay, [self.state.left.clone(), vec![cursor]].concat()),
            None => {
                // The state has gone beyond the heads, or not as far: the log is read once more, up to them.
                self.is_reading_again = true;
                let found = history::up_to(self.realm.clone(), step, Limits::default(), &self.spill(), |_| ()).await;
                let mut found = found.map_err(|error| moved(&error))?;
                found.replay.keep_denials_of(&self.state.replay);
                self.is_reading_again = false;
                (found.replay, found.left.into_iter().map(|left| left.cursor).collect())
            }
        };
        let from = self.realm.pin.realm;
        self.enter(target)?;
        self.state.replay = replay;
        self.state.left = left;
        self.state.roots = None;
        self.state.root_nonce = RootNonce::default();
        self.state.cursor = Cursor::default();
        self.watch_left();
        self.dirty = true;
        let line = Line::event("realm-moved")
            .field("from", from)
            .field("to", self.realm.pin.realm)
            .field("chain", self.realm.pin.chain_id)
            .field("contract", self.realm.pin.contract);
        self.log.line(Level::Notice, &line);
        Ok(())
    }

    /// A block of the realm that is read, as the whole history numbers it.
    pub(crate) fn in_history(&self, block: BlockRef) -> BlockRef {
        self.state.replay.block(block)
    }
}

/// A block as its own chain numbers it.
pub(crate) fn in_chain(block: BlockRef) -> BlockRef {
    BlockRef { number: migration::in_chain(block.number), ..block }
}

/// The files of a realm's predecessors, as far as they can be read, nearest first.
pub(crate) fn backward(file: &RealmFile) -> Vec<RealmFile> {
    let mut found: Vec<RealmFile> = Vec::new();
    let mut next = file.links.predecessor.clone();
    while let Some(earlier) =
        next.take().filter(|_| found.len() < MAX_LEGS).and_then(|path| RealmFile::load(&path).ok())
    {
        next.clone_from(&earlier.links.predecessor);
        found.push(earlier);
    }
    found
}

/// The first file that `is_it`, along the successors.
fn forward(mut file: RealmFile, is_it: impl Fn(&RealmFile) -> bool) -> Result<Option<RealmFile>, Failure> {
    for _ in 0..MAX_LEGS {
        if is_it(&file) {
            return Ok(Some(file));
        }
        let Some(path) = &file.links.successor else { return Ok(None) };
        file = load(path)?;
    }
    Ok(None)
}

fn load(path: &Path) -> Result<RealmFile, Failure> {
    RealmFile::load(path).map_err(|error| Failure::of(Reason::SuccessorFile, &AgentError::Realm(error)))
}

/// Why the history does not go on, as a failure.
pub(crate) fn moved(error: &HistoryError) -> Failure {
    if let HistoryError::Chain(chain) = error
        && !matches!(chain, ChainError::Predecessor { .. })
    {
        let reason = cycle::chain_reason(chain);
        let reason = if reason == Reason::EndpointsSilent { Reason::SuccessorSilent } else { reason };
        return Failure::of(reason, error);
    }
    Failure::of(Reason::from_text(error.reason()).unwrap_or(Reason::ReplayFailed), error)
}
