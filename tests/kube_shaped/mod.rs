//! Kubernetes' load without Kubernetes: its keys, request shapes, sizes and rates, 66 connections and 58 watches, while a model
//! checks every answer and every event. What the real control plane cannot show is seen here: each single row, event and revision.
//!
//! - [`history`] is the model: what the store has to hold at each revision. [`model`] shares it.
//! - [`store`] has the apiserver's requests and checks their answers, [`follower`] checks a watch, [`cache`] is a resource's cache.
//! - [`apiserver`], [`cluster`] and [`disturbance`] are who asks for what, and when.
//!
//! The server under test may be etcd (`BRAMBLE_BIN`): so the model is checked, and figures are had to compare with.
//! `make kube-shaped SEED= MINUTES= RATE= RESTARTS=` plays it for as long as one likes. The seed determines what is done, not when.

mod apiserver;
mod cache;
mod cluster;
mod disturbance;
mod figures;
mod follower;
mod history;
mod model;
pub mod resources;
mod run;
mod store;

use std::str::FromStr;
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::support::Server;
use crate::support::server::Ports;
use apiserver::Apiserver;
use cluster::Cluster;
use resources::Resource;
use run::{Run, Settings, Watchdog};

/// Workers that fill a fresh store, and that replace pods.
const POPULATORS: usize = 16;
const WORKERS: usize = 4;

/// Plays a run and prints what it measured.
fn play(settings: Settings, server: Server) {
    println!("{settings:?}");
    let run = &Run::new(settings, server);
    let api = &Apiserver::new(run);
    let cluster = &Cluster::new(run, api);
    let took = with(run, |everybody| {
        everybody.spawn(|| apiserver::audit(run));
        fill(run, cluster);
        let took = with(run, |watchers| {
            for cache in &api.caches {
                watchers.spawn(|| cache.keep());
            }
            watchers.spawn(|| disturbance::lag(run));
            for resource in ["pods", "events"] {
                watchers.spawn(move || disturbance::drift(run, &Resource::named(resource).prefix()));
            }
            let begun = Instant::now();
            load(run, api, cluster);
            let took = begun.elapsed();
            run.set_last(api.other.current_revision("/registry/the end"));
            took
        });
        api.other.check_leases();
        run.close();
        took
    });
    run.figures.tell(took, &run.usage());
    run.model.tell(|history| {
        let (expiries, resolved) = history.resolved();
        println!("{} revisions, {expiries} of them the ends of leases; {resolved} lost writes were done", history.applied());
        Ok(())
    });
}

/// Fills the fresh store.
fn fill(run: &Run, cluster: &Cluster) {
    with(run, |populators| {
        for part in 0..POPULATORS {
            populators.spawn(move || cluster.populate(part, POPULATORS));
        }
    });
    cluster.bootstrap_k3s();
}

/// Everybody who asks for something, until the time is over.
fn load<'a>(run: &'a Run, api: &'a Apiserver<'a>, cluster: &'a Cluster<'a>) {
    with(run, |load| {
        for component in ["kube-controller-manager", "kube-scheduler", "cloud-controller-manager"] {
            load.spawn(move || cluster.renew_leader(component));
        }
        load.spawn(|| cluster.renew(&Resource::named("leases").key_in("kube-system", "apiserver-1"), 10.0));
        load.spawn(|| cluster.renew_endpoint("/registry/masterleases/10.0.0.1", 63));
        load.spawn(|| cluster.renew_endpoint("/registry/peerserverleases/apiserver-1", 140));
        load.spawn(|| cluster.reconcile_service());
        load.spawn(|| cluster.run_kubelets());
        for worker in ["first", "second", "third", "fourth"] {
            load.spawn(move || cluster.churn(worker, WORKERS));
        }
        // Two apiservers, whose compactors meet at the lock.
        load.spawn(|| api.compact_periodically());
        load.spawn(|| api.compact_periodically());
        load.spawn(|| api.follow_compactions());
        load.spawn(|| api.list_consistently());
        load.spawn(|| api.list_in_pages());
        load.spawn(|| api.read_the_past());
        load.spawn(|| api.check_caches());
        load.spawn(|| api.count_objects());
        load.spawn(|| api.probe("livez"));
        load.spawn(|| api.probe("readyz"));
        load.spawn(|| api.scrape());
        load.spawn(|| disturbance::bursts(run, api, cluster));
        load.spawn(|| disturbance::restart_server(run));
        run.loads_for(run.settings.load);
        run.end_load();
    });
}

/// Threads that end together: one that fails ends all others.
struct Threads<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    run: &'scope Run,
}

impl<'scope> Threads<'scope, '_> {
    fn spawn(&self, work: impl FnOnce() + Send + 'scope) {
        let run = self.run;
        self.scope.spawn(move || {
            let _watchdog = Watchdog(run);
            work();
        });
    }
}

/// Runs `work` and waits for the threads that it has started.
fn with<'env, T>(run: &'env Run, work: impl for<'scope> FnOnce(&Threads<'scope, 'env>) -> T) -> T {
    std::thread::scope(|scope| {
        let _watchdog = Watchdog(run);
        work(&Threads { scope, run })
    })
}

/// Small and fast: half a minute of it is a quarter of an hour of a cluster's.
fn small(seed: u64, restarts: u32) -> Settings {
    Settings {
        seed,
        nodes: 5,
        pods: 8,
        load: Duration::from_secs(18),
        rate: 5.0,
        churn: 0.5,
        compaction: Duration::from_secs(4),
        event_ttl: 10,
        burst: Duration::from_secs(3),
        restarts,
    }
}

#[test]
fn every_answer_and_event_is_right_under_the_load_of_kubernetes() {
    play(small(1, 0), Server::builder().kubeadm().start());
}

#[test]
fn every_answer_and_event_is_right_while_the_server_is_killed_and_restarted() {
    play(Settings { event_ttl: 3, ..small(2, 4) }, plain());
}

/// Without TLS, often with progress, and with leases short enough to end between two restarts.
fn plain() -> Server {
    let ports = Ports::free();
    let metrics = format!("--listen-metrics-urls=http://127.0.0.1:{}", ports.metrics);
    Server::builder()
        .ports(ports)
        .flag(metrics)
        .flag("--watch-progress-notify-interval=1s")
        .flag("--heartbeat-interval=100")
        .flag("--election-timeout=1000")
        .start()
}

/// `SEED`, `MINUTES`, `RATE` (times that of Kubernetes), `RESTARTS`, `NODES`, `PODS` (on each), `COMPACTION` (seconds between two).
#[test]
#[ignore = "as long as one likes: make kube-shaped SEED= MINUTES= RATE= RESTARTS="]
fn many_minutes_of_the_load_of_kubernetes() {
    let compaction = number("COMPACTION", 60);
    let settings = Settings {
        seed: number("SEED", 1),
        nodes: number("NODES", 10),
        pods: number("PODS", 30),
        load: Duration::from_secs_f64(60.0 * number("MINUTES", 10.0)),
        rate: number("RATE", 1.0),
        churn: 0.5,
        compaction: Duration::from_secs(compaction),
        event_ttl: 2 * compaction as i64,
        burst: Duration::from_secs(compaction) / 2,
        restarts: number("RESTARTS", 0),
    };
    play(settings, Server::builder().kubeadm().start());
}

fn number<T: FromStr<Err: std::fmt::Debug>>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}
