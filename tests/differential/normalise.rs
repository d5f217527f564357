//! What two servers may answer differently, each with its reason. All else has to be equal.

use std::cmp::Ordering;
use std::fmt::Debug;

use bramble::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use bramble::pb::etcdserverpb::request_op::Request;
use bramble::pb::etcdserverpb::response_op::Response;
use bramble::pb::etcdserverpb::{
    AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse, DefragmentRequest, DefragmentResponse,
    DeleteRangeRequest, DeleteRangeResponse, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest, MemberPromoteResponse,
    MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse, MoveLeaderRequest, MoveLeaderResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, StatusRequest, StatusResponse, TxnRequest, TxnResponse,
};
use bramble::pb::mvccpb::KeyValue;
use bytes::Bytes;
use prost::Message;

use super::method::Method;
use crate::support::{Code, Status, http};

/// Decoders tell different stories of the same bad bytes; that the message could not be decoded must agree.
pub fn message(status: &Status) -> &str {
    let stories = [
        "grpc: error unmarshalling request",
        "grpc: failed to unmarshal the received message",
        "grpc: failed to read decompressed data",
    ];
    match stories.into_iter().find(|story| status.code == Code::Internal && status.message.starts_with(story)) {
        Some(story) => story,
        None => &status.message,
    }
}

/// etcd dies of a transaction that keeps the value or the lease of a key that it has itself deleted before; we refuse it.
pub fn is_known_death(etcd: &str, ours: &str) -> bool {
    etcd.starts_with("refused: Unavailable \"transport: ")
        && ours.ends_with("refused: InvalidArgument \"etcdserver: key not found\"\n")
}

/// etcd's last words when it misses a row that it should have kept: where a transaction deletes a key and puts it again in a transaction
/// inside, and the store is compacted at just that revision, etcd drops the new value, and dies of the next read of the key.
pub const LOST: &str = "range failed to find revision pair";

/// A field of another wire type than its own: Go's decoder takes it for a field that it does not know, ours refuses the message.
pub fn is_of_another_wire_type(method: &Method, message: &Bytes) -> bool {
    (method.decodes)(message).is_err_and(|error| error.to_string().contains("invalid wire type: "))
}

/// Header fields that clients do without. The first ours adds to every refusal as unimplemented: gRPC asks for it where a compression
/// is what is refused. The second is etcd's, which answers in the compression that it was asked in; ours answers without any.
pub const HARMLESS: [&str; 2] = ["grpc-accept-encoding", "grpc-encoding"];

/// Refused as undecodable, in the words for a unary call or in those for a stream.
pub fn is_undecodable(status: &Status) -> bool {
    status.code == Code::Internal && message(status) != status.message
}

/// etcd lets a streamed range pass that names a target without an order, and then loses its place between chunks; we refuse it.
pub fn is_streamed_by_mistake(method: &Method, request: &Bytes) -> bool {
    let by_mistake = |request: RangeRequest| {
        request.sort_order == SortOrder::None as i32 && (1..=SortTarget::Value as i32).contains(&request.sort_target)
    };
    method.name == "KV/RangeStream" && RangeRequest::decode(request.clone()).is_ok_and(by_mistake)
}

/// What etcd has and we do not have yet, and how we say so.
pub fn is_not_offered(path: &str) -> Option<Status> {
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    let text = match (service, method) {
        ("etcdserverpb.Auth" | "v3lockpb.Lock" | "v3electionpb.Election", _) => format!("unknown service {service}"),
        ("etcdserverpb.Maintenance", "Snapshot") => format!("unknown method {method} for service {service}"),
        _ => return None,
    };
    Some(Status::new(Code::Unimplemented, text))
}

/// An answer over HTTP. Dates differ, and what is measured: of `/metrics` the kind is compared and that it is there. HEAD tells the
/// length of GET's answer from us; Go does so where it has made it.
pub fn http(method: &str, target: &str, reply: http::Reply) -> String {
    let mut headers = reply.headers;
    headers.remove("date");
    let is_measured = target.contains("metrics") && reply.status == 200;
    if is_measured || method == "HEAD" {
        headers.retain(|name, _| !["content-length", "transfer-encoding"].contains(&name.as_str()));
    }
    // Of two alarms etcd names the one that its map gives first.
    let body = reply.body.replace("ALARM CORRUPT", "ALARM NOSPACE");
    // The checks of a list come in no defined order.
    let body = if body.starts_with("[") { sorted_lines(&body) } else { body };
    let body = if is_measured { format!("{}", reply.body.contains("# TYPE etcd_server_has_leader gauge")) } else { body };
    format!("{} {headers:?}\n{body}\n", reply.status)
}

fn sorted_lines(text: &str) -> String {
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// An answer that forgets what may differ.
pub trait Normal<Request>: Debug {
    /// Forgets it. The request is there if it can be decoded.
    fn normalise(&mut self, request: Option<&Request>);
    /// The header's revision, or 0.
    fn revision(&self) -> i64;
}

macro_rules! normal {
    ($($request:ty, $reply:ty, $more:expr;)*) => {
        $(impl Normal<$request> for $reply {
            fn normalise(&mut self, request: Option<&$request>) {
                let more: fn(&mut $reply, Option<&$request>) = $more;
                more(self, request);
            }

            fn revision(&self) -> i64 {
                self.header.as_ref().map_or(0, |header| header.revision)
            }
        })*
    };
}

normal! {
    RangeRequest, RangeResponse, |reply, request| if let Some(request) = request { range(reply, request) };
    PutRequest, PutResponse, |_, _| {};
    DeleteRangeRequest, DeleteRangeResponse, |_, _| {};
    TxnRequest, TxnResponse, |reply, request| if let Some(request) = request { txn(reply, request) };
    CompactionRequest, CompactionResponse, |_, _| {};
    LeaseGrantRequest, LeaseGrantResponse, |reply, request| lease_id(reply, request);
    LeaseRevokeRequest, LeaseRevokeResponse, |_, _| {};
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, |reply, _| time_to_live(reply);
    LeaseLeasesRequest, LeaseLeasesResponse, |_, _| {};
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, |_, _| {};
    // Of the storage engine's own bytes.
    HashRequest, HashResponse, |reply, _| reply.hash = 0;
    HashKvRequest, HashKvResponse, |_, _| {};
    MemberListRequest, MemberListResponse, |_, _| {};
    MemberRemoveRequest, MemberRemoveResponse, |_, _| {};
    MemberPromoteRequest, MemberPromoteResponse, |_, _| {};
    MemberAddRequest, MemberAddResponse, |_, _| {};
    MemberUpdateRequest, MemberUpdateResponse, |_, _| {};
    MoveLeaderRequest, MoveLeaderResponse, |_, _| {};
    DowngradeRequest, DowngradeResponse, |_, _| {};
    AlarmRequest, AlarmResponse, |reply, _| alarms(reply);
    StatusRequest, StatusResponse, |reply, _| status(reply);
}

impl Normal<DefragmentRequest> for DefragmentResponse {
    fn normalise(&mut self, _: Option<&DefragmentRequest>) {}

    fn revision(&self) -> i64 {
        0
    }
}

/// etcd's sort leaves rows with equal sort keys in no defined order; ours leaves them in key order. Where the limit cuts through such
/// rows, which of them are left is open too.
fn range(reply: &mut RangeResponse, request: &RangeRequest) {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    if target == SortTarget::Key || request.count_only {
        return;
    }
    // Rows of a range without values are sorted by values that are not shown. Among few rows etcd's sort is stable.
    if target == SortTarget::Value && request.keys_only {
        if reply.count > STABLE {
            reply.kvs.iter_mut().for_each(|row| *row = KeyValue::default());
        }
        return;
    }
    let descending = request.sort_order() == SortOrder::Descend;
    let by_target = |a: &KeyValue, b: &KeyValue| match target {
        SortTarget::Key => Ordering::Equal,
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    let sorted = reply.kvs.is_sorted_by(|a, b| by_target(a, b) != if descending { Ordering::Less } else { Ordering::Greater });
    assert!(sorted, "{request:?} is answered out of order: {:?}", reply.kvs);
    if reply.count <= STABLE {
        return;
    }
    if reply.more
        && let Some(last) = reply.kvs.last().cloned()
    {
        for row in reply.kvs.iter_mut().filter(|row| by_target(row, &last).is_eq()) {
            *row = match target {
                SortTarget::Key => unreachable!("a range by key has left above"),
                SortTarget::Version => KeyValue { version: row.version, ..KeyValue::default() },
                SortTarget::Create => KeyValue { create_revision: row.create_revision, ..KeyValue::default() },
                SortTarget::Mod => KeyValue { mod_revision: row.mod_revision, ..KeyValue::default() },
                SortTarget::Value => KeyValue { value: row.value.clone(), ..KeyValue::default() },
            };
        }
    }
    reply.kvs.sort_by(|a, b| by_target(a, b).then_with(|| a.key.cmp(&b.key)));
}

/// Go sorts so many rows by insertion, which keeps ties in key order.
const STABLE: i64 = 12;

fn txn(reply: &mut TxnResponse, request: &TxnRequest) {
    let branch = if reply.succeeded { &request.success } else { &request.failure };
    for (response, op) in reply.responses.iter_mut().zip(branch) {
        match (&mut response.response, &op.request) {
            (Some(Response::ResponseRange(reply)), Some(Request::RequestRange(request))) => range(reply, request),
            (Some(Response::ResponseTxn(reply)), Some(Request::RequestTxn(request))) => txn(reply, request),
            _ => {}
        }
    }
}

/// etcd forgets a compaction to 0 if it is killed before it has written that it was carried out. Nothing is compacted by it.
pub fn outlives_a_kill(compacted: i64) -> bool {
    compacted != 0
}

/// Leases are listed by when they end. At its start etcd renews them one after the other in no defined order, ours lets them end when the
/// log says.
pub fn in_order(messages: &[Bytes]) -> Vec<Bytes> {
    let ordered = |message: &Bytes| {
        let mut reply = LeaseLeasesResponse::decode(message.clone()).expect("a decodable answer");
        reply.leases.sort_by_key(|lease| lease.id);
        reply.encode_to_vec().into()
    };
    messages.iter().map(ordered).collect()
}

/// Of a lease that is to have any id each server chooses one; it is never negative.
fn lease_id(reply: &mut LeaseGrantResponse, request: Option<&LeaseGrantRequest>) {
    if request.is_some_and(|request| request.id == 0) {
        assert!(reply.id > 0, "{reply:?}");
        reply.id = 0;
    }
}

/// Time passes between two servers; etcd lists a lease's keys in no defined order.
fn time_to_live(reply: &mut LeaseTimeToLiveResponse) {
    if reply.ttl > 0 && (0..600).contains(&(reply.granted_ttl - reply.ttl)) {
        reply.ttl = reply.granted_ttl;
    }
    reply.keys.sort();
}

/// etcd lists alarms in no defined order.
fn alarms(reply: &mut AlarmResponse) {
    reply.alarms.sort_by_key(|alarm| (alarm.member_id, alarm.alarm));
}

/// Storage engines differ in what they take, logs in what they hold besides the clients' requests.
fn status(reply: &mut StatusResponse) {
    assert!(reply.db_size >= reply.db_size_in_use && reply.raft_index >= reply.raft_applied_index, "{reply:?}");
    (reply.db_size, reply.db_size_in_use, reply.raft_index, reply.raft_applied_index) = (0, 0, 0, 0);
    // etcd settles on its storage version some time after its start.
    reply.storage_version.clear();
    // Go's text form of a message has one or two spaces between fields, as chance would have it when etcd was built.
    for error in &mut reply.errors {
        *error = error.replace("  ", " ");
    }
    reply.errors.sort();
}
