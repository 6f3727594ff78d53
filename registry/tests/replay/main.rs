//! What replay concludes from a log, rule by rule (`docs/spec/replay.md`), and for random logs.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a record that is not there, or a number that overflows, is a failed test"
)]

mod activity;
mod authority;
mod directory;
mod history;
mod legs;
mod origins;
mod properties;
mod support;
mod views;
mod waiting;
