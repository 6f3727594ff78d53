//! A realm on the scenario's chain, governed by two of three roots. What a scenario is not about is written here through the
//! libraries, many entries to a transaction; what it is about, it writes itself, by the program that a person would use.

use alloy_primitives::{Address, B256, FixedBytes, U256, hex};
use countersign_certificate::{Digest32, Id, merkle};
use countersign_chain::{
    contract::Artifact,
    deployment::Deployment,
    endpoints::{Endpoints, Limits},
    keys::ActorKey,
    profile::ProfileName,
    realm_file::{HeaderTrust, RealmFile},
    send::{FeeCaps, Mined, Patience, RootProof, RootSignature, Sender},
    source::HeaderSource,
};
use countersign_registry::{
    Entry, RealmPin,
    entries::{Roles, payload},
    shard,
    sign::{self, Write},
};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{anvil::Anvil, machine, machine::KeyFile, wait};

/// The realm file, where the agent and the command line look for it.
pub const REALM_FILE: &str = "/etc/countersign/realm.toml";

const CHAIN_ID: u64 = 31337;
const THRESHOLD: u64 = 2;

/// Settings of a realm, by the keys of `Settings` in `Entries.sol`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether only logged certificates count.
    pub require_logged: bool,
    /// Seconds.
    pub max_ttl: u64,
    /// Seconds.
    pub max_staleness: u64,
    /// Watchdogs that must countersign a batch.
    pub countersign_quorum: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { require_logged: true, max_ttl: 3600, max_staleness: 300, countersign_quorum: 0 }
    }
}

/// An account that writes.
pub struct Actor {
    /// Its address.
    pub address: Address,
    /// Its key, as `COUNTERSIGN_ACTOR_KEY` takes it.
    pub secret: String,
    sender: Sender,
}

impl Actor {
    /// A record's id, and its entry.
    #[must_use]
    pub fn record(&self, make: impl FnOnce(FixedBytes<16>) -> Entry) -> (Id, Entry) {
        record(self.address, make)
    }
}

/// A record by `actor`: random bytes, the entry that `make` builds around them, and the id that follows.
fn record(actor: Address, make: impl FnOnce(FixedBytes<16>) -> Entry) -> (Id, Entry) {
    let r = FixedBytes::<16>::from(random());
    let entry = make(r);
    (sign::record_id(entry.kind(), actor, r.0), entry)
}

/// Random bytes for ids; uniqueness is all that counts here.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut source = std::fs::File::open("/dev/urandom").expect("/dev/urandom");
    std::io::Read::read_exact(&mut source, &mut bytes).expect("random bytes");
    bytes
}

/// A realm.
pub struct Realm {
    /// Its pin and endpoints, as [`REALM_FILE`] says.
    pub file: RealmFile,
    /// ADMIN.
    pub admin: Actor,
    /// ISSUER.
    pub issuer: Actor,
    /// REVOKER.
    pub revoker: Actor,
    /// The user's device: a MEMBER once a scenario has bound it.
    pub device: Actor,
    runtime: Runtime,
    roots: Vec<ActorKey>,
    root_nonce: u64,
}

impl Realm {
    /// Deploys the contract, writes [`REALM_FILE`], and gives roles and settings, by two of three roots.
    ///
    /// # Panics
    /// Where the chain refuses.
    #[must_use]
    pub fn create(anvil: &Anvil, settings: Settings) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let url = url::Url::parse(&anvil.url()).expect("anvil's URL");
        let endpoints = Endpoints::new(std::slice::from_ref(&url), Limits::default()).expect("an endpoint");
        let file = {
            let pin = runtime.block_on(deploy(anvil, &endpoints));
            RealmFile::new(pin, ProfileName::Dev, HeaderTrust::Dev, vec![url]).expect("a realm file")
        };
        machine::write(REALM_FILE, &file.to_toml().expect("TOML"), 0o644);

        let actor = |name| actor(&endpoints, &file, name);
        let (admin, issuer, revoker, device) = (actor(0xad), actor(0x15), actor(0xde), actor(0xd1));
        let accounts = [&admin, &issuer, &revoker, &device].map(|actor| actor.address.to_string());
        anvil.fund(&accounts.each_ref().map(String::as_str));
        let roots = root_keys();
        let mut realm = Self { admin, issuer, revoker, device, runtime, roots, root_nonce: 0, file };

        let role = |actor: &Actor, roles: u64| {
            Entry::RoleSet(payload::RoleSet { actor: actor.address, roles, x25519: B256::ZERO })
        };
        let item = |key: u16, value: u64| payload::Setting { key, value };
        let entries = [
            role(&realm.admin, Roles::ADMIN),
            role(&realm.issuer, Roles::ISSUER),
            role(&realm.revoker, Roles::REVOKER),
            Entry::Settings(payload::Settings {
                items: vec![
                    item(1, settings.require_logged.into()),
                    item(2, settings.max_ttl),
                    item(3, settings.countersign_quorum),
                    item(4, settings.max_staleness),
                ],
            }),
        ];
        realm.by_roots(&entries);
        realm
    }

    /// One more account, with coins and without any role; `name` is each byte of its key.
    ///
    /// # Panics
    /// Where the chain refuses.
    #[must_use]
    pub fn new_actor(&self, anvil: &Anvil, name: u8) -> Actor {
        let endpoints = Endpoints::new(&self.file.endpoints, Limits::default()).expect("an endpoint");
        let actor = actor(&endpoints, &self.file, name);
        anvil.fund(&[&actor.address.to_string()]);
        actor
    }

    /// One more account without coins: who signs what others send. `name` is each byte of its key; the roots are 0xa1, 0xa2 and 0xa3.
    ///
    /// # Panics
    /// Where the realm file has no endpoint.
    #[must_use]
    pub fn signer(&self, name: u8) -> Actor {
        let endpoints = Endpoints::new(&self.file.endpoints, Limits::default()).expect("an endpoint");
        actor(&endpoints, &self.file, name)
    }

    /// The realm's id.
    #[must_use]
    pub fn id(&self) -> B256 {
        self.file.pin.realm
    }

    /// Writes entries by a threshold of roots and waits until they are mined.
    ///
    /// # Panics
    /// Where the contract refuses.
    pub fn by_roots(&mut self, entries: &[Entry]) -> Mined {
        let pin = &self.file.pin;
        let writes = writes(entries);
        let domain = sign::domain(pin.chain_id, pin.contract);
        let nonce = U256::from(self.root_nonce);
        let digest = sign::append_by_roots_digest(&domain, pin.realm, nonce, &writes);
        let signatures = [2_u8, 0].map(|index| {
            let key = self.roots.get(usize::from(index)).expect("a root");
            let signature = key.sign(&digest).expect("a signature").as_bytes();
            RootSignature { index, signature: signature.to_vec().into() }
        });
        let threshold = U256::from(pin.threshold);
        let proof = RootProof { nonce, threshold, roots: pin.roots.clone(), salt: pin.salt };
        let mut quiet = |_| {};
        let sending =
            self.admin.sender.append_by_roots(pin.contract, pin.realm, proof, &writes, &signatures, &mut quiet);
        let mined = self.runtime.block_on(sending).expect("writing by the roots");
        self.root_nonce = self.root_nonce.saturating_add(1);
        mined
    }

    /// Writes entries as one actor, in one transaction, and waits until it is mined.
    ///
    /// # Panics
    /// Where the contract refuses.
    pub fn by(&self, actor: impl FnOnce(&Self) -> &Actor, entries: &[Entry]) -> Mined {
        self.send(actor(self), &writes(entries))
    }

    /// As [`Realm::by`], for an actor that is not the realm's own.
    pub fn by_actor(&self, actor: &Actor, entries: &[Entry]) -> Mined {
        self.send(actor, &writes(entries))
    }

    fn send(&self, actor: &Actor, writes: &[Write]) -> Mined {
        let pin = &self.file.pin;
        let mut quiet = |_| {};
        let sending = actor.sender.append_many(pin.contract, pin.realm, writes, &mut quiet);
        self.runtime.block_on(sending).expect("writing as an actor")
    }

    /// Takes all roles from an actor, by the roots.
    pub fn take_roles(&mut self, actor: Address) -> Mined {
        self.by_roots(&[Entry::RoleSet(payload::RoleSet { actor, roles: 0, x25519: B256::ZERO })])
    }

    /// Revokes a certificate by its serial, as the REVOKER; `valid_before` decides the shard.
    ///
    /// # Panics
    /// Where the contract refuses.
    pub fn revoke_certificate(&self, ca: Id, serial: u64, valid_before: u64, now: u64) -> Mined {
        let entry = Entry::CertRevoke { ca, serials: vec![serial] };
        let write = sign::write(shard::revocation_shard(valid_before, now), &entry);
        self.send(&self.revoker, &[write])
    }

    /// Logs a batch with these leaves, as the ISSUER.
    pub fn log_batch(&self, ca: Id, leaves: &[Digest32], not_after: u64) -> Id {
        let size = u32::try_from(leaves.len()).expect("a small batch");
        let root = merkle::root(leaves).expect("a batch with leaves").into();
        let (id, entry) = self.issuer.record(|r| {
            Entry::Batch(payload::Batch {
                r,
                ca: ca.0.into(),
                root,
                size,
                notAfter: not_after,
                leavesCid: Vec::new().into(),
            })
        });
        self.by(|realm| &realm.issuer, &[entry]);
        id
    }

    /// Adds a CA for user certificates, with the realm's issuer.
    pub fn add_ca(&mut self, name: &str, key: &KeyFile, max_ttl: u64, logins: &[&str]) -> Id {
        let (id, entry) = record(Address::ZERO, |r| {
            Entry::CaAdd(payload::CaAdd {
                r,
                purpose: 1,
                name: name.to_owned(),
                publicKey: key.blob().into(),
                maxTtl: max_ttl,
                logins: owned(logins),
                issuers: vec![self.issuer.address],
            })
        });
        self.by_roots(&[entry]);
        id
    }
}

fn actor(endpoints: &Endpoints, file: &RealmFile, name: u8) -> Actor {
    let secret = [name; 32];
    let key = ActorKey::from_secret(&secret).expect("a key");
    let address = key.address();
    let sender = Sender::new(endpoints.clone(), key, CHAIN_ID, Patience::of(&file.profile), FeeCaps::default());
    Actor { address, secret: hex::encode(secret), sender }
}

async fn deploy(anvil: &Anvil, endpoints: &Endpoints) -> RealmPin {
    let key = ActorKey::from_hex(crate::anvil::FUNDED_KEY).expect("anvil's account");
    let profile = countersign_chain::profile::ChainProfile::new(ProfileName::Dev, CHAIN_ID).expect("the dev profile");
    let sender = Sender::new(endpoints.clone(), key, CHAIN_ID, Patience::of(&profile), FeeCaps::default());
    let roots: Vec<Address> = root_keys().iter().map(ActorKey::address).collect();
    let salt = B256::from(random());
    let genesis = anvil.call("eth_getBlockByNumber", &json!(["0x0", false]));
    let genesis_hash = genesis.get("hash").and_then(|hash| hash.as_str()).expect("the genesis block's hash");
    let genesis_hash = genesis_hash.parse().expect("a hash");
    let source = HeaderSource::of_chain(endpoints.clone(), profile, CHAIN_ID, genesis_hash, HeaderTrust::Dev);
    let artifact = Artifact::built_in().expect("the contract's artefact");
    let deployment = Deployment::new(endpoints.clone(), source, profile.fee_model, artifact);
    wait::until("a first block", || (anvil.block_number("latest") > 0).then_some(()));
    let deployed = deployment.ensure(&sender, false).await.expect("deploying the contract");
    let contract = deployed.proved.contract;
    RealmPin {
        chain_id: CHAIN_ID,
        contract,
        code_hash: deployed.proved.code_hash,
        realm: sign::realm_id(CHAIN_ID, contract, THRESHOLD, &roots, salt),
        threshold: THRESHOLD,
        roots,
        salt,
        deployed_block: deployed.block(),
        genesis_hash,
    }
}

fn root_keys() -> Vec<ActorKey> {
    [0xa1, 0xa2, 0xa3].map(|name| ActorKey::from_secret(&[name; 32]).expect("a key")).to_vec()
}

fn writes(entries: &[Entry]) -> Vec<Write> {
    let place = |entry: &Entry| match entry {
        Entry::CertRevoke { .. } => panic!("revocations have a shard of their own: use the command line"),
        entry => shard::write_shard(entry.kind()).expect("a shard for each kind"),
    };
    entries.iter().map(|entry| sign::write(place(entry), entry)).collect()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().copied().map(str::to_owned).collect()
}

/// A grant, in the words of scenarios.
#[derive(Clone, Debug, Default)]
pub struct Grant<'a> {
    /// User or group.
    pub subject: Id,
    /// Hosts by id.
    pub hosts: &'a [Id],
    /// Hosts by labels.
    pub labels: &'a [&'a str],
    /// Logins there.
    pub logins: &'a [&'a str],
    /// 1 certificate, 2 plain key, 3 both.
    pub via: u8,
    /// Seconds; 0 for the CA's and the realm's.
    pub max_ttl: u64,
    /// Distinct approvers that each certificate needs.
    pub approvals: u8,
    /// The only command; empty for any.
    pub forced_command: &'a str,
    /// Networks to come from; none for any.
    pub source_addresses: &'a [&'a str],
}

/// The directory's entries, written by the ADMIN in one transaction.
pub struct Directory<'a> {
    realm: &'a Realm,
    entries: Vec<Entry>,
}

impl<'a> Directory<'a> {
    /// Nothing yet.
    #[must_use]
    pub fn of(realm: &'a Realm) -> Self {
        Self { realm, entries: Vec::new() }
    }

    fn add(&mut self, make: impl FnOnce(FixedBytes<16>) -> Entry) -> Id {
        let (id, entry) = self.realm.admin.record(make);
        self.entries.push(entry);
        id
    }

    /// A user.
    pub fn user(&mut self, login: &str) -> Id {
        let (login, name) = (login.to_owned(), String::new());
        self.add(|r| Entry::UserAdd(payload::UserAdd { r, login, displayName: name }))
    }

    /// A host with labels.
    pub fn host(&mut self, name: &str, labels: &[&str]) -> Id {
        let name = name.to_owned();
        let owner = FixedBytes::ZERO;
        let host = self.add(|r| Entry::HostAdd(payload::HostAdd { r, name, owner, hostKey: Vec::new().into() }));
        for label in labels {
            let label = (*label).to_owned();
            self.add(|r| Entry::LabelAdd(payload::LabelAdd { r, target: host.0.into(), label }));
        }
        host
    }

    /// A login key of a user; `not_after` 0 for no end.
    pub fn key(&mut self, user: Id, key: &KeyFile, not_after: u64) -> Id {
        self.add(|r| {
            Entry::KeyAdd(payload::KeyAdd {
                r,
                user: user.0.into(),
                publicKey: key.blob().into(),
                purposes: 1,
                notAfter: not_after,
                comment: String::new(),
            })
        })
    }

    /// A grant.
    pub fn grant(&mut self, grant: &Grant<'_>) -> Id {
        let hosts = grant.hosts.iter().map(|host| host.0.into()).collect();
        self.add(|r| {
            Entry::GrantAdd(payload::GrantAdd {
                r,
                subject: grant.subject.0.into(),
                hosts,
                labels: owned(grant.labels),
                allHosts: false,
                logins: owned(grant.logins),
                via: grant.via,
                maxTtl: grant.max_ttl,
                approvals: grant.approvals,
                forcedCommand: grant.forced_command.to_owned(),
                sourceAddresses: owned(grant.source_addresses),
                intervals: Vec::new(),
                notAfter: 0,
                permits: 1,
            })
        })
    }

    /// Binds a ledger key to a user or host.
    pub fn member(&mut self, actor: Address, subject: Id, x25519: [u8; 32]) {
        let entry = payload::MemberSet { actor, member: true, subject: subject.0.into(), x25519: x25519.into() };
        self.entries.push(Entry::MemberSet(entry));
    }

    /// Writes all of it.
    pub fn write(self) -> Mined {
        self.realm.by(|realm| &realm.admin, &self.entries)
    }
}
