//! The only room that knows all the others: the order between disk, wire and state is decided here and nowhere else.
//!
//! In: calls on a [`Handle`], from any thread. Out: their answers, and events to the watch hub. One thread runs the loop
//! (`run.rs`); the WAL and the checkpoint have a thread each, so that a stalled disk stops neither reads nor watches.
//!
//! Always: an answer leaves after its entry is durable (or written, if it is relaxed), committed and applied, and after its events are
//! with the hub; a checkpoint holds one moment whole, and is not ahead of what is durable of the log; the WAL lets go only of what a
//! checkpoint holds.

mod alarm;
mod apply;
mod boot;
mod checkpoint;
mod command;
mod compactor;
mod handle;
mod inbox;
mod leavings;
mod membership;
mod open_log;
mod relaxed;
mod run;
mod shared;
#[cfg(test)]
mod tests;

pub use alarm::Alarms;
pub use boot::Server;
pub use handle::{Handle, LeaseTimes, Response, Status};
pub use membership::{Member, cluster_id, member_id};
