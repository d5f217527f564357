//! What is asked: the same shapes as the loads of etcd's own benchmark.

use bramble::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use bytes::Bytes;
use prost::Message;

use crate::support::random::Random;
use crate::support::requests::{KEEP_ALIVE, Unary};

/// Which keys are named.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// Bytes of each key, 20 at least: a number is written in it.
    pub size: usize,
    /// How many there are.
    pub space: u64,
    /// Whether they come by chance or one after the other.
    pub random: bool,
}

impl Keys {
    /// So many keys of 24 bytes, one after the other.
    pub fn in_order(space: u64) -> Keys {
        Keys { size: 24, space, random: false }
    }

    /// The same keys by chance.
    pub fn at_random(space: u64) -> Keys {
        Keys { random: true, ..Keys::in_order(space) }
    }

    /// The n-th key.
    pub fn name(&self, n: u64) -> Bytes {
        format!("{n:0size$}", size = self.size).into()
    }

    fn choose(&self, n: u64, random: &mut Random) -> Bytes {
        self.name(if self.random { random.below(self.space) } else { n % self.space })
    }
}

/// One kind of call.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A put of so many bytes.
    Put { keys: Keys, value: usize },
    /// A transaction of one put and no compares.
    TxnPut { keys: Keys, value: usize },
    /// A transaction of so many puts, a divisor of the number of keys, in order.
    TxnPuts { keys: Keys, value: usize, puts: u64 },
    /// A range of one key that is known to hold so many bytes.
    Range { keys: Keys, value: usize, serializable: bool },
    /// A range of the first so many keys, in one answer.
    Rows { keys: Keys, value: usize, rows: u64 },
    /// A lease, the n-th with the id n + 1.
    Grant { ttl_secs: i64 },
    /// A keepalive of one of so many leases, as [`Ask::Grant`] made them; on a stream that is opened for it alone, as etcd's benchmark
    /// does, or on one that each client keeps open, as clients do.
    KeepAlive { leases: u64, once: bool },
    /// These bytes to this method: for what should be refused.
    Raw { path: &'static str, message: Vec<u8> },
}

/// So many bytes that no file system or store compresses. Always the same.
pub fn filler(length: usize) -> Bytes {
    let mut random = Random::from_seed(length as u64);
    (0..length).map(|_| random.next() as u8).collect()
}

impl Ask {
    /// The method.
    pub fn path(&self) -> &'static str {
        match self {
            Ask::Put { .. } => PutRequest::PATH,
            Ask::TxnPut { .. } | Ask::TxnPuts { .. } => TxnRequest::PATH,
            Ask::Range { .. } | Ask::Rows { .. } => RangeRequest::PATH,
            Ask::Grant { .. } => LeaseGrantRequest::PATH,
            Ask::KeepAlive { .. } => KEEP_ALIVE,
            Ask::Raw { path, .. } => path,
        }
    }

    /// Whether a client keeps one stream for all its calls.
    pub fn keeps_stream(&self) -> bool {
        matches!(self, Ask::KeepAlive { once: false, .. })
    }

    /// A shorter answer does not hold what was asked for.
    pub fn shortest_answer(&self) -> usize {
        match self {
            Ask::Range { keys, value, .. } => keys.size + value,
            Ask::Rows { keys, value, rows } => (keys.size + value) * *rows as usize,
            Ask::KeepAlive { .. } => 4,
            _ => 0,
        }
    }

    /// What makes its messages.
    pub fn writer(&self) -> Writer {
        let value = match self {
            Ask::Put { value, .. } | Ask::TxnPut { value, .. } | Ask::TxnPuts { value, .. } => filler(*value),
            _ => Bytes::new(),
        };
        Writer { ask: self.clone(), value, random: Random::from_seed(1) }
    }
}

/// Makes the messages of a load.
pub struct Writer {
    ask: Ask,
    value: Bytes,
    random: Random,
}

impl Writer {
    /// Appends the n-th message. A put of 8 bytes or more begins with `stamp`, if one is given.
    pub fn write(&mut self, n: u64, stamp: Option<u64>, out: &mut Vec<u8>) {
        let Writer { ask, value, random } = self;
        let put = |keys: &Keys, random: &mut Random| {
            let value = match stamp {
                Some(stamp) if value.len() >= 8 => [&stamp.to_be_bytes(), &value[8..]].concat().into(),
                _ => value.clone(),
            };
            PutRequest { key: keys.choose(n, random), value, ..Default::default() }
        };
        let written = match ask {
            Ask::Put { keys, .. } => put(keys, random).encode(out),
            Ask::TxnPut { keys, .. } => {
                let op = RequestOp { request: Some(request_op::Request::RequestPut(put(keys, random))) };
                TxnRequest { success: vec![op], ..Default::default() }.encode(out)
            }
            Ask::TxnPuts { keys, puts, .. } => {
                let put =
                    |at| PutRequest { key: keys.name((n * *puts + at) % keys.space), value: value.clone(), ..Default::default() };
                let op = |at| RequestOp { request: Some(request_op::Request::RequestPut(put(at))) };
                TxnRequest { success: (0..*puts).map(op).collect(), ..Default::default() }.encode(out)
            }
            Ask::Range { keys, serializable, .. } => {
                RangeRequest { key: keys.choose(n, random), serializable: *serializable, ..Default::default() }.encode(out)
            }
            Ask::Rows { keys, rows, .. } => {
                RangeRequest { key: keys.name(0), range_end: keys.name(*rows), ..Default::default() }.encode(out)
            }
            Ask::Grant { ttl_secs } => LeaseGrantRequest { ttl: *ttl_secs, id: n as i64 + 1 }.encode(out),
            Ask::KeepAlive { leases, .. } => LeaseKeepAliveRequest { id: (n % *leases) as i64 + 1 }.encode(out),
            Ask::Raw { message, .. } => {
                out.extend_from_slice(message);
                Ok(())
            }
        };
        written.expect("a vector has room for every message");
    }
}
