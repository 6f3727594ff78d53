//! What can go wrong with a snapshot: opening it, reading it, publishing it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::tables::Generation;

/// Why a snapshot could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// There is none: no directory or no manifest.
    Absent {
        /// What was looked for.
        path: PathBuf,
    },
    /// Somebody other than the trusted owner could have written it.
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        found: Distrust,
    },
    /// It is not as its format says.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
    },
    /// The files named by the manifest went away, each time it was read.
    Vanished {
        /// The file missed last.
        path: PathBuf,
    },
    /// The system refused.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
}

/// Why a file or directory is not trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Distrust {
    /// A symbolic link.
    SymbolicLink,
    /// Not a regular file (or, where a directory is expected, not a directory).
    Type,
    /// Owned by this user id.
    Owner(u32),
    /// Group or others may write: these permission bits.
    Writable(u32),
    /// More than one name leads to it: this many.
    HardLinks(u64),
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SymbolicLink => write!(f, "is a symbolic link"),
            Self::Type => write!(f, "is of the wrong file type"),
            Self::Owner(uid) => write!(f, "is owned by uid {uid}"),
            Self::Writable(mode) => write!(f, "is writable by group or others (mode {mode:04o})"),
            Self::HardLinks(count) => write!(f, "has {count} hard links, expected 1"),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { path } => write!(f, "no snapshot at {}", path.display()),
            Self::Untrusted { path, found } => write!(f, "{} {found}", path.display()),
            Self::Corrupt { path, expected } => write!(f, "{} is corrupt: expected {expected}", path.display()),
            Self::Vanished { path } => write!(f, "{} is named by the manifest but missing", path.display()),
            Self::Io { path, .. } => write!(f, "cannot open {}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Why a lookup has no answer. Never to be taken for "not there".
#[derive(Debug)]
pub enum ReadError {
    /// A page, record or blob is not as its format says.
    Corrupt {
        /// The file: `base` or `delta`.
        file: &'static str,
        /// Its generation.
        generation: u64,
        /// The page, counted from the header's, 0.
        page: u32,
        /// What was expected.
        expected: &'static str,
    },
    /// The system refused.
    Io {
        /// The file: `base` or `delta`.
        file: &'static str,
        /// Its generation.
        generation: u64,
        /// Its words.
        source: io::Error,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt { file, generation, page, expected } => {
                write!(f, "page {page} of {file}.{generation} is corrupt: expected {expected}")
            }
            Self::Io { file, generation, .. } => write!(f, "cannot read {file}.{generation}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Corrupt { .. } => None,
        }
    }
}

/// Why nothing was published, or not for good: what was published before is untouched, or what is published now may not outlive a loss
/// of power.
#[derive(Debug)]
pub enum PublishError {
    /// Another process is publishing.
    Busy {
        /// The snapshot's directory.
        path: PathBuf,
    },
    /// The same key stands twice in a table, so a lookup would have two answers.
    Duplicate {
        /// The table's name.
        table: &'static str,
    },
    /// A value does not fit its field.
    TooLong {
        /// The table's name.
        table: &'static str,
        /// The field.
        field: &'static str,
    },
    /// More than the format can hold.
    TooLarge {
        /// The file's generation.
        generation: Generation,
    },
    /// The times contradict each other.
    Times {
        /// What was expected of them.
        expected: &'static str,
    },
    /// There is no base that this delta or refresh could stand on, or it is another realm's, host's or salt's.
    Base {
        /// What was expected.
        expected: &'static str,
    },
    /// What was found there before is unusable.
    Open(OpenError),
    /// What was written does not read back as it should.
    Verify(ReadError),
    /// The system refused.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { path } => write!(f, "another process is publishing in {}", path.display()),
            Self::Duplicate { table } => write!(f, "two records of table {table} have the same key"),
            Self::TooLong { table, field } => write!(f, "field {field} of table {table} is too long"),
            Self::TooLarge { generation } => write!(f, "generation {generation} does not fit the format"),
            Self::Times { expected } => write!(f, "times to publish contradict each other: expected {expected}"),
            Self::Base { expected } => write!(f, "nothing to build on: expected {expected}"),
            Self::Open(_) => write!(f, "the snapshot to build on cannot be opened"),
            Self::Verify(_) => write!(f, "what was written does not read back"),
            Self::Io { path, .. } => write!(f, "cannot write {}", path.display()),
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open(source) => Some(source),
            Self::Verify(source) => Some(source),
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
