//! The table, on the screen and in a file of `tests/bench/results`, with the machine, versions and commit that it is of.

use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};

use super::flash::Pair;
use super::machine;

/// A table being made.
pub struct Report {
    path: PathBuf,
    text: String,
    notes: Vec<String>,
}

impl Report {
    /// An empty one, of servers on such disks.
    pub fn begin(name: &str, disk: &str) -> Report {
        let machine = machine::describe();
        let file = format!("{name}-{}-{}.txt", machine["date"], machine["commit"]);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/results").join(file);
        let mut report = Report { path, text: String::new(), notes: Vec::new() };
        for of in ["date", "commit", "bramble", "etcd", "cpu", "memory", "kernel"] {
            report.line(&format!("{of}: {}", machine[of]));
        }
        report.line(&format!("disk: {disk}"));
        report.line("");
        report.line(&format!("| {:<58} | {:>10} | {:>10} | {:>6} | {:>8} |", "", "Bramble", "etcd", "ratio", "aim"));
        report.line(&format!("|{:-<60}|{:->11}:|{:->11}:|{:->7}:|{:->9}:|", "", "", "", "", ""));
        report
    }

    fn line(&mut self, line: &str) {
        println!("{line}");
        writeln!(self.text, "{line}").expect("memory");
    }

    /// A line of figures; the less the better.
    pub fn row(&mut self, what: &str, figures: Pair<f64>, aim: Option<f64>) {
        let Pair { ours, etcd } = figures;
        let ratio = if etcd > 0.0 { format!("{:.3}", ours / etcd) } else { "-".to_owned() };
        let missed = if aim.is_some_and(|aim| ours > aim) { " MISSED" } else { "" };
        let aim = aim.map_or(String::new(), |aim| format!("<= {aim}"));
        self.line(&format!("| {what:<58} | {ours:>10.2} | {etcd:>10.2} | {ratio:>6} | {aim:>8} |{missed}"));
    }

    /// What has to be known beside the figures.
    pub fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    /// All that was measured of both.
    pub fn raw(&mut self, what: &str, figures: &Pair<impl Display>) {
        self.note(&format!("{what}: Bramble: {}", figures.ours));
        self.note(&format!("{what}: etcd: {}", figures.etcd));
    }

    /// The notes go below the table, and everything into the file.
    pub fn end(mut self) {
        self.line("");
        for note in std::mem::take(&mut self.notes) {
            self.line(&note);
        }
        std::fs::create_dir_all(self.path.parent().expect("a directory of results")).unwrap();
        std::fs::write(&self.path, &self.text).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
        println!("kept in {}", self.path.display());
    }
}
