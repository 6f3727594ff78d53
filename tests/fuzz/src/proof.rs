//! Account and storage proofs as a node delivers them, for a block whose state root is known.

use std::sync::LazyLock;

use countersign_registry::proof::AccountProof;
use countersign_registry::{Address, B256, U256};
use serde_json::Value;

/// Made by anvil; see `tests/vectors/proof.js`.
const VECTORS: &str = include_str!("../../vectors/proof.json");

struct Truth {
    state_root: B256,
    contract: Address,
    code_hash: B256,
    values: Vec<(B256, U256)>,
}

static TRUTH: LazyLock<Truth> = LazyLock::new(|| {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let read = |value: &Value| value.as_str().unwrap().to_owned();
    let values = vectors["values"].as_object().unwrap();
    Truth {
        state_root: read(&vectors["block"]["stateRoot"]).parse().unwrap(),
        contract: read(&vectors["contract"]).parse().unwrap(),
        code_hash: read(&vectors["codeHash"]).parse().unwrap(),
        values: values.iter().map(|(slot, value)| (slot.parse().unwrap(), read(value).parse().unwrap())).collect(),
    }
});

/// Whatever the proof says: if it is taken, the slots hold what they do hold.
pub fn try_on(data: &[u8]) {
    let Ok(proof) = serde_json::from_slice::<AccountProof>(data) else { return };
    let truth = &*TRUTH;
    for (slot, value) in &truth.values {
        if let Ok(proved) = proof.verify(truth.state_root, truth.contract, truth.code_hash, &[*slot]) {
            assert_eq!(proved[slot], *value, "a proof of what is not there was taken");
        }
    }
    if let Ok(code) = proof.verify_code(truth.state_root, truth.contract) {
        assert_eq!(code, Some(truth.code_hash));
    }
}

/// The true proofs, one slot each.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let slots = vectors["proof"]["storageProof"].as_array().unwrap();
    let of_slot = slots.iter().map(|slot| {
        let mut proof = vectors["proof"].clone();
        proof["storageProof"] = Value::Array(vec![slot.clone()]);
        proof.to_string().into_bytes()
    });
    of_slot.chain(["nobody", "payer"].map(|name| vectors[name].to_string().into_bytes())).collect()
}
