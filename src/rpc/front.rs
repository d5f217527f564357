//! Connections: whose turn it is to speak, HTTP/2 or HTTP/1.1, and who answers. In: listeners, or any byte stream (the seam for a
//! simulator). Out: connections that are served until they end or the server stops.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_lite::AsyncReadExt;
use http::{Response, StatusCode, header};
use smol::Executor;
use smol::lock::Semaphore;

use super::allowance::Allowance;
use super::grpc::{Peer, Services};
use super::http::{Body, Endpoints};
use super::listen::connection_limit;
use super::stop::{Guest, Phase, Stop};
use super::stream::{Io, Stream};
use super::timers::{Timers, within};
use super::{http1, http2};
use crate::config::Config;

/// How an HTTP/2 connection begins (RFC 9113 §3.4). No HTTP/1.1 request does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Time for the first bytes of a connection.
const SNIFF: Duration = Duration::from_secs(60);
/// gRPC's own part of a request, on top of `--max-request-bytes`.
pub(super) const OVERHEAD: usize = 512 * 1024;
/// Requests in memory at a time.
const REQUESTS: usize = 64 * 1024 * 1024;
/// Calls that are open, at what they take in memory: about 25,000 with few headers.
const CALLS: usize = 128 * 1024 * 1024;
/// Replies that clients have not taken.
const REPLIES: usize = 64 * 1024 * 1024;
/// Of each of these, what is promised to every connection.
pub(super) const PROMISED: usize = 64 * 1024;
/// A buffer that is filled piece by piece may be twice as large as what is in it.
pub(super) const DOUBLED: usize = 2;
/// Replies of unary calls that may wait for one connection. Further calls of it are not run till it has taken some.
const CONNECTION_REPLIES: usize = 1024 * 1024;
/// Replies of streams that may: of more than a hundred that stall, before the others of their connection wait.
const CONNECTION_STREAMED: usize = 8 * 1024 * 1024;

/// What connections are allowed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--max-request-bytes`
    pub max_request_bytes: usize,
    /// `--max-concurrent-streams`, per connection.
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-min-time`
    pub keepalive_min_time: Duration,
    /// `--grpc-keepalive-interval`; zero: never.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`
    pub keepalive_timeout: Duration,
    /// Bytes of requests that are read or answered at a time, in the whole process. Above it, requests are refused.
    pub request_memory: usize,
    /// Connections at a time. Further ones wait in the kernel.
    pub max_connections: usize,
}

impl Settings {
    /// As configured.
    pub fn of(config: &Config) -> Settings {
        Settings {
            max_request_bytes: config.max_request_bytes,
            max_concurrent_streams: config.max_concurrent_streams,
            keepalive_min_time: config.keepalive_min_time,
            keepalive_interval: config.keepalive_interval,
            keepalive_timeout: config.keepalive_timeout,
            // One request of any allowed size has to fit.
            request_memory: REQUESTS.max(config.max_request_bytes.saturating_add(OVERHEAD).saturating_mul(2)),
            max_connections: connection_limit(),
        }
    }

    /// The longest message that is read.
    pub fn message_limit(&self) -> usize {
        self.max_request_bytes.saturating_add(OVERHEAD)
    }
}

/// What a listener serves: gRPC, HTTP, or both.
#[derive(Clone)]
pub struct Offer {
    /// gRPC; none: such calls are answered Unimplemented.
    pub services: Option<Arc<dyn Services>>,
    /// All other requests; none: they are refused.
    pub endpoints: Option<Arc<dyn Endpoints>>,
}

/// What a connection's client wants to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Not said: look at its first bytes.
    Unsaid,
    /// Said in the TLS handshake (ALPN).
    Http2,
    /// Said in the TLS handshake.
    Http1,
}

/// One connection's surroundings.
pub struct Link {
    /// What it may do.
    pub settings: Settings,
    /// Where its streams run.
    pub executor: Arc<Executor<'static>>,
    /// Time.
    pub timers: Arc<dyn Timers>,
    /// Memory for clients, of the whole process.
    pub memory: Memory,
    /// Who answers.
    pub offer: Offer,
    /// Who asks.
    pub peer: Arc<Peer>,
}

/// What clients may make the process hold.
#[derive(Clone)]
pub struct Memory {
    calls: Arc<Allowance>,
    requests: Arc<Allowance>,
    replies: Arc<Allowance>,
}

/// A connection's part of it.
#[derive(Clone)]
pub struct Budget {
    /// Calls that are open.
    pub calls: Arc<Allowance>,
    /// Requests that are being read or answered.
    pub requests: Arc<Allowance>,
    /// Replies of unary calls.
    pub replies: Arc<Allowance>,
    /// Replies of streams.
    pub streamed: Arc<Allowance>,
}

impl Memory {
    fn of(settings: &Settings) -> Memory {
        let [calls, requests, replies] = [CALLS, settings.request_memory, REPLIES].map(Allowance::new);
        Memory { calls, requests, replies }
    }

    /// The part of a further connection.
    pub fn of_connection(&self) -> Budget {
        Budget {
            calls: self.calls.share(usize::MAX, PROMISED),
            requests: self.requests.share(usize::MAX, PROMISED),
            replies: self.replies.share(CONNECTION_REPLIES, PROMISED),
            streamed: self.replies.share(CONNECTION_STREAMED, PROMISED),
        }
    }
}

/// All connections of the server.
pub struct Front {
    settings: Settings,
    executors: Vec<Arc<Executor<'static>>>,
    timers: Arc<dyn Timers>,
    memory: Memory,
    connections: Arc<Semaphore>,
    stop: Arc<Stop>,
}

impl Front {
    /// Nothing is listened to yet. A connection and its streams stay on one of the executors, of which there is at least one.
    pub fn new(settings: Settings, executors: Vec<Arc<Executor<'static>>>, timers: Arc<dyn Timers>) -> Arc<Front> {
        let memory = Memory::of(&settings);
        let connections = Arc::new(Semaphore::new(settings.max_connections));
        Arc::new(Front { settings, executors, timers, memory, connections, stop: Arc::default() })
    }

    /// Serves one connection to its end. The seam: `io` may be anything.
    pub async fn serve(&self, io: impl Io, protocol: Protocol, peer: Peer, offer: Offer) {
        let (executor, guest) = (self.executor(), self.guest());
        self.serve_guest(executor, Stream::new(io), protocol, peer, offer, guest).await;
    }

    /// Ends all connections: no new calls, `limit` for those that run, then the rest is closed. Resolves when all have ended.
    pub async fn shutdown(&self, limit: Duration) {
        self.stop.enter(Phase::Drain);
        let ended = within(&*self.timers, limit, poll_fn(|cx| self.stop.poll_empty(cx))).await;
        if ended.is_none() {
            log::info!("closing connections whose calls did not end in {limit:?}");
            self.stop.enter(Phase::Close);
            poll_fn(|cx| self.stop.poll_empty(cx)).await;
        }
    }

    pub(super) fn guest(&self) -> Guest {
        self.stop.guest()
    }

    pub(super) fn connections(&self) -> &Arc<Semaphore> {
        &self.connections
    }

    /// The executor with the fewest connections: each holds it.
    pub(super) fn executor(&self) -> Arc<Executor<'static>> {
        self.executors.iter().min_by_key(|executor| Arc::strong_count(executor)).expect("there is one").clone()
    }

    pub(super) fn timers(&self) -> &Arc<dyn Timers> {
        &self.timers
    }

    pub(super) async fn serve_guest(
        &self,
        executor: Arc<Executor<'static>>,
        mut stream: Stream,
        protocol: Protocol,
        peer: Peer,
        offer: Offer,
        mut guest: Guest,
    ) {
        let link = Arc::new(Link {
            settings: self.settings.clone(),
            executor,
            timers: self.timers.clone(),
            memory: self.memory.clone(),
            offer,
            peer: Arc::new(peer),
        });
        let protocol = match protocol {
            Protocol::Unsaid => {
                let sniffed = within(&*self.timers, SNIFF, sniff(&mut stream));
                let stopped = async {
                    guest.reached(Phase::Drain).await;
                    None
                };
                match futures_lite::future::or(sniffed, stopped).await {
                    Some(Some(protocol)) => protocol,
                    Some(None) | None => return,
                }
            }
            said => said,
        };
        match protocol {
            Protocol::Http2 => http2::serve(stream, link, guest).await,
            Protocol::Http1 | Protocol::Unsaid => http1::serve(stream, link, guest).await,
        }
    }
}

/// Reads until the first bytes tell HTTP/2 from HTTP/1.1, however slowly they come, and puts them back. None: the stream ended.
async fn sniff(stream: &mut Stream) -> Option<Protocol> {
    let mut first = BytesMut::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let mut bytes = [0; PREFACE.len()];
        let missing = PREFACE.len() - first.len();
        match stream.read(&mut bytes[..missing]).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => first.extend_from_slice(&bytes[..count]),
        }
    }
    let protocol = if first == PREFACE { Protocol::Http2 } else { Protocol::Http1 };
    stream.unread(first.freeze());
    Some(protocol)
}

/// What is said to a request whose body there is no memory for.
pub fn no_room() -> Response<Body> {
    plain_text(StatusCode::SERVICE_UNAVAILABLE, "etcdserver: too many requests\n")
}

/// An answer in plain text.
pub fn plain_text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(Body::Whole(text.into()))
        .expect("the parts are ours")
}
