//! The faults of the systems that this one follows (K, D and M in the feature list), each as an attack that must fail. Everything is
//! judged by the very functions that hosts, issuers and people use, over a log that an attacker has written to. Who may write
//! governance, denials and revocations at all is the contract's part: `contracts/test/Classes.t.sol`. `docs/security.md` lists them.

#![expect(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use alloy_primitives::{Address, B256, Bytes, U256};
use countersign::proposal::{ProposalError, WriteText};
use countersign::signed::SignedWrites;
use countersign_chain::keys::ActorKey;
use countersign_compile::{Compiled, HostView, compile};
use countersign_delivery::{Contents, Context, DirectoryStore, Payload, PayloadKind, SecretKey, open, seal};
use countersign_issuer::deliver::{self, Parcel, Posted};
use countersign_issuer::outbox::{Due, Outbox};
use countersign_registry::entries::{Entry, Kind, Roles, Targets, payload};
use countersign_registry::head::{Fold, LogEntry, Meta, PlacedEntry, Tip, genesis, next_slot};
use countersign_registry::{BlockRef, Effective, EntryRef, Id, RealmPin, Replay, shard, sign};
use countersign_snapshot::{AccountsTables, Clock, Freshness, PublishInfo, Salt, Snapshot, Trust, publish};
use countersign_sshd::{Mode, Query, Reason, decide};

const REALM: B256 = B256::repeat_byte(0xee);
const ROOTS: Address = Address::ZERO;
const ADMIN: Address = Address::repeat_byte(0xa1);
const ADMIN_2: Address = Address::repeat_byte(0xa2);
const ISSUER: Address = Address::repeat_byte(0xb1);
const REVOKER: Address = Address::repeat_byte(0xe1);
/// A member, bound to its host.
const DEVICE: Address = Address::repeat_byte(0xd1);
/// A member too, bound to another host.
const OTHER: Address = Address::repeat_byte(0xd2);
/// Nobody.
const STRANGER: Address = Address::repeat_byte(0x66);

/// Ten seconds a block, the tenth of them now.
fn time(block: u64) -> u64 {
    static GENESIS: OnceLock<u64> = OnceLock::new();
    GENESIS.get_or_init(|| Clock::now().unwrap().unix_secs - 100) + block * 10
}

fn blob(seed: u8) -> Bytes {
    [b"\0\0\0\x0bssh-ed25519\0\0\0\x20", [seed; 32].as_slice()].concat().into()
}

/// A log with its realm's cast.
#[derive(Clone)]
struct Log {
    entries: Vec<PlacedEntry>,
    next: BTreeMap<u64, u64>,
    user: Id,
    host: Id,
    sealing: [SecretKey; 2],
}

impl Log {
    fn new() -> Self {
        let sealing = [SecretKey::generate().unwrap(), SecretKey::generate().unwrap()];
        let [issuer_key, device_key] = sealing.each_ref().map(|key| B256::from(key.public().to_bytes()));
        let mut log =
            Self { entries: Vec::new(), next: BTreeMap::new(), user: Id([0; 16]), host: Id([0; 16]), sealing };
        for (actor, roles) in
            [(ADMIN, Roles::ADMIN), (ADMIN_2, Roles::ADMIN), (ISSUER, Roles::ISSUER), (REVOKER, Roles::REVOKER)]
        {
            log.add(1, ROOTS, &Entry::RoleSet(payload::RoleSet { actor, roles, x25519: issuer_key }));
        }
        let user = payload::UserAdd { r: [1; 16].into(), login: "alice".into(), displayName: String::new() };
        log.add(2, ADMIN, &Entry::UserAdd(user));
        log.user = sign::record_id(Kind::USER_ADD, ADMIN, [1; 16]);
        for r in [2, 3] {
            let host = payload::HostAdd {
                r: [r; 16].into(),
                name: format!("web{r}"),
                owner: [0; 16].into(),
                hostKey: Bytes::new(),
            };
            log.add(2, ADMIN, &Entry::HostAdd(host));
        }
        for (r, actor) in [(3, OTHER), (2, DEVICE)] {
            log.host = sign::record_id(Kind::HOST_ADD, ADMIN, [r; 16]);
            log.bind(3, ADMIN, actor, log.host, device_key);
        }
        log
    }

    fn add(&mut self, block: u64, actor: Address, entry: &Entry) {
        let kind = entry.kind();
        let class = shard::class_of_kind(kind).unwrap();
        let epoch = match class {
            0..=2 => 0,
            3 => shard::period(time(block)),
            _ => shard::day(time(block)),
        };
        let shard = shard::shard(class, epoch);
        let index = self.next.entry(shard).or_default();
        let at = EntryRef { block, shard, index: *index, time: time(block) };
        *index += 1;
        let meta = Meta { kind, prev_block: 0, time: at.time }.pack();
        self.entries.push(PlacedEntry { at, entry: LogEntry { shard, actor, meta, data: entry.encode() } });
    }

    fn bind(&mut self, block: u64, writer: Address, actor: Address, subject: Id, x25519: B256) {
        let set = payload::MemberSet { actor, member: true, subject: subject.0.into(), x25519 };
        self.add(block, writer, &Entry::MemberSet(set));
    }

    fn upto(&self, block: u64) -> Vec<PlacedEntry> {
        self.entries.iter().filter(|placed| placed.at.block <= block).cloned().collect()
    }

    /// As a host sees it with these final and latest blocks.
    fn views(&self, fin: u64, latest: u64) -> Effective {
        let block = |number| BlockRef { number, time: time(number) };
        let mut replay = Replay::new(REALM);
        replay.advance(block(fin), &self.upto(fin)).unwrap();
        replay.effective(block(latest), &self.upto(latest)).unwrap()
    }
}

fn parcel(log: &Log) -> Parcel<'_> {
    let certificate = "ssh-ed25519-cert-v01@openssh.com AAAA alice/01\n".to_owned();
    let payload = Payload::new("deploy", Contents::SshCertificate { certificate }).unwrap();
    Parcel { sender: ISSUER, sender_key: &log.sealing[0], recipient: DEVICE, payload, prekeys: Default::default() }
}

fn blocking<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A delivery that the issuer posted in block 5, with its store and books.
struct Post {
    _directory: tempfile::TempDir,
    store: DirectoryStore,
    outbox: Outbox,
    posted: Posted,
}

impl Post {
    fn new(log: &mut Log) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(&directory.path().join("blocks")).unwrap();
        let outbox = Outbox::open(&directory.path().join("outbox")).unwrap();
        let posted =
            blocking(deliver::post(&log.views(4, 4), parcel(log), &store.clone().into(), &outbox, time(5))).unwrap();
        log.add(5, ISSUER, &posted.entry);
        Self { _directory: directory, store, outbox, posted }
    }

    fn acknowledgement(&self, digest: B256) -> Entry {
        Entry::Acknowledge(payload::Acknowledge { delivery: self.posted.id.0.into(), digest })
    }

    /// What the sweep finds due at a time.
    fn due(&self, effective: &Effective, now: u64) -> Due {
        let swept = blocking(deliver::sweep(effective, &self.store.clone().into(), &self.outbox, now, 3_600)).unwrap();
        swept.first().unwrap().due
    }

    fn is_kept(&self) -> bool {
        self.store.get(&self.posted.note.cid).is_ok()
    }
}

#[test]
fn writing_another_devices_state_takes_a_role() {
    let mut log = Log::new();
    let post = Post::new(&mut log);
    let before = log.views(6, 6);
    let digest = post.posted.note.digest;
    for attacker in [OTHER, STRANGER] {
        log.add(7, attacker, &post.acknowledgement(digest));
        log.bind(7, attacker, DEVICE, log.host, B256::repeat_byte(6));
        log.add(7, attacker, &Entry::Remove(vec![log.host]));
        let request = payload::Request {
            r: [9; 16].into(),
            user: log.user.0.into(),
            host: log.host.0.into(),
            login: "deploy".into(),
            ttl: 300,
            publicKey: blob(6),
            reason: String::new(),
        };
        log.add(7, attacker, &Entry::Request(request));
    }
    for after in [log.views(6, 8), log.views(8, 8)] {
        assert_eq!(after.actors.get(&DEVICE), before.actors.get(&DEVICE));
        assert_eq!(after.hosts.len(), before.hosts.len());
        assert!(after.acknowledgements.is_empty() && after.requests.is_empty());
        assert_eq!(after.deliveries, before.deliveries);
    }
}

#[test]
fn registering_a_device_takes_its_owners_approval() {
    let mut log = Log::new();
    let enrol = payload::Enrol {
        actor: STRANGER,
        x25519: B256::repeat_byte(9),
        name: "web2".into(),
        hostKey: Bytes::new(),
        tokenMac: B256::ZERO,
    };
    log.add(5, STRANGER, &Entry::Enrol(enrol));
    log.bind(5, STRANGER, STRANGER, log.host, B256::repeat_byte(9));
    log.bind(5, DEVICE, STRANGER, log.host, B256::repeat_byte(9));
    let subject = |log: &Log| log.views(20, 20).actors.get(&STRANGER).and_then(|actor| actor.subject);
    assert_eq!(subject(&log), None);
    // Where the realm wants two admins, one alone approves nothing.
    let two = payload::Settings { items: vec![payload::Setting { key: 6, value: 2 }] };
    log.add(6, ROOTS, &Entry::Settings(two));
    let mut confirmed = log.clone();
    for (log, confirm) in [(&mut log, false), (&mut confirmed, true)] {
        log.bind(8, ADMIN, STRANGER, log.host, B256::repeat_byte(9));
        let id = sign::member_set_id(REALM, &log.entries.last().unwrap().entry);
        if confirm {
            log.add(9, ADMIN_2, &Entry::Confirm(vec![id]));
        }
    }
    assert_eq!(subject(&log), None);
    assert_eq!(subject(&confirmed), Some(confirmed.host));
}

/// With a static Diffie-Hellman output as the key, whoever holds either secret opens everything ever sent between the two.
#[test]
fn no_raw_static_diffie_hellman_output_is_the_cipher_key() {
    let log = Log::new();
    let [sender, recipient] = &log.sealing;
    let context = Context {
        realm: REALM.0,
        delivery: [7; 16],
        recipient: DEVICE.into_array(),
        kind: PayloadKind::SshCertificate,
    };
    let payload = parcel(&log).payload;
    let one = seal(&context, sender, &recipient.public(), &payload).unwrap();
    open(&context, recipient, &sender.public(), &one.digest, "deploy", &one.block).unwrap();
    // The sender's secret gives the same static output, and does not open what it sealed.
    assert!(open(&context, sender, &recipient.public(), &one.digest, "deploy", &one.block).is_err());
    assert!(open(&context, sender, &sender.public(), &one.digest, "deploy", &one.block).is_err());
    // Nor does one message's key stream serve another: nothing of two ciphertexts of one payload is equal, nor their difference.
    let two = seal(&context, sender, &recipient.public(), &payload).unwrap();
    let equal = one.block.iter().zip(&two.block).skip(1).filter(|(one, two)| one == two).count();
    assert!(equal < one.block.len() / 32, "{equal} of {} bytes are equal", one.block.len());
}

#[test]
fn a_digest_on_the_ledger_confirms_no_guess_of_the_payload() {
    let mut log = Log::new();
    let [one, two] = [Post::new(&mut log), Post::new(&mut log)];
    assert_ne!(one.posted.note.digest, two.posted.note.digest, "of one payload");
    // Whoever knows the payload and everything on the ledger, but not the sealed salt.
    let payload = parcel(&log).payload;
    let Contents::SshCertificate { certificate } = payload.contents() else { unreachable!("a certificate") };
    let container = payload.encode(&[0; 32]).unwrap();
    let cid = one.posted.note.cid.to_bytes();
    for guess in [certificate.as_bytes(), &container, &one.store.get(&one.posted.note.cid).unwrap(), &cid] {
        assert_ne!(countersign_certificate::fingerprint_sha256(guess), one.posted.note.digest.0);
    }
    // The block's hash, which is the CID, is no digest either.
    assert_ne!(cid[4..], one.posted.note.digest[..]);
}

#[test]
fn the_cid_is_not_on_the_ledger_in_the_clear() {
    let mut log = Log::new();
    let post = Post::new(&mut log);
    let cid = post.posted.note.cid;
    let text = cid.to_string();
    for placed in &log.entries {
        let data = &placed.entry.data;
        let holds = |needle: &[u8]| data.windows(needle.len()).any(|window| window == needle);
        assert!(!holds(&cid.to_bytes()[4..]), "the block's hash");
        assert!(!holds(text.as_bytes()) && !holds(&text.as_bytes()[8..24]), "the CID's text");
    }
}

#[test]
fn a_block_is_not_unpinned_before_its_recipient_has_it() {
    let mut log = Log::new();
    let post = Post::new(&mut log);
    let digest = post.posted.note.digest;
    assert_eq!(post.due(&log.views(6, 6), time(6)), Due::Wait);
    // By somebody else, or for something else, it is no acknowledgement.
    let mut forged = log.clone();
    for other in [OTHER, STRANGER, ISSUER] {
        forged.add(7, other, &post.acknowledgement(digest));
    }
    assert_eq!(post.due(&forged.views(9, 9), time(9)), Due::Wait);
    let mut mistaken = log.clone();
    mistaken.add(7, DEVICE, &post.acknowledgement(B256::repeat_byte(1)));
    assert_eq!(post.due(&mistaken.views(9, 9), time(9)), Due::OtherDigest);
    // Nor while a reorg may take it back; and when one does, the block is still there.
    let mut acknowledged = log.clone();
    acknowledged.add(7, DEVICE, &post.acknowledgement(digest));
    assert_eq!(post.due(&acknowledged.views(6, 8), time(8)), Due::Wait);
    assert_eq!(post.due(&log.views(8, 9), time(9)), Due::Wait);
    // A clock that runs ahead of the chain lets no timeout pass.
    assert_eq!(post.due(&log.views(8, 9), time(9) + 1_000_000), Due::Wait);
    assert!(post.is_kept());
    assert_eq!(post.due(&acknowledged.views(7, 8), time(8)), Due::Acknowledged);
    assert!(!post.is_kept());
}

/// The host's verdict on a plain key.
fn verdict(effective: &Effective, host: Id, key: &[u8]) -> Reason {
    let Compiled { facts, access, max_staleness_secs, valid_until_secs, .. } =
        compile(effective, &HostView { host, allow_root: false, max_staleness_secs: None });
    let clock = Clock::now().unwrap();
    let freshness = Freshness {
        valid_until_secs,
        boot_id: clock.boot_id,
        boottime_secs: clock.boottime_secs,
        age_consumed_secs: clock.unix_secs.saturating_sub(facts.latest_block.time_secs),
        max_staleness_secs,
        highest_wall_secs: clock.unix_secs,
    };
    let info =
        PublishInfo { freshness, facts, salt: Salt([5; 16]), access_group: None, now_unix_secs: clock.unix_secs };
    let directory = tempfile::tempdir().unwrap();
    publish(directory.path(), &access, &AccountsTables::default(), &info).unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(directory.path()).unwrap());
    let snapshot = Snapshot::open(directory.path(), Trust::owner(owner)).unwrap();
    match Query::offline(&snapshot, Mode::Keys, "deploy", key) {
        Ok(query) => decide(&snapshot, &query, &clock).reason(),
        Err(refusal) => countersign_sshd::Verdict::refused(refusal).reason(),
    }
}

#[test]
fn a_revocation_does_something_at_once_and_survives_a_reorg() {
    let mut log = Log::new();
    let settings = payload::Settings { items: vec![payload::Setting { key: 1, value: 0 }] };
    log.add(4, ROOTS, &Entry::Settings(settings));
    let key = payload::KeyAdd {
        r: [4; 16].into(),
        user: log.user.0.into(),
        publicKey: blob(4),
        purposes: 1,
        notAfter: 0,
        comment: String::new(),
    };
    log.add(5, ADMIN, &Entry::KeyAdd(key));
    let grant = payload::GrantAdd {
        r: [5; 16].into(),
        subject: log.user.0.into(),
        allHosts: true,
        logins: vec!["deploy".into()],
        via: 2,
        permits: 1,
        ..Default::default()
    };
    log.add(5, ADMIN, &Entry::GrantAdd(grant));
    let host = log.host;
    assert_eq!(verdict(&log.views(8, 8), host, &blob(4)), Reason::Granted);
    let fingerprint = countersign_registry::Fingerprint20::of_blob(&blob(4));
    for (denial, reason) in [
        (Entry::Lock(Targets::Keys(vec![fingerprint])), Reason::KeyLocked),
        (Entry::Lock(Targets::Users(vec![log.user])), Reason::UserLocked),
        (Entry::Lock(Targets::Hosts(vec![host])), Reason::HostLocked),
    ] {
        let mut denied = log.clone();
        denied.add(9, REVOKER, &denial);
        let block = |number| BlockRef { number, time: time(number) };
        let mut replay = Replay::new(REALM);
        replay.advance(block(8), &denied.upto(8)).unwrap();
        let seen = replay.effective(block(9), &denied.upto(9)).unwrap();
        assert_eq!(verdict(&seen, host, &blob(4)), reason, "as soon as it is seen");
        let reverted = replay.effective(block(10), &log.upto(10)).unwrap();
        assert_eq!(verdict(&reverted, host, &blob(4)), reason, "and after a reorg took it back");
    }
}

#[test]
fn no_payload_name_can_be_a_path_or_a_shell_command() {
    for name in ["../x", "a/b", "$(id)", "`id`", "a;b", "a|b", "a b", "-", "a\nb", "a\0b", ".ssh", "", "A", "*", "~"] {
        let certificate = "ssh-ed25519-cert-v01@openssh.com AAAA\n".to_owned();
        let made = Payload::new(name, Contents::SshCertificate { certificate });
        // A dash is a name like another: it is only ever looked up, or joined to a directory.
        assert_eq!(made.is_ok(), name == "-", "{name:?}");
    }
    let mut log = Log::new();
    let mut delivery = |name: &str, r: u8| {
        let delivery = payload::Delivery {
            r: [r; 16].into(),
            recipient: DEVICE,
            payloadName: name.into(),
            payloadKind: 1,
            digest: B256::ZERO,
            sealedCid: vec![0; countersign_delivery::SEALED_CID_BYTES].into(),
        };
        log.add(5, ISSUER, &Entry::Delivery(delivery));
    };
    delivery("../../etc/shadow", 1);
    delivery("$(reboot)", 2);
    delivery("good", 3);
    let found: Vec<String> =
        log.views(6, 6).deliveries.into_values().map(|delivery| delivery.payload_name.clone()).collect();
    assert_eq!(found, ["good"]);
}

#[test]
fn a_publisher_revokes_only_what_is_its_own() {
    let mut log = Log::new();
    let mut ca = |seed: u8, issuer: Address| {
        let add = payload::CaAdd {
            r: [seed; 16].into(),
            purpose: 1,
            name: format!("ca{seed}"),
            publicKey: blob(seed),
            maxTtl: 600,
            logins: vec![],
            issuers: vec![issuer],
        };
        log.add(2, ROOTS, &Entry::CaAdd(add));
        sign::record_id(Kind::CA_ADD, ROOTS, [seed; 16])
    };
    let (own, foreign) = (ca(0x31, ISSUER), ca(0x32, ADMIN));
    for entry in [
        Entry::CertRevoke { ca: foreign, serials: vec![7] },
        Entry::CertRevoke { ca: own, serials: vec![8] },
        Entry::Remove(vec![log.user, log.host]),
    ] {
        log.add(5, ISSUER, &entry);
    }
    for after in [log.views(4, 6), log.views(6, 6)] {
        assert_eq!(after.revoked_serials, BTreeMap::from([(own, [8].into())]));
        assert_eq!((after.users.len(), after.hosts.len()), (1, 2));
    }
}

#[test]
fn an_entry_that_its_actor_did_not_write_is_no_entry() {
    // What a node serves: the head proves which actor wrote which bytes, when, in which order.
    let (contract, chain, place) = (Address::repeat_byte(9), 31337, shard::DIRECTORY);
    let user = payload::UserAdd { r: [1; 16].into(), login: "alice".into(), displayName: String::new() };
    let meta = |time| Meta { kind: Kind::USER_ADD, prev_block: 0, time }.pack();
    let good = LogEntry { shard: place, actor: ADMIN, meta: meta(50), data: Entry::UserAdd(user).encode() };
    let proved = next_slot(genesis(chain, contract, REALM, place), REALM, &good, 7);
    let fold = |realm, entry: &LogEntry, block| {
        let mut fold = Fold::new(chain, contract, realm, place, Tip::default(), 10);
        fold.push(entry.clone(), block).and_then(|_| fold.finish(proved)).is_ok()
    };
    assert!(fold(REALM, &good, 7));
    let mut data = good.data.to_vec();
    data[40] ^= 1;
    for forged in [
        LogEntry { actor: STRANGER, ..good.clone() },
        LogEntry { meta: meta(51), ..good.clone() },
        LogEntry { meta: good.meta ^ (U256::from(1) << 96), ..good.clone() },
        LogEntry { data: data.into(), ..good.clone() },
    ] {
        assert!(!fold(REALM, &forged, 7), "{forged:?}");
    }
    assert!(!fold(REALM, &good, 8) && !fold(B256::ZERO, &good, 7));

    // What travels as a file before it is written.
    let keys = [1, 2].map(|seed| ActorKey::from_secret(&[seed; 32]).unwrap());
    let roots = vec![keys[0].address()];
    let pin = RealmPin {
        chain_id: chain,
        contract,
        code_hash: B256::ZERO,
        realm: sign::realm_id(chain, contract, 1, &roots, B256::ZERO),
        threshold: 1,
        roots,
        salt: B256::ZERO,
        deployed_block: 0,
        genesis_hash: B256::ZERO,
    };
    let lock = Entry::Lock(Targets::Users(vec![Id([1; 16])]));
    let writes = vec![WriteText::new(&sign::write(shard::write_shard(lock.kind()).unwrap(), &lock), "lock")];
    let signed = SignedWrites::sign(&pin, &keys[0].clone().into(), 0, 1_000, writes).unwrap();
    let read = |signed: &SignedWrites| SignedWrites::parse("f", &toml::to_string(signed).unwrap(), &pin, 1);
    assert_eq!(read(&signed), Ok(signed.clone()));
    let unlike: [fn(&mut SignedWrites); 5] = [
        |signed| signed.nonce += 1,
        |signed| signed.deadline += 1,
        |signed| signed.writes.first_mut().unwrap().shard ^= 1,
        |signed| signed.writes.push(signed.writes.first().unwrap().clone()),
        |signed| signed.actor = STRANGER,
    ];
    for change in unlike {
        let mut forged = signed.clone();
        change(&mut forged);
        assert!(matches!(read(&forged), Err(ProposalError::BadSignature { .. })), "{forged:?}");
    }
}

/// All Rust and Solidity under `folder`.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules", "out", "cache"].contains(&name) {
                sources(&path, text);
            }
        } else if name.ends_with(".rs") || name.ends_with(".sol") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The page's tables say in their last column which tests show what the row says: all of them exist, and no row is without.
fn check_named_tests(page: &str, least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let name = page;
    let page = std::fs::read_to_string(root.join(page)).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.ends_with("` |"));
    let last = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    let named: BTreeSet<&str> = last.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > least, "{} tests are named", named.len());
    let mut text = String::new();
    sources(root, &mut text);
    let missing: Vec<&&str> = named
        .iter()
        .filter(|name| !text.contains(&format!("fn {name}(")) && !text.contains(&format!("function {name}(")))
        .collect();
    assert!(missing.is_empty(), "{name} names tests that are not there: {missing:#?}");
    let unshown: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.ends_with("| shown by |"))
        .filter(|line| !line.ends_with("` |"))
        .collect();
    assert!(unshown.is_empty(), "rows without a test: {unshown:#?}");
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    check_named_tests("docs/security.md", 80);
}

#[test]
fn every_test_of_what_sshd_does_exists() {
    check_named_tests("docs/sshd-facts.md", 25);
}

#[test]
fn no_flag_takes_a_secret() {
    use clap::CommandFactory;
    fn look(command: &clap::Command, seen: &mut Vec<String>) {
        for argument in command.get_arguments() {
            let name = argument.get_long().unwrap_or_default();
            if ["password", "secret", "private", "passphrase", "token"].iter().any(|word| name.contains(word)) {
                seen.push(name.to_owned());
                let takes_a_file =
                    argument.get_value_names().is_some_and(|names| names.iter().all(|name| name == "FILE"));
                assert!(takes_a_file, "--{name} of {} would be seen by ps", command.get_name());
            }
        }
        command.get_subcommands().for_each(|sub| look(sub, seen));
    }
    let mut seen = Vec::new();
    look(&countersign::args::Cli::command(), &mut seen);
    assert!(seen.iter().any(|name| name == "password-file"), "{seen:?}");
}
