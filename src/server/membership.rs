//! Who is in the cluster: ids as etcd computes them, and the members' attributes. Part of the replicated state.

use std::collections::BTreeMap;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::error::{Error, Fault};
use crate::pb::etcdserverpb as pb;
use crate::raft::{ConfState, MemberId};

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty until it has started.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub learner: bool,
}

/// All members, and the version they agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    members: BTreeMap<MemberId, Member>,
    cluster_version: Option<String>,
}

/// A member's id: from its peer URLs and the cluster's token (etcd: SHA-1, first eight bytes).
pub fn member_id(peer_urls: &[String], token: &str) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    MemberId(short_sha1((urls.concat() + token).as_bytes()))
}

/// A cluster's id: from its first members' ids.
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> u64 {
    let mut ids: Vec<u64> = members.into_iter().map(|id| id.0).collect();
    ids.sort_unstable();
    short_sha1(&ids.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<_>>())
}

fn short_sha1(bytes: &[u8]) -> u64 {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
    u64::from_be_bytes(hash.as_ref()[..8].try_into().expect("SHA-1 has twenty bytes"))
}

impl Membership {
    /// The membership of a checkpoint.
    pub fn of(members: impl IntoIterator<Item = Member>, cluster_version: Option<String>) -> Membership {
        Membership { members: members.into_iter().map(|m| (m.id, m)).collect(), cluster_version }
    }

    /// All members by id.
    pub fn list(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    /// One member.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The version all members can speak, once agreed.
    pub fn cluster_version(&self) -> Option<&str> {
        self.cluster_version.as_deref()
    }

    /// Sets the version.
    pub fn set_cluster_version(&mut self, version: String) {
        self.cluster_version = Some(version);
    }

    /// Adds a member.
    ///
    /// # Errors
    /// `MemberExists` or `PeerUrlExists`.
    pub fn add(&mut self, member: Member) -> Result<(), Error> {
        if self.members.contains_key(&member.id) {
            return Err(Error::MemberExists);
        }
        self.check_urls_free(member.id, &member.peer_urls)?;
        self.members.insert(member.id, member);
        Ok(())
    }

    /// Changes where a member's peers reach it.
    ///
    /// # Errors
    /// `MemberNotFound` or `PeerUrlExists`.
    pub fn update(&mut self, id: MemberId, peer_urls: Vec<String>) -> Result<(), Error> {
        if !self.members.contains_key(&id) {
            return Err(Error::MemberNotFound);
        }
        self.check_urls_free(id, &peer_urls)?;
        self.members.get_mut(&id).expect("just found").peer_urls = peer_urls;
        Ok(())
    }

    /// Says what a member has told of itself. A member that is gone is passed over.
    pub fn set_attributes(&mut self, id: MemberId, name: String, client_urls: Vec<String>) {
        if let Some(member) = self.members.get_mut(&id) {
            member.name = name;
            member.client_urls = client_urls;
        }
    }

    /// Raft's view: voters and learners.
    pub fn conf_state(&self) -> ConfState {
        let ids = |learner: bool| self.members.values().filter(|m| m.learner == learner).map(|m| m.id).collect();
        ConfState { voters: ids(false), learners: ids(true) }
    }

    /// Whether `id` is the one member, and votes. Whoever had others to ask, or was not asked itself, could never lead here.
    ///
    /// # Errors
    /// A fault that names the members.
    pub fn check_alone(&self, id: MemberId) -> Result<(), Fault> {
        if let [member] = &self.list()[..]
            && member.id == id
            && !member.learner
        {
            return Ok(());
        }
        let named = |member: &Member| if member.learner { format!("{} (learner)", member.id) } else { member.id.to_string() };
        let members = self.members.values().map(named).collect::<Vec<_>>().join(", ");
        Err(Fault::new(format!(
            "the data directory is of a cluster with the members {members}, and this is {id}: this version serves a member that is \
             alone. Use the version that wrote it"
        )))
    }

    fn check_urls_free(&self, id: MemberId, urls: &[String]) -> Result<(), Error> {
        let taken = self.members.values().filter(|m| m.id != id).flat_map(|m| &m.peer_urls).any(|url| urls.contains(url));
        if taken { Err(Error::PeerUrlExists) } else { Ok(()) }
    }
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

impl From<pb::Member> for Member {
    fn from(member: pb::Member) -> Member {
        Member {
            id: MemberId(member.id),
            name: member.name,
            peer_urls: member.peer_ur_ls,
            client_urls: member.client_ur_ls,
            learner: member.is_learner,
        }
    }
}

/// A change of the configuration, as its log entry holds it: the member to add, as the wire has members. Removal and promotion
/// come with clusters of several members.
pub fn encode_add(member: &Member) -> bytes::Bytes {
    prost::Message::encode_to_vec(&pb::Member::from(member)).into()
}

/// Reads [`encode_add`]'s bytes.
///
/// # Errors
/// A fault if they are none of ours.
pub fn decode_add(data: bytes::Bytes) -> Result<Member, Fault> {
    let member: pb::Member = prost::Message::decode(data).map_err(|e| {
        Fault::new(format!("a membership change in the log cannot be read ({e}): was it written by a newer bramble?"))
    })?;
    Ok(member.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(url: &str) -> Member {
        let peer_urls = vec![url.to_owned()];
        Member {
            id: member_id(&peer_urls, "etcd-cluster"),
            name: String::new(),
            peer_urls,
            client_urls: Vec::new(),
            learner: false,
        }
    }

    /// What etcd prints for its default configuration.
    #[test]
    fn ids_are_those_of_etcd() {
        let id = member("http://localhost:2380").id;
        assert_eq!(id.to_string(), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id([id])), "cdf818194e3a8c32");
    }

    #[test]
    fn two_members_share_no_peer_url() {
        let mut membership = Membership::default();
        membership.add(member("http://a:1")).unwrap();
        assert_eq!(membership.add(member("http://a:1")), Err(Error::MemberExists));
        membership.add(member("http://b:1")).unwrap();
        let b = member("http://b:1").id;
        assert_eq!(membership.update(b, vec!["http://a:1".into()]), Err(Error::PeerUrlExists));
        assert_eq!(membership.update(b, vec!["http://b:1".into(), "http://c:1".into()]), Ok(()));
        assert_eq!(membership.update(MemberId(1), vec![]), Err(Error::MemberNotFound));
        assert_eq!(membership.conf_state().voters.len(), 2);
        assert_eq!(decode_add(encode_add(&member("http://d:1"))).unwrap(), member("http://d:1"));
    }

    #[test]
    fn only_a_member_that_is_alone_and_votes_is_served() {
        let (a, b) = (member("http://a:1"), member("http://b:1"));
        let of = |members: &[&Member]| Membership::of(members.iter().copied().cloned(), None);
        assert!(of(&[&a]).check_alone(a.id).is_ok());
        let learner = Member { learner: true, ..a.clone() };
        for members in [of(&[]), of(&[&b]), of(&[&a, &b]), of(&[&learner])] {
            let fault = members.check_alone(a.id).unwrap_err().to_string();
            assert!(fault.contains(&a.id.to_string()), "{fault}");
        }
    }
}
