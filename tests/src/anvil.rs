//! A chain of its own: anvil with a block a second, which ends an epoch with every block, so that the final view follows.

use std::process::Command;

use harness::node::Node;
use serde_json::{Value, json};

use crate::{process, tools, wait};

/// anvil's first test account (mnemonic `test test … junk`), which has coins.
pub const FUNDED_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// anvil's last test account, which sends coins to others: the first one's transactions are the scenario's.
const FAUCET: &str = "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720";

/// A running anvil.
pub struct Anvil {
    node: Node,
}

impl Anvil {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self { node: Node::with(&["--block-time", "1"]) }
    }

    /// Its JSON-RPC endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        self.node.url.as_str().trim_end_matches('/').to_owned()
    }

    /// One call by `cast`, which shares no code with ours.
    ///
    /// # Panics
    /// Where it is answered with an error.
    #[must_use]
    pub fn call(&self, method: &str, parameters: &Value) -> Value {
        let mut command = Command::new(tools::foundry("cast"));
        command.args(["rpc", "--rpc-url", &self.url(), method, "--raw"]).arg(parameters.to_string());
        serde_json::from_str(&process::success(&mut command)).expect("an answer in JSON")
    }

    /// The number of the block that `tag` (`latest`, `finalized`) names.
    #[must_use]
    pub fn block_number(&self, tag: &str) -> u64 {
        let block = self.call("eth_getBlockByNumber", &json!([tag, false]));
        let number = block.get("number").and_then(Value::as_str).and_then(|number| number.strip_prefix("0x"));
        u64::from_str_radix(number.expect("a block number"), 16).expect("a block number")
    }

    /// Waits until what is in the latest block now is final.
    pub fn wait_final(&self) {
        let latest = self.block_number("latest");
        wait::until(&format!("block {latest} to be final"), || {
            (self.block_number("finalized") >= latest).then_some(())
        });
    }

    /// Sends accounts 100 coins each and waits until they have them. By transactions: after `anvil_setBalance` anvil proves a block
    /// against a state that its header does not have.
    ///
    /// # Panics
    /// Where anvil refuses.
    pub fn fund(&self, accounts: &[&str]) {
        let before: Vec<Value> = accounts.iter().map(|account| self.balance(account)).collect();
        for account in accounts {
            let coins = json!([{ "from": FAUCET, "to": account, "value": "0x56bc75e2d63100000" }]);
            let _ = self.call("eth_sendTransaction", &coins);
        }
        for (account, before) in accounts.iter().zip(before) {
            wait::until(&format!("{account} to have coins"), || (self.balance(account) != before).then_some(()));
        }
    }

    fn balance(&self, account: &str) -> Value {
        self.call("eth_getBalance", &json!([account, "latest"]))
    }
}
