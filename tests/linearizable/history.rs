//! What was asked and what was answered, with the times of one monotonic clock.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

use crate::support::requests::{Revision, Unary};
use crate::support::{Client, Code, Status};

use super::expiries::{self, Window};
use super::value;

/// Nanoseconds since the run began.
pub type Time = u64;

/// The clock that all threads of a run share.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Begins at 0.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Now.
    pub fn now(&self) -> Time {
        self.0.elapsed().as_nanos() as Time
    }
}

/// The client that stands for the server's own deeds: the expiry of leases.
pub const EXPIRY: usize = usize::MAX;

macro_rules! calls {
    ($($name:ident $request:ty => $reply:ty;)*) => {
        /// What a client asks. Values are folded (see [`value`]).
        #[derive(Clone, Debug)]
        #[allow(missing_docs)]
        pub enum Request { $($name($request),)* }

        /// What it is told. Values are folded.
        #[derive(Clone, Debug)]
        #[allow(missing_docs)]
        pub enum Reply {
            $($name($reply),)*
            /// An error that says that nothing was done; its text.
            Refused(String),
        }

        impl Request {
            /// Asks, and waits for the answer; none: it is unknown what has become of it.
            pub fn call(&self, client: &Client) -> Option<Reply> {
                let mut request = self.clone();
                value::unfold_request(&mut request);
                let mut reply = match request {
                    $(Request::$name(request) => client.try_call(&request).map(Reply::$name),)*
                };
                if let Ok(reply) = &mut reply {
                    value::fold_reply(reply);
                }
                match reply {
                    Ok(reply) => Some(reply),
                    Err(status) if is_refusal(&status) => Some(Reply::Refused(status.message)),
                    Err(_) => None,
                }
            }

            /// Asks and hangs up after a while: the server may do it or not.
            pub fn abandon(&self, client: &Client, patience: Duration) {
                let mut request = self.clone();
                value::unfold_request(&mut request);
                match request {
                    $(Request::$name(request) => abandon(client, &request, patience),)*
                }
            }
        }

        impl Reply {
            /// `header.revision`; a refusal has none.
            pub fn revision(&self) -> Option<i64> {
                match self {
                    $(Reply::$name(reply) => Some(Revision::revision(reply)),)*
                    Reply::Refused(_) => None,
                }
            }
        }
    };
}

calls! {
    Range RangeRequest => RangeResponse;
    Put PutRequest => PutResponse;
    DeleteRange DeleteRangeRequest => DeleteRangeResponse;
    Txn TxnRequest => TxnResponse;
    Compact CompactionRequest => CompactionResponse;
    Grant LeaseGrantRequest => LeaseGrantResponse;
    Revoke LeaseRevokeRequest => LeaseRevokeResponse;
    TimeToLive LeaseTimeToLiveRequest => LeaseTimeToLiveResponse;
    Leases LeaseLeasesRequest => LeaseLeasesResponse;
}

/// Of these the server promises that nothing was done. Every other error leaves it open.
fn is_refusal(status: &Status) -> bool {
    match status.code {
        Code::NotFound | Code::OutOfRange | Code::FailedPrecondition => true,
        Code::Unavailable | Code::Unknown | Code::Canceled | Code::DeadlineExceeded => false,
        _ => panic!("no request of this test is answered {status:?}"),
    }
}

fn abandon<R: Unary>(client: &Client, request: &R, patience: Duration) {
    if let Ok(mut stream) = client.try_open::<R, R::Reply>(R::PATH, &[])
        && stream.try_send_last(request).is_ok()
    {
        let _ = stream.recv_within(patience);
        stream.reset();
    }
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who asked: a number, or [`EXPIRY`].
    pub client: usize,
    /// Between which two starts of the server: 0 for the first.
    pub epoch: usize,
    /// Before it was sent.
    pub call: Time,
    /// What.
    pub request: Request,
    /// When the answer had come, and which; none: nobody knows.
    pub end: Option<(Time, Reply)>,
}

impl Operation {
    /// The answer.
    pub fn reply(&self) -> Option<&Reply> {
        self.end.as_ref().map(|(_, reply)| reply)
    }

    /// When the answer had come.
    pub fn returned(&self) -> Option<Time> {
        self.end.as_ref().map(|(time, _)| *time)
    }

    /// The revision in the answer's header.
    pub fn revision(&self) -> Option<i64> {
        self.reply().and_then(Reply::revision)
    }

    /// Whether it is no write and says itself that it may be answered from an old state.
    pub fn is_serializable(&self) -> bool {
        matches!(&self.request, Request::Range(range) if range.serializable)
    }
}

/// Until when what was sent in an epoch and not answered can happen: the process that has it in its memory is gone before the next
/// epoch begins, and what it had written to its log has been done by then.
pub struct Deadlines {
    by_epoch: Vec<Time>,
    expiries: HashMap<i64, Window>,
}

impl Deadlines {
    /// Of a history.
    pub fn of(history: &[Operation]) -> Deadlines {
        let epochs = history.iter().map(|operation| operation.epoch + 1).max().unwrap_or(0);
        let mut deadlines = vec![Time::MAX; epochs];
        for operation in history.iter().filter(|operation| operation.client != EXPIRY) {
            for deadline in &mut deadlines[..operation.epoch] {
                *deadline = (*deadline).min(operation.call);
            }
        }
        Deadlines { by_epoch: deadlines, expiries: expiries::windows(history) }
    }

    /// Of an operation.
    pub fn get(&self, operation: &Operation) -> Time {
        match &operation.request {
            Request::Revoke(revoke) if operation.client == EXPIRY => self.expiries[&revoke.id].until,
            _ => self.by_epoch[operation.epoch],
        }
    }
}

/// Milliseconds, with as many digits as the order of two operations may need.
pub struct Millis(pub Time);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", Duration::from_nanos(self.0).as_secs_f64() * 1e3)
    }
}

/// One line: when, who, what, and the answer.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} - ", Millis(self.call))?;
        match self.returned() {
            Some(time) => write!(f, "{} ms] ", Millis(time))?,
            None => write!(f, "?] ")?,
        }
        match self.client {
            EXPIRY => write!(f, "expiry ")?,
            client => write!(f, "client {client} ")?,
        }
        write!(f, "epoch {}: {:?}", self.epoch, self.request)?;
        match self.reply() {
            Some(reply) => write!(f, " -> {reply:?}"),
            None => write!(f, " -> unknown"),
        }
    }
}
