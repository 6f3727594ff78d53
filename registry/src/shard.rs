//! Shard numbers: which shard a kind belongs to, which epoch a time falls into, which shards a reader needs.
//!
//! A shard is `shard class << 32 | epoch`. Epochs are none (0), days since 1970 or periods of 30 days since 1970, by class.

use std::ops::RangeInclusive;

use crate::entries::Kind;

/// Seconds of a day.
pub const DAY_SECS: u64 = 86_400;
/// Seconds of a period of shard class 3.
pub const PERIOD_SECS: u64 = 30 * DAY_SECS;
/// How many periods ahead a certificate revocation may be filed.
pub const PERIODS_AHEAD: u64 = 13;

/// Governance: kind class 00.
pub const GOVERNANCE: u64 = 0;
/// Directory: kind class 01.
pub const DIRECTORY: u64 = 1 << 32;
/// Denials: kind class 02.
pub const DENIALS: u64 = 2 << 32;

/// Shard class of certificate revocations, kind class 03.
pub const CLASS_REVOCATIONS: u32 = 3;
/// Shard class of batches, countersignatures and approvals, kind classes 04–06.
pub const CLASS_BATCHES: u32 = 4;
/// Shard class of members, kind class 07.
pub const CLASS_MEMBERS: u32 = 5;
/// Shard class of deliveries, kind class 08.
pub const CLASS_DELIVERIES: u32 = 6;
/// Shard class of the inbox, kind class 09.
pub const CLASS_INBOX: u32 = 7;

/// The shard of a class and an epoch.
#[must_use]
pub fn shard(class: u32, epoch: u32) -> u64 {
    (u64::from(class) << 32) | u64::from(epoch)
}

/// The shard's class.
#[must_use]
pub fn class_of(shard: u64) -> u32 {
    u32::try_from(shard >> 32).unwrap_or(u32::MAX)
}

/// The shard's epoch.
#[must_use]
pub fn epoch_of(shard: u64) -> u32 {
    u32::try_from(shard & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// Days since 1970 of a Unix time.
#[must_use]
pub fn day(time: u64) -> u32 {
    u32::try_from(time / DAY_SECS).unwrap_or(u32::MAX)
}

/// Periods of 30 days since 1970 of a Unix time.
#[must_use]
pub fn period(time: u64) -> u32 {
    u32::try_from(time / PERIOD_SECS).unwrap_or(u32::MAX)
}

/// The shard class of a kind; none for undefined kind classes.
#[must_use]
pub fn class_of_kind(kind: Kind) -> Option<u32> {
    match kind.class() {
        class @ 0..=3 => Some(u32::from(class)),
        0x04..=0x06 => Some(CLASS_BATCHES),
        0x07 => Some(CLASS_MEMBERS),
        0x08 => Some(CLASS_DELIVERIES),
        0x09 => Some(CLASS_INBOX),
        spare @ 0x10..=0x17 => Some(u32::from(spare).saturating_sub(8)),
        _ => None,
    }
}

/// The shard a writer passes to the contract, which fills in the day for day classes. None for undefined kind classes and for
/// class 03, whose shard is [`revocation_shard`].
#[must_use]
pub fn write_shard(kind: Kind) -> Option<u64> {
    class_of_kind(kind).filter(|class| *class != CLASS_REVOCATIONS).map(|class| shard(class, 0))
}

/// Where the revocation of a certificate that expires at `valid_before` is filed, as seen at block time `now`; expiry times out
/// of the contract's range (one period back to 13 ahead) move to its ends.
#[must_use]
pub fn revocation_shard(valid_before: u64, now: u64) -> u64 {
    let current = period(now);
    let last = current.saturating_add(13);
    shard(CLASS_REVOCATIONS, period(valid_before).clamp(current.saturating_sub(1), last))
}

/// The shards that decide who gets in at block time `now`: 0, 1, 2, certificate revocations from the previous period to
/// `now + max_ttl`, batches of the days that `max_ttl` and one day cover.
///
/// Members' requests (class 5) cover the same days as batches, since approvals name them.
#[must_use]
pub fn access_shards(now: u64, max_ttl: u64) -> Vec<u64> {
    let mut shards = vec![GOVERNANCE, DIRECTORY, DENIALS];
    let current = period(now);
    let last = period(now.saturating_add(max_ttl)).min(current.saturating_add(13));
    shards.extend((current.saturating_sub(1)..=last).map(|epoch| shard(CLASS_REVOCATIONS, epoch)));
    let days = days_back(now, max_ttl.saturating_add(DAY_SECS));
    shards.extend(days.clone().map(|epoch| shard(CLASS_BATCHES, epoch)));
    shards.extend(days.map(|epoch| shard(CLASS_MEMBERS, epoch)));
    shards
}

/// The delivery shards from the day of `since` to the day of `now`.
#[must_use]
pub fn delivery_shards(since: u64, now: u64) -> Vec<u64> {
    (day(since)..=day(now)).map(|epoch| shard(CLASS_DELIVERIES, epoch)).collect()
}

/// The days from `back` seconds ago to `now`.
#[must_use]
pub fn days_back(now: u64, back: u64) -> RangeInclusive<u32> {
    day(now.saturating_sub(back))..=day(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_splits_into_what_it_was_made_of() {
        let made = shard(CLASS_BATCHES, 20_000);
        assert_eq!((class_of(made), epoch_of(made)), (CLASS_BATCHES, 20_000));
        assert_eq!(made, 4 << 32 | 20_000);
        assert_eq!((class_of(u64::MAX), epoch_of(u64::MAX)), (u32::MAX, u32::MAX));
    }

    #[test]
    fn kinds_go_to_the_shard_class_of_the_table() {
        let class = |kind: u16| class_of_kind(Kind(kind));
        assert_eq!(class(0x0080), Some(0));
        assert_eq!(class(0x0109), Some(1));
        assert_eq!(class(0x0208), Some(2));
        assert_eq!(class(0x0300), Some(3));
        assert_eq!([class(0x0400), class(0x0500), class(0x0600)], [Some(4); 3]);
        assert_eq!([class(0x0700), class(0x0800), class(0x0900)], [Some(5), Some(6), Some(7)]);
        assert_eq!([class(0x1000), class(0x1700)], [Some(8), Some(15)]);
        assert_eq!([class(0x0a00), class(0x0f00), class(0x1800), class(0xff00)], [None; 4]);
    }

    #[test]
    fn access_shards_cover_the_previous_period_and_the_day_before() {
        let now = 660 * PERIOD_SECS + 5;
        let shards = access_shards(now, 86_400);
        let today = day(now);
        assert_eq!(
            shards,
            [
                GOVERNANCE,
                DIRECTORY,
                DENIALS,
                shard(3, 659),
                shard(3, 660),
                shard(4, today - 2),
                shard(4, today - 1),
                shard(4, today),
                shard(5, today - 2),
                shard(5, today - 1),
                shard(5, today),
            ]
        );
    }

    #[test]
    fn a_revocation_is_filed_by_expiry_within_the_contracts_range() {
        let now = 660 * PERIOD_SECS;
        assert_eq!(revocation_shard(now + PERIOD_SECS, now), shard(3, 661));
        assert_eq!(revocation_shard(0, now), shard(3, 659));
        assert_eq!(revocation_shard(u64::MAX, now), shard(3, 673));
    }
}
