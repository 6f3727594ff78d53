//! Publishing from what has changed: the same files, to the byte, as publishing from everything, whatever happened in between.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use countersign_certificate::Serial;
use countersign_snapshot::{
    AccessTables, Account, AccountsTables, Before, Ca, Gid, Group, InPlace, PublishInfo, Published, Salt, Snapshot,
    Stamp, Uid, UserState, publish, publish_since, refresh,
};

use crate::model::{Random, change, disturb};
use crate::support::{self, access, accounts, id, info, quick_directory, trust};

/// What stands in it, by name.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in ["access", "accounts"] {
        for entry in fs::read_dir(directory.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            files.insert(path.strip_prefix(directory).unwrap().display().to_string(), fs::read(path).unwrap());
        }
    }
    files
}

/// Tables whose bases are large enough for deltas, by long blobs more than by many records.
fn large() -> (AccessTables, AccountsTables) {
    let serials = (0..1_000).map(|number| Serial(1 << 32 | number << 4)).collect();
    let mut access = AccessTables { serials: vec![(id(2), serials), (id(1), Vec::new())], ..AccessTables::default() };
    let ca = support::access().cas.remove(0);
    access.cas.extend((100..140).map(|n| Ca { id: id(n), key_blob: vec![n; 16_000], ..ca.clone() }));
    let mut accounts = AccountsTables::default();
    accounts.accounts.extend((0..300).map(account));
    for account in &mut accounts.accounts[..20] {
        account.display_name = "x".repeat(16_000);
    }
    accounts.groups.extend((0..40).map(group));
    let member = |number: u32| (Gid(2_000_000 + number * 7 % 40), name(number));
    accounts.members.extend((0..300).map(member));
    (access, accounts)
}

fn name(number: u32) -> String {
    format!("user{number}")
}

fn account(number: u32) -> Account {
    let (uid, gid) = (Uid(1_000_000 + number), Gid(1_000_000 + number));
    Account { uid, gid, state: UserState::Active, login: name(number), display_name: format!("User {number}") }
}

fn group(number: u32) -> Group {
    Group { gid: Gid(2_000_000 + number), name: format!("group{number}") }
}

/// A place in something of so many.
fn place(random: &mut Random, length: usize) -> usize {
    usize::try_from(random.below(u64::try_from(length).unwrap())).unwrap()
}

/// Changes a few things anywhere in the large tables.
fn change_large(random: &mut Random, access: &mut AccessTables, accounts: &mut AccountsTables) {
    let serials = &mut access.serials[0].1;
    for _ in 0..random.below(5) {
        let at = place(random, serials.len());
        match random.below(4) {
            0 => drop(serials.remove(at)),
            // Between those that are there, or after them.
            1 => serials.insert(at, Serial(1 << 33 | random.next())),
            2 => serials.push(Serial(1 << 33 | random.next())),
            _ => serials[at] = Serial(1 << 33 | random.next()),
        }
    }
    for _ in 0..random.below(4) {
        let at = place(random, accounts.accounts.len());
        match random.below(4) {
            0 => drop(accounts.accounts.remove(at)),
            1 => accounts.accounts.insert(at, account(10_000 + u32::try_from(random.below(1 << 30)).unwrap())),
            2 => accounts.accounts[at].state = UserState::Locked,
            _ => accounts.accounts[at].display_name = "x".repeat(place(random, 900)),
        }
    }
    for _ in 0..random.below(3) {
        let at = place(random, accounts.members.len());
        match random.below(3) {
            0 => drop(accounts.members.remove(at)),
            1 => accounts.members.insert(at, (Gid(2_000_000 + 7), name(u32::try_from(random.below(900)).unwrap()))),
            _ => accounts.members.swap(at, 0),
        }
    }
    if random.below(4) == 0 {
        accounts.groups.rotate_left(3);
    }
    if random.below(12) == 0 {
        // More than a delta holds.
        let from = 1 << 40 | random.next() >> 30 << 8;
        serials.extend((0..5_000).map(|number| Serial(from + number)));
        serials.drain(..4_900);
    }
}

#[test]
fn what_is_published_from_changes_alone_is_to_the_byte_what_is_published_from_everything() {
    let mut built_on = 0;
    for seed in 0..3 {
        let mut random = Random(seed);
        let [by_changes, whole] = [quick_directory(), quick_directory()];
        let both = [by_changes.path(), whole.path()];
        let (mut access, mut accounts) = large();
        let mut before: Option<(AccessTables, AccountsTables, Published)> = None;
        let mut info = info();
        for step in 0..16_u64 {
            let what = format!("seed {seed}, step {step}");
            change(&mut random, &mut access, &mut AccountsTables::default());
            change_large(&mut random, &mut access, &mut accounts);
            info.facts.latest_block.number += 1;
            info.freshness.boottime_secs += random.below(700);
            match random.below(12) {
                0 => info.salt = Salt([u8::try_from(step).unwrap(); 16]),
                // Another process.
                1 => before = None,
                2 if step > 0 => {
                    let same = random.next();
                    for directory in both {
                        disturb(&mut Random(same), directory);
                    }
                }
                3 if before.is_some() => {
                    let generation = Snapshot::open(whole.path(), trust()).unwrap().manifest().generation;
                    let [one, other] = both.map(|directory| refresh(directory, generation, &info).ok());
                    assert_eq!(one, other, "{what}");
                }
                4 => {
                    // A record that stands twice is refused, and nothing is published.
                    let twice = access.serials[0].1[place(&mut random, 900)];
                    access.serials[0].1.insert(7, twice);
                    let remembered = before.as_ref().map(of);
                    let error = publish_since(remembered, by_changes.path(), &access, &accounts, &info).unwrap_err();
                    let expected = publish(whole.path(), &access, &accounts, &info).unwrap_err();
                    assert_eq!(error.to_string(), expected.to_string(), "{what}");
                    access.serials[0].1.remove(7);
                }
                _ => {}
            }
            let is_there = before.as_ref().is_some_and(|before| before.2.is_in_place(by_changes.path(), trust()));
            let published = publish_since(before.as_ref().map(of), by_changes.path(), &access, &accounts, &info);
            let published = published.unwrap_or_else(|error| panic!("{what}: {error}"));
            let generation = publish(whole.path(), &access, &accounts, &info).unwrap();
            assert_eq!(published.generation, generation, "{what}");
            assert!(published.is_in_place(by_changes.path(), trust()), "{what}");
            let [found, expected] = both.map(files);
            let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&found), names(&expected), "{what}");
            for (name, bytes) in &found {
                assert!(*bytes == expected[name], "{what}: {name} differs");
            }
            let has_delta = found.keys().any(|name| name.ends_with(&format!("delta.{generation}")));
            built_on += u32::from(is_there && has_delta);
            before = Some((access.clone(), accounts.clone(), published));
        }
    }
    assert!(built_on > 15, "{built_on} deltas by changes");
}

fn of((access, accounts, published): &(AccessTables, AccountsTables, Published)) -> Before<'_> {
    Before { access, accounts, published }
}

/// Publishes [`large`]; gives what is remembered of it.
fn publish_large(directory: &Path) -> Published {
    let (access, accounts) = large();
    publish_since(None, directory, &access, &accounts, &info()).unwrap()
}

fn revoked(directory: &Path, serial: u64) -> bool {
    Snapshot::open(directory, trust()).unwrap().serial_revoked(id(2), Serial(serial)).unwrap()
}

#[test]
fn what_is_remembered_is_believed_for_an_hour_while_nobody_touches_the_files() {
    let directory = quick_directory();
    let published = publish_large(directory.path());
    let (mut access, accounts) = large();
    access.serials[0].1.push(Serial(5));
    // A memory that is wrong, as no publisher's is: that the revocation was there before.
    let before = Before { access: &access, accounts: &accounts, published: &published };
    let mut info = info();
    info.freshness.boottime_secs += 3_599;
    let next = publish_since(Some(before), directory.path(), &access, &accounts, &info).unwrap();
    assert!(!revoked(directory.path(), 5), "only the changes were looked at");
    let before = Before { published: &next, ..before };
    info.freshness.boottime_secs += 1;
    publish_since(Some(before), directory.path(), &access, &accounts, &info).unwrap();
    assert!(revoked(directory.path(), 5), "an hour after the last comparison");
}

#[test]
fn files_that_somebody_has_touched_are_compared_at_once() {
    type Touch = fn(&Path);
    let touches: [(&str, Touch); 4] = [
        ("the base's mode changed and changed back", |directory| {
            let base = directory.join("access/base.1");
            let mode = fs::metadata(&base).unwrap().permissions();
            fs::set_permissions(&base, Permissions::from_mode(0o600)).unwrap();
            fs::set_permissions(&base, mode).unwrap();
        }),
        ("another file has its place", |directory| {
            let base = directory.join("access/base.1");
            fs::copy(&base, directory.join("copy")).unwrap();
            fs::rename(directory.join("copy"), base).unwrap();
        }),
        ("another process has published since", |directory| {
            let (mut access, accounts) = large();
            access.serials[0].1.push(Serial(6));
            publish(directory, &access, &accounts, &info()).unwrap();
        }),
        ("another process has published the same", |directory| {
            let (access, accounts) = large();
            countersign_snapshot::publish_base(directory, &access, &accounts, &info()).unwrap();
        }),
    ];
    for (what, touch) in touches {
        let directory = quick_directory();
        let published = publish_large(directory.path());
        touch(directory.path());
        let (mut access, accounts) = large();
        access.serials[0].1.push(Serial(5));
        let before = Before { access: &access, accounts: &accounts, published: &published };
        publish_since(Some(before), directory.path(), &access, &accounts, &info()).unwrap();
        assert!(revoked(directory.path(), 5) && !revoked(directory.path(), 6), "{what}");
    }
}

#[test]
fn a_record_that_is_not_there_as_it_is_remembered_has_all_compared() {
    let directory = quick_directory();
    let published = publish_large(directory.path());
    let (mut access, accounts) = large();
    let mut wrong = access.clone();
    // Remembered: one that was never there, in which another has its place now; and one that is lacked by both.
    wrong.serials[0].1.push(Serial(4));
    access.serials[0].1.push(Serial(5));
    wrong.users.push((id(9), countersign_snapshot::User { state: UserState::Active, login: "nina".to_owned() }));
    access.users.clone_from(&wrong.users);
    let before = Before { access: &wrong, accounts: &accounts, published: &published };
    publish_since(Some(before), directory.path(), &access, &accounts, &info()).unwrap();
    let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
    assert!(snapshot.serial_revoked(id(2), Serial(5)).unwrap());
    assert!(snapshot.user(id(9)).unwrap().is_some(), "what is only remembered was found out to be missing");
}

#[test]
fn a_file_that_somebody_has_touched_is_told_from_the_one_that_was_published() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("snapshot");
    assert!(InPlace::look(&directory, trust()).is_none());
    publish(&directory, &access(), &accounts(), &info()).unwrap();
    let look = || InPlace::look(&directory, trust()).unwrap();
    let published = look();
    assert_eq!((published.accounts.0.generation, published.accounts.1), (1, None));
    refresh(&directory, 1, &info()).unwrap();
    assert!(published == look(), "declaring it fresh touches neither base nor delta");
    let base = directory.join("accounts/base.1");
    let stamp = Stamp::of(&base).unwrap();
    let copy = directory.join("copy");
    fs::copy(&base, &copy).unwrap();
    fs::rename(&copy, &base).unwrap();
    assert!(published != look(), "the same bytes in another file");
    assert_ne!(Some(stamp), Stamp::of(&base));
    fs::remove_file(&base).unwrap();
    assert!(InPlace::look(&directory, trust()).is_none());
    assert_eq!(Stamp::of(&base), None);
}

#[test]
fn infos_of_other_salts_are_not_built_on() {
    let directory = quick_directory();
    let published = publish_large(directory.path());
    let (access, accounts) = large();
    let before = Before { access: &access, accounts: &accounts, published: &published };
    let other = PublishInfo { salt: Salt([1; 16]), ..info() };
    publish_since(Some(before), directory.path(), &access, &accounts, &other).unwrap();
    assert!(revoked(directory.path(), 1 << 32));
}
