//! Ranges: choosing rows under the lock, and handing them out afterwards.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::Revision;
use super::key_index::{KeyIndex, Live};
use super::key_range::KeyRange;
use super::row::{RowHead, encode_row};
use super::state::State;
use super::store::{Pin, Store};
use crate::backend::{Backend, Reader, Table};
use crate::error::{Error, Fault};
use crate::metrics;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use crate::pb::mvccpb::KeyValue;

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
    /// Here already: recent, or made for `keys_only`.
    Here(Bytes),
    /// In the checkpoint.
    Stored(Revision),
}

/// How much of a row the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// `keys_only`. Such answers come from the index in etcd, which knows no leases.
    Head,
    /// `keys_only` sorted by value: etcd reads the rows then, and their leases are told.
    HeadAndLease,
}

impl Part {
    fn of(request: &RangeRequest, target: SortTarget) -> Part {
        match (request.keys_only, target) {
            (false, _) => Part::Whole,
            (true, SortTarget::Value) => Part::HeadAndLease,
            (true, _) => Part::Head,
        }
    }

    /// The part of `row`; none if it is the whole row.
    fn cut(self, row: &[u8]) -> Option<Bytes> {
        match self {
            Part::Whole => None,
            Part::Head => Some(encode_row(&RowHead { value: b"", lease: 0, ..head(row) })),
            Part::HeadAndLease => Some(encode_row(&RowHead { value: b"", ..head(row) })),
        }
    }
}

/// The rows of an answer. They stay readable as long as this lives, whatever is compacted meanwhile; no lock and, after
/// [`Rows::park`], no read transaction is held.
pub struct Rows {
    /// Apart from the others, so that the answer for one key needs no list.
    first: Option<Chosen>,
    rest: std::vec::IntoIter<Chosen>,
    part: Part,
    backend: Arc<Backend>,
    reader: Option<Reader>,
    _pin: Option<Pin>,
}

impl Rows {
    /// Rows left.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` with row after row until it returns false or none is left. The row it returned false for is taken too.
    ///
    /// # Errors
    /// A fault if the checkpoint cannot be read.
    pub fn take_while(&mut self, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), Fault> {
        let mut source = RowSource { backend: &self.backend, reader: &mut self.reader };
        for chosen in self.first.take().into_iter().chain(self.rest.by_ref()) {
            let go_on = match chosen {
                Chosen::Here(row) => each(&row),
                Chosen::Stored(revision) => {
                    let row = source.stored_ref(revision)?;
                    let part = self.part.cut(row);
                    each(part.as_deref().unwrap_or(row))
                }
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
        for chosen in self.first.iter().chain(self.rest.as_slice()) {
            each(match chosen {
                Chosen::Here(row) => row.len(),
                Chosen::Stored(revision) if self.part == Part::Whole => source.stored_len(*revision)?,
                Chosen::Stored(revision) => self.part.cut(source.stored_ref(*revision)?).map_or(0, |part| part.len()),
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
        metrics::MVCC_RANGES.inc();
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
        let stored = chosen.iter().any(|row| matches!(row, Chosen::Stored(_)));
        // While the lock is held, a row that is not recent is in the checkpoint: a reader opened now sees it there, and the pin
        // keeps it there for readers opened later.
        if !stored {
            reader = None;
        } else if reader.is_none() {
            reader = Some(self.backend().reader()?);
        }
        let rows = Rows {
            first: chosen.first,
            rest: chosen.rest.into_iter(),
            part: chosen.part,
            backend: self.backend().clone(),
            reader,
            _pin: stored.then(|| self.pin(at)),
        };
        Ok(Ok(RangeAnswer { revision: state.current, count: as_count(chosen.count), more: chosen.more, rows }))
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
    first: Option<Chosen>,
    rest: Vec<Chosen>,
    part: Part,
    count: usize,
    more: bool,
}

impl Choice {
    fn iter(&self) -> impl Iterator<Item = &Chosen> {
        self.first.iter().chain(&self.rest)
    }
}

/// A range inside a transaction, answered at once: the lock is the transaction's. `revision` is the newest one that it sees.
pub(super) fn range_now(
    state: &State,
    request: &RangeRequest,
    revision: i64,
    source: &mut RowSource<'_>,
) -> Answer<RangeResponse> {
    let at = match state.readable(request.revision, revision) {
        Ok(at) => at,
        Err(error) => return Ok(Err(error)),
    };
    let chosen = match choose(state, request, at, source)? {
        Ok(chosen) => chosen,
        Err(error) => return Ok(Err(error)),
    };
    let mut kvs = Vec::with_capacity(chosen.rest.len() + 1);
    for row in chosen.iter() {
        kvs.push(key_value(match row {
            Chosen::Here(row) => row.clone(),
            Chosen::Stored(revision) => {
                let row = source.stored_ref(*revision)?;
                chosen.part.cut(row).unwrap_or_else(|| Bytes::copy_from_slice(row))
            }
        }));
    }
    Ok(Ok(RangeResponse { header: revision_header(revision), kvs, more: chosen.more, count: as_count(chosen.count) }))
}

/// The header of an operation's response inside a transaction: the revision alone.
pub(super) fn revision_header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

/// A row as the message it encodes.
pub(super) fn key_value(row: Bytes) -> KeyValue {
    KeyValue::decode(row).expect("rows are encoded KeyValues")
}

fn as_count(count: usize) -> i64 {
    i64::try_from(count).expect("fewer keys than memory has bytes")
}

/// A key of the range that exists at the revision asked for, and where its row stands.
#[derive(Clone, Copy)]
struct Found<'s> {
    key: &'s [u8],
    index: &'s KeyIndex,
    revision: Revision,
}

fn choose(state: &State, request: &RangeRequest, at: i64, source: &mut RowSource<'_>) -> Answer<Choice> {
    let (Ok(order), Ok(target)) = (SortOrder::try_from(request.sort_order), SortTarget::try_from(request.sort_target)) else {
        return Ok(Err(Error::InvalidSortOption));
    };
    let range = KeyRange::new(&request.key, &request.range_end);
    let mut choice = Choice { first: None, rest: Vec::new(), part: Part::of(request, target), count: 0, more: false };
    let mut found = state.keys(&range).filter_map(|(key, index)| Some(Found { key, index, revision: index.at(at)? }));
    if request.count_only {
        choice.count = found.count();
        return Ok(Ok(choice));
    }
    let filter = Filter::of(request);
    if let KeyRange::One(_) = range {
        if let Some(found) = found.next() {
            choice.count = 1;
            choice.first = if filter.passes(state, &found, source)? { Some(pick(state, choice.part, &found)) } else { None };
        }
        return Ok(Ok(choice));
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    // Rows that come in the order asked for are needed up to the limit, and one more to tell that there are more. So it is, as in
    // etcd, when a sort target was given without an order and no filter; any other sort needs all before the limit cuts.
    let sorted = target != SortTarget::Key || order == SortOrder::Descend;
    let cut_first = !sorted || (order == SortOrder::None && filter.is_idle());
    let needed = limit.filter(|_| cut_first).map_or(usize::MAX, |limit| limit.saturating_add(1));
    let mut wanted = Vec::new();
    for found in found {
        choice.count += 1;
        if wanted.len() < needed && filter.passes(state, &found, source)? {
            wanted.push(found);
        }
    }
    if sorted {
        sort(state, &mut wanted, order, target, source)?;
    }
    if let Some(limit) = limit {
        choice.more = wanted.len() > limit;
        wanted.truncate(limit);
    }
    choice.rest = wanted.iter().map(|found| pick(state, choice.part, found)).collect();
    Ok(Ok(choice))
}

fn pick(state: &State, part: Part, found: &Found<'_>) -> Chosen {
    if part == Part::Head
        && let Some(known) = found.index.describe(found.revision)
    {
        return Chosen::Here(encode_row(&RowHead {
            key: found.key,
            create_revision: known.create_revision,
            mod_revision: found.revision.main,
            version: known.version,
            ..RowHead::default()
        }));
    }
    match state.recent.get(found.revision) {
        Some(row) => Chosen::Here(part.cut(row).unwrap_or_else(|| row.clone())),
        None => Chosen::Stored(found.revision),
    }
}

/// `create_revision` and `version` of a row: of the newest generation from the index, of older ones from the row itself.
fn describe(state: &State, found: &Found<'_>, source: &mut RowSource<'_>) -> Result<Live, Fault> {
    if let Some(known) = found.index.describe(found.revision) {
        return Ok(known);
    }
    let head = match state.recent.get(found.revision) {
        Some(row) => head(row),
        None => head(source.stored_ref(found.revision)?),
    };
    Ok(Live { revision: found.revision, create_revision: head.create_revision, version: head.version })
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
    fn of(request: &RangeRequest) -> Filter {
        Filter {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        }
    }

    fn is_idle(&self) -> bool {
        [self.min_mod, self.max_mod, self.min_create, self.max_create] == [0; 4]
    }

    fn passes(&self, state: &State, found: &Found<'_>, source: &mut RowSource<'_>) -> Result<bool, Fault> {
        let within = |number: i64, min: i64, max: i64| (min == 0 || number >= min) && (max == 0 || number <= max);
        if !within(found.revision.main, self.min_mod, self.max_mod) {
            return Ok(false);
        }
        let idle = self.min_create == 0 && self.max_create == 0;
        Ok(idle || within(describe(state, found, source)?.create_revision, self.min_create, self.max_create))
    }
}

/// Sorts stably, so that equal rows stay in key order. `order` None means ascending for every target but the key.
fn sort(
    state: &State,
    found: &mut Vec<Found<'_>>,
    order: SortOrder,
    target: SortTarget,
    source: &mut RowSource<'_>,
) -> Result<(), Fault> {
    let descend = order == SortOrder::Descend;
    match target {
        SortTarget::Key => {
            if descend {
                found.reverse();
            }
            Ok(())
        }
        SortTarget::Mod => sort_by(found, descend, |found| Ok(found.revision.main)),
        SortTarget::Create => sort_by(found, descend, |found| Ok(describe(state, found, source)?.create_revision)),
        SortTarget::Version => sort_by(found, descend, |found| Ok(describe(state, found, source)?.version)),
        SortTarget::Value => sort_by(found, descend, |found| {
            let row = state.row(found.revision, source)?;
            Ok(row.slice_ref(head(&row).value))
        }),
    }
}

fn sort_by<'s, K: Ord>(
    found: &mut Vec<Found<'s>>,
    descend: bool,
    mut rank: impl FnMut(&Found<'s>) -> Result<K, Fault>,
) -> Result<(), Fault> {
    let mut ranked = Vec::with_capacity(found.len());
    for found in found.iter() {
        ranked.push((rank(found)?, *found));
    }
    ranked.sort_by(|(a, _), (b, _)| if descend { b.cmp(a) } else { a.cmp(b) });
    found.clear();
    found.extend(ranked.into_iter().map(|(_, found)| found));
    Ok(())
}
