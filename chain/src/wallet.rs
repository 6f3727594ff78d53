//! Contract wallets (ERC-1271), asked before their signature travels on. Only the registry's own call decides: what a node answers here
//! keeps a mistake from being found late, and nothing else.

use alloy_primitives::{Address, B256, Bytes, FixedBytes};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};

use abi::isValidSignatureCall;

use crate::{
    endpoints::{Endpoint, Endpoints},
    error::ChainError,
};

mod abi {
    alloy_sol_types::sol! {
        function isValidSignature(bytes32 digest, bytes signature) external view returns (bytes4);
    }
}

/// What a wallet answers that agrees: the function's selector, and zeros.
const AGREED: FixedBytes<4> = FixedBytes(isValidSignatureCall::SELECTOR);

/// Whether a wallet takes `signature` over `digest`, as one node tells: asked as the registry would ask.
///
/// # Errors
/// Those of calls; a wallet that reverts does not take it.
pub async fn takes(
    endpoints: &Endpoints,
    registry: Address,
    wallet: Address,
    digest: B256,
    signature: &Bytes,
) -> Result<bool, ChainError> {
    let input: Bytes = isValidSignatureCall { digest, signature: signature.clone() }.abi_encode().into();
    let object = json!({ "from": registry, "to": wallet, "input": input });
    let ask = |endpoint| call(endpoint, &object);
    match endpoints.first("the wallet", ask).await {
        Ok(answer) => Ok(answer.get(..32) == Some(B256::right_padding_from(AGREED.as_slice()).as_slice())),
        Err(ChainError::Rpc { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn call(endpoint: &Endpoint, object: &Value) -> Result<Bytes, ChainError> {
    endpoint.call("eth_call", json!([object, "latest"])).await
}
