//! A real server in this process, without sockets: its store in memory, its time moved by hand, its connections pipes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bramble::config::{self, Command, Config, Program};
use bramble::host::Host;
use bramble::pb::etcdserverpb::alarm_request::AlarmAction;
use bramble::pb::etcdserverpb::{AlarmRequest, HashKvRequest, HashKvResponse, PutRequest, RangeRequest, RangeResponse};
use bramble::rpc::endpoints;
use bramble::rpc::front::{Front, Offer, Protocol, Settings};
use bramble::rpc::grpc::{BoxFuture, Call, MethodId, Peer, PeerAddr, Replies, Reply, Requests, Route, Services};
use bramble::rpc::services::{Api, Limits, Method};
use bramble::rpc::status::Status;
use bramble::rpc::timers::Timers;
use bramble::server::Server;
use bramble::wal::NoObserver;
use bytes::Bytes;
use futures_lite::{StreamExt, future};
use prost::Message;
use smol::Executor;
use tempfile::TempDir;

use super::pipe::{ClientEnd, pipe};

/// Inputs that one server is given before a fresh one takes over: enough to find what state does, and few enough for a store that
/// stays small.
const INPUTS: usize = 5000;
/// The longest that an answer is waited for before the next step; whatever comes later is taken then.
const PATIENCE: Duration = Duration::from_millis(20);

thread_local! {
    static SERVED: RefCell<Option<Served>> = const { RefCell::new(None) };
}

/// Runs an input on the server of this thread.
pub fn with(work: impl FnOnce(&Served)) {
    SERVED.with_borrow_mut(|kept| {
        if kept.as_ref().is_some_and(|served| served.inputs.get() >= INPUTS) {
            kept.take().expect("it is there").stop();
        }
        let served = kept.get_or_insert_with(Served::start);
        served.inputs.set(served.inputs.get() + 1);
        work(served);
        served.check_well(served.inputs.get());
    });
}

/// Time that is moved by hand.
#[derive(Clone, Default)]
struct HandTimers(Arc<Mutex<Moments>>);

#[derive(Default)]
struct Moments {
    now: Duration,
    sleepers: Vec<(Duration, Waker)>,
}

impl HandTimers {
    fn advance(&self, time: Duration) {
        let mut moments = self.0.lock().expect("no panic while it was held");
        moments.now += time;
        let now = moments.now;
        let due: Vec<_> = moments.sleepers.extract_if(.., |(at, _)| *at <= now).collect();
        drop(moments);
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Forgets who sleeps: called when nobody can.
    fn forget(&self) {
        self.0.lock().expect("no panic while it was held").sleepers.clear();
    }
}

impl Timers for HandTimers {
    fn now(&self) -> Duration {
        self.0.lock().expect("no panic while it was held").now
    }

    fn sleep(&self, time: Duration) -> BoxFuture<()> {
        let moments = self.0.clone();
        let at = self.now().saturating_add(time);
        Box::pin(poll_fn(move |cx| {
            let mut moments = moments.lock().expect("no panic while it was held");
            if moments.now >= at {
                return Poll::Ready(());
            }
            moments.sleepers.push((at, cx.waker().clone()));
            Poll::Pending
        }))
    }
}

/// The services, and how many unary calls they are at.
struct Counted {
    api: Arc<Api>,
    under_way: Arc<AtomicUsize>,
}

struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: &Arc<AtomicUsize>) -> UnderWay {
        count.fetch_add(1, Ordering::SeqCst);
        UnderWay(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Services for Counted {
    fn find(&self, service: &str, method: &str) -> Route {
        self.api.find(service, method)
    }

    fn unary(self: Arc<Self>, method: MethodId, call: Call, message: Bytes) -> BoxFuture<Result<Reply, Status>> {
        let under_way = UnderWay::new(&self.under_way);
        Box::pin(async move {
            let answer = self.api.clone().unary(method, call, message).await;
            drop(under_way);
            answer
        })
    }

    fn stream(
        self: Arc<Self>,
        method: MethodId,
        call: Call,
        requests: Requests,
        replies: Replies,
    ) -> BoxFuture<Result<(), Status>> {
        self.api.clone().stream(method, call, requests, replies)
    }
}

/// The server.
pub struct Served {
    inputs: std::cell::Cell<usize>,
    executor: Arc<Executor<'static>>,
    timers: HandTimers,
    front: Arc<Front>,
    api: Arc<Api>,
    under_way: Arc<AtomicUsize>,
    offer: Offer,
    server: Server,
    _dir: TempDir,
}

impl Served {
    fn start() -> Served {
        let dir = super::memory_dir();
        let config = config_for(dir.path());
        let host = Host::real();
        let server = Server::start(&config, host.clone(), Arc::new(NoObserver)).expect("a fresh directory");
        let (executor, timers) = (Arc::new(Executor::new()), HandTimers::default());
        let shared: Arc<dyn Timers> = Arc::new(timers.clone());
        let front = Front::new(Settings::of(&config), vec![executor.clone()], shared.clone());
        let api = Api::new(server.handle(), Limits::of(&config), shared.clone(), &host);
        let under_way = Arc::<AtomicUsize>::default();
        let offer = Offer {
            services: Some(Arc::new(Counted { api: api.clone(), under_way: under_way.clone() })),
            endpoints: Some(endpoints::Served::clients(&config, server.handle(), shared)),
        };
        Served { inputs: 0.into(), executor, timers, front, api, under_way, offer, server, _dir: dir }
    }

    fn stop(self) {
        self.server.begin_stop();
        self.server.stop();
        self.server.wait().expect("nothing that clients do is a fault");
    }

    /// Asks a method the way the transport does.
    pub fn ask(&self, method: Method, message: Bytes) -> Result<Bytes, Status> {
        let call = Call { head: Arc::default(), peer: Arc::new(peer()), deadline: None };
        future::block_on(async {
            match self.api.clone().unary(method.id(), call, message).await? {
                Reply::Whole(message) => Ok(message),
                Reply::Pieces { total, pieces } => {
                    let whole: Bytes = pieces.collect::<Vec<Bytes>>().await.concat().into();
                    assert_eq!(whole.len(), total as usize, "the pieces make up the total");
                    Ok(whole)
                }
            }
        })
    }

    /// Revision and hash of the store.
    pub fn state(&self) -> HashKvResponse {
        let hash = self.ask(Method::HashKv, HashKvRequest::default().encode_to_vec().into()).expect("it answers");
        HashKvResponse::decode(hash).expect("its own answer")
    }

    /// The revision, without asking.
    pub fn revision(&self) -> i64 {
        self.server.handle().revision()
    }

    /// Takes back alarms that an input has raised: with one, most requests are refused alike.
    fn disarm(&self) {
        for alarm in self.server.handle().alarms() {
            let (member_id, alarm) = (alarm.member_id, alarm.alarm);
            let request = AlarmRequest { action: AlarmAction::Deactivate as i32, member_id, alarm };
            self.ask(Method::Alarm, request.encode_to_vec().into()).expect("an alarm is disarmed");
        }
    }

    /// Another client is served as if nothing had been.
    fn check_well(&self, number: usize) {
        let get = RangeRequest { key: "well".into(), ..RangeRequest::default() };
        if number.is_multiple_of(16) {
            let value = number.to_string();
            let put = PutRequest { key: "well".into(), value: value.clone().into(), ..PutRequest::default() };
            // The input's last requests may be on their way still, and raise an alarm behind our back.
            let is_taken = (0..16).any(|_| {
                self.disarm();
                self.ask(Method::Put, put.encode_to_vec().into()).is_ok()
            });
            assert!(is_taken, "a put is taken");
            let range = self.ask(Method::Range, get.encode_to_vec().into()).expect("a range is answered");
            let range = RangeResponse::decode(range).expect("its own answer");
            assert_eq!(range.kvs[0].value, value, "what was put is there");
        } else {
            self.ask(Method::Range, get.encode_to_vec().into()).expect("a range is answered");
        }
    }

    /// A connection.
    pub fn connect(&self) -> Connection<'_> {
        let (client, server_end) = pipe();
        let (front, offer) = (self.front.clone(), self.offer.clone());
        let task = self.executor.spawn(async move { front.serve(server_end, Protocol::Unsaid, peer(), offer).await });
        Connection { served: self, client: Some(client), task: Some(task), reads: true, received: Vec::new() }
    }
}

fn peer() -> Peer {
    Peer { addr: PeerAddr::Local, tls: false, common_name: None }
}

/// A configuration as a user would give it. But no lease ends by itself while an input is tried: what is refused changes nothing then.
pub fn config_for(dir: &Path) -> Config {
    let args = [format!("--data-dir={}", dir.join("data").display()), "--unsafe-no-fsync".to_owned()];
    let Ok(Command::Serve(mut config)) = config::read(Program::Bramble, &args, &[]) else { panic!("these flags are sound") };
    config.min_lease_ttl = Duration::from_secs(24 * 3600);
    *config
}

/// A client's connection.
pub struct Connection<'a> {
    served: &'a Served,
    client: Option<ClientEnd>,
    task: Option<smol::Task<()>>,
    /// Whether the client takes what it is sent.
    pub reads: bool,
    /// What it was sent.
    received: Vec<u8>,
}

impl Connection<'_> {
    /// Sends bytes and lets the server work.
    pub fn send(&mut self, mut bytes: &[u8]) {
        let mut stuck = 0;
        while !bytes.is_empty() && stuck < 3 {
            let count = self.client.as_ref().map_or(0, |client| client.write(bytes));
            bytes = &bytes[count..];
            stuck = if count == 0 { stuck + 1 } else { 0 };
            self.run();
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, time: Duration) {
        self.served.timers.advance(time);
        self.run();
    }

    /// Waits for answers to calls that are under way.
    pub fn settle(&mut self) {
        let begun = Instant::now();
        self.run();
        while self.served.under_way.load(Ordering::SeqCst) > 0 && begun.elapsed() < PATIENCE {
            thread::yield_now();
            self.run();
        }
    }

    /// Ends the connection from the client's side. Everything that it held must be gone then.
    pub fn close(mut self) -> Vec<u8> {
        self.settle();
        if let Some(client) = &self.client {
            client.finish();
        }
        self.run();
        self.client = None;
        let task = self.task.take().expect("it is closed once");
        let begun = Instant::now();
        while !self.served.executor.is_empty() {
            if !self.served.executor.try_tick() {
                // Whoever still waits, waits for time: all that may take long has a limit.
                self.served.timers.advance(Duration::from_secs(60));
                thread::yield_now();
                assert!(begun.elapsed() < Duration::from_secs(20), "a task outlives its connection");
            }
        }
        assert!(task.is_finished());
        self.served.timers.forget();
        std::mem::take(&mut self.received)
    }

    /// Runs all tasks until none can go on.
    fn run(&mut self) {
        loop {
            while self.served.executor.try_tick() {}
            let Some(client) = self.client.as_ref().filter(|_| self.reads) else { return };
            let read = client.read();
            if read.is_empty() {
                return;
            }
            self.received.extend_from_slice(&read);
        }
    }
}
