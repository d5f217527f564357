//! The order of revisions against every answer and against the clock.
//!
//! Each answered operation is given its place in the [`Timeline`]: a write the revision that its answer names, anything else right
//! behind that revision. There it must have done exactly what is told of that revision, and have been answered as the state there
//! says. Revisions that nobody was told of must each be, wholly, a write without an answer. And what had been seen when an operation
//! was sent, it may not be older than.

use std::collections::HashSet;

use bramble::pb::etcdserverpb::response_op::Response;
use bramble::pb::mvccpb::Event;

use super::history::{EXPIRY, Millis, Operation, Reply, Request, Time};
use super::timeline::{Attempt, FIRST, Timeline};
use super::violation::Violation;

/// Somebody has seen a revision: it is committed, and nothing sent later may be answered from before.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// When.
    pub time: Time,
    /// What.
    pub revision: i64,
    /// On which watch.
    pub watch: usize,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It made this revision.
    At(i64),
    /// It found the store at this revision.
    After(i64),
}

/// Checks the whole history.
///
/// # Errors
/// The first contradiction.
pub fn check(history: &[Operation], timeline: &Timeline, sightings: &[Sighting]) -> Result<(), Violation> {
    let seen = Seen::new(history, sightings);
    let mut places = answered(history, timeline)?;
    check_times(history, &places, &seen)?;
    explain_the_rest(history, timeline, &seen, &mut places)
}

/// Places of the operations that were answered.
fn answered(history: &[Operation], timeline: &Timeline) -> Result<Vec<Option<Place>>, Violation> {
    let mut places = vec![None; history.len()];
    let mut writer = vec![None; (timeline.last() + 1) as usize];
    // What a revocation has deleted its answer does not tell: others that claim the revision go first.
    let (told, untold): (Vec<usize>, Vec<usize>) =
        (0..history.len()).partition(|index| !matches!(history[*index].request, Request::Revoke(_)));
    for index in told.into_iter().chain(untold) {
        let operation = &history[index];
        let (Some(reply), Some(revision)) = (operation.reply(), operation.revision()) else { continue };
        if !(FIRST - 1..=timeline.last()).contains(&revision) {
            return Err(Violation::new(
                format!("an answer names revision {revision}, but the history ends at {}", timeline.last()),
                [operation.to_string()],
            ));
        }
        let (expected, events) = Attempt::of(timeline, revision - 1, &operation.request);
        let wrote = !events.is_empty() && writes(reply) != Some(false);
        if wrote && events == timeline.events(revision) && is_answered_by(reply, expected) {
            if let Some(other) = writer[revision as usize] {
                // Of two revocations that fit, the other has done it, and this one finds nothing more to delete.
                if writes(reply).is_some() || !Attempt::of(timeline, revision, &operation.request).1.is_empty() {
                    let both: [&Operation; 2] = [operation, &history[other]];
                    return Err(Violation::new(format!("two writes have revision {revision}"), both.map(ToString::to_string)));
                }
                places[index] = Some(Place::After(revision));
            } else {
                writer[revision as usize] = Some(index);
                places[index] = Some(Place::At(revision));
            }
            continue;
        }
        let (expected, events) = Attempt::of(timeline, revision, &operation.request);
        if writes(reply) == Some(true) || !events.is_empty() || !is_answered_by(reply, expected) {
            return Err(contradiction(operation, revision, timeline));
        }
        places[index] = Some(Place::After(revision));
    }
    Ok(places)
}

/// Whether the answer says that a revision was made; none: it does not tell.
fn writes(reply: &Reply) -> Option<bool> {
    match reply {
        Reply::Put(_) => Some(true),
        Reply::DeleteRange(delete) => Some(delete.deleted > 0),
        Reply::Txn(txn) => Some(txn.responses.iter().any(|response| match &response.response {
            Some(Response::ResponsePut(_)) => true,
            Some(Response::ResponseDeleteRange(delete)) => delete.deleted > 0,
            _ => false,
        })),
        Reply::Revoke(_) => None,
        Reply::Range(_) | Reply::Compact(_) | Reply::Grant(_) | Reply::TimeToLive(_) | Reply::Leases(_) | Reply::Refused(_) => {
            Some(false)
        }
    }
}

fn is_answered_by(reply: &Reply, expected: Option<Reply>) -> bool {
    match (without_headers(reply.clone()), expected) {
        (Reply::Range(reply), Some(Reply::Range(expected))) => reply == expected,
        (Reply::Put(reply), Some(Reply::Put(expected))) => reply == expected,
        (Reply::DeleteRange(reply), Some(Reply::DeleteRange(expected))) => reply == expected,
        (Reply::Txn(reply), Some(Reply::Txn(expected))) => reply == expected,
        (_, expected) => expected.is_none(),
    }
}

fn without_headers(mut reply: Reply) -> Reply {
    match &mut reply {
        Reply::Range(range) => range.header = None,
        Reply::Put(put) => put.header = None,
        Reply::DeleteRange(delete) => delete.header = None,
        Reply::Txn(txn) => {
            txn.header = None;
            for response in &mut txn.responses {
                match &mut response.response {
                    Some(Response::ResponseRange(range)) => range.header = None,
                    Some(Response::ResponsePut(put)) => put.header = None,
                    Some(Response::ResponseDeleteRange(delete)) => delete.header = None,
                    Some(Response::ResponseTxn(_)) | None => {}
                }
            }
        }
        _ => {}
    }
    reply
}

fn contradiction(operation: &Operation, revision: i64, timeline: &Timeline) -> Violation {
    let attempt = |base| {
        let (reply, events) = Attempt::of(timeline, base, &operation.request);
        format!("right after revision {base} it would do {events:?} and be answered {reply:?}")
    };
    let happened = format!("revision {revision} is {:?}", timeline.events(revision));
    let lines = [operation.to_string(), happened, attempt(revision - 1), attempt(revision)];
    Violation::new(format!("an answer does not fit to revision {revision}, which it names"), lines)
}

/// Finds for each revision that no answer names the write that was never answered. Several may fit (two deletions of one key): the
/// one goes first that can least wait.
fn explain_the_rest(
    history: &[Operation],
    timeline: &Timeline,
    seen: &Seen,
    places: &mut [Option<Place>],
) -> Result<(), Violation> {
    let made = |place: &Option<Place>| if let Some(Place::At(revision)) = place { Some(*revision) } else { None };
    let taken: HashSet<i64> = places.iter().filter_map(made).collect();
    let deadlines = deadlines(history);
    let mut lost: Vec<usize> = (0..history.len()).filter(|index| history[*index].end.is_none()).collect();
    let deadline = |index: usize| match history[index].client {
        EXPIRY => i64::MAX,
        _ => deadlines[history[index].epoch],
    };
    lost.sort_by_key(|index| deadline(*index));
    for (revision, events) in timeline.since(FIRST).filter(|(revision, _)| !taken.contains(revision)) {
        let fits = |index: &usize| {
            let is_newer = seen.before(history[*index].call).is_none_or(|seen| seen.revision < revision);
            is_newer && revision <= deadline(*index) && Attempt::of(timeline, revision - 1, &history[*index].request).1 == events
        };
        let Some(at) = lost.iter().position(fits) else {
            return Err(unexplained(history, timeline, revision, events, &lost));
        };
        places[lost.remove(at)] = Some(Place::At(revision));
    }
    Ok(())
}

/// Of each epoch the oldest revision that anything sent after it was answered from. What the epoch has left unanswered and is newer
/// never happened: the process that it was sent to was gone.
fn deadlines(history: &[Operation]) -> Vec<i64> {
    let epochs = history.iter().map(|operation| operation.epoch + 1).max().unwrap_or(0);
    let mut deadlines = vec![i64::MAX; epochs];
    for operation in history {
        for deadline in &mut deadlines[..operation.epoch] {
            *deadline = (*deadline).min(operation.revision().unwrap_or(i64::MAX));
        }
    }
    deadlines
}

fn unexplained(history: &[Operation], timeline: &Timeline, revision: i64, events: &[Event], lost: &[usize]) -> Violation {
    let touches = |index: &&usize| {
        let (_, would) = Attempt::of(timeline, revision - 1, &history[**index].request);
        would.iter().any(|event| events.contains(event))
    };
    let partly =
        lost.iter().filter(touches).take(5).map(|index| format!("it has a part of what this would do: {}", history[*index]));
    let happened = format!("revision {revision} is {events:?}");
    Violation::new("nobody asked for what happened", [happened].into_iter().chain(partly))
}

/// Somebody who has seen a revision.
#[derive(Clone, Copy)]
struct Witness {
    time: Time,
    revision: i64,
    /// An operation, or a watch.
    by: Result<usize, usize>,
}

/// Who was the first to see what.
struct Seen(Vec<Witness>);

impl Seen {
    fn new(history: &[Operation], sightings: &[Sighting]) -> Seen {
        let answers = history.iter().enumerate().filter_map(|(index, operation)| {
            Some(Witness { time: operation.returned()?, revision: operation.revision()?, by: Ok(index) })
        });
        let events = sightings.iter().map(|seen| Witness { time: seen.time, revision: seen.revision, by: Err(seen.watch) });
        let mut all: Vec<Witness> = answers.chain(events).collect();
        all.sort_by_key(|witness| witness.time);
        let mut newest = 0;
        all.retain(|witness| {
            let is_news = witness.revision > newest;
            newest = newest.max(witness.revision);
            is_news
        });
        Seen(all)
    }

    /// The newest that was seen before `time`.
    fn before(&self, time: Time) -> Option<&Witness> {
        self.0[..self.0.partition_point(|witness| witness.time < time)].last()
    }
}

/// Nothing may be older than what had been seen when it was sent; a write must be newer.
fn check_times(history: &[Operation], places: &[Option<Place>], seen: &Seen) -> Result<(), Violation> {
    for (operation, place) in history.iter().zip(places) {
        let (Some(place), Some(newest)) = (place, seen.before(operation.call)) else { continue };
        let is_old = match *place {
            Place::At(revision) => revision <= newest.revision,
            Place::After(revision) => revision < newest.revision,
        };
        if is_old {
            return Err(stale(history, operation, *place, newest));
        }
    }
    Ok(())
}

fn stale(history: &[Operation], operation: &Operation, place: Place, newest: &Witness) -> Violation {
    let what = match place {
        Place::At(_) => "a write has a revision that had been seen before it was sent",
        Place::After(_) if operation.is_serializable() => "a serializable read has gone back",
        Place::After(_) => "an answer is older than what had been seen before it was asked for",
    };
    let by = match newest.by {
        Ok(index) => history[index].to_string(),
        Err(watch) => format!("watch {watch}"),
    };
    let seen = format!("revision {} was seen at {} ms by {by}", newest.revision, Millis(newest.time));
    Violation::new(format!("{what}: {place:?}"), [operation.to_string(), seen])
}
