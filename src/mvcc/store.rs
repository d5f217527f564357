//! The store: one lock around the state, and what may be done under it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::Revision;
use super::row::RowHead;
use super::state::{Garbage, Pruning, State};
use super::write::Batch;
use crate::backend::{Backend, Reader, Size, Table, WriteError, Writer};
use crate::error::Fault;
use crate::metrics;

/// Names of the store's own rows in [`Table::Meta`].
const REVISION: &[u8] = b"revision";
const COMPACTED: &[u8] = b"compacted_revision";

/// Keys looked at per hold of the lock while the index is pruned, and revisions taken out of it, but for those of one key.
const PRUNE_STEP: usize = 1000;

/// Rows removed per checkpoint, so that its transaction stays small after a large compaction too.
const REMOVED_MAX: usize = 4_000;

/// etcd's revision model over a checkpoint. Reads from any thread; writes in log order from one.
pub struct Store {
    state: RwLock<State>,
    backend: Arc<Backend>,
    pins: Arc<Mutex<BTreeMap<i64, usize>>>,
}

/// Sizes and counts for status and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Newest main revision.
    pub current: i64,
    /// Compacted main revision; -1 before the first compaction.
    pub compacted: i64,
    /// Keys that exist.
    pub keys: usize,
    /// Bytes not yet in the checkpoint.
    pub recent_bytes: usize,
}

/// Keeps the rows that a read at one revision sees from being removed by compactions that come later.
pub(super) struct Pin {
    at: i64,
    pins: Arc<Mutex<BTreeMap<i64, usize>>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock().expect("a pin panicked");
        if let Some(count) = pins.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.at);
            }
        }
    }
}

/// What a checkpoint has to write for the store, taken at one moment. `Checkpoint::write` may be tried again.
pub struct Checkpoint {
    rows: Vec<(Revision, Bytes)>,
    removed: Vec<Revision>,
    current: i64,
    compacted: i64,
    /// Whether `current` or `compacted` differs from the last checkpoint's.
    moved: bool,
    leaves_garbage: bool,
}

impl Checkpoint {
    /// Whether there is nothing new to write.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.removed.is_empty() && !self.moved
    }

    /// Whether it removes compacted rows.
    pub fn removes_rows(&self) -> bool {
        !self.removed.is_empty()
    }

    /// Whether compacted rows are left for the next checkpoint to remove.
    pub fn leaves_garbage(&self) -> bool {
        self.leaves_garbage
    }

    /// Puts everything into a batch.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), WriteError> {
        for revision in &self.removed {
            writer.delete(Table::Row, &revision.to_key())?;
        }
        for (revision, row) in &self.rows {
            writer.append(Table::Row, &revision.to_key(), row)?;
        }
        writer.put(Table::Meta, REVISION, &self.current.to_be_bytes())?;
        writer.put(Table::Meta, COMPACTED, &self.compacted.to_be_bytes())
    }
}

impl Store {
    /// Rebuilds the index from the checkpoint, and tells which keys hang on which lease.
    ///
    /// # Errors
    /// A fault if the checkpoint is damaged.
    pub fn open(backend: Arc<Backend>, mut each_leased: impl FnMut(&[u8], i64)) -> Result<Store, Fault> {
        let mut loader = Loader { state: State::new(), leased: BTreeMap::new(), keys: Vec::new(), rows: Vec::new() };
        let mut reader = backend.reader()?;
        let newest = meta_number(&mut reader, REVISION, 1..=Revision::MAIN_MAX)?;
        let compacted = meta_number(&mut reader, COMPACTED, -1..=newest.unwrap_or(Revision::MAIN_MAX))?;
        let mut last = Revision::default();
        let ahead = backend.read_ahead();
        backend.load(Table::Row, |key, row| {
            let (revision, head) = sound_row(key, row)?;
            if revision <= last || newest.is_some_and(|newest| revision.main > newest) {
                return Err(Fault::new(format!(
                    "the checkpoint holds revision {}/{} out of order. {REMEDY}",
                    revision.main, revision.sub
                )));
            }
            last = revision;
            loader.add(revision, &head);
            Ok(())
        })?;
        drop(ahead);
        loader.flush();
        let Loader { mut state, leased, .. } = loader;
        state.current = newest.unwrap_or(state.current);
        state.checkpointed = newest.zip(compacted);
        if let Some(compacted) = compacted {
            state.compacted = compacted;
            // A compaction that a crash interrupted goes on where its rows still are.
            state.pruning = Pruning::From(Box::default());
            while !state.prune(usize::MAX) {}
            let pruned = std::mem::take(&mut state.pruned);
            state.dispose(Garbage::of(compacted, pruned));
        }
        for (key, lease) in &leased {
            each_leased(key, *lease);
        }
        drop(reader);
        Ok(Store { state: RwLock::new(state), backend, pins: Arc::default() })
    }

    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("a writer panicked")
    }

    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("a writer panicked")
    }

    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    pub(super) fn pin(&self, at: i64) -> Pin {
        *self.pins.lock().expect("a pin panicked").entry(at).or_default() += 1;
        Pin { at, pins: self.pins.clone() }
    }

    /// Begins a batch of writes: the exclusive hold of the store. One caller, in log order.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self.state_mut(), &self.backend)
    }

    /// The newest main revision.
    pub fn current(&self) -> i64 {
        self.state().current
    }

    /// Sizes and counts.
    pub fn stats(&self) -> Stats {
        let state = self.state();
        Stats { current: state.current, compacted: state.compacted, keys: state.live_keys, recent_bytes: state.recent.bytes() }
    }

    /// Sizes of the checkpoint file, and the bytes waiting to get into it.
    ///
    /// # Errors
    /// A fault if the environment is broken.
    pub fn size(&self) -> Result<Size, Fault> {
        let waiting = self.stats().recent_bytes as u64;
        let size = self.backend.size()?;
        Ok(Size { file: size.file + waiting, in_use: size.in_use + waiting })
    }

    /// Prunes one step of the index for the last compaction. Returns whether more steps are needed.
    pub fn prune_step(&self) -> bool {
        let mut state = self.state_mut();
        if !state.prune(PRUNE_STEP) {
            return true;
        }
        let (compacted, pruned) = (state.compacted, std::mem::take(&mut state.pruned));
        drop(state);
        let garbage = Garbage::of(compacted, pruned);
        let mut state = self.state_mut();
        state.dispose(garbage);
        state.pruning != Pruning::Done
    }

    /// Whether [`Store::prune_step`] has something to do.
    pub fn needs_pruning(&self) -> bool {
        self.state().pruning != Pruning::Done
    }

    /// Whether compactions up to `revision` have left no row behind.
    pub fn scrubbed(&self, revision: i64) -> bool {
        let state = self.state();
        state.pruning == Pruning::Done && state.garbage.front().is_none_or(|garbage| garbage.compacted > revision)
    }

    /// What a checkpoint has to write now. One at a time: the next only after [`Store::checkpointed`].
    pub fn checkpoint(&self) -> Checkpoint {
        let mut guard = self.state_mut();
        // A reader chooses rows and pins them in one hold of the lock, so no pin comes between this look and the removals.
        let oldest_pin = self.pins.lock().expect("a pin panicked").keys().next().copied().unwrap_or(i64::MAX);
        let state = &mut *guard;
        let old = state.garbage.iter().take_while(|garbage| garbage.compacted <= oldest_pin);
        let removed: Vec<Revision> = old.flat_map(Garbage::left).copied().take(REMOVED_MAX).collect();
        for revision in &removed {
            // Not to be written at all, if it has not been. Removed even so: a write that seemed to fail may have left it,
            // and a put that outlives its deletion would be a key that exists again.
            if state.recent.covers(*revision) {
                state.recent.forget(*revision);
            }
        }
        // Readers need not wait for the rest.
        let state = RwLockWriteGuard::downgrade(guard);
        Checkpoint {
            rows: state.recent.from(Revision::default()).map(|(revision, row)| (revision, row.clone())).collect(),
            leaves_garbage: removed.len() < state.garbage.iter().map(|garbage| garbage.left().len()).sum(),
            removed,
            current: state.current,
            compacted: state.compacted,
            moved: state.checkpointed != Some((state.current, state.compacted)),
        }
    }

    /// The checkpoint is durable: what it holds need not be kept in memory.
    pub fn checkpointed(&self, checkpoint: &Checkpoint) {
        let mut state = self.state_mut();
        let written = state.recent.split_through(Revision { main: checkpoint.current, sub: u32::MAX });
        let scrubbed = state.scrub(checkpoint.removed.len());
        state.checkpointed = Some((checkpoint.current, checkpoint.compacted));
        drop(state);
        // Freeing thousands of rows takes a while, and nobody has to wait for it.
        metrics::COMPACTED_KEYS.add(checkpoint.removed.len() as u64);
        drop((written, scrubbed));
    }
}

/// Rows that are sorted by key before they go into the index.
const LOAD_ROWS: usize = 1 << 16;
/// Bytes of their keys at the most, but for one.
const LOAD_KEY_BYTES: usize = 4 << 20;

/// Fills the index from rows in revision order. Keys that follow each other in time lie far apart in a large index, and each
/// step down its tree is then a wait for memory; a run of rows sorted by key finds most of its way in the cache.
struct Loader {
    state: State,
    leased: BTreeMap<Box<[u8]>, i64>,
    /// The keys of `rows`, one behind the other.
    keys: Vec<u8>,
    rows: Vec<LoadedRow>,
}

struct LoadedRow {
    /// Where its key stands.
    key: std::ops::Range<usize>,
    revision: Revision,
    create_revision: i64,
    version: i64,
    lease: i64,
}

impl Loader {
    fn add(&mut self, revision: Revision, head: &RowHead<'_>) {
        let begin = self.keys.len();
        self.keys.extend_from_slice(head.key);
        let RowHead { create_revision, version, lease, .. } = *head;
        self.rows.push(LoadedRow { key: begin..self.keys.len(), revision, create_revision, version, lease });
        if self.rows.len() == LOAD_ROWS || self.keys.len() >= LOAD_KEY_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Loader { state, leased, keys, rows } = self;
        // Stable: the rows of one key stay in their order.
        rows.sort_by(|a, b| keys[a.key.clone()].cmp(&keys[b.key.clone()]));
        for LoadedRow { key, revision, create_revision, version, lease } in rows.drain(..) {
            let key = &keys[key];
            let mod_revision = if create_revision == 0 { 0 } else { revision.main };
            state.load(revision, &RowHead { key, create_revision, mod_revision, version, value: b"", lease });
            if lease != 0 {
                leased.insert(key.into(), lease);
            } else if !leased.is_empty() {
                leased.remove(key);
            }
        }
        keys.clear();
    }
}

const REMEDY: &str =
    "Put back a copy of the data directory, or in a cluster remove this member, delete its data directory and add it again.";

/// A row of the checkpoint, if it can be one that we wrote.
pub(super) fn sound_row<'r>(key: &[u8], row: &'r [u8]) -> Result<(Revision, RowHead<'r>), Fault> {
    let revision = Revision::from_key(key);
    let head = RowHead::parse(row);
    match revision.zip(head).filter(|(revision, head)| head.is_sound(revision.main)) {
        Some(sound) => Ok(sound),
        None => {
            let name: String = key.iter().map(|b| format!("{b:02x}")).collect();
            Err(Fault::new(format!(
                "the checkpoint's row {name} is none of ours: its format is newer, or it was changed by hand. {REMEDY}"
            )))
        }
    }
}

fn meta_number(reader: &mut Reader, name: &[u8], legal: RangeInclusive<i64>) -> Result<Option<i64>, Fault> {
    let Some(bytes) = reader.get(Table::Meta, name)? else { return Ok(None) };
    match bytes.try_into().map(i64::from_be_bytes) {
        Ok(number) if legal.contains(&number) => Ok(Some(number)),
        _ => {
            Err(Fault::new(format!("the checkpoint's {} is none of ours: {bytes:02x?}. {REMEDY}", String::from_utf8_lossy(name))))
        }
    }
}
