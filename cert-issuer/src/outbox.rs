//! The sender's books: which block belongs to which delivery. On the ledger a block's CID is sealed to the recipient, so only the
//! sender's own notes say what to unpin. One small file per delivery; a lost book costs disk space, nothing else.

use std::io::Write;
use std::path::{Path, PathBuf};

use countersign_certificate::Id;
use countersign_delivery::BlockCid;
use countersign_registry::{B256, Effective};
use thiserror::Error;

/// Why the books cannot be read or kept.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// A file or the directory.
    #[error("outbox {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file does not hold what a note holds.
    #[error("outbox {path}: expected a CID, a digest and a time")]
    Malformed {
        /// Which.
        path: PathBuf,
    },
}

/// One note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The delivery's record id.
    pub delivery: Id,
    /// The sealed block.
    pub cid: BlockCid,
    /// The payload's salted digest, which a true acknowledgement repeats.
    pub digest: B256,
    /// When it was sent, Unix seconds.
    pub sent: u64,
}

/// What is to be done about a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The recipient has it, finally: unpin.
    Acknowledged,
    /// The recipient acknowledges another digest: unpin nothing, somebody should look.
    OtherDigest,
    /// Nobody acknowledged it in time: unpin.
    TimedOut,
    /// Keep it.
    Wait,
}

impl Note {
    /// What the ledger says about it at Unix time `now`. An acknowledgement counts once it is final: a reorg must not leave a recipient
    /// without its payload.
    #[must_use]
    pub fn due(&self, effective: &Effective, now: u64, timeout_secs: u64) -> Due {
        if let Some(acknowledgement) = effective.acknowledgements.get(&self.delivery) {
            if acknowledgement.digest != self.digest {
                return Due::OtherDigest;
            }
            if acknowledgement.at.block <= effective.final_block.number {
                return Due::Acknowledged;
            }
        }
        if now.saturating_sub(self.sent) > timeout_secs { Due::TimedOut } else { Due::Wait }
    }
}

/// A directory of notes.
#[derive(Debug, Clone)]
pub struct Outbox {
    path: PathBuf,
}

impl Outbox {
    /// Opens the books at `path`, making the directory (not its parents) where it is absent.
    ///
    /// # Errors
    /// [`OutboxError::File`].
    pub fn open(path: &Path) -> Result<Self, OutboxError> {
        match std::fs::create_dir(path) {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(OutboxError::File { path: path.to_owned(), source })
            }
            _ => Ok(Self { path: path.to_owned() }),
        }
    }

    fn file(&self, delivery: Id) -> PathBuf {
        self.path.join(format!("{delivery}.note"))
    }

    /// Writes a note, before its entry is logged: a block without an entry is swept by its timeout.
    ///
    /// # Errors
    /// [`OutboxError::File`].
    pub fn add(&self, note: &Note) -> Result<(), OutboxError> {
        let path = self.file(note.delivery);
        let failed = |source| OutboxError::File { path: path.clone(), source };
        let mut file = tempfile::NamedTempFile::new_in(&self.path).map_err(failed)?;
        writeln!(file, "{}\n{}\n{}", note.cid, note.digest, note.sent).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// All notes, by delivery id.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub fn notes(&self) -> Result<Vec<Note>, OutboxError> {
        let failed = |source| OutboxError::File { path: self.path.clone(), source };
        let mut notes = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(std::ffi::OsStr::to_str).and_then(|name| name.strip_suffix(".note"));
            let Some(delivery) = name.and_then(|name| name.parse::<Id>().ok()) else { continue };
            let text =
                std::fs::read_to_string(&path).map_err(|source| OutboxError::File { path: path.clone(), source })?;
            notes.push(parse(delivery, &text).ok_or(OutboxError::Malformed { path })?);
        }
        notes.sort_by_key(|note| note.delivery);
        Ok(notes)
    }

    /// Strikes a note out. One that is not there is fine.
    ///
    /// # Errors
    /// [`OutboxError::File`].
    pub fn strike(&self, delivery: Id) -> Result<(), OutboxError> {
        let path = self.file(delivery);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(OutboxError::File { path, source }),
            _ => Ok(()),
        }
    }
}

fn parse(delivery: Id, text: &str) -> Option<Note> {
    let mut lines = text.lines();
    let (cid, digest, sent) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
    lines.next().is_none().then_some(Note { delivery, cid, digest, sent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note { delivery: Id([1; 16]), cid: BlockCid::of(b"block").unwrap(), digest: B256::repeat_byte(2), sent: 1_000 }
    }

    #[test]
    fn notes_are_kept_until_they_are_struck_out() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(&directory.path().join("outbox")).unwrap();
        assert_eq!(outbox.notes().unwrap(), []);
        outbox.add(&note()).unwrap();
        assert_eq!(Outbox::open(&directory.path().join("outbox")).unwrap().notes().unwrap(), [note()]);
        outbox.strike(note().delivery).unwrap();
        outbox.strike(note().delivery).unwrap();
        assert_eq!(outbox.notes().unwrap(), []);
    }

    #[test]
    fn a_note_is_three_lines_under_the_delivery_s_id() {
        let directory = tempfile::tempdir().unwrap();
        Outbox::open(directory.path()).unwrap().add(&note()).unwrap();
        let text = std::fs::read_to_string(directory.path().join(format!("{}.note", "01".repeat(16)))).unwrap();
        assert_eq!(text, format!("{}\n0x{}\n1000\n", note().cid, "02".repeat(32)));
        std::fs::write(directory.path().join("readme"), "passed over").unwrap();
        assert_eq!(Outbox::open(directory.path()).unwrap().notes().unwrap(), [note()]);
    }

    #[test]
    fn a_note_that_does_not_read_is_named_and_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(directory.path()).unwrap();
        outbox.add(&note()).unwrap();
        let path = outbox.file(note().delivery);
        let good = std::fs::read_to_string(&path).unwrap();
        for text in ["", "x", &good.replace("1000", "soon"), &format!("{good}more\n"), good.trim_end_matches("1000\n")]
        {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(outbox.notes(), Err(OutboxError::Malformed { .. })), "{text}");
        }
    }
}
