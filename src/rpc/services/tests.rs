//! The services over a server of their own, asked the way the transport asks them.

use std::sync::Arc;

use tempfile::TempDir;

use super::super::grpc::{Peer, PeerAddr};
use super::*;
use crate::config::{self, Command, Program};
use crate::host::Host;
use crate::http2::Field;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::*;
use crate::pb::health::{HealthCheckRequest, HealthCheckResponse};
use crate::rpc::calls::Shape;
use crate::rpc::timers::SystemTimers;
use crate::server::Server;
use crate::wal::NoObserver;

mod streams;

/// A server on a directory of its own, and the services over it.
pub(super) struct Served {
    pub api: Arc<Api>,
    server: Option<Server>,
    _dir: TempDir,
}

impl Served {
    pub fn new() -> Served {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        let args = [format!("--data-dir={}", data.display()), "--unsafe-no-fsync".to_owned(), "--max-txn-ops=8".to_owned()];
        let Ok(Command::Serve(config)) = config::read(Program::Bramble, &args, &[]) else { panic!("these flags are sound") };
        let host = Host::real();
        let server = Server::start(&config, host.clone(), Arc::new(NoObserver)).unwrap();
        let limits = Limits::of(&config);
        let timers = Arc::new(SystemTimers::new(host.clock.clone()));
        Served { api: Api::new(server.handle(), limits, timers, &host), server: Some(server), _dir: dir }
    }

    /// Asks a unary method.
    pub fn ask<M: Message + Default>(&self, path: &str, request: &impl Message) -> Result<M, Status> {
        self.ask_with(path, request.encode_to_vec().into(), Head::default())
    }

    fn ask_with<M: Message + Default>(&self, path: &str, message: Bytes, head: Head) -> Result<M, Status> {
        let reply = self.reply(path, message, head)?;
        Ok(M::decode(reply).expect("the reply is of the method's type"))
    }

    fn reply(&self, path: &str, message: Bytes, head: Head) -> Result<Bytes, Status> {
        let (service, method) = path.split_once('/').unwrap();
        let Route::Unary(id) = self.api.find(&format!("etcdserverpb.{service}"), method) else { panic!("{path} is not unary") };
        smol::block_on(async {
            match self.api.clone().unary(id, call(head), message).await? {
                Reply::Whole(message) => Ok(message),
                Reply::Pieces { total, pieces } => {
                    let pieces: Vec<Bytes> = futures_util::StreamExt::collect(pieces).await;
                    assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), total as usize, "the pieces make up the total");
                    assert!(pieces.len() > 1, "a reply of one piece is a whole one");
                    Ok(pieces.concat().into())
                }
            }
        })
    }

    pub fn put(&self, key: &str, value: impl Into<Bytes>) -> PutResponse {
        self.ask("KV/Put", &PutRequest { key: key.to_owned().into(), value: value.into(), ..PutRequest::default() }).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
            server.wait().unwrap();
        }
    }
}

fn head(name: &'static str, value: &'static [u8]) -> Head {
    let field = Field { name: Bytes::from_static(name.as_bytes()), value: Bytes::from_static(value) };
    Head { fields: vec![field], ..Head::default() }
}

fn call(head: Head) -> Call {
    Call { head: Arc::new(head), peer: Arc::new(Peer { addr: PeerAddr::Local, tls: false, common_name: None }), deadline: None }
}

fn refused<M: std::fmt::Debug>(answer: Result<M, Status>) -> (Code, String) {
    let status = answer.expect_err("it should be refused");
    (status.code, status.message.into_owned())
}

fn all() -> RangeRequest {
    RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() }
}

#[test]
fn every_method_is_found_under_its_path_and_number() {
    for (place, method) in Method::ALL.into_iter().enumerate() {
        let id = MethodId(u16::try_from(place).unwrap());
        assert_eq!((method.id(), Method::of(id)), (id, method));
        let (service, name, kind) = method.path();
        let expected = match kind {
            Kind::Unary => Route::Unary(id),
            Kind::ServerStream => Route::ServerStream(id),
            Kind::BidiStream if method == Method::LeaseKeepAlive => Route::LightStream(id),
            Kind::BidiStream => Route::BidiStream(id),
        };
        assert_eq!(Method::find(service, name), expected);
    }
    assert_eq!(Method::find("etcdserverpb.KV", "Nothing"), Route::UnknownMethod);
    assert_eq!(Method::find("etcdserverpb.Maintenance", "Snapshot"), Route::UnknownMethod);
    assert_eq!(Method::find("etcdserverpb.Auth", "AuthEnable"), Route::UnknownService);
    assert_eq!(Method::find("v3lockpb.Lock", "Lock"), Route::UnknownService);
    assert_eq!(Method::find("etcdserverpb.kv", "Range"), Route::UnknownService);
}

#[test]
fn metadata_is_checked() {
    let metadata = |name: &'static str, value: &'static [u8]| head(name, value);
    let somebody = Some(MemberId(1));
    assert_eq!(check_metadata(&Head::default(), Shape::Unary, None), Ok(()));
    assert_eq!(check_metadata(&metadata("client-api-version", b"3.7"), Shape::Unary, None), Ok(()));
    assert_eq!(
        check_metadata(&metadata("client-api-version", b"3.\xff"), Shape::Unary, somebody),
        Err(Error::InvalidClientApiVersion)
    );
    assert_eq!(check_metadata(&metadata("hasleader", b"true"), Shape::Unary, None), Err(Error::NoLeader));
    assert_eq!(check_metadata(&metadata("hasleader", b"true"), Shape::Unary, somebody), Ok(()));
    assert_eq!(check_metadata(&metadata("hasleader", b"false"), Shape::Unary, None), Ok(()));
}

#[test]
fn a_message_that_cannot_be_decoded_is_refused_before_its_metadata() {
    let served = Served::new();
    let bad_version = head("client-api-version", b"\xff");
    let cut = Bytes::from_static(b"\x0a\x05a");
    let (code, text) = refused(served.ask_with::<RangeResponse>("KV/Range", cut, bad_version.clone()));
    assert_eq!(code, Code::Internal);
    assert!(text.starts_with("grpc: error unmarshalling request: "), "{text}");
    let (code, text) = refused(served.ask_with::<RangeResponse>("KV/Range", Bytes::new(), bad_version));
    assert_eq!((code, &*text), (Code::InvalidArgument, "etcdserver: invalid client api version"));
}

#[test]
fn a_range_is_encoded_as_the_generated_encoder_would() {
    let served = Served::new();
    for key in ["a", "b", "c"] {
        served.put(key, format!("value of {key}"));
    }
    for request in [
        all(),
        RangeRequest { limit: 2, ..all() },
        RangeRequest { limit: 2, keys_only: true, serializable: true, ..all() },
        RangeRequest { count_only: true, ..all() },
        RangeRequest { sort_order: SortOrder::Descend.into(), sort_target: SortTarget::Value.into(), ..all() },
        RangeRequest { key: "nothing".into(), ..RangeRequest::default() },
    ] {
        let reply = served.reply("KV/Range", request.encode_to_vec().into(), Head::default()).unwrap();
        let decoded = RangeResponse::decode(reply.clone()).unwrap();
        assert_eq!(decoded.encode_to_vec(), reply, "{request:?}");
        let header = decoded.header.unwrap();
        assert_eq!(header.revision, 4, "the store's revision");
        assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    }
}

#[test]
fn a_long_range_comes_in_pieces_that_make_the_same_answer() {
    let served = Served::new();
    for number in 0..100 {
        served.put(&format!("key-{number:02}"), vec![b'v'; 30_000 + number]);
    }
    let reply = served.reply("KV/Range", all().encode_to_vec().into(), Head::default()).unwrap();
    assert!(reply.len() > 3_000_000, "more than is ever made at once");
    let decoded = RangeResponse::decode(reply.clone()).unwrap();
    assert_eq!((decoded.kvs.len(), decoded.count, decoded.more), (100, 100, false));
    assert!(decoded.kvs.iter().enumerate().all(|(number, kv)| kv.value.len() == 30_000 + number));
    assert_eq!(decoded.encode_to_vec(), reply);
    let limited = served.reply("KV/Range", RangeRequest { limit: 99, ..all() }.encode_to_vec().into(), Head::default()).unwrap();
    let decoded = RangeResponse::decode(limited).unwrap();
    assert_eq!((decoded.kvs.len(), decoded.count, decoded.more), (99, 100, true));
}

#[test]
fn headers_are_whole_on_replies_and_revisions_alone_inside_transactions() {
    let served = Served::new();
    let header = served.put("a", "1").header.unwrap();
    assert_eq!(header.revision, 2);
    let inner = TxnRequest::default();
    let success = [
        Request::RequestRange(all()),
        Request::RequestPut(PutRequest { key: "b".into(), ..PutRequest::default() }),
        Request::RequestDeleteRange(DeleteRangeRequest { key: "a".into(), ..DeleteRangeRequest::default() }),
        Request::RequestTxn(inner),
    ];
    let request =
        TxnRequest { success: success.map(|request| RequestOp { request: Some(request) }).into(), ..TxnRequest::default() };
    let response: TxnResponse = served.ask("KV/Txn", &request).unwrap();
    assert_eq!(response.header, Some(ResponseHeader { revision: 3, ..header }));
    let alone = |revision| Some(ResponseHeader { revision, ..ResponseHeader::default() });
    let headers: Vec<_> = response
        .responses
        .into_iter()
        .map(|op| match op.response.unwrap() {
            Response::ResponseRange(response) => response.header,
            Response::ResponsePut(response) => response.header,
            Response::ResponseDeleteRange(response) => response.header,
            Response::ResponseTxn(response) => response.header,
        })
        .collect();
    assert_eq!(headers, [alone(2), alone(3), alone(3), alone(0)]);
}

#[test]
fn a_transaction_that_only_reads_is_answered_like_the_others() {
    let served = Served::new();
    let header = served.put("a", "1").header.unwrap();
    for serializable in [false, true] {
        let range = RangeRequest { serializable, ..all() };
        let success = vec![RequestOp { request: Some(Request::RequestRange(range)) }];
        let response: TxnResponse = served.ask("KV/Txn", &TxnRequest { success, ..TxnRequest::default() }).unwrap();
        assert_eq!((response.succeeded, response.header), (true, Some(header)));
        let Some(Response::ResponseRange(range)) = &response.responses[0].response else { panic!("{response:?}") };
        assert_eq!((range.kvs.len(), range.header.unwrap().revision), (1, 2));
    }
    let empty: TxnResponse = served.ask("KV/Txn", &TxnRequest::default()).unwrap();
    assert_eq!((empty.succeeded, empty.responses.len(), empty.header), (true, 0, Some(header)));
}

#[test]
fn checks_come_before_the_log() {
    let served = Served::new();
    let before = served.put("a", "1").header.unwrap().revision;
    for (path, message, text) in [
        ("KV/Put", PutRequest::default().encode_to_vec(), "etcdserver: key is not provided"),
        ("KV/Range", RangeRequest::default().encode_to_vec(), "etcdserver: key is not provided"),
        ("KV/DeleteRange", DeleteRangeRequest::default().encode_to_vec(), "etcdserver: key is not provided"),
        (
            "KV/Txn",
            TxnRequest { success: vec![RequestOp::default(); 9], ..TxnRequest::default() }.encode_to_vec(),
            "etcdserver: too many operations in txn request",
        ),
    ] {
        let answer = served.reply(path, message.into(), Head::default());
        assert_eq!(refused(answer), (Code::InvalidArgument, text.to_owned()), "{path}");
    }
    assert_eq!(served.put("a", "2").header.unwrap().revision, before + 1);
}

#[test]
fn compaction_answers_with_the_current_revision() {
    let served = Served::new();
    served.put("a", "1");
    served.put("a", "2");
    let compacted: CompactionResponse = served.ask("KV/Compact", &CompactionRequest { revision: 2, physical: true }).unwrap();
    assert_eq!(compacted.header.unwrap().revision, 3);
    let again = served.ask::<CompactionResponse>("KV/Compact", &CompactionRequest { revision: 2, physical: false });
    assert_eq!(refused(again), (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".to_owned()));
    let future = served.ask::<CompactionResponse>("KV/Compact", &CompactionRequest { revision: 9, physical: false });
    assert_eq!(refused(future), (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".to_owned()));
}

#[test]
fn a_lease_lives_until_it_is_revoked() {
    let served = Served::new();
    let granted: LeaseGrantResponse = served.ask("Lease/LeaseGrant", &LeaseGrantRequest { ttl: 100, id: -7 }).unwrap();
    assert_eq!((granted.id, granted.ttl, &*granted.error), (-7, 100, ""));
    let chosen: LeaseGrantResponse = served.ask("Lease/LeaseGrant", &LeaseGrantRequest { ttl: 200, id: 0 }).unwrap();
    assert!(chosen.id > 0);
    let leased = PutRequest { key: "k".into(), lease: -7, ..PutRequest::default() };
    let _: PutResponse = served.ask("KV/Put", &leased).unwrap();
    let times: LeaseTimeToLiveResponse =
        served.ask("Lease/LeaseTimeToLive", &LeaseTimeToLiveRequest { id: -7, keys: true }).unwrap();
    assert_eq!((times.id, times.granted_ttl, times.keys), (-7, 100, vec![Bytes::from("k")]));
    assert!((1..=100).contains(&times.ttl));
    let leases: LeaseLeasesResponse = served.ask("Lease/LeaseLeases", &LeaseLeasesRequest {}).unwrap();
    assert_eq!(leases.leases, [LeaseStatus { id: -7 }, LeaseStatus { id: chosen.id }]);
    let revoked: LeaseRevokeResponse = served.ask("Lease/LeaseRevoke", &LeaseRevokeRequest { id: -7 }).unwrap();
    assert_eq!(revoked.header.unwrap().revision, 3, "its key is deleted");

    let times: LeaseTimeToLiveResponse =
        served.ask("Lease/LeaseTimeToLive", &LeaseTimeToLiveRequest { id: -7, keys: true }).unwrap();
    assert_eq!((times.ttl, times.granted_ttl, times.keys.len()), (-1, 0, 0));
    assert_eq!(times.header.unwrap().revision, 3);
    let again = served.ask::<LeaseRevokeResponse>("Lease/LeaseRevoke", &LeaseRevokeRequest { id: -7 });
    assert_eq!(refused(again), (Code::NotFound, "etcdserver: requested lease not found".to_owned()));
}

#[test]
fn cluster_replies_have_no_revision() {
    let served = Served::new();
    served.put("a", "1");
    let list: MemberListResponse = served.ask("Cluster/MemberList", &MemberListRequest { linearizable: true }).unwrap();
    let header = list.header.unwrap();
    assert_eq!((header.revision, list.members.len()), (0, 1));
    let this = &list.members[0];
    assert_eq!(this.id, header.member_id);
    assert!(!this.name.is_empty() && !this.client_ur_ls.is_empty() && !this.is_learner);

    let urls = vec!["http://127.0.0.1:12380".to_owned()];
    let update = MemberUpdateRequest { id: this.id, peer_ur_ls: urls.clone() };
    let updated: MemberUpdateResponse = served.ask("Cluster/MemberUpdate", &update).unwrap();
    assert_eq!((updated.header.unwrap().revision, &updated.members[0].peer_ur_ls), (0, &urls));
}

#[test]
fn membership_requests_are_refused_with_reason() {
    let served = Served::new();
    let this = served.api.server.header(0).member_id;
    let bad = || vec!["nowhere".to_owned()];
    let bad_urls = (Code::InvalidArgument, "etcdserver: given member URLs are invalid".to_owned());
    let not_found = (Code::NotFound, "etcdserver: member not found".to_owned());
    let update = |id, peer_ur_ls| {
        refused(served.ask::<MemberUpdateResponse>("Cluster/MemberUpdate", &MemberUpdateRequest { id, peer_ur_ls }))
    };
    assert_eq!(update(this, bad()), bad_urls);
    assert_eq!(update(5, bad()), not_found);
    let add = |peer_ur_ls| MemberAddRequest { peer_ur_ls, is_learner: true };
    assert_eq!(refused(served.ask::<MemberAddResponse>("Cluster/MemberAdd", &add(bad()))), bad_urls);
    let (code, text) = refused(served.ask::<MemberAddResponse>("Cluster/MemberAdd", &add(vec!["http://a:1".to_owned()])));
    assert!(code == Code::Unimplemented && text.contains("MemberAdd is not supported yet"), "{text}");
    let remove = |id| refused(served.ask::<MemberRemoveResponse>("Cluster/MemberRemove", &MemberRemoveRequest { id }));
    assert_eq!(remove(5), not_found);
    assert_eq!(remove(this).0, Code::Unimplemented);
    let promote = |id| refused(served.ask::<MemberPromoteResponse>("Cluster/MemberPromote", &MemberPromoteRequest { id }));
    assert_eq!(promote(5), not_found);
    assert_eq!(promote(this), (Code::FailedPrecondition, "etcdserver: can only promote a learner member".to_owned()));
}

#[test]
fn status_tells_versions_sizes_and_the_leader() {
    let served = Served::new();
    let revision = served.put("a", "1").header.unwrap().revision;
    let status: StatusResponse = served.ask("Maintenance/Status", &StatusRequest {}).unwrap();
    let header = status.header.unwrap();
    assert_eq!((&*status.version, &*status.storage_version), ("3.7.3", "3.7.0"));
    assert_eq!((status.leader, header.revision), (header.member_id, revision));
    assert_eq!((status.raft_term, status.db_size_quota), (header.raft_term, 2 << 30));
    assert!(status.raft_index >= 2 && status.raft_applied_index >= 2);
    assert!(status.db_size > 0 && status.db_size_in_use <= status.db_size);
    assert_eq!((status.errors, status.is_learner), (vec![], false));
    assert_eq!(status.downgrade_info, Some(DowngradeInfo::default()));
}

#[test]
fn alarms_are_raised_listed_and_cleared() {
    let served = Served::new();
    let alarm = |action, alarm| AlarmRequest { action, member_id: 77, alarm };
    let ask = |request: AlarmRequest| {
        served.ask::<AlarmResponse>("Maintenance/Alarm", &request).map(|reply| {
            assert_eq!(reply.header.unwrap().revision, 1);
            reply.alarms
        })
    };
    let raised = vec![AlarmMember { member_id: 77, alarm: AlarmType::Nospace.into() }];
    assert_eq!(ask(alarm(1, 1)), Ok(raised.clone()));
    assert_eq!(ask(alarm(0, 0)), Ok(raised.clone()));
    let status: StatusResponse = served.ask("Maintenance/Status", &StatusRequest {}).unwrap();
    assert_eq!(status.errors, ["memberID:77 alarm:NOSPACE"]);
    let put = served.ask::<PutResponse>("KV/Put", &PutRequest { key: "a".into(), ..PutRequest::default() });
    assert_eq!(refused(put), (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded".to_owned()));
    assert_eq!(ask(alarm(2, 1)), Ok(raised));
    assert_eq!(ask(alarm(0, 0)), Ok(vec![]));
}

#[test]
fn an_unknown_alarm_is_none_that_could_be_listed_and_cannot_be_raised() {
    let served = Served::new();
    let ask = |action, alarm| {
        let request = AlarmRequest { action, member_id: 0, alarm };
        served.ask::<AlarmResponse>("Maintenance/Alarm", &request).map(|reply| reply.alarms)
    };
    let unknown = (Code::InvalidArgument, "etcdserver: unknown alarm action or type".to_owned());
    assert_eq!(ask(0, 9), Ok(vec![]));
    assert_eq!(ask(2, 9), Ok(vec![]));
    assert_eq!(refused(ask(1, 9)), unknown);
    assert_eq!(refused(ask(3, 1)), unknown);
}

#[test]
fn hashes_say_what_they_are_of() {
    let served = Served::new();
    served.put("a", "1");
    let hashed: HashKvResponse = served.ask("Maintenance/HashKV", &HashKvRequest { revision: 0 }).unwrap();
    assert_eq!((hashed.hash_revision, hashed.compact_revision, hashed.header.unwrap().revision), (2, -1, 2));
    let whole: HashResponse = served.ask("Maintenance/Hash", &HashRequest {}).unwrap();
    assert_eq!((whole.hash, whole.header.unwrap().revision), (hashed.hash, 2));
    served.put("a", "2");
    let earlier: HashKvResponse = served.ask("Maintenance/HashKV", &HashKvRequest { revision: 2 }).unwrap();
    assert_eq!((earlier.hash, earlier.hash_revision, earlier.header.unwrap().revision), (hashed.hash, 2, 3));
    let future = served.ask::<HashKvResponse>("Maintenance/HashKV", &HashKvRequest { revision: 4 });
    assert_eq!(refused(future).1, "etcdserver: mvcc: required revision is a future revision");
}

#[test]
fn defragment_and_move_leader_reply_without_a_header() {
    let served = Served::new();
    served.put("a", "1");
    assert_eq!(served.ask("Maintenance/Defragment", &DefragmentRequest {}), Ok(DefragmentResponse { header: None }));
    let target_id = served.api.server.header(0).member_id;
    assert_eq!(served.ask("Maintenance/MoveLeader", &MoveLeaderRequest { target_id }), Ok(MoveLeaderResponse { header: None }));
    let unknown = served.ask::<MoveLeaderResponse>("Maintenance/MoveLeader", &MoveLeaderRequest { target_id: 1 });
    assert_eq!(refused(unknown), (Code::FailedPrecondition, "etcdserver: bad leader transferee".to_owned()));
}

#[test]
fn a_downgrade_can_be_asked_about_but_not_begun() {
    let served = Served::new();
    let ask = |action, version: &str| {
        let request = DowngradeRequest { action, version: version.to_owned() };
        served.ask::<DowngradeResponse>("Maintenance/Downgrade", &request).map(|reply| reply.version)
    };
    let invalid = (Code::InvalidArgument, "etcdserver: invalid downgrade target version".to_owned());
    assert_eq!(ask(0, "3.6").as_deref(), Ok("3.7"));
    assert_eq!(ask(0, "3.6.0").as_deref(), Ok("3.7"));
    for version in ["3.5", "3.7", "3.8", "2.6"] {
        assert_eq!(refused(ask(0, version)), invalid, "{version}");
    }
    let wrong = (Code::InvalidArgument, "etcdserver: wrong downgrade target version format".to_owned());
    assert_eq!(refused(ask(0, "next")), wrong);
    assert_eq!(refused(ask(1, "next")), wrong);
    assert_eq!(refused(ask(1, "3.6")).0, Code::Unimplemented);
    assert_eq!(ask(2, "").as_deref(), Ok("3.7"));
    assert_eq!(refused(ask(3, "")), (Code::Unknown, "etcdserver: unknown method".to_owned()));
}

#[test]
fn health_knows_the_server_as_a_whole() {
    let served = Served::new();
    let ask = |service: &str| {
        let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec().into();
        let answer = smol::block_on(served.api.clone().unary(Method::HealthCheck.id(), call(Head::default()), message));
        answer.map(|reply| match reply {
            Reply::Whole(message) => HealthCheckResponse::decode(message).unwrap().status,
            Reply::Pieces { .. } => panic!("a status is short"),
        })
    };
    assert_eq!(ask(""), Ok(1));
    assert_eq!(refused(ask("etcdserverpb.KV")), (Code::NotFound, "unknown service".to_owned()));
}
