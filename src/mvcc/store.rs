//! The store: one lock around the state, and what may be done under it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::Revision;
use super::row::RowHead;
use super::state::{Pruning, State};
use super::write::Batch;
use crate::backend::{Backend, Reader, Size, Table, WriteError, Writer};
use crate::error::Fault;

/// Names of the store's own rows in [`Table::Meta`].
const REVISION: &[u8] = b"revision";
const COMPACTED: &[u8] = b"compacted_revision";

/// Keys pruned per hold of the lock.
const PRUNE_STEP: usize = 1000;

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
    /// How many entries of the garbage list are in `removed`.
    scrubbed: usize,
    current: i64,
    compacted: i64,
}

impl Checkpoint {
    /// Whether there is anything new to write.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.removed.is_empty()
    }

    /// Bytes of rows.
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(|(_, row)| row.len()).sum()
    }

    /// The newest main revision it holds.
    pub fn revision(&self) -> i64 {
        self.current
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
        let mut state = State::new();
        let mut leased: BTreeMap<Box<[u8]>, i64> = BTreeMap::new();
        let mut reader = backend.reader()?;
        if let Some(revision) = meta_number(&mut reader, REVISION)? {
            state.current = revision;
        }
        reader.scan(Table::Row, b"", |key, row| {
            let (Some(revision), Some(head)) = (Revision::from_key(key), RowHead::parse(row)) else {
                return Err(Fault::new(
                    "the checkpoint holds a row that is none of ours: its format is newer, or it was changed by hand",
                ));
            };
            state.load(revision, &head);
            if head.lease != 0 {
                leased.insert(head.key.into(), head.lease);
            } else if !leased.is_empty() {
                leased.remove(head.key);
            }
            Ok(true)
        })?;
        if let Some(compacted) = meta_number(&mut reader, COMPACTED)? {
            state.compacted = compacted;
            // A compaction that a crash interrupted goes on where its rows still are.
            state.pruning = Pruning::From(Box::default());
            while !state.prune(usize::MAX) {}
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
        !self.state_mut().prune(PRUNE_STEP)
    }

    /// Whether [`Store::prune_step`] has something to do.
    pub fn needs_pruning(&self) -> bool {
        self.state().pruning != Pruning::Done
    }

    /// Whether compactions up to `revision` have left no row behind.
    pub fn scrubbed(&self, revision: i64) -> bool {
        let state = self.state();
        let pruned = state.pruning == Pruning::Done || state.compacted < revision;
        pruned && state.garbage.front().is_none_or(|(at, _)| *at > revision)
    }

    /// What a checkpoint has to write now. One at a time: the next only after [`Store::checkpointed`].
    pub fn checkpoint(&self) -> Checkpoint {
        let oldest_pin = self.pins.lock().expect("a pin panicked").keys().next().copied().unwrap_or(i64::MAX);
        let mut state = self.state_mut();
        let mut removed = Vec::new();
        let mut scrubbed = 0;
        let state = &mut *state;
        for (_, revisions) in state.garbage.iter().take_while(|(at, _)| *at <= oldest_pin) {
            scrubbed += 1;
            for revision in revisions {
                if state.recent.covers(*revision) {
                    state.recent.forget(*revision);
                } else {
                    removed.push(*revision);
                }
            }
        }
        Checkpoint {
            rows: state.recent.from(Revision::default()).map(|(revision, row)| (revision, row.clone())).collect(),
            removed,
            scrubbed,
            current: state.current,
            compacted: state.compacted,
        }
    }

    /// The checkpoint is durable: what it holds need not be kept in memory.
    pub fn checkpointed(&self, checkpoint: &Checkpoint) {
        let mut state = self.state_mut();
        state.recent.drop_through(Revision { main: checkpoint.current, sub: u32::MAX });
        state.garbage.drain(..checkpoint.scrubbed);
    }
}

fn meta_number(reader: &mut Reader, name: &[u8]) -> Result<Option<i64>, Fault> {
    match reader.get(Table::Meta, name)? {
        None => Ok(None),
        Some(bytes) => match bytes.try_into() {
            Ok(bytes) => Ok(Some(i64::from_be_bytes(bytes))),
            Err(_) => Err(Fault::new(format!("the checkpoint's {} is not a number", String::from_utf8_lossy(name)))),
        },
    }
}
