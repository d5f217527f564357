//! A server on a simulated disk, clock and random source. Its WAL is there; LMDB's file is on the real one, and what it has
//! committed when the server ends is what a crash leaves of it.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use smol::block_on;
use smol::future::poll_once;

use super::super::boot::Tuning;
use super::super::{Handle, Server};
use super::config;
use crate::error::{Error, Fault};
use crate::host::Host;
use crate::host::sim::{SimClock, SimDisk, SimRandom};
use crate::mvcc::RowHead;
use crate::pb::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use crate::wal::NoObserver;

const OWN_FLAGS: [&str; 2] = ["--heartbeat-interval=10", "--election-timeout=100"];

pub struct Rig {
    pub disk: SimDisk,
    pub clock: Arc<SimClock>,
    pub tuning: Tuning,
    host: Host,
    dir: tempfile::TempDir,
    flags: Vec<String>,
}

impl Rig {
    /// With short ticks, so that a clock that was moved is soon looked at.
    pub fn new(seed: u64, flags: &[&str]) -> Rig {
        let disk = SimDisk::new(seed);
        let clock = Arc::new(SimClock::default());
        let random = Arc::new(SimRandom::new(seed ^ 0x5eed));
        let host = Host { disk: Arc::new(disk.clone()), clock: clock.clone(), random };
        let flags = OWN_FLAGS.iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
        // Nothing of LMDB's file is lost with the power here, so it need not wait for a real disk.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Rig { disk, clock, tuning: Tuning::default(), host, dir, flags }
    }

    /// With checkpoints and segments so small that a short run sees many.
    pub fn small(seed: u64) -> Rig {
        let mut rig = Rig::new(seed, &[]);
        rig.tuning.checkpoint_recent_bytes = 6 << 10;
        rig.tuning.checkpoint_wal_bytes = 24 << 10;
        rig.tuning.wal_segment_bytes = 8 << 10;
        rig
    }

    /// Other flags from the next start on.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags.truncate(OWN_FLAGS.len());
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    pub fn start(&self) -> Result<Server, Fault> {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        Server::start_tuned(&config(self.dir.path(), &flags), self.host.clone(), Arc::new(NoObserver), self.tuning)
    }

    /// Waits for `work`, which may rest: between two checkpoints of a compaction the disk is left to others for a while.
    /// The steps of the clock are small, so that what else has its time does not come much sooner than it would.
    pub fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            if let Some(done) = block_on(poll_once(&mut work)) {
                return done;
            }
            self.clock.advance(Duration::from_micros(10));
            thread::yield_now();
        }
    }

    pub fn wal_dir(&self) -> PathBuf {
        self.dir.path().join("member/wal")
    }

    /// The checkpoint's file.
    pub fn db(&self) -> PathBuf {
        self.dir.path().join("member/snap/db")
    }

    /// Forgets LMDB's directory, as a power cut does to a name that was never synced.
    pub fn lose_checkpoint(&self) {
        std::fs::remove_dir_all(self.dir.path().join("member")).unwrap();
    }
}

pub fn put_request(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..PutRequest::default() }
}

pub fn put(handle: &Handle, key: &str, value: &str) -> Result<i64, Error> {
    block_on(handle.put(put_request(key, value, 0))).map(|response| response.header.unwrap().revision)
}

pub fn delete(handle: &Handle, key: &str) -> Result<i64, Error> {
    let request = DeleteRangeRequest { key: key.to_owned().into(), ..DeleteRangeRequest::default() };
    block_on(handle.delete_range(request)).map(|response| response.header.unwrap().revision)
}

/// Keys and values of an answer, in key order.
pub fn rows(handle: &Handle, request: &RangeRequest) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    block_on(handle.range(request))?
        .rows
        .take_while(|row| {
            let head = RowHead::parse(row).unwrap();
            found.push((text(head.key), text(head.value)));
            true
        })
        .unwrap();
    Ok(found)
}

pub fn get(handle: &Handle, key: &str) -> Option<String> {
    let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
    rows(handle, &request).unwrap().pop().map(|(_, value)| value)
}

/// Everything that a revision has written and not deleted.
pub fn written_at(handle: &Handle, revision: i64) -> Result<Vec<(String, String)>, Error> {
    let all = || bytes::Bytes::from_static(b"\0");
    rows(
        handle,
        &RangeRequest {
            key: all(),
            range_end: all(),
            revision,
            min_mod_revision: revision,
            max_mod_revision: revision,
            ..RangeRequest::default()
        },
    )
}

/// One step of the clock, and the loop has seen it when this returns.
pub fn step(rig: &Rig, handle: &Handle, by: Duration) {
    rig.clock.advance(by);
    put(handle, "step", "").unwrap();
}
