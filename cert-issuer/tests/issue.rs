//! Policy, batches and the rehearsal of hosts' decisions, over ledgers that are replayed from entries made here.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use std::num::NonZeroU64;
use std::time::{SystemTime, UNIX_EPOCH};

use countersign_certificate::{Certificate, LOG_PROOF_EXTENSION};
use countersign_issuer::IssueError;
use countersign_issuer::ca_key::{CaKey, CaKeyError};
use countersign_issuer::deliver::{self, Parcel};
use countersign_issuer::issue::{Batch, Prepared, Signer, prepare};
use countersign_issuer::outbox::{Due, Outbox};
use countersign_issuer::policy::Order;
use countersign_registry::entries::{Entry, Kind, Targets, payload};
use countersign_registry::head::Meta;
use countersign_registry::realm::{BlockRef, Grant};
use countersign_registry::{Address, B256, Effective, EntryRef, Id, LogEntry, PlacedEntry, Replay, shard, sign};
use countersign_sshd::Reason;
use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};

#[path = "issue/mailing.rs"]
mod mailing;
#[path = "issue/watch.rs"]
mod watch;

const ROOTS: Address = Address::ZERO;
const ADMIN: Address = Address::repeat_byte(0xad);
const ISSUER: Address = Address::repeat_byte(0x15);
const REALM: B256 = B256::repeat_byte(0x4e);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A ledger, one entry a block, all of it final.
struct Ledger {
    entries: Vec<PlacedEntry>,
    start: u64,
}

impl Ledger {
    fn new() -> Self {
        Self { entries: Vec::new(), start: now() - 30 }
    }

    fn log(&mut self, actor: Address, entry: Entry) {
        let number = u64::try_from(self.entries.len()).unwrap() + 1;
        let time = self.start;
        let class = shard::class_of_kind(entry.kind()).unwrap();
        let shard = match class {
            3 => shard::revocation_shard(time + 300, time),
            class if class > 3 => shard::shard(class, shard::day(time)),
            class => shard::shard(class, 0),
        };
        let index = u64::try_from(self.entries.iter().filter(|placed| placed.at.shard == shard).count()).unwrap();
        let meta = Meta { kind: entry.kind(), prev_block: 0, time }.pack();
        self.entries.push(PlacedEntry {
            at: EntryRef { block: number, shard, index, time },
            entry: LogEntry { shard, actor, meta, data: entry.encode() },
        });
    }

    /// Everything so far, and what comes, stands in blocks of this time.
    fn begin(&mut self, time: u64) {
        self.start = time;
        for placed in &mut self.entries {
            placed.at.time = time;
        }
    }

    fn effective(&self) -> Effective {
        let block = BlockRef { number: u64::try_from(self.entries.len()).unwrap(), time: self.start };
        let mut replay = Replay::new(REALM);
        replay.advance(block, &self.entries).unwrap();
        let effective = replay.effective(block, &[]).unwrap();
        assert_eq!(effective.ignored, []);
        effective
    }
}

/// A realm with a CA, Alice, two hosts and one grant for the first of them.
struct World {
    ledger: Ledger,
    directory: tempfile::TempDir,
    ca: Id,
    alice: Id,
    web: Id,
    database: Id,
    subject: Vec<u8>,
}

fn r(number: u8) -> [u8; 16] {
    [number; 16]
}

fn grant(alice: Id, web: Id) -> payload::GrantAdd {
    payload::GrantAdd {
        r: r(20).into(),
        subject: alice.0.into(),
        hosts: vec![web.0.into()],
        labels: vec![],
        allHosts: false,
        logins: vec!["deploy".into()],
        via: Grant::VIA_CERTIFICATE,
        maxTtl: 600,
        approvals: 0,
        forcedCommand: "uptime".into(),
        sourceAddresses: vec!["10.0.0.0/8".into(), "192.0.2.1/32".into()],
        intervals: vec![],
        notAfter: 0,
        permits: Grant::PERMIT_PTY | Grant::PERMIT_X11_FORWARDING,
    }
}

impl World {
    fn new() -> Self {
        Self::with_grant(|_| {})
    }

    fn with_grant(change: impl FnOnce(&mut payload::GrantAdd)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca_key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        ca_key.write_openssh_file(&directory.path().join("ca"), LineEnding::LF).unwrap();
        let subject = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap().public_key().to_bytes().unwrap();
        let ca = sign::record_id(Kind::CA_ADD, ROOTS, r(1));
        let alice = sign::record_id(Kind::USER_ADD, ADMIN, r(2));
        let web = sign::record_id(Kind::HOST_ADD, ADMIN, r(3));
        let database = sign::record_id(Kind::HOST_ADD, ADMIN, r(4));
        let mut ledger = Ledger::new();
        let role = |actor, roles| Entry::RoleSet(payload::RoleSet { actor, roles, x25519: B256::ZERO });
        ledger.log(ROOTS, role(ADMIN, 1 | 16));
        ledger.log(ROOTS, role(ISSUER, 2));
        let public_key = ca_key.public_key().to_bytes().unwrap().into();
        ledger.log(
            ROOTS,
            Entry::CaAdd(payload::CaAdd {
                r: r(1).into(),
                purpose: 1,
                name: "prod".into(),
                publicKey: public_key,
                maxTtl: 3_600,
                logins: vec![],
                issuers: vec![ISSUER],
            }),
        );
        let items = vec![payload::Setting { key: 1, value: 1 }];
        ledger.log(ROOTS, Entry::Settings(payload::Settings { items }));
        let user = payload::UserAdd { r: r(2).into(), login: "alice".into(), displayName: String::new() };
        ledger.log(ADMIN, Entry::UserAdd(user));
        for (number, name) in [(3, "web"), (4, "db")] {
            let host = payload::HostAdd {
                r: r(number).into(),
                name: name.into(),
                owner: [0; 16].into(),
                hostKey: Default::default(),
            };
            ledger.log(ADMIN, Entry::HostAdd(host));
        }
        let mut entry = grant(alice, web);
        change(&mut entry);
        ledger.log(ADMIN, Entry::GrantAdd(entry));
        Self { ledger, directory, ca, alice, web, database, subject }
    }

    fn key(&self) -> CaKey {
        CaKey::from_file::<CaKeyError>(&self.directory.path().join("ca"), || panic!("not encrypted")).unwrap()
    }

    fn signer<'a>(&self, effective: &'a Effective) -> Signer<'a> {
        Signer { id: self.ca, record: &effective.cas[&self.ca], issuer: ISSUER }
    }

    fn order(&self) -> Order {
        Order {
            user: self.alice,
            host: self.web,
            login: "deploy".into(),
            ttl: NonZeroU64::new(300).unwrap(),
            public_key: self.subject.clone(),
            request: None,
        }
    }

    fn prepare(&self, order: Order) -> Result<Prepared, IssueError> {
        self.prepare_at(order, now())
    }

    fn prepare_at(&self, order: Order, now: u64) -> Result<Prepared, IssueError> {
        let effective = self.ledger.effective();
        prepare(&effective, self.signer(&effective), order, now)
    }

    fn reason(&self, order: Order) -> Reason {
        self.prepare(order).unwrap_err().reason().unwrap()
    }

    /// Prepares, rehearses and logs a batch.
    fn logged(&mut self, orders: Vec<Order>) -> Batch {
        let prepared = orders.into_iter().map(|order| self.prepare(order).unwrap()).collect();
        let effective = self.ledger.effective();
        let signer = self.signer(&effective);
        let batch = Batch::new(&effective, signer, prepared).unwrap();
        for verdict in batch.rehearse(&effective, signer).unwrap() {
            verdict.unwrap();
        }
        self.ledger.log(ISSUER, batch.entry.clone());
        batch
    }
}

#[test]
fn a_batch_of_seven_gives_seven_certificates_that_their_host_accepts() {
    let mut world = World::new();
    let orders = vec![world.order(); 7];
    let batch = world.logged(orders);
    let issued = batch.finish(&world.ledger.effective(), &world.key()).unwrap();
    assert_eq!(issued.len(), 7);
    let mut serials = Vec::new();
    for (index, one) in issued.into_iter().enumerate() {
        let one = one.unwrap();
        let certificate = Certificate::parse(&one.certificate).unwrap();
        let proof = certificate.log_proof().unwrap().unwrap();
        assert_eq!((proof.index(), proof.size()), (u32::try_from(index).unwrap(), 7));
        let request = certificate.scope().unwrap().unwrap().request;
        assert_eq!(certificate.key_id, format!("alice/{request}"));
        let options: Vec<_> =
            certificate.critical_options.iter().map(|option| (option.name, option.text().unwrap())).collect();
        assert_eq!(options, [("force-command", "uptime"), ("source-address", "10.0.0.0/8,192.0.2.1/32")]);
        let extensions: Vec<_> = certificate.extensions.iter().map(|option| option.name).collect();
        assert_eq!(extensions, [LOG_PROOF_EXTENSION, "permit-X11-forwarding", "permit-pty", "scope@countersign"]);
        assert_eq!(certificate.valid_before - certificate.valid_after, 330);
        assert!(one.line().unwrap().ends_with(&format!(" alice/{request}\n")));
        serials.push(certificate.serial);
    }
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 7);
}

#[test]
fn each_obstacle_has_the_host_s_reason_code() {
    let world = World::new();
    let order = world.order();
    let nobody = Id([9; 16]);
    assert_eq!(world.reason(Order { user: nobody, ..order.clone() }), Reason::UserUnknown);
    assert_eq!(world.reason(Order { host: nobody, ..order.clone() }), Reason::HostUnknown);
    assert_eq!(world.reason(Order { host: world.database, ..order.clone() }), Reason::HostNotCovered);
    assert_eq!(world.reason(Order { login: "root".into(), ..order.clone() }), Reason::LoginNotGranted);
    let long = NonZeroU64::new(601).unwrap();
    assert_eq!(world.reason(Order { ttl: long, ..order.clone() }), Reason::TtlTooLong);
    assert_eq!(World::with_grant(|grant| grant.notAfter = now() - 5).reason(order_of(&world)), Reason::GrantExpired);
    let other_day = (shard::day(now()) + 4) % 7;
    let interval = payload::Hours { weekday: u8::try_from(other_day).unwrap(), from: 0, to: 1 };
    assert_eq!(
        World::with_grant(|grant| grant.intervals = vec![interval]).reason(order_of(&world)),
        Reason::GrantHours
    );
}

/// The same order in another world of the same ids, with a key of its own.
fn order_of(world: &World) -> Order {
    world.order()
}

#[test]
fn a_grant_that_came_closest_says_why_not() {
    let mut world = World::new();
    let mut second = grant(world.alice, world.database);
    second.r = r(21).into();
    second.logins = vec!["backup".into()];
    world.ledger.log(ADMIN, Entry::GrantAdd(second));
    let refused = world.prepare(Order { host: world.database, ..world.order() }).unwrap_err();
    assert_eq!(refused.to_string(), "refused: login-not-granted: deploy, granted: backup");
}

#[test]
fn locks_and_lost_roles_stop_issuing_at_once() {
    let deny = |entry: fn(&World) -> Entry, actor: Address| {
        let mut world = World::new();
        let entry = entry(&world);
        world.ledger.log(actor, entry);
        world.reason(world.order())
    };
    assert_eq!(deny(|world| Entry::Lock(Targets::Users(vec![world.alice])), ADMIN), Reason::UserLocked);
    assert_eq!(deny(|world| Entry::Lock(Targets::Hosts(vec![world.web])), ADMIN), Reason::HostLocked);
    assert_eq!(deny(|world| Entry::Lock(Targets::Cas(vec![world.ca])), ADMIN), Reason::CaLocked);
    assert_eq!(deny(|world| Entry::CaRetire(vec![world.ca]), ADMIN), Reason::CaRetired);
    assert_eq!(deny(|_| Entry::Lock(Targets::Actors(vec![ISSUER])), ADMIN), Reason::BatchIssuer);
    let no_roles = |_: &World| Entry::RoleSet(payload::RoleSet { actor: ISSUER, roles: 0, x25519: B256::ZERO });
    assert_eq!(deny(no_roles, ROOTS), Reason::BatchIssuer);
}

#[test]
fn the_rehearsal_finds_what_no_choice_of_grant_can() {
    let mut world = World::new();
    let key = countersign_certificate::Fingerprint20::of_blob(&world.subject);
    world.ledger.log(ADMIN, Entry::Lock(Targets::Keys(vec![key])));
    let effective = world.ledger.effective();
    let signer = world.signer(&effective);
    let batch = Batch::new(&effective, signer, vec![world.prepare(world.order()).unwrap()]).unwrap();
    let verdicts = batch.rehearse(&effective, signer).unwrap();
    assert_eq!(verdicts[0].as_ref().unwrap_err().reason(), Some(Reason::KeyLocked));
}

#[test]
fn a_grant_with_approvals_needs_them_before_anything_is_logged() {
    let world = World::with_grant(|grant| grant.approvals = 1);
    let effective = world.ledger.effective();
    let signer = world.signer(&effective);
    let batch = Batch::new(&effective, signer, vec![world.prepare(world.order()).unwrap()]).unwrap();
    let verdicts = batch.rehearse(&effective, signer).unwrap();
    assert_eq!(verdicts[0].as_ref().unwrap_err().reason(), Some(Reason::RequestUnknown));
}

#[test]
fn the_longest_certificate_is_not_refused_because_the_last_block_is_a_while_ago() {
    let mut world = World::new();
    world.ledger.begin(now() - 60);
    let order = Order { ttl: NonZeroU64::new(600).unwrap(), ..world.order() };
    let effective = world.ledger.effective();
    let signer = world.signer(&effective);
    let batch = Batch::new(&effective, signer, vec![world.prepare(order).unwrap()]).unwrap();
    batch.rehearse(&effective, signer).unwrap().pop().unwrap().unwrap();
}

/// Blocks may carry times some seconds behind the issuer's clock, and hosts count the longest life from the batch's block.
#[test]
fn the_longest_certificate_is_accepted_where_blocks_are_behind_the_clock() {
    let mut world = World::new();
    let now = now();
    world.ledger.begin(now - 20);
    let of = |secs| Order { ttl: NonZeroU64::new(secs).unwrap(), ..world.order() };
    let effective = world.ledger.effective();
    let signer = world.signer(&effective);
    let prepared = world.prepare_at(of(600), now).unwrap();
    // Approvals name its life.
    assert_eq!((prepared.valid_after, prepared.valid_before), (now - 19 - 30, now - 19 + 600));
    let batch = Batch::new(&effective, signer, vec![prepared]).unwrap();
    let short = world.prepare_at(of(300), now).unwrap();
    assert_eq!((short.valid_after, short.valid_before), (now - 30, now + 300), "no longer than is allowed anyway");
    world.ledger.start = now - 19;
    world.ledger.log(ISSUER, batch.entry.clone());
    batch.finish(&world.ledger.effective(), &world.key()).unwrap().pop().unwrap().unwrap();
}

#[test]
fn an_old_block_takes_no_more_than_half_of_a_short_life() {
    let mut world = World::with_grant(|grant| grant.maxTtl = 20);
    let now = now();
    world.ledger.begin(now - 3_600);
    let prepared = world.prepare_at(Order { ttl: NonZeroU64::new(20).unwrap(), ..world.order() }, now).unwrap();
    assert_eq!((prepared.valid_after, prepared.valid_before), (now - 40, now + 10));
}

/// The request's approval names the life that was asked for, and hosts compare.
#[test]
fn the_longest_certificate_under_approvals_keeps_the_life_that_was_approved() {
    let mut world = World::with_grant(|grant| grant.approvals = 1);
    let requester = Address::repeat_byte(0xd1);
    let member =
        payload::MemberSet { actor: requester, member: true, subject: world.alice.0.into(), x25519: B256::ZERO };
    world.ledger.log(ADMIN, Entry::MemberSet(member));
    let request = payload::Request {
        r: r(31).into(),
        user: world.alice.0.into(),
        host: world.web.0.into(),
        login: "deploy".into(),
        ttl: 600,
        publicKey: world.subject.clone().into(),
        reason: String::new(),
    };
    world.ledger.log(requester, Entry::Request(request));
    let now = now();
    world.ledger.begin(now - 12);
    let order = Order {
        ttl: NonZeroU64::new(600).unwrap(),
        request: Some(sign::record_id(Kind::REQUEST, requester, r(31))),
        ..world.order()
    };
    let effective = world.ledger.effective();
    let signer = world.signer(&effective);
    let batch = Batch::new(&effective, signer, vec![world.prepare_at(order, now).unwrap()]).unwrap();
    let verdict = batch.rehearse(&effective, signer).unwrap().pop().unwrap();
    assert_eq!(verdict.unwrap_err().reason(), Some(Reason::ApprovalsMissing), "and not another request's");
}

#[test]
fn a_certificate_whose_batch_was_not_logged_or_was_locked_is_withheld() {
    let mut world = World::new();
    let order = world.order();
    let batch = world.logged(vec![order]);
    let id = batch.id;
    let before = {
        let mut entries = world.ledger.entries.clone();
        entries.pop();
        Ledger { entries, start: world.ledger.start }.effective()
    };
    let withheld = |effective: &Effective| {
        let result = batch.clone().finish(effective, &world.key()).unwrap().pop().unwrap();
        match result.unwrap_err() {
            IssueError::Withheld { batch, reason, .. } => (batch, reason),
            other => panic!("{other}"),
        }
    };
    assert_eq!(withheld(&before), (id, Reason::BatchUnknown));
    let mut locked = Ledger { entries: world.ledger.entries.clone(), start: world.ledger.start };
    locked.log(ADMIN, Entry::Lock(Targets::Batches(vec![id])));
    assert_eq!(withheld(&locked.effective()), (id, Reason::BatchLocked));
}

#[test]
fn a_proof_of_another_batch_is_worth_nothing() {
    let mut world = World::new();
    let order = world.order();
    let logged = world.logged(vec![order.clone()]);
    // A second batch under the first one's id: what a stolen CA key could try.
    let effective = world.ledger.effective();
    let signer = world.signer(&effective);
    let mut forged = Batch::new(&effective, signer, vec![world.prepare(order).unwrap()]).unwrap();
    forged.id = logged.id;
    let result = forged.finish(&effective, &world.key()).unwrap().pop().unwrap();
    assert_eq!(result.unwrap_err().reason(), Some(Reason::LogProofMismatch));
}

fn blocking<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn a_parcel_is_sealed_only_with_the_sender_s_own_key_and_to_a_known_one() {
    let mut world = World::new();
    let (sender, device) =
        (countersign_delivery::SecretKey::generate().unwrap(), countersign_delivery::SecretKey::generate().unwrap());
    let device_actor = Address::repeat_byte(0xde);
    let directory = tempfile::tempdir().unwrap();
    let store = countersign_delivery::DirectoryStore::open(&directory.path().join("blocks")).unwrap();
    let stores = countersign_delivery::Stores::from(store.clone());
    let outbox = Outbox::open(&directory.path().join("outbox")).unwrap();
    let post = |ledger: &Ledger, key| {
        let (private, _) = deliver::generate_key_pair("alice").unwrap();
        let payload = deliver::key_pair_payload("ssh", &private, None).unwrap();
        let parcel =
            Parcel { sender: ISSUER, sender_key: key, recipient: device_actor, payload, prekeys: Default::default() };
        blocking(deliver::post(&ledger.effective(), parcel, &stores, &outbox, now()))
    };
    let missing = post(&world.ledger, &sender).unwrap_err().to_string();
    assert!(missing.contains("sender") && missing.contains("no sealing key on the ledger"), "{missing}");
    let x25519 = B256::from(sender.public().to_bytes());
    world.ledger.log(ROOTS, Entry::RoleSet(payload::RoleSet { actor: ISSUER, roles: 2, x25519 }));
    let unknown = post(&world.ledger, &sender).unwrap_err().to_string();
    assert!(unknown.contains("recipient") && unknown.contains("no sealing key on the ledger"), "{unknown}");
    let member = payload::MemberSet {
        actor: device_actor,
        member: true,
        subject: world.alice.0.into(),
        x25519: B256::from(device.public().to_bytes()),
    };
    world.ledger.log(ADMIN, Entry::MemberSet(member));
    let name = payload::PayloadNameAdd { r: r(30).into(), name: "ssh".into(), payloadKind: 2 };
    world.ledger.log(ADMIN, Entry::PayloadNameAdd(name));
    assert_eq!(deliver::recipients(&world.ledger.effective(), world.alice), [device_actor]);
    let wrong = post(&world.ledger, &device).unwrap_err().to_string();
    assert!(wrong.contains("another sealing key for sender"), "{wrong}");
    assert_eq!(outbox.notes().unwrap(), []);

    let posted = post(&world.ledger, &sender).unwrap();
    world.ledger.log(ISSUER, posted.entry);
    assert!(store.get(&posted.note.cid).is_ok());
    let sweep =
        |ledger: &Ledger, now| blocking(deliver::sweep(&ledger.effective(), &stores, &outbox, now, 100)).unwrap();
    assert_eq!(sweep(&world.ledger, now())[0].due, Due::Wait);
    let acknowledge = |digest| Entry::Acknowledge(payload::Acknowledge { delivery: posted.id.0.into(), digest });
    let mut liar = Ledger { entries: world.ledger.entries.clone(), start: world.ledger.start };
    liar.log(device_actor, acknowledge(B256::ZERO));
    assert_eq!(sweep(&liar, now())[0].due, Due::OtherDigest);
    assert!(store.get(&posted.note.cid).is_ok());
    world.ledger.log(device_actor, acknowledge(posted.note.digest));
    // In a block, but not in a final one: a reorg could still take it away.
    let latest = world.ledger.effective().latest_block;
    let mut replay = Replay::new(REALM);
    let (last, before) = world.ledger.entries.split_last().unwrap();
    replay.advance(BlockRef { number: latest.number - 1, time: latest.time }, before).unwrap();
    let ahead = replay.effective(latest, std::slice::from_ref(last)).unwrap();
    assert_eq!(blocking(deliver::sweep(&ahead, &stores, &outbox, now(), 100)).unwrap()[0].due, Due::Wait);
    assert_eq!(sweep(&world.ledger, now())[0].due, Due::Acknowledged);
    assert!(store.get(&posted.note.cid).is_err());
    assert_eq!(outbox.notes().unwrap(), []);
}

#[test]
fn nothing_is_issued_in_a_realm_that_has_moved() {
    use countersign_issuer::{service::Issuer, view::View, view::ViewError};
    use countersign_registry::{U256, migration};
    let work = async {
        let (chain, world) = (harness::world::World::new().await, World::new());
        let target = migration::Place { realm: B256::repeat_byte(8), ..migration::Place::from(&chain.pin) };
        let heads = migration::Heads { block: 1, slots: [(shard::GOVERNANCE, U256::ONE)].into() };
        let migrate = Entry::Migrate(payload::Migrate::new(&target, &heads));
        chain.anvil.mine(3).await;
        chain.by_roots(&[sign::write(shard::GOVERNANCE, &migrate)]).await;
        let realm = chain.realm_file();
        let view = View::read(&realm, 1).await.unwrap();
        assert!(view.check_not_left().is_ok(), "what is not final has moved nobody");
        chain.anvil.finalize().await;
        let view = View::read(&realm, 1).await.unwrap();
        let actor = harness::world::key(harness::world::ADMIN_KEY);
        let patience = std::time::Duration::from_secs(1);
        let issuer = Issuer::new(realm, actor, (world.ca, world.key()), patience, None).unwrap();
        let refused = issuer.issue(&view, vec![world.order()], now(), &mut |_| {}).await.unwrap_err();
        assert!(matches!(refused, IssueError::View(ViewError::Left { .. })), "{refused}");
        assert!(refused.to_string().starts_with("the realm has moved to realm 0x0808"), "{refused}");
    };
    blocking(work);
}
