//! HashKV: a checksum of history that is equal on every member, and equal to etcd's for the same revisions.

use crc32c::crc32c_append;

use super::Revision;
use super::key_index::KeyIndex;
use super::read::{Answer, head};
use super::state::State;
use super::store::Store;
use crate::backend::Table;
use crate::error::{Error, Fault};

/// Rows hashed per hold of the lock.
const STEP_ROWS: usize = 1000;

/// A hash and what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C of all rows up to `revision` that compaction has not taken, keys first.
    pub hash: u32,
    /// The compacted revision it was made under.
    pub compact_revision: i64,
    /// The newest revision in it.
    pub revision: i64,
    /// The store's current revision.
    pub current: i64,
}

impl Store {
    /// Hashes history up to `revision`; 0 for the current one. Runs in short steps: nobody waits for all of it.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` to the client; a fault if the checkpoint cannot be read.
    pub fn hash_kv(&self, revision: i64) -> Answer<HashKv> {
        let (compacted, current) = {
            let state = self.state();
            (state.compacted, state.current)
        };
        if revision > 0 && revision < compacted {
            return Ok(Err(Error::Compacted));
        }
        if revision > current {
            return Ok(Err(Error::FutureRevision));
        }
        let upto = if revision <= 0 { current } else { revision };
        let _pin = self.pin(upto);
        let keep_all = self.state().index.values().all(|index| index.at(upto).is_none());
        // etcd's hasher begins with the name of its bucket.
        let mut hasher = Hasher { hash: crc32c_append(0, b"key"), compacted, upto, keep_all };
        let mut from = Revision::default();
        loop {
            let state = self.state();
            if state.compacted > upto {
                return Ok(Err(Error::Compacted));
            }
            match hasher.step(self, &state, from)? {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(Ok(HashKv { hash: hasher.hash, compact_revision: compacted, revision: upto, current }))
    }
}

struct Hasher {
    hash: u32,
    compacted: i64,
    upto: i64,
    /// No key exists at `upto`: etcd then drops nothing below the compacted revision.
    keep_all: bool,
}

impl Hasher {
    /// Hashes some rows from `from` on; returns where to go on.
    fn step(&mut self, store: &Store, state: &State, from: Revision) -> Result<Option<Revision>, Fault> {
        let (mut rows, mut next) = (0, None);
        if !state.recent.covers(from) {
            let boundary = state.recent.from(Revision::default()).next().map(|(first, _)| first);
            next = boundary;
            store.backend().reader()?.scan(Table::Row, &from.to_key(), |key, row| {
                let revision =
                    Revision::from_key(key).ok_or_else(|| Fault::new("the checkpoint holds a row that is none of ours"))?;
                if boundary.is_some_and(|boundary| revision >= boundary) {
                    return Ok(false);
                }
                if rows == STEP_ROWS {
                    next = Some(revision);
                    return Ok(false);
                }
                rows += 1;
                self.add(state, revision, row);
                Ok(true)
            })?;
            return Ok(next.filter(|next| next.main <= self.upto));
        }
        for (revision, row) in state.recent.from(from) {
            if rows == STEP_ROWS {
                next = Some(revision);
                break;
            }
            rows += 1;
            self.add(state, revision, row);
        }
        Ok(next.filter(|next| next.main <= self.upto))
    }

    fn add(&mut self, state: &State, revision: Revision, row: &[u8]) {
        let head = head(row);
        let tombstone = head.is_tombstone();
        if revision.main > self.upto || !self.counts(state.index.get(head.key), revision, tombstone) {
            return;
        }
        // The key as etcd's file holds it: two big-endian numbers, an underscore between, a `t` behind a deletion's.
        let mut key = [0; 18];
        key[..8].copy_from_slice(&revision.main.to_be_bytes());
        key[8] = b'_';
        key[9..17].copy_from_slice(&i64::from(revision.sub).to_be_bytes());
        key[17] = b't';
        let key = if tombstone { &key[..] } else { &key[..17] };
        self.hash = crc32c_append(crc32c_append(self.hash, key), row);
    }

    /// Whether a row is part of the history that every member has, however far its scrubbing has come.
    fn counts(&self, index: Option<&KeyIndex>, revision: Revision, tombstone: bool) -> bool {
        if revision.main > self.compacted {
            return true;
        }
        if tombstone && revision.main == self.compacted {
            return false;
        }
        let Some(index) = index else { return false };
        if self.keep_all {
            return index.at(self.compacted) == Some(revision);
        }
        index.at(self.upto) == Some(revision)
    }
}
