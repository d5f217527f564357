//! What a caller sees.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};

use super::rig::*;
use crate::rpc::status::Code;

/// Asks one call of a fresh server.
fn ask(request: http::request::Builder, body: Bytes) -> Outcome {
    let rig = Rig::new();
    let client = rig.client();
    rig.run(async move { client.request(request, body).await })
}

#[test]
fn a_unary_call_is_answered_with_headers_message_and_trailers() {
    let outcome = ask(post("/test.Service/Echo"), framed(b"hello"));
    assert_eq!(outcome.http, StatusCode::OK);
    assert_eq!(outcome.headers["content-type"], "application/grpc");
    assert_eq!(outcome.messages(), ["hello"]);
    assert_eq!(outcome.status(), ("0", ""));
    assert!(!outcome.trailers_only);
}

#[test]
fn an_empty_message_is_a_message() {
    let outcome = ask(post("/test.Service/Echo"), framed(b""));
    assert_eq!((outcome.messages(), outcome.status()), (vec![Bytes::new()], ("0", "")));
}

#[test]
fn an_error_is_one_frame_with_a_percent_encoded_text() {
    let outcome = ask(post("/test.Service/Fail"), framed("50% läuft\n".as_bytes()));
    assert!(outcome.trailers_only);
    assert_eq!(outcome.headers["content-type"], "application/grpc");
    assert_eq!(outcome.status(), ("15", "50%25 l%C3%A4uft%0A"));
}

#[test]
fn unknown_names_are_answered_in_the_words_of_grpc() {
    for (path, text) in [
        ("/test.Service/Nope", "unknown method Nope for service test.Service"),
        ("/foo.Bar/Echo", "unknown service foo.Bar"),
        ("/foo/Bar/Echo", "unknown service foo/Bar"),
        ("/Echo", "malformed method name: \"/Echo\""),
    ] {
        let outcome = ask(post(path), framed(b""));
        assert!(outcome.trailers_only);
        assert_eq!((outcome.http, outcome.status()), (StatusCode::OK, ("12", text)));
    }
}

#[test]
fn requests_that_are_no_calls_are_refused_by_http_status_too() {
    let get = Request::get("http://server/test.Service/Echo").header("content-type", "application/grpc");
    let outcome = ask(get, Bytes::new());
    let text = "Received a HEADERS frame with :method \"GET\" which should be POST";
    assert_eq!((outcome.http, outcome.status()), (StatusCode::METHOD_NOT_ALLOWED, ("13", text)));

    let outcome = ask(post("/test.Service/Echo").header("grpc-timeout", "5y"), framed(b""));
    let text = "malformed grpc-timeout: transport: timeout unit is not recognized: \"5y\"";
    assert_eq!((outcome.http, outcome.status()), (StatusCode::BAD_REQUEST, ("13", text)));
}

#[test]
fn subtypes_of_grpc_are_grpc() {
    for subtype in ["application/grpc+proto", "application/grpc;charset=x"] {
        let request = Request::post("http://server/test.Service/Echo").header("content-type", subtype);
        let outcome = ask(request, framed(b"x"));
        assert_eq!(outcome.status(), ("0", ""));
        assert_eq!(outcome.headers["content-type"], subtype.replace(';', "+"));
    }
}

#[test]
fn metadata_reaches_the_handler() {
    let rig = Rig::new();
    let client = rig.client();
    let request = post("/test.Service/Echo").header("hasleader", "true").header("key-bin", "AAH/").header("bad-bin", "?");
    rig.run(async move { client.request(request, framed(b"")).await });
    let call = rig.services.seen.lock().unwrap().take().unwrap();
    assert_eq!(call.text("hasleader"), Some("true"));
    assert_eq!(call.binary("key-bin"), Some(Ok(vec![0, 1, 255])));
    assert_eq!(call.binary("bad-bin").unwrap().unwrap_err().code, Code::Internal);
    assert_eq!(call.binary("no-bin"), None);
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_prefix() {
    let rig = Rig::new();
    let client = rig.client();
    let limit = 1024 * 1024 + 512 * 1024;
    let outcome = rig.run(async move {
        let (response, mut stream) = client.begin(post("/test.Service/Echo")).await;
        let mut prefix = vec![0];
        prefix.extend((limit as u32 + 1).to_be_bytes());
        send(&mut stream, prefix.into(), false).await;
        outcome(response).await
    });
    let text = format!("grpc: received message larger than max ({} vs. {limit})", limit + 1);
    assert_eq!(outcome.status(), ("8", &*text));
    assert_eq!(rig.services.started.load(Ordering::SeqCst), 0);
}

#[test]
fn a_message_at_the_limit_comes_through_in_pieces() {
    let message = vec![7; 1024 * 1024 + 512 * 1024];
    let outcome = ask(post("/test.Service/Echo"), framed(&message));
    assert_eq!(outcome.messages(), [message]);
}

#[test]
fn a_stream_that_ends_inside_a_message_is_an_error() {
    let outcome = ask(post("/test.Service/Echo"), framed(b"hello").slice(..7));
    assert_eq!(outcome.status(), ("2", "unexpected EOF"));
    let outcome = ask(post("/test.Service/Chat"), framed(b"hello").slice(..7));
    assert_eq!(outcome.status(), ("13", "unexpected EOF"));
    assert_eq!(ask(post("/test.Service/Chat"), framed(b"hello").slice(..3)).status(), ("0", ""));
    assert_eq!(ask(post("/test.Service/Echo"), Bytes::new()).status(), ("2", "EOF"));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_requests_are_inflated() {
    let request = post("/test.Service/Echo").header("grpc-encoding", "gzip");
    assert_eq!(ask(request, flagged(1, &gzip(b"hello"))).messages(), ["hello"]);
    let request = post("/test.Service/Echo").header("grpc-encoding", "gzip");
    assert_eq!(ask(request, framed(b"not this one")).messages(), ["not this one"]);
}

#[test]
fn a_bomb_is_not_inflated_beyond_the_limit() {
    let limit = 1024 * 1024 + 512 * 1024;
    for (size, status) in [(limit, "0"), (limit + 1, "8"), (100 << 20, "8")] {
        let request = post("/test.Service/Echo").header("grpc-encoding", "gzip");
        let outcome = ask(request, flagged(1, &gzip(&vec![0; size])));
        assert_eq!(outcome.status().0, status);
        if status == "8" {
            let text = format!("grpc: received message after decompression larger than max {limit}");
            assert_eq!(outcome.status().1, text);
        }
    }
}

#[test]
fn what_a_bomb_holds_beyond_the_limit_is_not_even_looked_at() {
    // Cut in half: whoever inflates it to its end finds it damaged.
    let bomb = gzip(&vec![0; 100 << 20]);
    let request = post("/test.Service/Echo").header("grpc-encoding", "gzip");
    assert_eq!(ask(request, flagged(1, &bomb[..bomb.len() / 2])).status().0, "8");
}

#[test]
fn broken_compression_is_an_answer() {
    let cut = gzip(&[7; 100]);
    for (bytes, text) in [
        (&b""[..], "grpc: failed to decompress the message: EOF"),
        (b"no gzip", "grpc: failed to decompress the message: unexpected EOF"),
        (b"nor is this", "grpc: failed to decompress the message: gzip: invalid header"),
        (&cut[..cut.len() - 1], "grpc: failed to read decompressed data: unexpected EOF"),
    ] {
        let request = post("/test.Service/Echo").header("grpc-encoding", "gzip");
        assert_eq!(ask(request, flagged(1, bytes)).status(), ("13", text));
    }

    let outcome = ask(post("/test.Service/Echo").header("grpc-encoding", "zstd"), flagged(1, b""));
    assert_eq!(outcome.status(), ("12", "grpc: Decompressor is not installed for grpc-encoding \"zstd\""));
    assert_eq!(outcome.headers["grpc-accept-encoding"], "gzip");

    let outcome = ask(post("/test.Service/Echo"), flagged(1, b""));
    assert_eq!(outcome.status(), ("13", "grpc: compressed flag set with identity or empty encoding"));

    let outcome = ask(post("/test.Service/Echo"), flagged(2, b""));
    assert_eq!(outcome.status(), ("13", "grpc: received unexpected payload format 2"));
}

#[test]
fn a_call_ends_at_its_deadline() {
    for method in ["Stuck", "Wait"] {
        let rig = Rig::new();
        let client = rig.client();
        let request = post(&format!("/test.Service/{method}")).header("grpc-timeout", "5S");
        let call = rig.executor.spawn(async move { client.request(request, framed(b"")).await });
        rig.advance(Duration::from_millis(4999));
        assert!(!call.is_finished());
        assert_eq!(rig.services.dropped.load(Ordering::SeqCst), 0);
        rig.advance(Duration::from_millis(1));
        assert!(call.is_finished());
        let outcome = smol::block_on(call);
        assert_eq!(outcome.status(), ("4", "context deadline exceeded"));
        assert_eq!(rig.services.dropped.load(Ordering::SeqCst), 1);
        assert_eq!(rig.services.handled.lock().unwrap()[0].1, Code::DeadlineExceeded);
    }
}

#[test]
fn deadlines_of_one_connection_do_not_disturb_each_other() {
    let rig = Rig::new();
    let client = rig.client();
    let calls: Vec<_> = (1..=9u32)
        .rev()
        .map(|seconds| {
            let client = client.clone();
            let request = post("/test.Service/Stuck").header("grpc-timeout", format!("{seconds}S"));
            rig.executor.spawn(async move { client.request(request, framed(b"")).await })
        })
        .collect();
    for second in 1..=9 {
        rig.advance(Duration::from_secs(1));
        assert_eq!(calls.iter().filter(|call| call.is_finished()).count(), second);
    }
}

#[test]
fn a_deadline_of_nothing_is_over() {
    let outcome = ask(post("/test.Service/Echo").header("grpc-timeout", "0n"), framed(b""));
    assert_eq!(outcome.status(), ("4", "context deadline exceeded"));
}

#[test]
fn a_stream_answers_each_message_and_ends_with_ok() {
    let body = [framed(b"one"), framed(b""), framed(&[3; 100_000])].concat();
    let outcome = ask(post("/test.Service/Chat"), body.into());
    assert_eq!(outcome.messages(), [Bytes::from("one"), Bytes::new(), vec![3; 100_000].into()]);
    assert_eq!(outcome.status(), ("0", ""));
}

#[test]
fn a_broken_message_ends_a_stream_after_what_was_said() {
    let outcome = ask(post("/test.Service/Chat"), [framed(b"one"), flagged(1, b"two")].concat().into());
    assert_eq!(outcome.messages(), ["one"]);
    assert_eq!(outcome.status(), ("13", "grpc: compressed flag set with identity or empty encoding"));
}

#[test]
fn parts_make_one_message() {
    let rig = Rig::new();
    let client = rig.client();
    let request = post("/test.Service/Wait").header("grpc-timeout", "1S");
    let call = rig.executor.spawn(async move { client.request(request, framed(b"")).await });
    rig.advance(Duration::from_secs(1));
    assert_eq!(smol::block_on(call).messages(), ["a word"]);
}

#[test]
fn a_big_reply_is_made_in_pieces_and_comes_whole() {
    let outcome = ask(post("/test.Service/Big"), framed(&[0; 40]));
    let [message] = &outcome.messages()[..] else { panic!("one message") };
    assert_eq!(message.len(), 40 * PIECE);
    assert!(message.chunks(PIECE).enumerate().all(|(number, piece)| piece.iter().all(|byte| *byte == number as u8)));
    assert_eq!(outcome.status(), ("0", ""));
}

#[test]
fn a_big_reply_of_another_length_than_promised_is_broken_off() {
    let rig = Rig::new();
    let client = rig.client();
    let error = rig.run(async move {
        let (response, mut stream) = client.begin(post("/test.Service/Big")).await;
        send(&mut stream, framed(b"x"), true).await;
        rest(response.await.unwrap().body_mut()).await.unwrap_err()
    });
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
}

#[test]
fn a_client_that_resets_its_call_frees_the_handler() {
    for (method, id) in [("Stuck", STUCK), ("Wait", WAIT)] {
        let rig = Rig::new();
        let client = rig.client();
        let path = format!("/test.Service/{method}");
        let (response, mut stream) = rig.run(async move {
            let (response, mut stream) = client.begin(post(&path)).await;
            send(&mut stream, framed(b""), false).await;
            (response, stream)
        });
        assert_eq!(rig.services.started.load(Ordering::SeqCst), 1);
        assert_eq!(rig.services.dropped.load(Ordering::SeqCst), 0);
        stream.send_reset(h2::Reason::CANCEL);
        rig.settle();
        assert_eq!(rig.services.dropped.load(Ordering::SeqCst), 1);
        assert_eq!(*rig.services.handled.lock().unwrap(), [(id, Code::Canceled)]);
        drop(response);
    }
}

#[test]
fn a_connection_that_breaks_frees_all_its_handlers() {
    let rig = Rig::new();
    let pipe = rig.dial(rig.offer());
    let client = rig.client_of(pipe);
    let mut open = Vec::new();
    for method in ["Stuck", "Wait", "Stuck", "Wait"] {
        let client = client.clone();
        open.push(rig.run(async move {
            let (response, mut stream) = client.begin(post(&format!("/test.Service/{method}"))).await;
            send(&mut stream, framed(b""), false).await;
            (response, stream)
        }));
    }
    assert_eq!(rig.services.started.load(Ordering::SeqCst), 4);
    drop((open, client));
    rig.settle();
    assert_eq!(rig.services.dropped.load(Ordering::SeqCst), 4);
    assert_eq!(rig.services.handled.lock().unwrap().len(), 4);
}

#[test]
fn calls_are_reported_once_with_their_code() {
    let rig = Rig::new();
    let client = rig.client();
    rig.run(async move {
        client.call("Echo", b"").await;
        client.call("Fail", b"").await;
        client.call("Nope", b"").await;
    });
    let handled = rig.services.handled.lock().unwrap();
    let codes: Vec<Code> = handled.iter().map(|(_, code)| *code).collect();
    assert_eq!(codes, [Code::Ok, Code::DataLoss]);
    assert_eq!(handled[0].0, ECHO);
    assert_eq!(rig.services.started.load(Ordering::SeqCst), 2);
    assert_eq!(rig.services.received.load(Ordering::SeqCst), 2);
}
