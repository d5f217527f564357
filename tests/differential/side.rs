//! One of the two servers, and how a step is played at it. In: a [`Step`]. Out: its outcome as text, without what may differ between two
//! servers, so that equal behaviour is equal text.

use std::collections::BTreeSet;

use bramble::pb::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DowngradeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, MoveLeaderRequest, RangeRequest, RangeResponse, RangeStreamResponse, StatusRequest, TxnRequest,
    WatchCreateRequest,
};
use bramble::pb::etcdserverpb::{DeleteRangeRequest, HashKvRequest, PutRequest, alarm_request::AlarmAction};
use bytes::Bytes;
use prost::Message;

use super::normalise::{self, Normal};
use super::watches::Watches;
use crate::support::grpc::frame;
use crate::support::requests::{RANGE_STREAM, Unary, keep_alive};
use crate::support::{Client, Code, Server, Status};

/// In the place of a member's id: the server's own.
pub const OWN_MEMBER: u64 = u64::MAX;

/// Something that a client does.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // named after what is sent
pub enum Step {
    Range(RangeRequest),
    RangeStream(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    /// A lease that would end soon: granted, and revoked at once.
    GrantAndRevoke(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    TimeToLive(LeaseTimeToLiveRequest),
    Leases,
    KeepAlive(Vec<LeaseKeepAliveRequest>),
    HashKv(HashKvRequest),
    MemberList(MemberListRequest),
    MemberRemove(MemberRemoveRequest),
    MemberPromote(MemberPromoteRequest),
    MemberAdd(MemberAddRequest),
    MemberUpdate(MemberUpdateRequest),
    MoveLeader(MoveLeaderRequest),
    Downgrade(DowngradeRequest),
    Alarm(AlarmRequest),
    /// An alarm is raised, steps follow, and it is cleared. No watch has to settle in between: it could not.
    UnderAlarm(AlarmType, Vec<Step>),
    Status,
    /// Bytes that may be no message at all.
    Raw(Raw, Bytes),
    /// On the open stream of watches, or a new one.
    Watch(WatchCreateRequest),
    CancelWatch(i64),
    Progress,
    /// Everything that the stream has said since it was opened.
    EndWatches,
}

/// Where raw bytes go.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // named after the methods
pub enum Raw {
    Range,
    RangeStream,
    Put,
    DeleteRange,
    Txn,
    Compact,
}

impl Raw {
    /// All of them.
    pub const ALL: [Raw; 6] = [Raw::Range, Raw::RangeStream, Raw::Put, Raw::DeleteRange, Raw::Txn, Raw::Compact];
}

/// A server with a client and what the client remembers.
pub struct Side {
    _server: Server,
    client: Client,
    member: u64,
    /// The revision of the last header that had one.
    pub revision: i64,
    /// The revisions that it was compacted to.
    compactions: BTreeSet<i64>,
    watches: Option<Watches>,
}

impl Side {
    /// A client of a fresh server.
    pub fn new(server: Server) -> Side {
        let client = server.client();
        let member = client.call(&StatusRequest {}).header.expect("a header").member_id;
        Side { _server: server, client, member, revision: 1, compactions: BTreeSet::new(), watches: None }
    }

    /// The last revision that it was compacted to.
    pub fn compacted(&self) -> i64 {
        self.compactions.last().copied().unwrap_or(-1)
    }

    /// Does it, and tells what came of it.
    pub fn play(&mut self, step: &Step) -> String {
        match step {
            Step::Range(request) => self.unary(request),
            Step::RangeStream(request) => self.stream(request.encode_to_vec().into(), Some(request)),
            Step::Put(request) => self.unary(request),
            Step::DeleteRange(request) => self.unary(request),
            Step::Txn(request) => self.unary(request),
            Step::Compact(request) => self.compact(request),
            Step::Grant(request) => self.unary(request),
            Step::GrantAndRevoke(request) => {
                let granted = self.unary(request);
                granted + &self.unary(&LeaseRevokeRequest { id: request.id })
            }
            Step::Revoke(request) => self.unary(request),
            Step::TimeToLive(request) => self.unary(request),
            Step::Leases => self.unary(&LeaseLeasesRequest {}),
            Step::KeepAlive(requests) => self.keep_alive(requests),
            Step::HashKv(request) => self.hash_kv(request),
            Step::MemberList(request) => self.unary(request),
            Step::MemberRemove(request) => self.unary(request),
            Step::MemberPromote(request) => self.unary(request),
            Step::MemberAdd(request) => self.unary(request),
            Step::MemberUpdate(request) => self.unary(request),
            Step::MoveLeader(request) => self.unary(request),
            Step::Downgrade(request) => self.unary(request),
            Step::Alarm(request) => {
                let own = request.member_id == OWN_MEMBER;
                let member_id = if own { self.member } else { request.member_id };
                self.unary(&AlarmRequest { member_id, ..*request })
            }
            Step::UnderAlarm(alarm, steps) => self.under_alarm(*alarm, steps),
            Step::Status => self.unary(&StatusRequest {}),
            Step::Raw(method, body) => self.raw(*method, body),
            Step::Watch(request) => {
                let compacted = self.compacted();
                self.watches().create(request.clone(), compacted);
                String::new()
            }
            Step::CancelWatch(id) => {
                self.settle();
                self.watches().cancel(*id);
                String::new()
            }
            Step::Progress => {
                self.watches().stream.ask_progress();
                String::new()
            }
            Step::EndWatches => {
                self.settle();
                self.watches.take().map_or(String::new(), |watches| watches.end())
            }
        }
    }

    fn watches(&mut self) -> &mut Watches {
        let client = &self.client;
        self.watches.get_or_insert_with(|| Watches::open(client))
    }

    /// Lets the watches come to the present: what they say of a compaction or a cancel depends on how far they are.
    fn settle(&mut self) {
        if let Some(watches) = &mut self.watches {
            self.revision = self.revision.max(watches.settle(&self.client));
        }
    }

    fn unary<R: Unary<Reply: Normal<R>>>(&mut self, request: &R) -> String {
        let outcome = self.client.try_call(request);
        self.told(outcome, Some(request))
    }

    fn told<R: Unary<Reply: Normal<R>>>(&mut self, outcome: Result<R::Reply, Status>, request: Option<&R>) -> String {
        match outcome {
            Ok(mut reply) => {
                self.revision = self.revision.max(reply.revision());
                reply.normalise(request);
                format!("{reply:#?}\n")
            }
            Err(status) => refused(&status),
        }
    }

    /// At exactly a revision that it was compacted to etcd answers, until its restart, with the hash that it made before that
    /// compaction; after a compaction to 0 so too where 0 asks for the present.
    fn hash_kv(&mut self, request: &HashKvRequest) -> String {
        if self.compactions.contains(&request.revision) { String::new() } else { self.unary(request) }
    }

    fn compact(&mut self, request: &CompactionRequest) -> String {
        self.settle();
        let outcome = self.unary(request);
        if !outcome.starts_with("refused") {
            self.compactions.insert(request.revision);
        }
        outcome
    }

    fn under_alarm(&mut self, alarm: AlarmType, steps: &[Step]) -> String {
        let request = AlarmRequest { member_id: OWN_MEMBER, alarm: alarm as i32, action: AlarmAction::Activate as i32 };
        let raised = self.play(&Step::Alarm(request));
        let under: String = steps.iter().map(|step| format!("{step:?}: {}", self.play(step))).collect();
        let request = AlarmRequest { action: AlarmAction::Deactivate as i32, ..request };
        raised + &under + &self.play(&Step::Alarm(request))
    }

    fn keep_alive(&mut self, requests: &[LeaseKeepAliveRequest]) -> String {
        let mut stream = keep_alive(&self.client);
        let mut outcome = String::new();
        for request in requests {
            stream.send(request);
            let mut reply = stream.recv();
            normalise::header(&mut reply.header);
            outcome += &format!("{reply:#?}\n");
        }
        stream.close_send();
        outcome + &format!("{:?}\n", stream.end())
    }

    fn raw(&mut self, method: Raw, body: &Bytes) -> String {
        match method {
            Raw::Range => self.raw_unary::<RangeRequest>(body),
            Raw::RangeStream => match RangeRequest::decode(body.clone()) {
                Err(error) if normalise::is_of_another_wire_type(&error) => String::new(),
                request => self.stream(body.clone(), request.ok().as_ref()),
            },
            Raw::Put => self.raw_unary::<PutRequest>(body),
            Raw::DeleteRange => self.raw_unary::<DeleteRangeRequest>(body),
            Raw::Txn => self.raw_unary::<TxnRequest>(body),
            Raw::Compact => {
                self.settle();
                let outcome = self.raw_unary::<CompactionRequest>(body);
                if outcome.starts_with("CompactionResponse") {
                    self.compactions.insert(CompactionRequest::decode(body.clone()).expect("it was accepted").revision);
                }
                outcome
            }
        }
    }

    fn raw_unary<R: Unary<Reply: Normal<R>> + Default>(&mut self, body: &Bytes) -> String {
        let request = match R::decode(body.clone()) {
            Err(error) if normalise::is_of_another_wire_type(&error) => return String::new(),
            request => request.ok(),
        };
        let outcome = self.client.raw(R::PATH, &[], frame(false, body)).and_then(|reply| {
            if reply.status.code == Code::Ok {
                Ok(R::Reply::decode(reply.messages[0].clone()).expect("a decodable answer"))
            } else {
                Err(reply.status)
            }
        });
        self.told(outcome, request.as_ref())
    }

    /// A streamed range as one answer: how it is cut into chunks is no promise, but that the last of them sums up is.
    fn stream(&mut self, body: Bytes, request: Option<&RangeRequest>) -> String {
        if request.is_some_and(normalise::is_streamed_by_mistake) {
            return String::new();
        }
        let reply = match self.client.raw(RANGE_STREAM, &[], frame(false, &body)) {
            Ok(reply) if reply.status.code == Code::Ok => reply,
            Ok(reply) => return refused(&reply.status),
            Err(status) => return refused(&status),
        };
        let mut whole = RangeResponse::default();
        for message in reply.messages {
            let chunk = RangeStreamResponse::decode(message).expect("a decodable chunk").range_response.expect("a range");
            assert!(whole.header.is_none(), "a chunk after the one that sums up");
            whole.kvs.extend(chunk.kvs);
            whole = RangeResponse { kvs: whole.kvs, ..chunk };
        }
        whole.normalise(request);
        format!("{whole:#?}\n")
    }
}

fn refused(status: &Status) -> String {
    format!("refused: {:?} {:?}\n", status.code, normalise::message(status))
}
