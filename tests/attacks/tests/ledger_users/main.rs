//! Those who may write to the ledger, and those who may not: every sort of actor, every class of entry, every way to write, and
//! whatever can be wrong with a signature or a payload. The contract is the real one on a real chain, and what a write then means
//! is read from the state of a real agent that has synced and published it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "what tests share fails loudly"
)]

mod faults;
mod ground;
mod malformed;
mod moments;
mod samples;
mod senseless;
mod signatures;
mod spec;
mod table;
