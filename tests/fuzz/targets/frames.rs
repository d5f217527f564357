//! gRPC's length-prefixed messages, cut anywhere, compressed or not, against a plain reading of the whole stream.
//!
//! Input: limit, encoding, how the stream is cut, the stream.

use std::io::Write;

use bramble::rpc::frame::{Encoding, Reader, Segment};
use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;

use super::input::Input;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let limit = input.pick(&[0, 1, 100, 4096, 70_000, 2 << 20]);
    let encoding = input.pick(&[Encoding::Identity, Encoding::Gzip]);
    let cuts: Vec<usize> = input.piece().iter().map(|cut| usize::from(*cut) + 1).collect();
    let stream = input.rest();
    let read = read(stream, &cuts, limit, encoding);
    assert_eq!(read, read_whole(stream, limit, encoding), "the same however it is cut");
    let Read { messages, .. } = read;
    write(&messages, &cuts, limit);
}

#[derive(Debug, PartialEq)]
struct Read {
    messages: Vec<Bytes>,
    failed: bool,
    ends_well: bool,
}

/// Reads piece by piece.
fn read(stream: &[u8], cuts: &[usize], limit: usize, encoding: Encoding) -> Read {
    let mut reader = Reader::new(limit, encoding);
    let mut rest = Bytes::copy_from_slice(stream);
    let mut cuts = cuts.iter().cycle();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let take = cuts.next().map_or(rest.len(), |cut| rest.len().min(*cut));
        reader.push(rest.split_to(take));
        loop {
            match reader.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return Read { messages, failed: true, ends_well: false },
            }
        }
    }
    Read { messages, failed: false, ends_well: reader.may_end() }
}

/// Reads as gRPC's protocol describes it, with all bytes at hand; a piece of a prefix is nothing yet.
fn read_whole(mut stream: &[u8], limit: usize, encoding: Encoding) -> Read {
    let mut messages = Vec::new();
    while let Some((&[flags, a, b, c, d], rest)) = stream.split_first_chunk() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let may_be_compressed = encoding == Encoding::Gzip;
        if length > limit || flags > u8::from(may_be_compressed) {
            return Read { messages, failed: true, ends_well: false };
        }
        let Some((message, rest)) = rest.split_at_checked(length) else {
            return Read { messages, failed: false, ends_well: false };
        };
        match if flags == 1 { inflate(message, limit) } else { Some(message.to_vec()) } {
            Some(message) => messages.push(message.into()),
            None => return Read { messages, failed: true, ends_well: false },
        }
        stream = rest;
    }
    Read { messages, failed: false, ends_well: true }
}

/// None: it is no gzip, or longer than the limit.
fn inflate(message: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut inflated = MultiGzDecoder::new(Vec::new());
    for byte in message {
        inflated.write_all(&[*byte]).ok()?;
        if inflated.get_ref().len() > limit {
            return None;
        }
    }
    inflated.finish().ok().filter(|inflated| inflated.len() <= limit)
}

/// What is sent in pieces reads back as it was.
fn write(messages: &[Bytes], cuts: &[usize], limit: usize) {
    let mut wire = Vec::new();
    let mut cuts = cuts.iter().cycle();
    for message in messages {
        let mut segment = Segment::first(message.len() as u32, message.clone());
        while segment.has_remaining() {
            let mut part = segment.split_to(cuts.next().map_or(usize::MAX, |cut| *cut).min(segment.remaining()));
            wire.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
    }
    let back = read(&wire, &[], limit, Encoding::Identity);
    assert!(back.ends_well && back.messages == messages, "what was written is read back");
}
