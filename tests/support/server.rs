//! A server process on free loopback ports with its own data directory.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::RangeRequest;
use rustix::process::Signal;
use rustls::ClientConfig;
use tempfile::TempDir;

use super::grpc::Client;
use super::requests::key;
use super::wait::{DEADLINE, until};
use super::{Certs, under_test};

/// How the client port is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// http
    Plain,
    /// https
    Tls,
    /// https, and clients show a certificate
    Mutual,
}

/// What to start.
pub struct Builder {
    binary: PathBuf,
    security: Security,
    ports: Option<Ports>,
    data_dir: Option<PathBuf>,
    flags: Vec<String>,
    kubeadm: bool,
}

/// The ports of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// `--listen-client-urls`
    pub client: u16,
    /// `--listen-peer-urls`
    pub peer: u16,
    /// `--listen-metrics-urls`, where one is asked for
    pub metrics: u16,
}

impl Ports {
    /// Ports that nobody listens on now.
    pub fn free() -> Ports {
        Ports { client: free_port(), peer: free_port(), metrics: free_port() }
    }
}

/// A port below the range from which the kernel takes ports of outgoing connections, so that none of those can grab it between
/// here and the server's bind; the process id spreads test programs that run at the same time.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    let spread = (std::process::id().wrapping_mul(613) % u32::from(COUNT)) as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(step < COUNT, "no free port between {FIRST} and {}", FIRST + COUNT);
        let port = FIRST + ((u32::from(spread) + u32::from(step)) % u32::from(COUNT)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Builder {
    /// Another binary than the one under test.
    pub fn binary(mut self, path: PathBuf) -> Builder {
        self.binary = path;
        self
    }

    /// How the client port is guarded; plain unless said.
    pub fn security(mut self, security: Security) -> Builder {
        self.security = security;
        self
    }

    /// These ports rather than any free ones.
    pub fn ports(mut self, ports: Ports) -> Builder {
        self.ports = Some(ports);
        self
    }

    /// This data directory rather than one beside the log.
    pub fn data_dir(mut self, path: PathBuf) -> Builder {
        self.data_dir = Some(path);
        self
    }

    /// One more flag, `--name=value`.
    pub fn flag(mut self, flag: impl Into<String>) -> Builder {
        self.flags.push(flag.into());
        self
    }

    /// As kubeadm runs it: by the name `etcd`, with kubeadm's flags, mutual TLS towards clients and peers.
    pub fn kubeadm(mut self) -> Builder {
        self.kubeadm = true;
        self.security(Security::Mutual)
    }

    /// Starts it and waits until it answers a linearizable read.
    pub fn start(self) -> Server {
        let mut server = self.prepare();
        server.spawn();
        server.wait_ready();
        server
    }

    /// Everything but the process.
    pub fn prepare(self) -> Server {
        let dir = tempfile::Builder::new().prefix("bramble-test-").tempdir().unwrap();
        let ports = self.ports.unwrap_or_else(Ports::free);
        let data_dir = self.data_dir.unwrap_or_else(|| dir.path().join("data"));
        let certs = (self.security != Security::Plain).then(|| Certs::create(&dir.path().join("certs")));
        let mut binary = self.binary;
        if self.kubeadm {
            let name = dir.path().join("etcd");
            std::os::unix::fs::symlink(std::path::absolute(binary).unwrap(), &name).unwrap();
            binary = name;
        }
        let mut server = Server {
            binary,
            security: self.security,
            ports,
            flags: Vec::new(),
            log: dir.path().join("log"),
            data_dir,
            certs,
            child: None,
            _dir: dir,
        };
        server.flags = if self.kubeadm { server.kubeadm_flags() } else { server.base_flags() };
        server.flags.extend(self.flags);
        server
    }
}

/// A server. Killed and removed when dropped; if the test is failing, the end of its log is shown.
pub struct Server {
    binary: PathBuf,
    security: Security,
    ports: Ports,
    flags: Vec<String>,
    log: PathBuf,
    data_dir: PathBuf,
    certs: Option<Certs>,
    child: Option<Child>,
    _dir: TempDir,
}

impl Server {
    /// The server under test, plain, with the default configuration.
    pub fn start() -> Server {
        Server::builder().start()
    }

    /// The server under test, to be configured.
    pub fn builder() -> Builder {
        Builder {
            binary: under_test(),
            security: Security::Plain,
            ports: None,
            data_dir: None,
            flags: Vec::new(),
            kubeadm: false,
        }
    }

    fn base_flags(&self) -> Vec<String> {
        let peer = format!("http://127.0.0.1:{}", self.ports.peer);
        let mut flags = vec![
            "--name=m1".to_owned(),
            format!("--data-dir={}", self.data_dir.display()),
            format!("--listen-client-urls={}", self.url()),
            format!("--advertise-client-urls={}", self.url()),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=m1={peer}"),
            "--logger=zap".to_owned(),
        ];
        if let Some(certs) = &self.certs {
            let (cert, key) = certs.pair("server");
            flags.push(format!("--cert-file={}", cert.display()));
            flags.push(format!("--key-file={}", key.display()));
            if self.security == Security::Mutual {
                flags.push(format!("--trusted-ca-file={}", certs.ca().display()));
                flags.push("--client-cert-auth=true".to_owned());
            }
        }
        flags
    }

    /// What kubeadm 1.34 and later writes into the static pod, in its order; only the addresses are loopback's.
    fn kubeadm_flags(&self) -> Vec<String> {
        let certs = self.certs.as_ref().expect("kubeadm always uses TLS");
        let (cert, key) = certs.pair("server");
        let (cert, key, ca) = (cert.display(), key.display(), certs.ca());
        let (ca, url, peer) = (ca.display(), self.url(), format!("https://127.0.0.1:{}", self.ports.peer));
        vec![
            format!("--advertise-client-urls={url}"),
            format!("--cert-file={cert}"),
            "--client-cert-auth=true".to_owned(),
            format!("--data-dir={}", self.data_dir.display()),
            "--feature-gates=InitialCorruptCheck=true".to_owned(),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=m1={peer}"),
            format!("--key-file={key}"),
            format!("--listen-client-urls={url}"),
            format!("--listen-metrics-urls=http://127.0.0.1:{}", self.ports.metrics),
            format!("--listen-peer-urls={peer}"),
            "--name=m1".to_owned(),
            format!("--peer-cert-file={cert}"),
            "--peer-client-cert-auth=true".to_owned(),
            format!("--peer-key-file={key}"),
            format!("--peer-trusted-ca-file={ca}"),
            "--snapshot-count=10000".to_owned(),
            format!("--trusted-ca-file={ca}"),
            "--watch-progress-notify-interval=5s".to_owned(),
        ]
    }

    /// One more flag from the next start on; of two with one name the later counts.
    pub fn add_flag(&mut self, flag: impl Into<String>) {
        self.flags.push(flag.into());
    }

    /// Starts the process without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the server is running already");
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(&self.binary)
            .args(self.flags.iter().map(OsString::from))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(self._dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.binary.display()));
        self.child = Some(child);
    }

    /// Waits until a linearizable read is answered.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().expect("the server was started").try_wait().unwrap() {
                let log = self.log_tail();
                self.child = None;
                panic!("the server ended ({status}) instead of serving; its log ends with\n{log}");
            }
            if self.answers() {
                return;
            }
            assert!(
                start.elapsed() < DEADLINE,
                "the server is not ready after {DEADLINE:?}; its log ends with\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it has ended by itself. It still has to be killed, which then only takes its status.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Whether a linearizable read is answered now.
    pub fn answers(&self) -> bool {
        Client::connect(&self.target()).is_ok_and(|client| {
            let request = RangeRequest { limit: 1, ..key("ready?") };
            client.try_call(&request).is_ok()
        })
    }

    /// SIGKILL: what a power cut leaves to a process.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server is running");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the way it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.end_by(Signal::TERM)
    }

    /// A signal that it ends by, and the way it ended.
    pub fn end_by(&mut self, signal: Signal) -> ExitStatus {
        let mut child = self.child.take().expect("the server is running");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        until("the server to end after the signal", || child.try_wait().unwrap())
    }

    /// Starts it again on the same data and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// `--data-dir`
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The ports.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The process.
    ///
    /// # Panics
    /// If it is not running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server is running").id()
    }

    /// The client port.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.client))
    }

    /// The client URL.
    pub fn url(&self) -> String {
        let scheme = if self.security == Security::Plain { "http" } else { "https" };
        format!("{scheme}://127.0.0.1:{}", self.ports.client)
    }

    /// Certificates, unless plain.
    pub fn certs(&self) -> Option<&Certs> {
        self.certs.as_ref()
    }

    /// How the client port is guarded.
    pub fn security(&self) -> Security {
        self.security
    }

    /// Where and how a gRPC client connects.
    pub fn target(&self) -> Target {
        Target { addr: self.addr(), tls: self.tls(&["h2"]) }
    }

    /// A client's TLS configuration, unless plain.
    pub fn tls(&self, alpn: &[&str]) -> Option<Arc<ClientConfig>> {
        self.certs.as_ref().map(|certs| certs.client_config(self.security == Security::Mutual, alpn))
    }

    /// A new gRPC connection.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(&self.target()).expect("the server accepts a connection")
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        File::open(&self.log).and_then(|mut file| file.read_to_end(&mut text)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the server's log ends with\n{}", self.log_tail());
        }
    }
}

/// Where and how a client connects.
#[derive(Clone)]
pub struct Target {
    /// Host and port.
    pub addr: SocketAddr,
    /// TLS, unless plain.
    pub tls: Option<Arc<ClientConfig>>,
}
