//! The LMDB environment: opening, one writer, short readers, and the compacting copy that shrinks the file.

use std::fs;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use heed::types::Bytes as Raw;
use heed::{
    CommitOrAbort, CompactionOption, Database, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags, RoTxn, RwTxn, WithoutTls,
};
use self_cell::self_cell;

use super::table::{CRC_BYTES, Table, seal, tree_key, unseal};
use crate::error::Fault;
use crate::metrics;

const REMEDY: &str =
    "Put back a copy of the data directory, or in a cluster remove this member, delete its data directory and add it again.";

/// lmdb.h: the map must be a multiple of the page size; 64 KiB is one on every kernel we run on.
const MAP_UNIT: u64 = 64 << 10;

/// Readers are held for one short pass by executor threads, the loop and the checkpoint thread, never across an await.
const MAX_READERS: u32 = 126;

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
    current: RwLock<Arc<Generation>>,
    /// LMDB allows one write transaction at a time and waits inside for the next; ours are few, so we queue before it.
    writer: Mutex<()>,
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
        extend_to_mapped_length(path)?;
        let generation = Generation::open(path, options)?;
        let backend =
            Backend { path: path.to_owned(), options, current: RwLock::new(Arc::new(generation)), writer: Mutex::new(()) };
        // A process that died inside a read leaves its slot behind, and the slot would pin old pages.
        let env = backend.generation();
        env.borrow_owner().clear_stale_readers().map_err(|e| backend.fault("check the readers of", &e))?;
        Ok(backend)
    }

    /// A frozen view of the last committed batch. Keep it for one short pass: it pins the pages it sees.
    ///
    /// # Errors
    /// A fault if the environment is broken.
    pub fn reader(&self) -> Result<Reader, Fault> {
        let generation = self.generation();
        let txn = generation.borrow_owner().clone().static_read_txn().map_err(|e| self.fault("read", &e))?;
        Ok(Reader { txn, generation, path: self.path.clone(), key: Vec::new(), _open: metrics::READ_TRANSACTIONS.hold() })
    }

    /// Runs `fill` on a new batch and commits it durably.
    ///
    /// # Errors
    /// What `fill` returned, or why the commit failed. Nothing was written then.
    pub fn write(&self, fill: impl FnOnce(&mut Writer<'_>) -> Result<(), WriteError>) -> Result<(), WriteError> {
        let _one_at_a_time = self.writer.lock().expect("a writer panicked");
        let generation = self.generation();
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
        let generation = self.generation();
        let env = generation.borrow_owner();
        let file = env.real_disk_size().map_err(|e| self.fault("stat", &e))?;
        let stat = env.unnamed_database_stat();
        let pages = 2 + stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        let in_use = (pages as u64).saturating_mul(u64::from(stat.page_size));
        Ok(Size { file, in_use: in_use.min(file) })
    }

    /// Rewrites the file without its free pages. Readers go on during the copy and wait only while the files are swapped.
    ///
    /// # Errors
    /// `Full` if there is no room for the copy: the old file stays in use.
    pub fn defragment(&self) -> Result<(), WriteError> {
        let _no_batches = self.writer.lock().expect("a writer panicked");
        let _inflight = metrics::DEFRAGS_INFLIGHT.hold();
        let begun = Instant::now();
        let copy = self.path.with_extension("compact");
        remove_if_there(&copy).map_err(|e| self.write_error("clear the way beside", e.into()))?;
        let generation = self.generation();
        let file =
            generation.borrow_owner().copy_to_path(&copy, CompactionOption::Enabled).map_err(|e| self.write_error("copy", e))?;
        drop(generation);
        file.sync_all().map_err(|e| self.write_error("sync the copy of", e.into()))?;
        self.swap_in(&copy).map_err(WriteError::Fault)?;
        metrics::DEFRAG.observe(begun.elapsed());
        Ok(())
    }

    fn swap_in(&self, copy: &Path) -> Result<(), Fault> {
        let mut current = self.current.write().expect("a reader panicked");
        // Our own reference has to go before LMDB can close the file, and nobody can take a new one while we hold the lock.
        let closing = current.borrow_owner().clone().prepare_for_closing();
        let path = &self.path;
        let placeholder = copy.with_extension("closing");
        *current = Arc::new(Generation::open(&placeholder, Options { map_bytes: MAP_UNIT * 16, no_fsync: true })?);
        closing.wait();
        fs::rename(copy, path).map_err(|e| Fault::io("rename onto", path, &e))?;
        sync_parent(path)?;
        *current = Arc::new(Generation::open(path, self.options)?);
        drop(current);
        for leftover in [placeholder.clone(), lock_path(&placeholder)] {
            remove_if_there(&leftover).map_err(|e| Fault::io("remove", &leftover, &e))?;
        }
        Ok(())
    }

    fn generation(&self) -> Arc<Generation> {
        self.current.read().expect("a defragmentation panicked").clone()
    }

    fn write_error(&self, doing: &str, error: heed::Error) -> WriteError {
        match &error {
            heed::Error::Mdb(MdbError::MapFull) => {
                WriteError::Full(format!("{} has reached its limit of {} bytes", self.path.display(), self.options.map_bytes))
            }
            heed::Error::Io(e) if is_no_space(e) => WriteError::Full(format!("no room to {doing} {}: {e}", self.path.display())),
            _ => WriteError::Fault(self.fault(doing, &error)),
        }
    }

    fn fault(&self, doing: &str, error: &heed::Error) -> Fault {
        fault(&self.path, doing, error)
    }
}

impl Generation {
    fn open(path: &Path, options: Options) -> Result<Generation, Fault> {
        let env = open_env(path, options)?;
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

fn open_env(path: &Path, options: Options) -> Result<Env<WithoutTls>, Fault> {
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

fn map_bytes(asked: u64) -> u64 {
    let limit = if cfg!(target_pointer_width = "32") { 1 << 30 } else { 1 << 46 };
    asked.min(limit).next_multiple_of(MAP_UNIT)
}

/// LMDB maps the file and trusts its meta pages' idea of its length, so a file cut short would kill us with SIGBUS at the first
/// read behind its end. A shorter file is legal too: LMDB does not write pages at the end that a transaction took and gave back.
/// So the file is extended to what the newer meta page says: what was never written is never read, and what was cut off is
/// read as zeros, which LMDB and our checksums refuse with a message.
fn extend_to_mapped_length(path: &Path) -> Result<(), Fault> {
    let file = match fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Fault::io("open", path, &e)),
    };
    let len = file.metadata().map_err(|e| Fault::io("stat", path, &e))?.len();
    if len == 0 {
        return Ok(());
    }
    let (mut newest, mut needed, mut page_bytes) = (0, 0, 4096);
    for page in 0..2 {
        let mut meta = [0; meta::END];
        if file.read_exact_at(&mut meta, page * page_bytes).is_err() {
            return Err(Fault::damaged(path.to_owned(), len, "the file ends inside its first pages", REMEDY));
        }
        if u32::from_ne_bytes(meta[meta::MAGIC..][..4].try_into().expect("four bytes")) != meta::MAGIC_VALUE {
            return Err(Fault::damaged(path.to_owned(), page * page_bytes, "not the meta page of an LMDB file", REMEDY));
        }
        page_bytes =
            u64::from(u32::from_ne_bytes(meta[meta::PAGE_BYTES..][..4].try_into().expect("four bytes"))).clamp(512, 1 << 16);
        let (last_page, txn) = (word_at(&meta, meta::LAST_PAGE), word_at(&meta, meta::TXN));
        if txn >= newest {
            newest = txn;
            needed = last_page.saturating_add(1).saturating_mul(page_bytes);
        }
    }
    if needed > 1 << 46 {
        return Err(Fault::damaged(path.to_owned(), 0, "the meta page names an impossible length", REMEDY));
    }
    if len < needed {
        file.set_len(needed).map_err(|e| Fault::io("extend", path, &e))?;
    }
    Ok(())
}

/// Where the fields of LMDB 0.9's meta page stand (mdb.c, `MDB_page`, `MDB_meta`, `MDB_db`): native byte order and word size.
mod meta {
    const WORD: usize = size_of::<usize>();
    /// Behind the page header: a page number and eight bytes.
    pub const MAGIC: usize = WORD + 8;
    pub const MAGIC_VALUE: u32 = 0xBEEF_C0DE;
    /// Behind magic, version, address and map size stand two database records, the first of which holds the page size.
    pub const PAGE_BYTES: usize = MAGIC + 8 + 2 * WORD;
    const DATABASE: usize = 8 + 5 * WORD;
    pub const LAST_PAGE: usize = PAGE_BYTES + 2 * DATABASE;
    pub const TXN: usize = LAST_PAGE + WORD;
    pub const END: usize = TXN + WORD;
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    usize::from_ne_bytes(bytes[at..][..size_of::<usize>()].try_into().expect("a word")) as u64
}

fn fault(path: &Path, doing: &str, error: &heed::Error) -> Fault {
    Fault::new(format!("cannot {doing} the checkpoint {}: {error}. {REMEDY}", path.display()))
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

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-lock");
    name.into()
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
        backend.defragment().unwrap();
        let after = backend.size().unwrap();
        assert!(after.file < before.file / 2, "{before:?} {after:?}");
        assert_eq!(value(&backend, Table::Row, &7u32.to_be_bytes()), Some(vec![7; 1 << 20]));
        backend.write(|w| w.put(Table::Meta, b"after", b"wards")).unwrap();
        assert_eq!(value(&backend, Table::Meta, b"after").as_deref(), Some(&b"wards"[..]));
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
    fn another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        fs::write(&path, vec![0x55; 9000]).unwrap();
        let fault = Backend::open(&path, OPTIONS).err().unwrap().to_string();
        assert!(fault.contains("not the meta page"), "{fault}");
    }
}
