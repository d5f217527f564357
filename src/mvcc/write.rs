//! Writes: one hold of the store for a batch of transactions, each of which is one main revision.

use std::sync::{Arc, OnceLock, RwLockWriteGuard};

use bytes::Bytes;

use super::event::{Event, EventKind, Prev};
use super::key_range::KeyRange;
use super::read::{Answer, RowSource, head, key_value, range_now, revision_header};
use super::row::encode_delete;
use super::state::{Change, Pruning, State};
use super::{Revision, txn};
use crate::backend::{Backend, Reader};
use crate::error::Error;
use crate::metrics;
use crate::pb::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

/// The exclusive hold of the store. Dropping it lets readers in.
pub struct Batch<'s> {
    state: RwLockWriteGuard<'s, State>,
    backend: &'s Backend,
    reader: Option<Reader>,
}

/// A response, and what was changed to earn it. No changes: no new revision.
#[derive(Debug)]
pub struct Written<R> {
    /// What the client gets; the header holds the revision only.
    pub response: R,
    /// In `sub` order.
    pub changes: Vec<Change>,
}

/// Whether a lease exists. The lessor is another room's.
pub type LeaseExists<'a> = &'a dyn Fn(i64) -> bool;

impl<'s> Batch<'s> {
    pub(super) fn new(state: RwLockWriteGuard<'s, State>, backend: &'s Backend) -> Batch<'s> {
        Batch { state, backend, reader: None }
    }

    /// The newest main revision.
    pub fn current(&self) -> i64 {
        self.state.current
    }

    /// Puts one key.
    ///
    /// # Errors
    /// `LeaseNotFound` or `KeyNotFound` to the client; a fault if the checkpoint cannot be read.
    pub fn put(&mut self, request: &PutRequest, lease_exists: LeaseExists<'_>) -> Answer<Written<PutResponse>> {
        if let Err(error) = txn::check_put(&self.state, request, lease_exists) {
            return Ok(Err(error));
        }
        self.transaction(|tx| tx.put(request))
    }

    /// Deletes the keys of a range that exist.
    ///
    /// # Errors
    /// A fault if the checkpoint cannot be read.
    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> Answer<Written<DeleteRangeResponse>> {
        self.transaction(|tx| tx.delete_range(request))
    }

    /// Deletes these keys, those that exist, in the order given and in one revision.
    pub fn delete_keys(&mut self, keys: &[Bytes]) -> Vec<Change> {
        let revision = self.state.current + 1;
        let mut changes = Vec::new();
        for key in keys {
            if self.state.live(key).is_some() {
                let sub = u32::try_from(changes.len()).expect("fewer writes than keys fit in memory");
                changes.push(self.state.delete(Revision { main: revision, sub }, key));
            }
        }
        metrics::MVCC_DELETES.add(keys.len() as u64);
        if keys.len() > 1 {
            metrics::MVCC_TXNS.inc();
        }
        if !changes.is_empty() {
            self.state.current = revision;
        }
        changes
    }

    /// Compacts logically: reads below `revision` are refused from now on. The caller has the index pruned and a checkpoint
    /// written later.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision`.
    pub fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision <= self.state.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.state.current {
            return Err(Error::FutureRevision);
        }
        // An unfinished walk starts over for the newer bound: keys it has done may hold more to drop.
        self.state.compacted = revision;
        self.state.pruning = Pruning::From(Box::default());
        Ok(())
    }

    /// Goes on so many revisions higher, without a change in them.
    pub fn skip(&mut self, revisions: u32) {
        self.state.current += i64::from(revisions);
    }

    /// Runs a transaction: compares, then the operations of the branch taken.
    ///
    /// # Errors
    /// What an operation of the branch taken is refused for, to the client, with nothing changed; a fault if the checkpoint
    /// cannot be read.
    pub fn txn(&mut self, request: &TxnRequest, lease_exists: LeaseExists<'_>) -> Answer<Written<TxnResponse>> {
        let path = {
            let mut source = RowSource { backend: self.backend, reader: &mut self.reader };
            let path = txn::choose_path(&self.state, request, &mut source)?;
            if let Err(error) = txn::check(&self.state, &path, lease_exists) {
                return Ok(Err(error));
            }
            path
        };
        let written = self.transaction(|tx| txn::run(tx, &path))?;
        Ok(written.map(|mut written| {
            written.response.header = revision_header(self.state.current);
            written
        }))
    }

    /// What watchers are to be told of a change.
    pub fn event(&self, change: &Change) -> Arc<Event> {
        let row = OnceLock::new();
        if let Some(prev) = change.prev
            && let Some(recent) = self.state.recent.get(prev)
        {
            row.set(Some(recent.clone())).expect("it is new");
        }
        let (kind, kv) = match change.deleted {
            false => (EventKind::Put, change.row.clone()),
            true => (EventKind::Delete, encode_delete(&change.key, change.revision.main)),
        };
        let prev = Prev { revision: change.prev, row };
        Arc::new(Event { revision: change.revision, kind, key: change.key.clone(), kv, prev })
    }

    fn transaction<R>(&mut self, run: impl FnOnce(&mut Transaction<'_>) -> Answer<R>) -> Answer<Written<R>> {
        let source = RowSource { backend: self.backend, reader: &mut self.reader };
        let begin = self.state.current;
        let mut transaction = Transaction { state: &mut self.state, source, begin, changes: Vec::new(), ops: 0 };
        let response = run(&mut transaction)?;
        if transaction.ops > 1 {
            metrics::MVCC_TXNS.inc();
        }
        let changes = transaction.changes;
        match response {
            Ok(response) => {
                if !changes.is_empty() {
                    self.state.current = begin + 1;
                }
                Ok(Ok(Written { response, changes }))
            }
            Err(error) => {
                assert!(changes.is_empty(), "a transaction is checked before its first write");
                Ok(Err(error))
            }
        }
    }
}

/// One transaction under way: its writes are `begin + 1`, and its own reads see them.
pub(super) struct Transaction<'t> {
    state: &'t mut State,
    source: RowSource<'t>,
    begin: i64,
    changes: Vec<Change>,
    /// Puts, deletions and ranges so far.
    ops: usize,
}

impl Transaction<'_> {
    /// The newest revision that the transaction itself sees.
    fn revision(&self) -> i64 {
        self.begin + i64::from(!self.changes.is_empty())
    }

    fn next(&self) -> Revision {
        let sub = u32::try_from(self.changes.len()).expect("fewer writes than keys fit in memory");
        Revision { main: self.begin + 1, sub }
    }

    pub fn put(&mut self, request: &PutRequest) -> Answer<PutResponse> {
        let needs_old = request.prev_kv || request.ignore_value || request.ignore_lease;
        let live = if needs_old { self.state.live(&request.key) } else { None };
        let old = live.map(|live| self.state.row(live.revision, &mut self.source)).transpose()?;
        let old_head = old.as_ref().map(|row| head(row));
        if (request.ignore_value || request.ignore_lease) && old.is_none() {
            return Ok(Err(Error::KeyNotFound));
        }
        let value = if request.ignore_value { old_head.map_or(&[][..], |old| old.value) } else { &request.value };
        let lease = if request.ignore_lease { old_head.map_or(0, |old| old.lease) } else { request.lease };
        self.ops += 1;
        metrics::MVCC_PUTS.inc();
        metrics::MVCC_PUT_BYTES.add((request.key.len() + value.len()) as u64);
        let change = self.state.put(self.next(), &request.key, value, lease);
        self.changes.push(change);
        let prev_kv = old.filter(|_| request.prev_kv).map(key_value);
        Ok(Ok(PutResponse { header: revision_header(self.begin + 1), prev_kv }))
    }

    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> Answer<DeleteRangeResponse> {
        self.ops += 1;
        metrics::MVCC_DELETES.inc();
        let range = KeyRange::new(&request.key, &request.range_end);
        let doomed: Vec<(Box<[u8]>, Revision)> =
            self.state.keys(&range).filter_map(|(key, index)| Some((key.into(), index.live()?.revision))).collect();
        let mut prev_kvs = Vec::new();
        if request.prev_kv {
            for (_, revision) in &doomed {
                prev_kvs.push(key_value(self.state.row(*revision, &mut self.source)?));
            }
        }
        for (key, _) in &doomed {
            let change = self.state.delete(self.next(), key);
            self.changes.push(change);
        }
        let deleted = i64::try_from(doomed.len()).expect("fewer keys than memory has bytes");
        Ok(Ok(DeleteRangeResponse { header: revision_header(self.revision()), deleted, prev_kvs }))
    }

    pub fn range(&mut self, request: &RangeRequest) -> Answer<RangeResponse> {
        self.ops += 1;
        metrics::MVCC_RANGES.inc();
        let revision = self.revision();
        range_now(self.state, request, revision, &mut self.source)
    }
}
