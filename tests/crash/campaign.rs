//! A server's lives, one after the other, and what its clients know of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::{HashKvRequest, LeaseLeasesRequest};

use super::ledger::{Hash, Ledger, Log};
use super::load::{self, Load, Progress, Writer};
use crate::support::Server;
use crate::support::random::Random;
use crate::support::wait::until;

/// A server that is killed again and again.
pub struct Campaign {
    /// The server.
    pub server: Server,
    /// What its clients know.
    pub ledger: Ledger,
    random: Random,
    starts: Vec<Duration>,
}

impl Campaign {
    /// With a server that runs and that nobody has written to.
    pub fn new(server: Server, random: Random) -> Campaign {
        Campaign { server, ledger: Ledger::new(), random, starts: Vec::new() }
    }

    /// One life: the load runs beside `end`, which ends the server one way or another, and returns what it has learned itself.
    pub fn live(&mut self, load: Load, end: impl FnOnce(&mut Server, &mut Random, &Progress) -> Log) {
        let leases = self.ledger.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect();
        let progress = Progress::new(self.ledger.verified, leases);
        let (random, server) = (&mut self.random, &mut self.server);
        let (from, compacted) = (self.ledger.verified + 1, self.ledger.compacted);
        let logs = std::thread::scope(|scope| {
            let (watching, reading, maintaining) = (server.client(), server.client(), server.client());
            let writer = |_| Writer::new(server.client(), random.fork(), load, &progress);
            let writers: Vec<Writer> = (0..load.writers).map(writer).collect();
            let mut threads: Vec<_> = writers.into_iter().map(|writer| scope.spawn(|| writer.run())).collect();
            let (mut read, mut maintain, progress) = (random.fork(), random.fork(), &progress);
            threads.push(scope.spawn(move || load::watch(&watching, from, progress)));
            threads.push(scope.spawn(move || load::read(&reading, &mut read)));
            threads.push(scope.spawn(move || load::maintain(&maintaining, &mut maintain, compacted, progress)));
            let last = catch_unwind(AssertUnwindSafe(|| end(server, random, progress))).unwrap_or_else(|failed| {
                // The clients end with the server, and the scope with the clients.
                if !server.has_ended() {
                    server.kill();
                }
                resume_unwind(failed)
            });
            let mut logs: Vec<Log> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            logs.push(last);
            logs
        });
        self.ledger.tally.kills += 1;
        self.ledger.add(logs);
    }

    /// Starts the server again, and verifies.
    pub fn restart(&mut self) {
        let begun = Instant::now();
        self.server.restart();
        self.starts.push(begun.elapsed());
        self.ledger.verify(&self.server.client(), &mut self.random);
    }

    /// A kill while nobody writes: not a bit of the history changes.
    pub fn kill_idle(&mut self) {
        let client = self.server.client();
        let between = (self.ledger.verified - self.ledger.compacted).max(1) as u64;
        for _ in 0..10 {
            let revision = self.ledger.compacted + 1 + self.random.below(between) as i64;
            let Ok(reply) = client.try_call(&HashKvRequest { revision }) else { continue };
            self.ledger.hashes.push(Hash { revision, compacted: reply.compact_revision, hash: reply.hash });
        }
        self.server.kill();
        self.ledger.tally.kills += 1;
        self.restart();
    }

    /// Leases that are not renewed end, and take their keys with them.
    pub fn outlive_leases(&mut self) {
        let client = self.server.client();
        until("leases to expire", || {
            let listed = client.call(&LeaseLeasesRequest {}).leases;
            let mortal = |id: &i64| self.ledger.leases.get(id).is_some_and(|lease| lease.mortal());
            (!listed.iter().any(|lease| mortal(&lease.id))).then_some(())
        });
        self.ledger.verify(&client, &mut self.random);
        assert!(!self.ledger.leases.values().any(|lease| lease.mortal()), "leases that have expired are left");
    }

    /// Prints what was verified, and how long the starts took until the first linearizable answer.
    pub fn tell(&mut self) {
        println!("{:#?}", self.ledger.tally);
        self.starts.sort();
        let at = |share: usize| self.starts[(self.starts.len() * share / 100).min(self.starts.len() - 1)];
        println!(
            "start to first linearizable answer: p50 {:?}, p99 {:?}, max {:?}, of {}",
            at(50),
            at(99),
            at(100),
            self.starts.len()
        );
    }
}
