//! gRPC calls of every method on one HTTP/2 connection: headers, messages whole, cut, compressed or wrong, streams beside each
//! other, resets, windows, time.
//!
//! Input: steps of a client.

use std::io::Write;
use std::time::Duration;

use bramble::rpc::services::Method;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::http2::{EMPTY_SETTINGS, PREFACE, frame};
use super::input::Input;
use super::messages;
use super::served::{self, Connection};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Calls in one connection at the most.
const CALLS: usize = 12;

pub fn run(data: &[u8]) {
    served::with(|served| {
        let mut input = Input::new(data);
        let mut client = Client { connection: served.connect(), calls: Vec::new() };
        client.connection.send(&[PREFACE, EMPTY_SETTINGS].concat());
        while !input.is_empty() {
            client.step(&mut input);
        }
        client.connection.close();
    });
}

struct Client<'a> {
    connection: Connection<'a>,
    /// In the order of their streams, which are 1, 3, 5 and so on.
    calls: Vec<Method>,
}

impl Client<'_> {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..3 if self.calls.len() < CALLS => self.begin(input),
            3 => self.connection.settle(),
            4 => self.connection.advance(Duration::from_millis(u64::from(input.u16()))),
            5 => self.connection.reads = !self.connection.reads,
            6 => {
                let stream = self.pick(input).0;
                let code = u32::from(input.byte()).to_be_bytes();
                self.connection.send(&frame(RST_STREAM, 0, stream, &code));
            }
            7 => {
                let stream = if input.bool() { self.pick(input).0 } else { 0 };
                let more = (u32::from(input.u16()) << (input.byte() % 16)).to_be_bytes();
                self.connection.send(&frame(WINDOW_UPDATE, 0, stream, &more));
            }
            8 => self.connection.send(&frame(SETTINGS, input.byte(), 0, input.piece())),
            9 => self.connection.send(&frame(PING, input.byte(), 0, &[7; 8])),
            10 => {
                let (kind, flags, stream) = (input.byte(), input.byte(), self.pick(input).0);
                self.connection.send(&frame(kind, flags, stream, input.piece()));
            }
            _ => self.message(input),
        }
    }

    fn stream(&self, place: usize) -> u32 {
        place as u32 * 2 + 1
    }

    /// A call, and its stream.
    fn pick(&self, input: &mut Input<'_>) -> (u32, Method) {
        let place = usize::from(input.byte()) % self.calls.len().max(1);
        (self.stream(place), self.calls.get(place).copied().unwrap_or(Method::Range))
    }

    fn begin(&mut self, input: &mut Input<'_>) {
        let method = input.pick(&Method::ALL);
        let (service, name, _) = method.path();
        let mut path = format!("/{service}/{name}").into_bytes();
        let (odd, bits) = (input.byte(), input.byte());
        if odd == 255 {
            path = input.piece().to_vec();
        }
        let mut headers: Vec<(&[u8], &[u8])> = vec![
            (b":method", if odd == 254 { b"GET" } else { b"POST" }),
            (b":scheme", b"http"),
            (b":path", &path),
            (b":authority", if odd == 253 { input.piece() } else { b"localhost" }),
            (b"te", b"trailers"),
            (b"content-type", if odd == 252 { input.piece() } else { b"application/grpc" }),
        ];
        if bits & 1 > 0 {
            headers.push((b"grpc-encoding", input.pick::<&[u8]>(&[b"gzip", b"gzip", b"gzip", b"identity", b"", b"snappy"])));
        }
        if bits & 2 > 0 {
            headers.push((b"grpc-timeout", input.pick::<&[u8]>(&[b"1S", b"0n", b"99999999H", b"10m", b"", b"x", b"-1S"])));
        }
        if bits & 4 > 0 {
            headers.push((b"hasleader", b"true"));
        }
        if bits & 8 > 0 {
            headers.push((b"client-api-version", input.piece()));
        }
        if bits & 16 > 0 {
            headers.push((input.piece(), input.piece()));
        }
        let flags = END_HEADERS | if bits & 0xe0 == 0xe0 { END_STREAM } else { 0 };
        let stream = self.stream(self.calls.len());
        self.connection.send(&frame(HEADERS, flags, stream, &block(&headers)));
        self.calls.push(method);
    }

    /// Sends a message of a call, in as many frames as the input wants.
    fn message(&mut self, input: &mut Input<'_>) {
        let (stream, method) = self.pick(input);
        let bits = input.byte();
        let mut message = messages::message(method, input);
        let compressed = bits & 3 == 3;
        if compressed {
            message = gzip(&message);
        }
        let mut bytes = vec![if bits & 12 == 12 { input.byte() } else { u8::from(compressed) }];
        bytes.extend((message.len() as u32).to_be_bytes());
        bytes.extend(message);
        let cut = if bits & 16 > 0 { usize::from(input.byte()) + 1 } else { 16_384 };
        let ends = bits & 96 != 0;
        let count = bytes.chunks(cut).len();
        for (number, part) in bytes.chunks(cut).enumerate() {
            let flags = if ends && number + 1 == count { END_STREAM } else { 0 };
            self.connection.send(&frame(DATA, flags, stream, part));
        }
    }
}

/// A header block without compression: literals that are not indexed (RFC 7541 §6.2.2).
fn block(headers: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            number(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    block
}

/// A length behind a bit that says that no Huffman code follows (RFC 7541 §5.1).
fn number(mut number: usize, block: &mut Vec<u8>) {
    if number < 127 {
        return block.push(number as u8);
    }
    block.push(127);
    number -= 127;
    while number >= 128 {
        block.push(number as u8 | 128);
        number >>= 7;
    }
    block.push(number as u8);
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(message).expect("a Vec takes all");
    encoder.finish().expect("a Vec takes all")
}
