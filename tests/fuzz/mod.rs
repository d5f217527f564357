//! The fuzz targets without their fuzzer: every input that was kept, and a round of mutations of them from a fixed seed. `make fuzz`
//! runs the same targets guided by coverage.
//!
//! Corpus: `tests/fuzz/corpus/<target>/`. What once found a fault is named after it; the rest was chosen for its coverage.

mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::random::Random;
use targets::{TARGETS, Target};

/// Mutations of each target in `make test`, and the time after which there are no more of them: the targets differ by a factor of
/// a thousand in what one costs.
const MUTATIONS: u64 = 20_000;
const ROUND: Duration = Duration::from_secs(3);
const LONGEST: usize = 64 * 1024;

#[test]
fn no_grpc_call_breaks_the_server() {
    replay_and_mutate("calls");
}

#[test]
fn no_checkpoint_breaks_a_start() {
    replay_and_mutate("checkpoint");
}

#[test]
fn no_command_line_or_environment_breaks_its_reading() {
    replay_and_mutate("flags");
}

#[test]
fn grpc_frames_are_the_same_however_they_are_cut() {
    replay_and_mutate("frames");
}

#[test]
fn no_http1_request_breaks_the_server() {
    replay_and_mutate("http1");
}

#[test]
fn no_bytes_on_an_http2_connection_break_the_server() {
    replay_and_mutate("http2");
}

#[test]
fn no_log_entry_breaks_a_start() {
    replay_and_mutate("log");
}

#[test]
fn no_request_message_breaks_the_server() {
    replay_and_mutate("requests");
}

#[test]
fn no_certificate_file_or_handshake_breaks_tls() {
    replay_and_mutate("tls");
}

#[test]
fn no_damage_makes_a_wal_more_than_was_written() {
    replay_and_mutate("wal");
}

#[test]
fn no_configuration_file_breaks_its_reading() {
    replay_and_mutate("yaml");
}

/// A target without a test above would be replayed by nobody.
#[test]
fn every_target_has_a_corpus() {
    for target in TARGETS {
        assert!(!corpus(target).is_empty(), "{} has no corpus", target.name);
    }
}

fn replay_and_mutate(name: &str) {
    let target = targets::named(name).expect("it is in the list");
    let corpus = corpus(target);
    let last = Last::new(target);
    for (path, input) in &corpus {
        println!("{}", path.display());
        last.run(input);
    }
    let mut random = Random::from_seed(std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number")));
    let begun = Instant::now();
    for _ in 0..MUTATIONS {
        if begun.elapsed() > ROUND {
            break;
        }
        last.run(&mutated(&corpus, &mut random));
    }
}

/// Files and contents, in the order of their names.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// The last input, in a file: what kills the process leaves no word behind.
struct Last<'a> {
    target: &'a Target,
    path: PathBuf,
}

impl<'a> Last<'a> {
    fn new(target: &'a Target) -> Last<'a> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}.last", target.name));
        println!("if it fails, {} is what it failed with", path.display());
        Last { target, path }
    }

    fn run(&self, input: &[u8]) {
        fs::write(&self.path, input).unwrap();
        (self.target.run)(input);
    }
}

/// One input with one to eight changes.
fn mutated(corpus: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| corpus[random.below(corpus.len() as u64) as usize].1.clone();
    let mut input = pick(random);
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() as u64 + 1) as usize;
        let end = (at + 1 + random.below(16) as usize).min(input.len());
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 if at < input.len() => input[at] = [0, 1, 127, 128, 254, 255][random.below(6) as usize],
            3 => drop(input.drain(at..end)),
            4 => {
                let piece: Vec<u8> = (0..=random.below(16)).map(|_| random.next() as u8).collect();
                input.splice(at..at, piece);
            }
            5 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let other = pick(random);
                let from = random.below(other.len() as u64 + 1) as usize;
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(LONGEST);
    input
}
