//! Answers of a hundred megabytes, for clients that do not take them.

use super::wire::{self, DATA, END_HEADERS, END_STREAM, HEADERS, Sent, Wire, frame};
use super::{Field, REPLIES, Size, attacks, withstands};
use crate::support::grpc::{self, Client, Stream};
use crate::support::requests::{RANGE_STREAM, Unary, Watch, key, prefix, put, watch};
use crate::support::{Security, Server};
use bramble::pb::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use prost::Message;

attacks! {
    large_answers_on_one_connection
    large_answers_on_many_connections
    large_answers_to_closed_windows
    metrics_that_nobody_reads
}

/// And what each connection may hold nevertheless: what it is promised; and since rows are not cut, one in each of the four pieces
/// that streams make of it, read and encoded, and one for unary calls.
const EACH: u64 = 2 * 64 * 1024 + 9 * ROW as u64;
const ROW: usize = 1 << 18;
const LARGE: &str = "large/";

/// Values that sum up to 100 MB.
fn fill(server: &Server, size: Size) {
    let client = server.client();
    let puts: Vec<_> = (0..size.of(64, 400)).map(|n| put(format!("{LARGE}{n:04}"), vec![b'x'; ROW])).collect();
    for answer in client.call_all(&puts, 16) {
        answer.unwrap();
    }
}

/// Asks for all of it so many times, and reads nothing.
fn ask(field: &Field<'_>, path: &str, window: u32, n: usize, times: usize) -> Wire {
    let message = grpc::frame(false, &prefix(LARGE).encode_to_vec());
    let mut wire = Wire::open(&field.target, n).unwrap();
    wire.send(&wire::greeting(window));
    for _ in 0..times {
        let stream = wire.stream();
        let mut call = frame(HEADERS, END_HEADERS, stream, &wire::call(path));
        call.extend(frame(DATA, END_STREAM, stream, &message));
        if wire.send(&call) != Sent::All {
            break;
        }
    }
    wire
}

fn large_answers_on_one_connection(server: &Server, size: Size) {
    fill(server, size);
    for path in [RangeRequest::PATH, RANGE_STREAM] {
        for window in [wire::WIDE, 65_535] {
            withstands(server, &format!("{path}, window {window}"), REPLIES, |field| {
                ask(field, path, window, 0, size.of(300, 5_000))
            });
        }
    }
    let all: RangeResponse = server.client().call(&prefix(LARGE));
    assert_eq!(all.kvs.len(), size.of(64, 400));
}

fn large_answers_on_many_connections(server: &Server, size: Size) {
    fill(server, size);
    for path in [RangeRequest::PATH, RANGE_STREAM] {
        let count = size.of(200, 1_000);
        withstands(server, &format!("{path} on many connections"), REPLIES + count as u64 * EACH, |field| {
            (0..count).map(|n| ask(field, path, wire::WIDE, n, 4)).collect::<Vec<_>>()
        });
    }
}

/// Clients whose windows never open: not a byte of the answers can leave.
fn large_answers_to_closed_windows(server: &Server, size: Size) {
    fill(server, size);
    for path in [RangeRequest::PATH, RANGE_STREAM] {
        let count = size.of(20, 100);
        withstands(server, &format!("{path}, window 0"), REPLIES + count as u64 * EACH, |field| {
            (0..count).map(|n| ask(field, path, 0, n, size.of(50, 100))).collect::<Vec<_>>()
        });
    }
    assert_eq!(server.client().call(&key(format!("{LARGE}0000"))).count, 1);
}

/// `/metrics` over HTTP/2, which is no call.
fn metrics_that_nobody_reads(server: &Server, size: Size) {
    withstands(server, "unread metrics", REPLIES, |field| {
        let get = |n| {
            let mut wire = Wire::open(&field.target, n).unwrap();
            wire.send(&wire::greeting(0));
            // GET and http are in the static table.
            let block =
                [vec![0x82, 0x86], wire::field(0, ":authority", b"127.0.0.1"), wire::field(0, ":path", b"/metrics")].concat();
            for _ in 0..size.of(200, 1_000) {
                let stream = wire.stream();
                if wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)) != Sent::All {
                    break;
                }
            }
            wire
        };
        (0..size.of(4, 20)).map(get).collect::<Vec<_>>()
    });
}

/// A program that writes while it reads stalls its streams. The windows of three of them leave room in that of the connection.
#[test]
fn answers_that_wait_to_be_read_hold_up_no_other_call_of_their_connection() {
    let server = super::server(Security::Plain);
    fill(&server, Size::Short);
    let client = Client::connect_with_window(&server.target(), 65_535).unwrap();
    let mut ranges: Vec<Stream<RangeRequest, RangeStreamResponse>> = (0..3).map(|_| client.open(RANGE_STREAM, &[])).collect();
    for stream in &mut ranges {
        stream.send(&prefix(LARGE));
        stream.close_send();
    }
    let mut watching = Watch::open(&client);
    watching.create(watch("beside"));
    for n in 0..100 {
        client.call(&put("beside", format!("{n}")));
        assert_eq!(client.call(&key("beside")).kvs[0].value, format!("{n}"));
        watching.events();
    }
    for mut stream in ranges {
        let mut rows = 0;
        while let Ok(chunk) = stream.try_recv() {
            rows += chunk.range_response.unwrap().kvs.len();
        }
        assert_eq!(rows, 64, "what waited is whole");
    }
}
