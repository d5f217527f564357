//! The binary as a process: exit codes, stdout and stderr; beside a real etcd where `tests/oracle/bin/etcd` has been built.

use std::fs::OpenOptions;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const BRAMBLE: &str = env!("CARGO_BIN_EXE_bramble");

/// The binary under another name.
fn linked(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    symlink(BRAMBLE, &path).unwrap();
    path
}

fn run(program: &Path, dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(program).args(args).current_dir(dir).env_clear().envs(env.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_version_is_etcds_under_etcds_name_and_our_own_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = run(&linked(dir.path(), "etcd"), dir.path(), &["--version"], &[]);
    let lines: Vec<String> = text(&etcd.stdout).lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "etcd Version: 3.7.3");
    assert!(
        lines[1].starts_with("Git SHA: ") && lines[2].starts_with("Go Version: ") && lines[3].starts_with("Go OS/Arch: linux/")
    );
    assert_eq!((lines.len(), etcd.status.code()), (4, Some(0)));
    let own = run(&linked(dir.path(), "bramble"), dir.path(), &["-version"], &[]);
    let own = text(&own.stdout);
    assert!(own.starts_with(concat!("bramble ", env!("CARGO_PKG_VERSION"), "\n")) && own.contains("3.7.3"), "{own}");
}

#[test]
fn help_goes_to_stdout_and_usage_to_stderr() {
    let dir = tempfile::tempdir().unwrap();
    for arg in ["-h", "--help", "--help=false"] {
        let output = run(Path::new(BRAMBLE), dir.path(), &[arg], &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("--unsafe-no-fsync"));
        assert!(text(&output.stderr).starts_with("Usage:\n"));
    }
}

#[test]
fn a_wrong_flag_exits_with_2_and_a_wrong_value_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(Path::new(BRAMBLE), dir.path(), &["--nope"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("flag provided but not defined: -nope\nUsage:\n"));
    let output = run(Path::new(BRAMBLE), dir.path(), &["--election-timeout=1"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("failed to verify flags error=\"--election-timeout[1ms]"));
    let output = run(&linked(dir.path(), "etcd"), dir.path(), &["gateway", "start"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("etcd gateway is not offered"));
}

#[test]
fn an_argument_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let arg = std::ffi::OsStr::from_bytes(b"--name=\xff");
    let output = Command::new(BRAMBLE).arg(arg).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("argument is not UTF-8"));
}

/// A full disk below stderr is no reason to abort, in any format.
#[test]
fn logs_that_cannot_be_written_change_no_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    for args in [["--election-timeout=1", "--logger=zap"], ["--election-timeout=1", "--name=n"], ["--nope", "--nope"]] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let status = Command::new(BRAMBLE).args(args).current_dir(dir.path()).stderr(Stdio::from(full)).status().unwrap();
        assert_eq!(status.code(), Some(if args[0] == "--nope" { 2 } else { 1 }));
    }
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = Command::new(BRAMBLE).arg("--version").stdout(Stdio::from(full)).status().unwrap();
    assert_eq!(status.code(), Some(1), "a version that nobody could read is a failure");
}

/// What a program says of its refusal: the first line if it cannot read the command line, otherwise the last error in its log.
fn refusal(output: &Output) -> (Option<i32>, String) {
    let stderr = text(&output.stderr);
    if output.status.code() == Some(2) {
        return (Some(2), stderr.lines().next().unwrap_or_default().to_owned());
    }
    let last = stderr
        .lines()
        .rev()
        .find(|line| line.contains("\"error\":\"") || line.contains("\"level\":\"fatal\""))
        .unwrap_or_default();
    let told = last.split_once("\"error\":\"").or_else(|| last.split_once("\"msg\":\"")).map_or("", |(_, rest)| rest);
    // To the quote that ends the string.
    let mut end = told.len();
    let mut escaped = false;
    for (at, c) in told.char_indices() {
        if c == '"' && !escaped {
            end = at;
            break;
        }
        escaped = c == '\\' && !escaped;
    }
    (output.status.code(), told[..end].to_owned())
}

#[test]
fn refusals_are_those_of_a_running_etcd() {
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/bin/etcd");
    if !oracle.exists() {
        println!("skipped: {} has not been built", oracle.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etcd = linked(dir.path(), "etcd");
    type Case = (&'static [&'static str], &'static [(&'static str, &'static str)]);
    let cases: &[Case] = &[
        (&["--nope"], &[]),
        (&["--name"], &[]),
        (&["---x"], &[]),
        (&["--=x"], &[]),
        (&["junk"], &[]),
        (&["--", "junk"], &[]),
        (&["--version=x"], &[]),
        (&["--version", "junk"], &[]),
        (&["--snapshot-count=08"], &[]),
        (&["--snapshot-count=1_0_"], &[]),
        (&["--snapshot-count=0x"], &[]),
        (&["--quota-backend-bytes=9223372036854775808"], &[]),
        (&["--max-concurrent-streams=-1"], &[]),
        (&["--grpc-keepalive-timeout=1h1"], &[]),
        (&["--pre-vote=yes"], &[]),
        (&["--cors=a,b"], &[]),
        (&["--listen-peer-urls=http://::1:2380"], &[]),
        (&["--listen-peer-urls=http://[::1"], &[]),
        (&["--listen-peer-urls=http://a b:1"], &[]),
        (&["--listen-peer-urls=127.0.0.1:1"], &[]),
        (&["--listen-peer-urls=localhost:1"], &[]),
        (&["--listen-peer-urls=http://1.2.3.4"], &[]),
        (&["--listen-peer-urls=http://1.2.3.4:1/a"], &[]),
        (&["--listen-peer-urls=http://a.b:1"], &[]),
        (&["--listen-peer-urls=http://%41:1"], &[]),
        (&["--listen-client-urls=http://127.0.0.1:1"], &[]),
        (&["--advertise-client-urls=http://:1"], &[]),
        (&["--initial-advertise-peer-urls=http://:1,http://a:2"], &[]),
        (&["--election-timeout=400"], &[]),
        (&["--election-timeout=60000"], &[]),
        (&["--heartbeat-interval=1000", "--election-timeout=4999"], &[]),
        (&["--heartbeat-interval=0"], &[]),
        (&["--auto-compaction-mode=x"], &[]),
        (&["--auto-compaction-retention=5d"], &[]),
        (&["--auto-compaction-retention=1h-1s"], &[]),
        (&["--initial-cluster=default=y"], &[]),
        (&["--discovery-token=x"], &[]),
        (&["--discovery-srv=x", "--initial-cluster=a=http://b:1"], &[]),
        (&["--cipher-suites=x"], &[]),
        (&["--tls-max-version=TLS1.0"], &[]),
        (&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"], &[]),
        (&["--feature-gates=a"], &[]),
        (&["--feature-gates=LeaseCheckpoint=x"], &[]),
        (&["--feature-gates=AllAlpha=true,LeaseCheckpoint=false"], &[]),
        (&["--compact-hash-check-time=-1500ms"], &[]),
        (&["--logger=x"], &[]),
        (&["--log-format=x"], &[]),
        (&["--log-outputs=default,stderr"], &[]),
        (&["--enable-log-rotation", "--log-outputs=stdout"], &[]),
        (&["--config-file=/nonexistent"], &[]),
        (&["--config-file=/"], &[]),
        (&["--name=x"], &[("ETCD_NAME", "y")]),
        (&["--name=x"], &[("ETCD_NAME", "")]),
        (&[], &[("ETCD_SNAPSHOT_COUNT", "x")]),
        (&[], &[("ETCD_LISTEN_PEER_URLS", "x")]),
        (&[], &[("ETCD_CONFIG_FILE", "/nonexistent"), ("ETCD_NAME", "x")]),
        (&["--auth-token=x"], &[]),
        (&["--listen-metrics-urls=https://127.0.0.1:1"], &[]),
        (&["--listen-peer-urls=https://127.0.0.1:1"], &[]),
        (&["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"], &[]),
    ];
    for (args, env) in cases {
        let (ours, theirs) = (run(&etcd, dir.path(), args, env), run(&oracle, dir.path(), args, env));
        assert_eq!(refusal(&ours), refusal(&theirs), "{args:?} {env:?}");
    }
}
