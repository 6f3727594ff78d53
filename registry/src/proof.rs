//! EIP-1186 proofs: from a trusted state root to the contract's code hash and storage slots.
//!
//! A slot is proved present with its value or proved absent (value zero); an answer that leaves a wanted slot out, names
//! another account or carries another code hash is refused. Nothing is taken from the answer that was not verified.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_trie::proof::{ProofVerificationError, verify_proof};
use alloy_trie::{KECCAK_EMPTY, Nibbles, TrieAccount};
use serde::{Deserialize, Serialize};

/// An `eth_getProof` answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountProof {
    /// The account asked for.
    pub address: Address,
    /// Nodes from the state root to the account.
    pub account_proof: Vec<Bytes>,
    /// Balance.
    pub balance: U256,
    /// keccak256 of the code.
    pub code_hash: B256,
    /// Nonce.
    pub nonce: U256,
    /// Root of the account's storage.
    pub storage_hash: B256,
    /// One for each slot asked for.
    pub storage_proof: Vec<StorageProof>,
}

/// One slot of an `eth_getProof` answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageProof {
    /// The slot; some nodes leave leading zeros out, hence a number.
    pub key: U256,
    /// Its content; zero: absent.
    pub value: U256,
    /// Nodes from the storage root to the slot.
    pub proof: Vec<Bytes>,
}

/// A proof that does not prove what was asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// An account of another address.
    #[error("proof is for account {got}, expected {expected}")]
    Address {
        /// What was asked.
        expected: Address,
        /// What was answered.
        got: Address,
    },
    /// The account is not what the state root says.
    #[error("account {address} is not proved by state root {state_root}: {source}")]
    Account {
        /// The account.
        address: Address,
        /// The trusted root.
        state_root: B256,
        /// Where the proof breaks.
        source: Box<ProofVerificationError>,
    },
    /// The account is proved, but runs other code than pinned.
    #[error("account {address} has code hash {got}, pinned is {expected}")]
    CodeHash {
        /// The account.
        address: Address,
        /// The pin.
        expected: B256,
        /// What was proved.
        got: B256,
    },
    /// The nonce does not fit an account.
    #[error("account {address} has nonce {nonce}, beyond 64 bits")]
    Nonce {
        /// The account.
        address: Address,
        /// As answered.
        nonce: U256,
    },
    /// A slot that was asked for is not in the answer.
    #[error("proof leaves out slot {slot}")]
    SlotMissing {
        /// The slot.
        slot: B256,
    },
    /// A slot's value is not what the storage root says.
    #[error("slot {slot} with value {value:#x} is not proved: {source}")]
    Slot {
        /// The slot.
        slot: B256,
        /// As answered; zero: absent.
        value: U256,
        /// Where the proof breaks.
        source: Box<ProofVerificationError>,
    },
}

impl AccountProof {
    /// Verifies the answer for `contract` under `state_root` and returns the content of each of `slots`, zero where it is
    /// proved absent.
    ///
    /// # Errors
    /// [`ProofError`] if the account or any slot is not proved, or if the code hash is not the pinned one.
    pub fn verify(
        &self,
        state_root: B256,
        contract: Address,
        code_hash: B256,
        slots: &[B256],
    ) -> Result<BTreeMap<B256, U256>, ProofError> {
        self.verify_account(state_root, contract)?;
        if self.code_hash != code_hash {
            return Err(ProofError::CodeHash { address: contract, expected: code_hash, got: self.code_hash });
        }
        let answers: BTreeMap<B256, &StorageProof> =
            self.storage_proof.iter().map(|proof| (B256::from(proof.key), proof)).collect();
        slots
            .iter()
            .map(|slot| {
                let proof = answers.get(slot).ok_or(ProofError::SlotMissing { slot: *slot })?;
                verify_slot(self.storage_hash, *slot, proof.value, &proof.proof)?;
                Ok((*slot, proof.value))
            })
            .collect()
    }

    /// The hash of the code at `address`; `None` where there is none, be it that the account is absent or that it only holds coins,
    /// which anybody can send to an address before there is a contract.
    ///
    /// # Errors
    /// [`ProofError`] if it is another account, or if neither presence nor absence is proved.
    pub fn verify_code(&self, state_root: B256, address: Address) -> Result<Option<B256>, ProofError> {
        let without_code = self.code_hash == KECCAK_EMPTY || self.code_hash.is_zero();
        if self.address == address && without_code && self.nonce.is_zero() && self.balance.is_zero() {
            verify_proof(state_root, path(address.as_slice()), None, &self.account_proof)
                .map_err(|source| ProofError::Account { address, state_root, source: source.into() })?;
            return Ok(None);
        }
        self.verify_account(state_root, address)?;
        Ok((!without_code).then_some(self.code_hash))
    }

    /// Verifies that the account is in the state with the nonce, balance, code hash and storage root of the answer.
    ///
    /// # Errors
    /// [`ProofError`] if it is another account, is absent or differs.
    pub fn verify_account(&self, state_root: B256, address: Address) -> Result<(), ProofError> {
        if self.address != address {
            return Err(ProofError::Address { expected: address, got: self.address });
        }
        let nonce = u64::try_from(self.nonce).map_err(|_| ProofError::Nonce { address, nonce: self.nonce })?;
        let account =
            TrieAccount { nonce, balance: self.balance, storage_root: self.storage_hash, code_hash: self.code_hash };
        verify_proof(state_root, path(address.as_slice()), Some(alloy_rlp::encode(account)), &self.account_proof)
            .map_err(|source| ProofError::Account { address, state_root, source: source.into() })
    }
}

/// Verifies that `slot` has `value` (zero: is absent) under `storage_root`.
///
/// # Errors
/// [`ProofError::Slot`] if it is not proved.
pub fn verify_slot(storage_root: B256, slot: B256, value: U256, proof: &[Bytes]) -> Result<(), ProofError> {
    let expected = (!value.is_zero()).then(|| alloy_rlp::encode(value));
    verify_proof(storage_root, path(slot.as_slice()), expected, proof).map_err(|source| ProofError::Slot {
        slot,
        value,
        source: source.into(),
    })
}

fn path(key: &[u8]) -> Nibbles {
    Nibbles::unpack(keccak256(key))
}
