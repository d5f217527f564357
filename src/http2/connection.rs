//! The connection itself: what it knows, and who holds its streams. `receiving` takes the client's frames, `sending` makes ours.

mod receiving;
mod sending;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use slab::Slab;

use super::PREFACE;
use super::frame::{Head as FrameHead, Reason, kind, setting};
use super::head::Head;
use super::hpack::{Decoder, Encoder};
use super::outgoing::Outgoing;
use super::places::Places;
use super::stream::{Id, Stream, remember};

/// Both sides' windows before anybody says otherwise, in bytes.
const WINDOW: u32 = 65_535;
const MAX_WINDOW: i64 = (1 << 31) - 1;
/// Our PING that asks whether the client has heard that we are leaving.
const LEAVING: [u8; 8] = *b"leaving?";
/// Our PING that asks whether the client is there.
const THERE: [u8; 8] = *b"bramble?";

/// What a client may do.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Streams at a time.
    pub max_concurrent_streams: u32,
    /// Bytes of a request's head, each field counted with 32 bytes more. A header block is no longer either.
    pub max_header_list_size: u32,
    /// Bytes of a body that a client may be ahead of its reader.
    pub stream_window: u32,
    /// Of all bodies together.
    pub connection_window: u32,
}

/// A request whose head is here.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its stream, held twice: for its body and for its answer.
    pub id: Id,
    /// What is asked. Equal heads may be the same one.
    pub head: Arc<Head>,
}

/// The connection is over: what the client is told, and what the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The client's mistake, by its number.
    pub reason: Reason,
    /// In words.
    pub why: &'static str,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (HTTP/2 error {})", self.why, self.reason.0)
    }
}

/// What has passed since it was last asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Signs {
    /// PINGs of the client, its answers to ours left out.
    pub pings: u32,
    /// Whether headers or data were sent.
    pub has_replied: bool,
}

/// A header block that is not complete.
struct Block {
    stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
    pieces: u32,
}

/// How far the end of the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The client was told that we are leaving, and asked whether it has heard.
    Leaving,
    /// It has heard: no stream above this one is begun.
    Left(u32),
}

/// A connection. `H` is what lives until the bytes of an answer have left.
pub struct Connection<H> {
    settings: Settings,
    /// Bytes of the preface that have come.
    preface: usize,
    has_settings: bool,
    /// A frame that is not complete.
    partial: Vec<u8>,
    block: Option<Block>,
    decoder: Decoder,
    /// Blocks and their meaning, as long as nothing is learned.
    known: VecDeque<(Box<[u8]>, Arc<Head>)>,
    requests: VecDeque<Request>,
    streams: Slab<Stream>,
    places: Places,
    /// The newest stream of the client.
    last: u32,
    receive_window: i64,
    /// Bytes that were taken, and that the client has not been told it may send again.
    taken: u32,
    mistakes: u32,
    empty_frames: u32,
    signs: Signs,
    phase: Phase,
    /// The client said that it is leaving.
    is_left: bool,
    outgoing: Outgoing<H>,
    encoder: Encoder,
    /// A block of ours; its memory is kept.
    scratch: Vec<u8>,
    send_window: i64,
    /// What a new stream may be sent.
    initial_window: i64,
    /// Streams that wait for the connection's window.
    line: VecDeque<usize>,
}

type Outcome = Result<(), Broken>;

fn broken(reason: Reason, why: &'static str) -> Outcome {
    Err(Broken { reason, why })
}

impl<H> Connection<H> {
    /// The client's preface is still to come. Our settings are queued.
    pub fn new(settings: Settings) -> Connection<H> {
        let mut outgoing = Outgoing::new();
        let pairs = [
            (setting::MAX_CONCURRENT_STREAMS, settings.max_concurrent_streams),
            (setting::INITIAL_WINDOW_SIZE, settings.stream_window),
            (setting::MAX_HEADER_LIST_SIZE, settings.max_header_list_size),
        ];
        let payload: Vec<u8> = pairs
            .iter()
            .filter(|(_, value)| *value != u32::MAX)
            .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()))
            .collect();
        let head = FrameHead { length: payload.len(), kind: kind::SETTINGS, flags: 0, stream: 0 };
        outgoing.put(&head.bytes());
        outgoing.put(&payload);
        let mut connection = Connection {
            settings,
            preface: 0,
            has_settings: false,
            partial: Vec::new(),
            block: None,
            decoder: Decoder::new(),
            known: VecDeque::new(),
            requests: VecDeque::new(),
            streams: Slab::new(),
            places: Places::default(),
            last: 0,
            receive_window: i64::from(settings.connection_window),
            taken: 0,
            mistakes: 0,
            empty_frames: 0,
            signs: Signs::default(),
            phase: Phase::Open,
            is_left: false,
            outgoing,
            encoder: Encoder::new(),
            scratch: Vec::new(),
            send_window: i64::from(WINDOW),
            initial_window: i64::from(WINDOW),
            line: VecDeque::new(),
        };
        if let Some(more) = settings.connection_window.checked_sub(WINDOW).filter(|more| *more > 0) {
            connection.put_window_update(0, more);
        }
        connection
    }

    /// The client has sent these bytes. After an error nothing more may come; what the client is told of it is queued.
    pub fn receive(&mut self, bytes: &[u8]) -> Outcome {
        let outcome = self.take(bytes);
        if let Err(Broken { reason, why }) = outcome {
            self.go_away(reason, why.as_bytes());
            self.end();
        }
        outcome
    }

    /// The client is gone, or sent away: whoever waits for it learns that.
    pub fn end(&mut self) {
        for (_, stream) in &mut self.streams {
            if !stream.is_over() {
                stream.reset = Some(Reason::CANCEL);
            }
            stream.wake_reader();
            stream.wake_writer();
        }
    }

    /// Whether the client has begun as it should.
    pub fn is_established(&self) -> bool {
        self.preface == PREFACE.len()
    }

    /// Resets a stream from our side.
    fn break_off(&mut self, place: usize, reason: Reason) {
        let stream = &mut self.streams[place];
        if !stream.is_over() {
            stream.reset = Some(reason);
            let number = stream.number;
            self.put_reset(number, reason);
        }
        self.settle(place);
    }

    /// After a change to a stream: one that is over is no longer the client's, and one that nobody holds is no more.
    fn settle(&mut self, place: usize) {
        let stream = &mut self.streams[place];
        if !stream.is_over() {
            return;
        }
        stream.wake_reader();
        stream.wake_writer();
        self.places.remove(stream.number);
        if stream.reset.is_some() {
            // Nobody takes it any more.
            let untaken = std::mem::take(&mut stream.body).len() as u32;
            self.give_back(untaken);
        }
        self.pass_turn(place);
        if self.streams[place].holders == 0 {
            self.forget(place);
        }
    }

    fn forget(&mut self, place: usize) {
        let stream = self.streams.remove(place);
        self.places.remove(stream.number);
        self.give_back(stream.body.len() as u32);
        if stream.is_in_line {
            self.line.retain(|other| *other != place);
        }
    }

    /// The next request.
    pub fn accept(&mut self) -> Option<Request> {
        loop {
            let request = self.requests.pop_front()?;
            if self.streams[request.id.place].reset.is_none() {
                return Some(request);
            }
            // The client has thought better of it.
            self.streams[request.id.place].holders = 0;
            self.forget(request.id.place);
        }
    }

    /// Streams that are open, or that somebody holds.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// What has come of a request's body. None: that was all.
    pub fn poll_body(&mut self, id: Id, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        let stream = &mut self.streams[id.place];
        if let Some(reason) = stream.reset {
            return Poll::Ready(Some(Err(reason)));
        }
        if !stream.body.is_empty() {
            let body = std::mem::take(&mut stream.body);
            self.give_back_of(id.place, body.len() as u32);
            return Poll::Ready(Some(Ok(body.into())));
        }
        if stream.has_ended {
            return Poll::Ready(None);
        }
        remember(&mut stream.reader, cx);
        Poll::Pending
    }

    /// Ready when nobody hears an answer any more.
    pub fn poll_reset(&mut self, id: Id, cx: &Context<'_>) -> Poll<Reason> {
        let stream = &mut self.streams[id.place];
        match stream.reset {
            Some(reason) => Poll::Ready(reason),
            None => {
                remember(&mut stream.writer, cx);
                Poll::Pending
            }
        }
    }

    /// Breaks an answer off.
    pub fn reset(&mut self, id: Id, reason: Reason) {
        self.break_off(id.place, reason);
    }

    /// One of those who hold a stream needs it no longer. The last one ends what is left of it.
    pub fn release(&mut self, id: Id) {
        let stream = &mut self.streams[id.place];
        stream.holders -= 1;
        if stream.holders > 0 {
            return;
        }
        if stream.is_over() {
            self.settle(id.place);
        } else {
            // Whoever has his answer need not go on asking (RFC 9113 §8.1).
            let reason = if stream.is_answered { Reason::NO_ERROR } else { Reason::CANCEL };
            self.break_off(id.place, reason);
        }
    }

    /// Tells the client that the connection ends, and why; `word` is for its log.
    pub fn go_away(&mut self, reason: Reason, word: &[u8]) {
        self.put_go_away(self.last, reason, word);
    }

    /// Asks the client to leave: what it has begun is answered. Its newest stream is known for certain once it has heard.
    pub fn leave(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Leaving;
            self.put_go_away(u32::MAX >> 1, Reason::NO_ERROR, b"");
            self.put_ping(0, &LEAVING);
        }
    }

    /// Asks whether the client is there.
    pub fn ping(&mut self) {
        self.put_ping(0, &THERE);
    }

    /// Whether nothing more can come of it: one side is leaving, and nothing is left to answer.
    pub fn is_over(&self) -> bool {
        (matches!(self.phase, Phase::Left(_)) || self.is_left) && self.streams.is_empty()
    }

    /// What has passed since the last time.
    pub fn take_signs(&mut self) -> Signs {
        std::mem::take(&mut self.signs)
    }

    /// Bytes that wait to leave.
    pub fn outgoing(&self) -> usize {
        self.outgoing.len()
    }

    /// The next of them. How many slices were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.outgoing.slices(slices)
    }

    /// So many of them have left.
    pub fn sent(&mut self, count: usize) {
        self.outgoing.sent(count);
    }
}
