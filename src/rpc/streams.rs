//! An HTTP/2 connection, shared between the task that owns its socket and those that answer its streams. In: the client's bytes, by the
//! first; answers, by the others. Out: bodies and room for answers. Always: a stream is held by its [`RequestBody`] and its [`Answer`],
//! and ended when both are dropped; what is to be sent wakes the first task.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};

use super::allowance::Ticket;
use super::frame::Segment;
use super::grpc::Gone;
use super::stream::Socket;
use crate::http2::{Broken, Connection, Head, Id, Reason, Request, Settings, Signs};

/// Slices that one write takes.
const SLICES: usize = 64;

/// The streams of a connection.
pub struct Streams(Mutex<State>);

struct State {
    http2: Connection<Ticket>,
    /// Whoever owns the socket.
    owner: Option<Waker>,
    /// He is at work, and will look for what is to be sent.
    is_at_work: bool,
}

impl State {
    /// Something may be there to be sent.
    fn wake(&mut self) {
        if !self.is_at_work
            && self.http2.outgoing() > 0
            && let Some(owner) = &self.owner
        {
            owner.wake_by_ref();
        }
    }
}

impl Streams {
    /// Of a new connection.
    pub fn new(settings: Settings) -> Arc<Streams> {
        Arc::new(Streams(Mutex::new(State { http2: Connection::new(settings), owner: None, is_at_work: false })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while it was held")
    }

    fn change<T>(&self, change: impl FnOnce(&mut Connection<Ticket>) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state.http2);
        state.wake();
        result
    }

    /// The owner goes to work: nobody has to wake him.
    pub fn begin_work(&self, cx: &Context<'_>) {
        let mut state = self.lock();
        state.is_at_work = true;
        if !state.owner.as_ref().is_some_and(|owner| owner.will_wake(cx.waker())) {
            state.owner = Some(cx.waker().clone());
        }
    }

    /// The owner has done what he could, and sends what there is, as far as the socket takes it. Ready: all of it.
    pub fn end_work(&self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        let sent = state.send(socket, cx);
        state.is_at_work = false;
        ready!(sent)?;
        socket.poll_flush(cx)
    }

    /// Sends what there is, if it is `more` than so many bytes.
    pub fn send(&self, more: usize, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.http2.outgoing() > more { state.send(socket, cx) } else { Poll::Ready(Ok(())) }
    }

    /// The client has sent these bytes.
    pub fn receive(&self, bytes: &[u8]) -> Result<(), Broken> {
        self.lock().http2.receive(bytes)
    }

    /// Whether the client has begun as it should.
    pub fn is_established(&self) -> bool {
        self.lock().http2.is_established()
    }

    /// The next request.
    pub fn accept(self: &Arc<Streams>) -> Option<(Arc<Head>, RequestBody, Answer)> {
        let Request { id, head } = self.lock().http2.accept()?;
        let hold = || Held { streams: self.clone(), id };
        Some((head, RequestBody(hold()), Answer(hold())))
    }

    /// What has passed since the last time.
    pub fn take_signs(&self) -> Signs {
        self.lock().http2.take_signs()
    }

    /// Asks the client whether it is there.
    pub fn ping(&self) {
        self.lock().http2.ping();
    }

    /// Asks the client to leave, when it has its answers.
    pub fn leave(&self) {
        self.lock().http2.leave();
    }

    /// Sends the client away.
    pub fn go_away(&self, reason: Reason, word: &[u8]) {
        self.lock().http2.go_away(reason, word);
    }

    /// Whether nothing more can come of the connection.
    pub fn is_over(&self) -> bool {
        let state = self.lock();
        state.http2.is_over() && state.http2.outgoing() == 0
    }

    /// The client is gone: whoever answers it learns that.
    pub fn end(&self) {
        self.lock().http2.end();
    }
}

impl State {
    fn send(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.http2.outgoing() > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.http2.slices(&mut slices);
            match ready!(socket.poll_write(cx, &slices[..filled]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.http2.sent(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A stream that somebody holds.
struct Held {
    streams: Arc<Streams>,
    id: Id,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.streams.change(|http2| http2.release(self.id));
    }
}

/// The client's half of a stream.
pub struct RequestBody(Held);

impl RequestBody {
    /// What has come. None: that was all. What is taken makes room for more.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Gone>>> {
        let Held { streams, id } = &self.0;
        streams.change(|http2| http2.poll_body(*id, cx)).map(|body| body.map(|bytes| bytes.map_err(|_| Gone)))
    }
}

/// Our half of a stream.
pub struct Answer(Held);

impl Answer {
    /// Ready when the client has reset the stream or its connection has ended.
    pub fn poll_gone(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Held { streams, id } = &self.0;
        streams.lock().http2.poll_reset(*id, cx).map(drop)
    }

    /// Sends a status and fields; a field that is marked will be sent again.
    pub fn head<'a>(&mut self, status: u16, fields: impl IntoIterator<Item = (&'a [u8], &'a [u8], bool)>, ends: bool) {
        self.0.streams.change(|http2| http2.send_head(self.0.id, status, fields, ends));
    }

    /// Sends these bytes as the client's windows open. Ready when the last one has its place.
    pub fn poll_send(&mut self, segment: &mut Segment, cx: &Context<'_>) -> Poll<Result<(), Gone>> {
        let Held { streams, id } = &self.0;
        streams.change(|http2| {
            while segment.has_remaining() {
                let room = ready!(http2.poll_room(*id, segment.remaining(), cx)).map_err(|_| Gone)?;
                let mut part = segment.split_to(room);
                let (body, ticket) = part.take_body();
                http2.send_data(*id, part.prefix(), body, ticket, false);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Sends the last fields.
    pub fn trailers<'a>(self, fields: impl IntoIterator<Item = (&'a [u8], &'a [u8], bool)>) {
        self.0.streams.change(|http2| http2.send_trailers(self.0.id, fields));
    }

    /// Ends the answer.
    pub fn end(self) {
        self.0.streams.change(|http2| http2.send_data(self.0.id, &[], Bytes::new(), None, true));
    }

    /// Breaks the answer off: what was sent of it cannot be completed.
    pub fn reset(self) {
        self.0.streams.change(|http2| http2.reset(self.0.id, Reason::INTERNAL_ERROR));
    }
}

/// A request's fields as `http` has them. None: one of them it cannot have.
pub fn header_map(head: &Head) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(head.fields.len());
    for field in &head.fields {
        let name = http::HeaderName::from_bytes(&field.name).ok()?;
        map.append(name, HeaderValue::from_maybe_shared(field.value.clone()).ok()?);
    }
    Some(map)
}
