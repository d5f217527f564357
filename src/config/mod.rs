//! Flags, environment and file become one checked [`Config`], once. Below this room nobody checks again or reads the environment.
//!
//! In: arguments and variables. Out: a [`Command`] or a [`Refusal`]. On the way: `flags.rs`, `env.rs` and `file.rs` each yield settings,
//! a flag and a well-formed value; `argh` makes `LowArgs` of them, what was set; `check.rs` adds the defaults, checks values
//! against each other, and makes the [`Config`]. Always: whatever the input, an answer and no panic.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use log::{Level, LevelFilter};

mod bootstrap;
mod check;
mod env;
mod file;
mod flags;
mod help;
mod table;
mod tls;
mod url;
mod value;

#[cfg(test)]
mod tests;

pub use bootstrap::resolve;
pub use env::Env;
pub use help::{help, usage};

/// The etcd whose API and flags these are. Clients such as kube-apiserver decide by it what they may use.
pub const ETCD_VERSION: &str = "3.7.3";

/// Whose manners the program has: by the name it is started under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `etcd`: its logs and its `--version`.
    Etcd,
    /// Any other name.
    Bramble,
}

impl Program {
    /// By the path the program was started with.
    pub fn named(path: &str) -> Program {
        match path.rsplit('/').next() {
            Some("etcd") => Program::Etcd,
            _ => Program::Bramble,
        }
    }

    /// How logs are written unless told otherwise.
    pub fn default_log(self) -> Log {
        Log { json: self == Program::Etcd, level: LevelFilter::Info, outputs: vec!["stderr".into()] }
    }
}

/// What the program was asked to do.
#[derive(Debug)]
pub enum Command {
    /// Run the server.
    Serve(Box<Config>),
    /// Print [`help()`].
    Help,
    /// Print the version.
    Version,
}

/// Why the program does not start.
#[derive(Debug)]
pub struct Refusal {
    /// The reason.
    pub cause: Cause,
    /// How to log it: as asked for, if that much could be read.
    pub log: Log,
    /// What to log before it.
    pub notices: Vec<Notice>,
}

/// What is wrong, and so the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The command line cannot be read; Go's text. Print it and the usage, exit with 2.
    Usage(String),
    /// A value or a combination of values cannot be used. Exit with 1.
    Flags(String),
    /// This variable is set, and so is its flag. Exit with 1.
    Conflict(String),
}

/// Something to say once in the log when the server starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How loud.
    pub level: Level,
    /// What.
    pub message: String,
    /// About what.
    pub fields: Vec<(&'static str, String)>,
}

impl Notice {
    fn warn(message: &str) -> Notice {
        Notice { level: Level::Warn, message: message.to_owned(), fields: Vec::new() }
    }

    fn info(message: &str) -> Notice {
        Notice { level: Level::Info, ..Notice::warn(message) }
    }

    fn with(mut self, key: &'static str, value: &str) -> Notice {
        self.fields.push((key, value.to_owned()));
        self
    }
}

/// Reads arguments (without the program's name) and environment.
pub fn read(program: Program, args: &[String], env: &Env) -> Result<Command, Box<Refusal>> {
    Reader { program, default_host }.read(args, env)
}

/// The address of the interface that leads out, which etcd advertises where a default would be unreachable. Sends nothing.
fn default_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // TEST-NET-1, RFC 5737
    socket.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

struct Reader {
    program: Program,
    default_host: fn() -> Option<IpAddr>,
}

impl Reader {
    fn read(&self, args: &[String], env: &Env) -> Result<Command, Box<Refusal>> {
        let default_log = self.program.default_log();
        let refuse =
            |cause, log: &Log, notices: &[Notice]| Box::new(Refusal { cause, log: log.clone(), notices: notices.to_vec() });
        let command_line = flags::read(args).map_err(|text| refuse(Cause::Usage(text), &default_log, &[]))?;
        let (mut settings, mut notices) = match command_line {
            flags::CommandLine::Help => return Ok(Command::Help),
            flags::CommandLine::Flags { junk: Some(junk), .. } => {
                let text = format!("{} is not a valid flag", value::quote(&junk));
                return Err(refuse(Cause::Flags(text), &default_log, &[]));
            }
            flags::CommandLine::Flags { settings, notices, junk: None } => (settings, notices),
        };
        let low =
            |settings: &[flags::Setting]| flags::low_args(settings).map_err(|text| refuse(Cause::Flags(text), &default_log, &[]));
        let typed = low(&settings)?;
        if typed.version == Some(true) {
            return Ok(Command::Version);
        }
        let file = typed.config_file.filter(|path| !path.is_empty());
        let file = file.or_else(|| env::get(env, "ETCD_CONFIG_FILE").map(str::to_owned));
        if let Some(path) = &file {
            notices.clear();
            let read = file::read(path, &mut notices);
            settings = read.map_err(|text| refuse(Cause::Flags(text), &default_log, &notices))?;
            let loaded = "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided";
            notices.insert(0, Notice::info(loaded).with("path", path));
        } else {
            env::read(env, &mut settings, &mut notices).map_err(|trouble| {
                let cause = match trouble {
                    env::Trouble::Conflict(variable) => Cause::Conflict(variable),
                    env::Trouble::Value(text) => Cause::Flags(text),
                };
                refuse(cause, &default_log, &notices)
            })?;
        }
        notices.extend(flags::inert(&settings));
        let low = low(&settings)?;
        let log =
            check::log(&low, self.program, &mut notices).map_err(|text| refuse(Cause::Flags(text), &default_log, &notices))?;
        let context = check::Context { from_file: file.is_some(), default_host: self.default_host };
        match check::config(low, log.clone(), &context, &mut notices) {
            Ok(mut config) => {
                config.notices = notices;
                Ok(Command::Serve(Box::new(config)))
            }
            Err(text) => Err(refuse(Cause::Flags(text), &log, &notices)),
        }
    }
}

/// All that a running server may be told. Every value is checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--name`
    pub name: String,
    /// `--data-dir`
    pub data_dir: PathBuf,
    /// `--wal-dir`; none: `member/wal` in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// `--listen-client-urls`: gRPC, and HTTP too unless `listen_client_http_urls` is set.
    pub listen_client_urls: Vec<ListenUrl>,
    /// `--listen-client-http-urls`: if not empty, HTTP moves here and `listen_client_urls` serves gRPC only.
    pub listen_client_http_urls: Vec<ListenUrl>,
    /// `--listen-metrics-urls`
    pub listen_metrics_urls: Vec<ListenUrl>,
    /// `--listen-peer-urls`
    pub listen_peer_urls: Vec<ListenUrl>,
    /// `--advertise-client-urls`, as given.
    pub advertise_client_urls: Vec<String>,
    /// `--initial-advertise-peer-urls`, as given.
    pub initial_advertise_peer_urls: Vec<String>,
    /// `--initial-cluster`: member name and its peer URLs, in name order.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    /// `--initial-cluster-token`
    pub initial_cluster_token: String,
    /// `--initial-cluster-state=existing`
    pub join_existing: bool,
    /// `--force-new-cluster`
    pub force_new_cluster: bool,
    /// `--strict-reconfig-check`
    pub strict_reconfig_check: bool,
    /// `--pre-vote`
    pub pre_vote: bool,
    /// `--heartbeat-interval`
    pub heartbeat_interval: Duration,
    /// `--election-timeout`
    pub election_timeout: Duration,
    /// The shortest lease, whole seconds: a lease must outlive an election. etcd takes one and a half election timeouts, 2 s with its own
    /// defaults of 100 and 1000 ms. Here these are longer unless flags say otherwise, but clients that ask for a lease of 2 s
    /// rely on getting it; so etcd's defaults stand in here for whichever of the two flags is not set.
    pub min_lease_ttl: Duration,
    /// `--snapshot-count`: entries between checkpoints at the most.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`
    pub snapshot_catchup_entries: u64,
    /// `--quota-backend-bytes`; none: no quota (a negative value). 0 has become the default.
    pub quota_backend_bytes: Option<u64>,
    /// `--max-txn-ops`
    pub max_txn_ops: usize,
    /// `--max-request-bytes`
    pub max_request_bytes: usize,
    /// `--max-concurrent-streams`
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-min-time`: a client that pings more often is sent away.
    pub keepalive_min_time: Duration,
    /// `--grpc-keepalive-interval`: idle time after which the server pings a client; zero: never.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`: how long it waits for the answer; zero: for ever.
    pub keepalive_timeout: Duration,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`
    pub auto_compaction: AutoCompaction,
    /// `--compaction-batch-limit`
    pub compaction_batch_limit: usize,
    /// `--compaction-sleep-interval`
    pub compaction_sleep_interval: Duration,
    /// `--watch-progress-notify-interval`
    pub watch_progress_notify_interval: Duration,
    /// `--warning-apply-duration`
    pub warning_apply_duration: Duration,
    /// `--warning-unary-request-duration`
    pub warning_unary_request_duration: Duration,
    /// TLS of the client URLs (also of the HTTP and https metrics URLs).
    pub client_tls: Tls,
    /// TLS of the peer URLs.
    pub peer_tls: Tls,
    /// `--cors`: allowed origins; `*` alone allows all.
    pub cors: Vec<String>,
    /// `--host-whitelist`: allowed host names of plaintext HTTP; `*` alone allows all.
    pub host_whitelist: Vec<String>,
    /// `--socket-reuse-port`
    pub socket_reuse_port: bool,
    /// `--socket-reuse-address`
    pub socket_reuse_address: bool,
    /// `--metrics=extensive`
    pub extensive_metrics: bool,
    /// `--initial-corrupt-check` in any of its spellings, the feature gate included.
    pub initial_corrupt_check: bool,
    /// `--corrupt-check-time`; zero: never.
    pub corrupt_check_time: Duration,
    /// `--unsafe-no-fsync`
    pub unsafe_no_fsync: bool,
    /// `--max-learners`
    pub max_learners: usize,
    /// `--relaxed-prefixes` and what belongs to it; none: every write is synced before it is acknowledged.
    pub relaxed: Option<Relaxed>,
    /// How and where to log.
    pub log: Log,
    /// What to say once in the log: ignored flags, adjusted values.
    pub notices: Vec<Notice>,
}

impl Config {
    /// How long a request may take before its client is told that its outcome is unknown: five seconds and two elections, as
    /// in etcd.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + self.election_timeout * 2
    }
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenUrl {
    /// https or unixs.
    pub tls: bool,
    /// The socket.
    pub addr: ListenAddr,
    /// The URL as given, for messages.
    pub url: String,
}

/// A socket's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// TCP. `localhost` has been resolved to 127.0.0.1.
    Tcp(SocketAddr),
    /// A unix socket: `unix://path`.
    Unix(PathBuf),
}

/// A `--cert-file` family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The server's chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// The chain used as a client; none: the server's.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
    /// Authorities that client certificates must come from, PEM.
    pub trusted_ca_file: Option<PathBuf>,
    /// Refuse clients without a certificate of `trusted_ca_file`. Set whenever that file is, as in etcd.
    pub client_cert_auth: bool,
    /// Revoked client certificates, PEM or DER.
    pub crl_file: Option<PathBuf>,
    /// Make a self-signed certificate below the data directory.
    pub auto_tls: bool,
    /// Validity of such a certificate, in years.
    pub self_signed_validity_years: u32,
    /// Client certificates must carry one of these names (SAN). Empty: any.
    pub allowed_hostnames: Vec<String>,
    /// Client certificates must carry one of these common names. Empty: any.
    pub allowed_cns: Vec<String>,
    /// Do not check a peer's SAN against its address.
    pub skip_client_san_verification: bool,
    /// `--cipher-suites` in Go's names, all of them offered here. Empty: the library's choice. TLS 1.3 suites cannot be chosen, as in Go.
    pub cipher_suites: Vec<String>,
    /// `--tls-min-version`
    pub min_version: TlsVersion,
    /// `--tls-max-version`
    pub max_version: TlsVersion,
}

/// The versions that are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    #[default]
    Tls13,
}

/// What is compacted without being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Nothing.
    Off,
    /// What is older than this.
    Periodic(Duration),
    /// All but so many latest revisions.
    Revision(i64),
}

/// Writes that may be acknowledged before they are synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relaxed {
    /// `--relaxed-prefixes`: those to keys that begin with one of these. Not empty, and none of them is.
    pub prefixes: Vec<String>,
    /// `--relaxed-leases`: and grants of leases, and the ends of those that hold no other keys.
    pub leases: bool,
    /// `--relaxed-interval`: they are synced at the latest after so long. Not zero.
    pub interval: Duration,
}

/// `--logger`, `--log-level`, `--log-format`, `--log-outputs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// One JSON object per line, as etcd; otherwise lines for people.
    pub json: bool,
    /// The least level that is written.
    pub level: log::LevelFilter,
    /// `stderr`, `stdout` or files.
    pub outputs: Vec<String>,
}
