//! Linearizable reads without a log entry (thesis §6.4). Reads that come together share a round: the leader notes its commit
//! index, sends the round's number with a heartbeat, and serves them when a majority has answered that number or a later one.
//! Numbers only rise, so that an answer to an older heartbeat can never confirm a younger read.
//!
//! A follower asks the leader, once for all reads that came meanwhile. Its numbers only rise too, and start at random, so that an
//! answer to an earlier life of it is not taken for one of this.

use std::collections::VecDeque;

use super::core::ReadState;
use super::types::{Index, MemberId};

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// A client of this member, by the shell's number.
    Here(u64),
    /// Another member, by that member's number.
    Member(MemberId, u64),
}

/// A leader's reads.
#[derive(Debug, Default)]
pub(super) struct ReadOnly {
    /// Came since the last round began.
    fresh: Vec<Reader>,
    /// The number of the last round.
    round: u64,
    rounds: VecDeque<Round>,
}

#[derive(Debug)]
struct Round {
    number: u64,
    index: Index,
    readers: Vec<Reader>,
}

impl ReadOnly {
    pub(super) fn add(&mut self, reader: Reader) {
        self.fresh.push(reader);
    }

    /// Another member asks, perhaps once more. It waits for one answer at a time, so that only its latest question is kept.
    pub(super) fn ask(&mut self, member: MemberId, number: u64) {
        let reader = Reader::Member(member, number);
        let waits = self.rounds.iter().any(|round| round.readers.contains(&reader));
        if waits || self.fresh.contains(&reader) {
            return;
        }
        let older = |reader: &Reader| matches!(reader, Reader::Member(from, _) if *from == member);
        self.rounds.iter_mut().for_each(|round| round.readers.retain(|reader| !older(reader)));
        self.rounds.retain(|round| !round.readers.is_empty());
        self.fresh.retain(|reader| !older(reader));
        self.add(reader);
    }

    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// Puts the reads that came since the last round into a new one, to be served at `index`.
    pub(super) fn begin_round(&mut self, index: Index) {
        self.round += 1;
        self.rounds.push_back(Round { number: self.round, index, readers: std::mem::take(&mut self.fresh) });
    }

    /// Leadership was confirmed for the round `number` and all before it: who may read, and from where on.
    pub(super) fn confirm(&mut self, number: u64) -> Vec<(Reader, Index)> {
        let confirmed = self.rounds.partition_point(|round| round.number <= number);
        let rounds = self.rounds.drain(..confirmed);
        rounds.flat_map(|round| round.readers.into_iter().map(move |reader| (reader, round.index))).collect()
    }

    /// Our own that were not served: leadership is lost. Other members notice that themselves.
    pub(super) fn into_lost(self) -> impl Iterator<Item = u64> {
        let readers = self.rounds.into_iter().flat_map(|round| round.readers).chain(self.fresh);
        readers.filter_map(|reader| match reader {
            Reader::Here(id) => Some(id),
            Reader::Member(..) => None,
        })
    }
}

/// A follower's reads: one question at a time.
#[derive(Debug)]
pub(super) struct Forwarded {
    /// The number of the last question.
    number: u64,
    asked: Vec<u64>,
    ticks_since_asked: u32,
    /// Came since.
    fresh: Vec<u64>,
}

impl Forwarded {
    /// `start` is random.
    pub(super) fn new(start: u64) -> Forwarded {
        Forwarded { number: start, asked: Vec::new(), ticks_since_asked: 0, fresh: Vec::new() }
    }

    pub(super) fn add(&mut self, id: u64) {
        self.fresh.push(id);
    }

    /// The number to ask with, if there are reads to ask for and no question is open.
    pub(super) fn ask(&mut self) -> Option<u64> {
        if self.fresh.is_empty() || !self.asked.is_empty() {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        self.asked = std::mem::take(&mut self.fresh);
        self.ticks_since_asked = 0;
        Some(self.number)
    }

    /// The number to ask with once more, if no answer has come for `patience` ticks.
    pub(super) fn tick(&mut self, patience: u32) -> Option<u64> {
        self.ticks_since_asked += 1;
        if self.asked.is_empty() || self.ticks_since_asked < patience {
            return None;
        }
        self.ticks_since_asked = 0;
        Some(self.number)
    }

    /// The leader has answered.
    pub(super) fn answered(&mut self, number: u64, index: Index, out: &mut Vec<ReadState>) {
        if number == self.number {
            out.extend(self.asked.drain(..).map(|id| ReadState { id, index }));
        }
    }

    /// All that were not answered: there is another leader, or none.
    pub(super) fn take(&mut self) -> impl Iterator<Item = u64> {
        std::mem::take(&mut self.asked).into_iter().chain(std::mem::take(&mut self.fresh))
    }
}
