//! How connections begin and end, and who answers on them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use http::{Request, StatusCode};

use super::rig::*;
use crate::rpc::front::Offer;
use crate::rpc::stream::Stream;

/// Sends bytes one by one and lets the server look at each; then reads until it closes or has no more to say.
fn dribble(rig: &Rig, pipe: &mut Pipe, bytes: &[u8]) {
    for byte in bytes {
        smol::block_on(pipe.write_all(&[*byte])).unwrap();
        rig.settle();
    }
}

fn read_now(pipe: &mut Pipe) -> String {
    let mut buffer = vec![0; 64 * 1024];
    let read = futures_lite::future::or(async { Some(pipe.read(&mut buffer).await.unwrap()) }, std::future::ready(None));
    let count = smol::block_on(read).unwrap_or(0);
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

/// Whether the far end has closed.
fn is_closed(pipe: &mut Pipe) -> bool {
    let mut buffer = [0; 1024];
    loop {
        let read = futures_lite::future::or(async { Some(pipe.read(&mut buffer).await.unwrap()) }, std::future::ready(None));
        match smol::block_on(read) {
            Some(0) => return true,
            Some(_) => {}
            None => return false,
        }
    }
}

#[test]
fn the_preface_is_recognised_byte_by_byte() {
    let rig = Rig::new();
    let mut pipe = rig.dial(rig.offer());
    dribble(&rig, &mut pipe, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    dribble(&rig, &mut pipe, &[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let answer = read_now(&mut pipe);
    assert_eq!(answer.as_bytes()[3], 4, "a SETTINGS frame comes first: {answer:?}");
}

#[test]
fn http1_is_recognised_byte_by_byte() {
    let rig = Rig::new();
    let mut pipe = rig.dial(rig.offer());
    dribble(&rig, &mut pipe, b"P");
    dribble(&rig, &mut pipe, b"OST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    let answer = read_now(&mut pipe);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("POST /x 3"), "{answer}");
    // The connection is kept.
    dribble(&rig, &mut pipe, b"GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = read_now(&mut pipe);
    assert!(answer.contains("transfer-encoding: chunked") && answer.contains("one "), "{answer}");
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    for start in [&b""[..], b"PRI * HT", b"GET / HT"] {
        let rig = Rig::new();
        let mut pipe = rig.dial(rig.offer());
        dribble(&rig, &mut pipe, start);
        rig.advance(Duration::from_secs(59));
        assert!(!is_closed(&mut pipe));
        rig.advance(Duration::from_secs(2));
        // hyper keeps time by the machine's clock too: what it closes is not seen here.
        assert!(is_closed(&mut pipe), "{start:?}");
    }
}

#[test]
fn http_is_answered_over_http2_too() {
    let rig = Rig::new();
    let client = rig.client();
    rig.run(async move {
        let get = || Request::get("http://server/health?serializable=true");
        let outcome = client.request(get(), Bytes::new()).await;
        assert_eq!((outcome.http, &outcome.body[..]), (StatusCode::OK, &b"GET /health 0"[..]));
        let outcome =
            client.request(Request::post("http://server/v3").header("content-type", "application/json"), "{}".into()).await;
        assert_eq!(outcome.body, "POST /v3 2");
        let outcome = client.request(Request::head("http://server/health"), Bytes::new()).await;
        assert_eq!((outcome.http, outcome.body), (StatusCode::OK, Bytes::new()));
        let outcome = client.request(Request::get("http://server/pieces"), Bytes::new()).await;
        assert_eq!(outcome.body, "one two");
        // gRPC-Web is no gRPC.
        let web = Request::post("http://server/web").header("content-type", "application/grpc-web");
        assert_eq!(client.request(web, Bytes::new()).await.body, "POST /web 0");
    });
}

#[test]
fn a_body_that_is_too_long_is_refused_on_both_protocols() {
    let limit = 1024 * 1024 + 512 * 1024;
    let rig = Rig::new();
    let client = rig.client();
    let (fits, over) = rig.run(async move {
        let fits = client.request(Request::post("http://server/x"), vec![0; limit].into()).await;
        let over = client.request(Request::post("http://server/x"), vec![0; limit + 1].into()).await;
        (fits, over)
    });
    assert_eq!(fits.body, format!("POST /x {limit}"));
    assert_eq!(over.http, StatusCode::PAYLOAD_TOO_LARGE);

    let mut pipe = rig.dial(rig.offer());
    let answer = rig.run(async move {
        let head = format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", limit + 1);
        pipe.write_all(head.as_bytes()).await.unwrap();
        let _ = pipe.write_all(&vec![0; limit + 1]).await;
        let mut answer = [0; 32];
        pipe.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    });
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[test]
fn a_listener_for_grpc_alone_says_so() {
    let rig = Rig::new();
    let offer = || Offer { endpoints: None, ..rig.offer() };
    let client = rig.client_of(rig.dial(offer()));
    let (call, get) = rig.run(async move {
        (client.call("Echo", b"x").await, client.request(Request::get("http://server/health"), Bytes::new()).await)
    });
    assert_eq!(call.status(), ("0", ""));
    assert_eq!(get.http, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(get.status(), ("3", "invalid gRPC request content-type \"\""));

    let mut pipe = rig.dial(offer());
    dribble(&rig, &mut pipe, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = read_now(&mut pipe);
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("gRPC only"), "{answer}");
}

#[test]
fn a_listener_for_http_alone_says_so() {
    let rig = Rig::new();
    let client = rig.client_of(rig.dial(Offer { services: None, ..rig.offer() }));
    let (call, get) = rig.run(async move {
        // A call whose body never ends must not keep the answer waiting.
        let (response, _stream) = client.begin(post("/test.Service/Echo")).await;
        (outcome(response).await, client.request(Request::get("http://server/health"), Bytes::new()).await)
    });
    assert_eq!(call.status().0, "12");
    assert_eq!(get.body, "GET /health 0");
}

#[test]
fn a_stop_lets_running_calls_finish_and_takes_no_new_ones() {
    let rig = Rig::new();
    let client = rig.client();
    let mut idle = rig.dial(rig.offer());
    dribble(&rig, &mut idle, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (response, mut stream) = {
        let client = client.clone();
        rig.run(async move {
            let (response, mut stream) = client.begin(post("/test.Service/Chat")).await;
            send(&mut stream, framed(b"one"), false).await;
            (response, stream)
        })
    };
    let front = rig.front.clone();
    let stopped = rig.executor.spawn(async move { front.shutdown(Duration::from_secs(10)).await });
    rig.settle();
    assert!(is_closed(&mut idle), "an idle connection has nothing to finish");
    assert!(!stopped.is_finished());
    let refused = {
        let client = client.clone();
        rig.executor.spawn(async move { client.begin(post("/test.Service/Echo")).await })
    };
    let outcome = rig.run(async move {
        send(&mut stream, framed(b"two"), true).await;
        outcome(response).await
    });
    assert_eq!((outcome.messages().len(), outcome.status()), (2, ("0", "")));
    rig.settle();
    assert!(stopped.is_finished());
    assert!(client.ended.lock().unwrap().is_some());
    drop(refused);
}

#[test]
fn a_stop_closes_what_does_not_finish_in_time() {
    let rig = Rig::new();
    let client = rig.client();
    let mut silent = rig.dial(rig.offer());
    let _calls = ["Stuck", "Wait"].map(|method| {
        let client = client.clone();
        rig.executor.spawn(async move { client.call(method, b"").await })
    });
    rig.settle();
    let front = rig.front.clone();
    let stopped = rig.executor.spawn(async move { front.shutdown(Duration::from_secs(10)).await });
    rig.advance(Duration::from_secs(9));
    assert!(is_closed(&mut silent));
    assert!(!stopped.is_finished());
    rig.advance(Duration::from_secs(1));
    assert!(stopped.is_finished());
    assert_eq!(rig.services.started.load(Ordering::SeqCst), 2);
    assert_eq!(rig.services.dropped.load(Ordering::SeqCst), 2);
}

#[test]
fn bytes_that_are_put_back_are_read_first() {
    let (mut near, far) = pipe();
    let mut stream = Stream::new(far);
    stream.unread(Bytes::from("one "));
    let text = smol::block_on(async {
        near.write_all(b"two").await.unwrap();
        drop(near);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    });
    assert_eq!(text, "one two");
}
