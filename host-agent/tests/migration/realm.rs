//! Realms of one contract, what their roots write and sign, and hosts that read them.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use crate::support::{ADMIN_KEY, DEVICE_KEY, HostFiles, OTHER_ROOT_KEY, ROOT_KEY, World, key, limits};
use countersign_chain::archive;
use countersign_chain::profile::ProfileName;
use countersign_chain::realm_file::{HeaderTrust, Links, RealmFile};
use countersign_chain::send::{RootProof, RootSignature};
use countersign_chain::sync::{Cursor, Ledger};
use countersign_chain::{ChainError, keys::ActorKey, proofs};
use countersign_registry::entries::{Entry, Roles, payload};
use countersign_registry::migration::statement::{RootSignature as Signed, Statement};
use countersign_registry::migration::{Heads, Place};
use countersign_registry::{Address, B256, RealmPin, U256, shard, sign};
use url::Url;

/// A realm of the same contract as a world's, by other first roots or another salt: it costs nothing to make one.
pub(crate) struct Realm<'a> {
    pub(crate) world: &'a World,
    pub(crate) pin: RealmPin,
    pub(crate) nonce: Cell<u64>,
    /// Those in force.
    pub(crate) roots: RefCell<Vec<Address>>,
}

impl<'a> Realm<'a> {
    /// Governed by both roots of the world.
    pub(crate) fn of(world: &'a World, salt: u8) -> Self {
        let (threshold, salt, roots) = (2, B256::repeat_byte(salt), world.pin.roots.clone());
        let realm = sign::realm_id(world.pin.chain_id, world.pin.contract, threshold, &roots, salt);
        let pin = RealmPin { realm, threshold, salt, ..world.pin.clone() };
        Self { world, pin, nonce: Cell::new(0), roots: roots.into() }
    }

    /// The world's own, of which one root is enough.
    pub(crate) fn own(world: &'a World) -> Self {
        let pin = world.pin.clone();
        Self { world, nonce: Cell::new(1), roots: pin.roots.clone().into(), pin }
    }

    /// Other keys take the place of both roots.
    pub(crate) async fn replace_roots(&self, keys: &[(u8, ActorKey)]) {
        let roots: Vec<Address> = keys.iter().map(|(_, key)| key.address()).collect();
        let set = payload::RootSet { threshold: U256::from(self.pin.threshold), roots: roots.clone() };
        self.by_roots(&[Entry::RootSet(set)]).await;
        self.roots.replace(roots);
    }

    pub(crate) async fn by(&self, keys: &[(u8, ActorKey)], entries: &[Entry]) -> Result<(), ChainError> {
        let writes: Vec<sign::Write> =
            entries.iter().map(|entry| sign::write(shard::write_shard(entry.kind()).unwrap(), entry)).collect();
        self.write(keys, writes).await
    }

    /// In any shards.
    pub(crate) async fn write(&self, keys: &[(u8, ActorKey)], writes: Vec<sign::Write>) -> Result<(), ChainError> {
        let pin = &self.pin;
        let nonce = U256::from(self.nonce.get());
        let domain = sign::domain(pin.chain_id, pin.contract);
        let digest = sign::append_by_roots_digest(&domain, pin.realm, nonce, &writes);
        let signature = |(index, key): &(u8, ActorKey)| RootSignature {
            index: *index,
            signature: key.sign(&digest).unwrap().as_bytes().to_vec().into(),
        };
        let signatures: Vec<RootSignature> = keys.iter().map(signature).collect();
        let threshold = U256::from(pin.threshold);
        let proof = RootProof { nonce, threshold, roots: self.roots.borrow().clone(), salt: pin.salt };
        self.world.admin.append_by_roots(pin.contract, pin.realm, proof, &writes, &signatures, &mut |_| ()).await?;
        self.nonce.set(self.nonce.get() + 1);
        Ok(())
    }

    pub(crate) async fn by_roots(&self, entries: &[Entry]) {
        self.by(&both(), entries).await.unwrap();
    }

    pub(crate) async fn append(&self, entry: &Entry) {
        let write = sign::write(shard::write_shard(entry.kind()).unwrap(), entry);
        self.world.admin.append(self.pin.contract, self.pin.realm, &write, &mut |_| ()).await.unwrap();
    }

    pub(crate) fn file(&self) -> RealmFile {
        self.file_at(&self.world.anvil.url)
    }

    pub(crate) fn file_at(&self, url: &Url) -> RealmFile {
        RealmFile::new(self.pin.clone(), ProfileName::Dev, HeaderTrust::Dev, vec![url.clone()]).unwrap()
    }

    pub(crate) fn place(&self) -> Place {
        Place::from(&self.pin)
    }

    /// The heads of its final log.
    pub(crate) async fn heads(&self) -> Heads {
        let mut ledger = Ledger::new(&self.file(), limits()).unwrap();
        let heads = ledger.heads().await.unwrap();
        let update = ledger.update(&Cursor::default(), &heads, &shards(heads.latest.time)).await.unwrap();
        let slots = update.cursor.shards.iter().map(|(shard, known)| (*shard, known.tip.slot));
        Heads { block: update.final_header.number, slots: slots.filter(|(_, slot)| !slot.is_zero()).collect() }
    }

    pub(crate) async fn archive(&self, path: &Path) {
        let mut ledger = Ledger::new(&self.file(), limits()).unwrap();
        let now = ledger.heads().await.unwrap();
        let reading = ledger.read(&Cursor::default(), &now, &shards(now.latest.time)).await.unwrap();
        let header = &reading.final_header;
        let root_set = proofs::root_set(ledger.endpoints(), &self.pin, header).await.unwrap();
        archive::write(path, &self.pin, header, root_set, reading.final_entries).unwrap();
    }

    /// A statement that this realm goes on in `target`, signed by these.
    pub(crate) fn statement(&self, target: &Realm<'_>, heads: &Heads, nonce: u64, by: &[(u8, ActorKey)]) -> Statement {
        let (threshold, roots) = (self.pin.threshold, by.iter().map(|(_, key)| key.address()).collect());
        let mut statement = Statement::new(self.pin.realm, nonce, threshold, roots, target.place(), heads.clone());
        let digest = statement.digest(self.pin.chain_id, self.pin.contract);
        statement.signatures = by
            .iter()
            .map(|(root, key)| Signed { root: *root, signature: key.sign(&digest).unwrap().as_bytes().to_vec().into() })
            .collect();
        statement
    }

    /// The same log with admin and revoker as the target must have it.
    pub(crate) fn arrival(&self, source: &Realm<'_>, heads: &Heads) -> Vec<Entry> {
        vec![Entry::Migrated(payload::Migrated::new(&source.place(), heads)), role(self.world)]
    }

    pub(crate) fn departure(&self, heads: &Heads) -> Entry {
        Entry::Migrate(payload::Migrate::new(&self.place(), heads))
    }
}

pub(crate) fn shards(now: u64) -> Vec<u64> {
    let mut shards = shard::access_shards(now, 86_400);
    shards.extend(shard::delivery_shards(now - 86_400, now));
    shards
}

pub(crate) fn both() -> [(u8, ActorKey); 2] {
    [(0, key(OTHER_ROOT_KEY)), (1, key(ROOT_KEY))]
}

/// Who comes after them.
pub(crate) fn successors() -> [(u8, ActorKey); 2] {
    [(0, key(DEVICE_KEY)), (1, key(ADMIN_KEY))]
}

pub(crate) fn role(world: &World) -> Entry {
    Entry::RoleSet(payload::RoleSet {
        actor: world.admin.address(),
        roles: Roles::ADMIN | Roles::ISSUER | Roles::REVOKER,
        x25519: world.admin_sealing.public().to_bytes().into(),
    })
}

/// A file beside the host's realm file.
pub(crate) fn beside(host: &HostFiles, name: &str, file: RealmFile, links: Links) -> PathBuf {
    let path = host.path(name);
    let _ = std::fs::remove_file(&path);
    file.linked(links).unwrap().create(&path).unwrap();
    path
}

pub(crate) fn to(successor: &str) -> Links {
    Links { successor: Some(successor.into()), ..Links::default() }
}

pub(crate) fn from(predecessor: &str) -> Links {
    Links { predecessor: Some(predecessor.into()), ..Links::default() }
}

/// geth gives each block a second of its own: a chain that is made in a hurry runs ahead of the clock.
pub(crate) async fn finalize(target: &Realm<'_>, host: &HostFiles) {
    target.world.anvil.finalize().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    host.shift.raise(i64::try_from(target.world.latest_time().await.saturating_sub(now)).unwrap());
}

/// To the target by a statement.
pub(crate) fn by_statement() -> Links {
    Links {
        successor: Some("target.toml".into()),
        archive: Some("source.archive".into()),
        statement: Some("statement.json".into()),
        predecessor: None,
    }
}

pub(crate) fn put(host: &HostFiles, statement: &Statement) {
    std::fs::write(host.path("statement.json"), serde_json::to_vec(statement).unwrap()).unwrap();
}

/// A host whose realm file is replaced by one with links.
pub(crate) fn host_of(realm: &Realm<'_>, host: countersign_certificate::Id, links: Links) -> HostFiles {
    let files = HostFiles::of(&realm.file(), host, "");
    beside(&files, "realm.toml", realm.file(), links);
    files
}
