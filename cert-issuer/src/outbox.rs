//! The sender's books: which block belongs to which delivery, and who an envelope is for. On the ledger a block's CID is sealed to the
//! recipient and an envelope names nobody, so only the sender's own notes say what to unpin and whom to wait for. One file per delivery,
//! readable by the sender alone; a lost book costs disk space and the table of who has what.

use std::io::Write;
use std::path::{Path, PathBuf};

use alloy_primitives::hex;
use countersign_certificate::Id;
use countersign_delivery::{BlockCid, PrekeyId};
use countersign_registry::{Address, B256, Effective};
use thiserror::Error;
use zeroize::Zeroizing;

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
    #[error("outbox {path}: expected what this version writes there")]
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

/// What the books say about an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// When it was sent, Unix seconds.
    pub sent: u64,
    /// The payload's name.
    pub payload_name: String,
    /// Its kind.
    pub payload_kind: u8,
    /// The envelope that it repeats for some.
    pub resends: Option<Id>,
    /// All its blocks; empty once they were let go of.
    pub blocks: Vec<BlockCid>,
    /// The payloads, at least one.
    pub payloads: Vec<BookPayload>,
    /// The recipients, at least one.
    pub recipients: Vec<BookRecipient>,
}

/// A payload of an envelope.
#[derive(Clone, PartialEq, Eq)]
pub struct BookPayload {
    /// Its block.
    pub cid: BlockCid,
    /// Its salted digest, which a true acknowledgement repeats.
    pub digest: B256,
    /// Its block's key, kept until the blocks are let go of, and never where it was sealed to a prekey.
    pub key: Option<Zeroizing<[u8; 32]>>,
}

impl std::fmt::Debug for BookPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BookPayload").field("cid", &self.cid).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// A recipient of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookRecipient {
    /// Its ledger key.
    pub address: Address,
    /// Which payload it got.
    pub payload: usize,
    /// The prekey it was sealed to.
    pub prekey: Option<PrekeyId>,
}

/// What a recipient of an envelope has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing.
    Nothing,
    /// It has it, as of an acknowledgement at this Unix time; final or not.
    Has {
        /// The acknowledgement's block time.
        since: u64,
        /// Whether no reorg can take it back.
        is_final: bool,
    },
    /// It acknowledges another digest than the one it was sent.
    OtherDigest,
}

impl Book {
    /// What `recipient` has said about envelope `id`, which is this book's.
    #[must_use]
    pub fn heard(&self, id: Id, recipient: &BookRecipient, effective: &Effective) -> Heard {
        let by = effective.envelope_acknowledgements.get(&id);
        let Some(acknowledgement) = by.and_then(|by| by.get(&recipient.address)) else { return Heard::Nothing };
        if self.payloads.get(recipient.payload).is_none_or(|payload| payload.digest != acknowledgement.digest) {
            return Heard::OtherDigest;
        }
        let is_final = acknowledgement.at.block <= effective.final_block.number;
        Heard::Has { since: acknowledgement.at.time, is_final }
    }

    /// What the ledger says about it at Unix time `now`: acknowledged once the last recipient has it, finally.
    #[must_use]
    pub fn due(&self, id: Id, effective: &Effective, now: u64, timeout_secs: u64) -> Due {
        let heard: Vec<Heard> = self.recipients.iter().map(|recipient| self.heard(id, recipient, effective)).collect();
        if heard.iter().all(|heard| matches!(heard, Heard::Has { is_final: true, .. })) {
            return Due::Acknowledged;
        }
        if now.saturating_sub(self.sent) > timeout_secs {
            return Due::TimedOut;
        }
        if heard.contains(&Heard::OtherDigest) { Due::OtherDigest } else { Due::Wait }
    }

    /// The book once its blocks are let go of: who got what is still told, and which prekeys were used.
    #[must_use]
    pub fn closed(mut self) -> Self {
        self.blocks.clear();
        for payload in &mut self.payloads {
            payload.key = None;
        }
        self
    }

    fn text(&self) -> Zeroizing<String> {
        let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let mut lines = vec![
            BOOK_HEAD.to_owned(),
            format!("sent {}", self.sent),
            format!("payload {} {}", self.payload_kind, self.payload_name),
            format!("resends {}", dash(self.resends.map(|id| id.to_string()))),
        ];
        lines.extend(self.blocks.iter().map(|cid| format!("block {cid}")));
        lines.extend(self.payloads.iter().map(|payload| {
            let key = payload.key.as_ref().map(|key| hex::encode(key.as_slice()));
            format!("item {} {} {}", payload.cid, payload.digest, dash(key))
        }));
        lines.extend(self.recipients.iter().map(|to| {
            format!("to {} {} {}", to.address, to.payload, dash(to.prekey.map(|prekey| prekey.to_string())))
        }));
        let mut text = Zeroizing::new(lines.join("\n"));
        lines.iter_mut().for_each(zeroize::Zeroize::zeroize);
        text.push('\n');
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.lines().peekable();
        if lines.next()? != BOOK_HEAD {
            return None;
        }
        let sent = lines.next()?.strip_prefix("sent ")?.parse().ok()?;
        let (payload_kind, payload_name) = lines.next()?.strip_prefix("payload ")?.split_once(' ')?;
        let resends = undash(lines.next()?.strip_prefix("resends ")?, |text| text.parse().ok())?;
        let (mut blocks, mut payloads, mut recipients) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(block) = lines.peek().and_then(|line| line.strip_prefix("block ")) {
            blocks.push(block.parse().ok()?);
            lines.next();
        }
        while let Some(item) = lines.peek().and_then(|line| line.strip_prefix("item ")) {
            let [cid, digest, key] = words(item)?;
            let key = undash(key, |text| Some(Zeroizing::new(<[u8; 32]>::try_from(hex::decode(text).ok()?).ok()?)))?;
            payloads.push(BookPayload { cid: cid.parse().ok()?, digest: digest.parse().ok()?, key });
            lines.next();
        }
        for line in lines {
            let [address, payload, prekey] = words(line.strip_prefix("to ")?)?;
            let payload = payload.parse().ok().filter(|payload| *payload < payloads.len())?;
            let prekey = undash(prekey, |text| Some(PrekeyId(<[u8; 16]>::try_from(hex::decode(text).ok()?).ok()?)))?;
            recipients.push(BookRecipient { address: address.parse().ok()?, payload, prekey });
        }
        let whole = !payloads.is_empty() && !recipients.is_empty();
        whole.then_some(Self {
            sent,
            payload_name: payload_name.to_owned(),
            payload_kind: payload_kind.parse().ok()?,
            resends,
            blocks,
            payloads,
            recipients,
        })
    }
}

const BOOK_HEAD: &str = "countersign-envelope-v1";

/// None for what does not read, `Some(None)` for a dash.
fn undash<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "-" { Some(None) } else { parse(text).map(Some) }
}

fn words<const N: usize>(text: &str) -> Option<[&str; N]> {
    text.split(' ').collect::<Vec<_>>().try_into().ok()
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
        // The name too is on disk before anything is logged.
        std::fs::File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(failed)
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

    fn book_file(&self, envelope: Id) -> PathBuf {
        self.path.join(format!("{envelope}.envelope"))
    }

    /// Writes an envelope's book, before its entry is logged; replaces the one that is there. Mode 0600.
    ///
    /// # Errors
    /// [`OutboxError::File`].
    pub fn add_book(&self, envelope: Id, book: &Book) -> Result<(), OutboxError> {
        let path = self.book_file(envelope);
        let failed = |source| OutboxError::File { path: path.clone(), source };
        let mut file = tempfile::NamedTempFile::new_in(&self.path).map_err(failed)?;
        file.write_all(book.text().as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        // The name too is on disk before anything is logged.
        std::fs::File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(failed)
    }

    /// An envelope's book, if there is one.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub fn book(&self, envelope: Id) -> Result<Option<Book>, OutboxError> {
        read_book(&self.book_file(envelope))
    }

    /// All books of envelopes, by id.
    ///
    /// # Errors
    /// See [`OutboxError`].
    pub fn books(&self) -> Result<Vec<(Id, Book)>, OutboxError> {
        let failed = |source| OutboxError::File { path: self.path.clone(), source };
        let mut books = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name =
                path.file_name().and_then(std::ffi::OsStr::to_str).and_then(|name| name.strip_suffix(".envelope"));
            let Some(envelope) = name.and_then(|name| name.parse::<Id>().ok()) else { continue };
            books.extend(read_book(&path)?.map(|book| (envelope, book)));
        }
        books.sort_by_key(|(id, book)| (book.sent, *id));
        Ok(books)
    }

    /// Throws an envelope's book away. One that is not there is fine.
    ///
    /// # Errors
    /// [`OutboxError::File`].
    pub fn strike_book(&self, envelope: Id) -> Result<(), OutboxError> {
        let path = self.book_file(envelope);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(OutboxError::File { path, source }),
            _ => Ok(()),
        }
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

fn read_book(path: &Path) -> Result<Option<Book>, OutboxError> {
    match std::fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => Book::parse(&text).map(Some).ok_or_else(|| OutboxError::Malformed { path: path.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OutboxError::File { path: path.to_owned(), source }),
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

    fn book() -> Book {
        let cid = BlockCid::of(b"block").unwrap();
        let payload = BookPayload { cid, digest: B256::repeat_byte(2), key: Some(Zeroizing::new([3; 32])) };
        let recipient = |byte, prekey| BookRecipient { address: Address::repeat_byte(byte), payload: 0, prekey };
        Book {
            sent: 1_000,
            payload_name: "api-token".to_owned(),
            payload_kind: 5,
            resends: Some(Id([9; 16])),
            blocks: vec![cid, BlockCid::of(b"index").unwrap()],
            payloads: vec![payload],
            recipients: vec![recipient(4, None), recipient(5, Some(PrekeyId([6; 16])))],
        }
    }

    #[test]
    fn a_book_comes_back_as_it_was_written_for_its_owners_eyes_and_forgets_its_keys_when_closed() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(directory.path()).unwrap();
        let id = Id([1; 16]);
        assert_eq!(outbox.book(id).unwrap(), None);
        outbox.add_book(id, &book()).unwrap();
        assert_eq!(outbox.book(id).unwrap(), Some(book()));
        let file = directory.path().join(format!("{}.envelope", "01".repeat(16)));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        outbox.add_book(id, &book().closed()).unwrap();
        let closed = outbox.book(id).unwrap().unwrap();
        assert_eq!((closed.blocks.len(), closed.payloads[0].key.is_none()), (0, true));
        assert_eq!(closed.recipients, book().recipients);
        assert!(!std::fs::read_to_string(&file).unwrap().contains(&"03".repeat(32)));
        assert_eq!(outbox.notes().unwrap(), []);
        outbox.strike_book(id).unwrap();
        assert_eq!(outbox.books().unwrap(), []);
    }

    #[test]
    fn a_book_that_was_cut_or_changed_is_named_and_not_half_believed() {
        let text = book().text();
        assert_eq!(Book::parse(&text), Some(book()));
        let lines = text.lines().count();
        for end in 0..lines {
            let cut: String = text.lines().take(end).map(|line| format!("{line}\n")).collect();
            // The last recipients may be missing without a trace: a book is written whole or not at all.
            assert!(end == lines - 1 || Book::parse(&cut).is_none(), "{end} lines");
        }
        for (from, to) in [("-v1", "-v2"), ("to 0x04", "to 0xz4"), (" 0 -\n", " 1 -\n"), ("sent 1000", "sent soon")] {
            assert!(text.contains(from), "{from}");
            assert_eq!(Book::parse(&text.replace(from, to)), None, "{from} to {to}");
        }
    }

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
