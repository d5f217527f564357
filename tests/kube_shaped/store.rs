//! One connection of kube-apiserver: the requests in the exact shapes it sends them, each answer checked against the model.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::compare::{CompareResult, TargetUnion};
use bramble::pb::etcdserverpb::response_op::Response;
use bramble::pb::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseLeasesRequest, RangeRequest, RangeResponse, RangeStreamResponse, StatusRequest,
    StatusResponse, TxnRequest, TxnResponse,
};
use bramble::pb::mvccpb::KeyValue;
use bytes::Bytes;
use prost::Message;

use super::follower::Cache;
use super::history::{Guard, Print, Span, Stored, Write};
use super::run::Run;
use crate::support::grpc::frame;
use crate::support::requests::{IntoOp, RANGE_STREAM, Revision, Unary, cmp, delete, key, put_leased, txn};
use crate::support::wait::DEADLINE;
use crate::support::{Client, Code, Status};

/// What clientv3 sends with every request.
const FIELDS: &[(&str, &str)] = &[("client-api-version", "3.7")];

/// How etcd refuses a revision that is gone.
pub const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// How etcd refuses a lease that is gone.
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";

/// A connection, made anew when it is lost.
pub struct Store<'a> {
    run: &'a Run,
    client: Mutex<Option<Client>>,
}

/// How a guarded write ended.
pub enum Written {
    /// It is done, at this revision.
    At(i64),
    /// The guard did not hold; what is there instead, if that was asked for.
    Conflict(Option<KeyValue>),
    /// It was not done: its lease has ended, which was not early.
    LeaseEnded,
    /// Nobody knows.
    Lost,
}

/// The revision was compacted meanwhile.
#[derive(Debug)]
pub struct Compacted;

/// A whole list and the revision it is of.
pub struct Listed {
    /// `header.revision` of the first answer.
    pub revision: i64,
    /// Keys, with `mod_revision` and value.
    pub cache: Cache,
}

impl<'a> Store<'a> {
    /// A connection that is made when it is needed.
    pub fn new(run: &'a Run) -> Store<'a> {
        Store { run, client: Mutex::new(None) }
    }

    /// The connection, made anew for as long as the server may be starting.
    pub fn client(&self) -> Client {
        let mut slot = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*slot {
            return client.clone();
        }
        let start = Instant::now();
        loop {
            match Client::connect(&self.run.target) {
                Ok(client) => {
                    self.run.figures.latency("connection", start.elapsed());
                    return slot.insert(client).clone();
                }
                Err(error) => self.run.expect_loss("a connection", &error),
            }
            assert!(start.elapsed() < DEADLINE, "no connection in {DEADLINE:?}");
        }
    }

    /// Lets go of the connection: the next request makes another.
    pub fn disconnect(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn ask<R: Unary>(&self, kind: &'static str, request: &R) -> Result<R::Reply, Status> {
        let client = self.client();
        let begun = Instant::now();
        let reply = client.raw(R::PATH, FIELDS, frame(false, &request.encode_to_vec()))?;
        self.run.figures.latency(kind, begun.elapsed());
        if reply.status.code != Code::Ok {
            return Err(reply.status);
        }
        assert_eq!(reply.messages.len(), 1, "{kind}: one answer");
        Ok(R::Reply::decode(reply.messages[0].clone()).expect("a decodable answer"))
    }

    /// Whether nobody knows what became of a call.
    #[track_caller]
    fn is_lost(&self, kind: &'static str, status: &Status) -> bool {
        if status.code != Code::Unavailable {
            return false;
        }
        self.disconnect();
        self.run.expect_loss(kind, status);
        true
    }

    /// A request that may be repeated until it is answered. No answer is older than what was known when it was asked for.
    fn read<R: Unary<Reply: Revision>>(&self, kind: &'static str, request: &R) -> Result<R::Reply, Status> {
        loop {
            let floor = self.run.model.floor();
            match self.ask(kind, request) {
                Ok(reply) => {
                    assert!(reply.revision() >= floor, "{kind} answers {} after {floor}", reply.revision());
                    self.run.model.saw(reply.header());
                    return Ok(reply);
                }
                Err(status) if self.is_lost(kind, &status) => {}
                Err(status) => return Err(status),
            }
        }
    }

    /// Range, checked at the revision it is of.
    fn range(&self, kind: &'static str, request: &RangeRequest) -> Result<RangeResponse, Compacted> {
        let compacted = self.run.model.compacted().done;
        match self.read(kind, request) {
            Ok(reply) => {
                assert_readable(request, compacted);
                let revision = if request.revision > 0 { request.revision } else { reply.revision() };
                self.run.model.check_range(request, &reply, revision);
                Ok(reply)
            }
            Err(status) => Err(self.compacted(request, &status)),
        }
    }

    /// The only good reason to refuse a read.
    #[track_caller]
    fn compacted(&self, request: &RangeRequest, status: &Status) -> Compacted {
        let known = self.run.model.compacted();
        let may_be = request.revision > 0 && request.revision < known.asked;
        let is = status.code == Code::OutOfRange && status.message == COMPACTED;
        assert!(is && may_be, "{request:?}: {status:?}, and compactions are {known:?}");
        self.run.figures.count("reads of compacted revisions");
        Compacted
    }

    /// Get: one key at the present.
    pub fn get(&self, name: &Bytes) -> Option<KeyValue> {
        let request = RangeRequest { limit: 1, ..key(name) };
        self.range("get", &request).expect("the present is not compacted").kvs.pop()
    }

    /// Get, at a revision of the past.
    pub fn get_at(&self, name: &Bytes, revision: i64) -> Result<Option<KeyValue>, Compacted> {
        Ok(self.range("get at a revision", &RangeRequest { limit: 1, revision, ..key(name) })?.kvs.pop())
    }

    /// The current revision, asked for at a key that is not there.
    pub fn current_revision(&self, prefix: &str) -> i64 {
        let request = RangeRequest { limit: 1, ..key(prefix.trim_end_matches('/')) };
        self.range("current revision", &request).expect("the present is not compacted").revision()
    }

    /// `GET /livez`: any answer will do.
    pub fn health(&self) {
        let _ = self.range("health", &key("/registry/health"));
    }

    /// The number of objects.
    pub fn count(&self, prefix: &str) {
        let request = RangeRequest { count_only: true, ..ranged(&Span::prefix(prefix.to_owned())) };
        let _ = self.range("count", &request);
    }

    /// A list in pages, pinned from the second one on to the revision of the first; `pause` between them. `revision`: 0 is the present.
    pub fn pages(&self, span: &Span, limit: i64, revision: i64, pause: Duration) -> Result<Listed, Compacted> {
        let kind = if limit == 0 { "list" } else { "list, a page" };
        let mut request = RangeRequest { limit, revision, ..ranged(span) };
        let mut listed = Listed { revision, cache: Cache::new() };
        loop {
            let reply = self.range(kind, &request)?;
            if listed.revision == 0 {
                listed.revision = reply.revision();
            }
            listed.cache.extend(reply.kvs.iter().map(row));
            // kube-apiserver's lists go by the count, its caches by `more`; the check has seen that they agree.
            let Some(last) = reply.kvs.last().filter(|_| reply.more) else { return Ok(listed) };
            request.key = [&last.key[..], b"\0"].concat().into();
            request.revision = listed.revision;
            self.run.loads_for(pause);
        }
    }

    /// A list in one stream, of the present (0) or of a revision.
    pub fn stream(&self, span: &Span, revision: i64) -> Result<Listed, Compacted> {
        let request = RangeRequest { revision, ..ranged(span) };
        loop {
            let (floor, compacted) = (self.run.model.floor(), self.run.model.compacted().done);
            let begun = Instant::now();
            match self.client().collect::<_, RangeStreamResponse>(RANGE_STREAM, &request) {
                Ok(chunks) => {
                    assert_readable(&request, compacted);
                    self.run.figures.latency("list, a stream", begun.elapsed());
                    let whole = joined(&request, chunks);
                    let header = whole.revision();
                    assert!(header >= floor, "a stream of {request:?} answers {header} after {floor}");
                    self.run.model.saw(whole.header());
                    let revision = if revision > 0 { revision } else { header };
                    self.run.model.check_range(&request, &whole, revision);
                    return Ok(Listed { revision, cache: whole.kvs.iter().map(row).collect() });
                }
                Err(status) if self.is_lost("list, a stream", &status) => {}
                Err(status) => return Err(self.compacted(&request, &status)),
            }
        }
    }

    /// Create: only what is not there.
    pub fn create(&self, name: &Bytes, value: &Bytes, lease: i64) -> Written {
        let absent = cmp(name, CompareResult::Equal, TargetUnion::ModRevision(0));
        let request = txn(vec![absent], vec![put_leased(name, value, lease).op()], vec![]);
        self.write("create", &request, name, Guard::Modified(0), Some((value, lease)))
    }

    /// Update: only what was last modified at `modified`; else what is there.
    pub fn update(&self, name: &Bytes, modified: i64, value: &Bytes, lease: i64) -> Written {
        let unchanged = cmp(name, CompareResult::Equal, TargetUnion::ModRevision(modified));
        let request = txn(vec![unchanged], vec![put_leased(name, value, lease).op()], vec![key(name).op()]);
        self.write("update", &request, name, Guard::Modified(modified), Some((value, lease)))
    }

    /// Delete: only what was last modified at `modified`; else what is there.
    pub fn delete(&self, name: &Bytes, modified: i64) -> Written {
        let unchanged = cmp(name, CompareResult::Equal, TargetUnion::ModRevision(modified));
        let request = txn(vec![unchanged], vec![delete(name).op()], vec![key(name).op()]);
        self.write("delete", &request, name, Guard::Modified(modified), None)
    }

    /// The compactor's lock: only if it still is of that version; else what is there.
    pub fn update_version(&self, name: &Bytes, version: i64, value: &Bytes) -> Written {
        let unchanged = cmp(name, CompareResult::Equal, TargetUnion::Version(version));
        let request = txn(vec![unchanged], vec![put_leased(name, value, 0).op()], vec![key(name).op()]);
        self.write("compaction lock", &request, name, Guard::Version(version), Some((value, 0)))
    }

    fn write(&self, kind: &'static str, request: &TxnRequest, name: &Bytes, guard: Guard, to: Option<(&Bytes, i64)>) -> Written {
        let to = to.map(|(value, lease)| Stored { print: Print::of(value), lease });
        let write = Write { key: name.clone(), guard, to, sent: Instant::now() };
        let model = &self.run.model;
        let id = model.tell(|history| Ok(history.open(write)));
        let floor = model.floor();
        match self.ask(kind, request) {
            Ok(reply) if reply.succeeded => {
                let revision = reply.revision();
                assert!(revision > floor, "{kind} at {revision} after {floor}");
                model.saw(reply.header());
                model.tell(|history| history.acknowledge(id, revision));
                assert!(matches!(&reply.responses[..], [one] if is_done(&one.response, to.is_none())), "{kind}: {reply:?}");
                Written::At(revision)
            }
            Ok(reply) => {
                assert!(reply.revision() >= floor, "{kind} refused at {} after {floor}", reply.revision());
                model.saw(reply.header());
                let write = model.tell(|history| history.refuse(id));
                Written::Conflict(self.conflict(kind, request, &write, reply))
            }
            Err(status) if self.is_lost(kind, &status) => {
                model.tell(|history| history.lose(id));
                Written::Lost
            }
            Err(status) => {
                let lease = to.map_or(0, |stored| stored.lease);
                let ended = (status.code, &status.message[..]) == (Code::NotFound, LEASE_NOT_FOUND);
                let may_have_ended = model.tell(|history| Ok(history.may_have_ended(lease)));
                assert!(ended && may_have_ended, "{kind} of {name:?} with lease {lease}: {status:?}");
                model.tell(|history| history.refuse(id));
                Written::LeaseEnded
            }
        }
    }

    /// A refused write: its guard did not hold at the revision of the answer, and the answer has what was there instead.
    fn conflict(&self, kind: &'static str, request: &TxnRequest, write: &Write, reply: TxnResponse) -> Option<KeyValue> {
        self.run.figures.count("conflicts");
        let revision = reply.revision();
        assert_eq!(reply.responses.len(), request.failure.len(), "{kind}: {reply:?}");
        self.run.model.check(revision, |history| {
            let there = history.at(&write.key, revision);
            if write.guard.holds(there) {
                Err(format!("{write:?} was refused at {revision}, where it should have been done"))
            } else {
                Ok(())
            }
        });
        let Some(Response::ResponseRange(there)) = reply.responses.into_iter().next()?.response else {
            panic!("{kind}: no range in the other branch")
        };
        self.run.model.check_range(&key(&write.key), &there, revision);
        there.kvs.into_iter().next()
    }

    /// A lease for so many seconds; the server chooses the id.
    pub fn grant(&self, ttl: i64) -> i64 {
        loop {
            let sent = Instant::now();
            match self.ask("lease grant", &LeaseGrantRequest { ttl, id: 0 }) {
                Ok(reply) => {
                    assert!(reply.ttl >= ttl && reply.id != 0 && reply.error.is_empty(), "{reply:?}");
                    let promised = sent + Duration::from_secs(reply.ttl as u64);
                    self.run.model.tell(|history| history.grant(reply.id, promised));
                    return reply.id;
                }
                Err(status) if self.is_lost("lease grant", &status) => self.run.lose_grant(),
                Err(status) => panic!("lease grant: {status:?}"),
            }
        }
    }

    /// Asks for all leases and compares them with what was granted.
    pub fn check_leases(&self) {
        let reply = self.read("leases", &LeaseLeasesRequest {}).unwrap();
        let (revision, answered) = (reply.revision(), Instant::now());
        let listed = reply.leases.iter().map(|lease| lease.id).collect();
        let unanswered = self.run.grants_lost();
        self.run.model.check(revision, |history| history.check_leases(&listed, revision, answered, unanswered));
    }

    /// Compacts; the answer of a compaction that was lost is not waited for.
    pub fn compact(&self, revision: i64) {
        self.run.model.ask_compaction(revision);
        match self.ask("compact", &CompactionRequest { revision, physical: false }) {
            Ok(_) => self.run.model.compacted_to(revision),
            Err(status) if self.is_lost("compact", &status) => {}
            // One that was lost, and asked for again by the other apiserver.
            Err(status) => assert_eq!((status.code, &status.message[..]), (Code::OutOfRange, COMPACTED), "compact {revision}"),
        }
    }

    /// Status, on a connection of its own as the metrics of the apiserver ask for it.
    pub fn status(&self) -> StatusResponse {
        self.disconnect();
        let reply = self.read("status", &StatusRequest {}).expect("a status");
        assert!(reply.db_size > 0 && reply.leader != 0 && reply.errors.is_empty() && !reply.is_learner, "{reply:?}");
        let parts: Vec<Option<u32>> = reply.version.split('.').map(|part| part.parse().ok()).collect();
        assert!(parts.len() == 3 && parts >= vec![Some(3), Some(5), Some(13)], "the version gates of the apiserver: {reply:?}");
        reply
    }
}

fn is_done(response: &Option<Response>, deletes: bool) -> bool {
    match response {
        Some(Response::ResponsePut(_)) => !deletes,
        Some(Response::ResponseDeleteRange(reply)) => deletes && reply.deleted == 1,
        _ => false,
    }
}

/// What was compacted before it was asked for cannot have been answered.
#[track_caller]
fn assert_readable(request: &RangeRequest, compacted: i64) {
    assert!(request.revision == 0 || request.revision >= compacted, "{request:?} was answered, but {compacted} was compacted");
}

/// A range of a span.
pub fn ranged(span: &Span) -> RangeRequest {
    RangeRequest { key: span.key.clone(), range_end: span.end.clone(), ..Default::default() }
}

fn row(kv: &KeyValue) -> (Bytes, (i64, Print)) {
    (kv.key.clone(), (kv.mod_revision, Print::of(&kv.value)))
}

/// The chunks of a stream as one answer. Only the last one sums up.
#[track_caller]
fn joined(request: &RangeRequest, chunks: Vec<RangeStreamResponse>) -> RangeResponse {
    let mut chunks: Vec<RangeResponse> = chunks.into_iter().map(|chunk| chunk.range_response.expect("a range")).collect();
    let mut whole = chunks.pop().unwrap_or_else(|| panic!("a stream of {request:?} without a chunk"));
    for chunk in chunks.iter_mut().rev() {
        assert!(chunk.header.is_none() && chunk.count == 0 && !chunk.more, "only the last chunk sums up: {chunk:?}");
    }
    let mut kvs: Vec<KeyValue> = chunks.into_iter().flat_map(|chunk| chunk.kvs).collect();
    kvs.append(&mut whole.kvs);
    RangeResponse { kvs, ..whole }
}
