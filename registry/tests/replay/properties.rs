//! Random logs: replay is total, does not depend on how it is fed, and no reorg or addition makes it more permissive.

use std::collections::BTreeMap;

use countersign_registry::entries::{Entry, Kind};
use countersign_registry::head::PlacedEntry;
use countersign_registry::realm::State;
use countersign_registry::replay::ReplayError;
use countersign_registry::{Effective, Id, Replay, shard};
use proptest::prelude::*;

pub(crate) use crate::history::*;
use crate::support::*;

fn op() -> impl Strategy<Value = Op> {
    let bend = prop_oneof![9 => Just(None), 1 => (any::<u16>(), any::<u8>()).prop_map(Some)];
    (0..3_u64, 0..ACTORS.len(), 0..34_u8, 0..4_u8, 0..4_u8, bend).prop_map(|(step, actor, what, a, b, bend)| Op {
        step,
        actor,
        what,
        a,
        b,
        bend,
    })
}

pub(crate) fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..most)
}

/// An entry that is no unlock, no restore and no removal (a removed user is not shown as locked any more).
fn lifts_nothing() -> impl Strategy<Value = Op> {
    op().prop_filter("lifts a denial", |op| {
        let lifts = matches!(entry(op).1, Entry::Unlock(_) | Entry::Restore(_) | Entry::Remove(_));
        !lifts && op.bend.is_none()
    })
}

fn look(replay: &mut Replay, latest: u64, log: &Log) -> Effective {
    replay.effective(block(latest), &log.upto(latest)).unwrap()
}

fn fork(base: &Log, from: u64, ops: &[Op]) -> (Log, u64) {
    let mut log = base.clone();
    let last = write(&mut log, from + 1, ops);
    (log, last)
}

/// The order in which entries of one block are fed says nothing.
fn shuffled(mut entries: Vec<PlacedEntry>, seed: u64) -> Vec<PlacedEntry> {
    entries.sort_by_key(|placed| (placed.at.index ^ seed, placed.at.shard.wrapping_mul(seed | 1), placed.at.block));
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_any_shard_are_replayed_without_a_panic(
        raw in prop::collection::vec((0..3_u64, 0..ACTORS.len(), any::<u16>(), 0..9_u64, prop::collection::vec(any::<u8>(), 0..300)), 1..40),
        known in ops(20),
    ) {
        let mut log = cast();
        let mut block_number = write(&mut log, 2, &known);
        for (step, actor, kind, class, data) in raw {
            block_number += step;
            // Half of the kinds are ones that mean something in the shard.
            let kind = if kind & 1 == 0 { Kind::NAMED[usize::from(kind) % Kind::NAMED.len()].1 } else { Kind(kind) };
            let class = shard::class_of_kind(kind).map_or(class, u64::from);
            log.add_raw(block_number, ACTORS[actor], kind, class << 32, data.into());
        }
        let mut replay = log.replayed(block_number / 2);
        match replay.effective(block(block_number), &log.upto(block_number)) {
            Ok(_) | Err(ReplayError::UpgradeNeeded { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
        }
        prop_assert!(replay.advance(block(block_number), &log.upto(block_number)).is_ok());
    }

    #[test]
    fn it_does_not_matter_in_which_steps_and_order_entries_are_fed(history in ops(60), cuts in prop::collection::vec(0..90_u64, 0..5), seed in any::<u64>()) {
        let mut log = cast();
        let last = write(&mut log, 2, &history);
        let at_once = log.views(last, last);
        let mut cuts: Vec<u64> = cuts.into_iter().filter(|cut| *cut < last).collect();
        cuts.sort_unstable();
        cuts.push(last);
        let mut replay = Replay::new(REALM);
        for cut in cuts {
            look(&mut replay, last, &log);
            let restarted: Replay = postcard::from_bytes(&postcard::to_stdvec(&replay).unwrap()).unwrap();
            replay = restarted;
            replay.advance(block(cut), &shuffled(log.upto(cut), seed)).unwrap();
        }
        prop_assert_eq!(look(&mut replay, last, &log), at_once);
    }

    #[test]
    fn day_and_period_shards_may_be_read_late(history in ops(60)) {
        let mut log = cast();
        let last = write(&mut log, 2, &history);
        let (governing, dated): (Vec<_>, Vec<_>) = log.upto(last).into_iter().partition(|placed| placed.at.shard >> 32 < 3);
        let mut replay = Replay::new(REALM);
        replay.advance(block(last), &governing).unwrap();
        replay.advance(block(last), &dated).unwrap();
        let mut late = look(&mut replay, last, &log);
        let mut straight = log.views(last, last);
        for view in [&mut late, &mut straight] {
            view.ignored.sort_by_key(|ignored| (ignored.at, ignored.reason));
        }
        prop_assert_eq!(late, straight);
    }

    #[test]
    fn a_latest_view_never_allows_more_than_the_final_view_nor_than_it_will_itself_once_final(history in ops(50), suffix in ops(30)) {
        let mut log = cast();
        let fin = write(&mut log, 2, &history);
        let (log, last) = fork(&log, fin, &suffix);
        let both = allowed(&log.views(fin, last));
        let final_only = allowed(&log.views(fin, fin));
        let eventually = allowed(&log.views(last, last));
        prop_assert!(both.is_subset(&final_only), "{:?}", both.difference(&final_only).collect::<Vec<_>>());
        prop_assert!(both.is_subset(&eventually), "{:?}", both.difference(&eventually).collect::<Vec<_>>());
    }

    #[test]
    fn a_reorg_only_makes_a_view_stricter(history in ops(50), first in ops(20), second in ops(20)) {
        let mut base = cast();
        let fin = write(&mut base, 2, &history);
        let (old, old_last) = fork(&base, fin, &first);
        let (new, new_last) = fork(&base, fin, &second);
        let mut replay = base.replayed(fin);
        let before = allowed(&look(&mut replay, old_last, &old));
        let after = allowed(&look(&mut replay, new_last, &new));
        let fresh = allowed(&new.views(fin, new_last));
        prop_assert!(after.is_subset(&before), "{:?}", after.difference(&before).collect::<Vec<_>>());
        prop_assert!(after.is_subset(&fresh), "{:?}", after.difference(&fresh).collect::<Vec<_>>());
        // Once the new history is final and 64 blocks old, nothing is left of the old one.
        let end = new_last.max(old_last) + 64;
        replay.advance(block(end), &new.upto(new_last)).unwrap();
        prop_assert_eq!(allowed(&look(&mut replay, end, &new)), allowed(&new.views(end, end)));
    }

    #[test]
    fn no_entry_but_an_unlock_or_a_restore_takes_back_a_denial(history in ops(60), more in lifts_nothing()) {
        let mut log = cast();
        let last = write(&mut log, 2, &history);
        let before = log.views(last, last);
        let (log, last) = fork(&log, last, &[more]);
        let after = denied(&log.views(last, last));
        let before = denied(&before);
        // Waiting users that are voided with their writer are not shown either.
        let shown: BTreeMap<Id, State> = log.views(last, last).users.iter().map(|(id, user)| (*id, user.state)).collect();
        let lost: Vec<&String> = before.difference(&after).filter(|fact| {
            fact.strip_prefix("user ").is_none_or(|id| shown.contains_key(&id.parse().unwrap()))
        }).collect();
        prop_assert!(lost.is_empty(), "{lost:?}");
    }
}
