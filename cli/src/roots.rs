//! Which roots are in force and what their next nonce is.
//!
//! The contract keeps only a hash of (nonce, threshold, roots), which is proved. The roots come from the verified log (the last
//! ROOT_SET, or the realm file's), and the nonce is the number that makes the hash: it grows by one with each of their calls. A slot
//! that no number makes is an error, never a guess.

use alloy_primitives::{Address, B256};
use countersign_registry::entries::{Entry, Kind};
use countersign_registry::head::Meta;
use countersign_registry::{PlacedEntry, RealmPin, sign};

/// What a root's signature depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootState {
    /// The next nonce.
    pub nonce: u64,
    /// How many roots must sign.
    pub threshold: u64,
    /// The roots in force.
    pub roots: Vec<Address>,
    /// The realm's salt.
    pub salt: B256,
}

impl RootState {
    /// Works it out from the verified log and the proved content of the realm's root set slot. `None` when they do not belong together:
    /// the slot was read at another block than the log.
    pub fn find<'a>(pin: &RealmPin, entries: impl IntoIterator<Item = &'a PlacedEntry>, slot: B256) -> Option<Self> {
        let mut state = Self { nonce: 0, threshold: pin.threshold, roots: pin.roots.clone(), salt: pin.salt };
        let mut written = false;
        for placed in entries.into_iter().filter(|placed| placed.entry.actor.is_zero()) {
            written = true;
            let kind = Meta::unpack(placed.entry.meta).map(|meta| meta.kind);
            if kind != Some(Kind::ROOT_SET) {
                continue;
            }
            if let Ok(Entry::RootSet(set)) = Entry::decode(Kind::ROOT_SET, &placed.entry.data) {
                state.threshold = u64::try_from(set.threshold).ok()?;
                state.roots = set.roots;
            }
        }
        if slot.is_zero() {
            return (!written).then_some(state);
        }
        // Not every call is among the entries: those of class 03 leave the view with their shards.
        state.nonce = sign::root_nonce(slot, state.threshold, &state.roots)?;
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U256;

    use super::*;
    use countersign_registry::entries::payload;
    use countersign_registry::{EntryRef, LogEntry};

    fn pin() -> RealmPin {
        RealmPin {
            chain_id: 1,
            contract: Address::ZERO,
            code_hash: B256::ZERO,
            realm: B256::ZERO,
            threshold: 2,
            roots: vec![Address::repeat_byte(1), Address::repeat_byte(2)],
            salt: B256::ZERO,
            deployed_block: 0,
            genesis_hash: B256::ZERO,
        }
    }

    fn by_roots(entry: &Entry) -> PlacedEntry {
        let meta = Meta { kind: entry.kind(), prev_block: 0, time: 0 }.pack();
        PlacedEntry {
            at: EntryRef::default(),
            entry: LogEntry { shard: 0, actor: Address::ZERO, meta, data: entry.encode() },
        }
    }

    fn role() -> PlacedEntry {
        by_roots(&Entry::RoleSet(payload::RoleSet { actor: Address::repeat_byte(5), roles: 1, x25519: B256::ZERO }))
    }

    #[test]
    fn a_realm_without_entries_has_the_roots_of_its_file() {
        let state = RootState::find(&pin(), &[], B256::ZERO).unwrap();
        assert_eq!((state.nonce, state.threshold, state.roots), (0, 2, pin().roots));
    }

    #[test]
    fn one_call_that_wrote_two_entries_counts_once() {
        let slot = sign::root_set_hash(U256::from(1), U256::from(2), &pin().roots);
        assert_eq!(RootState::find(&pin(), &[role(), role()], slot).unwrap().nonce, 1);
    }

    #[test]
    fn calls_whose_entries_have_left_the_view_are_counted_all_the_same() {
        let slot = sign::root_set_hash(U256::from(700), U256::from(2), &pin().roots);
        assert_eq!(RootState::find(&pin(), &[role()], slot).unwrap().nonce, 700);
        assert_eq!(RootState::find(&pin(), &[], slot).unwrap().nonce, 700);
    }

    #[test]
    fn the_last_root_set_is_in_force() {
        let roots = vec![Address::repeat_byte(7)];
        let set = Entry::RootSet(payload::RootSet { threshold: U256::from(1), roots: roots.clone() });
        let slot = sign::root_set_hash(U256::from(2), U256::from(1), &roots);
        let state = RootState::find(&pin(), &[role(), by_roots(&set)], slot).unwrap();
        assert_eq!(state, RootState { nonce: 2, threshold: 1, roots, salt: B256::ZERO });
    }

    #[test]
    fn a_slot_that_no_nonce_makes_is_not_guessed_at() {
        assert_eq!(RootState::find(&pin(), &[role()], B256::repeat_byte(1)), None);
        assert_eq!(RootState::find(&pin(), &[role()], B256::ZERO), None);
    }
}
