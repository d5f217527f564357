//! What members tell each other.

use super::types::{ConfState, Entry, Index, LogId, MemberId, Term};

/// A message between two members. The network may drop, double, delay and reorder it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender.
    pub from: MemberId,
    /// The receiver.
    pub to: MemberId,
    /// The sender's term; for a [`Body::PreVote`] and the grant of one, the term that the candidate would take.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// What a message says.
///
/// Votes and their answers tell what is committed: a member may wait for a vote only because it does not know that the voter's
/// removal is committed, and nobody else may be left to tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Would you vote for me? Changes nothing at the receiver (thesis §9.6).
    PreVote {
        /// The end of the candidate's log.
        last: LogId,
        /// The sender's commit index and that entry's term.
        commit: LogId,
    },
    /// The answer to [`Body::PreVote`].
    PreVoteResponse {
        /// Whether the candidate may count on us.
        granted: bool,
        /// The sender's commit index and that entry's term.
        commit: LogId,
    },
    /// Vote for me (paper §5.2).
    Vote {
        /// The end of the candidate's log.
        last: LogId,
        /// The old leader asked for this election, so that a living leader is no reason to refuse (thesis §3.10).
        forced: bool,
        /// The sender's commit index and that entry's term.
        commit: LogId,
    },
    /// The answer to [`Body::Vote`].
    VoteResponse {
        /// Whether we voted for the candidate.
        granted: bool,
        /// The sender's commit index and that entry's term.
        commit: LogId,
    },
    /// Entries of the leader's log (paper §5.3). Empty ones tell the commit index or ask whether `prev` matches.
    Append {
        /// The entry just before `entries`.
        prev: LogId,
        /// Entries from `prev.index + 1` on, without a gap.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
    },
    /// Our log equals the leader's up to here, and is durable up to here.
    Appended {
        /// `prev.index` plus the number of entries of the request, never more.
        matched: Index,
    },
    /// Our log has no entry like `prev`.
    AppendRejected {
        /// `prev.index` of the request.
        prev: Index,
        /// The last of our entries that may still match: index at most `prev.index`, term at most `prev.term`.
        hint: LogId,
    },
    /// The leader lives.
    Heartbeat {
        /// The leader's commit index, but no more than what it knows us to hold.
        commit: Index,
        /// Number of the leader's latest read round; see `read_only.rs`.
        round: u64,
    },
    /// The answer to [`Body::Heartbeat`].
    HeartbeatResponse {
        /// As in the heartbeat.
        round: u64,
    },
    /// The leader hands its office to the receiver: campaign at once (thesis §3.10).
    TimeoutNow,
    /// A copy of the state (paper §7). The shell carries the copy itself, beside the other messages, and hands this in when the
    /// receiver has all of it on disk, not yet in use.
    Snapshot {
        /// The last entry that the copy covers.
        last: LogId,
        /// The configuration in force there.
        conf: ConfState,
    },
    /// A follower asks from where on a read is linearizable (thesis §6.4).
    ReadIndex {
        /// The asker's own; it never uses one twice, in none of its lives.
        number: u64,
    },
    /// The answer to [`Body::ReadIndex`]: the sender led when it was asked, or later.
    ReadIndexResponse {
        /// As in the question.
        number: u64,
        /// Serve the reads once this is applied.
        index: Index,
    },
    /// You are no member any more: so it stands in a configuration later than yours. Its term means nothing, for who is removed may be
    /// in a newer one than all others.
    Removed {
        /// What the sender has applied.
        applied: Index,
    },
}
