//! What a client may do and may not, and what it gets for it.

use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::frame::{Head as FrameHead, flag, kind};
use super::hpack::Encoder;
use super::*;

const SETTINGS: Settings =
    Settings { max_concurrent_streams: 4, max_header_list_size: 4096, stream_window: 100_000, connection_window: 200_000 };

/// A connection, and the client's side of it.
struct Pair {
    server: Connection<Arc<()>>,
    encoder: Encoder,
}

type Outcome = Result<(), Broken>;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Pair {
    fn new() -> Pair {
        Pair { server: Connection::new(SETTINGS), encoder: Encoder::new() }
    }

    /// Both have said what has to be said first.
    fn begun() -> Pair {
        let mut pair = Pair::new();
        pair.server.receive(PREFACE).unwrap();
        pair.send(kind::SETTINGS, 0, 0, &[]).unwrap();
        assert!(pair.server.is_established());
        pair.heard();
        pair
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Outcome {
        self.server.receive(&frame(kind, flags, stream, payload))
    }

    fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        self.encoder.begin(&mut block);
        for (name, value) in fields {
            self.encoder.field(&mut block, name.as_bytes(), value.as_bytes(), true);
        }
        block
    }

    fn request(&mut self, stream: u32, flags: u8) -> Outcome {
        let block = self.block(&REQUEST);
        self.send(kind::HEADERS, flags | flag::END_HEADERS, stream, &block)
    }

    /// Begins a request whose body stays open, and takes it.
    fn open(&mut self, stream: u32) -> Id {
        self.request(stream, 0).unwrap();
        self.server.accept().expect("a request").id
    }

    /// All that the server has to say: kind, flags, stream, payload.
    fn heard(&mut self) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        while self.server.outgoing() > 0 {
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = self.server.slices(&mut slices);
            let count = slices[..filled].iter().map(|slice| bytes.extend_from_slice(slice)).count();
            assert_eq!(count, filled);
            let length = slices[..filled].iter().map(|slice| slice.len()).sum();
            self.server.sent(length);
        }
        let mut frames = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let FrameHead { length, kind, flags, stream } = FrameHead::read(rest);
            frames.push((kind, flags, stream, rest[frame::HEAD..][..length].to_vec()));
            rest = &rest[frame::HEAD + length..];
        }
        frames
    }

    /// The streams that were reset, and why.
    fn resets(&mut self) -> Vec<(u32, Reason)> {
        let heard = self.heard().into_iter().filter(|(kind, ..)| *kind == kind::RST_STREAM);
        heard.map(|(_, _, stream, payload)| (stream, Reason(frame::u32_at(&payload, 0)))).collect()
    }

    fn body(&mut self, id: Id) -> Poll<Option<Result<Bytes, Reason>>> {
        self.server.poll_body(id, &cx())
    }

    fn room(&mut self, id: Id, wanted: usize) -> Poll<Result<usize, Reason>> {
        self.server.poll_room(id, wanted, &cx())
    }
}

const REQUEST: [(&str, &str); 5] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", "/run/some.sock"), ("te", "trailers")];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&FrameHead { length: payload.len(), kind, flags, stream }.bytes()[..], payload].concat()
}

#[test]
fn requests_arrive_the_same_however_the_bytes_are_cut() {
    let mut client = Pair::new();
    let mut bytes = [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, &[])].concat();
    for stream in [1, 3, 5] {
        let block = client.block(&REQUEST);
        let (first, second) = block.split_at(block.len() / 2);
        bytes.extend(frame(kind::HEADERS, 0, stream, first));
        bytes.extend(frame(kind::CONTINUATION, flag::END_HEADERS, stream, second));
        bytes.extend(frame(kind::DATA, 0, stream, b"some"));
        bytes.extend(frame(kind::DATA, flag::PADDED, stream, b"\x03 more\0\0\0"));
        bytes.extend(frame(99, 0xff, stream, b"nobody knows this kind"));
        bytes.extend(frame(kind::DATA, flag::END_STREAM, stream, b"."));
    }
    for step in [1, 2, 9, 10, 100, usize::MAX] {
        let mut pair = Pair::new();
        for piece in bytes.chunks(step.min(bytes.len())) {
            pair.server.receive(piece).unwrap();
        }
        let mut heads = Vec::new();
        while let Some(Request { id, head }) = pair.server.accept() {
            assert_eq!(pair.body(id), Poll::Ready(Some(Ok(Bytes::from_static(b"some more.")))), "in steps of {step}");
            assert_eq!(pair.body(id), Poll::Ready(None));
            heads.push(head);
        }
        assert_eq!(heads.len(), 3);
        assert_eq!((&*heads[0].path, heads[0].authority.as_deref()), (&b"/a/b"[..], Some(&b"/run/some.sock"[..])));
        assert!(heads.iter().all(|head| *head == heads[0]));
        assert!(Arc::ptr_eq(&heads[1], &heads[2]), "a block that was seen before is not read again");
    }
}

#[test]
fn a_block_means_something_else_after_something_was_learned() {
    let mut pair = Pair::begun();
    for stream in [1, 3] {
        pair.open(stream);
    }
    let same = pair.block(&REQUEST);
    // One field more: what had the number 62 has 63 now.
    let block = pair.block(&[&REQUEST[..], &[("x", "y")]].concat());
    pair.send(kind::HEADERS, flag::END_HEADERS, 5, &block).unwrap();
    assert_eq!(pair.server.accept().unwrap().head.get("x"), Some(&b"y"[..]));
    let sent = pair.send(kind::HEADERS, flag::END_HEADERS, 7, &same);
    let head = pair.server.accept().map(|request| request.head);
    assert!(sent.is_ok() && head.is_none_or(|head| head.path != "/a/b" || head.get("x").is_some()), "the old numbers");
}

/// What a client sends (kind, flags, stream, payload), and what it is for a mistake.
type Mistake<'a> = (&'a str, u8, u8, u32, &'a [u8], Reason);

/// What breaks the connection, and what the client is told.
#[test]
fn mistakes_about_the_connection_end_it() {
    let long = vec![0; 16_385];
    let mistakes: [Mistake<'_>; 22] = [
        ("DATA of the connection", kind::DATA, 0, 0, b"x", Reason::PROTOCOL_ERROR),
        ("DATA of a stream that never was", kind::DATA, 0, 9, b"x", Reason::PROTOCOL_ERROR),
        ("more padding than frame", kind::DATA, flag::PADDED, 1, &[4, 0, 0], Reason::PROTOCOL_ERROR),
        ("a frame that is too long", kind::DATA, 0, 1, &long, Reason::FRAME_SIZE_ERROR),
        ("a stream of the server's", kind::HEADERS, flag::END_HEADERS, 2, &[0x82], Reason::PROTOCOL_ERROR),
        ("a block that cannot be read", kind::HEADERS, flag::END_HEADERS, 3, &[0xff; 9], Reason::COMPRESSION_ERROR),
        ("a stream on itself", kind::HEADERS, flag::PRIORITY, 3, &[0, 0, 0, 3, 0], Reason::PROTOCOL_ERROR),
        ("a priority cut off", kind::HEADERS, flag::PRIORITY, 3, &[0, 0], Reason::FRAME_SIZE_ERROR),
        ("CONTINUATION of nothing", kind::CONTINUATION, 0, 1, &[], Reason::PROTOCOL_ERROR),
        ("RST_STREAM of a stream that never was", kind::RST_STREAM, 0, 9, &[0; 4], Reason::PROTOCOL_ERROR),
        ("a short RST_STREAM", kind::RST_STREAM, 0, 1, &[0; 3], Reason::FRAME_SIZE_ERROR),
        ("SETTINGS of a stream", kind::SETTINGS, 0, 1, &[], Reason::PROTOCOL_ERROR),
        ("SETTINGS cut off", kind::SETTINGS, 0, 0, &[0; 5], Reason::FRAME_SIZE_ERROR),
        ("an ACK that sets", kind::SETTINGS, flag::ACK, 0, &[0; 6], Reason::FRAME_SIZE_ERROR),
        ("a push, or two", kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2], Reason::PROTOCOL_ERROR),
        ("a window too wide", kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0], Reason::FLOW_CONTROL_ERROR),
        ("frames too short", kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff], Reason::PROTOCOL_ERROR),
        ("a push", kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2], Reason::PROTOCOL_ERROR),
        ("a short PING", kind::PING, 0, 0, &[0; 7], Reason::FRAME_SIZE_ERROR),
        ("PING of a stream", kind::PING, 0, 1, &[0; 8], Reason::PROTOCOL_ERROR),
        ("a window of nothing", kind::WINDOW_UPDATE, 0, 0, &[0; 4], Reason::PROTOCOL_ERROR),
        ("a window beyond all", kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff], Reason::FLOW_CONTROL_ERROR),
    ];
    for (what, kind, flags, stream, payload, reason) in mistakes {
        let mut pair = Pair::begun();
        let id = pair.open(1);
        let broken = pair.send(kind, flags, stream, payload).expect_err(what);
        assert_eq!(broken.reason, reason, "{what}: {broken}");
        let (kind, _, _, payload) = pair.heard().pop().unwrap();
        assert_eq!((kind, frame::u32_at(&payload, 4)), (kind::GOAWAY, reason.0), "{what}");
        assert!(matches!(pair.body(id), Poll::Ready(Some(Err(_)))), "{what}: whoever waits learns of it");
    }
}

#[test]
fn a_client_begins_with_its_preface_and_its_settings() {
    let mut pair = Pair::new();
    assert_eq!(pair.server.receive(b"PRI * HTTP/2.0\r\n\r\nXX").unwrap_err().reason, Reason::PROTOCOL_ERROR);
    let mut pair = Pair::new();
    pair.server.receive(PREFACE).unwrap();
    assert_eq!(pair.send(kind::PING, 0, 0, &[0; 8]).unwrap_err().reason, Reason::PROTOCOL_ERROR);
    let mut pair = Pair::new();
    pair.server.receive(PREFACE).unwrap();
    assert_eq!(pair.send(kind::SETTINGS, flag::ACK, 0, &[]).unwrap_err().reason, Reason::PROTOCOL_ERROR);
}

#[test]
fn a_request_that_makes_no_sense_is_reset_and_the_rest_goes_on() {
    let with = |more: &[(&'static str, &'static str)]| [&REQUEST[..], more].concat();
    let blocks = [
        with(&[("Upper", "case")]),
        with(&[("connection", "close")]),
        with(&[("te", "gzip")]),
        with(&[(":path", "/again")]),
        with(&[("x", "a\nb")]),
        with(&[("content-length", "-1")]),
        with(&[("", "nameless")]),
        REQUEST[1..].to_vec(),
        [&[("x", "y")][..], &REQUEST].concat(),
        with(&[(":status", "200")]),
    ];
    let mut pair = Pair::begun();
    for (at, fields) in blocks.into_iter().enumerate() {
        let stream = 2 * at as u32 + 1;
        let block = pair.block(&fields);
        pair.send(kind::HEADERS, flag::END_HEADERS, stream, &block).unwrap();
        assert_eq!(pair.resets(), [(stream, Reason::PROTOCOL_ERROR)], "{fields:?}");
        assert!(pair.server.accept().is_none());
    }
    assert_eq!(pair.server.streams(), 0);
    pair.open(101);
}

#[test]
fn mistakes_about_a_stream_reset_it() {
    let length = [&REQUEST[..], &[("content-length", "3")]].concat();
    let mistakes: [(&str, u8, u8, &[u8], Reason); 6] = [
        ("less than announced", kind::DATA, flag::END_STREAM, b"ab", Reason::PROTOCOL_ERROR),
        ("more than announced", kind::DATA, 0, b"abcd", Reason::PROTOCOL_ERROR),
        ("a window of nothing", kind::WINDOW_UPDATE, 0, &[0; 4], Reason::PROTOCOL_ERROR),
        ("a window beyond all", kind::WINDOW_UPDATE, 0, &[0x7f, 0xff, 0xff, 0xff], Reason::FLOW_CONTROL_ERROR),
        ("trailers that do not end it", kind::HEADERS, flag::END_HEADERS, &[0x82], Reason::PROTOCOL_ERROR),
        ("a priority cut off", kind::PRIORITY, 0, &[0; 4], Reason::FRAME_SIZE_ERROR),
    ];
    for (what, kind, flags, payload, reason) in mistakes {
        let mut pair = Pair::begun();
        let block = pair.block(&length);
        pair.send(kind::HEADERS, flag::END_HEADERS, 1, &block).unwrap();
        let id = pair.server.accept().unwrap().id;
        pair.send(kind, flags, 1, payload).unwrap();
        assert_eq!(pair.resets(), [(1, reason)], "{what}");
        assert_eq!(pair.body(id), Poll::Ready(Some(Err(reason))), "{what}");
        pair.send(kind::DATA, 0, 1, b"on its way").unwrap();
        pair.server.release(id);
        pair.server.release(id);
        assert_eq!((pair.server.streams(), pair.heard().len()), (0, 0), "{what}");
    }
    let mut pair = Pair::begun();
    pair.request(1, flag::END_STREAM).unwrap();
    pair.send(kind::DATA, 0, 1, b"after the end").unwrap();
    assert_eq!(pair.resets(), [(1, Reason::STREAM_CLOSED)]);
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let mut pair = Pair::begun();
    let open: Vec<Id> = [1, 3, 5, 7].map(|stream| pair.open(stream)).into();
    pair.request(9, 0).unwrap();
    assert_eq!(pair.resets(), [(9, Reason::REFUSED_STREAM)]);
    pair.send(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8]).unwrap();
    assert_eq!(pair.server.poll_reset(open[1], &cx()), Poll::Ready(Reason::CANCEL));
    pair.open(11);
}

#[test]
fn a_head_that_is_too_large_is_answered_and_no_call() {
    let mut pair = Pair::begun();
    let large = "x".repeat(5000);
    let block = pair.block(&[&REQUEST[..], &[("large", &large)]].concat());
    pair.send(kind::HEADERS, flag::END_HEADERS, 1, &block).unwrap();
    assert!(pair.server.accept().is_none());
    let heard = pair.heard();
    assert_eq!((heard[0].0, heard[0].1), (kind::HEADERS, flag::END_STREAM | flag::END_HEADERS));
    assert_eq!((heard[1].0, pair.server.streams()), (kind::RST_STREAM, 0));
    // And one that does not end is no longer listened to.
    let mut pair = Pair::begun();
    pair.send(kind::HEADERS, 0, 1, &[0; 4000]).unwrap();
    assert_eq!(pair.send(kind::CONTINUATION, 0, 1, &[0; 4000]).unwrap_err().reason, Reason::ENHANCE_YOUR_CALM);
    let mut pair = Pair::begun();
    pair.send(kind::HEADERS, 0, 1, &[]).unwrap();
    let end = (0..10_000).find_map(|_| pair.send(kind::CONTINUATION, 0, 1, &[]).err());
    assert_eq!(end.map(|broken| broken.reason), Some(Reason::ENHANCE_YOUR_CALM));
}

#[test]
fn a_client_may_send_as_much_as_was_taken_and_no_more() {
    let mut pair = Pair::begun();
    let id = pair.open(1);
    let piece = [7; 10_000];
    for _ in 0..10 {
        pair.send(kind::DATA, 0, 1, &piece).unwrap();
    }
    assert_eq!(pair.heard(), [], "nobody has taken anything");
    let Poll::Ready(Some(Ok(body))) = pair.body(id) else { panic!("the body is here") };
    assert_eq!(body.len(), 100_000);
    let updates: Vec<(u32, u32)> = pair.heard().iter().map(|(_, _, stream, more)| (*stream, frame::u32_at(more, 0))).collect();
    assert_eq!(updates, [(1, 100_000), (0, 100_000)]);
    for _ in 0..10 {
        pair.send(kind::DATA, 0, 1, &piece).unwrap();
    }
    pair.send(kind::DATA, 0, 1, b"x").unwrap();
    assert_eq!(pair.resets(), [(1, Reason::FLOW_CONTROL_ERROR)]);
    // What a stream had left unread is given back to the others.
    let others = [3, 5].map(|stream| pair.open(stream));
    for stream in [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 5, 5] {
        pair.send(kind::DATA, 0, stream, &piece).unwrap();
    }
    assert!(matches!(pair.body(others[0]), Poll::Ready(Some(Ok(_)))));
    // Two streams may be within their windows, and together beyond the connection's.
    let mut pair = Pair::begun();
    for stream in [1, 3, 5] {
        pair.open(stream);
    }
    let end = [1, 3, 5].into_iter().cycle().take(30).find_map(|stream| pair.send(kind::DATA, 0, stream, &piece).err());
    assert_eq!(end.map(|broken| broken.reason), Some(Reason::FLOW_CONTROL_ERROR));
}

#[test]
fn nothing_is_sent_that_the_client_has_no_window_for() {
    let mut pair = Pair::begun();
    // Windows: 65,535 for all together, 100 for each.
    pair.send(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 100]).unwrap();
    let id = pair.open(1);
    let held = Arc::new(());
    assert_eq!(pair.room(id, 1000), Poll::Ready(Ok(100)));
    pair.server.send_data(id, b"12345", vec![0; 95].into(), Some(held.clone()), false);
    assert_eq!(pair.room(id, 1), Poll::Pending);
    assert_eq!(Arc::strong_count(&held), 2, "held until it has left");
    let heard = pair.heard();
    assert_eq!((heard.len(), heard[1].3.len(), Arc::strong_count(&held)), (2, 100, 1));
    pair.send(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 7]).unwrap();
    assert_eq!(pair.room(id, 1000), Poll::Ready(Ok(7)));
    // A smaller window may leave less than nothing, and is filled up first.
    pair.send(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).unwrap();
    pair.send(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 93]).unwrap();
    assert_eq!(pair.room(id, 1000), Poll::Pending);
    pair.send(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).unwrap();
    assert_eq!(pair.room(id, 100_000), Poll::Ready(Ok(65_435)), "now the connection's is the smaller one");
}

#[test]
fn whoever_waits_for_the_connections_window_has_his_turn() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let mut pair = Pair::begun();
    let ids = [1, 3, 5, 7].map(|stream| pair.open(stream));
    assert_eq!(pair.room(ids[0], 70_000), Poll::Ready(Ok(65_535)));
    pair.server.send_data(ids[0], &[], vec![0; 65_535].into(), None, false);
    let woken: Vec<Arc<Count>> = ids[1..].iter().map(|_| Arc::default()).collect();
    let ask = |pair: &mut Pair, at: usize| {
        let waker = Waker::from(woken[at - 1].clone());
        pair.server.poll_room(ids[at], 10, &Context::from_waker(&waker))
    };
    for at in 1..4 {
        assert_eq!(ask(&mut pair, at), Poll::Pending);
    }
    let counts = || woken.iter().map(|count| count.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
    pair.send(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 15]).unwrap();
    assert_eq!(counts(), [1, 0, 0], "one at a time");
    assert_eq!(ask(&mut pair, 1), Poll::Ready(Ok(10)));
    pair.server.send_data(ids[1], &[], vec![0; 10].into(), None, false);
    assert_eq!(counts(), [1, 1, 0], "the next, for what is left");
    // One that ends instead passes its turn on.
    pair.send(kind::RST_STREAM, 0, 5, &[0; 4]).unwrap();
    assert_eq!(counts()[2], 1);
    assert_eq!(ask(&mut pair, 3), Poll::Ready(Ok(5)));
}

#[test]
fn a_stream_is_gone_when_both_sides_have_ended_it_and_nobody_holds_it() {
    // The client has ended, and is answered.
    let mut pair = Pair::begun();
    pair.request(1, flag::END_STREAM).unwrap();
    let id = pair.server.accept().unwrap().id;
    pair.server.send_head(id, 200, [], false);
    pair.server.send_trailers(id, [(&b"grpc-status"[..], &b"0"[..], true)]);
    pair.server.release(id);
    assert_eq!(pair.server.streams(), 1);
    pair.server.release(id);
    assert_eq!(pair.server.streams(), 0);
    assert!(pair.heard().iter().all(|(kind, ..)| *kind == kind::HEADERS));
    // The client has not ended: it need not go on. And one that is not answered is told so.
    for (answered, reason) in [(true, Reason::NO_ERROR), (false, Reason::CANCEL)] {
        let mut pair = Pair::begun();
        let id = pair.open(1);
        if answered {
            pair.server.send_head(id, 200, [], true);
        }
        pair.server.release(id);
        pair.server.release(id);
        assert_eq!((pair.resets(), pair.server.streams()), (vec![(1, reason)], 0));
    }
    // A request that is taken back before it was looked at is none.
    let mut pair = Pair::begun();
    pair.request(1, 0).unwrap();
    pair.send(kind::RST_STREAM, 0, 1, &[0; 4]).unwrap();
    assert!(pair.server.accept().is_none());
    assert_eq!(pair.server.streams(), 0);
}

#[test]
fn a_client_that_is_asked_to_leave_gets_its_answers_first() {
    let mut pair = Pair::begun();
    let first = pair.open(1);
    pair.server.leave();
    let heard = pair.heard();
    assert_eq!((heard[0].0, frame::u32_at(&heard[0].3, 0)), (kind::GOAWAY, u32::MAX >> 1));
    let second = pair.open(3);
    pair.send(kind::PING, flag::ACK, 0, &heard[1].3).unwrap();
    assert_eq!(frame::u32_at(&pair.heard()[0].3, 0), 3, "this one was on its way");
    pair.request(5, 0).unwrap();
    assert!(pair.server.accept().is_none() && !pair.server.is_over());
    for id in [first, second] {
        pair.server.send_head(id, 200, [], true);
        pair.server.release(id);
        pair.server.release(id);
    }
    assert!(pair.server.is_over());
}

#[test]
fn pings_are_answered_and_counted() {
    let mut pair = Pair::begun();
    pair.send(kind::PING, 0, 0, b"12345678").unwrap();
    pair.send(kind::PING, flag::ACK, 0, b"an answer"[..8].try_into().unwrap()).unwrap();
    assert_eq!(pair.heard(), [(kind::PING, flag::ACK, 0, b"12345678".to_vec())]);
    assert_eq!(pair.server.take_signs().pings, 1);
}

#[test]
fn mistakes_and_empty_frames_are_borne_for_a_while() {
    let mut pair = Pair::begun();
    pair.open(1);
    let end = (0..1000).find_map(|_| pair.send(kind::DATA, 0, 1, &[]).err());
    assert_eq!(end.map(|broken| broken.reason), Some(Reason::ENHANCE_YOUR_CALM));
    let mut pair = Pair::begun();
    let end = (0..5000).find_map(|at| pair.send(kind::HEADERS, flag::END_HEADERS, 2 * at + 1, &[0x82]).err());
    assert_eq!(end.map(|broken| broken.reason), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(pair.server.streams(), 0);
}

#[test]
fn a_long_block_of_ours_goes_out_in_pieces() {
    let mut pair = Pair::begun();
    pair.request(1, flag::END_STREAM).unwrap();
    let id = pair.server.accept().unwrap().id;
    let message = vec![b'm'; 40_000];
    pair.server.send_head(id, 200, [(&b"grpc-message"[..], &message[..], false)], true);
    let heard: Vec<(u8, u8, usize)> = pair.heard().iter().map(|(kind, flags, _, block)| (*kind, *flags, block.len())).collect();
    assert_eq!(heard[0], (kind::HEADERS, flag::END_STREAM, 16_384));
    assert_eq!(heard[1], (kind::CONTINUATION, 0, 16_384));
    assert_eq!((heard[2].0, heard[2].1, heard.len()), (kind::CONTINUATION, flag::END_HEADERS, 3));
}
