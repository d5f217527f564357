//! Leases: ids with a time to live, and the keys that go with them (etcd's lessor). In: grants, renewals, attachments, and `now`.
//! Out: what has expired; the loop proposes the revocation, and only its application removes a lease. Touches no clock, socket,
//! file, thread or random source: time is an argument, a `Duration` since some fixed moment that never goes back.
//!
//! Always true: a key belongs to one lease at most; only the leader's lessor knows deadlines; no lease expires earlier than the
//! last answer to its client promised; grants, revocations, attachments and checkpoints come out of the log, so that they end
//! alike on every member.

mod lessor;

use std::fmt;

pub use lessor::{Config, LeaseRecord, Lessor, MAX_TTL_SECS, Renewal, TimeToLive};

/// A lease's id: chosen by the client, any number but 0. etcd's tools show it in hexadecimal, and so does `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// Stands for "no lease" on the wire.
    pub const NONE: LeaseId = LeaseId(0);
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
