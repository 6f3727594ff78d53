//! The payload's block of an envelope: sealed with a key of its own, which each recipient's record carries, so that a payload for a
//! whole fleet is one block. ChaCha20-Poly1305 under a random key that seals nothing else; layout: `docs/spec/delivery.md`.
//!
//! Opening gives a payload only if it is the one that the record's digest names, of the envelope's kind and name.

use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, aead::Aead as _};
use zeroize::Zeroizing;

use crate::{
    block::BlockCid,
    envelope::{Binding, Item},
    error::DeliveryError,
    payload::{Payload, Salt, check_digest, digest, is_bucket, pad, unpad},
    seal::{check, random},
};

const VERSION: u8 = 2;
const TAG: usize = 16;
const LABEL: &[u8] = b"countersign.envelope-payload.v1";

/// A payload's block, and what leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedPayload {
    /// The block.
    pub block: Vec<u8>,
    /// Its CID, its key, the payload's digest.
    pub item: Item,
}

/// Seals `payload` for an envelope.
///
/// # Errors
/// [`DeliveryError::Mismatch`] where the envelope is for another kind, [`DeliveryError::Randomness`].
pub fn seal_payload(binding: &Binding, payload: &Payload) -> Result<SealedPayload, DeliveryError> {
    let random = Zeroizing::new([random()?, random()?]);
    seal_payload_with(binding, payload, &random)
}

/// [`seal_payload`] with its randomness given: salt and key. For vectors; each pair is used once and never again.
///
/// # Errors
/// As [`seal_payload`].
pub fn seal_payload_with(
    binding: &Binding,
    payload: &Payload,
    [salt, key]: &[Salt; 2],
) -> Result<SealedPayload, DeliveryError> {
    check("kind", &payload.contents().kind().to_string(), &binding.kind.to_string())?;
    let container = payload.encode(salt)?;
    let digest = digest(salt, &container);
    let padded = pad(&container)?;
    let message = chacha20poly1305::aead::Payload { msg: &padded, aad: &aad(binding) };
    let sealed = cipher(key).encrypt(&[0; 12].into(), message).map_err(|_| DeliveryError::PayloadTooLarge {
        found: container.len(),
        maximum: crate::payload::MAX_PAYLOAD_BYTES,
    })?;
    let block = [&[VERSION][..], &sealed].concat();
    let item = Item { cid: BlockCid::of(&block)?, key: Zeroizing::new(*key), digest };
    Ok(SealedPayload { block, item })
}

/// Opens a payload's block and checks it against its record and its envelope.
///
/// # Errors
/// [`DeliveryError::SealedForm`], [`DeliveryError::Open`], [`DeliveryError::Digest`], [`DeliveryError::Container`],
/// [`DeliveryError::Mismatch`].
pub fn open_payload(binding: &Binding, item: &Item, name: &str, block: &[u8]) -> Result<Payload, DeliveryError> {
    let object = "payload block";
    let refused = |expected| DeliveryError::SealedForm { object, found: block.len(), expected };
    let (version, sealed) = block.split_first().ok_or_else(|| refused("version 2"))?;
    if *version != VERSION {
        return Err(refused("version 2"));
    }
    if !sealed.len().checked_sub(TAG).is_some_and(is_bucket) {
        return Err(refused("a padded length and 17 bytes"));
    }
    let message = chacha20poly1305::aead::Payload { msg: sealed, aad: &aad(binding) };
    let padded = cipher(&item.key)
        .decrypt(&[0; 12].into(), message)
        .map(Zeroizing::new)
        .map_err(|_| DeliveryError::Open { object })?;
    let container = unpad(&padded)?;
    let (payload, salt) = Payload::decode(container)?;
    check_digest(&digest(&salt, container), &item.digest)?;
    check("kind", &payload.contents().kind().to_string(), &binding.kind.to_string())?;
    check("name", payload.name(), name)?;
    Ok(payload)
}

fn cipher(key: &[u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(key.into())
}

fn aad(binding: &Binding) -> Vec<u8> {
    [LABEL, &binding.realm, &binding.delivery, &[binding.kind.number()]].concat()
}
