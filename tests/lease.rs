//! The lessor: stories in `tests/scripts/lease`, a model under random commands, and its cost with many leases.

use std::collections::BTreeMap;
use std::time::Duration;

use bramble::error::Error;
use bramble::lease::{Config, LeaseId, LeaseRecord, Lessor, Renewal};
use bytes::Bytes;

use crate::script::{Story, play};

#[test]
fn every_story_ends_as_it_is_told() {
    play("lease", Lease::new);
}

fn config() -> Config {
    Config { min_ttl_secs: 2, retry_interval: Duration::from_secs(3), checkpoint_interval: Duration::from_secs(300) }
}

struct Lease {
    lessor: Lessor,
    now: Duration,
}

impl Lease {
    fn new() -> Lease {
        Lease { lessor: Lessor::new(config(), []), now: Duration::ZERO }
    }

    /// A new process, with what was stored; its clock starts anew.
    fn restart(&mut self) {
        let mut next = Lessor::new(config(), self.lessor.records());
        for id in self.lessor.leases() {
            self.lessor.keys(id).for_each(|key| next.attach(key.clone(), id).expect("the lease is stored"));
        }
        *self = Lease { lessor: next, now: Duration::ZERO };
    }
}

impl Story for Lease {
    fn run(&mut self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<i64>().expect("a number");
        let id = |at| LeaseId(number(at));
        let limit = || words.get(1).map_or(usize::MAX, |_| number(1) as usize);
        let (lessor, now) = (&mut self.lessor, self.now);
        let say = |outcome: String| vec![format!("{command}: {outcome}")];
        match words[0] {
            "at" => self.now = Duration::from_secs_f64(words[1].parse().expect("seconds")),
            "grant" => {
                let granted = lessor.effective_ttl_secs(number(2));
                let granted = granted.and_then(|ttl| lessor.grant(id(1), ttl, now).map(|()| ttl));
                return say(granted.map_or_else(|error| format!("{error:?}"), |ttl| format!("ttl {ttl}")));
            }
            "log-grant" => return say(format!("{:?}", lessor.grant(id(1), number(2), now))),
            "revoke" => return say(lessor.revoke(id(1)).map_or_else(|error| format!("{error:?}"), |keys| show_keys(&keys))),
            "renew" => return say(format!("{:?}", lessor.renew(id(1), now))),
            "attach" => {
                let attached = lessor.attach(Bytes::copy_from_slice(words[1].as_bytes()), id(2));
                return attached.err().map_or(Vec::new(), |error| say(format!("{error:?}")));
            }
            "detach" => return say(format!("{:?}", lessor.detach(words[1].as_bytes()))),
            "keys" => return say(show_keys(&lessor.keys(id(1)).cloned().collect::<Vec<_>>())),
            "lease" => return say(format!("{:?}", lessor.lease_of(words[1].as_bytes()))),
            "ttl" => {
                let answer = lessor.time_to_live(id(1), now);
                let show = |ttl: bramble::lease::TimeToLive| format!("{} of {}", ttl.remaining_secs, ttl.granted_secs);
                return say(answer.map_or_else(|error| format!("{error:?}"), show));
            }
            "leases" => return say(show_ids(&lessor.leases())),
            "expired" => return say(show_ids(&lessor.expired(now, limit()))),
            "next" => return say(format!("{:?}", lessor.next_expiry())),
            "promote" => lessor.promote(now, Duration::from_secs(words.get(1).map_or(0, |_| number(1) as u64))),
            "demote" => lessor.demote(),
            "checkpoints" => return say(format!("{:?}", lessor.checkpoints_due(now, limit()))),
            "checkpoint" => lessor.apply_checkpoint(id(1), number(2)),
            "changed" => {
                let show = |(id, record): (LeaseId, Option<bramble::lease::LeaseRecord>)| match record {
                    Some(record) => format!("{}: ttl {} remaining {:?}", id.0, record.ttl_secs, record.remaining_secs),
                    None => format!("{}: gone", id.0),
                };
                return lessor.take_changed().into_iter().map(show).collect();
            }
            "restart" => self.restart(),
            unknown => panic!("no command {unknown}"),
        }
        Vec::new()
    }
}

fn show_ids(ids: &[LeaseId]) -> String {
    ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(" ")
}

fn show_keys(keys: &[Bytes]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
    format!("[{}]", keys.join(" "))
}

/// What a client may rely on, kept the plain way.
#[derive(Default)]
struct Promise {
    ttl_secs: i64,
    until: Duration,
    keys: Vec<Bytes>,
}

/// `SEED=n` replays one run, `RUNS=n` sets how many there are.
fn seeds(runs: u64) -> std::ops::RangeInclusive<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    number("SEED").map_or(1..=number("RUNS").unwrap_or(runs), |seed| seed..=seed)
}

#[test]
fn no_lease_expires_before_what_its_client_was_told() {
    for seed in seeds(50) {
        let mut model = Model {
            lessor: Lessor::new(config(), []),
            promises: BTreeMap::new(),
            stored: BTreeMap::new(),
            now: Duration::ZERO,
            random: seed,
        };
        model.lessor.promote(Duration::ZERO, Duration::ZERO);
        for step in 0..2000 {
            model.step(&format!("seed {seed} step {step}"));
        }
    }
}

struct Model {
    lessor: Lessor,
    promises: BTreeMap<LeaseId, Promise>,
    /// What checkpoints have written.
    stored: BTreeMap<LeaseId, LeaseRecord>,
    now: Duration,
    random: u64,
}

impl Model {
    fn step(&mut self, at: &str) {
        let pause = self.below(20_000);
        self.now += Duration::from_millis(pause);
        let id = LeaseId(self.below(12) as i64 - 6);
        match self.below(8) {
            0 => self.grant(id, at),
            1..4 => self.renew(id, at),
            4 if self.below(4) == 0 => self.detach(at),
            4 => self.attach(id, at),
            5 => self.checkpoint(),
            6 if self.below(8) == 0 => self.change_leader(),
            _ => self.expire(at),
        }
        assert_eq!(self.lessor.len(), self.promises.len(), "{at}");
        self.look(at);
        if self.below(4) == 0 {
            self.store(at);
        }
    }

    /// What a client is told of each lease.
    fn look(&self, at: &str) {
        for (&id, promise) in &self.promises {
            let times = self.lessor.time_to_live(id, self.now).unwrap_or_else(|error| panic!("{at}: {id}: {error:?}"));
            assert_eq!(times.granted_secs, promise.ttl_secs, "{at}");
            let promised = promise.until.saturating_sub(self.now).as_secs() as i64;
            assert!(times.remaining_secs >= promised, "{at}: {id} has {} seconds, promised {promised}", times.remaining_secs);
            assert!(times.remaining_secs <= promise.ttl_secs, "{at}: {id} has {} seconds", times.remaining_secs);
            let mut keys = promise.keys.clone();
            keys.sort();
            assert_eq!(self.lessor.keys(id).cloned().collect::<Vec<_>>(), keys, "{at}");
            keys.iter().for_each(|key| assert_eq!(self.lessor.lease_of(key), Some(id), "{at}"));
        }
    }

    /// A checkpoint writes what has changed, and has everything then.
    fn store(&mut self, at: &str) {
        for (id, record) in self.lessor.take_changed() {
            match record {
                Some(record) => self.stored.insert(id, record),
                None => self.stored.remove(&id),
            };
        }
        let mut records: Vec<LeaseRecord> = self.lessor.records().collect();
        records.sort_by_key(|record| record.id);
        assert_eq!(self.stored.values().cloned().collect::<Vec<_>>(), records, "{at}");
    }

    fn grant(&mut self, id: LeaseId, at: &str) {
        let ttl_secs = [5, 60, 600, 3600][self.below(4) as usize];
        let outcome = self.lessor.grant(id, ttl_secs, self.now);
        let expected = match id {
            LeaseId(0) => Err(Error::LeaseNotFound),
            id if self.promises.contains_key(&id) => Err(Error::LeaseExists),
            _ => Ok(()),
        };
        assert_eq!(outcome, expected, "{at}");
        if outcome.is_ok() {
            let until = self.now + Duration::from_secs(ttl_secs as u64);
            self.promises.insert(id, Promise { ttl_secs, until, keys: Vec::new() });
        }
    }

    fn renew(&mut self, id: LeaseId, at: &str) {
        let mut outcome = self.lessor.renew(id, self.now);
        if outcome == Ok(Renewal::ResetFirst) {
            self.lessor.apply_checkpoint(id, 0);
            outcome = self.lessor.renew(id, self.now);
        }
        match (outcome, self.promises.get_mut(&id)) {
            (Ok(Renewal::Renewed { ttl_secs }), Some(promise)) => {
                assert_eq!(ttl_secs, promise.ttl_secs, "{at}");
                promise.until = self.now + Duration::from_secs(ttl_secs as u64);
            }
            (Err(Error::LeaseNotFound), None) => {}
            (Err(Error::LeaseNotFound), Some(promise)) => assert!(promise.until <= self.now, "{at}"),
            (outcome, _) => panic!("{at}: {outcome:?}"),
        }
    }

    fn attach(&mut self, id: LeaseId, at: &str) {
        let key = Bytes::from(format!("key{}", self.below(20)));
        let outcome = self.lessor.attach(key.clone(), id);
        assert_eq!(outcome.is_ok(), self.promises.contains_key(&id), "{at}");
        if outcome.is_ok() {
            self.promises.values_mut().for_each(|promise| promise.keys.retain(|other| *other != key));
            self.promises.get_mut(&id).expect("just seen").keys.push(key);
        }
    }

    fn detach(&mut self, at: &str) {
        let key = Bytes::from(format!("key{}", self.below(20)));
        let holder = self.promises.iter().find(|(_, promise)| promise.keys.contains(&key)).map(|(id, _)| *id);
        assert_eq!(self.lessor.lease_of(&key), holder, "{at}");
        self.lessor.detach(&key);
        self.promises.values_mut().for_each(|promise| promise.keys.retain(|other| *other != key));
        assert_eq!(self.lessor.lease_of(&key), None, "{at}");
    }

    fn checkpoint(&mut self) {
        for (id, remaining) in self.lessor.checkpoints_due(self.now, 5) {
            self.lessor.apply_checkpoint(id, remaining);
        }
    }

    /// Another member, with the same log, whose clock is elsewhere.
    fn change_leader(&mut self) {
        self.store("a change of leader");
        let mut next = Lessor::new(config(), self.lessor.records());
        for (&id, promise) in &self.promises {
            promise.keys.iter().for_each(|key| next.attach(key.clone(), id).expect("stored"));
        }
        next.promote(self.now, Duration::ZERO);
        self.lessor = next;
    }

    fn expire(&mut self, at: &str) {
        for id in self.lessor.expired(self.now, 3) {
            let mut promise = self.promises.remove(&id).unwrap_or_else(|| panic!("{at}: {id} is unknown"));
            assert!(promise.until <= self.now, "{at}: {id} expires at {:?}, promised until {:?}", self.now, promise.until);
            promise.keys.sort();
            assert_eq!(self.lessor.revoke(id), Ok(promise.keys), "{at}");
        }
    }

    /// Xorshift.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 5) % limit
    }
}

#[test]
fn all_leases_expire_in_the_end_and_leave_nothing() {
    let mut lessor = Lessor::new(config(), []);
    lessor.promote(Duration::ZERO, Duration::ZERO);
    for id in 1..=20_000 {
        lessor.grant(LeaseId(id), 10 + id % 400, Duration::ZERO).expect("new");
        lessor.attach(Bytes::from(format!("key{id}")), LeaseId(id)).expect("granted");
    }
    for secs in 1..=9 {
        for id in 1..=20_000 {
            assert!(matches!(lessor.renew(LeaseId(id), Duration::from_secs(secs)), Ok(Renewal::Renewed { .. })));
        }
        assert_eq!(lessor.expired(Duration::from_secs(secs), usize::MAX), []);
    }
    let mut gone = 0;
    for secs in 10..=418 {
        let expired = lessor.expired(Duration::from_secs(secs), usize::MAX);
        gone += expired.len();
        for id in expired {
            assert_eq!(secs as i64, 9 + 10 + id.0 % 400, "each in its second");
            assert_eq!(lessor.revoke(id).expect("there").len(), 1);
        }
    }
    assert_eq!((gone, lessor.len(), lessor.next_expiry()), (20_000, 0, None));
    assert_eq!(lessor.lease_of(b"key1"), None);
}

#[test]
fn after_a_change_of_leader_thousands_of_leases_expire_one_after_the_other() {
    let mut lessor = Lessor::new(config(), []);
    (1..=5_000).for_each(|id| lessor.grant(LeaseId(id), 10, Duration::ZERO).expect("new"));
    let start = Duration::from_secs(1000);
    lessor.promote(start, Duration::from_secs(1));
    let mut counts = Vec::new();
    for secs in 0..=18 {
        let expired = lessor.expired(start + Duration::from_secs(secs), usize::MAX);
        counts.push(expired.len());
        expired.into_iter().for_each(|id| drop(lessor.revoke(id)));
    }
    assert!(counts[..11].iter().all(|&count| count == 0), "{counts:?}");
    assert!(counts.iter().all(|&count| count <= 751), "{counts:?}");
    assert!(lessor.is_empty(), "{} are left", lessor.len());
}
