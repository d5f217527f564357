//! Watches: every rule of contracts §4.6. Silence is never waited for: something else is asked afterwards, and has to be the next answer.

use bramble::pb::etcdserverpb::watch_create_request::FilterType;
use bramble::pb::etcdserverpb::{LeaseRevokeRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use bramble::pb::mvccpb::Event;

use crate::support::requests::{
    IntoOp, Revision, Watch, bytes, compact, delete, delete_range, everything, grant, prefix_end, put, put_leased, then, watch,
    watch_prefix,
};
use crate::support::{Client, Server};

const PUT: i32 = 0;
const DELETE: i32 = 1;
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

fn from(start_revision: i64, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..request }
}

/// Type, key and revision of each event.
fn facts(events: &[Event]) -> Vec<(i32, String, i64)> {
    events
        .iter()
        .map(|event| {
            let kv = event.kv.as_ref().expect("an event has a key");
            (event.r#type, String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision)
        })
        .collect()
}

fn fact(kind: i32, key: &str, revision: i64) -> (i32, String, i64) {
    (kind, key.to_owned(), revision)
}

/// The next `count` events of one watch, in whatever answers they come.
#[track_caller]
fn take(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(watch.events().events);
    }
    assert_eq!(events.len(), count, "more events than expected: {events:?}");
    events
}

#[track_caller]
fn is_refused(reply: &WatchResponse, reason: &str) {
    assert_eq!(
        (reply.watch_id, reply.created, reply.canceled, reply.cancel_reason.as_str()),
        (-1, true, true, reason),
        "{reply:?}"
    );
}

#[test]
fn a_watch_without_a_start_begins_after_the_present() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    let mut watch = Watch::open(&client);
    watch.ask(self::watch("a"));
    let created = watch.recv();
    assert_eq!((created.created, created.watch_id, created.revision()), (true, 0, 2));
    let header = created.header.unwrap();
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    client.call(&put("a", "2"));
    let reply = watch.events();
    assert_eq!(facts(&reply.events), [fact(PUT, "a", 3)]);
    assert_eq!((reply.watch_id, reply.revision()), (0, 3));
    let kv = reply.events[0].kv.clone().unwrap();
    assert_eq!((kv.value.as_ref(), kv.create_revision, kv.version), (&b"2"[..], 2, 2));
}

#[test]
fn ids_count_up_and_skip_those_that_clients_chose() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    assert_eq!(watch.create(self::watch("a")), 0);
    assert_eq!(watch.create(WatchCreateRequest { watch_id: 2, ..self::watch("b") }), 2);
    assert_eq!(watch.create(self::watch("c")), 1);
    assert_eq!(watch.create(self::watch("d")), 3);
    watch.ask(WatchCreateRequest { watch_id: 2, ..self::watch("e") });
    is_refused(&watch.recv(), "mvcc: duplicate watch ID provided on the WatchStream");
    assert_eq!(Watch::open(&client).create(self::watch("a")), 0, "each stream counts for itself");
    client.call(&put("b", ""));
    assert_eq!(watch.events().watch_id, 2, "the first owner of an id keeps it");
}

#[test]
fn an_empty_key_is_the_first_key_and_a_zero_end_is_open() {
    let server = Server::start();
    let client = server.client();
    for (key, range_end, names) in
        [("", "\0", ["a", "b", "c"]), ("b", "\0", ["b", "c", "d"]), ("\0", "\0", ["a", "b", "c"]), ("", "b", ["a", "a0", "a1"])]
    {
        let mut watch = Watch::open(&client);
        watch.create(WatchCreateRequest { key: bytes(key), range_end: bytes(range_end), ..Default::default() });
        for name in names {
            client.call(&put(name, ""));
            assert_eq!(facts(&watch.events().events)[0].1, name, "{key:?}..{range_end:?}");
        }
    }
}

#[test]
fn an_empty_range_is_refused() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    for (key, end) in [("b", "a"), ("b", "b")] {
        watch.ask(WatchCreateRequest { range_end: bytes(end), ..self::watch(key) });
        is_refused(&watch.recv(), "mvcc: watcher range is empty");
    }
    assert_eq!(watch.create(self::watch("a")), 0, "the stream lives on");
}

#[test]
fn a_negative_start_is_refused_as_compacted() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    watch.ask(from(-1, self::watch("a")));
    is_refused(&watch.recv(), COMPACTED);
}

#[test]
fn a_compacted_start_is_created_and_then_cancelled() {
    let server = Server::start();
    let client = server.client();
    for i in 0..9 {
        client.call(&put("a", i.to_string()));
    }
    client.call(&compact(6));
    let mut watch = Watch::open(&client);
    let id = watch.create(from(5, self::watch("a")));
    let canceled = watch.recv();
    assert_eq!((canceled.watch_id, canceled.created, canceled.canceled, canceled.compact_revision), (id, false, true, 6));
    assert_eq!((canceled.revision(), canceled.events.len(), canceled.cancel_reason.as_str()), (0, 0, ""));
    watch.create(from(6, self::watch("a")));
    let events = take(&mut watch, 5);
    assert_eq!(facts(&events)[0], fact(PUT, "a", 6), "the compacted revision itself is still told");
}

#[test]
fn nothing_earlier_than_a_future_start_is_told() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    watch.create(from(4, self::watch("a")));
    for i in 0..4 {
        client.call(&put("a", i.to_string()));
    }
    let events = take(&mut watch, 2);
    assert_eq!(facts(&events), [fact(PUT, "a", 4), fact(PUT, "a", 5)]);
}

#[test]
fn history_is_told_in_order_and_meets_the_present_without_a_gap() {
    let server = Server::start();
    let client = server.client();
    const HISTORY: i64 = 3_000;
    for chunk in 0..HISTORY / 100 {
        for i in 0..100 {
            client.call(&put(format!("k{}", i % 7), (chunk * 100 + i).to_string()));
        }
    }
    let writer = {
        let client = server.client();
        std::thread::spawn(move || {
            for i in 0..500 {
                client.call(&put(format!("k{}", i % 7), "live"));
            }
        })
    };
    let mut watch = Watch::open(&client);
    watch.create(from(2, watch_prefix("k")));
    let mut expected = 2;
    while expected < 2 + HISTORY + 500 {
        let reply = watch.events();
        for event in &reply.events {
            assert_eq!(event.kv.as_ref().unwrap().mod_revision, expected, "no gap, no double, no disorder");
            expected += 1;
        }
        assert!(reply.revision() >= expected - 1, "a header is not behind its events");
    }
    writer.join().unwrap();
}

#[test]
fn events_of_one_revision_come_in_one_answer_in_their_order() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    watch.create(watch_prefix("k"));
    client.call(&then(vec![put("k3", "").op(), put("k1", "").op(), put("other", "").op(), put("k2", "").op()]));
    assert_eq!(facts(&watch.events().events), [fact(PUT, "k3", 2), fact(PUT, "k1", 2), fact(PUT, "k2", 2)]);
    client.call(&delete_range("k", "l"));
    let events = watch.events().events;
    assert_eq!(facts(&events), [fact(DELETE, "k1", 3), fact(DELETE, "k2", 3), fact(DELETE, "k3", 3)], "deletions in key order");
    let kv = events[0].kv.clone().unwrap();
    assert_eq!(
        (kv.create_revision, kv.version, kv.value.len(), kv.lease),
        (0, 0, 0, 0),
        "a deletion has a key and a revision only"
    );
}

#[test]
fn filters_leave_out_puts_or_deletions() {
    let server = Server::start();
    let client = server.client();
    let with = |filters: &[FilterType]| WatchCreateRequest {
        filters: filters.iter().map(|filter| *filter as i32).collect(),
        ..self::watch("a")
    };
    let mut no_put = Watch::open(&client);
    no_put.create(with(&[FilterType::Noput]));
    let mut no_delete = Watch::open(&client);
    no_delete.create(with(&[FilterType::Nodelete]));
    for _ in 0..2 {
        client.call(&put("a", ""));
        client.call(&delete("a"));
    }
    assert_eq!(facts(&take(&mut no_put, 2)), [fact(DELETE, "a", 3), fact(DELETE, "a", 5)]);
    assert_eq!(facts(&take(&mut no_delete, 2)), [fact(PUT, "a", 2), fact(PUT, "a", 4)]);
    let mut past = Watch::open(&client);
    past.create(from(1, with(&[FilterType::Noput])));
    assert_eq!(facts(&take(&mut past, 2)), [fact(DELETE, "a", 3), fact(DELETE, "a", 5)], "in history too");
}

#[test]
fn previous_values_come_with_events_if_asked_for() {
    let server = Server::start();
    let client = server.client();
    let asking = || WatchCreateRequest { prev_kv: true, ..self::watch("a") };
    let mut live = Watch::open(&client);
    live.create(asking());
    client.call(&put("a", "1"));
    client.call(&put("a", "2"));
    client.call(&delete("a"));
    client.call(&put("a", "3"));
    let previous = |events: &[Event]| -> Vec<Option<(String, i64)>> {
        let told = |event: &Event| event.prev_kv.as_ref().map(|kv| (String::from_utf8_lossy(&kv.value).into_owned(), kv.version));
        events.iter().map(told).collect()
    };
    let expected = [None, Some(("1".to_owned(), 1)), Some(("2".to_owned(), 2)), None];
    assert_eq!(previous(&take(&mut live, 4)), expected);
    let mut past = Watch::open(&client);
    past.create(from(2, asking()));
    assert_eq!(previous(&take(&mut past, 4)), expected, "from history too");
    let mut again = Watch::open(&client);
    again.create(asking());
    // An open end is the one form of a delete that a put beside it may hit.
    client.call(&then(vec![delete_range("a", "\0").op(), put("a", "4").op()]));
    assert_eq!(previous(&take(&mut again, 2)), [Some(("3".to_owned(), 1)), None], "a key that is created anew has none");
    let mut anew = Watch::open(&client);
    anew.create(from(6, asking()));
    assert_eq!(previous(&take(&mut anew, 2)), [Some(("3".to_owned(), 1)), None], "from history too");
    let mut silent = Watch::open(&client);
    silent.create(from(2, self::watch("a")));
    assert_eq!(previous(&take(&mut silent, 6)), [None, None, None, None, None, None], "only if asked for");
    client.call(&compact(3));
    let mut compacted = Watch::open(&client);
    compacted.create(from(3, asking()));
    assert_eq!(previous(&take(&mut compacted, 5))[0], None, "what is compacted cannot be told");
}

#[test]
fn a_cancelled_watch_is_told_so_and_is_silent_afterwards() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    let first = watch.create(self::watch("a"));
    let second = watch.create(self::watch("a"));
    watch.cancel(first);
    let reply = watch.recv();
    assert_eq!((reply.watch_id, reply.canceled, reply.created, reply.compact_revision), (first, true, false, 0));
    client.call(&put("a", ""));
    assert_eq!(watch.events().watch_id, second);
    watch.cancel(first);
    watch.cancel(99);
    watch.cancel(second);
    let reply = watch.recv();
    assert_eq!((reply.watch_id, reply.canceled), (second, true), "cancelling what is not there is not answered");
}

#[test]
fn an_empty_request_is_passed_over() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    watch.stream.send(&WatchRequest { request_union: None });
    assert_eq!(watch.create(self::watch("a")), 0);
}

#[test]
fn closing_the_sending_half_does_not_end_the_watch() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    watch.create(self::watch("a"));
    watch.stream.close_send();
    client.call(&put("a", "1"));
    assert_eq!(facts(&watch.events().events), [fact(PUT, "a", 2)]);
}

#[test]
fn one_stream_carries_many_watches_and_they_know_their_own() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    for i in 0..100 {
        assert_eq!(watch.create(self::watch(format!("k{i}"))), i);
    }
    for i in [42, 7, 99, 0] {
        client.call(&put(format!("k{i}"), ""));
        let reply = watch.events();
        assert_eq!((reply.watch_id, reply.events.len()), (i, 1));
    }
    let all = watch.create(watch_prefix("k"));
    client.call(&put("k42", ""));
    let mut ids = [watch.events().watch_id, watch.events().watch_id];
    ids.sort_unstable();
    assert_eq!(ids, [42, all]);
}

#[test]
fn progress_is_told_at_intervals_if_asked_for() {
    let server = Server::builder().flag("--watch-progress-notify-interval=200ms").start();
    let client = server.client();
    client.call(&put("a", ""));
    let mut watch = Watch::open(&client);
    let quiet = watch.create(self::watch("a"));
    let id = watch.create(WatchCreateRequest { progress_notify: true, ..self::watch("b") });
    assert_ne!(quiet, id);
    for _ in 0..2 {
        let reply = watch.recv();
        assert_eq!((reply.watch_id, reply.events.len(), reply.created, reply.canceled), (id, 0, false, false));
        assert_eq!(reply.revision(), 2);
    }
    client.call(&put("unrelated", ""));
    let progress = loop {
        let reply = watch.recv();
        if reply.revision() > 2 {
            break reply;
        }
    };
    assert_eq!((progress.watch_id, progress.revision()), (id, 3), "progress goes on without events");
}

#[test]
fn progress_is_told_when_asked_and_never_ahead_of_events() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    watch.create(watch_prefix("k"));
    let mut seen = 1;
    for round in 0..50 {
        let last = (0..5).map(|i| client.call(&put(format!("k{i}"), round.to_string())).revision()).max().unwrap();
        watch.ask_progress();
        loop {
            let reply = watch.recv();
            if reply.watch_id == -1 {
                assert!(reply.events.is_empty() && !reply.created && !reply.canceled, "{reply:?}");
                assert_eq!(reply.revision(), seen, "every event up to the progress has been told before it");
                if seen == last {
                    break;
                }
                watch.ask_progress();
            } else {
                seen = reply.events.last().unwrap().kv.as_ref().unwrap().mod_revision;
            }
        }
    }
}

#[test]
fn a_stream_without_watches_is_told_no_progress() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    watch.ask_progress();
    assert_eq!(watch.create(self::watch("a")), 0, "the first answer is that of the creation");
}

#[test]
fn progress_is_not_told_before_a_future_start() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    watch.create(from(5, self::watch("a")));
    watch.ask_progress();
    let other = watch.create(self::watch("b"));
    client.call(&put("b", ""));
    let reply = watch.recv();
    assert_eq!((reply.watch_id, reply.events.len()), (other, 1), "no progress was told: {reply:?}");
}

#[test]
fn a_fragmented_answer_joins_to_the_whole() {
    let server = Server::start();
    let client = server.client();
    let big = vec![b'x'; 1_000_000];
    for i in 0..5 {
        client.call(&put(format!("k{i}"), &big));
    }
    client.call(&delete_range("k", "l"));
    let asking = |fragment| WatchCreateRequest { fragment, prev_kv: true, ..from(7, watch_prefix("k")) };
    let mut whole = Watch::open(&client);
    whole.create(asking(false));
    let reply = whole.events();
    assert_eq!((reply.events.len(), reply.fragment), (5, false), "one revision is one answer, however large");
    let mut parts = Watch::open(&client);
    parts.create(asking(true));
    let mut joined = Vec::new();
    let mut pieces = 0;
    loop {
        let part = parts.events();
        joined.extend(part.events);
        pieces += 1;
        if !part.fragment {
            break;
        }
    }
    assert!(pieces > 1, "5 MB in one piece");
    assert_eq!(joined, reply.events);
}

#[test]
fn a_slow_reader_blocks_nobody_and_loses_nothing() {
    let server = Server::start();
    let client = server.client();
    let slow_client = Client::connect_with_window(&server.target(), 16_384).unwrap();
    let mut slow = Watch::open(&slow_client);
    slow.create(watch_prefix("k"));
    let mut quick = Watch::open(&client);
    quick.create(watch_prefix("k"));
    const COUNT: i64 = 600;
    let value = vec![b'x'; 20_000];
    for i in 0..COUNT {
        client.call(&put(format!("k{}", i % 3), &value));
        assert_eq!(facts(&take(&mut quick, 1))[0].2, i + 2, "while the slow one reads nothing");
    }
    let mut expected = 2;
    while expected < COUNT + 2 {
        for event in slow.events().events {
            assert_eq!(event.kv.unwrap().mod_revision, expected);
            expected += 1;
        }
    }
}

#[test]
fn a_slow_readers_other_calls_go_on() {
    let server = Server::start();
    let client = server.client();
    let mut unread = Watch::open(&client);
    unread.create(watch_prefix("k"));
    for i in 0..100 {
        client.call(&put(format!("k{i}"), vec![b'x'; 300_000]));
    }
    assert_eq!(client.call(&everything()).count, 100, "30 MB of unread events leave the connection's other calls alone");
}

#[test]
fn watches_resume_after_a_restart_without_gap_or_double() {
    let mut server = Server::start();
    let client = server.client();
    for i in 0..20 {
        client.call(&put(format!("k{i}"), i.to_string()));
    }
    client.call(&delete_range("k1", "k2"));
    let mut before = Watch::open(&client);
    before.create(from(2, watch_prefix("k")));
    let events = take(&mut before, 31);
    server.kill();
    server.restart();
    let client = server.client();
    let mut after = Watch::open(&client);
    after.create(from(2, watch_prefix("k")));
    assert_eq!(take(&mut after, 31), events);
    client.call(&put("k", "new"));
    assert_eq!(facts(&after.events().events), [fact(PUT, "k", 23)]);
}

#[test]
fn a_watch_ends_with_its_server() {
    let mut server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    watch.create(self::watch("a"));
    server.terminate();
    let status = watch.stream.end();
    assert_eq!(status.code, crate::support::Code::Unavailable, "{status:?}");
}

#[test]
fn a_revoked_leases_deletions_are_one_revision_in_key_order() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    for name in ["k2", "k3", "k1"] {
        client.call(&put_leased(name, "", 7));
    }
    let mut watch = Watch::open(&client);
    watch.create(watch_prefix("k"));
    client.call(&LeaseRevokeRequest { id: 7 });
    assert_eq!(facts(&watch.events().events), [fact(DELETE, "k1", 5), fact(DELETE, "k2", 5), fact(DELETE, "k3", 5)]);
}

#[test]
fn a_reset_stream_frees_its_watches() {
    let server = Server::start();
    let client = server.client();
    for _ in 0..200 {
        let mut watch = Watch::open(&client);
        watch.create(WatchCreateRequest { range_end: prefix_end("k"), ..self::watch("k") });
        watch.stream.reset();
    }
    let mut watch = Watch::open(&client);
    watch.create(watch_prefix("k"));
    client.call(&put("k", ""));
    assert_eq!(watch.events().events.len(), 1);
}
