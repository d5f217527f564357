//! Transactions: which branch is taken, whether it may run, and running it.

use std::cmp::Ordering;

use super::key_range::KeyRange;
use super::read::{Answer, RowSource, head, range_now, revision_header};
use super::row::RowHead;
use super::state::State;
use super::store::Store;
use super::write::{LeaseExists, Transaction};
use crate::error::{Error, Fault};
use crate::metrics;
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};

/// The branch taken, and those of the transactions nested in it. All compares see the state before the first write.
pub(super) struct Path<'r> {
    succeeded: bool,
    steps: Vec<Step<'r>>,
}

enum Step<'r> {
    Op(&'r Request),
    Nested(Path<'r>),
}

pub(super) fn choose_path<'r>(state: &State, request: &'r TxnRequest, source: &mut RowSource<'_>) -> Result<Path<'r>, Fault> {
    let mut succeeded = true;
    for compare in &request.compare {
        if !holds(state, compare, source)? {
            succeeded = false;
            break;
        }
    }
    let branch = if succeeded { &request.success } else { &request.failure };
    let mut steps = Vec::with_capacity(branch.len());
    for RequestOp { request } in branch {
        steps.push(match request {
            Some(Request::RequestTxn(nested)) => Step::Nested(choose_path(state, nested, source)?),
            Some(op) => Step::Op(op),
            None => continue,
        });
    }
    Ok(Path { succeeded, steps })
}

/// A compare over a range holds if it holds for every key in it; a range without keys is compared like a key that is not there.
fn holds(state: &State, compare: &Compare, source: &mut RowSource<'_>) -> Result<bool, Fault> {
    let range = KeyRange::new(&compare.key, &compare.range_end);
    let mut any = false;
    for (_, index) in state.keys(&range) {
        let Some(live) = index.live() else { continue };
        any = true;
        let of_index = RowHead {
            create_revision: live.create_revision,
            mod_revision: live.revision.main,
            version: live.version,
            ..RowHead::default()
        };
        let row;
        let seen = match CompareTarget::try_from(compare.target) {
            Ok(CompareTarget::Value | CompareTarget::Lease) => {
                row = state.row(live.revision, source)?;
                head(&row)
            }
            _ => of_index,
        };
        if !holds_for(compare, &seen) {
            return Ok(false);
        }
    }
    // No value stands for "not there", so that nothing compared with it holds, not even "differs".
    let absent = CompareTarget::try_from(compare.target) != Ok(CompareTarget::Value) && holds_for(compare, &RowHead::default());
    Ok(any || absent)
}

fn holds_for(compare: &Compare, row: &RowHead<'_>) -> bool {
    let union = compare.target_union.as_ref();
    let number = |want: Option<i64>, have: i64| have.cmp(&want.unwrap_or(0));
    // A value of another kind than the target counts as zero; an unknown target compares as equal.
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => {
            number(union.and_then(|u| if let TargetUnion::Version(n) = u { Some(*n) } else { None }), row.version)
        }
        Ok(CompareTarget::Create) => {
            number(union.and_then(|u| if let TargetUnion::CreateRevision(n) = u { Some(*n) } else { None }), row.create_revision)
        }
        Ok(CompareTarget::Mod) => {
            number(union.and_then(|u| if let TargetUnion::ModRevision(n) = u { Some(*n) } else { None }), row.mod_revision)
        }
        Ok(CompareTarget::Lease) => {
            number(union.and_then(|u| if let TargetUnion::Lease(n) = u { Some(*n) } else { None }), row.lease)
        }
        Ok(CompareTarget::Value) => match union {
            Some(TargetUnion::Value(value)) => row.value.cmp(&value[..]),
            _ => row.value.cmp(&[][..]),
        },
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        // etcd lets a result it does not know hold.
        Err(_) => true,
    }
}

/// Everything that could refuse the path is asked before its first write, in the order of its operations.
pub(super) fn check(state: &State, path: &Path<'_>, lease_exists: LeaseExists<'_>) -> Result<(), Error> {
    check_steps(state, path, lease_exists, &mut Vec::new())
}

fn check_steps<'r>(
    state: &State,
    path: &Path<'r>,
    lease_exists: LeaseExists<'_>,
    deleted: &mut Vec<KeyRange<'r>>,
) -> Result<(), Error> {
    for step in &path.steps {
        match step {
            Step::Op(Request::RequestPut(put)) => {
                check_put(state, put, lease_exists)?;
                // Found by the check, but gone when its turn comes: etcd dies of it.
                if (put.ignore_value || put.ignore_lease) && deleted.iter().any(|range| range.contains(&put.key)) {
                    return Err(Error::KeyNotFound);
                }
            }
            Step::Op(Request::RequestRange(range)) => check_range(state, range)?,
            Step::Op(Request::RequestDeleteRange(delete)) => deleted.push(KeyRange::new(&delete.key, &delete.range_end)),
            Step::Op(Request::RequestTxn(_)) => unreachable!("nested transactions have a path of their own"),
            Step::Nested(nested) => check_steps(state, nested, lease_exists, deleted)?,
        }
    }
    Ok(())
}

/// What could refuse a put: the lease is asked for first, as in etcd.
pub(super) fn check_put(state: &State, put: &PutRequest, lease_exists: LeaseExists<'_>) -> Result<(), Error> {
    if put.lease != 0 && !lease_exists(put.lease) {
        return Err(Error::LeaseNotFound);
    }
    if (put.ignore_value || put.ignore_lease) && state.live(&put.key).is_none() {
        return Err(Error::KeyNotFound);
    }
    Ok(())
}

/// Unlike a range of its own, one inside a transaction is refused for a negative revision too.
fn check_range(state: &State, range: &RangeRequest) -> Result<(), Error> {
    if SortOrder::try_from(range.sort_order).is_err() || SortTarget::try_from(range.sort_target).is_err() {
        return Err(Error::InvalidSortOption);
    }
    if range.revision == 0 {
        Ok(())
    } else if range.revision > state.current {
        Err(Error::FutureRevision)
    } else if range.revision < state.compacted {
        Err(Error::Compacted)
    } else {
        Ok(())
    }
}

/// Runs a path that has been checked. A nested response's header is present but empty, as in etcd.
pub(super) fn run(tx: &mut Transaction<'_>, path: &Path<'_>) -> Answer<TxnResponse> {
    let mut responses = Vec::with_capacity(path.steps.len());
    for step in &path.steps {
        let response = match step {
            Step::Op(Request::RequestRange(request)) => tx.range(request)?.map(Response::ResponseRange),
            Step::Op(Request::RequestPut(request)) => tx.put(request)?.map(Response::ResponsePut),
            Step::Op(Request::RequestDeleteRange(request)) => tx.delete_range(request)?.map(Response::ResponseDeleteRange),
            Step::Op(Request::RequestTxn(_)) => unreachable!("nested transactions have a path of their own"),
            Step::Nested(nested) => run(tx, nested)?.map(Response::ResponseTxn),
        };
        match response {
            Ok(response) => responses.push(ResponseOp { response: Some(response) }),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded: path.succeeded, responses }))
}

impl Store {
    /// Runs a transaction whose branches hold nothing but ranges, without the log and without keeping writers out for longer than
    /// a range does.
    ///
    /// # Errors
    /// What a range is refused for, to the client; a fault if the checkpoint cannot be read.
    pub fn read_txn(&self, request: &TxnRequest) -> Answer<TxnResponse> {
        let state = self.state();
        let mut reader = None;
        let mut source = RowSource { backend: self.backend(), reader: &mut reader };
        let path = choose_path(&state, request, &mut source)?;
        if let Err(error) = check(&state, &path, &|_| false) {
            return Ok(Err(error));
        }
        let revision = state.current;
        metrics::MVCC_RANGES.add(path.steps.len() as u64);
        if path.steps.len() > 1 {
            metrics::MVCC_TXNS.inc();
        }
        let mut responses = Vec::with_capacity(path.steps.len());
        for step in &path.steps {
            let Step::Op(Request::RequestRange(range)) = step else {
                unreachable!("only ranges are read without the log");
            };
            match range_now(&state, range, revision, &mut source)? {
                Ok(response) => responses.push(ResponseOp { response: Some(Response::ResponseRange(response)) }),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(TxnResponse { header: revision_header(revision), succeeded: path.succeeded, responses }))
    }
}
