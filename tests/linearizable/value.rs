//! Values: a short unique name, and on the wire a filling that follows from it.
//!
//! The checks need names only, so a value is *folded* to its name as soon as it arrives; a filling that is not what the name says
//! stays, and then equals nothing that was ever written.

use bramble::pb::etcdserverpb::request_op::Request as Op;
use bramble::pb::etcdserverpb::response_op::Response;
use bramble::pb::etcdserverpb::{RequestOp, ResponseOp, TxnRequest, compare::TargetUnion};
use bramble::pb::mvccpb::{Event, KeyValue};
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
    } else {
        *value = Bytes::copy_from_slice(value);
    }
}

fn whole(name: &[u8]) -> Option<Vec<u8>> {
    let length: usize = std::str::from_utf8(name.rsplit(|byte| *byte == b':').next()?).ok()?.parse().ok()?;
    let first = name.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte))) % ALPHABET.len();
    let mut filling = ALPHABET.repeat(length / ALPHABET.len() + 2);
    filling.truncate(first + length);
    Some([name, &[END], &filling[first..]].concat())
}

/// Writes out the values of a request.
pub fn unfold_request(request: &mut Request) {
    match request {
        Request::Put(put) => unfold(&mut put.value),
        Request::Txn(txn) => unfold_txn(txn),
        Request::Range(_) | Request::DeleteRange(_) | Request::Compact(_) => {}
        Request::Grant(_) | Request::Revoke(_) | Request::TimeToLive(_) | Request::Leases(_) => {}
    }
}

fn unfold_txn(txn: &mut TxnRequest) {
    for compare in &mut txn.compare {
        if let Some(TargetUnion::Value(value)) = &mut compare.target_union {
            unfold(value);
        }
    }
    for RequestOp { request } in txn.success.iter_mut().chain(&mut txn.failure) {
        match request {
            Some(Op::RequestPut(put)) => unfold(&mut put.value),
            Some(Op::RequestTxn(txn)) => unfold_txn(txn),
            Some(Op::RequestRange(_) | Op::RequestDeleteRange(_)) | None => {}
        }
    }
}

/// Folds the values of an answer.
pub fn fold_reply(reply: &mut Reply) {
    match reply {
        Reply::Range(range) => range.kvs.iter_mut().for_each(fold_pair),
        Reply::Put(put) => put.prev_kv.iter_mut().for_each(fold_pair),
        Reply::DeleteRange(delete) => delete.prev_kvs.iter_mut().for_each(fold_pair),
        Reply::Txn(txn) => txn.responses.iter_mut().for_each(fold_response),
        Reply::Compact(_) | Reply::Grant(_) | Reply::Revoke(_) | Reply::TimeToLive(_) | Reply::Leases(_) | Reply::Refused(_) => {}
    }
}

fn fold_response(response: &mut ResponseOp) {
    match &mut response.response {
        Some(Response::ResponseRange(range)) => range.kvs.iter_mut().for_each(fold_pair),
        Some(Response::ResponsePut(put)) => put.prev_kv.iter_mut().for_each(fold_pair),
        Some(Response::ResponseDeleteRange(delete)) => delete.prev_kvs.iter_mut().for_each(fold_pair),
        Some(Response::ResponseTxn(txn)) => txn.responses.iter_mut().for_each(fold_response),
        None => {}
    }
}

/// Folds the values of an event.
pub fn fold_event(event: &mut Event) {
    event.kv.iter_mut().chain(&mut event.prev_kv).for_each(fold_pair);
}

/// The key, too, gets memory of its own: else it would keep the whole answer.
fn fold_pair(kv: &mut KeyValue) {
    kv.key = Bytes::copy_from_slice(&kv.key);
    fold(&mut kv.value);
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
