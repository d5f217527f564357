//! A round: clients and watches against one data directory, from its beginning to its end, over many starts of the server.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bramble::pb::etcdserverpb::DefragmentRequest;

use crate::support::random::Random;
use crate::support::{Client, Server};

use super::clients::{Player, Stage};
use super::compactions::{self, Mark};
use super::expiries;
use super::group::{self, Group};
use super::history::{EXPIRY, Millis, Operation, Reply};
use super::judge::{Call, Object, Verdict, judge};
use super::keys::GROUPS;
use super::order;
use super::promises::{self, Compactions};
use super::timeline::Timeline;
use super::violation::Violation;
use super::watchers::{Goal, Watch, Watcher};

/// Steps after which the judge gives up. A round takes a few for each operation.
const MAX_STEPS: u64 = 20_000_000;

/// How a round is played.
#[derive(Debug)]
pub struct Plan {
    /// What chance does.
    pub seed: u64,
    clients: usize,
    watchers: usize,
    /// Starts of the server.
    epochs: usize,
    /// Operations between two starts, about.
    operations: u64,
}

impl Plan {
    /// A few seconds.
    pub fn short(seed: u64) -> Plan {
        Plan { seed, clients: 10, watchers: 6, epochs: 5, operations: 900 }
    }

    /// A minute or so.
    pub fn long(seed: u64) -> Plan {
        Plan { seed, clients: 14, watchers: 9, epochs: 30, operations: 1_000 }
    }
}

/// All that was asked and told.
pub struct Record {
    /// By the time of the call.
    history: Vec<Operation>,
    /// The watch of everything, in its parts.
    recorded: Vec<Watch>,
    watches: Vec<Watch>,
    kills: usize,
    /// The last epoch, and the revision that everybody was told of in it.
    last_epoch: usize,
    last_revision: i64,
}

/// Plays a round.
pub fn play(plan: &Plan) -> Record {
    let mut random = Random::from_seed(plan.seed);
    let stage = Stage::new();
    let mut server = server(&mut random);
    let mut players: Vec<Player> = (0..plan.clients).map(|id| Player::new(id, random.fork(), &stage)).collect();
    let mut watchers: Vec<Watcher> = (0..plan.watchers).map(|id| Watcher::new(id, random.fork(), &stage)).collect();
    watchers.push(Watcher::recorder(&stage));
    let last_epoch = plan.epochs - 1;
    let mut closing = Player::new(plan.clients, random.fork(), &stage);
    let (mut kills, mut last_revision) = (0, 0);
    for epoch in 0..plan.epochs {
        let goal = Goal::none();
        std::thread::scope(|scope| {
            let _everybody = StopOnPanic(&stage, &goal);
            for watcher in &mut watchers {
                let (client, goal) = (connect(&server, watcher.window()), &goal);
                scope.spawn(move || watcher.watch(&client, epoch, goal));
            }
            let play = |player| {
                let client = connect(&server, None);
                scope.spawn(move || Player::play(player, &client, epoch))
            };
            let playing: Vec<_> = players.iter_mut().map(play).collect();
            let load = plan.operations / 2 + random.below(plan.operations);
            stage.wait_for(load / 2);
            if random.below(2) == 0 {
                // Copies the database beside the load, and beside the kill that may come.
                let client = connect(&server, None);
                scope.spawn(move || drop(client.try_call(&DefragmentRequest {})));
            }
            stage.wait_for(load / 2);
            if epoch < last_epoch {
                kills += usize::from(end(&mut server, &mut random));
                return;
            }
            stage.stop.store(true, Ordering::Relaxed);
            playing.into_iter().for_each(|playing| playing.join().unwrap());
            last_revision = closing.close(&connect(&server, None), epoch);
            goal.set(last_revision);
        });
        if epoch < last_epoch {
            kills += restart(&mut server, &mut random);
        }
    }
    let recorded = watchers.pop().map(|recorder| recorder.watches).unwrap_or_default();
    let mut history: Vec<Operation> = players.into_iter().chain([closing]).flat_map(|player| player.history).collect();
    history.extend(expiries::of(&history));
    history.sort_by_key(|operation| operation.call);
    let watches = watchers.into_iter().flat_map(|watcher| watcher.watches).collect();
    Record { history, recorded, watches, kills, last_epoch, last_revision }
}

/// A failure here does not leave the others playing for ever.
struct StopOnPanic<'a>(&'a Stage, &'a Goal);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop.store(true, Ordering::Relaxed);
            self.1.set(0);
        }
    }
}

/// One that checkpoints all the time, or now and then, or hardly ever.
fn server(random: &mut Random) -> Server {
    let snapshot_count = [1, 3, 20, 10_000][random.below(4) as usize];
    Server::builder()
        .flag(format!("--snapshot-count={snapshot_count}"))
        .flag("--heartbeat-interval=100")
        .flag("--election-timeout=1000")
        .flag("--watch-progress-notify-interval=100ms")
        .flag("--max-request-bytes=400000")
        .start()
}

/// Mostly by SIGKILL; says whether it was that.
fn end(server: &mut Server, random: &mut Random) -> bool {
    let is_kill = random.below(8) > 0;
    if is_kill {
        server.kill();
    } else {
        server.terminate();
    }
    is_kill
}

/// Starts it, and sometimes kills it while it is still starting. Gives the number of those kills.
fn restart(server: &mut Server, random: &mut Random) -> usize {
    let stillborn = random.below(4).saturating_sub(1) as usize;
    for _ in 0..stillborn {
        server.spawn();
        std::thread::sleep(Duration::from_micros(random.below(40_000)));
        server.kill();
    }
    server.restart();
    stillborn
}

fn connect(server: &Server, window: Option<u32>) -> Client {
    match window {
        Some(window) => Client::connect_with_window(&server.target(), window).expect("the server accepts a connection"),
        None => server.client(),
    }
}

impl Record {
    /// All promises that were not kept.
    pub fn judge(&self) -> Vec<Violation> {
        let mut violations: Vec<Violation> = self.judge_by_search();
        violations.extend(self.judge_by_revisions().err().unwrap_or_default());
        violations
    }

    /// Without any trust in revisions.
    fn judge_by_search(&self) -> Vec<Violation> {
        let writes = group::writes(&self.history);
        let operation = |act: &group::Act| act.operation().to_string();
        let of_group = |number| decide(&Group::default(), &group::calls(&self.history, number, &writes), operation);
        let of_mark = decide(&Mark::default(), &compactions::calls(&self.history), |operation| operation.to_string());
        (0..GROUPS).filter_map(of_group).chain(of_mark).collect()
    }

    fn judge_by_revisions(&self) -> Result<(), Vec<Violation>> {
        let events = self.recorded.iter().flat_map(|watch| &watch.told).flat_map(|(_, response)| response.events.iter().cloned());
        let timeline = Timeline::new(events).map_err(|violation| vec![violation])?;
        let mut violations = Vec::new();
        if timeline.last() != self.last_revision {
            let text = format!("the watch of everything ends at {}, the store at {}", timeline.last(), self.last_revision);
            violations.push(Violation::new(text, []));
        }
        let mut sightings = promises::sightings(&self.watches);
        sightings.extend(promises::sightings(&self.recorded));
        violations.extend(order::check(&self.history, &timeline, &sightings).err());
        let compactions = Compactions::of(&self.history);
        for watch in self.recorded.iter().chain(&self.watches) {
            let goal = (watch.epoch == self.last_epoch && watch.cancelled.is_none()).then_some(self.last_revision);
            violations.extend(promises::check(watch, &timeline, &compactions, goal).err());
        }
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    /// One line: how much there was to judge.
    pub fn figures(&self) -> String {
        let count = |is: fn(&Operation) -> bool| self.history.iter().filter(|operation| is(operation)).count();
        let told = || self.watches.iter().flat_map(|watch| &watch.told).map(|(_, response)| response);
        format!(
            "{} operations ({} without an answer), {} kills, {} revisions, {} compactions, {} watches with {} events, {} bookmarks, {} fragments, ended by compaction: {}",
            count(|operation| operation.client != EXPIRY),
            count(|operation| operation.client != EXPIRY && operation.end.is_none()),
            self.kills,
            self.last_revision,
            count(|operation| matches!(operation.reply(), Some(Reply::Compact(_)))),
            self.watches.len(),
            told().map(|response| response.events.len()).sum::<usize>(),
            told().filter(|response| !response.created && !response.canceled && response.events.is_empty()).count(),
            told().filter(|response| response.fragment).count(),
            told().filter(|response| response.compact_revision > 0).count(),
        )
    }

    /// Writes everything to a file.
    pub fn write(&self, seed: u64) -> PathBuf {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("linearizable-{seed}.txt"));
        let mut text = String::new();
        for operation in &self.history {
            let _ = writeln!(text, "{operation}");
        }
        for (kind, watches) in [("of everything", &self.recorded), ("watch", &self.watches)] {
            for (index, watch) in watches.iter().enumerate() {
                let _ = writeln!(text, "{kind} {index}: epoch {} {:?} at {} ms", watch.epoch, watch.request, Millis(watch.asked));
                for (time, response) in &watch.told {
                    let _ = writeln!(text, "    {} ms {response:?}", Millis(*time));
                }
            }
        }
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Looks for an order of one object's operations.
fn decide<A, O: Object<A>>(initial: &O, calls: &[Call<A>], told: impl Fn(&A) -> String) -> Option<Violation> {
    match judge(initial, calls, MAX_STEPS) {
        Verdict::Linearizable => None,
        Verdict::Undecided(steps) => Some(Violation::new(format!("no verdict after {steps} steps: a round is too large"), [])),
        Verdict::Impossible { state, stuck } => {
            let stuck = stuck.iter().take(12).map(|index| format!("none of these can be next: {}", told(&calls[*index].act)));
            let state = format!("the farthest that an order comes is {state:?}");
            Some(Violation::new("no order of the operations explains the answers", [state].into_iter().chain(stuck)))
        }
    }
}
