//! etcd's revision model in memory, over an LMDB checkpoint. No sockets, no Raft words.
//!
//! In: reads at a revision, and writes in log order from one caller. Out: rows, and the [`Event`]s of each revision.
//! Always: one main revision per writing transaction; a revision once visible never changes; what is newer than the checkpoint is
//! in memory, the rest in the backend, and nothing is in neither.

mod event;
mod hash;
mod history;
mod key_index;
mod key_range;
mod read;
mod recent;
mod revision;
mod row;
mod state;
mod store;
mod txn;
pub mod watch;
mod write;

pub use event::{Event, EventKind, History, HistoryError, HistoryPage, Prev};
pub use hash::HashKv;
pub use key_range::KeyRange;
pub use read::{Answer, RangeAnswer, Rows};
pub use revision::Revision;
pub use row::{RowHead, encode_delete, encode_row};
pub use state::Change;
pub use store::{Checkpoint, Stats, Store};
pub use write::{Batch, LeaseExists, Written};

#[cfg(test)]
mod tests;
