//! Members with a core, a disk that can be slow and a state machine, and a network between them. Every effect leaves a line.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use bramble::raft::{
    Body, ConfState, Config, Core, Effects, Entry, EntryKind, Event, HardState, Index, LogId, MemberId, Message, PersistSeq,
    Restored, Snapshot, Unsynced,
};

pub const ELECTION_TICKS: u32 = 10;
pub const HEARTBEAT_TICKS: u32 = 2;

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub conf: ConfState,
    pub base: LogId,
    pub entries: Vec<Entry>,
}

impl Disk {
    fn write(&mut self, Persist { install, unsynced, .. }: Persist) {
        if let Some(Snapshot { last, conf }) = install {
            (self.base, self.conf, self.entries) = (last, conf, Vec::new());
        }
        let unsynced = unsynced.unwrap_or_default();
        self.hard_state = unsynced.hard_state.unwrap_or(self.hard_state);
        if let Some(first) = unsynced.entries.first() {
            self.entries.retain(|entry| entry.id.index < first.id.index);
        }
        self.entries.extend(unsynced.entries.into_iter().filter(|entry| entry.id.index > self.base.index));
    }
}

/// What has to become durable together, and what may be said then.
#[derive(Default)]
struct Persist {
    seq: PersistSeq,
    install: Option<Snapshot>,
    unsynced: Option<Unsynced>,
    send_then: Vec<Message>,
}

#[derive(Default)]
pub struct Member {
    /// None while it is down.
    pub core: Option<Core>,
    pub disk: Disk,
    /// Given to the WAL and not durable.
    unsynced: VecDeque<Persist>,
    /// The disk has stopped.
    held: bool,
    /// What the state machine holds, and the configuration at its end.
    pub applied: Vec<Entry>,
    conf: ConfState,
    starts: u64,
}

#[derive(Default)]
pub struct Cluster {
    pub members: BTreeMap<u64, Member>,
    pub network: VecDeque<Message>,
    pub cut: BTreeSet<(u64, u64)>,
    pub max_append_bytes: usize,
    pub trace: Vec<String>,
    pub seed: u64,
    /// Reads that were answered: member, id, index.
    pub reads: Vec<(u64, u64, Index)>,
    /// What was sent as a copy of the state, by its last entry.
    copies: BTreeMap<LogId, Vec<Entry>>,
    /// Copies of the state that are wanted: from, to.
    pub snapshots: Vec<(u64, u64)>,
}

impl Cluster {
    pub fn new(seed: u64) -> Cluster {
        Cluster { seed, max_append_bytes: 1 << 20, ..Cluster::default() }
    }

    pub fn add(&mut self, id: u64, disk: Disk) {
        self.members.insert(id, Member { disk, ..Member::default() });
        self.start(id);
    }

    /// Starts a member from its disk.
    pub fn start(&mut self, id: u64) {
        let member = self.members.get_mut(&id).expect("member");
        member.starts += 1;
        member.conf = member.disk.conf.clone();
        member.applied.retain(|entry| entry.id.index <= member.disk.base.index);
        let config = Config {
            id: MemberId(id),
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
            seed: self.seed.wrapping_mul(1000) + member.starts,
            max_append_bytes: self.max_append_bytes,
            max_inflight_bytes: 4096,
            max_uncommitted_bytes: 4096,
        };
        let Disk { hard_state, conf, base, entries } = member.disk.clone();
        match Core::new(config, Restored { hard_state, conf, base, entries }) {
            Ok(core) => member.core = Some(core),
            Err(fault) => self.trace.push(format!("{id}: fault: {fault}")),
        }
        self.settle(id);
    }

    /// Loses what is not durable. `synced` persists that were under way may have reached the disk all the same.
    pub fn crash(&mut self, id: u64, synced: usize) {
        let member = self.members.get_mut(&id).expect("member");
        member.core = None;
        for persist in member.unsynced.drain(..).take(synced) {
            member.disk.write(persist);
        }
        member.held = false;
    }

    pub fn core(&mut self, id: u64) -> Option<&mut Core> {
        self.members.get_mut(&id)?.core.as_mut()
    }

    pub fn step(&mut self, id: u64, event: Event) {
        self.feed(id, event);
        self.settle(id);
    }

    pub fn hold(&mut self, id: u64) {
        self.members.get_mut(&id).expect("member").held = true;
    }

    /// Makes the oldest `count` persists durable.
    pub fn sync(&mut self, id: u64, count: usize) {
        self.finish_persists(id, count);
        self.settle(id);
    }

    fn finish_persists(&mut self, id: u64, count: usize) {
        for _ in 0..count {
            let member = self.members.get_mut(&id).expect("member");
            let Some(mut persist) = member.unsynced.pop_front() else { break };
            if member.core.is_none() {
                break;
            }
            let (seq, then) = (persist.seq, std::mem::take(&mut persist.send_then));
            member.disk.write(persist);
            self.send(then);
            self.feed(id, Event::Persisted(seq));
        }
    }

    pub fn release(&mut self, id: u64) {
        self.members.get_mut(&id).expect("member").held = false;
        self.sync(id, usize::MAX);
    }

    /// The state machine writes a checkpoint of all it has applied; the log keeps what comes after `index`.
    pub fn compact(&mut self, id: u64, index: Index) {
        let member = self.members.get_mut(&id).expect("member");
        let Some(core) = &mut member.core else { return };
        if core.applied() < index || index < member.disk.base.index {
            return;
        }
        // Checkpoint and log end at the same entry here, so the configuration must not have changed after it.
        let later_conf = member.applied.iter().any(|entry| entry.id.index > index && entry.kind == EntryKind::ConfChange);
        if later_conf {
            return;
        }
        core.compact(index);
        member.disk.base = core.base();
        member.disk.conf = member.conf.clone();
        member.disk.entries.retain(|entry| entry.id.index > index);
    }

    /// Delivers the message at `position`; false if there is none.
    pub fn deliver_at(&mut self, position: usize) -> bool {
        let Some(message) = self.network.remove(position) else { return false };
        let to = message.to.0;
        if !self.cut.contains(&(message.from.0, to)) && self.core(to).is_some() {
            self.step(to, Event::Recv(message));
        }
        true
    }

    pub fn deliver_all(&mut self) {
        let mut delivered = 0;
        while self.deliver_at(0) {
            delivered += 1;
            assert!(delivered < 10_000, "members that go on answering each other for ever");
        }
    }

    /// Sends `to` a copy of the state that `from` has checkpointed. It travels as one message.
    pub fn send_snapshot(&mut self, from: u64, to: u64) {
        let source = &self.members[&from];
        let Some(core) = &source.core else { return };
        let (last, term) = (source.disk.base, core.term());
        let covered = |entry: &&Entry| entry.id.index <= last.index;
        self.copies.insert(last, source.applied.iter().filter(covered).cloned().collect());
        let body = Body::Snapshot { last, conf: source.disk.conf.clone() };
        self.send(vec![Message { from: MemberId(from), to: MemberId(to), term, body }]);
        self.step(from, Event::SnapshotDone(MemberId(to)));
    }

    pub fn settle(&mut self, id: u64) {
        while let Some(core) = self.core(id) {
            let effects = core.effects();
            let idle = Effects { seq: effects.seq, ..Effects::default() };
            if effects == idle {
                break;
            }
            self.carry_out(id, effects);
        }
    }

    fn carry_out(&mut self, id: u64, effects: Effects) {
        if let Some(leadership) = effects.leadership {
            let leader = leadership.leader.map_or("none".into(), |leader| leader.to_string());
            self.trace.push(format!("{id}: term {} leader {leader}", leadership.term));
        }
        self.send(effects.send_now);
        if let Some(Snapshot { last, conf }) = &effects.install {
            self.trace.push(format!("{id}: install {last}"));
            let member = self.members.get_mut(&id).expect("member");
            member.applied = self.copies[last].clone();
            member.conf = conf.clone();
        }
        if let Some(unsynced) = &effects.persist {
            self.trace.push(format!("{id}: persist{}", show_unsynced(unsynced)));
        }
        let member = self.members.get_mut(&id).expect("member");
        if effects.persist.is_some() || !effects.send_then.is_empty() {
            let Effects { seq, install, persist: unsynced, send_then, .. } = effects;
            member.unsynced.push_back(Persist { seq, install, unsynced, send_then });
        }
        for entry in effects.commit {
            self.apply(id, entry);
        }
        for read in effects.reads {
            self.trace.push(format!("{id}: read {} at {}", read.id, read.index));
            self.reads.push((id, read.id, read.index));
        }
        self.trace.extend(effects.lost_reads.iter().map(|read| format!("{id}: lost read {read}")));
        self.trace.extend(effects.snapshots.iter().map(|member| format!("{id}: {member} needs a snapshot")));
        if effects.removed {
            self.trace.push(format!("{id}: is removed"));
        }
        self.snapshots.extend(effects.snapshots.iter().map(|member| (id, member.0)));
        if !self.members[&id].held {
            self.finish_persists(id, usize::MAX);
        }
    }

    fn apply(&mut self, id: u64, entry: Entry) {
        self.trace.push(format!("{id}: apply {}", show_entry(&entry)));
        let member = self.members.get_mut(&id).expect("member");
        let before = member.applied.last().map_or(member.disk.base.index, |entry| entry.id.index);
        assert_eq!(before.0 + 1, entry.id.index.0, "member {id} skips an entry");
        let durable = member.disk.entries.contains(&entry);
        assert!(durable, "member {id} applies {} before it is durable", entry.id);
        if entry.kind == EntryKind::ConfChange {
            member.conf = parse_conf(std::str::from_utf8(&entry.data).expect("text"));
            let conf = member.conf.clone();
            let outcome = member.core.as_mut().map_or(Ok(()), |core| core.apply_conf_change(conf));
            self.check(id, outcome);
        }
        let index = entry.id.index;
        self.members.get_mut(&id).expect("member").applied.push(entry);
        self.feed(id, Event::Applied(index));
    }

    fn feed(&mut self, id: u64, event: Event) {
        if let Some(core) = self.core(id) {
            let outcome = core.step(event);
            self.check(id, outcome);
        }
    }

    fn check(&mut self, id: u64, outcome: Result<(), bramble::error::Fault>) {
        if let Err(fault) = outcome {
            self.trace.push(format!("{id}: fault: {fault}"));
            self.crash(id, 0);
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            self.trace.push(format!("{} -> {}: {}", message.from, message.to, show_body(&message)));
            self.network.push_back(message);
        }
    }
}

/// `voters=1,2 learners=3`.
pub fn parse_conf(text: &str) -> ConfState {
    let mut conf = ConfState::default();
    for word in text.split_whitespace() {
        let ids = |list: &str| list.split(',').map(|id| MemberId(id.parse().expect("id"))).collect();
        match word.split_once('=') {
            Some(("voters", list)) => conf.voters = ids(list),
            Some(("learners", list)) => conf.learners = ids(list),
            _ => {}
        }
    }
    conf
}

/// What [`parse_conf`] reads.
pub fn show_conf(conf: &ConfState) -> String {
    let ids = |members: &[MemberId]| members.iter().map(|member| member.0.to_string()).collect::<Vec<_>>().join(",");
    let learners = if conf.learners.is_empty() { String::new() } else { format!(" learners={}", ids(&conf.learners)) };
    format!("voters={}{learners}", ids(&conf.voters))
}

pub fn show_entry(entry: &Entry) -> String {
    let data = String::from_utf8_lossy(&entry.data);
    if data.is_empty() { entry.id.to_string() } else { format!("{}:{data}", entry.id) }
}

pub fn show_entries(entries: &[Entry]) -> String {
    let entries: Vec<String> = entries.iter().map(show_entry).collect();
    format!("[{}]", entries.join(" "))
}

fn show_unsynced(unsynced: &Unsynced) -> String {
    let mut text = String::new();
    if let Some(HardState { term, vote, commit }) = unsynced.hard_state {
        let vote = vote.map_or("none".into(), |vote| vote.to_string());
        write!(text, " term={term} vote={vote} commit={commit}").expect("a string");
    }
    if !unsynced.entries.is_empty() {
        write!(text, " {}", show_entries(&unsynced.entries)).expect("a string");
    }
    text
}

fn show_body(message: &Message) -> String {
    let body = match &message.body {
        Body::PreVote { last, commit } => format!("prevote last={last} commit={commit}"),
        Body::PreVoteResponse { granted, .. } => format!("prevote granted={granted}"),
        Body::Vote { last, forced, commit } => {
            format!("vote last={last} commit={commit}{}", if *forced { " forced" } else { "" })
        }
        Body::VoteResponse { granted, .. } => format!("vote granted={granted}"),
        Body::Append { prev, entries, commit } => format!("append prev={prev} {} commit={commit}", show_entries(entries)),
        Body::Appended { matched } => format!("appended matched={matched}"),
        Body::AppendRejected { prev, hint } => format!("rejected prev={prev} hint={hint}"),
        Body::Heartbeat { commit, round } => format!("heartbeat commit={commit} round={round}"),
        Body::HeartbeatResponse { round } => format!("heartbeat answered round={round}"),
        Body::TimeoutNow => "timeout now".into(),
        Body::Snapshot { last, conf } => format!("snapshot last={last} {}", show_conf(conf)),
        Body::ReadIndex { .. } => "read index".into(),
        Body::ReadIndexResponse { index, .. } => format!("read index={index}"),
        Body::Removed { applied } => format!("removed applied={applied}"),
    };
    format!("term {} {body}", message.term)
}
