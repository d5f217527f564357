//! Header blocks that are too much.

use super::wire::{self, CONTINUATION, END_HEADERS, HEADERS, Sent, Wire, field, frame};
use super::{CALLS, MIB, Size, attacks, withstands};
use crate::support::Server;
use crate::support::requests::{Unary, WATCH};
use bramble::pb::etcdserverpb::RangeRequest;

attacks! {
    one_huge_header
    very_many_headers
    headers_that_grow_when_decompressed
    calls_with_as_many_headers_as_may_be
}

/// A block in as many frames as it takes.
fn block(stream: u32, block: &[u8]) -> Vec<u8> {
    let pieces: Vec<&[u8]> = block.chunks(16_384).collect();
    let mut bytes = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let flags = if n + 1 == pieces.len() { END_HEADERS } else { 0 };
        bytes.extend(frame(if n == 0 { HEADERS } else { CONTINUATION }, flags, stream, piece));
    }
    bytes
}

/// Refused with or without a word: but not held.
fn refused(server: &Server, name: &str, headers: &[u8]) {
    withstands(server, name, 12 * MIB, |field| {
        let mut wire = Wire::greeted(&field.target);
        let stream = wire.stream();
        let sent = wire.send(&block(stream, headers));
        println!("  {name}: {sent:?}");
        wire
    });
}

fn one_huge_header(server: &Server, size: Size) {
    let mut headers = wire::call(RangeRequest::PATH);
    headers.extend(field(0, "huge", &vec![b'x'; size.of(10 << 20, 100 << 20)]));
    refused(server, "one huge header", &headers);
}

fn very_many_headers(server: &Server, size: Size) {
    let mut headers = wire::call(RangeRequest::PATH);
    for n in 0..size.of(100_000, 1_000_000) {
        headers.extend(field(0, &format!("h{n}"), b""));
    }
    refused(server, "many headers", &headers);
}

/// One entry that fills the table, and thousands of references to it, a byte each: a block of 16 KiB means 64 MiB.
fn headers_that_grow_when_decompressed(server: &Server, size: Size) {
    withstands(server, "HPACK bombs", 12 * MIB, |field| {
        let mut wire = Wire::greeted(&field.target);
        let bomb = [wire::call(WATCH), wire::field(0x40, "bomb", &[b'x'; 3900]), vec![0x80 | 62; 12_000]].concat();
        for _ in 0..size.of(50, 2_000) {
            let stream = wire.stream();
            if wire.send(&frame(HEADERS, END_HEADERS, stream, &bomb)) != Sent::All {
                break;
            }
        }
        wire
    });
}

/// Calls that are kept open, each with nearly as many headers as are taken: what a call holds counts with its headers.
fn calls_with_as_many_headers_as_may_be(server: &Server, size: Size) {
    withstands(server, "calls with many headers", CALLS, |field| {
        let mut wire = Wire::greeted(&field.target);
        let mut headers = wire::call(WATCH);
        for n in 0..24_000 {
            headers.extend(wire::field(0, &format!("h{n:05}"), b""));
        }
        for _ in 0..size.of(100, 2_000) {
            let stream = wire.stream();
            if wire.send(&block(stream, &headers)) != Sent::All {
                break;
            }
        }
        wire
    });
}
