//! Scenarios against real sshd, real chain nodes, real files.
//!
//! A scenario is one `#[test]` with a sentence for a name. [`in_bed!`] runs its body in a bed (`tests/bed`): namespaces of its own
//! over this machine's Debian, where it may add users, write to `/etc` and start sshd; all of it ends with the scenario. Inside,
//! one process tree holds everything: the chain node, the agent, sshd and the clients, on a loopback that nobody else sees.
//!
//! Nothing here waits for a time to pass: [`wait::until`] watches for an event, with a deadline after which the scenario fails. A
//! missing tool, a missing binary and a missing right are failures that say what to do, never a test that passes.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a harness: whatever goes wrong is the scenario's result, told where it happened"
)]

pub mod agent;
pub mod anvil;
pub mod bed;
pub mod cli;
pub mod client;
pub mod forge;
pub mod ipfs;
pub mod issuer;
pub mod machine;
pub mod mint;
pub mod probe;
pub mod process;
pub mod realm;
pub mod sessions;
pub mod sshd;
pub mod story;
pub mod syslog;
pub mod tools;
pub mod wait;
