//! Memory that clients may make us hold, counted. One allowance bounds the bytes of requests in the whole process: a request that
//! would exceed it is refused. One per connection bounds the replies its client has not read: until it reads, no further
//! call of it is accepted and no further piece made.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// A number of bytes that may be held at a time.
pub struct Allowance {
    limit: usize,
    held: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

impl Allowance {
    /// `limit` bytes.
    pub fn new(limit: usize) -> Arc<Allowance> {
        Arc::new(Allowance { limit, held: AtomicUsize::new(0), waiting: Mutex::new(Vec::new()) })
    }

    /// Counts `bytes` until the ticket is dropped, within the limit or not: they are held already.
    pub fn ticket(self: &Arc<Allowance>, bytes: usize) -> Ticket {
        self.held.fetch_add(bytes, Ordering::AcqRel);
        Ticket { allowance: self.clone(), bytes }
    }

    /// Whether the limit is not reached.
    pub fn has_room(&self) -> bool {
        self.held.load(Ordering::Acquire) < self.limit
    }

    /// Ready as soon as there is room.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock().expect("no panic while it was held");
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        drop(waiting);
        // A ticket may have been given back between the look and the entry in the list.
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn give_back(&self, bytes: usize) {
        let before = self.held.fetch_sub(bytes, Ordering::AcqRel);
        assert!(before >= bytes, "more was given back than was held");
        if before >= self.limit && before - bytes < self.limit {
            let waiting = std::mem::take(&mut *self.waiting.lock().expect("no panic while it was held"));
            for waker in waiting {
                waker.wake();
            }
        }
    }
}

/// Bytes that are counted.
pub struct Ticket {
    allowance: Arc<Allowance>,
    bytes: usize,
}

impl Ticket {
    /// Counts `more` bytes, unless that would exceed the limit.
    #[must_use]
    pub fn grow(&mut self, more: usize) -> bool {
        let before = self.allowance.held.fetch_add(more, Ordering::AcqRel);
        self.bytes += more;
        if before.saturating_add(more) <= self.allowance.limit {
            return true;
        }
        self.shrink_to(self.bytes - more);
        false
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
