//! Which functions take the instructions of a request: callgrind's own counts, as a short text for `docs/profiles`.

mod callgrind;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::load::{self, Shape};
use super::release;
use super::run::run;
use crate::bench::machine;
use callgrind::Profile;

/// The loads that are told of, by the names they go by here.
const LOADS: &[(&str, &str)] =
    &[("put", "put-100"), ("txn", "txn-100"), ("range", "range-100"), ("watch", "event"), ("keepalive", "keepalive-100")];

/// Lines of each list.
const FUNCTIONS: usize = 25;
const ROOMS: usize = 15;
const PARTS: usize = 3;
const CALLERS: usize = 12;

#[test]
#[ignore = "make profile: it writes into docs/profiles"]
fn of_a_load() {
    let binary = release().expect("make profile builds a binary with names, and valgrind has to be there");
    let wanted = std::env::var("LOAD").unwrap_or_default();
    let known: Vec<&str> = LOADS.iter().map(|(name, _)| *name).collect();
    assert!(wanted.is_empty() || known.contains(&wanted.as_str()), "LOAD is one of {known:?}");
    for (name, shape) in LOADS.iter().filter(|(name, _)| wanted.is_empty() || *name == wanted) {
        let shape = load::all().into_iter().find(|known| known.name == *shape).expect("the loads have these names");
        let text = told(name, &shape, &binary);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/profiles/{name}.txt"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
        println!("{text}\nwritten to {}\n", path.display());
    }
}

fn told(name: &str, shape: &Shape, binary: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let [few, many] = shape.runs().map(|requests| {
        let path = dir.path().join("profile");
        run(binary, &shape.load, requests, &path);
        Profile::read(&std::fs::read_to_string(&path).expect("callgrind has written a profile"))
    });
    let one = |count: i64| count as f64 / shape.between();
    let instructions = difference(few.instructions, many.instructions);
    let total: i64 = instructions.values().sum();
    let [shorter, longer] = shape.runs();
    let of = machine::describe();
    let mut text = format!("{name}: {}\n\n{:.0} instructions each\n\n", shape.what, one(total));
    text += &format!("{}, commit {}, {}, {}\n", of["date"], of["commit"], of["cpu"], valgrind());
    text += &format!(
        "`make profile LOAD={name}`: callgrind's exclusive counts of a run of {longer} requests, less those of one of {shorter}\n"
    );
    text += "\nBy room or library, where the code was written\n\n";
    let mut rooms: BTreeMap<String, i64> = BTreeMap::new();
    for (place, count) in &instructions {
        *rooms.entry(place.room()).or_default() += count;
    }
    let line = |count: i64, what: &str| format!("{:>8.0} {:>5.1} %  {what}\n", one(count), 100.0 * count as f64 / total as f64);
    text.extend(largest(&rooms, ROOMS).map(|(room, count)| line(count, room)));
    text += "\nBy function, with the rooms and libraries of which code was compiled into it\n\n";
    let mut functions: BTreeMap<&str, BTreeMap<String, i64>> = BTreeMap::new();
    for (place, count) in &instructions {
        *functions.entry(&place.function).or_default().entry(place.room()).or_default() += count;
    }
    let whole: BTreeMap<&str, i64> = functions.iter().map(|(function, rooms)| (*function, rooms.values().sum())).collect();
    text.extend(largest(&whole, FUNCTIONS).map(|(function, count)| {
        let parts: Vec<String> =
            largest(&functions[function], PARTS).map(|(room, count)| format!("{room} {:.0}", one(count))).collect();
        line(count, &format!("{function:<48} {}", parts.join(", ")))
    }));
    let allocations = difference(few.allocations, many.allocations);
    let calls: i64 = allocations.values().sum();
    text += &format!("\nCalls of malloc and its like: {:.2}, from\n\n", one(calls));
    let from = largest(&allocations, CALLERS).filter(|(_, calls)| one(*calls) >= 0.01);
    text.extend(from.map(|(caller, calls)| format!("{:>8.2}  {caller}\n", one(calls))));
    text
}

/// What the longer run has more.
fn difference<K: Ord>(few: BTreeMap<K, i64>, mut many: BTreeMap<K, i64>) -> BTreeMap<K, i64> {
    for (key, count) in few {
        *many.entry(key).or_default() -= count;
    }
    many
}

fn largest<K: Ord>(counts: &BTreeMap<K, i64>, most: usize) -> impl Iterator<Item = (&K, i64)> {
    let mut sorted: Vec<(&K, i64)> = counts.iter().map(|(key, count)| (key, *count)).collect();
    sorted.sort_by_key(|(_, count)| -count);
    sorted.into_iter().take(most)
}

fn valgrind() -> String {
    let output = Command::new("valgrind").arg("--version").output().expect("it has just run");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
