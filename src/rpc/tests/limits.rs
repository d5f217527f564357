//! What one client can cost us.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use futures_util::future::join_all;
use h2::Ping;

use super::rig::*;
use crate::rpc::front::Settings;
use crate::rpc::status::Code;

#[test]
fn replies_of_a_batch_leave_in_one_write() {
    let rig = Rig::new();
    let (pipe, writes) = rig.dial_counted(rig.offer());
    let client = rig.client_of(pipe);
    let before = writes.count();
    // Long enough that each would be written for itself.
    let message = vec![0; 2000];
    let outcomes = rig.run(async move { join_all((0..30).map(|_| client.call("Echo", &message))).await });
    assert!(outcomes.iter().all(|outcome| outcome.status() == ("0", "") && outcome.messages()[0].len() == 2000));
    // Some, as the pipe holds 64 KiB and windows are updated; but not 30.
    let writes = writes.count() - before;
    assert!(writes < 10, "{writes} writes");
}

#[test]
fn a_stuck_handler_keeps_neither_pings_nor_calls_waiting() {
    let rig = Rig::new();
    let client = rig.client();
    let stuck = client.clone();
    let stuck = rig.executor.spawn(async move { stuck.call("Stuck", b"").await });
    rig.settle();
    let outcome = rig.run(async move {
        let mut pings = client.pings.lock().unwrap().take().unwrap();
        pings.ping(Ping::opaque()).await.unwrap();
        client.call("Echo", b"alive").await
    });
    assert_eq!(outcome.messages(), ["alive"]);
    assert!(!stuck.is_finished());
}

#[test]
fn thousands_of_canceled_calls_do_not_cost_the_connection() {
    let rig = Rig::new();
    let mut client = Deaf::new(&rig);
    for _ in 0..10 {
        let mut storm = Vec::new();
        for _ in 0..300 {
            let stream = client.next;
            storm.extend(client.request("server", "Stuck", b""));
            storm.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
        }
        client.write(&rig, storm);
    }
    client.call(&rig, "Echo", b"still here");
    // The last call was started, and of the others none is left.
    let started = rig.services.started.load(Ordering::SeqCst);
    assert!(started > 0, "the connection was closed");
    assert_eq!(started - 1, rig.services.dropped.load(Ordering::SeqCst));
    assert_eq!(rig.services.handled.lock().unwrap().last(), Some(&(ECHO, Code::Ok)));
}

/// A client that speaks HTTP/2 by hand and reads nothing. Its windows are as large as windows get.
struct Deaf {
    pipe: Pipe,
    next: u32,
}

impl Deaf {
    fn new(rig: &Rig) -> Deaf {
        let mut deaf = Deaf { pipe: rig.dial(rig.offer()), next: 1 };
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // INITIAL_WINDOW_SIZE 2^31-1, then the same for the connection.
        hello.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
        hello.extend(frame(8, 0, 0, &(0x7fff_ffff_u32 - 65535).to_be_bytes()));
        deaf.write(rig, hello);
        deaf
    }

    fn write(&mut self, rig: &Rig, bytes: Vec<u8>) {
        smol::block_on(async {
            // The pipe holds more than a test writes at a time, and the server reads on.
            self.pipe.write_all(&bytes).await.unwrap();
        });
        rig.settle();
    }

    fn call(&mut self, rig: &Rig, method: &str, message: &[u8]) {
        self.call_as(rig, "server", method, message);
    }

    fn call_as(&mut self, rig: &Rig, authority: &str, method: &str, message: &[u8]) {
        let bytes = self.request(authority, method, message);
        self.write(rig, bytes);
    }

    /// The frames of the next call.
    fn request(&mut self, authority: &str, method: &str, message: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        let path = format!("/test.Service/{method}");
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", authority),
            (":path", &*path),
            ("content-type", "application/grpc"),
        ] {
            // A literal header field without indexing (RFC 7541 §6.2.2).
            block.extend([0, name.len() as u8]);
            block.extend(name.as_bytes());
            block.push(value.len() as u8);
            block.extend(value.as_bytes());
        }
        let mut bytes = frame(1, 4, self.next, &block);
        bytes.extend(frame(0, 1, self.next, &framed(message)));
        self.next += 2;
        bytes
    }

    /// Reads what there is.
    fn read(&mut self, rig: &Rig) -> usize {
        let mut buffer = vec![0; 64 * 1024];
        let count =
            smol::block_on(futures_lite::future::or(async { self.pipe.read(&mut buffer).await.unwrap() }, std::future::ready(0)));
        rig.settle();
        count
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn a_client_that_does_not_read_gets_no_big_reply_made() {
    let rig = Rig::new();
    let mut deaf = Deaf::new(&rig);
    deaf.call(&rig, "Big", &[0; 100]);
    let made = rig.services.made.load(Ordering::SeqCst);
    assert!((1..=8).contains(&made), "{made} pieces of {PIECE} bytes");
    // Once it reads, all of it comes.
    let mut received = 0;
    while received < 100 * PIECE {
        let count = deaf.read(&rig);
        assert!(count > 0, "the reply stopped after {received} bytes");
        received += count;
    }
    assert_eq!(rig.services.made.load(Ordering::SeqCst), 100);
}

#[test]
fn many_big_replies_at_once_share_the_room_for_one() {
    let rig = Rig::new();
    let mut deaf = Deaf::new(&rig);
    let together: Vec<u8> = (0..50).flat_map(|_| deaf.request("server", "Big", &[0; 4])).collect();
    deaf.write(&rig, together);
    let made = rig.services.made.load(Ordering::SeqCst);
    assert!((1..=8).contains(&made), "{made} pieces of {PIECE} bytes");
    while deaf.read(&rig) > 0 {}
    assert_eq!(rig.services.made.load(Ordering::SeqCst), 200);
}

#[test]
fn a_client_that_does_not_read_a_stream_holds_its_handler_up() {
    let rig = Rig::new();
    let mut deaf = Deaf::new(&rig);
    for _ in 0..10 {
        deaf.call(&rig, "Flood", b"");
    }
    let made = rig.services.made.load(Ordering::SeqCst);
    assert!((1..=1024).contains(&made), "{made} messages of 16 KiB on 10 streams");
    deaf.read(&rig);
    while deaf.read(&rig) > 0 && rig.services.made.load(Ordering::SeqCst) < 2 * made {}
    assert!(rig.services.made.load(Ordering::SeqCst) >= 2 * made, "the streams did not go on");
}

#[test]
fn a_client_that_does_not_read_is_not_asked_for_more_calls() {
    let rig = Rig::new();
    let mut deaf = Deaf::new(&rig);
    for _ in 0..500 {
        deaf.call(&rig, "Long", b"");
    }
    let started = rig.services.started.load(Ordering::SeqCst);
    assert!((1..=30).contains(&started), "{started} calls with 100 KiB of reply");
    while deaf.read(&rig) > 0 {}
    assert_eq!(rig.services.started.load(Ordering::SeqCst), 500);
    assert!(rig.services.handled.lock().unwrap().iter().all(|(_, code)| *code == Code::Ok));
}

#[test]
fn a_slow_stream_does_not_hold_up_others_of_its_connection() {
    let rig = Rig::new();
    let client = rig.client();
    let (outcome, response) = rig.run(async move {
        // Its replies are never taken: its window closes.
        let (response, mut stream) = client.begin(post("/test.Service/Flood")).await;
        send(&mut stream, framed(b""), true).await;
        let response = response.await.unwrap();
        (client.call("Echo", b"me too").await, response)
    });
    assert_eq!(outcome.messages(), ["me too"]);
    assert!(rig.services.made.load(Ordering::SeqCst) < 100);
    drop(response);
}

#[test]
fn requests_beyond_the_memory_for_them_are_refused() {
    let rig = Rig::with(Settings { request_memory: 2_000_000, ..settings() });
    let client = rig.client();
    let stuck = client.clone();
    let stuck = rig.executor.spawn(async move { stuck.call("Stuck", &[0; 1_200_000]).await });
    rig.settle();
    let (big, small) = {
        let client = client.clone();
        rig.run(async move { (client.call("Echo", &[0; 1_200_000]).await, client.call("Echo", b"small").await) })
    };
    assert_eq!(big.status(), ("2", "etcdserver: too many requests"));
    assert_eq!(small.messages(), ["small"]);
    // What was held is given back.
    drop(stuck);
    rig.settle();
    let big = rig.run(async move { client.call("Echo", &[0; 1_200_000]).await });
    assert_eq!(big.status(), ("0", ""));
}

#[test]
fn streams_beyond_the_limit_are_refused_and_the_rest_goes_on() {
    let rig = Rig::with(Settings { max_concurrent_streams: 2, ..settings() });
    let mut deaf = Deaf::new(&rig);
    for _ in 0..3 {
        deaf.call(&rig, "Stuck", b"");
    }
    assert_eq!(rig.services.started.load(Ordering::SeqCst), 2);
}

#[test]
fn an_idle_client_is_pinged_and_a_silent_one_is_dropped() {
    let keepalive = Settings { keepalive_interval: Duration::from_secs(100), ..settings() };
    let rig = Rig::with(keepalive.clone());
    let client = rig.client();
    for _ in 0..10 {
        rig.advance(Duration::from_secs(60));
    }
    assert!(client.ended.lock().unwrap().is_none(), "it answers PINGs, and stays");

    let rig = Rig::with(keepalive);
    let mut deaf = Deaf::new(&rig);
    deaf.call(&rig, "Stuck", b"");
    rig.advance(Duration::from_secs(100));
    rig.advance(Duration::from_secs(100));
    assert_eq!(rig.services.dropped.load(Ordering::SeqCst), 0);
    rig.advance(Duration::from_secs(20));
    assert_eq!(rig.services.dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn odd_authorities_of_etcds_clients_are_accepted() {
    for authority in ["server:2379", "#initially=[http://a:2379;http://b:2379]", "/run/etcd.sock", "a b"] {
        let rig = Rig::new();
        let mut client = Deaf::new(&rig);
        for _ in 0..3 {
            client.call_as(&rig, authority, "Echo", b"");
        }
        assert_eq!(rig.services.started.load(Ordering::SeqCst), 3, "{authority}");
    }
}
