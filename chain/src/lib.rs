//! Talking to EVM nodes: headers to trust, proofs of the registry's storage, the entries behind them, and transactions.
//!
//! What is read is verified here or refused here: a caller gets entries whose hash chain ends at a slot proved under a header
//! that its [`source`](source::HeaderSource) trusts, never a node's bare word. Nodes that lie, lag, omit or fall silent cost
//! time. Whether entries *mean* anything is the business of `countersign-registry`.

pub mod archive;
pub mod contract;
pub mod deployment;
pub mod endpoints;
pub mod files;
pub mod history;
pub mod keys;
pub mod logs;
pub mod predecessor;
pub mod profile;
pub mod proofs;
pub mod realm_file;
pub mod send;
pub mod signing;
pub mod source;
pub mod spool;
pub mod survey;
pub mod sync;
pub mod wallet;

mod error;
mod progress;
mod suffix;
mod transaction;

pub use error::ChainError;
