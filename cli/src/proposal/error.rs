//! Why a file of writes is refused: an error names the file, what was found there and what was expected.

use alloy_primitives::Address;
use thiserror::Error;

use super::{MAX_WRITES, VERSION};

/// Why a file of writes cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ProposalError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{path}: {problem}")]
    Syntax {
        /// The file.
        path: String,
        /// What was found.
        problem: String,
    },
    /// Of a version that this program does not know.
    #[error("{path}: version is {found}, expected {VERSION}")]
    Version {
        /// The file.
        path: String,
        /// In the file.
        found: u64,
    },
    /// For another realm, chain or contract.
    #[error("{path}: {field} is {found}, the realm file says {expected}")]
    OtherRealm {
        /// The file.
        path: String,
        /// Which field.
        field: &'static str,
        /// In the file.
        found: String,
        /// In the realm file.
        expected: String,
    },
    /// The roots have written since.
    #[error("{path}: has root nonce {found}, the ledger's is {expected}: make the proposal anew{}", ahead(*found, *expected))]
    Nonce {
        /// The file.
        path: String,
        /// In the file.
        found: u64,
        /// On the ledger.
        expected: u64,
    },
    /// The roots in the file are not those in force.
    #[error("{path}: names other roots than those in force")]
    OtherRoots {
        /// The file.
        path: String,
    },
    /// The signer is no root.
    #[error("{signer} is not a root of this realm")]
    NotRoot {
        /// The signer.
        signer: Address,
    },
    /// A signature in the file is not what it says.
    #[error("{path}: the signature of {signer} is not one over these writes")]
    BadSignature {
        /// The file.
        path: String,
        /// Who is said to have signed.
        signer: Address,
    },
    /// The same signer twice.
    #[error("{path}: {signer} has signed already")]
    SignedAlready {
        /// The file.
        path: String,
        /// Who.
        signer: Address,
    },
    /// Too few signatures.
    #[error("{path}: has {have} of {need} signatures")]
    BelowThreshold {
        /// The file.
        path: String,
        /// In the file.
        have: usize,
        /// The threshold.
        need: u64,
    },
    /// Somebody has signed it, so it cannot change any more.
    #[error("{path}: is signed already, nothing can be added")]
    Frozen {
        /// The file.
        path: String,
    },
    /// More than one transaction can be trusted to take.
    #[error(
        "{path}: holds {have} writes, expected at most {MAX_WRITES}: one transaction may not take more; make several proposals"
    )]
    TooMany {
        /// The file.
        path: String,
        /// How many.
        have: usize,
    },
    /// Nothing to sign.
    #[error("{path}: holds no writes")]
    Empty {
        /// The file.
        path: String,
    },
    /// The deadline has passed.
    #[error("{path}: the deadline {deadline} has passed")]
    Deadline {
        /// The file.
        path: String,
        /// Unix seconds.
        deadline: u64,
    },
    /// A write whose meaning cannot be shown to its signer.
    #[error("{path}: holds a {kind} that does not read ({problem}): nobody should sign what cannot be shown")]
    Unreadable {
        /// The file.
        path: String,
        /// The kind's name or number.
        kind: String,
        /// Why not.
        problem: String,
    },
    /// Signing failed.
    #[error("signing: {0}")]
    Signing(String),
}

/// A nonce that is still to come: what is signed for it can be sent when it has come, by whoever has the file.
fn ahead(found: u64, expected: u64) -> &'static str {
    if found > expected {
        "; signatures in it become good later: write something that undoes it before they do"
    } else {
        ""
    }
}
