//! What the loop and its clients share.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use smol::channel::{self, Receiver, Sender};

use super::alarm::Alarms;
use super::command::Command;
use super::inbox::{Inbox, Proposal};
use super::membership::Membership;
use crate::error::Error;
use crate::host::Host;
use crate::lease::Lessor;
use crate::mvcc::Store;
use crate::mvcc::watch::Hub;
use crate::pb::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use crate::raft::MemberId;
use crate::wal;

/// Room on the checkpoint's disk below which growing commands are refused: deleting and compacting take room too, before they give
/// any back.
const RESERVED_BYTES: u64 = 16 << 20;
/// The same on the WAL's disk, whose segments are used again: room for one that is longer than others.
const WAL_RESERVED_BYTES: u64 = 2 << 20;
/// How often the disks are asked for it.
const DISK_CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes in memory and not yet in the checkpoint above which growing commands have to wait: the checkpoint's disk has stalled.
const MAX_RECENT_BYTES: u64 = 64 << 20;
/// The same above which a checkpoint is more urgent than that it is not felt.
const URGENT_RECENT_BYTES: u64 = MAX_RECENT_BYTES / 4;

pub(super) struct Shared {
    pub identity: wal::Identity,
    pub host: Host,
    pub data_dir: PathBuf,
    pub wal_dir: PathBuf,
    pub store: Arc<Store>,
    pub hub: Arc<Hub>,
    pub lessor: Mutex<Lessor>,
    pub alarms: Mutex<Alarms>,
    pub members: Mutex<Membership>,
    pub inbox: Inbox,
    pub quota_bytes: Option<u64>,
    pub max_request_bytes: usize,
    pub term: AtomicU64,
    pub committed: AtomicU64,
    pub applied: AtomicU64,
    /// 0 for none.
    pub leader: AtomicU64,
    pub leader_loss: LeaderLoss,
    /// This member is the only voter, leads, and has applied its first entry: every read is linearizable as it is.
    pub reads_are_linearizable: AtomicBool,
    /// Bytes that the quota counts: pages in use, and what waits to get into them.
    pub used_bytes: AtomicU64,
    pub recent_bytes: AtomicU64,
    /// The last checkpoint found no room.
    pub checkpoint_full: AtomicBool,
    /// The WAL finds no room for what it was given.
    pub wal_full: AtomicBool,
    /// What [`Shared::room`] was when it was last looked for, whether it was too little, and the clock's milliseconds when to look
    /// again.
    pub room_bytes: AtomicU64,
    pub disk_low: AtomicBool,
    pub disk_check_due: AtomicU64,
    pub request_ids: AtomicU64,
    /// Closed when the server begins to stop.
    pub stopping: Receiver<Infallible>,
}

impl Shared {
    pub fn lessor(&self) -> MutexGuard<'_, Lessor> {
        self.lessor.lock().expect("the loop panicked")
    }

    pub fn leader(&self) -> Option<MemberId> {
        Some(self.leader.load(Ordering::Relaxed)).filter(|id| *id != 0).map(MemberId)
    }

    pub fn next_request_id(&self) -> u64 {
        self.request_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Refuses a command that this member has no room for. Local: what was let into the log is judged by replicated state only.
    /// `growth`: bytes that it may add to the store; none if it adds nothing.
    pub fn admit(self: &Arc<Self>, growth: Option<u64>) -> Result<(), Error> {
        let Some(cost) = growth else { return Ok(()) };
        if let Some(quota) = self.quota_bytes
            && self.used_bytes.load(Ordering::Relaxed).saturating_add(cost) >= quota
        {
            self.raise_no_space();
            return Err(Error::NoSpace);
        }
        if self.wal_full.load(Ordering::Relaxed) || self.checkpoint_full.load(Ordering::Relaxed) || self.disk_is_low() {
            return Err(Error::NoSpace);
        }
        if self.recent_bytes.load(Ordering::Relaxed) > MAX_RECENT_BYTES { Err(Error::TooManyRequests) } else { Ok(()) }
    }

    /// Whether work on the checkpoint's disk should leave room for the log's syncs: somebody has written lately, and not so much that
    /// the next checkpoint must not wait.
    pub fn others_write(&self) -> bool {
        (1..URGENT_RECENT_BYTES).contains(&self.recent_bytes.load(Ordering::Relaxed))
    }

    fn disk_is_low(&self) -> bool {
        let now = u64::try_from(self.host.clock.now().as_millis()).unwrap_or(u64::MAX);
        let due = self.disk_check_due.load(Ordering::Relaxed);
        let next = now.saturating_add(DISK_CHECK_INTERVAL.as_millis() as u64);
        let look = now >= due && self.disk_check_due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if look {
            self.room_bytes.store(self.room(), Ordering::Relaxed);
        }
        // What has been let in and is not yet in the checkpoint has a claim on the room. Much comes between two looks.
        let claimed = self.recent_bytes.load(Ordering::Relaxed).saturating_add(RESERVED_BYTES);
        let low = self.room_bytes.load(Ordering::Relaxed) < claimed;
        if look && self.disk_low.swap(low, Ordering::Relaxed) != low {
            match low {
                true => log::error!(
                    "the disk of {} is all but full: only deletions and compactions are let in until there is room again",
                    self.data_dir.display()
                ),
                false => log::info!("the disk has room again"),
            }
        }
        low
    }

    /// Bytes that checkpoints can take: free on the disk, and free pages of the file. None if the WAL has no room to go on. A disk
    /// that cannot say counts as endless.
    fn room(&self) -> u64 {
        let free = |dir: &PathBuf| self.host.disk.free_bytes(dir).unwrap_or(u64::MAX);
        if free(&self.wal_dir) < WAL_RESERVED_BYTES {
            return 0;
        }
        let inside = self.store.size().map_or(0, |size| size.file - size.in_use);
        free(&self.data_dir).saturating_add(inside)
    }

    /// Tells the cluster, through the log, that this member is over its quota.
    fn raise_no_space(self: &Arc<Self>) {
        if self.alarms.lock().expect("the loop panicked").is_active(AlarmType::Nospace) {
            return;
        }
        log::warn!("the store is over its quota of {} bytes: raising the NOSPACE alarm", self.quota_bytes.unwrap_or(0));
        self.propose_own(Command::Alarm(AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: self.identity.member_id,
            alarm: AlarmType::Nospace as i32,
        }));
    }

    /// Proposes a command of the server's own. A full inbox drops it: whoever wanted it will want it again.
    pub fn propose_own(&self, command: Command) {
        let data = command.encode(self.next_request_id());
        if let Err(error) = self.inbox.propose(Proposal { command, data, reply: None }) {
            log::debug!("a command of the server's own was not taken: {error:?}");
        }
    }
}

/// Tells those who wait that the cluster has been without a leader for too long. Nothing is done while there is one.
pub(super) struct LeaderLoss {
    /// The channel's end is the message; a new one is made when there is a leader again.
    channel: Mutex<(Option<Sender<Infallible>>, Receiver<Infallible>)>,
}

impl LeaderLoss {
    pub fn new() -> LeaderLoss {
        let (lost, is_lost) = channel::bounded(1);
        LeaderLoss { channel: Mutex::new((Some(lost), is_lost)) }
    }

    /// There has been no leader for too long.
    pub fn lost(&self) {
        self.lock().0 = None;
    }

    /// There is one again.
    pub fn found(&self) {
        let mut channel = self.lock();
        if channel.0.is_none() {
            let (lost, is_lost) = channel::bounded(1);
            *channel = (Some(lost), is_lost);
        }
    }

    /// Ends when [`LeaderLoss::lost`] is called, or has been.
    pub fn waiter(&self) -> Receiver<Infallible> {
        self.lock().1.clone()
    }

    fn lock(&self) -> MutexGuard<'_, (Option<Sender<Infallible>>, Receiver<Infallible>)> {
        self.channel.lock().expect("nothing in here panics")
    }
}
