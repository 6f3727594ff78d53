//! The roots at work, by files that go from one to the next: no single one of them changes anything.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a scenario: a failure is its result")]

use std::{fs, process::Command};

use e2e::{anvil::Anvil, bed, in_bed, process, tools};
use serde_json::Value;

/// `countersign` with keystores in one folder, all under one password.
struct Desk {
    folder: std::path::PathBuf,
}

impl Desk {
    fn new() -> Self {
        let folder = bed::folder("desk");
        fs::write(folder.join("password"), "correct horse battery staple\n").unwrap();
        process::success(Command::new("chmod").arg("600").arg(folder.join("password")));
        Self { folder }
    }

    fn run(&self, arguments: &[&str]) -> process::Output {
        let mut command = Command::new(tools::binary("countersign"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/root").current_dir(&self.folder);
        command.args(["--format", "json", "--password-file", "password"]);
        process::output(command.args(arguments))
    }

    fn success(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert_eq!(output.status, Some(0), "{arguments:?}: {}", output.stderr);
        serde_json::from_str(&output.stdout).unwrap()
    }

    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""), "{arguments:?}: {}", output.stderr);
        output.stderr
    }

    fn actor(&self, name: &str) -> String {
        self.success(&["actor", "new", name])["address"].as_str().unwrap().to_owned()
    }
}

#[test]
fn two_of_three_roots_govern_a_realm_by_a_file_and_one_alone_does_not() {
    in_bed!(|| {
        let (anvil, desk) = (Anvil::start(), Desk::new());
        let roots = ["root1", "root2", "root3"].map(|name| desk.actor(name));
        let payer = desk.actor("payer");
        let admin = desk.actor("admin");
        anvil.fund(&[&payer, &admin]);
        let (url, [one, two, three]) = (anvil.url(), &roots);
        desk.success(&["--as-actor", "payer", "realm", "deploy", "--rpc", &url, "--yes"]);
        let create = ["realm", "create", "--root", one, "--root", two, "--root", three];
        desk.success(&[&create[..], &["--threshold", "2", "--rpc", &url]].concat());

        let realm = ["--realm", "realm.toml"];
        let with = |rest: &[&'static str]| [&realm[..], rest].concat();
        desk.success(&with(&["realm", "propose", "proposal.toml", "--set", "max-ttl=30m"]));
        desk.success(
            &[&realm[..], &["role", "grant", &admin, "admin", "--propose", "proposal.toml", "--append"]].concat(),
        );

        desk.success(&with(&["realm", "sign", "proposal.toml", "--root-key", "root1"]));
        let message = desk.refusal(&with(&["--as-actor", "payer", "realm", "submit", "proposal.toml"]));
        assert!(message.contains("has 1 of 2 signatures"), "{message}");
        let message = desk.refusal(&with(&["realm", "sign", "proposal.toml", "--root-key", "root1"]));
        assert!(message.contains("has signed already"), "{message}");
        let message = desk.refusal(&with(&["realm", "sign", "proposal.toml", "--root-key", "payer"]));
        assert!(message.contains("is not a root of this realm"), "{message}");

        // What was signed cannot be changed afterwards.
        let good = fs::read_to_string(desk.folder.join("proposal.toml")).unwrap();
        let altered = good.replace("nonce = 0", "nonce = 1");
        assert_ne!(altered, good);
        fs::write(desk.folder.join("altered.toml"), altered).unwrap();
        let message = desk.refusal(&with(&["realm", "sign", "altered.toml", "--root-key", "root3"]));
        assert!(message.contains("is not one over these writes"), "{message}");

        desk.success(&with(&["realm", "sign", "proposal.toml", "--root-key", "root3"]));
        desk.success(&with(&["--as-actor", "payer", "realm", "submit", "proposal.toml", "--wait", "final"]));
        let message = desk.refusal(&with(&["--as-actor", "payer", "realm", "submit", "proposal.toml"]));
        assert!(message.contains("root nonce"), "{message}");

        let shown = desk.success(&with(&["realm", "show"]));
        assert_eq!(shown.pointer("/settings/max-ttl"), Some(&Value::from(1800)), "{shown}");
        desk.success(&with(&["--as-actor", "admin", "user", "add", "alice"]));
    });
}
