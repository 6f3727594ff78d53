//! What sshd asks on every login: may this key or certificate into this login, here, now?
//!
//! [`decide()`] answers from a snapshot alone, in one documented order of checks (`docs/reason-codes.md`); both modes of the
//! binary `countersign-sshd`, the issuer and `countersign explain` call it, so that they cannot disagree. sshd verifies the
//! signatures (the client's and the CA's); nothing here replaces that.
//!
//! It refuses on any doubt, with a [`Reason`]. It does no network I/O, takes no lock and writes nothing but one line to
//! standard output, one to syslog, and, where it granted, a note for the agent ([`leave()`]) that no login depends on. About logins
//! that are none of the realm's business, and only where a host is set up so, it asks the AuthorizedKeysCommand that was there
//! before ([`Earlier`]).
//!
//! There is one parser of keys and certificates in the login path, `countersign-certificate`'s. `ssh-key` is a second opinion in
//! its tests only: in here it would triple the crates that run as part of every login and decide nothing.

pub mod authorized_keys;
mod deadline;
mod decide;
mod earlier;
mod folder;
mod log;
mod note;
mod options;
mod process;
pub mod program;
mod query;
mod reason;
mod session;
mod step;

pub use deadline::{Deadline, GRACE, Late};
pub use decide::{
    Answer, CaName, Refusal, Verdict, VerdictFacts, answer, answer_on, decide, decide_observed, decide_on,
    decide_session, denied,
};
pub use earlier::{Earlier, Group, MAX_OUTPUT_BYTES, lines_of_key};
pub use folder::Folder;
pub use log::{log_line, log_line_of_earlier, send_to_syslog};
pub use note::{
    Accepted, Granter, MAX_NOTE_BYTES, MAX_NOTES, Note, NoteError, OFFERS, RUNTIME, Record, SESSIONS, leave,
};
pub use process::{ProcessName, Stat};
pub use query::{Claims, Mode, Query};
pub use reason::{Reason, SessionEnd, Severity};
pub use session::{Opened, accepted, record_session};
pub use step::Step;
