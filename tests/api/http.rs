//! HTTP: version, health, probes, metrics.

use bramble::pb::etcdserverpb::alarm_request::AlarmAction;
use bramble::pb::etcdserverpb::{AlarmRequest, AlarmType};

use crate::support::http::{get, request};
use crate::support::requests::{everything, put};
use crate::support::{Security, Server};

fn raise(server: &Server, alarm: AlarmType) {
    let client = server.client();
    let member_id = client.call(&everything()).header.unwrap().member_id;
    client.call(&AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm: alarm as i32 });
}

#[test]
fn the_version_is_told() {
    let server = Server::start();
    let reply = get(&server, "/version");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "application/json");
    let json: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert!(json["etcdserver"].as_str().unwrap().starts_with("3.7."), "{}", reply.body);
    assert_eq!((json["etcdcluster"].as_str(), json["storage"].as_str()), (Some("3.7.0"), Some("3.7.0")));
    assert_eq!(request(&server, "POST", "/version", &[]).status, 405);
}

#[test]
fn health_is_told() {
    for security in [Security::Plain, Security::Tls, Security::Mutual] {
        let server = Server::builder().security(security).start();
        for path in ["/health", "/health?serializable=true", "/health?serializable=false"] {
            let reply = get(&server, path);
            assert_eq!(
                (reply.status, reply.body.as_str()),
                (200, r#"{"health":"true","reason":""}"#),
                "{path} over {security:?}"
            );
        }
    }
}

#[test]
fn health_is_only_for_reading() {
    let server = Server::start();
    let reply = request(&server, "POST", "/health", &[]);
    assert_eq!((reply.status, reply.headers["allow"].as_str()), (405, "GET"));
}

#[test]
fn an_alarm_is_bad_health_unless_excluded() {
    let server = Server::start();
    raise(&server, AlarmType::Nospace);
    let reply = get(&server, "/health");
    assert_eq!((reply.status, reply.body.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"));
    let reply = get(&server, "/health?exclude=NOSPACE");
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"health":"true","reason":""}"#));
    assert_eq!(get(&server, "/health?exclude=NOSPACE&serializable=true").status, 200);
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(&server, path).status, 200, "{path}: no space is no reason to restart");
    }
    raise(&server, AlarmType::Corrupt);
    let reply = get(&server, "/health?exclude=NOSPACE");
    assert_eq!((reply.status, reply.body.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n"));
    assert_eq!(get(&server, "/health?exclude=NOSPACE&exclude=CORRUPT").status, 200);
    assert_eq!(get(&server, "/livez").status, 200);
    let reply = get(&server, "/readyz");
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("[-]data_corruption failed: alarm activated: CORRUPT"), "{}", reply.body);
    assert_eq!(get(&server, "/readyz?exclude=data_corruption").status, 200);
}

#[test]
fn probes_answer_ok() {
    let server = Server::start();
    for path in [
        "/livez",
        "/readyz",
        "/livez/serializable_read",
        "/readyz/data_corruption",
        "/readyz/serializable_read",
        "/readyz/linearizable_read",
        "/readyz/non_learner",
        "/livez?exclude=serializable_read",
        "/readyz?exclude=linearizable_read&exclude=data_corruption",
        "/readyz?exclude=nonsense",
    ] {
        let reply = get(&server, path);
        assert_eq!((reply.status, reply.body.as_str()), (200, "ok\n"), "{path}");
        assert_eq!(reply.headers["x-content-type-options"], "nosniff", "{path}");
        assert!(reply.headers["content-type"].starts_with("text/plain"), "{path}");
    }
    assert_eq!(get(&server, "/readyz/nonsense").status, 404);
    assert_eq!(get(&server, "/livez/linearizable_read").status, 404);
}

#[test]
fn verbose_probes_list_their_checks() {
    let server = Server::start();
    assert_eq!(get(&server, "/livez?verbose").body, "[+]serializable_read ok\nok\n");
    let ready = get(&server, "/readyz?verbose").body;
    for check in ["data_corruption", "serializable_read", "linearizable_read", "non_learner"] {
        assert!(ready.contains(&format!("[+]{check} ok\n")), "{ready}");
    }
    assert!(ready.ends_with("ok\n"));
    let without = get(&server, "/readyz?verbose&exclude=linearizable_read").body;
    assert!(!without.contains("[+]linearizable_read"), "{without}");
}

#[test]
fn unknown_paths_are_not_found() {
    let server = Server::start();
    for path in ["/", "/nonsense", "/v2/keys"] {
        assert_eq!(get(&server, path).status, 404, "{path}");
    }
}

#[test]
fn metrics_have_their_names() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    client.call(&everything());
    let reply = get(&server, "/metrics");
    assert_eq!(reply.status, 200);
    assert!(reply.headers["content-type"].starts_with("text/plain; version=0.0.4"), "{:?}", reply.headers);
    let missing: Vec<&str> = METRICS.iter().filter(|name| !has_sample(&reply.body, name)).copied().collect();
    assert!(missing.is_empty(), "missing metrics: {missing:?}");
}

fn has_sample(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
}

/// Names that dashboards, alerts and etcd's own tests ask for.
const METRICS: &[&str] = &[
    "etcd_cluster_version",
    "etcd_server_version",
    "etcd_server_id",
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_is_learner",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_quota_backend_bytes",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_pending",
    "etcd_server_proposals_failed_total",
    "etcd_server_apply_duration_seconds_bucket",
    "etcd_server_apply_duration_seconds_count",
    "etcd_server_range_duration_seconds_bucket",
    "etcd_server_request_duration_seconds_bucket",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_client_requests_total",
    "etcd_server_health_success",
    "etcd_server_health_failures",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_disk_wal_fsync_duration_seconds_sum",
    "etcd_disk_wal_fsync_duration_seconds_count",
    "etcd_disk_wal_write_bytes_total",
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_disk_backend_defrag_duration_seconds_bucket",
    "etcd_disk_defrag_inflight",
    "etcd_mvcc_put_total",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_range_total",
    "etcd_mvcc_txn_total",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_mvcc_db_open_read_transactions",
    "etcd_mvcc_hash_duration_seconds_bucket",
    "etcd_mvcc_hash_rev_duration_seconds_bucket",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_events_total",
    "etcd_debugging_mvcc_db_compaction_keys_total",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_renewed_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_lease_ttl_total_bucket",
    "etcd_debugging_server_lease_expired_total",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
    "os_fd_used",
    "os_fd_limit",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
];

fn sample(server: &Server, line_start: &str) -> f64 {
    let body = get(server, "/metrics").body;
    let line = body.lines().find(|line| line.starts_with(line_start)).unwrap_or_else(|| panic!("no {line_start}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn metrics_count_what_happens() {
    let server = Server::start();
    let client = server.client();
    for i in 0..7 {
        client.call(&put(format!("k{i}"), "1"));
    }
    assert_eq!(sample(&server, "etcd_server_has_leader"), 1.0);
    assert_eq!(sample(&server, "etcd_mvcc_put_total"), 7.0);
    assert_eq!(sample(&server, "etcd_debugging_mvcc_current_revision"), 8.0);
    assert_eq!(sample(&server, "etcd_debugging_mvcc_keys_total"), 7.0);
    assert_eq!(sample(&server, "etcd_server_quota_backend_bytes"), 2_147_483_648.0);
    let handled =
        r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    assert_eq!(sample(&server, handled), 7.0);
    let unused = r#"grpc_server_started_total{grpc_method="Compact",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    assert_eq!(sample(&server, unused), 0.0, "every method is listed from the start");
}

#[test]
fn a_metrics_port_serves_probes_without_certificates() {
    let port = crate::support::server::free_port();
    let server =
        Server::builder().security(Security::Mutual).flag(format!("--listen-metrics-urls=http://127.0.0.1:{port}")).start();
    for (path, status) in [("/metrics", 200), ("/health", 200), ("/livez", 200), ("/readyz", 200), ("/version", 404)] {
        assert_eq!(crate::support::http::get_plain(port, path).status, status, "{path}");
    }
    drop(server);
}

#[test]
fn http_moves_to_its_own_port() {
    let port = crate::support::server::free_port();
    let server = Server::builder().flag(format!("--listen-client-http-urls=http://127.0.0.1:{port}")).start();
    for path in ["/version", "/health", "/metrics", "/readyz"] {
        assert_eq!(crate::support::http::get_plain(port, path).status, 200, "{path}");
    }
    server.client().call(&put("a", "1"));
}

#[test]
fn browsers_of_any_origin_are_let_in() {
    let server = Server::start();
    let reply = request(&server, "GET", "/version", &[("Origin", "http://example.com")]);
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
    assert_eq!(reply.headers["access-control-allow-methods"], "POST, GET, OPTIONS, PUT, DELETE");
    assert_eq!(reply.headers["access-control-allow-headers"], "accept, content-type, authorization");
    assert_eq!(request(&server, "OPTIONS", "/version", &[]).status, 200);
    let strict = Server::builder().flag("--cors=http://good.example:80").start();
    let good = request(&strict, "GET", "/version", &[("Origin", "http://good.example:80")]);
    assert_eq!(good.headers["access-control-allow-origin"], "http://good.example:80");
    let bad = request(&strict, "GET", "/version", &[("Origin", "http://bad.example")]);
    assert!(!bad.headers.contains_key("access-control-allow-origin"));
}

#[test]
fn a_host_that_is_not_on_the_list_is_misdirected() {
    let server = Server::builder().flag("--host-whitelist=good.example").start();
    let from = |host: &str| crate::support::http::get_of_host(server.ports().client, "/version", host).status;
    assert_eq!(from("bad.example"), 421);
    assert_eq!(from("good.example"), 200);
}
