//! The leaves of a batch, sealed to the watchdogs that may countersign it: one block that each of them can open, and nobody else.
//! Layout: `docs/spec/leaves.md`.
//!
//! A content key seals the leaves once; HPKE (auth mode) seals the content key to each watchdog, bound to the realm, the batch, the
//! watchdog and the sealed leaves. Refuses to open for a watchdog that is not addressed, a block of another form than the one that
//! sealing gives, and one whose sender, realm or batch is another. What the leaves say is not looked at here.

use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, aead::Aead as _, aead::Payload};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    block::MAX_BLOCK_BYTES,
    error::DeliveryError,
    key::{PublicKey, SecretKey},
    seal::{Seed, open_bytes, seal_bytes},
};

const VERSION: u8 = 1;
const LABEL: &[u8] = b"countersign.leaves.v1";
const OBJECT: &str = "sealed leaves";
const ADDRESS: usize = 20;
const KEY: usize = 32;
const TAG: usize = 16;
/// Version, encapsulated key, content key, tag.
const SEALED_KEY: usize = 1 + 32 + KEY + TAG;
const SLOT: usize = ADDRESS + SEALED_KEY;
const HEAD: usize = 2;
const LENGTH: usize = 4;
/// Leaves are padded to a multiple of this.
const PAGE: usize = 1024;

/// The most watchdogs that one block can address: as many as a quorum can ask for.
pub const MAX_WATCHDOGS: usize = 64;

/// What sealed leaves are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeavesContext {
    /// The realm's id.
    pub realm: [u8; 32],
    /// The batch's record id.
    pub batch: [u8; 16],
}

impl LeavesContext {
    fn info(&self, watchdog: &[u8; ADDRESS]) -> Vec<u8> {
        [LABEL, &self.realm, &self.batch, watchdog].concat()
    }

    fn aad(&self) -> Vec<u8> {
        [&[VERSION][..], &self.realm, &self.batch].concat()
    }
}

/// A watchdog as a recipient: its ledger address and its sealing key.
pub type Watchdog = ([u8; ADDRESS], PublicKey);

/// How many bytes of leaves fit into one block for so many watchdogs. Each leaf counts its length and [`LEAF_OVERHEAD`].
#[must_use]
pub fn leaves_capacity(watchdogs: usize) -> usize {
    let besides = HEAD.saturating_add(watchdogs.saturating_mul(SLOT)).saturating_add(TAG);
    let room = MAX_BLOCK_BYTES.saturating_sub(besides);
    let pages = room.checked_div(PAGE).unwrap_or(0);
    // The container's own length and the count of leaves.
    pages.saturating_mul(PAGE).saturating_sub(LENGTH.saturating_mul(2))
}

/// What a leaf takes besides its bytes.
pub const LEAF_OVERHEAD: usize = LENGTH;

/// Seals the leaves of a batch, in their order, to `watchdogs`.
///
/// # Errors
/// [`DeliveryError::Leaves`] for no leaf, no watchdog, the same one twice or more than [`MAX_WATCHDOGS`];
/// [`DeliveryError::PayloadTooLarge`] above [`leaves_capacity`]; [`DeliveryError::Randomness`]; [`DeliveryError::Seal`].
pub fn seal_leaves(
    context: &LeavesContext,
    sender: &SecretKey,
    watchdogs: &[Watchdog],
    leaves: &[Vec<u8>],
) -> Result<Vec<u8>, DeliveryError> {
    let mut random = Zeroizing::new(vec![[0; KEY]; watchdogs.len().saturating_add(1)]);
    for part in random.iter_mut() {
        getrandom::fill(part).map_err(DeliveryError::Randomness)?;
    }
    seal_leaves_with(context, sender, watchdogs, leaves, &random)
}

/// [`seal_leaves`] with its randomness given: the content key, then for each watchdog, in ascending order of addresses, the input
/// keying material (RFC 9180, `DeriveKeyPair`) of its ephemeral key. For vectors; used once and never again.
///
/// # Errors
/// As [`seal_leaves`].
pub fn seal_leaves_with(
    context: &LeavesContext,
    sender: &SecretKey,
    watchdogs: &[Watchdog],
    leaves: &[Vec<u8>],
    random: &[[u8; KEY]],
) -> Result<Vec<u8>, DeliveryError> {
    let refused = |field, expected| DeliveryError::Leaves { field, expected };
    let mut watchdogs = watchdogs.to_vec();
    watchdogs.sort_by_key(|(address, _)| *address);
    let count = u8::try_from(watchdogs.len()).ok().filter(|count| (1..=MAX_WATCHDOGS).contains(&usize::from(*count)));
    let count = count.ok_or_else(|| refused("watchdogs", "1 to 64 that have a sealing key on the ledger"))?;
    if watchdogs.windows(2).any(|pair| matches!(pair, [(first, _), (second, _)] if first == second)) {
        return Err(refused("watchdogs", "each address once"));
    }
    let (key, seeds) = random.split_first().ok_or_else(|| refused("randomness", "a content key"))?;
    if seeds.len() != watchdogs.len() {
        return Err(refused("randomness", "one seed for each watchdog"));
    }
    let padded = pad(leaves, leaves_capacity(watchdogs.len()))?;
    let payload = Payload { msg: &padded, aad: &context.aad() };
    let body = ChaCha20Poly1305::new(&(*key).into())
        .encrypt(&[0; 12].into(), payload)
        .map_err(|_| refused("leaves", "a length that the cipher takes"))?;
    let aad = slot_aad(&body);
    let mut block = vec![VERSION, count];
    for ((address, public), seed) in watchdogs.iter().zip(seeds) {
        block.extend_from_slice(address);
        block.extend(seal_bytes(&context.info(address), sender, public, key, &aad, Seed::new(seed))?);
    }
    block.extend(body);
    Ok(block)
}

/// Opens sealed leaves as the watchdog with ledger address `watchdog` and sealing key `key`; `sender` is the sealing key of the issuer
/// that logged the batch.
///
/// # Errors
/// [`DeliveryError::Leaves`] for another form and where `watchdog` is not addressed; [`DeliveryError::Open`].
pub fn open_leaves(
    context: &LeavesContext,
    watchdog: &[u8; ADDRESS],
    key: &SecretKey,
    sender: &PublicKey,
    block: &[u8],
) -> Result<Vec<Vec<u8>>, DeliveryError> {
    let refused = |field, expected| DeliveryError::Leaves { field, expected };
    let (head, rest) = block.split_first_chunk::<HEAD>().ok_or_else(|| refused("block", "version and count"))?;
    let [version, count] = *head;
    if version != VERSION {
        return Err(refused("version", "1"));
    }
    let count = usize::from(count);
    if !(1..=MAX_WATCHDOGS).contains(&count) {
        return Err(refused("watchdogs", "1 to 64"));
    }
    let slots = rest.split_at_checked(count.saturating_mul(SLOT));
    let (slots, body) = slots.ok_or_else(|| refused("block", "as many slots as it says"))?;
    let slots: Vec<(&[u8; ADDRESS], &[u8])> =
        slots.chunks_exact(SLOT).filter_map(<[u8]>::split_first_chunk::<ADDRESS>).collect();
    if slots.windows(2).any(|pair| matches!(pair, [(first, _), (second, _)] if first >= second)) {
        return Err(refused("watchdogs", "ascending addresses, each once"));
    }
    let own = slots.iter().find(|(address, _)| *address == watchdog);
    let (_, sealed) = own.ok_or_else(|| refused("watchdogs", "this one among them"))?;
    let content = open_bytes(OBJECT, &context.info(watchdog), key, sender, sealed, &slot_aad(body))?;
    let content: Zeroizing<[u8; KEY]> =
        Zeroizing::new(content.as_slice().try_into().map_err(|_| refused("content key", "32 bytes"))?);
    let payload = Payload { msg: body, aad: &context.aad() };
    let padded = ChaCha20Poly1305::new(&(*content).into())
        .decrypt(&[0; 12].into(), payload)
        .map_err(|_| DeliveryError::Open { object: OBJECT })?;
    unpad(&padded)
}

/// So that whoever holds the content key cannot put other leaves beside a slot.
fn slot_aad(body: &[u8]) -> Vec<u8> {
    [&[VERSION][..], &Sha256::digest(body)].concat()
}

/// Length, count, and each leaf behind its length; then zeros up to a whole page.
fn pad(leaves: &[Vec<u8>], capacity: usize) -> Result<Vec<u8>, DeliveryError> {
    let found = leaves.iter().fold(0_usize, |sum, leaf| sum.saturating_add(leaf.len()).saturating_add(LEAF_OVERHEAD));
    let too_large = || DeliveryError::PayloadTooLarge { found, maximum: capacity };
    if leaves.is_empty() {
        return Err(DeliveryError::Leaves { field: "leaves", expected: "at least one" });
    }
    if found > capacity {
        return Err(too_large());
    }
    let length = |length: usize| u32::try_from(length).map(u32::to_be_bytes).map_err(|_| too_large());
    let mut padded = Vec::with_capacity(found.saturating_add(PAGE));
    padded.extend_from_slice(&length(found.saturating_add(LENGTH))?);
    padded.extend_from_slice(&length(leaves.len())?);
    for leaf in leaves {
        padded.extend_from_slice(&length(leaf.len())?);
        padded.extend_from_slice(leaf);
    }
    let whole = padded.len().checked_next_multiple_of(PAGE).ok_or_else(too_large)?;
    padded.resize(whole, 0);
    Ok(padded)
}

/// The leaves in `padded`; refused unless [`pad`] would give these very bytes.
fn unpad(padded: &[u8]) -> Result<Vec<Vec<u8>>, DeliveryError> {
    let refused = |field, expected| DeliveryError::Leaves { field, expected };
    let short = || refused("leaves", "as many bytes as they say");
    let mut rest = padded;
    let container = take_length(&mut rest).ok_or_else(short)?;
    let (mut container, zeros) = rest.split_at_checked(container).ok_or_else(short)?;
    if zeros.len() >= PAGE || padded.len().checked_rem(PAGE) != Some(0) || zeros.iter().any(|byte| *byte != 0) {
        return Err(refused("padding", "zeros up to the next whole page"));
    }
    let count = take_length(&mut container).ok_or_else(short)?;
    let mut leaves = Vec::new();
    for _ in 0..count {
        let length = take_length(&mut container).ok_or_else(short)?;
        let (leaf, after) = container.split_at_checked(length).ok_or_else(short)?;
        leaves.push(leaf.to_vec());
        container = after;
    }
    if leaves.is_empty() || !container.is_empty() {
        return Err(refused("leaves", "as many as they say, at least one"));
    }
    Ok(leaves)
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    *bytes = rest;
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: LeavesContext = LeavesContext { realm: [1; 32], batch: [2; 16] };

    struct Case {
        issuer: SecretKey,
        watchdogs: Vec<([u8; 20], SecretKey)>,
        leaves: Vec<Vec<u8>>,
        block: Vec<u8>,
    }

    fn case() -> Case {
        let issuer = SecretKey::generate().unwrap();
        let watchdogs: Vec<_> = [9, 3, 5].map(|byte| ([byte; 20], SecretKey::generate().unwrap())).to_vec();
        let leaves = vec![b"one".to_vec(), vec![7; 2000]];
        let public: Vec<Watchdog> = watchdogs.iter().map(|(address, key)| (*address, key.public())).collect();
        let block = seal_leaves(&CONTEXT, &issuer, &public, &leaves).unwrap();
        Case { issuer, watchdogs, leaves, block }
    }

    impl Case {
        fn open(&self, index: usize, context: &LeavesContext, block: &[u8]) -> Result<Vec<Vec<u8>>, DeliveryError> {
            let (address, key) = &self.watchdogs[index];
            open_leaves(context, address, key, &self.issuer.public(), block)
        }
    }

    #[test]
    fn each_watchdog_opens_the_same_leaves_from_one_block() {
        let case = case();
        for index in 0..3 {
            assert_eq!(case.open(index, &CONTEXT, &case.block).unwrap(), case.leaves);
        }
        // Slots, body of whole pages, tag.
        assert_eq!(case.block.len(), 2 + 3 * 101 + 2048 + 16);
    }

    #[test]
    fn nobody_else_opens_them() {
        let case = case();
        let stranger = SecretKey::generate().unwrap();
        let sender = case.issuer.public();
        let message = open_leaves(&CONTEXT, &[4; 20], &stranger, &sender, &case.block).unwrap_err().to_string();
        assert_eq!(message, "sealed leaves: watchdogs: expected this one among them");
        assert!(matches!(
            open_leaves(&CONTEXT, &[3; 20], &stranger, &sender, &case.block),
            Err(DeliveryError::Open { .. })
        ));
        let (address, key) = &case.watchdogs[0];
        assert!(matches!(
            open_leaves(&CONTEXT, address, key, &stranger.public(), &case.block),
            Err(DeliveryError::Open { .. })
        ));
    }

    #[test]
    fn leaves_of_another_batch_or_realm_do_not_open() {
        let case = case();
        for context in [LeavesContext { realm: [9; 32], ..CONTEXT }, LeavesContext { batch: [9; 16], ..CONTEXT }] {
            assert!(matches!(case.open(0, &context, &case.block), Err(DeliveryError::Open { .. })));
        }
    }

    #[test]
    fn a_block_altered_or_cut_anywhere_does_not_open() {
        let case = case();
        let slot_of_9 = 2 + 2 * 101..2 + 3 * 101;
        for at in 0..case.block.len() {
            let mut altered = case.block.clone();
            altered[at] ^= 1;
            let result = case.open(0, &CONTEXT, &altered);
            // Another watchdog's slot is none of this one's business, unless its address is out of order.
            let others = (2..2 + 2 * 101).contains(&at);
            assert!(others || result.is_err(), "byte {at} altered was accepted");
            assert!(!slot_of_9.contains(&at) || result.is_err());
        }
        for end in (0..case.block.len()).step_by(7) {
            assert!(case.open(0, &CONTEXT, &case.block[..end]).is_err(), "the first {end} bytes were accepted");
        }
        assert!(case.open(0, &CONTEXT, &[&case.block[..], &[0]].concat()).is_err());
    }

    #[test]
    fn another_watchdog_who_knows_the_content_key_cannot_put_other_leaves_beside_a_slot() {
        let case = case();
        let (address, key) = &case.watchdogs[1];
        assert_eq!(*address, [3; 20]);
        let slot = &case.block[2 + 20..2 + 101];
        let body = &case.block[2 + 3 * 101..];
        let content =
            open_bytes(OBJECT, &CONTEXT.info(address), key, &case.issuer.public(), slot, &slot_aad(body)).unwrap();
        let content: [u8; 32] = content.as_slice().try_into().unwrap();
        let other = pad(&[b"forged".to_vec()], 10_000).unwrap();
        let payload = Payload { msg: &other, aad: &CONTEXT.aad() };
        let body = ChaCha20Poly1305::new(&content.into()).encrypt(&[0; 12].into(), payload).unwrap();
        let forged = [&case.block[..2 + 3 * 101], &body].concat();
        assert!(matches!(case.open(0, &CONTEXT, &forged), Err(DeliveryError::Open { .. })));
    }

    #[test]
    fn padding_has_one_form_only() {
        let good = pad(&[b"x".to_vec()], 10_000).unwrap();
        assert_eq!((good.len(), unpad(&good).unwrap()), (1024, vec![b"x".to_vec()]));
        let mut not_zero = good.clone();
        not_zero[1023] = 1;
        let more = [good.clone(), vec![0; 1024]].concat();
        let mut count = good.clone();
        count[7] = 2;
        let mut none = vec![0; 1024];
        none[3] = 4;
        for bad in [not_zero, more, count, none, good[..1023].to_vec(), Vec::new(), vec![0xff; 1024]] {
            assert!(unpad(&bad).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_into_one_block_is_refused_when_it_is_sealed() {
        let (issuer, watchdog) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let to = |count: u8| (0..count).map(|byte| ([byte; 20], watchdog.public())).collect::<Vec<Watchdog>>();
        for watchdogs in [1, 3, 64] {
            let capacity = leaves_capacity(usize::from(watchdogs));
            let full = [vec![1; capacity - LEAF_OVERHEAD]];
            let block = seal_leaves(&CONTEXT, &issuer, &to(watchdogs), &full).unwrap();
            assert!(block.len() <= MAX_BLOCK_BYTES && block.len() > MAX_BLOCK_BYTES - PAGE);
            assert_eq!(open_leaves(&CONTEXT, &[0; 20], &watchdog, &issuer.public(), &block).unwrap(), full);
            let more = [vec![1; capacity - LEAF_OVERHEAD + 1]];
            let message = seal_leaves(&CONTEXT, &issuer, &to(watchdogs), &more).unwrap_err().to_string();
            assert_eq!(message, format!("payload of {} bytes: expected at most {capacity}", capacity + 1));
        }
        for (watchdogs, leaves) in [(0, 1), (65, 1), (1, 0)] {
            let leaves = vec![vec![1]; leaves];
            assert!(matches!(
                seal_leaves(&CONTEXT, &issuer, &to(watchdogs), &leaves),
                Err(DeliveryError::Leaves { .. })
            ));
        }
        let twice = [to(1), to(1)].concat();
        assert!(matches!(seal_leaves(&CONTEXT, &issuer, &twice, &[vec![1]]), Err(DeliveryError::Leaves { .. })));
    }
}
