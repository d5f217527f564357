//! Finds connections whose client is gone without a word: after an idle time a PING is sent, and without a sign of life in due time
//! the connection is closed (`--grpc-keepalive-interval`, `--grpc-keepalive-timeout`).

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};

use super::grpc::BoxFuture;
use super::stream::Wire;
use super::timers::Timers;

/// Watches one connection.
pub struct Keepalive {
    timers: Arc<dyn Timers>,
    interval: Duration,
    timeout: Duration,
    ping_pong: PingPong,
    /// None: never.
    timer: Option<BoxFuture<()>>,
    is_asked: bool,
    /// Bytes that had been received when the timer was set.
    seen: u64,
}

impl Keepalive {
    /// A zero interval: never asks.
    pub fn new(timers: Arc<dyn Timers>, interval: Duration, timeout: Duration, ping_pong: PingPong) -> Keepalive {
        let timer = (!interval.is_zero()).then(|| timers.sleep(interval));
        Keepalive { timers, interval, timeout, ping_pong, timer, is_asked: false, seen: 0 }
    }

    /// Ready when the client is taken for dead.
    pub fn poll(&mut self, wire: &Wire, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            ready!(timer.as_mut().poll(cx));
            let received = wire.received();
            let silent = received == self.seen;
            if silent && self.is_asked {
                return Poll::Ready(());
            }
            self.seen = received;
            self.is_asked = silent;
            if silent {
                // The last answer has to be taken before the next PING. If it is still on its way, no other is sent: it will do.
                let _ = self.ping_pong.poll_pong(cx);
                let _ = self.ping_pong.send_ping(Ping::opaque());
            }
            self.timer = Some(self.timers.sleep(if self.is_asked { self.timeout } else { self.interval }));
        }
    }
}
