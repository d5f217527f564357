//! Reading the log back after a start.
//!
//! Frame N+1 is written only after frame N is synced, so a crash can spoil the last frame alone. An invalid frame in the last
//! segment with no valid one behind it is that torn tail: it was never acknowledged and is cut. Everything else that does not
//! check is damage, and is refused.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::Fault;
use crate::host::{Disk, File};
use crate::raft::{Entry, HardState, Index, LogId};

use super::Identity;
use super::frame::{self, Kind};
use super::record::{self, Record};
use super::segment::{Header, Name, SECTOR, Segment};
use super::spare::{Closed, Spare};

/// What is read from a file at once.
const WINDOW: usize = 256 * 1024;
const REMEDY: &str = "Acknowledged writes may be lost, so the member does not start. Restore its data directory from a backup, \
     or in a cluster remove the member, wipe the directory and add it again as a new member";

/// What the directory holds.
#[derive(Default)]
pub(super) struct Listing {
    /// Sequence numbers, ascending.
    pub segments: Vec<u64>,
    pub spares: Vec<u64>,
    pub unfinished: Vec<u64>,
}

impl Listing {
    /// Files that are not ours are passed over.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for name in disk.list(dir)? {
            match Name::parse(&name) {
                Some(Name::Segment(number)) => listing.segments.push(number),
                Some(Name::Spare(number)) => listing.spares.push(number),
                Some(Name::Unfinished(number)) => listing.unfinished.push(number),
                None => {}
            }
        }
        listing.segments.sort_unstable();
        Ok(listing)
    }

    /// A number above those of all spares.
    pub(super) fn next_spare(&self) -> u64 {
        self.spares.iter().chain(&self.unfinished).max().map_or(1, |number| number + 1)
    }

    /// Opens the spares of the right length; removes the others and what was never finished.
    pub(super) fn spares(&self, disk: &dyn Disk, dir: &Path, len: u64) -> Result<Vec<Spare>, Fault> {
        let remove = |path: &Path| disk.remove(path).map_err(|error| Fault::io("remove", path, &error));
        for &number in &self.unfinished {
            remove(&Name::Unfinished(number).path(dir))?;
        }
        let mut spares = Vec::new();
        for &number in &self.spares {
            let path = Name::Spare(number).path(dir);
            let file = disk.open(&path).map_err(|error| Fault::io("open", &path, &error))?;
            if file.len().map_err(|error| Fault::io("read the length of", &path, &error))? == len {
                spares.push(Spare { path, file, len });
            } else {
                remove(&path)?;
            }
        }
        Ok(spares)
    }
}

/// The log as the disk has it.
pub(super) struct Replayed {
    pub identity: Identity,
    /// The segment that frames go to next.
    pub current: Segment,
    /// Where the last frame begins, if the current segment has one.
    pub last_frame: Option<u64>,
    /// Older segments, oldest first: those not needed for the entries asked for, and those needed.
    pub closed: Vec<Closed>,
    /// A needed segment whose seal is missing: the crash came between it and the next segment's birth.
    pub unsealed: Option<Segment>,
    pub last: LogId,
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    /// A torn tail was cut here.
    pub torn: bool,
}

/// Reads the entries above `after`, and nothing that is older than the segment where they begin.
pub(super) fn replay(
    disk: &dyn Disk,
    dir: &Path,
    listing: &Listing,
    expected: Option<Identity>,
    after: Index,
) -> Result<Replayed, Fault> {
    let opened = open_needed(disk, dir, listing, expected, after)?;
    let first = &opened[0].header;
    let mut log = Log { after, last: first.base, hard_state: first.hard_state, entries: Vec::new() };
    let identity = first.identity;
    let mut closed = older(disk, dir, listing, first)?;
    let mut unsealed = None;

    let mut segments = opened.into_iter().peekable();
    while let Some(mut segment) = segments.next() {
        let end = log.read(&mut segment)?;
        let Some(next) = segments.peek() else {
            let torn = check_tail(&segment, &end)?;
            let Log { last, hard_state, entries, .. } = log;
            let last_frame = end.last_frame;
            return Ok(Replayed { identity, current: segment, last_frame, closed, unsealed, last, hard_state, entries, torn });
        };
        log.check_joint(&segment, next)?;
        closed.push(Closed { sequence: segment.header.sequence, len: segment.header.len, until: log.last.index });
        unsealed = (!end.sealed).then_some(segment);
    }
    unreachable!("there is a newest segment")
}

/// Opens segments from the newest down to the one in which the entries above `after` begin. Oldest first.
fn open_needed(
    disk: &dyn Disk,
    dir: &Path,
    listing: &Listing,
    expected: Option<Identity>,
    after: Index,
) -> Result<Vec<Segment>, Fault> {
    let newest = *listing.segments.last().ok_or_else(|| Fault::new(format!("{} holds no WAL", dir.display())))?;
    let mut expected = expected;
    let mut opened = Vec::new();
    for sequence in (0..=newest).rev() {
        let path = Name::Segment(sequence).path(dir);
        if listing.segments.binary_search(&sequence).is_err() {
            return Err(missing(&path, opened.last(), after));
        }
        let segment = open_segment(disk, path, sequence, expected)?;
        expected = Some(segment.header.identity);
        let reached = segment.header.base.index <= after;
        opened.push(segment);
        if reached {
            break;
        }
    }
    opened.reverse();
    Ok(opened)
}

fn missing(path: &Path, next: Option<&Segment>, after: Index) -> Fault {
    let base = next.map_or(after, |segment| segment.header.base.index);
    let path = path.display();
    Fault::new(format!(
        "{path} is missing, and the checkpoint stands at index {after}: the entries up to {base} are lost. {REMEDY}"
    ))
}

fn open_segment(disk: &dyn Disk, path: PathBuf, sequence: u64, expected: Option<Identity>) -> Result<Segment, Fault> {
    let damaged = |at: u64, what: &str| Fault::damaged(path.clone(), at, what, REMEDY);
    let file = disk.open(&path).map_err(|error| Fault::io("open", &path, &error))?;
    let len = file.len().map_err(|error| Fault::io("read the length of", &path, &error))?;
    if len < SECTOR as u64 {
        return Err(damaged(len, "the file ends within its header"));
    }
    let mut sector = [0; SECTOR];
    file.read_at(&mut sector, 0).map_err(|error| Fault::io("read", &path, &error))?;
    let header = Header::decode(&sector).map_err(|what| damaged(0, &what))?;
    if header.sequence != sequence {
        return Err(damaged(32, &format!("the file is segment {:016x} under another name", header.sequence)));
    }
    if let Some(expected) = expected.filter(|&expected| expected != header.identity) {
        let what = format!("it belongs to {}, but this is {expected}: it comes from another data directory", header.identity);
        return Err(damaged(16, &what));
    }
    if header.len != len {
        return Err(damaged(len.min(header.len), &format!("the file has {len} bytes, its header says {}", header.len)));
    }
    if header.hard_state.commit > header.base.index {
        return Err(damaged(88, "the commit index in the header is beyond the log's end there"));
    }
    Ok(Segment { header, path, file, end: SECTOR as u64, chain: header.chain() })
}

/// Segments older than the first one needed. They may have gaps: a crash can come while they are being recycled.
fn older(disk: &dyn Disk, dir: &Path, listing: &Listing, first: &Header) -> Result<Vec<Closed>, Fault> {
    let mut closed = Vec::new();
    for &sequence in listing.segments.iter().filter(|&&sequence| sequence < first.sequence) {
        let path = Name::Segment(sequence).path(dir);
        let len = disk.open(&path).and_then(|file| file.len()).map_err(|error| Fault::io("open", &path, &error))?;
        closed.push(Closed { sequence, len, until: first.base.index });
    }
    Ok(closed)
}

/// Where a segment's frames end.
struct End {
    last_frame: Option<u64>,
    sealed: bool,
}

/// The log while it is read.
struct Log {
    after: Index,
    last: LogId,
    hard_state: HardState,
    /// Those above `after`, without a gap.
    entries: Vec<Entry>,
}

impl Log {
    /// Reads frames up to the first one that is invalid, and leaves `segment` ready to take the next.
    fn read(&mut self, segment: &mut Segment) -> Result<End, Fault> {
        let Segment { header, path, file, end, chain } = segment;
        let mut window = Window::new(&**file, header.len);
        let mut last_frame = None;
        loop {
            let frame = window.frame(*end, header.nonce).map_err(|error| Fault::io("read", path, &error))?;
            let Some(Frame { header: frame, crc, payload }) = frame else {
                return Ok(End { last_frame, sealed: false });
            };
            let damaged = |what: &str| Fault::damaged(path.clone(), *end, what, REMEDY);
            if frame.previous != *chain {
                return Err(damaged("a frame does not follow the one before it"));
            }
            if frame.kind == Kind::Seal {
                return Ok(End { last_frame, sealed: true });
            }
            for record in record::decode(payload) {
                record.and_then(|record| self.add(record)).map_err(damaged)?;
            }
            if self.hard_state.commit > self.last.index {
                return Err(damaged("the commit index is beyond the log's end"));
            }
            last_frame = Some(*end);
            *end += frame.total();
            *chain = crc;
        }
    }

    fn add(&mut self, record: Record<'_>) -> Result<(), &'static str> {
        let (id, kind, data) = match record {
            Record::HardState(state) => {
                self.hard_state = state;
                return Ok(());
            }
            Record::Entry { id, kind, data } => (id, kind, data),
        };
        if id.index == Index(0) || id.index.0 - 1 > self.last.index.0 {
            return Err("an entry does not follow the one before it");
        }
        // An entry at or below the last one replaces the log's tail (paper §5.3).
        let kept = (id.index.0 - 1).saturating_sub(self.after.0);
        self.entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        if id.index > self.after {
            self.entries.push(Entry { id, kind, data: Bytes::copy_from_slice(data) });
        }
        self.last = id;
        Ok(())
    }

    /// The next segment's header must agree with all that was read.
    fn check_joint(&self, segment: &Segment, next: &Segment) -> Result<(), Fault> {
        let header = &next.header;
        if header.previous != segment.chain {
            let what = "a frame is invalid here, and the next segment shows that there was one";
            return Err(Fault::damaged(segment.path.clone(), segment.end, what, REMEDY));
        }
        if header.base != self.last || header.hard_state != self.hard_state {
            let what = "the log's state in the header is not the one that the segment before ends with";
            return Err(Fault::damaged(next.path.clone(), 56, what, REMEDY));
        }
        Ok(())
    }
}

/// Looks behind the last frame of the newest segment. True if a torn frame is there.
fn check_tail(segment: &Segment, end: &End) -> Result<bool, Fault> {
    let Segment { header, path, file, end: tail, .. } = segment;
    let io = |error| Fault::io("read", path, &error);
    if end.sealed {
        let next = path.with_file_name(format!("{:016x}.wal", header.sequence + 1));
        return Err(Fault::new(format!("{} is missing: {} says that it exists. {REMEDY}", next.display(), path.display())));
    }
    let mut window = Window::new(&**file, header.len);
    let mut at = *tail;
    while at < header.len {
        if window.frame(at, header.nonce).map_err(io)?.is_some() {
            let what = format!("no valid frame is here, but one follows at byte {at}");
            return Err(Fault::damaged(path.clone(), *tail, &what, REMEDY));
        }
        at += SECTOR as u64;
    }
    let sector = if *tail < header.len { window.get(*tail, SECTOR).map_err(io)? } else { &[] };
    Ok(!sector.is_empty() && frame::Header::decode(sector, header.nonce).is_some())
}

struct Frame<'a> {
    header: frame::Header,
    crc: u32,
    payload: &'a [u8],
}

/// A moving view of a file: one buffer, however long the file is. A frame longer than the buffer makes it grow.
struct Window<'a> {
    file: &'a dyn File,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn File, len: u64) -> Window<'a> {
        Window { file, len, start: 0, bytes: Vec::new() }
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

    /// The frame at `at`, if a valid one of this segment is there. The chain is not looked at.
    fn frame(&mut self, at: u64, nonce: u64) -> io::Result<Option<Frame<'_>>> {
        if at + SECTOR as u64 > self.len {
            return Ok(None);
        }
        let Some(header) = frame::Header::decode(self.get(at, SECTOR)?, nonce) else { return Ok(None) };
        let total = header.total();
        if at + total > self.len {
            return Ok(None);
        }
        let Ok(count) = usize::try_from(total) else { return Ok(None) };
        let bytes = self.get(at, count)?;
        let Some(crc) = frame::check(bytes) else { return Ok(None) };
        Ok(Some(Frame { header, crc, payload: &bytes[frame::HEADER..frame::HEADER + header.payload as usize] }))
    }
}
