//! Compactions beside other things: another compaction, a checkpoint, a hash.

use std::sync::Barrier;
use std::thread;

use super::*;

/// Puts of many keys in one transaction.
fn write_many(store: &Store, keys: std::ops::Range<usize>, value: &str) {
    let op = |n| RequestOp { request: Some(Request::RequestPut(put(format!("key{n:05}").as_bytes(), value.as_bytes()))) };
    let request = TxnRequest { success: keys.map(op).collect(), ..TxnRequest::default() };
    store.batch().txn(&request, &lease_exists).unwrap().unwrap();
}

#[test]
fn a_compaction_during_another_prunes_what_was_pruned_before() {
    let (dir, store) = fresh();
    drop(store);
    let backend = backend(&dir);
    let store = open(&backend);
    for value in ["first", "second", "third"] {
        write_many(&store, 0..2500, value);
    }
    store.batch().compact(3).unwrap();
    assert!(store.prune_step(), "one step is not enough");
    store.batch().compact(4).unwrap();
    scrub(&store, &backend);
    let kept = stored_revisions(&backend);
    assert_eq!(kept.len(), 2500);
    assert!(kept.iter().all(|revision| revision.main == 4), "{kept:?}");
}

#[test]
fn a_row_written_during_a_checkpoint_stays_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let backend = backend(&dir);
    let store = open(&backend);
    write_put(&store, "a", "1");
    let checkpoint = store.checkpoint();
    write_put(&store, "a", "2");
    backend.write(|writer| checkpoint.write(writer)).unwrap();
    store.checkpointed(&checkpoint);
    assert_eq!(stored_revisions(&backend), [Revision::first_of(2)]);
    for (revision, value) in [(2, "1"), (3, "2")] {
        let mut answer = store.range(&everything(revision)).unwrap().unwrap();
        assert_eq!(drain(&mut answer.rows)[0].value, value);
    }
}

/// Hashes made while history is compacted and removed below them are those of one of the two states, never of a mixture.
#[test]
fn a_hash_under_way_keeps_its_rows() {
    for round in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(&dir);
        let store = open(&backend);
        for value in ["first", "second", "third", "fourth"] {
            write_many(&store, 0..3000, value);
        }
        store.batch().compact(3).unwrap();
        scrub(&store, &backend);
        let before = store.hash_kv(0).unwrap().unwrap();
        let begin = Barrier::new(2);
        let hashed = thread::scope(|scope| {
            let hashing = scope.spawn(|| {
                begin.wait();
                [store.hash_kv(0), store.hash_kv(0)].map(|hash| hash.unwrap().unwrap())
            });
            begin.wait();
            store.batch().compact(4).unwrap();
            scrub(&store, &backend);
            hashing.join().unwrap()
        });
        let after = store.hash_kv(0).unwrap().unwrap();
        assert_ne!(before.hash, after.hash);
        for hash in hashed {
            assert!(hash == before || hash == after, "round {round}: {hash:?} is neither {before:?} nor {after:?}");
        }
    }
}
