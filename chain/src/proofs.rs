//! Storage of the registry contract under a trusted header, by `eth_getProof`. The account proof carries the code hash, which
//! must be the pinned one; every slot asked for is proved with its value or proved absent. A node that declines or proves
//! something else is passed over for the next.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::{Address, B256, U256};
use countersign_registry::{
    pin::RealmPin,
    proof::{AccountProof, ProofError},
    sign,
};
use serde_json::{Value, json};

use crate::{
    endpoints::{Endpoint, Endpoints},
    error::{ChainError, printable},
    source::TrustedHeader,
};

/// Slots in one request: nodes refuse more than 1024, some providers fewer.
const SLOTS_PER_REQUEST: usize = 256;

/// Before a wrong proof is asked for again.
const PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];

/// An actor's slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActorSlot {
    /// Role bits.
    pub roles: u64,
    /// Next nonce for `appendBySig`.
    pub nonce: U256,
}

/// The slots of these shards; zero for a shard that is proved empty.
///
/// # Errors
/// The last endpoint's error when none proves them.
pub async fn prove(
    endpoints: &Endpoints,
    pin: &RealmPin,
    header: &TrustedHeader,
    shards: &[u64],
) -> Result<BTreeMap<u64, U256>, ChainError> {
    let slots: Vec<B256> = shards.iter().map(|shard| sign::head_slot(pin.realm, *shard)).collect();
    let proved = prove_slots(endpoints, pin.contract, pin.code_hash, header, &slots).await?;
    Ok(shards.iter().zip(&slots).filter_map(|(shard, slot)| Some((*shard, *proved.get(slot)?))).collect())
}

/// The hash of the realm's root set; zero while the one in the realm id is in force.
///
/// # Errors
/// As [`prove`].
pub async fn root_set(endpoints: &Endpoints, pin: &RealmPin, header: &TrustedHeader) -> Result<B256, ChainError> {
    let slot = sign::root_set_slot(pin.realm);
    let proved = prove_slots(endpoints, pin.contract, pin.code_hash, header, &[slot]).await?;
    Ok(proved.get(&slot).copied().unwrap_or_default().into())
}

/// Roles and nonce of an actor.
///
/// # Errors
/// As [`prove`].
pub async fn actor(
    endpoints: &Endpoints,
    pin: &RealmPin,
    header: &TrustedHeader,
    who: Address,
) -> Result<ActorSlot, ChainError> {
    let slot = sign::actor_slot(pin.realm, who);
    let proved = prove_slots(endpoints, pin.contract, pin.code_hash, header, &[slot]).await?;
    let word = proved.get(&slot).copied().unwrap_or_default();
    let [roles, ..] = *word.as_limbs();
    Ok(ActorSlot { roles, nonce: word.wrapping_shr(64) })
}

/// Any slots of a contract with that code hash; every one asked for is in the answer.
///
/// # Errors
/// As [`prove`].
pub async fn prove_slots(
    endpoints: &Endpoints,
    contract: Address,
    code_hash: B256,
    header: &TrustedHeader,
    slots: &[B256],
) -> Result<BTreeMap<B256, U256>, ChainError> {
    let mut proved = BTreeMap::new();
    // With no slots at all the account, and so the code hash, is still proved.
    let batches: Vec<&[B256]> = if slots.is_empty() { vec![&[]] } else { slots.chunks(SLOTS_PER_REQUEST).collect() };
    for batch in batches {
        let ask = |endpoint| async move {
            let answer = answer(endpoint, contract, header, batch).await?;
            answer
                .verify(header.state_root, contract, code_hash, batch)
                .map_err(|error| unproved(endpoint, header, &error))
        };
        proved.extend(patiently(endpoints, ask).await?);
    }
    Ok(proved)
}

/// The hash of the code at an address; `None` where the header's state has no code there.
///
/// # Errors
/// As [`prove`].
pub async fn code_hash(
    endpoints: &Endpoints,
    address: Address,
    header: &TrustedHeader,
) -> Result<Option<B256>, ChainError> {
    let ask = |endpoint| async move {
        let answer = answer(endpoint, address, header, &[]).await?;
        answer.verify_code(header.state_root, address).map_err(|error| unproved(endpoint, header, &error))
    };
    patiently(endpoints, ask).await
}

/// How many transactions an account has sent, or how many contracts a contract has made.
///
/// # Errors
/// As [`prove`].
pub async fn nonce(endpoints: &Endpoints, address: Address, header: &TrustedHeader) -> Result<U256, ChainError> {
    let ask = |endpoint| async move {
        let answer = answer(endpoint, address, header, &[]).await?;
        answer.verify_code(header.state_root, address).map_err(|error| unproved(endpoint, header, &error))?;
        Ok(answer.nonce)
    };
    patiently(endpoints, ask).await
}

/// Asks every node, and a few times over where a proof was wrong: a node that is just taking the next block in, or one behind a load
/// balancer, proves another block's state for a moment (anvil does).
async fn patiently<'a, T, F>(endpoints: &'a Endpoints, ask: impl Fn(&'a Endpoint) -> F) -> Result<T, ChainError>
where
    F: Future<Output = Result<T, ChainError>>,
{
    let mut pauses = PAUSES.iter();
    loop {
        match (endpoints.first("eth_getProof", &ask).await, pauses.next()) {
            (Err(ChainError::Proof { .. }), Some(pause)) => tokio::time::sleep(*pause).await,
            (answer, _) => return answer,
        }
    }
}

async fn answer(
    endpoint: &Endpoint,
    contract: Address,
    header: &TrustedHeader,
    slots: &[B256],
) -> Result<AccountProof, ChainError> {
    let ask = |block: Value| endpoint.call::<AccountProof>("eth_getProof", json!([contract, slots, block]));
    match ask(json!({ "blockHash": header.hash })).await {
        // Not every node takes a hash here. By number it may prove another block of that height: then it does not verify.
        Err(ChainError::Rpc { .. }) => ask(json!(format!("{:#x}", header.number))).await,
        answer => answer,
    }
}

fn unproved(endpoint: &Endpoint, header: &TrustedHeader, error: &ProofError) -> ChainError {
    ChainError::Proof { endpoint: endpoint.name().into(), block: header.number, detail: printable(&error.to_string()) }
}
