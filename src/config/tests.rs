use std::collections::BTreeSet;

use super::table::{FLAGS, Flag};
use super::value::Form;
use super::*;

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

fn read_as(program: Program, args: &[&str], env: &[(&str, &str)]) -> Result<Command, Box<Refusal>> {
    let env: Vec<(String, String)> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Reader { program, default_host: || Some([192, 168, 7, 9].into()) }.read(&strings(args), &env)
}

fn config_of(args: &[&str]) -> Config {
    match read_as(Program::Bramble, args, &[]) {
        Ok(Command::Serve(config)) => *config,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn cause_of(args: &[&str], env: &[(&str, &str)]) -> Cause {
    match read_as(Program::Etcd, args, env) {
        Err(refusal) => refusal.cause,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn yaml(text: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    match read_as(Program::Etcd, &["--config-file", path], &[]) {
        Ok(Command::Serve(config)) => Ok(*config),
        Err(refusal) => match refusal.cause {
            Cause::Flags(text) => Err(text.replace(path, "FILE")),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn yaml_config(text: &str) -> Config {
    yaml(text).unwrap_or_else(|why| panic!("{why}"))
}

fn said(config: &Config, message: &str) -> Vec<String> {
    let about = |notice: &&Notice| notice.message == message;
    config.notices.iter().filter(about).flat_map(|notice| notice.fields.iter().map(|(_, value)| value.clone())).collect()
}

/// A value of the flag other than its default.
fn sample(flag: &Flag) -> &'static str {
    match (flag.name, flag.form) {
        ("initial-cluster-state", _) => "existing",
        ("discovery-fallback", _) => "proxy",
        ("v2-deprecation", _) => "gone",
        ("proxy", _) => "off",
        ("feature-gates", _) => "InitialCorruptCheck=true",
        ("cors", _) => "http://a:1,http://b:2",
        (name, Form::Text) if name.ends_with("-urls") => "http://127.0.0.1:1,http://127.0.0.1:2",
        (_, Form::Bool) if flag.default == "true" => "false",
        (_, Form::Bool) => "true",
        (_, Form::Number) => "77",
        (_, Form::Duration) => "1h0m7s",
        (_, Form::Text) => "some-text",
        (_, Form::List) => "one,two",
    }
}

fn low_of(args: &[&str]) -> String {
    match flags::read(&strings(args)) {
        Ok(flags::CommandLine::Flags { settings, junk: None, .. }) => format!("{:?}", flags::low_args(&settings).unwrap()),
        other => panic!("{args:?}: {other:?}"),
    }
}

#[test]
fn every_flag_is_read_in_every_spelling() {
    let nothing = low_of(&[]);
    for flag in FLAGS {
        let (name, value) = (flag.name, sample(flag));
        let wanted = low_of(&[&format!("--{name}={value}")]);
        assert_ne!(wanted, nothing, "{name}");
        assert_eq!(low_of(&[&format!("-{name}={value}")]), wanted, "{name}");
        assert_eq!(low_of(&[&format!("--{name}={value}"), "--"]), wanted, "{name}");
        assert_eq!(
            low_of(&[&format!("--{name}={}", flag_other(flag)), &format!("--{name}={value}")]),
            wanted,
            "last wins: {name}"
        );
        if flag.form == Form::Bool {
            for on in [vec![format!("--{name}")], vec![format!("-{name}")], vec![format!("--{name}=T")]] {
                let on: Vec<&str> = on.iter().map(String::as_str).collect();
                assert_eq!(low_of(&on), low_of(&[&format!("--{name}=true")]), "{name}");
            }
        } else {
            assert_eq!(low_of(&[&format!("--{name}"), value]), wanted, "{name}");
            assert_eq!(low_of(&[&format!("-{name}"), value]), wanted, "{name}");
        }
    }
}

/// Another good value.
fn flag_other(flag: &Flag) -> &str {
    match flag.form {
        Form::Bool => "false",
        Form::Number => "1",
        Form::Duration => "1ns",
        _ => sample(flag),
    }
}

#[test]
fn every_flag_is_read_from_its_variable() {
    for flag in FLAGS.iter().filter(|flag| flag.name != "version") {
        let variable = table::variable(flag.name);
        let (mut settings, mut notices) = (Vec::new(), Vec::new());
        let env = [(variable.clone(), sample(flag).to_owned())];
        env::read(&env, &mut settings, &mut notices).unwrap();
        let wanted = low_of(&[&format!("--{}={}", flag.name, sample(flag))]);
        assert_eq!(format!("{:?}", flags::low_args(&settings).unwrap()), wanted, "{variable}");
        assert_eq!(notices[0].message, "recognized and used environment variable");
    }
}

#[test]
fn every_flag_is_read_from_a_file() {
    for flag in FLAGS.iter().filter(|flag| !["version", "config-file"].contains(&flag.name)) {
        let value = sample(flag);
        let value = match flag.form {
            Form::Bool | Form::Number => value.to_owned(),
            Form::Duration => "3607000000000".into(),
            Form::Text => format!("'{value}'"),
            Form::List => format!("[{value}]"),
        };
        let (block, key) = block_and_key(flag.name);
        let text = if block.is_empty() { format!("{key}: {value}\n") } else { format!("{block}:\n  {key}: {value}\n") };
        let mut notices = Vec::new();
        let settings = file::parse("FILE", &text, &mut notices).unwrap();
        let wanted = low_of(&[&format!("--{}={}", flag.name, sample(flag))]);
        assert_eq!(format!("{:?}", flags::low_args(&settings).unwrap()), wanted, "{text}");
        assert_eq!(notices, [], "{text}");
    }
}

fn block_and_key(name: &str) -> (&'static str, &str) {
    const SECURITY: [&str; 9] = [
        "cert-file",
        "key-file",
        "client-cert-file",
        "client-key-file",
        "client-cert-auth",
        "trusted-ca-file",
        "auto-tls",
        "crl-file",
        "skip-client-san-verification",
    ];
    match name {
        "client-cert-allowed-cn" => ("client-transport-security", "allowed-cn"),
        "client-cert-allowed-hostname" => ("client-transport-security", "allowed-hostname"),
        "client-crl-file" => ("client-transport-security", "crl-file"),
        "peer-cert-allowed-cn" => ("peer-transport-security", "allowed-cn"),
        "peer-cert-allowed-hostname" => ("peer-transport-security", "allowed-hostname"),
        "socket-reuse-port" => ("socket-options", "reuse-port"),
        "socket-reuse-address" => ("socket-options", "reuse-address"),
        "discovery-token" => ("discovery-config", "token"),
        "discovery-dial-timeout" => ("discovery-config", "dial-timeout"),
        name if SECURITY.contains(&name) => ("client-transport-security", name),
        name => match name.strip_prefix("peer-").filter(|key| SECURITY.contains(key)) {
            Some(key) => ("peer-transport-security", key),
            None => ("", name),
        },
    }
}

#[test]
fn help_lists_every_flag_that_etcds_help_lists() {
    // Printed by `etcd --help` of 3.7.3.
    let etcds = "advertise-client-urls auth-token auth-token-ttl auto-compaction-mode auto-compaction-retention auto-tls \
        backend-batch-interval backend-batch-limit backend-bbolt-freelist-type bcrypt-cost bootstrap-defrag-threshold-megabytes \
        cert-file cipher-suites client-cert-allowed-hostname client-cert-auth client-cert-file client-crl-file client-key-file \
        compact-hash-check-time compaction-batch-limit compaction-sleep-interval corrupt-check-time cors data-dir discovery \
        discovery-cacert discovery-cert discovery-dial-timeout discovery-endpoints discovery-fallback \
        discovery-insecure-skip-tls-verify discovery-insecure-transport discovery-keepalive-time discovery-keepalive-timeout \
        discovery-key discovery-password discovery-proxy discovery-request-timeout discovery-srv discovery-srv-name discovery-token \
        discovery-user distributed-tracing-address distributed-tracing-instance-id distributed-tracing-sampling-rate \
        distributed-tracing-service-name downgrade-check-time election-timeout enable-distributed-tracing enable-grpc-gateway \
        enable-log-rotation enable-pprof feature-gates force-new-cluster grpc-keepalive-interval grpc-keepalive-min-time \
        grpc-keepalive-timeout heartbeat-interval host-whitelist initial-advertise-peer-urls initial-cluster initial-cluster-state \
        initial-cluster-token initial-election-tick-advance key-file listen-client-http-urls listen-client-urls listen-metrics-urls \
        listen-peer-urls log-format log-level log-outputs log-rotation-config-json logger max-concurrent-streams max-learners \
        max-request-bytes max-snapshots max-txn-ops max-wals memory-mlock metrics name peer-auto-tls peer-cert-allowed-cn \
        peer-cert-allowed-hostname peer-cert-file peer-client-cert-auth peer-client-cert-file peer-client-key-file peer-crl-file \
        peer-key-file peer-skip-client-san-verification peer-trusted-ca-file pre-vote quota-backend-bytes raft-read-timeout \
        raft-write-timeout self-signed-cert-validity snapshot-catchup-entries snapshot-count socket-reuse-address socket-reuse-port \
        strict-reconfig-check tls-max-version tls-min-version trusted-ca-file unsafe-no-fsync v2-deprecation wal-dir \
        warning-apply-duration warning-unary-request-duration watch-progress-notify-interval";
    let help = help();
    for name in etcds.split_whitespace() {
        assert!(help.contains(&format!("  --{name} ")), "{name}");
    }
    assert_eq!(etcds.split_whitespace().count(), 113);
    assert!(help.contains("--unsafe-no-fsync"));
}

#[test]
fn names_are_unique_and_defaults_shown_are_values() {
    let names: BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
    assert_eq!(names.len(), FLAGS.len());
    for flag in FLAGS.iter().filter(|flag| !flag.default.is_empty()) {
        assert_eq!((flag.check)(flag.default), Ok(()), "{}", flag.name);
    }
}

#[test]
fn without_flags_the_defaults_hold() {
    let config = config_of(&[]);
    assert_eq!((config.name.as_str(), config.data_dir.to_str()), ("default", Some("default.etcd")));
    assert_eq!(config.listen_client_urls[0].addr, ListenAddr::Tcp("127.0.0.1:2379".parse().unwrap()));
    assert_eq!(config.listen_peer_urls[0].url, "http://localhost:2380");
    assert_eq!(config.advertise_client_urls, ["http://localhost:2379"]);
    assert_eq!(config.initial_cluster, [("default".to_owned(), vec!["http://localhost:2380".to_owned()])]);
    assert_eq!((config.heartbeat_interval, config.election_timeout), (Duration::from_millis(500), Duration::from_secs(5)));
    assert_eq!(config.min_lease_ttl, Duration::from_secs(2));
    assert_eq!((config.snapshot_count, config.snapshot_catchup_entries), (10_000, 5_000));
    assert_eq!(config.quota_backend_bytes, Some(2_147_483_648));
    assert_eq!((config.max_txn_ops, config.max_request_bytes, config.max_concurrent_streams), (128, 1_572_864, u32::MAX));
    assert_eq!(config.keepalive_min_time, Duration::from_secs(5));
    assert_eq!((config.keepalive_interval, config.keepalive_timeout), (Duration::from_secs(7200), Duration::from_secs(20)));
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
    assert_eq!((config.compaction_batch_limit, config.compaction_sleep_interval), (1000, Duration::from_millis(10)));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(config.warning_apply_duration, Duration::from_millis(100));
    assert_eq!(config.warning_unary_request_duration, Duration::from_millis(300));
    assert_eq!((&config.cors, &config.host_whitelist), (&vec!["*".to_owned()], &vec!["*".to_owned()]));
    assert!(config.pre_vote && config.strict_reconfig_check && !config.join_existing && !config.unsafe_no_fsync);
    assert_eq!((config.client_tls.min_version, config.client_tls.max_version), (TlsVersion::Tls12, TlsVersion::Tls13));
    assert_eq!((config.max_learners, config.initial_cluster_token.as_str()), (1, "etcd-cluster"));
    assert!(config.wal_dir.is_none() && config.listen_metrics_urls.is_empty() && config.listen_client_http_urls.is_empty());
}

#[test]
fn flags_reach_the_field_they_are_named_after() {
    type Holds = fn(&Config) -> bool;
    let cases: &[(&[&str], Holds)] = &[
        (&["--name=n1"], |c| c.name == "n1" && c.data_dir.to_str() == Some("n1.etcd") && c.initial_cluster[0].0 == "n1"),
        (&["--data-dir=/d"], |c| c.data_dir.to_str() == Some("/d")),
        (&["--wal-dir=/w"], |c| c.wal_dir.as_ref().unwrap().to_str() == Some("/w")),
        (&["--snapshot-count=7"], |c| c.snapshot_count == 7),
        (&["--snapshot-count=0"], |c| c.snapshot_count == 10_000),
        (&["--snapshot-catchup-entries=7"], |c| c.snapshot_catchup_entries == 7),
        (&["--quota-backend-bytes=5"], |c| c.quota_backend_bytes == Some(5)),
        (&["--quota-backend-bytes=-1"], |c| c.quota_backend_bytes.is_none()),
        (&["--max-txn-ops=7"], |c| c.max_txn_ops == 7),
        (&["--max-request-bytes=7"], |c| c.max_request_bytes == 7),
        (&["--max-concurrent-streams=7"], |c| c.max_concurrent_streams == 7),
        (&["--grpc-keepalive-min-time=7s"], |c| c.keepalive_min_time == Duration::from_secs(7)),
        (&["--grpc-keepalive-interval=0s"], |c| c.keepalive_interval == Duration::ZERO),
        (&["--grpc-keepalive-timeout=-1s"], |c| c.keepalive_timeout == Duration::ZERO),
        (&["--socket-reuse-port"], |c| c.socket_reuse_port && !c.socket_reuse_address),
        (&["--socket-reuse-address"], |c| c.socket_reuse_address && !c.socket_reuse_port),
        (&["--feature-gates=InitialCorruptCheck=true"], |c| c.initial_corrupt_check),
        (&["--experimental-initial-corrupt-check=true"], |c| c.initial_corrupt_check),
        (&["--experimental-initial-corrupt-check"], |c| c.initial_corrupt_check),
        (&["--initial-cluster-state=existing"], |c| c.join_existing),
        (&["--initial-cluster-token=t"], |c| c.initial_cluster_token == "t"),
        (&["--strict-reconfig-check=false"], |c| !c.strict_reconfig_check),
        (&["--pre-vote=false"], |c| !c.pre_vote),
        (&["--force-new-cluster"], |c| c.force_new_cluster),
        (&["--unsafe-no-fsync"], |c| c.unsafe_no_fsync),
        (&["--max-learners=3"], |c| c.max_learners == 3),
        (&["--metrics=extensive"], |c| c.extensive_metrics),
        (&["--metrics=basic"], |c| !c.extensive_metrics),
        (&["--corrupt-check-time=1m"], |c| c.corrupt_check_time == Duration::from_secs(60)),
        (&["--compaction-batch-limit=7"], |c| c.compaction_batch_limit == 7),
        (&["--compaction-batch-limit=0"], |c| c.compaction_batch_limit == 1000),
        (&["--compaction-sleep-interval=7ms"], |c| c.compaction_sleep_interval == Duration::from_millis(7)),
        (&["--watch-progress-notify-interval=5s"], |c| c.watch_progress_notify_interval == Duration::from_secs(5)),
        (&["--watch-progress-notify-interval=1ms"], |c| c.watch_progress_notify_interval == Duration::from_millis(100)),
        (&["--experimental-watch-progress-notify-interval=5s"], |c| c.watch_progress_notify_interval == Duration::from_secs(5)),
        (&["--warning-apply-duration=7s"], |c| c.warning_apply_duration == Duration::from_secs(7)),
        (&["--warning-unary-request-duration=0"], |c| c.warning_unary_request_duration == Duration::from_millis(300)),
        (&["--cors=http://b:1,http://a:1"], |c| c.cors == ["http://a:1", "http://b:1"]),
        (&["--host-whitelist=b,a"], |c| c.host_whitelist == ["a", "b"]),
        (&["--host-whitelist="], |c| c.host_whitelist == ["*"]),
        (&["--log-outputs=/x,stdout"], |c| c.log.outputs == ["/x", "stdout"]),
        (&["--log-level=debug"], |c| c.log.level == LevelFilter::Debug),
        (&["--log-level=fatal"], |c| c.log.level == LevelFilter::Error),
        (&["--listen-metrics-urls=http://[::1]:2381"], |c| {
            c.listen_metrics_urls[0].addr == ListenAddr::Tcp("[::1]:2381".parse().unwrap())
        }),
        (&["--listen-client-http-urls=http://127.0.0.1:2382"], |c| c.listen_client_http_urls.len() == 1),
    ];
    for (args, holds) in cases {
        assert!(holds(&config_of(args)), "{args:?}");
    }
}

#[test]
fn automatic_compaction_takes_hours_durations_and_revisions() {
    let compaction = |args: &[&str]| config_of(args).auto_compaction;
    let hours = |n: u64| AutoCompaction::Periodic(Duration::from_secs(n * 3600));
    assert_eq!(compaction(&["--auto-compaction-retention=1h"]), hours(1));
    assert_eq!(compaction(&["--auto-compaction-retention=5"]), hours(5));
    assert_eq!(compaction(&["--auto-compaction-retention=5m"]), AutoCompaction::Periodic(Duration::from_secs(300)));
    assert_eq!(compaction(&["--auto-compaction-retention=0", "--auto-compaction-mode=revision"]), AutoCompaction::Off);
    let revisions = ["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"];
    assert_eq!(compaction(&revisions), AutoCompaction::Revision(1000));
    let odd = config_of(&["--auto-compaction-mode=revision", "--auto-compaction-retention=1us"]);
    assert_eq!(odd.auto_compaction, AutoCompaction::Revision(1000));
    assert!(odd.notices.iter().any(|notice| notice.message.contains("counts as revisions")));
}

#[test]
fn the_shortest_lease_follows_the_flags_or_is_etcds() {
    let ttl = |args: &[&str]| config_of(args).min_lease_ttl.as_secs();
    assert_eq!(ttl(&[]), 2);
    assert_eq!(ttl(&["--heartbeat-interval=100", "--election-timeout=1000"]), 2);
    assert_eq!(ttl(&["--heartbeat-interval=500", "--election-timeout=5000"]), 8); // 15 ticks are 7.5 s
    assert_eq!(ttl(&["--election-timeout=5000"]), 8); // 75 ticks of 100 ms
    assert_eq!(ttl(&["--heartbeat-interval=50"]), 2);
    assert_eq!(ttl(&["--heartbeat-interval=1000"]), 7); // etcd refuses less than 5 ticks
}

#[test]
fn the_relaxed_class_is_empty_unless_prefixes_are_named() {
    assert_eq!(config_of(&[]).relaxed, None);
    let alone = config_of(&["--relaxed-leases", "--relaxed-interval=1s"]);
    assert_eq!(alone.relaxed, None);
    assert!(alone.notices.iter().any(|notice| notice.message == "--relaxed-leases has no effect without --relaxed-prefixes"));
    assert_eq!(config_of(&["--relaxed-prefixes=,"]).relaxed, None, "no prefix is empty, or all keys would be meant");
    let named = config_of(&["--relaxed-prefixes=/registry/leases/,/registry/events/", "--relaxed-leases"]);
    let prefixes = vec!["/registry/leases/".to_owned(), "/registry/events/".to_owned()];
    assert_eq!(named.relaxed, Some(Relaxed { prefixes, leases: true, interval: Duration::from_secs(10) }));
    let file = yaml_config("relaxed-prefixes: [a/, b/]\nrelaxed-interval: 500ms\n");
    let prefixes = vec!["a/".to_owned(), "b/".to_owned()];
    assert_eq!(file.relaxed, Some(Relaxed { prefixes, leases: false, interval: Duration::from_millis(500) }));
    let refused = Cause::Flags("--relaxed-interval must be >0 (set to 0s)".into());
    assert_eq!(cause_of(&["--relaxed-prefixes=a", "--relaxed-interval=0s"], &[]), refused);
}

#[test]
fn one_timeout_alone_keeps_the_other_in_proportion() {
    let config = config_of(&["--election-timeout=1000"]);
    assert_eq!((config.heartbeat_interval, config.election_timeout), (Duration::from_millis(100), Duration::from_secs(1)));
    let config = config_of(&["--heartbeat-interval=100"]);
    assert_eq!((config.heartbeat_interval, config.election_timeout), (Duration::from_millis(100), Duration::from_secs(5)));
}

/// What a running etcd 3.7.3 says to the same arguments; exit code 2.
#[test]
fn a_command_line_that_cannot_be_read_is_refused_in_gos_words() {
    let cases: &[(&[&str], &str)] = &[
        (&["--nope"], "flag provided but not defined: -nope"),
        (&["--nope=3"], "flag provided but not defined: -nope"),
        (&["--experimental-foo"], "flag provided but not defined: -experimental-foo"),
        (&["--experimental-name=x"], "flag provided but not defined: -experimental-name"),
        (&["--listen_client_urls=x"], "flag provided but not defined: -listen_client_urls"),
        (&["--name"], "flag needs an argument: -name"),
        (&["--version=x"], "invalid boolean value \"x\" for -version: parse error"),
        (&["---x"], "bad flag syntax: ---x"),
        (&["--=x"], "bad flag syntax: --=x"),
        (&["-=x"], "bad flag syntax: -=x"),
        (&["--snapshot-count=x"], "invalid value \"x\" for flag -snapshot-count: parse error"),
        (&["--snapshot-count=-1"], "invalid value \"-1\" for flag -snapshot-count: parse error"),
        (
            &["--snapshot-count=99999999999999999999"],
            "invalid value \"99999999999999999999\" for flag -snapshot-count: value out of range",
        ),
        (&["--grpc-keepalive-timeout=5"], "invalid value \"5\" for flag -grpc-keepalive-timeout: parse error"),
        (
            &["--listen-client-urls=foo"],
            "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            &["--listen-peer-urls", "127.0.0.1:2380"],
            "invalid value \"127.0.0.1:2380\" for flag -listen-peer-urls: parse \"127.0.0.1:2380\": first path segment in URL cannot contain colon",
        ),
        (&["--initial-cluster-state=x"], "invalid value \"x\" for flag -initial-cluster-state: invalid value"),
        (&["--feature-gates=x"], "invalid value \"x\" for flag -feature-gates: missing bool value for x"),
        (&["--feature-gates=X=true"], "invalid value \"X=true\" for flag -feature-gates: unrecognized feature gate: X"),
        (
            &["--max-concurrent-streams=5000000000"],
            "invalid value \"5000000000\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"5000000000\": value out of range",
        ),
        (&["--client-cert-auth=maybe"], "invalid boolean value \"maybe\" for -client-cert-auth: parse error"),
        (&["--v2-deprecation=foo"], "invalid value \"foo\" for flag -v2-deprecation: invalid value \"foo\""),
        (&["--quota-backend-bytes=1.5"], "invalid value \"1.5\" for flag -quota-backend-bytes: parse error"),
        (&["--discovery-fallback=z"], "invalid value \"z\" for flag -discovery-fallback: invalid value"),
        (&["--cors=x"], "invalid value \"x\" for flag -cors: URL scheme must be http, https, unix, or unixs: x"),
        (&["--version", "--nope"], "flag provided but not defined: -nope"),
        (&["--name=a", "--name"], "flag needs an argument: -name"),
    ];
    for (args, text) in cases {
        assert_eq!(cause_of(args, &[]), Cause::Usage((*text).to_owned()), "{args:?}");
    }
}

/// What a running etcd 3.7.3 says to the same arguments; exit code 1.
#[test]
fn values_that_cannot_hold_are_refused_in_etcds_words() {
    let cases: &[(&[&str], &str)] = &[
        (&["junk"], "\"junk\" is not a valid flag"),
        (&["-"], "\"-\" is not a valid flag"),
        (&["--", "foo"], "\"foo\" is not a valid flag"),
        (&["help"], "\"help\" is not a valid flag"),
        (&["--version", "junk", "--nope"], "\"junk\" is not a valid flag"),
        (
            &["--listen-client-urls=http://127.0.0.1:23790"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (&["--listen-client-urls="], "--advertise-client-urls is required when --listen-client-urls is set explicitly"),
        (
            &["--listen-client-urls=http://example.com:1", "--advertise-client-urls=http://x:1"],
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (&["--listen-peer-urls=http://:2380"], "expected IP in URL for binding (http://:2380)"),
        (
            &["--advertise-client-urls=http://:1"],
            "--advertise-client-urls \"http://:1\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host (http://:1))",
        ),
        (
            &["--initial-advertise-peer-urls=http://:1"],
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (&["--election-timeout=499"], "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]"),
        (&["--election-timeout=50001"], "--election-timeout[50001ms] is too long, and should be set less than 50000ms"),
        (&["--auto-compaction-mode=x"], "unknown auto-compaction-mode \"x\""),
        (&["--auto-compaction-mode="], "undefined auto-compaction-mode"),
        (&["--auto-compaction-retention=x"], "error parsing CompactionRetention: time: invalid duration \"x\""),
        (&["--auto-compaction-retention=-5"], "error parsing CompactionRetention: time: missing unit in duration \"-5\""),
        (&["--initial-cluster=default"], "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "),
        (&["--initial-cluster=default=x"], "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: x"),
        (
            &["--discovery-srv=foo", "--initial-cluster=default=http://localhost:2380"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        (&["--discovery-token=foo"], "both --discovery-token and --discovery-endpoints must be set"),
        (&["--discovery-endpoints=foo"], "both --discovery-token and --discovery-endpoints must be set"),
        (&["--cipher-suites=foo"], "unexpected TLS cipher suite \"foo\""),
        (&["--tls-min-version=TLS1.1"], "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"),
        (&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"], "min version (TLS1.3) is greater than max version (TLS1.2)"),
        (
            &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (&["--logger=foo"], "unknown logger option \"foo\""),
        (&["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--log-format=foo"], "unknown log format: foo, supported values json, console"),
        (&["--log-outputs=default,stdout"], "multi logoutput for \"default\" is not supported yet"),
        (&["--enable-log-rotation"], "--log-outputs requires a single file path when --log-rotate-config-json is defined"),
        (&["--compact-hash-check-time=0s"], "--compact-hash-check-time must be >0 (set to 0s)"),
        (&["--discovery-fallback=proxy"], "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\""),
        (&["--config-file=/nonexist"], "open /nonexist: no such file or directory"),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (
            &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"],
            "distributed tracing configurition is not valid: (tracing sampling rate must be positive)",
        ),
        (
            &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1", "--cert-file=/c"],
            "KeyFile and CertFile must both be present[key: , cert: /c]",
        ),
        (
            &["--listen-client-http-urls=http://localhost:2379"],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://localhost:2379",
        ),
        (&["--auth-token=foo"], "auth: invalid auth options"),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (
            &["--listen-peer-urls=https://127.0.0.1:1"],
            "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
    ];
    for (args, text) in cases {
        assert_eq!(cause_of(args, &[]), Cause::Flags((*text).to_owned()), "{args:?}");
    }
}

#[test]
fn what_etcd_would_start_with_but_cannot_serve_is_refused_with_advice() {
    let cases: &[(&[&str], &str)] = &[
        (&["--log-level=foo"], "unrecognized level: \"foo\""),
        (&["--max-request-bytes=0"], "--max-request-bytes must be >0"),
        (&["--discovery-srv=example.com"], "--discovery-srv is not offered: name the members with --initial-cluster"),
        (&["--discovery=https://discovery.etcd.io/x"], "--discovery is not offered"),
        (&["--discovery-endpoints=a", "--discovery-token=t"], "--discovery-endpoints is not offered"),
        (&["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"], "names none that is offered here; there are TLS_ECDHE_ECDSA"),
        (&["--auto-compaction-retention=-5m"], "\"-5m\" is negative"),
        (&["--auto-compaction-retention=9999999999"], "hours are too many"),
        (&["--self-signed-cert-validity=99999999999"], "at most 1000 years"),
    ];
    for (args, text) in cases {
        let Cause::Flags(cause) = cause_of(args, &[]) else { panic!("{args:?}") };
        assert!(cause.contains(text), "{args:?}: {cause}");
    }
}

#[test]
fn a_flag_and_its_variable_conflict_even_if_the_variable_is_empty() {
    for (args, env) in [
        (["--name=y"], ("ETCD_NAME", "x")),
        (["--name=y"], ("ETCD_NAME", "")),
        (["--watch-progress-notify-interval=5s"], ("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "5s")),
    ] {
        assert_eq!(cause_of(&args, &[env]), Cause::Conflict(env.0.into()));
    }
    // The conflict is what etcd tells first.
    assert_eq!(
        cause_of(&["--name=y"], &[("ETCD_NAME", "x"), ("ETCD_ELECTION_TIMEOUT", "x")]),
        Cause::Conflict("ETCD_NAME".into())
    );
}

#[test]
fn malformed_variables_are_refused_and_unknown_ones_noted() {
    let text = |env| match cause_of(&[], &[env]) {
        Cause::Flags(text) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(text(("ETCD_SNAPSHOT_COUNT", "x")), "invalid value \"x\" for ETCD_SNAPSHOT_COUNT: parse error");
    assert_eq!(text(("ETCD_CLIENT_CERT_AUTH", "x")), "invalid value \"x\" for ETCD_CLIENT_CERT_AUTH: parse error");
    let env = [
        ("ETCD_FOO", "x"),
        ("ETCD_VERSION", "3"),
        ("ETCD_DATA_DIR", ""),
        ("ETCD_UNSUPPORTED_ARCH", "arm"),
        ("ETCD_DISCOVERY_PASSWORD", "secret"),
        ("ETCD_ROOT_PASSWORD", "secret"),
        ("PATH", "/bin"),
        ("ETCDCTL_API", "3"),
    ];
    let Ok(Command::Serve(config)) = read_as(Program::Etcd, &[], &env) else { panic!() };
    assert_eq!(said(&config, "unrecognized environment variable"), ["ETCD_DATA_DIR=", "ETCD_FOO=x", "ETCD_ROOT_PASSWORD=***"]);
    assert_eq!(said(&config, "cannot set special environment variable"), ["ETCD_VERSION", "3"]);
    assert!(!format!("{:?}", config.notices).contains("secret"));
}

#[test]
fn a_file_silences_flags_and_variables() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, "name: from-file\n").unwrap();
    let path = path.to_str().unwrap();
    let flags = ["--config-file", path, "--name=x", "--max-wals=3", "--election-timeout=1"];
    let Ok(Command::Serve(config)) = read_as(Program::Etcd, &flags, &[("ETCD_NAME", "y"), ("ETCD_FOO", "z")]) else { panic!() };
    assert_eq!((config.name.as_str(), config.election_timeout), ("from-file", Duration::from_secs(5)));
    assert_eq!(config.notices.len(), 2, "{:?}", config.notices); // loaded, data-dir
    let Ok(Command::Serve(config)) = read_as(Program::Etcd, &["--name=x"], &[("ETCD_CONFIG_FILE", path)]) else { panic!() };
    assert_eq!(config.name, "from-file");
}

#[test]
fn a_file_in_error_names_its_line() {
    let cases = [
        ("name: [a\n", "FILE:"),
        ("name: a\nsnapshot-count: \"5\"\n", "FILE:2: snapshot-count: expected an integer"),
        ("name: 5\n", "FILE:1: name: expected a text; put it in quotes"),
        ("\nsnapshot-count: -5\n", "FILE:2: snapshot-count: parse error"),
        ("pre-vote: maybe\n", "FILE:1: pre-vote: expected true or false"),
        ("snapshot-count: 1.5\n", "FILE:1: snapshot-count: expected an integer"),
        ("client-transport-security: 5\n", "FILE:1: client-transport-security: expected a block of keys"),
        (
            "peer-transport-security:\n  cert-file: /c\n  client-cert-auth: 3\n",
            "FILE:3: peer-transport-security.client-cert-auth: expected true",
        ),
        ("listen-client-urls: foo\n", "FILE:1: listen-client-urls: URL scheme must be http"),
        ("watch-progress-notify-interval: 5x\n", "FILE:1: watch-progress-notify-interval: parse error"),
        ("log-outputs:\n- [a]\n", "log-outputs: expected a list of texts"),
        ("initial-cluster-state: foo\n", "FILE:1: initial-cluster-state: invalid value"),
        ("feature-gates: foo=true\n", "FILE:1: feature-gates: unrecognized feature gate: foo"),
        ("- a\n", "FILE:1: expected keys with values"),
        ("a: b: c\n", "FILE:1: not valid YAML"),
        ("name: a\n\tx: b\n", "not valid YAML"),
        ("auto-compaction-mode: x\n", "unknown auto-compaction-mode \"x\""),
    ];
    for (text, error) in cases {
        let why = yaml(text).expect_err(text);
        assert!(why.contains(error), "{text}: {why}");
        assert!(!why.contains('\n'), "{why}");
    }
}

#[test]
fn files_are_read_as_leniently_as_etcd_reads_them() {
    assert_eq!(yaml_config("").name, "default");
    assert_eq!(yaml_config("# nothing\n\n").name, "default");
    assert_eq!(yaml_config("---\n").name, "default");
    assert_eq!(yaml_config("---\n...\n").name, "default");
    assert_eq!(yaml_config("---\nname: a\n").name, "a");
    assert_eq!(yaml_config("NAME: a\n").name, "a");
    assert_eq!(yaml_config("name: a\nname: b\n").name, "b");
    assert_eq!(yaml_config("name:\ndata-dir: ''\n").name, "default");
    assert_eq!(yaml_config("snapshot-count: 1e4\n").snapshot_count, 10_000);
    assert!(!yaml_config("pre-vote: no\n").pre_vote);
    assert_eq!(yaml_config("{\"name\": \"json\", \"snapshot-count\": 5}").name, "json");
    assert_eq!(
        yaml_config("watch-progress-notify-interval: 5000000000\n").watch_progress_notify_interval,
        Duration::from_secs(5)
    );
    assert_eq!(yaml_config("watch-progress-notify-interval: 5s\n").watch_progress_notify_interval, Duration::from_secs(5));
    // Without --advertise-client-urls a file goes on with the default.
    let config = yaml_config("listen-client-urls: http://127.0.0.1:1234\n");
    assert_eq!(config.advertise_client_urls, ["http://localhost:2379"]);
    let config = yaml_config("foo: bar\ncert-file: /x\nclient-transport-security:\n  what: 1\n");
    let unknown = "unknown key in the configuration file - ignoring";
    assert_eq!(said(&config, unknown), ["foo", "cert-file", "client-transport-security.what"]);
    assert_eq!(config.client_tls.cert_file, None);
    assert!(
        yaml_config("experimental-enable-v2: true\nenable-v2: true\n").notices.iter().any(|n| n.message.contains("no longer"))
    );
}

#[test]
fn kubeadms_static_pod_starts() {
    let args = "--name=node1 --feature-gates=InitialCorruptCheck=true \
        --listen-client-urls=https://127.0.0.1:2379,https://192.168.1.5:2379 --advertise-client-urls=https://192.168.1.5:2379 \
        --listen-peer-urls=https://192.168.1.5:2380 --initial-advertise-peer-urls=https://192.168.1.5:2380 \
        --initial-cluster=node1=https://192.168.1.5:2380 --data-dir=/var/lib/etcd --snapshot-count=10000 \
        --watch-progress-notify-interval=5s --cert-file=/etc/kubernetes/pki/etcd/server.crt \
        --key-file=/etc/kubernetes/pki/etcd/server.key --trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt --client-cert-auth=true \
        --peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt --peer-key-file=/etc/kubernetes/pki/etcd/peer.key \
        --peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt --peer-client-cert-auth=true \
        --listen-metrics-urls=http://127.0.0.1:2381";
    let args: Vec<&str> = args.split_whitespace().collect();
    let config = config_of(&args);
    assert_eq!(config.notices, []);
    assert!(config.initial_corrupt_check && config.client_tls.client_cert_auth && config.peer_tls.client_cert_auth);
    assert_eq!(config.listen_client_urls.iter().map(|u| u.tls).collect::<Vec<_>>(), [true, true]);
    assert_eq!(config.listen_metrics_urls[0].addr, ListenAddr::Tcp("127.0.0.1:2381".parse().unwrap()));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(config.peer_tls.trusted_ca_file, Some("/etc/kubernetes/pki/etcd/ca.crt".into()));
    assert!(config.verify_bootstrap(no_resolver).is_ok());
}

#[test]
fn the_file_that_rke2_writes_starts() {
    let config = yaml_config(
        "advertise-client-urls: https://192.168.1.5:2379
client-transport-security:
  cert-file: /tls/server-client.crt
  client-cert-auth: true
  key-file: /tls/server-client.key
  trusted-ca-file: /tls/server-ca.crt
data-dir: /var/lib/rancher/rke2/server/db/etcd
election-timeout: 5000
experimental-initial-corrupt-check: true
experimental-watch-progress-notify-interval: 5000000000
heartbeat-interval: 500
initial-advertise-peer-urls: https://192.168.1.5:2380
initial-cluster: node1-5e7a=https://192.168.1.5:2380
initial-cluster-state: new
listen-client-http-urls: https://127.0.0.1:2382
listen-client-urls: https://127.0.0.1:2379,https://192.168.1.5:2379
listen-metrics-urls: http://127.0.0.1:2381
listen-peer-urls: https://127.0.0.1:2380,https://192.168.1.5:2380
log-outputs:
- stderr
logger: zap
name: node1-5e7a
peer-transport-security:
  cert-file: /tls/peer-server-client.crt
  client-cert-auth: true
  key-file: /tls/peer-server-client.key
  trusted-ca-file: /tls/peer-ca.crt
  allowed-cn: [node1, node2]
  skip-client-san-verification: true
snapshot-count: 10000
socket-options:
  reuse-address: true
  reuse-port: true
",
    );
    assert!(config.initial_corrupt_check && config.socket_reuse_address && config.socket_reuse_port && config.log.json);
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(config.client_tls.key_file, Some("/tls/server-client.key".into()));
    assert_eq!(config.peer_tls.allowed_cns, ["node1", "node2"]);
    assert!(config.peer_tls.skip_client_san_verification && config.client_tls.client_cert_auth);
    assert_eq!(config.listen_client_http_urls[0].url, "https://127.0.0.1:2382");
    assert_eq!(config.min_lease_ttl, Duration::from_secs(8));
    assert!(config.verify_bootstrap(no_resolver).is_ok());
}

#[test]
fn old_and_ignored_flags_are_accepted_and_noted_once() {
    let config = config_of(&[
        "--enable-v2",
        "--enable-v2=true",
        "--proxy=off",
        "--proxy-dial-timeout",
        "1000",
        "--max-snapshots=5",
        "--max-snapshots=6",
        "--v2-deprecation=gone",
        "--experimental-compact-hash-check-enabled=true",
        "--experimental-enable-lease-checkpoint",
        "--experimental-snapshot-catch-up-entries=77",
        "--experimental-max-learners=2",
        "-vv=3",
        "--snapshot",
        "--auth-token=jwt,pub-key=a,priv-key=b,sign-method=RS256,ttl=10m",
        "--feature-gates=PriorityRequest=true",
    ]);
    assert_eq!((config.snapshot_catchup_entries, config.max_learners), (77, 2));
    let mut ignored = said(&config, "flag is no longer supported - ignoring");
    ignored.dedup();
    let gone =
        "enable-v2 proxy-dial-timeout experimental-compact-hash-check-enabled experimental-enable-lease-checkpoint vv snapshot";
    assert_eq!(ignored, gone.split(' ').collect::<Vec<_>>());
    let inert = config.notices.iter().filter(|notice| notice.message == "flag has no effect here");
    let inert: Vec<&str> = inert.map(|notice| notice.fields[0].1.as_str()).collect();
    assert_eq!(inert, ["max-snapshots", "proxy", "v2-deprecation", "auth-token"]);
    assert_eq!(said(&config, "feature gate has no effect here"), ["PriorityRequest"]);
    assert_eq!(cause_of(&["--proxy=on"], &[]), {
        let why = "the v2 proxy has been removed from etcd: only off is accepted";
        Cause::Usage(format!("invalid value \"on\" for flag -proxy: {why}"))
    });
}

#[test]
fn tls_flags_fit_together() {
    let urls = ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"];
    let with = |more: &[&str]| read_as(Program::Bramble, &[&urls[..], more].concat(), &[]);
    let config = |more: &[&str]| match with(more) {
        Ok(Command::Serve(config)) => *config,
        other => panic!("{other:?}"),
    };
    let files = ["--cert-file=/c", "--key-file=/k"];
    // Authorities alone make certificates compulsory, as in etcd.
    assert!(config(&[&files[..], &["--trusted-ca-file=/ca"]].concat()).client_tls.client_cert_auth);
    assert!(!config(&files).client_tls.client_cert_auth);
    assert!(config(&["--auto-tls"]).client_tls.auto_tls);
    let both = config(&[&files[..], &["--auto-tls"]].concat());
    assert!(!both.client_tls.auto_tls);
    assert!(both.notices.iter().any(|notice| notice.message == "ignoring client auto TLS since certs given"));
    let suites = "--cipher-suites=TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_RSA_WITH_AES_128_CBC_SHA,TLS_AES_128_GCM_SHA256";
    let some = config(&[&files[..], &[suites]].concat());
    assert_eq!(some.client_tls.cipher_suites, ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]);
    assert_eq!(some.peer_tls.cipher_suites, some.client_tls.cipher_suites);
    assert_eq!(said(&some, "TLS cipher suite is not offered here"), ["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_AES_128_GCM_SHA256"]);
    for (more, text) in [
        (&["--client-cert-auth"][..], "--client-cert-auth needs --trusted-ca-file"),
        (&["--client-cert-file=/x"], "ClientKeyFile and ClientCertFile must both be present or both absent"),
        (
            &["--client-cert-allowed-cn=a", "--client-cert-allowed-hostname=b,c"],
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], hostnames=[\"b\" \"c\"])",
        ),
    ] {
        let Cause::Flags(why) = with(&[&files[..], more].concat()).unwrap_err().cause else { panic!() };
        assert!(why.contains(text), "{why}");
    }
    let plain = config_of(&["--cert-file=/c", "--client-cert-auth"]);
    assert_eq!(plain.notices.iter().filter(|notice| notice.message.starts_with("scheme is http or unix")).count(), 2);
}

#[test]
fn the_machines_address_is_advertised_for_a_server_that_listens_everywhere() {
    let config = config_of(&["--name=n", "--listen-peer-urls=http://0.0.0.0:2390"]);
    assert_eq!(config.initial_advertise_peer_urls, ["http://192.168.7.9:2390"]);
    assert_eq!(config.initial_cluster[0].1, ["http://192.168.7.9:2390"]);
    assert_eq!(said(&config, "detected default host for advertise"), ["192.168.7.9"]);
    let config = yaml_config("listen-client-urls: http://0.0.0.0:2379\n");
    assert_eq!(config.advertise_client_urls, ["http://192.168.7.9:2379"]);
}

fn no_resolver(host: &str) -> Result<Vec<String>, String> {
    Err(format!("failed to resolve {host}"))
}

#[test]
fn a_new_member_must_be_in_its_cluster_under_its_own_urls() {
    let fault = |args: &[&str]| config_of(args).verify_bootstrap(no_resolver).unwrap_err().to_string();
    assert!(config_of(&[]).verify_bootstrap(no_resolver).is_ok());
    assert_eq!(
        fault(&["--initial-cluster=a=http://localhost:2380"]),
        "couldn't find local name \"default\" in the initial cluster configuration"
    );
    assert_eq!(fault(&["--initial-cluster="]), "couldn't find local name \"default\" in the initial cluster configuration");
    assert_eq!(
        fault(&["--initial-cluster=default=http://localhost:1"]),
        "--initial-cluster has default=http://localhost:1 but missing from --initial-advertise-peer-urls=http://localhost:2380 \
         (resolved urls: \"http://localhost:2380\" != \"http://localhost:1\")"
    );
    assert_eq!(
        fault(&["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"]),
        "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url"
    );
    let two = "--initial-advertise-peer-urls=http://localhost:2380,http://localhost:2381";
    let text = "--initial-advertise-peer-urls has http://localhost:2381 but missing from --initial-cluster=\
                default=http://localhost:2380,default=http://localhost:2381";
    assert_eq!(fault(&[two, "--initial-cluster=default=http://localhost:2380"]), text);
    // A member that joins has told the others before, so only its name counts.
    let joins = ["--initial-cluster-state=existing", "--initial-cluster=default=http://localhost:1"];
    assert!(config_of(&joins).verify_bootstrap(no_resolver).is_ok());
}

#[test]
fn names_are_resolved_if_urls_differ_in_their_texts() {
    let args = ["--initial-cluster=default=http://node1:2380", "--initial-advertise-peer-urls=http://10.0.0.1:2380"];
    let config = config_of(&args);
    let resolver = |host: &str| match host {
        "node1:2380" => Ok(vec!["10.0.0.1:2380".to_owned()]),
        other => Err(format!("no {other}")),
    };
    assert!(config.verify_bootstrap(resolver).is_ok());
    assert!(config.verify_bootstrap(no_resolver).unwrap_err().to_string().contains("(failed to resolve node1:2380)"));
}

#[test]
fn logs_are_for_people_or_as_etcds() {
    let json = |program, args: &[&str]| match read_as(program, args, &[]) {
        Ok(Command::Serve(config)) => config.log.json,
        other => panic!("{other:?}"),
    };
    assert!(json(Program::Etcd, &[]) && !json(Program::Bramble, &[]));
    assert!(json(Program::Bramble, &["--logger=zap"]) && json(Program::Bramble, &["--log-format=json"]));
    assert!(
        !json(Program::Etcd, &["--log-format=console"]) && !json(Program::Bramble, &["--logger=zap", "--log-format=console"])
    );
    assert_eq!(Program::named("/usr/local/bin/etcd"), Program::Etcd);
    assert_eq!(Program::named("etcd"), Program::Etcd);
    assert_eq!(Program::named("./bramble"), Program::Bramble);
    assert_eq!(Program::named(""), Program::Bramble);
    let refusal = read_as(Program::Bramble, &["--logger=zap", "--election-timeout=1"], &[]).unwrap_err();
    assert!(refusal.log.json, "a refusal is logged as asked for");
}

/// Numbers that look random (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_nanos() as u64
    });
    println!("replay with SEED={seed}");
    seed | 1
}

const PIECES: [&str; 40] = [
    "",
    "-",
    "--",
    "=",
    ":",
    ",",
    " ",
    "\n",
    "\t",
    "\"",
    "'",
    "\\",
    "é",
    "\u{0}",
    "\u{7f}",
    "0",
    "-1",
    "1h",
    "5s",
    "99999999999999999999",
    "0x",
    "true",
    "false",
    "http://",
    "https://",
    "unix://",
    "127.0.0.1:1",
    "[::1]:2",
    "[",
    "]",
    "{",
    "}",
    "localhost:65536",
    "/",
    "#",
    "&a",
    "*a",
    "|",
    "!!binary",
    "a=http://b:1",
];

#[test]
fn no_command_line_and_no_environment_panics() {
    let mut random = Random(seed());
    for _ in 0..20_000 {
        let word = |random: &mut Random| (0..random.below(4)).map(|_| random.pick(&PIECES)).collect::<String>();
        let flag = |random: &mut Random| FLAGS[random.below(FLAGS.len())].name;
        let mut args = Vec::new();
        for _ in 0..random.below(5) {
            match random.below(4) {
                0 => args.push(word(&mut random)),
                1 => args.push(format!("--{}", flag(&mut random))),
                _ => args.push(format!("-{}={}", flag(&mut random), word(&mut random))),
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.contains("config-file")).collect();
        let (key, value) = (table::variable(flag(&mut random)), word(&mut random));
        let env = [(key.as_str(), value.as_str())].map(|(k, v)| if k == "ETCD_CONFIG_FILE" { ("ETCD_X", v) } else { (k, v) });
        if let Err(refusal) = read_as(Program::Etcd, &args, &env) {
            let (Cause::Usage(text) | Cause::Flags(text) | Cause::Conflict(text)) = refusal.cause;
            assert!(!text.is_empty(), "{args:?} {env:?}");
        }
    }
}

#[test]
fn no_file_panics() {
    let mut random = Random(seed());
    for _ in 0..10_000 {
        let mut text = String::new();
        for _ in 0..random.below(12) {
            match random.below(5) {
                0 => text.push_str(FLAGS[random.below(FLAGS.len())].name),
                1 => text.push_str(random.pick(&[
                    "client-transport-security:\n  ",
                    "socket-options:",
                    "discovery-config:\n client:\n  ",
                ])),
                2 => text.push_str(random.pick(&["\n", ": ", "\n  ", "\n- "])),
                _ => text.push_str(random.pick(&PIECES)),
            }
        }
        let mut notices = Vec::new();
        if let Ok(settings) = file::parse("FILE", &text, &mut notices) {
            assert!(flags::low_args(&settings).is_ok(), "{text}");
        }
    }
}

#[test]
fn a_file_too_large_to_be_one_is_refused() {
    let mut notices = Vec::new();
    let why = file::read("/dev/zero", &mut notices).unwrap_err();
    assert!(why.contains("larger than 1 MiB"), "{why}");
    assert!(file::read("/", &mut notices).unwrap_err().contains("is a directory"));
}
