//! What a member's log should be, kept beside it: ids only.

use bramble::raft::{Entry, HardState, LogId, Unsynced};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogModel {
    /// What is before the first of `ids`.
    base: LogId,
    ids: Vec<LogId>,
    pub hard_state: HardState,
}

impl LogModel {
    pub fn new(base: LogId, entries: &[Entry], hard_state: HardState) -> LogModel {
        LogModel { base, ids: entries.iter().map(|entry| entry.id).collect(), hard_state }
    }

    /// Takes over what is to be persisted; returns what stands before the first entry.
    pub fn append(&mut self, unsynced: &Unsynced) -> LogId {
        if let Some(first) = unsynced.entries.first() {
            self.ids.retain(|id| id.index < first.id.index);
        }
        let before = self.last();
        self.ids.extend(unsynced.entries.iter().map(|entry| entry.id));
        self.hard_state = unsynced.hard_state.unwrap_or(self.hard_state);
        before
    }

    /// A copy of the state takes the place of everything.
    pub fn restore(&mut self, base: LogId) {
        (self.base, self.ids) = (base, Vec::new());
    }

    /// A checkpoint covers everything up to `base`.
    pub fn compact(&mut self, base: LogId) {
        if base.index > self.base.index {
            self.base = base;
            self.ids.retain(|id| id.index > base.index);
        }
    }

    pub fn last(&self) -> LogId {
        self.ids.last().copied().unwrap_or(self.base)
    }

    /// Whether an entry is in it, or behind its base.
    pub fn holds(&self, id: LogId) -> bool {
        id.index <= self.base.index || self.ids.contains(&id)
    }

    /// Whether everything that is durable in `durable` is in this one, which a start has found.
    pub fn has_all_of(&self, durable: &LogModel) -> bool {
        let (ours, theirs) = (self.hard_state, durable.hard_state);
        let voted = (ours.term, ours.vote) == (theirs.term, theirs.vote) || theirs.term == bramble::raft::Term(0);
        voted && ours.commit >= theirs.commit && durable.ids.iter().all(|&id| self.holds(id))
    }
}
