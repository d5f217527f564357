//! The endpoints over servers that are ill as we want them, and the metrics of a real one. Codes, headers and bodies were
//! compared with a running etcd 3.7.3.

mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use flate2::read::GzDecoder;
use http::HeaderMap;

use super::*;
use crate::pb::etcdserverpb::AlarmType;
use crate::rpc::grpc::PeerAddr;

/// A server that says what it is told to.
struct Fake {
    alarms: Vec<AlarmType>,
    leader: bool,
    learner: bool,
    version: Option<&'static str>,
    /// What a serializable and a linearizable read end with; none: never.
    reads: [Option<Result<(), Error>>; 2],
}

impl Fake {
    fn healthy() -> Fake {
        Fake { alarms: Vec::new(), leader: true, learner: false, version: Some("3.7.0"), reads: [Some(Ok(())), Some(Ok(()))] }
    }
}

impl Subject for Fake {
    fn alarms(&self) -> Vec<AlarmMember> {
        self.alarms.iter().map(|alarm| AlarmMember { member_id: 1, alarm: *alarm as i32 }).collect()
    }

    fn has_leader(&self) -> bool {
        self.leader
    }

    fn is_learner(&self) -> bool {
        self.learner
    }

    fn cluster_version(&self) -> Option<String> {
        self.version.map(str::to_owned)
    }

    fn read(&self, serializable: bool) -> BoxFuture<Result<(), Error>> {
        match self.reads[usize::from(!serializable)].clone() {
            Some(outcome) => Box::pin(std::future::ready(outcome)),
            None => Box::pin(std::future::pending()),
        }
    }

    fn figures(&self, text: &mut Text) {
        text.value("a_figure", "Of the fake.", 1.0);
    }
}

/// Time that has always passed already.
struct Late;

impl Timers for Late {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

fn served(fake: Fake, access: Option<Access>) -> Arc<Served> {
    let (server, timers) = (Arc::new(fake), Arc::new(Late));
    Arc::new(Served { server, timers, patience: Duration::from_secs(7), features: Vec::new(), access })
}

fn open() -> Access {
    Access { origins: vec!["*".to_owned()], hosts: vec!["*".to_owned()] }
}

/// Code, headers and body.
type Answered = (u16, HeaderMap, Vec<u8>);

fn ask_with(served: &Arc<Served>, tls: bool, request: http::request::Builder) -> Answered {
    let peer = Arc::new(Peer { addr: PeerAddr::Local, tls, common_name: None });
    let response = smol::block_on(served.clone().answer(peer, request.body(Bytes::new()).unwrap()));
    let (head, body) = response.into_parts();
    let Body::Whole(body) = body else { panic!("these answers are short") };
    assert_eq!(head.headers[header::CONTENT_LENGTH].to_str().unwrap(), body.len().to_string());
    (head.status.as_u16(), head.headers, body.to_vec())
}

fn ask(served: &Arc<Served>, method: &str, uri: &str) -> (u16, String) {
    let (code, _, body) = ask_with(served, false, Request::builder().method(method).uri(uri));
    (code, String::from_utf8(body).unwrap())
}

/// Asks a fake of clients.
fn get(fake: Fake, uri: &str) -> (u16, String) {
    ask(&served(fake, Some(open())), "GET", uri)
}

fn answer(code: u16, body: &str) -> (u16, String) {
    (code, body.to_owned())
}

const HEALTHY: &str = r#"{"health":"true","reason":""}"#;

#[test]
fn versions_are_told_even_before_the_cluster_agrees_on_one() {
    let body = r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    assert_eq!(get(Fake::healthy(), "/version"), answer(200, body));
    let (_, body) = get(Fake { version: None, ..Fake::healthy() }, "/version");
    assert_eq!(body, r#"{"etcdserver":"3.7.3","etcdcluster":"not_decided","storage":"3.7.0"}"#);
}

#[test]
fn health_looks_at_alarms_then_the_leader_then_reads() {
    let unhealthy = |reason: &str| answer(503, &format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"));
    let failing = || Fake { reads: [Some(Ok(())), Some(Err(Error::Timeout))], ..Fake::healthy() };
    assert_eq!(get(Fake::healthy(), "/health"), answer(200, HEALTHY));
    assert_eq!(get(failing(), "/health"), unhealthy("RANGE ERROR:etcdserver: request timed out"));
    let leaderless = || Fake { leader: false, ..failing() };
    assert_eq!(get(leaderless(), "/health"), unhealthy("RAFT NO LEADER"));
    let alarmed = || Fake { alarms: vec![AlarmType::Nospace], ..leaderless() };
    assert_eq!(get(alarmed(), "/health"), unhealthy("ALARM NOSPACE"));
    let corrupt = || Fake { alarms: vec![AlarmType::Nospace, AlarmType::Corrupt], ..Fake::healthy() };
    assert_eq!(get(corrupt(), "/health"), unhealthy("ALARM CORRUPT"));
    assert_eq!(get(corrupt(), "/health?exclude=CORRUPT"), unhealthy("ALARM NOSPACE"));
    assert_eq!(get(corrupt(), "/health?exclude=CORRUPT&exclude=NOSPACE"), answer(200, HEALTHY));
    assert_eq!(get(corrupt(), "/health?exclude=corrupt&exclude="), unhealthy("ALARM CORRUPT"));
}

#[test]
fn a_serializable_health_check_needs_no_leader() {
    let alone = || Fake { leader: false, reads: [Some(Ok(())), Some(Err(Error::NoLeader))], ..Fake::healthy() };
    assert_eq!(get(alone(), "/health?serializable=true"), answer(200, HEALTHY));
    assert_eq!(get(alone(), "/health?serializable=TRUE").0, 503);
    assert_eq!(get(alone(), "/health?serializable=false&serializable=true").0, 503);
}

#[test]
fn a_read_that_never_ends_is_given_up() {
    let stuck = || Fake { reads: [Some(Ok(())), None], ..Fake::healthy() };
    let body = "{\"health\":\"false\",\"reason\":\"RANGE ERROR:context deadline exceeded\"}\n";
    assert_eq!(get(stuck(), "/health"), answer(503, body));
    assert_eq!(
        get(stuck(), "/readyz/linearizable_read"),
        answer(503, "[-]linearizable_read failed: context deadline exceeded\n\n")
    );
    assert_eq!(get(stuck(), "/livez"), answer(200, "ok\n"));
}

#[test]
fn livez_and_readyz_tell_their_checks_when_asked_or_failing() {
    assert_eq!(get(Fake::healthy(), "/livez"), answer(200, "ok\n"));
    assert_eq!(get(Fake::healthy(), "/livez?verbose"), answer(200, "[+]serializable_read ok\nok\n"));
    assert_eq!(get(Fake::healthy(), "/readyz"), answer(200, "ok\n"));
    let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    assert_eq!(get(Fake::healthy(), "/readyz?verbose=0"), answer(200, all));
    let ill = || Fake {
        alarms: vec![AlarmType::Corrupt],
        learner: true,
        reads: [Some(Ok(())), Some(Err(Error::NoLeader))],
        ..Fake::healthy()
    };
    let lines = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
                 [-]linearizable_read failed: etcdserver: no leader\n[-]non_learner failed: not supported for learner\n\n";
    assert_eq!(get(ill(), "/readyz"), answer(503, lines));
    assert_eq!(get(ill(), "/readyz?verbose"), answer(503, lines));
    assert_eq!(get(ill(), "/livez"), answer(200, "ok\n"));
    assert_eq!(get(Fake { alarms: vec![AlarmType::Nospace], ..Fake::healthy() }, "/readyz"), answer(200, "ok\n"));
}

#[test]
fn checks_can_be_excluded_and_asked_one_by_one() {
    let corrupt = || Fake { alarms: vec![AlarmType::Corrupt], ..Fake::healthy() };
    assert_eq!(get(corrupt(), "/readyz?exclude=data_corruption&exclude=unknown&exclude="), answer(200, "ok\n"));
    let some = "[+]serializable_read ok\n[+]non_learner ok\nok\n";
    assert_eq!(get(corrupt(), "/readyz?exclude=data_corruption&exclude=linearizable_read&verbose"), answer(200, some));
    assert_eq!(get(corrupt(), "/livez?exclude=serializable_read&verbose"), answer(200, "ok\n"));
    let failed = "[-]data_corruption failed: alarm activated: CORRUPT\n\n";
    assert_eq!(get(corrupt(), "/readyz/data_corruption"), answer(503, failed));
    assert_eq!(get(corrupt(), "/readyz/non_learner?verbose"), answer(200, "[+]non_learner ok\nok\n"));
    // Whoever asks for one check wants to know.
    assert_eq!(get(corrupt(), "/readyz/data_corruption?exclude=data_corruption"), answer(503, failed));
    for missing in ["/livez/linearizable_read", "/livez/serializable_read/x", "/readyz/", "/livez/", "/readyz/nope"] {
        assert_eq!(get(corrupt(), missing), answer(404, "404 page not found\n"), "{missing}");
    }
}

#[test]
fn other_paths_are_not_found_and_other_methods_not_allowed() {
    let clients = served(Fake::healthy(), Some(open()));
    for missing in ["/", "/nope", "/version/", "/health/", "/metrics/", "/v3", "/debug/vars", "/%ff"] {
        for method in ["GET", "POST", "HEAD"] {
            assert_eq!(ask(&clients, method, missing), answer(404, "404 page not found\n"), "{method} {missing}");
        }
    }
    for gateway in ["/v3/kv/range", "/v3beta/watch", "/v3/"] {
        let (code, body) = ask(&clients, "POST", gateway);
        assert!(code == 501 && body.starts_with(r#"{"code":12,"#), "{gateway} {body}");
    }
    for path in ["/version", "/health", "/livez", "/readyz", "/readyz/non_learner"] {
        for method in ["POST", "PUT", "HEAD", "DELETE"] {
            let (code, headers, body) = ask_with(&clients, false, Request::builder().method(method).uri(path));
            assert_eq!((code, &body[..]), (405, &b"Method Not Allowed\n"[..]), "{method} {path}");
            assert_eq!(
                (&headers[header::ALLOW], &headers[header::X_CONTENT_TYPE_OPTIONS]),
                (&"GET".parse().unwrap(), &"nosniff".parse().unwrap())
            );
        }
    }
    for method in ["POST", "HEAD", "PUT"] {
        assert_eq!(ask(&clients, method, "/metrics").0, 200, "{method}");
    }
    assert_eq!(get(Fake::healthy(), "/%68ealth").0, 200);
}

#[test]
fn answers_say_what_they_are() {
    let clients = served(Fake { leader: false, ..Fake::healthy() }, Some(open()));
    let text = "text/plain; charset=utf-8";
    for (path, kind, nosniff) in [
        ("/version", "application/json", false),
        ("/health?serializable=true", text, false),
        ("/health", text, true),
        ("/livez", text, true),
        ("/nope", text, true),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", false),
    ] {
        let (_, headers, _) = ask_with(&clients, false, Request::builder().uri(path));
        assert_eq!(headers[header::CONTENT_TYPE], kind, "{path}");
        assert_eq!(headers.contains_key(header::X_CONTENT_TYPE_OPTIONS), nosniff, "{path}");
    }
}

#[test]
fn a_metrics_listener_serves_metrics_and_health_to_whoever_asks() {
    let metrics = served(Fake::healthy(), None);
    for path in ["/metrics", "/health", "/livez", "/readyz", "/readyz/non_learner"] {
        let (code, headers, _) = ask_with(&metrics, false, Request::builder().uri(path).header("host", "anything"));
        assert_eq!(code, 200, "{path}");
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }
    assert_eq!(ask(&metrics, "GET", "/version"), answer(404, "404 page not found\n"));
    assert_eq!(ask(&metrics, "OPTIONS", "/health").0, 405);
    assert_eq!(ask(&metrics, "OPTIONS", "/metrics").0, 200);
}

#[test]
fn origins_are_told_whether_they_may_look() {
    let allowed = |origins: &[&str], method: &str, origin: Option<&str>| {
        let origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        let clients = served(Fake::healthy(), Some(Access { origins, ..open() }));
        let mut request = Request::builder().method(method).uri("/nope");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let (code, headers, _) = ask_with(&clients, false, request);
        assert_eq!(code, if method == "OPTIONS" { 200 } else { 404 });
        let value = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
        let origin = value(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        let methods = "POST, GET, OPTIONS, PUT, DELETE".to_owned();
        assert_eq!(value(header::ACCESS_CONTROL_ALLOW_METHODS), origin.is_some().then_some(methods));
        let names = "accept, content-type, authorization".to_owned();
        assert_eq!(value(header::ACCESS_CONTROL_ALLOW_HEADERS), origin.is_some().then_some(names));
        origin
    };
    for method in ["GET", "OPTIONS"] {
        assert_eq!(allowed(&["*"], method, None).as_deref(), Some("*"));
        assert_eq!(allowed(&["http://a:1", "*"], method, Some("http://x")).as_deref(), Some("*"));
        assert_eq!(allowed(&["http://a:1", "http://b:2"], method, Some("http://b:2")).as_deref(), Some("http://b:2"));
        assert_eq!(allowed(&["http://a:1"], method, Some("http://b:2")), None);
        assert_eq!(allowed(&["http://a:1"], method, None), None);
    }
}

#[test]
fn plaintext_requests_must_ask_for_a_host_of_the_list() {
    let clients = served(Fake::healthy(), Some(Access { hosts: vec!["localhost".into(), "foo.com".into()], ..open() }));
    let code = |tls, host: &str, method: &str| {
        let request = Request::builder().method(method).uri("/version").header("host", host);
        let (code, headers, body) = ask_with(&clients, tls, request);
        if code == 421 {
            assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
            assert!(String::from_utf8(body).unwrap().contains(&format!("--host-whitelist={host}")));
        }
        code
    };
    assert_eq!(code(false, "localhost", "GET"), 200);
    assert_eq!(code(false, "foo.com:2379", "GET"), 200);
    assert_eq!(code(false, "evil", "GET"), 421);
    assert_eq!(code(false, "evil", "OPTIONS"), 421);
    assert_eq!(code(false, "127.0.0.1", "GET"), 421);
    assert_eq!(code(true, "evil", "GET"), 200);
}

#[test]
fn metrics_are_compressed_for_those_who_can_read_it() {
    let metrics = served(Fake::healthy(), None);
    let scrape = |accepts: &str| {
        let request = Request::builder().uri("/metrics").header("accept-encoding", accepts);
        let (_, headers, body) = ask_with(&metrics, false, request);
        (headers.get(header::CONTENT_ENCODING).map(|coding| coding.to_str().unwrap().to_owned()), body)
    };
    for accepts in ["gzip", "br, GZIP;q=0.5", "deflate,gzip ; q=1"] {
        let (coding, body) = scrape(accepts);
        assert_eq!(coding.as_deref(), Some("gzip"), "{accepts}");
        let mut text = String::new();
        GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
        assert!(text.contains("\na_figure 1\n"));
    }
    for refuses in ["", "identity", "gzip;q=0", "gzip; q=0.000", "x-gzip"] {
        let (coding, body) = scrape(refuses);
        assert_eq!(coding, None, "{refuses}");
        assert!(String::from_utf8(body).unwrap().contains("\na_figure 1\n"));
    }
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use crate::config::{Command, Program};
    use crate::host::Host;
    use crate::rpc::front::{Front, Offer, Protocol, Settings};
    use crate::rpc::timers::SystemTimers;

    let over_a_socket = |request: &str| {
        let Ok(Command::Serve(config)) = crate::config::read(Program::Bramble, &[], &[]) else { panic!("defaults are sound") };
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&theirs).write_all(request.as_bytes()).unwrap();
        let timers = Arc::new(SystemTimers::new(Host::real().clock));
        let front = Front::new(Settings::of(&config), vec![Arc::default()], timers);
        let endpoints: Arc<dyn Endpoints> = served(Fake::healthy(), Some(open()));
        let peer = Peer { addr: PeerAddr::Local, tls: false, common_name: None };
        let io = smol::Async::new(ours).unwrap();
        smol::block_on(front.serve(io, Protocol::Unsaid, peer, Offer { services: None, endpoints: Some(endpoints) }));
        let mut answer = String::new();
        (&theirs).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head = head.lines().filter(|line| !line.starts_with("date:")).map(str::to_owned).collect::<Vec<_>>();
        (head, body.to_owned())
    };
    let request = |method, path| over_a_socket(&format!("{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"));
    let (get, body) = request("GET", "/nope");
    assert_eq!((&*get[0], &*body), ("HTTP/1.1 404 Not Found", "404 page not found\n"));
    let (head, body) = request("HEAD", "/nope");
    assert_eq!((head, &*body), (get, ""));
    let (options, body) = request("OPTIONS", "/health");
    assert!(options.contains(&"content-length: 0".to_owned()) && body.is_empty(), "{options:?}");
    let (health, body) = request("GET", "/health");
    assert_eq!((&*health[0], &*body), ("HTTP/1.1 200 OK", HEALTHY));
}
