//! The map. Rooms in arrow order; a room may use the rooms to its right, never up or sideways:
//!
//! ```text
//! main -> cli -> rpc -+-> server -+-> wal -> raft
//!                     |           +-> lease
//!                     |           +-> mvcc -> backend
//!                     +-> http2
//! ```
//!
//! [`error`], [`pb`], [`config`], [`metrics`] and [`host`] are leaves for all of them; [`raft`], [`lease`] and [`http2`] are pure and use
//! only the words of [`error`]. `tests/tidy.rs` holds the arrows.

#![deny(missing_docs)]
#![allow(rustdoc::private_intra_doc_links)] // the documentation is built with private items: its readers work on them

pub mod backend;
pub mod cli;
pub mod config;
pub mod error;
pub mod host;
pub mod http2;
pub mod lease;
pub mod logging;
pub mod metrics;
pub mod mvcc;
#[allow(missing_docs)] // generated
pub mod pb;
pub mod raft;
pub mod rpc;
pub mod server;
pub mod wal;
