//! A connection whose every byte is ours: HTTP/2 frames that no library would send, or nothing where a library would answer.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::support::server::Target;
use crate::support::wait::DEADLINE;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Frame types of RFC 9113 §6.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// Flags.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A server that takes nothing for so long holds us up: an attack has done what it could.
const HELD_UP: Duration = Duration::from_secs(2);
/// The largest window there is.
pub const WIDE: u32 = 0x7fff_ffff;

/// What became of bytes that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The server has taken them.
    All,
    /// It takes no more for now.
    HeldUp,
    /// It has ended the connection.
    Ended,
}

/// One frame.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// The connection.
pub struct Wire {
    io: Io,
    /// The next stream to be opened.
    pub next: u32,
}

/// A TCP connection that comes from a loopback address chosen by `n`: each has ports of its own.
pub fn dial(to: SocketAddr, n: usize) -> io::Result<TcpStream> {
    dial_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + (n % 16) as u8)), to)
}

/// A TCP connection that comes from this address.
pub fn dial_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let fd: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&fd, &SocketAddr::new(from, 0))?;
    connect(&fd, &to)?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(HELD_UP))?;
    Ok(stream)
}

/// Closes a connection with RST, not FIN.
pub fn slam(stream: &TcpStream) {
    sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

impl Wire {
    /// Connects, with TLS if the server wants it; the handshake is done.
    pub fn open(target: &Target, n: usize) -> io::Result<Wire> {
        Wire::over(target, dial(target.addr, n)?)
    }

    /// The same on a TCP connection that stands.
    pub fn over(target: &Target, stream: TcpStream) -> io::Result<Wire> {
        let io = match &target.tls {
            None => Io::Plain(stream),
            Some(config) => {
                let name = ServerName::try_from("127.0.0.1").unwrap();
                let session = ClientConnection::new(config.clone(), name).unwrap();
                let mut tls = StreamOwned::new(session, stream);
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock)?;
                }
                Io::Tls(Box::new(tls))
            }
        };
        Ok(Wire { io, next: 1 })
    }

    /// Connects and greets, with windows as wide as they get: a flood of replies meets no other limit than the server's own.
    pub fn greeted(target: &Target) -> Wire {
        let mut wire = Wire::open(target, 0).expect("the server accepts a connection");
        assert_eq!(wire.send(&greeting(WIDE)), Sent::All);
        wire
    }

    /// Sends.
    pub fn send(&mut self, bytes: &[u8]) -> Sent {
        let result = match &mut self.io {
            Io::Plain(stream) => stream.write_all(bytes),
            Io::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
        match result {
            Ok(()) => Sent::All,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Sent::HeldUp,
            Err(_) => Sent::Ended,
        }
    }

    /// Says that nothing more will be sent, to TCP alone, and goes on listening.
    pub fn close_half(&self) {
        let stream = match &self.io {
            Io::Plain(stream) => stream,
            Io::Tls(tls) => &tls.sock,
        };
        // The server may have hung up before.
        let _ = stream.shutdown(Shutdown::Write);
    }

    /// Sends the same bytes so many times, and stops early if the server does not take them.
    pub fn flood(&mut self, bytes: &[u8], times: usize) -> Sent {
        let at_once = (64 * 1024 / bytes.len()).clamp(1, times.max(1));
        let many = bytes.repeat(at_once);
        for _ in 0..times.div_ceil(at_once) {
            match self.send(&many) {
                Sent::All => {}
                other => return other,
            }
        }
        Sent::All
    }

    /// Sends what `make` says of each turn, and stops early if the server does not take it.
    pub fn flood_with(&mut self, turns: usize, mut make: impl FnMut(&mut Wire, &mut Vec<u8>)) -> Sent {
        let mut bytes = Vec::new();
        for turn in 0..turns {
            make(self, &mut bytes);
            if bytes.len() < 64 * 1024 && turn + 1 < turns {
                continue;
            }
            match self.send(&bytes) {
                Sent::All => bytes.clear(),
                other => return other,
            }
        }
        Sent::All
    }

    /// A new stream's number.
    pub fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// The next frame.
    pub fn frame(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & WIDE;
        Ok(Frame { kind: head[3], stream, payload })
    }

    /// Reads until a frame of this kind comes; none: the connection ended before.
    pub fn frame_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.frame() {
                Ok(frame) if frame.kind == kind => return Some(frame),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("no frame of kind {kind} in {DEADLINE:?}")
                }
                Err(_) => return None,
            }
        }
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match &mut self.io {
            Io::Plain(stream) => stream.read_exact(bytes),
            Io::Tls(stream) => stream.read_exact(bytes),
        }
    }
}

/// Preface, settings, and a connection window of the largest size; `window` is that of each stream.
pub fn greeting(window: u32) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    let mut settings = vec![0, 4];
    settings.extend(window.to_be_bytes());
    bytes.extend(frame(SETTINGS, 0, 0, &settings));
    bytes.extend(frame(WINDOW_UPDATE, 0, 0, &(WIDE - 65_535).to_be_bytes()));
    bytes
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An integer with so many bits in its first byte (RFC 7541 §5.1).
pub fn integer(first: u8, bits: u32, number: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if number < most {
        return vec![first | number as u8];
    }
    let mut bytes = vec![first | most as u8];
    let mut rest = number - most;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// A literal header field (RFC 7541 §6.2); `first` is 0x40 to have it put into the table, else 0.
pub fn field(first: u8, name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(integer(0, 7, name.len()));
    bytes.extend(name.as_bytes());
    bytes.extend(integer(0, 7, value.len()));
    bytes.extend(value);
    bytes
}

const FIELDS: usize = 4;

/// The header block of a call, its fields put into the table: [`again`] names them in a few bytes.
pub fn call(path: &str) -> Vec<u8> {
    // POST and http are in the static table.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(":authority", "server"), (":path", path), ("content-type", "application/grpc"), ("te", "trailers")] {
        block.extend(field(0x40, name, value.as_bytes()));
    }
    block
}

/// The block of [`call`] once more, right after it.
pub fn again() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend((0..FIELDS).map(|n| 0x80 | (62 + FIELDS - 1 - n) as u8));
    block
}

/// A length as protobuf writes it.
pub fn integer_le(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
