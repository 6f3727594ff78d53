//! Who may write when: roles, locks, order within a block, settings, CAs.

use countersign_registry::entries::{Entry, Kind, Roles, Targets, payload};
use countersign_registry::realm::{CaState, State};
use countersign_registry::replay::{IgnoreReason, ReplayError, setting};
use countersign_registry::{Address, B256, Fingerprint20, Id, shard, sign};
use std::collections::BTreeSet;

use crate::support::*;

#[test]
fn authority_starts_with_the_block_after_and_ends_with_the_block_of_its_loss() {
    let mut log = Log::default();
    log.role(2, ADMIN, Roles::ADMIN);
    let same = log.user(2, ADMIN, "same");
    let after = log.user(3, ADMIN, "after");
    let lost = log.user(4, ADMIN, "lost");
    log.role(4, ADMIN, 0);
    log.user(5, ADMIN, "gone");
    let effective = log.done();
    assert_eq!(effective.users.keys().copied().collect::<Vec<_>>(), [after], "{same} {lost}");
    assert_eq!(log.reasons(), [IgnoreReason::NoRole; 3]);
}

#[test]
fn a_role_lost_and_given_again_in_one_block_is_lost_in_that_block() {
    let mut log = cast();
    log.role(4, ADMIN, 0);
    log.role(4, ADMIN, Roles::ADMIN);
    log.user(4, ADMIN, "same");
    let after = log.user(5, ADMIN, "after");
    assert_eq!(log.done().users.keys().copied().collect::<Vec<_>>(), [after]);
}

#[test]
fn a_locked_actor_is_void_from_its_lock_to_the_block_of_its_unlock() {
    let mut log = cast();
    log.lock(5, Targets::Actors(vec![ADMIN]));
    log.user(5, ADMIN, "at-lock");
    log.user(6, ADMIN, "locked");
    assert!(log.done().actors[&ADMIN].locked);
    assert_eq!(log.done().actors[&ADMIN].roles, 0);
    log.add(7, ROOTS, &Entry::Unlock(Targets::Actors(vec![ADMIN])));
    log.user(7, ADMIN, "at-unlock");
    let after = log.user(8, ADMIN, "after");
    let effective = log.done();
    assert_eq!(effective.users.keys().copied().collect::<Vec<_>>(), [after]);
    assert!(!effective.actors[&ADMIN].locked);
}

#[test]
fn an_unlock_ends_the_locks_of_earlier_blocks_only() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let targets = || Targets::Users(vec![alice]);
    log.lock(3, targets());
    assert_eq!(log.done().users[&alice].state, State::Locked);
    log.add(4, ROOTS, &Entry::Unlock(targets()));
    assert_eq!(log.done().users[&alice].state, State::Active);
    log.add(6, ROOTS, &Entry::Unlock(targets()));
    log.lock(6, targets());
    assert_eq!(log.done().users[&alice].state, State::Locked);
    assert_eq!(log.reasons(), [IgnoreReason::NothingLocked]);
    log.lock(8, Targets::Actors(vec![ADMIN]));
    log.add(8, ROOTS, &Entry::Unlock(Targets::Actors(vec![ADMIN])));
    assert!(log.done().actors[&ADMIN].locked);
}

#[test]
fn a_revocation_is_for_good_for_keys_and_cas_and_until_a_restore_for_users_and_hosts() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let ca = log.ca(2, 1, &[ISSUER]);
    let key = Fingerprint20([7; 20]);
    log.lock(3, Targets::Cas(vec![ca]));
    for targets in [Targets::Users(vec![alice]), Targets::Cas(vec![ca]), Targets::Keys(vec![key])] {
        log.add(3, ROOTS, &Entry::Revoke(targets));
    }
    for targets in [Targets::Users(vec![alice]), Targets::Cas(vec![ca]), Targets::Keys(vec![key])] {
        log.add(4, ROOTS, &Entry::Unlock(targets));
    }
    let effective = log.done();
    assert_eq!(effective.users[&alice].state, State::Revoked);
    assert_eq!(effective.cas[&ca].state, CaState::Revoked);
    assert_eq!(effective.revoked_keys, BTreeSet::from([key]));
    log.restore(5, Kind::USER_ADD, alice, "alice", 1_900_000_000);
    assert_eq!(log.done().users[&alice].state, State::Active);
}

#[test]
fn a_lock_of_something_unknown_is_kept() {
    let mut log = cast();
    let mut ahead = cast();
    let alice = ahead.user(3, ADMIN, "alice");
    log.lock(2, Targets::Users(vec![alice]));
    assert_eq!(log.user(3, ADMIN, "alice"), alice);
    assert_eq!(log.done().users[&alice].state, State::Locked);
}

#[test]
fn the_order_of_shards_within_a_block_does_not_matter() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let ca = log.ca(2, 1, &[ISSUER]);
    log.bind(2, ADMIN, ALICE, alice);
    log.batch(4, ISSUER, ca, 1);
    log.lock(4, Targets::Actors(vec![ISSUER]));
    log.user(4, ADMIN, "bob");
    log.role(4, ADMIN, 0);
    log.request(4, ALICE, alice, alice);
    log.settings(4, &[(setting::MAX_TTL, 60)]);
    let straight = log.done();
    log.entries.sort_by_key(|placed| (std::cmp::Reverse(placed.at.shard), placed.at.index));
    assert_eq!(log.done(), straight);
    log.entries.sort_by_key(|placed| (placed.at.shard, placed.at.index));
    assert_eq!(log.done(), straight);
}

#[test]
fn settings_are_the_stricter_of_both_views() {
    let mut log = cast();
    log.settings(2, &[(setting::MAX_TTL, 1000), (setting::MAX_STALENESS, 200)]);
    log.settings(5, &[(setting::MAX_TTL, 100), (setting::MAX_STALENESS, 400)]);
    let both = log.views(4, 5).settings;
    assert_eq!((both.max_ttl, both.max_staleness), (100, 200));
    let after = log.views(5, 5).settings;
    assert_eq!((after.max_ttl, after.max_staleness), (100, 400));
}

#[test]
fn a_revoker_only_tightens_and_wins_within_a_block() {
    let mut log = cast();
    let tighten = |items| Entry::SettingsTighten(settings(items));
    log.add(2, REVOKER, &tighten(&[(setting::MAX_TTL, 50)]));
    log.add(3, REVOKER, &tighten(&[(setting::MAX_TTL, 60), (setting::UID_BASE, 70_000), (99, 1)]));
    assert_eq!(log.done().settings.max_ttl, 50);
    assert_eq!(
        log.reasons(),
        [IgnoreReason::SettingNotStricter, IgnoreReason::SettingUnknown, IgnoreReason::SettingUnknown]
    );
    log.settings(4, &[(setting::MAX_TTL, 500)]);
    assert_eq!(log.done().settings.max_ttl, 500);
    log.add(5, REVOKER, &tighten(&[(setting::MAX_TTL, 40)]));
    log.settings(5, &[(setting::MAX_TTL, 5000)]);
    assert_eq!(log.done().settings.max_ttl, 40);
}

#[test]
fn ca_limits_tighten_at_once_and_loosen_when_final() {
    let mut log = cast();
    let ca = log.ca(2, 1, &[ISSUER]);
    let limits = |max_ttl, logins: &[&str], issuers: &[Address]| payload::CaLimits {
        ca: ca.0.into(),
        maxTtl: max_ttl,
        logins: logins.iter().map(|login| (*login).to_owned()).collect(),
        issuers: issuers.to_vec(),
    };
    log.add(5, REVOKER, &Entry::CaTighten(limits(60, &["deploy"], &[ISSUER, ADMIN])));
    for views in [log.views(4, 5), log.views(5, 5)] {
        let limits = &views.cas[&ca].limits;
        assert_eq!((limits.max_ttl, limits.issuers.len()), (60, 1));
        assert!(limits.allows_login("deploy") && !limits.allows_login("root"));
    }
    log.add(7, ROOTS, &Entry::CaLoosen(limits(9000, &[], &[ISSUER, ADMIN])));
    assert_eq!(log.views(6, 7).cas[&ca].limits.max_ttl, 60);
    let loose = log.done();
    assert_eq!((loose.cas[&ca].limits.max_ttl, loose.cas[&ca].limits.issuers.len()), (9000, 2));
    assert!(loose.cas[&ca].limits.allows_login("root"));
}

#[test]
fn a_ca_key_is_registered_once_even_after_its_revocation() {
    let mut log = cast();
    let ca = log.ca(2, 1, &[]);
    log.add(3, ROOTS, &Entry::Revoke(Targets::Cas(vec![ca])));
    let add = payload::CaAdd {
        r: [99; 16].into(),
        purpose: 1,
        name: "again".into(),
        publicKey: key_blob(1),
        maxTtl: 1,
        logins: vec![],
        issuers: vec![],
    };
    log.add(4, ROOTS, &Entry::CaAdd(add));
    assert_eq!(log.done().cas.len(), 1);
    assert_eq!(log.reasons(), [IgnoreReason::CaKeyTaken]);
}

#[test]
fn a_ca_retires_at_its_earliest_retirement() {
    let mut log = cast();
    let ca = log.ca(2, 1, &[]);
    log.add(5, REVOKER, &Entry::CaRetire(vec![ca]));
    log.add(9, REVOKER, &Entry::CaRetire(vec![ca]));
    assert_eq!(log.views(4, 9).cas[&ca].state, CaState::Retired { at: time(5) });
    assert_eq!(log.done().cas[&ca].state, CaState::Retired { at: time(5) });
}

#[test]
fn an_issuer_revokes_certificates_of_cas_that_list_it_only() {
    let mut log = cast();
    let ours = log.ca(2, 1, &[ISSUER]);
    let theirs = log.ca(2, 2, &[ADMIN]);
    for (actor, ca, serial) in [(ISSUER, ours, 1), (ISSUER, theirs, 2), (REVOKER, theirs, 3), (ROOTS, Id([5; 16]), 4)] {
        log.add(3, actor, &Entry::CertRevoke { ca, serials: vec![serial] });
    }
    let serials = log.done().revoked_serials;
    assert_eq!(serials[&ours], BTreeSet::from([1]));
    assert_eq!(serials[&theirs], BTreeSet::from([3]));
    assert_eq!(serials[&Id([5; 16])], BTreeSet::from([4]));
    assert_eq!(log.reasons(), [IgnoreReason::IssuerNotListed]);
}

#[test]
fn governance_counts_from_the_roots_only_and_a_critical_entry_of_anybody_else_stops_no_host() {
    let mut log = cast();
    let everything = u64::from(u16::MAX);
    let set = |actor: Address| Entry::RoleSet(payload::RoleSet { actor, roles: everything, x25519: B256::ZERO });
    let stranger = Address::repeat_byte(0x77);
    for actor in [ADMIN, REVOKER, stranger] {
        log.add(3, actor, &set(stranger));
        log.add(3, actor, &Entry::Settings(settings(&[(setting::MAX_TTL, 5)])));
        log.add_raw(3, actor, Kind(0x00ff), shard::GOVERNANCE, sign::clear(b"?"));
    }
    let done = log.done();
    assert!(!done.actors.contains_key(&stranger));
    assert_eq!(done.settings.max_ttl, 86_400);
    assert_eq!(log.reasons(), [IgnoreReason::NoRole; 9]);

    log.add_raw(4, ROOTS, Kind(0x00ff), shard::GOVERNANCE, sign::clear(b"?"));
    let refused = log.replayed(5).effective(block(5), &[]).unwrap_err();
    assert!(matches!(refused, ReplayError::UpgradeNeeded { kind: Kind(0x00ff), .. }), "{refused}");
}
