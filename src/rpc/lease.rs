//! `etcdserverpb.Lease`.

use bytes::Bytes;
use futures_lite::future;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;

use super::encode;
use super::grpc::{Replies, Reply, Requests};
use super::services::{Api, decode_streamed};
use super::status::Status;
use crate::error::Error;
use crate::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};

/// Renewals of one stream that may be under way.
const UNDER_WAY: usize = 64;

/// `LeaseGrant`.
pub async fn grant(api: &Api, request: LeaseGrantRequest) -> Result<Reply, Status> {
    let (granted, revision) = api.server.lease_grant(request).await?;
    let header = Some(api.server.header(revision));
    Ok(encode::message(&LeaseGrantResponse { header, id: granted.id, ttl: granted.ttl, ..LeaseGrantResponse::default() }))
}

/// `LeaseRevoke`.
pub async fn revoke(api: &Api, request: LeaseRevokeRequest) -> Result<Reply, Status> {
    let revision = api.server.lease_revoke(request.id).await?;
    Ok(encode::message(&LeaseRevokeResponse { header: Some(api.server.header(revision)) }))
}

/// `LeaseTimeToLive`. A lease that is unknown has -1 seconds left.
pub async fn time_to_live(api: &Api, request: LeaseTimeToLiveRequest) -> Result<Reply, Status> {
    let times = api.server.lease_times(request.id, request.keys).await;
    let mut response = LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..LeaseTimeToLiveResponse::default() };
    match times {
        Ok(times) => {
            response.ttl = times.remaining_secs;
            response.granted_ttl = times.granted_secs;
            response.keys = times.keys;
        }
        Err(Error::LeaseNotFound) => {}
        Err(error) => return Err(error.into()),
    }
    response.header = Some(api.current());
    Ok(encode::message(&response))
}

/// `LeaseLeases`.
pub fn leases(api: &Api, _: LeaseLeasesRequest) -> Reply {
    let leases = api.server.leases().into_iter().map(|id| LeaseStatus { id }).collect();
    encode::message(&LeaseLeasesResponse { header: Some(api.current()), leases })
}

/// `LeaseKeepAlive`: each request is answered, in order. Renewals that have to wait do not hold up the reading of those that follow.
pub async fn keep_alive(api: &Api, requests: &mut Requests, replies: &mut Replies) -> Result<(), Status> {
    let mut under_way = FuturesOrdered::new();
    let mut client_done = false;
    loop {
        let reading = !client_done && under_way.len() < UNDER_WAY;
        let answered = async {
            match under_way.next().await {
                Some(answer) => Next::Answer(answer),
                None if client_done => Next::End,
                None => future::pending().await,
            }
        };
        let next =
            if !reading { answered.await } else { future::or(answered, async { Next::Request(requests.next().await) }).await };
        match next {
            Next::Answer(answer) => replies.send(answer?).await?,
            Next::Request(Some(message)) => {
                let mut renewal = Box::pin(renew(api, decode_streamed(message?)?));
                // Most need not wait for anything, and none is before this one.
                let done = if under_way.is_empty() { future::poll_once(&mut renewal).await } else { None };
                match done {
                    Some(answer) => replies.send(answer?).await?,
                    None => under_way.push_back(renewal),
                }
            }
            Next::Request(None) => client_done = true,
            Next::End => return Ok(()),
        }
    }
}

enum Next {
    Answer(Result<Bytes, Status>),
    Request(Option<Result<Bytes, Status>>),
    End,
}

/// Renews one lease. One that is unknown or has expired has 0 seconds left.
fn renew(api: &Api, request: LeaseKeepAliveRequest) -> impl Future<Output = Result<Bytes, Status>> + Send {
    // The header is made before: a client may conclude that the lease lived at its revision.
    let header = api.current();
    let server = api.server.clone();
    async move {
        let ttl = match server.lease_renew(request.id).await {
            Ok(ttl) => ttl,
            Err(Error::LeaseNotFound) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(encode::keep_alive(&header, request.id, ttl))
    }
}
