//! A connection in memory. The server's end is asynchronous; the client's is a fuzzer's, which never waits.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures_lite::{AsyncRead, AsyncWrite};

/// What a lane holds, as a socket's buffer does.
const CAPACITY: usize = 64 * 1024;

/// One direction.
#[derive(Default)]
struct Lane {
    bytes: VecDeque<u8>,
    closed: bool,
    waits: Vec<Waker>,
}

impl Lane {
    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.waits.push(cx.waker().clone());
        Poll::Pending
    }

    fn wake(&mut self) {
        self.waits.drain(..).for_each(Waker::wake);
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Lane>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lane> {
        self.0.lock().expect("no panic while it was held")
    }

    fn close(&self) {
        let mut lane = self.lock();
        lane.closed = true;
        lane.wake();
    }
}

/// The server's end.
pub struct ServerEnd {
    read: Shared,
    write: Shared,
}

/// The client's end.
pub struct ClientEnd {
    read: Shared,
    write: Shared,
}

/// Both ends.
pub fn pipe() -> (ClientEnd, ServerEnd) {
    let (up, down) = (Shared::default(), Shared::default());
    (ClientEnd { read: down.clone(), write: up.clone() }, ServerEnd { read: up, write: down })
}

impl ClientEnd {
    /// Writes as much as there is room for; how much that was.
    pub fn write(&self, bytes: &[u8]) -> usize {
        let mut lane = self.write.lock();
        let count = bytes.len().min(CAPACITY - lane.bytes.len());
        if !lane.closed {
            lane.bytes.extend(&bytes[..count]);
        }
        lane.wake();
        count
    }

    /// Takes what is there.
    pub fn read(&self) -> Vec<u8> {
        let mut lane = self.read.lock();
        let bytes = lane.bytes.drain(..).collect();
        lane.wake();
        bytes
    }

    /// Sends no more.
    pub fn finish(&self) {
        self.write.close();
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        self.read.close();
        self.write.close();
    }
}

impl AsyncRead for ServerEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut lane = self.read.lock();
        if lane.bytes.is_empty() && !lane.closed {
            return lane.wait(cx);
        }
        Poll::Ready(io::Read::read(&mut lane.bytes, buffer))
    }
}

impl AsyncWrite for ServerEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut lane = self.write.lock();
        if lane.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(CAPACITY - lane.bytes.len());
        if count == 0 && !bytes.is_empty() {
            return lane.wait(cx);
        }
        lane.bytes.extend(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write.close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.read.close();
        self.write.close();
    }
}
