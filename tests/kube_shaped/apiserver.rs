//! The apiserver's own work: its caches, the rules by which it writes an object, the lock of the compactors, and what it does once in
//! a while without being asked.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bramble::pb::mvccpb::KeyValue;
use bytes::Bytes;

use super::cache::{End, WatchCache, Watching};
use super::follower::{Cache, Follower};
use super::history::Span;
use super::resources::{RESOURCES, Resource};
use super::run::Run;
use super::store::{Store, Written};
use crate::support::random::Random;

/// An event's lease is shared by so many events, and for a twentieth of their life.
const EVENTS_OF_A_LEASE: usize = 1_000;

/// Where the compactors agree.
const COMPACTION_LOCK: Bytes = Bytes::from_static(b"compact_rev_key");

/// The apiserver.
pub struct Apiserver<'a> {
    run: &'a Run,
    /// One for each of [`RESOURCES`].
    pub caches: Vec<WatchCache<'a>>,
    /// The connection of what has no watch.
    pub other: Store<'a>,
    event_lease: Mutex<EventLease>,
}

#[derive(Default)]
struct EventLease {
    id: i64,
    granted: Option<Instant>,
    events: usize,
}

impl<'a> Apiserver<'a> {
    /// With empty caches; every third is filled by pages of ten thousand, as by an apiserver before 1.37, the others by streams.
    pub fn new(run: &'a Run) -> Apiserver<'a> {
        let pages = |at: usize| at.is_multiple_of(3).then_some(10_000);
        let caches = RESOURCES.iter().enumerate();
        let caches = caches.map(|(at, resource)| WatchCache::new(run, &resource.prefix(), pages(at))).collect();
        Apiserver { run, caches, other: Store::new(run), event_lease: Mutex::default() }
    }

    /// The cache that a resource's requests go through.
    pub fn cache(&self, path: &str) -> &WatchCache<'a> {
        let at = RESOURCES.iter().position(|resource| resource.path == path);
        &self.caches[at.unwrap_or_else(|| panic!("no resource {path}"))]
    }

    /// Writes an object as the apiserver does: guarded by what it believes to be there (0: nothing), and again with what it is told.
    /// `lease` gives the lease of a try. Gives the revision of the object.
    pub fn put(
        &self,
        store: &Store,
        key: &Bytes,
        believed: i64,
        size: usize,
        lease: impl Fn() -> i64,
        random: &mut Random,
    ) -> i64 {
        let mut believed = believed;
        loop {
            let value = self.run.value(size, random);
            let written = match believed {
                0 => store.create(key, &value, lease()),
                _ => store.update(key, believed, &value, lease()),
            };
            believed = match written {
                Written::At(revision) => return revision,
                Written::Conflict(Some(there)) => there.mod_revision,
                Written::Conflict(None) | Written::Lost => revision_of(store.get(key)),
                Written::LeaseEnded => believed,
            };
        }
    }

    /// An object of a watched resource.
    pub fn put_object(&self, resource: &Resource, key: &Bytes, believed: i64, random: &mut Random) -> i64 {
        self.put(&self.cache(resource.path).store, key, believed, resource.size, || 0, random)
    }

    /// Deletes an object as the apiserver does.
    pub fn delete_object(&self, resource: &Resource, key: &Bytes, believed: i64) {
        let store = &self.cache(resource.path).store;
        let mut believed = believed;
        while believed != 0 {
            believed = match store.delete(key, believed) {
                Written::At(_) => return,
                Written::Conflict(there) => revision_of(there),
                Written::Lost | Written::LeaseEnded => revision_of(store.get(key)),
            };
        }
    }

    /// The lease of the next event.
    pub fn event_lease(&self) -> i64 {
        let mut lease = self.event_lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ttl = self.run.settings.event_ttl;
        let reuse = Duration::from_secs_f64(ttl as f64 / 20.0);
        if lease.granted.is_none_or(|granted| granted.elapsed() > reuse) || lease.events >= EVENTS_OF_A_LEASE {
            *lease = EventLease { id: self.cache("events").store.grant(ttl), granted: Some(Instant::now()), events: 0 };
        }
        lease.events += 1;
        lease.id
    }

    /// One apiserver's compactor: whoever takes the lock compacts to the revision that was the present one period before. The watch of
    /// everything is not overtaken: it alone tells of leases that end.
    pub fn compact_periodically(&self) {
        let store = Store::new(self.run);
        let (mut version, mut revision) = (0, 0);
        let mut random = self.run.random("compactor");
        self.run.every(self.run.settings.compaction, &mut random, |_| {
            let seen = store.current_revision("/registry/compaction");
            let written = store.update_version(&COMPACTION_LOCK, version, &revision.to_string().into());
            match written {
                Written::At(_) => {
                    version += 1;
                    if revision > 0 {
                        store.compact(revision);
                        self.run.figures.count("compactions");
                    }
                }
                Written::Conflict(there) => version = there.map_or(0, |kv| kv.version),
                Written::Lost | Written::LeaseEnded => {}
            }
            revision = seen.min(self.run.audited());
        });
    }

    /// Follows the compactors' lock, from where it read it.
    pub fn follow_compactions(&self) {
        let store = Store::new(self.run);
        let span = Span::one(COMPACTION_LOCK);
        let mut follower: Option<Follower> = None;
        while self.run.loads() {
            let follower = follower.get_or_insert_with(|| {
                let listed = store.pages(&span, 0, 0, Duration::ZERO).expect("the present is not compacted");
                Follower::new("write to event: compactors' lock", span.clone(), listed.revision, listed.cache)
            });
            let ended = Watching::open(&store.client(), follower, false).and_then(|mut watching| {
                while self.run.loads() {
                    let take = |reply| follower.hear(reply, &self.run.model, &self.run.figures);
                    watching.hear(self.run, Duration::from_millis(500), take).unwrap_or(Ok(()))?;
                }
                Ok(())
            });
            if let Err(End::Lost(status)) = ended {
                store.disconnect();
                self.run.expect_loss("the watch of the compactors' lock", &status);
            }
        }
    }

    /// Lists by users of the API: consistent ones, from caches.
    pub fn list_consistently(&self) {
        let mut random = self.run.random("consistent lists");
        self.run.every(self.run.period(1.0), &mut random, |random| self.any(random).consistent_list());
    }

    /// Lists by users of the API: in pages from the store, with pauses in which it goes on, or is compacted.
    pub fn list_in_pages(&self) {
        let mut random = self.run.random("paged lists");
        self.run.every(self.run.period(5.0), &mut random, |random| {
            let path = ["pods", "events", "configmaps", "clusterroles", "leases"][random.below(5) as usize];
            let cache = self.cache(path);
            // Where the limit meets the count, `more` changes.
            let all = cache.len() as i64;
            let limit = [1 + random.below(20) as i64, 500, all, all - 1, all / 2][random.below(5) as usize].max(1);
            let pause = self.run.period(0.002 * random.below(500) as f64);
            let _ = cache.store.pages(&Span::prefix(cache.prefix.clone()), limit, 0, pause);
        });
    }

    /// Reads of the past: an object, or all of a resource, at a revision that may be compacted meanwhile.
    pub fn read_the_past(&self) {
        let mut random = self.run.random("the past");
        self.run.every(self.run.period(2.0), &mut random, |random| {
            let cache = self.cache(["pods", "leases", "minions", "events"][random.below(4) as usize]);
            let now = cache.store.current_revision(&cache.prefix);
            let revision = (now - random.below(now as u64 / 2 + 1) as i64).max(1);
            let span = Span::prefix(cache.prefix.clone());
            let Ok(listed) = cache.store.stream(&span, revision) else { return };
            let keys: Vec<&Bytes> = listed.cache.keys().collect();
            if let Some(key) = keys.get(random.below(keys.len().max(1) as u64) as usize) {
                let _ = cache.store.get_at(key, revision);
            }
        });
    }

    /// Compares caches with the store: each of them every six minutes or so.
    pub fn check_caches(&self) {
        let mut random = self.run.random("consistency");
        let period = self.run.period(360.0 / RESOURCES.len() as f64);
        self.run.every(period, &mut random, |random| self.any(random).check_consistency());
    }

    /// The numbers of objects, for metrics: each resource's every one and a half minutes or so.
    pub fn count_objects(&self) {
        let mut random = self.run.random("counts");
        let period = self.run.period(95.0 / RESOURCES.len() as f64);
        self.run.every(period, &mut random, |random| {
            let cache = self.any(random);
            cache.store.count(&cache.prefix);
        });
    }

    /// `/livez` and `/readyz`, once a second each.
    pub fn probe(&self, name: &str) {
        let store = Store::new(self.run);
        self.run.every(self.run.period(1.0), &mut self.run.random(name), |_| store.health());
    }

    /// The size of the database, for metrics.
    pub fn scrape(&self) {
        let store = Store::new(self.run);
        self.run.every(self.run.period(15.0), &mut self.run.random("scrape"), |_| {
            store.status();
        });
    }

    fn any(&self, random: &mut Random) -> &WatchCache<'a> {
        &self.caches[random.below(self.caches.len() as u64) as usize]
    }
}

fn revision_of(kv: Option<KeyValue>) -> i64 {
    kv.map_or(0, |kv| kv.mod_revision)
}

/// A watch of all keys, in fragments, that tells the model what nobody has asked for.
pub fn audit(run: &Run) {
    let store = Store::new(run);
    let mut follower = Follower::new("write to event: of everything", Span::everything(), 1, Cache::new());
    loop {
        match audit_once(run, &store, &mut follower) {
            Ok(()) => break,
            Err(End::Lost(status)) => {
                store.disconnect();
                run.expect_loss("the watch of everything", &status);
            }
            Err(end) => panic!("the watch of everything, at {}: {end:?}", follower.reached()),
        }
    }
    super::cache::assert_is_listed(&store, &follower);
}

fn audit_once(run: &Run, store: &Store, follower: &mut Follower) -> Result<(), End> {
    let mut watching = Watching::open(&store.client(), follower, true)?;
    while !run.is_closed() {
        run.model.end_if_failed();
        let heard = watching.hear(run, Duration::from_millis(100), |reply| {
            run.model.tell(|history| history.hear(Instant::now(), &reply.events));
            follower.hear(reply, &run.model, &run.figures);
            run.set_audited(follower.reached());
        });
        heard.unwrap_or(Ok(()))?;
    }
    Ok(())
}
