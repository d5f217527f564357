//! Auto-compaction: what revision to compact at, and when. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::AutoCompaction;

const HOUR: Duration = Duration::from_secs(3600);
/// How often a retention by revisions is looked at (etcd: every five minutes).
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// Samples per compaction, for a retention by time.
const SAMPLES: u32 = 10;

/// Decides when to compact. Only the leader asks it.
#[derive(Debug)]
pub(super) struct Compactor {
    mode: AutoCompaction,
    next: Duration,
    /// For a retention by time: when, and the revision then.
    samples: VecDeque<(Duration, i64)>,
    last_compaction: Duration,
    compacted: i64,
}

impl Compactor {
    pub fn new(mode: AutoCompaction, now: Duration) -> Compactor {
        // Not at the start: watchers come back after it, and want the history that they have not seen yet.
        let next = if matches!(mode, AutoCompaction::Revision(_)) { now + REVISION_INTERVAL } else { now };
        Compactor { mode, next, samples: VecDeque::new(), last_compaction: now, compacted: 0 }
    }

    /// The revision to compact at now, if any. `current` is the store's.
    pub fn due(&mut self, now: Duration, current: i64) -> Option<i64> {
        if now < self.next {
            return None;
        }
        let revision = match self.mode {
            AutoCompaction::Off => {
                self.next = Duration::MAX;
                return None;
            }
            AutoCompaction::Revision(keep) => {
                self.next = now + REVISION_INTERVAL;
                current - keep
            }
            AutoCompaction::Periodic(retention) => {
                let interval = retention.min(HOUR);
                self.next = now + (interval / SAMPLES).max(Duration::from_millis(1));
                self.samples.push_back((now, current));
                let mut old_enough = None;
                while let Some((taken, revision)) = self.samples.front()
                    && *taken + retention <= now
                {
                    old_enough = Some(*revision);
                    self.samples.pop_front();
                }
                let revision = old_enough?;
                if now < self.last_compaction + interval {
                    // Kept for the compaction that is due next.
                    self.samples.push_front((now - retention, revision));
                    return None;
                }
                self.last_compaction = now;
                revision
            }
        };
        if revision <= self.compacted.max(0) {
            return None;
        }
        self.compacted = revision;
        Some(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(n * 60)
    }

    #[test]
    fn time_is_kept_before_the_first_compaction_and_between_them() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(minutes(120)), minutes(0));
        let mut compactions = Vec::new();
        for minute in 0..=300 {
            if let Some(revision) = compactor.due(minutes(minute), 1 + i64::try_from(minute).unwrap()) {
                compactions.push((minute, revision));
            }
        }
        assert_eq!(compactions, [(120, 1), (180, 61), (240, 121), (300, 181)]);
    }

    #[test]
    fn revisions_are_kept() {
        let mut compactor = Compactor::new(AutoCompaction::Revision(100), minutes(0));
        assert_eq!(compactor.due(minutes(0), 900), None);
        assert_eq!(compactor.due(minutes(4), 900), None);
        assert_eq!(compactor.due(minutes(5), 900), Some(800));
        assert_eq!(compactor.due(minutes(10), 900), None);
    }

    #[test]
    fn off_is_off() {
        let mut compactor = Compactor::new(AutoCompaction::Off, minutes(0));
        assert_eq!(compactor.due(minutes(99_999), 1_000_000), None);
    }
}
