//! What the HTTP endpoints (`/health`, `/metrics`, `/version`, and later the JSON gateway) implement. The same answers go out
//! over HTTP/1.1 and HTTP/2.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response};

use super::grpc::{BoxFuture, Peer};

/// What a listener answers to requests that are not gRPC.
pub trait Endpoints: Send + Sync + 'static {
    /// Answers one request. Its body was read whole, within the limit of the listener; HEAD's answer loses its body by itself.
    /// The host that was asked for is the URI's authority over HTTP/2, and the Host header over HTTP/1.1.
    fn answer(self: Arc<Self>, peer: Arc<Peer>, request: Request<Bytes>) -> BoxFuture<Response<Body>>;
}

/// The body of an answer.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Pieces, sent as they come: for answers that are long or never end.
    Pieces(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::Whole(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::Whole(text.into())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Body::Whole(Bytes::from_static(text.as_bytes()))
    }
}
