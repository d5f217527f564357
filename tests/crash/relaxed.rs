//! What a server with a relaxed class may lose with the power: the last revisions, if all that was acknowledged or seen of them is of
//! the class. They are not given out again.

use std::collections::BTreeSet;

use bramble::pb::etcdserverpb::LeaseLeasesRequest;

use super::ledger::{Ledger, Write};
use super::rows::Effect;
use super::verify::Found;
use crate::support::Client;

/// The class of a server, and what is known of the revisions that it has skipped.
#[derive(Debug, Default)]
pub struct Relaxed {
    /// What the class's keys begin with.
    pub prefixes: Vec<String>,
    /// The power has gone since the last verification.
    pub power_failed: bool,
    /// Revisions that were never given out, or lost: first and last.
    gaps: Vec<(i64, i64)>,
}

impl Relaxed {
    /// A class of the keys that begin so.
    pub fn of(prefixes: &[&str]) -> Relaxed {
        Relaxed { prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(), ..Relaxed::default() }
    }

    /// The flags of a server with this class; none without.
    pub fn flags(&self) -> Vec<String> {
        if self.prefixes.is_empty() {
            return Vec::new();
        }
        // Verifications end with a notice of progress where the last revisions are missing.
        let progress = "--watch-progress-notify-interval=100ms".to_owned();
        vec![format!("--relaxed-prefixes={}", self.prefixes.join(",")), "--relaxed-leases".to_owned(), progress]
    }

    fn holds(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    fn may_lose(&self, write: &Write) -> bool {
        write.success.iter().chain(&write.failure).all(|effect| match effect {
            Effect::Put { key, .. } => self.holds(key),
            Effect::Delete { from, to } => {
                let prefix = self.prefixes.iter().find(|prefix| from.starts_with(*prefix));
                prefix.is_some_and(|prefix| to.as_ref().is_none_or(|to| to.starts_with(prefix)))
            }
        })
    }

    fn skip(&mut self, first: i64, last: i64) {
        match self.gaps.last_mut().filter(|gap| gap.1 + 1 == first) {
            Some(gap) => gap.1 = last,
            None => self.gaps.push((first, last)),
        }
    }

    /// The revision that comes next if this one was skipped.
    pub fn after_gap(&self, revision: i64) -> i64 {
        self.gaps.iter().find(|(first, last)| (*first..=*last).contains(&revision)).map_or(revision, |(_, last)| last + 1)
    }

    /// The last revision that is no later and was not skipped.
    pub fn before_gap(&self, revision: i64) -> i64 {
        self.gaps.iter().find(|(first, last)| (*first..=*last).contains(&revision)).map_or(revision, |(first, _)| first - 1)
    }
}

impl Ledger {
    /// Lets go of what a power cut may have taken, and of nothing else.
    pub(super) fn let_go(&mut self, client: &Client, found: &Found) {
        if self.relaxed.prefixes.is_empty() {
            return;
        }
        let known = self.verified.max(found.compacted);
        let kept = (known..).take_while(|revision| *revision == known || found.history.contains_key(revision)).last();
        let kept = kept.expect("what is verified is kept");
        let failed = self.relaxed.power_failed;
        let told = self.seen.0;
        let mut next = kept + 1;
        for revision in found.history.range(next..).map(|(revision, _)| *revision).chain([found.revision + 1]) {
            assert!(next == revision || revision > told, "revision {revision} was seen, and {next} before it is lost");
            if next < revision {
                self.relaxed.skip(next, revision - 1);
            }
            next = revision + 1;
        }
        for (_, lost) in self.acknowledged.split_off(&(kept + 1)) {
            assert!(failed && self.relaxed.may_lose(&lost.write), "acknowledged, and lost: {lost:?}");
            self.tally.lost += 1;
        }
        for (revision, events) in self.history.split_off(&(kept + 1)) {
            let may = failed && events.iter().all(|event| self.relaxed.holds(&event.key));
            assert!(may, "revision {revision} was seen, and is lost: {events:?}");
        }
        for idle in self.idle.extract_if(.., |idle| idle.revision > kept && idle.revision <= told) {
            assert!(failed && self.relaxed.may_lose(&idle.write), "answered by what is lost: {idle:?}");
        }
        self.hashes.retain(|hash| hash.revision <= kept || hash.revision > told);
        // A key of another kind is as it was when the last of its kind was written.
        self.reads.retain(|read| !(failed && read.revision > kept && self.relaxed.holds(&read.key)));
        self.reads.iter_mut().filter(|read| read.revision > kept).for_each(|read| read.revision = kept);
        if failed {
            self.tally.cuts += 1;
            let listed: BTreeSet<i64> = client.call(&LeaseLeasesRequest {}).leases.iter().map(|lease| lease.id).collect();
            // Grants and ends may be lost as well. Those whose keys are of another kind are looked at with their keys.
            self.leases.values_mut().for_each(|lease| lease.open = true);
            self.gone.retain(|id| !(listed.contains(id) && self.leases.contains_key(id)));
        }
    }
}
