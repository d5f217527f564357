//! [`LowArgs`], what was set, becomes a [`Config`], what holds: defaults filled in, values checked against each other, with etcd's
//! texts where etcd has one. The order of the checks is etcd's too, since the first failure is the one a user sees.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::table::LowArgs;
use super::url::{Origins, Url, Urls};
use super::value::{ClusterState, FallbackProxy, Gates, List, Nanos, Set, duration, quote, show_duration};
use super::{AutoCompaction, Config, ListenUrl, Log, Notice, Program, Relaxed, bootstrap, tls};

/// What the check needs besides the values.
pub struct Context {
    /// The values are a file's, for which etcd is less strict in places.
    pub from_file: bool,
    /// This machine's address to the world.
    pub default_host: fn() -> Option<IpAddr>,
}

const PEER_DEFAULT: &str = "http://localhost:2380";
const CLIENT_DEFAULT: &str = "http://localhost:2379";
const DEFAULT_NAME: &str = "default";
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
const DEFAULT_QUOTA: u64 = 2 << 30;
const RELAXED_INTERVAL: Nanos = Nanos(10_000_000_000);
const LARGE_QUOTA: u64 = 8 << 30;
const LARGE_REQUEST: usize = 10 << 20;
const MOST_ELECTION_MS: u64 = 50_000;

/// The flags about logs; first, so that all else can be logged as asked.
pub fn log(low: &LowArgs, program: Program, notices: &mut Vec<Notice>) -> Result<Log, String> {
    match low.logger.as_deref() {
        None | Some("zap") => {}
        Some("capnslog") => return Err("--logger=capnslog is removed in v3.5".into()),
        Some(other) => return Err(format!("unknown logger option {}", quote(other))),
    }
    let outputs = match &low.log_outputs {
        None => vec!["default".to_owned()],
        Some(Set(outputs)) if outputs.is_empty() => vec!["default".to_owned()],
        Some(Set(outputs)) => outputs.clone(),
    };
    if outputs.len() > 1 && outputs.iter().any(|o| o == "default") {
        return Err("multi logoutput for \"default\" is not supported yet".into());
    }
    let files = outputs.iter().filter(|o| !matches!(o.as_str(), "default" | "stderr" | "stdout")).count();
    if low.enable_log_rotation == Some(true) && (files > 1 || (outputs.len() == 1 && files == 0)) {
        return Err("--log-outputs requires a single file path when --log-rotate-config-json is defined".into());
    }
    let json = match low.log_format.as_deref() {
        Some("console") => false,
        Some("json") => true,
        None | Some("") => program == Program::Etcd || low.logger.is_some(),
        Some(other) => return Err(format!("unknown log format: {other}, supported values json, console")),
    };
    let level = match low.log_level.as_deref() {
        Some("debug" | "DEBUG") => LevelFilter::Debug,
        None | Some("info" | "INFO" | "") => LevelFilter::Info,
        Some("warn" | "WARN") => LevelFilter::Warn,
        // Nothing is louder here than an error.
        Some("error" | "ERROR" | "dpanic" | "DPANIC" | "panic" | "PANIC" | "fatal" | "FATAL") => LevelFilter::Error,
        Some(other) => return Err(format!("unrecognized level: {}", quote(other))),
    };
    Ok(Log { json, level, outputs: outputs.into_iter().map(|output| plain_output(output, notices)).collect() })
}

fn plain_output(output: String, notices: &mut Vec<Notice>) -> String {
    match output.as_str() {
        "default" => "stderr".into(),
        "systemd/journal" => {
            notices.push(
                Notice::info("log lines go to stderr, from where systemd puts them into the journal").with("log-output", &output),
            );
            "stderr".into()
        }
        _ => output,
    }
}

/// Everything else.
pub fn config(low: LowArgs, log: Log, context: &Context, notices: &mut Vec<Notice>) -> Result<Config, String> {
    if low.discovery_fallback == Some(FallbackProxy(true)) {
        return Err("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"".into());
    }
    let urls = AllUrls::of(&low, context)?;
    let listen_peer_urls = bind(&urls.listen_peer)?;
    let listen_client_urls = bind(&urls.listen_client)?;
    let listen_client_http_urls = bind(&urls.listen_client_http)?;
    let listen_metrics_urls = bind(&urls.listen_metrics)?;
    urls.check_advertised()?;
    one_way_to_bootstrap(&low)?;
    let ticks = Ticks::of(&low)?;
    if urls.advertise_client.is_empty() {
        return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".into());
    }
    let auto_compaction_mode = compaction_mode(&low)?;
    if low.enable_distributed_tracing == Some(true) && low.distributed_tracing_sampling_rate.is_some_and(|rate| rate < 0) {
        return Err("distributed tracing configurition is not valid: (tracing sampling rate must be positive)".into());
    }
    let gates = low.feature_gates.clone().unwrap_or_default();
    check_gates(&gates, notices)?;
    if let Some(time) = low.compact_hash_check_time.filter(|time| time.0 <= 0) {
        return Err(format!("--compact-hash-check-time must be >0 (set to {})", show_duration(time)));
    }
    let name = low.name.clone().unwrap_or_else(|| DEFAULT_NAME.into());
    if name == DEFAULT_NAME {
        let text = "it isn't recommended to use default name, please set a value for --name. \
                    Note that etcd might run into issue when multiple members have the same default name";
        notices.push(Notice::warn(text).with("name", &name));
    }
    let versions = tls::versions(&low)?;
    let urls = urls.with_default_host(context, notices);
    let (client_tls, peer_tls) = tls::both(&low, versions, notices)?;
    tls::check_urls(&low, &client_tls, &peer_tls, &urls, notices)?;
    urls.check_http_apart()?;
    let auto_compaction = auto_compaction(&low, auto_compaction_mode, notices)?;
    let initial_cluster = match &low.initial_cluster {
        Some(text) => bootstrap::members(text).map_err(|why| format!("error setting up initial cluster: {why}"))?,
        None => vec![(cluster_name(&name), texts(&urls.advertise_peer))],
    };
    discovery_is_not_offered(&low)?;
    if let Some(token) = &low.auth_token
        && !matches!(token.split(',').next(), Some("simple" | "jwt"))
    {
        return Err("auth: invalid auth options".into());
    }
    warn_of_danger(&low, notices);
    let max_request_bytes = max_request_bytes(&low, notices)?;
    Ok(Config {
        data_dir: data_dir(&low, &name, notices),
        wal_dir: path(&low.wal_dir),
        listen_client_urls,
        listen_client_http_urls,
        listen_metrics_urls,
        listen_peer_urls,
        advertise_client_urls: texts(&urls.advertise_client),
        initial_advertise_peer_urls: texts(&urls.advertise_peer),
        initial_cluster,
        initial_cluster_token: low.initial_cluster_token.clone().unwrap_or_else(|| "etcd-cluster".into()),
        join_existing: low.initial_cluster_state == Some(ClusterState::Existing),
        force_new_cluster: low.force_new_cluster.unwrap_or(false),
        strict_reconfig_check: low.strict_reconfig_check.unwrap_or(true),
        pre_vote: low.pre_vote.unwrap_or(true),
        heartbeat_interval: ticks.heartbeat,
        election_timeout: ticks.election,
        min_lease_ttl: ticks.min_lease_ttl,
        // Zero means the default, as in etcd.
        snapshot_count: low.snapshot_count.filter(|n| *n > 0).unwrap_or(10_000),
        snapshot_catchup_entries: low.snapshot_catchup_entries.filter(|n| *n > 0).unwrap_or(5_000),
        quota_backend_bytes: quota(low.quota_backend_bytes.unwrap_or(0), notices),
        max_txn_ops: size("max-txn-ops", low.max_txn_ops.unwrap_or(128))?,
        max_request_bytes,
        max_concurrent_streams: low.max_concurrent_streams.unwrap_or(u32::MAX),
        keepalive_min_time: span(low.grpc_keepalive_min_time, Duration::from_secs(5)),
        keepalive_interval: span(low.grpc_keepalive_interval, Duration::from_secs(2 * 3600)),
        keepalive_timeout: span(low.grpc_keepalive_timeout, Duration::from_secs(20)),
        auto_compaction,
        compaction_batch_limit: size("compaction-batch-limit", positive(low.compaction_batch_limit, 1000))?,
        compaction_sleep_interval: nonzero(low.compaction_sleep_interval, Duration::from_millis(10)),
        watch_progress_notify_interval: progress_interval(&low, notices),
        warning_apply_duration: span(low.warning_apply_duration, Duration::from_millis(100)),
        warning_unary_request_duration: nonzero(low.warning_unary_request_duration, Duration::from_millis(300)),
        client_tls,
        peer_tls,
        cors: low.cors.clone().map_or_else(|| vec!["*".into()], |Origins(origins)| origins),
        host_whitelist: low.host_whitelist.clone().map(|Set(hosts)| hosts).filter(|h| !h.is_empty()).unwrap_or(vec!["*".into()]),
        socket_reuse_port: low.socket_reuse_port.unwrap_or(false),
        socket_reuse_address: low.socket_reuse_address.unwrap_or(false),
        extensive_metrics: low.metrics.as_deref() == Some("extensive"),
        initial_corrupt_check: low.initial_corrupt_check.unwrap_or(false) || gates.enabled("InitialCorruptCheck"),
        corrupt_check_time: span(low.corrupt_check_time, Duration::ZERO),
        unsafe_no_fsync: low.unsafe_no_fsync.unwrap_or(false),
        relaxed: relaxed(&low, notices)?,
        max_learners: size("max-learners", low.max_learners.map_or(1, |n| u64::try_from(n).unwrap_or(0)))?,
        name,
        log,
        notices: Vec::new(),
    })
}

/// The six URL lists, defaults filled in.
pub struct AllUrls {
    pub listen_peer: Vec<Url>,
    pub listen_client: Vec<Url>,
    pub listen_client_http: Vec<Url>,
    pub listen_metrics: Vec<Url>,
    pub advertise_peer: Vec<Url>,
    /// Empty if it is required and not given.
    pub advertise_client: Vec<Url>,
}

impl AllUrls {
    fn of(low: &LowArgs, context: &Context) -> Result<AllUrls, String> {
        let or = |given: &Option<Urls>, default: &str| match given {
            Some(Urls(urls)) if !urls.is_empty() => Ok(urls.clone()),
            _ if default.is_empty() => Ok(Vec::new()),
            _ => Url::list(default),
        };
        // A client that is told localhost by a server that listens elsewhere goes astray.
        let required = !context.from_file && low.listen_client_urls.is_some() && low.advertise_client_urls.is_none();
        Ok(AllUrls {
            listen_peer: or(&low.listen_peer_urls, PEER_DEFAULT)?,
            listen_client: or(&low.listen_client_urls, CLIENT_DEFAULT)?,
            listen_client_http: or(&low.listen_client_http_urls, "")?,
            listen_metrics: or(&low.listen_metrics_urls, "")?,
            advertise_peer: or(&low.initial_advertise_peer_urls, PEER_DEFAULT)?,
            advertise_client: or(&low.advertise_client_urls, if required { "" } else { CLIENT_DEFAULT })?,
        })
    }

    fn check_advertised(&self) -> Result<(), String> {
        self.advertise_peer.iter().try_for_each(Url::check_host).map_err(|why| {
            let urls = quote(&texts(&self.advertise_peer).join(","));
            format!("--initial-advertise-peer-urls {urls} must be \"host:port\" ({why})")
        })?;
        self.advertise_client.iter().try_for_each(Url::check_host).map_err(|why| {
            let urls = quote(&texts(&self.advertise_client).join(","));
            format!(
                "--advertise-client-urls {urls} must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" ({why})"
            )
        })
    }

    fn check_http_apart(&self) -> Result<(), String> {
        let address = |url: &Url| format!("{}{}", url.host, url.path);
        let grpc: Vec<String> = self.listen_client.iter().map(address).collect();
        match self.listen_client_http.iter().find(|url| grpc.contains(&address(url))) {
            None => Ok(()),
            Some(url) => {
                Err(format!("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {}", url.text))
            }
        }
    }

    /// Advertises this machine's address where the default is advertised although the server listens on all addresses.
    fn with_default_host(mut self, context: &Context, notices: &mut Vec<Notice>) -> AllUrls {
        let mut detected = None;
        let pairs = [
            (&self.listen_peer, &mut self.advertise_peer, PEER_DEFAULT),
            (&self.listen_client, &mut self.advertise_client, CLIENT_DEFAULT),
        ];
        for (listen, advertise, default) in pairs {
            let everywhere = listen.first().filter(|url| url.hostname() == "0.0.0.0");
            if let Some(listen) = everywhere
                && matches!(advertise.as_slice(), [only] if only.text == default)
                && let Some(host) = detected.or_else(|| (context.default_host)())
                && let Ok(urls) = Url::list(&format!("http://{}:{}", bracketed(host), listen.port()))
            {
                *advertise = urls;
                detected = Some(host);
            }
        }
        if let Some(host) = detected {
            notices.push(Notice::info("detected default host for advertise").with("host", &host.to_string()));
        }
        self
    }
}

fn bracketed(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

fn bind(urls: &[Url]) -> Result<Vec<ListenUrl>, String> {
    urls.iter().map(Url::listen).collect()
}

fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(|url| url.text.clone()).collect()
}

fn set(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| !text.is_empty())
}

/// A path, if one is given.
pub fn path(text: &Option<String>) -> Option<PathBuf> {
    text.as_deref().filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn endpoints(low: &LowArgs) -> &[String] {
    low.discovery_endpoints.as_ref().map_or(&[], |Set(endpoints)| endpoints)
}

fn one_way_to_bootstrap(low: &LowArgs) -> Result<(), String> {
    let ways = [set(&low.initial_cluster), set(&low.discovery_srv), !endpoints(low).is_empty()];
    if ways.iter().filter(|way| **way).count() > 1 {
        return Err("multiple discovery or bootstrap flags are set. \
                    Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
            .into());
    }
    if set(&low.discovery_token) == endpoints(low).is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".into());
    }
    if endpoints(low).iter().any(|endpoint| endpoint.trim().is_empty()) {
        return Err("--discovery-endpoints must not contain empty endpoints".into());
    }
    Ok(())
}

fn discovery_is_not_offered(low: &LowArgs) -> Result<(), String> {
    let used = [
        ("discovery", set(&low.discovery)),
        ("discovery-endpoints", !endpoints(low).is_empty()),
        ("discovery-srv", set(&low.discovery_srv)),
    ];
    match used.iter().find(|(_, used)| *used) {
        None => Ok(()),
        Some((flag, _)) => Err(format!("--{flag} is not offered: name the members with --initial-cluster instead")),
    }
}

/// The two timeouts that everything else is measured in.
#[derive(Debug, PartialEq, Eq)]
struct Ticks {
    heartbeat: Duration,
    election: Duration,
    min_lease_ttl: Duration,
}

impl Ticks {
    fn of(low: &LowArgs) -> Result<Ticks, String> {
        // With --election-timeout alone, the heartbeat keeps its proportion: what etcd accepts is accepted, what it refuses refused.
        let election = low.election_timeout.unwrap_or(5000);
        let heartbeat = low.heartbeat_interval.unwrap_or((election / 10).clamp(100, 500));
        for (flag, ms) in [("heartbeat-interval", heartbeat), ("election-timeout", election)] {
            if ms == 0 {
                return Err(format!("--{flag} must be >0 (set to 0ms)"));
            }
        }
        if heartbeat.saturating_mul(5) > election {
            return Err(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if election > MOST_ELECTION_MS {
            return Err(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {MOST_ELECTION_MS}ms"
            ));
        }
        let etcd_heartbeat = low.heartbeat_interval.unwrap_or(100);
        let etcd_election = low.election_timeout.unwrap_or(1000.max(5 * etcd_heartbeat));
        let lease_ms = 3 * (etcd_election / etcd_heartbeat) / 2 * etcd_heartbeat;
        Ok(Ticks {
            heartbeat: Duration::from_millis(heartbeat),
            election: Duration::from_millis(election),
            min_lease_ttl: Duration::from_secs(lease_ms.div_ceil(1000).max(1)),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CompactionMode {
    Periodic,
    Revision,
}

fn compaction_mode(low: &LowArgs) -> Result<CompactionMode, String> {
    match low.auto_compaction_mode.as_deref() {
        None | Some("periodic") => Ok(CompactionMode::Periodic),
        Some("revision") => Ok(CompactionMode::Revision),
        Some("") => Err("undefined auto-compaction-mode".into()),
        Some(other) => Err(format!("unknown auto-compaction-mode {}", quote(other))),
    }
}

fn auto_compaction(low: &LowArgs, mode: CompactionMode, notices: &mut Vec<Notice>) -> Result<AutoCompaction, String> {
    let text = low.auto_compaction_retention.as_deref().filter(|text| !text.is_empty()).unwrap_or("0");
    let digits = text.strip_prefix('+').unwrap_or(text);
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok()).flatten();
    let amount = match number {
        Some(hours) if mode == CompactionMode::Periodic => hours
            .checked_mul(3_600_000_000_000)
            .ok_or_else(|| format!("error parsing CompactionRetention: {} hours are too many", quote(text)))?,
        Some(revisions) => revisions,
        None => duration(text).map_err(|why| format!("error parsing CompactionRetention: {why}"))?.0,
    };
    if number.is_none() && mode == CompactionMode::Revision {
        let text = "auto-compaction-retention is a duration although auto-compaction-mode is revision: it counts as revisions";
        notices.push(Notice::warn(text).with("revisions", &amount.to_string()));
    }
    match (amount, mode) {
        (0, _) => Ok(AutoCompaction::Off),
        (..0, _) => Err(format!("error parsing CompactionRetention: {} is negative", quote(text))),
        (_, CompactionMode::Periodic) => Ok(AutoCompaction::Periodic(Nanos(amount).span())),
        (_, CompactionMode::Revision) => Ok(AutoCompaction::Revision(amount)),
    }
}

fn check_gates(gates: &Gates, notices: &mut Vec<Notice>) -> Result<(), String> {
    let (checkpoint, persist) = (gates.enabled("LeaseCheckpoint"), gates.enabled("LeaseCheckpointPersist"));
    if persist && !checkpoint {
        return Err("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint".into());
    }
    for gate in gates.changed().filter(|gate| *gate != "InitialCorruptCheck") {
        notices.push(Notice::info("feature gate has no effect here").with("feature-gate", gate));
    }
    Ok(())
}

/// The name etcd gives this member in an `--initial-cluster` that it makes up.
fn cluster_name(name: &str) -> String {
    if name.is_empty() { DEFAULT_NAME.into() } else { name.to_owned() }
}

fn data_dir(low: &LowArgs, name: &str, notices: &mut Vec<Notice>) -> PathBuf {
    path(&low.data_dir).unwrap_or_else(|| {
        let default = format!("{name}.etcd");
        notices.push(Notice::warn("'data-dir' was empty; using default").with("data-dir", &default));
        PathBuf::from(default)
    })
}

fn warn_of_danger(low: &LowArgs, notices: &mut Vec<Notice>) {
    if low.unsafe_no_fsync == Some(true) {
        notices.push(Notice::warn("--unsafe-no-fsync: writes are acknowledged before they are on disk; a power cut loses them"));
    }
    if low.force_new_cluster == Some(true) {
        notices.push(Notice::warn("--force-new-cluster has nothing to do: this member is alone in its cluster"));
    }
}

fn relaxed(low: &LowArgs, notices: &mut Vec<Notice>) -> Result<Option<Relaxed>, String> {
    let interval = low.relaxed_interval.unwrap_or(RELAXED_INTERVAL);
    if interval.0 <= 0 {
        return Err(format!("--relaxed-interval must be >0 (set to {})", show_duration(interval)));
    }
    let prefixes = low.relaxed_prefixes.clone().map_or_else(Vec::new, |List(prefixes)| prefixes);
    let leases = low.relaxed_leases.unwrap_or(false);
    if prefixes.is_empty() {
        if leases {
            notices.push(Notice::warn("--relaxed-leases has no effect without --relaxed-prefixes"));
        }
        return Ok(None);
    }
    let notice =
        Notice::warn("writes to these keys are acknowledged before they are synced; a power cut may lose the latest of them");
    let notice = notice.with("relaxed-prefixes", &prefixes.join(",")).with("relaxed-leases", &leases.to_string());
    notices.push(notice.with("relaxed-interval", &show_duration(interval)));
    Ok(Some(Relaxed { prefixes, leases, interval: interval.span() }))
}

fn quota(bytes: i64, notices: &mut Vec<Notice>) -> Option<u64> {
    let bytes = u64::try_from(bytes).ok()?;
    if bytes > LARGE_QUOTA {
        let notice = Notice::warn("quota exceeds the maximum value").with("quota-size-bytes", &bytes.to_string());
        notices.push(notice.with("quota-maximum-size-bytes", &LARGE_QUOTA.to_string()));
    }
    Some(if bytes == 0 { DEFAULT_QUOTA } else { bytes })
}

fn max_request_bytes(low: &LowArgs, notices: &mut Vec<Notice>) -> Result<usize, String> {
    let bytes = size("max-request-bytes", low.max_request_bytes.unwrap_or(1_572_864))?;
    if bytes == 0 {
        return Err("--max-request-bytes must be >0 (set to 0): the server could not even record its own name".into());
    }
    // gRPC's frames count to 2^32, and the limit of a request is 512 KiB higher than its content's.
    if u32::try_from(bytes).is_err() || bytes > (u32::MAX as usize) - (512 << 10) {
        return Err(format!("--max-request-bytes must be below 4 GiB (set to {bytes})"));
    }
    if bytes > LARGE_REQUEST {
        let notice = Notice::warn("exceeded recommended request limit").with("max-request-bytes", &bytes.to_string());
        notices.push(notice.with("recommended-request-bytes", &LARGE_REQUEST.to_string()));
    }
    Ok(bytes)
}

fn progress_interval(low: &LowArgs, notices: &mut Vec<Notice>) -> Duration {
    let interval = nonzero(low.watch_progress_notify_interval, Duration::from_secs(600));
    if interval < MIN_PROGRESS_INTERVAL {
        let notice = Notice::warn("adjusting watch progress notify interval to minimum period");
        notices.push(notice.with("min-watch-progress-notify-interval", "100ms"));
    }
    interval.max(MIN_PROGRESS_INTERVAL)
}

fn span(given: Option<Nanos>, default: Duration) -> Duration {
    given.map_or(default, Nanos::span)
}

/// Zero and less mean the default.
fn nonzero(given: Option<Nanos>, default: Duration) -> Duration {
    span(given.filter(|nanos| nanos.0 > 0), default)
}

fn positive(given: Option<i64>, default: u64) -> u64 {
    given.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
}

fn size(flag: &str, n: u64) -> Result<usize, String> {
    usize::try_from(n).map_err(|_| format!("--{flag} is more than this machine can address (set to {n})"))
}
