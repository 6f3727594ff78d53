//! The agent on a host: syncs the ledger, publishes the snapshot that logins are answered from, receives deliveries, ends sessions.
//!
//! Every failure keeps the old snapshot and has a stable reason code ([`reason::Reason`]); nothing that a peer says is used
//! before it was proved against the pinned realm, and nothing is ever published that would take a known denial away.

pub mod agent;
pub mod config;
pub mod cycle;
pub mod device;
pub mod earlier;
pub mod envelope;
pub mod lock;
pub mod log;
pub mod notify;
pub mod reason;
pub mod receive;
pub mod renewal;
pub mod run;
pub mod sessions;
pub mod state;
pub mod status;
pub mod verify;

mod ca_list;
mod following;
mod in_place;
mod origins;
mod plain_sshd;
mod prekeys;
mod publishing;
mod receiving;
mod renewing;

pub use countersign_chain::files;
