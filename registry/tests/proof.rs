//! Headers and proofs against `tests/vectors/proof.json`, which a real node answered; and every way to bend them.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a vector file of another shape is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use alloy_primitives::{Address, B256, Bytes, U256};
use countersign_registry::header::{self, HeaderError};
use countersign_registry::proof::{AccountProof, ProofError, verify_slot};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("proof.json")).unwrap()).unwrap()
}

struct Given {
    state_root: B256,
    contract: Address,
    code_hash: B256,
    slots: Vec<B256>,
    proof: AccountProof,
}

impl Given {
    fn verify(&self, proof: &AccountProof) -> Result<std::collections::BTreeMap<B256, U256>, ProofError> {
        proof.verify(self.state_root, self.contract, self.code_hash, &self.slots)
    }
}

fn words(value: &Value) -> Vec<B256> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().parse().unwrap()).collect()
}

fn given() -> Given {
    let vectors = vectors();
    let slots = [words(&vectors["present"]), words(&vectors["absent"])].concat();
    Given {
        state_root: header::from_json(&vectors["block"]).unwrap().state_root(),
        contract: vectors["contract"].as_str().unwrap().parse().unwrap(),
        code_hash: vectors["codeHash"].as_str().unwrap().parse().unwrap(),
        slots,
        proof: serde_json::from_value(vectors["proof"].clone()).unwrap(),
    }
}

#[test]
fn the_vectors_are_what_their_script_prints() {
    let output = Command::new("node").arg(folder().join("proof.js")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), vectors());
}

#[test]
fn headers_of_every_fork_re_hash_from_json_and_from_rlp() {
    let vectors = vectors();
    let headers = vectors["headers"].as_array().unwrap();
    assert_eq!(headers.len(), 7);
    for vector in headers {
        let hash: B256 = vector["block"]["hash"].as_str().unwrap().parse().unwrap();
        let raw: Bytes = vector["raw"].as_str().unwrap().parse().unwrap();
        let from_json = header::from_json(&vector["block"]).unwrap();
        assert_eq!(from_json.hash(), hash, "{}", vector["hardfork"]);
        assert_eq!(header::from_rlp(&raw), Ok(from_json), "{}", vector["hardfork"]);
    }
}

#[test]
fn a_header_with_any_field_changed_does_not_hash() {
    for vector in vectors()["headers"].as_array().unwrap() {
        let block = vector["block"].as_object().unwrap();
        for (name, value) in block {
            if ["size", "totalDifficulty", "transactions", "uncles", "withdrawals"].contains(&name.as_str()) {
                continue;
            }
            let text = value.as_str().unwrap();
            let last = if text.ends_with('1') { "2" } else { "1" };
            let mut changed = block.clone();
            changed.insert(name.clone(), json!(format!("{}{last}", &text[..text.len() - 1])));
            let result = header::from_json(&Value::Object(changed));
            match (name.as_str(), text) {
                // Empty bytes cannot be changed in their last digit.
                ("extraData", "0x") => assert!(matches!(result, Err(HeaderError::Field { .. }))),
                _ => assert!(matches!(result, Err(HeaderError::Hash { .. })), "{name}: {result:?}"),
            }
        }
    }
}

#[test]
fn a_header_without_one_of_its_fields_is_refused() {
    let vectors = vectors();
    let osaka = vectors["headers"][6]["block"].as_object().unwrap();
    for name in osaka.keys() {
        if ["size", "totalDifficulty", "transactions", "uncles", "withdrawals"].contains(&name.as_str()) {
            continue;
        }
        let mut without = osaka.clone();
        without.remove(name);
        let error = header::from_json(&Value::Object(without)).unwrap_err();
        assert!(matches!(error, HeaderError::Missing(_) | HeaderError::Hash { .. }), "{name}: {error}");
    }
}

#[test]
fn an_unknown_header_field_fails_closed_and_says_that_the_chain_has_upgraded() {
    let vectors = vectors();
    let mut block = vectors["headers"][6]["block"].clone();
    // As a later fork would: a field more, and a hash that covers it.
    block["someNewRoot"] = json!(format!("0x{}", "22".repeat(32)));
    block["hash"] = json!(format!("0x{}", "33".repeat(32)));
    assert_eq!(
        header::from_json(&block).unwrap_err().to_string(),
        format!(
            "chain has upgraded: block 1 has header fields this version does not know (someNewRoot) and does not re-hash to \
             0x{}; install a newer countersign",
            "33".repeat(32)
        )
    );
}

#[test]
fn a_providers_own_field_beside_a_header_that_hashes_is_no_obstacle() {
    let mut block = vectors()["headers"][6]["block"].clone();
    block["l1BlockNumber"] = json!("0x1");
    assert!(header::from_json(&block).is_ok());
}

#[test]
fn malformed_header_fields_are_named() {
    let block = vectors()["headers"][6]["block"].clone();
    for (field, value) in [
        ("number", json!("0x")),
        ("number", json!("1")),
        ("number", json!(1)),
        ("number", json!("0x10000000000000000")),
        ("gasUsed", json!("0x+1")),
        ("stateRoot", json!("0x12")),
        ("stateRoot", json!("11".repeat(32))),
        ("nonce", json!("0x1")),
        ("logsBloom", json!("0x00")),
        ("extraData", json!("0x1")),
        ("requestsHash", json!("0xzz")),
    ] {
        let mut changed = block.clone();
        changed[field] = value;
        assert!(
            matches!(header::from_json(&changed), Err(HeaderError::Field { field: named, .. }) if named == field),
            "{field}"
        );
    }
    assert_eq!(header::from_json(&json!([])), Err(HeaderError::NotAnObject("an array")));
    assert_eq!(header::from_json(&Value::Null), Err(HeaderError::NotAnObject("null")));
}

#[test]
fn raw_headers_that_are_cut_longer_or_not_canonical_are_refused() {
    for vector in vectors()["headers"].as_array().unwrap() {
        let raw: Bytes = vector["raw"].as_str().unwrap().parse().unwrap();
        for length in 0..raw.len() {
            assert!(header::from_rlp(&raw[..length]).is_err(), "{length}");
        }
        assert_eq!(header::from_rlp(&[raw.as_ref(), &[0x80]].concat()), Err(HeaderError::Rlp));
    }
}

#[test]
fn a_raw_header_with_more_fields_than_known_says_that_the_chain_has_upgraded() {
    let mut list = vec![0xd8];
    list.extend([0x80; 24]);
    assert_eq!(header::from_rlp(&list), Err(HeaderError::UpgradedRlp { items: 24, known: 23 }));
}

#[test]
fn slots_are_proved_present_and_absent_under_the_blocks_state_root() {
    let given = given();
    let proved = given.verify(&given.proof).unwrap();
    let values = vectors()["values"].clone();
    assert_eq!(proved.len(), given.slots.len());
    for (slot, value) in &proved {
        let expected: U256 = values[slot.to_string()].as_str().unwrap().parse().unwrap();
        assert_eq!(*value, expected, "{slot}");
    }
    assert_eq!(proved.values().filter(|value| value.is_zero()).count(), 3);
}

#[test]
fn another_state_root_account_or_code_is_refused() {
    let given = given();
    let proof = &given.proof;
    let other = B256::repeat_byte(1);
    assert!(matches!(
        proof.verify(other, given.contract, given.code_hash, &given.slots),
        Err(ProofError::Account { .. })
    ));
    assert!(matches!(
        proof.verify(given.state_root, Address::repeat_byte(1), given.code_hash, &given.slots),
        Err(ProofError::Address { .. })
    ));
    assert!(matches!(
        proof.verify(given.state_root, given.contract, other, &given.slots),
        Err(ProofError::CodeHash { .. })
    ));
    assert_eq!(
        proof.verify(given.state_root, given.contract, given.code_hash, &[other]),
        Err(ProofError::SlotMissing { slot: other })
    );
    let claims: [fn(&mut AccountProof); 5] = [
        |proof| proof.balance += U256::from(1),
        |proof| proof.nonce += U256::from(1),
        |proof| proof.storage_hash = B256::repeat_byte(1),
        |proof| proof.code_hash = B256::repeat_byte(1),
        |proof| proof.account_proof.clear(),
    ];
    for claim in claims {
        let mut bent = proof.clone();
        claim(&mut bent);
        assert!(matches!(given.verify(&bent), Err(ProofError::Account { .. })));
    }
    let mut nonce = proof.clone();
    nonce.nonce = U256::MAX;
    assert!(matches!(given.verify(&nonce), Err(ProofError::Nonce { .. })));
}

#[test]
fn an_account_that_is_absent_or_without_storage_proves_no_slot() {
    let given = given();
    let vectors = vectors();
    let nobody: AccountProof = serde_json::from_value(vectors["nobody"].clone()).unwrap();
    let refused = nobody.verify(given.state_root, nobody.address, nobody.code_hash, &given.slots[..1]);
    assert!(matches!(refused, Err(ProofError::Account { .. })));
    let payer: AccountProof = serde_json::from_value(vectors["payer"].clone()).unwrap();
    let slots = payer.verify(given.state_root, payer.address, payer.code_hash, &given.slots[..1]).unwrap();
    assert_eq!(slots.get(&given.slots[0]), Some(&U256::ZERO));
}

#[test]
fn code_is_proved_there_absent_or_not_at_all() {
    let given = given();
    let vectors = vectors();
    let account = |name: &str| serde_json::from_value::<AccountProof>(vectors[name].clone()).unwrap();
    let (contract, nobody, payer) = (account("proof"), account("nobody"), account("payer"));
    let code = |proof: &AccountProof| proof.verify_code(given.state_root, proof.address);
    assert_eq!(code(&contract), Ok(Some(given.code_hash)));
    assert_eq!((code(&nobody), code(&payer)), (Ok(None), Ok(None)), "no account, and one with coins only");

    // A contract that is denied, with its own proof or with somebody else's absence.
    let mut denied = contract.clone();
    (denied.nonce, denied.balance, denied.code_hash) = (U256::ZERO, U256::ZERO, nobody.code_hash);
    assert!(matches!(code(&denied), Err(ProofError::Account { .. })));
    denied.account_proof.clone_from(&nobody.account_proof);
    assert!(matches!(code(&denied), Err(ProofError::Account { .. })));
    denied.account_proof.clear();
    assert!(matches!(code(&denied), Err(ProofError::Account { .. })));
    assert!(matches!(
        nobody.verify_code(given.state_root, contract.address),
        Err(ProofError::Account { .. } | ProofError::Address { .. })
    ));

    // A contract that is claimed where there is none, and other code.
    for (mut claimed, code_hash) in
        [(nobody, given.code_hash), (payer, given.code_hash), (contract, B256::repeat_byte(1))]
    {
        claimed.code_hash = code_hash;
        assert!(matches!(code(&claimed), Err(ProofError::Account { .. })));
    }
}

#[test]
fn a_slot_cannot_be_given_another_value_or_declared_absent() {
    let given = given();
    for position in 0..given.slots.len() {
        let mut bent = given.proof.clone();
        bent.storage_proof[position].value += U256::from(1);
        assert!(matches!(given.verify(&bent), Err(ProofError::Slot { .. })), "{position}");
        let storage = &given.proof.storage_proof[position];
        if !storage.value.is_zero() {
            let mut absent = given.proof.clone();
            absent.storage_proof[position].value = U256::ZERO;
            assert!(matches!(given.verify(&absent), Err(ProofError::Slot { .. })), "{position}");
            // Another slot's proof of absence does not help.
            let borrowed = &given.proof.storage_proof.last().unwrap().proof;
            let slot = given.slots[position];
            assert!(verify_slot(given.proof.storage_hash, slot, U256::ZERO, borrowed).is_err());
        }
    }
}

#[test]
fn proofs_that_are_cut_reordered_or_bent_in_any_byte_are_refused() {
    let given = given();
    for position in 0..given.slots.len() {
        let nodes = given.proof.storage_proof[position].proof.len();
        for node in 0..nodes {
            let mut cut = given.proof.clone();
            cut.storage_proof[position].proof.truncate(node);
            assert!(given.verify(&cut).is_err(), "slot {position} cut to {node}");
            let mut dropped = given.proof.clone();
            dropped.storage_proof[position].proof.remove(node);
            assert!(given.verify(&dropped).is_err(), "slot {position} without node {node}");
            let bytes = given.proof.storage_proof[position].proof[node].clone();
            for byte in 0..bytes.len() {
                let mut bent = given.proof.clone();
                let mut changed = bytes.to_vec();
                changed[byte] ^= 1;
                bent.storage_proof[position].proof[node] = changed.into();
                assert!(given.verify(&bent).is_err(), "slot {position} node {node} byte {byte}");
            }
        }
    }
    for node in 0..given.proof.account_proof.len() {
        let bytes = given.proof.account_proof[node].clone();
        for byte in 0..bytes.len() {
            let mut bent = given.proof.clone();
            let mut changed = bytes.to_vec();
            changed[byte] ^= 0x80;
            bent.account_proof[node] = changed.into();
            assert!(given.verify(&bent).is_err(), "account node {node} byte {byte}");
        }
    }
}

#[test]
fn a_tried_absence_by_an_empty_proof_is_refused() {
    let given = given();
    for nodes in [vec![], vec![Bytes::from_static(&[0x80])]] {
        assert!(verify_slot(given.proof.storage_hash, given.slots[0], U256::ZERO, &nodes).is_err());
    }
}
