//! `/metrics`: what was counted, and what is read just now. Prometheus's text format only, as etcd, whose handler does not offer
//! OpenMetrics.

use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{Served, Subject, probes, respond};
use crate::config::{Config, ETCD_VERSION};
use crate::metrics::text::{CONTENT_TYPE, Label, Text};
use crate::metrics::{self, Counter, Gauge, process};
use crate::pb::etcdserverpb::AlarmType;
use crate::rpc::calls;
use crate::rpc::http::Body;
use crate::server::Handle;

static SCRAPES: Counter = Counter::new();
static SCRAPES_IN_FLIGHT: Gauge = Gauge::new();

/// A feature gate of etcd's: name, stage, and whether it is on.
pub type Feature = (&'static str, &'static str, bool);

/// Those of etcd's gates that mean something here.
pub fn features(config: &Config) -> Vec<Feature> {
    vec![
        ("InitialCorruptCheck", "ALPHA", config.initial_corrupt_check),
        // Not gated here: a lease never lives longer because of a restart.
        ("LeaseCheckpoint", "ALPHA", true),
        ("LeaseCheckpointPersist", "ALPHA", true),
    ]
}

/// Answers any method, as etcd does.
pub async fn answer(served: &Served, headers: &HeaderMap) -> Response<Body> {
    let _in_flight = SCRAPES_IN_FLIGHT.hold();
    let gzip = accepts_gzip(headers);
    let (server, features) = (served.server.clone(), served.features.clone());
    // The kernel is asked, the backend too, and a Pi takes a moment to compress it all.
    let body = smol::unblock(move || {
        let text = write(&server, &features).into_bytes();
        if gzip { compress(&text) } else { text }
    })
    .await;
    let mut response = respond(StatusCode::OK, Some(CONTENT_TYPE), body);
    if gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    SCRAPES.inc();
    response
}

fn write(server: &Arc<dyn Subject>, features: &[Feature]) -> String {
    let mut text = Text::new();
    server.figures(&mut text);
    let enabled: Vec<_> =
        features.iter().map(|(name, stage, on)| ([("name", *name), ("stage", *stage)], f64::from(*on))).collect();
    let enabled = enabled.iter().map(|(labels, on): &([Label<'_>; 2], f64)| (&labels[..], *on));
    text.values("etcd_server_feature_enabled", "1 if a feature is on, else 0.", enabled);
    metrics::families(&mut text);
    probes::families(&mut text);
    calls::families(&mut text);
    process::families(&mut text);
    text.gauge("promhttp_metric_handler_requests_in_flight", "Scrapes being answered.", &SCRAPES_IN_FLIGHT);
    // Nothing can fail while a scrape is answered; dashboards look for the other codes all the same.
    let scrapes = [([("code", "200")], SCRAPES.get() as f64), ([("code", "500")], 0.0), ([("code", "503")], 0.0)];
    let scrapes = scrapes.iter().map(|(labels, count)| (&labels[..], *count));
    text.counters("promhttp_metric_handler_requests_total", "Scrapes answered, by HTTP status.", scrapes);
    text.finish()
}

fn compress(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(16 * 1024), Compression::fast());
    encoder.write_all(text).and_then(|()| encoder.finish()).expect("memory takes what is written to it")
}

/// RFC 9110 §12.5.3.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = |weight: &str| {
            weight.split_once('=').is_some_and(|(q, weight)| q.eq_ignore_ascii_case("q") && weight.parse() == Ok(0.0_f32))
        };
        is_gzip && !parts.any(refused)
    })
}

/// What a server can tell of itself at any time.
pub fn figures(server: &Handle, text: &mut Text) {
    let this = server.header(0).member_id;
    identity(server, this, text);
    raft(server, this, text);
    store(server, text);
    watches(server, text);
    alarms(server, text);
}

fn hex(id: u64) -> String {
    format!("{id:x}")
}

fn identity(server: &Handle, this: u64, text: &mut Text) {
    let labels = [("server_version", ETCD_VERSION)];
    text.values("etcd_server_version", "1, with the version whose API is spoken as its label.", [(&labels[..], 1.0)]);
    if let Some(version) = server.cluster_version() {
        let minor = version.rsplit_once('.').map_or(&*version, |(minor, _patch)| minor);
        let labels = [("cluster_version", minor)];
        text.values("etcd_cluster_version", "1, with the version all members agree on as its label.", [(&labels[..], 1.0)]);
    }
    let id = hex(this);
    text.values("etcd_server_id", "1, with this member's id as its label.", [(&[("server_id", &*id)][..], 1.0)]);
    let peers: Vec<String> = server.members().iter().map(|member| hex(member.id.0)).collect();
    let labels: Vec<[Label<'_>; 2]> = peers.iter().map(|peer| [("Local", &*id), ("Remote", &**peer)]).collect();
    let known = labels.iter().map(|labels| (&labels[..], 1.0));
    text.values("etcd_network_known_peers", "1 for each member that is known, this one included.", known);
}

fn raft(server: &Handle, this: u64, text: &mut Text) {
    let leader = server.leader().map(|leader| leader.0);
    let flag = |text: &mut Text, name, help, on: bool| text.value(name, help, f64::from(on));
    flag(text, "etcd_server_has_leader", "1 if there is a leader, else 0.", leader.is_some());
    flag(text, "etcd_server_is_leader", "1 if this member leads, else 0.", leader == Some(this));
    flag(text, "etcd_server_is_learner", "1 if this member has no vote, else 0.", server.is_learner());
}

/// What the loop and the store know. A store that is broken has ended the process before anyone reads this.
fn store(server: &Handle, text: &mut Text) {
    let Ok(status) = server.status() else { return };
    text.value("etcd_server_proposals_committed_total", "The last index committed.", status.committed.0 as f64);
    text.value("etcd_server_proposals_applied_total", "The last index applied.", status.applied.0 as f64);
    text.value("etcd_server_quota_backend_bytes", "Bytes that the store may have; 0 for any.", status.quota_bytes as f64);
    let help = "Bytes of the store on disk, and of what waits to get there.";
    text.value("etcd_mvcc_db_total_size_in_bytes", help, status.db_bytes as f64);
    let help = "Bytes of the store that hold something.";
    text.value("etcd_mvcc_db_total_size_in_use_in_bytes", help, status.db_in_use_bytes as f64);
    let stats = server.store_stats();
    text.value("etcd_debugging_mvcc_keys_total", "Keys that exist.", stats.keys as f64);
    text.value("etcd_debugging_mvcc_current_revision", "The store's revision.", stats.current as f64);
    let help = "The revision of the last compaction; -1 before the first.";
    text.value("etcd_debugging_mvcc_compact_revision", help, stats.compacted as f64);
}

fn watches(server: &Handle, text: &mut Text) {
    let counters = server.watch_counters();
    text.value("etcd_debugging_mvcc_watch_stream_total", "Open streams of watches.", counters.streams() as f64);
    text.value("etcd_debugging_mvcc_watcher_total", "Watchers.", counters.watchers() as f64);
    let help = "Watchers that lag behind the store.";
    text.value("etcd_debugging_mvcc_slow_watcher_total", help, counters.slow_watchers() as f64);
    text.value("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.", counters.pending_events() as f64);
    let sent = [(&[][..], counters.events() as f64)];
    text.counters("etcd_debugging_mvcc_events_total", "Events sent by this member.", sent);
}

fn alarms(server: &Handle, text: &mut Text) {
    let alarms: Vec<(String, &str)> = server
        .alarms()
        .iter()
        .map(|alarm| (hex(alarm.member_id), AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name())))
        .collect();
    let labels: Vec<[Label<'_>; 2]> = alarms.iter().map(|(id, kind)| [("alarm_type", *kind), ("server_id", &**id)]).collect();
    text.values(
        "etcd_debugging_server_alarms",
        "1 for each alarm that is active.",
        labels.iter().map(|labels| (&labels[..], 1.0)),
    );
}
