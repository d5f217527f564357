//! Counters, gauges and histograms: atomics that are never ordered against anything else.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::text::go_float;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// One that a gauge counts as long as this lives.
#[derive(Debug)]
pub struct Held(&'static Gauge);

impl Gauge {
    /// Zero.
    pub const fn new() -> Gauge {
        Gauge(AtomicU64::new(0))
    }

    /// Replaces the number.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// One more until what is returned is dropped.
    pub fn hold(&'static self) -> Held {
        self.0.fetch_add(1, Relaxed);
        Held(self)
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// The most buckets that a histogram of etcd's has, the one without an upper bound included.
const MAX_BUCKETS: usize = 25;

/// Where a histogram's buckets end, in whole units, and how many units make one of what the name promises (seconds, for most).
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    bounds: Bounds,
    units: f64,
}

#[derive(Clone, Copy, Debug)]
enum Bounds {
    /// So many bounds, each twice the one before.
    Doubling { first: u64, count: usize },
    /// Any, ascending.
    Listed(&'static [u64]),
}

impl Scale {
    /// Seconds, observed in nanoseconds: `count` bounds, the first `first_micros`, each twice the one before.
    pub const fn seconds(first_micros: u64, count: usize) -> Scale {
        assert!(count < MAX_BUCKETS);
        Scale { bounds: Bounds::Doubling { first: first_micros * 1000, count }, units: 1e9 }
    }

    /// Milliseconds, observed in nanoseconds: as [`Scale::seconds`].
    pub const fn millis(first_micros: u64, count: usize) -> Scale {
        assert!(count < MAX_BUCKETS);
        Scale { bounds: Bounds::Doubling { first: first_micros * 1000, count }, units: 1e6 }
    }

    /// Whole numbers: `count` bounds, 1, 2, 4...
    pub const fn powers_of_two(count: usize) -> Scale {
        assert!(count < MAX_BUCKETS);
        Scale { bounds: Bounds::Doubling { first: 1, count }, units: 1.0 }
    }

    /// Seconds, with the bounds that Prometheus's Go library has by default: 5 ms to 10 s.
    pub const fn default_seconds() -> Scale {
        const MILLIS: u64 = 1_000_000;
        const DEFAULT: &[u64] = &[
            5 * MILLIS,
            10 * MILLIS,
            25 * MILLIS,
            50 * MILLIS,
            100 * MILLIS,
            250 * MILLIS,
            500 * MILLIS,
            1000 * MILLIS,
            2500 * MILLIS,
            5000 * MILLIS,
            10_000 * MILLIS,
        ];
        Scale { bounds: Bounds::Listed(DEFAULT), units: 1e9 }
    }

    /// The number of bounds.
    fn len(&self) -> usize {
        match self.bounds {
            Bounds::Doubling { count, .. } => count,
            Bounds::Listed(bounds) => bounds.len(),
        }
    }

    fn bound(&self, place: usize) -> u64 {
        match self.bounds {
            Bounds::Doubling { first, .. } => first << place,
            Bounds::Listed(bounds) => bounds[place],
        }
    }

    /// The first bucket whose bound is not below `value`; [`Scale::len`] for the one without a bound.
    fn place(&self, value: u64) -> usize {
        match self.bounds {
            Bounds::Doubling { first, count } => {
                // The least k with value <= first * 2^k.
                let times = value.div_ceil(first);
                let doublings = if times <= 1 { 0 } else { u64::BITS - (times - 1).leading_zeros() };
                count.min(doublings as usize)
            }
            Bounds::Listed(bounds) => bounds.partition_point(|bound| *bound < value),
        }
    }
}

/// How often values fell between bounds, and what they sum up to.
#[derive(Debug)]
pub struct Histogram {
    scale: Scale,
    buckets: [AtomicU64; MAX_BUCKETS],
    sum: AtomicU64,
}

/// A histogram at one moment, as it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Summed {
    /// Upper bounds as labels have them, `+Inf` last, and how many values are not above.
    pub buckets: Vec<(String, u64)>,
    /// The sum of all values.
    pub sum: f64,
}

impl Summed {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.last().map_or(0, |(_, count)| *count)
    }
}

impl Histogram {
    /// Nothing observed.
    pub const fn new(scale: Scale) -> Histogram {
        Histogram { scale, buckets: [const { AtomicU64::new(0) }; MAX_BUCKETS], sum: AtomicU64::new(0) }
    }

    /// Some of the same scale, with nothing observed.
    pub const fn array<const N: usize>(scale: Scale) -> [Histogram; N] {
        let mut histograms = [const { Histogram::new(Scale::powers_of_two(1)) }; N];
        let mut place = 0;
        while place < N {
            histograms[place].scale = scale;
            place += 1;
        }
        histograms
    }

    /// Adds a time.
    pub fn observe(&self, time: Duration) {
        self.observe_units(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds a value in the scale's units: nanoseconds for a time.
    pub fn observe_units(&self, value: u64) {
        self.buckets[self.scale.place(value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Whether nothing has been observed.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.load(Relaxed) == 0)
    }

    /// As it is now. The count is the buckets' own sum, so that the two never differ.
    pub fn summed(&self) -> Summed {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.scale.len() + 1);
        for place in 0..=self.scale.len() {
            count += self.buckets[place].load(Relaxed);
            let bound = if place < self.scale.len() {
                go_float(self.scale.bound(place) as f64 / self.scale.units)
            } else {
                "+Inf".to_owned()
            };
            buckets.push((bound, count));
        }
        Summed { buckets, sum: self.sum.load(Relaxed) as f64 / self.scale.units }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(histogram: &Histogram) -> Vec<u64> {
        let mut before = 0;
        histogram.summed().buckets.iter().map(|(_, count)| count - std::mem::replace(&mut before, *count)).collect()
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::new(Scale::seconds(1000, 3));
        for micros in [0, 999, 1000] {
            histogram.observe(Duration::from_micros(micros));
        }
        histogram.observe(Duration::from_nanos(1_000_001));
        histogram.observe(Duration::from_millis(2));
        histogram.observe(Duration::from_nanos(2_000_001));
        histogram.observe(Duration::from_millis(4));
        histogram.observe(Duration::from_nanos(4_000_001));
        histogram.observe(Duration::MAX);
        assert_eq!(counts(&histogram), [3, 2, 2, 2]);
    }

    #[test]
    fn every_value_is_in_the_first_bucket_that_takes_it() {
        let doubling = Scale::seconds(100, 20);
        let default = Scale::default_seconds();
        for scale in [doubling, default] {
            for place in 0..scale.len() {
                let bound = scale.bound(place);
                assert_eq!(scale.place(bound), place);
                assert_eq!(scale.place(bound + 1), place + 1);
            }
            assert_eq!(scale.place(u64::MAX), scale.len());
        }
    }

    #[test]
    fn bounds_are_written_as_etcd_writes_them() {
        let bounds =
            |scale| Histogram::new(scale).summed().buckets.into_iter().map(|(bound, _)| bound).collect::<Vec<_>>().join(" ");
        assert_eq!(
            bounds(Scale::seconds(1000, 14)),
            "0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 +Inf"
        );
        assert_eq!(
            bounds(Scale::seconds(100, 20)),
            "0.0001 0.0002 0.0004 0.0008 0.0016 0.0032 0.0064 0.0128 0.0256 0.0512 0.1024 0.2048 0.4096 0.8192 1.6384 3.2768 \
             6.5536 13.1072 26.2144 52.4288 +Inf"
        );
        assert_eq!(bounds(Scale::millis(500, 14)), "0.5 1 2 4 8 16 32 64 128 256 512 1024 2048 4096 +Inf");
        assert!(
            bounds(Scale::powers_of_two(24)).ends_with("262144 524288 1.048576e+06 2.097152e+06 4.194304e+06 8.388608e+06 +Inf")
        );
        assert_eq!(bounds(Scale::default_seconds()), "0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 +Inf");
    }

    #[test]
    fn count_and_sum_follow_what_was_observed() {
        let histogram = Histogram::new(Scale::millis(1000, 13));
        assert!(histogram.is_empty());
        histogram.observe(Duration::from_micros(1500));
        histogram.observe(Duration::from_micros(500));
        assert!(!histogram.is_empty());
        assert_eq!((histogram.summed().count(), histogram.summed().sum), (2, 2.0));
    }

    #[test]
    fn a_gauge_counts_what_is_held() {
        static OPEN: Gauge = Gauge::new();
        let first = OPEN.hold();
        let second = OPEN.hold();
        assert_eq!(OPEN.get(), 2);
        drop(first);
        assert_eq!(OPEN.get(), 1);
        drop(second);
        assert_eq!(OPEN.get(), 0);
    }
}
