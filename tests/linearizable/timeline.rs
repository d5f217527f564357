//! All that ever happened to the keys, in the order of revisions: what one watch over everything has told, resumed after every kill.
//! It is the claim that all answers are held against, so it is checked itself: no revision is missing, and what each event says of
//! its key follows from the events before.

use std::collections::BTreeMap;

use bramble::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use bramble::pb::etcdserverpb::request_op::Request as Op;
use bramble::pb::etcdserverpb::response_op::Response;
use bramble::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseOp,
    TxnRequest, TxnResponse,
};
use bramble::pb::mvccpb::event::EventType;
use bramble::pb::mvccpb::{Event, KeyValue};
use bytes::Bytes;

use super::history::{Reply, Request};
use super::violation::Violation;

/// The first revision that a write can have; before it the store is empty.
pub const FIRST: i64 = 2;

/// Everything that happened, and what every key held at any time.
#[derive(Default)]
pub struct Timeline {
    events: BTreeMap<i64, Vec<Event>>,
    /// Of each key its states, and the revisions they begin at.
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
}

/// Whether a request's `key` and `range_end` name a key.
pub fn names(key: &Bytes, from: &Bytes, end: &Bytes) -> bool {
    match &end[..] {
        [] => key == from,
        [0] => key >= from,
        _ => key >= from && key < end,
    }
}

impl Timeline {
    /// From the events of everything, as they came.
    ///
    /// # Errors
    /// They cannot be the history of a store.
    pub fn new(events: impl IntoIterator<Item = Event>) -> Result<Timeline, Violation> {
        let mut timeline = Timeline::default();
        for event in events {
            timeline.append(event)?;
        }
        Ok(timeline)
    }

    fn append(&mut self, mut event: Event) -> Result<(), Violation> {
        event.prev_kv = None;
        let kv = event.kv.clone().unwrap_or_default();
        let (last, revision) = (self.last(), kv.mod_revision);
        let told = |claim: &str| Violation::new(format!("{claim}, after revision {last}"), [format!("{event:?}")]);
        if revision != last && revision != last + 1 || revision < FIRST {
            return Err(told("a watch of everything misses a revision or tells one again"));
        }
        let before = self.at(&kv.key, revision - 1).cloned();
        let expected = match (event.r#type(), &before) {
            (EventType::Put, before) => KeyValue {
                create_revision: before.as_ref().map_or(revision, |before| before.create_revision),
                version: before.as_ref().map_or(0, |before| before.version) + 1,
                ..kv.clone()
            },
            (EventType::Delete, Some(_)) => KeyValue { key: kv.key.clone(), mod_revision: revision, ..KeyValue::default() },
            (EventType::Delete, None) => return Err(told("a key is deleted that does not exist")),
        };
        if kv != expected {
            return Err(told(&format!("create revision or version do not follow from what was before ({before:?})")));
        }
        let states = self.keys.entry(kv.key.clone()).or_default();
        if states.last().is_some_and(|(latest, _)| *latest == revision) {
            return Err(told("a key changes twice in one revision"));
        }
        states.push((revision, (event.r#type() == EventType::Put).then_some(kv)));
        self.events.entry(revision).or_default().push(event);
        Ok(())
    }

    /// The last revision.
    pub fn last(&self) -> i64 {
        self.events.last_key_value().map_or(FIRST - 1, |(revision, _)| *revision)
    }

    /// What happened at a revision.
    pub fn events(&self, revision: i64) -> &[Event] {
        self.events.get(&revision).map_or(&[], Vec::as_slice)
    }

    /// What happened from a revision on.
    pub fn since(&self, revision: i64) -> impl Iterator<Item = (i64, &[Event])> {
        self.events.range(revision..).map(|(revision, events)| (*revision, events.as_slice()))
    }

    /// What a key held at a revision.
    pub fn at(&self, key: &Bytes, revision: i64) -> Option<&KeyValue> {
        let states = self.keys.get(key)?;
        let after = states.partition_point(|(begin, _)| *begin <= revision);
        states[..after].last()?.1.as_ref()
    }
}

/// A request done right after a revision: the answer it should have, and the events it should cause one revision later.
pub struct Attempt<'a> {
    timeline: &'a Timeline,
    base: i64,
    events: Vec<Event>,
}

impl Attempt<'_> {
    /// Does `request` in the state of `base`. No answer: it says nothing that follows from the keys. Headers are left out.
    pub fn of(timeline: &Timeline, base: i64, request: &Request) -> (Option<Reply>, Vec<Event>) {
        let mut attempt = Attempt { timeline, base, events: Vec::new() };
        let reply = match request {
            Request::Range(range) => Some(Reply::Range(attempt.range(range))),
            Request::Put(put) => Some(Reply::Put(attempt.put(put))),
            Request::DeleteRange(delete) => Some(Reply::DeleteRange(attempt.delete_range(delete))),
            Request::Txn(txn) => Some(Reply::Txn(attempt.txn(txn))),
            Request::Revoke(revoke) => {
                attempt.delete(|kv| kv.lease == revoke.id);
                None
            }
            Request::Compact(_) | Request::Grant(_) | Request::TimeToLive(_) | Request::Leases(_) => None,
        };
        (reply, attempt.events)
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        let own = self.events.iter().rev().find(|event| event.kv.as_ref().is_some_and(|kv| kv.key == *key));
        match own {
            Some(event) if event.r#type() == EventType::Delete => None,
            Some(event) => event.kv.clone(),
            None => self.timeline.at(key, self.base).cloned(),
        }
    }

    /// The keys that exist and fit, in order.
    fn select(&self, fits: impl Fn(&KeyValue) -> bool) -> Vec<KeyValue> {
        let own = self.events.iter().filter_map(|event| Some(event.kv.as_ref()?.key.clone()));
        let mut keys: Vec<Bytes> = self.timeline.keys.keys().cloned().chain(own).collect();
        keys.sort();
        keys.dedup();
        keys.iter().filter_map(|key| self.get(key)).filter(fits).collect()
    }

    fn range(&self, request: &RangeRequest) -> RangeResponse {
        let fits = |kv: &KeyValue| names(&kv.key, &request.key, &request.range_end);
        let kvs = match request.revision {
            0 => self.select(fits),
            revision => Attempt { timeline: self.timeline, base: revision, events: Vec::new() }.select(fits),
        };
        RangeResponse { count: kvs.len() as i64, kvs, ..RangeResponse::default() }
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let before = self.get(&request.key);
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: before.as_ref().map_or(self.base + 1, |before| before.create_revision),
            mod_revision: self.base + 1,
            version: before.as_ref().map_or(0, |before| before.version) + 1,
            value: request.value.clone(),
            lease: request.lease,
        };
        self.events.push(Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: None });
        PutResponse { header: None, prev_kv: before.filter(|_| request.prev_kv) }
    }

    fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let doomed = self.delete(|kv| names(&kv.key, &request.key, &request.range_end));
        let deleted = doomed.len() as i64;
        DeleteRangeResponse { header: None, deleted, prev_kvs: if request.prev_kv { doomed } else { Vec::new() } }
    }

    fn delete(&mut self, fits: impl Fn(&KeyValue) -> bool) -> Vec<KeyValue> {
        let doomed = self.select(fits);
        let tombstone = |kv: &KeyValue| KeyValue { key: kv.key.clone(), mod_revision: self.base + 1, ..KeyValue::default() };
        let event = |kv| Event { r#type: EventType::Delete.into(), kv: Some(tombstone(kv)), prev_kv: None };
        let events: Vec<Event> = doomed.iter().map(event).collect();
        self.events.extend(events);
        doomed
    }

    fn txn(&mut self, request: &TxnRequest) -> TxnResponse {
        let succeeded = request.compare.iter().all(|compare| holds(compare, self.get(&compare.key).as_ref()));
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match op.request.as_ref().expect("no empty operations are made") {
                Op::RequestRange(range) => Response::ResponseRange(self.range(range)),
                Op::RequestPut(put) => Response::ResponsePut(self.put(put)),
                Op::RequestDeleteRange(delete) => Response::ResponseDeleteRange(self.delete_range(delete)),
                Op::RequestTxn(_) => unreachable!("no nested transactions are made"),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: None, succeeded, responses }
    }
}

fn holds(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let absent = KeyValue::default();
    let (held, union) = (kv.unwrap_or(&absent), compare.target_union.as_ref().expect("every compare has its target"));
    let order = match union {
        TargetUnion::Version(version) => held.version.cmp(version),
        TargetUnion::CreateRevision(revision) => held.create_revision.cmp(revision),
        TargetUnion::ModRevision(revision) => held.mod_revision.cmp(revision),
        TargetUnion::Lease(lease) => held.lease.cmp(lease),
        TargetUnion::Value(value) => held.value.cmp(value),
    };
    (kv.is_some() || compare.target() != CompareTarget::Value)
        && match compare.result() {
            CompareResult::Equal => order.is_eq(),
            CompareResult::NotEqual => order.is_ne(),
            CompareResult::Greater => order.is_gt(),
            CompareResult::Less => order.is_lt(),
        }
}
