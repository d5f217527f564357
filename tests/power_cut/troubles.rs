//! The disk answers with errors: a sync fails, a write fails, there is no room, a read fails.

use std::sync::atomic::Ordering;

use bramble::pb::etcdserverpb::DefragmentRequest;

use super::{Disk, KINDS, Kind, LOAD, Mounted, Operation, Plan, Trouble, WRITES, begin, count};
use crate::crash::campaign::Campaign;
use crate::crash::ledger::Log;
use crate::support::Server;
use crate::support::random::Random;
use crate::support::requests::{everything, put};
use crate::support::wait::until;

/// The load until the trouble comes, or until enough was written; then `after`, if it came; and then the server is gone.
fn until_trouble(campaign: &mut Campaign, disk: &Disk, plan: Plan, after: impl FnOnce(&mut Server)) {
    campaign.live(LOAD, |server, _, progress| {
        disk.plan(plan);
        until("the trouble or enough load", || {
            let enough = progress.acknowledged.load(Ordering::Relaxed) >= WRITES;
            (enough || disk.has_happened()).then_some(())
        });
        if disk.has_happened() {
            after(server);
        }
        server.kill();
        Log::default()
    });
}

fn random_kind(random: &mut Random) -> Option<Kind> {
    (random.below(4) > 0).then(|| KINDS[random.below(KINDS.len() as u64) as usize])
}

/// Starts it again, on what the kernel still has in memory or without that, and then after a power cut.
fn start_twice(campaign: &mut Campaign, disk: &Disk, mounted: &mut Mounted, random: &mut Random) {
    disk.call_off();
    match random.below(3) {
        0 => mounted.again(Disk::forget_clean_pages),
        1 => mounted.again(Disk::lose_power),
        _ => {}
    }
    campaign.restart();
    campaign.server.kill();
    mounted.again(Disk::lose_power);
    campaign.restart();
}

fn failed_syncs(count: u64, random: &mut Random) {
    let Some((disk, mut mounted, mut campaign)) = begin(random) else { return };
    let mut failed = 0;
    for _ in 0..count {
        let kind = random_kind(random);
        let plan = Plan { trouble: Trouble::Fails, operation: Some(Operation::Sync), kind, after: random.below(30) };
        until_trouble(&mut campaign, &disk, plan, |server| {
            failed += 1;
            until("the server to end after a failed sync", || server.has_ended().then_some(()));
        });
        start_twice(&mut campaign, &disk, &mut mounted, random);
    }
    println!("{failed} failed syncs");
    assert!(failed > 0, "no sync was there to fail");
    campaign.tell();
}

#[test]
fn a_failed_sync_ends_the_server_and_loses_nothing() {
    failed_syncs(4, &mut Random::from_seed(2));
}

#[test]
#[ignore = "many failures; make power-cut"]
fn many_failed_syncs_lose_nothing() {
    failed_syncs(count(300) / 3, &mut Random::from_env());
}

/// Where every write needs new room, as on a copy-on-write file system, LMDB's meta pages may find none either.
#[test]
fn a_checkpoint_may_find_the_disk_full_at_each_of_its_writes() {
    let Some((disk, _mounted, mut campaign)) = begin(&mut Random::from_seed(1)) else { return };
    let client = campaign.server.client();
    for after in 0..2 {
        let (operation, kind) = (Some(Operation::Write), Some(Kind::Checkpoint));
        // Refused for as long as the last one is not known to have room again.
        until("a put", || client.try_call(&put("k", format!("{after}"))).ok());
        disk.plan(Plan { trouble: Trouble::NoSpace(0), operation, kind, after });
        // Wants a checkpoint, and is told if that finds no room.
        let _ = client.try_call(&DefragmentRequest {});
        assert!(disk.call_off().is_some(), "a checkpoint of one row has more than {after} writes");
        assert!(!campaign.server.has_ended(), "a full disk has ended the server");
        let found = client.call(&everything());
        assert_eq!((found.count, found.kvs[0].value.clone()), (1, format!("{after}").into()));
    }
    until("a checkpoint after there is room again", || client.try_call(&DefragmentRequest {}).ok());
}

fn failed_writes(count: u64, random: &mut Random) {
    let Some((disk, mut mounted, mut campaign)) = begin(random) else { return };
    let mut failed = 0;
    for _ in 0..count {
        let operation = [Operation::Write, Operation::Write, Operation::Name][random.below(3) as usize];
        let no_space = operation == Operation::Write && random.below(2) == 0;
        let trouble = if no_space { Trouble::NoSpace(random.below(3)) } else { Trouble::Fails };
        let plan = Plan { trouble, operation: Some(operation), kind: random_kind(random), after: random.below(40) };
        until_trouble(&mut campaign, &disk, plan, |server| {
            failed += 1;
            if no_space {
                until("room", || (!disk.is_full() || server.has_ended()).then_some(()));
                assert!(!server.has_ended(), "a full disk has ended the server");
            }
        });
        start_twice(&mut campaign, &disk, &mut mounted, random);
    }
    println!("{failed} failed writes, creations, renames and removals");
    assert!(failed > 0, "nothing was there to fail");
    campaign.tell();
}

#[test]
fn a_failed_write_loses_nothing() {
    failed_writes(5, &mut Random::from_seed(5));
}

#[test]
#[ignore = "many failures; make power-cut"]
fn many_failed_writes_lose_nothing() {
    failed_writes(count(300) / 3, &mut Random::from_env());
}

/// A read that fails during a start ends that start, or the server later; the next one finds everything.
fn failed_reads(count: u64, random: &mut Random) {
    let Some((disk, mut mounted, mut campaign)) = begin(random) else { return };
    let mut failed = 0;
    for _ in 0..count {
        let plan = Plan { trouble: Trouble::PowerCut, operation: Some(Operation::Sync), kind: None, after: random.below(80) };
        until_trouble(&mut campaign, &disk, plan, |_| {});
        disk.call_off();
        mounted.again(Disk::lose_power);
        let kind = random_kind(random);
        disk.plan(Plan { trouble: Trouble::Fails, operation: Some(Operation::Read), kind, after: random.below(8) });
        campaign.server.spawn();
        until("the start or its end", || (campaign.server.has_ended() || campaign.server.answers()).then_some(()));
        campaign.server.kill();
        failed += u64::from(disk.call_off().is_some());
        mounted.again(|_| {});
        campaign.restart();
    }
    println!("{failed} failed reads");
    assert!(failed > 0, "no read was there to fail");
    campaign.tell();
}

#[test]
fn a_failed_read_loses_nothing() {
    failed_reads(4, &mut Random::from_seed(3));
}

#[test]
#[ignore = "many failures; make power-cut"]
fn many_failed_reads_lose_nothing() {
    failed_reads(count(300) / 3, &mut Random::from_env());
}
