//! Writing a key revocation list (OpenSSH's `PROTOCOL.krl`, format version 1).
//!
//! Refuses what sshd would take in another sense than meant: serials without their CA, a CA key that is a certificate, serial 0,
//! which sshd never asks about, NUL bytes, an elliptic point off its curve, more than sshd's buffers hold.

use thiserror::Error;

use crate::decode::{KrlReadError, MOST_ENTRIES, Revoked, TOO_MANY};
use crate::key::{KeyError, check};
use crate::serials::{Piece, pieces};

pub(crate) const MAGIC: u64 = 0x5353_484b_524c_0a00;
pub(crate) const FORMAT: u32 = 1;
pub(crate) const SECTION_CERTIFICATES: u8 = 1;
pub(crate) const SECTION_KEY_SHA256: u8 = 5;
pub(crate) const SERIAL_LIST: u8 = 0x20;
pub(crate) const SERIAL_RANGE: u8 = 0x21;
pub(crate) const SERIAL_BITMAP: u8 = 0x22;
pub(crate) const KEY_ID: u8 = 0x23;
/// sshd's buffers end here (`SSHBUF_SIZE_MAX`): it refuses a larger file.
pub(crate) const MOST_BYTES: usize = 0x800_0000;

/// What is to be revoked.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Krl {
    /// A number that grows with each list.
    pub version: u64,
    /// When it is made, Unix seconds.
    pub generated_secs: u64,
    /// For people; without NUL, which sshd refuses.
    pub comment: String,
    /// By CA.
    pub certificates: Vec<RevokedCertificates>,
    /// SHA-256 of the wire form of keys: as plain keys, inside certificates, and as CAs.
    pub keys_sha256: Vec<[u8; 32]>,
}

/// Certificates of one CA.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RevokedCertificates {
    /// The CA's public key in SSH wire form.
    pub ca_blob: Vec<u8>,
    /// Serial numbers, in any order.
    pub serials: Vec<u64>,
    /// Key ids.
    pub key_ids: Vec<String>,
}

/// Why no list was made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KrlError {
    /// Certificates without their CA: sshd would revoke those of every CA.
    #[error("revoked certificates have no CA key, expected one")]
    NoCa,
    /// A CA's key that is none.
    #[error("the CA key of revoked certificates is not a plain public key in SSH wire form")]
    CaKey(#[from] KeyError),
    /// Serial 0 means "none" to sshd.
    #[error("serial 0 cannot be revoked: a certificate with it is revoked by its key id")]
    SerialZero,
    /// A key id that sshd would read as another one.
    #[error("a key id holds a NUL byte or is empty")]
    KeyId,
    /// A comment that sshd does not read.
    #[error("the comment holds a NUL byte")]
    Comment,
    /// More than sshd reads.
    #[error("the list is over {MOST_BYTES} bytes, which is all that sshd reads")]
    TooLarge,
    /// More than a reader of ours holds.
    #[error("the list holds over {MOST_ENTRIES} serials apart from each other, key ids and keys")]
    TooMany,
    /// What was written does not read back as what was asked for: a bug of ours, kept from sshd.
    #[error("the list does not read back as it was meant")]
    Verification(#[from] KrlReadError),
}

impl Krl {
    /// The list's bytes, read back and compared before they are given out.
    ///
    /// # Errors
    /// [`KrlError`].
    pub fn encode(&self) -> Result<Vec<u8>, KrlError> {
        self.encode_within(MOST_BYTES)
    }

    fn encode_within(&self, most_bytes: usize) -> Result<Vec<u8>, KrlError> {
        if self.comment.contains('\0') {
            return Err(KrlError::Comment);
        }
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&FORMAT.to_be_bytes());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.generated_secs.to_be_bytes());
        out.extend_from_slice(&0_u64.to_be_bytes());
        string(&mut out, b"")?;
        string(&mut out, self.comment.as_bytes())?;
        for certificates in &self.certificates {
            if let Some(section) = certificates.section()? {
                out.push(SECTION_CERTIFICATES);
                string(&mut out, &section)?;
            }
        }
        let mut keys = self.keys_sha256.clone();
        keys.sort_unstable();
        keys.dedup();
        if !keys.is_empty() {
            let mut section = Vec::with_capacity(keys.len().saturating_mul(36));
            for key in &keys {
                string(&mut section, key)?;
            }
            out.push(SECTION_KEY_SHA256);
            string(&mut out, &section)?;
        }
        if out.len() > most_bytes {
            return Err(KrlError::TooLarge);
        }
        match Revoked::read(&out) {
            Err(error) if error.expected == TOO_MANY => return Err(KrlError::TooMany),
            read => read?.compare(self)?,
        }
        Ok(out)
    }
}

impl RevokedCertificates {
    /// `None` where nothing is revoked.
    fn section(&self) -> Result<Option<Vec<u8>>, KrlError> {
        if self.serials.is_empty() && self.key_ids.is_empty() {
            return Ok(None);
        }
        if self.ca_blob.is_empty() {
            return Err(KrlError::NoCa);
        }
        check(&self.ca_blob)?;
        let mut serials = self.serials.clone();
        serials.sort_unstable();
        serials.dedup();
        if serials.first() == Some(&0) {
            return Err(KrlError::SerialZero);
        }
        let mut section = Vec::new();
        string(&mut section, &self.ca_blob)?;
        string(&mut section, b"")?;
        for piece in pieces(&serials) {
            let (kind, data) = piece_bytes(&piece);
            section.push(kind);
            string(&mut section, &data)?;
        }
        let mut key_ids: Vec<&str> = self.key_ids.iter().map(String::as_str).collect();
        key_ids.sort_unstable();
        key_ids.dedup();
        if !key_ids.is_empty() {
            let mut data = Vec::new();
            for key_id in key_ids {
                if key_id.is_empty() || key_id.contains('\0') {
                    return Err(KrlError::KeyId);
                }
                string(&mut data, key_id.as_bytes())?;
            }
            section.push(KEY_ID);
            string(&mut section, &data)?;
        }
        Ok(Some(section))
    }
}

fn piece_bytes(piece: &Piece) -> (u8, Vec<u8>) {
    match piece {
        Piece::List(serials) => (SERIAL_LIST, serials.iter().flat_map(|serial| serial.to_be_bytes()).collect()),
        Piece::Range(first, last) => (SERIAL_RANGE, [first.to_be_bytes(), last.to_be_bytes()].concat()),
        Piece::Bitmap(serials) => {
            let first = serials.first().copied().unwrap_or_default();
            let mut data = first.to_be_bytes().to_vec();
            let bits = bitmap(first, serials);
            data.extend_from_slice(&u32::try_from(bits.len()).unwrap_or(u32::MAX).to_be_bytes());
            data.extend_from_slice(&bits);
            (SERIAL_BITMAP, data)
        }
    }
}

/// A positive big-endian number (RFC 4251's mpint, without its length) whose bit `n` stands for `first + n`.
fn bitmap(first: u64, serials: &[u64]) -> Vec<u8> {
    let span = serials.last().map_or(0, |last| last.saturating_sub(first));
    let bytes = usize::try_from(span.saturating_div(8).saturating_add(1)).unwrap_or(usize::MAX);
    let mut little = vec![0_u8; bytes];
    for serial in serials {
        let bit = serial.saturating_sub(first);
        if let Some(byte) = usize::try_from(bit.saturating_div(8)).ok().and_then(|index| little.get_mut(index)) {
            *byte |= 1_u8.checked_shl(u32::try_from(bit % 8).unwrap_or(0)).unwrap_or(0);
        }
    }
    if little.last().is_some_and(|top| *top >= 0x80) {
        little.push(0);
    }
    little.reverse();
    little
}

pub(crate) fn string(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), KrlError> {
    let length = u32::try_from(bytes.len()).map_err(|_| KrlError::TooLarge)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_larger_than_sshds_buffers_is_refused() {
        let list = Krl { comment: "c".repeat(1_000), ..Krl::default() };
        let bytes = list.encode().unwrap();
        assert_eq!(list.encode_within(bytes.len()).unwrap(), bytes);
        assert!(matches!(list.encode_within(bytes.len() - 1), Err(KrlError::TooLarge)));
        assert_eq!(MOST_BYTES, 128 << 20);
    }
}
