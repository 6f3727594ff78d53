//! Looks after all sessions of a host: judges, warns, ends. Called once a second, and after each publication.
//!
//! What it remembers between two looks (whom it has warned, whom it is ending) is lost without harm when the agent is started again:
//! records and processes say the rest.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use countersign_certificate::{Serial, fingerprint_sha256, fingerprint_text};
use countersign_snapshot::{Clock, Snapshot, Trust};
use countersign_sshd::{ProcessName, Reason, Record, SessionEnd};

use crate::ending::Ending;
use crate::error::SessionsError;
use crate::journal::Journal;
use crate::judge::{Standing, standing};
use crate::members::Look;
use crate::process::{Seen, audit_session, own_scope, scan};
use crate::store::Store;
use crate::terminal::say;

/// How long before its end a session is told, seconds.
pub const WARNING_SECS: u64 = 60;

/// How often the processes that a closed connection left behind are looked for, seconds.
const LEFT_BEHIND_SECS: u64 = 15;

/// What a host wants.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where notes and records lie.
    pub runtime: PathBuf,
    /// The snapshot's directory.
    pub snapshot: PathBuf,
    /// Whose snapshot is believed.
    pub trust: Trust,
    /// Where control groups are mounted.
    pub control_groups: PathBuf,
    /// What the system's journal is read with; none: it is not.
    pub journal: Option<PathBuf>,
    /// The uid of the helper's user.
    pub helper: u32,
    /// Says what it would end, and ends nothing.
    pub dry_run: bool,
    /// Nobody logs in here by anything but the helper: what it granted last is what let a session in, without PAM too.
    pub only_helper: bool,
    /// How long a session has between being asked and being killed, seconds.
    pub grace_secs: u64,
    /// How long something must be missing that may come back by itself, seconds.
    pub patience_secs: u64,
}

impl Settings {
    /// The settings of a host whose snapshot is at `snapshot`, and whose helper runs as `helper`.
    #[must_use]
    pub fn new(snapshot: PathBuf, helper: u32) -> Self {
        Self {
            runtime: PathBuf::from(countersign_sshd::RUNTIME),
            snapshot,
            trust: Trust::ROOT,
            control_groups: PathBuf::from("/sys/fs/cgroup"),
            journal: Journal::program(),
            helper,
            dry_run: false,
            only_helper: false,
            grace_secs: 3,
            patience_secs: 60,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A session without PAM's word is looked after from now on.
    Adopted,
    /// Its terminals were told that it will end.
    Warned,
    /// It is asked to end.
    Ending,
    /// Nothing is left of it.
    Ended,
    /// It would be ended, were this not a dry run.
    WouldEnd,
    /// Its access is over, and it cannot be ended for certain.
    Left,
}

impl EventKind {
    /// Its word in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Adopted => "session-adopted",
            Self::Warned => "session-warned",
            Self::Ending => "session-ending",
            Self::Ended => "session-ended",
            Self::WouldEnd => "session-would-end",
            Self::Left => "session-left",
        }
    }
}

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// Its sshd process.
    pub process: ProcessName,
    /// Its login.
    pub login: String,
    /// The fingerprint of what let it in: of the plain key, for a certificate of the one it certifies.
    pub key: String,
    /// The certificate's serial.
    pub serial: Option<Serial>,
    /// Why.
    pub reason: Option<Reason>,
    /// In how many seconds; or a message.
    pub detail: Option<String>,
}

impl Event {
    pub(crate) fn new(kind: EventKind, record: &Record, reason: Option<Reason>, detail: Option<String>) -> Self {
        let certificate = countersign_certificate::Certificate::parse(&record.note.blob).ok();
        let key = certificate.as_ref().map_or(&record.note.blob, |certificate| &certificate.public_key);
        Self {
            kind,
            process: record.note.process,
            login: record.note.login.clone(),
            key: fingerprint_text(&fingerprint_sha256(key)),
            serial: certificate.as_ref().map(|certificate| certificate.serial),
            reason,
            detail,
        }
    }
}

/// What is remembered of a session.
#[derive(Debug, Default)]
struct Remembered {
    /// Generation and time of the last verdict that held, and when it must be given again.
    judged: Option<(u64, u64)>,
    /// What is against it, and since when by the boot clock.
    against: Option<(Reason, u64)>,
    /// The end that it was warned of.
    warned: Option<u64>,
    /// What was told once.
    told: Option<Reason>,
    ending: Option<(Reason, Ending)>,
    looked_secs: u64,
}

/// Looks after a host's sessions.
#[derive(Debug)]
pub struct Keeper {
    pub(crate) settings: Settings,
    pub(crate) journal: Journal,
    remembered: BTreeMap<ProcessName, Remembered>,
}

impl Keeper {
    /// Begins without any memory.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, journal: Journal::default(), remembered: BTreeMap::new() }
    }

    /// Whether something is being ended: then the next look should come soon.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.remembered.values().any(|session| session.ending.is_some())
    }

    /// Looks once.
    ///
    /// # Errors
    /// The folders cannot be used; nothing was looked at then.
    pub fn look(&mut self, now: &Clock) -> Result<Vec<Event>, SessionsError> {
        let store = Store::open(&self.settings.runtime, self.settings.helper, now.boot_id)?;
        let runtime = self.settings.runtime.clone();
        let failed = |source| SessionsError::Folder { path: runtime.clone(), source };
        store.tidy();
        let mut events = Vec::new();
        self.attribute(&store, store.notes().map_err(failed)?, now, &mut events);
        let mut records = store.records().map_err(failed)?;
        for record in &mut records {
            if complete(record, &self.settings.control_groups) {
                // What was seen is only needed after the session's sshd has gone; it is seen again with the next look.
                let _ = store.write(record);
            }
        }
        self.remembered.retain(|process, _| records.iter().any(|record| record.note.process == *process));
        let snapshot = Snapshot::open(&self.settings.snapshot, self.settings.trust).ok();
        let processes = OnceCell::new();
        for record in &records {
            let scene = Scene { records: &records, processes: &processes, snapshot: snapshot.as_ref(), now };
            let memory = self.remembered.entry(record.note.process).or_default();
            if look_at(record, memory, &scene, &self.settings, &mut events) {
                store.remove(record.note.process);
            }
        }
        Ok(events)
    }
}

/// What one look sees.
struct Scene<'a> {
    records: &'a [Record],
    /// Seen only when they are needed.
    processes: &'a OnceCell<BTreeMap<u32, Seen>>,
    snapshot: Option<&'a Snapshot>,
    now: &'a Clock,
}

impl Scene<'_> {
    fn look<'a>(&'a self, settings: &'a Settings) -> Look<'a> {
        let processes = self.processes.get_or_init(scan);
        Look { processes, records: self.records, control_groups: &settings.control_groups }
    }
}

/// Looks at one session; whether its record has done its work.
fn look_at(
    record: &Record,
    memory: &mut Remembered,
    scene: &Scene<'_>,
    settings: &Settings,
    events: &mut Vec<Event>,
) -> bool {
    let now = scene.now;
    if let Some((reason, ending)) = &mut memory.ending {
        let reason = *reason;
        return match ending.go_on(record, &scene.look(settings), now.boottime_secs, settings.grace_secs) {
            Ok(true) => {
                events.push(Event::new(EventKind::Ended, record, Some(reason), None));
                true
            }
            Ok(false) => false,
            Err(error) => leave(record, memory, reason, &error, events),
        };
    }
    if !record.note.process.is_alive() {
        // Something may be left of it, and must go when its access does; if nothing is, its record may.
        let is_due =
            memory.looked_secs == 0 || now.boottime_secs >= memory.looked_secs.saturating_add(LEFT_BEHIND_SECS);
        if is_due {
            memory.looked_secs = now.boottime_secs;
            if scene.look(settings).members(record, &BTreeSet::new()).is_empty() {
                return true;
            }
        }
    }
    let Some(reason) = judge(record, memory, scene, settings, events) else { return false };
    if settings.dry_run {
        if memory.told.replace(reason) != Some(reason) {
            events.push(Event::new(EventKind::WouldEnd, record, Some(reason), None));
        }
        return false;
    }
    let words = format!("\r\ncountersign: your access has ended ({reason})\r\n");
    match Ending::begin(record, &scene.look(settings), &words, now.boottime_secs) {
        Ok(ending) => {
            events.push(Event::new(EventKind::Ending, record, Some(reason), None));
            memory.ending = Some((reason, ending));
            false
        }
        Err(error) => leave(record, memory, reason, &error, events),
    }
}

fn leave(
    record: &Record,
    memory: &mut Remembered,
    reason: Reason,
    error: &SessionsError,
    events: &mut Vec<Event>,
) -> bool {
    if memory.told.replace(reason) != Some(reason) {
        events.push(Event::new(EventKind::Left, record, Some(reason), Some(error.to_string())));
    }
    false
}

/// Judges a session where something may have changed, and warns it; why it is to end now, if it is.
fn judge(
    record: &Record,
    memory: &mut Remembered,
    scene: &Scene<'_>,
    settings: &Settings,
    events: &mut Vec<Event>,
) -> Option<Reason> {
    let now = scene.now;
    let generation = scene.snapshot.map_or(0, |snapshot| snapshot.manifest().generation);
    let clock = crate::judge::clock_for(record, now);
    if memory.judged.is_some_and(|(judged, due)| judged == generation && clock.unix_secs < due) {
        return None;
    }
    memory.judged = None;
    let standing = standing(record, scene.snapshot, now);
    let Some(refusal) = &standing.against else {
        memory.against = None;
        let until = standing.until_secs.unwrap_or(u64::MAX);
        let due = if until <= clock.unix_secs.saturating_add(WARNING_SECS) {
            warn(record, memory, scene, settings, until, events);
            until
        } else {
            until.saturating_sub(WARNING_SECS)
        };
        memory.judged = Some((generation, due));
        return None;
    };
    let reason = refusal.reason;
    let since = match memory.against {
        Some((_, since)) => since,
        None => now.boottime_secs,
    };
    memory.against = Some((reason, since));
    match reason.session_end() {
        SessionEnd::Never => None,
        SessionEnd::AtOnce => Some(reason),
        SessionEnd::IfItStays => (now.boottime_secs >= since.saturating_add(settings.patience_secs)).then_some(reason),
    }
}

/// Says on its terminals that the session ends at `until`, once, if it will.
fn warn(
    record: &Record,
    memory: &mut Remembered,
    scene: &Scene<'_>,
    settings: &Settings,
    until: u64,
    events: &mut Vec<Event>,
) {
    if memory.warned == Some(until) {
        return;
    }
    let left = until.saturating_sub(crate::judge::clock_for(record, scene.now).unix_secs);
    let then = Clock {
        unix_secs: until,
        boottime_secs: scene.now.boottime_secs.saturating_add(left),
        boot_id: scene.now.boot_id,
    };
    // Another interval of a grant's hours may begin there.
    let Standing { against: Some(refusal), .. } = standing(record, scene.snapshot, &then) else { return };
    memory.warned = Some(until);
    let terminals = if settings.dry_run {
        0
    } else {
        let words = format!("\r\ncountersign: your access ends in {left} s ({})\r\n", refusal.reason);
        say(&scene.look(settings).members(record, &BTreeSet::new()), record.note.uid.0, &words)
    };
    let detail = format!("in {left} s, {terminals} terminals");
    events.push(Event::new(EventKind::Warned, record, Some(refusal.reason), Some(detail)));
}

/// Adds what PAM has done to the session's sshd since the record was made; whether there was anything.
fn complete(record: &mut Record, control_groups: &Path) -> bool {
    let process = record.note.process;
    if (record.audit.is_some() && record.scope.is_some()) || !process.is_alive() {
        return false;
    }
    let before = (record.audit, record.scope.is_some());
    if record.audit.is_none() {
        let own = |audit: &u32| *audit != u32::MAX && *audit != record.audit_before;
        record.audit = audit_session(process.pid).filter(own);
    }
    if record.scope.is_none() {
        record.scope = own_scope(control_groups, process);
    }
    (record.audit, record.scope.is_some()) != before && process.is_alive()
}
