//! What is told of a transaction on its way, and how long each step may take.

use std::time::Duration;

use alloy_primitives::{B256, U256};
use countersign_registry::head::LogEntry;

use crate::profile::{ChainProfile, ProfileName};

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two looks for the receipt.
    pub poll: Duration,
    /// Until a transaction is sent again with a higher fee.
    pub stuck: Duration,
    /// Until [`ChainError::NotMined`].
    pub give_up: Duration,
}

impl Patience {
    /// What suits a chain.
    #[must_use]
    pub fn of(profile: &ChainProfile) -> Self {
        let dev = profile.name == ProfileName::Dev;
        Self {
            poll: if dev { Duration::from_millis(200) } else { Duration::from_secs(2) },
            stuck: Duration::from_secs(profile.stuck_secs),
            give_up: Duration::from_secs(profile.stuck_secs.saturating_mul(10)),
        }
    }
}

/// What happens to a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Signed, about to be sent: the hash to resume with.
    Sending {
        /// Transaction hash.
        transaction: B256,
        /// The account's nonce.
        nonce: u64,
        /// At most this many wei.
        cost: U256,
    },
    /// A node has it.
    Sent {
        /// Transaction hash.
        transaction: B256,
    },
    /// Not mined yet.
    Waiting {
        /// Transaction hash.
        transaction: B256,
        /// Since it was first sent.
        seconds: u64,
    },
    /// Stuck, sent again under the same nonce with a higher fee.
    Replaced {
        /// The earlier hash; may still be the one that is mined.
        old: B256,
        /// The new one.
        new: B256,
    },
    /// In a block.
    Mined {
        /// Transaction hash.
        transaction: B256,
        /// Block number.
        block: u64,
    },
}

/// A mined, successful transaction, as one node tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mined {
    /// Transaction hash.
    pub transaction: B256,
    /// Block number.
    pub block: u64,
    /// Gas used by the whole transaction.
    pub gas_used: u64,
    /// The registry's entries in it, in order.
    pub entries: Vec<LogEntry>,
}

/// Where progress goes.
pub type Report<'a> = &'a mut (dyn FnMut(Progress) + Send);
