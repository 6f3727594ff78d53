//! Each rule from ledger to snapshot, and what must not get through it. Published and read back, so that what is tested is
//! what a login sees.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests may")]
#![expect(clippy::arithmetic_side_effects, reason = "small constants")]

use std::collections::{BTreeMap, BTreeSet};

use countersign_certificate::{Fingerprint20, Id, RealmId, Serial, fingerprint_sha256, label_digest};
use countersign_compile::{Compiled, HostView, compile, plain_sshd};
use countersign_registry::effective::{Effective, Keys, Settings};
use countersign_registry::entries::Kind;
use countersign_registry::migration::in_leg;
use countersign_registry::realm::{
    Approval, Batch, BatchState, BlockRef, Ca, CaLimits, CaPurpose, CaState, EntryRef, Grant, GrantTarget, Group, Host,
    Hours, Key, Refusal, Removed, Request, State, Subject, User,
};
use countersign_registry::replay::Leg;
use countersign_registry::{Address, B256, Bytes, Records, SharedSet};
use countersign_snapshot as snapshot;
use countersign_snapshot::{AccessTables, AccountsTables, HostState, KeyState, UserState, Verdict};

const NOW: u64 = 1_800_000_000;
const HOST: Id = Id([0x40; 16]);

fn id(byte: u8) -> Id {
    Id([byte; 16])
}

fn at(index: u64) -> EntryRef {
    EntryRef { block: 100 + index, shard: 1 << 32, index, time: NOW - 1_000 + index }
}

fn labels(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn user(login: &str, uid: u32) -> User {
    User { login: login.to_owned(), display_name: format!("{login} of the tests"), uid, ..User::default() }
}

fn grant(index: u64, subject: Subject, target: GrantTarget, via: u8) -> Grant {
    Grant {
        at: at(index),
        subject,
        target,
        logins: labels(&["deploy"]).into(),
        via,
        max_ttl: None,
        approvals: 0,
        forced_command: None,
        source_addresses: Vec::new(),
        hours: Vec::new(),
        not_after: None,
        permits: 1,
    }
}

/// Alice (1), Bob (2) and Carol (3, locked); group 10 of Alice and Bob; host 0x40 with labels `web` and `eu`.
fn realm() -> Effective {
    Effective {
        realm: B256::repeat_byte(0xaa),
        legs: vec![Leg { realm: B256::repeat_byte(0xaa), arrived: None }],
        final_block: BlockRef { number: 900, time: NOW - 400 },
        latest_block: BlockRef { number: 1_000, time: NOW },
        settings: Settings {
            require_logged: false,
            max_ttl: 86_400,
            countersign_quorum: 0,
            max_staleness: 300,
            directory_delay: 0,
            directory_quorum: 1,
            pickup: 600,
            uid_base: 1_900_000_000,
        },
        users: Records::from([
            (id(1), user("alice", 1_900_000_000)),
            (id(2), user("bob", 1_900_000_001)),
            (id(3), User { state: State::Locked, ..user("carol", 1_900_000_002) }),
        ]),
        groups: BTreeMap::from([(id(10), Group { at: at(4), name: "engineers".to_owned(), gid: 1_900_000_003 })]),
        group_members: BTreeSet::from([(id(10), id(1)), (id(10), id(2))]),
        hosts: Records::from([(HOST, Host { labels: labels(&["eu", "web"]), ..Host::default() })]),
        keys: Keys::default(),
        eclipsing: None,
        once_granted: Records::default(),
        origins: countersign_registry::origins::Origins::default(),
        once_labelled: BTreeMap::new(),
        grants: Records::default(),
        cas: BTreeMap::new(),
        batches: BTreeMap::new(),
        requests: BTreeMap::new(),
        once_requested: Records::default(),
        approvals: BTreeMap::new(),
        refusals: BTreeMap::new(),
        locked_keys: BTreeSet::new(),
        revoked_keys: BTreeSet::new(),
        revoked_serials: BTreeMap::new(),
        locked_batches: BTreeSet::new(),
        actors: BTreeMap::new(),
        deliveries: BTreeMap::new(),
        acknowledgements: BTreeMap::new(),
        envelopes: BTreeMap::new(),
        envelope_acknowledgements: BTreeMap::new(),
        prekeys: BTreeMap::new(),
        payload_names: BTreeMap::new(),
        public_data: BTreeMap::new(),
        removed: BTreeMap::new(),
        waiting: Vec::new(),
        ignored: Vec::new(),
        newest: None,
    }
}

/// What `granted-logins` are compiled to where the live grants of [`realm`] are `live`, and `ended` were there once.
fn granted_logins(live: &[(u8, Grant)], ended: &[(u8, Grant)], once_labelled: &[&str]) -> Vec<String> {
    let record = |(byte, grant): &(u8, Grant)| (id(*byte), grant.clone());
    let mut realm = realm();
    realm.grants = live.iter().map(record).collect();
    realm.once_granted = live.iter().chain(ended).map(record).collect();
    realm.once_labelled = BTreeMap::from([(HOST, labels(once_labelled)), (id(0x41), labels(&["db"]))]);
    compiled(&realm).access.granted_logins
}

fn compiled(realm: &Effective) -> Compiled {
    compile(realm, &HostView { host: HOST, allow_root: false, max_staleness_secs: None })
}

/// Compiles, publishes and opens: the tables must be publishable whatever the realm says.
fn opened(realm: &Effective) -> (tempfile::TempDir, snapshot::Snapshot) {
    let compiled = compiled(realm);
    let directory = tempfile::tempdir().unwrap();
    let info = snapshot::PublishInfo {
        facts: compiled.facts,
        freshness: snapshot::Freshness {
            valid_until_secs: compiled.valid_until_secs,
            boot_id: snapshot::BootId([1; 16]),
            boottime_secs: 0,
            age_consumed_secs: 0,
            max_staleness_secs: compiled.max_staleness_secs,
            highest_wall_secs: 0,
        },
        salt: snapshot::Salt([2; 16]),
        access_group: None,
        now_unix_secs: NOW,
    };
    snapshot::publish(directory.path(), &compiled.access, &compiled.accounts, &info).unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(directory.path()).unwrap());
    let opened = snapshot::Snapshot::open(directory.path(), snapshot::Trust::owner(owner)).unwrap();
    (directory, opened)
}

fn with_grants(grants: &[(u8, Grant)]) -> Effective {
    Effective { grants: grants.iter().map(|(byte, grant)| (id(*byte), grant.clone())).collect(), ..realm() }
}

fn covers(target: GrantTarget) -> bool {
    let (_directory, snapshot) = opened(&with_grants(&[(20, grant(1, Subject::User(id(1)), target, 1))]));
    let here = snapshot.grant(id(20)).unwrap().is_some();
    assert_eq!(snapshot.grant_elsewhere(id(20)).unwrap(), !here);
    assert_eq!(snapshot.grant_allows_login(id(20), b"deploy").unwrap(), here);
    here
}

#[test]
fn a_grant_covers_a_host_by_its_id_by_all_labels_or_by_all_hosts() {
    assert!(covers(GrantTarget::Hosts(BTreeSet::from([id(0x41), HOST]).into())));
    assert!(covers(GrantTarget::Labels(labels(&["web"]).into())));
    assert!(covers(GrantTarget::Labels(labels(&["web", "eu"]).into())));
    assert!(covers(GrantTarget::All));
}

#[test]
fn a_grant_for_other_hosts_or_with_one_label_missing_does_not_cover_this_host() {
    assert!(!covers(GrantTarget::Hosts(BTreeSet::from([id(0x41)]).into())));
    assert!(!covers(GrantTarget::Hosts(SharedSet::default())));
    assert!(!covers(GrantTarget::Labels(labels(&["web", "us"]).into())));
    assert!(!covers(GrantTarget::Labels(SharedSet::default())));
}

#[test]
fn a_host_that_is_locked_revoked_or_unknown_gets_empty_tables() {
    for (state, expected) in [
        (Some(State::Locked), HostState::Locked),
        (Some(State::Revoked), HostState::Locked),
        (None, HostState::Unknown),
    ] {
        let mut realm = with_grants(&[(20, grant(1, Subject::User(id(1)), GrantTarget::All, 3))]);
        realm.hosts = state.map(|state| (HOST, Host { state, ..Host::default() })).into_iter().collect();
        let compiled = compiled(&realm);
        assert_eq!(compiled.facts.host_state, expected);
        assert_eq!(compiled.access, AccessTables::default());
        assert_eq!(compiled.accounts, AccountsTables::default());
    }
}

#[test]
fn facts_are_the_realms_and_staleness_the_lower_of_both_limits() {
    let compiled_with =
        |max_staleness_secs| compile(&realm(), &HostView { host: HOST, allow_root: true, max_staleness_secs });
    let usual = compiled_with(None);
    assert_eq!(usual.facts.host_state, HostState::Active);
    assert_eq!(usual.facts.realm.0, [0xaa; 32]);
    assert_eq!(usual.facts.latest_block, snapshot::BlockRef { number: 1_000, time_secs: NOW });
    assert_eq!(usual.facts.final_block, snapshot::BlockRef { number: 900, time_secs: NOW - 400 });
    assert_eq!((usual.facts.pickup_secs, usual.facts.max_ttl_secs), (600, 86_400));
    assert!(usual.facts.allow_root && !usual.facts.require_logged);
    assert_eq!((usual.max_staleness_secs, usual.valid_until_secs), (300, NOW + 300));
    let lower = compiled_with(Some(60));
    assert_eq!((lower.max_staleness_secs, lower.valid_until_secs), (60, NOW + 60));
    assert_eq!(compiled_with(Some(3_600)).max_staleness_secs, 300, "a host cannot raise it");
}

#[test]
fn users_keep_uid_and_state_and_removed_names_stay_taken() {
    let mut realm = realm();
    realm.users.get_mut(&id(2)).unwrap().state = State::Revoked;
    let gone = Removed { kind: Kind::USER_ADD.0, name: "dave".to_owned(), uid: 1_900_000_007 };
    realm.removed.insert(id(4), gone);
    realm.removed.insert(id(5), Removed { kind: Kind::HOST_ADD.0, name: "old-host".to_owned(), uid: 0 });
    let (directory, snapshot) = opened(&realm);
    let state_of = |login: &str| {
        let login = snapshot.login(login.as_bytes()).unwrap()?;
        Some((login.uid.0, snapshot.user(login.user).unwrap().unwrap().state))
    };
    assert_eq!(state_of("alice"), Some((1_900_000_000, UserState::Active)));
    assert_eq!(state_of("bob"), Some((1_900_000_001, UserState::Removed)));
    assert_eq!(state_of("carol"), Some((1_900_000_002, UserState::Locked)));
    assert_eq!(state_of("dave"), Some((1_900_000_007, UserState::Removed)));
    assert_eq!(state_of("old-host"), None, "a host is not a login");
    drop(directory);
}

#[test]
fn a_group_grant_counts_for_members_and_only_groups_with_a_grant_here_are_listed() {
    let mut realm = with_grants(&[(20, grant(1, Subject::Group(id(10)), GrantTarget::All, 3))]);
    realm.group_members.insert((id(11), id(3)));
    let (_directory, snapshot) = opened(&realm);
    assert!(snapshot.is_member(id(10), id(1)).unwrap());
    assert!(!snapshot.is_member(id(10), id(3)).unwrap());
    assert!(!snapshot.is_member(id(11), id(3)).unwrap(), "no grant here is for group 11");
    assert_eq!(snapshot.key_grant(id(1), b"deploy").unwrap(), Some(id(20)));
    assert_eq!(snapshot.key_grant(id(2), b"deploy").unwrap(), Some(id(20)));
    assert_eq!(snapshot.key_grant(id(3), b"deploy").unwrap(), None);
}

#[test]
fn of_two_grants_for_one_plain_key_the_earlier_entry_wins() {
    let direct = grant(7, Subject::User(id(1)), GrantTarget::All, 3);
    let by_group = grant(3, Subject::Group(id(10)), GrantTarget::All, 2);
    // The record ids stand in the other order than the entries.
    let (_directory, snapshot) = opened(&with_grants(&[(20, direct), (21, by_group)]));
    assert_eq!(snapshot.key_grant(id(1), b"deploy").unwrap(), Some(id(21)));
}

#[test]
fn an_earlier_grant_that_has_run_out_or_covers_another_host_does_not_win() {
    let later = grant(7, Subject::User(id(1)), GrantTarget::All, 3);
    let expired = Grant { not_after: Some(NOW - 1), ..grant(3, Subject::User(id(1)), GrantTarget::All, 2) };
    let elsewhere = grant(4, Subject::User(id(1)), GrantTarget::Labels(labels(&["us"]).into()), 2);
    let realm = with_grants(&[(20, later), (21, expired), (22, elsewhere)]);
    let (_directory, snapshot) = opened(&realm);
    assert_eq!(snapshot.key_grant(id(1), b"deploy").unwrap(), Some(id(20)));
    assert!(snapshot.grant(id(21)).unwrap().is_some(), "the helper says that it has expired");
}

#[test]
fn a_plain_keys_way_says_when_time_alone_changes_it() {
    let ending = Grant { not_after: Some(NOW), ..grant(3, Subject::User(id(1)), GrantTarget::All, 2) };
    let realm = with_grants(&[(20, ending.clone())]);
    assert_eq!(compiled(&realm).changes_at_secs, Some(NOW + 1));
    assert_eq!(compiled(&realm).access.key_grants.len(), 1);
    let mut after = realm;
    after.latest_block.time = NOW + 1;
    assert_eq!(compiled(&after).changes_at_secs, None);
    assert_eq!(compiled(&after).access.key_grants.len(), 0);
}

#[test]
fn a_plain_key_opens_nothing_where_a_certificate_is_asked_for() {
    let plain = grant(1, Subject::User(id(1)), GrantTarget::All, 2);
    let ways = |realm: &Effective| {
        let (_directory, snapshot) = opened(realm);
        let via = snapshot.grant(id(20)).unwrap().unwrap().via.plain_key;
        assert_eq!(snapshot.key_grant(id(1), b"deploy").unwrap().is_some(), via);
        via
    };
    assert!(ways(&with_grants(&[(20, plain.clone())])));
    assert!(!ways(&with_grants(&[(20, Grant { via: 1, ..plain.clone() })])), "via certificate only");
    assert!(!ways(&with_grants(&[(20, Grant { approvals: 1, ..plain.clone() })])), "approvals");
    assert!(!ways(&with_grants(&[(20, Grant { max_ttl: Some(300), ..plain.clone() })])), "max TTL");
    let hours = vec![Hours { weekday: 0, from: 0, to: 1_440 }];
    assert!(!ways(&with_grants(&[(20, Grant { hours, ..plain.clone() })])), "hours");
    let mut logged = with_grants(&[(20, plain)]);
    logged.settings.require_logged = true;
    assert!(!ways(&logged), "the realm requires logged certificates");
}

#[test]
fn a_grants_conditions_are_passed_on_whole() {
    let full = Grant {
        max_ttl: Some(300),
        approvals: 2,
        forced_command: Some("/bin/true".to_owned()),
        source_addresses: vec!["10.0.0.0/8".to_owned()],
        hours: vec![Hours { weekday: 4, from: 480, to: 1_020 }],
        not_after: Some(NOW + 9),
        permits: 0b1_0011,
        ..grant(1, Subject::Group(id(10)), GrantTarget::All, 1)
    };
    let (_directory, snapshot) = opened(&with_grants(&[(20, full)]));
    let read = snapshot.grant(id(20)).unwrap().unwrap();
    assert_eq!(
        read,
        snapshot::Grant {
            subject: snapshot::Subject::Group(id(10)),
            via: snapshot::Via { certificate: true, plain_key: false },
            max_ttl_secs: std::num::NonZeroU64::new(300),
            approvals: 2,
            not_after_secs: std::num::NonZeroU64::new(NOW + 9),
            permits: snapshot::Permits(0b1_0011),
            forced_command: Some("/bin/true".to_owned()),
            source_addresses: vec!["10.0.0.0/8".to_owned()],
            hours: vec![snapshot::Hours { weekday: 4, from_minute: 480, to_minute: 1_020 }],
        }
    );
}

fn key(index: u64, user: Id, byte: u8) -> Key {
    Key {
        id: id(byte),
        at: at(index),
        state: State::Active,
        user,
        blob: Bytes::from(vec![byte]),
        fingerprint: Fingerprint20([byte; 20]),
        purposes: Key::LOGIN,
        not_after: Some(NOW + 50),
        comment: String::new(),
    }
}

#[test]
fn a_key_is_its_first_registrants_and_denials_show_on_it() {
    let mut realm = realm();
    realm.keys = [key(9, id(2), 30), key(5, id(1), 30), key(6, id(1), 31), key(7, id(1), 32)].into_iter().collect();
    realm.locked_keys = BTreeSet::from([Fingerprint20([31; 20]), Fingerprint20([32; 20]), Fingerprint20([39; 20])]);
    realm.revoked_keys = BTreeSet::from([Fingerprint20([32; 20])]);
    let (_directory, snapshot) = opened(&realm);
    let read = |byte| snapshot.key(Fingerprint20([byte; 20])).unwrap().map(|key| (key.user, key.state));
    assert_eq!(read(30), Some((id(1), KeyState::Active)), "the earlier entry, though it comes second");
    assert_eq!(read(31), Some((id(1), KeyState::Locked)));
    assert_eq!(read(32), Some((id(1), KeyState::Revoked)));
    assert_eq!(read(39), None);
    let denied = |byte| snapshot.key_revoked(Fingerprint20([byte; 20])).unwrap();
    assert_eq!(denied(30), None);
    assert_eq!(denied(31), Some(snapshot::Denial::Locked));
    assert_eq!(denied(32), Some(snapshot::Denial::Revoked), "revoked wins over locked");
    assert_eq!(denied(39), Some(snapshot::Denial::Locked), "a key that nobody registered");
}

fn ca(state: CaState, blob: &'static [u8], logins: Option<&[&str]>) -> Ca {
    Ca {
        at: at(1),
        state,
        purpose: CaPurpose::User,
        name: "ca".to_owned(),
        public_key: Bytes::from_static(blob),
        limits: CaLimits { max_ttl: 3_600, logins: logins.map(labels), issuers: BTreeSet::new() },
    }
}

#[test]
fn cas_carry_their_state_and_limits_and_host_cas_are_left_out() {
    let mut realm = realm();
    realm.cas = BTreeMap::from([
        (id(50), ca(CaState::Active, b"active", None)),
        (id(51), ca(CaState::Retired { at: 77 }, b"retired", Some(&["deploy"]))),
        (id(52), ca(CaState::Locked, b"locked", Some(&[]))),
        (id(53), ca(CaState::Revoked, b"revoked", None)),
        (id(54), Ca { purpose: CaPurpose::Host, ..ca(CaState::Active, b"host", None) }),
    ]);
    let (_directory, snapshot) = opened(&realm);
    let read = |blob: &[u8]| snapshot.ca(&fingerprint_sha256(blob)).unwrap();
    let active = read(b"active").unwrap();
    assert_eq!((active.id, active.state, active.max_ttl_secs), (id(50), snapshot::CaState::Active, 3_600));
    assert_eq!((active.logins_restricted, active.key_blob), (false, b"active".to_vec()));
    let retired = read(b"retired").unwrap();
    assert_eq!(retired.state, snapshot::CaState::Retired { at_secs: 77 });
    assert!(retired.logins_restricted && snapshot.ca_allows_login(id(51), b"deploy").unwrap());
    assert!(!snapshot.ca_allows_login(id(51), b"root").unwrap());
    let locked = read(b"locked").unwrap();
    assert_eq!(locked.state, snapshot::CaState::Locked);
    assert!(locked.logins_restricted, "an empty list of logins is none, not any");
    assert_eq!(read(b"revoked").unwrap().state, snapshot::CaState::Revoked);
    assert_eq!(read(b"host"), None);
}

#[test]
fn a_denied_key_denies_the_ca_that_has_it_and_the_stricter_of_two_records_counts() {
    let mut realm = realm();
    let blob = b"shared";
    let later = Ca { at: at(2), ..ca(CaState::Locked, blob, None) };
    realm.cas = BTreeMap::from([(id(50), ca(CaState::Active, blob, None)), (id(51), later)]);
    realm.cas.insert(id(52), ca(CaState::Active, b"denied", None));
    realm.revoked_keys.insert(Fingerprint20::of_blob(b"denied"));
    let (_directory, snapshot) = opened(&realm);
    let state = |blob: &[u8]| snapshot.ca(&fingerprint_sha256(blob)).unwrap().unwrap().state;
    assert_eq!(state(blob), snapshot::CaState::Locked);
    assert_eq!(state(b"denied"), snapshot::CaState::Revoked);
}

fn batch(state: BatchState, time: u64, not_after: u64) -> Batch {
    Batch {
        at: EntryRef { time, block: 7, ..EntryRef::default() },
        state,
        ca: id(50),
        root: B256::repeat_byte(9),
        size: 3,
        not_after,
        leaves_cid: Bytes::new(),
        issuer: Address::repeat_byte(1),
        entry_hash: B256::ZERO,
        countersigners: BTreeSet::new(),
    }
}

#[test]
fn scopes_may_name_an_earlier_realm_as_long_as_a_certificate_from_there_may_live() {
    let arrived = |block, time| Some(EntryRef { block, shard: 0, index: 0, time });
    let (first, second) = (B256::repeat_byte(0xa8), B256::repeat_byte(0xa9));
    let moved = |require_logged, time| {
        let mut realm = realm();
        realm.legs = vec![
            Leg { realm: first, arrived: None },
            Leg { realm: second, arrived: arrived(in_leg(1, 5), NOW - 200_000) },
            Leg { realm: realm.realm, arrived: arrived(in_leg(2, 5), time) },
        ];
        realm.settings.require_logged = require_logged;
        realm
    };
    let realms = |realm: &Effective| compiled(realm).access.realms;
    let second_id = RealmId(second.0);
    // Where certificates need no log, max-ttl after the move.
    assert_eq!(realms(&moved(false, NOW - 86_000)), [second_id]);
    assert_eq!(compiled(&moved(false, NOW - 86_000)).changes_at_secs, Some(NOW + 400 + 120 + 1));
    assert_eq!(realms(&moved(false, NOW - 86_521)), []);
    assert_eq!(realms(&moved(true, NOW - 10)), []);
    // Where they do, as long as an accepted batch of that realm.
    let mut logged = moved(true, NOW - 10);
    let mut of = |leg, state, not_after| {
        let mut carried = batch(state, NOW - 300, not_after);
        carried.at.block = in_leg(leg, 77);
        logged.batches = BTreeMap::from([(id(60), carried)]);
        realms(&logged)
    };
    assert_eq!(of(0, BatchState::Accepted, NOW - 120), [RealmId(first.0)]);
    assert_eq!(of(1, BatchState::Accepted, NOW + 60), [second_id]);
    assert_eq!(of(1, BatchState::Accepted, NOW - 121), []);
    assert_eq!(of(1, BatchState::IssuerLostRole, NOW + 60), []);
    assert_eq!(of(2, BatchState::Accepted, NOW + 60), [], "its own is not listed");
    logged.locked_batches = BTreeSet::from([id(60)]);
    assert_eq!(realms(&logged), []);
    // A realm that has not moved has none.
    assert_eq!(realms(&realm()), []);
}

#[test]
fn batches_carry_their_state_while_a_certificate_of_theirs_may_be_valid() {
    let mut realm = realm();
    let waiting = BatchState::WaitingForCountersignatures { have: 0, need: 1 };
    realm.batches = BTreeMap::from([
        (id(60), batch(BatchState::Accepted, NOW - 10, NOW + 300)),
        (id(61), batch(waiting, NOW - 10, NOW + 300)),
        (id(62), batch(BatchState::Locked, NOW - 10, NOW + 300)),
        (id(63), batch(BatchState::IssuerLostRole, NOW - 10, NOW + 300)),
        (id(64), batch(BatchState::IssuerNotListed, NOW - 10, NOW + 300)),
        (id(65), batch(BatchState::Accepted, NOW - 10, NOW + 300)),
        (id(66), batch(BatchState::Accepted, NOW - 10_000, NOW - 121)),
        (id(67), batch(BatchState::Accepted, NOW - 86_400 - 121, NOW + 300)),
        (id(68), batch(BatchState::Accepted, NOW - 10_000, NOW - 120)),
    ]);
    realm.locked_batches = BTreeSet::from([id(65)]);
    let (_directory, snapshot) = opened(&realm);
    let state = |byte| snapshot.batch(id(byte)).unwrap().map(|batch| batch.state);
    assert_eq!(state(60), Some(snapshot::BatchState::Accepted));
    assert_eq!(state(61), Some(snapshot::BatchState::WaitingForCountersignatures));
    assert_eq!(state(62), Some(snapshot::BatchState::Locked));
    assert_eq!(state(63), Some(snapshot::BatchState::IssuerLostRole));
    assert_eq!(state(64), Some(snapshot::BatchState::IssuerNotListed));
    assert_eq!(state(65), Some(snapshot::BatchState::Locked), "a lock counts whatever the record says");
    assert_eq!(state(66), None, "past its not-after");
    assert_eq!(state(67), None, "past the realm's max TTL");
    assert_eq!(state(68), Some(snapshot::BatchState::Accepted), "within the margin");
    let read = snapshot.batch(id(60)).unwrap().unwrap();
    assert_eq!((read.ca, read.root, read.size, read.time_secs), (id(50), [9; 32], 3, NOW - 10));
    assert_eq!((read.not_after_secs, read.block), (NOW + 300, 7));
}

#[test]
fn revoked_serials_and_labels_are_listed_and_others_are_not() {
    let mut realm = realm();
    realm.revoked_serials.insert(id(50), BTreeSet::from([1, u64::MAX]));
    let (_directory, snapshot) = opened(&realm);
    assert!(snapshot.serial_revoked(id(50), Serial(u64::MAX)).unwrap());
    assert!(!snapshot.serial_revoked(id(50), Serial(2)).unwrap());
    assert!(!snapshot.serial_revoked(id(51), Serial(1)).unwrap());
    assert!(snapshot.has_label(&label_digest("web")).unwrap());
    assert!(!snapshot.has_label(&label_digest("us")).unwrap());
}

fn request(host: Id) -> Request {
    Request {
        at: at(5),
        actor: Address::repeat_byte(1),
        user: id(1),
        host,
        login: "deploy".to_owned(),
        ttl: 300,
        public_key: Bytes::new(),
        reason: String::new(),
        approval_hash: B256::repeat_byte(7),
    }
}

fn approval(user: Id, time: u64) -> Approval {
    Approval {
        at: EntryRef { time, ..EntryRef::default() },
        actor: Address::repeat_byte(2),
        user,
        hash: B256::repeat_byte(7),
    }
}

#[test]
fn answers_to_requests_for_this_host_are_listed_with_denials_first() {
    let mut realm = realm();
    realm.requests = BTreeMap::from([(id(70), request(HOST)), (id(71), request(id(0x41)))]);
    realm.approvals = BTreeMap::from([
        (id(70), vec![approval(id(2), NOW - 5), approval(id(3), NOW - 86_400 - 600 - 121)]),
        (id(71), vec![approval(id(2), NOW - 5)]),
        (id(72), vec![approval(id(2), NOW - 5)]),
    ]);
    let refusal = Refusal { at: at(8), actor: Address::repeat_byte(3), user: None };
    realm.refusals = BTreeMap::from([(id(70), vec![refusal])]);
    let (_directory, snapshot) = opened(&realm);
    let read = snapshot.request(id(70)).unwrap().unwrap();
    assert_eq!((read.user, read.approval_hash, read.time_secs), (id(1), [7; 32], at(5).time));
    assert_eq!(snapshot.request(id(71)).unwrap(), None, "for another host");
    let denial = snapshot.approval(id(70), 0).unwrap().unwrap();
    assert_eq!((denial.verdict, denial.approver), (Verdict::Deny, None));
    let yes = snapshot.approval(id(70), 1).unwrap().unwrap();
    assert_eq!((yes.verdict, yes.approver, yes.approval_hash), (Verdict::Approve, Some(id(2)), [7; 32]));
    assert_eq!(snapshot.approval(id(70), 2).unwrap(), None, "too old to count");
    assert_eq!(snapshot.approval(id(71), 0).unwrap(), None, "for another host");
    assert!(snapshot.approval(id(72), 0).unwrap().is_some(), "for a request that this host has not seen");
}

#[test]
fn more_answers_than_can_be_numbered_keep_the_denials() {
    let mut realm = realm();
    realm.approvals.insert(id(70), vec![approval(id(2), NOW); 300]);
    let refusal = Refusal { at: at(8), actor: Address::repeat_byte(3), user: Some(id(3)) };
    realm.refusals.insert(id(70), vec![refusal; 20]);
    let (_directory, snapshot) = opened(&realm);
    assert_eq!(snapshot.approval(id(70), 0).unwrap().unwrap().verdict, Verdict::Deny);
    assert_eq!(snapshot.approval(id(70), 255).unwrap().unwrap().verdict, Verdict::Approve);
}

#[test]
fn accounts_show_users_their_own_groups_and_members() {
    let accounts = compiled(&realm()).accounts;
    assert_eq!(accounts.accounts.len(), 3);
    let alice = accounts.accounts.first().unwrap();
    assert_eq!((alice.login.as_str(), alice.uid.0, alice.gid.0), ("alice", 1_900_000_000, 1_900_000_000));
    let groups: Vec<(&str, u32)> = accounts.groups.iter().map(|group| (group.name.as_str(), group.gid.0)).collect();
    let expected =
        [("alice", 1_900_000_000), ("bob", 1_900_000_001), ("carol", 1_900_000_002), ("engineers", 1_900_000_003)];
    assert_eq!(groups, expected);
    let members: Vec<&str> = accounts.members.iter().map(|(_, login)| login.as_str()).collect();
    assert_eq!(members, ["alice", "bob"]);
}

#[test]
fn logins_that_grants_give_here_or_once_gave_are_known_and_no_others() {
    let alice = Subject::User(id(1));
    let into =
        |login: &str, target: GrantTarget| Grant { logins: labels(&[login]).into(), ..grant(5, alice, target, 1) };
    let here = |login: &str| into(login, GrantTarget::Hosts(std::iter::once(HOST).collect()));
    let labelled = |login: &str, names: &[&str]| into(login, GrantTarget::Labels(labels(names).into()));

    assert_eq!(granted_logins(&[], &[], &[]), Vec::<String>::new());
    assert_eq!(granted_logins(&[(20, here("deploy"))], &[], &[]), ["deploy"]);
    // A grant that ended still says whose business the login is.
    assert_eq!(granted_logins(&[(20, here("deploy"))], &[(21, here("backup"))], &[]), ["backup", "deploy"]);
    // So does one that covers this host no more, since a label was taken off it.
    let by_label = [(20, labelled("deploy", &["db", "eu"])), (21, labelled("backup", &["us"]))];
    assert_eq!(granted_logins(&by_label, &[], &["db"]), ["deploy"]);
    // Not so one that never covered this host: the labels of another count for nothing.
    assert_eq!(
        granted_logins(&by_label, &[(22, into("web", GrantTarget::Hosts(std::iter::once(id(0x41)).collect())))], &[]),
        [""; 0]
    );
    // Users' logins are in a table of their own, which knows removed ones too.
    assert_eq!(granted_logins(&[(20, here("alice"))], &[(21, here("carol"))], &[]), [""; 0]);
}

#[test]
fn a_plain_sshd_is_told_of_cas_that_need_no_more_words_and_of_what_is_denied_by_the_most_precise_name() {
    let mut realm = realm();
    realm.cas = BTreeMap::from([
        (id(50), ca(CaState::Active, b"active", None)),
        (id(51), ca(CaState::Retired { at: 77 }, b"retired", None)),
        (id(52), ca(CaState::Locked, b"locked", None)),
        (id(53), ca(CaState::Active, b"limited", Some(&["deploy"]))),
        (id(54), Ca { purpose: CaPurpose::Host, ..ca(CaState::Active, b"host", None) }),
    ]);
    let revoked = Key { state: State::Revoked, fingerprint: Fingerprint20::of_blob(&[22]), ..key(3, id(2), 22) };
    realm.revoked_keys = BTreeSet::from([revoked.fingerprint]);
    let keys = [key(1, id(1), 21), key(2, id(3), 23), revoked];
    realm.keys = keys.into_iter().collect();
    realm.revoked_serials = BTreeMap::from([
        (id(50), BTreeSet::from([0, 9])),
        (id(52), BTreeSet::from([5])),
        (id(99), BTreeSet::from([6])),
    ]);
    // Carol's registered key is not denied with her: it may be a CA's, which whoever registers keys could have denied that way.
    // Carol, who is locked, asked for the key that Alice, who is not, asked for: only Carol's certificate is meant.
    let asked = |user, key: &'static [u8]| Request { user, public_key: Bytes::from_static(key), ..request(HOST) };
    realm.once_requested = Records::from([
        (id(0xa0), asked(id(1), b"session key")),
        (id(0xc0), asked(id(3), b"session key")),
        (id(0xb0), asked(id(2), b"key of Bob's")),
        (id(0xd0), asked(id(1), b"denied key")),
    ]);
    realm.refusals =
        BTreeMap::from([(id(0xb0), vec![Refusal { at: at(8), actor: Address::repeat_byte(3), user: None }])]);
    realm.locked_keys = BTreeSet::from([Fingerprint20::of_blob(b"denied key")]);

    let told = plain_sshd(&realm, &compiled(&realm));
    assert_eq!(told.cas, [("ca".to_owned(), b"active".to_vec())]);
    let key_ids = vec![format!("bob/{}", id(0xb0)), format!("carol/{}", id(0xc0))];
    let of = |ca: &str| told.certificates.iter().find(|of_ca| of_ca.ca_blob == ca.as_bytes()).cloned();
    assert_eq!(of("active").unwrap().serials, [9], "0 is no serial");
    for ca in ["active", "retired", "limited"] {
        let mut named = of(ca).unwrap().key_ids;
        named.sort();
        assert_eq!(named, key_ids, "{ca}");
    }
    assert_eq!(told.certificates.len(), 3, "what is denied as a whole, or certifies hosts, needs no list");
    let denied: [&[u8]; 3] = [&[22], b"denied key", b"locked"];
    assert_eq!(BTreeSet::from_iter(told.keys_sha256), denied.map(fingerprint_sha256).into_iter().collect());

    // A host that is locked trusts nobody, and goes on denying.
    realm.hosts = Records::from([(HOST, Host { state: State::Locked, ..Host::default() })]);
    let locked = plain_sshd(&realm, &compiled(&realm));
    assert!(locked.cas.is_empty());
    assert_eq!(locked.certificates, told.certificates);
}

#[test]
fn a_ca_with_more_revoked_serials_than_sshd_is_told_is_denied_as_a_whole_and_no_other() {
    let mut realm = realm();
    realm.cas = BTreeMap::from([
        (id(50), ca(CaState::Active, b"flooded", None)),
        (id(51), ca(CaState::Active, b"dense", None)),
    ]);
    let scattered: BTreeSet<u64> = (1..=100_001).map(|number| number * 2).collect();
    realm.revoked_serials = BTreeMap::from([(id(50), scattered), (id(51), (1..=100_001).collect())]);
    let told = plain_sshd(&realm, &compiled(&realm));
    assert_eq!(told.cas, [("ca".to_owned(), b"dense".to_vec())]);
    assert_eq!(told.keys_sha256, [fingerprint_sha256(b"flooded")]);
    assert_eq!(told.certificates.len(), 1, "one range of the other's");
}
