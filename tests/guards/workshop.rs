//! A copy of the tree in which guards are broken, with a build directory of its own, so that each build is a small one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::entry::{Target, Test};
use crate::support::command::Running;

/// What belongs to the copy.
const PARTS: [&str; 5] = ["Cargo.toml", "Cargo.lock", "build.rs", "src", "tests"];
/// Programs that tests need, linked and not copied.
const LINKED: &str = "tests/oracle/bin";
/// A build of everything, on a slow and busy machine.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);
/// How many runs of the simulator may pass before a planted fault is found, and how long they take on a slow and busy machine.
const SIMULATED_RUNS: &str = "2000";
const SIMULATION_LIMIT: Duration = Duration::from_secs(900);
/// Several times what the longest test takes.
const TEST_LIMIT: Duration = Duration::from_secs(90);

pub struct Workshop {
    tree: PathBuf,
    root: PathBuf,
    target: PathBuf,
    /// Two at work in one copy would mend what the other has broken.
    _alone: fs::File,
}

/// What came of a build.
pub enum Built {
    /// The program that runs the tests.
    Runs(PathBuf),
    /// The compiler's words.
    Fails(String),
}

/// What came of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stands,
    Falls,
    Hangs,
    /// There is no test of that name.
    IsNot,
}

/// A file that is broken in the copy until this is dropped.
pub struct Broken {
    path: PathBuf,
    whole: String,
}

impl Drop for Broken {
    fn drop(&mut self) {
        fs::write(&self.path, &self.whole).expect("the copy can be written");
    }
}

impl Workshop {
    /// Makes the copy, or brings the one of an earlier run up to date.
    pub fn new(tree: &Path) -> Workshop {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guards");
        let root = place.join("tree");
        fs::create_dir_all(&root).unwrap();
        let alone = fs::File::create(place.join("lock")).unwrap();
        alone.lock().unwrap();
        let workshop = Workshop { tree: tree.to_owned(), root, target: place.join("target"), _alone: alone };
        for part in PARTS {
            workshop.copy(Path::new(part)).unwrap();
        }
        workshop
    }

    /// Leaves alone what is equal, so that cargo has nothing to build for it.
    fn copy(&self, part: &Path) -> io::Result<()> {
        let (from, to) = (self.tree.join(part), self.root.join(part));
        if part == Path::new(LINKED) {
            if to.symlink_metadata().is_err() {
                std::os::unix::fs::symlink(from, to)?;
            }
        } else if from.is_dir() {
            fs::create_dir_all(&to)?;
            for old in fs::read_dir(&to)? {
                let old = old?;
                if !from.join(old.file_name()).exists() {
                    if old.path().is_dir() { fs::remove_dir_all(old.path())? } else { fs::remove_file(old.path())? }
                }
            }
            for entry in fs::read_dir(&from)? {
                self.copy(&part.join(entry?.file_name()))?;
            }
        } else {
            let text = fs::read(&from)?;
            if fs::read(&to).ok().as_ref() != Some(&text) {
                fs::write(&to, text)?;
            }
        }
        Ok(())
    }

    /// Puts another text into a file of the copy.
    #[must_use]
    pub fn replace(&self, file: &Path, text: &str) -> Broken {
        let path = self.root.join(file);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, text).unwrap();
        Broken { path, whole }
    }

    /// Builds the tests of a target.
    pub fn build(&self, target: Target) -> Built {
        let mut command = Command::new(env!("CARGO"));
        command.args(["test", "--locked", "--no-run", "--message-format=json-render-diagnostics"]);
        match target {
            Target::Lib => command.arg("--lib"),
            Target::Tests => command.args(["--test", "tests"]),
            Target::Sim => command.args(["--test", "sim", "--profile", "load"]),
        };
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        let (output, ended) = Running::start(command, "").finish_within(BUILD_LIMIT);
        assert!(ended, "a build does not end:\n{}", output.stderr);
        if output.code != Some(0) {
            return Built::Fails(output.stderr);
        }
        let messages = output.text();
        let executable = |line: &str| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let is_test = message["profile"]["test"].as_bool()?;
            message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
        };
        Built::Runs(messages.lines().find_map(executable).expect("cargo names the program that it has built"))
    }

    /// Runs one test in a process of its own: a broken guard may end that.
    pub fn run(&self, program: &Path, test: &Test) -> Verdict {
        let mut command = Command::new(program);
        command.args(["--exact", &test.name]).current_dir(&self.root).env_remove("BRAMBLE_BIN");
        let simulates = test.target == Target::Sim;
        if simulates {
            command.env("SEEDS", SIMULATED_RUNS);
        }
        let limit = if simulates { SIMULATION_LIMIT } else { TEST_LIMIT };
        let (output, ended) = Running::start(command, "").finish_within(limit);
        if !ended {
            return Verdict::Hangs;
        }
        match output.code {
            Some(0) if output.text().contains(" 1 passed;") => Verdict::Stands,
            Some(0) => Verdict::IsNot,
            _ => Verdict::Falls,
        }
    }
}
