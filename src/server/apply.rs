//! The state machine: committed entries become revisions, leases, alarms and members, in log order.
//!
//! Always: the outcome of an entry follows from the log alone, so no clock, no random number and nothing local is asked, but for
//! the deadlines of leases, which are no part of the state. `Ok(Err(_))` is an answer, equal on every member; `Err(_)` ends the
//! process.

use std::sync::Arc;

use bytes::Bytes;

use super::command::Command;
use super::handle::Response;
use super::membership;
use super::shared::Shared;
use crate::error::{Error, Fault};
use crate::lease::{LeaseId, Lessor};
use crate::metrics;
use crate::mvcc::{Answer, Batch, Change, Event, Written};
use crate::pb::etcdserverpb::{AlarmType, LeaseGrantRequest};
use crate::raft::{ConfState, MemberId};

/// Applies entries, and remembers what a checkpoint has to hold besides rows.
pub(super) struct Applier {
    shared: Arc<Shared>,
    pub alarms_changed: bool,
    pub members_changed: bool,
}

/// One hold of the store and the lessor, for a run of entries.
pub(super) struct Run<'a> {
    applier: &'a mut Applier,
    batch: Batch<'a>,
    lessor: std::sync::MutexGuard<'a, Lessor>,
    events: Vec<Arc<Event>>,
    prune: bool,
}

/// What a run leaves to be done outside.
pub(super) struct Finished {
    pub events: Vec<Arc<Event>>,
    /// The store's revision.
    pub revision: i64,
    /// A compaction wants the index pruned.
    pub prune: bool,
}

impl Applier {
    pub fn new(shared: Arc<Shared>) -> Applier {
        Applier { shared, alarms_changed: false, members_changed: false }
    }

    /// Begins a run of entries.
    pub fn run<'a>(&'a mut self, shared: &'a Shared) -> Run<'a> {
        Run { applier: self, batch: shared.store.batch(), lessor: shared.lessor(), events: Vec::new(), prune: false }
    }

    /// Adds a member, and returns Raft's new view.
    pub fn conf_change(&mut self, data: Bytes) -> Result<ConfState, Fault> {
        let member = membership::decode_add(data)?;
        let mut members = self.shared.members.lock().expect("a reader panicked");
        if let Err(error) = members.add(member) {
            log::warn!("a membership change in the log was refused: {error:?}");
        }
        members.check_alone(MemberId(self.shared.identity.member_id))?;
        self.members_changed = true;
        Ok(members.conf_state())
    }
}

impl Run<'_> {
    /// Applies one command.
    pub fn apply(&mut self, command: Command) -> Answer<Response> {
        if let Err(error) = self.refused(&command) {
            return Ok(Err(error));
        }
        match command {
            Command::Put(request) => {
                let lessor = &self.lessor;
                let written = self.batch.put(&request, &|id| lessor.contains(LeaseId(id)))?;
                Ok(self.settle(written, Response::Put))
            }
            Command::DeleteRange(request) => {
                let written = self.batch.delete_range(&request)?;
                Ok(self.settle(written, Response::DeleteRange))
            }
            Command::Txn(request) => {
                let lessor = &self.lessor;
                let written = self.batch.txn(&request, &|id| lessor.contains(LeaseId(id)))?;
                Ok(self.settle(written, Response::Txn))
            }
            Command::Compaction(request) => Ok(self.batch.compact(request.revision).map(|()| {
                self.prune = true;
                metrics::COMPACTION_LAST.set(self.applier.shared.host.clock.unix_time().as_secs());
                self.done()
            })),
            Command::LeaseGrant(LeaseGrantRequest { id, ttl }) => {
                let now = self.applier.shared.host.clock.now();
                Ok(self.lessor.grant(LeaseId(id), ttl, now).map(|()| {
                    metrics::LEASES_GRANTED.inc();
                    metrics::LEASE_TTL.observe_units(ttl.unsigned_abs());
                    self.done()
                }))
            }
            Command::LeaseRevoke(request) => Ok(self.lessor.revoke(LeaseId(request.id)).map(|keys| {
                metrics::LEASES_REVOKED.inc();
                let changes = self.batch.delete_keys(&keys);
                self.tell(&changes);
                self.done()
            })),
            Command::LeaseCheckpoint(request) => {
                for checkpoint in request.checkpoints {
                    self.lessor.apply_checkpoint(LeaseId(checkpoint.id), checkpoint.remaining_ttl);
                }
                Ok(Ok(self.done()))
            }
            Command::Alarm(request) => {
                let alarms = self.applier.shared.alarms.lock().expect("a reader panicked").apply(&request);
                self.applier.alarms_changed = true;
                Ok(Ok(Response::Alarm(alarms)))
            }
            Command::ClusterVersion(request) => {
                self.members().set_cluster_version(request.ver);
                self.applier.members_changed = true;
                Ok(Ok(self.done()))
            }
            Command::MemberAttributes(request) => {
                let attributes = request.member_attributes.unwrap_or_default();
                let id = MemberId(request.member_id);
                self.members().set_attributes(id, attributes.name, attributes.client_urls);
                self.applier.members_changed = true;
                Ok(Ok(self.done()))
            }
            Command::MemberUpdate(id, urls) => {
                self.applier.members_changed = true;
                let mut members = self.members();
                Ok(members.update(id, urls).map(|()| Response::Members(members.list())))
            }
            Command::SkipRevisions(count) => {
                self.batch.skip(count);
                Ok(Ok(self.done()))
            }
        }
    }

    /// Lets readers in again.
    pub fn finish(self) -> Finished {
        Finished { revision: self.batch.current(), events: self.events, prune: self.prune }
    }

    fn refused(&self, command: &Command) -> Result<(), Error> {
        let alarms = self.applier.shared.alarms.lock().expect("a reader panicked");
        if command.touches_data() && alarms.is_active(AlarmType::Corrupt) {
            Err(Error::Corrupt)
        } else if command.grows() && alarms.is_active(AlarmType::Nospace) {
            Err(Error::NoSpace)
        } else {
            Ok(())
        }
    }

    fn members(&self) -> std::sync::MutexGuard<'_, membership::Membership> {
        self.applier.shared.members.lock().expect("a reader panicked")
    }

    fn done(&self) -> Response {
        Response::Done(self.batch.current())
    }

    fn settle<R>(&mut self, written: Result<Written<R>, Error>, response: fn(R) -> Response) -> Result<Response, Error> {
        let written = written?;
        for change in &written.changes {
            if change.deleted || change.lease == 0 {
                self.lessor.detach(&change.key);
            } else {
                let key = Bytes::copy_from_slice(&change.key);
                // The write was checked against this very lessor.
                self.lessor.attach(key, LeaseId(change.lease)).expect("a lease that was there is there");
            }
        }
        self.tell(&written.changes);
        Ok(response(written.response))
    }

    fn tell(&mut self, changes: &[Change]) {
        self.events.extend(changes.iter().map(|change| self.batch.event(change)));
    }
}
