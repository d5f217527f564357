//! How a segment begins: as a spare that gets its header and first frame, and with the rename its name. And how the one before it ends.

use std::path::Path;
use std::time::Duration;

use crate::error::Fault;
use crate::host::Host;

use super::frame::{self, Kind};
use super::record::Payload;
use super::segment::{Header, Name, SECTOR, Segment};
use super::spare::{self, Closed, Spare};
use super::{AppendError, Options, Wal, failed, write_frame};

impl Wal {
    /// Begins a segment with this frame. The rename commits both; until then the file is a spare, and can be one again.
    pub(super) fn rotate(&mut self, payload: Payload<'_>) -> Result<Duration, AppendError> {
        // Only the newest segment may hold frames that are not synced.
        self.sync()?;
        self.seal()?;
        let payload = Payload { in_run: None, ..payload };
        let spare = self.pool.take(frame::total(payload.size(), SECTOR) + 2 * SECTOR as u64)?;
        let header = Header {
            sequence: self.current.header.sequence + 1,
            len: spare.len,
            nonce: self.host.random.next_u64(),
            previous: self.current.chain,
            base: self.last,
            hard_state: self.hard_state,
            max_unsynced: self.options.max_unsynced,
            ..self.current.header
        };
        let path = spare.path.clone();
        let (segment, sync) = match self.begin(spare, header, &payload) {
            Ok(begun) => begun,
            Err((spare, error)) => {
                self.pool.put_back(spare);
                return Err(error);
            }
        };
        let named = Name::Segment(header.sequence).path(&self.dir);
        if let Err(error) = self.host.disk.rename(&path, &named) {
            self.pool.put_back(Spare { path, file: segment.file, len: header.len });
            return Err(failed("rename", &named, &error));
        }
        self.sync_dir()?;
        let end = segment.end + frame::total(payload.size(), SECTOR);
        let old = std::mem::replace(&mut self.current, Segment { path: named, end, ..segment });
        self.end_run();
        self.closed.push_back(Closed { sequence: old.header.sequence, len: old.header.len, until: header.base.index });
        self.unsealed = Some(old);
        Ok(sync)
    }

    /// Writes and syncs a segment's header and first frame into a spare; gives the spare back if that fails.
    fn begin(
        &mut self,
        spare: Spare,
        header: Header,
        payload: &Payload<'_>,
    ) -> Result<(Segment, Duration), (Spare, AppendError)> {
        let Spare { path, file, .. } = spare;
        let mut segment = Segment { header, path, file, end: SECTOR as u64, chain: header.chain() };
        let written = segment.file.write_at(&header.encode(), 0).map_err(|error| failed("write", &segment.path, &error));
        let written = written.and_then(|()| write_frame(&mut self.buffer, &segment, false, payload));
        match written.and_then(|written| Ok((written, self.sync_file(&segment)?))) {
            Ok((written, sync)) => {
                segment.chain = written.crc;
                Ok((segment, sync))
            }
            Err(error) => Err((Spare { path: segment.path, file: segment.file, len: header.len }, error)),
        }
    }

    /// Marks the segment before the current one as ended, once after each birth of a segment: if the newest one is lost later, the
    /// mark tells. It may wait until the acknowledgements are out.
    pub fn seal(&mut self) -> Result<(), Fault> {
        let Some(segment) = self.unsealed.take() else { return Ok(()) };
        match self.write_seal(&segment) {
            // No room on a copy-on-write file system: the log is whole without the mark.
            Ok(()) | Err(AppendError::Full) => Ok(()),
            Err(AppendError::Fault(fault)) => {
                self.failed = true;
                Err(fault)
            }
        }
    }

    fn write_seal(&mut self, segment: &Segment) -> Result<(), AppendError> {
        let header = frame::Header { kind: Kind::Seal, payload: 0, nonce: segment.header.nonce, previous: segment.chain };
        let unit = segment.header.unit();
        let written = self.buffer.write(&*segment.file, segment.end, false, header, unit, &Payload::default());
        written.map_err(|error| failed("write", &segment.path, &error))?;
        self.sync_file(segment)?;
        Ok(())
    }
}

/// Makes the first segment: written in full, synced, then named; then the names on the way to it are made durable.
pub(super) fn first_segment(host: &Host, dir: &Path, header: Header, options: Options) -> Result<Segment, Fault> {
    let disk = &*host.disk;
    let unfinished = Name::Unfinished(0).path(dir);
    let path = Name::Segment(header.sequence).path(dir);
    let file = spare::write_zeros(disk, &unfinished, header.len, true).map_err(|error| match error {
        AppendError::Full => {
            // Best effort: the next try removes it too.
            let _ = disk.remove(&unfinished);
            Fault::new(format!("no space left for a WAL in {}: it needs {} bytes", dir.display(), header.len))
        }
        AppendError::Fault(fault) => fault,
    })?;
    file.write_at(&header.encode(), 0).map_err(|error| Fault::io("write", &unfinished, &error))?;
    if !options.no_fsync {
        file.sync_data().map_err(|error| Fault::io("sync", &unfinished, &error))?;
    }
    disk.rename(&unfinished, &path).map_err(|error| Fault::io("rename", &unfinished, &error))?;
    if !options.no_fsync {
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for dir in [dir, parent] {
            disk.sync_dir(dir).map_err(|error| Fault::io("sync", dir, &error))?;
        }
    }
    Ok(Segment { header, path, file, end: SECTOR as u64, chain: header.chain() })
}
