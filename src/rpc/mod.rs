//! From bytes on a socket to a call, and back. The only room that knows that HTTP/2 exists ([`crate::http2`] speaks it).
//!
//! ```text
//! listen.rs     sockets -> connections           stream.rs     one type for TCP, unix, TLS and a simulator's pipes
//! tls/          handshakes, certificate files    front.rs      what a connection speaks: sniff or ALPN, then ...
//! http2.rs      ... one task per connection      http1.rs      ... or hyper's HTTP/1.1
//! streams.rs    its streams, for those who answer
//! keepalive.rs  clients that are gone without a word, and such as ask too often whether we are
//! call.rs       one gRPC call on one stream      frame.rs      gRPC's length-prefixed messages, gzip
//! sender.rs     our half of its stream           outlet.rs     a stream's replies on their way there
//! metadata.rs   timeouts, percent and base64     status.rs     every [`crate::error::Error`] as code and text
//! allowance.rs  memory that clients may take     stop.rs       the end of all connections
//! timers.rs     time, as a seam
//! grpc.rs       what the services implement      http.rs       what the HTTP endpoints implement
//! services.rs   etcd's gRPC services             endpoints/    /health, /metrics, /version
//! ```
//!
//! In: connections, as any `AsyncRead + AsyncWrite`. Out: [`grpc::Services`] and [`http::Endpoints`] are asked, and their answers sent.
//! Always: what clients can make us hold is bounded, together and for each connection (`ARCHITECTURE.md` has the table); nothing from
//! a client panics; a handler that waits never keeps its connection from reading, writing or answering PINGs.

mod allowance;
mod call;
mod calls;
mod check;
mod cluster;
mod encode;
pub mod endpoints;
pub mod frame;
pub mod front;
pub mod grpc;
mod health;
pub mod http;
mod http1;
mod http2;
mod keepalive;
mod kv;
mod lease;
pub mod listen;
mod maintenance;
mod metadata;
mod outlet;
mod sender;
pub mod services;
pub mod status;
mod stop;
pub mod stream;
mod streams;
pub mod timers;
pub mod tls;
pub mod watch;

#[cfg(test)]
mod tests;
