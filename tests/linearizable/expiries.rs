//! The server's own deeds: short leases expire. Nobody is told when, but the clients' answers say between which moments. Without
//! these bounds every expiry could come at any time, each of them would double the search, and no judge would come to an end.

use std::collections::{BTreeSet, HashMap};

use bramble::pb::etcdserverpb::LeaseRevokeRequest;

use super::clients::SHORT_TTL_SECS;
use super::group::NO_LEASE;
use super::history::{EXPIRY, Operation, Reply, Request, Time};

/// When a lease may have expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Not before an operation that was sent then and found the lease there, nor before its time was over.
    from: Time,
    /// Before the answer to one that did not find it.
    pub until: Time,
}

/// What answers say about a lease.
#[derive(Default)]
struct Signs {
    /// Requests that may have granted it: with two of them nobody knows which lease an answer speaks of.
    grants: usize,
    granted: Option<Time>,
    is_revoked: bool,
    /// Calls and returns of those who found it there, and of those who did not.
    there: Vec<(Time, Time)>,
    gone: Vec<(Time, Time)>,
}

impl Signs {
    /// An operation found it there, or did not.
    fn note(&mut self, call: Time, returned: Time, is_there: bool) {
        let signs = if is_there { &mut self.there } else { &mut self.gone };
        signs.push((call, returned));
    }

    fn window(&self) -> Option<Window> {
        let granted = self.granted?;
        if self.grants > 1 {
            return Some(Window { from: granted, until: Time::MAX });
        }
        if self.is_revoked {
            return None;
        }
        let from = self.there.iter().map(|(call, _)| *call).max().unwrap_or(0).max(granted);
        let first_there = self.there.iter().map(|(_, returned)| *returned).min().unwrap_or(Time::MAX);
        let after_that = self.gone.iter().filter(|(call, _)| *call > first_there);
        Some(Window { from, until: after_that.map(|(_, returned)| *returned).min().unwrap_or(Time::MAX) })
    }
}

/// The windows of all short leases that may have expired.
pub fn windows(history: &[Operation]) -> HashMap<i64, Window> {
    let mut leases: HashMap<i64, Signs> = HashMap::new();
    for operation in history.iter().filter(|operation| operation.client != EXPIRY) {
        if let (Request::Grant(grant), reply) = (&operation.request, operation.reply())
            && !matches!(reply, Some(Reply::Refused(_)))
        {
            let signs = leases.entry(grant.id).or_default();
            signs.grants += 1;
            let over = operation.call + SHORT_TTL_SECS as u64 * 1_000_000_000;
            if grant.ttl == SHORT_TTL_SECS {
                signs.granted = Some(signs.granted.map_or(over, |first| first.min(over)));
            }
        }
    }
    for operation in history {
        let Some((returned, reply)) = &operation.end else { continue };
        let mut note = |id: i64, is_there: bool| {
            if let Some(signs) = leases.get_mut(&id) {
                signs.note(operation.call, *returned, is_there);
            }
        };
        match (&operation.request, reply) {
            (Request::Grant(grant), Reply::Grant(_)) => note(grant.id, true),
            (Request::Put(put), Reply::Put(_)) => note(put.lease, true),
            (Request::Put(put), Reply::Refused(text)) if text == NO_LEASE => note(put.lease, false),
            (Request::TimeToLive(times), Reply::TimeToLive(reply)) => note(times.id, reply.ttl != -1),
            (Request::Leases(_), Reply::Leases(reply)) => {
                let told: BTreeSet<i64> = reply.leases.iter().map(|lease| lease.id).collect();
                for (id, signs) in &mut leases {
                    signs.note(operation.call, *returned, told.contains(id));
                }
            }
            (Request::Revoke(revoke), Reply::Refused(_)) => note(revoke.id, false),
            (Request::Revoke(revoke), Reply::Revoke(_)) => {
                if let Some(signs) = leases.get_mut(&revoke.id) {
                    signs.is_revoked = true;
                }
            }
            _ => {}
        }
    }
    leases.into_iter().filter_map(|(id, signs)| Some((id, signs.window()?))).collect()
}

/// The expiries that a history may hold, as operations that nobody answered.
pub fn of(history: &[Operation]) -> Vec<Operation> {
    let expiry = |(id, window): (i64, Window)| Operation {
        client: EXPIRY,
        epoch: 0,
        call: window.from,
        request: Request::Revoke(LeaseRevokeRequest { id }),
        end: None,
    };
    windows(history).into_iter().map(expiry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::requests::grant;
    use bramble::pb::etcdserverpb::{LeaseGrantResponse, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};

    const SECOND: Time = 1_000_000_000;

    fn operation(call: Time, request: Request, reply: Option<Reply>) -> Operation {
        Operation { client: 0, epoch: 0, call, request, end: reply.map(|reply| (call + 1, reply)) }
    }

    fn granted(call: Time) -> Operation {
        operation(call, Request::Grant(grant(SHORT_TTL_SECS, 7)), Some(Reply::Grant(LeaseGrantResponse::default())))
    }

    fn seen(call: Time, ttl: i64) -> Operation {
        let reply = LeaseTimeToLiveResponse { id: 7, ttl, ..LeaseTimeToLiveResponse::default() };
        operation(call, Request::TimeToLive(LeaseTimeToLiveRequest { id: 7, keys: false }), Some(Reply::TimeToLive(reply)))
    }

    fn revoked(call: Time, reply: Reply) -> Operation {
        operation(call, Request::Revoke(LeaseRevokeRequest { id: 7 }), Some(reply))
    }

    #[test]
    fn a_short_lease_expires_between_the_last_sight_of_it_and_the_first_time_it_is_missed() {
        let window = |history: &[Operation]| windows(history).get(&7).copied();
        let over = |from, until| Some(Window { from, until });
        assert_eq!(window(&[granted(5)]), over(5 + 2 * SECOND, Time::MAX), "not before its time");
        let early = seen(3, -1);
        let history = [early, granted(5), seen(3 * SECOND, 0), seen(4 * SECOND, -1), seen(5 * SECOND, -1)];
        assert_eq!(window(&history), over(3 * SECOND, 4 * SECOND + 1));
        // Seen again after it was missed: no moment is left for it, and no order will be found.
        assert_eq!(window(&[granted(5), seen(4 * SECOND, -1), seen(5 * SECOND, 0)]), over(5 * SECOND, 4 * SECOND + 1));
        assert_eq!(window(&[granted(5), revoked(SECOND, Reply::Revoke(LeaseRevokeResponse::default()))]), None);
        let missed = revoked(3 * SECOND, Reply::Refused(NO_LEASE.to_owned()));
        assert_eq!(window(&[granted(5), missed]), over(5 + 2 * SECOND, 3 * SECOND + 1));
        // Of two leases of one name nobody knows which one was seen.
        assert_eq!(window(&[granted(5), seen(4 * SECOND, -1), granted(5 * SECOND)]), over(5 + 2 * SECOND, Time::MAX));
    }
}
