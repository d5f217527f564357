//! A data directory as a server has left it, to be damaged: the checkpoint's file, and the WAL on a disk in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use bramble::config::Config;
use bramble::error::Fault;
use bramble::host::sim::SimDisk;
use bramble::host::{BootClock, Disk, Host, OsRandom};
use bramble::pb::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    alarm_request::AlarmAction,
};
use bramble::raft::{Index, LogId};
use bramble::server::{Handle, Server};
use bramble::wal::{self, NoObserver, Wal};
use futures_lite::future::block_on;

use super::input::Input;
use super::{messages, served};

const WAL: &str = "/wal";

/// What the server has left.
pub static LEFT: LazyLock<Left> = LazyLock::new(Left::by_a_server);

pub struct Left {
    /// The checkpoint: LMDB's file.
    pub db: Vec<u8>,
    /// Holds the WAL, in [`WAL`].
    pub disk: SimDisk,
}

/// A directory for one input after the other.
pub struct DataDir {
    config: Config,
    _dir: tempfile::TempDir,
}

impl Left {
    fn by_a_server() -> Left {
        let dir = DataDir::new();
        let disk = SimDisk::new(1);
        let server = dir.start(&disk).expect("an empty directory");
        history(&server.handle());
        server.stop();
        server.wait().expect("nothing is wrong with it");
        Left { db: fs::read(dir.db()).expect("it was written"), disk: small(&dir.wal(), &disk) }
    }
}

/// Two checkpoints, so that LMDB's file holds the one before; every table; rows that fill pages and rows longer than one; pages
/// that are free.
fn history(server: &Handle) {
    let put = |key: String, value: usize, lease| {
        let value = vec![b'v'; value].into();
        block_on(server.put(PutRequest { key: key.into(), value, lease, ..PutRequest::default() })).expect("a put");
    };
    block_on(server.lease_grant(LeaseGrantRequest { id: 7, ttl: 1000 })).expect("a lease");
    (0..40).for_each(|n| put(format!("key {n}"), 200, if n % 8 == 0 { 7 } else { 0 }));
    put("long".into(), 10_000, 0);
    let doomed = DeleteRangeRequest { key: "key 1".into(), range_end: "key 2".into(), ..DeleteRangeRequest::default() };
    block_on(server.delete_range(doomed)).expect("a delete");
    block_on(server.compact(CompactionRequest { revision: 20, physical: true })).expect("a compaction");
    let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id: 1, alarm: AlarmType::Nospace as i32 };
    block_on(server.alarm(alarm)).expect("an alarm");
    block_on(server.alarm(AlarmRequest { action: AlarmAction::Deactivate as i32, ..alarm })).expect("no alarm");
    block_on(server.alarm(AlarmRequest { member_id: 2, alarm: AlarmType::None as i32, ..alarm })).expect("an alarm");
    (0..10).for_each(|n| put(format!("late {n}"), 100, 0));
}

impl DataDir {
    pub fn new() -> DataDir {
        let dir = super::memory_dir();
        DataDir { config: served::config_for(dir.path()), _dir: dir }
    }

    /// The checkpoint's path.
    pub fn db(&self) -> PathBuf {
        self.config.data_dir.join("member/snap/db")
    }

    pub fn wal(&self) -> PathBuf {
        self.config.data_dir.join("member/wal")
    }

    /// Puts a checkpoint in place.
    pub fn lay(&self, db: &[u8]) {
        let path = self.db();
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("there is room");
        fs::write(path, db).expect("there is room");
    }

    /// Starts a server on this directory and a disk that holds its WAL.
    pub fn start(&self, disk: &SimDisk) -> Result<Server, Fault> {
        Server::start(&self.config, host(disk), Arc::new(NoObserver))
    }

    /// The WAL that the server has left, on a disk of its own.
    pub fn disk(&self) -> SimDisk {
        let disk = SimDisk::new(1);
        disk.create_dir(&self.wal()).expect("an empty disk");
        for name in LEFT.disk.list(Path::new(WAL)).expect("it was written") {
            disk.set_bytes(&self.wal().join(&name), LEFT.disk.bytes(&Path::new(WAL).join(&name)));
        }
        disk
    }
}

/// The same log in a file that is quickly copied.
fn small(dir: &Path, disk: &SimDisk) -> SimDisk {
    let (_, log) = Wal::open(&host(disk), dir, None, Index(0), wal::Options::default()).expect("a server has left it");
    let small = SimDisk::new(1);
    let options = wal::Options { segment_bytes: 96 << 10, ..wal::Options::default() };
    let mut wal = Wal::create(&host(&small), Path::new(WAL), log.identity, LogId::default(), options).expect("an empty disk");
    wal.append(Some(log.hard_state), &log.entries).expect("there is room");
    small
}

pub fn host(disk: &SimDisk) -> Host {
    Host { disk: Arc::new(disk.clone()), clock: Arc::new(BootClock::new()), random: Arc::new(OsRandom::new()) }
}

/// Whatever the directory held, clients are answered.
pub fn serve(handle: &Handle) {
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
    for revision in [0, 25, i64::MAX] {
        if let Ok(mut answer) = block_on(handle.range(&RangeRequest { revision, ..all.clone() })) {
            let _ = answer.rows.take_while(|_| true);
        }
    }
    let put = PutRequest { key: "key 3".into(), lease: 7, prev_kv: true, ..PutRequest::default() };
    let _ = block_on(handle.put(put));
    let txn = messages::txn(&mut Input::new(&[1, 1, 1, 5, 0, 2, 0, 5, 7]), 3);
    let _ = block_on(handle.txn(txn));
    let _ = block_on(handle.lease_times(7, true));
    let _ = block_on(handle.lease_renew(7));
    let _ = block_on(handle.lease_revoke(7));
}
