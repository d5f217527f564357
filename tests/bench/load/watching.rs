//! Watches, and the puts that their events come from.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest, watch_request};
use prost::Message;

use super::PATIENCE;
use super::ask::{Ask, Keys};
use super::calls::{Calls, Tally};
use super::connection::{Connection, End, Replies};
use super::engine::{Driver, Turn, drive};
use super::latency::Histogram;
use crate::support::requests::{Unary, WATCH};

/// How many watches there are, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Watches {
    pub connections: usize,
    pub streams: usize,
    /// On each stream.
    pub watches: usize,
    /// Keys that are watched; the watches take turns.
    pub keys: Keys,
}

impl Watches {
    /// All of all streams.
    pub fn all(&self) -> u64 {
        (self.streams * self.watches) as u64
    }
}

/// Watches that stand.
pub struct Watchers {
    of: Watches,
    connections: Vec<Connection>,
    driver: Watching,
}

/// How they came to stand.
pub struct Created {
    pub latency: Histogram,
    pub took: Duration,
}

/// What they were told.
pub struct Delivered {
    pub events: u64,
    /// From the first put to the last event.
    pub took: Duration,
    /// From a put's request to its event.
    pub latency: Histogram,
    pub puts: Tally,
}

struct Watching {
    of: Watches,
    /// For each stream: watches asked for, when the last was.
    streams: Vec<(usize, Instant)>,
    created: Histogram,
    events: u64,
    expected: u64,
    last_event: Instant,
    from: Instant,
    latency: Histogram,
    calls: Option<Calls>,
}

impl Watchers {
    /// Opens the streams and their watches; each stream asks for its next watch when it has the one before, as etcd's client does.
    pub fn create(to: SocketAddr, of: Watches) -> io::Result<(Watchers, Created)> {
        let open = |number| Connection::open(to, WATCH, number);
        let mut connections = (0..of.connections).map(open).collect::<io::Result<Vec<_>>>()?;
        let now = Instant::now();
        let mut driver = Watching {
            of,
            streams: Vec::new(),
            created: Histogram::default(),
            events: 0,
            expected: 0,
            last_event: now,
            from: now,
            latency: Histogram::default(),
            calls: None,
        };
        drive(&mut connections, &mut driver, PATIENCE)?;
        let created = Created { latency: driver.created.clone(), took: now.elapsed() };
        Ok((Watchers { of, connections, driver }, created))
    }

    /// Puts, each to the next of the watched keys, until every event has come.
    pub fn deliver(&mut self, to: SocketAddr, puts: &Puts) -> io::Result<Delivered> {
        let base = self.of.connections;
        for number in 0..puts.connections {
            self.connections.push(Connection::open(to, PutRequest::PATH, base + number)?);
        }
        let ask = Ask::Put { keys: self.of.keys, value: puts.value };
        let mut calls = Calls::new(ask, base, puts.connections, puts.clients, puts.total, puts.rate);
        let watches = self.of.all();
        // Watch n has key n % keys, and so has put n.
        let on_key = |key: u64, of: u64| of / self.of.keys.space + u64::from(key < of % self.of.keys.space);
        let driver = &mut self.driver;
        driver.expected = (0..self.of.keys.space).map(|key| on_key(key, watches) * on_key(key, puts.total)).sum();
        (driver.events, driver.latency, driver.from) = (0, Histogram::default(), Instant::now());
        calls.stamp(driver.from);
        driver.calls = Some(calls);
        drive(&mut self.connections, driver, PATIENCE)?;
        self.connections.truncate(base);
        let puts = driver.calls.take().map(Calls::tally).unwrap_or_default();
        Ok(Delivered { events: driver.events, took: driver.last_event - driver.from, latency: driver.latency.clone(), puts })
    }
}

/// The puts that make events.
pub struct Puts {
    pub connections: usize,
    pub clients: usize,
    pub total: u64,
    /// Puts a second; none: as many as the server answers.
    pub rate: Option<f64>,
    pub value: usize,
}

impl Watching {
    fn ask(&mut self, on: &mut Connection, stream: u32, client: u32) {
        let (asked, begun) = &mut self.streams[client as usize];
        let n = client as usize * self.of.watches + *asked;
        *asked += 1;
        *begun = Instant::now();
        let create = WatchCreateRequest { key: self.of.keys.name(n as u64 % self.of.keys.space), ..Default::default() };
        let request = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
        on.send(stream, false, |out| request.encode(out).expect("a vector has room for every message"));
    }
}

impl Replies for Watching {
    fn message(&mut self, from: &mut Connection, stream: u32, client: u32, message: &[u8]) -> io::Result<()> {
        if let Some(calls) = &mut self.calls
            && from.number >= self.of.connections
        {
            return calls.message(from, stream, client, message);
        }
        let now = Instant::now();
        let told = Told::of(message, |stamp| self.latency.add((now - self.from).saturating_sub(Duration::from_nanos(stamp))));
        let told = told.ok_or_else(|| io::Error::other("a watch response that cannot be read"))?;
        if told.canceled {
            return Err(io::Error::other("a watch was canceled"));
        }
        if told.created {
            let (asked, begun) = self.streams[client as usize];
            self.created.add(now - begun);
            if asked < self.of.watches {
                self.ask(from, stream, client);
            }
        }
        self.events += told.events;
        self.last_event = now;
        Ok(())
    }

    fn end(&mut self, from: &mut Connection, client: u32, end: End) -> io::Result<()> {
        match &mut self.calls {
            Some(calls) if from.number >= self.of.connections => calls.end(from, client, end),
            _ => Err(io::Error::other(format!("a watch stream ended: {end:?}"))),
        }
    }
}

impl Driver for Watching {
    fn turn(&mut self, connections: &mut [Connection]) -> io::Result<Turn> {
        if self.streams.is_empty() {
            for client in 0..self.of.streams {
                self.streams.push((0, Instant::now()));
                let on = &mut connections[client % self.of.connections];
                let stream = on.begin(client as u32)?;
                self.ask(on, stream, client as u32);
            }
        }
        let all = self.of.all();
        match &mut self.calls {
            None if self.created.count() == all => Ok(Turn::Done),
            None => Ok(Turn::Wait),
            Some(calls) => match calls.turn(connections)? {
                Turn::Done if self.events < self.expected => Ok(Turn::Wait),
                turn => Ok(turn),
            },
        }
    }
}

/// What a `WatchResponse` says, as far as a load wants to know it.
#[derive(Default, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub created: bool,
    pub canceled: bool,
    pub events: u64,
}

impl Told {
    /// Reads one; `stamp` is given the first 8 bytes of each event's value.
    pub fn of(message: &[u8], mut stamp: impl FnMut(u64)) -> Option<Told> {
        let mut told = Told::default();
        for field in Fields(message) {
            match field? {
                (3, Field::Number(created)) => told.created = created != 0,
                (4, Field::Number(canceled)) => told.canceled = canceled != 0,
                (11, Field::Bytes(event)) => {
                    told.events += 1;
                    let value = nested(event, 2).and_then(|kv| nested(kv, 5));
                    if let Some(bytes) = value.and_then(|value| value.first_chunk()) {
                        stamp(u64::from_be_bytes(*bytes));
                    }
                }
                _ => {}
            }
        }
        Some(told)
    }
}

/// The bytes of one field of a message.
fn nested(message: &[u8], number: u64) -> Option<&[u8]> {
    Fields(message).flatten().find_map(|field| match field {
        (found, Field::Bytes(bytes)) if found == number => Some(bytes),
        _ => None,
    })
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A message's fields by number, without a copy. Events come by the million, and of each only this much is needed.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = prost::decode_length_delimiter(&mut self.0).ok()? as u64;
        let value = prost::decode_length_delimiter(&mut self.0).ok()?;
        match tag & 7 {
            0 => Some((tag >> 3, Field::Number(value as u64))),
            2 => {
                let (bytes, rest) = self.0.split_at_checked(value)?;
                self.0 = rest;
                Some((tag >> 3, Field::Bytes(bytes)))
            }
            _ => None,
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}
