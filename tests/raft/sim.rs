//! A cluster under random faults: messages lost, doubled and reordered, members cut off and crashed, disks that stop, logs
//! compacted, configurations changed. `SEED=n` replays one run, `RUNS=n` sets how many there are.

use std::collections::BTreeMap;

use bramble::raft::{ConfState, Entry, EntryKind, Event, Index, MemberId, Term};

use super::cluster::{Cluster, Disk, ELECTION_TICKS, parse_conf, show_conf};

const MEMBERS: u64 = 5;
const STEPS: u64 = 3000;

#[test]
fn no_run_of_faults_breaks_safety_and_the_cluster_comes_back() {
    if let Some(seed) = number("SEED") {
        return Simulation::new(seed).run();
    }
    for seed in 1..=number("RUNS").unwrap_or(30) {
        Simulation::new(seed).run();
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

struct Simulation {
    seed: u64,
    random: u64,
    cluster: Cluster,
    /// What any member has applied, by index.
    history: BTreeMap<Index, Entry>,
    leaders: BTreeMap<Term, u64>,
    /// The last index applied anywhere when each read began.
    reads: Vec<Index>,
    proposals: u64,
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
    }
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut cluster = Cluster::new(seed);
        cluster.max_append_bytes = 256;
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let (history, leaders) = (BTreeMap::new(), BTreeMap::new());
        let mut simulation = Simulation { seed, random, cluster, history, leaders, reads: Vec::new(), proposals: 0 };
        let voters = 1 + simulation.below(MEMBERS);
        let conf = ConfState { voters: (1..=voters).map(MemberId).collect(), learners: Vec::new() };
        for id in 1..=MEMBERS {
            let conf = if id <= voters { conf.clone() } else { ConfState::default() };
            simulation.cluster.add(id, Disk { conf, ..Disk::default() });
        }
        simulation
    }

    /// Storms and calms take turns: what a storm leaves behind has to meet a cluster that works.
    fn run(&mut self) {
        for step in 0..STEPS {
            let id = 1 + self.below(MEMBERS);
            if self.below(10) > 0 {
                self.work(id);
            } else if step / 250 % 2 == 0 {
                self.fault(id);
            } else {
                self.mend(id);
            }
            self.copy_states();
            self.check();
        }
        self.recover();
    }

    fn work(&mut self, id: u64) {
        match self.below(100) {
            0..20 => (1..=MEMBERS).for_each(|id| self.cluster.step(id, Event::Tick)),
            20..25 => self.cluster.step(id, Event::Tick),
            25..80 => (0..6).for_each(|_| self.deliver()),
            80..90 => {
                let id = self.leader().unwrap_or(id);
                self.propose(id);
            }
            90..91 => self.propose(id),
            91..95 => {
                let id = self.leader().unwrap_or(id);
                self.read(id);
            }
            95..97 => self.compact(id),
            97..99 => {
                let id = self.leader().unwrap_or(id);
                self.change_conf(id);
            }
            _ => {
                let to = 1 + self.below(MEMBERS);
                self.cluster.step(id, Event::Transfer(MemberId(to)));
            }
        }
    }

    fn fault(&mut self, id: u64) {
        match self.below(10) {
            0..3 => self.cut(id),
            3..5 => {
                let synced = self.below(3) as usize;
                self.cluster.crash(id, synced);
            }
            5..7 => self.cluster.hold(id),
            7 => self.cluster.sync(id, 1),
            _ => self.mend(id),
        }
    }

    fn mend(&mut self, id: u64) {
        match self.below(3) {
            0 => self.cluster.cut.clear(),
            1 => self.start(id),
            _ => self.cluster.release(id),
        }
    }

    /// One of those that think they lead.
    fn leader(&mut self) -> Option<u64> {
        let leads = |id: &u64| self.cluster.members[id].core.as_ref().is_some_and(|core| core.is_leader());
        let leaders: Vec<u64> = (1..=MEMBERS).filter(leads).collect();
        (!leaders.is_empty()).then(|| leaders[self.below(leaders.len() as u64) as usize])
    }

    fn copy_states(&mut self) {
        for (from, to) in std::mem::take(&mut self.cluster.snapshots) {
            self.cluster.send_snapshot(from, to);
        }
    }

    fn deliver(&mut self) {
        let waiting = self.cluster.network.len() as u64;
        if waiting == 0 {
            return;
        }
        let position = if self.below(3) == 0 { self.below(waiting) } else { 0 } as usize;
        match self.below(40) {
            0 => drop(self.cluster.network.remove(position)),
            1 => {
                let twin = self.cluster.network[position].clone();
                self.cluster.network.push_back(twin);
            }
            _ => drop(self.cluster.deliver_at(position)),
        }
    }

    fn propose(&mut self, id: u64) {
        self.proposals += 1;
        let data = format!("p{}", self.proposals);
        if let Some(core) = self.cluster.core(id) {
            let _refused = core.propose(EntryKind::Normal, data.into());
            self.cluster.settle(id);
        }
    }

    fn read(&mut self, id: u64) {
        let number = self.reads.len() as u64;
        self.reads.push(self.last_applied());
        self.cluster.step(id, Event::ReadIndex(number));
    }

    fn cut(&mut self, id: u64) {
        let other = 1 + self.below(MEMBERS);
        self.cluster.cut.insert((id, other));
        if self.below(2) == 0 {
            self.cluster.cut.insert((other, id));
        }
    }

    fn start(&mut self, id: u64) {
        if self.cluster.core(id).is_none() {
            self.cluster.start(id);
        }
    }

    fn compact(&mut self, id: u64) {
        if let Some(core) = self.cluster.core(id) {
            let index = core.applied();
            self.cluster.compact(id, index);
        }
    }

    /// Adds or removes one voter, or turns it into a learner.
    fn change_conf(&mut self, id: u64) {
        let member = MemberId(1 + self.below(MEMBERS));
        let to_learner = self.below(2) == 0;
        let Some(core) = self.cluster.core(id) else { return };
        let mut conf = core.conf().clone();
        conf.learners.retain(|&learner| learner != member);
        match conf.voters.binary_search(&member) {
            Ok(_) if conf.voters.len() == 1 => return,
            Ok(position) => {
                conf.voters.remove(position);
                if to_learner {
                    conf.learners.push(member);
                    conf.learners.sort();
                }
            }
            Err(position) => conf.voters.insert(position, member),
        }
        let data = show_conf(&conf);
        assert_eq!(parse_conf(&data), conf);
        let _refused = core.propose(EntryKind::ConfChange, data.into());
        self.cluster.settle(id);
    }

    /// Paper figure 3: election safety and state machine safety. Reads never see less than what was applied when they began.
    fn check(&mut self) {
        for (&id, member) in &self.cluster.members {
            if let Some(core) = member.core.as_ref().filter(|core| core.is_leader()) {
                let first = *self.leaders.entry(core.term()).or_insert(id);
                assert_eq!(first, id, "two leaders in term {}", core.term());
            }
            for entry in member.applied.iter().rev().take(50) {
                let first = self.history.entry(entry.id.index).or_insert_with(|| entry.clone());
                assert_eq!(first, entry, "member {id} applied something else");
            }
        }
        for (id, read, index) in self.cluster.reads.drain(..) {
            let began_at = self.reads[read as usize];
            assert!(index >= began_at, "member {id} answers read {read} at {index}, but {began_at} was applied before it");
        }
        let fault = self.cluster.trace.iter().find(|line| line.contains("fault"));
        assert!(fault.is_none(), "{fault:?}");
        self.cluster.trace.drain(..self.cluster.trace.len().saturating_sub(300));
    }

    /// No more faults: within some election timeouts a leader is there, and all its members hold the same.
    fn recover(&mut self) {
        self.cluster.cut.clear();
        for id in 1..=MEMBERS {
            self.start(id);
            self.cluster.release(id);
        }
        for round in 0..100 * ELECTION_TICKS {
            for id in 1..=MEMBERS {
                self.cluster.step(id, Event::Tick);
            }
            if round % 50 == 0 {
                (1..=MEMBERS).for_each(|id| self.propose(id));
            }
            self.cluster.deliver_all();
            self.copy_states();
            self.check();
        }
        let members = &self.cluster.members;
        let leader = members.values().filter_map(|member| member.core.as_ref()).find(|core| core.is_leader());
        let leader = leader.expect("a leader after the faults have ended");
        assert_eq!(leader.committed(), leader.last().index, "everything commits");
        assert!(self.history[&leader.committed()].data.starts_with(b"p"), "new proposals commit");
        for member in leader.conf().members() {
            let core = members[&member.0].core.as_ref().expect("running");
            assert_eq!((core.last(), core.applied()), (leader.last(), leader.applied()), "member {member} caught up");
        }
    }

    fn last_applied(&self) -> Index {
        self.cluster
            .members
            .values()
            .filter_map(|member| member.applied.last())
            .map(|entry| entry.id.index)
            .max()
            .unwrap_or_default()
    }

    fn report(&self) {
        eprintln!("SEED={} replays this run, which ended so:", self.seed);
        let from = self.cluster.trace.len().saturating_sub(100);
        self.cluster.trace[from..].iter().for_each(|line| eprintln!("    {line}"));
    }

    /// Xorshift.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % limit
    }
}
