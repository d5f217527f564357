//! A simulator of whole clusters: the real Raft core and the real WAL on simulated disks, clocks and a simulated network, in one thread.
//! A seed determines a run to its last byte; a thousand of them take seconds.
//!
//! `make sim SEEDS=10000 SEED=1` plays that many on all cores, the first determined by SEED. A run that breaks something prints the
//! command that plays it again, and its last events.
//!
//! `world.rs` is the queue of events, `member.rs` the shell of a member, `storage.rs` its disk, `machine.rs` what is replicated,
//! `clients.rs` and `faults.rs` what happens to it, `judge.rs` what must hold all the same, `coverage.rs` what was met on the way.

mod clients;
mod coverage;
mod faults;
mod judge;
mod log_model;
mod machine;
mod member;
mod random;
mod storage;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use coverage::{Coverage, WANTED};
use world::World;

/// A seed, and what it breaks.
type Broken = (u64, String);

/// Plays a run. A panic of the product counts as broken too.
fn play(seed: u64) -> (Coverage, Option<String>) {
    let mut world = World::new(seed, false);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let broken = match outcome {
        Ok(verdict) => verdict.err(),
        Err(panic) => Some(format!("panic: {}", words_of(&*panic))),
    };
    (std::mem::take(&mut world.watch.coverage), broken)
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Plays `seeds` runs on all cores, until one breaks something.
fn play_many(first: u64, seeds: u64) -> (Coverage, Option<Broken>) {
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let result = Mutex::new((Coverage::default(), None::<Broken>));
    let work = || {
        let mut coverage = Coverage::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                break;
            }
            let (met, broken) = play(seed);
            coverage.merge(&met);
            if let Some(why) = broken {
                stop.store(true, Ordering::Relaxed);
                let mut result = result.lock().expect("a run's panic is caught");
                if result.1.as_ref().is_none_or(|(other, _)| seed < *other) {
                    result.1 = Some((seed, why));
                }
            }
        }
        result.lock().expect("a run's panic is caught").0.merge(&coverage);
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    result.into_inner().expect("a run's panic is caught")
}

/// # Panics
/// With the seed, if a run breaks something.
fn prove(first: u64, seeds: u64) -> Coverage {
    let (coverage, broken) = play_many(first, seeds);
    if let Some((seed, why)) = broken {
        let mut world = World::new(seed, true);
        let _told_already = catch_unwind(AssertUnwindSafe(|| world.run()));
        let trace = world.trace.unwrap_or_default();
        trace[trace.len().saturating_sub(number("TRACE", 200) as usize)..].iter().for_each(|line| println!("{line}"));
        panic!("seed {seed}: {why}\n`make sim SEED={seed} SEEDS=1` plays it again (seeds from {first} on were played)");
    }
    coverage
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_faults_break_what_is_promised() {
    prove(1, number("SEEDS", 60));
}

#[test]
fn a_seed_is_a_run_to_its_last_byte() {
    let trace = |seed| {
        let mut world = World::new(seed, true);
        let verdict = world.run();
        (verdict, world.sum, world.trace.unwrap_or_default())
    };
    for seed in [1, 2, 3] {
        assert!(trace(seed) == trace(seed), "seed {seed} is not one run");
    }
    assert!(trace(1).1 != trace(2).1, "two seeds are two runs");
}

/// `SEED` is the first, `SEEDS` how many.
#[test]
#[ignore = "as long as one likes: make sim SEEDS="]
fn no_faults_in_many_runs_break_what_is_promised() {
    let (first, seeds) = (number("SEED", 1), number("SEEDS", 1000));
    let coverage = prove(first, seeds);
    println!("{coverage}{seeds} runs, seeds from {first} on: nothing broken");
    let missing = coverage.missing(WANTED);
    assert!(seeds < 1000 || missing.is_empty(), "never met: {missing:#?}");
}
