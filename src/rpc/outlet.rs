//! The replies of a stream, between its handler and the task that sends them. The handler may live in any task and be polled in any
//! way; the sending task alone touches HTTP/2.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_lite::future;

use super::allowance::{Allowance, Room, Ticket};
use super::frame::Segment;
use super::grpc::{Gone, MethodId, Services};
use super::sender::Sender;

/// Bytes that a handler may be ahead of its client before [`Replies::send`] waits. One message more may come on top.
const AHEAD: usize = 64 * 1024;

/// Where a streaming handler puts its replies.
pub struct Replies {
    outlet: Arc<Outlet>,
    room: Room,
    services: Arc<dyn Services>,
    method: MethodId,
}

impl Replies {
    /// Queues a message. Waits while the client is too far behind; a queued message is sent even if the handler ends at once.
    pub async fn send(&mut self, message: Bytes) -> Result<(), Gone> {
        self.send_parts([message]).await
    }

    /// Queues one message that is made of these parts, without copying them together. The parts hold less than 4 GiB.
    pub async fn send_parts(&mut self, parts: impl IntoIterator<Item = Bytes>) -> Result<(), Gone> {
        self.ready().await?;
        self.push(parts)
    }

    /// Queues a message for which there was room.
    pub fn push(&mut self, parts: impl IntoIterator<Item = Bytes>) -> Result<(), Gone> {
        let mut parts = VecDeque::from_iter(parts);
        let length: usize = parts.iter().map(Bytes::len).sum();
        let prefix = u32::try_from(length).expect("a message is shorter than 4 GiB");
        self.services.sent(self.method, length as u64);
        let first = Segment::first(prefix, parts.pop_front().unwrap_or_default());
        self.outlet.push(first, parts.into_iter().map(Segment::plain))
    }

    /// Resolves when [`Replies::send`] would not wait: for a handler that wants to choose what to send as late as it can.
    pub async fn ready(&mut self) -> Result<(), Gone> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// As [`Replies::ready`].
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if self.outlet.poll_closed(cx).is_ready() {
            return Poll::Ready(Err(Gone));
        }
        self.room.poll(cx).map(Ok)
    }

    /// How many bytes to make at once of a message that may be long: `wish`, or less while memory is scarce.
    pub fn at_once(&self, wish: usize) -> usize {
        self.outlet.held.at_once(wish)
    }

    /// Waits as [`Replies::ready`], and holds the place of a message of about so many bytes while it is made.
    pub async fn reserve(&mut self, bytes: usize) -> Result<Ticket, Gone> {
        self.ready().await?;
        Ok(self.outlet.held.ticket(bytes))
    }

    /// Resolves when nobody listens any more. Seldom needed: the handler is dropped then.
    pub async fn closed(&mut self) {
        poll_fn(|cx| self.outlet.poll_closed(cx)).await;
    }
}

/// The queue itself.
pub struct Outlet {
    queue: Mutex<Queue>,
    /// What is on its way: here, and behind the connection's other bytes.
    held: Arc<Allowance>,
}

#[derive(Default)]
struct Queue {
    segments: VecDeque<Segment>,
    /// The handler is done: what is queued is the rest.
    finished: bool,
    /// The client is gone.
    gone: bool,
    handler: Option<Waker>,
    sender: Option<Waker>,
}

impl Outlet {
    /// Of a stream whose connection may hold `replies`.
    pub fn new(replies: &Arc<Allowance>) -> Outlet {
        Outlet { queue: Mutex::default(), held: replies.share(AHEAD, 0) }
    }

    /// The handler's end.
    pub fn replies(self: &Arc<Outlet>, services: Arc<dyn Services>, method: MethodId) -> Replies {
        Replies { outlet: self.clone(), room: Room::of(&self.held), services, method }
    }

    /// No more messages will come.
    fn finish(&self) {
        let mut queue = self.lock();
        queue.finished = true;
        wake(&mut queue.sender);
    }

    /// Nobody hears further messages.
    pub fn abandon(&self) {
        let mut queue = self.lock();
        queue.gone = true;
        queue.segments.clear();
        wake(&mut queue.handler);
    }

    /// Runs a handler and sends its messages as the client takes them, until both are done.
    pub async fn serve<T>(&self, handler: impl Future<Output = T>, sender: &mut Sender) -> Result<T, Gone> {
        let handler = async {
            let outcome = handler.await;
            self.finish();
            Ok(outcome)
        };
        let mut both = pin!(future::try_zip(handler, self.drain(sender)));
        let outcome = poll_fn(|cx| {
            // The sending half is polled right after the handler. Woken by the handler, the task would run once more for nothing.
            self.lock().sender = None;
            both.as_mut().poll(cx)
        });
        outcome.await.map(|(outcome, ())| outcome)
    }

    /// Sends all messages until [`Outlet::finish`], as the client takes them.
    async fn drain(&self, sender: &mut Sender) -> Result<(), Gone> {
        loop {
            let next = poll_fn(|cx| match sender.poll_gone(cx) {
                Poll::Ready(()) => Poll::Ready(Err(Gone)),
                Poll::Pending => self.poll_next(cx).map(Ok),
            });
            let Some(segment) = next.await? else { return Ok(()) };
            sender.send(segment).await?;
        }
    }

    fn push(&self, first: Segment, rest: impl Iterator<Item = Segment>) -> Result<(), Gone> {
        let mut queue = self.lock();
        if queue.gone {
            return Err(Gone);
        }
        queue.segments.extend(std::iter::once(first).chain(rest).map(|segment| segment.ticketed(&self.held)));
        wake(&mut queue.sender);
        Ok(())
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.lock();
        if queue.gone {
            return Poll::Ready(());
        }
        queue.handler = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Segment>> {
        let mut queue = self.lock();
        if let Some(segment) = queue.segments.pop_front() {
            return Poll::Ready(Some(segment));
        }
        if queue.finished {
            return Poll::Ready(None);
        }
        queue.sender = Some(cx.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic while it was held")
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
