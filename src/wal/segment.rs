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
const MAGIC: [u8; 8] = *b"BRMBLWAL";
const VERSION: u32 = 1;
/// Where the header's CRC stands, in this version and all later ones.
const CRC_AT: usize = SECTOR - 4;
const RESERVED_AT: usize = 96;
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
}

impl Header {
    /// The sector.
    pub(super) fn encode(&self) -> [u8; SECTOR] {
        let mut sector = [0; SECTOR];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
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
        if version != VERSION || sector[RESERVED_AT..CRC_AT].iter().any(|&byte| byte != 0) {
            return Err(format!(
                "the segment has format version {version} or a newer feature, and this program reads version {VERSION}"
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
        })
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
        }
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn a_header_of_another_version_says_so() {
        let mut sector = header().encode();
        sector[8] = 2;
        let crc = crc32c::crc32c(&sector[..CRC_AT]);
        sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert!(Header::decode(&sector).unwrap_err().contains("format version 2"));
    }

    #[test]
    fn a_header_with_a_feature_we_do_not_know_is_refused() {
        let mut sector = header().encode();
        sector[RESERVED_AT] = 1;
        let crc = crc32c::crc32c(&sector[..CRC_AT]);
        sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert!(Header::decode(&sector).is_err());
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
