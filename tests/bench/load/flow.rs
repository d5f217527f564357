//! The open streams of a connection, and what waits for room to be sent on them.

use std::collections::VecDeque;

/// An open stream.
pub struct Stream {
    /// Whose it is.
    pub client: u32,
    /// What we may still send on it; below zero after the server has made its windows smaller.
    pub window: i64,
    /// What has come since we last gave room.
    pub taken: u32,
    /// Whole messages that came.
    pub messages: u32,
    /// The beginning of a message whose end has not come.
    pub partial: Vec<u8>,
}

/// A message that has met a full window.
pub struct Waiting {
    pub stream: u32,
    pub bytes: Vec<u8>,
    /// How many of them have been sent.
    pub sent: usize,
    /// Whether the stream's half is over after it.
    pub last: bool,
}

/// Streams by number. Numbers only grow and calls end in nearly the order they began in, so a queue finds each at once.
pub struct Streams {
    queue: VecDeque<Option<Stream>>,
    /// The number of the queue's first.
    first: u32,
    open: u32,
}

impl Default for Streams {
    fn default() -> Streams {
        Streams { queue: VecDeque::new(), first: 1, open: 0 }
    }
}

impl Streams {
    /// How many there are.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// A new one; its number.
    pub fn begin(&mut self, client: u32, window: i64) -> u32 {
        let number = self.first + 2 * self.queue.len() as u32;
        self.queue.push_back(Some(Stream { client, window, taken: 0, messages: 0, partial: Vec::new() }));
        self.open += 1;
        number
    }

    /// One that is open.
    pub fn get(&mut self, number: u32) -> Option<&mut Stream> {
        let place = number.checked_sub(self.first)? / 2;
        self.queue.get_mut(place as usize)?.as_mut()
    }

    /// Takes one out.
    pub fn end(&mut self, number: u32) -> Option<Stream> {
        let place = number.checked_sub(self.first)? / 2;
        let ended = self.queue.get_mut(place as usize)?.take()?;
        self.open -= 1;
        while let Some(None) = self.queue.front() {
            self.queue.pop_front();
            self.first += 2;
        }
        Some(ended)
    }

    /// Does something to each.
    pub fn each(&mut self, mut change: impl FnMut(&mut Stream)) {
        self.queue.iter_mut().flatten().for_each(&mut change);
    }
}
