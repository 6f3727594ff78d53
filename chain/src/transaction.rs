//! Building, pricing and signing one transaction. Prices come from a node and are not believed beyond a cap: a lying node must
//! not be able to burn the account's money as fees.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    endpoints::{Endpoint, Endpoints},
    error::ChainError,
    keys::ActorKey,
};

/// 10^9 wei.
pub(crate) const GWEI: u128 = 1_000_000_000;
/// Since Osaka (EIP-7825) no transaction may ask for more.
const GAS_CAP: u64 = 1 << 24;
/// Where a node does not answer `eth_maxPriorityFeePerGas`.
const DEFAULT_TIP: u128 = GWEI;

/// The most that is paid, whatever nodes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeeCaps {
    /// Wei per gas, all in.
    pub fee: u128,
    /// Wei per gas that go to the block's producer.
    pub tip: u128,
}

impl Default for FeeCaps {
    /// 1000 gwei, of which 50 for the producer.
    fn default() -> Self {
        Self { fee: GWEI.saturating_mul(1000), tip: GWEI.saturating_mul(50) }
    }
}

/// A price per gas. There is no other than EIP-1559's: the contract's code is for Cancun, so that every chain it runs on has a base
/// fee, and the producer of a block gets the tip and nothing else. At a price of the older sort it would get all that is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Price {
    /// Wei per gas, all in.
    pub(crate) fee: u128,
    /// Wei per gas for the producer, of that.
    pub(crate) tip: u128,
}

impl Price {
    /// Twice as much, within `caps`: what a transaction may come to cost when it is stuck, and what a node that suddenly asks for more
    /// does not get.
    pub(crate) fn ceiling(self, caps: FeeCaps) -> FeeCaps {
        let double = |value: u128| value.saturating_mul(2).max(DEFAULT_TIP);
        FeeCaps { fee: double(self.fee).min(caps.fee), tip: double(self.tip).min(caps.tip) }
    }

    /// A quarter more, rounded up (nodes ask for a tenth to replace), and not below `quote`.
    pub(crate) fn bumped(self, quote: Self, caps: FeeCaps) -> Self {
        let more = |value: u128| value.saturating_add(value / 4).saturating_add(1);
        Self { fee: more(self.fee).max(quote.fee), tip: more(self.tip).max(quote.tip) }.capped(caps)
    }

    fn capped(self, caps: FeeCaps) -> Self {
        let fee = self.fee.min(caps.fee);
        Self { fee, tip: self.tip.min(caps.tip).min(fee) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PricedBlock {
    base_fee_per_gas: Option<U256>,
}

/// What a block's worth of haste costs now: twice the base fee and the node's tip, capped. A base fee that is said too high costs
/// nothing, because the chain takes its own; a node that says none is passed over.
pub(crate) async fn quote(endpoints: &Endpoints, caps: FeeCaps) -> Result<Price, ChainError> {
    let price = endpoints.first("gas price", one_quote).await?;
    Ok(price.capped(caps))
}

async fn one_quote(endpoint: &Endpoint) -> Result<Price, ChainError> {
    let method = "eth_getBlockByNumber";
    let block: PricedBlock = endpoint.call(method, json!(["latest", false])).await?;
    let base = block.base_fee_per_gas.ok_or_else(|| {
        let detail = "the block has no baseFeePerGas, as every block has on a chain that can run the registry";
        endpoint.malformed(method, detail.into())
    })?;
    let tip = match endpoint.call::<U256>("eth_maxPriorityFeePerGas", json!([])).await {
        Ok(tip) => tip.saturating_to(),
        Err(ChainError::Rpc { .. }) => DEFAULT_TIP,
        Err(error) => return Err(error),
    };
    let base: u128 = base.saturating_to();
    Ok(Price { fee: base.saturating_mul(2).saturating_add(tip), tip })
}

/// One transaction, but for its price.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) chain_id: u64,
    pub(crate) nonce: u64,
    pub(crate) gas: u64,
    pub(crate) to: TxKind,
    pub(crate) value: U256,
    pub(crate) input: Bytes,
}

impl Draft {
    /// The most it can cost, in wei.
    pub(crate) fn cost(&self, price: Price) -> U256 {
        U256::from(self.gas).saturating_mul(U256::from(price.fee)).saturating_add(self.value)
    }

    /// The signed bytes and their hash.
    pub(crate) fn sign(&self, price: Price, key: &ActorKey) -> Result<(B256, Bytes), ChainError> {
        let transaction = TxEip1559 {
            chain_id: self.chain_id,
            nonce: self.nonce,
            gas_limit: self.gas,
            max_fee_per_gas: price.fee,
            max_priority_fee_per_gas: price.tip,
            to: self.to,
            value: self.value,
            access_list: Default::default(),
            input: self.input.clone(),
        };
        let signature = key.sign(&transaction.signature_hash())?;
        let envelope: TxEnvelope = transaction.into_signed(signature).into();
        Ok((*envelope.tx_hash(), envelope.encoded_2718().into()))
    }
}

/// What a node is asked in `eth_call` and `eth_estimateGas`.
pub(crate) fn call_object(from: Address, to: TxKind, value: U256, input: &Bytes) -> Value {
    let mut object = json!({ "from": from, "input": input, "value": value });
    if let (TxKind::Call(to), Some(fields)) = (to, object.as_object_mut()) {
        fields.insert("to".into(), json!(to));
    }
    object
}

/// A fifth more than the estimate: another entry of the same block may make a slot warmer, colder or first.
pub(crate) fn with_margin(estimate: U256) -> u64 {
    let estimate: u64 = estimate.saturating_to();
    estimate.saturating_add(estimate / 5).saturating_add(25_000).min(GAS_CAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: FeeCaps = FeeCaps { fee: 1000, tip: 50 };

    #[test]
    fn a_replacement_pays_at_least_a_tenth_more_even_for_tiny_prices() {
        let quote = Price { fee: 0, tip: 0 };
        for value in [0u128, 1, 2, 7, 40] {
            let Price { fee, tip } = Price { fee: value, tip: value }.bumped(quote, CAPS);
            assert!(fee * 10 >= value * 11 && fee > value, "{value} to {fee}");
            assert!(tip * 10 >= value * 11 && tip > value || tip == 50, "{value} to {tip}");
        }
    }

    #[test]
    fn no_quote_and_no_replacement_exceeds_the_caps() {
        let greedy = Price { fee: u128::MAX, tip: u128::MAX };
        assert_eq!(greedy.capped(CAPS), Price { fee: 1000, tip: 50 });
        let modest = Price { fee: 900, tip: 49 };
        assert_eq!(modest.bumped(greedy, CAPS), Price { fee: 1000, tip: 50 });
    }

    #[test]
    fn a_ceiling_is_twice_the_price_and_never_above_the_caps() {
        let caps = FeeCaps { fee: GWEI * 1000, tip: GWEI * 50 };
        let price = Price { fee: GWEI * 7, tip: GWEI * 2 };
        assert_eq!(price.ceiling(caps), FeeCaps { fee: GWEI * 14, tip: GWEI * 4 });
        let greedy = Price { fee: u128::MAX, tip: u128::MAX };
        assert_eq!(greedy.ceiling(caps), caps);
        assert_eq!(Price { fee: 0, tip: 0 }.ceiling(caps).fee, GWEI, "a chain without fees may ask for some");
    }

    #[test]
    fn a_tip_never_exceeds_the_whole_fee() {
        let caps = FeeCaps { fee: 10, tip: 50 };
        assert_eq!(Price { fee: 30, tip: 30 }.capped(caps), Price { fee: 10, tip: 10 });
    }

    #[test]
    fn every_chain_that_runs_the_contract_has_a_base_fee() {
        let artifact: Value = serde_json::from_str(include_str!("../../contracts/artifact/Registry.json")).unwrap();
        let rules = &artifact["compiler"]["settings"]["evmVersion"];
        assert!(["cancun", "prague", "osaka"].iter().any(|later| rules == later), "older than London's: {rules}");
    }

    #[test]
    fn gas_never_exceeds_what_a_block_takes() {
        assert_eq!(with_margin(U256::from(100_000)), 145_000);
        assert_eq!(with_margin(U256::MAX), 1 << 24);
    }
}
