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

const HARD_STATE_BYTES: usize = 25;
const ENTRY_BYTES: usize = 21;

/// One record as it stands in a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// Replaces the hard state before it.
    HardState(HardState),
    /// Follows the log's last entry, or replaces the log's tail from its index on.
    Entry { id: LogId, kind: EntryKind, data: &'a [u8] },
}

/// Bytes that an entry takes in a payload.
pub(super) fn entry_size(entry: &Entry) -> usize {
    ENTRY_BYTES + entry.data.len()
}

/// Bytes of the payload that [`encode`] makes.
pub(super) fn size(hard_state: Option<HardState>, entries: &[Entry]) -> usize {
    hard_state.map_or(0, |_| HARD_STATE_BYTES) + entries.iter().map(entry_size).sum::<usize>()
}

/// Hands the payload to `put`, piece by piece, data uncopied.
pub(super) fn encode(
    hard_state: Option<HardState>,
    entries: &[Entry],
    mut put: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    if let Some(state) = hard_state {
        let mut bytes = [0; HARD_STATE_BYTES];
        bytes[0] = HARD_STATE;
        bytes[1..9].copy_from_slice(&state.term.0.to_le_bytes());
        bytes[9..17].copy_from_slice(&state.vote.map_or(0, |member| member.0).to_le_bytes());
        bytes[17..25].copy_from_slice(&state.commit.0.to_le_bytes());
        put(&bytes)?;
    }
    for entry in entries {
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
    Ok(())
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
        let mut payload = Vec::new();
        encode(Some(state), &entries, |piece| {
            payload.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        assert_eq!(payload.len(), size(Some(state), &entries));
        let records: Vec<_> = decode(&payload).map(Result::unwrap).collect();
        assert_eq!(
            records,
            [
                Record::HardState(state),
                Record::Entry { id, kind: EntryKind::Normal, data: b"put" },
                Record::Entry { id: next, kind: EntryKind::ConfChange, data: b"" },
            ]
        );
        for cut in 1..payload.len() {
            let read: Vec<_> = decode(&payload[..cut]).collect();
            let whole = read.iter().filter(|record| record.is_ok()).count();
            assert!(whole < 3 && read.len() <= whole + 1, "cut at {cut}: {read:?}");
        }
    }

    #[test]
    fn an_unknown_kind_ends_the_reading() {
        assert_eq!(decode(&[9, 1, 1]).collect::<Vec<_>>().len(), 1);
    }
}
