//! Time as the room needs it: now, and to be woken later. A seam, so that a simulator and the tests bring their own.
//!
//! [`Alarms`] multiplexes the deadlines of a connection's calls onto one timer: arming a timer of async-io wakes its reactor with
//! a system call, which once per request would be dear.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::grpc::BoxFuture;
use crate::host::Clock;

/// Now, and later.
pub trait Timers: Send + Sync + 'static {
    /// Time since some fixed moment, as [`Clock::now`].
    fn now(&self) -> Duration;
    /// Resolves after `time`.
    fn sleep(&self, time: Duration) -> BoxFuture<()>;
}

/// The machine's timers.
pub struct SystemTimers {
    clock: Arc<dyn Clock>,
}

impl SystemTimers {
    /// Timers beside a clock.
    pub fn new(clock: Arc<dyn Clock>) -> SystemTimers {
        SystemTimers { clock }
    }
}

impl Timers for SystemTimers {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<()> {
        // `after` of a time beyond the calendar never fires, which is what is meant.
        let timer = async_io::Timer::after(time);
        Box::pin(async move {
            timer.await;
        })
    }
}

/// Runs `work`, but not longer than `limit`. None: the limit came first.
pub async fn within<T>(timers: &dyn Timers, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let late = timers.sleep(limit);
    futures_lite::future::or(async { Some(work.await) }, async {
        late.await;
        None
    })
    .await
}

/// Many moments, one timer. Whoever owns it polls [`Alarms::poll`]; calls wait on an [`Alarm`].
pub struct Alarms {
    timers: Arc<dyn Timers>,
    set: Mutex<BTreeMap<(Duration, u64), Waker>>,
}

/// The one timer that is armed, and the moment it is armed for.
#[derive(Default)]
pub struct Armed(Option<(Duration, BoxFuture<()>)>);

impl Alarms {
    /// No alarm yet.
    pub fn new(timers: Arc<dyn Timers>) -> Arc<Alarms> {
        Arc::new(Alarms { timers, set: Mutex::new(BTreeMap::new()) })
    }

    /// A future that resolves at `at`. `id` tells it from others of this owner.
    pub fn alarm(self: &Arc<Alarms>, at: Duration, id: u64) -> Alarm {
        Alarm { alarms: self.clone(), key: (at, id), is_set: false }
    }

    /// Wakes those whose moment has come, and sees to it that the task of `cx` is woken for the next.
    pub fn poll(&self, armed: &mut Armed, cx: &mut Context<'_>) {
        loop {
            let Some(next) = self.next() else { return };
            if armed.0.as_ref().is_none_or(|(at, _)| next < *at) {
                armed.0 = Some((next, self.timers.sleep(next.saturating_sub(self.timers.now()))));
            }
            let Some((_, timer)) = &mut armed.0 else { return };
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            armed.0 = None;
            self.ring();
        }
    }

    fn next(&self) -> Option<Duration> {
        self.set.lock().expect("no panic while it was held").keys().next().map(|(at, _)| *at)
    }

    fn ring(&self) {
        let now = self.timers.now();
        let mut set = self.set.lock().expect("no panic while it was held");
        let later = set.split_off(&(now, u64::MAX));
        for waker in std::mem::replace(&mut *set, later).into_values() {
            waker.wake();
        }
    }
}

/// Resolves at its moment. Costs nothing until it is polled.
pub struct Alarm {
    alarms: Arc<Alarms>,
    key: (Duration, u64),
    is_set: bool,
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.key.0 <= self.alarms.timers.now() {
            return Poll::Ready(());
        }
        let mut set = self.alarms.set.lock().expect("no panic while it was held");
        set.entry(self.key).and_modify(|waker| waker.clone_from(cx.waker())).or_insert_with(|| cx.waker().clone());
        drop(set);
        self.is_set = true;
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.is_set {
            self.alarms.set.lock().expect("no panic while it was held").remove(&self.key);
        }
    }
}
