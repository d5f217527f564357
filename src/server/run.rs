//! The loop. In: what the inbox brings, and time. Out: entries to the WAL, committed entries to the state machine, events to the
//! hub, replies to clients, jobs to the checkpoint thread.
//!
//! Always: nothing here waits for the disk. Proposals that arrive while the WAL syncs go with its next sync, all of them.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use super::apply::Applier;
use super::checkpoint::{Checkpointer, Job, LeaseChanges, Outcome, Snapshot};
use super::command::Command;
use super::compactor::Compactor;
use super::handle::Response;
use super::inbox::{Ask, Proposal, Queues, Reply};
use super::leavings::Leavings;
use super::relaxed::{Class, RelaxedEnd};
use super::shared::Shared;
use crate::error::{Error, Fault};
use crate::host;
use crate::metrics;
use crate::mvcc::Answer;
use crate::pb::etcdserverpb::{CompactionRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};
use crate::raft::{Core, Effects, Entry, EntryKind, Event, Index, LogId, PersistSeq, ProposeError, Term, Unsynced};
use crate::wal;

/// Entries applied per hold of the store: readers wait for one such run at the most.
const RUN_ENTRIES: usize = 128;
/// Leases revoked per tick; etcd's number.
const REVOKES_PER_TICK: usize = 500;
const LEASE_CHECKPOINTS_PER_TICK: usize = 1000;
/// Proposals that may be in the log and not yet applied, beside the core's limit on their bytes: each has a client that waits, and
/// what is kept for it is larger than a small entry.
const MAX_PENDING: usize = 20_000;
/// Memory for so many pending proposals is kept from one burst to the next.
const KEPT_PENDING: usize = 1024;
/// How soon a checkpoint that found no room is tried again.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(2);
/// How soon compacted rows that a reader still needs are looked at again, at first and at last.
const BLOCKED_RETRY: Duration = Duration::from_millis(200);
const BLOCKED_RETRY_MAX: Duration = Duration::from_secs(10);
/// A tick that comes later than this was no tick: the process stood still, and what clients have sent meanwhile comes first.
const STANDSTILL: Duration = Duration::from_secs(2);

/// What the loop needs to know of the configuration.
pub(super) struct Settings {
    pub tick: Duration,
    /// How long a proposal may take before its client is told that its outcome is unknown.
    pub request_timeout: Duration,
    pub thresholds: Thresholds,
    pub warning_apply: Duration,
    pub election_timeout: Duration,
    /// How long the threads that wait for the disk may take when the process ends.
    pub leave_wait: Duration,
    /// What may be acknowledged before it is synced, and when it is at the latest.
    pub relaxed: Option<(Class, Duration)>,
}

/// A checkpoint is written when one of these is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    /// Bytes of rows that are only in memory.
    pub recent_bytes: u64,
    /// Bytes of the WAL.
    pub wal_bytes: u64,
    /// Log entries.
    pub entries: u64,
    /// Time, if anything was applied.
    pub interval: Duration,
}

pub(super) struct Loop {
    shared: Arc<Shared>,
    settings: Settings,
    core: Core,
    wal: wal::Writer,
    checkpointer: Checkpointer,
    applier: Applier,
    compactor: Compactor,
    /// Proposals in the log and not yet applied, by their place in it.
    pending: VecDeque<Pending>,
    /// Batches with the WAL: its ticket and Raft's number.
    persisting: VecDeque<(u64, PersistSeq)>,
    relaxed_end: RelaxedEnd,
    /// The last entry that a power cut cannot take.
    synced: Index,
    reads: Reads,
    checkpoint: CheckpointState,
    /// Who waits until compactions up to a revision have left nothing on disk.
    scrubs: Vec<(i64, Reply<()>)>,
    /// Who waits for a defragmentation, which has to hold everything up to an index.
    defragments: Vec<(Index, Reply<()>)>,
    applied: LogId,
    leavings: Leavings,
    last_tick: Duration,
    /// The term in which the leases' time began to run here.
    promoted: Option<Term>,
    leaderless_since: Option<Duration>,
    /// The data directory's lock.
    lock: File,
    /// Told once the first leader is there.
    ready: Option<Box<dyn FnOnce() + Send>>,
}

struct Pending {
    id: LogId,
    proposed: Duration,
    command: Option<Command>,
    reply: Option<Reply<Response>>,
}

/// Linearizable reads on their way through Raft, which a member alone does not need.
#[derive(Default)]
struct Reads {
    next_id: u64,
    asked: VecDeque<(u64, Duration, Reply<()>)>,
    /// Confirmed, and waiting for this index to be applied.
    confirmed: Vec<(Index, Reply<()>)>,
}

#[derive(Default)]
struct CheckpointState {
    running: bool,
    written: LogId,
    written_at: Duration,
    /// The WAL's count of bytes when the last one began.
    wal_bytes: u64,
    not_before: Duration,
    /// Nobody's wish brings one before this: readers still need the rows that it is to remove, or others have the disk.
    wishes_wait_until: Duration,
    /// Somebody waits for one.
    wanted: bool,
    pruning: bool,
    /// Compacted rows are left to remove.
    garbage: bool,
    /// How long to wait for readers that still need compacted rows; zero if none was in the way last time.
    blocked_wait: Duration,
    /// Lease changes of one that found no room.
    leases: LeaseChanges,
    /// What to write once the log is synced as far as it reaches: a checkpoint is never ahead of the log.
    unsynced: Option<Box<Snapshot>>,
}

/// Everything that [`Loop::new`] takes over from the start.
pub(super) struct Parts {
    pub shared: Arc<Shared>,
    pub settings: Settings,
    pub core: Core,
    pub wal: wal::Writer,
    pub checkpointer: Checkpointer,
    pub compactor: Compactor,
    pub applied: LogId,
    /// The data directory's lock: held until every thread that may write there has ended.
    pub lock: File,
    pub ready: Box<dyn FnOnce() + Send>,
}

impl Loop {
    pub fn new(parts: Parts) -> Loop {
        let Parts { shared, settings, core, wal, checkpointer, compactor, applied, lock, ready } = parts;
        let now = shared.host.clock.now();
        // What a start has read is durable.
        let synced = core.last().index;
        Loop {
            applier: Applier::new(shared.clone()),
            settings,
            core,
            wal,
            checkpointer,
            compactor,
            pending: VecDeque::new(),
            persisting: VecDeque::new(),
            relaxed_end: RelaxedEnd::default(),
            synced,
            reads: Reads::default(),
            checkpoint: CheckpointState { written: applied, written_at: now, ..CheckpointState::default() },
            scrubs: Vec::new(),
            defragments: Vec::new(),
            applied,
            leavings: Leavings::default(),
            last_tick: now,
            promoted: None,
            leaderless_since: None,
            lock,
            ready: Some(ready),
            shared,
        }
    }

    /// Runs until it is told to stop or something breaks. Then nothing more is taken in, and the disk gets a little time for what
    /// it was given.
    pub fn run(mut self) -> Result<(), Fault> {
        let end = self.serve();
        self.leave(end.is_ok());
        end
    }

    fn serve(&mut self) -> Result<(), Fault> {
        let mut queues = Queues::default();
        // A compaction that a crash interrupted has rows to remove.
        if self.shared.store.needs_pruning() || !self.shared.store.scrubbed(i64::MAX) {
            self.prune();
        }
        // A voter that is alone elects itself on the first event, so that nobody waits for a tick.
        self.core.step(Event::Tick)?;
        self.turn()?;
        loop {
            let now = self.shared.host.clock.now();
            self.shared.inbox.take(self.until_next(now), &mut queues);
            for ask in queues.asks.drain(..) {
                match ask {
                    Ask::Stop => return Ok(()),
                    ask => self.hear(ask)?,
                }
            }
            let now = self.shared.host.clock.now();
            for proposal in queues.proposals.drain(..) {
                self.propose(proposal, now);
            }
            self.turn()?;
            if now >= self.last_tick + self.settings.tick {
                self.tick(now)?;
                self.turn()?;
            }
            self.start_checkpoint(now);
        }
    }

    /// Until the next tick, or until a checkpoint that somebody waits for may begin. Leases expire at ticks too: as late as etcd's,
    /// which looks every half second.
    fn until_next(&self, now: Duration) -> Duration {
        let tick = self.last_tick + self.settings.tick;
        let state = &self.checkpoint;
        let wish = state.wanted && !state.pruning && !state.running && state.not_before <= state.wishes_wait_until;
        if wish { tick.min(state.wishes_wait_until) } else { tick }.saturating_sub(now)
    }

    fn hear(&mut self, ask: Ask) -> Result<(), Fault> {
        match ask {
            Ask::ReadIndex(reply) => {
                let id = self.reads.next_id;
                self.reads.next_id += 1;
                self.reads.asked.push_back((id, self.shared.host.clock.now(), reply));
                self.core.step(Event::ReadIndex(id))
            }
            Ask::Scrubbed(revision, reply) => {
                // A later compaction has taken over what an unfinished one had left.
                self.scrubs.push((revision.max(self.shared.store.stats().compacted), reply));
                self.checkpoint.wanted = true;
                Ok(())
            }
            Ask::Defragment(reply) => {
                self.defragments.push((self.applied.index, reply));
                self.checkpoint.wanted = true;
                Ok(())
            }
            Ask::Wal(wal::Report::Synced(synced)) => {
                self.synced = synced.last.index;
                if let Some(snapshot) = self.checkpoint.unsynced.take_if(|snapshot| snapshot.applied.index <= self.synced) {
                    self.checkpointer.submit(Job::Checkpoint(snapshot));
                }
                self.persisted(synced.ticket)
            }
            Ask::Wal(wal::Report::Written(ticket)) => self.persisted(ticket),
            Ask::Wal(wal::Report::Stalled) => {
                self.shared.wal_full.store(true, Ordering::Relaxed);
                log::error!("the disk is full: writes wait until there is room again (delete files, or raise the volume's size)");
                Ok(())
            }
            Ask::Wal(wal::Report::Fault(fault)) | Ask::Fail(fault) => Err(fault),
            Ask::Checkpoint(outcome) => {
                self.checkpointed(outcome);
                Ok(())
            }
            Ask::Stop => unreachable!("the loop looks for it first"),
        }
    }

    /// The log keeps everything up to this ticket; what is relaxed of it, unless the power goes.
    fn persisted(&mut self, ticket: u64) -> Result<(), Fault> {
        self.shared.wal_full.store(false, Ordering::Relaxed);
        let mut persisted = None;
        while let Some((next, seq)) = self.persisting.front()
            && *next <= ticket
        {
            persisted = Some(*seq);
            self.persisting.pop_front();
        }
        persisted.map_or(Ok(()), |seq| self.core.step(Event::Persisted(seq)))
    }

    fn persist(&mut self, unsynced: Unsynced, seq: PersistSeq) {
        let ticket = match self.relaxed_end.holds(&unsynced.entries) && self.is_alone() {
            true => self.wal.submit_relaxed(unsynced),
            false => self.wal.submit(unsynced),
        };
        self.persisting.push_back((ticket, seq));
    }

    /// Whether nobody else counts on what this member has said to be in its log. With others, nothing is relaxed: a member that has
    /// lost what it acknowledged could elect a leader that lacks it.
    fn is_alone(&self) -> bool {
        let conf = self.core.conf();
        conf.voters == [self.core.id()] && conf.learners.is_empty()
    }

    fn is_relaxed(&self, command: &Command) -> bool {
        let settled = self.relaxed_end.reaches(self.applied.index, self.core.last().index);
        self.settings.relaxed.as_ref().is_some_and(|(class, _)| class.holds(command, &self.shared.lessor(), settled))
    }

    /// Has relaxed writes synced before they have waited too long.
    fn sync_in_time(&self) {
        let Some((_, interval)) = self.settings.relaxed else { return };
        let waited = self.wal.unsynced_for();
        if !waited.is_zero() && waited + self.settings.tick >= interval {
            self.wal.sync();
        }
    }

    fn propose(&mut self, proposal: Proposal, now: Duration) {
        let Proposal { command, data, reply } = proposal;
        if self.pending.len() >= MAX_PENDING {
            metrics::PROPOSALS_FAILED.inc();
            return send(reply, Err(Error::TooManyRequests));
        }
        let relaxed = self.is_relaxed(&command);
        match self.core.propose(EntryKind::Normal, data) {
            Ok(id) => {
                if relaxed {
                    self.relaxed_end.add(id.index);
                }
                self.pending.push_back(Pending { id, proposed: now, command: Some(command), reply });
            }
            Err(error) => {
                let answer = match error {
                    ProposeError::NotLeader { leader: None } => Error::NoLeader,
                    ProposeError::NotLeader { leader: Some(_) } => Error::NotLeader,
                    ProposeError::TooMuchUncommitted => Error::TooManyRequests,
                    ProposeError::Transferring => Error::LeaderChanged,
                    ProposeError::ConfChangePending => Error::Unhealthy,
                };
                metrics::PROPOSALS_FAILED.inc();
                send(reply, Err(answer));
            }
        }
    }

    /// Does everything that Raft wants done, until it wants nothing more.
    fn turn(&mut self) -> Result<(), Fault> {
        loop {
            let effects = self.core.effects();
            if effects == (Effects { seq: effects.seq, ..Effects::default() }) {
                return Ok(());
            }
            let Effects { install, persist, seq, commit, reads, lost_reads, leadership, send_now, send_then, snapshots, removed } =
                effects;
            assert!(
                send_now.is_empty() && send_then.is_empty() && snapshots.is_empty() && install.is_none() && !removed,
                "a member alone has nobody to write to: clusters of several members come with the transport"
            );
            if let Some(unsynced) = persist {
                self.persist(unsynced, seq);
            }
            self.shared.committed.store(self.core.committed().0, Ordering::Relaxed);
            if let Some(leadership) = leadership {
                self.shared.term.store(leadership.term.0, Ordering::Relaxed);
                let leader = leadership.leader.map_or(0, |id| id.0);
                if self.shared.leader.swap(leader, Ordering::Relaxed) != leader && leader != 0 {
                    metrics::LEADER_CHANGES.inc();
                }
                if leader != 0 {
                    self.leaderless_since = None;
                    self.shared.leader_loss.found();
                }
                if !self.core.is_leader() {
                    self.shared.reads_are_linearizable.store(false, Ordering::Release);
                    self.shared.lessor().demote();
                    self.fail_pending(Error::LeaderChanged);
                }
            }
            if !commit.is_empty() {
                self.apply(commit)?;
            }
            for id in lost_reads {
                metrics::READ_INDEXES_FAILED.inc();
                self.take_read(id, |reply| send(Some(reply), Err(Error::LeaderChanged)));
            }
            for read in reads {
                let mut confirmed = Vec::new();
                self.take_read(read.id, |reply| confirmed.push((read.index, reply)));
                self.reads.confirmed.append(&mut confirmed);
            }
            self.serve_reads();
        }
    }

    fn take_read(&mut self, id: u64, with: impl FnOnce(Reply<()>)) {
        if let Some(at) = self.reads.asked.iter().position(|(asked, ..)| *asked == id)
            && let Some((_, _, reply)) = self.reads.asked.remove(at)
        {
            with(reply);
        }
    }

    fn serve_reads(&mut self) {
        let applied = self.applied.index;
        for (_, reply) in self.reads.confirmed.extract_if(.., |(index, _)| *index <= applied) {
            send(Some(reply), Ok(()));
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Fault> {
        let mut rest = entries.into_iter().peekable();
        while rest.peek().is_some() {
            if let Some(entry) = rest.next_if(|entry| entry.kind == EntryKind::ConfChange) {
                self.applied = entry.id;
                let conf = self.applier.conf_change(entry.data)?;
                if conf.voters != [self.core.id()] {
                    self.shared.reads_are_linearizable.store(false, Ordering::Release);
                }
                self.core.apply_conf_change(conf)?;
            } else {
                self.apply_run(&mut rest)?;
            }
            self.core.step(Event::Applied(self.applied.index))?;
            self.shared.applied.store(self.applied.index.0, Ordering::Relaxed);
        }
        // With nobody to send them to, entries need not be kept: the WAL has them, durably.
        if self.core.conf().voters.len() + self.core.conf().learners.len() == 1 {
            self.core.compact(self.applied.index);
        }
        self.after_apply();
        Ok(())
    }

    /// Applies normal entries up to a change of the configuration or the limit of a run.
    fn apply_run(&mut self, rest: &mut std::iter::Peekable<std::vec::IntoIter<Entry>>) -> Result<(), Fault> {
        let begun = self.shared.host.clock.now();
        let shared = self.shared.clone();
        let mut run = self.applier.run(&shared);
        let mut answers: Vec<(Reply<Response>, Result<Response, Error>)> = Vec::new();
        let mut entries = 0;
        let mut since = begun;
        while entries < RUN_ENTRIES
            && let Some(entry) = rest.next_if(|entry| entry.kind == EntryKind::Normal)
        {
            entries += 1;
            self.applied = entry.id;
            let (command, reply) = claim(&mut self.pending, entry.id);
            if entry.data.is_empty() {
                continue; // a leader's first entry
            }
            let command = match command {
                Some(command) => command,
                None => Command::decode(entry.data)?,
            };
            let op = command.op();
            let answer: Answer<Response> = run.apply(command);
            let answer = answer?;
            let now = self.shared.host.clock.now();
            metrics::APPLY.of(op as usize, answer.is_ok()).observe(now.saturating_sub(std::mem::replace(&mut since, now)));
            if let Some(reply) = reply {
                answers.push((reply, answer));
            }
        }
        let finished = run.finish();
        self.shared.hub.publish(&finished.events, finished.revision);
        // Whoever has an answer and asks for the status sees its entry applied.
        self.shared.applied.store(self.applied.index.0, Ordering::Relaxed);
        for (reply, answer) in answers {
            send(Some(reply), answer);
        }
        if finished.prune {
            self.prune();
            let compacted = self.shared.store.stats().compacted;
            self.scrubs.iter_mut().for_each(|(revision, _)| *revision = compacted);
        }
        let took = self.shared.host.clock.now().saturating_sub(begun);
        if took > self.settings.warning_apply {
            metrics::SLOW_APPLY.inc();
            log::warn!("apply request took too long: {entries} entries up to {} took {took:?}", self.applied);
        }
        Ok(())
    }

    fn after_apply(&mut self) {
        let recent = self.shared.store.stats().recent_bytes as u64;
        let before = self.shared.recent_bytes.swap(recent, Ordering::Relaxed);
        let used = &self.shared.used_bytes;
        used.store((used.load(Ordering::Relaxed) + recent).saturating_sub(before), Ordering::Relaxed);
        if self.pending.is_empty() {
            self.pending.shrink_to(KEPT_PENDING);
        }
        if self.core.is_leader() && self.applied.term == self.core.term() && self.promoted != Some(self.applied.term) {
            self.promoted = Some(self.applied.term);
            let alone = self.core.conf().voters == [self.core.id()];
            // The leader's first entry is applied: the leases' time runs here from now on. Clients had no one to renew at while
            // there was no leader; alone, there was one all the time but for the restart.
            let extend = if alone { Duration::ZERO } else { self.settings.election_timeout };
            self.shared.lessor().promote(self.shared.host.clock.now(), extend);
            if alone {
                self.shared.reads_are_linearizable.store(true, Ordering::Release);
            }
            if let Some(ready) = self.ready.take() {
                ready();
            }
        }
    }

    fn fail_pending(&mut self, error: Error) {
        metrics::PROPOSALS_FAILED.add(self.pending.len() as u64);
        for pending in self.pending.drain(..) {
            send(pending.reply, Err(error.clone()));
        }
    }

    fn tick(&mut self, now: Duration) -> Result<(), Fault> {
        let stood_still = now > self.last_tick + self.settings.tick + STANDSTILL;
        self.last_tick = now;
        self.core.step(Event::Tick)?;
        self.time_out(now);
        self.sync_in_time();
        if self.leavings.are_due(now, self.applied.index.0, || host::own_memory().unwrap_or(0)) {
            self.checkpointer.submit(Job::GiveBackMemory);
        }
        if self.core.leader().is_none() {
            let since = *self.leaderless_since.get_or_insert(now);
            if now >= since + self.settings.election_timeout * 3 {
                self.shared.leader_loss.lost();
            }
        }
        if self.core.is_leader() && !stood_still {
            self.expire_leases(now);
            if let Some(revision) = self.compactor.due(now, self.shared.store.current()) {
                log::info!("compacting at revision {revision}, as --auto-compaction-retention says");
                self.shared.propose_own(Command::Compaction(CompactionRequest { revision, physical: false }));
            }
        }
        Ok(())
    }

    /// Tells clients that have waited too long that nobody knows how it will end. The entries stay in the log.
    fn time_out(&mut self, now: Duration) {
        let timeout = self.settings.request_timeout;
        for pending in self.pending.iter_mut().take_while(|pending| pending.proposed + timeout <= now) {
            if let Some(reply) = pending.reply.take() {
                metrics::PROPOSALS_FAILED.inc();
                send(Some(reply), Err(Error::Timeout));
            }
        }
        while let Some((_, asked, _)) = self.reads.asked.front()
            && *asked + timeout <= now
            && let Some((_, _, reply)) = self.reads.asked.pop_front()
        {
            metrics::SLOW_READ_INDEXES.inc();
            metrics::READ_INDEXES_FAILED.inc();
            send(Some(reply), Err(Error::Timeout));
        }
    }

    fn expire_leases(&mut self, now: Duration) {
        let (expired, checkpoints) = {
            let mut lessor = self.shared.lessor();
            (lessor.expired(now, REVOKES_PER_TICK), lessor.checkpoints_due(now, LEASE_CHECKPOINTS_PER_TICK))
        };
        metrics::LEASES_EXPIRED.add(expired.len() as u64);
        for id in expired {
            self.shared.propose_own(Command::LeaseRevoke(LeaseRevokeRequest { id: id.0 }));
        }
        if !checkpoints.is_empty() {
            let checkpoints = checkpoints.into_iter().map(|(id, remaining_ttl)| LeaseCheckpoint { id: id.0, remaining_ttl });
            self.shared.propose_own(Command::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints: checkpoints.collect() }));
        }
    }

    fn prune(&mut self) {
        if !self.checkpoint.pruning {
            self.checkpoint.pruning = true;
            self.checkpointer.submit(Job::Prune);
        }
    }

    fn start_checkpoint(&mut self, now: Duration) {
        let (state, limits) = (&self.checkpoint, &self.settings.thresholds);
        let applied = self.applied.index.0 - state.written.index.0;
        let due = state.wanted && !state.pruning && now >= state.wishes_wait_until
            || self.shared.recent_bytes.load(Ordering::Relaxed) >= limits.recent_bytes
            || self.wal.written_bytes() - state.wal_bytes >= limits.wal_bytes && applied > 0
            || applied >= limits.entries
            || (applied > 0 || state.garbage) && now >= state.written_at + limits.interval;
        if due && !state.running && now >= state.not_before {
            let snapshot = Box::new(self.snapshot());
            self.checkpoint.running = true;
            self.checkpoint.wal_bytes = self.wal.written_bytes();
            self.checkpoint.wanted = false;
            if snapshot.applied.index <= self.synced {
                self.checkpointer.submit(Job::Checkpoint(snapshot));
            } else {
                self.checkpoint.unsynced = Some(snapshot);
                self.wal.sync();
            }
        }
    }

    /// Everything that a checkpoint of this moment holds.
    fn snapshot(&mut self) -> Snapshot {
        let mut leases = std::mem::take(&mut self.checkpoint.leases);
        leases.extend(self.shared.lessor().take_changed());
        let alarms = std::mem::take(&mut self.applier.alarms_changed);
        let members = std::mem::take(&mut self.applier.members_changed);
        Snapshot {
            identity: self.shared.identity,
            applied: self.applied,
            rows: self.shared.store.checkpoint(),
            leases,
            alarms: alarms.then(|| self.shared.alarms.lock().expect("a reader panicked").list()),
            membership: members.then(|| self.shared.members.lock().expect("a reader panicked").clone()),
        }
    }

    fn checkpointed(&mut self, outcome: Outcome) {
        let now = self.shared.host.clock.now();
        match outcome {
            Outcome::Pruned => {
                self.checkpoint.pruning = false;
                // A compaction that came while the last one was pruned starts over.
                if self.shared.store.needs_pruning() {
                    self.prune();
                }
                self.checkpoint.garbage = !self.shared.store.scrubbed(i64::MAX);
                self.checkpoint.wanted |= self.cannot_wait_for_room();
            }
            Outcome::Written { applied, took, blocked } => {
                self.checkpoint.running = false;
                self.checkpoint.written = applied;
                self.checkpoint.written_at = now;
                self.shared.checkpoint_full.store(false, Ordering::Relaxed);
                self.wal.release(applied.index);
                self.measure();
                for (_, reply) in self.scrubs.extract_if(.., |(revision, _)| self.shared.store.scrubbed(*revision)) {
                    send(Some(reply), Ok(()));
                }
                self.checkpoint.garbage = !self.shared.store.scrubbed(i64::MAX);
                if blocked || !self.checkpoint.garbage {
                    self.defragment(applied.index);
                }
                self.checkpoint.blocked_wait = match blocked {
                    true => (self.checkpoint.blocked_wait * 2).clamp(BLOCKED_RETRY, BLOCKED_RETRY_MAX),
                    false => Duration::ZERO,
                };
                // Many checkpoints remove what a large compaction leaves. Between two of them the disk is as long for those who write.
                let rest = if self.shared.others_write() { took } else { Duration::ZERO };
                self.checkpoint.wishes_wait_until = now + rest.max(self.checkpoint.blocked_wait);
                self.checkpoint.wanted |= self.cannot_wait_for_room();
            }
            Outcome::Defragmented => self.measure(),
            Outcome::Full(snapshot) => {
                self.checkpoint.running = false;
                self.checkpoint.not_before = now + CHECKPOINT_RETRY;
                self.checkpoint.wanted = true;
                self.shared.checkpoint_full.store(true, Ordering::Relaxed);
                self.applier.alarms_changed |= snapshot.alarms.is_some();
                self.applier.members_changed |= snapshot.membership.is_some();
                self.checkpoint.leases = snapshot.leases;
                // A rewrite without free pages may be just what is needed.
                self.defragment(Index(u64::MAX));
            }
        }
    }

    /// Whether what compactions have left to remove is worth a checkpoint now: to those who wait for it, or because room is short.
    /// Otherwise it goes with the next.
    fn cannot_wait_for_room(&self) -> bool {
        let used = self.shared.used_bytes.load(Ordering::Relaxed);
        let cramped = self.checkpoint.garbage && self.shared.quota_bytes.is_some_and(|quota| used > quota / 2);
        cramped || !self.scrubs.is_empty() || !self.defragments.is_empty()
    }

    /// Starts the defragmentation that was asked for, if the checkpoint has come as far as those who asked.
    fn defragment(&mut self, written: Index) {
        let asked: Vec<_> = self.defragments.extract_if(.., |(index, _)| *index <= written).map(|(_, reply)| reply).collect();
        if !asked.is_empty() {
            self.checkpointer.submit(Job::Defragment(asked));
        }
    }

    /// Takes the checkpoint's size as the base of what the quota counts.
    fn measure(&self) {
        match self.shared.store.size() {
            Ok(size) => self.shared.used_bytes.store(size.in_use, Ordering::Relaxed),
            Err(fault) => self.shared.inbox.ask(Ask::Fail(fault)),
        }
        let recent = self.shared.store.stats().recent_bytes as u64;
        self.shared.recent_bytes.store(recent, Ordering::Relaxed);
    }

    /// Refuses everything from now on, and lets the disk finish what it was given; in good order, a checkpoint makes the next start
    /// short. A disk that has stalled is waited for only so long: what it holds up was never acknowledged.
    fn leave(mut self, in_order: bool) {
        self.shared.inbox.close();
        self.fail_pending(Error::Stopped);
        let mut last = match self.checkpoint.unsynced.take() {
            None if !self.checkpoint.running && self.applied.index > self.checkpoint.written.index => {
                Some(Box::new(self.snapshot()))
            }
            waiting => waiting,
        };
        last.take_if(|_| !in_order);
        if let Some(snapshot) = last.take_if(|snapshot| snapshot.applied.index <= self.synced) {
            self.checkpointer.submit(Job::Checkpoint(snapshot));
        }
        let Loop { wal, checkpointer, lock, settings, .. } = self;
        let (left, has_left) = sync_channel::<()>(1);
        let end = move || {
            let synced = wal.close();
            if let Some(snapshot) = last.filter(|snapshot| snapshot.applied.index <= synced) {
                checkpointer.submit(Job::Checkpoint(snapshot));
            }
            drop(checkpointer);
            // Only now may another process have the directory.
            drop(lock);
            drop(left);
        };
        if let Err(error) = thread::Builder::new().name("leave".into()).spawn(end) {
            log::warn!("leaving without waiting for the disk: cannot start a thread: {error}");
        } else if has_left.recv_timeout(settings.leave_wait) == Err(RecvTimeoutError::Timeout) {
            log::warn!("leaving although the disk has not taken everything: what was acknowledged is safe");
        }
    }
}

/// The proposal that became the entry at `id`, if it was one of ours.
fn claim(pending: &mut VecDeque<Pending>, id: LogId) -> (Option<Command>, Option<Reply<Response>>) {
    match pending.front() {
        Some(front) if front.id == id => {
            let front = pending.pop_front().expect("just seen");
            (front.command, front.reply)
        }
        Some(front) => {
            assert!(front.id.index > id.index, "a proposal of ours was overwritten without our knowing");
            (None, None)
        }
        None => (None, None),
    }
}

/// Answers, if anybody still listens.
fn send<T>(reply: Option<Reply<T>>, answer: Result<T, Error>) {
    if let Some(reply) = reply {
        let _ = reply.send(answer);
    }
}

/// The term that a new cluster's first entries have, before any election.
pub(super) const FIRST_TERM: Term = Term(1);
