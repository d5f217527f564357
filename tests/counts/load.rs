//! What is asked of the server: the loads whose costs have limits.

use crate::bench::load::{Ask, Crowd, Keys, Puts, Session, Watchers, Watches};
use crate::bench::loads::prepare;
use crate::support::Server;

/// A load by name, and how often it is asked.
pub struct Shape {
    /// In the table of limits.
    pub name: &'static str,
    /// What one is.
    pub what: &'static str,
    pub load: Load,
    /// Requests that the longer run has more.
    requests: u64,
    /// Rows or events of one request, where not the request is counted.
    each: u64,
}

/// What a load does.
pub enum Load {
    /// Calls on one connection, so many under way at any time.
    Calls(Ask, usize),
    /// Puts of 32 bytes, one after the other, to a key that is watched.
    Events(Watches),
}

/// All of them.
pub fn all() -> Vec<Shape> {
    let new = Keys::in_order(u64::MAX);
    let stored = Keys::in_order(500);
    let put = Ask::Put { keys: new, value: 256 };
    let range = |serializable| Ask::Range { keys: stored, value: 256, serializable };
    let keep_alive = Ask::KeepAlive { leases: 100, once: false };
    let watches = Watches { connections: 1, streams: 10, watches: 10, keys: Keys { size: 32, ..Keys::in_order(1) } };
    let one = |name, what, ask: &Ask| Shape { name, what, load: Load::Calls(ask.clone(), 1), requests: 2000, each: 1 };
    let many = |name, what, ask: &Ask| Shape { name, what, load: Load::Calls(ask.clone(), 100), requests: 4000, each: 1 };
    let rows = Ask::Rows { keys: stored, value: 256, rows: 500 };
    vec![
        one("put-1", "a put of 256 bytes to a new key, one client", &put),
        many("put-100", "a put of 256 bytes to a new key, 100 under way", &put),
        many("txn-100", "a transaction of such a put, 100 under way", &Ask::TxnPut { keys: new, value: 256 }),
        one("range-1", "a linearizable range of one key of 256 bytes, one client", &range(false)),
        many("range-100", "a linearizable range of one key of 256 bytes, 100 under way", &range(false)),
        many("serializable-100", "a serializable range of one key of 256 bytes, 100 under way", &range(true)),
        Shape { requests: 200, each: 500, ..one("row", "a row of 256 bytes in a range of 500", &rows) },
        one("keepalive-1", "a keepalive, one client", &keep_alive),
        many("keepalive-100", "a keepalive, 100 streams", &keep_alive),
        Shape {
            name: "event",
            what: "an event of a put of 32 bytes, told to 10 watchers on each of 10 streams (the put included)",
            load: Load::Events(watches),
            requests: 400,
            each: watches.all(),
        },
    ]
}

impl Shape {
    /// Requests of the two runs. The shorter one is short, so that what is found is the longer one's: in which thread a request meets
    /// which other is settled anew by each run.
    pub fn runs(&self) -> [u64; 2] {
        let few = self.requests / 10;
        [few, few + self.requests]
    }

    /// How many of what is counted the longer run has more.
    pub fn between(&self) -> f64 {
        (self.requests * self.each) as f64
    }
}

impl Load {
    /// Stores what it needs.
    pub fn prepare(&self, server: &Server) {
        if let Load::Calls(ask, _) = self {
            prepare(server, ask);
        }
    }

    /// Asks so often; everything has to succeed.
    pub fn ask(&self, server: &Server, requests: u64) {
        match self {
            Load::Calls(ask, clients) => {
                let crowd = Crowd { connections: 1, clients: *clients, total: requests, rate: None };
                let outcome = Session::open(server.addr(), ask, crowd).and_then(Session::run).expect("the server takes the load");
                assert!(outcome.failed.is_empty(), "{ask:?}: {:?}", outcome.failed);
            }
            Load::Events(watches) => {
                let puts = Puts { connections: 1, clients: 1, total: requests, rate: None, value: 32 };
                let (mut watchers, _) = Watchers::create(server.addr(), *watches).expect("the server takes watches");
                let delivered = watchers.deliver(server.addr(), &puts).expect("the server takes puts");
                assert_eq!(delivered.events, watches.all() * requests);
            }
        }
    }
}
