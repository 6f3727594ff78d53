//! The usual stage: a realm with a user, key and grant on a real chain, nodes that may lie, and one host's agent that has published
//! a truthful snapshot. Behind it, the ledger has moved on by the lock of that key, so that every later cycle has news: a lie that
//! goes unnoticed would show.

use std::{collections::BTreeMap, path::PathBuf};

use countersign_agent::{agent::Agent, reason::Reason};
use countersign_chain::{
    profile::ProfileName,
    realm_file::{HeaderTrust, RealmFile},
};
use countersign_registry::shard;
use countersign_snapshot::{Clock, Denial};
use serde_json::Value;

use crate::{
    lie::Liar,
    node::Client,
    world::{HostFiles, Records, World, key_lock},
};

/// World, nodes, host and agent.
pub struct Stage {
    /// Chain and realm.
    pub world: World,
    /// Ids of its records.
    pub records: Records,
    /// The nodes that the agent asks, in order.
    pub nodes: Vec<Liar>,
    /// The agent's files.
    pub host: HostFiles,
    /// The agent.
    pub agent: Agent,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

impl Stage {
    /// One node, believed as development chains are.
    pub async fn dev() -> Self {
        Self::dev_of(Client::Anvil).await
    }

    /// The same with the client of the test's choice.
    pub async fn dev_of(client: Client) -> Self {
        Self::on(World::of(client).await, HeaderTrust::Dev, 1).await
    }

    /// `needed` of `nodes` must agree.
    pub async fn quorum(needed: usize, nodes: usize) -> Self {
        Self::quorum_of(Client::Anvil, needed, nodes).await
    }

    /// The same with the client of the test's choice.
    pub async fn quorum_of(client: Client, needed: usize, nodes: usize) -> Self {
        Self::on(World::of(client).await, HeaderTrust::Quorum(needed), nodes).await
    }

    /// On a chain node of the test's choice.
    pub async fn on(world: World, trust: HeaderTrust, count: usize) -> Self {
        let records = world.populate().await;
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Liar::start(&world.anvil.url).await);
        }
        let urls = nodes.iter().map(Liar::url).collect();
        let realm = RealmFile::new(world.pin.clone(), ProfileName::Dev, trust, urls).expect("a realm file");
        let host = HostFiles::of(&realm, records.host, "");
        on_time(&world, &host).await;
        let mut agent = host.open();
        assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
        world.append(shard::DENIALS, &key_lock(records.key)).await;
        let before = host.snapshot_files();
        Self { world, records, nodes, host, agent, before }
    }

    /// The only node, or the first.
    #[must_use]
    pub fn node(&self) -> &Liar {
        self.nodes.first().expect("a node")
    }

    /// A cycle that must fail for this reason, in status and log as well, and leave the snapshot as it was.
    pub async fn refuses(&mut self, what: &str, reason: Reason) {
        let failure = self.agent.cycle().await.failure;
        let failure = failure.unwrap_or_else(|| panic!("{what}: the lie was believed"));
        assert_eq!(failure.reason, reason, "{what}: {}", failure.message);
        let status = self.host.status();
        let told = status.pointer("/last-failure/reason").and_then(Value::as_str);
        assert_eq!(told, Some(reason.as_str()), "{what}: {status}");
        assert!(self.host.log.text().contains(&format!("reason={reason} ")), "{what}: the log does not say so");
        assert!(self.host.snapshot_files() == self.before, "{what}: the snapshot has changed");
    }

    /// A cycle that must publish the truth, the newest block and the lock that is in it, and give no reason for anything.
    pub async fn publishes_the_truth(&mut self, what: &str) {
        on_time(&self.world, &self.host).await;
        let said = self.host.log.text().len();
        let begun = self.world.latest_number().await;
        let failure = self.agent.cycle().await.failure;
        assert_eq!(failure, None, "{what}");
        assert_eq!(self.host.status().get("failures"), Some(&Value::from(0)), "{what}");
        let log = self.host.log.text().split_off(said);
        assert!(!log.contains("reason="), "{what}: {log}");
        self.tells_the_truth(what, begun).await;
        self.before = self.host.snapshot_files();
    }

    /// What is published speaks of the newest block, or of any that a client in a hurry (geth) made since block `begun`, and has the lock.
    async fn tells_the_truth(&self, what: &str, begun: u64) {
        let snapshot = self.host.snapshot();
        snapshot.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
        let newest = begun..=self.world.latest_number().await;
        let told = snapshot.facts().latest_block.number;
        assert!(newest.contains(&told), "{what}: {told} is not among the newest {newest:?}");
        assert_eq!(snapshot.key_revoked(self.records.key).unwrap(), Some(Denial::Locked), "{what}");
        assert!(snapshot.grant(self.records.grant).unwrap().is_some(), "{what}: the final grant is gone");
    }

    /// A cycle that either publishes the truth or nothing. Returns whether it published.
    pub async fn is_not_misled(&mut self, what: &str) -> bool {
        let begun = self.world.latest_number().await;
        let failed = self.agent.cycle().await.failure.is_some();
        if failed {
            assert!(self.host.snapshot_files() == self.before, "{what}: the snapshot has changed");
        } else {
            self.tells_the_truth(what, begun).await;
            self.before = self.host.snapshot_files();
        }
        !failed
    }
}

/// The clock follows a chain that mines faster than a block a second.
pub async fn on_time(world: &World, host: &HostFiles) {
    let now = i64::try_from(Clock::now().expect("a clock").unix_secs).expect("a time of this age");
    let block = i64::try_from(world.latest_time().await).expect("a time of this age");
    host.shift.raise(block.saturating_sub(now).max(0).saturating_add(5));
}
