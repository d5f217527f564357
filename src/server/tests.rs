//! The whole server behind its handle, without sockets: here on the real disk, in the modules on a simulated one.

mod crash;
mod damaged_wal;
mod disk;
mod each_io;
mod order;
mod relaxed;
mod rig;

use std::path::Path;

use smol::block_on;

use super::{Handle, Server};
use crate::config::{Command, Config, Program, read};
use crate::error::Error;
use crate::host::Host;
use crate::pb::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    alarm_request::AlarmAction,
};
use crate::wal::NoObserver;

fn config(dir: &Path, more: &[&str]) -> Config {
    let mut args = vec![format!("--data-dir={}", dir.display())];
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    match read(Program::Bramble, &args, &[]) {
        Ok(Command::Serve(config)) => *config,
        other => panic!("{other:?}"),
    }
}

fn start(dir: &Path, more: &[&str]) -> Server {
    Server::start(&config(dir, more), Host::real(), std::sync::Arc::new(NoObserver)).unwrap()
}

fn stop(server: Server) {
    server.stop();
    server.wait().unwrap();
}

fn put(handle: &Handle, key: &str, value: &str) -> Result<i64, Error> {
    let request = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() };
    block_on(handle.put(request)).map(|response| response.header.unwrap().revision)
}

fn get(handle: &Handle, key: &str) -> Option<String> {
    let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
    let mut answer = block_on(handle.range(&request)).unwrap();
    let mut value = None;
    answer
        .rows
        .take_while(|row| {
            value = Some(String::from_utf8(crate::mvcc::RowHead::parse(row).unwrap().value.to_vec()).unwrap());
            true
        })
        .unwrap();
    value
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let handle = server.handle();
    assert_eq!(put(&handle, "a", "1"), Ok(2));
    assert_eq!(put(&handle, "a", "2"), Ok(3));
    let lease = block_on(handle.lease_grant(LeaseGrantRequest { id: 0, ttl: 100 })).unwrap().0;
    let leased = PutRequest { key: "leased".into(), lease: lease.id, ..PutRequest::default() };
    block_on(handle.put(leased)).unwrap();
    drop(handle);
    stop(server);
    let server = start(dir.path(), &[]);
    let handle = server.handle();
    assert_eq!(get(&handle, "a").as_deref(), Some("2"));
    assert_eq!(handle.leases(), [lease.id]);
    assert_eq!(block_on(handle.lease_revoke(lease.id)), Ok(5));
    assert_eq!(get(&handle, "leased"), None);
    assert_eq!(handle.members()[0].name, "default");
    assert_eq!(handle.cluster_version().as_deref(), Some("3.7.0"));
    stop(server);
}

/// A copy of the data directory is what a power cut leaves, as far as everything is synced.
#[test]
fn a_copy_taken_while_serving_starts_with_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let handle = server.handle();
    for n in 0..100 {
        put(&handle, &format!("key{n}"), "v").unwrap();
    }
    let copied = std::process::Command::new("cp").arg("-r").arg(dir.path().join("member")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let after = start(copy.path(), &[]);
    assert_eq!(after.handle().revision(), 101);
    assert_eq!(get(&after.handle(), "key99").as_deref(), Some("v"));
    stop(after);
    stop(server);
}

#[test]
fn physical_compaction_returns_when_old_revisions_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let handle = server.handle();
    for n in 0..10 {
        put(&handle, "a", &n.to_string()).unwrap();
    }
    block_on(handle.compact(CompactionRequest { revision: 10, physical: true })).unwrap();
    let old = RangeRequest { key: "a".into(), revision: 9, ..RangeRequest::default() };
    assert_eq!(block_on(handle.range(&old)).err(), Some(Error::Compacted));
    assert_eq!(get(&handle, "a").as_deref(), Some("9"));
    assert_eq!(block_on(handle.compact(CompactionRequest { revision: 10, physical: false })), Err(Error::Compacted));
    assert_eq!(block_on(handle.compact(CompactionRequest { revision: 12, physical: false })), Err(Error::FutureRevision));
    stop(server);
}

#[test]
fn a_full_quota_is_left_by_deleting_compacting_defragmenting_and_disarming() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--quota-backend-bytes=1000000"]);
    let handle = server.handle();
    let big = "x".repeat(100_000);
    let refused = (0..20).find_map(|n| put(&handle, &format!("key{n}"), &big).err());
    assert_eq!(refused, Some(Error::NoSpace));
    // The alarm goes through the log behind the refusal.
    while handle.alarms().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(put(&handle, "small", "x"), Err(Error::NoSpace));
    let all = DeleteRangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), prev_kv: false };
    block_on(handle.delete_range(all)).unwrap();
    block_on(handle.compact(CompactionRequest { revision: handle.revision(), physical: true })).unwrap();
    block_on(handle.defragment()).unwrap();
    let alarm = handle.alarms()[0];
    let disarm =
        AlarmRequest { action: AlarmAction::Deactivate as i32, member_id: alarm.member_id, alarm: AlarmType::Nospace as i32 };
    block_on(handle.alarm(disarm)).unwrap();
    assert!(put(&handle, "small", "x").is_ok());
    assert!(handle.status().unwrap().db_bytes < 200_000, "{:?}", handle.status());
    stop(server);
}

#[test]
fn a_second_server_on_the_same_directory_is_refused_with_the_first_ones_pid() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let fault = Server::start(&config(dir.path(), &[]), Host::real(), std::sync::Arc::new(NoObserver)).err().unwrap().to_string();
    assert!(fault.contains(&std::process::id().to_string()), "{fault}");
    stop(server);
}

#[test]
fn a_missing_wal_is_refused_and_not_started_over() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    put(&server.handle(), "a", "1").unwrap();
    stop(server);
    std::fs::remove_dir_all(dir.path().join("member/wal")).unwrap();
    let fault = Server::start(&config(dir.path(), &[]), Host::real(), std::sync::Arc::new(NoObserver)).err().unwrap().to_string();
    assert!(fault.contains("holds no WAL"), "{fault}");
}
