//! The relaxed class: entries that are acknowledged when they are written, before they are synced. A power cut may lose them; the end
//! of the process does not, because the kernel has them.
//!
//! A run is frames that one sync makes durable, in sectors of their own. Each but the first says where its run began, which is how far
//! the log was synced when it was written (`tail.rs` needs that to tell a power cut from damage). Always:
//!
//! - Runs stand in the newest segment only, and one at a time: what came before is synced.
//! - A run that is not synced holds no more entries than the segment's header says, so that a start knows how much it may have missed.
//! - A frame that has to be durable makes everything before it durable, in one sync.

use std::time::Duration;

use crate::error::Fault;
use crate::raft::{Entry, HardState};

use super::frame;
use super::record::{InRun, Payload};
use super::segment::Segment;
use super::{AppendError, Appended, Then, Wal, write_frame};

/// The most bytes of frames that wait for a sync.
const MAX_BYTES: u64 = 1 << 20;

/// The frames that wait for a sync.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Where the first of them begins, or the next frame if there is none.
    start: u64,
    /// The chain there.
    chain: u32,
    entries: usize,
}

impl Run {
    /// A run without frames.
    pub(super) fn at_end_of(segment: &Segment) -> Run {
        Run { start: segment.end, chain: segment.chain, entries: 0 }
    }

    /// One frame more, with these entries.
    pub(super) fn add(&mut self, entries: &[Entry]) {
        self.entries += entries.len();
    }
}

impl Wal {
    /// Writes a hard state and entries that may be lost with the power until the next sync. As [`Wal::append`], which it is for
    /// whatever must not wait: a new term or vote, entries that replace others, what exceeds the log's bounds. [`Wal::is_synced`]
    /// tells.
    pub fn append_relaxed(&mut self, hard_state: Option<HardState>, entries: &[Entry]) -> Result<Appended, AppendError> {
        self.append_and(Then::Wait, hard_state, entries)
    }

    /// Makes everything durable that was written.
    pub fn sync(&mut self) -> Result<Duration, Fault> {
        if self.is_synced() {
            return Ok(Duration::ZERO);
        }
        if self.failed {
            return Err(Fault::new(format!("an earlier write to {} failed", self.dir.display())));
        }
        let took = self.sync_file(&self.current).inspect_err(|_| self.failed = true)?;
        self.end_run();
        Ok(took)
    }

    /// Whether everything that was written is durable.
    pub fn is_synced(&self) -> bool {
        self.current.end == self.run.start
    }

    /// Makes everything durable, and marks it as the end that the process came to in good order: nothing is missing behind it. A log
    /// without a relaxed class needs no mark, and where there is no room for it, the next start makes do without.
    pub fn end(&mut self) -> Result<(), Fault> {
        self.sync()?;
        let payload = Payload { clean_stop: true, ..Payload::default() };
        let bytes = frame::total(payload.size(), self.current.header.unit());
        if self.current.header.max_unsynced == 0 || self.clean || self.failed || bytes > self.current.room() {
            return Ok(());
        }
        let through = !self.options.no_fsync;
        match write_frame(&mut self.buffer, &self.current, through, &payload) {
            Ok(written) => {
                self.current.end += bytes;
                self.current.chain = written.crc;
                self.clean = true;
                if written.durable {
                    self.end_run();
                    return Ok(());
                }
                self.sync().map(drop)
            }
            Err(AppendError::Full) => Ok(()),
            Err(AppendError::Fault(fault)) => {
                self.failed = true;
                Err(fault)
            }
        }
    }

    /// Whether a frame of this many bytes may wait for a sync.
    pub(super) fn may_wait(&self, payload: &Payload<'_>, bytes: u64) -> bool {
        let elected = |state: HardState| (state.term, state.vote) != (self.hard_state.term, self.hard_state.vote);
        let replaces = payload.entries.first().is_some_and(|entry| entry.id.index <= self.last.index);
        let entries = self.run.entries + payload.entries.len();
        let most = usize::try_from(self.current.header.max_unsynced).unwrap_or(usize::MAX);
        most > 0
            && entries <= most
            && self.current.end + bytes - self.run.start <= MAX_BYTES
            && !replaces
            // Lost with the power, it would leave a log that ends with the mark.
            && !self.clean
            && !payload.hard_state.is_some_and(elected)
    }

    /// What the next frame has to say of the run it is in; nothing if it begins one.
    pub(super) fn in_run(&self) -> Option<InRun> {
        let Run { start, chain, .. } = self.run;
        let back = u32::try_from(self.current.end - start).expect("a run is far shorter than 4 GiB");
        (back > 0).then_some(InRun { back, chain })
    }

    /// Everything is durable: the next frame begins a run, in a sector of its own.
    pub(super) fn end_run(&mut self) {
        self.current.end = self.current.next_sector();
        self.run = Run::at_end_of(&self.current);
    }
}
