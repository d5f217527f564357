//! Memory that clients may make us hold, counted. Allowances form a tree: the process's own, below it one for each connection, below
//! that one for a stream. There is room where every one on the way up has room; but a small floor is promised to each, so that
//! whoever holds little goes on, however much others hold.
//!
//! Requests are refused where there is no room for them, replies wait for it.

use std::future::poll_fn;
use std::iter::successors;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use event_listener::{Event, EventListener};

/// What is made at once while memory is scarce.
const FEW: usize = 16 * 1024;

/// A number of bytes that may be held at a time.
pub struct Allowance {
    limit: usize,
    /// Below it there is room, whatever there is above.
    floor: usize,
    held: AtomicUsize,
    above: Option<Arc<Allowance>>,
    /// Told when a bound is crossed downwards.
    freed: Event,
}

impl Allowance {
    /// `limit` bytes.
    pub fn new(limit: usize) -> Arc<Allowance> {
        Allowance::with(limit, limit, None)
    }

    /// `limit` bytes of it, of which `floor` are promised.
    pub fn share(self: &Arc<Allowance>, limit: usize, floor: usize) -> Arc<Allowance> {
        Allowance::with(limit, floor, Some(self.clone()))
    }

    fn with(limit: usize, floor: usize, above: Option<Arc<Allowance>>) -> Arc<Allowance> {
        Arc::new(Allowance { limit, floor, held: AtomicUsize::new(0), above, freed: Event::new() })
    }

    /// Counts `bytes` until the ticket is dropped, within the limit or not: they are held already.
    pub fn ticket(self: &Arc<Allowance>, bytes: usize) -> Ticket {
        self.add(bytes);
        Ticket { allowance: self.clone(), bytes }
    }

    /// Counts `bytes` as soon as there is room for the first of them: for what is about to be made.
    pub async fn reserve(self: &Arc<Allowance>, bytes: usize) -> Ticket {
        let mut room = Room::of(self);
        poll_fn(|cx| room.poll(cx)).await;
        self.ticket(bytes)
    }

    /// Whether the limit is not reached.
    pub fn has_room(&self) -> bool {
        self.fits(self.held.load(Ordering::SeqCst), 1)
    }

    /// Whether nothing is held.
    pub fn is_idle(&self) -> bool {
        self.held.load(Ordering::SeqCst) == 0
    }

    /// How many bytes to make at once: `wish`, or few unless there is plenty of room above. So those who take much leave some to others.
    pub fn at_once(&self, wish: usize) -> usize {
        if self.above.as_ref().is_none_or(|above| above.can_take(wish.saturating_mul(4))) { wish } else { wish.min(FEW) }
    }

    /// Whether `more` may come on top of what is `held`.
    fn fits(&self, held: usize, more: usize) -> bool {
        let then = held.saturating_add(more);
        then <= self.limit && (then <= self.floor || self.above.as_ref().is_none_or(|above| above.can_take(more)))
    }

    fn can_take(&self, more: usize) -> bool {
        self.fits(self.held.load(Ordering::SeqCst), more)
    }

    fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::SeqCst);
        if let Some(above) = &self.above {
            above.add(bytes);
        }
    }

    fn give_back(&self, bytes: usize) {
        let before = self.held.fetch_sub(bytes, Ordering::SeqCst);
        assert!(before >= bytes, "more was given back than was held");
        if let Some(above) = &self.above {
            above.give_back(bytes);
        }
        let has_crossed = |bound: usize| before >= bound && before - bytes < bound;
        if has_crossed(self.limit) || has_crossed(self.floor) {
            self.freed.notify(usize::MAX);
        }
    }
}

/// A wait for room.
pub struct Room {
    allowance: Arc<Allowance>,
    /// Here and on the way up: room may be made anywhere. Empty: not waited yet.
    listeners: Vec<EventListener>,
}

impl Room {
    /// In this allowance.
    pub fn of(allowance: &Arc<Allowance>) -> Room {
        Room { allowance: allowance.clone(), listeners: Vec::new() }
    }

    /// Ready as soon as there is room. May be polled again afterwards.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.allowance.has_room() {
                self.listeners.clear();
                return Poll::Ready(());
            }
            if self.listeners.is_empty() {
                // And look again: a ticket may have been given back meanwhile.
                let way_up = successors(Some(&self.allowance), |allowance| allowance.above.as_ref());
                self.listeners = way_up.map(|allowance| allowance.freed.listen()).collect();
                continue;
            }
            // All of them: each has to know the task.
            let freed = self.listeners.iter_mut().filter_map(|listener| Pin::new(listener).poll(cx).is_ready().then_some(()));
            if freed.count() == 0 {
                return Poll::Pending;
            }
            self.listeners.clear();
        }
    }
}

/// Bytes that are counted.
pub struct Ticket {
    allowance: Arc<Allowance>,
    bytes: usize,
}

impl Ticket {
    /// Counts `more` bytes, unless that would exceed what is allowed.
    #[must_use]
    pub fn grow(&mut self, more: usize) -> bool {
        let fits = self.allowance.can_take(more);
        if fits {
            self.allowance.add(more);
            self.bytes += more;
        }
        fits
    }

    /// What it counts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves all to a ticket of its own.
    pub fn take(&mut self) -> Ticket {
        self.split(self.bytes)
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.allowance.give_back(surplus);
    }

    /// Moves `bytes` to a ticket of their own.
    pub fn split(&mut self, bytes: usize) -> Ticket {
        assert!(bytes <= self.bytes, "a ticket cannot give what it does not hold");
        self.bytes -= bytes;
        Ticket { allowance: self.allowance.clone(), bytes }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_is_promised_is_there_however_much_others_hold() {
        let process = Allowance::new(100);
        let (greedy, modest) = (process.share(1000, 10), process.share(1000, 10));
        let _held = greedy.ticket(100);
        assert!(!greedy.has_room());
        let mut small = modest.ticket(0);
        assert!(small.grow(10), "the floor");
        assert!(!small.grow(1), "and no more");
        assert_eq!((modest.at_once(2 * FEW), greedy.at_once(5)), (FEW, 5), "less is made at once");
    }

    #[test]
    fn room_has_to_be_all_the_way_up() {
        let process = Allowance::new(100);
        let connection = process.share(50, 10);
        let stream = connection.share(20, 0);
        let on_stream = stream.ticket(20);
        assert!(!stream.has_room() && connection.has_room());
        drop(on_stream);
        let on_connection = connection.ticket(50);
        assert!(!stream.has_room(), "its connection has none");
        drop(on_connection);
        let elsewhere = process.ticket(100);
        assert!(stream.has_room(), "its connection holds less than is promised");
        let promised = stream.ticket(10);
        assert!(!stream.has_room());
        drop((elsewhere, promised));
        assert!(stream.has_room());
    }

    #[test]
    fn whoever_waits_is_woken_from_wherever_room_is_made() {
        let process = Allowance::new(100);
        let connection = process.share(50, 10);
        let stream = connection.share(20, 0);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut room = Room::of(&stream);
        for (times, (allowance, bytes)) in [(&stream, 20), (&connection, 50), (&process, 100)].into_iter().enumerate() {
            let beyond_the_promise = connection.ticket(10);
            let full = allowance.ticket(bytes);
            assert!(room.poll(&mut cx).is_pending());
            assert_eq!(woken.0.load(Ordering::SeqCst), times);
            drop(full);
            assert_eq!(woken.0.load(Ordering::SeqCst), times + 1);
            assert!(room.poll(&mut cx).is_ready());
            drop(beyond_the_promise);
        }
    }

    #[test]
    fn a_refused_ticket_counts_nothing() {
        let process = Allowance::new(10);
        let mut ticket = process.ticket(0);
        assert!(!ticket.grow(11));
        assert!(ticket.grow(10));
        drop(ticket);
        assert_eq!(process.held.load(Ordering::SeqCst), 0);
    }
}
