//! What it reads: flags as kubeadm writes them, a file as RKE2 writes it, and under etcd's name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::serves;
use crate::support::http::get_plain;
use crate::support::server::{Target, free_port};
use crate::support::wait::until;
use crate::support::{Certs, Security, Server, under_test};

/// The binary as `etcd`.
fn as_etcd(dir: &Path) -> PathBuf {
    let path = dir.join("etcd");
    symlink(under_test(), &path).unwrap();
    path
}

fn lines(log: &str) -> Vec<serde_json::Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Each line is an object with etcd's four fields, and nothing is worse than `info`.
#[track_caller]
fn is_calm(log: &str) {
    for line in lines(log) {
        for field in ["level", "ts", "caller", "msg"] {
            assert!(line[field].is_string(), "{line}");
        }
        assert_eq!(line["level"], "info", "{line}");
    }
    assert_eq!(log.matches("\"msg\":\"ready to serve client requests\"").count(), 1, "{log}");
}

#[test]
fn a_static_pod_of_kubeadm_starts_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (metrics, peer) = (free_port(), free_port());
    let mut server = Server::builder().binary(as_etcd(dir.path())).security(Security::Mutual).prepare();
    let certs = server.certs().unwrap().clone();
    let ((cert, key), ca) = (certs.pair("server"), certs.ca());
    for flag in [
        "--feature-gates=InitialCorruptCheck=true".to_owned(),
        format!("--listen-peer-urls=https://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=https://127.0.0.1:{peer}"),
        format!("--initial-cluster=m1=https://127.0.0.1:{peer}"),
        "--snapshot-count=10000".to_owned(),
        "--watch-progress-notify-interval=5s".to_owned(),
        format!("--peer-cert-file={}", cert.display()),
        format!("--peer-key-file={}", key.display()),
        format!("--peer-trusted-ca-file={}", ca.display()),
        "--peer-client-cert-auth=true".to_owned(),
        format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"),
    ] {
        server.add_flag(flag);
    }
    server.restart();
    for probe in ["/readyz", "/livez", "/health?exclude=NOSPACE&serializable=true", "/health?serializable=false"] {
        assert_eq!(get_plain(metrics, probe).status, 200, "{probe}");
    }
    is_calm(&server.log());
}

#[test]
fn a_configuration_file_of_rke2_starts_as_it_is_and_beats_all_flags() {
    let dir = tempfile::tempdir().unwrap();
    let certs = Certs::create(&dir.path().join("tls"));
    let [client, http, metrics, peer] = [(); 4].map(|()| free_port());
    let ((cert, key), ca) = (certs.pair("server"), certs.ca());
    let (cert, key, ca, data) = (cert.display(), key.display(), ca.display(), dir.path().join("db").display().to_string());
    let file = dir.path().join("config");
    let security = format!("  cert-file: {cert}\n  client-cert-auth: true\n  key-file: {key}\n  trusted-ca-file: {ca}\n");
    let text = format!(
        "advertise-client-urls: https://127.0.0.1:{client}\nclient-transport-security:\n{security}data-dir: {data}\n\
         election-timeout: 5000\nexperimental-initial-corrupt-check: true\n\
         experimental-watch-progress-notify-interval: 5000000000\nheartbeat-interval: 500\n\
         initial-advertise-peer-urls: https://127.0.0.1:{peer}\ninitial-cluster: pi-1234=https://127.0.0.1:{peer}\n\
         initial-cluster-state: new\nlisten-client-http-urls: https://127.0.0.1:{http}\n\
         listen-client-urls: https://127.0.0.1:{client}\nlisten-metrics-urls: http://127.0.0.1:{metrics}\n\
         listen-peer-urls: https://127.0.0.1:{peer}\nlog-outputs:\n- stderr\nlogger: zap\nname: pi-1234\n\
         peer-transport-security:\n{security}snapshot-count: 10000\nsocket-options:\n  reuse-address: true\n  reuse-port: true\n"
    );
    fs::write(&file, text).unwrap();
    let mut server = Server::builder().binary(as_etcd(dir.path())).flag(format!("--config-file={}", file.display())).prepare();
    server.spawn();
    until("the server to be ready", || server.log().contains("ready to serve client requests").then_some(()));
    let at = |port: u16| Target { addr: ([127, 0, 0, 1], port).into(), tls: Some(certs.client_config(true, &["h2"])) };
    assert!(serves(&at(client)) && !serves(&at(http)));
    assert_eq!(get_plain(metrics, "/health").status, 200);
    // k3s looks for the WAL where etcd's would be.
    assert!(dir.path().join("db/member/wal").is_dir() && !server.data_dir().exists());
    let worse: Vec<_> = lines(&server.log()).into_iter().filter(|line| line["level"] != "info").collect();
    assert!(worse.iter().all(|line| line["msg"] == "flag has a new name") && worse.len() == 2, "{worse:?}");
}

#[test]
fn dangerous_flags_are_told() {
    let mut server = Server::builder().flag("--unsafe-no-fsync").flag("--force-new-cluster").start();
    for told in ["--unsafe-no-fsync: writes are acknowledged before they are on disk", "--force-new-cluster has nothing to do"] {
        assert_eq!(server.log().matches(told).count(), 1, "{told}");
    }
    server.terminate();
}
