//! HTTP/2, a server's side of one connection (RFC 9113). In: the client's bytes, however they are cut, and what is to be answered.
//! Out: requests, their bodies, and bytes for the client. Nothing here reads, writes or waits: a [`Connection`] is told and asked by
//! the task that owns the socket, and by those that answer. What is always true:
//!
//! - A client gets what RFC 9113 has for its mistakes: its stream is reset, or its connection is told off and ended.
//! - No body is longer in memory than the windows that were given for it.
//! - No byte of a body is taken for sending that the client has no window for.
//! - A stream is kept until both sides have ended it and nobody here holds it.
//!
//! What is left out, because no client of ours needs it: pushes, priorities, and requests with `CONNECT`.

mod connection;
mod frame;
mod head;
mod hpack;
mod outgoing;
mod places;
mod stream;

#[cfg(test)]
mod tests;

pub use connection::{Broken, Connection, Request, Settings, Signs};
pub use frame::Reason;
pub use head::Head;
pub use hpack::Field;
pub use stream::Id;

/// How a client begins (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
