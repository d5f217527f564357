//! Pages of history: bounded, whole, and never of what is compacted.

use std::cell::Cell;

use super::*;

fn all_keys(_: &[u8]) -> bool {
    true
}

#[test]
fn a_page_of_rows_that_nobody_wants_ends_too() {
    let dir = tempfile::tempdir().unwrap();
    let backend = backend(&dir);
    let store = open(&backend);
    let op = |n: usize| RequestOp { request: Some(Request::RequestPut(put(format!("{n}").as_bytes(), b""))) };
    let request = TxnRequest { success: (0..5000).map(op).collect(), ..TxnRequest::default() };
    for _ in 2..=4 {
        store.batch().txn(&request, &lease_exists).unwrap().unwrap();
    }
    for in_memory in [true, false] {
        if !in_memory {
            scrub(&store, &backend);
        }
        let page = store.page(2, usize::MAX, &|_| false).unwrap();
        assert_eq!((page.next, page.current, page.events.len()), (4, 4, 0), "10,000 rows, and not into the third transaction");
        let page = store.page(4, usize::MAX, &all_keys).unwrap();
        assert_eq!((page.next, page.events.len()), (5, 5000));
    }
}

#[test]
fn a_page_holds_the_bytes_it_may_and_the_row_that_fills_it() {
    let (_dir, store) = fresh();
    for _ in 2..=9 {
        write_put(&store, "a", "one hundred bytes or so");
    }
    let all = store.page(2, usize::MAX, &all_keys).unwrap();
    assert_eq!((all.next, all.events.len()), (10, 8));
    let count = |max_bytes| store.page(2, max_bytes, &all_keys).unwrap().events.len();
    let row = (1..1000).find(|max_bytes| count(*max_bytes) > 1).expect("a row is short") - 1;
    assert_eq!([0, 1, row, row + 1, 3 * row, 3 * row + 1, 7 * row + 1].map(count), [1, 1, 1, 2, 3, 4, 8]);
}

#[test]
fn a_page_that_a_compaction_overtakes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let backend = backend(&dir);
    let store = open(&backend);
    for _ in 2..=6 {
        write_put(&store, "a", "");
    }
    scrub(&store, &backend);
    let compacted = Cell::new(false);
    let compacting = |_: &[u8]| {
        if !compacted.replace(true) {
            store.batch().compact(5).unwrap();
        }
        true
    };
    match store.page(3, usize::MAX, &compacting) {
        Err(HistoryError::Compacted(5)) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_before_the_compacted_revision_is_no_previous_value() {
    let (_dir, store) = fresh();
    for _ in 2..=4 {
        write_put(&store, "a", "");
    }
    // Not pruned: the index still knows what was there.
    store.batch().compact(3).unwrap();
    let page = store.page(3, usize::MAX, &all_keys).unwrap();
    let before: Vec<_> = page.events.iter().map(|event| event.prev.revision.map(|prev| prev.main)).collect();
    assert_eq!(before, [None, Some(3)]);
}

/// What watchers are told at once, and what those who lag read later.
#[test]
fn a_key_that_its_transaction_deletes_and_creates_anew_has_nothing_before() {
    let (_dir, store) = fresh();
    write_put(&store, "b", "0");
    let delete = DeleteRangeRequest { key: b"a".to_vec().into(), range_end: vec![0].into(), prev_kv: false };
    let ops = [Request::RequestDeleteRange(delete), Request::RequestPut(put(b"b", b"1"))];
    let request =
        TxnRequest { success: ops.map(|op| RequestOp { request: Some(op) }).into_iter().collect(), ..TxnRequest::default() };
    let mut batch = store.batch();
    let written = batch.txn(&request, &lease_exists).unwrap().unwrap();
    let told: Vec<_> = written.changes.iter().map(|change| batch.event(change)).collect();
    drop(batch);
    let read = store.page(3, usize::MAX, &all_keys).unwrap().events;
    for events in [told, read] {
        let before: Vec<_> = events.iter().map(|event| event.prev.revision).collect();
        assert_eq!(before, [Some(Revision::first_of(2)), None]);
    }
}

/// As in etcd: with a sort target, no order and a filter, all that pass are sorted before the limit cuts.
#[test]
fn a_limit_cuts_behind_a_filter_that_has_sorted() {
    let (_dir, store) = fresh();
    for key in ["c", "b", "a"] {
        write_put(&store, key, "");
    }
    let request = RangeRequest {
        limit: 1,
        sort_target: crate::pb::etcdserverpb::range_request::SortTarget::Mod as i32,
        min_mod_revision: 1,
        ..everything(0)
    };
    let mut answer = store.range(&request).unwrap().unwrap();
    assert_eq!((answer.count, answer.more), (3, true));
    assert_eq!(drain(&mut answer.rows)[0].key, "c");
}
