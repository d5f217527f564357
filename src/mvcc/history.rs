//! History for watchers that lag: bounded pages in revision order.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::Revision;
use super::event::{Event, EventKind, History, HistoryError, HistoryPage, Prev};
use super::row::encode_delete;
use super::state::State;
use super::store::{Store, sound_row};
use crate::backend::Table;
use crate::error::Fault;

/// Rows looked at per page, so that a page of a quiet range in a busy store ends too.
const PAGE_ROWS: usize = 10_000;

/// Bytes of rows copied out of the checkpoint per page, whoever wants them.
struct Page<'a> {
    wanted: &'a dyn Fn(&[u8]) -> bool,
    found: Vec<(Revision, Bytes)>,
    bytes: usize,
    max_bytes: usize,
    looked_at: usize,
    /// The transaction last looked at. A page ends only before the next one.
    last_main: i64,
}

impl Page<'_> {
    /// Takes a row in, or says that the page is full.
    fn offer(&mut self, revision: Revision, row: &[u8], copy: impl FnOnce() -> Bytes) -> bool {
        let full = self.bytes >= self.max_bytes || self.looked_at >= PAGE_ROWS;
        if full && revision.main != self.last_main {
            return false;
        }
        self.last_main = revision.main;
        self.looked_at += 1;
        if (self.wanted)(super::read::head(row).key) {
            self.bytes += row.len();
            self.found.push((revision, copy()));
        }
        true
    }
}

impl History for Store {
    fn page(&self, from: i64, max_bytes: usize, wanted: &dyn Fn(&[u8]) -> bool) -> Result<HistoryPage, HistoryError> {
        let start = Revision::first_of(from.max(0));
        let mut page = Page { wanted, found: Vec::new(), bytes: 0, max_bytes, looked_at: 0, last_main: from };
        let mut done = true;
        let state = self.state();
        let current = state.current;
        if from < state.compacted {
            return Err(HistoryError::Compacted(state.compacted));
        }
        if !state.recent.covers(start) && from <= current {
            // Rows of the checkpoint end where the recent ones begin; the reader is opened before the lock is let go.
            let reader = self.backend().reader().map_err(HistoryError::Fault)?;
            let end = state.recent.from(Revision::default()).next().map_or(Revision::first_of(current + 1), |(first, _)| first);
            drop(state);
            let scanned = reader.scan(Table::Row, &start.to_key(), |key, row| {
                let (revision, _) = sound_row(key, row)?;
                if revision >= end {
                    return Ok(false);
                }
                done = page.offer(revision, row, || Bytes::copy_from_slice(row));
                Ok(done)
            });
            scanned.map_err(HistoryError::Fault)?;
            drop(reader);
            let state = self.state();
            if from < state.compacted {
                return Err(HistoryError::Compacted(state.compacted));
            }
            // Had a checkpoint moved the boundary meanwhile, the recent rows read now would leave a gap: next page, then.
            let next = if done { end.main } else { page.last_main + 1 };
            // No transaction has rows on both sides of the boundary, because no checkpoint cuts one.
            return Ok(finish(&state, page, next.min(current + 1), state.current));
        }
        for (revision, row) in state.recent.from(start) {
            done = page.offer(revision, row, || row.clone());
            if !done {
                break;
            }
        }
        // A reader that waits for the future is not sent back.
        let next = if done { from.max(current + 1) } else { page.last_main + 1 };
        Ok(finish(&state, page, next, current))
    }

    fn prev_row(&self, event: &Event) -> Result<Option<Bytes>, Fault> {
        let Some(revision) = event.prev.revision else { return Ok(None) };
        if let Some(row) = event.prev.row.get() {
            return Ok(row.clone());
        }
        let (recent, reader) = {
            let state = self.state();
            match state.recent.get(revision) {
                Some(row) => (Some(row.clone()), None),
                None => (None, Some(self.backend().reader()?)),
            }
        };
        let row = match (recent, reader) {
            (None, Some(mut reader)) => reader.get(Table::Row, &revision.to_key())?.map(Bytes::copy_from_slice),
            (recent, _) => recent,
        };
        Ok(event.prev.row.get_or_init(|| row).clone())
    }
}

fn finish(state: &State, page: Page<'_>, next: i64, current: i64) -> HistoryPage {
    let events = page.found.into_iter().map(|(revision, row)| event(state, revision, row)).collect();
    HistoryPage { events, next, current }
}

fn event(state: &State, revision: Revision, row: Bytes) -> Arc<Event> {
    let head = super::read::head(&row);
    let key = row.slice_ref(head.key);
    // A key that its transaction had first deleted is created anew. What was there before the compacted revision is history no more,
    // wherever its pruning stands.
    let follows = head.create_revision != revision.main && revision.main > state.compacted;
    let index = if follows { state.index.get(&key[..]) } else { None };
    let prev = Prev { revision: index.and_then(|index| index.before(revision.main)), row: OnceLock::new() };
    let (kind, kv) = match head.is_tombstone() {
        false => (EventKind::Put, row.clone()),
        true => (EventKind::Delete, encode_delete(&key, revision.main)),
    };
    Arc::new(Event { revision, kind, key, kv, prev })
}
