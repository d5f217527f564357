//! After a restart: the store against what its clients know.
//!
//! The whole history since the last compaction is watched again, and every revision in it has to be one that was known, or one that
//! was acknowledged, or the whole of one request that was left without an answer, or the end of a lease. None may be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bramble::pb::etcdserverpb::{
    AlarmRequest, AlarmType, HashKvRequest, LeaseLeasesRequest, LeaseTimeToLiveRequest, RangeRequest, StatusRequest,
    WatchCreateRequest,
};

use super::ledger::{Acknowledged, Hash, Lease, Ledger, Open};
use super::rows::{Event, Row, Rows, text};
use crate::support::Client;
use crate::support::random::Random;
use crate::support::requests::{Revision, Watch, everything, key};

/// Revisions at which all rows are read again, beside the first and the last.
const SNAPSHOTS: u64 = 12;

/// The store as a start shows it.
pub(super) struct Found {
    pub revision: i64,
    pub compacted: i64,
    pub history: BTreeMap<i64, Vec<Event>>,
}

impl Ledger {
    /// Checks everything, and takes the outcome of open requests into what is known.
    ///
    /// # Panics
    /// If anything is lost, half done, back again or not as it was.
    pub fn verify(&mut self, client: &Client, random: &mut Random) {
        let found = self.find(client);
        self.let_go(client, &found);
        self.check_progress(client, &found);
        self.merge(&found);
        self.walk(client, &found, random);
        self.check_hashes(client, &found);
        self.check_alarm(client);
        self.open.clear();
        self.verified = found.revision;
        self.relaxed.power_failed = false;
    }

    fn find(&self, client: &Client) -> Found {
        let now = client.call(&HashKvRequest { revision: 0 });
        let (revision, compacted) = (now.revision(), now.compact_revision.max(0));
        if compacted > 1 {
            let below = client.fail(&RangeRequest { revision: compacted - 1, ..key("k") });
            assert_eq!(below.message, "etcdserver: mvcc: required revision has been compacted");
        }
        Found { revision, compacted, history: watched(client, compacted + 1, revision) }
    }

    /// Nothing that anybody was told is taken back.
    fn check_progress(&mut self, client: &Client, found: &Found) {
        let status = client.call(&StatusRequest {});
        let (revision, term, index) = self.seen;
        assert!(found.revision >= revision, "revision {revision} was seen, but the store is at {}", found.revision);
        assert!(status.raft_term >= term, "the term fell from {term} to {}", status.raft_term);
        // Of a log that has lost its end the index may fall, but not within a term.
        let index = if self.relaxed.power_failed && status.raft_term > term { 0 } else { index };
        assert!(status.raft_index >= index, "the log's index fell from {index} to {}", status.raft_index);
        self.seen = (found.revision, status.raft_term, status.raft_index);
        let mut compactions: Vec<i64> = vec![self.compacted.max(self.promised)];
        compactions.extend(self.open.iter().filter_map(|open| match open {
            Open::Compaction(revision) => Some(*revision),
            _ => None,
        }));
        assert!(found.compacted >= compactions[0], "compacted at {compactions:?}, but now at {}", found.compacted);
        assert!(compactions.contains(&found.compacted), "nobody compacted at {}: {compactions:?}", found.compacted);
        self.tally.compactions += u64::from(found.compacted > self.compacted);
    }

    /// What is found continues what is known, and does not contradict it.
    fn merge(&mut self, found: &Found) {
        for (revision, events) in &found.history {
            match self.history.get(revision) {
                Some(known) => assert_eq!(events, known, "revision {revision} is another than it was"),
                None => drop(self.history.insert(*revision, events.clone())),
            }
        }
        let mut next = self.relaxed.after_gap(self.compacted.max(1) + 1);
        for revision in self.history.keys() {
            assert_eq!(*revision, next, "revision {next} is missing: the store goes on with {revision}");
            next = self.relaxed.after_gap(next + 1);
        }
        assert_eq!(next, found.revision + 1, "the store is at {}, but its history ends before {next}", found.revision);
    }

    /// Goes through all revisions that are known, and looks at each from all sides.
    fn walk(&mut self, client: &Client, found: &Found, random: &mut Random) {
        let snapshots = chosen(found, random);
        let mut reads: BTreeMap<i64, Vec<_>> = BTreeMap::new();
        for read in std::mem::take(&mut self.reads) {
            reads.entry(self.relaxed.before_gap(read.revision)).or_default().push(read);
        }
        self.idle.iter_mut().for_each(|idle| idle.revision = self.relaxed.before_gap(idle.revision));
        let mut rows = std::mem::take(&mut self.base);
        let mut base = rows.clone();
        let mut ended = BTreeSet::new();
        for (revision, events) in std::mem::take(&mut self.history) {
            if revision > self.verified {
                self.claim(&rows, revision, &events, &mut ended);
            }
            rows.apply(&events);
            if revision <= found.compacted {
                base = rows.clone();
            } else {
                self.history.insert(revision, events);
            }
            for read in reads.remove(&revision).unwrap_or_default() {
                self.tally.reads += 1;
                assert_eq!(rows.get(&read.key).copied(), read.row, "{} was read otherwise at {revision}", read.key);
            }
            for idle in self.idle.extract_if(.., |idle| idle.revision == revision) {
                check_idle(&idle, &rows);
            }
            if snapshots.contains(&revision) {
                self.tally.snapshots += 1;
                assert_eq!(rows_at(client, revision), rows, "the rows at revision {revision}");
            }
        }
        let lost = self.acknowledged.first_key_value();
        assert!(lost.is_none(), "acknowledged, and lost: {lost:?}");
        // What is left was answered before the first write of this life, at a revision that had just been compacted.
        assert!(reads.keys().all(|revision| *revision <= self.compacted.max(1)), "read, and lost: {reads:?}");
        self.idle.retain(|idle| idle.revision > self.compacted.max(1));
        assert!(self.idle.is_empty(), "answered, and lost: {:?}", self.idle);
        if found.compacted > 1 {
            assert_eq!(rows_at(client, found.compacted), base, "the rows at the compaction, {}", found.compacted);
        }
        self.base = base;
        self.compacted = found.compacted;
        self.check_leases(client, &rows, &ended);
    }

    /// Finds who made a revision.
    fn claim(&mut self, rows: &Rows, revision: i64, events: &[Event], ended: &mut BTreeSet<i64>) {
        self.tally.revisions += 1;
        for row in events.iter().filter_map(|event| event.row) {
            assert!(!ended.contains(&row.lease), "revision {revision} attaches to lease {}, which has ended", row.lease);
        }
        if let Some(acknowledged) = self.acknowledged.remove(&revision) {
            check_acknowledged(&acknowledged, rows, events);
            return;
        }
        let of_open = |open: &Open| match open {
            Open::Write(write, seen) => revision > *seen && rows.events(write.branch(write.holds(rows)), revision) == events,
            _ => false,
        };
        if let Some(at) = self.open.iter().position(of_open) {
            self.open.swap_remove(at);
            self.tally.open_came += 1;
            return;
        }
        let of_lease = |id: &i64| rows.end_of_lease(*id) == events;
        let mut ends = self.leases.iter().filter(|(id, lease)| lease.mortal() || lease.open || self.gone.contains(*id));
        let Some((id, _)) = ends.find(|(id, _)| of_lease(id)) else {
            panic!(
                "nobody asked for revision {revision} as a whole: {events:?}\nbefore: {:?}\nopen: {:?}\nleases: {:?}\ngone: {:?}",
                events.iter().map(|event| rows.get(&event.key)).collect::<Vec<_>>(),
                self.open,
                self.leases,
                self.gone
            );
        };
        ended.insert(*id);
    }

    /// Leases that have to be there are there with their keys; those that ended have left nothing.
    fn check_leases(&mut self, client: &Client, rows: &Rows, ended: &BTreeSet<i64>) {
        self.gone.extend(ended);
        let listed: BTreeSet<i64> = client.call(&LeaseLeasesRequest {}).leases.iter().map(|lease| lease.id).collect();
        let back: Vec<_> = listed.intersection(&self.gone).collect();
        assert!(back.is_empty(), "leases {back:?} were gone, and are back");
        for id in &listed {
            assert!(self.leases.contains_key(id), "nobody asked for lease {id}");
        }
        self.leases.retain(|id, _| !self.gone.contains(id));
        for (id, lease) in std::mem::take(&mut self.leases) {
            self.tally.leases += 1;
            let keys: Vec<String> = rows.attached(id);
            let left = client.call(&LeaseTimeToLiveRequest { id, keys: true });
            if !listed.contains(&id) || left.ttl < 0 {
                let due = lease.mortal() && lease.until.is_none_or(|until| until <= Instant::now());
                assert!(due || lease.open, "lease {id} of {lease:?} is gone");
                self.tally.expired += u64::from(!lease.open);
                // Its end, if it comes only now, is in the next history.
                assert!(keys.is_empty() || lease.mortal(), "lease {id} has ended, and its keys are left: {keys:?}");
                let late = !keys.is_empty();
                match late {
                    true => drop(self.leases.insert(id, Lease { open: true, ..lease })),
                    false => drop(self.gone.insert(id)),
                }
                continue;
            }
            assert_eq!(left.granted_ttl, lease.ttl, "the seconds granted to lease {id}");
            assert!(left.ttl <= lease.ttl, "lease {id} has {} of {} seconds left", left.ttl, lease.ttl);
            let attached: Vec<String> = left.keys.iter().map(|key| text(key)).collect();
            // A lease may end between two questions; the history of that comes next time.
            assert!(attached == keys || attached.is_empty() && lease.mortal(), "keys of lease {id}: {attached:?}, not {keys:?}");
            self.leases.insert(id, Lease { open: false, ..lease });
        }
        for (key, row) in rows.iter() {
            let known = row.lease == 0 || self.leases.contains_key(&row.lease);
            assert!(known, "{key} is left of lease {}, which has ended", row.lease);
        }
    }

    fn check_hashes(&mut self, client: &Client, found: &Found) {
        for Hash { revision, compacted, hash } in std::mem::take(&mut self.hashes) {
            if compacted.max(0) == found.compacted && revision >= found.compacted {
                self.tally.hashes += 1;
                let now = client.call(&HashKvRequest { revision });
                assert_eq!((now.hash, now.compact_revision), (hash, compacted), "the hash of revision {revision}");
            }
        }
    }

    fn check_alarm(&mut self, client: &Client) {
        let alarms = client.call(&AlarmRequest::default()).alarms;
        let raised = alarms.iter().any(|alarm| alarm.alarm == AlarmType::Nospace as i32);
        assert!(alarms.len() <= 1, "{alarms:?}");
        if let Some(expected) = self.alarm {
            assert_eq!(raised, expected, "the alarm");
        }
        self.alarm = Some(raised);
    }
}

fn check_acknowledged(acknowledged: &Acknowledged, rows: &Rows, events: &[Event]) {
    let Acknowledged { write, revision, succeeded, deleted } = acknowledged;
    assert_eq!(write.holds(rows), *succeeded, "the comparison of {acknowledged:?}");
    assert_eq!(rows.events(acknowledged.effects(), *revision), events, "{acknowledged:?}");
    let gone = events.iter().filter(|event| event.row.is_none()).count() as i64;
    assert_eq!(deleted.iter().sum::<i64>(), gone, "{acknowledged:?} deleted {gone}");
}

fn check_idle(idle: &Acknowledged, rows: &Rows) {
    assert_eq!(idle.write.holds(rows), idle.succeeded, "the comparison of {idle:?}");
    let events = rows.events(idle.effects(), idle.revision + 1);
    assert!(events.is_empty(), "{idle:?} was told that there was nothing to delete, but there was: {events:?}");
}

/// Some revisions behind the compaction: the oldest, the newest, and a few between.
fn chosen(found: &Found, random: &mut Random) -> BTreeSet<i64> {
    let between = (found.revision - found.compacted).max(1) as u64;
    let mut chosen = BTreeSet::from([found.compacted + 1, found.revision]);
    chosen.extend((0..SNAPSHOTS).map(|_| found.compacted + random.below(between) as i64));
    chosen.remove(&found.compacted);
    chosen
}

/// All rows at a revision.
fn rows_at(client: &Client, revision: i64) -> Rows {
    let reply = client.call(&RangeRequest { revision, ..everything() });
    let events: Vec<Event> = reply.kvs.iter().map(|kv| Event { key: text(&kv.key), row: Some(Row::read(kv)) }).collect();
    let mut rows = Rows::default();
    rows.apply(&events);
    rows
}

/// All events of the revisions `from..=to`.
fn watched(client: &Client, from: i64, to: i64) -> BTreeMap<i64, Vec<Event>> {
    let mut history = BTreeMap::new();
    if from.max(2) > to {
        return history;
    }
    let mut watch = Watch::open(client);
    let all = everything();
    let watched = WatchCreateRequest { key: all.key, range_end: all.range_end, start_revision: from, ..Default::default() };
    watch.create(WatchCreateRequest { progress_notify: true, ..watched });
    while history.last_key_value().is_none_or(|(last, _)| *last < to) {
        let reply = watch.recv();
        assert!(!reply.created && !reply.canceled, "{reply:?}");
        gather(&reply.events, &mut history);
        // A notice of progress: the last revisions are such that nothing has happened in.
        if reply.events.is_empty() && reply.revision() >= to {
            break;
        }
    }
    // It may have gone on meanwhile.
    history.retain(|revision, _| *revision <= to);
    watch.stream.reset();
    history
}

/// Sorts events by revision. Those of one revision come in one answer.
pub fn gather(events: &[bramble::pb::mvccpb::Event], history: &mut BTreeMap<i64, Vec<Event>>) {
    let before = history.last_key_value().map_or(0, |(last, _)| *last);
    for event in events {
        let revision = event.kv.as_ref().expect("an event has a key").mod_revision;
        assert!(revision > before, "an event of revision {revision} comes after those of {before}");
        history.entry(revision).or_default().push(Event::read(event));
    }
}
