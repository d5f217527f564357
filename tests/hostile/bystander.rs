//! A well-behaved client beside an attack: it writes, reads what it wrote, and watches itself do so.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::requests::{Watch, key, put, watch};
use crate::support::{Client, Server};

/// Its work in progress.
pub struct Bystander {
    client: Client,
    watching: Watch,
    rounds: usize,
    puts: Vec<Duration>,
    gets: Vec<Duration>,
}

impl Bystander {
    /// Connects.
    pub fn of(server: &Server) -> Bystander {
        let client = server.client();
        let mut watching = Watch::open(&client);
        watching.create(watch("bystander"));
        Bystander { client, watching, rounds: 0, puts: Vec::new(), gets: Vec::new() }
    }

    /// One put, one read, one event; each has to be right.
    pub fn round(&mut self) {
        let value = format!("{}", self.rounds);
        let begun = Instant::now();
        self.client.call(&put("bystander", &value));
        self.puts.push(begun.elapsed());
        let begun = Instant::now();
        let read = self.client.call(&key("bystander"));
        self.gets.push(begun.elapsed());
        assert_eq!(read.kvs[0].value, value, "what was put is read");
        let seen = self.watching.events();
        assert_eq!(seen.events.len(), 1, "one put is one event: {seen:?}");
        assert_eq!(seen.events[0].kv.as_ref().unwrap().value, value, "what was put is seen");
        self.rounds += 1;
    }

    /// Works on until `stop`, and counts its rounds.
    pub fn until(&mut self, stop: &AtomicBool, rounds: &AtomicUsize) {
        while !stop.load(Ordering::Relaxed) {
            self.round();
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts and gets since the last time: how many, how long half of them took, how long nearly all.
    pub fn tell(&mut self, when: &str) {
        for (what, mut times) in [("puts", std::mem::take(&mut self.puts)), ("gets", std::mem::take(&mut self.gets))] {
            times.sort();
            let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)].as_secs_f64() * 1e3;
            println!("  {what} of others {when}: {}, p50 {:.1} ms, p99 {:.1} ms", times.len(), at(0.5), at(0.99));
        }
    }
}
