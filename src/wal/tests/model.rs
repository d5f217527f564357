//! Random work, with the machine going down at every single change of the disk. The log must come back as it was acknowledged,
//! with or without the one append that was under way. Of appends that wait for a sync, a power cut may take the last ones, and the
//! end of the process none.

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
    /// What the log was since it was last synced, oldest first, `model` left out.
    earlier: Vec<Model>,
    /// The power has gone since.
    cut: bool,
    options: Options,
    checkpoint: u64,
    lives: u64,
    story: String,
}

impl Run {
    /// With a relaxed class if the seed's first bit says so.
    fn new(seed: u64, crash_after: Option<u64>) -> Run {
        let disk = SimDisk::new(seed);
        crash_after.into_iter().for_each(|changes| disk.crash_after(changes));
        let story = format!("replay with WAL_REPLAY={seed},{}", crash_after.map_or("none".into(), |changes| changes.to_string()));
        let model = Model { entries: Vec::new(), hard_state: HardState::default() };
        let max_unsynced = if seed & 1 << 63 == 0 { 0 } else { 12 };
        let options = Options { max_unsynced, ..SMALL };
        let random = SimRandom::new(seed);
        Run { disk, random, model, earlier: Vec::new(), cut: false, options, checkpoint: 0, lives: 0, story }
    }

    /// Starts, if need be several times: the machine may go down meanwhile.
    fn start(&mut self, pending: Option<Model>) -> Wal {
        loop {
            self.lives += 1;
            let host = next_host(&self.disk, self.random.next());
            let started = match Wal::exists(&host, dir()) {
                Ok(true) => Wal::open(&host, dir(), Some(IDENTITY), Index(self.checkpoint), self.options),
                Ok(false) if self.model.last() == 0 => {
                    Wal::create(&host, dir(), IDENTITY, LogId::default(), self.options).map(|wal| {
                        let (last, hard_state) = (wal.last(), wal.hard_state());
                        (
                            wal,
                            Recovered { identity: IDENTITY, hard_state, last, entries: Vec::new(), torn: None, may_have_lost: 0 },
                        )
                    })
                }
                Ok(false) => panic!("the log is gone; {}", self.story),
                Err(fault) => Err(fault),
            };
            match started {
                Ok((wal, recovered)) => {
                    self.judge(&recovered, pending);
                    return wal;
                }
                Err(_) if self.disk.has_crashed() => self.power_cut(),
                Err(fault) => panic!("{fault}; {}", self.story),
            }
        }
    }

    fn power_cut(&mut self) {
        self.disk.power_cut();
        self.cut = true;
    }

    /// What was acknowledged is there, and at the most what was under way besides.
    fn judge(&mut self, recovered: &Recovered, pending: Option<Model>) {
        let fits = |model: &Model| {
            let above = model.entries.get(self.checkpoint as usize..).unwrap_or_default();
            recovered.hard_state == model.hard_state && recovered.entries == above && recovered.last.index.0 == model.last()
        };
        let mut earlier = std::mem::take(&mut self.earlier);
        earlier.retain(|_| self.cut);
        let model = &self.model;
        self.model = if let Some(whole) = pending.iter().chain([model]).find(|model| fits(model)) {
            whole.clone()
        } else {
            let Some(found) = earlier.into_iter().rfind(|model| fits(model)) else {
                panic!("{recovered:?}\nis not\n{model:?}\n{}", self.story);
            };
            assert!(model.last() <= found.last() + u64::from(recovered.may_have_lost), "{recovered:?} {}", self.story);
            found
        };
        self.cut = false;
    }

    /// A log that is synced.
    fn synced(&mut self, wal: &Wal) {
        if wal.is_synced() {
            self.earlier.clear();
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
            8 => self.sync(wal),
            _ => self.tend(wal),
        }
    }

    fn sync(&mut self, mut wal: Wal) -> Wal {
        let synced = if self.random.below(3) == 0 { wal.end() } else { wal.sync().map(drop) };
        match synced {
            Ok(()) => {
                self.synced(&wal);
                wal
            }
            Err(fault) => self.crashed(wal, &fault.to_string(), None),
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
        let relaxed = self.random.below(3) > 0;
        let appended = if relaxed { wal.append_relaxed(hard_state, &entries) } else { wal.append(hard_state, &entries) };
        match appended {
            Ok(_) => {
                self.earlier.push(std::mem::replace(&mut self.model, next));
                self.synced(&wal);
                assert!(relaxed && self.options.max_unsynced > 0 || wal.is_synced(), "{}", self.story);
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
            self.power_cut();
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
        self.power_cut();
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

/// Some runs, each with a crash at each of its changes.
fn crash_everywhere(seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        let changes = Run::new(seed, None).go();
        assert!(changes > 50, "the run is too short to mean anything");
        for crash_after in 0..changes {
            Run::new(seed ^ crash_after << 32, Some(crash_after)).go();
        }
    }
}

#[test]
fn a_crash_at_any_change_of_the_disk_loses_nothing_acknowledged() {
    crash_everywhere(0..6);
}

#[test]
fn a_crash_at_any_change_of_the_disk_takes_a_relaxed_end_of_the_log_and_nothing_else() {
    crash_everywhere((0..8).map(|seed| seed | 1 << 63));
}

/// `WAL_REPLAY=seed,crash_after` runs what a failure of the test above named.
#[test]
fn a_named_run_replays() {
    let Ok(replay) = std::env::var("WAL_REPLAY") else { return };
    let (seed, crash_after) = replay.split_once(',').expect("WAL_REPLAY=seed,crash_after");
    Run::new(seed.parse().unwrap(), crash_after.parse().ok()).go();
}
