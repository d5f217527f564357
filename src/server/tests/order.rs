//! What has to come before what, and what may not be started from.

use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smol::block_on;

use super::super::Server;
use super::rig::{Rig, get, put, put_request};
use super::{config, start, stop};
use crate::backend::{Backend, Options, Table, WriteError, Writer};
use crate::error::Error;
use crate::host::Host;
use crate::mvcc::watch::{Delivery, NewWatch};
use crate::pb::etcdserverpb::LeaseGrantRequest;
use crate::raft::LogId;
use crate::wal::{self, Identity, NoObserver, Wal};

/// Why a start was refused.
fn refusal(dir: &Path, flags: &[&str]) -> String {
    let refused = Server::start(&config(dir, flags), Host::real(), Arc::new(NoObserver));
    refused.err().expect("the start is refused").to_string()
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-rT").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[test]
fn whoever_has_an_answer_finds_its_event_published() {
    let rig = Rig::new(1, &[]);
    let server = rig.start().unwrap();
    let handle = server.handle();
    let mut stream = handle.open_watch_stream();
    stream.create(&NewWatch { key: "a".into(), ..NewWatch::default() });
    assert!(matches!(stream.pop(), Some(Delivery::Created { .. })));
    for n in 0..50 {
        let revision = put(&handle, "a", &n.to_string()).unwrap();
        match stream.pop() {
            Some(Delivery::Events(batch)) => assert_eq!(batch.events[0].revision.main, revision),
            other => panic!("{other:?} at revision {revision}"),
        }
        stream.request_progress();
        assert!(matches!(stream.pop(), Some(Delivery::Progress { revision: told, .. }) if told == revision));
    }
    drop(stream);
    stop(server);
}

#[test]
fn a_log_that_is_older_than_the_checkpoint_is_refused() {
    let (dir, older) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let wal = dir.path().join("member/wal");
    let server = start(dir.path(), &[]);
    put(&server.handle(), "a", "1").unwrap();
    stop(server);
    copy(&wal, older.path());
    let server = start(dir.path(), &[]);
    put(&server.handle(), "a", "2").unwrap();
    stop(server);
    std::fs::remove_dir_all(&wal).unwrap();
    copy(older.path(), &wal);
    let fault = refusal(dir.path(), &[]);
    assert!(fault.contains("they are not of one time"), "{fault}");
}

#[test]
fn a_log_of_another_cluster_than_the_checkpoints_is_refused() {
    let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, flags) in [(&ours, &[][..]), (&others, &["--initial-cluster-token=other"][..])] {
        let server = start(dir.path(), flags);
        put(&server.handle(), "a", "1").unwrap();
        stop(server);
    }
    let wal = ours.path().join("member/wal");
    std::fs::remove_dir_all(&wal).unwrap();
    copy(&others.path().join("member/wal"), &wal);
    let fault = refusal(ours.path(), &[]);
    assert!(fault.contains("it comes from another data directory"), "{fault}");
}

#[test]
fn a_log_begun_for_other_members_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join("member/wal");
    std::fs::create_dir_all(&wal).unwrap();
    let identity = Identity { cluster_id: 1, member_id: 2 };
    drop(Wal::create(&Host::real(), &wal, identity, LogId::default(), wal::Options::default()).unwrap());
    let fault = refusal(dir.path(), &[]);
    assert!(fault.contains("the WAL was begun for member 2 of cluster 1"), "{fault}");
}

#[test]
fn a_checkpoint_that_cannot_be_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let handle = server.handle();
    block_on(handle.lease_grant(LeaseGrantRequest { id: 7, ttl: 1000 })).unwrap();
    block_on(handle.put(put_request("leased", "v", 7))).unwrap();
    drop(handle);
    stop(server);
    let db = |dir: &Path| dir.join("member/snap/db");
    type Change = fn(&mut Writer<'_>) -> Result<(), WriteError>;
    let changes: [(Change, &str); 3] = [
        (|writer| writer.clear(Table::Member), "it names no members"),
        (|writer| writer.clear(Table::Lease), "1 keys hang on leases that it lacks"),
        (|writer| writer.put(Table::Meta, b"format", &2_u64.to_be_bytes()), "has format 2, and this bramble knows 1"),
    ];
    for (change, words) in changes {
        let copied = tempfile::tempdir().unwrap();
        copy(dir.path(), copied.path());
        let backend = Backend::open(&db(copied.path()), Options { map_bytes: 64 << 20, no_fsync: true }).unwrap();
        backend.write(change).unwrap();
        drop(backend);
        let fault = refusal(copied.path(), &[]);
        assert!(fault.contains(words), "{fault}");
    }
}

/// Proposals wait in the inbox (10,000 at the most) and in the log (20,000 at the most).
#[test]
fn proposals_that_a_stalled_disk_holds_up_are_bounded() {
    let rig = Rig::new(2, &[]);
    let server = rig.start().unwrap();
    let handle = server.handle();
    rig.disk.hold_syncs();
    let mut waiting: FuturesUnordered<_> = (0..60_000).map(|_| handle.put(put_request("k", "v", 0))).collect();
    // The clock stands still, so nothing ends by time, and the disk lets nothing succeed.
    while waiting.len() > 30_000 {
        assert_eq!(block_on(waiting.next()).unwrap().err(), Some(Error::TooManyRequests));
    }
    rig.disk.let_go();
    block_on(async {
        while let Some(answer) = waiting.next().await {
            assert!(matches!(answer, Ok(_) | Err(Error::TooManyRequests)), "{answer:?}");
        }
    });
    drop(waiting);
    stop(server);
}

#[test]
fn what_is_in_memory_alone_is_bounded() {
    let mut rig = Rig::new(3, &[]);
    (rig.tuning.checkpoint_recent_bytes, rig.tuning.checkpoint_wal_bytes) = (u64::MAX, u64::MAX);
    let server = rig.start().unwrap();
    let handle = server.handle();
    let value = "x".repeat(1 << 20);
    let refused = (0..100).find_map(|n| put(&handle, &format!("key{n}"), &value).err().map(|error| (n, error)));
    // The count is taken after the answer has left, so that one more may slip in.
    assert!(matches!(refused, Some((64..=66, Error::TooManyRequests))), "{refused:?}");
    assert_eq!(get(&handle, "key0").as_deref(), Some(&*value));
    // What is written makes room.
    rig.wait_for(handle.defragment()).unwrap();
    assert!(put(&handle, "again", "v").is_ok());
    stop(server);
}
