//! What the tests of this room share: a seeded source of chances, and a history in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;

use super::Hub;
use crate::error::Fault;
use crate::mvcc::{Event, EventKind, History, HistoryError, HistoryPage, Prev, Revision, RowHead, encode_delete, encode_row};

/// A source of chances (splitmix64): one seed, one run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of 39 keys, some a prefix of others.
    pub(crate) fn key(&mut self) -> Vec<u8> {
        (0..=self.below(3)).map(|_| b'a' + self.below(3) as u8).collect()
    }

    /// The end of a range: none, open, or any key.
    pub(crate) fn range_end(&mut self) -> Vec<u8> {
        match self.below(4) {
            0 => Vec::new(),
            1 => vec![0],
            _ => self.key(),
        }
    }
}

/// A store's events in memory.
#[derive(Default)]
pub(crate) struct FakeHistory(Mutex<State>);

#[derive(Default)]
struct State {
    events: Vec<Arc<Event>>,
    /// Key to the revisions of its current row and its creation, and the row.
    rows: BTreeMap<Vec<u8>, (i64, i64, Bytes)>,
    current: i64,
    compacted: i64,
    /// Rows one page looks at.
    page_rows: usize,
    prev_rows: BTreeMap<Revision, Bytes>,
    is_broken: bool,
}

/// A key and its new value; none deletes it.
pub(crate) type Change<'a> = (&'a str, Option<&'a [u8]>);

impl FakeHistory {
    /// An empty store, at revision 1.
    pub(crate) fn new() -> Arc<FakeHistory> {
        let history = FakeHistory::default();
        let mut state = history.0.lock().unwrap();
        (state.current, state.page_rows) = (1, usize::MAX);
        drop(state);
        Arc::new(history)
    }

    pub(crate) fn look_at_most_at(&self, rows: usize) {
        self.0.lock().unwrap().page_rows = rows;
    }

    /// From now on nothing can be read.
    pub(crate) fn break_down(&self) {
        self.0.lock().unwrap().is_broken = true;
    }

    /// Applies one transaction; returns its events, not yet published. Deletions of absent keys change nothing.
    pub(crate) fn apply(&self, changes: &[Change<'_>]) -> Vec<Arc<Event>> {
        let mut state = self.0.lock().unwrap();
        let main = state.current + 1;
        let mut events = Vec::new();
        for (key, value) in changes {
            let old = state.rows.get(key.as_bytes()).cloned();
            if value.is_none() && old.is_none() {
                continue;
            }
            let revision = Revision { main, sub: events.len() as u32 };
            let create_revision = old.as_ref().map_or(main, |old| old.1);
            let kv = match value {
                Some(value) => {
                    encode_row(&RowHead { key: key.as_bytes(), create_revision, mod_revision: main, version: 1, value, lease: 0 })
                }
                None => encode_delete(key.as_bytes(), main),
            };
            let kind = if value.is_some() { EventKind::Put } else { EventKind::Delete };
            let prev = Prev { revision: old.as_ref().map(|old| Revision::first_of(old.0)), row: OnceLock::new() };
            match value {
                Some(_) => state.rows.insert(key.as_bytes().to_vec(), (main, create_revision, kv.clone())),
                None => state.rows.remove(key.as_bytes()),
            };
            if let Some((_, _, row)) = old {
                state.prev_rows.insert(revision, row);
            }
            let key = Bytes::copy_from_slice(key.as_bytes());
            events.push(Arc::new(Event { revision, kind, key, kv, prev }));
        }
        if !events.is_empty() {
            state.current = main;
            state.events.extend(events.iter().cloned());
        }
        events
    }

    pub(crate) fn compact(&self, revision: i64) {
        let mut state = self.0.lock().unwrap();
        assert!(revision <= state.current);
        state.compacted = state.compacted.max(revision);
    }

    /// Applies one transaction and publishes it.
    pub(crate) fn commit(&self, hub: &Hub, changes: &[Change<'_>]) {
        let events = self.apply(changes);
        hub.publish(&events, self.current());
    }

    /// The newest main revision.
    pub(crate) fn current(&self) -> i64 {
        self.0.lock().unwrap().current
    }

    /// The compacted main revision; 0 before the first compaction.
    pub(crate) fn compacted(&self) -> i64 {
        self.0.lock().unwrap().compacted
    }

    /// Every event there was, compacted or not.
    pub(crate) fn all(&self) -> Vec<Arc<Event>> {
        self.0.lock().unwrap().events.clone()
    }
}

impl History for FakeHistory {
    fn page(&self, from: i64, max_bytes: usize, wanted: &dyn Fn(&[u8]) -> bool) -> Result<HistoryPage, HistoryError> {
        let state = self.0.lock().unwrap();
        if state.is_broken {
            return Err(HistoryError::Fault(Fault::new("broken")));
        }
        if from < state.compacted {
            return Err(HistoryError::Compacted(state.compacted));
        }
        let mut page = HistoryPage { events: Vec::new(), next: state.current + 1, current: state.current };
        let (mut looked, mut bytes) = (0, 0);
        let rest = &state.events[state.events.partition_point(|event| event.revision.main < from)..];
        for transaction in rest.chunk_by(|a, b| a.revision.main == b.revision.main) {
            if looked >= state.page_rows || bytes >= max_bytes {
                page.next = transaction[0].revision.main;
                break;
            }
            looked += transaction.len();
            for event in transaction.iter().filter(|event| wanted(&event.key)) {
                bytes += event.kv.len();
                page.events.push(event.clone());
            }
        }
        Ok(page)
    }

    fn prev_row(&self, event: &Event) -> Result<Option<Bytes>, Fault> {
        let state = self.0.lock().unwrap();
        if state.is_broken {
            return Err(Fault::new("broken"));
        }
        let is_kept = event.revision.main > state.compacted;
        let row = state.prev_rows.get(&event.revision).filter(|_| is_kept).cloned();
        Ok(event.prev.row.get_or_init(|| row).clone())
    }
}
