//! What a load costs the flash: bytes, requests and flushes that reach the *device*, the file system's journal and metadata among them.
//!
//! Each server has an ext4 file system of its own on a loop device of its own, whose counters tell ([`Volume`]). A load begins right
//! after a checkpoint (a defragmentation) and counts until the server has been told to leave and the file system has written all it
//! held back, so nothing is owed at the end that the load has caused. Loads that need little run on both servers at the same time.
//!
//! `make bench-flash` prints the table, `make bench-flash-kube` the one of a real control plane. Both keep it in `results/`.

mod device;
mod idle;
mod kube;
mod loads;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::DefragmentRequest;

use super::report::Report;
use crate::support::process::{Memory, written_by_thread};
use crate::support::server::Builder;
use crate::support::volume::{Volume, Written, on_disk};
use crate::support::{Server, oracle, under_test};

/// Room for a server's data: etcd's two first segments alone take 128 MB.
const DEVICE_BYTES: u64 = 1 << 30;

/// What may be given up for less wear, as the README tells.
const RELAXED: [&str; 2] = [
    "--relaxed-prefixes=/registry/leases/,/registry/masterleases/,/registry/peerserverleases/,/registry/events/",
    "--relaxed-leases",
];

/// A server on a device of its own. Declared in the order in which they have to end.
struct Side {
    server: Server,
    volume: Volume,
}

impl Side {
    /// Starts it; none where no device can be had.
    fn start(binary: PathBuf, configure: impl Fn(Builder) -> Builder) -> Option<Side> {
        let volume = Volume::mount_with(DEVICE_BYTES, &mount_options())?;
        let server = configure(Server::builder().binary(binary).data_dir(volume.path().join("data"))).start();
        Some(Side { server, volume })
    }

    /// Leaves the server as it is once it has run for a while and has been started again: segments of its log have come round.
    fn warm_up(&mut self) {
        loads::warm_up(&self.server);
        self.server.terminate();
        self.server.restart();
    }

    /// What `load` and its end cost. `load` gives how many requests it has made.
    fn measure(&mut self, load: impl FnOnce(&Server) -> u64) -> Wear {
        self.server.client().call(&DefragmentRequest {});
        let before = self.volume.settle();
        let threads_before = written_by_thread(self.server.pid());
        let begun = Instant::now();
        let requests = load(&self.server);
        let took = begun.elapsed();
        let memory = Memory::of(&self.server);
        let mut threads = written_by_thread(self.server.pid());
        threads.retain(|name, bytes| {
            *bytes = bytes.saturating_sub(threads_before.get(name).copied().unwrap_or(0));
            *bytes > 0
        });
        let serving = self.volume.wear(before);
        let before_leaving = self.volume.settle();
        self.server.terminate();
        let leaving = self.volume.wear(before_leaving);
        Wear { requests, took, memory, threads, serving, leaving }
    }
}

/// What a load has cost.
#[derive(Clone)]
struct Wear {
    /// Requests it made.
    requests: u64,
    took: Duration,
    /// At its end.
    memory: Memory,
    /// What the server's threads have had written meanwhile.
    threads: BTreeMap<String, u64>,
    serving: Written,
    /// What the server has written when told to leave: it was owed.
    leaving: Written,
}

impl Wear {
    fn bytes(&self) -> f64 {
        (self.serving.bytes + self.leaving.bytes) as f64
    }

    fn kb_per_request(&self) -> f64 {
        self.bytes() / 1e3 / self.requests as f64
    }

    fn gb_per_day(&self) -> f64 {
        self.rate_per_day(self.serving.bytes + self.leaving.bytes)
    }

    fn rate_per_day(&self, bytes: u64) -> f64 {
        bytes as f64 / 1e9 / self.took.as_secs_f64() * 86_400.0
    }

    fn flushes_per_request(&self) -> f64 {
        self.serving.flushes as f64 / self.requests as f64
    }

    fn flushes_per_minute(&self) -> f64 {
        self.serving.flushes as f64 / self.took.as_secs_f64() * 60.0
    }

    fn writes_per_request(&self) -> f64 {
        self.serving.requests as f64 / self.requests as f64
    }

    /// Bytes by who had them written, in GB a day; the last one is what the threads know nothing of.
    fn origins(&self) -> String {
        let rest = self.serving.bytes.saturating_sub(self.threads.values().sum());
        let named = self.threads.iter().map(|(name, bytes)| (name.as_str(), *bytes));
        let all = named.chain([("at leaving", self.leaving.bytes), ("the file system's own", rest)]);
        all.map(|(name, bytes)| format!("{name} {:.3}", self.rate_per_day(bytes))).collect::<Vec<_>>().join(", ")
    }
}

impl std::fmt::Display for Wear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Wear { requests, took, memory, threads, serving, leaving } = self;
        write!(
            f,
            "{requests} requests in {:.1} s; {serving:?}; at leaving {leaving:?}; {memory:?}; by thread {threads:?}",
            took.as_secs_f64()
        )
    }
}

/// Bramble's and etcd's.
pub struct Pair<T> {
    pub ours: T,
    pub etcd: T,
}

impl Pair<Side> {
    fn start(configure: impl Fn(Builder) -> Builder) -> Option<Pair<Side>> {
        let ours = Side::start(under_test(), &configure)?;
        Some(Pair { ours, etcd: Side::start(oracle("etcd"), &configure)? })
    }

    fn warm_up(&mut self) {
        self.ours.warm_up();
        self.etcd.warm_up();
    }

    /// The same load on both at the same time.
    fn measure_together(&mut self, load: impl Fn(&Server) -> u64 + Sync) -> Pair<Wear> {
        let (ours, etcd, load) = (&mut self.ours, &mut self.etcd, &load);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| etcd.measure(load));
            let ours = ours.measure(load);
            Pair { ours, etcd: other.join().expect("etcd's load has failed") }
        })
    }

    /// The same load on one after the other.
    fn measure_in_turn(&mut self, load: impl Fn(&Server) -> u64) -> Pair<Wear> {
        Pair { ours: self.ours.measure(&load), etcd: self.etcd.measure(&load) }
    }

    fn each<T>(&self, of: impl Fn(&Side) -> T) -> Pair<T> {
        Pair { ours: of(&self.ours), etcd: of(&self.etcd) }
    }
}

impl<T> Pair<T> {
    /// Of each what `of` says.
    pub fn map<U>(&self, of: impl Fn(&T) -> U) -> Pair<U> {
        Pair { ours: of(&self.ours), etcd: of(&self.etcd) }
    }
}

/// What a server writes of itself while nobody asks anything.
struct Silence {
    fresh_bytes: Pair<f64>,
    memory: Pair<Memory>,
    written: Pair<f64>,
}

/// Two servers that hold nothing, left alone.
fn silence(length: Duration) -> Option<Silence> {
    let mut pair = Pair::start(|builder| builder)?;
    let fresh_bytes = pair.each(|side| on_disk(side.server.data_dir()) as f64);
    pair.warm_up();
    // What is owed for a start (an entry of the new term, which the next checkpoint holds) is paid, and what it does once is done.
    pair.each(|side| side.server.client().call(&DefragmentRequest {}));
    std::thread::sleep(Duration::from_secs(10));
    let before = pair.each(|side| {
        side.volume.settle();
        side.volume.written()
    });
    std::thread::sleep(length);
    let after = pair.each(|side| side.volume.written_and_synced());
    let memory = pair.each(|side| Memory::of(&side.server));
    let written = Pair { ours: (after.ours - before.ours).bytes as f64, etcd: (after.etcd - before.etcd).bytes as f64 };
    Some(Silence { fresh_bytes, memory, written })
}

#[test]
#[ignore = "make bench-flash MINUTES=: measures the release binary for as long as one likes"]
fn table_of_wear() {
    let length = minutes();
    let nodes = number("NODES", 0);
    let mut report = Report::begin(&named("flash"), &disk());
    report.note(&format!("MINUTES={} NODES={nodes}", length.as_secs_f64() / 60.0));
    let (puts, kubernetes, relaxed, silence) = std::thread::scope(|scope| {
        let puts = scope.spawn(|| {
            let mut pair = Pair::start(|builder| builder)?;
            pair.warm_up();
            Some(pair.measure_together(|server| loads::slow_puts(server, length)))
        });
        let kubernetes = scope.spawn(|| {
            let mut pair = Pair::start(Builder::kubeadm)?;
            pair.warm_up();
            pair.each(|side| idle::fill(&side.server, nodes));
            Some(pair.measure_together(|server| idle::play(server, nodes, length)))
        });
        let relaxed = scope.spawn(|| {
            let mut side =
                Side::start(under_test(), |builder| RELAXED.iter().fold(builder.kubeadm(), |builder, flag| builder.flag(*flag)))?;
            side.warm_up();
            idle::fill(&side.server, nodes);
            Some(side.measure(|server| idle::play(server, nodes, length)))
        });
        let silence = silence(length);
        let relaxed = relaxed.join().expect("idle Kubernetes with a relaxed class");
        (puts.join().expect("slow puts"), kubernetes.join().expect("idle Kubernetes"), relaxed, silence)
    });
    let (Some(puts), Some(kubernetes), Some(relaxed), Some(silence)) = (puts, kubernetes, relaxed, silence) else { return };
    let Some(mut pair) = Pair::start(|builder| builder) else { return };
    let many = {
        pair.warm_up();
        pair.measure_in_turn(|server| loads::many_puts(server, 100_000))
    };

    report.row("1 KiB put, 20 a second: kB to the device per put", puts.map(Wear::kb_per_request), Some(4.5));
    report.row("  write requests per put", puts.map(Wear::writes_per_request), None);
    report.row("  flushes per put", puts.map(Wear::flushes_per_request), None);
    report.row("1 KiB put, 1000 clients: kB to the device per put", many.map(Wear::kb_per_request), Some(2.2));
    report.row("  write requests per put", many.map(Wear::writes_per_request), None);
    report.row("  flushes per put", many.map(Wear::flushes_per_request), None);
    report.row("  peak RSS, MB", many.map(|wear| wear.memory.peak as f64 / 1e6), Some(40.0));
    idle_rows(&mut report, "idle Kubernetes, played", &kubernetes);
    let relaxed = Pair { ours: relaxed, etcd: kubernetes.etcd.clone() };
    report.row("  with a relaxed class: GB to the device a day", relaxed.map(Wear::gb_per_day), Some(0.1));
    report.row("  flushes a minute", relaxed.map(Wear::flushes_per_minute), None);
    report.note(&format!("with a relaxed class, GB a day by who had it written: {}", relaxed.ours.origins()));
    report.row("no request at all: kB to the device", Pair::map(&silence.written, |bytes| bytes / 1e3), Some(0.0));
    report.row("  RSS, MB", silence.memory.map(|memory| memory.resident as f64 / 1e6), Some(8.0));
    report.row("fresh data directory, MB on disk", silence.fresh_bytes.map(|bytes| bytes / 1e6), Some(10.0));
    report.raw("1 KiB put, 20 a second", &puts);
    report.raw("1 KiB put, 1000 clients", &many);
    report.raw("idle Kubernetes, played", &kubernetes);
    report.end();
}

/// What an idle Kubernetes costs.
fn idle_rows(report: &mut Report, what: &str, wear: &Pair<Wear>) {
    report.row(&format!("{what}: GB to the device a day"), wear.map(Wear::gb_per_day), Some(0.7));
    report.row("  flushes a minute", wear.map(Wear::flushes_per_minute), None);
    report.row("  RSS, MB", wear.map(|wear| wear.memory.resident as f64 / 1e6), Some(15.0));
    report.note(&format!(
        "{what}, GB a day by who had it written: Bramble: {}; etcd: {}",
        wear.ours.origins(),
        wear.etcd.origins()
    ));
}

/// `MOUNT` of the environment: the file systems' mount options. Reads should not be counted, so `noatime` unless said.
fn mount_options() -> String {
    std::env::var("MOUNT").unwrap_or("noatime".to_owned())
}

/// A name for results, with the mount options where they were asked for.
fn named(what: &str) -> String {
    std::env::var("MOUNT").map_or(what.to_owned(), |options| format!("{what}-{}", options.replace(',', "-")))
}

fn disk() -> String {
    format!("ext4 on loop devices, mounted {}, otherwise as it comes: data=ordered, commit=5", mount_options())
}

/// `MINUTES` of the environment, ten unless said.
fn minutes() -> Duration {
    Duration::from_secs_f64(60.0 * number("MINUTES", 10.0))
}

/// A number of the environment.
pub fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}
