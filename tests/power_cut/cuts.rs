//! The power goes: under load, during starts, and during the very first start.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::{Disk, KINDS, LOAD, Operation, Plan, Trouble, WRITES, begin, count, mounted, server_on};
use crate::crash::campaign::Campaign;
use crate::crash::ledger::{Ledger, Log};
use crate::support::Server;
use crate::support::random::Random;
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

/// The load until the power goes, or until enough was written.
fn until_cut(campaign: &mut Campaign, disk: &Disk, plan: Plan) {
    campaign.live(LOAD, |server, _, progress| {
        disk.plan(plan);
        until("the cut or enough load", || {
            let enough = progress.acknowledged.load(Ordering::Relaxed) >= WRITES;
            (enough || disk.has_happened()).then_some(())
        });
        server.kill();
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

fn power_cuts(count: u64, random: &mut Random) {
    let Some((disk, mut mounted, mut campaign)) = begin(random) else { return };
    let mut met = BTreeMap::<String, u64>::new();
    let mut cuts = 0;
    while cuts < count {
        until_cut(&mut campaign, &disk, cut(random));
        loop {
            let what = disk.call_off().map_or("between operations".to_owned(), |(what, kind)| format!("{what:?} {kind:?}"));
            *met.entry(what).or_default() += 1;
            cuts += 1;
            mounted.again(Disk::lose_power);
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
    power_cuts(14, &mut Random::from_seed(4));
}

#[test]
#[ignore = "hundreds of power cuts; make power-cut"]
fn what_was_acknowledged_survives_many_power_cuts() {
    power_cuts(count(300), &mut Random::from_env());
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
    was_cut
}

#[test]
fn a_first_start_that_is_cut_short_needs_no_help() {
    let mut random = Random::from_seed(1);
    for after in (0..24).step_by(3) {
        first_start(Operation::Name, after, &mut random);
        first_start(Operation::Sync, after / 2, &mut random);
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
