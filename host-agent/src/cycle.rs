//! The rules of one cycle that need no I/O: which shards a host reads, how old a snapshot is when it is published, and which reason
//! code a failure of the chain gets. Kept apart so that each rule can be tested by itself.

use std::collections::BTreeSet;

use countersign_chain::ChainError;
use countersign_chain::source::TrustedHeader;
use countersign_registry::shard::{self, CLASS_DELIVERIES, CLASS_MEMBERS, CLASS_REVOCATIONS, DAY_SECS, class_of};
use countersign_registry::{BlockRef, Effective};
use countersign_snapshot::{Clock, Freshness};

use crate::reason::Reason;
use crate::state::Published;

/// How far back batches and requests are read before the realm's settings are known: its default max TTL and pickup, seconds.
pub const DEFAULT_LOOK_BACK_SECS: u64 = DAY_SECS + 600;

/// The furthest that batches and requests are read back, whatever the settings say, seconds. A certificate that lives longer than
/// a year is refused once its batch is out of sight.
pub const MAX_LOOK_BACK_SECS: u64 = 366 * DAY_SECS;

/// How far back a device looks for deliveries when it looks for the first time, seconds.
pub const FIRST_DELIVERY_LOOK_SECS: u64 = 30 * DAY_SECS;

/// How long a delivery that cannot be applied is waited for, seconds.
pub const DELIVERY_LIFE_SECS: u64 = 90 * DAY_SECS;

/// A failure of a cycle: why, as a code and in words. The snapshot that was there stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// The stable code.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

impl Failure {
    /// A failure with a message of its own.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// A failure in the words of an error and its sources.
    pub fn of(reason: Reason, error: &dyn std::error::Error) -> Self {
        Self { reason, message: crate::log::chain(error) }
    }
}

impl From<ChainError> for Failure {
    fn from(error: ChainError) -> Self {
        Self::of(chain_reason(&error), &error)
    }
}

/// The code for what went wrong between this host and the ledger.
pub fn chain_reason(error: &ChainError) -> Reason {
    match error {
        ChainError::NoEndpoint { last, .. } => chain_reason(last),
        ChainError::NoQuorum { .. } | ChainError::Header { .. } => Reason::HeaderUntrusted,
        ChainError::WrongChain { .. } | ChainError::WrongGenesis { .. } => Reason::ChainMismatch,
        ChainError::WentBack { what, .. } if what.contains("final") => Reason::FinalWentBack,
        ChainError::WentBack { .. } => Reason::LatestWentBack,
        ChainError::CodeHash { .. } => Reason::CodeHash,
        // The verifier's words; a test with a contract of another code pins them.
        ChainError::Proof { detail, .. } if detail.contains("code hash") => Reason::CodeHash,
        ChainError::Proof { .. } | ChainError::NotYetFinal { .. } => Reason::ProofInvalid,
        ChainError::HeadMismatch { .. } => Reason::LogsIncomplete,
        ChainError::LogTooLarge { .. } => Reason::LedgerTooLarge,
        // Of files, a reader of the ledger uses the one in which entries wait.
        ChainError::File { .. } => Reason::StateIo,
        _ => Reason::EndpointsSilent,
    }
}

/// The shards that a host reads at block time `now_secs`. `deliveries_since_secs`: where a device looks for its deliveries and
/// their acknowledgements from.
pub fn wanted_shards(now_secs: u64, look_back_secs: u64, deliveries_since_secs: Option<u64>) -> BTreeSet<u64> {
    let mut shards: BTreeSet<u64> =
        shard::access_shards(now_secs, look_back_secs.min(MAX_LOOK_BACK_SECS)).into_iter().collect();
    if let Some(since_secs) = deliveries_since_secs {
        let since_secs = since_secs.max(now_secs.saturating_sub(DELIVERY_LIFE_SECS));
        for delivery_shard in shard::delivery_shards(since_secs, now_secs) {
            shards.insert(delivery_shard);
            shards.insert(shard::shard(CLASS_MEMBERS, shard::epoch_of(delivery_shard)));
        }
    }
    shards
}

/// Whether a shard's entries may be forgotten once it is out of sight: those of days and periods, never 0, 1 and 2.
pub fn is_dated(shard_number: u64) -> bool {
    (CLASS_REVOCATIONS..=CLASS_DELIVERIES).contains(&class_of(shard_number))
}

/// Whether a shard holds revocations of certificates.
pub fn is_revocations(shard_number: u64) -> bool {
    class_of(shard_number) == CLASS_REVOCATIONS
}

/// How far back the realm's settings make a host read, seconds.
pub fn look_back_secs(effective: &Effective) -> u64 {
    effective.settings.max_ttl.saturating_add(effective.settings.pickup).min(MAX_LOOK_BACK_SECS)
}

/// Number and time of a header.
pub fn block_ref(header: &TrustedHeader) -> BlockRef {
    BlockRef { number: header.number, time: header.time }
}

/// The freshness of a snapshot that is made from a block of now.
pub fn fresh(block_time_secs: u64, max_staleness_secs: u64, highest_wall_secs: u64, clock: &Clock) -> Freshness {
    let valid_until_secs = block_time_secs.saturating_add(max_staleness_secs);
    Freshness {
        valid_until_secs,
        boot_id: clock.boot_id,
        boottime_secs: clock.boottime_secs,
        age_consumed_secs: clock.unix_secs.saturating_sub(block_time_secs),
        max_staleness_secs,
        // A clock that is ahead by more than the staleness is of no use to anybody, and must not lock the host out when it is
        // set right: it is not remembered beyond the time in which the snapshot counts.
        highest_wall_secs: highest_wall_secs.max(clock.unix_secs.min(valid_until_secs)),
    }
}

/// The freshness of a snapshot that is published again without news: never valid longer than before, and as old as it is. After
/// a reboot the boot clock says nothing about the time between, so the wall clock tells the age, if that is more.
pub fn aged(published: &Published, max_staleness_secs: u64, highest_wall_secs: u64, clock: &Clock) -> Freshness {
    let since_publication_secs = if published.boot_id == clock.boot_id.0 {
        clock.boottime_secs.saturating_sub(published.boottime_secs)
    } else {
        0
    };
    let by_boot_clock_secs = published.age_consumed_secs.saturating_add(since_publication_secs);
    let by_wall_clock_secs = clock.unix_secs.saturating_sub(published.latest.time);
    let max_staleness_secs = max_staleness_secs.min(published.max_staleness_secs);
    let valid_until_secs = published.valid_until_secs.min(published.latest.time.saturating_add(max_staleness_secs));
    Freshness {
        valid_until_secs,
        boot_id: clock.boot_id,
        boottime_secs: clock.boottime_secs,
        age_consumed_secs: by_boot_clock_secs.max(by_wall_clock_secs),
        max_staleness_secs,
        highest_wall_secs: highest_wall_secs.max(clock.unix_secs.min(valid_until_secs)),
    }
}

#[cfg(test)]
mod tests {
    use countersign_snapshot::{BootId, Stale};

    use super::*;

    fn clock(unix_secs: u64, boot: u8, boottime_secs: u64) -> Clock {
        Clock { unix_secs, boot_id: BootId([boot; 16]), boottime_secs }
    }

    fn published() -> Published {
        Published {
            generation: 1,
            at_secs: 1_010,
            latest: BlockRef { number: 9, time: 1_000 },
            final_block: BlockRef { number: 7, time: 998 },
            valid_until_secs: 1_300,
            max_staleness_secs: 300,
            boot_id: [1; 16],
            boottime_secs: 50,
            age_consumed_secs: 10,
        }
    }

    #[test]
    fn a_restart_in_the_same_boot_keeps_valid_until_and_the_age_consumed() {
        let freshness = aged(&published(), 300, 1_010, &clock(1_110, 1, 150));
        assert_eq!(freshness.valid_until_secs, 1_300);
        assert_eq!(freshness.age_consumed_secs, 110);
        assert_eq!(freshness.boottime_secs, 150);
        assert_eq!(freshness.highest_wall_secs, 1_110);
    }

    #[test]
    fn a_wall_clock_set_back_does_not_make_a_republished_snapshot_younger() {
        // 290 s by the boot clock, although the wall clock claims that only a second has passed.
        let freshness = aged(&published(), 300, 1_010, &clock(1_011, 1, 340));
        assert_eq!(freshness.age_consumed_secs, 300);
        let later = clock(1_012, 1, 341);
        assert_eq!(freshness.check(1_000, &later), Err(Stale::TooOld { age: 301, limit: 300 }));
    }

    #[test]
    fn after_a_reboot_the_wall_clock_tells_the_age() {
        let freshness = aged(&published(), 300, 1_010, &clock(1_250, 2, 5));
        assert_eq!((freshness.age_consumed_secs, freshness.boot_id), (250, BootId([2; 16])));
        assert_eq!(freshness.check(1_000, &clock(1_250, 2, 5)), Ok(()));
        assert_eq!(
            freshness.check(1_000, &clock(1_301, 2, 56)),
            Err(Stale::Expired { now: 1_301, valid_until: 1_300 })
        );
    }

    #[test]
    fn a_lowered_staleness_shortens_a_republished_snapshot_and_a_raised_one_does_not_lengthen_it() {
        assert_eq!(aged(&published(), 60, 0, &clock(1_020, 1, 60)).valid_until_secs, 1_060);
        let freshness = aged(&published(), 900, 0, &clock(1_020, 1, 60));
        assert_eq!((freshness.valid_until_secs, freshness.max_staleness_secs), (1_300, 300));
    }

    #[test]
    fn a_clock_far_ahead_is_not_remembered_beyond_the_snapshots_validity() {
        assert_eq!(fresh(1_000, 300, 900, &clock(4_000_000_000, 1, 1)).highest_wall_secs, 1_300);
        assert_eq!(fresh(1_000, 300, 900, &clock(1_100, 1, 1)).highest_wall_secs, 1_100);
        assert_eq!(fresh(1_000, 300, 1_200, &clock(1_100, 1, 1)).highest_wall_secs, 1_200);
    }

    #[test]
    fn a_host_reads_requests_and_deliveries_for_each_day_since_it_last_looked() {
        let now = 20_000 * DAY_SECS + 10;
        let plain = wanted_shards(now, 300, None);
        let with = wanted_shards(now, 300, Some(now - 5 * DAY_SECS));
        for day in 19_995..=20_000 {
            assert!(with.contains(&shard::shard(CLASS_DELIVERIES, day)), "{day}");
            assert!(with.contains(&shard::shard(CLASS_MEMBERS, day)), "{day}");
            assert!(!plain.contains(&shard::shard(CLASS_DELIVERIES, day)), "{day}");
        }
        assert!(plain.is_subset(&with));
    }

    #[test]
    fn settings_without_bounds_do_not_make_a_host_read_for_ever() {
        let now = 20_000 * DAY_SECS;
        assert!(wanted_shards(now, u64::MAX, Some(0)).len() < 1_000);
    }

    #[test]
    fn only_dated_shards_are_ever_forgotten() {
        for kept in [shard::GOVERNANCE, shard::DIRECTORY, shard::DENIALS] {
            assert!(!is_dated(kept));
        }
        for class in 3..=6 {
            assert!(is_dated(shard::shard(class, 20_000)));
        }
    }
}
