//! HTTP/1.1, as curl and kubelet's probes speak it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::server::{Server, Target};
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
    ask(&Target { addr: server.addr(), tls: server.tls(&["http/1.1"]) }, &text)
}

/// `GET` of a path at any address.
#[track_caller]
pub fn get_at(target: &Target, path: &str) -> Reply {
    ask(target, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.addr))
}

#[track_caller]
fn ask(target: &Target, text: &str) -> Reply {
    let socket = TcpStream::connect(target.addr).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    match &target.tls {
        None => parse(&exchange(socket, text)),
        Some(config) => parse(&exchange(secure(socket, config), text)),
    }
}

fn secure<S: Read + Write>(socket: S, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, S> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), socket)
}

/// `GET` of a path over TLS at a unix socket.
#[track_caller]
pub fn get_at_socket(path_of_socket: &Path, config: &Arc<ClientConfig>, path: &str) -> Reply {
    let socket = UnixStream::connect(path_of_socket).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    parse(&exchange(secure(socket, config), &text))
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
