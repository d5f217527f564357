//! The loads of `make bench`, and how one of them is measured once.

use super::benchmark;
use super::load::canned::Canned;
use super::load::{Ask, Crowd, Keys, Puts, Session, Watchers, Watches, fill, own_cpu};
use super::process::{Usage, forget_peak};
use super::samples::{By, Figures};
use super::sides::Side;
use crate::support::Server;

/// A load by name.
pub struct Load {
    pub name: &'static str,
    pub shape: Shape,
}

/// What a load does.
pub enum Shape {
    /// Calls of one kind.
    Calls(Ask, Crowd),
    /// Watches, then as many puts as the server takes.
    Events(Watches, Puts),
    /// Watches, then paced puts.
    Latency(Watches, Puts),
}

/// Keys that reads choose among.
const STORED: u64 = 10_000;
const LEASES: u64 = 1000;

/// All of them. `total` replaces the number of calls that takes etcd some five seconds.
pub fn all(total: Option<u64>) -> Vec<Load> {
    let one = |calls| Crowd { connections: 1, clients: 1, total: total.unwrap_or(calls), rate: None };
    let thousand = |calls: u64| Crowd { connections: 100, clients: 1000, ..one(calls) };
    let keys = |crowd: Crowd| Keys::in_order(crowd.total);
    let calls = |name, ask: fn(Keys) -> Ask, keys: Keys, crowd: Crowd| Load { name, shape: Shape::Calls(ask(keys), crowd) };
    let put: fn(Keys) -> Ask = |keys| Ask::Put { keys, value: 256 };
    let range: fn(Keys) -> Ask = |keys| Ask::Range { keys, value: 256, serializable: false };
    let stored = Keys::at_random(STORED);
    let watched = Keys { size: 32, ..Keys::in_order(1) };
    let crowd = |streams: usize| Watches { connections: streams, streams, watches: streams, keys: watched };
    let puts = |clients: usize, calls, rate| Puts {
        connections: clients.min(100),
        clients,
        total: total.unwrap_or(calls),
        rate,
        value: 32,
    };
    vec![
        calls("put-1", put, keys(one(5_000)), one(5_000)),
        calls("put-1000", put, keys(thousand(80_000)), thousand(80_000)),
        calls("put-1k", |keys| Ask::Put { keys, value: 1024 }, Keys::in_order(1000), thousand(80_000)),
        calls("txn-put", |keys| Ask::TxnPut { keys, value: 256 }, keys(thousand(80_000)), thousand(80_000)),
        calls("range-1", range, stored, one(10_000)),
        calls("range-1000", range, stored, thousand(120_000)),
        calls("range-serializable", |keys| Ask::Range { keys, value: 256, serializable: true }, stored, thousand(120_000)),
        calls("keepalive", |_| Ask::KeepAlive { leases: LEASES, once: true }, stored, thousand(120_000)),
        calls("keepalive-stream", |_| Ask::KeepAlive { leases: LEASES, once: false }, stored, thousand(200_000)),
        Load { name: "watch-latency", shape: Shape::Latency(crowd(10), puts(10, 500, Some(100.0))) },
        Load { name: "watch", shape: Shape::Events(crowd(100), puts(100, 300, None)) },
    ]
}

/// A server's use of the machine over a load.
struct Span<'a> {
    server: &'a Server,
    before: Usage,
}

impl<'a> Span<'a> {
    fn begin(server: &'a Server) -> Span<'a> {
        forget_peak(server.pid());
        Span { server, before: Usage::of(server.pid()) }
    }

    fn end(self, calls: u64, figures: &mut Figures) {
        let Usage { cpu, written, peak } = Usage::of(self.server.pid());
        let calls = calls as f64;
        figures.insert("cpu_us".into(), (cpu - self.before.cpu).as_secs_f64() * 1e6 / calls);
        figures.insert("written_kb".into(), (written - self.before.written) as f64 / 1e3 / calls);
        figures.insert("peak_mb".into(), peak as f64 / 1e6);
    }
}

impl Load {
    /// Whether both generators have it. The benchmark opens a stream for each keepalive.
    pub fn is_made_by(&self, by: By) -> bool {
        by == By::Light || self.name != "keepalive-stream"
    }

    /// Measures it once on a fresh server.
    pub fn measure(&self, by: By, side: Side) -> Figures {
        let server = side.start();
        match &self.shape {
            Shape::Calls(ask, crowd) => {
                prepare(&server, ask);
                calls(&server, by, ask, *crowd)
            }
            Shape::Events(watches, puts) => events(&server, by, watches, puts),
            Shape::Latency(watches, puts) => latency(&server, by, watches, puts),
        }
    }
}

/// Stores what the calls need.
pub fn prepare(server: &Server, ask: &Ask) {
    match *ask {
        Ask::Range { keys, value, .. } | Ask::Rows { keys, value, .. } => {
            fill(server.addr(), &Ask::Put { keys: Keys { random: false, ..keys }, value }, keys.space)
        }
        Ask::KeepAlive { leases, .. } => fill(server.addr(), &Ask::Grant { ttl_secs: 3600 }, leases),
        _ => {}
    }
}

/// Measures calls on a server that is prepared for them.
pub fn calls(server: &Server, by: By, ask: &Ask, crowd: Crowd) -> Figures {
    let mut figures = Figures::new();
    if by == By::Benchmark {
        let span = Span::begin(server);
        let summary = benchmark::calls(server, ask, crowd);
        span.end(crowd.total, &mut figures);
        tell("", &summary, &mut figures);
        return figures;
    }
    let session = Session::open(server.addr(), ask, crowd).expect("the server accepts connections");
    let span = Span::begin(server);
    let outcome = session.run().expect("the server takes the load");
    span.end(crowd.total, &mut figures);
    assert!(outcome.failed.is_empty() && outcome.late == 0, "{ask:?}: {:?}, {} late", outcome.failed, outcome.late);
    let milliseconds = |share| outcome.latency.at(share).as_secs_f64() * 1e3;
    let own = outcome.own_cpu.as_secs_f64() * 1e6 / crowd.total as f64;
    let per_second = crowd.total as f64 / outcome.took.as_secs_f64();
    figures.extend([
        ("per_second".to_owned(), per_second),
        ("p50_ms".to_owned(), milliseconds(0.5)),
        ("p99_ms".to_owned(), milliseconds(0.99)),
        ("max_ms".to_owned(), outcome.latency.max().as_secs_f64() * 1e3),
        ("client_cpu_us".to_owned(), own),
    ]);
    if !ask.keeps_stream() {
        figures.insert("ceiling_per_second".to_owned(), ceiling(ask, crowd));
    }
    figures
}

/// Calls a second of the same load at a server that does nothing: what the generator could have measured at most.
fn ceiling(ask: &Ask, crowd: Crowd) -> f64 {
    let canned = Canned::start(&vec![0; ask.shortest_answer()]);
    let outcome = Session::open(canned.addr(), ask, crowd).and_then(Session::run).expect("the server takes everything");
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    crowd.total as f64 / outcome.took.as_secs_f64()
}

fn tell(of: &str, summary: &benchmark::Summary, figures: &mut Figures) {
    figures.extend([
        (format!("{of}per_second"), summary.per_second),
        (format!("{of}p50_ms"), summary.p50 * 1e3),
        (format!("{of}p99_ms"), summary.p99 * 1e3),
        (format!("{of}max_ms"), summary.max * 1e3),
    ]);
}

fn events(server: &Server, by: By, watches: &Watches, puts: &Puts) -> Figures {
    let mut figures = Figures::new();
    let events = watches.all() * puts.total;
    if by == By::Benchmark {
        let span = Span::begin(server);
        let [created, told] = benchmark::watch(server, watches, puts);
        span.end(events, &mut figures);
        tell("create_", &created, &mut figures);
        figures.insert("per_second".into(), told.per_second);
        return figures;
    }
    let (mut watchers, created) = Watchers::create(server.addr(), *watches).expect("the server takes the watches");
    let per_second = created.latency.count() as f64 / created.took.as_secs_f64();
    figures.insert("create_per_second".into(), per_second);
    figures.insert("create_p50_ms".into(), created.latency.at(0.5).as_secs_f64() * 1e3);
    figures.insert("create_p99_ms".into(), created.latency.at(0.99).as_secs_f64() * 1e3);
    deliver(server, &mut watchers, puts, events, &mut figures);
    figures
}

fn latency(server: &Server, by: By, watches: &Watches, puts: &Puts) -> Figures {
    let mut figures = Figures::new();
    let events = watches.all() * puts.total;
    if by == By::Benchmark {
        let span = Span::begin(server);
        let summary = benchmark::watch_latency(server, watches, puts);
        span.end(events, &mut figures);
        tell("", &summary, &mut figures);
        return figures;
    }
    let (mut watchers, _) = Watchers::create(server.addr(), *watches).expect("the server takes the watches");
    deliver(server, &mut watchers, puts, events, &mut figures);
    figures
}

/// Puts, and what the watches are told of them.
pub fn deliver(server: &Server, watchers: &mut Watchers, puts: &Puts, events: u64, figures: &mut Figures) {
    let span = Span::begin(server);
    let before = own_cpu();
    let told = watchers.deliver(server.addr(), puts).expect("the server takes the puts");
    let own = own_cpu() - before;
    span.end(events, figures);
    assert_eq!((told.events, told.puts.latency.count(), told.puts.late), (events, puts.total, 0), "{:?}", told.puts.failed);
    figures.extend([
        ("per_second".to_owned(), told.events as f64 / told.took.as_secs_f64()),
        ("p50_ms".to_owned(), told.latency.at(0.5).as_secs_f64() * 1e3),
        ("p99_ms".to_owned(), told.latency.at(0.99).as_secs_f64() * 1e3),
        ("client_cpu_us".to_owned(), own.as_secs_f64() * 1e6 / events as f64),
    ]);
}
