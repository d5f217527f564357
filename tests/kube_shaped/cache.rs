//! The watch cache of one resource, as kube-apiserver keeps it: a list, a watch from there on, progress asked for when a consistent
//! read waits. It is made anew when the apiserver is, and resumes where it was when the connection breaks.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};

use super::follower::{Cache, Follower};
use super::history::Span;
use super::run::Run;
use super::store::{COMPACTED, Store};
use crate::support::grpc::Stream;
use crate::support::requests::WATCH;
use crate::support::wait::DEADLINE;
use crate::support::{Client, Code, Status};

/// clientv3's fields, and that the watch asks for a leader.
const FIELDS: &[(&str, &str)] = &[("client-api-version", "3.7"), ("hasleader", "true")];

/// How often progress is asked for while somebody waits for it.
const PROGRESS: Duration = Duration::from_millis(100);

/// A watch as it came to an end.
#[derive(Debug)]
pub enum End {
    /// Its client wanted it to.
    Left,
    /// The connection is gone.
    Lost(Status),
    /// Its revision is.
    Compacted,
}

/// An open watch stream with one watch.
pub struct Watching {
    stream: Stream<WatchRequest, WatchResponse>,
    asked: Option<Instant>,
}

impl Watching {
    /// Asks for the events that the follower has not heard.
    pub fn open(client: &Client, follower: &mut Follower, fragment: bool) -> Result<Watching, End> {
        follower.forget_pieces();
        let mut stream: Stream<WatchRequest, WatchResponse> = client.try_open(WATCH, FIELDS).map_err(lost)?;
        let create = WatchCreateRequest {
            key: follower.span().key.clone(),
            range_end: follower.span().end.clone(),
            start_revision: follower.reached() + 1,
            prev_kv: true,
            progress_notify: true,
            fragment,
            ..Default::default()
        };
        stream.try_send(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).map_err(lost)?;
        let created = stream.try_recv().map_err(lost)?;
        assert!(created.created && !created.canceled && created.events.is_empty(), "not a plain `created`: {created:?}");
        Ok(Watching { stream, asked: None })
    }

    /// Hears what comes within `patience`; none: nothing did.
    ///
    /// # Panics
    /// If it is wrong.
    pub fn hear(&mut self, run: &Run, patience: Duration, take: impl FnOnce(WatchResponse)) -> Option<Result<(), End>> {
        Some(match self.stream.recv_within(patience)? {
            Ok(reply) if reply.canceled => {
                let known = run.model.compacted();
                let words = reply.cancel_reason.is_empty() || reply.cancel_reason == COMPACTED;
                let revision = reply.compact_revision;
                assert!(words && revision > 0 && revision <= known.asked, "{reply:?}, and compactions are {known:?}");
                run.figures.count("watches of compacted revisions");
                Err(End::Compacted)
            }
            Ok(reply) => {
                if let Some(asked) = self.asked.take_if(|_| reply.watch_id == -1) {
                    run.figures.latency("progress asked for", asked.elapsed());
                }
                take(reply);
                Ok(())
            }
            Err(status) => Err(lost(status)),
        })
    }

    /// Nobody waits for progress any more.
    pub fn forget_progress(&mut self) {
        self.asked = None;
    }

    /// Asks for progress.
    pub fn ask_progress(&mut self) -> Result<(), End> {
        if self.asked.is_some_and(|asked| asked.elapsed() < PROGRESS) {
            return Ok(());
        }
        self.asked = Some(Instant::now());
        let request = WatchRequest { request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})) };
        self.stream.try_send(&request).map_err(lost)
    }
}

/// How a stream may end against its client's will.
#[track_caller]
fn lost(status: Status) -> End {
    assert_eq!(status.code, Code::Unavailable, "a watch ended: {status:?}");
    End::Lost(status)
}

/// The cache of one resource.
pub struct WatchCache<'a> {
    run: &'a Run,
    /// Its connection, which the resource's other requests use too.
    pub store: Store<'a>,
    /// `/registry/.../`
    pub prefix: String,
    /// Filled by pages of this size, or by a stream.
    pages: Option<i64>,
    follower: Mutex<Follower>,
    moved: Condvar,
    /// A revision that somebody waits for.
    wanted: AtomicI64,
}

impl<'a> WatchCache<'a> {
    /// An empty one.
    pub fn new(run: &'a Run, prefix: &str, pages: Option<i64>) -> WatchCache<'a> {
        let follower = Follower::new("write to event", Span::prefix(prefix.to_owned()), 0, Cache::new());
        WatchCache {
            run,
            store: Store::new(run),
            prefix: prefix.to_owned(),
            pages,
            follower: Mutex::new(follower),
            moved: Condvar::new(),
            wanted: AtomicI64::new(0),
        }
    }

    fn follower(&self) -> MutexGuard<'_, Follower> {
        self.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Objects that it holds.
    pub fn len(&self) -> usize {
        self.follower().cache().len()
    }

    fn span(&self) -> Span {
        Span::prefix(self.prefix.clone())
    }

    /// Lists and watches until the run ends; then the cache has to be what the server lists.
    pub fn keep(&self) {
        self.list();
        let mut generation = self.run.generation();
        while let Err(end) = self.watch(generation) {
            match end {
                End::Left => {
                    generation = self.run.generation();
                    self.store.disconnect();
                    self.list();
                }
                End::Compacted => self.list(),
                End::Lost(status) => {
                    self.store.disconnect();
                    self.run.expect_loss("a watch", &status);
                }
            }
        }
        assert_is_listed(&self.store, &self.follower());
    }

    fn list(&self) {
        let listed = loop {
            let listed = match self.pages {
                Some(limit) => self.store.pages(&self.span(), limit, 0, Duration::ZERO),
                None => self.store.stream(&self.span(), 0),
            };
            // One that was overtaken by a compaction is begun again.
            if let Ok(listed) = listed {
                break listed;
            }
        };
        self.follower().relist(listed.revision, listed.cache);
        self.moved.notify_all();
    }

    /// Watches until the end of the run, or of the watch.
    fn watch(&self, generation: u64) -> Result<(), End> {
        let begun = Instant::now();
        let mut watching = Watching::open(&self.store.client(), &mut self.follower(), false)?;
        self.run.figures.latency("watch created", begun.elapsed());
        loop {
            self.run.model.end_if_failed();
            if self.run.generation() != generation {
                return Err(End::Left);
            }
            let heard = watching.hear(self.run, PROGRESS, |reply| {
                self.follower().hear(reply, &self.run.model, &self.run.figures);
                self.moved.notify_all();
            });
            heard.unwrap_or(Ok(()))?;
            let (reached, last) = (self.follower().reached(), self.run.last());
            if last.is_some_and(|last| reached >= last) {
                return Ok(());
            }
            let wanted = self.wanted.load(Ordering::SeqCst).max(last.unwrap_or(0));
            if wanted > reached {
                watching.ask_progress()?;
            }
        }
    }

    /// A consistent list from the cache: the present's revision is asked for, and progress until the cache is there. It has to be what
    /// the store held at the revision it is of. It is given up when the load ends.
    pub fn consistent_list(&self) {
        let begun = Instant::now();
        let revision = self.store.current_revision(&self.prefix);
        self.wanted.fetch_max(revision, Ordering::SeqCst);
        let mut follower = self.follower();
        while follower.reached() < revision {
            self.run.model.end_if_failed();
            if !self.run.loads() {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "the cache of {} is not at {revision} after {DEADLINE:?}", self.prefix);
            follower = self.moved.wait_timeout(follower, PROGRESS).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.run.figures.latency("consistent list from the cache", begun.elapsed());
        let (reached, cache) = (follower.reached(), follower.cache().clone());
        drop(follower);
        let stored = self.run.model.check(reached, |history| Ok(history.cache(&self.span(), reached)));
        assert_equal(&self.prefix, reached, &cache, &stored);
    }

    /// Compares what the cache holds with what the store lists at exactly that revision.
    pub fn check_consistency(&self) {
        let (reached, cache) = {
            let follower = self.follower();
            (follower.reached(), follower.cache().clone())
        };
        if reached == 0 {
            return;
        }
        if let Ok(listed) = self.store.pages(&self.span(), 10_000, reached, Duration::ZERO) {
            assert_equal(&self.prefix, reached, &cache, &listed.cache);
            self.run.figures.count("caches compared with the store");
        }
    }
}

/// What a watch has made of a list has to be what is listed now.
#[track_caller]
pub fn assert_is_listed(store: &Store, follower: &Follower) {
    let listed = store.pages(follower.span(), 500, follower.reached(), Duration::ZERO).expect("the last revision is readable");
    assert_equal(&format!("{:?}", follower.span()), follower.reached(), follower.cache(), &listed.cache);
}

/// A cache has to be what a list of its revision is.
#[track_caller]
pub fn assert_equal(what: &str, revision: i64, cache: &Cache, listed: &Cache) {
    if cache != listed {
        let only = |one: &Cache, other: &Cache| -> Vec<_> {
            one.iter().filter(|(key, value)| other.get(*key) != Some(value)).map(|(key, (at, _))| (key.clone(), *at)).collect()
        };
        let (cached, stored) = (only(cache, listed), only(listed, cache));
        panic!("the cache of {what} at {revision} has {cached:?} where the store has {stored:?}");
    }
}
