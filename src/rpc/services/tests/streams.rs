//! Streams, over HTTP/2 and a pair of sockets: a client with nothing hidden.

use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use smol::Executor;

use super::super::super::front::{Front, Offer, Protocol, Settings};
use super::super::super::stream::Stream;
use super::super::super::tests::rig::Wire;
use super::super::super::timers::SystemTimers;
use super::*;

/// One call of a streaming method.
struct Exchange {
    to: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    from: Option<RecvStream>,
    status: Option<HeaderMap>,
    received: BytesMut,
}

/// Runs a conversation with a method, the client on a connection of its own.
fn converse<T>(served: &Served, path: &str, talk: impl AsyncFnOnce(&mut Exchange) -> T) -> T {
    let executor = Arc::new(Executor::new());
    smol::block_on(executor.clone().run(async {
        let (ours, theirs) = smol::net::unix::UnixStream::pair().unwrap();
        let settings = Settings {
            max_request_bytes: served.api.limits.max_request_bytes,
            max_concurrent_streams: 100,
            max_connections: 10,
            keepalive_min_time: Duration::from_secs(5),
            keepalive_interval: Duration::ZERO,
            keepalive_timeout: Duration::ZERO,
            request_memory: 1 << 26,
        };
        let front = Front::new(settings, vec![executor.clone()], Arc::new(SystemTimers::new(Host::real().clock)));
        let offer = Offer { services: Some(served.api.clone()), endpoints: None };
        let peer = Peer { addr: PeerAddr::Local, tls: false, common_name: None };
        executor.spawn(async move { front.serve(theirs, Protocol::Http2, peer, offer).await }).detach();
        // What the library puts up with unread depends on the window.
        let builder = h2::client::Builder::new().initial_connection_window_size(1 << 22).clone();
        let (mut requests, connection) = builder.handshake(Wire(Stream::new(ours))).await.unwrap();
        executor.spawn(connection).detach();
        let request = http::Request::post(format!("http://there/{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, to) = requests.send_request(request, false).unwrap();
        let mut exchange = Exchange { to, response: Some(response), from: None, status: None, received: BytesMut::new() };
        talk(&mut exchange).await
    }))
}

impl Exchange {
    fn send(&mut self, message: &impl Message) {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
        message.encode(&mut frame).unwrap();
        self.to.send_data(frame.freeze(), false).unwrap();
    }

    fn finish(&mut self) {
        self.to.send_data(Bytes::new(), true).unwrap();
    }

    /// The next message; none: the call has ended.
    async fn next<M: Message + Default>(&mut self) -> Option<M> {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await.unwrap().into_parts();
            self.status = head.headers.contains_key("grpc-status").then_some(head.headers);
            self.from = Some(body);
        }
        let from = self.from.as_mut().unwrap();
        loop {
            if self.received.len() >= 5 {
                let length = u32::from_be_bytes(self.received[1..5].try_into().unwrap()) as usize;
                if self.received.len() >= 5 + length {
                    self.received.advance(5);
                    return Some(M::decode(self.received.split_to(length)).unwrap());
                }
            }
            let Some(data) = from.data().await else { break };
            let data = data.unwrap();
            from.flow_control().release_capacity(data.len()).unwrap();
            self.received.extend_from_slice(&data);
        }
        if self.status.is_none() {
            self.status = from.trailers().await.unwrap();
        }
        None
    }

    /// All messages up to the end of the call.
    async fn rest<M: Message + Default>(&mut self) -> Vec<M> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await {
            messages.push(message);
        }
        messages
    }

    fn status(&self) -> &str {
        self.status.as_ref().expect("the call has ended")["grpc-status"].to_str().unwrap()
    }
}

fn stream(served: &Served, request: &RangeRequest) -> Vec<RangeResponse> {
    converse(served, "etcdserverpb.KV/RangeStream", async |exchange| {
        exchange.send(request);
        exchange.finish();
        let chunks = exchange.rest::<RangeStreamResponse>().await;
        assert_eq!(exchange.status(), "0");
        chunks.into_iter().map(|chunk| chunk.range_response.expect("each message has its part of the answer")).collect()
    })
}

#[test]
fn a_streamed_range_grows_its_chunks_and_ends_with_the_numbers() {
    let served = Served::new();
    for number in 0..100 {
        served.put(&format!("key-{number:03}"), "value");
    }
    let whole: RangeResponse = served.ask("KV/Range", &all()).unwrap();
    let chunks = stream(&served, &all());
    assert_eq!(chunks.iter().map(|chunk| chunk.kvs.len()).collect::<Vec<_>>(), [10, 20, 40, 30]);
    let (last, others) = chunks.split_last().unwrap();
    assert!(others.iter().all(|chunk| chunk.header.is_none() && chunk.count == 0 && !chunk.more));
    assert_eq!((last.header, last.count, last.more), (whole.header, 100, false));
    assert_eq!(chunks.into_iter().flat_map(|chunk| chunk.kvs).collect::<Vec<_>>(), whole.kvs);
}

#[test]
fn a_streamed_range_keeps_to_its_limit_and_counts_beyond_it() {
    let served = Served::new();
    for number in 0..40 {
        served.put(&format!("key-{number:03}"), "value");
    }
    for (limit, sizes) in [(5, vec![5]), (10, vec![10]), (25, vec![10, 15]), (40, vec![10, 20, 10]), (-1, vec![10, 20, 10])] {
        let chunks = stream(&served, &RangeRequest { limit, ..all() });
        assert_eq!(chunks.iter().map(|chunk| chunk.kvs.len()).collect::<Vec<_>>(), sizes, "limit {limit}");
        let last = chunks.last().unwrap();
        assert_eq!((last.count, last.more), (40, (1..40).contains(&limit)), "limit {limit}");
    }
}

#[test]
fn a_streamed_range_of_nothing_or_a_count_is_one_message() {
    let served = Served::new();
    let empty = stream(&served, &all());
    assert_eq!((empty.len(), empty[0].header.unwrap().revision, empty[0].count), (1, 1, 0));
    served.put("a", "1");
    let count = stream(&served, &RangeRequest { count_only: true, ..all() });
    assert_eq!((count.len(), count[0].header.unwrap().revision, count[0].count, count[0].kvs.len()), (1, 2, 1, 0));
}

#[test]
fn chunks_of_long_rows_stay_short() {
    let served = Served::new();
    for number in 0..20 {
        served.put(&format!("a-{number:03}"), "short");
        served.put(&format!("b-{number:03}"), vec![b'v'; 600_000]);
    }
    let chunks = stream(&served, &all());
    assert_eq!(chunks.iter().map(|chunk| chunk.kvs.len()).sum::<usize>(), 40);
    assert!(chunks.iter().all(|chunk| chunk.encoded_len() < served.api.limits.max_request_bytes + 700_000));
}

#[test]
fn a_streamed_range_that_is_refused_says_why() {
    let served = Served::new();
    converse(&served, "etcdserverpb.KV/RangeStream", async |exchange| {
        exchange.send(&RangeRequest { sort_order: 2, ..all() });
        exchange.finish();
        assert_eq!(exchange.rest::<RangeStreamResponse>().await, []);
        assert_eq!(exchange.status(), "12");
        assert_eq!(exchange.status.as_ref().unwrap()["grpc-message"], "RangeStream does not support custom sort orders");
    });
}

#[test]
fn keep_alives_are_answered_in_order_and_unknown_leases_have_no_time() {
    let served = Served::new();
    for id in 1..=3 {
        let _: LeaseGrantResponse = served.ask("Lease/LeaseGrant", &LeaseGrantRequest { ttl: 100 * id, id }).unwrap();
    }
    // The first renewal of this one waits for the log; those behind it need not.
    smol::block_on(served.api.server.note_remaining(1, 50)).unwrap();
    converse(&served, "etcdserverpb.Lease/LeaseKeepAlive", async |exchange| {
        let ids: Vec<i64> = (0..200).map(|n| n % 5).collect();
        for id in &ids {
            exchange.send(&LeaseKeepAliveRequest { id: *id });
        }
        for id in ids {
            let answer: LeaseKeepAliveResponse = exchange.next().await.unwrap();
            let ttl = if (1..=3).contains(&id) { 100 * id } else { 0 };
            assert_eq!((answer.id, answer.ttl, answer.header.unwrap().revision), (id, ttl, 1));
        }
        // The stream goes on until the client ends it.
        exchange.send(&LeaseKeepAliveRequest { id: 2 });
        exchange.finish();
        assert_eq!(exchange.rest::<LeaseKeepAliveResponse>().await.len(), 1);
        assert_eq!(exchange.status(), "0");
    });
}

#[test]
fn a_health_watch_tells_the_status_and_stays() {
    let served = Served::new();
    for (service, expected) in [("", 1), ("etcdserverpb.KV", 3)] {
        converse(&served, "grpc.health.v1.Health/Watch", async |exchange| {
            exchange.send(&HealthCheckRequest { service: service.to_owned() });
            exchange.finish();
            assert_eq!(exchange.next::<HealthCheckResponse>().await.unwrap().status, expected);
            assert!(exchange.status.is_none());
        });
    }
}
