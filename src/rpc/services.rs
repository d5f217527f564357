//! The services that are offered, and the way from a path to what answers it. In: a method and its message. Out: what etcd 3.7 would
//! say. Always: a request is decoded and its metadata checked before anything is asked of the server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::calls::{self, Shape};
use super::grpc::{BoxFuture, Call, MethodId, Replies, Reply, Requests, Route, Services};
use super::status::{Code, Status};
use super::timers::Timers;
use super::watch::{WatchServer, Work};
use super::{cluster, health, kv, lease, maintenance};
use crate::config::Config;
use crate::error::Error;
use crate::host::Host;
use crate::http2::Head;
use crate::pb::etcdserverpb::{DefragmentRequest, HashRequest, RangeRequest, ResponseHeader, StatusRequest};
use crate::raft::MemberId;
use crate::server::Handle;
use crate::server::Member;

/// A method that is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named after the methods
pub enum Method {
    Range,
    Txn,
    Put,
    DeleteRange,
    Compact,
    RangeStream,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseKeepAlive,
    LeaseTimeToLive,
    LeaseLeases,
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberList,
    MemberPromote,
    Alarm,
    Status,
    Defragment,
    Hash,
    HashKv,
    MoveLeader,
    Downgrade,
    HealthCheck,
    HealthWatch,
}

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One request, one reply.
    Unary,
    /// One request, any number of replies.
    ServerStream,
    /// Any number of both.
    BidiStream,
}

impl Method {
    /// All methods; a method's [`MethodId`] is its place. The frequent ones come first.
    pub const ALL: [Method; 26] = [
        Method::Range,
        Method::Txn,
        Method::Put,
        Method::DeleteRange,
        Method::Compact,
        Method::RangeStream,
        Method::Watch,
        Method::LeaseGrant,
        Method::LeaseRevoke,
        Method::LeaseKeepAlive,
        Method::LeaseTimeToLive,
        Method::LeaseLeases,
        Method::MemberAdd,
        Method::MemberRemove,
        Method::MemberUpdate,
        Method::MemberList,
        Method::MemberPromote,
        Method::Alarm,
        Method::Status,
        Method::Defragment,
        Method::Hash,
        Method::HashKv,
        Method::MoveLeader,
        Method::Downgrade,
        Method::HealthCheck,
        Method::HealthWatch,
    ];

    /// The method behind a number. The transport has it from [`Services::find`].
    pub fn of(id: MethodId) -> Method {
        Method::ALL[usize::from(id.0)]
    }

    /// Its number.
    pub fn id(self) -> MethodId {
        MethodId(self as u16)
    }

    /// Service, method and kind, as the wire and the metrics name them.
    pub fn path(self) -> (&'static str, &'static str, Kind) {
        use Kind::{BidiStream, ServerStream, Unary};
        const KV: &str = "etcdserverpb.KV";
        const WATCH: &str = "etcdserverpb.Watch";
        const LEASE: &str = "etcdserverpb.Lease";
        const CLUSTER: &str = "etcdserverpb.Cluster";
        const MAINTENANCE: &str = "etcdserverpb.Maintenance";
        const HEALTH: &str = "grpc.health.v1.Health";
        match self {
            Method::Range => (KV, "Range", Unary),
            Method::Txn => (KV, "Txn", Unary),
            Method::Put => (KV, "Put", Unary),
            Method::DeleteRange => (KV, "DeleteRange", Unary),
            Method::Compact => (KV, "Compact", Unary),
            Method::RangeStream => (KV, "RangeStream", ServerStream),
            Method::Watch => (WATCH, "Watch", BidiStream),
            Method::LeaseGrant => (LEASE, "LeaseGrant", Unary),
            Method::LeaseRevoke => (LEASE, "LeaseRevoke", Unary),
            Method::LeaseKeepAlive => (LEASE, "LeaseKeepAlive", BidiStream),
            Method::LeaseTimeToLive => (LEASE, "LeaseTimeToLive", Unary),
            Method::LeaseLeases => (LEASE, "LeaseLeases", Unary),
            Method::MemberAdd => (CLUSTER, "MemberAdd", Unary),
            Method::MemberRemove => (CLUSTER, "MemberRemove", Unary),
            Method::MemberUpdate => (CLUSTER, "MemberUpdate", Unary),
            Method::MemberList => (CLUSTER, "MemberList", Unary),
            Method::MemberPromote => (CLUSTER, "MemberPromote", Unary),
            Method::Alarm => (MAINTENANCE, "Alarm", Unary),
            Method::Status => (MAINTENANCE, "Status", Unary),
            Method::Defragment => (MAINTENANCE, "Defragment", Unary),
            Method::Hash => (MAINTENANCE, "Hash", Unary),
            Method::HashKv => (MAINTENANCE, "HashKV", Unary),
            Method::MoveLeader => (MAINTENANCE, "MoveLeader", Unary),
            Method::Downgrade => (MAINTENANCE, "Downgrade", Unary),
            Method::HealthCheck => (HEALTH, "Check", Unary),
            Method::HealthWatch => (HEALTH, "Watch", ServerStream),
        }
    }

    /// What a path leads to.
    pub fn find(service: &str, method: &str) -> Route {
        let mut service_is_known = false;
        for candidate in Method::ALL {
            let (of_service, name, kind) = candidate.path();
            if of_service != service {
                continue;
            }
            service_is_known = true;
            if name == method {
                let id = candidate.id();
                return match kind {
                    Kind::Unary => Route::Unary(id),
                    Kind::ServerStream => Route::ServerStream(id),
                    Kind::BidiStream if candidate == Method::LeaseKeepAlive => Route::LightStream(id),
                    Kind::BidiStream => Route::BidiStream(id),
                };
            }
        }
        if service_is_known { Route::UnknownMethod } else { Route::UnknownService }
    }
}

/// What requests may ask for, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `--max-txn-ops`
    pub max_txn_ops: usize,
    /// `--max-request-bytes`; chunks of a streamed range keep to it too.
    pub max_request_bytes: usize,
    /// `--watch-progress-notify-interval`
    pub progress_interval: Duration,
}

impl Limits {
    /// As configured.
    pub fn of(config: &Config) -> Limits {
        Limits {
            max_txn_ops: config.max_txn_ops,
            max_request_bytes: config.max_request_bytes,
            progress_interval: config.watch_progress_notify_interval,
        }
    }
}

/// The services over a server.
pub struct Api {
    pub(super) server: Handle,
    pub(super) limits: Limits,
    watches: WatchServer,
}

impl Api {
    /// Offers `server`.
    pub fn new(server: Handle, limits: Limits, timers: Arc<dyn Timers>, host: &Host) -> Arc<Api> {
        let header = {
            let server = server.clone();
            move |revision| server.header(revision)
        };
        let offload = Arc::new(|work: Work| smol::unblock(work).detach());
        let Limits { progress_interval, max_request_bytes, .. } = limits;
        let watches = WatchServer::new(header, timers, host.random.clone(), offload, progress_interval, max_request_bytes);
        Arc::new(Api { server, limits, watches })
    }

    /// Serves a stream of watches. One that asked for a leader ends when there has been none for three election timeouts.
    async fn watch(&self, call: &Call, requests: Requests, replies: Replies) -> Result<(), Status> {
        let wants_leader = call.head.get("hasleader") == Some(b"true");
        let leader_lost = async {
            if !wants_leader {
                futures_lite::future::pending::<()>().await;
            }
            self.server.leader_lost().await;
            Status::from(Error::NoLeader)
        };
        match self.watches.serve(self.server.open_watch_stream(), requests, replies, leader_lost).await {
            Ok(status) => Err(status),
            Err(fault) => {
                self.server.fail(fault);
                Err(Error::Stopped.into())
            }
        }
    }

    /// A header with the current revision.
    pub(super) fn current(&self) -> ResponseHeader {
        self.server.header(self.server.revision())
    }

    /// The header of a response that the store made with a revision alone.
    pub(super) fn completed(&self, header: Option<ResponseHeader>) -> ResponseHeader {
        match header {
            Some(header) if header.revision != 0 => self.server.header(header.revision),
            _ => self.current(),
        }
    }

    /// A member by its id.
    pub(super) fn known_member(&self, id: u64) -> Result<Member, Error> {
        self.server.members().into_iter().find(|member| member.id == MemberId(id)).ok_or(Error::MemberNotFound)
    }

    /// Decodes a unary call's message, then checks its metadata.
    fn open<M: Message + Default>(&self, call: &Call, message: Bytes) -> Result<M, Status> {
        let request = M::decode(message).map_err(Status::undecodable)?;
        self.check_metadata(call, Shape::Unary)?;
        Ok(request)
    }

    fn check_metadata(&self, call: &Call, shape: Shape) -> Result<(), Error> {
        check_metadata(&call.head, shape, self.server.leader())
    }

    async fn answer(&self, method: Method, call: &Call, message: Bytes) -> Result<Reply, Status> {
        match method {
            Method::Range => kv::range(self, self.open(call, message)?).await,
            Method::Put => kv::put(self, self.open(call, message)?).await,
            Method::DeleteRange => kv::delete_range(self, self.open(call, message)?).await,
            Method::Txn => kv::txn(self, self.open(call, message)?).await,
            Method::Compact => kv::compact(self, self.open(call, message)?).await,
            Method::LeaseGrant => lease::grant(self, self.open(call, message)?).await,
            Method::LeaseRevoke => lease::revoke(self, self.open(call, message)?).await,
            Method::LeaseTimeToLive => lease::time_to_live(self, self.open(call, message)?).await,
            Method::LeaseLeases => Ok(lease::leases(self, self.open(call, message)?)),
            Method::MemberAdd => cluster::add(&self.open(call, message)?),
            Method::MemberRemove => cluster::remove(self, &self.open(call, message)?),
            Method::MemberUpdate => cluster::update(self, self.open(call, message)?).await,
            Method::MemberList => cluster::list(self, self.open(call, message)?).await,
            Method::MemberPromote => cluster::promote(self, &self.open(call, message)?),
            Method::Alarm => maintenance::alarm(self, self.open(call, message)?).await,
            Method::Status => self.open::<StatusRequest>(call, message).and_then(|_| maintenance::status(self)),
            Method::Defragment => {
                self.open::<DefragmentRequest>(call, message)?;
                maintenance::defragment(self).await
            }
            Method::Hash => {
                self.open::<HashRequest>(call, message)?;
                maintenance::hash(self).await
            }
            Method::HashKv => maintenance::hash_kv(self, self.open(call, message)?).await,
            Method::MoveLeader => maintenance::move_leader(self, &self.open(call, message)?),
            Method::Downgrade => maintenance::downgrade(self, &self.open(call, message)?),
            Method::HealthCheck => health::check(&self.open(call, message)?),
            Method::RangeStream | Method::Watch | Method::LeaseKeepAlive | Method::HealthWatch => {
                unreachable!("{method:?} is a stream")
            }
        }
    }

    async fn converse(&self, method: Method, call: &Call, mut requests: Requests, mut replies: Replies) -> Result<(), Status> {
        self.check_metadata(call, Shape::Stream)?;
        match method {
            Method::RangeStream => {
                let request: RangeRequest = only(&mut requests).await?;
                kv::range_stream(self, request, &mut replies).await
            }
            Method::LeaseKeepAlive => lease::keep_alive(self, &mut requests, &mut replies).await,
            Method::HealthWatch => health::watch(&only(&mut requests).await?, &mut replies).await,
            Method::Watch => self.watch(call, requests, replies).await,
            _ => unreachable!("{method:?} is unary"),
        }
    }
}

/// What every call may be refused for: an unreadable version of the client, or a wish for a leader that is not there.
fn check_metadata(head: &Head, shape: Shape, leader: Option<MemberId>) -> Result<(), Error> {
    let version = head.get("client-api-version").map_or(Ok("unknown"), std::str::from_utf8);
    calls::asked(shape, version.map_err(|_| Error::InvalidClientApiVersion)?);
    if leader.is_none() && head.get("hasleader") == Some(b"true") {
        return Err(Error::NoLeader);
    }
    Ok(())
}

/// The message of a call that streams nothing but its answer. Begins no sooner than the client has said that there is no other, as in
/// gRPC's Go library.
async fn only<M: Message + Default>(requests: &mut Requests) -> Result<M, Status> {
    let request = decode_streamed(requests.first().await?)?;
    match requests.next().await {
        None => Ok(request),
        Some(another) => {
            decode_streamed::<M>(another?)?;
            let text = "cardinality violation: received multiple request messages for non-client-streaming RPC";
            Err(Status::new(Code::Internal, text))
        }
    }
}

/// Decodes a message of a stream; gRPC's words for failing at it differ from those for a unary call's.
pub(super) fn decode_streamed<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message)
        .map_err(|why| Status::new(Code::Internal, format!("grpc: failed to unmarshal the received message: {why}")))
}

impl Services for Api {
    fn find(&self, service: &str, method: &str) -> Route {
        Method::find(service, method)
    }

    fn unary(self: Arc<Self>, method: MethodId, call: Call, message: Bytes) -> BoxFuture<Result<Reply, Status>> {
        Box::pin(async move { self.answer(Method::of(method), &call, message).await })
    }

    fn stream(
        self: Arc<Self>,
        method: MethodId,
        call: Call,
        requests: Requests,
        replies: Replies,
    ) -> BoxFuture<Result<(), Status>> {
        Box::pin(async move {
            // Streams have no end of their own; without this a stop would wait for clients that only listen.
            let stopping = async {
                self.server.stopping().await;
                Err(Error::Stopped.into())
            };
            futures_lite::future::or(self.converse(Method::of(method), &call, requests, replies), stopping).await
        })
    }

    fn started(&self, method: MethodId) {
        calls::started(Method::of(method));
    }

    fn received(&self, method: MethodId, bytes: usize) {
        calls::received(Method::of(method), bytes);
    }

    fn sent(&self, method: MethodId, bytes: u64) {
        calls::sent(Method::of(method), bytes);
    }

    fn handled(&self, method: MethodId, code: Code, took: Duration) {
        calls::handled(Method::of(method), code, took);
    }
}

#[cfg(test)]
mod tests;
