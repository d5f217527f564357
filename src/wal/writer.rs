//! The thread that owns the [`Wal`]: it alone waits for the disk. In: [`Writer::submit`] and [`Writer::release`], which never block on
//! it. Out: [`Report`]s, in order, on that thread.
//!
//! Whatever is queued when a sync ends goes into the next one: no timer and no count, so the slower the disk the larger the batch.
//! A second thread prepares and recycles files, so that no sync waits for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::Fault;
use crate::host::Clock;
use crate::metrics;
use crate::raft::{Entry, HardState, Index, LogId, Unsynced};

use super::record::{self, Payload};
use super::{AppendError, Appended, Chore, ChoreDone, Wal};

/// A frame is cut off once it holds this much: one entry more may follow, so this bounds memory and not an entry's size.
const FRAME_BYTES: usize = 1 << 20;
/// How often a full disk is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What is durable now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Every batch with this ticket or a lower one.
    pub ticket: u64,
    /// The log's last entry on disk.
    pub last: LogId,
    /// The hard state on disk.
    pub hard_state: HardState,
}

/// What the writer has to say.
#[derive(Debug)]
pub enum Report {
    /// More is durable.
    Synced(Synced),
    /// Every batch with this ticket or a lower one is durable or, if it was submitted as relaxed, written: it survives the process, and
    /// a power cut from the next `Synced` on.
    Written(u64),
    /// The disk is full. What is queued is kept and tried again each second and after each release. The next `Synced` ends it.
    Stalled,
    /// Nothing more will be written: the process has to end. The last report.
    Fault(Fault),
}

/// Told of each sync. Called on the writer's thread.
pub trait Observer: Send + Sync {
    /// A frame of `bytes` was written, and its sync took `duration`.
    fn synced(&self, bytes: u64, duration: Duration);
}

/// Tells the process's metrics.
pub struct Metered;

impl Observer for Metered {
    fn synced(&self, bytes: u64, duration: Duration) {
        metrics::WAL_FSYNC.observe(duration);
        metrics::WAL_BYTES.add(bytes);
    }
}

/// For those who do not look.
pub struct NoObserver;

impl Observer for NoObserver {
    fn synced(&self, _: u64, _: Duration) {}
}

/// A handle on the WAL's thread.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `report` is called on it and must not wait for anything.
    pub fn start(wal: Wal, observer: Arc<dyn Observer>, report: Box<dyn FnMut(Report) + Send>) -> Result<Writer, Fault> {
        let shared = Arc::new(Shared::new(wal.host.clock.clone(), &wal));
        let (chores, todo) = mpsc::channel::<Chore>();
        let for_helper = shared.clone();
        let helper = spawn("wal-spare", move || {
            for chore in todo {
                for_helper.give_back(chore.run());
            }
        })?;
        let owner = Owner {
            wal,
            shared: shared.clone(),
            observer,
            report,
            chores,
            stalled: false,
            done: 0,
            waits: false,
            unsynced_bytes: 0,
        };
        let thread = spawn("wal", move || {
            owner.run();
            // The owner dropped its end of the channel, so the helper comes to an end too.
            helper.join().expect("a panic would have ended the process");
        })?;
        Ok(Writer { shared, thread: Some(thread) })
    }

    /// Queues a batch and returns its ticket: 1, 2, 3... Batches become durable in order. Never blocks on the disk. The queue is
    /// as long as callers make it: who submits looks at [`Writer::queued_bytes`].
    pub fn submit(&self, batch: Unsynced) -> u64 {
        self.enqueue(batch, true)
    }

    /// [`Writer::submit`], for a batch that counts once it is written. It is synced with the next batch that has to be, by
    /// [`Writer::sync`], or when there are too many of its kind.
    pub fn submit_relaxed(&self, batch: Unsynced) -> u64 {
        self.enqueue(batch, false)
    }

    fn enqueue(&self, batch: Unsynced, strict: bool) -> u64 {
        let bytes = Payload::new(batch.hard_state, &batch.entries).size() as u64;
        self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut state = self.shared.lock();
        state.queue.strict |= strict;
        let ticket = state.queue.add(batch, bytes);
        drop(state);
        self.shared.wake.notify_all();
        ticket
    }

    /// Has everything synced that was submitted. [`Report::Synced`] tells when, if there was anything to sync.
    pub fn sync(&self) {
        self.shared.lock().sync = true;
        self.shared.wake.notify_all();
    }

    /// How long the oldest write has waited for a sync; zero if none does.
    pub fn unsynced_for(&self) -> Duration {
        self.shared.since(&self.shared.unsynced_since)
    }

    /// The entries up to `up_to` are in a durable checkpoint: segments that hold nothing else may be used again.
    pub fn release(&self, up_to: Index) {
        let mut state = self.shared.lock();
        state.release = state.release.max(up_to);
        state.changed = true;
        drop(state);
        self.shared.wake.notify_all();
    }

    /// Bytes submitted and not yet durable.
    pub fn queued_bytes(&self) -> u64 {
        self.shared.queued_bytes.load(Ordering::Relaxed)
    }

    /// Bytes written since the start, padding included.
    pub fn written_bytes(&self) -> u64 {
        self.shared.written_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that can be appended even if the disk is full.
    pub fn reserve_bytes(&self) -> u64 {
        self.shared.reserve_bytes.load(Ordering::Relaxed)
    }

    /// Time that the last sync took.
    pub fn last_sync(&self) -> Duration {
        Duration::from_nanos(self.shared.last_sync.load(Ordering::Relaxed))
    }

    /// Time that the write under way has taken so far; zero if none is. A leader whose disk stalls must notice it by this.
    pub fn stalled_for(&self) -> Duration {
        self.shared.since(&self.shared.busy_since)
    }

    /// Writes and syncs what is queued and ends the threads. What a full disk does not take is dropped: it was never reported as
    /// durable. Returns the last entry that is.
    pub fn close(mut self) -> Index {
        self.join();
        Index(self.shared.synced_to.load(Ordering::Relaxed))
    }

    fn join(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a panic would have ended the process");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.join();
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Fault> {
    let thread = thread::Builder::new().name(name.into()).spawn(body);
    thread.map_err(|error| Fault::new(format!("cannot start the thread {name}: {error}")))
}

/// Batches that wait, as one. A later hard state replaces an earlier one: of it, only the last counts.
#[derive(Default)]
struct Queue {
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    bytes: u64,
    /// Of the newest batch.
    ticket: u64,
    /// One of the batches counts only when it is durable.
    strict: bool,
}

impl Queue {
    /// Entries that the batch replaces leave the queue unwritten. So a commit index in the queue never stands beside an entry that
    /// is not the committed one, even if the queue leaves in several frames.
    fn add(&mut self, batch: Unsynced, bytes: u64) -> u64 {
        self.hard_state = batch.hard_state.or(self.hard_state);
        if let Some(first) = batch.entries.first() {
            self.entries.truncate(self.entries.partition_point(|entry| entry.id.index < first.id.index));
        }
        if self.entries.is_empty() {
            self.entries = batch.entries;
        } else {
            self.entries.extend(batch.entries);
        }
        self.bytes += bytes;
        self.ticket += 1;
        self.ticket
    }
}

#[derive(Default)]
struct State {
    queue: Queue,
    release: Index,
    sync: bool,
    done: Option<ChoreDone>,
    /// Something other than the queue wants a look.
    changed: bool,
    closing: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    clock: Arc<dyn Clock>,
    queued_bytes: AtomicU64,
    written_bytes: AtomicU64,
    reserve_bytes: AtomicU64,
    last_sync: AtomicU64,
    busy_since: AtomicU64,
    unsynced_since: AtomicU64,
    /// Index of the last entry that is durable.
    synced_to: AtomicU64,
}

impl Shared {
    fn new(clock: Arc<dyn Clock>, wal: &Wal) -> Shared {
        Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            clock,
            queued_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            reserve_bytes: AtomicU64::new(wal.reserve_bytes()),
            last_sync: AtomicU64::new(0),
            busy_since: AtomicU64::new(0),
            unsynced_since: AtomicU64::new(0),
            synced_to: AtomicU64::new(wal.last().index.0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a panic would have ended the process")
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.wake.wait(state).expect("a panic would have ended the process")
    }

    fn give_back(&self, done: ChoreDone) {
        let mut state = self.lock();
        state.done = Some(done);
        state.changed = true;
        drop(state);
        self.wake.notify_all();
    }

    /// Never 0: that means idle.
    fn now_nanos(&self) -> u64 {
        nanos(self.clock.now()).max(1)
    }

    fn since(&self, moment: &AtomicU64) -> Duration {
        match moment.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.clock.now().saturating_sub(Duration::from_nanos(since)),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The thread's own side.
struct Owner {
    wal: Wal,
    shared: Arc<Shared>,
    observer: Arc<dyn Observer>,
    report: Box<dyn FnMut(Report) + Send>,
    chores: mpsc::Sender<Chore>,
    stalled: bool,
    /// The last ticket of which everything is written, and durable if it has to be.
    done: u64,
    /// A frame is written and not yet reported as durable.
    waits: bool,
    /// Bytes written since the last sync.
    unsynced_bytes: u64,
}

impl Owner {
    fn run(mut self) {
        if let Err(fault) = self.serve() {
            (self.report)(Report::Fault(fault));
        }
    }

    fn serve(&mut self) -> Result<(), Fault> {
        loop {
            self.tend()?;
            let mut state = self.shared.lock();
            while state.queue.ticket == self.done && !state.changed && !state.closing && !state.sync {
                state = self.shared.wait(state);
            }
            let (closing, sync) = (state.closing, std::mem::take(&mut state.sync));
            let ticket = state.queue.ticket;
            let taken = Queue { ticket, ..Queue::default() };
            let queue = std::mem::replace(&mut state.queue, taken);
            drop(state);
            let idle = ticket == self.done;
            if !idle && !self.write(&queue)? {
                return self.end();
            }
            if sync {
                self.sync()?;
            }
            if idle && closing {
                return self.end();
            }
        }
    }

    /// Everything that was written is synced, and the log is told that nothing follows.
    fn end(&mut self) -> Result<(), Fault> {
        self.sync()?;
        self.wal.end()
    }

    /// Makes everything durable that was written, and tells; if that was told already, nothing.
    fn sync(&mut self) -> Result<(), Fault> {
        if self.waits {
            self.shared.busy_since.store(self.shared.now_nanos(), Ordering::Relaxed);
            let sync = self.wal.sync()?;
            self.shared.busy_since.store(0, Ordering::Relaxed);
            self.synced(Appended { bytes: 0, sync });
        }
        Ok(())
    }

    /// Looks after everything but the queue: releases, and the files to come.
    fn tend(&mut self) -> Result<(), Fault> {
        let mut state = self.shared.lock();
        state.changed = false;
        let (release, done) = (state.release, state.done.take());
        drop(state);
        self.wal.release(release);
        if let Some(done) = done {
            self.wal.finish_chore(done)?;
        }
        if let Some(chore) = self.wal.next_chore() {
            self.chores.send(chore).expect("the helper ends after us");
        }
        self.shared.reserve_bytes.store(self.wal.reserve_bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// Writes one queue in as few frames as the cap allows. False if the disk is full and we are to close.
    fn write(&mut self, queue: &Queue) -> Result<bool, Fault> {
        let mut entries = &queue.entries[..];
        loop {
            let (now, later) = entries.split_at(frame_entries(entries));
            let Some(appended) = self.append(queue, now)? else { return Ok(false) };
            entries = later;
            if entries.is_empty() {
                self.done = queue.ticket;
                self.shared.queued_bytes.fetch_sub(queue.bytes, Ordering::Relaxed);
            }
            self.shared.written_bytes.fetch_add(appended.bytes, Ordering::Relaxed);
            self.unsynced_bytes += appended.bytes;
            if self.wal.is_synced() {
                self.synced(appended)
            } else {
                self.written()
            }
            // The report is out: what is left of a segment's birth delays nobody's acknowledgement.
            self.wal.seal()?;
            if entries.is_empty() {
                return Ok(true);
            }
            self.tend()?;
        }
    }

    fn synced(&mut self, appended: Appended) {
        (self.stalled, self.waits) = (false, false);
        self.shared.last_sync.store(nanos(appended.sync), Ordering::Relaxed);
        self.shared.unsynced_since.store(0, Ordering::Relaxed);
        self.shared.synced_to.store(self.wal.last().index.0, Ordering::Relaxed);
        let bytes = std::mem::take(&mut self.unsynced_bytes);
        if bytes > 0 {
            self.observer.synced(bytes, appended.sync);
        }
        let synced = Synced { ticket: self.done, last: self.wal.last(), hard_state: self.wal.hard_state() };
        (self.report)(Report::Synced(synced));
    }

    /// A frame is written that waits for a sync.
    fn written(&mut self) {
        (self.stalled, self.waits) = (false, true);
        let since = &self.shared.unsynced_since;
        // Only this thread writes it.
        if since.load(Ordering::Relaxed) == 0 {
            since.store(self.shared.now_nanos(), Ordering::Relaxed);
        }
        (self.report)(Report::Written(self.done));
    }

    /// Appends one frame, however long the disk is full; `None` if we are to close meanwhile.
    fn append(&mut self, queue: &Queue, entries: &[Entry]) -> Result<Option<Appended>, Fault> {
        let hard_state = queue.hard_state;
        self.shared.busy_since.store(self.shared.now_nanos(), Ordering::Relaxed);
        let appended = loop {
            self.await_chore(hard_state, entries)?;
            let appended = match queue.strict {
                true => self.wal.append(hard_state, entries),
                false => self.wal.append_relaxed(hard_state, entries),
            };
            match appended {
                Ok(appended) => break Some(appended),
                Err(AppendError::Fault(fault)) => return Err(fault),
                Err(AppendError::Full) => {}
            }
            // Who waits for this may be the one who makes room.
            self.sync()?;
            if !self.stalled {
                self.stalled = true;
                (self.report)(Report::Stalled);
            }
            if !self.wait_for_space()? {
                break None;
            }
        };
        self.shared.busy_since.store(0, Ordering::Relaxed);
        Ok(appended)
    }

    /// Waits for the helper if it is making what this append needs.
    fn await_chore(&mut self, hard_state: Option<HardState>, entries: &[Entry]) -> Result<(), Fault> {
        while self.wal.awaits_chore(hard_state, entries) {
            let mut state = self.shared.lock();
            while state.done.is_none() {
                state = self.shared.wait(state);
            }
            drop(state);
            self.tend()?;
        }
        Ok(())
    }

    /// Waits for a release, a chore's end or the next try. False if we are to close.
    fn wait_for_space(&mut self) -> Result<bool, Fault> {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .wake
            .wait_timeout_while(state, RETRY_EVERY, |state| !state.changed && !state.closing)
            .expect("a panic would have ended the process");
        let closing = state.closing;
        drop(state);
        self.tend()?;
        Ok(!closing)
    }
}

/// How many entries the next frame takes: all, or until the cap is reached.
fn frame_entries(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    for (at, entry) in entries.iter().enumerate() {
        bytes += record::entry_size(entry);
        if bytes >= FRAME_BYTES {
            return at + 1;
        }
    }
    entries.len()
}
