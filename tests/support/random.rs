//! Random numbers that a seed replays.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// From `SEED`, or else from the time; the seed is printed, and shown if the test fails.
    pub fn from_env() -> Random {
        let time = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("SEED").map_or_else(|_| time(), |seed| seed.parse().expect("SEED is a number"));
        println!("replay with SEED={seed}");
        Random(seed)
    }

    /// From a number that is known.
    pub fn from_seed(seed: u64) -> Random {
        Random(seed)
    }

    /// Another source, determined by this one.
    pub fn fork(&mut self) -> Random {
        Random(self.next())
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
