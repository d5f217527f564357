//! Frames: the unit of append. One for each sync, or of a relaxed class several.
//!
//! A frame is a header, a payload of records and zeros up to a whole sector, or unit of a relaxed class. Its CRC covers all of that, names the segment (by
//! nonce) and the frame before (by that one's CRC: the chain), so a frame is valid in one place only. A seal is a frame without
//! payload that ends a segment: it says that the next segment exists.

use std::io;

use crate::host::{DIRECT_ALIGN, File};

use super::record::Payload;
use super::segment::{SECTOR, u32_at, u64_at};

/// Bytes of a frame's header.
pub(super) const HEADER: usize = 24;
const CRC_AT: usize = 20;
/// Below this the write buffer is kept, above it is given back when it is no longer needed.
const BUFFER_KEPT: usize = 64 * 1024;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It holds records.
    Records,
    /// It ends a segment.
    Seal,
}

impl Kind {
    fn magic(self) -> [u8; 4] {
        match self {
            Kind::Records => *b"FRAM",
            Kind::Seal => *b"SEAL",
        }
    }

    /// By the four bytes that a frame begins with.
    pub(super) fn of(bytes: &[u8]) -> Option<Kind> {
        [Kind::Records, Kind::Seal].into_iter().find(|kind| bytes[..4] == kind.magic())
    }
}

/// A frame's header, all but the CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    /// Bytes of records, without header and padding.
    pub payload: u32,
    /// Its segment's nonce.
    pub nonce: u64,
    /// The chain before it.
    pub previous: u32,
}

impl Header {
    fn encode(&self) -> [u8; CRC_AT] {
        let mut bytes = [0; CRC_AT];
        bytes[..4].copy_from_slice(&self.kind.magic());
        bytes[4..8].copy_from_slice(&self.payload.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.previous.to_le_bytes());
        bytes
    }

    /// Reads the header that these bytes begin with; `None` if there is none with this nonce. The CRC is not looked at.
    pub(super) fn decode(bytes: &[u8], nonce: u64) -> Option<Header> {
        let kind = Kind::of(bytes)?;
        let header = Header { kind, payload: u32_at(bytes, 4), nonce: u64_at(bytes, 8), previous: u32_at(bytes, 16) };
        (header.nonce == nonce).then_some(header)
    }
}

/// Bytes of a frame with this payload in a segment of this unit.
pub(super) fn total(payload: usize, unit: usize) -> u64 {
    (HEADER as u64 + payload as u64).next_multiple_of(unit as u64)
}

/// The CRC of a whole frame, if it is the one its header gives.
pub(super) fn check(frame: &[u8]) -> Option<u32> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..CRC_AT]), &frame[HEADER..]);
    (u32_at(frame, CRC_AT) == crc).then_some(crc)
}

/// The buffer that frames are encoded in. It never grows beyond its cap: a longer frame leaves in pieces.
pub(super) struct Buffer {
    /// What a frame is made of begins at `start`, the first address in it that direct writes can begin at.
    bytes: Vec<u8>,
    start: usize,
    cap: usize,
}

/// A frame on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// The frame's CRC.
    pub crc: u32,
    /// It is there for good. If not, it has to be synced.
    pub durable: bool,
}

impl Buffer {
    /// A buffer of at most `cap` bytes, rounded to whole sectors, at least two.
    pub(super) fn new(cap: usize) -> Buffer {
        Buffer { bytes: Vec::new(), start: 0, cap: cap.next_multiple_of(SECTOR).max(2 * SECTOR) }
    }

    /// Writes one frame at `at`, and zeros behind it to the end of its last sector; one write unless it is longer than the cap.
    /// `through` asks for a write that is durable at once, which one write may be.
    pub(super) fn write(
        &mut self,
        file: &dyn File,
        at: u64,
        through: bool,
        header: Header,
        unit: usize,
        payload: &Payload<'_>,
    ) -> io::Result<Written> {
        let total = total(header.payload as usize, unit);
        self.fit(usize::try_from(total).unwrap_or(usize::MAX));
        let begin = header.encode();
        let mut pieces = Pieces { file, begin: at, at, buffer: self, crc: crc32c::crc32c(&begin), head: None };
        pieces.buffer.bytes.extend_from_slice(&begin);
        pieces.buffer.bytes.extend_from_slice(&[0; HEADER - CRC_AT]);
        payload.encode(|piece| pieces.put(piece))?;
        pieces.finish(total, through)
    }

    /// Room for the frame that comes, and no more than [`BUFFER_KEPT`] or four times its need for those that are over.
    fn fit(&mut self, total: usize) {
        let wanted = total.min(self.cap) + DIRECT_ALIGN + SECTOR;
        let (had, most) = (self.bytes.capacity(), BUFFER_KEPT.max(wanted.saturating_mul(4)));
        // Otherwise it stays where it is, and what stands before `start` need not be written again.
        if !(wanted..=most).contains(&had) {
            self.bytes.clear();
            self.bytes.shrink_to(BUFFER_KEPT.max(wanted));
            self.bytes.reserve_exact(wanted);
        }
        let address = self.bytes.as_ptr().addr();
        self.start = address.next_multiple_of(DIRECT_ALIGN) - address;
        self.clear();
    }

    fn clear(&mut self) {
        self.bytes.resize(self.start, 0);
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn content(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// A frame under way. Its first sector holds the CRC of all the others, so it leaves last.
struct Pieces<'a> {
    file: &'a dyn File,
    /// Where the frame begins.
    begin: u64,
    /// Where the buffer's first byte goes.
    at: u64,
    buffer: &'a mut Buffer,
    crc: u32,
    head: Option<[u8; SECTOR]>,
}

impl Pieces<'_> {
    fn put(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            if self.buffer.len() == self.buffer.cap {
                self.flush()?;
            }
            let (now, later) = data.split_at(data.len().min(self.buffer.cap - self.buffer.len()));
            self.buffer.bytes.extend_from_slice(now);
            data = later;
        }
        Ok(())
    }

    /// Adds what the buffer holds to the CRC, which starts behind its own field.
    fn add_to_crc(&mut self) {
        let from = if self.at == self.begin { HEADER } else { 0 };
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer.content()[from..]);
    }

    /// Writes the buffer.
    fn flush(&mut self) -> io::Result<()> {
        self.add_to_crc();
        self.write_out()
    }

    /// Writes the buffer, whose bytes are in the CRC, but for the frame's first sector.
    fn write_out(&mut self) -> io::Result<()> {
        let from = if self.at == self.begin { SECTOR } else { 0 };
        if from > 0 {
            self.head = Some(self.buffer.content()[..SECTOR].try_into().expect("a sector"));
        }
        self.file.write_at(&self.buffer.content()[from..], self.at + from as u64)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Fills the buffer up with zeros.
    fn pad_to(&mut self, end: u64) {
        let len = usize::try_from(end - self.at).expect("at most the buffer's cap and a sector");
        self.buffer.bytes.resize(self.buffer.start + len, 0);
    }

    fn finish(mut self, total: u64, through: bool) -> io::Result<Written> {
        let end = self.begin + total;
        self.pad_to(end);
        self.add_to_crc();
        self.pad_to(end.next_multiple_of(SECTOR as u64));
        let Some(mut head) = self.head else {
            let crc_at = self.buffer.start + CRC_AT;
            self.buffer.bytes[crc_at..crc_at + 4].copy_from_slice(&self.crc.to_le_bytes());
            let frame = self.buffer.content();
            let durable = if through {
                self.file.write_through_at(frame, self.at)?
            } else {
                self.file.write_at(frame, self.at).map(|()| false)?
            };
            return Ok(Written { crc: self.crc, durable });
        };
        self.write_out()?;
        head[CRC_AT..HEADER].copy_from_slice(&self.crc.to_le_bytes());
        self.file.write_at(&head, self.begin)?;
        Ok(Written { crc: self.crc, durable: false })
    }
}
