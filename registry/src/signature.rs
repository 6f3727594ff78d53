//! Signatures by a key, checked as the contract checks them, without a chain: ECDSA and P-256, plain or as a WebAuthn assertion.
//!
//! `docs/spec/registry.md` has the forms. It refuses a high s, which would make a second signature of the first, and whatever only
//! a chain can judge: a contract wallet's signature has no form of its own here.

use alloy_primitives::{Address, B256, Signature, U256, keccak256};
use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use sha2::{Digest as _, Sha256};

use crate::p256_key::{AUTHENTICATOR_DATA_SIZE, client_data_head, user_verified};

/// r ‖ s ‖ v.
const ECDSA_BYTES: usize = 65;
/// r ‖ s ‖ x ‖ y.
const P256_BYTES: usize = 128;

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// In a form of keys, but not by this one over this.
    #[error("not by this key over this content")]
    Wrong,
    /// s in the upper half, or no number of the curve at all.
    #[error("s is not in the lower half of its range")]
    HighS,
    /// A recovery value that is not 27 or 28.
    #[error("v is {v}, expected 27 or 28")]
    V {
        /// The last byte.
        v: u8,
    },
    /// A WebAuthn assertion without a verified person.
    #[error("the authenticator did not verify who is there")]
    NotVerified,
    /// In no form of keys.
    #[error(
        "{length} bytes are no ECDSA or P-256 signature by this key; one by a contract wallet cannot be checked without its chain"
    )]
    NotByKey {
        /// How long it is.
        length: usize,
    },
}

/// How a P-256 key signs. The two have different addresses: programs that sign SHA-256 of what somebody else chooses (SSH agents
/// do) can be led to sign what passes for an assertion by the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum P256Form {
    /// Digests themselves: TPMs, smart cards.
    Digest,
    /// WebAuthn assertions: passkeys, security keys.
    Assertion,
}

impl P256Form {
    /// The address that stands for the key x ‖ y: the last 20 bytes of keccak256 of "p256", or "webauthn", and the key.
    #[must_use]
    pub fn address(self, key: &[u8; 64]) -> Address {
        let tag: &[u8] = match self {
            Self::Digest => b"p256",
            Self::Assertion => b"webauthn",
        };
        Address::from_word(keccak256([tag, key].concat()))
    }
}

/// Checks a signature by `signer` over a digest.
///
/// # Errors
/// Why it does not count.
pub fn verify(signer: Address, digest: &B256, signature: &[u8]) -> Result<(), SignatureError> {
    let not_by_key = SignatureError::NotByKey { length: signature.len() };
    if let Ok(ecdsa) = <&[u8; ECDSA_BYTES]>::try_from(signature) {
        return verify_ecdsa(signer, digest, ecdsa);
    }
    let Some((key_and_numbers, rest)) = signature.split_first_chunk::<P256_BYTES>() else { return Err(not_by_key) };
    if rest.is_empty() {
        return verify_p256(signer, P256Form::Digest, digest.0, key_and_numbers, signature.len());
    }
    let (authenticator_data, rest_of_client_data) = split_assertion(rest).ok_or(not_by_key)?;
    if !user_verified(authenticator_data) {
        return Err(SignatureError::NotVerified);
    }
    let client_data = [client_data_head(digest).as_slice(), rest_of_client_data].concat();
    let signed = Sha256::new().chain_update(authenticator_data).chain_update(Sha256::digest(&client_data)).finalize();
    verify_p256(signer, P256Form::Assertion, signed.into(), key_and_numbers, signature.len())
}

fn verify_ecdsa(signer: Address, digest: &B256, signature: &[u8; ECDSA_BYTES]) -> Result<(), SignatureError> {
    let [numbers @ .., v] = signature;
    let parity = match v {
        27 => false,
        28 => true,
        v => return Err(SignatureError::V { v: *v }),
    };
    let (r, s) = numbers.split_at(32);
    let (r, s) = (U256::from_be_slice(r), U256::from_be_slice(s));
    let signature = Signature::new(r, s, parity);
    if signature.normalize_s().is_some() {
        return Err(SignatureError::HighS);
    }
    match signature.recover_address_from_prehash(digest) {
        Ok(by) if by == signer && !signer.is_zero() => Ok(()),
        _ => Err(SignatureError::Wrong),
    }
}

fn verify_p256(
    signer: Address,
    form: P256Form,
    hash: [u8; 32],
    signature: &[u8; P256_BYTES],
    length: usize,
) -> Result<(), SignatureError> {
    let (numbers, key) = signature.split_at(64);
    let not_by_key = SignatureError::NotByKey { length };
    let coordinates: &[u8; 64] = key.try_into().map_err(|_| not_by_key)?;
    let mut point = [4; 65];
    for (byte, of_key) in point.iter_mut().skip(1).zip(key) {
        *byte = *of_key;
    }
    // The contract would ask the signer's code, if it has any.
    if form.address(coordinates) != signer {
        return Err(not_by_key);
    }
    let key = VerifyingKey::from_sec1_bytes(&point).map_err(|_| SignatureError::Wrong)?;
    let numbers = p256::ecdsa::Signature::from_slice(numbers).map_err(|_| SignatureError::Wrong)?;
    if numbers.normalize_s().is_some() {
        return Err(SignatureError::HighS);
    }
    key.verify_prehash(&hash, &numbers).map_err(|_| SignatureError::Wrong)
}

/// Authenticator data after its length, and what follows.
fn split_assertion(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length < AUTHENTICATOR_DATA_SIZE {
        return None;
    }
    rest.split_at_checked(length)
}
