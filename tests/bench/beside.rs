//! What clients who put feel while the server does something heavy beside: `make bench-beside`.
//!
//! A few clients put without ever waiting for an answer: so many a second, each counted from the moment it was to leave. The rate is
//! [`Scale::rate`], a sixth of what etcd takes at most on two cores and a fifteenth of what Bramble takes, so that what is measured is
//! waiting for the work beside and not for other puts. Each piece of work is measured by itself: a calm stretch first, then the work,
//! on etcd and on Bramble in turn, on the same disk, both alive all the time. The aim is the project's: the puts' p99 beside it stays
//! under twice the calm one's, or under etcd's in the same case.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::{CompactionRequest, DefragmentRequest, RangeRequest};
use prost::Message;

use super::flash::Pair;
use super::load::{Ask, Crowd, Histogram, History, Keys, Paced, Session, fill};
use super::report::Report;
use super::sides::Side;
use super::wanted;
use crate::support::Server;
use crate::support::process::Memory;
use crate::support::requests::{Unary, range};

/// How much of everything.
struct Scale {
    /// Puts a second.
    rate: f64,
    /// Before each piece of work, and after its beginning if it does not last longer itself.
    calm: Duration,
    stretch: Duration,
    /// Revisions of each history, twice: one for each kind of compaction.
    revisions: u64,
    /// Rows of [`ROW_BYTES`] that are defragmented, and those of them that one range asks for.
    rows: u64,
    ranged: u64,
    /// Large values a second that make checkpoints due.
    large: f64,
}

const FULL: Scale = Scale {
    rate: 2_000.0,
    calm: Duration::from_secs(5),
    stretch: Duration::from_secs(10),
    revisions: 1_000_000,
    rows: 130_000,
    ranged: 25_000,
    large: 64.0,
};

const SMOKE: Scale = Scale {
    rate: 200.0,
    calm: Duration::from_millis(300),
    stretch: Duration::from_millis(700),
    revisions: 5_000,
    rows: 1_000,
    ranged: 500,
    large: 20.0,
};

/// The puts that are measured: as many connections as a small control plane has writers. So many may wait for answers, more than
/// a server that stands still for seconds leaves behind.
const CONNECTIONS: usize = 4;
const WAITING: usize = 40_000;
const STEADY: Ask = Ask::Put { keys: Keys { size: 24, space: 1_000, random: true }, value: 256 };

/// The histories: a hundred keys of ten thousand at a time get a new revision.
const HISTORY: Ask = Ask::TxnPuts { keys: Keys { size: 32, space: 10_000, random: false }, value: 64, puts: PUTS_AT_ONCE };
const PUTS_AT_ONCE: u64 = 100;

/// What ranges ask for.
const ROW_BYTES: usize = 4096;
const READERS: usize = 4;
const LARGE_BYTES: usize = 64 << 10;

fn rows(space: u64) -> Keys {
    Keys { size: 40, space, random: false }
}

/// A piece of work: its name, and what does it once. Repeated until the stretch is over unless `once`.
struct Work {
    name: &'static str,
    once: bool,
    run: fn(&Server, &Scale),
}

/// A store that some works need, and those works in order.
struct Setting {
    prepare: fn(&Server, &Scale),
    works: &'static [Work],
}

const SETTINGS: &[Setting] = &[
    Setting {
        prepare: |server, scale| fill(server.addr(), &Ask::Put { keys: rows(scale.rows), value: ROW_BYTES }, scale.rows),
        works: &[
            Work { name: "checkpoints of large values", once: false, run: put_large_values },
            Work { name: "range of 100 MB, one reader", once: false, run: |server, scale| range_much(server, scale, 1) },
            Work { name: "range of 100 MB, four readers", once: false, run: |server, scale| range_much(server, scale, READERS) },
            Work { name: "defragmentation of 500 MB", once: true, run: defragment },
        ],
    },
    Setting {
        prepare: |server, scale| fill(server.addr(), &HISTORY, 2 * scale.revisions / PUTS_AT_ONCE),
        works: &[
            Work { name: "watch of 1 M events of history", once: false, run: watch_history },
            Work {
                name: "compaction of 1 M revisions",
                once: true,
                run: |server, scale| compact(server, scale.revisions, false),
            },
            Work {
                name: "compaction of 1 M revisions, physical",
                once: true,
                run: |server, scale| compact(server, 2 * scale.revisions, true),
            },
        ],
    },
];

fn put_large_values(server: &Server, scale: &Scale) {
    let ask = Ask::Put { keys: Keys { size: 48, space: 100, random: false }, value: LARGE_BYTES };
    let total = (scale.large * scale.stretch.as_secs_f64()).ceil() as u64;
    let crowd = Crowd { connections: 1, clients: total as usize, total, rate: Some(scale.large) };
    call(server, &ask, crowd);
}

fn range_much(server: &Server, scale: &Scale, readers: usize) {
    let all = rows(scale.rows);
    let request = range(all.name(0), all.name(scale.ranged));
    let ask = Ask::Raw { path: RangeRequest::PATH, message: request.encode_to_vec() };
    call(server, &ask, Crowd { connections: readers, clients: readers, total: readers as u64, rate: None });
}

fn defragment(server: &Server, _: &Scale) {
    server.client().call(&DefragmentRequest {});
}

fn watch_history(server: &Server, scale: &Scale) {
    History::read(server.addr(), 2, scale.revisions).expect("the server tells its history");
}

fn compact(server: &Server, revisions: u64, physical: bool) {
    server.client().call(&CompactionRequest { revision: (revisions / PUTS_AT_ONCE) as i64, physical });
}

fn call(server: &Server, ask: &Ask, crowd: Crowd) {
    let outcome = Session::open(server.addr(), ask, crowd).and_then(Session::run).expect("the server takes the load");
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
}

/// What the puts felt.
struct Felt {
    calm: Histogram,
    beside: Histogram,
    failed: usize,
    /// How long the work took once, and how often it was done.
    work: Duration,
    times: u32,
    memory: Memory,
}

impl fmt::Display for Felt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Felt { calm, beside, failed, work, times, memory } = self;
        write!(f, "{times} times in {work:.2?} each; {failed} puts failed; {memory:?}")?;
        for (when, puts) in [("calm", calm), ("beside", beside)] {
            write!(f, "; {when}: {} puts", puts.count())?;
            for share in [0.5, 0.9, 0.99, 0.999, 1.0] {
                write!(f, ", p{} {:.2} ms", share * 100.0, milliseconds(puts.at(share)))?;
            }
        }
        Ok(())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Puts all the time, and after a calm stretch does the work.
fn feel(server: &Server, scale: &Scale, work: &Work) -> Felt {
    let crowd = Crowd { connections: CONNECTIONS, clients: WAITING, total: u64::MAX, rate: Some(scale.rate) };
    let stop = Arc::new(AtomicBool::new(false));
    let steady = Session::open(server.addr(), &STEADY, crowd).expect("the server accepts connections");
    thread::scope(|scope| {
        let puts = scope.spawn({
            let stop = stop.clone();
            move || steady.run_until(stop).expect("the server takes the puts")
        });
        // The first puts of a connection pay for its beginning.
        thread::sleep(scale.calm / 5);
        let calm = Instant::now();
        thread::sleep(scale.calm);
        let begun = Instant::now();
        let mut times = 0;
        while times == 0 || !work.once && begun.elapsed() < scale.stretch {
            (work.run)(server, scale);
            times += 1;
        }
        let took = begun.elapsed();
        // What is left to do afterwards, without a word of it, belongs to the work.
        thread::sleep(scale.stretch.saturating_sub(took));
        let ended = Instant::now();
        stop.store(true, Ordering::Relaxed);
        let puts = puts.join().expect("the puts have failed").paced;
        let during = |from: Instant, to: Instant| puts.iter().filter(move |put| (from..to).contains(&put.due));
        let latencies = |puts: &mut dyn Iterator<Item = &Paced>| {
            let mut latencies = Histogram::default();
            puts.for_each(|put| latencies.add(put.took));
            latencies
        };
        Felt {
            calm: latencies(&mut during(calm, begun)),
            beside: latencies(&mut during(begun, ended)),
            failed: puts.iter().filter(|put| put.failed).count(),
            work: took / times,
            times,
            memory: Memory::of(server),
        }
    })
}

/// Every work that is wanted, with what etcd's and our puts felt.
fn measure(scale: &Scale, mut each: impl FnMut(&'static str, Pair<Felt>)) {
    for Setting { prepare, works } in SETTINGS {
        let works: Vec<_> = works.iter().filter(|work| wanted(work.name)).collect();
        if works.is_empty() {
            continue;
        }
        let servers = Pair { ours: Side::Bramble.start(), etcd: Side::Etcd.start() };
        servers.map(|server| prepare(server, scale));
        for work in works {
            let etcd = feel(&servers.etcd, scale, work);
            each(work.name, Pair { ours: feel(&servers.ours, scale, work), etcd });
        }
    }
}

/// The lines of one work.
fn tell(report: &mut Report, name: &str, felt: &Pair<Felt>) {
    let at = |of: fn(&Felt) -> &Histogram, share: f64| felt.map(|felt| milliseconds(of(felt).at(share)));
    let calm = at(|felt| &felt.calm, 0.99);
    let beside = at(|felt| &felt.beside, 0.99);
    // The aim is told with as many digits as the figures.
    let aim = ((2.0 * calm.ours).max(beside.etcd) * 100.0).round() / 100.0;
    report.row(&format!("{name}: put p50 ms"), at(|felt| &felt.beside, 0.5), None);
    report.row("  put p99 ms, calm", calm, None);
    report.row("  put p99 ms, beside", beside, Some(aim));
    report.row("  put max ms, beside", at(|felt| &felt.beside, 1.0), None);
    report.row("  puts that failed", felt.map(|felt| felt.failed as f64), None);
    report.row("  the work itself, s", felt.map(|felt| felt.work.as_secs_f64()), None);
    report.raw(name, felt);
}

#[test]
#[ignore = "make bench-beside LOADS=: measures the release binary for some six minutes"]
fn table_of_puts_beside_heavy_work() {
    let mut report = Report::begin("beside", "the same for both, as in the table of `make bench`");
    let Scale { rate, calm, stretch, .. } = FULL;
    report.note(&format!(
        "{rate} puts a second of 256 bytes on {CONNECTIONS} connections, latencies from the moment each was to leave; \
         {calm:?} calm before each work; beside: {stretch:?}, or as long as the work takes"
    ));
    measure(&FULL, |name, felt| tell(&mut report, name, &felt));
    report.end();
}

#[test]
fn puts_are_answered_beside_heavy_work() {
    let mut works = 0;
    measure(&SMOKE, |name, felt| {
        works += 1;
        for felt in [&felt.ours, &felt.etcd] {
            assert_eq!(felt.failed, 0, "{name}: {felt}");
            assert!(felt.calm.count() > 0 && felt.beside.count() > 0 && felt.times > 0, "{name}: {felt}");
        }
    });
    assert_eq!(works, SETTINGS.iter().map(|setting| setting.works.len()).sum::<usize>());
}
