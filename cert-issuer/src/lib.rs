//! Issues certificates: policy, signing, batches, delivery.
//!
//! Everything that the issuer decides it decides from the realm's verified ledger, and with the very function that hosts use: before
//! a certificate is logged, and again before it is handed out, the target host's snapshot is compiled and asked. What a host would
//! refuse is refused here, with the same reason code.

pub mod answered;
pub mod ca_key;
pub mod config;
pub mod deliver;
pub mod duration;
pub mod issue;
pub mod judge;
pub mod leaves;
pub mod mailing;
mod notify;
pub mod outbox;
pub mod policy;
pub mod rotate;
pub mod run;
pub mod service;
pub mod ssh_agent;
pub mod turns;
pub mod view;
pub mod watch;
pub mod wire;

mod error;

pub use error::IssueError;
