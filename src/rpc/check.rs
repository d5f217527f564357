//! What a request is refused for before anybody is asked. In: decoded requests. Out: the first error in etcd's order; clients compare
//! code and text, so the order is theirs to see.

use std::collections::{BTreeMap, HashSet};

use crate::error::Error;
use crate::mvcc::KeyRange;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// Transactions in one another. etcd stops at its budget of operations (128 at most by default); here the decoder's own limit of
/// 100 messages, two for each level, comes first, and what was accepted must also be decodable as a part of a log entry.
const MAX_NESTED: usize = 32;

/// A range.
pub fn range(request: &RangeRequest) -> Result<(), Error> {
    key(&request.key)?;
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// A range whose answer is streamed: key order only, since it is sent as it is read.
pub fn range_stream(request: &RangeRequest) -> Result<(), Error> {
    range(request)?;
    // etcd lets a target without an order pass, and then loses its place between chunks. It has never been documented.
    let sorted_by_key = request.sort_target() == SortTarget::Key && request.sort_order() != SortOrder::Descend;
    if !sorted_by_key {
        return Err(Error::StreamSort);
    }
    let filters = [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if filters != [0; 4] {
        return Err(Error::StreamRevisionFilter);
    }
    Ok(())
}

/// A put.
pub fn put(request: &PutRequest) -> Result<(), Error> {
    key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// A delete.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    key(&request.key)
}

/// A transaction: at most `max_ops` entries in each of its lists, and in those of a transaction within it as many fewer as the longest
/// list around it has; each operation as if it came alone; no key written twice.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    operations(request, max_ops, MAX_NESTED)?;
    // After the counts, so that the work is bounded.
    written_once(&request.success)?;
    written_once(&request.failure)
}

/// No key is written twice by a list of operations.
fn written_once(list: &[RequestOp]) -> Result<(), Error> {
    match list {
        // Most transactions write one key, and need no sets for that.
        [RequestOp { request: Some(Request::RequestPut(_) | Request::RequestRange(_) | Request::RequestDeleteRange(_)) }] => {
            Ok(())
        }
        _ => Writes::of(list).map(drop),
    }
}

/// Whether a transaction can be answered without the log: both branches do nothing but read.
pub fn is_read_only(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether all reads of a transaction are content with this member's state.
pub fn is_serializable(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

fn key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

fn operations(request: &TxnRequest, max_ops: usize, max_nested: usize) -> Result<(), Error> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = max_ops.checked_sub(longest).ok_or(Error::TooManyOps)?;
    request.compare.iter().try_for_each(|compare| key(&compare.key))?;
    ops(request).try_for_each(|op| match &op.request {
        Some(Request::RequestRange(request)) => range(request),
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestDeleteRange(request)) => delete_range(request),
        Some(Request::RequestTxn(request)) => operations(request, left, max_nested.checked_sub(1).ok_or(Error::TooManyOps)?),
        None => Err(Error::KeyNotFound),
    })
}

/// The keys that a list of operations may write, whatever branches are taken inside.
#[derive(Default)]
struct Writes<'r> {
    puts: HashSet<&'r [u8]>,
    deletes: Deletes<'r>,
}

impl<'r> Writes<'r> {
    /// Collects the writes of a list: first its own deletes, then each transaction in it, then its own puts. A put of what was put or
    /// deleted before, in this order, is refused. So a delete in a later transaction may hit an earlier one's put; that is how
    /// etcd has it, and clients may rely on it.
    fn of(list: &'r [RequestOp]) -> Result<Writes<'r>, Error> {
        let mut all = Writes::default();
        for op in list {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                all.deletes.add(delete);
            }
        }
        for op in list {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                let then = Writes::of(&nested.success)?;
                let otherwise = Writes::of(&nested.failure)?;
                // Only one of the two branches runs, so that what both put is put once.
                let only_otherwise = otherwise.puts.difference(&then.puts).copied().collect();
                all.put_all(then.puts)?;
                all.put_all(only_otherwise)?;
                all.deletes.unite(then.deletes);
                all.deletes.unite(otherwise.deletes);
            }
        }
        for op in list {
            if let Some(Request::RequestPut(put)) = &op.request {
                all.put(&put.key)?;
            }
        }
        Ok(all)
    }

    fn put(&mut self, key: &'r [u8]) -> Result<(), Error> {
        if self.deletes.hit(key) || !self.puts.insert(key) {
            return Err(Error::DuplicateKey);
        }
        Ok(())
    }

    fn put_all(&mut self, mut keys: HashSet<&'r [u8]>) -> Result<(), Error> {
        if keys.iter().any(|key| self.deletes.hit(key)) {
            return Err(Error::DuplicateKey);
        }
        // The smaller into the larger, so that deep nests cost no more than wide ones.
        if keys.len() > self.puts.len() {
            std::mem::swap(&mut keys, &mut self.puts);
        }
        for key in keys {
            if !self.puts.insert(key) {
                return Err(Error::DuplicateKey);
            }
        }
        Ok(())
    }
}

/// A set of keys made of single keys and intervals. The intervals are kept apart from each other: start to end, which is beyond.
#[derive(Default)]
struct Deletes<'r> {
    keys: HashSet<&'r [u8]>,
    intervals: BTreeMap<&'r [u8], &'r [u8]>,
}

impl<'r> Deletes<'r> {
    fn add(&mut self, delete: &'r DeleteRangeRequest) {
        match KeyRange::new(&delete.key, &delete.range_end) {
            KeyRange::One(key) => {
                self.keys.insert(key);
            }
            // etcd 3.7.3 takes this form's end for the key that it looks like, so that the interval holds nothing and a put of any
            // key beside it passes.
            KeyRange::From(_) => {}
            KeyRange::Between(start, end) => self.cover(start, end),
        }
    }

    fn cover(&mut self, mut start: &'r [u8], mut end: &'r [u8]) {
        if end <= start {
            return;
        }
        if let Some((&before, &until)) = self.intervals.range(..=start).next_back()
            && until >= start
        {
            start = before;
        }
        // The one that begins before is among them.
        while let Some((&next, &until)) = self.intervals.range(start..=end).next() {
            self.intervals.remove(next);
            end = end.max(until);
        }
        self.intervals.insert(start, end);
    }

    fn hit(&self, key: &[u8]) -> bool {
        self.keys.contains(key) || self.intervals.range(..=key).next_back().is_some_and(|(_, end)| key < *end)
    }

    fn unite(&mut self, mut other: Deletes<'r>) {
        if other.keys.len() > self.keys.len() {
            std::mem::swap(&mut self.keys, &mut other.keys);
        }
        if other.intervals.len() > self.intervals.len() {
            std::mem::swap(&mut self.intervals, &mut other.intervals);
        }
        self.keys.extend(other.keys);
        for (start, end) in other.intervals {
            self.cover(start, end);
        }
    }
}

#[cfg(test)]
mod tests;
