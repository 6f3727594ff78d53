//! The registry's interface as the Solidity source declares it, the compiled artefact, and its refusals in words.

use alloy_primitives::{B256, Bytes};
use alloy_sol_types::{Panic, Revert, SolError, SolInterface};
use serde::Deserialize;

use crate::error::{ChainError, printable};

mod abi {
    alloy_sol_types::sol!(
        #![sol(all_derives)]
        "../contracts/src/IRegistry.sol"
    );
}

pub use abi::IRegistry;
/// The contract's custom errors.
pub use abi::IRegistry::IRegistryErrors as Refusal;

/// keccak256("Entry(bytes32,uint64,address,uint256,bytes)"): the first topic of every log this crate takes.
pub const ENTRY_TOPIC: B256 = <IRegistry::Entry as alloy_sol_types::SolEvent>::SIGNATURE_HASH;

/// What `contracts/` compiles to, as checked in.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Creation code.
    pub bytecode: Bytes,
    /// keccak256 of the runtime code: what realms pin.
    pub code_hash: B256,
}

impl Artifact {
    /// The artefact this program was built with.
    ///
    /// # Errors
    /// `Setting`, if the checked-in file is not what it should be; a test keeps that from happening.
    pub fn built_in() -> Result<Self, ChainError> {
        serde_json::from_str(include_str!("../../contracts/artifact/Registry.json"))
            .map_err(|error| ChainError::Setting { what: "contract artefact", detail: error.to_string() })
    }
}

/// A revert in words: the contract's custom error, `Error(string)`, `Panic(uint256)`, or what is left.
#[must_use]
pub fn explain(data: Option<&Bytes>) -> String {
    let Some(data) = data.filter(|data| !data.is_empty()) else {
        return "no reason given (data that is no ABI encoding, or no contract with this function)".into();
    };
    if let Ok(refusal) = Refusal::abi_decode(data) {
        return words(&refusal);
    }
    let standard = [Revert::SELECTOR, Panic::SELECTOR].iter().any(|selector| data.starts_with(selector));
    match alloy_sol_types::decode_revert_reason(data).filter(|_| standard) {
        Some(reason) => printable(&reason),
        None => printable(&format!("unknown revert data {data}")),
    }
}

fn words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::UndefinedClass(error) => format!("kind {:#06x} belongs to no kind class", error.kind),
        Refusal::NotAllowed(error) if error.byRoots => {
            format!("a threshold of roots may not write entries of kind {:#06x}", error.kind)
        }
        Refusal::NotAllowed(error) => format!(
            "{} has no role that may write entries of kind {:#06x} in realm {}",
            error.actor, error.kind, error.realm
        ),
        Refusal::WrongShard(error) => {
            format!("entries of kind {:#06x} go to shard {:#x}, got {:#x}", error.kind, error.expected, error.shard)
        }
        Refusal::PeriodOutOfRange(error) => format!(
            "revocation shard {:#x} is not from one period before to 13 after the current one ({})",
            error.shard, error.currentPeriod
        ),
        Refusal::WrongSize(error) => {
            format!("data of kind {:#06x} has {} bytes, expected 1 to {}", error.kind, error.size, error.limit)
        }
        Refusal::WrongRevocationWidth(error) => {
            format!("data of kind {:#06x} has {} bytes, expected 1 + 16 + n x 8", error.kind, error.size)
        }
        Refusal::NotCanonical(error) => format!("data of kind {:#06x} is not in its one canonical form", error.kind),
        Refusal::ZeroActor(error) => {
            format!("kind {:#06x} names the zero address, which stands for the roots", error.kind)
        }
        Refusal::UndefinedRoles(error) => format!("roles {:#x} has bits above 15", error.roles),
        Refusal::WrongThreshold(error) => {
            format!("a threshold of {} of {} roots (at most 64) cannot be", error.threshold, error.roots)
        }
        Refusal::WrongRoot(error) => format!("root {} is zero or there twice", error.root),
        Refusal::NoWrites(_) => "there is nothing to write".into(),
        Refusal::DeadlinePassed(error) => {
            format!("the signed deadline {} is before the block's time {}", error.deadline, error.time)
        }
        Refusal::WrongNonce(error) => format!("nonce {} was signed, the next one is {}", error.given, error.expected),
        Refusal::WrongSignature(error) => format!("not a signature by {} over these writes", error.signer),
        Refusal::NoP256(_) => "this chain has no precompile for signatures by P-256 keys (at address 0x100)".into(),
        Refusal::WalletIsAsked(_) => "a wallet asked the registry while it was asked about a signature".into(),
        Refusal::WrongRootSet(error) => {
            format!("the root set given hashes to {}, in force is {}", error.given, error.expected)
        }
        Refusal::NoSuchRoot(error) => format!("there is no root {}, the realm has {}", error.index, error.roots),
        Refusal::DuplicateRoot(error) => format!("root {} signed twice", error.index),
        Refusal::BelowThreshold(error) => {
            format!("{} signatures are fewer than the threshold of {}", error.signatures, error.threshold)
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, U256};

    use super::*;

    #[test]
    fn the_contracts_errors_are_told_in_words() {
        let error = IRegistry::NotAllowed { realm: B256::ZERO, actor: Address::ZERO, byRoots: false, kind: 0x0101 };
        assert_eq!(
            explain(Some(&error.abi_encode().into())),
            "0x0000000000000000000000000000000000000000 has no role that may write entries of kind 0x0101 in realm \
             0x0000000000000000000000000000000000000000000000000000000000000000"
        );
        let error = IRegistry::WrongNonce { given: U256::from(3), expected: U256::from(4) };
        assert_eq!(explain(Some(&error.abi_encode().into())), "nonce 3 was signed, the next one is 4");
    }

    #[test]
    fn the_built_in_artefact_parses() {
        assert!(Artifact::built_in().unwrap().bytecode.len() > 1000);
    }

    #[test]
    fn text_from_a_node_is_escaped() {
        let reason = Revert::from("line\nbreak").abi_encode();
        assert_eq!(explain(Some(&reason.into())), "revert: line\\nbreak");
    }

    #[test]
    fn unknown_and_missing_reasons_are_said_to_be_so() {
        assert!(explain(None).starts_with("no reason given"));
        assert_eq!(explain(Some(&Bytes::from_static(&[1, 2, 3, 4, 5]))), "unknown revert data 0x0102030405");
    }
}
