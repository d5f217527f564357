//! Linearizable reads without a log entry (thesis §6.4). Reads that come together share a round: the leader notes its commit
//! index, sends the round's number with a heartbeat, and serves them when a majority has answered that number or a later one.
//! Numbers only rise, so that an answer to an older heartbeat can never confirm a younger read.

use std::collections::VecDeque;

use super::core::ReadState;
use super::types::Index;

#[derive(Debug, Default)]
pub(super) struct ReadOnly {
    /// Came since the last round began.
    fresh: Vec<u64>,
    /// The number of the last round.
    round: u64,
    rounds: VecDeque<Round>,
}

#[derive(Debug)]
struct Round {
    number: u64,
    index: Index,
    ids: Vec<u64>,
}

impl ReadOnly {
    pub(super) fn add(&mut self, id: u64) {
        self.fresh.push(id);
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
        self.rounds.push_back(Round { number: self.round, index, ids: std::mem::take(&mut self.fresh) });
    }

    /// Leadership was confirmed for the round `number` and all before it.
    pub(super) fn confirm(&mut self, number: u64, out: &mut Vec<ReadState>) {
        while self.rounds.front().is_some_and(|round| round.number <= number) {
            let round = self.rounds.pop_front().expect("just seen");
            out.extend(round.ids.into_iter().map(|id| ReadState { id, index: round.index }));
        }
    }

    /// All that were not served: leadership is lost.
    pub(super) fn into_lost(self) -> impl Iterator<Item = u64> {
        self.rounds.into_iter().flat_map(|round| round.ids).chain(self.fresh)
    }
}
