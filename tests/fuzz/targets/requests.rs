//! Requests of every unary method, through decode, check, apply and encode.
//!
//! Input: requests, each a method and a message, as it comes or made of fields.

use bramble::mvcc::RowHead;
use bramble::pb::etcdserverpb::*;
use bramble::pb::health::HealthCheckResponse;
use bramble::pb::mvccpb::KeyValue;
use bramble::rpc::services::{Kind, Method};
use bytes::Bytes;
use prost::Message;

use super::input::Input;
use super::messages;
use super::served::{self, Served};

pub fn run(data: &[u8]) {
    served::with(|served| {
        let mut input = Input::new(data);
        for _ in 0..16 {
            let method = input.pick(&Method::ALL);
            if method.path().2 != Kind::Unary || input.is_empty() {
                continue;
            }
            let message = if input.bool() { messages::message(method, &mut input) } else { input.piece().to_vec() };
            one(served, method, message.into());
        }
        rows(input.rest());
    });
}

fn one(served: &Served, method: Method, message: Bytes) {
    let before = writes(method).then(|| served.state());
    match served.ask(method, message.clone()) {
        Ok(reply) => check_reply(served, method, &message, reply),
        Err(status) => {
            assert!(!status.message.is_empty(), "{method:?}: a refusal says why");
            if let Some(before) = before {
                assert_eq!(served.state(), before, "{method:?}: what is refused changes nothing");
            }
        }
    }
}

/// Whether a success may change what the store holds.
fn writes(method: Method) -> bool {
    matches!(method, Method::Put | Method::Txn | Method::DeleteRange | Method::LeaseRevoke | Method::LeaseGrant | Method::Compact)
}

/// A reply is of its method's type, in the one form that encoders give it, and says what the request asked for.
fn check_reply(served: &Served, method: Method, request: &Bytes, reply: Bytes) {
    match method {
        Method::Range => {
            let request = RangeRequest::decode(request.clone()).expect("it was answered");
            let RangeResponse { kvs, more, count, .. } = whole(reply);
            assert!(request.limit <= 0 || kvs.len() as i64 <= request.limit, "no more than asked for");
            assert!(!more || request.limit > 0, "all, unless there is a limit");
            assert!(count >= kvs.len() as i64);
            assert!(!request.keys_only || kvs.iter().all(|row| row.value.is_empty()), "keys only");
        }
        Method::Put => {
            let request = PutRequest::decode(request.clone()).expect("it was answered");
            let response: PutResponse = whole(reply);
            assert_eq!(response.header.expect("it has one").revision, served.revision());
            let found = RangeRequest { key: request.key, ..RangeRequest::default() };
            let found: RangeResponse = whole(served.ask(Method::Range, found.encode_to_vec().into()).expect("it reads"));
            let row = &found.kvs[0];
            assert_eq!(row.mod_revision, served.revision());
            assert!(request.ignore_value || row.value == request.value, "what was put is there");
            assert!(request.ignore_lease || row.lease == request.lease, "and its lease");
        }
        Method::DeleteRange => {
            let request = DeleteRangeRequest::decode(request.clone()).expect("it was answered");
            let response: DeleteRangeResponse = whole(reply);
            assert!(!request.prev_kv || response.prev_kvs.len() as i64 == response.deleted);
            let left = RangeRequest { key: request.key, range_end: request.range_end, ..RangeRequest::default() };
            let left: RangeResponse = whole(served.ask(Method::Range, left.encode_to_vec().into()).expect("it reads"));
            assert_eq!(left.count, 0, "what was deleted is gone");
        }
        Method::Txn => check(whole::<TxnResponse>(reply)),
        Method::Compact => check(whole::<CompactionResponse>(reply)),
        Method::LeaseGrant => {
            let response: LeaseGrantResponse = whole(reply);
            assert!(response.id != 0 && response.ttl > 0, "{response:?}");
        }
        Method::LeaseRevoke => check(whole::<LeaseRevokeResponse>(reply)),
        Method::LeaseTimeToLive => check(whole::<LeaseTimeToLiveResponse>(reply)),
        Method::LeaseLeases => check(whole::<LeaseLeasesResponse>(reply)),
        Method::MemberAdd => check(whole::<MemberAddResponse>(reply)),
        Method::MemberRemove => check(whole::<MemberRemoveResponse>(reply)),
        Method::MemberUpdate => check(whole::<MemberUpdateResponse>(reply)),
        Method::MemberList => check(whole::<MemberListResponse>(reply)),
        Method::MemberPromote => check(whole::<MemberPromoteResponse>(reply)),
        Method::Alarm => check(whole::<AlarmResponse>(reply)),
        Method::Status => check(whole::<StatusResponse>(reply)),
        Method::Defragment => check(whole::<DefragmentResponse>(reply)),
        Method::Hash => check(whole::<HashResponse>(reply)),
        Method::HashKv => check(whole::<HashKvResponse>(reply)),
        Method::MoveLeader => check(whole::<MoveLeaderResponse>(reply)),
        Method::Downgrade => check(whole::<DowngradeResponse>(reply)),
        Method::HealthCheck => check(whole::<HealthCheckResponse>(reply)),
        Method::RangeStream | Method::Watch | Method::LeaseKeepAlive | Method::HealthWatch => unreachable!("streams"),
    }
}

fn check<M>(_: M) {}

/// Decodes a reply, and encodes it again to the same bytes.
fn whole<M: Message + Default + std::fmt::Debug>(reply: Bytes) -> M {
    let message = M::decode(reply.clone()).expect("a reply is of its method's type");
    assert!(message.encode_to_vec() == reply, "{message:?} is encoded as others encode it");
    message
}

/// The store's own reader of rows sees in any bytes what prost's sees.
fn rows(bytes: &[u8]) {
    let (ours, theirs) = (RowHead::parse(bytes), KeyValue::decode(bytes).ok());
    assert_eq!(ours.is_some(), theirs.is_some(), "{ours:?} {theirs:?}");
    if let (Some(ours), Some(theirs)) = (ours, theirs) {
        let numbers = (ours.create_revision, ours.mod_revision, ours.version, ours.lease);
        assert_eq!(
            (ours.key, ours.value, numbers),
            (&theirs.key[..], &theirs.value[..], (theirs.create_revision, theirs.mod_revision, theirs.version, theirs.lease))
        );
    }
}
