//! What sshd asks on every login: may this key or certificate into this login, here, now?
//!
//! [`decide()`] answers from a snapshot alone, in one documented order of checks (`docs/reason-codes.md`); both modes of the
//! binary `countersign-sshd`, the issuer and `countersign explain` call it, so that they cannot disagree. sshd verifies the
//! signatures (the client's and the CA's); nothing here replaces that.
//!
//! It refuses on any doubt, with a [`Reason`]. It does no network I/O, takes no lock and writes nothing but one line to
//! standard output and one to syslog.
//!
//! There is one parser of keys and certificates in the login path, `countersign-certificate`'s. `ssh-key` is a second opinion in
//! its tests only: in here it would triple the crates that run as part of every login and decide nothing.

mod deadline;
mod decide;
mod log;
mod options;
mod query;
mod reason;
mod step;

pub use deadline::Deadline;
pub use decide::{CaName, Refusal, Verdict, VerdictFacts, decide, decide_observed, decide_on};
pub use log::{log_line, send_to_syslog};
pub use query::{Claims, Mode, Query};
pub use reason::{Reason, Severity};
pub use step::Step;
