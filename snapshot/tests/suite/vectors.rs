//! `tests/vectors/snapshot.py` writes and reads the same bytes as this crate.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_certificate::Serial;
use countersign_snapshot::{Accounts, Snapshot, User, UserState, publish, publish_delta};

use crate::support::{NOW, access, accounts, full_grant, id, info, plain_grant, trust};

const FILES: [&str; 5] = ["access/manifest", "access/base.1", "access/delta.2", "accounts/manifest", "accounts/base.1"];

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn python(command: &str, directory: &Path) {
    let output = Command::new("python3")
        .arg(vectors().join("snapshot.py"))
        .arg(command)
        .arg(vectors().join("snapshot.json"))
        .arg(directory)
        .output()
        .expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn publish_the_vector(directory: &Path) {
    assert_eq!(publish(directory, &access(), &accounts(), &info()).unwrap(), 1);
    let mut tables = access();
    tables.users[0].1 = User { state: UserState::Locked, login: "alice".to_owned() };
    tables.grants.retain(|(grant, _)| *grant != id(11));
    tables.grants.push((id(13), full_grant()));
    tables.serials = vec![(id(40), vec![Serial(u64::MAX)])];
    assert_eq!(publish_delta(directory, &tables, &accounts(), &info()).unwrap(), 2);
}

#[test]
fn the_checked_in_files_are_what_the_script_writes() {
    let directory = tempfile::tempdir().unwrap();
    python("write", directory.path());
    for file in FILES {
        let written = fs::read(directory.path().join(file)).unwrap();
        assert!(written == fs::read(vectors().join("snapshot").join(file)).unwrap(), "{file}");
    }
}

#[test]
fn this_crate_writes_the_same_bytes_as_the_script() {
    let directory = tempfile::tempdir().unwrap();
    publish_the_vector(directory.path());
    for file in FILES {
        let written = fs::read(directory.path().join(file)).unwrap();
        assert!(written == fs::read(vectors().join("snapshot").join(file)).unwrap(), "{file}");
    }
}

#[test]
fn the_script_reads_what_this_crate_writes() {
    let directory = tempfile::tempdir().unwrap();
    publish_the_vector(directory.path());
    python("check", directory.path());
}

#[test]
fn this_crate_reads_the_checked_in_files() {
    let directory = tempfile::tempdir().unwrap();
    for file in FILES {
        let copy = directory.path().join(file);
        let folder = copy.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        fs::write(&copy, fs::read(vectors().join("snapshot").join(file)).unwrap()).unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(0o644)).unwrap();
    }
    let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
    snapshot.verify().unwrap();
    assert_eq!(snapshot.fresh(&NOW), Ok(()));
    assert_eq!(*snapshot.facts(), info().facts);
    assert_eq!(snapshot.user(id(1)).unwrap().unwrap().state, UserState::Locked);
    assert_eq!(snapshot.grant(id(10)).unwrap(), Some(plain_grant()));
    assert_eq!(snapshot.grant(id(11)).unwrap(), None);
    assert_eq!(snapshot.grant(id(13)).unwrap(), Some(full_grant()));
    assert_eq!(snapshot.batch(id(50)).unwrap(), Some(access().batches[0].1));
    assert!(!snapshot.serial_revoked(id(40), Serial(7)).unwrap());
    assert!(snapshot.serial_revoked(id(40), Serial(u64::MAX)).unwrap());
    let read = Accounts::open(directory.path(), trust()).unwrap();
    read.verify().unwrap();
    assert_eq!(read.account(b"alice").unwrap().as_ref(), accounts().accounts.first());
}
