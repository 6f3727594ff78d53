//! What is asked of nodes before there is a realm file that pins it: chain id and genesis hash, whether contracts see the block
//! numbers that logs carry, and whether they can check P-256 signatures. One node's word each; the realm file that is made of it
//! holds every node to chain id and genesis afterwards.

use alloy_primitives::{Address, B256, Bytes, U256, address, bytes, hex};
use serde_json::json;

use crate::{
    endpoints::{Endpoint, Endpoints},
    error::ChainError,
    profile, source,
};

/// Creation code that returns the number of the block it runs in: NUMBER, PUSH1 0, MSTORE, PUSH1 32, PUSH1 0, RETURN.
const BLOCK_NUMBER: Bytes = bytes!("4360005260206000f3");
/// How far nodes behind one name may be apart.
const APART: u64 = 256;
/// Of the precompile that checks P-256 signatures.
const P256_ADDRESS: Address = address!("0000000000000000000000000000000000000100");
/// Hash, r, s, x, y: a signature that is right.
const P256_RIGHT: [u8; 160] = hex!(
    "4cee90eb86eaa050036147a12d49004b6b9c72bd725d39d4785011fe190f0b4d"
    "a73bd4903f0ce3b639bbbf6e8e80d16931ff4bcf5993d58468e8fb19086e8cac"
    "36dbcd03009df8c59286b162af3bd7fcc0450c9aa81be5d10d312af6c66b1d60"
    "4aebd3099c618202fcfe16ae7770b0c49ab5eadf74b754204a3bb6060e44eff3"
    "7618b065f9832de4ca6ca971a7a1adc826d0f7c00181a5fb2ddf79ae00b4e10e"
);

/// A chain as its nodes show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Hash of block 0, recomputed from its header.
    pub genesis_hash: B256,
    /// Whether the precompile for P-256 signatures answers.
    pub p256: bool,
}

/// Looks at the chain.
///
/// # Errors
/// `UnfitChain` for a chain whose contracts see another block number than its logs carry, else those of calls.
pub async fn survey(endpoints: &Endpoints) -> Result<Survey, ChainError> {
    let chain_id = endpoints.first("eth_chainId", source::chain_id).await?;
    profile::fit(chain_id)?;
    let genesis_hash = endpoints.first("genesis header", source::genesis_hash).await?;
    let (number, seen) = endpoints.first("block number", numbers).await?;
    if seen.is_some_and(|seen| seen.abs_diff(U256::from(number)) > U256::from(APART)) {
        let seen = seen.unwrap_or_default();
        let detail = format!("in block {number} its contracts see block number {seen}, and logs carry {number}");
        return Err(ChainError::UnfitChain { chain_id, detail });
    }
    let p256 = endpoints.first("P-256 precompile", checks_p256).await?;
    Ok(Survey { chain_id, genesis_hash, p256 })
}

/// The tip's number, and what a contract sees there. `None` from a node that runs no creation code in `eth_call`: what logs carry
/// is compared with slots on every read in any case.
async fn numbers(endpoint: &Endpoint) -> Result<(u64, Option<U256>), ChainError> {
    let number: U256 = endpoint.call("eth_blockNumber", json!([])).await?;
    let seen = match endpoint.call::<Bytes>("eth_call", json!([{ "input": BLOCK_NUMBER }, "latest"])).await {
        Ok(word) => U256::try_from_be_slice(&word),
        Err(ChainError::Rpc { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok((number.saturating_to(), seen))
}

async fn checks_p256(endpoint: &Endpoint) -> Result<bool, ChainError> {
    let call = json!([{ "to": P256_ADDRESS, "input": Bytes::from_static(&P256_RIGHT) }, "latest"]);
    let word: Bytes = endpoint.call("eth_call", call).await?;
    Ok(word.len() == 32 && U256::try_from_be_slice(&word) == Some(U256::ONE))
}
