//! What clients feel while writes wait for a slow device: `make bench-slow`.
//!
//! Both servers live on devices whose every flush takes 20, 100, 500 ms ([`device`]). Fifty clients put without pause, so that a write
//! is always under way, while others read, renew leases, send PINGs and watch, each on a connection and a thread of its own, at a
//! pace that does not wait for the answers before. The rows "at rest" are of the same probes without the puts on the same device in no
//! hurry: what they cost by themselves.

mod device;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::flash::{Pair, number};
use super::load::{Ask, Crowd, Histogram, Keys, Puts, Session, Watchers, Watches, fill};
use super::report::Report;
use crate::hostile::wire::{PING, Sent, Wire, frame};
use crate::support::{Server, oracle, under_test};
use device::SlowVolume;

const FLUSH_TIMES_MS: [u64; 3] = [20, 100, 500];
/// Clients that put beside the probes, and what they put.
const WRITERS: usize = 50;
const VALUE_BYTES: usize = 256;
const KEYS: Keys = Keys { size: 24, space: 1000, random: true };
const WATCHED: Keys = Keys { size: 32, space: 1, random: false };
const LEASES: u64 = 100;
/// So many probes may wait for their answers, more than ever do.
const PROBES_AT_ONCE: usize = 10_000;

/// A server on a slow device. Declared in the order in which they have to end.
struct Side {
    server: Server,
    slow: SlowVolume,
}

/// How long each thing took.
#[derive(Default)]
struct Felt {
    linearizable: Histogram,
    serializable: Histogram,
    keepalive: Histogram,
    ping: Histogram,
    watch: Histogram,
    event: Histogram,
    put: Histogram,
    puts_per_second: f64,
}

impl Side {
    fn start(binary: std::path::PathBuf) -> Option<Side> {
        let slow = SlowVolume::mount()?;
        let server = Server::builder().binary(binary).data_dir(slow.volume.path().join("data")).start();
        fill(server.addr(), &Ask::Put { keys: Keys { random: false, ..KEYS }, value: VALUE_BYTES }, KEYS.space);
        fill(server.addr(), &Ask::Grant { ttl_secs: 9_000 }, LEASES);
        Some(Side { server, slow })
    }

    /// What clients feel for so long while each flush takes `flush` and others put; none: at rest.
    fn feel(&self, flush: Option<Duration>, length: Duration) -> Felt {
        self.slow.set_flush_time(flush.unwrap_or_default());
        let stop = AtomicBool::new(false);
        let felt = std::thread::scope(|scope| {
            let (server, stop) = (&self.server, &stop);
            let writers = flush.map(|flush| scope.spawn(move || put_until(server, flush, stop)));
            let felt = probe(server, length);
            stop.store(true, Ordering::Relaxed);
            let puts_per_second = writers.map_or(0.0, |writers| writers.join().expect("the writers have failed"));
            Felt { puts_per_second, ..felt }
        });
        self.slow.set_flush_time(Duration::ZERO);
        felt
    }
}

/// Puts without pause until told to stop; gives how many a second.
fn put_until(server: &Server, flush: Duration, stop: &AtomicBool) -> f64 {
    let (begun, mut puts) = (Instant::now(), 0);
    // About a second's worth at a time: each is begun when the one before is over.
    let total = (WRITERS as u128 * 1_000 / flush.as_millis().max(1)).max(2 * WRITERS as u128) as u64;
    while !stop.load(Ordering::Relaxed) {
        let crowd = Crowd { connections: 5, clients: WRITERS, total, rate: None };
        let ask = Ask::Put { keys: KEYS, value: VALUE_BYTES };
        let outcome = Session::open(server.addr(), &ask, crowd).and_then(Session::run).expect("the server takes the puts");
        assert!(outcome.failed.is_empty(), "puts: {:?}", outcome.failed);
        puts += total;
    }
    puts as f64 / begun.elapsed().as_secs_f64()
}

/// All probes at once.
fn probe(server: &Server, length: Duration) -> Felt {
    let paced = |ask: Ask, per_second: f64| {
        let total = (per_second * length.as_secs_f64()).ceil() as u64;
        let crowd = Crowd { connections: 1, clients: PROBES_AT_ONCE, total, rate: Some(per_second) };
        let outcome = Session::open(server.addr(), &ask, crowd).and_then(Session::run).expect("the server answers");
        assert!(outcome.failed.is_empty() && outcome.late == 0, "{ask:?}: {} late, failed {:?}", outcome.late, outcome.failed);
        outcome.latency
    };
    let range = |serializable| paced(Ask::Range { keys: KEYS, value: VALUE_BYTES, serializable }, 100.0);
    std::thread::scope(|scope| {
        let linearizable = scope.spawn(|| range(false));
        let serializable = scope.spawn(|| range(true));
        let keepalive = scope.spawn(|| paced(Ask::KeepAlive { leases: LEASES, once: false }, 50.0));
        let ping = scope.spawn(|| repeated(length, || ping(server)));
        let watch = scope.spawn(|| repeated(length, || create_watch(server).1));
        let delivered = scope.spawn(|| {
            let (mut watchers, _) = create_watch(server);
            let total = (10.0 * length.as_secs_f64()).ceil() as u64;
            let puts = Puts { connections: 1, clients: PROBES_AT_ONCE, total, rate: Some(10.0), value: VALUE_BYTES };
            watchers.deliver(server.addr(), &puts).expect("events come")
        });
        let delivered = delivered.join().expect("events");
        Felt {
            linearizable: linearizable.join().expect("linearizable reads"),
            serializable: serializable.join().expect("serializable reads"),
            keepalive: keepalive.join().expect("keepalives"),
            ping: ping.join().expect("PINGs"),
            watch: watch.join().expect("watches"),
            event: delivered.latency,
            put: delivered.puts.latency,
            puts_per_second: 0.0,
        }
    })
}

/// One after the other, twenty times a second.
fn repeated(length: Duration, once: impl Fn() -> Duration) -> Histogram {
    let (begun, mut times) = (Instant::now(), Histogram::default());
    for n in 0.. {
        let next = begun + Duration::from_millis(50) * n;
        if next >= begun + length {
            break;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        times.add(once());
    }
    times
}

fn create_watch(server: &Server) -> (Watchers, Duration) {
    let watches = Watches { connections: 1, streams: 1, watches: 1, keys: WATCHED };
    let (watchers, created) = Watchers::create(server.addr(), watches).expect("the server takes a watch");
    (watchers, created.latency.max())
}

/// On a connection of its own: a client that pings more than now and then is sent away.
fn ping(server: &Server) -> Duration {
    let mut wire = Wire::greeted(&server.target());
    let begun = Instant::now();
    assert_eq!(wire.send(&frame(PING, 0, 0, b"bramble?")), Sent::All);
    while wire.frame_of(PING).expect("an answer to a PING").payload != b"bramble?" {}
    begun.elapsed()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The lines of one pace.
fn tell(report: &mut Report, when: &str, felt: &Pair<Felt>) {
    type Probe = (&'static str, fn(&Felt) -> &Histogram, Option<f64>);
    let probes: [Probe; 7] = [
        ("linearizable GET", |felt| &felt.linearizable, Some(2.0)),
        ("serializable GET", |felt| &felt.serializable, Some(2.0)),
        ("HTTP/2 PING", |felt| &felt.ping, None),
        ("lease keepalive", |felt| &felt.keepalive, None),
        ("watch created", |felt| &felt.watch, None),
        ("put answered", |felt| &felt.put, None),
        ("put to its event", |felt| &felt.event, None),
    ];
    for (what, of, aim) in probes {
        let at = |share: f64| felt.map(|felt| milliseconds(of(felt).at(share)));
        report.row(&format!("{when}: {what}, p50 ms"), at(0.5), None);
        report.row(&format!("{when}: {what}, p99 ms"), at(0.99), aim);
    }
    report.row(&format!("{when}: puts a second of {WRITERS} clients"), felt.map(|felt| felt.puts_per_second), None);
}

#[test]
#[ignore = "make bench-slow LENGTH=: measures the release binary for a few minutes"]
fn table_of_a_slow_device() {
    let length = Duration::from_secs_f64(number("LENGTH", 20.0));
    let (Some(ours), Some(etcd)) = (Side::start(under_test()), Side::start(oracle("etcd"))) else { return };
    let mut report = Report::begin("slow", "ext4 on loop devices whose flushes are delayed, noatime, data=ordered");
    report.note(&format!("{} s for each server and each pace, one server after the other", length.as_secs_f64()));
    let feel = |flush: Option<Duration>| Pair { ours: ours.feel(flush, length), etcd: etcd.feel(flush, length) };
    tell(&mut report, "at rest", &feel(None));
    for ms in FLUSH_TIMES_MS {
        tell(&mut report, &format!("{ms} ms a flush"), &feel(Some(Duration::from_millis(ms))));
    }
    report.end();
}
