//! From a log, through real replay, to tables: authority from the final view, denials from the latest one.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests may")]
#![expect(clippy::arithmetic_side_effects, reason = "small constants")]

use std::collections::BTreeMap;

use countersign_certificate::{Fingerprint20, Id};
use countersign_compile::{Compiled, HostView, PlainSshd, compile, plain_sshd};
use countersign_registry::entries::{Entry, Kind, Roles, Targets, payload};
use countersign_registry::head::{LogEntry, Meta, PlacedEntry};
use countersign_registry::realm::{BlockRef, EntryRef};
use countersign_registry::replay::setting;
use countersign_registry::{Address, B256, Bytes, Replay, shard, sign};
use countersign_snapshot::{AccessTables, Denial, HostState, KeyState, UserState};

const ROOTS: Address = Address::ZERO;
const ADMIN: Address = Address::repeat_byte(0xa1);
const REVOKER: Address = Address::repeat_byte(0xe1);

fn block(number: u64) -> BlockRef {
    BlockRef { number, time: 1_800_000_000 + number * 10 }
}

fn key_blob() -> Bytes {
    let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    blob.extend([7; 32]);
    blob.into()
}

#[derive(Default)]
struct Log {
    entries: Vec<PlacedEntry>,
    next: BTreeMap<u64, u64>,
}

impl Log {
    fn add(&mut self, number: u64, actor: Address, entry: &Entry) {
        let shard = shard::shard(shard::class_of_kind(entry.kind()).unwrap(), 0);
        let index = self.next.entry(shard).or_default();
        let at = EntryRef { block: number, shard, index: *index, time: block(number).time };
        *index += 1;
        let meta = Meta { kind: entry.kind(), prev_block: 0, time: at.time }.pack();
        self.entries.push(PlacedEntry { at, entry: LogEntry { shard, actor, meta, data: entry.encode() } });
    }

    fn compiled(&self, host: Id, final_block: u64, latest_block: u64) -> Compiled {
        self.both(host, final_block, latest_block).0
    }

    /// What a plain sshd is told too.
    fn both(&self, host: Id, final_block: u64, latest_block: u64) -> (Compiled, PlainSshd) {
        let upto = |number| -> Vec<PlacedEntry> {
            self.entries.iter().filter(|placed| placed.at.block <= number).cloned().collect()
        };
        let mut replay = Replay::new(B256::repeat_byte(0xee));
        replay.advance(block(final_block), &upto(final_block)).unwrap();
        let effective = replay.effective(block(latest_block), &upto(latest_block)).unwrap();
        let compiled = compile(&effective, &HostView { host, allow_root: false, max_staleness_secs: None });
        let plain = plain_sshd(&effective, &compiled);
        (compiled, plain)
    }
}

struct Realm {
    log: Log,
    alice: Id,
    host: Id,
    grant: Id,
}

fn grant(r: u8, subject: Id) -> payload::GrantAdd {
    payload::GrantAdd {
        r: [r; 16].into(),
        subject: subject.0.into(),
        hosts: vec![],
        labels: vec!["web".into()],
        allHosts: false,
        logins: vec!["deploy".into()],
        via: 3,
        maxTtl: 0,
        approvals: 0,
        forcedCommand: String::new(),
        sourceAddresses: vec![],
        intervals: vec![],
        notAfter: 0,
        permits: 1,
    }
}

/// Block 1: roles. Block 2: Alice, a host labelled `web`, Alice's key, a grant for `deploy` on `web`.
fn realm() -> Realm {
    let mut log = Log::default();
    for (actor, roles) in [(ADMIN, Roles::ADMIN), (REVOKER, Roles::REVOKER)] {
        log.add(1, ROOTS, &Entry::RoleSet(payload::RoleSet { actor, roles, x25519: B256::ZERO }));
    }
    let add = payload::UserAdd { r: [1; 16].into(), login: "alice".into(), displayName: "Alice".into() };
    log.add(2, ADMIN, &Entry::UserAdd(add));
    let alice = sign::record_id(Kind::USER_ADD, ADMIN, [1; 16]);
    let add =
        payload::HostAdd { r: [2; 16].into(), name: "web-1".into(), owner: [0; 16].into(), hostKey: Bytes::new() };
    log.add(2, ADMIN, &Entry::HostAdd(add));
    let host = sign::record_id(Kind::HOST_ADD, ADMIN, [2; 16]);
    let add = payload::LabelAdd { r: [3; 16].into(), target: host.0.into(), label: "web".into() };
    log.add(2, ADMIN, &Entry::LabelAdd(add));
    let add = payload::KeyAdd {
        r: [4; 16].into(),
        user: alice.0.into(),
        publicKey: key_blob(),
        purposes: 1,
        notAfter: 0,
        comment: String::new(),
    };
    log.add(2, ADMIN, &Entry::KeyAdd(add));
    log.add(2, ADMIN, &Entry::GrantAdd(grant(5, alice)));
    let grant = sign::record_id(Kind::GRANT_ADD, ADMIN, [5; 16]);
    Realm { log, alice, host, grant }
}

#[test]
fn a_final_grant_by_label_opens_to_the_users_plain_key() {
    let Realm { log, alice, host, grant } = realm();
    let compiled = log.compiled(host, 4, 6);
    assert_eq!(compiled.facts.host_state, HostState::Active);
    assert_eq!(compiled.access.grants.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [grant]);
    let ways: Vec<_> = compiled.access.key_grants.iter().map(|way| (way.user, way.login.as_str(), way.grant)).collect();
    assert_eq!(ways, [(alice, "deploy", grant)]);
    let keys: Vec<_> = compiled.access.keys.iter().map(|(id, key)| (*id, key.user, key.state)).collect();
    assert_eq!(keys, [(Fingerprint20::of_blob(&key_blob()), alice, KeyState::Active)]);
}

#[test]
fn what_is_only_in_the_latest_view_grants_nothing() {
    let Realm { mut log, alice, host, grant: first } = realm();
    assert_eq!(log.compiled(host, 1, 4).access, AccessTables::default(), "the host itself is not final");
    log.add(5, ADMIN, &Entry::GrantAdd(grant(6, alice)));
    let ids = |compiled: Compiled| compiled.access.grants.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    assert_eq!(ids(log.compiled(host, 4, 6)), [first]);
    assert_eq!(ids(log.compiled(host, 5, 6)).len(), 2);
}

#[test]
fn a_removed_grant_or_label_is_gone_from_the_latest_block() {
    let removed = [(Kind::GRANT_ADD, [5; 16]), (Kind::LABEL_ADD, [3; 16])];
    for (kind, r) in removed {
        let Realm { mut log, host, .. } = realm();
        log.add(6, ADMIN, &Entry::Remove(vec![sign::record_id(kind, ADMIN, r)]));
        let access = log.compiled(host, 4, 6).access;
        assert!(access.grants.is_empty() && access.key_grants.is_empty(), "{kind}");
    }
}

#[test]
fn a_key_a_user_and_a_host_are_locked_from_the_latest_block() {
    let Realm { mut log, alice, host, .. } = realm();
    let fingerprint = Fingerprint20::of_blob(&key_blob());
    log.add(6, REVOKER, &Entry::Lock(Targets::Keys(vec![fingerprint])));
    log.add(6, REVOKER, &Entry::Lock(Targets::Users(vec![alice])));
    let access = log.compiled(host, 4, 6).access;
    assert_eq!(access.revoked_keys, [(fingerprint, Denial::Locked)]);
    assert_eq!(access.keys.first().unwrap().1.state, KeyState::Locked);
    assert_eq!(access.users.first().unwrap().1.state, UserState::Locked);
    log.add(7, REVOKER, &Entry::Lock(Targets::Hosts(vec![host])));
    let compiled = log.compiled(host, 4, 7);
    assert_eq!((compiled.facts.host_state, compiled.access), (HostState::Locked, AccessTables::default()));
}

#[test]
fn a_realm_that_starts_to_require_logged_certificates_closes_plain_keys_at_once() {
    let Realm { mut log, host, .. } = realm();
    let items = vec![payload::Setting { key: setting::REQUIRE_LOGGED, value: 1 }];
    log.add(6, ROOTS, &Entry::Settings(payload::Settings { items }));
    let compiled = log.compiled(host, 4, 6);
    assert!(compiled.facts.require_logged);
    assert!(compiled.access.key_grants.is_empty());
    assert!(!compiled.access.grants.first().unwrap().1.via.plain_key);
}

/// The ways in by plain key, where the final block is `fin` and the latest one `latest`.
fn ways(realm: &Realm, fin: u64, latest: u64) -> Vec<Id> {
    realm.log.compiled(realm.host, fin, latest).access.key_grants.iter().map(|way| way.grant).collect()
}

#[test]
fn the_end_of_an_earlier_grant_uncovers_a_later_one_for_the_same_key_only_when_it_is_final() {
    let later = sign::record_id(Kind::GRANT_ADD, ADMIN, [6; 16]);
    let group = sign::record_id(Kind::GROUP_ADD, ADMIN, [7; 16]);
    let label = sign::record_id(Kind::LABEL_ADD, ADMIN, [3; 16]);
    let membership = sign::record_id(Kind::GROUP_MEMBER_ADD, ADMIN, [8; 16]);
    // By the earlier grant itself, by the label through which it covers this host, and by the membership through which it is Alice's.
    for (ends, by_group) in [(None, false), (Some(label), false), (Some(membership), true)] {
        let mut realm = realm();
        let mut earlier = realm.grant;
        if by_group {
            realm.log.add(3, ADMIN, &Entry::Remove(vec![earlier]));
            realm.log.add(3, ADMIN, &Entry::GroupAdd(payload::GroupAdd { r: [7; 16].into(), name: "ops".into() }));
            let member =
                payload::GroupMemberAdd { r: [8; 16].into(), group: group.0.into(), user: realm.alice.0.into() };
            realm.log.add(3, ADMIN, &Entry::GroupMemberAdd(member));
            realm.log.add(3, ADMIN, &Entry::GrantAdd(grant(9, group)));
            earlier = sign::record_id(Kind::GRANT_ADD, ADMIN, [9; 16]);
        }
        let mut more = grant(6, realm.alice);
        more.permits = 0x1f;
        (more.labels, more.allHosts) = (vec![], true);
        realm.log.add(4, ADMIN, &Entry::GrantAdd(more));
        assert_eq!(ways(&realm, 6, 6), [earlier]);
        realm.log.add(8, ADMIN, &Entry::Remove(vec![ends.unwrap_or(earlier)]));
        assert_eq!(ways(&realm, 6, 8), [], "neither: the end counts, what it uncovers does not yet");
        assert_eq!(ways(&realm, 8, 8), [later]);
        // A denial of something else takes nothing away from the later one.
        realm.log.add(9, REVOKER, &Entry::Lock(Targets::Keys(vec![Fingerprint20([1; 20])])));
        assert_eq!(ways(&realm, 8, 9), [later]);
    }
}

#[test]
fn a_plain_sshd_goes_on_denying_what_a_locked_user_asked_for_whatever_else_is_taken_from_her() {
    let Realm { mut log, alice, host, .. } = realm();
    let device = Address::repeat_byte(0xd1);
    let [ca_key, asked_for] = [5, 9].map(|last| {
        let mut blob = key_blob().to_vec();
        *blob.last_mut().unwrap() = last;
        blob
    });
    let member = |member| {
        Entry::MemberSet(payload::MemberSet { actor: device, member, subject: alice.0.into(), x25519: B256::ZERO })
    };
    log.add(2, ADMIN, &member(true));
    let ca = payload::CaAdd {
        r: [6; 16].into(),
        purpose: 1,
        name: "users".into(),
        publicKey: ca_key.into(),
        maxTtl: 3600,
        logins: vec![],
        issuers: vec![],
    };
    log.add(2, ROOTS, &Entry::CaAdd(ca));
    let ask = payload::Request {
        r: [7; 16].into(),
        user: alice.0.into(),
        host: host.0.into(),
        login: "deploy".into(),
        ttl: 300,
        reason: String::new(),
        publicKey: asked_for.clone().into(),
    };
    log.add(5, device, &Entry::Request(ask));
    let key_id = format!("alice/{}", sign::record_id(Kind::REQUEST, device, [7; 16]));
    let named = |log: &Log, number| {
        let (_, plain) = log.both(host, number, number);
        plain.certificates.iter().any(|of_ca| of_ca.key_ids.contains(&key_id))
    };
    assert!(!named(&log, 6));
    log.add(7, REVOKER, &Entry::Lock(Targets::Users(vec![alice])));
    assert!(named(&log, 8));
    // Her device is locked too, then unbound, then she is removed.
    log.add(9, REVOKER, &Entry::Lock(Targets::Actors(vec![device])));
    assert!(named(&log, 10));
    log.add(11, ADMIN, &member(false));
    assert!(named(&log, 12));
    log.add(13, ADMIN, &Entry::Remove(vec![alice]));
    assert!(named(&log, 14));
    // The key that was asked for stays denied once it is, though the one who asked is gone.
    log.add(15, REVOKER, &Entry::Lock(Targets::Keys(vec![Fingerprint20::of_blob(&asked_for)])));
    let (_, plain) = log.both(host, 16, 16);
    assert!(plain.keys_sha256.contains(&countersign_certificate::fingerprint_sha256(&asked_for)));
}
