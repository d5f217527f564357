//! What the services implement, and what they are handed. In: a request's message as bytes, and a [`Call`] that says who asks
//! and until when. Out: a [`Reply`] in one message, or many through [`Replies`].
//!
//! A unary handler runs inside its connection's task and must not block; most streaming handlers have a task of their own. Both are
//! dropped, wherever they wait, when the client resets the stream, the connection ends or the deadline passes: a handler
//! that holds something gives it back in `Drop`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::metadata;
use super::status::{Code, Status};
use crate::http2::Head;
use bytes::Bytes;
use futures_util::Stream;

pub use super::call::{Replies, Requests};

/// A boxed future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A method of a service; the number is the services' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MethodId(pub u16);

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// One request, one reply: [`Services::unary`].
    Unary(MethodId),
    /// One request, any number of replies: [`Services::stream`], whose requests are [`Requests::first`] and no other.
    ServerStream(MethodId),
    /// Any number of both: [`Services::stream`].
    BidiStream(MethodId),
    /// The same, where a message costs as little as a unary call: it runs inside the connection's task as those do.
    LightStream(MethodId),
    /// The service has no such method.
    UnknownMethod,
    /// There is no such service.
    UnknownService,
}

/// What the server offers over gRPC.
pub trait Services: Send + Sync + 'static {
    /// Resolves `/service/method`.
    fn find(&self, service: &str, method: &str) -> Route;

    /// Answers one message with one. `message` is a slice of the connection's read buffer wherever it arrived in one piece:
    /// whoever keeps a part of it for long copies that part, or the whole buffer stays with it.
    fn unary(self: Arc<Self>, method: MethodId, call: Call, message: Bytes) -> BoxFuture<Result<Reply, Status>>;

    /// Answers a stream. Its end is the stream's end; queued replies are still sent.
    fn stream(
        self: Arc<Self>,
        method: MethodId,
        call: Call,
        requests: Requests,
        replies: Replies,
    ) -> BoxFuture<Result<(), Status>>;

    /// A call of a known method begins (a unary one: its message is here).
    fn started(&self, _method: MethodId) {}

    /// A message came: its bytes after decompression, without the gRPC prefix.
    fn received(&self, _method: MethodId, _bytes: usize) {}

    /// A message was handed to the connection.
    fn sent(&self, _method: MethodId, _bytes: u64) {}

    /// A call that was started is over. Exactly once per [`Services::started`].
    fn handled(&self, _method: MethodId, _code: Code, _took: Duration) {}
}

/// The one message that answers a unary call.
pub enum Reply {
    /// All of it.
    Whole(Bytes),
    /// So many bytes, made piece by piece while the client takes them; about 64 KiB a piece. Never held whole.
    Pieces {
        /// The message's length: what the pieces sum up to. A stream that yields another sum resets the call.
        total: u32,
        /// In order, the first of them made already. The others are asked for when there is room for them.
        pieces: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    },
}

impl From<Bytes> for Reply {
    fn from(message: Bytes) -> Reply {
        Reply::Whole(message)
    }
}

/// The client reset the stream, or its connection is gone: nobody hears the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Who asks, what they sent along, and until when they wait.
#[derive(Clone, Debug)]
pub struct Call {
    /// The request's head, with the metadata.
    pub head: Arc<Head>,
    /// The client.
    pub peer: Arc<Peer>,
    /// When the client gives up, on the clock of [`super::timers::Timers::now`]. The call is ended then; nobody has to look.
    pub deadline: Option<Duration>,
}

impl Call {
    /// The first value of an ASCII metadata key (lower case).
    pub fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.head.get(key)?).ok()
    }

    /// The first value of a binary metadata key, which ends in `-bin`.
    pub fn binary(&self, key: &str) -> Option<Result<Vec<u8>, Status>> {
        let value = self.head.get(key)?;
        Some(metadata::decode_base64(value).ok_or_else(|| {
            Status::new(Code::Internal, format!("malformed binary metadata in header {key:?}: illegal base64 data"))
        }))
    }
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from.
    pub addr: PeerAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// The common name of its certificate, if that was asked for and verified. Never empty.
    pub common_name: Option<String>,
}

/// The address of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a unix socket, or a simulator's pipe: no address.
    Local,
}

impl std::fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PeerAddr::Tcp(addr) => addr.fmt(f),
            PeerAddr::Local => f.write_str("@"),
        }
    }
}
