//! What the log promises, as claims.

mod corners;
mod damage;
mod model;
mod relaxed;
mod thread;
mod writing;

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::segment::{Header, Name, SECTOR};
use super::{AppendError, Identity, Options, Recovered, Wal};
use crate::error::Fault;
use crate::host::Host;
use crate::host::sim::{self, SimDisk};
use crate::raft::{Entry, EntryKind, HardState, Index, LogId, MemberId, Term};

const DIR: &str = "/data/wal";
const IDENTITY: Identity = Identity { cluster_id: 0xc1, member_id: 0xa1 };
/// Six sectors of frames in a segment, so that a few entries fill some.
const SMALL: Options =
    Options { segment_bytes: 8 * SECTOR as u64, max_spares: 2, buffer_bytes: 2 * SECTOR, no_fsync: false, max_unsynced: 0 };

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn segment(sequence: u64) -> PathBuf {
    Name::Segment(sequence).path(dir())
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: Index(index) }
}

/// An entry with `len` bytes that say which it is.
fn entry(term: u64, index: u64, len: usize) -> Entry {
    let data = (0..len).map(|at| (term as usize * 31 + index as usize * 7 + at) as u8).collect::<Vec<u8>>();
    Entry { id: id(term, index), kind: EntryKind::Normal, data: Bytes::from(data) }
}

fn state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term: Term(term), vote: (vote != 0).then_some(MemberId(vote)), commit: Index(commit) }
}

fn create(host: &Host, options: Options) -> Wal {
    Wal::create(host, dir(), IDENTITY, LogId::default(), options).unwrap()
}

fn open(host: &Host, after: u64) -> Result<(Wal, Recovered), Fault> {
    Wal::open(host, dir(), Some(IDENTITY), Index(after), SMALL)
}

/// Does what the helper thread would do.
fn tend(wal: &mut Wal) {
    wal.seal().unwrap();
    while let Some(chore) = wal.next_chore() {
        wal.finish_chore(chore.run()).unwrap();
    }
}

/// A host on the same disk that comes after a crash: its numbers are new.
fn next_host(disk: &SimDisk, seed: u64) -> Host {
    Host { disk: std::sync::Arc::new(disk.clone()), ..sim::host(seed).0 }
}
