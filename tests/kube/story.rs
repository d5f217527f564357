//! What people do with a cluster, each step checked.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::kubectl::{Kubectl, items, name, revision};
use crate::support::command::Running;
use crate::support::wait::{DEADLINE, until};

const MAPS: usize = 20;
const GROUP: &str = "bramble.example";

/// Everything but the end of the namespace.
pub fn live_in(kubectl: &Kubectl, namespace: &str) {
    kubectl.stdout(&["create", "namespace", namespace]);
    create_maps(kubectl, namespace);
    list_in_chunks(kubectl, namespace);
    label_under_watch(kubectl, namespace);
    deploy(kubectl, namespace);
    define_a_kind(kubectl, namespace);
}

fn create_maps(kubectl: &Kubectl, namespace: &str) {
    let map = |n: usize| {
        let name = format!("map-{n:02}");
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": {"n": n.to_string()}})
    };
    let maps: Vec<Value> = (0..MAPS).map(map).collect();
    kubectl.create(&json!({"apiVersion": "v1", "kind": "List", "items": maps}));
    // The controller manager adds the cluster's authority to every namespace.
    until("kube-root-ca.crt", || kubectl.try_json(&["get", "configmap", "kube-root-ca.crt", "-n", namespace]));
}

/// Pages have one resource version, tell how much is left, and hold every object once.
fn list_in_chunks(kubectl: &Kubectl, namespace: &str) {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps?limit=7");
    let (mut from, mut left) = (String::new(), MAPS + 1);
    let (mut found, mut revisions) = (Vec::new(), BTreeSet::new());
    loop {
        let page: Value = serde_json::from_str(&kubectl.raw(&format!("{path}{from}"))).unwrap();
        found.extend(items(&page).iter().map(name));
        revisions.insert(revision(&page));
        left -= items(&page).len();
        assert_eq!(page["metadata"]["remainingItemCount"].as_u64().unwrap_or(0), left as u64, "{path}{from}");
        match page["metadata"]["continue"].as_str() {
            Some(token) => from = format!("&continue={token}"),
            None => break,
        }
    }
    assert_eq!(revisions.len(), 1, "one list is of one resource version");
    let expected: Vec<String> =
        std::iter::once("kube-root-ca.crt".to_owned()).chain((0..MAPS).map(|n| format!("map-{n:02}"))).collect();
    assert_eq!(found, expected);
    let whole = kubectl.stdout(&["get", "configmaps", "-n", namespace, "--chunk-size=7", "-o", "name"]);
    assert_eq!(whole.lines().count(), MAPS + 1);
}

fn label_under_watch(kubectl: &Kubectl, namespace: &str) {
    let mut watch = Watch::open(kubectl, namespace, "configmaps");
    kubectl.stdout(&["label", "configmaps", "-n", namespace, "--all", "story=told"]);
    let labelled = |event: &Event| event.kind == "MODIFIED" && event.object["metadata"]["labels"]["story"] == "told";
    let events = watch.wait_for("every label", |events| events.iter().filter(|event| labelled(event)).count() == MAPS + 1);
    assert!(events.iter().all(labelled), "nothing else happened: {events:?}");
    assert_in_order(&events);
    let names: BTreeSet<String> = events.iter().map(|event| name(&event.object)).collect();
    assert_eq!(names.len(), MAPS + 1);
}

/// Resource versions of events only grow.
#[track_caller]
pub fn assert_in_order(events: &[Event]) {
    let order: Vec<u64> = events.iter().map(|event| revision(&event.object)).collect();
    assert!(order.is_sorted_by(|a, b| a < b), "events are out of order: {order:?}");
}

/// There is no node: the pods stay pending, and the scheduler says why.
fn deploy(kubectl: &Kubectl, namespace: &str) {
    kubectl.stdout(&["create", "deployment", "web", "-n", namespace, "--image=registry.example/web", "--replicas=3"]);
    until("three pods that cannot be scheduled", || {
        let pods = kubectl.json(&["get", "pods", "-n", namespace, "-l", "app=web"]);
        let unschedulable = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array();
            let told = conditions.is_some_and(|all| all.iter().any(|one| one["reason"] == "Unschedulable"));
            told && pod["status"]["phase"] == "Pending"
        };
        (items(&pods).len() == 3 && items(&pods).iter().all(unschedulable)).then_some(())
    });
    let deployment = kubectl.json(&["get", "deployment", "web", "-n", namespace]);
    assert_eq!(deployment["status"]["unavailableReplicas"], 3, "{deployment}");
}

/// A kind of our own (one for each namespace of the story), and an object of it.
fn define_a_kind(kubectl: &Kubectl, namespace: &str) {
    let (plural, kind) = (format!("{namespace}thorns"), format!("{namespace}thorn"));
    let crd = format!("{plural}.{GROUP}");
    kubectl.create(&json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": crd},
        "spec": {
            "group": GROUP, "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind, "kind": kind},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {"spec": {"type": "object", "properties": {"length": {"type": "integer"}}}},
                }},
            }],
        },
    }));
    kubectl.stdout(&["wait", "--for=condition=Established", "--timeout=60s", &format!("crd/{crd}")]);
    let thorn = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {"name": "sharp", "namespace": namespace}, "spec": {"length": 7},
    });
    // Established comes a moment before the apiserver serves the kind everywhere.
    until("the object of the new kind", || {
        (kubectl.run(&["create", "-f", "-"], &thorn.to_string()).code == Some(0)).then_some(())
    });
    assert_eq!(kubectl.json(&["get", &crd, "sharp", "-n", namespace])["spec"]["length"], 7);
}

/// What an event of a watch says.
#[derive(Clone, Debug)]
pub struct Event {
    /// ADDED, MODIFIED, DELETED.
    pub kind: String,
    /// The object after it, for DELETED before it.
    pub object: Value,
}

/// A watch on a resource of a namespace, from the moment it was opened.
pub struct Watch {
    running: Running,
}

impl Watch {
    /// Opens it behind a list, as clients do.
    pub fn open(kubectl: &Kubectl, namespace: &str, resource: &str) -> Watch {
        let path = format!("/api/v1/namespaces/{namespace}/{resource}");
        let list: Value = serde_json::from_str(&kubectl.raw(&path)).unwrap();
        let path = format!("{path}?watch=1&timeoutSeconds=3600&resourceVersion={}", revision(&list));
        Watch { running: kubectl.spawn(&["get", "--raw", &path], "") }
    }

    /// Waits until the events so far are `enough`, and gives them.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        let came = self.running.wait_for(DEADLINE, |text| enough(&events(text)));
        let output = self.running.so_far();
        assert!(came, "the watch does not show {what}: {}{}", output.text(), output.stderr);
        events(&output.text())
    }
}

/// Whole lines only: the last one may still be on its way.
fn events(text: &str) -> Vec<Event> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let event = |line: &str| {
        let mut event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Event { kind: event["type"].as_str().expect("a type").to_owned(), object: event["object"].take() }
    };
    whole.lines().map(event).collect()
}
