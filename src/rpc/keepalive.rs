//! Finds connections whose client is gone without a word: after an idle time a PING is sent, and without a sign of life in due time
//! the connection is closed (`--grpc-keepalive-interval`, `--grpc-keepalive-timeout`). And sends clients away that ask too often
//! whether we are there (`--grpc-keepalive-min-time`), by the rule of gRPC's Go library.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::grpc::BoxFuture;
use super::timers::Timers;
use crate::http2::Signs;

/// Watches one connection.
pub struct Keepalive {
    timers: Arc<dyn Timers>,
    interval: Duration,
    timeout: Duration,
    /// None: never.
    timer: Option<BoxFuture<()>>,
    is_asked: bool,
    /// Bytes that had been received when the timer was set.
    seen: u64,
}

impl Keepalive {
    /// A zero interval: never asks.
    pub fn new(timers: Arc<dyn Timers>, interval: Duration, timeout: Duration) -> Keepalive {
        let timer = (!interval.is_zero()).then(|| timers.sleep(interval));
        Keepalive { timers, interval, timeout, timer, is_asked: false, seen: 0 }
    }

    /// Ready when the client is taken for dead. So many bytes of it were received in all; `ping` asks it for more.
    pub fn poll(&mut self, received: u64, ping: impl Fn(), cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            ready!(timer.as_mut().poll(cx));
            let silent = received == self.seen;
            if silent && self.is_asked {
                return Poll::Ready(());
            }
            self.seen = received;
            self.is_asked = silent;
            if silent {
                ping();
            }
            self.timer = Some(self.timers.sleep(if self.is_asked { self.timeout } else { self.interval }));
        }
    }
}

/// PINGs that come too soon and are forgiven.
const FORGIVEN: u32 = 2;
/// How long a client without a call should leave us alone.
const WITHOUT_CALLS: Duration = Duration::from_secs(2 * 3600);
/// What gRPC's Go library makes of a shortest time of zero.
const UNSAID: Duration = Duration::from_secs(5 * 60);

/// What a client is told that pings too often. gRPC's clients look for this very word, and ping half as often from then on.
pub const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// How often a client may ping.
pub struct PingPolicy {
    min_time: Duration,
    last: Option<Duration>,
    strikes: u32,
    /// Headers or data were sent since the last PING: the next one is free. Clients measure their bandwidth so.
    is_pardoned: bool,
}

impl PingPolicy {
    /// With so much time between two PINGs of a client that has calls open.
    pub fn new(min_time: Duration) -> PingPolicy {
        let min_time = if min_time.is_zero() { UNSAID } else { min_time };
        PingPolicy { min_time, last: None, strikes: 0, is_pardoned: false }
    }

    /// Whether what has passed until `now` is still borne.
    #[must_use]
    pub fn bears(&mut self, signs: Signs, has_calls: bool, now: Duration) -> bool {
        for _ in 0..signs.pings {
            self.ping(has_calls, now);
        }
        self.is_pardoned |= signs.has_replied;
        self.strikes <= FORGIVEN
    }

    fn ping(&mut self, has_calls: bool, now: Duration) {
        let last = self.last.replace(now);
        if std::mem::take(&mut self.is_pardoned) {
            self.strikes = 0;
            return;
        }
        let pause = if has_calls { self.min_time } else { WITHOUT_CALLS };
        if last.is_some_and(|last| last.saturating_add(pause) > now) {
            self.strikes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Signs = Signs { pings: 1, has_replied: false };

    fn policy() -> PingPolicy {
        PingPolicy::new(Duration::from_secs(5))
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn three_pings_too_soon_are_too_many() {
        let mut policy = policy();
        let borne: Vec<bool> = (0..4).map(|at| policy.bears(PING, true, secs(at))).collect();
        assert_eq!(borne, [true, true, true, false]);
        assert!(!self::policy().bears(Signs { pings: 4, has_replied: false }, true, secs(0)), "at once");
    }

    #[test]
    fn pings_in_due_time_are_borne_for_ever() {
        let mut policy = policy();
        assert!((0..100).all(|n| policy.bears(PING, true, secs(5 * n))));
    }

    #[test]
    fn without_calls_two_hours_are_due_time() {
        let mut policy = policy();
        assert!((0..100).all(|n| policy.bears(PING, false, secs(7200 * n))));
        assert!(!(100..104).all(|n| policy.bears(PING, false, secs(7200 * 100 + 10 * n))));
    }

    #[test]
    fn whoever_was_replied_to_may_ping() {
        let mut policy = policy();
        assert!((0..100).all(|_| policy.bears(Signs { pings: 1, has_replied: true }, true, secs(0))));
        assert!(policy.bears(Signs { pings: 3, has_replied: false }, true, secs(0)), "one is free, two are forgiven");
        assert!(!policy.bears(PING, true, secs(0)));
    }

    #[test]
    fn a_shortest_time_of_zero_is_five_minutes() {
        let mut policy = PingPolicy::new(Duration::ZERO);
        assert!(!(0..4).all(|n| policy.bears(PING, true, secs(299 * n))));
    }
}
