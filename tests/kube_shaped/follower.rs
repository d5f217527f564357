//! What a watch may say, and the cache that it keeps: events of each revision of its span, once, in order, all of a revision
//! together, with what was there before; and progress only when all events up to it are delivered.

use std::collections::BTreeMap;
use std::time::Instant;

use bramble::pb::etcdserverpb::WatchResponse;
use bramble::pb::mvccpb::Event;
use bramble::pb::mvccpb::event::EventType;
use bytes::Bytes;

use super::figures::Figures;
use super::history::{History, Print, Span, Version, Wrong};
use super::model::Model;
use crate::support::requests::Revision;

/// Keys, with `mod_revision` and value.
pub type Cache = BTreeMap<Bytes, (i64, Print)>;

/// A watch with `prev_kv`, as its client has heard it so far.
pub struct Follower {
    /// Whose it is: what the time from write to event is called.
    kind: &'static str,
    span: Span,
    /// Everything up to here has been delivered.
    reached: i64,
    cache: Cache,
    /// Events of an answer that came in pieces.
    pieces: Vec<Event>,
}

impl Follower {
    /// One that goes on from a list of that revision.
    pub fn new(kind: &'static str, span: Span, revision: i64, cache: Cache) -> Follower {
        Follower { kind, span, reached: revision, cache, pieces: Vec::new() }
    }

    /// The same watch with a new list.
    pub fn relist(&mut self, revision: i64, cache: Cache) {
        *self = Follower::new(self.kind, self.span.clone(), revision, cache);
    }

    /// What it watches.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Everything up to here has been delivered.
    pub fn reached(&self) -> i64 {
        self.reached
    }

    /// What its client believes to be stored at [`Follower::reached`].
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The stream ended: what came in pieces comes again.
    pub fn forget_pieces(&mut self) {
        self.pieces.clear();
    }

    /// Takes an answer that is neither `created` nor `canceled`.
    ///
    /// # Panics
    /// If it is wrong.
    #[track_caller]
    pub fn hear(&mut self, reply: WatchResponse, model: &Model, figures: &Figures) {
        let heard = Instant::now();
        let revision = reply.revision();
        model.saw(reply.header());
        self.pieces.extend(reply.events);
        if reply.fragment {
            figures.count("pieces of answers");
            return;
        }
        let events = std::mem::take(&mut self.pieces);
        let Some(last) = events.last() else {
            figures.progress();
            return model.check(revision, |history| self.told_progress(history, revision));
        };
        let last = revision_of(last);
        figures.events(events.len());
        model.check(last, |history| {
            if revision < last {
                return Err(format!("events of {last} in an answer of {revision}"));
            }
            for events in events.chunk_by(|one, other| revision_of(one) == revision_of(other)) {
                self.told_revision(history, events, model)?;
                if let Some(sent) = history.sent(self.reached) {
                    figures.latency(self.kind, heard.saturating_duration_since(sent));
                }
            }
            Ok(())
        });
    }

    fn told_progress(&mut self, history: &History, revision: i64) -> Result<(), Wrong> {
        if let Some(missing) = history.first_change(&self.span, self.reached + 1, revision) {
            return Err(format!("{:?}: progress {revision} before the events of {missing}", self.span));
        }
        self.reached = self.reached.max(revision);
        Ok(())
    }

    /// Takes all events of one revision.
    fn told_revision(&mut self, history: &History, events: &[Event], model: &Model) -> Result<(), Wrong> {
        let revision = revision_of(&events[0]);
        let wrong = |why: String| format!("a watch of {:?}, at {}: {why}: {events:?}", self.span, self.reached);
        if revision <= self.reached {
            return Err(wrong(format!("revision {revision} again")));
        }
        if let Some(missing) = history.first_change(&self.span, self.reached + 1, revision - 1) {
            return Err(wrong(format!("the events of {missing} are missing before {revision}")));
        }
        let keys = history.changes(&self.span, revision);
        if keys.len() != events.len() {
            return Err(wrong(format!("{} events of revision {revision}, not {}", events.len(), keys.len())));
        }
        for (event, key) in events.iter().zip(keys) {
            let (version, before) = history.change(key, revision).expect("a key that the revision changes");
            // What a key held before a compacted revision cannot be told any more.
            let may_lack_previous = model.compacted().asked > revision - 1;
            check_event(event, key, version, before, may_lack_previous).map_err(wrong)?;
        }
        for event in events {
            let kv = event.kv.as_ref().expect("it was compared");
            match event.r#type() {
                EventType::Put => self.cache.insert(kv.key.clone(), (revision, Print::of(&kv.value))),
                EventType::Delete => self.cache.remove(&kv.key),
            };
        }
        self.reached = revision;
        Ok(())
    }
}

fn check_event(
    event: &Event,
    key: &Bytes,
    version: &Version,
    before: Option<&Version>,
    may_lack_previous: bool,
) -> Result<(), Wrong> {
    let kv = event.kv.as_ref().ok_or("an event without a key")?;
    let right = match version.stored {
        Some(_) => event.r#type() == EventType::Put && version.is(key, kv),
        None => {
            let bare = (kv.create_revision, kv.version, kv.lease, kv.value.len()) == (0, 0, 0, 0);
            event.r#type() == EventType::Delete && kv.key == *key && kv.mod_revision == version.modified && bare
        }
    };
    if !right {
        return Err(format!("not what was done to {key:?}, which is {version:?}"));
    }
    match (&event.prev_kv, before) {
        (None, None) => Ok(()),
        (None, Some(_)) if may_lack_previous => Ok(()),
        (Some(previous), Some(before)) if before.is(key, previous) => Ok(()),
        (told, before) => Err(format!("before it was {before:?}, not {told:?}")),
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}
