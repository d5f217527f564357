//! The power goes: under load, during starts, and during the very first start.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::{Disk, KINDS, LOAD, Mounted, Operation, Plan, Trouble, WRITES, begin, begin_relaxed, count, mounted, server_on};
use crate::crash::campaign::Campaign;
use crate::crash::ledger::{Ledger, Log};
use crate::support::Server;
use crate::support::random::Random;
use crate::support::requests::{Revision, everything, key, put};
use crate::support::wait::until;

/// Some operation that changes the disk.
fn cut(random: &mut Random) -> Plan {
    let (operation, many) = match random.below(8) {
        0..3 => (Some(Operation::Sync), 80),
        3..5 => (Some(Operation::Name), 12),
        5 => (None, 2_000),
        _ => (Some(Operation::Write), 300),
    };
    let kind = match random.below(2) {
        0 => None,
        _ => Some(KINDS[random.below(KINDS.len() as u64) as usize]),
    };
    // Early ones more often: some kinds of file are rarely touched.
    let many = if random.below(2) == 0 { many } else { 4 };
    Plan { trouble: Trouble::PowerCut, operation, kind, after: random.below(many) }
}

/// The load until the power goes, or until enough was written. Now and then the server is told to leave in good order first, and may
/// lose its power meanwhile.
fn until_cut(campaign: &mut Campaign, disk: &Disk, plan: Plan) {
    campaign.live(LOAD, |server, random, progress| {
        let in_order = random.below(8) == 0;
        let enough = if in_order { 40 } else { WRITES };
        if !in_order {
            disk.plan(plan);
        }
        until("the cut or enough load", || {
            let enough = progress.acknowledged.load(Ordering::Relaxed) >= enough;
            (enough || disk.has_happened()).then_some(())
        });
        if in_order {
            disk.plan(Plan { trouble: Trouble::PowerCut, operation: None, kind: None, after: random.below(12) });
            server.terminate();
        } else {
            server.kill();
        }
        Log::default()
    });
}

/// A start until the power goes, or until it has succeeded. Then the server is gone.
fn start(server: &mut Server, disk: &Disk) {
    server.spawn();
    until("the start or the cut", || (disk.has_happened() || server.has_ended() || server.answers()).then_some(()));
    assert!(disk.has_happened() || !server.has_ended(), "the server refuses to start after a power cut");
    server.kill();
}

/// Begins a campaign.
type Begin = fn(&mut Random) -> Option<(Disk, Mounted, Campaign)>;

fn power_cuts(count: u64, random: &mut Random, begin: Begin) {
    let Some((disk, mut mounted, mut campaign)) = begin(random) else { return };
    let mut met = BTreeMap::<String, u64>::new();
    let mut cuts = 0;
    while cuts < count {
        until_cut(&mut campaign, &disk, cut(random));
        loop {
            let met_with = disk.call_off();
            // Killed between operations it may also start on what the kernel has in memory, and lose its power then.
            if met_with.is_some() || random.below(3) > 0 {
                let what = met_with.map_or("between operations".to_owned(), |(what, kind)| format!("{what:?} {kind:?}"));
                *met.entry(what).or_default() += 1;
                cuts += 1;
                mounted.again(Disk::lose_power);
                campaign.ledger.relaxed.power_failed = true;
            }
            if random.below(3) > 0 {
                break;
            }
            // Once more, while it is starting.
            disk.plan(Plan { trouble: Trouble::PowerCut, operation: None, kind: None, after: random.below(16) });
            start(&mut campaign.server, &disk);
        }
        campaign.restart();
    }
    println!("{cuts} power cuts, during: {met:#?}");
    campaign.tell();
}

#[test]
fn what_was_acknowledged_survives_power_cuts() {
    power_cuts(14, &mut Random::from_seed(4), begin);
}

#[test]
fn power_cuts_take_the_end_of_a_relaxed_class_and_nothing_else() {
    power_cuts(14, &mut Random::from_seed(5), begin_relaxed);
}

#[test]
#[ignore = "hundreds of power cuts; make power-cut"]
fn what_was_acknowledged_survives_many_power_cuts() {
    power_cuts(count(300), &mut Random::from_env(), begin);
}

#[test]
#[ignore = "hundreds of power cuts; make power-cut"]
fn many_power_cuts_take_the_end_of_a_relaxed_class_and_nothing_else() {
    power_cuts(count(300), &mut Random::from_env(), begin_relaxed);
}

/// Cuts the very first start at this operation, and again what comes after that, until one start succeeds. False if the start has no
/// such operation.
fn first_start(operation: Operation, after: u64, random: &mut Random) -> bool {
    let Some((disk, mut mounted)) = mounted(random.next()) else { return false };
    let mut server = server_on(&mounted);
    disk.plan(Plan { trouble: Trouble::PowerCut, operation: Some(operation), kind: None, after });
    start(&mut server, &disk);
    let was_cut = disk.call_off().is_some();
    mounted.again(Disk::lose_power);
    disk.plan(Plan { trouble: Trouble::PowerCut, operation: Some(operation), kind: None, after: random.below(20) });
    start(&mut server, &disk);
    disk.call_off();
    mounted.again(Disk::lose_power);
    server.restart();
    Ledger::new().verify(&server.client(), random);
    // The first acknowledgement counts as every later one, with all the names on the way to it still new.
    let revision = server.client().call(&put("first", "")).revision();
    server.kill();
    mounted.again(Disk::lose_power);
    server.restart();
    let found = server.client().call(&key("first"));
    assert_eq!(found.kvs.first().map(|kv| kv.mod_revision), Some(revision), "the first write is lost");
    was_cut
}

#[test]
fn a_first_start_that_is_cut_short_needs_no_help() {
    let mut random = Random::from_seed(1);
    for after in (0..16).step_by(3) {
        first_start(Operation::Name, after, &mut random);
        first_start(Operation::Sync, after, &mut random);
    }
}

#[test]
#[ignore = "every operation of a start; make power-cut"]
fn a_first_start_may_be_cut_short_anywhere() {
    let mut random = Random::from_env();
    for (operation, step) in [(Operation::Name, 1), (Operation::Sync, 1), (Operation::Write, 40), (Operation::Truncate, 1)] {
        let cut = (0..).step_by(step).take_while(|after| first_start(operation, *after, &mut random)).count();
        println!("{operation:?}: {cut} first starts cut short");
    }
}

/// The log lets go of what the first checkpoint holds, so from then on that must not be lost with its name.
#[test]
fn the_first_checkpoint_keeps_its_name() {
    let mut random = Random::from_seed(6);
    for _ in 0..3 {
        let Some((_disk, mut mounted, mut campaign)) = begin(&mut random) else { return };
        let puts: Vec<_> = (0..40).map(|n| put(format!("{n:02}"), vec![n; 400_000])).collect();
        assert!(campaign.server.client().call_all(&puts, 2).iter().all(Result::is_ok));
        campaign.server.kill();
        mounted.again(Disk::lose_power);
        campaign.server.restart();
        let found = campaign.server.client().call(&everything());
        assert_eq!(found.count, 40);
        assert!(found.kvs.iter().zip(&puts).all(|(kv, put)| kv.value == put.value));
    }
}
