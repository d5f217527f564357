//! What is counted of gRPC calls. In: the hooks of [`super::grpc::Services`]. Out: families for `/metrics`. The counts are the
//! process's own. Every method is told from the start on, at 0, so that a rate over it has no gap.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::services::{Kind, Method};
use super::status::Code;
use crate::metrics::text::{Label, Text};
use crate::metrics::{ByOutcome, Counter, Histogram, Scale};

const METHODS: usize = Method::ALL.len();
const CODES: usize = Code::ALL.len();

struct Calls {
    started: Counter,
    received: Counter,
    sent: Counter,
    handled: [Counter; CODES],
    took: Histogram,
}

impl Calls {
    const fn new() -> Calls {
        Calls {
            started: Counter::new(),
            received: Counter::new(),
            sent: Counter::new(),
            handled: [const { Counter::new() }; CODES],
            took: Histogram::new(Scale::default_seconds()),
        }
    }
}

static CALLS: [Calls; METHODS] = [const { Calls::new() }; METHODS];
static RECEIVED_BYTES: Counter = Counter::new();
static SENT_BYTES: Counter = Counter::new();
/// Whether [`Calls::took`] is wanted: `--metrics=extensive`.
static TIMED: AtomicBool = AtomicBool::new(false);
/// By [`request_type`].
static REQUESTS: ByOutcome<{ REQUEST_TYPES.len() }> = ByOutcome::new(Scale::seconds(1000, 14));
static RANGES: ByOutcome<1> = ByOutcome::new(Scale::seconds(100, 20));
static VERSIONS: [Versions; 2] = [const { Versions::new() }; 2];

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// With one message.
    Unary,
    /// Over a stream.
    Stream,
}

/// From now on the time of every call is told, as `--metrics=extensive` wants.
pub fn time_every_method() {
    TIMED.store(true, Ordering::Relaxed);
}

/// A call begins.
pub fn started(method: Method) {
    CALLS[method as usize].started.inc();
}

/// A message came.
pub fn received(method: Method, bytes: usize) {
    CALLS[method as usize].received.inc();
    RECEIVED_BYTES.add(bytes as u64);
}

/// A message goes.
pub fn sent(method: Method, bytes: u64) {
    CALLS[method as usize].sent.inc();
    SENT_BYTES.add(bytes);
}

/// A call is over.
pub fn handled(method: Method, code: Code, took: Duration) {
    let calls = &CALLS[method as usize];
    calls.handled[code as usize].inc();
    if TIMED.load(Ordering::Relaxed) {
        calls.took.observe(took);
    }
    let success = code == Code::Ok;
    if let Some(number) = request_type(method) {
        REQUESTS.of(number, success).observe(took);
    }
    if matches!(method, Method::Range | Method::RangeStream) {
        RANGES.of(0, success).observe(took);
    }
}

/// A client of this version asks.
pub fn asked(shape: Shape, version: &str) {
    VERSIONS[shape as usize].count(version);
}

/// The label `type` of `etcd_server_request_duration_seconds`, by number: requests that read or go through the log.
const REQUEST_TYPES: [&str; 9] =
    ["Range", "Put", "DeleteRange", "Txn", "Compaction", "LeaseGrant", "LeaseRevoke", "Alarm", "RangeStream"];

fn request_type(method: Method) -> Option<usize> {
    match method {
        Method::Range => Some(0),
        Method::Put => Some(1),
        Method::DeleteRange => Some(2),
        Method::Txn => Some(3),
        Method::Compact => Some(4),
        Method::LeaseGrant => Some(5),
        Method::LeaseRevoke => Some(6),
        Method::Alarm => Some(7),
        Method::RangeStream => Some(8),
        _ => None,
    }
}

/// Versions that are told apart. Clients choose these texts, and must not fill our memory with them.
const MAX_VERSIONS: usize = 16;
const MAX_VERSION_BYTES: usize = 32;
/// What all further ones are counted as.
const OTHER: &str = "other";

/// Requests by the version their client names.
struct Versions {
    seen: [OnceLock<(Box<str>, Counter)>; MAX_VERSIONS],
    others: Counter,
}

impl Versions {
    const fn new() -> Versions {
        Versions { seen: [const { OnceLock::new() }; MAX_VERSIONS], others: Counter::new() }
    }

    /// Looks through a few words; waits only while another thread writes one down for the first time.
    fn count(&self, version: &str) {
        if version.len() <= MAX_VERSION_BYTES {
            for place in &self.seen {
                let (name, counter) = place.get_or_init(|| (version.into(), Counter::new()));
                if **name == *version {
                    return counter.inc();
                }
            }
        }
        self.others.inc();
    }

    fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        let seen = self.seen.iter().map_while(OnceLock::get).map(|(name, counter)| (&**name, counter.get()));
        seen.chain([(OTHER, self.others.get())]).filter(|(_, count)| *count > 0)
    }
}

/// Writes all families of this file.
pub fn families(text: &mut Text) {
    by_method(text);
    requests(text);
    text.counter("etcd_network_client_grpc_received_bytes_total", "Bytes of messages from gRPC clients.", &RECEIVED_BYTES);
    text.counter("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages to gRPC clients.", &SENT_BYTES);
}

fn by_method(text: &mut Text) {
    let labels = Method::ALL.map(|method| {
        let (service, name, kind) = method.path();
        let kind = match kind {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        };
        [("grpc_method", name), ("grpc_service", service), ("grpc_type", kind)]
    });
    let each = |counter: fn(&Calls) -> &Counter| {
        labels.iter().zip(&CALLS).map(move |(labels, calls)| (&labels[..], counter(calls).get() as f64))
    };
    text.counters("grpc_server_started_total", "Calls begun, by method.", each(|calls| &calls.started));
    text.counters("grpc_server_msg_received_total", "Messages that came, by method.", each(|calls| &calls.received));
    text.counters("grpc_server_msg_sent_total", "Messages that went, by method.", each(|calls| &calls.sent));
    let handled: Vec<([Label<'_>; 4], f64)> = labels
        .iter()
        .zip(&CALLS)
        .flat_map(|([method, service, kind], calls)| {
            let count = |code: Code| calls.handled[code as usize].get() as f64;
            Code::ALL.map(|code| ([("grpc_code", code.name()), *method, *service, *kind], count(code)))
        })
        .collect();
    let handled = handled.iter().map(|(labels, count)| (&labels[..], *count));
    text.counters("grpc_server_handled_total", "Calls that are over, by method and outcome.", handled);
    if TIMED.load(Ordering::Relaxed) {
        let took = labels.iter().zip(&CALLS).map(|(labels, calls)| (&labels[..], &calls.took));
        text.histograms("grpc_server_handling_seconds", "Time from a call's begin to its end, by method.", took);
    }
}

fn requests(text: &mut Text) {
    let used: Vec<_> = REQUESTS
        .used()
        .map(|(number, success, histogram)| ([("success", success), ("type", REQUEST_TYPES[number])], histogram))
        .collect();
    text.histograms(
        "etcd_server_request_duration_seconds",
        "Time that requests take, by type.",
        used.iter().map(|(labels, histogram): &([Label<'_>; 2], _)| (&labels[..], *histogram)),
    );
    let used: Vec<_> = RANGES.used().map(|(_, success, histogram)| ([("success", success)], histogram)).collect();
    text.histograms(
        "etcd_server_range_duration_seconds",
        "Time that ranges take.",
        used.iter().map(|(labels, histogram): &([Label<'_>; 1], _)| (&labels[..], *histogram)),
    );
    let mut clients: Vec<([Label<'_>; 2], f64)> = Vec::new();
    for (versions, shape) in VERSIONS.iter().zip(["unary", "stream"]) {
        clients.extend(versions.all().map(|(version, count)| ([("client_api_version", version), ("type", shape)], count as f64)));
    }
    let clients = clients.iter().map(|(labels, count)| (&labels[..], *count));
    text.counters("etcd_server_client_requests_total", "Requests by the API version that their client names.", clients);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_make_up_labels_without_end() {
        let versions = Versions::new();
        let long = "x".repeat(MAX_VERSION_BYTES + 1);
        versions.count(&long);
        for n in 0..MAX_VERSIONS + 5 {
            versions.count(&format!("3.{n}"));
            versions.count("3.0");
        }
        let all: Vec<(&str, u64)> = versions.all().collect();
        assert_eq!(all.len(), MAX_VERSIONS + 1);
        assert_eq!(all[0], ("3.0", 1 + MAX_VERSIONS as u64 + 5));
        assert_eq!(all[MAX_VERSIONS], (OTHER, 6));
    }

    #[test]
    fn every_request_type_has_its_own_place() {
        let mut numbers: Vec<usize> = Method::ALL.into_iter().filter_map(request_type).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..REQUEST_TYPES.len()).collect::<Vec<_>>());
    }

    #[test]
    fn every_method_is_told_before_it_is_called() {
        let mut text = Text::new();
        families(&mut text);
        let text = text.finish();
        for method in Method::ALL {
            let (service, name, _) = method.path();
            let line =
                format!("grpc_server_handled_total{{grpc_code=\"Aborted\",grpc_method=\"{name}\",grpc_service=\"{service}\"");
            assert!(text.contains(&line), "{line}");
        }
        assert!(text.contains(
            "grpc_server_started_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} "
        ));
        assert!(text.contains("{grpc_method=\"RangeStream\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"server_stream\"} "));
    }
}
