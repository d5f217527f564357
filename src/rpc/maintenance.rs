//! `etcdserverpb.Maintenance`.

use std::time::Instant;

use super::encode;
use super::grpc::Reply;
use super::services::Api;
use super::status::{Code, Status};
use crate::config::ETCD_VERSION;
use crate::error::Error;
use crate::metrics;
use crate::mvcc::HashKv;
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::downgrade_request::DowngradeAction;
use crate::pb::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentResponse, DowngradeInfo, DowngradeRequest, DowngradeResponse,
    HashKvRequest, HashKvResponse, HashResponse, MoveLeaderRequest, MoveLeaderResponse, StatusResponse,
};

/// The version of what is stored, in etcd's sense: which fields a member must understand.
pub(super) const STORAGE_VERSION: &str = "3.7.0";

/// `Status`. Works without a leader.
pub fn status(api: &Api) -> Result<Reply, Status> {
    let status = api.server.status()?;
    Ok(encode::message(&StatusResponse {
        header: Some(api.current()),
        version: ETCD_VERSION.to_owned(),
        db_size: as_signed(status.db_bytes),
        leader: status.leader.map_or(0, |leader| leader.0),
        raft_index: status.committed.0,
        raft_term: status.term.0,
        raft_applied_index: status.applied.0,
        errors: status.errors,
        db_size_in_use: as_signed(status.db_in_use_bytes),
        is_learner: status.learner,
        storage_version: STORAGE_VERSION.to_owned(),
        db_size_quota: as_signed(status.quota_bytes),
        downgrade_info: Some(DowngradeInfo::default()),
    }))
}

fn as_signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// `Alarm`. etcd itself dies of an action it does not know. A type it does not know names no alarm that could be listed or cleared;
/// raising one is refused.
pub async fn alarm(api: &Api, request: AlarmRequest) -> Result<Reply, Status> {
    let Ok(action) = AlarmAction::try_from(request.action) else { return Err(Error::UnknownAlarmAction.into()) };
    let known_type = AlarmType::try_from(request.alarm).is_ok();
    let alarms = match action {
        AlarmAction::Activate if !known_type => return Err(Error::UnknownAlarmAction.into()),
        _ if !known_type => Vec::new(),
        _ => api.server.alarm(request).await?,
    };
    Ok(encode::message(&AlarmResponse { header: Some(api.current()), alarms }))
}

/// `Defragment`. Its reply has no header, as in etcd.
pub async fn defragment(api: &Api) -> Result<Reply, Status> {
    api.server.defragment().await?;
    Ok(encode::message(&DefragmentResponse::default()))
}

/// `Hash`: of the whole store. Members differ in what of it they have compacted away; only the same member's answers compare.
pub async fn hash(api: &Api) -> Result<Reply, Status> {
    let hashed = hash_history(api, 0, &metrics::HASH).await?;
    Ok(encode::message(&HashResponse { header: Some(api.server.header(hashed.current)), hash: hashed.hash }))
}

/// `HashKV`: of history up to a revision. Equal on all members that have compacted to the same revision.
pub async fn hash_kv(api: &Api, request: HashKvRequest) -> Result<Reply, Status> {
    let hashed = hash_history(api, request.revision, &metrics::HASH_REV).await?;
    Ok(encode::message(&HashKvResponse {
        header: Some(api.server.header(hashed.current)),
        hash: hashed.hash,
        compact_revision: hashed.compact_revision,
        hash_revision: hashed.revision,
    }))
}

/// Reads all of the store: off the executor.
async fn hash_history(api: &Api, revision: i64, took: &'static metrics::Histogram) -> Result<HashKv, Error> {
    let server = api.server.clone();
    smol::unblock(move || {
        let begun = Instant::now();
        let hashed = server.hash_kv(revision)?;
        took.observe(begun.elapsed());
        Ok(hashed)
    })
    .await
}

/// `MoveLeader`. Its reply has no header, as in etcd.
pub fn move_leader(api: &Api, request: &MoveLeaderRequest) -> Result<Reply, Status> {
    let this = api.server.header(0).member_id;
    if api.server.leader().map(|leader| leader.0) != Some(this) {
        return Err(Error::NotLeader.into());
    }
    match api.known_member(request.target_id) {
        Ok(member) if !member.learner && member.id.0 == this => Ok(encode::message(&MoveLeaderResponse::default())),
        Ok(member) if !member.learner => {
            let text = "bramble: MoveLeader is not supported yet: this version runs as a single member";
            Err(Status::new(Code::Unimplemented, text))
        }
        _ => Err(Error::BadLeaderTransferee.into()),
    }
}

/// `Downgrade`. Asking whether it would be possible is answered as etcd does, and cancelling finds nothing to cancel; there is no older
/// version of this program to go back to.
pub fn downgrade(api: &Api, request: &DowngradeRequest) -> Result<Reply, Status> {
    let action =
        DowngradeAction::try_from(request.action).map_err(|_| Status::new(Code::Unknown, "etcdserver: unknown method"))?;
    let target = match action {
        DowngradeAction::Cancel => None,
        DowngradeAction::Validate | DowngradeAction::Enable => Some(
            Minor::asked_for(&request.version)
                .ok_or_else(|| Status::new(Code::InvalidArgument, "etcdserver: wrong downgrade target version format"))?,
        ),
    };
    let cluster = api
        .server
        .cluster_version()
        .as_deref()
        .and_then(Minor::asked_for)
        .ok_or_else(|| Status::new(Code::FailedPrecondition, "etcdserver: cluster version not found during downgrade"))?;
    if target.is_some_and(|target| Some(target) != cluster.before()) {
        return Err(Status::new(Code::InvalidArgument, "etcdserver: invalid downgrade target version"));
    }
    if action == DowngradeAction::Enable {
        let text = "bramble: a downgrade is not supported: no older version of bramble reads this data";
        return Err(Status::new(Code::Unimplemented, text));
    }
    let version = format!("{}.{}", cluster.major, cluster.minor);
    Ok(encode::message(&DowngradeResponse { header: Some(api.current()), version }))
}

/// A version as far as a cluster agrees on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Minor {
    major: i64,
    minor: i64,
}

impl Minor {
    /// Reads `major.minor.patch`, with or without a pre-release and metadata, or `major.minor`.
    fn asked_for(text: &str) -> Option<Minor> {
        Minor::of_semver(text).or_else(|| Minor::of_semver(&format!("{text}.0")))
    }

    fn of_semver(text: &str) -> Option<Minor> {
        let (text, metadata) = text.split_once('+').unwrap_or((text, ""));
        let (text, prerelease) = text.split_once('-').unwrap_or((text, ""));
        if ![metadata, prerelease].into_iter().all(is_identifier) {
            return None;
        }
        let mut numbers = text.splitn(3, '.');
        let mut number = || numbers.next()?.parse::<i64>().ok();
        let (major, minor, _patch) = (number()?, number()?, number()?);
        Some(Minor { major, minor })
    }

    /// The only version that a cluster can go back to.
    fn before(self) -> Option<Minor> {
        Some(Minor { minor: self.minor.checked_sub(1)?, ..self })
    }
}

/// Nothing, or words of letters, digits and hyphens between dots.
fn is_identifier(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    text.is_empty() || text.split('.').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        let minor = Some(Minor { major: 3, minor: 6 });
        for text in ["3.6", "3.6.0", "3.6.1-rc", "3.06", "03.6", "3.6.0+build.5", "3.6.0-rc.1+x"] {
            assert_eq!(Minor::asked_for(text), minor, "{text}");
        }
        for text in ["", "3", "abc", "3.6-alpha", "3.6.", "3.6.0-rc_1", "3.6.0-a..b", "3.6.0.0", "v3.6"] {
            assert_eq!(Minor::asked_for(text), None, "{text}");
        }
    }
}
