//! One look at the ledger: from what a reader knew (a [`Cursor`]) to the verified entries since, for the final view and for the
//! latest one. The latest part is made anew each time from the final one, so a reorg leaves nothing behind; final state is
//! never taken back. The cursor changes only in the returned [`Update`]: a reader saves it together with what it made of the
//! entries, or not at all.
//!
//! The final view's slots are proved at the final block where nodes still can. Where the chain's finality lags further than
//! nodes prove, tips are proved while they are fresh, remembered, and *promoted* once their block is final: the same header
//! hash, hence the same state root, needs no second proof.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::U256;
use countersign_registry::{
    head::{PlacedEntry, Tip},
    pin::RealmPin,
    shard::{CLASS_REVOCATIONS, DAY_SECS, class_of, epoch_of},
};
use serde::{Deserialize, Serialize};

use crate::{
    endpoints::{Endpoints, Limits},
    error::ChainError,
    logs::{self, Want},
    profile::ChainProfile,
    proofs,
    realm_file::RealmFile,
    source::{HeaderSource, Heads, TrustedHeader},
    spool::{Entries, Spill},
    suffix::Suffix,
};

/// Proved tips kept for promotion; spaced out so that they always reach back to the final block.
const TIPS: u64 = 256;
/// Tips tried for promotion in one look.
const PROMOTIONS: usize = 3;

/// How far the final view of a reader has come. Holds no secret, but decides what is read next: keep it where only the reader
/// writes, with the state it belongs to. A wrong one yields errors, never wrong entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cursor {
    /// Header of the final view; `None` before the first update.
    pub final_header: Option<TrustedHeader>,
    /// By shard. Shards that are not asked for any more stay until their owner drops them.
    pub shards: BTreeMap<u64, ShardCursor>,
    /// Proved tips that may become final.
    pub proved_tips: Vec<ProvedTip>,
}

/// One shard of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ShardCursor {
    /// Where its entries end.
    pub tip: Tip,
    /// Number of the header under which that was proved: no other entry is in this block or before it.
    pub proved_at: u64,
}

/// Slots proved under a header that was the tip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProvedTip {
    /// The header.
    pub header: TrustedHeader,
    /// Slot by shard.
    pub slots: BTreeMap<u64, U256>,
}

/// What one look has found, its entries still waiting: for logs that do not fit into memory.
#[derive(Debug)]
pub struct Reading {
    /// Header of the final view.
    pub final_header: TrustedHeader,
    /// Header of the latest view; never below the final one.
    pub latest: TrustedHeader,
    /// Entries that are final now and were not in the cursor.
    pub final_entries: Entries,
    /// Entries after these up to the tip, by shard; every shard asked for has a key.
    pub latest_entries: BTreeMap<u64, Vec<PlacedEntry>>,
    /// The slots proved under the latest header: they tell whether two looks have found the same.
    pub latest_slots: BTreeMap<u64, U256>,
    /// To be saved, with what was made of `final_entries`.
    pub cursor: Cursor,
}

/// The same, its entries in memory. They are in shard order; between shards nothing but block numbers orders them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Header of the final view.
    pub final_header: TrustedHeader,
    /// Header of the latest view; never below the final one.
    pub latest: TrustedHeader,
    /// Entries that are final now and were not in the cursor, by shard; every shard asked for has a key.
    pub final_entries: BTreeMap<u64, Vec<PlacedEntry>>,
    /// Entries after these up to the tip, by shard; every shard asked for has a key.
    pub latest_entries: BTreeMap<u64, Vec<PlacedEntry>>,
    /// To be saved, with what was made of `final_entries`.
    pub cursor: Cursor,
}

impl Update {
    /// Whether the final view is another than before.
    #[must_use]
    pub fn has_new_final_entries(&self) -> bool {
        self.final_entries.values().any(|entries| !entries.is_empty())
    }
}

/// A reader of one realm's ledger.
#[derive(Debug)]
pub struct Ledger {
    pin: RealmPin,
    profile: ChainProfile,
    endpoints: Endpoints,
    source: HeaderSource,
    proved: BTreeMap<u64, ProvedTip>,
    spill: Spill,
    suffix: Option<Suffix>,
}

/// The final view of one look: header, slots, and whether it moved beyond the cursor.
struct FinalView {
    header: TrustedHeader,
    /// `None`: nothing newer than the cursor can be had.
    slots: Option<BTreeMap<u64, U256>>,
}

impl Ledger {
    /// A reader as the realm file says.
    ///
    /// # Errors
    /// `Setting` when no client can be made.
    pub fn new(realm: &RealmFile, limits: Limits) -> Result<Self, ChainError> {
        let endpoints = Endpoints::new(&realm.endpoints, limits)?;
        let source = HeaderSource::new(endpoints.clone(), realm.profile, &realm.pin, realm.trust);
        Ok(Self {
            pin: realm.pin.clone(),
            profile: realm.profile,
            endpoints,
            source,
            proved: BTreeMap::new(),
            spill: Spill::default(),
            suffix: None,
        })
    }

    /// Where entries wait until they are verified, and how many.
    pub fn spill_into(&mut self, spill: Spill) {
        self.spill = spill;
    }

    /// The realm's pins.
    #[must_use]
    pub const fn pin(&self) -> &RealmPin {
        &self.pin
    }

    /// The chain's profile.
    #[must_use]
    pub const fn profile(&self) -> &ChainProfile {
        &self.profile
    }

    /// The nodes.
    #[must_use]
    pub const fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Where headers come from.
    #[must_use]
    pub const fn source(&self) -> &HeaderSource {
        &self.source
    }

    /// The two trusted headers of now; the time of the latest one tells which shards to ask for.
    ///
    /// # Errors
    /// See [`HeaderSource::heads`].
    pub async fn heads(&self) -> Result<Heads, ChainError> {
        self.source.heads().await
    }

    /// Verified entries of `shards` since `cursor`, under the given heads, all in memory.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn update(&mut self, cursor: &Cursor, heads: &Heads, shards: &[u64]) -> Result<Update, ChainError> {
        let Reading { final_header, latest, final_entries, latest_entries, cursor, .. } =
            self.read(cursor, heads, shards).await?;
        Ok(Update { final_header, latest, final_entries: final_entries.collect()?, latest_entries, cursor })
    }

    /// Verified entries of `shards` since `cursor`, under the given heads, to be taken piece by piece.
    ///
    /// # Errors
    /// `WentBack` when the chain contradicts the cursor's final header, `NotYetFinal` when no final state can be proved at all,
    /// else those of proofs and logs. Nothing is half done after an error; a tip that was proved is remembered.
    pub async fn read(&mut self, cursor: &Cursor, heads: &Heads, shards: &[u64]) -> Result<Reading, ChainError> {
        let shards: Vec<u64> = shards.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        for tip in &cursor.proved_tips {
            self.proved.entry(tip.header.number).or_insert_with(|| tip.clone());
        }
        let goal = advance(cursor, heads)?;
        self.continues(cursor, &goal).await?;
        let latest_slots = proofs::prove(&self.endpoints, &self.pin, &heads.latest, &shards).await?;
        self.remember(heads, &latest_slots);
        let view = self.final_view(cursor, &goal, &heads.latest, &latest_slots, &shards).await?;

        let before: Vec<(u64, ShardCursor)> = shards.iter().map(|shard| (*shard, self.known(cursor, *shard))).collect();
        let mut cursors = cursor.shards.clone();
        // Without newer slots the final view is where it was.
        let nothing_new = || before.iter().map(|(shard, known)| (*shard, known.tip.slot)).collect();
        let moved = view.slots.is_some();
        let slots = view.slots.unwrap_or_else(nothing_new);
        // After an error everything is fetched anew.
        let suffix = self.suffix.take();
        let final_entries = self.fetch_final(suffix.as_ref(), &wants(&before, &slots, view.header.number)).await?;
        if moved {
            for (shard, tip) in final_entries.tips() {
                cursors.insert(shard, ShardCursor { tip, proved_at: view.header.number });
            }
        } else {
            cursors.extend(before);
        }
        let after: Vec<(u64, ShardCursor)> =
            shards.iter().filter_map(|shard| Some((*shard, *cursors.get(shard)?))).collect();
        let wants = wants(&after, &latest_slots, heads.latest.number);
        let left = self.spill.limit.saturating_sub(final_entries.bytes());
        let latest_entries = self.fetch_latest(suffix.as_ref(), &heads.latest, &wants, left).await?.collect()?;
        let tips = after.iter().map(|(shard, known)| (*shard, known.tip));
        self.suffix = Suffix::new(heads.latest, tips, &latest_entries);

        self.proved.retain(|number, _| *number > view.header.number);
        let proved_tips = self.proved.values().cloned().collect();
        let cursor = Cursor { final_header: Some(view.header), shards: cursors, proved_tips };
        let (final_header, latest) = (view.header, heads.latest);
        Ok(Reading { final_header, latest, final_entries, latest_entries, latest_slots, cursor })
    }

    /// What has become final, most of which the last look has seen.
    async fn fetch_final(&self, suffix: Option<&Suffix>, wants: &[Want]) -> Result<Entries, ChainError> {
        let mut done = Entries::new(&self.pin, &self.spill);
        let mut open = Vec::new();
        for want in wants {
            match suffix.and_then(|suffix| suffix.to_slot(&self.pin, want)) {
                Some(known) => done.known(want, known.entries, known.end)?,
                None => open.push(*want),
            }
        }
        logs::fetch(&self.endpoints, &self.pin, &open, done, &self.spill).await
    }

    /// What is beyond the final view; of a chain that has gone on since the last look, what is new.
    async fn fetch_latest(
        &self,
        suffix: Option<&Suffix>,
        latest: &TrustedHeader,
        wants: &[Want],
        limit: u64,
    ) -> Result<Entries, ChainError> {
        let spill = Spill { limit, ..self.spill.clone() };
        let mut done = Entries::new(&self.pin, &spill);
        let mut open = wants.to_vec();
        if let Some(suffix) = suffix.filter(|suffix| !suffix.is_empty())
            && self.is_ancestor(&suffix.header, latest).await
        {
            for want in &mut open {
                if let Some(known) = suffix.to_end(&self.pin, want) {
                    done.known(want, known.entries, known.end)?;
                    *want = Want { from: known.end, after: suffix.header.number, ..*want };
                }
            }
        }
        logs::fetch(&self.endpoints, &self.pin, &open, done, &spill).await
    }

    /// Whether a header is still where it was below (or at) the latest one; not to know is to say no.
    async fn is_ancestor(&self, header: &TrustedHeader, latest: &TrustedHeader) -> bool {
        if header.hash == latest.hash || header.hash == latest.parent_hash {
            return true;
        }
        header.number < latest.number
            && self.source.at(header.number).await.is_ok_and(|found| found.hash == header.hash)
    }

    /// The cursor's final block must still be where it was below a newer one: entries alone do not tell, where none were lost.
    /// Beyond the proof window a node may not have it any more; then what was folded into the slots must do.
    async fn continues(&self, cursor: &Cursor, goal: &TrustedHeader) -> Result<(), ChainError> {
        let Some(known) = cursor.final_header.filter(|known| known.number < goal.number) else { return Ok(()) };
        if known.hash == goal.parent_hash {
            return Ok(());
        }
        match self.source.at(known.number).await {
            Ok(header) if header.hash == known.hash => Ok(()),
            Ok(header) => Err(ChainError::WentBack {
                what: "final block",
                expected: format!("{} at height {}", known.hash, known.number),
                got: header.hash.to_string(),
            }),
            Err(error) if goal.number.saturating_sub(known.number) < self.profile.proof_window => Err(error),
            Err(error) => {
                tracing::info!(%error, block = known.number, "the last known final block is out of the nodes' sight");
                Ok(())
            }
        }
    }

    /// Where a shard stands before this look.
    fn known(&self, cursor: &Cursor, shard: u64) -> ShardCursor {
        if let Some(known) = cursor.shards.get(&shard) {
            return *known;
        }
        // A day's shard is written on that day only: none of it is in a block before the day.
        let day_class = class_of(shard) > CLASS_REVOCATIONS;
        let day_start = u64::from(epoch_of(shard)).saturating_mul(DAY_SECS);
        let proved_at = match cursor.final_header {
            Some(header) if day_class && header.time < day_start => header.number,
            _ => self.pin.deployed_block.saturating_sub(1),
        };
        ShardCursor { tip: Tip::default(), proved_at }
    }

    async fn final_view(
        &self,
        cursor: &Cursor,
        goal: &TrustedHeader,
        latest: &TrustedHeader,
        latest_slots: &BTreeMap<u64, U256>,
        shards: &[u64],
    ) -> Result<FinalView, ChainError> {
        if goal.hash == latest.hash {
            return Ok(FinalView { header: *goal, slots: Some(latest_slots.clone()) });
        }
        let proved_there = |shard: &u64| cursor.shards.get(shard).is_some_and(|known| known.proved_at == goal.number);
        if cursor.final_header.is_some_and(|known| known.hash == goal.hash) && shards.iter().all(proved_there) {
            return Ok(FinalView { header: *goal, slots: None });
        }
        let beyond_window = latest.number.saturating_sub(goal.number) >= self.profile.proof_window;
        if beyond_window && let Some(view) = self.promote(cursor, goal, shards).await? {
            return Ok(view);
        }
        let error = match proofs::prove(&self.endpoints, &self.pin, goal, shards).await {
            Ok(slots) => return Ok(FinalView { header: *goal, slots: Some(slots) }),
            Err(error) => error,
        };
        if !beyond_window && let Some(view) = self.promote(cursor, goal, shards).await? {
            return Ok(view);
        }
        tracing::info!(%error, block = goal.number, "final block is not provable any more, waiting for a proved tip");
        match (cursor.final_header, self.proved.keys().next()) {
            (Some(header), _) => Ok(FinalView { header, slots: None }),
            (None, Some(first_tip)) => Err(ChainError::NotYetFinal { final_block: goal.number, first_tip: *first_tip }),
            (None, None) => Err(error),
        }
    }

    /// The newest remembered tip that is final by now and has every shard.
    async fn promote(
        &self,
        cursor: &Cursor,
        goal: &TrustedHeader,
        shards: &[u64],
    ) -> Result<Option<FinalView>, ChainError> {
        let above = cursor.final_header.map_or(0, |header| header.number.saturating_add(1));
        if above > goal.number {
            return Ok(None);
        }
        for (number, tip) in self.proved.range(above..=goal.number).rev().take(PROMOTIONS) {
            let slots: Option<BTreeMap<u64, U256>> =
                shards.iter().map(|shard| Some((*shard, slot_at(tip, *shard)?))).collect();
            let Some(slots) = slots else { continue };
            let header = if *number == goal.number { *goal } else { self.source.at(*number).await? };
            if header.hash == tip.header.hash {
                return Ok(Some(FinalView { header, slots: Some(slots) }));
            }
        }
        Ok(None)
    }

    fn remember(&mut self, heads: &Heads, slots: &BTreeMap<u64, U256>) {
        let header = heads.latest;
        // What a reorg replaced is of no use.
        self.proved.retain(|number, _| *number < header.number);
        let lag = header.number.saturating_sub(heads.final_header.number);
        let spacing = lag / TIPS;
        let newest = self.proved.keys().next_back().copied();
        if newest.is_none_or(|newest| header.number.saturating_sub(newest) > spacing) {
            self.proved.insert(header.number, ProvedTip { header, slots: slots.clone() });
        }
    }
}

/// A remembered slot; of a day that had not begun, the slot is empty without a proof.
fn slot_at(tip: &ProvedTip, shard: u64) -> Option<U256> {
    let later_day =
        class_of(shard) > CLASS_REVOCATIONS && u64::from(epoch_of(shard)).saturating_mul(DAY_SECS) > tip.header.time;
    tip.slots.get(&shard).copied().or_else(|| later_day.then_some(U256::ZERO))
}

/// The header the final view should reach: never behind the cursor's, and never another block of its height.
fn advance(cursor: &Cursor, heads: &Heads) -> Result<TrustedHeader, ChainError> {
    let Some(known) = cursor.final_header else { return Ok(heads.final_header) };
    let back = |what, expected: String, got: String| Err(ChainError::WentBack { what, expected, got });
    if heads.latest.number < known.number {
        return back("latest block", format!("at least final block {}", known.number), heads.latest.number.to_string());
    }
    if heads.latest.time < known.time {
        return back("time of the latest block", format!("at least {}", known.time), heads.latest.time.to_string());
    }
    for header in [heads.latest, heads.final_header] {
        if header.number == known.number && header.hash != known.hash {
            return back("final block", format!("{} at height {}", known.hash, known.number), header.hash.to_string());
        }
    }
    // A node that lags names an older final block; what was final stays so.
    if heads.final_header.number <= known.number {
        return Ok(known);
    }
    if heads.final_header.time < known.time {
        return back(
            "time of the final block",
            format!("at least {}", known.time),
            heads.final_header.time.to_string(),
        );
    }
    Ok(heads.final_header)
}

fn wants(known: &[(u64, ShardCursor)], slots: &BTreeMap<u64, U256>, until: u64) -> Vec<Want> {
    known
        .iter()
        .filter_map(|(shard, known)| {
            let slot = *slots.get(shard)?;
            Some(Want { shard: *shard, from: known.tip, after: known.proved_at, slot, until })
        })
        .collect()
}
