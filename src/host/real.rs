//! The machine we run on.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::time::{ClockId, clock_gettime};

use super::{Clock, Disk, File, Random};

/// The kernel's file systems.
pub struct OsDisk;

struct OsFile(fs::File);

impl Disk for OsDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(OsFile(fs::OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(OsFile(fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?)))
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
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
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
}
