//! What a device pins of a realm when it is set up, and the check that these pins belong together.
//!
//! Pinning the realm id pins its first roots: the id is their hash, so nobody can swap the contract, the chain or the root set
//! underneath. The code hash is compared with every account proof.

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use crate::sign;

/// The pins of a realm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RealmPin {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The registry contract.
    pub contract: Address,
    /// keccak256 of the contract's runtime code.
    pub code_hash: B256,
    /// Realm id.
    pub realm: B256,
    /// How many of the first roots must sign.
    pub threshold: u64,
    /// The first roots, in the order of the realm id.
    pub roots: Vec<Address>,
    /// Makes realms of the same roots differ.
    pub salt: B256,
    /// A block not after the realm's first entry; where reading starts.
    pub deployed_block: u64,
    /// Hash of the chain's block 0.
    pub genesis_hash: B256,
}

/// Pins that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The realm id is not the hash of the other pins.
    #[error(
        "realm {pinned} is not the id of these roots, threshold and salt on this chain and contract: that is {computed}"
    )]
    RealmId {
        /// What the pin says.
        pinned: B256,
        /// What the other pins give.
        computed: B256,
    },
    /// No threshold of these roots can sign.
    #[error(
        "realm needs a threshold from 1 to the number of roots ({roots}), at most 64 of them, got threshold {threshold}"
    )]
    Threshold {
        /// The threshold.
        threshold: u64,
        /// How many roots there are.
        roots: usize,
    },
    /// A root is zero or there twice.
    #[error("root {root} is zero or named twice")]
    Root {
        /// The root.
        root: Address,
    },
}

impl RealmPin {
    /// Recomputes the realm id from the other pins.
    ///
    /// # Errors
    /// [`PinError`] if it differs, or if the root set could not have been one.
    pub fn verify(&self) -> Result<(), PinError> {
        let threshold = usize::try_from(self.threshold).unwrap_or(usize::MAX);
        if threshold == 0 || threshold > self.roots.len() || self.roots.len() > 64 {
            return Err(PinError::Threshold { threshold: self.threshold, roots: self.roots.len() });
        }
        for (index, root) in self.roots.iter().enumerate() {
            if root.is_zero() || self.roots.iter().take(index).any(|earlier| earlier == root) {
                return Err(PinError::Root { root: *root });
            }
        }
        let computed = sign::realm_id(self.chain_id, self.contract, self.threshold, &self.roots, self.salt);
        if computed != self.realm {
            return Err(PinError::RealmId { pinned: self.realm, computed });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> RealmPin {
        let roots = vec![Address::repeat_byte(1), Address::repeat_byte(2), Address::repeat_byte(3)];
        let contract = Address::repeat_byte(9);
        let salt = B256::repeat_byte(7);
        RealmPin {
            chain_id: 31337,
            contract,
            code_hash: B256::ZERO,
            realm: sign::realm_id(31337, contract, 2, &roots, salt),
            threshold: 2,
            roots,
            salt,
            deployed_block: 1,
            genesis_hash: B256::ZERO,
        }
    }

    #[test]
    fn pins_that_belong_together_verify() {
        assert_eq!(pin().verify(), Ok(()));
    }

    #[test]
    fn a_change_of_any_pin_in_the_realm_id_is_refused() {
        let changes: [fn(&mut RealmPin); 6] = [
            |pin| pin.chain_id = 1,
            |pin| pin.contract = Address::repeat_byte(8),
            |pin| pin.threshold = 1,
            |pin| pin.roots.swap(0, 1),
            |pin| pin.salt = B256::ZERO,
            |pin| pin.realm = B256::ZERO,
        ];
        for change in changes {
            let mut changed = pin();
            change(&mut changed);
            assert!(matches!(changed.verify(), Err(PinError::RealmId { .. })), "{changed:?}");
        }
    }

    #[test]
    fn a_root_set_that_the_contract_would_refuse_is_refused() {
        let mut none = pin();
        none.threshold = 0;
        assert_eq!(none.verify(), Err(PinError::Threshold { threshold: 0, roots: 3 }));
        let mut many = pin();
        many.threshold = 4;
        assert_eq!(many.verify(), Err(PinError::Threshold { threshold: 4, roots: 3 }));
        let mut twice = pin();
        twice.roots = vec![Address::repeat_byte(1); 2];
        assert_eq!(twice.verify(), Err(PinError::Root { root: Address::repeat_byte(1) }));
        let mut zero = pin();
        zero.roots = vec![Address::ZERO, Address::repeat_byte(1)];
        assert_eq!(zero.verify(), Err(PinError::Root { root: Address::ZERO }));
    }
}
