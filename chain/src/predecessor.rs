//! The log of a realm that was left for another, up to the heads that its successor's first entry names. These heads are on a proved
//! ledger, so that nothing here needs a proof: an archive file or any node may bring the entries, and they count when they fold,
//! from each shard's first entry, to exactly those heads.
//!
//! Refuses to tell a part of the log for the whole: every shard reaches its head, or nothing is handed out.

use std::collections::BTreeMap;

use alloy_primitives::U256;

use crate::{
    archive,
    endpoints::{Endpoints, Limits},
    error::ChainError,
    logs::{self, Want},
    realm_file::RealmFile,
    spool::{Entries, Spill},
    sync::{Cursor, ShardCursor},
};

/// Reads the log of `source` up to `heads` (slot by shard, none empty), all of it in block `until` or before it: from its archive where the realm file names one, else, or where
/// that does not have them, from its nodes.
///
/// # Errors
/// `Predecessor` with what the archive and the last node said.
pub async fn read(
    source: &RealmFile,
    heads: &BTreeMap<u64, U256>,
    until: u64,
    limits: Limits,
    spill: &Spill,
) -> Result<Entries, ChainError> {
    let mut archived = None;
    if let Some(path) = &source.links.archive {
        match archive::read(path, &source.pin, heads, until, spill) {
            Ok(entries) => return Ok(entries),
            Err(error) => {
                tracing::info!(%error, "archive passed over");
                archived = Some(Box::new(error));
            }
        }
    }
    let refuse = |nodes| ChainError::Predecessor { realm: source.pin.realm, archived, nodes: Box::new(nodes) };
    let wants: Option<Vec<Want>> =
        heads.iter().map(|(shard, slot)| archive::from_the_first(&source.pin, *shard, *slot, until)).collect();
    let Some(wants) = wants else {
        let detail = "expected heads that some block can have".to_owned();
        return Err(refuse(ChainError::Setting { what: "heads", detail }));
    };
    let endpoints = match Endpoints::new(&source.endpoints, limits) {
        Ok(endpoints) => endpoints,
        Err(error) => return Err(refuse(error)),
    };
    let done = Entries::new(&source.pin, spill);
    logs::fetch(&endpoints, &source.pin, &wants, done, spill).await.map_err(refuse)
}

/// Where a look at what came after these entries begins.
#[must_use]
pub fn cursor_after(entries: &Entries) -> Cursor {
    let shards = entries.tips().map(|(shard, tip)| (shard, ShardCursor { tip, proved_at: tip.block })).collect();
    Cursor { final_header: None, shards, proved_tips: Vec::new() }
}
