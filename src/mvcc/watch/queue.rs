//! What waits to be sent on one stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use super::watchers::WatchedKeys;
use super::{Counters, Limits, Watcher};
use crate::mvcc::Event;

/// One answer of a stream, in the order in which the client has to see them.
#[derive(Debug)]
pub enum Delivery {
    /// A watch begins. Before everything else that it says.
    Created {
        /// Its id.
        watch_id: i64,
        /// The revision up to which everything has been published.
        revision: i64,
    },
    /// A watch was not created.
    Refused {
        /// As of [`Delivery::Created`].
        revision: i64,
        /// Why.
        refusal: Refusal,
    },
    /// A watch ends, as its client wished.
    Canceled {
        /// Its id.
        watch_id: i64,
        /// As of [`Delivery::Created`].
        revision: i64,
    },
    /// A watch ends: what it needs next has been compacted.
    Compacted {
        /// Its id.
        watch_id: i64,
        /// From here on history is whole.
        compact_revision: i64,
    },
    /// Every event up to `revision` has been delivered before this.
    Progress {
        /// The watch of which that is true; none: of all watches of the stream.
        watch_id: Option<i64>,
        /// Everything up to here.
        revision: i64,
    },
    /// Something happened.
    Events(EventBatch),
}

/// Why a watch was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It starts at a negative revision, as if that had been compacted.
    Compacted,
    /// No key can be in its range.
    EmptyRange,
    /// The stream has a watch with this id.
    DuplicateId,
    /// All watches together take as much memory as they may.
    TooMany,
}

/// Events of one watch: whole transactions, in order.
#[derive(Debug)]
pub struct EventBatch {
    /// Which watch.
    pub watch_id: i64,
    /// The store's revision as far as this answer knows it: that of the last event, or of the store when history was read.
    pub revision: i64,
    /// Never empty.
    pub events: Vec<Arc<Event>>,
    /// Whether the client wants to see what the keys held before.
    pub prev_kv: bool,
    /// Whether a large answer may be split.
    pub fragment: bool,
    /// Main revision of the last event.
    last_main: i64,
}

#[cfg(test)]
impl EventBatch {
    /// For tests of what is made of it.
    pub(crate) fn of(watch_id: i64, revision: i64, events: Vec<Arc<Event>>, prev_kv: bool, fragment: bool) -> EventBatch {
        EventBatch { watch_id, revision, events, prev_kv, fragment, last_main: revision }
    }
}

/// The queue of one stream: bounded, filled by the hub and by the stream's own task, emptied by the latter. Whatever does not
/// fit is not lost: its watcher goes to `demoted` and reads it from history.
pub(super) struct Queue {
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    deliveries: VecDeque<Costed>,
    /// Place of the first delivery; places count on forever, so that a watcher can remember one.
    first_place: u64,
    /// What is before this place is closed: it may not grow, or it would overtake an answer behind it.
    barrier: u64,
    /// Sum over `deliveries`, in bytes.
    cost: usize,
    /// What `cost` may grow to by what the hub puts in.
    limit: usize,
    /// Deliveries that are no events.
    answers: usize,
    /// Watchers that found the queue full, with the revision they need next.
    demoted: Vec<(WatchedKeys, Watcher)>,
    waker: Option<Waker>,
}

struct Costed {
    delivery: Delivery,
    cost: usize,
}

/// What an event costs beside its row: the event, its place in a queue, the share of a delivery. Roughly.
const EVENT_OVERHEAD: usize = 200;

/// What some events cost in memory, in bytes. An event that several watchers share counts in full for each, so that the bound
/// holds whoever lets go first.
pub(super) fn cost_of(events: &[Arc<Event>]) -> usize {
    events.iter().map(|event| event.kv.len() + EVENT_OVERHEAD).sum()
}

impl Queue {
    pub(super) fn new(limits: &Limits) -> Queue {
        Queue { state: Mutex::new(QueueState { limit: limits.queue, ..QueueState::default() }) }
    }

    /// Adjusts the bound to the number of the stream's watches.
    pub(super) fn expect(&self, watches: usize, limits: &Limits) {
        self.lock().limit = limits.queue + watches * limits.per_watch;
    }

    /// The bound of what the hub puts in, in bytes.
    pub(super) fn limit(&self) -> usize {
        self.lock().limit
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().expect("no panic while it was held")
    }

    /// Queues one transaction of a watcher, and says so with the waker to call, if one waits. False: the queue is full. An empty
    /// queue takes anything, so nothing is ever too large.
    pub(super) fn offer(
        &self,
        watcher: &mut Watcher,
        events: Vec<Arc<Event>>,
        limits: &Limits,
        counters: &Counters,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        let cost = cost_of(&events);
        let mut state = self.lock();
        let is_scarce = counters.pending_bytes() + cost > limits.queues;
        if !state.deliveries.is_empty() && (is_scarce || state.cost + cost > state.limit) {
            return false;
        }
        let revision = events.last().map_or(0, |event| event.revision.main);
        state.push_events(watcher, events, cost, revision, limits, counters);
        wakers.extend(state.waker.take());
        true
    }

    /// Queues one transaction read from history, full or not: the caller keeps to a page.
    pub(super) fn push_history(
        &self,
        watcher: &mut Watcher,
        events: Vec<Arc<Event>>,
        revision: i64,
        limits: &Limits,
        counters: &Counters,
    ) {
        let cost = cost_of(&events);
        self.lock().push_events(watcher, events, cost, revision, limits, counters);
    }

    /// Queues an answer that is no events, full or not: the caller bounds what it asks for.
    pub(super) fn push(&self, delivery: Delivery) {
        let mut state = self.lock();
        // A client that asks for progress again and again needs the last word only.
        if let (Delivery::Progress { watch_id: None, revision }, Some(Costed { delivery: last, .. })) =
            (&delivery, state.deliveries.back_mut())
            && let Delivery::Progress { watch_id: None, revision: earlier } = last
        {
            *earlier = *revision;
            return;
        }
        state.answers += 1;
        state.append(delivery, EVENT_OVERHEAD);
        state.barrier = state.next_place();
    }

    /// Takes the first delivery.
    pub(super) fn pop(&self, counters: &Counters) -> Option<Delivery> {
        self.lock().pop(counters)
    }

    /// Takes the first delivery, or sees to it that the task of `cx` is woken when there is one.
    pub(super) fn poll_pop(&self, cx: &Context<'_>, counters: &Counters) -> Poll<Delivery> {
        let mut state = self.lock();
        match state.pop(counters) {
            Some(delivery) => Poll::Ready(delivery),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Forgets what waits, for nobody will take it.
    pub(super) fn discard(&self, counters: &Counters) {
        let mut state = self.lock();
        while let Some(delivery) = state.deliveries.pop_front() {
            if let Delivery::Events(batch) = delivery.delivery {
                counters.forgotten(batch.events.len(), delivery.cost);
            }
        }
    }

    /// Notes a watcher that found the queue full. The task may have emptied the queue since, and wait.
    pub(super) fn demote(&self, range: WatchedKeys, watcher: Watcher, wakers: &mut Vec<Waker>) {
        let mut state = self.lock();
        state.demoted.push((range, watcher));
        wakers.extend(state.waker.take());
    }

    /// Takes the watchers that found the queue full.
    pub(super) fn take_demoted(&self) -> Vec<(WatchedKeys, Watcher)> {
        std::mem::take(&mut self.lock().demoted)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().deliveries.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        let state = self.lock();
        state.cost >= state.limit
    }

    /// Deliveries that are no events.
    pub(super) fn answers(&self) -> usize {
        self.lock().answers
    }

    #[cfg(test)]
    pub(super) fn cost(&self) -> usize {
        self.lock().cost
    }
}

impl QueueState {
    fn next_place(&self) -> u64 {
        self.first_place + self.deliveries.len() as u64
    }

    fn append(&mut self, delivery: Delivery, cost: usize) {
        self.deliveries.push_back(Costed { delivery, cost });
        self.cost += cost;
    }

    fn push_events(
        &mut self,
        watcher: &mut Watcher,
        events: Vec<Arc<Event>>,
        cost: usize,
        revision: i64,
        limits: &Limits,
        counters: &Counters,
    ) {
        let Some(last_main) = events.last().map(|event| event.revision.main) else { return };
        counters.queued(events.len(), cost);
        if let Some(Costed { delivery: Delivery::Events(batch), cost: batch_cost }) = self.growing(watcher, cost, limits) {
            assert!(batch.last_main < events[0].revision.main, "watch {} is fed in order", batch.watch_id);
            batch.events.extend(events);
            batch.last_main = last_main;
            batch.revision = batch.revision.max(revision);
            *batch_cost += cost;
            self.cost += cost;
            return;
        }
        watcher.place = Some(self.next_place());
        let (watch_id, options) = (watcher.id, watcher.options);
        let batch = EventBatch { watch_id, revision, events, prev_kv: options.prev_kv, fragment: options.fragment, last_main };
        self.append(Delivery::Events(batch), cost);
    }

    /// The watcher's last batch, if it still waits here and may take `cost` more.
    fn growing(&mut self, watcher: &Watcher, cost: usize, limits: &Limits) -> Option<&mut Costed> {
        let place = watcher.place.filter(|place| *place >= self.barrier)?;
        let index = usize::try_from(place.checked_sub(self.first_place)?).ok()?;
        self.deliveries.get_mut(index).filter(|costed| costed.cost + cost <= limits.response)
    }

    fn pop(&mut self, counters: &Counters) -> Option<Delivery> {
        let Costed { delivery, cost } = self.deliveries.pop_front()?;
        self.first_place += 1;
        self.cost -= cost;
        match &delivery {
            Delivery::Events(batch) => counters.taken(batch.events.len(), cost),
            _ => self.answers -= 1,
        }
        Some(delivery)
    }
}
