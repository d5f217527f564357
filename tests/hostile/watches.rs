//! Watches: more than anybody needs, and such as nobody reads.

use super::wire::{self, DATA, END_HEADERS, HEADERS, Sent, Wire, frame};
use super::{Field, MIB, Size, attacks, withstands};
use crate::support::Server;
use crate::support::grpc;
use crate::support::requests::{KEEP_ALIVE, WATCH, Watch, bytes, put, watch, watch_prefix};
use bramble::pb::etcdserverpb::watch_request::RequestUnion;
use bramble::pb::etcdserverpb::{LeaseKeepAliveRequest, WatchCreateRequest, WatchRequest};
use prost::Message;

attacks! {
    watches_without_number
    watches_of_keys_without_end
    watches_whose_answers_are_not_read
    watches_that_never_read_while_others_write
    keepalives_whose_answers_are_not_read
}

/// What watches may cost the process.
const WATCHES: u64 = 256 * MIB;

/// And what a connection may, of frames that came and were not read: the windows count their bytes only.
const SHORT_FRAMES: u64 = 4 * MIB;

/// The message that asks for a watch, framed.
pub fn create(request: WatchCreateRequest) -> Vec<u8> {
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
    grpc::frame(false, &request.encode_to_vec()).to_vec()
}

/// Opens a stream on a connection.
fn open(wire: &mut Wire, path: &str) -> u32 {
    let stream = wire.stream();
    assert_eq!(wire.send(&frame(HEADERS, END_HEADERS, stream, &wire::call(path))), Sent::All);
    stream
}

/// A client that asks for watches and reads the answers, so that nothing holds it up.
fn watching(field: &Field<'_>, request: &WatchCreateRequest, count: usize) -> (grpc::Client, Watch) {
    let client = grpc::Client::connect(&field.target).unwrap();
    let mut watch = Watch::open(&client);
    let mut refused = 0;
    for _ in 0..count.div_ceil(1_000) {
        for _ in 0..1_000 {
            watch.ask(request.clone());
        }
        for _ in 0..1_000 {
            refused += usize::from(watch.recv().canceled);
        }
    }
    println!("  {refused} of {count} watches refused");
    (client, watch)
}

fn watches_without_number(server: &Server, size: Size) {
    withstands(server, "watches without number", WATCHES, |field| watching(field, &watch("nobody"), size.of(50_000, 2_000_000)));
}

/// Long keys: what a watch holds counts with them.
fn watches_of_keys_without_end(server: &Server, size: Size) {
    withstands(server, "watches of long keys", WATCHES, |field| {
        watching(field, &watch(vec![b'x'; size.of(100_000, 1_000_000)]), size.of(5_000, 10_000))
    });
}

fn watches_whose_answers_are_not_read(server: &Server, size: Size) {
    withstands(server, "unread answers of watches", 64 * MIB, |field| {
        let unread = |n| {
            let mut wire = Wire::open(&field.target, n).unwrap();
            wire.send(&wire::greeting(0));
            let stream = open(&mut wire, WATCH);
            let request = frame(DATA, 0, stream, &create(watch("bystander")));
            // As many as the connection's first window holds.
            wire.flood(&request, (1 << 20) / (request.len() - 9) - 1);
            wire
        };
        (0..size.of(2, 20)).map(unread).collect::<Vec<_>>()
    });
}

/// Streams whose windows stay closed, while somebody writes as much as he can.
fn watches_that_never_read_while_others_write(server: &Server, size: Size) {
    withstands(server, "watches that never read", WATCHES, |field| {
        let mut wire = Wire::open(&field.target, 0).unwrap();
        wire.send(&wire::greeting(0));
        for _ in 0..size.of(200, 2_000) {
            let stream = open(&mut wire, WATCH);
            let request = WatchCreateRequest { prev_kv: true, ..watch_prefix("written/") };
            assert_eq!(wire.send(&frame(DATA, 0, stream, &create(request))), Sent::All);
        }
        let client = field.server.client();
        for round in 0..size.of(2, 20) {
            // A stream at a time, so that each stalls with events of its own.
            let stream = open(&mut wire, WATCH);
            wire.send(&frame(DATA, 0, stream, &create(watch_prefix("written/"))));
            let writes: Vec<_> = (0..50).map(|n| put(format!("written/{round}/{n}"), vec![b'x'; 100_000])).collect();
            for answer in client.call_all(&writes, 16) {
                answer.unwrap();
            }
        }
        wire
    });
}

fn keepalives_whose_answers_are_not_read(server: &Server, size: Size) {
    let count = size.of(2, 20);
    withstands(server, "unread keepalives", 64 * MIB + count as u64 * SHORT_FRAMES, |field| {
        let message = grpc::frame(false, &LeaseKeepAliveRequest { id: 7 }.encode_to_vec());
        let unread = |n| {
            let mut wire = Wire::open(&field.target, n).unwrap();
            wire.send(&wire::greeting(0));
            for _ in 0..size.of(10, 100) {
                let stream = open(&mut wire, KEEP_ALIVE);
                let request = frame(DATA, 0, stream, &bytes(&message));
                if wire.flood(&request, 1_000) != Sent::All {
                    break;
                }
            }
            wire
        };
        (0..count).map(unread).collect::<Vec<_>>()
    });
}
