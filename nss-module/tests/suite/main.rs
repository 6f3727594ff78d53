//! The module's answers, and the module in its place.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests may")]

mod answers;
mod module;
mod support;
