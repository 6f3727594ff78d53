//! A history over two realms and more (`docs/spec/migration.md`).

use std::collections::BTreeMap;

use countersign_registry::entries::{Entry, Kind, Roles, Targets, payload};
use countersign_registry::head::{Meta, PlacedEntry};
use countersign_registry::migration::{
    Cut, Heads, MAX_LEGS, Move, MoveError, Place, check_move, in_chain, in_leg, leg_of,
};
use countersign_registry::origins::Denied;
use countersign_registry::realm::{BlockRef, CaState, EntryRef, State, Waiting};
use countersign_registry::replay::{IgnoreReason, LegError, ReplayError};
use countersign_registry::{Address, B256, Effective, Fingerprint20, Id, RealmPin, Replay, U256, shard, sign};
use proptest::prelude::*;

use crate::properties::{Op, allowed, denied, entry, ops, write};
use crate::support::*;

const TARGET: B256 = B256::repeat_byte(0xdd);
const THIRD: B256 = B256::repeat_byte(0xcc);

fn pin(realm: B256) -> RealmPin {
    RealmPin {
        chain_id: 5,
        contract: Address::repeat_byte(9),
        code_hash: B256::repeat_byte(8),
        realm,
        threshold: 1,
        roots: vec![Address::repeat_byte(7)],
        salt: B256::ZERO,
        deployed_block: 1,
        genesis_hash: B256::repeat_byte(6),
    }
}

/// How many entries of each shard a log has up to a block.
fn cut(log: &Log, until: u64) -> Cut {
    let mut entries = BTreeMap::new();
    for placed in log.upto(until) {
        *entries.entry(placed.at.shard).or_default() += 1;
    }
    Cut { entries }
}

/// A move from one realm to another, as both sides say; slots stand for their counts.
fn step(from: B256, to: B256, cut: &Cut, block: u64) -> Move {
    let heads = Heads { block, slots: cut.entries.iter().map(|(shard, n)| (*shard, U256::from(*n + 1))).collect() };
    let (source, target) = (pin(from), pin(to));
    let migrate = payload::Migrate::new(&Place::from(&target), &heads);
    check_move(&source, &migrate, &target, &payload::Migrated::new(&Place::from(&source), &heads)).unwrap()
}

fn migrated(step: &Move) -> Entry {
    Entry::Migrated(payload::Migrated::new(step.source(), step.heads()))
}

fn migrate(step: &Move) -> Entry {
    Entry::Migrate(payload::Migrate::new(step.target(), step.heads()))
}

/// The source's log up to its heads, and a target's log that begins with its MIGRATED in block 1.
struct Journey {
    source: Log,
    heads_at: u64,
    step: Move,
    target: Log,
}

impl Journey {
    fn new(source: Log, heads_at: u64) -> Self {
        let step = step(REALM, TARGET, &cut(&source, heads_at), heads_at);
        let mut target = Log::default();
        target.add(1, ROOTS, &migrated(&step));
        Self { source, heads_at, step, target }
    }

    /// At the heads.
    fn at_heads(&self) -> Replay {
        self.source.replayed(self.heads_at)
    }

    /// On the target, which is read up to `fin`.
    fn arrived(&self, fin: u64) -> Replay {
        let mut replay = self.at_heads();
        replay.begin_leg(&self.step, &cut(&self.source, self.heads_at)).unwrap();
        let entries: Vec<PlacedEntry> = self.target.upto(fin).iter().map(|placed| replay.place(placed)).collect();
        replay.advance(replay.block(block(fin)), &entries).unwrap();
        replay
    }

    /// Takes what the source has beyond the heads.
    fn late(&self, replay: &mut Replay, fin: u64) {
        let block = BlockRef { number: in_leg(0, fin), time: time(fin) };
        replay.advance_source(0, block, &self.beyond(fin)).unwrap();
    }

    fn beyond(&self, until: u64) -> Vec<PlacedEntry> {
        self.source.upto(until)
    }

    fn last(&self) -> u64 {
        self.target.entries.iter().map(|placed| placed.at.block).max().unwrap()
    }

    fn done(&self) -> Effective {
        look(&mut self.arrived(self.last()))
    }

    /// With everything that is final on the source.
    fn with_late(&self) -> Effective {
        let mut replay = self.arrived(self.last());
        self.late(&mut replay, 1000);
        look(&mut replay)
    }
}

fn look(replay: &mut Replay) -> Effective {
    let block = replay.final_block();
    replay.effective(block, &[]).unwrap()
}

/// A user with a key and a grant, a CA, a batch, all before block 10.
fn furnished() -> (Log, Id, Id, Id) {
    let mut log = cast();
    let alice = log.user(3, ADMIN, "alice");
    log.key(4, ADMIN, alice, 0x11);
    let grant = log.grant(4, ADMIN, grant("g", alice));
    let ca = log.ca(4, 0x22, &[ISSUER]);
    log.batch(6, ISSUER, ca, 0x33);
    (log, alice, grant, ca)
}

#[test]
fn what_held_on_the_source_holds_on_the_target_and_ids_uids_and_batches_stay() {
    let (source, alice, grant, ca) = furnished();
    let before = source.views(9, 9);
    let mut journey = Journey::new(source, 9);
    let after = journey.done();
    assert_eq!(after.realm, TARGET);
    assert_eq!(allowed(&after), allowed(&before));
    assert_eq!((&after.users, &after.grants, &after.batches), (&before.users, &before.grants, &before.batches));
    let batch = after.batches.values().next().unwrap();
    assert_eq!((after.realm_of(batch.at.block), after.realm_of(after.newest.unwrap().block)), (REALM, TARGET));
    // And goes on there.
    let bob = journey.target.user(2, ADMIN, "bob");
    journey.target.user(3, ADMIN, "alice");
    let (batch, _) = journey.target.batch(3, ISSUER, ca, 0x34);
    let later = journey.done();
    assert_eq!(later.users[&bob].uid, later.users[&alice].uid + 1);
    assert_eq!(later.users[&bob].at, EntryRef { block: in_leg(1, 2), index: 3, ..later.users[&bob].at });
    assert_eq!(later.ignored.last().unwrap().reason, IgnoreReason::DuplicateId);
    assert!(later.grants.contains_key(&grant) && later.batches.contains_key(&batch));
    assert_eq!(later.batches.len(), 2);
}

#[test]
fn hashes_name_the_realm_in_which_an_entry_was_written() {
    let (mut source, alice, ..) = furnished();
    source.bind(7, ADMIN, ALICE, alice);
    let old = source.request(8, ALICE, alice, Id([1; 16]));
    let mut journey = Journey::new(source.clone(), 9);
    let placed = journey.target.add(2, ISSUER, &Entry::Batch(payload::Batch { size: 1, ..Default::default() }));
    let new = journey.target.request(3, ALICE, alice, Id([1; 16]));
    let view = journey.done();
    assert_eq!(view.requests[&old].approval_hash, source.views(9, 9).requests[&old].approval_hash);
    assert_ne!(view.requests[&old].approval_hash, view.requests[&new].approval_hash);
    let id = sign::record_id(Kind::BATCH, ISSUER, [0; 16]);
    assert_eq!(view.batches[&id].entry_hash, sign::entry_hash(TARGET, &placed.entry));
}

#[test]
fn a_lock_before_the_heads_is_lifted_by_an_unlock_on_the_target_and_one_after_them_is_not() {
    let (mut source, alice, ..) = furnished();
    source.lock(8, Targets::Users(vec![alice]));
    let key = Fingerprint20([5; 20]);
    source.lock(20, Targets::Keys(vec![key]));
    let mut journey = Journey::new(source, 9);
    assert_eq!(journey.done().users[&alice].state, State::Locked);
    journey.target.add(2, ROOTS, &Entry::Unlock(Targets::Users(vec![alice])));
    journey.target.add(2, ROOTS, &Entry::Unlock(Targets::Keys(vec![key])));
    let view = journey.with_late();
    assert_eq!(view.users[&alice].state, State::Active);
    assert!(view.locked_keys.contains(&key));
    // Nor whichever of the two is read first.
    let mut replay = journey.at_heads();
    replay.begin_leg(&journey.step, &cut(&journey.source, 9)).unwrap();
    journey.late(&mut replay, 30);
    let entries: Vec<PlacedEntry> = journey.target.upto(9).iter().map(|placed| replay.place(placed)).collect();
    replay.advance(replay.block(block(9)), &entries).unwrap();
    assert!(look(&mut replay).locked_keys.contains(&key));
}

#[test]
fn every_denial_on_the_source_after_the_heads_counts_on_the_target() {
    let (mut source, alice, grant_id, ca) = furnished();
    let host = source.host(5, ADMIN, "h");
    let second = source.ca(5, 0x44, &[ISSUER]);
    let third = source.ca(5, 0x45, &[ISSUER]);
    let (batch, _) = source.batch(7, ISSUER, second, 0x55);
    let key = Fingerprint20([5; 20]);
    let journey = |late: &dyn Fn(&mut Log)| {
        let mut source = source.clone();
        late(&mut source);
        Journey::new(source, 9).with_late()
    };
    let quiet = journey(&|_| ());
    assert_eq!(quiet.users[&alice].state, State::Active);
    let view = journey(&|log| {
        log.lock(20, Targets::Users(vec![alice]));
        log.lock(20, Targets::Hosts(vec![host]));
        log.lock(20, Targets::Keys(vec![key]));
        log.lock(20, Targets::Actors(vec![ADMIN]));
        log.lock(20, Targets::Batches(vec![batch]));
        log.lock(21, Targets::Cas(vec![ca]));
        log.add(21, REVOKER, &Entry::CaRetire(vec![second]));
        log.add(22, REVOKER, &Entry::SettingsTighten(settings(&[(2, 60)])));
        log.add(22, REVOKER, &Entry::CertRevoke { ca, serials: vec![77] });
        log.add(22, REVOKER, &Entry::CaTighten(limits(third, 30)));
        log.remove(23, ADMIN_2, grant_id);
    });
    assert_eq!((view.users[&alice].state, view.hosts[&host].state), (State::Locked, State::Locked));
    assert!(view.locked_keys.contains(&key) && view.locked_batches.contains(&batch));
    assert!(view.actors[&ADMIN].locked && view.actors[&ADMIN].roles == 0);
    assert_eq!((view.cas[&ca].state, view.cas[&second].state), (CaState::Locked, CaState::Retired { at: time(21) }));
    assert_eq!((view.settings.max_ttl, view.cas[&third].limits.max_ttl), (60, 30));
    assert!(view.revoked_serials[&ca].contains(&77));
    let blocks = |denied: Denied| view.origins.denials().find(|(of, _)| *of == denied).map(|(_, at)| at.block);
    let denied = [Denied::Locked(alice), Denied::Retired(second), Denied::Serial(ca, 77), Denied::Removed(grant_id)];
    assert_eq!(denied.map(blocks), [20, 21, 22, 23].map(Some), "the source's");
    assert!(!view.grants.contains_key(&grant_id) && quiet.grants.contains_key(&grant_id));
    let view = journey(&|log| {
        log.add(20, ROOTS, &Entry::Revoke(Targets::Users(vec![alice])));
        log.add(20, ROOTS, &Entry::Revoke(Targets::Keys(vec![key])));
    });
    assert_eq!(view.users[&alice].state, State::Revoked);
    assert!(view.revoked_keys.contains(&key));
}

fn limits(ca: Id, max_ttl: u64) -> payload::CaLimits {
    payload::CaLimits { ca: ca.0.into(), maxTtl: max_ttl, logins: vec![], issuers: vec![ISSUER] }
}

#[test]
fn nothing_but_denials_counts_on_the_source_after_the_heads() {
    let (mut source, alice, _, ca) = furnished();
    let before = source.views(9, 9);
    source.lock(8, Targets::Keys(vec![Fingerprint20([5; 20])]));
    source.add(20, ROOTS, &Entry::Unlock(Targets::Keys(vec![Fingerprint20([5; 20])])));
    source.role(20, DEVICE, Roles::ADMIN);
    source.role(20, ISSUER, 0);
    source.settings(20, &[(2, 90_000)]);
    let mallory = source.user(21, ADMIN, "mallory");
    source.grant(22, ADMIN, grant("late", alice));
    source.ca(22, 0x66, &[ISSUER]);
    source.batch(22, ISSUER, ca, 0x67);
    source.add(22, ROOTS, &Entry::CaLoosen(limits(ca, 9000)));
    source.add(23, ROOTS, &migrate(&step(REALM, THIRD, &cut(&source, 8), 8)));
    let journey = Journey::new(source, 9);
    let view = journey.with_late();
    assert_eq!(allowed(&view), allowed(&before));
    assert!(view.locked_keys.contains(&Fingerprint20([5; 20])) && !view.users.contains_key(&mallory));
    assert_eq!((view.settings.max_ttl, view.batches.len(), view.cas[&ca].limits.max_ttl), (86_400, 1, 600));
    let ignored: Vec<IgnoreReason> = view.ignored.iter().map(|ignored| ignored.reason).collect();
    assert_eq!(ignored, vec![IgnoreReason::Migrated; ignored.len()]);
    assert!(ignored.len() >= 6);
}

#[test]
fn a_late_denial_by_somebody_who_may_not_is_ignored() {
    let (mut source, alice, _, ca) = furnished();
    // Governance that is not the roots', and an issuer of another CA: the contract would not take the first.
    source.add(20, REVOKER, &Entry::Revoke(Targets::Users(vec![alice])));
    source.add(20, WATCHDOG, &Entry::CertRevoke { ca, serials: vec![7] });
    let view = Journey::new(source, 9).with_late();
    assert_eq!(view.users[&alice].state, State::Active);
    assert!(view.revoked_serials.is_empty());
    let reasons: Vec<IgnoreReason> = view.ignored.iter().map(|ignored| ignored.reason).collect();
    assert_eq!(reasons, [IgnoreReason::NoRole, IgnoreReason::IssuerNotListed]);
}

#[test]
fn late_denials_are_lifted_where_they_were_written_and_only_those() {
    let (mut source, alice, grant_id, ca) = furnished();
    let bob = source.user(5, ADMIN, "bob");
    source.lock(8, Targets::Users(vec![bob]));
    source.lock(20, Targets::Users(vec![alice, bob]));
    source.lock(21, Targets::Actors(vec![ADMIN]));
    source.add(21, REVOKER, &Entry::SettingsTighten(settings(&[(2, 60), (4, 30)])));
    source.add(21, REVOKER, &Entry::CaTighten(limits(ca, 1)));
    source.remove(21, ADMIN_2, alice);
    source.remove(21, ADMIN_2, grant_id);
    let journey = |log: &Log| Journey::new(log.clone(), 9).with_late();
    assert!(!journey(&source).users.contains_key(&alice));
    // In the block of a lock the lock wins.
    source.add(21, ROOTS, &Entry::Unlock(Targets::Actors(vec![ADMIN])));
    assert!(journey(&source).actors[&ADMIN].locked);
    source.add(22, ROOTS, &Entry::Unlock(Targets::Actors(vec![ADMIN])));
    source.add(22, ROOTS, &Entry::Unlock(Targets::Users(vec![alice, bob])));
    source.restore(22, Kind::USER_ADD, alice, "alice", 1_900_000_000);
    source.settings(22, &[(2, 86_400)]);
    source.add(22, ROOTS, &Entry::CaLoosen(limits(ca, 600)));
    let view = journey(&source);
    assert_eq!(view.users[&alice].state, State::Active);
    assert_eq!(view.users[&bob].state, State::Locked, "locked before the heads");
    assert!(!view.actors[&ADMIN].locked && !view.grants.contains_key(&grant_id));
    assert_eq!((view.settings.max_ttl, view.settings.max_staleness, view.cas[&ca].limits.max_ttl), (86_400, 30, 600));
}

#[test]
fn a_lift_on_the_source_counts_only_when_final_and_a_denial_at_once_and_through_a_reorg() {
    let (mut source, alice, ..) = furnished();
    source.lock(20, Targets::Users(vec![alice]));
    let locked = source.clone();
    source.add(30, ROOTS, &Entry::Unlock(Targets::Users(vec![alice])));
    let state = |replay: &mut Replay| look(replay).users[&alice].state;
    let journey = Journey::new(source, 9);
    let mut replay = journey.arrived(5);
    assert_eq!(state(&mut replay), State::Active);
    replay.see_source(0, block(25), &locked.upto(25)).unwrap();
    assert_eq!(state(&mut replay), State::Locked);
    // Another history of the source without it: pending for 64 blocks.
    replay.see_source(0, block(26), &journey.source.upto(9)).unwrap();
    assert_eq!(state(&mut replay), State::Locked);
    let mut reorged = replay.clone();
    reorged.advance_source(0, block(83), &journey.source.upto(9)).unwrap();
    assert_eq!(state(&mut reorged), State::Locked);
    reorged.advance_source(0, block(84), &journey.source.upto(9)).unwrap();
    assert_eq!(state(&mut reorged), State::Active);
    // It becomes final; the unlock is not.
    replay.advance_source(0, block(29), &locked.upto(29)).unwrap();
    replay.see_source(0, block(31), &journey.source.upto(31)).unwrap();
    assert_eq!(state(&mut replay), State::Locked);
    replay.advance_source(0, block(31), &journey.source.upto(31)).unwrap();
    assert_eq!(state(&mut replay), State::Active);
}

#[test]
fn what_the_source_is_read_to_survives_a_restart_and_is_not_read_twice() {
    let (mut source, alice, ..) = furnished();
    source.lock(20, Targets::Users(vec![alice]));
    let journey = Journey::new(source, 9);
    let mut replay = journey.arrived(5);
    assert_eq!((replay.source_index(0, shard::DENIALS), replay.source_index(0, shard::DIRECTORY)), (0, 3));
    journey.late(&mut replay, 25);
    let mut restarted: Replay = postcard::from_bytes(&postcard::to_stdvec(&replay).unwrap()).unwrap();
    assert_eq!(restarted.source_index(0, shard::DENIALS), 1);
    assert_eq!(look(&mut restarted), look(&mut replay));
    let back = restarted.advance_source(0, block(24), &[]);
    assert_eq!(back, Err(ReplayError::Backwards { expected: 25, got: 24 }));
    assert_eq!(restarted.advance_source(1, block(30), &[]), Err(ReplayError::NoSuchLeg { leg: 1 }));
    let mut gap = Log::default();
    gap.lock(40, Targets::Users(vec![alice]));
    let mut skipped = gap.entries.remove(0);
    skipped.at.index = 5;
    let error = restarted.advance_source(0, block(41), &[skipped]).unwrap_err();
    assert_eq!(error, ReplayError::Gap { shard: shard::DENIALS, expected: 1, got: 5 });
}

#[test]
fn an_admin_that_is_locked_on_the_source_adds_nothing_more_on_the_target() {
    let (mut source, ..) = furnished();
    source.lock(20, Targets::Actors(vec![ADMIN]));
    source.add(30, ROOTS, &Entry::Unlock(Targets::Actors(vec![ADMIN])));
    let mut journey = Journey::new(source, 9);
    let early = journey.target.user(2, ADMIN, "early");
    let late = journey.target.user(8, ADMIN, "late");
    let mut replay = journey.arrived(5);
    journey.late(&mut replay, 25);
    let entries: Vec<PlacedEntry> = journey.target.upto(9).iter().map(|placed| replay.place(placed)).collect();
    replay.advance(replay.block(block(9)), &entries).unwrap();
    let view = look(&mut replay);
    assert!(view.users.contains_key(&early) && !view.users.contains_key(&late));
    journey.late(&mut replay, 35);
    assert!(look(&mut replay).users.contains_key(&late));
}

#[test]
fn a_leg_begins_at_exactly_the_heads() {
    let (mut source, ..) = furnished();
    source.user(12, ADMIN, "late");
    let journey = Journey::new(source.clone(), 9);
    let counts = cut(&source, 9);
    // Read beyond, not far enough, and a shard that the heads do not name.
    let beyond = source.replayed(12).begin_leg(&journey.step, &counts).unwrap_err();
    assert_eq!(beyond, LegError::NotAtHeads { shard: shard::DIRECTORY, expected: 3, got: 4 });
    assert_eq!(beyond.reason(), "migrate-heads-unreached");
    let short = source.replayed(3).begin_leg(&journey.step, &counts).unwrap_err();
    assert!(matches!(short, LegError::NotAtHeads { .. }));
    let mut unnamed = counts.clone();
    unnamed.entries.remove(&shard::DIRECTORY);
    let error = source.replayed(9).begin_leg(&step(REALM, TARGET, &unnamed, 9), &unnamed).unwrap_err();
    assert_eq!(error, LegError::NotAtHeads { shard: shard::DIRECTORY, expected: 0, got: 3 });
    // Only the MIGRATE itself may stand after the head of shard 0.
    let mut said = source.upto(9).into_iter().fold(Log::default(), |mut log, placed| {
        log.add_raw(
            placed.at.block,
            placed.entry.actor,
            Meta::unpack(placed.entry.meta).unwrap().kind,
            placed.at.shard,
            placed.entry.data,
        );
        log
    });
    said.add(11, ROOTS, &migrate(&journey.step));
    let mut replay = said.replayed(11);
    assert_eq!(replay.migrate().unwrap().0, payload::Migrate::new(journey.step.target(), journey.step.heads()));
    assert_eq!(replay.begin_leg(&journey.step, &counts), Ok(()));
    assert_eq!((replay.leg(), replay.local_index(shard::GOVERNANCE)), (1, 0));
    said.role(12, DEVICE, Roles::ADMIN);
    assert!(matches!(said.replayed(12).begin_leg(&journey.step, &counts), Err(LegError::NotAtHeads { shard: 0, .. })));
}

#[test]
fn day_shards_that_the_heads_do_not_name_are_left_behind() {
    let (mut source, alice, ..) = furnished();
    source.bind(7, ADMIN, ALICE, alice);
    source.request(8, ALICE, alice, Id([1; 16]));
    let mut counts = cut(&source, 9);
    let day = shard::shard(shard::CLASS_BATCHES, shard::day(time(6)));
    assert_eq!(counts.entries.remove(&day), Some(1));
    let step = step(REALM, TARGET, &counts, 9);
    let mut target = Log::default();
    target.add(1, ROOTS, &migrated(&step));
    let ca = sign::record_id(Kind::CA_ADD, ROOTS, [0x22; 16]);
    let (batch, _) = target.batch(2, ISSUER, ca, 0x99);
    let mut replay = source.replayed(9);
    replay.begin_leg(&step, &counts).unwrap();
    let entries: Vec<PlacedEntry> = target.upto(3).iter().map(|placed| replay.place(placed)).collect();
    replay.advance(replay.block(block(3)), &entries).unwrap();
    let view = look(&mut replay);
    assert_eq!(view.batches.keys().collect::<Vec<_>>(), [&batch]);
    assert_eq!(view.requests.len(), 1);
    // One that is dropped and wanted again is read from the target's first entry on.
    replay.retain_shards(|_| false);
    assert_eq!((replay.local_index(day), look(&mut replay).requests.len()), (0, 0));
    let members = shard::shard(shard::CLASS_MEMBERS, shard::day(time(8)));
    assert_eq!((replay.local_index(members), replay.next_index(members)), (0, 1));
}

#[test]
fn nothing_is_published_before_the_targets_first_entry_is_the_migrated_of_the_move() {
    let (source, ..) = furnished();
    let journey = Journey::new(source, 9);
    let begun = || {
        let mut replay = journey.at_heads();
        replay.begin_leg(&journey.step, &cut(&journey.source, 9)).unwrap();
        replay
    };
    let view = |mut replay: Replay, log: &Log| {
        let entries: Vec<PlacedEntry> = log.entries.iter().map(|placed| replay.place(placed)).collect();
        replay.advance(replay.block(block(50)), &entries).unwrap();
        let now = replay.final_block();
        replay.effective(now, &[])
    };
    let refusal = ReplayError::NotArrived { realm: TARGET };
    let not_arrived = Err(refusal);
    let mut first = Log::default();
    assert_eq!(view(begun(), &first), not_arrived, "nothing is there");
    first.role(1, ADMIN, Roles::ADMIN);
    assert_eq!(view(begun(), &first), not_arrived, "another entry");
    first.add(2, ROOTS, &migrated(&journey.step));
    assert_eq!(view(begun(), &first), not_arrived, "not the first");
    let mut other = Log::default();
    other.add(1, ROOTS, &migrated(&step(REALM, TARGET, &cut(&journey.source, 8), 8)));
    assert_eq!(view(begun(), &other), not_arrived, "other heads");
    let mut stranger = Log::default();
    stranger.add(1, ADMIN, &migrated(&journey.step));
    assert_eq!(view(begun(), &stranger), not_arrived, "not by the roots");
    let mut garbled = Log::default();
    garbled.add_raw(1, ROOTS, Kind::MIGRATED, 0, vec![0, 1].into());
    assert!(matches!(view(begun(), &garbled), Err(ReplayError::UpgradeNeeded { .. })));
    // In the latest view it is not there yet.
    let mut replay = begun();
    let suffix: Vec<PlacedEntry> = journey.target.upto(1).iter().map(|placed| replay.place(placed)).collect();
    assert_eq!(replay.effective(replay.block(block(3)), &suffix).unwrap_err(), refusal);
    // A second one later is ignored.
    let mut twice = journey.target.clone();
    twice.add(2, ROOTS, &migrated(&journey.step));
    let view = view(begun(), &twice).unwrap();
    assert_eq!(view.ignored.last().unwrap().reason, IgnoreReason::NotFirst);
}

#[test]
fn a_realm_that_comes_from_another_is_not_published_without_it() {
    let (source, ..) = furnished();
    let journey = Journey::new(source, 9);
    let mut replay = Replay::new(TARGET);
    replay.advance(block(9), &journey.target.upto(9)).unwrap();
    let at = journey.target.entries[0].at;
    assert_eq!(replay.effective(block(9), &[]).unwrap_err(), ReplayError::PredecessorNeeded { at });
}

#[test]
fn a_final_migrate_ends_publishing_and_one_of_the_latest_view_does_not() {
    let (mut source, ..) = furnished();
    let before = source.views(9, 12);
    let to = step(REALM, TARGET, &cut(&source, 9), 9);
    let at = source.add(11, ROOTS, &migrate(&to)).at;
    let mut replay = source.replayed(10);
    assert_eq!(allowed(&replay.effective(block(12), &source.upto(12)).unwrap()), allowed(&before));
    assert_eq!(replay.migrate(), None);
    replay.advance(block(11), &source.upto(11)).unwrap();
    let error = replay.effective(block(12), &[]).unwrap_err();
    let expected = ReplayError::Migrated { at, chain_id: 5, contract: Address::repeat_byte(9), realm: TARGET };
    assert_eq!(error, expected);
    assert!(error.to_string().starts_with("migrated: entry "), "{error}");
    // The first counts; the roots cannot say otherwise later.
    source.add(12, ROOTS, &migrate(&step(REALM, THIRD, &cut(&source, 9), 9)));
    replay.advance(block(12), &source.upto(12)).unwrap();
    assert_eq!(replay.effective(block(12), &[]).unwrap_err(), expected);
}

#[test]
fn a_migrate_that_is_not_the_roots_moves_nobody_and_one_that_cannot_be_read_stops_everybody() {
    let (source, ..) = furnished();
    let to = step(REALM, TARGET, &cut(&source, 9), 9);
    let mut stranger = source.clone();
    stranger.add(11, ADMIN, &migrate(&to));
    let view = stranger.views(12, 12);
    assert_eq!(view.ignored.last().unwrap().reason, IgnoreReason::NoRole);
    let mut garbled = source.clone();
    let heads = Heads { block: 9, slots: [(0, U256::ZERO)].into() };
    let none = payload::Migrate::new(to.target(), &heads);
    garbled.add(11, ROOTS, &Entry::Migrate(none));
    let error = garbled.replayed(10).effective(block(12), &garbled.upto(12)).unwrap_err();
    assert!(matches!(error, ReplayError::UpgradeNeeded { kind: Kind::MIGRATE, .. }));
}

#[test]
fn a_realm_does_not_return_nor_move_for_ever() {
    let (source, ..) = furnished();
    let journey = Journey::new(source, 9);
    let mut replay = journey.arrived(3);
    let back = step(TARGET, REALM, &cut(&journey.target, 3), 3);
    let error = replay.begin_leg(&back, &cut(&journey.target, 3)).unwrap_err();
    assert_eq!(error, LegError::Move(MoveError::Loop { realm: REALM }));
    assert_eq!(error.reason(), "migrate-loop");
    let elsewhere = step(THIRD, B256::repeat_byte(1), &cut(&journey.target, 3), 3);
    let error = replay.begin_leg(&elsewhere, &cut(&journey.target, 3)).unwrap_err();
    assert_eq!(error, LegError::OtherRealm { expected: TARGET, got: THIRD });
    // On and on.
    let mut log = journey.target.clone();
    for number in 1..u8::try_from(MAX_LEGS).unwrap() {
        let (here, next) = (replay.realm(), B256::repeat_byte(number));
        let step = step(here, next, &cut(&log, 3), 3);
        let begun = replay.begin_leg(&step, &cut(&log, 3));
        if usize::from(number) + 1 == MAX_LEGS {
            assert_eq!(begun, Err(LegError::Move(MoveError::TooLong)));
            break;
        }
        begun.unwrap();
        log = Log::default();
        log.add(1, ROOTS, &migrated(&step));
        let entries: Vec<PlacedEntry> = log.upto(3).iter().map(|placed| replay.place(placed)).collect();
        replay.advance(replay.block(block(3)), &entries).unwrap();
        assert_eq!(allowed(&look(&mut replay)), allowed(&journey.done()));
    }
    assert_eq!(replay.legs().len(), MAX_LEGS);
}

#[test]
fn entries_that_were_not_placed_in_their_leg_are_refused() {
    let (source, ..) = furnished();
    let mut journey = Journey::new(source, 9);
    let (ca, day) = (sign::record_id(Kind::CA_ADD, ROOTS, [0x22; 16]), time(6));
    journey.target.batch(2, ISSUER, ca, 0x99);
    let mut replay = journey.arrived(1);
    // As they stand on their own chain, with blocks of the leg before.
    let mut raw = journey.target.entries.clone();
    for placed in &mut raw {
        placed.at.index += 100;
    }
    assert!(matches!(replay.advance(replay.block(block(9)), &raw), Err(ReplayError::Gap { .. })));
    let mut raw: Vec<PlacedEntry> = journey.target.entries.iter().map(|placed| replay.place(placed)).collect();
    for placed in &mut raw {
        placed.at.block = in_chain(placed.at.block);
    }
    let error = replay.advance(replay.block(block(9)), &raw).unwrap_err();
    assert!(matches!(error, ReplayError::OutOfView { .. }), "{error}");
    assert!(matches!(replay.advance(block(9), &[]), Err(ReplayError::Backwards { .. })));
    assert_eq!(shard::day(day), shard::day(time(2)));
}

#[test]
fn two_legs_with_the_same_block_numbers_do_not_mix() {
    let mut source = cast();
    source.role(5, ADMIN, 0);
    let mut journey = Journey::new(source, 9);
    // Block 3 of the source was before the role was lost; block 3 of the target is after it.
    let user = journey.target.user(3, ADMIN, "late");
    journey.target.role(4, ADMIN, Roles::ADMIN);
    let again = journey.target.user(5, ADMIN, "again");
    let view = journey.done();
    assert!(!view.users.contains_key(&user) && view.users.contains_key(&again));
    let at = view.users[&again].at;
    assert_eq!((leg_of(at.block), in_chain(at.block)), (1, 5));
    assert_eq!(view.final_block.number, in_leg(1, 5));
    assert_eq!((leg_of(in_leg(7, u64::MAX)), leg_of(u64::MAX >> 16)), (7, 0));
}

#[test]
fn what_was_read_beyond_the_heads_and_denied_there_stays_denied_when_the_source_is_replayed_again() {
    let (mut source, alice, grant_id, ca) = furnished();
    source.lock(12, Targets::Users(vec![alice]));
    source.lock(12, Targets::Actors(vec![WATCHDOG]));
    source.remove(13, ADMIN, grant_id);
    source.add(13, REVOKER, &Entry::CertRevoke { ca, serials: vec![4] });
    source.add(13, REVOKER, &Entry::CaTighten(limits(ca, 9)));
    source.add(14, ROOTS, &Entry::Revoke(Targets::Keys(vec![Fingerprint20([6; 20])])));
    let key = Fingerprint20([5; 20]);
    let mut before = source.replayed(15);
    let mut tip = source.clone();
    tip.lock(18, Targets::Keys(vec![key]));
    before.effective(block(19), &tip.upto(19)).unwrap();
    let journey = Journey::new(source, 9);
    // The source cannot be read any more.
    let mut replay = journey.at_heads();
    replay.begin_leg(&journey.step, &cut(&journey.source, 9)).unwrap();
    replay.keep_denials_of(&before);
    let entries: Vec<PlacedEntry> = journey.target.upto(9).iter().map(|placed| replay.place(placed)).collect();
    replay.advance(replay.block(block(9)), &entries).unwrap();
    let view = look(&mut replay);
    assert_eq!(view.users[&alice].state, State::Locked);
    assert!(view.actors[&WATCHDOG].locked && !view.grants.contains_key(&grant_id));
    assert!(view.revoked_serials[&ca].contains(&4) && view.locked_keys.contains(&key));
    assert!(view.revoked_keys.contains(&Fingerprint20([6; 20])));
    assert_eq!(view.cas[&ca].limits.max_ttl, 9);
    // Nothing is denied beyond what was.
    let mut same = journey.at_heads();
    same.begin_leg(&journey.step, &cut(&journey.source, 9)).unwrap();
    same.keep_denials_of(&journey.at_heads());
    same.advance(same.block(block(9)), &entries).unwrap();
    assert_eq!(look(&mut same), look(&mut journey.arrived(9)));
}

#[test]
fn denials_of_every_leg_that_was_left_count() {
    let (mut source, alice, ..) = furnished();
    let bob = source.user(5, ADMIN, "bob");
    source.lock(20, Targets::Users(vec![alice]));
    let mut journey = Journey::new(source, 9);
    let mut replay = journey.arrived(3);
    let counts = cut(&journey.target, 3);
    let step = step(TARGET, THIRD, &counts, 3);
    journey.target.lock(7, Targets::Users(vec![bob]));
    replay.begin_leg(&step, &counts).unwrap();
    let mut third = Log::default();
    third.add(1, ROOTS, &migrated(&step));
    third.add(2, ROOTS, &Entry::Unlock(Targets::Users(vec![alice, bob])));
    let entries: Vec<PlacedEntry> = third.upto(3).iter().map(|placed| replay.place(placed)).collect();
    replay.advance(replay.block(block(3)), &entries).unwrap();
    let states = |replay: &mut Replay| {
        let view = look(replay);
        (view.users[&alice].state, view.users[&bob].state)
    };
    assert_eq!(states(&mut replay), (State::Active, State::Active));
    journey.late(&mut replay, 25);
    let entries: Vec<PlacedEntry> = journey.target.upto(9).iter().map(|placed| replay.place_in(1, placed)).collect();
    replay.advance_source(1, BlockRef { number: in_leg(1, 9), time: time(9) }, &entries).unwrap();
    assert_eq!(states(&mut replay), (State::Locked, State::Locked));
}

/// What two histories must agree in, wherever their entries stand.
fn essence(view: &Effective) -> Vec<String> {
    let mut facts: Vec<String> = allowed(view).into_iter().chain(denied(view)).collect();
    facts.extend(view.users.iter().map(|(id, user)| format!("{id} {} {} {:?}", user.login, user.uid, user.labels)));
    facts.extend(view.groups.iter().map(|(id, group)| format!("{id} {} {}", group.name, group.gid)));
    facts.extend(view.batches.iter().map(|(id, batch)| format!("{id} {:?}", batch.state)));
    facts.extend(view.requests.keys().map(|id| format!("request {id}")));
    facts.extend(view.deliveries.iter().map(|(id, delivery)| format!("{id} {}", delivery.payload_kind)));
    // The id of a MEMBER_SET depends on its realm.
    let id = |one: &Waiting| if one.kind == Kind::MEMBER_SET.0 { one.writer.to_string() } else { one.id.to_string() };
    facts.extend(
        view.waiting.iter().map(|one| format!("{} {} {}/{}", id(one), one.kind, one.confirmations, one.quorum)),
    );
    facts.extend(view.removed.keys().map(|id| format!("removed {id}")));
    facts.extend(view.approvals.iter().map(|(id, approvals)| format!("{id} {}", approvals.len())));
    facts.extend(view.refusals.iter().map(|(id, refusals)| format!("{id} no {}", refusals.len())));
    facts.push(format!("{:?}", view.settings));
    facts.sort();
    facts
}

/// A whole log, moved to another realm after a block; blocks there begin at 1 again.
fn split(whole: &Log, after: u64) -> Journey {
    let source = whole.upto(after).into_iter().fold(Log::default(), again(0));
    let journey = Journey::new(source, after);
    let rest: Vec<PlacedEntry> = whole.entries.iter().filter(|placed| placed.at.block > after).cloned().collect();
    let target = rest.into_iter().fold(journey.target, again(after));
    Journey { target, ..journey }
}

fn again(after: u64) -> impl Fn(Log, PlacedEntry) -> Log {
    move |mut log, placed| {
        let kind = Meta::unpack(placed.entry.meta).unwrap().kind;
        log.add_at(
            (placed.at.block - after, placed.at.time),
            placed.entry.actor,
            kind,
            placed.at.shard,
            placed.entry.data,
        );
        log
    }
}

/// Ops that take away, by somebody who may.
fn denials() -> impl Strategy<Value = Vec<Op>> {
    let what = prop_oneof![Just(6_u8), Just(22), Just(24), Just(25), Just(26), Just(27)];
    let op = (what, 0..4_u8, 0..4_u8).prop_map(|(what, a, b)| Op { step: 1, actor: 0, what, a, b, bend: None });
    prop::collection::vec(op, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_history_that_is_moved_at_any_block_gives_what_it_gives_in_one_realm(history in ops(60), at in 2..70_u64) {
        let mut whole = cast();
        let last = write(&mut whole, 2, &history);
        let at = at.min(last);
        let journey = split(&whole, at);
        let mut replay = journey.at_heads();
        replay.begin_leg(&journey.step, &cut(&journey.source, at)).unwrap();
        let entries: Vec<PlacedEntry> = journey.target.upto(last).iter().map(|placed| replay.place(placed)).collect();
        let end = replay.block(BlockRef { number: last - at + 1, time: time(last) });
        replay.advance(end, &entries).unwrap();
        let moved = replay.effective(end, &[]).unwrap();
        prop_assert_eq!(essence(&moved), essence(&whole.views(last, last)));
    }

    #[test]
    fn denials_on_the_source_after_a_move_deny_what_they_would_at_the_end_of_one_realm(history in ops(50), at in 2..60_u64, late in denials()) {
        let mut whole = cast();
        let last = write(&mut whole, 2, &history);
        let at = at.min(last);
        let mut journey = split(&whole, at);
        let quiet = journey.arrived(last - at + 1);
        let (mut whole, mut until) = (whole, last);
        for op in &late {
            until += 1;
            let (actor, entry) = entry(op);
            whole.add(until, actor, &entry);
            journey.source.add(until, actor, &entry);
        }
        let mut replay = quiet.clone();
        replay.advance_source(0, block(until), &journey.beyond(until)).unwrap();
        let mut quiet = quiet;
        let (moved, quiet, one) = (look(&mut replay), look(&mut quiet), whole.views(until, until));
        let (allows, may) = (allowed(&moved), allowed(&one));
        prop_assert!(allows.is_subset(&may), "{:?}", allows.difference(&may).collect::<Vec<_>>());
        prop_assert!(allows.is_subset(&allowed(&quiet)));
        // A lock of an actor that nothing is known of shows when something is; what a locked ADMIN's addition made does not show at all.
        let unknown = |fact: &str| {
            let address = fact.strip_prefix("actor ").map(|address| address.parse::<Address>().unwrap());
            let user = fact.strip_prefix("user ").map(|user| user.parse::<Id>().unwrap());
            address.is_some_and(|address| !moved.actors.contains_key(&address))
                || user.is_some_and(|user| !moved.users.contains_key(&user))
        };
        let (denies, mut must) = (denied(&moved), denied(&one));
        must.retain(|fact| !unknown(fact));
        prop_assert!(must.is_subset(&denies), "{:?}", must.difference(&denies).collect::<Vec<_>>());
    }
}
