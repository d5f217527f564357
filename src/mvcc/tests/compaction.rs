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

/// A store with four revisions of three thousand keys, all in the checkpoint and compacted to the second of them.
fn four_times_three_thousand(dir: &TempDir) -> (Arc<Backend>, Store) {
    let backend = backend(dir);
    let store = open(&backend);
    for value in ["first", "second", "third", "fourth"] {
        write_many(&store, 0..3000, value);
    }
    store.batch().compact(3).unwrap();
    scrub(&store, &backend);
    (backend, store)
}

/// What `hashing` gives while history is compacted to `to` and removed below.
fn while_compacting<T: Send>(store: &Store, backend: &Backend, to: i64, hashing: impl FnOnce() -> T + Send) -> T {
    let begin = Barrier::new(2);
    thread::scope(|scope| {
        let hashing = scope.spawn(|| {
            begin.wait();
            hashing()
        });
        begin.wait();
        store.batch().compact(to).unwrap();
        scrub(store, backend);
        hashing.join().unwrap()
    })
}

/// Hashes made while history is compacted and removed below them are those of one of the two states, never of a mixture.
#[test]
fn a_hash_under_way_keeps_its_rows() {
    for round in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let (backend, store) = four_times_three_thousand(&dir);
        let hash = || store.hash_kv(0).unwrap().unwrap();
        let before = hash();
        let hashed = while_compacting(&store, &backend, 5, || [hash(), hash()]);
        let after = hash();
        assert_ne!(before.hash, after.hash);
        for hash in hashed {
            assert!(hash == before || hash == after, "round {round}: {hash:?} is neither {before:?} nor {after:?}");
        }
    }
}

#[test]
fn a_hash_that_a_compaction_overtakes_is_refused() {
    for round in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let (backend, store) = four_times_three_thousand(&dir);
        let (at, all_deleted) = if round % 2 == 0 { (4, false) } else { (6, true) };
        if all_deleted {
            write_delete(&store, "a", "z");
            scrub(&store, &backend);
        }
        let hash = || store.hash_kv(at).unwrap();
        let before = hash();
        let hashed = while_compacting(&store, &backend, if all_deleted { 6 } else { 5 }, hash);
        let after = if all_deleted { hash() } else { Err(Error::Compacted) };
        assert!([before.clone(), after, Err(Error::Compacted)].contains(&hashed), "round {round}: {hashed:?} and not {before:?}");
    }
}

#[test]
fn a_hash_is_the_same_wherever_its_rows_are() {
    let dir = tempfile::tempdir().unwrap();
    let backend = backend(&dir);
    let store = open(&backend);
    for value in ["first", "second"] {
        write_many(&store, 0..2500, value);
    }
    let hashes = || [0, 2, 3].map(|revision| store.hash_kv(revision).unwrap().unwrap().hash);
    let in_memory = hashes();
    assert_eq!((in_memory[0] == in_memory[2], in_memory[0] == in_memory[1]), (true, false));
    scrub(&store, &backend);
    assert_eq!(hashes(), in_memory);
    write_many(&store, 0..1, "third");
    assert_eq!(hashes()[1..], in_memory[1..], "in both");
}
