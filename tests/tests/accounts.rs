//! A user that exists on the ledger alone: the name service module, sshd, PAM and the helper together.

#![expect(clippy::unwrap_used, reason = "a scenario: a failure is its result")]

use std::{fs, os::unix::fs::MetadataExt as _};

use countersign_registry::{Entry, entries::Targets};
use e2e::{
    agent,
    client::{Credential, Login, ssh},
    in_bed, in_bed_of, machine, process,
    story::{ALICE_UID, Line, Setup, Story},
};

fn passwd(key: &str) -> String {
    process::success(machine::command("getent").args(["passwd", key]))
}

/// sshd, its PAM and the C library that loads the module are of one release.
fn logs_in_until_it_is_locked() {
    let mut story = Story::begin(Setup { nss: true, ..Setup::default() });
    let (key, credential) = (story.key.clone(), Credential::key(&story.key));
    let line = Line { key: Some(&key), ..Line::default() };
    let local = fs::read_to_string("/etc/passwd").unwrap();
    assert!(!local.contains("alice"), "alice has no account of the host's own");
    assert!(fs::metadata("/home/alice").is_err(), "alice has no home yet");

    story.assert_accepted("alice", &credential, &line);
    let minted = story.mint();
    let minted = e2e::mint::Mint { principals: &["alice"], ..minted }.make();
    let certificate = Credential::certificate(&key, &minted.path);
    let certified = story.line(&key, &minted);
    story.assert_accepted("alice", &certificate, &certified);
    let id = format!("uid={ALICE_UID}(alice) gid={ALICE_UID}(alice) groups={ALICE_UID}(alice)\n");
    let seen = ssh(&story.sshd, "alice", &credential, "id; touch mine; pwd");
    assert_eq!(seen, Login::Accepted(format!("{id}/home/alice\n")));
    let home = fs::metadata("/home/alice").unwrap();
    assert_eq!((home.uid(), home.gid(), home.mode() & 0o7777), (ALICE_UID, ALICE_UID, 0o700));

    // The lock ends the login at once; the name stays, with a shell that refuses, and so do her files.
    story.realm.by(|realm| &realm.revoker, &[Entry::Lock(Targets::Users(vec![story.alice]))]);
    agent::once();
    story.assert_refused("alice", &credential, "user-locked", &Line::default());
    assert!(passwd("alice").ends_with(":/home/alice:/usr/sbin/nologin\n"), "{}", passwd("alice"));

    // Removed: nobody gets the number or the name, and her files still say whose they were.
    story.realm.by(|realm| &realm.admin, &[Entry::Remove(vec![story.alice])]);
    story.publish();
    assert!(passwd(&ALICE_UID.to_string()).starts_with("alice:*:"), "{}", passwd("alice"));
    let owner = process::success(machine::command("stat").args(["--format", "%U", "/home/alice/mine"]));
    assert_eq!(owner, "alice\n");
}

#[test]
fn a_user_without_a_local_account_logs_in_and_has_a_home_until_it_is_locked() {
    in_bed!(logs_in_until_it_is_locked);
}

#[test]
fn a_user_without_a_local_account_logs_in_on_debian_11() {
    in_bed_of!("bullseye", logs_in_until_it_is_locked);
}

#[test]
fn a_user_without_a_local_account_logs_in_on_debian_13() {
    in_bed_of!("trixie", logs_in_until_it_is_locked);
}
