//! Where it listens, and what it serves there.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::serves;
use crate::support::command::Running;
use crate::support::http::{get_at, get_at_socket, request};
use crate::support::requests::{key, put};
use crate::support::server::{Target, free_port};
use crate::support::{Certs, Client, Server, oracle};

fn plain(port: u16) -> Target {
    Target { addr: SocketAddr::from(([127, 0, 0, 1], port)), tls: None }
}

fn secure(port: u16, certs: &Certs) -> Target {
    Target { tls: Some(certs.client_config(false, &["h2"])), ..plain(port) }
}

fn with_certificate(certs: &Certs) -> [String; 2] {
    let (cert, key) = certs.pair("server");
    [format!("--cert-file={}", cert.display()), format!("--key-file={}", key.display())]
}

#[test]
fn each_of_several_urls_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let certs = Certs::create(&dir.path().join("certs"));
    let [socket, secured] = ["etcd.sock", "etcds.sock"].map(|name| dir.path().join(name).display().to_string());
    let other = free_port();
    let server = Server::builder();
    let mut server = with_certificate(&certs).into_iter().fold(server, |server, flag| server.flag(flag)).prepare();
    let first = server.ports().client;
    server.add_flag(format!(
        "--listen-client-urls=http://127.0.0.1:{first},https://127.0.0.1:{other},unix://{socket},unixs://{secured}"
    ));
    server.restart();
    server.client().call(&put("a", "1"));
    let held = Client::connect(&secure(other, &certs)).unwrap().call(&key("a"));
    assert_eq!(held.count, 1);
    assert!(!serves(&plain(other)) && !serves(&secure(first, &certs)), "each address speaks what its URL says");
    for etcdctl in ["etcdctl", "etcdctl34"] {
        let mut command = Command::new(oracle(etcdctl));
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints=unix://{socket}")).args(["get", "a"]);
        assert_eq!(Running::start(command, "").finish().text(), "a\n1\n", "{etcdctl} over unix://");
    }
    let reply = get_at_socket(Path::new(&secured), &certs.client_config(false, &["http/1.1"]), "/health");
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"health":"true","reason":""}"#));
    server.terminate();
    assert!(![&socket, &secured].iter().any(|path| Path::new(path).exists()), "sockets go with the server");
}

#[test]
fn http_and_https_share_an_address_if_both_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let certs = Certs::create(dir.path());
    let mut server = with_certificate(&certs).into_iter().fold(Server::builder(), |server, flag| server.flag(flag)).prepare();
    let port = server.ports().client;
    server.add_flag(format!("--listen-client-urls=http://127.0.0.1:{port},https://127.0.0.1:{port}"));
    server.restart();
    assert!(serves(&plain(port)) && serves(&secure(port, &certs)));
    let http1 = Target { tls: Some(certs.client_config(false, &["http/1.1"])), ..plain(port) };
    for target in [plain(port), http1] {
        assert_eq!(get_at(&target, "/version").status, 200);
    }
    for target in [plain(port), secure(port, &certs)] {
        let (status, kind, body) = Client::connect(&target).unwrap().get("/version");
        assert_eq!((status, kind.as_str()), (200, "application/json"));
        assert!(body.contains("\"etcdserver\":\"3.7."), "{body}");
    }
}

#[test]
fn clients_urls_speak_grpc_alone_beside_listen_client_http_urls() {
    let http = free_port();
    let server = Server::builder().flag(format!("--listen-client-http-urls=http://127.0.0.1:{http}")).start();
    server.client().call(&put("a", "1"));
    let (status, kind, _) = server.client().get("/version");
    assert_eq!((status, kind.as_str()), (415, "application/grpc"));
    assert_eq!(get_at(&server.target(), "/version").status, 404);
    assert_eq!(get_at(&plain(http), "/version").status, 200);
    assert!(!serves(&plain(http)), "no gRPC there");
}

#[test]
fn the_gateways_place_says_that_it_is_empty() {
    let server = Server::start();
    let reply = request(&server, "POST", "/v3/kv/range", &[("Content-Length", "0")]);
    assert!(reply.status == 501 && reply.body.contains(r#""code":12"#), "{reply:?}");
}

/// A busy server has nothing to tell: neither of connections nor of calls, answered or refused.
#[test]
fn clients_leave_no_lines_in_the_log() {
    let server = Server::start();
    let before = server.log();
    for n in 0..20 {
        let client = server.client();
        client.call(&put(format!("k{n}"), "v"));
        client.fail(&put("", "v"));
        get_at(&server.target(), "/metrics");
        get_at(&server.target(), "/nope");
        drop(std::net::TcpStream::connect(server.addr()).unwrap());
    }
    assert_eq!(server.log(), before);
}
