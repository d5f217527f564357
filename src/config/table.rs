//! The flags: one line each, from which come the parser, the environment variables, the keys of the configuration file and `--help`.

use argh::FromArgs;

use super::url::{Origins, Urls};
use super::value::{ClusterState, FallbackProxy, Form, Gates, List, Nanos, ProxyOff, Set, V2Deprecation, Value};

/// What is known of a flag.
#[derive(Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// The heading it stands under in `--help`.
    pub group: &'static str,
    /// As shown in `--help`; the value itself is set by `check.rs`.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
    /// If it changes nothing here: why.
    pub inert: Option<&'static str>,
    /// How it looks in a file.
    pub form: Form,
    /// Whether a text is a value of it, and if not, why.
    pub check: fn(&str) -> Result<(), String>,
}

/// The environment variable of a flag: `ETCD_SNAPSHOT_COUNT`.
pub fn variable(name: &str) -> String {
    format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// The flag of this name.
pub fn flag(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// What a name on a command line, in the environment or in a file stands for.
#[derive(Clone, Copy, Debug)]
pub enum Named {
    /// A flag under its own name.
    Flag(&'static Flag),
    /// A flag under an older name.
    Old(&'static Flag),
    /// A flag of older versions that is accepted and does nothing; whether it took a value.
    Gone {
        /// Otherwise it was boolean.
        takes_value: bool,
    },
}

/// Looks a name up under all that etcd has called its flags.
pub fn named(name: &str) -> Option<Named> {
    if let Some(flag) = flag(name) {
        return Some(Named::Flag(flag));
    }
    if let Some((_, takes_value)) = GONE.iter().find(|(gone, _)| *gone == name) {
        return Some(Named::Gone { takes_value: *takes_value });
    }
    let new = OLD.iter().find(|(old, _)| *old == name).map(|(_, new)| *new).or_else(|| name.strip_prefix("experimental-"))?;
    flag(new).filter(|flag| WAS_EXPERIMENTAL.contains(&flag.name)).map(Named::Old)
}

/// Flags that were called `experimental-` something until etcd 3.6.
const WAS_EXPERIMENTAL: [&str; 20] = [
    "backend-bbolt-freelist-type",
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "initial-corrupt-check",
    "max-learners",
    "memory-mlock",
    "peer-skip-client-san-verification",
    "snapshot-catchup-entries",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

/// Older names that differ in more than the prefix.
const OLD: [(&str, &str); 1] = [("experimental-snapshot-catch-up-entries", "snapshot-catchup-entries")];

/// Flags of older versions without a successor; true: they took a value.
const GONE: [(&str, bool); 31] = [
    // Ignored by etcd 3.7 as well, each as a boolean.
    ("cluster-active-size", false),
    ("cluster-remove-delay", false),
    ("cluster-sync-interval", false),
    ("config", false),
    ("force", false),
    ("max-result-buffer", false),
    ("max-retry-attempts", false),
    ("peer-heartbeat-interval", false),
    ("peer-election-timeout", false),
    ("retry-interval", false),
    ("snapshot", false),
    ("v", false),
    ("vv", false),
    ("test.coverprofile", false),
    ("test.outputdir", false),
    // Still passed by charts and installers made for etcd 3.4 and 3.5.
    ("enable-v2", false),
    ("experimental-enable-v2v3", true),
    ("proxy-failure-wait", true),
    ("proxy-refresh-interval", true),
    ("proxy-dial-timeout", true),
    ("proxy-write-timeout", true),
    ("proxy-read-timeout", true),
    ("debug", false),
    ("log-package-levels", true),
    ("log-output", true),
    // Feature gates of today that change nothing here.
    ("experimental-compact-hash-check-enabled", false),
    ("experimental-enable-lease-checkpoint", false),
    ("experimental-enable-lease-checkpoint-persist", false),
    ("experimental-stop-grpc-service-on-defrag", false),
    ("experimental-set-member-localaddr", false),
    ("experimental-txn-mode-write-with-shared-buffer", false),
];

macro_rules! flags {
    ($($group:literal { $($name:tt $field:ident: $type:ty = $default:tt, $help:tt $(, inert $why:tt)?;)* })*) => {
        /// What was set, by flag, variable or file, before any default: each value is well formed, none is checked against another.
        #[derive(FromArgs, Debug)]
        #[allow(dead_code)] // an inert flag is taken and checked for form, and its value goes nowhere
        pub struct LowArgs {
            $($(
                #[doc = $help]
                #[argh(option, long = $name, from_str_fn(Value::parse))]
                pub $field: Option<$type>,
            )*)*
        }

        /// All flags, in the order of `--help`.
        pub static FLAGS: &[Flag] = &[$($(
            Flag {
                name: $name,
                group: $group,
                default: $default,
                help: $help,
                inert: flags!(@why $($why)?),
                form: <$type as Value>::FORM,
                check: |text| <$type as Value>::parse(text).map(drop),
            },
        )*)*];
    };
    (@why $why:tt) => { Some($why) };
    (@why) => { None };
}

flags! {
    "Program" {
        "version" version: bool = "false", "print the version and exit.";
        "config-file" config_file: String = "", "read a YAML file instead; all other flags and all variables are then ignored. Durations in it are integer nanoseconds, or texts such as 5s.";
    }
    "Member" {
        "name" name: String = "default", "name of this member, unique in the cluster.";
        "data-dir" data_dir: String = "${name}.etcd", "directory of all data.";
        "wal-dir" wal_dir: String = "", "directory of the write-ahead log, if it is to be apart.";
        "snapshot-count" snapshot_count: u64 = "10000", "most entries applied between two checkpoints.";
        "snapshot-catchup-entries" snapshot_catchup_entries: u64 = "5000", "entries kept behind a checkpoint for followers that are late.";
        "heartbeat-interval" heartbeat_interval: u64 = "500", "milliseconds between two heartbeats. Suits SD cards; etcd's own default is 100.";
        "election-timeout" election_timeout: u64 = "5000", "milliseconds without a leader until an election, at least five heartbeats. Suits SD cards; etcd's own default is 1000.";
        "initial-election-tick-advance" initial_election_tick_advance: bool = "true", "shorten the wait for the first election after a start.", inert "a single voter elects itself at once, and others wait a whole timeout";
        "listen-peer-urls" listen_peer_urls: Urls = "http://localhost:2380", "where to listen for members.";
        "listen-client-urls" listen_client_urls: Urls = "http://localhost:2379", "where to listen for clients: gRPC, and HTTP unless --listen-client-http-urls is set.";
        "listen-client-http-urls" listen_client_http_urls: Urls = "", "where to listen for HTTP alone; then --listen-client-urls serve gRPC alone.";
        "max-snapshots" max_snapshots: u64 = "5", "snapshot files to keep. Removed in etcd 3.8.", inert "there is one checkpoint";
        "max-wals" max_wals: u64 = "5", "log files to keep.", inert "segments behind the checkpoint are recycled";
        "memory-mlock" memory_mlock: bool = "false", "keep the server's memory from being swapped out.", inert "the database is mapped, and may be larger than the memory";
        "quota-backend-bytes" quota_backend_bytes: i64 = "0", "size of the database at which writes are refused; 0 is 2 GiB, a negative number is none.";
        "backend-bbolt-freelist-type" backend_bbolt_freelist_type: String = "map", "free list of bbolt.", inert "the backend is LMDB";
        "backend-batch-interval" backend_batch_interval: Nanos = "", "longest time between two backend commits.", inert "the write-ahead log makes writes durable, and checkpoints are paced";
        "backend-batch-limit" backend_batch_limit: i64 = "0", "most operations between two backend commits.", inert "the write-ahead log makes writes durable, and checkpoints are paced";
        "max-txn-ops" max_txn_ops: u64 = "128", "most operations in a transaction.";
        "max-request-bytes" max_request_bytes: u64 = "1572864", "largest request of a client, in bytes.";
        "max-concurrent-streams" max_concurrent_streams: u32 = "4294967295", "most streams of a client's connection at a time.";
        "grpc-keepalive-min-time" grpc_keepalive_min_time: Nanos = "5s", "shortest time a client should leave between two pings.";
        "grpc-keepalive-interval" grpc_keepalive_interval: Nanos = "2h", "idle time after which the server pings a client; 0 for never.";
        "grpc-keepalive-timeout" grpc_keepalive_timeout: Nanos = "20s", "how long the server waits for the answer to a ping; 0 for ever.";
        "socket-reuse-port" socket_reuse_port: bool = "false", "set SO_REUSEPORT on listeners.";
        "socket-reuse-address" socket_reuse_address: bool = "false", "set SO_REUSEADDR on listeners.";
        "enable-grpc-gateway" enable_grpc_gateway: bool = "true", "serve the JSON gateway.", inert "the JSON gateway is not offered yet";
        "raft-read-timeout" raft_read_timeout: Nanos = "5s", "read timeout of a connection between members.", inert "links between members are watched by their heartbeats";
        "raft-write-timeout" raft_write_timeout: Nanos = "5s", "write timeout of a connection between members.", inert "links between members are watched by their heartbeats";
        "feature-gates" feature_gates: Gates = "", "features to switch on or off, as name=true,name=false: CompactHashCheck, FastLeaseKeepAlive, InitialCorruptCheck, LeaseCheckpoint, LeaseCheckpointPersist, PriorityRequest, SetMemberLocalAddr, StopGRPCServiceOnDefrag, TxnModeWriteWithSharedBuffer, AllAlpha, AllBeta.";
        "initial-corrupt-check" initial_corrupt_check: bool = "false", "check the data before serving, as --feature-gates=InitialCorruptCheck=true.";
    }
    "Clustering" {
        "initial-advertise-peer-urls" initial_advertise_peer_urls: Urls = "http://localhost:2380", "this member's peer URLs, as the other members reach it.";
        "initial-cluster" initial_cluster: String = "default=http://localhost:2380", "the members a new cluster starts with: n1=url,n1=url,n2=url.";
        "initial-cluster-state" initial_cluster_state: ClusterState = "new", "new for a new cluster, existing to join one. Ignored once there is data.";
        "initial-cluster-token" initial_cluster_token: String = "etcd-cluster", "keeps clusters apart that were started with the same members.";
        "advertise-client-urls" advertise_client_urls: Urls = "http://localhost:2379", "this member's client URLs, as clients reach it. Required with --listen-client-urls.";
        "discovery" discovery: String = "", "address of a v2 discovery service. Not offered.";
        "discovery-token" discovery_token: String = "", "token of a v3 discovery service. Not offered.";
        "discovery-endpoints" discovery_endpoints: Set = "", "endpoints of a v3 discovery service. Not offered.";
        "discovery-dial-timeout" discovery_dial_timeout: Nanos = "2s", "dial timeout of discovery.", inert "discovery is not offered";
        "discovery-request-timeout" discovery_request_timeout: Nanos = "5s", "request timeout of discovery.", inert "discovery is not offered";
        "discovery-keepalive-time" discovery_keepalive_time: Nanos = "2s", "keepalive time of discovery.", inert "discovery is not offered";
        "discovery-keepalive-timeout" discovery_keepalive_timeout: Nanos = "6s", "keepalive timeout of discovery.", inert "discovery is not offered";
        "discovery-insecure-transport" discovery_insecure_transport: bool = "true", "do without TLS for discovery.", inert "discovery is not offered";
        "discovery-insecure-skip-tls-verify" discovery_insecure_skip_tls_verify: bool = "false", "do not verify discovery's certificate.", inert "discovery is not offered";
        "discovery-cert" discovery_cert: String = "", "certificate for discovery.", inert "discovery is not offered";
        "discovery-key" discovery_key: String = "", "key for discovery.", inert "discovery is not offered";
        "discovery-cacert" discovery_cacert: String = "", "authorities for discovery.", inert "discovery is not offered";
        "discovery-user" discovery_user: String = "", "user name for discovery.", inert "discovery is not offered";
        "discovery-password" discovery_password: String = "", "password for discovery.", inert "discovery is not offered";
        "discovery-fallback" discovery_fallback: FallbackProxy = "exit", "what to do if discovery fails; only exit.", inert "discovery is not offered";
        "discovery-proxy" discovery_proxy: String = "", "proxy for v2 discovery.", inert "discovery is not offered";
        "discovery-srv" discovery_srv: String = "", "domain whose DNS SRV records name the members. Not offered.";
        "discovery-srv-name" discovery_srv_name: String = "", "suffix of the SRV records' names.", inert "discovery is not offered";
        "proxy" proxy: ProxyOff = "off", "the v2 proxy of etcd 3.5; only off.", inert "the v2 proxy is gone";
        "strict-reconfig-check" strict_reconfig_check: bool = "true", "refuse membership changes that would lose the quorum.";
        "pre-vote" pre_vote: bool = "true", "ask before an election, so that a member that returns does not disturb the leader.";
        "auto-compaction-retention" auto_compaction_retention: String = "0", "history to keep: a duration, or a number of hours or revisions after --auto-compaction-mode; 0 keeps all.";
        "auto-compaction-mode" auto_compaction_mode: String = "periodic", "periodic or revision: what --auto-compaction-retention counts.";
        "v2-deprecation" v2_deprecation: V2Deprecation = "write-only", "stage of the v2 store's removal.", inert "there is no v2 store";
    }
    "Security" {
        "cert-file" cert_file: String = "", "certificate chain for clients, PEM.";
        "key-file" key_file: String = "", "its key, PEM.";
        "client-cert-auth" client_cert_auth: bool = "false", "refuse clients without a certificate of --trusted-ca-file.";
        "client-cert-file" client_cert_file: String = "", "certificate to show as a client, if not --cert-file.";
        "client-key-file" client_key_file: String = "", "its key.";
        "client-crl-file" client_crl_file: String = "", "revoked client certificates.";
        "client-cert-allowed-hostname" client_cert_allowed_hostname: List = "", "host names, one of which a client's certificate must be for.";
        "client-cert-allowed-cn" client_cert_allowed_cn: List = "", "common names, one of which a client's certificate must have. In etcd only in the configuration file.";
        "trusted-ca-file" trusted_ca_file: String = "", "authorities that client certificates must come from, PEM. Makes certificates compulsory.";
        "auto-tls" auto_tls: bool = "false", "make a certificate for clients at the start.";
        "peer-cert-file" peer_cert_file: String = "", "certificate chain for members, PEM.";
        "peer-key-file" peer_key_file: String = "", "its key, PEM.";
        "peer-client-cert-auth" peer_client_cert_auth: bool = "false", "refuse members without a certificate of --peer-trusted-ca-file.";
        "peer-client-cert-file" peer_client_cert_file: String = "", "certificate to show to members, if not --peer-cert-file.";
        "peer-client-key-file" peer_client_key_file: String = "", "its key.";
        "peer-trusted-ca-file" peer_trusted_ca_file: String = "", "authorities that members' certificates must come from, PEM. Makes certificates compulsory.";
        "peer-cert-allowed-cn" peer_cert_allowed_cn: List = "", "common names, one of which a member's certificate must have.";
        "peer-cert-allowed-hostname" peer_cert_allowed_hostname: List = "", "host names, one of which a member's certificate must be for.";
        "peer-auto-tls" peer_auto_tls: bool = "false", "make a certificate for members at the start.";
        "peer-crl-file" peer_crl_file: String = "", "revoked certificates of members.";
        "peer-skip-client-san-verification" peer_skip_client_san_verification: bool = "false", "do not check the names in a member's certificate against its address.";
        "self-signed-cert-validity" self_signed_cert_validity: u64 = "1", "years that a certificate made at the start is valid.";
        "cipher-suites" cipher_suites: List = "", "cipher suites of TLS 1.2 to offer, in Go's names; empty for all that are safe.";
        "tls-min-version" tls_min_version: String = "TLS1.2", "lowest TLS version: TLS1.2 or TLS1.3.";
        "tls-max-version" tls_max_version: String = "", "highest TLS version: TLS1.2 or TLS1.3; empty for the latest.";
        "cors" cors: Origins = "*", "origins that browsers may call from; * for all.";
        "host-whitelist" host_whitelist: Set = "*", "host names that HTTP without TLS answers to; * for all.";
    }
    "Auth" {
        "auth-token" auth_token: String = "simple", "kind of the auth tokens: simple, or jwt with its options.", inert "authentication is not offered yet";
        "bcrypt-cost" bcrypt_cost: u64 = "10", "cost of hashing a password, 4 to 31.", inert "authentication is not offered yet";
        "auth-token-ttl" auth_token_ttl: u64 = "300", "seconds that an unused token lives.", inert "authentication is not offered yet";
    }
    "Profiling and Monitoring" {
        "enable-pprof" enable_pprof: bool = "false", "serve Go's profiles below /debug/pprof.", inert "there is no Go runtime to profile";
        "metrics" metrics: String = "basic", "basic, or extensive for histograms of every RPC.";
        "listen-metrics-urls" listen_metrics_urls: Urls = "", "more URLs for /metrics and /health.";
    }
    "Logging" {
        "logger" logger: String = "zap", "only zap: one JSON object a line. Started as bramble without it, lines are for people.";
        "log-outputs" log_outputs: Set = "default", "stderr, stdout or files, with commas; default is stderr.";
        "log-level" log_level: String = "info", "debug, info, warn, error, panic or fatal.";
        "log-format" log_format: String = "json", "json or console.";
        "enable-log-rotation" enable_log_rotation: bool = "false", "rotate the log file.", inert "logs are not rotated: let logrotate or the journal do it";
        "log-rotation-config-json" log_rotation_config_json: String = "", "how to rotate.", inert "logs are not rotated: let logrotate or the journal do it";
        "warning-unary-request-duration" warning_unary_request_duration: Nanos = "300ms", "log a unary request that takes longer.";
        "warning-apply-duration" warning_apply_duration: Nanos = "100ms", "log a request whose apply takes longer.";
    }
    "Distributed tracing" {
        "enable-distributed-tracing" enable_distributed_tracing: bool = "false", "send traces.", inert "tracing is not offered";
        "distributed-tracing-address" distributed_tracing_address: String = "localhost:4317", "collector of the traces.", inert "tracing is not offered";
        "distributed-tracing-service-name" distributed_tracing_service_name: String = "etcd", "service name in the traces.", inert "tracing is not offered";
        "distributed-tracing-instance-id" distributed_tracing_instance_id: String = "", "instance in the traces.", inert "tracing is not offered";
        "distributed-tracing-sampling-rate" distributed_tracing_sampling_rate: i64 = "0", "samples in a million spans.", inert "tracing is not offered";
    }
    "Features" {
        "corrupt-check-time" corrupt_check_time: Nanos = "0s", "time between two comparisons of the members' data; 0 for never.";
        "compact-hash-check-time" compact_hash_check_time: Nanos = "1m0s", "time between two comparisons of the members' compaction hashes.", inert "compaction hashes are compared by --corrupt-check-time";
        "compaction-batch-limit" compaction_batch_limit: i64 = "1000", "most revisions deleted in one step of a compaction.";
        "compaction-sleep-interval" compaction_sleep_interval: Nanos = "10ms", "pause between two steps of a compaction.";
        "downgrade-check-time" downgrade_check_time: Nanos = "5s", "time between two looks at a downgrade.", inert "downgrades are not offered";
        "watch-progress-notify-interval" watch_progress_notify_interval: Nanos = "10m0s", "time between two progress notices of an idle watch, at least 100ms.";
        "bootstrap-defrag-threshold-megabytes" bootstrap_defrag_threshold_megabytes: u64 = "0", "defragment at the start if it frees as much.", inert "space is freed while running";
        "max-learners" max_learners: i64 = "1", "most learners in the cluster.";
    }
    "Relaxed durability (not in etcd)" {
        "relaxed-prefixes" relaxed_prefixes: List = "", "acknowledge writes to keys that begin so before they are synced: a power cut may lose the latest of them, and nothing else. Spares flash; for node leases, leader election and events. Empty for none.";
        "relaxed-leases" relaxed_leases: bool = "false", "with --relaxed-prefixes, the same for grants of leases, and for the ends of leases that hold no other keys.";
        "relaxed-interval" relaxed_interval: Nanos = "10s", "longest time until such writes are synced.";
    }
    "Unsafe" {
        "force-new-cluster" force_new_cluster: bool = "false", "drop all other members and go on alone with this one's data.";
        "unsafe-no-fsync" unsafe_no_fsync: bool = "false", "do not wait for the disk. A power cut then loses data.";
    }
}
