//! Kubernetes 1.37's control plane on the server, over mutual TLS, with kubeadm's flags: `make test-kube`.
//!
//! The apiserver runs with both of its checkers on: it panics when a cache differs from the store
//! (`KUBE_WATCHCACHE_CONSISTENCY_CHECKER`) and when an event cannot be decoded (`KUBE_PANIC_WATCH_DECODE_ERROR`).

pub mod control_plane;
mod idle;
mod kubectl;
mod story;
mod verdict;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::Server;
use crate::support::requests::prefix;
use crate::support::wait::until;
use control_plane::ControlPlane;
use kubectl::{Kubectl, items, name, revision};
use story::{Watch, assert_in_order};

/// Where the objects live that have to survive.
const KEPT: &str = "kept";

/// Objects by name: uid and resource version, as the apiserver acknowledged them.
type Acknowledged = BTreeMap<String, (String, u64)>;

fn identity(object: &Value) -> (String, (String, u64)) {
    (name(object), (object["metadata"]["uid"].as_str().unwrap().to_owned(), revision(object)))
}

/// Creates objects until told to stop; a failure is no promise.
fn write(kubectl: &Kubectl, round: usize, acknowledged: &Mutex<Acknowledged>, stop: &AtomicBool) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("r{round}-{n}");
        if let Some(object) = kubectl.try_json(&["create", "configmap", &name, "-n", KEPT, "--from-literal=a=b"]) {
            acknowledged.lock().unwrap().extend([identity(&object)]);
        }
    }
}

/// Lists until told to stop: no list is older than the one before.
fn read(kubectl: &Kubectl, seen: &Mutex<u64>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Some(list) = kubectl.try_raw("/api/v1/configmaps?limit=1") {
            saw(seen, revision(&serde_json::from_str(&list).unwrap()));
        }
    }
}

#[track_caller]
fn saw(seen: &Mutex<u64>, now: u64) {
    let mut seen = seen.lock().unwrap();
    assert!(now >= *seen, "the resource version went back from {seen} to {now}");
    *seen = now;
}

/// kill -9 and restart under load; `meanwhile` is called while the server is down.
fn crash(
    server: &mut Server,
    kubectl: &Kubectl,
    round: usize,
    acknowledged: &Mutex<Acknowledged>,
    seen: &Mutex<u64>,
    meanwhile: impl FnOnce(),
) {
    let before = acknowledged.lock().unwrap().len();
    let more = || (acknowledged.lock().unwrap().len() >= before + 10).then_some(());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| write(kubectl, round, acknowledged, &stop));
        scope.spawn(|| read(kubectl, seen, &stop));
        let _stop = StopOnDrop(&stop);
        until("ten objects", more);
        verdict::assert_calls_answered(server, &format!("before crash {round}"));
        server.kill();
        let promised = acknowledged.lock().unwrap().clone();
        meanwhile();
        server.restart();
        until("the apiserver to be ready again", || kubectl.try_raw("/readyz"));
        let list = kubectl.json(&["get", "configmaps", "-n", KEPT]);
        let found: Acknowledged = items(&list).iter().map(identity).collect();
        for (name, object) in &promised {
            assert_eq!(found.get(name), Some(object), "{name} was acknowledged before crash {round}");
        }
        let before = acknowledged.lock().unwrap().len();
        until("ten objects after the crash", || (acknowledged.lock().unwrap().len() >= before + 10).then_some(()));
    });
}

/// A failing check must not leave the scope waiting for its threads.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The namespace and all that was in it are gone, in the store too.
fn assert_gone(server: &Server, kubectl: &Kubectl, namespace: &str) {
    until(&format!("the end of namespace {namespace}"), || {
        kubectl.stdout(&["get", "namespace", namespace, "--ignore-not-found"]).is_empty().then_some(())
    });
    for resource in ["configmaps", "pods", "secrets", "serviceaccounts", "deployments", "replicasets", "bramble.example"] {
        let all = server.client().call(&prefix(format!("/registry/{resource}/")));
        let inside = format!("/{namespace}/");
        let left: Vec<_> = all.kvs.iter().filter(|kv| String::from_utf8_lossy(&kv.key).contains(&inside)).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

#[test]
#[ignore = "takes eight minutes and Kubernetes' binaries: make test-kube"]
fn kubernetes_cannot_tell_it_from_etcd() {
    let mut server = Server::builder().kubeadm().start();
    let mut plane = ControlPlane::start(&server);
    let kubectl = plane.kubectl().clone();
    let (acknowledged, seen) = (Mutex::default(), Mutex::default());

    story::live_in(&kubectl, "first");
    let calls = verdict::assert_calls_answered(&server, "in the first namespace");
    assert!(calls.contains_key("etcdserverpb.KV/RangeStream OK"), "caches are filled by streams");
    kubectl.stdout(&["create", "namespace", KEPT]);
    let mut watch = Watch::open(&kubectl, KEPT, "configmaps");

    // Back before Kubernetes has noticed.
    crash(&mut server, &kubectl, 1, &acknowledged, &seen, || {});
    // Down until the apiserver has noticed, in the middle of a namespace's end.
    kubectl.stdout(&["delete", "namespace", "first", "--wait=false"]);
    crash(&mut server, &kubectl, 2, &acknowledged, &seen, || {
        until("the apiserver to miss its store", || kubectl.try_raw("/readyz").is_none().then_some(()));
    });
    assert_gone(&server, &kubectl, "first");

    // The watch has outlived both crashes and shows everything, once, in order.
    let acknowledged = acknowledged.into_inner().unwrap();
    let added = |events: &[story::Event]| -> BTreeMap<String, (String, u64)> {
        events.iter().filter(|event| event.kind == "ADDED").map(|event| identity(&event.object)).collect()
    };
    let events = watch.wait_for("every object", |events| {
        let added = added(events);
        acknowledged.keys().all(|name| added.contains_key(name))
    });
    assert_in_order(&events);
    assert!(acknowledged.iter().all(|(name, object)| added(&events).get(name) == Some(object)));

    // And life goes on.
    story::live_in(&kubectl, "second");
    kubectl.stdout(&["delete", "namespace", "second", "--timeout=60s"]);
    assert_gone(&server, &kubectl, "second");
    drop(watch);

    idle::measure(&server, Duration::from_secs(150));
    let checked = verdict::wait_for_consistency_checks(&mut plane);
    println!("{checked} caches are equal to the store");
    saw(&seen, revision(&serde_json::from_str(&kubectl.raw("/api/v1/configmaps?limit=1")).unwrap()));
    println!("{}", kubectl.raw("/readyz?verbose"));
    verdict::assert_calls_answered(&server, "since crash 2");
    plane.assert_running();
    verdict::assert_no_complaint(&plane);
    verdict::assert_quiet(&server);
}
