//! Sessions for people: which there are, what let them in and until when; and ending one by hand.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use countersign_certificate::{Certificate, Id, Serial, fingerprint_sha256, fingerprint_text};
use countersign_snapshot::{Clock, Snapshot};
use countersign_sshd::{Accepted, CaName, Granter, Note, ProcessName, Reason, Record, SessionEnd};

use crate::attribute::is_open;
use crate::ending::Ending;
use crate::error::SessionsError;
use crate::judge::standing;
use crate::keeper::Settings;
use crate::members::Look;
use crate::process::scan;
use crate::socket::connection;
use crate::store::Store;

/// How long after the grace the last of a session is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its access holds.
    Holds,
    /// Something is missing that may come back by itself.
    Doubtful,
    /// Its access is over.
    Over,
    /// It is not certain what let it in: it is not ended.
    Uncertain,
}

impl State {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Doubtful => "doubtful",
            Self::Over => "over",
            Self::Uncertain => "uncertain",
        }
    }
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its sshd process, which is also its id.
    pub process: ProcessName,
    /// The login.
    pub login: String,
    /// Its uid.
    pub uid: u32,
    /// `SSH_CONNECTION`, where it is known.
    pub connection: Option<String>,
    /// How it is known what let it in; none: it is not.
    pub accepted: Option<Accepted>,
    /// Who granted it.
    pub by: Granter,
    /// Fingerprint of the key, for a certificate of the one it certifies.
    pub key: String,
    /// The certificate's serial.
    pub serial: Option<Serial>,
    /// The CA: its record id, or its key's fingerprint.
    pub ca: Option<String>,
    /// The user's record id.
    pub user: Option<Id>,
    /// The grant.
    pub grant: Option<Id>,
    /// Unix time at which something ends by itself.
    pub until_secs: Option<u64>,
    /// How it stands.
    pub state: State,
    /// Why.
    pub reason: Option<Reason>,
    /// How many processes belong to it.
    pub processes: usize,
    /// Whether its connection is open; else processes were left behind.
    pub is_connected: bool,
}

/// All sessions that the helper let in.
///
/// # Errors
/// The folders or the snapshot's clock cannot be used.
pub fn list(settings: &Settings, now: &Clock) -> Result<Vec<Session>, SessionsError> {
    let store = Store::open(&settings.runtime, settings.helper, now.boot_id)?;
    let (records, notes) = read(&store, &settings.runtime)?;
    let snapshot = Snapshot::open(&settings.snapshot, settings.trust).ok();
    let processes = scan();
    let look = Look { processes: &processes, records: &records, control_groups: &settings.control_groups };
    let recorded = records.iter().map(|record| {
        let members = look.members(record, &BTreeSet::new()).len();
        describe(record, snapshot.as_ref(), now, members)
    });
    let recorded = recorded.filter(|session| session.is_connected || session.processes > 0);
    let open = notes.into_iter().filter(|note| is_open(note, &processes)).map(|note| {
        let record = Record {
            connection: connection(note.process.pid),
            note,
            accepted: Accepted::Alone,
            audit_before: u32::MAX,
            audit: None,
            scope: None,
        };
        let members = look.members(&record, &BTreeSet::new()).len();
        let session = describe(&record, snapshot.as_ref(), now, members);
        Session { accepted: None, state: State::Uncertain, ..session }
    });
    Ok(recorded.chain(open).collect())
}

fn read(store: &Store, runtime: &Path) -> Result<(Vec<Record>, Vec<Note>), SessionsError> {
    let failed = |source| SessionsError::Folder { path: runtime.to_owned(), source };
    Ok((store.records().map_err(failed)?, store.notes().map_err(failed)?))
}

fn describe(record: &Record, snapshot: Option<&Snapshot>, now: &Clock, processes: usize) -> Session {
    let standing = standing(record, snapshot, now);
    let certificate = Certificate::parse(&record.note.blob).ok();
    let key = certificate.as_ref().map_or(&record.note.blob, |certificate| &certificate.public_key);
    let ca = standing
        .facts
        .ca
        .or_else(|| certificate.as_ref().map(|certificate| CaName::Key(fingerprint_sha256(certificate.signature_key))));
    Session {
        process: record.note.process,
        login: record.note.login.clone(),
        uid: record.note.uid.0,
        connection: record.connection.clone(),
        accepted: Some(record.accepted),
        by: record.note.by,
        key: fingerprint_text(&fingerprint_sha256(key)),
        serial: certificate.as_ref().map(|certificate| certificate.serial),
        ca: ca.map(|ca| ca.to_string()),
        user: standing.facts.user,
        grant: standing.facts.grant,
        until_secs: standing.until_secs,
        state: match standing.end() {
            SessionEnd::Never => State::Holds,
            SessionEnd::IfItStays => State::Doubtful,
            SessionEnd::AtOnce => State::Over,
        },
        reason: standing.against.map(|refusal| refusal.reason),
        processes,
        is_connected: record.note.process.is_alive(),
    }
}

/// Ends the session of `process`, whatever its access, and waits for that. Whether nothing is left of it.
///
/// # Errors
/// There is no such session, or it is not certain what let it in.
pub fn end(settings: &Settings, process: ProcessName, now: &Clock) -> Result<bool, SessionsError> {
    let store = Store::open(&settings.runtime, settings.helper, now.boot_id)?;
    let (records, notes) = read(&store, &settings.runtime)?;
    let Some(record) = records.iter().find(|record| record.note.process == process) else {
        let is_note = notes.iter().any(|note| note.process == process);
        let name = process.to_string();
        return Err(if is_note { SessionsError::Uncertain(name) } else { SessionsError::Unknown(name) });
    };
    let processes = scan();
    let look = Look { processes: &processes, records: &records, control_groups: &settings.control_groups };
    let mut ending = Ending::begin(record, &look, "\r\ncountersign: this session is ended by an administrator\r\n", 0)?;
    let begun = Instant::now();
    let grace = Duration::from_secs(settings.grace_secs);
    loop {
        let processes = scan();
        let look = Look { processes: &processes, ..look };
        let at_secs = begun.elapsed().as_secs();
        if ending.go_on(record, &look, at_secs, settings.grace_secs)? {
            store.remove(process);
            return Ok(true);
        }
        if begun.elapsed() > grace.saturating_add(PATIENCE) {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
