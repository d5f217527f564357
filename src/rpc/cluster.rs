//! `etcdserverpb.Cluster`. Replies carry no revision, as in etcd.

use super::encode;
use super::grpc::Reply;
use super::services::Api;
use super::status::{Code, Status};
use crate::error::Error;
use crate::pb::etcdserverpb::{
    Member as MemberMessage, MemberAddRequest, MemberListRequest, MemberListResponse, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, MemberUpdateResponse,
};
use crate::raft::MemberId;
use crate::server::Member;

/// `MemberList`.
pub async fn list(api: &Api, request: MemberListRequest) -> Result<Reply, Status> {
    if request.linearizable {
        api.server.read_index().await?;
    }
    let members = messages(&api.server.members());
    Ok(encode::message(&MemberListResponse { header: Some(api.server.header(0)), members }))
}

/// `MemberUpdate`. etcd takes any text for a URL here and its other members die of it later; it is refused like `MemberAdd`'s, but only
/// for a member that exists, so that clients hear of the missing member first, as from etcd.
pub async fn update(api: &Api, request: MemberUpdateRequest) -> Result<Reply, Status> {
    let id = MemberId(request.id);
    if api.server.members().iter().any(|member| member.id == id) && !are_peer_urls(&request.peer_ur_ls) {
        return Err(Error::MemberBadUrls.into());
    }
    let members = messages(&api.server.member_update(id, request.peer_ur_ls).await?);
    Ok(encode::message(&MemberUpdateResponse { header: Some(api.server.header(0)), members }))
}

/// `MemberAdd`.
pub fn add(request: &MemberAddRequest) -> Result<Reply, Status> {
    if !are_peer_urls(&request.peer_ur_ls) {
        return Err(Error::MemberBadUrls.into());
    }
    Err(single("MemberAdd"))
}

/// `MemberRemove`.
pub fn remove(api: &Api, request: &MemberRemoveRequest) -> Result<Reply, Status> {
    api.known_member(request.id)?;
    Err(single("MemberRemove"))
}

/// `MemberPromote`.
pub fn promote(api: &Api, request: &MemberPromoteRequest) -> Result<Reply, Status> {
    let member = api.known_member(request.id)?;
    if !member.learner {
        return Err(Error::MemberNotLearner.into());
    }
    Err(single("MemberPromote"))
}

fn single(method: &str) -> Status {
    Status::new(Code::Unimplemented, format!("bramble: {method} is not supported yet: this version runs as a single member"))
}

fn messages(members: &[Member]) -> Vec<MemberMessage> {
    members.iter().map(MemberMessage::from).collect()
}

/// Whether these are URLs that a member can be reached at, one at least: `http(s)://host:port` without a path, or `unix(s)://...`.
fn are_peer_urls(urls: &[String]) -> bool {
    !urls.is_empty() && urls.iter().all(|url| is_peer_url(url.trim()))
}

fn is_peer_url(url: &str) -> bool {
    if url.chars().any(|c| c.is_control() || c == ' ') {
        return false;
    }
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => is_host_and_port(rest),
        "unix" | "unixs" => !rest.is_empty(),
        _ => false,
    }
}

/// `host:port`. An address of IPv6 is in brackets; the port is a number, or empty as Go allows.
fn is_host_and_port(authority: &str) -> bool {
    let Some((host, port)) = authority.rsplit_once(':') else { return false };
    let host_is_sound = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']').is_some_and(|address| !address.is_empty()),
        None => !host.contains([':', '[', ']']),
    };
    host_is_sound && !host.contains(['/', '?', '#', '@']) && port.bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_those_that_etcd_takes() {
        for url in
            ["http://10.0.0.1:2380", "https://node-1.local:2380", "http://[::1]:2380", "unix://localhost:m1", " http://a:1 "]
        {
            assert!(are_peer_urls(&[url.to_owned()]), "{url}");
        }
        for url in
            ["", "a:1", "http://a", "http://a:1/", "http://a:1/x", "ftp://a:1", "http://::1:2380", "http://a:b", "http://a b:1"]
        {
            assert!(!are_peer_urls(&[url.to_owned()]), "{url}");
        }
        assert!(!are_peer_urls(&[]));
        assert!(!are_peer_urls(&["http://a:1".to_owned(), "http://b".to_owned()]), "one bad URL spoils the list");
    }
}
