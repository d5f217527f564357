//! Sockets that are listened to. In: a URL. Out: connections, each in a task of its own from the first byte on, so that a slow
//! handshake holds up nobody. Always: there are no more connections than file descriptors allow; what cannot be accepted yet waits
//! in the kernel's queue.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_net::unix::UnixListener;
use async_net::{TcpListener, TcpStream};
use bytes::Bytes;
use futures_lite::AsyncReadExt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use smol::Executor;

use super::front::{Front, Offer, Protocol};
use super::grpc::{Peer, PeerAddr};
use super::stop::Phase;
use super::stream::Stream;
use super::timers::within;
use super::tls::{self, Secured, TlsAcceptor};
use crate::config::{ListenAddr, ListenUrl};
use crate::error::Fault;

/// Connections the kernel may queue.
const BACKLOG: i32 = 1024;
/// Time for a TLS handshake. Small boards need a while when a hundred clients come back at once.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// TCP's own keepalive: finds hosts that vanished, where no HTTP/2 PING is due for hours.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// Pause after an accept that failed for want of something, doubled up to a second.
const BACK_OFF: Duration = Duration::from_millis(5);

/// A bound socket, and how its connections are secured. Clients may connect from now on; [`Front::accept`] answers them.
pub struct Listener {
    url: String,
    addr: ListenAddr,
    socket: Socket,
    security: Security,
}

/// How the connections of an address are secured.
#[derive(Clone)]
enum Security {
    Plain,
    Tls(Arc<TlsAcceptor>),
    /// An address with an http and an https URL: as the client begins.
    Either(Arc<TlsAcceptor>),
}

impl Security {
    /// The fault is ours: whoever has a URL with TLS has an acceptor.
    fn of(url: &ListenUrl, tls: Option<&Arc<TlsAcceptor>>) -> Result<Security, Fault> {
        match (url.tls, tls) {
            (false, _) => Ok(Security::Plain),
            (true, Some(acceptor)) => Ok(Security::Tls(acceptor.clone())),
            (true, None) => Err(Fault::new(format!("{} wants TLS, but there is no certificate", url.url))),
        }
    }

    fn and(self, other: Security) -> Security {
        match (self, other) {
            (Security::Plain, Security::Plain) => Security::Plain,
            (Security::Tls(acceptor), Security::Tls(_)) => Security::Tls(acceptor),
            (Security::Either(acceptor), _)
            | (_, Security::Either(acceptor))
            | (Security::Tls(acceptor), Security::Plain)
            | (Security::Plain, Security::Tls(acceptor)) => Security::Either(acceptor),
        }
    }
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, #[allow(dead_code)] SocketFile), // removed when dropped
}

impl Listener {
    /// Listens at all `urls`; those of one address share a socket, as in etcd.
    pub fn bind_all(urls: &[ListenUrl], tls: Option<&Arc<TlsAcceptor>>, reuse_port: bool) -> Result<Vec<Listener>, Fault> {
        let mut listeners: Vec<Listener> = Vec::new();
        for url in urls {
            match listeners.iter_mut().find(|listener| listener.addr == url.addr) {
                Some(listener) => listener.security = listener.security.clone().and(Security::of(url, tls)?),
                None => listeners.push(Listener::bind(url, tls, reuse_port)?),
            }
            log::info!("listening on {}", url.url);
        }
        Ok(listeners)
    }

    /// Listens at `url`. A URL that wants TLS gets it from `tls`.
    pub fn bind(url: &ListenUrl, tls: Option<&Arc<TlsAcceptor>>, reuse_port: bool) -> Result<Listener, Fault> {
        let security = Security::of(url, tls)?;
        let socket = match &url.addr {
            ListenAddr::Tcp(addr) => bind_tcp(*addr, reuse_port).map(Socket::Tcp),
            ListenAddr::Unix(path) => bind_unix(path).map(|(listener, file)| Socket::Unix(listener, file)),
        };
        let socket = socket.map_err(|error| Fault::new(format!("cannot listen on {}: {error}", url.url)))?;
        Ok(Listener { url: url.url.clone(), addr: url.addr.clone(), socket, security })
    }

    /// The address that was bound, with the port the kernel chose if the URL left it open. None: a unix socket.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    async fn next(&self) -> io::Result<(Stream, PeerAddr)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                prepare(&stream);
                let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
                Ok((Stream::new(stream), PeerAddr::Tcp(addr)))
            }
            Socket::Unix(listener, _) => Ok((Stream::new(listener.accept().await?.0), PeerAddr::Local)),
        }
    }
}

impl Front {
    /// Accepts and serves connections until the server stops.
    pub async fn accept(self: Arc<Self>, listener: Listener, offer: Offer) {
        let mut guest = self.guest();
        futures_lite::future::or(guest.reached(Phase::Drain), self.accept_all(&listener, &offer)).await;
    }

    async fn accept_all(self: &Arc<Self>, listener: &Listener, offer: &Offer) {
        let mut pause = BACK_OFF;
        loop {
            let place = self.connections().acquire_arc().await;
            match listener.next().await {
                Ok((stream, addr)) => {
                    pause = BACK_OFF;
                    let (front, offer, security) = (self.clone(), offer.clone(), listener.security.clone());
                    let executor = self.executor();
                    let serve = {
                        let executor = executor.clone();
                        async move {
                            front.welcome(executor, stream, addr, security, offer).await;
                            drop(place);
                        }
                    };
                    executor.spawn(serve).detach();
                }
                // The client changed its mind while it was queued.
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    log::warn!("cannot accept connections on {}: {error}; trying again in {pause:?}", listener.url);
                    self.timers().sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    async fn welcome(&self, executor: Arc<Executor<'static>>, stream: Stream, addr: PeerAddr, security: Security, offer: Offer) {
        let mut guest = self.guest();
        let secured = within(&**self.timers(), HANDSHAKE, secure(stream, security));
        let stopped = async {
            guest.reached(Phase::Drain).await;
            Some(Err(io::ErrorKind::ConnectionAborted.into()))
        };
        match futures_lite::future::or(secured, stopped).await {
            Some(Ok(Secured { stream, tls, protocol, common_name })) => {
                let peer = Peer { addr, tls, common_name };
                self.serve_guest(executor, stream, protocol, peer, offer, guest).await;
            }
            // Probes of load balancers and port scans end like this: no news.
            Some(Err(error)) if has_hung_up(&error) => log::debug!("no TLS with {addr}: {error}"),
            Some(Err(error)) => reject(&addr, &tls::reason(&error)),
            None => reject(&addr, &format!("no TLS handshake in {HANDSHAKE:?}")),
        }
    }
}

async fn secure(mut stream: Stream, security: Security) -> io::Result<Secured> {
    let acceptor = match security {
        Security::Tls(acceptor) => Some(acceptor),
        Security::Either(acceptor) if begins_tls(&mut stream).await? => Some(acceptor),
        Security::Plain | Security::Either(_) => None,
    };
    match acceptor {
        Some(acceptor) => acceptor.accept(stream).await,
        None => Ok(Secured { stream, tls: false, protocol: Protocol::Unsaid, common_name: None }),
    }
}

/// etcd's line.
fn reject(addr: &PeerAddr, why: &str) {
    log::warn!("remote-addr":% = addr, error = why; "rejected connection on client endpoint");
}

/// Whether the first byte, which is put back, is that of a TLS record with a handshake (RFC 8446 §5.1). No HTTP begins with it.
async fn begins_tls(stream: &mut Stream) -> io::Result<bool> {
    const HANDSHAKE_RECORD: u8 = 22;
    let mut first = [0];
    stream.read_exact(&mut first).await?;
    stream.unread(Bytes::copy_from_slice(&first));
    Ok(first[0] == HANDSHAKE_RECORD)
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn has_hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// As many connections as there are file descriptors, less those the store itself needs.
pub fn connection_limit() -> usize {
    const OURS: u64 = 128;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(limit.saturating_sub(OURS).max(16)).unwrap_or(usize::MAX)
}

/// Small replies must not wait for more (TCP_NODELAY), and hosts that vanished must be found. A socket that refuses is used as it is.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, TCP_KEEPALIVE))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, TCP_KEEPALIVE));
}

/// 0.0.0.0 listens on IPv6 too where there is IPv6, as Go does: clients that resolve `localhost` to ::1 rely on it.
fn bind_tcp(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    if addr.ip() == IpAddr::from([0, 0, 0, 0]) {
        let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), addr.port());
        match bind_one(both, reuse_port) {
            Err(error) if is_without_ipv6(&error) => {}
            bound => return bound,
        }
    }
    bind_one(addr, reuse_port)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL].iter().any(|errno| code == Some(errno.raw_os_error()))
}

fn bind_one(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket: OwnedFd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Without it a restart would fail while old connections linger in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if addr.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &addr)?;
    listen(&socket, BACKLOG)?;
    TcpListener::try_from(StdTcpListener::from(socket))
}

/// The file of a unix socket; removed with the listener.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let listener = UnixListener::try_from(StdUnixListener::bind(path)?)?;
    Ok((listener, SocketFile(path.to_owned())))
}

/// Removes the socket that a killed server left behind, but nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of this name that is no socket"));
    }
    if StdUnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
    }
    fs::remove_file(path)
}
