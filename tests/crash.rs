//! kill -9 under load: what was acknowledged is there afterwards, at its revision, and no revision is taken back.
//!
//! `CRASH_ROUNDS` sets how often (3 unless said), `SEED` replays a run's choices (not its timing).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bramble::pb::etcdserverpb::{CompactionRequest, HashKvRequest, LeaseLeasesRequest, LeaseRevokeRequest, RangeRequest};

use crate::support::random::Random;
use crate::support::requests::{IntoOp, Revision, delete, everything, grant, key, put, put_leased, then};
use crate::support::wait::until;
use crate::support::{Client, Server};

const WRITERS: u64 = 6;

/// A key's state after an operation: its value, or none if it was deleted.
type State = Option<String>;

/// What one writer knows of its own keys. It waits for each answer, so at most one operation is open at the crash.
#[derive(Default)]
struct Ledger {
    /// Key -> revision -> state, of everything acknowledged.
    acknowledged: BTreeMap<String, BTreeMap<i64, State>>,
    /// Keys and states of the operation without an answer.
    open: Vec<(String, State)>,
    granted: Vec<i64>,
    revoked: Vec<i64>,
    open_lease: Option<i64>,
}

impl Ledger {
    fn acknowledge(&mut self, revision: i64) {
        for (key, state) in self.open.drain(..) {
            self.acknowledged.entry(key).or_default().insert(revision, state);
        }
    }
}

/// Writes until the server is gone.
fn write(client: &Client, ledger: &mut Ledger, writer: u64, random: &mut Random, done: &AtomicU64) {
    for step in 0.. {
        let name = |n: u64| format!("w{writer}/{n}");
        let value = format!("{step}-{}", "x".repeat(random.below(2_000) as usize));
        let one = random.below(8);
        let answer = match random.below(10) {
            0 => {
                ledger.open = vec![(name(one), None)];
                client.try_call(&delete(name(one))).map(|reply| if reply.deleted == 0 { 0 } else { reply.revision() })
            }
            1..=2 => {
                let other = (one + 1) % 8;
                ledger.open = vec![(name(one), Some(value.clone())), (name(other), None)];
                let request = then(vec![put(name(one), &value).op(), delete(name(other)).op()]);
                client.try_call(&request).map(|reply| reply.revision())
            }
            3 => {
                let id = (random.next() >> 1) as i64;
                ledger.open_lease = Some(id);
                let granted = client.try_call(&grant(9_000, id)).map(|_| 0);
                if granted.is_ok() {
                    ledger.granted.push(id);
                    ledger.open_lease = None;
                }
                granted
            }
            4 if ledger.granted.len() > 3 => {
                let id = ledger.granted.remove(0);
                ledger.open_lease = Some(id);
                let revoked = client.try_call(&LeaseRevokeRequest { id }).map(|_| 0);
                if revoked.is_ok() {
                    ledger.revoked.push(id);
                    ledger.open_lease = None;
                }
                revoked
            }
            _ => {
                ledger.open = vec![(name(one), Some(value.clone()))];
                client.try_call(&put(name(one), &value)).map(|reply| reply.revision())
            }
        };
        match answer {
            Ok(0) => ledger.open.clear(),
            Ok(revision) => ledger.acknowledge(revision),
            Err(_) => return,
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

fn state_at(client: &Client, name: &str, revision: i64) -> (State, i64) {
    let reply = client.call(&RangeRequest { revision, ..key(name) });
    match reply.kvs.first() {
        Some(kv) => (Some(String::from_utf8(kv.value.to_vec()).unwrap()), kv.mod_revision),
        None => (None, 0),
    }
}

/// Everything that was acknowledged is there; an open operation is there as a whole or not at all.
fn check(client: &Client, ledger: &mut Ledger, compacted: i64) {
    let current = client.call(&everything()).revision();
    for (name, history) in &ledger.acknowledged {
        for (revision, state) in history.range(compacted.max(0)..) {
            assert!(*revision <= current, "revision {revision} was acknowledged, but the store is at {current}");
            let (found, modified) = state_at(client, name, *revision);
            assert_eq!(found, *state, "{name} at revision {revision}");
            assert!(found.is_none() || modified == *revision, "{name} was modified at {modified}, not at {revision}");
        }
    }
    let last =
        |name: &str| ledger.acknowledged.get(name).and_then(|history| history.last_key_value()).map_or(&None, |(_, state)| state);
    let applied: Vec<bool> = ledger
        .open
        .iter()
        .filter(|(name, state)| last(name) != state)
        .map(|(name, state)| {
            let (found, _) = state_at(client, name, 0);
            assert!(found == *state || found == *last(name), "{name} is neither as acknowledged nor as asked for: {found:?}");
            found == *state
        })
        .collect();
    assert!(applied.iter().all(|one| *one) || applied.iter().all(|one| !*one), "a transaction was torn: {:?}", ledger.open);
    let open: Vec<&String> = ledger.open.iter().map(|(name, _)| name).collect();
    for (name, history) in &ledger.acknowledged {
        if !open.contains(&name) {
            let (_, state) = history.last_key_value().unwrap();
            assert_eq!(state_at(client, name, 0).0, *state, "{name} now");
        }
    }
    let leases: Vec<i64> = client.call(&LeaseLeasesRequest {}).leases.iter().map(|lease| lease.id).collect();
    for id in &ledger.granted {
        assert!(leases.contains(id), "lease {id} was granted, and is gone");
    }
    for id in &ledger.revoked {
        assert!(!leases.contains(id), "lease {id} was revoked, and is back");
    }
    settle(client, ledger, current, &leases);
}

/// Takes over what the open operation came to, for the next round.
fn settle(client: &Client, ledger: &mut Ledger, current: i64, leases: &[i64]) {
    for (name, _) in std::mem::take(&mut ledger.open) {
        let (found, modified) = state_at(client, &name, 0);
        let at = if found.is_some() { modified } else { current };
        ledger.acknowledged.entry(name).or_default().insert(at, found);
    }
    if let Some(id) = ledger.open_lease.take() {
        let to = if leases.contains(&id) { &mut ledger.granted } else { &mut ledger.revoked };
        to.push(id);
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let rounds: u64 = std::env::var("CRASH_ROUNDS").map_or(3, |rounds| rounds.parse().expect("CRASH_ROUNDS is a number"));
    let mut random = Random::from_env();
    // Checkpoints fall into the load, too.
    let mut server = Server::builder().flag("--snapshot-count=200").start();
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
    let mut compacted = -1;
    let mut highest = 1;
    for round in 0..rounds {
        let wanted = 200 + random.below(1_500);
        let done = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            for (writer, ledger) in ledgers.iter_mut().enumerate() {
                let (client, mut random, done) = (server.client(), random.fork(), &done);
                scope.spawn(move || write(&client, ledger, writer as u64, &mut random, done));
            }
            let reader = {
                let (client, stop) = (server.client(), &stop);
                scope.spawn(move || {
                    let mut seen = 0;
                    while let (false, Ok(reply)) = (stop.load(Ordering::Relaxed), client.try_call(&key("ready?"))) {
                        assert!(reply.revision() >= seen, "the revision went back from {seen} to {}", reply.revision());
                        seen = reply.revision();
                    }
                    seen
                })
            };
            until("the load", || (done.load(Ordering::Relaxed) >= wanted).then_some(()));
            server.kill();
            stop.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        server.restart();
        let client = server.client();
        let current = client.call(&everything()).revision();
        assert!(current >= seen.max(highest), "round {round}: {seen} was read, but the store is at {current}");
        highest = current;
        if compacted > 1 {
            let below = client.fail(&RangeRequest { revision: compacted - 1, ..key("a") });
            assert_eq!(below.message, "etcdserver: mvcc: required revision has been compacted", "a compaction survives");
        }
        for ledger in &mut ledgers {
            check(&client, ledger, compacted);
        }
        let hash = client.call(&HashKvRequest { revision: current }).hash;
        server.kill();
        server.restart();
        let client = server.client();
        assert_eq!(client.call(&HashKvRequest { revision: current }).hash, hash, "an idle crash changes nothing");
        if random.below(2) == 0 {
            compacted = current - 20;
            client.call(&CompactionRequest { revision: compacted, physical: random.below(2) == 0 });
            // The answer of a logical compaction promises it, too: the next crash comes at once.
            server.kill();
            server.restart();
        }
    }
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
