//! Batches: a Merkle tree of pre-certificates in the shape of RFC 9162 section 2.1, with domain-separated leaves.
//!
//! An odd node is not duplicated: a tree of n leaves splits at the largest power of two below n, so that no two lists of leaves
//! share a root. The number of leaves is part of what is verified.

use sha2::{Digest, Sha256};

use crate::{Id, RealmId};

/// A SHA-256 digest.
pub type Digest32 = [u8; 32];

/// The longest inclusion path: `u32::MAX` leaves.
pub const MAX_PATH: usize = 32;

const LEAF_TAG: &[u8] = b"countersign.precert.v1";

/// The leaf of pre-certificate `pre_certificate`: SHA-256(0x00 ‖ "countersign.precert.v1" ‖ realm ‖ CA id ‖ T).
#[must_use]
pub fn leaf_hash(realm: &RealmId, ca: &Id, pre_certificate: &[u8]) -> Digest32 {
    let mut hash = Sha256::new();
    hash.update([0x00]);
    hash.update(LEAF_TAG);
    hash.update(realm.0);
    hash.update(ca.0);
    hash.update(pre_certificate);
    hash.finalize().into()
}

/// An inner node: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &Digest32, right: &Digest32) -> Digest32 {
    let mut hash = Sha256::new();
    hash.update([0x01]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// The root over `leaves`; none for no leaves or more than a proof could name.
#[must_use]
pub fn root(leaves: &[Digest32]) -> Option<Digest32> {
    u32::try_from(leaves.len()).ok()?;
    subtree(leaves)
}

/// The inclusion path of `leaves[index]`, from the leaf upwards; none if `index` is out of range.
#[must_use]
pub fn path(leaves: &[Digest32], index: u32) -> Option<Vec<Digest32>> {
    u32::try_from(leaves.len()).ok()?;
    let mut rest = leaves;
    let mut index = usize::try_from(index).ok().filter(|index| *index < leaves.len())?;
    let mut downwards = Vec::new();
    while rest.len() > 1 {
        let (left, right) = rest.split_at_checked(split(rest.len()))?;
        if let Some(within) = index.checked_sub(left.len()) {
            downwards.push(subtree(left)?);
            index = within;
            rest = right;
        } else {
            downwards.push(subtree(right)?);
            rest = left;
        }
    }
    downwards.reverse();
    Some(downwards)
}

/// A whole tree, for many paths: each costs its length, where [`path`] hashes all leaves again.
#[derive(Clone, Debug)]
pub struct Tree {
    /// From the leaves to the root. A last node without a sibling rises as it is, which gives the tree the shape of [`root`].
    levels: Vec<Vec<Digest32>>,
    size: u32,
}

impl Tree {
    /// The tree over `leaves`; none for no leaves or more than a proof could name.
    #[must_use]
    pub fn new(leaves: Vec<Digest32>) -> Option<Self> {
        let size = u32::try_from(leaves.len()).ok().filter(|size| *size > 0)?;
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|below| below.len() > 1) {
            let level = below.chunks(2).filter_map(subtree).collect();
            levels.push(level);
        }
        Some(Self { levels, size })
    }

    /// How many leaves.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Its root.
    #[must_use]
    pub fn root(&self) -> Option<Digest32> {
        self.levels.last()?.first().copied()
    }

    /// The inclusion path of leaf `index`, from the leaf upwards; none if it is out of range.
    #[must_use]
    pub fn path(&self, index: u32) -> Option<Vec<Digest32>> {
        let mut index = usize::try_from(index).ok().filter(|_| index < self.size)?;
        let mut path = Vec::new();
        for level in &self.levels {
            // Beyond the end: this node rises alone.
            path.extend(level.get(index ^ 1));
            index >>= 1;
        }
        Some(path)
    }
}

/// The number of nodes in the inclusion path of leaf `index` of `size`; none if `index` is out of range.
#[must_use]
pub fn path_length(index: u32, size: u32) -> Option<usize> {
    let mut last = size.checked_sub(1).filter(|last| index <= *last)?;
    let mut index = index;
    let mut length = 0_usize;
    while last > 0 {
        if index & 1 == 1 || index < last {
            length = length.checked_add(1)?;
        }
        index >>= 1;
        last >>= 1;
    }
    Some(length)
}

/// The root that `path` leads to from leaf `index` of `size`; none unless the path has exactly the length that this leaf has
/// in a tree of that size.
#[must_use]
pub fn root_from_path(leaf: &Digest32, index: u32, size: u32, path: &[Digest32]) -> Option<Digest32> {
    let mut last = size.checked_sub(1).filter(|last| index <= *last)?;
    let mut index = index;
    let mut hash = *leaf;
    let mut nodes = path.iter();
    while last > 0 {
        if index & 1 == 1 {
            hash = node_hash(nodes.next()?, &hash);
        } else if index < last {
            hash = node_hash(&hash, nodes.next()?);
        }
        index >>= 1;
        last >>= 1;
    }
    nodes.next().is_none().then_some(hash)
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

fn subtree(leaves: &[Digest32]) -> Option<Digest32> {
    match leaves {
        [] => None,
        [leaf] => Some(*leaf),
        _ => {
            let (left, right) = leaves.split_at_checked(split(leaves.len()))?;
            Some(node_hash(&subtree(left)?, &subtree(right)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<Digest32> {
        (0..count).map(|at| leaf_hash(&RealmId([1; 32]), &Id([2; 16]), &[at])).collect()
    }

    #[test]
    fn the_split_is_the_largest_power_of_two_below_the_count() {
        let expected = [(2, 1), (3, 2), (4, 2), (5, 4), (6, 4), (7, 4), (8, 4), (9, 8), (16, 8), (17, 16), (1000, 512)];
        for (count, at) in expected {
            assert_eq!(split(count), at, "{count}");
        }
    }

    #[test]
    fn every_leaf_of_every_small_tree_verifies_and_only_at_its_place() {
        for count in 1..=20_u8 {
            let leaves = leaves(count);
            let root = root(&leaves).unwrap();
            let size = u32::from(count);
            for (index, leaf) in (0_u32..).zip(&leaves) {
                let path = path(&leaves, index).unwrap();
                assert_eq!(Some(path.len()), path_length(index, size));
                assert_eq!(root_from_path(leaf, index, size, &path), Some(root), "{index} of {count}");
                for other in (0..size).filter(|other| *other != index) {
                    assert_ne!(root_from_path(leaf, other, size, &path), Some(root), "{index} of {count} at {other}");
                }
            }
        }
    }

    #[test]
    fn a_whole_tree_gives_the_same_root_and_paths_as_the_leaves() {
        for count in 1..=70_u8 {
            let leaves = leaves(count);
            let tree = Tree::new(leaves.clone()).unwrap();
            assert_eq!((tree.size(), tree.root()), (u32::from(count), root(&leaves)), "{count}");
            for index in 0..=u32::from(count) {
                assert_eq!(tree.path(index), path(&leaves, index), "{index} of {count}");
            }
        }
        assert!(Tree::new(Vec::new()).is_none());
    }

    #[test]
    fn a_path_that_is_too_short_or_too_long_leads_nowhere() {
        for count in 1..=20_u8 {
            let leaves = leaves(count);
            let size = u32::from(count);
            for (index, leaf) in (0_u32..).zip(&leaves) {
                let mut path = path(&leaves, index).unwrap();
                path.push([0; 32]);
                assert_eq!(root_from_path(leaf, index, size, &path), None);
                path.pop();
                if path.pop().is_some() {
                    assert_eq!(root_from_path(leaf, index, size, &path), None);
                }
            }
        }
    }

    #[test]
    fn an_index_outside_the_tree_and_an_empty_tree_are_refused() {
        let leaves = leaves(5);
        assert_eq!(path(&leaves, 5), None);
        assert_eq!(path(&[], 0), None);
        assert_eq!(root(&[]), None);
        assert_eq!(path_length(5, 5), None);
        assert_eq!(path_length(0, 0), None);
        assert_eq!(root_from_path(&[0; 32], 0, 0, &[]), None);
        assert_eq!(root_from_path(&[0; 32], 1, 1, &[]), None);
    }

    #[test]
    fn the_longest_path_is_that_of_the_largest_tree() {
        assert_eq!(path_length(0, u32::MAX), Some(MAX_PATH));
        assert_eq!(path_length(u32::MAX - 1, u32::MAX), Some(MAX_PATH - 1));
    }
}
