//! How costs grow: with the size of values, the number of clients, of keys and of watchers. `make bench-growth` measures both servers,
//! prints the growth of each cost and draws the curves into `docs/growth-*.svg`.
//!
//! A cost *grows faster* than etcd's if from the smallest to the largest quantity both its factor and its increase are greater than
//! etcd's. The factor alone would condemn whoever starts low, the increase alone whoever starts high.

mod plot;

use std::time::Duration;

use super::load::{Ask, Crowd, Keys, Puts, Watchers, Watches, fill};
use super::loads::{calls, deliver, prepare};
use super::samples::{By, Figures, Sample, Samples};
use super::sides::Side;
use super::table::show;
use super::{number, wanted};
use crate::limits::figures::median_start;
use crate::support::Server;
use crate::support::process::Memory;
use plot::{Curve, Panel};

/// A quantity that grows.
struct Quantity {
    name: &'static str,
    label: &'static str,
    steps: &'static [u64],
    /// Figures that are drawn and judged, and what they are called.
    costs: &'static [(&'static str, &'static str)],
    /// Measures a fresh server at one step.
    measure: fn(&mut Server, u64) -> Figures,
}

const QUANTITIES: &[Quantity] = &[
    Quantity { name: "values", label: "bytes of a value", steps: &[100, 1024, 16_384], costs: OF_CALLS, measure: values },
    Quantity { name: "clients", label: "clients", steps: &[1, 10, 100, 1000], costs: OF_CALLS, measure: clients },
    Quantity { name: "keys", label: "keys of 256 bytes", steps: &[10_000, 100_000, 1_000_000], costs: OF_KEYS, measure: keys },
    Quantity { name: "watchers", label: "watchers", steps: &[1, 10, 100, 1000, 10_000], costs: OF_WATCHERS, measure: watchers },
];

const OF_CALLS: &[(&str, &str)] = &[
    ("put_cpu_us", "server CPU per put, µs"),
    ("range_cpu_us", "server CPU per range, µs"),
    ("put_us", "time per put, all clients together, µs"),
    ("range_us", "time per range, all clients together, µs"),
];

const OF_KEYS: &[(&str, &str)] = &[
    ("put_cpu_us", "server CPU per put, µs"),
    ("range_cpu_us", "server CPU per range, µs"),
    ("put_us", "time per put, all clients together, µs"),
    ("range_us", "time per range, all clients together, µs"),
    ("memory_mb", "memory (RSS) after a start, MB"),
    ("start_ms", "SIGKILL to first linearizable read, ms"),
];

const OF_WATCHERS: &[(&str, &str)] = &[
    ("put_cpu_us", "server CPU per put of another key, µs"),
    ("range_cpu_us", "server CPU per range, µs"),
    ("put_us", "time per put of another key, all clients, µs"),
    ("event_cpu_us", "server CPU per event, put included, µs"),
    ("event_us", "time per event, µs"),
    ("memory_mb", "memory (RSS) with the watchers, MB"),
];

#[test]
#[ignore = "make bench-growth: it measures the release binary, for half an hour"]
fn no_cost_grows_faster_than_etcds() {
    let rounds = number("ROUNDS").unwrap_or(3) as usize;
    let mut samples = Samples::open("growth");
    for quantity in QUANTITIES.iter().filter(|quantity| wanted(quantity.name)) {
        for &step in quantity.steps {
            for (round, server) in Side::interleaved(rounds) {
                let figures = (quantity.measure)(&mut server.start(), step);
                println!("{} {step} {server:?} {round}: {}", quantity.name, serde_json::to_string(&figures).unwrap());
                samples.add(Sample { load: load(quantity, step), by: By::Light, server, round, figures });
            }
        }
    }
    println!("\n| cost | quantity | Bramble | factor | etcd | factor | |\n|---|---|---:|---:|---:|---:|---|");
    for quantity in QUANTITIES {
        quantity.judge(&samples);
        quantity.draw(&samples);
    }
}

fn load(quantity: &Quantity, step: u64) -> String {
    format!("{}-{step}", quantity.name)
}

impl Quantity {
    /// A server's points that were measured.
    fn curve(&self, samples: &Samples, side: Side, cost: &str) -> Vec<(f64, f64)> {
        let at = |&step: &u64| samples.median(&load(self, step), By::Light, side, cost).map(|figure| (step as f64, figure));
        self.steps.iter().filter_map(at).collect()
    }

    /// Prints how each cost grows, and whether faster than etcd's.
    fn judge(&self, samples: &Samples) {
        for (cost, words) in self.costs {
            let [ours, etcd] = Side::ALL.map(|side| {
                let curve = self.curve(samples, side, cost);
                Some((curve.first()?.1, curve.last()?.1))
            });
            let (Some(ours), Some(etcd)) = (ours, etcd) else { continue };
            let factor = |(first, last): (f64, f64)| last / first;
            let increase = |(first, last): (f64, f64)| last - first;
            let slower = factor(ours) <= factor(etcd) || increase(ours) <= increase(etcd);
            let verdict = if slower { "met" } else { "**MISSED**" };
            let ends = |(first, last): (f64, f64)| format!("{} -> {}", show(first), show(last));
            println!(
                "| {words} | {} | {} | {:.2} | {} | {:.2} | {verdict} |",
                self.label,
                ends(ours),
                factor(ours),
                ends(etcd),
                factor(etcd)
            );
        }
    }

    /// Draws the curves, if there are any.
    fn draw(&self, samples: &Samples) {
        let curve = |side, name, cost: &str| Curve { name, points: self.curve(samples, side, cost) };
        let panel = |(cost, words): &(&str, &str)| Panel {
            title: (*words).to_owned(),
            x_label: self.label,
            curves: [curve(Side::Bramble, "Bramble", cost), curve(Side::Etcd, "etcd 3.7.3", cost)],
        };
        let panels: Vec<Panel> = self.costs.iter().map(panel).collect();
        if panels.iter().any(|panel| panel.curves.iter().any(|curve| curve.points.len() < 2)) {
            return;
        }
        let title = format!("Costs by {}: {}, {}", self.label, samples.machine["date"], samples.machine["commit"]);
        let path = format!("{}/docs/growth-{}.svg", env!("CARGO_MANIFEST_DIR"), self.name);
        std::fs::write(&path, plot::svg(&title, &panels)).unwrap();
    }
}

fn crowd(clients: usize, total: u64) -> Crowd {
    Crowd { connections: clients.div_ceil(10), clients, total, rate: None }
}

/// Puts and ranges of the same keys: processor time of the server for each, and time in which one is done.
fn puts_and_ranges(server: &Server, keys: Keys, value: usize, puts: Crowd, ranges: Crowd) -> Figures {
    let mut all = Figures::new();
    let ranged = Ask::Range { keys, value, serializable: false };
    for (name, ask, crowd) in [("put", Ask::Put { keys, value }, puts), ("range", ranged, ranges)] {
        let figures = calls(server, By::Light, &ask, crowd);
        all.insert(format!("{name}_cpu_us"), figures["cpu_us"]);
        all.insert(format!("{name}_us"), 1e6 / figures["per_second"]);
        all.insert(format!("{name}_p99_ms"), figures["p99_ms"]);
    }
    all
}

fn values(server: &mut Server, size: u64) -> Figures {
    let (keys, value) = (Keys::at_random(1000), size as usize);
    prepare(server, &Ask::Range { keys, value, serializable: false });
    let fewer = 1 + size / 4096;
    puts_and_ranges(server, keys, value, crowd(100, 30_000 / fewer), crowd(100, 60_000 / fewer))
}

fn clients(server: &mut Server, clients: u64) -> Figures {
    let (keys, value) = (Keys::at_random(1000), 256);
    prepare(server, &Ask::Range { keys, value, serializable: false });
    let clients = clients as usize;
    puts_and_ranges(
        server,
        keys,
        value,
        crowd(clients, (clients as u64 * 3000).min(50_000)),
        crowd(clients, (clients as u64 * 8000).min(80_000)),
    )
}

fn keys(server: &mut Server, count: u64) -> Figures {
    let (keys, value) = (Keys::at_random(count), 256);
    prepare(server, &Ask::Range { keys, value, serializable: false });
    let puts = 30_000;
    let mut figures = puts_and_ranges(server, keys, value, crowd(100, puts), crowd(100, 60_000));
    let start = median_start(server, (count + puts) as i64, false);
    figures.insert("start_ms".into(), start.as_secs_f64() * 1e3);
    figures.insert("memory_mb".into(), idle_memory(server));
    figures
}

fn watchers(server: &mut Server, count: u64) -> Figures {
    let streams = count.min(100);
    let watched = Keys { size: 32, ..Keys::in_order(1) };
    let watches = Watches {
        connections: streams.min(10) as usize,
        streams: streams as usize,
        watches: (count / streams) as usize,
        keys: watched,
    };
    let (mut watchers, _) = Watchers::create(server.addr(), watches).expect("the server takes the watches");
    let memory = idle_memory(server);
    let (keys, value) = (Keys::at_random(1000), 256);
    fill(server.addr(), &Ask::Put { keys: Keys { random: false, ..keys }, value }, keys.space);
    let mut figures = puts_and_ranges(server, keys, value, crowd(100, 30_000), crowd(100, 60_000));
    let puts = Puts { connections: 1, clients: 10, total: (1_000_000 / count).clamp(100, 5000), rate: None, value: 32 };
    let mut events = Figures::new();
    deliver(server, &mut watchers, &puts, count * puts.total, &mut events);
    figures.insert("event_cpu_us".into(), events["cpu_us"]);
    figures.insert("event_us".into(), 1e6 / events["per_second"]);
    figures.insert("memory_mb".into(), memory);
    figures
}

/// What is resident when the server has had time to give back what it does not need.
fn idle_memory(server: &Server) -> f64 {
    std::thread::sleep(Duration::from_secs(1));
    Memory::of(server).resident as f64 / 1e6
}
