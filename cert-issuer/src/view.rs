//! The verified ledger at one moment, and what would become of entries that are written next.
//!
//! Everything here follows from headers that the realm file's header source vouches for, proved slots and folded logs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_chain::ChainError;
use countersign_chain::endpoints::Limits;
use countersign_chain::history::{self, Arrival, Beginning, HistoryError};
use countersign_chain::realm_file::RealmFile;
use countersign_chain::source::{Heads, TrustedHeader};
use countersign_chain::spool::Spill;
use countersign_chain::sync::{Cursor, Ledger, Update};
use countersign_registry::entries::{Entry, Kind};
use countersign_registry::head::Meta;
use countersign_registry::migration::{self, Place};
use countersign_registry::realm::BlockRef;
use countersign_registry::replay::IgnoreReason;
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
    /// The realm has moved.
    #[error("the realm has moved to realm {} in contract {} on chain {}", target.realm, target.contract, target.chain_id)]
    Left {
        /// Where it went.
        target: Box<Place>,
    },
    /// What came before the realm's own log.
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl ViewError {
    /// What the reader can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Chain(error) => error.hint(),
            Self::History(error) => error.hint(),
            Self::Left { .. } => Some("use the successor's realm file, with predecessor = this one's".to_owned()),
            Self::Replay(_) => None,
        }
    }
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
    /// Every entry up to the latest block, in their places in the history, in order of blocks: those of realms that were left up to where
    /// they were left, then the realm's own.
    pub entries: Vec<PlacedEntry>,
    /// What holds now, as hosts see it.
    pub effective: Effective,
    /// What will hold once all that is logged is final: what the next write builds on.
    pub ahead: Effective,
    /// What came before the realm's own log.
    pub before: Before,
    /// Where the realm went, by a final MIGRATE.
    pub migrated: Option<Place>,
}

/// What came before a realm's own log: nothing, or the realms that it continues.
#[derive(Debug, Clone)]
pub struct Before {
    /// Their entries, up to where they were left.
    pub entries: Vec<PlacedEntry>,
    /// Those of them that could not be asked what they deny since, and why.
    pub silent: Vec<(B256, String)>,
    replay: Replay,
}

impl Before {
    /// Reads it. Realms that were left are asked what they deny since; that one does not answer is told, and keeps nobody from reading.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn read(realm: &RealmFile, ledger: &mut Ledger, heads: &Heads, spill: &Spill) -> Result<Self, ViewError> {
        let nothing = || Self { entries: Vec::new(), silent: Vec::new(), replay: Replay::new(realm.pin.realm) };
        if realm.links.predecessor.is_none() {
            return Ok(nothing());
        }
        let said = match history::arrival(ledger, heads).await? {
            // Its roots are about to write the first entry.
            Arrival::Empty => return Ok(nothing()),
            said => said.said(realm)?,
        };
        let mut entries = Vec::new();
        let keep = |placed: &PlacedEntry| entries.push(placed.clone());
        let Beginning { mut replay, left } = history::before(realm, &said, Limits::default(), spill, keep).await?;
        let mut silent = Vec::new();
        for left in left {
            let late = async {
                let mut ledger = Ledger::new(&left.realm, LEFT)?;
                ledger.spill_into(spill.clone());
                history::look(&mut ledger, &left.cursor, heads.latest.time).await
            };
            let late = tokio::time::timeout(LEFT_PATIENCE, late).await;
            let told = match late {
                Ok(Ok(late)) => late.tell(&mut replay, left.leg).map(drop).map_err(|error| error.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} s", LEFT_PATIENCE.as_secs())),
            };
            if let Err(why) = told {
                silent.push((left.realm.pin.realm, why));
            }
        }
        Ok(Self { entries, silent, replay })
    }
}

/// What one call to a node of a realm that was left may take: it may be gone for good.
const LEFT: Limits = Limits { call: Duration::from_secs(5), connect: Duration::from_secs(2), answer: 32 << 20 };
/// And all of them.
const LEFT_PATIENCE: Duration = Duration::from_secs(20);

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
        ledger.spill_into(spill.clone());
        let heads = ledger.heads().await?;
        let before = Before::read(realm, &mut ledger, &heads, &spill).await?;
        let mut span = days.max(1).saturating_mul(shard::DAY_SECS);
        loop {
            let shards = wanted_shards(heads.latest.time, span);
            let update = ledger.update(&Cursor::default(), &heads, &shards).await?;
            let view = Self::from_update(realm.clone(), before.clone(), heads, shards, update)?;
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
    pub fn from_update(
        realm: RealmFile,
        before: Before,
        heads: Heads,
        shards: Vec<u64>,
        update: Update,
    ) -> Result<Self, ViewError> {
        let block = |header| before.replay.block(block(header));
        let place = |entries: BTreeMap<u64, Vec<PlacedEntry>>| -> Vec<PlacedEntry> {
            entries.values().flatten().map(|placed| before.replay.place(placed)).collect()
        };
        let (final_block, latest_block) = (block(&update.final_header), block(&update.latest));
        let (final_entries, latest_entries) = (place(update.final_entries), place(update.latest_entries));
        let mut entries: Vec<PlacedEntry> = final_entries.iter().chain(&latest_entries).cloned().collect();
        let (effective, migrated) = replay(&before.replay, final_block, &final_entries, latest_block, &latest_entries)?;
        let (ahead, _) = replay(&before.replay, latest_block, &entries, latest_block, &[])?;
        entries.extend(before.entries.iter().cloned());
        entries.sort_by_key(|placed| placed.at);
        Ok(Self { realm, heads, shards, entries, effective, ahead, before, migrated })
    }

    /// Refuses a realm that was left: what is issued there is no good anywhere.
    ///
    /// # Errors
    /// [`ViewError::Left`].
    pub fn check_not_left(&self) -> Result<(), ViewError> {
        match &self.migrated {
            Some(target) => Err(ViewError::Left { target: Box::new(*target) }),
            None => Ok(()),
        }
    }

    /// The entries of the realm's own log, without those of realms that it continues.
    pub fn own_entries(&self) -> impl Iterator<Item = &PlacedEntry> {
        let leg = self.before.replay.leg();
        self.entries.iter().filter(move |placed| migration::leg_of(placed.at.block) == leg)
    }

    /// A ledger that nobody wrote, for tests.
    #[cfg(test)]
    pub(crate) fn of_test(realm: RealmFile, effective: Effective) -> Self {
        let header = serde_json::json!({
            "number": effective.latest_block.number, "hash": B256::ZERO, "parent-hash": B256::ZERO,
            "state-root": B256::ZERO, "time": effective.latest_block.time,
        });
        let header = || serde_json::from_value::<TrustedHeader>(header.clone()).unwrap();
        let before = Before { entries: Vec::new(), silent: Vec::new(), replay: Replay::new(realm.pin.realm) };
        let heads = Heads { final_header: header(), latest: header() };
        let (shards, entries, ahead) = (Vec::new(), Vec::new(), effective.clone());
        Self { realm, heads, shards, entries, effective, ahead, before, migrated: None }
    }

    /// What would be ignored if these entries were logged next, with the reasons.
    ///
    /// # Errors
    /// [`ViewError::Replay`].
    pub fn would_ignore(&self, next: Vec<LogEntry>) -> Result<Vec<String>, ViewError> {
        if self.migrated.is_some() {
            let counts = |entry: &LogEntry| Meta::unpack(entry.meta).is_some_and(|meta| counts_when_left(meta.kind));
            let vain = next.iter().filter(|entry| !counts(entry)).filter_map(|entry| Meta::unpack(entry.meta));
            return Ok(vain.map(|meta| format!("{}: {}", meta.kind, IgnoreReason::Migrated)).collect());
        }
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
        let (after, _) = replay(&self.before.replay, block, &entries, block, &[])?;
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

/// What still counts of a realm that was left: denials, and what lifts them.
fn counts_when_left(kind: Kind) -> bool {
    matches!(kind.class(), 0x02 | 0x03)
        || matches!(kind, Kind::REVOKE | Kind::UNLOCK | Kind::RESTORE | Kind::SETTINGS | Kind::CA_LOOSEN | Kind::REMOVE)
}

/// What holds, and where the realm went if it was left.
fn replay(
    before: &Replay,
    final_block: BlockRef,
    final_entries: &[PlacedEntry],
    latest_block: BlockRef,
    latest_entries: &[PlacedEntry],
) -> Result<(Effective, Option<Place>), ViewError> {
    let mut replay = before.clone();
    replay.advance(final_block, final_entries)?;
    let migrated = replay.migrate().map(|(migrate, _)| migrate.target());
    let effective = if migrated.is_some() {
        replay.effective_of_left(latest_block, latest_entries)?
    } else {
        replay.effective(latest_block, latest_entries)?
    };
    Ok((effective, migrated))
}
