//! Many lookups beside a publisher that never rests: bases, deltas, merges, files removed as soon as they may be.
//!
//! Everything that is looked up depends on the publication's number, which the manifest tells as the latest block, so that an answer of
//! another publication, or a mixture of two, shows. `COUNTERSIGN_TORTURE_LOOKUPS=1000000` makes it long.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use countersign_certificate::{Fingerprint20, Serial};
use countersign_snapshot::{
    AccessTables, Denial, Key, KeyState, OpenError, PublishInfo, Snapshot, publish, publish_base, publish_delta,
};

use crate::model::Random;
use crate::support::{SetOnDrop, accounts, full_grant, id, info, trust};

const LOOKUPS: u64 = 20_000;
const LEAST_PUBLICATIONS: u64 = 8;
const READERS: u64 = 3;
/// The number of the first publication.
const FIRST: u64 = 2_000;
/// Serials and keys that take turns.
const TURNS: u64 = 40;

/// What stands in every publication: enough for a base of 128 pages, which gets deltas.
fn constant() -> AccessTables {
    let serials = (0..33_000).map(|number| Serial(1 << 40 | number)).collect();
    AccessTables { serials: vec![(id(1), serials)], ..AccessTables::default() }
}

/// Whether the record of a turn is there in a publication. Every 17th differs from the one before in nearly all.
fn is_there(turn: u64, number: u64) -> bool {
    (number / (turn % 7 + 1) + turn + number / 17).is_multiple_of(3)
}

fn key(turn: u64) -> Fingerprint20 {
    Fingerprint20([u8::try_from(turn).unwrap(); 20])
}

fn command(turn: u64, number: u64) -> String {
    format!("echo {turn} {number} {}", "x".repeat(usize::try_from(number % 5_000).unwrap()))
}

fn tables(constant: &AccessTables, number: u64) -> AccessTables {
    let mut tables = constant.clone();
    for turn in (0..TURNS).filter(|turn| is_there(*turn, number)) {
        tables.serials[0].1.push(Serial(turn));
        tables.revoked_keys.push((key(turn), if number.is_multiple_of(2) { Denial::Locked } else { Denial::Revoked }));
    }
    for turn in 0..TURNS {
        let not_after_secs = std::num::NonZeroU64::new(number);
        let record = Key { user: id(1), state: KeyState::Active, purposes: 1, not_after_secs };
        tables.keys.push((key(turn), record));
    }
    let mut grant = full_grant();
    grant.forced_command = Some(command(0, number));
    tables.grants.push((id(2), grant));
    // Now and then more than a delta may hold.
    if number.is_multiple_of(11) {
        tables.labels.extend((0..6_000_u32).map(|label| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&label.to_be_bytes());
            bytes[4..12].copy_from_slice(&number.to_be_bytes());
            bytes
        }));
    }
    tables
}

/// One lookup, compared with what the publication that the snapshot is of says.
fn look_up(snapshot: &Snapshot, random: &mut Random) -> Result<(), String> {
    let number = snapshot.facts().latest_block.number;
    let turn = random.below(TURNS);
    let there = is_there(turn, number);
    let (found, expected) = match random.below(8) {
        0 => (format!("{:?}", snapshot.grant(id(2)).unwrap().map(|grant| grant.forced_command)), {
            format!("{:?}", Some(Some(command(0, number))))
        }),
        1 | 2 => {
            let end = snapshot.key(key(turn)).unwrap().and_then(|key| key.not_after_secs);
            (format!("{end:?}"), format!("{:?}", std::num::NonZeroU64::new(number)))
        }
        3 | 4 => {
            let denial = if number.is_multiple_of(2) { Denial::Locked } else { Denial::Revoked };
            let found = snapshot.key_revoked(key(turn)).unwrap();
            (format!("{found:?}"), format!("{:?}", there.then_some(denial)))
        }
        5 => {
            let serial = Serial(1 << 40 | random.below(66_000));
            let found = snapshot.serial_revoked(id(1), serial).unwrap();
            (format!("{found}"), format!("{}", serial.0 & 0xffff_ffff < 33_000))
        }
        _ => (format!("{}", snapshot.serial_revoked(id(1), Serial(turn)).unwrap()), format!("{there}")),
    };
    if found == expected { Ok(()) } else { Err(format!("publication {number}, turn {turn}: {found} for {expected}")) }
}

/// How far all have come.
#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    lookups: AtomicU64,
    publications: AtomicU64,
}

/// What a reader has met.
#[derive(Default)]
struct Met {
    /// Snapshots opened that had a delta.
    deltas: u64,
    /// Times that files were gone whenever it looked: no answer, which refuses.
    vanished: u64,
}

/// Opens, and asks so many questions of what was opened: the last of them when it was replaced long ago.
const QUESTIONS: u64 = 25;

fn read(directory: &Path, seed: u64, wanted: u64, progress: &Progress) -> Result<Met, String> {
    let mut random = Random(seed);
    let mut newest = 0;
    let mut met = Met::default();
    while progress.lookups.load(Ordering::Relaxed) < wanted
        || progress.publications.load(Ordering::Relaxed) < LEAST_PUBLICATIONS
    {
        let snapshot = match Snapshot::open(directory, trust()) {
            Ok(snapshot) => snapshot,
            Err(OpenError::Vanished { .. } | OpenError::Absent { .. }) => {
                met.vanished += 1;
                continue;
            }
            Err(error) => return Err(error.to_string()),
        };
        let number = snapshot.facts().latest_block.number;
        if number < newest {
            return Err(format!("publication {number} after {newest}"));
        }
        newest = number;
        met.deltas += u64::from(snapshot.manifest().delta.is_some());
        for _ in 0..QUESTIONS {
            look_up(&snapshot, &mut random)?;
        }
        progress.lookups.fetch_add(QUESTIONS, Ordering::Relaxed);
    }
    Ok(met)
}

/// Publishes numbers in all forms until told to stop; gives how many deltas were merged into a base.
fn publish_until(directory: &Path, progress: &Progress) -> u64 {
    let constant = constant();
    let mut random = Random(0);
    let base = || Snapshot::open(directory, trust()).unwrap().manifest().base.generation;
    let mut merged = 0;
    while !progress.stop.load(Ordering::Relaxed) {
        let number = FIRST + 1 + progress.publications.load(Ordering::Relaxed);
        // Superseded files go at once every other time, else after a minute.
        let now_unix_secs = if random.below(2) == 0 { u64::MAX } else { info().now_unix_secs };
        let mut info = PublishInfo { now_unix_secs, ..info() };
        info.facts.latest_block.number = number;
        let (tables, before) = (tables(&constant, number), base());
        match random.below(8) {
            0 => publish_base(directory, &tables, &accounts(), &info).unwrap(),
            1 => publish_delta(directory, &tables, &accounts(), &info).unwrap(),
            _ => {
                let generation = publish(directory, &tables, &accounts(), &info).unwrap();
                merged += u64::from(base() != before);
                generation
            }
        };
        progress.publications.fetch_add(1, Ordering::Relaxed);
    }
    merged
}

#[test]
fn no_lookup_beside_a_publisher_of_bases_and_deltas_is_ever_wrong_or_torn() {
    let wanted = std::env::var("COUNTERSIGN_TORTURE_LOOKUPS").map_or(LOOKUPS, |text| text.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut first = info();
    first.facts.latest_block.number = FIRST;
    publish(path, &tables(&constant(), FIRST), &accounts(), &first).unwrap();
    let progress = Progress::default();
    let progress = &progress;
    let (merged, met) = thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_until(path, progress));
        let finish = SetOnDrop(&progress.stop);
        let readers: Vec<_> =
            (1..=READERS).map(|seed| scope.spawn(move || read(path, seed, wanted, progress))).collect();
        let met: Vec<Result<Met, String>> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        drop(finish);
        (publisher.join().unwrap(), met)
    });
    let met: Vec<Met> = met.into_iter().map(Result::unwrap).collect();
    let sum = |of: fn(&Met) -> u64| met.iter().map(of).sum::<u64>();
    let (deltas, vanished) = (sum(|met| met.deltas), sum(|met| met.vanished));
    let (lookups, publications) =
        (progress.lookups.load(Ordering::Relaxed), progress.publications.load(Ordering::Relaxed));
    println!(
        "{lookups} lookups beside {publications} publications, {merged} of them merged; {deltas} times with a delta, {vanished} times no answer"
    );
    assert!(lookups >= wanted && merged > 0 && deltas > 0, "{lookups} {merged} {deltas}");
}
