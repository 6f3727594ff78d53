//! What tries to get in, against the real parts: the agent's library in front of a real chain node, with a proxy between them
//! that lies. The world ([`world`]) and the proxy ([`proxy`]) are those of the agent's and the chain client's own tests, so there is
//! one of each. Nothing here stands in for a part of Countersign.
//!
//! An attack changes what the world says and asserts two things: the exact reason code, and that the bytes of the published
//! snapshot are what they were. `docs/development.md` says how to add one.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a harness: whatever goes wrong is the test's result, told where it happened"
)]

pub mod lie;
pub mod mutate;
pub mod stage;

#[path = "../../../chain/tests/support/proxy.rs"]
#[expect(missing_docs, reason = "test support of the chain client, used from here as well")]
pub mod proxy;
#[path = "../../../host-agent/tests/support/mod.rs"]
#[expect(missing_docs, reason = "test support of the agent, used from here as well")]
pub mod world;
