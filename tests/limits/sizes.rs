//! Large keys, large values, large answers.

use std::time::Instant;

use bramble::pb::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use prost::Message;

use super::{beside, size, tell, tell_memory};
use crate::support::grpc::Stream;
use crate::support::process::Memory;
use crate::support::requests::{IntoOp, RANGE_STREAM, Unary, Watch, delete, key, prefix, put, range, then, watch, watch_prefix};
use crate::support::{Client, Code, Server, Status};

/// `--max-request-bytes` as it is by default.
const REQUEST_BYTES: usize = 1_536 * 1024;

fn too_large() -> Status {
    Status::new(Code::InvalidArgument, "etcdserver: request is too large")
}

/// The largest `n` for which `accept` answers, if `n + 1` is refused as too large.
fn largest(accept: impl Fn(usize) -> Result<(), Status>) -> usize {
    let (mut low, mut high) = (REQUEST_BYTES - 100, REQUEST_BYTES);
    assert_eq!(accept(low), Ok(()));
    assert_eq!(accept(high), Err(too_large()));
    while high - low > 1 {
        let middle = low.midpoint(high);
        match accept(middle) {
            Ok(()) => low = middle,
            Err(status) => {
                assert_eq!(status, too_large());
                high = middle;
            }
        }
    }
    low
}

#[test]
fn a_value_may_fill_a_request_to_its_last_byte() {
    let mut server = Server::start();
    let client = server.client();
    let value = |bytes: usize| vec![bytes as u8; bytes];
    let most = largest(|bytes| client.try_call(&put("big", value(bytes))).map(drop));
    // What stands around the value: the key, the lengths of both, and the request's own id.
    assert!((REQUEST_BYTES - 40..REQUEST_BYTES - 10).contains(&most), "{most} bytes");
    tell("largest value of a key of 3 bytes", format!("{most} bytes"));
    let mut watching = Watch::open(&client);
    watching.create(watch("big"));
    client.call(&put("big", value(most)));
    assert_eq!(watching.events().events[0].kv.as_ref().unwrap().value, value(most));
    assert_eq!(client.fail(&put("big", value(most + 1))), too_large());
    assert_eq!(client.fail(&then(vec![put("big", value(most)).op()])), too_large(), "a transaction has more around it");
    tell_memory(&server, "after values of 1.5 MiB");
    server.kill();
    server.restart();
    assert_eq!(server.client().call(&key("big")).kvs[0].value, value(most), "after kill -9");
}

#[test]
fn keys_are_bounded_by_the_request_alone() {
    let mut server = Server::start();
    let client = server.client();
    // 2 kB, and alike but for their last bytes: neither LMDB's 511 bytes nor a hash may tell them apart wrongly.
    let name = |n: usize| format!("{}/{n:04}", "k".repeat(2_043));
    for n in 0..200 {
        client.call(&put(name(n), format!("{n}")));
    }
    client.call(&delete(name(7)));
    let most = largest(|bytes| {
        let long = vec![b'x'; bytes];
        client.try_call(&put(&long, "")).map(drop)?;
        client.try_call(&delete(&long)).map(drop)
    });
    tell("longest key, with no value", format!("{most} bytes"));
    let longest = vec![b'x'; most];
    let mut watching = Watch::open(&client);
    watching.create(watch(&longest));
    client.call(&put(&longest, ""));
    assert_eq!(watching.events().events[0].kv.as_ref().unwrap().key, longest);
    let check = |client: &Client| {
        let found = client.call(&prefix("k"));
        let expected: Vec<String> = (0..200).filter(|n| *n != 7).map(name).collect();
        assert_eq!(
            found.kvs.iter().map(|kv| kv.key.to_vec()).collect::<Vec<_>>(),
            expected.iter().map(|k| k.as_bytes().to_vec()).collect::<Vec<_>>()
        );
        assert_eq!(client.call(&range(name(10), name(20))).count, 10);
        assert_eq!(client.call(&key(name(199))).kvs[0].value, "199");
        assert_eq!(client.call(&key(&longest)).count, 1);
    };
    check(&client);
    tell_memory(&server, "with keys of 2 kB and 1.5 MiB");
    server.kill();
    server.restart();
    check(&server.client());
    assert_eq!(server.terminate().code(), None, "it leaves by the signal");
    server.restart();
    check(&server.client());
}

const ROWS: usize = 400;
const ROW_BYTES: usize = 256 * 1024;
const SLOW_READERS: usize = 8;
/// What a reader that reads nothing may cost: a chunk that is made, one that waits, and what its connection holds.
const PER_SLOW_READER: u64 = 6 << 20;

/// 105 MB below `big/`.
fn fill(client: &Client) {
    let requests: Vec<_> = (0..ROWS).map(|n| put(format!("big/{n:04}"), vec![n as u8; ROW_BYTES])).collect();
    for answer in client.call_all(&requests, 4) {
        answer.unwrap();
    }
}

fn is_whole(kvs: &[bramble::pb::mvccpb::KeyValue]) {
    assert_eq!(kvs.len(), ROWS);
    for (n, kv) in kvs.iter().enumerate() {
        assert!(kv.key == format!("big/{n:04}") && kv.value == vec![n as u8; ROW_BYTES], "row {n} is another");
    }
}

fn collect_stream(client: &Client) -> Vec<bramble::pb::mvccpb::KeyValue> {
    let parts: Vec<RangeStreamResponse> = client.collect(RANGE_STREAM, &prefix("big/")).unwrap();
    parts.into_iter().flat_map(|part| part.range_response.unwrap().kvs).collect()
}

#[test]
fn answers_of_100_mb_cost_little_memory_however_slowly_they_are_read() {
    let server = Server::start();
    let client = server.client();
    fill(&client);
    let before = Memory::of(&server).own;
    tell_memory(&server, "with 105 MB of rows");
    beside(&server, "during fast answers of 105 MB", || {
        let begun = Instant::now();
        is_whole(&client.call(&prefix("big/")).kvs);
        tell("Range of 105 MB, one fast reader", format!("{:.2?}", begun.elapsed()));
        let begun = Instant::now();
        is_whole(&collect_stream(&client));
        tell("RangeStream of 105 MB, one fast reader", format!("{:.2?}", begun.elapsed()));
    });
    tell_memory(&server, "after fast readers");
    let mut ranges = Vec::new();
    let mut streams = Vec::new();
    for n in 0..SLOW_READERS {
        let slow = Client::connect_with_window(&server.target(), 65_535).unwrap();
        if n % 2 == 0 {
            let mut call = slow.open::<RangeRequest, RangeResponse>(RangeRequest::PATH, &[]);
            call.send(&prefix("big/"));
            call.close_send();
            ranges.push(call);
        } else {
            let mut call = slow.open::<RangeRequest, RangeStreamResponse>(RANGE_STREAM, &[]);
            call.send(&prefix("big/"));
            call.close_send();
            streams.push(call);
        }
    }
    // Only what has begun is of a revision that the changes below cannot touch.
    ranges.iter_mut().for_each(Stream::wait_for_answer);
    streams.iter_mut().for_each(Stream::wait_for_answer);
    beside(&server, "beside readers that read nothing", || {
        // History that the readers still need is deleted, compacted and replaced meanwhile.
        for n in 0..ROWS {
            client.call(&put(format!("big/{n:04}"), "new"));
        }
        let revision = super::revision_of(&client);
        client.call(&bramble::pb::etcdserverpb::CompactionRequest { revision, physical: false });
        let most = Memory::of(&server).own;
        tell(
            format!("own memory beside {SLOW_READERS} answers of 105 MB that nobody reads"),
            format!("+{}", size(most.saturating_sub(before))),
        );
        assert!(most < before + SLOW_READERS as u64 * PER_SLOW_READER, "{before} bytes before, {most} with slow readers");
    });
    for mut call in ranges {
        is_whole(&call.recv().kvs);
    }
    for mut call in streams {
        let mut kvs = Vec::new();
        while let Ok(part) = call.try_recv() {
            assert!(part.encoded_len() < 4 << 20, "a chunk is no more than etcd's");
            kvs.extend(part.range_response.unwrap().kvs);
        }
        is_whole(&kvs);
    }
    let after = Memory::of(&server).own;
    assert!(after < before + SLOW_READERS as u64 * PER_SLOW_READER, "{before} bytes before, {after} after slow readers");
    tell_memory(&server, "after slow readers");
    let mut watching = Watch::open(&client);
    watching.create(watch_prefix("big/"));
    client.call(&put("big/0000", "newest"));
    assert_eq!(watching.events().events.len(), 1);
}
