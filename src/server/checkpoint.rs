//! The checkpoint's own thread, the only one that writes to LMDB. In: [`Job`]s from the loop, each holding everything it needs,
//! taken at one applied index. Out: [`Outcome`]s to the loop's inbox.
//!
//! Always: rows, applied index, leases, alarms and membership of one moment go in one LMDB transaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use prost::Message;

use super::inbox::{Ask, Reply};
use super::membership::{Member, Membership};
use super::shared::Shared;
use crate::backend::{Backend, Reader, Table, WriteError, Writer};
use crate::error::{Error, Fault};
use crate::host;
use crate::lease::{LeaseId, LeaseRecord};
use crate::metrics;
use crate::mvcc;
use crate::pb::etcdserverpb::{self as pb, AlarmMember};
use crate::raft::{Index, LogId, Term};
use crate::wal;

/// The version of the checkpoint's tables.
const FORMAT: u64 = 1;
const META_FORMAT: &[u8] = b"format";
const META_CLUSTER: &[u8] = b"cluster_id";
const META_MEMBER: &[u8] = b"member_id";
const META_APPLIED_INDEX: &[u8] = b"applied_index";
const META_APPLIED_TERM: &[u8] = b"applied_term";
const META_CLUSTER_VERSION: &[u8] = b"cluster_version";

/// Leases that changed since the last checkpoint, and what to store of each; none to remove it.
pub(super) type LeaseChanges = BTreeMap<LeaseId, Option<LeaseRecord>>;

/// Everything a checkpoint writes.
pub(super) struct Snapshot {
    pub identity: wal::Identity,
    pub applied: LogId,
    pub rows: mvcc::Checkpoint,
    pub leases: LeaseChanges,
    /// If they changed.
    pub alarms: Option<Vec<AlarmMember>>,
    /// If it changed.
    pub membership: Option<Membership>,
}

pub(super) enum Job {
    Checkpoint(Box<Snapshot>),
    /// Prune the index for the last compaction.
    Prune,
    /// Rewrite the file, once for all who asked.
    Defragment(Vec<Reply<()>>),
    /// Nothing of its own: it takes a while, which the loop has not.
    GiveBackMemory,
}

pub(super) enum Outcome {
    /// Everything up to here is in the checkpoint, written in so long. `blocked`: compacted rows are left, and none could be removed,
    /// because reads under way still need them.
    Written { applied: LogId, took: Duration, blocked: bool },
    /// No room. What the next one has to write too.
    Full(Box<Snapshot>),
    /// The index is pruned.
    Pruned,
    /// The file has been rewritten.
    Defragmented,
}

/// What a start finds in the checkpoint.
#[derive(Default)]
pub(super) struct Stored {
    pub identity: Option<wal::Identity>,
    pub applied: LogId,
    pub leases: Vec<LeaseRecord>,
    pub alarms: Vec<AlarmMember>,
    pub membership: Membership,
}

/// The thread.
pub(super) struct Checkpointer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub fn start(backend: Arc<Backend>, shared: Arc<Shared>) -> Result<Checkpointer, Fault> {
        let (jobs, todo) = channel();
        let work = move || run(&backend, &shared, &todo);
        let thread = thread::Builder::new().name("checkpoint".into()).spawn(work);
        let thread = thread.map_err(|e| Fault::new(format!("cannot start the checkpoint thread: {e}")))?;
        Ok(Checkpointer { jobs: Some(jobs), thread: Some(thread) })
    }

    pub fn submit(&self, job: Job) {
        self.jobs.as_ref().expect("open until the end").send(job).expect("a panic would have ended the process");
    }
}

impl Drop for Checkpointer {
    /// Finishes the jobs that wait.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a panic would have ended the process");
        }
    }
}

fn run(backend: &Backend, shared: &Shared, todo: &Receiver<Job>) {
    for job in todo {
        match job {
            Job::Prune => {
                prune(shared);
                shared.inbox.ask(Ask::Checkpoint(Outcome::Pruned));
            }
            Job::GiveBackMemory => host::give_back_memory(),
            Job::Checkpoint(snapshot) => {
                let begun = shared.host.clock.now();
                match backend.write(|writer| snapshot.write(writer)) {
                    Ok(()) => {
                        shared.store.checkpointed(&snapshot.rows);
                        let took = shared.host.clock.now().saturating_sub(begun);
                        log::debug!("checkpoint at {} written in {took:?}", snapshot.applied);
                        let blocked = snapshot.rows.leaves_garbage() && !snapshot.rows.removes_rows();
                        shared.inbox.ask(Ask::Checkpoint(Outcome::Written { applied: snapshot.applied, took, blocked }));
                    }
                    Err(WriteError::Full(why)) => {
                        log::error!("the checkpoint could not be written, and will be tried again: {why}");
                        shared.inbox.ask(Ask::Checkpoint(Outcome::Full(snapshot)));
                    }
                    Err(WriteError::Fault(fault)) => shared.inbox.ask(Ask::Fail(fault)),
                }
            }
            Job::Defragment(replies) => {
                let result = match backend.defragment(&|| shared.others_write()) {
                    Ok(()) => Ok(()),
                    Err(WriteError::Full(why)) => {
                        log::error!("the checkpoint could not be defragmented: {why}");
                        Err(Error::NoSpace)
                    }
                    Err(WriteError::Fault(fault)) => {
                        shared.inbox.ask(Ask::Fail(fault));
                        Err(Error::Stopped)
                    }
                };
                shared.inbox.ask(Ask::Checkpoint(Outcome::Defragmented));
                for reply in replies {
                    // The client may have gone.
                    let _ = reply.send(result.clone());
                }
            }
        }
    }
}

/// Prunes the index for the last compaction, step by step. A start asks for it too, in case a crash has left something.
fn prune(shared: &Shared) {
    if !shared.store.needs_pruning() {
        return;
    }
    let begun = Instant::now();
    loop {
        let step = Instant::now();
        let more = shared.store.prune_step();
        metrics::INDEX_COMPACTION_PAUSE.observe(step.elapsed());
        if !more {
            break;
        }
        // Readers and the loop wait for the same lock: let them go first.
        thread::yield_now();
    }
    metrics::COMPACTION_TOTAL.observe(begun.elapsed());
}

impl Snapshot {
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), WriteError> {
        let mut number = |name: &[u8], value: u64| writer.put(Table::Meta, name, &value.to_be_bytes());
        number(META_FORMAT, FORMAT)?;
        number(META_CLUSTER, self.identity.cluster_id)?;
        number(META_MEMBER, self.identity.member_id)?;
        number(META_APPLIED_INDEX, self.applied.index.0)?;
        number(META_APPLIED_TERM, self.applied.term.0)?;
        for (id, record) in &self.leases {
            let key = id.0.to_be_bytes();
            match record {
                Some(record) => writer.put(Table::Lease, &key, &encode_lease(record))?,
                None => writer.delete(Table::Lease, &key)?,
            }
        }
        if let Some(alarms) = &self.alarms {
            writer.clear(Table::Alarm)?;
            for (n, alarm) in alarms.iter().enumerate() {
                writer.put(Table::Alarm, &(n as u32).to_be_bytes(), &alarm.encode_to_vec())?;
            }
        }
        if let Some(membership) = &self.membership {
            writer.clear(Table::Member)?;
            for member in membership.list() {
                writer.put(Table::Member, &member.id.0.to_be_bytes(), &pb::Member::from(&member).encode_to_vec())?;
            }
            if let Some(version) = membership.cluster_version() {
                writer.put(Table::Meta, META_CLUSTER_VERSION, version.as_bytes())?;
            }
        }
        self.rows.write(writer)
    }
}

impl Stored {
    /// Reads everything but the rows.
    pub fn read(backend: &Backend) -> Result<Stored, Fault> {
        let mut reader = backend.reader()?;
        let Some(format) = number(&mut reader, META_FORMAT)? else { return Ok(Stored::default()) };
        if format != FORMAT {
            return Err(Fault::new(format!(
                "the checkpoint has format {format}, and this bramble knows {FORMAT}: use the version that wrote it"
            )));
        }
        let mut required = |name: &[u8]| {
            let missing = || Fault::new(format!("the checkpoint is damaged: it lacks {}", String::from_utf8_lossy(name)));
            number(&mut reader, name)?.ok_or_else(missing)
        };
        let identity = wal::Identity { cluster_id: required(META_CLUSTER)?, member_id: required(META_MEMBER)? };
        let applied = LogId { index: Index(required(META_APPLIED_INDEX)?), term: Term(required(META_APPLIED_TERM)?) };
        let cluster_version = reader.get(Table::Meta, META_CLUSTER_VERSION)?.map(|v| String::from_utf8_lossy(v).into_owned());
        let leases = rows(&reader, Table::Lease, decode_lease)?;
        let alarms = rows(&reader, Table::Alarm, |_, value| AlarmMember::decode(value).ok())?;
        let members: Vec<Member> = rows(&reader, Table::Member, |_, value| pb::Member::decode(value).ok().map(Member::from))?;
        if members.is_empty() {
            // Nobody could ever be elected. The log's first entries name members, so no checkpoint is without.
            return Err(Fault::new("the checkpoint is damaged: it names no members. Put back a copy of the data directory"));
        }
        Ok(Stored { identity: Some(identity), applied, leases, alarms, membership: Membership::of(members, cluster_version) })
    }
}

fn number(reader: &mut Reader, name: &[u8]) -> Result<Option<u64>, Fault> {
    let Some(bytes) = reader.get(Table::Meta, name)? else { return Ok(None) };
    let wrong = |_| Fault::new(format!("the checkpoint is damaged: its {} is not a number", String::from_utf8_lossy(name)));
    bytes.try_into().map(u64::from_be_bytes).map(Some).map_err(wrong)
}

fn rows<T>(reader: &Reader, table: Table, decode: impl Fn(&[u8], &[u8]) -> Option<T>) -> Result<Vec<T>, Fault> {
    let mut rows = Vec::new();
    reader.scan(table, b"", |key, value| {
        rows.push(
            decode(key, value)
                .ok_or_else(|| Fault::new(format!("the checkpoint holds a row of {table:?} that cannot be read")))?,
        );
        Ok(true)
    })?;
    Ok(rows)
}

/// Granted seconds, and remaining seconds or -1.
fn encode_lease(record: &LeaseRecord) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&record.ttl_secs.to_be_bytes());
    value[8..].copy_from_slice(&record.remaining_secs.unwrap_or(-1).to_be_bytes());
    value
}

fn decode_lease(key: &[u8], value: &[u8]) -> Option<LeaseRecord> {
    let id = LeaseId(i64::from_be_bytes(key.try_into().ok()?));
    let (ttl, remaining) = value.split_first_chunk::<8>()?;
    let remaining = i64::from_be_bytes(remaining.try_into().ok()?);
    Some(LeaseRecord { id, ttl_secs: i64::from_be_bytes(*ttl), remaining_secs: (remaining >= 0).then_some(remaining) })
}
