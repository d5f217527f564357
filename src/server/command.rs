//! What the log holds: a client's request, or a word of the server's own, in the encoding that etcd gives its log entries. The
//! limit on a request's size is defined on that encoding.

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::error::Fault;
use crate::metrics::Op;
use crate::pb::etcdserverpb::{
    AlarmRequest, ClusterVersionSetRequest, CompactionRequest, DeleteRangeRequest, InternalRaftRequest, LeaseCheckpointRequest,
    LeaseGrantRequest, LeaseRevokeRequest, MemberAttrSetRequest, MemberUpdateRequest, PutRequest, RequestHeader, RequestOp,
    SkipRevisionsRequest, TxnRequest, request_op,
};
use crate::raft::MemberId;

/// A command for the state machine.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each is the request it holds
pub enum Command {
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compaction(CompactionRequest),
    LeaseGrant(LeaseGrantRequest),
    LeaseRevoke(LeaseRevokeRequest),
    LeaseCheckpoint(LeaseCheckpointRequest),
    Alarm(AlarmRequest),
    ClusterVersion(ClusterVersionSetRequest),
    MemberAttributes(MemberAttrSetRequest),
    /// New peer URLs of a member. Changes no vote, so it needs no change of Raft's configuration.
    MemberUpdate(MemberId, Vec<String>),
    /// So many revisions may have been given out and lost with the power: they are not given out again.
    SkipRevisions(u32),
}

// Field numbers of etcd's log entry, and above 2000 our own.
const PUT: u32 = 4;
const DELETE_RANGE: u32 = 5;
const TXN: u32 = 6;
const COMPACTION: u32 = 7;
const LEASE_GRANT: u32 = 8;
const LEASE_REVOKE: u32 = 9;
const ALARM: u32 = 10;
const LEASE_CHECKPOINT: u32 = 11;
const HEADER: u32 = 100;
const CLUSTER_VERSION: u32 = 1300;
const MEMBER_ATTRIBUTES: u32 = 1301;
const MEMBER_UPDATE: u32 = 2000;
const SKIP_REVISIONS: u32 = 2001;

impl Command {
    /// The entry's bytes. `request_id` tells proposals apart.
    pub fn encode(&self, request_id: u64) -> Bytes {
        let header = RequestHeader { id: request_id, ..RequestHeader::default() };
        match self {
            Command::Put(m) => encode(&header, PUT, m),
            Command::DeleteRange(m) => encode(&header, DELETE_RANGE, m),
            Command::Txn(m) => encode(&header, TXN, m),
            Command::Compaction(m) => encode(&header, COMPACTION, m),
            Command::LeaseGrant(m) => encode(&header, LEASE_GRANT, m),
            Command::LeaseRevoke(m) => encode(&header, LEASE_REVOKE, m),
            Command::LeaseCheckpoint(m) => encode(&header, LEASE_CHECKPOINT, m),
            Command::Alarm(m) => encode(&header, ALARM, m),
            Command::ClusterVersion(m) => encode(&header, CLUSTER_VERSION, m),
            Command::MemberAttributes(m) => encode(&header, MEMBER_ATTRIBUTES, m),
            Command::MemberUpdate(id, urls) => {
                encode(&header, MEMBER_UPDATE, &MemberUpdateRequest { id: id.0, peer_ur_ls: urls.clone() })
            }
            Command::SkipRevisions(count) => encode(&header, SKIP_REVISIONS, &SkipRevisionsRequest { count: *count }),
        }
    }

    /// Reads an entry's bytes.
    ///
    /// # Errors
    /// A fault if they are none of ours: a newer version wrote them, or the WAL's checksum let damage through.
    pub fn decode(data: Bytes) -> Result<Command, Fault> {
        let unreadable =
            |why: &str| Fault::new(format!("a log entry cannot be read ({why}): was it written by a newer bramble?"));
        let entry = InternalRaftRequest::decode(data).map_err(|e| unreadable(&e.to_string()))?;
        entry
            .put
            .map(Command::Put)
            .or_else(|| entry.txn.map(Command::Txn))
            .or_else(|| entry.delete_range.map(Command::DeleteRange))
            .or_else(|| entry.lease_grant.map(Command::LeaseGrant))
            .or_else(|| entry.lease_revoke.map(Command::LeaseRevoke))
            .or_else(|| entry.lease_checkpoint.map(Command::LeaseCheckpoint))
            .or_else(|| entry.compaction.map(Command::Compaction))
            .or_else(|| entry.alarm.map(Command::Alarm))
            .or_else(|| entry.cluster_version_set.map(Command::ClusterVersion))
            .or_else(|| entry.member_attr_set.map(Command::MemberAttributes))
            .or_else(|| entry.member_update.map(|m| Command::MemberUpdate(MemberId(m.id), m.peer_ur_ls)))
            .or_else(|| entry.skip_revisions.map(|m| Command::SkipRevisions(m.count)))
            .ok_or_else(|| unreadable("no known command in it"))
    }

    /// Whether the command can make the store larger: refused while there is no space.
    pub fn grows(&self) -> bool {
        self.growth().is_some()
    }

    /// Bytes that the command may add to the store, as etcd's quota counts them; none if it adds nothing.
    pub fn growth(&self) -> Option<u64> {
        match self {
            Command::Put(put) => Some(put_cost(put)),
            Command::Txn(txn) => txn_growth(txn),
            Command::LeaseGrant(_) => Some(LEASE_COST),
            _ => None,
        }
    }

    /// Whether the command touches keys or leases: refused while the store is known to be corrupt.
    pub fn touches_data(&self) -> bool {
        match self {
            Command::Put(_)
            | Command::DeleteRange(_)
            | Command::Txn(_)
            | Command::Compaction(_)
            | Command::LeaseGrant(_)
            | Command::LeaseRevoke(_) => true,
            Command::LeaseCheckpoint(_)
            | Command::Alarm(_)
            | Command::ClusterVersion(_)
            | Command::MemberAttributes(_)
            | Command::MemberUpdate(..)
            | Command::SkipRevisions(_) => false,
        }
    }

    /// What the metrics call it.
    pub fn op(&self) -> Op {
        match self {
            Command::Put(_) => Op::Put,
            Command::DeleteRange(_) => Op::DeleteRange,
            Command::Txn(_) => Op::Txn,
            Command::Compaction(_) => Op::Compaction,
            Command::LeaseGrant(_) => Op::LeaseGrant,
            Command::LeaseRevoke(_) => Op::LeaseRevoke,
            Command::LeaseCheckpoint(_) => Op::LeaseCheckpoint,
            Command::Alarm(_) => Op::Alarm,
            Command::ClusterVersion(_) => Op::ClusterVersionSet,
            Command::MemberAttributes(_) => Op::ClusterMemberAttrSet,
            Command::MemberUpdate(..) => Op::MemberUpdate,
            Command::SkipRevisions(_) => Op::SkipRevisions,
        }
    }
}

/// What etcd counts for a lease, and for a key beside its bytes.
pub const LEASE_COST: u64 = 64;
const KEY_COST: u64 = 256;

/// What etcd counts for a put.
pub fn put_cost(put: &PutRequest) -> u64 {
    KEY_COST + put.key.len() as u64 + put.value.len() as u64
}

/// What etcd counts for a transaction: its dearer branch; none if neither puts anything.
pub fn txn_growth(txn: &TxnRequest) -> Option<u64> {
    let branch = |ops: &[RequestOp]| {
        let growth = |op: &RequestOp| match &op.request {
            Some(request_op::Request::RequestPut(put)) => Some(put_cost(put)),
            Some(request_op::Request::RequestTxn(txn)) => txn_growth(txn),
            _ => None,
        };
        ops.iter().filter_map(growth).reduce(|a, b| a + b)
    };
    branch(&txn.success).max(branch(&txn.failure))
}

fn encode(header: &RequestHeader, field: u32, message: &impl Message) -> Bytes {
    let tag = |field: u32| u64::from(field << 3 | 2);
    let len =
        |field: u32, message_len: usize| encoded_len_varint(tag(field)) + encoded_len_varint(message_len as u64) + message_len;
    let (message_len, header_len) = (message.encoded_len(), header.encoded_len());
    let mut data = BytesMut::with_capacity(len(field, message_len) + len(HEADER, header_len));
    encode_varint(tag(field), &mut data);
    encode_varint(message_len as u64, &mut data);
    message.encode_raw(&mut data);
    encode_varint(tag(HEADER), &mut data);
    encode_varint(header_len as u64, &mut data);
    header.encode_raw(&mut data);
    data.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::{Member, MemberAttributes};

    #[test]
    fn every_command_comes_back_from_its_bytes() {
        let put = PutRequest { key: "k".into(), value: "v".into(), lease: 7, ..PutRequest::default() };
        let ops = vec![crate::pb::etcdserverpb::RequestOp { request: Some(request_op::Request::RequestPut(put.clone())) }];
        let commands = [
            Command::Put(put),
            Command::DeleteRange(DeleteRangeRequest { key: "a".into(), range_end: "b".into(), prev_kv: true }),
            Command::Txn(TxnRequest { success: ops, ..TxnRequest::default() }),
            Command::Compaction(CompactionRequest { revision: 5, physical: true }),
            Command::LeaseGrant(LeaseGrantRequest { id: -3, ttl: 10 }),
            Command::LeaseRevoke(LeaseRevokeRequest { id: 9 }),
            Command::LeaseCheckpoint(LeaseCheckpointRequest::default()),
            Command::Alarm(AlarmRequest { action: 1, member_id: 2, alarm: 1 }),
            Command::ClusterVersion(ClusterVersionSetRequest { ver: "3.7.0".into() }),
            Command::MemberAttributes(MemberAttrSetRequest {
                member_id: 1,
                member_attributes: Some(MemberAttributes::default()),
            }),
            Command::MemberUpdate(MemberId(5), vec!["http://h:2380".into()]),
            Command::SkipRevisions(1000),
        ];
        for command in commands {
            assert_eq!(Command::decode(command.encode(u64::MAX)).unwrap(), command);
        }
        assert!(Command::decode(Bytes::from_static(b"\xff")).is_err());
        assert!(Command::decode(Member::default().encode_to_vec().into()).is_err());
    }

    #[test]
    fn the_quota_counts_the_dearer_branch() {
        let put = |n: usize| crate::pb::etcdserverpb::RequestOp {
            request: Some(request_op::Request::RequestPut(PutRequest { value: vec![0; n].into(), ..PutRequest::default() })),
        };
        let txn = TxnRequest { success: vec![put(1), put(2)], failure: vec![put(1000)], ..TxnRequest::default() };
        assert_eq!(Command::Txn(txn.clone()).growth(), Some(256 + 1000));
        assert!(Command::Txn(txn).grows());
        assert!(!Command::Txn(TxnRequest::default()).grows());
    }
}
