//! Compaction.

use bramble::pb::etcdserverpb::{CompactionRequest, HashKvRequest, RangeRequest};

use crate::support::Server;
use crate::support::requests::{Revision, Watch, compact, delete, everything, key, put, watch_prefix};

#[test]
fn a_fresh_store_may_be_compacted_at_zero_once() {
    let server = Server::start();
    let client = server.client();
    assert_eq!(client.call(&compact(0)).revision(), 1);
    assert_eq!(client.fail(&compact(0)).message, "etcdserver: mvcc: required revision has been compacted");
    client.call(&compact(1));
}

#[test]
fn compaction_keeps_the_newest_version_of_what_lives() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    client.call(&put("a", "2"));
    client.call(&put("b", "1"));
    client.call(&delete("b"));
    client.call(&put("c", "1"));
    client.call(&compact(5));
    let reply = client.call(&RangeRequest { revision: 5, ..everything() });
    assert_eq!(reply.kvs.len(), 1);
    assert_eq!((reply.kvs[0].value.as_ref(), reply.kvs[0].version), (&b"2"[..], 2));
    assert_eq!(client.call(&everything()).count, 2);
}

#[test]
fn the_revision_survives_the_compaction_of_every_key() {
    let mut server = Server::start();
    let client = server.client();
    for _ in 0..5 {
        client.call(&put("a", ""));
        client.call(&delete("a"));
    }
    client.call(&compact(11));
    assert_eq!(client.call(&everything()).revision(), 11);
    server.kill();
    server.restart();
    let client = server.client();
    assert_eq!(client.call(&everything()).revision(), 11);
    assert_eq!(client.call(&put("a", "")).revision(), 12);
    assert_eq!(
        client.fail(&RangeRequest { revision: 10, ..key("a") }).message,
        "etcdserver: mvcc: required revision has been compacted"
    );
}

#[test]
fn a_deletion_at_the_compacted_revision_is_still_told() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    client.call(&put("b", "1"));
    client.call(&delete("a"));
    client.call(&compact(4));
    let mut watch = Watch::open(&client);
    watch.create(bramble::pb::etcdserverpb::WatchCreateRequest { start_revision: 4, ..watch_prefix("a") });
    let events = watch.events().events;
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].r#type, events[0].kv.as_ref().unwrap().mod_revision), (1, 4));
}

#[test]
fn a_logical_compaction_hides_at_once() {
    let server = Server::start();
    let client = server.client();
    for i in 0..100 {
        client.call(&put("a", i.to_string()));
    }
    client.call(&CompactionRequest { revision: 50, physical: false });
    client.fail(&RangeRequest { revision: 49, ..key("a") });
    assert_eq!(client.call(&RangeRequest { revision: 50, ..key("a") }).kvs[0].value, "48");
}

#[test]
fn the_hash_tells_history_and_compaction() {
    let server = Server::start();
    let client = server.client();
    for i in 0..20 {
        client.call(&put(format!("k{}", i % 4), i.to_string()));
    }
    let hash = |revision| client.call(&HashKvRequest { revision });
    assert_eq!(hash(0).hash, hash(21).hash, "zero is the current revision");
    assert_ne!(hash(20).hash, hash(21).hash);
    assert_eq!((hash(0).compact_revision, hash(0).hash_revision), (-1, 21));
    let before = hash(15);
    client.call(&compact(10));
    let after = hash(15);
    assert_ne!(before.hash, after.hash, "what is compacted is not hashed");
    assert_eq!((after.compact_revision, after.hash_revision), (10, 15));
    assert_eq!(hash(15).hash, after.hash);
}
