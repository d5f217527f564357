//! The core: its state, and its door. Elections live in `election.rs`, entries and heartbeats in `replication.rs`.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::Fault;

use super::election::Timer;
use super::log::{Log, footprint};
use super::message::{Body, Message};
use super::progress::Progress;
use super::quorum::Votes;
use super::read_only::{Forwarded, ReadOnly};
use super::types::{ConfState, Entry, EntryKind, HardState, Index, LogId, MemberId, Term, Unsynced};

/// What a core needs to know once.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member.
    pub id: MemberId,
    /// Ticks without a leader's word until a campaign; each wait is drawn from one to two times this.
    pub election_ticks: u32,
    /// Ticks between a leader's heartbeats. Less than `election_ticks`.
    pub heartbeat_ticks: u32,
    /// Where the election timeouts' random numbers start. Different on each member and at each start.
    pub seed: u64,
    /// Bytes of entries in one append message; a larger entry travels alone.
    pub max_append_bytes: usize,
    /// Bytes of entries on their way to one member.
    pub max_inflight_bytes: usize,
    /// Bytes of entries that a leader holds uncommitted; a larger one is taken when nothing else waits.
    pub max_uncommitted_bytes: usize,
}

/// What a member knows when it starts. All of it is durable.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// From the WAL; the default on a first start.
    pub hard_state: HardState,
    /// The configuration in force at `base`.
    pub conf: ConfState,
    /// The last entry that the checkpoint covers: what is applied.
    pub base: LogId,
    /// The entries after `base`, from the WAL.
    pub entries: Vec<Entry>,
}

/// What happens to a core.
#[derive(Clone, Debug)]
pub enum Event {
    /// One unit of time has passed.
    Tick,
    /// A message came.
    Recv(Message),
    /// A linearizable read; the number comes back in [`Effects::reads`] or [`Effects::lost_reads`].
    ReadIndex(u64),
    /// Everything handed out for persisting up to and including this is durable.
    Persisted(PersistSeq),
    /// The state machine has applied everything up to this index.
    Applied(Index),
    /// A copy of the state, asked for in [`Effects::snapshots`], is sent, or it failed. What the member has is told by itself.
    SnapshotDone(MemberId),
    /// Hand the leader's office to a voter (thesis §3.10).
    Transfer(MemberId),
}

/// Numbers what was handed out for persisting, from 1 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersistSeq(pub u64);

/// What to do next; the order is in the room's doc.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Messages that may leave at once.
    pub send_now: Vec<Message>,
    /// A copy of the state that takes the place of state and log, before anything else here.
    pub install: Option<Snapshot>,
    /// What has to become durable; with an `install`, behind it.
    pub persist: Option<Unsynced>,
    /// The number of the last persist handed out, which is this one's if there is one.
    pub seq: PersistSeq,
    /// Messages that may leave when everything up to `seq` is durable.
    pub send_then: Vec<Message>,
    /// Entries to apply, in index order. They are committed, and durable on this member.
    pub commit: Vec<Entry>,
    /// Reads that are linearizable once their index is applied.
    pub reads: Vec<ReadState>,
    /// Reads that this member cannot answer: it knows no leader, or there is another now.
    pub lost_reads: Vec<u64>,
    /// Members that need a copy of the state, because the log no longer holds what they lack. Each is named once; answer with
    /// [`Event::SnapshotDone`].
    pub snapshots: Vec<MemberId>,
    /// A member that has applied more than is committed here says that this one is removed. It campaigns no more, unless a leader
    /// speaks to it.
    pub removed: bool,
    /// Term or leader, if one of them changed.
    pub leadership: Option<Leadership>,
}

/// A copy of the state: it is on disk, and not yet in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry that it covers.
    pub last: LogId,
    /// The configuration in force there.
    pub conf: ConfState,
}

/// A read and when it may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The number from [`Event::ReadIndex`].
    pub id: u64,
    /// Serve it when this is applied.
    pub index: Index,
}

/// Who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// This member's term.
    pub term: Term,
    /// The leader of that term, if it is known.
    pub leader: Option<MemberId>,
}

/// Why a proposal was not taken. Nothing has happened then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// Ask the leader, if it is known.
    NotLeader {
        /// The leader.
        leader: Option<MemberId>,
    },
    /// Too many bytes wait to be committed.
    TooMuchUncommitted,
    /// The leader's office is being handed on.
    Transferring,
    /// An earlier change of the configuration, or this leader's first entry, is not applied yet.
    ConfChangePending,
}

/// Raft, for one member. See the room's doc.
#[derive(Debug)]
pub struct Core {
    pub(super) config: Config,
    pub(super) term: Term,
    pub(super) vote: Option<MemberId>,
    pub(super) role: Role,
    pub(super) conf: ConfState,
    pub(super) log: Log,
    pub(super) timer: Timer,
    /// Reads for which the leader is asked.
    pub(super) forwarded: Forwarded,
    /// Others have it that this member is removed.
    pub(super) removed: bool,
    /// The news that a change of the configuration is committed has to become durable: see [`Core::take_unsynced`].
    commit_matters: bool,
    /// As last handed out for persisting, and by which persist.
    handed_hard_state: HardState,
    hard_state_seq: PersistSeq,
    /// As last handed out.
    announced: Leadership,
    pub(super) out: Effects,
}

/// What a member is, with what it knows only as that.
#[derive(Debug)]
pub(super) enum Role {
    Follower { leader: Option<MemberId> },
    PreCandidate { votes: Votes },
    Candidate { votes: Votes },
    Leader(Box<Leader>),
}

#[derive(Debug)]
pub(super) struct Leader {
    /// All other members.
    pub(super) progress: BTreeMap<MemberId, Progress>,
    pub(super) reads: ReadOnly,
    /// This leader's first entry: no read is served and no configuration changes before it is committed.
    pub(super) noop: Index,
    /// No change of the configuration is taken before this index is applied. At first it is `noop`: an older leader's change
    /// may be in the log, and this leader must have committed in its term (the 2015 correction to thesis §4.1).
    pub(super) pending_conf: Index,
    pub(super) uncommitted_bytes: usize,
    pub(super) ticks_since_heartbeat: u32,
    /// Whom the office goes to.
    pub(super) transferee: Option<MemberId>,
    /// The oldest persist in flight at the last check of the quorum.
    pub(super) slow_persist: Option<PersistSeq>,
}

impl Core {
    /// A member that starts as a follower. The fault says what does not fit together in what was restored.
    pub fn new(config: Config, restored: Restored) -> Result<Core, Fault> {
        check_config(&config)?;
        let Restored { hard_state, conf, base, entries } = restored;
        conf.check()?;
        let last = entries.last().map_or(base, |entry| entry.id);
        if last.term > hard_state.term {
            return Err(Fault::new(format!(
                "raft: the log ends with {last}, but the WAL's last hard state is of term {}: the WAL has lost its end",
                hard_state.term
            )));
        }
        let log = Log::new(base, entries, hard_state.commit)?;
        let mut timer = Timer::new(config.seed ^ config.id.0.rotate_left(32), config.election_ticks);
        let forwarded = Forwarded::new(timer.draw());
        Ok(Core {
            term: hard_state.term,
            vote: hard_state.vote,
            role: Role::Follower { leader: None },
            conf,
            log,
            timer,
            forwarded,
            removed: false,
            commit_matters: false,
            handed_hard_state: hard_state,
            hard_state_seq: PersistSeq(0),
            announced: Leadership { term: hard_state.term, leader: None },
            out: Effects::default(),
            config,
        })
    }

    /// Takes in one event. What follows from it waits in [`Core::effects`]. A fault means that going on could lose or change
    /// what is committed.
    pub fn step(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Tick => self.tick(),
            Event::Recv(message) => self.receive(message)?,
            Event::ReadIndex(id) => self.read_index(id),
            Event::Persisted(seq) => self.persisted(seq)?,
            Event::Applied(index) => self.log.applied_to(index)?,
            Event::SnapshotDone(member) => self.snapshot_done(member),
            Event::Transfer(member) => self.transfer(member),
        }
        self.elect_if_alone();
        Ok(())
    }

    /// Appends an entry as the leader, and says where it stands. It may still be lost: it counts when it comes back in
    /// [`Effects::commit`] with the same term.
    pub fn propose(&mut self, kind: EntryKind, data: Bytes) -> Result<LogId, ProposeError> {
        let Role::Leader(leader) = &mut self.role else {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        };
        if leader.transferee.is_some() {
            return Err(ProposeError::Transferring);
        }
        if kind == EntryKind::ConfChange && leader.pending_conf > self.log.applied() {
            return Err(ProposeError::ConfChangePending);
        }
        let id = LogId { term: self.term, index: Index(self.log.last().index.0 + 1) };
        let entry = Entry { id, kind, data };
        let bytes = footprint(&entry);
        if leader.uncommitted_bytes > 0 && leader.uncommitted_bytes + bytes > self.config.max_uncommitted_bytes {
            return Err(ProposeError::TooMuchUncommitted);
        }
        leader.uncommitted_bytes += bytes;
        if kind == EntryKind::ConfChange {
            leader.pending_conf = id.index;
        }
        self.log.push(entry);
        Ok(id)
    }

    /// Everything that has to be done since the last call. Cheap when that is nothing.
    pub fn effects(&mut self) -> Effects {
        self.lead();
        self.forward_reads();
        self.out.persist = self.take_unsynced();
        self.out.seq = self.log.handed_seq();
        if self.log.has_unemitted() {
            self.out.commit = self.log.take_committed();
        }
        let leadership = Leadership { term: self.term, leader: self.leader() };
        if leadership != self.announced {
            self.announced = leadership;
            self.out.leadership = Some(leadership);
        }
        std::mem::take(&mut self.out)
    }

    /// The configuration after a [`EntryKind::ConfChange`] entry was applied, be it changed or not; call it before
    /// [`Event::Applied`] of that entry. At most one voter may differ.
    pub fn apply_conf_change(&mut self, conf: ConfState) -> Result<(), Fault> {
        self.conf.check_step_to(&conf)?;
        self.conf = conf;
        self.commit_matters |= self.handed_hard_state.commit <= self.log.applied();
        self.reconfigure();
        self.elect_if_alone();
        Ok(())
    }

    /// Forgets entries up to `up_to`, which a checkpoint covers: they must be applied. Members that still lack them will need a
    /// copy of the state, so the caller leaves some behind for slow ones.
    pub fn compact(&mut self, up_to: Index) {
        self.log.compact(up_to);
    }

    /// This member.
    pub fn id(&self) -> MemberId {
        self.config.id
    }

    /// This member's term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The leader of this term, if it is known.
    pub fn leader(&self) -> Option<MemberId> {
        match &self.role {
            Role::Follower { leader } => *leader,
            Role::PreCandidate { .. } | Role::Candidate { .. } => None,
            Role::Leader(_) => Some(self.config.id),
        }
    }

    /// Whether this member leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The highest index known committed.
    pub fn committed(&self) -> Index {
        self.log.committed()
    }

    /// The highest index reported as applied.
    pub fn applied(&self) -> Index {
        self.log.applied()
    }

    /// The end of the log.
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// The entry before the first one in memory.
    pub fn base(&self) -> LogId {
        self.log.base()
    }

    /// The configuration in force.
    pub fn conf(&self) -> &ConfState {
        &self.conf
    }

    /// As the leader: every other member, and up to where its log is known to equal ours. Otherwise nothing.
    pub fn matched(&self) -> impl Iterator<Item = (MemberId, Index)> + '_ {
        let progress = match &self.role {
            Role::Leader(leader) => Some(&leader.progress),
            _ => None,
        };
        progress.into_iter().flatten().map(|(&member, progress)| (member, progress.matched))
    }

    /// Sends as soon as our term and vote are durable, which they mostly are.
    pub(super) fn send(&mut self, to: MemberId, body: Body) {
        let message = Message { from: self.config.id, to, term: self.term, body };
        if self.term_is_durable() { self.out.send_now.push(message) } else { self.out.send_then.push(message) }
    }

    /// Sends when everything so far is durable: the message vouches for it.
    pub(super) fn send_then(&mut self, to: MemberId, body: Body) {
        self.send_then_in(self.term, to, body);
    }

    /// [`Core::send_then`] with another term than ours: prevotes.
    pub(super) fn send_then_in(&mut self, term: Term, to: MemberId, body: Body) {
        self.out.send_then.push(Message { from: self.config.id, to, term, body });
    }

    fn term_is_durable(&self) -> bool {
        let handed = &self.handed_hard_state;
        (handed.term, handed.vote) == (self.term, self.vote) && self.hard_state_seq <= self.log.durable_seq()
    }

    /// A commit index alone is not worth an fsync. With entries it is always written: whoever holds an entry durably then knows
    /// durably that the configuration change before it was committed, and will not campaign without it. And it is written when a change
    /// is applied: a member that was told of its removal leaves, and nobody may forget then why its vote is not needed.
    fn take_unsynced(&mut self) -> Option<Unsynced> {
        let now = HardState { term: self.term, vote: self.vote, commit: self.log.committed() };
        let voted = (now.term, now.vote) != (self.handed_hard_state.term, self.handed_hard_state.vote);
        if !voted && !self.log.has_unhanded() && self.out.install.is_none() && !self.commit_matters {
            return None;
        }
        self.commit_matters = false;
        let entries = self.log.take_unhanded();
        let seq = self.log.begin_persist();
        if voted {
            self.hard_state_seq = seq;
        }
        let changed = now != self.handed_hard_state;
        self.handed_hard_state = now;
        Some(Unsynced { hard_state: changed.then_some(now), entries })
    }

    fn persisted(&mut self, seq: PersistSeq) -> Result<(), Fault> {
        self.log.persisted(seq)?;
        self.commit_by_majority();
        Ok(())
    }
}

fn check_config(config: &Config) -> Result<(), Fault> {
    let wrong = if config.id.0 == 0 {
        "the member id is 0"
    } else if config.heartbeat_ticks == 0 || config.election_ticks <= config.heartbeat_ticks {
        "an election timeout has to be longer than the heartbeat interval, and both longer than nothing"
    } else {
        return Ok(());
    };
    Err(Fault::new(format!("raft: {wrong}: {config:?}")))
}
