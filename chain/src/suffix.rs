//! What the last look has found beyond the final view. Without it every look would fetch all of that again, however long finality
//! takes: whoever may write could have each host fetch an entry a hundred times. It is a shortcut and nothing is believed for its
//! sake: what is taken from it is folded to the proved slot like anything else, and a reorg or an error empties it.

use std::collections::BTreeMap;

use countersign_registry::{
    head::{Fold, PlacedEntry, Tip},
    pin::RealmPin,
};

use crate::{logs::Want, source::TrustedHeader};

/// Bytes of entries that are kept from look to look; what is beyond is fetched again.
const KEPT: usize = 16 << 20;

/// Entries of the last look's latest view alone.
#[derive(Clone, Debug)]
pub(crate) struct Suffix {
    /// The latest header of that look.
    pub(crate) header: TrustedHeader,
    shards: BTreeMap<u64, Shard>,
}

#[derive(Clone, Debug)]
struct Shard {
    from: Tip,
    entries: Vec<PlacedEntry>,
}

/// A part of it that continues what a reader knows.
pub(crate) struct Known<'a> {
    /// In order.
    pub(crate) entries: &'a [PlacedEntry],
    /// Where they lead.
    pub(crate) end: Tip,
}

impl Suffix {
    /// Of these entries, which continue `from`; none where they are too many.
    pub(crate) fn new(
        header: TrustedHeader,
        from: impl Iterator<Item = (u64, Tip)>,
        entries: &BTreeMap<u64, Vec<PlacedEntry>>,
    ) -> Option<Self> {
        let size = |placed: &PlacedEntry| placed.entry.data.len().saturating_add(size_of::<PlacedEntry>());
        if entries.values().flatten().map(size).fold(0, usize::saturating_add) > KEPT {
            return None;
        }
        let shards = from
            .filter_map(|(shard, from)| {
                let entries = entries.get(&shard).filter(|entries| !entries.is_empty())?;
                Some((shard, Shard { from, entries: entries.clone() }))
            })
            .collect();
        Some(Self { header, shards })
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Entries that lead from what is known of a shard to the slot that is wanted; none where these do not.
    pub(crate) fn to_slot(&self, pin: &RealmPin, want: &Want) -> Option<Known<'_>> {
        self.follow(pin, want, |tip| tip.slot == want.slot).filter(|known| known.end.slot == want.slot)
    }

    /// All entries that continue what is known of a shard.
    pub(crate) fn to_end(&self, pin: &RealmPin, want: &Want) -> Option<Known<'_>> {
        self.follow(pin, want, |_| false)
    }

    /// Entries after `want.from`, up to where `there` says, or all of them.
    fn follow(&self, pin: &RealmPin, want: &Want, there: impl Fn(&Tip) -> bool) -> Option<Known<'_>> {
        let Shard { from, entries } = self.shards.get(&want.shard)?;
        let mut fold = Fold::new(pin.chain_id, pin.contract, pin.realm, want.shard, *from, want.until);
        // The final view may have moved on to the middle of these.
        let mut begin = (fold.tip() == want.from).then_some(0);
        let mut end = 0_usize;
        for placed in entries {
            if begin.is_some() && there(&fold.tip()) {
                break;
            }
            fold.push(placed.entry.clone(), placed.at.block).ok()?;
            end = end.saturating_add(1);
            if begin.is_none() && fold.tip() == want.from {
                begin = Some(end);
            }
        }
        let entries = entries.get(begin?..end)?;
        (!entries.is_empty()).then(|| Known { entries, end: fold.tip() })
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256, U256};
    use countersign_registry::{Kind, LogEntry, head::Meta, shard};

    use super::*;

    fn pin() -> RealmPin {
        RealmPin {
            chain_id: 31337,
            contract: Address::repeat_byte(9),
            code_hash: B256::ZERO,
            realm: B256::repeat_byte(7),
            threshold: 1,
            roots: Vec::new(),
            salt: B256::ZERO,
            deployed_block: 0,
            genesis_hash: B256::ZERO,
        }
    }

    fn header() -> TrustedHeader {
        TrustedHeader { number: 20, hash: B256::ZERO, parent_hash: B256::ZERO, state_root: B256::ZERO, time: 20 }
    }

    /// Entries of `size` bytes in blocks 10 to 19, and where each of them leads, from an empty shard on.
    fn log(size: usize) -> (Vec<PlacedEntry>, Vec<Tip>) {
        let mut fold = Fold::new(31337, pin().contract, pin().realm, shard::DIRECTORY, Tip::default(), 100);
        let (mut entries, mut tips) = (Vec::new(), vec![Tip::default()]);
        for block in 10..20 {
            let prev_block = u32::try_from(fold.tip().block).unwrap();
            let meta = Meta { kind: Kind::USER_ADD, prev_block, time: block }.pack();
            let entry = LogEntry { shard: shard::DIRECTORY, actor: Address::ZERO, meta, data: vec![0; size].into() };
            entries.push(fold.push(entry, block).unwrap());
            tips.push(fold.tip());
        }
        (entries, tips)
    }

    fn suffix(from: Tip, entries: &[PlacedEntry]) -> Option<Suffix> {
        let entries = BTreeMap::from([(shard::DIRECTORY, entries.to_vec())]);
        Suffix::new(header(), [(shard::DIRECTORY, from), (shard::DENIALS, from)].into_iter(), &entries)
    }

    fn want(from: Tip, slot: U256) -> Want {
        Want { shard: shard::DIRECTORY, from, after: 0, slot, until: 30 }
    }

    #[test]
    fn it_continues_what_is_known_from_any_of_its_entries_to_any_later_one() {
        let (entries, tips) = log(10);
        let suffix = suffix(tips[2], &entries[2..]).unwrap();
        for from in 2..=10 {
            for to in from..=10 {
                let known = suffix.to_slot(&pin(), &want(tips[from], tips[to].slot));
                let expected = (from < to).then(|| (&entries[from..to], tips[to]));
                assert_eq!(known.map(|known| (known.entries, known.end)), expected, "{from} to {to}");
            }
            let rest = suffix.to_end(&pin(), &want(tips[from], U256::ZERO));
            let expected = (from < 10).then(|| (&entries[from..], tips[10]));
            assert_eq!(rest.map(|known| (known.entries, known.end)), expected, "from {from}");
        }
    }

    #[test]
    fn it_gives_nothing_for_what_it_does_not_continue_or_lead_to() {
        let (entries, tips) = log(10);
        let suffix = suffix(tips[2], &entries[2..]).unwrap();
        let elsewhere = Tip { slot: tips[5].slot ^ U256::from(1_u64 << 40), ..tips[5] };
        for (from, slot) in
            [(tips[1], tips[5].slot), (tips[3], elsewhere.slot), (elsewhere, tips[7].slot), (tips[5], tips[4].slot)]
        {
            assert!(suffix.to_slot(&pin(), &want(from, slot)).is_none());
        }
        for from in [tips[1], elsewhere, tips[10]] {
            assert!(suffix.to_end(&pin(), &want(from, U256::ZERO)).is_none());
        }
        let other_shard = Want { shard: shard::DENIALS, ..want(tips[2], tips[5].slot) };
        assert!(suffix.to_slot(&pin(), &other_shard).is_none());
    }

    #[test]
    fn what_would_fill_memory_is_not_kept() {
        let (entries, tips) = log(KEPT / 10);
        assert!(suffix(tips[0], &entries).is_none());
        assert!(suffix(tips[0], &entries[..9]).is_some());
        assert!(suffix(tips[0], &[]).unwrap().is_empty());
    }
}
