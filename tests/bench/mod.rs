//! The room that proves how fast and how light Bramble is: everything is measured on Bramble and on a real etcd in the same run, on the
//! same disk, with fsync on for both and clients on the same cores. Nothing here is typed in: the table is made of raw results, which are
//! kept in `tests/bench/results`, one JSON line a measurement.
//!
//! `make bench` measures [`loads`] with etcd's own `benchmark` and with [`load`], a generator so light that it is not what is
//! measured, round by round with neither server always first, and prints the [`table`].

mod benchmark;
mod beside;
mod flash;
mod growth;
pub mod load;
pub mod loads;
pub mod machine;
mod process;
mod report;
mod samples;
mod sides;
mod slow;
mod table;

use crate::limits::figures;
use crate::support::{oracle, under_test};
use samples::{By, Figures, Sample, Samples};
use sides::Side;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Whether `LOADS`, a list with commas, has this load; without it, all are wanted. `put` means all whose names begin so.
fn wanted(name: &str) -> bool {
    let list = std::env::var("LOADS").unwrap_or_default();
    list.is_empty() || list.split(',').any(|word| name.starts_with(word))
}

#[test]
#[ignore = "make bench: it measures the release binary, for half an hour"]
fn bramble_beside_etcd() {
    let rounds = number("ROUNDS").unwrap_or(3) as usize;
    let mut samples = Samples::open("bench");
    for load in loads::all(number("TOTAL")).iter().filter(|load| wanted(load.name)) {
        for by in [By::Light, By::Benchmark].into_iter().filter(|by| load.is_made_by(*by)) {
            for (round, server) in Side::interleaved(rounds) {
                let figures = load.measure(by, server);
                println!("{} {by:?} {server:?} {round}: {}", load.name, serde_json::to_string(&figures).unwrap());
                samples.add(Sample { load: load.name.to_owned(), by, server, round, figures });
            }
        }
    }
    if wanted(table::PROCESS) {
        for server in Side::ALL {
            let figures = of_process(server);
            samples.add(Sample { load: table::PROCESS.to_owned(), by: By::Light, server, round: 0, figures });
        }
    }
    table::print(&samples);
}

/// Sizes, idle memory and starts, which `make figures` measures too.
fn of_process(side: Side) -> Figures {
    let found = figures::Figures::measure(&match side {
        Side::Bramble => under_test(),
        Side::Etcd => oracle("etcd"),
    });
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    [
        ("binary_mb", megabytes(found.binary)),
        ("idle_mb", megabytes(found.idle)),
        ("fresh_mb", megabytes(found.fresh)),
        ("start_10k_keys_ms", found.start_of_keys.as_secs_f64() * 1e3),
        ("start_1m_revisions_ms", found.start_of_revisions.as_secs_f64() * 1e3),
        ("start_1m_revisions_cold_ms", found.start_from_disk.as_secs_f64() * 1e3),
        ("rss_1m_revisions_mb", megabytes(found.memory_of_revisions.resident)),
    ]
    .map(|(name, figure)| (name.to_owned(), figure))
    .into()
}
