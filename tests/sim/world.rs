//! A cluster, its network, its disks and its clocks, in one thread: a queue of events in the order of their moments. One seed, one run.

use std::collections::{BTreeMap, BTreeSet};

use bramble::raft::{ConfState, Event, MemberId};

use super::clients::Client;
use super::faults::Plan;
use super::judge::Verdict;
use super::log_model::LogModel;
use super::machine::Checkpoint;
use super::member::{Asker, ELECTION_TICKS, Member, Packet, Watchers, Wishes};
use super::random::{Dice, digest};
use super::storage::{Storage, Unwritten};

/// Time that a tick takes on a clock that runs right.
pub const TICK: u64 = 10;
pub const ELECTION: u64 = TICK * ELECTION_TICKS as u64;
/// Faults come until then.
pub const CHAOS: u64 = 60 * ELECTION;
/// So long after the last fault, a leader is there and every request that is made to it finishes in time.
pub const SETTLED: u64 = CHAOS + 20 * ELECTION;
/// Clients stop, and within ten more election timeouts all members hold the same.
pub const QUIET: u64 = SETTLED + 10 * ELECTION;
const END: u64 = QUIET + 10 * ELECTION;
const CLIENTS: usize = 3;
const MOST_HOSTS: u64 = 16;

#[derive(Debug)]
pub enum What {
    Tick(u64, u64),
    Deliver(Packet),
    Disk(u64, u64),
    Checkpoint(u64, u64),
    Start(u64),
    Client(usize),
    Admin,
    Fault,
    Settle,
}

/// A machine, with or without its member running.
pub struct Machine {
    pub storage: Storage,
    /// What is durable, if the WAL keeps its word.
    pub durable: LogModel,
    pub running: Option<Member>,
    pub life: u64,
    /// What it begins with.
    first: Checkpoint,
    /// A write was under way when it ended: it may be there in part.
    mid_write: bool,
    /// A fault of the disk is on its way, so that a failed write is no surprise.
    pub sabotaged: bool,
    pub stalled: bool,
    pub slow: u64,
    pub tick: u64,
    pub paused_until: u64,
    /// It never comes back.
    pub gone: bool,
    disk_is_busy: bool,
}

pub struct World {
    pub seed: u64,
    pub dice: Dice,
    pub now: u64,
    /// By moment, and then by the order in which they were made.
    queue: BTreeMap<(u64, u64), What>,
    made: u64,
    pub machines: BTreeMap<u64, Machine>,
    pub cuts: BTreeSet<(u64, u64)>,
    pub watch: Watchers,
    pub plan: Plan,
    pub clients: Vec<Client>,
    pub next_operation: u64,
    /// Answered since the faults stopped.
    pub late_answers: u64,
    pub trace: Option<Vec<String>>,
    pub sum: u64,
}

impl World {
    pub fn new(seed: u64, traced: bool) -> World {
        let mut dice = Dice::new(seed);
        let plan = Plan::new(&mut dice);
        let mut world = World {
            seed,
            dice,
            now: 0,
            queue: BTreeMap::new(),
            made: 0,
            machines: BTreeMap::new(),
            cuts: BTreeSet::new(),
            watch: Watchers::default(),
            plan,
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            next_operation: 1,
            late_answers: 0,
            trace: traced.then(Vec::new),
            sum: seed,
        };
        let voters = 1 + world.dice.below(5);
        let conf = ConfState { voters: (1..=voters).map(MemberId).collect(), learners: Vec::new() };
        world.watch.judge.begin(&conf);
        for _ in 0..voters {
            world.build(conf.clone());
        }
        (0..CLIENTS).for_each(|client| world.at(ELECTION + client as u64, What::Client(client)));
        world.at(2 * ELECTION, What::Admin);
        world.at(ELECTION, What::Fault);
        world.at(CHAOS, What::Settle);
        world
    }

    /// A new machine; its member starts at once. With an empty configuration it waits to be added.
    pub fn build(&mut self, conf: ConfState) -> Option<u64> {
        let id = self.machines.len() as u64 + 1;
        if id > MOST_HOSTS {
            return None;
        }
        let machine = Machine {
            storage: Storage::new(id, digest(&[self.seed, id])),
            durable: LogModel::default(),
            running: None,
            life: 0,
            first: Checkpoint { conf, log: 1, ..Checkpoint::default() },
            mid_write: false,
            sabotaged: false,
            stalled: false,
            slow: 1,
            tick: TICK,
            paused_until: 0,
            gone: false,
            disk_is_busy: false,
        };
        self.machines.insert(id, machine);
        self.after(0, What::Start(id));
        Some(id)
    }

    pub fn at(&mut self, when: u64, what: What) {
        self.made += 1;
        self.queue.insert((when, self.made), what);
    }

    pub fn after(&mut self, delay: u64, what: What) {
        self.at(self.now + delay, what);
    }

    /// Plays until the end, or until something is broken.
    pub fn run(&mut self) -> Verdict {
        while let Some(((when, made), what)) = self.queue.pop_first() {
            if when > END {
                break;
            }
            self.now = when;
            self.sum = digest(&[self.sum, when, made]);
            if let Some(trace) = &mut self.trace {
                trace.push(format!("{when:>6} {what:?}"));
            }
            self.happen(what)?;
        }
        self.judge_end()
    }

    fn happen(&mut self, what: What) -> Verdict {
        match what {
            What::Tick(id, life) => self.tick(id, life),
            What::Deliver(packet) => self.deliver(packet),
            What::Disk(id, life) => self.disk(id, life),
            What::Checkpoint(id, life) => self.checkpoint(id, life),
            What::Start(id) => self.start(id),
            What::Client(client) => self.client(client),
            What::Admin => self.admin(),
            What::Fault => self.fault(),
            What::Settle => self.mend_all(),
        }
    }

    /// The member, if it is in that life and does not stand still; what happens to it then is put off.
    fn awake(&mut self, id: u64, life: Option<u64>, what: impl FnOnce() -> What) -> bool {
        let Some(machine) = self.machines.get(&id) else { return false };
        if machine.running.is_none() || life.is_some_and(|life| life != machine.life) {
            return false;
        }
        if machine.paused_until > self.now {
            self.at(machine.paused_until, what());
            return false;
        }
        true
    }

    fn tick(&mut self, id: u64, life: u64) -> Verdict {
        if !self.awake(id, Some(life), || What::Tick(id, life)) {
            return Ok(());
        }
        self.after(self.machines[&id].tick, What::Tick(id, life));
        self.step(id, Event::Tick)
    }

    pub fn step(&mut self, id: u64, event: Event) -> Verdict {
        self.with(id, |member, _| member.step(event))
    }

    /// Does something to a running member, and then all that follows.
    pub fn with(&mut self, id: u64, act: impl FnOnce(&mut Member, &mut Watchers) -> Verdict) -> Verdict {
        let Some(member) = self.machines.get_mut(&id).and_then(|machine| machine.running.as_mut()) else { return Ok(()) };
        let mut wishes = Wishes::default();
        act(member, &mut self.watch)?;
        member.turn(&mut wishes, &mut self.watch)?;
        self.grant(id, wishes);
        Ok(())
    }

    fn grant(&mut self, id: u64, Wishes { packets, answered, removed }: Wishes) {
        packets.into_iter().for_each(|packet| self.send(packet));
        answered.into_iter().for_each(|asker| self.answer(asker));
        let Some(machine) = self.machines.get_mut(&id) else { return };
        if removed {
            machine.running = None;
            machine.gone = true;
            return;
        }
        let waits = machine.running.as_ref().is_some_and(Member::wants_disk);
        if waits && !machine.disk_is_busy {
            machine.disk_is_busy = true;
            let (life, slow) = (machine.life, machine.slow);
            let delay = self.dice.between(1, 6) * slow;
            self.after(delay, What::Disk(id, life));
        }
        if let Some(member) = self.machines[&id].running.as_ref() {
            let (entries, persists, messages) = member.load();
            let coverage = &mut self.watch.coverage;
            coverage.most("entries in memory", entries);
            coverage.most("persists that wait", persists);
            coverage.most("messages that wait for the disk", messages);
        }
    }

    fn answer(&mut self, asker: Asker) {
        let client = &mut self.clients[asker.client];
        if client.waiting.is_some_and(|(waiting, _)| waiting.operation == asker.operation) {
            client.waiting = None;
            self.late_answers += u64::from(self.now > SETTLED);
        }
    }

    fn send(&mut self, packet: Packet) {
        if self.dice.permille(self.plan.loss) {
            return self.watch.coverage.hit("a message is lost");
        }
        if self.dice.permille(self.plan.doubles) {
            self.watch.coverage.hit("a message is doubled");
            let delay = self.dice.between(1, 3 * ELECTION);
            self.after(delay, What::Deliver(packet.clone()));
        }
        let mut delay = self.dice.between(1, 8);
        if self.dice.permille(self.plan.late) {
            self.watch.coverage.hit("a message is late");
            delay = self.dice.between(20, 4 * ELECTION);
        }
        self.after(delay, What::Deliver(packet));
    }

    fn deliver(&mut self, packet: Packet) -> Verdict {
        let (from, to) = (packet.message.from.0, packet.message.to.0);
        if self.cuts.contains(&(from, to)) || !self.awake(to, None, || What::Deliver(packet.clone())) {
            return Ok(());
        }
        self.with(to, |member, watch| member.receive(packet, watch))
    }

    fn disk(&mut self, id: u64, life: u64) -> Verdict {
        if !self.awake(id, Some(life), || What::Disk(id, life)) {
            return Ok(());
        }
        if self.machines[&id].stalled {
            self.after(TICK, What::Disk(id, life));
            return Ok(());
        }
        let count = 1 + self.dice.below(4);
        let mut wishes = Wishes::default();
        let machine = self.machines.get_mut(&id).expect("awake");
        let Some(member) = machine.running.as_mut() else { return Ok(()) };
        machine.disk_is_busy = false;
        let mut written = 0;
        while written < count || member.next_is_free() {
            written += u64::from(!member.next_is_free());
            match member.persist(&machine.storage, &mut machine.durable, &mut wishes, &mut self.watch) {
                Ok(verdict) => verdict?,
                Err(unwritten) => {
                    wishes.packets.into_iter().for_each(|packet| self.send(packet));
                    return self.failed(id, unwritten, Some(What::Disk(id, life)));
                }
            }
        }
        member.turn(&mut wishes, &mut self.watch)?;
        self.grant(id, wishes);
        Ok(())
    }

    /// A write was not done: the disk is full, or a fault that we planned ends the process or the machine.
    fn failed(&mut self, id: u64, unwritten: Unwritten, again: Option<What>) -> Verdict {
        let machine = self.machines.get_mut(&id).expect("a machine");
        match unwritten {
            Unwritten::Full => {
                machine.disk_is_busy = again.is_some();
                again.into_iter().for_each(|what| self.after(5 * TICK, what));
                Ok(())
            }
            Unwritten::Fault(_) if machine.storage.disk.has_crashed() => {
                machine.mid_write = true;
                self.watch.coverage.hit("power fails in the middle of a write");
                self.end(id, true);
                Ok(())
            }
            Unwritten::Fault(_) if machine.sabotaged => {
                machine.mid_write = true;
                self.watch.coverage.hit("a sync fails");
                self.end(id, false);
                Ok(())
            }
            Unwritten::Fault(why) => Err(format!("member {id} ends of a fault that nobody planned: {why}")),
        }
    }

    /// The process ends, or the machine with it. It starts again some time later.
    pub fn end(&mut self, id: u64, power: bool) {
        let machine = self.machines.get_mut(&id).expect("a machine");
        if machine.running.take().is_none() {
            return;
        }
        if power {
            machine.storage.disk.power_cut()
        } else {
            machine.storage.disk.kill()
        }
        machine.sabotaged = false;
        let delay = self.dice.between(TICK, 6 * ELECTION);
        self.after(delay, What::Start(id));
    }

    fn start(&mut self, id: u64) -> Verdict {
        let machine = self.machines.get_mut(&id).expect("a machine");
        if machine.gone || machine.running.is_some() {
            return Ok(());
        }
        let found = match machine.storage.start(&machine.first) {
            Ok(found) => found,
            Err(Unwritten::Full) => {
                self.after(ELECTION, What::Start(id));
                return Ok(());
            }
            Err(Unwritten::Fault(why)) => return Err(format!("member {id} does not start: {why}")),
        };
        machine.life += 1;
        let (sure, life) = (!std::mem::take(&mut machine.mid_write), machine.life);
        let core_seed = digest(&[self.seed, id, life]);
        machine.durable = match Member::start(id, core_seed, found, &machine.durable, sure) {
            Ok(member) => {
                let model = member.log().clone();
                machine.running = Some(member);
                model
            }
            Err(why) => return Err(why),
        };
        machine.disk_is_busy = false;
        let (tick, checkpoint) = (1 + self.dice.below(TICK), self.dice.between(TICK, ELECTION));
        self.after(tick, What::Tick(id, life));
        self.after(checkpoint, What::Checkpoint(id, life));
        self.with(id, |_, _| Ok(()))
    }

    fn checkpoint(&mut self, id: u64, life: u64) -> Verdict {
        if !self.awake(id, Some(life), || What::Checkpoint(id, life)) {
            return Ok(());
        }
        let (next, keep) = (self.dice.between(3 * TICK, ELECTION), self.dice.below(12));
        self.after(next, What::Checkpoint(id, life));
        let machine = self.machines.get_mut(&id).expect("awake");
        let Some(member) = machine.running.as_mut().filter(|_| !machine.stalled) else { return Ok(()) };
        match member.checkpoint(&machine.storage, &mut machine.durable, keep, &mut self.watch.coverage) {
            Ok(()) => Ok(()),
            Err(Unwritten::Full) => Ok(()),
            Err(unwritten) => self.failed(id, unwritten, None),
        }
    }

    /// Those who believe that they lead.
    pub fn leaders(&self) -> Vec<u64> {
        let leads = |machine: &Machine| machine.running.as_ref().is_some_and(|member| member.core.is_leader());
        self.machines.iter().filter(|(_, machine)| leads(machine)).map(|(&id, _)| id).collect()
    }

    /// Those that run.
    pub fn running(&self) -> Vec<u64> {
        self.machines.iter().filter(|(_, machine)| machine.running.is_some()).map(|(&id, _)| id).collect()
    }

    /// Liveness, and bounds: there is a leader, everything is committed, all hold the same, and nothing that was needed for the faults
    /// is kept.
    fn judge_end(&mut self) -> Verdict {
        let conf = self.watch.judge.conf().clone();
        let leader = self.leaders().into_iter().filter(|&id| conf.is_voter(MemberId(id)));
        let leader = leader.max_by_key(|id| self.machines[id].running.as_ref().map(|member| member.core.term()));
        let Some(leader) = leader else { return Err(format!("nobody leads at the end; the configuration is {conf:?}")) };
        let core = &self.machines[&leader].running.as_ref().expect("it leads").core;
        let (last, applied) = (core.last(), core.applied());
        if applied != last.index || applied.0 != self.watch.judge.applied_to() {
            return Err(format!("leader {leader} has applied {applied} of a log that ends at {last}"));
        }
        if self.late_answers == 0 {
            return Err("no request was answered after the faults".into());
        }
        for member in conf.members() {
            let machine = &self.machines[&member.0];
            let Some(running) = &machine.running else {
                if machine.gone {
                    continue;
                }
                return Err(format!("member {member} does not run at the end"));
            };
            if running.applied() != last {
                return Err(format!("member {member} has applied {} at the end, the leader {last}", running.applied()));
            }
            let (entries, persists, _) = running.load();
            if entries > 60 || persists > 0 {
                return Err(format!("member {member} holds {entries} entries and {persists} persists at the end"));
            }
            let used = machine.storage.used();
            if used > 128 << 10 {
                return Err(format!("member {member} has {used} bytes of files at the end"));
            }
        }
        self.watch.judge.count(&mut self.watch.coverage);
        Ok(())
    }
}
