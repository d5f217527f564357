use super::*;
use crate::pb::etcdserverpb::Compare;

fn range_of(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

fn put_of(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), ..PutRequest::default() }
}

fn op(request: impl Into<Option<Request>>) -> RequestOp {
    RequestOp { request: request.into() }
}

fn put_op(key: &str) -> RequestOp {
    op(Request::RequestPut(put_of(key)))
}

fn delete_op(key: &str, range_end: &str) -> RequestOp {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    op(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() }))
}

fn range_op(serializable: bool) -> RequestOp {
    op(Request::RequestRange(RangeRequest { serializable, ..range_of("a") }))
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest { success, failure, ..TxnRequest::default() }))
}

fn then(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..TxnRequest::default() }
}

#[test]
fn a_request_without_a_key_is_refused() {
    assert_eq!(range(&range_of("")), Err(Error::EmptyKey));
    assert_eq!(put(&put_of("")), Err(Error::EmptyKey));
    assert_eq!(delete_range(&DeleteRangeRequest::default()), Err(Error::EmptyKey));
    assert_eq!(txn(&then(vec![put_op("")]), 128), Err(Error::EmptyKey));
    let compared = TxnRequest { compare: vec![Compare::default()], ..TxnRequest::default() };
    assert_eq!(txn(&compared, 128), Err(Error::EmptyKey));
}

#[test]
fn an_unknown_sort_option_is_refused_after_a_missing_key() {
    let unknown_order = |key| RangeRequest { sort_order: 3, ..range_of(key) };
    assert_eq!(range(&unknown_order("a")), Err(Error::InvalidSortOption));
    assert_eq!(range(&unknown_order("")), Err(Error::EmptyKey));
    assert_eq!(range(&RangeRequest { sort_target: 5, ..range_of("a") }), Err(Error::InvalidSortOption));
    assert_eq!(range(&RangeRequest { sort_order: 2, sort_target: 4, ..range_of("a") }), Ok(()));
}

#[test]
fn a_stream_knows_key_order_and_no_filters() {
    let stream = |sort_order: SortOrder, sort_target: SortTarget, max_mod_revision| {
        let (sort_order, sort_target) = (sort_order.into(), sort_target.into());
        range_stream(&RangeRequest { sort_order, sort_target, max_mod_revision, ..range_of("a") })
    };
    assert_eq!(stream(SortOrder::None, SortTarget::Key, 0), Ok(()));
    assert_eq!(stream(SortOrder::Ascend, SortTarget::Key, 0), Ok(()));
    assert_eq!(stream(SortOrder::Descend, SortTarget::Key, 0), Err(Error::StreamSort));
    assert_eq!(stream(SortOrder::Ascend, SortTarget::Mod, 0), Err(Error::StreamSort));
    assert_eq!(stream(SortOrder::None, SortTarget::Value, 0), Err(Error::StreamSort));
    assert_eq!(stream(SortOrder::None, SortTarget::Key, 4), Err(Error::StreamRevisionFilter));
    assert_eq!(stream(SortOrder::Descend, SortTarget::Key, 4), Err(Error::StreamSort));
    let min_create = RangeRequest { min_create_revision: -1, ..range_of("a") };
    assert_eq!(range_stream(&min_create), Err(Error::StreamRevisionFilter));
    assert_eq!(range_stream(&RangeRequest { sort_order: 9, ..range_of("a") }), Err(Error::InvalidSortOption));
}

#[test]
fn a_put_that_ignores_a_field_may_not_bring_it() {
    let with_value = PutRequest { ignore_value: true, value: "v".into(), ..put_of("a") };
    assert_eq!(put(&with_value), Err(Error::ValueProvided));
    assert_eq!(put(&PutRequest { ignore_lease: true, lease: 7, ..put_of("a") }), Err(Error::LeaseProvided));
    assert_eq!(put(&PutRequest { ignore_lease: true, lease: 7, ..with_value }), Err(Error::ValueProvided));
    assert_eq!(put(&PutRequest { ignore_lease: true, ignore_value: true, ..put_of("a") }), Ok(()));
}

#[test]
fn each_list_of_a_transaction_is_counted_alone() {
    let reads = |count| vec![range_op(false); count];
    let compares = |count| vec![Compare { key: "a".into(), ..Compare::default() }; count];
    let full = TxnRequest { compare: compares(4), success: reads(4), failure: reads(4) };
    assert_eq!(txn(&full, 4), Ok(()));
    assert_eq!(txn(&TxnRequest { compare: compares(5), ..full.clone() }, 4), Err(Error::TooManyOps));
    assert_eq!(txn(&TxnRequest { success: reads(5), ..full.clone() }, 4), Err(Error::TooManyOps));
    assert_eq!(txn(&TxnRequest { failure: reads(5), ..full }, 4), Err(Error::TooManyOps));
}

#[test]
fn too_many_operations_are_refused_before_any_is_looked_at() {
    assert_eq!(txn(&then(vec![put_op(""); 5]), 4), Err(Error::TooManyOps));
}

#[test]
fn a_nested_transaction_has_what_the_longest_list_around_it_leaves() {
    let reads = |count| vec![range_op(false); count];
    let around = |inner: usize| TxnRequest {
        success: vec![nested(reads(inner), vec![]), range_op(false)],
        failure: reads(3),
        ..TxnRequest::default()
    };
    assert_eq!(txn(&around(5), 8), Ok(()));
    assert_eq!(txn(&around(6), 8), Err(Error::TooManyOps));
}

#[test]
fn what_nests_deeper_than_a_log_entry_could_be_decoded_is_refused() {
    let deep = |levels: usize| (0..levels).fold(then(vec![put_op("a")]), |inner, _| then(vec![op(Request::RequestTxn(inner))]));
    assert_eq!(txn(&deep(MAX_NESTED), 128), Ok(()));
    assert_eq!(txn(&deep(MAX_NESTED + 1), 128), Err(Error::TooManyOps));
    let entry = crate::pb::etcdserverpb::InternalRaftRequest { txn: Some(deep(MAX_NESTED)), ..Default::default() };
    let bytes = prost::Message::encode_to_vec(&entry);
    assert_eq!(<crate::pb::etcdserverpb::InternalRaftRequest as prost::Message>::decode(&bytes[..]), Ok(entry));
}

#[test]
fn an_operation_that_is_none_is_refused() {
    assert_eq!(txn(&then(vec![op(None)]), 128), Err(Error::KeyNotFound));
    assert_eq!(txn(&then(vec![nested(vec![], vec![op(None)])]), 128), Err(Error::KeyNotFound));
    // The first in order: compares, then both branches.
    let mixed = TxnRequest { success: vec![op(None)], failure: vec![put_op("")], ..TxnRequest::default() };
    assert_eq!(txn(&mixed, 128), Err(Error::KeyNotFound));
    assert_eq!(txn(&TxnRequest { compare: vec![Compare::default()], ..mixed }, 128), Err(Error::EmptyKey));
}

#[test]
fn no_key_is_written_twice_in_a_branch() {
    let refused = Err(Error::DuplicateKey);
    for (list, expected) in [
        (vec![put_op("a"), put_op("b")], Ok(())),
        (vec![put_op("a"), put_op("a")], refused.clone()),
        (vec![put_op("b"), delete_op("a", "c")], refused.clone()),
        (vec![delete_op("a", "c"), put_op("b")], refused.clone()),
        (vec![delete_op("b", ""), put_op("b")], refused.clone()),
        (vec![delete_op("a", "c"), put_op("c")], Ok(())),
        (vec![delete_op("a", "c"), delete_op("b", "d"), delete_op("b", "")], Ok(())),
        (vec![range_op(false), put_op("a"), range_op(false)], Ok(())),
        // An inverted range deletes nothing.
        (vec![delete_op("c", "a"), put_op("b")], Ok(())),
        // As a running etcd 3.7.3 has it.
        (vec![delete_op("a", "\0"), put_op("b")], Ok(())),
        (vec![put_op("b"), delete_op("\0", "\0")], Ok(())),
        // Both branches of a transaction inside count, against what is around them and not against each other.
        (vec![nested(vec![put_op("a")], vec![put_op("a")])], Ok(())),
        (vec![nested(vec![put_op("a")], vec![put_op("a")]), put_op("a")], refused.clone()),
        (vec![nested(vec![], vec![put_op("a")]), nested(vec![put_op("a")], vec![])], refused.clone()),
        (vec![nested(vec![delete_op("a", "c")], vec![put_op("b")])], Ok(())),
        (vec![nested(vec![delete_op("a", "c")], vec![]), put_op("b")], refused.clone()),
        (vec![nested(vec![put_op("b")], vec![]), delete_op("a", "c")], refused.clone()),
        // Order counts between two transactions.
        (vec![nested(vec![delete_op("b", "")], vec![]), nested(vec![put_op("b")], vec![])], refused),
        (vec![nested(vec![put_op("b")], vec![]), nested(vec![delete_op("b", "")], vec![])], Ok(())),
    ] {
        assert_eq!(txn(&then(list.clone()), 128), expected, "success: {list:?}");
        let otherwise = TxnRequest { failure: list.clone(), ..TxnRequest::default() };
        assert_eq!(txn(&otherwise, 128), expected, "failure: {list:?}");
    }
    let both_branches = TxnRequest { success: vec![put_op("a")], failure: vec![put_op("a")], ..TxnRequest::default() };
    assert_eq!(txn(&both_branches, 128), Ok(()));
}

#[test]
fn only_ranges_make_a_transaction_read_only() {
    let reads = |serializable| TxnRequest {
        success: vec![range_op(true)],
        failure: vec![range_op(serializable)],
        ..TxnRequest::default()
    };
    assert!(is_read_only(&reads(false)) && !is_serializable(&reads(false)));
    assert!(is_read_only(&reads(true)) && is_serializable(&reads(true)));
    assert!(is_read_only(&TxnRequest::default()) && is_serializable(&TxnRequest::default()));
    assert!(!is_read_only(&TxnRequest { failure: vec![put_op("a")], ..reads(true) }));
    assert!(!is_read_only(&then(vec![nested(vec![range_op(true)], vec![])])));
}

/// The rules again, with lists instead of sets.
fn plainly(list: &[RequestOp]) -> Option<(Vec<&[u8]>, Vec<&DeleteRangeRequest>)> {
    let hit = |deletes: &[&DeleteRangeRequest], key: &[u8]| {
        deletes.iter().any(|d| if d.range_end.is_empty() { key == d.key } else { key >= &d.key[..] && key < &d.range_end[..] })
    };
    let mut puts: Vec<&[u8]> = Vec::new();
    let mut deletes = Vec::new();
    for op in list {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            deletes.push(delete);
        }
    }
    for op in list {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            let (then_puts, then_deletes) = plainly(&nested.success)?;
            let (else_puts, else_deletes) = plainly(&nested.failure)?;
            for key in &then_puts {
                if puts.contains(key) || hit(&deletes, key) {
                    return None;
                }
            }
            for key in &else_puts {
                if puts.contains(key) || hit(&deletes, key) {
                    return None;
                }
            }
            puts.extend(then_puts);
            puts.extend(else_puts);
            deletes.extend(then_deletes);
            deletes.extend(else_deletes);
        }
    }
    for op in list {
        if let Some(Request::RequestPut(put)) = &op.request {
            if puts.contains(&&put.key[..]) || hit(&deletes, &put.key) {
                return None;
            }
            puts.push(&put.key);
        }
    }
    Some((puts, deletes))
}

struct Dice(u64);

impl Dice {
    /// SplitMix64.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % limit
    }

    fn key(&mut self) -> String {
        let mut key = String::new();
        for _ in 0..=self.below(2) {
            key.push(char::from(b'a' + self.below(6) as u8));
        }
        key
    }

    fn list(&mut self, depth: u64) -> Vec<RequestOp> {
        (0..self.below(5)).map(|_| self.op(depth)).collect()
    }

    fn op(&mut self, depth: u64) -> RequestOp {
        match self.below(if depth == 0 { 6 } else { 9 }) {
            0..=2 => put_op(&self.key()),
            3 => delete_op(&self.key(), ""),
            4 => delete_op(&self.key(), &self.key()),
            5 => delete_op(&self.key(), "\0"),
            _ => nested(self.list(depth - 1), self.list(depth - 1)),
        }
    }
}

#[test]
fn the_sets_decide_as_the_rules_read_plainly() {
    let mut accepted = 0;
    for seed in 0..20_000 {
        let list = Dice(seed).list(3);
        let plain = plainly(&list).is_some();
        assert_eq!(Writes::of(&list).is_ok(), plain, "seed {seed}: {list:?}");
        accepted += u32::from(plain && list.len() > 1);
    }
    assert!((2_000..18_000).contains(&accepted), "the lists are no test if {accepted} of 20000 are accepted");
}
