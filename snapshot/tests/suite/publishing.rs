//! Publishing beside readers, beside another publisher, on a full disk, and dying at any point.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use countersign_certificate::Fingerprint20;
use countersign_snapshot::{
    Accounts, Denial, Gid, OpenError, PublishError, PublishInfo, Snapshot, Synthetic, publish, refresh, synthetic,
};

use crate::support::{SetOnDrop, access, accounts, info, trust};

const PUBLISHER: &str = env!("CARGO_BIN_EXE_countersign-snapshot-synthetic");

/// Publications beside readers, at least: enough for thousands of reads.
const PUBLICATIONS: u32 = 60;

/// Reads of a whole snapshot, at least: however seldom readers have their turn, they are waited for.
const READS: u32 = 100;

const PATIENCE: Duration = Duration::from_secs(300);

/// Publishes plans whose uids tell the generation, and returns what readers saw: whole snapshots, vanished ones.
fn publish_beside_readers(now_unix_secs: u64) -> (u32, u32) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let info = PublishInfo { now_unix_secs, ..info() };
    let plan = |generation: u32| Synthetic { users: 200, revoked_serials: 10, uid_base: generation * 1_000 };
    let publish_plan = |generation: u32| {
        let (access, accounts) = synthetic(&plan(generation));
        assert_eq!(publish(path, &access, &accounts, &info).unwrap(), u64::from(generation));
    };
    publish_plan(1);
    let done = AtomicBool::new(false);
    let done = &done;
    let reads = AtomicU32::new(0);
    let reads = &reads;
    let logins: Vec<String> = synthetic(&plan(1)).0.logins.into_iter().map(|(login, _)| login).collect();
    let logins = &logins;
    let read = move || {
        let (mut whole, mut vanished) = (0, 0);
        while !done.load(Ordering::Relaxed) {
            let snapshot = match Snapshot::open(path, trust()) {
                Ok(snapshot) => snapshot,
                Err(OpenError::Vanished { .. }) => {
                    vanished += 1;
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let base = u32::try_from(snapshot.manifest().base.generation).unwrap() * 1_000;
            for ordinal in (0..200u32).step_by(23) {
                let login = &logins[usize::try_from(ordinal).unwrap()];
                let uid = snapshot.login(login.as_bytes()).unwrap().map(|login| login.uid.0);
                assert_eq!(uid, Some(base + ordinal));
            }
            whole += 1;
            reads.fetch_add(1, Ordering::Relaxed);
        }
        (whole, vanished)
    };
    thread::scope(|scope| {
        let finish = SetOnDrop(done);
        let readers = [scope.spawn(read), scope.spawn(read)];
        let begun = Instant::now();
        for generation in 2.. {
            publish_plan(generation);
            let is_enough = generation >= PUBLICATIONS && reads.load(Ordering::Relaxed) >= READS;
            // A reader that has failed is not waited for.
            if is_enough || readers.iter().any(thread::ScopedJoinHandle::is_finished) || begun.elapsed() > PATIENCE {
                break;
            }
        }
        drop(finish);
        readers
            .map(|reader| reader.join().unwrap())
            .into_iter()
            .fold((0, 0), |sum, seen| (sum.0 + seen.0, sum.1 + seen.1))
    })
}

#[test]
fn readers_beside_a_publisher_always_find_a_whole_snapshot() {
    let (whole, vanished) = publish_beside_readers(0);
    assert!(whole >= READS, "{whole} reads");
    assert_eq!(vanished, 0);
}

#[test]
fn readers_beside_a_publisher_that_removes_at_once_never_see_a_mixture() {
    let (whole, _) = publish_beside_readers(u64::MAX);
    assert!(whole >= READS, "{whole} reads");
}

#[test]
fn a_superseded_file_stays_sixty_seconds_and_a_named_one_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let publish_at = |now_unix_secs| {
        publish(directory.path(), &access(), &accounts(), &PublishInfo { now_unix_secs, ..info() }).unwrap()
    };
    let names = || {
        let entries = fs::read_dir(directory.path().join("access")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    publish_at(0);
    publish_at(0);
    let successor = fs::metadata(directory.path().join("access/base.2")).unwrap().mtime();
    let successor = u64::try_from(successor).unwrap();
    publish_at(successor + 59);
    assert_eq!(names(), ["base.1", "base.2", "base.3", "manifest"]);
    publish_at(successor + 60);
    assert!(!names().contains(&"base.1".to_owned()), "{:?}", names());
    publish_at(u64::MAX);
    assert_eq!(names(), ["base.5", "manifest"]);
}

#[test]
fn modes_and_group_are_set_whatever_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    let group = nix::unistd::getegid().as_raw();
    let info = PublishInfo { access_group: Some(Gid(group)), ..info() };
    publish(directory.path(), &access(), &accounts(), &info).unwrap();
    let of = |name: &str| {
        let metadata = fs::metadata(directory.path().join(name)).unwrap();
        (metadata.permissions().mode() & 0o7777, metadata.gid())
    };
    assert_eq!(of("access"), (0o750, group));
    assert_eq!(of("access/manifest"), (0o640, group));
    assert_eq!(of("access/base.1"), (0o640, group));
    assert_eq!(of("accounts").0, 0o755);
    assert_eq!(of("accounts/manifest").0, 0o644);
    assert_eq!(of("accounts/base.1").0, 0o644);
}

#[test]
fn a_second_publisher_is_refused_while_the_first_works() {
    let directory = tempfile::tempdir().unwrap();
    let first = File::open(directory.path()).unwrap();
    first.lock().unwrap();
    let error = publish(directory.path(), &access(), &accounts(), &info()).unwrap_err();
    assert!(matches!(error, PublishError::Busy { .. }), "{error}");
    first.unlock().unwrap();
    publish(directory.path(), &access(), &accounts(), &info()).unwrap();
}

#[test]
fn publishing_into_a_directory_that_others_can_change_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = publish(directory.path(), &access(), &accounts(), &info()).unwrap_err();
    assert!(matches!(error, PublishError::Open(OpenError::Untrusted { .. })), "{error}");
}

fn publisher(directory: &Path, publications: u32) -> Child {
    let arguments = ["3000".to_owned(), "3000".to_owned(), publications.to_string()];
    Command::new(PUBLISHER).arg(directory).args(arguments).stdout(Stdio::piped()).spawn().unwrap()
}

/// The generation in place for both audiences, each whole in itself.
fn whole_generations(directory: &Path) -> (u64, u64) {
    let snapshot = Snapshot::open(directory, trust()).unwrap();
    snapshot.verify().unwrap();
    assert!(snapshot.login(b"user0002999").unwrap().is_some());
    let accounts = Accounts::open(directory, trust()).unwrap();
    accounts.verify().unwrap();
    assert!(accounts.account(b"user0002999").unwrap().is_some());
    (snapshot.manifest().generation, accounts.manifest().generation)
}

#[test]
fn a_publisher_killed_at_any_point_leaves_a_whole_snapshot_and_a_way_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert!(publisher(path, 1).wait().unwrap().success());
    // What is waited for before the kill: a file that appears for a moment during each publication.
    let moments =
        ["accounts/base.N.tmp", "accounts/base.N", "accounts/manifest.tmp", "access/base.N.tmp", "access/base.N"];
    for moment in moments.iter().cycle().take(10) {
        let (access_before, accounts_before) = whole_generations(path);
        let next = access_before.max(accounts_before) + 1;
        let mut child = publisher(path, 40);
        let awaited = path.join(moment.replace('N', &next.to_string()));
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        // The file may come and go unseen: then the end of that publication is as good.
        while !awaited.exists() {
            if Snapshot::open(path, trust()).unwrap().manifest().generation >= next {
                lines.read_line(&mut line).unwrap();
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (access_after, accounts_after) = whole_generations(path);
        assert!(access_after >= access_before && accounts_after >= access_after, "{moment}");
    }
    let before = whole_generations(path);
    let generation = publish(path, &access(), &accounts(), &info()).unwrap();
    assert!(generation > before.0 && generation > before.1);
    let leftovers = fs::read_dir(path.join("access"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(leftovers.count(), 0, "the next publication clears what the dead one left");
}

#[test]
fn what_fails_about_accounts_holds_back_no_denial_in_access() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let fingerprint = Fingerprint20([0x77; 20]);
    let denied = || Snapshot::open(path, trust()).unwrap().key_revoked(fingerprint).unwrap();
    let names = || Accounts::open(path, trust()).unwrap().manifest().generation;
    let first = publish(path, &access(), &accounts(), &info()).unwrap();
    // No file can be put or removed where a folder is, root or not.
    let in_the_way = |name: &str| {
        let at = path.join("accounts").join(name);
        fs::create_dir(&at).unwrap();
        at
    };
    let mut with_denial = access();
    with_denial.revoked_keys.push((fingerprint, Denial::Locked));
    let manifest = in_the_way("manifest.tmp");
    assert_eq!(denied(), None);
    let failed = publish(path, &with_denial, &accounts(), &info()).unwrap_err();
    assert!(failed.to_string().contains("accounts/manifest.tmp"), "{failed}");
    assert_eq!((denied(), names()), (Some(Denial::Locked), first));
    // It is not declared fresh as if it were whole; once the way is free both follow.
    assert!(refresh(path, first, &info()).is_err());
    fs::remove_dir(manifest).unwrap();
    let second = publish(path, &access(), &accounts(), &info()).unwrap();
    assert_eq!((denied(), names()), (None, second));

    // An old file that cannot be removed.
    let old = in_the_way("base.0");
    let late = PublishInfo { now_unix_secs: u64::MAX, ..info() };
    let failed = publish(path, &with_denial, &accounts(), &late).unwrap_err();
    assert!(failed.to_string().contains("accounts/base.0"), "{failed}");
    assert_eq!((denied(), names()), (Some(Denial::Locked), second + 1));
    let failed = refresh(path, second + 1, &late).unwrap_err();
    assert!(failed.to_string().contains("accounts/base.0"), "{failed}");
    let refreshed = Snapshot::open(path, trust()).unwrap().manifest().generation;
    assert_eq!((refreshed, names()), (second + 2, second + 2));
    fs::remove_dir(old).unwrap();
    assert_eq!(refresh(path, second + 2, &late).unwrap(), second + 3);
}

/// Runs the publisher with files limited to `kib`; `signal`: by a signal that kills it, else by an error it sees.
fn publish_on_a_full_disk(directory: &Path, kib: u32, signal: bool) -> (bool, String) {
    let trap = if signal { "" } else { "trap '' XFSZ; " };
    let script = format!("{trap}ulimit -c 0; ulimit -f {kib}; exec \"$0\" \"$@\"");
    let output = Command::new("bash")
        .args(["-c", &script, PUBLISHER])
        .arg(directory)
        .args(["3000", "3000"])
        .output()
        .expect("bash is installed");
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_disk_that_is_full_at_any_point_leaves_the_old_snapshot_working() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert!(publisher(path, 1).wait().unwrap().success());
    let before = whole_generations(path);
    let largest_kib = fs::metadata(path.join("accounts/base.1")).unwrap().len() / 1024;
    assert!(largest_kib > 400, "{largest_kib} KiB");
    let access_bytes = fs::metadata(path.join("access/base.1")).unwrap().len();
    assert!(access_bytes < (largest_kib - 1) * 1024, "{access_bytes} bytes");
    let mut access_before = before.0;
    for signal in [false, true] {
        for kib in [0, 1, 63, 64, 65, 200, u32::try_from(largest_kib).unwrap() - 1] {
            let (success, message) = publish_on_a_full_disk(path, kib, signal);
            assert!(!success, "{kib} KiB");
            if !signal {
                assert!(message.contains("cannot write"), "{message}");
            }
            // Room for access and none for accounts: the denials in it do not wait.
            let fits = !signal && u64::from(kib) * 1024 >= access_bytes;
            let (access, accounts) = whole_generations(path);
            assert_eq!((access > access_before, accounts), (fits, before.1), "{kib} KiB");
            access_before = access;
        }
    }
    let (success, message) = publish_on_a_full_disk(path, u32::try_from(largest_kib).unwrap(), false);
    assert!(success, "{message}");
    assert!(whole_generations(path) > before);
}
