//! The connection itself: frames in, requests out, answers in, frames out.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use slab::Slab;

use super::PREFACE;
use super::frame::{self, Head as FrameHead, LONGEST, Reason, flag, kind, setting, u32_at};
use super::head::{Head, Read, Reader};
use super::hpack::{Decoder, Encoder};
use super::outgoing::Outgoing;
use super::stream::{Id, Stream, remember};

/// Both sides' windows before anybody says otherwise, in bytes.
const WINDOW: u32 = 65_535;
const MAX_WINDOW: i64 = (1 << 31) - 1;
/// Mistakes on streams that are borne.
const MISTAKES: u32 = 1024;
/// DATA frames with nothing in them that are borne.
const EMPTY_FRAMES: u32 = 100;
/// Pieces that a header block may come in.
const CONTINUATIONS: u32 = 128;
/// Header blocks whose meaning is remembered.
const REMEMBERED: usize = 4;
/// No longer ones.
const REMEMBERED_BYTES: usize = 256;
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
    places: HashMap<u32, usize>,
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
    max_frame: usize,
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
            places: HashMap::new(),
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
            max_frame: LONGEST,
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

    fn take(&mut self, mut bytes: &[u8]) -> Outcome {
        if !self.is_established() {
            let count = bytes.len().min(PREFACE.len() - self.preface);
            if bytes[..count] != PREFACE[self.preface..self.preface + count] {
                return broken(Reason::PROTOCOL_ERROR, "this is not how HTTP/2 begins");
            }
            self.preface += count;
            bytes = &bytes[count..];
        }
        while !bytes.is_empty() {
            if self.partial.is_empty()
                && let Some(head) = head_of(bytes)?
                && let Some((payload, rest)) = bytes[frame::HEAD..].split_at_checked(head.length)
            {
                self.take_frame(head, payload)?;
                bytes = rest;
                continue;
            }
            // What is cut is put together.
            let wanted = match head_of(&self.partial)? {
                Some(head) => frame::HEAD + head.length,
                None => frame::HEAD,
            };
            let count = bytes.len().min(wanted - self.partial.len());
            self.partial.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if let Some(head) = head_of(&self.partial)?.filter(|head| self.partial.len() == frame::HEAD + head.length) {
                let whole = std::mem::take(&mut self.partial);
                self.take_frame(head, &whole[frame::HEAD..])?;
            }
        }
        Ok(())
    }

    fn take_frame(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if self.block.is_some() && head.kind != kind::CONTINUATION {
            return broken(Reason::PROTOCOL_ERROR, "a header block is interrupted");
        }
        if !std::mem::replace(&mut self.has_settings, true) && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return broken(Reason::PROTOCOL_ERROR, "the first frame is not SETTINGS");
        }
        match head.kind {
            kind::DATA => self.take_data(head, payload),
            kind::HEADERS => self.take_headers(head, payload),
            kind::PRIORITY => self.take_priority(head, payload),
            kind::RST_STREAM => self.take_reset(head, payload),
            kind::SETTINGS => self.take_settings(head, payload),
            kind::PUSH_PROMISE => broken(Reason::PROTOCOL_ERROR, "a client cannot push"),
            kind::PING => self.take_ping(head, payload),
            kind::GOAWAY => self.take_go_away(head, payload),
            kind::WINDOW_UPDATE => self.take_window_update(head, payload),
            kind::CONTINUATION => self.take_continuation(head, payload),
            // What is unknown is passed over (RFC 9113 §5.5).
            _ => Ok(()),
        }
    }

    fn take_data(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        let number = self.a_stream(head)?;
        let data = unpadded(head, payload)?;
        let ends = head.has(flag::END_STREAM);
        if payload.is_empty() && !ends {
            self.empty_frames += 1;
            if self.empty_frames > EMPTY_FRAMES {
                return broken(Reason::ENHANCE_YOUR_CALM, "too many empty DATA frames");
            }
        }
        // Padding counts for both windows.
        let length = payload.len() as u32;
        self.receive_window -= i64::from(length);
        if self.receive_window < 0 {
            return broken(Reason::FLOW_CONTROL_ERROR, "more data than the connection's window");
        }
        let Some(&place) = self.places.get(&number) else {
            // Of a stream that is over: it may have been on its way.
            self.give_back(length);
            return Ok(());
        };
        let stream = &mut self.streams[place];
        stream.receive_window -= i64::from(length);
        let reason = if stream.has_ended {
            Some(Reason::STREAM_CLOSED)
        } else if stream.receive_window < 0 {
            Some(Reason::FLOW_CONTROL_ERROR)
        } else {
            stream.announced = stream.announced.map(|left| left.wrapping_sub(data.len() as u64));
            let is_wrong = stream.announced.is_some_and(|left| left > i64::MAX as u64 || (ends && left > 0));
            is_wrong.then_some(Reason::PROTOCOL_ERROR)
        };
        if let Some(reason) = reason {
            self.give_back(length);
            return self.refuse(place, reason);
        }
        stream.body.extend_from_slice(data);
        stream.has_ended = ends;
        stream.wake_reader();
        self.give_back_of(place, length - data.len() as u32);
        self.settle(place);
        Ok(())
    }

    fn take_headers(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        let number = head.stream;
        if number.is_multiple_of(2) {
            return broken(Reason::PROTOCOL_ERROR, "HEADERS on a stream that is none of a client");
        }
        let mut bytes = unpadded(head, payload)?;
        if head.has(flag::PRIORITY) {
            let Some((priority, rest)) = bytes.split_at_checked(5) else {
                return broken(Reason::FRAME_SIZE_ERROR, "HEADERS without room for a priority");
            };
            if u32_at(priority, 0) & 0x7fff_ffff == number {
                return broken(Reason::PROTOCOL_ERROR, "a stream that depends on itself");
            }
            bytes = rest;
        }
        let ends_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.take_block(number, ends_stream, bytes);
        }
        self.block = Some(Block { stream: number, ends_stream, bytes: bytes.to_vec(), pieces: 0 });
        Ok(())
    }

    fn take_continuation(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        let Some(block) = self.block.as_mut().filter(|block| block.stream == head.stream) else {
            return broken(Reason::PROTOCOL_ERROR, "CONTINUATION of nothing");
        };
        block.pieces += 1;
        if block.pieces > CONTINUATIONS || block.bytes.len() + payload.len() > self.settings.max_header_list_size as usize {
            return broken(Reason::ENHANCE_YOUR_CALM, "a header block that is too long");
        }
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS)
            && let Some(Block { stream, ends_stream, bytes, .. }) = self.block.take()
        {
            return self.take_block(stream, ends_stream, &bytes);
        }
        Ok(())
    }

    /// A whole header block: a request's head, or the trailers of one.
    fn take_block(&mut self, number: u32, ends: bool, block: &[u8]) -> Outcome {
        if number <= self.last {
            return self.take_trailers(number, ends, block);
        }
        self.last = number;
        let read = self.read_head(block)?;
        if matches!(self.phase, Phase::Left(last) if number > last) {
            return Ok(());
        }
        let place = self.streams.insert(Stream::new(number, self.settings.stream_window, self.initial_window));
        self.places.insert(number, place);
        self.streams[place].has_ended = ends;
        let head = match read {
            Ok(head) => head,
            Err(Read::TooLarge) => {
                self.send_head(Id { place, number }, 431, [], true);
                if self.streams.contains(place) {
                    self.break_off(place, Reason::NO_ERROR);
                }
                return Ok(());
            }
            Err(_) => return self.refuse(place, Reason::PROTOCOL_ERROR),
        };
        if self.places.len() > self.settings.max_concurrent_streams as usize {
            self.put_reset(number, Reason::REFUSED_STREAM);
            self.forget(place);
            return Ok(());
        }
        if ends && head.content_length.is_some_and(|length| length > 0) {
            return self.refuse(place, Reason::PROTOCOL_ERROR);
        }
        let stream = &mut self.streams[place];
        stream.announced = head.content_length;
        stream.holders = 2;
        self.requests.push_back(Request { id: Id { place, number }, head });
        Ok(())
    }

    /// The same bytes mean the same, as long as nothing is learned: most clients send little else.
    fn read_head(&mut self, block: &[u8]) -> Result<Result<Arc<Head>, Read>, Broken> {
        if let Some((_, head)) = self.known.iter().find(|(known, _)| **known == *block) {
            return Ok(Ok(head.clone()));
        }
        let mut reader = Reader::new(self.settings.max_header_list_size as usize);
        let has_learned = self.decode(block, |field| reader.take(field))?;
        let head = match reader.finish() {
            Read::Head(head) => Arc::new(head),
            other => return Ok(Err(other)),
        };
        if !has_learned && block.len() <= REMEMBERED_BYTES {
            self.known.truncate(REMEMBERED - 1);
            self.known.push_front((block.into(), head.clone()));
        }
        Ok(Ok(head))
    }

    fn take_trailers(&mut self, number: u32, ends: bool, block: &[u8]) -> Outcome {
        // Read in any case, for what is to be learned from it.
        let mut is_pseudo = false;
        self.decode(block, |field| is_pseudo |= field.name.starts_with(b":"))?;
        let Some(&place) = self.places.get(&number) else { return Ok(()) };
        let stream = &mut self.streams[place];
        if stream.has_ended {
            return self.refuse(place, Reason::STREAM_CLOSED);
        }
        if !ends || is_pseudo || stream.announced.is_some_and(|left| left > 0) {
            return self.refuse(place, Reason::PROTOCOL_ERROR);
        }
        stream.has_ended = true;
        stream.wake_reader();
        self.settle(place);
        Ok(())
    }

    /// Whether something was learned: then no block means what it meant.
    fn decode(&mut self, block: &[u8], each: impl FnMut(super::Field)) -> Result<bool, Broken> {
        let learned = self.decoder.decode(block, each);
        if learned != Ok(false) {
            self.known.clear();
        }
        learned.map_err(|_| Broken { reason: Reason::COMPRESSION_ERROR, why: "a header block that cannot be read" })
    }

    fn take_priority(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream == 0 {
            return broken(Reason::PROTOCOL_ERROR, "PRIORITY of the connection");
        }
        let reason = match payload.len() {
            5 if u32_at(payload, 0) & 0x7fff_ffff == head.stream => Reason::PROTOCOL_ERROR,
            5 => return Ok(()),
            _ => Reason::FRAME_SIZE_ERROR,
        };
        match self.places.get(&head.stream) {
            Some(&place) => self.refuse(place, reason),
            None => Ok(()),
        }
    }

    fn take_reset(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if payload.len() != 4 {
            return broken(Reason::FRAME_SIZE_ERROR, "RST_STREAM of a wrong length");
        }
        let number = self.a_stream(head)?;
        if let Some(&place) = self.places.get(&number) {
            self.streams[place].reset = Some(Reason(u32_at(payload, 0)));
            self.settle(place);
        }
        Ok(())
    }

    fn take_settings(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream != 0 {
            return broken(Reason::PROTOCOL_ERROR, "SETTINGS of a stream");
        }
        if head.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { broken(Reason::FRAME_SIZE_ERROR, "SETTINGS ACK with settings") };
        }
        if !payload.len().is_multiple_of(6) {
            return broken(Reason::FRAME_SIZE_ERROR, "SETTINGS of a wrong length");
        }
        for pair in payload.chunks_exact(6) {
            let value = u32_at(pair, 2);
            match u16::from_be_bytes([pair[0], pair[1]]) {
                setting::HEADER_TABLE_SIZE => self.encoder.set_max_size(value as usize),
                setting::ENABLE_PUSH if value > 1 => return broken(Reason::PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1"),
                setting::INITIAL_WINDOW_SIZE => self.set_initial_window(i64::from(value))?,
                setting::MAX_FRAME_SIZE => match value as usize {
                    // No frame of ours gets longer: others would wait for it.
                    LONGEST..0x100_0000 => {}
                    _ => return broken(Reason::PROTOCOL_ERROR, "MAX_FRAME_SIZE is 2^14 to 2^24 - 1"),
                },
                _ => {}
            }
        }
        self.outgoing.put(&FrameHead { length: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.bytes());
        Ok(())
    }

    /// What streams may be sent changes for those that are open too (RFC 9113 §6.9.2).
    fn set_initial_window(&mut self, window: i64) -> Outcome {
        let more = window - self.initial_window;
        self.initial_window = window;
        let mut widest = window;
        for (_, stream) in &mut self.streams {
            stream.send_window += more;
            widest = widest.max(stream.send_window);
            if more > 0 {
                stream.wake_writer();
            }
        }
        if widest > MAX_WINDOW {
            return broken(Reason::FLOW_CONTROL_ERROR, "a window above 2^31 - 1");
        }
        Ok(())
    }

    fn take_ping(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream != 0 {
            return broken(Reason::PROTOCOL_ERROR, "PING of a stream");
        }
        if payload.len() != 8 {
            return broken(Reason::FRAME_SIZE_ERROR, "PING of a wrong length");
        }
        if !head.has(flag::ACK) {
            self.signs.pings += 1;
            self.put_ping(flag::ACK, payload);
        } else if payload == LEAVING && self.phase == Phase::Leaving {
            self.phase = Phase::Left(self.last);
            self.put_go_away(self.last, Reason::NO_ERROR, b"");
        }
        Ok(())
    }

    fn take_go_away(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if head.stream != 0 {
            return broken(Reason::PROTOCOL_ERROR, "GOAWAY of a stream");
        }
        if payload.len() < 8 {
            return broken(Reason::FRAME_SIZE_ERROR, "GOAWAY of a wrong length");
        }
        self.is_left = true;
        Ok(())
    }

    fn take_window_update(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if payload.len() != 4 {
            return broken(Reason::FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong length");
        }
        let more = i64::from(u32_at(payload, 0) & 0x7fff_ffff);
        if head.stream == 0 {
            self.send_window += more;
            if more == 0 {
                return broken(Reason::PROTOCOL_ERROR, "WINDOW_UPDATE by nothing");
            }
            if self.send_window > MAX_WINDOW {
                return broken(Reason::FLOW_CONTROL_ERROR, "a window above 2^31 - 1");
            }
            self.call_next();
            return Ok(());
        }
        let number = self.a_stream(head)?;
        let Some(&place) = self.places.get(&number) else { return Ok(()) };
        let stream = &mut self.streams[place];
        stream.send_window += more;
        if more == 0 {
            return self.refuse(place, Reason::PROTOCOL_ERROR);
        }
        if stream.send_window > MAX_WINDOW {
            return self.refuse(place, Reason::FLOW_CONTROL_ERROR);
        }
        stream.wake_writer();
        Ok(())
    }

    /// A stream that has been begun, open or not.
    fn a_stream(&self, head: FrameHead) -> Result<u32, Broken> {
        if head.stream == 0 || head.stream.is_multiple_of(2) || head.stream > self.last {
            return Err(Broken { reason: Reason::PROTOCOL_ERROR, why: "a frame of a stream that was never begun" });
        }
        Ok(head.stream)
    }

    /// The client has made a mistake on a stream.
    fn refuse(&mut self, place: usize, reason: Reason) -> Outcome {
        self.break_off(place, reason);
        self.mistakes += 1;
        if self.mistakes > MISTAKES {
            return broken(Reason::ENHANCE_YOUR_CALM, "too many mistakes on streams");
        }
        Ok(())
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
        self.places.remove(&stream.number);
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
        self.places.remove(&stream.number);
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

    /// How many of `wanted` bytes the client has room for: at least one. Whoever is told sends them now.
    pub fn poll_room(&mut self, id: Id, wanted: usize, cx: &Context<'_>) -> Poll<Result<usize, Reason>> {
        let stream = &mut self.streams[id.place];
        if let Some(reason) = stream.reset {
            return Poll::Ready(Err(reason));
        }
        if stream.send_window > 0 && self.send_window > 0 {
            stream.has_turn = false;
            let room = usize::try_from(stream.send_window.min(self.send_window)).unwrap_or(usize::MAX);
            return Poll::Ready(Ok(room.min(wanted)));
        }
        remember(&mut stream.writer, cx);
        if stream.send_window <= 0 {
            self.pass_turn(id.place);
        } else if !std::mem::replace(&mut stream.is_in_line, true) {
            stream.has_turn = false;
            self.line.push_back(id.place);
        }
        Poll::Pending
    }

    /// The connection's window is open: whoever is first in the line may use it.
    fn call_next(&mut self) {
        if self.send_window > 0
            && let Some(place) = self.line.pop_front()
        {
            let stream = &mut self.streams[place];
            stream.is_in_line = false;
            stream.has_turn = true;
            stream.wake_writer();
        }
    }

    /// A stream has no use for its turn.
    fn pass_turn(&mut self, place: usize) {
        if std::mem::take(&mut self.streams[place].has_turn) {
            self.call_next();
        }
    }

    /// Sends the head of an answer. A field that will be sent again is marked.
    pub fn send_head<'a>(
        &mut self,
        id: Id,
        status: u16,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8], bool)>,
        ends: bool,
    ) {
        self.send_block(id, Some(status), fields, ends);
    }

    /// Sends the last fields of an answer, which end it.
    pub fn send_trailers<'a>(&mut self, id: Id, fields: impl IntoIterator<Item = (&'a [u8], &'a [u8], bool)>) {
        self.send_block(id, None, fields, true);
    }

    fn send_block<'a>(
        &mut self,
        id: Id,
        status: Option<u16>,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8], bool)>,
        ends: bool,
    ) {
        let stream = &mut self.streams[id.place];
        if stream.reset.is_some() || stream.is_answered {
            return;
        }
        stream.is_answered = ends;
        let mut block = std::mem::take(&mut self.scratch);
        self.encoder.begin(&mut block);
        if let Some(status) = status {
            self.encoder.status(&mut block, status);
        }
        for (name, value, keep) in fields {
            self.encoder.field(&mut block, name, value, keep);
        }
        self.put_block(id.number, &block, ends);
        block.clear();
        self.scratch = block;
        self.signs.has_replied = true;
        self.settle(id.place);
    }

    fn put_block(&mut self, stream: u32, block: &[u8], ends: bool) {
        let mut kind = kind::HEADERS;
        let mut flags = if ends { flag::END_STREAM } else { 0 };
        let mut rest = block;
        loop {
            let (now, later) = rest.split_at(rest.len().min(self.max_frame));
            if later.is_empty() {
                flags |= flag::END_HEADERS;
            }
            self.outgoing.put(&FrameHead { length: now.len(), kind, flags, stream }.bytes());
            self.outgoing.put(now);
            if later.is_empty() {
                return;
            }
            (rest, kind, flags) = (later, kind::CONTINUATION, 0);
        }
    }

    /// Sends a part of an answer's body, for which there is room: first `prefix`, then `body`. `held` lives until it has left.
    pub fn send_data(&mut self, id: Id, prefix: &[u8], mut body: Bytes, held: Option<H>, ends: bool) {
        let stream = &mut self.streams[id.place];
        if stream.reset.is_some() || stream.is_answered {
            return;
        }
        let mut left = prefix.len() + body.len();
        let length = i64::try_from(left).expect("it is in memory");
        stream.send_window -= length;
        self.send_window -= length;
        assert!(left == 0 || (stream.send_window >= 0 && self.send_window >= 0), "there is room for it");
        stream.is_answered = ends;
        let mut prefix = Some(prefix);
        loop {
            let now = left.min(self.max_frame);
            left -= now;
            let flags = if ends && left == 0 { flag::END_STREAM } else { 0 };
            self.outgoing.put(&FrameHead { length: now, kind: kind::DATA, flags, stream: id.number }.bytes());
            let first = prefix.take().unwrap_or_default();
            self.outgoing.put(first);
            self.outgoing.put_body(body.split_to(now - first.len()));
            if left == 0 {
                break;
            }
        }
        if let Some(held) = held {
            self.outgoing.hold(held);
        }
        self.signs.has_replied = true;
        self.call_next();
        self.settle(id.place);
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

    /// Bytes of a stream's body were taken: the client may send as many again.
    fn give_back_of(&mut self, place: usize, count: u32) {
        let stream = &mut self.streams[place];
        stream.taken += count;
        if !stream.has_ended && stream.taken >= self.settings.stream_window / 2 {
            let more = std::mem::take(&mut stream.taken);
            stream.receive_window += i64::from(more);
            let number = stream.number;
            self.put_window_update(number, more);
        }
        self.give_back(count);
    }

    fn give_back(&mut self, count: u32) {
        self.taken += count;
        if self.taken >= self.settings.connection_window / 2 {
            let more = std::mem::take(&mut self.taken);
            self.receive_window += i64::from(more);
            self.put_window_update(0, more);
        }
    }

    fn put_window_update(&mut self, stream: u32, more: u32) {
        self.outgoing.put(&FrameHead { length: 4, kind: kind::WINDOW_UPDATE, flags: 0, stream }.bytes());
        self.outgoing.put(&more.to_be_bytes());
    }

    fn put_reset(&mut self, stream: u32, reason: Reason) {
        self.outgoing.put(&FrameHead { length: 4, kind: kind::RST_STREAM, flags: 0, stream }.bytes());
        self.outgoing.put(&reason.0.to_be_bytes());
    }

    fn put_ping(&mut self, flags: u8, payload: &[u8]) {
        self.outgoing.put(&FrameHead { length: 8, kind: kind::PING, flags, stream: 0 }.bytes());
        self.outgoing.put(payload);
    }

    fn put_go_away(&mut self, last: u32, reason: Reason, word: &[u8]) {
        self.outgoing.put(&FrameHead { length: 8 + word.len(), kind: kind::GOAWAY, flags: 0, stream: 0 }.bytes());
        self.outgoing.put(&last.to_be_bytes());
        self.outgoing.put(&reason.0.to_be_bytes());
        self.outgoing.put(word);
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

/// The head of a frame, once it is here. One that is too long is refused by its head.
fn head_of(bytes: &[u8]) -> Result<Option<FrameHead>, Broken> {
    let head = (bytes.len() >= frame::HEAD).then(|| FrameHead::read(bytes));
    match head {
        Some(head) if head.length > LONGEST => Err(Broken { reason: Reason::FRAME_SIZE_ERROR, why: "a frame above 16384 bytes" }),
        head => Ok(head),
    }
}

/// A frame's payload without its padding.
fn unpadded(head: FrameHead, payload: &[u8]) -> Result<&[u8], Broken> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let cut = payload.split_first().and_then(|(&padding, rest)| rest.get(..rest.len().checked_sub(usize::from(padding))?));
    cut.ok_or(Broken { reason: Reason::PROTOCOL_ERROR, why: "more padding than frame" })
}
