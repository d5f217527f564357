//! A device that takes its time for each flush: a file in a file system of our own (FUSE) whose `fsync` sleeps, under a loop device with
//! ext4 on it. So both servers wait at the same place and for the same reason, whatever way they sync. As on an SD card, nothing else
//! goes through meanwhile; what is in the page cache is read as ever.

use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};
use tempfile::TempDir;

use crate::support::volume::Volume;

const BYTES: usize = 1 << 29;
const NAME: &str = "image";
const ROOT: u64 = 1;
const IMAGE: u64 = 2;
/// Nothing changes but through the kernel, so it may remember what it was told.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// An ext4 file system on such a device. Fields in the order in which they have to end.
pub struct SlowVolume {
    /// The file system.
    pub volume: Volume,
    pace: Pace,
    _session: BackgroundSession,
    _dir: TempDir,
}

impl SlowVolume {
    /// Mounts one, as fast as memory for now; none, and says so, where that is not allowed.
    pub fn mount() -> Option<SlowVolume> {
        let dir = tempfile::Builder::new().prefix("bramble-slow-").tempdir().unwrap();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("slow-device".to_owned()), MountOption::NoAtime];
        let pace = Pace::default();
        let device = Device { content: Mutex::new(vec![0; BYTES]), pace: pace.clone() };
        match fuser::spawn_mount(device, dir.path(), &config) {
            Ok(session) => {
                let own = tempfile::Builder::new().prefix("bramble-volume-").tempdir().unwrap();
                let volume = Volume::mount_image(&dir.path().join(NAME), "noatime", own)?;
                Some(SlowVolume { volume, pace, _session: session, _dir: dir })
            }
            Err(why) => {
                eprintln!("\nSKIPPED: this test needs a device of its own, and FUSE cannot be mounted here: {why}\n");
                None
            }
        }
    }

    /// From now on each flush takes so long.
    pub fn set_flush_time(&self, time: Duration) {
        self.pace.nanos.store(time.as_nanos() as u64, Ordering::SeqCst);
    }

    /// Flushes so far.
    pub fn flushes(&self) -> u64 {
        self.pace.flushes.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Default)]
struct Pace {
    nanos: Arc<AtomicU64>,
    flushes: Arc<AtomicU64>,
}

struct Device {
    content: Mutex<Vec<u8>>,
    pace: Pace,
}

impl Device {
    fn content(&self) -> MutexGuard<'_, Vec<u8>> {
        self.content.lock().expect("nothing in here panics")
    }
}

fn attributes(node: u64) -> FileAttr {
    let (kind, size, perm) = match node {
        ROOT => (FileType::Directory, 0, 0o700),
        _ => (FileType::RegularFile, BYTES as u64, 0o600),
    };
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(node),
        size,
        blocks: size / 512,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Device {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The most that the kernel sends at once; it cuts it down to what it likes.
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&REMEMBERED, &attributes(IMAGE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&REMEMBERED, &attributes(ino.0));
    }

    /// Times and modes: nobody asks for them again.
    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&REMEMBERED, &attributes(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let content = self.content();
        let from = (offset as usize).min(content.len());
        reply.data(&content[from..(from + size as usize).min(content.len())]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.content().get_mut(offset as usize..offset as usize + data.len()) {
            Some(place) => {
                place.copy_from_slice(data);
                reply.written(data.len() as u32);
            }
            None => reply.error(Errno::ENOSPC),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.pace.flushes.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_nanos(self.pace.nanos.load(Ordering::SeqCst)));
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_sync_waits_for_the_device_and_nothing_else_does() {
        let Some(slow) = SlowVolume::mount() else { return };
        let path = slow.volume.path().join("file");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        file.sync_all().unwrap();
        let time = Duration::from_millis(50);
        slow.set_flush_time(time);
        let before = slow.flushes();
        let begun = Instant::now();
        file.write_all_at(&[2; 4096], 0).unwrap();
        file.sync_data().unwrap();
        assert!(begun.elapsed() >= time, "a device that is in no hurry is waited for");
        let after = slow.flushes();
        assert!(after > before, "a sync is a flush");
        slow.set_flush_time(Duration::ZERO);
        let mut read = [0; 8192];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, [vec![2; 4096], vec![1; 4096]].concat()[..]);
    }
}
