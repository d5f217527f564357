//! One HTTP/2 connection, one task. A turn of it: take every request that has arrived, run the calls, write all replies at once.
//! In: a [`Stream`] whose preface is still to be read. Out: calls, to [`call`] and the endpoints. Always: only streaming
//! calls that may be much work get tasks of their own; waiting calls keep neither reads nor PINGs from being answered.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Method, Request, Response, StatusCode, Uri};

use super::allowance::{Allowance, Ticket};
use super::call::{self, Begun, Leaving, Shared};
use super::frame::{Encoding, Segment};
use super::front::{Budget, DOUBLED, Link, PROMISED, no_room, plain_text};
use super::grpc::{Call, Gone, Route};
use super::http::{Body, Endpoints};
use super::keepalive::{Keepalive, PingPolicy, TOO_MANY_PINGS};
use super::metadata::parse_timeout;
use super::sender::Sender;
use super::status::{Code, Status};
use super::stop::{Guest, Phase};
use super::stream::{Socket, Stream};
use super::streams::{Answer, RequestBody, Streams, header_map};
use super::timers::{Alarms, Armed, within};
use crate::error::Error;
use crate::http2::{Head, Reason, Settings};

/// Time for the client's preface.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// Time for the body of a request that is not gRPC.
const BODY: Duration = Duration::from_secs(60);
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const HEADER_LIST: u32 = 1024 * 1024;
/// With so much to be sent, and a socket that takes none of it, nothing more is read: what has to be said to a flood of requests, PINGs
/// and mistakes is bounded by what the client is willing to hear.
const UNHEARD: usize = 32 * 1024;
/// Unary calls of a connection that run at a time; others of it wait. So one client alone does not fill the loop's inbox.
const RUNNING: usize = 2_000;
/// About what an answer that is no gRPC message takes while it is made: `/metrics` is the longest.
const HTTP_ANSWER: usize = 128 * 1024;
/// What a call takes in memory while it is open, in bytes, as measured: its stream, the call, its task.
const CALL: usize = 5 * 1024;
/// And each of its header fields, beside name and value.
const HEADER: usize = 128;

/// Serves a connection to its end.
pub async fn serve(stream: Stream, link: Arc<Link>, guest: Guest) {
    let mut connection = Connection::new(stream, link.clone(), guest, answer);
    match within(&*link.timers, HANDSHAKE, poll_fn(|cx| connection.poll_established(cx))).await {
        Some(Ok(())) => poll_fn(|cx| connection.poll_turn(cx)).await,
        Some(Err(Ended)) => {}
        None => log::debug!("no HTTP/2 with {}: no preface in {HANDSHAKE:?}", link.peer.addr),
    }
}

fn settings(link: &Link) -> Settings {
    Settings {
        max_concurrent_streams: link.settings.max_concurrent_streams,
        max_header_list_size: HEADER_LIST,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
    }
}

/// What the connection's task does itself.
enum Job {
    Unary(Arc<Shared>, Begun),
    Stream(Arc<Shared>, Begun),
    Http(Arc<dyn Endpoints>, HttpRequest, Budget, Ticket),
}

/// A request that is not gRPC.
struct HttpRequest {
    head: Arc<Head>,
    body: RequestBody,
    answer: Answer,
}

async fn answer(link: Arc<Link>, job: Job) {
    match job {
        Job::Unary(shared, begun) => call::unary(&shared, begun).await,
        // In a box: it is larger than the others, which are many more.
        Job::Stream(shared, begun) => Box::pin(call::stream(shared, begun)).await,
        Job::Http(endpoints, request, budget, _place) => {
            // A client that is gone needs no answer.
            let _ = http(&link, endpoints, request, &budget).await;
        }
    }
}

struct Connection<A, F> {
    streams: Arc<Streams>,
    socket: Socket,
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
    calls: u64,
    draining: bool,
}

/// The connection has ended.
struct Ended;

impl<A: Fn(Arc<Link>, Job) -> F, F: Future<Output = ()>> Connection<A, F> {
    fn new(stream: Stream, link: Arc<Link>, guest: Guest, answer: A) -> Self {
        let (streams, socket) = (Streams::new(settings(&link)), Socket::new(stream));
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
        let (interval, timeout) = (link.settings.keepalive_interval, link.settings.keepalive_timeout);
        let keepalive = Keepalive::new(link.timers.clone(), interval, timeout);
        let jobs = FuturesUnordered::new();
        let pings = PingPolicy::new(link.settings.keepalive_min_time);
        let (armed, calls, draining) = (Armed::default(), 0, false);
        Connection {
            streams,
            socket,
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
            calls,
            draining,
        }
    }

    /// Ready when the client has begun as it should.
    fn poll_established(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        self.turn(cx)?;
        if self.streams.is_established() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ready when the connection has ended.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(Ended) => Poll::Ready(()),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        self.streams.begin_work(cx);
        self.socket.begin_turn();
        match self.guest.poll_phase(cx) {
            Phase::Open => {}
            Phase::Drain => self.drain(),
            Phase::Close => return Err(Ended),
        }
        // All that arrived is taken before any of it is run, and what was answered is written once: a write per
        // reply costs twice the time of the whole call.
        loop {
            self.read(cx)?;
            if !self.run(cx) {
                break;
            }
        }
        self.alarms.poll(&mut self.armed, cx);
        if self.keepalive.poll(self.socket.received(), || self.streams.ping(), cx).is_ready() {
            log::debug!("{} answers no PING; its connection is closed", self.link.peer.addr);
            return Err(Ended);
        }
        if !self.pings.bears(self.streams.take_signs(), !self.budget.calls.is_idle(), self.link.timers.now()) {
            log::debug!("{} pings too often; its connection is closed", self.link.peer.addr);
            self.streams.go_away(Reason::ENHANCE_YOUR_CALM, TOO_MANY_PINGS);
            // Whoever does not read does not hear it.
            let _ = self.streams.end_work(&mut self.socket, cx);
            return Err(Ended);
        }
        match self.streams.end_work(&mut self.socket, cx) {
            Poll::Ready(Err(_)) => Err(Ended),
            Poll::Ready(Ok(())) => {
                self.leaving.clear();
                if self.streams.is_over() { Err(Ended) } else { Ok(()) }
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
            self.streams.leave();
        }
    }

    /// Takes what has arrived, and begins the requests in it.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        loop {
            match self.streams.send(UNHEARD, &mut self.socket, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(Ended),
                Poll::Pending => return Ok(()),
            }
            let mut received = Ok(());
            let count = match self.socket.poll_read(cx, |bytes| received = self.streams.receive(bytes)) {
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => {
                    log::debug!("connection of {} ended: {error}", self.link.peer.addr);
                    return Err(Ended);
                }
                Poll::Pending => return Ok(()),
            };
            while let Some((head, body, answer)) = self.streams.accept() {
                self.begin(head, body, answer);
            }
            if let Err(broken) = received {
                log::debug!("connection of {} ended: {broken}", self.link.peer.addr);
                // Whoever does not read does not hear it.
                let _ = self.streams.end_work(&mut self.socket, cx);
                return Err(Ended);
            }
            if count == 0 {
                return Err(Ended);
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

    fn begin(&mut self, head: Arc<Head>, body: RequestBody, answer: Answer) {
        let content_type = head.get("content-type").unwrap_or_default();
        let cost = CALL + cost_of(&head);
        let mut place = self.budget.calls.ticket(0);
        if !place.grow(cost) {
            self.leaving.enter(self.budget.calls.ticket(CALL));
            return Sender::new(answer, content_type).refuse(200, &Error::TooManyRequests.into());
        }
        match (&self.link.offer.endpoints, &self.shared) {
            (_, Some(shared)) if is_grpc(content_type) => {
                let sender = Sender::new(answer, content_type);
                self.begin_call(shared.clone(), &head, body, sender, place);
            }
            (_, None) if is_grpc(content_type) => {
                let text = "this address serves HTTP only, no gRPC: use one of --listen-client-urls";
                self.leaving.enter(place);
                Sender::new(answer, content_type).refuse(200, &Status::new(Code::Unimplemented, text));
            }
            (Some(endpoints), _) => {
                let request = HttpRequest { head, body, answer };
                let job = Job::Http(endpoints.clone(), request, self.budget.clone(), place);
                self.jobs.push((self.answer)(self.link.clone(), job));
            }
            (None, _) => {
                let text = format!("invalid gRPC request content-type {:?}", String::from_utf8_lossy(content_type));
                let status = Status::new(Code::InvalidArgument, text);
                self.leaving.enter(place);
                Sender::new(answer, content_type).refuse(415, &status);
            }
        }
    }

    fn begin_call(&mut self, shared: Arc<Shared>, head: &Arc<Head>, body: RequestBody, sender: Sender, place: Ticket) {
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
        let begun = |method| Begun { id, method, call, encoding, body, sender, place };
        let job = match route {
            Route::Unary(method) => Job::Unary(shared, begun(method)),
            Route::LightStream(method) => Job::Stream(shared, begun(method)),
            Route::ServerStream(method) | Route::BidiStream(method) => {
                return self.link.executor.spawn(call::stream(shared, begun(method))).detach();
            }
            Route::UnknownMethod | Route::UnknownService => unreachable!("refused by `open`"),
        };
        self.jobs.push((self.answer)(self.link.clone(), job));
    }
}

/// Whoever still answers the client's streams learns that nobody hears it.
impl<A, F> Drop for Connection<A, F> {
    fn drop(&mut self) {
        self.streams.end();
    }
}

/// A gRPC request whose headers make sense.
struct Opened {
    route: Route,
    call: Call,
    encoding: Encoding,
}

/// Checks a gRPC request's headers, in the order and with the answers of gRPC's Go library.
fn open(link: &Link, shared: &Shared, head: &Arc<Head>) -> Result<Opened, (u16, Status)> {
    let timeout = head.get("grpc-timeout").map(|value| parse_timeout(&text(value)));
    let timeout =
        timeout.transpose().map_err(|why| (400, Status::new(Code::Internal, format!("malformed grpc-timeout: {why}"))))?;
    if head.method != "POST" {
        let method = String::from_utf8_lossy(&head.method);
        let text = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return Err((405, Status::new(Code::Internal, text)));
    }
    let refused = |status| (200, status);
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(refused(Error::DeadlineExceeded.into()));
    }
    let path = text(&head.path);
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
        Route::Unary(_) | Route::ServerStream(_) | Route::BidiStream(_) | Route::LightStream(_) => {}
    }
    let encoding = Encoding::of(head).map_err(refused)?;
    let deadline = timeout.map(|timeout| link.timers.now().saturating_add(timeout));
    let call = Call { head: head.clone(), peer: link.peer.clone(), deadline };
    Ok(Opened { route, call, encoding })
}

/// What a client calls a text. It mostly is one, and `from_utf8_lossy` is slow to see it.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// What header fields take in memory, roughly.
fn cost_of(head: &Head) -> usize {
    head.fields.iter().map(|field| HEADER + field.name.len() + field.value.len()).sum()
}

/// Whether a content type is gRPC's: `application/grpc`, alone or with a subtype after `+` or `;`.
fn is_grpc(content_type: &[u8]) -> bool {
    content_type.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
}

/// Answers a request that is not gRPC.
async fn http(link: &Link, endpoints: Arc<dyn Endpoints>, request: HttpRequest, budget: &Budget) -> Result<(), Gone> {
    let HttpRequest { head, body, mut answer } = request;
    let is_head = head.method == "HEAD";
    let limit = link.settings.message_limit();
    let mut held = budget.requests.ticket(0);
    let whole = within(&*link.timers, BODY, read_body(body, limit, &mut held)).await;
    let reserved = unless_gone(budget.replies.reserve(HTTP_ANSWER), &mut answer).await?;
    let response = match whole.map(|whole| whole.and_then(|body| as_http(&head, body))) {
        Some(Ok(request)) => unless_gone(endpoints.answer(link.peer.clone(), request), &mut answer).await?,
        Some(Err(Unread::TooLong)) => {
            plain_text(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes\n"))
        }
        Some(Err(Unread::Odd)) => plain_text(StatusCode::BAD_REQUEST, "this is no HTTP request\n"),
        Some(Err(Unread::NoRoom)) => no_room(),
        Some(Err(Unread::Gone)) => return Err(Gone),
        None => plain_text(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive in {BODY:?}\n")),
    };
    let (head, body) = response.into_parts();
    let body = if is_head { Body::Whole(Bytes::new()) } else { body };
    drop(reserved);
    send_http(answer, &Response::from_parts(head, ()), body, &budget.replies).await
}

/// A request as the endpoints take it.
fn as_http(head: &Head, body: Bytes) -> Result<Request<Bytes>, Unread> {
    let mut uri = Uri::builder().path_and_query(&*head.path);
    if let Some(authority) = &head.authority {
        uri = uri.scheme(&*head.scheme).authority(&**authority);
    }
    let mut request = Request::new(body);
    *request.uri_mut() = uri.build().map_err(|_| Unread::Odd)?;
    *request.method_mut() = Method::from_bytes(&head.method).map_err(|_| Unread::Odd)?;
    *request.headers_mut() = header_map(head).ok_or(Unread::Odd)?;
    Ok(request)
}

/// Runs `work` as long as the client waits for it.
async fn unless_gone<T>(work: impl Future<Output = T>, answer: &mut Answer) -> Result<T, Gone> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => answer.poll_gone(cx).map(|()| Err(Gone)),
    })
    .await
}

/// Why a request was not read to its end.
enum Unread {
    TooLong,
    NoRoom,
    Odd,
    Gone,
}

/// The whole body, up to `limit`, counted as `held`.
async fn read_body(mut body: RequestBody, limit: usize, held: &mut Ticket) -> Result<Bytes, Unread> {
    let mut whole = BytesMut::new();
    while let Some(part) = poll_fn(|cx| body.poll(cx)).await {
        let part = part.map_err(|_| Unread::Gone)?;
        if whole.len() + part.len() > limit {
            return Err(Unread::TooLong);
        }
        if !held.grow(DOUBLED * part.len()) {
            return Err(Unread::NoRoom);
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

async fn send_http(mut answer: Answer, head: &Response<()>, body: Body, replies: &Arc<Allowance>) -> Result<(), Gone> {
    let is_empty = matches!(&body, Body::Whole(bytes) if bytes.is_empty());
    let fields = head.headers().iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes(), false));
    answer.head(head.status().as_u16(), fields, is_empty);
    if is_empty {
        return Ok(());
    }
    match body {
        Body::Whole(bytes) => send_body(&mut answer, bytes, replies).await?,
        Body::Pieces(mut pieces) => {
            while let Some(piece) = unless_gone(pieces.next(), &mut answer).await? {
                send_body(&mut answer, piece, replies).await?;
            }
        }
    }
    answer.end();
    Ok(())
}

async fn send_body(answer: &mut Answer, bytes: Bytes, replies: &Arc<Allowance>) -> Result<(), Gone> {
    let mut segment = Segment::plain(bytes).ticketed(replies);
    poll_fn(|cx| answer.poll_send(&mut segment, cx)).await
}
