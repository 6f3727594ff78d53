//! Writing to the ledger. One [`Sender`] per key: it keeps the account's nonces in order, estimates gas (a refusal of the contract
//! is found here, before anything is paid, and told in words), signs, sends, waits for the receipt with progress, sends again
//! with a higher fee when stuck, and says each hash *before* it is sent, so that an interrupted program can wait on.
//!
//! A receipt is one node's word. Who needs certainty looks the entry up in a verified [`Update`](crate::sync::Update).

use std::sync::atomic::{AtomicUsize, Ordering};

use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_sol_types::SolCall;
use countersign_registry::sign::{self, Write};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    contract::{IRegistry, explain},
    endpoints::{Endpoint, Endpoints},
    error::ChainError,
    keys::ActorKey,
    logs::RawLog,
    transaction::{Draft, Price, call_object, quote, with_margin},
};

pub use crate::progress::{Mined, Patience, Progress, Report};
pub use crate::transaction::FeeCaps;
pub use IRegistry::RootProof;
pub use countersign_registry::sign::RootSignature;

/// Polls in a row without a receipt, while the nonce counts as used, after which another transaction must have taken it.
const NONCE_TAKEN: usize = 5;
/// Tries to find a free nonce, where nodes lag behind each other.
const NONCE_TRIES: usize = 4;

/// Writes that an actor signed for anybody to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAppend {
    /// Who signed.
    pub actor: Address,
    /// Realm id.
    pub realm: B256,
    /// What is written.
    pub writes: Vec<Write>,
    /// The actor's nonce in the realm.
    pub nonce: U256,
    /// Last block time, Unix seconds.
    pub deadline: U256,
    /// Any form that the contract takes.
    pub signature: Bytes,
}

impl SignedAppend {
    /// The call that sends it: the one for its number of writes.
    #[must_use]
    pub fn call(&self) -> Bytes {
        let Self { actor, realm, writes, nonce, deadline, signature } = self.clone();
        if let [Write { shard, kind, data }] = writes.as_slice() {
            let (shard, kind, data) = (*shard, *kind, data.clone());
            let call = IRegistry::appendBySigCall { actor, realm, shard, kind, data, nonce, deadline, signature };
            return call.abi_encode().into();
        }
        let writes = abi_writes(&writes);
        IRegistry::appendManyBySigCall { actor, realm, writes, nonce, deadline, signature }.abi_encode().into()
    }
}

/// A key's way to write.
#[derive(Debug)]
pub struct Sender {
    endpoints: Endpoints,
    key: ActorKey,
    chain_id: u64,
    patience: Patience,
    caps: FeeCaps,
    nonces: Mutex<Nonces>,
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Nonces {
    /// Below this all are used, as receipts have shown.
    floor: u64,
    /// The next one, counting transactions that this sender is still waiting for.
    next: u64,
}

impl Sender {
    /// A sender for one account on one chain. Use one per account and process: two do not know of each other's nonces.
    #[must_use]
    pub fn new(endpoints: Endpoints, key: ActorKey, chain_id: u64, patience: Patience, caps: FeeCaps) -> Self {
        let nonces = Mutex::default();
        Self { endpoints, key, chain_id, patience, caps, nonces, waiting: AtomicUsize::new(0) }
    }

    /// The account.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.key.address()
    }

    /// The account's wei, as one node tells.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn balance(&self) -> Result<U256, ChainError> {
        let ask = |endpoint| balance(endpoint, self.key.address());
        self.endpoints.first("eth_getBalance", ask).await
    }

    /// Appends one entry as this account.
    ///
    /// # Errors
    /// `Reverted` with the contract's reason, `Funds`, `NotMined` with the hash to resume, or those of calls.
    pub async fn append(
        &self,
        contract: Address,
        realm: B256,
        write: &Write,
        report: Report<'_>,
    ) -> Result<Mined, ChainError> {
        let Write { shard, kind, data } = write.clone();
        let call = IRegistry::appendCall { realm, shard, kind, data };
        self.call(contract, U256::ZERO, call.abi_encode().into(), report).await
    }

    /// Appends several entries as this account, all or none.
    ///
    /// # Errors
    /// As [`Sender::append`].
    pub async fn append_many(
        &self,
        contract: Address,
        realm: B256,
        writes: &[Write],
        report: Report<'_>,
    ) -> Result<Mined, ChainError> {
        let call = IRegistry::appendManyCall { realm, writes: abi_writes(writes) };
        self.call(contract, U256::ZERO, call.abi_encode().into(), report).await
    }

    /// Sends what another actor signed.
    ///
    /// # Errors
    /// As [`Sender::append`].
    pub async fn append_by_sig(
        &self,
        contract: Address,
        signed: &SignedAppend,
        report: Report<'_>,
    ) -> Result<Mined, ChainError> {
        self.call(contract, U256::ZERO, signed.call(), report).await
    }

    /// Sends what a threshold of roots signed.
    ///
    /// # Errors
    /// As [`Sender::append`].
    pub async fn append_by_roots(
        &self,
        contract: Address,
        realm: B256,
        proof: RootProof,
        writes: &[Write],
        signatures: &[RootSignature],
        report: Report<'_>,
    ) -> Result<Mined, ChainError> {
        let too_long = || ChainError::Setting { what: "signature", detail: "expected at most 65,535 bytes".into() };
        let signatures = sign::pack_root_signatures(signatures).ok_or_else(too_long)?;
        // The contract reads the salt before the first write only; zeros cost least.
        let salt = if proof.nonce.is_zero() { proof.salt } else { B256::ZERO };
        let proof = RootProof { salt, ..proof };
        let call = IRegistry::appendByRootsCall { realm, proof, writes: abi_writes(writes), signatures };
        self.call(contract, U256::ZERO, call.abi_encode().into(), report).await
    }

    /// Makes a contract of these creation bytes, at the address that the account and its nonce give.
    ///
    /// # Errors
    /// As [`Sender::append`].
    pub async fn create(&self, creation: Bytes, report: Report<'_>) -> Result<(Address, Mined), ChainError> {
        let (mined, nonce) = self.transact(TxKind::Create, U256::ZERO, creation, report).await?;
        Ok((self.key.address().create(nonce), mined))
    }

    /// Calls another contract than the registry, or pays an account.
    pub(crate) async fn call(
        &self,
        to: Address,
        value: U256,
        input: Bytes,
        report: Report<'_>,
    ) -> Result<Mined, ChainError> {
        self.transact(TxKind::Call(to), value, input, report).await.map(|(mined, _)| mined)
    }

    /// Waits until no transaction of the account waits any more; the next nonce then. What an interrupted run has sent is in a block
    /// by then.
    ///
    /// # Errors
    /// `Unmined`, or those of calls.
    pub async fn settle(&self) -> Result<u64, ChainError> {
        let start = Instant::now();
        loop {
            let (mined, known) = (self.nonce("latest").await?, self.nonce("pending").await?);
            let waited = start.elapsed();
            match known.checked_sub(mined) {
                None | Some(0) => return Ok(mined),
                Some(count) if waited >= self.patience.give_up => {
                    return Err(ChainError::Unmined { account: self.key.address(), count, seconds: waited.as_secs() });
                }
                Some(_) => tokio::time::sleep(self.patience.poll).await,
            }
        }
    }

    /// Waits for a transaction that an earlier run has sent; does not replace it.
    ///
    /// # Errors
    /// `NotMined`, `Reverted`, or those of calls.
    pub async fn resume(&self, transaction: B256, report: Report<'_>) -> Result<Mined, ChainError> {
        let start = Instant::now();
        loop {
            if let Some(receipt) = self.receipt(transaction).await {
                return self.conclude(receipt, None, report).await;
            }
            let waited = start.elapsed();
            if waited >= self.patience.give_up {
                return Err(ChainError::NotMined { transaction, seconds: waited.as_secs() });
            }
            report(Progress::Waiting { transaction, seconds: waited.as_secs() });
            tokio::time::sleep(self.patience.poll).await;
        }
    }

    async fn transact(
        &self,
        to: TxKind,
        value: U256,
        input: Bytes,
        report: Report<'_>,
    ) -> Result<(Mined, u64), ChainError> {
        let gas = self.estimate(to, value, &input).await?;
        let price = self.price().await?;
        // One at a time up to here: the next nonce is known only when this one has been taken by a node.
        let mut nonces = self.nonces.lock().await;
        let (mut tries, mut above) = (0usize, 0u64);
        let (draft, sent) = loop {
            let nonce = self.next_nonce(&mut nonces).await?.max(above);
            let draft = Draft { chain_id: self.chain_id, nonce, gas, to, value, input: input.clone() };
            match self.first_send(&draft, price, report).await {
                Ok(sent) => break (draft, sent),
                Err(error)
                    if says(&error, &["nonce too low", "nonce is too low", "oldnonce"]) && tries < NONCE_TRIES =>
                {
                    tries = tries.saturating_add(1);
                    above = nonce.saturating_add(1);
                }
                Err(error) => return Err(self.name_funds(error, &draft, price).await),
            }
        };
        nonces.next = draft.nonce.saturating_add(1);
        drop(nonces);
        let guard = Waiting::new(&self.waiting);
        let mined = self.wait(&draft, price, sent, report).await?;
        drop(guard);
        let mut nonces = self.nonces.lock().await;
        nonces.floor = nonces.floor.max(draft.nonce.saturating_add(1));
        Ok((mined, draft.nonce))
    }

    pub(crate) async fn price(&self) -> Result<Price, ChainError> {
        quote(&self.endpoints, self.caps).await
    }

    /// Twice today's price, within what this account pays at all.
    pub(crate) async fn ceiling(&self) -> Result<FeeCaps, ChainError> {
        Ok(self.price().await?.ceiling(self.caps))
    }

    /// The same account with another ceiling.
    pub(crate) fn capped(&self, caps: FeeCaps) -> Self {
        Self::new(self.endpoints.clone(), self.key.clone(), self.chain_id, self.patience, caps)
    }

    pub(crate) const fn patience(&self) -> Patience {
        self.patience
    }

    pub(crate) async fn estimate(&self, to: TxKind, value: U256, input: &Bytes) -> Result<u64, ChainError> {
        let object = call_object(self.key.address(), to, value, input);
        let mut last = None;
        for endpoint in self.endpoints.by_preference() {
            match endpoint.call::<U256>("eth_estimateGas", json!([object])).await {
                Ok(estimate) => return Ok(with_margin(estimate)),
                Err(error) if is_revert(&error) => {
                    return Err(ChainError::Reverted { reason: reason(&error), transaction: None });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(self.endpoints.gave_up("eth_estimateGas", last))
    }

    async fn next_nonce(&self, nonces: &mut Nonces) -> Result<u64, ChainError> {
        let mut pending = self.nonce("pending").await?;
        // Below what is known to be used: a node that lags, which a moment cures, or a reorg, which gave nonces back. To stay
        // above would leave a gap that no block ever closes.
        for _ in 0..NONCE_TRIES {
            if pending >= nonces.floor {
                break;
            }
            tokio::time::sleep(self.patience.poll).await;
            pending = self.nonce("pending").await?;
        }
        nonces.floor = nonces.floor.min(pending);
        let own = if self.waiting.load(Ordering::SeqCst) > 0 { nonces.next } else { 0 };
        Ok(pending.max(own))
    }

    pub(crate) async fn nonce(&self, block: &'static str) -> Result<u64, ChainError> {
        let method = "eth_getTransactionCount";
        let address = self.key.address();
        let count: U256 =
            self.endpoints.first(method, |endpoint| endpoint.call(method, json!([address, block]))).await?;
        Ok(count.saturating_to())
    }

    async fn first_send(&self, draft: &Draft, price: Price, report: Report<'_>) -> Result<B256, ChainError> {
        let (transaction, raw) = draft.sign(price, &self.key)?;
        report(Progress::Sending { transaction, nonce: draft.nonce, cost: draft.cost(price) });
        let mut last = None;
        for endpoint in self.endpoints.by_preference() {
            match send(endpoint, &raw).await {
                Ok(()) => {
                    report(Progress::Sent { transaction });
                    return Ok(transaction);
                }
                Err(error) => last = Some(error),
            }
        }
        let error = self.endpoints.gave_up("eth_sendRawTransaction", last);
        // A node may have taken it and its answer got lost: look before another nonce is tried.
        if self.is_known(transaction).await {
            report(Progress::Sent { transaction });
            return Ok(transaction);
        }
        Err(error)
    }

    async fn is_known(&self, transaction: B256) -> bool {
        let method = "eth_getTransactionByHash";
        for endpoint in self.endpoints.iter() {
            if endpoint
                .call::<serde_json::Value>(method, json!([transaction]))
                .await
                .is_ok_and(|found| !found.is_null())
            {
                return true;
            }
        }
        false
    }

    async fn wait(&self, draft: &Draft, mut price: Price, sent: B256, report: Report<'_>) -> Result<Mined, ChainError> {
        let (start, mut since) = (Instant::now(), Instant::now());
        let mut hashes = vec![sent];
        let mut newest = sent;
        let mut taken = 0usize;
        loop {
            for hash in &hashes {
                if let Some(receipt) = self.receipt(*hash).await {
                    return self.conclude(receipt, Some(draft), report).await;
                }
            }
            // Only a node that is ahead of those with the receipt says so; it takes several looks to be sure.
            let used = self.nonce("latest").await.is_ok_and(|next| next > draft.nonce);
            taken = if used { taken.saturating_add(1) } else { 0 };
            if taken >= NONCE_TAKEN {
                return Err(ChainError::NonceTaken { account: self.key.address(), nonce: draft.nonce });
            }
            let waited = start.elapsed();
            if waited >= self.patience.give_up {
                return Err(ChainError::NotMined { transaction: newest, seconds: waited.as_secs() });
            }
            if since.elapsed() >= self.patience.stuck {
                since = Instant::now();
                if let Some((hash, higher)) = self.replace(draft, price, newest, report).await? {
                    price = higher;
                    newest = hash;
                    hashes.push(hash);
                }
            }
            report(Progress::Waiting { transaction: newest, seconds: waited.as_secs() });
            tokio::time::sleep(self.patience.poll).await;
        }
    }

    /// Sends again to every node, with a higher price if the caps allow one. `None`: only repeated.
    async fn replace(
        &self,
        draft: &Draft,
        price: Price,
        old: B256,
        report: Report<'_>,
    ) -> Result<Option<(B256, Price)>, ChainError> {
        let quoted = self.price().await.unwrap_or(price);
        let higher = price.bumped(quoted, self.caps);
        let (new, raw) = draft.sign(higher, &self.key)?;
        if new != old {
            report(Progress::Sending { transaction: new, nonce: draft.nonce, cost: draft.cost(higher) });
        }
        let mut accepted = false;
        for endpoint in self.endpoints.iter() {
            // A refusal changes nothing: the earlier transaction still waits, or its receipt is about to be seen.
            match send(endpoint, &raw).await {
                Ok(()) => accepted = true,
                Err(error) => tracing::debug!(%error, "replacement declined"),
            }
        }
        if !accepted || new == old {
            return Ok(None);
        }
        report(Progress::Replaced { old, new });
        Ok(Some((new, higher)))
    }

    /// The receipt, from the first node that has it. Nodes that fail are as good as nodes that have none: what was sent is
    /// not undone by their failing, so the wait goes on.
    async fn receipt(&self, transaction: B256) -> Option<Receipt> {
        let method = "eth_getTransactionReceipt";
        for endpoint in self.endpoints.by_preference() {
            match endpoint.call::<Option<Receipt>>(method, json!([transaction])).await {
                Ok(receipt) => match receipt.filter(|receipt| receipt.transaction_hash == transaction) {
                    Some(receipt) => return Some(receipt),
                    None => continue,
                },
                Err(error) => tracing::debug!(%error, "no receipt"),
            }
        }
        None
    }

    async fn conclude(&self, receipt: Receipt, draft: Option<&Draft>, report: Report<'_>) -> Result<Mined, ChainError> {
        let transaction = receipt.transaction_hash;
        let block: u64 = receipt.block_number.saturating_to();
        report(Progress::Mined { transaction, block });
        if receipt.status != Some(U256::ONE) {
            let reason = match draft {
                Some(draft) => self.why(draft, block).await,
                None => "the transaction reverted".into(),
            };
            return Err(ChainError::Reverted { reason, transaction: Some(transaction) });
        }
        let entries = receipt.logs.into_iter().filter_map(RawLog::unchecked).collect();
        Ok(Mined { transaction, block, gas_used: receipt.gas_used.saturating_to(), entries })
    }

    /// Runs a mined, failed call again on the state before its block, to hear the reason.
    async fn why(&self, draft: &Draft, block: u64) -> String {
        let object = call_object(self.key.address(), draft.to, draft.value, &draft.input);
        let before = format!("{:#x}", block.saturating_sub(1));
        for endpoint in self.endpoints.by_preference() {
            match endpoint.call::<Bytes>("eth_call", json!([object, before])).await {
                Err(error) if is_revert(&error) => return reason(&error),
                _ => {}
            }
        }
        "the transaction reverted, and no longer does when run on the block before: an entry came in between".into()
    }

    /// Nodes word a lack of funds differently; the balance says it plainly.
    async fn name_funds(&self, error: ChainError, draft: &Draft, price: Price) -> ChainError {
        let needed = draft.cost(price);
        match self.balance().await {
            Ok(balance) if balance < needed => ChainError::Funds { account: self.key.address(), balance, needed },
            _ => error,
        }
    }
}

/// Counts transactions that are waited for, also when the wait is cancelled.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    transaction_hash: B256,
    block_number: U256,
    gas_used: U256,
    status: Option<U256>,
    #[serde(default)]
    logs: Vec<RawLog>,
}

pub(crate) async fn balance(endpoint: &Endpoint, address: Address) -> Result<U256, ChainError> {
    endpoint.call("eth_getBalance", json!([address, "latest"])).await
}

pub(crate) async fn send(endpoint: &Endpoint, raw: &Bytes) -> Result<(), ChainError> {
    match endpoint.call::<B256>("eth_sendRawTransaction", json!([raw])).await {
        Ok(_) => Ok(()),
        Err(error) if says(&error, &["already known", "known transaction", "already imported", "alreadyknown"]) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn says(error: &ChainError, words: &[&str]) -> bool {
    match error {
        ChainError::Rpc { message, .. } => {
            let message = message.to_ascii_lowercase();
            words.iter().any(|word| message.contains(word))
        }
        ChainError::NoEndpoint { last, .. } => says(last, words),
        _ => false,
    }
}

/// Code 3 is what most nodes use; all of them say the word.
fn is_revert(error: &ChainError) -> bool {
    matches!(error, ChainError::Rpc { code: 3, .. })
        || matches!(error, ChainError::Rpc { data: Some(data), .. } if !data.is_empty())
        || says(error, &["revert"])
}

fn reason(error: &ChainError) -> String {
    match error {
        ChainError::Rpc { data, .. } => explain(data.as_ref()),
        other => other.to_string(),
    }
}

fn abi_writes(writes: &[Write]) -> Vec<IRegistry::Write> {
    writes
        .iter()
        .map(|write| IRegistry::Write { shard: write.shard, kind: write.kind, data: write.data.clone() })
        .collect()
}
