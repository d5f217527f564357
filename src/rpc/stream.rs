//! One type for what connections run over: TCP, unix sockets, TLS over either, a simulator's pipes. And [`Socket`], the same with what
//! makes an HTTP/2 connection cheap:
//!
//! * it reads through a scratch buffer of the thread, so that an idle connection has none;
//! * a read that found nothing is not tried again until the socket says that there is more;
//! * a turn reads no more than [`TURN`], so that one client cannot keep a thread to itself.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, Bytes};
use futures_lite::{AsyncRead, AsyncWrite};
use futures_util::task::AtomicWaker;

/// Bytes read in one turn.
const TURN: usize = 64 * 1024;
const SCRATCH: usize = 32 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// Anything a connection can run over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A connection's bytes.
pub struct Stream {
    io: Box<dyn Io>,
    /// Read and put back.
    unread: Bytes,
}

impl Stream {
    /// Over this.
    pub fn new(io: impl Io) -> Stream {
        Stream { io: Box::new(io), unread: Bytes::new() }
    }

    /// Puts bytes back in front of what is to come.
    pub fn unread(&mut self, bytes: Bytes) {
        assert!(self.unread.is_empty(), "only what was just read can be put back");
        self.unread = bytes;
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.unread.len().min(buffer.len());
        self.unread.copy_to_slice(&mut buffer[..count]);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

/// Reads into the thread's scratch buffer and hands over what came. At most `most` bytes.
pub fn poll_read_scratch(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    most: usize,
    take: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    BUFFER.with_borrow_mut(|buffer| {
        let most = most.min(buffer.len());
        let count = ready!(Pin::new(stream).poll_read(cx, &mut buffer[..most]))?;
        take(&buffer[..count]);
        Poll::Ready(Ok(count))
    })
}

/// The socket of an HTTP/2 connection, with what makes one cheap.
pub struct Socket {
    stream: Stream,
    gate: Arc<Gate>,
    gate_waker: Waker,
    /// Bytes that may still be read in this turn.
    turn_left: usize,
    /// Bytes read in all.
    received: u64,
}

/// Whether a read is worth a try.
struct Gate {
    open: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.open.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Socket {
    /// Over this stream.
    pub fn new(stream: Stream) -> Socket {
        let gate = Arc::new(Gate { open: AtomicBool::new(true), task: AtomicWaker::new() });
        let gate_waker = Waker::from(gate.clone());
        Socket { stream, gate, gate_waker, turn_left: TURN, received: 0 }
    }

    /// The connection's task begins a turn.
    pub fn begin_turn(&mut self) {
        self.turn_left = TURN;
    }

    /// Bytes read in all: a sign of life.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Reads once. Ready with nothing: the client sends no more.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, take: impl FnOnce(&[u8])) -> Poll<io::Result<usize>> {
        if self.turn_left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.gate.task.register(cx.waker());
        // Closed before the try: a wake-up that comes during it opens the gate again.
        if !self.gate.open.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let mut context = Context::from_waker(&self.gate_waker);
        let result = ready!(poll_read_scratch(&mut self.stream, &mut context, self.turn_left, take));
        self.gate.open.store(true, Ordering::Release);
        let count = result?;
        self.turn_left -= count;
        self.received += count as u64;
        Poll::Ready(Ok(count))
    }

    /// Writes once.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    /// Sends what the stream itself has held back. Not while a write waits: async-net keeps one interest in writing per stream, and
    /// drops it when a flush has nothing to wait for.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}
