//! The log of a realm: what its entries say, how their hashes chain, and what a reader may conclude from them.
//!
//! Everything here is pure: no I/O, no clock, no randomness. The caller brings bytes from anywhere (an RPC node, a mirror, a
//! file) and gets facts that follow from a header it trusts, or an error.
//!
//! The way of a fact: [`header`] re-hashes a block header, [`proof`] leads from its state root to the slots of the realm's
//! shards, [`head`] folds entries until they reach those slots, [`entries`] parses what they say, [`replay`] judges it, and
//! [`effective`] is the result: what holds now, given a final and a latest view.
//!
//! It refuses to guess: an entry that is not in its one canonical form is ignored with a reason, a header with an unknown
//! field does not hash, a critical entry of an unknown kind stops publishing.

pub mod effective;
pub mod enrolment;
pub mod entries;
pub mod head;
pub mod header;
pub mod migration;
pub mod origins;
pub mod p256_key;
pub mod pin;
pub mod proof;
pub mod realm;
pub mod records;
pub mod replay;
pub mod shard;
pub mod sign;
pub mod signature;

/// Certificate batches, scopes, log proofs and approvals: the byte layouts that the login path shares.
pub mod batch {
    pub use countersign_certificate::{
        ApprovalTerms, Digest32, LogProof, Scope, Target, approval_hash, label_digest, leaf_hash, merkle,
    };
}

pub use alloy_primitives::{Address, B256, Bytes, U256};
pub use countersign_certificate::{Fingerprint20, Id};
pub use effective::Effective;
pub use entries::{Entry, Kind};
pub use head::{LogEntry, PlacedEntry};
pub use migration::{Heads, Move, Place};
pub use pin::RealmPin;
pub use realm::{BlockRef, EntryRef};
pub use records::{Records, SharedSet};
pub use replay::Replay;
