//! The keys and leases that clients play with. They come in groups; a write touches one group only, so that groups can be judged one
//! by one.

use bramble::pb::etcdserverpb::TxnRequest;
use bramble::pb::etcdserverpb::request_op::Request as Op;
use bytes::Bytes;

use crate::support::random::Random;

/// How many groups there are.
pub const GROUPS: usize = 6;
/// How many keys a group has.
pub const KEYS: u64 = 4;
/// The group of large values, whose history fills segments of the log and whose transactions do not fit into one fragment.
const HEAVY: usize = 0;

/// A key of a group.
pub fn key(group: usize, number: u64) -> Bytes {
    format!("g{group}/k{number}").into()
}

/// What the keys of a group begin with.
pub fn prefix(group: usize) -> Bytes {
    format!("g{group}/").into()
}

/// The group of a key, or of the range that begins with it; none: no group's.
pub fn group_of(key: &Bytes) -> Option<usize> {
    std::str::from_utf8(key).ok()?.strip_prefix('g')?.split('/').next()?.parse().ok()
}

/// The group of a lease.
pub fn group_of_lease(id: i64) -> usize {
    id as usize % GROUPS
}

/// A key that a transaction names. All others are of the same group.
pub fn of_txn(txn: &TxnRequest) -> Option<&Bytes> {
    let compared = txn.compare.iter().map(|compare| &compare.key);
    let used = txn.success.iter().chain(&txn.failure).filter_map(|op| match op.request.as_ref()? {
        Op::RequestRange(range) => Some(&range.key),
        Op::RequestPut(put) => Some(&put.key),
        Op::RequestDeleteRange(delete) => Some(&delete.key),
        Op::RequestTxn(txn) => of_txn(txn),
    });
    compared.chain(used).next()
}

/// A group to play with, rarely the heavy one.
pub fn any_group(random: &mut Random) -> usize {
    match random.below(20) {
        0 => HEAVY,
        _ => 1 + random.below(GROUPS as u64 - 1) as usize,
    }
}

/// Whether a group's values are large.
pub fn is_heavy(group: usize) -> bool {
    group == HEAVY
}

/// Bytes beside the name: few as a rule.
pub fn length(random: &mut Random) -> usize {
    match random.below(50) {
        0 => 4_000 + random.below(4_000) as usize,
        _ => random.below(200) as usize,
    }
}

/// Bytes beside the name of a large value: those of a whole group do not fit into one fragment.
pub fn heavy_length(random: &mut Random) -> usize {
    250_000 + random.below(100_000) as usize
}
