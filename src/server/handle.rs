//! What `rpc` may ask. A [`Handle`] is cheap to clone and usable from any thread; none of its methods waits for the disk but
//! through the loop's replies.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_channel::oneshot;

use super::alarm::Alarms;
use super::command::{Command, LEASE_COST, put_cost, txn_growth};
use super::inbox::{Ask, Proposal};
use super::membership::Member;
use super::shared::Shared;
use crate::error::{Error, Fault};
use crate::lease::{LeaseId, Renewal};
use crate::metrics;
use crate::mvcc::watch::{Counters, WatchStream};
use crate::mvcc::{Answer, HashKv, RangeAnswer, Stats};
use crate::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, ClusterVersionSetRequest, CompactionRequest, DeleteRangeRequest, DeleteRangeResponse,
    LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest, MemberAttrSetRequest, MemberAttributes,
    PutRequest, PutResponse, RangeRequest, ResponseHeader, TxnRequest, TxnResponse,
};
use crate::raft::{Index, MemberId, Term};

/// The version of etcd's API that a cluster of this version speaks.
const CLUSTER_VERSION: &str = "3.7.0";

/// The server, as its clients' side sees it.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// The answer of the state machine to a command.
#[derive(Debug)]
pub enum Response {
    /// Of a put.
    Put(PutResponse),
    /// Of a delete range.
    DeleteRange(DeleteRangeResponse),
    /// Of a transaction.
    Txn(TxnResponse),
    /// Of everything that has nothing to tell but the store's revision.
    Done(i64),
    /// Of an alarm request: the alarms it names.
    Alarm(Vec<AlarmMember>),
    /// Of a change to the membership: all members.
    Members(Vec<Member>),
}

/// What is known about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// Seconds left.
    pub remaining_secs: i64,
    /// Seconds granted.
    pub granted_secs: i64,
    /// Keys attached, sorted; empty unless asked for.
    pub keys: Vec<Bytes>,
}

/// A member's view of itself.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Bytes of the checkpoint file and of what waits to get into it.
    pub db_bytes: u64,
    /// Of those, bytes that hold something.
    pub db_in_use_bytes: u64,
    /// The quota; 0 for none.
    pub quota_bytes: u64,
    /// The leader, if known.
    pub leader: Option<MemberId>,
    /// The committed index.
    pub committed: Index,
    /// The applied index.
    pub applied: Index,
    /// The Raft term.
    pub term: Term,
    /// Whether this member has no vote.
    pub learner: bool,
    /// What is wrong, in etcd's words.
    pub errors: Vec<String>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Handle {
        Handle { shared }
    }

    /// A response header with this member's ids, the current term and `revision`.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.shared.identity.cluster_id,
            member_id: self.shared.identity.member_id,
            revision,
            raft_term: self.shared.term.load(Ordering::Relaxed),
        }
    }

    /// The store's current revision, as this member has it.
    pub fn revision(&self) -> i64 {
        self.shared.store.current()
    }

    /// Waits until a read of this member is as new as the moment of the call (thesis §6.4).
    ///
    /// # Errors
    /// `NoLeader`, `LeaderChanged`, `Timeout` or `Stopped`.
    pub async fn read_index(&self) -> Result<(), Error> {
        // A voter that is alone and leads has applied everything it ever acknowledged: replies leave after the apply.
        if self.shared.reads_are_linearizable.load(Ordering::Acquire) {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.ask(Ask::ReadIndex(reply));
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    /// Answers a range; linearizable unless the request is serializable.
    ///
    /// # Errors
    /// As [`Handle::read_index`], and the range's own.
    pub async fn range(&self, request: &RangeRequest) -> Result<RangeAnswer, Error> {
        if !request.serializable {
            self.read_index().await?;
        }
        self.answer(self.shared.store.range(request))
    }

    /// Puts a key.
    ///
    /// # Errors
    /// As [`Handle::propose`], and the put's own.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        match self.propose(Command::Put(request)).await? {
            Response::Put(response) => Ok(response),
            other => unreachable!("a put was answered with {other:?}"),
        }
    }

    /// Deletes a range.
    ///
    /// # Errors
    /// As [`Handle::propose`].
    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        match self.propose(Command::DeleteRange(request)).await? {
            Response::DeleteRange(response) => Ok(response),
            other => unreachable!("a delete was answered with {other:?}"),
        }
    }

    /// Runs a transaction through the log.
    ///
    /// # Errors
    /// As [`Handle::propose`], and the operations' own.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        match self.propose(Command::Txn(request)).await? {
            Response::Txn(response) => Ok(response),
            other => unreachable!("a transaction was answered with {other:?}"),
        }
    }

    /// Runs a transaction that only reads, without the log. `serializable`: this member's state as it is.
    ///
    /// # Errors
    /// As [`Handle::read_index`], and the ranges' own.
    pub async fn read_txn(&self, request: &TxnRequest, serializable: bool) -> Result<TxnResponse, Error> {
        if !serializable {
            self.read_index().await?;
        }
        self.answer(self.shared.store.read_txn(request))
    }

    /// Compacts; with `physical` waits until no trace is left on disk. Returns the store's revision.
    ///
    /// # Errors
    /// As [`Handle::propose`], `Compacted` and `FutureRevision`.
    pub async fn compact(&self, request: CompactionRequest) -> Result<i64, Error> {
        let revision = self.done(Command::Compaction(request)).await?;
        if request.physical {
            let (reply, answer) = oneshot::channel();
            self.shared.inbox.ask(Ask::Scrubbed(request.revision, reply));
            answer.await.unwrap_or(Err(Error::Stopped))?;
        }
        Ok(revision)
    }

    /// Makes a lease; an id of 0 is replaced by a free one. Returns id and time to live, and the store's revision.
    ///
    /// # Errors
    /// As [`Handle::propose`], `LeaseExists` and `LeaseTtlTooLarge`.
    pub async fn lease_grant(&self, request: LeaseGrantRequest) -> Result<(LeaseGrantRequest, i64), Error> {
        let mut request = request;
        self.shared.admit(Some(LEASE_COST))?;
        // The log would refuse it for these, in this order, before it looks at the time to live.
        let alarms = self.alarms();
        for (kind, refusal) in [(AlarmType::Corrupt, Error::Corrupt), (AlarmType::Nospace, Error::NoSpace)] {
            if alarms.iter().any(|alarm| alarm.alarm == kind as i32) {
                return Err(refusal);
            }
        }
        {
            let lessor = self.shared.lessor();
            request.ttl = lessor.effective_ttl_secs(request.ttl)?;
            if request.id == 0 {
                let mut ids = std::iter::repeat_with(|| (self.shared.host.random.next_u64() >> 1).cast_signed());
                let free = ids.find(|id| *id != 0 && !lessor.contains(LeaseId(*id)));
                request.id = free.expect("random numbers do not end");
            }
        }
        let revision = self.done(Command::LeaseGrant(request)).await?;
        Ok((request, revision))
    }

    /// Ends a lease and deletes its keys. Returns the store's revision.
    ///
    /// # Errors
    /// As [`Handle::propose`] and `LeaseNotFound`.
    pub async fn lease_revoke(&self, id: i64) -> Result<i64, Error> {
        self.done(Command::LeaseRevoke(LeaseRevokeRequest { id })).await
    }

    /// Starts a lease's time again and returns its time to live.
    ///
    /// # Errors
    /// `LeaseNotFound`, `NotLeader`, or as [`Handle::propose`].
    pub async fn lease_renew(&self, id: i64) -> Result<i64, Error> {
        loop {
            let renewal = self.shared.lessor().renew(LeaseId(id), self.shared.host.clock.now())?;
            match renewal {
                Renewal::Renewed { ttl_secs } => {
                    metrics::LEASES_RENEWED.inc();
                    return Ok(ttl_secs);
                }
                Renewal::ResetFirst => {
                    let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl: 0 }];
                    self.done(Command::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints })).await?;
                }
            }
        }
    }

    /// What remains of a lease.
    ///
    /// # Errors
    /// `LeaseNotFound`, `NotLeader`, or as [`Handle::read_index`].
    pub async fn lease_times(&self, id: i64, with_keys: bool) -> Result<LeaseTimes, Error> {
        self.read_index().await?;
        let lessor = self.shared.lessor();
        let times = lessor.time_to_live(LeaseId(id), self.shared.host.clock.now())?;
        let keys = if with_keys { lessor.keys(LeaseId(id)).cloned().collect() } else { Vec::new() };
        Ok(LeaseTimes { remaining_secs: times.remaining_secs, granted_secs: times.granted_secs, keys })
    }

    /// All leases of this member's state, the next to expire first.
    pub fn leases(&self) -> Vec<i64> {
        self.shared.lessor().leases().into_iter().map(|id| id.0).collect()
    }

    /// Raises, clears or lists alarms.
    ///
    /// # Errors
    /// As [`Handle::propose`] and `UnknownAlarmAction`.
    pub async fn alarm(&self, request: AlarmRequest) -> Result<Vec<AlarmMember>, Error> {
        match self.propose(Command::Alarm(request)).await? {
            Response::Alarm(alarms) => Ok(alarms),
            other => unreachable!("an alarm request was answered with {other:?}"),
        }
    }

    /// The alarms that are active, as this member has them.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.shared.alarms.lock().expect("the loop panicked").list()
    }

    /// This member's view of itself.
    ///
    /// # Errors
    /// `Stopped` if the store is broken: the process is ending.
    pub fn status(&self) -> Result<Status, Error> {
        let size = self.answer_fault(self.shared.store.size())?;
        let leader = self.shared.leader();
        let mut errors = Vec::new();
        if leader.is_none() {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(self.alarms().iter().map(Alarms::describe));
        Ok(Status {
            db_bytes: size.file,
            db_in_use_bytes: size.in_use,
            quota_bytes: self.shared.quota_bytes.unwrap_or(0),
            leader,
            committed: Index(self.shared.committed.load(Ordering::Relaxed)),
            applied: Index(self.shared.applied.load(Ordering::Relaxed)),
            term: Term(self.shared.term.load(Ordering::Relaxed)),
            learner: false,
            errors,
        })
    }

    /// Hashes history up to a revision (0: the current one). Takes its time, but nobody waits for it; call it off the executor.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision`.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        self.answer(self.shared.store.hash_kv(revision))
    }

    /// Writes everything applied so far into the checkpoint and rewrites its file without free pages.
    ///
    /// # Errors
    /// `NoSpace` if there is no room for the copy, `Stopped`.
    pub async fn defragment(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.ask(Ask::Defragment(reply));
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    /// The members, as this one has them.
    pub fn members(&self) -> Vec<Member> {
        self.shared.members.lock().expect("the loop panicked").list()
    }

    /// Changes a member's peer URLs.
    ///
    /// # Errors
    /// As [`Handle::propose`], `MemberNotFound`, `PeerUrlExists`.
    pub async fn member_update(&self, id: MemberId, peer_urls: Vec<String>) -> Result<Vec<Member>, Error> {
        match self.propose(Command::MemberUpdate(id, peer_urls)).await? {
            Response::Members(members) => Ok(members),
            other => unreachable!("a membership change was answered with {other:?}"),
        }
    }

    /// The cluster's version once the members have agreed on one.
    pub fn cluster_version(&self) -> Option<String> {
        self.shared.members.lock().expect("the loop panicked").cluster_version().map(str::to_owned)
    }

    /// The leader, if there is one.
    pub fn leader(&self) -> Option<MemberId> {
        self.shared.leader()
    }

    /// Resolves when this member has been without a leader for three election timeouts, at once if it is already. A member that
    /// is its cluster's only voter has one from the first request on to the end.
    pub async fn leader_lost(&self) {
        let waiter = self.shared.leader_loss.waiter();
        // Nothing is ever sent: the channel's end is the message.
        let _ = waiter.recv().await;
    }

    /// Refuses a put that this member has no room for, and raises the NOSPACE alarm if that is because of the quota. etcd does so
    /// before it looks whether the request is well formed.
    ///
    /// # Errors
    /// `NoSpace`, or `TooManyRequests` if the disk cannot follow.
    pub fn admit_put(&self, request: &PutRequest) -> Result<(), Error> {
        self.shared.admit(Some(put_cost(request)))
    }

    /// [`Handle::admit_put`] for a transaction. One that puts nothing is always let in.
    ///
    /// # Errors
    /// As [`Handle::admit_put`].
    pub fn admit_txn(&self, request: &TxnRequest) -> Result<(), Error> {
        self.shared.admit(txn_growth(request))
    }

    /// Resolves when the server begins to stop.
    pub async fn stopping(&self) {
        // Nothing is ever sent: the channel's end is the message.
        let _ = self.shared.stopping.recv().await;
    }

    /// Figures of the store, for the metrics.
    pub fn store_stats(&self) -> Stats {
        self.shared.store.stats()
    }

    /// Figures of the watches, for the metrics.
    pub fn watch_counters(&self) -> &Counters {
        self.shared.hub.counters()
    }

    /// Opens a stream of watches.
    pub fn open_watch_stream(&self) -> WatchStream {
        self.shared.hub.open_stream()
    }

    /// Ends the process in good order: something that must not break is broken.
    pub fn fail(&self, fault: Fault) {
        self.shared.inbox.ask(Ask::Fail(fault));
    }

    /// Tells the cluster this member's name and client URLs, and a new cluster its version, if they are not known already.
    pub(super) async fn publish(&self, name: &str, client_urls: &[String]) -> Result<(), Error> {
        let id = self.shared.identity.member_id;
        let (known, versioned) = {
            let members = self.shared.members.lock().expect("the loop panicked");
            let known = members.get(MemberId(id)).is_some_and(|m| m.name == name && m.client_urls == client_urls);
            (known, members.cluster_version() == Some(CLUSTER_VERSION))
        };
        if !known {
            let attributes = MemberAttributes { name: name.to_owned(), client_urls: client_urls.to_vec() };
            let request = MemberAttrSetRequest { member_id: id, member_attributes: Some(attributes) };
            self.done(Command::MemberAttributes(request)).await?;
        }
        if !versioned {
            self.done(Command::ClusterVersion(ClusterVersionSetRequest { ver: CLUSTER_VERSION.to_owned() })).await?;
        }
        Ok(())
    }

    /// Takes a command through the log and returns what applying it gave.
    ///
    /// # Errors
    /// `RequestTooLarge`, `TooManyRequests`, `NoSpace`, `NoLeader`, `Timeout` (the outcome is unknown then), `Stopped`.
    async fn propose(&self, command: Command) -> Result<Response, Error> {
        self.shared.admit(command.growth())?;
        let data = command.encode(self.shared.next_request_id());
        if data.len() > self.shared.max_request_bytes {
            return Err(Error::RequestTooLarge);
        }
        let _pending = metrics::PROPOSALS_PENDING.hold();
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.propose(Proposal { command, data, reply: Some(reply) })?;
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    /// Has the log hold that a lease has only so long to live, as the loop does from time to time: its next renewal goes through the log.
    #[cfg(test)]
    pub async fn note_remaining(&self, id: i64, remaining_ttl: i64) -> Result<i64, Error> {
        let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl }];
        self.done(Command::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints })).await
    }

    async fn done(&self, command: Command) -> Result<i64, Error> {
        match self.propose(command).await? {
            Response::Done(revision) => Ok(revision),
            other => unreachable!("a command was answered with {other:?}"),
        }
    }

    fn answer<T>(&self, answer: Answer<T>) -> Result<T, Error> {
        self.answer_fault(answer)?
    }

    fn answer_fault<T>(&self, result: Result<T, Fault>) -> Result<T, Error> {
        result.map_err(|fault| {
            self.fail(fault);
            Error::Stopped
        })
    }
}
