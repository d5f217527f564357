//! One type for what connections run over: TCP, unix sockets, TLS over either, a simulator's pipes. And [`Wire`], the same as HTTP/2's
//! library wants it, with what makes a connection cheap:
//!
//! * it reads through a scratch buffer of the thread, so that no spare capacity is zeroed before each read;
//! * a read that found nothing is not tried again until the socket says that there is more;
//! * writes are gathered and go out once per turn of the connection's task, not once per reply;
//! * a turn reads no more than [`TURN`], so that one client cannot keep a thread to itself;
//! * while the socket takes nothing, nothing is read: what has to be said to a flood of requests, PINGs and mistakes is bounded by
//!   what the client is willing to hear.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, Bytes};
use futures_lite::{AsyncRead, AsyncWrite};
use futures_util::task::AtomicWaker;

use super::frame_heads::{ACK, FrameHeads, kind};

/// Bytes read in one turn.
const TURN: usize = 64 * 1024;
/// Bytes that are gathered before they are written.
const GATHER: usize = 64 * 1024;
/// What is this long is not copied to be gathered.
const LONG: usize = 8 * 1024;
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

/// A stream as HTTP/2's library wants it. Cloned: the library holds one handle, the connection's task the other.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<Ends>>);

struct Ends {
    stream: Stream,
    gate: Arc<Gate>,
    gate_waker: Waker,
    /// Bytes that may still be read in this turn.
    turn_left: usize,
    /// Bytes read in all.
    received: u64,
    incoming: FrameHeads,
    outgoing: FrameHeads,
    signs: Signs,
    /// Gathered, of which `written` are on their way.
    out: Vec<u8>,
    written: usize,
    /// Whether a flush waits for the end of the turn.
    defer: bool,
    /// The last direct write waits for the socket. A flush now would take that wish back: async-net keeps one interest in writing
    /// per stream, and drops it when a flush has nothing to wait for.
    blocked: bool,
    /// A read waits until the socket takes bytes again.
    is_muted: bool,
}

/// What has passed since it was last asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Signs {
    /// PINGs of the client, its answers to ours left out.
    pub pings: u32,
    /// Whether we have sent headers or data.
    pub has_replied: bool,
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

impl Wire {
    /// Over this stream. Flushes at once, until [`Wire::defer`].
    pub fn new(stream: Stream) -> Wire {
        let gate = Arc::new(Gate { open: AtomicBool::new(true), task: AtomicWaker::new() });
        let gate_waker = Waker::from(gate.clone());
        let (out, written) = (Vec::new(), 0);
        Wire(Arc::new(Mutex::new(Ends {
            stream,
            gate,
            gate_waker,
            turn_left: TURN,
            received: 0,
            incoming: FrameHeads::of_client(),
            outgoing: FrameHeads::of_server(),
            signs: Signs::default(),
            out,
            written,
            defer: false,
            blocked: false,
            is_muted: false,
        })))
    }

    /// From now on the connection's task flushes, with [`Wire::poll_end_turn`].
    pub fn defer(&self) {
        self.lock().defer = true;
    }

    /// The connection's task begins a turn.
    pub fn begin_turn(&self) {
        self.lock().turn_left = TURN;
    }

    /// The connection's task ends a turn: what was gathered goes out, as far as the socket takes it.
    pub fn poll_end_turn(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_flush(cx)
    }

    /// Bytes read in all: a sign of life.
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    /// What has passed since the last time.
    pub fn take_signs(&self) -> Signs {
        std::mem::take(&mut self.lock().signs)
    }

    /// Puts a frame of our own behind what the library has sent, and out as far as the socket takes it. Left out if the library is
    /// in the middle of a frame.
    pub fn last_words(&self, frame: &[u8], cx: &mut Context<'_>) {
        let mut ends = self.lock();
        if ends.outgoing.is_between_frames() && !ends.blocked {
            ends.out.extend_from_slice(frame);
            // Whoever does not read does not hear it.
            let _ = ends.poll_flush(cx);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().expect("no panic while it was held")
    }
}

impl Ends {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut tokio::io::ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.turn_left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.poll_heard(cx).is_pending() {
            self.is_muted = true;
            return Poll::Pending;
        }
        self.gate.task.register(cx.waker());
        // Closed before the try: a wake-up that comes during it opens the gate again.
        if !self.gate.open.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let mut context = Context::from_waker(&self.gate_waker);
        let most = buffer.remaining().min(self.turn_left);
        let (incoming, signs) = (&mut self.incoming, &mut self.signs);
        let result = ready!(poll_read_scratch(&mut self.stream, &mut context, most, |bytes| {
            incoming.walk(bytes, |kind, flags| signs.pings += u32::from(kind == kind::PING && flags & ACK == 0));
            buffer.put_slice(bytes);
        }));
        self.gate.open.store(true, Ordering::Release);
        let count = result?;
        self.turn_left -= count;
        self.received += count as u64;
        Poll::Ready(Ok(()))
    }

    /// Ready unless the socket has lately refused to take bytes, and still does. An error shows in the next write.
    fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.blocked {
            return Poll::Pending;
        }
        if self.written > 0 || self.out.len() > GATHER / 2 {
            let _ = ready!(self.poll_write_out(cx));
        }
        Poll::Ready(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length >= LONG {
            ready!(self.poll_write_out(cx))?;
            let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
            self.blocked = result.is_pending();
            if let Poll::Ready(Ok(count)) = result {
                self.note_sent(slices, count);
            }
            return result;
        }
        if self.out.len() + length > GATHER {
            ready!(self.poll_write_out(cx))?;
        }
        slices.iter().for_each(|slice| self.out.extend_from_slice(slice));
        self.note_sent(slices, length);
        Poll::Ready(Ok(length))
    }

    /// The first `count` bytes of these have left the library.
    fn note_sent(&mut self, slices: &[io::IoSlice<'_>], mut count: usize) {
        for slice in slices {
            let sent = &slice[..count.min(slice.len())];
            count -= sent.len();
            let signs = &mut self.signs;
            self.outgoing.walk(sent, |kind, _| signs.has_replied |= matches!(kind, kind::HEADERS | kind::DATA));
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.written = 0;
        // An idle connection keeps no buffer to speak of.
        if self.out.capacity() > LONG {
            self.out = Vec::new();
        }
        self.out.clear();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.blocked {
            return Poll::Pending;
        }
        if std::mem::take(&mut self.is_muted) {
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl tokio::io::AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut tokio::io::ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.lock();
        if ends.defer { Poll::Ready(Ok(())) } else { ends.poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.lock();
        ready!(ends.poll_flush(cx))?;
        Pin::new(&mut ends.stream).poll_close(cx)
    }
}
