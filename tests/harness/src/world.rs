//! A realm on a chain of its own: the registry deployed, two roots of which one is enough, an account with ADMIN, ISSUER and
//! REVOKER, and, where wanted, the records that most tests need.

use std::{cell::Cell, time::Duration};

use alloy_primitives::{Address, B256, U256, hex};
use countersign_certificate::{Fingerprint20, Id};
use countersign_chain::{
    ChainError,
    contract::Artifact,
    deployment::{Deployment, Plan, Way, address_by_factory},
    endpoints::{Endpoints, Limits},
    keys::ActorKey,
    profile::{ChainProfile, FeeModel, ProfileName},
    realm_file::{HeaderTrust, RealmFile},
    send::{FeeCaps, Mined, Patience, RootProof, RootSignature, Sender},
    source::{self, HeaderSource},
    sync::Ledger,
};
use countersign_delivery::SecretKey;
use countersign_registry::{
    Kind, RealmPin,
    entries::{Entry, Roles, Targets, payload},
    shard,
    sign::{self, Write},
};
use url::Url;

use crate::node::{Client, Node};

/// The first key of anvil's well-known mnemonic, as the next three; each holds 10,000 test coins.
pub const ADMIN_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
/// The second: the root that signs.
pub const ROOT_KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
/// The third: a device, or whoever else a test needs.
pub const DEVICE_KEY: &str = "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";
/// The fourth: the root that does not sign.
pub const OTHER_ROOT_KEY: &str = "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6";

/// Chain and realm.
pub struct World {
    /// The chain's node: anvil, or geth in its place.
    pub anvil: Node,
    /// The realm's pin.
    pub pin: RealmPin,
    /// The account with roles.
    pub admin: Sender,
    /// To which deliveries to that account are sealed.
    pub admin_sealing: SecretKey,
    /// The root that signs.
    pub root: ActorKey,
    root_nonce: Cell<u64>,
}

/// A key from its hexadecimal digits.
#[must_use]
pub fn key(hex: &str) -> ActorKey {
    ActorKey::from_hex(hex).unwrap()
}

/// Less time for a call than people get.
#[must_use]
pub fn limits() -> Limits {
    Limits { call: Duration::from_secs(2), ..Limits::default() }
}

/// A write to the directory shard.
#[must_use]
pub fn note(text: &str) -> Write {
    Write { shard: shard::DIRECTORY, kind: Kind::USER_ADD.0, data: sign::clear(text.as_bytes()) }
}

/// How long a test waits for a receipt.
#[must_use]
pub fn patience() -> Patience {
    Patience { poll: Duration::from_millis(20), stuck: Duration::from_secs(60), give_up: Duration::from_secs(20) }
}

/// The place for the registry on a node's chain, seen through the endpoints of the test's choice.
pub async fn deployment(node: &Node, endpoints: Endpoints) -> Deployment {
    deployment_of(node, endpoints, FeeModel::Gas, Artifact::built_in().unwrap()).await
}

/// The same with other fees, or for other code.
pub async fn deployment_of(node: &Node, endpoints: Endpoints, fees: FeeModel, artifact: Artifact) -> Deployment {
    let genesis_hash = source::genesis_hash(node.endpoints().iter().next().unwrap()).await.unwrap();
    let profile = ChainProfile::new(ProfileName::Dev, node.chain_id).unwrap();
    let source = HeaderSource::of_chain(endpoints.clone(), profile, node.chain_id, genesis_hash, HeaderTrust::Dev);
    Deployment::new(endpoints, source, fees, artifact)
}

impl World {
    /// On anvil.
    pub async fn new() -> Self {
        Self::on(Node::on_demand()).await
    }

    /// On either client.
    pub async fn of(client: Client) -> Self {
        Self::on(client.start().await).await
    }

    /// On a node of the test's choice.
    pub async fn on(anvil: Node) -> Self {
        let admin = Sender::new(anvil.endpoints(), key(ADMIN_KEY), anvil.chain_id, patience(), FeeCaps::default());
        let deployment = deployment(&anvil, anvil.endpoints()).await;
        let deployed = match anvil.client {
            // Nothing can be proved under anvil's block 0, whose header does not show the accounts that are there.
            Client::Anvil => {
                let contract = address_by_factory(&Artifact::built_in().unwrap());
                let (account, balance, fee, caps) = (admin.address(), U256::MAX, U256::MAX, FeeCaps::default());
                let plan = Plan { account, balance, contract, way: Way::Factory, gas: u64::MAX, fee, caps };
                deployment.carry_out(&admin, &plan, &mut |_| ()).await.unwrap()
            }
            Client::Geth => deployment.ensure(&admin, true).await.unwrap(),
        };
        let (contract, code_hash) = (deployed.proved.contract, deployed.proved.code_hash);
        let root = key(ROOT_KEY);
        let (roots, salt) = (vec![key(OTHER_ROOT_KEY).address(), root.address()], B256::repeat_byte(7));
        let pin = RealmPin {
            chain_id: anvil.chain_id,
            contract,
            code_hash,
            realm: sign::realm_id(anvil.chain_id, contract, 1, &roots, salt),
            threshold: 1,
            roots,
            salt,
            deployed_block: deployed.block(),
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

    /// Writes signed by the root, with the nonce that is next.
    pub async fn by_roots(&self, writes: &[Write]) {
        self.by_roots_at(self.root_nonce.get(), writes).await.unwrap();
        self.root_nonce.set(self.root_nonce.get().checked_add(1).unwrap());
    }

    /// Writes signed by the root, with a nonce of the test's choice.
    ///
    /// # Errors
    /// The contract's refusal.
    pub async fn by_roots_at(&self, nonce: u64, writes: &[Write]) -> Result<Mined, ChainError> {
        let nonce = U256::from(nonce);
        let domain = sign::domain(self.pin.chain_id, self.pin.contract);
        let digest = sign::append_by_roots_digest(&domain, self.pin.realm, nonce, writes);
        let signature = self.root.sign(&digest).unwrap().as_bytes().to_vec().into();
        let proof = RootProof { nonce, threshold: U256::ONE, roots: self.pin.roots.clone(), salt: self.pin.salt };
        let signatures = [RootSignature { index: 1, signature }];
        let (contract, realm) = (self.pin.contract, self.pin.realm);
        self.admin.append_by_roots(contract, realm, proof, writes, &signatures, &mut |_| ()).await
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

    /// Number of the newest block.
    pub async fn latest_number(&self) -> u64 {
        self.anvil.number("latest").await
    }

    /// Time of the newest block, Unix seconds.
    pub async fn latest_time(&self) -> u64 {
        self.anvil.time("latest").await
    }

    /// Appends directory entries whose payload is the given text, which the contract does not look into.
    pub async fn note(&self, texts: &[&str]) -> Mined {
        let writes: Vec<Write> = texts.iter().map(|text| note(text)).collect();
        self.admin.append_many(self.pin.contract, self.pin.realm, &writes, &mut |_| ()).await.unwrap()
    }

    /// A ledger that asks these nodes, for two seconds each.
    #[must_use]
    pub fn ledger(&self, trust: HeaderTrust, urls: &[&Url]) -> Ledger {
        let urls = urls.iter().copied().cloned().collect();
        let realm = RealmFile::new(self.pin.clone(), ProfileName::Dev, trust, urls).unwrap();
        Ledger::new(&realm, limits()).unwrap()
    }

    /// A realm file that names the node.
    #[must_use]
    pub fn realm_file(&self) -> RealmFile {
        let endpoints = vec![self.anvil.url.clone()];
        RealmFile::new(self.pin.clone(), ProfileName::Dev, HeaderTrust::Dev, endpoints).unwrap()
    }
}

/// The records that most tests need.
pub struct Records {
    /// alice.
    pub user: Id,
    /// The host.
    pub host: Id,
    /// The login `deploy` for alice there.
    pub grant: Id,
    /// Her key's fingerprint.
    pub key: Fingerprint20,
    /// Its record.
    pub key_id: Id,
}

/// A fixed Ed25519 public key in OpenSSH's form.
pub const ALICE_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti alice\n";

/// What stands base64 encoded in it.
const ALICE_BLOB: [u8; 51] =
    hex!("0000000b7373682d6564323535313900000020b33eaef37ea2df7caa010defdea34e241f65f1b529a4f43ed14327f5c54aab62");

impl World {
    /// User alice with a plain key, this host, and a grant of the login `deploy` to her here; all final.
    pub async fn populate(&self) -> Records {
        let user = payload::UserAdd { r: [1; 16].into(), login: "alice".into(), displayName: "Alice".into() };
        let host = payload::HostAdd {
            r: [2; 16].into(),
            name: "web1".into(),
            owner: Default::default(),
            hostKey: Default::default(),
        };
        let user = self.add(1, &Entry::UserAdd(user)).await;
        let host = self.add(2, &Entry::HostAdd(host)).await;
        let key = Fingerprint20::of_blob(&ALICE_BLOB);
        let added = payload::KeyAdd {
            r: [3; 16].into(),
            user: user.0.into(),
            publicKey: ALICE_BLOB.into(),
            purposes: 1,
            notAfter: 0,
            comment: "laptop".into(),
        };
        let key_id = self.add(3, &Entry::KeyAdd(added)).await;
        let grant = self.add(4, &Entry::GrantAdd(grant(4, user, host))).await;
        self.anvil.finalize().await;
        Records { user, host, grant, key, key_id }
    }
}

/// A grant of the login `deploy` by plain key or certificate.
#[must_use]
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

/// The device's ledger address.
#[must_use]
pub fn device_address() -> Address {
    key(DEVICE_KEY).address()
}

/// An entry that locks a key.
#[must_use]
pub fn key_lock(key: Fingerprint20) -> Entry {
    Entry::Lock(Targets::Keys(vec![key]))
}

/// A write of a kind that this version does not know.
#[must_use]
pub fn unknown(kind: u16) -> Write {
    let shard = shard::write_shard(Kind(kind)).unwrap();
    Write { shard, kind, data: sign::clear(b"?") }
}
