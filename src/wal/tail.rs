//! The end of the newest segment: what a power cut has spoilt, or damage?
//!
//! Frames of a run are written without a sync between them, so a power cut may keep any of them, whole or in part. Each frame says
//! where its run began: up to there the log was synced when it was written, and the chain there tells what it held. Let the log be
//! readable up to X. If a valid frame behind X was written when X was synced already, or after another frame than the last one that
//! was read, then synced bytes are gone: damage. If none was, all that lies behind X was written since the last sync, and may be cut.

use std::io;

use crate::error::Fault;
use crate::host::File;

use super::frame::{self, Kind};
use super::record::{self, InRun, Record};
use super::recover::REMEDY;
use super::segment::{Header, SECTOR, Segment};

/// What is read from a file at once.
const WINDOW: usize = 256 * 1024;

/// What stands behind the last frame that was read.
pub(super) struct Tail {
    /// Frames that were never synced, or what is left of them.
    pub torn: bool,
    /// Where the last of them ends that is whole; it must not be there when frames are written behind the last one that was read.
    pub wipe_to: u64,
}

impl Tail {
    /// Looks behind the last frame of the newest segment.
    pub(super) fn look(segment: &Segment) -> Result<Tail, Fault> {
        let Segment { header, path, file, end, .. } = segment;
        let io = |error| Fault::io("read", path, &error);
        let mut window = Window::new(&**file, header);
        let mut tail = Tail { torn: false, wipe_to: *end };
        for place in [*end, segment.next_sector()] {
            tail.torn |= window.header(place).map_err(io)?.is_some();
        }
        let mut at = *end;
        while let Some((place, frame)) = window.next_from(at).map_err(io)? {
            if !may_be_cut(segment, place, &frame) {
                let what = match place == segment.next_sector() {
                    true => "a frame does not follow the one before it".to_owned(),
                    false => format!("no valid frame is here, but one follows at byte {place}"),
                };
                return Err(Fault::damaged(path.clone(), *end, &what, REMEDY));
            }
            tail = Tail { torn: true, wipe_to: frame.end };
            at = place + header.unit() as u64;
        }
        Ok(tail)
    }
}

/// Whether a valid frame that stands at `place`, behind the end of what can be read, was written when nothing behind that end was
/// synced.
fn may_be_cut(segment: &Segment, place: u64, frame: &Frame<'_>) -> bool {
    let (synced, chain) = match record::decode(frame.payload).next() {
        Some(Ok(Record::InRun(InRun { back, chain }))) => (place.saturating_sub(back.into()), chain),
        _ => (place, frame.header.previous),
    };
    // A run begins at a new sector: the first one behind the end, if everything up to the end was synced.
    synced < segment.next_sector() || (synced == segment.next_sector() && chain == segment.chain)
}

/// A frame whose CRC is right.
pub(super) struct Frame<'a> {
    pub header: frame::Header,
    pub crc: u32,
    pub payload: &'a [u8],
    /// The byte behind it.
    pub end: u64,
}

/// A moving view of a segment: one buffer, however long the file is. A frame longer than the buffer makes it grow.
pub(super) struct Window<'a> {
    file: &'a dyn File,
    len: u64,
    nonce: u64,
    unit: usize,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn File, header: &Header) -> Window<'a> {
        Window { file, len: header.len, nonce: header.nonce, unit: header.unit(), start: 0, bytes: Vec::new() }
    }

    /// `count` bytes from `at`. The caller stays within the file.
    fn get(&mut self, at: u64, count: usize) -> io::Result<&[u8]> {
        let inside = at >= self.start && at + count as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            let left = usize::try_from(self.len - at).unwrap_or(usize::MAX);
            self.start = at;
            self.bytes.resize(count.max(WINDOW).min(left), 0);
            self.file.read_at(&mut self.bytes, at)?;
        }
        let from = usize::try_from(at - self.start).expect("within the buffer");
        Ok(&self.bytes[from..from + count])
    }

    /// The frame that follows one that ends at `at` with `chain`, and its place: right there, or at the next sector if a sync came
    /// between.
    pub(super) fn following(&mut self, at: u64, chain: u32) -> io::Result<Option<(u64, Frame<'_>)>> {
        let mut place = at.next_multiple_of(SECTOR as u64);
        if at != place && self.header(at)?.is_some_and(|header| header.previous == chain) {
            place = at;
        }
        let frame = self.frame(place)?.filter(|frame| frame.header.previous == chain);
        Ok(frame.map(|frame| (place, frame)))
    }

    /// The header of a frame of this segment, be the frame valid or not.
    fn header(&mut self, at: u64) -> io::Result<Option<frame::Header>> {
        if at + frame::HEADER as u64 > self.len {
            return Ok(None);
        }
        let nonce = self.nonce;
        Ok(frame::Header::decode(self.get(at, frame::HEADER)?, nonce))
    }

    /// The frame at `at`, if a valid one of this segment is there. The chain is not looked at.
    fn frame(&mut self, at: u64) -> io::Result<Option<Frame<'_>>> {
        let Some(header) = self.header(at)? else { return Ok(None) };
        let total = frame::total(header.payload as usize, self.unit);
        if at + total > self.len {
            return Ok(None);
        }
        let Ok(count) = usize::try_from(total) else { return Ok(None) };
        let bytes = self.get(at, count)?;
        let Some(crc) = frame::check(bytes) else { return Ok(None) };
        let payload = &bytes[frame::HEADER..frame::HEADER + header.payload as usize];
        Ok(Some(Frame { header, crc, payload, end: at + total }))
    }

    /// The first valid frame of this segment at `at` or behind it, wherever frames may begin, and its place.
    fn next_from(&mut self, at: u64) -> io::Result<Option<(u64, Frame<'_>)>> {
        let mut at = at;
        while let Some(place) = self.next_magic(at)? {
            if self.frame(place)?.is_some() {
                let frame = self.frame(place)?.expect("just seen");
                return Ok(Some((place, frame)));
            }
            at = place + self.unit as u64;
        }
        Ok(None)
    }

    /// The next place at `at` or behind it that looks like a frame's beginning.
    fn next_magic(&mut self, at: u64) -> io::Result<Option<u64>> {
        let mut at = at.next_multiple_of(self.unit as u64);
        let unit = self.unit;
        while at + frame::HEADER as u64 <= self.len {
            let left = usize::try_from(self.len - at).unwrap_or(usize::MAX);
            let piece = self.get(at, SECTOR.min(left))?;
            let starts = (0..piece.len()).step_by(unit).filter(|from| from + 4 <= piece.len());
            if let Some(from) = starts.into_iter().find(|from| Kind::of(&piece[*from..]).is_some()) {
                return Ok(Some(at + from as u64));
            }
            at += piece.len().next_multiple_of(unit) as u64;
        }
        Ok(None)
    }
}
