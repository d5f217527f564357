//! What goes wrong. Each run has its own mix: some kinds of faults and not others, so that one does not always hide another. Storms and
//! calms take turns, for what a storm leaves behind has to meet a cluster that works.

use bramble::raft::Event;

use super::judge::Verdict;
use super::random::Dice;
use super::world::{CHAOS, ELECTION, TICK, What, World};

/// How a run goes wrong.
pub struct Plan {
    /// Of a thousand messages.
    pub loss: u64,
    pub doubles: u64,
    pub late: u64,
    /// Kinds of faults, one bit each.
    kinds: u64,
    /// Time between two faults, at the most.
    pause: u64,
}

impl Plan {
    pub fn new(dice: &mut Dice) -> Plan {
        let some = |dice: &mut Dice, most| if dice.permille(600) { dice.below(most) } else { 0 };
        Plan {
            loss: some(dice, 150),
            doubles: some(dice, 100),
            late: some(dice, 100),
            kinds: dice.next() | dice.next(),
            pause: dice.between(2 * TICK, 3 * ELECTION),
        }
    }
}

impl World {
    /// One fault, or one thing mended.
    pub fn fault(&mut self) -> Verdict {
        if self.now >= CHAOS {
            return Ok(());
        }
        let pause = self.dice.between(1, self.plan.pause);
        self.after(pause, What::Fault);
        let machines: Vec<u64> = self.machines.keys().copied().collect();
        let id = self.dice.pick(&machines).expect("there are machines");
        let storm = (self.now / (7 * ELECTION)).is_multiple_of(2);
        let kind = self.dice.below(16);
        if !storm || self.plan.kinds >> kind & 1 == 0 {
            self.mend(id);
            return Ok(());
        }
        self.break_something(id, kind)
    }

    fn break_something(&mut self, id: u64, kind: u64) -> Verdict {
        let machines: Vec<u64> = self.machines.keys().copied().collect();
        let other = self.dice.pick(&machines).expect("there are machines");
        let changes = self.dice.below(8);
        let some_time = self.dice.between(ELECTION / 2, 4 * ELECTION);
        let (now, runs) = (self.now, self.machines[&id].running.is_some());
        let machine = self.machines.get_mut(&id).expect("a machine");
        let what = match kind {
            0 => {
                self.cuts.insert((id, other));
                "a link is cut one way"
            }
            1 => {
                self.cuts.extend([(id, other), (other, id)]);
                "a link is cut both ways"
            }
            2 => {
                self.cuts.extend(machines.iter().flat_map(|&other| [(id, other), (other, id)]));
                "a member is cut off"
            }
            3 if runs => {
                self.end(id, true);
                "power fails"
            }
            4 if runs => {
                machine.storage.disk.crash_after(changes);
                "power is about to fail"
            }
            5 if runs => {
                self.end(id, false);
                "a process is killed"
            }
            6 if runs => {
                machine.sabotaged = true;
                machine.storage.disk.fail_syncs_after(changes);
                "a sync is about to fail"
            }
            7 => {
                let used = machine.storage.used();
                machine.storage.disk.set_capacity(Some(used));
                "the disk is full"
            }
            8 => {
                machine.stalled = true;
                "the disk stands still"
            }
            9 => {
                machine.slow = 30;
                "the disk is slow"
            }
            10 if runs => {
                machine.paused_until = now + some_time;
                "a process stands still"
            }
            11 => {
                machine.tick = TICK / 3;
                "a clock runs fast"
            }
            12 => {
                machine.tick = TICK * 3;
                "a clock runs slow"
            }
            13 if runs => {
                for _ in 0..15 {
                    self.step(id, Event::Tick)?;
                }
                "a clock jumps"
            }
            14 if self.may_wipe(id) => {
                let machine = self.machines.get_mut(&id).expect("a machine");
                (machine.running, machine.gone) = (None, true);
                "a disk is wiped"
            }
            15 => {
                for id in self.leaders() {
                    self.cuts.extend(machines.iter().flat_map(|&other| [(id, other), (other, id)]));
                }
                "a leader is cut off"
            }
            _ => return Ok(()),
        };
        self.watch.coverage.hit(what);
        Ok(())
    }

    /// A member may lose its disk while the others can go on without it, also after the change that may be on its way. It comes back
    /// under another id only.
    fn may_wipe(&self, id: u64) -> bool {
        let conf = self.watch.judge.conf();
        let whole = conf.members().all(|member| !self.machines[&member.0].gone);
        whole && conf.voters.len() >= 4 && conf.is_voter(bramble::raft::MemberId(id))
    }

    fn mend(&mut self, id: u64) {
        self.cuts.retain(|&(from, to)| from != id && to != id);
        let machine = self.machines.get_mut(&id).expect("a machine");
        machine.storage.disk.set_capacity(None);
        (machine.stalled, machine.slow, machine.tick) = (false, 1, TICK);
        if machine.running.is_none() {
            self.after(0, What::Start(id));
        }
    }

    /// No more faults.
    pub fn mend_all(&mut self) -> Verdict {
        (self.plan.loss, self.plan.doubles, self.plan.late) = (0, 0, 0);
        self.cuts.clear();
        for id in self.machines.keys().copied().collect::<Vec<_>>() {
            self.mend(id);
            let machine = self.machines.get_mut(&id).expect("a machine");
            machine.paused_until = 0;
            machine.storage.disk.crash_after(u64::MAX);
            machine.storage.disk.fail_syncs_after(u64::MAX);
        }
        Ok(())
    }
}
