//! Two ideas, two types. [`Error`] is an answer: all that a client may be told; `rpc/status.rs` chooses its code and text.
//! [`Fault`] is no answer: it ends the process, and the WAL is replayed at the next start.

use std::fmt;
use std::path::{Path, PathBuf};

/// What a client may hear. Equal on every member for the same log entry, so it may not hold anything local.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is named after the text it becomes
pub enum Error {
    // InvalidArgument
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidClientApiVersion,
    InvalidSortOption,
    MemberBadUrls,
    RequestTooLarge,
    /// An alarm action or type that etcd does not know (etcd itself dies of it).
    UnknownAlarmAction,
    // OutOfRange
    Compacted,
    FutureRevision,
    LeaseTtlTooLarge,
    // ResourceExhausted
    NoSpace,
    TooManyRequests,
    // NotFound
    LeaseNotFound,
    MemberNotFound,
    // FailedPrecondition
    LeaseExists,
    MemberExists,
    PeerUrlExists,
    MemberNotEnoughStarted,
    MemberNotLearner,
    LearnerNotReady,
    TooManyLearners,
    NotLeader,
    LearnerNotSupported,
    BadLeaderTransferee,
    // Unavailable
    NoLeader,
    LeaderChanged,
    Stopped,
    Timeout,
    TimeoutWaitAppliedIndex,
    Unhealthy,
    // DataLoss
    Corrupt,
    // Unimplemented
    StreamSort,
    StreamRevisionFilter,
    // grpc's own
    Canceled,
    DeadlineExceeded,
}

/// What ends the process: IO errors, damaged files, broken invariants. Names what is wrong, where, and what to do.
#[derive(Debug)]
pub struct Fault {
    message: String,
}

impl Fault {
    /// A fault with its whole story: what happened, to what, and what the operator can do.
    pub fn new(message: impl Into<String>) -> Fault {
        Fault { message: message.into() }
    }

    /// `doing` (for example "sync") failed on `path`.
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> Fault {
        Fault::new(format!("cannot {doing} {}: {error}", path.display()))
    }

    /// Damage found in a file of ours: where, what, and the remedy.
    pub fn damaged(path: PathBuf, offset: u64, what: &str, remedy: &str) -> Fault {
        Fault::new(format!("{} is damaged at byte {offset}: {what}. {remedy}", path.display()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
