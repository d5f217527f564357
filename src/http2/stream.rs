//! One stream (RFC 9113 §5).

use std::task::{Context, Waker};

use super::frame::Reason;

/// Names a stream to its [`super::Connection`], as long as somebody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// Its place in the connection's table.
    pub(super) place: usize,
    /// Its number on the wire.
    pub(super) number: u32,
}

impl Id {
    /// Its number on the wire.
    pub fn number(self) -> u32 {
        self.number
    }
}

pub struct Stream {
    pub number: u32,
    /// Bytes of the body that nobody has taken yet.
    pub body: Vec<u8>,
    /// The client sends no more.
    pub has_ended: bool,
    /// Bytes of the body that the client has announced and not sent.
    pub announced: Option<u64>,
    /// Bytes that the client may send.
    pub receive_window: i64,
    /// Bytes that were taken, and that the client has not been told it may send again.
    pub taken: u32,
    /// Bytes that we may send.
    pub send_window: i64,
    /// We send no more.
    pub is_answered: bool,
    /// Why it ended before its time.
    pub reset: Option<Reason>,
    /// Who waits for the body.
    pub reader: Option<Waker>,
    /// Who waits for room, or for the end.
    pub writer: Option<Waker>,
    /// In the line for the connection's window.
    pub is_in_line: bool,
    /// It is its turn in that line.
    pub has_turn: bool,
    /// Somebody here knows it.
    pub holders: u8,
}

impl Stream {
    pub fn new(number: u32, receive_window: u32, send_window: i64) -> Stream {
        Stream {
            number,
            body: Vec::new(),
            has_ended: false,
            announced: None,
            receive_window: i64::from(receive_window),
            taken: 0,
            send_window,
            is_answered: false,
            reset: None,
            reader: None,
            writer: None,
            is_in_line: false,
            has_turn: false,
            holders: 0,
        }
    }

    /// Whether nothing more will pass.
    pub fn is_over(&self) -> bool {
        self.reset.is_some() || (self.has_ended && self.is_answered)
    }

    pub fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

/// Remembers a task, if it is not the one that is remembered.
pub fn remember(waker: &mut Option<Waker>, cx: &Context<'_>) {
    if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}
