//! What a request costs, counted and not timed: instructions, system calls, bytes to the log and to clients. Counts repeat where times
//! do not, so they can have limits: a change that makes requests dearer falls here, whatever else the machine does.
//!
//! The release binary runs under valgrind's callgrind. Each load is run twice, first with few requests; what the second run has more,
//! divided by the requests it has more, is what one costs. So starts, ends and preparations count for nothing, but a put has
//! its share of the checkpoint that a stop writes.
//!
//! `make counts` prints the figures and how much they spread. [`profile`] tells which functions take the instructions.

mod load;
mod profile;
mod run;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use load::Shape;
use run::{Counts, is_possible, run};

/// A load, and for each figure of one request what was measured and what is allowed.
struct Limit {
    name: &'static str,
    instructions: [f64; 2],
    /// System calls.
    calls: [f64; 2],
    /// Bytes written to the log.
    logged: [f64; 2],
    /// Bytes written to sockets.
    sent: [f64; 2],
}

const fn limit(name: &'static str, instructions: [f64; 2], calls: [f64; 2], logged: [f64; 2], sent: [f64; 2]) -> Limit {
    Limit { name, instructions, calls, logged, sent }
}

/// In each pair what was measured, then the limit. Instructions repeat within 1 %, or within 3 % where one client waits for each answer, so
/// they may be a tenth more; a keepalive of one client takes 8,600 or 12,800, as threads meet. So may system calls that a batch shares be
/// twice as many. [`load::all`] tells what one of each is.
#[rustfmt::skip]
const LIMITS: &[Limit] = &[
    //     load                instructions          calls         logged          sent
    limit("put-1",             [33_500.0, 36_900.0], [19.7, 22.0], [512.0, 520.0], [63.0, 70.0]),
    limit("put-100",           [20_500.0, 22_500.0], [0.4, 1.2],   [328.0, 370.0], [63.0, 70.0]),
    limit("txn-100",           [23_900.0, 26_200.0], [0.4, 1.2],   [336.0, 380.0], [73.5, 81.0]),
    limit("range-1",           [14_050.0, 15_500.0], [11.0, 12.5], [0.0, 2.0],     [360.5, 380.0]),
    limit("range-100",         [10_400.0, 11_450.0], [0.1, 0.3],   [0.0, 2.0],     [360.5, 380.0]),
    limit("serializable-100",  [10_650.0, 11_700.0], [0.1, 0.3],   [0.0, 2.0],     [360.5, 380.0]),
    limit("row",               [890.0, 980.0],       [0.04, 0.1],  [0.0, 0.1],     [295.9, 300.0]),
    limit("keepalive-1",       [12_750.0, 14_000.0], [11.0, 12.5], [0.0, 2.0],     [45.5, 53.0]),
    limit("keepalive-100",     [5_050.0, 5_550.0],   [0.1, 0.4],   [0.0, 2.0],     [46.0, 53.0]),
    limit("event",             [3_500.0, 3_850.0],   [0.21, 0.5],  [5.1, 6.0],     [124.0, 135.0]),
];

/// What one request of a load costs.
#[derive(Clone, Debug)]
struct Cost {
    instructions: f64,
    by_name: BTreeMap<String, f64>,
    logged: f64,
    sent: f64,
}

impl Cost {
    /// Measures it.
    fn of(shape: &Shape, binary: &Path) -> Cost {
        let dir = tempfile::tempdir().unwrap();
        let [few, many] = shape.runs().map(|requests| run(binary, &shape.load, requests, &dir.path().join("profile")));
        Cost::between(shape, &few, &many)
    }

    fn between(shape: &Shape, few: &Counts, many: &Counts) -> Cost {
        let one = |few: u64, many: u64| (many as f64 - few as f64) / shape.between();
        let of_name = |(name, calls): (&String, &u64)| (name.clone(), one(few.calls.get(name).copied().unwrap_or(0), *calls));
        Cost {
            instructions: one(few.instructions, many.instructions),
            by_name: many.calls.iter().map(of_name).filter(|(_, calls)| calls.abs() >= 0.005).collect(),
            logged: one(few.logged, many.logged),
            sent: one(few.sent, many.sent),
        }
    }

    fn calls(&self) -> f64 {
        self.by_name.values().sum()
    }

    /// The figures of the table, in its order.
    fn figures(&self) -> [f64; 4] {
        [self.instructions, self.calls(), self.logged, self.sent]
    }
}

const FIGURES: [&str; 4] = ["instructions", "system calls", "bytes logged", "bytes sent"];

impl Limit {
    fn pairs(&self) -> [[f64; 2]; 4] {
        [self.instructions, self.calls, self.logged, self.sent]
    }

    fn holds(&self, cost: &Cost) -> bool {
        std::iter::zip(self.pairs(), cost.figures()).all(|([_, most], found)| found <= most)
    }

    /// What was found beside what is known.
    fn table(&self, cost: &Cost) -> String {
        let mut table = format!("{:<14} {:>9} {:>9} {:>9}\n", self.name, "now", "limit", "in table");
        for ((name, [known, most]), found) in FIGURES.iter().zip(self.pairs()).zip(cost.figures()) {
            let mark = if found > most { "  <- over its limit" } else { "" };
            table += &format!("{name:<14} {found:>9.1} {most:>9.1} {known:>9.1}{mark}\n");
        }
        let calls: Vec<String> = cost.by_name.iter().map(|(name, calls)| format!("{name} {calls:.2}")).collect();
        table + &format!("the calls: {}\n", calls.join(", "))
    }
}

/// The binary that is released, if there is one and valgrind to run it with; else says so.
fn release() -> Option<PathBuf> {
    let binary = std::env::var_os("RELEASE_BIN").map(PathBuf::from);
    let why = match &binary {
        None => "RELEASE_BIN names no release binary, as `make test` does",
        Some(_) if !is_possible() => "valgrind is missing",
        Some(_) => return binary,
    };
    // Not by a macro: the output of tests that pass is not shown.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: what requests cost is not counted: {why}\n");
    None
}

/// Threads that meet otherwise, because the machine has more to do, can make a count larger by chance; dearer code does each time.
const ATTEMPTS: usize = 3;

/// Holds the costs of these loads to their limits.
fn costs_no_more_than_allowed(names: &[&str]) {
    let Some(binary) = release() else { return };
    for shape in load::all().iter().filter(|shape| names.contains(&shape.name)) {
        let limit = LIMITS.iter().find(|limit| limit.name == shape.name).expect("every load has limits");
        let mut tables = String::new();
        let holds = (0..ATTEMPTS).any(|_| {
            let cost = Cost::of(shape, &binary);
            tables += &limit.table(&cost);
            limit.holds(&cost)
        });
        assert!(
            holds,
            "{}, measured {ATTEMPTS} times, is dearer than it may be:\n{tables}`make counts LOADS={}` measures it again, \
             `make profile` tells by function; what is worth its price gets a new line in LIMITS, with the reason in the commit",
            shape.what, shape.name
        );
    }
}

#[test]
fn a_put_costs_no_more_than_its_limits() {
    costs_no_more_than_allowed(&["put-1", "put-100"]);
}

#[test]
fn a_transaction_costs_no_more_than_its_limits() {
    costs_no_more_than_allowed(&["txn-100"]);
}

#[test]
fn a_range_costs_no_more_than_its_limits() {
    costs_no_more_than_allowed(&["range-1", "range-100", "serializable-100", "row"]);
}

#[test]
fn a_keepalive_costs_no_more_than_its_limits() {
    costs_no_more_than_allowed(&["keepalive-1", "keepalive-100"]);
}

#[test]
fn an_event_costs_no_more_than_its_limits() {
    costs_no_more_than_allowed(&["event"]);
}

#[test]
fn every_load_has_limits_above_what_was_measured() {
    let shapes: Vec<&str> = load::all().iter().map(|shape| shape.name).collect();
    let limits: Vec<&str> = LIMITS.iter().map(|limit| limit.name).collect();
    assert_eq!(shapes, limits);
    for limit in LIMITS {
        assert!(limit.pairs().iter().all(|[known, most]| known <= most), "{}", limit.name);
    }
}

#[test]
#[ignore = "make counts: it prints figures and holds none of them"]
fn figures() {
    let binary = release().expect("make counts builds a release binary, and valgrind has to be there");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds: usize = number("ROUNDS").unwrap_or(1);
    let wanted = std::env::var("LOADS").unwrap_or_default();
    for shape in load::all().iter().filter(|shape| wanted.is_empty() || wanted.split(',').any(|name| name == shape.name)) {
        let limit = LIMITS.iter().find(|limit| limit.name == shape.name).expect("every load has limits");
        let costs: Vec<Cost> = (0..rounds).map(|_| Cost::of(shape, &binary)).collect();
        println!("{}\n{}", shape.what, limit.table(&costs[0]));
        for (at, name) in FIGURES.iter().enumerate() {
            let found: Vec<String> = costs.iter().map(|cost| format!("{:.2}", cost.figures()[at])).collect();
            println!("{name:<14} {}", found.join("  "));
        }
        println!();
    }
}
