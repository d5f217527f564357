//! The member list of one node.

use bramble::pb::etcdserverpb::{MemberListRequest, MemberUpdateRequest};

use crate::support::Server;

#[test]
fn the_only_member_lists_itself() {
    let server = Server::start();
    let client = server.client();
    for linearizable in [true, false] {
        let reply = client.call(&MemberListRequest { linearizable });
        let header = reply.header.clone().unwrap();
        assert_eq!(header.revision, 0, "answers about the cluster carry no revision");
        assert_eq!(reply.members.len(), 1);
        let member = &reply.members[0];
        assert_eq!(member.id, header.member_id);
        assert_eq!((member.name.as_str(), member.is_learner), ("m1", false));
        assert_eq!(member.client_ur_ls, [server.url()]);
        assert_eq!(member.peer_ur_ls, [format!("http://127.0.0.1:{}", server.ports().peer)]);
    }
}

#[test]
fn new_peer_urls_are_kept_over_a_crash_and_the_id_stays() {
    let mut server = Server::start();
    let client = server.client();
    let member = client.call(&MemberListRequest { linearizable: true }).members[0].clone();
    let urls = vec!["http://127.0.0.1:4".to_owned(), "http://127.0.0.1:5".to_owned()];
    let reply = client.call(&MemberUpdateRequest { id: member.id, peer_ur_ls: urls.clone() });
    assert_eq!(reply.members[0].peer_ur_ls, urls);
    server.kill();
    server.restart();
    let after = server.client().call(&MemberListRequest { linearizable: true }).members[0].clone();
    assert_eq!((after.id, after.peer_ur_ls, after.client_ur_ls), (member.id, urls, member.client_ur_ls));
}

#[test]
fn ids_come_from_the_urls_and_the_token_as_etcd_makes_them() {
    let server = Server::builder().flag("--initial-cluster-token=a-token").start();
    let header = server.client().call(&MemberListRequest { linearizable: true }).header.unwrap();
    let digest = |bytes: &[u8]| {
        let sum = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
        u64::from_be_bytes(sum.as_ref()[..8].try_into().unwrap())
    };
    let member = digest(format!("http://127.0.0.1:{}a-token", server.ports().peer).as_bytes());
    assert_eq!((header.member_id, header.cluster_id), (member, digest(&member.to_be_bytes())));
}
