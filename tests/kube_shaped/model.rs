//! The history as all clients of a run share it: they tell it what they did and ask it whether what they were told is right. A
//! question about a revision waits until the history has come there.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};

use super::history::{History, Span, Wrong};
use crate::support::wait::DEADLINE;

/// What is known of compactions.
#[derive(Clone, Copy, Debug)]
pub struct Compacted {
    /// The highest revision that was acknowledged to be compacted.
    pub done: i64,
    /// The highest that was asked for.
    pub asked: i64,
}

/// The shared history.
pub struct Model {
    history: Mutex<History>,
    moved: Condvar,
    /// The highest revision in any answer: no later read may be older.
    floor: AtomicI64,
    /// Cluster and member.
    server: OnceLock<(u64, u64)>,
    compaction_done: AtomicI64,
    compaction_asked: AtomicI64,
    failed: AtomicBool,
}

impl Model {
    /// Of a fresh store.
    pub fn new() -> Model {
        Model {
            history: Mutex::new(History::new()),
            moved: Condvar::new(),
            floor: AtomicI64::new(1),
            server: OnceLock::new(),
            compaction_done: AtomicI64::new(0),
            compaction_asked: AtomicI64::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// Changes the history.
    ///
    /// # Panics
    /// If that shows that the server is wrong.
    #[track_caller]
    pub fn tell<T>(&self, change: impl FnOnce(&mut History) -> Result<T, Wrong>) -> T {
        let outcome = change(&mut self.lock());
        self.moved.notify_all();
        self.verdict(outcome)
    }

    /// Asks the history once it has come to a revision.
    ///
    /// # Panics
    /// If the server is wrong, or nothing explains how it came to that revision.
    #[track_caller]
    pub fn check<T>(&self, revision: i64, question: impl FnOnce(&History) -> Result<T, Wrong>) -> T {
        let start = Instant::now();
        let mut history = self.lock();
        while history.applied() < revision {
            let applied = history.applied();
            self.end_if_failed();
            if start.elapsed() > DEADLINE {
                drop(history);
                self.verdict::<()>(Err(format!("an answer is of revision {revision}, but nobody told of {}", applied + 1)));
                unreachable!("an error has panicked");
            }
            let wait = Duration::from_millis(100);
            history = self.moved.wait_timeout(history, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        let outcome = question(&history);
        drop(history);
        self.verdict(outcome)
    }

    #[track_caller]
    fn verdict<T>(&self, outcome: Result<T, Wrong>) -> T {
        match outcome {
            Ok(value) => value,
            Err(wrong) if self.failed.swap(true, Ordering::Relaxed) => {
                eprintln!("and after that: {wrong}");
                end_quietly()
            }
            Err(wrong) => panic!("{wrong}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread of the run has failed.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.moved.notify_all();
    }

    /// Whether a thread of the run has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Ends the thread if another one has failed.
    pub fn end_if_failed(&self) {
        if self.has_failed() {
            end_quietly();
        }
    }

    /// The revision that a linearizable read asked for now has to have at least.
    pub fn floor(&self) -> i64 {
        self.floor.load(Ordering::SeqCst)
    }

    /// Somebody was answered with this header: of the one server there is, in a term that is not the past.
    #[track_caller]
    pub fn saw(&self, header: &ResponseHeader) {
        self.floor.fetch_max(header.revision, Ordering::SeqCst);
        let server = (header.cluster_id, header.member_id);
        assert_eq!(*self.server.get_or_init(|| server), server, "an answer of another server: {header:?}");
        assert!(header.raft_term > 0, "an answer of no term: {header:?}");
    }

    /// A compaction is about to be asked for.
    pub fn ask_compaction(&self, revision: i64) {
        self.compaction_asked.fetch_max(revision, Ordering::SeqCst);
    }

    /// A compaction was acknowledged.
    pub fn compacted_to(&self, revision: i64) {
        self.compaction_done.fetch_max(revision, Ordering::SeqCst);
    }

    /// What is known of compactions.
    pub fn compacted(&self) -> Compacted {
        let done = self.compaction_done.load(Ordering::SeqCst);
        Compacted { done, asked: self.compaction_asked.load(Ordering::SeqCst) }
    }

    /// Compares an answer of Range with the history at `revision`.
    #[track_caller]
    pub fn check_range(&self, request: &RangeRequest, reply: &RangeResponse, revision: i64) {
        self.check(revision, |history| {
            let span = Span { key: request.key.clone(), end: request.range_end.clone() };
            let all = history.list(&span, revision);
            let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
            let rows = if request.count_only { &[] } else { &all[..all.len().min(limit)] };
            let more = !request.count_only && all.len() > limit;
            if (reply.count, reply.more) != (all.len() as i64, more) {
                return Err(format!(
                    "{request:?} at {revision}: count {} and more {}, not {} and {more}",
                    reply.count,
                    reply.more,
                    all.len()
                ));
            }
            if reply.kvs.len() != rows.len() {
                return Err(format!("{request:?} at {revision}: {} pairs, not {}", reply.kvs.len(), rows.len()));
            }
            match reply.kvs.iter().zip(rows).find(|(kv, (key, version))| !version.is(key, kv)) {
                Some((kv, row)) => Err(format!("{request:?} at {revision}: {kv:?} where the history has {row:?}")),
                None => Ok(()),
            }
        });
    }
}

/// Ends this thread without a word: the one that failed first has said what is wrong.
pub fn end_quietly() -> ! {
    std::panic::resume_unwind(Box::new("another thread has failed"))
}
