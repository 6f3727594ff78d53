//! Proofs of something else: each lie is told of the newest block's slots and of the final one's.

use attacks::{
    lie::{flip, set},
    node::Client,
    on_both_clients,
    proxy::Act,
};
use countersign_agent::reason::Reason;
use countersign_chain::realm_file::HeaderTrust;
use serde_json::{Value, json};

use crate::{
    ground::{Ground, Outcome},
    table::{Cell, all_end_as_expected, proofs},
};

on_both_clients!(a_proof_of_something_else_is_refused);

type Lie = fn(&mut Value);

const SLOTS: &str = "storageProof";

/// The first storage proof of an existing slot, and of an absent one.
fn present_and_absent(proof: &Value) -> (usize, usize) {
    let slots = proof[SLOTS].as_array().unwrap();
    let absent = |slot: &Value| slot["value"] == "0x0";
    (slots.iter().position(|slot| !absent(slot)).unwrap(), slots.iter().position(absent).unwrap())
}

async fn a_proof_of_something_else_is_refused(client: Client) {
    let lies: [(&str, Lie); 15] = [
        ("code hash", |proof| flip(&mut proof["codeHash"])),
        ("balance", |proof| flip(&mut proof["balance"])),
        ("nonce", |proof| flip(&mut proof["nonce"])),
        ("storage root", |proof| flip(&mut proof["storageHash"])),
        ("address", |proof| flip(&mut proof["address"])),
        ("no account proof", |proof| set(proof, "accountProof", json!([]))),
        ("no slots", |proof| set(proof, SLOTS, json!([]))),
        ("absence for presence, with the proof of presence", |proof| {
            let (present, _) = present_and_absent(proof);
            set(&mut proof[SLOTS][present], "value", "0x0");
        }),
        ("absence for presence, with an empty proof", |proof| {
            let (present, _) = present_and_absent(proof);
            set(&mut proof[SLOTS][present], "value", "0x0");
            set(&mut proof[SLOTS][present], "proof", json!([]));
        }),
        ("absence for presence, with the proof of another slot's absence", |proof| {
            let (present, absent) = present_and_absent(proof);
            let nodes = proof[SLOTS][absent]["proof"].clone();
            set(&mut proof[SLOTS][present], "value", "0x0");
            set(&mut proof[SLOTS][present], "proof", nodes);
        }),
        ("absence for presence, with the proof cut before its end", |proof| {
            let (present, _) = present_and_absent(proof);
            set(&mut proof[SLOTS][present], "value", "0x0");
            proof[SLOTS][present]["proof"].as_array_mut().unwrap().pop();
        }),
        ("presence for absence", |proof| {
            let (present, absent) = present_and_absent(proof);
            let (value, nodes) = (proof[SLOTS][present]["value"].clone(), proof[SLOTS][present]["proof"].clone());
            set(&mut proof[SLOTS][absent], "value", value);
            set(&mut proof[SLOTS][absent], "proof", nodes);
        }),
        ("the value of another slot", |proof| {
            let (present, _) = present_and_absent(proof);
            flip(&mut proof[SLOTS][present]["value"]);
        }),
        ("the proof of another slot under its own key", |proof| {
            let (present, absent) = present_and_absent(proof);
            let key = proof[SLOTS][absent]["key"].clone();
            set(&mut proof[SLOTS][present], "key", key);
        }),
        ("nodes of the account proof in another order", |proof| {
            proof["accountProof"].as_array_mut().unwrap().reverse();
            proof["accountProof"].as_array_mut().unwrap().push(json!("0x80"));
        }),
    ];
    let mut cells = Vec::new();
    for (what, lie) in lies {
        for (trust, expected) in
            [(HeaderTrust::Dev, Outcome::Refused(Reason::ProofInvalid)), (HeaderTrust::Quorum(2), Outcome::Truth)]
        {
            let lie = proofs(move |_| Act::Alter(Box::new(lie)));
            cells.push(Cell { what: format!("{trust:?}: {what}"), trust, expected, lie, waits: true });
        }
    }
    all_end_as_expected(Ground::of(client).await, cells).await;
}
