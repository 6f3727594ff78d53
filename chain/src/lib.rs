//! Talking to EVM nodes: trusted headers, proofs, logs, transactions

pub mod endpoints;
pub mod keys;
pub mod profile;

mod error;

pub use error::ChainError;
