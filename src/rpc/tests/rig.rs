//! Pipes, a clock that is moved by hand, services that do odd things, and a client.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_lite::{AsyncRead, AsyncWrite};
use futures_util::{StreamExt, stream};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use smol::Executor;
use tokio::io::ReadBuf;

use crate::rpc::front::{Front, Offer, Protocol, Settings};
use crate::rpc::grpc::{BoxFuture, Call, MethodId, Peer, PeerAddr, Replies, Reply, Requests, Route, Services};
use crate::rpc::http::{Body, Endpoints};
use crate::rpc::status::{Code, Status};
use crate::rpc::stream::Stream;
use crate::rpc::timers::Timers;

/// Time that a test moves.
#[derive(Clone, Default)]
pub struct TestTimers(Arc<Mutex<Moments>>);

#[derive(Default)]
struct Moments {
    now: Duration,
    sleepers: Vec<(Duration, Waker)>,
}

impl TestTimers {
    pub fn advance(&self, time: Duration) {
        let mut moments = self.0.lock().unwrap();
        moments.now += time;
        let now = moments.now;
        let due: Vec<_> = moments.sleepers.extract_if(.., |(at, _)| *at <= now).collect();
        drop(moments);
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl Timers for TestTimers {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().now
    }

    fn sleep(&self, time: Duration) -> BoxFuture<()> {
        let moments = self.0.clone();
        let at = self.now().saturating_add(time);
        Box::pin(poll_fn(move |cx| {
            let mut moments = moments.lock().unwrap();
            if moments.now >= at {
                return Poll::Ready(());
            }
            moments.sleepers.push((at, cx.waker().clone()));
            Poll::Pending
        }))
    }
}

/// One direction of a pipe.
#[derive(Default)]
struct Lane {
    bytes: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    writes: usize,
}

/// One end of a pipe that holds 64 KiB each way.
pub struct Pipe {
    read: Arc<Mutex<Lane>>,
    write: Arc<Mutex<Lane>>,
}

/// Counts how often the far end of a pipe was written to.
pub struct Writes(Arc<Mutex<Lane>>);

impl Writes {
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().writes
    }
}

pub fn pipe() -> (Pipe, Pipe) {
    let (a, b) = (Arc::<Mutex<Lane>>::default(), Arc::<Mutex<Lane>>::default());
    (Pipe { read: a.clone(), write: b.clone() }, Pipe { read: b, write: a })
}

impl Pipe {
    /// Writes to this end, counted.
    pub fn writes(&self) -> Writes {
        Writes(self.write.clone())
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut lane = self.read.lock().unwrap();
        if lane.bytes.is_empty() && !lane.closed {
            lane.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = lane.bytes.len().min(buffer.len());
        io::Read::read_exact(&mut lane.bytes, &mut buffer[..count])?;
        lane.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut lane = self.write.lock().unwrap();
        if lane.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = (64 * 1024 - lane.bytes.len()).min(bytes.len());
        if count == 0 && !bytes.is_empty() {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        lane.writes += 1;
        lane.bytes.extend(&bytes[..count]);
        lane.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As forgetful as async-net: a flush that has nothing to wait for takes back the wish to write.
        self.write.lock().unwrap().writer = None;
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lane = self.write.lock().unwrap();
        lane.closed = true;
        lane.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for lane in [&self.read, &self.write] {
            let mut lane = lane.lock().unwrap();
            lane.closed = true;
            lane.reader.take().into_iter().for_each(Waker::wake);
            lane.writer.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// Services for tests, and what they saw.
#[derive(Default)]
pub struct TestServices {
    pub started: AtomicUsize,
    pub handled: Mutex<Vec<(MethodId, Code)>>,
    pub received: AtomicUsize,
    /// Pieces or messages that were made for slow readers.
    pub made: AtomicUsize,
    /// Handlers that were dropped before they ended.
    pub dropped: Arc<AtomicUsize>,
    pub seen: Mutex<Option<Call>>,
}

const METHODS: [&str; 8] = ["Echo", "Fail", "Stuck", "Big", "Chat", "Flood", "Wait", "Long"];
pub const ECHO: MethodId = MethodId(0);
pub const STUCK: MethodId = MethodId(2);
pub const WAIT: MethodId = MethodId(6);

/// A piece of [`TestServices`]' big answers.
pub const PIECE: usize = 256 * 1024;

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Services for TestServices {
    fn find(&self, service: &str, method: &str) -> Route {
        if service != "test.Service" {
            return Route::UnknownService;
        }
        match METHODS.iter().position(|name| *name == method) {
            Some(id @ 4..=6) => Route::BidiStream(MethodId(id as u16)),
            Some(id) => Route::Unary(MethodId(id as u16)),
            None => Route::UnknownMethod,
        }
    }

    fn unary(self: Arc<Self>, method: MethodId, call: Call, message: Bytes) -> BoxFuture<Result<Reply, Status>> {
        Box::pin(async move {
            *self.seen.lock().unwrap() = Some(call);
            match METHODS[method.0 as usize] {
                "Echo" => Ok(Reply::Whole(message)),
                "Fail" => Err(Status::new(Code::DataLoss, String::from_utf8(message.to_vec()).unwrap())),
                "Stuck" => {
                    let _counted = Counted(self.dropped.clone());
                    std::future::pending().await
                }
                // As many pieces as the message has bytes; a message "x" promises more than it keeps.
                "Big" => {
                    let count = message.len();
                    let total = (count * PIECE) as u32 + u32::from(&message[..] == b"x");
                    let pieces = stream::iter(0..count).map(move |number| {
                        self.made.fetch_add(1, Ordering::SeqCst);
                        Bytes::from(vec![number as u8; PIECE])
                    });
                    Ok(Reply::Pieces { total, pieces: Box::pin(pieces) })
                }
                "Long" => Ok(Reply::Whole(vec![b'l'; 100 * 1024].into())),
                other => unreachable!("{other} is no unary method"),
            }
        })
    }

    fn stream(
        self: Arc<Self>,
        method: MethodId,
        _call: Call,
        mut requests: Requests,
        mut replies: Replies,
    ) -> BoxFuture<Result<(), Status>> {
        Box::pin(async move {
            match METHODS[method.0 as usize] {
                "Chat" => {
                    while let Some(message) = requests.next().await {
                        replies.send(message?).await?;
                    }
                    Ok(())
                }
                "Flood" => loop {
                    replies.send(Bytes::from_static(&[b'f'; 16 * 1024])).await?;
                    self.made.fetch_add(1, Ordering::SeqCst);
                },
                "Wait" => {
                    let _counted = Counted(self.dropped.clone());
                    replies.send_parts([Bytes::from("a "), Bytes::from("word")]).await?;
                    std::future::pending().await
                }
                other => unreachable!("{other} is no stream"),
            }
        })
    }

    fn started(&self, _: MethodId) {
        self.started.fetch_add(1, Ordering::SeqCst);
    }

    fn received(&self, _: MethodId, _: usize) {
        self.received.fetch_add(1, Ordering::SeqCst);
    }

    fn handled(&self, method: MethodId, code: Code, _: Duration) {
        self.handled.lock().unwrap().push((method, code));
    }
}

/// HTTP endpoints for tests: tell what they were asked.
pub struct TestEndpoints;

impl Endpoints for TestEndpoints {
    fn answer(self: Arc<Self>, _: Arc<Peer>, request: Request<Bytes>) -> BoxFuture<Response<Body>> {
        Box::pin(async move {
            if request.uri().path() == "/stuck" {
                std::future::pending::<()>().await;
            }
            let body = match request.uri().path() {
                "/pieces" => Body::Pieces(Box::pin(stream::iter([Bytes::from("one "), Bytes::from("two")]))),
                path => Body::from(format!("{} {path} {}", request.method(), request.body().len())),
            };
            Response::new(body)
        })
    }
}

/// A server without sockets.
pub struct Rig {
    pub executor: Arc<Executor<'static>>,
    pub timers: TestTimers,
    pub front: Arc<Front>,
    pub services: Arc<TestServices>,
}

pub fn settings() -> Settings {
    Settings {
        max_request_bytes: 1024 * 1024,
        max_concurrent_streams: u32::MAX,
        keepalive_min_time: Duration::from_secs(5),
        keepalive_interval: Duration::ZERO,
        keepalive_timeout: Duration::from_secs(20),
        request_memory: 64 * 1024 * 1024,
        max_connections: 100,
    }
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(settings())
    }

    pub fn with(settings: Settings) -> Rig {
        let (executor, timers) = (Arc::new(Executor::new()), TestTimers::default());
        let front = Front::new(settings, vec![executor.clone()], Arc::new(timers.clone()));
        Rig { executor, timers, front, services: Arc::default() }
    }

    pub fn offer(&self) -> Offer {
        Offer { services: Some(self.services.clone()), endpoints: Some(Arc::new(TestEndpoints)) }
    }

    /// Runs all tasks until none can go on.
    pub fn settle(&self) {
        while self.executor.try_tick() {}
    }

    pub fn advance(&self, time: Duration) {
        self.settle();
        self.timers.advance(time);
        self.settle();
    }

    /// Runs a future beside all tasks. It has to end without time passing.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let task = self.executor.spawn(future);
        self.settle();
        assert!(task.is_finished(), "it waits for something that does not come");
        smol::block_on(task)
    }

    /// The client's end of a connection that is served.
    pub fn dial(&self, offer: Offer) -> Pipe {
        self.dial_counted(offer).0
    }

    pub fn dial_counted(&self, offer: Offer) -> (Pipe, Writes) {
        let (ours, theirs) = pipe();
        let writes = theirs.writes();
        let front = self.front.clone();
        let peer = Peer { addr: PeerAddr::Local, tls: false, common_name: None };
        self.executor.spawn(async move { front.serve(theirs, Protocol::Unsaid, peer, offer).await }).detach();
        (ours, writes)
    }

    /// An HTTP/2 client with both services and endpoints to talk to.
    pub fn client(&self) -> Client {
        let offer = self.offer();
        self.client_of(self.dial(offer))
    }

    pub fn client_of(&self, pipe: Pipe) -> Client {
        let executor = self.executor.clone();
        self.run(async move { Client::over(Stream::new(pipe), &executor).await })
    }
}

/// An HTTP/2 client that speaks gRPC.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Bytes>,
    pub pings: Arc<Mutex<Option<h2::PingPong>>>,
    /// Set when the connection has ended, with its error if there was one.
    pub ended: Arc<Mutex<Option<Option<h2::Error>>>>,
}

/// How a call ended.
#[derive(Debug)]
pub struct Outcome {
    pub http: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
    /// Headers and trailers came as one frame.
    pub trailers_only: bool,
}

impl Outcome {
    pub fn status(&self) -> (&str, &str) {
        let from = if self.trailers_only { &self.headers } else { &self.trailers };
        let text = |name| from.get(name).map_or("", |value| value.to_str().unwrap());
        (text("grpc-status"), text("grpc-message"))
    }

    /// The bytes of the messages.
    pub fn messages(&self) -> Vec<Bytes> {
        let mut body = self.body.clone();
        let mut messages = Vec::new();
        while !body.is_empty() {
            let prefix = body.split_to(5);
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
            messages.push(body.split_to(length as usize));
        }
        messages
    }
}

/// A gRPC message, framed.
pub fn framed(message: &[u8]) -> Bytes {
    flagged(0, message)
}

pub fn flagged(flags: u8, message: &[u8]) -> Bytes {
    let mut bytes = vec![flags];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    bytes.into()
}

pub fn post(method: &str) -> http::request::Builder {
    Request::post(format!("http://server{method}")).header("content-type", "application/grpc")
}

/// A stream as the client's library wants it.
pub struct Wire(pub Stream);

impl tokio::io::AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        let most = buffer.remaining().min(bytes.len());
        let count = ready!(Pin::new(&mut self.0).poll_read(cx, &mut bytes[..most]))?;
        buffer.put_slice(&bytes[..count]);
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

impl Client {
    pub async fn over(stream: Stream, executor: &Executor<'static>) -> Client {
        let (requests, mut connection) =
            h2::client::Builder::new().initial_connection_window_size(1024 * 1024).handshake(Wire(stream)).await.unwrap();
        let pings = Arc::new(Mutex::new(connection.ping_pong()));
        let ended = Arc::new(Mutex::new(None));
        let told = ended.clone();
        let drive = async move {
            let result = poll_fn(|cx| Pin::new(&mut connection).poll(cx)).await;
            *told.lock().unwrap() = Some(result.err());
        };
        executor.spawn(drive).detach();
        Client { requests, pings, ended }
    }

    /// Begins a request; the body stays open.
    pub async fn begin(&self, request: http::request::Builder) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = self.requests.clone().ready().await.unwrap();
        ready.send_request(request.body(()).unwrap(), false).unwrap()
    }

    /// A whole request and its whole answer.
    pub async fn request(&self, request: http::request::Builder, body: Bytes) -> Outcome {
        let (response, mut stream) = self.begin(request).await;
        send(&mut stream, body, true).await;
        outcome(response).await
    }

    /// A unary call.
    pub async fn call(&self, method: &str, message: &[u8]) -> Outcome {
        self.request(post(&format!("/test.Service/{method}")), framed(message)).await
    }
}

/// Sends as the windows open. Stops without a word if the server has ended the stream.
pub async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = match stream.capacity() {
            0 => match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(room)) => room,
                _ => return,
            },
            room => room,
        };
        if stream.send_data(bytes.split_to(room.min(bytes.len())), false).is_err() {
            return;
        }
    }
    if end {
        let _ = stream.send_data(Bytes::new(), true);
    }
}

pub async fn outcome(response: ResponseFuture) -> Outcome {
    let (head, mut body) = response.await.unwrap().into_parts();
    let trailers_only = body.is_end_stream();
    let (body, trailers) = rest(&mut body).await.unwrap();
    Outcome { http: head.status, headers: head.headers, body, trailers, trailers_only }
}

/// The rest of a stream and its trailers.
pub async fn rest(body: &mut RecvStream) -> Result<(Bytes, HeaderMap), h2::Error> {
    let mut bytes = BytesMut::new();
    while let Some(part) = poll_fn(|cx| body.poll_data(cx)).await {
        let part = part?;
        body.flow_control().release_capacity(part.len()).unwrap();
        bytes.extend_from_slice(&part);
    }
    let trailers = poll_fn(|cx| body.poll_trailers(cx)).await?.unwrap_or_default();
    Ok((bytes.freeze(), trailers))
}
