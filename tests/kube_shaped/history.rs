//! What the store has to hold. In: writes as they are sent, acknowledged, refused or lost, and what one watch of everything tells.
//! Out: the state at each revision. Always: revisions are applied one after the other, without a gap, and each has a cause: an
//! acknowledged write, a write whose answer was lost, or the end of a lease that was due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::time::Instant;

use bramble::pb::mvccpb::event::EventType;
use bramble::pb::mvccpb::{Event, KeyValue};
use bytes::Bytes;

use crate::support::requests::prefix_end;

/// What is wrong, in words.
pub type Wrong = String;

/// Stands for a value, which is too long to be kept: values that are equal have equal prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print(u64);

impl Print {
    /// Of a value.
    pub fn of(value: &[u8]) -> Print {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Print(hasher.finish())
    }
}

/// The keys in `[key, end)`, in etcd's notation: no `end` is one key, an `end` of `\0` is all from `key` on.
#[derive(Clone, Debug)]
pub struct Span {
    /// `key`
    pub key: Bytes,
    /// `range_end`
    pub end: Bytes,
}

impl Span {
    /// One key.
    pub fn one(key: impl Into<Bytes>) -> Span {
        Span { key: key.into(), end: Bytes::new() }
    }

    /// The keys that begin with a prefix.
    pub fn prefix(prefix: impl Into<Bytes>) -> Span {
        let key = prefix.into();
        Span { end: prefix_end(&key), key }
    }

    /// All keys.
    pub fn everything() -> Span {
        Span { key: Bytes::from_static(b"\0"), end: Bytes::from_static(b"\0") }
    }

    /// Whether a key is in it.
    pub fn contains(&self, key: &Bytes) -> bool {
        match &self.end[..] {
            b"" => *key == self.key,
            b"\0" => *key >= self.key,
            end => *key >= self.key && key[..] < *end,
        }
    }

    fn bounds(&self) -> (Bound<&Bytes>, Bound<&Bytes>) {
        let end = match &self.end[..] {
            b"" => Bound::Included(&self.key),
            b"\0" => Bound::Unbounded,
            _ => Bound::Excluded(&self.end),
        };
        (Bound::Included(&self.key), end)
    }
}

/// What is stored under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub print: Print,
    /// The lease; 0: none.
    pub lease: i64,
}

/// What a transaction compares with before it writes.
#[derive(Clone, Copy, Debug)]
pub enum Guard {
    /// `mod_revision`; 0: the key is not there.
    Modified(i64),
    /// `version`
    Version(i64),
}

impl Guard {
    /// Whether a key in this state lets the write be done.
    pub fn holds(self, now: Option<&Version>) -> bool {
        match self {
            Guard::Modified(revision) => now.map_or(0, |version| version.modified) == revision,
            Guard::Version(number) => now.map_or(0, |version| version.version) == number,
        }
    }
}

/// A write as Kubernetes writes: one key, one guard.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key.
    pub key: Bytes,
    /// What has to hold before.
    pub guard: Guard,
    /// What is stored; none: a deletion.
    pub to: Option<Stored>,
    /// When it was sent.
    pub sent: Instant,
}

/// What a key held from a revision on.
#[derive(Clone, Debug)]
pub struct Version {
    /// `create_revision`
    pub create: i64,
    /// `mod_revision`
    pub modified: i64,
    /// `version`
    pub version: i64,
    /// None: deleted.
    pub stored: Option<Stored>,
}

impl Version {
    /// Whether a pair that the server tells is this one.
    pub fn is(&self, key: &Bytes, kv: &KeyValue) -> bool {
        let stored = Some(Stored { print: Print::of(&kv.value), lease: kv.lease });
        kv.key == *key
            && (kv.create_revision, kv.mod_revision, kv.version) == (self.create, self.modified, self.version)
            && stored == self.stored
    }
}

#[derive(Debug)]
struct Lease {
    /// Before this it may not end.
    promised: Instant,
    keys: BTreeSet<Bytes>,
    /// The revision that deleted its keys.
    ended: Option<i64>,
}

#[derive(Default)]
struct Changes {
    keys: Vec<Bytes>,
    sent: Option<Instant>,
}

/// Why a revision that nobody acknowledged is there.
enum Cause {
    /// It may be that of a write whose answer is still to come.
    Open,
    Lost(usize),
    Expiry(i64),
}

/// Everything that was, is, and may yet turn out to have been.
pub struct History {
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// By revision; the first two are a fresh store's.
    revisions: Vec<Changes>,
    open: HashMap<u64, Write>,
    opened: u64,
    acknowledged: BTreeMap<i64, Write>,
    lost: Vec<Write>,
    /// What the watch of everything has told of revisions that are not applied yet.
    heard: BTreeMap<i64, (Instant, Vec<Event>)>,
    leases: HashMap<i64, Lease>,
    expiries: usize,
    resolved: usize,
}

impl History {
    /// Of a fresh store.
    pub fn new() -> History {
        History {
            keys: BTreeMap::new(),
            revisions: vec![Changes::default(), Changes::default()],
            open: HashMap::new(),
            opened: 0,
            acknowledged: BTreeMap::new(),
            lost: Vec::new(),
            heard: BTreeMap::new(),
            leases: HashMap::new(),
            expiries: 0,
            resolved: 0,
        }
    }

    /// The last revision whose state is known.
    pub fn applied(&self) -> i64 {
        self.revisions.len() as i64 - 1
    }

    /// Leases with keys that have ended, and lost writes that turned out to have happened.
    pub fn resolved(&self) -> (usize, usize) {
        (self.expiries, self.resolved)
    }

    /// A write is about to be sent. Gives the name by which its answer is told.
    pub fn open(&mut self, write: Write) -> u64 {
        self.opened += 1;
        self.open.insert(self.opened, write);
        self.opened
    }

    /// A write was done at a revision.
    pub fn acknowledge(&mut self, id: u64, revision: i64) -> Result<(), Wrong> {
        let write = self.open.remove(&id).expect("an open write");
        if revision <= self.applied() || self.acknowledged.contains_key(&revision) {
            return Err(format!("revision {revision} was acknowledged for {write:?}, but it is another's"));
        }
        self.acknowledged.insert(revision, write);
        self.advance()
    }

    /// A write was not done.
    pub fn refuse(&mut self, id: u64) -> Result<Write, Wrong> {
        let write = self.open.remove(&id).expect("an open write");
        self.advance()?;
        Ok(write)
    }

    /// Nobody knows whether a write was done.
    pub fn lose(&mut self, id: u64) -> Result<(), Wrong> {
        let write = self.open.remove(&id).expect("an open write");
        self.lost.push(write);
        self.advance()
    }

    /// A lease was granted, which may not end before `promised`.
    pub fn grant(&mut self, id: i64, promised: Instant) -> Result<(), Wrong> {
        match self.leases.insert(id, Lease { promised, keys: BTreeSet::new(), ended: None }) {
            None => Ok(()),
            Some(before) => Err(format!("lease {id} was granted twice: {before:?}")),
        }
    }

    /// Whether a lease may have ended by now.
    pub fn may_have_ended(&self, id: i64) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.promised <= Instant::now())
    }

    /// The watch of everything has told these events.
    pub fn hear(&mut self, at: Instant, events: &[Event]) -> Result<(), Wrong> {
        for event in events {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if revision > self.applied() {
                self.heard.entry(revision).or_insert_with(|| (at, Vec::new())).1.push(event.clone());
            }
        }
        self.advance()
    }

    /// Applies every revision whose cause is known, in order.
    fn advance(&mut self) -> Result<(), Wrong> {
        loop {
            let next = self.applied() + 1;
            if let Some(write) = self.acknowledged.remove(&next) {
                self.heard.remove(&next);
                self.apply_write(next, &write)?;
                continue;
            }
            let Some((_, events)) = self.heard.get(&next) else { return Ok(()) };
            match self.cause(next, events)? {
                Cause::Open => return Ok(()),
                Cause::Lost(at) => {
                    let write = self.lost.swap_remove(at);
                    self.resolved += 1;
                    self.apply_write(next, &write)?;
                }
                Cause::Expiry(lease) => self.apply_expiry(next, lease),
            }
            self.heard.remove(&next);
        }
    }

    /// What an unacknowledged revision can come from.
    fn cause(&self, revision: i64, events: &[Event]) -> Result<Cause, Wrong> {
        let of = |write: &Write| matches!(events, [event] if self.may_be(write, event));
        if self.open.values().any(of) {
            return Ok(Cause::Open);
        }
        if let Some(at) = self.lost.iter().position(of) {
            return Ok(Cause::Lost(at));
        }
        self.expired(revision, events).map(Cause::Expiry)
    }

    fn may_be(&self, write: &Write, event: &Event) -> bool {
        let Some(kv) = &event.kv else { return false };
        let stored = match event.r#type() {
            EventType::Put => Some(Stored { print: Print::of(&kv.value), lease: kv.lease }),
            EventType::Delete => None,
        };
        write.key == kv.key && write.to == stored && write.guard.holds(self.now(&write.key))
    }

    /// The lease whose end these events are: all of its keys, in order, and not before its time.
    fn expired(&self, revision: i64, events: &[Event]) -> Result<i64, Wrong> {
        let wrong = |why: &str| format!("revision {revision} was asked for by nobody ({why}): {events:?}");
        let keys: Option<Vec<&Bytes>> = events
            .iter()
            .map(|event| event.kv.as_ref().filter(|_| event.r#type() == EventType::Delete).map(|kv| &kv.key))
            .collect();
        let keys = keys.ok_or_else(|| wrong("it is no deletion"))?;
        let id = self.now(keys[0]).and_then(|version| version.stored).map_or(0, |stored| stored.lease);
        let lease = self.leases.get(&id).ok_or_else(|| wrong("its key has no lease"))?;
        let (heard, _) = self.heard[&revision];
        if !keys.iter().copied().eq(&lease.keys) {
            return Err(wrong(&format!("lease {id} holds other keys: {lease:?}")));
        }
        if heard < lease.promised {
            return Err(wrong(&format!("lease {id} ends {:?} early", lease.promised - heard)));
        }
        Ok(id)
    }

    fn apply_write(&mut self, revision: i64, write: &Write) -> Result<(), Wrong> {
        let now = self.now(&write.key);
        if !write.guard.holds(now) {
            return Err(format!("revision {revision} was acknowledged for {write:?}, but the key held {now:?}"));
        }
        if write.to.is_none() && now.is_none() {
            return Err(format!("revision {revision} deletes what is not there: {write:?}"));
        }
        self.set(revision, &write.key, write.to);
        self.revisions.push(Changes { keys: vec![write.key.clone()], sent: Some(write.sent) });
        Ok(())
    }

    fn apply_expiry(&mut self, revision: i64, id: i64) {
        let lease = self.leases.get_mut(&id).expect("a known lease");
        lease.ended = Some(revision);
        let keys: Vec<Bytes> = std::mem::take(&mut lease.keys).into_iter().collect();
        for key in &keys {
            self.set(revision, key, None);
        }
        self.expiries += 1;
        self.revisions.push(Changes { keys, sent: None });
    }

    fn set(&mut self, revision: i64, key: &Bytes, to: Option<Stored>) {
        let before = self.now(key);
        let old_lease = before.and_then(|version| version.stored).map_or(0, |stored| stored.lease);
        let (create, version) = before.map_or((revision, 0), |version| (version.create, version.version));
        if let Some(lease) = self.leases.get_mut(&old_lease) {
            lease.keys.remove(key);
        }
        if let Some(lease) = to.and_then(|stored| self.leases.get_mut(&stored.lease)) {
            lease.keys.insert(key.clone());
        }
        let version = Version { create, modified: revision, version: version + 1, stored: to };
        self.keys.entry(key.clone()).or_default().push(version);
    }

    /// What a key holds as far as is known.
    fn now(&self, key: &Bytes) -> Option<&Version> {
        self.keys.get(key)?.last().filter(|version| version.stored.is_some())
    }

    /// What a key holds at a revision.
    pub fn at(&self, key: &Bytes, revision: i64) -> Option<&Version> {
        live_at(self.keys.get(key)?, revision)
    }

    /// What the keys of a span hold at a revision, in order.
    pub fn list(&self, span: &Span, revision: i64) -> Vec<(&Bytes, &Version)> {
        let keys = self.keys.range::<Bytes, _>(span.bounds());
        keys.filter_map(|(key, versions)| Some((key, live_at(versions, revision)?))).collect()
    }

    /// The same as a client's cache would hold it.
    pub fn cache(&self, span: &Span, revision: i64) -> BTreeMap<Bytes, (i64, Print)> {
        let pair = |(key, version): (&Bytes, &Version)| Some((key.clone(), (version.modified, version.stored?.print)));
        self.list(span, revision).into_iter().filter_map(pair).collect()
    }

    /// The first revision in `from..=to` that changes a key of the span.
    pub fn first_change(&self, span: &Span, from: i64, to: i64) -> Option<i64> {
        (from.max(0)..=to).find(|revision| self.revisions[*revision as usize].keys.iter().any(|key| span.contains(key)))
    }

    /// The keys of the span that a revision changes, in the order of their events.
    pub fn changes(&self, span: &Span, revision: i64) -> Vec<&Bytes> {
        self.revisions[revision as usize].keys.iter().filter(|key| span.contains(key)).collect()
    }

    /// The version that a revision made of a key, and what was there before.
    pub fn change(&self, key: &Bytes, revision: i64) -> Option<(&Version, Option<&Version>)> {
        let versions = self.keys.get(key)?;
        let at = versions.binary_search_by_key(&revision, |version| version.modified).ok()?;
        let before = at.checked_sub(1).and_then(|at| versions.get(at)).filter(|version| version.stored.is_some());
        Some((&versions[at], before))
    }

    /// When the write of a revision was sent; none: it was nobody's.
    pub fn sent(&self, revision: i64) -> Option<Instant> {
        self.revisions[revision as usize].sent
    }

    /// Compares the leases that the server listed at a revision with what was granted: none is missing before its time, and none is
    /// back that has ended. The server may know `unanswered` leases whose grant was not answered.
    pub fn check_leases(&self, listed: &BTreeSet<i64>, revision: i64, answered: Instant, unanswered: usize) -> Result<(), Wrong> {
        let unknown = listed.iter().filter(|id| !self.leases.contains_key(id)).count();
        if unknown > unanswered {
            return Err(format!("{unknown} leases that nobody asked for"));
        }
        for (id, lease) in &self.leases {
            if lease.ended.is_some_and(|ended| ended <= revision) && listed.contains(id) {
                return Err(format!("lease {id} has ended and is still listed"));
            }
            if answered < lease.promised && !listed.contains(id) {
                return Err(format!("lease {id} is gone {:?} early", lease.promised - answered));
            }
        }
        Ok(())
    }
}

fn live_at(versions: &[Version], revision: i64) -> Option<&Version> {
    let after = versions.partition_point(|version| version.modified <= revision);
    versions[..after].last().filter(|version| version.stored.is_some())
}
