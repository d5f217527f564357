//! Calls: very many, never ended, taken back at once, refused, or with messages that are not what they seem.

use std::io::Write;

use super::wire::{self, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Sent, WINDOW_UPDATE, Wire, frame};
use super::{CALLS, Field, MIB, REQUESTS, Size, attacks, withstands};
use crate::support::Server;
use crate::support::grpc;
use crate::support::requests::{IntoOp, KEEP_ALIVE, Unary, WATCH, key, put, then};
use bramble::pb::etcdserverpb::{PutRequest, RangeRequest, TxnRequest};
use bytes::Bytes;
use prost::Message;

attacks! {
    calls_that_are_begun_and_never_ended
    streams_that_are_opened_and_never_used
    calls_that_are_taken_back_at_once
    calls_that_make_the_server_reset_them
    calls_whose_replies_are_not_read
    calls_that_are_refused_and_not_read
    messages_that_are_begun_and_never_ended
    messages_that_inflate
    messages_that_claim_to_be_huge
    transactions_within_transactions
    writes_without_end
}

/// Opens calls at this path on a few connections, without an end.
fn open(field: &Field<'_>, path: &str, count: usize) -> Vec<Wire> {
    let mut wires: Vec<Wire> = (0..4).map(|_| Wire::greeted(&field.target)).collect();
    let each = count / wires.len();
    for wire in &mut wires {
        let first = wire.stream();
        assert_eq!(wire.send(&frame(HEADERS, END_HEADERS, first, &wire::call(path))), Sent::All);
        let block = wire::again();
        let sent = wire.flood_with(each, |wire, bytes| {
            let stream = wire.stream();
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &block));
        });
        println!("  {path}: {sent:?} after {} streams", wire.next / 2);
    }
    wires
}

fn calls_that_are_begun_and_never_ended(server: &Server, size: Size) {
    withstands(server, "calls without a message", CALLS, |field| open(field, RangeRequest::PATH, size.of(60_000, 1_000_000)));
}

fn streams_that_are_opened_and_never_used(server: &Server, size: Size) {
    for path in [WATCH, KEEP_ALIVE] {
        withstands(server, path, CALLS, |field| open(field, path, size.of(40_000, 1_000_000)));
    }
}

/// CVE-2023-44487.
fn calls_that_are_taken_back_at_once(server: &Server, size: Size) {
    for path in [RangeRequest::PATH, WATCH] {
        withstands(server, "rapid reset", 24 * MIB, |field| {
            let mut wire = Wire::greeted(&field.target);
            let first = wire.stream();
            assert_eq!(wire.send(&frame(HEADERS, END_HEADERS, first, &wire::call(path))), Sent::All);
            let block = wire::again();
            let sent = wire.flood_with(size.of(50_000, 1_000_000), |wire, bytes| {
                let stream = wire.stream();
                bytes.extend(frame(HEADERS, END_HEADERS, stream, &block));
                bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            });
            println!("  {sent:?} after {} calls", wire.next / 2);
            wire
        });
    }
}

/// CVE-2025-8671: a mistake on each stream, so that it is the server that resets.
fn calls_that_make_the_server_reset_them(server: &Server, size: Size) {
    withstands(server, "made to reset", 24 * MIB, |field| {
        let mut wire = Wire::greeted(&field.target);
        let first = wire.stream();
        assert_eq!(wire.send(&frame(HEADERS, END_HEADERS, first, &wire::call(RangeRequest::PATH))), Sent::All);
        let block = wire::again();
        let sent = wire.flood_with(size.of(50_000, 1_000_000), |wire, bytes| {
            let stream = wire.stream();
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &block));
            bytes.extend(frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
        });
        println!("  {sent:?} after {} calls", wire.next / 2);
        wire
    });
}

/// A flood of whole calls by a client that reads nothing.
fn unread(field: &Field<'_>, path: &str, message: &[u8], count: usize) -> Wire {
    let mut wire = Wire::greeted(&field.target);
    let message = grpc::frame(false, message);
    let first = wire.stream();
    let mut begin = frame(HEADERS, END_HEADERS, first, &wire::call(path));
    begin.extend(frame(DATA, END_STREAM, first, &message));
    assert_eq!(wire.send(&begin), Sent::All);
    let block = wire::again();
    let sent = wire.flood_with(count, |wire, bytes| {
        let stream = wire.stream();
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &block));
        bytes.extend(frame(DATA, END_STREAM, stream, &message));
    });
    println!("  {path}: {sent:?} after {} calls", wire.next / 2);
    wire
}

fn calls_whose_replies_are_not_read(server: &Server, size: Size) {
    let message = key("bystander").encode_to_vec();
    withstands(server, "unread replies", CALLS, |field| unread(field, RangeRequest::PATH, &message, size.of(100_000, 2_000_000)));
}

fn calls_that_are_refused_and_not_read(server: &Server, size: Size) {
    withstands(server, "unread refusals", 48 * MIB, |field| {
        let count = size.of(100_000, 2_000_000);
        [unread(field, RangeRequest::PATH, b"", count), unread(field, "/etcdserverpb.KV/Nonsense", b"", count)]
    });
}

/// Each stream sends all but the last byte of a large message.
fn messages_that_are_begun_and_never_ended(server: &Server, size: Size) {
    withstands(server, "unfinished messages", REQUESTS, |field| {
        let message = grpc::frame(false, &put("k", vec![b'x'; 1 << 20]).encode_to_vec());
        let mut wires = Vec::new();
        for _ in 0..size.of(4, 40) {
            let mut wire = Wire::greeted(&field.target);
            'streams: for _ in 0..50 {
                let stream = wire.stream();
                wire.send(&frame(HEADERS, END_HEADERS, stream, &wire::call(PutRequest::PATH)));
                // As much as a stream's window holds from the start.
                for piece in message[..1 << 19].chunks(16_384) {
                    if wire.send(&frame(DATA, 0, stream, piece)) != Sent::All {
                        break 'streams;
                    }
                }
            }
            wires.push(wire);
        }
        wires
    });
}

fn messages_that_inflate(server: &Server, size: Size) {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; size.of(100 << 20, 1 << 30)]).unwrap();
    let bomb = grpc::frame(true, &encoder.finish().unwrap());
    withstands(server, "gzip bombs", 48 * MIB, |field| {
        let client = field.server.client();
        for _ in 0..size.of(10, 100) {
            let reply = client.raw(PutRequest::PATH, &[("grpc-encoding", "gzip")], bomb.clone());
            assert_eq!(reply.unwrap().status.code, grpc::Code::ResourceExhausted);
        }
    });
}

fn messages_that_claim_to_be_huge(server: &Server, size: Size) {
    withstands(server, "huge length prefixes", CALLS, |field| {
        let client = field.server.client();
        for path in [PutRequest::PATH, WATCH, KEEP_ALIVE] {
            for _ in 0..size.of(20, 1_000) {
                let reply = client.raw(path, &[], Bytes::from_static(b"\0\xff\xff\xff\xff!")).unwrap();
                let text = "grpc: received message larger than max (4294967295 vs. 2097152)";
                assert_eq!(reply.status, grpc::Status::new(grpc::Code::ResourceExhausted, text), "{path}");
            }
        }
        // Just within the limit, and nothing behind it: a claim costs nothing.
        let mut wire = Wire::greeted(&field.target);
        for _ in 0..size.of(1_000, 10_000) {
            let stream = wire.stream();
            wire.send(&frame(HEADERS, END_HEADERS, stream, &wire::call(PutRequest::PATH)));
            wire.send(&frame(DATA, 0, stream, &[0, 0, 0x1f, 0xff, 0xff, 0]));
        }
        wire
    });
}

/// So deep that whoever recurses without a bound falls off his stack.
fn transactions_within_transactions(server: &Server, size: Size) {
    withstands(server, "deep transactions", 24 * MIB, |field| {
        let client = field.server.client();
        for depth in [31, 40, 90, 99, 101] {
            let mut txn = then(vec![put("deep", "").op()]);
            for _ in 0..depth {
                txn = then(vec![txn.op()]);
            }
            let _ = client.try_call(&txn);
        }
        // Written by hand: an encoder would recurse itself. Each level is an operation (field 2) with a transaction (field 4).
        for depth in [1_000, size.of(50_000, 200_000)] {
            let mut reversed = Vec::new();
            for _ in 0..depth {
                for tag in [4 << 3 | 2, 2 << 3 | 2_u8] {
                    let length = wire::integer_le(reversed.len());
                    reversed.extend(length.iter().rev());
                    reversed.push(tag);
                }
            }
            reversed.reverse();
            let reply = client.raw(TxnRequest::PATH, &[], grpc::frame(false, &reversed)).unwrap();
            assert_ne!(reply.status.code, grpc::Code::Ok);
        }
    });
}

/// As many writes as one connection can send, and all replies read: others still read and write.
fn writes_without_end(server: &Server, size: Size) {
    withstands(server, "flood of writes", 128 * MIB, |field| {
        let client = field.server.client();
        for _ in 0..size.of(4, 50) {
            let writes: Vec<PutRequest> = (0..5_000).map(|n| put(format!("flood/{n}"), vec![b'x'; 100])).collect();
            for answer in client.call_all(&writes, 5_000) {
                answer.unwrap();
            }
        }
    });
}
