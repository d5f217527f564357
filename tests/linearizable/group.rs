//! What the independent judge knows of the store: keys with their values, versions and leases, and which leases there are. No
//! revisions: a mod revision in a compare is the name of the write that was seen under it, and no more.
//!
//! Keys and leases come in groups that no request but a read spans, so each group is an object of its own (linearizability is local).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bramble::pb::etcdserverpb::compare::{CompareResult, TargetUnion};
use bramble::pb::etcdserverpb::request_op::Request as Op;
use bramble::pb::etcdserverpb::response_op::Response;
use bramble::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseOp, TxnRequest,
};
use bramble::pb::mvccpb::KeyValue;
use bytes::Bytes;

use super::history::{Deadlines, Operation, Reply, Request};
use super::judge::{Call, Object};
use super::keys;
use super::timeline::names;

/// What is said of a lease that is not there.
pub const NO_LEASE: &str = "etcdserver: requested lease not found";
const LEASE_EXISTS: &str = "etcdserver: lease already exists";

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    value: Bytes,
    version: i64,
    lease: i64,
}

impl Held {
    fn is(&self, kv: &KeyValue) -> bool {
        self.value == kv.value && self.version == kv.version && self.lease == kv.lease
    }
}

/// A group's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Group {
    keys: BTreeMap<Bytes, Held>,
    leases: BTreeSet<i64>,
}

/// Values by the key and the mod revision that they were seen with.
pub type Writes = HashMap<(Bytes, i64), Bytes>;

/// An operation as one group sees it.
#[derive(Clone, Copy)]
pub struct Act<'a> {
    operation: &'a Operation,
    group: usize,
    writes: &'a Writes,
}

impl<'a> Act<'a> {
    /// The whole operation.
    pub fn operation(&self) -> &'a Operation {
        self.operation
    }
}

/// Collects the values that were seen in answers to ranges, which is where clients have the mod revisions of their compares from.
pub fn writes(history: &[Operation]) -> Writes {
    let mut writes = Writes::new();
    let mut note = |range: &RangeResponse| {
        writes.extend(range.kvs.iter().map(|kv| ((kv.key.clone(), kv.mod_revision), kv.value.clone())));
    };
    for operation in history {
        match operation.reply() {
            Some(Reply::Range(range)) => note(range),
            Some(Reply::Txn(txn)) => {
                for ResponseOp { response } in &txn.responses {
                    if let Some(Response::ResponseRange(range)) = response {
                        note(range);
                    }
                }
            }
            _ => {}
        }
    }
    writes
}

/// The calls that a group's history is made of: everything of the present that linearizability is promised for.
pub fn calls<'a>(history: &'a [Operation], group: usize, writes: &'a Writes) -> Vec<Call<Act<'a>>> {
    let deadlines = Deadlines::of(history);
    let concerns = |operation: &&Operation| {
        let is_read = matches!(operation.request, Request::Range(_) | Request::TimeToLive(_) | Request::Leases(_));
        let read_nothing = operation.end.is_none() && is_read;
        !read_nothing && !operation.is_serializable() && is_about(&operation.request, group)
    };
    let call = |operation: &'a Operation| Call {
        call: operation.call,
        returned: operation.returned(),
        deadline: deadlines.get(operation),
        act: Act { operation, group, writes },
    };
    history.iter().filter(concerns).map(call).collect()
}

fn is_about(request: &Request, group: usize) -> bool {
    let has = |key: &Bytes| keys::group_of(key) == Some(group);
    match request {
        Request::Range(range) => range.revision == 0 && keys::group_of(&range.key).is_none_or(|of| of == group),
        Request::Put(put) => has(&put.key),
        Request::DeleteRange(delete) => has(&delete.key),
        Request::Txn(txn) => keys::of_txn(txn).is_some_and(has),
        Request::Grant(grant) => keys::group_of_lease(grant.id) == group,
        Request::Revoke(revoke) => keys::group_of_lease(revoke.id) == group,
        Request::TimeToLive(times) => keys::group_of_lease(times.id) == group,
        Request::Leases(_) => true,
        Request::Compact(_) => false,
    }
}

impl Object<Act<'_>> for Group {
    fn step(&self, act: &Act) -> Option<Group> {
        let Act { operation, group, writes } = *act;
        let mut next = self.clone();
        let is_possible = match (&operation.request, operation.reply()) {
            (Request::Range(range), Some(Reply::Range(reply))) => self.shows(range, reply, group),
            (Request::Put(put), reply) if !self.has_lease(put) => is_refusal(reply, NO_LEASE),
            (Request::Put(put), reply) => match (next.put(put), reply) {
                (_, None) => true,
                (before, Some(Reply::Put(reply))) => is_before(before.filter(|_| put.prev_kv), &reply.prev_kv),
                _ => false,
            },
            (Request::DeleteRange(delete), reply) => match (next.delete(delete), reply) {
                (_, None) => true,
                (gone, Some(Reply::DeleteRange(reply))) => is_gone(&gone, delete, reply),
                _ => false,
            },
            (Request::Txn(txn), reply) => next.txn(txn, reply, writes, group),
            (Request::Grant(grant), reply) => answers(next.leases.insert(grant.id), reply, LEASE_EXISTS),
            (Request::Revoke(revoke), reply) => {
                next.keys.retain(|_, held| held.lease != revoke.id);
                answers(next.leases.remove(&revoke.id), reply, NO_LEASE)
            }
            (Request::TimeToLive(_), None) | (Request::Leases(_), None) => false,
            (Request::TimeToLive(times), Some(Reply::TimeToLive(reply))) => {
                let attached = self.keys.iter().filter(|(_, held)| held.lease == times.id).map(|(key, _)| key);
                let told: BTreeSet<&Bytes> = reply.keys.iter().collect();
                self.leases.contains(&times.id) == (reply.ttl != -1) && attached.eq(told)
            }
            (Request::Leases(_), Some(Reply::Leases(reply))) => {
                let told = reply.leases.iter().map(|lease| lease.id).filter(|id| keys::group_of_lease(*id) == group);
                told.collect::<BTreeSet<i64>>() == self.leases
            }
            _ => false,
        };
        is_possible.then_some(next)
    }

    fn only_looks(act: &Act) -> bool {
        let changes_nothing = |response: &ResponseOp| match &response.response {
            Some(Response::ResponseRange(_)) => true,
            Some(Response::ResponseDeleteRange(delete)) => delete.deleted == 0,
            _ => false,
        };
        match act.operation.reply() {
            Some(Reply::Range(_) | Reply::TimeToLive(_) | Reply::Leases(_) | Reply::Refused(_)) => true,
            Some(Reply::DeleteRange(delete)) => delete.deleted == 0,
            Some(Reply::Txn(txn)) => txn.responses.iter().all(changes_nothing),
            _ => false,
        }
    }
}

impl Group {
    fn has_lease(&self, put: &PutRequest) -> bool {
        put.lease == 0 || self.leases.contains(&put.lease)
    }

    fn put(&mut self, put: &PutRequest) -> Option<Held> {
        let version = self.keys.get(&put.key).map_or(0, |held| held.version) + 1;
        self.keys.insert(put.key.clone(), Held { value: put.value.clone(), version, lease: put.lease })
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> Vec<(Bytes, Held)> {
        self.keys.extract_if(.., |key, _| names(key, &delete.key, &delete.range_end)).collect()
    }

    fn shows(&self, range: &RangeRequest, reply: &RangeResponse, group: usize) -> bool {
        let mut told = reply.kvs.iter().filter(|kv| keys::group_of(&kv.key) == Some(group));
        let mut held = self.keys.iter().filter(|(key, _)| names(key, &range.key, &range.range_end));
        let is_counted = keys::group_of(&range.key).is_none() || reply.count == reply.kvs.len() as i64;
        let are_equal = held.all(|(key, held)| told.next().is_some_and(|kv| kv.key == *key && held.is(kv)));
        is_counted && !reply.more && are_equal && told.next().is_none()
    }

    fn txn(&mut self, txn: &TxnRequest, reply: Option<&Reply>, writes: &Writes, group: usize) -> bool {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare, writes));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let lacks_lease = |op: &RequestOp| matches!(&op.request, Some(Op::RequestPut(put)) if !self.has_lease(put));
        if branch.iter().any(lacks_lease) {
            return is_refusal(reply, NO_LEASE);
        }
        let responses = match reply {
            None => None,
            Some(Reply::Txn(reply)) if reply.succeeded == succeeded => Some(&reply.responses),
            Some(_) => return false,
        };
        branch.iter().enumerate().all(|(index, op)| {
            let told = responses.map(|responses| responses.get(index).and_then(|response| response.response.as_ref()));
            self.op(op, told, group)
        })
    }

    /// `told`: its answer, if the transaction was answered.
    fn op(&mut self, op: &RequestOp, told: Option<Option<&Response>>, group: usize) -> bool {
        match (op.request.as_ref().expect("no empty operations are made"), told) {
            (Op::RequestRange(_), None) => true,
            (Op::RequestRange(range), Some(Some(Response::ResponseRange(reply)))) => self.shows(range, reply, group),
            (Op::RequestPut(put), told) => match (self.put(put), told) {
                (_, None) => true,
                (before, Some(Some(Response::ResponsePut(reply)))) => is_before(before.filter(|_| put.prev_kv), &reply.prev_kv),
                _ => false,
            },
            (Op::RequestDeleteRange(delete), told) => match (self.delete(delete), told) {
                (_, None) => true,
                (gone, Some(Some(Response::ResponseDeleteRange(reply)))) => is_gone(&gone, delete, reply),
                _ => false,
            },
            _ => false,
        }
    }

    fn holds(&self, compare: &Compare, writes: &Writes) -> bool {
        let held = self.keys.get(&compare.key);
        let order = match compare.target_union.as_ref().expect("every compare has its target") {
            TargetUnion::Version(version) => held.map_or(0, |held| held.version).cmp(version),
            TargetUnion::Lease(lease) => held.map_or(0, |held| held.lease).cmp(lease),
            TargetUnion::Value(value) => match held {
                Some(held) => held.value.cmp(value),
                None => return false,
            },
            TargetUnion::CreateRevision(0) | TargetUnion::ModRevision(0) => i64::from(held.is_some()).cmp(&0),
            TargetUnion::ModRevision(revision) => {
                let value = writes.get(&(compare.key.clone(), *revision)).expect("clients compare with what they have read");
                match (compare.result(), held.is_some_and(|held| held.value == *value)) {
                    (CompareResult::Equal, same) => return same,
                    (CompareResult::NotEqual, same) => return !same,
                    _ => unreachable!("names have no order"),
                }
            }
            TargetUnion::CreateRevision(_) => unreachable!("create revisions are compared with 0 only"),
        };
        match compare.result() {
            CompareResult::Equal => order.is_eq(),
            CompareResult::NotEqual => order.is_ne(),
            CompareResult::Greater => order.is_gt(),
            CompareResult::Less => order.is_lt(),
        }
    }
}

/// What was not answered may have been refused.
fn is_refusal(reply: Option<&Reply>, reason: &str) -> bool {
    reply.is_none_or(|reply| matches!(reply, Reply::Refused(text) if text == reason))
}

/// Whether `reply` says that it was `done`, or else refused for this reason.
fn answers(done: bool, reply: Option<&Reply>, reason: &str) -> bool {
    match reply {
        Some(Reply::Refused(_)) => !done && is_refusal(reply, reason),
        Some(_) => done,
        None => true,
    }
}

fn is_before(held: Option<Held>, told: &Option<KeyValue>) -> bool {
    match (held, told) {
        (None, None) => true,
        (Some(held), Some(kv)) => held.is(kv),
        _ => false,
    }
}

fn is_gone(gone: &[(Bytes, Held)], delete: &DeleteRangeRequest, reply: &DeleteRangeResponse) -> bool {
    let shown: &[(Bytes, Held)] = if delete.prev_kv { gone } else { &[] };
    let is_shown = |((key, held), kv): (&(Bytes, Held), &KeyValue)| kv.key == *key && held.is(kv);
    let shows_all = reply.prev_kvs.len() == shown.len() && shown.iter().zip(&reply.prev_kvs).all(is_shown);
    reply.deleted == gone.len() as i64 && shows_all
}
