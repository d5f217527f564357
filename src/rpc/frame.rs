//! gRPC's messages on a stream: one byte of flags, four of length, the message. In: the stream's bytes as they arrive. Out: whole
//! messages. Always: a message over the limit is refused by its prefix, before a byte of it is kept, and a compressed one
//! is inflated no further than the limit.

use std::io::{ErrorKind, Read};
use std::sync::Arc;

use super::allowance::{Allowance, Ticket};
use super::status::{Code, Status};
use crate::http2::Head;
use bytes::{Buf, Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;

/// Flags and length.
pub const PREFIX: usize = 5;

/// What a segment takes beside its bytes while it waits, here and on its way to the socket, in bytes, as measured: many short
/// replies that nobody reads are little else.
const SEGMENT: usize = 256;

/// What is set aside at once for a message that comes in pieces. The rest is taken as it arrives: a prefix alone costs nothing.
const FIRST_SHARE: usize = 64 * 1024;

/// How requests are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Not.
    Identity,
    /// gzip, message by message.
    Gzip,
}

impl Encoding {
    /// Reads `grpc-encoding`.
    pub fn of(head: &Head) -> Result<Encoding, Status> {
        match head.get("grpc-encoding") {
            None | Some(b"" | b"identity") => Ok(Encoding::Identity),
            Some(b"gzip") => Ok(Encoding::Gzip),
            Some(other) => Err(Status::new(
                Code::Unimplemented,
                format!("grpc: Decompressor is not installed for grpc-encoding {:?}", String::from_utf8_lossy(other)),
            )),
        }
    }
}

/// Cuts a stream's bytes into messages.
pub struct Reader {
    limit: usize,
    encoding: Encoding,
    /// Arrived and not looked at.
    unread: Bytes,
    part: Part,
}

enum Part {
    Prefix { bytes: [u8; PREFIX], have: usize },
    Body { compressed: bool, length: usize, body: BytesMut },
}

const NEXT: Part = Part::Prefix { bytes: [0; PREFIX], have: 0 };

impl Reader {
    /// A reader of messages up to `limit` bytes, before and after decompression.
    pub fn new(limit: usize, encoding: Encoding) -> Reader {
        Reader { limit, encoding, unread: Bytes::new(), part: NEXT }
    }

    /// Takes more bytes. The last ones have to be used up: [`Reader::next_message`] said None.
    pub fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.unread.is_empty());
        self.unread = bytes;
    }

    /// The next whole message. None: more bytes are needed.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            match &mut self.part {
                Part::Prefix { bytes, have } => {
                    let take = self.unread.len().min(PREFIX - *have);
                    self.unread.copy_to_slice(&mut bytes[*have..*have + take]);
                    *have += take;
                    if *have < PREFIX {
                        return Ok(None);
                    }
                    let [flags, length @ ..] = *bytes;
                    self.begin(flags, u32::from_be_bytes(length))?;
                }
                Part::Body { compressed, length, body } => {
                    let Some(message) = fill(body, *length, &mut self.unread) else { return Ok(None) };
                    let compressed = *compressed;
                    self.part = NEXT;
                    return if compressed { gunzip(&message, self.limit).map(Some) } else { Ok(Some(message)) };
                }
            }
        }
    }

    /// Whether the stream may end here: outside of a message. To gRPC's Go library a piece of a prefix is nothing yet.
    pub fn may_end(&self) -> bool {
        self.unread.is_empty() && matches!(self.part, Part::Prefix { .. })
    }

    fn begin(&mut self, flags: u8, length: u32) -> Result<(), Status> {
        let length = length as usize;
        if length > self.limit {
            let text = format!("grpc: received message larger than max ({length} vs. {})", self.limit);
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        let compressed = match (flags, self.encoding) {
            (0, _) => false,
            (1, Encoding::Gzip) => true,
            (1, Encoding::Identity) => {
                return Err(Status::new(Code::Internal, "grpc: compressed flag set with identity or empty encoding"));
            }
            _ => return Err(Status::new(Code::Internal, format!("grpc: received unexpected payload format {flags}"))),
        };
        self.part = Part::Body { compressed, length, body: BytesMut::new() };
        Ok(())
    }
}

/// The message, once all of it is there: a slice of what arrived if it came in one piece, or put together in `body`.
fn fill(body: &mut BytesMut, length: usize, unread: &mut Bytes) -> Option<Bytes> {
    if body.is_empty() && unread.len() >= length {
        return Some(unread.split_to(length));
    }
    let take = unread.len().min(length - body.len());
    if body.capacity() - body.len() < take {
        let left = length - body.len();
        body.reserve(left.min(take.max(body.len()).max(FIRST_SHARE)));
    }
    body.extend_from_slice(&unread.split_to(take));
    (body.len() == length).then(|| std::mem::take(body).freeze())
}

fn gunzip(message: &[u8], limit: usize) -> Result<Bytes, Status> {
    let decoder = MultiGzDecoder::new(message);
    // gRPC's Go library reads the header first, and tells apart what fails at it.
    let failing_at = if decoder.header().is_some() { "read decompressed data" } else { "decompress the message" };
    let mut inflated = Vec::new();
    decoder
        .take(limit as u64 + 1)
        .read_to_end(&mut inflated)
        .map_err(|error| Status::new(Code::Internal, format!("grpc: failed to {failing_at}: {}", go_words(&error, message))))?;
    if inflated.len() > limit {
        let text = format!("grpc: received message after decompression larger than max {limit}");
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(inflated.into())
}

/// What Go's library says of data that ends too soon, or before it begins, or is of another kind.
fn go_words(error: &std::io::Error, data: &[u8]) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof if data.is_empty() => "EOF".to_owned(),
        ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        ErrorKind::InvalidInput => "gzip: invalid header".to_owned(),
        _ => error.to_string(),
    }
}

/// A run of bytes on its way out: a message's prefix and its bytes, or a part of them. Nothing is copied together.
pub struct Segment {
    prefix: [u8; PREFIX],
    /// How much of the prefix is still to be sent; it lies at the prefix's end.
    prefix_left: usize,
    body: Bytes,
    /// Counts these bytes until they are written.
    ticket: Option<Ticket>,
}

impl Segment {
    /// The beginning of a message of `length` bytes.
    pub fn first(length: u32, body: Bytes) -> Segment {
        let mut prefix = [0; PREFIX];
        prefix[1..].copy_from_slice(&length.to_be_bytes());
        Segment { prefix, prefix_left: PREFIX, body, ticket: None }
    }

    /// More of a message, or bytes that are no gRPC message.
    pub fn plain(body: Bytes) -> Segment {
        Segment { prefix: [0; PREFIX], prefix_left: 0, body, ticket: None }
    }

    /// The same bytes, counted.
    pub fn ticketed(self, allowance: &Arc<Allowance>) -> Segment {
        let ticket = Some(allowance.ticket(self.remaining() + SEGMENT));
        Segment { ticket, ..self }
    }

    /// Cuts off the first `count` bytes (at most all).
    pub fn split_to(&mut self, count: usize) -> Segment {
        let prefix_part = count.min(self.prefix_left);
        let mut first = Segment {
            prefix: self.prefix,
            prefix_left: self.prefix_left,
            body: self.body.split_to(count - prefix_part),
            ticket: self.ticket.as_mut().map(|ticket| ticket.split(count)),
        };
        if prefix_part < self.prefix_left {
            // The first part ends within the prefix: shift it so that its rest lies at the end again.
            let begin = PREFIX - self.prefix_left;
            first.prefix.copy_within(begin..begin + prefix_part, PREFIX - prefix_part);
            first.prefix_left = prefix_part;
        }
        self.prefix_left -= prefix_part;
        first
    }

    /// Takes what is behind the prefix, and what counts it all.
    pub fn take_body(&mut self) -> (Bytes, Option<Ticket>) {
        (std::mem::take(&mut self.body), self.ticket.take())
    }

    /// What is left of the prefix.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix[PREFIX - self.prefix_left..]
    }
}

impl Buf for Segment {
    fn remaining(&self) -> usize {
        self.prefix_left + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.prefix_left > 0 { self.prefix() } else { &self.body }
    }

    fn advance(&mut self, count: usize) {
        let prefix_part = count.min(self.prefix_left);
        self.prefix_left -= prefix_part;
        self.body.advance(count - prefix_part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.push(0);
            bytes.extend((message.len() as u32).to_be_bytes());
            bytes.extend(message);
        }
        bytes
    }

    #[test]
    fn messages_are_the_same_however_the_stream_is_cut() {
        let messages: Vec<Vec<u8>> =
            [0, 1, 4, 5, 6, 300, 70_000, 200_000, 0].iter().map(|size| vec![*size as u8; *size]).collect();
        let bytes = Bytes::from(framed(&messages));
        for step in [1, 2, 3, 5, 7, 1000, 16_384, usize::MAX] {
            let mut reader = Reader::new(200_000, Encoding::Identity);
            let mut read = Vec::new();
            let mut rest = bytes.clone();
            while !rest.is_empty() {
                reader.push(rest.split_to(step.min(rest.len())));
                while let Some(message) = reader.next_message().unwrap() {
                    read.push(message.to_vec());
                }
            }
            assert!(read == messages && reader.may_end(), "in steps of {step}");
        }
    }

    #[test]
    fn a_stream_ends_well_only_outside_of_messages() {
        for (bytes, well) in [(&[][..], true), (&[0], true), (&[0, 0, 0, 0, 1], false), (&[0, 0, 0, 0, 1, 7], true)] {
            let mut reader = Reader::new(10, Encoding::Identity);
            reader.push(Bytes::copy_from_slice(bytes));
            while reader.next_message().unwrap().is_some() {}
            assert_eq!(reader.may_end(), well, "{bytes:?}");
        }
    }

    #[test]
    fn a_segment_may_be_cut_anywhere() {
        let whole = || Segment::first(3, Bytes::from_static(b"abc"));
        let bytes = b"\0\0\0\0\x03abc";
        for first in 0..=8 {
            for second in first..=8 {
                let mut rest = whole();
                let (mut one, mut two) = (rest.split_to(first), rest.split_to(second - first));
                let mut three = rest;
                let parts = [&mut one, &mut two, &mut three].map(|part| part.copy_to_bytes(part.remaining()));
                assert_eq!(parts[0], bytes[..first]);
                assert_eq!(parts[1], bytes[first..second]);
                assert_eq!(parts[2], bytes[second..]);
            }
        }
    }

    #[test]
    fn a_segment_comes_apart_into_prefix_and_body() {
        let mut segment = Segment::first(3, Bytes::from_static(b"abc"));
        segment.advance(2);
        assert_eq!(segment.prefix(), b"\0\0\x03");
        assert_eq!(segment.take_body().0, b"abc"[..]);
    }

    #[test]
    fn cut_segments_share_their_ticket() {
        let allowance = Allowance::new(SEGMENT + 10);
        let mut segment = Segment::first(7, Bytes::from_static(b"abcdefg")).ticketed(&allowance);
        assert!(!allowance.has_room());
        let first = segment.split_to(5);
        assert!(!allowance.has_room());
        drop(first);
        assert!(allowance.has_room());
        drop(segment);
        assert!(allowance.ticket(0).grow(SEGMENT + 10), "all was given back");
    }
}
