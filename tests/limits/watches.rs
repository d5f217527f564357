//! Ten thousand watches, in the shapes that clients give them.

use std::time::Instant;

use bramble::pb::etcdserverpb::WatchCreateRequest;

use super::{beside, tell, tell_memory};
use crate::support::requests::{Watch, put, watch, watch_prefix};
use crate::support::{Client, Server};

const WATCHES: usize = 10_000;

/// What the watches look at.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Each its own key.
    Distinct,
    /// All the same prefix.
    Same,
    /// Prefixes within prefixes, a hundred deep.
    Nested,
}

const DEPTH: usize = 100;

impl Shape {
    fn request(self, n: usize) -> WatchCreateRequest {
        match self {
            Shape::Distinct => watch(format!("key/{n}")),
            Shape::Same => watch_prefix("key/"),
            Shape::Nested => watch_prefix("d/".repeat(n % DEPTH + 1)),
        }
    }

    /// Keys that are put, in this order.
    fn keys(self) -> Vec<String> {
        match self {
            Shape::Distinct => (0..WATCHES).map(|n| format!("key/{n}")).collect(),
            Shape::Same => (0..10).map(|n| format!("key/{n}")).collect(),
            Shape::Nested => [1, 10, 50, 99, 100].iter().map(|depth| "d/".repeat(*depth)).collect(),
        }
    }

    fn sees(self, n: usize, key: &str) -> bool {
        match self {
            Shape::Distinct => key == format!("key/{n}"),
            Shape::Same => true,
            Shape::Nested => key.len() / 2 > n % DEPTH,
        }
    }
}

/// Makes ten thousand watches over so many connections and streams, and counts what each sees.
fn watched(shape: Shape, connections: usize, streams: usize) {
    let server = Server::start();
    let clients: Vec<Client> = (0..connections).map(|_| server.client()).collect();
    let name = format!("{WATCHES} watches ({shape:?}) on {connections} connections, {streams} streams");
    tell_memory(&server, "idle");
    let begun = Instant::now();
    let mut open: Vec<Watch> = (0..streams).map(|n| Watch::open(&clients[n % connections])).collect();
    let per_stream = WATCHES / streams;
    // Watch `n` is that of id `n / streams` on stream `n % streams`.
    for n in 0..WATCHES {
        open[n % streams].ask(shape.request(n));
    }
    for stream in &mut open {
        for id in 0..per_stream {
            let created = stream.recv();
            assert!(created.created && !created.canceled && created.watch_id == id as i64, "{created:?}");
        }
    }
    tell(format!("{name}: all created"), format!("{:.2?}", begun.elapsed()));
    tell_memory(&server, "with these watches");
    let keys = shape.keys();
    let seen: Vec<Vec<&String>> = (0..WATCHES).map(|n| keys.iter().filter(|key| shape.sees(n, key)).collect()).collect();
    let wanted: usize = seen.iter().map(Vec::len).sum();
    let begun = Instant::now();
    beside(&server, "beside 10,000 watches", || {
        let requests: Vec<_> = keys.iter().map(|key| put(key, key)).collect();
        for answer in server.client().call_all(&requests, 64) {
            answer.unwrap();
        }
        for (at, stream) in open.iter_mut().enumerate() {
            let mut left: Vec<_> = (0..per_stream).map(|id| seen[id * streams + at].iter().copied().peekable()).collect();
            let mut missing: usize = (0..per_stream).map(|id| seen[id * streams + at].len()).sum();
            let mut newest = vec![0; per_stream];
            while missing > 0 {
                let answer = stream.events();
                let id = answer.watch_id as usize;
                for event in answer.events {
                    let kv = event.kv.unwrap();
                    assert!(kv.mod_revision > newest[id], "watch {id} of stream {at}: an event twice or late");
                    newest[id] = kv.mod_revision;
                    // Puts that were under way together may change places, on one key they do not.
                    assert!(left[id].next().is_some(), "watch {id} of stream {at}: more events than there are");
                    assert!(shape.sees(id * streams + at, std::str::from_utf8(&kv.key).unwrap()), "{kv:?}");
                    missing -= 1;
                }
            }
        }
        // Nothing is left over: the next that comes is what is asked for now.
        for stream in &mut open {
            stream.ask_progress();
            let answer = stream.recv();
            assert!(answer.events.is_empty(), "an event more than there should be: {answer:?}");
        }
    });
    let took = begun.elapsed();
    tell(format!("{name}: {wanted} events"), format!("{took:.2?}, {:.0} events/s", wanted as f64 / took.as_secs_f64()));
    tell_memory(&server, "after these events");
    drop(open);
    drop(clients);
    // All are given back: the server is as it was.
    let client = server.client();
    let mut again = Watch::open(&client);
    again.create(watch("key/0"));
    client.call(&put("key/0", ""));
    again.events();
}

#[test]
fn ten_thousand_watches_on_one_stream_each_see_their_own_key() {
    watched(Shape::Distinct, 1, 1);
}

#[test]
fn ten_thousand_streams_on_a_hundred_connections_each_see_all_of_a_prefix() {
    watched(Shape::Same, 100, WATCHES);
}

#[test]
#[ignore = "takes long: make limits"]
fn ten_thousand_watches_within_each_other_see_what_lies_below_them() {
    watched(Shape::Nested, 100, 100);
}

#[test]
#[ignore = "takes long: make limits"]
fn ten_thousand_streams_on_one_connection_each_see_their_own_key() {
    watched(Shape::Distinct, 1, WATCHES);
}

#[test]
#[ignore = "takes long: make limits"]
fn ten_thousand_watches_of_one_prefix_on_one_stream_see_all_of_it() {
    watched(Shape::Same, 1, 1);
}
