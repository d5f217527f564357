//! What clients know: everything that was acknowledged, everything that was asked for and not answered, everything that was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::relaxed::Relaxed;
use super::rows::{Effect, Event, Row, Rows};

/// A writing request: a put, a deletion or a transaction.
#[derive(Clone, Debug)]
pub struct Write {
    /// A transaction's comparison: the key was last modified at this revision; 0 if it is not there.
    pub guard: Option<(String, i64)>,
    /// What it does if the comparison holds, or if there is none.
    pub success: Vec<Effect>,
    /// What it does otherwise.
    pub failure: Vec<Effect>,
}

impl Write {
    /// Whether the comparison holds.
    pub fn holds(&self, rows: &Rows) -> bool {
        self.guard.as_ref().is_none_or(|(key, modified)| rows.get(key).map_or(0, |row| row.modified) == *modified)
    }

    /// What it does.
    pub fn branch(&self, succeeded: bool) -> &[Effect] {
        if succeeded { &self.success } else { &self.failure }
    }
}

/// A writing request with its answer.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// What was asked.
    pub write: Write,
    /// The header's revision.
    pub revision: i64,
    /// Which branch was taken.
    pub succeeded: bool,
    /// Keys deleted, of each deletion in the branch.
    pub deleted: Vec<i64>,
}

impl Acknowledged {
    /// What it has done.
    pub fn effects(&self) -> &[Effect] {
        self.write.branch(self.succeeded)
    }

    /// Whether that made a revision.
    pub fn wrote(&self) -> bool {
        self.deleted.iter().any(|count| *count > 0) || self.effects().iter().any(|effect| matches!(effect, Effect::Put { .. }))
    }
}

/// A request whose outcome nobody knows.
#[derive(Clone, Debug)]
pub enum Open {
    /// A put, a deletion or a transaction, and the revision that its client had seen: its own is a later one.
    Write(Write, i64),
    /// A lease's id and seconds to live.
    Grant(i64, i64),
    /// A lease's id.
    Revoke(i64),
    /// A revision.
    Compaction(i64),
    /// To raise it or to lift it.
    Alarm,
    /// Changes nothing that clients see.
    Defragmentation,
}

/// What became known of a lease.
#[derive(Clone, Copy, Debug)]
pub enum LeaseNews {
    /// Asked for at this time, it has so long to live from then at least.
    Alive { id: i64, ttl: i64, asked: Instant },
    /// It was revoked, or a request found it gone.
    Gone { id: i64 },
}

/// A key as a linearizable read found it.
#[derive(Clone, Debug)]
pub struct Read {
    /// The header's revision.
    pub revision: i64,
    /// The key.
    pub key: String,
    /// What was there.
    pub row: Option<Row>,
}

/// An answer of HashKV.
#[derive(Clone, Copy, Debug)]
pub struct Hash {
    /// The revision it is of.
    pub revision: i64,
    /// The compaction it begins at.
    pub compacted: i64,
    /// The hash.
    pub hash: u32,
}

/// What one client learned in one life of the server.
#[derive(Debug, Default)]
#[allow(missing_docs)] // as in the types
pub struct Log {
    pub acknowledged: Vec<Acknowledged>,
    pub open: Vec<Open>,
    pub leases: Vec<LeaseNews>,
    pub compacted: i64,
    pub alarm: Option<bool>,
    pub watched: BTreeMap<i64, Vec<Event>>,
    pub reads: Vec<Read>,
    pub hashes: Vec<Hash>,
    pub revision: i64,
    pub term: u64,
    pub index: u64,
}

/// A lease that may be there.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Seconds granted.
    pub ttl: i64,
    /// It has to be there before this.
    pub until: Option<Instant>,
    /// It is not known whether it was granted, or whether it was revoked.
    pub open: bool,
}

/// So many seconds are a lease that does not expire during a test.
pub const LONG_TTL: i64 = 9_000;

impl Lease {
    /// Whether it may end by itself during a test.
    pub fn mortal(&self) -> bool {
        self.ttl < LONG_TTL
    }
}

/// What all clients know, since the beginning.
#[derive(Default)]
pub struct Ledger {
    /// The revision up to which everything has been verified.
    pub verified: i64,
    /// The last compaction that was verified.
    pub compacted: i64,
    /// The last compaction that was acknowledged.
    pub promised: i64,
    /// Rows at that revision.
    pub base: Rows,
    /// What each revision since then has done.
    pub history: BTreeMap<i64, Vec<Event>>,
    /// Leases that may be there.
    pub leases: BTreeMap<i64, Lease>,
    /// Leases that were there and must not come back.
    pub gone: BTreeSet<i64>,
    /// Whether the alarm is raised; none if that is open.
    pub alarm: Option<bool>,
    /// Writes not verified yet, by revision.
    pub acknowledged: BTreeMap<i64, Acknowledged>,
    /// Writes that found nothing to do.
    pub idle: Vec<Acknowledged>,
    /// Requests without an answer.
    pub open: Vec<Open>,
    /// Reads not verified yet.
    pub reads: Vec<Read>,
    /// Hashes not verified yet.
    pub hashes: Vec<Hash>,
    /// The highest revision, term and index that anybody was told.
    pub seen: (i64, u64, u64),
    /// What the server may lose with the power.
    pub relaxed: Relaxed,
    /// What the verifications have seen, for the report.
    pub tally: Tally,
}

/// How much was verified.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Tally {
    pub kills: u64,
    pub acknowledged: u64,
    pub revisions: u64,
    pub open: u64,
    pub open_came: u64,
    pub open_defragmentations: u64,
    pub open_compactions: u64,
    pub compactions: u64,
    pub reads: u64,
    pub hashes: u64,
    pub snapshots: u64,
    pub leases: u64,
    pub expired: u64,
    pub cuts: u64,
    pub lost: u64,
}

impl Ledger {
    /// A store that nobody has written to.
    pub fn new() -> Ledger {
        Ledger { verified: 1, alarm: Some(false), ..Ledger::default() }
    }

    /// Takes over what the clients have learned in one life.
    pub fn add(&mut self, logs: Vec<Log>) {
        // Of a lease that one client was granted another may have left the revocation open.
        for news in logs.iter().flat_map(|log| &log.leases) {
            self.hear(*news);
        }
        for log in logs {
            self.add_one(log);
        }
    }

    fn add_one(&mut self, log: Log) {
        let Log { acknowledged, open, leases: _, compacted, alarm, watched, reads, hashes, revision, term, index } = log;
        for write in acknowledged {
            self.tally.acknowledged += 1;
            if !write.wrote() {
                self.idle.push(write);
            } else if let Some(other) = self.acknowledged.insert(write.revision, write) {
                panic!("two requests were told the same revision, {}: {other:?}", other.revision);
            }
        }
        for (revision, events) in watched {
            let before = self.history.insert(revision, events);
            assert!(before.is_none(), "revision {revision} was known already, and was watched again as new");
        }
        for request in &open {
            self.leave_open(request);
        }
        if !open.iter().any(|request| matches!(request, Open::Alarm)) {
            self.alarm = alarm.or(self.alarm);
        }
        self.tally.open += open.len() as u64;
        self.open.extend(open);
        self.promised = self.promised.max(compacted);
        self.reads.extend(reads);
        self.hashes.extend(hashes);
        let (seen_revision, seen_term, seen_index) = self.seen;
        self.seen = (seen_revision.max(revision), seen_term.max(term), seen_index.max(index));
    }

    fn hear(&mut self, news: LeaseNews) {
        match news {
            LeaseNews::Alive { id, ttl, asked } => {
                let until = u64::try_from(ttl).ok().map(|ttl| asked + Duration::from_secs(ttl));
                let lease = self.leases.entry(id).or_insert(Lease { ttl, until, open: false });
                lease.until = lease.until.max(until);
            }
            LeaseNews::Gone { id } => drop(self.gone.insert(id)),
        }
    }

    fn leave_open(&mut self, request: &Open) {
        match request {
            Open::Grant(id, ttl) => drop(self.leases.insert(*id, Lease { ttl: *ttl, until: None, open: true })),
            Open::Revoke(id) => {
                if let Some(lease) = self.leases.get_mut(id) {
                    lease.open = true;
                }
            }
            Open::Alarm => self.alarm = None,
            Open::Compaction(_) => self.tally.open_compactions += 1,
            Open::Defragmentation => self.tally.open_defragmentations += 1,
            Open::Write(..) => {}
        }
    }
}
