//! The driver, with a client that is a pair of queues, and time, disk and chance in the test's hand. Every poll is owed to a wake-up.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use prost::Message;

use super::{Inbound, Outbound, WatchServer, Work};
use crate::error::{Error, Fault};
use crate::host::Random;
use crate::mvcc::watch::Hub;
use crate::mvcc::watch::testing::FakeHistory;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{
    ResponseHeader, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::rpc::grpc::{BoxFuture, Gone};
use crate::rpc::status::{Code, Status};
use crate::rpc::timers::Timers;

/// What the client and the driver share.
#[derive(Default)]
struct Wire {
    requests: VecDeque<Bytes>,
    is_half_closed: bool,
    responses: VecDeque<WatchResponse>,
    /// Responses that the client would take now.
    window: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone)]
struct Side(Arc<Mutex<Wire>>);

impl Side {
    fn lock(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap()
    }
}

impl Inbound for Side {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        let mut wire = self.lock();
        match wire.requests.pop_front() {
            Some(request) => Poll::Ready(Some(Ok(request))),
            None if wire.is_half_closed => Poll::Ready(None),
            None => {
                wire.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Outbound for Side {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let mut wire = self.lock();
        if wire.window > 0 {
            return Poll::Ready(Ok(()));
        }
        wire.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn send(&mut self, parts: Vec<Bytes>) -> Result<(), Gone> {
        let mut wire = self.lock();
        wire.window = wire.window.checked_sub(1).expect("sent only when ready");
        wire.responses.push_back(WatchResponse::decode(&parts.concat()[..]).unwrap());
        Ok(())
    }
}

/// Sleeps that end when the test says so.
#[derive(Default)]
struct Sleeps(Mutex<Vec<(Duration, oneshot::Sender<()>)>>);

impl Timers for Sleeps {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, time: Duration) -> BoxFuture<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap().push((time, sender));
        Box::pin(async move {
            let _ = receiver.await;
        })
    }
}

struct Chance(u64);

impl Random for Chance {
    fn next_u64(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One stream and everything around it.
struct Stage {
    history: Arc<FakeHistory>,
    hub: Arc<Hub>,
    wire: Side,
    sleeps: Arc<Sleeps>,
    /// Work that waits for the disk.
    work: Arc<Mutex<Vec<Work>>>,
    driver: Pin<Box<dyn Future<Output = Result<Status, Fault>>>>,
    end: Option<oneshot::Sender<Status>>,
    woken: Arc<Woken>,
}

const MAX_REQUEST_BYTES: usize = 400;

impl Stage {
    fn new() -> Stage {
        let history = FakeHistory::new();
        let hub = Hub::new(history.clone(), 1);
        let wire = Side(Arc::new(Mutex::new(Wire { window: usize::MAX, ..Wire::default() })));
        let (sleeps, work) = (Arc::new(Sleeps::default()), Arc::new(Mutex::new(Vec::new())));
        let (end, until) = oneshot::channel();
        let driver = {
            let header = |revision| ResponseHeader { cluster_id: 0xc, member_id: 0xb, revision, raft_term: 4 };
            let offload = {
                let work = work.clone();
                move |piece: Work| work.lock().unwrap().push(piece)
            };
            let interval = Duration::from_secs(10);
            let random = Arc::new(Chance(u64::MAX));
            let server = WatchServer::new(header, sleeps.clone(), random, Arc::new(offload), interval, MAX_REQUEST_BYTES);
            let (watches, requests, replies) = (hub.open_stream(), wire.clone(), wire.clone());
            Box::pin(async move {
                let until = async { until.await.expect("the stage outlives its driver") };
                server.serve(watches, requests, replies, until).await
            })
        };
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        Stage { history, hub, wire, sleeps, work, driver, end: Some(end), woken }
    }

    /// Polls the driver as long as it is woken. Some: it has ended.
    fn run(&mut self) -> Option<Result<Status, Fault>> {
        let waker = Waker::from(self.woken.clone());
        while self.woken.0.swap(false, Ordering::SeqCst) {
            if let Poll::Ready(outcome) = self.driver.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(outcome);
            }
        }
        None
    }

    /// Runs the driver and all work for the disk until nothing is left to do.
    fn settle(&mut self) {
        loop {
            assert!(self.run().is_none(), "the stream has ended");
            let work = std::mem::take(&mut *self.work.lock().unwrap());
            if work.is_empty() {
                return;
            }
            work.into_iter().for_each(|piece| piece());
        }
    }

    fn ask_bytes(&mut self, request: &[u8]) {
        let mut wire = self.wire.lock();
        wire.requests.push_back(Bytes::copy_from_slice(request));
        wire.reader.take().into_iter().for_each(Waker::wake);
    }

    fn ask(&mut self, union: RequestUnion) {
        self.ask_bytes(&WatchRequest { request_union: Some(union) }.encode_to_vec());
    }

    fn create(&mut self, create: WatchCreateRequest) {
        self.ask(RequestUnion::CreateRequest(create));
    }

    fn cancel(&mut self, watch_id: i64) {
        self.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    fn request_progress(&mut self) {
        self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        self.history.commit(&self.hub, &[(key, Some(value))]);
    }

    fn delete(&mut self, key: &str) {
        self.history.commit(&self.hub, &[(key, None)]);
    }

    fn open_window(&mut self, responses: usize) {
        let mut wire = self.wire.lock();
        wire.window = responses;
        wire.writer.take().into_iter().for_each(Waker::wake);
    }

    /// Ends the sleep that the driver waits for, and tells its length.
    fn tick(&mut self) -> Duration {
        let (time, sender) = self.sleeps.0.lock().unwrap().pop().expect("the driver sleeps");
        drop(sender);
        time
    }

    /// What the client has been sent.
    fn responses(&mut self) -> Vec<WatchResponse> {
        self.wire.lock().responses.drain(..).collect()
    }

    fn said(&mut self) -> Vec<String> {
        self.settle();
        self.responses().iter().map(say).collect()
    }
}

/// A response in short; its header is checked but for the revision.
fn say(response: &WatchResponse) -> String {
    let header = response.header.as_ref().unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.raft_term), (0xc, 0xb, 4));
    let mut words = vec![format!("{}", response.watch_id)];
    if response.created {
        words.push("created".into());
    }
    if response.canceled {
        words.push("canceled".into());
    }
    if response.compact_revision != 0 {
        words.push(format!("compacted={}", response.compact_revision));
    }
    if !response.cancel_reason.is_empty() {
        words.push(format!("({})", response.cancel_reason));
    }
    if response.fragment {
        words.push("fragment".into());
    }
    for event in &response.events {
        let kv = event.kv.as_ref().unwrap();
        let sign = if event.r#type == 0 { '+' } else { '-' };
        let mut word = format!("{sign}{}@{}", String::from_utf8_lossy(&kv.key), kv.mod_revision);
        if let Some(prev) = &event.prev_kv {
            word += &format!("(was {}@{})", String::from_utf8_lossy(&prev.value), prev.mod_revision);
        }
        words.push(word);
    }
    words.push(format!("rev={}", header.revision));
    words.join(" ")
}

fn on(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..WatchCreateRequest::default() }
}

#[test]
fn rules_52_to_56_are_told_in_etcds_words() {
    let mut stage = Stage::new();
    for _ in 2..=5 {
        stage.put("a", b"v");
    }
    stage.history.compact(4);
    stage.create(on("a"));
    stage.create(WatchCreateRequest { watch_id: 7, start_revision: 3, ..on("a") });
    stage.create(WatchCreateRequest { watch_id: 7, ..on("a") });
    stage.create(WatchCreateRequest { range_end: Bytes::from_static(b"a"), ..on("b") });
    stage.create(WatchCreateRequest { start_revision: -1, ..on("a") });
    assert_eq!(
        stage.said(),
        [
            "0 created rev=5",
            "7 created rev=5",
            "-1 created canceled (mvcc: duplicate watch ID provided on the WatchStream) rev=5",
            "-1 created canceled (mvcc: watcher range is empty) rev=5",
            "-1 created canceled (etcdserver: mvcc: required revision has been compacted) rev=5",
            "7 canceled compacted=4 rev=0",
        ]
    );
}

#[test]
fn rules_61_and_62_a_deletion_names_key_and_revision_and_prev_kv_is_what_was_there() {
    let mut stage = Stage::new();
    stage.create(WatchCreateRequest { prev_kv: true, ..on("a") });
    stage.create(on("a"));
    stage.put("a", b"one");
    stage.settle();
    stage.responses();
    stage.put("a", b"two");
    stage.delete("a");
    stage.settle();
    let responses = stage.responses();
    let said: Vec<String> = responses.iter().map(say).collect();
    assert_eq!(said, ["0 +a@3(was one@2) -a@4(was two@3) rev=4", "1 +a@3 -a@4 rev=4"]);
    let deleted = responses[1].events[1].kv.clone().unwrap();
    assert_eq!((deleted.create_revision, deleted.version, deleted.lease, deleted.value.len()), (0, 0, 0, 0));
}

#[test]
fn rule_61_a_compacted_prev_kv_is_absent() {
    let mut stage = Stage::new();
    for value in ["one", "two", "three"] {
        stage.put("a", value.as_bytes());
    }
    stage.history.compact(3);
    stage.create(WatchCreateRequest { prev_kv: true, start_revision: 3, ..on("a") });
    assert_eq!(stage.said(), ["0 created rev=4", "0 +a@3 +a@4(was two@3) rev=4"]);
}

#[test]
fn rule_63_fragments_leave_one_by_one_as_the_client_takes_them() {
    let mut stage = Stage::new();
    stage.create(WatchCreateRequest { range_end: Bytes::from_static(b"\0"), fragment: true, ..on("a") });
    stage.settle();
    stage.responses();
    stage.open_window(0);
    let changes = ["a", "b", "c", "d"].map(|key| (key, Some(&[7_u8; 250_000][..])));
    stage.history.commit(&stage.hub, &changes);
    stage.settle();
    for expected in ["0 fragment +a@2 +b@2 rev=2", "0 +c@2 +d@2 rev=2"] {
        stage.open_window(1);
        assert_eq!(stage.said(), [expected]);
    }
}

#[test]
fn rule_64_cancel_is_answered_an_unknown_id_is_not_and_a_half_closed_stream_goes_on() {
    let mut stage = Stage::new();
    stage.create(on("a"));
    stage.create(on("a"));
    stage.cancel(0);
    stage.cancel(0);
    stage.cancel(12);
    stage.settle();
    {
        let mut wire = stage.wire.lock();
        wire.is_half_closed = true;
        wire.reader.take().into_iter().for_each(Waker::wake);
    }
    stage.settle();
    stage.put("a", b"v");
    assert_eq!(stage.said(), ["0 created rev=1", "1 created rev=1", "0 canceled rev=1", "1 +a@2 rev=2"]);
}

#[test]
fn rule_65_an_empty_request_is_ignored_and_an_unreadable_one_ends_the_stream() {
    let mut stage = Stage::new();
    stage.ask_bytes(b"");
    stage.create(on("a"));
    assert_eq!(stage.said(), ["0 created rev=1"]);
    stage.ask_bytes(b"\x0a\xff");
    let text = "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";
    assert_eq!(stage.run().unwrap().unwrap(), Status::new(Code::Internal, text));
}

#[test]
fn rule_66_ticks_come_at_the_interval_with_a_tenth_of_jitter_at_most() {
    let mut stage = Stage::new();
    stage.create(WatchCreateRequest { progress_notify: true, ..on("a") });
    assert_eq!(stage.said(), ["0 created rev=1"]);
    for _ in 0..2 {
        assert_eq!(stage.tick(), Duration::from_secs(11));
        assert_eq!(stage.said(), ["0 rev=1"]);
    }
    stage.put("a", b"v");
    assert_eq!(stage.said(), ["0 +a@2 rev=2"]);
    stage.tick();
    assert_eq!(stage.said(), [""; 0], "it has just been heard");
}

#[test]
fn rule_67_progress_follows_the_events_it_speaks_of() {
    let mut stage = Stage::new();
    stage.put("a", b"v");
    stage.request_progress();
    stage.create(WatchCreateRequest { start_revision: 1, ..on("a") });
    stage.run();
    stage.request_progress();
    assert!(stage.run().is_none());
    assert_eq!(stage.responses().len(), 1, "history is being read: no word of progress");
    assert_eq!(stage.said(), ["0 +a@2 rev=2"]);
    stage.open_window(0);
    stage.put("a", b"v");
    stage.request_progress();
    stage.settle();
    stage.open_window(9);
    assert_eq!(stage.said(), ["0 +a@3 rev=3", "-1 rev=3"]);
}

#[test]
fn rule_68_requests_are_obeyed_while_the_client_takes_nothing_and_at_last_no_longer_read() {
    let mut stage = Stage::new();
    stage.create(on("a"));
    stage.settle();
    stage.open_window(0);
    stage.cancel(0);
    stage.settle();
    assert_eq!(stage.hub.counters().watchers(), 0, "the cancel was obeyed");
    for _ in 0..10_000 {
        stage.create(on("a"));
    }
    stage.settle();
    let left = stage.wire.lock().requests.len();
    assert!((9_000..10_000).contains(&left), "{left} requests wait in the client's window");
    stage.open_window(usize::MAX);
    assert_eq!(stage.said().len(), 1 + 1 + 10_000);
}

#[test]
fn while_history_is_read_requests_are_obeyed() {
    let mut stage = Stage::new();
    stage.put("a", b"v");
    stage.create(WatchCreateRequest { start_revision: 2, ..on("a") });
    stage.run();
    assert_eq!(stage.work.lock().unwrap().len(), 1);
    stage.create(WatchCreateRequest { start_revision: 2, ..on("a") });
    stage.cancel(0);
    assert!(stage.run().is_none());
    let said: Vec<String> = stage.responses().iter().map(say).collect();
    assert_eq!(said, ["0 created rev=2", "1 created rev=2", "0 canceled rev=2"]);
    assert_eq!(stage.said(), ["1 +a@2 rev=2"]);
}

#[test]
fn what_can_be_looked_up_in_memory_needs_no_other_thread() {
    let mut stage = Stage::new();
    stage.create(WatchCreateRequest { prev_kv: true, ..on("a") });
    stage.settle();
    stage.put("a", b"v");
    assert!(stage.run().is_none());
    assert!(stage.work.lock().unwrap().is_empty(), "a new key was nothing before");
    assert_eq!(stage.said(), ["0 created rev=1", "0 +a@2 rev=2"]);
    stage.put("a", b"v");
    assert!(stage.run().is_none());
    assert_eq!(stage.work.lock().unwrap().len(), 1);
}

#[test]
fn a_store_that_cannot_be_read_is_a_fault() {
    let mut stage = Stage::new();
    stage.put("a", b"v");
    stage.history.break_down();
    stage.create(WatchCreateRequest { start_revision: 2, ..on("a") });
    assert!(stage.run().is_none());
    let work = std::mem::take(&mut *stage.work.lock().unwrap());
    work.into_iter().for_each(|piece| piece());
    assert_eq!(stage.run().unwrap().unwrap_err().to_string(), "broken");
}

#[test]
fn rule_70_the_stream_ends_as_it_is_told_to() {
    let mut stage = Stage::new();
    stage.create(on("a"));
    stage.settle();
    stage.end.take().unwrap().send(Error::NoLeader.into()).unwrap();
    assert_eq!(stage.run().unwrap().unwrap(), Status::from(Error::NoLeader));
    drop(stage.driver);
    assert_eq!((stage.hub.counters().streams(), stage.hub.counters().watchers()), (0, 0));
}
