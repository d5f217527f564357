//! A stream of watches, and all that it says. What different watches of a stream say may come in any order, how events are packed
//! into answers is no promise, and progress is told when it can be: so the words are sorted by watch, events counted one by one,
//! progress left out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::watch_request::RequestUnion;
use bramble::pb::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};

use prost::Message;

use crate::support::Client;
use crate::support::requests::{Revision, Watch, put, watch};
use crate::support::wait::DEADLINE;

/// A watch by this id starts so far in the future that it is never reached. It is cancelled before the stream has to settle.
pub const FAR: i64 = 77;

const MARKER: &str = "~marker";

/// etcd's default `--max-request-bytes` and what it allows for around a request.
const LONGEST_FRAGMENT: usize = 2 << 20;

/// Progress is asked for again if there is no answer by then: a server that has not caught up says nothing.
const PATIENCE: Duration = Duration::from_millis(20);

/// One stream and what it has said.
pub struct Watches {
    /// The stream.
    pub stream: Watch,
    said: Vec<WatchResponse>,
    live: BTreeSet<i64>,
    /// Those of them that were told to start at what has been compacted.
    ended: BTreeSet<i64>,
    /// Those whose long answers come in fragments.
    fragmented: BTreeSet<i64>,
    /// Where the last of the watches starts. A stream tells no progress before.
    furthest: i64,
}

impl Watches {
    /// A stream without watches.
    pub fn open(client: &Client) -> Watches {
        Watches {
            stream: Watch::open(client),
            said: Vec::new(),
            live: BTreeSet::new(),
            ended: BTreeSet::new(),
            fragmented: BTreeSet::new(),
            furthest: 0,
        }
    }

    /// Says something, and waits for the answer if there is to be one.
    pub fn say(&mut self, request: WatchRequest, compacted: i64) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create, compacted),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.stream.ask_progress(),
            None => self.stream.stream.send(&request),
        }
    }

    /// Asks for a watch and waits for the answer; if it starts before `compacted`, for its end too.
    fn create(&mut self, request: WatchCreateRequest, compacted: i64) {
        let (start, fragment) = (request.start_revision, request.fragment);
        self.stream.ask(request);
        let created = self.hear_until(|reply| reply.created);
        let id = created.watch_id;
        if created.canceled {
            return;
        }
        self.live.insert(id);
        match fragment {
            true => self.fragmented.insert(id),
            false => self.fragmented.remove(&id),
        };
        if id != FAR {
            self.furthest = self.furthest.max(start);
        }
        if start != 0 && start < compacted {
            self.hear_until(|reply| reply.canceled && reply.watch_id == id);
            self.ended.insert(id);
        }
    }

    /// Cancels a watch. Of one that is unknown nothing is heard.
    fn cancel(&mut self, id: i64) {
        self.stream.cancel(id);
        if self.live.contains(&id) {
            self.hear_until(|reply| reply.canceled && reply.watch_id == id);
        }
    }

    /// Brings all watches to the present, and tells the revision of that.
    pub fn settle(&mut self, client: &Client) -> i64 {
        // One that the server has ended keeps its id, and the stream from telling progress, until the client cancels it too.
        for id in self.ended.clone().into_iter().chain([FAR]) {
            if self.live.contains(&id) {
                self.cancel(id);
            }
        }
        let mut revision = client.call(&put(MARKER, "")).revision();
        while revision < self.furthest {
            revision = client.call(&put(MARKER, "")).revision();
        }
        if self.live.is_empty() {
            // A stream without watches says nothing of its progress.
            self.create(watch(MARKER), 0);
        }
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < DEADLINE, "watches {:?} do not come to revision {revision}: {:#?}", self.live, self.said);
            self.stream.ask_progress();
            while let Some(reply) = self.stream.stream.recv_within(PATIENCE) {
                let reply = reply.expect("the stream goes on");
                let told = is_progress(&reply) && reply.revision() >= revision;
                self.heard(reply);
                if told {
                    return revision;
                }
            }
        }
    }

    fn hear_until(&mut self, mut enough: impl FnMut(&WatchResponse) -> bool) -> WatchResponse {
        loop {
            let reply = self.stream.recv();
            self.heard(reply.clone());
            if enough(&reply) {
                return reply;
            }
        }
    }

    fn heard(&mut self, reply: WatchResponse) {
        let length = reply.encoded_len();
        let is_whole = !self.fragmented.contains(&reply.watch_id) || reply.events.len() < 2;
        assert!(is_whole || length <= LONGEST_FRAGMENT, "a fragment of {length} bytes and {} events", reply.events.len());
        if reply.canceled && !reply.created && reply.compact_revision == 0 {
            self.live.remove(&reply.watch_id);
            self.ended.remove(&reply.watch_id);
        }
        self.said.push(reply);
    }

    /// All that was said, watch by watch, and the number of events.
    pub fn end(self) -> (String, u64) {
        self.assert_progress_is_true();
        // Refusals carry the id -1, which is a watch's too if a client chooses it.
        let mut by_watch: BTreeMap<(i64, bool), String> = BTreeMap::new();
        let mut last_revision: BTreeMap<i64, i64> = BTreeMap::new();
        let mut events = 0;
        for reply in self.said {
            if is_progress(&reply) {
                continue;
            }
            let header = reply.revision();
            let lines = by_watch.entry((reply.watch_id, reply.created && reply.canceled)).or_default();
            if reply.events.is_empty() {
                // Another watch may follow under the same id.
                if !(reply.created && reply.canceled) {
                    last_revision.remove(&reply.watch_id);
                }
                *lines += &format!("{reply:?}\n");
                continue;
            }
            let (first, last) = (revision_of(&reply, 0), revision_of(&reply, reply.events.len() - 1));
            let before = last_revision.remove(&reply.watch_id);
            assert!(before.is_none_or(|before| before < first), "one revision in two answers: {reply:?}");
            // A fragment may end within a revision, and only a fragment.
            last_revision.insert(reply.watch_id, if reply.fragment { last - 1 } else { last });
            assert!(header >= last, "events from the future: {reply:?}");
            assert!(!reply.created && !reply.canceled && reply.compact_revision == 0, "events and more: {reply:?}");
            events += reply.events.len() as u64;
            for event in reply.events {
                *lines += &format!("{event:?}\n");
            }
        }
        (by_watch.iter().map(|((id, _), lines)| format!("watch {id}\n{lines}")).collect(), events)
    }

    /// Progress up to a revision: no event of it or before it comes later, to those that were watching then.
    fn assert_progress_is_true(&self) {
        let mut told: BTreeMap<i64, i64> = BTreeMap::new();
        for reply in &self.said {
            if reply.created && !reply.canceled {
                told.insert(reply.watch_id, 0);
            } else if is_progress(reply) && reply.watch_id == ALL {
                told.values_mut().for_each(|revision| *revision = reply.revision());
            } else if is_progress(reply) {
                told.insert(reply.watch_id, reply.revision());
            } else if !reply.events.is_empty() {
                let told = told.get(&reply.watch_id).copied().unwrap_or(0);
                assert!(revision_of(reply, 0) > told, "an event after progress up to {told}: {reply:?}");
            }
        }
    }
}

/// The id of progress that is all watches'. A client may choose it for a watch too; then what is told of that one holds for all.
const ALL: i64 = -1;

fn revision_of(reply: &WatchResponse, at: usize) -> i64 {
    reply.events[at].kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn is_progress(reply: &WatchResponse) -> bool {
    reply.events.is_empty() && !reply.created && !reply.canceled
}
