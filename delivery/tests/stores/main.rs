//! One suite that every block store passes: directory, the RPC of two independent IPFS nodes (and of one's own, where `IPFS_TEST_RPC`
//! names it), and a gateway that gets what it gives by bitswap. Then what each store makes of places that fail and lie.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests: a failure is their result"
)]

#[path = "../../../tests/src/ipfs.rs"]
#[expect(unreachable_pub, reason = "the harness of the scenarios, as it is")]
mod ipfs;
mod liar;
mod lies;
mod nodes;

use std::time::Duration;

use countersign_delivery::{
    BlockCid, BlockStore, Deadlines, DeliveryError, DirectoryStore, GatewayStore, Held, KuboStore, MAX_BLOCK_BYTES,
    MAX_FILE_BYTES, Puts, Stores, Tree,
};
use ipfs::Node;

/// Short, since several cases wait for them.
const DEADLINES: Deadlines =
    Deadlines { connect: Duration::from_secs(1), idle: Duration::from_secs(2), whole: Duration::from_secs(20) };

fn kubo(rpc: &str) -> KuboStore {
    KuboStore::new(rpc.parse().unwrap(), None, DEADLINES).unwrap()
}

fn gateway(url: &str) -> GatewayStore {
    GatewayStore::new(url.parse().unwrap(), DEADLINES).unwrap()
}

/// Of files: one block, the longest block, one byte more, the longest payload and file.
const LENGTHS: [usize; 6] = [1, 1024 + 49, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES + 1, (1 << 20) + 7, MAX_FILE_BYTES];

/// Bytes that no other call gives, as sealed blocks are.
fn file(length: usize) -> Vec<u8> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        seed = BlockCid::of(&seed).unwrap().to_bytes()[4..].try_into().unwrap();
        bytes.extend_from_slice(&seed);
    }
    bytes.truncate(length);
    bytes
}

async fn put(store: &dyn BlockStore, file: &[u8]) -> BlockCid {
    let tree = Tree::of(file).unwrap();
    store.put_tree(&tree).await.unwrap();
    tree.root()
}

/// A file, read through the store alone.
async fn read(store: Box<dyn BlockStore>, cid: &BlockCid) -> Result<Vec<u8>, DeliveryError> {
    Stores::of(vec![store], Puts::All).get(cid).await
}

/// What every pair of a store that takes blocks and one that gives them does; the two may be the same.
async fn suite<W: BlockStore + Clone + 'static, R: BlockStore + Clone + 'static>(
    what: &str,
    lengths: &[usize],
    writer: W,
    reader: R,
) {
    writer.probe().await.unwrap_or_else(|error| panic!("{what}: {error}"));
    reader.probe().await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let same = writer.name() == reader.name();

    for length in lengths.iter().copied() {
        let file = file(length);
        let what = format!("{what}, {length} bytes");
        let tree = Tree::of(&file).unwrap();
        let root = tree.root();
        assert_eq!(writer.holds(&root).await.unwrap(), Held::Absent, "{what}");
        writer.put_tree(&tree).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(writer.holds(&root).await.unwrap(), Held::Pinned, "{what}");
        // Again is fine, and pinning what is pinned.
        writer.put_tree(&tree).await.unwrap();
        writer.pin_tree(&root).await.unwrap();

        let found = read(Box::new(reader.clone()), &root).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found == file, "{what}: other bytes came back");
        for (cid, block) in tree.blocks() {
            assert!(reader.get_block(&cid).await.unwrap() == block, "{what}: {cid}");
        }
        assert_ne!(reader.holds(&root).await.unwrap(), Held::Absent, "{what}");

        writer.unpin_tree(&root).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(writer.holds(&root).await.unwrap(), Held::Absent, "{what}");
        // Each costs a node that does not know `offline` its whole patience: where all lengths are tried, it does.
        if same && lengths.len() > 1 && length == MAX_BLOCK_BYTES + 1 {
            for (cid, _) in tree.blocks() {
                let error = writer.get_block(&cid).await.unwrap_err();
                assert!(matches!(error, DeliveryError::Missing { .. }), "{what}: {cid}: {error}");
            }
        }
        // Not pinned is done.
        writer.unpin_tree(&root).await.unwrap_or_else(|error| panic!("{what}: unpinned again: {error}"));
    }

    let absent = BlockCid::of(&file(9)).unwrap();
    let error = reader.get_block(&absent).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Missing { .. } | DeliveryError::Deadline { .. }), "{what}: {error}");
    let error = writer.pin_tree(&absent).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Missing { .. }), "{what}: {error}");
    if !reader.takes_blocks() {
        let bytes = file(5);
        let tree = Tree::of(&bytes).unwrap();
        let refused = format!("{}: gives blocks only, and takes none", reader.name());
        for result in [reader.put_tree(&tree).await, reader.pin_tree(&absent).await, reader.unpin_tree(&absent).await] {
            assert_eq!(result.unwrap_err().to_string(), refused);
        }
    }
}

#[tokio::test]
async fn a_directory_passes_the_suite() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(&directory.path().join("blocks")).unwrap();
    suite("directory", &LENGTHS, store.clone(), store.clone()).await;
    assert_eq!(store.list().unwrap(), []);
}

// row: D27
#[tokio::test]
async fn the_rpc_of_a_node_passes_the_suite_and_one_s_own_where_it_is_named() {
    let boxo = Node::boxo(ipfs::Options::default());
    suite("boxo", &LENGTHS, kubo(&boxo.rpc), kubo(&boxo.rpc)).await;
    nodes::what_is_pinned_outlives_a_garbage_collection(&boxo).await;
    if let Ok(rpc) = std::env::var("IPFS_TEST_RPC") {
        suite("IPFS_TEST_RPC", &LENGTHS, kubo(&rpc), kubo(&rpc)).await;
    }
}

// row: D27
#[tokio::test]
async fn the_rpc_of_another_make_of_node_passes_the_same_and_its_gateway_is_found_out() {
    let js = Node::js();
    // It looks for what it does not have until its time is over: one length here; a short file is put further below.
    suite("js-ipfs", &[MAX_BLOCK_BYTES + 1], kubo(&js.rpc), kubo(&js.rpc)).await;
    nodes::what_is_pinned_outlives_a_garbage_collection(&js).await;
    nodes::a_gateway_that_ignores_the_format_gives_raw_blocks_and_is_found_out_with_nodes(&js).await;
}

// row: D27
#[tokio::test]
async fn what_is_put_at_one_node_is_read_at_another_s_gateway_by_bitswap() {
    let (first, second) = ipfs::pair();
    let lengths = [1, MAX_BLOCK_BYTES, (1 << 20) + 7];
    suite("bitswap to a gateway", &lengths, kubo(&first.rpc), gateway(&second.gateway)).await;
    suite("bitswap to an RPC", &[MAX_BLOCK_BYTES + 1], kubo(&first.rpc), kubo(&second.rpc)).await;
}
