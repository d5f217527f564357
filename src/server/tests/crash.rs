//! A random client, and a machine that goes down while it is at work. After each restart: what was acknowledged or read is there,
//! what was not is there whole or not at all, once, and history has not changed.
//!
//! The seed decides what the client does, when the disk goes down and what it loses. Which requests meet in one sync is up to the
//! threads, so that a seed replays a run nearly and not exactly. `CRASH_SEED` runs one seed, `CRASH_RUNS` that many.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::{BoxFuture, join_all};
use smol::block_on;

use super::super::{Handle, Server};
use super::rig::{Rig, get, put, put_request, rows, written_at};
use crate::error::{Error, Fault};
use crate::host::sim::SimRandom;
use crate::pb::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
};

/// What a revision wrote: keys and values, in key order. A deletion writes none.
type Rows = Vec<(String, String)>;

/// What the client knows.
#[derive(Default)]
struct Known {
    /// What revisions hold, because it was acknowledged or found after a restart.
    history: BTreeMap<i64, Rows>,
    /// Keys that were deleted, by revision.
    deleted: BTreeMap<i64, String>,
    /// Writes whose outcome is unknown.
    unknown: Vec<Rows>,
    /// The newest revision that an answer has named.
    revision: i64,
    /// The newest compaction acknowledged, and the newest asked for.
    compacted: i64,
    compaction_asked: i64,
    leases: BTreeSet<i64>,
    /// Leases of which it is not known whether they are there.
    unsure: BTreeSet<i64>,
    next: u64,
}

/// An answer, and what it was about.
enum Done {
    Wrote(Rows, Result<i64, Error>),
    Deleted(String, Result<i64, Error>),
    Granted(i64, Result<i64, Error>),
    Revoked(i64, Result<i64, Error>),
    Compacted(i64, Result<i64, Error>),
    Read(i64),
    Nothing,
}

fn op(put: (String, String)) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(put_request(&put.0, &put.1, 0))) }
}

impl Known {
    /// A value that no other write has.
    fn value(&mut self, random: &SimRandom) -> String {
        self.next += 1;
        format!("{}-{}", self.next, "x".repeat(random.below(1500) as usize))
    }

    fn lease(&self, random: &SimRandom) -> Option<i64> {
        let leases: Vec<i64> = self.leases.iter().copied().collect();
        (!leases.is_empty()).then(|| leases[random.below(leases.len() as u64) as usize])
    }

    fn request<'h>(&mut self, handle: &'h Handle, random: &SimRandom) -> BoxFuture<'h, Done> {
        let key = format!("key{}", random.below(10));
        match random.below(20) {
            0..8 => {
                let value = self.value(random);
                let request = put_request(&key, &value, 0);
                Box::pin(async move {
                    let answer = handle.put(request).await.map(|r| r.header.unwrap().revision);
                    Done::Wrote(vec![(key, value)], answer)
                })
            }
            8..11 => {
                let value = self.value(random);
                let pair: Rows = ["pair-a", "pair-b"].iter().map(|key| ((*key).to_owned(), value.clone())).collect();
                let request = TxnRequest { success: pair.iter().cloned().map(op).collect(), ..TxnRequest::default() };
                Box::pin(async move {
                    let answer = handle.txn(request).await.map(|r| r.header.unwrap().revision);
                    Done::Wrote(pair, answer)
                })
            }
            11..13 => {
                let request = DeleteRangeRequest { key: key.clone().into(), ..DeleteRangeRequest::default() };
                Box::pin(async move {
                    match handle.delete_range(request).await {
                        Ok(response) if response.deleted == 0 => Done::Nothing,
                        answer => Done::Deleted(key, answer.map(|r| r.header.unwrap().revision)),
                    }
                })
            }
            13 => {
                self.next += 1;
                let id = self.next.cast_signed();
                Box::pin(async move {
                    Done::Granted(id, handle.lease_grant(LeaseGrantRequest { id, ttl: 1000 }).await.map(|(_, revision)| revision))
                })
            }
            14 => match self.lease(random) {
                None => Box::pin(async { Done::Nothing }),
                Some(id) => Box::pin(async move { Done::Revoked(id, handle.lease_revoke(id).await) }),
            },
            15 => match self.lease(random) {
                None => Box::pin(async { Done::Nothing }),
                Some(id) => {
                    let (key, value) = (format!("leased-by-{id}"), self.value(random));
                    let request = put_request(&key, &value, id);
                    Box::pin(async move {
                        let answer = handle.put(request).await.map(|r| r.header.unwrap().revision);
                        Done::Wrote(vec![(key, value)], answer)
                    })
                }
            },
            16 => {
                let (revision, physical) = (handle.revision() - random.below(20).cast_signed(), random.below(4) == 0);
                self.compaction_asked = self.compaction_asked.max(revision);
                Box::pin(async move { Done::Compacted(revision, handle.compact(CompactionRequest { revision, physical }).await) })
            }
            17 if random.below(3) == 0 => Box::pin(async {
                // Its answer says nothing about data.
                let _ = handle.defragment().await;
                Done::Nothing
            }),
            _ => {
                let request = RangeRequest { key: key.into(), ..RangeRequest::default() };
                Box::pin(async move { handle.range(&request).await.map_or(Done::Nothing, |answer| Done::Read(answer.revision)) })
            }
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Wrote(rows, Ok(revision)) => {
                self.revision = self.revision.max(revision);
                let before = self.history.insert(revision, rows);
                assert_eq!(before, None, "revision {revision} was given twice");
            }
            Done::Deleted(key, Ok(revision)) => {
                self.deleted.insert(revision, key);
                self.take(Done::Wrote(Rows::new(), Ok(revision)));
            }
            Done::Deleted(_, Err(error)) => self.take(Done::Wrote(Rows::new(), Err(error))),
            // Answers of the state machine, which changed nothing.
            Done::Wrote(_, Err(Error::LeaseNotFound)) | Done::Compacted(_, Err(Error::Compacted)) => {}
            Done::Wrote(rows, Err(_)) => self.unknown.push(rows),
            Done::Granted(id, Ok(_)) => {
                self.leases.insert(id);
            }
            Done::Granted(id, Err(_)) => {
                self.unsure.insert(id);
            }
            Done::Revoked(id, Ok(revision)) => {
                self.leases.remove(&id);
                self.unsure.remove(&id);
                // If it had keys, their deletion is a revision that writes nothing.
                self.revision = self.revision.max(revision);
            }
            Done::Revoked(_, Err(Error::LeaseNotFound)) => {}
            Done::Revoked(id, Err(_)) => {
                self.leases.remove(&id);
                self.unsure.insert(id);
            }
            Done::Compacted(revision, Ok(_)) => self.compacted = self.compacted.max(revision),
            Done::Compacted(..) | Done::Nothing => {}
            Done::Read(revision) => self.revision = self.revision.max(revision),
        }
    }

    /// After a restart.
    fn check(&mut self, handle: &Handle) {
        let current = handle.revision();
        assert!(current >= self.revision, "revision {} was told, and the store is at {current}", self.revision);
        let all = RangeRequest { key: "k".into(), range_end: "z".into(), ..RangeRequest::default() };
        let oldest = (1..=current)
            .find(|revision| rows(handle, &RangeRequest { revision: *revision, ..all.clone() }).is_ok())
            .expect("the newest revision can be read");
        assert!(oldest >= self.compacted, "revision {oldest} can be read, and {} was compacted", self.compacted);
        assert!(oldest <= self.compaction_asked.max(1), "{oldest} is the oldest, and nobody asked for that");
        let mut values = BTreeSet::new();
        for revision in oldest + 1..=current {
            let found = written_at(handle, revision).unwrap();
            if let Some((_, value)) = found.first() {
                assert!(values.insert(value.clone()), "{value} was written twice, again at {revision}");
            }
            match self.history.get(&revision) {
                Some(expected) => assert_eq!(&found, expected, "at revision {revision}"),
                None if found.is_empty() => {}
                None => {
                    let whole = self.unknown.iter().position(|rows| *rows == found);
                    let at = whole.unwrap_or_else(|| panic!("nobody wrote {found:?}, which is at revision {revision}"));
                    self.unknown.swap_remove(at);
                }
            }
            self.history.insert(revision, found);
        }
        for (revision, key) in self.deleted.range(oldest..) {
            let one = RangeRequest { key: key.clone().into(), revision: *revision, ..RangeRequest::default() };
            assert_eq!(rows(handle, &one), Ok(Rows::new()), "{key} was deleted at revision {revision}");
        }
        // Writes that are not there now never will be, unless a compaction hides that they are.
        self.unknown.clear();
        self.revision = current;
        self.compacted = oldest.max(self.compacted);
        assert_eq!(get(handle, "pair-a"), get(handle, "pair-b"));
        let leases: BTreeSet<i64> = handle.leases().into_iter().collect();
        assert!(leases.is_superset(&self.leases), "leases {:?} were granted, and {leases:?} are there", self.leases);
        for id in leases.difference(&self.leases) {
            assert!(self.unsure.contains(id), "lease {id} was never asked for, or was revoked");
        }
        let everything = rows(handle, &all).unwrap();
        for (key, _) in everything.iter().filter(|(key, _)| key.starts_with("leased-by-")) {
            let id: i64 = key["leased-by-".len()..].parse().unwrap();
            assert!(leases.contains(&id), "{key} has outlived its lease");
        }
        self.leases = leases;
        self.unsure.clear();
    }
}

/// Starts, though it may go down once or twice while it does.
fn start(rig: &Rig, random: &SimRandom) -> Server {
    for _ in 0..random.below(3) {
        rig.disk.crash_after(random.below(12));
        let first: Result<Server, Fault> = rig.start();
        if let Ok(server) = first {
            if !rig.disk.has_crashed() {
                rig.disk.crash_after(u64::MAX);
                return server;
            }
            assert!(server.wait().is_err());
        }
        go_down(rig, random);
    }
    rig.start().unwrap()
}

fn go_down(rig: &Rig, random: &SimRandom) {
    if random.below(3) == 0 {
        rig.disk.kill();
    } else {
        rig.disk.power_cut();
    }
}

fn run(seed: u64, lives: u64) {
    let random = SimRandom::new(seed);
    let rig = Rig::small(seed);
    let mut known = Known { revision: 1, next: 1000, ..Known::default() };
    for _ in 0..lives {
        let server = start(&rig, &random);
        let handle = server.handle();
        known.check(&handle);
        let calm = random.below(20);
        let breaks = random.below(4);
        for batch in 0.. {
            if batch == calm {
                match breaks {
                    0 => break,
                    1 => rig.disk.fail_syncs_after(random.below(10)),
                    _ => rig.disk.crash_after(random.below(60)),
                }
            }
            let requests: Vec<_> = (0..=random.below(8)).map(|_| known.request(&handle, &random)).collect();
            for done in block_on(join_all(requests)) {
                known.take(done);
            }
            let value = known.value(&random);
            let answer = put(&handle, "last", &value);
            let goes_on = answer.is_ok();
            known.take(Done::Wrote(vec![("last".into(), value)], answer));
            if !goes_on {
                break;
            }
        }
        drop(handle);
        if breaks == 0 {
            server.stop();
            server.wait().unwrap();
        } else {
            assert!(server.wait().is_err());
        }
        go_down(&rig, &random);
    }
}

#[test]
fn acknowledged_writes_survive_crashes_at_any_moment() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CRASH_RUNS").unwrap_or(12),
    };
    for seed in seeds {
        println!("CRASH_SEED={seed}");
        run(seed, 6);
    }
}
