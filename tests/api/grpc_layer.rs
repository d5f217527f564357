//! gRPC itself: what holds of every method.

use bramble::pb::etcdserverpb::{PutRequest, RangeResponse, WatchRequest, WatchResponse};
use bramble::pb::health::health_check_response::ServingStatus;
use bramble::pb::health::{HealthCheckRequest, HealthCheckResponse};
use bytes::Bytes;
use prost::Message;

use crate::support::grpc::{Stream, frame};
use crate::support::requests::{Revision, Unary, Watch, delete, everything, key, put, watch};
use crate::support::{Code, Server, Status};

const RANGE: &str = "/etcdserverpb.KV/Range";

fn range_of_everything() -> Bytes {
    frame(false, &everything().encode_to_vec())
}

#[test]
fn unknown_methods_and_services_are_named() {
    let server = Server::start();
    let client = server.client();
    for (path, text) in [
        ("/etcdserverpb.KV/Nonsense", "unknown method Nonsense for service etcdserverpb.KV"),
        ("/etcdserverpb.Watch/watch", "unknown method watch for service etcdserverpb.Watch"),
        ("/foo.Bar/Baz", "unknown service foo.Bar"),
        ("/etcdserverpb.Nonsense/Range", "unknown service etcdserverpb.Nonsense"),
    ] {
        let reply = client.raw(path, &[], range_of_everything()).unwrap();
        assert_eq!(reply.status, Status::new(Code::Unimplemented, text), "{path}");
        assert_eq!(reply.http_status, 200);
    }
}

#[test]
fn an_answer_is_headers_a_message_and_trailers() {
    let server = Server::start();
    let reply = server.client().raw(RANGE, &[], range_of_everything()).unwrap();
    assert_eq!(reply.http_status, 200);
    assert_eq!(reply.headers["content-type"], "application/grpc");
    assert_eq!(reply.messages.len(), 1);
    assert_eq!(reply.trailers["grpc-status"], "0");
    assert_eq!(RangeResponse::decode(reply.messages[0].clone()).unwrap().revision(), 1);
}

#[test]
fn a_refusal_is_a_200_with_a_status() {
    let server = Server::start();
    let reply = server.client().raw(RANGE, &[], frame(false, &key("").encode_to_vec())).unwrap();
    assert_eq!((reply.http_status, reply.messages.len()), (200, 0));
    assert_eq!(reply.headers["content-type"], "application/grpc");
    assert_eq!(reply.status, Status::new(Code::InvalidArgument, "etcdserver: key is not provided"));
}

#[test]
fn messages_are_percent_encoded() {
    let server = Server::start();
    let path = "/etcdserverpb.KV/100%25%C3%A9";
    let reply = server.client().raw(path, &[], range_of_everything()).unwrap();
    assert_eq!(reply.status.code, Code::Unimplemented);
    let fields = if reply.trailers.contains_key("grpc-message") { &reply.trailers } else { &reply.headers };
    let raw = fields["grpc-message"].to_str().expect("plain ASCII");
    assert!(raw.contains("%25"), "a percent sign is encoded: {raw}");
}

#[test]
fn content_types_of_grpc_are_taken() {
    let server = Server::start();
    let client = server.client();
    for kind in ["application/grpc", "application/grpc+proto"] {
        let reply = client.raw(RANGE, &[("content-type", kind)], range_of_everything()).unwrap();
        assert_eq!(reply.status.code, Code::Ok, "{kind}");
    }
}

#[test]
fn an_undecodable_message_is_internal() {
    let server = Server::start();
    let client = server.client();
    let reply = client.raw(RANGE, &[], frame(false, &[0xff, 0xff, 0xff])).unwrap();
    assert_eq!(reply.status.code, Code::Internal, "{:?}", reply.status);
    client.call(&everything());
}

#[test]
fn an_oversize_message_is_refused_with_grpcs_words() {
    let server = Server::start();
    let client = server.client();
    let request = put("k", vec![b'x'; 3 << 20]);
    let length = request.encoded_len();
    let expected = format!("grpc: received message larger than max ({length} vs. 2097152)");
    assert_eq!(client.fail(&request), Status::new(Code::ResourceExhausted, expected));
    client.call(&everything());
}

#[test]
fn a_request_may_be_compressed() {
    let server = Server::start();
    let client = server.client();
    let squeeze = |message: &[u8]| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(message).unwrap();
        encoder.finish().unwrap()
    };
    let message = put("k", vec![b'x'; 100_000]).encode_to_vec();
    let reply = client.raw(PutRequest::PATH, &[("grpc-encoding", "gzip")], frame(true, &squeeze(&message))).unwrap();
    assert_eq!(reply.status.code, Code::Ok, "{:?}", reply.status);
    assert_eq!(client.call(&key("k")).kvs[0].value.len(), 100_000);
    let bomb = put("k", vec![b'x'; 64 << 20]).encode_to_vec();
    let reply = client.raw(PutRequest::PATH, &[("grpc-encoding", "gzip")], frame(true, &squeeze(&bomb))).unwrap();
    assert_eq!(reply.status.code, Code::ResourceExhausted, "what grows too large is refused: {:?}", reply.status);
    let reply = client.raw(PutRequest::PATH, &[("grpc-encoding", "snappy")], frame(true, &message)).unwrap();
    assert_eq!(reply.status.code, Code::Unimplemented, "an unknown encoding: {:?}", reply.status);
    let reply = client.raw(PutRequest::PATH, &[], frame(true, &squeeze(&message))).unwrap();
    assert_eq!(reply.status.code, Code::Internal, "compressed without saying how: {:?}", reply.status);
}

#[test]
fn a_deadline_ends_a_call() {
    let server = Server::start();
    let client = server.client();
    let mut stream: Stream<WatchRequest, WatchResponse> = client.open("/etcdserverpb.Watch/Watch", &[("grpc-timeout", "100m")]);
    assert_eq!(stream.end().code, Code::DeadlineExceeded);
    let expired = client.raw(RANGE, &[("grpc-timeout", "1n")], range_of_everything()).unwrap();
    assert_eq!(expired.status.code, Code::DeadlineExceeded, "{:?}", expired.status);
    let ample = client.raw(RANGE, &[("grpc-timeout", "1H")], range_of_everything()).unwrap();
    assert_eq!(ample.status.code, Code::Ok);
}

#[test]
fn an_unreadable_deadline_is_refused() {
    let server = Server::start();
    let reply = server.client().raw(RANGE, &[("grpc-timeout", "nonsense")], range_of_everything()).unwrap();
    assert_eq!(reply.status.code, Code::Internal, "{:?}", reply.status);
}

#[test]
fn metadata_of_etcds_clients_is_taken() {
    let server = Server::start();
    let client = server.client();
    for fields in [
        &[("hasleader", "true")][..],
        &[("client-api-version", "3.7.3")],
        &[("token", "none"), ("authorization", "none")],
        &[("x-binary-bin", "AAEC"), ("user-agent", "grpc-go/1.80.0")],
    ] {
        assert_eq!(client.raw(RANGE, fields, range_of_everything()).unwrap().status.code, Code::Ok, "{fields:?}");
    }
}

#[test]
fn thousands_of_calls_share_a_connection() {
    let server = Server::start();
    let client = server.client();
    let mut watches: Vec<Watch> = (0..1_000).map(|_| Watch::open(&client)).collect();
    for stream in &mut watches {
        stream.create(watch("k"));
    }
    client.call(&put("k", ""));
    for stream in &mut watches {
        assert_eq!(stream.events().events.len(), 1);
    }
}

#[test]
fn cancelled_calls_do_not_hurt_the_connection() {
    let server = Server::start();
    let client = server.client();
    for _ in 0..3_000 {
        client.start_and_reset(RANGE);
    }
    client.call(&everything());
}

#[test]
fn a_second_message_of_a_unary_call_is_no_second_request() {
    let server = Server::start();
    let client = server.client();
    let mut body = frame(false, &put("a", "1").encode_to_vec()).to_vec();
    body.extend_from_slice(&frame(false, &put("b", "1").encode_to_vec()));
    let reply = client.raw(PutRequest::PATH, &[], body.into()).unwrap();
    assert_ne!(reply.status.code, Code::Unavailable, "{:?}", reply.status);
    assert_eq!(client.call(&key("b")).count, 0);
}

#[test]
fn a_call_without_a_message_is_refused() {
    let server = Server::start();
    let client = server.client();
    let reply = client.raw(RANGE, &[], Bytes::new()).unwrap();
    assert_ne!(reply.status.code, Code::Ok);
    assert!(reply.messages.is_empty());
    client.call(&everything());
}

#[test]
fn answers_may_be_larger_than_requests() {
    let server = Server::start();
    let client = server.client();
    for i in 0..10 {
        client.call(&put(format!("k{i}"), vec![b'x'; 1_000_000]));
    }
    let reply = client.call(&everything());
    assert_eq!(reply.kvs.iter().map(|kv| kv.value.len()).sum::<usize>(), 10_000_000);
}

#[test]
fn the_standard_health_service_answers() {
    let server = Server::start();
    let client = server.client();
    let check = |service: &str| -> Result<HealthCheckResponse, Status> {
        client.call_at("/grpc.health.v1.Health/Check", &HealthCheckRequest { service: service.into() })
    };
    assert_eq!(check("").unwrap().status, ServingStatus::Serving as i32);
    assert_eq!(check("nonsense").unwrap_err(), Status::new(Code::NotFound, "unknown service"));
    let mut stream: Stream<HealthCheckRequest, HealthCheckResponse> = client.open("/grpc.health.v1.Health/Watch", &[]);
    stream.send(&HealthCheckRequest { service: String::new() });
    stream.close_send();
    assert_eq!(stream.recv().status, ServingStatus::Serving as i32);
}

#[test]
fn one_client_reads_what_another_has_written() {
    let server = Server::start();
    let (writer, reader) = (server.client(), server.client());
    for i in 0..100 {
        writer.call(&put("a", i.to_string()));
        assert_eq!(reader.call(&key("a")).kvs[0].value, i.to_string());
    }
    writer.call(&delete("a"));
    assert_eq!(reader.call(&key("a")).count, 0);
}
