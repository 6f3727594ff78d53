//! What a watchdog has sent: one note per countersignature, so that a restart between sending and seeing it on the ledger does not send
//! it a second time. Losing the notes costs at most a second transaction, which every reader ignores.

use std::path::{Path, PathBuf};

use countersign_registry::B256;
use thiserror::Error;

/// The notes cannot be read or kept.
#[derive(Debug, Error)]
#[error("sent countersignatures {path}: {source}")]
pub struct SentError {
    path: PathBuf,
    source: std::io::Error,
}

/// A directory of notes, each named by the hash of the batch entry that was countersigned.
#[derive(Debug, Clone)]
pub struct Sent {
    path: PathBuf,
}

impl Sent {
    /// Opens the directory, making it (not its parents) where it is absent.
    ///
    /// # Errors
    /// [`SentError`].
    pub fn open(path: &Path) -> Result<Self, SentError> {
        match std::fs::create_dir(path) {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(SentError { path: path.to_owned(), source })
            }
            _ => Ok(Self { path: path.to_owned() }),
        }
    }

    fn file(&self, entry: B256) -> PathBuf {
        self.path.join(entry.to_string())
    }

    /// Notes that a transaction for the batch entry is about to be sent, at Unix time `now`.
    ///
    /// # Errors
    /// [`SentError`].
    pub fn add(&self, entry: B256, now: u64) -> Result<(), SentError> {
        let path = self.file(entry);
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            std::io::Write::write_all(&mut file, format!("{now}\n").as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            std::fs::File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| SentError { path: path.clone(), source })
    }

    /// When a transaction for the batch entry was last sent. A note that does not read counts as one that was
    /// just sent.
    ///
    /// # Errors
    /// [`SentError`].
    pub fn when(&self, entry: B256) -> Result<Option<u64>, SentError> {
        let path = self.file(entry);
        let failed = |source| SentError { path: path.clone(), source };
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().parse().unwrap_or(u64::MAX))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether a transaction for the batch entry may be sent at Unix time `now`: none was, or one that nobody sees was sent at least
    /// `holds` seconds ago and will not be mined any more.
    ///
    /// # Errors
    /// [`SentError`]: not to know is not to send.
    pub fn may_send(&self, entry: B256, now: u64, holds: u64) -> Result<bool, SentError> {
        Ok(self.when(entry)?.is_none_or(|when| now.saturating_sub(when) >= holds))
    }

    /// Strikes a note out: nothing was sent after all. One that is not there is fine.
    ///
    /// # Errors
    /// [`SentError`].
    pub fn strike(&self, entry: B256) -> Result<(), SentError> {
        let path = self.file(entry);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(SentError { path, source }),
            _ => Ok(()),
        }
    }

    /// Forgets those that `keep` does not want.
    ///
    /// # Errors
    /// [`SentError`].
    pub fn retain(&self, keep: impl Fn(B256) -> bool) -> Result<(), SentError> {
        let failed = |source| SentError { path: self.path.clone(), source };
        for file in std::fs::read_dir(&self.path).map_err(failed)? {
            let file = file.map_err(failed)?;
            let entry = file.file_name().to_str().and_then(|name| name.parse::<B256>().ok());
            if entry.is_some_and(|entry| !keep(entry)) {
                std::fs::remove_file(file.path()).map_err(failed)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_survives_a_restart_and_goes_with_its_batch() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sent");
        let (one, two) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let sent = Sent::open(&path).unwrap();
        sent.add(one, 7).unwrap();
        sent.add(two, 8).unwrap();
        sent.add(two, 9).unwrap();
        let again = Sent::open(&path).unwrap();
        assert_eq!((again.when(one).unwrap(), again.when(two).unwrap()), (Some(7), Some(9)));
        again.retain(|entry| entry == one).unwrap();
        assert_eq!((again.when(one).unwrap(), again.when(two).unwrap()), (Some(7), None));
        again.strike(one).unwrap();
        again.strike(one).unwrap();
        assert_eq!(again.when(one).unwrap(), None);
    }

    #[test]
    fn a_note_that_does_not_read_stands_for_one_that_was_just_sent() {
        let directory = tempfile::tempdir().unwrap();
        let sent = Sent::open(directory.path()).unwrap();
        sent.add(B256::ZERO, 7).unwrap();
        std::fs::write(sent.file(B256::ZERO), "soon").unwrap();
        assert_eq!(sent.when(B256::ZERO).unwrap(), Some(u64::MAX));
        assert!(!sent.may_send(B256::ZERO, 1_000_000, 150).unwrap());
    }

    #[test]
    fn what_was_sent_before_a_crash_is_not_sent_again_while_it_may_still_be_mined() {
        let directory = tempfile::tempdir().unwrap();
        let sent = Sent::open(directory.path()).unwrap();
        assert!(sent.may_send(B256::ZERO, 1_000, 150).unwrap());
        sent.add(B256::ZERO, 1_000).unwrap();
        let again = Sent::open(directory.path()).unwrap();
        for (now, may) in [(1_000, false), (1_149, false), (1_150, true), (900, false)] {
            assert_eq!(again.may_send(B256::ZERO, now, 150).unwrap(), may, "{now}");
        }
        assert!(again.may_send(B256::repeat_byte(1), 1_000, 150).unwrap());
    }
}
