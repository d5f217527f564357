//! What was measured: one JSON line a measurement, kept under `tests/bench/results`, and medians of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sides::Side;

/// Who made the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Our generator.
    Light,
    /// etcd's own `benchmark`.
    Benchmark,
}

/// Figures by name; the name ends with the unit.
pub type Figures = BTreeMap<String, f64>;

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub load: String,
    pub by: By,
    pub server: Side,
    /// Rounds are interleaved: in each both servers are measured, one right after the other.
    pub round: usize,
    pub figures: Figures,
}

/// A line of the file: first the machine, then samples.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Record {
    Sample(Sample),
    Machine(BTreeMap<String, String>),
}

/// All samples of a file.
pub struct Samples {
    path: PathBuf,
    /// What they were measured on.
    pub machine: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

impl Samples {
    /// A file of `results` named by `kind`, the day and the commit, or `RESULTS`; what it holds already counts.
    pub fn open(kind: &str) -> Samples {
        let machine = super::machine::describe();
        let name = format!("{kind}-{}-{}.jsonl", machine["date"], machine["commit"]);
        let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/results").join(name);
        let path = std::env::var_os("RESULTS").map_or_else(default, PathBuf::from);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut samples = Samples { path, machine, samples: Vec::new() };
        for line in text.lines() {
            match serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", samples.path.display())) {
                Record::Sample(sample) => samples.samples.push(sample),
                Record::Machine(machine) => samples.machine = machine,
            }
        }
        if text.is_empty() {
            samples.append(&Record::Machine(samples.machine.clone()));
        }
        samples
    }

    /// One more, kept at once: an interrupted run loses nothing.
    pub fn add(&mut self, sample: Sample) {
        self.append(&Record::Sample(sample.clone()));
        self.samples.push(sample);
    }

    fn append(&self, record: &Record) {
        let mut file = File::options().create(true).append(true).open(&self.path).unwrap();
        writeln!(file, "{}", serde_json::to_string(record).unwrap()).unwrap();
    }

    /// The median over all rounds; none if it was never measured.
    pub fn median(&self, load: &str, by: By, server: Side, figure: &str) -> Option<f64> {
        let of = |sample: &&Sample| sample.load == load && sample.by == by && sample.server == server;
        let mut found: Vec<f64> =
            self.samples.iter().filter(of).filter_map(|sample| sample.figures.get(figure)).copied().collect();
        found.sort_by(f64::total_cmp);
        found.get(found.len() / 2).copied()
    }

    /// The loads that were measured, and who made them.
    pub fn loads(&self) -> BTreeSet<(&str, By)> {
        self.samples.iter().map(|sample| (sample.load.as_str(), sample.by)).collect()
    }

    /// Rounds of each load, at least.
    pub fn rounds(&self) -> usize {
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        for sample in &self.samples {
            *counts.entry((&sample.load, sample.by, sample.server)).or_default() += 1;
        }
        counts.values().min().copied().unwrap_or(0)
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
