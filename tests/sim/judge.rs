//! What must hold, whatever happens: the properties of the paper's figure 3, and what clients are promised. It sees everything, and tells
//! nobody.

use std::collections::BTreeMap;

use bramble::raft::{ConfState, Entry, LogId, MemberId};

use super::coverage::Coverage;
use super::log_model::LogModel;
use super::machine::{Machine, Write, decode_conf, digest_of};

/// What came of a check: what is broken, in words.
pub type Verdict = Result<(), String>;

#[derive(Default)]
pub struct Judge {
    /// Who led in a term.
    leaders: BTreeMap<u64, u64>,
    /// Every entry that was durable or sent: what stood before it, and its data. Equal entries have equal pasts (log matching).
    entries: BTreeMap<LogId, (LogId, u64)>,
    /// What was applied first at each index.
    history: BTreeMap<u64, Applied>,
    /// The index at which each operation was applied, and the revision it made.
    operations: BTreeMap<u64, u64>,
    /// The fingerprint of the state at each revision.
    states: BTreeMap<u64, u64>,
    /// The highest revision that a client has been told.
    told: u64,
    /// The last configuration that was applied anywhere, and where.
    conf: (u64, ConfState),
    pub acknowledged: u64,
    pub reads: u64,
}

struct Applied {
    entry: LogId,
    data: u64,
    fingerprint: u64,
    /// The term of the member that applied it first: it was committed in that one or before.
    known_in: u64,
}

impl Judge {
    /// The configuration before any entry.
    pub fn begin(&mut self, conf: &ConfState) {
        self.conf = (0, conf.clone());
    }

    /// Election safety, and leader completeness.
    pub fn elected(&mut self, member: u64, term: u64, log: &LogModel) -> Verdict {
        let first = *self.leaders.entry(term).or_insert(member);
        if first != member {
            return Err(format!("members {first} and {member} both lead in term {term}"));
        }
        let older = self.history.values().rev().find(|applied| applied.known_in < term);
        match older {
            Some(applied) if !log.holds(applied.entry) => {
                Err(format!("member {member} leads in term {term} without entry {}, which is committed", applied.entry))
            }
            _ => Ok(()),
        }
    }

    /// Log matching, for entries behind `before` that are durable or were sent. What was neither may be made again by a voter that is
    /// alone, in the same term.
    pub fn logged(&mut self, member: u64, mut before: LogId, entries: &[Entry]) -> Verdict {
        for entry in entries {
            let now = (before, digest_of(&entry.data));
            let first = *self.entries.entry(entry.id).or_insert(now);
            if first != now {
                let (id, other) = (entry.id, first.0);
                return Err(format!("entry {id} of member {member}, behind {before}, is not the one elsewhere, behind {other}"));
            }
            before = entry.id;
        }
        Ok(())
    }

    /// State machine safety, and that each operation is applied once. `write` is what the entry was, `machine` the state after it.
    pub fn applied(&mut self, member: u64, term: u64, entry: &Entry, write: Option<Write>, machine: &Machine) -> Verdict {
        let (index, data, fingerprint) = (entry.id.index.0, digest_of(&entry.data), machine.fingerprint());
        if let Some(first) = self.history.get_mut(&index) {
            first.known_in = first.known_in.min(term);
            if (first.entry, first.data) != (entry.id, data) {
                return Err(format!("member {member} applies {} where another has applied {}", entry.id, first.entry));
            }
            if first.fingerprint != fingerprint {
                return Err(format!("member {member} has another state than others after entry {}", entry.id));
            }
            return Ok(());
        }
        if index != self.history.len() as u64 + 1 {
            return Err(format!("member {member} applies {} first, but nobody has applied {}", entry.id, self.history.len() + 1));
        }
        self.history.insert(index, Applied { entry: entry.id, data, fingerprint, known_in: term });
        self.states.insert(machine.revision, machine.values_fingerprint());
        if let Some(conf) = conf_of(entry) {
            self.conf = (index, conf);
        }
        if let Some(Write { operation, .. }) = write
            && let Some(earlier) = self.operations.insert(operation, machine.revision)
        {
            return Err(format!("operation {operation} is applied twice: in revisions {earlier} and {}", machine.revision));
        }
        Ok(())
    }

    /// What the next operation to begin may not fall behind.
    pub fn floor(&self) -> u64 {
        self.told
    }

    /// A client is told that its write is done, in `revision`. `floor` is from when it began.
    pub fn acknowledge(&mut self, operation: u64, revision: u64, floor: u64) -> Verdict {
        self.acknowledged += 1;
        if self.operations.get(&operation) != Some(&revision) {
            return Err(format!("operation {operation} is acknowledged in revision {revision}, where it is not"));
        }
        if revision <= floor {
            return Err(format!("operation {operation} is in revision {revision}, but {floor} was told before it began"));
        }
        self.told = self.told.max(revision);
        Ok(())
    }

    /// A client is told the state. `floor` is from when it asked.
    pub fn read(&mut self, member: u64, machine: &Machine, floor: u64) -> Verdict {
        self.reads += 1;
        if machine.revision < floor {
            return Err(format!("member {member} reads revision {}, but {floor} was told before that began", machine.revision));
        }
        if self.states.get(&machine.revision) != Some(&machine.values_fingerprint()) {
            return Err(format!("member {member} reads a state at revision {} that never was", machine.revision));
        }
        self.told = self.told.max(machine.revision);
        Ok(())
    }

    /// A member believes that it is removed.
    pub fn removed(&self, member: u64) -> Verdict {
        if self.conf.1.contains(MemberId(member)) {
            return Err(format!("member {member} is told that it is removed, and it is not"));
        }
        Ok(())
    }

    /// The last configuration that was applied anywhere.
    pub fn conf(&self) -> &ConfState {
        &self.conf.1
    }

    /// How long the one history is.
    pub fn applied_to(&self) -> u64 {
        self.history.len() as u64
    }

    pub fn count(&self, coverage: &mut Coverage) {
        coverage.add("entries applied", self.applied_to());
        coverage.add("writes acknowledged", self.acknowledged);
        coverage.add("reads answered", self.reads);
        coverage.add("terms led", self.leaders.len() as u64);
    }
}

fn conf_of(entry: &Entry) -> Option<ConfState> {
    (entry.kind == bramble::raft::EntryKind::ConfChange).then(|| decode_conf(&entry.data)).flatten()
}
