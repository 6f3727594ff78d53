//! What a decision looked at, in order: for `countersign explain`. The login path passes an observer that ignores it.

use std::fmt;

use countersign_certificate::{CertType, Certificate, Fingerprint20, Id, LogProof, Scope, Serial, Target};
use countersign_snapshot::{Approval, Batch, Ca, Facts, Grant, Key, Login, Request, User};

/// One fact that a decision rests on. Times are Unix seconds.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// The snapshot is fresh; the blocks it speaks for.
    Snapshot(&'a Facts),
    /// The login is a ledger user's.
    LedgerLogin(&'a Login),
    /// The login is a local account's.
    LocalLogin,
    /// The key is neither locked nor revoked.
    KeyNotDenied(Fingerprint20),
    /// The key is registered.
    Key(Fingerprint20, &'a Key),
    /// The certificate reads, and is valid now.
    Certificate(&'a Certificate<'a>),
    /// The CA counts.
    Ca(&'a Ca),
    /// The scope takes this host in.
    Scope(&'a Scope),
    /// The user counts.
    User(Id, &'a User),
    /// The grant covers user, login, host and hour.
    Grant(Id, &'a Grant),
    /// The serial is not revoked.
    SerialNotRevoked(Id, Serial),
    /// The proof leads to the root of this batch.
    Batch(&'a LogProof, &'a Batch),
    /// The realm does not ask for a log proof, and there is none.
    NotLogged,
    /// The request asked for exactly this.
    Request(Id, &'a Request),
    /// An approval that counts, by request and ordinal.
    Approval(Id, u8, &'a Approval),
}

impl Step<'_> {
    /// A stable name for it, in kebab-case.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Snapshot(_) => "snapshot",
            Self::LedgerLogin(_) | Self::LocalLogin => "login",
            Self::KeyNotDenied(_) => "key-not-denied",
            Self::Key(..) => "key",
            Self::Certificate(_) => "certificate",
            Self::Ca(_) => "ca",
            Self::Scope(_) => "scope",
            Self::User(..) => "user",
            Self::Grant(..) => "grant",
            Self::SerialNotRevoked(..) => "serial-not-revoked",
            Self::Batch(..) => "batch",
            Self::NotLogged => "not-logged",
            Self::Request(..) => "request",
            Self::Approval(..) => "approval",
        }
    }
}

/// One sentence, lower case, no full stop.
impl fmt::Display for Step<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(facts) => write!(
                out,
                "snapshot of realm {} for host {}: authority as of block {}, denials as of block {}",
                facts.realm, facts.host, facts.final_block.number, facts.latest_block.number
            ),
            Self::LedgerLogin(login) => write!(out, "the login is ledger user {} with uid {}", login.user, login.uid.0),
            Self::LocalLogin => write!(out, "the login is a local account"),
            Self::KeyNotDenied(key) => write!(out, "key {key} is neither locked nor revoked"),
            Self::Key(key, record) => write!(out, "key {key} is registered to user {}", record.user),
            Self::Certificate(certificate) => {
                let kind = if certificate.cert_type == CertType::User { "user" } else { "host" };
                let (serial, after, before) = (certificate.serial, certificate.valid_after, certificate.valid_before);
                write!(out, "{kind} certificate {serial} is valid from {after} until before {before}")
            }
            Self::Ca(ca) => write!(out, "ca {} signed it and may certify this login", ca.id),
            Self::Scope(scope) => {
                write!(out, "scope names user {}, grant {}, request {} and ", scope.user, scope.grant, scope.request)?;
                match scope.target {
                    Target::Host(host) => write!(out, "host {host}"),
                    Target::Label(_) => write!(out, "a label of this host"),
                    Target::AllHosts => write!(out, "all hosts"),
                }
            }
            Self::User(id, user) => write!(out, "user {id} ({}) is active", user.login),
            Self::Grant(id, _) => write!(out, "grant {id} covers this user, login, host and hour"),
            Self::SerialNotRevoked(ca, serial) => write!(out, "serial {serial} of ca {ca} is not revoked"),
            Self::Batch(proof, batch) => write!(
                out,
                "leaf {} of {} stands in batch {}, logged in block {} at {}",
                proof.index(),
                proof.size(),
                proof.batch(),
                batch.block,
                batch.time_secs
            ),
            Self::NotLogged => write!(out, "the realm does not ask for a log proof, and there is none"),
            Self::Request(id, request) => {
                write!(out, "request {id} of user {} asked for exactly this at {}", request.user, request.time_secs)
            }
            Self::Approval(_, _, approval) => match approval.approver {
                Some(approver) => write!(out, "user {approver} approved it at {}", approval.time_secs),
                None => write!(out, "nobody approved it"),
            },
        }
    }
}
