//! A realm whose chain is dead goes on elsewhere by a statement, all of it as people type it; and a host's agent follows.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use countersign_agent::agent::Agent;
use countersign_agent::config::Config;
use countersign_agent::log::Log;
use countersign_agent::reason::Reason;
use countersign_snapshot::Clock;
use harness::world::{ADMIN_KEY, OTHER_ROOT_KEY, ROOT_KEY, World, key};
use serde_json::{Value, json};

use crate::bed::{Ran, countersign, documented};

const TARGET: &str = "target.toml";

struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn run(&self, key: &str, realm: &str, arguments: &[&str]) -> Ran {
        let environment =
            [("COUNTERSIGN_FORMAT", "json"), ("COUNTERSIGN_REALM", realm), ("COUNTERSIGN_ACTOR_KEY", key)];
        countersign(self.directory.path(), arguments, &environment)
    }

    fn ok(&self, key: &str, realm: &str, arguments: &[&str]) -> Value {
        let ran = self.run(key, realm, arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        documented(&ran.json());
        ran.json()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A realm of two roots, both of whom must sign, in a world's contract.
    fn create(&self, world: &World, realm: &str) -> String {
        let [one, two] = [ROOT_KEY, OTHER_ROOT_KEY].map(|hex| key(hex).address().to_string());
        let (url, contract) = (world.anvil.url.to_string(), world.pin.contract.to_string());
        let roots = ["realm", "create", "--threshold", "2", "--root", &one, "--root", &two];
        let place = ["--rpc", &url, "--contract", &contract, "--out", realm];
        let made = self.ok(ADMIN_KEY, realm, &[&roots[..], &place[..]].concat());
        made["realm"].as_str().unwrap().to_owned()
    }

    /// Both roots sign a proposal, and it is sent.
    fn pass(&self, realm: &str, file: &str) {
        for root in [ROOT_KEY, OTHER_ROOT_KEY] {
            self.ok(root, realm, &["realm", "sign", file]);
        }
        self.ok(ADMIN_KEY, realm, &["realm", "submit", file]);
    }

    /// The agent of a host, as it starts.
    fn agent(&self) -> Agent {
        let clocks = Box::new(Clock::now);
        Agent::open(Config::load(&self.path("agent.toml")).unwrap(), Log::plain(Box::new(std::io::sink())), clocks)
            .unwrap()
    }
}

#[test]
fn a_dead_chain_is_left_by_the_command_line_and_a_host_follows_once_enough_roots_have_signed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (source, target) = runtime.block_on(async { (World::new().await, World::new().await) });
    runtime.block_on(async { (source.anvil.finalize().await, target.anvil.finalize().await) });
    let desk = Desk { directory: tempfile::tempdir().unwrap() };
    std::fs::set_permissions(desk.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (here, there) = (desk.create(&source, "realm.toml"), desk.create(&target, TARGET));
    let admin = key(ADMIN_KEY).address().to_string();
    let role = ["role", "grant", &admin, "admin,revoker", "--propose", "first.toml"];
    desk.ok(ADMIN_KEY, "realm.toml", &role);
    desk.pass("realm.toml", "first.toml");
    let host = desk.ok(ADMIN_KEY, "realm.toml", &["host", "add", "web1"])["entries"][0]["id"].clone();
    runtime.block_on(source.anvil.finalize());
    desk.ok(ADMIN_KEY, "realm.toml", &["realm", "archive", "realm.archive"]);

    let root = desk.directory.path().display();
    let config =
        format!("realm-file = \"{root}/realm.toml\"\nhost = {host}\nstate-dir = \"{root}/state\"\ngroup = \"root\"\n");
    std::fs::write(desk.path("agent.toml"), config).unwrap();
    std::fs::set_permissions(desk.path("agent.toml"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(runtime.block_on(desk.agent().cycle()).failure, None);

    // While it lives, it says for what nonce and by whose signatures a statement could count, whatever the archive says.
    let live = std::fs::read_to_string(desk.path("realm.toml")).unwrap() + "archive = \"realm.archive\"\n";
    std::fs::write(desk.path("live.toml"), live).unwrap();
    desk.ok(ADMIN_KEY, "live.toml", &["realm", "migrate", "--to", TARGET, "--statement", "--out", "live"]);
    let text = std::fs::read_to_string(desk.path("live-statement.json")).unwrap();
    assert!(text.contains("\"nonce\": 1"), "{text}");
    std::fs::write(desk.path("early.json"), text.replace("\"nonce\": 1", "\"nonce\": 2")).unwrap();
    let early = desk.run(ROOT_KEY, "live.toml", &["realm", "sign", "early.json"]);
    assert!(early.code == 1 && early.stderr.contains("has root nonce 2, the ledger says 1"), "{}", early.stderr);
    let shown = desk.ok(ROOT_KEY, "live.toml", &["realm", "sign", "live-statement.json"]);
    assert_eq!((&shown["compared-with"], &shown["nonce"]), (&json!("ledger"), &json!(1)));

    // The chain is gone for good.
    drop(source);
    let link = |file: &str, lines: &str| {
        let text = std::fs::read_to_string(desk.path(file)).unwrap();
        std::fs::write(desk.path(file), format!("{text}{lines}")).unwrap();
    };
    link(
        "realm.toml",
        "successor = \"target.toml\"\narchive = \"realm.archive\"\nstatement = \"move-statement.json\"\n",
    );
    let dead = desk.run(ADMIN_KEY, "realm.toml", &["realm", "migrate", "--to", TARGET, "--plan"]);
    assert_eq!(dead.code, 1, "{}", dead.stdout);
    let migrate = ["realm", "migrate", "--to", TARGET, "--statement", "--out", "move"];
    let planned = desk.ok(ADMIN_KEY, "realm.toml", &migrate);
    assert_eq!(planned["files"], json!(["move-target-1.toml", "move-statement.json"]));
    assert_eq!(planned["roles"][&admin.to_lowercase()], json!(["admin", "revoker"]), "{planned}");
    desk.pass(TARGET, "move-target-1.toml");
    runtime.block_on(target.anvil.finalize());

    let inspect = || desk.ok(ADMIN_KEY, "realm.toml", &["inspect", "move-statement.json"]);
    let unsigned = inspect();
    assert_eq!((&unsigned["what"], &unsigned["realm"]), (&json!("migration-statement"), &json!(here)));
    assert_eq!((&unsigned["target"]["realm"], &unsigned["signed"]), (&json!(there), &json!([])));
    // The roots have written once.
    assert_eq!((&unsigned["nonce"], &unsigned["threshold"]), (&json!(1), &json!(2)));
    // Whoever carries it has another nonce signed, for ever: nobody does, and the screen says whose word the right one is.
    let text = std::fs::read_to_string(desk.path("move-statement.json")).unwrap();
    let changes = [
        ("\"nonce\": 1", "\"nonce\": 2", "has root nonce 2, the archive says 1"),
        ("\"threshold\": 2", "\"threshold\": 1", "has threshold 1, the archive says 2"),
    ];
    for (from, to, problem) in changes {
        assert!(text.contains(from), "{text}");
        std::fs::write(desk.path("later.json"), text.replace(from, to)).unwrap();
        let later = desk.run(ROOT_KEY, "realm.toml", &["realm", "sign", "later.json"]);
        assert!(later.code == 1 && later.stderr.contains(problem), "{}", later.stderr);
    }
    let signed = desk.run(ROOT_KEY, "realm.toml", &["realm", "sign", "move-statement.json"]);
    assert_eq!((signed.code, &signed.json()["compared-with"]), (0, &json!("archive")), "{}", signed.stderr);
    documented(&signed.json());
    assert!(signed.stderr.contains("with root nonce 1") && signed.stderr.contains("No chain has proved them"));
    let failure = runtime.block_on(desk.agent().cycle()).failure.unwrap();
    assert_eq!(failure.reason, Reason::StatementThreshold, "{}", failure.message);
    let again = desk.run(ROOT_KEY, "realm.toml", &["realm", "sign", "move-statement.json"]);
    assert!(again.code == 1 && again.stderr.contains("has signed already"), "{}", again.stderr);
    let stranger = desk.run(ADMIN_KEY, "realm.toml", &["realm", "sign", "move-statement.json"]);
    assert!(stranger.code == 1 && stranger.stderr.contains("is not one of its roots"), "{}", stranger.stderr);
    desk.ok(OTHER_ROOT_KEY, "realm.toml", &["realm", "sign", "move-statement.json"]);
    let mut agent = desk.agent();
    assert_eq!(runtime.block_on(agent.cycle()).failure, None);
    assert_eq!(agent.status().realm.to_string(), there);

    // What the two files are, to whoever finds them.
    let roots = [ROOT_KEY, OTHER_ROOT_KEY].map(|hex| key(hex).address());
    let signed = inspect();
    assert_eq!((&signed["signed"], &signed["unverified"]), (&json!(roots), &json!([])));
    let elsewhere = desk.ok(ADMIN_KEY, TARGET, &["inspect", "move-statement.json"]);
    assert_eq!(elsewhere["signed"], json!([]));
    assert!(
        elsewhere["unverified"][1].as_str().unwrap().contains("realm file of the realm that is left"),
        "{elsewhere}"
    );
    let text = std::fs::read_to_string(desk.path("move-statement.json")).unwrap();
    std::fs::write(desk.path("altered.json"), text.replace("\"block\": ", "\"block\": 1")).unwrap();
    let altered = desk.ok(ADMIN_KEY, "realm.toml", &["inspect", "altered.json"]);
    assert_eq!(altered["signed"], json!([]));
    assert!(altered["unverified"][0].as_str().unwrap().contains("not by this key over this content"), "{altered}");
    let archive = desk.ok(ADMIN_KEY, TARGET, &["inspect", "realm.archive"]);
    assert_eq!((&archive["what"], &archive["realm"]), (&json!("realm-archive"), &json!(here)));
    assert_eq!((&archive["entries"], &archive["shards"]), (&json!(2), &json!(2)), "{archive}");
    let bytes = std::fs::read(desk.path("realm.archive")).unwrap();
    std::fs::write(desk.path("cut.archive"), &bytes[..bytes.len() - 1]).unwrap();
    let cut = desk.run(ADMIN_KEY, TARGET, &["inspect", "cut.archive"]);
    assert!(cut.code == 1 && cut.stderr.contains("is damaged: it ends too early"), "{}", cut.stderr);

    // People read on where the realm went, its beginning from the archive.
    link(TARGET, "predecessor = \"realm.toml\"\n");
    let verified = desk.ok(ADMIN_KEY, TARGET, &["verify"]);
    assert_eq!((&verified["continues"][0]["realm"], &verified["continues"][0]["entries"]), (&json!(here), &json!(2)));
}
