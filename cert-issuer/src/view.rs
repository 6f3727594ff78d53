//! The verified ledger at one moment, and what would become of entries that are written next.
//!
//! Everything here follows from headers that the realm file's header source vouches for, proved slots and folded logs.

use std::collections::BTreeSet;

use countersign_chain::ChainError;
use countersign_chain::endpoints::Limits;
use countersign_chain::realm_file::RealmFile;
use countersign_chain::source::{Heads, TrustedHeader};
use countersign_chain::spool::Spill;
use countersign_chain::sync::{Cursor, Ledger, Update};
use countersign_registry::entries::{Entry, Kind};
use countersign_registry::head::Meta;
use countersign_registry::realm::BlockRef;
use countersign_registry::{B256, Effective, EntryRef, Id, LogEntry, PlacedEntry, Replay, shard, sign};
use thiserror::Error;

/// Why the ledger cannot be read.
#[derive(Debug, Error)]
pub enum ViewError {
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The log.
    #[error("the ledger cannot be replayed: {0}")]
    Replay(#[from] countersign_registry::replay::ReplayError),
}

/// The verified ledger at one moment.
#[derive(Debug)]
pub struct View {
    /// The realm file.
    pub realm: RealmFile,
    /// The trusted headers.
    pub heads: Heads,
    /// The shards that were read.
    pub shards: Vec<u64>,
    /// Every entry up to the latest block, in order of blocks.
    pub entries: Vec<PlacedEntry>,
    /// What holds now, as hosts see it.
    pub effective: Effective,
    /// What will hold once all that is logged is final: what the next write builds on.
    pub ahead: Effective,
}

/// The shards of a view at block time `now` that reaches `back_secs` back.
#[must_use]
pub fn wanted_shards(now: u64, back_secs: u64) -> Vec<u64> {
    let mut shards: BTreeSet<u64> = shard::access_shards(now, back_secs).into_iter().collect();
    shards.extend(shard::delivery_shards(now.saturating_sub(back_secs.saturating_add(shard::DAY_SECS)), now));
    shards.into_iter().collect()
}

impl View {
    /// Reads and proves the ledger, with the batches, requests and deliveries of at least `days` days and of as long as the realm's
    /// longest certificate lives.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn read(realm: &RealmFile, days: u64) -> Result<Self, ViewError> {
        Self::read_with(realm, days, Spill::default()).await
    }

    /// As [`Self::read`]; what is not verified yet waits in `spill`.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn read_with(realm: &RealmFile, days: u64, spill: Spill) -> Result<Self, ViewError> {
        let mut ledger = Ledger::new(realm, Limits::default())?;
        ledger.spill_into(spill);
        let heads = ledger.heads().await?;
        let mut span = days.max(1).saturating_mul(shard::DAY_SECS);
        loop {
            let shards = wanted_shards(heads.latest.time, span);
            let update = ledger.update(&Cursor::default(), &heads, &shards).await?;
            let view = Self::from_update(realm.clone(), heads, shards, update)?;
            // What may still be valid decides how far back batches matter; only the realm itself says how long that is.
            let longest = view.effective.settings.max_ttl;
            if longest <= span {
                return Ok(view);
            }
            span = longest;
        }
    }

    /// Replays a verified update that began with the first entry.
    ///
    /// # Errors
    /// [`ViewError::Replay`], also for a critical entry that this version does not know.
    pub fn from_update(realm: RealmFile, heads: Heads, shards: Vec<u64>, update: Update) -> Result<Self, ViewError> {
        let (final_block, latest_block) = (block(&update.final_header), block(&update.latest));
        let final_entries: Vec<PlacedEntry> = update.final_entries.into_values().flatten().collect();
        let latest_entries: Vec<PlacedEntry> = update.latest_entries.into_values().flatten().collect();
        let mut entries: Vec<PlacedEntry> = final_entries.iter().chain(&latest_entries).cloned().collect();
        entries.sort_by_key(|placed| placed.at);
        let pin = realm.pin.realm;
        let effective = replay(pin, final_block, &final_entries, latest_block, &latest_entries)?;
        let ahead = replay(pin, latest_block, &entries, latest_block, &[])?;
        Ok(Self { realm, heads, shards, entries, effective, ahead })
    }

    /// What would be ignored if these entries were logged next, with the reasons.
    ///
    /// # Errors
    /// [`ViewError::Replay`].
    pub fn would_ignore(&self, next: Vec<LogEntry>) -> Result<Vec<String>, ViewError> {
        let latest = self.effective.latest_block;
        let block = BlockRef { number: latest.number.saturating_add(1), time: latest.time.saturating_add(1) };
        let mut entries = self.entries.clone();
        for entry in next {
            let index = entries.iter().filter(|placed| placed.at.shard == entry.shard).count();
            let index = u64::try_from(index).unwrap_or(u64::MAX);
            entries.push(PlacedEntry {
                at: EntryRef { block: block.number, shard: entry.shard, index, time: block.time },
                entry,
            });
        }
        let after = replay(self.realm.pin.realm, block, &entries, block, &[])?;
        Ok(after
            .ignored
            .iter()
            .filter(|ignored| ignored.at.block == block.number)
            .map(|ignored| format!("{}: {}", ignored.kind, ignored.reason))
            .collect())
    }

    /// Record ids of LABEL_ADD entries that put `label` on `target` and were not removed.
    #[must_use]
    pub fn labels(&self, target: Id, label: &str) -> Vec<Id> {
        self.added(|entry| match entry {
            Entry::LabelAdd(add) if add.target.0 == target.0 && add.label == label => Some((Kind::LABEL_ADD, add.r.0)),
            _ => None,
        })
    }

    /// Record ids of GROUP_MEMBER_ADD entries that put `user` into `group` and were not removed.
    #[must_use]
    pub fn memberships(&self, group: Id, user: Id) -> Vec<Id> {
        self.added(|entry| match entry {
            Entry::GroupMemberAdd(add) if add.group.0 == group.0 && add.user.0 == user.0 => {
                Some((Kind::GROUP_MEMBER_ADD, add.r.0))
            }
            _ => None,
        })
    }

    fn added(&self, matches: impl Fn(&Entry) -> Option<(Kind, [u8; 16])>) -> Vec<Id> {
        let mut removed: BTreeSet<Id> = BTreeSet::new();
        let mut found = Vec::new();
        for placed in &self.entries {
            let Some(meta) = Meta::unpack(placed.entry.meta) else { continue };
            match Entry::decode(meta.kind, &placed.entry.data) {
                Ok(Entry::Remove(ids)) => removed.extend(ids),
                Ok(entry) => {
                    if let Some((kind, r)) = matches(&entry) {
                        found.push(sign::record_id(kind, placed.entry.actor, r));
                    }
                }
                Err(_) => {}
            }
        }
        found.retain(|id| !removed.contains(id));
        found
    }
}

fn block(header: &TrustedHeader) -> BlockRef {
    BlockRef { number: header.number, time: header.time }
}

fn replay(
    realm: B256,
    final_block: BlockRef,
    final_entries: &[PlacedEntry],
    latest_block: BlockRef,
    latest_entries: &[PlacedEntry],
) -> Result<Effective, ViewError> {
    let mut replay = Replay::new(realm);
    replay.advance(final_block, final_entries)?;
    Ok(replay.effective(latest_block, latest_entries)?)
}
