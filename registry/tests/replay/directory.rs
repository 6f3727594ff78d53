//! The directory: names, uids, references, removal and restore, grants, keys.

use countersign_registry::entries::{Entry, Kind, Targets, payload};
use countersign_registry::realm::Grant;
use countersign_registry::replay::{IgnoreReason, setting};
use countersign_registry::{Bytes, Id};
use std::collections::BTreeSet;

use crate::support::*;

#[test]
fn users_and_groups_share_one_row_of_uids_and_one_of_names() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let ops = log.group(2, ADMIN, "ops");
    let taken = log.user(3, ADMIN, "ops");
    let bob = log.user(4, ADMIN, "bob");
    let effective = log.done();
    assert_eq!(effective.users[&alice].uid, 1_900_000_000);
    assert_eq!(effective.groups[&ops].gid, 1_900_000_001);
    assert!(!effective.users.contains_key(&taken));
    assert_eq!(effective.users[&bob].uid, 1_900_000_003, "the ignored add has used up a number");
    assert_eq!(log.reasons(), [IgnoreReason::NameTaken]);
}

#[test]
fn an_add_that_is_not_well_formed_uses_up_no_uid_and_one_by_a_locked_admin_does() {
    let mut log = cast();
    log.user(2, ADMIN, "Not-a-login");
    log.lock(3, Targets::Actors(vec![ADMIN_2]));
    log.user(4, ADMIN_2, "mallory");
    let alice = log.user(5, ADMIN, "alice");
    assert_eq!(log.done().users[&alice].uid, 1_900_000_001);
    assert_eq!(log.reasons(), [IgnoreReason::InvalidName, IgnoreReason::ActorLocked]);
}

#[test]
fn the_name_and_uid_of_a_removed_user_are_not_given_again() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    log.remove(3, ADMIN, alice);
    let again = log.user(4, ADMIN_2, "alice");
    let effective = log.done();
    assert!(!effective.users.contains_key(&alice) && !effective.users.contains_key(&again));
    assert_eq!(effective.removed[&alice].name, "alice");
    assert_eq!(effective.removed[&alice].uid, 1_900_000_000);
    assert_eq!(log.reasons(), [IgnoreReason::NameTaken]);
}

#[test]
fn removing_a_record_ends_what_refers_to_it_and_restoring_does_not_bring_that_back() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let ops = log.group(2, ADMIN, "ops");
    log.member_of(2, ADMIN, ops, alice);
    let key = log.key(2, ADMIN, alice, 1);
    log.label(2, ADMIN, alice, "staff");
    let grant_id = log.grant(2, ADMIN, grant("g", alice));
    log.bind(2, ADMIN, ALICE, alice);
    let before = log.done();
    assert_eq!(before.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [key]);
    assert_eq!(before.group_members, BTreeSet::from([(ops, alice)]));
    assert_eq!(before.actors[&ALICE].subject, Some(alice));
    assert!(before.grants.contains_key(&grant_id));

    log.remove(3, ADMIN, alice);
    let removed = log.done();
    assert!(removed.keys.is_empty() && removed.group_members.is_empty() && removed.grants.is_empty());
    assert_eq!(removed.actors[&ALICE].subject, None);
    assert_eq!(removed.actors[&ALICE].roles, 0);

    log.restore(4, Kind::USER_ADD, alice, "alice", 1_900_000_000);
    let same_block = log.key(4, ADMIN, alice, 2);
    let later = log.key(5, ADMIN, alice, 3);
    let restored = log.done();
    assert_eq!(restored.users[&alice].uid, 1_900_000_000);
    assert!(restored.users[&alice].labels.is_empty());
    assert!(restored.grants.is_empty() && restored.group_members.is_empty());
    assert_eq!(restored.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [later], "{same_block} came too early");
    assert_eq!(log.reasons(), [IgnoreReason::UnknownReference]);
}

#[test]
fn a_restore_must_repeat_the_record_and_have_something_to_restore() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    log.restore(3, Kind::USER_ADD, alice, "alice", 1_900_000_000);
    log.remove(4, ADMIN, alice);
    log.restore(5, Kind::USER_ADD, alice, "bob", 1_900_000_000);
    log.restore(5, Kind::USER_ADD, alice, "alice", 1_900_000_001);
    log.restore(5, Kind::GROUP_ADD, alice, "alice", 1_900_000_000);
    log.restore(5, Kind::USER_ADD, Id([9; 16]), "alice", 1_900_000_000);
    assert!(log.done().users.is_empty());
    assert_eq!(
        log.reasons(),
        [
            IgnoreReason::NothingToRestore,
            IgnoreReason::RestoreMismatch,
            IgnoreReason::RestoreMismatch,
            IgnoreReason::RestoreMismatch,
            IgnoreReason::UnknownReference
        ]
    );
}

#[test]
fn a_removal_in_the_block_of_a_restore_wins() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    log.remove(3, ADMIN, alice);
    log.restore(4, Kind::USER_ADD, alice, "alice", 1_900_000_000);
    log.remove(4, ADMIN, alice);
    assert!(!log.done().users.contains_key(&alice));
}

#[test]
fn the_first_record_of_an_id_wins_and_a_removed_id_does_not_come_back() {
    let mut log = cast();
    let web = log.host(2, ADMIN, "web");
    log.host(3, ADMIN, "web");
    log.remove(4, ADMIN, web);
    log.host(5, ADMIN, "web");
    let other = log.host(6, ADMIN_2, "web");
    let effective = log.done();
    assert_eq!(effective.hosts.keys().copied().collect::<Vec<_>>(), [other]);
    assert_eq!(log.reasons(), [IgnoreReason::DuplicateId, IgnoreReason::DuplicateId]);
}

#[test]
fn a_removal_seen_before_its_record_is_kept() {
    let mut log = cast();
    let mut ahead = cast();
    let web = ahead.host(2, ADMIN, "web");
    log.remove(2, ADMIN_2, web);
    assert_eq!(log.host(3, ADMIN, "web"), web);
    assert!(log.done().hosts.is_empty());
    assert_eq!(log.reasons(), [IgnoreReason::RemovedBefore]);
}

#[test]
fn references_to_what_is_not_there_are_ignored() {
    let mut log = cast();
    let web = log.host(2, ADMIN, "web");
    let ops = log.group(2, ADMIN, "ops");
    let nobody = Id([1; 16]);
    log.key(3, ADMIN, nobody, 1);
    log.key(3, ADMIN, web, 1);
    log.label(3, ADMIN, nobody, "x");
    log.label(3, ADMIN, ops, "x");
    log.member_of(3, ADMIN, ops, web);
    log.grant(3, ADMIN, grant("1", nobody));
    log.grant(3, ADMIN, grant("2", web));
    log.grant(3, ADMIN, payload::GrantAdd { allHosts: false, hosts: vec![nobody.0.into()], ..grant("3", ops) });
    log.bind(3, ADMIN, ALICE, nobody);
    log.bind(3, ADMIN, ALICE, ops);
    assert_eq!(log.reasons(), [IgnoreReason::UnknownReference; 10]);
}

#[test]
fn grants_that_contradict_themselves_are_ignored() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let hour = payload::Hours { weekday: 0, from: 10, to: 20 };
    let base = || grant("g", alice);
    for bad in [
        payload::GrantAdd { allHosts: false, ..base() },
        payload::GrantAdd { labels: vec!["a".into()], ..base() },
        payload::GrantAdd { via: 0, ..base() },
        payload::GrantAdd { via: 4, ..base() },
        payload::GrantAdd { permits: 32, ..base() },
        payload::GrantAdd { logins: vec![], ..base() },
        payload::GrantAdd { sourceAddresses: vec!["10.0.0.1/8".into()], ..base() },
        payload::GrantAdd { forcedCommand: "a\nb".into(), ..base() },
        payload::GrantAdd { intervals: vec![payload::Hours { weekday: 7, ..hour.clone() }], ..base() },
        payload::GrantAdd { intervals: vec![payload::Hours { to: 10, ..hour.clone() }], ..base() },
        payload::GrantAdd { intervals: vec![payload::Hours { to: 1441, ..hour.clone() }], ..base() },
    ] {
        log.grant(3, ADMIN, bad);
    }
    assert_eq!(log.reasons(), [IgnoreReason::InvalidGrant; 11]);
    log.grant(4, ADMIN, payload::GrantAdd { logins: vec!["Root".into()], ..base() });
    log.grant(4, ADMIN, payload::GrantAdd { allHosts: false, labels: vec!["a b".into()], ..base() });
    assert_eq!(log.reasons()[11..], [IgnoreReason::InvalidName; 2]);
    let good = log.grant(5, ADMIN, payload::GrantAdd { intervals: vec![hour], ..base() });
    assert!(log.done().grants.contains_key(&good));
}

#[test]
fn the_key_way_of_a_grant_is_closed_by_approvals_ttl_hours_and_logged_certificates() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let open = log.grant(2, ADMIN, grant("open", alice));
    let approvals = log.grant(2, ADMIN, payload::GrantAdd { approvals: 1, ..grant("a", alice) });
    let ttl = log.grant(2, ADMIN, payload::GrantAdd { maxTtl: 60, ..grant("t", alice) });
    let hours = payload::Hours { weekday: 0, from: 0, to: 1 };
    let timed = log.grant(2, ADMIN, payload::GrantAdd { intervals: vec![hours], ..grant("h", alice) });
    let effective = log.done();
    assert_eq!(effective.grants[&open].via, Grant::VIA_CERTIFICATE | Grant::VIA_KEY);
    for closed in [approvals, ttl, timed] {
        assert_eq!(effective.grants[&closed].via, Grant::VIA_CERTIFICATE);
    }
    log.settings(3, &[(setting::REQUIRE_LOGGED, 1)]);
    assert_eq!(log.done().grants[&open].via, Grant::VIA_CERTIFICATE);
    assert_eq!(log.views(2, 3).grants[&open].via, Grant::VIA_CERTIFICATE, "a tightening counts from the latest view");
}

#[test]
fn a_grant_loses_the_hosts_that_are_removed_and_ends_with_the_last() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let (web, db) = (log.host(2, ADMIN, "web"), log.host(2, ADMIN, "db"));
    let hosts = vec![web.0.into(), db.0.into()];
    let id = log.grant(2, ADMIN, payload::GrantAdd { allHosts: false, hosts, ..grant("g", alice) });
    let none = BTreeSet::new();
    assert!(log.done().grants[&id].target.covers(web, &none));
    log.remove(3, ADMIN, web);
    let effective = log.done();
    assert!(!effective.grants[&id].target.covers(web, &none));
    assert!(effective.grants[&id].target.covers(db, &none));
    log.remove(4, ADMIN, db);
    assert!(log.done().grants.is_empty());
}

#[test]
fn of_two_registrations_of_one_key_the_earlier_counts_while_it_lives() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let bob = log.user(2, ADMIN, "bob");
    let first = log.key(3, ADMIN, alice, 7);
    let second = log.key(4, ADMIN, bob, 7);
    assert_eq!(log.done().keys.iter().map(|key| key.id).collect::<Vec<_>>(), [first]);
    log.remove(5, ADMIN, first);
    assert_eq!(log.done().keys.iter().map(|key| key.id).collect::<Vec<_>>(), [second]);
}

#[test]
fn keys_that_are_certificates_or_no_keys_are_ignored() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    for blob in [Bytes::new(), Bytes::from_static(b"\0\0\0\x04junk"), [key_blob(1).as_ref(), &[0]].concat().into()] {
        let add = payload::KeyAdd {
            r: [1; 16].into(),
            user: alice.0.into(),
            publicKey: blob,
            purposes: 1,
            notAfter: 0,
            comment: String::new(),
        };
        log.add(3, ADMIN, &Entry::KeyAdd(add));
    }
    assert_eq!(log.reasons(), [IgnoreReason::InvalidKey; 3]);
}

#[test]
fn what_was_granted_once_is_remembered_and_what_never_counted_is_not() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let host = log.host(2, ADMIN, "web-1");
    let label = log.label(2, ADMIN, host, "db");
    log.label(2, ADMIN, host, "eu");
    let ended = log.grant(3, ADMIN, grant("ended", alice));
    let live = log.grant(3, ADMIN, grant("live", alice));
    log.remove(4, ADMIN, ended);
    log.remove(4, ADMIN, label);
    let effective = log.done();
    assert!(!effective.grants.contains_key(&ended) && effective.grants.contains_key(&live));
    assert!(effective.once_granted.contains_key(&ended) && effective.once_granted.contains_key(&live));
    assert!(effective.once_labelled[&host].iter().eq(["db"]));
    // Seen in the latest view only, an end is remembered as well.
    let pending = log.views(3, 4);
    assert!(!pending.grants.contains_key(&ended) && pending.once_granted.contains_key(&ended));
    assert!(pending.once_labelled[&host].iter().eq(["db"]));

    // A single ADMIN of a realm that asks for two cannot give away a login, nor by taking it back.
    log.settings(5, &[(setting::DIRECTORY_QUORUM, 2)]);
    let lonely = log.grant(6, ADMIN, grant("lonely", alice));
    let taken_back = log.grant(6, ADMIN, grant("taken back", alice));
    let waiting_label = log.label(6, ADMIN, host, "us");
    log.remove(7, ADMIN, taken_back);
    log.remove(7, ADMIN, waiting_label);
    let effective = log.done();
    assert!(!effective.once_granted.contains_key(&lonely) && !effective.once_granted.contains_key(&taken_back));
    assert!(effective.once_labelled[&host].iter().eq(["db"]));

    // With its user gone nothing is left of a grant, and it is remembered.
    log.remove(8, ADMIN, alice);
    let effective = log.done();
    assert!(effective.grants.is_empty() && effective.once_granted.contains_key(&live));
}
