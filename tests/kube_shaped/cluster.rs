//! The cluster behind the apiserver: leaders and kubelets that renew their leases, and pods that come and go with all that their
//! coming and going writes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::apiserver::Apiserver;
use super::resources::{RESOURCES, Resource};
use super::run::Run;
use super::store::{Store, Written};
use crate::support::random::Random;
use crate::support::requests::prefix_end;

/// A pod, and when it was last modified.
pub struct Pod {
    name: String,
    modified: i64,
}

const NAMESPACE: &str = "default";

/// The masters' leases have this TTL, and a new etcd lease at every renewal.
const MASTER_LEASE_TTL: i64 = 15;

/// The cluster.
pub struct Cluster<'a> {
    run: &'a Run,
    api: &'a Apiserver<'a>,
    /// By node.
    pods: Vec<Mutex<Vec<Pod>>>,
    named: Mutex<u64>,
}

impl<'a> Cluster<'a> {
    /// Nothing yet.
    pub fn new(run: &'a Run, api: &'a Apiserver<'a>) -> Cluster<'a> {
        let pods = (0..run.settings.nodes).map(|_| Mutex::default()).collect();
        Cluster { run, api, pods, named: Mutex::new(0) }
    }

    fn pods(&self, node: usize) -> MutexGuard<'_, Vec<Pod>> {
        self.pods[node].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a fresh cluster has, and its nodes with their pods; `part` of `parts` at once.
    pub fn populate(&self, part: usize, parts: usize) {
        let mut random = self.run.random(&format!("populate {part}"));
        let objects = RESOURCES.iter().flat_map(|resource| (0..resource.count).map(move |n| (resource, n)));
        for (resource, n) in objects.skip(part).step_by(parts) {
            self.api.put_object(resource, &resource.key(n), 0, &mut random);
        }
        for node in (part..self.run.settings.nodes).step_by(parts) {
            for resource in ["minions", "csinodes"].map(Resource::named) {
                self.api.put_object(resource, &resource.key_of(&format!("node-{node}")), 0, &mut random);
            }
            for _ in 0..self.run.settings.pods {
                self.start_pod(node, &mut random);
            }
        }
    }

    /// What k3s keeps for itself, in the shapes of kine's client: a lock that becomes the encrypted CA bundle.
    pub fn bootstrap_k3s(&self) {
        let mut random = self.run.random("k3s");
        let store = Store::new(self.run);
        let key = Bytes::from_static(b"/bootstrap/0123456789ab");
        let span = super::history::Span { key: Bytes::from_static(b"/bootstrap"), end: prefix_end("/bootstrap") };
        let before = store.pages(&span, 0, 0, std::time::Duration::ZERO).expect("the present is not compacted");
        assert!(before.cache.is_empty(), "a fresh store");
        let locked = self.api.put(&store, &key, 0, 20, || 0, &mut random);
        self.api.put(&store, &key, locked, 12_500, || 0, &mut random);
    }

    /// The components that elect a leader, each of which renews its lease every two seconds.
    pub fn renew_leader(&self, component: &str) {
        self.renew(&Resource::named("leases").key_in("kube-system", component), 2.0);
    }

    /// A lease object, renewed every so many seconds.
    pub fn renew(&self, key: &Bytes, seconds: f64) {
        let mut modified = 0;
        self.run.every(self.run.period(seconds), &mut self.run.random(&format!("{key:?}")), |random| {
            modified = self.api.put_object(Resource::named("leases"), key, modified, random);
        });
    }

    /// An apiserver's entry among its peers: written every ten seconds with a lease of its own, read before.
    pub fn renew_endpoint(&self, key: &'static str, size: usize) {
        let store = Store::new(self.run);
        let key = Bytes::from_static(key.as_bytes());
        self.run.every(self.run.period(10.0), &mut self.run.random("endpoint"), |random| {
            let believed = store.get(&key).map_or(0, |kv| kv.mod_revision);
            self.api.put(&store, &key, believed, size, || store.grant(MASTER_LEASE_TTL), random);
        });
    }

    /// What the apiserver looks at every ten seconds for the `kubernetes` service.
    pub fn reconcile_service(&self) {
        let masters = super::history::Span::prefix("/registry/masterleases/");
        self.run.every(self.run.period(10.0), &mut self.run.random("service"), |_| {
            for path in ["services/endpoints", "endpointslices"] {
                let resource = Resource::named(path);
                self.api.cache(path).store.get(&resource.key_in("default", "kubernetes"));
            }
            for key in ["/registry/masterleases/10.0.0.1", "/registry/peerserverleases/apiserver-1"] {
                self.api.other.get(&Bytes::from_static(key.as_bytes()));
            }
            let _ = self.api.other.pages(&masters, 0, 0, std::time::Duration::ZERO);
        });
    }

    /// All kubelets: a lease every ten seconds, the status every five minutes.
    pub fn run_kubelets(&self) {
        let nodes = self.run.settings.nodes;
        let (leases, minions) = (Resource::named("leases"), Resource::named("minions"));
        let mut modified = vec![(0, 0); nodes];
        let mut turn = 0;
        self.run.every(self.run.period(10.0 / nodes as f64), &mut self.run.random("kubelets"), |random| {
            let node = turn % nodes;
            let name = format!("node-{node}");
            let (lease, status) = &mut modified[node];
            *lease = self.api.put_object(leases, &leases.key_in("kube-node-lease", &name), *lease, random);
            if (turn / nodes + node).is_multiple_of(30) {
                *status = self.api.put_object(minions, &minions.key_of(&name), *status, random);
            }
            turn += 1;
        });
    }

    /// Pods that are replaced, one after the other.
    pub fn churn(&self, worker: &str, workers: usize) {
        let period = self.run.period(workers as f64 / self.run.settings.churn);
        self.run.every(period, &mut self.run.random(worker), |random| {
            let node = random.below(self.pods.len() as u64) as usize;
            let pod = {
                let mut pods = self.pods(node);
                if pods.is_empty() { None } else { Some(random.below(pods.len() as u64) as usize).map(|at| pods.swap_remove(at)) }
            };
            if let Some(pod) = pod {
                self.stop_pod(&pod, random);
            }
            self.start_pod(random.below(self.pods.len() as u64) as usize, random);
        });
    }

    /// A pod's birth: created, bound, pulled, started, seen by its service and its replica set.
    pub fn start_pod(&self, node: usize, random: &mut Random) {
        let number = {
            let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            *named += 1;
            *named
        };
        let name = format!("web-6d4b75cb6d-{number:07}");
        let pods = Resource::named("pods");
        let key = pods.key_in(NAMESPACE, &name);
        let mut modified = self.api.put_object(pods, &key, 0, random);
        for step in ["Scheduled", "Pulled", "Started"] {
            self.record(&name, step, random);
            // Sometimes what is believed is out of date already.
            let believed = if random.below(10) == 0 { modified - 1 } else { modified };
            modified = self.api.put_object(pods, &key, believed.max(1), random);
        }
        self.count_pod(random);
        self.pods(node).push(Pod { name, modified });
    }

    /// A pod's death: marked, killed, gone, and missed by its service and its replica set.
    pub fn stop_pod(&self, pod: &Pod, random: &mut Random) {
        let pods = Resource::named("pods");
        let key = pods.key_in(NAMESPACE, &pod.name);
        let marked = self.api.put_object(pods, &key, pod.modified, random);
        self.record(&pod.name, "Killing", random);
        let stopped = self.api.put_object(pods, &key, marked, random);
        self.api.delete_object(pods, &key, stopped);
        self.count_pod(random);
    }

    /// All pods of a node are stopped, by several workers at once, and started elsewhere.
    pub fn drain(&self, node: usize, random: &mut Random) {
        let drained = Mutex::new(std::mem::take(&mut *self.pods(node)));
        let next = || drained.lock().unwrap_or_else(PoisonError::into_inner).pop();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (mut random, next) = (random.fork(), &next);
                scope.spawn(move || {
                    let _watchdog = super::run::Watchdog(self.run);
                    while let Some(pod) = next() {
                        self.stop_pod(&pod, &mut random);
                        self.start_pod(random.below(self.pods.len() as u64) as usize, &mut random);
                    }
                });
            }
        });
        self.run.figures.count("nodes drained");
    }

    /// Many events at once.
    pub fn storm(&self, events: usize, random: &mut Random) {
        std::thread::scope(|scope| {
            for worker in 0..16 {
                let mut random = random.fork();
                scope.spawn(move || {
                    let _watchdog = super::run::Watchdog(self.run);
                    for n in (worker..events).step_by(16) {
                        self.record(&format!("storm-{n}"), "BackOff", &mut random);
                    }
                });
            }
        });
        self.run.figures.count("event storms");
    }

    /// A Helm release: the largest objects that there are, replaced all at once.
    pub fn release(&self, random: &mut Random) {
        let secrets = Resource::named("secrets");
        let store = &self.api.cache(secrets.path).store;
        let keys: Vec<Bytes> = (0..8).map(|n| secrets.key_in(NAMESPACE, &format!("sh.helm.release.v1.web.v{n}"))).collect();
        let written: Vec<i64> =
            keys.iter().map(|key| self.api.put(store, key, 0, 100_000 + random.below(700_000) as usize, || 0, random)).collect();
        for (key, modified) in keys.iter().zip(written) {
            self.api.delete_object(secrets, key, modified);
        }
        self.run.figures.count("releases");
    }

    /// An event of an object, on the events' lease; one in five is counted up afterwards.
    fn record(&self, object: &str, reason: &str, random: &mut Random) {
        let events = Resource::named("events");
        let store = &self.api.cache("events").store;
        let key = events.key_in(NAMESPACE, &format!("{object}.{reason}.{:016x}", random.next()));
        let created = self.api.put(store, &key, 0, events.size, || self.api.event_lease(), random);
        if random.below(5) == 0 {
            let value = self.run.value(events.size, random);
            // It may have ended with its lease, and is not written again then.
            if let Written::Lost = store.update(&key, created, &value, self.api.event_lease()) {
                store.get(&key);
            }
        }
    }

    /// Objects that everybody writes: the endpoints of the service, the status of the replica set.
    fn count_pod(&self, random: &mut Random) {
        for path in ["endpointslices", "replicasets"] {
            let resource = Resource::named(path);
            let key = resource.key(0);
            let believed = self.api.cache(path).store.get(&key).map_or(0, |kv| kv.mod_revision);
            self.api.put_object(resource, &key, believed, random);
        }
    }
}
