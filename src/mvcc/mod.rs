//! etcd's revision model in memory, over an LMDB checkpoint. No sockets, no Raft words.
//!
//! In: reads at a revision, and writes in log order from one caller. Out: rows, and the [`Event`]s of each revision.
//! Always: one main revision per writing transaction; a revision once visible never changes; what is newer than the checkpoint is
//! in [`recent`], the rest in the backend, and nothing is in neither.

mod event;
mod revision;
mod row;
pub mod watch;

pub use event::{Event, EventKind, History, HistoryError, HistoryPage, Prev};
pub use revision::Revision;
pub use row::{RowHead, encode_delete, encode_row};
