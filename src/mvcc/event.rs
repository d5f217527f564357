//! What a revision changed, as watchers see it.

use std::sync::Arc;
use std::sync::OnceLock;

use bytes::Bytes;

use super::Revision;
use crate::error::Fault;

/// Put or delete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventKind {
    /// `mvccpb.Event.PUT`
    #[default]
    Put,
    /// `mvccpb.Event.DELETE`
    Delete,
}

/// One change of one key. Shared by all watchers that see it.
#[derive(Debug, Default)]
pub struct Event {
    /// When. All events of one `main` belong to one transaction and reach a watcher together.
    pub revision: Revision,
    /// What.
    pub kind: EventKind,
    /// Which key.
    pub key: Bytes,
    /// The `kv` field, encoded: the new row, or of a deletion the key and its revision.
    pub kv: Bytes,
    /// What the key held before.
    pub prev: Prev,
}

/// What a key held before an event.
#[derive(Debug, Default)]
pub struct Prev {
    /// Where the old row stands; none if the event created the key.
    pub revision: Option<Revision>,
    /// The old row, once somebody has looked it up; `Some(None)`: it has been compacted away.
    pub row: OnceLock<Option<Bytes>>,
}

/// One bounded page of history.
#[derive(Debug, Default)]
pub struct HistoryPage {
    /// Matching events in revision order. A transaction is never split between two pages.
    pub events: Vec<Arc<Event>>,
    /// The main revision at which the next page starts. Past `current`: the reader has met the present.
    pub next: i64,
    /// The store's main revision when the page was read.
    pub current: i64,
}

/// Why a page of history was not read.
#[derive(Debug)]
pub enum HistoryError {
    /// `from` is below this compacted revision.
    Compacted(i64),
    /// The checkpoint cannot be read.
    Fault(Fault),
}

/// The store as the watch hub sees it.
pub trait History: Send + Sync {
    /// Events with `from <= main`, of keys that `wanted` accepts, read in one short pass that looks at a bounded number of rows
    /// and stops early once about `max_bytes` of events are found.
    fn page(&self, from: i64, max_bytes: usize, wanted: &dyn Fn(&[u8]) -> bool) -> Result<HistoryPage, HistoryError>;

    /// Fills `event.prev.row` if nobody has yet, and returns it.
    fn prev_row(&self, event: &Event) -> Result<Option<Bytes>, Fault>;

    /// Whether [`History::prev_row`] would answer `event` without waiting for the disk. A store may look a little first.
    fn prev_is_at_hand(&self, event: &Event) -> bool {
        event.prev.revision.is_none() || event.prev.row.get().is_some()
    }
}
