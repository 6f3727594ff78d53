//! What can go wrong around sessions: never a reason to end one.

use std::io;
use std::path::PathBuf;

/// Why sessions cannot be looked after.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// The folders of notes and records.
    #[error("cannot use {}: {source}", path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The clock.
    #[error("cannot read the clock: {0}")]
    Clock(io::Error),
    /// A process.
    #[error("cannot take hold of process {pid}: {source} (Linux 5.3 or later is needed)")]
    Handle {
        /// Its number.
        pid: u32,
        /// What the system says.
        source: io::Error,
    },
    /// No session has this id.
    #[error("no session {0}")]
    Unknown(String),
    /// It is not certain what let the session in, or what its processes are.
    #[error("session {0} is not ended: it is not certain what let it in")]
    Uncertain(String),
}
