//! Logins as sshd asks about them: the decision case by case, and the program itself.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a world that cannot be built is a failed test"
)]

mod attacks;
mod authorized_keys;
mod binary;
mod chain;
mod decisions;
mod sessions;
mod support;
