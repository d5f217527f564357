//! Flags, environment and file become one checked [`Config`], once. Below this room nobody checks again or reads the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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
    /// The shortest lease that is granted.
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
    /// `--grpc-keepalive-interval`: idle time after which the server pings a client; zero: never.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`: how long it waits for the answer.
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
    /// How and where to log.
    pub log: Log,
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
    /// Refuse clients without a certificate of `trusted_ca_file`.
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
    /// `--cipher-suites` in Go's names, checked. Empty: the library's choice. TLS 1.3 suites cannot be chosen, as in Go.
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
