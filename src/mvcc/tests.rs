//! The store against a model that keeps all history in a list, and the claims that need a scene of their own.
//!
//! `SEED=n` replays one run of the random test, `RUNS=n` sets how many there are.

mod compaction;
mod model;
mod pages;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;

use self::model::{LEASES, Model, Write, in_range};
use super::watch::testing::Dice;
use super::*;
use crate::backend::{Backend, Options, Table, WriteError};
use crate::error::Error;
use crate::pb::etcdserverpb::compare::TargetUnion;
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse,
};
use crate::pb::mvccpb::KeyValue;

const OPTIONS: Options = Options { map_bytes: 64 << 20, no_fsync: true };

fn backend(dir: &TempDir) -> Arc<Backend> {
    Arc::new(Backend::open(&dir.path().join("db"), OPTIONS).unwrap())
}

fn open(backend: &Arc<Backend>) -> Store {
    Store::open(backend.clone(), |_, _| {}).unwrap()
}

fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&backend(&dir));
    (dir, store)
}

fn lease_exists(id: i64) -> bool {
    id < LEASES
}

fn put(key: &[u8], value: &[u8]) -> PutRequest {
    PutRequest { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value), ..PutRequest::default() }
}

fn write_put(store: &Store, key: &str, value: &str) {
    store.batch().put(&put(key.as_bytes(), value.as_bytes()), &lease_exists).unwrap().unwrap();
}

fn write_delete(store: &Store, key: &str, range_end: &str) {
    let (key, range_end) = (key.as_bytes().to_vec().into(), range_end.as_bytes().to_vec().into());
    store.batch().delete_range(&DeleteRangeRequest { key, range_end, prev_kv: false }).unwrap().unwrap();
}

fn everything(revision: i64) -> RangeRequest {
    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..RangeRequest::default() }
}

fn drain(rows: &mut Rows) -> Vec<KeyValue> {
    let mut kvs = Vec::new();
    rows.take_while(|row| {
        kvs.push(KeyValue::decode(row).unwrap());
        true
    })
    .unwrap();
    kvs
}

/// Prunes and writes checkpoints until compaction has left nothing behind.
fn scrub(store: &Store, backend: &Backend) {
    while store.prune_step() {}
    loop {
        let checkpoint = store.checkpoint();
        backend.write(|writer| checkpoint.write(writer)).unwrap();
        store.checkpointed(&checkpoint);
        if !checkpoint.leaves_garbage() {
            break;
        }
    }
}

fn stored_revisions(backend: &Backend) -> Vec<Revision> {
    let mut revisions = Vec::new();
    let reader = backend.reader().unwrap();
    reader
        .scan(Table::Row, b"", |key, _| {
            revisions.push(Revision::from_key(key).unwrap());
            Ok(true)
        })
        .unwrap();
    revisions
}

/// What is in the log, and what was answered.
#[derive(Clone, Debug)]
enum Entry {
    Put(PutRequest, Result<PutResponse, Error>),
    Delete(DeleteRangeRequest, DeleteRangeResponse),
    Txn(TxnRequest, Result<TxnResponse, Error>),
    Compact(i64, Result<(), Error>),
}

/// An answer whose rows are taken later.
struct Held {
    rows: Rows,
    expected: std::vec::IntoIter<KeyValue>,
}

struct Run {
    dice: Dice,
    dir: TempDir,
    backend: Option<Arc<Backend>>,
    store: Option<Store>,
    model: Model,
    log: Vec<Entry>,
    /// Entries of the log that the checkpoint has, and the model as it was then.
    durable: (usize, Model),
    /// A checkpoint taken, how much of the log it has, and the model as it was then.
    taken: Option<(Checkpoint, usize, Model)>,
    held: Vec<Held>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(&dir);
        let store = Some(open(&backend));
        let model = Model::new();
        Run {
            dice: Dice::new(seed),
            dir,
            backend: Some(backend),
            store,
            durable: (0, model.clone()),
            model,
            log: Vec::new(),
            taken: None,
            held: Vec::new(),
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn backend(&self) -> &Backend {
        self.backend.as_ref().unwrap()
    }

    fn step(&mut self) {
        match self.dice.below(40) {
            0..8 => self.put(),
            8..11 => self.delete(),
            11..17 => self.txn(),
            17..26 => self.range(),
            26 => self.compact(),
            27 => {
                self.store().prune_step();
            }
            28..30 => self.take_checkpoint(),
            30..32 => self.write_checkpoint(),
            32 => self.reopen(),
            33 => self.hash(),
            34..36 => self.history(),
            36 => self.hold(),
            37..39 => self.use_held(),
            _ => self.backend().defragment(&|| false).unwrap(),
        }
        let stats = self.store().stats();
        assert_eq!((stats.current, stats.compacted), (self.model.current, self.model.compacted));
        assert_eq!(stats.keys, self.model.at(i64::MAX).len());
    }

    fn apply(&mut self, entry: &Entry) {
        let mut written = Vec::new();
        let mut batch = self.store.as_ref().unwrap().batch();
        match entry.clone() {
            Entry::Put(request, expected) => {
                let got = batch.put(&request, &lease_exists).unwrap();
                assert_eq!(got.map(|w| (w.response, written = w.changes).0), expected, "{request:?}");
            }
            Entry::Delete(request, expected) => {
                let got = batch.delete_range(&request).unwrap();
                assert_eq!(got.map(|w| (w.response, written = w.changes).0), Ok(expected), "{request:?}");
            }
            Entry::Txn(request, expected) => {
                let got = batch.txn(&request, &lease_exists).unwrap();
                assert_eq!(got.map(|w| (w.response, written = w.changes).0), expected, "{request:?}");
            }
            Entry::Compact(revision, expected) => assert_eq!(batch.compact(revision), expected, "compact {revision}"),
        }
        // Told of now, while the model knows nothing newer, or from history after a replay: the same event.
        let events: Vec<_> = written.iter().map(|change| batch.event(change)).collect();
        drop(batch);
        for (event, change) in events.iter().zip(&written) {
            let write = self.model.history.iter().find(|write| write.revision == change.revision).unwrap();
            assert_eq!((change.lease, change.deleted), (write.kv.lease, write.is_delete()));
            check_event(self.store(), &self.model, event, write);
        }
    }

    fn log(&mut self, entry: Entry) {
        self.apply(&entry);
        self.log.push(entry);
    }

    fn key(&mut self) -> Vec<u8> {
        match self.dice.below(10) {
            0 => vec![0],
            1 => vec![0xff, 0xff],
            _ => self.dice.key().split_off(0).into_iter().take(2).collect(),
        }
    }

    fn range_end(&mut self) -> Vec<u8> {
        match self.dice.below(5) {
            0 => Vec::new(),
            1 => vec![0],
            2 => vec![0xff],
            _ => self.key(),
        }
    }

    fn revision(&mut self) -> i64 {
        self.dice.below(self.model.current as usize + 4) as i64 - 2
    }

    fn random_put(&mut self) -> PutRequest {
        let ignore_value = self.dice.one_in(6);
        let ignore_lease = self.dice.one_in(6);
        let value = vec![b'v'; self.dice.below(4)];
        PutRequest {
            key: self.key().into(),
            value: if ignore_value { Vec::new() } else { value }.into(),
            lease: if ignore_lease || self.dice.one_in(2) { 0 } else { self.dice.below(LEASES as usize + 1) as i64 },
            prev_kv: self.dice.one_in(2),
            ignore_value,
            ignore_lease,
        }
    }

    fn random_delete(&mut self) -> DeleteRangeRequest {
        let range_end = if self.dice.one_in(2) { Vec::new() } else { self.range_end() };
        DeleteRangeRequest { key: self.key().into(), range_end: range_end.into(), prev_kv: self.dice.one_in(2) }
    }

    fn random_range(&mut self) -> RangeRequest {
        let mut bound =
            |chance| if self.dice.one_in(chance) { self.dice.below(self.model.current as usize + 2) as i64 } else { 0 };
        let bounds = [bound(8), bound(8), bound(8), bound(8)];
        RangeRequest {
            key: self.key().into(),
            range_end: self.range_end().into(),
            limit: if self.dice.one_in(2) { 0 } else { self.dice.below(6) as i64 - 1 },
            revision: if self.dice.one_in(2) { 0 } else { self.revision() },
            sort_order: self.dice.below(3) as i32,
            sort_target: if self.dice.one_in(2) { 0 } else { self.dice.below(5) as i32 },
            keys_only: self.dice.one_in(4),
            count_only: self.dice.one_in(8),
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
            ..RangeRequest::default()
        }
    }

    fn random_compare(&mut self) -> Compare {
        let number = if self.dice.one_in(3) { 0 } else { self.revision() };
        let small = self.dice.below(4) as i64;
        let range_end = if self.dice.one_in(2) { Vec::new() } else { self.range_end() };
        let union = match self.dice.below(6) {
            0 => None,
            1 => Some(TargetUnion::Version(small)),
            2 => Some(TargetUnion::CreateRevision(number)),
            3 => Some(TargetUnion::ModRevision(number)),
            4 => Some(TargetUnion::Lease(small)),
            _ => Some(TargetUnion::Value(vec![b'v'; small as usize].into())),
        };
        let matching = match union {
            None | Some(TargetUnion::Version(_)) => 0,
            Some(TargetUnion::CreateRevision(_)) => 1,
            Some(TargetUnion::ModRevision(_)) => 2,
            Some(TargetUnion::Value(_)) => 3,
            Some(TargetUnion::Lease(_)) => 4,
        };
        Compare {
            key: self.key().into(),
            range_end: range_end.into(),
            // Also targets that do not fit the value, and targets and results that nobody knows.
            target: if self.dice.one_in(8) { self.dice.below(6) as i32 } else { matching },
            result: self.dice.below(9) as i32 / 2,
            target_union: union,
        }
    }

    /// `put` are the keys that the branch, with all that is nested in it, puts: none twice.
    fn random_branch(&mut self, depth: usize, put: &mut Vec<Bytes>) -> Vec<RequestOp> {
        let mut ops = Vec::new();
        for _ in 0..self.dice.below(4) {
            let request = match self.dice.below(8) {
                0..3 => {
                    let request = self.random_put();
                    let key = request.key.clone();
                    if put.contains(&key) {
                        continue;
                    }
                    put.push(key);
                    Request::RequestPut(request)
                }
                3 => Request::RequestDeleteRange(self.random_delete()),
                4..7 => {
                    let mut range = self.random_range();
                    range.revision = if self.dice.one_in(2) { 0 } else { range.revision };
                    Request::RequestRange(range)
                }
                _ if depth == 3 => continue,
                _ => Request::RequestTxn(self.random_txn(depth + 1, put)),
            };
            ops.push(RequestOp { request: Some(request) });
        }
        ops
    }

    fn random_txn(&mut self, depth: usize, put: &mut Vec<Bytes>) -> TxnRequest {
        let compare = (0..self.dice.below(3)).map(|_| self.random_compare()).collect();
        let success = self.random_branch(depth, put);
        let failure = self.random_branch(depth, put);
        TxnRequest { compare, success, failure }
    }

    fn put(&mut self) {
        let request = self.random_put();
        let response = self.model.put(&request);
        self.log(Entry::Put(request, response));
    }

    fn delete(&mut self) {
        let request = self.random_delete();
        let response = self.model.delete_range(&request);
        self.log(Entry::Delete(request, response));
    }

    fn txn(&mut self) {
        let request = self.random_txn(0, &mut Vec::new());
        let reads = |ops: &[RequestOp]| ops.iter().all(|op| matches!(op.request, Some(Request::RequestRange(_))));
        let read_only = reads(&request.success) && reads(&request.failure);
        let response = self.model.txn(&request);
        if read_only {
            assert_eq!(self.store().read_txn(&request).unwrap(), response, "{request:?}");
        }
        self.log(Entry::Txn(request, response));
    }

    fn compact(&mut self) {
        let revision = self.revision();
        let response = self.model.compact(revision);
        self.log(Entry::Compact(revision, response));
    }

    fn range(&mut self) {
        let request = self.random_range();
        let expected = self.model.range(&request, self.model.current);
        assert_eq!(answer(self.store(), &request), expected, "{request:?}");
    }

    fn take_checkpoint(&mut self) {
        if self.taken.is_none() {
            self.taken = Some((self.store().checkpoint(), self.log.len(), self.model.clone()));
        }
    }

    /// Writes a checkpoint that was taken; sometimes it fails, is written twice, or is not yet known to be durable.
    fn write_checkpoint(&mut self) {
        let Some((checkpoint, entries, model)) = self.taken.take() else { return };
        if self.dice.one_in(4) {
            let failed = self.backend().write(|writer| {
                checkpoint.write(writer)?;
                Err(WriteError::Full("on purpose".into()))
            });
            assert!(matches!(failed, Err(WriteError::Full(_))));
            if self.dice.one_in(2) {
                return;
            }
        }
        for _ in 0..1 + self.dice.below(2) {
            self.backend().write(|writer| checkpoint.write(writer)).unwrap();
        }
        self.durable = (entries, model.clone());
        if self.dice.one_in(4) {
            self.taken = Some((checkpoint, entries, model));
            return;
        }
        self.store().checkpointed(&checkpoint);
    }

    /// Loses what is not in the checkpoint, and replays the log above it.
    fn reopen(&mut self) {
        self.held.clear();
        self.taken = None;
        self.store = None;
        self.backend = None;
        let backend = backend(&self.dir);
        let mut leased = Vec::new();
        let store = Store::open(backend.clone(), |key, lease| leased.push((key.to_vec(), lease))).unwrap();
        self.backend = Some(backend);
        self.store = Some(store);
        let (entries, model) = self.durable.clone();
        let expected = model.at(i64::MAX).into_iter().filter(|(_, write)| write.kv.lease != 0);
        assert_eq!(leased, expected.map(|(key, write)| (key.to_vec(), write.kv.lease)).collect::<Vec<_>>());
        assert_eq!(self.store().stats().current, model.current);
        let newest = std::mem::replace(&mut self.model, model);
        for revision in self.model.compacted.max(1)..=self.model.current {
            let expected = self.model.range(&everything(revision), self.model.current);
            assert_eq!(answer(self.store(), &everything(revision)), expected);
        }
        self.model = newest;
        // The model is at the end of the log already; only the answers are compared.
        for entry in self.log.split_off(entries) {
            self.apply(&entry);
            self.log.push(entry);
        }
    }

    fn hash(&mut self) {
        let revision = self.revision();
        let got = self.store().hash_kv(revision).unwrap();
        if revision > self.model.current {
            assert_eq!(got, Err(Error::FutureRevision));
        } else if revision > 0 && revision < self.model.compacted {
            assert_eq!(got, Err(Error::Compacted));
        } else {
            let upto = if revision == 0 { self.model.current } else { revision };
            let (hash, compact_revision, current) = (self.model.hash(upto), self.model.compacted, self.model.current);
            assert_eq!(got, Ok(HashKv { hash, compact_revision, revision: upto, current }));
        }
    }

    fn history(&mut self) {
        let from = self.revision();
        let (key, range_end) = (self.key(), self.range_end());
        let max_bytes = self.dice.below(40);
        let wanted = |row_key: &[u8]| in_range(row_key, &key, &range_end);
        let mut events = Vec::new();
        let mut next = from;
        loop {
            let page = match self.store().page(next, max_bytes, &wanted) {
                Ok(page) => page,
                Err(HistoryError::Compacted(compacted)) => {
                    assert!(from < self.model.compacted && compacted == self.model.compacted);
                    return;
                }
                Err(HistoryError::Fault(fault)) => panic!("{fault}"),
            };
            assert_eq!(page.current, self.model.current);
            assert!(page.events.iter().all(|event| (next..page.next).contains(&event.revision.main)), "a cut transaction");
            assert!(page.next > next || next > page.current, "a page goes on");
            next = page.next;
            events.extend(page.events);
            if next > page.current {
                break;
            }
        }
        assert!(from >= self.model.compacted);
        let left = self.model.left();
        let expected: Vec<_> = self
            .model
            .history
            .iter()
            .filter(|write| write.revision.main >= from && wanted(&write.kv.key) && left.contains(&write.revision))
            .collect();
        // Of a key that one transaction put and deleted, compaction at that very revision takes the put, sooner or later.
        events.retain(|event| left.contains(&event.revision));
        assert_eq!(
            events.iter().map(|event| event.revision).collect::<Vec<_>>(),
            expected.iter().map(|write| write.revision).collect::<Vec<_>>()
        );
        for (event, write) in events.iter().zip(expected) {
            assert!(event.prev.revision.is_none() || event.revision.main > self.model.compacted, "history before history");
            check_event(self.store(), &self.model, event, write);
        }
    }

    fn hold(&mut self) {
        let request = self.random_range();
        let Ok(expected) = self.model.range(&request, self.model.current) else { return };
        let mut rows = self.store().range(&request).unwrap().unwrap().rows;
        // An open reader would make defragmentation wait for itself here: it is one thread.
        rows.park();
        self.held.push(Held { rows, expected: expected.kvs.into_iter().collect::<Vec<_>>().into_iter() });
    }

    fn use_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.dice.below(self.held.len());
        let some = self.dice.below(3);
        let Held { rows, expected } = &mut self.held[at];
        let mut lengths = Vec::new();
        rows.lengths(|length| lengths.push(length)).unwrap();
        assert_eq!(lengths, expected.as_slice().iter().map(KeyValue::encoded_len).collect::<Vec<_>>());
        let mut taken = 0;
        rows.take_while(|row| {
            assert_eq!(KeyValue::decode(row).unwrap(), expected.next().unwrap());
            taken += 1;
            taken <= some
        })
        .unwrap();
        rows.park();
        assert_eq!(rows.len(), expected.len());
        if rows.is_empty() {
            self.held.swap_remove(at);
        }
    }

    fn finish(mut self) {
        while !self.held.is_empty() {
            self.use_held();
        }
        if let Some((checkpoint, ..)) = self.taken.take() {
            self.backend().write(|writer| checkpoint.write(writer)).unwrap();
            self.store().checkpointed(&checkpoint);
        }
        scrub(self.store(), self.backend());
        assert!(self.store().scrubbed(self.model.compacted));
        assert_eq!(stored_revisions(self.backend()), self.model.left(), "compaction leaves what it must and no more");
        assert!(self.store().checkpoint().is_empty());
        self.durable = (self.log.len(), self.model.clone());
        self.reopen();
        self.hash();
    }
}

fn answer(store: &Store, request: &RangeRequest) -> Result<RangeResponse, Error> {
    let mut answer = store.range(request).unwrap()?;
    let kvs = drain(&mut answer.rows);
    let header = Some(ResponseHeader { revision: answer.revision, ..ResponseHeader::default() });
    Ok(RangeResponse { header, kvs: kvs.into_iter().collect(), more: answer.more, count: answer.count })
}

fn check_event(store: &Store, model: &Model, event: &Event, write: &Write) {
    let kind = if write.is_delete() { EventKind::Delete } else { EventKind::Put };
    assert_eq!((event.kind, &event.key[..]), (kind, &write.kv.key[..]));
    let mod_revision = write.revision.main;
    assert_eq!(KeyValue::decode(event.kv.clone()).unwrap(), KeyValue { mod_revision, ..write.kv.clone() });
    let prev = store.prev_row(event).unwrap().map(|row| KeyValue::decode(row).unwrap());
    let before = model.at(mod_revision - 1);
    let creates = write.kv.create_revision == mod_revision;
    let expected = before.get(&write.kv.key[..]).filter(|_| !creates).map(|write| write.kv.clone());
    // From here on the row before may be gone.
    if mod_revision > model.compacted {
        assert_eq!(prev, expected, "before {:?}", write.revision);
    } else {
        assert!(prev.is_none() || prev == expected);
    }
}

#[test]
fn the_store_answers_as_the_model_does() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = number("SEED").map_or(0..number("RUNS").unwrap_or(12), |seed| seed..seed + 1);
    for seed in seeds {
        println!("SEED={seed}");
        let mut run = Run::new(seed);
        for _ in 0..300 {
            run.step();
        }
        run.finish();
    }
}

/// All that history has from `from` on, and where the last page ended.
fn page_revisions(store: &Store, from: i64) -> (Vec<i64>, i64) {
    let (mut revisions, mut next) = (Vec::new(), from);
    loop {
        let page = store.page(next, usize::MAX, &|_| true).map_err(|e| format!("{e:?}")).unwrap();
        revisions.extend(page.events.iter().map(|event| event.revision.main));
        next = page.next;
        if next > page.current {
            return (revisions, next);
        }
    }
}

#[test]
fn a_single_row_stays_readable_over_a_compaction() {
    let (dir, store) = fresh();
    drop(store);
    let backend = backend(&dir);
    let store = open(&backend);
    write_put(&store, "k", "old");
    scrub(&store, &backend);
    let mut rows = store.range(&RangeRequest { key: b"k".to_vec().into(), ..RangeRequest::default() }).unwrap().unwrap().rows;
    rows.park();
    write_put(&store, "k", "new");
    store.batch().compact(3).unwrap();
    while store.prune_step() {}
    let checkpoint = store.checkpoint();
    assert!(checkpoint.leaves_garbage(), "the row is held");
    backend.write(|writer| checkpoint.write(writer)).unwrap();
    store.checkpointed(&checkpoint);
    assert!(!store.scrubbed(3));
    assert_eq!(drain(&mut rows)[0].value, b"old"[..]);
    drop(rows);
    scrub(&store, &backend);
    assert!(store.scrubbed(3));
}

#[test]
fn a_crash_between_two_removals_brings_no_deleted_key_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = backend(&dir);
    let mut store = open(&file);
    for n in 0..25_000 {
        write_put(&store, "hot", &n.to_string());
    }
    write_delete(&store, "hot", "");
    write_put(&store, "other", "");
    scrub(&store, &file);
    let compacted = store.current();
    store.batch().compact(compacted).unwrap();
    while store.prune_step() {}
    let mut checkpoints = 0;
    loop {
        let checkpoint = store.checkpoint();
        file.write(|writer| checkpoint.write(writer)).unwrap();
        checkpoints += 1;
        let done = !checkpoint.leaves_garbage();
        // As if the process had died here.
        drop(store);
        drop(file);
        file = backend(&dir);
        store = open(&file);
        assert_eq!(store.stats().keys, 1);
        assert_eq!(answer(&store, &everything(0)).unwrap().count, 1);
        if done {
            break;
        }
    }
    assert!(checkpoints > 2, "removals come in bounded steps");
    assert_eq!(stored_revisions(&file).len(), 1);
}

#[test]
fn a_write_that_only_seemed_to_fail_brings_no_deleted_key_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = backend(&dir);
    let store = open(&file);
    write_put(&store, "k", "v");
    file.write(|writer| store.checkpoint().write(writer)).unwrap();
    // The store is not told. What the next checkpoint holds must do without the first, and with it.
    write_delete(&store, "k", "");
    write_put(&store, "l", "v");
    store.batch().compact(4).unwrap();
    scrub(&store, &file);
    drop(store);
    assert_eq!(open(&file).stats().keys, 1);
}

#[test]
fn a_checkpoint_is_not_empty_while_revisions_have_moved() {
    let dir = tempfile::tempdir().unwrap();
    let file = backend(&dir);
    let store = open(&file);
    write_put(&store, "k", "v");
    write_delete(&store, "k", "");
    write_put(&store, "k", "v");
    write_delete(&store, "k", "");
    write_put(&store, "l", "v");
    scrub(&store, &file);
    assert!(store.checkpoint().is_empty());
    store.batch().compact(2).unwrap();
    while store.prune_step() {}
    let checkpoint = store.checkpoint();
    assert!(!checkpoint.is_empty(), "the compacted revision is news, though no row is");
    file.write(|writer| checkpoint.write(writer)).unwrap();
    drop((checkpoint, store));
    assert_eq!(open(&file).stats().compacted, 2);
}

#[test]
fn the_revision_survives_a_compaction_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    let file = backend(&dir);
    let store = open(&file);
    write_put(&store, "k", "v");
    write_delete(&store, "k", "");
    write_put(&store, "k", "v");
    write_delete(&store, "k", "");
    store.batch().compact(4).unwrap();
    while store.prune_step() {}
    write_put(&store, "a", "");
    write_delete(&store, "a", "");
    store.batch().compact(7).unwrap();
    scrub(&store, &file);
    drop(store);
    let store = open(&file);
    assert_eq!((store.stats().current, store.stats().compacted, store.stats().keys), (7, 7, 0));
    assert_eq!(page_revisions(&store, 7), (vec![7], 8), "a watch at the compacted revision still sees the deletion");
}

#[test]
fn a_reader_of_the_future_is_not_sent_back() {
    let (_dir, store) = fresh();
    write_put(&store, "k", "v");
    assert_eq!(page_revisions(&store, 0), (vec![2], 3));
    assert_eq!(page_revisions(&store, -1), (vec![2], 3));
    assert_eq!(page_revisions(&store, 9), (vec![], 9));
}

#[test]
fn checks_are_answered_in_the_order_of_the_operations() {
    let (_dir, store) = fresh();
    write_put(&store, "k", "v");
    let range = Request::RequestRange(everything(99));
    let bad_put = Request::RequestPut(PutRequest { lease: 1234, ignore_value: true, ..put(b"missing", b"") });
    let lost = Request::RequestPut(PutRequest { ignore_value: true, ..put(b"k", b"") });
    let delete = Request::RequestDeleteRange(DeleteRangeRequest {
        key: b"a".to_vec().into(),
        range_end: b"\0".to_vec().into(),
        prev_kv: false,
    });
    let refused = |ops: &[&Request]| {
        let success = ops.iter().map(|op| RequestOp { request: Some((*op).clone()) }).collect();
        let request = TxnRequest { success, ..TxnRequest::default() };
        store.batch().txn(&request, &lease_exists).unwrap().map(|_| ()).unwrap_err()
    };
    assert_eq!(refused(&[&range, &bad_put]), Error::FutureRevision);
    assert_eq!(refused(&[&bad_put, &range]), Error::LeaseNotFound);
    assert_eq!(refused(&[&delete, &lost]), Error::KeyNotFound);
    assert_eq!(store.current(), 2, "nothing was done");
}

/// etcd itself lets this pass: its check for overlaps does not know the open end.
#[test]
fn a_key_may_be_written_and_deleted_in_one_transaction() {
    let (_dir, store) = fresh();
    write_put(&store, "b", "0");
    let request = TxnRequest {
        success: vec![
            RequestOp { request: Some(Request::RequestPut(put(b"b", b"1"))) },
            RequestOp {
                request: Some(Request::RequestDeleteRange(DeleteRangeRequest {
                    key: b"a".to_vec().into(),
                    range_end: b"\0".to_vec().into(),
                    prev_kv: true,
                })),
            },
        ]
        .into_iter()
        .collect(),
        ..TxnRequest::default()
    };
    let mut batch = store.batch();
    let written = batch.txn(&request, &lease_exists).unwrap().unwrap();
    let events: Vec<_> = written.changes.iter().map(|change| batch.event(change)).collect();
    drop(batch);
    for event in &events {
        assert_eq!(event.prev.revision, Some(Revision::first_of(2)), "what was there before the transaction");
    }
    assert_eq!(answer(&store, &everything(0)).unwrap().count, 0);
    assert_eq!(answer(&store, &everything(2)).unwrap().count, 1);
}

#[test]
fn a_checkpoint_that_we_cannot_have_written_is_refused_with_a_message() {
    let sound =
        |main| encode_row(&RowHead { key: b"k", create_revision: 1, mod_revision: main, version: 1, ..RowHead::default() });
    let key = |main, sub| Revision { main, sub }.to_key().to_vec();
    let number = |n: i64| n.to_be_bytes().to_vec();
    type Rows = Vec<(Table, Vec<u8>, Bytes)>;
    let cases: [(&str, Rows); 9] = [
        ("a row's key", vec![(Table::Row, b"short".to_vec(), sound(2))]),
        ("a sub too large", vec![(Table::Row, key(2, 1 << 31), sound(2))]),
        ("a negative main", vec![(Table::Row, key(-2, 0), sound(-2))]),
        ("no KeyValue", vec![(Table::Row, key(2, 0), Bytes::from_static(b"\xff\xff"))]),
        ("another revision's row", vec![(Table::Row, key(3, 0), sound(2))]),
        (
            "a row above the revision",
            vec![(Table::Row, key(3, 0), sound(3)), (Table::Meta, b"revision".to_vec(), number(2).into())],
        ),
        ("a revision beyond all", vec![(Table::Meta, b"revision".to_vec(), number(i64::MAX).into())]),
        ("no number", vec![(Table::Meta, b"revision".to_vec(), Bytes::from_static(b"2"))]),
        (
            "compacted beyond the revision",
            vec![
                (Table::Meta, b"revision".to_vec(), number(2).into()),
                (Table::Meta, b"compacted_revision".to_vec(), number(3).into()),
            ],
        ),
    ];
    for (what, rows) in cases {
        let dir = tempfile::tempdir().unwrap();
        let file = backend(&dir);
        file.write(|writer| rows.iter().try_for_each(|(table, key, row)| writer.put(*table, key, row))).unwrap();
        let fault = Store::open(file, |_, _| {}).err().unwrap_or_else(|| panic!("{what} was taken"));
        assert!(fault.to_string().contains("copy of the data directory"), "{what}: {fault}");
    }
}

/// The hashes are those of a running etcd 3.7.3, given the same requests, and for the compacted revision restarted.
#[test]
fn hashes_equal_those_of_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let file = backend(&dir);
    let store = open(&file);
    let hash = |revision| store.hash_kv(revision).unwrap().map(|hash| hash.hash);
    let compact = |revision| {
        store.batch().compact(revision).unwrap();
        let before = hash(0);
        scrub(&store, &file);
        assert_eq!(hash(0), before, "however far the removals have come");
    };
    write_put(&store, "a", "1");
    write_put(&store, "a", "2");
    write_put(&store, "b", "x");
    write_delete(&store, "a", "");
    write_put(&store, "a", "3");
    store.batch().put(&PutRequest { lease: 7, ..put(b"l", b"v") }, &|_| true).unwrap().unwrap();
    let ops = [
        Request::RequestPut(put(b"c", b"1")),
        Request::RequestPut(put(b"d", b"2")),
        Request::RequestDeleteRange(DeleteRangeRequest { key: b"b".to_vec().into(), ..DeleteRangeRequest::default() }),
    ];
    let success = ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect();
    store.batch().txn(&TxnRequest { success, ..TxnRequest::default() }, &lease_exists).unwrap().unwrap();
    let of = |revisions: std::ops::RangeInclusive<i64>| revisions.map(|revision| hash(revision).unwrap()).collect::<Vec<_>>();
    let all = [2587454935, 535221974, 1523780942, 3909293975, 3004811756, 597029551, 904886545];
    assert_eq!(of(2..=8), all);
    assert_eq!(
        (hash(0), hash(1), hash(-1), hash(9)),
        (Ok(904886545), Ok(1084519789), Ok(1084519789), Err(Error::FutureRevision))
    );
    compact(4);
    assert_eq!(hash(3), Err(Error::Compacted));
    assert_eq!(of(4..=8), [1670052297, 3373979763, 628040050, 1465877972, 3261697190]);
    compact(5);
    assert_eq!((hash(5), hash(6), hash(0)), (Ok(3966414695), Ok(634889788), Ok(1772930781)));
    compact(8);
    assert_eq!(hash(8), Ok(2107628030));
    write_delete(&store, "a", "z");
    assert_eq!(hash(9), Ok(4112658132));
    compact(9);
    assert_eq!(hash(9), Ok(1084519789), "nothing is left");
}

/// As above: a history at whose end no key exists.
#[test]
fn hashes_of_dead_keys_equal_those_of_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let file = backend(&dir);
    let store = open(&file);
    let hash = |revision| store.hash_kv(revision).unwrap().unwrap().hash;
    write_put(&store, "a", "1");
    write_put(&store, "b", "2");
    write_delete(&store, "a", "");
    write_delete(&store, "b", "");
    assert_eq!([2, 3, 4, 5].map(hash), [2587454935, 1827592406, 1562576432, 3647447639]);
    store.batch().compact(3).unwrap();
    scrub(&store, &file);
    assert_eq!([3, 4, 5].map(hash), [1827592406, 776148148, 3647447639]);
    store.batch().compact(4).unwrap();
    scrub(&store, &file);
    assert_eq!([4, 5].map(hash), [728145079, 1762963974]);
}

/// `cargo test --release --lib a_million -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn a_million_revisions_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let file = Arc::new(Backend::open(&dir.path().join("db"), Options { map_bytes: 4 << 30, no_fsync: true }).unwrap());
    let store = open(&file);
    for n in 0..1_000_000_u64 {
        // Half a million keys in no order, written twice.
        let key = format!("/registry/pods/default/pod-{:016x}", (n % 500_000).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        store.batch().put(&put(key.as_bytes(), &[b'v'; 200]), &lease_exists).unwrap().unwrap();
        if n % 50_000 == 49_999 {
            scrub(&store, &file);
        }
    }
    drop(store);
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find(|line| line.starts_with("RssAnon")).unwrap().to_owned()
    };
    let (before, begun) = (resident(), std::time::Instant::now());
    let store = open(&file);
    println!("{:?} for {:?}; before {before}, after {}", begun.elapsed(), store.stats(), resident());
}
