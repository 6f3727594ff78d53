//! Files that somebody else could have written are refused, each for its reason.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use countersign_snapshot::{Accounts, Distrust, OpenError, Snapshot, Trust, publish};
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};

use crate::support::{access, accounts, info, trust};

/// The files that a login reads.
const FILES: [&str; 2] = ["access/manifest", "access/base.1"];

fn published() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    publish(directory.path(), &access(), &accounts(), &info()).unwrap();
    directory
}

fn refusal(directory: &Path) -> Distrust {
    match Snapshot::open(directory, trust()).err() {
        Some(OpenError::Untrusted { found, .. }) => found,
        other => panic!("expected distrust, found {other:?}"),
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn another_owner_is_refused_by_number() {
    let directory = published();
    let other = geteuid().as_raw() + 1;
    match Snapshot::open(directory.path(), Trust::owner(other)).err() {
        Some(OpenError::Untrusted { found, .. }) => assert_eq!(found, Distrust::Owner(geteuid().as_raw())),
        other => panic!("expected distrust, found {other:?}"),
    }
}

#[test]
fn a_file_that_group_or_others_may_write_is_refused() {
    for file in FILES {
        for mode in [0o660, 0o642, 0o666] {
            let directory = published();
            set_mode(&directory.path().join(file), mode);
            assert_eq!(refusal(directory.path()), Distrust::Writable(mode), "{file}");
        }
    }
}

#[test]
fn a_directory_that_group_or_others_may_write_is_refused() {
    for (name, mode) in [("", 0o777), ("", 0o1777), ("access", 0o770), ("access", 0o757)] {
        let directory = published();
        set_mode(&directory.path().join(name), mode);
        assert_eq!(refusal(directory.path()), Distrust::Writable(mode), "{name}");
    }
}

#[test]
fn symbolic_links_are_refused_even_to_the_right_file() {
    for file in FILES {
        let directory = published();
        let path = directory.path().join(file);
        let aside = directory.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        assert_eq!(refusal(directory.path()), Distrust::SymbolicLink, "{file}");
    }
    let directory = published();
    fs::rename(directory.path().join("access"), directory.path().join("aside")).unwrap();
    symlink("aside", directory.path().join("access")).unwrap();
    assert_eq!(refusal(directory.path()), Distrust::Type);
    let outer = tempfile::tempdir().unwrap();
    symlink(published().path(), outer.path().join("link")).unwrap();
    assert_eq!(refusal(&outer.path().join("link")), Distrust::Type);
}

#[test]
fn a_fifo_is_refused_and_not_waited_for() {
    for file in FILES {
        let directory = published();
        let path = directory.path().join(file);
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::from_bits_truncate(0o640)).unwrap();
        assert_eq!(refusal(directory.path()), Distrust::Type, "{file}");
    }
}

#[test]
fn a_directory_or_socket_in_a_files_place_is_refused() {
    for file in FILES {
        let directory = published();
        let path = directory.path().join(file);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o750);
        assert_eq!(refusal(directory.path()), Distrust::Type, "{file}");
        fs::remove_dir(&path).unwrap();
        let _socket = UnixListener::bind(&path).unwrap();
        assert_eq!(refusal(directory.path()), Distrust::Type, "{file}");
    }
}

#[test]
fn a_file_with_a_second_name_is_refused() {
    for file in FILES {
        let directory = published();
        fs::hard_link(directory.path().join(file), directory.path().join("second")).unwrap();
        assert_eq!(refusal(directory.path()), Distrust::HardLinks(2), "{file}");
    }
}

#[test]
fn a_file_in_the_directorys_place_is_refused() {
    let directory = published();
    fs::rename(directory.path().join("access"), directory.path().join("aside")).unwrap();
    fs::write(directory.path().join("access"), b"").unwrap();
    assert_eq!(refusal(directory.path()), Distrust::Type);
}

#[test]
fn accounts_are_held_to_the_same_rules() {
    let directory = published();
    set_mode(&directory.path().join("accounts/base.1"), 0o666);
    let error = Accounts::open(directory.path(), trust()).err().unwrap();
    assert!(matches!(error, OpenError::Untrusted { found: Distrust::Writable(0o666), .. }), "{error}");
}

#[test]
fn no_snapshot_is_told_from_a_bad_one() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().to_owned(), directory.path().join("missing")] {
        let error = Snapshot::open(&path, trust()).err().unwrap();
        assert!(matches!(error, OpenError::Absent { .. }), "{error}");
    }
    let directory = published();
    fs::remove_file(directory.path().join("access/manifest")).unwrap();
    let error = Snapshot::open(directory.path(), trust()).err().unwrap();
    assert!(matches!(error, OpenError::Absent { .. }), "{error}");
}
