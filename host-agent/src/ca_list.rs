//! The list of CAs that a plain sshd reads, on disk. sshd looks at no clock of ours, so the list has to end what a snapshot ends by itself: it
//! is emptied as soon as a snapshot of that age would not count, by the same rule, on a thread that no node and no cycle can hold up.
//! Taking a CA away never depends on space: a file that cannot be replaced is emptied where it stands.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use countersign_snapshot::{Clock, Freshness};
use nix::unistd::{getegid, geteuid};

use crate::files::{Directory, FileError, Owners, Ownership, Secrecy};
use crate::log::{Level, Line, Log};
use crate::reason::Reason;

/// The most that is read of a list that is in place, in bytes.
const LIMIT: u64 = 16 << 20;

const LOOK: Duration = Duration::from_secs(1);

/// Why a list was emptied.
pub(crate) const STALE: &str = "what is known is too old: no CA is trusted by its list until there is news";

/// The file, and what it is told by whether it still counts: the block that both files of a plain sshd were last true of.
#[derive(Debug)]
pub(crate) struct CaList {
    path: PathBuf,
    counts: Mutex<Option<(u64, Freshness)>>,
}

impl CaList {
    /// `counts`: the block time and freshness of what was published last, for a file that is already there.
    pub(crate) fn new(path: &Path, counts: Option<(u64, Freshness)>) -> Self {
        Self { path: path.to_owned(), counts: Mutex::new(counts) }
    }

    /// Writes the list, which counts from now on as a snapshot of that block would.
    pub(crate) fn write(&self, text: &str, block_time_secs: u64, freshness: Freshness) -> Result<(), FileError> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        replace(&self.path, text.as_bytes())?;
        *counts = Some((block_time_secs, freshness));
        Ok(())
    }

    /// What is there is still true of that block.
    pub(crate) fn renew(&self, block_time_secs: u64, freshness: Freshness) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = Some((block_time_secs, freshness));
    }

    /// The same, where it counted before: after a start, from what is on this host alone.
    pub(crate) fn carry(&self, block_time_secs: u64, freshness: Freshness) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.is_some() {
            *counts = Some((block_time_secs, freshness));
        }
    }

    /// Takes away every CA that is not in `wanted`; adds none. Returns whether any went.
    pub(crate) fn narrow(&self, wanted: &str) -> Result<bool, FileError> {
        let _held = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        self.narrow_to(wanted)
    }

    /// Takes all CAs away where a snapshot would not count at this time. No clock: none counts. Returns whether any went.
    pub(crate) fn end_if_stale(&self, clock: Option<&Clock>) -> Result<bool, FileError> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = clock.is_some_and(|clock| {
            counts.is_some_and(|(block_time, freshness)| freshness.check(block_time, clock).is_ok())
        });
        if is_fresh { Ok(false) } else { self.narrow_to("") }
    }

    fn narrow_to(&self, wanted: &str) -> Result<bool, FileError> {
        let wanted: BTreeSet<&str> = wanted.lines().collect();
        let (directory, name) = Directory::of(&self.path, Owners::process())?;
        let text = match directory.read(name, Secrecy::Public, LIMIT) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.is_not_found() => return Ok(false),
            // Somebody else's, or none of ours: whatever it says, it is not what was written.
            Err(_) => return directory.empty(name).map(|()| true),
        };
        let kept: String = text.split_inclusive('\n').filter(|line| wanted.contains(line.trim_end())).collect();
        if kept == text {
            return Ok(false);
        }
        if kept.is_empty() || replace(&self.path, kept.as_bytes()).is_err() {
            directory.empty(name)?;
        }
        Ok(true)
    }
}

/// Replaces a file of a plain sshd's. Readable by all: it says nothing that the ledger does not.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let (directory, name) = Directory::of(path, Owners::process())?;
    let ownership = Ownership { uid: geteuid().as_raw(), gid: getegid().as_raw(), mode: 0o644 };
    directory.replace(name, bytes, ownership)
}

/// The running thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks at the clock once a second; nothing where there is no list.
    pub(crate) fn start(list: Option<Arc<CaList>>, log: Log) -> Self {
        let Some(list) = list else { return Self { stop: None, thread: None } };
        let (stop, stopped) = channel();
        let look = move || {
            let mut told = None;
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let problem = match list.end_if_stale(Clock::now().ok().as_ref()) {
                    Ok(false) => None,
                    Ok(true) => Some((Reason::PlainSshdStale, STALE.to_owned())),
                    Err(error) => Some((Reason::PlainSshdFailed, crate::log::chain(&error))),
                };
                if let Some((reason, message)) = problem.clone().filter(|_| told != problem) {
                    log.line(Level::Error, &Line::reason(reason).field("message", message));
                }
                told = problem;
            }
        };
        match Builder::new().name("plain-sshd".to_owned()).spawn(look) {
            Ok(thread) => Self { stop: Some(stop), thread: Some(thread) },
            Err(_) => Self { stop: None, thread: None },
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It only ever sleeps and looks.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use countersign_snapshot::BootId;

    use super::*;

    const BOOT: BootId = BootId([1; 16]);

    fn freshness() -> Freshness {
        Freshness {
            valid_until_secs: 1_300,
            boot_id: BOOT,
            boottime_secs: 50,
            age_consumed_secs: 0,
            max_staleness_secs: 300,
            highest_wall_secs: 1_000,
        }
    }

    fn clock(unix_secs: u64, boottime_secs: u64) -> Clock {
        Clock { unix_secs, boot_id: BOOT, boottime_secs }
    }

    fn list(lines: &str) -> (tempfile::TempDir, CaList) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let list = CaList::new(&directory.path().join("cas"), None);
        list.write(lines, 1_000, freshness()).unwrap();
        (directory, list)
    }

    #[test]
    fn a_list_ends_by_either_clock_at_another_boot_and_without_a_clock() {
        let ends = |clock: Option<Clock>| {
            let (directory, list) = list("a 1\nb 2\n");
            let ended = list.end_if_stale(clock.as_ref()).unwrap();
            assert_eq!(ended, std::fs::read(directory.path().join("cas")).unwrap().is_empty());
            ended
        };
        assert!(!ends(Some(clock(1_300, 350))));
        for stale in [
            clock(1_301, 60),
            clock(1_000, 351),
            clock(999, 60),
            Clock { boot_id: BootId([2; 16]), ..clock(1_000, 60) },
        ] {
            assert!(ends(Some(stale)), "{stale:?}");
        }
        assert!(ends(None));
    }

    #[test]
    fn cas_go_and_none_comes_also_where_no_other_file_can_take_the_place() {
        let (directory, list) = list("a 1\nb 2\n");
        let path = directory.path().join("cas");
        let read = || std::fs::read_to_string(&path).unwrap();
        assert!(!list.narrow("b 2\na 1\nc 3\n").unwrap());
        assert_eq!(read(), "a 1\nb 2\n");
        assert!(list.narrow("b 2\nc 3\n").unwrap());
        assert_eq!(read(), "b 2\n");
        // All of them: that takes neither room nor another name.
        let inode = std::fs::metadata(&path).unwrap().ino();
        assert!(list.narrow("").unwrap());
        assert_eq!((read().as_str(), std::fs::metadata(&path).unwrap().ino()), ("", inode), "emptied where it stands");
        assert!(!list.narrow("").unwrap());
    }

    #[test]
    fn a_list_that_somebody_else_could_have_written_is_emptied() {
        let (directory, list) = list("a 1\n");
        let path = directory.path().join("cas");
        std::fs::write(&path, "mallory 1\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(list.narrow("a 1\n").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
