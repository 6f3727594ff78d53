//! The part that runs inside every login stays small: in lines, and in memory whatever the size of the file. Alone in its process, because
//! memory is measured.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests may")]

use std::fs;
use std::path::Path;
use std::process::Command;

use countersign_certificate::{Fingerprint20, Id, Serial};
use countersign_snapshot::{Snapshot, Trust};

/// What opens files, finds records and reads them; how records and headers are laid out is said elsewhere, for writers too.
const READER: [&str; 3] = ["open.rs", "read.rs", "file.rs"];

#[test]
fn the_reader_has_less_than_600_lines_of_code() {
    let lines = |name: &str| {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name)).unwrap();
        let code = text.lines().take_while(|line| *line != "mod tests {").map(str::trim);
        code.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
    };
    let all: usize = READER.into_iter().map(lines).sum();
    assert!(all > 0 && all < 600, "{all} lines");
}

/// From `/proc/self/status`.
fn kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Looks many keys up in a snapshot of so many users that another process has written; gives the file's and the memory's growth in KiB.
fn look_up(users: u32) -> (u64, u64) {
    let directory = tempfile::tempdir().unwrap();
    let users = users.to_string();
    let published = Command::new(env!("CARGO_BIN_EXE_countersign-snapshot-synthetic"))
        .arg(directory.path())
        .args([&users, &users])
        .output()
        .unwrap();
    assert!(published.status.success(), "{published:?}");
    let file = fs::metadata(directory.path().join("access/base.1")).unwrap().len();
    // The high water mark begins anew.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = kib("VmRSS:");
    let trust = Trust::owner(nix::unistd::geteuid().as_raw());
    let look = |number: &u64| {
        let snapshot = Snapshot::open(directory.path(), trust).unwrap();
        let [byte, ..] = number.to_le_bytes();
        assert_eq!(snapshot.key(Fingerprint20([byte; 20])).unwrap(), None);
        assert!(!snapshot.serial_revoked(Id([byte; 16]), Serial(*number)).unwrap());
        snapshot.login(format!("user{number:07}").as_bytes()).unwrap().is_some()
    };
    let found = (0..2_000_u64).filter(look).count();
    assert!(found > 100, "{found} logins");
    (file / 1024, kib("VmHWM:").saturating_sub(before))
}

#[test]
fn a_file_thirty_times_as_large_takes_no_more_memory_to_read() {
    let (small_file, small) = look_up(400);
    let (large_file, large) = look_up(20_000);
    assert!(large_file > 30 * small_file && large_file > 3_000, "{small_file} KiB, {large_file} KiB");
    // The kernel counts in steps of up to 64 pages.
    assert!(small <= 512 && large <= 512, "{small} KiB for {small_file} KiB, {large} KiB for {large_file} KiB");
}
