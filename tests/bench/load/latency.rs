//! How long calls took: a histogram whose steps grow with the time, so that it stays small and is exact to 3 %.

use std::time::Duration;

/// Steps for each doubling of the time.
const STEPS: u64 = 32;

/// Counts of times in nanoseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; place(u64::MAX) + 1], total: 0, max: 0 }
    }
}

/// Below 2 * [`STEPS`] each number has a place of its own; above, the highest bits choose it.
fn place(nanos: u64) -> usize {
    let doublings = (nanos | 1).ilog2().saturating_sub(STEPS.ilog2());
    (u64::from(doublings) * STEPS + (nanos >> doublings)) as usize
}

/// The largest number of a place.
fn largest(place: usize) -> u64 {
    let place = place as u64;
    let doublings = (place / STEPS).saturating_sub(1);
    ((place - doublings * STEPS + 1) << doublings).wrapping_sub(1)
}

impl Histogram {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[place(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The time that this share of all took at most.
    pub fn at(&self, share: f64) -> Duration {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        Duration::from_nanos(place.map_or(self.max, |place| largest(place).min(self.max)))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::{Histogram, largest, place};
    use std::time::Duration;

    #[test]
    fn each_place_ends_where_the_next_begins() {
        for nanos in (0..5_000).chain([1 << 20, (1 << 40) + 12_345, u64::MAX - 1, u64::MAX]) {
            let end = largest(place(nanos));
            assert!(nanos <= end && (end - nanos) as f64 <= nanos as f64 / 32.0, "{nanos} is counted as {end}");
            assert!(end == u64::MAX || place(end + 1) == place(nanos) + 1, "{nanos}");
        }
    }

    #[test]
    fn shares_are_of_all_that_was_added() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        assert_eq!(histogram.count(), 1000);
        for (share, ms) in [(0.5, 500.0), (0.99, 990.0), (0.0, 1.0)] {
            let read = histogram.at(share).as_secs_f64() * 1e3;
            assert!((read / ms - 1.0).abs() < 0.04, "{share}: {read} ms");
        }
        assert_eq!(histogram.max(), Duration::from_secs(1));
        assert_eq!(histogram.at(1.0), Duration::from_secs(1));
    }
}
