//! Publishing: what holds is compiled for this host and written as its snapshot (as much of it as differs from what is there, looked for only in
//! what differs from what this process published last), or, when
//! nothing changed, declared fresh again; and at a start what was published last is published again from this host alone. Never makes a
//! snapshot younger than its facts.

use std::collections::BTreeMap;
use std::path::Path;

use countersign_certificate::{Id, RealmId};
use countersign_compile::{Compiled, HostView, compile};
use countersign_registry::{B256, Effective};
use countersign_snapshot::{
    AccessTables, AccountsTables, Before, BootId, Clock, Facts, Freshness, Manifest, PublishError, PublishInfo, Salt,
    Snapshot, Trust, publish_since, refresh,
};
use nix::unistd::geteuid;

use crate::agent::{Agent, replay_failure};
use crate::cycle::{self, Failure};
use crate::following::in_chain;
use crate::log::{Level, Line};
use crate::reason::Reason;
use crate::state::{Published, State};
use crate::status;

/// How much older than the block a host's clock may be before its logins are refused, seconds (the snapshot reader's rule).
const CLOCK_BEHIND_SECS: u64 = 30;

/// A snapshot that this process published: the next one is made from what differs.
pub(crate) struct Made {
    access: AccessTables,
    accounts: AccountsTables,
    published: countersign_snapshot::Published,
}

impl Made {
    fn before(&self) -> Before<'_> {
        Before { access: &self.access, accounts: &self.accounts, published: &self.published }
    }

    /// Whether these tables are what readers find now: what was published, in files that nobody has touched since.
    fn still_says(&self, compiled: &Compiled, directory: &Path) -> bool {
        self.access == compiled.access
            && self.accounts == compiled.accounts
            && self.published.is_in_place(directory, Trust::owner(geteuid().as_raw()))
    }
}

impl Agent {
    /// Publishes again what was published last, from what is on this host alone: as old as it is and valid no longer than it was.
    /// After a reboot this is what makes the snapshot count again. Returns whether there was anything.
    ///
    /// # Errors
    /// The clock was set back, or the snapshot cannot be written.
    pub fn republish(&mut self) -> Result<bool, Failure> {
        let Some(published) = self.state.published else { return Ok(false) };
        let clock = self.now()?;
        let limit = self.config.max_staleness_secs.map_or(u64::MAX, std::num::NonZeroU64::get);
        let freshness = cycle::aged(&published, limit, self.state.highest_wall_secs, &clock);
        // A denial may have come after what was published: then the files in place do not say all that is known here.
        let known = self.state.known_latest.max(self.state.replay.final_block());
        let latest = published.latest.max(known);
        let in_place = if known.number > published.latest.number && self.state_is_complete {
            None
        } else {
            self.refresh_in_place(freshness, &clock)
        };
        let generation = match in_place {
            Some(generation) => generation,
            // Without the files of before, from the final view and the pending denials: stricter, never looser.
            None if self.state_is_complete => {
                let effective = self.state.replay.effective(latest, &[]).map_err(|error| replay_failure(&error))?;
                let compiled = self.compiled(&effective);
                let info = self.info(compiled.facts.clone(), freshness, &clock);
                self.publish_tables(&compiled, &info)?.generation
            }
            None => return Ok(false),
        };
        self.state.highest_wall_secs = freshness.highest_wall_secs;
        if let Some(list) = &self.plain_sshd.cas {
            list.carry(latest.time, freshness);
        }
        let latest = (latest, published.final_block.max(self.state.replay.final_block()));
        self.state.published = Some(record(generation, latest, &freshness, &clock));
        self.dirty = true;
        self.status.published = self.state.published.as_ref().map(status_of);
        let line = Line::event("republished")
            .field("generation", generation)
            .field("block", in_chain(latest.0).number)
            .field("age", freshness.age_consumed_secs)
            .field("valid-until", freshness.valid_until_secs);
        self.log.line(Level::Notice, &line);
        Ok(true)
    }

    pub(crate) fn publish(&mut self, effective: &Effective) -> Result<(), Failure> {
        let compiled = self.compiled(effective);
        // Read again: fetching may have taken a while, and the age counts from here.
        let clock = self.now()?;
        let latest = effective.latest_block;
        let freshness = cycle::fresh(latest.time, compiled.max_staleness_secs, self.state.highest_wall_secs, &clock);
        let is_old = clock.unix_secs > freshness.valid_until_secs;
        let is_behind = clock.unix_secs.saturating_add(CLOCK_BEHIND_SECS) < latest.time;
        let plain_sshd = self.write_plain_sshd(effective, &compiled, freshness, is_old || is_behind);
        let info = self.info(compiled.facts.clone(), freshness, &clock);
        let directory = self.config.snapshot_dir();
        let unchanged = self.made.as_ref().filter(|made| made.still_says(&compiled, &directory));
        let unchanged = unchanged.and_then(|made| {
            let mut published = made.published.clone();
            published.generation = refresh(&directory, published.generation, &info).ok()?;
            Some(published)
        });
        let is_new = unchanged.is_none();
        let published = match unchanged {
            Some(published) => published,
            None => self.publish_tables(&compiled, &info)?,
        };
        let generation = published.generation;
        self.state.highest_wall_secs = freshness.highest_wall_secs;
        self.state.published = Some(record(generation, (latest, effective.final_block), &freshness, &clock));
        self.tell(effective, &compiled, generation, is_new);
        self.write_origins(effective, &compiled.facts, is_new);
        self.made = Some(Made { access: compiled.access, accounts: compiled.accounts, published });
        if is_old {
            let message = format!(
                "newest block {} is {} s old, a snapshot counts for {} s",
                in_chain(latest).number,
                freshness.age_consumed_secs,
                freshness.max_staleness_secs
            );
            return Err(Failure::new(Reason::BlockTooOld, message));
        }
        if is_behind {
            let behind = latest.time.saturating_sub(clock.unix_secs);
            let message = format!("this host's clock is {behind} s behind block {}", in_chain(latest).number);
            return Err(Failure::new(Reason::ClockBehind, message));
        }
        plain_sshd
    }

    fn publish_tables(
        &mut self,
        compiled: &Compiled,
        info: &PublishInfo,
    ) -> Result<countersign_snapshot::Published, Failure> {
        let directory = self.config.snapshot_dir();
        let publish = |made: Option<&Made>| {
            publish_since(made.map(Made::before), &directory, &compiled.access, &compiled.accounts, info)
        };
        let mut published = publish(self.made.as_ref());
        if let Err(PublishError::Io { source, .. }) = &published
            && self.origins_give_way(source)
        {
            published = publish(self.made.as_ref());
        }
        published.map_err(|error| Failure::of(Reason::PublishFailed, &error))
    }

    /// Puts what was published into status and log.
    fn tell(&mut self, effective: &Effective, compiled: &Compiled, generation: u64, changed: bool) {
        self.status.latest = Some(in_chain(effective.latest_block));
        self.status.final_block = Some(in_chain(effective.final_block));
        self.status.published = self.state.published.as_ref().map(status_of);
        self.status.counts = counts(effective);
        if changed {
            let line = Line::event("published")
                .field("generation", generation)
                .field("block", in_chain(effective.latest_block).number)
                .field("final", in_chain(effective.final_block).number)
                .field("host", format!("{:?}", compiled.facts.host_state).to_lowercase())
                .field("grants", compiled.access.grants.len())
                .field("keys", compiled.access.keys.len())
                .field("cas", compiled.access.cas.len())
                .field("batches", compiled.access.batches.len());
            self.log.line(Level::Info, &line);
        }
    }

    fn compiled(&self, effective: &Effective) -> Compiled {
        let view = HostView {
            host: self.identity.host,
            allow_root: self.config.allow_root,
            max_staleness_secs: self.config.max_staleness_secs.map(std::num::NonZeroU64::get),
        };
        let mut compiled = compile(effective, &view);
        self.config.earlier_command.release_from(&mut compiled.access);
        compiled
    }

    fn info(&self, facts: Facts, freshness: Freshness, clock: &Clock) -> PublishInfo {
        PublishInfo {
            facts,
            freshness,
            salt: Salt(self.state.salt),
            access_group: self.access_group,
            now_unix_secs: clock.unix_secs,
        }
    }

    /// Makes the tables that are in place count again; none when they are not there as they should be.
    fn refresh_in_place(&self, freshness: Freshness, clock: &Clock) -> Option<u64> {
        let directory = self.config.snapshot_dir();
        let realms = [self.identity.realm, self.state.replay.realm()];
        let manifest = manifest_in_place(&directory, &realms, self.identity.host)?;
        let published = self.state.published?;
        if manifest.facts.latest_block.number != published.latest.number {
            return None;
        }
        let facts = Facts { allow_root: self.config.allow_root, ..manifest.facts };
        let info = self.info(facts, freshness, clock);
        refresh(&directory, manifest.generation, &info).ok()
    }
}

/// The manifest of the snapshot that is there, if it is this host's in one of these realms: the configured one, or that to which it moved.
pub(crate) fn manifest_in_place(directory: &Path, realms: &[B256], host: Id) -> Option<Manifest> {
    let snapshot = Snapshot::open(directory, Trust::owner(geteuid().as_raw())).ok()?;
    let manifest = snapshot.manifest().clone();
    let ours = realms.iter().any(|realm| manifest.facts.realm == RealmId(realm.0)) && manifest.facts.host == host;
    ours.then_some(manifest)
}

/// What the manifest knows better than the state: it is written with every publication, the state only when it changed, and
/// the state may just have been lost.
pub(crate) fn learn_from(state: &mut State, manifest: &Manifest, state_is_complete: bool) {
    let freshness = &manifest.freshness;
    state.highest_wall_secs = state.highest_wall_secs.max(freshness.highest_wall_secs);
    if !state_is_complete {
        state.salt = manifest.salt.0;
    }
    if state.published.is_none_or(|published| published.generation < manifest.generation) {
        let block = |block: countersign_snapshot::BlockRef| countersign_registry::BlockRef {
            number: block.number,
            time: block.time_secs,
        };
        let clock = Clock {
            unix_secs: freshness.highest_wall_secs,
            boot_id: freshness.boot_id,
            boottime_secs: freshness.boottime_secs,
        };
        let blocks = (block(manifest.facts.latest_block), block(manifest.facts.final_block));
        state.published = Some(record(manifest.generation, blocks, freshness, &clock));
    }
}

fn record(
    generation: u64,
    (latest, final_block): (countersign_registry::BlockRef, countersign_registry::BlockRef),
    freshness: &Freshness,
    clock: &Clock,
) -> Published {
    let BootId(boot_id) = freshness.boot_id;
    Published {
        generation,
        at_secs: clock.unix_secs,
        latest,
        final_block,
        valid_until_secs: freshness.valid_until_secs,
        max_staleness_secs: freshness.max_staleness_secs,
        boot_id,
        boottime_secs: freshness.boottime_secs,
        age_consumed_secs: freshness.age_consumed_secs,
    }
}

pub(crate) fn status_of(published: &Published) -> status::Published {
    status::Published {
        generation: published.generation,
        at: published.at_secs,
        block_time: published.latest.time,
        valid_until: published.valid_until_secs,
        max_staleness: published.max_staleness_secs,
    }
}

fn counts(effective: &Effective) -> BTreeMap<String, u64> {
    [
        ("users", effective.users.len()),
        ("groups", effective.groups.len()),
        ("hosts", effective.hosts.len()),
        ("keys", effective.keys.len()),
        ("grants", effective.grants.len()),
        ("cas", effective.cas.len()),
        ("batches", effective.batches.len()),
        ("requests", effective.requests.len()),
        ("locked-keys", effective.locked_keys.len()),
        ("revoked-keys", effective.revoked_keys.len()),
        ("revoked-serials", effective.revoked_serials.values().map(std::collections::BTreeSet::len).sum()),
        ("waiting", effective.waiting.len()),
        ("ignored", effective.ignored.len()),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), u64::try_from(count).unwrap_or(u64::MAX)))
    .collect()
}
