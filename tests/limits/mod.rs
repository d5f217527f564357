//! Large and many things, and disks that misbehave: the server stays correct, its memory bounded, and everybody else is served.
//!
//! Each test prints what it measured (`--nocapture` shows it). Times are printed and never asserted, but for waits that would be
//! a hang. The long ones are ignored; `make limits` runs all of them, one after the other, on the release binary. `make figures`
//! prints what [`figures`] measures beside a real etcd.

mod disk;
pub mod figures;
mod leases;
mod sizes;
mod watches;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::RangeRequest;

use crate::support::process::Memory;
use crate::support::requests::{key, put};
use crate::support::{Client, Server};

/// Bytes in words.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// A line of the table.
fn tell(what: impl Display, figure: impl Display) {
    println!("| {what:<68} | {figure:<44} |");
}

fn tell_memory(server: &Server, when: &str) {
    let Memory { resident, own, peak } = Memory::of(server);
    tell(format!("memory {when}"), format!("RSS {}, own {}, peak {}", size(resident), size(own), size(peak)));
}

/// How long calls took.
#[derive(Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let answer = call();
        self.0.push(begun.elapsed());
        answer
    }

    /// Count, median, 99th percentile and the longest.
    fn tell(mut self, what: impl Display) {
        self.0.sort();
        let at = |share: f64| self.0.get(((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1)));
        let show = |time: Option<&Duration>| time.map_or("-".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3));
        let (half, most, last) = (show(at(0.5)), show(at(0.99)), show(self.0.last()));
        tell(what, format!("{} calls, p50 {half}, p99 {most}, max {last}", self.0.len()));
    }
}

/// Puts and gets of a client of its own while `work` runs: both have to succeed, and what was put is read. Tells how long they took.
fn beside<T>(server: &Server, what: &str, work: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (client, stop) = (server.client(), &stop);
        let other = scope.spawn(move || {
            let (mut puts, mut gets) = (Latencies::default(), Latencies::default());
            for n in 0.. {
                puts.time(|| client.call(&put("beside", format!("{n}"))));
                let read = gets.time(|| client.call(&key("beside")));
                assert_eq!(read.kvs[0].value, format!("{n}"));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            (puts, gets)
        });
        let on_end = Stop(stop);
        let answer = work();
        drop(on_end);
        let (puts, gets) = other.join().unwrap();
        puts.tell(format!("puts of others {what}"));
        gets.tell(format!("gets of others {what}"));
        answer
    })
}

fn revision_of(client: &Client) -> i64 {
    use crate::support::requests::Revision;
    client.call(&RangeRequest { limit: 1, ..key("beside") }).revision()
}
