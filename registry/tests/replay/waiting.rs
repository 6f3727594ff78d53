//! Additions that wait for a delay or for other ADMINs.

use countersign_registry::Address;
use countersign_registry::entries::{Entry, Roles, Targets};
use countersign_registry::replay::{IgnoreReason, setting};

use crate::support::*;

#[test]
fn additions_wait_for_the_directory_delay_and_removals_do_not() {
    let mut log = cast();
    log.settings(1, &[(setting::DIRECTORY_DELAY, 100)]);
    let alice = log.user(5, ADMIN, "alice");
    assert!(!log.views(14, 14).users.contains_key(&alice));
    let waiting = log.views(14, 14).waiting;
    assert_eq!((waiting[0].id, waiting[0].not_before, waiting[0].in_final), (alice, time(15), true));
    assert!(log.views(15, 15).users.contains_key(&alice));
    assert!(!log.views(14, 15).users.contains_key(&alice), "the final view's time counts");
    log.remove(16, ADMIN, alice);
    assert!(!log.views(16, 16).users.contains_key(&alice));
}

#[test]
fn additions_wait_for_a_quorum_of_distinct_admins() {
    let mut log = cast();
    log.settings(1, &[(setting::DIRECTORY_QUORUM, 3)]);
    let alice = log.user(2, ADMIN, "alice");
    for (block, admin) in [(3, ADMIN), (4, ADMIN_2), (5, ADMIN_2)] {
        log.add(block, admin, &Entry::Confirm(vec![alice]));
    }
    let effective = log.done();
    assert!(!effective.users.contains_key(&alice));
    assert_eq!((effective.waiting[0].confirmations, effective.waiting[0].quorum), (2, 3));
    assert_eq!(log.reasons(), [IgnoreReason::NothingWaits; 2]);
    log.add(6, ADMIN_3, &Entry::Confirm(vec![alice]));
    assert!(log.done().users.contains_key(&alice));
    assert!(!log.views(5, 6).users.contains_key(&alice), "a confirmation counts once it is final");
}

#[test]
fn a_binding_waits_like_any_addition_and_is_confirmed_by_its_entry_hash() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    log.settings(3, &[(setting::DIRECTORY_QUORUM, 2)]);
    let binding = log.bind(4, ADMIN, ALICE, alice);
    assert_eq!(log.done().actors[&ALICE].subject, None);
    log.add(5, ADMIN_2, &Entry::Confirm(vec![binding]));
    assert_eq!(log.done().actors[&ALICE].subject, Some(alice));
}

#[test]
fn the_roots_additions_do_not_wait_and_their_confirmation_suffices() {
    let mut log = cast();
    log.settings(1, &[(setting::DIRECTORY_QUORUM, 3)]);
    let alice = log.user(2, ROOTS, "alice");
    let bob = log.user(2, ADMIN, "bob");
    assert!(log.done().users.contains_key(&alice));
    assert!(!log.done().users.contains_key(&bob));
    log.add(3, ROOTS, &Entry::Confirm(vec![bob]));
    assert!(log.done().users.contains_key(&bob));
}

#[test]
fn a_locked_admins_waiting_additions_and_confirmations_are_void() {
    for lose in [
        |log: &mut Log, actor: Address| log.lock(5, Targets::Actors(vec![actor])),
        |log: &mut Log, actor: Address| log.role(5, actor, Roles::APPROVER),
    ] {
        let mut log = cast();
        log.settings(1, &[(setting::DIRECTORY_QUORUM, 2), (setting::DIRECTORY_DELAY, 100)]);
        let mallory = log.user(2, ADMIN_2, "mallory");
        let alice = log.user(2, ADMIN, "alice");
        log.add(3, ADMIN, &Entry::Confirm(vec![mallory]));
        log.add(3, ADMIN_2, &Entry::Confirm(vec![alice]));
        let mut honest = log.clone();
        honest.role(20, REVOKER, Roles::REVOKER);
        assert!(honest.done().users.contains_key(&mallory) && honest.done().users.contains_key(&alice));
        lose(&mut log, ADMIN_2);
        log.role(20, REVOKER, Roles::REVOKER);
        assert!(log.done().users.is_empty());
        // The name was never given, so it is free.
        let again = log.user(21, ROOTS, "mallory");
        assert!(log.done().users.contains_key(&again));
    }
}

#[test]
fn what_counted_before_a_lock_stays() {
    let mut log = cast();
    log.settings(1, &[(setting::DIRECTORY_DELAY, 100)]);
    let alice = log.user(2, ADMIN, "alice");
    log.lock(13, Targets::Actors(vec![ADMIN]));
    assert!(log.done().users.contains_key(&alice));
    let mut same = cast();
    same.settings(1, &[(setting::DIRECTORY_DELAY, 100)]);
    let alice = same.user(2, ADMIN, "alice");
    same.lock(12, Targets::Actors(vec![ADMIN]));
    assert!(!same.done().users.contains_key(&alice), "a denial in the same block wins");
}

#[test]
fn the_delay_in_force_when_it_was_written_counts_and_the_stricter_within_one_block() {
    let mut log = cast();
    log.settings(1, &[(setting::DIRECTORY_DELAY, 1000)]);
    log.settings(3, &[(setting::DIRECTORY_DELAY, 0)]);
    let early = log.user(3, ADMIN, "early");
    let later = log.user(4, ADMIN, "later");
    let effective = log.done();
    assert!(!effective.users.contains_key(&early) && effective.users.contains_key(&later));
}
