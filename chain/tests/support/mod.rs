//! What the tests of this crate stand on: a real anvil on a free loopback port, and a proxy in front of it that lies on demand.
//! Both end with the value that holds them; nothing is ended by name.

#![allow(dead_code, reason = "every test binary uses another part of this module")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test support fails loudly")]

pub mod proxy;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use url::Url;

/// A binary that `.ci/tools` installs: `anvil` or `cast`.
pub fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("COUNTERSIGN_TOOLS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.tools"), PathBuf::from);
    let path = tools.join(format!("node_modules/@foundry-rs/{name}-linux-amd64/bin/{name}"));
    assert!(path.is_file(), "{} is missing: run .ci/tools", path.display());
    path
}

/// The first key of anvil's well-known mnemonic; holds 10,000 test ether.
pub const FUNDED_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
/// The second one.
pub const OTHER_KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

/// An anvil process; killed by its pid when dropped.
pub struct Anvil {
    child: Child,
    pub url: Url,
}

impl Anvil {
    /// A chain that mines when it is told to, or on each transaction: block numbers are the test's to decide.
    pub fn on_demand() -> Self {
        Self::with(&["--slots-in-an-epoch", "1"])
    }

    /// Extra arguments as given.
    pub fn with(arguments: &[&str]) -> Self {
        let mut child = Command::new(tool("anvil"))
            .args(["--host", "127.0.0.1", "--port", "0", "--hardfork", "osaka"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("anvil starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let address = loop {
            let line = lines.next().expect("anvil says where it listens").expect("UTF-8");
            if let Some(address) = line.strip_prefix("Listening on ") {
                break address.to_owned();
            }
        };
        // Keep reading, else anvil stops at a full pipe.
        std::thread::spawn(move || for _ in lines.map_while(Result::ok) {});
        Self { child, url: Url::parse(&format!("http://{address}")).expect("an address") }
    }

    /// One RPC call that must succeed.
    pub async fn call(&self, method: &'static str, params: serde_json::Value) -> serde_json::Value {
        let endpoints = countersign_chain::endpoints::Endpoints::new(
            std::slice::from_ref(&self.url),
            countersign_chain::endpoints::Limits::default(),
        )
        .unwrap();
        endpoints.iter().next().unwrap().call(method, params).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Mines that many empty blocks.
    pub async fn mine(&self, blocks: u64) {
        self.call("anvil_mine", serde_json::json!([format!("{blocks:#x}")])).await;
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
