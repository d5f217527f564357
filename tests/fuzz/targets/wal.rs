//! The write-ahead log: written by a script, damaged by a script, and opened. An accepted log is a prefix of what was written;
//! a refusal names a file.
//!
//! Input: what is written, what is done to the files, and up to which index the checkpoint reaches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bramble::host::sim::{SimClock, SimDisk, SimRandom};
use bramble::host::{Disk, Host};
use bramble::raft::{Entry, EntryKind, HardState, Index, LogId, MemberId, Term};
use bramble::wal::{Identity, Options, Recovered, Wal};
use bytes::Bytes;

use super::input::Input;

const DIR: &str = "/data/wal";
const IDENTITY: Identity = Identity { cluster_id: 0xc1, member_id: 0xa1 };
const SECTOR: usize = 512;
/// Small, so that a few entries fill some segments.
const OPTIONS: Options =
    Options { segment_bytes: 6 * SECTOR as u64, max_spares: 2, buffer_bytes: 2 * SECTOR, no_fsync: false, max_unsynced: 0 };

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let written = Written::by(&mut input);
    let forged = damage(&written.disk, &mut input);
    let after = match input.byte() {
        255 => Index(input.u64()),
        small => Index(u64::from(small)),
    };
    match open(&written.disk, after) {
        Err(why) => assert!(why.contains(DIR), "{why:?} names no file"),
        Ok((mut wal, recovered)) => {
            check(&recovered, after);
            assert!(forged || written.began_with(&recovered, after), "{recovered:?} was never written");
            go_on(&written.disk, &mut wal, recovered, after);
        }
    }
}

/// A log and all the states it had.
struct Written {
    disk: SimDisk,
    states: Vec<(HardState, Vec<Entry>)>,
}

impl Written {
    fn by(input: &mut Input<'_>) -> Written {
        let disk = SimDisk::new(7);
        let mut wal = Wal::create(&host(&disk, 1), Path::new(DIR), IDENTITY, LogId::default(), OPTIONS).expect("an empty disk");
        let mut written = Written { disk, states: vec![(wal.hard_state(), Vec::new())] };
        for _ in 0..input.byte() % 32 {
            let (state, entries) = written.states.last().expect("it began empty").clone();
            match input.byte() % 8 {
                0 => wal.seal().expect("the disk is sound"),
                1 => wal.release(Index(u64::from(input.byte()).min(state.commit.0))),
                2 => {
                    if let Some(chore) = wal.next_chore() {
                        wal.finish_chore(chore.run()).expect("the disk is sound");
                    }
                }
                _ => written.append(&mut wal, state, entries, input),
            }
        }
        written
    }

    /// Appends behind the last entry, or replaces what is not committed.
    fn append(&mut self, wal: &mut Wal, state: HardState, mut entries: Vec<Entry>, input: &mut Input<'_>) {
        let replaced = u64::from(input.byte() % 4).min(entries.len() as u64 - state.commit.0);
        entries.truncate(entries.len() - replaced as usize);
        let term = Term(state.term.0 + u64::from(input.byte() % 2));
        let first = entries.len();
        for _ in 0..input.byte() % 4 {
            let index = Index(entries.len() as u64 + 1);
            let kind = if input.byte() % 8 == 7 { EntryKind::ConfChange } else { EntryKind::Normal };
            let data = Bytes::from(vec![input.byte(); usize::from(input.u16() % 2000)]);
            entries.push(Entry { id: LogId { term, index }, kind, data });
        }
        if entries.len() == first {
            // Nothing replaces what was to be replaced.
            entries.clone_from(&self.states.last().expect("it began empty").1);
        }
        let commit = Index(state.commit.0.max(u64::from(input.byte())).min(entries.len() as u64));
        let state = HardState { term, vote: input.bool().then_some(MemberId(0xa1)), commit };
        let new = if entries.len() == first { &[] } else { &entries[first.min(entries.len())..] };
        wal.append(Some(state), new).expect("the disk is sound");
        self.states.push((state, entries));
    }

    /// Whether the log had this state at some time.
    fn began_with(&self, recovered: &Recovered, after: Index) -> bool {
        self.states.iter().any(|(state, entries)| {
            let above: Vec<&Entry> = entries.iter().filter(|entry| entry.id.index > after).collect();
            let last = entries.last().map_or_else(LogId::default, |entry| entry.id);
            // Without a needed entry the log is read from a later segment's header, which says the same.
            recovered.hard_state == *state && recovered.last == last && recovered.entries.iter().eq(above)
        })
    }
}

/// Does things to the files that no crash does. True if checksums were made to fit: then nothing tells damage from data.
fn damage(disk: &SimDisk, input: &mut Input<'_>) -> bool {
    let mut forged = false;
    for _ in 0..input.byte() % 8 {
        let names = disk.list(Path::new(DIR)).expect("the directory is there");
        let Some(name) = names.get(usize::from(input.byte()) % names.len().max(1)) else { break };
        let path = Path::new(DIR).join(name);
        let mut bytes = disk.bytes(&path);
        let at = usize::from(input.u16()) % bytes.len().max(1);
        match input.byte() % 9 {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << (input.byte() % 8),
            1 => overwrite(&mut bytes, at, input.piece()),
            2 => bytes.truncate(at),
            3 => bytes.resize(bytes.len() + usize::from(input.u16()), input.byte()),
            4 => overwrite(&mut bytes, at, &[0; SECTOR]),
            5 => {
                disk.remove(&path).expect("it is there");
                continue;
            }
            6 => {
                let to = Path::new(DIR).join(other_name(input));
                disk.rename(&path, &to).expect("it is there");
                continue;
            }
            7 => {
                disk.set_bytes(&Path::new(DIR).join(other_name(input)), bytes);
                continue;
            }
            _ => {
                forged = true;
                overwrite(&mut bytes, at, input.piece());
                fit_checksums(&mut bytes);
            }
        }
        disk.set_bytes(&path, bytes);
    }
    forged
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let count = with.len().min(bytes.len() - at);
    bytes[at..at + count].copy_from_slice(&with[..count]);
}

fn other_name(input: &mut Input<'_>) -> String {
    let suffix = input.pick(&["wal", "spare", "tmp", "wal.bak"]);
    match input.byte() {
        255 => format!("{:016x}.{suffix}", input.u64()),
        254 => format!("{}.{suffix}", String::from_utf8_lossy(input.piece()).replace(['/', '\0'], "_")),
        small => format!("{small:016x}.{suffix}"),
    }
}

/// Gives a segment's header and the frames that begin where one can the checksums that ARCHITECTURE.md describes.
fn fit_checksums(bytes: &mut [u8]) {
    if bytes.len() < SECTOR {
        return;
    }
    let crc = crc32c::crc32c(&bytes[..SECTOR - 4]);
    bytes[SECTOR - 4..SECTOR].copy_from_slice(&crc.to_le_bytes());
    let (mut chain, mut at) = (crc, SECTOR);
    while at + SECTOR <= bytes.len() && matches!(&bytes[at..at + 4], b"FRAM" | b"SEAL") {
        let payload = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("four bytes")) as usize;
        let total = (24 + payload).next_multiple_of(SECTOR);
        if total > bytes.len() - at {
            return;
        }
        bytes[at + 16..at + 20].copy_from_slice(&chain.to_le_bytes());
        let frame = &bytes[at..at + total];
        chain = crc32c::crc32c_append(crc32c::crc32c(&frame[..20]), &frame[24..]);
        bytes[at + 20..at + 24].copy_from_slice(&chain.to_le_bytes());
        at += total;
    }
}

fn host(disk: &SimDisk, seed: u64) -> Host {
    Host { disk: Arc::new(disk.clone()), clock: Arc::new(SimClock::default()), random: Arc::new(SimRandom::new(seed)) }
}

fn open(disk: &SimDisk, after: Index) -> Result<(Wal, Recovered), String> {
    Wal::open(&host(disk, 2), &PathBuf::from(DIR), Some(IDENTITY), after, OPTIONS).map_err(|fault| fault.to_string())
}

/// What [`Recovered`] promises, whatever the disk held.
fn check(recovered: &Recovered, after: Index) {
    let Recovered { entries, last, hard_state, .. } = recovered;
    for pair in entries.windows(2) {
        assert_eq!(pair[1].id.index.0 - 1, pair[0].id.index.0, "no gap");
    }
    if let (Some(first), Some(end)) = (entries.first(), entries.last()) {
        assert_eq!((first.id.index.0 - 1, end.id), (after.0, *last), "from the index asked for to the last");
    }
    assert!(hard_state.commit <= last.index, "what is committed is there");
}

/// A log that was accepted takes another entry, and has it and all the others after the next start.
fn go_on(disk: &SimDisk, wal: &mut Wal, recovered: Recovered, after: Index) {
    let (Some(index), Recovered { mut entries, hard_state, .. }) = (recovered.last.index.0.checked_add(1), recovered) else {
        return;
    };
    let next = Entry {
        id: LogId { term: hard_state.term, index: Index(index) },
        kind: EntryKind::Normal,
        data: Bytes::from_static(b"one more"),
    };
    wal.append(None, std::slice::from_ref(&next)).expect("the disk is sound");
    if next.id.index > after {
        entries.push(next.clone());
    }
    let (_, again) = open(disk, after).unwrap_or_else(|why| panic!("it was accepted before: {why}"));
    // What lies behind may still look like a write that was cut short: it is said once more, and is no part of the log.
    assert_eq!((again.last, again.hard_state), (next.id, hard_state));
    assert_eq!(again.entries, entries);
}
