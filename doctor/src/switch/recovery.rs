//! What was there before, on the disk before anything is changed: so that a second run can take back what a killed one began, and what a
//! whole one did.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::change::{Change, keep, put, sync_folder};
use crate::code::Code;
use crate::finding::Finding;

/// Where it lies, and the lock beside it.
pub(crate) const FOLDER: &str = "/var/lib/countersign/doctor";
const VERSION: u32 = 1;

/// How far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// No login has proved it yet.
    Trying,
    /// A login went through it.
    Enabled,
}

/// What was done, and what undoes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Recovery {
    version: u32,
    pub(crate) state: State,
    /// Of the sshd that runs, where it is not the configuration's.
    pub(crate) port: Option<u16>,
    pub(crate) changes: Vec<Change>,
}

impl Recovery {
    /// Nothing proved yet.
    pub(crate) fn of(changes: Vec<Change>, port: Option<u16>) -> Self {
        Self { version: VERSION, state: State::Trying, port, changes }
    }

    /// A finding, where a run was killed before a login proved what it wrote.
    pub(crate) fn unfinished(&self) -> Option<Finding> {
        let files: Vec<String> = self.changes.iter().map(|change| change.path.display().to_string()).collect();
        let found = format!("a run of `--enable` was killed; it may have written {}", files.join(", "));
        let finding = Finding::new(Code::SwitchUnfinished, path().display().to_string(), found);
        (self.state == State::Trying).then(|| finding.change("countersign doctor --disable"))
    }

    /// The files that go back.
    #[must_use]
    pub fn paths(&self) -> Vec<&Path> {
        self.changes.iter().map(|change| change.path.as_path()).collect()
    }

    /// What is on the disk.
    ///
    /// # Errors
    /// It is there, and not root's alone or not in its form.
    pub fn load() -> io::Result<Option<Self>> {
        let Some(kept) = keep(&path())? else { return Ok(None) };
        let recovery: Self = serde_json::from_slice(&kept.bytes)?;
        if recovery.version != VERSION {
            return Err(io::Error::other(format!("version {}: expected {VERSION}", recovery.version)));
        }
        Ok(Some(recovery))
    }

    /// Brings it to the disk.
    pub(crate) fn save(&self) -> io::Result<()> {
        put(&path(), &serde_json::to_vec(self)?, 0o600, (0, 0))
    }

    /// Nothing is left to take back.
    pub(crate) fn forget() -> io::Result<()> {
        fs::remove_file(path())?;
        sync_folder(&path())
    }
}

/// Where it lies.
#[must_use]
pub fn path() -> PathBuf {
    Path::new(FOLDER).join("before.json")
}

/// One at a time; lasts as long as what is given.
pub(crate) fn lock(folder: &Path) -> io::Result<Flock<File>> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(folder.join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| io::Error::other("another `countersign doctor` is at work on this host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_do_not_work_at_once_and_the_second_has_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        assert_eq!(
            lock(folder.path()).unwrap_err().to_string(),
            "another `countersign doctor` is at work on this host"
        );
        drop(first);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn what_is_kept_says_where_the_sshd_listens_that_has_to_read_it() {
        let recovery = Recovery::of(Vec::new(), Some(2222));
        let kept: Recovery = serde_json::from_slice(&serde_json::to_vec(&recovery).unwrap()).unwrap();
        assert_eq!((kept.port, kept), (Some(2222), recovery));
    }
}
