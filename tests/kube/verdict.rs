//! What logs and metrics tell of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::control_plane::ControlPlane;
use crate::support::Server;
use crate::support::http::get_plain;
use crate::support::wait::until_within;

/// Lines of Kubernetes that no store may ever be the cause of.
const NEVER: &[&str] = &[
    "panic:",
    "a panic",
    "panicked: true",
    "fatal error",
    "goroutine ",
    "consistency check failed",
    "consistency check error",
    "watch chan error",
    "event received with PrevKv=nil",
    "decode",
    "failed to sync with latest state",
    "failed to propagate object version",
    "failed to prepare current and previous objects",
    "etcd indicated there were more values remaining",
    "completed without a revision",
    "feature-support",
    "Failed to check",
];

/// No component has complained of what it read from the store.
#[track_caller]
pub fn assert_no_complaint(plane: &ControlPlane) {
    let logs = plane.logs();
    let complaint = |line: &&str| NEVER.iter().any(|word| line.contains(word));
    let found: Vec<String> =
        logs.iter().flat_map(|(name, log)| log.lines().filter(complaint).map(move |line| format!("{name}: {line}"))).collect();
    assert!(found.is_empty(), "complaints:\n{}", found.join("\n"));
}

/// What etcd warns of at every start with these flags.
const WARNED: &[&str] = &["Running http and grpc server on single port.", "simple token is not cryptographically signed"];

/// The server's log has nothing above level `info`.
#[track_caller]
pub fn assert_quiet(server: &Server) {
    let log = server.log();
    let loud = |line: &&str| {
        let entry: Value = serde_json::from_str(line).unwrap_or_default();
        let known = entry["msg"].as_str().is_some_and(|text| WARNED.iter().any(|known| text.starts_with(known)));
        entry["level"] != "info" && !known
    };
    let found: Vec<&str> = log.lines().filter(loud).collect();
    assert!(found.is_empty(), "the server logged:\n{}", found.join("\n"));
}

/// Every resource's cache has been compared with the store and found equal to it. Kubernetes does so between five and seven and a
/// half minutes after a cache has been made.
pub fn wait_for_consistency_checks(plane: &mut ControlPlane) -> usize {
    until_within("every cache to be checked", Duration::from_secs(540), Duration::from_secs(2), || {
        plane.assert_running();
        assert_no_complaint(plane);
        let metrics = plane.kubectl().raw("/metrics");
        let resources = |name: &str, label: &str| -> BTreeSet<(String, String)> {
            samples(&metrics, name)
                .filter(|(labels, value)| labels.contains(label) && *value > 0.0)
                .map(|(labels, _)| (label_of(labels, "group"), label_of(labels, "resource")))
                .collect()
        };
        let caches = resources("apiserver_watch_cache_initializations_total", "");
        assert!(caches.len() > 40, "caches: {caches:?}");
        let checked = resources("apiserver_storage_consistency_checks_total", "status=\"success\"");
        (caches.difference(&checked).count() == 0).then_some(checked.len())
    })
}

/// The calls that the server has answered since it started, printed. None has failed; a client that turns away cancels.
#[track_caller]
pub fn assert_calls_answered(server: &Server, when: &str) -> BTreeMap<String, u64> {
    let calls = calls(server);
    println!("calls {when}: {calls:#?}");
    let odd: Vec<_> = calls.keys().filter(|call| !call.ends_with(" OK") && !call.ends_with(" Canceled")).collect();
    assert!(odd.is_empty(), "calls that failed {when}: {odd:?}");
    calls
}

/// Calls that are over, by `Service/Method Code`.
fn calls(server: &Server) -> BTreeMap<String, u64> {
    let metrics = get_plain(server.ports().metrics, "/metrics").body;
    let call = |labels: &str| {
        let label = |name| label_of(labels, name);
        format!("{}/{} {}", label("grpc_service"), label("grpc_method"), label("grpc_code"))
    };
    let mut calls = BTreeMap::new();
    for (labels, value) in samples(&metrics, "grpc_server_handled_total").filter(|(_, value)| *value > 0.0) {
        *calls.entry(call(labels)).or_default() += value as u64;
    }
    calls
}

/// The samples of a metric: labels and value.
pub fn samples<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    metrics.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let labels = match labels {
            "" => "",
            braced => braced.strip_prefix('{')?.strip_suffix('}')?,
        };
        Some((labels, value.parse().ok()?))
    })
}

fn label_of(labels: &str, name: &str) -> String {
    let start = labels.find(&format!("{name}=\"")).map(|at| at + name.len() + 2);
    start.and_then(|start| labels[start..].split('"').next()).unwrap_or_default().to_owned()
}
