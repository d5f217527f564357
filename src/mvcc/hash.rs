//! HashKV: a checksum of history that is equal on every member, and equal to etcd's for the same revisions.
//!
//! CRC-32C over the three bytes `key`, then over each row that counts, in revision order: the key that etcd's file has for it,
//! then its encoded `KeyValue`. That key is `main` and `sub`, eight bytes big-endian each with `_` between, and a `t` behind that
//! of a deletion. With C the compacted revision and R the one asked for, a row at `main` counts if C < main <= R, or if it is
//! what a read at R sees. A deletion at C does not count. If a read at R sees no key at all, rows at or below C count if a
//! read at C sees them: etcd then counts whatever it has not removed, and this is what is left when it has removed its fill.
//!
//! For the last ten revisions that it was asked to compact to, etcd answers from a cache with the hash made under the
//! compaction before. Restarted, it answers as we do.

use crc32c::crc32c_append;

use super::Revision;
use super::key_index::KeyIndex;
use super::read::Answer;
use super::row::RowHead;
use super::state::State;
use super::store::{Store, sound_row};
use crate::backend::Table;
use crate::error::{Error, Fault};

/// Rows hashed per hold of the lock.
const STEP_ROWS: usize = 1000;

/// A hash and what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The checksum.
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
    /// `Compacted`, also if that happens meanwhile, or `FutureRevision` to the client; a fault if the checkpoint cannot be read.
    pub fn hash_kv(&self, revision: i64) -> Answer<HashKv> {
        let state = self.state();
        let (compacted, current) = (state.compacted, state.current);
        if revision > 0 && revision < compacted {
            return Ok(Err(Error::Compacted));
        }
        if revision > current {
            return Ok(Err(Error::FutureRevision));
        }
        let upto = if revision == 0 { current } else { revision };
        // What counts is there now and above what later compactions may remove, once this is pinned.
        let _pin = self.pin(compacted);
        let keep_all = state.index.values().all(|index| index.at(upto).is_none());
        drop(state);
        let mut hasher = Hasher { hash: crc32c_append(0, b"key"), compacted, upto, keep_all };
        // Nothing is older than a negative revision, which etcd lets pass.
        let mut from = (upto > 0).then(Revision::default);
        while let Some(at) = from {
            let state = self.state();
            // The index has forgotten what counts below, or is about to.
            if state.compacted > upto || (keep_all && state.compacted > compacted) {
                return Ok(Err(Error::Compacted));
            }
            from = hasher.step(self, &state, at)?;
        }
        Ok(Ok(HashKv { hash: hasher.hash, compact_revision: compacted, revision: upto, current }))
    }
}

struct Hasher {
    hash: u32,
    compacted: i64,
    upto: i64,
    /// No key exists at `upto`.
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
                let (revision, head) = sound_row(key, row)?;
                if boundary.is_some_and(|boundary| revision >= boundary) {
                    return Ok(false);
                }
                if rows == STEP_ROWS {
                    next = Some(revision);
                    return Ok(false);
                }
                rows += 1;
                self.add(state, revision, &head, row);
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
            self.add(state, revision, &super::read::head(row), row);
        }
        Ok(next.filter(|next| next.main <= self.upto))
    }

    fn add(&mut self, state: &State, revision: Revision, head: &RowHead<'_>, row: &[u8]) {
        let tombstone = head.is_tombstone();
        if revision.main > self.upto || !self.counts(state.index.get(head.key), revision) {
            return;
        }
        let mut key = [0; 18];
        key[..8].copy_from_slice(&revision.main.to_be_bytes());
        key[8] = b'_';
        key[9..17].copy_from_slice(&i64::from(revision.sub).to_be_bytes());
        key[17] = b't';
        let key = if tombstone { &key[..] } else { &key[..17] };
        self.hash = crc32c_append(crc32c_append(self.hash, key), row);
    }

    /// Whether a row is part of the history that every member has, however far its scrubbing has come. At or below the compacted
    /// revision those are what a read sees, and no read sees a deletion.
    fn counts(&self, index: Option<&KeyIndex>, revision: Revision) -> bool {
        if revision.main > self.compacted {
            return true;
        }
        let seen_at = if self.keep_all { self.compacted } else { self.upto };
        index.is_some_and(|index| index.at(seen_at) == Some(revision))
    }
}
