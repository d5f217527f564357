//! Real sockets on loopback.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use async_net::TcpStream;
use async_net::unix::UnixStream;
use futures_rustls::TlsConnector;
use smol::Executor;

use super::rig::*;
use crate::config::{ListenAddr, ListenUrl, Tls};
use crate::host::BootClock;
use crate::rpc::front::{Front, Offer, Settings};
use crate::rpc::grpc::PeerAddr;
use crate::rpc::listen::Listener;
use crate::rpc::stream::{Io, Stream};
use crate::rpc::timers::SystemTimers;
use crate::rpc::tls::TlsAcceptor;
use crate::rpc::tls::tests::{Client as TlsClient, Files};

struct Server {
    executor: Arc<Executor<'static>>,
    front: Arc<Front>,
    services: Arc<TestServices>,
}

impl Server {
    fn new(settings: Settings) -> Server {
        let executor = Arc::new(Executor::new());
        let timers = Arc::new(SystemTimers::new(Arc::new(BootClock::new())));
        let front = Front::new(settings, vec![executor.clone()], timers);
        Server { executor, front, services: Arc::default() }
    }

    fn listen(&self, listener: Listener) {
        let offer = Offer { services: Some(self.services.clone()), endpoints: Some(Arc::new(TestEndpoints)) };
        self.executor.spawn(self.front.clone().accept(listener, offer)).detach();
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        smol::block_on(self.executor.run(future))
    }

    async fn client(&self, io: impl Io) -> Client {
        Client::over(Stream::new(io), &self.executor).await
    }
}

fn tcp(addr: &str, tls: bool) -> ListenUrl {
    let addr: SocketAddr = addr.parse().unwrap();
    ListenUrl { tls, addr: ListenAddr::Tcp(addr), url: format!("http://{addr}") }
}

fn unix(path: &std::path::Path) -> ListenUrl {
    ListenUrl { tls: false, addr: ListenAddr::Unix(path.to_owned()), url: format!("unix://{}", path.display()) }
}

#[test]
fn calls_come_over_tcp_with_their_peers_address() {
    let server = Server::new(settings());
    let listener = Listener::bind(&tcp("127.0.0.1:0", false), None, false).unwrap();
    let addr = listener.tcp_addr().unwrap();
    server.listen(listener);
    server.run(async {
        let socket = TcpStream::connect(addr).await.unwrap();
        let ours = socket.local_addr().unwrap();
        let outcome = server.client(socket).await.call("Echo", b"over tcp").await;
        assert_eq!(outcome.messages(), ["over tcp"]);
        let call = server.services.seen.lock().unwrap().take().unwrap();
        assert_eq!((call.peer.addr, call.peer.tls), (PeerAddr::Tcp(ours), false));
    });
}

#[test]
fn the_ipv4_wildcard_listens_on_ipv6_too_and_names_ipv4_peers_as_such() {
    let server = Server::new(settings());
    let listener = Listener::bind(&tcp("0.0.0.0:0", false), None, false).unwrap();
    let port = listener.tcp_addr().unwrap().port();
    let has_ipv6 = listener.tcp_addr().unwrap().is_ipv6();
    server.listen(listener);
    server.run(async {
        for host in ["127.0.0.1", "::1"] {
            if host == "::1" && !has_ipv6 {
                continue;
            }
            let socket = TcpStream::connect((host, port)).await.unwrap();
            let ours = socket.local_addr().unwrap();
            server.client(socket).await.call("Echo", b"").await;
            let call = server.services.seen.lock().unwrap().take().unwrap();
            assert_eq!(call.peer.addr, PeerAddr::Tcp(ours));
        }
    });
}

#[test]
fn a_port_can_be_shared_only_if_asked_for() {
    let first = Listener::bind(&tcp("127.0.0.1:0", false), None, true).unwrap();
    let url = tcp(&first.tcp_addr().unwrap().to_string(), false);
    Listener::bind(&url, None, true).unwrap();
    let fault = Listener::bind(&url, None, false).err().unwrap().to_string();
    assert!(fault.contains(&url.url) && fault.contains("in use"), "{fault}");
}

#[test]
fn calls_come_over_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.sock");
    let server = Server::new(settings());
    server.listen(Listener::bind(&unix(&path), None, false).unwrap());
    server.run(async {
        let client = server.client(UnixStream::connect(&path).await.unwrap()).await;
        assert_eq!(client.call("Echo", b"over unix").await.messages(), ["over unix"]);
        server.front.shutdown(std::time::Duration::from_secs(10)).await;
    });
    assert!(!path.exists(), "the socket's file goes with the listener");
}

#[test]
fn a_socket_left_behind_is_replaced_but_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("etcd.sock");
    let bind = || Listener::bind(&unix(&path), None, false);
    // As after a kill: the file is there, nobody listens.
    drop(StdUnixListener::bind(&path).unwrap());
    let listener = bind().unwrap();
    let fault = bind().err().unwrap().to_string();
    assert!(fault.contains("another process listens there"), "{fault}");
    drop(listener);
    fs::write(&path, "precious").unwrap();
    let fault = bind().err().unwrap().to_string();
    assert!(fault.contains("no socket"), "{fault}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn calls_come_over_mutual_tls_with_their_name() {
    let files = Files::new();
    let server = Server::new(settings());
    let listener = Listener::bind(&tcp("127.0.0.1:0", true), Some(&TlsAcceptor::new(&files.mutual()).unwrap()), false).unwrap();
    let addr = listener.tcp_addr().unwrap();
    server.listen(listener);
    let pair = files.authority.sign("apiserver", 5, &[]);
    let config = Arc::new(TlsClient { pair: Some(&pair), ..TlsClient::default() }.config());
    server.run(async {
        // A client that never shakes hands keeps nobody waiting.
        let _mute = TcpStream::connect(addr).await.unwrap();
        let socket = TcpStream::connect(addr).await.unwrap();
        let socket = TlsConnector::from(config).connect("localhost".try_into().unwrap(), socket).await.unwrap();
        let client = server.client(socket).await;
        let message = vec![9; 300_000];
        assert_eq!(client.call("Echo", &message).await.messages(), [message]);
        let big = client.call("Big", &[0; 20]).await;
        assert_eq!(big.messages()[0].len(), 20 * PIECE);
        let call = server.services.seen.lock().unwrap().take().unwrap();
        assert_eq!((call.peer.tls, call.peer.common_name.as_deref()), (true, Some("apiserver")));
    });
}

#[test]
fn a_bad_certificate_stops_the_start() {
    let files = Files::new();
    let tls = Tls { cert_file: Some("/nowhere/cert.pem".into()), ..files.server() };
    let fault = TlsAcceptor::new(&tls).err().unwrap().to_string();
    assert!(fault.contains("/nowhere/cert.pem"), "{fault}");
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let server = Server::new(Settings { max_connections: 1, ..settings() });
    let listener = Listener::bind(&tcp("127.0.0.1:0", false), None, false).unwrap();
    let addr = listener.tcp_addr().unwrap();
    server.listen(listener);
    server.run(async {
        let first = server.client(TcpStream::connect(addr).await.unwrap()).await;
        let socket = TcpStream::connect(addr).await.unwrap();
        let second = server.executor.spawn({
            let executor = server.executor.clone();
            async move { Client::over(Stream::new(socket), &executor).await.call("Echo", b"second").await }
        });
        // The first is answered many times; the second, which would need one, is not.
        for _ in 0..100 {
            first.call("Echo", b"first").await;
        }
        assert!(!second.is_finished());
        drop(first);
        assert_eq!(second.await.messages(), ["second"]);
    });
}
