//! What the service remembers of each rotation: one file per payload name, replaced whole and synced before anything is logged, so that
//! whatever kills the service, a half-made rotation goes on where it was and none is made twice for one due time. No secret is in it: what
//! was made is sealed already, and only the ledger entry that is still to be written stands here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use alloy_primitives::hex;
use countersign_registry::entries::{Entry, Kind};
use countersign_registry::{Address, Effective, EntryRef, Id};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The format of the files.
const FORMAT: u32 = 1;

/// The wait after making failed once, seconds; doubled each time.
const FIRST_WAIT_SECS: u64 = 60;

/// The longest wait, seconds.
const LONGEST_WAIT_SECS: u64 = 3_600;

/// The books cannot be read or kept.
#[derive(Debug, Error)]
pub enum BookError {
    /// A file or the directory.
    #[error("rotation {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Not what this version writes.
    #[error("rotation {path}: expected what this version writes there")]
    Malformed {
        /// Which.
        path: PathBuf,
    },
}

/// One payload's history. Times are the ledger's, Unix seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Page {
    format: u32,
    /// What recipients have, or are to have.
    pub current: Option<Current>,
    /// What was made and is not on the ledger yet.
    pub next: Option<Next>,
    /// How often in a row making failed.
    pub failures: u32,
    /// Nothing is made before this time.
    pub retry: u64,
    /// Why, in words.
    pub problem: Option<String>,
}

/// A rotation that is on the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Current {
    /// Its envelope, and those that repeat it; or its public data.
    pub ids: Vec<Id>,
    /// The block time of the first.
    pub logged: u64,
    /// When it was made.
    pub made: u64,
    /// The first second in which it does not count any more, where it says so itself.
    pub expires: Option<u64>,
    /// Whom it was for, each with the host or user it speaks for.
    pub recipients: BTreeMap<Address, Id>,
    /// Those of them who have acknowledged it finally.
    pub acknowledged: BTreeSet<Address>,
    /// Its public halves, as far as they are published, where any are.
    pub public: Vec<Half>,
    /// The public halves of the one before that are still published beside its own.
    pub old: Vec<Half>,
    /// Who was meant and got nothing, and why.
    pub left_out: BTreeMap<Id, String>,
    /// When it was last sent.
    pub sent: u64,
    /// How often it was sent again.
    pub resends: u32,
    /// An entry about it that is still to be logged.
    pub letter: Option<Letter>,
}

/// A rotation that is not on the ledger yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Next {
    /// What announces its public halves, before it.
    pub announcement: Option<Letter>,
    /// The envelope, or the public data.
    pub letter: Letter,
    /// When it was made.
    pub made: u64,
    /// As in [`Current`].
    pub expires: Option<u64>,
    /// As in [`Current`].
    pub recipients: BTreeMap<Address, Id>,
    /// As in [`Current`].
    pub public: Vec<Half>,
    /// As in [`Current`].
    pub old: Vec<Half>,
    /// As in [`Current`].
    pub left_out: BTreeMap<Id, String>,
}

/// A public half that is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Half {
    /// The host or user whose pair it is of; none where all have the same.
    pub subject: Option<Id>,
    /// One line, or PEM.
    pub text: String,
}

/// An entry that is to be logged once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Letter {
    /// The record id that it gets.
    pub id: Id,
    kind: u16,
    data: String,
    /// When its transaction was last sent, if it was.
    pub sent: Option<u64>,
}

impl Letter {
    /// An entry that gets the record id `id`.
    #[must_use]
    pub fn new(id: Id, entry: &Entry) -> Self {
        Self { id, kind: entry.kind().0, data: hex::encode(entry.encode()), sent: None }
    }

    /// The entry; none for what does not read.
    #[must_use]
    pub fn entry(&self) -> Option<Entry> {
        Entry::decode(Kind(self.kind), &hex::decode(&self.data).ok()?).ok()
    }

    /// Where it stands on the ledger, if it does.
    #[must_use]
    pub fn on(&self, effective: &Effective) -> Option<EntryRef> {
        let envelope = effective.envelopes.get(&self.id).map(|envelope| envelope.at);
        envelope.or_else(|| effective.public_data.get(&self.id).map(|data| data.at))
    }

    /// Whether its transaction may be sent at `now`: none was, or one that nobody sees was sent at least `holds` seconds ago. A second one
    /// would be ignored by every reader, since its record id is taken.
    #[must_use]
    pub fn may_send(&self, now: u64, holds: u64) -> bool {
        self.sent.is_none_or(|sent| now.saturating_sub(sent) >= holds)
    }
}

/// Which of a page's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The announcement of what is next.
    Announcement,
    /// What is next.
    Next,
    /// One about what is there.
    Current,
}

impl Page {
    /// One of its letters, if it is there.
    pub fn letter(&mut self, place: Place) -> Option<&mut Letter> {
        match place {
            Place::Announcement => self.next.as_mut()?.announcement.as_mut(),
            Place::Next => self.next.as_mut().map(|next| &mut next.letter),
            Place::Current => self.current.as_mut()?.letter.as_mut(),
        }
    }

    /// Notes at `now` that making failed.
    pub fn failed(&mut self, now: u64, problem: String) {
        let doubled = FIRST_WAIT_SECS.saturating_mul(1_u64.checked_shl(self.failures).unwrap_or(u64::MAX));
        self.retry = now.saturating_add(doubled.min(LONGEST_WAIT_SECS));
        self.failures = self.failures.saturating_add(1);
        self.problem = Some(problem);
    }

    /// Notes that it did not.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.retry = 0;
        self.problem = None;
    }
}

/// The directory of pages.
#[derive(Debug, Clone)]
pub struct Pages {
    path: PathBuf,
}

impl Pages {
    /// Opens the directory, making it (not its parents) where it is absent.
    ///
    /// # Errors
    /// [`BookError::File`].
    pub fn open(path: &Path) -> Result<Self, BookError> {
        match std::fs::create_dir(path) {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(BookError::File { path: path.to_owned(), source })
            }
            _ => Ok(Self { path: path.to_owned() }),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.json"))
    }

    /// A payload's page; an empty one where there is none.
    ///
    /// # Errors
    /// See [`BookError`]. Not to know what was made is not to make anything.
    pub fn read(&self, name: &str) -> Result<Page, BookError> {
        let path = self.file(name);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Page { format: FORMAT, ..Page::default() });
            }
            Err(source) => return Err(BookError::File { path, source }),
        };
        let page = serde_json::from_slice::<Page>(&text).ok().filter(|page| page.format == FORMAT);
        let letters = |page: &Page| {
            let next = page.next.iter().flat_map(|next| next.announcement.iter().chain([&next.letter]));
            let current = page.current.iter().filter_map(|current| current.letter.as_ref());
            next.chain(current).all(|letter| letter.entry().is_some())
        };
        page.filter(letters).ok_or(BookError::Malformed { path })
    }

    /// Replaces a payload's page, on disk when this returns.
    ///
    /// # Errors
    /// [`BookError::File`].
    pub fn write(&self, name: &str, page: &Page) -> Result<(), BookError> {
        let path = self.file(name);
        let write = || -> std::io::Result<()> {
            let text = serde_json::to_vec_pretty(page).map_err(std::io::Error::other)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            std::fs::File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| BookError::File { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use countersign_registry::entries::payload;

    use super::*;

    fn letter() -> Letter {
        let entry = payload::PublicData { r: [1; 16].into(), name: "keys".into(), data: b"x".to_vec().into() };
        Letter::new(Id([2; 16]), &Entry::PublicData(entry))
    }

    fn page() -> Page {
        let next = Next {
            announcement: Some(letter()),
            letter: letter(),
            made: 5,
            expires: Some(90),
            recipients: BTreeMap::from([(Address::repeat_byte(3), Id([4; 16]))]),
            public: vec![Half { subject: Some(Id([4; 16])), text: "ssh-ed25519 AAAA".to_owned() }],
            old: Vec::new(),
            left_out: BTreeMap::from([(Id([5; 16]), "locked".to_owned())]),
        };
        Page { format: FORMAT, next: Some(next), ..Page::default() }
    }

    #[test]
    fn a_page_reads_back_and_one_that_does_not_read_is_an_error_and_not_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let pages = Pages::open(&directory.path().join("rotate")).unwrap();
        assert_eq!(pages.read("www").unwrap(), Page { format: FORMAT, ..Page::default() });
        pages.write("www", &page()).unwrap();
        assert_eq!(pages.read("www").unwrap(), page());
        let path = directory.path().join("rotate/www.json");
        let text = std::fs::read_to_string(&path).unwrap();
        for wrong in [
            "".to_owned(),
            text.replace("\"format\": 1", "\"format\": 2"),
            text.replace("\"retry\"", "\"retires\""),
            text.replacen("\"data\": \"00", "\"data\": \"01", 1),
            text[..text.len() - 2].to_owned(),
        ] {
            assert_ne!(wrong, text);
            std::fs::write(&path, wrong).unwrap();
            assert!(matches!(pages.read("www"), Err(BookError::Malformed { .. })));
        }
    }

    #[test]
    fn a_transaction_is_sent_again_only_when_it_cannot_be_mined_any_more() {
        let mut letter = letter();
        assert!(letter.may_send(1_000, 100));
        letter.sent = Some(1_000);
        assert!(!letter.may_send(1_099, 100) && !letter.may_send(0, 100));
        assert!(letter.may_send(1_100, 100));
        assert!(matches!(letter.entry(), Some(Entry::PublicData(_))));
    }

    #[test]
    fn what_cannot_be_made_is_tried_less_and_less_often() {
        let mut page = Page::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            page.failed(1_000, "no".to_owned());
            waits.push(page.retry - 1_000);
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
        page.succeeded();
        assert_eq!(page, Page::default());
    }
}
