//! The same over HTTP/1.1.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::wire::dial;
use super::{Field, MIB, REQUESTS, Size, attacks, withstands};
use crate::support::Server;

attacks! {
    headers_without_end
    bodies_without_end
    bodies_that_are_begun_and_never_ended
    requests_one_behind_the_other
    answers_that_nobody_reads
}

/// A connection that speaks HTTP/1.1.
fn open(field: &Field<'_>, n: usize) -> Box<dyn Write> {
    let stream: TcpStream = dial(field.target.addr, n).unwrap();
    match &field.target.tls {
        None => Box::new(stream),
        Some(config) => {
            let mut config = (**config).clone();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let name = ServerName::try_from("127.0.0.1").unwrap();
            Box::new(StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream))
        }
    }
}

/// Sends the same bytes again and again, as long as the server takes them.
fn flood(to: &mut impl Write, bytes: &[u8], times: usize) {
    let at_once = (64 * 1024 / bytes.len()).clamp(1, times);
    let many = bytes.repeat(at_once);
    for _ in 0..times / at_once {
        if to.write_all(&many).is_err() {
            return;
        }
    }
}

const CHUNKED: &[u8] = b"POST /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";

fn headers_without_end(server: &Server, size: Size) {
    for (name, piece) in [("one huge header", &b"x"[..]), ("many headers", b"a: b\r\n"), ("many lines", b"\r\n")] {
        withstands(server, name, 4 * MIB, |field| {
            let mut connection = open(field, 0);
            let _ = connection.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: ");
            flood(&mut connection, piece, size.of(10 << 20, 100 << 20) / piece.len());
            connection
        });
    }
}

fn bodies_without_end(server: &Server, size: Size) {
    let large = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
    for (name, piece) in [
        ("large chunks", &large[..]),
        ("chunks of one byte", b"1\r\nx\r\n"),
        ("long extensions", b"1;extension=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\nx\r\n"),
    ] {
        withstands(server, name, 8 * MIB, |field| {
            let mut connection = open(field, 0);
            let _ = connection.write_all(CHUNKED);
            flood(&mut connection, piece, size.of(10 << 20, 100 << 20) / piece.len());
            connection
        });
    }
}

/// Each connection sends nearly as large a body as is taken.
fn bodies_that_are_begun_and_never_ended(server: &Server, size: Size) {
    let count = size.of(200, 1_000);
    withstands(server, "unfinished bodies", REQUESTS + count as u64 * 100 * 1024, |field| {
        let body = vec![b'x'; 1_900_000];
        let begun = |n| {
            let mut connection = open(field, n);
            let _ = connection.write_all(b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n");
            let _ = connection.write_all(&body);
            connection
        };
        (0..count).map(begun).collect::<Vec<_>>()
    });
}

fn requests_one_behind_the_other(server: &Server, size: Size) {
    withstands(server, "pipelined", 4 * MIB, |field| {
        let mut connection = open(field, 0);
        flood(&mut connection, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", size.of(100_000, 1_000_000));
        connection
    });
}

fn answers_that_nobody_reads(server: &Server, size: Size) {
    let count = size.of(200, 1_000);
    withstands(server, "unread metrics", count as u64 * 512 * 1024, |field| {
        let asked = |n| {
            let mut connection = open(field, n);
            flood(&mut connection, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200);
            connection
        };
        (0..count).map(asked).collect::<Vec<_>>()
    });
}
