//! What all parts of a run share: the server, the model, the pace, and the end.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::figures::{Figures, Usage};
use super::model::Model;
use crate::support::Server;
use crate::support::random::Random;
use crate::support::server::Target;

/// How large a run is and how fast. Periods are those of Kubernetes, divided by `rate`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Determines all choices, not the timing.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Pods on each of them.
    pub pods: usize,
    /// How long the load lasts.
    pub load: Duration,
    /// How many times faster than Kubernetes.
    pub rate: f64,
    /// Pods that are replaced in a second, at rate 1.
    pub churn: f64,
    /// Time between two compactions (five minutes in Kubernetes).
    pub compaction: Duration,
    /// TTL of events in seconds (an hour in Kubernetes); their lease is shared for a twentieth of it.
    pub event_ttl: i64,
    /// Time between two bursts.
    pub burst: Duration,
    /// How often the server is ended and started again.
    pub restarts: u32,
}

/// A run.
pub struct Run {
    /// How large and how fast.
    pub settings: Settings,
    /// What is known of the store.
    pub model: Model,
    /// What is measured.
    pub figures: Figures,
    /// Where the server is.
    pub target: Target,
    server: Mutex<Server>,
    past: Mutex<Usage>,
    /// Counts apiserver restarts: everything connects and lists anew.
    generation: AtomicU64,
    loading: Mutex<bool>,
    load_ended: Condvar,
    /// The last revision, once all writers have ended; 0 before.
    last: AtomicI64,
    /// How far the watch of everything is.
    audited: AtomicI64,
    /// Everybody but the watch of everything has ended.
    closed: AtomicBool,
    values: AtomicU64,
    written: AtomicU64,
    grants_lost: AtomicU64,
    filler: Bytes,
}

/// Bytes that values are cut from.
const FILLER: usize = 1 << 20;

impl Run {
    /// Before anything has happened.
    pub fn new(settings: Settings, server: Server) -> Run {
        let mut random = Random::from_seed(settings.seed ^ 0xf111);
        let filler: Vec<u8> = (0..FILLER / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        Run {
            settings,
            model: Model::new(),
            figures: Figures::default(),
            target: server.target(),
            server: Mutex::new(server),
            past: Mutex::default(),
            generation: AtomicU64::new(0),
            loading: Mutex::new(true),
            load_ended: Condvar::new(),
            last: AtomicI64::new(0),
            audited: AtomicI64::new(1),
            closed: AtomicBool::new(false),
            values: AtomicU64::new(0),
            written: AtomicU64::new(0),
            grants_lost: AtomicU64::new(0),
            filler: filler.into(),
        }
    }

    /// Choices of one part of the run.
    pub fn random(&self, part: &str) -> Random {
        let mixed = part.bytes().fold(self.settings.seed, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Random::from_seed(mixed)
    }

    /// A period of Kubernetes at the run's rate.
    pub fn period(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds / self.settings.rate)
    }

    /// Does something again and again until the load ends; what takes too long is not made up for.
    pub fn every(&self, period: Duration, random: &mut Random, mut action: impl FnMut(&mut Random)) {
        let mut next = Instant::now() + period.mul_f64(random.below(1_000) as f64 / 1e3);
        while self.loads_until(next) {
            action(random);
            next = (next + period).max(Instant::now());
        }
    }

    /// Waits for a moment; false: the load has ended before.
    pub fn loads_until(&self, moment: Instant) -> bool {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        while *loading {
            self.model.end_if_failed();
            let Some(wait) = moment.checked_duration_since(Instant::now()) else { return true };
            let wait = wait.min(Duration::from_secs(1));
            loading = self.load_ended.wait_timeout(loading, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// Waits for a while; false: the load has ended before.
    pub fn loads_for(&self, while_: Duration) -> bool {
        self.loads_until(Instant::now() + while_)
    }

    /// Whether the load goes on.
    pub fn loads(&self) -> bool {
        self.loads_for(Duration::ZERO)
    }

    /// Ends the load.
    pub fn end_load(&self) {
        *self.loading.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.load_ended.notify_all();
    }

    /// The last revision of the run, once all writers have ended.
    pub fn last(&self) -> Option<i64> {
        Some(self.last.load(Ordering::SeqCst)).filter(|last| *last > 0)
    }

    /// All writers have ended.
    pub fn set_last(&self, revision: i64) {
        self.last.store(revision, Ordering::SeqCst);
    }

    /// How far the watch of everything is.
    pub fn audited(&self) -> i64 {
        self.audited.load(Ordering::SeqCst)
    }

    /// The watch of everything has come here.
    pub fn set_audited(&self, revision: i64) {
        self.audited.store(revision, Ordering::SeqCst);
    }

    /// Nobody needs to be told any more what nobody has asked for.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether everybody else has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Which life of the apiserver this is.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The apiserver is started anew.
    pub fn restart_apiserver(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.figures.count("apiserver restarts");
    }

    /// A value of about this size that is stored once in the run.
    pub fn value(&self, size: usize, random: &mut Random) -> Bytes {
        let number = self.values.fetch_add(1, Ordering::Relaxed);
        self.written.fetch_add(size as u64, Ordering::Relaxed);
        let size = size - size / 8 + random.below(size as u64 / 4 + 1) as usize;
        let from = random.below((FILLER - size.min(FILLER - 1)) as u64) as usize;
        let mut value = format!("k8s\0{number:012}").into_bytes();
        value.extend_from_slice(&self.filler[from..(from + size).min(FILLER)]);
        value.into()
    }

    /// Bytes of all values so far, about.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// A call has not been answered because the server has gone: that is right only while it is being restarted.
    ///
    /// # Panics
    /// If the run restarts no server.
    #[track_caller]
    pub fn expect_loss(&self, what: &str, why: &dyn std::fmt::Debug) {
        assert!(self.settings.restarts > 0, "{what}: {why:?}, but the server was not restarted");
        self.figures.count("calls without an answer");
        self.model.end_if_failed();
        std::thread::sleep(Duration::from_millis(50));
    }

    /// A grant was not answered: there may be a lease that nobody knows.
    pub fn lose_grant(&self) {
        self.grants_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Leases that may be there and nobody knows.
    pub fn grants_lost(&self) -> usize {
        self.grants_lost.load(Ordering::Relaxed) as usize
    }

    /// Ends the server, by SIGKILL or in peace, and starts it again.
    pub fn restart_server(&self, kill: bool) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let used = Usage::of(&server);
        if kill {
            server.kill();
        } else {
            let _ = server.terminate();
        }
        server.restart();
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        *past = past.then(used);
        self.figures.count(if kill { "restarts after SIGKILL" } else { "restarts after SIGTERM" });
    }

    /// What the server has used until now.
    pub fn usage(&self) -> Usage {
        let now = Usage::of(&self.server.lock().unwrap_or_else(PoisonError::into_inner));
        self.past.lock().unwrap_or_else(PoisonError::into_inner).then(now)
    }
}

/// Tells the others if the thread that holds it fails.
pub struct Watchdog<'a>(pub &'a Run);

impl Drop for Watchdog<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.model.fail();
            self.0.end_load();
        }
    }
}
