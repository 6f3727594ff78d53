//! Two realms on one chain, the calls that write to them, and the host that reads one of them.
//!
//! Calls are asked for first (`eth_call` tells the contract's exact refusal) and then really sent, many to a block, whether they
//! will be refused or not: nodes sign for whoever a test names.

use std::{cell::Cell, collections::BTreeMap};

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{Panic, PanicKind, SolCall, SolError, SolInterface};
use attacks::{
    stage::on_time,
    world::{HostFiles, World},
};
use countersign_agent::{
    agent::Agent,
    cycle::Failure,
    envelope::Identity,
    files::{Directory, Owners},
    state::{Found, State},
};
use countersign_certificate::Id;
use countersign_chain::{
    ChainError,
    contract::{Artifact, ENTRY_TOPIC, IRegistry, Refusal},
    endpoints::Endpoints,
    keys::ActorKey,
    profile::ProfileName,
    realm_file::{HeaderTrust, RealmFile},
    send::{RootProof, RootSignature, SignedAppend},
};
use countersign_delivery::{DirectoryStore, SecretKey};
use countersign_registry::{
    Effective, EntryRef, Kind, LogEntry, RealmPin,
    head::Meta,
    sign::{self, Write},
};
use serde_json::{Value, json};

/// How many roots of four must sign.
pub(crate) const THRESHOLD: usize = 3;
/// Calls whose receipts are asked for one by one.
const FEW: usize = 32;
/// Calls whose receipts, refused, fit into one answer.
const MANY: usize = 400;
/// No transaction may ask for more.
const GAS: u64 = 1 << 24;
/// A deadline that no test lives to see.
pub(crate) const NEVER: U256 = U256::from_limbs([u64::MAX, 0, 0, 0]);

/// With it, a host looks for deliveries.
const DEVICE: &str = "\
[device]
ledger-key = \"ROOT/ledger.json\"
ledger-password-file = \"ROOT/ledger.password\"
sealing-key = \"ROOT/x25519\"
[[block-store]]
directory = \"ROOT/blocks\"
";

pub(crate) fn key(seed: u8) -> ActorKey {
    ActorKey::from_secret(&[seed; 32]).unwrap()
}

/// The signature as the contract takes it.
pub(crate) fn sign_with(key: &ActorKey, digest: &B256) -> Bytes {
    key.sign(digest).unwrap().as_bytes().to_vec().into()
}

/// A realm and its roots' keys.
pub(crate) struct Realm {
    pub(crate) id: B256,
    pub(crate) roots: Vec<ActorKey>,
    pub(crate) salt: B256,
    /// The next one; counted on by [`Ground::govern`].
    pub(crate) nonce: Cell<u64>,
}

impl Realm {
    fn new(chain_id: u64, contract: Address, seeds: [u8; 4], salt: B256) -> Self {
        let roots = seeds.map(key).to_vec();
        let addresses: Vec<Address> = roots.iter().map(ActorKey::address).collect();
        let id = sign::realm_id(chain_id, contract, 3, &addresses, salt);
        Self { id, roots, salt, nonce: Cell::new(0) }
    }

    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.roots.iter().map(ActorKey::address).collect()
    }

    /// The set in force, as anybody can give it.
    pub(crate) fn proof(&self, nonce: u64) -> RootProof {
        RootProof {
            nonce: U256::from(nonce),
            threshold: U256::from(THRESHOLD),
            roots: self.addresses(),
            salt: self.salt,
        }
    }
}

/// A call of the registry.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) input: Bytes,
}

/// What became of a call in a block.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    pub(crate) hash: B256,
    pub(crate) accepted: bool,
    pub(crate) entries: Vec<LogEntry>,
}

/// What solc's decoder says to a length that no memory holds: `Panic(0x41)`.
fn out_of_memory() -> Bytes {
    Panic::from(PanicKind::ResourceError).abi_encode().into()
}

/// Why the contract refuses: its error, or nothing where the ABI decoder does.
pub(crate) type Refused = Option<Refusal>;

/// Chain, contract, realms.
pub(crate) struct Ground {
    pub(crate) world: World,
    pub(crate) contract: Address,
    pub(crate) own: Realm,
    pub(crate) other: Realm,
    /// Sends what others signed; holds no role anywhere.
    pub(crate) relay: Address,
    node: Endpoints,
}

impl Ground {
    pub(crate) async fn new() -> Self {
        let world = World::new().await;
        let (chain, contract) = (world.pin.chain_id, world.pin.contract);
        let own = Realm::new(chain, contract, [0x11, 0x12, 0x13, 0x14], B256::repeat_byte(1));
        let other = Realm::new(chain, contract, [0x21, 0x22, 0x23, 0x24], B256::repeat_byte(2));
        let node = world.anvil.endpoints();
        let ground = Self { world, contract, own, other, relay: key(0x31).address(), node };
        ground.call("anvil_autoImpersonateAccount", json!([true])).await;
        ground.call("evm_setBlockGasLimit", json!(["0xffffffffff"])).await;
        ground.fund(ground.relay).await;
        ground
    }

    pub(crate) async fn call(&self, method: &'static str, params: Value) -> Value {
        self.node.iter().next().unwrap().call(method, params).await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) async fn fund(&self, account: Address) {
        self.call("anvil_setBalance", json!([account, "0xd3c21bcecceda1000000"])).await;
    }

    /// The registry a second time.
    pub(crate) async fn deploy_another(&self) -> Address {
        self.world.admin.create(Artifact::built_in().unwrap().bytecode, &mut |_| ()).await.unwrap().0
    }

    fn by(&self, from: Address, call: &impl SolCall) -> Call {
        Call { from, to: self.contract, input: call.abi_encode().into() }
    }

    pub(crate) fn append(&self, from: Address, realm: B256, write: &Write) -> Call {
        let Write { shard, kind, data } = write.clone();
        self.by(from, &IRegistry::appendCall { realm, shard, kind, data })
    }

    pub(crate) fn append_many(&self, from: Address, realm: B256, writes: &[Write]) -> Call {
        self.by(from, &IRegistry::appendManyCall { realm, writes: abi(writes) })
    }

    /// The digest that an actor signs, for this chain and contract.
    pub(crate) fn append_digest(
        &self,
        actor: Address,
        realm: B256,
        writes: &[Write],
        nonce: u64,
        deadline: U256,
    ) -> B256 {
        let domain = sign::domain(self.world.pin.chain_id, self.contract);
        sign::append_digest(&domain, actor, realm, writes, U256::from(nonce), deadline)
    }

    /// Relayed, whatever the signature is.
    pub(crate) fn relayed(
        &self,
        actor: Address,
        realm: B256,
        writes: &[Write],
        nonce: u64,
        deadline: U256,
        signature: Bytes,
    ) -> Call {
        let nonce = U256::from(nonce);
        let signed = SignedAppend { actor, realm, writes: writes.to_vec(), nonce, deadline, signature };
        Call { from: self.relay, to: self.contract, input: signed.call() }
    }

    /// Signed by the actor itself, and relayed.
    pub(crate) fn by_signature(&self, key: &ActorKey, realm: B256, writes: &[Write], nonce: u64) -> Call {
        let digest = self.append_digest(key.address(), realm, writes, nonce, NEVER);
        self.relayed(key.address(), realm, writes, nonce, NEVER, sign_with(key, &digest))
    }

    /// The digest that roots sign.
    pub(crate) fn roots_digest(&self, realm: B256, nonce: u64, writes: &[Write]) -> B256 {
        let domain = sign::domain(self.world.pin.chain_id, self.contract);
        sign::append_by_roots_digest(&domain, realm, U256::from(nonce), writes)
    }

    /// With whatever proof and signatures.
    pub(crate) fn rooted(&self, realm: B256, proof: RootProof, writes: &[Write], signatures: &[RootSignature]) -> Call {
        let signatures = sign::pack_root_signatures(signatures).unwrap();
        self.by(self.relay, &IRegistry::appendByRootsCall { realm, proof, writes: abi(writes), signatures })
    }

    /// In the name of the first roots of `realm`, by these keys.
    pub(crate) fn by_roots(&self, realm: &Realm, signers: &[&ActorKey], writes: &[Write], nonce: u64) -> Call {
        let digest = self.roots_digest(realm.id, nonce, writes);
        let signature = |(index, key): (u8, &&ActorKey)| RootSignature { index, signature: sign_with(key, &digest) };
        let signatures: Vec<RootSignature> = (0..).zip(signers).map(signature).collect();
        self.rooted(realm.id, realm.proof(nonce), writes, &signatures)
    }

    /// What the roots of a realm decide, with the nonce that is next.
    pub(crate) fn decided(&self, realm: &Realm, writes: &[Write]) -> Call {
        let signers: Vec<&ActorKey> = realm.roots.iter().take(THRESHOLD).collect();
        let nonce = realm.nonce.get();
        realm.nonce.set(nonce + 1);
        self.by_roots(realm, &signers, writes, nonce)
    }

    /// The roots of a realm decide, and it must be accepted.
    pub(crate) async fn govern(&self, realm: &Realm, writes: &[Write]) -> Receipt {
        self.accepted(&[self.decided(realm, writes)]).await.remove(0)
    }

    /// What the contract would say.
    pub(crate) async fn ask(&self, call: &Call) -> Result<(), Refused> {
        let object = json!({ "from": call.from, "to": call.to, "input": call.input, "gas": format!("{GAS:#x}") });
        match self.node.iter().next().unwrap().call::<Value>("eth_call", json!([object, "latest"])).await {
            Ok(_) => Ok(()),
            Err(ChainError::Rpc { data, .. }) => Err(data
                .filter(|data| !data.is_empty() && *data != out_of_memory())
                .map(|data| Refusal::abi_decode(&data).expect("one of the contract's errors"))),
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends calls and makes one block of them; those of one sender are in the order given.
    pub(crate) async fn mine(&self, calls: &[Call]) -> Vec<Receipt> {
        self.call("evm_setAutomine", json!([false])).await;
        let mut hashes = Vec::new();
        for call in calls {
            let object = json!({ "from": call.from, "to": call.to, "input": call.input, "gas": format!("{GAS:#x}") });
            let hash = self.call("eth_sendTransaction", json!([object])).await;
            hashes.push(hash.as_str().unwrap().parse::<B256>().unwrap());
        }
        self.world.anvil.mine(1).await;
        self.call("evm_setAutomine", json!([true])).await;
        // Few calls may carry much, more than a node's one answer may.
        let receipts: Vec<Value> = if hashes.len() > FEW {
            let Value::Array(receipts) = self.call("eth_getBlockReceipts", json!(["latest"])).await else { panic!() };
            receipts
        } else {
            let mut receipts = Vec::new();
            for hash in &hashes {
                receipts.push(self.call("eth_getTransactionReceipt", json!([hash])).await);
            }
            receipts
        };
        let mut found: BTreeMap<B256, Receipt> = BTreeMap::new();
        for receipt in receipts {
            let hash = word(&receipt["transactionHash"]);
            let entries = receipt["logs"].as_array().unwrap().iter().map(|log| entry(log).1).collect();
            found.insert(hash, Receipt { hash, accepted: receipt["status"] == "0x1", entries });
        }
        hashes.iter().map(|hash| found.remove(hash).expect("all calls are in one block")).collect()
    }

    /// The same, and all must be accepted.
    pub(crate) async fn accepted(&self, calls: &[Call]) -> Vec<Receipt> {
        let receipts = self.mine(calls).await;
        for (receipt, call) in receipts.iter().zip(calls) {
            assert!(receipt.accepted, "refused: {:?}", self.ask(call).await);
        }
        receipts
    }

    /// Really sends what is refused, and compares all that the contracts have stored before and after.
    pub(crate) async fn refused_without_a_trace(&self, calls: &[Call], contracts: &[Address]) {
        let before = self.stored(contracts).await;
        for some in calls.chunks(MANY) {
            for (place, receipt) in self.mine(some).await.iter().enumerate() {
                assert!(!receipt.accepted && receipt.entries.is_empty(), "call {place} was accepted in a block");
            }
        }
        assert_eq!(self.stored(contracts).await, before, "a refused call has changed what is stored");
    }

    /// The root of everything that the contracts store.
    pub(crate) async fn stored(&self, contracts: &[Address]) -> Vec<Value> {
        let mut roots = Vec::new();
        for contract in contracts {
            let proof = self.call("eth_getProof", json!([contract, [], "latest"])).await;
            roots.push(proof["storageHash"].clone());
        }
        roots
    }

    /// All entries of a realm, with the place in their shard and the hash of their transaction, as a node tells.
    pub(crate) async fn log(&self, realm: &Realm) -> Vec<(EntryRef, LogEntry, B256)> {
        let filter = json!({ "fromBlock": "0x0", "address": self.contract, "topics": [ENTRY_TOPIC, realm.id] });
        let logs = self.call("eth_getLogs", json!([filter])).await;
        let mut next: BTreeMap<u64, u64> = BTreeMap::new();
        let mut placed = Vec::new();
        for log in logs.as_array().unwrap() {
            let (block, entry) = entry(log);
            let index = next.entry(entry.shard).or_default();
            let time = Meta::unpack(entry.meta).expect("three fields").time;
            placed.push((
                EntryRef { block, shard: entry.shard, index: *index, time },
                entry,
                word(&log["transactionHash"]),
            ));
            *index += 1;
        }
        placed
    }

    /// Time of the newest block.
    pub(crate) async fn now(&self) -> u64 {
        self.world.latest_time().await
    }

    fn pin(&self, realm: &Realm) -> RealmPin {
        let (threshold, roots) = (3, realm.addresses());
        RealmPin { realm: realm.id, threshold, roots, salt: realm.salt, ..self.world.pin.clone() }
    }
}

fn abi(writes: &[Write]) -> Vec<IRegistry::Write> {
    let each = |Write { shard, kind, data }: Write| IRegistry::Write { shard, kind, data };
    writes.iter().cloned().map(each).collect()
}

fn word(value: &Value) -> B256 {
    value.as_str().unwrap().parse().unwrap()
}

/// One log: its block, and the entry in it.
fn entry(log: &Value) -> (u64, LogEntry) {
    let topic = |index: usize| U256::from_be_bytes(word(&log["topics"][index]).0);
    let data: Bytes = log["data"].as_str().unwrap().parse().unwrap();
    let length: usize = U256::from_be_slice(&data[64..96]).to();
    let entry = LogEntry {
        shard: topic(2).to(),
        actor: Address::from_word(topic(3).into()),
        meta: U256::from_be_slice(&data[..32]),
        data: data.slice(96..96 + length),
    };
    let block = log["blockNumber"].as_str().unwrap();
    (u64::from_str_radix(block.trim_start_matches("0x"), 16).unwrap(), entry)
}

/// A host of the own realm, which also looks for deliveries.
pub(crate) struct Host {
    pub(crate) files: HostFiles,
    agent: Option<Agent>,
    identity: Identity,
}

impl Host {
    pub(crate) fn new(ground: &Ground, host: Id) -> Self {
        let pin = ground.pin(&ground.own);
        let (chain_id, contract, realm) = (pin.chain_id, pin.contract, pin.realm);
        let url = ground.world.anvil.url.to_string().parse().unwrap();
        let realm_file = RealmFile::new(pin, ProfileName::Dev, HeaderTrust::Dev, vec![url]).unwrap();
        let files = HostFiles::of(&realm_file, host, DEVICE);
        SecretKey::generate().unwrap().create_file(&files.path("x25519")).unwrap();
        key(0x32).store(&files.path("ledger.json"), "correct horse").unwrap();
        attacks::world::write_private(&files.path("ledger.password"), "correct horse\n");
        DirectoryStore::open(&files.path("blocks")).unwrap();
        let agent = Some(files.open());
        Self { files, agent, identity: Identity { chain_id, contract, realm, host } }
    }

    pub(crate) fn restart(&mut self) {
        drop(self.agent.take());
        self.agent = Some(self.files.open());
    }

    /// One cycle; why it failed, if it did.
    pub(crate) async fn cycle(&mut self, ground: &Ground) -> Option<Failure> {
        on_time(&ground.world, &self.files).await;
        self.agent.as_mut().unwrap().cycle().await.failure
    }

    /// A cycle that must publish the newest block.
    pub(crate) async fn publishes(&mut self, ground: &Ground) {
        assert_eq!(self.cycle(ground).await, None, "{}", self.files.log.text());
        let latest = ground.world.latest_number().await;
        assert_eq!(self.files.snapshot().facts().latest_block.number, latest);
    }

    pub(crate) fn reads(&self, shard: u64) -> bool {
        self.agent.as_ref().unwrap().shards_read().contains(&shard)
    }

    /// Makes everything final, has it published, and reads from the agent's own state what it took of it.
    pub(crate) async fn knows(&mut self, ground: &Ground) -> Effective {
        ground.world.anvil.mine(3).await;
        self.publishes(ground).await;
        self.agent.as_mut().unwrap().flush();
        let directory = Directory::open(&self.files.path("state"), Owners::process()).unwrap();
        let found = State::load(&directory, &self.identity, &[], 0).unwrap();
        let Found::State(mut state) = found else { panic!("{found:?}") };
        let published = state.published.expect("it has published").latest;
        state.replay.effective(published, &[]).unwrap()
    }
}

/// The shard of a kind as a writer gives it, by the table of docs/spec/registry.md.
pub(crate) fn asked_shard(kind: Kind, now: u64) -> u64 {
    match kind.class() {
        class @ 0..=2 => u64::from(class) << 32,
        0x03 => (3 << 32) | (now / 2_592_000),
        0x04..=0x06 => 4 << 32,
        0x07 => 5 << 32,
        0x08 => 6 << 32,
        0x09 => 7 << 32,
        spare => (u64::from(spare) - 8) << 32,
    }
}
