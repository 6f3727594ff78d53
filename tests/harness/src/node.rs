//! Chain nodes: anvil, and `geth --dev` as the second client. Each is a process of its own on a free port, killed by its pid when
//! dropped. A chain makes blocks when a test says so, or on each transaction: block numbers are the test's to decide.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use alloy_primitives::Address;
use countersign_chain::{
    ChainError,
    endpoints::{Endpoints, Limits},
    keys::ActorKey,
};
use serde_json::{Value, json};
use url::Url;

use crate::{
    tools,
    world::{ADMIN_KEY, DEVICE_KEY, ROOT_KEY},
};

/// What tests of one kind always tell anvil.
pub const ANVIL_ARGUMENTS: [&str; 4] = ["--hardfork", "osaka", "--slots-in-an-epoch", "1"];

/// The tenth key of anvil's well-known mnemonic, which no test uses for anything else: its nonces disturb nobody.
const FUNDING_KEY: &str = "2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6";

/// How long a transaction may take to be in a block.
const DEADLINE: Duration = Duration::from_secs(30);
/// When geth is reminded of one.
const NUDGE: Duration = Duration::from_secs(1);

/// Which program a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Foundry's development node; can mine, roll back and reorganise as it is told.
    Anvil,
    /// go-ethereum: other JSON, other proofs of absence, another finality.
    Geth,
}

impl Client {
    /// Starts one.
    pub async fn start(self) -> Node {
        match self {
            Self::Anvil => Node::on_demand(),
            Self::Geth => Node::geth().await,
        }
    }
}

/// A running node.
pub struct Node {
    child: Child,
    /// Its endpoint.
    pub url: Url,
    /// Its chain's id.
    pub chain_id: u64,
    /// Which program it is.
    pub client: Client,
    /// geth's developer account, whose payments make blocks.
    payer: Option<Address>,
}

impl Node {
    /// anvil; `safe` and `finalized` are one and two blocks behind.
    #[must_use]
    pub fn on_demand() -> Self {
        Self::with(&[])
    }

    /// anvil with more arguments; `--hardfork` first of them has it follow other rules than the tests' usual ones.
    #[must_use]
    pub fn with(arguments: &[&str]) -> Self {
        let skipped = if arguments.first() == ANVIL_ARGUMENTS.first() { 2 } else { 0 };
        let mut child = Command::new(tools::foundry("anvil"))
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(ANVIL_ARGUMENTS.iter().skip(skipped))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("anvil starts");
        let address = listens(child.stdout.take().expect("piped"), |line| line.strip_prefix("Listening on "));
        let url = Url::parse(&format!("http://{address}")).expect("an address");
        Self { child, url, chain_id: 31337, client: Client::Anvil, payer: None }
    }

    /// `geth --dev`, which makes a block of each transaction and calls a block final with every 32nd one. The accounts of a
    /// [`World`](crate::world::World) are funded.
    pub async fn geth() -> Self {
        Self::geth_with(&[]).await
    }

    /// Two nodes with the same block 0, each with a chain of its own from there. What they have to share lies in `directory`.
    pub async fn twins(client: Client, directory: &Path) -> [Self; 2] {
        match client {
            Client::Anvil => {
                let now =
                    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs();
                [0, 1].map(|_| Self::with(&["--timestamp", &now.to_string()]))
            }
            Client::Geth => {
                // The developer's account is in block 0: the first node makes it, the second finds it.
                let arguments = ["--lightkdf", "--keystore", directory.to_str().expect("a path in UTF-8")];
                [Self::geth_with(&arguments).await, Self::geth_with(&arguments).await]
            }
        }
    }

    /// The same with more arguments.
    pub async fn geth_with(arguments: &[&str]) -> Self {
        let mut child = Command::new(tools::geth())
            .args(["--dev", "--ipcdisable", "--nodiscover", "--port", "0", "--authrpc.port", "0"])
            .args(["--http", "--http.addr", "127.0.0.1", "--http.port", "0", "--http.api", "eth,debug"])
            // Neither is used by a chain that lives for seconds, and both take time to prepare.
            .args(["--nousb", "--cache", "64"])
            // Else a transaction that a reorg took back is sent once more after a minute.
            .arg("--txpool.nolocals")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("geth starts");
        let address = listens(child.stderr.take().expect("piped"), |line| {
            let (_, rest) =
                line.split_once("HTTP server started").and_then(|(_, rest)| rest.split_once("endpoint="))?;
            rest.split_whitespace().next()
        });
        let url = Url::parse(&format!("http://{address}")).expect("an address");
        let mut node = Self { child, url, chain_id: 1337, client: Client::Geth, payer: None };
        let accounts = node.call("eth_accounts", json!([])).await;
        let payer: Address = serde_json::from_value(accounts[0].clone()).expect("the developer's account");
        node.payer = Some(payer);
        for key in [ADMIN_KEY, ROOT_KEY, DEVICE_KEY] {
            node.fund(ActorKey::from_hex(key).unwrap().address()).await;
        }
        node
    }

    async fn send(&self, transaction: &Value) -> Value {
        self.call("eth_sendTransaction", json!([transaction])).await
    }

    async fn mined(&self, transaction: &Value) {
        let endpoints = self.endpoints();
        let node = endpoints.iter().next().unwrap();
        let begun = Instant::now();
        let mut nudges = 1_u32;
        while begun.elapsed() < DEADLINE {
            match node.call::<Value>("eth_getTransactionReceipt", json!([transaction])).await {
                Ok(receipt) if !receipt.is_null() => return,
                Ok(_) => {}
                // What geth says of a chain that has just begun.
                Err(ChainError::Rpc { message, .. }) if message.contains("indexing is in progress") => {}
                Err(error) => panic!("{error}"),
            }
            // A transaction that reaches `geth --dev` while it seals a block can lie there until another one comes.
            if let Some(payer) = self.payer.filter(|_| begun.elapsed() > NUDGE.saturating_mul(nudges)) {
                nudges = nudges.saturating_add(1);
                self.send(&json!({ "from": payer, "to": payer })).await;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("{transaction} is in no block after {} s", DEADLINE.as_secs());
    }

    /// For our own client.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        Endpoints::new(std::slice::from_ref(&self.url), Limits::default()).unwrap()
    }

    /// One call that must succeed.
    pub async fn call(&self, method: &'static str, params: Value) -> Value {
        let endpoints = self.endpoints();
        let answer = endpoints.iter().next().unwrap().call(method, params).await;
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Gives an account 100 test coins, by a transaction: balances that are set by decree make anvil's proofs wrong for a block.
    pub async fn fund(&self, account: Address) {
        let payer = match self.payer {
            Some(payer) => payer,
            None => ActorKey::from_hex(FUNDING_KEY).unwrap().address(),
        };
        let hash = self.send(&json!({ "from": payer, "to": account, "value": "0x56bc75e2d63100000" })).await;
        self.mined(&hash).await;
    }

    /// Takes back every block above `number`.
    pub async fn set_head(&self, number: u64) {
        match self.client {
            Client::Anvil => {
                let depth = self.number("latest").await.checked_sub(number).expect("a block that is there");
                self.roll_back(depth).await;
            }
            Client::Geth => {
                self.call("debug_setHead", json!([format!("{number:#x}")])).await;
            }
        }
    }

    /// Takes back anvil's newest `depth` blocks. Whatever is made next is later than they were: anvil's clock goes on from the block that
    /// is left, so by the time that had passed new blocks would now be older than those before, now the very same.
    pub async fn roll_back(&self, depth: u64) {
        let gone = self.time("latest").await;
        self.call("anvil_rollback", json!([depth])).await;
        let ahead = gone.saturating_sub(self.time("latest").await).saturating_add(1);
        self.call("evm_increaseTime", json!([ahead])).await;
    }

    /// Makes that many blocks, of nothing or nearly so.
    pub async fn mine(&self, blocks: u64) {
        let Some(payer) = self.payer else {
            self.call("anvil_mine", json!([format!("{blocks:#x}")])).await;
            return;
        };
        for _ in 0..blocks {
            let transaction = self.send(&json!({ "from": payer, "to": payer })).await;
            self.mined(&transaction).await;
        }
    }

    /// Makes blocks until what is there now is final.
    pub async fn finalize(&self) {
        match self.client {
            Client::Anvil => self.mine(3).await,
            Client::Geth => {
                let latest = self.number("latest").await;
                while self.number("finalized").await < latest {
                    self.mine(1).await;
                }
            }
        }
    }

    /// Makes blocks until the next one and its successor are final only later: geth calls every 32nd block final as it makes it.
    pub async fn leave_finality_behind(&self) {
        if self.client == Client::Geth {
            while self.number("latest").await % 32 > 16 {
                self.mine(1).await;
            }
        }
    }

    /// The number of the block that a tag names.
    pub async fn number(&self, tag: &str) -> u64 {
        self.of_block(tag, "number").await
    }

    /// The time of the block that a tag names, Unix seconds.
    pub async fn time(&self, tag: &str) -> u64 {
        self.of_block(tag, "timestamp").await
    }

    async fn of_block(&self, tag: &str, field: &str) -> u64 {
        let block = self.call("eth_getBlockByNumber", json!([tag, false])).await;
        let text = block[field].as_str().unwrap_or("0x0");
        u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Errors only say that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a new process's lines until one says where it listens. Goes on reading afterwards, else it stops at a full pipe.
fn listens(output: impl Read + Send + 'static, address: impl Fn(&str) -> Option<&str>) -> String {
    let mut lines = BufReader::new(output).lines();
    let found = loop {
        let line = lines.next().expect("it says where it listens, before it ends").expect("UTF-8");
        if let Some(address) = address(&line) {
            break address.trim().to_owned();
        }
    };
    std::thread::spawn(move || for _ in lines.map_while(Result::ok) {});
    found
}
