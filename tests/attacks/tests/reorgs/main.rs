//! Reorgs: entries that were seen and are gone, come back, come back in another order; before and after they are final, with the agent
//! restarted in between. Promise 4: denials count from the latest block and keep counting through a reorg, new authority counts from
//! the final view; batches by an already final issuer count from the latest block, and only while they are there.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "what tests share fails loudly"
)]

mod authority;
mod deliveries;
mod denials;
mod histories;
mod model;
mod orders;
mod protocol;

use attacks::{
    paper::blob,
    stage,
    world::{HostFiles, Records, World, key_lock},
};
use countersign_agent::{agent::Agent, reason::Reason};
use countersign_certificate::Id;
use countersign_registry::{
    entries::{Entry, Roles, payload},
    shard, sign,
};
use countersign_snapshot::{BatchState, Snapshot};

fn settings(items: &[(u16, u64)]) -> Entry {
    let items = items.iter().map(|(key, value)| payload::Setting { key: *key, value: *value }).collect();
    Entry::Settings(payload::Settings { items })
}

fn ca_entry(seed: u8, issuer: alloy_primitives::Address) -> Entry {
    Entry::CaAdd(payload::CaAdd {
        r: [seed; 16].into(),
        purpose: 1,
        name: format!("ca{seed}"),
        publicKey: blob(seed).into(),
        maxTtl: 300,
        logins: Vec::new(),
        issuers: vec![issuer],
    })
}

fn ca_id(seed: u8, world: &World) -> Id {
    sign::record_id(ca_entry(seed, world.admin.address()).kind(), alloy_primitives::Address::ZERO, [seed; 16])
}

/// A realm with a CA, a chain to reorganise, an agent that has published.
struct Scene {
    world: World,
    records: Records,
    host: HostFiles,
    agent: Option<Agent>,
    ca: Id,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let records = world.populate().await;
        let entry = ca_entry(1, world.admin.address());
        world.by_roots(&[sign::write(shard::GOVERNANCE, &entry)]).await;
        world.anvil.mine(3).await;
        let ca = ca_id(1, &world);
        let host = HostFiles::new(&world, records.host, "");
        let agent = Some(host.open());
        let mut scene = Self { world, records, host, agent, ca };
        scene.cycle("the beginning").await;
        scene
    }

    async fn on_time(&self, host: &HostFiles) {
        stage::on_time(&self.world, host).await;
    }

    async fn cycle(&mut self, what: &str) {
        self.on_time(&self.host).await;
        let failure = self.agent.as_mut().unwrap().cycle().await.failure;
        assert_eq!(failure, None, "{what}: {}", self.host.log.text());
        assert_eq!(self.snapshot().facts().latest_block.number, self.world.latest_number().await, "{what}");
    }

    fn restart(&mut self) {
        drop(self.agent.take());
        self.agent = Some(self.host.open());
    }

    fn snapshot(&self) -> Snapshot {
        self.host.snapshot()
    }

    /// The newest `depth` blocks are gone, and others stand there, one more.
    async fn reorg(&self, depth: u64) {
        self.world.anvil.roll_back(depth).await;
        self.world.anvil.mine(depth + 1).await;
    }
}

#[tokio::test]
async fn an_issuers_role_that_was_taken_and_came_back_by_a_reorg_stays_taken_for_its_batches() {
    let mut scene = Scene::new().await;
    let now = scene.world.latest_time().await;
    let roles = |roles: u64| {
        let x25519 = scene.world.admin_sealing.public().to_bytes().into();
        let entry = Entry::RoleSet(payload::RoleSet { actor: scene.world.admin.address(), roles, x25519 });
        sign::write(shard::GOVERNANCE, &entry)
    };
    let without = roles(Roles::ADMIN | Roles::REVOKER);
    let with = roles(Roles::ADMIN | Roles::REVOKER | Roles::ISSUER);
    let (batch, entry) = batch(&scene, 5, now);
    let day = shard::shard(shard::CLASS_BATCHES, 0);

    scene.world.by_roots(std::slice::from_ref(&without)).await;
    scene.cycle("role lost").await;
    scene.reorg(1).await;
    scene.world.root_writes_are_gone(1);
    scene.world.append(day, &entry).await;
    scene.cycle("role back by a reorg").await;
    let found = scene.snapshot().batch(batch).unwrap();
    assert_ne!(found.map(|batch| batch.state), Some(BatchState::Accepted), "the loss of a role is a denial");

    // The other way round: a role that is not final yet makes no batch count.
    scene.world.by_roots(std::slice::from_ref(&without)).await;
    scene.world.anvil.mine(80).await;
    scene.cycle("role lost for good").await;
    scene.world.by_roots(std::slice::from_ref(&with)).await;
    let (later, entry) = self::batch(&scene, 6, now);
    scene.world.append(day, &entry).await;
    scene.cycle("role not final").await;
    let found = scene.snapshot().batch(later).unwrap();
    assert_ne!(found.map(|batch| batch.state), Some(BatchState::Accepted), "the role is not final");
}

fn batch(scene: &Scene, seed: u8, now: u64) -> (Id, Entry) {
    let entry = Entry::Batch(payload::Batch {
        r: [seed; 16].into(),
        ca: scene.ca.0.into(),
        root: [seed; 32].into(),
        size: 1,
        notAfter: now + 3600,
        leavesCid: Vec::new().into(),
    });
    (sign::record_id(entry.kind(), scene.world.admin.address(), [seed; 16]), entry)
}

#[tokio::test]
async fn a_reorg_beyond_what_was_final_publishes_nothing_before_and_after_a_restart() {
    let mut scene = Scene::new().await;
    scene.world.append(shard::DENIALS, &key_lock(scene.records.key)).await;
    scene.world.anvil.mine(4).await;
    scene.cycle("final").await;
    let before = scene.host.snapshot_files();
    // Same height, another block there.
    scene.world.anvil.roll_back(5).await;
    scene.world.anvil.mine(5).await;
    for round in ["running", "restarted"] {
        scene.on_time(&scene.host).await;
        let failure = scene.agent.as_mut().unwrap().cycle().await.failure.unwrap();
        assert_eq!(failure.reason, Reason::FinalWentBack, "{round}: {failure}");
        assert!(scene.host.snapshot_files() == before, "{round}: the snapshot has changed");
        scene.restart();
    }
    scene.world.anvil.mine(9).await;
    scene.on_time(&scene.host).await;
    let failure = scene.agent.as_mut().unwrap().cycle().await.failure.unwrap();
    assert_eq!(failure.reason, Reason::FinalWentBack, "longer: {failure}");
    assert!(scene.host.snapshot_files() == before, "longer: the snapshot has changed");
}

#[tokio::test]
async fn a_fork_of_the_final_block_without_any_entry_changed_is_refused_too() {
    let mut scene = Scene::new().await;
    scene.world.anvil.mine(6).await;
    scene.cycle("empty blocks").await;
    let before = scene.host.snapshot_files();
    scene.world.anvil.roll_back(5).await;
    scene.world.anvil.mine(9).await;
    scene.on_time(&scene.host).await;
    let failure = scene.agent.as_mut().unwrap().cycle().await.failure.unwrap();
    assert_eq!(failure.reason, Reason::FinalWentBack, "{failure}");
    assert!(scene.host.snapshot_files() == before, "the snapshot has changed");
}
