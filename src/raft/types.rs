//! The nouns of Raft that other rooms share.

use std::fmt;

use bytes::Bytes;

/// A term: Raft's logical clock (paper §5.1). 0 is before the first election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A position in the log, counted from 1; 0 is before the first entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// A member's id; never 0. etcd shows it in lower-case hexadecimal, and so does `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// Field order is the meaning: `candidate >= ours` is Raft's "at least as up-to-date" (paper §5.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// The term in which a leader made the entry.
    pub term: Term,
    /// Where it stands.
    pub index: Index,
}

/// What must be on disk before any message that depends on it leaves (paper figure 2, "persistent state").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Whom we voted for in that term.
    pub vote: Option<MemberId>,
    /// Highest index known committed. A hint that saves work after a restart: it may lag.
    pub commit: Index,
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Opaque bytes for the state machine; empty for a leader's first entry of its term (paper §8).
    Normal,
    /// A change of membership. The bytes are the server's.
    ConfChange,
}

/// One entry of the log. Cheap to clone: the data is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term and index.
    pub id: LogId,
    /// What it is for.
    pub kind: EntryKind,
    /// The payload.
    pub data: Bytes,
}

/// Who takes part. Learners get entries but have no vote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Voting members, sorted.
    pub voters: Vec<MemberId>,
    /// Members without a vote, sorted.
    pub learners: Vec<MemberId>,
}

/// What has to be durable next. Entries follow each other without a gap; if the first one's index is at or below the log's last,
/// the log's tail from there on is replaced (paper §5.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsynced {
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// New entries, in index order.
    pub entries: Vec<Entry>,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.index)
    }
}
