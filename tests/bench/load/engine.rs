//! One thread waits for all connections at once and lets a driver act on what has come.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use super::connection::{Connection, Replies};

/// Decides what is asked when.
pub trait Driver: Replies {
    /// Begins what is due.
    fn turn(&mut self, connections: &mut [Connection]) -> io::Result<Turn>;
}

/// What a driver does next.
pub enum Turn {
    /// Nothing: it has all it wanted.
    Done,
    /// It acts on replies.
    Wait,
    /// The same, and begins something after so long.
    WaitAtMost(Duration),
}

/// Runs a driver to its end.
///
/// # Errors
/// When a connection fails, or the end does not come within `patience`.
pub fn drive(connections: &mut [Connection], driver: &mut impl Driver, patience: Duration) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, connection) in connections.iter().enumerate() {
        epoll::add(&epoll, connection.socket(), epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
    }
    let end = Instant::now() + patience;
    let mut blocked = vec![false; connections.len()];
    let mut events = Vec::with_capacity(1024);
    loop {
        let wait = match driver.turn(connections)? {
            Turn::Done => return Ok(()),
            Turn::Wait => Duration::from_secs(1),
            Turn::WaitAtMost(time) => time.min(Duration::from_secs(1)),
        };
        for (number, connection) in connections.iter_mut().enumerate().filter(|(_, connection)| connection.has_output()) {
            connection.flush()?;
            let (is, was) = (connection.has_output(), &mut blocked[number]);
            if is != *was {
                let flags = if is { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
                epoll::modify(&epoll, connection.socket(), epoll::EventData::new_u64(number as u64), flags)?;
                *was = is;
            }
        }
        events.clear();
        let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let number = event.data.u64() as usize;
            connections[number].receive(driver)?;
        }
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("the load is not done after {patience:?}")));
        }
    }
}
