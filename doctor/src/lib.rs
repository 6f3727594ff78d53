//! What is wrong with a host on which sshd asks Countersign's helper: each thing with a stable code, what follows from it, and the line
//! or command that mends it (`docs/doctor-codes.md`).
//!
//! It asks the programs and files that a login really meets: `sshd -T`, also for those to whom a `Match` applies, owners and modes as sshd
//! judges them, the snapshot by the helper's own reader, the lists by a strict parser, and real logins ([`examine_logins`]). Looking changes
//! nothing on the host, starts no daemon and asks no network. What it cannot look at it names as not looked at: no finding is never for want
//! of looking. What changes a host is [`enable`] and [`disable`] alone.

mod accounts;
mod address;
mod admission;
mod arguments;
mod asked;
mod code;
mod commands;
mod config;
mod elf;
mod examine;
mod finding;
mod host;
mod lists;
mod login;
mod matches;
mod names;
mod pam;
mod pattern;
mod programs;
mod run;
mod running;
mod selinux;
mod settings;
mod sshd;
mod state;
mod switch;
mod trust;

pub use code::Code;
pub use examine::examine;
pub use finding::{Finding, Report, Severity, Unchecked};
pub use host::{Agent, Host};
pub use login::{Credential, Logins, examine_logins};
pub use sshd::{Effective, Spec, Version};
pub use switch::{
    Change, Earlier, Plan, Recovery, SESSION_LINE, SETTINGS, Service, Wishes, disable, enable, recovery_path, running,
};
