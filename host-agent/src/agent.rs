//! The agent itself: opens what it remembers, syncs the ledger, replays, has the result published, and says how that went.
//!
//! The order of things is the promise: nothing is published that was not proved; what was published stays when anything fails; a
//! denial is on disk before it is published; the snapshot is never made from an older block than the one before; and a clock
//! that was set back publishes nothing.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use countersign_chain::ChainError;
use countersign_chain::endpoints::Limits;
use countersign_chain::history::{self, AdvanceError, HistoryError};
use countersign_chain::realm_file::RealmFile;
use countersign_chain::source::Heads;
use countersign_chain::spool::Spill;
use countersign_chain::sync::Ledger;
use countersign_registry::entries::payload;
use countersign_registry::replay::ReplayError;
use countersign_registry::{BlockRef, Effective, PlacedEntry, Replay, U256, migration};
use countersign_snapshot::{Clock, Gid};
use nix::unistd::{Group, geteuid};

use crate::ca_list::CaList;
use crate::config::{Config, ConfigError};
use crate::cycle::{self, Failure};
use crate::envelope::Identity;
use crate::files::{self, Directory, FileError, Owners, Secrecy};
use crate::following::{Watch, backward, in_chain};
use crate::in_place;
use crate::lock::{Lock, LockError};
use crate::log::{Level, Line, Log};
use crate::origins::Origins;
use crate::plain_sshd::PlainFiles;
use crate::publishing::{Made, learn_from, manifest_in_place, status_of};
use crate::reason::Reason;
use crate::receiving::Receiver;
use crate::state::{Found, RootNonce, State};
use crate::status::{self, Status};

/// The most that is read of a realm file, in bytes.
const REALM_FILE_LIMIT: u64 = 64 << 10;

/// A state that nothing but time has changed is written at least this often, seconds.
const SAVE_INTERVAL_SECS: u64 = 60;

/// The roots' nonce is proved at least this often, seconds: what they have withdrawn should be known when their chain dies.
const ROOTS_INTERVAL_SECS: u64 = 3600;

/// How many failures with one reason go by without a log line.
const QUIET_FAILURES: u64 = 50;

/// Tells the time; a parameter, so that tests can set it back.
pub type Clocks = Box<dyn Fn() -> io::Result<Clock> + Send>;

/// Why the agent cannot even start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or directory is missing or unsafe.
    #[error(transparent)]
    File(#[from] FileError),
    /// The realm file.
    #[error(transparent)]
    Realm(#[from] ChainError),
    /// Another agent, or no lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The statement that goes with the realm file.
    #[error(transparent)]
    Statement(#[from] HistoryError),
    /// The group that reads the snapshot.
    #[error("group {0:?}: not found (it is made when the package is installed)")]
    Group(String),
    /// The system gives no randomness.
    #[error("no random bytes from the operating system: {0}")]
    Randomness(getrandom::Error),
    /// The device's keys.
    #[error(transparent)]
    Device(#[from] crate::device::DeviceError),
    /// A clock cannot be read.
    #[error("cannot read the clock: {0}")]
    Clock(io::Error),
    /// The system refuses what an asynchronous program needs.
    #[error("cannot wait for signals and the network: {0}")]
    Runtime(io::Error),
}

impl AgentError {
    /// What the reader can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::File(error) => error.hint(),
            Self::Device(error) => error.hint(),
            Self::Realm(error) => error.hint(),
            Self::Group(name) => Some(format!("groupadd --system {name}, or name another group")),
            _ => None,
        }
    }
}

/// How a cycle ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// Deliveries to this device that are not yet applied and acknowledged.
    pub unfinished: usize,
}

/// What a sync has found.
enum Synced {
    /// What holds.
    Effective(Box<Effective>),
    /// The realm has moved.
    Moved(Box<payload::Migrate>),
}

/// The agent of one host.
pub struct Agent {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) state: State,
    pub(crate) log: Log,
    pub(crate) status: Status,
    /// The realm that is read: the configured one, or a successor of it.
    pub(crate) realm: RealmFile,
    pub(crate) ledger: Ledger,
    pub(crate) watches: Vec<Watch>,
    /// A log is being read from its beginning, which may take long.
    pub(crate) is_reading_again: bool,
    pub(crate) receiver: Receiver,
    clocks: Clocks,
    directory: Directory,
    pub(crate) access_group: Option<Gid>,
    pub(crate) made: Option<Made>,
    pub(crate) plain_sshd: PlainFiles,
    pub(crate) origins: Origins,
    /// The slots of the latest view, as of the last look.
    pub(crate) seen_latest: BTreeMap<u64, U256>,
    pub(crate) state_is_complete: bool,
    pub(crate) dirty: bool,
    saved_secs: u64,
    logged: Option<(Reason, u64)>,
    lock: Lock,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Reads a realm file after checking that nobody else could have written it.
///
/// # Errors
/// The file is unsafe or wrong.
pub fn load_realm_file(path: &Path) -> Result<RealmFile, AgentError> {
    let bytes = files::read(path, Owners::process(), Secrecy::Public, REALM_FILE_LIMIT)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ConfigError::Encoding(path.to_owned()))?;
    Ok(RealmFile::parse(path, text)?)
}

impl Agent {
    /// Takes the lock, reads realm file and state, loads the device's keys. Nothing is published and nobody is asked yet.
    ///
    /// # Errors
    /// What keeps the agent from working at all. A state file that cannot be used does not: it is set aside.
    pub fn open(config: Config, log: Log, clocks: Clocks) -> Result<Self, AgentError> {
        let state_dir = config.state_dir.as_path();
        Directory::check_place(state_dir, Owners::process())?;
        make_state_dir(state_dir)?;
        Directory::check_place(&config.snapshot_dir(), Owners::process())?;
        let directory = Directory::open(state_dir, Owners::process())?;
        let lock = Lock::take(state_dir)?;
        Self::open_locked(config, log, clocks, directory, lock)
    }

    fn open_locked(
        config: Config,
        log: Log,
        clocks: Clocks,
        directory: Directory,
        lock: Lock,
    ) -> Result<Self, AgentError> {
        let realm = load_realm_file(config.realm_file.as_path())?;
        let identity = Identity::of(&realm.pin, config.host);
        let earlier: Vec<Identity> = backward(&realm).iter().map(|file| Identity::of(&file.pin, config.host)).collect();
        let access_group = access_group(&config)?;
        let now = clocks().map_err(AgentError::Clock)?;
        let (mut state, found) = match State::load(&directory, &identity, &earlier, now.unix_secs)? {
            Found::State(state) => (*state, Ok(())),
            Found::Nothing => (State::new(&identity).map_err(AgentError::Randomness)?, Ok(())),
            Found::SetAside { reason, message, name } => {
                let line = Line::reason(reason).field("message", &message).field("set-aside-as", &name);
                log.line(Level::Error, &line);
                (State::new(&identity).map_err(AgentError::Randomness)?, Err(Failure::new(reason, message)))
            }
        };
        let state_is_complete = state.cursor.final_header.is_some();
        let realms = [identity.realm, state.replay.realm()];
        let manifest = manifest_in_place(&config.snapshot_dir(), &realms, identity.host);
        if let Some(manifest) = &manifest {
            learn_from(&mut state, manifest, state_is_complete);
        }
        let published = manifest.map(|manifest| (manifest.facts.latest_block.time_secs, manifest.freshness));
        let plain_sshd = PlainFiles::new(&config, published);
        let status = first_status(&identity, &state, now.unix_secs);
        let mut ledger = Ledger::new(&realm, Limits::default())?;
        ledger.spill_into(Spill::into_directory(config.state_dir.as_path()));
        let receiver = Receiver::open(&config, &ledger, &log);
        let mut agent = Self {
            config,
            identity,
            state,
            log,
            status,
            realm,
            ledger,
            watches: Vec::new(),
            is_reading_again: false,
            receiver,
            clocks,
            directory,
            access_group,
            made: None,
            plain_sshd,
            origins: Origins::default(),
            seen_latest: BTreeMap::new(),
            state_is_complete,
            dirty: false,
            saved_secs: 0,
            logged: None,
            lock,
        };
        if let Err(failure) = found {
            agent.note(&failure);
        }
        Ok(agent)
    }

    /// Opens the agent again with another configuration, under the lock that is held. The state directory must be the same.
    ///
    /// # Errors
    /// As [`Self::open`]; the agent is gone then.
    pub fn reopen(mut self, config: Config) -> Result<Self, AgentError> {
        // The other configuration may name other files.
        self.receiver.put_back(&self.config, &self.log);
        Self::open_locked(config, self.log, self.clocks, self.directory, self.lock)
    }

    /// The configuration in use.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The list of CAs of a plain sshd, where one is written.
    pub(crate) fn ca_list(&self) -> Option<Arc<CaList>> {
        self.plain_sshd.cas.clone()
    }

    /// The status as last written.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The shards that were read, up to the final block.
    pub fn shards_read(&self) -> Vec<u64> {
        self.state.cursor.shards.keys().copied().collect()
    }

    /// Whether the ledger has been read to its final block once; reading it for the first time may take long.
    pub fn has_read_ledger(&self) -> bool {
        self.state_is_complete && !self.is_reading_again
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Milliseconds between polls: the configuration's, or the chain profile's.
    pub fn poll_interval_millis(&self) -> u64 {
        let profile = self.ledger.profile().poll_secs.saturating_mul(1000);
        self.config.poll_interval_ms.map_or(profile, |interval| interval.millis())
    }

    /// One cycle: sync, replay, compile, publish, receive. Whatever happens, the status file tells it afterwards.
    pub async fn cycle(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        match self.sync_and_publish().await {
            Ok(effective) => {
                outcome.unfinished = self.receive(&effective).await;
                self.succeeded();
            }
            Err(failure) => {
                self.failed(&failure);
                self.end_stale_plain_sshd();
                outcome.failure = Some(failure);
            }
        }
        self.write_status();
        outcome
    }

    /// Records a failure that was met outside of a cycle, and writes the status.
    pub fn report(&mut self, failure: &Failure) {
        self.failed(failure);
        self.write_status();
    }

    /// Writes state and status. Called before the agent ends: while it runs, the state is not written for what the snapshot's
    /// manifest tells as well.
    pub fn flush(&mut self) {
        if self.state_is_complete && self.state.cursor.final_header.is_some() {
            self.save();
        }
        self.write_status();
    }

    async fn sync_and_publish(&mut self) -> Result<Effective, Failure> {
        self.now()?;
        self.find_leg()?;
        let (latest, effective) = loop {
            let looked = self.look_at_realm().await;
            if matches!(looked, Ok(None)) {
                continue;
            }
            // After the look: who may sign a statement is what the newest proofs say.
            match (self.heed_statement(looked.is_ok()).await, &looked) {
                (Ok(true), _) => continue,
                (Ok(false), _) => {}
                (Err(refused), Err(failure)) if failure.reason == Reason::EndpointsSilent => return Err(refused),
                (Err(refused), _) => self.note_once(&refused),
            }
            if let Some(found) = looked? {
                break found;
            }
        };
        let saved_long_ago = latest.time.saturating_sub(self.saved_secs) >= SAVE_INTERVAL_SECS;
        if self.dirty || saved_long_ago {
            self.save();
            self.saved_secs = latest.time;
        }
        self.publish(&effective)?;
        Ok(effective)
    }

    /// One look at the realm that is read: its latest block, and what holds under it. None when it has moved, and the agent with it.
    async fn look_at_realm(&mut self) -> Result<Option<(BlockRef, Effective)>, Failure> {
        let heads = self.ledger.heads().await?;
        let latest = self.in_history(cycle::block_ref(&heads.latest)).number;
        if let Some(published) = self.state.published.filter(|published| latest < published.latest.number) {
            let message = format!(
                "newest block is {}, the snapshot is of block {}",
                heads.latest.number,
                in_chain(published.latest).number
            );
            return Err(Failure::new(Reason::LatestWentBack, message));
        }
        match self.sync(&heads).await? {
            Synced::Effective(effective) => Ok(Some((cycle::block_ref(&heads.latest), *effective))),
            Synced::Moved(migrate) => {
                self.follow(&migrate).await?;
                Ok(None)
            }
        }
    }

    /// Proves the roots' nonce: where they were seen to write, and from time to time, since they may write where this host does not look.
    async fn prove_roots(&mut self, heads: &Heads) {
        let known = self.state.root_nonce.proved_secs;
        if known.is_some_and(|secs| heads.latest.time.saturating_sub(secs) < ROOTS_INTERVAL_SECS) {
            return;
        }
        // Where it fails, the next cycle tries again; what is known stays.
        let _ = self.root_nonce(heads).await;
    }

    /// Brings the final view up to date and returns what holds under these heads.
    async fn sync(&mut self, heads: &Heads) -> Result<Synced, Failure> {
        self.begin(heads).await?;
        loop {
            let since = self.receiver.since_secs(&self.state.receiving, heads.latest.time);
            let wanted = cycle::wanted_shards(heads.latest.time, self.state.look_back_secs, since);
            let shards: Vec<u64> = wanted.iter().copied().collect();
            let reading = self.ledger.read(&self.state.cursor, heads, &shards).await?;
            let has_new_final_entries = !reading.final_entries.is_empty();
            let final_block = cycle::block_ref(&reading.final_header);
            let (roots, root_nonce) = (&mut self.state.roots, &mut self.state.root_nonce);
            let note_roots = |placed: &PlacedEntry| {
                if placed.entry.actor.is_zero() {
                    root_nonce.seen(migration::in_chain(placed.at.block));
                    *roots = history::root_set(placed).or(roots.take());
                }
            };
            match history::advance(&mut self.state.replay, final_block, reading.final_entries, note_roots) {
                Ok(()) => {}
                Err(AdvanceError::Chain(error)) => return Err(error.into()),
                Err(AdvanceError::Replay(error)) => {
                    // Replay and cursor contradict each other, so neither can be relied on: read everything again.
                    self.state.cursor = countersign_chain::sync::Cursor::default();
                    self.state.replay = Replay::new(self.identity.realm);
                    self.state.left.clear();
                    self.state.roots = None;
                    // What they have withdrawn in the realm that is read again stays withdrawn.
                    if self.realm.pin.realm != self.identity.realm {
                        self.state.root_nonce = RootNonce::default();
                    }
                    self.state_is_complete = false;
                    return Err(Failure::of(Reason::ReplayFailed, &error));
                }
            }
            let latest_entries: Vec<PlacedEntry> =
                reading.latest_entries.values().flatten().map(|placed| self.state.replay.place(placed)).collect();
            self.dirty |= has_new_final_entries
                || reading.latest_slots != self.seen_latest
                || !reading.cursor.shards.keys().eq(self.state.cursor.shards.keys());
            let latest = self.in_history(cycle::block_ref(&reading.latest));
            self.state.cursor = reading.cursor;
            let is_history = !self.state.left.is_empty();
            let keep = |shard| {
                !cycle::is_dated(shard) || wanted.contains(&shard) || (is_history && cycle::is_revocations(shard))
            };
            self.state.cursor.shards.retain(|shard, _| keep(*shard));
            self.state.replay.retain_shards(keep);
            self.state_is_complete = true;
            self.prove_roots(heads).await;
            self.look_at_left(heads.latest.time).await;
            let effective = self.state.replay.effective(latest, &latest_entries);
            self.seen_latest = reading.latest_slots;
            self.state.known_latest = latest;
            let effective = match (effective, self.state.replay.migrate()) {
                (Ok(effective), _) => effective,
                (Err(ReplayError::Migrated { .. }), Some((migrate, _))) => return Ok(Synced::Moved(Box::new(migrate))),
                (Err(error), _) => return Err(replay_failure(&error)),
            };
            let look_back_secs = cycle::look_back_secs(&effective);
            let enough = look_back_secs <= self.state.look_back_secs;
            self.state.look_back_secs = look_back_secs;
            if enough {
                return Ok(Synced::Effective(Box::new(effective)));
            }
        }
    }

    /// The clock, refused when it is earlier than one that was seen.
    pub(crate) fn now(&self) -> Result<Clock, Failure> {
        let clock = (self.clocks)().map_err(|error| Failure::of(Reason::ClockUnreadable, &error))?;
        let highest = self.state.highest_wall_secs;
        if clock.unix_secs < highest {
            let message = format!("the clock says {}, it was {highest} before", clock.unix_secs);
            return Err(Failure::new(Reason::ClockBack, message));
        }
        Ok(clock)
    }

    fn save(&mut self) {
        let mut saved = self.state.save(&self.directory, &self.identity);
        if let Err(FileError::Io { source, .. }) = &saved
            && self.origins_give_way(source)
        {
            saved = self.state.save(&self.directory, &self.identity);
        }
        match saved {
            Ok(()) => self.dirty = false,
            // The chain still has everything; a snapshot without newer denials would be worse than a state without them.
            Err(error) => self.note(&Failure::of(Reason::StateIo, &error)),
        }
    }

    pub(crate) fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    fn succeeded(&mut self) {
        if self.status.failures > 0 {
            self.log.line(Level::Notice, &Line::event("recovered").field("after-failures", self.status.failures));
        }
        self.status.failures = 0;
        self.logged = None;
        self.status.last_success = (self.clocks)().ok().map(|clock| clock.unix_secs);
    }

    fn failed(&mut self, failure: &Failure) {
        self.status.failures = self.status.failures.saturating_add(1);
        let repeats = match self.logged {
            Some((reason, repeats)) if reason == failure.reason && repeats < QUIET_FAILURES => {
                repeats.saturating_add(1)
            }
            _ => {
                let line = Line::reason(failure.reason)
                    .field("failures", self.status.failures)
                    .field("message", &failure.message);
                self.log.line(Level::Error, &line);
                0
            }
        };
        self.logged = Some((failure.reason, repeats));
        self.remember(failure);
    }

    /// A failure that does not keep the cycle from succeeding.
    pub(crate) fn note(&mut self, failure: &Failure) {
        self.log.line(Level::Warning, &Line::reason(failure.reason).field("message", &failure.message));
        self.remember(failure);
    }

    /// The same, of something that each cycle meets again.
    fn note_once(&mut self, failure: &Failure) {
        let last = self.status.last_failure.as_ref();
        if last.is_none_or(|last| last.reason != failure.reason || last.message != failure.message) {
            self.note(failure);
        }
    }

    fn remember(&mut self, failure: &Failure) {
        let at = (self.clocks)().map_or(0, |clock| clock.unix_secs);
        let Failure { reason, message } = failure.clone();
        self.status.last_failure = Some(status::Failure { reason, message, at });
    }

    fn write_status(&mut self) {
        self.status.at = (self.clocks)().map_or(self.status.at, |clock| clock.unix_secs);
        self.status.deliveries = self.state.receiving.status();
        self.status.renewals = self.state.renewal_status();
        self.status.snapshot_files = in_place::sizes(&self.config.snapshot_dir());
        if let Err(error) = self.status.write(&self.directory) {
            let line = Line::reason(Reason::StatusIo).field("message", crate::log::chain(&error));
            self.log.line(Level::Warning, &line);
        }
    }
}

/// Makes the state directory where it is missing. Others must be able to pass through it to the snapshot, whatever the umask.
fn make_state_dir(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::Io { action: "create", path: path.to_owned(), source };
    match std::fs::create_dir(path) {
        Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

pub(crate) fn replay_failure(error: &ReplayError) -> Failure {
    let reason = match error {
        ReplayError::UpgradeNeeded { .. } => Reason::UpgradeNeeded,
        ReplayError::Migrated { .. } => Reason::Migrated,
        ReplayError::PredecessorNeeded { .. } => Reason::PredecessorNeeded,
        ReplayError::NotArrived { .. } => Reason::SuccessorNotArrived,
        _ => Reason::ReplayFailed,
    };
    Failure::of(reason, error)
}

/// The gid of the configured group; a process that is not root publishes for its own group.
pub(crate) fn access_group(config: &Config) -> Result<Option<Gid>, AgentError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    match Group::from_name(&config.group) {
        Ok(Some(group)) => Ok(Some(Gid(group.gid.as_raw()))),
        _ => Err(AgentError::Group(config.group.clone())),
    }
}

fn first_status(identity: &Identity, state: &State, now_secs: u64) -> Status {
    Status {
        format: status::FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        realm: state.replay.realm(),
        left: Vec::new(),
        host: identity.host,
        at: now_secs,
        latest: state.published.map(|published| in_chain(published.latest)),
        final_block: state.published.map(|published| in_chain(published.final_block)),
        published: state.published.as_ref().map(status_of),
        snapshot_files: None,
        last_success: None,
        last_failure: None,
        failures: 0,
        counts: BTreeMap::new(),
        deliveries: Vec::new(),
        renewals: Vec::new(),
    }
}
