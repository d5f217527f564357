//! One HTTP/2 connection with gRPC calls on it, as little of it as a client needs: it writes requests in place into one buffer that
//! leaves in one write, and looks at replies where the socket's bytes lie.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::hostile::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WIDE, WINDOW_UPDATE,
    again, call,
};

use super::fields::Fields;
use super::flow::{Stream, Streams, Waiting};

/// PADDED and PRIORITY of HEADERS and DATA; ACK of SETTINGS and PING.
const PADDED: u8 = 8;
const PRIORITIZED: u8 = 0x20;
const ACK: u8 = 1;
const FRAME: usize = 9;
/// In front of every gRPC message: compressed or not, length.
const PREFIX: usize = 5;
/// SETTINGS_MAX_FRAME_SIZE that every server takes.
const LARGEST_FRAME: usize = 16_384;
/// What the server may send us before we give room again: on a stream and on the connection. Room is given when half is used.
const STREAM_ROOM: u32 = 1 << 20;
const CONNECTION_ROOM: u32 = 16 << 20;
const INPUT: usize = 256 * 1024;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Whole messages that came.
    pub messages: u32,
    /// `grpc-status`; none: the stream was reset, or ended without trailers.
    pub status: Option<u32>,
}

impl End {
    /// Whether a unary call has done what it was asked for: an answer, and the word that it is one.
    pub fn is_success(self) -> bool {
        self == End { messages: 1, status: Some(0) }
    }
}

/// What takes replies as they come.
pub trait Replies {
    /// A whole message on a stream of `client`.
    fn message(&mut self, from: &mut Connection, stream: u32, client: u32, message: &[u8]) -> io::Result<()>;
    /// A stream of `client` is over.
    fn end(&mut self, from: &mut Connection, client: u32, end: End) -> io::Result<()>;
}

/// The connection. All its calls are of one method.
pub struct Connection {
    socket: TcpStream,
    /// Its number among its kind.
    pub number: usize,
    /// The next call's header block: whole for the first, then a few bytes.
    block: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    filled: usize,
    fields: Fields,
    /// A header block of which a part has come: its stream, its frame's flags.
    unfinished: Option<(u32, u8, Vec<u8>)>,
    streams: Streams,
    /// What we may send on the connection, and on each new stream.
    window: i64,
    first_window: i64,
    waiting: VecDeque<Waiting>,
    taken: u32,
    /// SETTINGS_MAX_CONCURRENT_STREAMS
    at_once: u32,
}

impl Connection {
    /// Connects for calls of this method.
    pub fn open(to: SocketAddr, path: &str, number: usize) -> io::Result<Connection> {
        let socket = TcpStream::connect(to)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut connection = Connection {
            socket,
            number,
            block: call(path),
            out: PREFACE.to_vec(),
            sent: 0,
            input: vec![0; INPUT],
            filled: 0,
            fields: Fields::default(),
            unfinished: None,
            streams: Streams::default(),
            window: 65_535,
            first_window: 65_535,
            waiting: VecDeque::new(),
            taken: 0,
            at_once: u32::MAX,
        };
        let mut room = vec![0, 4];
        room.extend(STREAM_ROOM.to_be_bytes());
        connection.frame(SETTINGS, 0, 0, &room);
        connection.frame(WINDOW_UPDATE, 0, 0, &(CONNECTION_ROOM - 65_535).to_be_bytes());
        Ok(connection)
    }

    /// Its socket, to be waited for.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether bytes wait for the socket to take them.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Opens a stream for `client`, without any message yet.
    ///
    /// # Errors
    /// When the server does not allow that many: the load could not be what it is said to be.
    pub fn begin(&mut self, client: u32) -> io::Result<u32> {
        if self.streams.open() >= self.at_once {
            return Err(io::Error::other(format!("the server takes {} calls a connection at once", self.at_once)));
        }
        let stream = self.streams.begin(client, self.first_window);
        let block = std::mem::take(&mut self.block);
        self.frame(HEADERS, END_HEADERS, stream, &block);
        self.block = if block.len() > again().len() { again() } else { block };
        Ok(stream)
    }

    /// Sends the message that `write` makes; `last` ends our half of the stream.
    pub fn send(&mut self, stream: u32, last: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        let flags = if last { END_STREAM } else { 0 };
        self.head(0, DATA, flags, stream);
        self.out.extend([0; PREFIX]);
        write(&mut self.out);
        let length = self.out.len() - start - FRAME;
        let message = ((length - PREFIX) as u32).to_be_bytes();
        self.out[start + FRAME + 1..][..4].copy_from_slice(&message);
        let window = self.streams.get(stream).map_or(0, |open| open.window);
        let room = self.window.min(window);
        if length <= LARGEST_FRAME && length as i64 <= room && self.waiting.is_empty() {
            self.out[start..start + 3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
            self.spend(stream, length);
        } else {
            let bytes = self.out.split_off(start + FRAME);
            self.out.truncate(start);
            self.waiting.push_back(Waiting { stream, bytes, sent: 0, last });
            self.send_waiting();
        }
    }

    fn spend(&mut self, stream: u32, length: usize) {
        self.window -= length as i64;
        if let Some(open) = self.streams.get(stream) {
            open.window -= length as i64;
        }
    }

    /// Sends as much of what waits for room as there is room for, the oldest first.
    fn send_waiting(&mut self) {
        for mut data in std::mem::take(&mut self.waiting) {
            while let Some(open) = self.streams.get(data.stream) {
                let room = self.window.min(open.window).clamp(0, LARGEST_FRAME as i64) as usize;
                let length = room.min(data.bytes.len() - data.sent);
                if length == 0 {
                    self.waiting.push_back(data);
                    break;
                }
                let piece = &data.bytes[data.sent..data.sent + length];
                data.sent += length;
                let done = data.sent == data.bytes.len();
                let flags = if done && data.last { END_STREAM } else { 0 };
                head(&mut self.out, length, DATA, flags, data.stream);
                self.out.extend_from_slice(piece);
                self.spend(data.stream, length);
                if done {
                    break;
                }
            }
        }
    }

    fn head(&mut self, length: usize, kind: u8, flags: u8, stream: u32) {
        head(&mut self.out, length, kind, flags, stream);
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.head(payload.len(), kind, flags, stream);
        self.out.extend_from_slice(payload);
    }

    /// Writes what waits; what the socket does not take stays.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            match (&self.socket).write(&self.out[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Takes what has come, once.
    ///
    /// # Errors
    /// When the server ends the connection or breaks the protocol.
    pub fn receive(&mut self, replies: &mut impl Replies) -> io::Result<()> {
        match (&self.socket).read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server hung up")),
            Ok(length) => self.filled += length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(error),
        }
        // Out of the way while the replies in it are acted upon.
        let mut input = std::mem::take(&mut self.input);
        let result = self.frames(&input[..self.filled], replies);
        if let Ok(read) = result {
            input.copy_within(read..self.filled, 0);
            self.filled -= read;
        }
        self.input = input;
        if self.taken > CONNECTION_ROOM / 2 {
            let room = std::mem::take(&mut self.taken).to_be_bytes();
            self.frame(WINDOW_UPDATE, 0, 0, &room);
        }
        result.map(|_| ())
    }

    /// Reads the whole frames at the front of `input`; gives the bytes they took.
    fn frames(&mut self, input: &[u8], replies: &mut impl Replies) -> io::Result<usize> {
        let mut at = 0;
        while let Some(head) = input.get(at..at + FRAME) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if length > LARGEST_FRAME {
                return Err(broken("a frame larger than we allow"));
            }
            let Some(payload) = input.get(at + FRAME..at + FRAME + length) else { break };
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & WIDE;
            self.one_frame(head[3], head[4], stream, payload, replies)?;
            at += FRAME + length;
        }
        Ok(at)
    }

    fn one_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], replies: &mut impl Replies) -> io::Result<()> {
        match kind {
            DATA => self.data(flags, stream, payload, replies),
            HEADERS if flags & END_HEADERS != 0 => self.headers(flags, stream, unpadded(flags, payload)?, replies),
            HEADERS => {
                self.unfinished = Some((stream, flags, unpadded(flags, payload)?.to_vec()));
                Ok(())
            }
            CONTINUATION => {
                let (begun, first, mut block) = self.unfinished.take().ok_or_else(|| broken("CONTINUATION of nothing"))?;
                block.extend_from_slice(payload);
                if flags & END_HEADERS != 0 {
                    return self.headers(first, begun, &block, replies);
                }
                self.unfinished = Some((begun, first, block));
                Ok(())
            }
            RST_STREAM => self.over(stream, None, replies),
            SETTINGS if flags & ACK == 0 => self.settings(payload),
            PING if flags & ACK == 0 => {
                self.frame(PING, ACK, 0, payload);
                Ok(())
            }
            GOAWAY => Err(broken(&format!("the server said GOAWAY: {}", String::from_utf8_lossy(payload)))),
            WINDOW_UPDATE => self.window_update(stream, payload),
            _ => Ok(()),
        }
    }

    fn settings(&mut self, payload: &[u8]) -> io::Result<()> {
        for setting in payload.chunks_exact(6) {
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match setting[1] {
                3 => self.at_once = value,
                4 => {
                    let more = i64::from(value) - self.first_window;
                    self.first_window = i64::from(value);
                    self.streams.each(|open| open.window += more);
                }
                _ => {}
            }
        }
        self.frame(SETTINGS, ACK, 0, &[]);
        self.send_waiting();
        Ok(())
    }

    fn window_update(&mut self, stream: u32, payload: &[u8]) -> io::Result<()> {
        let more = payload.try_into().map(u32::from_be_bytes).map_err(|_| broken("a WINDOW_UPDATE of another size"))?;
        if stream == 0 {
            self.window += i64::from(more);
        } else if let Some(open) = self.streams.get(stream) {
            open.window += i64::from(more);
        }
        if !self.waiting.is_empty() {
            self.send_waiting();
        }
        Ok(())
    }

    fn data(&mut self, flags: u8, stream: u32, payload: &[u8], replies: &mut impl Replies) -> io::Result<()> {
        self.taken += payload.len() as u32;
        let mut rest = unpadded(flags & !PRIORITIZED, payload)?;
        let Some(Stream { client, taken, partial, .. }) = self.streams.get(stream) else { return Ok(()) };
        let client = *client;
        *taken += payload.len() as u32;
        let room = if *taken > STREAM_ROOM / 2 { std::mem::take(taken) } else { 0 };
        let mut joined = std::mem::take(partial);
        if !joined.is_empty() {
            joined.extend_from_slice(rest);
            rest = &joined;
        }
        let all = rest.len();
        while let Some((message, tail)) = split_message(rest)? {
            rest = tail;
            if let Some(open) = self.streams.get(stream) {
                open.messages += 1;
            }
            replies.message(self, stream, client, message)?;
        }
        let left = rest.len();
        let partial = if left == all && !joined.is_empty() { joined } else { rest.to_vec() };
        if left > 0
            && let Some(open) = self.streams.get(stream)
        {
            open.partial = partial;
        }
        if flags & END_STREAM != 0 {
            return self.over(stream, None, replies);
        }
        if room > 0 {
            self.frame(WINDOW_UPDATE, 0, stream, &room.to_be_bytes());
        }
        Ok(())
    }

    fn headers(&mut self, flags: u8, stream: u32, block: &[u8], replies: &mut impl Replies) -> io::Result<()> {
        let status = self.fields.read(block).map_err(|why| broken(&why))?;
        if flags & END_STREAM != 0 { self.over(stream, status, replies) } else { Ok(()) }
    }

    fn over(&mut self, stream: u32, status: Option<u32>, replies: &mut impl Replies) -> io::Result<()> {
        let Some(open) = self.streams.end(stream) else { return Ok(()) };
        // A message of which only a part came makes no success.
        let status = if open.partial.is_empty() { status } else { None };
        replies.end(self, open.client, End { messages: open.messages, status })
    }
}

fn head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, d, e, f, g]);
}

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// The payload without padding and priority.
fn unpadded(flags: u8, payload: &[u8]) -> io::Result<&[u8]> {
    let mut rest = payload;
    let mut padding = 0;
    if flags & PADDED != 0 {
        let (&first, tail) = rest.split_first().ok_or_else(|| broken("a frame without its padding"))?;
        (padding, rest) = (usize::from(first), tail);
    }
    if flags & PRIORITIZED != 0 {
        rest = rest.get(5..).ok_or_else(|| broken("a frame without its priority"))?;
    }
    rest.len().checked_sub(padding).map(|end| &rest[..end]).ok_or_else(|| broken("a frame of more padding than bytes"))
}

/// The first whole message, and what follows it.
fn split_message(bytes: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    let Some((prefix, rest)) = bytes.split_at_checked(PREFIX) else { return Ok(None) };
    if prefix[0] != 0 {
        return Err(broken("a compressed message, which nobody asked for"));
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    Ok(rest.split_at_checked(length))
}
