//! What can go wrong for a person at the command line, with a hint where there is something to do about it.
//!
//! Exit codes: 1 when what was asked cannot be done (the ledger, a policy, a file or a peer says no), 2 when what was typed or
//! configured makes no sense.

use std::path::PathBuf;

use alloy_primitives::KECCAK256_EMPTY;
use countersign_chain::ChainError;
use thiserror::Error;

/// Everything a command can fail with.
#[derive(Debug, Error)]
pub enum CliError {
    /// The configuration file is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// An argument is wrong in a way that only its meaning shows.
    #[error("{argument}: {problem}")]
    Argument {
        /// The flag or the operand.
        argument: &'static str,
        /// What was expected.
        problem: String,
    },
    /// A setting is needed and neither a flag, nor the environment, nor a configuration file gives it.
    #[error("{what} is needed: expected {flag}")]
    Missing {
        /// What is needed.
        what: &'static str,
        /// The flag that gives it.
        flag: &'static str,
    },
    /// The ledger knows no such record.
    #[error("{kind} `{name}`: not on the ledger of this realm")]
    Unknown {
        /// The sort of record.
        kind: &'static str,
        /// Id or name as typed.
        name: String,
    },
    /// Several records have that name.
    #[error("{kind} `{name}`: {count} records have this name; expected an id")]
    Ambiguous {
        /// The sort of record.
        kind: &'static str,
        /// The name as typed.
        name: String,
        /// How many.
        count: usize,
    },
    /// A page beyond the last.
    #[error("page {page}: the list has {pages} pages")]
    Page {
        /// As typed.
        page: usize,
        /// How many there are.
        pages: usize,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file has the wrong content.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected.
        problem: String,
    },
    /// A password that others can read.
    #[error("{path}: mode {mode:04o} lets others read a password; expected 0600")]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Standard input or output failed.
    #[error("standard {stream}: {source}")]
    Stream {
        /// `input` or `output`.
        stream: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The realm's settings or the present state forbid it.
    #[error("{0}")]
    Refused(String),
    /// A proposal cannot be signed or sent.
    #[error(transparent)]
    Proposal(#[from] crate::proposal::ProposalError),
    /// Reading or writing the chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The ledger cannot be read.
    #[error(transparent)]
    View(#[from] countersign_issuer::view::ViewError),
    /// Issuing failed.
    #[error(transparent)]
    Issue(#[from] countersign_issuer::IssueError),
    /// Sealing, opening or storing a delivery failed.
    #[error(transparent)]
    Delivery(#[from] countersign_delivery::DeliveryError),
}

impl CliError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Argument { .. } | Self::Missing { .. } | Self::Page { .. } => 2,
            _ => 1,
        }
    }

    /// What the reader can do, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { what: "a realm file", .. } => {
                Some("make one with `countersign realm create`, or ask the realm's owner for it".to_owned())
            }
            Self::Unknown { kind, .. } => match *kind {
                "CA" => Some("list them with `countersign ca list`".to_owned()),
                "user" | "group" | "host" | "key" | "grant" => {
                    Some(format!("list them with `countersign {kind} list`"))
                }
                _ => None,
            },
            Self::Chain(ChainError::CodeHash { got: KECCAK256_EMPTY, .. }) => {
                Some("deploy it with `countersign realm deploy`".to_owned())
            }
            Self::Issue(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Chain(error) => error.hint(),
            Self::View(error) => error.hint(),
            Self::Readable { path, .. } => Some(format!("chmod 600 {}", path.display())),
            _ => None,
        }
    }
}
