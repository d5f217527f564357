//! The arrows of the map in `src/lib.rs`, and what the pure rooms may not touch.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may name besides itself. `main` is the crate's own `main.rs`.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli", "error"]),
    ("cli", &["rpc", "server", "wal", "config", "error", "host", "logging", "metrics"]),
    ("rpc", &["server", "mvcc", "lease", "raft", "http2", "config", "error", "host", "metrics", "pb"]),
    ("server", &["wal", "raft", "lease", "mvcc", "backend", "config", "error", "host", "metrics", "pb"]),
    ("wal", &["raft", "error", "host", "metrics"]),
    ("mvcc", &["backend", "error", "pb", "metrics"]),
    ("backend", &["error", "metrics"]),
    ("raft", &["error"]),
    ("lease", &["error"]),
    ("http2", &[]),
    ("logging", &["config", "error"]),
    ("config", &["error"]),
    ("host", &[]),
    ("metrics", &[]),
    ("error", &[]),
    ("pb", &[]),
];

/// The pure rooms decide, and leave time, chance and the outside world to their callers.
const PURE: &[&str] = &["raft", "lease", "http2"];
const IMPURE: &[&str] =
    &["std::fs", "std::net", "std::thread", "Instant::now", "SystemTime", "async fn", "smol::", "rand::", "std::env"];

/// Rust files below `path`, or the file itself, with the part outside `#[cfg(test)] mod tests`.
fn sources(path: &Path) -> Vec<(PathBuf, String)> {
    if path.is_file() {
        let text = fs::read_to_string(path).unwrap();
        let product = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
        return vec![(path.to_owned(), product)];
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let is_test = |path: &PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        name == "tests" || name == "testing" || name.ends_with("_tests")
    };
    let rust = |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|extension| extension == "rs");
    entries.iter().filter(|path| rust(path) && !is_test(path)).flat_map(|path| sources(path)).collect()
}

/// Rooms and their sources.
fn rooms() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut rooms = BTreeMap::new();
    for entry in fs::read_dir(&src).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name != "lib" {
            rooms.insert(name, sources(&path));
        }
    }
    rooms
}

/// Rooms that a text names by `crate::room`, or by `crate::{a, b}`.
fn named(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for crate_name in ["crate::", "bramble::"] {
            for (at, _) in line.match_indices(crate_name) {
                let rest = &line[at + crate_name.len()..];
                let names = match rest.strip_prefix('{') {
                    Some(group) => group.split('}').next().unwrap().split(',').map(str::trim).collect(),
                    None => vec![rest],
                };
                let word = |name: &&str| name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned();
                found.extend(names.iter().map(word).filter(|name| !name.is_empty()));
            }
        }
    }
    found
}

#[test]
fn rooms_use_only_the_rooms_to_their_right() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (room, files) in rooms() {
        let Some(allowed) = allowed.get(room.as_str()) else {
            wrong.push(format!("{room} has no place in the map"));
            continue;
        };
        for (path, text) in files {
            for name in named(&text) {
                if name != room && !allowed.contains(&name.as_str()) {
                    wrong.push(format!("{}: {room} -> {name}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the map does not have:\n{}", wrong.join("\n"));
}

#[test]
fn the_pure_rooms_touch_nothing_outside() {
    let rooms = rooms();
    for room in PURE {
        for (path, text) in &rooms[*room] {
            for word in IMPURE {
                assert!(!text.contains(word), "{} names {word}", path.display());
            }
        }
    }
}

#[test]
fn only_the_backend_names_lmdb_and_only_rpc_names_http() {
    for (room, files) in rooms() {
        for (path, text) in files {
            assert!(room == "backend" || !text.contains("heed::"), "{} names LMDB's binding", path.display());
            assert!(room == "rpc" || !text.contains("use http::"), "{} names HTTP's types", path.display());
        }
    }
}

/// A map that allowed everything would hold nothing: the reader of names has to find them.
#[test]
fn names_are_found_in_every_form() {
    assert_eq!(named("use crate::raft::{Core, Entry};\nlet x = crate::wal::Wal::open();"), ["raft", "wal"]);
    assert_eq!(named("use crate::{lease, mvcc::Store};"), ["lease", "mvcc"]);
    assert_eq!(named("// see crate::cli"), Vec::<String>::new());
}
