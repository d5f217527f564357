//! Bytes on an HTTP/2 connection of the real server.
//!
//! Input: what comes first, then pieces of bytes as they arrive, each with what happens behind it.

use std::time::Duration;

use super::input::Input;
use super::served;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

pub fn run(data: &[u8]) {
    served::with(|served| {
        let mut input = Input::new(data);
        let mut connection = served.connect();
        match input.byte() % 4 {
            0 => {}
            1 => connection.send(PREFACE),
            _ => connection.send(&[PREFACE, EMPTY_SETTINGS].concat()),
        }
        while !input.is_empty() {
            match input.byte() {
                0 => connection.settle(),
                1 => connection.advance(Duration::from_secs(u64::from(input.byte()))),
                2 => connection.reads = !connection.reads,
                // A whole frame, its length right.
                3 => {
                    let (kind, flags, stream) = (input.byte(), input.byte(), u32::from(input.byte()));
                    connection.send(&frame(kind, flags, stream, input.piece()));
                }
                4 => connection.send(input.rest()),
                _ => connection.send(input.piece()),
            }
        }
        connection.close();
    });
}

/// A frame (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
