//! The folders of notes and records: made with their owners, read with distrust.
//!
//! Notes come from the helper's user, records from root. A file of another owner, of another form, or under a name that is not
//! its process's, is not read; one of another boot cannot be there, since both lie where nothing outlives the boot, and is not read
//! either.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use countersign_snapshot::BootId;
use countersign_sshd::{Folder, MAX_NOTE_BYTES, Note, OFFERS, ProcessName, Record, SESSIONS};

use crate::error::SessionsError;

const ROOT: u32 = 0;

/// Makes the folders below `runtime` where they are missing: `helper` is the uid and gid of the helper's user.
///
/// # Errors
/// One cannot be made, or is somebody else's.
pub fn prepare(runtime: &Path, helper: (u32, u32)) -> Result<(), SessionsError> {
    make(runtime, (ROOT, ROOT), 0o755)?;
    make(&runtime.join(OFFERS), helper, 0o700)?;
    make(&runtime.join(SESSIONS), (ROOT, ROOT), 0o700)
}

fn make(path: &Path, (uid, gid): (u32, u32), mode: u32) -> Result<(), SessionsError> {
    let failed = |source| SessionsError::Folder { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            chown(path, Some(uid), Some(gid)).map_err(failed)?;
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(path).map_err(failed)?;
            if metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o022 == 0 {
                return Ok(());
            }
            Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, "not a directory of its user alone")))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Both folders, open.
#[derive(Debug)]
pub struct Store {
    offers: Folder,
    sessions: Folder,
    boot_id: BootId,
}

impl Store {
    /// Opens them. `helper` is the uid of the helper's user, whose notes are believed to be hints.
    ///
    /// # Errors
    /// One is not there, or not its owner's alone.
    pub fn open(runtime: &Path, helper: u32, boot_id: BootId) -> Result<Self, SessionsError> {
        Self::open_of(runtime, ROOT, helper, boot_id)
    }

    /// The same with another user in root's place.
    pub(crate) fn open_of(runtime: &Path, root: u32, helper: u32, boot_id: BootId) -> Result<Self, SessionsError> {
        let open = |name: &str, owner: u32| -> Result<Folder, SessionsError> {
            let failed = |source| SessionsError::Folder { path: PathBuf::from(runtime).join(name), source };
            let folder = Folder::open(runtime, name, root).map_err(failed)?;
            if folder.owner() == owner {
                return Ok(folder);
            }
            Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's")))
        };
        Ok(Self { offers: open(OFFERS, helper)?, sessions: open(SESSIONS, root)?, boot_id })
    }

    /// All records, in the order of their processes' start.
    ///
    /// # Errors
    /// The system does not list them.
    pub fn records(&self) -> io::Result<Vec<Record>> {
        let mut records: Vec<Record> = self
            .read_all(&self.sessions)?
            .into_iter()
            .filter_map(|(name, text)| {
                let record = Record::decode(&text).ok()?;
                (record.note.process == name && record.note.boot_id == self.boot_id).then_some(record)
            })
            .collect();
        records.sort_by_key(|record| (record.note.process.start_ticks, record.note.process.pid));
        Ok(records)
    }

    /// All notes.
    ///
    /// # Errors
    /// The system does not list them.
    pub fn notes(&self) -> io::Result<Vec<Note>> {
        let notes = self.read_all(&self.offers)?.into_iter();
        Ok(notes.filter_map(|(name, text)| self.as_note(name, &text)).collect())
    }

    /// The note of a process as it stands now.
    #[must_use]
    pub fn note(&self, process: ProcessName) -> Option<Note> {
        self.as_note(process, &self.offers.read(&process.to_string(), MAX_NOTE_BYTES).ok()??)
    }

    fn as_note(&self, name: ProcessName, text: &[u8]) -> Option<Note> {
        let note = Note::decode(text).ok()?;
        (note.process == name && note.boot_id == self.boot_id).then_some(note)
    }

    fn read_all(&self, folder: &Folder) -> io::Result<Vec<(ProcessName, Vec<u8>)>> {
        let names = folder.names()?.into_iter().filter_map(|name| name.parse::<ProcessName>().ok());
        Ok(names.filter_map(|name| Some((name, folder.read(&name.to_string(), MAX_NOTE_BYTES).ok()??))).collect())
    }

    /// Writes a record.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        self.sessions.write(&record.note.process.to_string(), record.encode().as_bytes())
    }

    /// Removes a record.
    pub fn remove(&self, process: ProcessName) {
        // It is looked at again with the next look.
        let _ = self.sessions.remove(&process.to_string());
    }

    /// Removes a note.
    pub fn remove_note(&self, process: ProcessName) {
        let _ = self.offers.remove(&process.to_string());
    }

    /// Removes notes of processes that have ended, and what is left of writes that were cut off.
    pub fn tidy(&self) {
        for name in self.offers.names().unwrap_or_default() {
            let process = name.strip_prefix('.').unwrap_or(&name).parse::<ProcessName>();
            if !process.is_ok_and(|process| process.is_alive()) {
                let _ = self.offers.remove(&name);
            }
        }
    }
}
