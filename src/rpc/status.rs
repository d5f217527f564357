//! What a call ends with, and the one place where an [`Error`] gets its code and text. Clients match on both: the texts are
//! etcd's, byte for byte (api/v3rpc/rpctypes/error.go).

use std::borrow::Cow;

use crate::error::Error;

/// gRPC's status codes. The numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are gRPC's own
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// All codes, by number.
    pub const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The value of `grpc-status`.
    pub fn digits(self) -> &'static str {
        const DIGITS: [&str; 17] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
        DIGITS[self as usize]
    }

    /// The name as gRPC's Go library prints it, and as the label `grpc_code` of the metrics wants it.
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }
}

/// How a call failed. A call that succeeded has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Never [`Code::Ok`].
    pub code: Code,
    /// For people, and for clients that compare it.
    pub message: Cow<'static, str>,
}

impl Status {
    /// A failure with its text.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Status {
        Status { code, message: message.into() }
    }

    /// The message of a request could not be decoded; `why` is the decoder's story.
    pub fn undecodable(why: impl std::fmt::Display) -> Status {
        Status::new(Code::Internal, format!("grpc: error unmarshalling request: {why}"))
    }
}

/// What a handler answers when a call was given up by its client.
impl From<super::grpc::Gone> for Status {
    fn from(_: super::grpc::Gone) -> Status {
        Error::Canceled.into()
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let (code, message) = code_and_text(&error);
        Status { code, message: Cow::Borrowed(message) }
    }
}

/// Exhaustive on purpose: a new error does not compile until its code and text are chosen.
fn code_and_text(error: &Error) -> (Code, &'static str) {
    use Code::*;
    match error {
        Error::EmptyKey => (InvalidArgument, "etcdserver: key is not provided"),
        Error::KeyNotFound => (InvalidArgument, "etcdserver: key not found"),
        Error::ValueProvided => (InvalidArgument, "etcdserver: value is provided"),
        Error::LeaseProvided => (InvalidArgument, "etcdserver: lease is provided"),
        Error::TooManyOps => (InvalidArgument, "etcdserver: too many operations in txn request"),
        Error::DuplicateKey => (InvalidArgument, "etcdserver: duplicate key given in txn request"),
        Error::InvalidClientApiVersion => (InvalidArgument, "etcdserver: invalid client api version"),
        Error::InvalidSortOption => (InvalidArgument, "etcdserver: invalid sort option"),
        Error::MemberBadUrls => (InvalidArgument, "etcdserver: given member URLs are invalid"),
        Error::RequestTooLarge => (InvalidArgument, "etcdserver: request is too large"),
        Error::UnknownAlarmAction => (InvalidArgument, "etcdserver: unknown alarm action or type"),

        Error::Compacted => (OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        Error::FutureRevision => (OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        Error::LeaseTtlTooLarge => (OutOfRange, "etcdserver: too large lease TTL"),

        Error::NoSpace => (ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        // etcd answers these two with its client-side error type, which carries no code: Unknown on the wire.
        Error::TooManyRequests => (Unknown, "etcdserver: too many requests"),
        Error::MemberNotEnoughStarted => (Unknown, "etcdserver: re-configuration failed due to not enough started members"),

        Error::LeaseNotFound => (NotFound, "etcdserver: requested lease not found"),
        Error::MemberNotFound => (NotFound, "etcdserver: member not found"),

        Error::LeaseExists => (FailedPrecondition, "etcdserver: lease already exists"),
        Error::MemberExists => (FailedPrecondition, "etcdserver: member ID already exist"),
        Error::PeerUrlExists => (FailedPrecondition, "etcdserver: Peer URLs already exists"),
        Error::MemberNotLearner => (FailedPrecondition, "etcdserver: can only promote a learner member"),
        Error::LearnerNotReady => {
            (FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader")
        }
        Error::TooManyLearners => (FailedPrecondition, "etcdserver: too many learner members in cluster"),
        Error::NotLeader => (FailedPrecondition, "etcdserver: not leader"),
        Error::LearnerNotSupported => (FailedPrecondition, "etcdserver: rpc not supported for learner"),
        Error::BadLeaderTransferee => (FailedPrecondition, "etcdserver: bad leader transferee"),

        Error::NoLeader => (Unavailable, "etcdserver: no leader"),
        Error::LeaderChanged => (Unavailable, "etcdserver: leader changed"),
        Error::Stopped => (Unavailable, "etcdserver: server stopped"),
        Error::Timeout => (Unavailable, "etcdserver: request timed out"),
        Error::TimeoutWaitAppliedIndex => {
            (Unavailable, "etcdserver: request timed out, waiting for the applied index took too long")
        }
        Error::Unhealthy => (Unavailable, "etcdserver: unhealthy cluster"),

        Error::Corrupt => (DataLoss, "etcdserver: corrupt cluster"),

        Error::StreamSort => (Unimplemented, "RangeStream does not support custom sort orders"),
        Error::StreamRevisionFilter => (Unimplemented, "RangeStream does not support revision filters"),

        // etcd lets these pass to gRPC, which has its own words for them.
        Error::Canceled => (Canceled, "context canceled"),
        Error::DeadlineExceeded => (DeadlineExceeded, "context deadline exceeded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_order_are_the_wires() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
            assert_eq!(code.digits(), number.to_string());
        }
    }

    #[test]
    fn two_errors_lose_their_code_as_in_etcd() {
        let status = Status::from(Error::TooManyRequests);
        assert_eq!((status.code, &*status.message), (Code::Unknown, "etcdserver: too many requests"));
        assert_eq!(Status::from(Error::MemberNotEnoughStarted).code, Code::Unknown);
    }

    #[test]
    fn context_errors_speak_in_grpcs_words() {
        assert_eq!(Status::from(Error::DeadlineExceeded), Status::new(Code::DeadlineExceeded, "context deadline exceeded"));
        assert_eq!(Status::from(Error::Canceled), Status::new(Code::Canceled, "context canceled"));
    }
}
