//! The service: answers requests on the ledger. Requests that arrive within the window share one batch; each certificate is sealed to
//! the ledger key that asked. There is no listening port: the chain is the inbox, the block store the outbox.
//!
//! A request is answered once. One that is refused is tried again while it lives, since an approval or a grant may still come; what
//! changes is logged. Every failure keeps the service running.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_chain::endpoints::Limits;
use countersign_chain::keys::{ActorKey, KeySource, PASSWORD_VARIABLE};
use countersign_chain::realm_file::RealmFile;
use countersign_chain::spool::Spill;
use countersign_chain::sync::{Cursor, Ledger};
use countersign_delivery::{BlockCid, SecretKey, Stores};
use countersign_registry::entries::Kind;
use countersign_registry::head::Meta;
use countersign_registry::shard::{CLASS_BATCHES, CLASS_MEMBERS, class_of};
use countersign_registry::{Address, Effective, Id};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::answered::{Answered, AnsweredError};
use crate::ca_key::CaKey;
use crate::config::Config;
use crate::deliver::{self, Parcel, Swept};
use crate::error::IssueError;
use crate::mailing::{self, PREKEY_DAYS, PrekeyPolicy};
use crate::notify;
use crate::outbox::{Due, Outbox};
use crate::policy::Order;
use crate::rotate::book::BookError;
use crate::rotate::setting::HostCaSetting;
use crate::rotate::{Hands, RotationStatus, Rotations};
use crate::service::{Issuer, Window};
use crate::ssh_agent::SshAgent;
use crate::turns::Turns;
use crate::view::{View, wanted_shards};

/// How many certificates go into one batch at most: a bound on how much work one transaction stands for.
const MAX_BATCH: usize = 1_024;
/// How long a person may take to touch the CA's key.
const TOUCH: Duration = Duration::from_secs(60);

/// Why the service cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// What the configuration names.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// Issuing, keys, chain.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The notes.
    #[error(transparent)]
    Answered(#[from] AnsweredError),
    /// A watchdog's notes.
    #[error(transparent)]
    Sent(#[from] crate::watch::sent::SentError),
    /// The books of rotations.
    #[error(transparent)]
    Rotation(#[from] BookError),
    /// A file or directory.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A password that others can read.
    #[error("password file {path}: mode {mode:04o} lets others read it; expected 0600")]
    Mode {
        /// Which.
        path: std::path::PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The CA of the configuration.
    #[error("CA `{name}`: {problem}")]
    Ca {
        /// As configured.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl StartError {
    /// What the reader can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Issue(error) => error.hint(),
            Self::Mode { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Self::Ca { .. } => Some("list the realm's CAs with `countersign ca list`".to_owned()),
            Self::Answered(_) | Self::Sent(_) | Self::Rotation(_) | Self::File { .. } => None,
        }
    }
}

/// The format of `status.json`.
const STATUS_FORMAT: u32 = 1;

/// What the service last did; written to `status.json` in the state directory (`docs/spec/issuer-state.md`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// 1. Fields may be added; none is renamed or changes its meaning.
    pub format: u32,
    /// When this was written, Unix seconds.
    pub time: u64,
    /// Latest block seen.
    pub latest_block: u64,
    /// The ledger key that logs.
    pub issuer: String,
    /// The CA.
    pub ca: String,
    /// Certificates issued since the start.
    pub issued: u64,
    /// Requests that live and are not answered, with the reason code of the last refusal.
    pub pending: BTreeMap<String, String>,
    /// Deliveries that are not acknowledged yet.
    pub undelivered: usize,
    /// What is made anew before it ends, by payload name.
    #[serde(default)]
    pub rotations: BTreeMap<String, RotationStatus>,
    /// The last failure, if it still stands.
    pub error: Option<String>,
}

/// What there is to do.
enum Work {
    /// Nothing.
    None,
    /// Something, but nobody has asked since the last look.
    Own,
    /// Somebody asked.
    Asked,
}

/// The running service.
pub struct Service {
    config: Config,
    realm: RealmFile,
    issuer: Issuer,
    sealing: SecretKey,
    stores: Stores,
    outbox: Outbox,
    answered: Answered,
    turns: Turns,
    ledger: Ledger,
    cursor: Cursor,
    /// The last look was not followed through: what it saw as new must be looked at again.
    unfinished: bool,
    /// Ended batches whose sealed leaves this process has let go of.
    let_go: BTreeSet<Id>,
    status: Status,
    /// What stores said that failed, as long as it stands.
    complaints: BTreeMap<&'static str, String>,
    rotations: Rotations,
}

impl Service {
    /// Opens keys, stores and the ledger.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn open(config: Config) -> Result<Self, StartError> {
        config.check_files()?;
        let realm = RealmFile::load(&config.realm).map_err(IssueError::from)?;
        let actor = open_actor(&config.actor, &config.actor_password_file)?;
        let sealing = SecretKey::load_file(&config.delivery_key).map_err(IssueError::from)?;
        make_state(&config.state)?;
        let stores = config.stores().map_err(IssueError::from)?;
        let outbox = Outbox::open(&config.state.join("outbox")).map_err(IssueError::from)?;
        let answered = Answered::open(&config.state.join("answered"))?;
        let view = View::read_with(&realm, 1, Spill::into_directory(&config.state)).await.map_err(IssueError::from)?;
        view.check_not_left().map_err(IssueError::from)?;
        let (ca, key) = open_ca(&CaNames::of(&config), &view.effective)?;
        let mut host_cas = BTreeMap::new();
        for rotation in &config.rotate {
            if let Some(ca) = &rotation.host_ca {
                host_cas.insert(rotation.name.as_str().to_owned(), open_ca(&CaNames::of_hosts(ca), &view.effective)?);
            }
        }
        let rotations = Rotations::open(config.rotate.clone(), host_cas, &config.state)?;
        let (issuer, format) = (actor.address().to_string(), STATUS_FORMAT);
        let status = Status { format, issuer, ca: ca.to_string(), ..Status::default() };
        let mut ledger = Ledger::new(&realm, Limits::default()).map_err(IssueError::from)?;
        ledger.spill_into(Spill::into_directory(&config.state));
        let window = Window { key: sealing.clone(), stores: stores.clone() };
        let issuer = Issuer::new(realm.clone(), actor, (ca, key), config.patience.duration(), Some(window))?
            .spill_into(Spill::into_directory(&config.state));
        let cursor = Cursor::default();
        let unfinished = true;
        let (turns, let_go) = (Turns::default(), BTreeSet::new());
        Ok(Self {
            config,
            realm,
            issuer,
            sealing,
            stores,
            outbox,
            answered,
            turns,
            ledger,
            cursor,
            unfinished,
            let_go,
            status,
            complaints: BTreeMap::new(),
            rotations,
        })
    }

    /// Works until `stop` is ready. `say` takes one line for the log at a time.
    pub async fn run(mut self, stop: impl Future<Output = ()>, mut say: impl FnMut(&str)) {
        let poll = Duration::from_secs(self.realm.profile.poll_secs.max(1));
        let stop = std::pin::pin!(stop);
        let mut stop = stop;
        let mut first = true;
        loop {
            let step = async {
                self.look(&mut say).await;
                let pending = self.status.pending.len();
                notify::cycle(first, &format!("{} issued, {pending} pending", self.status.issued));
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

    /// One look at the ledger, what follows from it, and the status that tells it. `say` as for [`Self::run`].
    pub async fn look(&mut self, say: &mut impl FnMut(&str)) {
        let done = self.step(say).await;
        let error = done.err().map(|error| error.to_string());
        if error.is_some() && error != self.status.error {
            say(&format!("event=failed message={:?}", error.clone().unwrap_or_default()));
        }
        self.status.error = error;
        self.write_status(say);
    }

    /// What it last did.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// One look at the ledger, and what follows from it.
    ///
    /// # Errors
    /// [`IssueError`] for what concerns more than one request.
    async fn step(&mut self, say: &mut impl FnMut(&str)) -> Result<(), IssueError> {
        match self.work().await? {
            Work::None => return Ok(()),
            Work::Own => {}
            // Others may be asking at this very moment: one transaction for all of them.
            Work::Asked => tokio::time::sleep(self.config.window.duration()).await,
        }
        self.unfinished = true;
        let view = View::read_with(&self.realm, self.days_back(), Spill::into_directory(&self.config.state)).await?;
        self.status.latest_block = view.heads.latest.number;
        view.check_not_left()?;
        // A clock that is behind the ledger would make certificates that have ended when they come.
        let now = unix_secs().max(view.effective.latest_block.time);
        let orders = self.open_requests(&view.effective, now);
        let answered = if orders.is_empty() { Ok(()) } else { self.answer(&view, orders, now, say).await };
        // A request that cannot be answered must not keep a secret from being replaced.
        self.rotate(&view, say).await;
        answered?;
        self.sweep(&view, now, say).await?;
        self.unfinished = false;
        Ok(())
    }

    async fn rotate(&mut self, view: &View, say: &mut impl FnMut(&str)) {
        let hands = Hands {
            view,
            issuer: &self.issuer,
            sealing: &self.sealing,
            stores: &self.stores,
            outbox: &self.outbox,
            prekeys: self.config.prekeys,
            holds: self.realm.profile.stuck_secs.saturating_mul(10),
        };
        self.rotations.tend(hands, say).await;
        self.status.rotations.clone_from(self.rotations.status());
    }

    /// Whether anything happened that may concern this service, or something is unfinished.
    async fn work(&mut self) -> Result<Work, IssueError> {
        let heads = self.ledger.heads().await?;
        let shards = wanted_shards(heads.latest.time, countersign_registry::shard::DAY_SECS);
        let update = self.ledger.update(&self.cursor, &heads, &shards).await?;
        let new = update.final_entries.iter().chain(&update.latest_entries);
        let concerns = |shard: u64| matches!(class_of(shard), CLASS_BATCHES | CLASS_MEMBERS);
        let mut news = false;
        let mut asked = false;
        for entry in new.filter(|(shard, _)| concerns(**shard)).flat_map(|(_, entries)| entries) {
            news = true;
            asked |= Meta::unpack(entry.entry.meta).is_some_and(|meta| meta.kind == Kind::REQUEST);
        }
        self.status.latest_block = heads.latest.number;
        self.cursor = update.cursor;
        let rotates = self.rotations.has_work(heads.latest.time);
        let more = news || rotates || self.unfinished || !self.status.pending.is_empty() || self.status.undelivered > 0;
        Ok(match (asked, more) {
            (true, _) => Work::Asked,
            (false, true) => Work::Own,
            (false, false) => Work::None,
        })
    }

    fn days_back(&self) -> u64 {
        let longest = self.config.request_lifetime.secs().max(self.config.delivery_timeout.secs());
        let days = longest.div_ceil(86_400).saturating_add(1);
        // Who publishes prekeys may have done so as long ago as they live.
        if self.config.prekeys == PrekeyPolicy::Off { days } else { days.max(PREKEY_DAYS) }
    }

    fn open_requests(&mut self, effective: &Effective, now: u64) -> Vec<Order> {
        let lifetime = self.config.request_lifetime.secs();
        let lives = |time: u64| now.saturating_sub(time) <= lifetime;
        let open: Vec<_> = effective
            .requests
            .iter()
            .filter(|(_, request)| lives(request.at.time))
            // Not to know whether it was answered is not to answer it.
            .filter(|(id, _)| matches!(self.answered.contains(**id), Ok(false)))
            .map(|(id, request)| (*id, request))
            .collect();
        let known: Vec<String> = open.iter().map(|(id, _)| id.to_string()).collect();
        self.status.pending.retain(|id, _| known.contains(id));
        self.turns
            .take(open, now, MAX_BATCH)
            .into_iter()
            .filter_map(|(id, request)| {
                Some(Order {
                    user: request.user,
                    host: request.host,
                    login: request.login.clone(),
                    ttl: NonZeroU64::new(request.ttl)?,
                    public_key: request.public_key.to_vec(),
                    request: Some(id),
                })
            })
            .collect()
    }

    async fn answer(
        &mut self,
        view: &View,
        orders: Vec<Order>,
        now: u64,
        say: &mut impl FnMut(&str),
    ) -> Result<(), IssueError> {
        let mut reachable = Vec::new();
        for order in orders {
            let Some(request) = order.request else { continue };
            // Asked first: nothing is logged for somebody to whom nothing can be sealed.
            match self.recipient(view, request) {
                Ok(_) => reachable.push(order),
                Err(error) => self.refused(request, &error, say),
            }
        }
        let requests: Vec<Id> = reachable.iter().filter_map(|order| order.request).collect();
        let orders = reachable;
        let results = match self.issuer.issue(view, orders, now, &mut |_| {}).await {
            Ok(results) => results,
            Err(error) => {
                // A batch may be logged already, in vain.
                let late = matches!(error, IssueError::NotCountersigned { .. });
                if late || matches!(error, IssueError::CaKey(_) | IssueError::Agent(_) | IssueError::NotLogged { .. }) {
                    requests.iter().for_each(|request| self.turns.failed(*request, now));
                }
                if late {
                    requests.into_iter().for_each(|request| self.refused(request, &error, say));
                }
                return Err(error);
            }
        };
        for (request, result) in requests.into_iter().zip(results) {
            let delivered = match result {
                Ok(issued) => match issued.line() {
                    Ok(line) => self.deliver(view, request, &line, now, say).await.map(|id| (id, issued)),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            match delivered {
                Ok((delivery, issued)) => {
                    self.status.issued = self.status.issued.saturating_add(1);
                    self.status.pending.remove(&request.to_string());
                    say(&format!(
                        "event=issued request={request} serial={} batch={} delivery={delivery}",
                        issued.prepared.serial, issued.batch
                    ));
                }
                Err(error) => {
                    if matches!(error, IssueError::BatchFull) {
                        // Its turn comes with the next look.
                        self.status.pending.insert(request.to_string(), "batch-full".to_owned());
                        continue;
                    }
                    if !matches!(error, IssueError::Refused { .. }) {
                        self.turns.failed(request, now);
                    }
                    self.refused(request, &error, say);
                }
            }
        }
        Ok(())
    }

    /// Says once why a request is not answered.
    fn refused(&mut self, request: Id, error: &IssueError, say: &mut impl FnMut(&str)) {
        let reason = error.reason().map_or_else(|| "failed".to_owned(), |reason| reason.to_string());
        let before = self.status.pending.insert(request.to_string(), reason.clone());
        if before.as_ref() != Some(&reason) {
            say(&format!("event=refused request={request} reason={reason} message={:?}", error.to_string()));
        }
    }

    /// The ledger key that asked, if something can be sealed to it.
    fn recipient(&self, view: &View, request: Id) -> Result<Address, IssueError> {
        let asked = view.effective.requests.get(&request).map(|request| request.actor);
        let recipient = asked.ok_or_else(|| IssueError::Recipient(format!("request {request} is gone")))?;
        deliver::check_recipient(&view.effective, recipient)?;
        Ok(recipient)
    }

    /// Seals a certificate to the ledger key that asked, and logs it.
    async fn deliver(
        &mut self,
        view: &View,
        request: Id,
        line: &str,
        now: u64,
        say: &mut impl FnMut(&str),
    ) -> Result<Id, IssueError> {
        let recipient = self.recipient(view, request)?;
        let payload = deliver::certificate_payload(&self.config.payload, line)?;
        let (sender, prekeys) = (self.issuer.address(), self.config.prekeys);
        let parcel = Parcel { sender, sender_key: &self.sealing, recipient, payload, prekeys };
        let posted = deliver::post(&view.effective, parcel, &self.stores, &self.outbox, now).await?;
        self.complain("put", posted.failures.first().cloned(), say);
        self.issuer.log(view, &posted.entry, &mut |_| {}).await?;
        self.answered.add(request).map_err(|error| IssueError::Recipient(error.to_string()))?;
        self.status.undelivered = self.status.undelivered.saturating_add(1);
        Ok(posted.id)
    }

    /// Lets go of the sealed leaves of this issuer's batches that have ended: nobody has a use for them any more.
    async fn let_go(&mut self, effective: &Effective) -> Option<String> {
        let own = self.issuer.address();
        let time = effective.latest_block.time;
        let mut failure = None;
        self.let_go.retain(|id| effective.batches.contains_key(id));
        for (id, batch) in &effective.batches {
            let ended = batch.issuer == own && batch.not_after < time && !batch.leaves_cid.is_empty();
            if ended && !self.let_go.contains(id) {
                let unpinned = match BlockCid::from_bytes(&batch.leaves_cid) {
                    Ok(cid) => self.stores.unpin(&cid).await.map(|_| ()),
                    Err(_) => Ok(()),
                };
                match unpinned {
                    Ok(()) => _ = self.let_go.insert(*id),
                    Err(error) => failure = Some(error.to_string()),
                }
            }
        }
        failure
    }

    async fn sweep(&mut self, view: &View, now: u64, say: &mut impl FnMut(&str)) -> Result<(), IssueError> {
        let mut failure = self.let_go(&view.effective).await;
        let timeout = self.config.delivery_timeout.secs();
        let swept = deliver::sweep(&view.effective, &self.stores, &self.outbox, now, timeout).await?;
        let due = swept.iter().filter(|one| matches!(one.due, Due::Acknowledged | Due::TimedOut));
        for one in due.filter(|one| one.failure.is_none()) {
            let how = if one.due == Due::Acknowledged { "acknowledged" } else { "timed-out" };
            say(&format!("event=unpinned delivery={} reason={how}", one.note.delivery));
        }
        let kept = |one: &&Swept| one.failure.is_some() || matches!(one.due, Due::Wait | Due::OtherDigest);
        self.status.undelivered = swept.iter().filter(kept).count();
        failure = failure.or_else(|| swept.into_iter().find_map(|one| one.failure));
        let books = mailing::sweep(&view.effective, &self.stores, &self.outbox, now, timeout).await?;
        for one in books {
            match one.due {
                _ if one.failure.is_some() => failure = failure.or(one.failure),
                Due::Acknowledged => say(&format!("event=unpinned delivery={} reason=acknowledged", one.id)),
                Due::TimedOut => say(&format!("event=unpinned delivery={} reason=timed-out", one.id)),
                Due::Wait | Due::OtherDigest => {
                    self.status.undelivered = self.status.undelivered.saturating_add(1);
                }
            }
        }
        self.complain("unpin", failure, say);
        let requests = &view.effective.requests;
        let forgotten = self.answered.retain(|id| requests.contains_key(&id));
        forgotten.map_err(|error| IssueError::Recipient(error.to_string()))
    }

    /// Tells of trouble with stores once, not with every look.
    fn complain(&mut self, what: &'static str, failure: Option<String>, say: &mut impl FnMut(&str)) {
        let before = match &failure {
            Some(message) => self.complaints.insert(what, message.clone()),
            None => self.complaints.remove(what),
        };
        if let Some(message) = failure.filter(|_| before.is_none()) {
            say(&format!("event=store-failed action={what} message={message:?}"));
        }
    }

    fn write_status(&mut self, say: &mut impl FnMut(&str)) {
        self.status.time = unix_secs();
        if let Err(error) = write_json(&self.config.state, &self.status) {
            say(&format!("event=status-not-written message={:?}", error.to_string()));
        }
    }
}

/// Replaces `status.json` in a state directory.
pub(crate) fn write_json(state: &Path, status: &impl Serialize) -> std::io::Result<()> {
    let text = serde_json::to_vec_pretty(status).map_err(std::io::Error::other)?;
    let mut file = tempfile::NamedTempFile::new_in(state)?;
    std::io::Write::write_all(&mut file, &text)?;
    file.persist(state.join("status.json")).map_err(|error| error.error)?;
    Ok(())
}

/// Reads `status.json` in a state directory.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(state: &Path) -> Result<T, StartError> {
    let path = state.join("status.json");
    let failed = |source| StartError::File { path: path.clone(), source };
    let text = std::fs::read(&path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}

/// Reads the status that a running service last wrote.
///
/// # Errors
/// [`StartError::File`].
pub fn read_status(config: &Config) -> Result<Status, StartError> {
    read_json(&config.state)
}

/// What the configuration calls a CA and its key.
struct CaNames<'a> {
    name: &'a str,
    key: Option<&'a Path>,
    agent: Option<&'a Path>,
    password_file: Option<&'a Path>,
}

impl<'a> CaNames<'a> {
    fn of(config: &'a Config) -> Self {
        let (key, agent) = (config.ca_key.as_deref(), config.ca_agent.as_deref());
        Self { name: &config.ca, key, agent, password_file: config.ca_password_file.as_deref() }
    }

    fn of_hosts(ca: &'a HostCaSetting) -> Self {
        let (key, agent) = (ca.ca_key.as_deref(), ca.ca_agent.as_deref());
        Self { name: &ca.ca, key, agent, password_file: ca.ca_password_file.as_deref() }
    }
}

fn open_ca(config: &CaNames<'_>, effective: &Effective) -> Result<(Id, CaKey), StartError> {
    let refuse = |problem| StartError::Ca { name: config.name.to_owned(), problem };
    let by_id = config.name.parse::<Id>().ok().filter(|id| effective.cas.contains_key(id));
    let mut named = effective.cas.iter().filter(|(_, ca)| ca.name == config.name).map(|(id, _)| *id);
    let id = match (by_id, named.next(), named.next()) {
        (Some(id), ..) | (None, Some(id), None) => id,
        (None, Some(_), Some(_)) => return Err(refuse("several CAs have this name; expected an id")),
        (None, None, _) => return Err(refuse("not on the ledger of this realm (new CAs count once they are final)")),
    };
    let record = effective.cas.get(&id).ok_or_else(|| refuse("not on the ledger of this realm"))?;
    let key = match (config.key, config.agent) {
        (Some(path), _) => {
            let password = || match config.password_file {
                Some(file) => first_line(file),
                None => Err(refuse("its key file is encrypted; expected ca-password-file")),
            };
            CaKey::from_file(path, password)?
        }
        (None, Some(socket)) => {
            CaKey::from_agent(SshAgent::new(socket, TOUCH), &record.public_key).map_err(IssueError::from)?
        }
        (None, None) => return Err(refuse("expected ca-key or ca-agent")),
    };
    key.expect(&record.public_key).map_err(IssueError::from)?;
    Ok((id, key))
}

impl From<crate::ca_key::CaKeyError> for StartError {
    fn from(error: crate::ca_key::CaKeyError) -> Self {
        Self::Issue(error.into())
    }
}

/// A service's ledger key; its password comes from a file.
pub(crate) fn open_actor(keystore: &Path, password_file: &Path) -> Result<ActorKey, StartError> {
    let password = first_line(password_file)?;
    let environment = |name: &str| (name == PASSWORD_VARIABLE).then(|| password.as_str().into());
    let no_prompt = |_: &Path| Err(std::io::Error::other("a service has nobody to ask"));
    let actor = ActorKey::load(&KeySource::File(keystore.to_owned()), environment, no_prompt);
    Ok(actor.map_err(IssueError::from)?)
}

/// Makes a service's state directory where it is missing.
pub(crate) fn make_state(path: &Path) -> Result<(), StartError> {
    match std::fs::create_dir(path) {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StartError::File { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn first_line(path: &Path) -> Result<Zeroizing<String>, StartError> {
    let failed = |source| StartError::File { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    // Of the opened file, not of the name. A pipe from a service manager has no mode that means anything.
    let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o7777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(StartError::Mode { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    std::io::Read::read_to_string(&mut file, &mut text).map_err(failed)?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

pub(crate) fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_status_has_the_fields_that_its_page_lists() {
        let page = include_str!("../../docs/spec/issuer-state.md");
        let listed: Vec<&str> = page
            .split("## `status.json`")
            .nth(1)
            .unwrap()
            .split("\n## ")
            .next()
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let status = serde_json::to_value(Status::default()).unwrap();
        let mut fields: Vec<&str> = status.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, fields);
    }

    #[test]
    fn a_password_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "secret\nnot this\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(first_line(&path).unwrap().as_str(), "secret");
        for mode in [0o640, 0o604, 0o620, 0o644] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let expected =
                format!("password file {}: mode {mode:04o} lets others read it; expected 0600", path.display());
            assert_eq!(first_line(&path).unwrap_err().to_string(), expected);
        }
    }
}
