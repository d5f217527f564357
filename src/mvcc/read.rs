//! Ranges: choosing rows under the lock, and handing them out afterwards.

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;

use super::Revision;
use super::key_index::KeyIndex;
use super::key_range::KeyRange;
use super::row::{RowHead, encode_row};
use super::state::State;
use super::store::{Pin, Store};
use crate::backend::{Backend, Reader, Table};
use crate::error::{Error, Fault};
use crate::pb::etcdserverpb::RangeRequest;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};

/// The answer to a range: its numbers, and its rows to be taken one after the other.
pub struct RangeAnswer {
    /// The store's current main revision, whatever revision was asked for.
    pub revision: i64,
    /// Keys in the range, before limit and filters.
    pub count: i64,
    /// Whether rows were left out because of the limit.
    pub more: bool,
    /// The rows.
    pub rows: Rows,
}

/// A row chosen for an answer.
#[derive(Clone, Debug)]
enum Chosen {
    /// Here already: recent, or rewritten for `keys_only`.
    Here(Bytes),
    /// In the checkpoint.
    Stored(Revision),
}

/// The rows of an answer. They stay readable as long as this lives, whatever is compacted meanwhile; no lock and, after
/// [`Rows::park`], no read transaction is held.
pub struct Rows {
    chosen: std::vec::IntoIter<Chosen>,
    backend: Arc<Backend>,
    reader: Option<Reader>,
    keys_only: bool,
    _pin: Option<Pin>,
}

impl Rows {
    /// Rows left.
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.chosen.len() == 0
    }

    /// Calls `each` with row after row until it returns false or none is left.
    ///
    /// # Errors
    /// A fault if the checkpoint cannot be read.
    pub fn take_while(&mut self, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), Fault> {
        let mut source = RowSource { backend: &self.backend, reader: &mut self.reader };
        for chosen in self.chosen.by_ref() {
            let go_on = match chosen {
                Chosen::Here(row) => each(&row),
                Chosen::Stored(revision) if self.keys_only => each(&without_value(source.stored_ref(revision)?)),
                Chosen::Stored(revision) => each(source.stored_ref(revision)?),
            };
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// Calls `each` with the length of every row left, without taking them.
    ///
    /// # Errors
    /// A fault if the checkpoint cannot be read.
    pub fn lengths(&mut self, mut each: impl FnMut(usize)) -> Result<(), Fault> {
        let mut source = RowSource { backend: &self.backend, reader: &mut self.reader };
        for chosen in self.chosen.as_slice() {
            each(match chosen {
                Chosen::Here(row) => row.len(),
                Chosen::Stored(revision) if self.keys_only => without_value(source.stored_ref(*revision)?).len(),
                Chosen::Stored(revision) => source.stored_len(*revision)?,
            });
        }
        Ok(())
    }

    /// Lets go of the read transaction, before waiting for a client.
    pub fn park(&mut self) {
        self.reader = None;
    }
}

/// Where stored rows come from: a reader that is opened when the first one is asked for.
pub(super) struct RowSource<'a> {
    pub backend: &'a Backend,
    pub reader: &'a mut Option<Reader>,
}

impl RowSource<'_> {
    fn reader(&mut self) -> Result<&mut Reader, Fault> {
        if self.reader.is_none() {
            *self.reader = Some(self.backend.reader()?);
        }
        Ok(self.reader.as_mut().expect("just opened"))
    }

    fn stored_ref(&mut self, revision: Revision) -> Result<&[u8], Fault> {
        match self.reader()?.get(Table::Row, &revision.to_key())? {
            Some(row) => Ok(row),
            None => Err(missing(revision)),
        }
    }

    fn stored_len(&mut self, revision: Revision) -> Result<usize, Fault> {
        self.reader()?.value_len(Table::Row, &revision.to_key())?.ok_or_else(|| missing(revision))
    }

    pub fn stored(&mut self, revision: Revision) -> Result<Bytes, Fault> {
        self.stored_ref(revision).map(Bytes::copy_from_slice)
    }
}

fn missing(revision: Revision) -> Fault {
    Fault::new(format!(
        "the checkpoint lacks revision {}/{}, which the index names. Put back a copy of the data directory, or in a cluster \
         remove this member, delete its data directory and add it again.",
        revision.main, revision.sub
    ))
}

/// Outer: the answer to the client. Inner: a broken store.
pub type Answer<T> = Result<Result<T, Error>, Fault>;

impl Store {
    /// Answers a range, at the revision asked for or the current one.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision` or `InvalidSortOption` to the client; a fault if the checkpoint cannot be read.
    pub fn range(&self, request: &RangeRequest) -> Answer<RangeAnswer> {
        let state = self.state();
        let mut reader = None;
        let at = match state.readable(request.revision, state.current) {
            Ok(at) => at,
            Err(error) => return Ok(Err(error)),
        };
        let chosen = match choose(&state, request, at, &mut RowSource { backend: self.backend(), reader: &mut reader })? {
            Ok(chosen) => chosen,
            Err(error) => return Ok(Err(error)),
        };
        // While the lock is held, a row that is not recent is in the checkpoint, and a reader opened now sees it there.
        if reader.is_none() && chosen.rows.iter().any(|row| matches!(row, Chosen::Stored(_))) {
            reader = Some(self.backend().reader()?);
        }
        let pin = (chosen.rows.len() > 1).then(|| self.pin(at));
        Ok(Ok(RangeAnswer {
            revision: state.current,
            count: chosen.count,
            more: chosen.more,
            rows: Rows {
                chosen: chosen.rows.into_iter(),
                backend: self.backend().clone(),
                reader,
                keys_only: request.keys_only,
                _pin: pin,
            },
        }))
    }
}

impl State {
    /// The main revision to read at; `current` is the newest one the reader may see.
    pub fn readable(&self, asked: i64, current: i64) -> Result<i64, Error> {
        if asked > current {
            Err(Error::FutureRevision)
        } else if asked <= 0 {
            Ok(current)
        } else if asked < self.compacted {
            Err(Error::Compacted)
        } else {
            Ok(asked)
        }
    }
}

struct Choice {
    rows: Vec<Chosen>,
    count: i64,
    more: bool,
}

/// The rows of a range inside a transaction, read out at once: the lock is the writer's, and the writes go on.
pub(super) fn range_now(
    state: &State,
    request: &RangeRequest,
    at: i64,
    source: &mut RowSource<'_>,
) -> Answer<(Vec<Bytes>, i64, bool)> {
    let chosen = match choose(state, request, at, source)? {
        Ok(chosen) => chosen,
        Err(error) => return Ok(Err(error)),
    };
    let mut rows = Vec::with_capacity(chosen.rows.len());
    for row in chosen.rows {
        rows.push(match row {
            Chosen::Here(row) => row,
            Chosen::Stored(revision) if request.keys_only => without_value(source.stored_ref(revision)?),
            Chosen::Stored(revision) => source.stored(revision)?,
        });
    }
    Ok(Ok((rows, chosen.count, chosen.more)))
}

fn choose(state: &State, request: &RangeRequest, at: i64, source: &mut RowSource<'_>) -> Answer<Choice> {
    let (Ok(order), Ok(target)) = (SortOrder::try_from(request.sort_order), SortTarget::try_from(request.sort_target)) else {
        return Ok(Err(Error::InvalidSortOption));
    };
    let range = KeyRange::new(&request.key, &request.range_end);
    if request.count_only {
        let count = state.keys(&range).filter(|(_, index)| index.at(at).is_some()).count();
        return Ok(Ok(Choice { rows: Vec::new(), count: as_count(count), more: false }));
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let filter = Filter::of(request);
    // An explicit order or a filter wants every row before the limit cuts. Without them the limit bounds what is looked at, one
    // row more telling whether there is more; so it does, as in etcd, when only a sort target was given.
    let fetch =
        if order == SortOrder::None && filter.is_none() { limit.map_or(usize::MAX, |limit| limit + 1) } else { usize::MAX };
    let mut count = 0;
    let mut found = Vec::new();
    for (key, index) in state.keys(&range) {
        if let Some(revision) = index.at(at) {
            count += 1;
            if found.len() < fetch {
                found.push((key, index, revision));
            }
        }
    }
    let sorted = target != SortTarget::Key || order == SortOrder::Descend;
    let (mut rows, available) = if filter.is_none() && !sorted {
        let few = limit.unwrap_or(usize::MAX).min(found.len());
        let rows =
            found[..few].iter().map(|(key, index, revision)| pick(state, request.keys_only, key, index, *revision)).collect();
        (rows, found.len())
    } else {
        let mut rows = Vec::with_capacity(found.len());
        for (_, _, revision) in &found {
            let row = state.row(*revision, source)?;
            if filter.as_ref().is_none_or(|filter| filter.passes(&head(&row))) {
                rows.push(row);
            }
        }
        sort(&mut rows, order, target);
        let available = rows.len();
        let strip = request.keys_only;
        let chosen = rows.into_iter().map(|row| Chosen::Here(if strip { keys_only_row(&row, target) } else { row }));
        (chosen.collect::<Vec<_>>(), available)
    };
    rows.truncate(limit.unwrap_or(usize::MAX));
    Ok(Ok(Choice { rows, count: as_count(count), more: limit.is_some_and(|limit| available > limit) }))
}

fn as_count(count: usize) -> i64 {
    i64::try_from(count).expect("fewer keys than memory has bytes")
}

fn pick(state: &State, keys_only: bool, key: &[u8], index: &KeyIndex, revision: Revision) -> Chosen {
    if keys_only
        && let Some(live) = index.live()
        && live.revision == revision
    {
        let (create_revision, mod_revision, version) = (live.create_revision, revision.main, live.version);
        return Chosen::Here(encode_row(&RowHead { key, create_revision, mod_revision, version, ..RowHead::default() }));
    }
    match state.recent.get(revision) {
        Some(row) if keys_only => Chosen::Here(without_value(row)),
        Some(row) => Chosen::Here(row.clone()),
        None => Chosen::Stored(revision),
    }
}

/// `keys_only` answers come from the index in etcd, which knows no leases.
fn without_value(row: &[u8]) -> Bytes {
    encode_row(&RowHead { value: b"", lease: 0, ..head(row) })
}

/// But for a sort by value etcd reads the rows, and their leases are told.
fn keys_only_row(row: &[u8], target: SortTarget) -> Bytes {
    match target {
        SortTarget::Value => encode_row(&RowHead { value: b"", ..head(row) }),
        _ => without_value(row),
    }
}

pub(super) fn head(row: &[u8]) -> RowHead<'_> {
    RowHead::parse(row).expect("rows are checked when they are written and when they are loaded")
}

/// Bounds on a row's revisions; 0 is no bound.
struct Filter {
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Filter {
    fn of(request: &RangeRequest) -> Option<Filter> {
        let filter = Filter {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        };
        let idle = [filter.min_mod, filter.max_mod, filter.min_create, filter.max_create] == [0; 4];
        (!idle).then_some(filter)
    }

    fn passes(&self, row: &RowHead<'_>) -> bool {
        (self.min_mod == 0 || row.mod_revision >= self.min_mod)
            && (self.max_mod == 0 || row.mod_revision <= self.max_mod)
            && (self.min_create == 0 || row.create_revision >= self.min_create)
            && (self.max_create == 0 || row.create_revision <= self.max_create)
    }
}

/// Sorts stably, so that equal rows stay in key order. `order` None means ascending for every target but the key.
fn sort(rows: &mut [Bytes], order: SortOrder, target: SortTarget) {
    let descend = order == SortOrder::Descend;
    let by_number = |rows: &mut [Bytes], number: fn(&RowHead<'_>) -> i64| match descend {
        false => rows.sort_by_key(|row| number(&head(row))),
        true => rows.sort_by_key(|row| Reverse(number(&head(row)))),
    };
    match target {
        SortTarget::Key if descend => rows.reverse(),
        SortTarget::Key => {}
        SortTarget::Version => by_number(rows, |row| row.version),
        SortTarget::Create => by_number(rows, |row| row.create_revision),
        SortTarget::Mod => by_number(rows, |row| row.mod_revision),
        SortTarget::Value if descend => rows.sort_by(|a, b| head(b).value.cmp(head(a).value)),
        SortTarget::Value => rows.sort_by(|a, b| head(a).value.cmp(head(b).value)),
    }
}
