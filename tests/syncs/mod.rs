//! What the real process asks of the kernel, in its order. A library before the C library (`record.c`) writes down each sync, rename
//! and removal, so the binary is the one that cargo has built, which is linked dynamically.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bramble::pb::etcdserverpb::DefragmentRequest;

use crate::support::requests::put;
use crate::support::wait::until;
use crate::support::{Client, Server};

/// One line of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

struct Recorded {
    server: Server,
    record: PathBuf,
    _dir: tempfile::TempDir,
}

impl Recorded {
    fn start() -> Recorded {
        let dir = tempfile::tempdir().unwrap();
        let (library, record, program) = (dir.path().join("record.so"), dir.path().join("record"), dir.path().join("bramble"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/syncs/record.c");
        let mut compile = std::process::Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
        assert!(compile.status().unwrap().success());
        // The test starts servers with an empty environment.
        let script = format!(
            "#!/bin/sh\nLD_PRELOAD={} SYNCS={} exec {} \"$@\"\n",
            library.display(),
            record.display(),
            env!("CARGO_BIN_EXE_bramble")
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
        Recorded { server: Server::builder().binary(program).start(), record, _dir: dir }
    }

    fn steps(&self) -> Vec<Step> {
        let text = std::fs::read_to_string(&self.record).unwrap_or_default();
        let step = |line: &str| {
            let mut words = line.split(' ');
            let (what, path) = (words.next().unwrap(), PathBuf::from(words.next().unwrap()));
            match what {
                "sync" => Step::Sync(path),
                "rename" => Step::Rename(path, words.next().unwrap().into()),
                "remove" => Step::Remove(path),
                other => panic!("{other}"),
            }
        };
        text.lines().map(step).collect()
    }

    fn snap(&self) -> PathBuf {
        self.server.data_dir().join("member/snap")
    }
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "wal")
}

fn put_mebibyte(client: &Client, n: usize) {
    client.call(&put(format!("key{n}"), "x".repeat(1 << 20)));
}

#[test]
fn an_answer_leaves_after_the_sync_of_its_write() {
    let recorded = Recorded::start();
    let client = recorded.server.client();
    let syncs = || recorded.steps().iter().filter(|step| matches!(step, Step::Sync(path) if is_segment(path))).count();
    for n in 0..20 {
        let before = syncs();
        client.call(&put("key", n.to_string()));
        assert!(syncs() > before, "put {n} was answered without a sync of the log");
    }
}

#[test]
fn what_gets_a_name_is_synced_before_and_its_name_after() {
    let recorded = Recorded::start();
    let client = recorded.server.client();
    for n in 0..6 {
        put_mebibyte(&client, n);
    }
    client.call(&DefragmentRequest {});
    let steps = recorded.steps();
    let mut named = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let Step::Rename(from, to) = step else { continue };
        if is_segment(from) {
            continue; // a segment that becomes a spare: what it holds does not matter
        }
        assert!(steps[..at].contains(&Step::Sync(from.clone())), "{} got its name unsynced: {steps:?}", to.display());
        if is_segment(to) || to.ends_with("db") {
            let dir = to.parent().unwrap().to_owned();
            assert!(steps[at..].contains(&Step::Sync(dir)), "the name of {} was never synced: {steps:?}", to.display());
            named.push(to.file_name().unwrap().to_str().unwrap());
        }
    }
    named.sort_unstable();
    let segments = ["0000000000000001.wal", "0000000000000002.wal"];
    assert_eq!(named, [&segments[..], &["db", "db"]].concat(), "two segments, the first checkpoint and the defragmented one");
}

#[test]
fn the_log_is_let_go_of_after_the_checkpoint_is_synced() {
    let recorded = Recorded::start();
    let client = recorded.server.client();
    let begun = recorded.steps().len();
    let is_gone = |step: &Step| matches!(step, Step::Rename(path, _) | Step::Remove(path) if is_segment(path));
    let mut written = 0;
    until("the log is let go of", || {
        put_mebibyte(&client, written);
        written += 1;
        recorded.steps()[begun..].iter().any(is_gone).then_some(())
    });
    let steps = recorded.steps();
    let gone = begun + steps[begun..].iter().position(is_gone).unwrap();
    let before = &steps[begun..gone];
    let (db, snap) = (recorded.snap().join("db"), recorded.snap());
    assert!(before.contains(&Step::Sync(db)), "after {written} MiB without a checkpoint on disk: {before:?}");
    assert!(before.contains(&Step::Sync(snap)), "after {written} MiB, and the checkpoint's name is not on disk: {before:?}");
}

/// A process that was killed may have left a checkpoint that only the page cache has.
#[test]
fn a_start_makes_its_checkpoint_durable_before_it_touches_the_log() {
    let mut recorded = Recorded::start();
    put_mebibyte(&recorded.server.client(), 0);
    recorded.server.terminate();
    let begun = recorded.steps().len();
    recorded.server.restart();
    let steps = &recorded.steps()[begun..];
    let of_the_log = |step: &Step| match step {
        Step::Sync(path) | Step::Rename(path, _) | Step::Remove(path) => is_segment(path),
    };
    let touched = steps.iter().position(of_the_log).expect("a start syncs what it found of the log");
    for wanted in [recorded.snap().join("db"), recorded.snap()] {
        assert!(steps[..touched].contains(&Step::Sync(wanted.clone())), "{} is not synced first: {steps:?}", wanted.display());
    }
}
