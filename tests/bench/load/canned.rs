//! A server that understands nothing: to each request that ends it throws the same ready answer. What the generator reaches against it
//! is the most that it could measure.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::hostile::wire::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE, field, frame};

/// The server, on one thread. It ends when dropped.
pub struct Canned {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Canned {
    /// Answers every request with this message.
    pub fn start(message: &[u8]) -> Canned {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let answer = Answer::of(message);
        let told = stop.clone();
        let thread = Some(std::thread::spawn(move || serve(&listener, &answer, &told)));
        Canned { addr, stop, thread }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The bytes of an answer, and where its frames have the stream's number.
struct Answer {
    bytes: Vec<u8>,
    streams: [usize; 3],
}

impl Answer {
    fn of(message: &[u8]) -> Answer {
        let begin = [&[0x88][..], &field(0, "content-type", b"application/grpc")].concat();
        let body = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        let frames = [
            frame(HEADERS, END_HEADERS, 0, &begin),
            frame(DATA, 0, 0, &body),
            frame(HEADERS, END_HEADERS | END_STREAM, 0, &field(0, "grpc-status", b"0")),
        ];
        let second = frames[0].len();
        Answer { bytes: frames.concat(), streams: [5, second + 5, second + frames[1].len() + 5] }
    }

    fn write(&self, stream: [u8; 4], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        for at in self.streams {
            out[start + at..][..4].copy_from_slice(&stream);
        }
    }
}

/// A connection and what of its input is not read yet.
struct Peer {
    socket: TcpStream,
    input: Vec<u8>,
    greeted: bool,
}

impl Peer {
    /// Answers what has come; false: the connection is over.
    fn serve(&mut self, answer: &Answer, out: &mut Vec<u8>) -> bool {
        let mut bytes = [0; 65_536];
        match self.socket.read(&mut bytes) {
            Ok(0) => return false,
            Ok(length) => self.input.extend_from_slice(&bytes[..length]),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        out.clear();
        let mut at = 0;
        if !self.greeted && self.input.len() >= PREFACE.len() {
            at = PREFACE.len();
            self.greeted = true;
            // Room on the connection for as long as any load lasts.
            out.extend(frame(SETTINGS, 0, 0, &[]));
            out.extend(frame(WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes()));
        }
        while let Some(head) = self.input[at..].first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if self.input.len() < at + 9 + length {
                break;
            }
            if head[3] == DATA && head[4] & END_STREAM != 0 {
                answer.write([head[5], head[6], head[7], head[8]], out);
            }
            at += 9 + length;
        }
        self.input.drain(..at);
        // The generator reads all the time: waiting for it holds up nobody else for long.
        let blocking = self.socket.set_nonblocking(false);
        blocking.and_then(|()| self.socket.write_all(out)).and_then(|()| self.socket.set_nonblocking(true)).is_ok()
    }
}

fn serve(listener: &TcpListener, answer: &Answer, stop: &AtomicBool) {
    let mut peers: Vec<Peer> = Vec::new();
    let mut out = Vec::new();
    let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !stop.load(Ordering::Relaxed) {
        let mut sources: Vec<PollFd> = peers.iter().map(|peer| PollFd::new(&peer.socket, PollFlags::IN)).collect();
        sources.push(PollFd::new(listener, PollFlags::IN));
        if poll(&mut sources, Some(&patience)).is_err() {
            continue;
        }
        let ready: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
        let mut number = 0;
        peers.retain_mut(|peer| {
            number += 1;
            !ready[number - 1] || peer.serve(answer, &mut out)
        });
        while let Ok((socket, _)) = listener.accept() {
            socket.set_nodelay(true).and_then(|()| socket.set_nonblocking(true)).unwrap();
            peers.push(Peer { socket, input: Vec::new(), greeted: false });
        }
    }
}
