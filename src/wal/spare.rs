//! Spares: files written and synced in full, so that a segment begins without allocating anything, and a full disk is noticed
//! before it matters. A released segment becomes a spare by a rename: a steady load allocates nothing.
//!
//! Neither the rename nor a removal is synced: a crash may bring old names back, in any order and with newer contents, and a start
//! looks into no segment older than those it needs. The birth of the next segment makes them durable.
//!
//! The work is cut into [`Chore`]s, which touch no segment in use, so that another thread may run them while frames are synced.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Fault;
use crate::host::{Disk, File};
use crate::raft::Index;

use super::segment::{Name, frame_room};
use super::{AppendError, Options, failed};

/// How long a full disk is left alone before a spare is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Zeros go out a page at a time. Linux (ext4 from 6.16 on) caches a larger write as one folio of that size, and then counts the
/// whole folio as dirtied and written (`write_bytes`, dirty limits) for each frame of a few hundred bytes that falls into it.
static ZEROS: [u8; 4 * 1024] = [0; 4 * 1024];

/// A file ready to become a segment. What it holds does not matter: its nonce will be new.
pub(super) struct Spare {
    pub path: PathBuf,
    pub file: Box<dyn File>,
    pub len: u64,
}

/// A segment that is no longer written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed {
    pub sequence: u64,
    pub len: u64,
    /// The log's last index at its end. Once the checkpoint has it, the segment may go.
    pub until: Index,
}

/// Work on files that no frame goes to.
pub struct Chore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    no_fsync: bool,
    task: Task,
}

#[derive(Clone, Copy)]
enum Task {
    Prepare { number: u64, len: u64 },
    Recycle { segment: Closed, number: u64 },
    Remove { segment: Closed },
}

/// What came of a [`Chore`].
pub struct ChoreDone {
    task: Task,
    result: Result<Option<Spare>, AppendError>,
}

impl Chore {
    /// Does it. Blocks.
    pub fn run(self) -> ChoreDone {
        let result = match self.task {
            Task::Prepare { number, len } => self.prepare(number, len).map(Some),
            Task::Recycle { segment, number } => self.recycle(segment, number).map(Some),
            Task::Remove { segment } => self.remove(segment).map(|()| None),
        };
        ChoreDone { task: self.task, result }
    }

    fn prepare(&self, number: u64, len: u64) -> Result<Spare, AppendError> {
        let unfinished = Name::Unfinished(number).path(&self.dir);
        let path = Name::Spare(number).path(&self.dir);
        let written = write_zeros(&*self.disk, &unfinished, len, self.no_fsync).and_then(|file| {
            self.disk.rename(&unfinished, &path).map_err(|error| failed("rename", &unfinished, &error))?;
            Ok(Spare { path, file, len })
        });
        if let Err(AppendError::Full) = &written {
            // What it took so far is given back; no data were in it.
            self.disk.remove(&unfinished).map_err(|error| Fault::io("remove", &unfinished, &error))?;
        }
        written
    }

    fn recycle(&self, segment: Closed, number: u64) -> Result<Spare, AppendError> {
        let from = Name::Segment(segment.sequence).path(&self.dir);
        let path = Name::Spare(number).path(&self.dir);
        self.disk.rename(&from, &path).map_err(|error| failed("rename", &from, &error))?;
        let file = self.disk.open(&path).map_err(|error| Fault::io("open", &path, &error))?;
        Ok(Spare { path, file, len: segment.len })
    }

    fn remove(&self, segment: Closed) -> Result<(), AppendError> {
        let path = Name::Segment(segment.sequence).path(&self.dir);
        self.disk.remove(&path).map_err(|error| failed("remove", &path, &error))
    }
}

/// Creates a file of `len` zeros, written and synced: its blocks are not only reserved, so later syncs write no metadata.
pub(super) fn write_zeros(disk: &dyn Disk, path: &Path, len: u64, no_fsync: bool) -> Result<Box<dyn File>, AppendError> {
    let file = disk.create(path).map_err(|error| failed("create", path, &error))?;
    let mut at = 0;
    while at < len {
        let now = ZEROS.len().min(usize::try_from(len - at).unwrap_or(usize::MAX));
        file.write_at(&ZEROS[..now], at).map_err(|error| failed("write", path, &error))?;
        at += now as u64;
    }
    if !no_fsync {
        file.sync_data().map_err(|error| failed("sync", path, &error))?;
    }
    Ok(file)
}

/// Spares at hand, and the segments that may become some. Always: at most one chore is out.
pub(super) struct Pool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    spares: Vec<Spare>,
    released: VecDeque<Closed>,
    next_number: u64,
    out: bool,
    retry_at: Duration,
}

impl Pool {
    /// `next_number` is above those of all spares there are.
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, options: Options, spares: Vec<Spare>, next_number: u64) -> Pool {
        let released = VecDeque::new();
        Pool { disk, dir, options, spares, released, next_number, out: false, retry_at: Duration::ZERO }
    }

    /// Takes a segment whose entries are all in the checkpoint. Oldest first.
    pub(super) fn release(&mut self, segment: Closed) {
        self.released.push_back(segment);
        self.retry_at = Duration::ZERO;
    }

    /// Bytes of frames that the spares can take.
    pub(super) fn reserve_bytes(&self) -> u64 {
        self.spares.iter().map(|spare| frame_room(spare.len)).sum()
    }

    /// True if a spare for a segment of `len` bytes is at hand.
    pub(super) fn has(&self, len: u64) -> bool {
        self.spares.iter().any(|spare| spare.len >= len)
    }

    /// True while a chore is out: its [`Pool::finish`] may bring a spare.
    pub(super) fn is_out(&self) -> bool {
        self.out
    }

    /// The next thing to do off the path of appends; `wanted` if a spare will be needed soon.
    pub(super) fn next_chore(&mut self, wanted: bool, now: Duration) -> Option<Chore> {
        if self.out || now < self.retry_at {
            return None;
        }
        let task = match self.released.pop_front() {
            Some(segment) => self.task_for(segment),
            None if wanted && self.spares.is_empty() => self.prepare(self.options.segment_bytes),
            None => return None,
        };
        self.out = true;
        Some(self.chore(task))
    }

    /// Takes back a chore's result.
    pub(super) fn finish(&mut self, done: ChoreDone, now: Duration) -> Result<(), Fault> {
        self.out = false;
        match done.result {
            Ok(spare) => self.spares.extend(spare),
            Err(AppendError::Fault(fault)) => return Err(fault),
            Err(AppendError::Full) => {
                self.retry_at = now + RETRY_AFTER;
                if let Task::Recycle { segment, .. } | Task::Remove { segment } = done.task {
                    self.released.push_front(segment);
                }
            }
        }
        Ok(())
    }

    /// A spare of at least `len` bytes; one is made at once if there is none.
    pub(super) fn take(&mut self, len: u64) -> Result<Spare, AppendError> {
        while !self.out && !self.has(len) && self.released.front().is_some_and(|segment| segment.len >= len) {
            let segment = self.released.pop_front().expect("looked at above");
            let task = self.task_for(segment);
            let done = self.chore(task).run();
            if let Err(AppendError::Full) = done.result {
                self.released.push_front(segment);
                break;
            }
            self.spares.extend(done.result?);
        }
        if let Some(at) = self.spares.iter().position(|spare| spare.len >= len) {
            return Ok(self.spares.swap_remove(at));
        }
        let task = self.prepare(len.max(self.options.segment_bytes));
        let spare = self.chore(task).run().result?;
        Ok(spare.expect("a prepared spare"))
    }

    /// Gives back a spare that was not used after all.
    pub(super) fn put_back(&mut self, spare: Spare) {
        self.spares.push(spare);
    }

    fn chore(&self, task: Task) -> Chore {
        Chore { disk: self.disk.clone(), dir: self.dir.clone(), no_fsync: self.options.no_fsync, task }
    }

    fn prepare(&mut self, len: u64) -> Task {
        Task::Prepare { number: self.number(), len }
    }

    fn task_for(&mut self, segment: Closed) -> Task {
        if segment.len == self.options.segment_bytes && self.spares.len() < self.options.max_spares {
            Task::Recycle { segment, number: self.number() }
        } else {
            Task::Remove { segment }
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}
