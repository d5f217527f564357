//! Raft consensus. In: [`Event`]s. Out: [`Effects`], plain data. Touches no clock, socket, file, thread or random source: the
//! seed comes in with the config, so one seed replays one run.

mod types;

pub use types::{ConfState, Entry, EntryKind, HardState, Index, LogId, MemberId, Term, Unsynced};
