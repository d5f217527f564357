//! The lessor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::error::Error;

use super::LeaseId;

/// The longest time to live that a client may ask for.
pub const MAX_TTL_SECS: i64 = 9_000_000_000;

/// After a change of leader no more leases than this run out in one second, however many were granted at once: each expiry is a
/// log entry, and the keys' owners come back all together.
const EXPIRIES_PER_SECOND: u32 = 750;

/// An interval of nothing would bring the same lease up for ever in one call.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// What a lessor needs to know once.
#[derive(Clone, Debug)]
pub struct Config {
    /// The shortest time to live; etcd's is one and a half election timeouts, so that a lease outlives an election.
    pub min_ttl_secs: i64,
    /// An expired lease is reported again after this long, in case its revocation was lost.
    pub retry_interval: Duration,
    /// Leases that have longer than this to live get what remains written to the log this often, so that a new leader does not
    /// start them from the beginning.
    pub checkpoint_interval: Duration,
}

/// What of a lease is worth storing. Its keys are stored with the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The lease.
    pub id: LeaseId,
    /// The time to live that was granted.
    pub ttl_secs: i64,
    /// What was left of it at the last checkpoint, if there was one since the last renewal.
    pub remaining_secs: Option<i64>,
}

/// How a renewal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives its whole time again, from now on.
    Renewed {
        /// The time to live that was granted.
        ttl_secs: i64,
    },
    /// The log says, or is about to say, that less remains, and a new leader would believe it: propose a checkpoint with 0
    /// remaining, and renew again when it is applied. Nothing has changed yet.
    ResetFirst,
}

/// The answer to a question about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// Whole seconds left; 0 if it has expired and its revocation is under way.
    pub remaining_secs: i64,
    /// The time to live that was granted.
    pub granted_secs: i64,
}

/// All leases. See the room's doc.
#[derive(Debug)]
pub struct Lessor {
    config: Config,
    leases: BTreeMap<LeaseId, Lease>,
    by_key: BTreeMap<Bytes, LeaseId>,
    /// Granted, revoked or checkpointed since the last [`Lessor::take_changed`].
    changed: BTreeSet<LeaseId>,
    role: Role,
}

#[derive(Debug)]
struct Lease {
    ttl_secs: i64,
    remaining_secs: Option<i64>,
    keys: BTreeSet<Bytes>,
    clock: Clock,
}

/// The times of one lease. They mean nothing but at the leader.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    deadline: Duration,
    /// Where it stands in [`Leader::expiries`]: at the deadline or before, as a renewal moves only the deadline; or later, when
    /// it was reported and may have to be again.
    queued: Duration,
    /// The last moment at which the log or the client knew what remains.
    known: Duration,
    /// Where it stands in [`Leader::checkpoints`]: at `known` or before.
    checkpoint_queued: Option<Duration>,
    /// A checkpoint is on its way through the log. A renewal before it is applied would be forgotten by it.
    checkpointing: bool,
}

#[derive(Debug)]
enum Role {
    Follower,
    Leader(Leader),
}

/// Queues, one place for each lease. Renewals do not touch them: a lease that comes up too early goes back to where it belongs.
#[derive(Debug, Default)]
struct Leader {
    expiries: BTreeSet<(Duration, LeaseId)>,
    checkpoints: BTreeSet<(Duration, LeaseId)>,
}

impl Lessor {
    /// A lessor with the leases of a checkpoint, as a follower. Their keys are attached by whoever reads the keys.
    pub fn new(config: Config, stored: impl IntoIterator<Item = LeaseRecord>) -> Lessor {
        let config = Config {
            retry_interval: config.retry_interval.max(SHORTEST_INTERVAL),
            checkpoint_interval: config.checkpoint_interval.max(SHORTEST_INTERVAL),
            ..config
        };
        let lease = |record: LeaseRecord| (record.id, Lease::new(record.ttl_secs, record.remaining_secs));
        let leases = stored.into_iter().map(lease).collect();
        Lessor { config, leases, by_key: BTreeMap::new(), changed: BTreeSet::new(), role: Role::Follower }
    }

    /// The time to live that a client gets when it asks for `ttl_secs`. Asked before the grant is proposed, so that the log holds
    /// the outcome and members with other settings agree.
    pub fn effective_ttl_secs(&self, ttl_secs: i64) -> Result<i64, Error> {
        if ttl_secs > MAX_TTL_SECS {
            return Err(Error::LeaseTtlTooLarge);
        }
        Ok(ttl_secs.max(self.config.min_ttl_secs).max(1))
    }

    /// Makes a lease with a time to live out of [`Lessor::effective_ttl_secs`]; anything below 1 counts as 1.
    pub fn grant(&mut self, id: LeaseId, ttl_secs: i64, now: Duration) -> Result<(), Error> {
        if id == LeaseId::NONE {
            return Err(Error::LeaseNotFound);
        }
        if ttl_secs > MAX_TTL_SECS {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        let mut lease = Lease::new(ttl_secs.max(1), None);
        if let Role::Leader(leader) = &mut self.role {
            let deadline = now + lease.full_ttl();
            leader.enqueue(id, &mut lease, deadline, now, self.config.checkpoint_interval);
        }
        self.leases.insert(id, lease);
        self.changed.insert(id);
        Ok(())
    }

    /// Ends a lease and returns its keys, sorted, for deletion in one revision.
    pub fn revoke(&mut self, id: LeaseId) -> Result<Vec<Bytes>, Error> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        if let Role::Leader(leader) = &mut self.role {
            leader.forget(id, &lease.clock);
        }
        for key in &lease.keys {
            self.by_key.remove(key);
        }
        self.changed.insert(id);
        Ok(lease.keys.into_iter().collect())
    }

    /// Starts a lease's time again. Only at the leader ([`Error::NotLeader`]). An expired lease is as good as gone
    /// ([`Error::LeaseNotFound`]): its revocation may be in the log already.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Result<Renewal, Error> {
        let Role::Leader(_) = self.role else { return Err(Error::NotLeader) };
        let lease = self.leases.get_mut(&id).ok_or(Error::LeaseNotFound)?;
        if lease.clock.deadline <= now {
            return Err(Error::LeaseNotFound);
        }
        if lease.remaining_secs.is_some() || lease.clock.checkpointing {
            return Ok(Renewal::ResetFirst);
        }
        lease.clock.deadline = lease.clock.deadline.max(now + lease.full_ttl());
        lease.clock.known = now;
        Ok(Renewal::Renewed { ttl_secs: lease.ttl_secs })
    }

    /// Attaches a key to a lease, and takes it off any other. The lessor keeps `key`: it should not be a slice of a larger buffer.
    pub fn attach(&mut self, key: Bytes, id: LeaseId) -> Result<(), Error> {
        if !self.leases.contains_key(&id) {
            return Err(Error::LeaseNotFound);
        }
        self.detach(&key);
        self.leases.get_mut(&id).expect("just seen").keys.insert(key.clone());
        self.by_key.insert(key, id);
        Ok(())
    }

    /// Takes a key off its lease, which it tells.
    pub fn detach(&mut self, key: &[u8]) -> Option<LeaseId> {
        let id = self.by_key.remove(key)?;
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
        Some(id)
    }

    /// Whether the lease is there.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// The keys of a lease, sorted; none if it is unknown.
    pub fn keys(&self, id: LeaseId) -> impl Iterator<Item = &Bytes> + '_ {
        self.leases.get(&id).into_iter().flat_map(|lease| &lease.keys)
    }

    /// The lease of a key.
    pub fn lease_of(&self, key: &[u8]) -> Option<LeaseId> {
        self.by_key.get(key).copied()
    }

    /// What remains of a lease. Only at the leader ([`Error::NotLeader`]).
    pub fn time_to_live(&self, id: LeaseId, now: Duration) -> Result<TimeToLive, Error> {
        let Role::Leader(_) = self.role else { return Err(Error::NotLeader) };
        let lease = self.leases.get(&id).ok_or(Error::LeaseNotFound)?;
        let remaining_secs = lease.clock.deadline.saturating_sub(now).as_secs() as i64;
        Ok(TimeToLive { remaining_secs, granted_secs: lease.ttl_secs })
    }

    /// All leases, the next to expire first; a follower, which knows no deadlines, goes by what remained last.
    pub fn leases(&self) -> Vec<LeaseId> {
        let mut leases: Vec<_> = self.leases.iter().map(|(&id, lease)| (self.expiry(lease), id)).collect();
        leases.sort_unstable();
        leases.into_iter().map(|(_, id)| id).collect()
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// At most `limit` leases whose time is over, in order of expiry; always none at a follower. Each is reported once per retry
    /// interval until it is revoked. Renewals that came before `now` have to be taken in first, or a stalled loop would
    /// expire what its clients kept alive.
    pub fn expired(&mut self, now: Duration, limit: usize) -> Vec<LeaseId> {
        let Role::Leader(leader) = &mut self.role else { return Vec::new() };
        let mut expired = Vec::new();
        while expired.len() < limit
            && let Some(&(queued, id)) = leader.expiries.first()
            && queued <= now
        {
            leader.expiries.pop_first();
            let lease = self.leases.get_mut(&id).expect("the queue holds living leases");
            lease.clock.queued = if lease.clock.deadline <= now {
                expired.push(id);
                now + self.config.retry_interval
            } else {
                lease.clock.deadline
            };
            leader.expiries.insert((lease.clock.queued, id));
        }
        expired
    }

    /// When [`Lessor::expired`] may have something to say; never later than the next expiry, sometimes earlier.
    pub fn next_expiry(&self) -> Option<Duration> {
        match &self.role {
            Role::Leader(leader) => leader.expiries.first().map(|&(queued, _)| queued),
            Role::Follower => None,
        }
    }

    /// This member leads now, or starts alone. Every lease gets what the log says remains, or its whole time, counted from `now`
    /// and `extend` on top: the renewals of the old leader are not known here. Then crowded deadlines are moved apart, later.
    /// The leader's first entry has to be applied before, or a checkpoint of an older leader could undo a renewal.
    pub fn promote(&mut self, now: Duration, extend: Duration) {
        let mut order: Vec<_> = self.leases.iter().map(|(&id, lease)| (now + extend + lease.promised(), id)).collect();
        order.sort_unstable();
        let gap = Duration::from_secs(1) / EXPIRIES_PER_SECOND;
        let mut leader = Leader::default();
        let mut free = Duration::ZERO;
        for (deadline, id) in order {
            let deadline = deadline.max(free);
            free = deadline + gap;
            let lease = self.leases.get_mut(&id).expect("listed just now");
            leader.enqueue(id, lease, deadline, now, self.config.checkpoint_interval);
        }
        self.role = Role::Leader(leader);
    }

    /// This member leads no longer: it expires nothing.
    pub fn demote(&mut self) {
        self.role = Role::Follower;
    }

    /// At most `limit` leases whose remaining seconds should go through the log, to come back in [`Lessor::apply_checkpoint`].
    /// Each is reported once per checkpoint interval, and not before the last one is applied. Always none at a follower.
    pub fn checkpoints_due(&mut self, now: Duration, limit: usize) -> Vec<(LeaseId, i64)> {
        let interval = self.config.checkpoint_interval;
        let Role::Leader(leader) = &mut self.role else { return Vec::new() };
        let mut due = Vec::new();
        while due.len() < limit
            && let Some(&(queued, id)) = leader.checkpoints.first()
            && queued + interval <= now
        {
            leader.checkpoints.pop_first();
            let lease = self.leases.get_mut(&id).expect("the queue holds living leases");
            let clock = &mut lease.clock;
            let remaining = clock.deadline.saturating_sub(now);
            if clock.known + interval <= now {
                if !clock.checkpointing && !remaining.is_zero() {
                    due.push((id, whole_secs_up(remaining)));
                    clock.checkpointing = true;
                }
                clock.known = now;
            }
            // A renewal may make the rest long again, so even a lease near its end stays.
            clock.checkpoint_queued = Some(clock.known);
            leader.checkpoints.insert((clock.known, id));
        }
        due
    }

    /// The log says how much of a lease remains; 0 or less means its whole time. An unknown lease is ignored: it may have been
    /// revoked in between. The leader's deadline stays: it knows better.
    pub fn apply_checkpoint(&mut self, id: LeaseId, remaining_secs: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.remaining_secs = (remaining_secs > 0).then_some(remaining_secs.min(lease.ttl_secs));
            lease.clock.checkpointing = false;
            self.changed.insert(id);
        }
    }

    /// All leases as they should be stored, by id.
    pub fn records(&self) -> impl Iterator<Item = LeaseRecord> + '_ {
        self.leases.iter().map(|(&id, lease)| lease.record(id))
    }

    /// The leases whose record changed since the last call, by id; without a record if the lease is gone.
    pub fn take_changed(&mut self) -> Vec<(LeaseId, Option<LeaseRecord>)> {
        let record = |id| self.leases.get(&id).map(|lease| lease.record(id));
        std::mem::take(&mut self.changed).into_iter().map(|id| (id, record(id))).collect()
    }

    fn expiry(&self, lease: &Lease) -> Duration {
        match self.role {
            Role::Leader(_) => lease.clock.deadline,
            Role::Follower => lease.promised(),
        }
    }
}

impl Lease {
    fn new(ttl_secs: i64, remaining_secs: Option<i64>) -> Lease {
        Lease { ttl_secs, remaining_secs, keys: BTreeSet::new(), clock: Clock::default() }
    }

    fn full_ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_secs.max(0).unsigned_abs())
    }

    /// What a leader that knows no renewals has to grant.
    fn promised(&self) -> Duration {
        self.remaining_secs.map_or(self.full_ttl(), |secs| Duration::from_secs(secs.max(0).unsigned_abs()))
    }

    fn record(&self, id: LeaseId) -> LeaseRecord {
        LeaseRecord { id, ttl_secs: self.ttl_secs, remaining_secs: self.remaining_secs }
    }
}

impl Leader {
    fn enqueue(&mut self, id: LeaseId, lease: &mut Lease, deadline: Duration, now: Duration, checkpoint_interval: Duration) {
        let checkpoint_queued = (lease.full_ttl() > checkpoint_interval).then_some(now);
        lease.clock = Clock { deadline, queued: deadline, known: now, checkpoint_queued, checkpointing: false };
        self.expiries.insert((deadline, id));
        self.checkpoints.extend(checkpoint_queued.map(|queued| (queued, id)));
    }

    fn forget(&mut self, id: LeaseId, clock: &Clock) {
        self.expiries.remove(&(clock.queued, id));
        if let Some(queued) = clock.checkpoint_queued {
            self.checkpoints.remove(&(queued, id));
        }
    }
}

/// Rounded up: a client was promised no less.
fn whole_secs_up(duration: Duration) -> i64 {
    duration.as_secs() as i64 + i64::from(duration.subsec_nanos() > 0)
}
