//! A publisher of deltas killed at each of its calls that change something: readers find the old or the new one, whole, and the next
//! publisher finds a way on.
//!
//! `strace` stands between the publisher and the system. A process that is killed loses nothing that it has written, unlike a machine that
//! loses its power: what is not synced then is another matter.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use countersign_certificate::Serial;
use countersign_snapshot::{Accounts, Snapshot};

use crate::support::{quick_directory, trust};

const PUBLISHER: &str = env!("CARGO_BIN_EXE_countersign-snapshot-synthetic");

/// Calls that change what is on the disk, or that others rely on.
const CALLS: [&str; 9] = ["openat", "write", "pwrite64", "fchmod", "chmod", "fsync", "rename", "unlink", "flock"];

fn revoke(directory: &Path, first: u64, last: u64) -> Command {
    let mut command = Command::new(PUBLISHER);
    command.arg("--revoke").arg(directory).args([first.to_string(), last.to_string()]);
    command
}

/// How many serials are revoked, the first ones without a gap; and whether a delta says so.
fn revoked(directory: &Path, what: &str) -> (u64, bool) {
    let snapshot = Snapshot::open(directory, trust()).unwrap_or_else(|error| panic!("{what}: {error}"));
    snapshot.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
    let accounts = Accounts::open(directory, trust()).unwrap_or_else(|error| panic!("{what}: {error}"));
    accounts.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(accounts.account(b"user0000019").unwrap().is_some(), "{what}");
    let login = snapshot.login(b"user0000019").unwrap();
    assert!(login.is_some(), "{what}");
    let ca =
        countersign_snapshot::synthetic(&countersign_snapshot::Synthetic { users: 0, revoked_serials: 0, uid_base: 0 });
    let ca = ca.0.cas[0].id;
    let is = |serial| snapshot.serial_revoked(ca, Serial(serial)).unwrap();
    let count = (1..10).take_while(|serial| is(*serial)).count();
    let count = u64::try_from(count).unwrap();
    assert!((count + 1..10).all(|serial| !is(serial)), "{what}");
    (count, snapshot.manifest().delta.is_some())
}

/// As it was, mode by mode.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            drop(fs::copy(entry.path(), target))
        }
    }
}

#[test]
fn a_publisher_of_deltas_killed_at_any_call_leaves_the_old_or_the_new_one_whole_and_a_way_on() {
    assert!(Path::new("/usr/bin/strace").exists(), "strace is not installed: run .ci/tools");
    let folder = quick_directory();
    let log = folder.path().join("log");
    let traced = |directory: &Path, inject: Option<String>| {
        let mut command = Command::new("strace");
        command.arg("-qq").arg("-o").arg(&log).arg("-e").arg(format!("trace={}", CALLS.join(",")));
        if let Some(inject) = inject {
            command.arg("-e").arg(inject);
        }
        let publisher = revoke(directory, 3, 4);
        command.arg(publisher.get_program()).args(publisher.get_args()).output().unwrap()
    };
    // A base with one serial and a delta with two.
    let prepared = folder.path().join("prepared");
    fs::create_dir(&prepared).unwrap();
    assert!(revoke(&prepared, 1, 2).output().unwrap().status.success());
    assert_eq!(revoked(&prepared, "before"), (2, true));
    let directory = folder.path().join("whole");
    copy(&prepared, &directory);
    let output = traced(&directory, None);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(revoked(&directory, "undisturbed"), (4, true));

    // The calls from the first one about the directory on, each by its name and how often it was called before.
    let text = fs::read_to_string(&log).unwrap();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut calls = Vec::new();
    let mut has_begun = false;
    for line in text.lines() {
        let Some(name) = line.split('(').next().filter(|name| CALLS.contains(name)) else { continue };
        let count = counts.entry(name).or_default();
        *count += 1;
        has_begun |= line.contains(directory.to_str().unwrap());
        let changes = name != "openat" || line.contains("O_CREAT");
        if has_begun && changes {
            calls.push((name, *count, line));
        }
    }
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    for (name, ordinal, line) in &calls {
        let what = format!("killed at {name} {ordinal}: {line}");
        let directory = folder.path().join(format!("{name}-{ordinal}"));
        copy(&prepared, &directory);
        let output = traced(&directory, Some(format!("inject={name}:signal=KILL:when={ordinal}")));
        assert!(!output.status.success(), "{what}: it was not killed");
        let (count, is_delta) = revoked(&directory, &what);
        assert!((2..=4).contains(&count) && is_delta, "{what}: {count}");
        *seen.entry(count).or_default() += 1;
        let next = revoke(&directory, 5, 5).output().unwrap();
        assert!(next.status.success(), "{what}: {}", String::from_utf8_lossy(&next.stderr));
        assert_eq!(revoked(&directory, &what), (5, true), "{what}");
        for audience in ["access", "accounts"] {
            let mut names = fs::read_dir(directory.join(audience)).unwrap().map(|entry| entry.unwrap().file_name());
            assert!(!names.any(|name| name.to_string_lossy().ends_with(".tmp")), "{what}: something is left");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
    println!("{} calls, by what was found after them: {seen:?}", calls.len());
    assert!(calls.len() > 30 && seen.len() == 3, "{} calls, {seen:?}", calls.len());
}
