//! `log-proof@countersign`: where in which batch a certificate's leaf stands.
//!
//! version 0x01 | batch 16 | index u32 BE | size u32 BE | path length u8 | path n × 32.

use crate::wire::Reader;
use crate::{CertificateError, Digest32, Id, merkle, text};

/// The extension's name.
pub const LOG_PROOF_EXTENSION: &str = "log-proof@countersign";

const FIELD: &str = LOG_PROOF_EXTENSION;
const VERSION: u8 = 1;
const MAX_SIZE: usize = 26 + 32 * merkle::MAX_PATH;

/// What `log-proof@countersign` says. The path always has the length that the index has in a tree of that size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogProof {
    batch: Id,
    index: u32,
    size: u32,
    path: Vec<Digest32>,
}

impl LogProof {
    /// A proof for leaf `index` of the `size` leaves of `batch`; `path` runs from the leaf upwards.
    ///
    /// # Errors
    /// An index outside the batch, and a path of any other length than that leaf's.
    pub fn new(batch: Id, index: u32, size: u32, path: Vec<Digest32>) -> Result<Self, CertificateError> {
        match merkle::path_length(index, size) {
            None => Err(CertificateError::Invalid { field: FIELD, expected: "a proof with an index below its size" }),
            Some(length) if length != path.len() => Err(CertificateError::Invalid {
                field: FIELD,
                expected: "a proof with a path of its leaf's exact length",
            }),
            Some(_) => Ok(Self { batch, index, size, path }),
        }
    }

    /// The proof of leaf `index` among `leaves`; none if there is no such leaf.
    #[must_use]
    pub fn among(batch: Id, leaves: &[Digest32], index: u32) -> Option<Self> {
        let size = u32::try_from(leaves.len()).ok()?;
        Some(Self { batch, index, size, path: merkle::path(leaves, index)? })
    }

    /// The proof of leaf `index` of `tree`; none if there is no such leaf.
    #[must_use]
    pub fn in_tree(batch: Id, tree: &merkle::Tree, index: u32) -> Option<Self> {
        Some(Self { batch, index, size: tree.size(), path: tree.path(index)? })
    }

    /// The batch's record id.
    #[must_use]
    pub fn batch(&self) -> Id {
        self.batch
    }

    /// The leaf's place, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How many leaves the batch has.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The nodes beside the way up, from the leaf.
    #[must_use]
    pub fn path(&self) -> &[Digest32] {
        &self.path
    }

    /// Whether this proof leads from `leaf` to `root`. The caller compares batch id and size with the logged ones.
    #[must_use]
    pub fn verify(&self, leaf: &Digest32, root: &Digest32) -> bool {
        merkle::root_from_path(leaf, self.index, self.size, &self.path).as_ref() == Some(root)
    }

    /// The layout's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = u8::try_from(self.path.len()).unwrap_or(u8::MAX);
        let mut layout = vec![VERSION];
        layout.extend_from_slice(&self.batch.0);
        layout.extend_from_slice(&self.index.to_be_bytes());
        layout.extend_from_slice(&self.size.to_be_bytes());
        layout.push(length);
        layout.extend(self.path.iter().flatten());
        layout
    }

    /// Reads the layout's bytes.
    ///
    /// # Errors
    /// Any other version, an index outside the batch, a path of any other length than the leaf's, trailing bytes.
    pub fn decode(layout: &[u8]) -> Result<Self, CertificateError> {
        let mut reader = Reader::new(layout);
        if reader.u8(FIELD)? != VERSION {
            return Err(CertificateError::Invalid { field: FIELD, expected: "of version 1" });
        }
        let batch = Id(reader.array(FIELD)?);
        let index = reader.u32(FIELD)?;
        let size = reader.u32(FIELD)?;
        let length = usize::from(reader.u8(FIELD)?);
        if length > merkle::MAX_PATH {
            return Err(CertificateError::Oversize { field: FIELD, size: length, max: merkle::MAX_PATH });
        }
        let path = (0..length).map(|_| reader.array(FIELD)).collect::<Result<Vec<Digest32>, _>>()?;
        reader.finish(FIELD)?;
        Self::new(batch, index, size, path)
    }

    /// The extension's value as text, for APIs that take it so: base64url without padding.
    #[must_use]
    pub fn to_text(&self) -> String {
        text::to_text(&self.encode())
    }

    /// Reads an extension's data as it stands in a certificate: an SSH string with that text.
    ///
    /// # Errors
    /// Text that is not canonical, and whatever [`LogProof::decode`] refuses.
    pub fn from_option_data(data: &[u8]) -> Result<Self, CertificateError> {
        Self::decode(&text::from_option_data(data, MAX_SIZE, FIELD)?)
    }

    /// The extension's data as it stands in a certificate.
    pub(crate) fn to_option_data(&self) -> Result<Vec<u8>, CertificateError> {
        text::to_option_data(&self.encode(), FIELD)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: u32) -> Vec<Digest32> {
        (0..count).map(|at| merkle::leaf_hash(&[7; 32].into(), &Id([8; 16]), &at.to_be_bytes())).collect()
    }

    proptest! {
        #[test]
        fn a_proof_reads_back_and_verifies_for_its_leaf_alone(count in 1..200_u32, at in any::<prop::sample::Index>()) {
            let leaves = leaves(count);
            let index = at.index(leaves.len());
            let root = merkle::root(&leaves).unwrap();
            let proof = LogProof::among(Id([3; 16]), &leaves, u32::try_from(index).unwrap()).unwrap();
            prop_assert_eq!(LogProof::decode(&proof.encode()), Ok(proof.clone()));
            prop_assert_eq!(LogProof::from_option_data(&proof.to_option_data().unwrap()), Ok(proof.clone()));
            prop_assert!(proof.verify(&leaves[index], &root));
            prop_assert!(!proof.verify(&leaves[index], &leaves[index]) || count == 1);
            for (other, leaf) in leaves.iter().enumerate() {
                prop_assert_eq!(proof.verify(leaf, &root), other == index);
            }
        }

        #[test]
        fn a_proof_with_a_flipped_bit_does_not_verify(count in 2..64_u32, at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let leaves = leaves(count);
            let root = merkle::root(&leaves).unwrap();
            let proof = LogProof::among(Id([3; 16]), &leaves, 0).unwrap();
            let mut layout = proof.encode();
            let place = at.index(layout.len());
            layout[place] ^= 1 << bit;
            // The batch id is compared by the caller, and so is the size, of which several give the first leaf the same path.
            if let Ok(flipped) = LogProof::decode(&layout) {
                let same = flipped.batch() == proof.batch() && flipped.size() == proof.size();
                prop_assert!(!same || !flipped.verify(&leaves[0], &root));
            }
        }

        #[test]
        fn any_bytes_decode_to_what_encodes_to_them_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(proof) = LogProof::decode(&bytes) {
                prop_assert_eq!(proof.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_proof_cut_off_anywhere_or_with_a_byte_more_is_refused() {
        let layout = LogProof::among(Id([3; 16]), &leaves(9), 4).unwrap().encode();
        for end in 0..layout.len() {
            assert!(LogProof::decode(&layout[..end]).is_err(), "{end} bytes");
        }
        assert!(LogProof::decode(&[&layout[..], &[0]].concat()).is_err());
    }

    #[test]
    fn an_index_outside_the_batch_and_a_path_of_another_length_are_refused() {
        let path = merkle::path(&leaves(9), 4).unwrap();
        assert_eq!(path.len(), 4);
        assert!(LogProof::new(Id([3; 16]), 4, 9, path.clone()).is_ok());
        assert!(LogProof::new(Id([3; 16]), 9, 9, path.clone()).is_err());
        assert!(LogProof::new(Id([3; 16]), 8, 9, path.clone()).is_err());
        assert!(LogProof::new(Id([3; 16]), 4, 8, path.clone()).is_err());
        assert!(LogProof::new(Id([3; 16]), 0, 0, Vec::new()).is_err());
        assert!(LogProof::new(Id([3; 16]), 0, 1, path).is_err());
    }
}
