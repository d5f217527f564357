//! kill -9 at any moment: what was acknowledged is there afterwards, at its revision, and nothing is half done or taken back.
//!
//! [`load`] is what the clients ask for, [`ledger`] what they know of the outcome, and [`verify`] compares that with the store after
//! the restart. `make crash SEED= N=` plays many kills. The seed replays the requests; the moment of a kill is chance.

pub mod campaign;
pub mod ledger;
pub mod load;
pub mod relaxed;
pub mod rows;
pub mod verify;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bramble::pb::etcdserverpb::LeaseRevokeRequest;

use crate::support::Server;
use crate::support::random::Random;
use crate::support::requests::{Revision, everything, grant, put_leased};
use crate::support::wait::until;
use campaign::Campaign;
use ledger::Log;
use load::{Load, Progress};
use relaxed::Relaxed;

/// All of a request, the key included, may take 1.5 MiB.
const LOAD: Load = Load { writers: 5, longest_value: 1_572_864 - 512 };

/// When a kill comes. Pauses here choose a moment; nothing waits for them to be long enough.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After so many acknowledged writes.
    Writes(u64),
    /// After so many microseconds, be the server ready for clients or not.
    Time(u64),
    /// So many microseconds after a defragmentation was asked for.
    Defragmentation(u64),
    /// So many microseconds after a compaction was asked for.
    Compaction(u64),
}

impl Moment {
    fn random(random: &mut Random) -> Moment {
        match random.below(8) {
            0 => Moment::Time(random.below(60_000)),
            1 => Moment::Defragmentation(random.below(30_000)),
            2 => Moment::Compaction(random.below(15_000)),
            3..5 => Moment::Writes(random.below(40)),
            _ => Moment::Writes(random.below(500)),
        }
    }

    /// Waits for it, and kills. Requests of its own go to the log.
    fn kill(self, server: &mut Server, random: &mut Random, progress: &Progress) -> Log {
        let pause = |micros| std::thread::sleep(Duration::from_micros(micros));
        let client = server.client();
        match self {
            Moment::Writes(count) => {
                until("the load", || (progress.acknowledged.load(Ordering::Relaxed) >= count).then_some(()));
                server.kill();
                Log::default()
            }
            Moment::Time(micros) => {
                pause(micros);
                server.kill();
                Log::default()
            }
            Moment::Defragmentation(micros) | Moment::Compaction(micros) => std::thread::scope(|scope| {
                until("some load", || (progress.acknowledged.load(Ordering::Relaxed) >= 60).then_some(()));
                let asking = scope.spawn(|| {
                    let mut log = Log::default();
                    match self {
                        Moment::Compaction(_) => drop(load::compact(&client, random, progress, &mut log)),
                        _ => drop(load::defragment(&client, &mut log)),
                    }
                    log
                });
                pause(micros);
                server.kill();
                asking.join().unwrap()
            }),
        }
    }
}

/// Kills and restarts, and verifies after each restart.
fn kills(count: u64, random: &mut Random, relaxed: Relaxed) {
    // A checkpoint every ten writes, so that most kills meet one.
    let server = Server::builder().flag("--snapshot-count=1").flag("--heartbeat-interval=20").flag("--election-timeout=200");
    let server = relaxed.flags().into_iter().fold(server, |server, flag| server.flag(flag));
    let mut campaign = Campaign::new(server.start(), random.fork());
    campaign.ledger.relaxed = relaxed;
    while campaign.ledger.tally.kills < count {
        let moment = Moment::random(random);
        campaign.live(LOAD, |server, random, progress| moment.kill(server, random, progress));
        // Now and then once more and again, while it is still starting.
        for _ in 0..random.below(6).saturating_sub(3) {
            campaign.server.spawn();
            std::thread::sleep(Duration::from_micros(random.below(60_000)));
            campaign.server.kill();
            campaign.ledger.tally.kills += 1;
        }
        campaign.restart();
        if random.below(4) == 0 {
            campaign.kill_idle();
        }
        if random.below(10) == 0 {
            campaign.outlive_leases();
        }
    }
    campaign.outlive_leases();
    campaign.tell();
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    kills(10, &mut Random::from_seed(4), Relaxed::default());
}

/// What waits for a sync is with the kernel, and only the power can take it from there.
#[test]
fn what_was_acknowledged_of_a_relaxed_class_survives_kill_9() {
    kills(6, &mut Random::from_seed(5), Relaxed::of(&["k0/", "k1/", "k2/", "k3/", "k4/", "k5/"]));
}

#[test]
#[ignore = "hundreds of kills; make crash"]
fn what_was_acknowledged_survives_many_kills() {
    let count = std::env::var("N").map_or(500, |count| count.parse().expect("N is a number"));
    let mut random = Random::from_env();
    kills(count, &mut random, Relaxed::default());
    kills(count / 2, &mut random, Relaxed::of(&["k0/", "k1/", "k2/", "k3/", "k4/", "k5/"]));
}

#[test]
fn a_lease_keeps_its_keys_over_many_crashes() {
    let mut server = Server::start();
    server.client().call(&grant(9_000, 7));
    for i in 0..5 {
        server.client().call(&put_leased(format!("k{i}"), "", 7));
        server.kill();
        server.restart();
    }
    let client = server.client();
    assert_eq!(client.call(&everything()).count, 5);
    assert_eq!(client.call(&LeaseRevokeRequest { id: 7 }).revision(), 7);
    assert_eq!(client.call(&everything()).count, 0);
}
