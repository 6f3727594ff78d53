//! The name service module `libnss_countersign.so.2`: users and groups of the realm, answered from the snapshot's `accounts`.
//!
//! It runs inside every process of the host that asks for a name, sshd and setuid programs among them. So it holds no state
//! between calls, takes no lock, starts no thread, opens no socket, believes no environment variable, and lets no panic
//! out. It never answers for a name or number that the host itself has, for numbers outside the range that a realm can give,
//! or for names that a host gives power to (`sudo`, `wheel`, …). It lists nobody: `getent passwd` without a name shows the host's own
//! users only.
//!
//! Whether somebody may log in is not decided here. Names outlive access: a removed user keeps its number and its name, so
//! that its files do not become somebody else's, and has no shell.

pub mod abi;
mod local;
mod lookup;
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod older_glibc;
mod rules;
mod settings;

pub use lookup::{Missing, Person, Places, Team, groups_of, person_by_name, person_by_uid, team_by_gid, team_by_name};
pub use rules::{is_assignable, is_name};
