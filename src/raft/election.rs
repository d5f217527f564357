//! Time, campaigns and votes (paper §5.2, §5.4.1; thesis §9.6 for prevote, §6.2 for check-quorum, §3.10 for transfer).

use std::cmp::Ordering;

use bytes::Bytes;

use crate::error::Fault;

use super::core::{Core, Leader, Role};
use super::log::footprint;
use super::message::{Body, Message};
use super::progress::Progress;
use super::quorum::{Outcome, Votes, majority};
use super::read_only::ReadOnly;
use super::types::{Entry, EntryKind, Index, LogId, MemberId, Term};

/// A term or index above this is nonsense: no cluster lives that long. It keeps sums from overflowing.
const PLAUSIBLE: u64 = u64::MAX >> 1;

/// Counts ticks towards an election, or as the leader towards the next check of the quorum.
#[derive(Debug)]
pub(super) struct Timer {
    elapsed: u32,
    timeout: u32,
    random: u64,
    election_ticks: u32,
}

impl Timer {
    pub(super) fn new(seed: u64, election_ticks: u32) -> Timer {
        let mut timer = Timer { elapsed: 0, timeout: 0, random: seed, election_ticks };
        timer.restart();
        timer
    }

    /// Starts again with a newly drawn timeout, so that two members that collided do not collide for ever (paper §5.2).
    fn restart(&mut self) {
        self.elapsed = 0;
        self.timeout = self.election_ticks + (self.draw() % u64::from(self.election_ticks)) as u32;
    }

    /// The leader spoke.
    pub(super) fn hear(&mut self) {
        self.elapsed = 0;
    }

    /// SplitMix64.
    pub(super) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

impl Core {
    pub(super) fn tick(&mut self) {
        self.timer.elapsed += 1;
        if self.is_leader() {
            self.tick_leader();
            return;
        }
        self.forward_reads_again();
        if self.timer.elapsed >= self.timer.timeout {
            self.timer.restart();
            if self.may_campaign() {
                self.ask_before_campaign();
            } else {
                // A learner gives up its leader too. The others may know it as a voter by now, and need its vote.
                self.enter(Role::Follower { leader: None });
            }
        }
    }

    fn tick_leader(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.ticks_since_heartbeat += 1;
        if leader.ticks_since_heartbeat >= self.config.heartbeat_ticks {
            self.broadcast_heartbeat();
        }
        if self.timer.elapsed >= self.config.election_ticks {
            self.timer.elapsed = 0;
            self.check_quorum();
        }
    }

    /// Once per election timeout: a leader that no majority answered, or whose disk finished nothing, makes room for another.
    /// A transfer that did not come about by now is given up.
    fn check_quorum(&mut self) {
        let id = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.transferee = None;
        let active = |voter: &&MemberId| **voter == id || leader.progress.get(voter).is_some_and(|progress| progress.active);
        let reachable = self.conf.voters.iter().filter(active).count() >= majority(self.conf.voters.len());
        for progress in leader.progress.values_mut() {
            progress.active = false;
        }
        let oldest = self.log.oldest_outstanding();
        let stalled = oldest.is_some() && oldest == leader.slow_persist;
        leader.slow_persist = oldest;
        if !reachable || (stalled && self.conf.voters.len() > 1) {
            self.become_follower(self.term, None);
        }
    }

    /// Sorts a message by its term (paper §5.1), then by what it says.
    pub(super) fn receive(&mut self, message: Message) -> Result<(), Fault> {
        if message.to != self.config.id || message.from == self.config.id || message.from.0 == 0 || message.term.0 > PLAUSIBLE {
            return Ok(());
        }
        let Message { from, term, body, .. } = message;
        if self.tell_removed(from, &body) {
            return Ok(());
        }
        self.learn_commit(&body);
        match term.cmp(&self.term) {
            Ordering::Less => {
                self.answer_stale(from, body);
                return Ok(());
            }
            Ordering::Greater if !self.follow_newer_term(from, term, &body) => return Ok(()),
            Ordering::Greater | Ordering::Equal => {}
        }
        match body {
            Body::PreVote { last, .. } => self.answer_prevote(from, term, last),
            Body::PreVoteResponse { granted, .. } => self.count_prevote(from, term, granted),
            Body::Vote { last, .. } => self.answer_vote(from, last),
            Body::VoteResponse { granted, .. } => self.count_vote(from, granted),
            Body::Append { prev, entries, commit } => self.answer_append(from, prev, entries, commit)?,
            Body::Appended { matched } => self.count_appended(from, matched),
            Body::AppendRejected { prev, hint } => self.step_back(from, prev, hint),
            Body::Heartbeat { commit, round } => self.answer_heartbeat(from, commit, round)?,
            Body::HeartbeatResponse { round } => self.count_heartbeat(from, round),
            Body::TimeoutNow => self.take_office(from),
            Body::Snapshot { last, conf } => self.answer_snapshot(from, last, conf)?,
            Body::ReadIndex { number } => self.answer_read_index(from, number),
            Body::ReadIndexResponse { number, index } => self.count_read_index(from, number, index),
            Body::Removed { .. } => {}
        }
        Ok(())
    }

    /// Sorts out removal, whatever the terms. A candidate that is no member by a configuration later than its own is told so, and
    /// counts for nothing: it would ask for ever. It is told when it is durable here that the change is committed. One that only we do not know yet is heard like all others, for we may be the ones
    /// that lag (thesis §4.2.3). Says whether the message is dealt with.
    fn tell_removed(&mut self, from: MemberId, body: &Body) -> bool {
        match body {
            Body::PreVote { commit, .. } | Body::Vote { commit, .. } => {
                let removed = !self.conf.voters.is_empty() && !self.conf.contains(from) && commit.index <= self.log.applied();
                if removed {
                    let applied = self.log.applied();
                    self.send_then(from, Body::Removed { applied });
                }
                removed
            }
            Body::Removed { applied } => {
                if !self.is_leader() && !self.removed && *applied >= self.log.committed() && self.conf.is_voter(self.config.id) {
                    self.removed = true;
                    self.out.removed = true;
                    self.enter(Role::Follower { leader: None });
                }
                true
            }
            _ => false,
        }
    }

    /// What a voter or candidate knows to be committed is committed here too, if we hold that very entry (paper §5.3, log
    /// matching). A campaign ends if that puts another configuration in force.
    fn learn_commit(&mut self, body: &Body) {
        let (Body::PreVote { commit, .. }
        | Body::PreVoteResponse { commit, .. }
        | Body::Vote { commit, .. }
        | Body::VoteResponse { commit, .. }) = body
        else {
            return;
        };
        if self.is_leader() || self.log.term_at(commit.index) != Some(commit.term) || !self.log.commit_to(commit.index) {
            return;
        }
        if matches!(self.role, Role::PreCandidate { .. } | Role::Candidate { .. }) && !self.may_campaign() {
            self.enter(Role::Follower { leader: None });
        }
    }

    /// Moves to a newer term where the message calls for it. Says whether the message is to be looked at further.
    fn follow_newer_term(&mut self, from: MemberId, term: Term, body: &Body) -> bool {
        match body {
            Body::PreVote { .. } | Body::PreVoteResponse { granted: true, .. } => true,
            Body::Vote { forced: false, .. } if self.hears_leader() => false,
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot { .. } => {
                self.become_follower(term, Some(from));
                true
            }
            _ => {
                self.become_follower(term, None);
                true
            }
        }
    }

    /// A sender of an older term learns ours, so that a leader or candidate of it steps back (paper §5.1). Answers to what we
    /// asked in an older term are void.
    fn answer_stale(&mut self, from: MemberId, body: Body) {
        let commit = self.log.committed_id();
        match body {
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot { .. } => {
                self.send(from, Body::HeartbeatResponse { round: 0 });
            }
            Body::PreVote { .. } => self.send(from, Body::PreVoteResponse { granted: false, commit }),
            Body::Vote { .. } => self.send(from, Body::VoteResponse { granted: false, commit }),
            _ => {}
        }
    }

    /// A leader lives, as far as we know: an election now would only disturb it (thesis §4.2.3).
    fn hears_leader(&self) -> bool {
        self.leader().is_some() && self.timer.elapsed < self.config.election_ticks
    }

    /// A voter may campaign, but not while a change of the configuration is committed and not applied: it would count votes by
    /// the wrong configuration.
    fn may_campaign(&self) -> bool {
        let mut unapplied = self.log.between(self.log.applied(), self.log.committed());
        self.conf.is_voter(self.config.id) && !self.removed && !unapplied.any(|entry| entry.kind == EntryKind::ConfChange)
    }

    /// A member that is the only voter has nobody to wait for.
    pub(super) fn elect_if_alone(&mut self) {
        if !self.is_leader() && self.conf.voters == [self.config.id] && self.may_campaign() {
            self.campaign(false);
        }
    }

    /// Asks whether a campaign would succeed, before it costs the others their leader.
    fn ask_before_campaign(&mut self) {
        let mut votes = Votes::default();
        votes.cast(self.config.id, true);
        if votes.outcome(&self.conf.voters) == Outcome::Won {
            return self.campaign(false);
        }
        self.enter(Role::PreCandidate { votes });
        let (term, last, commit) = (Term(self.term.0 + 1), self.log.last(), self.log.committed_id());
        for voter in self.other_voters() {
            self.send_then_in(term, voter, Body::PreVote { last, commit });
        }
    }

    fn campaign(&mut self, forced: bool) {
        self.term.0 += 1;
        self.vote = Some(self.config.id);
        self.timer.restart();
        let mut votes = Votes::default();
        votes.cast(self.config.id, true);
        let won = votes.outcome(&self.conf.voters) == Outcome::Won;
        self.enter(Role::Candidate { votes });
        if won {
            return self.become_leader();
        }
        let (last, commit) = (self.log.last(), self.log.committed_id());
        for voter in self.other_voters() {
            self.send_then(voter, Body::Vote { last, forced, commit });
        }
    }

    /// Changes nothing here, not even the timer.
    fn answer_prevote(&mut self, from: MemberId, term: Term, last: LogId) {
        if self.hears_leader() {
            return;
        }
        let granted = term > self.term && last >= self.log.last();
        let answer = if granted { term } else { self.term };
        self.send_then_in(answer, from, Body::PreVoteResponse { granted, commit: self.log.committed_id() });
    }

    fn count_prevote(&mut self, from: MemberId, term: Term, granted: bool) {
        let asked = Term(self.term.0 + 1);
        let Role::PreCandidate { votes } = &mut self.role else { return };
        if granted && term != asked {
            return;
        }
        votes.cast(from, granted);
        match votes.outcome(&self.conf.voters) {
            Outcome::Won => self.campaign(false),
            Outcome::Lost => self.enter(Role::Follower { leader: None }),
            Outcome::Pending => {}
        }
    }

    /// One vote per term, first come first served, and only for a log that has all that ours has (paper §5.2, §5.4.1).
    fn answer_vote(&mut self, from: MemberId, last: LogId) {
        let free = self.vote == Some(from) || (self.vote.is_none() && self.leader().is_none());
        let granted = free && last >= self.log.last();
        if granted {
            self.vote = Some(from);
            self.timer.hear();
        }
        self.send_then(from, Body::VoteResponse { granted, commit: self.log.committed_id() });
    }

    fn count_vote(&mut self, from: MemberId, granted: bool) {
        let Role::Candidate { votes } = &mut self.role else { return };
        votes.cast(from, granted);
        match votes.outcome(&self.conf.voters) {
            Outcome::Won => self.become_leader(),
            Outcome::Lost => self.enter(Role::Follower { leader: None }),
            Outcome::Pending => {}
        }
    }

    /// The leader wants us to lead. No prevote: it lives, and agrees.
    fn take_office(&mut self, from: MemberId) {
        if self.leader() == Some(from) && self.may_campaign() {
            self.campaign(true);
        }
    }

    /// Begins to hand the office to `member`; ignored if that is no other voter. Proposals are refused until it is done or given
    /// up.
    pub(super) fn transfer(&mut self, member: MemberId) {
        let Role::Leader(leader) = &mut self.role else { return };
        if self.conf.is_voter(member) && leader.progress.contains_key(&member) {
            leader.transferee = Some(member);
            self.timer.elapsed = 0;
            self.offer_office(member);
        }
    }

    /// Tells the transferee to campaign once it has all entries.
    pub(super) fn offer_office(&mut self, to: MemberId) {
        let Role::Leader(leader) = &self.role else { return };
        let caught_up = leader.progress.get(&to).is_some_and(|progress| progress.matched == self.log.last().index);
        if leader.transferee == Some(to) && caught_up {
            self.send(to, Body::TimeoutNow);
        }
    }

    pub(super) fn become_follower(&mut self, term: Term, leader: Option<MemberId>) {
        if term > self.term {
            self.term = term;
            self.vote = None;
        }
        self.timer.restart();
        self.enter(Role::Follower { leader });
    }

    /// Appends an entry of its own term at once: through it the older ones commit (paper §5.4.2, §8).
    fn become_leader(&mut self) {
        let last = self.log.last().index;
        let noop = Index(last.0 + 1);
        let uncommitted_bytes = self.log.between(self.log.committed(), last).map(footprint).sum();
        let others = self.conf.members().filter(|&member| member != self.config.id);
        let leader = Leader {
            progress: others.map(|member| (member, Progress::new(last))).collect(),
            reads: ReadOnly::default(),
            noop,
            pending_conf: noop,
            uncommitted_bytes,
            ticks_since_heartbeat: 0,
            transferee: None,
            slow_persist: None,
        };
        self.enter(Role::Leader(Box::new(leader)));
        self.timer.elapsed = 0;
        let id = LogId { term: self.term, index: noop };
        let entry = Entry { id, kind: EntryKind::Normal, data: Bytes::new() };
        self.track_uncommitted(footprint(&entry));
        self.log.push(entry);
    }

    /// Changes the role. Reads that are not served are lost with it: those of a leader, and those for which a follower asked one.
    fn enter(&mut self, role: Role) {
        self.out.lost_reads.extend(self.forwarded.take());
        if let Role::Leader(leader) = std::mem::replace(&mut self.role, role) {
            self.out.lost_reads.extend(leader.reads.into_lost());
        }
    }

    fn other_voters(&self) -> Vec<MemberId> {
        self.conf.voters.iter().copied().filter(|&voter| voter != self.config.id).collect()
    }
}
