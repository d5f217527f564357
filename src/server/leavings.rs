//! What bursts leave in the heap, and when it is given back to the kernel: a small machine has other use for it.

use std::time::Duration;

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(5);
/// So many entries in an interval are no burst: an idle Kubernetes writes ten.
const QUIET_ENTRIES: u64 = 100;
/// What is worth the while that nobody can allocate.
const WORTH_BYTES: u64 = 3 << 20;

/// Looks from time to time.
#[derive(Default)]
pub(super) struct Leavings {
    looked: Duration,
    applied: u64,
    /// The least that the process has had since memory was last given back: what it needs.
    needed: u64,
    given_back: bool,
}

impl Leavings {
    /// Whether to give memory back now. `applied`: the index of the last entry; `own`: the process's memory in bytes.
    pub fn are_due(&mut self, now: Duration, applied: u64, own: impl FnOnce() -> u64) -> bool {
        if now < self.looked + INTERVAL {
            return false;
        }
        let entries = applied - std::mem::replace(&mut self.applied, applied);
        self.looked = now;
        if entries > QUIET_ENTRIES {
            // What is there after this is not what is needed.
            self.given_back = false;
            return false;
        }
        let own = own();
        self.needed = if std::mem::take(&mut self.given_back) { own } else { self.needed.min(own) };
        self.given_back = own >= self.needed + WORTH_BYTES;
        self.given_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks after so many seconds each: entries applied until then, memory, and whether it is given back.
    fn play(looks: &[(u64, u64, u64, bool)]) {
        let mut leavings = Leavings { applied: 0, needed: 5 << 20, ..Leavings::default() };
        for (n, (secs, applied, megabytes, due)) in looks.iter().enumerate() {
            let found = leavings.are_due(Duration::from_secs(*secs), *applied, || megabytes << 20);
            assert_eq!(found, *due, "look {n}");
        }
    }

    #[test]
    fn what_a_burst_leaves_is_given_back_once_it_is_over() {
        play(&[(5, 10, 6, false), (10, 9_000, 40, false), (15, 9_100, 40, true), (20, 9_100, 7, false), (25, 9_100, 7, false)]);
    }

    #[test]
    fn what_is_needed_is_not_looked_for_again() {
        play(&[(5, 0, 40, true), (10, 0, 39, false), (15, 0, 41, false), (20, 0, 42, true)]);
    }

    #[test]
    fn a_burst_right_after_is_not_taken_for_need() {
        play(&[(5, 0, 40, true), (10, 9_000, 60, false), (15, 9_000, 60, true)]);
    }

    #[test]
    fn between_two_looks_nothing_is_asked() {
        play(&[(5, 0, 40, true), (9, 0, 90, false)]);
    }
}
