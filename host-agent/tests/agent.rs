//! The agent against a real chain: what it publishes, what it refuses, and what is still there when something fails.

mod support;

use std::os::unix::fs::PermissionsExt;

use countersign_agent::reason::Reason;
use countersign_registry::entries::{Entry, Targets, payload};
use countersign_registry::{Fingerprint20, shard};
use countersign_snapshot::{Clock, Denial, HostState, Origin, OriginOf, Stale, Trust, UserState, read_origins};
use serde_json::json;
use support::{HostFiles, World, grant, key_lock, unknown};

fn origins(host: &HostFiles, wanted: &[OriginOf]) -> std::io::Result<Vec<Option<Origin>>> {
    let trust = Trust::owner(nix::unistd::geteuid().as_raw());
    let snapshot = host.snapshot();
    let facts = snapshot.facts();
    read_origins(&host.path("state/snapshot"), trust, &facts.realm, facts.host, wanted)
}

#[tokio::test]
async fn what_was_granted_on_the_ledger_is_answered_from_the_snapshot() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());

    let snapshot = host.snapshot();
    snapshot.verify().unwrap();
    snapshot.fresh(&Clock::now().unwrap()).unwrap();
    assert_eq!(snapshot.facts().host_state, HostState::Active);
    assert_eq!(snapshot.facts().latest_block.number, world.latest_number().await);
    let alice = snapshot.login(b"alice").unwrap().unwrap();
    assert_eq!((alice.user, alice.uid.0), (records.user, 1_900_000_000));
    assert_eq!(snapshot.user(records.user).unwrap().unwrap().state, UserState::Active);
    assert_eq!(snapshot.key(records.key).unwrap().unwrap().user, records.user);
    assert_eq!(snapshot.key_grant(records.user, b"deploy").unwrap(), Some(records.grant));
    assert_eq!(snapshot.key_grant(records.user, b"root").unwrap(), None);
    assert!(snapshot.grant_allows_login(records.grant, b"deploy").unwrap());

    let status = host.status();
    assert_eq!(status["counts"]["users"], 1);
    assert_eq!(status["failures"], 0);
    assert_eq!(status["latest"]["number"], snapshot.facts().latest_block.number);
    assert_eq!(status["published"]["generation"], 1);

    let wanted = [OriginOf::User(records.user), OriginOf::Grant(records.grant), OriginOf::LockedKey(records.key)];
    let found = origins(&host, &wanted).unwrap();
    let (user, granted) = (found[0].unwrap(), found[1].unwrap());
    assert!(user.block <= granted.block && granted.block <= snapshot.facts().final_block.number);
    assert_eq!((user.shard, granted.shard), (shard::DIRECTORY, shard::DIRECTORY));
    assert_eq!(found[2], None);
    let metadata = std::fs::metadata(host.path("state/snapshot/origins")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "whoever may not read `access` may not read this");
}

#[tokio::test]
async fn new_authority_waits_for_the_final_block_and_a_revocation_does_not() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);

    let later = world.add(9, &Entry::GrantAdd(grant(9, records.user, records.host))).await;
    world.append(shard::DENIALS, &key_lock(records.key)).await;
    assert_eq!(agent.cycle().await.failure, None);
    let snapshot = host.snapshot();
    assert_eq!(snapshot.facts().latest_block.number, world.latest_number().await);
    assert!(snapshot.facts().final_block.number < snapshot.facts().latest_block.number);
    assert_eq!(snapshot.key_revoked(records.key).unwrap(), Some(Denial::Locked), "the lock is in the newest block");
    assert_eq!(snapshot.grant(later).unwrap(), None, "the grant is not final");
    let latest = &snapshot.facts().latest_block;
    let lock = Origin { block: latest.number, shard: shard::DENIALS, index: 0, time_secs: latest.time_secs };
    let found = origins(&host, &[OriginOf::LockedKey(records.key), OriginOf::Grant(later)]);
    assert_eq!(found.unwrap(), [Some(lock), None]);

    world.anvil.mine(3).await;
    assert_eq!(agent.cycle().await.failure, None);
    assert!(host.snapshot().grant(later).unwrap().is_some());
}

#[tokio::test]
async fn a_denial_that_a_reorg_took_away_stays_in_force_also_over_a_restart() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    world.append(shard::DENIALS, &key_lock(records.key)).await;
    assert_eq!(agent.cycle().await.failure, None);
    drop(agent);

    world.anvil.roll_back(1).await;
    world.anvil.mine(4).await;
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert_eq!(host.snapshot().facts().latest_block.number, world.latest_number().await);
    assert_eq!(host.snapshot().key_revoked(records.key).unwrap(), Some(Denial::Locked));
}

#[tokio::test]
async fn a_newest_block_below_the_published_one_publishes_nothing() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    world.anvil.mine(1).await;
    assert_eq!(agent.cycle().await.failure, None);
    let before = host.snapshot_files();
    world.anvil.roll_back(1).await;
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::LatestWentBack);
    assert_eq!(host.snapshot_files(), before);
    world.anvil.mine(2).await;
    assert_eq!(agent.cycle().await.failure, None);
}

#[tokio::test]
async fn a_final_view_that_the_chain_takes_back_publishes_nothing() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    world.append(shard::DENIALS, &key_lock(records.key)).await;
    world.anvil.mine(5).await;
    assert_eq!(agent.cycle().await.failure, None);
    let before = host.snapshot_files();
    // Beyond what any honest chain does: a lock that was final is gone, and other blocks stand there.
    world.anvil.roll_back(6).await;
    world.anvil.mine(9).await;
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::FinalWentBack);
    assert_eq!(host.snapshot_files(), before);
}

#[tokio::test]
async fn a_host_that_is_locked_or_unknown_gets_an_empty_snapshot() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    let lock = Entry::Lock(Targets::Hosts(vec![records.host]));
    world.append(shard::DENIALS, &lock).await;
    assert_eq!(agent.cycle().await.failure, None);
    assert_eq!(host.snapshot().facts().host_state, HostState::Locked);
    assert_eq!(host.snapshot().login(b"alice").unwrap(), None);

    let stranger = HostFiles::new(&world, countersign_certificate::Id([0xee; 16]), "");
    let mut agent = stranger.open();
    assert_eq!(agent.cycle().await.failure, None);
    assert_eq!(stranger.snapshot().facts().host_state, HostState::Unknown);
}

#[tokio::test]
async fn a_chain_that_is_gone_leaves_the_snapshot_and_a_restart_publishes_it_again_no_longer_valid() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    let manifest = host.snapshot().manifest().clone();
    let before = host.snapshot_files();
    drop(world);

    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::EndpointsSilent);
    assert_eq!(host.snapshot_files(), before);
    let status = host.status();
    assert_eq!(status["last-failure"]["reason"], "endpoints-silent");
    assert_eq!(status["failures"], 1);
    assert!(host.log.text().contains("reason=endpoints-silent failures=1 message="), "{}", host.log.text());
    drop(agent);

    host.shift.set(100);
    let mut agent = host.open();
    assert!(agent.republish().unwrap());
    let again = host.snapshot();
    let freshness = again.manifest().freshness;
    assert_eq!(freshness.valid_until_secs, manifest.freshness.valid_until_secs);
    assert!(freshness.age_consumed_secs >= 100, "{freshness:?}");
    assert_eq!(again.facts().latest_block, manifest.facts.latest_block);
    assert!(again.key(records.key).unwrap().is_some());
}

#[tokio::test]
async fn a_restart_without_the_snapshots_files_publishes_from_its_own_state() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    world.append(shard::DENIALS, &key_lock(records.key)).await;
    assert_eq!(agent.cycle().await.failure, None);
    agent.flush();
    let manifest = host.snapshot().manifest().clone();
    drop((agent, world));
    std::fs::remove_dir_all(host.path("state/snapshot")).unwrap();

    let mut agent = host.open();
    assert!(agent.republish().unwrap());
    let again = host.snapshot();
    assert_eq!(again.manifest().freshness.valid_until_secs, manifest.freshness.valid_until_secs);
    assert_eq!(again.facts().latest_block, manifest.facts.latest_block);
    assert_eq!(again.manifest().salt, manifest.salt);
    assert!(again.login(b"alice").unwrap().is_some());
    assert_eq!(again.key_revoked(records.key).unwrap(), Some(Denial::Locked), "pending denials are on disk");
}

#[tokio::test]
async fn a_clock_set_back_publishes_nothing_not_even_at_a_restart() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    let before = host.snapshot_files();
    host.shift.set(-10);
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::ClockBack);
    drop(agent);
    let mut agent = host.open();
    assert_eq!(agent.republish().unwrap_err().reason, Reason::ClockBack);
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::ClockBack);
    assert_eq!(host.snapshot_files(), before);

    // Readers refuse the earlier clock too.
    let now = Clock::now().unwrap();
    let earlier = Clock { unix_secs: now.unix_secs - 10, ..now };
    assert!(matches!(host.snapshot().fresh(&earlier), Err(Stale::ClockBackwards { .. })));
}

#[tokio::test]
async fn a_clock_far_ahead_is_told_and_does_not_lock_the_host_out_when_it_is_set_right() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "max-staleness-secs = 30\n");
    let mut agent = host.open();
    host.shift.set(1_000_000);
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::BlockTooOld);
    let highest = host.snapshot().manifest().freshness.highest_wall_secs;
    assert!(highest <= Clock::now().unwrap().unix_secs + 30, "{highest}");
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_written_leaves_the_old_one() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    let before = host.snapshot_files();
    world.append(shard::DENIALS, &key_lock(records.key)).await;
    // The publisher refuses a directory that others can write.
    let access = host.path("state/snapshot/access");
    std::fs::set_permissions(&access, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::PublishFailed);
    assert_eq!(host.snapshot_files(), before);
    assert_eq!(host.status()["last-failure"]["reason"], "publish-failed");
    std::fs::set_permissions(&access, std::fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(agent.cycle().await.failure, None);
    assert_eq!(host.snapshot().key_revoked(records.key).unwrap(), Some(Denial::Locked));
}

#[tokio::test]
async fn a_denial_that_could_not_be_published_is_in_force_after_a_restart_without_the_chain() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    let valid_until = host.snapshot().manifest().freshness.valid_until_secs;
    world.append(shard::DENIALS, &key_lock(records.key)).await;
    let access = host.path("state/snapshot/access");
    std::fs::set_permissions(&access, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::PublishFailed);
    drop((agent, world));

    std::fs::set_permissions(&access, std::fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(host.snapshot().key_revoked(records.key).unwrap(), None);
    let mut agent = host.open();
    assert!(agent.republish().unwrap());
    let again = host.snapshot();
    assert_eq!(again.key_revoked(records.key).unwrap(), Some(Denial::Locked));
    assert_eq!(again.manifest().freshness.valid_until_secs, valid_until);
}

#[tokio::test]
async fn a_denial_writes_pages_and_not_the_base_also_after_a_restart_and_a_lost_or_altered_base_is_replaced() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    for number in 0..34_u8 {
        let key = |ordinal: u16| {
            let mut bytes = [number; 20];
            bytes[..2].copy_from_slice(&ordinal.to_be_bytes());
            Fingerprint20(bytes)
        };
        let keys = (0..1_000).map(key).collect();
        world.append(shard::DENIALS, &Entry::Lock(Targets::Keys(keys))).await;
    }
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    let base = host.snapshot().manifest().base;
    assert!(base.bytes >= 128 * 4096, "{base:?}");
    assert_eq!(host.snapshot().manifest().delta, None);

    world.append(shard::DENIALS, &key_lock(records.key)).await;
    assert_eq!(agent.cycle().await.failure, None);
    let locked = || {
        let snapshot = host.snapshot();
        snapshot.verify().unwrap();
        assert_eq!(snapshot.key_revoked(records.key).unwrap(), Some(Denial::Locked));
        snapshot.manifest().clone()
    };
    let manifest = locked();
    // The header, the key's own record, and the denial.
    assert_eq!((manifest.base, manifest.delta.map(|delta| delta.bytes)), (base, Some(3 * 4096)));
    assert_eq!(host.status()["snapshot-files"]["access"], json!({"base": base.bytes, "delta": 3 * 4096}));

    drop(agent);
    let mut agent = host.open();
    assert!(agent.republish().unwrap());
    assert_eq!(locked().base, base, "declared fresh");
    assert_eq!(agent.cycle().await.failure, None);
    assert_eq!(locked().base, base, "compared anew");

    // Nothing new on the ledger, but the files are not what was published.
    let path = |base: u64| host.path(&format!("state/snapshot/access/base.{base}"));
    let mut bytes = std::fs::read(path(base.generation)).unwrap();
    bytes[2 * 4096 + 7] ^= 1;
    std::fs::write(path(base.generation), bytes).unwrap();
    assert!(host.snapshot().verify().is_err());
    assert_eq!(agent.cycle().await.failure, None);
    let second = locked().base.generation;
    assert!(second > base.generation);
    std::fs::remove_file(path(second)).unwrap();
    assert_eq!(agent.cycle().await.failure, None);
    assert!(locked().base.generation > second);
}

#[tokio::test]
async fn a_state_file_that_is_cut_or_changed_is_set_aside_and_rebuilt_from_the_chain() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    agent.flush();
    let generation = host.snapshot().manifest().generation;
    drop(agent);
    let good = std::fs::read(host.path("state/state")).unwrap();
    let mut changed = good.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for (count, spoiled) in [&good[..good.len() - 1], &good[..20], &[], &changed].into_iter().enumerate() {
        support::write_private(&host.path("state/state"), "");
        std::fs::write(host.path("state/state"), spoiled).unwrap();
        host.shift.set(i64::try_from(count).unwrap() + 1);
        let mut agent = host.open();
        assert_eq!(host.set_aside().len(), count + 1);
        assert_eq!(agent.status().last_failure.as_ref().unwrap().reason, Reason::StateCorrupt);
        assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
        agent.flush();
        assert!(host.snapshot().key(records.key).unwrap().is_some());
        assert!(host.snapshot().manifest().generation > generation);
    }
    assert!(host.log.text().contains("reason=state-corrupt message="), "{}", host.log.text());
    assert!(host.log.text().contains("set-aside-as=state.corrupt-"), "{}", host.log.text());
}

#[tokio::test]
async fn a_state_file_of_another_host_or_version_is_set_aside() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    drop(agent);
    let good = std::fs::read(host.path("state/state")).unwrap();

    let other = HostFiles::new(&world, countersign_certificate::Id([3; 16]), "");
    std::fs::create_dir(other.path("state")).unwrap();
    support::write_private(&other.path("state/state"), "");
    std::fs::write(other.path("state/state"), &good).unwrap();
    let agent = other.open();
    assert_eq!(agent.status().last_failure.as_ref().unwrap().reason, Reason::StateOtherRealm);
    drop(agent);

    let mut newer = good;
    newer[9] = u8::MAX;
    std::fs::write(host.path("state/state"), newer).unwrap();
    let agent = host.open();
    assert_eq!(agent.status().last_failure.as_ref().unwrap().reason, Reason::StateVersion);
}

#[tokio::test]
async fn a_critical_entry_of_an_unknown_kind_stops_publishing_and_asks_for_an_upgrade() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    let before = host.snapshot_files();
    world.by_roots(&[unknown(0x00ff)]).await;
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::UpgradeNeeded);
    world.anvil.mine(3).await;
    assert_eq!(agent.cycle().await.failure.unwrap().reason, Reason::UpgradeNeeded);
    assert_eq!(host.snapshot_files(), before);
}

#[tokio::test]
async fn a_contract_of_another_code_and_a_chain_of_another_beginning_are_refused_as_such() {
    let mut world = World::new().await;
    let records = world.populate().await;
    world.pin.code_hash = alloy_primitives::B256::repeat_byte(1);
    let host = HostFiles::new(&world, records.host, "");
    assert_eq!(host.open().cycle().await.failure.unwrap().reason, Reason::CodeHash);

    world.pin.genesis_hash = alloy_primitives::B256::repeat_byte(2);
    let host = HostFiles::new(&world, records.host, "");
    assert_eq!(host.open().cycle().await.failure.unwrap().reason, Reason::ChainMismatch);
    assert!(!host.path("state/snapshot").exists());
}

#[tokio::test]
async fn the_realms_staleness_and_the_hosts_lower_one_bound_the_snapshot_and_a_higher_one_does_not() {
    let world = World::new().await;
    let records = world.populate().await;
    for (line, expected) in [("", 300), ("max-staleness-secs = 60\n", 60), ("max-staleness-secs = 900\n", 300)] {
        let host = HostFiles::new(&world, records.host, line);
        assert_eq!(host.open().cycle().await.failure, None);
        let manifest = host.snapshot().manifest().clone();
        assert_eq!(manifest.freshness.valid_until_secs, manifest.facts.latest_block.time_secs + expected, "{line}");
    }
}

#[tokio::test]
async fn a_longer_ttl_in_the_realms_settings_makes_the_host_read_further_back_in_the_same_cycle() {
    let world = World::new().await;
    let records = world.populate().await;
    let settings = payload::Settings { items: vec![payload::Setting { key: 2, value: 10 * 86_400 }] };
    world.by_roots(&[countersign_registry::sign::write(shard::GOVERNANCE, &Entry::Settings(settings))]).await;
    world.anvil.mine(3).await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
    assert!(host.snapshot().key(records.key).unwrap().is_some());
}

#[tokio::test]
async fn nothing_new_on_the_ledger_only_refreshes_the_manifest() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    let first = host.snapshot().manifest().clone();
    world.anvil.mine(1).await;
    assert_eq!(agent.cycle().await.failure, None);
    let second = host.snapshot().manifest().clone();
    assert_eq!(second.base, first.base);
    assert!(second.generation > first.generation);
    assert_eq!(second.facts.latest_block.number, first.facts.latest_block.number + 1);
}

#[tokio::test]
async fn days_that_are_over_fall_away_and_what_was_granted_or_denied_before_stays() {
    const DAY: i64 = 86_400;
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let (ca, serial) = (countersign_certificate::Id([5; 16]), countersign_certificate::Serial(77));
    let revoked = Entry::CertRevoke { ca, serials: vec![77] };
    let now = Clock::now().unwrap().unix_secs;
    world.append(shard::revocation_shard(now + 60, now), &revoked).await;
    world.append(shard::DENIALS, &key_lock(records.key)).await;
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None);
    assert!(host.snapshot().serial_revoked(ca, serial).unwrap());
    let shards = |agent: &countersign_agent::agent::Agent| agent.shards_read();
    let before = shards(&agent);
    for days in [1, 3, 95] {
        world.anvil.call("evm_increaseTime", json!([DAY * days])).await;
        world.anvil.mine(3).await;
        host.shift.set(i64::try_from(world.latest_time().await).unwrap() - i64::try_from(now).unwrap() + 5);
        assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
        // Up to three more, where a day or period ends just now.
        assert!(shards(&agent).len() <= before.len() + 3, "{days}");
        let snapshot = host.snapshot();
        assert!(snapshot.login(b"alice").unwrap().is_some());
        assert_eq!(snapshot.key_revoked(records.key).unwrap(), Some(Denial::Locked));
    }
    assert!(!host.snapshot().serial_revoked(ca, serial).unwrap(), "its certificate ended months ago");
    let common: Vec<u64> = shards(&agent).into_iter().filter(|shard| before.contains(shard)).collect();
    assert_eq!(common, [shard::GOVERNANCE, shard::DIRECTORY, shard::DENIALS]);
    agent.flush();
    drop(agent);
    let mut agent = host.open();
    assert_eq!(agent.cycle().await.failure, None, "{}", host.log.text());
}

#[tokio::test]
async fn state_status_or_origins_that_cannot_be_written_are_told_and_do_not_hold_a_revocation_back() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let mut agent = host.open();
    // Nothing can be renamed over a directory.
    std::fs::create_dir(host.path("state/state")).unwrap();
    world.append(shard::DENIALS, &key_lock(records.key)).await;
    assert_eq!(agent.cycle().await.failure, None);
    assert_eq!(host.snapshot().key_revoked(records.key).unwrap(), Some(Denial::Locked));
    assert_eq!(host.status()["last-failure"]["reason"], "state-io");

    for file in ["state/status.json", "state/snapshot/origins"] {
        std::fs::remove_file(host.path(file)).unwrap();
        std::fs::create_dir(host.path(file)).unwrap();
    }
    let other = Fingerprint20([9; 20]);
    world.append(shard::DENIALS, &key_lock(other)).await;
    assert_eq!(agent.cycle().await.failure, None);
    assert_eq!(host.snapshot().key_revoked(other).unwrap(), Some(Denial::Locked));
    assert!(host.log.text().contains("message=\"origins: "), "{}", host.log.text());
    assert!(host.log.text().contains("reason=status-io message="), "{}", host.log.text());
}
