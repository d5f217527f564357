//! Codes and texts are protocol: etcd's clients look errors up by their text.

use bramble::pb::etcdserverpb::compare::{CompareResult, TargetUnion};
use bramble::pb::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, HashKvRequest, LeaseRevokeRequest, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use crate::support::grpc::Client;
use crate::support::requests::{
    IntoOp, Revision, Unary, cmp, compact, delete, delete_range, everything, grant, key, put, put_leased, range, then, txn,
};
use crate::support::{Code, Server, Status};

/// A request, its name, and the refusal it gets.
struct Case {
    name: &'static str,
    refusal: Box<dyn Fn(&Client) -> Result<String, Status>>,
    expected: Status,
}

fn case<R: Unary + 'static>(name: &'static str, request: R, code: Code, text: &str) -> Case {
    Case {
        name,
        refusal: Box::new(move |client| client.try_call(&request).map(|reply| format!("{reply:?}"))),
        expected: Status::new(code, text),
    }
}

/// Checks every case and names all that are wrong, not only the first. Nothing may have changed after them.
#[track_caller]
fn check(server: &Server, cases: Vec<Case>) {
    let client = server.client();
    let before = client.call(&everything());
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| match (case.refusal)(&client) {
            Err(status) if status == case.expected => None,
            other => Some(format!("{}: expected {:?}, got {other:?}", case.name, case.expected)),
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} cases are wrong\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let after = client.call(&everything());
    assert_eq!((before.kvs, before.count), (after.kvs, after.count), "a refused request changed something");
}

const NO_KEY: &str = "etcdserver: key is not provided";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const NO_LEASE: &str = "etcdserver: requested lease not found";
const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";
const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";

fn version_is(key: &str, version: i64) -> Compare {
    cmp(key, CompareResult::Equal, TargetUnion::Version(version))
}

fn puts(count: usize) -> Vec<RequestOp> {
    (0..count).map(|i| put(format!("many/{i}"), "").op()).collect()
}

#[test]
fn requests_without_a_key_are_refused() {
    let server = Server::start();
    let invalid = Code::InvalidArgument;
    check(
        &server,
        vec![
            case("range", key(""), invalid, NO_KEY),
            case("range with an end", range("", "z"), invalid, NO_KEY),
            case("put", put("", "1"), invalid, NO_KEY),
            case("delete", delete(""), invalid, NO_KEY),
            case("delete with an end", delete_range("", "z"), invalid, NO_KEY),
            case("put in txn", then(vec![put("", "1").op()]), invalid, NO_KEY),
            case("range in txn", then(vec![key("").op()]), invalid, NO_KEY),
            case("delete in txn", then(vec![delete("").op()]), invalid, NO_KEY),
            case("put in the branch not taken", txn(vec![], vec![], vec![put("", "1").op()]), invalid, NO_KEY),
            case("compare", txn(vec![version_is("", 0)], vec![], vec![]), invalid, NO_KEY),
            case("put in a nested txn", then(vec![then(vec![put("", "1").op()]).op()]), invalid, NO_KEY),
            case("compare in a nested txn", then(vec![txn(vec![version_is("", 0)], vec![], vec![]).op()]), invalid, NO_KEY),
        ],
    );
}

#[test]
fn puts_that_contradict_themselves_are_refused() {
    let server = Server::start();
    server.client().call(&put("old", "1"));
    let invalid = Code::InvalidArgument;
    let put_missing = || put("missing", "");
    check(
        &server,
        vec![
            case(
                "value and ignore_value",
                PutRequest { ignore_value: true, ..put("old", "2") },
                invalid,
                "etcdserver: value is provided",
            ),
            case(
                "lease and ignore_lease",
                PutRequest { ignore_lease: true, ..put_leased("old", "2", 7) },
                invalid,
                "etcdserver: lease is provided",
            ),
            case(
                "ignore_value of no key",
                PutRequest { ignore_value: true, ..put_missing() },
                invalid,
                "etcdserver: key not found",
            ),
            case(
                "ignore_lease of no key",
                PutRequest { ignore_lease: true, ..put_missing() },
                invalid,
                "etcdserver: key not found",
            ),
            case(
                "ignore_value of no key in txn",
                then(vec![put("a", "1").op(), PutRequest { ignore_value: true, ..put_missing() }.op()]),
                invalid,
                "etcdserver: key not found",
            ),
            case("unknown lease", put_leased("old", "2", 99), Code::NotFound, NO_LEASE),
            case("unknown lease in txn", then(vec![put("a", "1").op(), put_leased("b", "2", 99).op()]), Code::NotFound, NO_LEASE),
            case(
                "unknown lease in a nested txn",
                then(vec![then(vec![put_leased("b", "2", 99).op()]).op()]),
                Code::NotFound,
                NO_LEASE,
            ),
        ],
    );
}

#[test]
fn revisions_out_of_reach_are_refused() {
    let server = Server::start();
    let client = server.client();
    for i in 0..6 {
        client.call(&put("a", i.to_string()));
    }
    client.call(&compact(5));
    let at = |revision| RangeRequest { revision, ..key("a") };
    let missing_at = |revision| RangeRequest { revision, ..key("missing") };
    let out = Code::OutOfRange;
    check(
        &server,
        vec![
            case("range before the compaction", at(4), out, COMPACTED),
            case("range of a missing key before it", missing_at(4), out, COMPACTED),
            case("count before it", RangeRequest { count_only: true, ..at(1) }, out, COMPACTED),
            case("range in the future", at(8), out, FUTURE),
            case("range of a missing key in the future", missing_at(1000), out, FUTURE),
            case("serializable range in the future", RangeRequest { serializable: true, ..at(8) }, out, FUTURE),
            case("range in txn before the compaction", then(vec![put("b", "").op(), at(4).op()]), out, COMPACTED),
            case("range in txn at a negative revision", then(vec![at(-1).op()]), out, COMPACTED),
            case("range in txn in the future", then(vec![put("b", "").op(), at(8).op()]), out, FUTURE),
            case("range in a nested txn in the future", then(vec![then(vec![at(8).op()]).op()]), out, FUTURE),
            case("compaction that is done", compact(5), out, COMPACTED),
            case("compaction before it", compact(2), out, COMPACTED),
            case("negative compaction", compact(-1), out, COMPACTED),
            case("compaction in the future", compact(8), out, FUTURE),
            case("logical compaction in the future", CompactionRequest { revision: 8, physical: false }, out, FUTURE),
            case("hash before the compaction", HashKvRequest { revision: 4 }, out, COMPACTED),
            case("hash in the future", HashKvRequest { revision: 8 }, out, FUTURE),
        ],
    );
}

#[test]
fn transactions_out_of_bounds_are_refused() {
    let server = Server::start();
    let invalid = Code::InvalidArgument;
    let compares = |count| (0..count).map(|_| version_is("a", 0)).collect::<Vec<_>>();
    let empty_op = || RequestOp { request: None };
    let inner = |ops| then(ops).op();
    let nested_else = |ops| txn(vec![version_is("a", 9)], vec![], ops).op();
    check(
        &server,
        vec![
            case("129 compares", txn(compares(129), vec![], vec![]), invalid, TOO_MANY_OPS),
            case("129 operations", then(puts(129)), invalid, TOO_MANY_OPS),
            case("129 operations in the other branch", txn(vec![], vec![], puts(129)), invalid, TOO_MANY_OPS),
            case("a nested txn has what its parent left", then(vec![inner(puts(128))]), invalid, TOO_MANY_OPS),
            case("an operation that is none", then(vec![empty_op()]), invalid, "etcdserver: key not found"),
            case("a key put twice", then(vec![put("a", "1").op(), put("a", "2").op()]), invalid, DUPLICATE),
            case(
                "a key put twice in the branch not taken",
                txn(vec![], vec![], vec![put("a", "1").op(), put("a", "2").op()]),
                invalid,
                DUPLICATE,
            ),
            case("a key put and deleted", then(vec![put("a", "1").op(), delete("a").op()]), invalid, DUPLICATE),
            case("a key deleted and put", then(vec![delete("a").op(), put("a", "1").op()]), invalid, DUPLICATE),
            case("a key put in a deleted range", then(vec![delete_range("a", "c").op(), put("b", "1").op()]), invalid, DUPLICATE),
            case(
                "a key put within and without",
                then(vec![put("a", "1").op(), inner(vec![put("a", "2").op()])]),
                invalid,
                DUPLICATE,
            ),
            case(
                "a key put in two nested txns",
                then(vec![inner(vec![put("a", "1").op()]), nested_else(vec![put("a", "2").op()])]),
                invalid,
                DUPLICATE,
            ),
            case(
                "a key deleted within, put without",
                then(vec![inner(vec![delete("a").op()]), put("a", "2").op()]),
                invalid,
                DUPLICATE,
            ),
        ],
    );
    let client = server.client();
    client.call(&then(puts(128)));
    client.call(&then(vec![delete("a").op(), delete_range("a", "c").op(), inner(vec![delete("a").op()])]));
    client.call(&txn(compares(128), vec![put("a", "1").op()], vec![put("a", "2").op()]));
    client.call(&then(vec![inner(puts(127))]));
    // etcd takes the end of an open range literally here, so that it overlaps with nothing.
    client.call(&then(vec![delete_range("a", "\0").op(), put("b", "1").op()]));
}

#[test]
fn sort_options_that_do_not_exist_are_refused() {
    let server = Server::start();
    let text = "etcdserver: invalid sort option";
    let invalid = Code::InvalidArgument;
    check(
        &server,
        vec![
            case("order", RangeRequest { sort_order: 3, ..key("a") }, invalid, text),
            case("target", RangeRequest { sort_target: 5, ..key("a") }, invalid, text),
            case("negative order", RangeRequest { sort_order: -1, ..key("a") }, invalid, text),
            case("in txn", then(vec![RangeRequest { sort_order: 1000, ..key("a") }.op()]), invalid, text),
        ],
    );
}

#[test]
fn requests_above_the_limit_are_refused() {
    let server = Server::start();
    let big = |size: usize| put("big", vec![b'x'; size]);
    let text = "etcdserver: request is too large";
    check(
        &server,
        vec![
            case("put", big(1_572_864), Code::InvalidArgument, text),
            case("txn", then(vec![big(1_572_864).op()]), Code::InvalidArgument, text),
            case(
                "two halves",
                then(vec![big(800_000).op(), put("other", vec![b'x'; 800_000]).op()]),
                Code::InvalidArgument,
                text,
            ),
            case(
                "above what a message may have",
                big(2_097_152),
                Code::ResourceExhausted,
                "grpc: received message larger than max (2097162 vs. 2097152)",
            ),
        ],
    );
    let client = server.client();
    assert_eq!(client.call(&big(1_572_000)).revision(), 2, "the limit is for the encoded request");
    assert_eq!(client.call(&key("big")).kvs[0].value.len(), 1_572_000);
}

#[test]
fn leases_that_cannot_be_are_refused() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(100, 7));
    check(
        &server,
        vec![
            case("an id that is taken", grant(100, 7), Code::FailedPrecondition, "etcdserver: lease already exists"),
            case("a TTL of centuries", grant(9_000_000_001, 0), Code::OutOfRange, "etcdserver: too large lease TTL"),
            case("revoking what is not there", LeaseRevokeRequest { id: 99 }, Code::NotFound, NO_LEASE),
            case("revoking no lease", LeaseRevokeRequest { id: 0 }, Code::NotFound, NO_LEASE),
        ],
    );
    assert_eq!(client.call(&grant(9_000_000_000, 8)).ttl, 9_000_000_000);
}

#[test]
fn members_that_are_not_there_cannot_be_changed() {
    let server = Server::start();
    let text = "etcdserver: member not found";
    check(
        &server,
        vec![
            case("update", MemberUpdateRequest { id: 1, peer_ur_ls: vec!["http://127.0.0.1:1".into()] }, Code::NotFound, text),
            case("remove", MemberRemoveRequest { id: 1 }, Code::NotFound, text),
            case("promote", MemberPromoteRequest { id: 1 }, Code::NotFound, text),
            case("update to no URL", MemberUpdateRequest { id: 1, peer_ur_ls: vec!["nonsense".into()] }, Code::NotFound, text),
        ],
    );
}

#[test]
fn the_first_fault_in_etcds_order_is_the_one_that_is_told() {
    let server = Server::start();
    let client = server.client();
    client.call(&put("a", "1"));
    let both = TxnRequest { compare: vec![version_is("", 0)], success: puts(129), failure: vec![] };
    assert_eq!(client.fail(&both).message, TOO_MANY_OPS, "counts come before keys");
    let key_first = then(vec![put("", "1").op(), put("a", "1").op(), put("a", "1").op()]);
    assert_eq!(client.fail(&key_first).message, NO_KEY, "keys come before duplicates");
    let value_first = PutRequest { ignore_value: true, ignore_lease: true, ..put_leased("a", "2", 99) };
    assert_eq!(client.fail(&value_first).message, "etcdserver: value is provided");
    let empty_first = DeleteRangeRequest { prev_kv: true, ..delete("") };
    assert_eq!(client.fail(&empty_first).message, NO_KEY);
    let sort_and_key = RangeRequest { sort_order: 9, ..key("") };
    assert_eq!(client.fail(&sort_and_key).message, NO_KEY);
}
