//! Reading a key revocation list: what it revokes, as ranges, so that a hostile list of a few bytes cannot fill the memory.
//!
//! Strict where sshd is lenient: unknown sections, trailing bytes, bitmaps that are negative or too long, ranges that end before they
//! begin are errors. Signatures are refused, as OpenSSH does from 9.4 on. Where sshd refuses the whole list (serial 0, a NUL in a text,
//! numbers over 16,384 bits, more than 128 MiB) so does this.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::encode::{
    FORMAT, KEY_ID, Krl, MAGIC, MOST_BYTES, SECTION_CERTIFICATES, SECTION_KEY_SHA256, SERIAL_BITMAP, SERIAL_LIST,
    SERIAL_RANGE,
};
use crate::serials::BITMAP_MOST_BITS;

const SECTION_KEY: u8 = 2;
const SECTION_KEY_SHA1: u8 = 3;
/// Ranges, CAs, key ids and keys together that a list may come to: a bitmap's byte can hold four ranges, and each costs some 30 bytes.
pub(crate) const MOST_ENTRIES: usize = 1 << 20;
pub(crate) const TOO_MANY: &str = "at most 1,048,576 ranges of serials, CAs, key ids and keys";

/// Why a list does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("key revocation list: expected {expected} at byte {at}")]
pub struct KrlReadError {
    /// What was expected.
    pub expected: &'static str,
    /// Where.
    pub at: usize,
}

/// What a list revokes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Revoked {
    /// The list's number.
    pub version: u64,
    /// When it was made, Unix seconds.
    pub generated_secs: u64,
    /// For people.
    pub comment: String,
    /// By CA key; an empty key means every CA.
    certificates: BTreeMap<Vec<u8>, Certificates>,
    keys_sha256: BTreeSet<[u8; 32]>,
    keys_sha1: BTreeSet<[u8; 20]>,
    keys: BTreeSet<Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Certificates {
    /// First serial and last, disjoint and not adjacent.
    ranges: BTreeMap<u64, u64>,
    key_ids: BTreeSet<Vec<u8>>,
}

impl Revoked {
    /// Reads a whole list.
    ///
    /// # Errors
    /// Where it is not one.
    pub fn read(bytes: &[u8]) -> Result<Self, KrlReadError> {
        let mut fields = Fields { rest: bytes, at: 0 };
        if bytes.len() > MOST_BYTES {
            return Err(fields.error("at most 128 MiB"));
        }
        let mut entries = Entries(0);
        if fields.u64()? != MAGIC {
            return Err(KrlReadError { expected: "SSHKRL and a line's end", at: 0 });
        }
        if fields.u32()? != FORMAT {
            return Err(fields.error("format version 1"));
        }
        let mut revoked = Self { version: fields.u64()?, generated_secs: fields.u64()?, ..Self::default() };
        if fields.u64()? != 0 {
            return Err(fields.error("no flags"));
        }
        fields.string()?;
        let comment = fields.string()?;
        revoked.comment =
            std::str::from_utf8(comment.rest).map_err(|_| comment.error("a comment in UTF-8"))?.to_owned();
        if revoked.comment.contains('\0') {
            return Err(comment.error("a comment without NUL"));
        }
        while !fields.rest.is_empty() {
            let section = fields.u8()?;
            let mut data = fields.string()?;
            match section {
                SECTION_CERTIFICATES => revoked.certificate_section(&mut data, &mut entries)?,
                SECTION_KEY_SHA256 => collect(&mut data, &mut revoked.keys_sha256, &mut entries)?,
                SECTION_KEY_SHA1 => collect(&mut data, &mut revoked.keys_sha1, &mut entries)?,
                SECTION_KEY => {
                    while !data.rest.is_empty() {
                        revoked.keys.insert(data.string()?.rest.to_vec());
                        entries.more(1, &data)?;
                    }
                }
                _ => return Err(data.error("a section of certificates, keys or fingerprints")),
            }
        }
        Ok(revoked)
    }

    /// Whether a certificate is revoked by its serial or key id. Its keys are asked about separately.
    #[must_use]
    pub fn certificate(&self, ca_blob: &[u8], serial: u64, key_id: &[u8]) -> bool {
        [ca_blob, &[]].iter().filter_map(|ca| self.certificates.get(*ca)).any(|certificates| {
            let range = certificates.ranges.range(..=serial).next_back();
            // Serial 0 is that of certificates without one.
            (serial != 0 && range.is_some_and(|(_, last)| serial <= *last)) || certificates.key_ids.contains(key_id)
        })
    }

    /// Whether a key is revoked by the SHA-256 of its wire form.
    #[must_use]
    pub fn key_sha256(&self, sha256: &[u8; 32]) -> bool {
        self.keys_sha256.contains(sha256)
    }

    /// Whether it is just what was asked for.
    pub(crate) fn compare(&self, wanted: &Krl) -> Result<(), KrlReadError> {
        let differs = |expected| Err(KrlReadError { expected, at: 0 });
        if (self.version, self.generated_secs, &self.comment)
            != (wanted.version, wanted.generated_secs, &wanted.comment)
        {
            return differs("the header that was asked for");
        }
        let mut certificates: BTreeMap<Vec<u8>, Certificates> = BTreeMap::new();
        for given in wanted.certificates.iter().filter(|given| !given.serials.is_empty() || !given.key_ids.is_empty()) {
            let entry = certificates.entry(given.ca_blob.clone()).or_default();
            for serial in &given.serials {
                entry.insert(*serial, *serial);
            }
            entry.key_ids.extend(given.key_ids.iter().map(|key_id| key_id.as_bytes().to_vec()));
        }
        if certificates != self.certificates {
            return differs("the certificates that were asked for");
        }
        let other_keys = !self.keys.is_empty() || !self.keys_sha1.is_empty();
        if other_keys || self.keys_sha256 != wanted.keys_sha256.iter().copied().collect() {
            return differs("the keys that were asked for");
        }
        Ok(())
    }

    fn certificate_section(&mut self, data: &mut Fields<'_>, entries: &mut Entries) -> Result<(), KrlReadError> {
        let ca = data.string()?.rest.to_vec();
        data.string()?;
        entries.more(1, data)?;
        let certificates = self.certificates.entry(ca).or_default();
        while !data.rest.is_empty() {
            let kind = data.u8()?;
            let mut piece = data.string()?;
            match kind {
                SERIAL_LIST => {
                    while !piece.rest.is_empty() {
                        let serial = piece.u64()?;
                        certificates.insert_counted((serial, serial), entries, &piece)?;
                    }
                }
                SERIAL_RANGE => {
                    let (first, last) = (piece.u64()?, piece.u64()?);
                    if first > last || !piece.rest.is_empty() {
                        return Err(piece.error("a range's first and last serial"));
                    }
                    certificates.insert_counted((first, last), entries, &piece)?;
                }
                SERIAL_BITMAP => {
                    let first = piece.u64()?;
                    let number = piece.string()?;
                    if !piece.rest.is_empty() {
                        return Err(piece.error("the end of the bitmap"));
                    }
                    certificates.insert_bitmap(first, &number, entries)?;
                }
                KEY_ID => {
                    while !piece.rest.is_empty() {
                        let key_id = piece.string()?;
                        if key_id.rest.contains(&0) {
                            return Err(key_id.error("a key id without NUL"));
                        }
                        certificates.key_ids.insert(key_id.rest.to_vec());
                        entries.more(1, &piece)?;
                    }
                }
                _ => return Err(piece.error("serials, a range, a bitmap or key ids")),
            }
        }
        Ok(())
    }
}

impl Certificates {
    fn insert(&mut self, mut first: u64, mut last: u64) {
        if let Some((before, end)) = self.ranges.range(..=first).next_back().map(|(a, b)| (*a, *b))
            && end >= first.saturating_sub(1)
        {
            first = before;
            last = last.max(end);
            self.ranges.remove(&before);
        }
        while let Some((next, end)) = self.ranges.range(first..).next().map(|(a, b)| (*a, *b)) {
            if next > last.saturating_add(1) {
                break;
            }
            last = last.max(end);
            self.ranges.remove(&next);
        }
        self.ranges.insert(first, last);
    }

    /// Inserts what stands at `place`, if sshd takes it and there is room.
    fn insert_counted(
        &mut self,
        (first, last): (u64, u64),
        entries: &mut Entries,
        place: &Fields<'_>,
    ) -> Result<(), KrlReadError> {
        if first == 0 {
            return Err(place.error("serials from 1 on"));
        }
        let before = self.ranges.len();
        self.insert(first, last);
        // One range more, or fewer where it joins others.
        entries.0 = entries.0.saturating_sub(before);
        entries.more(self.ranges.len(), place)
    }

    fn insert_bitmap(&mut self, first: u64, number: &Fields<'_>, entries: &mut Entries) -> Result<(), KrlReadError> {
        let bytes = number.rest;
        let magnitude = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        let most = usize::try_from(BITMAP_MOST_BITS.saturating_div(8)).unwrap_or(0);
        if bytes.first().is_some_and(|top| *top >= 0x80) || magnitude.len() > most {
            return Err(number.error("a positive number of at most 16,384 bits"));
        }
        for (index, byte) in bytes.iter().rev().enumerate() {
            for bit in (0..8_u32).filter(|bit| byte.checked_shr(*bit).unwrap_or(0) & 1 == 1) {
                let place =
                    u64::try_from(index).ok().and_then(|index| index.checked_mul(8)?.checked_add(u64::from(bit)));
                let serial = place.and_then(|place| first.checked_add(place));
                let serial = serial.ok_or_else(|| number.error("serials of 64 bits"))?;
                self.insert_counted((serial, serial), entries, number)?;
            }
        }
        Ok(())
    }
}

/// How many ranges, CAs, key ids and keys there are by now.
struct Entries(usize);

impl Entries {
    fn more(&mut self, count: usize, place: &Fields<'_>) -> Result<(), KrlReadError> {
        self.0 = self.0.saturating_add(count);
        if self.0 > MOST_ENTRIES { Err(place.error(TOO_MANY)) } else { Ok(()) }
    }
}

fn collect<const LENGTH: usize>(
    data: &mut Fields<'_>,
    into: &mut BTreeSet<[u8; LENGTH]>,
    entries: &mut Entries,
) -> Result<(), KrlReadError> {
    while !data.rest.is_empty() {
        let hash = data.string()?;
        into.insert(hash.rest.try_into().map_err(|_| hash.error("a fingerprint of the section's length"))?);
        entries.more(1, data)?;
    }
    Ok(())
}

/// Bytes read from the front; `at` is their place in the whole list.
struct Fields<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], KrlReadError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.error("more bytes"))?;
        self.rest = rest;
        self.at = self.at.saturating_add(count);
        Ok(taken)
    }

    fn number<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], KrlReadError> {
        let bytes = self.take(LENGTH)?;
        bytes.try_into().map_err(|_| self.error("more bytes"))
    }

    fn u8(&mut self) -> Result<u8, KrlReadError> {
        self.number().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, KrlReadError> {
        self.number().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, KrlReadError> {
        self.number().map(u64::from_be_bytes)
    }

    fn string(&mut self) -> Result<Self, KrlReadError> {
        let length = usize::try_from(self.u32()?).map_err(|_| self.error("a length"))?;
        let at = self.at;
        Ok(Self { rest: self.take(length)?, at })
    }

    fn error(&self, expected: &'static str) -> KrlReadError {
        KrlReadError { expected, at: self.at }
    }
}
