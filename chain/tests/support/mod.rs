//! What the tests of this crate stand on: a real anvil on a free loopback port, and a proxy in front of it that lies on demand.
//! Both end with the value that holds them; nothing is ended by name.

#![allow(dead_code, unreachable_pub, reason = "every test binary uses another part of this module")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test support fails loudly"
)]

pub mod proxy;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use alloy_primitives::{B256, U256};
use countersign_chain::{
    ChainError,
    contract::Artifact,
    endpoints::{Endpoints, Limits},
    keys::ActorKey,
    profile::ProfileName,
    realm_file::{HeaderTrust, RealmFile},
    send::{FeeCaps, Mined, Patience, RootProof, RootSignature, Sender},
    source,
    sync::{Cursor, Ledger, Update},
};
use countersign_registry::{
    Kind, PlacedEntry, RealmPin,
    entries::{Entry, Roles, payload},
    shard,
    sign::{self, Write},
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
        endpoints(&[&self.url])
            .iter()
            .next()
            .unwrap()
            .call(method, params)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
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

/// A chain with the registry on it and a realm of two roots, one of them enough; the funded account is ADMIN and REVOKER.
pub struct World {
    pub anvil: Anvil,
    pub pin: RealmPin,
    pub sender: Sender,
    pub root: ActorKey,
}

pub const ROOT_KEY: &str = "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";

pub fn key(hex: &str) -> ActorKey {
    ActorKey::from_hex(hex).unwrap()
}

pub fn limits() -> Limits {
    Limits { call: Duration::from_secs(2), ..Limits::default() }
}

pub fn endpoints(urls: &[&Url]) -> Endpoints {
    let urls: Vec<Url> = urls.iter().copied().cloned().collect();
    Endpoints::new(&urls, limits()).unwrap()
}

pub fn patience() -> Patience {
    Patience { poll: Duration::from_millis(50), stuck: Duration::from_secs(60), give_up: Duration::from_secs(20) }
}

pub fn sender(url: &Url, secret: &str) -> Sender {
    Sender::new(endpoints(&[url]), key(secret), 31337, patience(), FeeCaps::default())
}

impl World {
    pub async fn new() -> Self {
        Self::on(Anvil::on_demand()).await
    }

    pub async fn on(anvil: Anvil) -> Self {
        let sender = sender(&anvil.url, FUNDED_KEY);
        let deployed = sender.deploy(&Artifact::built_in().unwrap(), &mut |_| ()).await.unwrap();
        let root = key(ROOT_KEY);
        let roots = vec![key(OTHER_KEY).address(), root.address()];
        let salt = B256::repeat_byte(7);
        let nodes = endpoints(&[&anvil.url]);
        let pin = RealmPin {
            chain_id: 31337,
            contract: deployed.contract,
            code_hash: deployed.code_hash,
            realm: sign::realm_id(31337, deployed.contract, 1, &roots, salt),
            threshold: 1,
            roots,
            salt,
            deployed_block: deployed.block,
            genesis_hash: source::genesis_hash(nodes.iter().next().unwrap()).await.unwrap(),
        };
        let world = Self { anvil, pin, sender, root };
        let role = Entry::RoleSet(payload::RoleSet {
            actor: world.sender.address(),
            roles: Roles::ADMIN | Roles::REVOKER,
            x25519: B256::ZERO,
        });
        world.by_roots(0, &[sign::write(shard::GOVERNANCE, &role)]).await.unwrap();
        world
    }

    /// Sends writes signed by the second root.
    pub async fn by_roots(&self, nonce: u64, writes: &[Write]) -> Result<Mined, ChainError> {
        let domain = sign::domain(self.pin.chain_id, self.pin.contract);
        let digest = sign::append_by_roots_digest(&domain, self.pin.realm, U256::from(nonce), writes);
        let signature = self.root.sign(&digest).unwrap().as_bytes().to_vec().into();
        let proof = RootProof {
            nonce: U256::from(nonce),
            threshold: U256::ONE,
            roots: self.pin.roots.clone(),
            salt: self.pin.salt,
        };
        let signatures = vec![RootSignature { index: 1, signature }];
        self.sender.append_by_roots(self.pin.contract, self.pin.realm, proof, writes, signatures, &mut |_| ()).await
    }

    /// Appends directory entries whose payload is the given text.
    pub async fn note(&self, texts: &[&str]) -> Mined {
        let writes: Vec<Write> = texts.iter().map(|text| note(text)).collect();
        self.sender.append_many(self.pin.contract, self.pin.realm, &writes, &mut |_| ()).await.unwrap()
    }

    /// A ledger that asks these nodes.
    pub fn ledger(&self, trust: HeaderTrust, urls: &[&Url]) -> Ledger {
        let urls = urls.iter().copied().cloned().collect();
        let realm = RealmFile::new(self.pin.clone(), ProfileName::Dev, trust, urls).unwrap();
        Ledger::new(&realm, limits()).unwrap()
    }
}

/// A write to the directory shard; the contract does not look into it.
pub fn note(text: &str) -> Write {
    Write { shard: shard::DIRECTORY, kind: Kind::USER_ADD.0, data: sign::clear(text.as_bytes()) }
}

/// The texts of directory entries.
pub fn texts(entries: &std::collections::BTreeMap<u64, Vec<PlacedEntry>>) -> Vec<String> {
    let notes = entries.get(&shard::DIRECTORY).expect("the shard was asked for");
    notes.iter().map(|placed| String::from_utf8(placed.entry.data[1..].to_vec()).unwrap()).collect()
}

/// One look with all three fixed shards and today's batches.
pub async fn look(ledger: &mut Ledger, cursor: &Cursor) -> Result<Update, ChainError> {
    let heads = ledger.heads().await?;
    let shards = shard::access_shards(heads.latest.time, 3600);
    ledger.update(cursor, &heads, &shards).await
}
