//! Ends connections: first asked to finish, then told to close. Also counts them, so that the end can be waited for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// What a connection should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serve.
    Open,
    /// Take no new calls, finish those that run.
    Drain,
    /// End now.
    Close,
}

/// All connections of the server.
#[derive(Default)]
pub struct Stop {
    phase: AtomicU8,
    next_id: AtomicU64,
    guests: Mutex<Guests>,
}

#[derive(Default)]
struct Guests {
    wakers: HashMap<u64, Option<Waker>>,
    /// Who waits for the last of them.
    last: Option<Waker>,
}

impl Stop {
    /// A further connection. It counts until it is dropped.
    pub fn guest(self: &Arc<Stop>) -> Guest {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.lock().wakers.insert(id, None);
        Guest { stop: self.clone(), id, waker: None }
    }

    /// Tells all connections. The phase only moves on.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.lock().wakers.values().flatten().for_each(Waker::wake_by_ref);
    }

    /// Ready when there is no connection.
    pub fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut guests = self.lock();
        if guests.wakers.is_empty() {
            return Poll::Ready(());
        }
        guests.last = Some(cx.waker().clone());
        Poll::Pending
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Open,
            1 => Phase::Drain,
            _ => Phase::Close,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().expect("no panic while it was held")
    }
}

/// One connection's view.
pub struct Guest {
    stop: Arc<Stop>,
    id: u64,
    waker: Option<Waker>,
}

impl Guest {
    /// The phase now; the task of `cx` is woken when it changes.
    pub fn poll_phase(&mut self, cx: &mut Context<'_>) -> Phase {
        // The lock is taken once per task, not once per turn.
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.stop.lock().wakers.insert(self.id, self.waker.clone());
        }
        // A phase that is entered after this look finds the waker in the list.
        self.stop.phase()
    }

    /// Resolves when the phase is at least `phase`.
    pub async fn reached(&mut self, phase: Phase) {
        std::future::poll_fn(|cx| if self.poll_phase(cx) >= phase { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.stop.lock();
        guests.wakers.remove(&self.id);
        if guests.wakers.is_empty() {
            guests.last.take().into_iter().for_each(Waker::wake);
        }
    }
}
