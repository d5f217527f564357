//! The store as its contract tells it: all history in one list, every answer found by walking it from the start.

use std::collections::BTreeMap;

use prost::Message;

use super::super::Revision;
use crate::error::Error;
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
    ResponseOp, TxnRequest, TxnResponse,
};
use crate::pb::mvccpb::KeyValue;

/// Leases with an id below this exist.
pub const LEASES: i64 = 4;

/// One write. A deletion has no `create_revision`, as in etcd.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub revision: Revision,
    pub kv: KeyValue,
}

impl Write {
    pub fn is_delete(&self) -> bool {
        self.kv.create_revision == 0
    }
}

#[derive(Clone, Default)]
pub struct Model {
    pub history: Vec<Write>,
    pub current: i64,
    pub compacted: i64,
}

pub fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

impl Model {
    pub fn new() -> Model {
        Model { current: 1, compacted: -1, history: Vec::new() }
    }

    /// The keys that exist at `main`, and what wrote them.
    pub fn at(&self, main: i64) -> BTreeMap<&[u8], &Write> {
        let mut keys = BTreeMap::new();
        for write in self.history.iter().filter(|write| write.revision.main <= main) {
            if write.is_delete() {
                keys.remove(&write.kv.key[..]);
            } else {
                keys.insert(&write.kv.key[..], write);
            }
        }
        keys
    }

    fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.at(i64::MAX).get(key).map(|write| write.kv.clone())
    }

    /// What a transaction that begins now sees as the newest revision.
    fn seen(&self, begin: i64) -> i64 {
        self.history.last().map_or(begin, |last| last.revision.main.max(begin))
    }

    pub fn range(&self, request: &RangeRequest, current: i64) -> Result<RangeResponse, Error> {
        if request.revision > current {
            return Err(Error::FutureRevision);
        }
        let at = if request.revision <= 0 { current } else { request.revision };
        if at < self.compacted {
            return Err(Error::Compacted);
        }
        let (order, target) = (
            SortOrder::try_from(request.sort_order).map_err(|_| Error::InvalidSortOption)?,
            SortTarget::try_from(request.sort_target).map_err(|_| Error::InvalidSortOption)?,
        );
        let found = self.at(at);
        let mut kvs: Vec<KeyValue> = found
            .values()
            .map(|write| write.kv.clone())
            .filter(|kv| in_range(&kv.key, &request.key, &request.range_end))
            .collect();
        let count = kvs.len() as i64;
        let mut response = RangeResponse { header: header(current), count, ..RangeResponse::default() };
        if request.count_only {
            return Ok(response);
        }
        let filters =
            [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
        if request.limit > 0 && order == SortOrder::None && filters == [0; 4] {
            kvs.truncate((request.limit as usize).saturating_add(1));
        }
        kvs.retain(|kv| {
            (filters[0] == 0 || kv.mod_revision >= filters[0])
                && (filters[1] == 0 || kv.mod_revision <= filters[1])
                && (filters[2] == 0 || kv.create_revision >= filters[2])
                && (filters[3] == 0 || kv.create_revision <= filters[3])
        });
        kvs.sort_by(|a, b| {
            let ordering = match target {
                SortTarget::Key if order == SortOrder::None => std::cmp::Ordering::Equal,
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if order == SortOrder::Descend { ordering.reverse() } else { ordering }
        });
        if request.limit > 0 && kvs.len() as i64 > request.limit {
            kvs.truncate(request.limit as usize);
            response.more = true;
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value.clear();
                if target != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        response.kvs = kvs.into_iter().collect();
        Ok(response)
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), Error> {
        if request.lease >= LEASES {
            return Err(Error::LeaseNotFound);
        }
        if (request.ignore_value || request.ignore_lease) && self.get(&request.key).is_none() {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn write(&mut self, begin: i64, kv: KeyValue) {
        let sub = self.history.iter().filter(|write| write.revision.main == begin + 1).count() as u32;
        self.history.push(Write { revision: Revision { main: begin + 1, sub }, kv });
    }

    fn put_at(&mut self, begin: i64, request: &PutRequest) -> PutResponse {
        let old = self.get(&request.key);
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: old.as_ref().map_or(begin + 1, |old| old.create_revision),
            mod_revision: begin + 1,
            version: old.as_ref().map_or(0, |old| old.version) + 1,
            value: if request.ignore_value { old.clone().unwrap().value } else { request.value.clone() },
            lease: if request.ignore_lease { old.clone().unwrap().lease } else { request.lease },
        };
        self.write(begin, kv);
        PutResponse { header: header(begin + 1), prev_kv: old.filter(|_| request.prev_kv) }
    }

    fn delete_at(&mut self, begin: i64, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let now = self.at(i64::MAX);
        let doomed: Vec<KeyValue> =
            now.values().map(|write| write.kv.clone()).filter(|kv| in_range(&kv.key, &request.key, &request.range_end)).collect();
        for kv in &doomed {
            self.write(begin, KeyValue { key: kv.key.clone(), ..KeyValue::default() });
        }
        let deleted = doomed.len() as i64;
        let prev_kvs = if request.prev_kv { doomed } else { Vec::new() };
        DeleteRangeResponse { header: header(self.seen(begin)), deleted, prev_kvs }
    }

    pub fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Error> {
        self.check_put(request)?;
        let response = self.put_at(self.current, request);
        self.current += 1;
        Ok(response)
    }

    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let response = self.delete_at(self.current, request);
        self.current = self.seen(self.current);
        response
    }

    pub fn compact(&mut self, revision: i64) -> Result<(), Error> {
        match () {
            () if revision <= self.compacted => Err(Error::Compacted),
            () if revision > self.current => Err(Error::FutureRevision),
            () => {
                self.compacted = revision;
                Ok(())
            }
        }
    }

    pub fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        let mut path = Vec::new();
        self.choose(request, &mut path);
        self.check(request, &mut path.iter().copied(), &mut Vec::new())?;
        let begin = self.current;
        let mut response = self.run(begin, request, &mut path.iter().copied());
        self.current = self.seen(begin);
        response.header = header(self.current);
        Ok(response)
    }

    fn choose(&self, request: &TxnRequest, path: &mut Vec<bool>) {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in if succeeded { &request.success } else { &request.failure } {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.choose(nested, path);
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let now = self.at(i64::MAX);
        let kvs: Vec<_> = now.values().map(|w| &w.kv).filter(|kv| in_range(&kv.key, &compare.key, &compare.range_end)).collect();
        if kvs.is_empty() {
            return compare.target != CompareTarget::Value as i32 && compared(compare, &KeyValue::default());
        }
        kvs.iter().all(|kv| compared(compare, kv))
    }

    fn check<'r>(
        &self,
        request: &'r TxnRequest,
        path: &mut impl Iterator<Item = bool>,
        deletes: &mut Vec<&'r DeleteRangeRequest>,
    ) -> Result<(), Error> {
        for op in if path.next().unwrap() { &request.success } else { &request.failure } {
            match op.request.as_ref().unwrap() {
                Request::RequestRange(range) if range.revision > self.current => return Err(Error::FutureRevision),
                Request::RequestRange(range) if range.revision != 0 && range.revision < self.compacted => {
                    return Err(Error::Compacted);
                }
                Request::RequestRange(_) => {}
                Request::RequestPut(put) => {
                    self.check_put(put)?;
                    let gone = deletes.iter().any(|delete| in_range(&put.key, &delete.key, &delete.range_end));
                    if gone && (put.ignore_value || put.ignore_lease) {
                        return Err(Error::KeyNotFound);
                    }
                }
                Request::RequestDeleteRange(delete) => deletes.push(delete),
                Request::RequestTxn(nested) => self.check(nested, path, deletes)?,
            }
        }
        Ok(())
    }

    fn run(&mut self, begin: i64, request: &TxnRequest, path: &mut impl Iterator<Item = bool>) -> TxnResponse {
        let succeeded = path.next().unwrap();
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => Response::ResponseRange(self.range(range, self.seen(begin)).unwrap()),
                Request::RequestPut(put) => Response::ResponsePut(self.put_at(begin, put)),
                Request::RequestDeleteRange(delete) => Response::ResponseDeleteRange(self.delete_at(begin, delete)),
                Request::RequestTxn(nested) => Response::ResponseTxn(self.run(begin, nested, path)),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses }
    }

    /// The writes that a finished compaction leaves.
    pub fn left(&self) -> Vec<Revision> {
        let mut left = Vec::new();
        for write in &self.history {
            let main = write.revision.main;
            let next = self.history.iter().find(|later| later.revision > write.revision && later.kv.key == write.kv.key);
            let newest = next.is_none_or(|next| next.revision.main > self.compacted);
            if main > self.compacted || newest && (!write.is_delete() || main == self.compacted) {
                left.push(write.revision);
            }
        }
        left
    }

    /// HashKV as a server gives it whose compaction is done.
    pub fn hash(&self, upto: i64) -> u32 {
        let mut bytes = b"key".to_vec();
        let (seen, left) = (self.at(upto), self.left());
        for write in self.history.iter().filter(|write| write.revision.main <= upto) {
            let Revision { main, sub } = write.revision;
            let kept = seen.get(&write.kv.key[..]).is_some_and(|seen| seen.revision == write.revision);
            let counts = match main > self.compacted {
                true => true,
                false if main == self.compacted && write.is_delete() => false,
                false if seen.is_empty() => left.contains(&write.revision),
                false => kept,
            };
            if counts {
                bytes.extend_from_slice(&main.to_be_bytes());
                bytes.push(b'_');
                bytes.extend_from_slice(&i64::from(sub).to_be_bytes());
                bytes.extend_from_slice(if write.is_delete() { b"t" } else { b"" });
                bytes.extend_from_slice(&write.kv.encode_to_vec());
            }
        }
        crc32c::crc32c(&bytes)
    }
}

fn compared(compare: &Compare, kv: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Err(_) => std::cmp::Ordering::Equal,
        Ok(CompareTarget::Version) => kv.version.cmp(&union.map_or(0, |u| if let TargetUnion::Version(n) = u { *n } else { 0 })),
        Ok(CompareTarget::Create) => {
            kv.create_revision.cmp(&union.map_or(0, |u| if let TargetUnion::CreateRevision(n) = u { *n } else { 0 }))
        }
        Ok(CompareTarget::Mod) => {
            kv.mod_revision.cmp(&union.map_or(0, |u| if let TargetUnion::ModRevision(n) = u { *n } else { 0 }))
        }
        Ok(CompareTarget::Lease) => kv.lease.cmp(&union.map_or(0, |u| if let TargetUnion::Lease(n) = u { *n } else { 0 })),
        Ok(CompareTarget::Value) => match union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value[..].cmp(b""),
        },
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
