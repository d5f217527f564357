//! Random requests. Few keys, leases and values, so that they collide; revisions near those where answers change.

use bramble::pb::etcdserverpb::compare::TargetUnion;
use bramble::pb::etcdserverpb::watch_request::RequestUnion;
use bramble::pb::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, DowngradeRequest, LeaseGrantRequest, MemberAddRequest,
    MemberUpdateRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCancelRequest, WatchCreateRequest,
    WatchProgressRequest, WatchRequest,
};
use bytes::Bytes;

use super::Generator;
use crate::differential::watches::FAR;
use crate::support::requests::{IntoOp, prefix_end};

/// What is written to, and now and then asked for.
pub const KEYS: [&[u8]; 24] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"e",
    b"aa",
    b"ab",
    b"ac",
    b"ba",
    b"bb",
    b"bc",
    b"a\0",
    b"a\0\0",
    b"\0",
    b"\0\0",
    b"\xff",
    b"\xff\xff",
    b"a\xff",
    b"a\xffa",
    b"z",
    b"za",
    b"zz",
    b"ca",
    b"cb",
];
const VALUES: [&[u8]; 8] = [b"", b"1", b"2", b"10", b"\0", b"\xff", b"one", b"two"];
/// Ids that leases are granted by, and two that never are.
const LEASES: [i64; 8] = [1, 2, 3, -4, i64::MAX, i64::MIN, 98, 99];
const GRANTED: u64 = 6;
const TTLS: [i64; 5] = [100_000, 200_000, 300_000, 9_000_000_000, 9_000_000_001];

impl Generator {
    pub(super) fn granted(&mut self) -> i64 {
        LEASES[self.random.below(GRANTED) as usize]
    }

    pub(super) fn lease(&mut self) -> i64 {
        self.one_of(&LEASES)
    }

    pub(super) fn a_key(&mut self) -> Bytes {
        if self.chance(60) { Bytes::new() } else { Bytes::from_static(self.one_of(&KEYS)) }
    }

    pub(super) fn value(&mut self) -> Bytes {
        Bytes::from_static(self.one_of(&VALUES))
    }

    pub(super) fn end(&mut self, key: &Bytes) -> Bytes {
        match self.random.below(20) {
            0..8 => Bytes::new(),
            8..11 => Bytes::from_static(b"\0"),
            11 => key.clone(),
            12..14 => prefix_end(key),
            14 => [key, &b"\0"[..]].concat().into(),
            15 => Bytes::from_static(b"\xff\xff\xff"),
            _ => Bytes::from_static(self.one_of(&KEYS)),
        }
    }

    pub(super) fn a_revision(&mut self) -> i64 {
        let (now, compacted) = (self.revision, self.compacted);
        match self.random.below(20) {
            0..6 => 0,
            6..14 => now - self.random.below(12) as i64,
            14 => now + 1 + self.random.below(2) as i64,
            15..18 => compacted - 1 + self.random.below(3) as i64,
            18 => self.one_of(&[-1, 1, 2]),
            _ => self.one_of(&[i64::MIN, i64::MAX, -2]),
        }
    }

    /// Of a filter by revision: most often none.
    pub(super) fn bound(&mut self) -> i64 {
        if self.chance(10) { self.a_revision() } else { 0 }
    }

    /// A number of an enumeration that ends before `end`, most often 0, seldom none at all.
    pub(super) fn number(&mut self, end: i32) -> i32 {
        match self.random.below(40) {
            0 => self.one_of(&[-1, end, i32::MAX, i32::MIN]),
            1..24 => 0,
            _ => self.random.below(end as u64) as i32,
        }
    }

    pub(super) fn range(&mut self) -> RangeRequest {
        let key = self.a_key();
        let range_end = self.end(&key);
        RangeRequest {
            limit: self.one_of(&[0, 0, 0, 1, 2, 3, 5, 12, -1, i64::MAX, i64::MIN]),
            revision: self.a_revision(),
            sort_order: self.number(3),
            sort_target: self.number(5),
            serializable: self.chance(3),
            keys_only: self.chance(4),
            count_only: self.chance(8),
            min_mod_revision: self.bound(),
            max_mod_revision: self.bound(),
            min_create_revision: self.bound(),
            max_create_revision: self.bound(),
            key,
            range_end,
        }
    }

    pub(super) fn put(&mut self) -> PutRequest {
        PutRequest {
            key: self.a_key(),
            value: self.value(),
            lease: if self.chance(3) { self.lease() } else { 0 },
            prev_kv: self.chance(3),
            ignore_value: self.chance(12),
            ignore_lease: self.chance(12),
        }
    }

    pub(super) fn delete_range(&mut self) -> DeleteRangeRequest {
        let key = self.a_key();
        // Seldom all that there is.
        let range_end = if self.chance(3) { self.end(&key) } else { Bytes::new() };
        DeleteRangeRequest { key, range_end, prev_kv: self.chance(2) }
    }

    pub(super) fn compact(&mut self) -> CompactionRequest {
        CompactionRequest { revision: self.a_revision(), physical: self.chance(2) }
    }

    pub(super) fn compare(&mut self) -> Compare {
        let key = self.a_key();
        let range_end = if self.chance(3) { self.end(&key) } else { Bytes::new() };
        let target = self.number(5);
        let kind = if self.chance(10) { self.random.below(6) } else { target as u64 };
        let target_union = match kind {
            0 => Some(TargetUnion::Version(self.one_of(&[0, 1, 2, -1]))),
            1 => Some(TargetUnion::CreateRevision(self.a_revision())),
            2 => Some(TargetUnion::ModRevision(self.a_revision())),
            3 => Some(TargetUnion::Value(self.value())),
            4 => Some(TargetUnion::Lease(self.one_of(&[0, 0, 1, 2, -4, 99]))),
            _ => None,
        };
        Compare { result: self.number(4), target, key, range_end, target_union }
    }

    pub(super) fn txn(&mut self, depth: u32) -> TxnRequest {
        let shape = self.random.below(100);
        let mut lengths = [0; 3].map(|_| self.random.below(4) as usize);
        if shape == 0 {
            // Near what is allowed, nested or not.
            let list = self.random.below(3) as usize;
            lengths[list] = 122 + self.random.below(9) as usize;
        }
        let small = lengths.iter().any(|length| *length > 100);
        let compare = (0..lengths[0]).map(|_| self.compare()).collect();
        let success = (0..lengths[1]).map(|_| self.op(depth, small)).collect();
        let failure = (0..lengths[2]).map(|_| self.op(depth, small)).collect();
        TxnRequest { compare, success, failure }
    }

    pub(super) fn op(&mut self, depth: u32, small: bool) -> RequestOp {
        match self.random.below(200) {
            0 => RequestOp { request: None },
            _ if small => RangeRequest { key: Bytes::from_static(b"a"), ..RangeRequest::default() }.op(),
            1..80 => {
                let range = self.range();
                // A revision that cannot be read fails the whole transaction.
                RangeRequest { revision: if self.chance(4) { range.revision } else { 0 }, ..range }.op()
            }
            80..150 => {
                let put = self.put();
                let lease = if self.chance(4) { put.lease } else { 0 };
                PutRequest { lease, ignore_value: put.ignore_value && self.chance(4), ..put }.op()
            }
            150..175 => self.delete_range().op(),
            _ if depth < 4 => self.txn(depth + 1).op(),
            _ => self.delete_range().op(),
        }
    }

    pub(super) fn short_lease(&mut self) -> LeaseGrantRequest {
        LeaseGrantRequest { id: self.granted(), ttl: self.one_of(&[0, -5, 1, 2, i64::MIN]) }
    }

    pub(super) fn grant(&mut self) -> LeaseGrantRequest {
        LeaseGrantRequest { id: self.granted(), ttl: self.one_of(&TTLS) }
    }

    pub(super) fn member_add(&mut self) -> MemberAddRequest {
        MemberAddRequest { peer_ur_ls: self.bad_urls(), is_learner: self.chance(2) }
    }

    /// Of the only member there is to sound addresses, of others to any.
    pub(super) fn member_update(&mut self) -> MemberUpdateRequest {
        if self.chance(2) {
            let url = self.one_of(&["http://127.0.0.1:1", "http://127.0.0.1:3", "http://[::1]:4", "https://m1.example:5"]);
            return MemberUpdateRequest { id: self.member, peer_ur_ls: vec![url.to_owned()] };
        }
        MemberUpdateRequest { id: self.random.below(3), peer_ur_ls: self.bad_urls() }
    }

    /// Lists that no member can have.
    pub(super) fn bad_urls(&mut self) -> Vec<String> {
        let urls: &[&[&str]] =
            &[&[], &[""], &["nowhere"], &["http://127.0.0.1"], &["ftp://127.0.0.1:1"], &["http://127.0.0.1:1/path"]];
        self.one_of(urls).iter().map(|url| (*url).to_owned()).collect()
    }

    /// Asks whether the cluster could be downgraded, or cancels it; it never is.
    pub(super) fn downgrade(&mut self) -> DowngradeRequest {
        let action = self.one_of(&[0, 0, 0, 2, 3, -1]);
        let version = self.one_of(&["", "3", "3.4", "3.5", "3.6", "3.6.0", "3.7", "3.7.0", "3.8", "4.0", "3.6.x", "v3.6"]);
        DowngradeRequest { action, version: version.to_owned() }
    }

    pub(super) fn alarm(&mut self, action: i32) -> AlarmRequest {
        AlarmRequest { action, member_id: self.one_of(&[0, 1, self.member]), alarm: self.one_of(&[0, 1, 2]) }
    }

    pub(super) fn watch_id(&mut self) -> i64 {
        self.one_of(&[0, 0, 1, 1, 2, 3, 4, 5, -1, -7, FAR, 1000, i64::MAX, i64::MIN])
    }

    pub(super) fn watch(&mut self) -> WatchCreateRequest {
        let key = self.a_key();
        let range_end = self.end(&key);
        let watch_id = if self.chance(3) { self.watch_id() } else { 0 };
        let start_revision = match self.random.below(20) {
            _ if watch_id == FAR => i64::MAX,
            0..8 => 0,
            8..12 => self.revision - self.random.below(20) as i64,
            12..14 => self.revision + 1 + self.random.below(6) as i64,
            14 => self.compacted - 1 + self.random.below(3) as i64,
            15 => self.one_of(&[1, -1, i64::MIN]),
            _ => 1.max(self.compacted),
        };
        let filters = match self.random.below(8) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1],
            3 => vec![1, 1, 7, -1],
            _ => vec![],
        };
        WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: self.chance(4),
            filters,
            prev_kv: self.chance(2),
            watch_id,
            fragment: self.chance(4),
        }
    }

    /// Something to say on a stream of watches.
    pub(super) fn watch_request(&mut self) -> WatchRequest {
        let request_union = match self.random.below(20) {
            0..13 => Some(RequestUnion::CreateRequest(self.watch())),
            13..17 => Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: self.watch_id() })),
            17..19 => Some(RequestUnion::ProgressRequest(WatchProgressRequest {})),
            _ => None,
        };
        WatchRequest { request_union }
    }
}
