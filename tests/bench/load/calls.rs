//! Clients that call: each waits for its answer before it asks again, or all together begin so many calls a second.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::ask::{Ask, Writer};
use super::connection::{Connection, End, Replies};
use super::engine::{Driver, Turn};
use super::latency::Histogram;

/// A client, always on the same connection.
#[derive(Clone)]
struct Client {
    /// When its call was begun or, of a paced load, was to begin.
    begun: Instant,
    /// Its own stream, if it keeps one.
    stream: Option<u32>,
    /// Whether the last answer held what was asked for.
    answered: bool,
}

/// What became of the calls.
#[derive(Default)]
pub struct Tally {
    /// How long the successful ones took.
    pub latency: Histogram,
    /// How many failed, by what was wrong.
    pub failed: BTreeMap<String, u64>,
    /// Paced calls that had to wait for a free client: a load with any was not the load it was said to be.
    pub late: u64,
    /// From the first call to the last answer.
    pub took: Duration,
    /// Of a paced load, every call that has ended.
    pub paced: Vec<Paced>,
}

/// A call whose time was given.
#[derive(Clone, Copy, Debug)]
pub struct Paced {
    /// When it was to begin.
    pub due: Instant,
    /// From then to its end.
    pub took: Duration,
    pub failed: bool,
}

/// The driver of one load.
pub struct Calls {
    ask: Ask,
    writer: Writer,
    clients: Vec<Client>,
    /// Clients without a call, where calls are paced.
    idle: Vec<u32>,
    total: u64,
    begun: u64,
    ended: u64,
    /// Calls a second; none: as many as the server answers.
    rate: Option<f64>,
    /// No further call begins once this is set.
    stop: Option<Arc<AtomicBool>>,
    /// Whether the next call is late already.
    held_up: bool,
    /// From when the stamps of values count.
    stamps_from: Option<Instant>,
    first: Instant,
    /// The first of its connections among those that it is given.
    base: usize,
    connections: usize,
    tally: Tally,
}

impl Calls {
    /// `total` calls of `clients` on `connections` that begin at `base`.
    pub fn new(ask: Ask, base: usize, connections: usize, clients: usize, total: u64, rate: Option<f64>) -> Calls {
        let now = Instant::now();
        Calls {
            writer: ask.writer(),
            ask,
            clients: vec![Client { begun: now, stream: None, answered: false }; clients],
            idle: (0..clients as u32).rev().collect(),
            total,
            begun: 0,
            ended: 0,
            rate,
            stop: None,
            held_up: false,
            stamps_from: None,
            first: now,
            base,
            connections,
            tally: Tally::default(),
        }
    }

    /// Puts the time since `from` into every value, in nanoseconds.
    pub fn stamp(&mut self, from: Instant) {
        self.stamps_from = Some(from);
    }

    /// Has it end, when this is set, with the calls that are under way.
    pub fn end_on(&mut self, stop: Arc<AtomicBool>) {
        self.stop = Some(stop);
    }

    /// Whether every call has ended.
    pub fn is_done(&self) -> bool {
        self.ended == self.total
    }

    /// The result.
    pub fn tally(self) -> Tally {
        self.tally
    }

    /// `due`: when it was to begin; none: now.
    fn begin(&mut self, on: &mut Connection, client: u32, due: Option<Instant>) -> io::Result<()> {
        let now = Instant::now();
        let stamp = self.stamps_from.map(|from| (now - from).as_nanos() as u64);
        let keeps = self.ask.keeps_stream();
        let own = &mut self.clients[client as usize];
        own.begun = due.unwrap_or(now);
        own.answered = false;
        let stream = match own.stream {
            Some(stream) => stream,
            None => on.begin(client)?,
        };
        own.stream = keeps.then_some(stream);
        on.send(stream, !keeps, |out| self.writer.write(self.begun, stamp, out));
        self.begun += 1;
        Ok(())
    }

    /// One call is over; `why` says what was wrong with it.
    fn over(&mut self, on: &mut Connection, client: u32, why: Option<String>) -> io::Result<()> {
        let now = Instant::now();
        self.ended += 1;
        self.tally.took = now - self.first;
        let Client { begun, .. } = self.clients[client as usize];
        if self.rate.is_some() {
            self.tally.paced.push(Paced { due: begun, took: now - begun, failed: why.is_some() });
        }
        match why {
            None => self.tally.latency.add(now - begun),
            Some(why) => *self.tally.failed.entry(why).or_default() += 1,
        }
        if self.rate.is_some() {
            self.idle.push(client);
            return Ok(());
        }
        if self.begun < self.total { self.begin(on, client, None) } else { Ok(()) }
    }

    /// Begins the calls whose time has come; gives the time until the next.
    fn begin_due(&mut self, connections: &mut [Connection], rate: f64) -> io::Result<Turn> {
        if self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            self.total = self.begun;
        }
        while self.begun < self.total {
            let due = self.first + Duration::from_secs_f64(self.begun as f64 / rate);
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                return Ok(Turn::WaitAtMost(wait));
            }
            let Some(client) = self.idle.pop() else {
                self.tally.late += u64::from(!std::mem::replace(&mut self.held_up, true));
                return Ok(Turn::Wait);
            };
            self.held_up = false;
            self.begin(&mut connections[self.base + client as usize % self.connections], client, Some(due))?;
        }
        if self.is_done() { Ok(Turn::Done) } else { Ok(Turn::Wait) }
    }
}

impl Replies for Calls {
    fn message(&mut self, from: &mut Connection, _: u32, client: u32, message: &[u8]) -> io::Result<()> {
        let whole = message.len() >= self.ask.shortest_answer();
        if self.ask.keeps_stream() {
            return self.over(from, client, (!whole).then(|| "an answer without what was asked for".to_owned()));
        }
        self.clients[client as usize].answered = whole;
        Ok(())
    }

    fn end(&mut self, from: &mut Connection, client: u32, end: End) -> io::Result<()> {
        if self.ask.keeps_stream() {
            return Err(io::Error::other(format!("a stream that was to stay ended: {end:?}")));
        }
        let why = match end {
            _ if end.is_success() && self.clients[client as usize].answered => None,
            _ if end.is_success() => Some("an answer without what was asked for".to_owned()),
            End { status: Some(status @ 1..), .. } => Some(format!("grpc-status {status}")),
            End { messages, status } => Some(format!("{messages} answers, grpc-status {status:?}")),
        };
        self.over(from, client, why)
    }
}

impl Driver for Calls {
    fn turn(&mut self, connections: &mut [Connection]) -> io::Result<Turn> {
        if self.begun == 0 {
            self.first = Instant::now();
        }
        if self.is_done() {
            return Ok(Turn::Done);
        }
        if let Some(rate) = self.rate {
            return self.begin_due(connections, rate);
        }
        while self.begun < self.total
            && let Some(client) = self.idle.pop()
        {
            self.begin(&mut connections[self.base + client as usize % self.connections], client, None)?;
        }
        Ok(Turn::Wait)
    }
}
