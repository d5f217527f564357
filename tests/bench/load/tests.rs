//! The generator has to be right before it may be fast: every call accounted for, at Bramble and at etcd alike.

use std::time::Duration;

use bramble::pb::etcdserverpb::RangeRequest;
use prost::Message;

use super::canned::Canned;
use super::{Ask, Crowd, Keys, Outcome, Puts, Session, Watchers, Watches, filler};
use crate::support::requests::{IntoOp, range};
use crate::support::requests::{Revision, Unary, everything, key, put, then};
use crate::support::{Server, oracle, under_test};

fn both() -> [Server; 2] {
    [under_test(), oracle("etcd")].map(|binary| Server::builder().binary(binary).start())
}

const CROWD: Crowd = Crowd { connections: 3, clients: 20, total: 500, rate: None };

fn run(server: &Server, ask: &Ask, crowd: Crowd) -> Outcome {
    let outcome = Session::open(server.addr(), ask, crowd).and_then(Session::run).unwrap();
    assert_eq!(outcome.latency.count() + outcome.failed.values().sum::<u64>(), crowd.total, "every call is accounted for");
    outcome
}

fn run_well(server: &Server, ask: &Ask, crowd: Crowd) -> Outcome {
    let outcome = run(server, ask, crowd);
    assert!(outcome.failed.is_empty(), "{ask:?}: {:?}", outcome.failed);
    assert!(outcome.latency.max() >= outcome.latency.at(0.5) && outcome.latency.at(0.5) > Duration::ZERO);
    outcome
}

#[test]
fn what_it_puts_is_stored_and_what_it_ranges_is_found() {
    for server in both() {
        let keys = Keys::in_order(100);
        let value = 300;
        run_well(&server, &Ask::Put { keys, value }, CROWD);
        let stored = server.client().call(&everything());
        assert_eq!((stored.kvs.len(), stored.revision()), (100, 501));
        for (n, kv) in (0..).zip(&stored.kvs) {
            assert_eq!((&kv.key, &kv.value, kv.version), (&keys.name(n), &filler(value), 5));
        }
        run_well(&server, &Ask::TxnPut { keys: Keys { size: 30, ..keys }, value: 7 }, CROWD);
        assert_eq!(server.client().call(&RangeRequest { count_only: true, ..everything() }).count, 200);
        for serializable in [false, true] {
            run_well(&server, &Ask::Range { keys: Keys::at_random(100), value, serializable }, CROWD);
        }
        let absent = run(&server, &Ask::Range { keys: Keys::at_random(1000), value, serializable: false }, CROWD);
        assert!(absent.failed["an answer without what was asked for"] > 300, "{:?}", absent.failed);
    }
}

#[test]
fn a_refused_call_is_no_success() {
    let twice = then(vec![put("k", "1").op(), put("k", "2").op()]);
    let bad_sort = RangeRequest { sort_order: 7, ..range("a", "b") };
    let absent = bramble::pb::etcdserverpb::LeaseRevokeRequest { id: 7 };
    let refused = [
        (Ask::Raw { path: bramble::pb::etcdserverpb::TxnRequest::PATH, message: twice.encode_to_vec() }, "grpc-status 3"),
        (Ask::Raw { path: RangeRequest::PATH, message: bad_sort.encode_to_vec() }, "grpc-status 3"),
        (
            Ask::Raw { path: bramble::pb::etcdserverpb::LeaseRevokeRequest::PATH, message: absent.encode_to_vec() },
            "grpc-status 5",
        ),
        (Ask::Raw { path: "/etcdserverpb.KV/Nonsense", message: Vec::new() }, "grpc-status 12"),
        // Accepted by the server: what the counts are held against.
        (Ask::Raw { path: RangeRequest::PATH, message: key("a").encode_to_vec() }, ""),
    ];
    for server in both() {
        for (ask, why) in &refused {
            let outcome = run(&server, ask, CROWD);
            let failed: Vec<(&str, u64)> = outcome.failed.iter().map(|(why, count)| (why.as_str(), *count)).collect();
            let expected = if why.is_empty() { vec![] } else { vec![(*why, CROWD.total)] };
            assert_eq!(failed, expected, "{ask:?}");
        }
    }
}

#[test]
fn windows_are_kept_and_opened_in_both_directions() {
    // On one connection: more than any server's first window at once, and more than our own in all.
    let crowd = Crowd { connections: 1, clients: 8, total: 24, rate: None };
    for server in both() {
        let (keys, value) = (Keys::in_order(4), 1_200_000);
        run_well(&server, &Ask::Put { keys, value }, crowd);
        assert_eq!(server.client().call(&key(keys.name(3))).kvs[0].value, filler(value));
        run_well(&server, &Ask::Range { keys, value, serializable: false }, crowd);
        // Many small messages on streams that stay.
        run_well(&server, &Ask::Grant { ttl_secs: 60 }, Crowd { total: 8, ..crowd });
        run_well(&server, &Ask::KeepAlive { leases: 8, once: false }, Crowd { total: 9_000, ..crowd });
    }
}

#[test]
fn keepalives_are_answered_on_streams_that_end_and_on_streams_that_stay() {
    for server in both() {
        run_well(&server, &Ask::Grant { ttl_secs: 60 }, Crowd { total: 50, ..CROWD });
        for once in [true, false] {
            run_well(&server, &Ask::KeepAlive { leases: 50, once }, CROWD);
        }
    }
}

#[test]
fn every_watch_is_created_and_every_event_is_counted() {
    for server in both() {
        let watches = Watches { connections: 2, streams: 5, watches: 7, keys: Keys::in_order(3) };
        let (mut watchers, created) = Watchers::create(server.addr(), watches).unwrap();
        assert_eq!(created.latency.count(), 35);
        for rate in [None, Some(500.0)] {
            let puts = Puts { connections: 2, clients: 4, total: 100, rate, value: 64 };
            let delivered = watchers.deliver(server.addr(), &puts).unwrap();
            // 35 watches on 3 keys: 12, 12 and 11; 100 puts: 34, 33 and 33.
            assert_eq!(delivered.events, 12 * 34 + 12 * 33 + 11 * 33);
            assert_eq!((delivered.latency.count(), delivered.puts.latency.count()), (delivered.events, 100));
            assert!(delivered.puts.failed.is_empty());
        }
    }
}

#[test]
fn a_paced_load_keeps_its_pace() {
    let server = Canned::start(b"");
    let crowd = Crowd { total: 200, rate: Some(1000.0), ..CROWD };
    let outcome =
        Session::open(server.addr(), &Ask::Put { keys: Keys::in_order(1), value: 1 }, crowd).and_then(Session::run).unwrap();
    assert_eq!(outcome.latency.count(), 200);
    assert!(outcome.took >= Duration::from_millis(199), "the last begins 199 ms after the first");
}
