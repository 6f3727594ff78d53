//! What tries to get in, against the real parts: the agent's library in front of a real chain node of either client, with a proxy
//! between them that lies. Nodes, realm and proxy are those of `tests/harness`, which the agent's and the chain client's own tests
//! stand on too; a host's files ([`world`]) are those of the agent's. Nothing here stands in for a part of Countersign.
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

/// Makes two tests of each function that takes a [`node::Client`]: `anvil::NAME` and `geth::NAME`.
#[macro_export]
macro_rules! on_both_clients {
    ($($name:ident),* $(,)?) => {
        mod anvil {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::node::Client::Anvil).await;
            })*
        }
        mod geth {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::node::Client::Geth).await;
            })*
        }
    };
}

pub mod cast;
pub mod lie;
pub mod mutate;
pub mod paper;
pub mod stage;

pub use harness::{node, proxy};

#[path = "../../../host-agent/tests/support/mod.rs"]
#[expect(missing_docs, reason = "test support of the agent, used from here as well")]
pub mod world;
