//! Ties a session to what let it in where PAM has not: by what the journal says, else by what can have been nothing else.
//!
//! Whatever takes its time is about a note that may be another when it is over: nothing is done to that one.

use std::collections::BTreeMap;

use countersign_snapshot::Clock;
use countersign_sshd::{Accepted, Note, Record};

use crate::journal::Said;
use crate::keeper::{Event, EventKind, Keeper};
use crate::process::{Handle, Seen, audit_session, is_sshd, scan};
use crate::socket::connection;
use crate::store::Store;

impl Keeper {
    /// Makes records of notes where PAM makes none: what the journal says, else what can have been nothing else.
    pub(crate) fn attribute(&mut self, store: &Store, notes: Vec<Note>, now: &Clock, events: &mut Vec<Event>) {
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
                silent => {
                    // Not as long as the journal may still say that it was something that nobody asks the helper about.
                    let is_told = self.settings.journal.is_none() || silent.is_some();
                    let is_certain = self.settings.only_helper || (is_told && note.alone && note.asked >= 2);
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
    use std::path::PathBuf;

    use countersign_certificate::{fingerprint_sha256, fingerprint_text};
    use countersign_snapshot::{BootId, Uid};
    use countersign_sshd::{Granter, OFFERS, ProcessName, SESSIONS};

    use super::*;
    use crate::journal::tests::program;
    use crate::keeper::Settings;

    fn key(byte: u8) -> Vec<u8> {
        let string = |content: &[u8]| [&u32::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat();
        [string(b"ssh-ed25519"), string(&[byte; 32])].concat()
    }

    /// A host with one sshd, this process, and a journal that says what a test has it say.
    struct Host {
        folder: tempfile::TempDir,
        settings: Settings,
        store: Store,
        process: ProcessName,
        offered: Note,
    }

    const BOOT: BootId = BootId([0xab; 16]);

    impl Host {
        fn begin() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let runtime = folder.path().join("run");
            for name in [OFFERS, SESSIONS] {
                fs::create_dir_all(runtime.join(name)).unwrap();
                fs::set_permissions(runtime.join(name), fs::Permissions::from_mode(0o700)).unwrap();
            }
            fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
            let owner = fs::metadata(&runtime).unwrap().uid();
            let store = Store::open_of(&runtime, owner, owner, BOOT).unwrap();
            let process = ProcessName::of(std::process::id()).unwrap();
            let offered = Note {
                process,
                boot_id: BOOT,
                login: "deploy".to_owned(),
                uid: Uid(2001),
                by: Granter::Realm,
                blob: key(1),
                asked: 2,
                alone: true,
                unix_secs: 1_800_000_000,
                boottime_secs: 100,
            };
            let journal = Some(folder.path().join("journal"));
            let settings = Settings { journal, runtime, ..Settings::new("/none".into(), owner) };
            Self { folder, settings, store, process, offered }
        }

        fn place(&self) -> PathBuf {
            self.settings.runtime.join(OFFERS).join(self.process.to_string())
        }

        fn leave(&self, note: &Note) {
            fs::write(self.place(), note.encode()).unwrap();
        }

        fn journal(&self, script: &str) {
            program(self.folder.path(), script);
        }

        fn entry(&self, message: &str) -> String {
            let pid = self.process.pid;
            format!(
                r#"{{"_PID":"{pid}","_UID":"0","_TRANSPORT":"syslog","__REALTIME_TIMESTAMP":"1800000001000000","MESSAGE":"{message}"}}"#
            )
        }

        fn look(&self, keeper: &mut Keeper, after_secs: u64) -> Vec<Event> {
            let unix_secs = 1_800_000_010_u64.saturating_add(after_secs);
            let boottime_secs = after_secs.saturating_add(110);
            let mut events = Vec::new();
            // However long the journal takes on this machine.
            keeper.journal.limit = std::time::Duration::from_secs(60);
            let now = Clock { unix_secs, boot_id: BOOT, boottime_secs };
            keeper.settle(&self.store, self.store.notes().unwrap(), &now, &mut events);
            events
        }
    }

    #[test]
    fn a_note_that_was_written_while_the_journal_answered_is_asked_about_itself() {
        let host = Host::begin();
        let used = Note { blob: key(2), alone: false, ..host.offered.clone() };
        let used_file = host.folder.path().join("used");
        fs::write(&used_file, used.encode()).unwrap();
        let swap = format!("cp {} {}", used_file.display(), host.place().display());
        let print = fingerprint_text(&fingerprint_sha256(&used.blob));
        let accepted = host.entry(&format!("Accepted publickey for deploy from ::1 port 1 ssh2: ED25519 {print}"));
        let says = format!("echo '{accepted}'");
        // Of the first note it says "another", and of nothing that this was the only one, also where the helper is the only one.
        for (said, only_helper) in [(says.as_str(), false), ("exit 0", true)] {
            host.leave(&host.offered);
            host.journal(&format!("{swap}\n{said}"));
            let mut keeper = Keeper::new(Settings { only_helper, ..host.settings.clone() });
            assert_eq!(host.look(&mut keeper, 0), [], "{said}");
            assert_eq!(host.store.note(host.process), Some(used.clone()), "{said}");
            assert_eq!(host.store.records().unwrap(), []);
        }
        host.journal(&says);
        let events = host.look(&mut Keeper::new(host.settings.clone()), 1);
        assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::Adopted]);
        assert_eq!(host.store.records().unwrap().iter().map(|record| &record.note).collect::<Vec<_>>(), [&used]);
        assert_eq!(host.store.note(host.process), None);
    }

    #[test]
    fn a_journal_that_is_late_makes_nobodys_session_of_a_key_that_was_only_offered() {
        let host = Host::begin();
        let password = host.entry("Accepted password for deploy from ::1 port 1 ssh2");
        for late in ["exit 0", "exit 1"] {
            let mut keeper = Keeper::new(host.settings.clone());
            host.leave(&host.offered);
            host.journal(late);
            assert_eq!(host.look(&mut keeper, 0), [], "{late}");
            host.journal(&format!("echo '{password}'"));
            assert_eq!(host.look(&mut keeper, 10), [], "{late}");
            assert_eq!((host.store.note(host.process), host.store.records().unwrap()), (None, Vec::new()), "{late}");
        }
        // One that has answered several times has nothing to say.
        let mut keeper = Keeper::new(host.settings.clone());
        host.leave(&host.offered);
        host.journal("exit 0");
        assert_eq!((host.look(&mut keeper, 0), host.look(&mut keeper, 1)), (Vec::new(), Vec::new()));
        assert_eq!(host.look(&mut keeper, 2).len(), 1);
        assert_eq!(host.store.records().unwrap().first().map(|record| record.accepted), Some(Accepted::Alone));
    }
}
