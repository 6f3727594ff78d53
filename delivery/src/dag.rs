//! Files of more than one block: a balanced UnixFS tree of 256 KiB raw leaves below one dag-pb node, as `ipfs add --cid-version=1`
//! with the default chunker lays it out. Every store gets the same blocks, so that the CID names the file wherever it lies.
//!
//! Reads no other trees than those: a node is decoded and encoded again, and refused where a byte differs. So nobody can name one
//! file by several CIDs, hide bytes in a node, or make a reader descend without end.

use crate::{
    block::{BlockCid, MAX_BLOCK_BYTES},
    error::DeliveryError,
};

/// The longest file: 4 MiB, sixteen leaves.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// Length of a binary CID.
const CID_BYTES: usize = 36;

/// A file cut into its blocks.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    file: &'a [u8],
    leaves: Vec<(BlockCid, &'a [u8])>,
    node: Option<(BlockCid, Vec<u8>)>,
    root: BlockCid,
}

impl<'a> Tree<'a> {
    /// Cuts `file`; up to 256 KiB it is one raw block.
    ///
    /// # Errors
    /// [`DeliveryError::FileTooLarge`] above [`MAX_FILE_BYTES`].
    pub fn of(file: &'a [u8]) -> Result<Self, DeliveryError> {
        if file.len() > MAX_FILE_BYTES {
            let found = u64::try_from(file.len()).unwrap_or(u64::MAX);
            return Err(DeliveryError::FileTooLarge { found, maximum: MAX_FILE_BYTES });
        }
        if file.len() <= MAX_BLOCK_BYTES {
            let root = BlockCid::of(file)?;
            return Ok(Self { file, leaves: vec![(root, file)], node: None, root });
        }
        let leaves = file
            .chunks(MAX_BLOCK_BYTES)
            .map(|leaf| Ok((BlockCid::of(leaf)?, leaf)))
            .collect::<Result<Vec<_>, DeliveryError>>()?;
        let links: Vec<_> =
            leaves.iter().map(|(cid, leaf)| (cid.to_bytes().to_vec(), leaf.len(), leaf.len())).collect();
        let node = encode_node(&links);
        let root = BlockCid::of_node(&node)?;
        Ok(Self { file, leaves, node: Some((root, node)), root })
    }

    /// The CID of the whole.
    #[must_use]
    pub fn root(&self) -> BlockCid {
        self.root
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &'a [u8] {
        self.file
    }

    /// All blocks, the root last.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockCid, &[u8])> {
        let leaves = self.leaves.iter().map(|(cid, leaf)| (*cid, *leaf));
        leaves.chain(self.node.iter().map(|(cid, node)| (*cid, node.as_slice())))
    }

    /// How many blocks it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.leaves.len().saturating_add(usize::from(self.node.is_some()))
    }
}

/// The blocks below `block`, which `cid` names: none for bytes, the leaves in order for a node.
///
/// # Errors
/// [`DeliveryError::Node`] for a node that no file has here.
pub(crate) fn pieces(cid: &BlockCid, block: &[u8]) -> Result<Vec<BlockCid>, DeliveryError> {
    if !cid.is_node() {
        return Ok(Vec::new());
    }
    let refused = |problem| DeliveryError::Node { cid: cid.to_string(), problem };
    let links = decode_links(block).ok_or_else(|| refused("expected links to raw leaves and the data of a file"))?;
    let total = links.iter().fold(0_usize, |total, (_, length)| total.saturating_add(*length));
    if total > MAX_FILE_BYTES {
        return Err(refused("its file is longer than any that is written here"));
    }
    let full = links.split_last().is_some_and(|((_, last), before)| {
        !before.is_empty()
            && (1..=MAX_BLOCK_BYTES).contains(last)
            && before.iter().all(|(_, length)| *length == MAX_BLOCK_BYTES)
    });
    if !full {
        return Err(refused("expected several leaves, all of 262144 bytes but the last"));
    }
    let same: Vec<_> = links.iter().map(|(leaf, length)| (leaf.to_bytes().to_vec(), *length, *length)).collect();
    if encode_node(&same) != block {
        return Err(refused("not in the one form that such a node has"));
    }
    Ok(links.into_iter().map(|(leaf, _)| leaf).collect())
}

/// A dag-pb node for links of (binary CID, bytes of the file below it, bytes of all blocks below it).
fn encode_node(links: &[(Vec<u8>, usize, usize)]) -> Vec<u8> {
    let mut node = Vec::new();
    // PBLink { 1: Hash, 2: Name, 3: Tsize }, field 2 of PBNode; the canonical form has links before data.
    for (cid, _, below) in links {
        let mut link = Vec::new();
        bytes_field(&mut link, 0x0a, cid);
        bytes_field(&mut link, 0x12, b"");
        number_field(&mut link, 0x18, *below);
        bytes_field(&mut node, 0x12, &link);
    }
    // UnixFS Data { 1: Type = File, 3: filesize, 4: blocksizes }, field 1 of PBNode.
    let mut data = Vec::new();
    number_field(&mut data, 0x08, 2);
    number_field(&mut data, 0x18, links.iter().fold(0_usize, |total, (_, length, _)| total.saturating_add(*length)));
    for (_, length, _) in links {
        number_field(&mut data, 0x20, *length);
    }
    bytes_field(&mut node, 0x0a, &data);
    node
}

/// The links of a node that is made of links to raw leaves and one data field: (leaf, length). What else stands in it is found by
/// encoding it again.
fn decode_links(mut node: &[u8]) -> Option<Vec<(BlockCid, usize)>> {
    let mut links = Vec::new();
    while let Some(rest) = node.strip_prefix(&[0x12]) {
        let (length, rest) = number(rest)?;
        let (link, rest) = rest.split_at_checked(length)?;
        node = rest;
        let (cid, link) = link.strip_prefix(&[0x0a, 0x24])?.split_at_checked(CID_BYTES)?;
        let (length, _) = number(link.strip_prefix(&[0x12, 0x00, 0x18])?)?;
        let leaf = BlockCid::from_bytes(cid).ok().filter(|leaf| !leaf.is_node())?;
        links.push((leaf, length));
    }
    Some(links)
}

fn bytes_field(to: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    number_field(to, tag, bytes.len());
    to.extend_from_slice(bytes);
}

fn number_field(to: &mut Vec<u8>, tag: u8, mut value: usize) {
    to.push(tag);
    loop {
        // The lowest seven bits always fit.
        let low = u8::try_from(value & 0x7f).unwrap_or(0x7f);
        value >>= 7;
        if value == 0 {
            return to.push(low);
        }
        to.push(low | 0x80);
    }
}

/// A varint of at most four bytes, which no length here exceeds.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_usize;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        let shift = u32::try_from(at).ok()?.checked_mul(7)?;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at.checked_add(1)?..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;

    fn file(length: usize) -> Vec<u8> {
        (0..=u8::MAX).cycle().zip(0_u8..251).cycle().map(|(a, b)| a.wrapping_mul(7) ^ b).take(length).collect()
    }

    #[test]
    fn up_to_256_kib_a_file_is_its_one_raw_block() {
        for length in [0, 1, MAX_BLOCK_BYTES] {
            let file = file(length);
            let tree = Tree::of(&file).unwrap();
            assert_eq!(tree.root(), BlockCid::of(&file).unwrap());
            assert_eq!(tree.blocks().collect::<Vec<_>>(), [(tree.root(), file.as_slice())]);
        }
    }

    #[test]
    fn longer_files_are_leaves_in_order_below_a_node_and_the_longest_is_4_mib() {
        for (length, count) in [(MAX_BLOCK_BYTES + 1, 2), (2 * MAX_BLOCK_BYTES, 2), (1 << 20, 4), (MAX_FILE_BYTES, 16)]
        {
            let file = file(length);
            let tree = Tree::of(&file).unwrap();
            let blocks: Vec<_> = tree.blocks().collect();
            let (root, leaves) = blocks.split_last().unwrap();
            assert_eq!((leaves.len(), tree.count()), (count, count + 1));
            let names: Vec<_> = leaves.iter().map(|(cid, _)| *cid).collect();
            assert_eq!(pieces(&root.0, root.1).unwrap(), names);
            assert_eq!(leaves.iter().flat_map(|(_, leaf)| *leaf).copied().collect::<Vec<_>>(), file);
        }
        let error = Tree::of(&vec![0; MAX_FILE_BYTES + 1]).unwrap_err();
        assert_eq!(error.to_string(), "file of 4194305 bytes: expected at most 4194304");
    }

    #[test]
    fn a_node_cut_anywhere_or_with_any_bit_changed_outside_a_hash_is_refused() {
        let file = file(2 * MAX_BLOCK_BYTES + 9);
        let tree = Tree::of(&file).unwrap();
        let (_, node) = tree.node.clone().unwrap();
        let pieces_of = |node: &[u8]| pieces(&BlockCid::of_node(node).unwrap(), node);
        for end in 0..node.len() {
            assert!(pieces_of(&node[..end]).is_err(), "the first {end} bytes");
        }
        let hashes: Vec<_> = tree.leaves.iter().map(|(cid, _)| cid.to_bytes()[4..].to_vec()).collect();
        let hashed = |at: usize| {
            hashes.iter().any(|hash| {
                let begin = node.windows(32).position(|window| window == hash).unwrap();
                (begin..begin + 32).contains(&at)
            })
        };
        let mut changed = 0;
        for at in (0..node.len()).filter(|at| !hashed(*at)) {
            for bit in 0..8 {
                let mut bad = node.clone();
                bad[at] ^= 1 << bit;
                assert!(pieces_of(&bad).is_err(), "bit {bit} of byte {at}");
                changed += 1;
            }
        }
        assert!(changed > 300);
        assert!(pieces_of(&[node.as_slice(), &[0]].concat()).is_err(), "a trailing byte");
    }

    #[test]
    fn nodes_of_other_shapes_are_refused() {
        let leaf = BlockCid::of(b"leaf").unwrap().to_bytes().to_vec();
        let node_below = BlockCid::of_node(b"node").unwrap().to_bytes().to_vec();
        let full = MAX_BLOCK_BYTES;
        let link = |cid: &Vec<u8>, length| (cid.clone(), length, length);
        let cases = [
            ("no leaf", vec![]),
            ("one leaf", vec![link(&leaf, full)]),
            ("a short leaf in the middle", vec![link(&leaf, 5), link(&leaf, full)]),
            ("an empty last leaf", vec![link(&leaf, full), link(&leaf, 0)]),
            ("a leaf that is too long", vec![link(&leaf, full), link(&leaf, full + 1)]),
            ("a node as a leaf", vec![link(&leaf, full), link(&node_below, 5)]),
            ("too many leaves", vec![link(&leaf, full); 17]),
            ("another size of the blocks below", vec![link(&leaf, full), (leaf.clone(), 5, 6)]),
        ];
        for (what, links) in cases {
            let node = encode_node(&links);
            let cid = BlockCid::of_node(&node).unwrap();
            assert!(matches!(pieces(&cid, &node), Err(DeliveryError::Node { .. })), "{what}");
        }
    }

    /// Debian's `ipfs_cid` wraps each leaf into a UnixFS node of its own. Wrapped leaves below our node must give its CID, which
    /// leaves only the raw leaves themselves to be compared elsewhere (`tests/stores.rs`, with `add` of real nodes).
    #[test]
    fn the_node_above_the_leaves_is_the_one_that_ipfs_cid_makes() {
        for length in [MAX_BLOCK_BYTES + 1, 3 * MAX_BLOCK_BYTES, 5 * MAX_BLOCK_BYTES - 7] {
            let file = file(length);
            let links: Vec<_> = file
                .chunks(MAX_BLOCK_BYTES)
                .map(|leaf| {
                    let mut data = vec![0x08, 0x02];
                    bytes_field(&mut data, 0x12, leaf);
                    number_field(&mut data, 0x18, leaf.len());
                    let mut wrapped = Vec::new();
                    bytes_field(&mut wrapped, 0x0a, &data);
                    // A CIDv0: the multihash alone.
                    let multihash = [&[0x12, 0x20][..], &sha2::Sha256::digest(&wrapped)].concat();
                    (multihash, leaf.len(), wrapped.len())
                })
                .collect();
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            std::fs::write(&path, &file).unwrap();
            let output =
                std::process::Command::new("ipfs_cid").arg(&path).output().expect("ipfs_cid is missing: run .ci/tools");
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                BlockCid::of_node(&encode_node(&links)).unwrap().to_string(),
                answer["CIDv1"].as_str().unwrap(),
                "{length} bytes"
            );
        }
    }
}
