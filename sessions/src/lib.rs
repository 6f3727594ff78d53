//! Sessions end when the access ends that let them in (`docs/spec/sessions.md`).
//!
//! What let a session in is told by sshd itself, to PAM, to the journal or to nobody (`countersign_sshd`'s notes and records); whether it still holds is
//! decided by the login's own decision function; what belongs to a session is what the kernel says. [`Keeper`] does this again and
//! again, for the agent; [`list`] and [`end`] do it once, for a person.
//!
//! It never signals a process that it has not got hold of by a pidfd, and then found to be the one that was meant: number and start time,
//! in this boot, run by root from a program named as sshd's. What is not known for certain is listed, and left alone.

mod attribute;
mod ending;
mod error;
mod journal;
mod judge;
mod keeper;
mod list;
mod members;
mod process;
mod socket;
mod store;
mod terminal;

pub use error::SessionsError;
pub use judge::{Standing, standing};
pub use keeper::{Event, EventKind, Keeper, Settings, WARNING_SECS};
pub use list::{Session, State, end, list};
pub use socket::address_of_kernel;
pub use store::{Store, prepare};
