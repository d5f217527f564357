//! Entries, commit, heartbeats and reads (paper §5.3, §5.4; thesis §6.4, §10.2.1).

use crate::error::Fault;

use super::core::{Core, Leader, ReadState, Role};
use super::log::{follows, footprint};
use super::message::Body;
use super::progress::{Progress, State};
use super::quorum;
use super::read_only::Reader;
use super::types::{Entry, Index, LogId, MemberId};

// The leader's side.
impl Core {
    /// Sends what has become due since the last call: a round for new reads, then entries and commit indexes. Called once per
    /// batch of events, so that a batch of proposals becomes one message per member.
    pub(super) fn lead(&mut self) {
        if !self.is_leader() {
            return;
        }
        self.begin_read_round();
        let Role::Leader(leader) = &self.role else { return };
        if leader.progress.is_empty() {
            return;
        }
        let members: Vec<MemberId> = leader.progress.keys().copied().collect();
        for member in members {
            self.send_appends(member);
        }
    }

    /// Sends to one member all that its state allows.
    fn send_appends(&mut self, member: MemberId) {
        while let Some(append) = self.next_append(member) {
            self.send(member, append);
        }
    }

    /// The next append for `member`, if one is due.
    fn next_append(&mut self, member: MemberId) -> Option<Body> {
        let commit = self.log.committed();
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else { return None };
        let progress = leader.progress.get_mut(&member)?;
        let room = match &progress.state {
            State::Snapshot | State::Probe { sent: true } => return None,
            State::Probe { sent: false } => true,
            State::Replicate { inflight } => inflight.bytes() < self.config.max_inflight_bytes,
        };
        let probe = matches!(progress.state, State::Probe { .. });
        let has_entries = room && progress.next <= last;
        if !has_entries && !probe && !progress.nudge && progress.told_commit >= commit {
            return None;
        }
        let prev = Index(progress.next.0 - 1);
        let Some(term) = self.log.term_at(prev) else {
            progress.state = State::Snapshot;
            self.out.snapshots.push(member);
            return None;
        };
        let entries = if has_entries { self.log.slice(progress.next, self.config.max_append_bytes) } else { Vec::new() };
        note_sent(progress, &entries, commit);
        Some(Body::Append { prev: LogId { term, index: prev }, entries, commit })
    }

    pub(super) fn broadcast_heartbeat(&mut self) {
        let committed = self.log.committed();
        let Role::Leader(leader) = &mut self.role else { return };
        leader.ticks_since_heartbeat = 0;
        let round = leader.reads.round();
        // A member may hold a tail that is not ours: only what is known to match may be called committed.
        let commit = |progress: &Progress| committed.min(progress.matched);
        let beats: Vec<_> = leader.progress.iter().map(|(&member, progress)| (member, commit(progress))).collect();
        for (member, commit) in beats {
            self.send(member, Body::Heartbeat { commit, round });
        }
    }

    pub(super) fn count_appended(&mut self, from: MemberId, matched: Index) {
        let (base, last) = (self.log.base().index, self.log.last().index);
        let Some(progress) = self.progress_of(from) else { return };
        if matched > last {
            return;
        }
        progress.active = true;
        progress.accepted(matched, base);
        self.commit_by_majority();
        self.offer_office(from);
    }

    /// The member's log does not reach or differs at `prev`. Where the logs may meet is found by term, so that one answer skips a
    /// whole term of either log (paper §5.3, end).
    pub(super) fn step_back(&mut self, from: MemberId, prev: Index, hint: LogId) {
        let meet = self.log.last_within(hint.index, hint.term).index;
        let last = self.log.last().index;
        let Some(progress) = self.progress_of(from) else { return };
        if prev > last {
            return;
        }
        progress.active = true;
        progress.rejected(prev, meet);
    }

    pub(super) fn count_heartbeat(&mut self, from: MemberId, round: u64) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let newest = leader.reads.round();
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        if round > newest {
            return;
        }
        progress.active = true;
        progress.alive(last);
        progress.round = progress.round.max(round);
        self.confirm_reads();
    }

    /// Commits what a majority holds durably, this member included once its own fsync is done; but only by counting an entry of
    /// this term (paper §5.4.2, figure 8).
    pub(super) fn commit_by_majority(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let index = quorum::reached(&self.conf.voters, |voter| self.reached_by(leader, voter));
        if self.log.term_at(index) == Some(self.term) {
            self.commit_to(index);
        }
    }

    fn reached_by(&self, leader: &Leader, voter: MemberId) -> Index {
        if voter == self.config.id {
            return self.log.durable();
        }
        leader.progress.get(&voter).map_or(Index(0), |progress| progress.matched)
    }

    pub(super) fn commit_to(&mut self, index: Index) {
        let before = self.log.committed();
        if !self.log.commit_to(index) {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            let bytes: usize = self.log.between(before, self.log.committed()).map(footprint).sum();
            leader.uncommitted_bytes -= bytes;
        }
    }

    pub(super) fn track_uncommitted(&mut self, bytes: usize) {
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes += bytes;
        }
    }

    /// A new configuration is in force.
    pub(super) fn reconfigure(&mut self) {
        let last = self.log.last().index;
        let id = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return };
        if !self.conf.is_voter(id) {
            return self.become_follower(self.term, None);
        }
        leader.progress.retain(|&member, _| self.conf.contains(member));
        for member in self.conf.members().filter(|&member| member != id) {
            leader.progress.entry(member).or_insert_with(|| Progress::new(last));
        }
        leader.transferee = leader.transferee.filter(|&member| self.conf.is_voter(member));
        self.commit_by_majority();
        self.confirm_reads();
    }

    pub(super) fn progress_of(&mut self, member: MemberId) -> Option<&mut Progress> {
        match &mut self.role {
            Role::Leader(leader) => leader.progress.get_mut(&member),
            _ => None,
        }
    }
}

// Reads.
impl Core {
    /// A leader has to know that it still is one; a follower asks the leader.
    pub(super) fn read_index(&mut self, id: u64) {
        match &mut self.role {
            Role::Leader(leader) => leader.reads.add(Reader::Here(id)),
            Role::Follower { leader: Some(_) } => self.forwarded.add(id),
            _ => self.out.lost_reads.push(id),
        }
    }

    /// Asks the leader once for all reads that came since the last question.
    pub(super) fn forward_reads(&mut self) {
        if let Role::Follower { leader: Some(leader) } = self.role
            && let Some(number) = self.forwarded.ask()
        {
            self.send(leader, Body::ReadIndex { number });
        }
    }

    /// The question or its answer may be lost.
    pub(super) fn forward_reads_again(&mut self) {
        if let Role::Follower { leader: Some(leader) } = self.role
            && let Some(number) = self.forwarded.tick(self.config.heartbeat_ticks)
        {
            self.send(leader, Body::ReadIndex { number });
        }
    }

    /// Another member's reads wait with ours, in a round that begins after they came.
    pub(super) fn answer_read_index(&mut self, from: MemberId, number: u64) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.progress.contains_key(&from) {
            leader.reads.ask(from, number);
        }
    }

    pub(super) fn count_read_index(&mut self, from: MemberId, number: u64, index: Index) {
        if self.leader() == Some(from) {
            self.forwarded.answered(number, index, &mut self.out.reads);
        }
    }

    /// Asks for confirmation of all reads that came since the last round. Before the leader's first entry is committed it does
    /// not know the commit index, and they wait (thesis §6.4).
    fn begin_read_round(&mut self) {
        let committed = self.log.committed();
        let Role::Leader(leader) = &mut self.role else { return };
        if !leader.reads.has_fresh() || committed < leader.noop {
            return;
        }
        leader.reads.begin_round(committed);
        self.confirm_reads();
        if self.conf.voters != [self.config.id] {
            self.broadcast_heartbeat();
        }
    }

    fn confirm_reads(&mut self) {
        let id = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return };
        let newest = leader.reads.round();
        let answered =
            |voter| if voter == id { newest } else { leader.progress.get(&voter).map_or(0, |progress| progress.round) };
        let round = quorum::reached(&self.conf.voters, answered);
        for (reader, index) in leader.reads.confirm(round) {
            match reader {
                Reader::Here(id) => self.out.reads.push(ReadState { id, index }),
                Reader::Member(member, number) => self.send(member, Body::ReadIndexResponse { number, index }),
            }
        }
    }
}

// The follower's side.
impl Core {
    /// Takes over a leader's entries (paper figure 2, AppendEntries).
    pub(super) fn answer_append(&mut self, from: MemberId, prev: LogId, entries: Vec<Entry>, commit: Index) -> Result<(), Fault> {
        let terms_fit = entries.last().map_or(prev, |entry| entry.id).term <= self.term;
        if !terms_fit || !follows(prev, &entries) || !self.heed(from) {
            return Ok(());
        }
        self.log.check_history(prev, &entries)?;
        if prev.index < self.log.committed() {
            // Late or doubled. What is committed equals the leader's log anyway.
            let matched = self.log.committed();
            self.send_then(from, Body::Appended { matched });
        } else if self.log.term_at(prev.index) == Some(prev.term) {
            let matched = Index(prev.index.0 + entries.len() as u64);
            self.log.merge(entries);
            self.commit_to(commit.min(matched));
            self.send_then(from, Body::Appended { matched });
        } else {
            let hint = self.log.last_within(prev.index, prev.term);
            self.send(from, Body::AppendRejected { prev: prev.index, hint });
        }
        Ok(())
    }

    pub(super) fn answer_heartbeat(&mut self, from: MemberId, commit: Index, round: u64) -> Result<(), Fault> {
        if self.heed(from) {
            self.check_memory(commit)?;
            self.commit_to(commit);
            self.send(from, Body::HeartbeatResponse { round });
        }
        Ok(())
    }

    /// A leader's heartbeat calls committed only what this member has acknowledged to it as durable, in this term. If that is not in
    /// our log, our disk has lost it, and perhaps a vote: whatever else we said could undo what is committed.
    fn check_memory(&self, commit: Index) -> Result<(), Fault> {
        let last = self.log.last();
        if commit <= last.index {
            return Ok(());
        }
        Err(Fault::new(format!(
            "raft: this member has acknowledged entries up to {commit}, and its log ends with {last}: it has lost its disk, or was given \
             an older copy. Remove it from the cluster, and add it again with an empty data directory"
        )))
    }

    /// Follows `from`, which speaks as the leader of our term. A term has one leader: a second one is not heeded.
    pub(super) fn heed(&mut self, from: MemberId) -> bool {
        match &mut self.role {
            Role::Leader(_) => return false,
            Role::Follower { leader } if leader.is_some_and(|leader| leader != from) => return false,
            Role::Follower { leader } => *leader = Some(from),
            Role::PreCandidate { .. } | Role::Candidate { .. } => self.become_follower(self.term, Some(from)),
        }
        self.timer.hear();
        self.removed = false;
        true
    }
}

fn note_sent(progress: &mut Progress, entries: &[Entry], commit: Index) {
    progress.told_commit = commit;
    progress.nudge = false;
    match &mut progress.state {
        State::Probe { sent } => *sent = true,
        State::Replicate { inflight } => {
            if let Some(last) = entries.last() {
                inflight.add(last.id.index, entries.iter().map(footprint).sum());
                progress.next = Index(last.id.index.0 + 1);
            }
        }
        State::Snapshot => {}
    }
}
