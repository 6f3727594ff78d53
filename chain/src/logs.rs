//! Entries of shards, from a proved slot to a later proved slot. Nodes are asked for logs and believed in nothing: what they
//! send is folded into the shard's hash chain, and unless the fold ends at the proved slot, nothing leaves this module and the
//! next way, then the next node, is tried.
//!
//! Two ways: ranges of blocks, halved whenever a node declines (limits differ from 100 to 10,000 blocks, with various error
//! codes), and hops from block to block along `prevBlock`, which need no ranges. `logsBloom` is never used to skip.
//! Memory is bounded: by the size of one answer, and by the bytes of all entries between two heads.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry as Slot},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolValue;
use countersign_registry::{
    head::{Fold, LogEntry, Meta, PlacedEntry, Tip, block_with_low_bits, last_block},
    pin::RealmPin,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    contract::ENTRY_TOPIC,
    endpoints::{Endpoint, Endpoints},
    error::ChainError,
};

/// Requests of the first try by ranges, before hops are tried.
const FEW_RANGES: usize = 256;
/// Requests of one shard's try by hops.
const HOPS: usize = 4096;
/// Bytes of all entries of one fetch, as counted by [`cost`].
const MAX_BYTES: usize = 512 << 20;
/// How long one of several nodes is listened to before the next one gets its turn: each answer may come just within its deadline, and
/// a node that makes a thousand of them necessary would hold everything back for hours.
const TURN: Duration = Duration::from_secs(15);
/// Deadlines in a row after which a node is taken to be silent, not slow.
const SILENT: usize = 2;

/// One shard's gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Shard number.
    pub shard: u64,
    /// What is known.
    pub from: Tip,
    /// No entry beyond `from` is in this block or an earlier one.
    pub after: u64,
    /// The slot proved under the header of block `until`.
    pub slot: U256,
    /// That block's number.
    pub until: u64,
}

/// A shard's entries between the two slots, and where they end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The end: its slot is the proved one.
    pub tip: Tip,
    /// In order.
    pub entries: Vec<PlacedEntry>,
}

/// Fetches every want, verified.
///
/// # Errors
/// The last node's error where no node gives a shard that folds: `HeadMismatch`, `ShardTooLarge` or that of a call.
pub async fn fetch(
    endpoints: &Endpoints,
    pin: &RealmPin,
    wants: &[Want],
) -> Result<BTreeMap<u64, Verified>, ChainError> {
    let mut done = BTreeMap::new();
    let mut open: Vec<Want> = Vec::new();
    for want in wants {
        if want.from.slot == want.slot {
            done.insert(want.shard, Verified { tip: want.from, entries: Vec::new() });
        } else {
            open.push(*want);
        }
    }
    let mut last = None;
    let mut slow = BTreeSet::new();
    for patient in [false, true] {
        let mut ran_out = false;
        let (quick, behind): (Vec<&Endpoint>, Vec<&Endpoint>) =
            endpoints.by_preference().partition(|endpoint| !slow.contains(&endpoint.index()));
        for endpoint in quick.into_iter().chain(behind) {
            if open.is_empty() {
                return Ok(done);
            }
            let mut fetcher = Fetcher { endpoint, pin, open: &mut open, done: &mut done };
            let turn = if patient || endpoints.count() == 1 { Duration::MAX } else { TURN };
            // A turn that ends early leaves what was verified in it.
            let result = tokio::time::timeout(turn, fetcher.run(patient)).await.unwrap_or_else(|_| {
                slow.insert(endpoint.index());
                Err(Stop::RanOut)
            });
            match result {
                Ok(()) => endpoints.prefer(endpoint),
                Err(Stop::RanOut) => ran_out = true,
                Err(Stop::Failed(error)) => {
                    tracing::debug!(%error, "log source passed over");
                    last = Some(error);
                }
            }
        }
        if !ran_out {
            break;
        }
    }
    if open.is_empty() { Ok(done) } else { Err(endpoints.gave_up("eth_getLogs", last)) }
}

/// Why one way with one node ended.
enum Stop {
    /// More requests would be needed than this round allows.
    RanOut,
    Failed(ChainError),
}

impl From<ChainError> for Stop {
    fn from(error: ChainError) -> Self {
        Self::Failed(error)
    }
}

impl Stop {
    /// Whether another way with the same node has a chance.
    fn is_final(&self) -> bool {
        match self {
            Self::RanOut | Self::Failed(ChainError::HeadMismatch { .. }) => false,
            Self::Failed(ChainError::Deadline { .. }) => true,
            Self::Failed(error) => !error.may_be_a_size_limit(),
        }
    }
}

struct Fetcher<'a> {
    endpoint: &'a Endpoint,
    pin: &'a RealmPin,
    open: &'a mut Vec<Want>,
    done: &'a mut BTreeMap<u64, Verified>,
}

/// Logs by shard, each by block and log index.
type Logs = BTreeMap<u64, BTreeMap<(u64, u64), LogEntry>>;

impl Fetcher<'_> {
    /// Both ways, or in the patient round ranges alone, as many as it takes.
    async fn run(&mut self, patient: bool) -> Result<(), Stop> {
        let requests = if patient { usize::MAX } else { FEW_RANGES };
        match self.by_ranges(requests).await {
            Err(stop) if !patient && !stop.is_final() => self.by_hops().await,
            result => result,
        }
    }

    async fn by_ranges(&mut self, requests: usize) -> Result<(), Stop> {
        let Some(from) = self.open.iter().map(|want| want.after.saturating_add(1)).min() else { return Ok(()) };
        let until = self.open.iter().map(|want| want.until).max().unwrap_or(from);
        let shards: Vec<u64> = self.open.iter().map(|want| want.shard).collect();
        let mut logs = self.ranges(from, until, &shards, requests).await?;
        let mut result = Ok(());
        for want in self.open.clone() {
            result = self.settle(&want, logs.remove(&want.shard).unwrap_or_default()).and(result);
        }
        Ok(result?)
    }

    async fn by_hops(&mut self) -> Result<(), Stop> {
        let mut result = Ok(());
        for want in self.open.clone() {
            let outcome = match self.hops(&want).await {
                Ok(logs) => self.settle(&want, logs).map_err(Stop::from),
                Err(stop) => Err(stop),
            };
            if outcome.as_ref().is_err_and(Stop::is_final) {
                return outcome;
            }
            result = outcome.and(result);
        }
        result
    }

    /// Folds what came; a shard that reaches its proved slot moves from open to done.
    fn settle(&mut self, want: &Want, logs: BTreeMap<(u64, u64), LogEntry>) -> Result<(), ChainError> {
        let verified = fold(self.pin, want, logs).ok_or_else(|| self.mismatch(want.shard))?;
        self.done.insert(want.shard, verified);
        self.open.retain(|open| open.shard != want.shard);
        Ok(())
    }

    async fn ranges(&self, from: u64, until: u64, shards: &[u64], requests: usize) -> Result<Logs, Stop> {
        let mut all = Logs::new();
        let mut bytes = 0;
        let mut next = from;
        let mut size = until.saturating_sub(from).saturating_add(1);
        let (mut asked, mut deadlines, mut in_a_row) = (0usize, 0usize, 0usize);
        while next <= until {
            if asked >= requests {
                return Err(Stop::RanOut);
            }
            asked = asked.saturating_add(1);
            let end = next.saturating_add(size.saturating_sub(1)).min(until);
            match self.logs(next, end, shards).await {
                Ok(logs) => {
                    self.merge(&mut all, logs, &mut bytes)?;
                    next = end.saturating_add(1);
                    deadlines = 0;
                    in_a_row = in_a_row.saturating_add(1);
                    // Busy blocks may have been the reason for a smaller range: try a larger one now and then.
                    if in_a_row % 8 == 0 {
                        size = size.saturating_mul(2);
                    }
                }
                Err(error) => {
                    let silent = matches!(error, ChainError::Deadline { .. });
                    deadlines = if silent { deadlines.saturating_add(1) } else { 0 };
                    in_a_row = 0;
                    size = end.saturating_sub(next).saturating_add(1) / 2;
                    if size == 0 || deadlines >= SILENT || !error.may_be_a_size_limit() {
                        return Err(error.into());
                    }
                }
            }
        }
        Ok(all)
    }

    async fn hops(&self, want: &Want) -> Result<BTreeMap<(u64, u64), LogEntry>, Stop> {
        let mut all = Logs::new();
        let mut bytes = 0;
        let mut block = last_block(want.slot, want.until);
        for _ in 0..HOPS {
            let Some(number) = block.filter(|number| *number > want.after) else {
                return Ok(all.remove(&want.shard).unwrap_or_default());
            };
            let logs = self.logs(number, number, &[want.shard]).await?;
            let first = logs.values().next().ok_or_else(|| self.mismatch(want.shard))?;
            let previous = Meta::unpack(first.meta).ok_or_else(|| self.mismatch(want.shard))?.prev_block;
            self.merge(&mut all, logs, &mut bytes)?;
            let below = number.checked_sub(1);
            block = if previous == 0 { None } else { below.and_then(|below| block_with_low_bits(previous, below)) };
        }
        Err(Stop::RanOut)
    }

    fn merge(&self, all: &mut Logs, logs: BTreeMap<(u64, u64), LogEntry>, bytes: &mut usize) -> Result<(), ChainError> {
        for (place, entry) in logs {
            let shard = entry.shard;
            *bytes = bytes.saturating_add(cost(&entry));
            if *bytes > MAX_BYTES {
                return Err(ChainError::ShardTooLarge { shard, limit: MAX_BYTES });
            }
            all.entry(shard).or_default().insert(place, entry);
        }
        Ok(())
    }

    /// One query. What does not fit the filter is a lie or a fault, and refused as a whole.
    async fn logs(&self, from: u64, until: u64, shards: &[u64]) -> Result<BTreeMap<(u64, u64), LogEntry>, ChainError> {
        let method = "eth_getLogs";
        let topics: Vec<B256> = shards.iter().map(|shard| B256::from(U256::from(*shard))).collect();
        let filter = json!([{
            "address": self.pin.contract,
            "fromBlock": format!("{from:#x}"),
            "toBlock": format!("{until:#x}"),
            "topics": [ENTRY_TOPIC, self.pin.realm, topics],
        }]);
        let answer: Vec<RawLog> = self.endpoint.call(method, filter).await?;
        let wanted: BTreeSet<u64> = shards.iter().copied().collect();
        place(self.pin, from, until, &wanted, &answer).map_err(|fault| self.endpoint.malformed(method, fault.into()))
    }

    fn mismatch(&self, shard: u64) -> ChainError {
        ChainError::HeadMismatch { endpoint: self.endpoint.name().into(), shard }
    }
}

/// One node's answer for one want: its entries, or nothing where they are not exactly the entries between the two slots. It is what
/// [`fetch`] does with an answer, without the node.
#[must_use]
pub fn verify(pin: &RealmPin, want: &Want, answer: &str) -> Option<Verified> {
    let answer: Vec<RawLog> = serde_json::from_str(answer).ok()?;
    let logs = place(pin, want.after.saturating_add(1), want.until, &BTreeSet::from([want.shard]), &answer).ok()?;
    fold(pin, want, logs)
}

/// Entries by block and log index. What was not asked for makes the whole answer a lie.
fn place(
    pin: &RealmPin,
    from: u64,
    until: u64,
    wanted: &BTreeSet<u64>,
    answer: &[RawLog],
) -> Result<BTreeMap<(u64, u64), LogEntry>, &'static str> {
    let mut logs = BTreeMap::new();
    for raw in answer {
        let place = raw.place().ok_or("a log without its place")?;
        let entry = raw
            .entry(pin)
            .filter(|entry| wanted.contains(&entry.shard) && (from..=until).contains(&place.0))
            .ok_or("a log that was not asked for")?;
        match logs.entry(place) {
            Slot::Vacant(free) => {
                free.insert(entry);
            }
            // Load balancers have been seen to repeat logs; two different ones in one place are a lie.
            Slot::Occupied(taken) if *taken.get() == entry => {}
            Slot::Occupied(_) => return Err("two logs in one place"),
        }
    }
    Ok(logs)
}

fn fold(pin: &RealmPin, want: &Want, logs: BTreeMap<(u64, u64), LogEntry>) -> Option<Verified> {
    let mut fold = Fold::new(pin.chain_id, pin.contract, pin.realm, want.shard, want.from, want.until);
    let mut entries = Vec::with_capacity(logs.len());
    for ((block, _), entry) in logs {
        // A range that serves several shards begins before and ends after what this shard lacks.
        if block <= want.after || block > want.until {
            continue;
        }
        entries.push(fold.push(entry, block).ok()?);
    }
    Some(Verified { tip: fold.finish(want.slot).ok()?, entries })
}

/// Bytes of memory that an entry stands for, roughly.
fn cost(entry: &LogEntry) -> usize {
    entry.data.len().saturating_add(192)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    block_number: Option<U256>,
    log_index: Option<U256>,
    #[serde(default)]
    removed: bool,
}

impl RawLog {
    fn place(&self) -> Option<(u64, u64)> {
        Some((self.block_number?.try_into().ok()?, self.log_index?.try_into().ok()?))
    }

    fn entry(&self, pin: &RealmPin) -> Option<LogEntry> {
        let [_, realm, ..] = *self.topics.as_slice() else { return None };
        if self.removed || self.address != pin.contract || realm != pin.realm {
            return None;
        }
        self.parse()
    }

    /// As it is, from a receipt: of any contract and realm, proved by nothing.
    pub(crate) fn unchecked(self) -> Option<LogEntry> {
        self.parse()
    }

    fn parse(&self) -> Option<LogEntry> {
        let [topic, _, shard, actor_word] = *self.topics.as_slice() else { return None };
        let shard = U256::from_be_bytes(shard.0).try_into().ok()?;
        let actor = Address::from_word(actor_word);
        if topic != ENTRY_TOPIC || actor.into_word() != actor_word {
            return None;
        }
        let (meta, data) = <(U256, Bytes)>::abi_decode_params(&self.data).ok()?;
        let entry = LogEntry { shard, actor, meta, data };
        ((entry.meta, entry.data.clone()).abi_encode_params() == self.data).then_some(entry)
    }
}
