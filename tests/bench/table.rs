//! The table: every single-node promise of the design with what was measured, then all that was measured.

use super::samples::{By, Samples};
use super::sides::Side;

/// What is promised of a figure.
#[derive(Clone, Copy)]
enum Aim {
    /// So many times etcd's.
    Times(f64),
    /// Not more than this, in the figure's unit.
    AtMost(f64),
}

/// A promise of DESIGN §7.
struct Promise {
    what: &'static str,
    aim: Aim,
    load: &'static str,
    by: By,
    figure: &'static str,
}

const fn promise(what: &'static str, aim: Aim, load: &'static str, by: By, figure: &'static str) -> Promise {
    Promise { what, aim, load, by, figure }
}

/// The load under which the figures of `limits::figures` are kept.
pub const PROCESS: &str = "process";

const PROMISES: &[Promise] = {
    use Aim::{AtMost, Times};
    use By::{Benchmark, Light};
    &[
        promise("put, 1 client", Times(1.5), "put-1", Benchmark, "per_second"),
        promise("put, 1 client", Times(1.5), "put-1", Light, "per_second"),
        promise("put, 1000 clients", Times(2.0), "put-1000", Benchmark, "per_second"),
        promise("put, 1000 clients", Times(4.0), "put-1000", Light, "per_second"),
        promise("txn-put, 1000 clients", Times(2.0), "txn-put", Benchmark, "per_second"),
        promise("txn-put, 1000 clients", Times(4.0), "txn-put", Light, "per_second"),
        promise("server CPU per put", AtMost(10.0), "put-1000", Benchmark, "cpu_us"),
        promise("server CPU per put", AtMost(10.0), "put-1000", Light, "cpu_us"),
        promise("server CPU per txn-put", AtMost(10.0), "txn-put", Light, "cpu_us"),
        promise("peak RSS under 1000-client put, 256 B", AtMost(40.0), "put-1000", Benchmark, "peak_mb"),
        promise("peak RSS under 1000-client put, 256 B", AtMost(40.0), "put-1000", Light, "peak_mb"),
        promise("peak RSS under 1000-client put, 1 KiB", AtMost(40.0), "put-1k", Light, "peak_mb"),
        promise("written by the process per 1 KiB put", AtMost(2.2), "put-1k", Light, "written_kb"),
        promise("linearizable range, 1 client", Times(1.5), "range-1", Benchmark, "per_second"),
        promise("linearizable range, 1 client", Times(1.5), "range-1", Light, "per_second"),
        promise("linearizable range, 1000 clients", Times(1.5), "range-1000", Benchmark, "per_second"),
        promise("linearizable range, 1000 clients", Times(4.0), "range-1000", Light, "per_second"),
        promise("server CPU per linearizable range", AtMost(6.0), "range-1000", Benchmark, "cpu_us"),
        promise("server CPU per linearizable range", AtMost(6.0), "range-1000", Light, "cpu_us"),
        promise("lease keepalive", Times(1.5), "keepalive", Benchmark, "per_second"),
        promise("lease keepalive", Times(1.5), "keepalive", Light, "per_second"),
        promise("lease keepalive on streams that stay", Times(1.5), "keepalive-stream", Light, "per_second"),
        promise("server CPU per keepalive", AtMost(6.0), "keepalive", Light, "cpu_us"),
        promise("server CPU per keepalive on a stream that stays", AtMost(6.0), "keepalive-stream", Light, "cpu_us"),
        promise("watch: create p99", AtMost(2.0), "watch", Benchmark, "create_p99_ms"),
        promise("watch: create p99", AtMost(2.0), "watch", Light, "create_p99_ms"),
        promise("watch: events delivered", Times(1.5), "watch", Benchmark, "per_second"),
        promise("watch: events delivered", Times(1.5), "watch", Light, "per_second"),
        promise("SIGKILL to first linearizable read, 10 k keys", AtMost(50.0), PROCESS, Light, "start_10k_keys_ms"),
        promise("SIGKILL to first linearizable read, 1 M revisions", AtMost(2000.0), PROCESS, Light, "start_1m_revisions_ms"),
        promise("RSS, idle", AtMost(8.0), PROCESS, Light, "idle_mb"),
        promise("fresh data directory", AtMost(10.0), PROCESS, Light, "fresh_mb"),
        promise("binary", AtMost(6.0), PROCESS, Light, "binary_mb"),
    ]
};

/// What is promised too and measured elsewhere.
const ELSEWHERE: &[(&str, &str)] = &[
    ("bytes to the device per put and a day", "make bench-flash"),
    ("GET p99 while writes are stuck", "make bench-slow"),
    ("memory under an idle Kubernetes control plane", "make test-kube"),
];

/// What is shown of each load, and whether more is better.
const SHOWN: &[(&str, bool)] = &[
    ("per_second", true),
    ("p50_ms", false),
    ("p99_ms", false),
    ("cpu_us", false),
    ("client_cpu_us", false),
    ("peak_mb", false),
    ("written_kb", false),
    ("create_per_second", true),
    ("create_p99_ms", false),
    ("ceiling_per_second", true),
];

/// Prints it.
pub fn print(samples: &Samples) {
    let words = |name: &str| samples.machine.get(name).map_or("unknown", String::as_str);
    println!("\n{}, {}, {}, disk {}", words("cpu"), words("memory"), words("kernel"), words("disk"));
    println!(
        "{} at {}, {}; {}; medians of {} rounds",
        words("bramble"),
        words("commit"),
        words("etcd"),
        words("date"),
        samples.rounds()
    );
    println!("raw results: {}\n", samples.path().file_name().unwrap_or_default().to_string_lossy());
    row("", "by", "aim", "Bramble", "etcd", "ratio", "");
    row("---", "---", "---", "---:", "---:", "---:", "---");
    PROMISES.iter().for_each(|promise| promise.print(samples));
    ELSEWHERE.iter().for_each(|(what, how)| row(what, how, "", "", "", "", "measured elsewhere"));
    for (load, by) in samples.loads().into_iter().filter(|(load, _)| *load != PROCESS) {
        for &(figure, more_is_better) in SHOWN {
            let [ours, etcd] = Side::ALL.map(|side| samples.median(load, by, side, figure));
            if let (Some(ours), Some(etcd)) = (ours, etcd) {
                let better = if more_is_better { ours / etcd } else { etcd / ours };
                let ratio = if figure.starts_with("c") && figure.contains("client") || figure.starts_with("ceiling") {
                    String::new()
                } else {
                    times(better)
                };
                row(&format!("{load}: {figure}"), name(by), "", &show(ours), &show(etcd), &ratio, "");
            }
        }
    }
}

impl Promise {
    fn print(&self, samples: &Samples) {
        let [ours, etcd] = Side::ALL.map(|side| samples.median(self.load, self.by, side, self.figure));
        let (Some(ours), Some(etcd)) = (ours, etcd) else { return };
        let (_, unit) = self.figure.rsplit_once('_').unwrap_or(("", self.figure));
        let unit = match unit {
            "second" => "/s",
            "us" => " µs",
            "ms" => " ms",
            "mb" => " MB",
            _ => " KB",
        };
        let (aim, ratio, met) = match self.aim {
            Aim::Times(times) => (format!(">= {times}x"), ours / etcd, ours / etcd >= times),
            Aim::AtMost(most) => (format!("<= {}{unit}", show(most)), etcd / ours, ours <= most),
        };
        let [ours, etcd] = [ours, etcd].map(|figure| format!("{}{unit}", show(figure)));
        row(self.what, name(self.by), &aim, &ours, &etcd, &times(ratio), if met { "met" } else { "**MISSED**" });
    }
}

fn name(by: By) -> &'static str {
    match by {
        By::Light => "light",
        By::Benchmark => "benchmark",
    }
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2}x")
}

/// Three digits that matter, or whole numbers.
pub fn show(figure: f64) -> String {
    match figure.abs() {
        1000.0.. => {
            let digits = format!("{figure:.0}");
            let (head, tail) = digits.split_at(digits.len() - 3);
            let (millions, thousands) = head.split_at(head.len().saturating_sub(3));
            if millions.is_empty() { format!("{thousands},{tail}") } else { format!("{millions},{thousands},{tail}") }
        }
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{figure:.2}"),
    }
}

fn row(what: &str, by: &str, aim: &str, ours: &str, etcd: &str, ratio: &str, met: &str) {
    println!("| {what:<50} | {by:<16} | {aim:>10} | {ours:>11} | {etcd:>11} | {ratio:>8} | {met} |");
}
