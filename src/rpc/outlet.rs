//! The replies of a stream, between its handler and the task that sends them. The handler may live in any task and be polled in any
//! way; the sending task alone touches HTTP/2.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

use super::allowance::Allowance;
use super::frame::Segment;
use super::grpc::{Gone, MethodId, Services};
use super::sender::Sender;

/// Bytes that a handler may be ahead of its client before [`Replies::send`] waits. One message more may come on top.
const AHEAD: usize = 64 * 1024;

/// Where a streaming handler puts its replies.
pub struct Replies {
    outlet: Arc<Outlet>,
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
        let mut parts = VecDeque::from_iter(parts);
        let length: usize = parts.iter().map(Bytes::len).sum();
        let prefix = u32::try_from(length).expect("a message is shorter than 4 GiB");
        self.services.sent(self.method, length as u64);
        let first = Segment::first(prefix, parts.pop_front().unwrap_or_default());
        self.outlet.push(first, parts.into_iter().map(Segment::plain))
    }

    /// Resolves when [`Replies::send`] would not wait: for a handler that wants to choose what to send as late as it can.
    pub async fn ready(&mut self) -> Result<(), Gone> {
        poll_fn(|cx| self.outlet.poll_ready(cx)).await
    }

    /// Resolves when nobody listens any more. Seldom needed: the handler is dropped then.
    pub async fn closed(&mut self) {
        poll_fn(|cx| self.outlet.poll_closed(cx)).await;
    }
}

/// The queue itself.
#[derive(Default)]
pub struct Outlet {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    segments: VecDeque<Segment>,
    bytes: usize,
    /// The handler is done: what is queued is the rest.
    finished: bool,
    /// The client is gone.
    gone: bool,
    handler: Option<Waker>,
    sender: Option<Waker>,
}

impl Outlet {
    /// The handler's end.
    pub fn replies(self: &Arc<Outlet>, services: Arc<dyn Services>, method: MethodId) -> Replies {
        Replies { outlet: self.clone(), services, method }
    }

    /// No more messages will come.
    pub fn finish(&self) {
        let mut queue = self.lock();
        queue.finished = true;
        wake(&mut queue.sender);
    }

    /// Nobody hears further messages.
    pub fn abandon(&self) {
        let mut queue = self.lock();
        queue.gone = true;
        queue.segments.clear();
        queue.bytes = 0;
        wake(&mut queue.handler);
    }

    /// Sends all messages until [`Outlet::finish`], as the client takes them.
    pub async fn drain(&self, sender: &mut Sender, replies: &Arc<Allowance>) -> Result<(), Gone> {
        loop {
            let next = poll_fn(|cx| match sender.poll_gone(cx) {
                Poll::Ready(()) => Poll::Ready(Err(Gone)),
                Poll::Pending => self.poll_next(replies, cx).map(Ok),
            });
            let Some(segment) = next.await? else { return Ok(()) };
            sender.send(segment.ticketed(replies)).await?;
        }
    }

    fn push(&self, first: Segment, rest: impl Iterator<Item = Segment>) -> Result<(), Gone> {
        let mut queue = self.lock();
        if queue.gone {
            return Err(Gone);
        }
        for segment in std::iter::once(first).chain(rest) {
            queue.bytes += segment.remaining();
            queue.segments.push_back(segment);
        }
        wake(&mut queue.sender);
        Ok(())
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let mut queue = self.lock();
        if queue.gone {
            return Poll::Ready(Err(Gone));
        }
        if queue.bytes < AHEAD {
            return Poll::Ready(Ok(()));
        }
        queue.handler = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.lock();
        if queue.gone {
            return Poll::Ready(());
        }
        queue.handler = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_next(&self, replies: &Allowance, cx: &mut Context<'_>) -> Poll<Option<Segment>> {
        let mut queue = self.lock();
        if queue.segments.is_empty() && queue.finished {
            return Poll::Ready(None);
        }
        queue.sender = Some(cx.waker().clone());
        if queue.segments.is_empty() || replies.poll_room(cx).is_pending() {
            return Poll::Pending;
        }
        let segment = queue.segments.pop_front();
        queue.bytes -= segment.as_ref().map_or(0, Segment::remaining);
        if queue.bytes < AHEAD {
            wake(&mut queue.handler);
        }
        Poll::Ready(segment)
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
