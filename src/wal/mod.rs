//! The write-ahead log: the durable truth. In: hard states and entries. Out: their durability, and after a start the log as it was.
//!
//! What it assumes of the disk: a synced write stays; an unsynced one may be lost, reordered or torn within its own sectors, and
//! touches no others; a rename is whole or not done. What is always true:
//!
//! - One frame holds all that was queued, and costs one write and one sync, which are one step where the file system has direct writes.
//!   The next frame is written only after that sync, unless the log has a relaxed class (`relaxed.rs`): then some wait for it together.
//! - What was synced is never written again with other bytes: after a sync, frames begin at a new sector.
//! - Frames go to space that was written and synced before, so an append needs no allocation, and only the birth of a segment
//!   can find the disk full.
//! - A start cuts the torn tail of the newest segment, none of which was ever synced, and nothing else. Other damage is refused, with
//!   file, offset and remedy.
//! - After a failed sync nothing is tried again: the kernel may have dropped the pages and call them clean.
//!
//! ARCHITECTURE.md describes the format byte by byte. [`Writer`] is the thread that owns a [`Wal`].

mod birth;
mod frame;
mod record;
mod recover;
mod relaxed;
mod segment;
mod spare;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Fault;
use crate::host::Host;
use crate::metrics;
use crate::raft::{Entry, HardState, Index, LogId};

use birth::first_segment;
use frame::{Buffer, Kind, Written};
use record::Payload;
use recover::{Listing, Replayed};
use relaxed::Run;
use segment::{Header, Name, SECTOR, Segment};
use spare::{Closed, Pool};

pub use spare::{Chore, ChoreDone};
pub use writer::{Metered, NoObserver, Observer, Report, Synced, Writer};

/// Whose log it is. Stands in every segment, so that a file from elsewhere is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The member's id.
    pub member_id: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {:x} of cluster {:x}", self.member_id, self.cluster_id)
    }
}

/// How the log is laid out. Files keep the length they were made with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Length of a segment in bytes, rounded up to whole sectors. A frame that is longer gets a segment of its own length.
    pub segment_bytes: u64,
    /// Released segments to keep for later; more are removed.
    pub max_spares: usize,
    /// The most that a frame takes in memory. A longer one is written in pieces.
    pub buffer_bytes: usize,
    /// Never sync: for tests of others. A power cut may then lose or damage everything.
    pub no_fsync: bool,
    /// The most entries that may wait for a sync in the segments to come; 0: none. See [`Wal::append_relaxed`].
    pub max_unsynced: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_bytes: 4 << 20, max_spares: 4, buffer_bytes: 1 << 20, no_fsync: false, max_unsynced: 0 }
    }
}

impl Options {
    fn checked(self) -> Options {
        let segment_bytes = self.segment_bytes.next_multiple_of(SECTOR as u64).max(4 * SECTOR as u64);
        Options { segment_bytes, ..self }
    }
}

/// What a start found.
#[derive(Debug)]
pub struct Recovered {
    /// Whose log it is.
    pub identity: Identity,
    /// The last hard state.
    pub hard_state: HardState,
    /// The log's last entry. If it is below what the checkpoint has, the checkpoint and this log do not belong together.
    pub last: LogId,
    /// Entries above the index that was asked for, without a gap.
    pub entries: Vec<Entry>,
    /// Where unsynced frames were cut off, if some were: file and byte.
    pub torn: Option<(PathBuf, u64)>,
    /// The most entries that can have been acknowledged and are lost: 0 but after a power cut, or a stop that was none in good
    /// order, of a log with a relaxed class.
    pub may_have_lost: u32,
}

/// Why an append did not happen.
#[derive(Debug)]
pub enum AppendError {
    /// The disk is full. Nothing changed, and the same append may be tried again.
    Full,
    /// The process has to end.
    Fault(Fault),
}

impl From<Fault> for AppendError {
    fn from(fault: Fault) -> AppendError {
        AppendError::Fault(fault)
    }
}

/// Sorts an IO error: a full disk can be waited out, everything else can't.
fn failed(doing: &str, path: &Path, error: &io::Error) -> AppendError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::Full,
        _ => AppendError::Fault(Fault::io(doing, path, error)),
    }
}

/// What an append does with its frame once that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It is synced, and all before it.
    Sync,
    /// If it may, it waits for a sync with others.
    Wait,
}

/// What an append cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Bytes written, padding included.
    pub bytes: u64,
    /// Time that the sync took.
    pub sync: Duration,
}

/// The log, open for appending. Every method that names the disk blocks.
pub struct Wal {
    host: Host,
    dir: PathBuf,
    options: Options,
    current: Segment,
    /// The segment before, until its seal is written.
    unsealed: Option<Segment>,
    /// Older segments, oldest first.
    closed: VecDeque<Closed>,
    pool: Pool,
    buffer: Buffer,
    last: LogId,
    hard_state: HardState,
    /// The frames that wait for a sync.
    run: Run,
    /// The log ends with the mark of a stop in good order.
    clean: bool,
    /// The next frame begins a segment if it can: the one before is not laid out as the options say.
    renew: bool,
    failed: bool,
}

impl Wal {
    /// True if `dir` holds a log. A directory that is not there holds none.
    pub fn exists(host: &Host, dir: &Path) -> Result<bool, Fault> {
        match Listing::read(&*host.disk, dir) {
            Ok(listing) => Ok(!listing.segments.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Fault::io("list", dir, &error)),
        }
    }

    /// Creates a log in `dir`, which may be there but must hold no log. Its first entry will be the one after `base`.
    pub fn create(host: &Host, dir: &Path, identity: Identity, base: LogId, options: Options) -> Result<Wal, Fault> {
        let options = options.checked();
        let disk = &*host.disk;
        disk.create_dir(dir).map_err(|error| Fault::io("create", dir, &error))?;
        let listing = Listing::read(disk, dir).map_err(|error| Fault::io("list", dir, &error))?;
        if let Some(&sequence) = listing.segments.first() {
            let path = Name::Segment(sequence).path(dir);
            return Err(Fault::new(format!("cannot create a WAL: {} is there already", path.display())));
        }
        let spares = listing.spares(disk, dir, options.segment_bytes)?;
        let pool = Pool::new(host.disk.clone(), dir.to_path_buf(), options, spares, listing.next_spare());
        let header = Header {
            identity,
            sequence: 1,
            len: options.segment_bytes,
            nonce: host.random.next_u64(),
            previous: 0,
            base,
            hard_state: HardState { term: base.term, vote: None, commit: base.index },
            max_unsynced: options.max_unsynced,
        };
        let current = first_segment(host, dir, header, options)?;
        Ok(Wal {
            host: host.clone(),
            dir: dir.to_path_buf(),
            options,
            run: Run::at_end_of(&current),
            current,
            unsealed: None,
            closed: VecDeque::new(),
            pool,
            buffer: Buffer::new(options.buffer_bytes),
            last: base,
            hard_state: header.hard_state,
            clean: false,
            renew: false,
            failed: false,
        })
    }

    /// Opens the log in `dir`, cuts a torn tail, and reads the entries above `after`, the last index in the checkpoint. Refuses
    /// a damaged or foreign log; `expected` is the identity if the caller knows it.
    pub fn open(
        host: &Host,
        dir: &Path,
        expected: Option<Identity>,
        after: Index,
        options: Options,
    ) -> Result<(Wal, Recovered), Fault> {
        let options = options.checked();
        let disk = &*host.disk;
        let listing = Listing::read(disk, dir).map_err(|error| Fault::io("list", dir, &error))?;
        let replayed = recover::replay(disk, dir, &listing, expected, after)?;
        let Replayed { identity, current, last_run, wipe_to, closed, unsealed, last, hard_state, entries, torn, clean } =
            replayed;
        let spares = listing.spares(disk, dir, options.segment_bytes)?;
        let pool = Pool::new(host.disk.clone(), dir.to_path_buf(), options, spares, listing.next_spare());
        let torn = torn.then(|| (current.path.clone(), current.end));
        let may_have_lost = if clean { 0 } else { current.header.max_unsynced };
        let mut wal = Wal {
            host: host.clone(),
            dir: dir.to_path_buf(),
            options,
            run: Run::at_end_of(&current),
            renew: current.header.max_unsynced != options.max_unsynced,
            current,
            unsealed,
            closed: closed.into(),
            pool,
            buffer: Buffer::new(options.buffer_bytes),
            last,
            hard_state,
            clean,
            failed: false,
        };
        wal.make_durable(last_run, wipe_to)?;
        wal.seal()?;
        wal.release(after);
        Ok((wal, Recovered { identity, hard_state, last, entries, torn, may_have_lost }))
    }

    /// Makes durable for certain what was just read: a process that died on a failed sync leaves pages that the kernel calls
    /// clean and the disk never saw. Only the last run can hold such; writing the same bytes again dirties its pages. What is left of
    /// it behind its end, up to `wipe_to`, is wiped, so that it is never taken for a frame that follows.
    fn make_durable(&mut self, last_run: Option<u64>, wipe_to: u64) -> Result<(), Fault> {
        let wipe_to = wipe_to.max(self.current.next_sector());
        let Segment { path, file, end, .. } = &self.current;
        let mut at = last_run.unwrap_or(*end);
        let mut piece = vec![0; self.options.buffer_bytes.clamp(SECTOR, 64 * 1024)];
        while at < wipe_to {
            let until = if at < *end { *end } else { wipe_to };
            let now = piece.len().min(usize::try_from(until - at).unwrap_or(usize::MAX));
            if at < *end {
                file.read_at(&mut piece[..now], at).map_err(|error| Fault::io("read", path, &error))?;
            } else {
                piece[..now].fill(0);
            }
            file.write_at(&piece[..now], at).map_err(|error| Fault::io("write", path, &error))?;
            at += now as u64;
        }
        if !self.options.no_fsync {
            file.sync_data().map_err(|error| Fault::io("sync", path, &error))?;
        }
        self.end_run();
        self.sync_dir()
    }

    /// Makes a hard state and entries durable: one frame, one sync. Entries follow each other; if the first is not behind the
    /// log's last, it replaces the tail. A commit index beyond the log's end is cut down to it: it is a hint, and its batch may
    /// come in several appends.
    ///
    /// After a fault nothing more can be appended.
    pub fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry]) -> Result<Appended, AppendError> {
        self.append_and(Then::Sync, hard_state, entries)
    }

    fn append_and(&mut self, then: Then, hard_state: Option<HardState>, entries: &[Entry]) -> Result<Appended, AppendError> {
        let last = self.check(hard_state, entries);
        let hard_state = hard_state
            .map(|state| HardState { commit: state.commit.min(last.index), ..state })
            .filter(|&state| state != self.hard_state);
        if hard_state.is_none() && entries.is_empty() {
            let sync = if then == Then::Sync { self.sync()? } else { Duration::ZERO };
            return Ok(Appended { bytes: 0, sync });
        }
        if self.failed {
            return Err(Fault::new(format!("an earlier write to {} failed", self.dir.display())).into());
        }
        let appended = self.append_frame(then, Payload::new(hard_state, entries));
        match &appended {
            Ok(_) => {
                self.clean = false;
                self.last = last;
                self.hard_state = hard_state.unwrap_or(self.hard_state);
            }
            Err(AppendError::Full) => {}
            Err(AppendError::Fault(_)) => self.failed = true,
        }
        appended
    }

    /// Asserts what Raft promises of everything it wants on disk. Returns the log's new last entry.
    fn check(&self, hard_state: Option<HardState>, entries: &[Entry]) -> LogId {
        let mut last = self.last;
        for (at, entry) in entries.iter().enumerate() {
            let follows = entry.id.index.0 == last.index.0 + 1;
            let replaces = at == 0 && entry.id.index > self.hard_state.commit && entry.id.index <= last.index;
            assert!(follows || replaces, "entry {} cannot follow {last}, commit {}", entry.id, self.hard_state.commit);
            last = entry.id;
        }
        if let Some(state) = hard_state {
            assert!(state.term >= self.hard_state.term, "the term cannot fall from {} to {}", self.hard_state.term, state.term);
        }
        last
    }

    fn append_frame(&mut self, then: Then, payload: Payload<'_>) -> Result<Appended, AppendError> {
        let payload = Payload { in_run: self.in_run(), ..payload };
        let bytes = frame::total(payload.size(), self.current.header.unit());
        let (fits, renew) = (bytes <= self.current.room(), std::mem::take(&mut self.renew));
        if !fits || renew {
            match self.rotate(payload) {
                // A disk without room for another layout has to go on with the one it has.
                Err(AppendError::Full) if renew => return self.append_frame(then, payload),
                rotated => {
                    let sync = rotated?;
                    return Ok(Appended { bytes: self.current.next_sector(), sync });
                }
            }
        }
        let waits = then == Then::Wait && self.may_wait(&payload, bytes);
        let through = !(waits || payload.in_run.is_some() || self.options.no_fsync);
        let (segment, begin, begun) = (&self.current, self.current.end, self.host.clock.now());
        let Written { crc, durable } = write_frame(&mut self.buffer, segment, through, &payload)?;
        let took = self.host.clock.now().saturating_sub(begun);
        metrics::WAL_WRITE.observe(took);
        self.current.end += bytes;
        self.current.chain = crc;
        self.run.add(payload.entries);
        let sync = match (waits, durable) {
            (true, _) => Duration::ZERO,
            // A write that was durable at once is a sync too, and took as long.
            (false, true) => {
                self.end_run();
                took
            }
            (false, false) => self.sync()?,
        };
        Ok(Appended { bytes: self.current.end - begin, sync })
    }

    fn sync_file(&self, segment: &Segment) -> Result<Duration, Fault> {
        if self.options.no_fsync {
            return Ok(Duration::ZERO);
        }
        let start = self.host.clock.now();
        segment.file.sync_data().map_err(|error| Fault::io("sync", &segment.path, &error))?;
        Ok(self.host.clock.now().saturating_sub(start))
    }

    fn sync_dir(&self) -> Result<(), Fault> {
        if self.options.no_fsync {
            return Ok(());
        }
        self.host.disk.sync_dir(&self.dir).map_err(|error| Fault::io("sync", &self.dir, &error))
    }

    /// The entries up to `up_to` are in a durable checkpoint. Segments that hold nothing else become chores.
    pub fn release(&mut self, up_to: Index) {
        while let Some(segment) = self.closed.pop_front_if(|segment| segment.until <= up_to) {
            self.pool.release(segment);
        }
    }

    /// Work that may be done beside appends, by any thread. Its result must come back through [`Wal::finish_chore`]; there is
    /// never more than one at a time. A spare is made when the current segment is half full.
    pub fn next_chore(&mut self) -> Option<Chore> {
        let wanted = self.current.end >= self.current.header.len / 2;
        self.pool.next_chore(wanted, self.host.clock.now())
    }

    /// Takes back a chore's result.
    pub fn finish_chore(&mut self, done: ChoreDone) -> Result<(), Fault> {
        self.pool.finish(done, self.host.clock.now())
    }

    /// True if this append needs a spare that a chore under way may bring. Appending all the same is right, but makes another.
    pub fn awaits_chore(&self, hard_state: Option<HardState>, entries: &[Entry]) -> bool {
        let payload = Payload { in_run: self.in_run(), ..Payload::new(hard_state, entries) };
        let bytes = frame::total(payload.size(), SECTOR);
        self.pool.is_out() && bytes > self.current.room() && !self.pool.has(bytes + 2 * SECTOR as u64)
    }

    /// Bytes of frames that can be appended even if the disk is full: room in the current segment and in the spares.
    pub fn reserve_bytes(&self) -> u64 {
        self.current.room() + self.pool.reserve_bytes()
    }

    /// The log's last entry.
    pub fn last(&self) -> LogId {
        self.last
    }

    /// The last hard state.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }
}

/// Writes a frame of records at the segment's end. Returns its CRC.
fn write_frame(buffer: &mut Buffer, segment: &Segment, through: bool, payload: &Payload<'_>) -> Result<Written, AppendError> {
    let Segment { header: Header { nonce, .. }, chain: previous, .. } = *segment;
    let bytes = u32::try_from(payload.size()).expect("a frame is far smaller than 4 GiB");
    let header = frame::Header { kind: Kind::Records, payload: bytes, nonce, previous };
    let written = buffer.write(&*segment.file, segment.end, through, header, segment.header.unit(), payload);
    written.map_err(|error| failed("write", &segment.path, &error))
}
