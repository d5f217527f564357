//! The load: several clients at once that write, lease, compact, defragment, raise alarms, read and watch, until the server is gone.
//!
//! The seed replays what they ask for; how their requests interleave, and where a kill falls among them, is chance.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use bramble::pb::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, DeleteRangeRequest, HashKvRequest, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseRevokeRequest, PutRequest, RequestOp, StatusRequest, WatchCreateRequest, WatchRequest,
    WatchResponse, alarm_request, compare, response_op, watch_request,
};
use bytes::Bytes;

use super::ledger::{Acknowledged, Hash, LONG_TTL, LeaseNews, Log, Open, Read, Write};
use super::rows::{Effect, Row, Value};
use super::verify::gather;
use crate::support::grpc::Stream;
use crate::support::random::Random;
use crate::support::requests::{IntoOp, KEEP_ALIVE, Revision, WATCH, bytes, cmp, everything, grant, key, txn};
use crate::support::{Client, Code, Status};

const SHELVES: u64 = 8;
const BOOKS: u64 = 8;
/// Leases that live at a time.
const LEASES: usize = 12;
/// Reads kept for the verification, of each life.
const READS: usize = 300;

/// What kind of load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Clients that write.
    pub writers: usize,
    /// The longest value in bytes; etcd takes a little less than 1.5 MiB in a request.
    pub longest_value: usize,
}

/// What the clients of one life share.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests that wrote and were acknowledged.
    pub acknowledged: AtomicU64,
    /// Everything up to this revision has been watched.
    watched: AtomicI64,
    /// Leases to attach to, with the seconds they were granted.
    leases: Mutex<Vec<(i64, i64)>>,
}

impl Progress {
    /// Of a life that begins at a revision, with these leases.
    pub fn new(revision: i64, leases: Vec<(i64, i64)>) -> Progress {
        Progress { watched: AtomicI64::new(revision), leases: Mutex::new(leases), ..Progress::default() }
    }

    fn lease(&self, random: &mut Random) -> Option<(i64, i64)> {
        let leases = self.leases.lock().unwrap();
        leases.get(random.below(leases.len().max(1) as u64) as usize).copied()
    }

    fn forget(&self, id: i64) {
        self.leases.lock().unwrap().retain(|(lease, _)| *lease != id);
    }
}

/// How a request ended that was not acknowledged.
enum Ended {
    /// Refused: it has done nothing and never will.
    Refused(Status),
    /// Nobody knows. A server that is only slow is asked for more.
    Open { gone: bool },
}

impl Ended {
    fn of(status: Status) -> Ended {
        let refusals = [
            "etcdserver: mvcc: database space exceeded",
            "etcdserver: requested lease not found",
            "etcdserver: mvcc: required revision has been compacted",
            "etcdserver: too many requests",
        ];
        let known = refusals.contains(&status.message.as_str());
        assert!(known || unknown_outcome(&status), "an answer that has no place here: {status:?}");
        if known { Ended::Refused(status) } else { Ended::Open { gone: is_gone(&status) } }
    }
}

/// Whether the connection has ended, and the server with it.
fn is_gone(status: &Status) -> bool {
    status.message.starts_with("transport: ")
}

fn unknown_outcome(status: &Status) -> bool {
    matches!(status.code, Code::Unavailable | Code::Unknown | Code::Canceled | Code::DeadlineExceeded)
}

/// A client that writes.
pub struct Writer<'a> {
    client: Client,
    random: Random,
    load: Load,
    progress: &'a Progress,
    renewals: Option<Stream<LeaseKeepAliveRequest, LeaseKeepAliveResponse>>,
    /// A key of ours and its revision, for comparisons.
    last: Option<(String, i64)>,
    log: Log,
}

impl<'a> Writer<'a> {
    /// A client that has not written yet.
    pub fn new(client: Client, random: Random, load: Load, progress: &'a Progress) -> Writer<'a> {
        Writer { client, random, load, progress, renewals: None, last: None, log: Log::default() }
    }

    /// Writes until the server is gone, and tells what came of it.
    pub fn run(mut self) -> Log {
        loop {
            let goes_on = match self.random.below(20) {
                0 => self.grant(),
                1 => self.revoke(),
                2 => self.renew(),
                3 => {
                    let delete = self.delete_one();
                    self.write(vec![delete])
                }
                4 => {
                    let delete = self.delete_range(None);
                    self.write(vec![delete])
                }
                5..8 => self.transaction(),
                _ => {
                    let put = self.put(None);
                    self.write(vec![put])
                }
            };
            if !goes_on {
                return self.log;
            }
        }
    }

    fn book(&mut self) -> (u64, u64) {
        (self.random.below(SHELVES), self.random.below(BOOKS))
    }

    fn value(&mut self) -> Value {
        let longest = self.load.longest_value as u64;
        let up_to = match self.random.below(100) {
            0..60 => 600,
            60..85 => 8_000,
            85..98 => 100_000,
            _ => longest,
        };
        let stamp = self.random.next();
        // Some exactly as long as may be.
        let bytes = if up_to == longest && self.random.below(4) == 0 { longest } else { self.random.below(up_to.min(longest)) };
        Value::new(stamp, bytes as usize)
    }

    /// A put of this key, or of any.
    fn put(&mut self, key: Option<(u64, u64)>) -> Effect {
        let (shelf, book) = key.unwrap_or_else(|| self.book());
        let leased = self.random.below(5) == 0;
        let lease = leased.then(|| self.progress.lease(&mut self.random)).flatten().map_or(0, |(id, _)| id);
        Effect::Put { key: format!("k{shelf}/{book}"), value: self.value(), lease }
    }

    fn delete_one(&mut self) -> Effect {
        let (shelf, book) = self.book();
        Effect::Delete { from: format!("k{shelf}/{book}"), to: None }
    }

    fn delete_range(&mut self, shelf: Option<u64>) -> Effect {
        let (any, from) = self.book();
        let shelf = shelf.unwrap_or(any);
        let to = from + 1 + self.random.below(3);
        Effect::Delete { from: format!("k{shelf}/{from}"), to: Some(format!("k{shelf}/{to}")) }
    }

    /// Several puts, and perhaps a deletion, at once. etcd refuses to touch a key twice.
    fn effects(&mut self) -> Vec<Effect> {
        let (shelf, first) = self.book();
        let count = 2 + self.random.below(3);
        let mut effects: Vec<Effect> = (0..count).map(|n| self.put(Some((shelf, (first + n) % BOOKS)))).collect();
        if self.random.below(2) == 0 {
            effects.push(self.delete_range(Some((shelf + 1) % SHELVES)));
        }
        // A transaction is a request too, and has its limit.
        let mut left = self.load.longest_value;
        for effect in &mut effects {
            if let Effect::Put { value, .. } = effect {
                let bytes = value.bytes().len().min(left);
                left -= bytes;
                *value = Value::new(self.random.next(), bytes);
            }
        }
        effects
    }

    fn transaction(&mut self) -> bool {
        let guard = match self.random.below(4) {
            0 => self.last.clone(),
            1 => {
                let (shelf, book) = self.book();
                Some((format!("k{shelf}/{book}"), 0))
            }
            _ => None,
        };
        let success = self.effects();
        let failure = if guard.is_some() { vec![self.delete_one()] } else { Vec::new() };
        self.ask(Write { guard, success, failure })
    }

    fn write(&mut self, success: Vec<Effect>) -> bool {
        self.ask(Write { guard: None, success, failure: Vec::new() })
    }

    /// False if the server is gone.
    fn ask(&mut self, write: Write) -> bool {
        match send(&self.client, &write) {
            Ok((revision, succeeded, deleted)) => {
                self.log.revision = self.log.revision.max(revision);
                let done = Acknowledged { write, revision, succeeded, deleted };
                if let Some(Effect::Put { key, .. }) = done.effects().first() {
                    self.last = Some((key.clone(), revision));
                }
                self.log.acknowledged.push(done);
                self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(status) => match Ended::of(status) {
                Ended::Refused(status) => {
                    if status.code == Code::NotFound {
                        self.lease_not_found(&write);
                    }
                    true
                }
                Ended::Open { gone } => {
                    self.log.open.push(Open::Write(write, self.log.revision));
                    !gone
                }
            },
        }
    }

    /// Of a request that names one lease, it is known which was not found.
    fn lease_not_found(&mut self, write: &Write) {
        let leases: Vec<i64> = write
            .success
            .iter()
            .filter_map(|effect| match effect {
                Effect::Put { lease, .. } if *lease != 0 => Some(*lease),
                _ => None,
            })
            .collect();
        if let [id] = leases[..] {
            self.progress.forget(id);
            self.log.leases.push(LeaseNews::Gone { id });
        }
    }

    fn grant(&mut self) -> bool {
        if self.progress.leases.lock().unwrap().len() >= LEASES {
            return true;
        }
        let id = (self.random.next() >> 1) as i64;
        let ttl = if self.random.below(2) == 0 { LONG_TTL } else { 2 + self.random.below(3) as i64 };
        let asked = Instant::now();
        match self.client.try_call(&grant(ttl, id)) {
            Ok(reply) => {
                assert_eq!((reply.id, reply.ttl), (id, ttl), "the lease that was granted");
                self.log.leases.push(LeaseNews::Alive { id, ttl, asked });
                self.progress.leases.lock().unwrap().push((id, ttl));
                true
            }
            Err(status) => match Ended::of(status) {
                Ended::Refused(_) => true,
                Ended::Open { gone } => {
                    self.log.open.push(Open::Grant(id, ttl));
                    !gone
                }
            },
        }
    }

    fn revoke(&mut self) -> bool {
        let Some((id, _)) = self.progress.lease(&mut self.random) else { return true };
        self.progress.forget(id);
        match self.client.try_call(&LeaseRevokeRequest { id }) {
            Ok(_) => self.log.leases.push(LeaseNews::Gone { id }),
            Err(status) => match Ended::of(status) {
                Ended::Refused(_) => self.log.leases.push(LeaseNews::Gone { id }),
                Ended::Open { gone } => {
                    self.log.open.push(Open::Revoke(id));
                    return !gone;
                }
            },
        }
        true
    }

    fn renew(&mut self) -> bool {
        let Some((id, ttl)) = self.progress.lease(&mut self.random) else { return true };
        if self.renewals.is_none() {
            self.renewals = self.client.try_open(KEEP_ALIVE, &[]).ok();
        }
        let Some(stream) = &mut self.renewals else { return false };
        let asked = Instant::now();
        if stream.try_send(&LeaseKeepAliveRequest { id }).is_err() {
            return false;
        }
        match stream.try_recv() {
            Ok(reply) if reply.ttl == 0 => {
                self.progress.forget(id);
                self.log.leases.push(LeaseNews::Gone { id });
            }
            Ok(reply) => {
                assert_eq!((reply.id, reply.ttl), (id, ttl), "the lease that was renewed");
                self.log.leases.push(LeaseNews::Alive { id, ttl, asked });
            }
            Err(status) => {
                self.renewals = None;
                return !is_gone(&status);
            }
        }
        true
    }
}

/// Sends it in the shortest form that says it. Its revision, the branch taken, and how many keys each deletion found.
fn send(client: &Client, write: &Write) -> Result<(i64, bool, Vec<i64>), Status> {
    if let (None, [one]) = (&write.guard, &write.success[..]) {
        return match one {
            Effect::Put { .. } => client.try_call(&put_request(one)).map(|reply| (reply.revision(), true, Vec::new())),
            Effect::Delete { from, to } => {
                let request = delete_request(from, to.as_deref());
                client.try_call(&request).map(|reply| (reply.revision(), true, vec![reply.deleted]))
            }
        };
    }
    let guard = write
        .guard
        .iter()
        .map(|(key, modified)| cmp(key, compare::CompareResult::Equal, compare::TargetUnion::ModRevision(*modified)));
    let ops = |effects: &[Effect]| -> Vec<RequestOp> {
        let op = |effect: &Effect| match effect {
            Effect::Put { .. } => put_request(effect).op(),
            Effect::Delete { from, to } => delete_request(from, to.as_deref()).op(),
        };
        effects.iter().map(op).collect()
    };
    let reply = client.try_call(&txn(guard.collect(), ops(&write.success), ops(&write.failure)))?;
    let deleted = reply.responses.iter().filter_map(|response| match &response.response {
        Some(response_op::Response::ResponseDeleteRange(reply)) => Some(reply.deleted),
        _ => None,
    });
    Ok((reply.revision(), reply.succeeded, deleted.collect()))
}

fn put_request(effect: &Effect) -> PutRequest {
    let Effect::Put { key, value, lease } = effect else { unreachable!("the caller has looked") };
    PutRequest { key: bytes(key), value: Bytes::from(value.bytes()), lease: *lease, ..Default::default() }
}

fn delete_request(from: &str, to: Option<&str>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(from), range_end: to.map_or_else(Bytes::new, bytes), ..Default::default() }
}

/// Watches everything from `from` on until the server is gone.
pub fn watch(client: &Client, from: i64, progress: &Progress) -> Log {
    let mut log = Log::default();
    let mut history = BTreeMap::new();
    let all = everything();
    let create = WatchCreateRequest { key: all.key, range_end: all.range_end, start_revision: from, ..Default::default() };
    let create = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let Ok(mut stream) = client.try_open::<WatchRequest, WatchResponse>(WATCH, &[]) else { return log };
    if stream.try_send(&create).is_err() {
        return log;
    }
    while let Ok(reply) = stream.try_recv() {
        assert!(!reply.canceled, "{reply:?}");
        gather(&reply.events, &mut history);
        if let Some((last, _)) = history.last_key_value() {
            progress.watched.store(*last, Ordering::Relaxed);
            log.revision = *last;
        }
    }
    log.watched = history;
    log
}

/// Reads keys until the server is gone.
pub fn read(client: &Client, random: &mut Random) -> Log {
    let mut log = Log::default();
    for count in 1.. {
        let name = format!("k{}/{}", random.below(SHELVES), random.below(BOOKS));
        let reply = match client.try_call(&key(&name)) {
            Ok(reply) => reply,
            Err(status) if is_gone(&status) => return log,
            Err(_) => continue,
        };
        assert!(reply.revision() >= log.revision, "the revision went back from {} to {}", log.revision, reply.revision());
        log.revision = reply.revision();
        let read = Read { revision: log.revision, row: reply.kvs.first().map(Row::read), key: name };
        if log.reads.len() < READS {
            log.reads.push(read);
        } else {
            // As likely to stay as every other.
            let at = random.below(count) as usize;
            if let Some(place) = log.reads.get_mut(at) {
                *place = read;
            }
        }
    }
    log
}

/// Compacts, defragments, raises and lifts the alarm, and asks for hashes and the status, until the server is gone.
pub fn maintain(client: &Client, random: &mut Random, compacted: i64, progress: &Progress) -> Log {
    let mut log = Log { compacted, ..Log::default() };
    loop {
        let goes_on = match random.below(16) {
            0..2 => compact(client, random, progress, &mut log),
            2 => defragment(client, &mut log),
            3 => alarm(client, true, &mut log) && alarm(client, false, &mut log),
            4..8 => hash(client, &mut log),
            _ => status(client, &mut log),
        };
        if !goes_on {
            return log;
        }
    }
}

/// Compacts at some revision that has been watched, so that all that is compacted is known. False if the server is gone.
pub fn compact(client: &Client, random: &mut Random, progress: &Progress, log: &mut Log) -> bool {
    let watched = progress.watched.load(Ordering::Relaxed);
    let revision = watched - random.below(40) as i64;
    if revision <= log.compacted.max(1) {
        return true;
    }
    match client.try_call(&CompactionRequest { revision, physical: random.below(2) == 0 }) {
        Ok(_) => log.compacted = revision,
        Err(status) => match Ended::of(status) {
            Ended::Refused(_) => {}
            Ended::Open { gone } => {
                log.open.push(Open::Compaction(revision));
                return !gone;
            }
        },
    }
    true
}

/// False if the server is gone.
pub fn defragment(client: &Client, log: &mut Log) -> bool {
    let Err(status) = client.try_call(&DefragmentRequest {}) else { return true };
    log.open.push(Open::Defragmentation);
    !is_gone(&status)
}

fn alarm(client: &Client, raise: bool, log: &mut Log) -> bool {
    let action = if raise { alarm_request::AlarmAction::Activate } else { alarm_request::AlarmAction::Deactivate };
    let request = AlarmRequest { action: action as i32, alarm: AlarmType::Nospace as i32, ..Default::default() };
    match client.try_call(&request) {
        Ok(_) => log.alarm = Some(raise),
        Err(status) => {
            log.open.push(Open::Alarm);
            return !is_gone(&status);
        }
    }
    true
}

fn hash(client: &Client, log: &mut Log) -> bool {
    match client.try_call(&HashKvRequest { revision: 0 }) {
        Ok(reply) => {
            log.hashes.push(Hash { revision: reply.hash_revision, compacted: reply.compact_revision, hash: reply.hash });
            true
        }
        Err(status) => !is_gone(&status),
    }
}

fn status(client: &Client, log: &mut Log) -> bool {
    let reply = match client.try_call(&StatusRequest {}) {
        Ok(reply) => reply,
        Err(status) => return !is_gone(&status),
    };
    log.revision = log.revision.max(reply.revision());
    log.term = log.term.max(reply.raft_term);
    log.index = log.index.max(reply.raft_index);
    true
}
