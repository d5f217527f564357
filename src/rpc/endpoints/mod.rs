//! What is answered over plain HTTP: versions, health checks, metrics. In: requests of any listener that serves HTTP. Out: etcd 3.7's
//! answers, body for body.
//!
//! ```text
//! mod.rs      paths, methods, and what every answer has in common
//! access.rs   which hosts and origins may ask
//! probes.rs   /health, /livez, /readyz
//! scrape.rs   /metrics
//! query.rs    the part behind the question mark
//! redirect.rs paths with dots and doubled slashes
//! ```
//!
//! Two sets: clients' listeners serve all of it, guarded by [`Access`]; a metrics listener serves metrics and health only, to
//! whoever reaches it. The JSON gateway (`/v3/...`) will be another arm of [`Served::answer_guarded`].
//! Always: an answer comes within the server's own request timeout.

mod access;
mod probes;
mod query;
mod redirect;
mod scrape;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use super::calls;
use super::grpc::{BoxFuture, Peer};
use super::http::{Body, Endpoints};
use super::maintenance::STORAGE_VERSION;
use super::timers::Timers;
use crate::config::{Config, ETCD_VERSION};
use crate::error::Error;
use crate::metrics::text::Text;
use crate::pb::etcdserverpb::{AlarmMember, RangeRequest};
use crate::server::Handle;
use access::Access;

/// What the endpoints ask of a server. A seam: a healthy server cannot show how an ill one is reported.
trait Subject: Send + Sync + 'static {
    /// The alarms that are active.
    fn alarms(&self) -> Vec<AlarmMember>;
    /// Whether there is a leader.
    fn has_leader(&self) -> bool;
    /// Whether this member has no vote.
    fn is_learner(&self) -> bool;
    /// The version that the members agree on, once they do.
    fn cluster_version(&self) -> Option<String>;
    /// Reads a key that need not be there.
    fn read(&self, serializable: bool) -> BoxFuture<Result<(), Error>>;
    /// Writes the figures that are read at the moment they are asked for. May block for a moment.
    fn figures(&self, text: &mut Text);
}

impl Subject for Handle {
    fn alarms(&self) -> Vec<AlarmMember> {
        Handle::alarms(self)
    }

    fn has_leader(&self) -> bool {
        self.leader().is_some()
    }

    fn is_learner(&self) -> bool {
        let this = self.header(0).member_id;
        self.members().iter().any(|member| member.id.0 == this && member.learner)
    }

    fn cluster_version(&self) -> Option<String> {
        Handle::cluster_version(self)
    }

    fn read(&self, serializable: bool) -> BoxFuture<Result<(), Error>> {
        let server = self.clone();
        Box::pin(async move {
            let request = RangeRequest { key: "health".into(), limit: 1, serializable, ..RangeRequest::default() };
            server.range(&request).await.map(drop)
        })
    }

    fn figures(&self, text: &mut Text) {
        scrape::figures(self, text);
    }
}

/// The endpoints of a kind of listener.
pub struct Served {
    server: Arc<dyn Subject>,
    timers: Arc<dyn Timers>,
    /// The longest that a check's read may take.
    patience: Duration,
    features: Vec<scrape::Feature>,
    /// None: a metrics listener.
    access: Option<Access>,
}

impl Served {
    /// For `--listen-client-urls` and `--listen-client-http-urls`.
    pub fn clients(config: &Config, server: Handle, timers: Arc<dyn Timers>) -> Arc<Served> {
        let access = Access { origins: config.cors.clone(), hosts: config.host_whitelist.clone() };
        Arc::new(Served::new(config, server, timers, Some(access)))
    }

    /// For `--listen-metrics-urls`.
    pub fn metrics(config: &Config, server: Handle, timers: Arc<dyn Timers>) -> Arc<Served> {
        Arc::new(Served::new(config, server, timers, None))
    }

    fn new(config: &Config, server: Handle, timers: Arc<dyn Timers>, access: Option<Access>) -> Served {
        if config.extensive_metrics {
            calls::time_every_method();
        }
        Served {
            server: Arc::new(server),
            timers,
            patience: config.request_timeout(),
            features: scrape::features(config),
            access,
        }
    }

    async fn answer_guarded(&self, peer: &Peer, request: &Request<Bytes>) -> Response<Body> {
        let Some(access) = &self.access else { return self.answer_open(request).await };
        if let Some(refusal) = access.refuses(peer, request) {
            return refusal;
        }
        let mut response = if request.method() == Method::OPTIONS {
            respond(StatusCode::OK, None, "")
        } else {
            match path(request).as_ref() {
                "/version" => only_get(request, || self.version()),
                path if path.starts_with("/v3/") || path.starts_with("/v3beta/") => gateway_is_not_offered(),
                _ => self.answer_open(request).await,
            }
        };
        access.add_headers(request, response.headers_mut());
        response
    }

    /// What both sets have.
    async fn answer_open(&self, request: &Request<Bytes>) -> Response<Body> {
        if let Some(elsewhere) = redirect::to_clean_path(request) {
            return elsewhere;
        }
        let query = query::parse(request.uri().query().unwrap_or(""));
        let is_get = request.method() == Method::GET;
        match path(request).as_ref() {
            "/metrics" => scrape::answer(self, request.headers()).await,
            "/health" if is_get => self.health(&query).await,
            "/health" => method_not_allowed(),
            path => match probes::Probe::find(path) {
                Some(probe) if is_get => self.probe(probe, path, &query).await,
                Some(_) => method_not_allowed(),
                None => error(StatusCode::NOT_FOUND, "404 page not found"),
            },
        }
    }

    fn version(&self) -> Response<Body> {
        let cluster = self.server.cluster_version();
        let cluster = cluster.as_deref().unwrap_or("not_decided");
        let versions = format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster}","storage":"{STORAGE_VERSION}"}}"#);
        respond(StatusCode::OK, Some("application/json"), versions)
    }
}

impl Endpoints for Served {
    fn answer(self: Arc<Self>, peer: Arc<Peer>, request: Request<Bytes>) -> BoxFuture<Response<Body>> {
        Box::pin(async move { self.answer_guarded(&peer, &request).await })
    }
}

/// A request's path, with its percent signs decoded.
fn path(request: &Request<Bytes>) -> Cow<'_, str> {
    query::unescape(request.uri().path(), false).unwrap_or(Cow::Borrowed(""))
}

fn only_get(request: &Request<Bytes>, answer: impl FnOnce() -> Response<Body>) -> Response<Body> {
    if request.method() == Method::GET { answer() } else { method_not_allowed() }
}

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// An answer with all of its body.
fn respond(status: StatusCode, content_type: Option<&'static str>, body: impl Into<Bytes>) -> Response<Body> {
    let body: Bytes = body.into();
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Body::Whole(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length);
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

/// Plain text that no browser shall take for something else.
fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = respond(status, Some(PLAIN_TEXT), text);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A refusal, as Go's library words it: the text on a line of its own.
fn error(status: StatusCode, text: &str) -> Response<Body> {
    plain(status, format!("{text}\n"))
}

/// As the gateway words errors, with gRPC's code for Unimplemented.
fn gateway_is_not_offered() -> Response<Body> {
    const ANSWER: &str = r#"{"code":12,"message":"the JSON gateway is not offered yet: use gRPC","details":[]}"#;
    respond(StatusCode::NOT_IMPLEMENTED, Some("application/json"), ANSWER)
}

fn method_not_allowed() -> Response<Body> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}
