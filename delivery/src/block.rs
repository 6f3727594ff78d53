//! Names of blocks: CIDv1, codec raw, sha2-256, written in base32. These are the CIDs that any IPFS node gives the same bytes.
//!
//! One block is at most 256 KiB, the size at which IPFS would cut a file: longer data is refused, not cut. CIDs of other codecs or
//! hash functions are refused, as are identity CIDs (they would carry the data in the name).

use std::{fmt, str::FromStr};

use cid::{Cid, Version};
use multihash::Multihash;
use sha2::{Digest as _, Sha256};

use crate::error::{DeliveryError, hex};

/// The longest block: 256 KiB.
pub const MAX_BLOCK_BYTES: usize = 262_144;

/// Multicodec `raw`.
const RAW: u64 = 0x55;
/// Multicodec `sha2-256`.
const SHA2_256: u64 = 0x12;

/// The CID of one raw block. `Display` gives base32 (`bafkrei…`), `FromStr` takes any multibase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockCid([u8; 32]);

impl BlockCid {
    /// Names `block`.
    ///
    /// # Errors
    /// [`DeliveryError::BlockTooLarge`] above [`MAX_BLOCK_BYTES`].
    pub fn of(block: &[u8]) -> Result<Self, DeliveryError> {
        if block.len() > MAX_BLOCK_BYTES {
            let found = u64::try_from(block.len()).unwrap_or(u64::MAX);
            return Err(DeliveryError::BlockTooLarge { found, maximum: MAX_BLOCK_BYTES });
        }
        Ok(Self(Sha256::digest(block).into()))
    }

    /// The binary form: `01 55 12 20` and the SHA-256 of the block, 36 bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 36] {
        let mut bytes = [0; 36];
        for (to, from) in bytes.iter_mut().zip([0x01, 0x55, 0x12, 0x20].into_iter().chain(self.0)) {
            *to = from;
        }
        bytes
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// [`DeliveryError::Cid`] for anything but the 36 bytes that [`BlockCid::to_bytes`] gives.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DeliveryError> {
        let refused = || DeliveryError::Cid { found: hex(bytes) };
        let cid = Cid::try_from(bytes).map_err(|_| refused())?;
        let block = Self::admit(&cid).ok_or_else(refused)?;
        if block.to_bytes() == bytes { Ok(block) } else { Err(refused()) }
    }

    fn admit(cid: &Cid) -> Option<Self> {
        let digest = cid.hash();
        (cid.version() == Version::V1 && cid.codec() == RAW && digest.code() == SHA2_256)
            .then(|| digest.digest().try_into().ok().map(Self))
            .flatten()
    }

    fn cid(self) -> Option<Cid> {
        Multihash::wrap(SHA2_256, &self.0).ok().map(|digest| Cid::new_v1(RAW, digest))
    }
}

impl fmt::Display for BlockCid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cid().ok_or(fmt::Error)?.fmt(formatter)
    }
}

impl FromStr for BlockCid {
    type Err = DeliveryError;

    fn from_str(text: &str) -> Result<Self, DeliveryError> {
        let refused = || DeliveryError::Cid { found: text.chars().take(128).collect() };
        if !text.is_ascii() || text.len() > 128 || text.contains('/') {
            return Err(refused());
        }
        let cid = Cid::try_from(text).map_err(|_| refused())?;
        Self::admit(&cid).ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_block_has_the_cid_that_everyone_knows() {
        let cid = BlockCid::of(b"").unwrap();
        assert_eq!(cid.to_string(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
    }

    #[test]
    fn text_and_bytes_lead_back_to_the_same_cid() {
        let cid = BlockCid::of(b"countersign").unwrap();
        assert_eq!(cid.to_string().parse::<BlockCid>().unwrap(), cid);
        assert_eq!(BlockCid::from_bytes(&cid.to_bytes()).unwrap(), cid);
    }

    #[test]
    fn base58_text_names_the_same_block() {
        let cid = BlockCid::of(b"countersign").unwrap();
        let text = cid.cid().unwrap().to_string_of_base(cid::multibase::Base::Base58Btc).unwrap();
        assert!(text.starts_with('z'));
        assert_eq!(text.parse::<BlockCid>().unwrap(), cid);
    }

    #[test]
    fn a_block_of_256_kib_is_named_and_one_byte_more_is_refused() {
        assert!(BlockCid::of(&vec![7; MAX_BLOCK_BYTES]).is_ok());
        let error = BlockCid::of(&vec![7; MAX_BLOCK_BYTES + 1]).unwrap_err();
        assert_eq!(error.to_string(), "block of 262145 bytes: expected at most 262144");
    }

    #[test]
    fn other_versions_codecs_hashes_and_lengths_are_refused() {
        let good = BlockCid::of(b"x").unwrap().to_bytes();
        for (at, byte) in [(0, 0x02), (1, 0x70), (2, 0x13), (2, 0x00), (3, 0x1f), (3, 0x21)] {
            let mut bad = good;
            bad[at] = byte;
            assert!(BlockCid::from_bytes(&bad).is_err(), "byte {at} set to {byte:#04x} was accepted");
        }
        assert!(BlockCid::from_bytes(&[good.as_slice(), &[0]].concat()).is_err(), "a trailing byte was accepted");
        for end in 0..good.len() {
            assert!(BlockCid::from_bytes(&good[..end]).is_err(), "the first {end} bytes were accepted");
        }
    }

    #[test]
    fn a_cidv0_an_identity_cid_and_a_path_are_refused() {
        for text in [
            "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
            "bafkqaaik",
            "/ipfs/bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
            "",
            "bafkrei\u{e9}",
        ] {
            assert!(text.parse::<BlockCid>().is_err(), "{text:?} was accepted");
        }
    }
}
