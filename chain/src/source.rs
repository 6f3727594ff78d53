//! Headers to trust. `dev` believes the first node that answers, on development chains only; `quorum` believes what k of n nodes
//! say about the hash of a block. Every header is re-hashed by the chain's own rule, every node is asked for chain id and
//! genesis hash, and time never runs backwards. Fewer than k lying nodes can withhold progress; they cannot make a header.
//!
//! There is no fallback: neither from *final* to *latest* nor from k to k − 1.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use alloy_primitives::B256;
use countersign_registry::{header, pin::RealmPin};
use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    endpoints::{Endpoint, Endpoints},
    error::ChainError,
    profile::{ChainProfile, Finality},
    realm_file::HeaderTrust,
};

/// How long the slower nodes are waited for once k of them have answered.
const GRACE: Duration = Duration::from_millis(1500);
/// How many blocks below the best candidate k nodes may still come to agree on: a reorg at the tip, or one slow node.
const STEPS_DOWN: u64 = 8;

/// The mix hash of IBFT 2.0 and QBFT.
const BFT_MIX_HASH: &str = "0x63746963616c2062797a616e74696e65206661756c7420746f6c6572616e6365";
/// What nodes of Arbitrum and its kin add to every block.
const PARENT_CHAINS_NUMBER: &str = "l1BlockNumber";

/// A header whose hash was recomputed and whose source is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct TrustedHeader {
    /// Block number.
    pub number: u64,
    /// The block's hash.
    pub hash: B256,
    /// Hash of the block before.
    pub parent_hash: B256,
    /// What account proofs lead from.
    pub state_root: B256,
    /// Block time, Unix seconds.
    pub time: u64,
}

/// The two headers of one look at the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// The chain profile's final block.
    pub final_header: TrustedHeader,
    /// The tip, or the highest block that enough nodes know.
    pub latest: TrustedHeader,
}

/// Where trusted headers come from.
#[derive(Debug)]
pub struct HeaderSource {
    endpoints: Endpoints,
    profile: ChainProfile,
    chain_id: u64,
    genesis_hash: B256,
    trust: HeaderTrust,
    /// By endpoint: whether it showed chain id and genesis since it last failed.
    identified: Vec<AtomicBool>,
}

#[derive(Clone, Copy)]
enum Block {
    Latest,
    Finalized,
    Number(u64),
}

impl Block {
    fn parameter(self) -> Value {
        match self {
            Self::Latest => json!("latest"),
            Self::Finalized => json!("finalized"),
            Self::Number(number) => json!(format!("{number:#x}")),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Latest => "latest".into(),
            Self::Finalized => "finalized".into(),
            Self::Number(number) => number.to_string(),
        }
    }
}

impl HeaderSource {
    /// A source for the realm's chain.
    #[must_use]
    pub fn new(endpoints: Endpoints, profile: ChainProfile, pin: &RealmPin, trust: HeaderTrust) -> Self {
        Self::of_chain(endpoints, profile, pin.chain_id, pin.genesis_hash, trust)
    }

    /// A source for a chain that no realm file describes yet.
    #[must_use]
    pub fn of_chain(
        endpoints: Endpoints,
        profile: ChainProfile,
        chain_id: u64,
        genesis_hash: B256,
        trust: HeaderTrust,
    ) -> Self {
        let identified = endpoints.iter().map(|_| AtomicBool::new(false)).collect();
        Self { endpoints, profile, chain_id, genesis_hash, trust, identified }
    }

    /// Final and latest header of now.
    ///
    /// # Errors
    /// `NoQuorum` or `NoEndpoint` when too few nodes give an answer that stands; `WentBack` when final is above latest.
    pub async fn heads(&self) -> Result<Heads, ChainError> {
        let (latest, final_header) = match self.profile.finality {
            Finality::Finalized => futures::try_join!(self.newest(Block::Latest), self.newest(Block::Finalized))?,
            Finality::Depth(depth) => {
                let latest = self.newest(Block::Latest).await?;
                (latest, self.at(latest.number.saturating_sub(depth)).await?)
            }
        };
        if final_header.number > latest.number {
            // Two calls, two moments: the final block moved past the tip seen a moment before. Final is sure, take it for both.
            return Ok(Heads { final_header, latest: final_header });
        }
        if final_header.time > latest.time {
            return Err(ChainError::WentBack {
                what: "time of the latest block",
                expected: format!("at least {} (block {})", final_header.time, final_header.number),
                got: format!("{} (block {})", latest.time, latest.number),
            });
        }
        if final_header.number == latest.number && final_header.hash != latest.hash {
            return Err(ChainError::WentBack {
                what: "latest block",
                expected: format!("final block {}", final_header.hash),
                got: latest.hash.to_string(),
            });
        }
        Ok(Heads { final_header, latest })
    }

    /// The latest header alone, on a chain that may have no final block yet.
    ///
    /// # Errors
    /// As [`HeaderSource::heads`].
    pub async fn latest(&self) -> Result<TrustedHeader, ChainError> {
        self.newest(Block::Latest).await
    }

    /// The header of the block with this number, as trusted as the newest is.
    ///
    /// # Errors
    /// As [`HeaderSource::heads`].
    pub async fn at(&self, number: u64) -> Result<TrustedHeader, ChainError> {
        match self.trust {
            HeaderTrust::Dev => self.single(Block::Number(number)).await,
            HeaderTrust::Quorum(needed) => {
                let seen = self.ask_all(Block::Number(number), needed).await;
                agreed(&seen.headers, number, needed).ok_or_else(|| seen.no_quorum(needed, self.endpoints.count()))
            }
        }
    }

    async fn newest(&self, block: Block) -> Result<TrustedHeader, ChainError> {
        match self.trust {
            HeaderTrust::Dev => self.single(block).await,
            HeaderTrust::Quorum(needed) => self.newest_agreed(block, needed).await,
        }
    }

    async fn single(&self, block: Block) -> Result<TrustedHeader, ChainError> {
        self.endpoints.first("eth_getBlockByNumber", |endpoint| self.ask(endpoint, block)).await
    }

    /// The highest block that `needed` nodes agree on. Nodes lag behind each other, so the k-th highest tip is the highest
    /// that k nodes can know; with fewer than k liars it is not above the best honest tip. From there downwards.
    async fn newest_agreed(&self, block: Block, needed: usize) -> Result<TrustedHeader, ChainError> {
        let seen = self.ask_all(block, needed).await;
        let asked = self.endpoints.count();
        let mut tips: Vec<u64> = seen.headers.iter().map(|(_, header)| header.number).collect();
        tips.sort_unstable_by(|one, other| other.cmp(one));
        let Some(best) = needed.checked_sub(1).and_then(|index| tips.get(index)).copied() else {
            return Err(seen.no_quorum(needed, asked));
        };
        if let Some(header) = agreed(&seen.headers, best, needed) {
            return Ok(header);
        }
        let lower_tips = tips.iter().copied().filter(|tip| *tip < best);
        let candidates: BTreeSet<u64> = (best.saturating_sub(STEPS_DOWN)..=best).chain(lower_tips).collect();
        let mut last = seen;
        for number in candidates.into_iter().rev() {
            last = self.ask_all(Block::Number(number), needed).await;
            if let Some(header) = agreed(&last.headers, number, needed) {
                return Ok(header);
            }
        }
        Err(last.no_quorum(needed, asked))
    }

    /// Asks everybody at once. Once `needed` have answered, the rest get [`GRACE`]: a silent node costs no more than that.
    async fn ask_all(&self, block: Block, needed: usize) -> Seen {
        let mut calls: FuturesUnordered<_> = self
            .endpoints
            .iter()
            .map(|endpoint| async move { (endpoint.index(), self.ask(endpoint, block).await) })
            .collect();
        let mut seen = Seen { what: block.name(), headers: Vec::new(), reasons: Vec::new() };
        let grace = tokio::time::sleep(GRACE);
        tokio::pin!(grace);
        loop {
            let enough = seen.headers.len() >= needed;
            tokio::select! {
                biased;
                next = calls.next() => match next {
                    None => return seen,
                    Some((index, Ok(header))) => {
                        seen.headers.push((index, header));
                        if seen.headers.len() == needed {
                            grace.set(tokio::time::sleep(GRACE));
                        }
                    }
                    Some((_, Err(error))) => seen.reasons.push(error.to_string()),
                },
                () = &mut grace, if enough => return seen,
            }
        }
    }

    async fn ask(&self, endpoint: &Endpoint, block: Block) -> Result<TrustedHeader, ChainError> {
        let known = self.identified.get(endpoint.index());
        let result = async {
            // On a development chain a node is easily replaced by one with another beginning: look each time.
            if self.trust == HeaderTrust::Dev || !known.is_some_and(|known| known.load(Ordering::Relaxed)) {
                self.identify(endpoint).await?;
            }
            fetch(endpoint, block).await
        }
        .await;
        if let Some(known) = known {
            known.store(result.is_ok(), Ordering::Relaxed);
        }
        result
    }

    async fn identify(&self, endpoint: &Endpoint) -> Result<(), ChainError> {
        let got = chain_id(endpoint).await?;
        if got != self.chain_id {
            return Err(ChainError::WrongChain { endpoint: endpoint.name().into(), got, expected: self.chain_id });
        }
        let genesis = fetch(endpoint, Block::Number(0)).await?;
        if genesis.hash != self.genesis_hash {
            return Err(ChainError::WrongGenesis {
                endpoint: endpoint.name().into(),
                got: genesis.hash,
                expected: self.genesis_hash,
            });
        }
        Ok(())
    }
}

struct Seen {
    what: String,
    headers: Vec<(usize, TrustedHeader)>,
    reasons: Vec<String>,
}

impl Seen {
    fn no_quorum(self, needed: usize, asked: usize) -> ChainError {
        let mut votes: BTreeMap<B256, usize> = BTreeMap::new();
        for (_, header) in &self.headers {
            let vote = votes.entry(header.hash).or_default();
            *vote = vote.saturating_add(1);
        }
        let agreed = votes.values().copied().max().unwrap_or_default();
        ChainError::NoQuorum { what: self.what, agreed, asked, needed, reasons: self.reasons }
    }
}

/// The header at `number` that `needed` different endpoints gave, if there is one.
fn agreed(headers: &[(usize, TrustedHeader)], number: u64, needed: usize) -> Option<TrustedHeader> {
    let at_number = || headers.iter().filter(|(_, header)| header.number == number);
    at_number().map(|(_, header)| *header).find(|candidate| {
        let voices: BTreeSet<usize> =
            at_number().filter(|(_, header)| header == candidate).map(|(index, _)| *index).collect();
        voices.len() >= needed
    })
}

/// The chain id a node says it serves.
///
/// # Errors
/// Those of a call.
pub async fn chain_id(endpoint: &Endpoint) -> Result<u64, ChainError> {
    let text: String = endpoint.call("eth_chainId", json!([])).await?;
    text.strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| endpoint.malformed("eth_chainId", format!("expected a number, got {text}")))
}

/// One node's genesis hash, recomputed from the header; for making a new pin, where there is nothing yet to compare with.
///
/// # Errors
/// Those of a call, and `Header`.
pub async fn genesis_hash(endpoint: &Endpoint) -> Result<B256, ChainError> {
    Ok(fetch(endpoint, Block::Number(0)).await?.hash)
}

async fn fetch(endpoint: &Endpoint, block: Block) -> Result<TrustedHeader, ChainError> {
    let method = "eth_getBlockByNumber";
    let refuse = |detail: String| ChainError::Header { endpoint: endpoint.name().into(), block: block.name(), detail };
    let answer: Option<Box<RawValue>> = endpoint.call(method, json!([block.parameter(), false])).await?;
    let Some(answer) = answer else { return Err(refuse("the node has no such block".into())) };
    let json = scalars(&answer).map_err(|error| refuse(format!("expected a block: {error}")))?;
    if json.get(PARENT_CHAINS_NUMBER).is_some() {
        return Err(refuse(format!(
            "{PARENT_CHAINS_NUMBER} beside the header: contracts on chains like Arbitrum see the parent chain's block number, \
             and not the one that logs carry; such chains are refused"
        )));
    }
    let hashed = header::from_json(&json).map_err(|error| {
        let sealed = json.get("mixHash").and_then(Value::as_str) == Some(BFT_MIX_HASH);
        let why = if sealed {
            "; chains of IBFT 2.0 and QBFT leave seals out of their hashes, and cannot be used"
        } else {
            ""
        };
        refuse(format!("{error}{why}"))
    })?;
    let verified = TrustedHeader {
        number: hashed.block().number,
        hash: hashed.hash(),
        parent_hash: hashed.header().parent_hash,
        state_root: hashed.state_root(),
        time: hashed.block().time,
    };
    if matches!(block, Block::Number(number) if number != verified.number) {
        return Err(refuse(format!("the node sent block {}", verified.number)));
    }
    Ok(verified)
}

/// A block's members without what is in its lists: those are beside the header, and as long as the node likes. A list or object
/// leaves `true` behind, which is no header field's value.
fn scalars(answer: &RawValue) -> Result<Value, serde_json::Error> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(answer.get())?;
    let mut scalars = Map::new();
    for (name, value) in members {
        let nested = value.get().starts_with(['[', '{']);
        scalars.insert(name, if nested { Value::Bool(true) } else { serde_json::from_str(value.get())? });
    }
    Ok(Value::Object(scalars))
}
