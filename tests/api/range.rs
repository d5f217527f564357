//! Range: which keys, in which order, at which revision.

use bramble::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use bramble::pb::etcdserverpb::{RangeRequest, RangeResponse};

use crate::support::requests::{Revision, bytes, compact, delete, everything, grant, key, prefix, put, put_leased, range};
use crate::support::{Client, Server};

fn names(reply: &RangeResponse) -> Vec<String> {
    reply.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

#[test]
fn a_fresh_store_is_at_revision_one() {
    let server = Server::start();
    let reply = server.client().call(&everything());
    assert_eq!(reply.revision(), 1);
    assert_eq!((reply.kvs.len(), reply.count, reply.more), (0, 0, false));
    let header = reply.header.unwrap();
    assert_ne!(header.cluster_id, 0);
    assert_ne!(header.member_id, 0);
    assert_ne!(header.raft_term, 0);
}

#[test]
fn a_range_end_is_exclusive_and_a_zero_byte_is_open() {
    let server = Server::start();
    let client = server.client();
    for name in ["a", "a\0", "ab", "b", "c", "\u{7f}"] {
        client.call(&put(name, ""));
    }
    client.call(&put([0xff, 0xff], ""));
    assert_eq!(names(&client.call(&key("a"))), ["a"]);
    assert_eq!(names(&client.call(&range("a", "b"))), ["a", "a\0", "ab"]);
    assert_eq!(names(&client.call(&prefix("a"))), ["a", "a\0", "ab"]);
    assert_eq!(names(&client.call(&range("a", "a\0"))), ["a"]);
    assert_eq!(client.call(&range("b", "\0")).count, 4);
    assert_eq!(client.call(&everything()).count, 7);
    assert_eq!(client.call(&range(b"\0", "c")).count, 4);
    assert_eq!(client.call(&range([0xff], b"\0")).count, 1);
    for (from, to) in [("b", "b"), ("c", "a"), ("b", "a\0")] {
        let empty = client.call(&range(from, to));
        assert_eq!((empty.kvs.len(), empty.count, empty.more), (0, 0, false), "{from:?}..{to:?}");
    }
}

#[test]
fn more_and_count_tell_what_a_limit_has_left_out() {
    let server = Server::start();
    let client = server.client();
    for i in 0..10 {
        client.call(&put(format!("k{i}"), ""));
    }
    for (limit, returned, more) in [(0, 10, false), (-1, 10, false), (1, 1, true), (9, 9, true), (10, 10, false), (11, 10, false)]
    {
        let reply = client.call(&RangeRequest { limit, ..prefix("k") });
        assert_eq!((reply.kvs.len(), reply.more, reply.count), (returned, more, 10), "limit {limit}");
    }
    let count = client.call(&RangeRequest { count_only: true, limit: 2, min_mod_revision: 100, ..prefix("k") });
    assert_eq!((count.kvs.len(), count.count, count.more), (0, 10, false), "count_only knows neither limit nor filter");
}

#[test]
fn filters_cut_the_answer_but_not_the_count() {
    let server = Server::start();
    let client = server.client();
    for name in ["k1", "k2", "k3", "k4"] {
        client.call(&put(name, ""));
    }
    client.call(&put("k1", "again"));
    type Filter = fn(RangeRequest) -> RangeRequest;
    let cases: [(Filter, &[&str]); 5] = [
        (|r| RangeRequest { min_mod_revision: 4, ..r }, &["k1", "k3", "k4"]),
        (|r| RangeRequest { max_mod_revision: 4, ..r }, &["k2", "k3"]),
        (|r| RangeRequest { min_create_revision: 3, ..r }, &["k2", "k3", "k4"]),
        (|r| RangeRequest { max_create_revision: 3, ..r }, &["k1", "k2"]),
        (|r| RangeRequest { min_mod_revision: 4, max_create_revision: 4, ..r }, &["k1", "k3"]),
    ];
    for (filter, expected) in cases {
        let reply = client.call(&filter(prefix("k")));
        assert_eq!(names(&reply), expected);
        assert_eq!((reply.count, reply.more), (4, false));
    }
    let cut = client.call(&RangeRequest { min_mod_revision: 4, limit: 1, ..prefix("k") });
    assert_eq!((names(&cut), cut.more, cut.count), (vec!["k1".to_owned()], true, 4));
}

fn sorted(client: &Client, target: SortTarget, order: SortOrder, limit: i64) -> Vec<String> {
    let reply = client.call(&RangeRequest { sort_target: target as i32, sort_order: order as i32, limit, ..prefix("k") });
    names(&reply)
}

#[test]
fn sorting_is_by_any_column_in_both_directions() {
    let server = Server::start();
    let client = server.client();
    for (name, value) in [("k2", "a"), ("k1", "d"), ("k3", "b"), ("k1", "c"), ("k1", "c"), ("k3", "b")] {
        client.call(&put(name, value));
    }
    use SortOrder::{Ascend, Descend, None};
    use SortTarget::{Create, Key, Mod, Value, Version};
    for (target, ascending) in [
        (Key, ["k1", "k2", "k3"]),
        (Version, ["k2", "k3", "k1"]),
        (Create, ["k2", "k1", "k3"]),
        (Mod, ["k2", "k1", "k3"]),
        (Value, ["k2", "k3", "k1"]),
    ] {
        let descending: Vec<&str> = ascending.iter().rev().copied().collect();
        assert_eq!(sorted(&client, target, Ascend, 0), ascending, "{target:?}");
        assert_eq!(sorted(&client, target, None, 0), ascending, "{target:?}");
        assert_eq!(sorted(&client, target, Descend, 0), descending, "{target:?}");
        assert_eq!(sorted(&client, target, Ascend, 2), ascending[..2], "{target:?} with a limit is the top of all");
        assert_eq!(sorted(&client, target, Descend, 1), descending[..1], "{target:?} with a limit is the top of all");
    }
}

#[test]
fn a_limit_without_an_order_is_applied_before_sorting() {
    let server = Server::start();
    let client = server.client();
    for name in ["k3", "k4", "k2", "k1"] {
        client.call(&put(name, ""));
    }
    assert_eq!(sorted(&client, SortTarget::Mod, SortOrder::None, 2), ["k3", "k2"], "of k1, k2, k3 the two oldest");
    assert_eq!(sorted(&client, SortTarget::Mod, SortOrder::Ascend, 2), ["k3", "k4"]);
}

#[test]
fn keys_only_leaves_out_values_and_leases() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    client.call(&put_leased("k", "value", 7));
    let full = client.call(&key("k")).kvs[0].clone();
    assert_eq!((full.value.as_ref(), full.lease), (&b"value"[..], 7));
    let bare = client.call(&RangeRequest { keys_only: true, ..key("k") }).kvs[0].clone();
    assert_eq!((bare.value.len(), bare.lease), (0, 0), "keys come from the index, which knows no leases");
    assert_eq!((bare.create_revision, bare.mod_revision, bare.version), (2, 2, 1));
    let by_value =
        RangeRequest { keys_only: true, sort_target: SortTarget::Value as i32, sort_order: SortOrder::Ascend as i32, ..key("k") };
    let sorted = client.call(&by_value).kvs[0].clone();
    assert_eq!((sorted.value.len(), sorted.lease), (0, 7), "unless they are sorted by value");
}

#[test]
fn old_revisions_stay_readable_until_compacted() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    client.call(&put("b", "1"));
    client.call(&put("a", "2"));
    client.call(&delete("b"));
    client.call(&put("b", "3"));
    let at = |revision| {
        let reply = client.call(&RangeRequest { revision, ..everything() });
        assert_eq!(reply.revision(), 6, "a header tells the current revision, whichever was asked for");
        reply.kvs.iter().map(|kv| (kv.key[0] as char, kv.value[0] as char, kv.version)).collect::<Vec<_>>()
    };
    assert_eq!(at(1), []);
    assert_eq!(at(2), [('a', '1', 1)]);
    assert_eq!(at(3), [('a', '1', 1), ('b', '1', 1)]);
    assert_eq!(at(4), [('a', '2', 2), ('b', '1', 1)]);
    assert_eq!(at(5), [('a', '2', 2)]);
    assert_eq!(at(6), [('a', '2', 2), ('b', '3', 1)]);
    assert_eq!(at(0), at(6));
    assert_eq!(at(-1), at(6), "a negative revision is the latest");
    client.call(&compact(4));
    assert_eq!(at(4), [('a', '2', 2), ('b', '1', 1)], "the compacted revision itself stays");
}

#[test]
fn a_count_at_an_old_revision_is_of_that_revision() {
    let server = Server::start();
    let client = server.client();
    for i in 0..5 {
        client.call(&put(format!("k{i}"), ""));
    }
    client.call(&delete("k0"));
    let count = |revision| client.call(&RangeRequest { revision, count_only: true, ..prefix("k") }).count;
    assert_eq!([count(0), count(6), count(4), count(1)], [4, 5, 3, 0]);
    let page = client.call(&RangeRequest { revision: 6, limit: 2, ..range("k1", "l") });
    assert_eq!((page.count, page.more), (4, true), "a page counts from its first key");
}

#[test]
fn keys_and_values_are_any_bytes() {
    let server = Server::start();
    let client = server.client();
    let all: Vec<u8> = (0..=255).collect();
    client.call(&put(&all, &all));
    let kv = client.call(&key(&all)).kvs[0].clone();
    assert_eq!((kv.key, kv.value), (bytes(&all), bytes(&all)));
    client.call(&put("empty", ""));
    assert_eq!(client.call(&key("empty")).kvs[0].value.len(), 0);
    for length in [511, 512, 2_000, 65_536, 1_000_000] {
        let long = vec![b'k'; length];
        client.call(&put(&long, "v"));
        assert_eq!(client.call(&key(&long)).kvs[0].key.len(), length);
    }
}

#[test]
fn a_serializable_read_sees_what_was_acknowledged_here() {
    let server = Server::start();
    let client = server.client();
    for i in 0..50 {
        client.call(&put("a", i.to_string()));
        let reply = client.call(&RangeRequest { serializable: true, ..key("a") });
        assert_eq!(reply.kvs[0].value, i.to_string());
    }
}
