//! Devices that make their own keys, ask through the inbox, and are let in: by token, by hand, by what they show; and those who try to
//! get in beside them.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::bed::{Bed, Ran, documented};

/// `countersign` on a device: no actor of its own in the environment, no password that anybody typed.
fn on_device(bed: &Bed, arguments: &[&str]) -> Ran {
    assert_cmd::Command::cargo_bin("countersign")
        .unwrap()
        .current_dir(bed.directory.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", bed.directory.path())
        .args(["--realm", "realm.toml", "--format", "json"])
        .args(arguments)
        .output()
        .unwrap()
        .into()
}

fn device(bed: &Bed, arguments: &[&str]) -> Value {
    let ran = on_device(bed, arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
    let json = ran.json();
    documented(&json);
    json
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} in {value}"))
}

fn secret(bed: &Bed, name: &str, content: &str) {
    std::fs::write(bed.path(name), content).unwrap();
    std::fs::set_permissions(bed.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn invite(bed: &Bed, arguments: &[&str], token_file: &str) {
    let all: Vec<&str> =
        ["device", "invite", "--invitations", "invitations"].iter().chain(arguments).copied().collect();
    secret(bed, token_file, text(&bed.ok(&all), "token"));
}

/// A device asks with a token; somebody with coins sends what it signed.
fn asks(bed: &Bed, directory: &str, name: &str, token_file: &str) -> Value {
    let file = format!("{directory}.ask.toml");
    let init = ["device", "init", directory, "--name", name, "--token-file", token_file, "--sign-to", file.as_str()];
    let introduced = device(bed, &init);
    bed.ok(&["submit", &file]);
    introduced
}

/// The lines that `device accept` prints.
fn accept(bed: &Bed) -> Vec<Value> {
    let ran = bed.run(&["device", "accept", "--invitations", "invitations"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.iter().for_each(documented);
    lines
}

/// What became of each name, in the order of asking.
fn outcomes(lines: &[Value]) -> Vec<(&str, &str, Option<&str>)> {
    lines.iter().map(|line| (text(line, "name"), text(line, "outcome"), line["reason"].as_str())).collect()
}

// row: D2, D21
#[test]
fn a_token_lets_in_one_device_of_one_name_once_and_in_time() {
    let bed = Bed::new().with_alice();
    invite(&bed, &["press-7", "--owner", "alice", "--label", "line-2"], "token-7");
    invite(&bed, &["press-8"], "token-8");
    invite(&bed, &["press-9", "--expires", "1s"], "token-9");
    bed.ok(&["user", "add", "bob"]);
    invite(&bed, &["press-6", "--owner", "bob"], "token-6");
    bed.ok(&["user", "remove", "bob"]);
    // The first in the inbox is one to whom nothing can be given any more: the others do not wait for it.
    asks(&bed, "press-6", "press-6", "token-6");
    let introduced = asks(&bed, "press-7", "press-7", "token-7");
    for file in ["ledger-key.json", "ledger-password", "delivery-key"] {
        let mode = std::fs::metadata(bed.path("press-7").join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{file}");
    }
    let asked = on_device(&bed, &["device", "status", "press-7"]);
    assert_eq!((asked.code, text(&asked.json(), "state")), (1, "asked"));

    // Again, the same keys; nothing new is made.
    let again = device(&bed, &["device", "init", "press-7", "--name", "press-7"]);
    assert_eq!((text(&introduced, "outcome"), text(&again, "outcome")), ("made", "kept"));
    assert_eq!(introduced["uri"], again["uri"]);
    // Who stole the token, who asks under another name, who made a token up, and who comes late.
    asks(&bed, "thief", "press-7", "token-7");
    asks(&bed, "other-name", "press-10", "token-8");
    secret(&bed, "made-up", &format!("cst1-{}", "A".repeat(43)));
    asks(&bed, "stranger", "press-11", "made-up");
    std::thread::sleep(std::time::Duration::from_secs(2));
    asks(&bed, "late", "press-9", "token-9");

    let lines = accept(&bed);
    let expected = [
        ("press-6", "refused", Some("not-possible")),
        ("press-7", "accepted", None),
        ("press-7", "refused", Some("token-used")),
        ("press-10", "refused", Some("name-differs")),
        ("press-11", "refused", Some("token-unknown")),
        ("press-9", "refused", Some("token-expired")),
    ];
    assert_eq!(outcomes(&lines), expected);
    let enrolled = device(&bed, &["device", "status", "press-7", "--wait", "1m"]);
    assert_eq!(text(&enrolled, "state"), "enrolled");
    assert_eq!((&enrolled["owner"], &enrolled["labels"]), (&"alice".into(), &serde_json::json!(["line-2"])));
    let shown = bed.ok(&["host", "show", "press-7"]);
    assert_eq!((&shown["id"], &shown["actors"][0]), (&enrolled["host"], &introduced["ledger-key"]));
    assert_eq!(bed.ok(&["host", "list", "--label", "line-2"])["items"][0]["id"], enrolled["host"]);
    // Nothing is let in twice.
    let members = bed.logged("MEMBER_SET");
    assert!(accept(&bed).iter().all(|line| line["outcome"] == "refused"));
    assert_eq!(bed.logged("MEMBER_SET"), members);

    // The end of it: the key is nobody's, the host is gone.
    bed.ok(&["device", "retire", "press-7", "--wait", "final"]);
    let retired = on_device(&bed, &["device", "status", "press-7"]);
    assert_ne!(text(&retired.json(), "state"), "enrolled");
    assert_eq!(bed.run(&["host", "show", "press-7"]).code, 1);
    // Its used token lets nobody in again, itself neither.
    assert!(
        accept(&bed).iter().all(|line| line["outcome"] == "refused" || line["ledger-key"] == introduced["ledger-key"])
    );
}

#[test]
fn a_crash_between_the_note_and_the_approval_repeats_that_approval_and_no_other() {
    let bed = Bed::new();
    invite(&bed, &["press-7"], "token-7");
    asks(&bed, "press-7", "press-7", "token-7");
    // An actor without the role cannot finish; the note is made before anything is sent.
    bed.actor("stranger");
    let failed = bed.run(&["--as-actor", "stranger.json", "device", "accept", "--invitations", "invitations"]);
    assert_eq!(failed.code, 1, "{}", failed.stdout);
    let note = std::fs::read_dir(bed.path("invitations")).unwrap().next().unwrap().unwrap().path();
    assert!(std::fs::read_to_string(note).unwrap().contains("used-by = \"0x"));
    asks(&bed, "thief", "press-7", "token-7");
    assert_eq!(outcomes(&accept(&bed)), [("press-7", "accepted", None), ("press-7", "refused", Some("token-used"))]);
    let thief = on_device(&bed, &["device", "status", "thief"]);
    assert_eq!((thief.code, text(&thief.json(), "state")), (1, "asked"));
}

// row: D2
#[test]
fn by_hand_both_fingerprints_must_be_those_that_the_device_shows() {
    let bed = Bed::new();
    bed.ssh_keygen("hostkey", "");
    let init = ["device", "init", "web2", "--name", "web2", "--host-key", "hostkey.pub"];
    let introduced = device(&bed, &init);
    bed.chain.fund(text(&introduced, "ledger-key"));
    let sent: Vec<&str> = init.iter().copied().chain(["--send"]).collect();
    assert!(device(&bed, &sent)["receipt"]["block"].is_u64());
    // Somebody asks under the same name with keys of his own.
    let twin = device(&bed, &["device", "init", "twin", "--name", "web2", "--sign-to", "twin.toml"]);
    bed.ok(&["submit", "twin.toml"]);
    let pending = bed.ok(&["device", "pending"]);
    assert_eq!(pending["total"], 2);
    let entries: Vec<&str> = pending["items"].as_array().unwrap().iter().map(|item| text(item, "entry")).collect();

    let approve = |entry: &str, ledger_key: &str, delivery_key: &str, host_key: Option<&str>| {
        let mut arguments = vec!["device", "approve", entry, "--wait", "final"];
        arguments.extend(["--ledger-key", ledger_key, "--delivery-key", delivery_key]);
        arguments.extend(host_key.into_iter().flat_map(|key| ["--host-key", key]));
        bed.run(&arguments)
    };
    let (ledger, delivery) = (text(&introduced, "ledger-key"), text(&introduced, "delivery-key"));
    let host_key = Some(text(&introduced, "host-key"));
    for (ran, expected) in [
        (approve(entries[1], ledger, delivery, host_key), "ledger key"),
        (approve(entries[0], text(&twin, "ledger-key"), delivery, host_key), "ledger key"),
        (approve(entries[0], ledger, text(&twin, "delivery-key"), host_key), "delivery key"),
        (approve(entries[0], ledger, delivery, None), "host key"),
        (approve(entries[1], text(&twin, "ledger-key"), text(&twin, "delivery-key"), host_key), "host key"),
        (approve(&"0".repeat(64), ledger, delivery, host_key), "not on the ledger"),
    ] {
        assert_eq!(ran.code, 1, "{}", ran.stdout);
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
    assert_eq!(bed.logged("MEMBER_SET"), 0);
    assert_eq!(approve(entries[0], ledger, delivery, host_key).code, 0);
    assert_eq!(bed.ok(&["host", "show", "web2"])["actors"][0], introduced["ledger-key"]);
    let left = bed.ok(&["device", "pending"]);
    assert_eq!((&left["total"], &left["items"][0]["obstacle"]), (&1.into(), &"name-taken".into()));

    // By what a device shows, with no inbox at all.
    let shown = device(&bed, &["device", "init", "press-1", "--name", "press-1"]);
    let uri = text(&shown, "uri");
    bed.ok(&["device", "add", uri, "--label", "press"]);
    let repeated = bed.run(&["device", "add", uri]);
    assert!(repeated.stderr.contains("already-member"), "{}", repeated.stderr);
    let same_name = bed.run(&["device", "add", text(&twin, "uri")]);
    assert!(same_name.stderr.contains("name-taken"), "{}", same_name.stderr);
    // Another device cannot pass off somebody's delivery key as its own.
    let borrowed = text(&twin, "uri").replace(text(&twin, "x25519"), text(&shown, "x25519")).replace("web2", "web3");
    let borrowed = bed.run(&["device", "add", &borrowed]);
    assert!(borrowed.stderr.contains("delivery-key-taken"), "{}", borrowed.stderr);
    let code = String::from_utf8(bed.bytes(&["device", "init", "press-1", "--name", "press-1"])).unwrap();
    assert!(code.contains("▀") && code.contains(uri), "{code}");
}
