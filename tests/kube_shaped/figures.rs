//! What a run measures: printed as one table, never judged.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::support::Server;
use crate::support::http::get_plain;

/// Counts and times of a run.
#[derive(Default)]
pub struct Figures {
    latencies: Mutex<BTreeMap<&'static str, Vec<u32>>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    events: AtomicU64,
    progress: AtomicU64,
}

impl Figures {
    /// Something of this kind took so long.
    pub fn latency(&self, kind: &'static str, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default().push(micros);
    }

    /// Something of this kind has happened.
    pub fn count(&self, kind: &'static str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    /// So many events were delivered.
    pub fn events(&self, count: usize) {
        self.events.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// A progress notice was delivered.
    pub fn progress(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Prints all of it.
    pub fn tell(&self, took: Duration, usage: &Usage) {
        let seconds = took.as_secs_f64();
        println!("| {:<40} | {:>8} | {:>8} | {:>9} | {:>9} | {:>9} |", "", "count", "per s", "p50 ms", "p99 ms", "max ms");
        let row = |kind: &str, count: u64, times: [String; 3]| {
            let [half, most, last] = times;
            println!("| {kind:<40} | {count:>8} | {:>8.2} | {half:>9} | {most:>9} | {last:>9} |", count as f64 / seconds);
        };
        for (kind, times) in &mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner) {
            times.sort_unstable();
            let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)];
            row(kind, times.len() as u64, [0.5, 0.99, 1.0].map(|share| format!("{:.2}", f64::from(at(share)) / 1e3)));
        }
        let others = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let delivered = [("events delivered", &self.events), ("progress notices delivered", &self.progress)];
        let delivered = delivered.map(|(kind, count)| (kind, count.load(Ordering::Relaxed)));
        for (kind, count) in delivered.into_iter().chain(others) {
            row(kind, count, Default::default());
        }
        println!("{seconds:.0} s; the server: {}", usage.told(seconds));
    }
}

/// What a server process has used, or several one after the other.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    resident: u64,
    /// The part of it that is no file's.
    own: u64,
    peak: u64,
    cpu_ticks: u64,
    written: u64,
    syncs: u64,
}

impl Usage {
    /// Of the process that runs now.
    pub fn of(server: &Server) -> Usage {
        let proc = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", server.pid())).unwrap();
        let (status, io, stat) = (proc("status"), proc("io"), proc("stat"));
        // Fields 14 and 15 of proc(5), behind the name in parentheses.
        let times: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let metrics = get_plain(server.ports().metrics, "/metrics").body;
        let count = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name));
            line.map_or(0, |value| value.trim().parse::<f64>().unwrap() as u64)
        };
        Usage {
            resident: number_after(&status, "VmRSS:") * 1024,
            own: number_after(&status, "RssAnon:") * 1024,
            peak: number_after(&status, "VmHWM:") * 1024,
            cpu_ticks: times[11].parse::<u64>().unwrap() + times[12].parse::<u64>().unwrap(),
            written: number_after(&io, "\nwrite_bytes:"),
            syncs: count("etcd_disk_wal_fsync_duration_seconds_count ")
                + count("etcd_disk_backend_commit_duration_seconds_count "),
        }
    }

    /// Together with what a later process has used.
    pub fn then(self, later: Usage) -> Usage {
        Usage {
            resident: later.resident,
            own: later.own,
            peak: self.peak.max(later.peak),
            cpu_ticks: self.cpu_ticks + later.cpu_ticks,
            written: self.written + later.written,
            syncs: self.syncs + later.syncs,
        }
    }

    fn told(&self, seconds: f64) -> String {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let cpu = self.cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        format!(
            "RSS {:.1} MB ({:.1} MB its own), peak {:.1} MB, {cpu:.1} s of CPU ({:.1} % of a core), {:.1} MB written ({:.1} kB/s), {} syncs of WAL and database ({:.1}/s)",
            megabytes(self.resident),
            megabytes(self.own),
            megabytes(self.peak),
            100.0 * cpu / seconds,
            megabytes(self.written),
            self.written as f64 / seconds / 1e3,
            self.syncs,
            self.syncs as f64 / seconds,
        )
    }
}

fn number_after(text: &str, name: &str) -> u64 {
    let rest = text.split_once(name).expect(name).1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}
