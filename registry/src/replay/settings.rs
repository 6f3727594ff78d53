//! The realm's settings: defaults, ranges, which way is stricter.

use serde::{Deserialize, Serialize};

use crate::effective::Settings;
use crate::replay::IgnoreReason;

/// Key numbers of `Settings` entries.
pub mod setting {
    /// 0 or 1; 1 is stricter.
    pub const REQUIRE_LOGGED: u16 = 1;
    /// Seconds, 0 to 31,536,000; less is stricter.
    pub const MAX_TTL: u16 = 2;
    /// Watchdogs, 0 to 64; more is stricter.
    pub const COUNTERSIGN_QUORUM: u16 = 3;
    /// Seconds, 30 to 604,800; less is stricter.
    pub const MAX_STALENESS: u16 = 4;
    /// Seconds, 0 to 2,592,000; more is stricter.
    pub const DIRECTORY_DELAY: u16 = 5;
    /// ADMINs, 1 to 64; more is stricter.
    pub const DIRECTORY_QUORUM: u16 = 6;
    /// 65,536 to 4,000,000,000; set once, by roots, before the first user or group.
    pub const UID_BASE: u16 = 7;
    /// Seconds, 0 to 86,400; less is stricter.
    pub const PICKUP: u16 = 8;

    /// Every key, with the name of its field.
    pub const NAMED: [(&str, u16); 8] = [
        ("require-logged", REQUIRE_LOGGED),
        ("max-ttl", MAX_TTL),
        ("countersign-quorum", COUNTERSIGN_QUORUM),
        ("max-staleness", MAX_STALENESS),
        ("directory-delay", DIRECTORY_DELAY),
        ("directory-quorum", DIRECTORY_QUORUM),
        ("uid-base", UID_BASE),
        ("pickup", PICKUP),
    ];
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            require_logged: false,
            max_ttl: 86_400,
            countersign_quorum: 0,
            max_staleness: 300,
            directory_delay: 0,
            directory_quorum: 1,
            pickup: 600,
            uid_base: 1_900_000_000,
        }
    }
}

impl Settings {
    /// Sets one value. The uid base is not set here: replay fixes it.
    ///
    /// # Errors
    /// An unknown key, or a value out of its range.
    pub fn set(&mut self, key: u16, value: u64) -> Result<(), IgnoreReason> {
        let range = match key {
            setting::REQUIRE_LOGGED => 0..=1,
            setting::MAX_TTL => 0..=31_536_000,
            setting::COUNTERSIGN_QUORUM => 0..=64,
            setting::MAX_STALENESS => 30..=604_800,
            setting::DIRECTORY_DELAY => 0..=2_592_000,
            setting::DIRECTORY_QUORUM => 1..=64,
            setting::PICKUP => 0..=86_400,
            _ => return Err(IgnoreReason::SettingUnknown),
        };
        if !range.contains(&value) {
            return Err(IgnoreReason::SettingOutOfRange);
        }
        match key {
            setting::REQUIRE_LOGGED => self.require_logged = value == 1,
            setting::MAX_TTL => self.max_ttl = value,
            setting::COUNTERSIGN_QUORUM => self.countersign_quorum = value,
            setting::MAX_STALENESS => self.max_staleness = value,
            setting::DIRECTORY_DELAY => self.directory_delay = value,
            setting::DIRECTORY_QUORUM => self.directory_quorum = value,
            _ => self.pickup = value,
        }
        Ok(())
    }

    /// Each value the stricter of both; the uid base is `self`'s.
    #[must_use]
    pub fn stricter(&self, other: &Self) -> Self {
        Self {
            require_logged: self.require_logged || other.require_logged,
            max_ttl: self.max_ttl.min(other.max_ttl),
            countersign_quorum: self.countersign_quorum.max(other.countersign_quorum),
            max_staleness: self.max_staleness.min(other.max_staleness),
            directory_delay: self.directory_delay.max(other.directory_delay),
            directory_quorum: self.directory_quorum.max(other.directory_quorum),
            pickup: self.pickup.min(other.pickup),
            uid_base: self.uid_base,
        }
    }

    /// Sets one value where that is stricter than the one in force.
    ///
    /// # Errors
    /// An unknown key, a value out of its range, or one that is not stricter.
    pub fn tighten(&mut self, key: u16, value: u64) -> Result<(), IgnoreReason> {
        let mut changed = *self;
        changed.set(key, value)?;
        let tightened = self.stricter(&changed);
        if tightened == *self {
            return Err(IgnoreReason::SettingNotStricter);
        }
        *self = tightened;
        Ok(())
    }
}

/// Settings with what replay needs to judge entries of the block that changes them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct SettingsState {
    now: Settings,
    /// Block of the last change and the values before that block.
    before: Option<(u64, Settings)>,
    /// The base that was set and the block that set it.
    uid_base: Option<(u32, u64)>,
    uid_base_fixed: bool,
}

impl SettingsState {
    /// The values in force; the uid base as it will be, if nothing has fixed it yet.
    pub(super) fn now(&self) -> Settings {
        match self.uid_base {
            Some((uid_base, _)) if !self.uid_base_fixed => Settings { uid_base, ..self.now },
            _ => self.now,
        }
    }

    /// What judges entries of `block` in other shards: looser values count from the next block on.
    pub(super) fn in_block(&self, block: u64) -> Settings {
        match &self.before {
            Some((changed, before)) if *changed == block => self.now.stricter(before),
            _ => self.now,
        }
    }

    /// A value written by roots, in `block`.
    pub(super) fn set(&mut self, key: u16, value: u64, block: u64) -> Result<(), IgnoreReason> {
        if key == setting::UID_BASE {
            return self.set_uid_base(value, block);
        }
        let mut changed = self.now;
        changed.set(key, value)?;
        self.remember(block);
        self.now = changed;
        Ok(())
    }

    /// A value written by a revoker, in `block`.
    pub(super) fn tighten(&mut self, key: u16, value: u64, block: u64) -> Result<(), IgnoreReason> {
        let mut changed = self.now;
        changed.tighten(key, value)?;
        self.remember(block);
        self.now = changed;
        Ok(())
    }

    /// The uid of the user or group of this ordinal, which is written in `block`. The first fixes the base.
    pub(super) fn uid(&mut self, ordinal: u64, block: u64) -> Option<u32> {
        if !self.uid_base_fixed {
            self.uid_base_fixed = true;
            if let Some((base, set)) = self.uid_base
                && set < block
            {
                self.now.uid_base = base;
                if let Some((_, before)) = &mut self.before {
                    before.uid_base = base;
                }
            }
        }
        // The two greatest are reserved (`(uid_t) -1` is "no uid").
        let uid = u32::try_from(u64::from(self.now.uid_base).checked_add(ordinal)?).ok()?;
        (uid < u32::MAX.saturating_sub(1)).then_some(uid)
    }

    fn set_uid_base(&mut self, value: u64, block: u64) -> Result<(), IgnoreReason> {
        let base = u32::try_from(value)
            .ok()
            .filter(|base| (65_536..=4_000_000_000).contains(base))
            .ok_or(IgnoreReason::SettingOutOfRange)?;
        if self.uid_base_fixed || self.uid_base.is_some() {
            return Err(IgnoreReason::UidBaseFixed);
        }
        self.uid_base = Some((base, block));
        Ok(())
    }

    fn remember(&mut self, block: u64) {
        if self.before.as_ref().is_none_or(|(changed, _)| *changed != block) {
            self.before = Some((block, self.now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_tightens_one_way_only() {
        let stricter = [(1, 1), (2, 60), (3, 2), (4, 60), (5, 600), (6, 2), (8, 60)];
        let looser = [(1, 0), (2, 100_000), (3, 0), (4, 600), (5, 0), (6, 1), (8, 700)];
        for ((key, tight), (_, loose)) in stricter.into_iter().zip(looser) {
            let mut settings = Settings::default();
            assert_eq!(settings.tighten(key, loose), Err(IgnoreReason::SettingNotStricter), "{key}");
            assert_eq!(settings, Settings::default());
            assert_eq!(settings.tighten(key, tight), Ok(()), "{key}");
            let mut set = Settings::default();
            assert_eq!(set.set(key, tight), Ok(()), "{key}");
            assert_eq!(settings, set);
        }
    }

    #[test]
    fn values_out_of_range_and_unknown_keys_are_refused() {
        for (key, value) in
            [(1, 2), (2, 31_536_001), (3, 65), (4, 29), (4, 604_801), (5, 2_592_001), (6, 0), (6, 65), (8, 86_401)]
        {
            assert_eq!(Settings::default().set(key, value), Err(IgnoreReason::SettingOutOfRange), "{key}");
        }
        for key in [0, 7, 9, u16::MAX] {
            assert_eq!(Settings::default().set(key, 1), Err(IgnoreReason::SettingUnknown), "{key}");
        }
    }

    #[test]
    fn the_uid_base_is_set_once_and_before_the_first_user() {
        let mut settings = SettingsState::default();
        assert_eq!(settings.set(setting::UID_BASE, 65_535, 1), Err(IgnoreReason::SettingOutOfRange));
        assert_eq!(settings.set(setting::UID_BASE, 100_000, 1), Ok(()));
        assert_eq!(settings.set(setting::UID_BASE, 200_000, 2), Err(IgnoreReason::UidBaseFixed));
        assert_eq!(settings.now().uid_base, 100_000);
        assert_eq!(settings.uid(0, 2), Some(100_000));
        assert_eq!(settings.uid(7, 3), Some(100_007));
        let mut late = SettingsState::default();
        assert_eq!(late.uid(0, 1), Some(1_900_000_000));
        assert_eq!(late.set(setting::UID_BASE, 100_000, 2), Err(IgnoreReason::UidBaseFixed));
        let mut same_block = SettingsState::default();
        assert_eq!(same_block.set(setting::UID_BASE, 100_000, 5), Ok(()));
        assert_eq!(same_block.uid(0, 5), Some(1_900_000_000));
        assert_eq!(same_block.uid(u64::MAX, 5), None);
        assert_eq!(same_block.uid(2_394_967_294, 5), None);
    }

    #[test]
    fn in_the_block_of_a_change_the_stricter_value_counts() {
        let mut settings = SettingsState::default();
        settings.set(setting::DIRECTORY_DELAY, 100, 1).unwrap();
        settings.set(setting::DIRECTORY_DELAY, 0, 9).unwrap();
        assert_eq!(settings.in_block(9).directory_delay, 100);
        assert_eq!(settings.in_block(10).directory_delay, 0);
        settings.set(setting::DIRECTORY_DELAY, 50, 11).unwrap();
        assert_eq!(settings.in_block(11).directory_delay, 50);
    }
}
