//! Envelopes: sealed payloads for any number of recipients in one delivery, none of whom is named. An index block leads to pages of
//! records of one length, sorted by tag; a recipient computes its tag, fetches one page, finds its record or knows that there is
//! none, and learns the CID, key and digest of its payload. Layout: `docs/spec/delivery.md`.
//!
//! The number of records is padded to 16, 64, 256, … and what pads cannot be told from what is somebody's. Refuses an index or a page
//! that is not sorted, not whole or not what the other says, a recipient named twice, and a record that was not sealed by this sender
//! to this recipient under this tag.

use std::collections::BTreeSet;

use hpke::{
    Deserializable as _, OpModeR, OpModeS, Serializable as _,
    aead::{AeadCtxR, ChaCha20Poly1305},
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    setup_receiver, setup_sender_with_rng, single_shot_open, single_shot_seal_with_rng,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    block::BlockCid,
    error::{DeliveryError, HpkeFailure, hex},
    key::{PublicKey, SecretKey},
    payload::{Digest, PayloadKind},
    prekey::PrekeyId,
    seal::{Context, Seed, SeedState, hpke_public, hpke_secret, random},
};

type Kem = X25519HkdfSha256;
type EncappedKey = <Kem as hpke::Kem>::EncappedKey;

/// Random bytes of an envelope: the input keying material of its ephemeral key, and the seed of what pads it.
pub type EnvelopeSeeds = [[u8; 32]; 2];

/// The most recipients that one envelope takes.
pub const MAX_RECIPIENTS: usize = 16_384;
/// Bytes of one record.
pub const RECORD_BYTES: usize = TAG_BYTES + STATIC_BYTES + AEAD_TAG;
/// Records of a full page.
pub const PAGE_RECORDS: usize = 256;

const VERSION: u8 = 1;
const TAG_BYTES: usize = 16;
const AEAD_TAG: usize = 16;
const ENCAPSULATED: usize = 32;
const CID_BYTES: usize = 36;
/// CID, key and digest.
const ITEM_BYTES: usize = CID_BYTES + 32 + 32;
/// The item with the prekey's tag, or with zeros in its place.
const INNER_BYTES: usize = ITEM_BYTES + AEAD_TAG;
/// The prekey's id and what is sealed to it.
const STATIC_BYTES: usize = 16 + INNER_BYTES;
const INDEX_HEAD: usize = 1 + 4 + ENCAPSULATED;
const INDEX_ROW: usize = TAG_BYTES + 32;

const RECORD_LABEL: &[u8] = b"countersign.envelope.v1";
const PREKEY_LABEL: &[u8] = b"countersign.envelope-prekey.v1";
const TAG_LABEL: &[u8] = b"countersign.envelope-tag.v1";
const PADDING_LABEL: &[u8] = b"countersign.envelope-padding.v1";

type Tag = [u8; TAG_BYTES];

/// What an envelope is bound to; with a recipient's address it is that recipient's [`Context`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The realm's id.
    pub realm: [u8; 32],
    /// The envelope's record id.
    pub delivery: [u8; 16],
    /// What is delivered.
    pub kind: PayloadKind,
}

impl Binding {
    /// The context of one recipient, by ledger address.
    #[must_use]
    pub fn to(&self, recipient: [u8; 20]) -> Context {
        Context { realm: self.realm, delivery: self.delivery, recipient, kind: self.kind }
    }
}

/// What leads to a payload: where its block is, what opens it, what it must then be.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    /// The payload's block.
    pub cid: BlockCid,
    /// The block's key.
    pub key: Zeroizing<[u8; 32]>,
    /// The payload's salted digest.
    pub digest: Digest,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Item")
            .field("cid", &self.cid)
            .field("digest", &hex(&self.digest))
            .finish_non_exhaustive()
    }
}

impl Item {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(INNER_BYTES));
        bytes.extend_from_slice(&self.cid.to_bytes());
        bytes.extend_from_slice(self.key.as_slice());
        bytes.extend_from_slice(&self.digest);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, DeliveryError> {
        let refused = || form("record", "a CID, a key and a digest");
        let (cid, rest) = bytes.split_at_checked(CID_BYTES).ok_or_else(refused)?;
        let (key, digest) = rest.split_first_chunk::<32>().ok_or_else(refused)?;
        let digest = digest.try_into().map_err(|_| refused())?;
        Ok(Self { cid: BlockCid::from_bytes(cid)?, key: Zeroizing::new(*key), digest })
    }
}

/// One recipient.
#[derive(Clone, Debug)]
pub struct Addressee<'a> {
    /// Its ledger address.
    pub address: [u8; 20],
    /// Its sealing key.
    pub key: PublicKey,
    /// The prekey to seal to as well.
    pub prekey: Option<PublicKey>,
    /// What it gets.
    pub item: &'a Item,
}

/// A sealed envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The index block, whose SHA-256 goes on the ledger.
    pub index: Vec<u8>,
    /// The pages that it leads to.
    pub pages: Vec<Vec<u8>>,
}

impl Envelope {
    /// The SHA-256 of the index, which is in its CID.
    #[must_use]
    pub fn index_digest(&self) -> [u8; 32] {
        Sha256::digest(&self.index).into()
    }
}

/// Seals `addressees` into one envelope.
///
/// # Errors
/// [`DeliveryError::Recipients`] for none, too many, or one twice; [`DeliveryError::Randomness`]; [`DeliveryError::Seal`].
pub fn seal_envelope(
    binding: &Binding,
    sender: &SecretKey,
    addressees: &[Addressee<'_>],
) -> Result<Envelope, DeliveryError> {
    let seeds = Zeroizing::new([random()?, random()?]);
    seal_envelope_with(binding, sender, addressees, &seeds)
}

/// [`seal_envelope`] with its randomness given, for vectors; it is used once and never again.
///
/// # Errors
/// As [`seal_envelope`].
pub fn seal_envelope_with(
    binding: &Binding,
    sender: &SecretKey,
    addressees: &[Addressee<'_>],
    [seed, padding]: &EnvelopeSeeds,
) -> Result<Envelope, DeliveryError> {
    let count = bucket(addressees.len())?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = addressees.iter().find(|addressee| !seen.insert(addressee.address)) {
        return Err(DeliveryError::Recipients { problem: format!("0x{} is named twice", hex(&twice.address)) });
    }
    let sealer = Sealer::new(sender, seed)?;
    let mut records = Vec::with_capacity(count);
    for addressee in addressees {
        records.push(sealer.record(binding, addressee)?);
    }
    let missing = count.saturating_sub(records.len());
    records.extend((0..u32::try_from(missing).unwrap_or(u32::MAX)).map(|place| padding_record(padding, place)));
    records.sort_unstable();
    let tags = records.iter().filter_map(|record| record.first_chunk::<TAG_BYTES>());
    if !tags.is_sorted_by(|left, right| left < right) {
        // Two tags of 128 bits are the same: never by chance.
        return Err(DeliveryError::Recipients { problem: "two of them have one tag".to_owned() });
    }

    let mut index = Vec::with_capacity(INDEX_HEAD);
    index.push(VERSION);
    index.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
    index.extend_from_slice(&sealer.encapsulated);
    let mut pages = Vec::new();
    for records in records.chunks(PAGE_RECORDS) {
        let page = [&[VERSION][..], records.concat().as_slice()].concat();
        index.extend(records.iter().take(1).flat_map(|record| record.iter().take(TAG_BYTES)));
        index.extend_from_slice(&Sha256::digest(&page));
        pages.push(page);
    }
    Ok(Envelope { index, pages })
}

/// The smallest of 16, 64, 256, … that holds so many recipients.
fn bucket(recipients: usize) -> Result<usize, DeliveryError> {
    if recipients == 0 {
        return Err(DeliveryError::Recipients { problem: "expected at least one".to_owned() });
    }
    std::iter::successors(Some(16_usize), |bucket| bucket.checked_mul(4))
        .take_while(|bucket| *bucket <= MAX_RECIPIENTS)
        .find(|bucket| recipients <= *bucket)
        .ok_or_else(|| DeliveryError::Recipients {
            problem: format!("{recipients}: expected at most {MAX_RECIPIENTS}"),
        })
}

type RecordBytes = [u8; RECORD_BYTES];

/// Pseudo-random bytes of a record's length: blocks of SHA-256 over a secret seed, the record's number and the block's.
fn padding_record(seed: &[u8; 32], place: u32) -> RecordBytes {
    let mut record = [0; RECORD_BYTES];
    for (number, part) in (0_u8..).zip(record.chunks_mut(32)) {
        let block = Sha256::new()
            .chain_update(PADDING_LABEL)
            .chain_update(seed)
            .chain_update(place.to_be_bytes())
            .chain_update([number])
            .finalize();
        for (to, from) in part.iter_mut().zip(block) {
            *to = from;
        }
    }
    record
}

/// Seals all records of an envelope under one ephemeral key. That is sound because the recipient's public key and address are part of
/// each record's key schedule, and no recipient occurs twice.
struct Sealer<'a> {
    mode: OpModeS<'static, Kem>,
    seed: &'a [u8; 32],
    encapsulated: [u8; ENCAPSULATED],
}

impl<'a> Sealer<'a> {
    fn new(sender: &SecretKey, seed: &'a [u8; 32]) -> Result<Self, DeliveryError> {
        let failed = |source| DeliveryError::Seal { recipient: "an envelope".to_owned(), source: HpkeFailure(source) };
        let public = hpke_public(&sender.public()).map_err(failed)?;
        let (_, ephemeral) = <Kem as hpke::Kem>::derive_keypair(seed);
        let mode = OpModeS::Auth((hpke_secret(sender).map_err(failed)?, public));
        let encapsulated = ephemeral.to_bytes().into();
        Ok(Self { mode, seed, encapsulated })
    }

    fn record(&self, binding: &Binding, addressee: &Addressee<'_>) -> Result<RecordBytes, DeliveryError> {
        let failed =
            |source| DeliveryError::Seal { recipient: hex(&addressee.key.to_bytes()), source: HpkeFailure(source) };
        let context = binding.to(addressee.address);
        let item = addressee.item.encode();
        let mut plaintext = Zeroizing::new(Vec::with_capacity(STATIC_BYTES));
        match &addressee.prekey {
            Some(prekey) => {
                let id = PrekeyId::of(&binding.realm, &addressee.address, prekey);
                plaintext.extend_from_slice(&id.0);
                plaintext.extend_from_slice(&self.to_prekey(&context, prekey, id, &item)?);
            }
            None => {
                plaintext.extend_from_slice(&[0; 16]);
                plaintext.extend_from_slice(&item);
                plaintext.extend_from_slice(&[0; AEAD_TAG]);
            }
        }
        let mut seed = Seed::new(self.seed);
        let key = hpke_public(&addressee.key).map_err(failed)?;
        let (encapsulated, mut sealing) = setup_sender_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &self.mode,
            &key,
            &context.info(RECORD_LABEL),
            &mut seed,
        )
        .map_err(failed)?;
        self.check(&seed, &encapsulated).map_err(failed)?;
        let mut tag: Tag = [0; TAG_BYTES];
        sealing.export(TAG_LABEL, &mut tag).map_err(failed)?;
        let sealed = sealing.seal(&plaintext, &record_aad(&tag)).map_err(failed)?;
        [&tag[..], &sealed].concat().try_into().map_err(|_| failed(hpke::HpkeError::SealError))
    }

    fn to_prekey(
        &self,
        context: &Context,
        prekey: &PublicKey,
        id: PrekeyId,
        item: &[u8],
    ) -> Result<Vec<u8>, DeliveryError> {
        let failed = |source| DeliveryError::Seal { recipient: hex(&prekey.to_bytes()), source: HpkeFailure(source) };
        let mut seed = Seed::new(self.seed);
        let (encapsulated, sealed) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeS::Base,
            &hpke_public(prekey).map_err(failed)?,
            &context.info(PREKEY_LABEL),
            item,
            &prekey_aad(id),
            &mut seed,
        )
        .map_err(failed)?;
        self.check(&seed, &encapsulated).map_err(failed)?;
        Ok(sealed)
    }

    /// Whether HPKE took the one draw of randomness that gives the envelope's ephemeral key.
    fn check(&self, seed: &Seed, encapsulated: &EncappedKey) -> Result<(), hpke::HpkeError> {
        let same = encapsulated.to_bytes().as_slice() == self.encapsulated;
        if seed.state == SeedState::Used && same { Ok(()) } else { Err(hpke::HpkeError::EncapError) }
    }
}

fn record_aad(tag: &Tag) -> [u8; 1 + TAG_BYTES] {
    let mut aad = [VERSION; 1 + TAG_BYTES];
    for (to, from) in aad.iter_mut().skip(1).zip(tag) {
        *to = *from;
    }
    aad
}

fn prekey_aad(id: PrekeyId) -> [u8; 17] {
    record_aad(&id.0)
}

fn form(field: &'static str, expected: &'static str) -> DeliveryError {
    DeliveryError::Envelope { field, expected }
}

/// An index block that was read and found whole.
#[derive(Clone, Debug)]
pub struct Index {
    records: usize,
    encapsulated: [u8; ENCAPSULATED],
    /// First tag and SHA-256 of each page.
    pages: Vec<(Tag, [u8; 32])>,
}

impl Index {
    /// Reads an index block.
    ///
    /// # Errors
    /// [`DeliveryError::Envelope`].
    pub fn parse(block: &[u8]) -> Result<Self, DeliveryError> {
        let cut = || form("index", "a whole index");
        let (version, rest) = block.split_first().ok_or_else(cut)?;
        if *version != VERSION {
            return Err(form("index version", "1"));
        }
        let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let (encapsulated, rows) = rest.split_first_chunk::<ENCAPSULATED>().ok_or_else(cut)?;
        let records = usize::try_from(u32::from_be_bytes(*count)).unwrap_or(usize::MAX);
        if bucket(records).ok() != Some(records) {
            return Err(form("record count", "16, 64, 256, 1024, 4096 or 16384"));
        }
        let (rows, []) = rows.as_chunks::<INDEX_ROW>() else { return Err(cut()) };
        if rows.len() != records.div_ceil(PAGE_RECORDS) {
            return Err(form("page count", "one row for each page of the records"));
        }
        let pages: Vec<(Tag, [u8; 32])> = rows.iter().filter_map(row).collect();
        if !pages.is_sorted_by(|(left, _), (right, _)| left < right) {
            return Err(form("first tags", "ascending tags, each once"));
        }
        Ok(Self { records, encapsulated: *encapsulated, pages })
    }

    /// How many records there are, padding included.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records
    }

    /// The pages' blocks.
    pub fn pages(&self) -> impl Iterator<Item = BlockCid> {
        self.pages.iter().map(|(_, digest)| BlockCid::of_digest(*digest))
    }

    /// Where `recipient`'s record is, if it has one. None: there is none, for sure.
    ///
    /// # Errors
    /// [`DeliveryError::Open`] where the ephemeral key admits no key agreement.
    pub fn locate(
        &self,
        context: &Context,
        recipient: &SecretKey,
        sender: &PublicKey,
    ) -> Result<Option<Slot>, DeliveryError> {
        let failed = |_| DeliveryError::Open { object: "envelope" };
        let mode = OpModeR::Auth(hpke_public(sender).map_err(failed)?);
        let encapsulated = EncappedKey::from_bytes(&self.encapsulated).map_err(failed)?;
        let opening = setup_receiver::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &mode,
            &hpke_secret(recipient).map_err(failed)?,
            &encapsulated,
            &context.info(RECORD_LABEL),
        )
        .map_err(failed)?;
        let mut tag: Tag = [0; TAG_BYTES];
        opening.export(TAG_LABEL, &mut tag).map_err(failed)?;
        let after = self.pages.partition_point(|(first, _)| *first <= tag);
        let Some(number) = after.checked_sub(1) else { return Ok(None) };
        let Some((first, digest)) = self.pages.get(number) else { return Ok(None) };
        let left = self.records.saturating_sub(number.saturating_mul(PAGE_RECORDS));
        Ok(Some(Slot {
            tag,
            page: BlockCid::of_digest(*digest),
            first: *first,
            next: self.pages.get(after).map(|(next, _)| *next),
            records: left.min(PAGE_RECORDS),
            context: *context,
            encapsulated,
            opening,
        }))
    }
}

fn row(row: &[u8; INDEX_ROW]) -> Option<(Tag, [u8; 32])> {
    let (tag, digest) = row.split_first_chunk::<TAG_BYTES>()?;
    Some((*tag, digest.try_into().ok()?))
}

/// Where one recipient's record is, if it has one.
pub struct Slot {
    tag: Tag,
    page: BlockCid,
    first: Tag,
    next: Option<Tag>,
    records: usize,
    context: Context,
    encapsulated: EncappedKey,
    opening: AeadCtxR<ChaCha20Poly1305, HkdfSha256, Kem>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Slot").field("page", &self.page).finish_non_exhaustive()
    }
}

impl Slot {
    /// The page to fetch.
    #[must_use]
    pub fn page(&self) -> BlockCid {
        self.page
    }

    /// Finds and opens the record in the page. None: the recipient has none.
    ///
    /// # Errors
    /// [`DeliveryError::Envelope`] where the page is not what the index says; [`DeliveryError::Open`] where there is a record under
    /// the recipient's tag that this sender did not seal to it.
    pub fn find(mut self, page: &[u8]) -> Result<Option<Record>, DeliveryError> {
        let (version, records) = page.split_first().ok_or_else(|| form("page", "a whole page"))?;
        if *version != VERSION {
            return Err(form("page version", "1"));
        }
        let (records, []) = records.as_chunks::<RECORD_BYTES>() else { return Err(form("page", "whole records")) };
        if records.len() != self.records {
            return Err(form("page", "as many records as the index says"));
        }
        let tag_of = |record: &RecordBytes| record.first_chunk::<TAG_BYTES>().copied().unwrap_or_default();
        let sorted = records.is_sorted_by(|left, right| tag_of(left) < tag_of(right));
        let begins = records.first().is_some_and(|record| tag_of(record) == self.first);
        let ends = self.next.is_none_or(|next| records.last().is_some_and(|record| tag_of(record) < next));
        if !(sorted && begins && ends) {
            return Err(form("page", "ascending tags within the bounds of the index"));
        }
        let Ok(place) = records.binary_search_by_key(&self.tag, tag_of) else { return Ok(None) };
        let sealed = records.get(place).and_then(|record| record.get(TAG_BYTES..)).unwrap_or_default();
        let plaintext = self
            .opening
            .open(sealed, &record_aad(&self.tag))
            .map(Zeroizing::new)
            .map_err(|_| DeliveryError::Open { object: "envelope record" })?;
        let (id, inner) = plaintext.split_first_chunk::<16>().ok_or_else(|| form("record", "a whole record"))?;
        let inner = Zeroizing::new(inner.to_vec());
        let prekey = (*id != [0; 16]).then_some(PrekeyId(*id));
        Ok(Some(Record { context: self.context, encapsulated: self.encapsulated, prekey, inner }))
    }
}

/// One recipient's record, opened with its sealing key.
pub struct Record {
    context: Context,
    encapsulated: EncappedKey,
    prekey: Option<PrekeyId>,
    inner: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Record").field("prekey", &self.prekey).finish_non_exhaustive()
    }
}

impl Record {
    /// The prekey that it takes to read on, if it is sealed to one.
    #[must_use]
    pub fn prekey(&self) -> Option<PrekeyId> {
        self.prekey
    }

    /// What leads to the payload. `prekey` is the one that [`Record::prekey`] asks for, and asked only then.
    ///
    /// # Errors
    /// [`DeliveryError::Open`] where the prekey is missing or another; [`DeliveryError::Envelope`], [`DeliveryError::Cid`] where
    /// what was sealed is not an item.
    pub fn item(&self, prekey: Option<&SecretKey>) -> Result<Item, DeliveryError> {
        let Some(id) = self.prekey else {
            let (item, zeros) = self.inner.split_at_checked(ITEM_BYTES).ok_or_else(|| form("record", "a whole one"))?;
            if zeros.iter().any(|byte| *byte != 0) {
                return Err(form("record", "zeros where there is no prekey"));
            }
            return Item::decode(item);
        };
        let failed = || DeliveryError::Open { object: "part that is sealed to a prekey" };
        let prekey = hpke_secret(prekey.ok_or_else(failed)?).map_err(|_| failed())?;
        let item = single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Base,
            &prekey,
            &self.encapsulated,
            &self.context.info(PREKEY_LABEL),
            &self.inner,
            &prekey_aad(id),
        );
        Item::decode(&Zeroizing::new(item.map_err(|_| failed())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        payload::{Contents, Payload},
        payload_block::{SealedPayload, open_payload, seal_payload},
    };

    const BINDING: Binding = Binding { realm: [1; 32], delivery: [2; 16], kind: PayloadKind::OpaqueSecret };

    struct Device {
        address: [u8; 20],
        key: SecretKey,
        prekey: SecretKey,
    }

    struct Bed {
        sender: SecretKey,
        devices: Vec<Device>,
        payload: SealedPayload,
    }

    impl Bed {
        fn new(devices: u8) -> Self {
            let secret = Zeroizing::new(b"hunter2".to_vec());
            let payload = Payload::new("token", Contents::OpaqueSecret { secret }).unwrap();
            let device = |number| Device {
                address: [number; 20],
                key: SecretKey::generate().unwrap(),
                prekey: SecretKey::generate().unwrap(),
            };
            Self {
                sender: SecretKey::generate().unwrap(),
                devices: (1..=devices).map(device).collect(),
                payload: seal_payload(&BINDING, &payload).unwrap(),
            }
        }

        fn addressees(&self, prekeys: bool) -> Vec<Addressee<'_>> {
            let addressee = |device: &Device| Addressee {
                address: device.address,
                key: device.key.public(),
                prekey: prekeys.then(|| device.prekey.public()),
                item: &self.payload.item,
            };
            self.devices.iter().map(addressee).collect()
        }

        fn seal(&self, prekeys: bool) -> Envelope {
            seal_envelope(&BINDING, &self.sender, &self.addressees(prekeys)).unwrap()
        }

        /// What a device does with an envelope: one index, one page.
        fn look(
            &self,
            binding: &Binding,
            device: &Device,
            envelope: &Envelope,
        ) -> Result<Option<Record>, DeliveryError> {
            let index = Index::parse(&envelope.index)?;
            let context = binding.to(device.address);
            let Some(slot) = index.locate(&context, &device.key, &self.sender.public())? else { return Ok(None) };
            let page = envelope.pages.iter().find(|page| BlockCid::of(page).unwrap() == slot.page());
            slot.find(page.expect("the index names a page that is there"))
        }
    }

    /// The envelope whose pages were changed, with an index that names them as they are now.
    fn renamed(envelope: &Envelope, change: impl FnOnce(&mut Vec<u8>)) -> Envelope {
        let mut envelope = envelope.clone();
        change(&mut envelope.pages[0]);
        let digest = Sha256::digest(&envelope.pages[0]);
        envelope.index[INDEX_HEAD + TAG_BYTES..INDEX_HEAD + INDEX_ROW].copy_from_slice(&digest);
        let first: Vec<u8> = envelope.pages[0][1..1 + TAG_BYTES].to_vec();
        envelope.index[INDEX_HEAD..INDEX_HEAD + TAG_BYTES].copy_from_slice(&first);
        envelope
    }

    fn position(envelope: &Envelope, record: &[u8]) -> usize {
        let records = envelope.pages[0][1..].chunks(RECORD_BYTES);
        let (at, _) = (1..).step_by(RECORD_BYTES).zip(records).find(|(_, found)| *found == record).unwrap();
        at
    }

    #[test]
    fn every_recipient_opens_its_record_and_nobody_else_has_one() {
        let bed = Bed::new(17);
        for prekeys in [false, true] {
            let envelope = bed.seal(prekeys);
            assert_eq!(Index::parse(&envelope.index).unwrap().records(), 64, "17 recipients look like 64");
            for device in &bed.devices {
                let record = bed.look(&BINDING, device, &envelope).unwrap().unwrap();
                let id = PrekeyId::of(&BINDING.realm, &device.address, &device.prekey.public());
                assert_eq!(record.prekey(), prekeys.then_some(id));
                let item = record.item(prekeys.then_some(&device.prekey)).unwrap();
                assert_eq!(item, bed.payload.item);
                open_payload(&BINDING, &item, "token", &bed.payload.block).unwrap();
            }
            let stranger = Device { address: [99; 20], ..Bed::new(1).devices.pop().unwrap() };
            assert!(bed.look(&BINDING, &stranger, &envelope).unwrap().is_none());
        }
    }

    // The promise of prekeys: what was recorded stays closed to who later has every long-term key.
    #[test]
    fn with_every_long_term_key_of_sender_and_recipient_an_old_block_stays_closed() {
        let bed = Bed::new(1);
        let envelope = bed.seal(true);
        let device = &bed.devices[0];
        // The thief has the sender's key, the recipient's key, the ledger, all blocks; the prekey is gone after its use.
        let record = bed.look(&BINDING, device, &envelope).unwrap().unwrap();
        assert!(record.prekey().is_some());
        for key in [None, Some(&device.key), Some(&bed.sender)] {
            let refused = record.item(key).unwrap_err();
            assert!(matches!(refused, DeliveryError::Open { .. }), "{refused}");
        }
        // What the long-term keys do open has neither the CID nor the key nor the digest in it.
        let Item { cid, key, digest } = &bed.payload.item;
        for secret in [&cid.to_bytes()[..], key.as_slice(), digest] {
            assert!(!record.inner.windows(secret.len()).any(|part| part == secret));
        }
        // Without prekeys, the same thief reads it: this test can fail.
        assert_eq!(
            bed.look(&BINDING, device, &bed.seal(false)).unwrap().unwrap().item(None).unwrap(),
            bed.payload.item
        );
    }

    #[test]
    fn an_envelope_names_no_recipient_and_two_have_nothing_in_common() {
        let bed = Bed::new(3);
        let (first, second) = (bed.seal(true), bed.seal(true));
        for device in &bed.devices {
            let id = PrekeyId::of(&BINDING.realm, &device.address, &device.prekey.public());
            for known in
                [&device.address[..], &device.key.public().to_bytes(), &device.prekey.public().to_bytes(), &id.0]
            {
                let all = [first.index.as_slice(), &first.pages.concat()].concat();
                assert!(!all.windows(known.len()).any(|part| part == known));
            }
        }
        let tags = |envelope: &Envelope| -> BTreeSet<Vec<u8>> {
            envelope.pages[0][1..].chunks(RECORD_BYTES).map(|record| record[..TAG_BYTES].to_vec()).collect()
        };
        assert!(tags(&first).is_disjoint(&tags(&second)));
        assert_ne!(first.index[5..37], second.index[5..37]);
    }

    #[test]
    fn the_number_of_recipients_shows_by_its_class_only() {
        for (recipients, records) in [(1, 16), (16, 16), (17, 64), (64, 64), (65, 256), (257, 1024), (4097, 16_384)] {
            assert_eq!(bucket(recipients).unwrap(), records);
        }
        for (recipients, message) in
            [(0, "recipients: expected at least one"), (16_385, "recipients: 16385: expected at most 16384")]
        {
            assert_eq!(bucket(recipients).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_recipient_named_twice_is_refused() {
        let bed = Bed::new(2);
        let mut addressees = bed.addressees(false);
        addressees[1].address = addressees[0].address;
        let error = seal_envelope(&BINDING, &bed.sender, &addressees).unwrap_err();
        assert_eq!(error.to_string(), format!("recipients: 0x{} is named twice", "01".repeat(20)));
    }

    #[test]
    fn an_envelope_of_somebody_else_or_for_another_delivery_has_no_record_for_anybody() {
        let bed = Bed::new(2);
        let envelope = bed.seal(false);
        let device = &bed.devices[0];
        for binding in [
            Binding { realm: [9; 32], ..BINDING },
            Binding { delivery: [9; 16], ..BINDING },
            Binding { kind: PayloadKind::SshCertificate, ..BINDING },
        ] {
            assert!(bed.look(&binding, device, &envelope).unwrap().is_none(), "{binding:?}");
        }
        let thief = Bed { sender: SecretKey::generate().unwrap(), devices: Vec::new(), payload: bed.payload.clone() };
        assert!(thief.look(&BINDING, device, &envelope).unwrap().is_none());
        let moved = Device { address: [77; 20], key: device.key.clone(), prekey: device.prekey.clone() };
        assert!(bed.look(&BINDING, &moved, &envelope).unwrap().is_none(), "the same key at another address");
    }

    #[test]
    fn a_record_altered_at_any_byte_or_moved_under_another_tag_does_not_open() {
        let bed = Bed::new(2);
        let envelope = bed.seal(false);
        let tag_of = |device: &Device| {
            let index = Index::parse(&envelope.index).unwrap();
            index.locate(&BINDING.to(device.address), &device.key, &bed.sender.public()).unwrap().unwrap().tag
        };
        let record_of = |tag: Tag| {
            envelope.pages[0][1..].chunks(RECORD_BYTES).find(|record| record[..TAG_BYTES] == tag).unwrap().to_vec()
        };
        let [own, other] = [&bed.devices[0], &bed.devices[1]].map(|device| record_of(tag_of(device)));
        let at = position(&envelope, &own);
        for byte in TAG_BYTES..RECORD_BYTES {
            let forged = renamed(&envelope, |page| page[at + byte] ^= 0x20);
            let error = bed.look(&BINDING, &bed.devices[0], &forged).unwrap_err();
            assert!(matches!(error, DeliveryError::Open { object: "envelope record" }), "byte {byte}: {error}");
        }
        // The other's sealed part under one's own tag.
        let moved = renamed(&envelope, |page| {
            page[at + TAG_BYTES..at + RECORD_BYTES].copy_from_slice(&other[TAG_BYTES..]);
        });
        let error = bed.look(&BINDING, &bed.devices[0], &moved).unwrap_err();
        assert!(matches!(error, DeliveryError::Open { object: "envelope record" }), "{error}");
    }

    #[test]
    fn a_page_that_is_not_sorted_not_whole_or_has_a_tag_twice_is_refused() {
        let bed = Bed::new(2);
        let envelope = bed.seal(false);
        let refused = |change: &dyn Fn(&mut Vec<u8>), message: &str| {
            let mut refusals = 0;
            for device in &bed.devices {
                match bed.look(&BINDING, device, &renamed(&envelope, |page| change(page))) {
                    Err(error) => {
                        assert_eq!(error.to_string(), format!("envelope: {message}"));
                        refusals += 1;
                    }
                    // The changed first tag may lie above one's own: then there is no page to look at.
                    Ok(found) => assert!(found.is_none()),
                }
            }
            assert!(refusals > 0, "{message}");
        };
        let sorted = "page: expected ascending tags within the bounds of the index";
        refused(&|page| page[1 + RECORD_BYTES..1 + 2 * RECORD_BYTES].fill(0), sorted);
        refused(
            &|page| {
                let second = page[1 + RECORD_BYTES..1 + RECORD_BYTES + TAG_BYTES].to_vec();
                page[1 + 2 * RECORD_BYTES..1 + 2 * RECORD_BYTES + TAG_BYTES].copy_from_slice(&second);
            },
            sorted,
        );
        refused(&|page| page.truncate(1 + 15 * RECORD_BYTES), "page: expected as many records as the index says");
        refused(&|page| page.push(0), "page: expected whole records");
        refused(&|page| page[0] = 2, "page version: expected 1");
    }

    #[test]
    fn an_index_cut_at_any_byte_lengthened_or_out_of_order_is_refused() {
        let bed = Bed::new(1);
        let good = bed.seal(false).index;
        for end in 0..good.len() {
            assert!(Index::parse(&good[..end]).is_err(), "the first {end} bytes were accepted");
        }
        assert!(Index::parse(&[good.as_slice(), &[0]].concat()).is_err());
        for (count, message) in [
            (0_u32, "record count: expected 16, 64, 256, 1024, 4096 or 16384"),
            (17, "record count: expected 16, 64, 256, 1024, 4096 or 16384"),
            (65_536, "record count: expected 16, 64, 256, 1024, 4096 or 16384"),
            (1024, "page count: expected one row for each page of the records"),
        ] {
            let mut index = good.clone();
            index[1..5].copy_from_slice(&count.to_be_bytes());
            assert_eq!(Index::parse(&index).unwrap_err().to_string(), format!("envelope: {message}"));
        }
        let mut rows = good[..5].to_vec();
        rows[1..5].copy_from_slice(&1024_u32.to_be_bytes());
        rows.extend_from_slice(&good[5..37]);
        for first in [3_u8, 1, 2, 4] {
            rows.extend_from_slice(&[first; INDEX_ROW]);
        }
        let error = Index::parse(&rows).unwrap_err();
        assert_eq!(error.to_string(), "envelope: first tags: expected ascending tags, each once");
        let mut zero = good.clone();
        zero[5..37].fill(0);
        let index = Index::parse(&zero).unwrap();
        let device = &bed.devices[0];
        let refused = index.locate(&BINDING.to(device.address), &device.key, &bed.sender.public()).unwrap_err();
        assert!(matches!(refused, DeliveryError::Open { .. }), "an ephemeral key of low order");
    }
}
