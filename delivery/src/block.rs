//! Names of blocks: CIDv1, sha2-256, written in base32; codec raw for bytes, dag-pb for the node that lists the pieces of a longer
//! file (see `dag`). These are the CIDs that any IPFS node gives the same bytes.
//!
//! One block is at most 256 KiB, the size at which IPFS cuts a file. CIDs of other codecs or hash functions are refused, as are
//! identity CIDs: they carry the data in the name, which only [`ContentId`] takes, so that no store is ever asked for one.

use std::{fmt, str::FromStr};

use cid::{Cid, Version};
use multihash::Multihash;
use sha2::{Digest as _, Sha256};

use crate::error::{DeliveryError, hex};

/// The longest block: 256 KiB.
pub const MAX_BLOCK_BYTES: usize = 262_144;

/// Multicodec `raw`.
const RAW: u64 = 0x55;
/// Multicodec `dag-pb`.
const DAG_PB: u64 = 0x70;
/// Multicodec `sha2-256`.
const SHA2_256: u64 = 0x12;
/// The most that a CID may carry as its own content, in bytes.
const MAX_IDENTITY_BYTES: usize = 128;
/// The longest text of a CID that is looked at, in bytes: an identity CID of the longest content, in the least dense base (2).
const MAX_TEXT_BYTES: usize = 1_100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Codec {
    Raw,
    Node,
}

/// The CID of one block. `Display` gives base32 (`bafkrei…` for bytes, `bafybei…` for a node), `FromStr` takes any multibase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockCid {
    codec: Codec,
    digest: [u8; 32],
}

impl BlockCid {
    /// Names `block` as bytes.
    ///
    /// # Errors
    /// [`DeliveryError::BlockTooLarge`] above [`MAX_BLOCK_BYTES`].
    pub fn of(block: &[u8]) -> Result<Self, DeliveryError> {
        Self::hash(Codec::Raw, block)
    }

    /// The name of the bytes that have this SHA-256.
    #[must_use]
    pub fn of_digest(digest: [u8; 32]) -> Self {
        Self { codec: Codec::Raw, digest }
    }

    /// Names `block` as a node.
    pub(crate) fn of_node(block: &[u8]) -> Result<Self, DeliveryError> {
        Self::hash(Codec::Node, block)
    }

    /// Names `block` as what this CID says that it is: equal to this one if those are its bytes.
    pub(crate) fn of_same_kind(&self, block: &[u8]) -> Result<Self, DeliveryError> {
        Self::hash(self.codec, block)
    }

    /// Whether this names a node, which lists the pieces of a file, and not bytes.
    #[must_use]
    pub fn is_node(&self) -> bool {
        self.codec == Codec::Node
    }

    fn hash(codec: Codec, block: &[u8]) -> Result<Self, DeliveryError> {
        if block.len() > MAX_BLOCK_BYTES {
            let found = u64::try_from(block.len()).unwrap_or(u64::MAX);
            return Err(DeliveryError::BlockTooLarge { found, maximum: MAX_BLOCK_BYTES });
        }
        Ok(Self { codec, digest: Sha256::digest(block).into() })
    }

    /// The binary form: `01`, the codec (`55` raw, `70` dag-pb), `12 20` and the SHA-256 of the block, 36 bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 36] {
        let codec = match self.codec {
            Codec::Raw => 0x55,
            Codec::Node => 0x70,
        };
        let mut bytes = [0; 36];
        for (to, from) in bytes.iter_mut().zip([0x01, codec, 0x12, 0x20].into_iter().chain(self.digest)) {
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
        let codec = match cid.codec() {
            RAW => Codec::Raw,
            DAG_PB => Codec::Node,
            _ => return None,
        };
        let hash = cid.hash();
        if cid.version() != Version::V1 || hash.code() != SHA2_256 {
            return None;
        }
        Some(Self { codec, digest: hash.digest().try_into().ok()? })
    }

    fn cid(self) -> Option<Cid> {
        let codec = match self.codec {
            Codec::Raw => RAW,
            Codec::Node => DAG_PB,
        };
        Multihash::wrap(SHA2_256, &self.digest).ok().map(|digest| Cid::new_v1(codec, digest))
    }
}

/// What a person may ask a store for: a block, or bytes that stand in the name itself and need no store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentId {
    /// A block, or the file below a node.
    Block(BlockCid),
    /// The content of an identity CID, at most 128 bytes.
    Identity(Vec<u8>),
}

impl FromStr for ContentId {
    type Err = DeliveryError;

    fn from_str(text: &str) -> Result<Self, DeliveryError> {
        if let Ok(block) = text.parse() {
            return Ok(Self::Block(block));
        }
        identity(text).map(Self::Identity).ok_or_else(|| DeliveryError::Cid { found: text.chars().take(128).collect() })
    }
}

/// Read here and not by the CID library, whose multihashes hold 64 bytes at most.
fn identity(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || text.len() > MAX_TEXT_BYTES {
        return None;
    }
    let (_, bytes) = cid::multibase::decode(text).ok()?;
    let rest = bytes.strip_prefix(&[0x01, 0x55, 0x00])?;
    let (length, content) = match rest {
        // A length of 128 takes two bytes as a varint; a longer one is refused.
        [0x80, 0x01, content @ ..] => (MAX_IDENTITY_BYTES, content),
        [length @ 0..0x80, content @ ..] => (usize::from(*length), content),
        _ => return None,
    };
    (content.len() == length).then(|| content.to_vec())
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
        for (at, byte) in [(0, 0x02), (1, 0x71), (2, 0x13), (2, 0x00), (3, 0x1f), (3, 0x21)] {
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

    #[test]
    fn a_node_and_bytes_of_the_same_hash_are_two_names() {
        let (bytes, node) = (BlockCid::of(b"x").unwrap(), BlockCid::of_node(b"x").unwrap());
        assert_ne!(bytes, node);
        assert!(node.is_node() && node.to_string().starts_with("bafybei"), "{node}");
        assert_eq!(BlockCid::from_bytes(&node.to_bytes()).unwrap(), node);
        assert_eq!(node.to_string().parse::<BlockCid>().unwrap(), node);
    }

    #[test]
    fn an_identity_cid_gives_its_content_up_to_128_bytes() {
        let of = |content: &[u8], length: &[u8]| {
            let bytes = [&[0x01, 0x55, 0x00][..], length, content].concat();
            cid::multibase::encode(cid::multibase::Base::Base32Lower, bytes).parse::<ContentId>()
        };
        assert_eq!("bafkqaaa".parse::<ContentId>().unwrap(), ContentId::Identity(Vec::new()));
        assert_eq!("bafkqabtimvwgy3yk".parse::<ContentId>().unwrap(), ContentId::Identity(b"hello\n".to_vec()));
        assert_eq!(of(&[7; 127], &[127]).unwrap(), ContentId::Identity(vec![7; 127]));
        assert_eq!(of(&[7; 128], &[0x80, 0x01]).unwrap(), ContentId::Identity(vec![7; 128]));
        for (content, length) in [(129, &[0x81, 0x01][..]), (128, &[0x80]), (3, &[4]), (5, &[4]), (0x80, &[0x80, 0x02])]
        {
            assert!(of(&vec![7; content], length).is_err(), "{content} bytes after {length:?}");
        }
        assert!("bafkqaaa".parse::<BlockCid>().is_err());
    }
}
