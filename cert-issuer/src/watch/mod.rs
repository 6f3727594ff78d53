//! The watchdog: looks at each batch that the realm's issuers log, and countersigns it, or says why not.
//!
//! It believes nobody: the ledger is verified as a host verifies it, the leaves are opened and their root computed again, each
//! certificate is put before the very function that its host decides with, and then before this watchdog's own policy. It holds no key
//! that could make a certificate, and refuses to work with a ledger key that may log batches too.

pub mod config;
pub mod judge;
pub mod policy;
pub mod run;
pub mod sent;

pub use config::WatchConfig;
pub use judge::{Objection, Watchdog, Why, before_leaves, judge};
pub use policy::Policy;
pub use run::{Watch, WatchStatus, read_status};
