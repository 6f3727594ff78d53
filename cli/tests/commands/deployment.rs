//! `countersign realm deploy` as it is typed: planned, asked for, carried out, found again, killed in between.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::{Chain, PASSWORD, Ran, countersign, documented};

struct Desk {
    chain: Chain,
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let chain = Chain::start();
        // Under anvil's block 0 nothing can be proved.
        chain.call("anvil_mine", "[1]");
        Self { chain, directory: tempfile::tempdir().unwrap() }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let url = self.chain.url();
        let all =
            [&["--format", "json", "--as-actor", "payer.json", "realm", "deploy", "--rpc", &url], arguments].concat();
        countersign(self.directory.path(), &all, &[])
    }

    fn ok(&self, arguments: &[&str]) -> Value {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        let json = ran.json();
        documented(&json);
        json
    }

    fn sent(&self, account: &str) -> Value {
        self.chain.call("eth_getTransactionCount", &format!(r#"["{account}","pending"]"#))
    }
}

#[test]
fn the_contract_is_deployed_once_after_a_plan_and_a_yes_and_found_by_whoever_runs_it_again() {
    let desk = Desk::new();
    let made = countersign(desk.directory.path(), &["--format", "json", "actor", "new", "payer.json"], &[]);
    let payer = made.json()["address"].as_str().unwrap().to_owned();

    let poor = desk.run(&["--yes"]);
    assert!(poor.code == 1 && poor.stderr.contains("holds 0 wei, the transaction may cost"), "{}", poor.stderr);
    desk.chain.fund(&payer);

    let plan = desk.ok(&["--plan"]);
    assert_eq!(
        (&plan["outcome"], &plan["way"], &plan["chain-id"]),
        (&json!("planned"), &json!("factory"), &json!(31337))
    );
    assert!(plan["gas"].as_u64().unwrap() > 1_000_000 && plan["p256"] == true, "{plan}");
    let unasked = desk.run(&[]);
    assert_eq!((unasked.code, unasked.stdout.as_str()), (2, ""));
    assert!(unasked.stderr.contains("a confirmation is needed: expected --yes"), "{}", unasked.stderr);
    assert_eq!(desk.sent(&payer), "0x0");

    // Killed when a node has the transaction, and before it is in a block.
    desk.chain.call("evm_setAutomine", "[false]");
    desk.chain.call("evm_setIntervalMining", "[0]");
    let mut killed = Command::new(assert_cmd::cargo::cargo_bin!("countersign"))
        .current_dir(desk.directory.path())
        .env_clear()
        .env("HOME", desk.directory.path())
        .env("COUNTERSIGN_KEYSTORE_PASSWORD", PASSWORD)
        .args(["--as-actor", "payer.json", "realm", "deploy", "--yes", "--rpc", &desk.chain.url()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while desk.sent(&payer) != "0x1" {
        assert!(killed.try_wait().unwrap().is_none(), "it ended before it sent anything");
        std::thread::sleep(Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    desk.chain.call("evm_setIntervalMining", "[1]");

    let found = desk.ok(&["--yes"]);
    assert_eq!((&found["outcome"], &found["contract"]), (&json!("found"), &plan["contract"]));
    assert_eq!(found["code-hash"], plan["code-hash"]);
    assert_eq!(desk.sent(&payer), "0x1", "one transaction, not two");

    // Without the factory it is another contract, at an address of the account's own.
    let plain = ["--plain", "--yes", "--wait", "latest"];
    assert_eq!(desk.ok(&plain)["outcome"], "found", "the shared one is preferred");

    let url = desk.chain.url();
    let create = ["realm", "create", "--threshold", "1", "--root", &payer, "--rpc", &url];
    let made = countersign(desk.directory.path(), &create, &[("COUNTERSIGN_FORMAT", "json")]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert_eq!(made.json()["contract"], plan["contract"], "a realm takes the shared contract unless told otherwise");
}

#[test]
fn a_realm_is_not_made_where_the_contract_is_not_and_not_on_a_chain_that_cannot_be_used() {
    let desk = Desk::new();
    let (url, root) = (desk.chain.url(), "0x00000000000000000000000000000000000000aa");
    let create = |extra: &[&str]| {
        let flags = ["realm", "create", "--threshold", "1", "--root", root, "--rpc", &url];
        countersign(desk.directory.path(), &[&flags[..], extra].concat(), &[])
    };
    let absent = create(&[]);
    assert!(absent.stderr.contains("code hash is") && absent.code == 1, "{}", absent.stderr);
    assert!(absent.stderr.contains("hint: deploy it with `countersign realm deploy`"), "{}", absent.stderr);
    assert!(!desk.directory.path().join("realm.toml").exists());
    let one_voice = create(&["--rpc", &url, "--quorum", "2"]);
    assert!(one_voice.stderr.contains("is there twice: one node is one voice"), "{}", one_voice.stderr);
    let too_many = create(&["--quorum", "2"]);
    assert_eq!(too_many.stderr, "countersign: endpoints: expected at least 2, got 1\n");
}
