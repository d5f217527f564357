//! How it ends, and how it starts again.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::Signal;

use crate::support::requests::{Watch, everything, put, watch_prefix};
use crate::support::wait::until;
use crate::support::{Client, Code, Server, under_test};

/// Puts until the server is gone: how many were acknowledged.
fn put_until_the_end(client: &Client, writer: usize) -> usize {
    (0..).take_while(|n| client.try_call(&put(format!("{writer}/{n}"), "v")).is_ok()).count()
}

#[test]
fn a_signal_under_load_ends_streams_loses_nothing_and_is_what_it_ends_by() {
    const WRITERS: usize = 4;
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start();
        let watcher = server.client();
        let mut watched = Watch::open(&watcher);
        watched.create(watch_prefix(""));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let client = server.client();
                thread::spawn(move || put_until_the_end(&client, writer))
            })
            .collect();
        for _ in 0..20 {
            watched.events();
        }
        assert_eq!(server.end_by(signal).signal(), Some(signal.as_raw()), "whoever waits sees that it obeyed");
        let acknowledged: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        let end = loop {
            if let Err(status) = watched.stream.try_recv() {
                break status;
            }
        };
        assert_eq!(end.code, Code::Unavailable, "{end:?}");
        server.restart();
        let held = server.client().call(&everything()).count as usize;
        // Of each writer's last put nobody was told.
        assert!((acknowledged..=acknowledged + WRITERS).contains(&held), "{acknowledged} acknowledged, {held} held");
    }
}

/// In a container nobody dies of a signal that has no handler, so it has to leave by itself.
#[test]
fn as_a_containers_first_process_it_returns_zero() {
    let dir = tempfile::tempdir().unwrap();
    let unshare = ["--user", "--map-root-user", "--pid", "--fork"];
    let allowed = Command::new("unshare").args(unshare).arg("true").stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("skipped: this machine gives no namespaces to its users");
        return;
    }
    let log = dir.path().join("log");
    let socket = dir.path().join("sock");
    // The shell outside the namespace learns the first process's outer id from its parent's children.
    let mut child = Command::new("unshare")
        .args(unshare)
        .arg(under_test())
        .arg(format!("--data-dir={}", dir.path().join("data").display()))
        .arg(format!("--listen-client-urls=unix://{}", socket.display()))
        .arg("--advertise-client-urls=http://127.0.0.1:2379")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let read = || std::fs::read_to_string(&log).unwrap();
    until("the server to be ready", || read().contains("ready to serve client requests").then_some(()));
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let first = rustix::process::Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(first, Signal::TERM).unwrap();
    let status = until("the server to end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{}", read());
}

#[test]
fn flags_of_another_cluster_do_not_touch_what_is_there() {
    let mut server = Server::start();
    let before = server.client().call(&put("a", "1")).header.unwrap();
    server.terminate();
    for flag in ["--initial-cluster-token=other", "--initial-cluster-state=existing", "--initial-cluster=x=http://10.0.0.1:2380"]
    {
        server.add_flag(flag);
    }
    server.restart();
    let after = server.client().call(&everything());
    let header = after.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, after.count), (before.cluster_id, before.member_id, 1));
}
