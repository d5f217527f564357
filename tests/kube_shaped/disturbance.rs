//! What does not go smoothly: bursts, clients that lag or stay away, and the end of the server.

use std::time::{Duration, Instant};

use super::apiserver::Apiserver;
use super::cache::{End, Watching, assert_is_listed};
use super::cluster::Cluster;
use super::follower::{Cache, Follower};
use super::history::Span;
use super::run::Run;
use super::store::Store;
use crate::support::random::Random;
use crate::support::{Client, Code, Status};

/// One burst after the other.
pub fn bursts(run: &Run, api: &Apiserver, cluster: &Cluster) {
    let mut turn = 0;
    run.every(run.settings.burst, &mut run.random("bursts"), |random| {
        match turn % 5 {
            0 => cluster.release(random),
            1 => relist(api, random),
            2 => cluster.drain(random.below(run.settings.nodes as u64) as usize, random),
            3 => cluster.storm(300 + random.below(900) as usize, random),
            _ => run.restart_apiserver(),
        }
        turn += 1;
    });
}

/// The controller manager starts anew: its informers list everything, all at once.
fn relist(api: &Apiserver, random: &mut Random) {
    std::thread::scope(|scope| {
        for caches in api.caches.chunks(6) {
            let paged = random.below(2) == 0;
            scope.spawn(move || {
                for cache in caches {
                    let span = Span::prefix(cache.prefix.clone());
                    // One that is overtaken by a compaction is begun again by nobody: the next comes soon.
                    let _ = if paged { cache.store.pages(&span, 500, 0, Duration::ZERO) } else { cache.store.stream(&span, 0) };
                }
            });
        }
    });
}

/// What a client may miss before it reads again, in bytes: up to more than a server holds for it, socket buffers included.
const MISSED: u64 = 8 << 20;

/// A watch of everything whose client does not read for a while, behind a small window, and then takes all that it has missed.
pub fn lag(run: &Run) {
    let store = Store::new(run);
    let mut random = run.random("lag");
    let mut follower = Follower::new("write to event: who lags", Span::everything(), 0, Cache::new());
    relist_follower(&store, &mut follower);
    while run.last().is_none() {
        let ended = lag_once(run, &mut follower, &mut random);
        resolve(run, &store, &mut follower, ended);
    }
    catch_up(run, &store, &mut follower);
    assert_is_listed(&store, &follower);
}

fn lag_once(run: &Run, follower: &mut Follower, random: &mut Random) -> Result<(), End> {
    let client = Client::connect_with_window(&run.target, 65_535)
        .map_err(|error| End::Lost(Status::new(Code::Unavailable, error.to_string())))?;
    let mut watching = Watching::open(&client, follower, random.below(2) == 0)?;
    loop {
        let enough = run.written() + random.below(MISSED);
        while run.written() < enough && run.loads_for(Duration::from_millis(50)) {}
        if !run.loads() {
            break;
        }
        let present = run.model.floor();
        hear_until(run, &mut watching, follower, present)?;
        run.figures.count("lags caught up with");
    }
    // The end of the load is not the end of the writers: what they still do comes, too.
    let present = run.model.floor();
    hear_until(run, &mut watching, follower, present)
}

/// A watch of pods whose client goes away and comes back where it was: after a while, or after so long that it has to list again.
pub fn drift(run: &Run, prefix: &str) {
    let store = Store::new(run);
    let mut random = run.random("drift");
    let mut follower = Follower::new("write to event: who was away", Span::prefix(prefix.to_owned()), 0, Cache::new());
    relist_follower(&store, &mut follower);
    while run.last().is_none() {
        let ended = stay(run, &store, &mut follower, &mut random);
        resolve(run, &store, &mut follower, ended);
        store.disconnect();
        let away = if random.below(3) == 0 { run.settings.compaction.mul_f64(2.2) } else { run.settings.compaction / 20 };
        run.loads_for(away.mul_f64(random.below(1_000) as f64 / 1e3));
    }
    catch_up(run, &store, &mut follower);
    assert_is_listed(&store, &follower);
}

fn stay(run: &Run, store: &Store, follower: &mut Follower, random: &mut Random) -> Result<(), End> {
    let until = Instant::now() + (run.settings.compaction / 10).mul_f64(random.below(1_000) as f64 / 1e3);
    let mut watching = Watching::open(&store.client(), follower, false)?;
    while Instant::now() < until && run.last().is_none() {
        run.model.end_if_failed();
        let take = |reply| follower.hear(reply, &run.model, &run.figures);
        watching.hear(run, Duration::from_millis(50), take).unwrap_or(Ok(()))?;
    }
    run.figures.count("watches left and resumed");
    Ok(())
}

/// Comes to the last revision of the run.
fn catch_up(run: &Run, store: &Store, follower: &mut Follower) {
    let last = run.last().expect("all writers have ended");
    while follower.reached() < last {
        let ended = Watching::open(&store.client(), follower, false)
            .and_then(|mut watching| hear_until(run, &mut watching, follower, last));
        resolve(run, store, follower, ended);
    }
}

fn hear_until(run: &Run, watching: &mut Watching, follower: &mut Follower, revision: i64) -> Result<(), End> {
    while follower.reached() < revision {
        run.model.end_if_failed();
        let take = |reply| follower.hear(reply, &run.model, &run.figures);
        match watching.hear(run, Duration::from_millis(100), take) {
            Some(heard) => heard?,
            None => watching.ask_progress()?,
        }
    }
    watching.forget_progress();
    Ok(())
}

/// Goes on after the end of a watch: where it was, or with a new list.
fn resolve(run: &Run, store: &Store, follower: &mut Follower, ended: Result<(), End>) {
    match ended {
        Ok(()) | Err(End::Left) => {}
        Err(End::Compacted) => relist_follower(store, follower),
        Err(End::Lost(status)) => {
            store.disconnect();
            run.expect_loss("a watch", &status);
        }
    }
}

fn relist_follower(store: &Store, follower: &mut Follower) {
    let span = follower.span().clone();
    loop {
        if let Ok(listed) = store.pages(&span, 500, 0, Duration::ZERO) {
            follower.relist(listed.revision, listed.cache);
            return;
        }
    }
}

/// The server's ends: SIGKILL and SIGTERM in turns, spread over the load.
pub fn restart_server(run: &Run) {
    let restarts = run.settings.restarts;
    let mut random = run.random("restarts");
    for n in 0..restarts {
        let pause = run.settings.load / (restarts + 1);
        if !run.loads_for(pause.mul_f64(0.8 + random.below(400) as f64 / 1e3)) {
            return;
        }
        run.restart_server(n % 3 != 2);
    }
}
