//! Kubernetes' own control plane, left idle.

use std::time::Duration;

use super::{Pair, disk, idle_rows, minutes, named};
use crate::bench::report::Report;
use crate::kube::control_plane::ControlPlane;
use crate::support::server::Builder;

/// After its start it creates what every cluster has, and fills its caches.
const TO_SETTLE: Duration = Duration::from_secs(120);

#[test]
#[ignore = "make bench-flash-kube MINUTES=: takes Kubernetes' binaries"]
fn table_of_wear_under_an_idle_control_plane() {
    let length = minutes();
    let Some(mut pair) = Pair::start(Builder::kubeadm) else { return };
    let mut report = Report::begin(&named("flash-kube"), &disk());
    report.note(&format!("MINUTES={}", length.as_secs_f64() / 60.0));
    pair.warm_up();
    let mut planes = pair.each(|side| ControlPlane::start(&side.server));
    std::thread::sleep(TO_SETTLE);
    let wear = pair.measure_together(|_| {
        std::thread::sleep(length);
        1
    });
    planes.ours.assert_running();
    planes.etcd.assert_running();
    drop(planes);
    idle_rows(&mut report, "idle control plane of Kubernetes", &wear);
    report.raw("idle control plane of Kubernetes", &wear);
    report.end();
}
