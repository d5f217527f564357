//! Segment files: their names and the sector they begin with.
//!
//! A segment is born as a spare (`spare.rs`). Its header and first frame are written and synced while it is still called a spare,
//! and the rename to `.wal` commits both. So a file with a segment's name always has a whole header: a bad one is damage.

use std::path::{Path, PathBuf};

use crate::host::{self, File};
use crate::raft::{HardState, Index, LogId, MemberId, Term};

use super::Identity;

/// The unit of every write. No acknowledged sector is ever written again with other bytes.
pub(super) const SECTOR: usize = host::SECTOR;
/// Where frames may begin in a segment of the relaxed class: those of one run share sectors.
const PACKED: usize = 8;
const MAGIC: [u8; 8] = *b"BRMBLWAL";
/// Every frame is synced before the next is written.
const STRICT: u32 = 1;
/// Frames may stand in runs that are synced together.
const RELAXED: u32 = 2;
/// Where the header's CRC stands, in this version and all later ones.
const CRC_AT: usize = SECTOR - 4;
const MAX_UNSYNCED_AT: usize = 96;
/// Numbers are given out one by one, from 1. No file of ours has a higher one, so that there always is a next.
const HIGHEST: u64 = u64::MAX >> 1;

/// The first sector of a segment: whose it is, where it stands, and the log's state before its first frame, so that it can be
/// read with every older segment gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Whose log this is.
    pub identity: Identity,
    /// Segments are numbered from 1 without a gap.
    pub sequence: u64,
    /// The file's length in bytes.
    pub len: u64,
    /// Random. Frames repeat it, so that what an earlier life of a recycled file left behind never passes for a frame of this one.
    pub nonce: u64,
    /// The chain at the end of the segment before; 0 for the first.
    pub previous: u32,
    /// The log's last entry before this segment.
    pub base: LogId,
    /// The hard state before this segment.
    pub hard_state: HardState,
    /// The most entries that wait for a sync at any time, acknowledged as they may be; 0: none ever does. It makes the version.
    pub max_unsynced: u32,
}

impl Header {
    /// The sector.
    pub(super) fn encode(&self) -> [u8; SECTOR] {
        let mut sector = [0; SECTOR];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &if self.max_unsynced == 0 { STRICT } else { RELAXED }.to_le_bytes());
        put(12, &self.previous.to_le_bytes());
        put(16, &self.identity.cluster_id.to_le_bytes());
        put(24, &self.identity.member_id.to_le_bytes());
        put(32, &self.sequence.to_le_bytes());
        put(40, &self.len.to_le_bytes());
        put(48, &self.nonce.to_le_bytes());
        put(56, &self.base.term.0.to_le_bytes());
        put(64, &self.base.index.0.to_le_bytes());
        put(72, &self.hard_state.term.0.to_le_bytes());
        put(80, &self.hard_state.vote.map_or(0, |member| member.0).to_le_bytes());
        put(88, &self.hard_state.commit.0.to_le_bytes());
        put(MAX_UNSYNCED_AT, &self.max_unsynced.to_le_bytes());
        let crc = crc32c::crc32c(&sector[..CRC_AT]);
        sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    /// Reads a sector back. The error says what is wrong with it.
    pub(super) fn decode(sector: &[u8; SECTOR]) -> Result<Header, String> {
        if sector[..8] != MAGIC {
            return Err("this is no segment header".into());
        }
        if u32_at(sector, CRC_AT) != crc32c::crc32c(&sector[..CRC_AT]) {
            return Err("the segment header's CRC does not match".into());
        }
        let version = u32_at(sector, 8);
        let max_unsynced = u32_at(sector, MAX_UNSYNCED_AT);
        let known = version == if max_unsynced == 0 { STRICT } else { RELAXED };
        if !known || sector[MAX_UNSYNCED_AT + 4..CRC_AT].iter().any(|&byte| byte != 0) {
            return Err(format!(
                "the segment has format version {version} or a newer feature, and this program reads versions {STRICT} and {RELAXED}"
            ));
        }
        let vote = u64_at(sector, 80);
        Ok(Header {
            identity: Identity { cluster_id: u64_at(sector, 16), member_id: u64_at(sector, 24) },
            sequence: u64_at(sector, 32),
            len: u64_at(sector, 40),
            nonce: u64_at(sector, 48),
            previous: u32_at(sector, 12),
            base: LogId { term: Term(u64_at(sector, 56)), index: Index(u64_at(sector, 64)) },
            hard_state: HardState {
                term: Term(u64_at(sector, 72)),
                vote: (vote != 0).then_some(MemberId(vote)),
                commit: Index(u64_at(sector, 88)),
            },
            max_unsynced,
        })
    }

    /// What the places and lengths of frames are multiples of.
    pub(super) fn unit(&self) -> usize {
        if self.max_unsynced == 0 { SECTOR } else { PACKED }
    }

    /// The chain's first link in this segment: the header's own CRC.
    pub(super) fn chain(&self) -> u32 {
        u32_at(&self.encode(), CRC_AT)
    }
}

/// The segment that frames go to.
pub(super) struct Segment {
    pub header: Header,
    pub path: PathBuf,
    pub file: Box<dyn File>,
    /// Where the next frame goes.
    pub end: u64,
    /// The CRC of the last frame, or of the header if there is none.
    pub chain: u32,
}

impl Segment {
    /// Bytes that frames may still take. The last sector is kept for the seal.
    pub(super) fn room(&self) -> u64 {
        frame_room(self.header.len).saturating_sub(self.end - SECTOR as u64)
    }

    /// Where the next sector begins: a frame never shares one with a frame that is synced.
    pub(super) fn next_sector(&self) -> u64 {
        self.end.next_multiple_of(SECTOR as u64)
    }
}

/// Bytes that frames may take in a segment of `len` bytes: all but the header and the seal.
pub(super) fn frame_room(len: u64) -> u64 {
    len.saturating_sub(2 * SECTOR as u64)
}

/// What a file in the WAL directory is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Part of the log.
    Segment(u64),
    /// Written and synced in full, waiting to become a segment.
    Spare(u64),
    /// Not yet written in full.
    Unfinished(u64),
}

impl Name {
    /// `None` for a file that is not ours.
    pub(super) fn parse(name: &str) -> Option<Name> {
        let (number, kind) = name.split_once('.')?;
        if number.len() != 16 || !number.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let number = u64::from_str_radix(number, 16).ok().filter(|&number| number <= HIGHEST)?;
        match kind {
            "wal" => Some(Name::Segment(number)),
            "spare" => Some(Name::Spare(number)),
            "tmp" => Some(Name::Unfinished(number)),
            _ => None,
        }
    }

    /// Where it is.
    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(match self {
            Name::Segment(number) => format!("{number:016x}.wal"),
            Name::Spare(number) => format!("{number:016x}.spare"),
            Name::Unfinished(number) => format!("{number:016x}.tmp"),
        })
    }
}

/// Four bytes, little end first. Panics beyond the end: the caller knows the length.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Eight bytes, little end first. Panics beyond the end: the caller knows the length.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            identity: Identity { cluster_id: 1, member_id: 2 },
            sequence: 3,
            len: 4096,
            nonce: 5,
            previous: 6,
            base: LogId { term: Term(7), index: Index(8) },
            hard_state: HardState { term: Term(9), vote: Some(MemberId(10)), commit: Index(8) },
            max_unsynced: 0,
        }
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
        let relaxed = Header { max_unsynced: 1000, ..header() };
        assert_eq!(Header::decode(&relaxed.encode()), Ok(relaxed));
        assert_eq!((header().encode()[8], relaxed.encode()[8]), (1, 2), "who does not know the class must not open its logs");
    }

    /// The header with this byte changed, and a CRC that fits.
    fn changed(at: usize, byte: u8) -> Result<Header, String> {
        let mut sector = header().encode();
        sector[at] = byte;
        let crc = crc32c::crc32c(&sector[..CRC_AT]);
        sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        Header::decode(&sector)
    }

    #[test]
    fn a_header_of_another_version_says_so() {
        assert!(changed(8, 3).unwrap_err().contains("format version 3"));
    }

    #[test]
    fn a_header_with_a_feature_we_do_not_know_is_refused() {
        assert!(changed(MAX_UNSYNCED_AT + 4, 1).is_err());
        assert!(changed(MAX_UNSYNCED_AT, 1).is_err(), "version 1 with a field of version 2");
        assert!(changed(8, 2).is_err(), "version 2 without its field");
    }

    #[test]
    fn names_are_sixteen_lower_case_hexadecimal_digits_and_a_kind() {
        assert_eq!(Name::parse("00000000000000ff.wal"), Some(Name::Segment(255)));
        assert_eq!(Name::parse("00000000000000ff.spare"), Some(Name::Spare(255)));
        assert_eq!(Name::parse("00000000000000ff.tmp"), Some(Name::Unfinished(255)));
        for other in [
            "ff.wal",
            "00000000000000FF.wal",
            "ffffffffffffffff.spare",
            "ffffffffffffffff.wal",
            "00000000000000ff.wal.bak",
            "lost+found",
            "+0000000000000ff.wal",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
        assert_eq!(Name::Segment(255).path(Path::new("w")), Path::new("w/00000000000000ff.wal"));
    }
}
