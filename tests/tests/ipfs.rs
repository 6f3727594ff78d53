//! Deliveries over real IPFS nodes: the issuer puts at one node's RPC, recipients read at another node's gateway, and bitswap carries
//! the blocks between the two. Nobody shares a directory.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a scenario: a failure is its result")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use countersign_registry::{B256, Entry, entries::Roles, entries::payload};
use e2e::{
    agent, bed, cli,
    client::{Credential, Login, ssh},
    in_bed, ipfs,
    issuer::Service,
    process,
    realm::{Directory, Settings},
    story::{Setup, Story},
    tools, wait,
};

/// A port of this bed's loopback that nobody listens at.
const NOBODY: &str = "http://127.0.0.1:9";

fn new_key(folder: &Path, name: &str) -> (String, B256) {
    let file = folder.join(name).to_str().unwrap().to_owned();
    let shown = cli::success(None, &["device", "new", &file]);
    (file, shown["x25519"].as_str().unwrap().parse().unwrap())
}

// row: D6 D9 D10 D11 D13 D27
#[test]
fn what_the_issuer_puts_at_its_node_reaches_a_device_and_a_host_at_another_s_gateway_and_is_let_go_of() {
    in_bed!(|| {
        let (first, second) = ipfs::pair();
        let mut story = Story::begin(Setup { settings: Settings::default(), via: 1, ..Setup::default() });
        let keys = bed::folder("delivery");
        let (issuer_key, issuer_public) = new_key(&keys, "issuer");
        let (device_key, device_public) = new_key(&keys, "device");
        let issuer = story.realm.issuer.address;
        let role = payload::RoleSet { actor: issuer, roles: Roles::ISSUER, x25519: issuer_public };
        story.realm.by_roots(&[Entry::RoleSet(role)]);
        let mut directory = Directory::of(&story.realm);
        directory.member(story.realm.device.address, story.alice, device_public.0);
        directory.write();
        story.publish();

        // alice asks, the service answers: through its own node, although another that it puts to is dead.
        let stores = format!(
            "puts = \"any\"\n[[block-store]]\nkubo = \"{NOBODY}\"\n[[block-store]]\nkubo = \"{}\"\n",
            first.rpc
        );
        let mut service = Service::start_with(&story.realm.issuer, &story.ca_key, &issuer_key, &stores);
        service.process.wait_line("event=started");
        let public = story.key.public_path();
        let asked = ["request", "web1", "--as", "deploy", "--ttl", "5m", "--key", public.to_str().unwrap()];
        let asked = cli::success(Some(&story.realm.device), &[&asked[..], &["--reason", "the disk is full"]].concat());
        let request = asked["entries"][0]["id"].as_str().unwrap();
        service.process.wait_line("event=store-failed action=put");
        service.process.wait_line(&format!("event=issued request={request}"));

        // Her device knows one gateway that is dead, and one that finds the block at the issuer's node.
        let home = bed::folder("home");
        fs::copy(&story.key.path, home.join("ssh")).unwrap();
        fs::copy(&public, home.join("ssh.pub")).unwrap();
        let (dead, gateway) = (format!("gateway:{NOBODY}"), format!("gateway:{}", second.gateway));
        let fetch = ["fetch", "--delivery-key", &device_key, "--out", home.to_str().unwrap()];
        let refused = cli::run(Some(&story.realm.device), &[&fetch[..], &["--store", &dead]].concat());
        assert!(refused.status == Some(1) && refused.stdout.contains("delivery-block-missing"), "{refused:?}");
        let fetched =
            cli::success(Some(&story.realm.device), &[&fetch[..], &["--store", &dead, "--store", &gateway]].concat());
        assert_eq!(fetched["deliveries"][0]["outcome"], "applied", "{fetched}");
        agent::once();
        let credential = Credential::files(&home.join("ssh"), Some(&home.join("ssh-cert.pub")));
        assert_eq!(ssh(&story.sshd, "deploy", &credential, "id -un"), Login::Accepted("deploy\n".to_owned()));

        // Once the acknowledgement is final, the block leaves the issuer's node; the dead one is asked for as long as it is configured.
        let note = fs::read_dir(bed::folder("issuer").join("state/outbox")).unwrap().next().unwrap().unwrap().path();
        let cid = fs::read_to_string(note).unwrap().lines().next().unwrap().to_owned();
        let node = format!("kubo:{}", first.rpc);
        let check = ["store", "check", &cid, "--store", &node];
        wait::until("the issuer's node to have let go of the block", || {
            let output = cli::run(None, &check);
            (output.status == Some(1) && output.stdout.contains("absent")).then_some(())
        });
        service.process.wait_line("event=store-failed action=unpin");
        assert_eq!(service.status().unwrap()["undelivered"], 1);
        drop(service);

        a_host_receives(&story, &issuer_key, &node, &second);
    });
}

/// A key pair for a host, from the command line to the agent: through the same two nodes.
fn a_host_receives(story: &Story, issuer_key: &str, node: &str, second: &ipfs::Node) {
    let secrets = bed::folder("host");
    let path = |name: &str| secrets.join(name).to_str().unwrap().to_owned();
    let password = path("password");
    fs::write(&password, "correct horse\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let made = cli::success(None, &["--password-file", &password, "actor", "new", &path("ledger.json")]);
    let address = made["address"].as_str().unwrap().to_owned();
    let shown = cli::success(None, &["device", "new", &path("x25519")]);
    story.anvil.fund(&[&address]);
    let x25519 = shown["x25519"].as_str().unwrap();
    let member = ["member", "set", &address, "--host", "web1", "--x25519", x25519, "--wait", "final"];
    cli::success(Some(&story.realm.admin), &member);
    let device = format!(
        "\
[device]
ledger-key = \"{}\"
ledger-password-file = \"{password}\"
sealing-key = \"{}\"

[[block-store]]
gateway = \"{NOBODY}\"

[[block-store]]
gateway = \"{}\"

[[payload]]
name = \"backup\"
path = \"/home/backup2/id_backup\"
owner = \"backup2\"
key-pairs = true
",
        path("ledger.json"),
        path("x25519"),
        second.gateway
    );
    agent::configure(story.host, &device);
    let (ca_key, outbox) = (story.ca_key.path.to_str().unwrap(), path("outbox"));
    let arguments = ["issue", "alice@web1", "--as", "deploy", "--generate", "--ca-key", ca_key];
    let to = ["--deliver-to", "host:web1", "--payload", "backup", "--delivery-key", issuer_key];
    let books = ["--store", node, "--outbox", &outbox];
    let issued = cli::success(Some(&story.realm.issuer), &[&arguments[..], &to, &books].concat());
    let cid = issued["delivery"]["cid"].as_str().unwrap();
    let held = cli::success(None, &["store", "check", cid, "--store", node]);
    assert_eq!(held["stores"][0]["outcome"], "pinned", "{held}");

    agent::once();
    let key = Path::new("/home/backup2/id_backup");
    let credential = Credential::files(key, Some(Path::new("/home/backup2/id_backup-cert.pub")));
    assert_eq!(ssh(&story.sshd, "deploy", &credential, "id -un"), Login::Accepted("deploy\n".to_owned()));
    story.anvil.wait_final();
    let swept = cli::success(Some(&story.realm.issuer), &[&["delivery", "sweep"][..], &books].concat());
    assert_eq!(swept["items"][0]["outcome"], "unpinned", "{swept}");
    let gone = cli::run(None, &["store", "check", cid, "--store", node]);
    assert!(gone.status == Some(1) && gone.stdout.contains("absent"), "{gone:?}");
}

// row: D28
#[test]
fn the_story_of_two_hosts_a_microservice_a_fleet_and_a_stolen_ca_holds_step_by_step() {
    in_bed!(|| {
        let mut story = Command::new(tools::workspace().join("tests/two-hosts"));
        story.env("COUNTERSIGN_TARGET", tools::target_folder()).env("COUNTERSIGN_TOOLS", tools::tools_folder());
        let told = process::success(story.env("COUNTERSIGN_HELPER", tools::helper()));
        assert!(told.trim_end().ends_with(" s: everything is stopped and removed"), "{told}");
    });
}
