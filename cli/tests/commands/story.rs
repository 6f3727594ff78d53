//! The command line on a real chain: from an empty one to a certificate, its revocation, and the host's reason.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::bed::Bed;
use countersign_chain::realm_file::RealmFile;
use countersign_compile::{HostView, compile, origins};
use countersign_issuer::view::View;
use countersign_snapshot::{Clock, Freshness, PublishInfo, Salt, publish, write_origins};

/// Publishes what `host` would have, as its agent does.
fn snapshot(bed: &Bed, host: &str, directory: &Path) {
    let realm = RealmFile::load(&bed.path("realm.toml")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let view = runtime.block_on(View::read(&realm, 1)).unwrap();
    let host = host.parse().unwrap();
    let compiled = compile(&view.effective, &HostView { host, allow_root: false, max_staleness_secs: None });
    let clock = Clock::now().unwrap();
    let info = PublishInfo {
        freshness: Freshness {
            valid_until_secs: compiled.valid_until_secs,
            boot_id: clock.boot_id,
            boottime_secs: clock.boottime_secs,
            age_consumed_secs: clock.unix_secs.saturating_sub(compiled.facts.latest_block.time_secs),
            max_staleness_secs: compiled.max_staleness_secs,
            highest_wall_secs: clock.unix_secs,
        },
        facts: compiled.facts,
        salt: Salt([7; 16]),
        access_group: None,
        now_unix_secs: clock.unix_secs,
    };
    publish(directory, &compiled.access, &compiled.accounts, &info).unwrap();
    write_origins(directory, &info.facts.realm, host, origins(&view.effective)).unwrap();
}

// row: D3, D4, D13, D20
#[test]
fn from_an_empty_chain_to_a_certificate_its_revocation_and_the_reason() {
    let bed = Bed::new().with_alice();
    let issued = bed.issue(&["alice@web1", "--as", "deploy", "--ttl", "5m", "--key", "alice.pub"]);
    assert_eq!(issued.code, 0, "{}", issued.stderr);
    let issued = issued.json();
    assert_eq!(issued["outcome"], "issued");
    let life = issued["valid-before"].as_u64().unwrap() - issued["valid-after"].as_u64().unwrap();
    assert_eq!(life, 300 + 30);
    assert_eq!(bed.read("alice-cert.pub").trim_end(), issued["certificate"].as_str().unwrap());
    let inspected = bed.ok(&["inspect", "alice-cert.pub"]);
    assert_eq!(inspected["principals"], serde_json::json!(["deploy"]));
    assert_eq!(inspected["extensions"][1], "permit-pty");
    assert_eq!(inspected["log-proof"]["batch"], issued["batch"]);
    assert_eq!(bed.logged("BATCH"), 1);

    let host = bed.ok(&["host", "show", "web1"])["id"].as_str().unwrap().to_owned();
    let before = tempfile::tempdir().unwrap();
    snapshot(&bed, &host, before.path());
    let directory = before.path().to_str().unwrap();
    let explain = ["explain", "alice-cert.pub", "--login", "deploy", "--snapshot", directory];
    let granted = bed.ok(&explain);
    assert_eq!((&granted["verdict"], &granted["reason"]), (&"granted".into(), &"granted".into()));
    assert_eq!(granted["grant"], issued["grant"]);
    let steps: Vec<&str> =
        granted["facts"].as_array().unwrap().iter().map(|fact| fact["step"].as_str().unwrap()).collect();
    assert!(steps.contains(&"batch") && steps.contains(&"serial-not-revoked"), "{steps:?}");
    for step in ["ca", "user", "grant", "batch"] {
        let fact = granted["facts"].as_array().unwrap().iter().find(|fact| fact["step"] == step).unwrap();
        let entry = &fact["entries"][0];
        assert!(["block", "shard", "index", "time"].iter().all(|field| entry[*field].is_u64()), "{fact}");
    }
    let other = bed.ok(&["explain", "alice-cert.pub", "--login", "root", "--snapshot", directory]);
    assert_eq!(other["reason"], "root-not-allowed");
    let at = |when: &str| {
        let explained =
            bed.ok(&["explain", "alice-cert.pub", "--login", "deploy", "--snapshot", directory, "--at", when]);
        explained["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!((at("published").as_str(), at("2h").as_str()), ("granted", "snapshot-stale"));

    bed.ok(&["revoke", "cert", "alice-cert.pub"]);
    let after = tempfile::tempdir().unwrap();
    snapshot(&bed, &host, after.path());
    let directory = after.path().to_str().unwrap();
    let refused = bed.ok(&["explain", "alice-cert.pub", "--login", "deploy", "--snapshot", directory]);
    assert_eq!((&refused["verdict"], &refused["reason"]), (&"refused".into(), &"certificate-revoked".into()));

    // The same pre-certificate, asked for again, is another certificate: the revocation was one of this serial.
    assert_eq!(bed.issue(&["alice@web1", "--as", "deploy", "--key", "alice.pub"]).code, 0);
    let verified = bed.ok(&["verify"]);
    assert_eq!((&verified["verified"], &verified["ignored"]), (&true.into(), &0.into()));
}

#[test]
fn what_a_host_would_refuse_is_refused_with_its_reason_before_anything_is_logged() {
    let bed = Bed::new().with_alice();
    let refused = |who: &str, login: &str, ttl: &str, reason: &str| {
        let ran = bed.issue(&[who, "--as", login, "--ttl", ttl, "--key", "alice.pub"]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
        let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(error["error"]["reason"], reason, "{error}");
        crate::bed::documented(&error);
    };
    refused("alice@web1", "root", "5m", "login-not-granted");
    refused("alice@db1", "deploy", "5m", "host-not-covered");
    refused("alice@web1", "deploy", "11m", "ttl-too-long");
    bed.ok(&["revoke", "key", "alice.pub"]);
    refused("alice@web1", "deploy", "5m", "key-locked");
    bed.ok(&["revoke", "host", "web1"]);
    refused("alice@web1", "deploy", "5m", "host-locked");
    bed.ok(&["revoke", "user", "alice"]);
    bed.ok(&["ca", "lock", "prod"]);
    refused("alice@db1", "deploy", "5m", "ca-locked");
    assert_eq!(bed.logged("BATCH"), 0);
    assert!(!bed.path("alice-cert.pub").exists());
}

// row: D17 (whoever holds the CA's key, but is not an issuer it lists, mints nothing)
#[test]
fn neither_the_ca_s_key_alone_nor_another_key_issues() {
    let bed = Bed::new().with_alice();
    let as_admin = bed.run(&["issue", "alice@web1", "--as", "deploy", "--key", "alice.pub"]);
    assert!(as_admin.stderr.contains("refused: batch-issuer"), "{}", as_admin.stderr);
    bed.ssh_keygen("stolen", "ca password");
    let other_key = bed.issue(&["alice@web1", "--as", "deploy", "--key", "alice.pub", "--ca-key", "stolen"]);
    assert!(other_key.stderr.contains("the CA's record says SHA256:"), "{}", other_key.stderr);
    std::fs::set_permissions(bed.path("ca"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let readable = bed.issue(&["alice@web1", "--as", "deploy", "--key", "alice.pub"]);
    assert!(readable.stderr.contains("mode 0644 lets others read it"), "{}", readable.stderr);
    assert_eq!((as_admin.code, other_key.code, readable.code), (1, 1, 1));
    assert_eq!(bed.logged("BATCH"), 0);
}

// row: D8, D9, D10, D11, D22, D23
#[test]
fn a_key_pair_is_made_sealed_fetched_acknowledged_and_let_go_of() {
    let bed = Bed::new().with_alice();
    let device = bed.actor("device");
    let sealing = bed.ok(&["device", "new", "device.x25519"])["x25519"].as_str().unwrap().to_owned();
    bed.ok(&["payload", "add", "deploy-key", "--kind", "ssh-key-pair"]);
    bed.ok(&["member", "set", &device, "--user", "alice", "--x25519", &sealing, "--wait", "final"]);
    let issued = bed.issue(&[
        "alice@web1",
        "--as",
        "deploy",
        "--generate",
        "--deliver-to",
        "user:alice",
        "--payload",
        "deploy-key",
        "--store",
        "blocks",
        "--delivery-key",
        "issuer.x25519",
    ]);
    assert_eq!(issued.code, 0, "{}", issued.stderr);
    let issued = issued.json();
    assert_eq!(issued["certificate"], serde_json::Value::Null);
    assert_eq!(std::fs::read_dir(bed.path("blocks")).unwrap().count(), 1);
    let cid = issued["delivery"]["cid"].as_str().unwrap();
    let log = bed.ok(&["log", "--kind", "DELIVERY"]);
    assert!(!log.to_string().contains(cid), "the CID is in the clear on the ledger");

    let sweep = ["delivery", "sweep", "--store", "blocks"];
    assert_eq!(bed.ok(&sweep)["items"][0]["outcome"], "kept");
    let fetch = |actor: &str, key: &str| {
        bed.run(&["--as-actor", actor, "fetch", "--delivery-key", key, "--store", "blocks", "--out", "received"])
    };
    std::fs::create_dir(bed.path("received")).unwrap();
    std::fs::set_permissions(bed.path("received"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let wrong_key = fetch("device.json", "issuer.x25519");
    assert_eq!(wrong_key.code, 1);
    assert!(wrong_key.stderr.contains("another sealing key than this device's"), "{}", wrong_key.stderr);
    let fetched = fetch("device.json", "device.x25519");
    assert_eq!(fetched.code, 0, "{} {}", fetched.stdout, fetched.stderr);
    assert_eq!(fetched.json()["deliveries"][0]["outcome"], "applied");
    let private = bed.path("received/deploy-key");
    assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o7777, 0o600);
    let certificate = bed.ok(&["inspect", "received/deploy-key-cert.pub"]);
    let public = bed.ok(&["inspect", "received/deploy-key.pub"]);
    assert_eq!(certificate["fingerprint"], public["fingerprint"]);
    assert_eq!(fetch("device.json", "device.x25519").json()["deliveries"], serde_json::json!([]));

    // A later write of anybody, once final, makes the acknowledgement before it final.
    bed.ok(&["user", "add", "bob", "--wait", "final"]);
    assert_eq!(bed.ok(&["delivery", "list"])["items"][0]["state"], "acknowledged-finally");
    assert_eq!(bed.ok(&sweep)["items"][0]["outcome"], "unpinned");
    assert_eq!(std::fs::read_dir(bed.path("blocks")).unwrap().count(), 0);
    assert_eq!(bed.ok(&sweep)["total"], 0);
}

#[test]
fn writes_travel_as_files_between_those_who_sign_and_those_who_send() {
    let bed = Bed::new();
    bed.ok(&["user", "add", "alice", "--sign-to", "signed.toml"]);
    assert_eq!(bed.logged("USER_ADD"), 0);
    let stranger = bed.actor("stranger");
    let submitted = bed.ok(&["--as-actor", "stranger.json", "submit", "signed.toml"]);
    assert_eq!(submitted["actor"].as_str().unwrap().to_lowercase(), bed.admin.to_lowercase());
    let replayed = bed.run(&["submit", "signed.toml"]);
    assert!(replayed.stderr.contains("nonce 0 was signed, the next one is 1"), "{}", replayed.stderr);
    let forbidden = bed.run(&["--as-actor", "stranger.json", "user", "add", "eve"]);
    assert_eq!(forbidden.code, 1);
    assert_eq!(bed.logged("USER_ADD"), 1);

    // A proposal made before another was sent cannot be sent any more, however many have signed.
    bed.ok(&["role", "grant", &stranger, "watchdog", "--propose", "one.toml"]);
    bed.ok(&["role", "grant", &stranger, "approver", "--propose", "two.toml"]);
    for file in ["one.toml", "two.toml"] {
        for root in ["root1.json", "root2.json"] {
            bed.ok(&["realm", "sign", file, "--root-key", root]);
        }
    }
    bed.ok(&["realm", "submit", "one.toml"]);
    let stale = bed.run(&["realm", "submit", "two.toml"]);
    assert!(stale.stderr.contains("has root nonce 1, the ledger's is 2"), "{}", stale.stderr);
    // With the keys at hand, roots write at once.
    let direct = ["role", "grant", &stranger, "approver", "--root-key", "root1.json", "--root-key", "root3.json"];
    bed.ok(&direct);
    let shown = bed.ok(&["realm", "show"]);
    assert_eq!((&shown["root-nonce"], &shown["threshold"]), (&3.into(), &2.into()));
    let alone = bed.run(&["role", "revoke", &stranger, "--root-key", "root1.json"]);
    assert!(alone.stderr.contains("1 of 2 signatures"), "{}", alone.stderr);
}

#[test]
fn locks_end_by_the_roots_and_removed_things_are_gone() {
    let bed = Bed::new().with_alice();
    let proposed = |arguments: &[&str]| {
        let roots = ["--root-key", "root1.json", "--root-key", "root2.json", "--wait", "final"];
        bed.ok(&arguments.iter().chain(&roots).copied().collect::<Vec<_>>())
    };
    bed.ok(&["revoke", "user", "alice"]);
    assert_eq!(bed.ok(&["user", "show", "alice"])["state"], "locked");
    let by_actor = bed.run(&["unlock", "user", "alice"]);
    assert_eq!(by_actor.code, 2);
    assert!(by_actor.stderr.contains("a threshold of roots is needed"), "{}", by_actor.stderr);
    proposed(&["unlock", "user", "alice"]);
    assert_eq!(bed.ok(&["user", "show", "alice"])["state"], "active");
    proposed(&["revoke", "key", "alice.pub", "--permanently"]);
    let issue = bed.issue(&["alice@web1", "--as", "deploy", "--key", "alice.pub"]);
    assert!(issue.stderr.contains("refused: key-revoked"), "{}", issue.stderr);

    bed.ok(&["label", "remove", "web1", "web"]);
    let again = bed.run(&["label", "remove", "web1", "web"]);
    assert!(again.stderr.contains("label `web of host web1`: not on the ledger"), "{}", again.stderr);
    let uid = bed.ok(&["user", "show", "alice"])["uid"].clone();
    bed.ok(&["user", "remove", "alice"]);
    let unknown = bed.run(&["user", "show", "alice"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("user `alice`: not on the ledger of this realm"), "{}", unknown.stderr);
    let reused = bed.run(&["user", "add", "alice"]);
    assert!(reused.stderr.contains("every reader would ignore this: USER_ADD"), "{}", reused.stderr);
    proposed(&["restore", "alice"]);
    assert_eq!(bed.ok(&["user", "show", "alice"])["uid"], uid);
}

#[test]
fn an_addition_that_needs_two_admins_waits_for_the_second() {
    let bed = Bed::new();
    let second = bed.actor("second");
    let roots = ["--root-key", "root1.json", "--root-key", "root2.json", "--wait", "final"];
    let grant: Vec<&str> = ["role", "grant", &second, "admin"].into_iter().chain(roots).collect();
    bed.ok(&grant);
    bed.ok(&["realm", "propose", "two.toml", "--set", "directory-quorum=2"]);
    // For a nonce that is still to come it would be good later, whatever the roots have written in between.
    let text = std::fs::read_to_string(bed.path("two.toml")).unwrap();
    let nonce = text.lines().find_map(|line| line.strip_prefix("nonce = ")?.parse::<u64>().ok()).unwrap();
    let later = text.replace(&format!("nonce = {nonce}"), &format!("nonce = {}", nonce + 1));
    std::fs::write(bed.path("later.toml"), later).unwrap();
    let refused = bed.run(&["realm", "sign", "later.toml", "--root-key", "root1.json"]);
    assert!(refused.stderr.contains("signatures in it become good later"), "{}", refused.stderr);
    bed.ok(&["realm", "sign", "later.toml", "--root-key", "root1.json", "--offline"]);
    bed.ok(&["realm", "sign", "two.toml", "--root-key", "root1.json"]);
    bed.ok(&["realm", "sign", "two.toml", "--root-key", "root2.json"]);
    bed.ok(&["realm", "submit", "two.toml", "--wait", "final"]);
    let added = bed.ok(&["user", "add", "carol", "--wait", "final"]);
    let id = added["entries"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(bed.run(&["user", "show", "carol"]).code, 1);
    let waiting = bed.ok(&["waiting"]);
    assert_eq!((&waiting["items"][0]["id"], &waiting["items"][0]["confirmations"]), (&id.as_str().into(), &1.into()));
    let own = bed.run(&["confirm", &id]);
    assert!(own.stderr.contains("every reader would ignore this: CONFIRM"), "{}", own.stderr);
    bed.ok(&["--as-actor", "second.json", "confirm", &id, "--wait", "final"]);
    assert_eq!(bed.ok(&["user", "show", "carol"])["login"], "carol");
    assert_eq!(bed.ok(&["waiting"])["total"], 0);
}

// row: D12 (the CA's key in an agent; a hardware token is reached the same way)
#[test]
fn a_ca_key_in_ssh_agent_signs_and_so_can_the_certified_key_be_there() {
    let bed = Bed::new().with_alice();
    let agent = bed.ssh_agent();
    bed.ssh_add(&agent, "alice", "");
    let without = bed.run_with(
        &[
            "--as-actor",
            "issuer.json",
            "issue",
            "alice@web1",
            "--as",
            "deploy",
            "--agent-key",
            "alice",
            "--ca-agent",
            "--out",
            "id",
        ],
        &[("SSH_AUTH_SOCK", agent.socket())],
    );
    assert!(without.stderr.contains("does not hold the CA's key SHA256:"), "{}", without.stderr);
    bed.ssh_add(&agent, "ca", "ca password");
    let with = bed.run_with(
        &[
            "--as-actor",
            "issuer.json",
            "issue",
            "alice@web1",
            "--as",
            "deploy",
            "--agent-key",
            "alice",
            "--ca-agent",
            "--out",
            "id",
        ],
        &[("SSH_AUTH_SOCK", agent.socket())],
    );
    assert_eq!(with.code, 0, "{}", with.stderr);
    let certificate = bed.ok(&["inspect", "id-cert.pub"]);
    assert_eq!(certificate["fingerprint"], bed.ok(&["inspect", "alice.pub"])["fingerprint"]);

    // The same in three hands, and the CA's key is still in the agent.
    let order =
        ["batch", "prepare", "order.toml", "alice@web1", "--as", "deploy", "--ttl", "10m", "--key", "alice.pub"];
    let prepared = bed.ok(&order);
    assert_eq!((&prepared["outcome"], &prepared["batch"]), (&"prepared".into(), &serde_json::Value::Null));
    assert_eq!(bed.ok(&["batch", "read", "order.toml"])["certificates"], prepared["certificates"]);
    let logged = bed.ok(&["--as-actor", "issuer.json", "batch", "log", "order.toml"]);
    let list = bed.ok(&["batch", "list"]);
    let row = list["items"].as_array().unwrap().iter().find(|row| row["id"] == logged["batch"]).unwrap();
    assert_eq!(
        (&row["state"], &row["size"], &row["issuer"]),
        (&"accepted".into(), &1.into(), &bed.issuer.clone().into())
    );
    assert_eq!(bed.ok(&["batch", "read", "order.toml"])["certificates"], logged["certificates"]);
    let signed = bed.run_with(&["batch", "sign", "order.toml", "--ca-agent"], &[("SSH_AUTH_SOCK", agent.socket())]);
    assert_eq!(signed.code, 0, "{}", signed.stderr);
    assert!(signed.stderr.contains("to sign: alice@web1 as deploy from "), "{}", signed.stderr);
    crate::bed::documented(&signed.json());
    let certificate = bed.ok(&["inspect", "alice@web1-deploy-cert.pub"]);
    assert_eq!(certificate["log-proof"]["batch"], logged["batch"]);

    // Another key in the CA's place, under the next name, with the same limits.
    bed.ssh_keygen("next", "");
    bed.ok(&["ca", "rotate", "prod", "--key", "next.pub", "--propose", "rotate.toml"]);
    let read = bed.ok(&["realm", "sign", "rotate.toml", "--root-key", "root1.json"]);
    assert!(read["writes"][0].as_str().unwrap().contains("name=prod-2 "), "{read}");
    assert!(read["writes"][1].as_str().unwrap().starts_with("CA_RETIRE "), "{read}");
    let same = bed.run(&["ca", "rotate", "prod", "--key", "ca.pub", "--propose", "same.toml"]);
    assert!(same.stderr.contains("is the key of a CA already"), "{}", same.stderr);
    let taken = bed.run(&["ca", "rotate", "prod", "--key", "next.pub", "--name", "prod", "--propose", "same.toml"]);
    assert!(taken.stderr.contains("a CA has this name already"), "{}", taken.stderr);
}

#[test]
fn the_service_answers_a_request_once_it_is_approved_and_not_before() {
    let bed = Bed::new();
    let (device, approver) = (bed.actor("device"), bed.actor("approver"));
    let sealing = bed.ok(&["device", "new", "device.x25519"])["x25519"].as_str().unwrap().to_owned();
    bed.ssh_keygen("ssh", "");
    bed.ok(&["user", "add", "alice"]);
    bed.ok(&["user", "add", "bob"]);
    bed.ok(&["host", "add", "web1"]);
    bed.ok(&["grant", "add", "alice", "--host", "web1", "--login", "deploy", "--approvals", "1"]);
    bed.ok(&["member", "set", &device, "--user", "alice", "--x25519", &sealing]);
    bed.ok(&["member", "set", &approver, "--user", "bob"]);
    let roots = ["--root-key", "root1.json", "--root-key", "root2.json", "--wait", "final"];
    let grant: Vec<&str> = ["role", "grant", &approver, "approver"].into_iter().chain(roots).collect();
    bed.ok(&grant);
    bed.ok(&["payload", "add", "ssh", "--kind", "ssh-certificate", "--wait", "final"]);

    let direct = bed.issue(&["alice@web1", "--as", "deploy", "--key", "ssh.pub"]);
    assert!(direct.stderr.contains("refused: request-unknown"), "{}", direct.stderr);
    let asked = bed.ok(&[
        "--as-actor",
        "device.json",
        "request",
        "web1",
        "--as",
        "deploy",
        "--key",
        "ssh.pub",
        "--reason",
        "disk is full",
    ]);
    let request = asked["entries"][0]["id"].as_str().unwrap().to_owned();
    let service = bed.issuer_service();
    service.until(|line| line.contains("event=refused") && line.contains("reason=approvals-missing"));
    assert_eq!(bed.logged("BATCH"), 0);
    let own = bed.run(&["--as-actor", "device.json", "approve", &request]);
    assert_eq!(own.code, 1);
    bed.ok(&["--as-actor", "approver.json", "approve", &request]);
    let issued = service.until(|line| line.contains("event=issued"));
    assert!(issued.contains(&request), "{issued}");
    std::fs::create_dir(bed.path("home")).unwrap();
    std::fs::set_permissions(bed.path("home"), std::fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["ssh", "ssh.pub"] {
        std::fs::copy(bed.path(name), bed.path("home").join(name)).unwrap();
    }
    let fetch =
        ["--as-actor", "device.json", "fetch", "--delivery-key", "device.x25519", "--store", "blocks", "--out", "home"];
    let fetched = bed.ok(&fetch);
    assert_eq!(fetched["deliveries"][0]["outcome"], "applied", "{fetched}");
    let certificate = bed.ok(&["inspect", "home/ssh-cert.pub"]);
    assert_eq!(certificate["scope"]["request"].as_str().unwrap(), request);
    service.until(|line| line.contains("event=unpinned") && line.contains("reason=acknowledged"));
    assert_eq!(bed.logged("BATCH"), 1);
    let status: serde_json::Value = serde_json::from_str(&bed.read("state/status.json")).unwrap();
    assert_eq!(status["error"], serde_json::Value::Null);
}

// row: D20
#[test]
fn the_log_can_be_followed_while_others_write() {
    let bed = Bed::new();
    let followed = bed.follow(&["log", "--follow", "--kind", "USER_ADD", "--kind", "USER_LOCK"]);
    bed.ok(&["user", "add", "alice", "--name", "\u{1b}[2JAlice"]);
    let added = followed.next();
    assert_eq!((&added["kind"], &added["final"]), (&"USER_ADD".into(), &false.into()));
    assert_eq!(added["entry"]["login"], "alice");
    assert_eq!(added["actor"].as_str().unwrap().to_lowercase(), bed.admin.to_lowercase());
    bed.ok(&["revoke", "user", "alice"]);
    let locked = followed.next();
    assert_eq!((&locked["kind"], &locked["entry"]["targets"][0]), (&"USER_LOCK".into(), &added["id"]));
    let text = bed.run(&["--format", "text", "log", "--kind", "USER_ADD"]);
    assert!(text.stdout.contains("display-name=\"\\u{1b}[2JAlice\""), "{}", text.stdout);
    let page = bed.run(&["log", "--page", "9"]);
    assert_eq!(page.code, 2);
    let kind = bed.run(&["log", "--kind", "USER_ADDED"]);
    assert!(kind.stderr.contains("`USER_ADDED`: expected a kind's name"), "{}", kind.stderr);
}

// row: D14, D21, D22
#[test]
fn groups_keys_and_public_data_are_added_listed_and_removed() {
    let bed = Bed::new().with_alice();
    bed.ok(&["group", "add", "ops"]);
    bed.ok(&["group", "join", "ops", "alice"]);
    bed.ok(&["key", "add", "alice", "--key", "alice.pub", "--not-after", "30d", "--comment", "laptop"]);
    bed.ok(&["label", "add", "user:alice", "oncall"]);
    bed.ok(&[
        "grant",
        "add",
        "group:ops",
        "--all-hosts",
        "--login",
        "ops",
        "--via",
        "key",
        "--hours",
        "mon-fri 08:00-18:00",
        "--source-address",
        "10.0.0.0/8",
        "--permit",
        "pty,port-forwarding",
    ]);
    std::fs::write(bed.path("notice"), b"maintenance\x00\xff").unwrap();
    bed.ok(&["data", "add", "notice", "notice", "--wait", "final"]);
    assert_eq!(bed.ok(&["group", "show", "ops"])["members"], serde_json::json!(["alice"]));
    assert_eq!(bed.ok(&["user", "show", "alice"])["labels"], serde_json::json!(["oncall"]));
    assert_eq!(bed.ok(&["key", "list", "--user", "alice"])["items"][0]["comment"], "laptop");
    assert_eq!(bed.ok(&["key", "show", "alice.pub"])["user"], "alice");
    // The realm takes logged certificates only, so no grant opens to a plain key.
    let grants = bed.ok(&["grant", "list", "--user", "alice", "--host", "db1"]);
    assert_eq!((&grants["total"], &grants["items"][0]["via"]), (&1.into(), &"none".into()));
    assert_eq!(grants["items"][0]["hours"].as_array().unwrap().len(), 5);
    assert_eq!(bed.ok(&["host", "list", "--label", "web"])["total"], 1);
    assert_eq!(bed.ok(&["data", "list"])["items"][0]["bytes"], 13);
    let raw = bed.bytes(&["data", "cat", "notice"]);
    assert_eq!(raw, b"maintenance\x00\xff");
    bed.ok(&["group", "leave", "ops", "alice"]);
    assert_eq!(bed.ok(&["group", "show", "ops"])["members"], serde_json::json!([]));
    let grant = grants["items"][0]["id"].as_str().unwrap();
    bed.ok(&["grant", "remove", grant]);
    assert_eq!(bed.run(&["grant", "show", grant]).code, 1);
    bed.ok(&["key", "remove", "alice.pub"]);
    assert_eq!(bed.ok(&["key", "list"])["total"], 0);
    assert_eq!(bed.run(&["group", "leave", "ops", "alice"]).code, 1);
}

// row: D1
#[test]
fn a_second_realm_uses_the_same_contract_and_changes_its_roots() {
    let bed = Bed::new();
    let (old, new) = (bed.actor("old"), bed.actor("new"));
    let contract = bed.ok(&["realm", "show", "--offline"])["contract"].as_str().unwrap().to_owned();
    let url = bed.chain.url();
    let create = |contract: &str, out: &str| {
        let flags = ["--threshold", "1", "--rpc", &url, "--out", out, "--contract", contract];
        bed.run(&["realm", "create", "--root", &old].iter().chain(&flags).copied().collect::<Vec<_>>())
    };
    let wrong = create(&old, "wrong.toml");
    assert!(wrong.stderr.contains("code hash is") && !bed.path("wrong.toml").exists(), "{}", wrong.stderr);
    assert_eq!(create(&contract, "second.toml").code, 0);
    assert_eq!(create(&contract, "second.toml").code, 1);
    let here = |arguments: &[&str]| {
        let all: Vec<&str> = ["--realm", "second.toml"].iter().chain(arguments).copied().collect();
        bed.run(&all)
    };
    let proposed = here(&["realm", "propose", "roots.toml", "--new-root", &new, "--new-threshold", "1"]);
    assert_eq!(proposed.code, 0, "{}", proposed.stderr);
    // The same bytes are worth nothing to the other realm.
    let other = bed.run(&["realm", "sign", "roots.toml", "--root-key", "root1.json"]);
    assert!(other.stderr.contains("the realm file says"), "{}", other.stderr);
    assert_eq!(here(&["realm", "sign", "roots.toml", "--root-key", "old.json"]).code, 0);
    assert_eq!(here(&["realm", "submit", "roots.toml"]).code, 0);
    let shown = here(&["realm", "show"]).json();
    assert_eq!((&shown["root-nonce"], &shown["threshold"]), (&1.into(), &1.into()));
    assert_eq!(shown["roots"][0].as_str().unwrap().to_lowercase(), new.to_lowercase());
    let deposed = here(&["role", "grant", &old, "admin", "--root-key", "old.json"]);
    assert!(deposed.stderr.contains("is not a root of this realm"), "{}", deposed.stderr);
    assert_eq!(here(&["role", "grant", &new, "admin", "--root-key", "new.json"]).code, 0);
}
