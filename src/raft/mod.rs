//! Raft consensus. In: [`Event`]s, and proposals by [`Core::propose`]. Out: [`Effects`], plain data. Touches no clock, socket,
//! file, thread or random source: the seed comes in with the config, so one seed replays one run.
//!
//! Always true:
//! - applied <= handed out as `commit` <= committed <= last index, and what is handed out to apply is durable here;
//! - one vote per term, and no message tells of a term, a vote or an entry before it is durable, but for a leader's own entries
//!   (thesis §10.2.1);
//! - an entry of an older term commits only through one of the leader's own term (paper §5.4.2, figure 8);
//! - the log is never cut at or below the commit index; a leader with another history there is a [`crate::error::Fault`];
//! - a peer's message cannot make the core panic: what makes no sense is ignored.
//!
//! Choices: prevote and check-quorum are always on (thesis §9.6, §6.2). A configuration is in force when it is *applied*, as in
//! etcd, one change at a time. A member that is the only voter elects itself on the first event it sees.
//!
//! One turn of the shell: feed what has arrived (`step`, `propose`), take [`Core::effects`] once, then
//! 1. send `send_now`;
//! 2. hand `persist`, `send_then` and `seq` to the WAL's thread, in order; when all of that is durable it sends `send_then` and
//!    the loop gets [`Event::Persisted`] with `seq`. Many may be outstanding, and one fsync may cover many;
//! 3. apply `commit` in order (a configuration change calls [`Core::apply_conf_change`]), then [`Event::Applied`];
//! 4. answer each of `reads` once its index is applied, and fail `lost_reads`;
//! 5. begin to send a copy of the state to each of `snapshots`, ending with a [`Body::Snapshot`].
//!
//! `install` comes before all of these: the copy takes the place of the state, and what `persist` has goes to a log that begins anew
//! behind it. That is one step after a crash too: the old state and log, or the copy.

mod conf;
mod core;
mod election;
mod log;
mod message;
mod progress;
mod quorum;
mod read_only;
mod replication;
mod snapshot;
mod types;

pub use core::{Config, Core, Effects, Event, Leadership, PersistSeq, ProposeError, ReadState, Restored, Snapshot};
pub use message::{Body, Message};
pub use types::{ConfState, Entry, EntryKind, HardState, Index, LogId, MemberId, Term, Unsynced};
