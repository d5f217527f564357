//! Reading the log back after a start.
//!
//! Only the frames that were written since the last sync can be spoilt by a power cut: one, or a run of them at the end of the newest
//! segment. `tail.rs` tells that tail, which is cut, from damage. Everything else that does not check is damage, and is refused.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::Fault;
use crate::host::Disk;
use crate::raft::{Entry, HardState, Index, LogId};

use super::Identity;
use super::frame::Kind;
use super::record::{self, InRun, Record};
use super::segment::{Header, Name, SECTOR, Segment};
use super::spare::{Closed, Spare};
use super::tail::{Frame, Tail, Window};

pub(super) const REMEDY: &str = "Acknowledged writes may be lost, so the member does not start. Restore its data directory from a backup, \
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
    /// Where the last run of frames begins, if the current segment has frames.
    pub last_run: Option<u64>,
    /// Behind the last frame, up to here, there may be frames of the same run that are cut off.
    pub wipe_to: u64,
    /// Older segments, oldest first: those not needed for the entries asked for, and those needed.
    pub closed: Vec<Closed>,
    /// A needed segment whose seal is missing: the crash came between it and the next segment's birth.
    pub unsealed: Option<Segment>,
    pub last: LogId,
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    /// A torn tail was cut here.
    pub torn: bool,
    /// The log ends with the mark of a stop in good order.
    pub clean: bool,
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
    let mut log = Log { after, last: first.base, hard_state: first.hard_state, entries: Vec::new(), clean: false };
    let identity = first.identity;
    let mut closed = older(disk, dir, listing, first)?;
    let mut unsealed = None;

    let mut segments = opened.into_iter().peekable();
    while let Some(mut segment) = segments.next() {
        let end = log.read(&mut segment)?;
        let Some(next) = segments.peek() else {
            if end.sealed {
                return Err(missing_successor(&segment));
            }
            let Tail { torn, wipe_to } = Tail::look(&segment)?;
            let Log { last, hard_state, entries, clean, .. } = log;
            let (current, last_run) = (segment, end.last_run);
            return Ok(Replayed {
                identity,
                current,
                last_run,
                wipe_to,
                closed,
                unsealed,
                last,
                hard_state,
                entries,
                torn,
                clean: clean && !torn,
            });
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
    /// Where the run begins that the last frame is in.
    last_run: Option<u64>,
    sealed: bool,
}

/// The log while it is read.
struct Log {
    after: Index,
    last: LogId,
    hard_state: HardState,
    /// Those above `after`, without a gap.
    entries: Vec<Entry>,
    /// The last record was the mark of a stop in good order.
    clean: bool,
}

impl Log {
    /// Reads frames up to the first that does not follow, and leaves `segment` ready to take the next.
    fn read(&mut self, segment: &mut Segment) -> Result<End, Fault> {
        let Segment { header, path, file, end, chain } = segment;
        let mut window = Window::new(&**file, header);
        let mut last_run = None;
        let mut run = (*end, *chain);
        loop {
            let next = window.following(*end, *chain).map_err(|error| Fault::io("read", path, &error))?;
            let Some((place, Frame { header: frame, crc, payload, end: frame_end })) = next else {
                return Ok(End { last_run, sealed: false });
            };
            let damaged = |what: &str| Fault::damaged(path.clone(), place, what, REMEDY);
            if frame.kind == Kind::Seal {
                return Ok(End { last_run, sealed: true });
            }
            let mut records = record::decode(payload).peekable();
            match records.next_if(|record| matches!(record, Ok(Record::InRun(_)))) {
                Some(Ok(Record::InRun(InRun { back, chain })))
                    if (place.checked_sub(back.into()), chain) == (Some(run.0), run.1) => {}
                Some(_) => return Err(damaged("a frame names another run than the one it stands in")),
                None => run = (place, *chain),
            }
            self.clean = false;
            for record in records {
                record.and_then(|record| self.add(record)).map_err(damaged)?;
            }
            if self.hard_state.commit > self.last.index {
                return Err(damaged("the commit index is beyond the log's end"));
            }
            last_run = Some(run.0);
            *end = frame_end;
            *chain = crc;
        }
    }

    fn add(&mut self, record: Record<'_>) -> Result<(), &'static str> {
        let (id, kind, data) = match record {
            Record::HardState(state) => {
                self.hard_state = state;
                return Ok(());
            }
            Record::InRun(_) => return Err("a frame names its run twice, or too late"),
            Record::CleanStop => {
                self.clean = true;
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

/// The newest segment says that there is a newer one.
fn missing_successor(segment: &Segment) -> Fault {
    let Segment { header, path, .. } = segment;
    let next = path.with_file_name(format!("{:016x}.wal", header.sequence + 1));
    Fault::new(format!("{} is missing: {} says that it exists. {REMEDY}", next.display(), path.display()))
}
