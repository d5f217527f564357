//! `grpc.health.v1.Health`, which load balancers and etcd's own client ask. One service is known, the empty name that stands for all;
//! it serves as long as somebody answers.

use prost::Message;

use super::encode;
use super::grpc::{Replies, Reply};
use super::status::{Code, Status};
use crate::pb::health::health_check_response::ServingStatus;
use crate::pb::health::{HealthCheckRequest, HealthCheckResponse};

/// `Check`.
pub fn check(request: &HealthCheckRequest) -> Result<Reply, Status> {
    match status_of(request) {
        ServingStatus::ServiceUnknown => Err(Status::new(Code::NotFound, "unknown service")),
        status => Ok(encode::message(&HealthCheckResponse { status: status.into() })),
    }
}

/// `Watch`: the status, and then its changes. There are none: a server that stops serving also stops answering.
pub async fn watch(request: &HealthCheckRequest, replies: &mut Replies) -> Result<(), Status> {
    let response = HealthCheckResponse { status: status_of(request).into() };
    replies.send(response.encode_to_vec().into()).await?;
    replies.closed().await;
    Err(Status::new(Code::Canceled, "Stream has ended."))
}

fn status_of(request: &HealthCheckRequest) -> ServingStatus {
    if request.service.is_empty() { ServingStatus::Serving } else { ServingStatus::ServiceUnknown }
}
