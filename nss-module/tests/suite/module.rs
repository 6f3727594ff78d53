//! The module as glibc loads it, in a bed of its own: by getent and id, from many threads and forked children, with buffers of
//! every size, loaded and unloaded under valgrind, while the snapshot is published again and again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use countersign_snapshot::UserState;

use crate::support::{account, group, tables};

/// Cargo builds it beside this test.
fn module() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let module = test.parent().unwrap().join("libnss_countersign.so");
    assert!(module.exists(), "{} is missing, expected cargo to build it with this test", module.display());
    module
}

fn compile(directory: &Path) -> PathBuf {
    let driver = directory.join("driver");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver.c");
    let status = Command::new("cc")
        .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .args([&driver, &source])
        .arg("-ldl")
        .status();
    assert!(status.unwrap().success(), "cc cannot compile the driver; .ci/tools installs it");
    driver
}

#[test]
fn the_module_in_its_place_answers_real_programs_and_shadows_nothing() {
    let users = vec![
        account("alice", 1_900_000_000, UserState::Active),
        account("gone", 1_900_000_003, UserState::Removed),
        account("carol", 1_900_000_007, UserState::Active),
        account("bob", 1_900_000_009, UserState::Active),
        account("dora", 1_900_000_021, UserState::Active),
        account("erin", 1_900_000_105, UserState::Active),
        account("fred", 1_900_000_030, UserState::Active),
    ];
    let groups = vec![
        group("alice", 1_900_000_000),
        group("devs", 1_900_000_010),
        group("sudo", 1_900_000_011),
        group("wheel", 1_900_000_012),
        group("stolen", 1_900_000_020),
        group("crane", 1_900_000_205),
    ];
    let members = [
        (1_900_000_010, "alice"),
        (1_900_000_011, "alice"),
        (1_900_000_010, "bob"),
        (1_900_000_020, "alice"),
        (1_900_000_205, "alice"),
    ];
    let members = members.into_iter().map(|(gid, login)| (gid, login.to_owned())).collect();
    let accounts = tables(users, groups, members);
    // The bed has a /tmp of its own.
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nss-snapshot");
    drop(std::fs::remove_dir_all(&shared));
    std::fs::create_dir_all(&shared).unwrap();
    countersign_snapshot::publish(&shared, &Default::default(), &accounts, &crate::support::info()).unwrap();
    let driver = compile(Path::new(env!("CARGO_TARGET_TMPDIR")));
    // Before there is a publisher: it would go on for ever if this failed.
    let module = module();

    let done = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut publications = 0_u32;
            while !done.load(Ordering::Relaxed) {
                countersign_snapshot::publish(&shared, &Default::default(), &accounts, &crate::support::info())
                    .unwrap();
                publications = publications.saturating_add(1);
                thread::sleep(std::time::Duration::from_millis(5));
            }
            publications
        });
        let bed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bed");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in-the-bed.sh");
        let output =
            Command::new("timeout").arg("120").arg(bed).arg(script).arg(module).arg(driver).arg(&shared).output();
        done.store(true, Ordering::Relaxed);
        assert!(publisher.join().unwrap() > 0);
        output.unwrap()
    });
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && printed.ends_with("all of it\n"), "{printed}\n{said}");
}
