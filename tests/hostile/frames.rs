//! Frames that cost their sender little: floods of those that have to be answered, and of those that mean nothing.

use super::wire::{
    self, CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, Sent, WINDOW_UPDATE, Wire,
    frame,
};
use super::{MIB, Size, attacks, withstands};
use crate::support::Server;
use crate::support::grpc;
use crate::support::requests::{Unary, WATCH, key, put};
use bramble::pb::etcdserverpb::{PutRequest, RangeRequest};
use prost::Message;

attacks! {
    pings_with_calls_open
    pings_whose_answers_are_not_read
    settings_whose_answers_are_not_read
    frames_that_mean_nothing
    data_frames_without_data
    messages_in_frames_of_one_byte
    header_blocks_that_never_end
    windows_that_overflow_or_do_not_open
}

fn count(size: Size) -> usize {
    size.of(200_000, 10_000_000)
}

/// Nothing is asked of what becomes of the flood: the server may take it, hold it up or hang up.
fn flood(server: &Server, name: &str, bytes: &[u8], times: usize) {
    withstands(server, name, 4 * MIB, |field| {
        let mut wire = Wire::greeted(&field.target);
        let sent = wire.flood(bytes, times);
        println!("  {name}: {sent:?}");
        wire
    });
}

fn pings_whose_answers_are_not_read(server: &Server, size: Size) {
    flood(server, "PING flood", &frame(PING, 0, 0, &[7; 8]), count(size));
}

/// `--grpc-keepalive-min-time`: the fourth PING in a row is too many, and the client is told so in a word that gRPC looks for.
fn pings_with_calls_open(server: &Server, _: Size) {
    let mut wire = Wire::greeted(&server.target());
    let stream = wire.stream();
    wire.send(&frame(HEADERS, END_HEADERS, stream, &wire::call(WATCH)));
    for _ in 0..4 {
        wire.send(&frame(PING, 0, 0, &[7; 8]));
    }
    let end = wire.frame_of(GOAWAY).expect("it is told why");
    assert_eq!(end.payload, [&[0, 0, 0, 1, 0, 0, 0, 11][..], b"too_many_pings"].concat());
    assert!(wire.frame().is_err(), "the connection has ended");
}

fn settings_whose_answers_are_not_read(server: &Server, size: Size) {
    flood(server, "SETTINGS flood", &frame(SETTINGS, 0, 0, &[]), count(size));
    flood(
        server,
        "SETTINGS flood, table sizes",
        &frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0x10, 0]),
        count(size) / 2,
    );
}

fn frames_that_mean_nothing(server: &Server, size: Size) {
    flood(server, "PRIORITY flood", &frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16]), count(size));
    flood(server, "frames of unknown kinds", &frame(0xbe, 0, 0, b"nothing"), count(size));
    flood(server, "RST_STREAM of streams that are over", &frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), count(size));
    flood(server, "WINDOW_UPDATE flood", &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), count(size));
}

fn data_frames_without_data(server: &Server, size: Size) {
    for (name, flags, payload) in [("empty DATA flood", 0, &[][..]), ("DATA flood of padding", 8, &[3, 0, 0, 0])] {
        withstands(server, name, 4 * MIB, |field| {
            let mut wire = Wire::greeted(&field.target);
            let stream = wire.stream();
            assert_eq!(wire.send(&frame(HEADERS, END_HEADERS, stream, &wire::call(WATCH))), Sent::All);
            let sent = wire.flood(&frame(DATA, flags, stream, payload), count(size));
            println!("  {name}: {sent:?}");
            wire
        });
    }
}

/// 1 MiB in 1,048,576 frames is a put like any other.
fn messages_in_frames_of_one_byte(server: &Server, size: Size) {
    withstands(server, "one-byte frames", 8 * MIB, |field| {
        let request = put("in small pieces", vec![b'x'; size.of(1 << 17, 1 << 20)]);
        let message = grpc::frame(false, &request.encode_to_vec());
        let mut wire = Wire::greeted(&field.target);
        let stream = wire.stream();
        assert_eq!(wire.send(&frame(HEADERS, END_HEADERS, stream, &wire::call(PutRequest::PATH))), Sent::All);
        let mut at = 0;
        wire.flood_with(message.len(), |_, bytes| {
            bytes.extend(frame(DATA, u8::from(at + 1 == message.len()), stream, &message[at..=at]));
            at += 1;
        });
        // It is put, or the connection ends with a word about it.
        if let Some(answer) = wire.frame_of(DATA) {
            assert_eq!(answer.stream, stream);
            assert_eq!(field.server.client().call(&key("in small pieces")).kvs[0].value.len(), request.value.len());
        }
        wire
    });
}

fn header_blocks_that_never_end(server: &Server, size: Size) {
    for (name, piece) in [("empty CONTINUATION flood", Vec::new()), ("CONTINUATION flood", wire::field(0, "x", &[b'x'; 1000]))] {
        withstands(server, name, 4 * MIB, |field| {
            let mut wire = Wire::greeted(&field.target);
            let stream = wire.stream();
            assert_eq!(wire.send(&frame(HEADERS, 0, stream, &wire::call(RangeRequest::PATH))), Sent::All);
            let times = count(size) / if piece.is_empty() { 1 } else { 100 };
            wire.flood(&frame(CONTINUATION, 0, stream, &piece), times);
            // The end, with a word about it or without.
            wire.frame_of(GOAWAY);
        });
    }
}

/// RFC 9113 §6.9: neither may be.
fn windows_that_overflow_or_do_not_open(server: &Server, _: Size) {
    withstands(server, "WINDOW_UPDATE of 0 and overflow", 4 * MIB, |field| {
        for increment in [0, wire::WIDE] {
            let mut wire = Wire::greeted(&field.target);
            wire.send(&frame(WINDOW_UPDATE, 0, 0, &increment.to_be_bytes()));
            wire.frame_of(GOAWAY).expect("the connection ends with a word about it");
            let mut wire = Wire::greeted(&field.target);
            let stream = wire.stream();
            wire.send(&frame(HEADERS, END_HEADERS, stream, &wire::call(WATCH)));
            wire.send(&frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes()));
            // The stream ends, or the connection with it.
            if let Some(reset) = wire.frame_of(RST_STREAM) {
                assert_eq!(reset.stream, stream);
            }
        }
        // A window that shrinks below what is used of it.
        let mut wire = Wire::greeted(&field.target);
        for window in [0, wire::WIDE, 0, 1].repeat(1000) {
            let settings: Vec<u8> = [&[0, 4][..], &window.to_be_bytes()].concat();
            wire.send(&frame(SETTINGS, 0, 0, &settings));
        }
        wire
    });
}
