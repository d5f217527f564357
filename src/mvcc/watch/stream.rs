//! One stream of watches, owned by the one task that serves it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::queue::{self, Delivery, Queue, Refusal};
use super::watchers::{Slot, WatchedKeys, Watchers};
use super::{Hits, Hub, HubState, NewWatch, Synced, WATCH_OVERHEAD, Watcher};
use crate::error::Fault;
use crate::mvcc::{Event, History, HistoryError, HistoryPage};

/// How many watchers are moved under one hold of the hub's lock.
const MOVED_AT_ONCE: usize = 256;

/// The watches of one client stream, and what waits to be sent on it. Dropped with the stream.
///
/// Its task takes deliveries with [`WatchStream::poll_next`]; when none waits it asks for [`WatchStream::catch_up`] work.
pub struct WatchStream {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
    watches: BTreeMap<i64, Watch>,
    /// No id from here on was given out by us.
    next_id: i64,
    /// Shared with the page that is being read.
    lagging: Arc<Watchers<Watcher>>,
    is_reading: bool,
    /// The next page is for those nearest to the present; else for those farthest behind.
    nearest_first: bool,
}

struct Watch {
    start_revision: i64,
    progress_notify: bool,
    /// No event was sent since the last tick.
    is_quiet: bool,
    /// What it counts for in [`HubState::watches`]. An ended one counts till its client says that it knows.
    cost: usize,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    /// In the hub, unless it waits among the queue's demoted.
    Synced(Slot),
    Lagging(Slot),
    /// It has ended, but its client has not said yet that it knows. As in etcd its id stays taken till then.
    Compacted,
}

/// A page of history to be read: owned, so that it can be read on another thread, for it may wait for the disk.
pub struct CatchUp {
    history: Arc<dyn History>,
    lagging: Arc<Watchers<Watcher>>,
    from: i64,
    max_bytes: usize,
}

/// A page of history that was read.
pub struct PageRead(Result<HistoryPage, HistoryError>);

impl CatchUp {
    /// Reads. Blocks.
    pub fn read(self) -> PageRead {
        let wanted = |key: &[u8]| {
            let mut is_wanted = false;
            self.lagging.matching(key, &mut |_, watcher| is_wanted |= watcher.in_page);
            is_wanted
        };
        PageRead(self.history.page(self.from, self.max_bytes, &wanted))
    }
}

impl WatchStream {
    pub(super) fn new(hub: Arc<Hub>) -> WatchStream {
        hub.counters.streams.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::new(&hub.limits));
        WatchStream {
            hub,
            queue,
            watches: BTreeMap::new(),
            next_id: 0,
            lagging: Arc::default(),
            is_reading: false,
            nearest_first: false,
        }
    }

    /// The store behind.
    pub fn history(&self) -> &Arc<dyn History> {
        &self.hub.history
    }

    /// Begins a watch, or refuses it. Either way the answer is queued.
    pub fn create(&mut self, new: &NewWatch) {
        let hub = self.hub.clone();
        let mut state = hub.lock();
        let revision = state.published;
        let delivery = match self.admit(&state, new) {
            Ok((watch_id, range)) => {
                self.queue.push(Delivery::Created { watch_id, revision });
                self.begin(&mut state, watch_id, range, new);
                return;
            }
            Err(refusal) => Delivery::Refused { revision, refusal },
        };
        self.queue.push(delivery);
    }

    fn admit(&mut self, state: &HubState, new: &NewWatch) -> Result<(i64, WatchedKeys), Refusal> {
        if new.start_revision < 0 {
            return Err(Refusal::Compacted);
        }
        let range = WatchedKeys::new(&new.key, &new.range_end).ok_or(Refusal::EmptyRange)?;
        if state.watches + cost_of(new) > self.hub.limits.watches {
            return Err(Refusal::TooMany);
        }
        if new.watch_id == 0 {
            return Ok((self.unused_id(), range));
        }
        if self.watches.contains_key(&new.watch_id) {
            return Err(Refusal::DuplicateId);
        }
        Ok((new.watch_id, range))
    }

    fn unused_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn begin(&mut self, state: &mut HubState, id: i64, range: WatchedKeys, new: &NewWatch) {
        let next = if new.start_revision == 0 { state.published + 1 } else { new.start_revision };
        let watcher = Watcher { id, next, options: new.options, place: None, in_page: false };
        let place = if next > state.published {
            Place::Synced(state.synced.insert(range, Synced { queue: self.queue.clone(), watcher }))
        } else {
            self.hub.counters.slow_watchers.fetch_add(1, Ordering::Relaxed);
            Place::Lagging(Arc::make_mut(&mut self.lagging).insert(range, watcher))
        };
        self.hub.counters.watchers.fetch_add(1, Ordering::Relaxed);
        let (start_revision, progress_notify, cost) = (new.start_revision, new.options.progress_notify, cost_of(new));
        state.watches += cost;
        self.watches.insert(id, Watch { start_revision, progress_notify, is_quiet: true, cost, place });
        self.queue.expect(self.watches.len(), &self.hub.limits);
    }

    /// Ends a watch and queues an answer; what was queued for it before is still delivered. An unknown id is no matter.
    pub fn cancel(&mut self, watch_id: i64) {
        let hub = self.hub.clone();
        let mut state = hub.lock();
        self.absorb();
        let Some(watch) = self.watches.remove(&watch_id) else { return };
        self.leave(&mut state, &watch);
        self.queue.expect(self.watches.len(), &hub.limits);
        self.queue.push(Delivery::Canceled { watch_id, revision: state.published });
    }

    fn leave(&mut self, state: &mut HubState, watch: &Watch) {
        let counters = &self.hub.counters;
        state.watches -= watch.cost;
        match watch.place {
            Place::Synced(slot) => drop(state.synced.remove(slot)),
            Place::Lagging(slot) => {
                Arc::make_mut(&mut self.lagging).remove(slot);
                counters.slow_watchers.fetch_sub(1, Ordering::Relaxed);
            }
            Place::Compacted => return,
        }
        counters.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Says how far the stream is, if every watch of it is that far: behind all events up to the published revision. Else it says
    /// nothing, and so it does without watches; clients ask again.
    pub fn request_progress(&mut self) {
        let hub = self.hub.clone();
        let state = hub.lock();
        self.absorb();
        let mut watches = self.watches.values();
        if !self.watches.is_empty() && watches.all(|watch| watch.is_current(&state)) && !self.queue.is_full() {
            self.queue.push(Delivery::Progress { watch_id: None, revision: state.published });
        }
    }

    /// A progress interval is over: a sign of life from each watch that wants one, is up to date and has sent no event since
    /// the tick before.
    pub fn progress_tick(&mut self) {
        if !self.watches.values().any(|watch| watch.progress_notify) {
            return;
        }
        let hub = self.hub.clone();
        let state = hub.lock();
        self.absorb();
        for (watch_id, watch) in self.watches.iter_mut().filter(|(_, watch)| watch.progress_notify) {
            if watch.is_quiet && watch.is_current(&state) && !self.queue.is_full() {
                self.queue.push(Delivery::Progress { watch_id: Some(*watch_id), revision: state.published });
            }
            watch.is_quiet = true;
        }
    }

    /// Takes the next delivery, or sees to it that the task of `cx` is woken when there is one.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Delivery> {
        self.queue.poll_pop(cx, &self.hub.counters).map(|delivery| self.taken(delivery))
    }

    /// Takes the next delivery, if there is one.
    pub fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop(&self.hub.counters)?;
        Some(self.taken(delivery))
    }

    fn taken(&mut self, delivery: Delivery) -> Delivery {
        if let Delivery::Events(batch) = &delivery
            && let Some(watch) = self.watches.get_mut(&batch.watch_id)
        {
            watch.is_quiet = false;
        }
        delivery
    }

    /// Whether so many answers wait that the stream's task should read no more requests.
    pub fn is_congested(&self) -> bool {
        self.queue.answers() >= self.hub.limits.answers
    }

    /// Bytes that wait, by [`queue::cost_of`].
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.queue.cost()
    }

    /// The page of history that the stream needs now: none if nothing lags, if deliveries wait, or if one is being read. What was
    /// read goes to [`WatchStream::caught_up`].
    pub fn catch_up(&mut self) -> Option<CatchUp> {
        if self.is_reading || !self.queue.is_empty() {
            return None;
        }
        self.absorb();
        let from = self.choose_from()?;
        let lagging = Arc::make_mut(&mut self.lagging);
        for slot in lagging.slots() {
            let watcher = lagging.get_mut(slot);
            watcher.in_page = watcher.next >= from;
        }
        self.is_reading = true;
        let (history, lagging) = (self.hub.history.clone(), self.lagging.clone());
        let limits = &self.hub.limits;
        let is_scarce = self.hub.counters.pending_bytes() >= limits.queues;
        let max_bytes = if is_scarce { limits.scarce_page } else { limits.page };
        Some(CatchUp { history, lagging, from, max_bytes })
    }

    /// Where to read: pages serve all watchers that are not behind their start. Turns are taken between the one farthest behind
    /// and the one nearest to the present, so that a long way back holds nobody up who has only stumbled.
    fn choose_from(&mut self) -> Option<i64> {
        self.nearest_first = !self.nearest_first;
        let nexts = self.lagging.iter().map(|(_, watcher)| watcher.next);
        if self.nearest_first { nexts.max() } else { nexts.min() }
    }

    /// Queues what was read, and returns to the hub the watchers that have met the present.
    ///
    /// # Errors
    /// The checkpoint cannot be read.
    pub fn caught_up(&mut self, read: PageRead) -> Result<(), Fault> {
        self.is_reading = false;
        match read.0 {
            Ok(page) => self.deliver(&page),
            Err(HistoryError::Compacted(compact_revision)) => self.end_below(compact_revision),
            Err(HistoryError::Fault(fault)) => return Err(fault),
        }
        self.rejoin();
        Ok(())
    }

    fn deliver(&mut self, page: &HistoryPage) {
        let limits = &self.hub.limits;
        let lagging = Arc::make_mut(&mut self.lagging);
        let mut hits = Hits::default();
        let (mut spent, limit) = (0, self.queue.limit());
        for transaction in page.events.chunk_by(|a, b| a.revision.main == b.revision.main) {
            hits.find(lagging, transaction, |watcher: &Watcher, event: &Event| watcher.in_page && watcher.wants(event));
            for (slot, events) in hits.by_watcher(transaction) {
                let watcher = lagging.get_mut(slot);
                let cost = queue::cost_of(&events);
                if spent > 0 && spent + cost > limit {
                    watcher.next = transaction[0].revision.main;
                    watcher.in_page = false;
                    continue;
                }
                spent += cost;
                self.queue.push_history(watcher, events, page.current, limits, &self.hub.counters);
            }
        }
        for slot in lagging.slots() {
            let watcher = lagging.get_mut(slot);
            if std::mem::take(&mut watcher.in_page) {
                watcher.next = watcher.next.max(page.next);
            }
        }
    }

    /// Ends the watches that need what has been compacted.
    fn end_below(&mut self, compact_revision: i64) {
        let lagging = Arc::make_mut(&mut self.lagging);
        for slot in lagging.slots() {
            if lagging.get(slot).next >= compact_revision {
                continue;
            }
            let (_, watcher) = lagging.remove(slot);
            self.watches.get_mut(&watcher.id).expect("a lagging watcher has its watch").place = Place::Compacted;
            self.queue.push(Delivery::Compacted { watch_id: watcher.id, compact_revision });
            self.hub.counters.slow_watchers.fetch_sub(1, Ordering::Relaxed);
            self.hub.counters.watchers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Hands to the hub those who have read all that it has published. One who has read more keeps its `next`, and so sees
    /// nothing twice.
    fn rejoin(&mut self) {
        let hub = self.hub.clone();
        let lagging = Arc::make_mut(&mut self.lagging);
        for some in lagging.slots().chunks(MOVED_AT_ONCE) {
            let mut state = hub.lock();
            for slot in some {
                if lagging.get(*slot).next <= state.published {
                    continue;
                }
                let (range, watcher) = lagging.remove(*slot);
                let id = watcher.id;
                let slot = state.synced.insert(range, Synced { queue: self.queue.clone(), watcher });
                self.watches.get_mut(&id).expect("a lagging watcher has its watch").place = Place::Synced(slot);
                hub.counters.slow_watchers.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes over the watchers that the hub has let go because the queue was full. While the hub is locked, [`Place::Synced`] is
    /// true afterwards.
    fn absorb(&mut self) {
        for (range, watcher) in self.queue.take_demoted() {
            let id = watcher.id;
            let slot = Arc::make_mut(&mut self.lagging).insert(range, watcher);
            self.watches.get_mut(&id).expect("a watcher leaves the hub before its watch ends").place = Place::Lagging(slot);
        }
    }
}

/// What a watch costs: its keys lie with the hub and under its range.
fn cost_of(new: &NewWatch) -> usize {
    WATCH_OVERHEAD + new.key.len() + new.range_end.len()
}

impl Watch {
    /// Whether everything up to the published revision has been queued for it, and nothing beyond; and it has begun.
    fn is_current(&self, state: &HubState) -> bool {
        match self.place {
            Place::Synced(slot) => {
                self.start_revision <= state.published && state.synced.get(slot).watcher.next <= state.published + 1
            }
            Place::Lagging(_) | Place::Compacted => false,
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let hub = self.hub.clone();
        while !self.watches.is_empty() {
            let mut state = hub.lock();
            self.absorb();
            for _ in 0..MOVED_AT_ONCE {
                let Some((_, watch)) = self.watches.pop_first() else { break };
                self.leave(&mut state, &watch);
            }
        }
        self.queue.discard(&hub.counters);
        hub.counters.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
