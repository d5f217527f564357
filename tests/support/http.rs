//! HTTP/1.1, as curl and kubelet's probes speak it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::server::Server;
use super::wait::DEADLINE;

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body, chunks joined.
    pub body: String,
}

/// `GET` of a path (with its query) on the client port.
#[track_caller]
pub fn get(server: &Server, path: &str) -> Reply {
    request(server, "GET", path, &[])
}

/// Any method, with header fields.
#[track_caller]
pub fn request(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", server.addr());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let socket = TcpStream::connect(server.addr()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let answer = match server.tls(&["http/1.1"]) {
        None => exchange(socket, &text),
        Some(config) => {
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let session = ClientConnection::new(Arc::clone(&config), name).unwrap();
            exchange(StreamOwned::new(session, socket), &text)
        }
    };
    parse(&answer)
}

/// `GET` of a plain port of 127.0.0.1.
#[track_caller]
pub fn get_plain(port: u16, path: &str) -> Reply {
    get_of_host(port, path, &format!("127.0.0.1:{port}"))
}

/// The same, with another `Host`.
#[track_caller]
pub fn get_of_host(port: u16, path: &str, host: &str) -> Reply {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    parse(&exchange(socket, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")))
}

fn exchange(mut stream: impl Read + Write, text: &str) -> Vec<u8> {
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        // Servers may close without TLS's goodbye.
        assert!(!answer.is_empty(), "no HTTP answer: {error}");
    }
    answer
}

fn parse(answer: &[u8]) -> Reply {
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an HTTP head");
    let head = std::str::from_utf8(&answer[..split]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = &answer[split + 4..];
    let mut joined = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        loop {
            let end = body.windows(2).position(|two| two == b"\r\n").expect("a chunk size");
            let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
            if size == 0 {
                break;
            }
            joined.extend_from_slice(&body[end + 2..end + 2 + size]);
            body = &body[end + 4 + size..];
        }
    } else {
        joined.extend_from_slice(body);
    }
    Reply { status, headers, body: String::from_utf8_lossy(&joined).into_owned() }
}
