//! Transactions.

use bramble::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use bramble::pb::etcdserverpb::response_op::Response;
use bramble::pb::etcdserverpb::{Compare, DeleteRangeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, TxnResponse};

use crate::support::requests::{
    IntoOp, Revision, bytes, cmp, delete, delete_range, everything, grant, key, prefix, put, put_leased, then, txn,
};
use crate::support::{Client, Server};

fn holds(client: &Client, compare: Compare) -> bool {
    client.call(&txn(vec![compare], vec![], vec![])).succeeded
}

/// The revision in the header of each operation's answer.
fn inner_revisions(reply: &TxnResponse) -> Vec<i64> {
    let revision = |response: &Response| match response {
        Response::ResponseRange(reply) => reply.revision(),
        Response::ResponsePut(reply) => reply.revision(),
        Response::ResponseDeleteRange(reply) => reply.revision(),
        Response::ResponseTxn(reply) => reply.revision(),
    };
    reply.responses.iter().map(|op| revision(op.response.as_ref().expect("an answer"))).collect()
}

#[test]
fn an_empty_transaction_succeeds_and_changes_nothing() {
    let server = Server::start();
    let reply = server.client().call(&then(vec![]));
    assert!(reply.succeeded && reply.responses.is_empty());
    assert_eq!(reply.revision(), 1);
}

#[test]
fn every_compare_has_to_hold() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    client.call(&put("a", "1"));
    client.call(&put_leased("a", "2", 7));
    use CompareResult::{Equal, Greater, Less, NotEqual};
    let facts = [
        (TargetUnion::Version(2), TargetUnion::Version(1), TargetUnion::Version(3)),
        (TargetUnion::CreateRevision(2), TargetUnion::CreateRevision(1), TargetUnion::CreateRevision(3)),
        (TargetUnion::ModRevision(3), TargetUnion::ModRevision(2), TargetUnion::ModRevision(4)),
        (TargetUnion::Value(bytes("2")), TargetUnion::Value(bytes("1")), TargetUnion::Value(bytes("20"))),
        (TargetUnion::Lease(7), TargetUnion::Lease(6), TargetUnion::Lease(8)),
    ];
    for (same, below, above) in facts {
        let check = |result, with: &TargetUnion| holds(&client, cmp("a", result, with.clone()));
        assert_eq!([check(Equal, &same), check(Equal, &below), check(Equal, &above)], [true, false, false], "{same:?}");
        assert_eq!([check(NotEqual, &same), check(NotEqual, &below), check(NotEqual, &above)], [false, true, true], "{same:?}");
        assert_eq!([check(Greater, &same), check(Greater, &below), check(Greater, &above)], [false, true, false], "{same:?}");
        assert_eq!([check(Less, &same), check(Less, &below), check(Less, &above)], [false, false, true], "{same:?}");
    }
    let both = vec![cmp("a", Equal, TargetUnion::Version(2)), cmp("a", Equal, TargetUnion::Version(3))];
    assert!(!client.call(&txn(both, vec![], vec![])).succeeded);
}

#[test]
fn a_missing_key_compares_as_zero_but_has_no_value() {
    let server = Server::start();
    let client = server.client();
    use CompareResult::{Equal, Greater, Less, NotEqual};
    for zero in [TargetUnion::Version(0), TargetUnion::CreateRevision(0), TargetUnion::ModRevision(0), TargetUnion::Lease(0)] {
        assert!(holds(&client, cmp("missing", Equal, zero.clone())), "{zero:?}");
        assert!(!holds(&client, cmp("missing", NotEqual, zero.clone())), "{zero:?}");
        assert!(!holds(&client, cmp("missing", Greater, zero.clone())), "{zero:?}");
    }
    assert!(holds(&client, cmp("missing", Less, TargetUnion::Version(1))));
    for result in [Equal, NotEqual, Greater, Less] {
        for value in ["", "x"] {
            assert!(!holds(&client, cmp("missing", result, TargetUnion::Value(bytes(value)))), "{result:?} {value:?}");
        }
    }
}

#[test]
fn a_compare_of_a_range_holds_if_it_holds_for_every_key() {
    let server = Server::start();
    let client = server.client();
    for name in ["k1", "k2", "k3"] {
        client.call(&put(name, "same"));
    }
    client.call(&put("k2", "same"));
    let over = |from: &str, to: &str, result, with| Compare { range_end: bytes(to), ..cmp(from, result, with) };
    use CompareResult::{Equal, Greater, NotEqual};
    assert!(holds(&client, over("k", "l", Equal, TargetUnion::Value(bytes("same")))));
    assert!(!holds(&client, over("k", "l", Equal, TargetUnion::Version(1))));
    assert!(holds(&client, over("k", "l", Greater, TargetUnion::Version(0))));
    assert!(holds(&client, over("k3", "\0", Equal, TargetUnion::Version(1))), "an open range");
    assert!(holds(&client, over("x", "y", Equal, TargetUnion::Version(0))), "an empty range is a missing key");
    assert!(!holds(&client, over("x", "y", Equal, TargetUnion::Version(1))));
    assert!(!holds(&client, over("x", "y", NotEqual, TargetUnion::Value(bytes("any")))));
}

#[test]
fn odd_compares_are_read_as_etcd_reads_them() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    let mismatched =
        Compare { target: CompareTarget::Version as i32, ..cmp("a", CompareResult::Equal, TargetUnion::Value(bytes("1"))) };
    assert!(!holds(&client, mismatched.clone()), "a union of another kind is zero");
    assert!(holds(&client, Compare { key: bytes("missing"), ..mismatched }));
    let unset = Compare { target_union: None, ..cmp("a", CompareResult::Greater, TargetUnion::Version(0)) };
    assert!(holds(&client, unset));
    let no_result = Compare { result: 9, ..cmp("a", CompareResult::Equal, TargetUnion::Version(100)) };
    assert!(holds(&client, no_result), "an unknown result is true");
    let no_target = Compare { target: 9, ..cmp("a", CompareResult::Equal, TargetUnion::Version(100)) };
    assert!(holds(&client, no_target), "an unknown target is equal");
}

#[test]
fn the_branch_taken_runs_in_order_at_one_revision() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("b", "old"));
    let reply = client.call(&then(vec![
        everything().op(),
        put("a", "1").op(),
        everything().op(),
        DeleteRangeRequest { prev_kv: true, ..delete("b") }.op(),
        put("c", "1").op(),
        delete("missing").op(),
        everything().op(),
    ]));
    assert!(reply.succeeded);
    assert_eq!(reply.revision(), 3);
    let keys: Vec<Vec<String>> = reply
        .responses
        .iter()
        .filter_map(|op| match op.response.as_ref() {
            Some(Response::ResponseRange(range)) => {
                Some(range.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect())
            }
            _ => None,
        })
        .collect();
    assert_eq!(keys, [vec!["b"], vec!["a", "b"], vec!["a", "c"]], "a range sees what came before it");
    assert_eq!(inner_revisions(&reply), [2, 3, 3, 3, 3, 3, 3]);
    let modified: Vec<i64> = client.call(&everything()).kvs.iter().map(|kv| kv.mod_revision).collect();
    assert_eq!(modified, [3, 3]);
}

#[test]
fn the_other_branch_runs_if_a_compare_fails() {
    let server = Server::start();
    let client = server.client();
    let create = txn(
        vec![cmp("lock", CompareResult::Equal, TargetUnion::ModRevision(0))],
        vec![put("lock", "mine").op()],
        vec![key("lock").op()],
    );
    let first = client.call(&create);
    assert!(first.succeeded);
    assert_eq!(first.revision(), 2);
    let second = client.call(&create);
    assert!(!second.succeeded);
    assert_eq!(second.revision(), 2, "nothing was written");
    let Some(Response::ResponseRange(range)) = &second.responses[0].response else { panic!("not a range: {second:?}") };
    assert_eq!(range.kvs[0].mod_revision, 2);
}

#[test]
fn reads_and_deletions_of_nothing_take_no_revision() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    for request in [
        then(vec![key("a").op(), everything().op()]),
        then(vec![delete("missing").op(), delete_range("x", "z").op()]),
        txn(vec![], vec![key("a").op()], vec![put("a", "2").op()]),
        then(vec![then(vec![key("a").op()]).op()]),
    ] {
        let reply = client.call(&request);
        assert_eq!(reply.revision(), 2);
    }
    let no_op_first = client.call(&then(vec![delete("missing").op(), key("a").op(), put("b", "1").op(), key("b").op()]));
    assert_eq!(inner_revisions(&no_op_first), [2, 2, 3, 3], "the revision is taken by the first write that changes something");
    assert_eq!(no_op_first.revision(), 3);
}

#[test]
fn one_transaction_may_write_128_keys_and_deletes_many() {
    let server = Server::start();
    let client = server.client();
    let reply = client.call(&then((0..128).map(|i| put(format!("k{i:03}"), "").op()).collect()));
    assert_eq!((reply.revision(), reply.responses.len()), (2, 128));
    let reply = client.call(&then(vec![delete_range("k000", "k050").op(), delete_range("k025", "k100").op(), put("x", "").op()]));
    let deleted: Vec<i64> = reply
        .responses
        .iter()
        .filter_map(|op| match op.response.as_ref() {
            Some(Response::ResponseDeleteRange(reply)) => Some(reply.deleted),
            _ => None,
        })
        .collect();
    assert_eq!(deleted, [50, 50], "the second sees what the first has left");
    assert_eq!(client.call(&prefix("k")).count, 28);
}

#[test]
fn nested_compares_are_decided_before_anything_is_written() {
    let server = Server::start();
    let client = server.client();
    let is_new = || vec![cmp("a", CompareResult::Equal, TargetUnion::Version(0))];
    let reply = client.call(&then(vec![
        put("a", "1").op(),
        txn(is_new(), vec![put("inner", "new").op()], vec![put("inner", "old").op()]).op(),
        key("inner").op(),
    ]));
    let Some(Response::ResponseTxn(inner)) = &reply.responses[1].response else { panic!("not a txn: {reply:?}") };
    assert!(inner.succeeded, "the write of the outer transaction is not seen");
    assert_eq!(inner.header.as_ref().expect("a header, though an empty one").revision, 0);
    let Some(Response::ResponseRange(range)) = &reply.responses[2].response else { panic!("not a range: {reply:?}") };
    assert_eq!(range.kvs[0].value, "new");
    assert_eq!(range.kvs[0].mod_revision, 2, "nested writes share the revision");
    assert_eq!(reply.revision(), 2);
}

#[test]
fn a_failing_operation_fails_the_whole_transaction() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    client.fail(&then(vec![put("b", "1").op(), delete("a").op(), put_leased("c", "1", 99).op()]));
    client.fail(&then(vec![put("b", "1").op(), PutRequest { ignore_value: true, ..put("missing", "") }.op()]));
    client.fail(&then(vec![put("b", "1").op(), RangeRequest { revision: 100, ..key("a") }.op()]));
    let state = client.call(&everything());
    assert_eq!((state.revision(), state.count), (2, 1));
    let not_taken = txn(vec![], vec![put("b", "1").op()], vec![put_leased("c", "1", 99).op()]);
    assert!(client.call(&not_taken).succeeded, "a lease is looked up only on the branch taken");
}

#[test]
fn leases_are_attached_by_a_transaction() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    client.call(&then(vec![put_leased("a", "1", 7).op(), put_leased("b", "1", 7).op()]));
    let mut keys = client.call(&LeaseTimeToLiveRequest { id: 7, keys: true }).keys;
    keys.sort();
    assert_eq!(keys, ["a", "b"]);
    client.call(&then(vec![delete("a").op()]));
    assert_eq!(client.call(&LeaseTimeToLiveRequest { id: 7, keys: true }).keys, ["b"]);
}

#[test]
fn a_range_in_a_transaction_reads_old_revisions_too() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    client.call(&put("a", "2"));
    let reply = client.call(&then(vec![put("a", "3").op(), RangeRequest { revision: 2, ..key("a") }.op(), key("a").op()]));
    let values: Vec<_> = reply
        .responses
        .iter()
        .filter_map(|op| match op.response.as_ref() {
            Some(Response::ResponseRange(range)) => Some(range.kvs[0].value.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(values, ["1", "3"]);
}

#[test]
fn racing_creations_have_one_winner() {
    let server = Server::start();
    let winners: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|racer| {
                let client = server.client();
                scope.spawn(move || {
                    let won = |round| {
                        let name = format!("lock/{round}");
                        let request = txn(
                            vec![cmp(&name, CompareResult::Equal, TargetUnion::CreateRevision(0))],
                            vec![put(&name, racer.to_string()).op()],
                            vec![],
                        );
                        client.call(&request).succeeded
                    };
                    (0..20).filter(|round| won(*round)).count()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert_eq!(winners, 20);
    assert_eq!(server.client().call(&everything()).revision(), 21);
}
