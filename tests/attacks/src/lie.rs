//! Lies that are more than a changed digit: headers that re-hash, answers that were true for another block.

use std::sync::{Arc, Mutex};

use countersign_registry::header::{self, HeaderError};
use serde_json::Value;
use url::Url;

use crate::proxy::{Act, Proxy};

/// Makes a changed block consistent again: its `hash` is what its fields hash to.
pub fn rehash(block: &mut Value) {
    if let Err(HeaderError::Hash { computed, .. }) = header::from_json(block) {
        set(block, "hash", computed.to_string());
    }
    header::from_json(block).expect("a header that hashes to its hash");
}

/// Sets a member.
pub fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    object.as_object_mut().expect("an object").insert(name.to_owned(), value.into());
}

/// Removes a member.
pub fn drop_member(object: &mut Value, name: &str) {
    object.as_object_mut().expect("an object").remove(name).expect("the member was there");
}

/// Flips the lowest bit of the last digit of hexadecimal text.
pub fn flip(text: &mut Value) {
    let Value::String(digits) = text else { panic!("{text} is no text") };
    let last = digits.pop().and_then(|digit| digit.to_digit(16)).expect("a hexadecimal digit");
    digits.push(char::from_digit(last ^ 1, 16).expect("a hexadecimal digit"));
}

/// What a node does with a call.
pub type Rule = dyn Fn(&str, &Value) -> Act + Send + Sync;

/// A node whose lie can be changed while it runs; honest at first.
pub struct Liar {
    proxy: Proxy,
    rule: Arc<Mutex<Arc<Rule>>>,
}

impl Liar {
    /// In front of a real node.
    pub async fn start(target: &Url) -> Self {
        let honest: Arc<Rule> = Arc::new(|_, _| Act::Pass);
        let rule = Arc::new(Mutex::new(honest));
        let current = Arc::clone(&rule);
        let proxy = Proxy::start(target, move |method, params| {
            let rule = Arc::clone(&current.lock().expect("no rule panics while it is replaced"));
            rule(method, params)
        })
        .await;
        Self { proxy, rule }
    }

    /// Its endpoint.
    #[must_use]
    pub fn url(&self) -> Url {
        self.proxy.url.clone()
    }

    /// How many calls came so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.proxy.calls()
    }

    /// From now on.
    pub fn does(&self, rule: impl Fn(&str, &Value) -> Act + Send + Sync + 'static) {
        *self.rule.lock().expect("no rule panics while it is replaced") = Arc::new(rule);
    }

    /// From now on: the results of one method, changed.
    pub fn alters(&self, method: &'static str, alter: impl Fn(&mut Value) + Send + Sync + 'static) {
        let alter = Arc::new(alter);
        self.does(move |called, _| {
            let alter = Arc::clone(&alter);
            if called == method { Act::Alter(Box::new(move |result| alter(result))) } else { Act::Pass }
        });
    }

    /// From now on: blocks asked for by this tag or number (hexadecimal), changed.
    pub fn alters_block(&self, tag: &'static str, alter: impl Fn(&mut Value) + Send + Sync + 'static) {
        let alter = Arc::new(alter);
        self.does(move |called, params| {
            let alter = Arc::clone(&alter);
            let asked = called == "eth_getBlockByNumber" && params.get(0).and_then(Value::as_str) == Some(tag);
            if asked { Act::Alter(Box::new(move |result| alter(result))) } else { Act::Pass }
        });
    }

    /// From now on: the truth.
    pub fn is_honest(&self) {
        self.does(|_, _| Act::Pass);
    }
}
