//! Random work, with the machine going down at every single change of the disk. The log must come back as it was acknowledged,
//! with or without the one append that was under way.

use super::*;
use crate::host::sim::SimRandom;

const STEPS: u64 = 40;

/// What the log should be.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    entries: Vec<Entry>,
    hard_state: HardState,
}

impl Model {
    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn add(&mut self, hard_state: Option<HardState>, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            self.entries.truncate(first.id.index.0 as usize - 1);
            self.entries.extend_from_slice(entries);
        }
        self.hard_state = hard_state.unwrap_or(self.hard_state);
    }
}

struct Run {
    disk: SimDisk,
    random: SimRandom,
    model: Model,
    checkpoint: u64,
    lives: u64,
    story: String,
}

impl Run {
    fn new(seed: u64, crash_after: Option<u64>) -> Run {
        let disk = SimDisk::new(seed);
        crash_after.into_iter().for_each(|changes| disk.crash_after(changes));
        let story = format!("replay with WAL_REPLAY={seed},{}", crash_after.map_or("none".into(), |changes| changes.to_string()));
        let model = Model { entries: Vec::new(), hard_state: HardState::default() };
        Run { disk, random: SimRandom::new(seed), model, checkpoint: 0, lives: 0, story }
    }

    /// Starts, if need be several times: the machine may go down meanwhile.
    fn start(&mut self, pending: Option<Model>) -> Wal {
        loop {
            self.lives += 1;
            let host = next_host(&self.disk, self.random.next());
            let started = match Wal::exists(&host, dir()) {
                Ok(true) => open(&host, self.checkpoint),
                Ok(false) if self.model.last() == 0 => Wal::create(&host, dir(), IDENTITY, LogId::default(), SMALL).map(|wal| {
                    let (last, hard_state) = (wal.last(), wal.hard_state());
                    (wal, Recovered { identity: IDENTITY, hard_state, last, entries: Vec::new(), torn: None })
                }),
                Ok(false) => panic!("the log is gone; {}", self.story),
                Err(fault) => Err(fault),
            };
            match started {
                Ok((wal, recovered)) => {
                    self.judge(&recovered, pending);
                    return wal;
                }
                Err(_) if self.disk.has_crashed() => self.disk.power_cut(),
                Err(fault) => panic!("{fault}; {}", self.story),
            }
        }
    }

    /// What was acknowledged is there, and at the most what was under way besides.
    fn judge(&mut self, recovered: &Recovered, pending: Option<Model>) {
        let fits = |model: &Model| {
            let above = model.entries.get(self.checkpoint as usize..).unwrap_or_default();
            recovered.hard_state == model.hard_state && recovered.entries == above && recovered.last.index.0 == model.last()
        };
        if let Some(pending) = pending.filter(|pending| fits(pending)) {
            self.model = pending;
        } else {
            assert!(fits(&self.model), "{recovered:?}\nis not\n{:?}\n{}", self.model, self.story);
        }
    }

    fn step(&mut self, wal: Wal) -> Wal {
        match self.random.below(10) {
            0..7 => self.append(wal),
            7 => {
                let committed = self.model.hard_state.commit.0;
                self.checkpoint += self.random.below(committed - self.checkpoint + 1);
                let mut wal = wal;
                wal.release(Index(self.checkpoint));
                wal
            }
            _ => self.tend(wal),
        }
    }

    fn append(&mut self, mut wal: Wal) -> Wal {
        let Model { hard_state: HardState { term, commit, .. }, .. } = self.model;
        let term = term.0 + self.random.below(2);
        let first = if self.random.below(5) == 0 {
            commit.0 + 1 + self.random.below(self.model.last() - commit.0 + 1)
        } else {
            self.model.last() + 1
        };
        let count = self.random.below(4);
        let entries: Vec<_> =
            (0..count).map(|at| entry(term, first + at, [0, 3, 200, 900, 5000][self.random.below(5) as usize])).collect();
        let last = entries.last().map_or(self.model.last(), |entry| entry.id.index.0);
        let hard_state = (self.random.below(2) == 0).then(|| {
            let commit = commit.0 + self.random.below(last - commit.0 + 1);
            state(term, self.random.below(3), commit)
        });
        let mut next = self.model.clone();
        next.add(hard_state, &entries);
        match wal.append(hard_state, &entries) {
            Ok(_) => {
                self.model = next;
                wal
            }
            Err(error) => self.crashed(wal, &format!("{error:?}"), Some(next)),
        }
    }

    fn tend(&mut self, mut wal: Wal) -> Wal {
        if let Err(fault) = wal.seal() {
            return self.crashed(wal, &fault.to_string(), None);
        }
        while let Some(chore) = wal.next_chore() {
            if let Err(fault) = wal.finish_chore(chore.run()) {
                return self.crashed(wal, &fault.to_string(), None);
            }
        }
        wal
    }

    fn crashed(&mut self, wal: Wal, fault: &str, pending: Option<Model>) -> Wal {
        assert!(self.disk.has_crashed(), "{fault}; {}", self.story);
        drop(wal);
        if self.random.below(3) == 0 {
            self.disk.kill();
        } else {
            self.disk.power_cut();
        }
        // The next crash may come while the log is being opened.
        if self.lives < 4 {
            self.disk.crash_after(self.random.below(30));
        }
        self.start(pending)
    }

    /// All steps, then a last power cut. Returns how often the disk was changed.
    fn go(mut self) -> u64 {
        let mut wal = self.start(None);
        for _ in 0..STEPS {
            wal = self.step(wal);
        }
        drop(wal);
        let changes = self.disk.counts().changes;
        self.disk.power_cut();
        self.start(None);
        changes
    }
}

trait Next {
    fn next(&self) -> u64;
}

impl Next for SimRandom {
    fn next(&self) -> u64 {
        crate::host::Random::next_u64(self)
    }
}

#[test]
fn a_crash_at_any_change_of_the_disk_loses_nothing_acknowledged() {
    for seed in 0..6 {
        let changes = Run::new(seed, None).go();
        assert!(changes > 50, "the run is too short to mean anything");
        for crash_after in 0..changes {
            Run::new(seed << 32 | crash_after, Some(crash_after)).go();
        }
    }
}

/// `WAL_REPLAY=seed,crash_after` runs what a failure of the test above named.
#[test]
fn a_named_run_replays() {
    let Ok(replay) = std::env::var("WAL_REPLAY") else { return };
    let (seed, crash_after) = replay.split_once(',').expect("WAL_REPLAY=seed,crash_after");
    Run::new(seed.parse().unwrap(), crash_after.parse().ok()).go();
}
