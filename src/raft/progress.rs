//! What a leader knows of one other member's log, and how much it may send.

use std::collections::VecDeque;

use super::types::Index;

/// A member as the leader sees it. Always matched < next.
#[derive(Debug)]
pub(super) struct Progress {
    /// The member's log is durable and equal to ours up to here.
    pub(super) matched: Index,
    /// The next entry to send.
    pub(super) next: Index,
    pub(super) state: State,
    /// The latest read round that it has acknowledged.
    pub(super) round: u64,
    /// It has answered since the last check of the quorum.
    pub(super) active: bool,
    /// The commit index that it was told last.
    pub(super) told_commit: Index,
    /// Send an append even if it is empty: entries may have been lost on the way.
    pub(super) nudge: bool,
}

#[derive(Debug)]
pub(super) enum State {
    /// We do not know where the logs meet: one append at a time, then wait for the answer or the next heartbeat's.
    Probe { sent: bool },
    /// The logs met: appends are pipelined, up to a number of bytes in flight.
    Replicate { inflight: Inflight },
    /// What it needs next is compacted: it waits for a copy of the state.
    Snapshot,
}

impl Progress {
    pub(super) fn new(last: Index) -> Progress {
        Progress {
            matched: Index(0),
            next: Index(last.0 + 1),
            state: State::Probe { sent: false },
            round: 0,
            active: true,
            told_commit: Index(0),
            nudge: false,
        }
    }

    /// The member holds everything up to `index`. Our log begins behind `base`: a member that waits for a copy of the state goes on
    /// once it has got that far, by the copy or otherwise.
    pub(super) fn accepted(&mut self, index: Index, base: Index) {
        self.matched = self.matched.max(index);
        self.next = self.next.max(Index(self.matched.0 + 1));
        match &mut self.state {
            State::Replicate { inflight } => inflight.free_to(index),
            State::Probe { .. } => self.replicate(),
            State::Snapshot if self.matched >= base => self.replicate(),
            State::Snapshot => {}
        }
    }

    /// The member has no entry like ours at `prev`; `meet` is where the logs may meet. Says whether that is news.
    pub(super) fn rejected(&mut self, prev: Index, meet: Index) -> bool {
        match self.state {
            State::Snapshot => return false,
            State::Replicate { .. } if prev <= self.matched => return false,
            State::Probe { .. } if prev.0 + 1 != self.next.0 => return false,
            State::Replicate { .. } | State::Probe { .. } => {}
        }
        let next = Index(prev.0.min(meet.0 + 1).max(self.matched.0 + 1));
        // With nothing lower to try, the answer is old, or the member has lost what it acknowledged: it is asked again when it answers
        // a heartbeat, and not as fast as it refuses.
        let wait = next == self.next;
        self.next = next;
        self.state = State::Probe { sent: wait };
        true
    }

    /// It answered a heartbeat: whatever was sent before may be lost.
    pub(super) fn alive(&mut self, last: Index) {
        match &mut self.state {
            State::Probe { sent } => *sent = false,
            State::Replicate { .. } => self.nudge |= self.matched < last,
            State::Snapshot => {}
        }
    }

    /// A copy of the state is sent there, or failed to be. The member's answer is awaited until it has answered a heartbeat.
    pub(super) fn snapshot_done(&mut self) {
        if let State::Snapshot = self.state {
            self.next = Index(self.matched.0 + 1);
            self.state = State::Probe { sent: true };
        }
    }

    fn replicate(&mut self) {
        self.next = Index(self.matched.0 + 1);
        self.state = State::Replicate { inflight: Inflight::default() };
    }
}

/// Appends that were sent and not answered.
#[derive(Debug, Default)]
pub(super) struct Inflight {
    /// The last index of each, and its bytes.
    appends: VecDeque<(Index, usize)>,
    bytes: usize,
}

impl Inflight {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, last: Index, bytes: usize) {
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn free_to(&mut self, index: Index) {
        while let Some(&(last, bytes)) = self.appends.front()
            && last <= index
        {
            self.bytes -= bytes;
            self.appends.pop_front();
        }
    }
}
