//! What is published is what is read: every table, bases, deltas and refreshes.

use std::collections::BTreeMap;

use crate::support::{NOW, access, accounts, full_grant, id, info, plain_grant, trust};
use countersign_certificate::{Fingerprint20, Id, RealmId, Serial};
use countersign_snapshot::{
    AccessTables, Accounts, AccountsTables, Gid, Key, KeyState, Login, PublishError, Salt, Snapshot, Stale, Uid, User,
    UserState, publish, publish_delta, refresh,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn published() -> (tempfile::TempDir, Snapshot) {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(publish(directory.path(), &access(), &accounts(), &info()).unwrap(), 1);
    let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
    (directory, snapshot)
}

#[test]
fn every_access_record_reads_back_as_it_was_published() {
    let (_directory, snapshot) = published();
    let tables = access();
    assert_eq!(*snapshot.facts(), info().facts);
    assert_eq!(snapshot.manifest().freshness, info().freshness);
    assert_eq!(snapshot.fresh(&NOW), Ok(()));
    snapshot.verify().unwrap();
    for (login, value) in &tables.logins {
        assert_eq!(snapshot.login(login.as_bytes()).unwrap(), Some(*value));
    }
    for (user, value) in &tables.users {
        assert_eq!(snapshot.user(*user).unwrap().as_ref(), Some(value));
    }
    assert_eq!(snapshot.grant(id(10)).unwrap(), Some(plain_grant()));
    assert_eq!(snapshot.grant(id(11)).unwrap(), Some(full_grant()));
    assert!(snapshot.grant_allows_login(id(10), b"deploy").unwrap());
    assert!(snapshot.is_member(id(20), id(1)).unwrap());
    assert_eq!(snapshot.key(Fingerprint20([30; 20])).unwrap(), Some(tables.keys[0].1));
    assert_eq!(snapshot.key_grant(id(1), b"deploy").unwrap(), Some(id(10)));
    for ca in &tables.cas {
        let sha256: [u8; 32] = Sha256::digest(&ca.key_blob).into();
        assert_eq!(snapshot.ca(&sha256).unwrap().as_ref(), Some(ca));
    }
    assert!(snapshot.ca_allows_login(id(40), b"deploy").unwrap());
    assert_eq!(snapshot.batch(id(50)).unwrap(), Some(tables.batches[0].1));
    assert!(snapshot.serial_revoked(id(40), Serial(7)).unwrap());
    assert!(snapshot.serial_revoked(id(40), Serial(u64::MAX)).unwrap());
    assert!(snapshot.grant_elsewhere(id(12)).unwrap());
    for (key, denial) in &tables.revoked_keys {
        assert_eq!(snapshot.key_revoked(*key).unwrap(), Some(*denial));
    }
    assert_eq!(snapshot.request(id(60)).unwrap(), Some(tables.requests[0].1));
    assert_eq!(snapshot.approval(id(60), 0).unwrap(), Some(tables.approvals[0].1[0]));
    assert_eq!(snapshot.approval(id(60), 1).unwrap(), Some(tables.approvals[0].1[1]));
    assert!(snapshot.has_label(&[70; 32]).unwrap());
    assert!(
        snapshot.takes_realm(&RealmId([80; 32])).unwrap() && snapshot.takes_realm(&snapshot.facts().realm).unwrap()
    );
    assert!(snapshot.is_granted_login(b"deploy").unwrap() && snapshot.is_granted_login(b"root").unwrap());
}

#[test]
fn what_was_not_published_is_not_there() {
    let (_directory, snapshot) = published();
    assert_eq!(snapshot.login(b"alic").unwrap(), None);
    assert_eq!(snapshot.login(b"").unwrap(), None);
    assert_eq!(snapshot.user(id(3)).unwrap(), None);
    assert_eq!(snapshot.grant(id(12)).unwrap(), None);
    assert!(!snapshot.grant_allows_login(id(10), b"root").unwrap());
    assert!(!snapshot.is_member(id(1), id(20)).unwrap());
    assert_eq!(snapshot.key(Fingerprint20([31; 20])).unwrap(), None);
    assert_eq!(snapshot.key_grant(id(1), b"root").unwrap(), None);
    assert_eq!(snapshot.key_grant(id(2), b"deploy").unwrap(), None);
    assert_eq!(snapshot.ca(&[0; 32]).unwrap(), None);
    assert!(!snapshot.ca_allows_login(id(41), b"deploy").unwrap());
    assert_eq!(snapshot.batch(id(51)).unwrap(), None);
    assert!(!snapshot.serial_revoked(id(40), Serial(8)).unwrap());
    assert!(!snapshot.serial_revoked(id(41), Serial(7)).unwrap());
    assert!(!snapshot.grant_elsewhere(id(10)).unwrap());
    assert_eq!(snapshot.key_revoked(Fingerprint20([30; 20])).unwrap(), None);
    assert_eq!(snapshot.request(id(61)).unwrap(), None);
    assert_eq!(snapshot.approval(id(60), 2).unwrap(), None);
    assert!(!snapshot.has_label(&[71; 32]).unwrap());
    assert!(!snapshot.takes_realm(&RealmId([81; 32])).unwrap());
    assert!(!snapshot.is_granted_login(b"backup").unwrap());
}

#[test]
fn an_empty_snapshot_knows_nobody() {
    let directory = tempfile::tempdir().unwrap();
    publish(directory.path(), &AccessTables::default(), &AccountsTables::default(), &info()).unwrap();
    let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
    snapshot.verify().unwrap();
    assert_eq!(snapshot.login(b"alice").unwrap(), None);
    assert_eq!(snapshot.key(Fingerprint20([30; 20])).unwrap(), None);
    let accounts = Accounts::open(directory.path(), trust()).unwrap();
    assert_eq!(accounts.account(b"alice").unwrap(), None);
}

#[test]
fn accounts_read_back_by_name_and_by_number() {
    let (directory, _) = published();
    let read = Accounts::open(directory.path(), trust()).unwrap();
    read.verify().unwrap();
    assert_eq!(read.fresh(&NOW), Ok(()));
    for account in accounts().accounts {
        assert_eq!(read.account(account.login.as_bytes()).unwrap().as_ref(), Some(&account));
        assert_eq!(read.account_by_uid(account.uid).unwrap(), Some(account));
    }
    let group = accounts().groups.remove(0);
    assert_eq!(read.group(b"engineers").unwrap().as_ref(), Some(&group));
    assert_eq!(read.group_by_gid(group.gid).unwrap().as_ref(), Some(&group));
    assert_eq!(read.group_member(group.gid, 0).unwrap(), Some("alice".to_owned()));
    assert_eq!(read.group_member(group.gid, 1).unwrap(), Some("bob".to_owned()));
    assert_eq!(read.group_member(group.gid, 2).unwrap(), None);
    assert_eq!(read.group_of(b"bob", 0).unwrap(), Some(group.gid));
    assert_eq!(read.group_of(b"bob", 1).unwrap(), None);
    assert_eq!(read.account_by_uid(Uid(0)).unwrap(), None);
    assert_eq!(read.group_by_gid(Gid(0)).unwrap(), None);
}

#[test]
fn freshness_is_judged_by_the_manifest() {
    let (_directory, snapshot) = published();
    let late = countersign_snapshot::Clock { unix_secs: 1_800_000_301, ..NOW };
    assert_eq!(snapshot.fresh(&late), Err(Stale::Expired { now: 1_800_000_301, valid_until: 1_800_000_300 }));
    let aged = countersign_snapshot::Clock { boottime_secs: 5_293, ..NOW };
    assert_eq!(snapshot.fresh(&aged), Err(Stale::TooOld { age: 301, limit: 300 }));
}

#[test]
fn in_a_delta_a_put_and_a_delete_win_over_the_base() {
    let (directory, _) = published();
    let locked = User { state: UserState::Locked, login: "alice".to_owned() };
    let mut tables = access();
    tables.users[0].1 = locked.clone();
    tables.users.push((id(3), User { state: UserState::Active, login: "carol".to_owned() }));
    tables.grants.retain(|(grant, _)| *grant != id(11));
    tables.grants.push((id(13), full_grant()));
    tables.serials = vec![(id(40), vec![Serial(u64::MAX), Serial(8)])];
    assert_eq!(publish_delta(directory.path(), &tables, &accounts(), &info()).unwrap(), 2);
    let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
    snapshot.verify().unwrap();
    assert_eq!(snapshot.manifest().generation, 2);
    assert_eq!(snapshot.user(id(1)).unwrap(), Some(locked), "put over the base");
    assert!(snapshot.user(id(3)).unwrap().is_some(), "put beside the base");
    assert!(snapshot.user(id(2)).unwrap().is_some(), "the base where the delta says nothing");
    assert_eq!(snapshot.grant(id(11)).unwrap(), None, "deleted from the base");
    assert_eq!(snapshot.grant(id(13)).unwrap(), Some(full_grant()), "blobs of a delta are its own");
    assert_eq!(snapshot.grant(id(10)).unwrap(), Some(plain_grant()), "blobs of the base stay its own");
    assert!(!snapshot.serial_revoked(id(40), Serial(7)).unwrap());
    assert!(snapshot.serial_revoked(id(40), Serial(8)).unwrap());

    tables.grants = access().grants;
    assert_eq!(publish_delta(directory.path(), &tables, &accounts(), &info()).unwrap(), 3);
    let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
    assert_eq!(snapshot.grant(id(11)).unwrap(), Some(full_grant()), "a delta takes the place of the one before");
    assert_eq!(snapshot.grant(id(13)).unwrap(), None);
    assert!(snapshot.serial_revoked(id(40), Serial(8)).unwrap());

    assert_eq!(publish_delta(directory.path(), &access(), &accounts(), &info()).unwrap(), 4);
    let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
    assert_eq!((snapshot.manifest().base.generation, snapshot.manifest().delta), (1, None), "nothing differs any more");
    assert!(snapshot.serial_revoked(id(40), Serial(7)).unwrap());
}

#[test]
fn a_delta_is_refused_where_there_is_no_base_of_this_salt_realm_and_host() {
    let (directory, _) = published();
    let mut others = vec![countersign_snapshot::PublishInfo { salt: Salt([1; 16]), ..info() }];
    others.extend([info(), info()]);
    others[1].facts.realm = RealmId([1; 32]);
    others[2].facts.host = id(1);
    for other in &others {
        let error = publish_delta(directory.path(), &access(), &accounts(), other).unwrap_err();
        assert!(matches!(error, PublishError::Base { .. }), "{error}");
    }
    let empty = tempfile::tempdir().unwrap();
    let error = publish_delta(empty.path(), &access(), &accounts(), &info()).unwrap_err();
    assert!(matches!(error, PublishError::Base { .. }), "{error}");
}

#[test]
fn two_records_with_one_key_are_refused_in_a_delta_too() {
    let (directory, _) = published();
    for twice in [access().users[0].clone(), (id(1), User { state: UserState::Locked, login: "alice".to_owned() })] {
        let mut tables = access();
        tables.users.push(twice);
        let error = publish_delta(directory.path(), &tables, &accounts(), &info()).unwrap_err();
        assert_eq!(error.to_string(), "two records of table user have the same key");
    }
}

#[test]
fn a_refresh_changes_facts_and_freshness_only() {
    let (directory, _) = published();
    let mut newer = info();
    newer.facts.latest_block.number = 1_235;
    newer.facts.latest_block.time_secs = 1_800_000_012;
    newer.freshness.valid_until_secs = 1_800_000_312;
    assert_eq!(refresh(directory.path(), 1, &newer).unwrap(), 2);
    let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
    assert_eq!(*snapshot.facts(), newer.facts);
    assert_eq!(snapshot.manifest().base.generation, 1);
    assert_eq!(snapshot.grant(id(11)).unwrap(), Some(full_grant()));
    let error = refresh(directory.path(), 1, &newer).unwrap_err();
    assert!(matches!(error, PublishError::Base { .. }), "{error}");
}

#[test]
fn a_validity_beyond_the_staleness_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = info();
    wrong.freshness.valid_until_secs = 1_800_000_301;
    let error = publish(directory.path(), &access(), &accounts(), &wrong).unwrap_err();
    assert!(matches!(error, PublishError::Times { .. }), "{error}");
}

#[test]
fn two_records_with_one_key_are_refused_and_the_old_snapshot_stays() {
    let (directory, _) = published();
    let mut tables = access();
    tables.labels.push([70; 32]);
    let error = publish(directory.path(), &tables, &accounts(), &info()).unwrap_err();
    assert_eq!(error.to_string(), "two records of table label have the same key");
    let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
    assert_eq!(snapshot.manifest().generation, 1);
    snapshot.verify().unwrap();
}

#[test]
fn values_that_do_not_fit_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut tables = access();
    tables.users[0].1.login = "a".repeat(33);
    let error = publish(directory.path(), &tables, &accounts(), &info()).unwrap_err();
    assert_eq!(error.to_string(), "field name of table user is too long");
    let mut tables = access();
    tables.cas[0].key_blob = vec![0; 16_385];
    let error = publish(directory.path(), &tables, &accounts(), &info()).unwrap_err();
    assert_eq!(error.to_string(), "field public key of table ca is too long");
    let mut tables = access();
    tables.approvals[0].1 = vec![tables.approvals[0].1[0]; 257];
    let error = publish(directory.path(), &tables, &accounts(), &info()).unwrap_err();
    assert_eq!(error.to_string(), "field ordinal of table approval is too long");
}

#[test]
fn ten_thousand_records_are_all_found_and_their_neighbours_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let key = |number: u64| {
        Fingerprint20({
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            bytes
        })
    };
    let record = |number: u64| Key {
        user: Id([u8::try_from(number % 251).unwrap(); 16]),
        state: KeyState::Active,
        purposes: 1,
        not_after_secs: std::num::NonZeroU64::new(number),
    };
    let tables = AccessTables { keys: (0..10_000).map(|n| (key(n), record(n))).collect(), ..AccessTables::default() };
    publish(directory.path(), &tables, &AccountsTables::default(), &info()).unwrap();
    let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
    for number in 0..10_000 {
        assert_eq!(snapshot.key(key(number)).unwrap(), Some(record(number)));
        assert_eq!(snapshot.key(key(number + 10_000)).unwrap(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn base_and_delta_together_answer_as_a_map_would(
        salt: [u8; 16],
        base in prop::collection::btree_map(0u16..600, any::<u32>(), 0..500),
        puts in prop::collection::btree_map(0u16..600, any::<u32>(), 0..80),
        deletes in prop::collection::btree_set(0u16..600, 0..80),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let info = countersign_snapshot::PublishInfo { salt: Salt(salt), ..info() };
        let rows = |map: &BTreeMap<u16, u32>| {
            map.iter().map(|(name, uid)| (name.to_string(), Login { uid: Uid(*uid), user: id(1) })).collect()
        };
        let tables = AccessTables { logins: rows(&base), ..AccessTables::default() };
        publish(directory.path(), &tables, &AccountsTables::default(), &info).unwrap();
        let mut expected = base;
        expected.retain(|name, _| !deletes.contains(name));
        expected.extend(puts);
        let tables = AccessTables { logins: rows(&expected), ..AccessTables::default() };
        publish_delta(directory.path(), &tables, &AccountsTables::default(), &info).unwrap();

        let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
        snapshot.verify().unwrap();
        for name in 0u16..600 {
            let found = snapshot.login(name.to_string().as_bytes()).unwrap();
            prop_assert_eq!(found.map(|login| login.uid.0), expected.get(&name).copied());
        }
    }
}
