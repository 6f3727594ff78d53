//! What the agent's tests add to the harness (`tests/harness`): a host's directory with its configuration, a log that can be read
//! and a clock that a test shifts.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "every test binary uses another part of this module")]
#![expect(clippy::unwrap_used, reason = "test support fails loudly")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use countersign_agent::agent::{Agent, Clocks};
use countersign_agent::config::Config;
use countersign_agent::log::Log;
use countersign_certificate::Id;
use countersign_chain::realm_file::RealmFile;
use countersign_chain::sync::{Cursor, Ledger};
use countersign_registry::{BlockRef, Effective, Replay, shard};
use countersign_snapshot::{Clock, Snapshot, Trust};
pub use harness::world::*;
use serde_json::Value;

/// A log that can be read.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub fn log(&self) -> Log {
        Log::plain(Box::new(self.clone()))
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A clock that runs like the machine's, shifted by what a test says.
#[derive(Clone, Default)]
pub struct Shift(Arc<Mutex<i64>>);

impl Shift {
    pub fn set(&self, seconds: i64) {
        *self.0.lock().unwrap() = seconds;
    }

    /// At least so much: a clock that went back would be refused.
    pub fn raise(&self, seconds: i64) {
        let mut shift = self.0.lock().unwrap();
        *shift = seconds.max(*shift);
    }

    pub fn clocks(&self) -> Clocks {
        let shift = self.clone();
        Box::new(move || {
            let clock = Clock::now()?;
            let unix_secs = clock.unix_secs.saturating_add_signed(*shift.0.lock().unwrap());
            Ok(Clock { unix_secs, ..clock })
        })
    }
}

/// A host's files.
pub struct HostFiles {
    pub directory: tempfile::TempDir,
    pub log: Lines,
    pub shift: Shift,
}

impl HostFiles {
    /// Realm file and configuration for this host, and `extra` lines of configuration.
    pub fn new(world: &World, host: Id, extra: &str) -> Self {
        Self::of(&world.realm_file(), host, extra)
    }

    /// The same with a realm file of the test's own.
    pub fn of(realm: &RealmFile, host: Id, extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let files = Self { directory, log: Lines::default(), shift: Shift::default() };
        realm.create(&files.path("realm.toml")).unwrap();
        let root = files.directory.path().display().to_string();
        let extra = extra.replace("ROOT", &root);
        let text = format!(
            "realm-file = \"{root}/realm.toml\"\nhost = \"{host}\"\nstate-dir = \"{root}/state\"\ngroup = \"root\"\n{extra}"
        );
        std::fs::write(files.path("agent.toml"), text).unwrap();
        std::fs::set_permissions(files.path("agent.toml"), std::fs::Permissions::from_mode(0o644)).unwrap();
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self) -> Config {
        Config::load(&self.path("agent.toml")).unwrap()
    }

    /// Opens the agent; only one at a time can be.
    pub fn open(&self) -> Agent {
        Agent::open(self.config(), self.log.log(), self.shift.clocks()).unwrap()
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot::open(&self.path("state/snapshot"), Trust::owner(nix::unistd::geteuid().as_raw())).unwrap()
    }

    /// Every file of the snapshot with its bytes.
    pub fn snapshot_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for audience in ["access", "accounts"] {
            for entry in std::fs::read_dir(self.path("state/snapshot").join(audience)).unwrap() {
                let path = entry.unwrap().path();
                files.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
        files
    }

    pub fn status(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("state/status.json")).unwrap()).unwrap()
    }

    /// Names of the files in the state directory that were set aside.
    pub fn set_aside(&self) -> Vec<String> {
        std::fs::read_dir(self.path("state"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".corrupt-"))
            .collect()
    }
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// What the ledger says, read by somebody else: access of the last `reach_secs` seconds, and today's deliveries.
pub async fn effective(world: &World, reach_secs: u64) -> Effective {
    let mut ledger = Ledger::new(&world.realm_file(), Default::default()).unwrap();
    let heads = ledger.heads().await.unwrap();
    let mut shards = shard::access_shards(heads.latest.time, reach_secs);
    shards.extend(shard::delivery_shards(heads.latest.time, heads.latest.time));
    let update = ledger.update(&Cursor::default(), &heads, &shards).await.unwrap();
    let mut replay = Replay::new(world.pin.realm);
    let flat = |entries: BTreeMap<u64, Vec<_>>| entries.into_values().flatten().collect::<Vec<_>>();
    let block = BlockRef { number: update.final_header.number, time: update.final_header.time };
    replay.advance(block, &flat(update.final_entries)).unwrap();
    let latest = BlockRef { number: update.latest.number, time: update.latest.time };
    replay.effective(latest, &flat(update.latest_entries)).unwrap()
}
