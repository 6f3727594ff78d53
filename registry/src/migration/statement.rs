//! A statement: MIGRATE for a chain on which nothing can be written any more, signed by a threshold of the source's roots.
//!
//! It is checked without a chain, so only by what the reader has proved before: the realm's root set in force, and its nonce. It refuses
//! contract wallets, whose signatures only their chain can judge. One bad signature refuses all of it, as in the contract.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolStruct;
use serde::{Deserialize, Serialize};

use super::{Heads, MoveError, Place};
use crate::entries::payload;
use crate::pin::RealmPin;
use crate::sign;
use crate::signature::{self, SignatureError};

mod typed {
    alloy_sol_types::sol! {
        struct ShardHead {
            uint64 shard;
            uint256 slot;
        }

        struct Migrate {
            bytes32 source;
            uint256 nonce;
            uint64 chainId;
            bytes32 genesisHash;
            address registry;
            bytes32 codeHash;
            bytes32 realm;
            uint64 blockNumber;
            ShardHead[] heads;
        }
    }
}

/// Version of the file's form.
pub const VERSION: u32 = 1;

/// How far beyond the nonce that a reader knows a statement's may lie. The roots may have written since the reader looked last, some of it
/// where it does not look; they write by hand, and a reader looks every few minutes. A statement that lies further ahead could be
/// withdrawn by nothing that the roots can write in time.
pub const NONCES_AHEAD: u64 = 64;

/// The file. What it says counts only after [`Statement::verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Statement {
    /// 1.
    pub migration_statement: u32,
    /// The source's realm id.
    pub source: B256,
    /// The nonce of the source's root set.
    pub nonce: u64,
    /// How many roots must sign.
    pub threshold: u64,
    /// The source's roots, in their order.
    pub roots: Vec<Address>,
    /// Where the realm goes.
    pub target: Place,
    /// Up to where the source's log counts.
    pub heads: Heads,
    /// Signatures over [`Statement::digest`].
    pub signatures: Vec<RootSignature>,
}

/// One root's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RootSignature {
    /// Index into the roots.
    pub root: u8,
    /// In one of the forms of [`signature`](mod@crate::signature).
    pub signature: Bytes,
}

/// Who may sign for a realm, as a reader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootsInForce<'a> {
    /// How many must sign.
    pub threshold: u64,
    /// The roots, in their order.
    pub roots: &'a [Address],
    /// The nonce that they have used up to, or the most that is sure of it: what they signed for an earlier one is withdrawn. They may have
    /// written since the reader looked last, so that a later one fits, up to [`NONCES_AHEAD`].
    pub nonce: u64,
}

/// Why a statement does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Another version.
    #[error("migration-statement is {0}, expected 1")]
    Version(u32),
    /// About another realm.
    #[error("the statement is about realm {said}, expected {expected}")]
    Realm {
        /// Whose it is.
        said: B256,
        /// The source.
        expected: B256,
    },
    /// By other roots.
    #[error("the statement's threshold or roots are not those in force in the source")]
    Roots,
    /// Signed before what the roots wrote last.
    #[error("the statement has root nonce {said}, the roots have written since: {expected} is the next one")]
    Nonce {
        /// The statement's.
        said: u64,
        /// The least that counts.
        expected: u64,
    },
    /// Signed for a nonce that is still far off: nothing that the roots write would withdraw it.
    #[error(
        "the statement has root nonce {said}, expected at most {most}: the roots cannot withdraw one that is still far off"
    )]
    NonceAhead {
        /// The statement's.
        said: u64,
        /// The most that counts.
        most: u64,
    },
    /// Too few.
    #[error("{signatures} roots have signed the statement, expected at least {threshold}")]
    BelowThreshold {
        /// Signatures.
        signatures: usize,
        /// Needed.
        threshold: u64,
    },
    /// A root twice.
    #[error("root {root} has signed the statement twice")]
    Duplicate {
        /// Its index.
        root: u8,
    },
    /// No such root.
    #[error("signature by root {root}, there are {roots}")]
    NoSuchRoot {
        /// The index.
        root: u8,
        /// How many there are.
        roots: usize,
    },
    /// A signature that does not count.
    #[error("signature by root {root} ({address}): {error}")]
    Signature {
        /// Its index.
        root: u8,
        /// Its address.
        address: Address,
        /// Why.
        error: SignatureError,
    },
    /// Heads that no entry could name.
    #[error(transparent)]
    Heads(#[from] MoveError),
}

impl StatementError {
    /// A stable word for logs and status.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Version(_) => "statement-version",
            Self::Realm { .. } => "statement-realm",
            Self::Roots | Self::Nonce { .. } | Self::NonceAhead { .. } => "statement-roots",
            Self::BelowThreshold { .. } => "statement-threshold",
            Self::Duplicate { .. } => "statement-duplicate",
            Self::NoSuchRoot { .. } => "statement-root-index",
            Self::Signature { error: SignatureError::NotByKey { .. }, .. } => "statement-wallet",
            Self::Signature { .. } => "statement-signature",
            Self::Heads(error) => error.reason(),
        }
    }
}

impl Statement {
    /// A statement that nobody has signed yet.
    #[must_use]
    pub fn new(source: B256, nonce: u64, threshold: u64, roots: Vec<Address>, target: Place, heads: Heads) -> Self {
        let signatures = Vec::new();
        Self { migration_statement: VERSION, source, nonce, threshold, roots, target, heads, signatures }
    }

    /// What it says, as the entry that it stands for.
    #[must_use]
    pub fn migrate(&self) -> payload::Migrate {
        payload::Migrate::new(&self.target, &self.heads)
    }

    /// What each root signs: EIP-712, in the domain of the source's contract.
    #[must_use]
    pub fn digest(&self, chain_id: u64, contract: Address) -> B256 {
        let heads = self.heads.slots.iter().map(|(shard, slot)| typed::ShardHead { shard: *shard, slot: *slot });
        let typed = typed::Migrate {
            source: self.source,
            nonce: U256::from(self.nonce),
            chainId: self.target.chain_id,
            genesisHash: self.target.genesis_hash,
            registry: self.target.contract,
            codeHash: self.target.code_hash,
            realm: self.target.realm,
            blockNumber: self.heads.block,
            heads: heads.collect(),
        };
        typed.eip712_signing_hash(&sign::domain(chain_id, contract))
    }

    /// Whether a threshold of the source's roots in force has signed exactly this; then, what stands for their MIGRATE.
    ///
    /// # Errors
    /// The first reason why it does not count.
    pub fn verify(&self, source: &RealmPin, known: &RootsInForce<'_>) -> Result<payload::Migrate, StatementError> {
        if self.migration_statement != VERSION {
            return Err(StatementError::Version(self.migration_statement));
        }
        if self.source != source.realm {
            return Err(StatementError::Realm { said: self.source, expected: source.realm });
        }
        // A threshold that no contract has let through would be met by no signature at all.
        if self.threshold == 0 || self.threshold != known.threshold || self.roots != known.roots {
            return Err(StatementError::Roots);
        }
        if self.nonce < known.nonce {
            return Err(StatementError::Nonce { said: self.nonce, expected: known.nonce });
        }
        let most = known.nonce.saturating_add(NONCES_AHEAD).min(sign::MOST_NONCES);
        if self.nonce > most {
            return Err(StatementError::NonceAhead { said: self.nonce, most });
        }
        self.heads.check()?;
        let have = u64::try_from(self.signatures.len()).unwrap_or(u64::MAX);
        if have < self.threshold {
            let (signatures, threshold) = (self.signatures.len(), self.threshold);
            return Err(StatementError::BelowThreshold { signatures, threshold });
        }
        let digest = self.digest(source.chain_id, source.contract);
        let mut seen = BTreeSet::new();
        for RootSignature { root, signature } in &self.signatures {
            let Some(address) = self.roots.get(usize::from(*root)).copied() else {
                return Err(StatementError::NoSuchRoot { root: *root, roots: self.roots.len() });
            };
            if !seen.insert(*root) {
                return Err(StatementError::Duplicate { root: *root });
            }
            signature::verify(address, &digest, signature).map_err(|error| StatementError::Signature {
                root: *root,
                address,
                error,
            })?;
        }
        Ok(self.migrate())
    }
}
