//! The client's frames (RFC 9113 §6), and what is wrong with them.

use std::sync::Arc;

use super::{Block, Broken, Connection, LEAVING, MAX_WINDOW, Outcome, Phase, Request, broken};
use crate::http2::PREFACE;
use crate::http2::frame::{self, Head as FrameHead, LONGEST, Reason, flag, kind, setting, u32_at};
use crate::http2::head::{Head, Read, Reader};
use crate::http2::hpack::Field;
use crate::http2::stream::{Id, Stream};

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

impl<H> Connection<H> {
    /// Takes these bytes, which may begin and end anywhere.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Outcome {
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
        let Some(place) = self.places.get(number) else {
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
        self.places.push(number, place);
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
        let Some(place) = self.places.get(number) else { return Ok(()) };
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
    fn decode(&mut self, block: &[u8], each: impl FnMut(Field)) -> Result<bool, Broken> {
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
        match self.places.get(head.stream) {
            Some(place) => self.refuse(place, reason),
            None => Ok(()),
        }
    }

    fn take_reset(&mut self, head: FrameHead, payload: &[u8]) -> Outcome {
        if payload.len() != 4 {
            return broken(Reason::FRAME_SIZE_ERROR, "RST_STREAM of a wrong length");
        }
        let number = self.a_stream(head)?;
        if let Some(place) = self.places.get(number) {
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
        let Some(place) = self.places.get(number) else { return Ok(()) };
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
