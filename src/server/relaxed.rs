//! The relaxed class: which entries of the log may be acknowledged before they are synced.
//!
//! A power cut takes a suffix of the log, so what is judged is never one entry alone: a strict entry makes everything before it durable,
//! and with it all that it may have read or build upon. Where it is not certain that an entry writes nothing but keys of the class, it
//! is strict.

use bytes::Bytes;

use super::command::Command;
use crate::config;
use crate::lease::{LeaseId, Lessor};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{DeleteRangeRequest, RequestOp, TxnRequest};
use crate::raft::{Entry, Index};

/// The most entries that wait for a sync. After a start that may have missed some, revisions go on so much higher, because each entry
/// makes one at the most.
pub(super) const MAX_UNSYNCED: u32 = 1000;

/// The keys and leases that users have named.
pub(super) struct Class {
    prefixes: Vec<Bytes>,
    leases: bool,
}

impl Class {
    pub fn new(config: &config::Relaxed) -> Class {
        let prefixes = config.prefixes.iter().map(|prefix| Bytes::copy_from_slice(prefix.as_bytes())).collect();
        Class { prefixes, leases: config.leases }
    }

    /// Whether all that the command may write, whatever it finds, belongs to the class. `settled`: the lessor will know all keys that
    /// are not of the class when this command is applied.
    pub fn holds(&self, command: &Command, lessor: &Lessor, settled: bool) -> bool {
        match command {
            Command::Put(put) => self.holds_key(&put.key),
            Command::DeleteRange(delete) => self.holds_deletion(delete),
            Command::Txn(txn) => self.holds_txn(txn),
            // Whoever attaches a key of another kind to it makes the grant durable with that.
            Command::LeaseGrant(_) => self.leases,
            Command::LeaseRevoke(revoke) => {
                self.leases && settled && lessor.keys(LeaseId(revoke.id)).all(|key| self.holds_key(key))
            }
            // Without it a lease lives longer after a restart. One that says 0 has been renewed, and must not live shorter.
            Command::LeaseCheckpoint(request) => self.leases && request.checkpoints.iter().all(|lease| lease.remaining_ttl > 0),
            Command::Compaction(_)
            | Command::Alarm(_)
            | Command::ClusterVersion(_)
            | Command::MemberAttributes(_)
            | Command::MemberUpdate(..)
            | Command::SkipRevisions(_) => false,
        }
    }

    fn holds_key(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// A range is held if it ends where one prefix does, or before. An end of one zero byte means no end.
    fn holds_deletion(&self, delete: &DeleteRangeRequest) -> bool {
        let (key, end) = (&delete.key[..], &delete.range_end[..]);
        let within = |prefix: &&Bytes| key.starts_with(prefix) && end_of(prefix).is_some_and(|bound| end <= &bound[..]);
        match end {
            [] => self.holds_key(key),
            [0] => false,
            _ => self.prefixes.iter().any(|prefix| within(&prefix)),
        }
    }

    fn holds_txn(&self, txn: &TxnRequest) -> bool {
        txn.success.iter().chain(&txn.failure).all(|RequestOp { request }| match request {
            None | Some(Request::RequestRange(_)) => true,
            Some(Request::RequestPut(put)) => self.holds_key(&put.key),
            Some(Request::RequestDeleteRange(delete)) => self.holds_deletion(delete),
            Some(Request::RequestTxn(nested)) => self.holds_txn(nested),
        })
    }
}

/// The first key behind all that begin with this; none if there is no such.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// The entries at the log's end that are all relaxed, as they were proposed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RelaxedEnd {
    first: Index,
    last: Index,
}

impl RelaxedEnd {
    /// A relaxed entry was proposed.
    pub fn add(&mut self, index: Index) {
        if index.0 != self.last.0 + 1 {
            self.first = index;
        }
        self.last = index;
    }

    /// Whether these entries, which follow each other, are all in it.
    pub fn holds(&self, entries: &[Entry]) -> bool {
        match entries {
            [first, .., last] => self.first <= first.id.index && last.id.index <= self.last,
            [one] => self.first <= one.id.index && one.id.index <= self.last,
            [] => false,
        }
    }

    /// Whether all entries behind `after`, up to `last`, are in it.
    pub fn reaches(&self, after: Index, last: Index) -> bool {
        after == last || (self.first.0 <= after.0 + 1 && self.last == last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::{
        AlarmRequest, CompactionRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest,
        PutRequest, RangeRequest,
    };
    use crate::raft::{EntryKind, LogId, Term};
    use std::time::Duration;

    fn class(leases: bool) -> Class {
        let prefixes = vec!["/r/leases/".to_owned(), "/r/events/".to_owned()];
        Class::new(&config::Relaxed { prefixes, leases, interval: Duration::from_secs(1) })
    }

    fn lessor() -> Lessor {
        let second = Duration::from_secs(1);
        let config = crate::lease::Config { min_ttl_secs: 1, retry_interval: second, checkpoint_interval: second };
        let mut lessor = Lessor::new(config, []);
        for (id, key) in [(1, "/r/leases/a"), (2, "/r/pods/a")] {
            lessor.grant(LeaseId(id), 10, Duration::ZERO).unwrap();
            lessor.attach(Bytes::from_static(key.as_bytes()), LeaseId(id)).unwrap();
        }
        lessor.attach(Bytes::from_static(b"/r/events/a"), LeaseId(2)).unwrap();
        lessor.grant(LeaseId(3), 10, Duration::ZERO).unwrap();
        lessor
    }

    fn put(key: &'static str) -> Request {
        Request::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() })
    }

    fn delete(key: &'static str, range_end: &'static str) -> DeleteRangeRequest {
        DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false }
    }

    fn txn(success: Vec<Request>, failure: Vec<Request>) -> TxnRequest {
        let ops = |requests: Vec<Request>| requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
        TxnRequest { compare: Vec::new(), success: ops(success), failure: ops(failure) }
    }

    fn holds(command: Command) -> bool {
        class(true).holds(&command, &lessor(), true)
    }

    #[test]
    fn a_key_is_held_by_its_prefix() {
        let put = |key: &'static str| holds(Command::Put(PutRequest { key: key.into(), lease: 2, ..PutRequest::default() }));
        assert!(put("/r/leases/a") && put("/r/leases/") && put("/r/events/x"));
        assert!(!put("/r/leases") && !put("/r/pods/a") && !put("/r/lease/") && !put("") && !put("x/r/leases/a"));
    }

    #[test]
    fn a_deletion_is_held_if_one_prefix_holds_all_of_its_range() {
        let delete = |key, end| holds(Command::DeleteRange(delete(key, end)));
        assert!(delete("/r/leases/a", "") && delete("/r/leases/a", "/r/leases/b") && delete("/r/leases/", "/r/leases0"));
        assert!(!delete("/r/leases/a", "/r/leases1") && !delete("/r/leases/a", "\0") && !delete("/r/leases", "/r/leases0"));
        assert!(!delete("/r/events/a", "/r/leases/b") && !delete("/r/pods/a", ""));
        assert!(!delete("\0", "\0"));
    }

    #[test]
    fn a_prefix_without_an_end_holds_no_range() {
        let class = Class { prefixes: vec![Bytes::from_static(&[0xff, 0xff])], leases: false };
        let delete =
            |end: &'static [u8]| DeleteRangeRequest { key: b"\xff\xffa"[..].into(), range_end: end.into(), prev_kv: false };
        assert!(class.holds_deletion(&delete(b"")));
        assert!(!class.holds_deletion(&delete(b"\xff\xffb")));
        assert_eq!(end_of(b"a\xff\xff"), Some(b"b".to_vec()));
    }

    #[test]
    fn a_transaction_is_held_if_every_branch_is() {
        let nested = |inner| Request::RequestTxn(inner);
        let range = || Request::RequestRange(RangeRequest { key: "/r/pods/a".into(), ..RangeRequest::default() });
        assert!(holds(Command::Txn(txn(vec![put("/r/leases/a")], vec![range()]))));
        assert!(holds(Command::Txn(txn(vec![nested(txn(vec![put("/r/leases/a")], vec![]))], vec![]))));
        assert!(!holds(Command::Txn(txn(vec![put("/r/leases/a")], vec![put("/r/pods/a")]))));
        assert!(!holds(Command::Txn(txn(vec![put("/r/leases/a"), put("/r/pods/a")], vec![]))));
        assert!(!holds(Command::Txn(txn(vec![nested(txn(vec![], vec![put("/r/pods/a")]))], vec![]))));
        assert!(!holds(Command::Txn(txn(vec![Request::RequestDeleteRange(delete("/r/leases/a", "\0"))], vec![]))));
    }

    #[test]
    fn a_lease_goes_with_the_keys_it_holds() {
        let revoke = |id| Command::LeaseRevoke(LeaseRevokeRequest { id });
        assert!(holds(revoke(1)) && holds(revoke(3)) && holds(Command::LeaseGrant(LeaseGrantRequest { id: 9, ttl: 1 })));
        assert!(!holds(revoke(2)), "it holds a key of another kind too");
        assert!(!class(true).holds(&revoke(1), &lessor(), false), "a key may be on its way to it");
        for command in [revoke(1), Command::LeaseGrant(LeaseGrantRequest { id: 9, ttl: 1 })] {
            assert!(!class(false).holds(&command, &lessor(), true), "{command:?} without --relaxed-leases");
        }
        let checkpoint = |remaining_ttl| {
            let checkpoints = vec![LeaseCheckpoint { id: 2, remaining_ttl }];
            Command::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints })
        };
        assert!(holds(checkpoint(9)));
        assert!(!holds(checkpoint(0)), "a client was promised the whole time again");
    }

    #[test]
    fn everything_else_is_strict() {
        assert!(!holds(Command::Compaction(CompactionRequest { revision: 5, physical: false })));
        assert!(!holds(Command::Alarm(AlarmRequest::default())));
        assert!(!holds(Command::SkipRevisions(1)));
    }

    #[test]
    fn the_relaxed_end_of_the_log_begins_anew_behind_each_strict_entry() {
        let entry =
            |index| Entry { id: LogId { term: Term(1), index: Index(index) }, kind: EntryKind::Normal, data: Bytes::new() };
        let entries = |range: std::ops::RangeInclusive<u64>| range.map(entry).collect::<Vec<_>>();
        let mut end = RelaxedEnd::default();
        assert!(!end.holds(&[]) && !end.holds(&entries(1..=1)));
        [3, 4, 6, 7].into_iter().for_each(|index| end.add(Index(index)));
        assert!(end.holds(&entries(6..=7)) && end.holds(&entries(7..=7)));
        assert!(!end.holds(&entries(4..=4)) && !end.holds(&entries(5..=7)) && !end.holds(&entries(7..=8)));
        assert!(end.reaches(Index(5), Index(7)) && end.reaches(Index(6), Index(7)) && end.reaches(Index(9), Index(9)));
        assert!(!end.reaches(Index(4), Index(7)) && !end.reaches(Index(6), Index(8)));
    }
}
