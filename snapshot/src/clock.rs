//! Is a snapshot still to be believed? Decided from the wall clock, the boot clock and the boot id, all three parameters.
//!
//! Refuses whatever could be an old snapshot kept alive: by a clock set back, by a machine suspended or restored, by a
//! copy from an earlier boot. There is no tolerance: the agent publishes again within seconds.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// How far the host's clock may be behind the block it has seen, in seconds.
const BLOCK_TIME_TOLERANCE_SECS: u64 = 30;

/// The kernel's random name for this boot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// Reads the text form, a UUID: 32 hexadecimal digits with hyphens.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0u8; 16];
        let mut digits = text.trim_end().chars().filter(|c| *c != '-');
        for byte in &mut id {
            let high = digits.next()?.to_digit(16)?;
            let low = digits.next()?.to_digit(16)?;
            *byte = u8::try_from((high << 4) | low).ok()?;
        }
        digits.next().is_none().then_some(Self(id))
    }

    fn of_this_boot() -> io::Result<Self> {
        let mut text = [0; 64];
        // The kernel gives it whole to the first read.
        let length = File::open(BOOT_ID_PATH)?.read(&mut text)?;
        let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(Self::parse).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "boot id is not a UUID"))
    }
}

/// What time it is, in the three ways that freshness needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Wall clock, Unix seconds.
    pub unix_secs: u64,
    /// This boot.
    pub boot_id: BootId,
    /// `CLOCK_BOOTTIME`, seconds since this boot, suspended time included.
    pub boottime_secs: u64,
}

impl Clock {
    /// Reads the machine's clocks.
    ///
    /// # Errors
    /// Where `/proc` does not tell the boot id, or a clock is before its own epoch.
    pub fn now() -> io::Result<Self> {
        let unix_secs = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_secs();
        let boot_id = BootId::of_this_boot()?;
        let boottime = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        let boottime_secs = u64::try_from(boottime.tv_sec()).map_err(io::Error::other)?;
        Ok(Self { unix_secs, boot_id, boottime_secs })
    }
}

/// What the publisher wrote down so that readers can tell the snapshot's age. Times in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freshness {
    /// Unix time after which nothing in it counts: the latest block's time + max staleness, at most.
    pub valid_until_secs: u64,
    /// The boot in which it was published.
    pub boot_id: BootId,
    /// `CLOCK_BOOTTIME` when it was published.
    pub boottime_secs: u64,
    /// How old its facts already were then.
    pub age_consumed_secs: u64,
    /// How old its facts may become.
    pub max_staleness_secs: u64,
    /// The highest wall clock the publisher has ever seen, Unix time.
    pub highest_wall_secs: u64,
}

impl Freshness {
    /// Judges a snapshot of the block with time `block_time_secs` at `clock`.
    ///
    /// # Errors
    /// The first reason why it does not count, in the order of [`Stale`]'s variants.
    pub fn check(&self, block_time_secs: u64, clock: &Clock) -> Result<(), Stale> {
        if clock.boot_id != self.boot_id {
            return Err(Stale::OtherBoot);
        }
        let Some(elapsed_secs) = clock.boottime_secs.checked_sub(self.boottime_secs) else {
            return Err(Stale::BootClockBackwards { now: clock.boottime_secs, published: self.boottime_secs });
        };
        if clock.unix_secs < self.highest_wall_secs {
            return Err(Stale::ClockBackwards { now: clock.unix_secs, seen: self.highest_wall_secs });
        }
        if clock.unix_secs.saturating_add(BLOCK_TIME_TOLERANCE_SECS) < block_time_secs {
            return Err(Stale::ClockBehindBlock { now: clock.unix_secs, block_time: block_time_secs });
        }
        if clock.unix_secs > self.valid_until_secs {
            return Err(Stale::Expired { now: clock.unix_secs, valid_until: self.valid_until_secs });
        }
        let age = elapsed_secs.saturating_add(self.age_consumed_secs);
        if age > self.max_staleness_secs {
            return Err(Stale::TooOld { age, limit: self.max_staleness_secs });
        }
        Ok(())
    }
}

/// Why a snapshot does not count now. Times in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stale {
    /// Published before the machine was started again.
    OtherBoot,
    /// The boot clock is before the publication: not this machine's clock.
    BootClockBackwards {
        /// `CLOCK_BOOTTIME` now.
        now: u64,
        /// `CLOCK_BOOTTIME` at publication.
        published: u64,
    },
    /// The wall clock was later once.
    ClockBackwards {
        /// Unix time now.
        now: u64,
        /// Highest Unix time seen.
        seen: u64,
    },
    /// The wall clock is more than 30 s before the block.
    ClockBehindBlock {
        /// Unix time now.
        now: u64,
        /// The block's Unix time.
        block_time: u64,
    },
    /// The wall clock is past `valid_until`.
    Expired {
        /// Unix time now.
        now: u64,
        /// The last second in which it counted.
        valid_until: u64,
    },
    /// By the boot clock, which nobody sets, it is older than allowed.
    TooOld {
        /// Its age.
        age: u64,
        /// The age allowed.
        limit: u64,
    },
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherBoot => write!(f, "snapshot is from another boot"),
            Self::BootClockBackwards { now, published } => {
                write!(f, "boot clock {now} is before the snapshot's publication at {published}")
            }
            Self::ClockBackwards { now, seen } => write!(f, "clock {now} is before {seen}, which it has shown already"),
            Self::ClockBehindBlock { now, block_time } => {
                write!(f, "clock {now} is more than {BLOCK_TIME_TOLERANCE_SECS} s before the block time {block_time}")
            }
            Self::Expired { now, valid_until } => write!(f, "snapshot was valid until {valid_until}, now {now}"),
            Self::TooOld { age, limit } => write!(f, "snapshot is {age} s old, expected at most {limit} s"),
        }
    }
}

impl std::error::Error for Stale {}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([7; 16]);

    fn freshness() -> Freshness {
        Freshness {
            valid_until_secs: 1_300,
            boot_id: BOOT,
            boottime_secs: 50,
            age_consumed_secs: 10,
            max_staleness_secs: 300,
            highest_wall_secs: 980,
        }
    }

    fn at(unix_secs: u64, boottime_secs: u64) -> Clock {
        Clock { unix_secs, boot_id: BOOT, boottime_secs }
    }

    #[test]
    fn a_snapshot_counts_up_to_and_including_its_last_second() {
        assert_eq!(freshness().check(1_000, &at(1_000, 50)), Ok(()));
        assert_eq!(freshness().check(1_000, &at(1_300, 50)), Ok(()));
        assert_eq!(freshness().check(1_000, &at(1_301, 50)), Err(Stale::Expired { now: 1_301, valid_until: 1_300 }));
    }

    #[test]
    fn a_clock_may_be_thirty_seconds_behind_the_block_and_no_more() {
        let freshness = Freshness { highest_wall_secs: 0, ..freshness() };
        assert_eq!(freshness.check(1_000, &at(970, 50)), Ok(()));
        assert_eq!(freshness.check(1_000, &at(969, 50)), Err(Stale::ClockBehindBlock { now: 969, block_time: 1_000 }));
    }

    #[test]
    fn a_clock_earlier_than_the_highest_seen_is_refused_without_tolerance() {
        assert_eq!(freshness().check(1_000, &at(980, 50)), Ok(()));
        assert_eq!(freshness().check(1_000, &at(979, 50)), Err(Stale::ClockBackwards { now: 979, seen: 980 }));
    }

    #[test]
    fn the_boot_clock_ends_a_snapshot_even_when_the_wall_clock_stands_still() {
        assert_eq!(freshness().check(1_000, &at(1_000, 340)), Ok(()));
        assert_eq!(freshness().check(1_000, &at(1_000, 341)), Err(Stale::TooOld { age: 301, limit: 300 }));
    }

    #[test]
    fn age_consumed_before_publication_counts() {
        let old = Freshness { age_consumed_secs: 301, ..freshness() };
        assert_eq!(old.check(1_000, &at(1_000, 50)), Err(Stale::TooOld { age: 301, limit: 300 }));
        let overflowing = Freshness { age_consumed_secs: u64::MAX, ..freshness() };
        assert_eq!(overflowing.check(1_000, &at(1_000, 60)), Err(Stale::TooOld { age: u64::MAX, limit: 300 }));
    }

    #[test]
    fn another_boot_is_refused_whatever_the_clocks_say() {
        let clock = Clock { boot_id: BootId([8; 16]), ..at(1_000, 50) };
        assert_eq!(freshness().check(1_000, &clock), Err(Stale::OtherBoot));
    }

    #[test]
    fn a_boot_clock_before_the_publication_is_refused() {
        assert_eq!(freshness().check(1_000, &at(1_000, 49)), Err(Stale::BootClockBackwards { now: 49, published: 50 }));
    }

    #[test]
    fn the_machines_own_clock_reads_twice_the_same_boot() {
        let (first, second) = (Clock::now().unwrap(), Clock::now().unwrap());
        assert_eq!(first.boot_id, second.boot_id);
        assert!(first.boottime_secs <= second.boottime_secs);
        assert!(first.unix_secs > 1_700_000_000);
    }

    #[test]
    fn a_boot_id_that_is_not_32_hexadecimal_digits_is_refused() {
        let text = "01234567-89ab-cdef-0123-456789abcdef\n";
        let id = BootId::parse(text).unwrap();
        assert_eq!(
            id.0,
            [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]
        );
        for end in 0..text.len() - 1 {
            assert_eq!(BootId::parse(&text[..end]), None);
        }
        assert_eq!(BootId::parse("01234567-89ab-cdef-0123-456789abcdef0"), None);
        assert_eq!(BootId::parse("g1234567-89ab-cdef-0123-456789abcdef"), None);
    }
}
