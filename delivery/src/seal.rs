//! Sealing to one recipient and opening: HPKE (RFC 9180) in auth mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
//! ChaCha20-Poly1305. The context (realm, delivery, recipient, kind) is HPKE's `info`; layouts are in `docs/spec/delivery.md`.
//!
//! Opening gives a payload only if this sender sealed it to this recipient for this very delivery, and its salted digest, name and
//! kind are those of the delivery entry. The CID is sealed too, so that the ledger never tells which public block is whose.

use std::convert::Infallible;

use hpke::{
    Deserializable as _, OpModeR, OpModeS, Serializable as _,
    aead::ChaCha20Poly1305,
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    rand_core::{TryCryptoRng, TryRng},
    single_shot_open, single_shot_seal_with_rng,
};
use zeroize::Zeroizing;

use crate::{
    block::BlockCid,
    error::{DeliveryError, HpkeFailure, hex},
    key::{PublicKey, SecretKey},
    payload::{Digest, Payload, PayloadKind, Salt, check_digest, digest, is_bucket, pad, unpad},
};

const VERSION: u8 = 1;
const ENCAPSULATED: usize = 32;
const TAG: usize = 16;
/// What a block or a sealed CID has besides its padded plaintext: version, encapsulated key, tag.
const OVERHEAD: usize = 1 + ENCAPSULATED + TAG;
const CID_PLAINTEXT: usize = 64;
/// The length of every sealed CID.
pub const SEALED_CID_BYTES: usize = OVERHEAD + CID_PLAINTEXT;

const BLOCK_LABEL: &[u8] = b"countersign.delivery.v1";
const CID_LABEL: &[u8] = b"countersign.delivery-cid.v1";

/// What a delivery is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The realm's id.
    pub realm: [u8; 32],
    /// The delivery's record id.
    pub delivery: [u8; 16],
    /// The recipient's ledger address.
    pub recipient: [u8; 20],
    /// What is delivered.
    pub kind: PayloadKind,
}

impl Context {
    pub(crate) fn info(&self, label: &[u8]) -> Vec<u8> {
        [label, &self.realm, &self.delivery, &self.recipient, &[self.kind.number()]].concat()
    }
}

/// A sealed payload: `block` goes into a block store, `digest` and `sealed_cid` into the delivery entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The sealed block.
    pub block: Vec<u8>,
    /// Its name, for the sender's own books.
    pub cid: BlockCid,
    /// Its name, sealed to the recipient.
    pub sealed_cid: Vec<u8>,
    /// The payload's salted digest.
    pub digest: Digest,
}

/// Seals `payload` to `recipient`.
///
/// # Errors
/// [`DeliveryError::Mismatch`] where the context names another kind, [`DeliveryError::Randomness`], [`DeliveryError::Seal`].
pub fn seal(
    context: &Context,
    sender: &SecretKey,
    recipient: &PublicKey,
    payload: &Payload,
) -> Result<Sealed, DeliveryError> {
    let random = Zeroizing::new([random()?, random()?, random()?]);
    seal_with(context, sender, recipient, payload, &random)
}

/// [`seal`] with its randomness given: the payload's salt, then the input keying material (RFC 9180, `DeriveKeyPair`) of the block's
/// and of the CID's ephemeral key. For vectors; each three are used once and never again.
///
/// # Errors
/// As [`seal`].
pub fn seal_with(
    context: &Context,
    sender: &SecretKey,
    recipient: &PublicKey,
    payload: &Payload,
    [salt, block_seed, cid_seed]: &[Salt; 3],
) -> Result<Sealed, DeliveryError> {
    check("kind", &payload.contents().kind().to_string(), &context.kind.to_string())?;
    let container = payload.encode(salt)?;
    let digest = digest(salt, &container);
    let block = seal_bytes(
        &context.info(BLOCK_LABEL),
        sender,
        recipient,
        &pad(&container)?,
        &[VERSION],
        Seed::new(block_seed),
    )?;
    let cid = BlockCid::of(&block)?;
    let sealed_cid = seal_bytes(
        &context.info(CID_LABEL),
        sender,
        recipient,
        &cid_plaintext(cid),
        &cid_aad(&digest),
        Seed::new(cid_seed),
    )?;
    Ok(Sealed { block, cid, sealed_cid, digest })
}

/// Opens the CID in a delivery entry.
///
/// # Errors
/// [`DeliveryError::SealedForm`], [`DeliveryError::Open`], [`DeliveryError::Cid`].
pub fn open_cid(
    context: &Context,
    recipient: &SecretKey,
    sender: &PublicKey,
    digest: &Digest,
    sealed_cid: &[u8],
) -> Result<BlockCid, DeliveryError> {
    let object = "sealed cid";
    if sealed_cid.len() != SEALED_CID_BYTES {
        return Err(DeliveryError::SealedForm { object, found: sealed_cid.len(), expected: "113 bytes" });
    }
    let plaintext = open_bytes(object, &context.info(CID_LABEL), recipient, sender, sealed_cid, &cid_aad(digest))?;
    let refused = || DeliveryError::Cid { found: hex(&plaintext) };
    let (length, rest) = plaintext.split_first().ok_or_else(refused)?;
    let (cid, zeros) = rest.split_at_checked(usize::from(*length)).ok_or_else(refused)?;
    if zeros.iter().any(|byte| *byte != 0) {
        return Err(refused());
    }
    BlockCid::from_bytes(cid)
}

/// Opens a block and checks it against its delivery entry: `digest`, `name` and the context's kind. The block's bytes were
/// compared with the CID when they were fetched; even if not, altered ones do not open.
///
/// # Errors
/// [`DeliveryError::SealedForm`], [`DeliveryError::Open`], [`DeliveryError::Digest`], [`DeliveryError::Container`],
/// [`DeliveryError::Mismatch`].
pub fn open(
    context: &Context,
    recipient: &SecretKey,
    sender: &PublicKey,
    digest: &Digest,
    name: &str,
    block: &[u8],
) -> Result<Payload, DeliveryError> {
    let object = "sealed block";
    if !block.len().checked_sub(OVERHEAD).is_some_and(is_bucket) {
        return Err(DeliveryError::SealedForm { object, found: block.len(), expected: "a padded length and 49 bytes" });
    }
    let padded = open_bytes(object, &context.info(BLOCK_LABEL), recipient, sender, block, &[VERSION])?;
    let container = unpad(&padded)?;
    let (payload, salt) = Payload::decode(container)?;
    check_digest(&crate::payload::digest(&salt, container), digest)?;
    check("kind", &payload.contents().kind().to_string(), &context.kind.to_string())?;
    check("name", payload.name(), name)?;
    Ok(payload)
}

/// 32 bytes from the operating system.
pub(crate) fn random() -> Result<[u8; 32], DeliveryError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(DeliveryError::Randomness)?;
    Ok(bytes)
}

pub(crate) fn check(field: &'static str, found: &str, expected: &str) -> Result<(), DeliveryError> {
    if found == expected {
        Ok(())
    } else {
        Err(DeliveryError::Mismatch { field, found: found.to_owned(), expected: expected.to_owned() })
    }
}

fn cid_aad(digest: &Digest) -> Vec<u8> {
    [&[VERSION][..], digest].concat()
}

/// Length, binary CID, zeros: room for longer CIDs without telling them apart.
fn cid_plaintext(cid: BlockCid) -> Vec<u8> {
    let mut plaintext = [&[36][..], &cid.to_bytes()].concat();
    plaintext.resize(CID_PLAINTEXT, 0);
    plaintext
}

/// Version, encapsulated key, ciphertext with its tag.
pub(crate) fn seal_bytes(
    info: &[u8],
    sender: &SecretKey,
    recipient: &PublicKey,
    plaintext: &[u8],
    aad: &[u8],
    mut seed: Seed,
) -> Result<Vec<u8>, DeliveryError> {
    let failed = |source| DeliveryError::Seal { recipient: hex(&recipient.to_bytes()), source: HpkeFailure(source) };
    let recipient_key = hpke_public(recipient).map_err(failed)?;
    let mode = OpModeS::Auth((hpke_secret(sender).map_err(failed)?, hpke_public(&sender.public()).map_err(failed)?));
    let (encapsulated, ciphertext) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &mode,
        &recipient_key,
        info,
        plaintext,
        aad,
        &mut seed,
    )
    .map_err(failed)?;
    if seed.state != SeedState::Used {
        // HPKE took other randomness than the one draw it is specified to take: better no message than a predictable one.
        return Err(failed(hpke::HpkeError::EncapError));
    }
    Ok([&[VERSION][..], &encapsulated.to_bytes(), &ciphertext].concat())
}

pub(crate) fn open_bytes(
    object: &'static str,
    info: &[u8],
    recipient: &SecretKey,
    sender: &PublicKey,
    sealed: &[u8],
    aad: &[u8],
) -> Result<Zeroizing<Vec<u8>>, DeliveryError> {
    let form = || DeliveryError::SealedForm { object, found: sealed.len(), expected: "version 1" };
    let (version, rest) = sealed.split_first().ok_or_else(form)?;
    if *version != VERSION {
        return Err(form());
    }
    let (encapsulated, ciphertext) = rest.split_at_checked(ENCAPSULATED).ok_or_else(form)?;
    let open = || {
        let mode = OpModeR::Auth(hpke_public(sender)?);
        let encapsulated = <X25519HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(encapsulated)?;
        let recipient = hpke_secret(recipient)?;
        single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &mode,
            &recipient,
            &encapsulated,
            info,
            ciphertext,
            aad,
        )
    };
    open().map(Zeroizing::new).map_err(|_| DeliveryError::Open { object })
}

pub(crate) fn hpke_public(key: &PublicKey) -> Result<<X25519HkdfSha256 as hpke::Kem>::PublicKey, hpke::HpkeError> {
    <X25519HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(&key.to_bytes())
}

pub(crate) fn hpke_secret(key: &SecretKey) -> Result<<X25519HkdfSha256 as hpke::Kem>::PrivateKey, hpke::HpkeError> {
    <X25519HkdfSha256 as hpke::Kem>::PrivateKey::from_bytes(key.secret_bytes())
}

/// The one draw of 32 random bytes that sealing takes, drawn beforehand where failure can still be an error.
pub(crate) struct Seed {
    bytes: Zeroizing<[u8; 32]>,
    pub(crate) state: SeedState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeedState {
    Fresh,
    Used,
    Misused,
}

impl Seed {
    pub(crate) fn new(bytes: &[u8; 32]) -> Self {
        Self { bytes: Zeroizing::new(*bytes), state: SeedState::Fresh }
    }
}

impl TryRng for Seed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.state = SeedState::Misused;
        Ok(0)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.state = SeedState::Misused;
        Ok(0)
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        if self.state == SeedState::Fresh && to.len() == self.bytes.len() {
            to.copy_from_slice(self.bytes.as_slice());
            self.state = SeedState::Used;
        } else {
            self.state = SeedState::Misused;
        }
        Ok(())
    }
}

impl TryCryptoRng for Seed {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Contents;

    const CONTEXT: Context =
        Context { realm: [1; 32], delivery: [2; 16], recipient: [3; 20], kind: PayloadKind::SshCertificate };

    struct Case {
        sender: SecretKey,
        recipient: SecretKey,
        payload: Payload,
        sealed: Sealed,
    }

    fn case() -> Case {
        let (sender, recipient) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let certificate = "ssh-ed25519-cert-v01@openssh.com AAAA alice/01\n".to_owned();
        let payload = Payload::new("alice", Contents::SshCertificate { certificate }).unwrap();
        let sealed = seal(&CONTEXT, &sender, &recipient.public(), &payload).unwrap();
        Case { sender, recipient, payload, sealed }
    }

    impl Case {
        fn open(&self, context: &Context, block: &[u8]) -> Result<Payload, DeliveryError> {
            open(context, &self.recipient, &self.sender.public(), &self.sealed.digest, "alice", block)
        }

        fn open_cid(&self, context: &Context, sealed_cid: &[u8]) -> Result<BlockCid, DeliveryError> {
            open_cid(context, &self.recipient, &self.sender.public(), &self.sealed.digest, sealed_cid)
        }
    }

    fn is_open_error<T>(result: Result<T, DeliveryError>) -> bool {
        matches!(result, Err(DeliveryError::Open { .. }))
    }

    #[test]
    fn the_recipient_opens_what_the_sender_sealed() {
        let case = case();
        assert_eq!(case.open(&CONTEXT, &case.sealed.block).unwrap(), case.payload);
        assert_eq!(case.open_cid(&CONTEXT, &case.sealed.sealed_cid).unwrap(), case.sealed.cid);
        assert_eq!(BlockCid::of(&case.sealed.block).unwrap(), case.sealed.cid);
    }

    #[test]
    fn sealing_twice_gives_nothing_in_common() {
        let case = case();
        let again = seal(&CONTEXT, &case.sender, &case.recipient.public(), &case.payload).unwrap();
        assert_ne!(again.digest, case.sealed.digest);
        assert_ne!(again.cid, case.sealed.cid);
        assert_ne!(again.block[1..33], case.sealed.block[1..33]);
        assert_ne!(again.sealed_cid[1..33], case.sealed.sealed_cid[1..33]);
        assert_ne!(case.sealed.sealed_cid[1..33], case.sealed.block[1..33]);
    }

    #[test]
    fn another_recipient_cannot_open() {
        let case = Case { recipient: SecretKey::generate().unwrap(), ..case() };
        assert!(is_open_error(case.open(&CONTEXT, &case.sealed.block)));
        assert!(is_open_error(case.open_cid(&CONTEXT, &case.sealed.sealed_cid)));
    }

    #[test]
    fn what_somebody_else_sealed_does_not_open_as_the_senders() {
        let case = Case { sender: SecretKey::generate().unwrap(), ..case() };
        assert!(is_open_error(case.open(&CONTEXT, &case.sealed.block)));
        assert!(is_open_error(case.open_cid(&CONTEXT, &case.sealed.sealed_cid)));
    }

    #[test]
    fn a_delivery_replayed_in_another_context_does_not_open() {
        let case = case();
        for context in [
            Context { realm: [9; 32], ..CONTEXT },
            Context { delivery: [9; 16], ..CONTEXT },
            Context { recipient: [9; 20], ..CONTEXT },
            Context { kind: PayloadKind::SshKeyPair, ..CONTEXT },
        ] {
            assert!(is_open_error(case.open(&context, &case.sealed.block)), "{context:?} opened the block");
            assert!(is_open_error(case.open_cid(&context, &case.sealed.sealed_cid)), "{context:?} opened the cid");
        }
    }

    #[test]
    fn a_block_altered_at_any_byte_does_not_open() {
        let case = case();
        for at in 0..case.sealed.block.len() {
            let mut altered = case.sealed.block.clone();
            altered[at] ^= 0x20;
            assert!(case.open(&CONTEXT, &altered).is_err(), "byte {at} altered was accepted");
        }
        for at in 0..case.sealed.sealed_cid.len() {
            let mut altered = case.sealed.sealed_cid.clone();
            altered[at] ^= 0x20;
            assert!(case.open_cid(&CONTEXT, &altered).is_err(), "byte {at} of the sealed cid altered was accepted");
        }
    }

    #[test]
    fn another_digest_name_or_length_is_refused() {
        let case = case();
        let sender = case.sender.public();
        let (block, digest) = (&case.sealed.block, &case.sealed.digest);
        let other = open(&CONTEXT, &case.recipient, &sender, &[7; 32], "alice", block).unwrap_err();
        assert!(other.to_string().starts_with("payload digest "), "{other}");
        let renamed = open(&CONTEXT, &case.recipient, &sender, digest, "bob", block).unwrap_err();
        assert_eq!(renamed.to_string(), "payload name \"alice\": expected \"bob\", as the delivery entry says");
        assert!(is_open_error(open_cid(&CONTEXT, &case.recipient, &sender, &[7; 32], &case.sealed.sealed_cid)));
        for length in [0, 1, 48, 49, block.len() - 1, block.len() + 1] {
            let mut cut = block.clone();
            cut.resize(length, 0);
            assert!(matches!(case.open(&CONTEXT, &cut), Err(DeliveryError::SealedForm { .. })), "{length} bytes");
        }
        let longer = [case.sealed.sealed_cid.as_slice(), &[0]].concat();
        let error = case.open_cid(&CONTEXT, &longer).unwrap_err();
        assert_eq!(error.to_string(), "sealed cid of 114 bytes: expected 113 bytes");
    }

    #[test]
    fn the_block_and_the_sealed_cid_cannot_stand_for_each_other() {
        let case = case();
        let plaintext = cid_plaintext(case.sealed.cid);
        let seed = Seed::new(&[5; 32]);
        let as_block = seal_bytes(
            &CONTEXT.info(BLOCK_LABEL),
            &case.sender,
            &case.recipient.public(),
            &plaintext,
            &cid_aad(&case.sealed.digest),
            seed,
        )
        .unwrap();
        assert!(is_open_error(case.open_cid(&CONTEXT, &as_block)));
    }

    #[test]
    fn a_payload_of_another_kind_than_the_context_is_not_sealed() {
        let case = case();
        let context = Context { kind: PayloadKind::SshKeyPair, ..CONTEXT };
        let error = seal(&context, &case.sender, &case.recipient.public(), &case.payload).unwrap_err();
        assert_eq!(
            error.to_string(),
            "payload kind \"ssh-certificate\": expected \"ssh-key-pair\", as the delivery entry says"
        );
    }

    #[test]
    fn an_all_zero_key_agreement_is_refused_by_both_sides() {
        let case = case();
        // An encapsulated key of low order makes the recipient's DH zero.
        let mut low_order = case.sealed.block.clone();
        low_order[1..33].fill(0);
        assert!(is_open_error(case.open(&CONTEXT, &low_order)));
        // A recipient key of low order cannot even be named; HPKE refuses it by itself as well.
        assert!(PublicKey::from_bytes([0; 32]).is_err());
        let zero = <X25519HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(&[0; 32]).unwrap();
        let mode = OpModeS::Auth((hpke_secret(&case.sender).unwrap(), hpke_public(&case.sender.public()).unwrap()));
        let refused = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &mode,
            &zero,
            b"",
            b"",
            b"",
            &mut Seed::new(&[5; 32]),
        );
        assert!(matches!(refused, Err(hpke::HpkeError::EncapError)));
    }

    #[test]
    fn a_seed_is_given_out_once_and_whole() {
        let mut seed = Seed::new(&[5; 32]);
        let mut bytes = [0; 32];
        let Ok(()) = seed.try_fill_bytes(&mut bytes);
        assert_eq!((bytes, seed.state == SeedState::Used), ([5; 32], true));
        let Ok(()) = seed.try_fill_bytes(&mut bytes);
        assert!(seed.state == SeedState::Misused);
        let mut seed = Seed::new(&[5; 32]);
        let Ok(()) = seed.try_fill_bytes(&mut bytes[..16]);
        assert!(seed.state == SeedState::Misused);
    }
}
