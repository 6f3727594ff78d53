//! Revoked serials, of which a realm may have ten million, and the entries that revoked them.
//!
//! One entry revokes a thousand of them. So a serial has but the number of its entry, in the eight bytes in which its shard alone would
//! stand; where and when the entry is, is said once for each entry. It decides nothing but which serials are revoked.

use countersign_certificate::Id;
use serde::{Deserialize, Serialize};

use crate::realm::EntryRef;
use crate::records::Records;
use crate::shard::{self, CLASS_REVOCATIONS};

/// An entry of class 3, as a serial knows it. The order is by epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Number {
    epoch: u32,
    /// No shard has as many entries as this cannot count; those that it could not would be one, whose place is not known.
    index: u32,
}

/// See the module's documentation. A copy shares its memory, as that of [`Records`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Serials {
    /// (CA, serial) to the entry of the latest shard that revoked it.
    serials: Records<(Id, u64), Number>,
    /// Block and time.
    entries: Records<Number, (u64, u64)>,
}

impl Number {
    fn of(at: EntryRef) -> Self {
        Self { epoch: shard::epoch_of(at.shard), index: u32::try_from(at.index).unwrap_or(u32::MAX) }
    }

    fn shard(self) -> u64 {
        shard::shard(CLASS_REVOCATIONS, self.epoch)
    }
}

impl Serials {
    /// `at` is of class 3. What an earlier entry has said of the same serial is forgotten.
    pub(super) fn revoke(&mut self, ca: Id, serial: u64, at: EntryRef) {
        let number = Number::of(at);
        let latest = self.serials.get(&(ca, serial)).map_or(number, |before| number.max(*before));
        if latest == number {
            self.serials.insert((ca, serial), number);
            self.entries.insert(number, (at.block, at.time));
        }
    }

    /// Whether it is revoked.
    pub(super) fn contains(&self, ca: &Id, serial: u64) -> bool {
        self.serials.contains_key(&(*ca, serial))
    }

    /// All revoked ones.
    pub(super) fn keys(&self) -> impl Iterator<Item = (Id, u64)> + '_ {
        self.serials.keys().copied()
    }

    /// All of them as they were first revoked, so that those of one entry mostly follow one another, and the entry.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ((Id, u64), Option<EntryRef>)> + '_ {
        let mut last = None;
        self.serials.iter().map(move |(key, number)| {
            let at = match last {
                Some((known, at)) if known == *number => at,
                _ => self.entry(*number),
            };
            last = Some((*number, at));
            (*key, at)
        })
    }

    /// Forgets those of shards that `keep` does not want.
    pub(super) fn retain_shards(&mut self, keep: impl Fn(u64) -> bool) {
        self.serials.retain(|_, number| keep(number.shard()));
        self.entries.retain(|number, _| keep(number.shard()));
    }

    fn entry(&self, number: Number) -> Option<EntryRef> {
        let (block, time) = *self.entries.get(&number).filter(|_| number.index < u32::MAX)?;
        Some(EntryRef { block, shard: number.shard(), index: u64::from(number.index), time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: Id = Id([5; 16]);

    fn at(epoch: u32, index: u64) -> EntryRef {
        EntryRef { block: index.saturating_add(100), shard: shard::shard(CLASS_REVOCATIONS, epoch), index, time: 9 }
    }

    #[test]
    fn a_serial_names_the_entry_of_the_latest_shard_whatever_was_read_first() {
        let both = [at(7, 3), at(8, 0)];
        for order in [both, [both[1], both[0]]] {
            let mut serials = Serials::default();
            for at in order {
                serials.revoke(CA, 1, at);
            }
            serials.revoke(CA, 2, at(7, 3));
            assert_eq!(serials.iter().collect::<Vec<_>>(), [((CA, 1), Some(at(8, 0))), ((CA, 2), Some(at(7, 3)))]);
            serials.retain_shards(|shard| shard != at(7, 0).shard);
            assert_eq!(serials.iter().collect::<Vec<_>>(), [((CA, 1), Some(at(8, 0)))]);
            assert_eq!(serials.entries.len(), 1, "entries go with their shard");
        }
    }

    #[test]
    fn an_entry_of_a_number_that_is_not_counted_revokes_and_has_no_place() {
        let mut serials = Serials::default();
        for index in [u64::from(u32::MAX), u64::MAX] {
            serials.revoke(CA, index, EntryRef { index, ..at(7, 0) });
        }
        assert!(serials.contains(&CA, u64::MAX));
        assert!(serials.iter().all(|(_, at)| at.is_none()));
    }

    #[test]
    fn a_serial_takes_up_no_more_than_it_would_with_its_shard_alone() {
        assert_eq!(size_of::<Number>(), size_of::<u64>());
        let (mut serials, at) = (Serials::default(), at(688, 70_000));
        let shards: Records<(Id, u64), u64> = (0..1000).map(|serial| ((CA, u64::MAX - serial), at.shard)).collect();
        for ((ca, serial), _) in &shards {
            serials.revoke(*ca, *serial, at);
        }
        let (with, without) = (postcard::to_stdvec(&serials).unwrap(), postcard::to_stdvec(&shards).unwrap());
        assert!(with.len() <= without.len() + 20, "{} and {}", with.len(), without.len());
        assert_eq!(serials.entries.len(), 1);
    }
}
