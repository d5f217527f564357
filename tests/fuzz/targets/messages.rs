//! Requests as clients make them, or nearly: fields from a fuzzer's bytes, few keys, so that requests meet, and numbers at the
//! borders.

use bramble::pb::etcdserverpb::compare::TargetUnion;
use bramble::pb::etcdserverpb::request_op::Request;
use bramble::pb::etcdserverpb::watch_request::RequestUnion;
use bramble::pb::etcdserverpb::*;
use bramble::pb::health::HealthCheckRequest;
use bramble::rpc::services::Method;
use bytes::Bytes;
use prost::Message;

use super::input::Input;

/// How deep transactions nest here; the server's own limit is 32.
const DEPTH: u32 = 40;

/// A request of a method, encoded; now and then with a fault in its encoding.
pub fn message(method: Method, input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = sound(method, input);
    match input.byte() {
        0..200 => {}
        200..230 => {
            let at = usize::from(input.u16()) % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = input.byte();
            }
        }
        230..240 => bytes.truncate(usize::from(input.u16())),
        240..250 => bytes.extend_from_slice(input.piece()),
        _ => bytes = input.piece().to_vec(),
    }
    bytes
}

fn sound(method: Method, input: &mut Input<'_>) -> Vec<u8> {
    match method {
        Method::Range | Method::RangeStream => range(input).encode_to_vec(),
        Method::Put => put(input).encode_to_vec(),
        Method::DeleteRange => delete_range(input).encode_to_vec(),
        Method::Txn => txn(input, DEPTH).encode_to_vec(),
        Method::Compact => compaction(input).encode_to_vec(),
        Method::Watch => watch(input).encode_to_vec(),
        Method::LeaseGrant => lease_grant(input).encode_to_vec(),
        Method::LeaseRevoke => lease_revoke(input).encode_to_vec(),
        Method::LeaseKeepAlive => LeaseKeepAliveRequest { id: lease(input) }.encode_to_vec(),
        Method::LeaseTimeToLive => LeaseTimeToLiveRequest { id: lease(input), keys: input.bool() }.encode_to_vec(),
        Method::LeaseLeases => LeaseLeasesRequest {}.encode_to_vec(),
        Method::MemberAdd => MemberAddRequest { peer_ur_ls: urls(input), is_learner: input.bool() }.encode_to_vec(),
        Method::MemberRemove => MemberRemoveRequest { id: input.u64() }.encode_to_vec(),
        Method::MemberUpdate => MemberUpdateRequest { id: input.u64(), peer_ur_ls: urls(input) }.encode_to_vec(),
        Method::MemberList => MemberListRequest { linearizable: input.bool() }.encode_to_vec(),
        Method::MemberPromote => MemberPromoteRequest { id: input.u64() }.encode_to_vec(),
        Method::Alarm => alarm(input).encode_to_vec(),
        Method::Status => StatusRequest {}.encode_to_vec(),
        Method::Defragment => DefragmentRequest {}.encode_to_vec(),
        Method::Hash => HashRequest {}.encode_to_vec(),
        Method::HashKv => HashKvRequest { revision: input.number() }.encode_to_vec(),
        Method::MoveLeader => MoveLeaderRequest { target_id: input.u64() }.encode_to_vec(),
        Method::Downgrade => DowngradeRequest { action: input.number() as i32, version: text(input) }.encode_to_vec(),
        Method::HealthCheck | Method::HealthWatch => HealthCheckRequest { service: text(input) }.encode_to_vec(),
    }
}

fn text(input: &mut Input<'_>) -> String {
    String::from_utf8_lossy(input.piece()).into_owned()
}

fn urls(input: &mut Input<'_>) -> Vec<String> {
    (0..input.byte() % 4).map(|_| text(input)).collect()
}

fn key(input: &mut Input<'_>) -> Bytes {
    const KEYS: [&[u8]; 12] = [b"", b"\0", b"a", b"b", b"c", b"d", b"aa", b"ab", b"a\0", b"\xff", b"\xff\xff", b"b\0"];
    match input.byte() {
        255 => Bytes::copy_from_slice(input.piece()),
        small => Bytes::from_static(KEYS[usize::from(small) % KEYS.len()]),
    }
}

/// Mostly one key only.
fn range_end(input: &mut Input<'_>) -> Bytes {
    if input.bool() { key(input) } else { Bytes::new() }
}

fn lease(input: &mut Input<'_>) -> i64 {
    i64::from(input.byte() % 4) * if input.byte() == 255 { -1 } else { 1 }
}

pub fn range(input: &mut Input<'_>) -> RangeRequest {
    let (key, range_end, bits) = (key(input), range_end(input), input.byte());
    let mut request = RangeRequest { key, range_end, ..RangeRequest::default() };
    (request.serializable, request.keys_only, request.count_only) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
    if bits & 8 > 0 {
        (request.sort_order, request.sort_target) = (input.number() as i32, input.number() as i32);
    }
    if bits & 16 > 0 {
        (request.limit, request.revision) = (input.number(), input.number());
    }
    if bits & 32 > 0 {
        (request.min_mod_revision, request.max_mod_revision) = (input.number(), input.number());
    }
    if bits & 64 > 0 {
        (request.min_create_revision, request.max_create_revision) = (input.number(), input.number());
    }
    request
}

pub fn put(input: &mut Input<'_>) -> PutRequest {
    let (key, bits) = (key(input), input.byte());
    PutRequest {
        key,
        value: if bits & 1 > 0 { Bytes::copy_from_slice(input.piece()) } else { Bytes::new() },
        lease: if bits & 2 > 0 { lease(input) } else { 0 },
        prev_kv: bits & 4 > 0,
        ignore_value: bits & 24 == 24,
        ignore_lease: bits & 96 == 96,
    }
}

pub fn delete_range(input: &mut Input<'_>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key(input), range_end: range_end(input), prev_kv: input.bool() }
}

pub fn txn(input: &mut Input<'_>, depth: u32) -> TxnRequest {
    let mut many = || usize::from(input.byte()) % 4;
    let (compares, successes, failures) = (many(), many(), many());
    let mut request = TxnRequest { compare: (0..compares).map(|_| compare(input)).collect(), ..TxnRequest::default() };
    request.success = (0..successes).map(|_| op(input, depth)).collect();
    request.failure = (0..failures).map(|_| op(input, depth)).collect();
    request
}

fn compare(input: &mut Input<'_>) -> Compare {
    let (result, target) = (i32::from(input.byte() % 5), i32::from(input.byte() % 6));
    let (key, range_end) = (key(input), range_end(input));
    let target_union = match input.byte() % 8 {
        0 => None,
        1 => Some(TargetUnion::Value(Bytes::copy_from_slice(input.piece()))),
        2 => Some(TargetUnion::CreateRevision(input.number())),
        3 => Some(TargetUnion::ModRevision(input.number())),
        4 => Some(TargetUnion::Lease(lease(input))),
        _ => Some(TargetUnion::Version(input.number())),
    };
    Compare { result, target, key, range_end, target_union }
}

fn op(input: &mut Input<'_>, depth: u32) -> RequestOp {
    let request = match input.byte() % 8 {
        0 => None,
        1 | 2 => Some(Request::RequestRange(range(input))),
        3 => Some(Request::RequestDeleteRange(delete_range(input))),
        4 if depth > 0 => Some(Request::RequestTxn(txn(input, depth - 1))),
        _ => Some(Request::RequestPut(put(input))),
    };
    RequestOp { request }
}

pub fn compaction(input: &mut Input<'_>) -> CompactionRequest {
    CompactionRequest { revision: input.number(), physical: input.byte() == 255 }
}

pub fn lease_grant(input: &mut Input<'_>) -> LeaseGrantRequest {
    LeaseGrantRequest { id: lease(input), ttl: input.number() }
}

pub fn lease_revoke(input: &mut Input<'_>) -> LeaseRevokeRequest {
    LeaseRevokeRequest { id: lease(input) }
}

pub fn alarm(input: &mut Input<'_>) -> AlarmRequest {
    AlarmRequest { action: i32::from(input.byte() % 4), member_id: input.u64(), alarm: i32::from(input.byte() % 4) }
}

fn watch(input: &mut Input<'_>) -> WatchRequest {
    let request_union = match input.byte() % 8 {
        0 => None,
        1 => Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: input.number() })),
        2 => Some(RequestUnion::ProgressRequest(WatchProgressRequest {})),
        _ => Some(RequestUnion::CreateRequest(watch_create(input))),
    };
    WatchRequest { request_union }
}

fn watch_create(input: &mut Input<'_>) -> WatchCreateRequest {
    let (key, range_end, bits) = (key(input), range_end(input), input.byte());
    WatchCreateRequest {
        key,
        range_end,
        start_revision: if bits & 1 > 0 { input.number() } else { 0 },
        progress_notify: bits & 2 > 0,
        filters: if bits & 4 > 0 { (0..input.byte() % 4).map(|_| i32::from(input.byte() % 3)).collect() } else { Vec::new() },
        prev_kv: bits & 8 > 0,
        watch_id: if bits & 16 > 0 { input.number() } else { 0 },
        fragment: bits & 32 > 0,
    }
}
