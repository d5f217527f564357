//! What is promised of an idle server and of a start, measured beside a real etcd in the same run. `make figures` prints it.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::RangeRequest;

use super::size;
use crate::support::process::Memory;
use crate::support::requests::{Revision, key, put};
use crate::support::volume::on_disk;
use crate::support::wait::DEADLINE;
use crate::support::{Client, Server, oracle, under_test};

const KEYS: usize = 10_000;
const REVISIONS: i64 = 1_000_000;
const STARTS: usize = 5;

/// Of one server.
pub struct Figures {
    pub binary: u64,
    pub idle: u64,
    pub fresh: u64,
    pub start_of_keys: Duration,
    pub start_of_revisions: Duration,
    pub start_from_disk: Duration,
    pub memory_of_revisions: Memory,
    pub data_of_revisions: u64,
}

impl Figures {
    /// Measures the server that this binary is; some minutes.
    pub fn measure(binary: &Path) -> Figures {
        let start = || Server::builder().binary(binary.to_owned()).flag("--quota-backend-bytes=8589934592").start();
        let mut server = start();
        // What the start itself took is given back, and what is done once a while has been done.
        std::thread::sleep(Duration::from_secs(3));
        let idle = Memory::of(&server).resident;
        let fresh = on_disk(server.data_dir());
        let puts: Vec<_> = (0..KEYS).map(|n| put(format!("/registry/pods/default/{n:05}"), vec![b'x'; 256])).collect();
        assert!(server.client().call_all(&puts, 200).iter().all(Result::is_ok));
        let start_of_keys = median_start(&mut server, KEYS as i64, false);
        drop(server);
        let mut server = start();
        load(&server);
        let start_of_revisions = median_start(&mut server, REVISIONS, false);
        let memory_of_revisions = Memory::of(&server);
        let data_of_revisions = on_disk(server.data_dir());
        let start_from_disk = median_start(&mut server, REVISIONS, true);
        let binary = std::fs::metadata(binary).unwrap().len();
        Figures {
            binary,
            idle,
            fresh,
            start_of_keys,
            start_of_revisions,
            start_from_disk,
            memory_of_revisions,
            data_of_revisions,
        }
    }
}

/// A million keys in no order, by etcd's own load generator.
fn load(server: &Server) {
    let status = Command::new(oracle("benchmark"))
        .arg(format!("--endpoints=127.0.0.1:{}", server.ports().client))
        .args(["--conns=100", "--clients=1000", "put", "--sequential-keys", "--key-size=24", "--val-size=256"])
        .args([format!("--total={REVISIONS}"), format!("--key-space-size={REVISIONS}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the load generator: {status}");
}

/// Kills it, and measures the time from its start to the first linearizable answer; the median of several times.
pub fn median_start(server: &mut Server, revisions: i64, cold: bool) -> Duration {
    let mut times: Vec<Duration> = (0..STARTS)
        .map(|_| {
            server.kill();
            if cold {
                forget(server.data_dir());
            }
            let begun = Instant::now();
            server.spawn();
            let answer = loop {
                let request = RangeRequest { limit: 1, ..key("first?") };
                let answer = Client::connect(&server.target()).ok().and_then(|client| client.try_call(&request).ok());
                if let Some(answer) = answer {
                    break answer;
                }
                assert!(begun.elapsed() < DEADLINE, "no answer after {DEADLINE:?}: {}", server.log());
                std::thread::sleep(Duration::from_micros(300));
            };
            let took = begun.elapsed();
            assert_eq!(answer.revision(), revisions + 1, "nothing is missing");
            took
        })
        .collect();
    times.sort();
    times[STARTS / 2]
}

/// Takes the files out of the page cache, as a power cut does.
fn forget(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            forget(&path);
        } else {
            let file = File::open(path).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }
}

#[test]
#[ignore = "make figures: it measures the release binary, for minutes"]
fn figures_of_an_idle_server_and_of_a_start() {
    let ours = Figures::measure(&under_test());
    let etcd = Figures::measure(&oracle("etcd"));
    let line = |what: &str, aim: &str, ours: String, etcd: String| println!("| {what:<58} | {aim:>8} | {ours:>9} | {etcd:>10} |");
    let bytes = |what: &str, aim: Option<u64>, of: fn(&Figures) -> u64| {
        let missed = if aim.is_some_and(|aim| of(&ours) > aim) { "  MISSED" } else { "" };
        let aim = aim.map_or(String::new(), |aim| format!("<= {} MB", aim / 1_000_000));
        line(&format!("{what}{missed}"), &aim, size(of(&ours)), size(of(&etcd)));
    };
    let time = |what: &str, aim: Option<u64>, of: fn(&Figures) -> Duration| {
        let missed = if aim.is_some_and(|aim| of(&ours) > Duration::from_millis(aim)) { "  MISSED" } else { "" };
        let aim = aim.map_or(String::new(), |aim| format!("<= {aim} ms"));
        let show = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1e3);
        line(&format!("{what}{missed}"), &aim, show(of(&ours)), show(of(&etcd)));
    };
    println!();
    line("", "aim", "Bramble".into(), "etcd 3.7.3".into());
    bytes("RSS, idle", Some(8_000_000), |figures| figures.idle);
    bytes("fresh data directory on disk", Some(10_000_000), |figures| figures.fresh);
    bytes("binary", Some(6_000_000), |figures| figures.binary);
    time("SIGKILL to first linearizable answer, 10 k keys", Some(50), |figures| figures.start_of_keys);
    time("SIGKILL to first linearizable answer, 1 M revisions", Some(2_000), |figures| figures.start_of_revisions);
    time("the same with nothing in the page cache", None, |figures| figures.start_from_disk);
    bytes("RSS after that start (1 M keys)", None, |figures| figures.memory_of_revisions.resident);
    bytes("of it, not pages of the mapped file", None, |figures| figures.memory_of_revisions.own);
    bytes("data directory with 1 M revisions", None, |figures| figures.data_of_revisions);
}
