//! Final and latest view, reorgs, shards read late, entries without meaning.

use countersign_registry::entries::{Entry, Kind, Roles, Targets};
use countersign_registry::realm::State;
use countersign_registry::replay::{DENIAL_BLOCKS, IgnoreReason, ReplayError, setting};
use countersign_registry::{Bytes, Replay, shard};
use std::collections::BTreeSet;
use std::ptr;

use crate::support::*;

#[test]
fn additions_count_when_final_and_removals_at_once() {
    let mut log = cast();
    let alice = log.user(5, ADMIN, "alice");
    let before = log.views(4, 5);
    assert!(!before.users.contains_key(&alice));
    assert_eq!(
        before.waiting.iter().map(|waiting| (waiting.id, waiting.in_final)).collect::<Vec<_>>(),
        [(alice, false)]
    );
    assert!(log.views(5, 5).users.contains_key(&alice));
    log.remove(8, ADMIN, alice);
    assert!(!log.views(7, 8).users.contains_key(&alice));
}

#[test]
fn a_denial_that_a_reorg_took_back_stays_until_final_is_64_blocks_past_it() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let mut replay = log.replayed(5);
    let mut fork = log.clone();
    fork.lock(10, Targets::Users(vec![alice]));
    let state = |replay: &mut Replay, latest, log: &Log| {
        replay.effective(block(latest), &log.upto(latest)).unwrap().users[&alice].state
    };
    assert_eq!(state(&mut replay, 10, &fork), State::Locked);
    assert_eq!(state(&mut replay, 11, &log), State::Locked);
    replay.advance(block(10 + DENIAL_BLOCKS - 1), &[]).unwrap();
    assert_eq!(state(&mut replay, 200, &log), State::Locked);
    let mut kept: Replay = postcard::from_bytes(&postcard::to_stdvec(&replay).unwrap()).unwrap();
    assert_eq!(state(&mut kept, 200, &log), State::Locked, "also across a restart");
    replay.advance(block(10 + DENIAL_BLOCKS), &[]).unwrap();
    assert_eq!(state(&mut replay, 200, &log), State::Active);
}

#[test]
fn what_an_admin_adds_behind_its_denial_is_void_while_that_is_in_force_though_a_reorg_took_it_back() {
    for deny in [
        |log: &mut Log| log.lock(10, Targets::Actors(vec![ADMIN_2])),
        |log: &mut Log| log.role(10, ADMIN_2, Roles::APPROVER),
    ] {
        let base = cast();
        let mut replay = base.replayed(5);
        let mut fork = base.clone();
        deny(&mut fork);
        replay.effective(block(10), &fork.upto(10)).unwrap();
        let mut log = base.clone();
        let before = log.user(9, ADMIN_2, "before");
        let behind = log.user(10, ADMIN_2, "behind");
        let of_another = log.user(10, ADMIN, "another");
        let users = |replay: &mut Replay| {
            let users = replay.effective(block(200), &log.upto(200)).unwrap().users;
            [before, behind, of_another].map(|user| users.contains_key(&user))
        };
        replay.advance(block(12), &log.upto(12)).unwrap();
        assert_eq!(users(&mut replay), [true, false, true]);
        let mut replay: Replay = postcard::from_bytes(&postcard::to_stdvec(&replay).unwrap()).unwrap();
        replay.advance(block(10 + DENIAL_BLOCKS - 1), &[]).unwrap();
        assert_eq!(users(&mut replay), [true, false, true], "also across a restart");
        replay.advance(block(10 + DENIAL_BLOCKS), &[]).unwrap();
        assert_eq!(users(&mut replay), [true, true, true]);
    }
}

#[test]
fn waiting_additions_and_confirmations_do_not_outlive_a_denial_that_a_reorg_took_back() {
    let mut log = cast();
    log.settings(1, &[(setting::DIRECTORY_QUORUM, 2), (setting::DIRECTORY_DELAY, 100)]);
    let written = log.user(2, ADMIN_2, "written");
    let confirmed = log.user(2, ADMIN, "confirmed");
    let both = log.user(2, ADMIN, "both");
    log.add(3, ADMIN, &Entry::Confirm(vec![written]));
    log.add(3, ADMIN_2, &Entry::Confirm(vec![confirmed, both]));
    let mut replay = log.replayed(5);
    let mut fork = log.clone();
    fork.lock(8, Targets::Actors(vec![ADMIN_2]));
    replay.effective(block(8), &fork.upto(8)).unwrap();
    log.add(9, ADMIN_3, &Entry::Confirm(vec![both]));
    let users = |replay: &mut Replay| {
        let users = replay.effective(block(200), &log.upto(200)).unwrap().users;
        [written, confirmed, both].map(|user| users.contains_key(&user))
    };
    for passed in [12, 13, 30, 8 + DENIAL_BLOCKS - 1] {
        replay.advance(block(passed), &log.upto(passed)).unwrap();
        assert_eq!(users(&mut replay), [false, false, true], "{passed}");
    }
    replay.advance(block(8 + DENIAL_BLOCKS), &[]).unwrap();
    assert_eq!(users(&mut replay), [true, true, true]);
}

#[test]
fn a_key_whose_earlier_registration_is_removed_is_the_later_ones_once_that_is_final() {
    let mut log = cast();
    let (alice, bob) = (log.user(2, ADMIN, "alice"), log.user(2, ADMIN, "bob"));
    let first = log.key(3, ADMIN, alice, 7);
    let second = log.key(4, ADMIN, bob, 7);
    log.remove(10, ADMIN, first);
    let keys = |fin| log.views(fin, 12).keys.iter().map(|key| key.id).collect::<Vec<_>>();
    assert_eq!(log.views(9, 9).keys.iter().map(|key| key.id).collect::<Vec<_>>(), [first]);
    assert_eq!(keys(9), [], "a reorg could still take the removal back");
    assert_eq!(keys(10), [second]);
}

#[test]
fn a_denial_that_became_final_is_ended_by_a_final_unlock() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    log.lock(10, Targets::Users(vec![alice]));
    let mut replay = log.replayed(5);
    replay.effective(block(10), &log.upto(10)).unwrap();
    log.add(12, ROOTS, &Entry::Unlock(Targets::Users(vec![alice])));
    let unlocked_in_latest = replay.effective(block(12), &log.upto(12)).unwrap();
    assert_eq!(unlocked_in_latest.users[&alice].state, State::Locked, "an unlock counts when it is final");
    replay.advance(block(12), &log.upto(12)).unwrap();
    assert_eq!(replay.effective(block(12), &[]).unwrap().users[&alice].state, State::Active);
}

#[test]
fn a_shard_that_is_read_late_is_judged_as_of_its_own_blocks() {
    let mut log = cast();
    let ca = log.ca(2, 1, &[ISSUER]);
    let (early, _) = log.batch(4, ISSUER, ca, 1);
    log.lock(5, Targets::Actors(vec![ISSUER]));
    let (locked, _) = log.batch(6, ISSUER, ca, 2);
    log.add(7, ROOTS, &Entry::Unlock(Targets::Actors(vec![ISSUER])));
    let (governing, dated): (Vec<_>, Vec<_>) = log.upto(9).into_iter().partition(|placed| placed.at.shard >> 32 < 3);
    let mut replay = Replay::new(REALM);
    replay.advance(block(9), &governing).unwrap();
    replay.advance(block(20), &dated).unwrap();
    let late = replay.effective(block(20), &[]).unwrap();
    assert_eq!(late.batches.keys().copied().collect::<Vec<_>>(), [early], "not {locked}");
    assert_eq!(late.batches, log.done().batches);
}

#[test]
fn forgotten_shards_leave_no_records_and_can_be_read_again() {
    let mut log = cast();
    let ca = log.ca(2, 1, &[ISSUER]);
    let (batch, _) = log.batch(4, ISSUER, ca, 1);
    log.add(4, REVOKER, &Entry::CertRevoke { ca, serials: vec![7] });
    let mut replay = log.replayed(5);
    let before = replay.effective(block(5), &[]).unwrap();
    assert!(before.batches.contains_key(&batch) && before.revoked_serials.contains_key(&ca));
    replay.retain_shards(|_| false);
    let after = replay.effective(block(5), &[]).unwrap();
    assert!(after.batches.is_empty() && after.revoked_serials.is_empty());
    assert_eq!(after.cas, before.cas);
    replay.advance(block(6), &log.upto(5)).unwrap();
    assert_eq!(replay.effective(block(6), &[]).unwrap().batches, before.batches);
}

#[test]
fn entries_that_do_not_continue_the_view_are_the_callers_error_and_change_nothing() {
    let mut log = cast();
    log.user(5, ADMIN, "alice");
    log.user(6, ADMIN, "bob");
    let mut replay = log.replayed(5);
    let before = postcard::to_stdvec(&replay).unwrap();
    let bob: Vec<_> = log.upto(6).into_iter().filter(|placed| placed.at.block == 6).collect();
    let gap: Vec<_> = bob
        .iter()
        .cloned()
        .map(|mut placed| {
            placed.at.index += 1;
            placed
        })
        .collect();
    assert_eq!(replay.advance(block(9), &gap), Err(ReplayError::Gap { shard: shard::DIRECTORY, expected: 1, got: 2 }));
    assert_eq!(replay.advance(block(4), &[]), Err(ReplayError::Backwards { expected: 5, got: 4 }));
    assert_eq!(replay.advance(block(5), &bob), Err(ReplayError::OutOfView { at: bob[0].at, after: 6, until: 5 }));
    let back: Vec<_> = bob
        .iter()
        .cloned()
        .map(|mut placed| {
            placed.at.block = 5;
            placed
        })
        .collect();
    assert_eq!(replay.advance(block(9), &back), Err(ReplayError::OutOfView { at: back[0].at, after: 6, until: 9 }));
    assert_eq!(replay.effective(block(4), &[]).unwrap_err(), ReplayError::Backwards { expected: 5, got: 4 });
    assert_eq!(postcard::to_stdvec(&replay).unwrap(), before);
}

#[test]
fn an_unknown_critical_entry_stops_publishing_and_an_unknown_other_one_is_ignored() {
    let mut log = cast();
    log.add_raw(2, ADMIN, Kind(0x0180), shard::DIRECTORY, Bytes::from_static(&[0]));
    log.add_raw(2, REVOKER, Kind(0x0299), shard::DENIALS, Bytes::from_static(&[0]));
    log.add_raw(2, ROOTS, Kind(0x0042), shard::GOVERNANCE, Bytes::from_static(&[0]));
    assert_eq!(log.reasons(), [IgnoreReason::UnknownKind; 3]);
    for data in [Bytes::from_static(&[0, 1]), Bytes::new(), Bytes::from_static(&[1])] {
        let mut critical = log.clone();
        let placed = critical.add_raw(5, ROOTS, Kind::MIGRATE, shard::GOVERNANCE, data);
        let expected = ReplayError::UpgradeNeeded { kind: Kind::MIGRATE, at: placed.at };
        let mut replay = critical.replayed(4);
        assert!(replay.effective(block(4), &[]).is_ok());
        let refused = replay.effective(block(5), &critical.upto(5)).unwrap_err();
        assert_eq!(refused, expected);
        assert!(refused.to_string().starts_with("upgrade-needed: "), "{refused}");
        assert_eq!(critical.replayed(9).effective(block(9), &[]).unwrap_err(), expected);
    }
}

#[test]
fn sealed_empty_foreign_and_misplaced_entries_are_ignored_with_their_reasons() {
    let mut log = cast();
    for data in [Bytes::from_static(&[1, 2]), Bytes::new(), Bytes::from_static(&[9]), Bytes::from_static(&[0, 9])] {
        log.add_raw(2, ADMIN, Kind::USER_ADD, shard::DIRECTORY, data);
    }
    log.add_raw(2, REVOKER, Kind::USER_LOCK, shard::DIRECTORY, Bytes::from_static(&[0; 17]));
    log.add_raw(2, REVOKER, Kind(0x0a00), shard::DENIALS, Bytes::from_static(&[0]));
    assert_eq!(
        log.reasons(),
        [
            IgnoreReason::WrongShard,
            IgnoreReason::Sealed,
            IgnoreReason::Empty,
            IgnoreReason::UnknownEncoding,
            IgnoreReason::Malformed,
            IgnoreReason::WrongShard
        ]
    );
}

#[test]
fn the_spec_lists_every_reason_and_no_other() {
    let spec = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/spec/replay.md")).unwrap();
    let section = spec.split("## Ignored entries").nth(1).unwrap().split("\n## ").next().unwrap();
    let listed: BTreeSet<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|line| line.split('`').next()).collect();
    let known: BTreeSet<&str> = IgnoreReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(listed, known);
    for reason in IgnoreReason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
}

#[test]
fn what_held_does_not_change_when_replay_goes_on() {
    let mut log = cast();
    let (alice, bob) = (log.user(2, ADMIN, "alice"), log.user(2, ADMIN, "bob"));
    let keys = [log.key(3, ADMIN, alice, 1), log.key(3, ADMIN, bob, 2)];
    let open = log.grant(3, ADMIN, grant("open", alice));
    let mut replay = log.replayed(4);
    let held = replay.effective(block(4), &[]).unwrap();
    let then = held.clone();
    log.lock(5, Targets::Users(vec![alice]));
    log.remove(5, ADMIN, keys[0]);
    log.remove(5, ADMIN, open);
    let late = log.key(6, ADMIN, bob, 3);
    // The tables are still shared with `held` while this is written.
    replay.advance(block(7), &log.upto(7)).unwrap();
    let now = replay.effective(block(7), &[]).unwrap();
    assert_eq!(now, log.views(7, 7));
    assert_eq!(now.users[&alice].state, State::Locked);
    assert_eq!(now.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [keys[1], late]);
    assert!(now.grants.is_empty());
    assert_eq!(held, then);
    assert_eq!(held.users[&alice].state, State::Active);
    assert_eq!(held.keys.iter().map(|key| key.id).collect::<Vec<_>>(), keys);
    drop((held, then, now));
    let restarted: Replay = postcard::from_bytes(&postcard::to_stdvec(&replay).unwrap()).unwrap();
    log.key(8, ADMIN, alice, 1);
    for mut replay in [replay, restarted] {
        replay.advance(block(9), &log.upto(9)).unwrap();
        assert_eq!(replay.effective(block(9), &[]).unwrap(), log.views(9, 9));
    }
}

#[test]
fn records_are_held_once_however_often_one_asks_and_grants_share_their_sets() {
    let mut log = cast();
    let alice = log.user(2, ADMIN, "alice");
    let (key, one) = (log.key(3, ADMIN, alice, 1), log.grant(3, ADMIN, grant("one", alice)));
    let two = log.grant(4, ADMIN, grant("two", alice));
    let replay = log.replayed(5);
    let restarted: Replay = postcard::from_bytes(&postcard::to_stdvec(&replay).unwrap()).unwrap();
    for mut replay in [replay, restarted] {
        let (first, second) =
            (replay.effective(block(5), &[]).unwrap(), replay.effective(block(6), &log.upto(6)).unwrap());
        assert!(ptr::eq(&first.users[&alice], &second.users[&alice]));
        assert!(ptr::eq(first.keys.get(&key).unwrap(), second.keys.get(&key).unwrap()));
        assert!(ptr::eq(&first.grants[&one], &second.grants[&one]));
        assert!(ptr::eq(&*first.grants[&one].logins, &*first.grants[&two].logins));
    }
}
