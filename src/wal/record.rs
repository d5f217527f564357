//! Records: what a frame's payload is made of.
//!
//! One kind byte, then fixed fields, little end first; an entry's data follows its length. A frame's CRC covers its records, so
//! they have none of their own.

use std::io;

use crate::raft::{Entry, EntryKind, HardState, Index, LogId, MemberId, Term};

use super::segment::{u32_at, u64_at};

const HARD_STATE: u8 = 1;
const NORMAL: u8 = 2;
const CONF_CHANGE: u8 = 3;
const IN_RUN: u8 = 4;
const CLEAN_STOP: u8 = 5;

const HARD_STATE_BYTES: usize = 25;
const ENTRY_BYTES: usize = 21;
const IN_RUN_BYTES: usize = 9;
const CLEAN_STOP_BYTES: usize = 1;

/// One record as it stands in a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// Replaces the hard state before it.
    HardState(HardState),
    /// Follows the log's last entry, or replaces the log's tail from its index on.
    Entry { id: LogId, kind: EntryKind, data: &'a [u8] },
    /// The frame was written while others before it were not synced.
    InRun(InRun),
    /// Everything before is synced, and nothing followed in that life of the process.
    CleanStop,
}

/// How much of the log was synced when a frame was written. Of a frame without one, everything before it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InRun {
    /// Bytes from the frame back to the end of what was synced.
    pub back: u32,
    /// The chain there.
    pub chain: u32,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Payload<'a> {
    /// If frames before it are not synced.
    pub in_run: Option<InRun>,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries in index order.
    pub entries: &'a [Entry],
    /// The process ends, and all it wrote is synced.
    pub clean_stop: bool,
}

impl<'a> Payload<'a> {
    /// A payload of what Raft wants on disk.
    pub(super) fn new(hard_state: Option<HardState>, entries: &'a [Entry]) -> Payload<'a> {
        Payload { hard_state, entries, ..Payload::default() }
    }

    /// Bytes that [`Payload::encode`] makes.
    pub(super) fn size(&self) -> usize {
        self.in_run.map_or(0, |_| IN_RUN_BYTES)
            + self.hard_state.map_or(0, |_| HARD_STATE_BYTES)
            + self.entries.iter().map(entry_size).sum::<usize>()
            + if self.clean_stop { CLEAN_STOP_BYTES } else { 0 }
    }

    /// Hands itself to `put`, piece by piece, data uncopied.
    pub(super) fn encode(&self, mut put: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if let Some(InRun { back, chain }) = self.in_run {
            let mut bytes = [IN_RUN; IN_RUN_BYTES];
            bytes[1..5].copy_from_slice(&back.to_le_bytes());
            bytes[5..9].copy_from_slice(&chain.to_le_bytes());
            put(&bytes)?;
        }
        if let Some(state) = self.hard_state {
            let mut bytes = [HARD_STATE; HARD_STATE_BYTES];
            bytes[1..9].copy_from_slice(&state.term.0.to_le_bytes());
            bytes[9..17].copy_from_slice(&state.vote.map_or(0, |member| member.0).to_le_bytes());
            bytes[17..25].copy_from_slice(&state.commit.0.to_le_bytes());
            put(&bytes)?;
        }
        for entry in self.entries {
            let mut bytes = [0; ENTRY_BYTES];
            bytes[0] = match entry.kind {
                EntryKind::Normal => NORMAL,
                EntryKind::ConfChange => CONF_CHANGE,
            };
            bytes[1..9].copy_from_slice(&entry.id.term.0.to_le_bytes());
            bytes[9..17].copy_from_slice(&entry.id.index.0.to_le_bytes());
            let len = u32::try_from(entry.data.len()).expect("an entry is far smaller than 4 GiB");
            bytes[17..21].copy_from_slice(&len.to_le_bytes());
            put(&bytes)?;
            put(&entry.data)?;
        }
        if self.clean_stop { put(&[CLEAN_STOP]) } else { Ok(()) }
    }
}

/// Bytes that an entry takes in a payload.
pub(super) fn entry_size(entry: &Entry) -> usize {
    ENTRY_BYTES + entry.data.len()
}

/// Reads a payload's records in order. The error says what is wrong.
pub(super) fn decode(mut payload: &[u8]) -> impl Iterator<Item = Result<Record<'_>, &'static str>> {
    std::iter::from_fn(move || {
        let record = (!payload.is_empty()).then(|| split_record(payload))?;
        // After an error nothing more can be read.
        payload = record.as_ref().map_or(&[], |(_, rest)| rest);
        Some(record.map(|(record, _)| record))
    })
}

fn split_record(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), &'static str> {
    const SHORT: &str = "a record ends beyond its frame";
    let kind = match bytes[0] {
        HARD_STATE => {
            let (fixed, rest) = bytes.split_at_checked(HARD_STATE_BYTES).ok_or(SHORT)?;
            let vote = u64_at(fixed, 9);
            let state = HardState {
                term: Term(u64_at(fixed, 1)),
                vote: (vote != 0).then_some(MemberId(vote)),
                commit: Index(u64_at(fixed, 17)),
            };
            return Ok((Record::HardState(state), rest));
        }
        IN_RUN => {
            let (fixed, rest) = bytes.split_at_checked(IN_RUN_BYTES).ok_or(SHORT)?;
            return Ok((Record::InRun(InRun { back: u32_at(fixed, 1), chain: u32_at(fixed, 5) }), rest));
        }
        CLEAN_STOP => return Ok((Record::CleanStop, &bytes[CLEAN_STOP_BYTES..])),
        NORMAL => EntryKind::Normal,
        CONF_CHANGE => EntryKind::ConfChange,
        _ => return Err("a record has a kind that this program does not know"),
    };
    let (fixed, rest) = bytes.split_at_checked(ENTRY_BYTES).ok_or(SHORT)?;
    let (data, rest) = rest.split_at_checked(u32_at(fixed, 17) as usize).ok_or(SHORT)?;
    let id = LogId { term: Term(u64_at(fixed, 1)), index: Index(u64_at(fixed, 9)) };
    Ok((Record::Entry { id, kind, data }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn records_read_back_as_they_were_written() {
        let state = HardState { term: Term(3), vote: Some(MemberId(4)), commit: Index(5) };
        let id = LogId { term: Term(3), index: Index(6) };
        let next = LogId { term: Term(3), index: Index(7) };
        let entries = [
            Entry { id, kind: EntryKind::Normal, data: Bytes::from_static(b"put") },
            Entry { id: next, kind: EntryKind::ConfChange, data: Bytes::new() },
        ];
        let in_run = InRun { back: 4096, chain: 0x0102_0304 };
        let written = Payload { in_run: Some(in_run), hard_state: Some(state), entries: &entries, clean_stop: true };
        let mut payload = Vec::new();
        written
            .encode(|piece| {
                payload.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        assert_eq!(payload.len(), written.size());
        let records: Vec<_> = decode(&payload).map(Result::unwrap).collect();
        assert_eq!(
            records,
            [
                Record::InRun(in_run),
                Record::HardState(state),
                Record::Entry { id, kind: EntryKind::Normal, data: b"put" },
                Record::Entry { id: next, kind: EntryKind::ConfChange, data: b"" },
                Record::CleanStop,
            ]
        );
        for cut in 1..payload.len() {
            let read: Vec<_> = decode(&payload[..cut]).collect();
            let whole = read.iter().filter(|record| record.is_ok()).count();
            assert!(whole < records.len() && read.len() <= whole + 1, "cut at {cut}: {read:?}");
        }
    }

    #[test]
    fn an_unknown_kind_ends_the_reading() {
        assert_eq!(decode(&[9, 1, 1]).collect::<Vec<_>>().len(), 1);
    }
}
