//! A watch of what has been: everything from a revision on, as fast as the server tells it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request};
use prost::Message;

use super::PATIENCE;
use super::connection::{Connection, End, Replies};
use super::engine::{Driver, Turn, drive};
use super::watching::Told;
use crate::support::requests::WATCH;

/// What is watched.
pub struct History {
    asked: bool,
    request: WatchCreateRequest,
    events: u64,
    wanted: u64,
}

impl History {
    /// Takes so many events of all keys, from revision `from` on. Gives how long it took.
    pub fn read(of: SocketAddr, from: i64, wanted: u64) -> io::Result<Duration> {
        let request = WatchCreateRequest {
            key: b"\0".to_vec().into(),
            range_end: b"\0".to_vec().into(),
            start_revision: from,
            ..Default::default()
        };
        let mut connections = [Connection::open(of, WATCH, 0)?];
        let begun = Instant::now();
        drive(&mut connections, &mut History { asked: false, request, events: 0, wanted }, PATIENCE)?;
        Ok(begun.elapsed())
    }
}

impl Replies for History {
    fn message(&mut self, _: &mut Connection, _: u32, _: u32, message: &[u8]) -> io::Result<()> {
        let told = Told::of(message, |_| {}).ok_or_else(|| io::Error::other("a watch response that cannot be read"))?;
        if told.canceled {
            return Err(io::Error::other("the watch was canceled"));
        }
        self.events += told.events;
        Ok(())
    }

    fn end(&mut self, _: &mut Connection, _: u32, end: End) -> io::Result<()> {
        Err(io::Error::other(format!("the watch ended: {end:?}")))
    }
}

impl Driver for History {
    fn turn(&mut self, connections: &mut [Connection]) -> io::Result<Turn> {
        if self.events >= self.wanted {
            return Ok(Turn::Done);
        }
        if !std::mem::replace(&mut self.asked, true) {
            let request = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(self.request.clone())) };
            let stream = connections[0].begin(0)?;
            connections[0].send(stream, false, |out| request.encode(out).expect("a vector has room for every message"));
        }
        Ok(Turn::Wait)
    }
}
