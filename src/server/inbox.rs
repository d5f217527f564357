//! The loop's inbox: clients' proposals, which are bounded, and the server's own words, which must never be lost.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;

use super::checkpoint;
use super::command::Command;
use super::handle::Response;
use crate::error::{Error, Fault};
use crate::wal;

/// A reply to whoever asked; nobody listens if the client has gone.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A command on its way into the log.
pub(super) struct Proposal {
    pub command: Command,
    /// The command, encoded.
    pub data: Bytes,
    /// None for the server's own.
    pub reply: Option<Reply<Response>>,
}

/// Everything else that the loop is told.
pub(super) enum Ask {
    /// Tell when a read is as new as now.
    ReadIndex(Reply<()>),
    /// Tell when the compaction at this revision has left nothing on disk.
    Scrubbed(i64, Reply<()>),
    Defragment(Reply<()>),
    Wal(wal::Report),
    Checkpoint(checkpoint::Outcome),
    /// The process has to end.
    Fail(Fault),
    /// The process should end.
    Stop,
}

/// Proposals that may wait, and their bytes. A client waits for each of its own, so more than this means that the disk has
/// stalled under many clients, or a client that does not wait.
const MAX_PROPOSALS: usize = 10_000;
const MAX_BYTES: usize = 32 << 20;
/// Memory for so many is kept from one burst to the next.
const KEPT: usize = 1024;

#[derive(Default)]
pub(super) struct Inbox {
    queues: Mutex<Queues>,
    arrived: Condvar,
}

#[derive(Default)]
pub(super) struct Queues {
    pub proposals: Vec<Proposal>,
    pub asks: Vec<Ask>,
    bytes: usize,
    closed: bool,
}

impl Inbox {
    /// Queues a proposal, or refuses it.
    pub fn propose(&self, proposal: Proposal) -> Result<(), Error> {
        let mut queues = self.lock();
        if queues.closed {
            return Err(Error::Stopped);
        }
        if queues.proposals.len() >= MAX_PROPOSALS || queues.bytes >= MAX_BYTES {
            return Err(Error::TooManyRequests);
        }
        queues.bytes += proposal.data.len();
        queues.proposals.push(proposal);
        self.wake(queues);
        Ok(())
    }

    /// Queues a word of the server's own. After [`Inbox::close`] it is dropped, and with it any reply in it.
    pub fn ask(&self, ask: Ask) {
        let mut queues = self.lock();
        if !queues.closed {
            queues.asks.push(ask);
            self.wake(queues);
        }
    }

    fn wake(&self, queues: std::sync::MutexGuard<'_, Queues>) {
        let first = queues.proposals.len() + queues.asks.len() == 1;
        drop(queues);
        if first {
            self.arrived.notify_one();
        }
    }

    /// Takes all that is there, after waiting for something at most `timeout`. `into` is emptied first and lends its memory.
    pub fn take(&self, timeout: Duration, into: &mut Queues) {
        into.proposals.clear();
        into.proposals.shrink_to(KEPT);
        into.asks.clear();
        into.asks.shrink_to(KEPT);
        let mut queues = self.lock();
        if queues.proposals.is_empty() && queues.asks.is_empty() {
            queues = self.arrived.wait_timeout(queues, timeout).expect("a sender panicked").0;
        }
        std::mem::swap(&mut queues.proposals, &mut into.proposals);
        std::mem::swap(&mut queues.asks, &mut into.asks);
        queues.bytes = 0;
    }

    /// Refuses everything from now on; what waits is dropped, which tells its clients that the server has stopped.
    pub fn close(&self) {
        let mut queues = self.lock();
        queues.closed = true;
        queues.proposals.clear();
        queues.asks.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().expect("a sender panicked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::CompactionRequest;

    fn proposal(bytes: usize) -> Proposal {
        let command = Command::Compaction(CompactionRequest::default());
        Proposal { command, data: vec![0; bytes].into(), reply: None }
    }

    /// How many proposals of this length are taken before one is refused, and that the room is there again once they are taken out.
    fn taken(bytes: usize) -> usize {
        let inbox = Inbox::default();
        let fill = || (0..).find(|_| inbox.propose(proposal(bytes)) == Err(Error::TooManyRequests)).unwrap();
        let first = fill();
        inbox.ask(Ask::Stop);
        let mut queues = Queues::default();
        inbox.take(Duration::ZERO, &mut queues);
        assert_eq!((queues.proposals.len(), queues.asks.len()), (first, 1), "the server's own words are never refused");
        assert_eq!(fill(), first);
        first
    }

    #[test]
    fn what_waits_is_bounded_by_number_and_by_bytes() {
        assert_eq!(taken(10), MAX_PROPOSALS);
        assert_eq!(taken(1 << 20), MAX_BYTES >> 20);
    }

    #[test]
    fn a_closed_inbox_drops_what_waits_and_takes_nothing() {
        let inbox = Inbox::default();
        let (reply, mut answer) = oneshot::channel();
        inbox.propose(Proposal { reply: Some(reply), ..proposal(1) }).unwrap();
        inbox.close();
        assert!(answer.try_recv().is_err(), "whoever waits is told");
        assert_eq!(inbox.propose(proposal(1)), Err(Error::Stopped));
        inbox.ask(Ask::Stop);
        let mut queues = Queues::default();
        inbox.take(Duration::ZERO, &mut queues);
        assert!(queues.asks.is_empty() && queues.proposals.is_empty());
    }
}
