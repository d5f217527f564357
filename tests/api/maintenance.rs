//! Status, alarms, quota, defragmentation, hashes.

use bramble::pb::etcdserverpb::alarm_request::AlarmAction;
use bramble::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DefragmentRequest, HashKvRequest, HashRequest, LeaseRevokeRequest, StatusRequest,
};

use crate::support::requests::{IntoOp, Revision, compact, delete, everything, grant, key, put, then, txn};
use crate::support::{Client, Code, Server, Status};

fn alarm(action: AlarmAction, member_id: u64, alarm: AlarmType) -> AlarmRequest {
    AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 }
}

fn alarms(client: &Client) -> Vec<AlarmMember> {
    client.call(&alarm(AlarmAction::Get, 0, AlarmType::None)).alarms
}

fn member_id(client: &Client) -> u64 {
    client.call(&everything()).header.unwrap().member_id
}

#[test]
fn status_tells_all() {
    let server = Server::builder().flag("--quota-backend-bytes=1073741824").start();
    let client = server.client();
    client.call(&put("a", "1"));
    let status = client.call(&StatusRequest {});
    let header = status.header.unwrap();
    let version: Vec<u32> = status.version.split('.').map(|part| part.parse().expect("a plain number")).collect();
    assert_eq!((version.len(), version[0], version[1]), (3, 3, 7), "{}", status.version);
    assert_eq!(status.leader, header.member_id);
    assert_eq!(header.revision, 2);
    assert_eq!(status.raft_term, header.raft_term);
    assert!(status.raft_term > 0 && status.raft_index > 0);
    assert!(status.raft_applied_index > 0 && status.raft_applied_index <= status.raft_index);
    assert!(status.db_size > 0 && status.db_size_in_use > 0 && status.db_size_in_use <= status.db_size, "{status:?}");
    assert_eq!(status.db_size_quota, 1_073_741_824);
    assert_eq!(status.storage_version, "3.7.0");
    assert!(!status.is_learner && status.errors.is_empty());
    let downgrade = status.downgrade_info.unwrap();
    assert!(!downgrade.enabled && downgrade.target_version.is_empty());
    assert_eq!(Server::start().client().call(&StatusRequest {}).db_size_quota, 2_147_483_648, "the default quota");
}

#[test]
fn alarms_are_raised_listed_and_dropped() {
    let mut server = Server::start();
    let client = server.client();
    let id = member_id(&client);
    assert_eq!(alarms(&client), []);
    let raised = client.call(&alarm(AlarmAction::Activate, id, AlarmType::Nospace)).alarms;
    let nospace = AlarmMember { member_id: id, alarm: AlarmType::Nospace as i32 };
    assert_eq!(raised, [nospace]);
    assert_eq!(alarms(&client), [nospace]);
    assert_eq!(client.call(&alarm(AlarmAction::Get, 0, AlarmType::Corrupt)).alarms, [], "of that kind only");
    let status = client.call(&StatusRequest {});
    // Go's text form of a message has spaces that vary from build to build.
    let errors: Vec<String> = status.errors.iter().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(errors, [format!("memberID:{id} alarm:NOSPACE")]);
    server.kill();
    server.restart();
    let client = server.client();
    assert_eq!(alarms(&client), [nospace], "an alarm survives");
    assert_eq!(client.call(&alarm(AlarmAction::Deactivate, id, AlarmType::Nospace)).alarms, [nospace]);
    assert_eq!(alarms(&client), []);
    assert_eq!(client.call(&alarm(AlarmAction::Deactivate, id, AlarmType::Nospace)).alarms, [], "twice is once");
}

#[test]
fn without_space_only_what_makes_room_is_let_through() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    client.call(&put("a", "1"));
    client.call(&put("b", "1"));
    let id = member_id(&client);
    client.call(&alarm(AlarmAction::Activate, id, AlarmType::Nospace));
    let full = Status::new(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
    assert_eq!(client.fail(&put("a", "2")), full);
    assert_eq!(client.fail(&grant(600, 8)), full);
    assert_eq!(client.fail(&then(vec![put("a", "2").op()])), full);
    assert_eq!(client.fail(&txn(vec![], vec![key("a").op()], vec![put("a", "2").op()])), full, "a put in any branch");
    client.call(&then(vec![key("a").op(), delete("b").op()]));
    client.call(&delete("a"));
    client.call(&compact(3));
    client.call(&LeaseRevokeRequest { id: 7 });
    client.call(&DefragmentRequest {});
    client.call(&alarm(AlarmAction::Deactivate, id, AlarmType::Nospace));
    client.call(&put("a", "3"));
}

#[test]
fn a_corrupt_member_may_only_be_read() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    let id = member_id(&client);
    client.call(&alarm(AlarmAction::Activate, id, AlarmType::Corrupt));
    let corrupt = Status::new(Code::DataLoss, "etcdserver: corrupt cluster");
    assert_eq!(client.fail(&put("a", "2")), corrupt);
    assert_eq!(client.fail(&delete("a")), corrupt);
    assert_eq!(client.fail(&then(vec![put("a", "2").op()])), corrupt);
    assert_eq!(client.fail(&compact(2)), corrupt);
    assert_eq!(client.fail(&grant(600, 7)), corrupt);
    assert_eq!(client.fail(&grant(i64::MAX, 7)), corrupt, "before anything else is looked at");
    assert_eq!(client.fail(&LeaseRevokeRequest { id: 7 }), corrupt);
    assert_eq!(client.call(&key("a")).count, 1);
    client.call(&alarm(AlarmAction::Deactivate, id, AlarmType::Corrupt));
    client.call(&put("a", "2"));
}

#[test]
fn a_quota_raises_the_alarm_and_can_be_left_again() {
    let server = Server::builder().flag(format!("--quota-backend-bytes={}", 100 * 4096)).start();
    let client = server.client();
    let page = vec![b'x'; 4096];
    let refused = (0..500).find_map(|i| client.try_call(&put(format!("k{i}"), &page)).err()).expect("the quota is reached");
    assert_eq!(refused, Status::new(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"));
    assert_eq!(alarms(&client).len(), 1);
    client.fail(&put("small", ""));
    client.call(&bramble::pb::etcdserverpb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() });
    client.call(&compact(client.call(&everything()).revision()));
    client.call(&DefragmentRequest {});
    assert_eq!(client.call(&alarm(AlarmAction::Deactivate, 0, AlarmType::Nospace)).alarms, [], "no member has the id 0");
    client.fail(&put("small", ""));
    client.call(&alarm(AlarmAction::Deactivate, member_id(&client), AlarmType::Nospace));
    client.call(&put("small", ""));
}

#[test]
fn defragmentation_changes_nothing_that_can_be_seen() {
    let server = Server::start();
    let client = server.client();
    for i in 0..200 {
        client.call(&put(format!("k{}", i % 50), vec![b'x'; 1000]));
    }
    client.call(&compact(150));
    let before = client.call(&everything());
    let hash = client.call(&HashKvRequest { revision: 0 }).hash;
    assert_eq!(client.call(&DefragmentRequest {}).header, None, "an answer without a header");
    assert_eq!(client.call(&everything()).kvs, before.kvs);
    assert_eq!(client.call(&HashKvRequest { revision: 0 }).hash, hash);
}

#[test]
fn hashes_are_equal_for_equal_histories() {
    let hash = |last: &str| {
        let server = Server::start();
        let client = server.client();
        for i in 0..10 {
            client.call(&put(format!("k{i}"), i.to_string()));
        }
        client.call(&delete("k3"));
        client.call(&put("last", last));
        client.call(&HashKvRequest { revision: 0 }).hash
    };
    assert_eq!(hash("same"), hash("same"));
    assert_ne!(hash("same"), hash("other"));
}

#[test]
fn the_whole_store_has_a_hash() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    let first = client.call(&HashRequest {});
    assert_eq!(first.revision(), 2);
    client.call(&put("a", "2"));
    assert_ne!(client.call(&HashRequest {}).hash, first.hash);
}
