//! What only real nodes can show: credentials, failures in mid-stream, garbage collection, a node that dies.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use countersign_delivery::{
    BlockCid, BlockStore as _, DeliveryError, DirectoryStore, Held, KuboStore, MAX_BLOCK_BYTES, MAX_FILE_BYTES, Puts,
    Stores, Tree,
};

use crate::{
    DEADLINES, file, gateway,
    ipfs::{self, Node, Options},
    kubo, put, read,
};

/// One call to an RPC by a client of no library's.
fn post(rpc: &str, path: &str) -> String {
    let host = rpc.trim_start_matches("http://");
    let mut connection = TcpStream::connect(host).unwrap();
    write!(
        connection,
        "POST /api/v0/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn a_node_that_asks_for_an_authorization_gets_it_from_a_file_and_refuses_without() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("authorization");
    for (asked, line) in [("Bearer s3cret", "Bearer s3cret\n"), ("Basic dXNlcjpwYXNz", "Basic dXNlcjpwYXNz")] {
        let node = Node::boxo(Options { authorization: Some(asked), ..Options::default() });
        let store = |line: &str| {
            std::fs::write(&path, line).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            KuboStore::new(node.rpc.parse().unwrap(), Some(&path), DEADLINES).unwrap()
        };
        let block = file(100);
        let cid = put(&store(line), &block).await;
        assert_eq!(store(line).get_block(&cid).await.unwrap(), block);
        for refused in [store("Bearer wrong"), kubo(&node.rpc)] {
            let error = refused.get_block(&cid).await.unwrap_err();
            assert!(matches!(error, DeliveryError::Status { status: 403, .. }), "{error}");
            assert!(error.to_string().contains("Access Denied") && !error.to_string().contains("wrong"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_failure_in_mid_stream_under_status_200_is_an_error() {
    let node = Node::boxo(Options { cut: Some(1000), ..Options::default() });
    let store = kubo(&node.rpc);
    for length in [1001, 50_000, MAX_BLOCK_BYTES] {
        let cid = put(&store, &file(length)).await;
        let error = store.get_block(&cid).await.unwrap_err();
        let expected = format!("kubo {}: block/get: broke off after 1000 bytes: the datastore failed", node.rpc);
        assert_eq!(error.to_string(), expected, "{length}");
    }
}

/// What is pinned outlives a garbage collection, and the rest does not.
pub(crate) async fn what_is_pinned_outlives_a_garbage_collection(node: &Node) {
    let store = kubo(&node.rpc);
    let (kept, lost) = (file(MAX_BLOCK_BYTES + 10), file(MAX_BLOCK_BYTES + 10));
    let (kept_root, lost_root) = (put(&store, &kept).await, put(&store, &lost).await);
    // Somebody else's hand on the node: unpinned, but not deleted.
    assert!(post(&node.rpc, &format!("pin/rm?arg={lost_root}")).contains("200 OK"));
    assert_eq!(store.holds(&lost_root).await.unwrap(), Held::Present);
    let collected = post(&node.rpc, "repo/gc");
    assert!(collected.contains("200 OK") && collected.contains("Key"), "{collected}");

    assert_eq!(store.holds(&lost_root).await.unwrap(), Held::Absent);
    assert_eq!(store.holds(&kept_root).await.unwrap(), Held::Pinned);
    assert!(read(Box::new(store.clone()), &kept_root).await.unwrap() == kept);
    let error = read(Box::new(store.clone()), &lost_root).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("block {lost_root}: from no store: ")), "{error}");
    // To let go of what is gone is fine; and putting it again brings it back.
    store.unpin_tree(&lost_root).await.unwrap();
    assert_eq!(put(&store, &lost).await, lost_root);
    assert_eq!(store.holds(&lost_root).await.unwrap(), Held::Pinned);
}

// row: D27
#[tokio::test]
async fn a_node_killed_in_the_middle_of_a_transfer_gives_nothing_half_and_another_place_the_rest() {
    let (mut first, second) = ipfs::pair();
    let big = file(MAX_FILE_BYTES);
    let root = put(&kubo(&first.rpc), &big).await;
    let tree = Tree::of(&big).unwrap();
    // Root and first leaf cross by bitswap; then the only node that has the others dies.
    let (leaf, bytes) = tree.blocks().next().unwrap();
    let reader = gateway(&second.gateway);
    assert!(reader.get_block(&leaf).await.unwrap() == bytes);
    reader.get_block(&root).await.unwrap();
    first.kill();
    let begun = Instant::now();
    let error = read(Box::new(reader.clone()), &root).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Stores { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // The dead node itself says so at once.
    let error = kubo(&first.rpc).get_block(&leaf).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Transport { .. }), "{error}");

    let directory = tempfile::tempdir().unwrap();
    let spare = DirectoryStore::open(&directory.path().join("blocks")).unwrap();
    spare.put_tree(&tree).await.unwrap();
    let stores = Stores::of(vec![Box::new(kubo(&first.rpc)), Box::new(reader), Box::new(spare)], Puts::All);
    assert!(stores.get(&root).await.unwrap() == big);
}

/// js-ipfs's gateway knows no `format`: for a node's CID it sends the file.
pub(crate) async fn a_gateway_that_ignores_the_format_gives_raw_blocks_and_is_found_out_with_nodes(node: &Node) {
    let (rpc, reader) = (kubo(&node.rpc), gateway(&node.gateway));
    let small = file(500);
    let cid = put(&rpc, &small).await;
    assert_eq!(reader.get_block(&cid).await.unwrap(), small);

    let big = file(MAX_BLOCK_BYTES + 1);
    let root = put(&rpc, &big).await;
    let error = reader.get_block(&root).await.unwrap_err();
    assert_eq!(error.to_string(), "block of 262145 bytes: expected at most 262144");
    // Even so the file can be had: the node from the RPC, the leaves from the gateway.
    let leaves: Vec<BlockCid> = Tree::of(&big).unwrap().blocks().map(|(cid, _)| cid).collect();
    assert!(reader.get_block(&leaves[0]).await.is_ok());
    let error = reader.get_block(&BlockCid::of(&file(3)).unwrap()).await.unwrap_err();
    assert!(
        matches!(error, DeliveryError::Missing { .. } | DeliveryError::Deadline { .. } | DeliveryError::Status { .. }),
        "{error}"
    );
}
