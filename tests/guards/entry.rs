//! The form of an entry. Blank lines stand between entries, `#` begins a comment:
//!
//! ```text
//! guard a frame is synced before it counts as durable
//! file src/wal/mod.rs
//! - let sync = self.sync(segment)?;
//! + let sync = Duration::ZERO;
//! lib wal::tests::writing::an_append_is_one_write_and_one_sync_of_whole_sectors
//! ```
//!
//! The `-` lines are a text that stands once in the file, the `+` lines what is put in its place. `lib` names a test of the crate, `tests`
//! one of this target, `sim` one of the simulator. All of them have to fall.

use std::fs;
use std::path::{Path, PathBuf};

/// A guard, and how to break it.
pub struct Guard {
    /// What the code makes sure of.
    pub title: String,
    /// Below the root of the tree.
    pub file: PathBuf,
    find: Vec<String>,
    put: Vec<String>,
    pub tests: Vec<Test>,
    /// File and line of the entry, for messages.
    pub place: String,
}

/// A test by its full name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    pub target: Target,
    pub name: String,
}

/// What cargo builds to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Lib,
    Tests,
    /// The simulator, which plays up to two thousand runs.
    Sim,
}

impl Test {
    /// The last part of its name.
    pub fn function(&self) -> &str {
        self.name.rsplit("::").next().unwrap_or_default()
    }
}

impl Guard {
    /// Whether `text` picks it: by title, place, file or test.
    pub fn matches(&self, text: &str) -> bool {
        let file = self.file.to_string_lossy();
        [&self.title, &self.place, &*file].iter().any(|field| field.contains(text))
            || self.tests.iter().any(|test| test.name.contains(text))
    }

    /// The file's text with the guard broken.
    ///
    /// # Errors
    /// The text to be replaced is not there, or more than once.
    pub fn broken(&self, tree: &Path) -> Result<String, String> {
        let text = fs::read_to_string(tree.join(&self.file)).map_err(|error| format!("{}: {error}", self.file.display()))?;
        let find = self.find.join("\n");
        match text.matches(&find).count() {
            1 => Ok(text.replacen(&find, &self.put.join("\n"), 1)),
            count => Err(format!("{count} times instead of once in {}: {find}", self.file.display())),
        }
    }
}

/// The entries of a file.
pub fn read(path: &Path) -> Vec<Guard> {
    let text = fs::read_to_string(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let mut guards: Vec<Guard> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "guard" {
            let empty = Guard { title: rest.into(), file: PathBuf::new(), find: vec![], put: vec![], tests: vec![], place };
            guards.push(empty);
            continue;
        }
        if word.is_empty() || word.starts_with('#') {
            continue;
        }
        let guard = guards.last_mut().unwrap_or_else(|| panic!("{place}: an entry begins with `guard`"));
        let test = |target| Test { target, name: rest.into() };
        match word {
            "file" => guard.file = rest.into(),
            "-" => guard.find.push(rest.into()),
            "+" => guard.put.push(rest.into()),
            "lib" => guard.tests.push(test(Target::Lib)),
            "tests" => guard.tests.push(test(Target::Tests)),
            "sim" => guard.tests.push(test(Target::Sim)),
            _ => panic!("{place}: {word} means nothing here"),
        }
    }
    for Guard { find, tests, place, .. } in &guards {
        assert!(!find.is_empty() && !tests.is_empty(), "{place}: an entry needs a text to replace, and a test that falls");
    }
    guards
}
