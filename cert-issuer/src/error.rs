//! What issuing can fail with. A refusal carries the reason code that a host would log.

use countersign_certificate::{CertificateError, Id};
use countersign_sshd::Reason;
use thiserror::Error;

use crate::ca_key::CaKeyError;

/// Why there is no certificate, or why it was not delivered.
#[derive(Debug, Error)]
pub enum IssueError {
    /// A host would refuse it.
    #[error("refused: {reason}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Refused {
        /// The code in the host's log.
        reason: Reason,
        /// More about it, or empty.
        detail: String,
    },
    /// It was logged and signed, and the host would refuse it all the same: it is not handed out.
    #[error("withheld: batch {batch} is logged, but the host would refuse the certificate: {reason}: {detail}")]
    Withheld {
        /// The batch.
        batch: Id,
        /// The code in the host's log.
        reason: Reason,
        /// More about it, or empty.
        detail: String,
    },
    /// The batch entry did not show up on the verified ledger.
    #[error("batch {batch}: not on the verified ledger {seconds} s after it was sent")]
    NotLogged {
        /// The batch.
        batch: Id,
        /// How long this waited.
        seconds: u64,
    },
    /// Too few watchdogs countersigned in time; hosts refuse its certificates until they do.
    #[error(
        "batch {batch}: {have} of {need} countersignatures {seconds} s after it was logged; not heard from: {}",
        if silent.is_empty() { "nobody else may countersign" } else { silent }
    )]
    NotCountersigned {
        /// The batch.
        batch: Id,
        /// Countersignatures that count.
        have: u64,
        /// What the realm asks for.
        need: u64,
        /// How long this waited.
        seconds: u64,
        /// The addresses of the watchdogs that did not countersign, separated by blanks.
        silent: String,
    },
    /// The realm asks for countersignatures that nobody could give.
    #[error(
        "the realm asks for {need} countersignatures, and {have} watchdogs other than the issuer have a sealing key on the ledger"
    )]
    Watchdogs {
        /// Watchdogs that can read a batch.
        have: usize,
        /// What the realm asks for.
        need: u64,
    },
    /// A ledger key that may not watch.
    #[error("{address} {problem}")]
    Watchdog {
        /// The ledger key.
        address: countersign_registry::Address,
        /// What was expected.
        problem: &'static str,
    },
    /// A service's own notes.
    #[error("{0}")]
    Notes(String),
    /// The realm asks for countersignatures, and there is nothing to seal the leaves with.
    #[error(
        "the realm asks for countersignatures: expected the issuer's delivery key and a block store, to show the batch to its watchdogs"
    )]
    NothingToSealWith,
    /// The sealed leaves of a batch would not fit into one block; the rest goes into the next batch.
    #[error("the batch is full; expected to be issued with the next one")]
    BatchFull,
    /// What would be written, every reader would ignore.
    #[error("every reader would ignore this: {0}")]
    Ignored(String),
    /// Reading the ledger failed.
    #[error(transparent)]
    View(#[from] crate::view::ViewError),
    /// Writing to the ledger failed.
    #[error(transparent)]
    Chain(#[from] countersign_chain::ChainError),
    /// The CA's key.
    #[error(transparent)]
    CaKey(#[from] CaKeyError),
    /// An ssh-agent.
    #[error(transparent)]
    Agent(#[from] crate::ssh_agent::AgentError),
    /// The certificate cannot be laid out.
    #[error(transparent)]
    Wire(#[from] crate::wire::WireError),
    /// The certificate's own layouts.
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The rehearsal could not be held.
    #[error(transparent)]
    Judge(#[from] crate::judge::JudgeError),
    /// Sealing or storing.
    #[error(transparent)]
    Delivery(#[from] countersign_delivery::DeliveryError),
    /// A recipient publishes prekeys, or must, and none is left for this sender.
    #[error("recipient {recipient} has no unused prekey on the ledger, which this is to be sealed to")]
    Prekey {
        /// The recipient's ledger key.
        recipient: countersign_registry::Address,
    },
    /// The sender's or recipient's keys do not fit the ledger.
    #[error("delivery: {0}")]
    Recipient(String),
    /// The books of what was sent.
    #[error(transparent)]
    Outbox(#[from] crate::outbox::OutboxError),
    /// No random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
    /// An OpenSSH key cannot be made or written down.
    #[error("key pair: {0}")]
    KeyPair(ssh_key::Error),
    /// A batch holds more certificates than an entry can say.
    #[error("a batch of {0} certificates: expected 1 to 2^32 - 1")]
    BatchSize(usize),
}

impl IssueError {
    /// A refusal.
    pub(crate) fn refused(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Refused { reason, detail: detail.into() }
    }

    /// The reason code, where a host would refuse.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused { reason, .. } | Self::Withheld { reason, .. } => Some(*reason),
            Self::NotCountersigned { .. } => Some(Reason::BatchWaiting),
            _ => None,
        }
    }

    /// What the reader can do, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Chain(error) => return error.hint(),
            Self::View(error) => return error.hint(),
            Self::CaKey(CaKeyError::Mode { path, .. }) => return Some(format!("chmod 600 {}", path.display())),
            _ => {}
        }
        let text = match self.reason()? {
            Reason::NoGrant | Reason::HostNotCovered | Reason::LoginNotGranted => {
                "list what the user was granted with `countersign grant list --user USER`; new grants count once they are final"
            }
            Reason::ApprovalsMissing | Reason::RequestUnknown => {
                "this grant needs approvals: `countersign request`, then `countersign approve`, then `issue --request ID`"
            }
            Reason::TtlTooLong => "the realm, the CA and the grant each limit the life of a certificate; ask for less",
            Reason::BatchWaiting => {
                "ask those who run the watchdogs: `countersign-issuer watch status` there says what each thinks of the batch"
            }
            Reason::SnapshotStale | Reason::Clock => "compare this machine's clock with the chain's newest block",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
