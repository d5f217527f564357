//! What was really met: each kind of fault, and each kind of message in each situation that the core tells apart.

use std::collections::BTreeMap;
use std::fmt;

use bramble::raft::{Body, Core, Message};

#[derive(Clone, Default)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    pub fn hit(&mut self, what: &str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &str, times: u64) {
        match self.0.get_mut(what) {
            Some(count) => *count += times,
            None => drop(self.0.insert(what.to_owned(), times)),
        }
    }

    /// The highest value, not the sum.
    pub fn most(&mut self, what: &str, value: u64) {
        let most = self.0.entry(format!("most: {what}")).or_default();
        *most = value.max(*most);
    }

    /// A message arrives at a core.
    pub fn message(&mut self, message: &Message, core: &Core) {
        let term = match message.term.cmp(&core.term()) {
            std::cmp::Ordering::Less => "older",
            std::cmp::Ordering::Equal => "same",
            std::cmp::Ordering::Greater => "newer",
        };
        let role = match core.leader() {
            _ if core.is_leader() => "leader",
            Some(_) => "follower",
            None => "leaderless",
        };
        self.hit(&format!("{} of {term} term at {role}", kind(&message.body)));
    }

    pub fn merge(&mut self, other: &Coverage) {
        for (what, &times) in &other.0 {
            let count = self.0.entry(what.clone()).or_default();
            *count = if what.starts_with("most: ") { times.max(*count) } else { *count + times };
        }
    }

    /// Of these, what never happened.
    pub fn missing<'a>(&self, wanted: &[&'a str]) -> Vec<&'a str> {
        wanted.iter().copied().filter(|what| !self.0.contains_key(*what)).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, count)| writeln!(f, "{count:>12}  {what}"))
    }
}

fn kind(body: &Body) -> &'static str {
    match body {
        Body::PreVote { .. } => "prevote",
        Body::PreVoteResponse { granted: true, .. } => "prevote granted",
        Body::PreVoteResponse { granted: false, .. } => "prevote refused",
        Body::Vote { forced: true, .. } => "forced vote",
        Body::Vote { forced: false, .. } => "vote",
        Body::VoteResponse { granted: true, .. } => "vote granted",
        Body::VoteResponse { granted: false, .. } => "vote refused",
        Body::Append { .. } => "append",
        Body::Appended { .. } => "appended",
        Body::AppendRejected { .. } => "append rejected",
        Body::Heartbeat { .. } => "heartbeat",
        Body::HeartbeatResponse { .. } => "heartbeat answer",
        Body::TimeoutNow => "timeout now",
        Body::Snapshot { .. } => "snapshot",
        Body::ReadIndex { .. } => "read index",
        Body::ReadIndexResponse { .. } => "read index answer",
        Body::Removed { .. } => "removed",
    }
}

/// Everything that a thousand runs have to meet.
pub const WANTED: &[&str] = &[
    "a message is lost",
    "a message is doubled",
    "a message is late",
    "a link is cut one way",
    "a link is cut both ways",
    "a member is cut off",
    "power fails",
    "power fails in the middle of a write",
    "a process is killed",
    "a sync fails",
    "the disk is full",
    "the disk stands still",
    "the disk is slow",
    "a process stands still",
    "a clock runs fast",
    "a clock runs slow",
    "a clock jumps",
    "a disk is wiped",
    "a learner is added",
    "a learner is promoted",
    "a voter is added",
    "a voter is demoted",
    "a member is removed",
    "the leader is removed",
    "a transfer is asked for",
    "a checkpoint is written",
    "a copy of the state is sent",
    "a copy of the state is installed",
    "reads are lost",
    "a proposal is refused",
    "a leader steps down",
    "a member learns that it is removed",
    "prevote of newer term at leader",
    "prevote of newer term at follower",
    "prevote of newer term at leaderless",
    "prevote of same term at leaderless",
    "prevote of older term at leader",
    "prevote granted of newer term at leaderless",
    "prevote refused of newer term at leaderless",
    "prevote refused of same term at leaderless",
    "vote of newer term at leaderless",
    "vote of newer term at follower",
    "vote of newer term at leader",
    "vote of same term at leaderless",
    "vote of older term at leaderless",
    "forced vote of newer term at leader",
    "forced vote of newer term at follower",
    "vote granted of same term at leaderless",
    "vote granted of same term at leader",
    "vote granted of older term at follower",
    "vote refused of same term at leaderless",
    "append of same term at follower",
    "append of same term at leaderless",
    "append of newer term at follower",
    "append of newer term at leader",
    "append of older term at leaderless",
    "append of older term at leader",
    "append of older term at follower",
    "appended of same term at leader",
    "appended of older term at leader",
    "append rejected of same term at leader",
    "heartbeat of same term at follower",
    "heartbeat of newer term at leader",
    "heartbeat of older term at leader",
    "heartbeat of older term at follower",
    "heartbeat answer of same term at leader",
    "heartbeat answer of newer term at leader",
    "timeout now of same term at follower",
    "snapshot of same term at follower",
    "snapshot of older term at follower",
    "read index of same term at leader",
    "read index answer of same term at follower",
    "read index answer of older term at follower",
    "removed of same term at leaderless",
];
