//! The same requests at real etcd 3.7.3 and at the server under test: each answer must be equal, but for what [`normalise`] names.
//!
//! A run is made of cases; each begins with two empty servers and is determined by its seed. Of a case that fails the steps that do
//! not matter are dropped and the others made simpler, one replay after the other. What is left is text that can be kept: the cases in
//! `kept/` are played by every `make test`.
//!
//! `make diff SEED=1 N=50000` plays as many steps as one has time for.
//!
//! ```text
//! step.rs       what a client does, and its text form       generate/     random steps
//! method.rs     methods and requests by name                shrink.rs     smaller cases that still fail
//! side.rs       a step, played at one server                kept/         cases that once failed, or are worth a look
//! watches.rs    all that a stream of watches says
//! answer.rs     answers as text                             normalise.rs  all that may differ, with reasons
//! ```

mod answer;
mod generate;
mod method;
mod normalise;
mod shrink;
mod side;
mod step;
mod watches;

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use generate::{Generator, Mood};
use side::{Side, Tally, Who};
use step::{End, Step};

use crate::support::random::Random;
use crate::support::{Server, oracle, under_test};

/// Steps of a case. Long enough for history to pile up, short enough to replay.
const STEPS: usize = 500;

/// Replays that shrinking a failed case may take; each starts two servers, and takes about a second.
const REPLAYS: usize = 400;

struct Pair {
    etcd: Side,
    ours: Side,
}

/// Flags of the server under test that must change no answer.
type Flags = &'static [&'static str];

/// Some of the keys, ranges of which lie within and across, and the leases.
const RELAXED: Flags = &["--relaxed-prefixes=a,z", "--relaxed-leases", "--relaxed-interval=200ms"];

impl Pair {
    fn start(mood: Mood, flags: Flags) -> Pair {
        let prepare = |binary| {
            // Ids are made of the advertised addresses: with the same ones, answers are equal to the last number. Nobody calls there.
            let mut builder = Server::builder()
                .binary(binary)
                .flag("--initial-advertise-peer-urls=http://127.0.0.1:1")
                .flag("--initial-cluster=m1=http://127.0.0.1:1")
                .flag("--advertise-client-urls=http://127.0.0.1:2");
            for flag in mood.flags() {
                builder = builder.flag(*flag);
            }
            builder
        };
        // What etcd syncs is not what is compared here.
        let mut etcd = prepare(oracle("etcd")).flag("--unsafe-no-fsync=true").prepare();
        let mut ours = flags.iter().fold(prepare(under_test()), |ours, flag| ours.flag(*flag)).prepare();
        etcd.spawn();
        ours.spawn();
        etcd.wait_ready();
        ours.wait_ready();
        Pair { etcd: Side::new(Who::Etcd, etcd), ours: Side::new(Who::Ours, ours) }
    }

    /// Plays a step at both; false: etcd has died of it, as is known.
    ///
    /// # Errors
    /// What came of it at etcd, and at the other.
    fn play(&mut self, step: &Step) -> Result<bool, (String, String)> {
        let (etcd, ours) = (told(&mut self.etcd, step), told(&mut self.ours, step));
        if normalise::is_known_death(&etcd, &ours) || etcd != ours && self.etcd.has_told(normalise::LOST) {
            return Ok(false);
        }
        if etcd == ours && !etcd.starts_with(PANIC) { Ok(true) } else { Err((etcd, ours)) }
    }
}

const PANIC: &str = "cannot be told: ";

/// A step's outcome. One that breaks what holds of every server, or never ends, is an outcome too.
fn told(side: &mut Side, step: &Step) -> String {
    catch_unwind(AssertUnwindSafe(|| side.play(step))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        format!("{PANIC}{}", text.unwrap_or("a panic without words"))
    })
}

/// How a case failed: all steps that were played, and what the last of them did.
struct Failure {
    mood: Mood,
    steps: Vec<Step>,
    etcd: String,
    ours: String,
}

/// Plays the steps of a source until it has no more.
fn play(mood: Mood, flags: Flags, mut next: impl FnMut(&Side, usize) -> Option<Step>) -> (Tally, Option<Failure>) {
    let mut pair = Pair::start(mood, flags);
    let mut steps = Vec::new();
    let mut failure = None;
    while let Some(step) = next(&pair.etcd, steps.len()) {
        steps.push(step);
        match pair.play(&steps[steps.len() - 1]) {
            Ok(true) => {}
            Ok(false) => break,
            Err((etcd, ours)) => {
                failure = Some(Failure { mood, steps, etcd, ours });
                break;
            }
        }
    }
    (pair.etcd.tally, failure)
}

fn play_seed(seed: u64, count: usize, flags: Flags) -> (Tally, Option<Failure>) {
    let mood = Mood::of(seed);
    let mut generator = Generator::new(Random::from_seed(seed), mood);
    play(mood, flags, |etcd, at| match at.cmp(&count) {
        std::cmp::Ordering::Less => Some(match generator.next(etcd) {
            // After a kill revisions go on higher, on purpose: what was synced in time cannot be told from what was not.
            Step::Restart(End::Kill) if flags == RELAXED => Step::Restart(End::Terminate),
            step => step,
        }),
        std::cmp::Ordering::Equal => Some(Step::EndWatches),
        std::cmp::Ordering::Greater => None,
    })
}

fn replay(mood: Mood, steps: &[Step]) -> Option<Failure> {
    // A case ends with what its watches have heard.
    play(mood, &[], |_, at| if at == steps.len() { Some(Step::EndWatches) } else { steps.get(at).cloned() }).1
}

fn shrunk(failure: Failure) -> Failure {
    let mut last = None;
    let Failure { mood, steps, .. } = &failure;
    // What never ends is waited for in each replay.
    let replays = if failure.etcd.starts_with(PANIC) || failure.ours.starts_with(PANIC) { REPLAYS / 20 } else { REPLAYS };
    shrink::shrunk(steps.clone(), replays, |steps| {
        let failure = replay(*mood, steps)?;
        let steps = failure.steps.clone();
        last = Some(failure);
        Some(steps)
    });
    last.unwrap_or(failure)
}

impl Failure {
    /// As a file of `kept/`.
    fn kept(&self) -> String {
        let steps: String = self.steps.iter().map(|step| format!("{step}\n")).collect();
        format!("# mood: {:?}\n{steps}", self.mood)
    }

    fn told(&self, of: &str) -> String {
        format!("the servers differ in the last step of {of}:\n{:.20000}{}", self.kept(), self.difference())
    }

    /// The last step, what came of it, and the lines of that which differ.
    fn difference(&self) -> String {
        let step = self.steps.last().map(Step::to_string).unwrap_or_default();
        let mut text = format!("{step:.2000}\netcd:\n{:.10000}\nours:\n{:.10000}\n", self.etcd, self.ours);
        let lines = self.etcd.lines().zip(self.ours.lines());
        for (etcd, ours) in lines.filter(|(etcd, ours)| etcd != ours).take(20) {
            let _ = writeln!(text, "etcd {etcd:.4000}\nours {ours:.4000}");
        }
        text
    }
}

fn kept_cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/kept");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).expect("kept cases").map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn kept_cases_are_answered_as_etcd_answers_them() {
    let differ = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).expect("a kept case");
        replay(Mood::named_in(&text), &step::parse(&text)).map(|failure| failure.told(&file.display().to_string()))
    };
    let failed: Vec<String> = kept_cases().into_iter().filter_map(differ).collect();
    assert!(failed.is_empty(), "{}", failed.concat());
}

#[test]
fn random_requests_are_answered_as_etcd_answers_them() {
    for seed in 0..Mood::ALL.len() as u64 {
        if let (_, Some(failure)) = play_seed(seed, STEPS / 2, &[]) {
            panic!("{}", failure.told(&format!("the case with SEED={seed}")));
        }
    }
}

#[test]
fn a_relaxed_class_changes_no_answer() {
    for seed in 100..102 + Mood::ALL.len() as u64 {
        if let (_, Some(failure)) = play_seed(seed, STEPS / 2, RELAXED) {
            panic!("{}", failure.told(&format!("the case with SEED={seed} and {RELAXED:?}")));
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
    let mut all = Tally::default();
    for seed in first..first + total.div_ceil(STEPS as u64) {
        let (tally, failure) = play_seed(seed, STEPS, if seed % 4 == 3 { RELAXED } else { &[] });
        all = all + tally;
        if let Some(failure) = failure {
            println!("SEED={seed} differs after {} steps; what of them matters?\n{}", failure.steps.len(), failure.difference());
            let small = shrunk(failure);
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("differs-{seed}.txt"));
            std::fs::write(&file, small.kept()).expect("room for a small file");
            println!("{}to keep it: mv {} tests/differential/kept/", small.told(&format!("SEED={seed}")), file.display());
            failed.push(seed);
        }
        println!("after SEED={seed}: {all:?}");
    }
    assert!(failed.is_empty(), "cases that differ: {failed:?}");
}
