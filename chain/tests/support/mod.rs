//! What the tests of the chain client add to the harness (`tests/harness`): short words for its clients.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "every test binary uses another part of this module")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "test support fails loudly")]

use countersign_chain::{
    ChainError,
    endpoints::Endpoints,
    send::{FeeCaps, Sender},
    sync::{Cursor, Ledger, Update},
};
use countersign_registry::{PlacedEntry, shard};
pub use harness::{
    node::Node as Anvil,
    proxy,
    tools::foundry as tool,
    world::{ADMIN_KEY as FUNDED_KEY, DEVICE_KEY as OTHER_KEY, World, key, limits, note, patience},
};
use url::Url;

pub fn endpoints(urls: &[&Url]) -> Endpoints {
    let urls: Vec<Url> = urls.iter().copied().cloned().collect();
    Endpoints::new(&urls, limits()).unwrap()
}

pub fn sender(url: &Url, secret: &str) -> Sender {
    Sender::new(endpoints(&[url]), key(secret), 31337, patience(), FeeCaps::default())
}

/// The texts of directory entries.
pub fn texts(entries: &std::collections::BTreeMap<u64, Vec<PlacedEntry>>) -> Vec<String> {
    let notes = entries.get(&shard::DIRECTORY).expect("the shard was asked for");
    notes.iter().map(|placed| String::from_utf8(placed.entry.data[1..].to_vec()).unwrap()).collect()
}

/// One look with all three fixed shards and today's batches.
pub async fn look(ledger: &mut Ledger, cursor: &Cursor) -> Result<Update, ChainError> {
    let heads = ledger.heads().await?;
    let shards = shard::access_shards(heads.latest.time, 3600);
    ledger.update(cursor, &heads, &shards).await
}
