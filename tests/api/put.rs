//! Put and DeleteRange.

use bramble::pb::etcdserverpb::{DeleteRangeRequest, LeaseTimeToLiveRequest, PutRequest};

use crate::support::Server;
use crate::support::requests::{Revision, delete, delete_range, everything, grant, key, put, put_leased};

#[test]
fn a_put_counts_versions_until_the_key_is_deleted() {
    let server = Server::start();
    let client = server.client();
    let facts = |create, modified, version| {
        let kv = client.call(&key("a")).kvs[0].clone();
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (create, modified, version));
    };
    assert_eq!(client.call(&put("a", "1")).revision(), 2);
    facts(2, 2, 1);
    assert_eq!(client.call(&put("a", "1")).revision(), 3, "the same value is a new revision too");
    facts(2, 3, 2);
    client.call(&delete("a"));
    client.call(&put("a", "1"));
    facts(5, 5, 1);
}

#[test]
fn previous_values_are_told_if_asked_for_and_there() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    let asking = |value| PutRequest { prev_kv: true, ..put("a", value) };
    assert_eq!(client.call(&asking("1")).prev_kv, None);
    client.call(&put_leased("a", "2", 7));
    let previous = client.call(&asking("3")).prev_kv.unwrap();
    assert_eq!((previous.value.as_ref(), previous.version, previous.mod_revision, previous.lease), (&b"2"[..], 2, 3, 7));
    assert_eq!(client.call(&put("a", "4")).prev_kv, None);
    client.call(&put("b", "1"));
    let gone = client.call(&DeleteRangeRequest { prev_kv: true, ..delete_range("a", "c") });
    let previous: Vec<_> = gone.prev_kvs.iter().map(|kv| (kv.key.as_ref(), kv.value.as_ref())).collect();
    assert_eq!(previous, [(&b"a"[..], &b"4"[..]), (b"b", b"1")], "in key order");
    assert_eq!(client.call(&delete_range("a", "c")).prev_kvs, []);
}

#[test]
fn a_put_may_leave_the_value_or_the_lease_as_it_is() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    client.call(&grant(600, 8));
    client.call(&put_leased("a", "1", 7));
    client.call(&PutRequest { ignore_lease: true, ..put("a", "2") });
    let kv = client.call(&key("a")).kvs[0].clone();
    assert_eq!((kv.value.as_ref(), kv.lease, kv.version), (&b"2"[..], 7, 2));
    client.call(&PutRequest { ignore_value: true, ..put_leased("a", "", 8) });
    let kv = client.call(&key("a")).kvs[0].clone();
    assert_eq!((kv.value.as_ref(), kv.lease, kv.version), (&b"2"[..], 8, 3));
    client.call(&PutRequest { ignore_value: true, ..put("a", "") });
    let kv = client.call(&key("a")).kvs[0].clone();
    assert_eq!((kv.value.as_ref(), kv.lease), (&b"2"[..], 0), "a put without a lease takes the key out of it");
    let keys = |id| client.call(&LeaseTimeToLiveRequest { id, keys: true }).keys.len();
    assert_eq!((keys(7), keys(8)), (0, 0));
}

#[test]
fn a_deletion_is_one_revision_and_none_if_nothing_is_there() {
    let server = Server::start();
    let client = server.client();
    for name in ["a", "b", "c", "d"] {
        client.call(&put(name, ""));
    }
    let nothing = client.call(&delete("missing"));
    assert_eq!((nothing.deleted, nothing.revision()), (0, 5));
    let inverted = client.call(&delete_range("c", "a"));
    assert_eq!((inverted.deleted, inverted.revision()), (0, 5));
    let three = client.call(&delete_range("b", "\0"));
    assert_eq!((three.deleted, three.revision()), (3, 6));
    let one = client.call(&delete("a"));
    assert_eq!((one.deleted, one.revision()), (1, 7));
    assert_eq!(client.call(&delete_range("\0", "\0")).deleted, 0);
    assert_eq!(client.call(&everything()).revision(), 7);
}

/// Flash wears by the page. A put is a frame of some hundred bytes in a file that is there already; what it makes the kernel write
/// is the page with the frame, and now and then the next one.
#[test]
fn a_small_put_dirties_few_pages() {
    const PUTS: u64 = 100;
    let server = Server::start();
    let client = server.client();
    let written = || -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
    };
    client.call(&put("first", "x".repeat(400)));
    let before = written();
    for _ in 0..PUTS {
        client.call(&put("k", "x".repeat(400)));
    }
    let each = (written() - before) / PUTS;
    assert!(each <= 16 * 1024, "{each} bytes for each put of 400");
}
