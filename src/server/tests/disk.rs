//! A disk that is full, stalls or breaks.

use std::thread;
use std::time::Duration;

use smol::block_on;

use super::super::shared::LeaderLoss;
use super::rig::{Rig, delete, get, put, put_request, step};
use crate::error::Error;
use crate::host::Disk;
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{CompactionRequest, LeaseGrantRequest, RequestOp, TxnRequest};

#[test]
fn a_start_may_be_cut_short_anywhere() {
    let seed = 7;
    for lose_checkpoint in [false, true] {
        for power_cut in [false, true] {
            for changes in 0.. {
                let rig = Rig::small(seed + changes);
                rig.disk.crash_after(changes);
                let server = match rig.start() {
                    // A start that was not cut short itself: the crash comes with a write of its own, or later.
                    Ok(server) if !rig.disk.has_crashed() => {
                        server.stop();
                        server.wait().unwrap();
                        break;
                    }
                    first => {
                        if let Ok(server) = first {
                            assert!(server.wait().is_err());
                        }
                        if power_cut {
                            rig.disk.power_cut();
                        } else {
                            rig.disk.kill();
                        }
                        if lose_checkpoint {
                            rig.lose_checkpoint();
                        }
                        rig.start().unwrap_or_else(|fault| panic!("cut short after {changes} changes: {fault}"))
                    }
                };
                assert_eq!(put(&server.handle(), "a", "1"), Ok(2));
                assert_eq!(server.handle().members()[0].name, "default");
                server.stop();
                server.wait().unwrap();
            }
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_the_process_ends() {
    for syncs in 0..12 {
        let rig = Rig::small(syncs);
        let server = rig.start().unwrap();
        let handle = server.handle();
        let mut acknowledged = 0;
        rig.disk.fail_syncs_after(syncs);
        while let Ok(revision) = put(&handle, "a", &"x".repeat(500)) {
            acknowledged = revision;
        }
        assert_eq!(put(&handle, "a", "after"), Err(Error::Stopped));
        assert_eq!(delete(&handle, "a"), Err(Error::Stopped));
        drop(handle);
        let fault = server.wait().unwrap_err().to_string();
        assert!(fault.contains("sync"), "{fault}");
        rig.disk.power_cut();
        let server = rig.start().unwrap();
        assert!(server.handle().revision() >= acknowledged, "{} < {acknowledged}", server.handle().revision());
        server.stop();
        server.wait().unwrap();
    }
}

#[test]
fn on_a_disk_that_fills_up_deletes_and_compactions_go_on_and_puts_return_with_the_room() {
    let rig = Rig::new(1, &[]);
    let server = rig.start().unwrap();
    let handle = server.handle();
    rig.disk.set_capacity(Some(24 << 20));
    let value = "x".repeat(32 << 10);
    let put_next = |n| {
        // The disks are asked from time to time.
        rig.clock.advance(Duration::from_secs(1));
        put(&handle, &format!("key{n}"), &value).err()
    };
    let mut puts = 0..1000;
    let mut lease = Ok(());
    // A checkpoint that was under way at the first refusal may make room once more.
    while lease.is_ok() {
        assert_eq!(puts.find_map(put_next), Some(Error::NoSpace));
        lease = block_on(handle.lease_grant(LeaseGrantRequest { id: puts.start, ttl: 100 })).map(drop);
    }
    assert_eq!(lease, Err(Error::NoSpace));
    assert!(get(&handle, "key9").is_some());
    assert!(rig.disk.free_bytes(&rig.wal_dir()).unwrap() > 1 << 20);
    for n in 0..10 {
        delete(&handle, &format!("key{n}")).unwrap();
    }
    let compaction = CompactionRequest { revision: handle.revision(), physical: true };
    rig.wait_for(handle.compact(compaction)).unwrap();
    rig.wait_for(handle.defragment()).unwrap();
    rig.disk.set_capacity(None);
    rig.clock.advance(Duration::from_secs(1));
    put(&handle, "room", "again").unwrap();
    drop(handle);
    server.stop();
    server.wait().unwrap();
    let server = rig.start().unwrap();
    assert_eq!(get(&server.handle(), "room").as_deref(), Some("again"));
    assert_eq!(get(&server.handle(), "key9"), None);
    server.stop();
    server.wait().unwrap();
}

#[test]
fn while_the_wal_takes_nothing_puts_are_refused_at_once_and_what_waits_is_written_later() {
    let rig = Rig::new(2, &[]);
    let server = rig.start().unwrap();
    let handle = server.handle();
    rig.disk.set_refuses_writes(true);
    let waiting = thread::spawn({
        let handle = handle.clone();
        move || put(&handle, "waiting", "v")
    });
    // Until the WAL has told that it finds no room, others would wait too; reads never do.
    while handle.admit_put(&put_request("k", "v", 0)).is_ok() {
        assert_eq!(get(&handle, "waiting"), None);
    }
    assert_eq!(put(&handle, "k", "v"), Err(Error::NoSpace));
    rig.disk.set_refuses_writes(false);
    assert_eq!(waiting.join().unwrap(), Ok(2));
    assert_eq!(put(&handle, "k", "v"), Ok(3));
    rig.disk.set_refuses_writes(true);
    let dropped = thread::spawn({
        let handle = handle.clone();
        move || put(&handle, "dropped", "v")
    });
    while handle.admit_put(&put_request("k", "v", 0)).is_ok() {
        thread::yield_now();
    }
    server.stop();
    server.wait().unwrap();
    assert_eq!(dropped.join().unwrap(), Err(Error::Stopped));
}

#[test]
fn a_stalled_disk_holds_up_writes_and_nothing_else_and_an_end_only_for_a_while() {
    let mut rig = Rig::new(3, &[]);
    rig.tuning.leave_wait = Duration::from_millis(20);
    let server = rig.start().unwrap();
    let handle = server.handle();
    put(&handle, "a", "before").unwrap();
    block_on(handle.lease_grant(LeaseGrantRequest { id: 9, ttl: 100 })).unwrap();
    rig.disk.hold_syncs();
    let stuck = thread::spawn({
        let handle = handle.clone();
        move || put(&handle, "a", "stuck")
    });
    rig.disk.await_held_sync();
    assert_eq!(get(&handle, "a").as_deref(), Some("before"));
    assert_eq!(block_on(handle.lease_renew(9)), Ok(100));
    assert_eq!(block_on(handle.lease_times(9, false)).unwrap().remaining_secs, 100);
    assert!(handle.status().unwrap().errors.is_empty());
    drop(handle.open_watch_stream());
    // Told after its time that nobody knows; and it is done all the same when the disk goes on.
    rig.clock.advance(Duration::from_secs(6));
    assert_eq!(stuck.join().unwrap(), Err(Error::Timeout));
    rig.disk.let_go();
    put(&handle, "b", "after").unwrap();
    assert_eq!(get(&handle, "a").as_deref(), Some("stuck"));
    rig.disk.hold_syncs();
    let stuck = thread::spawn({
        let handle = handle.clone();
        move || put(&handle, "a", "never")
    });
    rig.disk.await_held_sync();
    server.stop();
    server.wait().unwrap();
    assert_eq!(stuck.join().unwrap(), Err(Error::Stopped));
    drop(handle);
    rig.disk.let_go();
    // The lock is held until the disk has let go of the WAL's thread.
    let server = rig.start().unwrap();
    assert_eq!(get(&server.handle(), "b").as_deref(), Some("after"));
    server.stop();
    server.wait().unwrap();
}

#[test]
fn a_backlog_of_expired_leases_is_worked_off_and_holds_up_no_one() {
    let rig = Rig::new(4, &[]);
    let server = rig.start().unwrap();
    let handle = server.handle();
    let grants = (1..=2000).map(|id| handle.lease_grant(LeaseGrantRequest { id, ttl: 100 }));
    for granted in block_on(futures_util::future::join_all(grants)) {
        granted.unwrap();
    }
    put(&handle, "kept", "v").unwrap();
    block_on(handle.put(put_request("leased", "v", 2000))).unwrap();
    for _ in 0..99 {
        step(&rig, &handle, Duration::from_secs(1));
        // Every lease but this one stays unrenewed.
        assert_eq!(block_on(handle.lease_renew(1)), Ok(100));
    }
    assert_eq!(handle.leases().len(), 2000);
    step(&rig, &handle, Duration::from_secs(2));
    assert!(handle.leases().len() >= 1500, "one tick revokes 500 at the most, and not all but {}", handle.leases().len());
    let mut steps = 0;
    while handle.leases() != [1] {
        step(&rig, &handle, Duration::from_millis(10));
        steps += 1;
        assert!(steps < 1000, "{} leases left", handle.leases().len());
    }
    assert_eq!(get(&handle, "leased"), None);
    assert_eq!(get(&handle, "kept").as_deref(), Some("v"));
    server.stop();
    server.wait().unwrap();
}

#[test]
fn over_its_quota_a_server_says_so_before_it_looks_at_the_request() {
    let rig = Rig::new(5, &["--quota-backend-bytes=100"]);
    let server = rig.start().unwrap();
    let handle = server.handle();
    assert_eq!(handle.admit_put(&put_request("", "", 77)), Err(Error::NoSpace));
    let too_long = LeaseGrantRequest { id: 1, ttl: i64::MAX };
    assert_eq!(block_on(handle.lease_grant(too_long)).err(), Some(Error::NoSpace));
    server.stop();
    server.wait().unwrap();
}

#[test]
fn every_directory_on_the_way_to_the_wal_has_its_name_on_disk_before_the_first_acknowledgement() {
    let rig = Rig::small(6);
    let server = rig.start().unwrap();
    let wal_dir = rig.wal_dir();
    rig.disk.crash_after(0);
    assert!(put(&server.handle(), "a", "1").is_err());
    assert!(server.wait().is_err());
    rig.disk.power_cut();
    for dir in wal_dir.ancestors() {
        rig.disk.list(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    }
}

/// More than one checkpoint removes.
#[test]
fn a_defragmentation_gives_back_all_that_compactions_have_freed_before_it() {
    let rig = Rig::new(8, &[]);
    let server = rig.start().unwrap();
    let handle = server.handle();
    let value = "x".repeat(200);
    let op = |n: usize| RequestOp { request: Some(Request::RequestPut(put_request(&format!("key{n}"), &value, 0))) };
    let txn = TxnRequest { success: (0..100).map(op).collect(), ..TxnRequest::default() };
    for _ in 0..250 {
        block_on(handle.txn(txn.clone())).unwrap();
    }
    rig.wait_for(handle.defragment()).unwrap();
    let before = handle.status().unwrap().db_bytes;
    block_on(handle.compact(CompactionRequest { revision: handle.revision(), physical: false })).unwrap();
    rig.wait_for(handle.defragment()).unwrap();
    let after = handle.status().unwrap().db_bytes;
    assert!(before > 5_000_000 && after < 200_000, "{before} bytes, then {after}");
    server.stop();
    server.wait().unwrap();
}

#[test]
fn nobody_is_told_of_a_lost_leader_before_it_is_lost_nor_after_it_is_found() {
    let loss = LeaderLoss::new();
    let early = loss.waiter();
    assert!(!early.is_closed());
    loss.found();
    assert!(!early.is_closed());
    loss.lost();
    assert!(early.is_closed() && loss.waiter().is_closed());
    loss.found();
    assert!(early.is_closed() && !loss.waiter().is_closed());
}
