//! The same random requests at real etcd 3.7.3 and at the server under test: each answer must be equal, but for what [`normalise`]
//! names. A run is made of cases; each begins with two empty servers and is determined by its seed. Of a case that fails the steps that
//! do not matter are dropped, one replay after the other.
//!
//! `make diff SEED=1 N=50000` plays as many steps as one has time for.

mod generate;
mod normalise;
mod side;
mod watches;

use std::fmt::Write;

use generate::Generator;
use side::{Side, Step};

use crate::support::random::Random;
use crate::support::{Server, oracle, under_test};

/// Steps of a case. Long enough for history to pile up, short enough to replay.
const STEPS: usize = 500;

/// Replays that shrinking a failed case may take; each starts two servers.
const REPLAYS: usize = 30;

struct Pair {
    etcd: Side,
    ours: Side,
}

impl Pair {
    fn start() -> Pair {
        // What etcd syncs is not what is compared here.
        let mut etcd = Server::builder().binary(oracle("etcd")).flag("--unsafe-no-fsync=true").prepare();
        let mut ours = Server::builder().binary(under_test()).prepare();
        etcd.spawn();
        ours.spawn();
        etcd.wait_ready();
        ours.wait_ready();
        Pair { etcd: Side::new(etcd), ours: Side::new(ours) }
    }

    /// Plays a step at both; false: etcd has died of it, as is known.
    ///
    /// # Errors
    /// What came of it at etcd, and at the other.
    fn play(&mut self, step: &Step) -> Result<bool, (String, String)> {
        let (etcd, ours) = (self.etcd.play(step), self.ours.play(step));
        if normalise::is_known_death(&etcd, &ours) {
            return Ok(false);
        }
        if etcd == ours { Ok(true) } else { Err((etcd, ours)) }
    }
}

/// How a case failed: all steps that were played, and what the last of them did.
struct Failure {
    steps: Vec<Step>,
    etcd: String,
    ours: String,
}

fn play(seed: u64, count: usize) -> Result<(), Failure> {
    let mut generator = Generator::new(Random::from_seed(seed));
    let mut pair = Pair::start();
    let mut steps = Vec::new();
    while steps.len() <= count {
        let last = steps.len() == count;
        let step = if last { Step::EndWatches } else { generator.next(pair.etcd.revision, pair.etcd.compacted()) };
        steps.push(step);
        match pair.play(&steps[steps.len() - 1]) {
            Ok(true) => {}
            Ok(false) => break,
            Err((etcd, ours)) => return Err(Failure { steps, etcd, ours }),
        }
    }
    Ok(())
}

fn replay(steps: &[Step]) -> Option<Failure> {
    let mut pair = Pair::start();
    for (at, step) in steps.iter().enumerate() {
        match pair.play(step) {
            Ok(true) => {}
            Ok(false) => break,
            Err((etcd, ours)) => return Some(Failure { steps: steps[..=at].to_vec(), etcd, ours }),
        }
    }
    None
}

/// Drops steps, first many at a time, as long as something still differs.
fn shrunk(mut failure: Failure) -> Failure {
    let mut drop = failure.steps.len() / 2;
    let mut replays = 0;
    while drop > 0 {
        let mut from = 0;
        while from < failure.steps.len() && replays < REPLAYS {
            let end = (from + drop).min(failure.steps.len());
            let fewer = [&failure.steps[..from], &failure.steps[end..]].concat();
            replays += 1;
            match replay(&fewer) {
                Some(smaller) => failure = smaller,
                None => from += drop,
            }
        }
        drop /= 2;
    }
    failure
}

fn told(seed: u64, failure: &Failure) -> String {
    let mut text = format!("the servers differ in step {} of the case with SEED={seed}:\n", failure.steps.len());
    for step in &failure.steps {
        let _ = writeln!(text, "  {:.4000}", format!("{step:?}"));
    }
    let _ = writeln!(text, "etcd:\n{:.20000}\nours:\n{:.20000}", failure.etcd, failure.ours);
    let lines = failure.etcd.lines().zip(failure.ours.lines());
    for (etcd, ours) in lines.filter(|(etcd, ours)| etcd != ours) {
        let _ = writeln!(text, "etcd {etcd:.4000}\nours {ours:.4000}");
    }
    text
}

#[test]
fn random_requests_are_answered_as_etcd_answers_them() {
    for seed in 0..3 {
        if let Err(failure) = play(seed, STEPS) {
            panic!("{}", told(seed, &failure));
        }
    }
}

/// `SEED` is the first case's; `N` steps in all. Goes on after a difference, to show as many as it can.
#[test]
#[ignore = "as long as one likes: make diff SEED= N="]
fn many_random_requests_are_answered_as_etcd_answers_them() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (first, total) = (number("SEED", 1), number("N", 50_000));
    let mut failed = Vec::new();
    for seed in first..first + total.div_ceil(STEPS as u64) {
        if let Err(failure) = play(seed, STEPS) {
            println!("{}", told(seed, &shrunk(failure)));
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "cases that differ: {failed:?}");
}
