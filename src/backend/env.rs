//! The LMDB environment: opening, one writer, short readers, and the compacting copy that shrinks the file.

use std::fs;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::Instant;

use heed::types::Bytes as Raw;
use heed::{
    CommitOrAbort, CompactionOption, Database, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags, RoTxn, RwTxn, WithoutTls,
};
use self_cell::self_cell;

use super::check::{check_all, check_frame};
use super::meta::extend_to_mapped_length;
use super::table::{CRC_BYTES, Table, seal, tree_key, unseal};
use super::{REMEDY, guard, pace};
use crate::error::Fault;
use crate::metrics;

/// lmdb.h: the map must be a multiple of the page size; 64 KiB is one on every kernel we run on.
const MAP_UNIT: u64 = 64 << 10;

/// Readers are held for one short pass, never across an await: by the executor threads, the loop, the checkpoint thread, and the
/// pool that long passes are sent to, which has 500 threads at the most.
const MAX_READERS: u32 = 1000;
/// lmdb.h: a reader's slot is a cache line, and there is a head of a few. LMDB takes a longer lock file as it is.
const LOCK_FILE_BYTES: u64 = (MAX_READERS as u64 + 24) * 64;

/// With less room than this a write may have been cut short for want of it: others give back what they could not use either.
const FULL_DISK_BYTES: u64 = 16 << 20;

/// Bytes read ahead per request: the kernel's own step.
const READ_AHEAD: u64 = 2 << 20;

type Tree<'e> = Database<'e, Raw, Raw>;

self_cell!(
    /// One opening of the file. A defragmentation makes the next one.
    struct Generation {
        owner: Env<WithoutTls>,
        #[covariant]
        dependent: Tree,
    }
);

/// How to open the file.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Address space to map; the file cannot grow beyond it. Rounded up to 64 KiB; on 32-bit targets at most 1 GiB.
    pub map_bytes: u64,
    /// Do not wait for the disk (`--unsafe-no-fsync`).
    pub no_fsync: bool,
}

/// The checkpoint file, open.
pub struct Backend {
    path: PathBuf,
    options: Options,
    /// None if a defragmentation could not open the file again: the process is ending then.
    current: RwLock<Option<Arc<Generation>>>,
    /// LMDB allows one write transaction at a time and waits inside for the next; ours are few, so we queue before it.
    writer: Mutex<()>,
    /// The file's name is durable. Asked for with the first batch, so that no start waits for it.
    named: AtomicBool,
}

/// Goes on as long as this lives.
pub struct ReadAhead {
    _wanted: Arc<()>,
}

/// Sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Of the file.
    pub file: u64,
    /// Of the pages that hold something.
    pub in_use: u64,
}

/// Why a batch was not written. Nothing of it was.
#[derive(Debug)]
pub enum WriteError {
    /// No room on the disk or in the map; may be tried again.
    Full(String),
    /// The environment cannot be trusted any more.
    Fault(Fault),
}

impl Backend {
    /// Opens the file at `path`, creating it if missing. The caller holds the data directory's lock.
    ///
    /// # Errors
    /// A fault if the file is not ours, is cut short or cannot be mapped.
    pub fn open(path: &Path, options: Options) -> Result<Backend, Fault> {
        for leftover in [copy_path(path), birth_path(path), lock_path(&birth_path(path))] {
            remove_if_there(&leftover).map_err(|e| Fault::io("remove", &leftover, &e))?;
        }
        if !has_content(path)? {
            give_birth(path)?;
        }
        if !options.no_fsync {
            make_durable(path)?;
        }
        check_frame(path, &[Table::Row as u8])?;
        extend_to_mapped_length(path)?;
        let generation = Generation::open(path, options)?;
        let backend = Backend {
            path: path.to_owned(),
            options,
            current: RwLock::new(Some(Arc::new(generation))),
            writer: Mutex::new(()),
            named: AtomicBool::new(options.no_fsync),
        };
        // A process that died inside a read leaves its slot behind in a lock file, and the slot would pin old pages.
        let env = backend.generation()?;
        env.borrow_owner().clear_stale_readers().map_err(|e| backend.fault("check the readers of", &e))?;
        Ok(backend)
    }

    /// A frozen view of the last committed batch. Keep it for one short pass: it pins the pages it sees.
    ///
    /// # Errors
    /// A fault if the environment is broken.
    pub fn reader(&self) -> Result<Reader, Fault> {
        let mut generation = self.generation()?;
        let mut begun = generation.borrow_owner().clone().static_read_txn();
        if is_broken(&begun) {
            // By a batch that opens it again before it ends, which it cannot while we hold it.
            drop(generation);
            drop(self.writer.lock().expect("a writer panicked"));
            generation = self.generation()?;
            begun = generation.borrow_owner().clone().static_read_txn();
        }
        let txn = begun.map_err(|e| self.fault("read", &e))?;
        Ok(Reader { txn, generation, path: self.path.clone(), key: Vec::new(), _open: metrics::READ_TRANSACTIONS.hold() })
    }

    /// Goes through the whole file, looking at every page before it is trusted, and calls `each(key, value)` for the rows of a
    /// table in key order. For the first reading of all, before the first batch is written.
    ///
    /// # Errors
    /// A fault from `each`, or if something is damaged.
    pub fn load(&self, table: Table, mut each: impl FnMut(&[u8], &[u8]) -> Result<(), Fault>) -> Result<(), Fault> {
        let _no_batches = self.writer.lock().expect("a writer panicked");
        check_all(&self.path, &mut |key, sealed| {
            let value = unseal(key, sealed).ok_or_else(|| damaged(&self.path, key))?;
            match key.split_first() {
                Some((first, key)) if *first == table as u8 => each(key, value),
                _ => Ok(()),
            }
        })
    }

    /// Has the kernel read the whole file, in the order in which the disk gives it fastest, until the guard is dropped. For a scan
    /// of everything after a power cut: LMDB itself asks for page after page, and waits for each.
    pub fn read_ahead(&self) -> ReadAhead {
        let (wanted, path) = (Arc::new(()), self.path.clone());
        let still = Arc::downgrade(&wanted);
        let read = move || {
            let Ok(file) = fs::File::open(&path) else { return };
            let len = file.metadata().map_or(0, |meta| meta.len());
            let mut at = 0;
            while at < len && still.strong_count() > 0 {
                let asked = rustix::fs::fadvise(&file, at, NonZeroU64::new(READ_AHEAD), rustix::fs::Advice::WillNeed);
                if asked.is_err() {
                    return;
                }
                at += READ_AHEAD;
            }
        };
        if let Err(error) = thread::Builder::new().name("read-ahead".into()).spawn(read) {
            log::debug!("nothing is read ahead: {error}");
        }
        ReadAhead { _wanted: wanted }
    }

    /// Runs `fill` on a new batch and commits it durably.
    ///
    /// # Errors
    /// What `fill` returned, or why the commit failed. Nothing was written then.
    pub fn write(&self, fill: impl FnOnce(&mut Writer<'_>) -> Result<(), WriteError>) -> Result<(), WriteError> {
        let _one_at_a_time = self.writer.lock().expect("a writer panicked");
        let written = self.commit(fill);
        if matches!(written, Err(WriteError::Full(_))) {
            self.mend().map_err(WriteError::Fault)?;
        }
        written?;
        // Whoever hears that the batch is durable lets go of the WAL, so the file must not lose its name either. A process that was
        // killed may have left a name behind that no sync has covered, so every process asks once.
        if !self.named.load(Ordering::Relaxed) {
            sync_parent(&self.path).map_err(WriteError::Fault)?;
            self.named.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn commit(&self, fill: impl FnOnce(&mut Writer<'_>) -> Result<(), WriteError>) -> Result<(), WriteError> {
        let generation = self.generation().map_err(WriteError::Fault)?;
        let txn = generation.borrow_owner().write_txn().map_err(|e| self.write_error("begin to write", e))?;
        let mut writer = Writer { txn, tree: generation.borrow_dependent(), backend: self, key: Vec::new(), value: Vec::new() };
        fill(&mut writer)?;
        let begun = Instant::now();
        writer.txn.commit().map_err(|e| self.write_error("write", e))?;
        metrics::BACKEND_COMMIT.observe(begun.elapsed());
        Ok(())
    }

    /// Sizes of the file now.
    ///
    /// # Errors
    /// A fault if the environment is broken.
    pub fn size(&self) -> Result<Size, Fault> {
        let generation = self.generation()?;
        let env = generation.borrow_owner();
        let file = env.real_disk_size().map_err(|e| self.fault("stat", &e))?;
        let stat = env.unnamed_database_stat();
        let pages = 2 + stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        let in_use = (pages as u64).saturating_mul(u64::from(stat.page_size));
        Ok(Size { file, in_use: in_use.min(file) })
    }

    /// The most that the file can grow to: what was asked for, or what of it the address space had room for.
    ///
    /// # Errors
    /// A fault if the environment is broken.
    pub fn map_bytes(&self) -> Result<u64, Fault> {
        Ok(self.generation()?.borrow_owner().info().map_size as u64)
    }

    /// Rewrites the file without its free pages. Readers go on during the copy and wait only while the files are swapped. As long as
    /// `others_write`, at least half of the disk's time is left to them.
    ///
    /// # Errors
    /// `Full` if there is no room for the copy: the old file stays in use.
    pub fn defragment(&self, others_write: &dyn Fn() -> bool) -> Result<(), WriteError> {
        let _no_batches = self.writer.lock().expect("a writer panicked");
        let _inflight = metrics::DEFRAGS_INFLIGHT.hold();
        let begun = Instant::now();
        let copy = copy_path(&self.path);
        if let Err(error) = self.copy_to(&copy, others_write) {
            // A copy that found no room must not keep what it took. Best effort: the next start removes it too.
            let _ = fs::remove_file(&copy);
            return Err(error);
        }
        let old = fs::OpenOptions::new().write(true).open(&self.path);
        self.swap_in(&copy).map_err(WriteError::Fault)?;
        // Were it not open here, all its blocks would be given back at once, within the rename, and everybody would wait for that.
        if let Err(error) = old.and_then(|old| pace::give_back(&old, others_write)) {
            log::debug!("the old file goes as a whole: {error}");
        }
        metrics::DEFRAG.observe(begun.elapsed());
        Ok(())
    }

    /// Makes a durable copy without free pages.
    fn copy_to(&self, copy: &Path, others_write: &dyn Fn() -> bool) -> Result<(), WriteError> {
        remove_if_there(copy).map_err(|e| self.write_error("clear the way beside", e.into()))?;
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(copy);
        let mut file = file.map_err(|e| self.write_error("make a file beside", e.into()))?;
        let generation = self.generation().map_err(WriteError::Fault)?;
        let env = generation.borrow_owner();
        let (copied, written) = thread::scope(|scope| {
            // LMDB writes as fast as it can, which a pipe holds back.
            let (pages, sink) = io::pipe()?;
            let into = move || env.copy_to_file(&mut fs::File::from(OwnedFd::from(sink)), CompactionOption::Enabled);
            let copying = thread::Builder::new().name("copy".into()).spawn_scoped(scope, into)?;
            let written = pace::write(pages, &mut file, others_write);
            io::Result::Ok((copying.join().expect("a panic would have ended the process"), written))
        })
        .map_err(|e| self.write_error("prepare to copy", e.into()))?;
        // Where nothing more could be written, LMDB only says that nobody reads what it copies.
        written.map_err(|e| self.write_error("copy", e.into()))?;
        copied.map_err(|e| self.write_error("copy", e))?;
        file.sync_all().map_err(|e| self.write_error("sync the copy of", e.into()))
    }

    /// Readers wait from here to the end. If it fails, one of the two files stands whole under the name, with the same rows.
    fn swap_in(&self, copy: &Path) -> Result<(), Fault> {
        self.open_again(|| {
            let path = &self.path;
            fs::rename(copy, path).map_err(|e| Fault::io("rename onto", path, &e))?;
            sync_parent(path)
        })
    }

    /// LMDB takes nothing more once its meta page could not be written (mdb.c, `MDB_FATAL_ERROR`), even if only room was missing. It
    /// has put the old page back, so a new opening finds the last batch that was committed.
    fn mend(&self) -> Result<(), Fault> {
        if is_broken(&self.generation()?.borrow_owner().read_txn()) { self.open_again(|| Ok(())) } else { Ok(()) }
    }

    /// Closes the file, does `between`, and opens what is there then. Readers wait meanwhile.
    fn open_again(&self, between: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
        let mut current = self.current.write().expect("a reader panicked");
        // Nobody can take a new reference while we hold the lock, and LMDB closes the file with the last one.
        let Some(old) = current.take() else { return Err(self.not_open()) };
        let closing = old.borrow_owner().clone().prepare_for_closing();
        drop(old);
        guard::forget();
        closing.wait();
        between()?;
        *current = Some(Arc::new(Generation::open(&self.path, self.options)?));
        Ok(())
    }

    fn generation(&self) -> Result<Arc<Generation>, Fault> {
        self.current.read().expect("a defragmentation panicked").clone().ok_or_else(|| self.not_open())
    }

    fn not_open(&self) -> Fault {
        Fault::new(format!("the checkpoint {} could not be opened again after a defragmentation", self.path.display()))
    }

    fn write_error(&self, doing: &str, error: heed::Error) -> WriteError {
        match &error {
            heed::Error::Mdb(MdbError::MapFull) => {
                WriteError::Full(format!("{} has reached its limit of {} bytes", self.path.display(), self.options.map_bytes))
            }
            heed::Error::Io(e) if is_no_space(e) || self.was_cut_short(e) => {
                WriteError::Full(format!("no room to {doing} {}: {e}", self.path.display()))
            }
            _ => WriteError::Fault(self.fault(doing, &error)),
        }
    }

    /// Whether LMDB's IO error stands for a full disk: it says so of a write that the kernel took only in part (mdb.c, "short
    /// write, filesystem full?"). Whatever it was, what it wrote is part of nothing, and is written again as a whole.
    fn was_cut_short(&self, error: &io::Error) -> bool {
        error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            && rustix::fs::statvfs(&self.path).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) < FULL_DISK_BYTES)
    }

    fn fault(&self, doing: &str, error: &heed::Error) -> Fault {
        fault(&self.path, doing, error)
    }
}

impl Generation {
    fn open(path: &Path, options: Options) -> Result<Generation, Fault> {
        let env = open_env(path, options)?;
        guard::watch(path);
        Generation::try_new(env, |env| {
            let txn = env.write_txn()?;
            let tree = env.create_databases_and_commit(txn, |opener, txn| {
                opener.create_database(txn, None).map(CommitOrAbort::<_, ()>::Commit)
            })?;
            Ok(tree.unwrap_commit())
        })
        .map_err(|e: heed::Error| fault(path, "open", &e))
    }
}

/// Makes a new, empty file under another name and renames it, so that no crash leaves one that is begun and not finished.
fn give_birth(path: &Path) -> Result<(), Fault> {
    let birth = birth_path(path);
    let closing = {
        let generation = Generation::open(&birth, Options { map_bytes: 16 * MAP_UNIT, no_fsync: true })?;
        generation.borrow_owner().clone().prepare_for_closing()
    };
    closing.wait();
    fs::File::open(&birth).and_then(|file| file.sync_all()).map_err(|e| Fault::io("sync", &birth, &e))?;
    fs::rename(&birth, path).map_err(|e| Fault::io("rename", &birth, &e))?;
    let lock = lock_path(&birth);
    remove_if_there(&lock).map_err(|e| Fault::io("remove", &lock, &e))
}

/// Whether a file is there that is more than a name. A power cut during the first start may leave a file without bytes, or with
/// nothing but zeros: nothing was ever checkpointed to it, and the WAL says if that is true.
fn has_content(path: &Path) -> Result<bool, Fault> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Fault::io("read", path, &e)),
    };
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(read) if piece[..read].iter().any(|byte| *byte != 0) => return Ok(true),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Fault::io("read", path, &e)),
        }
    }
}

/// LMDB maps its lock file and would die of SIGBUS if it touched a page of it that a full disk has no block for.
fn allocate_lock_file(path: &Path) -> Result<(), Fault> {
    let lock = lock_path(path);
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock);
    let file = file.map_err(|e| Fault::io("open", &lock, &e))?;
    let len = file.metadata().map_err(|e| Fault::io("stat", &lock, &e))?.len();
    if len < LOCK_FILE_BYTES {
        file.write_all_at(&vec![0; LOCK_FILE_BYTES as usize], 0).map_err(|e| Fault::io("write", &lock, &e))?;
    }
    Ok(())
}

fn open_env(path: &Path, options: Options) -> Result<Env<WithoutTls>, Fault> {
    let link = MemoryLock::link(path);
    if link.is_none() {
        allocate_lock_file(path)?;
    }
    let mut map_bytes = usize::try_from(map_bytes(options.map_bytes)).unwrap_or(1 << 30);
    loop {
        let mut builder = EnvOpenOptions::new().read_txn_without_tls();
        builder.map_size(map_bytes).max_readers(MAX_READERS).max_dbs(0);
        let mut flags = EnvFlags::NO_SUB_DIR | EnvFlags::NO_READ_AHEAD;
        if options.no_fsync {
            flags |= EnvFlags::NO_SYNC;
        }
        // SAFETY: none of the flags gives up a guarantee of memory safety: the map stays read-only to us (no WRITE_MAP) and
        // LMDB's own locks stay on (no NO_LOCK). NO_SYNC gives up durability only, and only when the user asks for it.
        unsafe { builder.flags(flags) };
        // SAFETY: the map is sound as long as nobody else changes the file: the process holds the data directory's lock, the
        // file is private to its owner (0600 below 0700), and this room is the only one that opens it, once at a time.
        match unsafe { builder.open(path) } {
            Ok(env) => return Ok(env),
            // Small 32-bit boards have less address space in one piece than they should: take half.
            Err(heed::Error::Io(e))
                if e.raw_os_error() == Some(rustix::io::Errno::NOMEM.raw_os_error()) && map_bytes > 64 << 20 =>
            {
                map_bytes /= 2;
            }
            Err(error) => return Err(fault(path, "open", &error)),
        }
    }
}

/// A place in memory for LMDB's lock file, linked to where LMDB looks for it until it has been opened.
///
/// Every read enters itself in the map of that file. The kernel write-protects the map's page whenever it has written it back,
/// and the fault of the next entry waits for the file system's journal: on a disk that stands still, reads would wait for
/// writes. Nobody else needs the file: the data directory is ours alone.
struct MemoryLock {
    link: PathBuf,
    _memory: rustix::fd::OwnedFd,
}

impl MemoryLock {
    /// None where there is no such memory or no `/proc` to name it by: LMDB makes a file then.
    fn link(path: &Path) -> Option<MemoryLock> {
        let link = lock_path(path);
        let memory = rustix::fs::memfd_create("bramble-readers", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        let name = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&memory));
        fs::metadata(&name).ok()?;
        // One of a crash, or a file of before.
        remove_if_there(&link).ok()?;
        std::os::unix::fs::symlink(name, &link).ok()?;
        Some(MemoryLock { link, _memory: memory })
    }
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        if let Err(error) = remove_if_there(&self.link) {
            log::debug!("{} stays: {error}", self.link.display());
        }
    }
}

fn map_bytes(asked: u64) -> u64 {
    let limit = if cfg!(target_pointer_width = "32") { 1 << 30 } else { 1 << 46 };
    asked.min(limit).next_multiple_of(MAP_UNIT)
}

fn fault(path: &Path, doing: &str, error: &heed::Error) -> Fault {
    Fault::new(format!("cannot {doing} the checkpoint {}: {error}. {REMEDY}", path.display()))
}

/// Whether LMDB refuses everything since it failed to write a meta page.
fn is_broken<T>(begun: &Result<T, heed::Error>) -> bool {
    matches!(begun, Err(heed::Error::Mdb(MdbError::Panic)))
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Where a defragmentation writes to.
fn copy_path(path: &Path) -> PathBuf {
    path.with_extension("compact")
}

/// Where a new file is made.
fn birth_path(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-lock");
    name.into()
}

/// Makes certain that what a start reads stays. A process that was killed may have left a commit or a name that only the page cache has;
/// a start that believes it lets go of the log below, and a power cut would then take both.
fn make_durable(path: &Path) -> Result<(), Fault> {
    fs::File::open(path).and_then(|file| file.sync_data()).map_err(|e| Fault::io("sync", path, &e))?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> Result<(), Fault> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| Fault::io("sync", parent, &e))
}

/// A frozen view.
pub struct Reader {
    txn: RoTxn<'static, WithoutTls>,
    generation: Arc<Generation>,
    path: PathBuf,
    key: Vec<u8>,
    _open: metrics::Held,
}

impl Reader {
    /// The value at `key`.
    ///
    /// # Errors
    /// A fault if it is damaged.
    pub fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, Fault> {
        tree_key(table, key, &mut self.key);
        match self.generation.borrow_dependent().get(&self.txn, &self.key) {
            Ok(None) => Ok(None),
            Ok(Some(sealed)) => match unseal(&self.key, sealed) {
                Some(value) => Ok(Some(value)),
                None => Err(damaged(&self.path, &self.key)),
            },
            Err(error) => Err(fault(&self.path, "read", &error)),
        }
    }

    /// The length of the value at `key`, without looking at its bytes.
    ///
    /// # Errors
    /// A fault if the environment is broken.
    pub fn value_len(&mut self, table: Table, key: &[u8]) -> Result<Option<usize>, Fault> {
        tree_key(table, key, &mut self.key);
        match self.generation.borrow_dependent().get(&self.txn, &self.key) {
            Ok(sealed) => Ok(sealed.map(|sealed| sealed.len().saturating_sub(CRC_BYTES))),
            Err(error) => Err(fault(&self.path, "read", &error)),
        }
    }

    /// Calls `each(key, value)` for the rows of a table from `from` on, in key order, until it returns false.
    ///
    /// # Errors
    /// A fault from `each`, or if a row is damaged.
    pub fn scan(
        &self,
        table: Table,
        from: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let (mut low, high) = (Vec::new(), [table as u8 + 1]);
        tree_key(table, from, &mut low);
        let range = (Bound::Included(&low[..]), Bound::Excluded(&high[..]));
        let rows = self.generation.borrow_dependent().range(&self.txn, &range).map_err(|e| fault(&self.path, "read", &e))?;
        for row in rows {
            let (key, sealed) = row.map_err(|e| fault(&self.path, "read", &e))?;
            let value = unseal(key, sealed).ok_or_else(|| damaged(&self.path, key))?;
            if !each(&key[1..], value)? {
                break;
            }
        }
        Ok(())
    }
}

fn damaged(path: &Path, key: &[u8]) -> Fault {
    let name: String = key.iter().map(|b| format!("{b:02x}")).collect();
    Fault::new(format!("{} is damaged: the row {name} has a wrong checksum. {REMEDY}", path.display()))
}

/// A batch being filled.
pub struct Writer<'b> {
    txn: RwTxn<'b>,
    tree: &'b Tree<'b>,
    backend: &'b Backend,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Writer<'_> {
    /// Puts `value` at `key`, replacing what was there.
    ///
    /// # Errors
    /// `Full` if the map is.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        tree_key(table, key, &mut self.key);
        seal(&self.key, value, &mut self.value);
        self.tree.put(&mut self.txn, &self.key, &self.value).map_err(|e| self.backend.write_error("write", e))
    }

    /// Puts a row whose key is above all others of the tree, which fills pages to the brim.
    ///
    /// # Errors
    /// `Full` if the map is.
    pub fn append(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        tree_key(table, key, &mut self.key);
        seal(&self.key, value, &mut self.value);
        match self.tree.put_with_flags(&mut self.txn, PutFlags::APPEND, &self.key, &self.value) {
            // Not the last one after all, as when a batch is written again after a crash.
            Err(heed::Error::Mdb(MdbError::KeyExist)) => self.put(table, key, value),
            other => other.map_err(|e| self.backend.write_error("write", e)),
        }
    }

    /// Removes `key`; no error if it is not there.
    ///
    /// # Errors
    /// `Full` if the map is: even a removal copies pages.
    pub fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), WriteError> {
        tree_key(table, key, &mut self.key);
        self.tree.delete(&mut self.txn, &self.key).map(|_| ()).map_err(|e| self.backend.write_error("write", e))
    }

    /// Removes every row of a table.
    ///
    /// # Errors
    /// As [`Writer::delete`].
    pub fn clear(&mut self, table: Table) -> Result<(), WriteError> {
        let (low, high) = ([table as u8], [table as u8 + 1]);
        let range = (Bound::Included(&low[..]), Bound::Excluded(&high[..]));
        self.tree.delete_range(&mut self.txn, &range).map(|_| ()).map_err(|e| self.backend.write_error("write", e))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const OPTIONS: Options = Options { map_bytes: 16 << 20, no_fsync: true };

    fn open() -> (tempfile::TempDir, Backend) {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(&dir.path().join("db"), OPTIONS).unwrap();
        (dir, backend)
    }

    fn value(backend: &Backend, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        backend.reader().unwrap().get(table, key).unwrap().map(<[u8]>::to_vec)
    }

    #[test]
    fn a_batch_is_there_whole_or_not_at_all() {
        let (dir, backend) = open();
        backend.write(|w| w.put(Table::Meta, b"a", b"1")).unwrap();
        let failed = backend.write(|w| {
            w.put(Table::Meta, b"a", b"2")?;
            Err(WriteError::Full("on purpose".into()))
        });
        assert!(matches!(failed, Err(WriteError::Full(_))));
        drop(backend);
        let backend = Backend::open(&dir.path().join("db"), OPTIONS).unwrap();
        assert_eq!(value(&backend, Table::Meta, b"a").as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn a_reader_sees_the_batch_it_began_with() {
        let (_dir, backend) = open();
        backend.write(|w| w.put(Table::Row, b"k", b"old")).unwrap();
        let mut reader = backend.reader().unwrap();
        backend.write(|w| w.put(Table::Row, b"k", b"new")).unwrap();
        assert_eq!(reader.get(Table::Row, b"k").unwrap(), Some(&b"old"[..]));
    }

    #[test]
    fn a_scan_stays_inside_its_table() {
        let (_dir, backend) = open();
        backend
            .write(|w| {
                w.put(Table::Lease, b"x", b"lease")?;
                w.put(Table::Meta, b"x", b"meta")?;
                w.append(Table::Row, b"x", b"row")
            })
            .unwrap();
        let mut seen = Vec::new();
        let reader = backend.reader().unwrap();
        reader
            .scan(Table::Meta, b"", |key, value| {
                seen.push((key.to_vec(), value.to_vec()));
                Ok(true)
            })
            .unwrap();
        assert_eq!(seen, [(b"x".to_vec(), b"meta".to_vec())]);
    }

    #[test]
    fn a_full_map_is_said_and_left_again() {
        let (_dir, backend) = open();
        let filled = (0..100u32).find_map(|n| backend.write(|w| w.put(Table::Row, &n.to_be_bytes(), &[0; 1 << 20])).err());
        assert!(matches!(filled, Some(WriteError::Full(_))), "{filled:?}");
        backend.write(|w| w.delete(Table::Row, &0u32.to_be_bytes())).unwrap();
        assert_eq!(value(&backend, Table::Row, &0u32.to_be_bytes()), None);
    }

    #[test]
    fn defragmentation_shrinks_the_file_and_keeps_its_rows() {
        let (_dir, backend) = open();
        for n in 0..8u32 {
            backend.write(|w| w.put(Table::Row, &n.to_be_bytes(), &[n as u8; 1 << 20])).unwrap();
        }
        backend.write(|w| (0..7u32).try_for_each(|n| w.delete(Table::Row, &n.to_be_bytes()))).unwrap();
        let before = backend.size().unwrap();
        backend.defragment(&|| true).unwrap();
        let after = backend.size().unwrap();
        assert!(after.file < before.file / 2, "{before:?} {after:?}");
        assert_eq!(value(&backend, Table::Row, &7u32.to_be_bytes()), Some(vec![7; 1 << 20]));
        backend.write(|w| w.put(Table::Meta, b"after", b"wards")).unwrap();
        assert_eq!(value(&backend, Table::Meta, b"after").as_deref(), Some(&b"wards"[..]));
    }

    #[test]
    fn a_defragmentation_keeps_the_file_private_and_leaves_nothing_beside_it() {
        let (dir, backend) = open();
        backend.write(|w| w.put(Table::Row, b"k", b"v")).unwrap();
        backend.defragment(&|| true).unwrap();
        let mode = fs::metadata(dir.path().join("db")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["db"]);
    }

    #[test]
    fn a_swap_that_fails_leaves_the_rows_on_disk_and_no_panic() {
        let (dir, backend) = open();
        backend.write(|w| w.put(Table::Row, b"k", b"v")).unwrap();
        assert!(backend.swap_in(&dir.path().join("not there")).is_err());
        assert!(backend.reader().is_err());
        assert!(matches!(backend.write(|_| Ok(())), Err(WriteError::Fault(_))));
        assert!(matches!(backend.defragment(&|| false), Err(WriteError::Fault(_))));
        assert!(backend.size().is_err());
        drop(backend);
        let backend = Backend::open(&dir.path().join("db"), OPTIONS).unwrap();
        assert_eq!(value(&backend, Table::Row, b"k").as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn a_birth_cut_short_and_leftovers_of_a_crash_are_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        for left in [vec![], vec![0; 100], vec![0; 8192]] {
            fs::write(&path, left).unwrap();
            fs::write(copy_path(&path), b"half a copy").unwrap();
            fs::write(birth_path(&path), b"half a file").unwrap();
            let backend = Backend::open(&path, OPTIONS).unwrap();
            backend.write(|w| w.put(Table::Row, b"k", b"v")).unwrap();
            assert!(!copy_path(&path).exists() && !birth_path(&path).exists());
        }
    }

    #[test]
    fn a_file_whose_beginning_was_zeroed_is_refused_and_left_as_it_is() {
        let (dir, backend) = open();
        backend.write(|w| w.put(Table::Row, b"k", b"v")).unwrap();
        drop(backend);
        let path = dir.path().join("db");
        let mut bytes = fs::read(&path).unwrap();
        bytes[..8192].fill(0);
        fs::write(&path, &bytes).unwrap();
        assert!(Backend::open(&path, OPTIONS).err().unwrap().to_string().contains("not the meta page"));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    /// The pool that long ranges are read in has so many threads, and each may hold a reader.
    #[test]
    fn there_are_readers_for_every_thread_there_can_be() {
        let (_dir, backend) = open();
        let readers: Vec<_> = (0..600).map(|_| backend.reader().unwrap()).collect();
        assert_eq!(readers.len(), 600);
    }

    #[test]
    fn the_lock_file_is_allocated_so_that_a_full_disk_cannot_kill_us_in_it() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        allocate_lock_file(&dir.path().join("db")).unwrap();
        let lock = fs::metadata(dir.path().join("db-lock")).unwrap();
        assert!(lock.blocks() * 512 >= lock.len() && lock.len() >= LOCK_FILE_BYTES, "{} blocks", lock.blocks());
    }

    #[test]
    fn a_damaged_row_is_named_and_not_returned() {
        let (dir, backend) = open();
        backend.write(|w| w.put(Table::Row, b"k", b"a value to be found in the file")).unwrap();
        drop(backend);
        let path = dir.path().join("db");
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(7).rposition(|w| w == b"a value").unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let backend = Backend::open(&path, OPTIONS).unwrap();
        let fault = backend.reader().unwrap().get(Table::Row, b"k").unwrap_err().to_string();
        assert!(fault.contains("7e6b") && fault.contains("checksum"), "{fault}");
    }

    #[test]
    fn a_file_cut_short_is_refused_and_does_not_kill_the_process() {
        let (dir, backend) = open();
        for n in 0..64u32 {
            backend.write(|w| w.put(Table::Row, &n.to_be_bytes(), &[7; 3000])).unwrap();
        }
        drop(backend);
        let path = dir.path().join("db");
        let whole = fs::read(&path).unwrap();
        for pages in 0..whole.len() / 4096 {
            fs::write(&path, &whole[..pages * 4096]).unwrap();
            let read = Backend::open(&path, OPTIONS).and_then(|b| {
                let mut rows = 0;
                b.reader()?.scan(Table::Row, b"", |_, _| {
                    rows += 1;
                    Ok(true)
                })?;
                Ok(rows)
            });
            if let Ok(rows) = read {
                assert!(rows == 0 && pages == 0 || rows == 64, "{rows} rows of {pages} pages");
            }
        }
    }

    #[test]
    fn readers_enter_themselves_in_memory_and_leave_no_file_behind() {
        let (dir, backend) = open();
        std::os::unix::fs::symlink("/proc/self/fd/none", dir.path().join("other-lock")).unwrap();
        let other = Backend::open(&dir.path().join("other"), OPTIONS).unwrap();
        for backend in [&backend, &other] {
            backend.write(|w| w.put(Table::Meta, b"a", b"1")).unwrap();
            let reader = backend.reader().unwrap();
            assert_eq!(value(backend, Table::Meta, b"a").as_deref(), Some(&b"1"[..]));
            drop(reader);
            backend.defragment(&|| true).unwrap();
            assert_eq!(value(backend, Table::Meta, b"a").as_deref(), Some(&b"1"[..]));
        }
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["db", "other"]);
    }

    #[test]
    fn a_copy_that_a_crash_left_is_removed() {
        let (dir, backend) = open();
        drop(backend);
        fs::write(dir.path().join("db.compact"), "half").unwrap();
        Backend::open(&dir.path().join("db"), OPTIONS).unwrap();
        assert!(!dir.path().join("db.compact").exists());
    }

    #[test]
    fn another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        fs::write(&path, vec![0x55; 9000]).unwrap();
        let fault = Backend::open(&path, OPTIONS).err().unwrap().to_string();
        assert!(fault.contains("not the meta page"), "{fault}");
        let mut bbolt = vec![0; 32 * 1024];
        bbolt[16..20].copy_from_slice(&[0xED, 0xDA, 0x0C, 0xED]);
        fs::write(&path, &bbolt).unwrap();
        let fault = Backend::open(&path, OPTIONS).err().unwrap().to_string();
        assert!(fault.contains("a database of etcd") && !fault.contains("damaged"), "{fault}");
        assert_eq!(fs::read(&path).unwrap(), bbolt);
    }
}
