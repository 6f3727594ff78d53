//! What the tests of several crates stand on, once: the tools that `.ci/tools` and `.ci/geth` install ([`tools`]), chain nodes of
//! either client ([`node`]), a realm on them ([`world`]) and nodes that lie ([`proxy`]). Nothing here stands in for a part of
//! Countersign, and nothing is skipped: a missing tool fails the test and says what installs it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a harness: whatever goes wrong is the test's result, told where it happened"
)]

pub mod mistakes;
pub mod node;
pub mod proxy;
pub mod tools;
pub mod world;
