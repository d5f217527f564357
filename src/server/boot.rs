//! The start: from a data directory and a configuration to a running loop.
//!
//! ```text
//! <data-dir>/member/lock      held while the process runs
//! <data-dir>/member/snap/db   the checkpoint
//! <data-dir>/member/wal/      the WAL (or --wal-dir)
//! ```

use std::convert::Infallible;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};

use super::alarm::Alarms;
use super::checkpoint::{Checkpointer, Stored};
use super::compactor::Compactor;
use super::handle::Handle;
use super::inbox::{Ask, Inbox};
use super::membership::{self, Member, Membership};
use super::open_log::{Log, open_log};
use super::relaxed::Class;
use super::run::{Loop, Parts, Settings, Thresholds};
use super::shared::{LeaderLoss, Shared};
use crate::backend::{self, Backend};
use crate::config::Config;
use crate::error::Fault;
use crate::host::{Disk, Host};
use crate::lease::{self, LeaseId, Lessor};
use crate::mvcc::Store;
use crate::mvcc::watch::Hub;
use crate::raft::{self, Core, MemberId, Restored};
use crate::wal;

/// How long a start waits for a process that is just leaving the data directory.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// A lease that has longer than this to live gets what remains written to the log this often (etcd's interval).
const LEASE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
const LEASE_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// A running member. Dropping it without [`Server::stop`] leaves it running.
pub struct Server {
    handle: Handle,
    shared: Arc<Shared>,
    thread: JoinHandle<Result<(), Fault>>,
    ended: smol::channel::Receiver<Infallible>,
    stopping: smol::channel::Sender<Infallible>,
}

/// What users have no flag for; tests make it small.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    pub checkpoint_recent_bytes: u64,
    pub checkpoint_wal_bytes: u64,
    pub checkpoint_interval: Duration,
    pub wal_segment_bytes: u64,
    pub leave_wait: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            checkpoint_recent_bytes: 2 << 20,
            checkpoint_wal_bytes: 12 << 20,
            // Long is light on flash: a row rewritten ten times between two checkpoints costs its pages once.
            checkpoint_interval: Duration::from_secs(300),
            wal_segment_bytes: wal::Options::default().segment_bytes,
            leave_wait: Duration::from_secs(10),
        }
    }
}

/// etcd's count is the price of a long log in memory and costs it no rewriting of rows. Here a checkpoint costs flash, and the log is
/// bounded by its bytes, so that so many times the count is enough to bound a replay.
const ENTRIES_PER_SNAPSHOT_COUNT: u64 = 10;

impl Server {
    /// Starts, and returns once this member can answer.
    ///
    /// # Errors
    /// A fault that names what is wrong with the data directory, and what to do.
    pub fn start(config: &Config, host: Host, observer: Arc<dyn wal::Observer>) -> Result<Server, Fault> {
        Server::start_tuned(config, host, observer, Tuning::default())
    }

    pub(super) fn start_tuned(
        config: &Config,
        host: Host,
        observer: Arc<dyn wal::Observer>,
        tuning: Tuning,
    ) -> Result<Server, Fault> {
        let dirs = Dirs::of(config);
        if !dirs.member.exists() {
            // Before anything is made: what is refused leaves nothing behind.
            first_members(config)?;
        }
        dirs.create(&*host.disk)?;
        let lock = lock(&dirs.member.join("lock"))?;
        let options = backend::Options { map_bytes: map_bytes(config.quota_backend_bytes), no_fsync: config.unsafe_no_fsync };
        let backend = Arc::new(Backend::open(&dirs.db, options)?);
        let stored = Stored::read(&backend)?;
        let log = open_log(config, &host, &dirs, &stored, tuning)?;
        if stored.identity.is_some() {
            stored.membership.check_alone(MemberId(log.identity.member_id))?;
        }
        log::info!("starting member {} of cluster {:x}", MemberId(log.identity.member_id), log.identity.cluster_id);

        let mut lessor = Lessor::new(lease_config(config), stored.leases);
        let mut orphans = 0;
        let store = Store::open(backend.clone(), |key, lease| {
            let attached = lessor.attach(Bytes::copy_from_slice(key), LeaseId(lease));
            orphans += usize::from(attached.is_err());
        })?;
        if orphans > 0 {
            return Err(Fault::new(format!("{} is damaged: {orphans} keys hang on leases that it lacks", dirs.db.display())));
        }
        let store = Arc::new(store);
        let size = store.size()?;
        let quota_bytes = quota_bytes(config.quota_backend_bytes, backend.map_bytes()?);
        let (stopping, is_stopping) = smol::channel::bounded(1);
        let shared = Arc::new(Shared {
            identity: log.identity,
            host: host.clone(),
            data_dir: config.data_dir.clone(),
            wal_dir: dirs.wal.clone(),
            hub: Hub::new(store.clone(), store.current()),
            store,
            lessor: Mutex::new(lessor),
            alarms: Mutex::new(Alarms::of(stored.alarms)),
            members: Mutex::new(stored.membership.clone()),
            inbox: Inbox::default(),
            quota_bytes,
            max_request_bytes: config.max_request_bytes,
            term: AtomicU64::new(log.hard_state.term.0),
            committed: AtomicU64::new(stored.applied.index.0),
            applied: AtomicU64::new(stored.applied.index.0),
            leader: AtomicU64::new(0),
            leader_loss: LeaderLoss::new(),
            reads_are_linearizable: AtomicBool::new(false),
            used_bytes: AtomicU64::new(size.in_use),
            recent_bytes: AtomicU64::new(0),
            checkpoint_full: AtomicBool::new(false),
            wal_full: AtomicBool::new(false),
            room_bytes: AtomicU64::new(u64::MAX),
            disk_low: AtomicBool::new(false),
            disk_check_due: AtomicU64::new(0),
            request_ids: AtomicU64::new(host.random.next_u64() | 1 << 63),
            stopping: is_stopping,
        });
        let core = Core::new(
            raft_config(config, &log, &host),
            Restored {
                hard_state: log.hard_state,
                conf: stored.membership.conf_state(),
                base: stored.applied,
                entries: log.entries,
            },
        )?;
        let reports = shared.clone();
        let wal = wal::Writer::start(log.wal, observer, Box::new(move |report| reports.inbox.ask(Ask::Wal(report))))?;
        let (ready, is_ready) = sync_channel(1);
        let now = host.clock.now();
        let parts = Parts {
            settings: settings(config, tuning),
            core,
            wal,
            checkpointer: Checkpointer::start(backend, shared.clone())?,
            compactor: Compactor::new(config.auto_compaction, now),
            applied: stored.applied,
            lock,
            // The start may have given up waiting.
            ready: Box::new(move || {
                let _ = ready.send(());
            }),
            shared: shared.clone(),
        };
        let (end, ended) = smol::channel::bounded(1);
        let thread = thread::Builder::new()
            .name("loop".into())
            .spawn(move || {
                let _end: smol::channel::Sender<Infallible> = end;
                Loop::new(parts).run()
            })
            .map_err(|e| Fault::new(format!("cannot start the loop's thread: {e}")))?;
        if is_ready.recv().is_err() {
            // The loop has ended before it led.
            let end = thread.join().expect("a panic would have ended the process");
            return Err(end.err().unwrap_or_else(|| Fault::new("stopped while starting")));
        }
        let handle = Handle::new(shared.clone());
        // A refusal here is no reason not to serve: the attributes are told again at the next start.
        if let Err(error) = smol::block_on(handle.publish(&config.name, &config.advertise_client_urls)) {
            log::warn!("could not publish this member's name and client URLs: {error:?}");
        }
        Ok(Server { handle, shared, thread, ended, stopping })
    }

    /// What clients are served with.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Resolves when the loop has ended, asked for or not.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let ended = self.ended.clone();
        async move {
            // Nothing is ever sent: the channel's end is the message.
            let _ = ended.recv().await;
        }
    }

    /// Ends the streams that clients hold open; everything else goes on.
    pub fn begin_stop(&self) {
        self.stopping.close();
    }

    /// Asks the loop to end, without waiting. Requests under way are told that the server has stopped.
    pub fn stop(&self) {
        self.shared.inbox.ask(Ask::Stop);
    }

    /// Waits for the end, asked for or not.
    ///
    /// # Errors
    /// The fault that ended it.
    pub fn wait(self) -> Result<(), Fault> {
        self.thread.join().expect("a panic would have ended the process")
    }
}

pub(super) struct Dirs {
    data: PathBuf,
    member: PathBuf,
    pub snap: PathBuf,
    db: PathBuf,
    pub wal: PathBuf,
}

impl Dirs {
    fn of(config: &Config) -> Dirs {
        let member = config.data_dir.join("member");
        let snap = member.join("snap");
        let wal = config.wal_dir.clone().unwrap_or_else(|| member.join("wal"));
        Dirs { data: config.data_dir.clone(), db: snap.join("db"), member, snap, wal }
    }

    fn create(&self, disk: &dyn Disk) -> Result<(), Fault> {
        for dir in [&self.data, &self.snap] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Fault::io("create", dir, &e))?;
        }
        disk.create_dir(&self.wal).map_err(|e| Fault::io("create", &self.wal, &e))?;
        let mode = fs::metadata(&self.data).map_err(|e| Fault::io("stat", &self.data, &e))?.permissions().mode();
        if mode & 0o077 != 0 {
            log::warn!("others may look into {} (mode {:o}): it should be 0700", self.data.display(), mode & 0o777);
        }
        Ok(())
    }
}

impl Dirs {
    /// Before the first acknowledgement, every directory on the way to the WAL and the checkpoint has to have its name on disk. A
    /// start that was killed may have made them and not synced them, so all are synced that could be new.
    pub fn make_names_durable(&self, disk: &dyn Disk) -> Result<(), Fault> {
        let mut dirs: Vec<&Path> = [&self.snap, &self.wal].into_iter().flat_map(|dir| dir.ancestors()).collect();
        dirs.sort_unstable();
        dirs.dedup();
        for dir in dirs.into_iter().rev() {
            let named = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            match disk.sync_dir(named) {
                Ok(()) => {}
                Err(error) if dir.starts_with(&self.data) || dir.starts_with(&self.wal) => {
                    return Err(Fault::io("sync", named, &error));
                }
                // We may pass through it without being let in; then it is not ours, and was there before.
                Err(error) => log::debug!("cannot sync {}: {error}", named.display()),
            }
        }
        Ok(())
    }
}

/// Takes the data directory for this process. The kernel gives it back when the process ends, however it ends.
fn lock(path: &Path) -> Result<fs::File, Fault> {
    let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let mut file = file.map_err(|e| Fault::io("open", path, &e))?;
    let step = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(Fault::io("lock", path, &error.into()));
        }
        if waited == Duration::ZERO {
            log::warn!("waiting for another process to leave the data directory: {} is locked", path.display());
        }
        if waited >= LOCK_WAIT {
            let mut pid = String::new();
            // Only for the message.
            let _ = file.read_to_string(&mut pid);
            let who = if pid.trim().is_empty() { "another process".to_owned() } else { format!("process {}", pid.trim()) };
            return Err(Fault::new(format!(
                "the data directory is in use by {who}: {} is locked. Stop it first",
                path.display()
            )));
        }
        thread::sleep(step);
        waited += step;
    }
    let pid = format!("{}\n", std::process::id());
    // Only for the message above, and a full disk must not keep us from starting: room can be made only by a server that runs.
    if let Err(error) = file.write_all_at(pid.as_bytes(), 0).and_then(|()| file.set_len(pid.len() as u64)) {
        log::warn!("cannot write our process id to {}: {error}", path.display());
    }
    Ok(file)
}

/// Room for the quota and for what LMDB needs beside it to copy pages while it frees others.
fn map_bytes(quota: Option<u64>) -> u64 {
    match quota {
        Some(quota) => quota.saturating_add(quota / 2).max(256 << 20).saturating_add(1 << 20),
        None => 64 << 30,
    }
}

/// The quota that the map has room for. A map that is full could not even take deletions, so the quota has to come first; on
/// 32-bit boards it has less address space than users ask for.
fn quota_bytes(asked: Option<u64>, map_bytes: u64) -> Option<u64> {
    let room = map_bytes / 3 * 2;
    match asked {
        Some(asked) if asked <= room => Some(asked),
        None if cfg!(target_pointer_width = "64") => None,
        _ => {
            log::warn!("the quota is {room} bytes: more than {map_bytes} bytes cannot be mapped here");
            Some(room)
        }
    }
}

fn lease_config(config: &Config) -> lease::Config {
    lease::Config {
        min_ttl_secs: i64::try_from(config.min_lease_ttl.as_secs()).unwrap_or(i64::MAX).max(1),
        retry_interval: LEASE_RETRY_INTERVAL,
        checkpoint_interval: LEASE_CHECKPOINT_INTERVAL,
    }
}

fn raft_config(config: &Config, log: &Log, host: &Host) -> raft::Config {
    let ticks = config.election_timeout.as_millis().div_ceil(config.heartbeat_interval.as_millis().max(1));
    raft::Config {
        id: MemberId(log.identity.member_id),
        election_ticks: u32::try_from(ticks).unwrap_or(u32::MAX).max(2),
        heartbeat_ticks: 1,
        seed: host.random.next_u64(),
        max_append_bytes: 1 << 20,
        max_inflight_bytes: 8 << 20,
        max_uncommitted_bytes: 64 << 20,
    }
}

fn settings(config: &Config, tuning: Tuning) -> Settings {
    Settings {
        tick: config.heartbeat_interval,
        // etcd: five seconds for a disk to stall, and two elections.
        request_timeout: config.request_timeout(),
        thresholds: Thresholds {
            recent_bytes: tuning.checkpoint_recent_bytes,
            wal_bytes: tuning.checkpoint_wal_bytes,
            entries: config.snapshot_count.max(1).saturating_mul(ENTRIES_PER_SNAPSHOT_COUNT),
            interval: tuning.checkpoint_interval,
        },
        warning_apply: config.warning_apply_duration,
        election_timeout: config.election_timeout,
        leave_wait: tuning.leave_wait,
        relaxed: config.relaxed.as_ref().map(|relaxed| (Class::new(relaxed), relaxed.interval)),
    }
}

/// This member's ids, and the members that `--initial-cluster` names.
pub(super) fn first_members(config: &Config) -> Result<(wal::Identity, Membership), Fault> {
    if config.join_existing || config.initial_cluster.len() != 1 {
        return Err(Fault::new(
            "clusters of several members are not there yet: --initial-cluster must name this member alone, with \
             --initial-cluster-state=new",
        ));
    }
    let member = |(_, urls): &(String, Vec<String>)| Member {
        id: membership::member_id(urls, &config.initial_cluster_token),
        name: String::new(),
        peer_urls: urls.clone(),
        client_urls: Vec::new(),
        learner: false,
    };
    let members = Membership::of(config.initial_cluster.iter().map(member), None);
    let own = config.initial_cluster.iter().find(|(name, _)| *name == config.name);
    let (_, urls) = own.ok_or_else(|| Fault::new(format!("--initial-cluster does not name this member, {}", config.name)))?;
    let member_id = membership::member_id(urls, &config.initial_cluster_token).0;
    let cluster_id = membership::cluster_id(members.list().iter().map(|m| m.id));
    Ok((wal::Identity { cluster_id, member_id }, members))
}
