//! Guards: what must not be left out of the code, and the tests that fall without it.
//!
//! The entries stand in `*.guards` beside this file; `entry.rs` tells their form. Every run of the tests looks whether each still fits
//! the tree. `make guards` breaks one guard after the other in a copy of the tree and runs its tests, which have to fall; `GUARD=`
//! picks those whose title, file or tests hold a text.

mod entry;
mod workshop;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use entry::{Guard, Test};
use workshop::{Built, Verdict, Workshop};

fn tree() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn guards() -> Vec<Guard> {
    let dir = tree().join("tests/guards");
    let entries = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "guards")).collect();
    files.sort();
    files.iter().flat_map(|path| entry::read(path)).collect()
}

/// All text of the tests in a directory, by which names of tests are looked for.
fn test_names(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            test_names(&path, names);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let attributes = text.split("#[test]").skip(1);
            let name = |rest: &str| Some(rest.split_once("fn ")?.1.split_once('(')?.0.to_owned());
            names.extend(attributes.filter_map(name));
        }
    }
}

#[test]
fn every_guard_still_stands_where_its_entry_says_and_has_its_tests() {
    let mut names = BTreeSet::new();
    test_names(&tree().join("src"), &mut names);
    test_names(&tree().join("tests"), &mut names);
    let mut wrong = Vec::new();
    let mut titles = BTreeSet::new();
    for guard in guards() {
        if let Err(why) = guard.broken(&tree()) {
            wrong.push(format!("{}: {why}", guard.place));
        }
        if !titles.insert(guard.title.clone()) {
            wrong.push(format!("{}: there is another guard of this name", guard.place));
        }
        for test in guard.tests.iter().filter(|test| !names.contains(test.function())) {
            wrong.push(format!("{}: there is no test {}", guard.place, test.name));
        }
    }
    assert!(titles.len() >= 60, "only {} guards were found", titles.len());
    assert!(wrong.is_empty(), "entries that do not fit the tree any more:\n{}", wrong.join("\n"));
}

/// A broken guard may stop a test from ending, so a test that does not end has fallen too; the report says which.
#[test]
#[ignore = "builds the tree once for each guard: make guards"]
fn each_broken_guard_makes_its_tests_fall() {
    let wanted = std::env::var("GUARD").unwrap_or_default();
    let chosen: Vec<Guard> = guards().into_iter().filter(|guard| guard.matches(&wanted)).collect();
    assert!(!chosen.is_empty(), "no guard matches {wanted:?}");
    let workshop = Workshop::new(&tree());

    let mut whole: BTreeMap<Test, Verdict> = BTreeMap::new();
    for test in chosen.iter().flat_map(|guard| &guard.tests) {
        if !whole.contains_key(test) {
            let program = match workshop.build(test.target) {
                Built::Runs(program) => program,
                Built::Fails(why) => panic!("the tree itself does not build: {why}"),
            };
            whole.insert(test.clone(), workshop.run(&program, test));
        }
    }
    let weak: Vec<_> = whole.iter().filter(|(_, verdict)| **verdict != Verdict::Stands).collect();
    println!("{} guards, {} tests; not standing with every guard in place: {weak:?}", chosen.len(), whole.len());

    let mut survived = Vec::new();
    for (at, guard) in chosen.iter().enumerate() {
        let outcome = outcome(&workshop, guard);
        let word = if outcome.is_ok() { "fell" } else { "SURVIVED" };
        println!("{:3}/{} {word:8}  {}: {}", at + 1, chosen.len(), guard.title, outcome.clone().unwrap_or_else(|why| why));
        if let Err(why) = outcome {
            survived.push(format!("{}: {}: {why}", guard.place, guard.title));
        }
    }
    assert!(weak.is_empty(), "tests that fall with every guard in place: {weak:?}");
    assert!(survived.is_empty(), "{} of {} guards are not held:\n{}", survived.len(), chosen.len(), survived.join("\n"));
}

/// Which tests have fallen, or why that is not what should be.
fn outcome(workshop: &Workshop, guard: &Guard) -> Result<String, String> {
    let broken = guard.broken(&tree())?;
    let _mended_when_dropped = workshop.replace(&guard.file, &broken);
    let mut told = Vec::new();
    for test in &guard.tests {
        match workshop.build(test.target) {
            Built::Fails(why) => return Err(format!("what is left does not build: {why}")),
            Built::Runs(program) => match workshop.run(&program, test) {
                Verdict::Falls => told.push(test.name.clone()),
                Verdict::Hangs => told.push(format!("{} (does not end)", test.name)),
                Verdict::Stands => return Err(format!("{} stands", test.name)),
                Verdict::IsNot => return Err(format!("there is no test {}", test.name)),
            },
        }
    }
    Ok(told.join(", "))
}
