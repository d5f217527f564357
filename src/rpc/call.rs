//! One gRPC call on one HTTP/2 stream: reads its messages, runs its handler, sends its replies and its status. In: the stream's two
//! halves. Out: [`Services`] is asked and told. Always: a handler is dropped as soon as nobody can hear it; every call that
//! started is reported as handled, once.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future;
use futures_util::{Stream, StreamExt};

use super::allowance::{Allowance, Room, Ticket};
use super::frame::{Encoding, Reader, Segment};
use super::grpc::{Call, Gone, MethodId, Reply, Services};
use super::outlet::Outlet;
use super::sender::Sender;
use super::status::{Code, Status};
use super::streams::RequestBody;
use super::timers::{Alarms, Timers};
use crate::error::Error;

pub use super::outlet::Replies;

/// About what a long reply is made of at a time, in bytes.
pub const PIECE: usize = 64 * 1024;

/// What all calls of a connection share.
pub struct Shared {
    /// Who answers.
    pub services: Arc<dyn Services>,
    /// Time.
    pub timers: Arc<dyn Timers>,
    /// Deadlines of the calls inside the connection's task.
    pub alarms: Arc<Alarms>,
    /// Requests in memory, of this connection.
    pub requests: Arc<Allowance>,
    /// Unary calls that run at a time: a number of them, not of bytes.
    pub running: Arc<Allowance>,
    /// Replies of unary calls in memory.
    pub replies: Arc<Allowance>,
    /// Those of streams: apart, so that streams which are not read hold up no calls.
    pub streamed: Arc<Allowance>,
    /// Calls that are over, but whose last words may not have left.
    pub leaving: Arc<Leaving>,
    /// The longest message a client may send, in bytes.
    pub message_limit: usize,
}

/// A call whose headers have been read.
pub struct Begun {
    /// Tells its alarm from others of the connection.
    pub id: u64,
    /// What is called.
    pub method: MethodId,
    /// Who calls.
    pub call: Call,
    /// How its messages are compressed.
    pub encoding: Encoding,
    /// The client's half.
    pub body: RequestBody,
    /// Our half.
    pub sender: Sender,
    /// Counts the call as open.
    pub place: Ticket,
}

/// The places of calls whose last words wait to leave, where they take as much memory as the call did.
#[derive(Default)]
pub struct Leaving(Mutex<Vec<Ticket>>);

impl Leaving {
    /// A call is over.
    pub fn enter(&self, place: Ticket) {
        self.lock().push(place);
    }

    /// All has left.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.lock().iter().map(Ticket::bytes).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Ticket>> {
        self.0.lock().expect("no panic while it was held")
    }
}

/// Why a call has no reply.
enum End {
    Failed(Status),
    Gone,
}

impl From<Status> for End {
    fn from(status: Status) -> End {
        End::Failed(status)
    }
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Failed(error.into())
    }
}

impl From<Gone> for End {
    fn from(_: Gone) -> End {
        End::Gone
    }
}

impl From<End> for Status {
    fn from(end: End) -> Status {
        match end {
            End::Failed(status) => status,
            End::Gone => Error::Canceled.into(),
        }
    }
}

/// Answers a unary call. Runs inside the connection's task.
pub async fn unary(shared: &Shared, mut begun: Begun) {
    let place = begun.place.take();
    answer(shared, begun).await;
    shared.leaving.enter(place);
}

async fn answer(shared: &Shared, begun: Begun) {
    let Begun { id, method, call, encoding, body, mut sender, .. } = begun;
    // A call that comes too late is not begun.
    if call.deadline.is_some_and(|at| at <= shared.timers.now()) {
        return sender.finish(Err(&Error::DeadlineExceeded.into()));
    }
    let mut alarm = call.deadline.map(|at| shared.alarms.alarm(at, id));
    let mut tally = Tally::new(shared, method);
    // The request counts as held until the reply is made: it lives as long.
    let mut incoming = Incoming::new(shared, encoding, body, Code::Unknown);
    let outcome = {
        let mut work = pin!(async {
            let message = incoming.next().await?.ok_or(Status::new(Code::Unknown, "EOF"))?;
            let _running = turn(shared).await;
            tally.start();
            shared.services.received(method, message.len());
            Ok::<Reply, End>(shared.services.clone().unary(method, call, message).await?)
        });
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            if alarm.as_mut().is_some_and(|alarm| Pin::new(alarm).poll(cx).is_ready()) {
                return Poll::Ready(Err(Error::DeadlineExceeded.into()));
            }
            sender.poll_gone(cx).map(|()| Err(End::Gone))
        })
        .await
    };
    drop(incoming);
    match outcome {
        Ok(reply) => {
            if send_reply(shared, method, reply, sender).await.is_ok() {
                tally.code = Code::Ok;
            }
        }
        Err(End::Failed(status)) => {
            tally.code = status.code;
            sender.finish(Err(&status));
        }
        Err(End::Gone) => {}
    }
}

/// Waits until a call may run: its client has room for the reply, and not too many others under way.
async fn turn(shared: &Shared) -> Ticket {
    let (mut replies, mut running) = (Room::of(&shared.replies), Room::of(&shared.running));
    poll_fn(|cx| {
        ready!(replies.poll(cx));
        running.poll(cx)
    })
    .await;
    shared.running.ticket(1)
}

async fn send_reply(shared: &Shared, method: MethodId, reply: Reply, mut sender: Sender) -> Result<(), Gone> {
    match reply {
        Reply::Whole(message) => {
            let length = u32::try_from(message.len()).expect("a message is shorter than 4 GiB");
            shared.services.sent(method, u64::from(length));
            sender.send(Segment::first(length, message).ticketed(&shared.replies)).await?;
        }
        Reply::Pieces { total, pieces } => {
            shared.services.sent(method, u64::from(total));
            if !send_pieces(shared, total, pieces, &mut sender).await? {
                log::error!("a reply of {total} bytes came out at another length; its stream is reset");
                sender.reset();
                return Err(Gone);
            }
        }
    }
    sender.finish(Ok(()));
    Ok(())
}

/// Sends a message as its pieces are made, each when there is room for it. False: they do not sum up to `total`.
async fn send_pieces(
    shared: &Shared,
    total: u32,
    mut pieces: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    sender: &mut Sender,
) -> Result<bool, Gone> {
    let mut left = u64::from(total);
    let mut prefix = Some(total);
    loop {
        // The first is there already.
        let reserved = match prefix {
            Some(_) => None,
            None => Some(unless_gone(sender, shared.replies.reserve(PIECE)).await?),
        };
        let piece = unless_gone(sender, pieces.next()).await?;
        let at_end = piece.is_none();
        let piece = piece.unwrap_or_default();
        match left.checked_sub(piece.len() as u64) {
            Some(rest) => left = rest,
            None => return Ok(false),
        }
        let segment = match prefix.take() {
            Some(total) => Segment::first(total, piece),
            None => Segment::plain(piece),
        };
        drop(reserved);
        sender.send(segment.ticketed(&shared.replies)).await?;
        if at_end {
            return Ok(left == 0);
        }
    }
}

/// Does `work` as long as the client is there.
async fn unless_gone<T>(sender: &mut Sender, work: impl Future<Output = T>) -> Result<T, Gone> {
    let mut work = pin!(work);
    poll_fn(|cx| match sender.poll_gone(cx) {
        Poll::Ready(()) => Poll::Ready(Err(Gone)),
        Poll::Pending => work.as_mut().poll(cx).map(Ok),
    })
    .await
}

/// Answers a streaming call, most often in a task of its own.
pub async fn stream(shared: Arc<Shared>, mut begun: Begun) {
    let place = begun.place.take();
    converse(&shared, begun).await;
    shared.leaving.enter(place);
}

async fn converse(shared: &Shared, begun: Begun) {
    let Begun { method, call, encoding, body, mut sender, .. } = begun;
    let mut tally = Tally::new(shared, method);
    tally.start();
    let late = call.deadline.map(|at| shared.timers.sleep(at.saturating_sub(shared.timers.now())));
    let incoming = Incoming::new(shared, encoding, body, Code::Internal);
    let requests = Requests { incoming, services: shared.services.clone(), method };
    let outlet = Arc::new(Outlet::new(&shared.streamed));
    let _abandoned_at_the_end = Abandon(&outlet);
    let replies = outlet.replies(shared.services.clone(), method);
    let handler = shared.services.clone().stream(method, call, requests, replies);
    let outcome = {
        let work = async { Ok::<(), End>(outlet.serve(handler, &mut sender).await??) };
        let deadline = async {
            match late {
                Some(late) => late.await,
                None => std::future::pending().await,
            }
            Err(Error::DeadlineExceeded.into())
        };
        future::or(work, deadline).await
    };
    match outcome {
        Ok(()) => {
            tally.code = Code::Ok;
            sender.finish(Ok(()));
        }
        Err(End::Failed(status)) => {
            tally.code = status.code;
            sender.finish(Err(&status));
        }
        Err(End::Gone) => {}
    }
}

struct Abandon<'a>(&'a Outlet);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The messages of a streaming call, as they come. What is not read holds up the client, and with many such streams its whole
/// connection: read promptly.
pub struct Requests {
    incoming: Incoming,
    services: Arc<dyn Services>,
    method: MethodId,
}

impl Requests {
    /// The next message. None: the client sends no more. After an error there is nothing more to read; a handler ends with it.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        let message = self.incoming.next().await;
        self.incoming.let_go();
        match message {
            Ok(message) => {
                let message = message?;
                self.services.received(self.method, message.len());
                Some(Ok(message))
            }
            Err(end) => Some(Err(end.into())),
        }
    }

    /// The first message of a call that has to have one.
    pub async fn first(&mut self) -> Result<Bytes, Status> {
        self.next().await.unwrap_or_else(|| {
            let text = "cardinality violation: received no request message from non-client-streaming RPC";
            Err(Status::new(Code::Internal, text))
        })
    }
}

/// The client's half of a stream.
struct Incoming {
    body: RequestBody,
    reader: Reader,
    held: Ticket,
    /// What a message is refused with that its client does not send to the end. gRPC's Go library has one code for unary calls and
    /// another for streams.
    cut_short: Code,
}

impl Incoming {
    fn new(shared: &Shared, encoding: Encoding, body: RequestBody, cut_short: Code) -> Incoming {
        let reader = Reader::new(shared.message_limit, encoding);
        Incoming { body, reader, held: shared.requests.ticket(0), cut_short }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, End> {
        loop {
            if let Some(message) = self.reader.next_message()? {
                return Ok(Some(message));
            }
            match poll_fn(|cx| self.body.poll(cx)).await {
                Some(Ok(bytes)) => self.take(bytes)?,
                Some(Err(_)) => return Err(End::Gone),
                None if self.reader.may_end() => return Ok(None),
                None => return Err(Status::new(self.cut_short, "unexpected EOF").into()),
            }
        }
    }

    fn take(&mut self, bytes: Bytes) -> Result<(), End> {
        if !self.held.grow(bytes.len()) {
            return Err(Error::TooManyRequests.into());
        }
        self.reader.push(bytes);
        Ok(())
    }

    /// What has been read is no longer ours.
    fn let_go(&mut self) {
        self.held.shrink_to(0);
    }
}

/// Reports a call that has started as handled, however it ends: a dropped call was canceled.
struct Tally {
    services: Arc<dyn Services>,
    timers: Arc<dyn Timers>,
    method: MethodId,
    since: Option<Duration>,
    code: Code,
}

impl Tally {
    fn new(shared: &Shared, method: MethodId) -> Tally {
        let Shared { services, timers, .. } = shared;
        Tally { services: services.clone(), timers: timers.clone(), method, since: None, code: Code::Canceled }
    }

    fn start(&mut self) {
        self.since = Some(self.timers.now());
        self.services.started(self.method);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if let Some(since) = self.since {
            self.services.handled(self.method, self.code, self.timers.now().saturating_sub(since));
        }
    }
}
