//! Watches: who wants which events, and what waits for whom.
//!
//! In: each applied batch, through [`Hub::publish`]; requests of clients, and pages of [`History`], through each stream's
//! [`WatchStream`]. Out: [`Delivery`]s, one bounded queue per stream. Knows no sockets, no Raft and no clock.
//!
//! A watcher is *synced* (the hub feeds it) or *lagging* (etcd: unsynced; its stream's task reads history for it). One that finds
//! its queue full falls from the first to the second, with the revision it needs next; it returns when what it has read meets
//! what the hub has published. [`Hub::publish`] waits for nobody.
//!
//! Always: a watcher gets each event from its start on once, in revision order, a transaction's events together; an answer that
//! names a revision as progress stands behind every event up to it; what a client that never reads makes us hold is bounded.
//!
//! Lock order: the hub, then a queue. Both are held for moments, and never while history is read.

mod interval;
mod queue;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod watchers;

pub use queue::{Delivery, EventBatch, Refusal};
pub use stream::{CatchUp, PageRead, WatchStream};
pub use watchers::WatchedKeys;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use bytes::Bytes;

use super::{Event, EventKind, History};
use queue::Queue;
use watchers::{Slot, Watchers};

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub struct NewWatch {
    /// The key, or the first of a range. Empty means `"\0"`.
    pub key: Bytes,
    /// Empty: the key alone. `"\0"`: every key from `key` on. Else the end of the range, exclusive.
    pub range_end: Bytes,
    /// First main revision wanted; 0: what happens from now on.
    pub start_revision: i64,
    /// The id the client wants; 0: any.
    pub watch_id: i64,
    /// How.
    pub options: WatchOptions,
}

/// How a watch wants its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Without puts.
    pub no_put: bool,
    /// Without deletions.
    pub no_delete: bool,
    /// With what the keys held before.
    pub prev_kv: bool,
    /// Large answers may be split.
    pub fragment: bool,
    /// With a sign of life when nothing happens.
    pub progress_notify: bool,
}

/// How much one stream may hold, in bytes of [`queue::cost_of`].
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// What the hub puts into a queue. One transaction alone may be larger.
    queue: usize,
    /// And for each watch of the stream: its own share, in the order of what it costs to have a watch.
    per_watch: usize,
    /// What is read from history at a time, and put into an empty queue.
    page: usize,
    /// Up to here a later transaction joins the same answer.
    response: usize,
    /// Answers without events that wait before no more requests should be read. A count.
    answers: usize,
    /// What all watches together may take.
    watches: usize,
    /// What all queues together may. Above it the hub puts events into empty queues only; the others read history, later.
    queues: usize,
    /// What is read from history at a time while the queues hold so much.
    scarce_page: usize,
}

/// etcd holds 128 answers of any size. A burst of 2 MiB is 7,000 small events; with 512 bytes a watch, a small event for each of any
/// number of watches fits on top. The sums bound what clients that never read can make us hold: about 200,000 watches, and what one
/// burst is to a few dozen streams that stall.
const LIMITS: Limits = Limits {
    queue: 2 << 20,
    per_watch: 512,
    page: 1 << 20,
    response: 256 << 10,
    answers: 512,
    watches: 128 << 20,
    queues: 128 << 20,
    scarce_page: 16 << 10,
};

/// What a watch costs beside its keys, in bytes: its entries with its stream, with the hub and under its range. As measured.
const WATCH_OVERHEAD: usize = 600;

/// A watcher of a stream, wherever it stands.
#[derive(Clone, Debug)]
struct Watcher {
    id: i64,
    /// No event before this main revision is wanted: later than the start once history has been read ahead.
    next: i64,
    options: WatchOptions,
    /// Of its last batch in its queue.
    place: Option<u64>,
    /// Whether the page being read from history is for it too.
    in_page: bool,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let filtered = match event.kind {
            EventKind::Put => self.options.no_put,
            EventKind::Delete => self.options.no_delete,
        };
        !filtered && event.revision.main >= self.next
    }
}

/// Where all streams meet the store's events.
pub struct Hub {
    history: Arc<dyn History>,
    limits: Limits,
    counters: Counters,
    state: Mutex<HubState>,
}

struct HubState {
    /// What the watches of all streams cost.
    watches: usize,
    /// Every event up to this main revision has been handed to its synced watchers.
    published: i64,
    synced: Watchers<Synced>,
    hits: Hits,
}

struct Synced {
    queue: Arc<Queue>,
    watcher: Watcher,
}

impl Hub {
    /// A hub without watchers, of a store that stands at main revision `published`.
    pub fn new(history: Arc<dyn History>, published: i64) -> Arc<Hub> {
        Hub::with_limits(history, published, LIMITS)
    }

    fn with_limits(history: Arc<dyn History>, published: i64, limits: Limits) -> Arc<Hub> {
        let state = Mutex::new(HubState { watches: 0, published, synced: Watchers::default(), hits: Hits::default() });
        Arc::new(Hub { history, limits, counters: Counters::default(), state })
    }

    /// Hands on what was applied: `events` in revision order, whole transactions, all newer than what was published before;
    /// `revision` is where the store stands now. The store shows these events to [`History`] before they are published.
    pub fn publish(&self, events: &[Arc<Event>], revision: i64) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        for transaction in events.chunk_by(|a, b| a.revision.main == b.revision.main) {
            self.publish_transaction(&mut state, transaction, &mut wakers);
        }
        assert!(revision >= state.published, "published {revision} after {}", state.published);
        state.published = revision;
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn publish_transaction(&self, state: &mut HubState, transaction: &[Arc<Event>], wakers: &mut Vec<Waker>) {
        let HubState { published, synced, hits, .. } = state;
        let main = transaction[0].revision.main;
        assert!(main > *published, "event of revision {main} after {published}");
        *published = main;
        hits.find(synced, transaction, |synced, event| synced.watcher.wants(event));
        for (slot, events) in hits.by_watcher(transaction) {
            let Synced { queue, watcher } = synced.get_mut(slot);
            if !queue.offer(watcher, events, &self.limits, &self.counters, wakers) {
                let (range, Synced { queue, mut watcher }) = synced.remove(slot);
                watcher.next = main;
                queue.demote(range, watcher, wakers);
                self.counters.slow_watchers.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Every event up to this main revision has been handed to its synced watchers.
    pub fn published(&self) -> i64 {
        self.lock().published
    }

    /// Begins a stream without watches.
    pub fn open_stream(self: &Arc<Hub>) -> WatchStream {
        WatchStream::new(self.clone())
    }

    /// Figures for the metrics.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn lock(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().expect("no panic while it was held")
    }
}

/// Which watchers want which events of a transaction. Kept for its memory.
#[derive(Default)]
struct Hits(Vec<(Slot, usize)>);

impl Hits {
    fn find<T>(&mut self, watchers: &Watchers<T>, transaction: &[Arc<Event>], wants: impl Fn(&T, &Event) -> bool) {
        self.0.clear();
        for (index, event) in transaction.iter().enumerate() {
            watchers.matching(&event.key, &mut |slot, watcher| {
                if wants(watcher, event) {
                    self.0.push((slot, index));
                }
            });
        }
        if transaction.len() > 1 {
            self.0.sort_unstable();
        }
    }

    fn by_watcher(&self, transaction: &[Arc<Event>]) -> impl Iterator<Item = (Slot, Vec<Arc<Event>>)> {
        self.0
            .chunk_by(|a, b| a.0 == b.0)
            .map(|hits| (hits[0].0, hits.iter().map(|(_, index)| transaction[*index].clone()).collect()))
    }
}

/// Figures for the metrics, read without a lock.
#[derive(Debug, Default)]
pub struct Counters {
    streams: AtomicUsize,
    watchers: AtomicUsize,
    slow_watchers: AtomicUsize,
    pending_events: AtomicUsize,
    pending_bytes: AtomicUsize,
    events: AtomicU64,
}

impl Counters {
    /// Open streams.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Watchers, lagging ones included.
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    /// Watchers that lag.
    pub fn slow_watchers(&self) -> usize {
        self.slow_watchers.load(Ordering::Relaxed)
    }

    /// Events in queues.
    pub fn pending_events(&self) -> usize {
        self.pending_events.load(Ordering::Relaxed)
    }

    /// Events taken from queues to be sent, since the start.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Bytes of events in queues, by [`queue::cost_of`].
    fn pending_bytes(&self) -> usize {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    fn queued(&self, events: usize, cost: usize) {
        self.pending_events.fetch_add(events, Ordering::Relaxed);
        self.pending_bytes.fetch_add(cost, Ordering::Relaxed);
    }

    fn forgotten(&self, events: usize, cost: usize) {
        self.pending_events.fetch_sub(events, Ordering::Relaxed);
        self.pending_bytes.fetch_sub(cost, Ordering::Relaxed);
    }

    fn taken(&self, events: usize, cost: usize) {
        self.forgotten(events, cost);
        self.events.fetch_add(events as u64, Ordering::Relaxed);
    }
}
