//! etcd's own load generator, driven and read.

use std::process::{Command, Stdio};

use super::load::{Ask, Crowd, Puts, Watches};
use crate::support::{Server, oracle};

/// One of its summaries.
pub struct Summary {
    pub per_second: f64,
    /// Seconds.
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// Calls by the benchmark, which has to have no errors.
pub fn calls(server: &Server, ask: &Ask, crowd: Crowd) -> Summary {
    let total = crowd.total;
    let args = match ask {
        Ask::Put { keys, value } => {
            format!(
                "put --sequential-keys --key-size={} --key-space-size={} --val-size={value} --total={total}",
                keys.size, keys.space
            )
        }
        Ask::TxnPut { keys, value } => {
            format!("txn-put --key-size={} --key-space-size={} --val-size={value} --total={total}", keys.size, keys.space)
        }
        Ask::Range { keys, serializable, .. } => {
            let consistency = if *serializable { "s" } else { "l" };
            format!("range {} --consistency={consistency} --total={total}", String::from_utf8_lossy(&keys.name(0)))
        }
        Ask::KeepAlive { .. } => format!("lease-keepalive --total={total}"),
        Ask::TxnPuts { .. } | Ask::Rows { .. } | Ask::Grant { .. } | Ask::Raw { .. } => {
            panic!("the benchmark has no such load: {ask:?}")
        }
    };
    run(server, crowd.connections, crowd.clients, &args).pop().expect("a summary")
}

/// Watches and events: how watches came to stand, and what they were told.
pub fn watch(server: &Server, watches: &Watches, puts: &Puts) -> [Summary; 2] {
    let args = format!("watch --streams={} --watch-per-stream={} --put-total={}", watches.streams, watches.watches, puts.total);
    run(server, watches.connections, puts.clients, &args).try_into().ok().expect("two summaries")
}

/// Events of paced puts.
pub fn watch_latency(server: &Server, watches: &Watches, puts: &Puts) -> Summary {
    let rate = puts.rate.expect("paced puts");
    let (streams, each, total) = (watches.streams, watches.watches, puts.total);
    let args = format!("watch-latency --streams={streams} --watchers-per-stream={each} --put-total={total} --put-rate={rate}");
    run(server, watches.connections, puts.clients, &args).pop().expect("two summaries")
}

fn run(server: &Server, connections: usize, clients: usize, args: &str) -> Vec<Summary> {
    let output = Command::new(oracle("benchmark"))
        .arg(format!("--endpoints=127.0.0.1:{}", server.ports().client))
        .args([format!("--conns={connections}"), format!("--clients={clients}"), "--precise".to_owned()])
        .args(args.split(' '))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("Error distribution"), "benchmark {args}: {text}");
    text.split("Summary:\n").skip(1).map(summary).collect()
}

fn summary(text: &str) -> Summary {
    let number = |begin: &str| -> Option<f64> {
        let rest = text.lines().find_map(|line| line.trim().strip_prefix(begin))?;
        rest.trim().trim_end_matches(" secs.").parse().ok()
    };
    Summary {
        per_second: number("Requests/sec:").expect("Requests/sec"),
        // Very fast events have no line for the lowest shares.
        p50: number("50% in").unwrap_or(0.0),
        p99: number("99% in").unwrap_or(0.0),
        max: number("Slowest:").expect("Slowest"),
    }
}

#[test]
fn a_summary_is_read() {
    let text = "\n  Total:\t1.5979 secs.\n  Slowest:\t0.0125 secs.\n  Requests/sec:\t625.8037\n\nLatency distribution:\n  \
                10% in 0.0003 secs.\n  50% in 0.0009 secs.\n  99% in 0.0082 secs.\n  99.9% in 0.0125 secs.\n";
    let Summary { per_second, p50, p99, max } = summary(text);
    assert_eq!((per_second, p50, p99, max), (625.8037, 0.0009, 0.0082, 0.0125));
}
