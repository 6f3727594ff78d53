//! The command line as people use it: what needs no chain, and stories on a real one.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod arguments;
mod bed;
mod deployment;
mod devices;
mod explain;
mod leaving;
mod manual;
mod post;
mod signers;
mod stores;
mod story;
