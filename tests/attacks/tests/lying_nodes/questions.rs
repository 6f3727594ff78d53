//! What an agent asks a node for while it reads the ledger, and the verbs of a node that does not answer as it should. A question
//! that is not listed here is an error of the test: it would be one that nobody has lied to yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Mutex,
    time::Duration,
};

use attacks::{
    lie::{drop_member, flip, rehash, set},
    proxy::Act,
};
use serde_json::{Value, json};

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Question {
    /// `eth_chainId`.
    ChainId,
    /// `eth_getBlockByNumber` of block 0.
    Genesis,
    /// Of `latest`.
    Latest,
    /// Of `finalized`.
    Finalized,
    /// Of a number: the block that was final before.
    ByNumber,
    /// `eth_getProof` under the newest block.
    LatestProof,
    /// Under the final one.
    FinalProof,
    /// `eth_getLogs` of what has become final.
    FinalLogs,
    /// Of what is newer.
    LatestLogs,
}

impl Question {
    /// All of them, in the order of the table's columns.
    pub(crate) const ALL: [Self; 9] = [
        Self::ChainId,
        Self::Genesis,
        Self::Latest,
        Self::Finalized,
        Self::ByNumber,
        Self::LatestProof,
        Self::FinalProof,
        Self::FinalLogs,
        Self::LatestLogs,
    ];

    const fn is_block(self) -> bool {
        matches!(self, Self::Genesis | Self::Latest | Self::Finalized | Self::ByNumber)
    }
}

/// What a node does to one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// One digit of it is another.
    Change,
    /// It is made up, and agrees with itself.
    Forge,
    /// `null`.
    Null,
    /// An empty list, object or text.
    Empty,
    /// A member that is needed is missing.
    MissingField,
    /// The lists in it are reversed, and so are the members of the message.
    Reorder,
    /// The lists in it, and those in them, are reversed.
    ReorderDeep,
    /// The lists in it (of a text: the text) are there twice.
    Duplicate,
    /// The message has two results.
    TwoResults,
    /// What the same question was answered before: true then.
    Freeze,
    /// The connection ends in the middle.
    Cut,
    /// Half of the message's text.
    HalfText,
    /// The lists in it are cut to half; a text lacks its last digit.
    HalfList,
    /// The answer of another chain, with the same beginning.
    Fork,
    /// Late, within the deadline.
    Slow,
    /// Never.
    Silent,
    /// An HTTP error, with a page.
    HttpError,
    /// A JSON-RPC error.
    JsonError,
    /// Under the id of another call.
    OtherId,
    /// The true answer to another question.
    OtherAnswer,
}

/// What a liar knows.
pub(crate) struct Knowledge {
    /// The final block before, the final one now, the newest one now.
    pub(crate) known: u64,
    /// See `known`.
    pub(crate) finalized: u64,
    /// See `known`.
    pub(crate) latest: u64,
    /// Answers of the time when the snapshot was published.
    pub(crate) before: BTreeMap<Question, Value>,
    /// Another chain.
    pub(crate) fork: SocketAddr,
}

/// Tells one agent's questions apart.
#[derive(Default)]
pub(crate) struct Listener {
    hashes: Mutex<Vec<Value>>,
    asked: Mutex<BTreeSet<Question>>,
    unknown: Mutex<Vec<String>>,
}

impl Listener {
    /// Which question a call is; `None` is remembered as unknown. `finalized`: the number of the final block.
    pub(crate) fn question(&self, method: &str, params: &Value, finalized: u64) -> Option<Question> {
        let question = match (method, params[0].as_str()) {
            ("eth_chainId", _) => Question::ChainId,
            ("eth_getBlockByNumber", Some("0x0")) => Question::Genesis,
            ("eth_getBlockByNumber", Some("latest")) => Question::Latest,
            ("eth_getBlockByNumber", Some("finalized")) => Question::Finalized,
            ("eth_getBlockByNumber", Some(number)) if number.starts_with("0x") => Question::ByNumber,
            // The newest block's slots are proved first. By number a node is asked that has just declined the hash.
            ("eth_getProof", _) => {
                let mut hashes = self.hashes.lock().unwrap();
                if let Some(hash) = params[2].get("blockHash").filter(|hash| hashes.last() != Some(hash)) {
                    hashes.push(hash.clone());
                }
                if hashes.len() < 2 { Question::LatestProof } else { Question::FinalProof }
            }
            ("eth_getLogs", _) => {
                let from = params[0]["fromBlock"].as_str().and_then(number).unwrap_or_default();
                if from <= finalized { Question::FinalLogs } else { Question::LatestLogs }
            }
            _ => {
                self.unknown.lock().unwrap().push(format!("{method} {params}"));
                return None;
            }
        };
        self.asked.lock().unwrap().insert(question);
        Some(question)
    }

    /// What was asked so far; fails on a question that is none of the list.
    pub(crate) fn asked(&self) -> BTreeSet<Question> {
        assert_eq!(*self.unknown.lock().unwrap(), Vec::<String>::new(), "questions that nobody has lied to");
        self.asked.lock().unwrap().clone()
    }
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

impl Verb {
    /// What it does with an answer.
    pub(crate) fn act(self, question: Question, params: &Value, knowledge: &Knowledge) -> Act {
        let alter = |alter: fn(Question, &mut Value)| Act::Alter(Box::new(move |result| alter(question, result)));
        match self {
            Self::Change => alter(change),
            Self::Forge => alter(forge),
            Self::Null => Act::Say(Value::Null),
            Self::Empty => alter(|_, result| match result {
                Value::Array(list) => list.clear(),
                Value::Object(members) => members.clear(),
                Value::String(text) => text.clear(),
                other => panic!("{other}"),
            }),
            Self::MissingField if question == Question::ChainId => message(|_, _| String::new()),
            Self::MissingField => alter(|question, result| match question {
                Question::ChainId => {}
                Question::LatestProof | Question::FinalProof => drop_member(result, "storageProof"),
                Question::FinalLogs | Question::LatestLogs => each(result, |log| drop_member(log, "data")),
                _ => drop_member(result, "stateRoot"),
            }),
            Self::Reorder => message(|_, result| {
                lists(result, &mut |list| list.reverse());
                format!(",\"result\":{result}")
            }),
            Self::ReorderDeep => alter(|_, result| deep_lists(result, &mut |list| list.reverse())),
            Self::Duplicate => alter(|_, result| match result {
                Value::String(text) => *text = text.repeat(2),
                result => lists(result, &mut |list| list.extend(list.clone())),
            }),
            Self::TwoResults => message(|_, result| format!(",\"result\":{result},\"result\":{result}")),
            Self::Freeze => Act::Say(knowledge.before[&question].clone()),
            Self::Cut => Act::Cut,
            Self::HalfText => Act::Rewrite(Box::new(|text| text[..text.len() / 2].to_owned())),
            Self::HalfList => alter(|_, result| match result {
                Value::String(text) => drop(text.pop()),
                result => lists(result, &mut |list| list.truncate(list.len() / 2)),
            }),
            Self::Fork => Act::Elsewhere(knowledge.fork),
            Self::Slow => Act::Slow(Duration::from_millis(200)),
            Self::Silent => Act::Silent,
            Self::HttpError => Act::Status(503),
            Self::JsonError => Act::Fail(-32000, "something else"),
            Self::OtherId => Act::Rewrite(Box::new(|text| {
                let mut message: Value = serde_json::from_str(&text).unwrap();
                set(&mut message, "id", 0);
                message.to_string()
            })),
            Self::OtherAnswer => other_answer(question, params, knowledge),
        }
    }
}

/// A message laid out by hand: without anything, with the id last, with whatever comes for the result.
fn message(result: fn(&Value, &mut Value) -> String) -> Act {
    Act::Rewrite(Box::new(move |text| {
        let mut message: Value = serde_json::from_str(&text).unwrap();
        let id = message["id"].clone();
        let result = result(&id, &mut message["result"]);
        let result = result.trim_start_matches(',');
        let comma = if result.is_empty() { "" } else { "," };
        format!("{{{result}{comma}\"jsonrpc\":\"2.0\",\"id\":{id}}}")
    }))
}

fn change(question: Question, result: &mut Value) {
    match question {
        Question::ChainId => flip(result),
        Question::LatestProof | Question::FinalProof => flip(&mut present(result)["value"]),
        Question::FinalLogs | Question::LatestLogs => {
            flip(&mut result.as_array_mut().unwrap().last_mut().unwrap()["topics"][3])
        }
        _ => flip(&mut result["stateRoot"]),
    }
}

fn forge(question: Question, result: &mut Value) {
    match question {
        Question::ChainId => *result = json!("0x1"),
        Question::LatestProof | Question::FinalProof => {
            let slot = present(result);
            set(slot, "value", "0x0");
            set(slot, "proof", json!([]));
        }
        Question::FinalLogs | Question::LatestLogs => {
            let logs = result.as_array_mut().unwrap();
            let mut invented = logs.last().unwrap().clone();
            set(&mut invented, "logIndex", "0xffff");
            logs.push(invented);
        }
        _ => {
            flip(&mut result["stateRoot"]);
            rehash(result);
        }
    }
}

/// A slot that is proved to be there.
fn present(proof: &mut Value) -> &mut Value {
    let slots = proof["storageProof"].as_array_mut().unwrap();
    slots.iter_mut().find(|slot| slot["value"] != "0x0").unwrap()
}

fn other_answer(question: Question, params: &Value, knowledge: &Knowledge) -> Act {
    let hex = |number: u64| format!("{number:#x}");
    let range = |from: u64, until: u64| {
        let mut params = params.clone();
        set(&mut params[0], "fromBlock", hex(from));
        set(&mut params[0], "toBlock", hex(until));
        Act::Ask(params)
    };
    match question {
        Question::ChainId => Act::Say(knowledge.before[&Question::Genesis].clone()),
        Question::Latest => Act::Ask(json!(["finalized", false])),
        block if block.is_block() => Act::Ask(json!(["latest", false])),
        Question::LatestProof => Act::Ask(json!([params[0], params[1], hex(knowledge.finalized)])),
        Question::FinalProof => Act::Ask(json!([params[0], params[1], hex(knowledge.latest)])),
        Question::FinalLogs => range(knowledge.finalized + 1, knowledge.latest),
        _ => range(knowledge.known + 1, knowledge.finalized),
    }
}

/// The list that a result is, or those that are its members.
fn lists(result: &mut Value, alter: &mut impl FnMut(&mut Vec<Value>)) {
    match result {
        Value::Array(list) => alter(list),
        Value::Object(members) => members.values_mut().filter_map(Value::as_array_mut).for_each(alter),
        _ => {}
    }
}

fn deep_lists(value: &mut Value, alter: &mut dyn FnMut(&mut Vec<Value>)) {
    match value {
        Value::Array(list) => {
            alter(list);
            list.iter_mut().for_each(|inner| deep_lists(inner, alter));
        }
        Value::Object(members) => members.values_mut().for_each(|inner| deep_lists(inner, alter)),
        _ => {}
    }
}

fn each(logs: &mut Value, lie: fn(&mut Value)) {
    logs.as_array_mut().unwrap().iter_mut().for_each(lie);
}
