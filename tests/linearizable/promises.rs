//! What etcd promises of watches, held against the [`Timeline`]: ordered, unique, reliable, atomic, resumable, bookmarkable; with the
//! right filters and previous values; ended by a compaction only when they need what it removed.
//!
//! What a watch is told must be exactly what happened in its range from its start on, as far as it was told: that is ordered, unique
//! and reliable at once, and a watch resumed behind the last it was told is such a watch again.

use std::iter::Peekable;

use bramble::pb::etcdserverpb::WatchResponse;
use bramble::pb::etcdserverpb::watch_create_request::FilterType;
use bramble::pb::mvccpb::Event;
use bramble::pb::mvccpb::event::EventType;

use super::history::{Millis, Operation, Reply, Request, Time};
use super::order::Sighting;
use super::timeline::{Timeline, names};
use super::violation::Violation;
use super::watchers::Watch;

/// Compactions that were asked for, and when they were known to be done.
pub struct Compactions(Vec<(Time, Option<Time>, i64)>);

impl Compactions {
    /// Of a history.
    pub fn of(history: &[Operation]) -> Compactions {
        let compaction = |operation: &Operation| match (&operation.request, operation.reply()) {
            (Request::Compact(compaction), None | Some(Reply::Compact(_))) => {
                Some((operation.call, operation.returned(), compaction.revision))
            }
            _ => None,
        };
        Compactions(history.iter().filter_map(compaction).collect())
    }

    /// The highest that can have happened by then.
    fn possible(&self, time: Time) -> i64 {
        self.0.iter().filter(|(call, ..)| *call <= time).map(|(.., revision)| *revision).max().unwrap_or(0)
    }

    /// The highest that must have happened by then.
    fn certain(&self, time: Time) -> i64 {
        let is_done = |returned: &Option<Time>| returned.is_some_and(|returned| returned < time);
        self.0.iter().filter(|(_, returned, _)| is_done(returned)).map(|(.., revision)| *revision).max().unwrap_or(0)
    }
}

/// What watches have seen when.
pub fn sightings(watches: &[Watch]) -> Vec<Sighting> {
    let seen = |(watch, (time, response)): (usize, &(Time, WatchResponse))| {
        let events = response.events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        Sighting { time: *time, revision: events.max(header), watch }
    };
    watches.iter().enumerate().flat_map(|(index, watch)| watch.told.iter().map(move |told| (index, told))).map(seen).collect()
}

/// Checks one watch. `goal`: what it must have been told of by its end; none: its stream was cut.
///
/// # Errors
/// The first promise that was not kept.
pub fn check(watch: &Watch, timeline: &Timeline, compactions: &Compactions, goal: Option<i64>) -> Result<(), Violation> {
    let mut reading = Reading::new(watch, timeline, compactions);
    for (index, (time, response)) in watch.told.iter().enumerate() {
        reading.take(*time, response).map_err(|claim| {
            let from = index.saturating_sub(2);
            let before = watch.told[from..index].iter().map(|told| line("before it", told));
            let about = format!("the watch: {:?}, asked for at {} ms, epoch {}", watch.request, Millis(watch.asked), watch.epoch);
            let shown = [about].into_iter().chain(before).chain([line("it was told", &watch.told[index])]);
            Violation::new(claim, shown.chain(reading.due()))
        })?;
    }
    match goal {
        Some(goal) if reading.told < goal && !reading.has_ended => Err(Violation::new(
            format!("a watch was never told that it has seen revision {goal}, the last"),
            [format!("the watch: {:?}", watch.request), format!("it knows of {}", reading.told)].into_iter().chain(reading.due()),
        )),
        _ => Ok(()),
    }
}

fn line(what: &str, (time, response): &(Time, WatchResponse)) -> String {
    format!("{what}: at {} ms {response:?}", Millis(*time))
}

type Wanted<'a> = Box<dyn Iterator<Item = (i64, Vec<Event>)> + 'a>;

/// How far a watch has got.
struct Reading<'a> {
    watch: &'a Watch,
    timeline: &'a Timeline,
    compactions: &'a Compactions,
    /// What it must be told next, by revision.
    wanted: Peekable<Wanted<'a>>,
    /// Fragments of an answer that is not complete.
    fragments: Vec<Event>,
    is_created: bool,
    has_ended: bool,
    /// It has ended so, and its client may cancel it yet.
    is_compacted: bool,
    /// The highest revision that it knows to have been told of.
    told: i64,
}

impl<'a> Reading<'a> {
    fn new(watch: &'a Watch, timeline: &'a Timeline, compactions: &'a Compactions) -> Reading<'a> {
        let wanted = wanted(watch, timeline, watch.request.start_revision);
        let told = watch.request.start_revision - 1;
        Reading {
            watch,
            timeline,
            compactions,
            wanted,
            fragments: Vec::new(),
            is_created: false,
            has_ended: false,
            is_compacted: false,
            told,
        }
    }

    /// What it is waiting for, for a reader of the failure.
    fn due(&mut self) -> Option<String> {
        self.wanted.peek().map(|(revision, events)| format!("due is revision {revision}: {events:?}"))
    }

    fn take(&mut self, time: Time, response: &WatchResponse) -> Result<(), String> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if self.is_compacted && response.canceled && response.compact_revision == 0 {
            // The client has cancelled what had ended.
            self.is_compacted = false;
            return Ok(());
        }
        if self.has_ended {
            return Err("a watch is told of after its end".to_owned());
        }
        if response.created == self.is_created {
            return Err("the first answer to a watch, and only that, says that it was created".to_owned());
        }
        if !self.fragments.is_empty() && response.events.is_empty() {
            return Err("something stands between the fragments of an answer".to_owned());
        }
        if response.created {
            return self.create(revision, response);
        }
        if response.canceled {
            self.has_ended = true;
            self.is_compacted = response.compact_revision > 0;
            return self.end(time, response);
        }
        if response.events.is_empty() {
            return self.progress(revision);
        }
        self.events(time, revision, response)
    }

    fn create(&mut self, revision: i64, response: &WatchResponse) -> Result<(), String> {
        self.is_created = true;
        if response.canceled || !response.events.is_empty() {
            return Err("a watch was refused, or told of before it was created".to_owned());
        }
        if self.watch.request.start_revision == 0 {
            self.told = revision;
            self.wanted = wanted(self.watch, self.timeline, revision + 1);
        }
        Ok(())
    }

    fn end(&self, time: Time, response: &WatchResponse) -> Result<(), String> {
        let compacted = response.compact_revision;
        if compacted == 0 {
            return if self.watch.cancelled.is_some() { Ok(()) } else { Err("a watch ends that nobody cancelled".to_owned()) };
        }
        if compacted > self.compactions.possible(time) {
            return Err(format!("a watch ends because of a compaction to {compacted} that nobody asked for"));
        }
        if compacted <= self.told + 1 {
            return Err(format!("a watch ends because of a compaction to {compacted}, but needs nothing below"));
        }
        Ok(())
    }

    /// A bookmark: whoever resumes behind it misses nothing, and nothing up to it comes later.
    fn progress(&mut self, revision: i64) -> Result<(), String> {
        match self.wanted.peek() {
            Some((due, _)) if *due <= revision => {
                return Err(format!("progress to {revision} is told before the events of revision {due}"));
            }
            _ if revision < self.told => return Err(format!("progress goes back from {} to {revision}", self.told)),
            _ => {}
        }
        self.told = self.told.max(revision);
        self.must_not_be_compacted()
    }

    fn events(&mut self, time: Time, revision: i64, response: &WatchResponse) -> Result<(), String> {
        self.fragments.extend(response.events.iter().cloned());
        if response.fragment {
            return if self.watch.request.fragment { Ok(()) } else { Err("fragments that nobody asked for".to_owned()) };
        }
        let events = std::mem::take(&mut self.fragments);
        for told in events.chunk_by(|a, b| revision_of(a) == revision_of(b)) {
            let at = revision_of(&told[0]);
            if revision < at {
                return Err(format!("an event of revision {at} is told under a header of {revision}"));
            }
            match self.wanted.next() {
                Some((due, expected)) if due == at => self.compare(time, told, &expected)?,
                Some((due, _)) if due < at => return Err(format!("revision {due} is missing, or its events were told apart")),
                _ => return Err(format!("revision {at} is told again, or out of order, or is not of this watch")),
            }
            self.told = at;
        }
        self.must_not_be_compacted()
    }

    fn compare(&self, time: Time, told: &[Event], expected: &[Event]) -> Result<(), String> {
        let without_prev = |event: &Event| Event { prev_kv: None, ..event.clone() };
        if !told.iter().map(without_prev).eq(expected.iter().cloned()) {
            return Err(format!("the events of a revision should be {expected:?}"));
        }
        for event in told {
            let kv = event.kv.as_ref().expect("it has been compared");
            let before = self.timeline.at(&kv.key, kv.mod_revision - 1).filter(|_| self.watch.request.prev_kv);
            let is_compacted = event.prev_kv.is_none() && self.compactions.possible(time) >= kv.mod_revision;
            if event.prev_kv.as_ref() != before && !is_compacted {
                return Err(format!("before revision {} the key held {before:?}, not {:?}", kv.mod_revision, event.prev_kv));
            }
        }
        Ok(())
    }

    /// A watch whose start was compacted when it was asked for is not served.
    fn must_not_be_compacted(&self) -> Result<(), String> {
        let (start, compacted) = (self.watch.request.start_revision, self.compactions.certain(self.watch.asked));
        if start == 0 || start >= compacted {
            return Ok(());
        }
        Err(format!("a watch from revision {start} is served although {compacted} was compacted before it was asked for"))
    }
}

/// What a watch must be told from a revision on.
fn wanted<'a>(watch: &'a Watch, timeline: &'a Timeline, start: i64) -> Peekable<Wanted<'a>> {
    let request = &watch.request;
    let has = |filter: FilterType| request.filters.contains(&filter.into());
    let (no_put, no_delete) = (has(FilterType::Noput), has(FilterType::Nodelete));
    let wants = move |event: &&Event| {
        let filtered = if event.r#type() == EventType::Put { no_put } else { no_delete };
        !filtered && event.kv.as_ref().is_some_and(|kv| names(&kv.key, &request.key, &request.range_end))
    };
    let of_revision = move |(revision, events): (i64, &[Event])| (revision, events.iter().filter(wants).cloned().collect());
    let some = |(_, events): &(i64, Vec<Event>)| !events.is_empty();
    let all: Wanted<'a> = Box::new(timeline.since(start).map(of_revision).filter(some));
    all.peekable()
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}
