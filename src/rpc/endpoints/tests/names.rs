//! The names that `/metrics` must have, and those of etcd 3.7.3's that it leaves out, each with its reason.

use super::*;
use crate::config::{Command, Program};
use crate::host::Host;
use crate::pb::etcdserverpb::AlarmRequest;
use crate::rpc::calls::{self, Shape};
use crate::rpc::services::Method as Called;
use crate::rpc::status::Code;
use crate::server::Server;
use crate::wal::Metered;

const COUNTERS: &[&str] = &[
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_renewed_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_mvcc_db_compaction_keys_total",
    "etcd_debugging_mvcc_events_total",
    "etcd_debugging_server_lease_expired_total",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_put_total",
    "etcd_mvcc_range_total",
    "etcd_mvcc_txn_total",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_server_client_requests_total",
    "etcd_server_health_failures",
    "etcd_server_health_success",
    "etcd_server_healthchecks_total",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "grpc_server_handled_total",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
    "grpc_server_started_total",
    "process_cpu_seconds_total",
    "process_network_receive_bytes_total",
    "process_network_transmit_bytes_total",
    "promhttp_metric_handler_requests_total",
];

const GAUGES: &[&str] = &[
    "etcd_cluster_version",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_db_compaction_last",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_total_put_size_in_bytes",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_server_alarms",
    "etcd_disk_defrag_inflight",
    "etcd_disk_wal_write_bytes_total",
    "etcd_mvcc_db_open_read_transactions",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_known_peers",
    "etcd_server_feature_enabled",
    "etcd_server_has_leader",
    "etcd_server_healthcheck",
    "etcd_server_id",
    "etcd_server_is_leader",
    "etcd_server_is_learner",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "etcd_server_version",
    "os_fd_limit",
    "os_fd_used",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
    "promhttp_metric_handler_requests_in_flight",
];

const HISTOGRAMS: &[&str] = &[
    "etcd_debugging_lease_ttl_total",
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_disk_backend_defrag_duration_seconds",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_wal_write_duration_seconds",
    "etcd_mvcc_hash_duration_seconds",
    "etcd_mvcc_hash_rev_duration_seconds",
    "etcd_server_apply_duration_seconds",
    "etcd_server_range_duration_seconds",
    "etcd_server_request_duration_seconds",
];

/// With `--metrics=extensive` only, which the other tests of the process must not notice.
const EXTENSIVE: &str = "grpc_server_handling_seconds";

/// Beside these all of `go_*`: there is no Go runtime.
const LEFT_OUT: &[(&str, &str)] = &[
    ("etcd_debugging_auth_revision", "authentication comes later"),
    ("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "phases of bbolt's commit"),
    ("etcd_debugging_disk_backend_commit_spill_duration_seconds", "phases of bbolt's commit"),
    ("etcd_debugging_disk_backend_commit_write_duration_seconds", "phases of bbolt's commit"),
    (
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "rows are removed with a checkpoint, which makes nobody wait",
    ),
    (
        "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
        "the driver of a stream hands on what is encoded already: there is no loop to time",
    ),
    (
        "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
        "the driver of a stream hands on what is encoded already: there is no loop to time",
    ),
    (
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
        "the driver of a stream hands on what is encoded already: there is no loop to time",
    ),
    (
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
        "the driver of a stream hands on what is encoded already: there is no loop to time",
    ),
    (
        "etcd_debugging_snap_save_marshalling_duration_seconds",
        "files of etcd's snapshots: a checkpoint is one file, timed as the backend's commit",
    ),
    (
        "etcd_debugging_snap_save_total_duration_seconds",
        "files of etcd's snapshots: a checkpoint is one file, timed as the backend's commit",
    ),
    ("etcd_debugging_store_expires_total", "the store of etcd 2"),
    ("etcd_debugging_store_reads_total", "the store of etcd 2"),
    ("etcd_debugging_store_watch_requests_total", "the store of etcd 2"),
    ("etcd_debugging_store_watchers", "the store of etcd 2"),
    ("etcd_debugging_store_writes_total", "the store of etcd 2"),
    ("etcd_disk_backend_snapshot_duration_seconds", "comes with the Snapshot method"),
    ("etcd_grpc_proxy_cache_hits_total", "the proxy is another program"),
    ("etcd_grpc_proxy_cache_keys_total", "the proxy is another program"),
    ("etcd_grpc_proxy_cache_misses_total", "the proxy is another program"),
    ("etcd_grpc_proxy_events_coalescing_total", "the proxy is another program"),
    ("etcd_grpc_proxy_watchers_coalescing_total", "the proxy is another program"),
    ("etcd_server_go_version", "not written in Go"),
    ("etcd_server_heartbeat_send_failures_total", "needs other members"),
    ("etcd_server_learner_promote_successes", "needs other members"),
    ("etcd_server_snapshot_apply_in_progress_total", "needs other members"),
    ("etcd_snap_db_fsync_duration_seconds", "files of etcd's snapshots: a checkpoint is one file, timed as the backend's commit"),
    (
        "etcd_snap_db_save_total_duration_seconds",
        "files of etcd's snapshots: a checkpoint is one file, timed as the backend's commit",
    ),
    ("etcd_snap_fsync_duration_seconds", "files of etcd's snapshots: a checkpoint is one file, timed as the backend's commit"),
    ("etcd_network_active_peers", "needs other members"),
    ("etcd_network_disconnected_peers_total", "needs other members"),
    ("etcd_network_peer_sent_bytes_total", "needs other members"),
    ("etcd_network_peer_received_bytes_total", "needs other members"),
    ("etcd_network_peer_sent_failures_total", "needs other members"),
    ("etcd_network_peer_received_failures_total", "needs other members"),
    ("etcd_network_peer_round_trip_time_seconds", "needs other members"),
    ("etcd_network_snapshot_send_total_duration_seconds", "needs other members"),
    ("etcd_network_snapshot_receive_total_duration_seconds", "needs other members"),
    ("etcd_network_server_stream_failures_total", "needs other members: its streams are theirs"),
    ("etcd_server_learner_promote_failures", "needs other members"),
];

/// A family as a scraper reads it.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    has_help: bool,
    /// Name and labels, to value.
    samples: BTreeMap<String, f64>,
}

/// Reads the exposition format, and refuses what Prometheus would, or would misunderstand.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    assert!(text.ends_with('\n'), "the last line ends too");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(!help.is_empty());
            assert!(
                families.insert(name.to_owned(), Family { has_help: true, ..Family::default() }).is_none(),
                "{name} comes twice"
            );
            current = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current);
            families.get_mut(name).unwrap().kind = kind.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = families.get_mut(&current).unwrap();
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| name == format!("{current}{suffix}")), "{line} is none of {current}'s");
            let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
            assert!(family.samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
        }
    }
    families
}

fn check_histogram(name: &str, family: &Family) {
    let counts = family.samples.iter().filter_map(|(series, count)| {
        let labels = series.strip_prefix(name)?.strip_prefix("_count")?;
        Some((labels.trim_matches(['{', '}']), count))
    });
    let mut seen = 0;
    for (labels, count) in counts {
        seen += 1;
        let open = if labels.is_empty() { String::new() } else { format!("{labels},") };
        let prefix = format!("{name}_bucket{{{open}le=\"");
        let mut buckets: Vec<(f64, f64)> = family
            .samples
            .iter()
            .filter_map(|(series, count)| {
                let bound = series.strip_prefix(&prefix)?.strip_suffix("\"}")?;
                Some((if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() }, *count))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{name}{{{labels}}} is cumulative");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{name}{{{labels}}} counts what its buckets count");
        let sum = if labels.is_empty() { format!("{name}_sum") } else { format!("{name}_sum{{{labels}}}") };
        assert!(family.samples.contains_key(&sum), "{sum}");
    }
    assert!(seen > 0, "{name} has a count");
}

/// A real server with a little of everything behind it.
fn scrape() -> String {
    let dir = tempfile::TempDir::new().unwrap();
    let args = [format!("--data-dir={}", dir.path().join("data").display()), "--unsafe-no-fsync".to_owned()];
    let Ok(Command::Serve(config)) = crate::config::read(Program::Bramble, &args, &[]) else { panic!("these flags are sound") };
    let host = Host::real();
    let server = Server::start(&config, host.clone(), Arc::new(Metered)).unwrap();
    let handle = server.handle();
    let raise = AlarmRequest { action: 1, member_id: handle.header(0).member_id, alarm: AlarmType::Nospace as i32 };
    smol::block_on(handle.alarm(raise)).unwrap();
    calls::handled(Called::Range, Code::Ok, Duration::from_millis(1));
    calls::asked(Shape::Unary, "3.7");
    let clock: Arc<dyn crate::host::Clock> = host.clock.clone();
    let metrics = Served::metrics(&config, handle, Arc::new(crate::rpc::timers::SystemTimers::new(clock)));
    assert_eq!(ask(&metrics, "GET", "/readyz").0, 200);
    assert_eq!(ask(&metrics, "GET", "/livez").0, 200);
    let (code, text) = ask(&metrics, "GET", "/metrics");
    assert_eq!(code, 200);
    server.stop();
    server.wait().unwrap();
    text
}

#[test]
fn metrics_have_etcds_names_and_types_and_read_back() {
    let families = parse(&scrape());
    let mut expected = BTreeSet::new();
    for (kind, names) in [("counter", COUNTERS), ("gauge", GAUGES), ("histogram", HISTOGRAMS)] {
        for name in names {
            let family = families.get(*name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(family.kind, kind, "{name}");
            assert!(family.has_help && !family.samples.is_empty(), "{name}");
            if kind == "histogram" {
                check_histogram(name, family);
            }
            expected.insert(*name);
        }
    }
    for name in families.keys() {
        assert!(expected.contains(&**name) || name == EXTENSIVE, "{name} is in none of the lists");
    }
    for (name, reason) in LEFT_OUT {
        assert!(!families.contains_key(*name), "{name} is there after all, though {reason}");
    }
}

#[test]
fn figures_are_the_servers_own() {
    let families = parse(&scrape());
    let one = |name: &str| {
        let samples = &families[name].samples;
        assert_eq!(samples.len(), 1, "{samples:?}");
        samples.iter().next().map(|(series, value)| (series.clone(), *value)).unwrap()
    };
    assert_eq!(one("etcd_server_has_leader"), ("etcd_server_has_leader".to_owned(), 1.0));
    assert_eq!(one("etcd_server_is_leader").1, 1.0);
    assert_eq!(one("etcd_server_is_learner").1, 0.0);
    assert_eq!(one("etcd_server_version"), ("etcd_server_version{server_version=\"3.7.3\"}".to_owned(), 1.0));
    assert_eq!(one("etcd_cluster_version"), ("etcd_cluster_version{cluster_version=\"3.7\"}".to_owned(), 1.0));
    assert_eq!(one("etcd_debugging_mvcc_current_revision").1, 1.0);
    assert_eq!(one("etcd_debugging_mvcc_compact_revision").1, -1.0);
    assert_eq!(one("etcd_server_quota_backend_bytes").1, 2_147_483_648.0);
    let (committed, applied) = (one("etcd_server_proposals_committed_total").1, one("etcd_server_proposals_applied_total").1);
    // The loop answers a moment before it tells what it has applied.
    assert!(committed >= 4.0 && (3.0..=committed).contains(&applied), "{committed} {applied}");
    let (alarm, on) = one("etcd_debugging_server_alarms");
    assert!(alarm.contains("{alarm_type=\"NOSPACE\",server_id=\"") && on == 1.0, "{alarm}");
    assert!(families["etcd_server_apply_duration_seconds"].samples.keys().any(|series| {
        series.starts_with("etcd_server_apply_duration_seconds_count{op=\"Alarm\",success=\"true\",version=\"v3\"}")
    }));
}
