//! The Watch service's stream: one task between a client and its [`WatchStream`].
//!
//! In: the client's requests, deliveries of the hub, pages of history, ticks. Out: `WatchResponse`s, one delivery at a time and only
//! as fast as the client takes them. Always: requests are read while answers wait for the client, until too many wait;
//! answers leave in the order of the queue; nothing that may wait for the disk runs in this task.

mod response;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use futures_lite::future::{poll_fn, yield_now};
use prost::Message;

use super::front::OVERHEAD;
use super::grpc::{BoxFuture, Gone, Replies, Requests};
use super::status::{Code, Status};
use super::timers::Timers;
use crate::error::{Error, Fault};
use crate::host::Random;
use crate::mvcc::watch::{Delivery, EventBatch, NewWatch, PageRead, Refusal, WatchOptions, WatchStream};
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse};

/// The id that stands for no watch, or for all of a stream.
const NO_WATCH: i64 = -1;

/// etcd does not let progress be told more often.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Requests and deliveries handled in one turn before the other kind is looked at.
const PER_TURN: usize = 64;

/// Turns after which other tasks go first.
const TURNS_IN_A_ROW: usize = 8;

/// The longest message that gRPC's Go library sends.
const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;

/// Work that may wait for the disk.
pub type Work = Box<dyn FnOnce() + Send>;

/// Runs work away from the executor, on a thread that may wait. Every piece is run.
pub type Offload = Arc<dyn Fn(Work) + Send + Sync>;

/// What all Watch streams have in common.
pub struct WatchServer {
    header: Box<dyn Fn(i64) -> ResponseHeader + Send + Sync>,
    timers: Arc<dyn Timers>,
    random: Arc<dyn Random>,
    offload: Offload,
    progress_interval: Duration,
    max_fragment_bytes: usize,
}

/// The client's messages, as the driver reads them.
pub trait Inbound {
    /// The next message; none: no more will come.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>>;
}

/// Where the driver puts its messages.
pub trait Outbound {
    /// Ready when a message may be sent.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>>;

    /// Sends a message, given as its parts. Once after each `poll_ready`.
    ///
    /// # Errors
    /// Nobody listens.
    fn send(&mut self, parts: Vec<Bytes>) -> Result<(), Gone>;
}

impl Inbound for Requests {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        // What has arrived stays with the reader if this future is dropped.
        pin!(self.next()).poll(cx)
    }
}

impl Outbound for Replies {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Replies::poll_ready(self, cx)
    }

    fn send(&mut self, parts: Vec<Bytes>) -> Result<(), Gone> {
        self.push(parts)
    }
}

impl WatchServer {
    /// `header` makes the header of an answer at a revision. `progress_interval` is `--watch-progress-notify-interval`.
    /// `max_request_bytes` is the flag of that name: fragments stay below the longest message that a client may send.
    pub fn new(
        header: impl Fn(i64) -> ResponseHeader + Send + Sync + 'static,
        timers: Arc<dyn Timers>,
        random: Arc<dyn Random>,
        offload: Offload,
        progress_interval: Duration,
        max_request_bytes: usize,
    ) -> WatchServer {
        let progress_interval = progress_interval.max(MIN_PROGRESS_INTERVAL);
        let max_fragment_bytes = max_request_bytes.saturating_add(OVERHEAD);
        WatchServer { header: Box::new(header), timers, random, offload, progress_interval, max_fragment_bytes }
    }

    /// Serves one stream until `until` says how it ends, or the client does something that ends it. A client that merely sends no
    /// more is served on. Dropped when the client is gone.
    ///
    /// # Errors
    /// The store cannot be read: the process has to end.
    pub async fn serve(
        &self,
        watches: WatchStream,
        requests: impl Inbound,
        replies: impl Outbound,
        until: impl Future<Output = Status>,
    ) -> Result<Status, Fault> {
        let mut until = pin!(until);
        let interval = self.jittered_interval();
        let mut session = Session {
            server: self,
            watches,
            requests: Some(requests),
            replies,
            reading: None,
            looking_up: None,
            unsent: VecDeque::new(),
            header: response::Header::default(),
            tick: self.timers.sleep(interval),
            interval,
        };
        let mut turns = 0;
        loop {
            let outcome = poll_fn(|cx| match until.as_mut().poll(cx) {
                Poll::Ready(status) => Poll::Ready(Err(End::Status(status))),
                Poll::Pending => session.poll_turn(cx),
            });
            match outcome.await {
                Ok(()) => turns = (turns + 1) % TURNS_IN_A_ROW,
                Err(End::Status(status)) => return Ok(status),
                Err(End::Fault(fault)) => return Err(fault),
            }
            if turns == 0 {
                yield_now().await;
            }
        }
    }

    /// Up to a tenth longer, so that watches made together do not speak together forever.
    fn jittered_interval(&self) -> Duration {
        let share = (self.random.next_u64() >> 32) as u32;
        self.progress_interval + (self.progress_interval / 10).mul_f64(f64::from(share) / f64::from(u32::MAX))
    }
}

/// Why a stream ends.
enum End {
    Status(Status),
    Fault(Fault),
}

impl From<Status> for End {
    fn from(status: Status) -> End {
        End::Status(status)
    }
}

impl From<Gone> for End {
    fn from(gone: Gone) -> End {
        End::Status(gone.into())
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        End::Fault(fault)
    }
}

/// One stream.
struct Session<'a, I, O> {
    server: &'a WatchServer,
    watches: WatchStream,
    /// None: the client sends no more.
    requests: Option<I>,
    replies: O,
    /// A page of history on its way.
    reading: Option<oneshot::Receiver<PageRead>>,
    /// Events that wait for what their keys held before. They are next to be sent.
    looking_up: Option<(EventBatch, oneshot::Receiver<Result<(), Fault>>)>,
    /// Messages of the last delivery: more than one if it was split.
    unsent: VecDeque<Vec<Bytes>>,
    header: response::Header,
    tick: BoxFuture<()>,
    interval: Duration,
}

impl<I: Inbound, O: Outbound> Session<'_, I, O> {
    /// Does what can be done. Pending: nothing could.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let read = self.poll_requests(cx)?.is_ready();
        let ticked = self.poll_tick(cx).is_ready();
        let caught_up = self.poll_history(cx)?.is_ready();
        let sent = self.poll_deliveries(cx)?.is_ready();
        if read || ticked || caught_up || sent { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        for turn in 0..PER_TURN {
            let requests = self.requests.as_mut().filter(|_| !self.watches.is_congested());
            let Some(Poll::Ready(request)) = requests.map(|requests| requests.poll_next(cx)) else {
                return if turn > 0 { Poll::Ready(Ok(())) } else { Poll::Pending };
            };
            match request {
                Some(request) => self.obey(request?)?,
                None => self.requests = None,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn obey(&mut self, request: Bytes) -> Result<(), Status> {
        match WatchRequest::decode(request).map_err(undecodable)?.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.watches.create(&new_watch(create)),
            Some(RequestUnion::CancelRequest(cancel)) => self.watches.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.watches.request_progress(),
            None => {}
        }
        Ok(())
    }

    fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.tick.as_mut().poll(cx));
        self.tick = self.server.timers.sleep(self.interval);
        self.watches.progress_tick();
        Poll::Ready(())
    }

    fn poll_history(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Some(reading) = &mut self.reading else { return Poll::Pending };
        let page = ready!(Pin::new(reading).poll(cx)).expect("every piece of work is run");
        self.reading = None;
        Poll::Ready(Ok(self.watches.caught_up(page)?))
    }

    fn poll_deliveries(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        for turn in 0..PER_TURN {
            match self.poll_delivery(cx)? {
                Poll::Ready(()) => {}
                Poll::Pending if turn > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a message: the next of the last delivery, or the first of the next one.
    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        ready!(self.replies.poll_ready(cx))?;
        if self.unsent.is_empty() {
            ready!(self.poll_messages(cx))?;
        }
        if let Some(message) = self.unsent.pop_front() {
            self.replies.send(message)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes the messages of the next delivery, if nothing has to be looked up for them; with none to make, sees whether history has
    /// to be read.
    fn poll_messages(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if let Some((_, found)) = &mut self.looking_up {
            ready!(Pin::new(found).poll(cx)).expect("every piece of work is run")?;
            let (batch, _) = self.looking_up.take().expect("it has just been found");
            return Poll::Ready(self.encode(&batch));
        }
        match self.watches.poll_next(cx) {
            Poll::Ready(Delivery::Events(batch)) => Poll::Ready(self.deliver(batch)),
            Poll::Ready(delivery) => {
                self.unsent.push_back(vec![self.answer(&delivery).encode_to_vec().into()]);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => self.read_history(),
        }
    }

    fn read_history(&mut self) -> Poll<Result<(), End>> {
        let Some(catch_up) = self.watches.catch_up() else { return Poll::Pending };
        self.reading = Some(self.offload(move || catch_up.read()));
        Poll::Ready(Ok(()))
    }

    fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        // The stream may end before.
        (self.server.offload)(Box::new(move || drop(sender.send(work()))));
        receiver
    }

    /// Encodes events, after a look at what their keys held before if the client wants that.
    fn deliver(&mut self, batch: EventBatch) -> Result<(), End> {
        if !batch.prev_kv {
            return self.encode(&batch);
        }
        let history = self.watches.history().clone();
        if batch.events.iter().all(|event| history.prev_is_at_hand(event)) {
            batch.events.iter().try_for_each(|event| history.prev_row(event).map(drop))?;
            return self.encode(&batch);
        }
        let events = batch.events.clone();
        let found = self.offload(move || events.iter().try_for_each(|event| history.prev_row(event).map(drop)));
        self.looking_up = Some((batch, found));
        Ok(())
    }

    fn encode(&mut self, batch: &EventBatch) -> Result<(), End> {
        let mut longest = 0;
        let header = (self.server.header)(batch.revision);
        response::encode(&mut self.header, header, batch, self.server.max_fragment_bytes, |parts| {
            longest = longest.max(parts.iter().map(Bytes::len).sum());
            self.unsent.push_back(parts);
        });
        if longest > MAX_MESSAGE_BYTES {
            let text = format!("grpc: trying to send message larger than max ({longest} vs. {MAX_MESSAGE_BYTES})");
            return Err(Status::new(Code::ResourceExhausted, text).into());
        }
        Ok(())
    }

    /// What a delivery that is no events says on the wire.
    fn answer(&self, delivery: &Delivery) -> WatchResponse {
        let at = |revision| WatchResponse { header: Some((self.server.header)(revision)), ..WatchResponse::default() };
        match *delivery {
            Delivery::Created { watch_id, revision } => WatchResponse { watch_id, created: true, ..at(revision) },
            Delivery::Refused { revision, refusal } => {
                let cancel_reason = reason(refusal);
                WatchResponse { watch_id: NO_WATCH, created: true, canceled: true, cancel_reason, ..at(revision) }
            }
            Delivery::Canceled { watch_id, revision } => WatchResponse { watch_id, canceled: true, ..at(revision) },
            Delivery::Compacted { watch_id, compact_revision } => {
                WatchResponse { watch_id, canceled: true, compact_revision, ..at(0) }
            }
            Delivery::Progress { watch_id, revision } => WatchResponse { watch_id: watch_id.unwrap_or(NO_WATCH), ..at(revision) },
            Delivery::Events(_) => unreachable!("events are encoded by `response`"),
        }
    }
}

fn new_watch(create: WatchCreateRequest) -> NewWatch {
    let has = |filter: FilterType| create.filters.contains(&filter.into());
    let options = WatchOptions {
        no_put: has(FilterType::Noput),
        no_delete: has(FilterType::Nodelete),
        prev_kv: create.prev_kv,
        fragment: create.fragment,
        progress_notify: create.progress_notify,
    };
    let WatchCreateRequest { key, range_end, start_revision, watch_id, .. } = create;
    NewWatch { key, range_end, start_revision, watch_id, options }
}

/// etcd's words, on which clients match. It knows no bound on watches; its word for too much of anything will do.
fn reason(refusal: Refusal) -> String {
    match refusal {
        Refusal::Compacted => Status::from(Error::Compacted).message.into_owned(),
        Refusal::EmptyRange => "mvcc: watcher range is empty".to_owned(),
        Refusal::TooMany => Status::from(Error::TooManyRequests).message.into_owned(),
        Refusal::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream".to_owned(),
    }
}

/// What gRPC's Go library says on a stream; it has one text for every way of being unreadable.
fn undecodable(_: prost::DecodeError) -> Status {
    let text = "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";
    Status::new(Code::Internal, text)
}
