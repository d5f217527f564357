//! Connections as such: thousands that do nothing, that begin and never finish, or that are gone again at once.

use std::io::{Read, Write};
use std::net::TcpStream;

use bramble::pb::etcdserverpb::RangeRequest;
use prost::Message;

use super::wire::{self, END_HEADERS, END_STREAM, Sent, Wire, dial, slam};
use super::{Field, MIB, Size, attacks, withstands};
use crate::support::Server;
use crate::support::grpc;
use crate::support::random::Random;
use crate::support::requests::{Unary, key};

attacks! {
    connections_that_say_nothing
    connections_that_say_hello_and_nothing_more
    connections_that_stop_within_their_first_words
    connections_that_speak_nonsense
    connections_that_are_reset_at_once
    calls_that_come_a_byte_at_a_time
}

/// What a connection may cost that does nothing, in bytes.
const IDLE: u64 = 12 * 1024;
/// What one may cost whose TLS session stands, or whose HTTP/2 does.
const GREETED: u64 = 48 * 1024;

fn crowd(size: Size) -> usize {
    size.of(500, 10_000)
}

fn connections_that_say_nothing(server: &Server, size: Size) {
    let count = crowd(size);
    withstands(server, "idle from the start", count as u64 * IDLE, |field| {
        (0..count).map(|n| dial(field.target.addr, n).unwrap()).collect::<Vec<_>>()
    });
}

fn connections_that_say_hello_and_nothing_more(server: &Server, size: Size) {
    let count = crowd(size);
    withstands(server, "idle after the preface", count as u64 * GREETED, |field| {
        let greeted = |n| {
            let mut wire = Wire::open(&field.target, n).unwrap();
            assert_eq!(wire.send(&wire::greeting(wire::WIDE)), Sent::All);
            wire
        };
        (0..count).map(greeted).collect::<Vec<_>>()
    });
}

/// The first bytes of a TLS handshake, and of HTTP/2 without TLS.
fn first_words(field: &Field<'_>) -> Vec<u8> {
    match &field.target.tls {
        None => wire::PREFACE[..12].to_vec(),
        Some(config) => {
            let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
            let mut session = rustls::ClientConnection::new(config.clone(), name).unwrap();
            let mut hello = Vec::new();
            session.write_tls(&mut hello).unwrap();
            hello.truncate(hello.len() / 2);
            hello
        }
    }
}

fn connections_that_stop_within_their_first_words(server: &Server, size: Size) {
    let count = crowd(size);
    withstands(server, "idle within a handshake", count as u64 * GREETED, |field| {
        let words = first_words(field);
        let begun = |n| {
            let mut stream = dial(field.target.addr, n).unwrap();
            stream.write_all(&words).unwrap();
            stream
        };
        (0..count).map(begun).collect::<Vec<_>>()
    });
}

fn connections_that_speak_nonsense(server: &Server, size: Size) {
    let count = crowd(size);
    withstands(server, "nonsense", 8 * MIB, |field| {
        let mut random = Random::from_seed(7);
        for n in 0..count {
            let mut stream = dial(field.target.addr, n).unwrap();
            let mut nonsense: Vec<u8> = (0..128).flat_map(|_| random.next().to_le_bytes()).collect();
            if n % 2 == 0 {
                // A TLS record with a handshake, as far as its head tells.
                nonsense[..5].copy_from_slice(&[22, 3, 1, 3, 0xfb]);
            }
            // The server may hang up before all is said.
            let _ = stream.write_all(&nonsense);
        }
    });
}

fn connections_that_are_reset_at_once(server: &Server, size: Size) {
    let count = size.of(2_000, 50_000);
    withstands(server, "connect and reset", 8 * MIB, |field| {
        for n in 0..count {
            let mut stream = dial(field.target.addr, n).unwrap();
            if n % 3 == 0 {
                let _ = stream.write_all(&first_words(field));
            }
            slam(&stream);
        }
    });
}

/// Each byte of a call in a packet of its own, over many connections in turn; all of them are answered in the end.
fn calls_that_come_a_byte_at_a_time(server: &Server, size: Size) {
    let count = size.of(50, 500);
    withstands(server, "slowloris", count as u64 * GREETED, |field| {
        let message = grpc::frame(false, &RangeRequest { limit: 1, ..key("slow") }.encode_to_vec());
        let mut call = wire::greeting(wire::WIDE);
        call.extend(wire::frame(wire::HEADERS, END_HEADERS, 1, &wire::call(RangeRequest::PATH)));
        call.extend(wire::frame(wire::DATA, END_STREAM, 1, &message));
        let mut slow: Vec<Wire> = (0..count).map(|n| Wire::open(&field.target, n).unwrap()).collect();
        for byte in &call {
            for wire in &mut slow {
                assert_eq!(wire.send(&[*byte]), Sent::All);
            }
        }
        for wire in &mut slow {
            wire.frame_of(wire::DATA).expect("a slow call is answered too");
        }
        let mut slow_http: Vec<TcpStream> = Vec::new();
        if field.target.tls.is_none() {
            slow_http.extend((0..count).map(|n| dial(field.target.addr, n).unwrap()));
            for byte in b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n" {
                for stream in &mut slow_http {
                    stream.write_all(&[*byte]).unwrap();
                }
            }
            for stream in &mut slow_http {
                let mut answer = [0; 15];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"HTTP/1.1 200 OK");
            }
        }
        (slow, slow_http)
    });
}
