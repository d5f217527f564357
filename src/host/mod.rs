//! The host behind seams: disk, clock and random source. The product uses [`real`]; a simulator brings its own, so that the
//! whole server can run inside one process on virtual time. (The network's seam is any `AsyncRead + AsyncWrite` handed to `rpc`.)
//! A leaf: every room but `raft` and `lease` may name it, and those two take what they need as arguments.

mod memory;
mod real;
pub mod sim;

pub use memory::{give_back_memory, own_memory, share_one_heap};
pub use real::{BootClock, OsDisk, OsRandom};

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// All seams of a running server. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    /// Files that are not LMDB's.
    pub disk: Arc<dyn Disk>,
    /// Monotonic and calendar time.
    pub clock: Arc<dyn Clock>,
    /// Seeds and ids.
    pub random: Arc<dyn Random>,
}

impl Host {
    /// The machine we run on.
    pub fn real() -> Host {
        Host { disk: Arc::new(OsDisk), clock: Arc::new(BootClock::new()), random: Arc::new(OsRandom::new()) }
    }
}

/// The smallest unit of a disk, in bytes.
pub const SECTOR: usize = 512;
/// What the address of a direct write's bytes is a multiple of: a page, which suits every disk.
pub const DIRECT_ALIGN: usize = 4096;

/// True if these bytes can go to `offset` past the page cache.
fn suits_direct(buf: &[u8], offset: u64) -> bool {
    let address = buf.as_ptr().addr();
    address.is_multiple_of(DIRECT_ALIGN) && buf.len().is_multiple_of(SECTOR) && offset.is_multiple_of(SECTOR as u64)
}

/// A file system, as far as the WAL needs one. Every method blocks.
pub trait Disk: Send + Sync {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Creates a file that must not exist yet, for reading and writing, mode 0600.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Creates a directory and its parents, mode 0700. An existing directory is left as it is.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names (not paths) of the entries of a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Renames within one file system, replacing `to`. Durable only after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable only after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that an unprivileged process may still write on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file.
#[allow(clippy::len_without_is_empty)] // a log asks how long a file is, never whether it is empty
pub trait File: Send {
    /// Fills `buf` from `offset`; an end of file before that is `UnexpectedEof`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buf` at `offset`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buf` at `offset`. True: it is durable. False: it is written, and [`File::sync_data`] has to make it so. What it
    /// overwrites was written before, and is durable. Whole sectors at a whole sector, from an address that is a multiple of
    /// [`DIRECT_ALIGN`], go past the page cache where the file system allows that: what else is in their page is not written again,
    /// and one request to the disk does what takes two otherwise.
    fn write_through_at(&self, buf: &[u8], offset: u64) -> io::Result<bool> {
        self.write_at(buf, offset)?;
        Ok(false)
    }
    /// Makes written data (and a changed length) durable: `fdatasync`.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with a hole) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// Time. Leases and timeouts use only [`Clock::now`]; calendar time is for logs and reports.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment, never going back, running on while the machine sleeps (`CLOCK_BOOTTIME`).
    fn now(&self) -> Duration;
    /// Time since 1970-01-01 UTC. May jump.
    fn unix_time(&self) -> Duration;
}

/// A source of random numbers.
pub trait Random: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}
