//! Clients that ask what chance and what they have read make them ask, one request after the other, until the server is gone.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bramble::pb::etcdserverpb::compare::{CompareResult, TargetUnion};
use bramble::pb::etcdserverpb::response_op::Response;
use bramble::pb::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest,
};
use bramble::pb::mvccpb::KeyValue;
use bytes::Bytes;

use crate::support::Client;
use crate::support::random::Random;
use crate::support::requests::{IntoOp, cmp, delete, everything, grant, key, prefix, put, txn};
use crate::support::wait::until_within;

use super::history::{Clock, Operation, Reply, Request};
use super::keys::{self, GROUPS, KEYS};
use super::value;

/// A lease that does not expire while the test runs.
const LONG_TTL_SECS: i64 = 9_000;
/// One that may: it is the shortest that there is.
pub const SHORT_TTL_SECS: i64 = 2;

/// For the operations of one epoch: only a hang takes as long.
const PATIENCE: Duration = Duration::from_secs(300);

/// What all threads of a run share.
pub struct Stage {
    /// The run's clock.
    pub clock: Clock,
    /// The last revision that the watch of everything has told. Nothing newer is compacted, or that watch would end.
    pub recorded: AtomicI64,
    /// Operations so far.
    pub operations: AtomicU64,
    /// Clients stop before their next request.
    pub stop: AtomicBool,
    /// Leases of each group that somebody has asked for.
    pub leases: Mutex<Vec<Vec<i64>>>,
}

impl Stage {
    /// Before anything.
    pub fn new() -> Stage {
        Stage {
            clock: Clock::start(),
            recorded: AtomicI64::new(1),
            operations: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            leases: Mutex::new(vec![Vec::new(); GROUPS]),
        }
    }

    /// Waits until clients have done so many operations more.
    pub fn wait_for(&self, more: u64) {
        let done = || self.operations.load(Ordering::Relaxed);
        let enough = done() + more;
        until_within("the load", PATIENCE, Duration::from_millis(1), || (done() >= enough).then_some(()));
    }
}

/// One client.
pub struct Player<'a> {
    id: usize,
    random: Random,
    stage: &'a Stage,
    /// What it has read last.
    known: HashMap<Bytes, KeyValue>,
    /// Of its values and leases.
    next_number: u64,
    /// All it has done.
    pub history: Vec<Operation>,
}

impl<'a> Player<'a> {
    /// Number `id`, which nobody else has.
    pub fn new(id: usize, random: Random, stage: &'a Stage) -> Player<'a> {
        Player { id, random, stage, known: HashMap::new(), next_number: 0, history: Vec::new() }
    }

    /// Plays until it is told to stop or the server is gone.
    pub fn play(&mut self, client: &Client, epoch: usize) {
        while !self.stage.stop.load(Ordering::Relaxed) {
            let request = self.request();
            let is_abandoned = self.random.below(60) == 0 && !matches!(request, Request::Compact(_));
            if !self.ask(client, epoch, request, is_abandoned) && !is_abandoned {
                return;
            }
        }
    }

    /// Ends all leases, so that nothing happens by itself any more; writes a little, so that every watch from the near future has
    /// begun; reads everything. Gives the last revision.
    pub fn close(&mut self, client: &Client, epoch: usize) -> i64 {
        self.ask(client, epoch, Request::Leases(LeaseLeasesRequest {}), false);
        let leases = match self.history.last().and_then(Operation::reply) {
            Some(Reply::Leases(reply)) => reply.leases.iter().map(|lease| lease.id).collect(),
            _ => Vec::new(),
        };
        for id in leases {
            self.ask(client, epoch, Request::Revoke(LeaseRevokeRequest { id }), false);
        }
        for round in 0..40 {
            let put = self.put_of(round % GROUPS, keys::key(round % GROUPS, 0));
            self.ask(client, epoch, Request::Put(PutRequest { lease: 0, ..put }), false);
        }
        self.ask(client, epoch, Request::Range(everything()), false);
        self.history.last().and_then(Operation::revision).expect("nobody kills the server now")
    }

    /// One request. False: it is not known what has become of it.
    fn ask(&mut self, client: &Client, epoch: usize, request: Request, is_abandoned: bool) -> bool {
        let call = self.stage.clock.now();
        let reply = if is_abandoned {
            let patience = Duration::from_micros(self.random.below(3_000));
            request.abandon(client, patience);
            None
        } else {
            request.call(client)
        };
        let end = reply.map(|reply| (self.stage.clock.now(), reply));
        let operation = Operation { client: self.id, epoch, call, request, end };
        self.learn(&operation);
        let is_answered = operation.end.is_some();
        self.history.push(operation);
        self.stage.operations.fetch_add(1, Ordering::Relaxed);
        is_answered
    }

    /// Remembers what keys hold, for compares.
    fn learn(&mut self, operation: &Operation) {
        let (Request::Range(RangeRequest { revision: 0, .. }) | Request::Txn(_)) = &operation.request else { return };
        let mut note = |kvs: &[KeyValue]| self.known.extend(kvs.iter().map(|kv| (kv.key.clone(), kv.clone())));
        match operation.reply() {
            Some(Reply::Range(range)) => note(&range.kvs),
            Some(Reply::Txn(txn)) => {
                for response in &txn.responses {
                    if let Some(Response::ResponseRange(range)) = &response.response {
                        note(&range.kvs);
                    }
                }
            }
            _ => {}
        }
    }

    fn request(&mut self) -> Request {
        let group = keys::any_group(&mut self.random);
        match self.random.below(100) {
            0..24 => Request::Put(self.put(group)),
            24..38 => Request::Range(key(self.key(group))),
            38..44 => Request::Range(prefix(keys::prefix(group))),
            44..46 => Request::Range(everything()),
            46..52 => Request::Range(RangeRequest { serializable: true, ..key(self.key(group)) }),
            52..56 => Request::Range(RangeRequest { serializable: true, ..prefix(keys::prefix(group)) }),
            56..57 => Request::Range(RangeRequest { serializable: true, ..everything() }),
            57..61 => Request::Range(self.old_range(group)),
            61..67 if !keys::is_heavy(group) => Request::DeleteRange(self.delete(group)),
            61..69 => Request::DeleteRange(DeleteRangeRequest { prev_kv: self.coin(), ..self.delete_some(group) }),
            69..86 => Request::Txn(self.txn(group)),
            86..89 => Request::Txn(self.read_txn(group)),
            89..93 => Request::Grant(grant(self.ttl(), self.new_lease(group))),
            93..96 => Request::Revoke(LeaseRevokeRequest { id: self.lease(group) }),
            96..98 => Request::TimeToLive(LeaseTimeToLiveRequest { id: self.lease(group), keys: true }),
            98..99 => Request::Leases(LeaseLeasesRequest {}),
            _ => Request::Compact(self.compaction()),
        }
    }

    fn coin(&mut self) -> bool {
        self.random.below(2) == 0
    }

    fn key(&mut self, group: usize) -> Bytes {
        keys::key(group, self.random.below(KEYS))
    }

    fn value(&mut self, length: usize) -> Bytes {
        self.next_number += 1;
        value::name(self.id, self.next_number, length)
    }

    fn put(&mut self, group: usize) -> PutRequest {
        let key = self.key(group);
        let put = self.put_of(group, key);
        if !keys::is_heavy(group) {
            return put;
        }
        let length = keys::heavy_length(&mut self.random);
        PutRequest { value: self.value(length), ..put }
    }

    fn put_of(&mut self, group: usize, key: Bytes) -> PutRequest {
        let lease = if self.random.below(5) == 0 { self.lease(group) } else { 0 };
        let length = keys::length(&mut self.random);
        PutRequest { lease, prev_kv: self.coin(), ..put(key, self.value(length)) }
    }

    fn delete(&mut self, group: usize) -> DeleteRangeRequest {
        DeleteRangeRequest { prev_kv: self.coin(), ..delete(self.key(group)) }
    }

    /// Of all keys of a group, or of some.
    fn delete_some(&mut self, group: usize) -> DeleteRangeRequest {
        let all = prefix(keys::prefix(group));
        let from = if self.coin() { all.key } else { self.key(group) };
        DeleteRangeRequest { key: from, range_end: all.range_end, ..DeleteRangeRequest::default() }
    }

    /// A range as of a revision that was not long ago.
    fn old_range(&mut self, group: usize) -> RangeRequest {
        let back = self.random.below(400) as i64;
        let revision = (self.stage.recorded.load(Ordering::Relaxed) - back).max(1);
        let request = match self.random.below(3) {
            0 => key(self.key(group)),
            1 => prefix(keys::prefix(group)),
            _ => everything(),
        };
        RangeRequest { revision, serializable: self.coin(), ..request }
    }

    fn compaction(&mut self) -> CompactionRequest {
        let back = self.random.below(300) as i64;
        let revision = (self.stage.recorded.load(Ordering::Relaxed) - back).max(1);
        CompactionRequest { revision, physical: self.random.below(4) == 0 }
    }

    /// A lease that somebody has asked for, or none that exists.
    fn lease(&mut self, group: usize) -> i64 {
        let leases = self.stage.leases.lock().unwrap();
        // Mostly one of the last, which are not revoked yet.
        let recent = leases[group].iter().rev().take(6).copied().collect::<Vec<_>>();
        drop(leases);
        match recent.len() {
            0 => (GROUPS + group) as i64,
            count => recent[self.random.below(count as u64) as usize],
        }
    }

    /// Mostly an id that was never used.
    fn new_lease(&mut self, group: usize) -> i64 {
        if self.random.below(8) == 0 {
            return self.lease(group);
        }
        self.next_number += 1;
        let number = (self.id as i64 + 1) * 1_000_000 + self.next_number as i64;
        let id = number * GROUPS as i64 + group as i64;
        self.stage.leases.lock().unwrap()[group].push(id);
        id
    }

    fn ttl(&mut self) -> i64 {
        if self.random.below(3) == 0 { SHORT_TTL_SECS } else { LONG_TTL_SECS }
    }

    /// Compares with what was read last, then writes, as optimistic clients do.
    fn txn(&mut self, group: usize) -> TxnRequest {
        let first = self.random.below(KEYS);
        let key_at = |at: u64| keys::key(group, (first + at) % KEYS);
        let compares = (0..1 + self.random.below(2)).map(|at| self.compare(key_at(at))).collect();
        let mut success = Vec::new();
        for at in 0..1 + self.random.below(3) {
            success.push(match self.random.below(6) {
                0 => DeleteRangeRequest { prev_kv: self.coin(), ..delete(key_at(at)) }.op(),
                1 => key(key_at(at)).op(),
                _ => self.put_of(group, key_at(at)).op(),
            });
        }
        if self.random.below(4) == 0 {
            success.push(prefix(keys::prefix(group)).op());
        }
        let failure = match self.random.below(5) {
            0 => Vec::new(),
            1 => vec![self.put_of(group, key_at(0)).op(), self.put_of(group, key_at(1)).op()],
            _ => vec![key(key_at(0)).op(), key(key_at(1)).op()],
        };
        txn(compares, success, failure)
    }

    fn compare(&mut self, key: Bytes) -> Compare {
        use CompareResult::{Equal, Greater, Less, NotEqual};
        let results = [Equal, Equal, Equal, NotEqual, Greater, Less];
        let any = results[self.random.below(6) as usize];
        let same = results[self.random.below(4) as usize];
        match (self.known.get(&key).cloned(), self.random.below(8)) {
            (Some(kv), 0..4) => cmp(key, same, TargetUnion::ModRevision(kv.mod_revision)),
            (Some(kv), 4) => cmp(key, any, TargetUnion::Version(kv.version)),
            // A large value in a compare would make the request too large.
            (Some(kv), 5) if keys::group_of(&key).is_some_and(|group| !keys::is_heavy(group)) => {
                cmp(key, same, TargetUnion::Value(kv.value))
            }
            (Some(kv), 6) => cmp(key, same, TargetUnion::Lease(kv.lease)),
            (None, 0..3) => cmp(key, same, TargetUnion::ModRevision(0)),
            (_, n) if n % 2 == 0 => cmp(key, same, TargetUnion::Version(0)),
            _ => cmp(key, same, TargetUnion::CreateRevision(0)),
        }
    }

    /// One that only reads, and so is no write: linearizable all the same.
    fn read_txn(&mut self, group: usize) -> TxnRequest {
        let ops: Vec<RequestOp> = vec![key(self.key(group)).op(), prefix(keys::prefix(group)).op()];
        let compares = if self.coin() { vec![self.compare(keys::key(group, 0))] } else { Vec::new() };
        txn(compares, ops, vec![key(self.key(group)).op()])
    }
}
