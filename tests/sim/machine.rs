//! The replicated state machine: a few registers, a revision that counts writes as etcd's does, and a sum of all that was ever applied,
//! so that two machines are equal only if they applied the same in the same order.

use bramble::raft::{ConfState, Entry, EntryKind, LogId, MemberId};
use bytes::Bytes;

use super::random::digest;

pub const KEYS: u64 = 4;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// How many writes were applied.
    pub revision: u64,
    /// The operation that wrote each register last.
    values: [u64; KEYS as usize],
    /// Of all entries, in order.
    sum: u64,
}

/// A client's write: its number, which no other has, and the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    pub operation: u64,
    pub key: u64,
}

impl Write {
    /// An entry's data, of some length.
    pub fn encode(self, padding: u64) -> Bytes {
        let mut data = bytes_of(&[self.operation, self.key]);
        data.resize(data.len() + padding as usize, b'.');
        data.into()
    }

    fn decode(data: &[u8]) -> Option<Write> {
        let mut words = words_of(data.get(..16)?);
        Some(Write { operation: words.next()?, key: words.next()? })
    }
}

impl Machine {
    /// Applies an entry. The write, if it was one.
    pub fn apply(&mut self, entry: &Entry) -> Option<Write> {
        self.sum = digest(&[self.sum, entry.id.term.0, entry.id.index.0, digest_of(&entry.data)]);
        let write = Write::decode(&entry.data).filter(|_| entry.kind == EntryKind::Normal)?;
        self.revision += 1;
        self.values[write.key as usize] = write.operation;
        Some(write)
    }

    /// Of what clients see. It does not change with entries that are no writes.
    pub fn values_fingerprint(&self) -> u64 {
        digest(&[self.revision, digest(&self.values)])
    }

    /// Equal on machines that are equal.
    pub fn fingerprint(&self) -> u64 {
        digest(&[self.revision, self.sum, digest(&self.values)])
    }
}

/// Everything at one moment, as it is stored and sent to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    pub applied: LogId,
    pub conf: ConfState,
    pub machine: Machine,
    /// The log that belongs to it: see `storage.rs`.
    pub log: u64,
}

impl Checkpoint {
    pub fn encode(&self) -> Vec<u8> {
        let mut words = vec![self.applied.term.0, self.applied.index.0, self.log, self.machine.revision, self.machine.sum];
        words.extend(self.machine.values);
        words.extend(words_of_conf(&self.conf));
        words.push(digest(&words));
        bytes_of(&words)
    }

    /// Nothing if the bytes are not whole.
    pub fn decode(bytes: &[u8]) -> Option<Checkpoint> {
        let words: Vec<u64> = words_of(bytes).collect();
        let (&sum, rest) = words.split_last()?;
        let fixed = 5 + KEYS as usize;
        if digest(rest) != sum || rest.len() < fixed {
            return None;
        }
        let applied = LogId { term: bramble::raft::Term(rest[0]), index: bramble::raft::Index(rest[1]) };
        let values = rest[5..fixed].try_into().ok()?;
        let machine = Machine { revision: rest[3], sum: rest[4], values };
        Some(Checkpoint { applied, log: rest[2], machine, conf: conf_of_words(&rest[fixed..])? })
    }
}

/// The data of an entry that changes the configuration: all of the next one.
pub fn encode_conf(conf: &ConfState) -> Bytes {
    bytes_of(&words_of_conf(conf)).into()
}

pub fn decode_conf(data: &[u8]) -> Option<ConfState> {
    conf_of_words(&words_of(data).collect::<Vec<_>>())
}

fn words_of_conf(conf: &ConfState) -> Vec<u64> {
    let mut words = vec![conf.voters.len() as u64];
    words.extend(conf.members().map(|member| member.0));
    words
}

fn conf_of_words(words: &[u64]) -> Option<ConfState> {
    let (&voters, members) = words.split_first()?;
    let (voters, learners) = members.split_at_checked(voters as usize)?;
    let ids = |words: &[u64]| words.iter().copied().map(MemberId).collect();
    Some(ConfState { voters: ids(voters), learners: ids(learners) })
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
}

pub fn digest_of(data: &[u8]) -> u64 {
    digest(&words_of(data).chain([data.len() as u64]).collect::<Vec<_>>())
}
