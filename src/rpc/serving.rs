//! What the services ask of the server: [`crate::server::Handle`]'s methods under their own names. A seam, so that the services are
//! tested against a store without a log behind it.

use bytes::Bytes;

use crate::error::{Error, Fault};
use crate::mvcc::{HashKv, RangeAnswer};
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, CompactionRequest, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, PutRequest,
    PutResponse, RangeRequest, ResponseHeader, TxnRequest, TxnResponse,
};
use crate::raft::{Index, MemberId, Term};

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

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty until it has started once.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started once.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub learner: bool,
}

impl From<&Member> for pb::Member {
    fn from(member: &Member) -> pb::Member {
        pb::Member {
            id: member.id.0,
            name: member.name.clone(),
            peer_ur_ls: member.peer_urls.clone(),
            client_ur_ls: member.client_urls.clone(),
            is_learner: member.learner,
        }
    }
}

/// A running server. The methods mean, and fail for, what their namesakes of `server::Handle` do.
pub trait Serving: Clone + Send + Sync + 'static {
    /// A response header with this member's ids, the current term and `revision`.
    fn header(&self, revision: i64) -> ResponseHeader;
    /// The store's current revision, as this member has it.
    fn revision(&self) -> i64;
    /// The leader, if there is one.
    fn leader(&self) -> Option<MemberId>;
    /// Waits until a read of this member is as new as the moment of the call.
    fn read_index(&self) -> impl Future<Output = Result<(), Error>> + Send;
    /// Answers a range.
    fn range(&self, request: &RangeRequest) -> impl Future<Output = Result<RangeAnswer, Error>> + Send;
    /// Puts a key.
    fn put(&self, request: PutRequest) -> impl Future<Output = Result<PutResponse, Error>> + Send;
    /// Deletes a range.
    fn delete_range(&self, request: DeleteRangeRequest) -> impl Future<Output = Result<DeleteRangeResponse, Error>> + Send;
    /// Runs a transaction through the log.
    fn txn(&self, request: TxnRequest) -> impl Future<Output = Result<TxnResponse, Error>> + Send;
    /// Runs a transaction that only reads.
    fn read_txn(&self, request: &TxnRequest, serializable: bool) -> impl Future<Output = Result<TxnResponse, Error>> + Send;
    /// Compacts. Returns the store's revision.
    fn compact(&self, request: CompactionRequest) -> impl Future<Output = Result<i64, Error>> + Send;
    /// Makes a lease. Returns its id and time to live, and the store's revision.
    fn lease_grant(&self, request: LeaseGrantRequest) -> impl Future<Output = Result<(LeaseGrantRequest, i64), Error>> + Send;
    /// Ends a lease. Returns the store's revision.
    fn lease_revoke(&self, id: i64) -> impl Future<Output = Result<i64, Error>> + Send;
    /// Starts a lease's time again and returns its time to live.
    fn lease_renew(&self, id: i64) -> impl Future<Output = Result<i64, Error>> + Send;
    /// What remains of a lease.
    fn lease_times(&self, id: i64, with_keys: bool) -> impl Future<Output = Result<LeaseTimes, Error>> + Send;
    /// All leases, the next to expire first.
    fn leases(&self) -> Vec<i64>;
    /// Raises, clears or lists alarms.
    fn alarm(&self, request: AlarmRequest) -> impl Future<Output = Result<Vec<AlarmMember>, Error>> + Send;
    /// This member's view of itself.
    fn status(&self) -> Result<Status, Error>;
    /// Hashes history. Blocks.
    fn hash_kv(&self, revision: i64) -> Result<HashKv, Error>;
    /// Rewrites the checkpoint file without free pages.
    fn defragment(&self) -> impl Future<Output = Result<(), Error>> + Send;
    /// The members, as this one has them.
    fn members(&self) -> Vec<Member>;
    /// Changes a member's peer URLs.
    fn member_update(&self, id: MemberId, peer_urls: Vec<String>) -> impl Future<Output = Result<Vec<Member>, Error>> + Send;
    /// The cluster's version once the members have agreed on one.
    fn cluster_version(&self) -> Option<String>;
    /// Ends the process in good order.
    fn fail(&self, fault: Fault);
}
