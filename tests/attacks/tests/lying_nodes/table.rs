//! Every answer that an agent asks for, and everything that a node can do to it: one table says how each cell ends, for one node
//! alone. In front of two honest nodes each of them ends with the truth.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc};

use alloy_primitives::B256;
use attacks::{lie::set, node::Client, on_both_clients, proxy::Act};
use countersign_agent::reason::Reason;
use countersign_chain::realm_file::HeaderTrust;
use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};

use crate::{
    ground::{Ground, Lie, Outcome},
    questions::{Question, Verb},
};

on_both_clients!(every_answer_and_everything_that_can_be_done_to_it_ends_as_the_table_says);

/// Cells at work at once; those that only wait for a deadline are not counted.
const AT_ONCE: usize = 6;

const H: Outcome = Outcome::Refused(Reason::HeaderUntrusted);
const S: Outcome = Outcome::Refused(Reason::EndpointsSilent);
const C: Outcome = Outcome::Refused(Reason::ChainMismatch);
const P: Outcome = Outcome::Refused(Reason::ProofInvalid);
const L: Outcome = Outcome::Refused(Reason::LogsIncomplete);
const B: Outcome = Outcome::Refused(Reason::FinalWentBack);
const O: Outcome = Outcome::Refused(Reason::LatestWentBack);
const T: Outcome = Outcome::Truth;
const W: Outcome = Outcome::FinalWithheld;
const K: Outcome = Outcome::FinalBehind;
const N: Outcome = Outcome::LatestWithheld;
const A: Outcome = Outcome::FinalAhead;

/// A column for each of [`Question::ALL`].
#[rustfmt::skip]
const TABLE: [(Verb, [Outcome; 9]); 20] = [
    //                   chain id, genesis, latest, finalized, by number, latest and final proof, final and latest logs
    (Verb::Change,       [C, H, H, H, H, P, K, L, L]),
    (Verb::Forge,        [C, C, P, K, B, P, K, L, L]),
    (Verb::Null,         [S, H, H, H, H, S, K, S, S]),
    (Verb::Empty,        [S, H, H, H, H, S, K, L, L]),
    (Verb::MissingField, [S, H, H, H, H, S, K, S, S]),
    (Verb::Reorder,      [T, T, T, T, T, P, K, T, T]),
    (Verb::ReorderDeep,  [T, T, T, T, T, P, K, S, S]),
    (Verb::Duplicate,    [S, T, T, T, T, P, K, T, T]),
    (Verb::TwoResults,   [S, S, S, S, S, S, K, S, S]),
    (Verb::Freeze,       [T, T, N, W, T, P, K, S, S]),
    (Verb::Cut,          [S, S, S, S, S, S, K, S, S]),
    (Verb::HalfText,     [S, S, S, S, S, S, K, S, S]),
    (Verb::HalfList,     [C, T, T, T, T, P, K, L, L]),
    (Verb::Fork,         [T, T, P, K, B, P, K, L, L]),
    (Verb::Slow,         [T, T, T, T, T, T, T, T, T]),
    (Verb::Silent,       [S, S, S, S, S, S, K, S, S]),
    (Verb::HttpError,    [S, S, S, S, S, S, K, S, S]),
    (Verb::JsonError,    [S, S, S, S, S, S, K, S, S]),
    (Verb::OtherId,      [S, S, S, S, S, S, K, S, S]),
    (Verb::OtherAnswer,  [S, H, N, A, H, P, K, S, S]),
];

/// One agent's cycle.
pub(crate) struct Cell {
    /// For the report.
    pub(crate) what: String,
    /// Whether the liar is alone, or one of three.
    pub(crate) trust: HeaderTrust,
    /// How it must end.
    pub(crate) expected: Outcome,
    /// What the liar does.
    pub(crate) lie: Arc<Lie>,
    /// Whether it takes its time and little else.
    pub(crate) waits: bool,
}

/// Lies about more than one answer, or about the other realm of the same contract.
fn stories(ground: &Ground) -> Vec<(&'static str, Outcome, Arc<Lie>)> {
    let always =
        |verb: Verb| -> Arc<Lie> { Arc::new(move |question, params, knowledge| verb.act(question, params, knowledge)) };
    let of_a_block = |verb: Verb| -> Arc<Lie> {
        Arc::new(move |question, params, knowledge| match question {
            Question::Latest | Question::Finalized | Question::ByNumber => verb.act(question, params, knowledge),
            _ => Act::Pass,
        })
    };
    let heads = |latest: u64, finalized: u64| -> Arc<Lie> {
        Arc::new(move |question, _, _| match question {
            Question::Latest => Act::Ask(json!([format!("{latest:#x}"), false])),
            Question::Finalized => Act::Ask(json!([format!("{finalized:#x}"), false])),
            _ => Act::Pass,
        })
    };
    let known = ground.knowledge.known;
    vec![
        ("a node that stands still", Outcome::NothingNew, of_a_block(Verb::Freeze)),
        ("a node that is behind the snapshot", O, heads(known, known)),
        ("a final block that goes back", W, heads(ground.knowledge.latest, 1)),
        ("the other chain, whole", B, always(Verb::Fork)),
        ("the other chain's blocks", B, of_a_block(Verb::Fork)),
        ("blocks that are made up, each by itself", B, of_a_block(Verb::Forge)),
        ("Silent: no answer at all", S, always(Verb::Silent)),
        ("errors only", S, always(Verb::JsonError)),
        ("pages only", S, always(Verb::HttpError)),
        ("everything late", T, always(Verb::Slow)),
        (
            "an old head under a new block",
            P,
            proofs(move |params| Act::Ask(json!([params[0], params[1], format!("{known:#x}")]))),
        ),
        (
            "the hash of a block declined, its number taken",
            T,
            proofs(|params| if params[2].is_object() { Act::Fail(-32602, "no hashes") } else { Act::Pass }),
        ),
        ("the other realm's slots", P, {
            let theirs = ground.other_slots();
            proofs(move |params| Act::Ask(json!([params[0], theirs(&params[1]), params[2]])))
        }),
        ("the other realm's slots, under our keys", P, {
            let theirs = ground.other_slots();
            proofs(move |params| {
                let ours = params[1].clone();
                let rename = move |proof: &mut Value| {
                    for (slot, key) in
                        proof["storageProof"].as_array_mut().unwrap().iter_mut().zip(ours.as_array().unwrap())
                    {
                        set(slot, "key", key.clone());
                    }
                };
                Act::AskAlter(json!([params[0], theirs(&params[1]), params[2]]), Box::new(rename))
            })
        }),
        ("the other realm's logs", L, {
            let realm = ground.other_realm;
            logs(move |params| Act::Ask(of_realm(params, realm)))
        }),
        ("the other realm's logs, under our name", L, {
            let realm = ground.other_realm;
            logs(move |params| {
                let ours = params[0]["topics"][1].clone();
                let rename = move |logs: &mut Value| {
                    for log in logs.as_array_mut().unwrap() {
                        log["topics"][1] = ours.clone();
                    }
                };
                Act::AskAlter(of_realm(params, realm), Box::new(rename))
            })
        }),
        (
            "no logs of several blocks, those of one block as they are",
            T,
            logs(|params| if params[0]["fromBlock"] == params[0]["toBlock"] { Act::Pass } else { Act::Say(json!([])) }),
        ),
    ]
}

/// A lie about both proofs.
pub(crate) fn proofs(act: impl Fn(&Value) -> Act + Send + Sync + 'static) -> Arc<Lie> {
    Arc::new(move |question, params, _| match question {
        Question::LatestProof | Question::FinalProof => act(params),
        _ => Act::Pass,
    })
}

fn logs(act: impl Fn(&Value) -> Act + Send + Sync + 'static) -> Arc<Lie> {
    Arc::new(move |question, params, _| match question {
        Question::FinalLogs | Question::LatestLogs => act(params),
        _ => Act::Pass,
    })
}

/// The same logs of another realm.
fn of_realm(params: &Value, realm: B256) -> Value {
    let mut params = params.clone();
    params[0]["topics"][1] = json!(realm);
    params
}

async fn every_answer_and_everything_that_can_be_done_to_it_ends_as_the_table_says(client: Client) {
    let ground = Ground::of(client).await;
    let mut cells = Vec::new();
    for trust in [HeaderTrust::Dev, HeaderTrust::Quorum(2)] {
        let mut cell = |what: String, expected: Outcome, lie: Arc<Lie>| {
            let waits = what.contains("Silent");
            let expected = if trust == HeaderTrust::Dev { expected } else { T };
            cells.push(Cell { what: format!("{trust:?}: {what}"), trust, expected, lie, waits });
        };
        for (verb, row) in TABLE {
            for (asked, expected) in Question::ALL.into_iter().zip(row) {
                let lie: Arc<Lie> =
                    Arc::new(
                        move |question, params, knowledge| {
                            if question == asked { verb.act(question, params, knowledge) } else { Act::Pass }
                        },
                    );
                cell(format!("{verb:?} {asked:?}"), expected, lie);
            }
        }
        for (what, expected, lie) in stories(&ground) {
            cell(what.to_owned(), expected, lie);
        }
    }
    all_end_as_expected(ground, cells).await;
}

/// Runs all cells, and names those that end otherwise.
pub(crate) async fn all_end_as_expected(ground: Ground, cells: Vec<Cell>) {
    let wrong = LocalSet::new().run_until(run(ground, cells)).await;
    assert!(wrong.is_empty(), "{} cells:\n{}", wrong.len(), wrong.join("\n"));
}

/// Runs all cells; returns those that end otherwise than expected.
async fn run(ground: Ground, cells: Vec<Cell>) -> Vec<String> {
    let ground = Rc::new(ground);
    let (waiting, working): (Vec<Cell>, Vec<Cell>) = cells.into_iter().partition(|cell| cell.waits);
    let working = Rc::new(RefCell::new(VecDeque::from(working)));
    let mut tasks = JoinSet::new();
    for cell in waiting {
        let ground = Rc::clone(&ground);
        tasks.spawn_local(async move { vec![check(&ground, cell).await] });
    }
    for _ in 0..AT_ONCE {
        let (ground, working) = (Rc::clone(&ground), Rc::clone(&working));
        tasks.spawn_local(async move {
            let mut found = Vec::new();
            loop {
                let next = working.borrow_mut().pop_front();
                let Some(cell) = next else { return found };
                found.push(check(&ground, cell).await);
            }
        });
    }
    let mut wrong = Vec::new();
    while let Some(found) = tasks.join_next().await {
        wrong.extend(found.unwrap().into_iter().flatten());
    }
    wrong.sort();
    wrong
}

async fn check(ground: &Ground, cell: Cell) -> Option<String> {
    let Cell { what, trust, expected, lie, .. } = cell;
    let outcome = ground.outcome(trust, lie).await;
    (outcome != Ok(expected)).then(|| format!("{what}: expected {expected:?}, got {outcome:?}"))
}
