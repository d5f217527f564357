//! What the store holds in memory, and the one-row steps that every read and write is made of. No locks here.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::key_index::{KeyIndex, Live};
use super::key_range::KeyRange;
use super::recent::Recent;
use super::row::{RowHead, encode_row, key_in_row};
use super::{Revision, read::RowSource};
use crate::error::Fault;

/// The index, the recent rows and the two revisions that bound history.
pub(super) struct State {
    pub index: BTreeMap<Box<[u8]>, KeyIndex>,
    pub recent: Recent,
    /// The newest main revision.
    pub current: i64,
    /// Reads below it are refused; -1 before the first compaction.
    pub compacted: i64,
    /// How far the index has been pruned for `compacted`.
    pub pruning: Pruning,
    /// What the walk under way has taken out of the index, step by step.
    pub pruned: Vec<Vec<Revision>>,
    /// What walks have taken out of the index and checkpoints have still to remove, the oldest walk first.
    pub garbage: VecDeque<Garbage>,
    /// Keys that exist now.
    pub live_keys: usize,
    /// `current` and `compacted` as the checkpoint has them; none before the first.
    pub checkpointed: Option<(i64, i64)>,
}

/// Pruning walks the index in steps, so that nobody waits for a whole walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pruning {
    /// The index holds nothing below the compacted revision.
    Done,
    /// Keys before this one are done.
    From(Box<[u8]>),
    /// All keys are done, and what was taken out is not yet among the garbage.
    Walked,
}

/// Revisions that one walk took out of the index and that still have rows.
///
/// They are in their own order, because that is the order of rows on disk: those of a page go together, and the page is written once.
/// In the order of keys each would be on another page. It also removes a key's rows oldest first: were a deletion removed before a put
/// that is older, and the process died between, the put would be a key that exists again.
pub(super) struct Garbage {
    /// The compaction that the walk was for.
    pub compacted: i64,
    revisions: Vec<Revision>,
    /// So many of them have been removed.
    removed: usize,
}

impl Garbage {
    /// Of a walk's steps. Sorts: not for a hold of the store.
    pub fn of(compacted: i64, pruned: Vec<Vec<Revision>>) -> Garbage {
        let mut revisions = Vec::with_capacity(pruned.iter().map(Vec::len).sum());
        pruned.into_iter().for_each(|step| revisions.extend(step));
        revisions.sort_unstable();
        Garbage { compacted, revisions, removed: 0 }
    }

    /// What has still to be removed.
    pub fn left(&self) -> &[Revision] {
        &self.revisions[self.removed..]
    }
}

/// What a write did to one key.
#[derive(Debug)]
pub struct Change {
    /// Where the new row stands.
    pub revision: Revision,
    /// The key, a slice of `row`.
    pub key: Bytes,
    /// The new row; a tombstone for a deletion.
    pub row: Bytes,
    /// The lease the key now hangs on; 0 for none or a deletion.
    pub lease: i64,
    /// Whether the key was deleted.
    pub deleted: bool,
    /// Where the row stands that the transaction found, if the key existed then. None for a put that creates its key.
    pub prev: Option<Revision>,
}

impl State {
    pub fn new() -> State {
        State {
            index: BTreeMap::new(),
            recent: Recent::default(),
            current: 1,
            compacted: -1,
            pruning: Pruning::Done,
            pruned: Vec::new(),
            garbage: VecDeque::new(),
            live_keys: 0,
            checkpointed: None,
        }
    }

    /// Keys of a range with their index, in key order.
    pub fn keys<'s>(&'s self, range: &KeyRange<'_>) -> impl Iterator<Item = (&'s [u8], &'s KeyIndex)> + use<'s> {
        let (one, many) = match range {
            KeyRange::One(key) => (self.index.get_key_value(*key), None),
            range if range.is_empty() => (None, None),
            range => (None, Some(self.index.range::<[u8], _>(range.bounds()))),
        };
        one.into_iter().chain(many.into_iter().flatten()).map(|(key, index)| (&key[..], index))
    }

    /// The key as it is now.
    pub fn live(&self, key: &[u8]) -> Option<Live> {
        self.index.get(key).and_then(KeyIndex::live)
    }

    /// The row at a revision that the index names.
    pub fn row(&self, revision: Revision, source: &mut RowSource<'_>) -> Result<Bytes, Fault> {
        match self.recent.get(revision) {
            Some(row) => Ok(row.clone()),
            None => source.stored(revision),
        }
    }

    /// Writes `key` at `revision`.
    pub fn put(&mut self, revision: Revision, key: &[u8], value: &[u8], lease: i64) -> Change {
        // One search of the index, new key or not: a search costs many times what a copy of the key does.
        let known = self.index.entry(key.into());
        let index = match &known {
            Entry::Occupied(known) => Some(known.get()),
            Entry::Vacant(_) => None,
        };
        let live = index.and_then(KeyIndex::live);
        // A key that its transaction has deleted first is created anew, with nothing before.
        let prev = index.filter(|_| live.is_some()).and_then(|index| index.before(revision.main));
        let (create_revision, version) = live.map_or((revision.main, 1), |live| (live.create_revision, live.version + 1));
        match known {
            Entry::Occupied(mut known) => known.get_mut().put(revision, create_revision, version),
            Entry::Vacant(new) => {
                new.insert(KeyIndex::of_put(revision, create_revision, version));
            }
        }
        self.live_keys += usize::from(live.is_none());
        let row = encode_row(&RowHead { key, create_revision, mod_revision: revision.main, version, value, lease });
        self.recent.push(revision, row.clone());
        Change { revision, key: key_of(&row, key), row, lease, deleted: false, prev }
    }

    /// Deletes `key`, which must exist, at `revision`.
    pub fn delete(&mut self, revision: Revision, key: &[u8]) -> Change {
        let index = self.index.get_mut(key).expect("only a key that exists is deleted");
        assert!(index.live().is_some(), "only a key that exists is deleted");
        let prev = index.before(revision.main);
        index.delete(revision);
        self.live_keys -= 1;
        let row = encode_row(&RowHead { key, ..RowHead::default() });
        self.recent.push(revision, row.clone());
        Change { revision, key: key_of(&row, key), row, lease: 0, deleted: true, prev }
    }

    /// Adds a row read back from the checkpoint. Rows come in revision order.
    pub fn load(&mut self, revision: Revision, head: &RowHead<'_>) {
        let known = self.index.entry(head.key.into());
        let existed = matches!(&known, Entry::Occupied(known) if known.get().live().is_some());
        match (known, head.is_tombstone()) {
            (Entry::Occupied(mut known), true) => known.get_mut().delete(revision),
            (Entry::Occupied(mut known), false) => known.get_mut().put(revision, head.create_revision, head.version),
            (Entry::Vacant(new), true) => {
                new.insert(KeyIndex::of_tombstone(revision));
            }
            (Entry::Vacant(new), false) => {
                new.insert(KeyIndex::of_put(revision, head.create_revision, head.version));
            }
        }
        self.live_keys = self.live_keys + usize::from(!head.is_tombstone()) - usize::from(existed);
        self.current = self.current.max(revision.main);
    }

    /// Walks on over `limit` keys, or until as many revisions are taken out. Returns whether the walk is over: what it has taken out
    /// is then to be [`State::dispose`]d of.
    pub fn prune(&mut self, limit: usize) -> bool {
        let Pruning::From(from) = &self.pruning else { return true };
        let (mut dropped, mut empty) = (Vec::new(), Vec::new());
        let mut walk = self.index.range_mut::<[u8], _>((std::ops::Bound::Included(&from[..]), std::ops::Bound::Unbounded));
        for (key, index) in walk.by_ref().take(limit) {
            if !index.compact(self.compacted, &mut dropped) {
                empty.push(key.clone());
            }
            if dropped.len() >= limit {
                break;
            }
        }
        self.pruning = walk.next().map_or(Pruning::Walked, |(key, _)| Pruning::From(key.clone()));
        for key in empty {
            self.index.remove(&key);
        }
        if !dropped.is_empty() {
            self.pruned.push(dropped);
        }
        self.pruning == Pruning::Walked
    }

    /// Takes in what a walk has taken out. The next walk may have begun meanwhile.
    pub fn dispose(&mut self, garbage: Garbage) {
        if !garbage.left().is_empty() {
            self.garbage.push_back(garbage);
        }
        if self.pruning == Pruning::Walked {
            self.pruning = Pruning::Done;
        }
    }

    /// Forgets the first so many revisions of the garbage: checkpoints have removed them. Those of whole walks are returned, to be
    /// freed where nobody waits for it.
    #[must_use]
    pub fn scrub(&mut self, mut removed: usize) -> Vec<Garbage> {
        let mut whole = Vec::new();
        while let Some(garbage) = self.garbage.front_mut().filter(|_| removed > 0) {
            let taken = removed.min(garbage.left().len());
            garbage.removed += taken;
            removed -= taken;
            if garbage.left().is_empty() {
                whole.extend(self.garbage.pop_front());
            }
        }
        whole
    }
}

/// The slice of a row that is its key.
fn key_of(row: &Bytes, key: &[u8]) -> Bytes {
    row.slice(key_in_row(key))
}
