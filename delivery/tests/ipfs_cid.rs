//! Debian's `ipfs_cid` as a second opinion on CIDs.
//!
//! It knows UnixFS files only: it wraps even the smallest file into a dag-pb node (`bafybei…`), where blocks here are raw
//! (`bafkrei…`). So the test wraps the same bytes itself, names the wrapped block, and changes nothing but the codec: digest,
//! multihash framing and base32 must agree to the letter.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test: a failure is its result"
)]

use std::process::Command;

use countersign_delivery::{BlockCid, SecretKey};

/// A dag-pb node that is a UnixFS file of one piece: PBNode { data: UnixFS { type: File, data, filesize } }.
fn wrapped(file: &[u8]) -> Vec<u8> {
    let mut unixfs = vec![0x08, 0x02];
    if !file.is_empty() {
        unixfs.push(0x12);
        varint(&mut unixfs, file.len());
        unixfs.extend_from_slice(file);
    }
    unixfs.push(0x18);
    varint(&mut unixfs, file.len());
    let mut node = vec![0x0a];
    varint(&mut node, unixfs.len());
    [node, unixfs].concat()
}

fn varint(to: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        to.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    to.push(u8::try_from(value).unwrap());
}

fn ipfs_cid(file: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("block");
    std::fs::write(&path, file).unwrap();
    let output = Command::new("ipfs_cid").arg(&path).output().expect("ipfs_cid is not installed: run .ci/tools");
    assert!(output.status.success(), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["CIDv1"].as_str().unwrap().to_owned()
}

#[test]
fn cids_agree_with_ipfs_cid_but_for_the_codec() {
    let secrets = [SecretKey::generate().unwrap(), SecretKey::generate().unwrap()];
    let random = secrets.map(|key| key.public().to_bytes()).concat();
    for file in [&b""[..], b"c", b"countersign", &random, &random.repeat(17), &random.repeat(4000)] {
        let block = wrapped(file);
        let mut theirs = ipfs_cid(file);
        assert!(theirs.starts_with("bafybei"), "{theirs}");
        // Version, codec, hash and length (01 70 12 20 there, 01 55 12 20 here) are all that these letters hold.
        theirs.replace_range(..7, "bafkrei");
        assert_eq!(BlockCid::of(&block).unwrap().to_string(), theirs, "a file of {} bytes", file.len());
    }
}
