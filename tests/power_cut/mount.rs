//! The disk as a mounted file system, over FUSE. The kernel writes through to it, and each mount begins with an empty page cache.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tempfile::TempDir;

use super::content::Content;
use super::disk::{Disk, Name, Node, Refusal, State, Thing};
use crate::support::wait::until;

/// Names and lengths change through the kernel alone, so it may remember them.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// The flag of a file whose every write is to be synced.
const DSYNC: i32 = rustix::fs::OFlags::DSYNC.bits() as i32;

/// A disk, mounted. Declare it before the server that lives on it: what is declared first is dropped last.
pub struct Mounted {
    disk: Disk,
    session: Option<BackgroundSession>,
    dir: TempDir,
}

impl Mounted {
    /// Mounts it somewhere.
    ///
    /// # Errors
    /// Where that is not allowed.
    pub fn new(disk: Disk) -> io::Result<Mounted> {
        let dir = tempfile::Builder::new().prefix("bramble-power-").tempdir()?;
        let session = mount(&disk, dir.path())?;
        Ok(Mounted { disk, session: Some(session), dir })
    }

    /// A directory on it.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Takes it away from everybody, does `between`, and mounts it again. No process may have a file open.
    pub fn again(&mut self, between: impl FnOnce(&Disk)) {
        self.unmount();
        between(&self.disk);
        self.session = Some(mount(&self.disk, self.dir.path()).expect("it was allowed before"));
    }

    fn unmount(&mut self) {
        let Some(session) = self.session.take() else { return };
        let path = self.dir.path();
        // A process that was killed lets go of its files a little after it was waited for.
        until("the file system to be left", || Command::new("umount").arg(path).output().ok().filter(|run| run.status.success()));
        session.join().expect("the file system ends in order");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.session.take().is_some() {
            // Whoever still has files open may keep them until it ends.
            let _ = Command::new("umount").arg("-l").arg(self.dir.path()).output();
        }
    }
}

fn mount(disk: &Disk, path: &Path) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("power-cut".to_owned()), MountOption::NoAtime];
    fuser::spawn_mount(Adapter { disk: disk.clone(), handles: AtomicU64::new(0) }, path, &config)
}

/// FUSE's words for the disk's.
struct Adapter {
    disk: Disk,
    handles: AtomicU64,
}

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Errno {
        match refusal {
            Refusal::Io => Errno::EIO,
            Refusal::NoSpace => Errno::ENOSPC,
            Refusal::NotFound => Errno::ENOENT,
            Refusal::Exists => Errno::EEXIST,
            Refusal::NotEmpty => Errno::ENOTEMPTY,
            Refusal::NotOfThisKind => Errno::EINVAL,
        }
    }
}

fn name(dir: INodeNo, name: &OsStr) -> Name {
    (dir.0, name.to_string_lossy().into_owned())
}

fn attributes(state: &State, node: Node) -> Result<FileAttr, Refusal> {
    let (kind, size, perm) = match state.thing(node)? {
        Thing::File(content) => (FileType::RegularFile, content.len() as u64, 0o600),
        Thing::Directory => (FileType::Directory, 0, 0o700),
        Thing::Link(target) => (FileType::Symlink, target.as_os_str().len() as u64, 0o777),
    };
    let time = SystemTime::UNIX_EPOCH;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Ok(FileAttr {
        ino: INodeNo(node),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: 1,
        uid,
        gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

impl Adapter {
    /// A new open file. What is synced with each write shows in its number.
    fn handle(&self, flags: i32) -> FileHandle {
        let number = self.handles.fetch_add(1, Ordering::Relaxed);
        FileHandle(number << 1 | u64::from(flags & DSYNC != 0))
    }

    fn make(&self, name: Name, thing: Thing) -> Result<FileAttr, Refusal> {
        let mut state = self.disk.state();
        let node = state.create(name, thing)?;
        attributes(&state, node)
    }
}

fn tell(reply: ReplyEmpty, outcome: Result<(), Refusal>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(refusal) => reply.error(refusal.into()),
    }
}

fn tell_entry(reply: ReplyEntry, outcome: Result<FileAttr, Refusal>) {
    match outcome {
        Ok(attributes) => reply.entry(&REMEMBERED, &attributes, Generation(0)),
        Err(refusal) => reply.error(refusal.into()),
    }
}

fn tell_attributes(reply: ReplyAttr, outcome: Result<FileAttr, Refusal>) {
    match outcome {
        Ok(attributes) => reply.attr(&REMEMBERED, &attributes),
        Err(refusal) => reply.error(refusal.into()),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The most that the kernel sends at once; it cuts it down to what it likes.
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEntry) {
        let state = self.disk.state();
        tell_entry(reply, state.look_up(&name(parent, entry)).and_then(|node| attributes(&state, node)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        tell_attributes(reply, attributes(&self.disk.state(), ino.0));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
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
        let mut state = self.disk.state();
        let cut = size.map_or(Ok(()), |size| state.set_len(ino.0, size as usize));
        tell_attributes(reply, cut.and_then(|()| attributes(&state, ino.0)));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.disk.state().thing(ino.0) {
            Ok(Thing::Link(target)) => reply.data(target.as_os_str().as_encoded_bytes()),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, entry: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        tell_entry(reply, self.make(name(parent, entry), Thing::Directory));
    }

    fn symlink(&self, _: &Request, parent: INodeNo, entry: &OsStr, target: &Path, reply: ReplyEntry) {
        tell_entry(reply, self.make(name(parent, entry), Thing::Link(target.to_owned())));
    }

    fn create(&self, _: &Request, parent: INodeNo, entry: &OsStr, _: u32, _: u32, flags: i32, reply: ReplyCreate) {
        match self.make(name(parent, entry), Thing::File(Content::default())) {
            Ok(attributes) => {
                reply.created(&REMEMBERED, &attributes, Generation(0), self.handle(flags), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEmpty) {
        tell(reply, self.disk.state().remove(name(parent, entry)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEmpty) {
        tell(reply, self.disk.state().remove(name(parent, entry)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        entry: &OsStr,
        new_parent: INodeNo,
        new_entry: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        tell(reply, self.disk.state().rename(name(parent, entry), name(new_parent, new_entry)));
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(self.handle(flags.0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk.state().read(ino.0, offset as usize, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk.state().write(ino.0, offset as usize, data, handle.0) {
            Ok(()) => reply.written(data.len() as u32),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    /// The kernel sends this by itself after each write to a file that was opened so. On a disk only that write is made durable.
    fn fsync(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let only = (handle.0 & 1 == 1).then_some(handle.0);
        tell(reply, self.disk.state().sync(ino.0, only));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        tell(reply, self.disk.state().sync_dir(ino.0));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.disk.state();
        let own = [(".".to_owned(), ino.0), ("..".to_owned(), ino.0)];
        let entries = own.into_iter().chain(state.list(ino.0)).enumerate().skip(offset as usize);
        for (at, (entry, node)) in entries {
            let Ok(attributes) = attributes(&state, node) else { continue };
            if reply.add(INodeNo(node), at as u64 + 1, attributes.kind, entry) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}
