//! Entries of shards, from a proved slot to a later proved slot. Nodes are asked for logs and believed in nothing: what they
//! send is folded into the shard's hash chain, and unless the fold ends at the proved slot, nothing leaves this module and the
//! next way, then the next node, is tried.
//!
//! Two ways: ranges of blocks, halved whenever a node declines (limits differ from 100 to 10,000 blocks, with various error
//! codes), and hops from block to block along `prevBlock`, which need no ranges. `logsBloom` is never used to skip.
//! Memory is bounded by the size of one answer: what came waits in a [`spool`](crate::spool), whose size is bounded too, and a try
//! that leads nowhere gives its share back.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry as Slot},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolValue;
use countersign_registry::{
    head::{LogEntry, Meta, PlacedEntry, Tip, block_with_low_bits, last_block},
    pin::RealmPin,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    contract::ENTRY_TOPIC,
    endpoints::{Endpoint, Endpoints},
    error::ChainError,
    spool::{Entries, Spill, Spool},
};

/// Requests of the first try by ranges, before hops are tried.
const FEW_RANGES: usize = 256;
/// Requests of one shard's try by hops.
const HOPS: usize = 4096;
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

impl Want {
    /// Whether an entry of this block belongs to the gap.
    fn lacks(&self, block: u64) -> bool {
        block > self.after && block <= self.until
    }
}

/// A shard's entries between the two slots, and where they end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The end: its slot is the proved one.
    pub tip: Tip,
    /// In order.
    pub entries: Vec<PlacedEntry>,
}

/// Fetches every want, verified, and adds it to `done`; what waits goes where `spill` says.
///
/// # Errors
/// The last node's error where no node gives a shard that folds: `HeadMismatch`, `LogTooLarge` or that of a call; `File`.
pub async fn fetch(
    endpoints: &Endpoints,
    pin: &RealmPin,
    wants: &[Want],
    mut done: Entries,
    spill: &Spill,
) -> Result<Entries, ChainError> {
    let mut open: Vec<Want> = Vec::new();
    for want in wants {
        if want.from.slot == want.slot {
            done.nothing_new(want);
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
            let mut fetcher = Fetcher { endpoint, pin, spill, open: &mut open, done: &mut done };
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
    spill: &'a Spill,
    open: &'a mut Vec<Want>,
    done: &'a mut Entries,
}

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
        let mut spool = self.spool();
        self.ranges(from, until, requests, &mut spool).await?;
        let wants = self.open.clone();
        Ok(self.settle(spool, &wants)?)
    }

    async fn by_hops(&mut self) -> Result<(), Stop> {
        let mut result = Ok(());
        for want in self.open.clone() {
            let mut spool = self.spool();
            let outcome = match self.hops(&want, &mut spool).await {
                Ok(()) => self.settle(spool, &[want]).map_err(Stop::from),
                Err(stop) => Err(stop),
            };
            if outcome.as_ref().is_err_and(Stop::is_final) {
                return outcome;
            }
            result = outcome.and(result);
        }
        result
    }

    /// Room for one try: what those before it have not used.
    fn spool(&self) -> Spool {
        Spool::new(self.spill, self.spill.limit.saturating_sub(self.done.bytes()))
    }

    /// Folds what came; shards that reach their proved slots move from open to done.
    fn settle(&mut self, mut spool: Spool, wants: &[Want]) -> Result<(), ChainError> {
        let mut settled = Vec::new();
        let mut result = Ok(());
        for want in wants {
            match spool.settle(self.pin, want)? {
                Some(tip) => settled.push((*want, tip)),
                None => result = Err(self.mismatch(want.shard)),
            }
        }
        if result.is_ok() && self.done.bytes() == 0 {
            self.done.replace(spool, &settled);
        } else {
            for (want, tip) in &settled {
                self.done.absorb(&mut spool, want, *tip)?;
            }
        }
        self.open.retain(|open| settled.iter().all(|(want, _)| want.shard != open.shard));
        result
    }

    async fn ranges(&self, from: u64, until: u64, requests: usize, spool: &mut Spool) -> Result<(), Stop> {
        let shards: Vec<u64> = self.open.iter().map(|want| want.shard).collect();
        let mut next = from;
        let mut size = until.saturating_sub(from).saturating_add(1);
        let (mut asked, mut deadlines, mut in_a_row) = (0usize, 0usize, 0usize);
        while next <= until {
            if asked >= requests {
                return Err(Stop::RanOut);
            }
            asked = asked.saturating_add(1);
            let end = next.saturating_add(size.saturating_sub(1)).min(until);
            match self.logs(next, end, &shards).await {
                Ok(logs) => {
                    for ((block, _), entry) in logs {
                        // A range that serves several shards begins before and ends after what one of them lacks.
                        let lacks = |want: &Want| want.shard == entry.shard && want.lacks(block);
                        if self.open.iter().any(lacks) {
                            spool.push(block, &entry)?;
                        }
                    }
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
        Ok(())
    }

    async fn hops(&self, want: &Want, spool: &mut Spool) -> Result<(), Stop> {
        let mut block = last_block(want.slot, want.until);
        for _ in 0..HOPS {
            let Some(number) = block.filter(|number| *number > want.after) else {
                spool.reverse(want.shard);
                return Ok(());
            };
            let logs = self.logs(number, number, &[want.shard]).await?;
            let first = logs.values().next().ok_or_else(|| self.mismatch(want.shard))?;
            let previous = Meta::unpack(first.meta).ok_or_else(|| self.mismatch(want.shard))?.prev_block;
            spool.push_before(want.shard, number, logs.values())?;
            let below = number.checked_sub(1);
            block = if previous == 0 { None } else { below.and_then(|below| block_with_low_bits(previous, below)) };
        }
        Err(Stop::RanOut)
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
    let spill = Spill::default();
    let mut spool = Spool::new(&spill, spill.limit);
    for ((block, _), entry) in &logs {
        spool.push(*block, entry).ok()?;
    }
    let tip = spool.settle(pin, want).ok()??;
    let mut done = Entries::new(pin, &spill);
    done.replace(spool, &[(*want, tip)]);
    Some(Verified { tip, entries: done.collect().ok()?.remove(&want.shard)? })
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
