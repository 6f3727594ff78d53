//! The ledger through the command line: what was written, by whom, and that it all proves.

#![expect(clippy::unwrap_used, reason = "a scenario: a failure is its result")]

use std::{fs, process::Command};

use countersign_registry::{Entry, Fingerprint20, entries::Targets};
use e2e::{
    agent, cli,
    client::{Credential, Login, ssh},
    in_bed,
    machine::KeyFile,
    process,
    story::{Setup, Story},
};
use serde_json::Value;

fn texts<'a>(page: &'a Value, field: &str) -> Vec<&'a str> {
    page["items"].as_array().unwrap().iter().map(|item| item[field].as_str().unwrap()).collect()
}

// row: D3 D4
#[test]
fn a_ca_has_an_id_lists_come_in_pages_and_an_unknown_one_is_a_clear_error() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        for name in ["ca2", "ca3"] {
            story.realm.add_ca(name, &KeyFile::generate(name), 600, &[]);
        }
        story.anvil.wait_final();
        let shown = cli::success(None, &["ca", "show", &story.ca.to_string()]);
        assert_eq!(shown["name"], "ca1");
        assert_eq!(shown["fingerprint"], story.ca_key.fingerprint());
        assert_eq!(shown["state"], "active");

        let first = cli::success(None, &["ca", "list", "--limit", "2"]);
        let second = cli::success(None, &["ca", "list", "--limit", "2", "--page", "2"]);
        let mut names = [texts(&first, "name"), texts(&second, "name")].concat();
        names.sort_unstable();
        assert_eq!((names, &first["total"]), (vec!["ca1", "ca2", "ca3"], &Value::from(3)));

        let unknown = "0123456789abcdef0123456789abcdef";
        let message = cli::refusal(None, &["ca", "show", unknown]);
        assert!(message.contains(unknown) && message.contains("countersign ca list"), "{message}");
    });
}

// row: D20
#[test]
fn every_action_stands_in_a_log_that_proves() {
    in_bed!(|| {
        let story = Story::begin(Setup::default());
        let fingerprint = story.key.fingerprint();
        let written = cli::success(Some(&story.realm.revoker), &["revoke", "key", &fingerprint]);
        assert_eq!(written["outcome"], "logged", "{written}");

        let verified = cli::success(None, &["verify"]);
        assert_eq!(verified["verified"], true, "{verified}");
        let log = cli::success(None, &["log", "--limit", "1000"]);
        let kinds = texts(&log, "kind");
        for kind in
            ["ROLE_SET", "SETTINGS", "CA_ADD", "USER_ADD", "HOST_ADD", "LABEL_ADD", "KEY_ADD", "GRANT_ADD", "KEY_LOCK"]
        {
            assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
        }
        let admin = story.realm.admin.address.to_string();
        let by_admin = cli::success(None, &["log", "--actor", &admin, "--limit", "1000"]);
        assert_eq!(by_admin["total"], 6, "{by_admin}");
        assert!(texts(&by_admin, "actor").iter().all(|actor| actor.eq_ignore_ascii_case(&admin)), "{by_admin}");
    });
}

// row: D21 D22
#[test]
fn hosts_have_owners_and_labels_and_public_data_is_read_back_as_it_was() {
    in_bed!(|| {
        let story = Story::begin(Setup::default());
        let admin = Some(&story.realm.admin);
        cli::success(admin, &["host", "add", "sensor7", "--owner", "alice", "--label", "field", "--label", "iiot"]);
        let file = e2e::bed::folder("data").join("notice");
        let bytes: Vec<u8> = (0..=255).collect();
        fs::write(&file, &bytes).unwrap();
        cli::success(admin, &["data", "add", "notice", file.to_str().unwrap()]);
        story.anvil.wait_final();

        let field = cli::success(None, &["host", "list", "--label", "field"]);
        assert_eq!(texts(&field, "name"), ["sensor7"]);
        assert_eq!(field["items"][0]["owner"], "alice");
        let both = cli::success(None, &["host", "list", "--label", "field", "--label", "web"]);
        assert_eq!(both["total"], 0);

        let binary = e2e::tools::binary("countersign");
        let mut cat = Command::new(binary);
        cat.args(["--realm", e2e::realm::REALM_FILE, "data", "cat", "notice"]);
        assert_eq!(cat.output().unwrap().stdout, bytes);
    });
}

#[test]
fn an_account_without_the_role_writes_nothing() {
    in_bed!(|| {
        let story = Story::begin(Setup::default());
        let issuer = Some(&story.realm.issuer);
        for arguments in [
            &["user", "add", "mallory"][..],
            &["host", "add", "mallory"],
            &["revoke", "user", "alice"],
            &["grant", "add", "alice", "--host", "db1", "--login", "root"],
        ] {
            let message = cli::refusal(issuer, arguments);
            assert!(message.contains("role"), "{arguments:?}: {message}");
        }
        let log = cli::success(None, &["log", "--actor", &story.realm.issuer.address.to_string()]);
        assert_eq!(log["total"], 0, "{log}");
    });
}

#[test]
fn explain_says_offline_what_the_host_said() {
    in_bed!(|| {
        let mut story = Story::begin(Setup::default());
        let (key, minted) = (story.key.clone(), story.mint().make());
        let path = minted.path.to_str().unwrap().to_owned();
        let explain = ["explain", &path, "--login", "deploy"];
        let granted = cli::success(None, &explain);
        assert_eq!((&granted["verdict"], &granted["reason"]), (&"granted".into(), &"granted".into()));
        let line = story.line(&key, &minted);
        story.assert_accepted("deploy", &Credential::certificate(&key, &minted.path), &line);

        cli::success(Some(&story.realm.revoker), &["revoke", "cert", &path]);
        agent::once();
        story.assert_refused("deploy", &Credential::certificate(&key, &minted.path), "certificate-revoked", &line);
        // To have explained a refusal is a success.
        let refused = cli::success(None, &explain);
        assert_eq!((&refused["verdict"], &refused["reason"]), (&"refused".into(), &"certificate-revoked".into()));

        // Each of these is looked at before what was denied until then; the entry that did it is named with its block.
        let fingerprint = Fingerprint20::of_blob(&key.blob());
        let (alice, host, ca, grant) = (story.alice, story.host, story.ca, story.grant);
        for (denial, reason, record, id) in [
            (Entry::Remove(vec![grant]), "grant-unknown", "removal", grant.to_string()),
            (Entry::Lock(Targets::Users(vec![alice])), "user-locked", "lock", alice.to_string()),
            (Entry::Lock(Targets::Cas(vec![ca])), "ca-locked", "lock", ca.to_string()),
            (Entry::Lock(Targets::Keys(vec![fingerprint])), "key-locked", "key-lock", fingerprint.to_string()),
            (Entry::Lock(Targets::Hosts(vec![host])), "host-locked", "lock", host.to_string()),
        ] {
            let mined = match denial {
                Entry::Remove(_) => story.realm.by(|realm| &realm.admin, &[denial]),
                _ => story.realm.by(|realm| &realm.revoker, &[denial]),
            };
            agent::once();
            let refused = cli::success(None, &explain);
            assert_eq!(refused["reason"], reason, "{refused}");
            let because = &refused["because"][0];
            let named = (&because["record"], &because["id"], &because["block"]);
            assert_eq!(named, (&record.into(), &id.into(), &mined.block.into()), "{reason}");
        }
    });
}

#[test]
fn when_the_chain_falls_silent_the_host_goes_on_until_its_snapshot_is_too_old() {
    in_bed!(|| {
        let story = Story::begin(Setup { agent: "max-staleness-secs = 20\n", ..Setup::default() });
        let Story { sshd, anvil, mut log, key, .. } = story;
        let credential = Credential::key(&key);
        drop(anvil);
        let once = process::output(Command::new(e2e::tools::binary("countersign-agent")).args([
            "--config",
            agent::CONFIG,
            "once",
        ]));
        assert_eq!(once.status, Some(1), "{once:?}");
        assert_eq!(ssh(&sshd, "alice", &credential, "id -un"), Login::Accepted("alice\n".to_owned()));
        assert!(agent::status()["failures"].as_u64().unwrap() > 0);
        let line = e2e::wait::until("the snapshot to be too old", || {
            log.take("countersign-sshd");
            let login = ssh(&sshd, "alice", &credential, "id -un");
            (login == Login::Refused).then(|| log.take("countersign-sshd").pop().unwrap())
        });
        assert!(line.starts_with("reason=snapshot-stale user=alice "), "{line}");
    });
}
