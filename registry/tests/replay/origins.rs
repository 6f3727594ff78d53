//! Which entry everything that is denied comes from: final, pending, taken back by a reorg, and lifted.

use countersign_registry::entries::{Entry, Kind, Roles, Targets, payload};
use countersign_registry::head::PlacedEntry;
use countersign_registry::origins::Denied;
use countersign_registry::realm::{BatchState, EntryRef};
use countersign_registry::{B256, Effective, Fingerprint20, Id, Replay};

use crate::support::{ADMIN, ISSUER, Log, REVOKER, ROOTS, block, cast};

/// The entry that is shown for it.
fn origin(view: &Effective, denied: Denied) -> Option<EntryRef> {
    view.origins.denials().find(|(of, _)| *of == denied).map(|(_, at)| at)
}

/// What denies one thing each.
fn denials(log: &mut Log) -> Vec<(Denied, Entry)> {
    let (alice, host) = (log.user(2, ADMIN, "alice"), log.host(2, ADMIN, "h"));
    let ca = log.ca(3, 1, &[ISSUER]);
    let (batch, _) = log.batch(4, ISSUER, ca, 1);
    let (first, second) = (Fingerprint20([1; 20]), Fingerprint20([2; 20]));
    let serials = vec![5, 6, u64::MAX];
    vec![
        (Denied::Locked(alice), Entry::Lock(Targets::Users(vec![alice]))),
        (Denied::Locked(host), Entry::Lock(Targets::Hosts(vec![host]))),
        (Denied::Locked(batch), Entry::Lock(Targets::Batches(vec![batch]))),
        (Denied::LockedKey(first), Entry::Lock(Targets::Keys(vec![second, first]))),
        (Denied::RevokedKey(first), Entry::Revoke(Targets::Keys(vec![first]))),
        (Denied::Revoked(ca), Entry::Revoke(Targets::Cas(vec![ca]))),
        (Denied::Retired(ca), Entry::CaRetire(vec![ca])),
        (Denied::Serial(ca, 6), Entry::CertRevoke { ca, serials }),
        (Denied::Issuer(ISSUER), Entry::Lock(Targets::Actors(vec![ISSUER]))),
        (
            Denied::Issuer(ISSUER),
            Entry::RoleSet(payload::RoleSet { actor: ISSUER, roles: Roles::WATCHDOG, x25519: B256::ZERO }),
        ),
        (Denied::Removed(host), Entry::Remove(vec![host])),
        (Denied::Removed(Id([9; 16])), Entry::Remove(vec![Id([9; 16])])),
    ]
}

fn write(log: &mut Log, number: u64, entry: &Entry) -> PlacedEntry {
    let by_roots = matches!(entry, Entry::Revoke(_) | Entry::RoleSet(_) | Entry::Remove(_));
    log.add(number, if by_roots { ROOTS } else { REVOKER }, entry)
}

#[test]
fn every_sort_of_denial_names_its_entry_be_it_final_pending_or_taken_back_by_a_reorg() {
    let mut before = cast();
    for (denied, entry) in denials(&mut before) {
        let quiet = before.replayed(5);
        assert_eq!(origin(&quiet.clone().effective(block(5), &[]).unwrap(), denied), None, "{denied:?}");
        let mut log = before.clone();
        let at = write(&mut log, 10, &entry).at;
        let mut replay = quiet.clone();
        for _ in 0..2 {
            let latest = replay.effective(block(12), &log.upto(12)).unwrap();
            assert_eq!(origin(&latest, denied), Some(at), "{denied:?}, seen in the latest view");
        }
        let mut replay: Replay = postcard::from_bytes(&postcard::to_stdvec(&replay).unwrap()).unwrap();
        let without = replay.effective(block(13), &[]).unwrap();
        assert_eq!(origin(&without, denied), Some(at), "{denied:?}, taken back, and after a restart");
        replay.advance(block(12), &log.upto(12)).unwrap();
        let mut replay: Replay = postcard::from_bytes(&postcard::to_stdvec(&replay).unwrap()).unwrap();
        let last = replay.effective(block(12), &[]).unwrap();
        assert_eq!(origin(&last, denied), Some(at), "{denied:?}, final");
        if denied == Denied::Issuer(ISSUER) {
            assert!(last.batches.values().all(|batch| batch.state == BatchState::IssuerLostRole));
        }
        assert_eq!(last, log.views(12, 12), "{denied:?}, whatever the way there");
    }
}

#[test]
fn the_latest_lock_is_named_the_first_retirement_and_nothing_that_was_lifted() {
    let mut log = cast();
    let (alice, ca) = (log.user(2, ADMIN, "alice"), log.ca(3, 1, &[ISSUER]));
    let lock = Entry::Lock(Targets::Users(vec![alice]));
    let retire = Entry::CaRetire(vec![ca]);
    write(&mut log, 5, &lock);
    let first = write(&mut log, 5, &retire).at;
    let second = write(&mut log, 6, &lock).at;
    write(&mut log, 7, &retire);
    for fin in [4, 5, 6, 7] {
        let view = log.views(fin, 7);
        assert_eq!(origin(&view, Denied::Locked(alice)), Some(second), "{fin}");
        if fin > 4 {
            assert_eq!(origin(&view, Denied::Retired(ca)), Some(first), "{fin}");
        }
    }
    log.add(8, ROOTS, &Entry::Unlock(Targets::Users(vec![alice])));
    assert_eq!(origin(&log.views(8, 8), Denied::Locked(alice)), None);
    let (login, uid) = ("alice", log.views(8, 8).users[&alice].uid);
    let removed = log.add(9, ADMIN, &Entry::Remove(vec![alice])).at;
    assert_eq!(origin(&log.views(9, 9), Denied::Removed(alice)), Some(removed));
    log.restore(10, Kind::USER_ADD, alice, login, uid);
    assert_eq!(origin(&log.views(10, 10), Denied::Removed(alice)), None);
}

#[test]
fn serials_of_forgotten_shards_are_forgotten_with_their_entries() {
    let mut log = cast();
    let ca = log.ca(2, 1, &[ISSUER]);
    let at = write(&mut log, 4, &Entry::CertRevoke { ca, serials: vec![1, 2] }).at;
    let mut replay = log.replayed(5);
    let full = postcard::to_stdvec(&replay).unwrap().len();
    replay.retain_shards(|shard| shard != at.shard);
    let view = replay.effective(block(5), &[]).unwrap();
    assert_eq!(origin(&view, Denied::Serial(ca, 1)), None);
    assert!(view.revoked_serials.is_empty() && postcard::to_stdvec(&replay).unwrap().len() < full);
    replay.advance(block(6), &log.upto(6)).unwrap();
    assert_eq!(origin(&replay.effective(block(6), &[]).unwrap(), Denied::Serial(ca, 2)), Some(at));
}
