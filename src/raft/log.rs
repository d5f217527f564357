//! The log in memory: what is newer than the checkpoint, and how far it is handed out, durable, committed and applied.
//!
//! Always: base <= applied <= emitted <= min(committed, durable), durable <= handed <= last, committed <= last. But from
//! [`Log::restore`] until that is on disk, nothing counts as durable.

use std::collections::VecDeque;

use crate::error::Fault;

use super::core::PersistSeq;
use super::types::{Entry, Index, LogId, Term};

/// Below this many entries a half-empty buffer is not worth giving back.
const SHRINK_ABOVE: usize = 1024;

#[derive(Debug)]
pub(super) struct Log {
    base: LogId,
    entries: VecDeque<Entry>,
    /// Last index given to the shell for the WAL.
    handed: Index,
    durable: Index,
    committed: Index,
    /// Last index given to the shell to apply.
    emitted: Index,
    applied: Index,
    handed_seq: PersistSeq,
    durable_seq: PersistSeq,
    /// Persists that are not durable yet, each with the last index that it makes durable.
    outstanding: VecDeque<(PersistSeq, Index)>,
}

impl Log {
    /// A log after a restart: everything in it is durable, everything up to `base` is applied.
    pub(super) fn new(base: LogId, entries: Vec<Entry>, commit: Index) -> Result<Log, Fault> {
        check_sequence(base, &entries)?;
        let last = entries.last().map_or(base, |entry| entry.id).index;
        if commit > last {
            return Err(Fault::new(format!(
                "raft: the log ends at {last}, but entries up to {commit} are known to be committed: the WAL has lost entries"
            )));
        }
        Ok(Log {
            base,
            entries: entries.into(),
            handed: last,
            durable: last,
            committed: commit.max(base.index),
            emitted: base.index,
            applied: base.index,
            handed_seq: PersistSeq(0),
            durable_seq: PersistSeq(0),
            outstanding: VecDeque::new(),
        })
    }

    pub(super) fn base(&self) -> LogId {
        self.base
    }

    pub(super) fn last(&self) -> LogId {
        self.entries.back().map_or(self.base, |entry| entry.id)
    }

    pub(super) fn committed(&self) -> Index {
        self.committed
    }

    /// The last entry that is known to be committed.
    pub(super) fn committed_id(&self) -> LogId {
        let term = self.term_at(self.committed).expect("the log reaches from its base to beyond the commit index");
        LogId { term, index: self.committed }
    }

    pub(super) fn durable(&self) -> Index {
        self.durable
    }

    pub(super) fn applied(&self) -> Index {
        self.applied
    }

    pub(super) fn durable_seq(&self) -> PersistSeq {
        self.durable_seq
    }

    pub(super) fn handed_seq(&self) -> PersistSeq {
        self.handed_seq
    }

    /// The first persist that is still on its way to the disk.
    pub(super) fn oldest_outstanding(&self) -> Option<PersistSeq> {
        self.outstanding.front().map(|&(seq, _)| seq)
    }

    /// The term of the entry at `index`, if the log still or already has it.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.position(index).and_then(|position| self.entries.get(position)).map(|entry| entry.id.term)
    }

    /// The last entry, or the base, whose index is at most `index` and whose term is at most `term`. Terms never fall along the
    /// log, so that a binary search finds it.
    pub(super) fn last_within(&self, index: Index, term: Term) -> LogId {
        let count = self.entries.partition_point(|entry| entry.id.index <= index && entry.id.term <= term);
        if count == 0 { self.base } else { self.entries[count - 1].id }
    }

    /// Entries from `from` on: at most `max_bytes` of data, but at least one if there is one.
    pub(super) fn slice(&self, from: Index, max_bytes: usize) -> Vec<Entry> {
        let Some(start) = self.position(from) else { return Vec::new() };
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += footprint(entry);
            first || bytes <= max_bytes
        };
        self.entries.range(start.min(self.entries.len())..).take_while(fits).cloned().collect()
    }

    /// Entries above `after` up to `to`.
    pub(super) fn between(&self, after: Index, to: Index) -> impl Iterator<Item = &Entry> + '_ {
        let start = after.0.saturating_sub(self.base.index.0) as usize;
        let end = to.0.saturating_sub(self.base.index.0) as usize;
        self.entries.range(start.min(end)..end)
    }

    /// Appends an entry of our own as leader.
    pub(super) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.id.index.0, self.last().index.0 + 1, "a leader only appends");
        self.entries.push_back(entry);
    }

    /// Takes over what is new in a leader's `entries`, which follow `prev`, an entry we hold. A tail of ours is cut only if it
    /// really differs (paper §5.3): an old, shorter request must not cut what was acknowledged since.
    pub(super) fn merge(&mut self, entries: Vec<Entry>) {
        let known = entries.iter().take_while(|entry| self.term_at(entry.id.index) == Some(entry.id.term)).count();
        let mut new = entries.into_iter().skip(known).peekable();
        let Some(first) = new.peek().map(|entry| entry.id.index) else { return };
        if first <= self.last().index {
            self.truncate(first);
        }
        self.entries.extend(new);
    }

    /// A leader of our term has everything that is committed (paper §5.4.3), so that what it sends cannot differ there.
    pub(super) fn check_history(&self, prev: LogId, entries: &[Entry]) -> Result<(), Fault> {
        let ids = std::iter::once(prev).chain(entries.iter().map(|entry| entry.id));
        let differs = |id: &LogId| self.term_at(id.index).is_some_and(|term| term != id.term);
        match ids.take_while(|id| id.index <= self.committed).find(differs) {
            None => Ok(()),
            Some(id) => Err(Fault::new(format!(
                "raft: the leader has entry {id} where another is committed here (up to {}). Two clusters are mixed up, or a \
                 member has lost its disk and came back under its old id: find it, remove it, and add it again with an empty \
                 data directory",
                self.committed
            ))),
        }
    }

    /// Cuts from `first` on; never what is committed.
    fn truncate(&mut self, first: Index) {
        assert!(first > self.committed, "entry {first} cannot be cut: everything up to {} is committed", self.committed);
        let keep = Index(first.0 - 1);
        self.entries.truncate((keep.0 - self.base.index.0) as usize);
        self.handed = self.handed.min(keep);
        self.durable = self.durable.min(keep);
        for (_, index) in &mut self.outstanding {
            *index = (*index).min(keep);
        }
    }

    /// A copy of the state up to `last` takes the place of the whole log. Nothing of it is durable until the next persist is: what is
    /// on its way there belongs to the log that was.
    pub(super) fn restore(&mut self, last: LogId) {
        assert!(last.index > self.committed, "a copy up to {last} would undo what is committed, up to {}", self.committed);
        self.entries = VecDeque::new();
        self.base = last;
        (self.handed, self.committed, self.emitted, self.applied) = (last.index, last.index, last.index, last.index);
        self.durable = Index(0);
        self.outstanding.iter_mut().for_each(|(_, index)| *index = Index(0));
    }

    /// Raises the commit index; never beyond the log, never back. Says whether it rose.
    pub(super) fn commit_to(&mut self, index: Index) -> bool {
        let index = index.min(self.last().index);
        let rises = index > self.committed;
        self.committed = self.committed.max(index);
        rises
    }

    pub(super) fn has_unhanded(&self) -> bool {
        self.handed < self.last().index
    }

    /// The entries that the WAL has not been given yet.
    pub(super) fn take_unhanded(&mut self) -> Vec<Entry> {
        let entries = self.between(self.handed, self.last().index).cloned().collect();
        self.handed = self.last().index;
        entries
    }

    /// Numbers a persist that carries the log up to what is handed out now.
    pub(super) fn begin_persist(&mut self) -> PersistSeq {
        self.handed_seq.0 += 1;
        self.outstanding.push_back((self.handed_seq, self.handed));
        self.handed_seq
    }

    /// Everything up to `seq` is durable.
    pub(super) fn persisted(&mut self, seq: PersistSeq) -> Result<(), Fault> {
        if seq > self.handed_seq {
            return Err(Fault::new(format!("raft: persist {} was reported but only {} were made", seq.0, self.handed_seq.0)));
        }
        while let Some(&(first, index)) = self.outstanding.front()
            && first <= seq
        {
            self.durable = self.durable.max(index);
            self.durable_seq = first;
            self.outstanding.pop_front();
        }
        Ok(())
    }

    pub(super) fn has_unemitted(&self) -> bool {
        self.emitted < self.committed.min(self.durable)
    }

    /// The entries to apply next. They are durable here, so that what is applied never runs ahead of the WAL.
    pub(super) fn take_committed(&mut self) -> Vec<Entry> {
        let to = self.committed.min(self.durable);
        let entries = self.between(self.emitted, to).cloned().collect();
        self.emitted = self.emitted.max(to);
        entries
    }

    /// The state machine has applied everything up to `index`.
    pub(super) fn applied_to(&mut self, index: Index) -> Result<(), Fault> {
        if index > self.emitted {
            return Err(Fault::new(format!("raft: {index} was applied, but only {} was committed and durable", self.emitted)));
        }
        self.applied = self.applied.max(index);
        Ok(())
    }

    /// Forgets entries up to `index`, which a checkpoint covers.
    pub(super) fn compact(&mut self, index: Index) {
        assert!(index <= self.applied, "compaction to {index}, but only {} is applied", self.applied);
        let Some(term) = self.term_at(index) else { return };
        self.entries.drain(..(index.0 - self.base.index.0) as usize);
        self.base = LogId { term, index };
        if self.entries.capacity() > SHRINK_ABOVE && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// Where `index` stands, or would stand, in `entries`.
    fn position(&self, index: Index) -> Option<usize> {
        index.0.checked_sub(self.base.index.0 + 1).and_then(|position| usize::try_from(position).ok())
    }
}

/// What an entry adds to a message or to memory, in bytes, roughly: its data and a fixed part.
pub(super) fn footprint(entry: &Entry) -> usize {
    entry.data.len() + size_of::<Entry>()
}

/// Whether `entries` follow `prev` without a gap and with terms that never fall.
pub(super) fn follows(prev: LogId, entries: &[Entry]) -> bool {
    let mut before = prev;
    entries.iter().all(|entry| {
        let fits = before.index.0.checked_add(1) == Some(entry.id.index.0) && entry.id.term >= before.term;
        before = entry.id;
        fits
    })
}

fn check_sequence(base: LogId, entries: &[Entry]) -> Result<(), Fault> {
    if follows(base, entries) {
        return Ok(());
    }
    let ids = entries.iter().map(|entry| entry.id);
    let (before, after) = std::iter::once(base)
        .chain(ids.clone())
        .zip(ids)
        .find(|(before, after)| after.index.0 != before.index.0 + 1 || after.term < before.term)
        .expect("a sequence that does not follow has a place where it breaks");
    Err(Fault::new(format!("raft: the log goes from {before} to {after}: entries are missing or out of order in the WAL")))
}
