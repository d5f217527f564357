//! Watches of every kind, made, paused, cancelled and resumed by chance, with all that they are told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bramble::pb::etcdserverpb::watch_create_request::FilterType;
use bramble::pb::etcdserverpb::watch_request::RequestUnion;
use bramble::pb::etcdserverpb::{WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};

use crate::support::random::Random;
use crate::support::requests::{WATCH, prefix_end, watch, watch_prefix};
use crate::support::wait::DEADLINE;
use crate::support::{Client, grpc};

use super::clients::Stage;
use super::history::Time;
use super::keys::{self, GROUPS, KEYS};
use super::value;

/// How long a quiet stream is left alone before it is asked for its progress.
const QUIET: Duration = Duration::from_millis(40);
/// A receive window that a few large values fill.
const SMALL_WINDOW: u32 = 1 << 17;

/// A watch, and all it was told.
#[derive(Debug)]
pub struct Watch {
    /// Between which starts of the server.
    pub epoch: usize,
    /// What was asked for.
    pub request: WatchCreateRequest,
    /// When.
    pub asked: Time,
    /// When its end was asked for.
    pub cancelled: Option<Time>,
    /// What came for it, the progress of its whole stream (watch id -1) included; values are folded.
    pub told: Vec<(Time, WatchResponse)>,
}

impl Watch {
    /// The first revision that it may still miss.
    fn next_revision(&self) -> i64 {
        let mut next = self.request.start_revision;
        for (_, response) in &self.told {
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            let last = response.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
            match last {
                // The rest of the revision may be in the next fragment.
                Some(last) if response.fragment => next = next.max(last),
                Some(last) => next = next.max(last + 1),
                None if response.created && self.request.start_revision > 0 => {}
                None => next = next.max(revision + 1),
            }
        }
        next
    }

    fn has_ended(&self) -> bool {
        self.cancelled.is_some() || self.told.last().is_some_and(|(_, response)| response.canceled)
    }
}

/// A client that watches.
pub struct Watcher<'a> {
    id: usize,
    random: Random,
    stage: &'a Stage,
    /// Watches everything and nothing else, in one watch.
    is_recorder: bool,
    /// All watches of all epochs; an index + 1 is the watch's id.
    pub watches: Vec<Watch>,
}

/// One stream of it.
struct Session<'s, 'a> {
    watcher: &'s mut Watcher<'a>,
    stream: grpc::Stream<WatchRequest, WatchResponse>,
    epoch: usize,
    live: BTreeMap<i64, usize>,
}

/// When a watching client is done.
pub struct Goal(AtomicI64);

impl Goal {
    /// Not before the stream ends.
    pub fn none() -> Goal {
        Goal(AtomicI64::new(i64::MAX))
    }

    /// When all its watches have been told of this revision.
    pub fn set(&self, revision: i64) {
        self.0.store(revision, Ordering::Release);
    }

    fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Acquire)).filter(|goal| *goal != i64::MAX)
    }
}

impl<'a> Watcher<'a> {
    /// One that watches everything.
    pub fn recorder(stage: &'a Stage) -> Watcher<'a> {
        Watcher { is_recorder: true, ..Watcher::new(usize::MAX, Random::from_seed(0), stage) }
    }

    /// Number `id` of those that watch what chance makes them watch.
    pub fn new(id: usize, random: Random, stage: &'a Stage) -> Watcher<'a> {
        Watcher { id, random, stage, is_recorder: false, watches: Vec::new() }
    }

    /// How much a slow reader takes ahead: some take little, so that the server's queue for them fills.
    pub fn window(&self) -> Option<u32> {
        self.id.is_multiple_of(3).then_some(SMALL_WINDOW)
    }

    /// Watches until the goal is reached or the stream is gone.
    pub fn watch(&mut self, client: &Client, epoch: usize, goal: &Goal) {
        let Ok(stream) = client.try_open(WATCH, &[]) else { return };
        let requests = self.first_requests(epoch);
        let mut session = Session { watcher: self, stream, epoch, live: BTreeMap::new() };
        for request in requests {
            session.create(request);
        }
        session.run(goal);
    }

    /// What was watched before, from where it ended; and something new.
    fn first_requests(&mut self, epoch: usize) -> Vec<WatchCreateRequest> {
        let resumed = |watch: &Watch| WatchCreateRequest { start_revision: watch.next_revision(), ..watch.request.clone() };
        let before = self.watches.iter().filter(|watch| watch.epoch + 1 == epoch && !watch.has_ended());
        let mut requests: Vec<WatchCreateRequest> = before.map(resumed).collect();
        if self.is_recorder {
            if requests.is_empty() {
                let start_revision = self.stage.recorded.load(Ordering::Relaxed) + 1;
                requests.push(WatchCreateRequest { start_revision, range_end: vec![0].into(), ..watch([0]) });
            }
        } else {
            requests.truncate(8);
            let more = 1 + self.random.below(3) as usize;
            requests.extend((0..more).map(|_| self.request()));
        }
        requests
    }

    fn request(&mut self) -> WatchCreateRequest {
        let group = self.random.below(GROUPS as u64) as usize;
        let range = match self.random.below(6) {
            0..2 => WatchCreateRequest { range_end: vec![0].into(), ..watch([0]) },
            2..4 => watch_prefix(keys::prefix(group)),
            4 => watch(keys::key(group, self.random.below(KEYS))),
            _ => {
                let range_end = prefix_end(keys::prefix(self.random.below(GROUPS as u64) as usize));
                WatchCreateRequest { range_end, ..watch(keys::key(0, self.random.below(KEYS))) }
            }
        };
        let filters = match self.random.below(6) {
            0 => vec![FilterType::Noput.into()],
            1 => vec![FilterType::Nodelete.into()],
            _ => Vec::new(),
        };
        let recorded = self.stage.recorded.load(Ordering::Relaxed);
        let start_revision = match self.random.below(5) {
            0..2 => 0,
            2 => recorded + self.random.below(20) as i64,
            _ => (recorded - self.random.below(600) as i64).max(1),
        };
        let (prev_kv, fragment, progress_notify) = (self.coin(), self.coin(), self.coin());
        WatchCreateRequest { start_revision, filters, prev_kv, fragment, progress_notify, ..range }
    }

    fn coin(&mut self) -> bool {
        self.random.below(2) == 0
    }
}

impl Session<'_, '_> {
    fn create(&mut self, mut request: WatchCreateRequest) {
        request.watch_id = self.watcher.watches.len() as i64 + 1;
        let epoch = self.epoch;
        self.live.insert(request.watch_id, self.watcher.watches.len());
        let asked = self.watcher.stage.clock.now();
        self.send(RequestUnion::CreateRequest(request.clone()));
        self.watcher.watches.push(Watch { epoch, request, asked, cancelled: None, told: Vec::new() });
    }

    /// What cannot be sent will be seen as the end of the stream.
    fn send(&mut self, request: RequestUnion) {
        let _ = self.stream.try_send(&WatchRequest { request_union: Some(request) });
    }

    fn run(mut self, goal: &Goal) {
        let start = std::time::Instant::now();
        loop {
            if let Some(goal) = goal.get() {
                self.cancel_beyond(goal);
                // A stream without watches is not told of progress.
                if self.live.is_empty() {
                    return;
                }
            }
            match self.stream.recv_within(QUIET) {
                Some(Ok(response)) => {
                    let is_at_goal = goal.get().is_some_and(|goal| is_progress_to(&response, goal));
                    self.note(response);
                    if is_at_goal {
                        return;
                    }
                    if goal.get().is_none() {
                        self.act();
                    }
                }
                Some(Err(_)) => return,
                None => self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})),
            }
            if goal.get().is_some() && start.elapsed() > DEADLINE * 2 {
                // What is missing the check will say.
                return;
            }
        }
    }

    fn cancel(&mut self, watch_id: i64, index: usize) {
        let watch = &mut self.watcher.watches[index];
        if watch.cancelled.is_none() {
            watch.cancelled = Some(self.watcher.stage.clock.now());
            self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
        }
    }

    /// Ends what will never begin. A stream with such a watch is not told of progress.
    fn cancel_beyond(&mut self, goal: i64) {
        let begins_later = |index: &usize| self.watcher.watches[*index].request.start_revision > goal;
        let doomed: Vec<(i64, usize)> =
            self.live.iter().filter(|(_, index)| begins_later(index)).map(|(id, index)| (*id, *index)).collect();
        for (watch_id, index) in doomed {
            self.cancel(watch_id, index);
        }
    }

    fn note(&mut self, mut response: WatchResponse) {
        response.events.iter_mut().for_each(value::fold_event);
        let now = self.watcher.stage.clock.now();
        if self.watcher.is_recorder
            && let Some(kv) = response.events.last().and_then(|event| event.kv.as_ref())
        {
            self.watcher.stage.recorded.store(kv.mod_revision, Ordering::Relaxed);
        }
        if response.watch_id == -1 {
            for index in self.live.values() {
                let told = &mut self.watcher.watches[*index].told;
                // It speaks of the watches that there are.
                if !told.is_empty() {
                    told.push((now, response.clone()));
                }
            }
            return;
        }
        // A watch that has been cancelled is still told about: nothing may come for it after the answer to that.
        let index = response.watch_id as usize - 1;
        let is_compacted = response.compact_revision > 0;
        if response.canceled {
            self.live.remove(&response.watch_id);
        }
        let watch_id = response.watch_id;
        self.watcher.watches[index].told.push((now, response));
        if is_compacted {
            // As etcd's clients do. Until then the stream is not told of progress.
            self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
        }
    }

    /// Now and then does what a client may do.
    fn act(&mut self) {
        if self.watcher.is_recorder {
            return;
        }
        let random = &mut self.watcher.random;
        match random.below(400) {
            0..4 if self.live.len() > 1 => {
                let nth = random.below(self.live.len() as u64) as usize;
                let (id, index) = self.live.iter().nth(nth).map(|(id, index)| (*id, *index)).expect("there are as many");
                self.cancel(id, index);
            }
            4..8 if self.live.len() < 8 => {
                let request = self.watcher.request();
                self.create(request);
            }
            8..20 => self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})),
            // A reader that is slow for a while.
            20..22 => std::thread::sleep(Duration::from_millis(random.below(300))),
            _ => {}
        }
    }
}

fn is_progress_to(response: &WatchResponse, goal: i64) -> bool {
    response.watch_id == -1 && response.header.as_ref().is_some_and(|header| header.revision >= goal)
}
