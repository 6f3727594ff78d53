//! Puts the registry contract on a chain, once for everybody. Through the factory that stands on nearly every chain, its address
//! follows from its creation code and a fixed salt: whoever deploys it, on whichever chain, it is the same code at the same address,
//! and who comes second finds it there. Where the factory is missing it is placed by its well-known presigned transaction, if the
//! chain takes such; else the contract is made by the account itself, at an address of its own.
//!
//! A node's word that a contract is there, or is not, is never believed: the account is proved under a header that the source
//! trusts, with its code hash, and other code than the artefact's is an error.

use std::time::Duration;

use alloy_consensus::{EMPTY_ROOT_HASH, SignableTransaction, TxEnvelope, TxLegacy};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{
    Address, B256, Bytes, KECCAK256_EMPTY, TxKind, U256, address, b256, bytes, keccak256, utils::format_units,
};
use alloy_sol_types::{SolCall, sol};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    contract::Artifact,
    endpoints::Endpoints,
    error::ChainError,
    keys::ActorKey,
    profile::FeeModel,
    proofs,
    send::{self, FeeCaps, Mined, Patience, Report, Sender},
    source::{HeaderSource, TrustedHeader},
    transaction::GWEI,
};

/// The deterministic deployment proxy: what it is called with, a salt and creation code, becomes a contract by CREATE2.
pub const FACTORY: Address = address!("4e59b44847b379578588920cA78FbF26c0B4956C");
/// keccak256("countersign.registry.v1").
pub const SALT: B256 = b256!("ef8655ae812d6d98b98fe27b91a3d68b059631711087b3c31aa44c69cb43f2d0");

/// keccak256 of the factory's 69 bytes.
const FACTORY_CODE_HASH: B256 = b256!("2fa86add0aed31f33a762c9d88e807c475bd51d0f52bd0955754b2608f7e4989");
/// Who makes the factory: an account without a key, whose one transaction everybody knows.
const FACTORY_PAYER: Address = address!("3fab184622dc19b6109349b94811493bf2a45362");
/// That transaction: 100,000 gas at 100 gwei, for any chain.
static FACTORY_TRANSACTION: Bytes = bytes!(
    "f8a58085174876e800830186a08080b853604580600e600039806000f350fe7fffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf31ba022222222222222222222222222222222"
    "22222222222222222222222222222222a02222222222222222222222222222222222222222222222222222222222222222"
);
const FACTORY_GAS: u64 = 100_000;
const FACTORY_GAS_PRICE: u128 = 100 * GWEI;

/// Gas of a payment, with margin.
const PAYMENT_GAS: u64 = 50_200;
/// What the factory costs on top of the same creation by the account itself.
const THROUGH_FACTORY_GAS: u64 = 60_000;
/// How many of an account's last nonces are looked at for a contract of an earlier run.
const EARLIER_NONCES: u64 = 64;
/// On the OP stack: what publishing costs.
const GAS_PRICE_ORACLE: Address = address!("420000000000000000000000000000000000000F");

sol! {
    function getL1FeeUpperBound(uint256 unsignedTxSize) external view returns (uint256);
}

/// How the contract is deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the factory, which is there.
    Factory,
    /// Through the factory, which is placed first.
    PlaceFactory {
        /// Wei that its payer lacks for that.
        missing: U256,
    },
    /// By the account, at an address of its own.
    Plain {
        /// Why not through the factory.
        reason: String,
    },
}

/// What a deployment will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Who pays.
    pub account: Address,
    /// What it holds, in wei.
    pub balance: U256,
    /// Where the contract will be.
    pub contract: Address,
    /// How.
    pub way: Way,
    /// At most so much gas, all transactions together.
    pub gas: u64,
    /// At most so many wei, all transactions together: what is sent never offers more than `caps`.
    pub fee: U256,
    /// Twice the price of the day.
    pub caps: FeeCaps,
}

impl Plan {
    /// Why this is not what was asked for: it leads to an address of the account's own, which others do not look at, because nodes say
    /// that there can be no factory. Nobody's word but the user's is enough for that.
    #[must_use]
    pub fn unasked(&self, plain: bool) -> Option<String> {
        match &self.way {
            Way::Plain { reason } if !plain => Some(format!(
                "it would not be at the address that all share ({reason}); an address of the account's own has to be asked for"
            )),
            Way::Plain { .. } | Way::Factory | Way::PlaceFactory { .. } => None,
        }
    }
}

/// The contract, proved to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proved {
    /// Its address.
    pub contract: Address,
    /// Its code's hash: the artefact's.
    pub code_hash: B256,
    /// The block under whose header it was proved.
    pub block: u64,
    /// That block's hash.
    pub block_hash: B256,
}

/// A deployment that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The contract.
    pub proved: Proved,
    /// The transaction that made it; `None` where somebody else was faster.
    pub mined: Option<Mined>,
}

impl Deployed {
    /// A block that has the contract: the transaction's, else the one under which it was proved.
    #[must_use]
    pub fn block(&self) -> u64 {
        self.mined.as_ref().map_or(self.proved.block, |mined| mined.block)
    }
}

/// The place for a contract: a chain, seen through a header source.
#[derive(Debug)]
pub struct Deployment {
    endpoints: Endpoints,
    source: HeaderSource,
    fees: FeeModel,
    artifact: Artifact,
}

/// Where the factory puts the artefact's contract, on every chain.
#[must_use]
pub fn address_by_factory(artifact: &Artifact) -> Address {
    FACTORY.create2(SALT, keccak256(&artifact.bytecode))
}

impl Deployment {
    /// Prepares; connects to nobody yet.
    #[must_use]
    pub const fn new(endpoints: Endpoints, source: HeaderSource, fees: FeeModel, artifact: Artifact) -> Self {
        Self { endpoints, source, fees, artifact }
    }

    /// Proves that the contract at an address is the artefact's.
    ///
    /// # Errors
    /// `CodeHash` if it is other code or none, `Proof` if nothing is proved, or those of the source.
    pub async fn at(&self, contract: Address) -> Result<Proved, ChainError> {
        let header = self.source.latest().await?;
        self.proved(contract, &header).await?.ok_or(ChainError::CodeHash {
            address: contract,
            got: KECCAK256_EMPTY,
            expected: self.artifact.code_hash,
        })
    }

    /// The contract, if it is at the factory's address, or if the account has made it itself, as an earlier run did where there was
    /// no factory.
    ///
    /// # Errors
    /// As [`Deployment::at`].
    pub async fn find(&self, account: Option<Address>, plain: bool) -> Result<Option<Proved>, ChainError> {
        let header = self.source.latest().await?;
        if let Some(found) = self.proved(address_by_factory(&self.artifact), &header).await? {
            return Ok(Some(found));
        }
        match account {
            Some(account) if plain || !self.has_factory(&header).await? => self.find_plain(account, &header).await,
            _ => Ok(None),
        }
    }

    /// Looks again at what was proved under a block of which only the number is known to be final: a reorg may have put another in its
    /// place. Ordinary nodes prove nothing under a rollup's final block, and need not where it is still the same one.
    ///
    /// # Errors
    /// `Deployment` if the chain went on without the contract, or as [`Deployment::at`].
    pub async fn confirm(&self, proved: &Proved) -> Result<Proved, ChainError> {
        let Proved { contract, block, block_hash, .. } = *proved;
        let header = self.source.at(block).await?;
        if header.hash == block_hash {
            return Ok(*proved);
        }
        let undone = || ChainError::Deployment {
            contract,
            detail: format!("block {block} is another one since a reorg, and does not have it: deploy again"),
        };
        self.proved(contract, &header).await?.ok_or_else(undone)
    }

    /// What deploying would take.
    ///
    /// # Errors
    /// `Funds` if the account cannot pay for it, `Deployment` if the chain refuses the code, or those of calls.
    pub async fn plan(&self, sender: &Sender, plain: bool) -> Result<Plan, ChainError> {
        let account = sender.address();
        let header = self.source.latest().await?;
        let caps = sender.ceiling().await?;
        let way = if plain {
            Way::Plain { reason: "asked for".into() }
        } else if self.has_factory(&header).await? {
            Way::Factory
        } else {
            self.without_factory(caps.fee / 4, &header).await?
        };
        let contract = match way {
            Way::Plain { .. } => account.create(sender.nonce("pending").await?),
            Way::Factory | Way::PlaceFactory { .. } => address_by_factory(&self.artifact),
        };
        let refused = |error| self.refused(contract, error);
        let creation = self.artifact.bytecode.clone();
        let (gas, mut fee) = match &way {
            Way::Factory => {
                let call = self.factory_call();
                (sender.estimate(TxKind::Call(FACTORY), U256::ZERO, &call).await.map_err(refused)?, U256::ZERO)
            }
            Way::PlaceFactory { missing } => {
                let gas = sender.estimate(TxKind::Create, U256::ZERO, &creation).await.map_err(refused)?;
                (gas.saturating_add(THROUGH_FACTORY_GAS).saturating_add(PAYMENT_GAS), *missing)
            }
            Way::Plain { .. } => {
                (sender.estimate(TxKind::Create, U256::ZERO, &creation).await.map_err(refused)?, U256::ZERO)
            }
        };
        fee = fee.saturating_add(U256::from(gas).saturating_mul(U256::from(caps.fee)));
        if self.fees == FeeModel::GasAndData {
            fee = fee.saturating_add(self.data_fee().await?);
        }
        let balance = sender.balance().await?;
        if balance < fee {
            return Err(ChainError::Funds { account, balance, needed: fee });
        }
        Ok(Plan { account, balance, contract, way, gas, fee, caps })
    }

    /// Deploys as planned, and proves that the contract is there. Who finds that another has deployed it meanwhile is content: it is
    /// the same code at the same address.
    ///
    /// # Errors
    /// `Deployment` with what happened, `CodeHash`, or as [`Sender::append`].
    pub async fn carry_out(&self, sender: &Sender, plan: &Plan, report: Report<'_>) -> Result<Deployed, ChainError> {
        let sender = &sender.capped(plan.caps);
        let sent = match &plan.way {
            Way::Plain { .. } => {
                let (contract, mined) = sender
                    .create(self.artifact.bytecode.clone(), report)
                    .await
                    .map_err(|error| self.refused(plan.contract, error))?;
                let proved = self.await_contract(contract, mined.block, sender.patience()).await?;
                return Ok(Deployed { proved, mined: Some(mined) });
            }
            Way::PlaceFactory { missing } => {
                self.place_factory(sender, plan.contract, *missing, report).await?;
                sender.call(FACTORY, U256::ZERO, self.factory_call(), report).await
            }
            Way::Factory => sender.call(FACTORY, U256::ZERO, self.factory_call(), report).await,
        };
        match sent {
            Ok(mined) => {
                let proved = self.await_contract(plan.contract, mined.block, sender.patience()).await?;
                Ok(Deployed { proved, mined: Some(mined) })
            }
            // Nodes know that another was faster before trusted headers show it.
            Err(error @ ChainError::Reverted { .. }) => {
                match self.shown(plan.contract, 0, sender.patience(), sender.patience().stuck).await? {
                    Some(proved) => Ok(Deployed { proved, mined: None }),
                    None => Err(self.refused(plan.contract, error)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Finds the contract or deploys it, without asking anybody. Whether there can be a factory is what nodes say: an address of the
    /// account's own is taken only if `plain` asks for it.
    ///
    /// # Errors
    /// `Deployment` where it would go to another address than asked for, or as [`Deployment::plan`] and [`Deployment::carry_out`].
    pub async fn ensure(&self, sender: &Sender, plain: bool) -> Result<Deployed, ChainError> {
        sender.settle().await?;
        if let Some(proved) = self.find(Some(sender.address()), plain).await? {
            return Ok(Deployed { proved, mined: None });
        }
        let plan = self.plan(sender, plain).await?;
        if let Some(detail) = plan.unasked(plain) {
            return Err(ChainError::Deployment { contract: plan.contract, detail });
        }
        self.carry_out(sender, &plan, &mut |_| ()).await
    }

    fn factory_call(&self) -> Bytes {
        [SALT.as_slice(), &self.artifact.bytecode].concat().into()
    }

    fn refused(&self, contract: Address, error: ChainError) -> ChainError {
        match error {
            ChainError::Reverted { reason, transaction } => {
                let mined = transaction.map(|hash| format!(" in transaction {hash}")).unwrap_or_default();
                let detail = format!("the chain refuses the creation code{mined}: {reason}");
                ChainError::Deployment { contract, detail }
            }
            other => other,
        }
    }

    /// `None`: no code there.
    async fn proved(&self, contract: Address, header: &TrustedHeader) -> Result<Option<Proved>, ChainError> {
        if header.state_root == EMPTY_ROOT_HASH {
            let number = header.number;
            let detail =
                format!("block {number} shows no state, under which nothing can be proved: the chain needs a block");
            return Err(ChainError::Deployment { contract, detail });
        }
        let expected = self.artifact.code_hash;
        match proofs::code_hash(&self.endpoints, contract, header).await? {
            None => Ok(None),
            Some(code_hash) if code_hash == expected => {
                Ok(Some(Proved { contract, code_hash, block: header.number, block_hash: header.hash }))
            }
            Some(got) => Err(ChainError::CodeHash { address: contract, got, expected }),
        }
    }

    async fn has_factory(&self, header: &TrustedHeader) -> Result<bool, ChainError> {
        Ok(proofs::code_hash(&self.endpoints, FACTORY, header).await? == Some(FACTORY_CODE_HASH))
    }

    /// A node's word is only a hint where to look for a proof.
    async fn find_plain(&self, account: Address, header: &TrustedHeader) -> Result<Option<Proved>, ChainError> {
        let method = "eth_getTransactionCount";
        let next: U256 =
            self.endpoints.first(method, |endpoint| endpoint.call(method, json!([account, "latest"]))).await?;
        let next: u64 = next.saturating_to();
        let candidates = (next.saturating_sub(EARLIER_NONCES)..next).map(|nonce| account.create(nonce));
        let hints = candidates.map(|contract| async move {
            let ask = |endpoint: &'_ crate::endpoints::Endpoint| {
                let endpoint = endpoint.clone();
                async move { endpoint.call::<Bytes>("eth_getCode", json!([contract, "latest"])).await }
            };
            let code = self.endpoints.first("eth_getCode", ask).await?;
            Ok::<_, ChainError>((contract, keccak256(code)))
        });
        for (contract, code_hash) in futures::future::try_join_all(hints).await? {
            if code_hash == self.artifact.code_hash
                && let Some(found) = self.proved(contract, header).await?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Whether the factory can be placed here, found out without sending anything that could ever be mined.
    async fn without_factory(&self, gas_price: u128, header: &TrustedHeader) -> Result<Way, ChainError> {
        let plain = |reason: &str| Ok(Way::Plain { reason: format!("no factory, and none can be placed: {reason}") });
        if gas_price > FACTORY_GAS_PRICE {
            return plain("its transaction offers 100 gwei, which is too little here now");
        }
        if !proofs::nonce(&self.endpoints, FACTORY_PAYER, header).await?.is_zero() {
            return plain("its transaction was used up in vain");
        }
        if let Some(reason) = self.declines_unprotected().await? {
            return plain(&reason);
        }
        Ok(Way::PlaceFactory { missing: self.missing_for_factory().await? })
    }

    async fn missing_for_factory(&self) -> Result<U256, ChainError> {
        let needed = U256::from(FACTORY_GAS).saturating_mul(U256::from(FACTORY_GAS_PRICE));
        let held = self.endpoints.first("eth_getBalance", |endpoint| send::balance(endpoint, FACTORY_PAYER)).await?;
        Ok(needed.saturating_sub(held))
    }

    /// Offers a transaction of the presigned one's form, by an account that was made for this and holds nothing: a node that takes such
    /// transactions asks for coins, any other names its objection. One that takes it is enough, whoever else objects; what a node that
    /// fails would have said is not known.
    async fn declines_unprotected(&self) -> Result<Option<String>, ChainError> {
        let nobody = ActorKey::generate()?;
        let transaction = TxLegacy {
            chain_id: None,
            nonce: 0,
            gas_price: FACTORY_GAS_PRICE,
            gas_limit: FACTORY_GAS,
            to: TxKind::Call(nobody.address()),
            value: U256::ZERO,
            input: Bytes::new(),
        };
        let signature = nobody.sign(&transaction.signature_hash())?;
        let raw: Bytes = TxEnvelope::from(transaction.into_signed(signature)).encoded_2718().into();
        let answers = self.endpoints.iter().map(|endpoint| send::send(endpoint, &raw));
        let (mut objection, mut failure) = (None, None);
        for answer in futures::future::join_all(answers).await {
            match answer {
                Ok(()) => return Ok(None),
                Err(error) if send::says(&error, &["insufficient", "funds", "balance", "upfront cost"]) => {
                    return Ok(None);
                }
                Err(error @ ChainError::Rpc { .. }) => objection = Some(error.to_string()),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(objection), Err)
    }

    async fn place_factory(
        &self,
        sender: &Sender,
        contract: Address,
        missing: U256,
        report: Report<'_>,
    ) -> Result<(), ChainError> {
        let lacks = self.missing_for_factory().await?.min(missing);
        if !lacks.is_zero() {
            sender.call(FACTORY_PAYER, lacks, Bytes::new(), report).await?;
        }
        let begun = Instant::now();
        let patience = sender.patience();
        let mut sent = self.send_factory().await;
        loop {
            match self.source.latest().await {
                Ok(latest) if self.has_factory(&latest).await? => return Ok(()),
                Ok(_) | Err(ChainError::NoQuorum { .. }) => {}
                Err(error) => return Err(error),
            }
            if begun.elapsed() >= patience.give_up {
                let why = sent.err().map_or_else(|| "it is not mined".to_owned(), |error| error.to_string());
                let detail = format!("the factory's presigned transaction has no effect: {why}");
                return Err(ChainError::Deployment { contract, detail });
            }
            tokio::time::sleep(patience.poll).await;
            if sent.is_err() {
                // Nodes that lag do not know of the coins yet.
                sent = self.send_factory().await;
            }
        }
    }

    async fn send_factory(&self) -> Result<(), ChainError> {
        self.endpoints.first("eth_sendRawTransaction", |endpoint| send::send(endpoint, &FACTORY_TRANSACTION)).await
    }

    /// Waits until trusted headers come to the block of a receipt, and proves the contract there. A reorg may take it out for a while.
    async fn await_contract(&self, contract: Address, block: u64, patience: Patience) -> Result<Proved, ChainError> {
        let waited = patience.give_up.as_secs();
        let detail = format!("block {block} should have it, which no trusted header shows after {waited} s");
        let proved = self.shown(contract, block, patience, patience.give_up).await?;
        proved.ok_or(ChainError::Deployment { contract, detail })
    }

    /// The contract under the first trusted header from this block on that has it; `None` if none has it within that time.
    async fn shown(
        &self,
        contract: Address,
        block: u64,
        patience: Patience,
        within: Duration,
    ) -> Result<Option<Proved>, ChainError> {
        let begun = Instant::now();
        loop {
            match self.source.latest().await {
                Ok(latest) if latest.number >= block => {
                    if let Some(proved) = self.proved(contract, &latest).await? {
                        return Ok(Some(proved));
                    }
                }
                Ok(_) | Err(ChainError::NoQuorum { .. }) => {}
                Err(error) => return Err(error),
            }
            if begun.elapsed() >= within {
                return Ok(None);
            }
            tokio::time::sleep(patience.poll).await;
        }
    }

    /// What publishing the creation code on the parent chain may cost, by the rollup's own rule.
    async fn data_fee(&self) -> Result<U256, ChainError> {
        let size = U256::from(self.artifact.bytecode.len()).saturating_add(U256::from(200));
        let call = Bytes::from(getL1FeeUpperBoundCall { unsignedTxSize: size }.abi_encode());
        let object = json!({ "to": GAS_PRICE_ORACLE, "input": call });
        self.endpoints.first("eth_call", |endpoint| endpoint.call("eth_call", json!([object, "latest"]))).await
    }
}

/// Wei as coins, for people.
#[must_use]
pub fn coins(wei: U256) -> String {
    let text = format_units(wei, "ether").unwrap_or_else(|_| wei.to_string());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use alloy_consensus::Transaction;
    use alloy_eips::eip2718::Decodable2718;

    use super::*;

    #[test]
    fn the_presigned_transaction_makes_the_factory_and_nothing_else() {
        let mut bytes = FACTORY_TRANSACTION.as_ref();
        let transaction = TxEnvelope::decode_2718(&mut bytes).unwrap();
        let TxEnvelope::Legacy(signed) = &transaction else { panic!("{transaction:?}") };
        let signer = signed.signature().recover_address_from_prehash(&signed.signature_hash());
        assert_eq!(signer.unwrap(), FACTORY_PAYER);
        assert_eq!((transaction.nonce(), transaction.chain_id(), transaction.kind()), (0, None, TxKind::Create));
        assert_eq!((transaction.gas_limit(), transaction.gas_price()), (FACTORY_GAS, Some(FACTORY_GAS_PRICE)));
        assert_eq!(FACTORY_PAYER.create(0), FACTORY);
        // Its creation code copies what follows its first 14 bytes.
        assert_eq!(keccak256(&transaction.input()[14..]), FACTORY_CODE_HASH);
    }

    #[test]
    fn the_salt_is_the_hash_of_the_text_in_the_documentation() {
        assert_eq!(SALT, keccak256("countersign.registry.v1"));
        let page = include_str!("../../docs/chains.md");
        assert!(page.contains("keccak256(\"countersign.registry.v1\")") && page.contains(&FACTORY.to_string()));
    }

    #[test]
    fn other_creation_code_has_another_address() {
        let artifact = Artifact::built_in().unwrap();
        let mut other = artifact.clone();
        other.bytecode = [other.bytecode.as_ref(), &[0]].concat().into();
        assert_ne!(address_by_factory(&artifact), address_by_factory(&other));
    }

    #[test]
    fn coins_are_written_without_zeros_that_say_nothing() {
        assert_eq!(coins(U256::from(10_000_000_000_000_000u64)), "0.01");
        assert_eq!(coins(U256::from(3_000_000_000_000_000_000u64)), "3");
        assert_eq!(coins(U256::ZERO), "0");
    }
}
