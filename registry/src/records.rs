//! Records by key, in the order in which they were first written; a copy costs nothing until it is written to.
//!
//! A realm may have a million records, and each poll asks for a latest view and for what holds now, which differ from the final
//! view by a few of them: a copy shares the original's bulk and keeps only its own changes beside it. Lookups hash with random
//! keys, since writers choose what ids hash to.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::ops::{Deref, Index};
use std::sync::Arc;

use indexmap::{Equivalent, IndexMap};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A map that shares its bulk with its copies; writes to one do not show in the other. It iterates in the order of first
/// writing, and a key that was removed and written again may have its old place.
#[derive(Clone)]
pub struct Records<K, V> {
    /// None: removed.
    base: Arc<IndexMap<K, Option<V>>>,
    /// Changes while `base` is shared; none: removed.
    over: IndexMap<K, Option<V>>,
    len: usize,
}

impl<K, V> Records<K, V> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Records<K, V> {
    /// The record of a key.
    #[must_use]
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        self.over.get(key).or_else(|| self.base.get(key))?.as_ref()
    }

    /// Whether there is a record of this key.
    #[must_use]
    pub fn contains_key<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> bool {
        self.get(key).is_some()
    }

    /// The key itself, as it is stored.
    pub(crate) fn key<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&K> {
        let (key, value) = self.over.get_key_value(key).or_else(|| self.base.get_key_value(key))?;
        value.as_ref().map(|_| key)
    }

    /// Writes a record, in the place of the key's earlier one.
    pub fn insert(&mut self, key: K, value: V) {
        let was_there = match self.own() {
            Some(base) => base.insert(key, Some(value)).is_some_and(|before| before.is_some()),
            None => {
                let shared = self.base.get(&key).is_some_and(Option::is_some);
                self.over.insert(key, Some(value)).map_or(shared, |before| before.is_some())
            }
        };
        self.len = self.len.saturating_add(usize::from(!was_there));
    }

    /// Removes a record, if there is one.
    pub fn remove(&mut self, key: &K) {
        if !self.contains_key(key) {
            return;
        }
        self.len = self.len.saturating_sub(1);
        let live = self.len;
        match self.own() {
            Some(base) => {
                base.insert(key.clone(), None);
                // Taking one out would move all later ones; so now and then, many at once.
                if base.len() / 2 > live {
                    base.retain(|_, value| value.is_some());
                }
            }
            None => {
                self.over.insert(key.clone(), None);
            }
        }
    }

    /// A record, for writing.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if self.own().is_some() {
            // Not shared: `make_mut` does not copy.
            return Arc::make_mut(&mut self.base).get_mut(key)?.as_mut();
        }
        if !self.over.contains_key(key) {
            self.over.insert(key.clone(), self.base.get(key)?.clone());
        }
        self.over.get_mut(key)?.as_mut()
    }

    /// A record, for writing; made by `Default` where there is none.
    pub fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if !self.contains_key(&key) {
            self.len = self.len.saturating_add(1);
        }
        if self.own().is_some() {
            return Arc::make_mut(&mut self.base).entry(key).or_default().get_or_insert_default();
        }
        let shared = self.base.get(&key).cloned().flatten();
        self.over.entry(key).or_insert(shared).get_or_insert_default()
    }

    /// All records with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let old = self.base.iter().map(|(key, value)| (key, self.over.get(key).unwrap_or(value)));
        let new = self.over.iter().filter(|(key, _)| !self.base.contains_key(*key));
        old.chain(new).filter_map(|(key, value)| Some((key, value.as_ref()?)))
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All records.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Removes the records that `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        if let Some(base) = self.own() {
            base.retain(|key, value| value.as_ref().is_some_and(|value| keep(key, value)));
            self.len = base.len();
            return;
        }
        let dropped: Vec<K> =
            self.iter().filter(|(key, value)| !keep(key, value)).map(|(key, _)| key.clone()).collect();
        for key in &dropped {
            self.remove(key);
        }
    }

    /// The shared map, if no copy shares it any more; then the changes beside it move in.
    fn own(&mut self) -> Option<&mut IndexMap<K, Option<V>>> {
        let base = Arc::get_mut(&mut self.base)?;
        if !self.over.is_empty() {
            for (key, change) in std::mem::take(&mut self.over) {
                if change.is_some() || base.contains_key(&key) {
                    base.insert(key, change);
                }
            }
        }
        Some(base)
    }
}

impl<K, V> Default for Records<K, V> {
    fn default() -> Self {
        Self { base: Arc::default(), over: IndexMap::default(), len: 0 }
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for Records<K, V> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_map().entries(self.iter()).finish()
    }
}

/// Order does not matter.
impl<K: Hash + Eq + Clone, V: Clone + PartialEq> PartialEq for Records<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: Hash + Eq + Clone, V: Clone + Eq> Eq for Records<K, V> {}

impl<K: Hash + Eq + Clone, V: Clone> Index<&K> for Records<K, V> {
    type Output = V;

    #[expect(
        clippy::expect_used,
        reason = "indexing a map is for keys that are known to be there, as with the standard ones"
    )]
    fn index(&self, key: &K) -> &V {
        self.get(key).expect("no record of this key")
    }
}

impl<K: Hash + Eq + Clone, V: Clone> FromIterator<(K, V)> for Records<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let base: IndexMap<K, Option<V>> = pairs.into_iter().map(|(key, value)| (key, Some(value))).collect();
        Self { len: base.len(), base: Arc::new(base), over: IndexMap::default() }
    }
}

impl<K: Hash + Eq + Clone, V: Clone, const N: usize> From<[(K, V); N]> for Records<K, V> {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl<'a, K: Hash + Eq + Clone, V: Clone> IntoIterator for &'a Records<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Box<dyn Iterator<Item = (&'a K, &'a V)> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl<K: Hash + Eq + Clone + Serialize, V: Clone + Serialize> Serialize for Records<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len))?;
        for (key, value) in self {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, K: Hash + Eq + Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Records<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize_each(deserializer, |_| ())
    }
}

impl<'de, K: Hash + Eq + Deserialize<'de>, V: Deserialize<'de>> Records<K, V> {
    /// Reads a map, and shows each record to `each` before it is kept.
    pub(crate) fn deserialize_each<D: Deserializer<'de>>(
        deserializer: D,
        each: impl FnMut(&mut V),
    ) -> Result<Self, D::Error> {
        let base = deserializer.deserialize_map(Each { each, types: PhantomData })?;
        Ok(Self { len: base.len(), base: Arc::new(base), over: IndexMap::default() })
    }
}

struct Each<F, K, V> {
    each: F,
    types: PhantomData<(K, V)>,
}

impl<'de, F: FnMut(&mut V), K: Hash + Eq + Deserialize<'de>, V: Deserialize<'de>> Visitor<'de> for Each<F, K, V> {
    type Value = IndexMap<K, Option<V>>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a map of records")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut pairs: A) -> Result<Self::Value, A::Error> {
        let mut map = IndexMap::new();
        while let Some((key, mut value)) = pairs.next_entry()? {
            (self.each)(&mut value);
            map.insert(key, Some(value));
        }
        Ok(map)
    }
}

/// A set that many records have in common, such as the logins of a grant: stored once.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent, bound(serialize = "T: Serialize", deserialize = "T: Deserialize<'de> + Ord"))]
pub struct SharedSet<T>(Arc<BTreeSet<T>>);

/// The sets that are there to be shared.
pub(crate) type Sets<T> = Records<SharedSet<T>, ()>;

impl<T: Ord + Clone + Hash> SharedSet<T> {
    /// The set of `sets` with this content, which is added where it is new.
    pub(crate) fn of(sets: &mut Sets<T>, content: Self) -> Self {
        if let Some(known) = sets.key(&content) {
            return known.clone();
        }
        sets.insert(content.clone(), ());
        content
    }
}

impl<T> Deref for SharedSet<T> {
    type Target = BTreeSet<T>;

    fn deref(&self) -> &BTreeSet<T> {
        &self.0
    }
}

impl<T> From<BTreeSet<T>> for SharedSet<T> {
    fn from(set: BTreeSet<T>) -> Self {
        Self(Arc::new(set))
    }
}

impl<T: Ord> FromIterator<T> for SharedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(Arc::new(items.into_iter().collect()))
    }
}

impl<'a, T> IntoIterator for &'a SharedSet<T> {
    type Item = &'a T;
    type IntoIter = std::collections::btree_set::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs<K: Hash + Eq + Copy, V: Copy>(records: &Records<K, V>) -> Vec<(K, V)> {
        assert_eq!(records.len(), records.iter().count());
        records.iter().map(|(key, value)| (*key, *value)).collect()
    }

    #[test]
    fn writes_to_a_copy_do_not_show_in_its_origin_nor_the_reverse() {
        let mut origin = Records::from([(2, 20), (1, 10)]);
        let mut copy = origin.clone();
        copy.remove(&1);
        *copy.get_or_default(2) += 1;
        copy.insert(3, 30);
        copy.remove(&4);
        assert_eq!(copy.get_mut(&4), None);
        origin.insert(5, 50);
        *origin.get_mut(&1).unwrap() += 1;
        assert_eq!(pairs(&copy), [(2, 21), (3, 30)]);
        assert_eq!(pairs(&origin), [(2, 20), (1, 11), (5, 50)]);
        drop(copy);
        *origin.get_or_default(1) += 1;
        assert_eq!(pairs(&origin), [(2, 20), (1, 12), (5, 50)]);
        assert!(origin.over.is_empty());
        assert_eq!(origin.base.len(), 3);
    }

    #[test]
    fn a_key_removed_and_made_again_starts_from_its_default() {
        let mut origin: Records<u8, u8> = Records::from([(1, 10)]);
        let mut copy = origin.clone();
        for records in [&mut copy, &mut origin] {
            records.remove(&1);
            records.remove(&1);
            assert!(!records.contains_key(&1) && records.is_empty() && records.get_mut(&1).is_none());
            assert_eq!(*records.get_or_default(1), 0);
            assert_eq!(records.len(), 1);
            records.retain(|key, _| *key != 1);
            assert!(records.is_empty() && records.keys().next().is_none());
        }
    }

    #[test]
    fn removing_keeps_the_order_and_gives_the_space_back() {
        let mut records: Records<u16, u16> = (0..100).map(|number| (number, number)).collect();
        for number in (0..100).filter(|number| number % 10 != 0) {
            records.remove(&number);
        }
        assert_eq!(records.keys().copied().collect::<Vec<_>>(), [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
        assert!(records.base.len() < 25);
    }

    #[test]
    fn equality_is_of_content_whatever_the_order_and_the_way_there() {
        let records = Records::from([(1, 10), (2, 20)]);
        let mut other = Records::from([(2, 20), (3, 30)]);
        assert_ne!(records, other);
        other.insert(1, 10);
        let mut same = other.clone();
        same.remove(&3);
        assert_eq!(records, same);
        same.insert(2, 21);
        assert_ne!(records, same);
    }

    #[test]
    fn records_survive_serialisation_in_their_order() {
        let mut records: Records<u8, u8> = Records::from([(3, 30), (1, 10)]);
        let _shared = records.clone();
        records.remove(&3);
        records.insert(2, 20);
        let bytes = postcard::to_stdvec(&records).unwrap();
        assert_eq!(pairs(&postcard::from_bytes::<Records<u8, u8>>(&bytes).unwrap()), [(1, 10), (2, 20)]);
        assert_eq!(serde_json::to_string(&records).unwrap(), r#"{"1":10,"2":20}"#);
    }

    #[test]
    fn equal_sets_are_stored_once() {
        let mut sets = Sets::default();
        let names = || ["b", "a"].map(str::to_owned).into_iter().collect::<SharedSet<String>>();
        let (first, second) = (SharedSet::of(&mut sets, names()), SharedSet::of(&mut sets, names()));
        assert!(Arc::ptr_eq(&first.0, &second.0));
        assert_eq!(first, names());
        assert_ne!(SharedSet::of(&mut sets, SharedSet::default()), first);
        assert_eq!(sets.len(), 2);
    }
}
