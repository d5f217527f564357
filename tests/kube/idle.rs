//! What an idle control plane costs the store.

use std::fs;
use std::time::{Duration, Instant};

use super::verdict::samples;
use crate::support::Server;
use crate::support::http::get_plain;

/// Leaves everything alone for a while and prints what the server used: figures, no verdict.
pub fn measure(server: &Server, window: Duration) {
    let (start, before) = (Instant::now(), Usage::of(server));
    std::thread::sleep(window);
    let after = Usage::of(server);
    let seconds = start.elapsed().as_secs_f64();
    let per_second = |of: fn(&Usage) -> f64| (of(&after) - of(&before)) / seconds;
    println!(
        "idle for {seconds:.0} s: RSS {:.1} MiB, {:.0} bytes/s to the block layer, {:.0} bytes/s by write calls, {:.2} proposals/s, {:.2} % of a core",
        after.rss / 1_048_576.0,
        per_second(|usage| usage.written),
        per_second(|usage| usage.called),
        per_second(|usage| usage.proposals),
        100.0 * per_second(|usage| usage.cpu),
    );
}

struct Usage {
    rss: f64,
    written: f64,
    called: f64,
    proposals: f64,
    cpu: f64,
}

impl Usage {
    fn of(server: &Server) -> Usage {
        let proc = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", server.pid())).unwrap();
        let metrics = get_plain(server.ports().metrics, "/metrics").body;
        let metric = |name: &str| samples(&metrics, name).map(|(_, value)| value).sum();
        Usage {
            rss: number_after(&proc("status"), "VmRSS:") * 1024.0,
            written: number_after(&proc("io"), "\nwrite_bytes:"),
            called: number_after(&proc("io"), "wchar:"),
            proposals: metric("etcd_server_proposals_committed_total"),
            cpu: metric("process_cpu_seconds_total"),
        }
    }
}

fn number_after(text: &str, name: &str) -> f64 {
    let rest = text.split_once(name).expect(name).1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}
