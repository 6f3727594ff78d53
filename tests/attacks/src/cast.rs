//! A realm with everybody in it, for histories: an admin and a second one, an issuer, a watchdog, an approver and a member with ledger
//! keys of their own; users, a group, grants, labels, a CA, a batch, a request with its approval; all final. Beside it a host, whose
//! helper is asked what its agent has published.
//!
//! The chain can be set back: [`Cast::rollback`]. That is a reorg once other blocks stand there.
//!
//! Longer than 600 lines: one constructor for each kind of entry, by the names of those who are there.

use std::cell::{Cell, RefCell};

use countersign_agent::agent::Agent;
use countersign_certificate::{BACKDATE_SECS, Fingerprint20, Id, RealmId, Serial};
use countersign_chain::{
    keys::ActorKey,
    send::{FeeCaps, Patience, Sender},
};
use countersign_registry::{
    B256,
    entries::{Entry, Kind, Roles, payload},
    shard, sign,
};
use countersign_snapshot::Snapshot;
use countersign_sshd::{Mode, Query, Reason, decide};
use serde_json::{Value, json};

use crate::{
    node::Client,
    paper::{Paper, blob},
    stage,
    world::{ALICE_KEY, DEVICE_KEY, HostFiles, World, grant},
};

/// Further keys of anvil's well-known mnemonic.
const ISSUER_KEY: &str = "4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356";
const WATCHDOG_KEY: &str = "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a";
const APPROVER_KEY: &str = "8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba";
const SECOND_KEY: &str = "92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e";

/// Name of the CA's key, of bob's and of carol's.
pub const CA_KEY: u8 = 0xca;
/// See [`CA_KEY`].
pub const BOB_KEY: u8 = 0xb0;
/// See [`CA_KEY`].
pub const CAROL_KEY: u8 = 0xc0;

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A threshold of roots.
    Roots,
    /// ADMIN, REVOKER (and ISSUER, listed by no CA).
    Admin,
    /// ADMIN.
    Second,
    /// ISSUER, listed by the CA.
    Issuer,
    /// WATCHDOG.
    Watchdog,
    /// APPROVER, bound to bob.
    Approver,
    /// Bound to alice.
    Device,
}

/// Ids of what is there.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    /// Requests; has a plain key.
    pub alice: Id,
    /// Approves; has a plain key, and no grant.
    pub bob: Id,
    /// In the group; has a plain key.
    pub carol: Id,
    /// This host.
    pub host: Id,
    /// Carol's group.
    pub group: Id,
    /// Carol in the group.
    pub membership: Id,
    /// The label `web` of the host.
    pub label: Id,
    /// alice's key record.
    pub key: Id,
    /// alice to `deploy`, by key or certificate.
    pub grant: Id,
    /// The group to `group`, by key or certificate.
    pub group_grant: Id,
    /// alice to `label` on hosts labelled `web`, by key or certificate.
    pub label_grant: Id,
    /// alice to `vault` with one approval.
    pub vault_grant: Id,
    /// carol to the ledger user alice's own login, by key or certificate.
    pub into_alice: Id,
    /// The CA.
    pub ca: Id,
    /// The batch of [`Cast::paper`].
    pub batch: Id,
    /// Hash of that batch's entry.
    pub batch_hash: B256,
    /// alice's request of `vault`, which bob has approved.
    pub request: Id,
    /// Hash of what was requested.
    pub approval_hash: B256,
}

/// Everybody.
pub struct Cast {
    /// Chain and realm.
    pub world: World,
    /// The records.
    pub ids: Ids,
    /// Fingerprint of alice's plain key.
    pub alice_key: Fingerprint20,
    /// alice's plain key, wire form.
    pub alice_blob: Vec<u8>,
    /// Time of the setting, which certificates are made from.
    pub now: u64,
    issuer: Sender,
    watchdog: Sender,
    approver: Sender,
    second: Sender,
    device: Sender,
    /// Blocks in which roots wrote.
    root_blocks: RefCell<Vec<u64>>,
    fillers: Cell<u8>,
}

impl Cast {
    /// On anvil.
    pub async fn new() -> Self {
        Self::on(World::new().await).await
    }

    /// On a chain node of the test's choice.
    pub async fn on(world: World) -> Self {
        let records = world.populate().await;
        let sender = |key: &str| {
            let poll = std::time::Duration::from_millis(5);
            let minute = std::time::Duration::from_secs(60);
            let patience = Patience { poll, stuck: minute, give_up: minute };
            let key = ActorKey::from_hex(key).unwrap();
            Sender::new(world.anvil.endpoints(), key, world.anvil.chain_id, patience, FeeCaps::default())
        };
        let (issuer, watchdog, approver) = (sender(ISSUER_KEY), sender(WATCHDOG_KEY), sender(APPROVER_KEY));
        let (second, device) = (sender(SECOND_KEY), sender(DEVICE_KEY));
        if world.anvil.client == Client::Geth {
            for actor in [&issuer, &watchdog, &approver, &second] {
                world.anvil.fund(actor.address()).await;
            }
        }
        let nothing = Id([0; 16]);
        let ids = Ids {
            alice: records.user,
            bob: nothing,
            carol: nothing,
            host: records.host,
            group: nothing,
            membership: nothing,
            label: nothing,
            key: records.key_id,
            grant: records.grant,
            group_grant: nothing,
            label_grant: nothing,
            vault_grant: nothing,
            into_alice: nothing,
            ca: nothing,
            batch: nothing,
            batch_hash: B256::ZERO,
            request: nothing,
            approval_hash: B256::ZERO,
        };
        let alice_blob = countersign_agent::receive::public_key_blob(ALICE_KEY).unwrap();
        let mut cast = Self {
            world,
            ids,
            alice_key: records.key,
            alice_blob,
            now: 0,
            issuer,
            watchdog,
            approver,
            second,
            device,
            root_blocks: RefCell::default(),
            fillers: Cell::new(0x80),
        };
        cast.furnish().await;
        cast
    }

    async fn furnish(&mut self) {
        let roles = [
            (Who::Issuer, Roles::ISSUER),
            (Who::Watchdog, Roles::WATCHDOG),
            (Who::Approver, Roles::APPROVER | Roles::MEMBER),
            (Who::Second, Roles::ADMIN),
        ];
        let mut writes: Vec<_> =
            roles.map(|(who, roles)| sign::write(shard::GOVERNANCE, &self.roles(who, roles))).into();
        writes.push(sign::write(shard::GOVERNANCE, &self.ca_add(1, CA_KEY)));
        self.world.by_roots(&writes).await;
        self.ids.ca = self.id_of(Who::Roots, &self.ca_add(1, CA_KEY));

        let add = |kind| move |r: u8, cast: &Self| sign::record_id(kind, cast.world.admin.address(), [r; 16]);
        (self.ids.bob, self.ids.carol) = (add(Kind::USER_ADD)(0x10, self), add(Kind::USER_ADD)(0x11, self));
        self.ids.group = add(Kind::GROUP_ADD)(0x12, self);
        self.ids.membership = add(Kind::GROUP_MEMBER_ADD)(0x13, self);
        self.ids.label = add(Kind::LABEL_ADD)(0x14, self);
        self.ids.group_grant = add(Kind::GRANT_ADD)(0x15, self);
        self.ids.label_grant = add(Kind::GRANT_ADD)(0x16, self);
        self.ids.vault_grant = add(Kind::GRANT_ADD)(0x17, self);
        self.ids.into_alice = add(Kind::GRANT_ADD)(0x18, self);
        let ids = self.ids;
        let user = |r: u8, login: &str| {
            Entry::UserAdd(payload::UserAdd { r: [r; 16].into(), login: login.into(), displayName: String::new() })
        };
        let to = |r: u8, subject: Id, login: &str| {
            let given = grant(r, subject, ids.host);
            Entry::GrantAdd(payload::GrantAdd { logins: vec![login.into()], ..given })
        };
        let mut labelled = grant(0x16, ids.alice, ids.host);
        (labelled.hosts, labelled.labels, labelled.logins) = (Vec::new(), vec!["web".into()], vec!["label".into()]);
        let mut vault = grant(0x17, ids.alice, ids.host);
        (vault.approvals, vault.logins) = (1, vec!["vault".into()]);
        let directory = [
            user(0x10, "bob"),
            user(0x11, "carol"),
            Entry::GroupAdd(payload::GroupAdd { r: [0x12; 16].into(), name: "ops".into() }),
            self.membership(0x13, ids.carol),
            self.label(0x14, "web"),
            to(0x15, ids.group, "group"),
            Entry::GrantAdd(labelled),
            Entry::GrantAdd(vault),
            to(0x18, ids.carol, "alice"),
            self.key(0x19, ids.bob, BOB_KEY),
            self.key(0x1a, ids.carol, CAROL_KEY),
            self.binding(Who::Approver, Some(ids.bob)),
            self.binding(Who::Device, Some(ids.alice)),
        ];
        let writes: Vec<_> = directory.iter().map(|entry| sign::write(shard::DIRECTORY, entry)).collect();
        let pin = &self.world.pin;
        self.world.admin.append_many(pin.contract, pin.realm, &writes, &mut |_| ()).await.unwrap();
        self.now = self.world.latest_time().await;

        let request = self.request(1, "vault");
        self.ids.request = self.id_of(Who::Device, &request);
        self.ids.approval_hash = self.terms(self.ids.request, "vault");
        self.put(Who::Device, &request).await;
        self.put(Who::Approver, &self.approve(self.ids.request, self.ids.approval_hash)).await;
        let batch = self.batch(1, &self.paper());
        self.ids.batch = self.id_of(Who::Issuer, &batch);
        self.ids.batch_hash = self.put(Who::Issuer, &batch).await;
        self.world.anvil.finalize().await;
    }

    fn sender(&self, who: Who) -> &Sender {
        match who {
            Who::Roots | Who::Admin => &self.world.admin,
            Who::Second => &self.second,
            Who::Issuer => &self.issuer,
            Who::Watchdog => &self.watchdog,
            Who::Approver => &self.approver,
            Who::Device => &self.device,
        }
    }

    /// The ledger address of somebody; of the roots, as entries have it.
    #[must_use]
    pub fn address(&self, who: Who) -> countersign_registry::Address {
        if who == Who::Roots { countersign_registry::Address::ZERO } else { self.sender(who).address() }
    }

    /// Writes an entry in a block of its own; returns the entry's hash.
    pub async fn put(&self, who: Who, entry: &Entry) -> B256 {
        self.put_all(who, std::slice::from_ref(entry)).await
    }

    /// Writes entries in one transaction; returns the first one's hash.
    pub async fn put_all(&self, who: Who, entries: &[Entry]) -> B256 {
        let mut writes = Vec::new();
        for entry in entries {
            let kind = entry.kind();
            let shard = if kind == Kind::CERT_REVOKE {
                let now = self.world.latest_time().await;
                shard::revocation_shard(now.saturating_add(60), now)
            } else {
                shard::write_shard(kind).expect("a kind that can be written")
            };
            writes.push(sign::write(shard, entry));
        }
        if who == Who::Roots {
            self.world.by_roots(&writes).await;
            let block = self.world.latest_number().await;
            self.root_blocks.borrow_mut().push(block);
            return B256::ZERO;
        }
        let pin = &self.world.pin;
        let mined = self.sender(who).append_many(pin.contract, pin.realm, &writes, &mut |_| ()).await.unwrap();
        sign::entry_hash(pin.realm, mined.entries.first().expect("one entry"))
    }

    /// Writes something that nothing here depends on, in the shard of `kind`.
    pub async fn put_filler(&self, kind: Kind) {
        let seed = self.fillers.get();
        self.fillers.set(seed.wrapping_add(1) | 0x80);
        let r = [seed; 16].into();
        let (who, entry) = match kind.class() {
            0 => {
                let actor = countersign_registry::Address::repeat_byte(seed);
                (Who::Roots, Entry::RoleSet(payload::RoleSet { actor, roles: 0, x25519: B256::ZERO }))
            }
            1 => (Who::Admin, self.label(seed, &format!("filler-{seed}"))),
            2 => (Who::Admin, crate::world::key_lock(Fingerprint20([seed; 20]))),
            3 => (
                Who::Admin,
                Entry::CertRevoke { ca: self.ids.ca, serials: vec![u64::from(seed).saturating_add(1_000)] },
            ),
            7 => (Who::Device, Entry::Acknowledge(payload::Acknowledge { delivery: r, digest: B256::ZERO })),
            8 => (
                Who::Admin,
                Entry::PublicData(payload::PublicData { r, name: "filler".into(), data: Vec::new().into() }),
            ),
            _ => {
                let batch = payload::Batch {
                    r,
                    ca: self.ids.ca.0.into(),
                    root: [seed; 32].into(),
                    size: 1,
                    notAfter: self.now.saturating_add(3_600),
                    leavesCid: Vec::new().into(),
                };
                (Who::Admin, Entry::Batch(batch))
            }
        };
        self.put(who, &entry).await;
    }

    /// The newest `depth` blocks are gone, and their entries with them.
    pub async fn rollback(&self, depth: u64) {
        let kept = self.world.latest_number().await.checked_sub(depth).expect("so many blocks");
        self.world.anvil.set_head(kept).await;
        self.forget_root_writes_after(kept);
    }

    fn forget_root_writes_after(&self, kept: u64) {
        let mut blocks = self.root_blocks.borrow_mut();
        let before = blocks.len();
        blocks.retain(|block| *block <= kept);
        let gone = before.saturating_sub(blocks.len());
        self.world.root_writes_are_gone(u64::try_from(gone).expect("few"));
    }

    /// The newest `depth` blocks are gone, and others stand there, one more.
    pub async fn reorg(&self, depth: u64) {
        self.rollback(depth).await;
        self.world.anvil.mine(depth.saturating_add(1)).await;
    }

    /// The id of a record that `who` adds.
    #[must_use]
    pub fn id_of(&self, who: Who, entry: &Entry) -> Id {
        let r = match entry {
            Entry::CaAdd(add) => add.r,
            Entry::UserAdd(add) => add.r,
            Entry::GroupAdd(add) => add.r,
            Entry::LabelAdd(add) => add.r,
            Entry::KeyAdd(add) => add.r,
            Entry::GrantAdd(add) => add.r,
            Entry::GroupMemberAdd(add) => add.r,
            Entry::Batch(add) => add.r,
            Entry::Request(add) => add.r,
            other => panic!("{other:?} makes no record of these"),
        };
        sign::record_id(entry.kind(), self.address(who), r.0)
    }

    // Entries.

    /// Gives exactly these roles.
    #[must_use]
    pub fn roles(&self, who: Who, roles: u64) -> Entry {
        Entry::RoleSet(payload::RoleSet { actor: self.address(who), roles, x25519: B256::ZERO })
    }

    /// Binds a ledger key to a user, or to nobody.
    #[must_use]
    pub fn binding(&self, who: Who, user: Option<Id>) -> Entry {
        Entry::MemberSet(payload::MemberSet {
            actor: self.address(who),
            member: user.is_some(),
            subject: user.map_or([0; 16], |user| user.0).into(),
            x25519: B256::ZERO,
        })
    }

    /// A CA that lists the issuer.
    #[must_use]
    pub fn ca_add(&self, r: u8, key: u8) -> Entry {
        Entry::CaAdd(payload::CaAdd {
            r: [r; 16].into(),
            purpose: 1,
            name: format!("ca{r}"),
            publicKey: blob(key).into(),
            maxTtl: 86_400,
            logins: Vec::new(),
            issuers: vec![self.address(Who::Issuer)],
        })
    }

    /// Limits of the CA.
    #[must_use]
    pub fn limits(&self, max_ttl: u64, logins: &[&str], issuers: &[Who]) -> payload::CaLimits {
        payload::CaLimits {
            ca: self.ids.ca.0.into(),
            maxTtl: max_ttl,
            logins: logins.iter().map(|login| (*login).to_owned()).collect(),
            issuers: issuers.iter().map(|who| self.address(*who)).collect(),
        }
    }

    /// A user in the group.
    #[must_use]
    pub fn membership(&self, r: u8, user: Id) -> Entry {
        let (group, user) = (self.ids.group.0.into(), user.0.into());
        Entry::GroupMemberAdd(payload::GroupMemberAdd { r: [r; 16].into(), group, user })
    }

    /// A label of the host.
    #[must_use]
    pub fn label(&self, r: u8, label: &str) -> Entry {
        let target = self.ids.host.0.into();
        Entry::LabelAdd(payload::LabelAdd { r: [r; 16].into(), target, label: label.into() })
    }

    /// A plain key of a user.
    #[must_use]
    pub fn key(&self, r: u8, user: Id, key: u8) -> Entry {
        Entry::KeyAdd(payload::KeyAdd {
            r: [r; 16].into(),
            user: user.0.into(),
            publicKey: blob(key).into(),
            purposes: 1,
            notAfter: 0,
            comment: String::new(),
        })
    }

    /// A grant of a login here to a user or group, by key or certificate.
    #[must_use]
    pub fn grant(&self, r: u8, subject: Id, login: &str) -> Entry {
        let given = grant(r, subject, self.ids.host);
        Entry::GrantAdd(payload::GrantAdd { logins: vec![login.into()], ..given })
    }

    /// A batch of one certificate.
    #[must_use]
    pub fn batch(&self, r: u8, paper: &Paper) -> Entry {
        Entry::Batch(payload::Batch {
            r: [r; 16].into(),
            ca: paper.ca.0.0.into(),
            root: paper.root().into(),
            size: 1,
            notAfter: paper.before,
            leavesCid: Vec::new().into(),
        })
    }

    /// alice's request for the key of [`Self::paper`].
    #[must_use]
    pub fn request(&self, r: u8, login: &str) -> Entry {
        Entry::Request(payload::Request {
            r: [r; 16].into(),
            user: self.ids.alice.0.into(),
            host: self.ids.host.0.into(),
            login: login.into(),
            ttl: TTL_SECS,
            publicKey: blob(1).into(),
            reason: "work".into(),
        })
    }

    /// What an approval of that request is over.
    #[must_use]
    pub fn terms(&self, request: Id, login: &str) -> B256 {
        let terms = countersign_certificate::ApprovalTerms {
            request,
            user: self.ids.alice,
            host: self.ids.host,
            login: login.as_bytes(),
            key: &blob(1),
            ttl_secs: TTL_SECS,
        };
        countersign_certificate::approval_hash(&RealmId(self.world.pin.realm.0), &terms).unwrap().into()
    }

    /// An approval.
    #[must_use]
    pub fn approve(&self, request: Id, hash: B256) -> Entry {
        Entry::Approve(payload::Approve { request: request.0.into(), approvalHash: hash })
    }

    /// A certificate of alice's for `deploy`.
    #[must_use]
    pub fn paper(&self) -> Paper {
        Paper {
            realm: RealmId(self.world.pin.realm.0),
            host: self.ids.host,
            user: self.ids.alice,
            grant: self.ids.grant,
            login: "deploy",
            request: Id([0x77; 16]),
            key: 1,
            ca: (self.ids.ca, CA_KEY),
            serial: Serial(77),
            after: self.now.saturating_sub(BACKDATE_SECS),
            before: self.now.saturating_add(TTL_SECS),
        }
    }

    /// A certificate of alice's for `vault`, which is approved by way of `request`. It begins two seconds later, so that a pickup of no
    /// time at all would be too short for it.
    #[must_use]
    pub fn vault(&self, request: Id) -> Paper {
        let paper = self.paper();
        let (after, before) = (paper.after.saturating_add(LATER_SECS), paper.before.saturating_add(LATER_SECS));
        Paper { grant: self.ids.vault_grant, login: "vault", request, after, before, ..paper }
    }
}

/// The certificates' time to live.
pub const TTL_SECS: u64 = 20_000;

/// How much later than the setting the approved certificate begins.
pub const LATER_SECS: u64 = 25;

/// A question to the helper.
#[derive(Debug, Clone)]
pub struct Question {
    /// Key or certificate.
    pub blob: Vec<u8>,
    /// The login.
    pub login: &'static str,
    /// How long after the newest block it is asked, seconds.
    pub late_secs: u64,
}

impl Question {
    /// Asked at once.
    #[must_use]
    pub fn new(blob: Vec<u8>, login: &'static str) -> Self {
        Self { blob, login, late_secs: 0 }
    }
}

/// A host: its agent, and its helper.
pub struct Post {
    /// Its files.
    pub host: HostFiles,
    /// Its agent.
    pub agent: Option<Agent>,
}

impl Post {
    /// A host that has published once.
    pub async fn new(cast: &Cast) -> Self {
        Self::of(cast, HostFiles::new(&cast.world, cast.ids.host, "")).await
    }

    /// With files of the test's own.
    pub async fn of(cast: &Cast, host: HostFiles) -> Self {
        let agent = Some(host.open());
        let mut post = Self { host, agent };
        post.cycle(cast, "the beginning").await;
        post
    }

    /// A cycle that must publish the newest block.
    pub async fn cycle(&mut self, cast: &Cast, what: &str) {
        stage::on_time(&cast.world, &self.host).await;
        let failure = self.agent.as_mut().unwrap().cycle().await.failure;
        assert_eq!(failure, None, "{what}: {}", self.host.log.text());
        assert_eq!(self.snapshot().facts().latest_block.number, cast.world.latest_number().await, "{what}");
    }

    /// A cycle that must fail for this reason and leave every byte of the snapshot.
    pub async fn refuses(&mut self, cast: &Cast, what: &str, reason: countersign_agent::reason::Reason) {
        let before = self.host.snapshot_files();
        stage::on_time(&cast.world, &self.host).await;
        let failure = self.agent.as_mut().unwrap().cycle().await.failure;
        let failure = failure.unwrap_or_else(|| panic!("{what}: published"));
        assert_eq!(failure.reason, reason, "{what}: {}", failure.message);
        assert!(self.host.snapshot_files() == before, "{what}: the snapshot has changed");
    }

    /// The agent is started again, and publishes what it knows without asking anybody.
    pub fn restart(&mut self) {
        drop(self.agent.take());
        let mut agent = self.host.open();
        assert!(agent.republish().unwrap(), "there was a snapshot");
        self.agent = Some(agent);
    }

    /// What is published.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.host.snapshot()
    }

    /// The final block that is published.
    #[must_use]
    pub fn final_block(&self) -> u64 {
        self.snapshot().facts().final_block.number
    }

    /// What the helper says, in both of its modes where there are two.
    #[must_use]
    pub fn ask(&self, question: &Question) -> Reason {
        let snapshot = self.snapshot();
        let mut clock = (self.host.shift.clocks())().unwrap();
        clock.unix_secs = clock.unix_secs.saturating_add(question.late_secs);
        let answer = |mode| {
            let query = Query::offline(&snapshot, mode, question.login, &question.blob);
            decide(&snapshot, &query.expect("a question"), &clock).reason()
        };
        let reason = answer(Mode::Keys);
        let certificate =
            Query::offline(&snapshot, Mode::Keys, question.login, &question.blob).unwrap().is_certificate();
        if certificate {
            assert_eq!(answer(Mode::Principals), reason, "the modes differ");
        }
        reason
    }
}

/// Takes the chain back to where it is when this is made, as often as wanted: what was tried there is gone.
pub struct Bookmark(Value);

impl Bookmark {
    /// Here.
    pub async fn new(cast: &Cast) -> Self {
        Self(cast.world.anvil.call("evm_snapshot", json!([])).await)
    }

    /// Back to here.
    pub async fn restore(&mut self, cast: &Cast) {
        assert_eq!(cast.world.anvil.call("evm_revert", json!([self.0])).await, json!(true));
        cast.forget_root_writes_after(cast.world.latest_number().await);
        *self = Self::new(cast).await;
    }
}
