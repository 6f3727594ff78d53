//! What the agent's tests stand on: a real anvil with the registry deployed, a realm with a user, a host and grants, and a host
//! directory with its configuration. The chain mines when a test says so; it is killed by its pid when dropped.

#![allow(dead_code, unreachable_pub, reason = "every test binary uses another part of this module")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test support fails loudly")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use countersign_agent::agent::{Agent, Clocks};
use countersign_agent::config::Config;
use countersign_agent::log::Log;
use countersign_agent::receive::public_key_blob;
use countersign_certificate::{Fingerprint20, Id};
use countersign_chain::contract::Artifact;
use countersign_chain::endpoints::{Endpoints, Limits};
use countersign_chain::keys::ActorKey;
use countersign_chain::profile::ProfileName;
use countersign_chain::realm_file::{HeaderTrust, RealmFile};
use countersign_chain::send::{FeeCaps, Patience, RootProof, RootSignature, Sender};
use countersign_chain::source;
use countersign_delivery::SecretKey;
use countersign_registry::entries::{Entry, Kind, Roles, payload};
use countersign_registry::sign::{self, Write};
use countersign_registry::{RealmPin, shard};
use countersign_snapshot::{Clock, Snapshot, Trust};
use serde_json::{Value, json};

/// Keys of anvil's well-known mnemonic; each holds 10,000 test ether.
const ADMIN_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const ROOT_KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
pub const DEVICE_KEY: &str = "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";

pub fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("COUNTERSIGN_TOOLS")
        .or_else(|| {
            let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join(".tools"));
            above.into_iter().find(|tools| tools.is_dir()).map(Into::into)
        })
        .map(PathBuf::from)
        .expect("no .tools: run .ci/tools");
    let path = tools.join(format!("node_modules/@foundry-rs/{name}-linux-amd64/bin/{name}"));
    assert!(path.is_file(), "{} is missing: run .ci/tools", path.display());
    path
}

/// An anvil process that mines on each transaction and when told to; `safe` and `finalized` lag one and two blocks.
pub struct Anvil {
    child: Child,
    pub url: String,
    pub chain_id: u64,
    /// Where it is geth instead: the account that pays for blocks.
    payer: Option<String>,
}

impl Anvil {
    pub fn start() -> Self {
        let mut child = Command::new(tool("anvil"))
            .args(["--host", "127.0.0.1", "--port", "0", "--hardfork", "osaka", "--slots-in-an-epoch", "1"])
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
        Self { child, url: format!("http://{address}"), chain_id: 31337, payer: None }
    }

    /// The second client: `geth --dev`, which mines on each transaction and calls a block final with every 32nd one.
    pub async fn geth(program: &Path) -> Self {
        let mut child = Command::new(program)
            .args(["--dev", "--ipcdisable", "--nodiscover", "--port", "0", "--authrpc.port", "0"])
            .args(["--http", "--http.addr", "127.0.0.1", "--http.port", "0", "--http.api", "eth"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("geth starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = loop {
            let line = lines.next().expect("geth says where it listens").expect("UTF-8");
            if let Some((_, address)) =
                line.split_once("HTTP server started").and_then(|(_, rest)| rest.split_once("endpoint="))
            {
                break address.split_whitespace().next().expect("an address").to_owned();
            }
        };
        std::thread::spawn(move || for _ in lines.map_while(Result::ok) {});
        let mut node = Self { child, url: format!("http://{address}"), chain_id: 1337, payer: None };
        let accounts = node.call("eth_accounts", json!([])).await;
        node.payer = Some(accounts.get(0).and_then(Value::as_str).expect("the developer's account").to_owned());
        for key in [ADMIN_KEY, ROOT_KEY, DEVICE_KEY] {
            let to = ActorKey::from_hex(key).unwrap().address();
            node.pay(&json!({ "from": node.payer, "to": to, "value": "0x56bc75e2d63100000" })).await;
        }
        node
    }

    async fn pay(&self, transaction: &Value) {
        let hash = self.call("eth_sendTransaction", json!([transaction])).await;
        while self.call("eth_getTransactionReceipt", json!([hash])).await.is_null() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Mines until what is there now is final.
    pub async fn finalize(&self) {
        self.mine(if self.payer.is_some() { 64 } else { 3 }).await;
    }

    pub fn endpoints(&self) -> Endpoints {
        Endpoints::new(&[self.url.parse().unwrap()], Limits::default()).unwrap()
    }

    pub async fn call(&self, method: &'static str, params: Value) -> Value {
        let endpoints = self.endpoints();
        let answer = endpoints.iter().next().unwrap().call(method, params).await;
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn mine(&self, blocks: u64) {
        if let Some(payer) = &self.payer {
            for _ in 0..blocks {
                self.pay(&json!({ "from": payer, "to": payer })).await;
            }
            return;
        }
        self.call("anvil_mine", json!([format!("{blocks:#x}")])).await;
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A realm on a chain of its own, with one root; the admin's key holds ADMIN, ISSUER and REVOKER.
pub struct World {
    pub anvil: Anvil,
    pub pin: RealmPin,
    pub admin: Sender,
    pub admin_sealing: SecretKey,
    root: ActorKey,
    root_nonce: Cell<u64>,
}

fn sender(anvil: &Anvil, key: &str) -> Sender {
    let patience =
        Patience { poll: Duration::from_millis(20), stuck: Duration::from_secs(60), give_up: Duration::from_secs(20) };
    Sender::new(anvil.endpoints(), ActorKey::from_hex(key).unwrap(), anvil.chain_id, patience, FeeCaps::default())
}

impl World {
    pub async fn new() -> Self {
        Self::on(Anvil::start()).await
    }

    pub async fn on(anvil: Anvil) -> Self {
        let admin = sender(&anvil, ADMIN_KEY);
        let deployed = admin.deploy(&Artifact::built_in().unwrap(), &mut |_| ()).await.unwrap();
        let root = ActorKey::from_hex(ROOT_KEY).unwrap();
        let (roots, salt) = (vec![root.address()], B256::repeat_byte(7));
        let pin = RealmPin {
            chain_id: anvil.chain_id,
            contract: deployed.contract,
            code_hash: deployed.code_hash,
            realm: sign::realm_id(anvil.chain_id, deployed.contract, 1, &roots, salt),
            threshold: 1,
            roots,
            salt,
            deployed_block: deployed.block,
            genesis_hash: source::genesis_hash(anvil.endpoints().iter().next().unwrap()).await.unwrap(),
        };
        let admin_sealing = SecretKey::generate().unwrap();
        let world = Self { anvil, pin, admin, admin_sealing, root, root_nonce: Cell::new(0) };
        let role = Entry::RoleSet(payload::RoleSet {
            actor: world.admin.address(),
            roles: Roles::ADMIN | Roles::ISSUER | Roles::REVOKER,
            x25519: world.admin_sealing.public().to_bytes().into(),
        });
        world.by_roots(&[sign::write(shard::GOVERNANCE, &role)]).await;
        world
    }

    pub async fn by_roots(&self, writes: &[Write]) {
        let nonce = U256::from(self.root_nonce.get());
        let domain = sign::domain(self.pin.chain_id, self.pin.contract);
        let digest = sign::append_by_roots_digest(&domain, self.pin.realm, nonce, writes);
        let signature = self.root.sign(&digest).unwrap().as_bytes().to_vec().into();
        let proof = RootProof { nonce, threshold: U256::ONE, roots: self.pin.roots.clone(), salt: self.pin.salt };
        let signatures = vec![RootSignature { index: 0, signature }];
        let (contract, realm) = (self.pin.contract, self.pin.realm);
        self.admin.append_by_roots(contract, realm, proof, writes, signatures, &mut |_| ()).await.unwrap();
        self.root_nonce.set(self.root_nonce.get().checked_add(1).unwrap());
    }

    /// After a reorg that took root writes back: so many.
    pub fn root_writes_are_gone(&self, count: u64) {
        self.root_nonce.set(self.root_nonce.get().checked_sub(count).unwrap());
    }

    /// Appends an entry as the admin; dated shards are filled in by the contract.
    pub async fn append(&self, shard: u64, entry: &Entry) {
        let write = sign::write(shard, entry);
        self.admin.append(self.pin.contract, self.pin.realm, &write, &mut |_| ()).await.unwrap();
    }

    /// Adds a directory record and returns its id.
    pub async fn add(&self, seed: u8, entry: &Entry) -> Id {
        self.append(shard::DIRECTORY, entry).await;
        sign::record_id(entry.kind(), self.admin.address(), [seed; 16])
    }

    pub async fn latest_number(&self) -> u64 {
        let text = self.anvil.call("eth_blockNumber", json!([])).await;
        u64::from_str_radix(text.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }

    /// Time of the newest block, Unix seconds.
    pub async fn latest_time(&self) -> u64 {
        let block = self.anvil.call("eth_getBlockByNumber", json!(["latest", false])).await;
        let text = block.get("timestamp").and_then(Value::as_str).unwrap().to_owned();
        u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
    }

    pub fn realm_file(&self) -> RealmFile {
        let endpoints = vec![self.anvil.url.parse().unwrap()];
        RealmFile::new(self.pin.clone(), ProfileName::Dev, HeaderTrust::Dev, endpoints).unwrap()
    }
}

/// The records that most tests need.
pub struct Records {
    pub user: Id,
    pub host: Id,
    pub grant: Id,
    pub key: Fingerprint20,
    pub key_id: Id,
}

/// A fixed Ed25519 public key in OpenSSH's form.
pub const ALICE_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti alice\n";

impl World {
    /// User alice with a plain key, this host, and a grant of the login `deploy` to her here; all final.
    pub async fn populate(&self) -> Records {
        let user = self
            .add(
                1,
                &Entry::UserAdd(payload::UserAdd {
                    r: [1; 16].into(),
                    login: "alice".into(),
                    displayName: "Alice".into(),
                }),
            )
            .await;
        let host = self
            .add(
                2,
                &Entry::HostAdd(payload::HostAdd {
                    r: [2; 16].into(),
                    name: "web1".into(),
                    owner: Default::default(),
                    hostKey: Default::default(),
                }),
            )
            .await;
        let blob = public_key_blob(ALICE_KEY).unwrap();
        let key = Fingerprint20::of_blob(&blob);
        let key_id = self
            .add(
                3,
                &Entry::KeyAdd(payload::KeyAdd {
                    r: [3; 16].into(),
                    user: user.0.into(),
                    publicKey: blob.into(),
                    purposes: 1,
                    notAfter: 0,
                    comment: "laptop".into(),
                }),
            )
            .await;
        let grant = self.add(4, &Entry::GrantAdd(grant(4, user, host))).await;
        self.anvil.finalize().await;
        Records { user, host, grant, key, key_id }
    }
}

/// A grant of the login `deploy` by plain key or certificate.
pub fn grant(seed: u8, user: Id, host: Id) -> payload::GrantAdd {
    payload::GrantAdd {
        r: [seed; 16].into(),
        subject: user.0.into(),
        hosts: vec![host.0.into()],
        labels: Vec::new(),
        allHosts: false,
        logins: vec!["deploy".into()],
        via: 3,
        maxTtl: 0,
        approvals: 0,
        forcedCommand: String::new(),
        sourceAddresses: Vec::new(),
        intervals: Vec::new(),
        notAfter: 0,
        permits: 1,
    }
}

/// A log that can be read.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub fn log(&self) -> Log {
        Log::plain(Box::new(self.clone()))
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A clock that runs like the machine's, shifted by what a test says.
#[derive(Clone, Default)]
pub struct Shift(Arc<Mutex<i64>>);

impl Shift {
    pub fn set(&self, seconds: i64) {
        *self.0.lock().unwrap() = seconds;
    }

    pub fn clocks(&self) -> Clocks {
        let shift = self.clone();
        Box::new(move || {
            let clock = Clock::now()?;
            let unix_secs = clock.unix_secs.saturating_add_signed(*shift.0.lock().unwrap());
            Ok(Clock { unix_secs, ..clock })
        })
    }
}

/// A host's files.
pub struct HostFiles {
    pub directory: tempfile::TempDir,
    pub log: Lines,
    pub shift: Shift,
}

impl HostFiles {
    /// Realm file and configuration for this host, and `extra` lines of configuration.
    pub fn new(world: &World, host: Id, extra: &str) -> Self {
        Self::of(&world.realm_file(), host, extra)
    }

    /// The same with a realm file of the test's own.
    pub fn of(realm: &RealmFile, host: Id, extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let files = Self { directory, log: Lines::default(), shift: Shift::default() };
        realm.create(&files.path("realm.toml")).unwrap();
        let root = files.directory.path().display().to_string();
        let extra = extra.replace("ROOT", &root);
        let text = format!(
            "realm-file = \"{root}/realm.toml\"\nhost = \"{host}\"\nstate-dir = \"{root}/state\"\ngroup = \"root\"\n{extra}"
        );
        std::fs::write(files.path("agent.toml"), text).unwrap();
        std::fs::set_permissions(files.path("agent.toml"), std::fs::Permissions::from_mode(0o644)).unwrap();
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self) -> Config {
        Config::load(&self.path("agent.toml")).unwrap()
    }

    /// Opens the agent; only one at a time can be.
    pub fn open(&self) -> Agent {
        Agent::open(self.config(), self.log.log(), self.shift.clocks()).unwrap()
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot::open(&self.path("state/snapshot"), Trust::owner(nix::unistd::geteuid().as_raw())).unwrap()
    }

    /// Every file of the snapshot with its bytes.
    pub fn snapshot_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for audience in ["access", "accounts"] {
            for entry in std::fs::read_dir(self.path("state/snapshot").join(audience)).unwrap() {
                let path = entry.unwrap().path();
                files.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
        files
    }

    pub fn status(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("state/status.json")).unwrap()).unwrap()
    }

    /// Names of the files in the state directory that were set aside.
    pub fn set_aside(&self) -> Vec<String> {
        std::fs::read_dir(self.path("state"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".corrupt-"))
            .collect()
    }
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The device's ledger address.
pub fn device_address() -> Address {
    ActorKey::from_hex(DEVICE_KEY).unwrap().address()
}

pub fn key_lock(key: Fingerprint20) -> Entry {
    Entry::Lock(countersign_registry::entries::Targets::Keys(vec![key]))
}

/// A write of a kind that this version does not know.
pub fn unknown(kind: u16) -> Write {
    let shard = shard::write_shard(Kind(kind)).unwrap();
    Write { shard, kind, data: sign::clear(b"?") }
}
