//! One of the two servers, and how a step is played at it. In: a [`Step`]. Out: its outcome as text, without what may differ between two
//! servers, so that equal behaviour is equal text.

use std::collections::BTreeSet;
use std::time::Duration;

use bramble::pb::etcdserverpb::alarm_request::AlarmAction;
use bramble::pb::etcdserverpb::{
    AlarmRequest, CompactionRequest, HashKvRequest, LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, StatusRequest, WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
};
use bytes::Bytes;
use http::HeaderMap;
use prost::Message;

use super::generate::KEYS;
use super::method::{METHODS, Method, method};
use super::normalise;
use super::step::{End, Step};
use super::watches::Watches;
use crate::support::grpc::{Reply, Stream, frame};
use crate::support::requests::{WATCH, everything, key};
use crate::support::wait::{DEADLINE, until_within};
use crate::support::{Client, Code, Server, Status, http as http1};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Real etcd.
    Etcd,
    /// The server under test.
    Ours,
}

/// What was done, for the record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Messages sent, those on streams included.
    pub requests: u64,
    /// Streams of watches.
    pub streams: u64,
    /// Events received on them.
    pub events: u64,
    /// Ends and starts of the server.
    pub restarts: u64,
    /// Leases that were waited for until they had expired.
    pub expiries: u64,
}

/// A server with a client and what the client remembers.
pub struct Side {
    who: Who,
    server: Server,
    client: Client,
    /// The server's id.
    pub member: u64,
    /// The revision of the last header that had one.
    pub revision: i64,
    /// The revisions that it was compacted to.
    compactions: BTreeSet<i64>,
    /// Those of them since its last start.
    compactions_of_this_run: BTreeSet<i64>,
    watches: Option<Watches>,
    /// Whether an alarm may be active.
    alarmed: bool,
    /// What it was asked.
    pub tally: Tally,
}

impl Side {
    /// A client of a fresh server.
    pub fn new(who: Who, server: Server) -> Side {
        let client = server.client();
        let member = client.call(&StatusRequest {}).header.expect("a header").member_id;
        Side {
            who,
            server,
            client,
            member,
            revision: 1,
            compactions: BTreeSet::new(),
            compactions_of_this_run: BTreeSet::new(),
            watches: None,
            alarmed: false,
            tally: Tally::default(),
        }
    }

    /// The last revision that it was compacted to.
    pub fn compacted(&self) -> i64 {
        self.compactions.last().copied().unwrap_or(-1)
    }

    /// Whether the server's log has these words.
    pub fn has_told(&self, words: &str) -> bool {
        self.server.log().contains(words)
    }

    /// Does it, and tells what came of it.
    pub fn play(&mut self, step: &Step) -> String {
        match step {
            Step::Call(method, messages) => self.call(method, messages),
            Step::PutOf(length, put) => self.call(method("KV/Put"), &[Step::put_of(*length, put).encode_to_vec().into()]),
            Step::Body { path, body, fields } => self.body(path, body, fields),
            Step::Watch(request) => self.watch(request),
            Step::EndWatches => self.end_watches(),
            Step::Http { method, target } => self.http(method, target),
            Step::LeaseAndRevoke(request) => self.lease_and_revoke(request),
            Step::LeaseAndExpiry(keys, request) => self.lease_and_expiry(*keys, request),
            Step::Restart(end) => self.restart(*end),
        }
    }

    fn call(&mut self, method: &'static Method, messages: &[Bytes]) -> String {
        let first = messages.first().cloned().unwrap_or_default();
        if normalise::is_streamed_by_mistake(method, &first) || self.is_of_a_stale_hash(method, &first) {
            return String::new();
        }
        if messages.iter().any(|message| normalise::is_of_another_wire_type(method, message)) {
            return self.is_undecodable_here(method, messages);
        }
        if method.path == WATCH {
            return self.converse(method, messages);
        }
        if method.name == "KV/Compact" {
            self.settle();
        }
        self.tally.requests += messages.len() as u64;
        let body: Vec<u8> = messages.iter().flat_map(|message| frame(false, message)).collect();
        match self.client.raw(method.path, &[], body.into()) {
            Ok(reply) => self.told(method, &first, &reply),
            Err(status) => refused(&status),
        }
    }

    fn told(&mut self, method: &'static Method, request: &Bytes, reply: &Reply) -> String {
        let mut text = wire(reply);
        if reply.status.code != Code::Ok {
            text += &refused(&reply.status);
        }
        // What a stream said before its failure counts too.
        if reply.status.code == Code::Ok || !reply.messages.is_empty() {
            let is_mixed_up = method.name == "Lease/LeaseLeases" && self.tally.restarts > 0;
            let messages = if is_mixed_up { normalise::in_order(&reply.messages) } else { reply.messages.clone() };
            let answer = (method.told)(request, &messages);
            self.revision = self.revision.max(answer.revision);
            text += &answer.text;
        }
        if reply.status.code == Code::Ok {
            self.remember(method, request);
        }
        text
    }

    /// Keeps in mind what an accepted request means for later ones.
    fn remember(&mut self, method: &Method, request: &Bytes) {
        match method.name {
            "KV/Compact" => {
                let revision = CompactionRequest::decode(request.clone()).expect("it was accepted").revision;
                self.compactions.insert(revision);
                self.compactions_of_this_run.insert(revision);
            }
            "Maintenance/Alarm" => {
                let request = AlarmRequest::decode(request.clone()).expect("it was accepted");
                self.alarmed |= request.action == AlarmAction::Activate as i32;
            }
            _ => {}
        }
    }

    /// At exactly a revision that it was compacted to etcd answers, until its restart, with the hash that it made before that
    /// compaction; after a compaction to 0 so too where 0 asks for the present.
    fn is_of_a_stale_hash(&self, method: &Method, request: &Bytes) -> bool {
        method.name == "Maintenance/HashKV"
            && HashKvRequest::decode(request.clone())
                .is_ok_and(|request| self.compactions_of_this_run.contains(&request.revision))
    }

    /// Only ours is asked, and refuses; etcd's answer would change its state.
    fn is_undecodable_here(&mut self, method: &'static Method, messages: &[Bytes]) -> String {
        if self.who == Who::Etcd {
            return String::new();
        }
        let body: Vec<u8> = messages.iter().flat_map(|message| frame(false, message)).collect();
        let status = match self.client.raw(method.path, &[], body.into()) {
            Ok(reply) => reply.status,
            Err(status) => status,
        };
        if normalise::is_undecodable(&status) { String::new() } else { format!("not refused as undecodable: {status:?}\n") }
    }

    fn body(&mut self, path: &str, body: &Bytes, fields: &[(String, String)]) -> String {
        if let Some(expected) = normalise::is_not_offered(path) {
            return self.is_unknown_here(&expected, path, body);
        }
        let told = METHODS.iter().find(|method| method.path == path);
        let first = first_message(body);
        let is_left_out = |method: &Method| {
            normalise::is_streamed_by_mistake(method, &first)
                || normalise::is_of_another_wire_type(method, &first)
                || self.is_of_a_stale_hash(method, &first)
        };
        if told.is_some_and(is_left_out) {
            return String::new();
        }
        if told.is_some_and(|method| method.name == "KV/Compact") {
            self.settle();
        }
        self.tally.requests += 1;
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        match self.client.raw(path, &fields, body.clone()) {
            Ok(reply) => match told {
                Some(method) => self.told(method, &first, &reply),
                None => wire(&reply) + &refused(&reply.status),
            },
            Err(status) => refused(&status),
        }
    }

    /// Only ours is asked for what only etcd has.
    fn is_unknown_here(&mut self, expected: &Status, path: &str, body: &Bytes) -> String {
        if self.who == Who::Etcd {
            return String::new();
        }
        let status = self.client.raw(path, &[], body.clone()).map_or_else(|status| status, |reply| reply.status);
        if status == *expected { String::new() } else { format!("{status:?} instead of {expected:?}\n") }
    }

    /// Messages on a stream of watches that is theirs alone, a marker after each: the answer to the marker is behind all answers to
    /// the message.
    fn converse(&mut self, method: &'static Method, messages: &[Bytes]) -> String {
        const MARKERS: i64 = 10_000;
        self.tally.streams += 1;
        let mut stream: Stream<WatchRequest, WatchResponse> = self.client.open(WATCH, &[]);
        let mut replies: Vec<Bytes> = Vec::new();
        for (at, message) in (MARKERS..).zip(messages) {
            self.tally.requests += 1;
            let create = WatchCreateRequest { key: "~marker".into(), watch_id: at, ..WatchCreateRequest::default() };
            let marker = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
            stream.send_bytes([frame(false, message), frame(false, &marker.encode_to_vec())].concat().into());
            loop {
                match stream.try_recv() {
                    Ok(reply) if reply.created && reply.watch_id == at => break,
                    Ok(reply) => replies.push(reply.encode_to_vec().into()),
                    Err(status) => return (method.told)(message, &replies).text + &refused(&status),
                }
            }
        }
        stream.reset();
        (method.told)(&Bytes::new(), &replies).text
    }

    fn watch(&mut self, request: &Bytes) -> String {
        self.tally.requests += 1;
        let request = WatchRequest::decode(request.clone()).expect("a step holds what was encoded");
        if let Some(watch_request::RequestUnion::CancelRequest(_)) = request.request_union {
            self.settle();
        }
        let compacted = self.compacted();
        self.watches().say(request, compacted);
        String::new()
    }

    fn watches(&mut self) -> &mut Watches {
        let (client, streams) = (&self.client, &mut self.tally.streams);
        self.watches.get_or_insert_with(|| {
            *streams += 1;
            Watches::open(client)
        })
    }

    /// Lets the watches come to the present: what they say of a compaction or a cancel depends on how far they are. That takes a put, so
    /// alarms have to be over.
    fn settle(&mut self) {
        if self.watches.is_some() {
            self.disarm();
        }
        if let Some(watches) = &mut self.watches {
            self.revision = self.revision.max(watches.settle(&self.client));
        }
    }

    fn disarm(&mut self) {
        if std::mem::take(&mut self.alarmed) {
            for active in self.client.call(&AlarmRequest::default()).alarms {
                let (member_id, alarm, action) = (active.member_id, active.alarm, AlarmAction::Deactivate as i32);
                self.client.call(&AlarmRequest { action, member_id, alarm });
            }
        }
    }

    fn end_watches(&mut self) -> String {
        self.settle();
        let Some(watches) = self.watches.take() else { return String::new() };
        let (text, events) = watches.end();
        self.tally.events += events;
        text
    }

    fn http(&mut self, method: &str, target: &str) -> String {
        self.tally.requests += 1;
        normalise::http(method, target, http1::request(&self.server, method, target, &[]))
    }

    fn lease_and_revoke(&mut self, request: &Bytes) -> String {
        let id = LeaseGrantRequest::decode(request.clone()).expect("a step holds what was encoded").id;
        let granted = self.call(method("Lease/LeaseGrant"), std::slice::from_ref(request));
        granted + &self.call(method("Lease/LeaseRevoke"), &[LeaseRevokeRequest { id }.encode_to_vec().into()])
    }

    /// The keys are the first of [`KEYS`]; they are gone with the lease, all at once.
    fn lease_and_expiry(&mut self, keys: usize, request: &Bytes) -> String {
        let id = LeaseGrantRequest::decode(request.clone()).expect("a step holds what was encoded").id;
        let mut text = self.call(method("Lease/LeaseGrant"), std::slice::from_ref(request));
        // Another by that id may live long.
        if text.contains("refused: ") {
            return text;
        }
        for name in &KEYS[..keys] {
            let put = PutRequest { key: Bytes::from_static(name), lease: id, ..PutRequest::default() };
            text += &self.call(method("KV/Put"), &[put.encode_to_vec().into()]);
        }
        self.tally.expiries += 1;
        let client = &self.client;
        let attached = |name: &&[u8]| client.call(&key(name)).kvs.iter().any(|row| row.lease == id);
        until_within("a lease to expire", DEADLINE, Duration::from_millis(20), || {
            let listed = client.call(&LeaseLeasesRequest {}).leases.iter().any(|lease| lease.id == id);
            (!listed && !KEYS[..keys].iter().any(attached)).then_some(())
        });
        let all = RangeRequest { keys_only: true, ..everything() };
        text + &self.call(method("KV/Range"), &[all.encode_to_vec().into()])
    }

    fn restart(&mut self, end: End) -> String {
        let said = self.end_watches();
        match end {
            End::Kill if normalise::outlives_a_kill(self.compacted()) => self.server.kill(),
            End::Kill | End::Terminate => drop(self.server.terminate()),
        }
        self.server.restart();
        self.client = self.server.client();
        self.compactions_of_this_run.clear();
        self.tally.restarts += 1;
        said
    }
}

/// The first message of these frames, or what there is of it.
fn first_message(frames: &Bytes) -> Bytes {
    let Some((prefix, rest)) = frames.split_at_checked(5) else { return Bytes::new() };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    frames.slice_ref(&rest[..length.min(rest.len())])
}

/// What is around the messages of an answer.
fn wire(reply: &Reply) -> String {
    let told = |fields: &HeaderMap| -> Vec<String> {
        let mut lines: Vec<String> = fields
            .iter()
            .filter(|(name, _)| *name != "grpc-message" && !normalise::HARMLESS.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        lines.sort();
        lines
    };
    format!("{} {:?} {:?}\n", reply.http_status, told(&reply.headers), told(&reply.trailers))
}

fn refused(status: &Status) -> String {
    format!("refused: {:?} {:?}\n", status.code, normalise::message(status))
}

impl std::ops::Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally {
            requests: self.requests + other.requests,
            streams: self.streams + other.streams,
            events: self.events + other.events,
            restarts: self.restarts + other.restarts,
            expiries: self.expiries + other.expiries,
        }
    }
}
