//! Our frames, within the windows that the client has given.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::Connection;
use crate::http2::frame::{Head as FrameHead, LONGEST, Reason, flag, kind};
use crate::http2::stream::{Id, remember};

impl<H> Connection<H> {
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
    pub(super) fn call_next(&mut self) {
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
    pub(super) fn pass_turn(&mut self, place: usize) {
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
            let (now, later) = rest.split_at(rest.len().min(LONGEST));
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
            let now = left.min(LONGEST);
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

    /// Bytes of a stream's body were taken: the client may send as many again.
    pub(super) fn give_back_of(&mut self, place: usize, count: u32) {
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

    pub(super) fn give_back(&mut self, count: u32) {
        self.taken += count;
        if self.taken >= self.settings.connection_window / 2 {
            let more = std::mem::take(&mut self.taken);
            self.receive_window += i64::from(more);
            self.put_window_update(0, more);
        }
    }

    pub(super) fn put_window_update(&mut self, stream: u32, more: u32) {
        self.outgoing.put(&FrameHead { length: 4, kind: kind::WINDOW_UPDATE, flags: 0, stream }.bytes());
        self.outgoing.put(&more.to_be_bytes());
    }

    pub(super) fn put_reset(&mut self, stream: u32, reason: Reason) {
        self.outgoing.put(&FrameHead { length: 4, kind: kind::RST_STREAM, flags: 0, stream }.bytes());
        self.outgoing.put(&reason.0.to_be_bytes());
    }

    pub(super) fn put_ping(&mut self, flags: u8, payload: &[u8]) {
        self.outgoing.put(&FrameHead { length: 8, kind: kind::PING, flags, stream: 0 }.bytes());
        self.outgoing.put(payload);
    }

    pub(super) fn put_go_away(&mut self, last: u32, reason: Reason, word: &[u8]) {
        self.outgoing.put(&FrameHead { length: 8 + word.len(), kind: kind::GOAWAY, flags: 0, stream: 0 }.bytes());
        self.outgoing.put(&last.to_be_bytes());
        self.outgoing.put(&reason.0.to_be_bytes());
        self.outgoing.put(word);
    }
}
