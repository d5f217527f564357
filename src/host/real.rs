//! The machine we run on.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::time::{ClockId, clock_gettime};

use super::{Clock, DIRECT_ALIGN, Disk, File, Random, SECTOR, suits_direct};

/// The kernel's file systems.
pub struct OsDisk;

struct OsFile {
    file: fs::File,
    /// The same file past the page cache, if that can be had.
    direct: Option<fs::File>,
}

impl OsFile {
    fn boxed(file: fs::File, path: &Path) -> Box<dyn File> {
        Box::new(OsFile { file, direct: open_direct(path) })
    }
}

/// Opens a file for direct, synchronous writes. None where the file system says that it has none of whole sectors, or says nothing
/// (`statx`, `STATX_DIOALIGN`, since Linux 6.1): it might take the writes, and do in several steps what has to be one.
fn open_direct(path: &Path) -> Option<fs::File> {
    // Not rustix's flags: its `DSYNC` is `O_SYNC`, with which ext4 commits its journal for each new time of the file.
    let file = fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path).ok()?;
    let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let whole_sectors = (1..=SECTOR as u32).contains(&stat.stx_dio_offset_align);
    (stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && whole_sectors && stat.stx_dio_mem_align <= DIRECT_ALIGN as u32)
        .then_some(file)
}

impl Disk for OsDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(OsFile::boxed(fs::OpenOptions::new().read(true).write(true).open(path)?, path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(OsFile::boxed(fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?, path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn write_through_at(&self, buf: &[u8], offset: u64) -> io::Result<bool> {
        let Some(direct) = self.direct.as_ref().filter(|_| suits_direct(buf, offset)) else {
            return self.write_at(buf, offset).map(|()| false);
        };
        match direct.write_at(buf, offset) {
            Ok(written) if written == buf.len() => Ok(true),
            // A part of it, or refused after all: the page cache takes everything.
            Ok(_) => self.write_at(buf, offset).map(|()| false),
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Interrupted) => {
                self.write_at(buf, offset).map(|()| false)
            }
            Err(error) => Err(error),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

/// `CLOCK_BOOTTIME`: boards without a clock battery boot in 1970 and jump later; this one never jumps.
pub struct BootClock {
    start: Duration,
}

impl BootClock {
    /// A clock that reads zero now.
    pub fn new() -> BootClock {
        BootClock { start: boot_time() }
    }
}

impl Default for BootClock {
    fn default() -> BootClock {
        BootClock::new()
    }
}

fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Clock for BootClock {
    fn now(&self) -> Duration {
        boot_time().saturating_sub(self.start)
    }

    fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// The kernel's random source.
pub struct OsRandom(SystemRandom);

impl OsRandom {
    /// A handle on the kernel's source.
    pub fn new() -> OsRandom {
        OsRandom(SystemRandom::new())
    }
}

impl Default for OsRandom {
    fn default() -> OsRandom {
        OsRandom::new()
    }
}

impl Random for OsRandom {
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        // getrandom(2) fails only on kernels without it, where no TLS key could be made either.
        self.0.fill(&mut bytes).expect("the kernel has no random source");
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel refuses to sync what has nothing to sync, so that its refusal shows that it was asked.
    #[test]
    fn syncs_reach_the_kernel() {
        let invalid = Some(rustix::io::Errno::INVAL.raw_os_error());
        let null = OsDisk.open(Path::new("/dev/null")).unwrap();
        assert_eq!(null.sync_data().unwrap_err().raw_os_error(), invalid);
        assert_eq!(OsDisk.sync_dir(Path::new("/proc")).unwrap_err().raw_os_error(), invalid);
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("file")).unwrap();
        file.write_at(b"bytes", 0).unwrap();
        file.sync_data().unwrap();
        OsDisk.sync_dir(dir.path()).unwrap();
    }

    #[test]
    fn a_direct_write_syncs_what_it_writes_and_not_the_times_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = fs::File::create(&path).unwrap();
        let Some(direct) = open_direct(&path) else {
            return eprintln!("\nSKIPPED: the file system of {} has no direct writes of sectors\n", dir.path().display());
        };
        drop(file);
        let flags = rustix::fs::fcntl_getfl(&direct).unwrap().bits().cast_signed();
        assert_eq!(flags & libc::O_SYNC, libc::O_DSYNC, "O_SYNC is O_DSYNC and more");
    }

    #[test]
    fn whole_sectors_go_past_the_page_cache_and_are_read_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("file")).unwrap();
        file.write_at(&[1; 4 * SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        // What the page cache holds is the older content.
        let mut read = [0; 4 * SECTOR];
        file.read_at(&mut read, 0).unwrap();
        let bytes = vec![2; DIRECT_ALIGN + 2 * SECTOR];
        let start = bytes.as_ptr().addr().next_multiple_of(DIRECT_ALIGN) - bytes.as_ptr().addr();
        let durable = file.write_through_at(&bytes[start..start + SECTOR], SECTOR as u64).unwrap();
        if !durable {
            eprintln!("\nSKIPPED: the file system of {} has no direct writes of sectors\n", dir.path().display());
        }
        assert!(!file.write_through_at(&bytes[start + 1..start + 1 + SECTOR], 2 * SECTOR as u64).unwrap(), "a crooked address");
        assert!(!file.write_through_at(&bytes[start..start + 10], 3 * SECTOR as u64).unwrap(), "a part of a sector");
        file.read_at(&mut read, 0).unwrap();
        let expected = [vec![1; SECTOR], vec![2; 2 * SECTOR + 10], vec![1; SECTOR - 10]].concat();
        assert_eq!(read[..], expected);
        assert_eq!(file.len().unwrap(), 4 * SECTOR as u64);
    }
}
