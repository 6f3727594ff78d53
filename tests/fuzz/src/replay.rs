//! What anybody writes on the ledger, in whatever order, and what follows from it.

use countersign_registry::entries::Kind;
use countersign_registry::replay::ReplayError;
use countersign_registry::{Effective, Id, Replay, shard};

use crate::history::{ACTORS, Op, allowed, denied, entry, write};
use crate::support::{Log, block, cast};

/// Of an operation: step and actor, what, about whom, where a byte is changed, and how.
const OP_BYTES: usize = 5;
const MOST_OPS: usize = 24;
const SORTS: u8 = 35;

/// A byte that says after which operation the final view ends, then operations. The last one is added afterwards.
///
/// Nothing stops a replay but a critical entry that nobody knows. A latest view allows no more than the final one, and no more than it
/// will itself. What is denied stays so, whatever is added that is not the roots' unlock or restoration, or a removal.
pub fn try_on(data: &[u8]) {
    let Some((cut, rest)) = data.split_first() else { return };
    let mut ops: Vec<Op> = rest.chunks_exact(OP_BYTES).take(MOST_OPS).map(op).collect();
    let Some(added) = ops.pop() else { return };
    let suffix = ops.split_off(usize::from(*cut) % (ops.len() + 1));
    let mut log = cast();
    let fin = put(&mut log, 2, &ops);
    let latest = put(&mut log, fin + 1, &suffix);
    let mut replay = log.replayed(fin);
    let Some(both) = look(&mut replay, latest, &log) else { return };
    let sooner = look(&mut log.replayed(fin), fin, &log).expect("a part of what can be looked at");
    replay.advance(block(latest), &log.upto(latest)).unwrap();
    let later = look(&mut replay, latest, &log).expect("what could be looked at");
    let (both, sooner, eventually) = (allowed(&both), allowed(&sooner), allowed(&later));
    assert!(both.is_subset(&sooner), "not final yet, and allowed: {:?}", both.difference(&sooner));
    assert!(both.is_subset(&eventually), "denied in the end, and allowed: {:?}", both.difference(&eventually));

    let kind = if added.what + 1 == SORTS { raw_kind(&added) } else { entry(&added).1.kind() };
    if [Kind::UNLOCK, Kind::RESTORE, Kind::REMOVE].contains(&kind) {
        return;
    }
    let last = put(&mut log, latest + 1, &[added]);
    let Some(after) = look(&mut replay, last, &log) else { return };
    let now = denied(&after);
    for fact in denied(&later).difference(&now) {
        // A user who still waited is not shown any more where what was added voids the addition.
        let is_shown = |id: &str| after.users.contains_key(&id.parse::<Id>().unwrap());
        assert!(fact.strip_prefix("user ").is_some_and(|id| !is_shown(id)), "denied no more: {fact}");
    }
}

fn op(bytes: &[u8]) -> Op {
    let bend = (bytes[4] != 0).then_some((u16::from(bytes[3]), bytes[4]));
    Op {
        step: u64::from(bytes[0] >> 6),
        actor: usize::from(bytes[0] & 0x3f) % ACTORS.len(),
        what: bytes[1] % SORTS,
        a: bytes[2] & 3,
        b: bytes[2] >> 2 & 3,
        bend,
    }
}

/// As [`write`], and one more sort: any kind by anybody in its shard, with next to nothing in it.
fn put(log: &mut Log, from: u64, ops: &[Op]) -> u64 {
    let mut last = from;
    for op in ops {
        if op.what + 1 == SORTS {
            last += op.step;
            let kind = raw_kind(op);
            let class = shard::class_of_kind(kind).map_or(1, u64::from);
            let data = [0, op.a, op.b][..usize::from(op.a)].to_vec();
            log.add_raw(last, ACTORS[op.actor], kind, class << 32, data.into());
        } else {
            last = write(log, last, std::slice::from_ref(op));
        }
    }
    last
}

fn raw_kind(op: &Op) -> Kind {
    op.bend.map_or(Kind(u16::from(op.a) << 8 | 0x80), |(low, high)| Kind(u16::from(high & 0x1f) << 8 | low))
}

/// None where the log holds a critical entry that this version does not know.
fn look(replay: &mut Replay, latest: u64, log: &Log) -> Option<Effective> {
    match replay.effective(block(latest), &log.upto(latest)) {
        Ok(view) => Some(view),
        Err(ReplayError::UpgradeNeeded { .. }) => None,
        Err(error) => panic!("a replay has stopped: {error}"),
    }
}

/// Histories of everything once, and of much about little.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let each = |about: u8| {
        let ops = (about..SORTS - 1).step_by(2).flat_map(move |what| [0x40 | what % 9, what, about * 5, 0, 0]);
        std::iter::once(about * 10).chain(ops).collect::<Vec<u8>>()
    };
    let mut number = 1_u32;
    let mut next = move || {
        // Numerical Recipes' generator: seeds are the same for everybody.
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (number >> 24) as u8
    };
    let mut mixed = || {
        let mut seed = vec![next()];
        for _ in 0..MOST_OPS {
            seed.extend([next(), next(), next(), 0, 0]);
        }
        seed
    };
    [0, 1].map(each).into_iter().chain((0..12).map(|_| mixed())).collect()
}
