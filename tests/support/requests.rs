//! Requests in the short forms that tests read well in, and the paths they go to.

use std::fmt::Debug;

use bramble::pb::etcdserverpb::{
    AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse, Compare, DefragmentRequest, DefragmentResponse,
    DeleteRangeRequest, DeleteRangeResponse, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest, MemberPromoteResponse,
    MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse, MoveLeaderRequest, MoveLeaderResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, StatusRequest, StatusResponse, TxnRequest,
    TxnResponse, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, compare, request_op,
    watch_request,
};
use bytes::Bytes;
use prost::Message;

use super::grpc::{Client, Stream};

/// A request of a unary method.
pub trait Unary: Message {
    /// `/package.Service/Method`
    const PATH: &'static str;
    /// Its answer.
    type Reply: Message + Default + Debug;
}

macro_rules! unary {
    ($($request:ty, $path:literal, $reply:ty;)*) => {
        $(impl Unary for $request {
            const PATH: &'static str = concat!("/etcdserverpb.", $path);
            type Reply = $reply;
        })*
    };
}

unary! {
    RangeRequest, "KV/Range", RangeResponse;
    PutRequest, "KV/Put", PutResponse;
    DeleteRangeRequest, "KV/DeleteRange", DeleteRangeResponse;
    TxnRequest, "KV/Txn", TxnResponse;
    CompactionRequest, "KV/Compact", CompactionResponse;
    LeaseGrantRequest, "Lease/LeaseGrant", LeaseGrantResponse;
    LeaseRevokeRequest, "Lease/LeaseRevoke", LeaseRevokeResponse;
    LeaseTimeToLiveRequest, "Lease/LeaseTimeToLive", LeaseTimeToLiveResponse;
    LeaseLeasesRequest, "Lease/LeaseLeases", LeaseLeasesResponse;
    MemberAddRequest, "Cluster/MemberAdd", MemberAddResponse;
    MemberRemoveRequest, "Cluster/MemberRemove", MemberRemoveResponse;
    MemberUpdateRequest, "Cluster/MemberUpdate", MemberUpdateResponse;
    MemberListRequest, "Cluster/MemberList", MemberListResponse;
    MemberPromoteRequest, "Cluster/MemberPromote", MemberPromoteResponse;
    AlarmRequest, "Maintenance/Alarm", AlarmResponse;
    StatusRequest, "Maintenance/Status", StatusResponse;
    DefragmentRequest, "Maintenance/Defragment", DefragmentResponse;
    HashRequest, "Maintenance/Hash", HashResponse;
    HashKvRequest, "Maintenance/HashKV", HashKvResponse;
    MoveLeaderRequest, "Maintenance/MoveLeader", MoveLeaderResponse;
    DowngradeRequest, "Maintenance/Downgrade", DowngradeResponse;
}

/// The path of RangeStream, which takes a [`RangeRequest`] too.
pub const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
/// The path of Watch.
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// The path of LeaseKeepAlive.
pub const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// Key bytes.
pub fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

/// The end of the range of all keys that begin with `prefix`.
pub fn prefix_end(prefix: impl AsRef<[u8]>) -> Bytes {
    let mut end = prefix.as_ref().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

/// A range of one key.
pub fn key(key: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest { key: bytes(key), ..Default::default() }
}

/// A range of `[from, to)`.
pub fn range(from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest { key: bytes(from), range_end: bytes(to), ..Default::default() }
}

/// A range of all keys that begin with `prefix`.
pub fn prefix(prefix: impl AsRef<[u8]>) -> RangeRequest {
    range(prefix.as_ref(), prefix_end(prefix.as_ref()))
}

/// A range of all keys.
pub fn everything() -> RangeRequest {
    range(b"\0", b"\0")
}

/// A put.
pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

/// A put that attaches its key to a lease.
pub fn put_leased(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, lease: i64) -> PutRequest {
    PutRequest { lease, ..put(key, value) }
}

/// A deletion of one key.
pub fn delete(key: impl AsRef<[u8]>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), ..Default::default() }
}

/// A deletion of `[from, to)`.
pub fn delete_range(from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(from), range_end: bytes(to), ..Default::default() }
}

/// A compaction.
pub fn compact(revision: i64) -> CompactionRequest {
    CompactionRequest { revision, physical: true }
}

/// A lease.
pub fn grant(ttl: i64, id: i64) -> LeaseGrantRequest {
    LeaseGrantRequest { ttl, id }
}

/// What a transaction may hold.
pub trait IntoOp {
    /// As an operation.
    fn op(self) -> RequestOp;
}

macro_rules! into_op {
    ($($request:ty, $variant:ident;)*) => {
        $(impl IntoOp for $request {
            fn op(self) -> RequestOp {
                RequestOp { request: Some(request_op::Request::$variant(self)) }
            }
        })*
    };
}

into_op! {
    RangeRequest, RequestRange;
    PutRequest, RequestPut;
    DeleteRangeRequest, RequestDeleteRange;
    TxnRequest, RequestTxn;
}

/// A transaction.
pub fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare, success, failure }
}

/// A transaction without compares.
pub fn then(success: Vec<RequestOp>) -> TxnRequest {
    txn(Vec::new(), success, Vec::new())
}

/// A comparison; its target follows from the union.
pub fn cmp(key: impl AsRef<[u8]>, result: compare::CompareResult, with: compare::TargetUnion) -> Compare {
    use compare::{CompareTarget as Target, TargetUnion as Union};
    let target = match with {
        Union::Version(_) => Target::Version,
        Union::CreateRevision(_) => Target::Create,
        Union::ModRevision(_) => Target::Mod,
        Union::Value(_) => Target::Value,
        Union::Lease(_) => Target::Lease,
    };
    Compare { result: result as i32, target: target as i32, key: bytes(key), target_union: Some(with), ..Default::default() }
}

/// A watch of one key.
pub fn watch(key: impl AsRef<[u8]>) -> WatchCreateRequest {
    WatchCreateRequest { key: bytes(key), ..Default::default() }
}

/// A watch of all keys that begin with `prefix`.
pub fn watch_prefix(prefix: impl AsRef<[u8]>) -> WatchCreateRequest {
    WatchCreateRequest { range_end: prefix_end(prefix.as_ref()), ..watch(prefix) }
}

/// A watch stream.
pub struct Watch {
    /// The stream itself.
    pub stream: Stream<WatchRequest, WatchResponse>,
}

impl Watch {
    /// Opens a stream without any watch.
    #[track_caller]
    pub fn open(client: &Client) -> Watch {
        Watch { stream: client.open(WATCH, &[]) }
    }

    /// Asks for a watch; the answer is still to be received.
    #[track_caller]
    pub fn ask(&mut self, request: WatchCreateRequest) {
        self.send(watch_request::RequestUnion::CreateRequest(request));
    }

    /// Creates a watch and gives its id.
    #[track_caller]
    pub fn create(&mut self, request: WatchCreateRequest) -> i64 {
        self.ask(request);
        let reply = self.recv();
        assert!(reply.created && !reply.canceled && reply.events.is_empty(), "not a plain `created`: {reply:?}");
        reply.watch_id
    }

    /// Cancels a watch; the answer is still to be received.
    #[track_caller]
    pub fn cancel(&mut self, watch_id: i64) {
        self.send(watch_request::RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    /// Asks for a progress notice; the answer is still to be received.
    #[track_caller]
    pub fn ask_progress(&mut self) {
        self.send(watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    #[track_caller]
    fn send(&mut self, request: watch_request::RequestUnion) {
        self.stream.send(&WatchRequest { request_union: Some(request) });
    }

    /// The next answer.
    #[track_caller]
    pub fn recv(&mut self) -> WatchResponse {
        self.stream.recv()
    }

    /// The next answer, which has to carry events.
    #[track_caller]
    pub fn events(&mut self) -> WatchResponse {
        let reply = self.recv();
        assert!(!reply.events.is_empty() && !reply.created && !reply.canceled, "events were expected: {reply:?}");
        reply
    }
}

/// A keepalive stream.
#[track_caller]
pub fn keep_alive(client: &Client) -> Stream<LeaseKeepAliveRequest, LeaseKeepAliveResponse> {
    client.open(KEEP_ALIVE, &[])
}

/// The header of an answer, and its revision.
pub trait Revision {
    /// `header`
    fn header(&self) -> &ResponseHeader;

    /// `header.revision`
    fn revision(&self) -> i64 {
        self.header().revision
    }
}

macro_rules! revision {
    ($($reply:ty)*) => {
        $(impl Revision for $reply {
            fn header(&self) -> &ResponseHeader {
                self.header.as_ref().expect("a header")
            }
        })*
    };
}

revision! {
    RangeResponse PutResponse DeleteRangeResponse TxnResponse CompactionResponse WatchResponse LeaseGrantResponse
    LeaseRevokeResponse LeaseKeepAliveResponse LeaseTimeToLiveResponse LeaseLeasesResponse AlarmResponse StatusResponse
    HashResponse HashKvResponse MemberListResponse
}
