//! One HTTP/2 connection, one task. A turn of it: take every request that has arrived, run the calls, write all replies at once.
//! In: a [`Stream`] whose preface is still to be read. Out: calls, to [`call`] and the endpoints. Always: only streaming
//! calls get tasks of their own; waiting calls keep neither reads nor PINGs from being answered.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream as Pieces, StreamExt};
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};

use super::allowance::{Allowance, Ticket};
use super::authority::Mended;
use super::call::{self, Begun, Leaving, Shared};
use super::frame::{Encoding, Segment};
use super::frame_heads::go_away;
use super::front::{Budget, DOUBLED, Link, PROMISED, no_room, plain_text};
use super::grpc::{Call, Gone, Route};
use super::http::{Body, Endpoints};
use super::keepalive::{Keepalive, PingPolicy, TOO_MANY_PINGS};
use super::metadata::parse_timeout;
use super::sender::{Sender, send_data};
use super::status::{Code, Status};
use super::stop::{Guest, Phase};
use super::stream::{Stream, Wire};
use super::timers::{Alarms, Armed, within};
use crate::error::Error;

/// Time for the client's preface.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// Time for the body of a request that is not gRPC.
const BODY: Duration = Duration::from_secs(60);
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const HEADER_LIST: u32 = 1024 * 1024;
/// What HTTP/2's library may buffer for one stream.
const SEND_BUFFER: usize = 256 * 1024;
/// Unary calls of a connection that run at a time; others of it wait. So one client alone does not fill the loop's inbox.
const RUNNING: usize = 2_000;
/// About what an answer that is no gRPC message takes while it is made: `/metrics` is the longest.
const HTTP_ANSWER: usize = 128 * 1024;
/// What a call takes in memory while it is open, in bytes, as measured: a stream of HTTP/2's library, the call, its task.
const CALL: usize = 5 * 1024;
/// And each of its header fields, beside name and value.
const HEADER: usize = 128;

/// Serves a connection to its end.
pub async fn serve(stream: Stream, link: Arc<Link>, guest: Guest) {
    let wire = Wire::new(Stream::new(Mended::new(stream)));
    let h2 = match within(&*link.timers, HANDSHAKE, settings(&link).handshake(wire.clone())).await {
        Some(Ok(h2)) => h2,
        Some(Err(error)) => return log::debug!("no HTTP/2 with {}: {error}", link.peer.addr),
        None => return log::debug!("no HTTP/2 with {}: no preface in {HANDSHAKE:?}", link.peer.addr),
    };
    wire.defer();
    let mut connection = Connection::new(h2, wire, link, guest, answer);
    poll_fn(|cx| connection.poll_turn(cx)).await;
}

fn settings(link: &Link) -> server::Builder {
    let mut settings = server::Builder::new();
    settings
        .max_concurrent_streams(link.settings.max_concurrent_streams)
        .max_header_list_size(HEADER_LIST)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        // The default, 20, breaks clients that start and cancel many calls: GOAWAY too_many_resets.
        .max_pending_accept_reset_streams(10_000)
        .max_concurrent_reset_streams(1000)
        // Small messages of many streams may arrive faster than their handlers read.
        .data_frame_budget(CONNECTION_WINDOW as usize);
    settings
}

/// What the connection's task does itself.
enum Job {
    Unary(Arc<Shared>, Begun),
    Http(Arc<dyn Endpoints>, Request<RecvStream>, SendResponse<Segment>, Budget, Ticket),
}

async fn answer(link: Arc<Link>, job: Job) {
    match job {
        Job::Unary(shared, begun) => call::unary(&shared, begun).await,
        Job::Http(endpoints, request, respond, budget, _place) => {
            // A client that is gone needs no answer.
            let _ = http(&link, endpoints, request, respond, &budget).await;
        }
    }
}

struct Connection<A, F> {
    h2: server::Connection<Wire, Segment>,
    wire: Wire,
    link: Arc<Link>,
    guest: Guest,
    /// What gRPC calls share; none where only HTTP is served.
    shared: Option<Arc<Shared>>,
    answer: A,
    /// Unary calls and HTTP requests that are being answered.
    jobs: FuturesUnordered<F>,
    alarms: Arc<Alarms>,
    armed: Armed,
    budget: Budget,
    leaving: Arc<Leaving>,
    keepalive: Keepalive,
    pings: PingPolicy,
    /// The newest stream that was begun.
    last_stream: u32,
    calls: u64,
    draining: bool,
}

/// The connection has ended.
struct Ended;

impl<A: Fn(Arc<Link>, Job) -> F, F: Future<Output = ()>> Connection<A, F> {
    fn new(mut h2: server::Connection<Wire, Segment>, wire: Wire, link: Arc<Link>, guest: Guest, answer: A) -> Self {
        let alarms = Alarms::new(link.timers.clone());
        let (budget, leaving) = (link.memory.of_connection(), Arc::<Leaving>::default());
        let shared = link.offer.services.as_ref().map(|services| {
            Arc::new(Shared {
                services: services.clone(),
                timers: link.timers.clone(),
                alarms: alarms.clone(),
                requests: budget.requests.clone(),
                running: Allowance::new(RUNNING),
                replies: budget.replies.clone(),
                streamed: budget.streamed.clone(),
                leaving: leaving.clone(),
                message_limit: link.settings.message_limit(),
            })
        });
        let ping_pong = h2.ping_pong().expect("it is asked for once");
        let (interval, timeout) = (link.settings.keepalive_interval, link.settings.keepalive_timeout);
        let keepalive = Keepalive::new(link.timers.clone(), interval, timeout, ping_pong);
        let jobs = FuturesUnordered::new();
        let pings = PingPolicy::new(link.settings.keepalive_min_time);
        let (armed, last_stream, calls, draining) = (Armed::default(), 0, 0, false);
        Connection {
            h2,
            wire,
            link,
            guest,
            shared,
            answer,
            jobs,
            alarms,
            armed,
            budget,
            leaving,
            keepalive,
            pings,
            last_stream,
            calls,
            draining,
        }
    }

    /// Ready when the connection has ended.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(Ended) => Poll::Ready(()),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        self.wire.begin_turn();
        match self.guest.poll_phase(cx) {
            Phase::Open => {}
            Phase::Drain => self.drain(),
            Phase::Close => return Err(Ended),
        }
        // All that arrived is taken before any of it is run, and what was answered is written once: a write per
        // reply costs twice the time of the whole call.
        loop {
            self.accept(cx)?;
            if !self.run(cx) {
                break;
            }
        }
        self.alarms.poll(&mut self.armed, cx);
        if self.keepalive.poll(&self.wire, cx).is_ready() {
            log::debug!("{} answers no PING; its connection is closed", self.link.peer.addr);
            return Err(Ended);
        }
        if !self.pings.bears(self.wire.take_signs(), !self.budget.calls.is_idle(), self.link.timers.now()) {
            log::debug!("{} pings too often; its connection is closed", self.link.peer.addr);
            self.wire.last_words(&go_away(self.last_stream, Reason::ENHANCE_YOUR_CALM.into(), TOO_MANY_PINGS), cx);
            return Err(Ended);
        }
        match self.wire.poll_end_turn(cx) {
            Poll::Ready(Err(_)) => Err(Ended),
            Poll::Ready(Ok(())) => {
                self.leaving.clear();
                Ok(())
            }
            Poll::Pending if self.is_deaf() => {
                log::debug!("{} hears no answers; its connection is closed", self.link.peer.addr);
                Err(Ended)
            }
            Poll::Pending => Ok(()),
        }
    }

    /// Whether the client leaves more last words unread than it is promised room for, while there is none left for others.
    fn is_deaf(&self) -> bool {
        !self.budget.calls.has_room() && self.leaving.bytes() > PROMISED
    }

    fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.h2.graceful_shutdown();
        }
    }

    /// Takes the requests that have arrived; also reads, answers PINGs and queues what was sent.
    fn accept(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                Poll::Ready(Some(Err(error))) => {
                    log::debug!("connection of {} ended: {error}", self.link.peer.addr);
                    return Err(Ended);
                }
                Poll::Ready(None) => return Err(Ended),
                Poll::Pending => return Ok(()),
            }
        }
    }

    /// Runs what can run. Whether anything was finished.
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        let mut finished = false;
        while let Poll::Ready(Some(())) = self.jobs.poll_next_unpin(cx) {
            finished = true;
        }
        finished
    }

    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Segment>) {
        let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        self.last_stream = respond.stream_id().as_u32();
        let cost = CALL + cost_of(request.headers());
        let mut place = self.budget.calls.ticket(0);
        if !place.grow(cost) {
            self.leaving.enter(self.budget.calls.ticket(CALL));
            return Sender::new(respond, content_type).refuse(StatusCode::OK, &Error::TooManyRequests.into());
        }
        match (&self.link.offer.endpoints, &self.shared) {
            (_, Some(shared)) if is_grpc(content_type) => {
                let sender = Sender::new(respond, content_type);
                self.begin_call(shared.clone(), request, sender, place);
            }
            (_, None) if is_grpc(content_type) => {
                let text = "this address serves HTTP only, no gRPC: use one of --listen-client-urls";
                self.leaving.enter(place);
                Sender::new(respond, content_type).refuse(StatusCode::OK, &Status::new(Code::Unimplemented, text));
            }
            (Some(endpoints), _) => {
                let job = Job::Http(endpoints.clone(), request, respond, self.budget.clone(), place);
                self.jobs.push((self.answer)(self.link.clone(), job));
            }
            (None, _) => {
                let text = format!("invalid gRPC request content-type {:?}", String::from_utf8_lossy(content_type));
                let status = Status::new(Code::InvalidArgument, text);
                self.leaving.enter(place);
                Sender::new(respond, content_type).refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, &status);
            }
        }
    }

    fn begin_call(&mut self, shared: Arc<Shared>, request: Request<RecvStream>, sender: Sender, place: Ticket) {
        let (head, body) = request.into_parts();
        let opened = match open(&self.link, &shared, head) {
            Ok(opened) => opened,
            Err((http, status)) => {
                self.leaving.enter(place);
                return sender.refuse(http, &status);
            }
        };
        let Opened { route, call, encoding } = opened;
        self.calls += 1;
        let id = self.calls;
        match route {
            Route::Unary(method) => {
                let begun = Begun { id, method, call, encoding, body, sender, place };
                self.jobs.push((self.answer)(self.link.clone(), Job::Unary(shared, begun)));
            }
            Route::ServerStream(method) | Route::BidiStream(method) => {
                let begun = Begun { id, method, call, encoding, body, sender, place };
                self.link.executor.spawn(call::stream(shared, begun)).detach();
            }
            Route::UnknownMethod | Route::UnknownService => unreachable!("refused by `open`"),
        }
    }
}

/// A gRPC request whose headers make sense.
struct Opened {
    route: Route,
    call: Call,
    encoding: Encoding,
}

/// Checks a gRPC request's headers, in the order and with the answers of gRPC's Go library.
fn open(link: &Link, shared: &Shared, head: http::request::Parts) -> Result<Opened, (StatusCode, Status)> {
    let timeout = head.headers.get("grpc-timeout").map(|value| parse_timeout(&String::from_utf8_lossy(value.as_bytes())));
    let timeout = timeout
        .transpose()
        .map_err(|why| (StatusCode::BAD_REQUEST, Status::new(Code::Internal, format!("malformed grpc-timeout: {why}"))))?;
    if head.method != Method::POST {
        let text = format!("Received a HEADERS frame with :method {:?} which should be POST", head.method.as_str());
        return Err((StatusCode::METHOD_NOT_ALLOWED, Status::new(Code::Internal, text)));
    }
    let refused = |status| (StatusCode::OK, status);
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(refused(Error::DeadlineExceeded.into()));
    }
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
        return Err(refused(Status::new(Code::Unimplemented, format!("malformed method name: {path:?}"))));
    };
    let route = shared.services.find(service, method);
    match route {
        Route::UnknownService => {
            return Err(refused(Status::new(Code::Unimplemented, format!("unknown service {service}"))));
        }
        Route::UnknownMethod => {
            let text = format!("unknown method {method} for service {service}");
            return Err(refused(Status::new(Code::Unimplemented, text)));
        }
        Route::Unary(_) | Route::ServerStream(_) | Route::BidiStream(_) => {}
    }
    let encoding = Encoding::of(&head.headers).map_err(refused)?;
    let deadline = timeout.map(|timeout| link.timers.now().saturating_add(timeout));
    let call = Call { metadata: head.headers, peer: link.peer.clone(), deadline };
    Ok(Opened { route, call, encoding })
}

/// What header fields take in memory, roughly.
fn cost_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| HEADER + name.as_str().len() + value.len()).sum()
}

/// Whether a content type is gRPC's: `application/grpc`, alone or with a subtype after `+` or `;`.
fn is_grpc(content_type: &[u8]) -> bool {
    content_type.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
}

/// Answers a request that is not gRPC.
async fn http(
    link: &Link,
    endpoints: Arc<dyn Endpoints>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Segment>,
    budget: &Budget,
) -> Result<(), Gone> {
    let (head, body) = request.into_parts();
    let is_head = head.method == Method::HEAD;
    let limit = link.settings.message_limit();
    let mut held = budget.requests.ticket(0);
    let whole = within(&*link.timers, BODY, read_body(body, limit, &mut held)).await;
    let reserved = unless_reset(budget.replies.reserve(HTTP_ANSWER), &mut respond).await?;
    let response = match whole {
        Some(Ok(body)) => {
            let work = endpoints.answer(link.peer.clone(), Request::from_parts(head, body));
            unless_reset(work, &mut respond).await?
        }
        Some(Err(Unread::TooLong)) => {
            plain_text(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes\n"))
        }
        Some(Err(Unread::NoRoom)) => no_room(),
        Some(Err(Unread::Gone)) => return Err(Gone),
        None => plain_text(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive in {BODY:?}\n")),
    };
    let (head, body) = response.into_parts();
    let body = if is_head { Body::Whole(Bytes::new()) } else { body };
    drop(reserved);
    send_http(respond, Response::from_parts(head, ()), body, &budget.replies).await
}

/// Runs `work` as long as the client waits for it.
async fn unless_reset<T>(work: impl Future<Output = T>, respond: &mut SendResponse<Segment>) -> Result<T, Gone> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => respond.poll_reset(cx).map(|_| Err(Gone)),
    })
    .await
}

/// Why a body was not read to its end.
enum Unread {
    TooLong,
    NoRoom,
    Gone,
}

/// The whole body, up to `limit`, counted as `held`.
async fn read_body(mut body: RecvStream, limit: usize, held: &mut Ticket) -> Result<Bytes, Unread> {
    let mut whole = BytesMut::new();
    while let Some(part) = poll_fn(|cx| body.poll_data(cx)).await {
        let part = part.map_err(|_| Unread::Gone)?;
        if whole.len() + part.len() > limit {
            return Err(Unread::TooLong);
        }
        if !held.grow(DOUBLED * part.len()) {
            return Err(Unread::NoRoom);
        }
        body.flow_control().release_capacity(part.len()).map_err(|_| Unread::Gone)?;
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

async fn send_http(
    mut respond: SendResponse<Segment>,
    head: Response<()>,
    body: Body,
    replies: &Arc<Allowance>,
) -> Result<(), Gone> {
    let is_empty = matches!(&body, Body::Whole(bytes) if bytes.is_empty());
    let mut stream = respond.send_response(head, is_empty).map_err(|_| Gone)?;
    if is_empty {
        return Ok(());
    }
    match body {
        Body::Whole(bytes) => send_data(&mut stream, Segment::plain(bytes).ticketed(replies)).await?,
        Body::Pieces(mut pieces) => {
            while let Some(piece) = next_piece(&mut pieces, &mut stream).await? {
                send_data(&mut stream, Segment::plain(piece).ticketed(replies)).await?;
            }
        }
    }
    stream.send_data(Segment::plain(Bytes::new()), true).map_err(|_| Gone)
}

/// The next piece, as long as the client waits for it.
async fn next_piece(
    pieces: &mut (impl Pieces<Item = Bytes> + Unpin),
    stream: &mut SendStream<Segment>,
) -> Result<Option<Bytes>, Gone> {
    poll_fn(|cx| match pieces.poll_next_unpin(cx) {
        Poll::Ready(piece) => Poll::Ready(Ok(piece)),
        Poll::Pending => stream.poll_reset(cx).map(|_| Err(Gone)),
    })
    .await
}
