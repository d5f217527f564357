//! A load generator so light that it is not what is measured: one thread, epoll, HTTP/2 written and read by hand.
//!
//! A request is written in place into its connection's buffer, which leaves in one write for all replies that came with one read; after
//! the first call of a connection its headers are 15 bytes. A reply is looked at where the socket's bytes lie: a call has succeeded
//! if exactly one message and `grpc-status: 0` came, and is a failure otherwise, counted by what was wrong. Latency is counted
//! from the moment a request is written to the buffer; of a paced load, from the moment it was to be written, so that a server that
//! stands still is not spared the calls that come meanwhile.
//!
//! That it is not the bottleneck is measured, not assumed: every result has its processor time per call beside the server's, and
//! `make bench` drives [`canned`], a server that only throws ready answers at it, with the same load.

mod ask;
mod calls;
pub mod canned;
mod connection;
mod engine;
mod fields;
mod flow;
mod history;
mod latency;
#[cfg(test)]
mod tests;
mod watching;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use ask::{Ask, Keys, filler};
pub use calls::Paced;
pub use history::History;
pub use latency::Histogram;
pub use watching::{Puts, Watchers, Watches};

use calls::{Calls, Tally};
use connection::Connection;

/// A load that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many ask how often.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    pub connections: usize,
    /// Calls under way at any time at most, spread over the connections.
    pub clients: usize,
    pub total: u64,
    /// Calls a second, all clients together; none: each asks as soon as it is answered.
    pub rate: Option<f64>,
}

/// Connections of a load that stand, before its first call.
pub struct Session {
    connections: Vec<Connection>,
    calls: Calls,
}

/// What came of a load.
pub struct Outcome {
    /// How long the successful calls took.
    pub latency: Histogram,
    /// How many failed, by what was wrong.
    pub failed: BTreeMap<String, u64>,
    /// Calls of a paced load that waited for a free client.
    pub late: u64,
    /// Of a paced load, every call.
    pub paced: Vec<Paced>,
    /// From the first call to the last answer.
    pub took: Duration,
    /// Processor time of the generator.
    pub own_cpu: Duration,
}

impl Session {
    /// Connects.
    pub fn open(to: SocketAddr, ask: &Ask, crowd: Crowd) -> io::Result<Session> {
        let open = |number| Connection::open(to, ask.path(), number);
        let connections = (0..crowd.connections).map(open).collect::<io::Result<Vec<_>>>()?;
        let calls = Calls::new(ask.clone(), 0, crowd.connections, crowd.clients, crowd.total, crowd.rate);
        Ok(Session { connections, calls })
    }

    /// Makes calls, until `stop` is set.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_until(mut self, stop: Arc<AtomicBool>) -> io::Result<Outcome> {
        self.calls.end_on(stop);
        self.run()
    }

    /// Makes the calls.
    ///
    /// # Errors
    /// When a connection fails or calls hang. Failed calls are a result, not an error.
    pub fn run(mut self) -> io::Result<Outcome> {
        let before = own_cpu();
        engine::drive(&mut self.connections, &mut self.calls, PATIENCE)?;
        let own_cpu = own_cpu() - before;
        let Tally { latency, failed, late, took, paced } = self.calls.tally();
        Ok(Outcome { latency, failed, late, paced, took, own_cpu })
    }
}

/// Makes calls, all of which have to succeed: what a measurement is prepared with.
pub fn fill(to: SocketAddr, ask: &Ask, total: u64) {
    let crowd = Crowd { connections: 10, clients: 1000.min(total as usize), total, rate: None };
    let outcome = Session::open(to, ask, crowd).and_then(Session::run).expect("the server takes the load");
    assert!(outcome.failed.is_empty(), "{ask:?}: {:?}", outcome.failed);
}

/// Processor time of this thread.
pub fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
