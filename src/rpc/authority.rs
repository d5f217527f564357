//! Mends the `:authority` of clients that send none. etcd's clients of 3.4 and 3.5 put the path of a unix socket there, some of 3.5
//! a list of endpoints. gRPC does not care, but our HTTP/2 library resets such streams and has no say in it. So the header is
//! rewritten before the library sees it: every byte that no authority may hold becomes `-`.
//!
//! In: a connection's bytes. Out: the same, but for those headers. Always: a mended value has the length of the original, so
//! that the compression tables at both ends (RFC 7541 §4.1) keep the same size and drop the same entries. The first request
//! of a connection shows what its client sends: if that is an authority, all that follows passes untouched.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use futures_lite::{AsyncRead, AsyncWrite};
use http::uri::Authority;

use super::stream::Stream;

/// Length of the client's preface.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
/// Frame type and flags of RFC 9113 §6.2.
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The longest frame that a client may send (RFC 9113 §6.5.2). What is longer is the library's to refuse.
const LONGEST: usize = 16_384;

/// A stream that begins with HTTP/2's preface.
pub struct Mended {
    stream: Stream,
    state: State,
    /// Whether this client's headers have needed mending.
    is_odd: bool,
    /// Looked at, and not yet read.
    ready: BytesMut,
}

enum State {
    /// So many bytes are none of our business.
    Skip(usize),
    /// A frame's head, as far as it is here.
    Head(Vec<u8>),
    /// A header block behind its frame's head, as far as it is here, and its whole length.
    Block(Vec<u8>, usize),
    /// Nothing is our business any more.
    Pass,
}

impl Mended {
    /// Of a stream whose preface is still to be read.
    pub fn new(stream: Stream) -> Mended {
        Mended { stream, state: State::Skip(PREFACE), is_odd: false, ready: BytesMut::new() }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.state = match std::mem::replace(&mut self.state, State::Pass) {
                State::Pass => {
                    self.ready.extend_from_slice(bytes);
                    return;
                }
                State::Skip(left) => {
                    let (skipped, rest) = bytes.split_at(left.min(bytes.len()));
                    self.ready.extend_from_slice(skipped);
                    bytes = rest;
                    skip(left - skipped.len())
                }
                State::Head(mut head) => match fill(&mut head, FRAME_HEAD, &mut bytes) {
                    true => self.begin_frame(head),
                    false => State::Head(head),
                },
                State::Block(mut block, length) => match fill(&mut block, length, &mut bytes) {
                    true => self.end_block(block),
                    false => State::Block(block, length),
                },
            };
        }
    }

    fn begin_frame(&mut self, head: Vec<u8>) -> State {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if head[3] == HEADERS && (1..=LONGEST).contains(&length) {
            return State::Block(head, FRAME_HEAD + length);
        }
        self.ready.extend_from_slice(&head);
        skip(length)
    }

    fn end_block(&mut self, mut frame: Vec<u8>) -> State {
        if let Some(value) = find_authority(&frame).filter(|value| Authority::try_from(&value.text[..]).is_err()) {
            self.is_odd = true;
            value.mend(&mut frame);
        }
        self.ready.extend_from_slice(&frame);
        if self.is_odd { skip(0) } else { State::Pass }
    }
}

fn skip(left: usize) -> State {
    if left == 0 { State::Head(Vec::with_capacity(FRAME_HEAD)) } else { State::Skip(left) }
}

/// Moves bytes over until there are `length`. Whether there are.
fn fill(to: &mut Vec<u8>, length: usize, from: &mut &[u8]) -> bool {
    let (taken, rest) = from.split_at(from.len().min(length - to.len()));
    to.extend_from_slice(taken);
    *from = rest;
    to.len() == length
}

/// A header's value within a frame.
struct Value {
    /// Where its length and its bytes are.
    place: std::ops::Range<usize>,
    /// Its bytes, decoded.
    text: Vec<u8>,
}

impl Value {
    /// Puts an authority of the same length in its place. A frame that would become too long is left as it is.
    fn mend(self, frame: &mut Vec<u8>) {
        let mut value = Vec::new();
        put_integer(&mut value, self.text.len());
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'.';
        value.extend(self.text.iter().map(|byte| if fits(byte) { *byte } else { b'-' }));
        if frame.len() - self.place.len() + value.len() > FRAME_HEAD + LONGEST {
            return;
        }
        frame.splice(self.place, value);
        let length = (frame.len() - FRAME_HEAD) as u32;
        frame[..3].copy_from_slice(&length.to_be_bytes()[1..]);
    }
}

/// The first `:authority` that is spelled out in a HEADERS frame. None also if the block makes no sense: that is for the library to say.
fn find_authority(frame: &[u8]) -> Option<Value> {
    let flags = frame[4];
    let mut at = FRAME_HEAD + usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    // Header field representations, RFC 7541 §6.
    while at < frame.len() {
        let first = frame[at];
        let name_bits = match first {
            0x80.. => {
                integer(frame, &mut at, 7)?;
                continue;
            }
            0x40..0x80 => 6,
            0x20..0x40 => {
                integer(frame, &mut at, 5)?;
                continue;
            }
            0..0x20 => 4,
        };
        let is_authority = match integer(frame, &mut at, name_bits)? {
            0 => string(frame, &mut at)?.text == b":authority",
            // Its place in the static table.
            1 => true,
            _ => false,
        };
        let value = string(frame, &mut at)?;
        if is_authority {
            return Some(value);
        }
    }
    None
}

/// RFC 7541 §5.1.
fn integer(bytes: &[u8], at: &mut usize, prefix_bits: u32) -> Option<usize> {
    let most = (1 << prefix_bits) - 1;
    let mut number = usize::from(*bytes.get(*at)?) & most;
    *at += 1;
    if number < most {
        return Some(number);
    }
    // Nothing in a frame needs more.
    for shift in [0, 7, 14] {
        let byte = usize::from(*bytes.get(*at)?);
        *at += 1;
        number += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// A string's length, not Huffman-coded.
fn put_integer(bytes: &mut Vec<u8>, number: usize) {
    const MOST: usize = 127;
    if number < MOST {
        return bytes.push(number as u8);
    }
    bytes.push(MOST as u8);
    let mut rest = number - MOST;
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// RFC 7541 §5.2.
fn string(bytes: &[u8], at: &mut usize) -> Option<Value> {
    let start = *at;
    let is_huffman = *bytes.get(start)? & 0x80 != 0;
    let length = integer(bytes, at, 7)?;
    let coded = bytes.get(*at..at.checked_add(length)?)?;
    *at += length;
    let text = if is_huffman { decode_huffman(coded)? } else { coded.to_vec() };
    Some(Value { place: start..*at, text })
}

/// How many codes there are of each length from 5 bits on (RFC 7541 appendix B). The code is canonical: this and the order of
/// the symbols say all.
const CODES: [u8; 26] = [10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];
/// The symbols of the shortest codes, in order. The others are not to be found in any authority, nor in anything else of sense.
const SYMBOLS: &[u8] = b"012aceiost %-./3456789=A_bdfghlmnpru:BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz&*,;XZ!\"()?'+|#>\0$@[]~^}<`{\\";

fn decode_huffman(coded: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(coded.len() * 8 / 5);
    let mut bits = (0..coded.len() * 8).map(|at| u32::from(coded[at / 8] >> (7 - at % 8) & 1));
    'symbols: loop {
        let (mut code, mut first, mut index) = (0, 0, 0);
        // No code is shorter than 5 bits; a rest of up to 7 ones is padding.
        for length in 1..=30 {
            let Some(bit) = bits.next() else { return Some(text) };
            code = code << 1 | bit;
            first <<= 1;
            let count = if length < 5 { 0 } else { u32::from(CODES[length - 5]) };
            if code - first < count {
                text.push(SYMBOLS.get((index + code - first) as usize).copied().unwrap_or(b'?'));
                continue 'symbols;
            }
            first += count;
            index += count;
        }
        return None;
    }
}

impl AsyncRead for Mended {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            if matches!(this.state, State::Pass) {
                return Pin::new(&mut this.stream).poll_read(cx, buffer);
            }
            // The caller's buffer serves for the raw bytes: what they become may be longer, and waits in `ready`.
            match ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))? {
                0 => return Poll::Ready(Ok(0)),
                count => this.take(&buffer[..count]),
            }
        }
        let count = this.ready.len().min(buffer.len());
        this.ready.copy_to_slice(&mut buffer[..count]);
        if this.ready.is_empty() {
            this.ready = BytesMut::new();
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Mended {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::tests::rig::pipe;

    #[test]
    fn huffman_strings_of_the_rfc_are_decoded() {
        // RFC 7541 appendix C.4 and C.6.
        for (coded, text) in [
            (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..], "www.example.com"),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf], "custom-value"),
            (
                &[
                    0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0, 0x82,
                    0xa6, 0x2d, 0x1b, 0xff,
                ],
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ] {
            assert_eq!(String::from_utf8(decode_huffman(coded).unwrap()).unwrap(), text);
        }
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for number in [0, 1, 126, 127, 128, 254, 255, 300, 16_000] {
            let mut bytes = Vec::new();
            put_integer(&mut bytes, number);
            let mut at = 0;
            assert_eq!(integer(&bytes, &mut at, 7), Some(number));
            assert_eq!(at, bytes.len());
        }
    }

    /// A HEADERS frame with a path and this authority, spelled out, to be indexed.
    fn headers(flags: u8, before: &[u8], authority: &str) -> Vec<u8> {
        let mut block = before.to_vec();
        block.extend([0x83, 0x86, 0x44, 2, b'/', b'a', 0x41]);
        put_integer(&mut block, authority.len());
        block.extend(authority.as_bytes());
        block.extend([0x40, 1, b'k', 1, b'v']);
        let mut frame = (block.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([HEADERS, flags, 0, 0, 0, 1]);
        frame.extend(block);
        frame
    }

    /// What a reader sees of these bytes when they come in pieces of `step`.
    fn through(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut mended = Mended::new(Stream::new(pipe().0));
        bytes.chunks(step).for_each(|piece| mended.take(piece));
        mended.ready.to_vec()
    }

    #[test]
    fn only_odd_authorities_are_changed_however_they_are_cut() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
        let long = "/x".repeat(200);
        let long_mended = "-x".repeat(200);
        for (authority, mended) in [
            ("server:2379", "server:2379"),
            ("/tmp/du.sock", "-tmp-du.sock"),
            ("#initially=[http://a:1;http://b:2]", "-initially--http---a-1-http---b-2-"),
            (&*long, &*long_mended),
        ] {
            for (flags, before) in
                [(4, &[][..]), (4 | PADDED, &[0]), (4 | PRIORITY, &[0, 0, 0, 3, 9]), (4 | PADDED | PRIORITY, &[0, 0, 0, 0, 3, 9])]
            {
                let data = b"\x00\x00\x03\x00\x00\x00\x00\x00\x01abc";
                let stream = |authority| {
                    [preface, &headers(flags, before, authority)[..], data, &headers(flags, before, authority)].concat()
                };
                for step in [1, 2, 7, 100, 10_000] {
                    assert_eq!(through(&stream(authority), step), stream(mended), "{authority} in steps of {step}");
                }
            }
        }
    }

    #[test]
    fn nonsense_passes_unchanged() {
        let mut seed = 1u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        };
        for _ in 0..2000 {
            // A short frame of HEADERS with arbitrary content, behind a preface.
            let length = random() % 40 + 1;
            let mut bytes = vec![0; PREFACE];
            bytes.extend([0, 0, length, HEADERS, random(), 0, 0, 0, 1]);
            bytes.extend((0..length).map(|_| random()));
            let out = through(&bytes, 5);
            if find_authority(&bytes[PREFACE..]).is_none() {
                assert_eq!(out, bytes);
            }
        }
    }
}
