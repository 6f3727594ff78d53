//! Looks after all sessions of a host: judges, warns, ends. Called once a second, and after each publication.
//!
//! What it remembers between two looks (whom it has warned, whom it is ending) is lost without harm when the agent is started again:
//! records and processes say the rest.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use countersign_certificate::{Serial, fingerprint_sha256, fingerprint_text};
use countersign_snapshot::{Clock, Snapshot, Trust};
use countersign_sshd::{Accepted, Note, ProcessName, Reason, Record, SessionEnd};

use crate::ending::Ending;
use crate::error::SessionsError;
use crate::journal::{Journal, Said};
use crate::judge::{Standing, standing};
use crate::members::Look;
use crate::process::{Handle, Seen, audit_session, is_sshd, own_scope, scan};
use crate::socket::connection;
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
    fn new(kind: EventKind, record: &Record, reason: Option<Reason>, detail: Option<String>) -> Self {
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
    settings: Settings,
    journal: Journal,
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

    /// Makes records of notes where PAM makes none: what the journal says, else what can have been nothing else.
    fn attribute(&mut self, store: &Store, notes: Vec<Note>, now: &Clock, events: &mut Vec<Event>) {
        if notes.is_empty() {
            return;
        }
        let processes = scan();
        // Root's sessions have no process of another user: only sshd itself can say that they are open.
        let may_be_open = notes.into_iter().filter(|note| is_open(note, &processes) || is_roots(note)).collect();
        self.settle(store, may_be_open, now, events);
    }

    /// The same of notes whose sessions may be open.
    fn settle(&mut self, store: &Store, notes: Vec<Note>, now: &Clock, events: &mut Vec<Event>) {
        let said = match &self.settings.journal {
            Some(program) => self.journal.ask(program, &notes.iter().collect::<Vec<_>>(), now.boottime_secs),
            None => BTreeMap::new(),
        };
        for note in notes {
            // What was said is about the note that was asked about. Meanwhile something else may have been granted to that process.
            if store.note(note.process).as_ref() != Some(&note) {
                continue;
            }
            let accepted = match said.get(&note.process) {
                Some(Said::This) => Accepted::Journal,
                Some(Said::Another) => {
                    store.remove_note(note.process);
                    continue;
                }
                Some(Said::Nothing) | None => {
                    let is_certain = self.settings.only_helper || (note.alone && note.asked >= 2);
                    if !is_certain || is_roots(&note) {
                        continue;
                    }
                    Accepted::Alone
                }
            };
            let record = adopted(note, accepted);
            if store.write(&record).is_ok() {
                store.remove_note(record.note.process);
                events.push(Event::new(EventKind::Adopted, &record, None, Some(accepted.name().to_owned())));
            }
        }
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

/// A session of which PAM said nothing.
fn adopted(note: Note, accepted: Accepted) -> Record {
    let connection = connection(note.process.pid);
    let audit_before = audit_session(note.process.pid).unwrap_or(u32::MAX);
    Record { note, accepted, connection, audit_before, audit: None, scope: None }
}

/// Whether it is a live sshd's about a login as root.
fn is_roots(note: &Note) -> bool {
    note.uid.0 == 0 && Handle::open(note.process).is_ok_and(|handle| handle.is_some_and(|handle| handle.is_monitor()))
}

/// Whether the login of `note` has succeeded: sshd has a process of the login's user then. Root's logins have none, and without PAM it
/// is not known when they begin, unless the journal says so.
pub(crate) fn is_open(note: &Note, processes: &BTreeMap<u32, Seen>) -> bool {
    let is_users = |seen: &Seen| seen.parent == note.process.pid && seen.uid == note.uid.0 && is_sshd(seen.name.pid);
    let is_monitor = || Handle::open(note.process).is_ok_and(|handle| handle.is_some_and(|handle| handle.is_monitor()));
    note.uid.0 != 0 && processes.values().any(is_users) && is_monitor()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use countersign_snapshot::{BootId, Uid};
    use countersign_sshd::{Granter, OFFERS, SESSIONS};

    use super::*;

    fn key(byte: u8) -> Vec<u8> {
        let string = |content: &[u8]| [&u32::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat();
        [string(b"ssh-ed25519"), string(&[byte; 32])].concat()
    }

    #[test]
    fn a_note_that_was_written_while_the_journal_answered_is_asked_about_itself() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = folder.path().join("run");
        for name in [OFFERS, SESSIONS] {
            fs::create_dir_all(runtime.join(name)).unwrap();
            fs::set_permissions(runtime.join(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
        let owner = fs::metadata(&runtime).unwrap().uid();
        let now = Clock { unix_secs: 1_800_000_010, boot_id: BootId([0xab; 16]), boottime_secs: 110 };
        let store = Store::open_of(&runtime, owner, owner, now.boot_id).unwrap();
        let process = ProcessName::of(std::process::id()).unwrap();
        let offered = Note {
            process,
            boot_id: now.boot_id,
            login: "deploy".to_owned(),
            uid: Uid(2001),
            by: Granter::Realm,
            blob: key(1),
            asked: 2,
            alone: true,
            unix_secs: 1_800_000_000,
            boottime_secs: 100,
        };
        let used = Note { blob: key(2), alone: false, ..offered.clone() };
        let place = runtime.join(OFFERS).join(process.to_string());
        fs::write(&place, offered.encode()).unwrap();
        fs::write(folder.path().join("used"), used.encode()).unwrap();
        let entry = format!(
            r#"{{"_PID":"{}","_UID":"0","_TRANSPORT":"syslog","__REALTIME_TIMESTAMP":"1800000001000000","MESSAGE":"Accepted publickey for deploy from ::1 port 1 ssh2: ED25519 {}"}}"#,
            process.pid,
            fingerprint_text(&fingerprint_sha256(&used.blob))
        );
        let program = folder.path().join("journal");
        let journal = |says: &str| {
            let swap = format!("cp {} {}", folder.path().join("used").display(), place.display());
            fs::write(&program, format!("#!/bin/sh\n{swap}\n{says}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let settings = Settings { journal: Some(program.clone()), ..Settings::new("/none".into(), owner) };
        let look = |said: &str| {
            journal(said);
            let (mut keeper, mut events) = (Keeper::new(settings.clone()), Vec::new());
            keeper.settle(&store, store.notes().unwrap(), &now, &mut events);
            events
        };
        let says = format!("printf '%s\\n' '{entry}'");
        // Of the first note it says "another", and of nothing that this was the only one.
        for said in [says.as_str(), "exit 0"] {
            fs::write(&place, offered.encode()).unwrap();
            assert_eq!(look(said), [], "{said}");
            assert_eq!(store.note(process), Some(used.clone()), "{said}");
            assert_eq!(store.records().unwrap(), []);
        }
        let events = look(&says);
        assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::Adopted]);
        assert_eq!(store.records().unwrap().iter().map(|record| &record.note).collect::<Vec<_>>(), [&used]);
        assert_eq!(store.note(process), None);
    }
}
