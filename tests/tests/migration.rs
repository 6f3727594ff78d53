//! A realm moves from anvil to geth by the files that its roots sign, while people log in: before, on the way, after, and when the old
//! chain is gone.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a scenario: a failure is its result")]

use std::{fs, process::Command};

use countersign_certificate::{RealmId, Scope, Target};
use countersign_registry::{B256, Entry, Fingerprint20, Id, entries::Targets};
use e2e::{
    agent, bed,
    client::{Credential, Login, ssh},
    in_bed, machine, process,
    realm::{Actor, REALM_FILE, random},
    story::{Setup, Story, now},
    tools, wait,
};
use harness::{
    node::{Client, Node},
    world::World,
};
use serde_json::Value;

const TARGET_FILE: &str = "/etc/countersign/target.toml";

/// `countersign` with one realm file, as somebody.
fn countersign(realm: &str, actor: &Actor, arguments: &[&str]) -> process::Output {
    let mut command = Command::new(tools::binary("countersign"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/root").current_dir(bed::folder("desk"));
    command.env("COUNTERSIGN_ACTOR_KEY", &actor.secret).args(["--realm", realm, "--format", "json"]);
    process::output(command.args(arguments))
}

fn success(realm: &str, actor: &Actor, arguments: &[&str]) -> Value {
    let output = countersign(realm, actor, arguments);
    assert_eq!(output.status, Some(0), "{arguments:?}: {}", output.stderr);
    serde_json::from_str(&output.stdout).unwrap()
}

fn refusal(realm: &str, actor: &Actor, arguments: &[&str]) -> String {
    let output = countersign(realm, actor, arguments);
    assert_eq!(output.status, Some(1), "{arguments:?}: {}", output.stdout);
    output.stderr
}

fn latest_time(geth: &Node) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let block = runtime.block_on(geth.call("eth_getBlockByNumber", serde_json::json!(["latest", false])));
    u64::from_str_radix(block["timestamp"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn a_realm_moves_from_anvil_to_geth_while_logins_go_on() {
    in_bed!(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Its clock runs ahead with each block that is made in a hurry; the story takes its time.
        let chain = runtime.block_on(World::of(Client::Geth));
        let geth = &chain.anvil;
        runtime.block_on(geth.finalize());
        let mut story = Story::begin(Setup::default());
        let plain = Credential::key(&story.key);
        let old = story.mint().make();
        let old = Credential::certificate(&story.key, &old.path);
        let assert_in = |story: &Story, credential: &Credential, when: &str| {
            let login = ssh(&story.sshd, "deploy", credential, "id -un");
            assert_eq!(login, Login::Accepted("deploy\n".to_owned()), "{when}");
        };
        assert_in(&story, &plain, "before");
        assert_in(&story, &old, "before");

        // The target: a new realm of the same roots on a chain of another make.
        let (url, contract) = (geth.url.to_string(), chain.pin.contract.to_string());
        let payer = story.realm.signer(0xad);
        let [root1, root2] = [0xa1, 0xa3].map(|name| story.realm.signer(name));
        for account in [payer.address, story.realm.revoker.address] {
            runtime.block_on(geth.fund(account));
        }
        let roots: Vec<String> = story.realm.file.pin.roots.iter().map(ToString::to_string).collect();
        let mut create = vec!["realm", "create", "--threshold", "2", "--rpc", &url, "--contract", &contract];
        create.extend(roots.iter().flat_map(|root| ["--root", root.as_str()]));
        create.extend(["--out", TARGET_FILE]);
        let target = success(REALM_FILE, &payer, &create)["realm"].as_str().unwrap().to_owned();
        let created = fs::read_to_string(TARGET_FILE).unwrap();
        machine::write(TARGET_FILE, &format!("{created}predecessor = \"realm.toml\"\n"), 0o644);
        let configured = fs::read_to_string(REALM_FILE).unwrap();
        machine::write(REALM_FILE, &format!("{configured}successor = \"target.toml\"\n"), 0o644);
        let running = agent::run();

        // The roots plan, sign and submit: the target's half, then the source's.
        let folder = bed::folder("desk");
        success(REALM_FILE, &payer, &["realm", "archive", "realm.archive"]);
        success(REALM_FILE, &payer, &["realm", "archive", "realm.archive", "--check"]);
        let planned = success(REALM_FILE, &payer, &["realm", "migrate", "--to", TARGET_FILE, "--plan"]);
        assert_eq!(planned["roles"].as_object().unwrap().len(), 3, "{planned}");
        let proposed = success(REALM_FILE, &payer, &["realm", "migrate", "--to", TARGET_FILE, "--out", "move"]);
        assert_eq!(proposed["files"], serde_json::json!(["move-target-1.toml", "move-source.toml"]));
        for (realm, file) in [(TARGET_FILE, "move-target-1.toml"), (REALM_FILE, "move-source.toml")] {
            success(realm, &root1, &["realm", "sign", file]);
            let message = refusal(realm, &payer, &["realm", "submit", file]);
            assert!(message.contains("1 of 2 signatures"), "{message}");
            success(realm, &root2, &["realm", "sign", file]);
            success(realm, &payer, &["realm", "submit", file]);
            if realm == TARGET_FILE {
                runtime.block_on(geth.finalize());
                wait::until("the clock to reach the chain", || {
                    (latest_time(geth).saturating_sub(now()) < 24).then_some(())
                });
                assert_in(&story, &plain, "between the halves");
            }
        }
        wait::until("the agent to follow", || (agent::status()["realm"] == target.as_str()).then_some(()));
        assert_in(&story, &plain, "after");
        assert_in(&story, &old, "after: the old realm's certificate lives on");
        let scope = Scope {
            realm: RealmId(target.parse::<B256>().unwrap().0),
            user: story.alice,
            grant: story.grant,
            target: Target::Host(story.host),
            request: Id(random()),
        };
        let new = e2e::mint::Mint { scope: Some(scope), ..story.mint() }.make();
        let new = Credential::certificate(&story.key, &new.path);
        assert_in(&story, &new, "after: the new realm's certificate");

        // Whoever is still pointed at the old realm issues nothing there, and adds nothing.
        let message = refusal(REALM_FILE, &story.realm.admin, &["user", "add", "bob"]);
        assert!(message.contains("USER_ADD: migrated"), "{message}");
        let status = success(REALM_FILE, &payer, &["status"]);
        assert_eq!(status["moved-to"], Value::from(target.as_str()));
        let verified = success(TARGET_FILE, &payer, &["verify"]);
        assert_eq!(verified["continues"][0]["silent"], Value::Null, "{verified}");
        let log = success(TARGET_FILE, &payer, &["log", "--kind", "USER_ADD"]);
        assert_eq!(log["items"][0]["leg"], 0, "{log}");

        // What the old realm denies counts, and goes on counting when its chain is gone.
        let fingerprint = Fingerprint20::of_blob(&story.key.blob());
        story.realm.by(|realm| &realm.revoker, &[Entry::Lock(Targets::Keys(vec![fingerprint]))]);
        wait::until("the lock to count", || {
            (ssh(&story.sshd, "deploy", &plain, "id -un") == Login::Refused).then_some(())
        });
        story.anvil.wait_final();
        let block = agent::published_block();
        runtime.block_on(geth.mine(1));
        wait::until("another look", || (agent::published_block() > block).then_some(()));
        drop(story.anvil);
        let _ = running.stop();
        agent::once();
        assert_eq!(ssh(&story.sshd, "deploy", &plain, "id -un"), Login::Refused);
        assert_eq!(ssh(&story.sshd, "deploy", &new, "id -un"), Login::Refused);
        assert!(folder.join("realm.archive").is_file());
        story.log.take("countersign-sshd");
    });
}
