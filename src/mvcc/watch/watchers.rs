//! Watchers, found by the keys they watch: one map for those of a single key, one tree for those of a range.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use super::interval::{End, Interval, IntervalTree};
use crate::mvcc::KeyRange;

/// The keys of a watch. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchedKeys {
    /// One key.
    Key(Arc<[u8]>),
    /// All keys of an interval.
    Span(Interval),
}

impl WatchedKeys {
    /// Reads a request's `key` and `range_end`. An empty key means the smallest one, `"\0"`. None if no key can be in the range.
    pub fn new(key: &[u8], range_end: &[u8]) -> Option<WatchedKeys> {
        let key = if key.is_empty() { b"\0" } else { key };
        let range = KeyRange::new(key, range_end);
        if range.is_empty() {
            return None;
        }
        Some(match range {
            KeyRange::One(key) => WatchedKeys::Key(key.into()),
            KeyRange::From(start) => WatchedKeys::Span(Interval { start: start.into(), end: End::Open }),
            KeyRange::Between(start, end) => WatchedKeys::Span(Interval { start: start.into(), end: End::Before(end.into()) }),
        })
    }
}

/// Where a watcher stands in [`Watchers`]; valid until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u32);

/// A set of watchers.
#[derive(Clone, Debug)]
pub struct Watchers<T> {
    all: Slab<Entry<T>>,
    by_key: HashMap<Arc<[u8]>, Vec<Slot>>,
    by_span: IntervalTree<Vec<Slot>>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    range: WatchedKeys,
    /// Index among those of the same range, so that removal does not search.
    position: usize,
    watcher: T,
}

impl<T> Default for Watchers<T> {
    fn default() -> Watchers<T> {
        Watchers { all: Slab::new(), by_key: HashMap::new(), by_span: IntervalTree::default() }
    }
}

impl<T> Watchers<T> {
    /// Adds a watcher.
    pub fn insert(&mut self, range: WatchedKeys, watcher: T) -> Slot {
        let entry = self.all.vacant_entry();
        let slot = Slot(u32::try_from(entry.key()).expect("fewer than 2^32 watchers fit into memory"));
        let members = match &range {
            WatchedKeys::Key(key) => self.by_key.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1)),
            WatchedKeys::Span(span) => {
                if self.by_span.get_mut(span).is_none() {
                    self.by_span.insert(span.clone(), Vec::with_capacity(1));
                }
                self.by_span.get_mut(span).expect("it has just been inserted")
            }
        };
        members.push(slot);
        entry.insert(Entry { position: members.len() - 1, range, watcher });
        slot
    }

    /// Takes a watcher out.
    pub fn remove(&mut self, slot: Slot) -> (WatchedKeys, T) {
        let Entry { range, position, watcher } = self.all.remove(slot.0 as usize);
        let members = match &range {
            WatchedKeys::Key(key) => self.by_key.get_mut(key),
            WatchedKeys::Span(span) => self.by_span.get_mut(span),
        };
        let members = members.expect("every watcher is listed under its range");
        assert_eq!(members.swap_remove(position), slot, "a watcher stands at its position");
        if let Some(moved) = members.get(position) {
            self.all[moved.0 as usize].position = position;
        }
        if members.is_empty() {
            match &range {
                WatchedKeys::Key(key) => drop(self.by_key.remove(key)),
                WatchedKeys::Span(span) => drop(self.by_span.remove(span)),
            }
        }
        (range, watcher)
    }

    /// The watcher at a slot.
    pub fn get(&self, slot: Slot) -> &T {
        &self.all[slot.0 as usize].watcher
    }

    /// The watcher at a slot.
    pub fn get_mut(&mut self, slot: Slot) -> &mut T {
        &mut self.all[slot.0 as usize].watcher
    }

    /// Calls `found` with every watcher of `key`.
    pub fn matching(&self, key: &[u8], found: &mut impl FnMut(Slot, &T)) {
        let mut each = |members: &Vec<Slot>| {
            for slot in members {
                found(*slot, self.get(*slot));
            }
        };
        if let Some(members) = self.by_key.get(key) {
            each(members);
        }
        self.by_span.stab(key, &mut each);
    }

    /// All watchers.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.all.iter().map(|(index, entry)| (Slot(index as u32), &entry.watcher))
    }

    /// Where all of them stand.
    pub fn slots(&self) -> Vec<Slot> {
        self.iter().map(|(slot, _)| slot).collect()
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::watch::testing::Dice;

    fn span(start: &str, end: &str) -> Option<WatchedKeys> {
        Some(WatchedKeys::Span(Interval { start: start.as_bytes().into(), end: End::Before(end.as_bytes().into()) }))
    }

    #[test]
    fn rule_54_ranges_are_read_as_etcd_reads_them() {
        assert_eq!(WatchedKeys::new(b"a", b""), Some(WatchedKeys::Key((*b"a").into())));
        assert_eq!(WatchedKeys::new(b"", b""), Some(WatchedKeys::Key((*b"\0").into())));
        assert_eq!(WatchedKeys::new(b"a", b"b"), span("a", "b"));
        assert_eq!(WatchedKeys::new(b"", b"b"), span("\0", "b"));
        assert_eq!(WatchedKeys::new(b"a", b"\0"), Some(WatchedKeys::Span(Interval { start: (*b"a").into(), end: End::Open })));
        assert_eq!(WatchedKeys::new(b"", b"\0"), Some(WatchedKeys::Span(Interval { start: (*b"\0").into(), end: End::Open })));
        assert_eq!(WatchedKeys::new(b"b", b"b"), None);
        assert_eq!(WatchedKeys::new(b"b", b"a"), None);
    }

    #[test]
    fn matches_what_a_naive_list_matches() {
        for seed in 0..40 {
            println!("seed {seed}");
            let mut dice = Dice::new(seed);
            let mut watchers = Watchers::default();
            let mut naive: Vec<(Slot, Vec<u8>, Vec<u8>, u64)> = Vec::new();
            for step in 0..400 {
                if dice.one_in(3) && !naive.is_empty() {
                    let (slot, .., value) = naive.swap_remove(dice.below(naive.len()));
                    assert_eq!(watchers.remove(slot).1, value);
                } else {
                    let (key, end) = (dice.key(), dice.range_end());
                    if let Some(range) = WatchedKeys::new(&key, &end) {
                        naive.push((watchers.insert(range, step), key, end, step));
                    }
                }
                let key = dice.key();
                let mut found = Vec::new();
                watchers.matching(&key, &mut |_, value| found.push(*value));
                found.sort();
                let holds = |start: &[u8], end: &[u8]| match end {
                    [] => start == key,
                    [0] => start <= &key[..],
                    _ => start <= &key[..] && &key[..] < end,
                };
                let mut expected: Vec<u64> = naive.iter().filter(|(_, s, e, _)| holds(s, e)).map(|w| w.3).collect();
                expected.sort();
                assert_eq!(found, expected);
                assert_eq!(watchers.len(), naive.len());
            }
        }
    }
}
