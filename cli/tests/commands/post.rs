//! What comes by post: what a sender may write on a device that fetches, and whose file goes to whom.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::bed::Bed;

const SENDING: [&str; 4] = ["--delivery-key", "issuer.x25519", "--store", "blocks"];

fn home(bed: &Bed, name: &str) {
    std::fs::create_dir(bed.path(name)).unwrap();
    std::fs::set_permissions(bed.path(name), std::fs::Permissions::from_mode(0o700)).unwrap();
}

fn files(bed: &Bed, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(bed.path(directory)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What `fetch` said of each payload: its name, the outcome, the reason.
fn outcomes(fetched: &Value) -> Vec<(String, String, String)> {
    let rows = fetched["deliveries"].as_array().unwrap().iter();
    let word = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    rows.map(|row| (word(row, "payload"), word(row, "outcome"), word(row, "reason"))).collect()
}

fn row(payload: &str, outcome: &str, reason: &str) -> (String, String, String) {
    (payload.to_owned(), outcome.to_owned(), reason.to_owned())
}

// row: D9, D22
#[test]
fn a_sender_neither_chooses_a_file_nor_puts_a_key_of_its_own_in_the_place_of_the_device_s() {
    let bed = Bed::new().with_alice();
    let members = ["alice", "bob"].map(|login| {
        let device = bed.actor(&format!("{login}-device"));
        let sealing = bed.ok(&["device", "new", &format!("{login}.x25519")])["x25519"].as_str().unwrap().to_owned();
        (login, device, sealing)
    });
    bed.ok(&["user", "add", "bob"]);
    for (login, device, sealing) in &members {
        bed.ok(&["member", "set", device, "--user", login, "--x25519", sealing]);
    }
    bed.ok(&["payload", "add", "work", "--kind", "ssh-certificate", "--wait", "final"]);
    let fetch = |login: &str, arguments: &[&str]| {
        let (actor, key, out) = (format!("{login}-device.json"), format!("{login}.x25519"), format!("{login}-home"));
        let fetch = ["--as-actor", &actor, "fetch", "--delivery-key", &key, "--store", "blocks", "--out", &out];
        bed.run(&[&fetch[..], arguments].concat())
    };
    let send = |file: &str, who: &[&str], name: &str| {
        let to = who.iter().flat_map(|who| ["--to", who]);
        let send = ["--as-actor", "issuer.json", "send", file, "--as", name, "--kind", "opaque-secret"];
        bed.ok(&send.into_iter().chain(to).chain(SENDING).collect::<Vec<_>>())
    };

    // The certificate is for the key that Alice made; then come a key of the sender's under its name, and secrets named like files
    // that other programs believe.
    home(&bed, "alice-home");
    home(&bed, "bob-home");
    std::fs::copy(bed.path("alice.pub"), bed.path("alice-home/work.pub")).unwrap();
    std::fs::write(bed.path("alice-home/work"), "made here").unwrap();
    let issue = ["alice@web1", "--as", "deploy", "--deliver-to", "user:alice", "--payload", "work"];
    let issue = |key: &[&str]| {
        let issued = bed.issue(&[&issue[..], &SENDING, key].concat());
        assert_eq!(issued.code, 0, "{}", issued.stderr);
    };
    issue(&["--key", "alice.pub"]);
    issue(&["--generate"]);
    std::fs::write(bed.path("evil"), "ProxyCommand evil\n").unwrap();
    send("evil", &["user:alice"], "config");
    let fetched = fetch("alice", &[]);
    assert_eq!(fetched.code, 1, "{}", fetched.stdout);
    let applied = row("work", "applied", "");
    let key_pair = row("work", "failed", "delivery-key-pair");
    let config = row("config", "failed", "delivery-other-kind");
    assert_eq!(outcomes(&fetched.json()), [applied, key_pair, config]);
    let hint = fetched.json()["deliveries"][2]["message"].as_str().unwrap().to_owned();
    assert!(hint.contains("`--name config --kind opaque-secret`"), "{hint}");
    assert_eq!(files(&bed, "alice-home"), ["work", "work-cert.pub", "work.pub"]);
    assert_eq!(bed.read("alice-home/work"), "made here");

    // What she asks for by name and kind she gets; a kind without a name she cannot ask for.
    let unnamed = fetch("alice", &["--kind", "opaque-secret"]);
    assert!(unnamed.code == 2 && unnamed.stderr.contains("--name"), "{}", unnamed.stderr);
    let named = fetch("alice", &["--name", "config", "--kind", "opaque-secret"]);
    assert_eq!(outcomes(&named.json()), [row("config", "applied", "")], "{}", named.stderr);
    assert_eq!(bed.read("alice-home/config"), "ProxyCommand evil\n");

    // A file each: again only a file each, and to each the own one.
    std::fs::create_dir(bed.path("tokens")).unwrap();
    for login in ["alice", "bob"] {
        std::fs::write(bed.path("tokens").join(login), format!("{login}'s")).unwrap();
    }
    let sent = send("tokens", &["user:alice", "user:bob"], "token");
    let id = sent["id"].as_str().unwrap();
    let resend = |file: &str| {
        let resend = ["--as-actor", "issuer.json", "delivery", "resend", id, file];
        bed.run(&[&resend[..], &SENDING].concat())
    };
    let refused = resend("tokens/alice");
    assert!(refused.code != 0 && refused.stderr.contains("a file of its own"), "{}", refused.stderr);
    let again = resend("tokens");
    assert_eq!((again.code, &again.json()["recipients"]), (0, &2.into()), "{}", again.stderr);
    for login in ["alice", "bob"] {
        let fetched = fetch(login, &["--name", "token", "--kind", "opaque-secret"]);
        assert_eq!(fetched.code, 0, "{}", fetched.stdout);
        assert_eq!(bed.read(&format!("{login}-home/token")), format!("{login}'s"));
    }
}
