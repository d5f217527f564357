//! Values: a short unique name, and on the wire a filling that follows from it.
//!
//! The checks need names only, so a value is *folded* to its name as soon as it arrives; a filling that is not what the name says
//! stays, and then equals nothing that was ever written.

use bramble::pb::etcdserverpb::request_op::Request as Op;
use bramble::pb::etcdserverpb::response_op::Response;
use bramble::pb::etcdserverpb::{RequestOp, ResponseOp, TxnRequest, compare::TargetUnion};
use bramble::pb::mvccpb::Event;
use bytes::Bytes;

use super::history::{Reply, Request};

/// Ends the name.
const END: u8 = b'#';
/// What the filling repeats, from a letter on that follows from the name.
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// A name that nobody else uses, if `number` is one of the client's own, for a value of `length` bytes and its name.
pub fn name(client: usize, number: u64, length: usize) -> Bytes {
    format!("{client}.{number}:{length}").into()
}

/// The value as it is written.
pub fn unfold(name: &mut Bytes) {
    *name = whole(name).expect("a name ends with a length").into();
}

/// Back to the name.
pub fn fold(value: &mut Bytes) {
    let name = value.split(|byte| *byte == END).next().unwrap_or_default();
    if whole(name).is_some_and(|whole| whole == *value) {
        *value = Bytes::copy_from_slice(name);
    }
}

fn whole(name: &[u8]) -> Option<Vec<u8>> {
    let length: usize = std::str::from_utf8(name.rsplit(|byte| *byte == b':').next()?).ok()?.parse().ok()?;
    let first = name.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte))) % ALPHABET.len();
    let mut filling = ALPHABET.repeat(length / ALPHABET.len() + 2);
    filling.truncate(first + length);
    Some([name, &[END], &filling[first..]].concat())
}

/// Changes every value of a request.
pub fn each_of_request(request: &mut Request, change: fn(&mut Bytes)) {
    match request {
        Request::Put(put) => change(&mut put.value),
        Request::Txn(txn) => each_of_txn(txn, change),
        Request::Range(_) | Request::DeleteRange(_) | Request::Compact(_) => {}
        Request::Grant(_) | Request::Revoke(_) | Request::TimeToLive(_) | Request::Leases(_) => {}
    }
}

fn each_of_txn(txn: &mut TxnRequest, change: fn(&mut Bytes)) {
    for compare in &mut txn.compare {
        if let Some(TargetUnion::Value(value)) = &mut compare.target_union {
            change(value);
        }
    }
    for RequestOp { request } in txn.success.iter_mut().chain(&mut txn.failure) {
        match request {
            Some(Op::RequestPut(put)) => change(&mut put.value),
            Some(Op::RequestTxn(txn)) => each_of_txn(txn, change),
            Some(Op::RequestRange(_) | Op::RequestDeleteRange(_)) | None => {}
        }
    }
}

/// Changes every value of an answer.
pub fn each_of_reply(reply: &mut Reply, change: fn(&mut Bytes)) {
    match reply {
        Reply::Range(range) => range.kvs.iter_mut().for_each(|kv| change(&mut kv.value)),
        Reply::Put(put) => put.prev_kv.iter_mut().for_each(|kv| change(&mut kv.value)),
        Reply::DeleteRange(delete) => delete.prev_kvs.iter_mut().for_each(|kv| change(&mut kv.value)),
        Reply::Txn(txn) => txn.responses.iter_mut().for_each(|response| each_of_response(response, change)),
        Reply::Compact(_) | Reply::Grant(_) | Reply::Revoke(_) | Reply::TimeToLive(_) | Reply::Leases(_) | Reply::Refused(_) => {}
    }
}

fn each_of_response(response: &mut ResponseOp, change: fn(&mut Bytes)) {
    match &mut response.response {
        Some(Response::ResponseRange(range)) => range.kvs.iter_mut().for_each(|kv| change(&mut kv.value)),
        Some(Response::ResponsePut(put)) => put.prev_kv.iter_mut().for_each(|kv| change(&mut kv.value)),
        Some(Response::ResponseDeleteRange(delete)) => delete.prev_kvs.iter_mut().for_each(|kv| change(&mut kv.value)),
        Some(Response::ResponseTxn(txn)) => txn.responses.iter_mut().for_each(|response| each_of_response(response, change)),
        None => {}
    }
}

/// Folds the values of an event.
pub fn fold_event(event: &mut Event) {
    event.kv.iter_mut().chain(&mut event.prev_kv).for_each(|kv| fold(&mut kv.value));
}

#[test]
fn a_value_folds_to_its_name_unless_it_is_torn() {
    let name = name(3, 17, 40);
    let mut value = name.clone();
    unfold(&mut value);
    assert_eq!(value.len(), name.len() + 41);
    let mut torn = value.slice(..value.len() - 1);
    fold(&mut value);
    fold(&mut torn);
    assert_eq!(value, name);
    assert_ne!(torn, name);
}
