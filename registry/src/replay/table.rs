//! A sorted map whose copy costs nothing until it is written to.
//!
//! The latest view is the final view and a few entries more, computed anew at every poll: a branch shares the final view's map
//! and keeps only its own changes beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A map that shares its bulk with its clones; writes to one do not show in the other.
#[derive(Debug, Clone)]
pub(super) struct Table<K, V> {
    base: Arc<BTreeMap<K, V>>,
    /// Changes while `base` is shared; none: removed.
    over: BTreeMap<K, Option<V>>,
}

impl<K: Ord + Clone, V: Clone> Default for Table<K, V> {
    fn default() -> Self {
        Self { base: Arc::default(), over: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self.over.get(key) {
            Some(change) => change.as_ref(),
            None => self.base.get(key),
        }
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        match self.own() {
            Some(base) => {
                base.insert(key, value);
            }
            None => {
                self.over.insert(key, Some(value));
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(base) = self.own() {
            base.remove(key);
        } else if self.base.contains_key(key) {
            self.over.insert(key.clone(), None);
        } else {
            self.over.remove(key);
        }
    }

    /// The value, for writing; made by `Default` where there is none.
    pub(super) fn entry(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if self.own().is_none() {
            let shared = self.base.get(&key).cloned();
            return self.over.entry(key).or_insert(shared).get_or_insert_default();
        }
        // Not shared: `make_mut` does not copy.
        Arc::make_mut(&mut self.base).entry(key).or_default()
    }

    /// All pairs, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let unchanged = self.base.iter().filter(|(key, _)| !self.over.contains_key(key));
        unchanged.chain(self.over.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))))
    }

    /// Drops the pairs that `keep` does not want.
    pub(super) fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        if let Some(base) = self.own() {
            base.retain(|key, value| keep(key, value));
            return;
        }
        let dropped: Vec<K> =
            self.iter().filter(|(key, value)| !keep(key, value)).map(|(key, _)| key.clone()).collect();
        for key in &dropped {
            self.remove(key);
        }
    }

    /// The shared map, if no branch shares it any more; then the changes beside it move in.
    fn own(&mut self) -> Option<&mut BTreeMap<K, V>> {
        let base = Arc::get_mut(&mut self.base)?;
        while let Some((key, change)) = self.over.pop_first() {
            match change {
                Some(value) => base.insert(key, value),
                None => base.remove(&key),
            };
        }
        Some(base)
    }
}

impl<K: Ord + Clone + Serialize, V: Clone + Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.over.is_empty() {
            return self.base.serialize(serializer);
        }
        self.iter().collect::<BTreeMap<_, _>>().serialize(serializer)
    }
}

impl<'de, K: Ord + Clone + Deserialize<'de>, V: Clone + Deserialize<'de>> Deserialize<'de> for Table<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { base: Arc::new(BTreeMap::deserialize(deserializer)?), over: BTreeMap::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_to_a_branch_do_not_show_in_its_origin_nor_the_reverse() {
        let mut origin = Table::default();
        origin.insert(1, 10);
        origin.insert(2, 20);
        let mut branch = origin.clone();
        branch.remove(&1);
        *branch.entry(2) += 1;
        branch.insert(3, 30);
        branch.remove(&4);
        origin.insert(5, 50);
        assert_eq!(branch.iter().collect::<BTreeMap<_, _>>(), BTreeMap::from([(&2, &21), (&3, &30)]));
        assert_eq!(origin.iter().collect::<BTreeMap<_, _>>(), BTreeMap::from([(&1, &10), (&2, &20), (&5, &50)]));
        drop(branch);
        *origin.entry(1) += 1;
        assert_eq!(origin.get(&1), Some(&11));
        assert!(origin.over.is_empty());
        assert_eq!(origin.base.len(), 3);
    }

    #[test]
    fn a_key_removed_and_made_again_in_a_branch_starts_from_its_default() {
        let mut origin: Table<u8, u8> = Table::default();
        origin.insert(1, 10);
        let mut branch = origin.clone();
        branch.remove(&1);
        assert!(!branch.contains(&1));
        assert_eq!(*branch.entry(1), 0);
        branch.retain(|key, _| *key != 1);
        assert!(!branch.contains(&1) && origin.contains(&1));
    }
}
