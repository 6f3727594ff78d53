//! What a host does with the snapshot that it has, has no longer, or cannot believe; and how fast news reach it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a scenario: a failure is its result")]

use std::{
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::{FileExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use countersign_registry::{Entry, Fingerprint20, entries::Targets};
use e2e::{
    agent,
    client::{Credential, Login, ssh},
    in_bed, machine, process,
    realm::REALM_FILE,
    story::{Line, Setup, Story, block_of},
    tools, wait,
};

/// Removes everything that the agent published.
fn remove_snapshot() {
    fs::remove_dir_all(agent::SNAPSHOT).unwrap();
}

/// The published base of the access tables.
fn access_base() -> PathBuf {
    let files = fs::read_dir(Path::new(agent::SNAPSHOT).join("access")).unwrap();
    let bases = files.map(|file| file.unwrap().path());
    bases.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("base.")).max().unwrap()
}

/// The only line that the helper logged for a refused login of alice's with her key, by `ssh`.
fn refusal(story: &mut Story) -> String {
    story.log.take("countersign-sshd");
    assert_eq!(ssh(&story.sshd, "alice", &Credential::key(&story.key), "id -un"), Login::Refused);
    let lines = story.log.take("countersign-sshd");
    let [line] = lines.as_slice() else { panic!("expected one line: {lines:?}") };
    line.clone()
}

#[test]
fn without_a_snapshot_nobody_gets_in_and_with_the_next_one_they_do() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        remove_snapshot();
        let line = refusal(&mut story);
        let start = "reason=no-snapshot user=alice key=- serial=- ca=- batch=- block=- mode=keys detail=";
        assert!(line.starts_with(start), "{line}");
        agent::once();
        let (key, credential) = (story.key.clone(), Credential::key(&story.key));
        story.assert_accepted("alice", &credential, &Line { key: Some(&key), ..Line::default() });
    });
}

#[test]
fn a_snapshot_that_grew_old_lets_nobody_in() {
    in_bed!(|| {
        let mut story = Story::begin(Setup { agent: "max-staleness-secs = 8\n", ..Setup::default() });
        let line = wait::until("the snapshot to be too old", || {
            story.log.take("countersign-sshd");
            let login = ssh(&story.sshd, "alice", &Credential::key(&story.key), "id -un");
            (login == Login::Refused).then(|| story.log.take("countersign-sshd").pop().unwrap())
        });
        assert!(line.starts_with("reason=snapshot-stale user=alice key=- serial=- ca=- batch=- block="), "{line}");
        agent::once();
        assert_eq!(
            ssh(&story.sshd, "alice", &Credential::key(&story.key), "id -un"),
            Login::Accepted("alice\n".to_owned())
        );
    });
}

#[test]
fn a_snapshot_altered_or_not_roots_own_is_not_believed() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let base = access_base();
        let whole = fs::read(&base).unwrap();

        let file = OpenOptions::new().write(true).open(&base).unwrap();
        for page in (0..whole.len()).step_by(4096) {
            let at = page.saturating_add(100).min(whole.len().saturating_sub(1));
            let byte = whole.get(at).unwrap() ^ 0xff;
            file.write_all_at(&[byte], u64::try_from(at).unwrap()).unwrap();
        }
        let line = refusal(&mut story);
        assert!(line.starts_with("reason=snapshot-corrupt user=alice "), "{line}");

        fs::write(&base, &whole).unwrap();
        chown(&base, Some(2001), None).unwrap();
        let line = refusal(&mut story);
        assert!(line.starts_with("reason=snapshot-untrusted user=alice "), "{line}");

        chown(&base, Some(0), None).unwrap();
        fs::set_permissions(&base, Permissions::from_mode(0o660)).unwrap();
        let line = refusal(&mut story);
        assert!(line.starts_with("reason=snapshot-untrusted user=alice "), "{line}");

        fs::set_permissions(&base, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(
            ssh(&story.sshd, "alice", &Credential::key(&story.key), "id -un"),
            Login::Accepted("alice\n".to_owned())
        );
    });
}

// row: D1
#[test]
fn an_agent_whose_pins_are_not_the_chains_publishes_nothing() {
    in_bed!(|| {
        let story = Story::begin(Setup::default());
        // As on a host that was just installed: with state of its own, the agent would publish that again.
        fs::remove_dir_all("/var/lib/countersign").unwrap();
        let good = fs::read_to_string(REALM_FILE).unwrap();
        let pin = &story.realm.file.pin;
        for (what, value) in [
            ("code hash", pin.code_hash.to_string()),
            ("realm", pin.realm.to_string()),
            ("contract", pin.contract.to_string()),
            ("a root", pin.roots.first().unwrap().to_string()),
            ("genesis hash", pin.genesis_hash.to_string()),
        ] {
            let (start, end) = value.split_at(value.len().saturating_sub(1));
            let other = if end == "0" { "1" } else { "0" };
            // Addresses are compared without their mixed-case checksum: another digit is another address.
            let altered = good.to_lowercase().replace(&value.to_lowercase(), &format!("{start}{other}").to_lowercase());
            assert_ne!(altered, good.to_lowercase(), "{what} is not in the realm file");
            machine::write(REALM_FILE, &altered, 0o644);
            let output = process::output(Command::new(tools::binary("countersign-agent")).args([
                "--config",
                agent::CONFIG,
                "once",
            ]));
            assert_eq!(output.status, Some(1), "with another {what}: {output:?}");
            assert!(!Path::new(agent::SNAPSHOT).join("access/manifest").exists(), "published with another {what}");
        }
        machine::write(REALM_FILE, &good, 0o644);
        agent::once();
        assert!(Path::new(agent::SNAPSHOT).join("access/manifest").exists());
    });
}

// row: D12
#[test]
fn a_running_agent_enforces_a_lock_with_the_block_that_holds_it() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let mut agent = agent::run();
        let credential = Credential::key(&story.key);
        let before = agent::published_block();
        wait::until("the agent to publish a newer block", || (agent::published_block() > before).then_some(()));
        assert_eq!(ssh(&story.sshd, "alice", &credential, "id -un"), Login::Accepted("alice\n".to_owned()));

        let lock = Entry::Lock(Targets::Keys(vec![Fingerprint20::of_blob(&story.key.blob())]));
        let locked = story.realm.by(|realm| &realm.revoker, &[lock]).block;
        story.log.take("countersign-sshd");
        wait::until("the first refusal", || {
            (ssh(&story.sshd, "alice", &credential, "id -un") == Login::Refused).then_some(())
        });
        let lines = story.log.take("countersign-sshd");
        let (last, earlier) = lines.split_last().unwrap();
        // Never one block late: whoever was let in was let in by a snapshot of an earlier block.
        for line in earlier {
            assert!(
                line.starts_with("reason=granted ") && block_of(line).unwrap() < locked,
                "{line}, locked in {locked}"
            );
        }
        assert!(
            last.starts_with("reason=key-locked ") && block_of(last).unwrap() >= locked,
            "{last}, locked in {locked}"
        );
        assert_eq!(agent.ended(), None);
        assert!(agent.stop().success());
    });
}
