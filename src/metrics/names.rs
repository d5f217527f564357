//! All that counts as things happen. `families` writes it; the buckets are etcd's.

use super::kinds::{Counter, Gauge, Histogram, Scale};
use super::text::{Label, Text};

// Disk.

/// Syncs of the WAL.
pub static WAL_FSYNC: Histogram = Histogram::new(Scale::seconds(1000, 14));
/// Writes of the WAL, before their sync. The first of a segment is left out: it is part of the segment's birth.
pub static WAL_WRITE: Histogram = Histogram::new(Scale::seconds(1000, 14));
/// Bytes written to the WAL, padding included.
pub static WAL_BYTES: Counter = Counter::new();
/// Commits of a checkpoint to LMDB.
pub static BACKEND_COMMIT: Histogram = Histogram::new(Scale::seconds(1000, 14));
/// Rewrites of the checkpoint file.
pub static DEFRAG: Histogram = Histogram::new(Scale::seconds(100_000, 13));
/// Rewrites under way.
pub static DEFRAGS_INFLIGHT: Gauge = Gauge::new();
/// Open read transactions of LMDB.
pub static READ_TRANSACTIONS: Gauge = Gauge::new();

// The loop.

/// Changes of the leader, a first one included.
pub static LEADER_CHANGES: Counter = Counter::new();
/// Proposals of clients without an answer.
pub static PROPOSALS_PENDING: Gauge = Gauge::new();
/// Proposals that Raft did not take, or whose outcome nobody knows.
pub static PROPOSALS_FAILED: Counter = Counter::new();
/// Runs of entries that took longer than `--warning-apply-duration`.
pub static SLOW_APPLY: Counter = Counter::new();
/// Linearizable reads that were not confirmed in time.
pub static SLOW_READ_INDEXES: Counter = Counter::new();
/// Linearizable reads that failed.
pub static READ_INDEXES_FAILED: Counter = Counter::new();
/// Applying a command, by what it is and whether it succeeded.
pub static APPLY: ByOutcome<{ Op::ALL.len() }> = ByOutcome::new(Scale::seconds(100, 20));

// mvcc.

/// Puts, in transactions too.
pub static MVCC_PUTS: Counter = Counter::new();
/// Deletions of ranges, in transactions too.
pub static MVCC_DELETES: Counter = Counter::new();
/// Ranges, in transactions too.
pub static MVCC_RANGES: Counter = Counter::new();
/// Transactions of more than one operation.
pub static MVCC_TXNS: Counter = Counter::new();
/// Bytes of keys and values put.
pub static MVCC_PUT_BYTES: Counter = Counter::new();
/// Hashes of the whole store.
pub static HASH: Histogram = Histogram::new(Scale::seconds(10_000, 15));
/// Hashes up to a revision.
pub static HASH_REV: Histogram = Histogram::new(Scale::seconds(10_000, 15));
/// Revisions that compactions removed.
pub static COMPACTED_KEYS: Counter = Counter::new();
/// When the last compaction was applied: seconds since 1970; 0 if there was none since the start.
pub static COMPACTION_LAST: Gauge = Gauge::new();
/// Pruning the index after a compaction, from begin to end.
pub static COMPACTION_TOTAL: Histogram = Histogram::new(Scale::millis(100_000, 14));
/// Holds of the store while the index is pruned.
pub static INDEX_COMPACTION_PAUSE: Histogram = Histogram::new(Scale::millis(500, 14));

// Leases.

/// Leases granted.
pub static LEASES_GRANTED: Counter = Counter::new();
/// Leases renewed, as their clients asked.
pub static LEASES_RENEWED: Counter = Counter::new();
/// Leases revoked, expired ones included.
pub static LEASES_REVOKED: Counter = Counter::new();
/// Leases found expired.
pub static LEASES_EXPIRED: Counter = Counter::new();
/// Times to live of the leases granted.
pub static LEASE_TTL: Histogram = Histogram::new(Scale::powers_of_two(24));

/// A command as the metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named after the commands
pub enum Op {
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    MemberUpdate,
    SkipRevisions,
}

impl Op {
    /// All of them; an operation's number is its place.
    pub const ALL: [Op; 12] = [
        Op::Put,
        Op::DeleteRange,
        Op::Txn,
        Op::Compaction,
        Op::LeaseGrant,
        Op::LeaseRevoke,
        Op::LeaseCheckpoint,
        Op::Alarm,
        Op::ClusterVersionSet,
        Op::ClusterMemberAttrSet,
        Op::MemberUpdate,
        Op::SkipRevisions,
    ];

    /// The value of the label `op`.
    pub fn name(self) -> &'static str {
        match self {
            Op::Put => "Put",
            Op::DeleteRange => "DeleteRange",
            Op::Txn => "Txn",
            Op::Compaction => "Compaction",
            Op::LeaseGrant => "LeaseGrant",
            Op::LeaseRevoke => "LeaseRevoke",
            Op::LeaseCheckpoint => "LeaseCheckpoint",
            Op::Alarm => "Alarm",
            Op::ClusterVersionSet => "ClusterVersionSet",
            Op::ClusterMemberAttrSet => "ClusterMemberAttrSet",
            Op::MemberUpdate => "MemberUpdate",
            Op::SkipRevisions => "SkipRevisions",
        }
    }
}

/// Histograms by a number and by success.
#[derive(Debug)]
pub struct ByOutcome<const N: usize> {
    failed: [Histogram; N],
    succeeded: [Histogram; N],
}

impl<const N: usize> ByOutcome<N> {
    /// Nothing observed.
    pub const fn new(scale: Scale) -> ByOutcome<N> {
        ByOutcome { failed: Histogram::array(scale), succeeded: Histogram::array(scale) }
    }

    /// The histogram for a number and an outcome.
    pub fn of(&self, number: usize, success: bool) -> &Histogram {
        if success { &self.succeeded[number] } else { &self.failed[number] }
    }

    /// Those that were used: number, value of the label `success`, histogram.
    pub fn used(&self) -> impl Iterator<Item = (usize, &'static str, &Histogram)> {
        let failed = self.failed.iter().enumerate().map(|(number, histogram)| (number, "false", histogram));
        let succeeded = self.succeeded.iter().enumerate().map(|(number, histogram)| (number, "true", histogram));
        failed.chain(succeeded).filter(|(.., histogram)| !histogram.is_empty())
    }
}

/// Writes all families of this file.
pub fn families(text: &mut Text) {
    disk(text);
    server(text);
    mvcc(text);
    leases(text);
}

fn disk(text: &mut Text) {
    text.histogram("etcd_disk_wal_fsync_duration_seconds", "Time that syncs of the WAL take.", &WAL_FSYNC);
    text.histogram("etcd_disk_wal_write_duration_seconds", "Time that writes to the WAL take, without the sync.", &WAL_WRITE);
    text.value("etcd_disk_wal_write_bytes_total", "Bytes written to the WAL.", WAL_BYTES.get() as f64);
    text.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "Time that commits of a checkpoint to the backend take.",
        &BACKEND_COMMIT,
    );
    text.histogram("etcd_disk_backend_defrag_duration_seconds", "Time that defragmentations take.", &DEFRAG);
    text.gauge("etcd_disk_defrag_inflight", "1 while the backend is defragmented, else 0.", &DEFRAGS_INFLIGHT);
    text.gauge("etcd_mvcc_db_open_read_transactions", "Read transactions of the backend that are open.", &READ_TRANSACTIONS);
}

fn server(text: &mut Text) {
    text.counter("etcd_server_leader_changes_seen_total", "Changes of the leader that this member has seen.", &LEADER_CHANGES);
    text.gauge("etcd_server_proposals_pending", "Proposals that wait to be committed and applied.", &PROPOSALS_PENDING);
    text.counter("etcd_server_proposals_failed_total", "Proposals that failed.", &PROPOSALS_FAILED);
    text.counter("etcd_server_slow_apply_total", "Applies that took longer than they should.", &SLOW_APPLY);
    text.counter(
        "etcd_server_slow_read_indexes_total",
        "Linearizable reads that were not confirmed in time.",
        &SLOW_READ_INDEXES,
    );
    text.counter("etcd_server_read_indexes_failed_total", "Linearizable reads that failed.", &READ_INDEXES_FAILED);
    let used: Vec<_> = APPLY
        .used()
        .map(|(op, success, histogram)| ([("op", Op::ALL[op].name()), ("success", success), ("version", "v3")], histogram))
        .collect();
    text.histograms(
        "etcd_server_apply_duration_seconds",
        "Time that it takes to apply a command.",
        used.iter().map(|(labels, histogram): &([Label<'_>; 3], _)| (&labels[..], *histogram)),
    );
}

fn mvcc(text: &mut Text) {
    text.counter("etcd_mvcc_put_total", "Puts applied by this member.", &MVCC_PUTS);
    text.counter("etcd_mvcc_delete_total", "Deletions of ranges applied by this member.", &MVCC_DELETES);
    text.counter("etcd_mvcc_range_total", "Ranges read by this member.", &MVCC_RANGES);
    text.counter("etcd_mvcc_txn_total", "Transactions of more than one operation run by this member.", &MVCC_TXNS);
    text.value(
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "Bytes of keys and values put at this member.",
        MVCC_PUT_BYTES.get() as f64,
    );
    text.histogram("etcd_mvcc_hash_duration_seconds", "Time that hashes of the store take.", &HASH);
    text.histogram("etcd_mvcc_hash_rev_duration_seconds", "Time that hashes up to a revision take.", &HASH_REV);
    text.counter("etcd_debugging_mvcc_db_compaction_keys_total", "Revisions that compactions removed.", &COMPACTED_KEYS);
    text.gauge(
        "etcd_debugging_mvcc_db_compaction_last",
        "Unix time of the last compaction; 0 if there was none since the start.",
        &COMPACTION_LAST,
    );
    text.histogram(
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "Time that compactions take to clean up behind them.",
        &COMPACTION_TOTAL,
    );
    text.histogram(
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "Time that a step of compacting the index keeps others out.",
        &INDEX_COMPACTION_PAUSE,
    );
}

fn leases(text: &mut Text) {
    text.counter("etcd_debugging_lease_granted_total", "Leases granted.", &LEASES_GRANTED);
    text.counter("etcd_debugging_lease_renewed_total", "Leases renewed at the leader.", &LEASES_RENEWED);
    text.counter("etcd_debugging_lease_revoked_total", "Leases revoked.", &LEASES_REVOKED);
    text.counter("etcd_debugging_server_lease_expired_total", "Leases that expired.", &LEASES_EXPIRED);
    text.histogram("etcd_debugging_lease_ttl_total", "Times to live of leases, in seconds.", &LEASE_TTL);
}
