//! Real IPFS nodes on this machine's loopback: `tests/ipfs-node` (boxo), several of which exchange blocks by bitswap, and js-ipfs.
//!
//! Self-contained, so that the tests of `delivery/` use the very same file. Each node ends with the harness, also where that is killed:
//! it watches its standard input.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long a node may take to start: js-ipfs makes a repository first.
const START: Duration = Duration::from_secs(60);

/// A running node; killed and waited for when dropped.
pub struct Node {
    child: Child,
    /// Its RPC's address, without `/api/v0`.
    pub rpc: String,
    /// Its gateway's address, without `/ipfs`.
    pub gateway: String,
    /// Where other nodes connect to; empty for js-ipfs.
    pub peer: String,
    _repository: Option<tempfile::TempDir>,
}

/// What a node of `tests/ipfs-node` is started with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Another node's `peer`, to connect to.
    pub connect: Option<&'a str>,
    /// What its RPC asks for in the Authorization header.
    pub authorization: Option<&'a str>,
    /// After how many bytes `block/get` fails.
    pub cut: Option<usize>,
}

impl Node {
    /// Starts a node of `tests/ipfs-node`.
    ///
    /// # Panics
    /// Where it is not built, or does not start.
    #[must_use]
    pub fn boxo(options: Options<'_>) -> Self {
        let mut command = Command::new(tool("bin/ipfs-node"));
        for (flag, value) in [("-connect", options.connect), ("-authorization", options.authorization)] {
            if let Some(value) = value {
                command.args([flag, value]);
            }
        }
        if let Some(cut) = options.cut {
            command.args(["-cut", &cut.to_string()]);
        }
        Self::start(command, None)
    }

    /// Starts js-ipfs.
    ///
    /// # Panics
    /// Where it is not installed, or does not start.
    #[must_use]
    pub fn js() -> Self {
        let repository = tempfile::tempdir().expect("a directory for the node");
        let mut command = Command::new("node");
        command.arg("--require").arg(tool("js-ipfs/polyfill.cjs")).arg(tool("js-ipfs/node.mjs"));
        command.arg(repository.path().join("repository"));
        Self::start(command, Some(repository))
    }

    fn start(mut command: Command, repository: Option<tempfile::TempDir>) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}: run .ci/ipfs"));
        let (sender, line) = mpsc::channel();
        let stdout = child.stdout.take().expect("a pipe");
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            let _ = sender.send(lines.next());
            lines.for_each(drop);
        });
        let mut stderr = child.stderr.take().expect("a pipe");
        let said = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let Ok(Some(Ok(line))) = line.recv_timeout(START) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not start:\n{}", said.join().unwrap_or_default());
        };
        let line: serde_json::Value = serde_json::from_str(&line).expect("addresses in JSON");
        let address = |field: &str| line.get(field).and_then(|value| value.as_str()).expect("an address").to_owned();
        Self { child, rpc: address("rpc"), gateway: address("gateway"), peer: address("peer"), _repository: repository }
    }

    /// Kills it at once, in whatever it is doing.
    pub fn kill(&mut self) {
        // Errors only say that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Two nodes that exchange blocks by bitswap: what is put at the first is read at the second.
#[must_use]
pub fn pair() -> (Node, Node) {
    let first = Node::boxo(Options::default());
    let second = Node::boxo(Options { connect: Some(&first.peer), ..Options::default() });
    (first, second)
}

fn tool(name: &str) -> PathBuf {
    let folder = env::var_os("COUNTERSIGN_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there: run .ci/ipfs", path.display());
    path
}
