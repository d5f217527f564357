//! The shell of one member: it does what the room's doc of `raft` asks for, in that order, on the real WAL. In: what happens to it. Out:
//! packets, and answers to clients.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bramble::raft::{
    Body, ConfState, Config, Core, Effects, Entry, EntryKind, Event, HardState, Index, LogId, MemberId, Message, PersistSeq,
    ProposeError, Restored, Snapshot, Unsynced,
};
use bramble::wal::Wal;

use super::coverage::Coverage;
use super::judge::{Judge, Verdict};
use super::log_model::LogModel;
use super::machine::{Checkpoint, Machine, Write, decode_conf, encode_conf};
use super::storage::{Found, Storage, Unwritten};

pub const ELECTION_TICKS: u32 = 10;
pub const HEARTBEAT_TICKS: u32 = 2;
/// Applied entries that a checkpoint waits for.
const CHECKPOINT_EVERY: u64 = 20;

/// What goes from member to member. A copy of the state travels with the message that tells of it.
#[derive(Clone, Debug)]
pub struct Packet {
    pub message: Message,
    pub copy: Option<Arc<Checkpoint>>,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    pub client: usize,
    pub operation: u64,
    /// What was told to any client before this one asked.
    pub floor: u64,
}

/// Those who look on.
#[derive(Default)]
pub struct Watchers {
    pub judge: Judge,
    pub coverage: Coverage,
}

/// What a member wants of the world.
#[derive(Default)]
pub struct Wishes {
    pub packets: Vec<Packet>,
    /// Answered, one way or the other.
    pub answered: Vec<Asker>,
    /// It has learned that it is removed.
    pub removed: bool,
}

/// What has to become durable, in order.
struct Persist {
    seq: PersistSeq,
    install: Option<(Snapshot, Checkpoint)>,
    unsynced: Unsynced,
    send_then: Vec<Message>,
}

/// A member while it runs.
pub struct Member {
    id: u64,
    pub core: Core,
    wal: Wal,
    machine: Machine,
    applied: LogId,
    conf: ConfState,
    /// What the log was given.
    log: LogModel,
    persists: VecDeque<Persist>,
    /// The last that is durable, and the number of the log in use.
    checkpoint: Checkpoint,
    log_number: u64,
    next_log: u64,
    /// A copy that has come, until the core says what becomes of it.
    received: Option<Arc<Checkpoint>>,
    proposed: BTreeMap<u64, (u64, Asker)>,
    next_read: u64,
    reads: BTreeMap<u64, Asker>,
    confirmed: Vec<(Index, Asker)>,
    led: bool,
}

impl Member {
    /// Starts from what is on disk. `durable` is what has to be there.
    pub fn start(id: u64, seed: u64, found: Found, durable: &LogModel, sure: bool) -> Result<Member, String> {
        let Found { checkpoint, wal, hard_state, last, entries } = found;
        let log = LogModel::new(checkpoint.applied, &entries, hard_state);
        if !log.has_all_of(durable) && sure {
            return Err(format!("member {id} starts with {log:?}, but {durable:?} was durable"));
        }
        if log.last() != last {
            return Err(format!("member {id} starts with a log that ends at {last}, and entries up to {}", log.last()));
        }
        let config = Config {
            id: MemberId(id),
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
            seed,
            max_append_bytes: 512,
            max_inflight_bytes: 2048,
            max_uncommitted_bytes: 4096,
        };
        let restored = Restored { hard_state, conf: checkpoint.conf.clone(), base: checkpoint.applied, entries };
        let core = Core::new(config, restored).map_err(|fault| format!("member {id} does not start: {fault}"))?;
        Ok(Member {
            id,
            core,
            wal,
            machine: checkpoint.machine.clone(),
            applied: checkpoint.applied,
            conf: checkpoint.conf.clone(),
            log,
            persists: VecDeque::new(),
            log_number: checkpoint.log,
            next_log: checkpoint.log + 1,
            checkpoint,
            received: None,
            proposed: BTreeMap::new(),
            next_read: 0,
            reads: BTreeMap::new(),
            confirmed: Vec::new(),
            led: false,
        })
    }

    pub fn receive(&mut self, packet: Packet, watch: &mut Watchers) -> Verdict {
        watch.coverage.message(&packet.message, &self.core);
        self.received = packet.copy;
        self.step(Event::Recv(packet.message))
    }

    pub fn step(&mut self, event: Event) -> Verdict {
        self.core.step(event).map_err(|fault| format!("member {} ends: {fault}", self.id))
    }

    pub fn write(&mut self, write: Write, padding: u64, asker: Asker) -> Result<(), ProposeError> {
        let id = self.core.propose(EntryKind::Normal, write.encode(padding))?;
        self.proposed.insert(id.index.0, (id.term.0, asker));
        Ok(())
    }

    pub fn read(&mut self, asker: Asker) -> Verdict {
        let number = self.next_read;
        self.next_read += 1;
        self.reads.insert(number, asker);
        self.step(Event::ReadIndex(number))
    }

    pub fn change_conf(&mut self, conf: &ConfState) -> Result<(), ProposeError> {
        self.core.propose(EntryKind::ConfChange, encode_conf(conf)).map(|_| ())
    }

    /// Does all that the core wants done, until it wants nothing more.
    pub fn turn(&mut self, wishes: &mut Wishes, watch: &mut Watchers) -> Verdict {
        loop {
            let effects = self.core.effects();
            if effects == (Effects { seq: effects.seq, ..Effects::default() }) {
                return self.serve(wishes, watch);
            }
            self.carry_out(effects, wishes, watch)?;
        }
    }

    fn carry_out(&mut self, effects: Effects, wishes: &mut Wishes, watch: &mut Watchers) -> Verdict {
        let Effects { send_now, install, persist, seq, send_then, commit, reads, lost_reads, snapshots, leadership, removed } =
            effects;
        let install = install.map(|snapshot| self.install(snapshot, watch)).transpose()?;
        let unsynced = persist.unwrap_or_default();
        self.log.append(&unsynced);
        for message in &send_now {
            if let Body::Append { prev, entries, .. } = &message.body {
                watch.judge.logged(self.id, *prev, entries)?;
            }
        }
        if leadership.is_some() && self.core.is_leader() {
            watch.judge.elected(self.id, self.core.term().0, &self.log)?;
        }
        if self.led && !self.core.is_leader() {
            watch.coverage.hit("a leader steps down");
        }
        self.led = self.core.is_leader();
        wishes.packets.extend(send_now.into_iter().map(|message| Packet { message, copy: None }));
        let something = install.is_some() || unsynced != Unsynced::default() || !send_then.is_empty();
        if something {
            self.persists.push_back(Persist { seq, install, unsynced, send_then });
        }
        for entry in commit {
            self.apply(&entry, wishes, watch)?;
        }
        for read in reads {
            let asker = self.reads.remove(&read.id).ok_or_else(|| format!("member {}: read {} is no read", self.id, read.id))?;
            self.confirmed.push((read.index, asker));
        }
        for id in lost_reads {
            watch.coverage.hit("reads are lost");
            wishes.answered.extend(self.reads.remove(&id));
        }
        for member in snapshots {
            self.send_copy(member, wishes, watch)?;
        }
        if removed {
            watch.coverage.hit("a member learns that it is removed");
            watch.judge.removed(self.id)?;
            wishes.removed = true;
        }
        Ok(())
    }

    /// The copy is the state from now on; it is durable later.
    fn install(&mut self, snapshot: Snapshot, watch: &mut Watchers) -> Result<(Snapshot, Checkpoint), String> {
        watch.coverage.hit("a copy of the state is installed");
        let copy = self.received.take().ok_or_else(|| format!("member {} installs what never came", self.id))?;
        if (copy.applied, &copy.conf) != (snapshot.last, &snapshot.conf) || &snapshot.conf != self.core.conf() {
            return Err(format!("member {} installs something else than what came", self.id));
        }
        let copy = Checkpoint { log: self.next_log, ..(*copy).clone() };
        self.next_log += 1;
        (self.machine, self.applied, self.conf) = (copy.machine.clone(), copy.applied, copy.conf.clone());
        self.log.restore(copy.applied);
        Ok((snapshot, copy))
    }

    fn apply(&mut self, entry: &Entry, wishes: &mut Wishes, watch: &mut Watchers) -> Verdict {
        if entry.id.index.0 != self.applied.index.0 + 1 {
            return Err(format!("member {} applies {} after {}", self.id, entry.id, self.applied));
        }
        let write = self.machine.apply(entry);
        watch.judge.applied(self.id, self.core.term().0, entry, write, &self.machine)?;
        self.applied = entry.id;
        if entry.kind == EntryKind::ConfChange {
            self.conf = decode_conf(&entry.data).ok_or("a configuration that nobody can read")?;
            let changed = self.core.apply_conf_change(self.conf.clone());
            changed.map_err(|fault| format!("member {} ends: {fault}", self.id))?;
        }
        self.step(Event::Applied(entry.id.index))?;
        if let Some((term, asker)) = self.proposed.remove(&entry.id.index.0) {
            if term == entry.id.term.0 {
                watch.judge.acknowledge(asker.operation, self.machine.revision, asker.floor)?;
            }
            wishes.answered.push(asker);
        }
        Ok(())
    }

    fn serve(&mut self, wishes: &mut Wishes, watch: &mut Watchers) -> Verdict {
        let applied = self.applied.index;
        for (_, asker) in self.confirmed.extract_if(.., |(index, _)| *index <= applied) {
            watch.judge.read(self.id, &self.machine, asker.floor)?;
            wishes.answered.push(asker);
        }
        Ok(())
    }

    fn send_copy(&mut self, to: MemberId, wishes: &mut Wishes, watch: &mut Watchers) -> Verdict {
        watch.coverage.hit("a copy of the state is sent");
        let copy = Arc::new(self.checkpoint.clone());
        let body = Body::Snapshot { last: copy.applied, conf: copy.conf.clone() };
        let message = Message { from: MemberId(self.id), to, term: self.core.term(), body };
        wishes.packets.push(Packet { message, copy: Some(copy) });
        self.step(Event::SnapshotDone(to))
    }

    /// What waits first is messages alone: everything before them is durable.
    pub fn next_is_free(&self) -> bool {
        let free = |persist: &Persist| persist.install.is_none() && persist.unsynced == Unsynced::default();
        self.persists.front().is_some_and(free)
    }

    pub fn wants_disk(&self) -> bool {
        !self.persists.is_empty()
    }

    /// Makes the oldest of what waits durable; `durable` remembers what is.
    pub fn persist(
        &mut self,
        storage: &Storage,
        durable: &mut LogModel,
        wishes: &mut Wishes,
        watch: &mut Watchers,
    ) -> Result<Verdict, Unwritten> {
        let Some(Persist { install, unsynced, .. }) = self.persists.front_mut() else { return Ok(Ok(())) };
        if let Some((snapshot, copy)) = install {
            let hard_state = unsynced.hard_state.unwrap_or(durable.hard_state);
            self.wal = storage.install(copy, snapshot, hard_state, self.log_number)?;
            self.log_number = copy.log;
            durable.restore(snapshot.last);
            durable.hard_state = HardState { commit: hard_state.commit.min(snapshot.last.index), ..hard_state };
            self.checkpoint = copy.clone();
            *install = None;
        }
        storage.append(&mut self.wal, unsynced)?;
        let before = durable.append(unsynced);
        let verdict = watch.judge.logged(self.id, before, &unsynced.entries);
        durable.hard_state.commit = durable.hard_state.commit.min(durable.last().index);
        let Some(Persist { seq, send_then, .. }) = self.persists.pop_front() else { return Ok(Ok(())) };
        wishes.packets.extend(send_then.into_iter().map(|message| Packet { message, copy: None }));
        Ok(verdict.and_then(|()| self.step(Event::Persisted(seq))))
    }

    /// Writes a checkpoint if one is due, and lets the log go of what it covers, but for the last `keep` entries. A copy that waits to
    /// be installed comes first.
    pub fn checkpoint(
        &mut self,
        storage: &Storage,
        durable: &mut LogModel,
        keep: u64,
        coverage: &mut Coverage,
    ) -> Result<(), Unwritten> {
        let due = self.applied.index.0 >= self.checkpoint.applied.index.0 + CHECKPOINT_EVERY;
        if !due || self.persists.iter().any(|persist| persist.install.is_some()) {
            return Ok(());
        }
        let checkpoint =
            Checkpoint { applied: self.applied, conf: self.conf.clone(), machine: self.machine.clone(), log: self.log_number };
        storage.put(&checkpoint)?;
        coverage.hit("a checkpoint is written");
        self.wal.release(checkpoint.applied.index);
        self.core.compact(Index(checkpoint.applied.index.0.saturating_sub(keep)).max(self.core.base().index));
        self.log.compact(checkpoint.applied);
        durable.compact(checkpoint.applied);
        self.checkpoint = checkpoint;
        Ok(())
    }

    pub fn applied(&self) -> LogId {
        self.applied
    }

    /// What its log was given.
    pub fn log(&self) -> &LogModel {
        &self.log
    }

    /// How much it holds: entries in memory, persists that wait, and messages that wait with them.
    pub fn load(&self) -> (u64, u64, u64) {
        let entries = self.core.last().index.0 - self.core.base().index.0;
        let messages = self.persists.iter().map(|persist| persist.send_then.len() as u64).sum();
        (entries, self.persists.len() as u64, messages)
    }
}
