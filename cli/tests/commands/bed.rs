//! A chain of one's own, a directory of one's own, and the command line as a person would type it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use harness::node::Node;
use serde_json::Value;

/// The password of every keystore made here.
pub(crate) const PASSWORD: &str = "correct horse";

/// anvil with a block a second, final two blocks later.
pub(crate) struct Chain {
    node: Node,
    runtime: tokio::runtime::Runtime,
}

impl Chain {
    pub(crate) fn start() -> Self {
        let node = Node::with(&["--block-time", "1", "--mixed-mining"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { node, runtime }
    }

    pub(crate) fn url(&self) -> String {
        self.node.url.as_str().trim_end_matches('/').to_owned()
    }

    pub(crate) fn call(&self, method: &'static str, params: &str) -> Value {
        self.runtime.block_on(self.node.call(method, serde_json::from_str(params).unwrap()))
    }

    /// Pays with a transaction: balances that are set by decree make anvil's proofs fail until the next block.
    pub(crate) fn fund(&self, address: &str) {
        self.runtime.block_on(self.node.fund(address.parse().unwrap()));
    }
}

/// A directory with a realm in it, and the chain it is on.
pub(crate) struct Bed {
    pub(crate) chain: Chain,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) admin: String,
    pub(crate) issuer: String,
}

/// What a command printed and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("ended by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Fails unless every field is on the page that promises the JSON to other programs. The fields of logged payloads are those of
/// `Entries.sol`, those of typed data EIP-712's.
pub(crate) fn documented(value: &Value) {
    const PAGE: &str = include_str!("../../../docs/cli-json.md");
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                // What stands by address is named by whatever it stands in.
                let is_named = name.starts_with("0x") || PAGE.contains(&format!("`{name}`"));
                assert!(is_named, "docs/cli-json.md does not name `{name}`");
                if !["entry", "typed-data"].contains(&name.as_str()) {
                    documented(value);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(documented),
        _ => {}
    }
}

/// `countersign` with an environment of its own, in `directory`.
pub(crate) fn countersign(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    assert_cmd::Command::cargo_bin("countersign")
        .unwrap()
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", directory)
        .env("COUNTERSIGN_KEYSTORE_PASSWORD", PASSWORD)
        .envs(environment.iter().copied())
        .args(arguments)
        .output()
        .unwrap()
        .into()
}

impl Bed {
    /// A realm with three roots of whom two must sign, an admin who may revoke, an issuer with a sealing key, and a CA.
    pub(crate) fn new() -> Self {
        let bed = Self {
            chain: Chain::start(),
            directory: tempfile::tempdir().unwrap(),
            admin: String::new(),
            issuer: String::new(),
        };
        let roots: Vec<String> = (1..=3).map(|number| bed.actor(&format!("root{number}"))).collect();
        let (admin, issuer) = (bed.actor("admin"), bed.actor("issuer"));
        let bed = Self { admin, issuer, ..bed };
        let url = bed.chain.url();
        bed.ok(&["--as-actor", "admin.json", "realm", "deploy", "--rpc", &url, "--yes"]);
        let mut create = vec!["realm", "create", "--threshold", "2", "--rpc", &url];
        for root in &roots {
            create.extend(["--root", root]);
        }
        bed.ok(&create);
        bed.ssh_keygen("ca", "ca password");
        let sealing = bed.ok(&["device", "new", "issuer.x25519"])["x25519"].as_str().unwrap().to_owned();
        bed.ok(&["role", "grant", &bed.admin, "admin,revoker", "--propose", "first.toml"]);
        bed.ok(&["role", "grant", &bed.issuer, "issuer", "--x25519", &sealing, "--propose", "first.toml", "--append"]);
        bed.ok(&[
            "ca",
            "add",
            "prod",
            "--key",
            "ca.pub",
            "--max-ttl",
            "1h",
            "--issuer",
            &bed.issuer,
            "--propose",
            "first.toml",
            "--append",
        ]);
        bed.ok(&["realm", "propose", "first.toml", "--set", "require-logged=true", "--append"]);
        bed.ok(&["realm", "sign", "first.toml", "--root-key", "root3.json"]);
        bed.ok(&["realm", "sign", "first.toml", "--root-key", "root1.json"]);
        bed.ok(&["realm", "submit", "first.toml", "--wait", "final"]);
        bed
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A funded ledger key in `NAME.json`.
    pub(crate) fn actor(&self, name: &str) -> String {
        let made = self.ok(&["actor", "new", &format!("{name}.json")]);
        let address = made["address"].as_str().unwrap().to_owned();
        self.chain.fund(&address);
        address
    }

    pub(crate) fn ssh_keygen(&self, name: &str, password: &str) {
        let status = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", password, "-C", name, "-f"])
            .arg(self.path(name))
            .status()
            .expect("ssh-keygen is part of openssh-client: install it");
        assert!(status.success());
    }

    /// A user with a key of her own, a host with a label, and a grant; all final.
    pub(crate) fn with_alice(self) -> Self {
        self.ssh_keygen("alice", "");
        self.ok(&["user", "add", "alice", "--name", "Alice"]);
        self.ok(&["host", "add", "web1", "--label", "web"]);
        self.ok(&["host", "add", "db1", "--label", "db"]);
        self.ok(&[
            "grant",
            "add",
            "alice",
            "--label",
            "web",
            "--login",
            "deploy",
            "--max-ttl",
            "10m",
            "--wait",
            "final",
        ]);
        self
    }

    /// Runs as the admin; fails the test unless it succeeds; gives its JSON.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Value {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        let json = ran.json();
        documented(&json);
        json
    }

    /// Runs as the admin with JSON output.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[])
    }

    pub(crate) fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let mut all = vec![
            ("COUNTERSIGN_FORMAT", "json"),
            ("COUNTERSIGN_REALM", "realm.toml"),
            ("COUNTERSIGN_AS_ACTOR", "admin.json"),
            ("COUNTERSIGN_CA_KEY", "ca"),
            ("COUNTERSIGN_CA_PASSWORD", "ca password"),
        ];
        all.extend(environment);
        countersign(self.directory.path(), arguments, &all)
    }

    /// What a command writes to stdout, as it is.
    pub(crate) fn bytes(&self, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new(assert_cmd::cargo::cargo_bin!("countersign"))
            .current_dir(self.directory.path())
            .env_clear()
            .env("HOME", self.directory.path())
            .args(["--realm", "realm.toml"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success());
        output.stdout
    }

    /// `countersign issue …` as the issuer.
    pub(crate) fn issue(&self, arguments: &[&str]) -> Ran {
        let all: Vec<&str> = ["--as-actor", "issuer.json", "issue"].iter().chain(arguments).copied().collect();
        self.run(&all)
    }

    /// How many entries of a kind the ledger has.
    pub(crate) fn logged(&self, kind: &str) -> usize {
        let log = self.ok(&["log", "--kind", kind]);
        usize::try_from(log["total"].as_u64().unwrap()).unwrap()
    }
}

/// OpenSSH's agent, ended with the test.
pub(crate) struct Agent {
    child: Child,
    socket: String,
}

impl Agent {
    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The issuer's service in a thread, and its log.
pub(crate) struct Service {
    lines: Receiver<String>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Waits for a line of the log, at most a minute.
    pub(crate) fn until(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error}; the log so far: {seen:#?}"),
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Bed {
    pub(crate) fn ssh_agent(&self) -> Agent {
        let socket = self.path("agent.socket");
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("ssh-agent is part of openssh-client: install it");
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Agent { child, socket: socket.to_str().unwrap().to_owned() }
    }

    pub(crate) fn ssh_add(&self, agent: &Agent, name: &str, password: &str) {
        let askpass = self.path("askpass");
        std::fs::write(&askpass, format!("#!/bin/sh\necho '{password}'\n")).unwrap();
        std::fs::set_permissions(&askpass, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let status = Command::new("ssh-add")
            .arg("-q")
            .arg(self.path(name))
            .env("SSH_AUTH_SOCK", agent.socket())
            .env("SSH_ASKPASS", &askpass)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Starts the service with the bed's issuer and CA.
    pub(crate) fn issuer_service(&self) -> Service {
        let secret = |name: &str, text: &str| {
            std::fs::write(self.path(name), text).unwrap();
            std::fs::set_permissions(self.path(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        };
        secret("issuer.password", PASSWORD);
        secret("ca.password", "ca password");
        let text = "realm = \"realm.toml\"\nactor = \"issuer.json\"\nactor-password-file = \"issuer.password\"\n\
            ca = \"prod\"\nca-key = \"ca\"\nca-password-file = \"ca.password\"\ndelivery-key = \"issuer.x25519\"\n\
            store = \"blocks\"\nstate = \"state\"\n";
        std::fs::write(self.path("issuer.toml"), text).unwrap();
        let config = countersign_issuer::config::Config::load(&self.path("issuer.toml")).unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let service = countersign_issuer::run::Service::open(config).await.unwrap();
                let stop = async {
                    let _ = stopped.await;
                };
                service.run(stop, |line| drop(sender.send(line.to_owned()))).await;
            });
        });
        Service { lines, stop: Some(stop), thread: Some(thread) }
    }
}

/// A command that prints a line of JSON at a time, ended with the test.
pub(crate) struct Followed {
    child: Child,
    lines: Receiver<String>,
}

impl Followed {
    /// The next line, at most a minute later.
    pub(crate) fn next(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(60)).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bed {
    pub(crate) fn follow(&self, arguments: &[&str]) -> Followed {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("countersign"))
            .current_dir(self.directory.path())
            .env_clear()
            .env("HOME", self.directory.path())
            .args(["--realm", "realm.toml", "--format", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Followed { child, lines }
    }
}
