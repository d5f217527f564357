//! Clients that write and read one thing at a time, and an administrator who changes the cluster.

use bramble::raft::{ConfState, Event, MemberId};

use super::judge::Verdict;
use super::machine::{KEYS, Write};
use super::member::Asker;
use super::world::{CHAOS, ELECTION, QUIET, SETTLED, TICK, What, World};

/// A client gives up then; what came of its request it never knows.
const PATIENCE: u64 = 3 * ELECTION;

#[derive(Default)]
pub struct Client {
    /// What it waits for, and since when.
    pub waiting: Option<(Asker, u64)>,
}

impl World {
    pub fn client(&mut self, client: usize) -> Verdict {
        if self.now < QUIET {
            let pause = self.dice.between(1, 4 * TICK);
            self.after(pause, What::Client(client));
        }
        if let Some((asker, since)) = self.clients[client].waiting {
            if self.now < since + PATIENCE {
                return Ok(());
            }
            if since > SETTLED {
                return Err(format!("operation {} took longer than {PATIENCE} after the faults", asker.operation));
            }
            self.clients[client].waiting = None;
        }
        if self.now >= QUIET {
            return Ok(());
        }
        let asker = Asker { client, operation: self.next_operation, floor: self.watch.judge.floor() };
        self.next_operation += 1;
        let leaders = self.leaders();
        let (reads, stray) = (self.dice.permille(400), self.dice.permille(200));
        let member = if stray && self.now < CHAOS { self.running() } else { leaders };
        let Some(id) = self.dice.pick(&member) else { return Ok(()) };
        if self.machines[&id].paused_until > self.now {
            return Ok(());
        }
        self.clients[client].waiting = Some((asker, self.now));
        if reads {
            return self.with(id, |member, _| member.read(asker));
        }
        let (write, padding) = (Write { operation: asker.operation, key: self.dice.below(KEYS) }, self.dice.below(200));
        let mut refused = false;
        self.with(id, |member, _| {
            refused = member.write(write, padding, asker).is_err();
            Ok(())
        })?;
        if refused {
            self.watch.coverage.hit("a proposal is refused");
            self.clients[client].waiting = None;
        }
        Ok(())
    }

    pub fn admin(&mut self) -> Verdict {
        if self.now >= CHAOS {
            return Ok(());
        }
        let pause = self.dice.between(ELECTION / 2, 5 * ELECTION);
        self.after(pause, What::Admin);
        let leaders = self.leaders();
        let Some(leader) = self.dice.pick(&leaders).filter(|id| self.machines[id].paused_until <= self.now) else {
            return Ok(());
        };
        let Some(member) = &self.machines[&leader].running else { return Ok(()) };
        let conf = member.core.conf().clone();
        let lost = conf.members().find(|member| self.is_lost(member.0));
        if let Some(lost) = lost {
            return self.change(leader, without(&conf, lost), "a member is removed");
        }
        let voter = self.dice.pick(&conf.voters).expect("a leader has voters");
        let room = conf.voters.len() + conf.learners.len() < 7;
        match self.dice.below(7) {
            0 => {
                self.watch.coverage.hit("a transfer is asked for");
                self.step(leader, Event::Transfer(voter))
            }
            1 if room => self.add(leader, conf, false),
            2 if room => self.add(leader, conf, true),
            3 if conf.voters.len() > 1 => {
                let mut next = without(&conf, voter);
                insert(&mut next.learners, voter);
                self.change(leader, next, "a voter is demoted")
            }
            4 if conf.voters.len() > 1 => {
                let what = if voter.0 == leader { "the leader is removed" } else { "a member is removed" };
                self.change(leader, without(&conf, voter), what)
            }
            5 => self.promote(leader, &conf),
            _ => match self.dice.pick(&conf.learners) {
                Some(learner) => self.change(leader, without(&conf, learner), "a member is removed"),
                None => Ok(()),
            },
        }
    }

    /// It will never be back.
    fn is_lost(&self, id: u64) -> bool {
        self.machines[&id].gone
    }

    fn add(&mut self, leader: u64, mut conf: ConfState, votes: bool) -> Verdict {
        let Some(id) = self.build(ConfState::default()) else { return Ok(()) };
        insert(if votes { &mut conf.voters } else { &mut conf.learners }, MemberId(id));
        self.change(leader, conf, if votes { "a voter is added" } else { "a learner is added" })
    }

    /// A learner that has nearly everything becomes a voter.
    fn promote(&mut self, leader: u64, conf: &ConfState) -> Verdict {
        let Some(learner) = self.dice.pick(&conf.learners) else { return Ok(()) };
        let core = &self.machines[&leader].running.as_ref().expect("it leads").core;
        let ready = core.matched().any(|(member, matched)| member == learner && matched.0 + 10 >= core.last().index.0);
        if !ready {
            return Ok(());
        }
        let mut next = without(conf, learner);
        insert(&mut next.voters, learner);
        self.change(leader, next, "a learner is promoted")
    }

    fn change(&mut self, leader: u64, conf: ConfState, what: &str) -> Verdict {
        let mut taken = false;
        self.with(leader, |member, _| {
            taken = member.change_conf(&conf).is_ok();
            Ok(())
        })?;
        self.watch.coverage.hit(if taken { what } else { "a change is refused" });
        Ok(())
    }
}

fn without(conf: &ConfState, member: MemberId) -> ConfState {
    let others = |members: &[MemberId]| members.iter().copied().filter(|&other| other != member).collect();
    ConfState { voters: others(&conf.voters), learners: others(&conf.learners) }
}

fn insert(members: &mut Vec<MemberId>, member: MemberId) {
    members.push(member);
    members.sort();
}
