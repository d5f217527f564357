//! LMDB's meta pages (mdb.c of 0.9: `MDB_page`, `MDB_meta`, `MDB_db`), read by ourselves before LMDB is let in: it maps the file
//! and trusts them. Native byte order and word size.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::REMEDY;
use crate::error::Fault;

const WORD: usize = size_of::<usize>();
/// A page begins with its number, two bytes of no meaning here, two of flags, and four that depend on its kind.
pub(super) const PAGE_HEADER: usize = WORD + 8;
const FLAGS: usize = WORD + 2;
const IS_META: u16 = 0x08;

const MAGIC: u32 = 0xBEEF_C0DE;
const MAGIC_AT: usize = PAGE_HEADER;
const VERSION: u32 = 1;
const VERSION_AT: usize = MAGIC_AT + 4;
/// Behind magic, version, address and map size stand the records of two trees: the free pages and the rows. The first one's pad
/// is the page size.
const FREE_AT: usize = MAGIC_AT + 8 + 2 * WORD;
const RECORD: usize = 8 + 5 * WORD;
const MAIN_AT: usize = FREE_AT + RECORD;
const LAST_PAGE_AT: usize = MAIN_AT + RECORD;
const TXN_AT: usize = LAST_PAGE_AT + WORD;
const END: usize = TXN_AT + WORD;

/// How a tree's keys are compared, whether it has several values for each, and whether the map has a fixed address.
const TREE_FLAGS: u16 = 0xff;
const INTEGER_KEYS: u16 = 0x08;
/// LMDB's own limits.
const PAGE_BYTES_MIN: u64 = 256;
const PAGE_BYTES_MAX: u64 = 0x8000;
const DEPTH_MAX: u16 = 32;
/// A file longer than this is none of ours.
const FILE_BYTES_MAX: u64 = 1 << 46;

/// What tells etcd's database (bbolt) behind its page header of sixteen bytes.
const BBOLT_MAGIC_AT: usize = 16;
const BBOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();

/// What the last commit says of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    /// Which of the two pages says it.
    pub page: u64,
    pub page_bytes: u64,
    /// Number of the last page that was ever used. The file may end before it: LMDB does not write pages at the end that a
    /// transaction took and gave back.
    pub last_page: u64,
    pub txn: u64,
    /// The tree of free pages.
    pub free: Record,
    /// The tree of rows.
    pub main: Record,
}

/// What a meta page says of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub flags: u16,
    /// Levels of pages; 0 of an empty tree.
    pub depth: u16,
    pub branch_pages: u64,
    pub leaf_pages: u64,
    pub overflow_pages: u64,
    pub entries: u64,
    pub root: u64,
}

impl Meta {
    /// The newer of the two meta pages.
    ///
    /// # Errors
    /// A fault if one of them is not what LMDB can have written.
    pub fn newest(path: &Path, file: &File) -> Result<Meta, Fault> {
        let first = Meta::read(path, file, 0, 0)?;
        let second = Meta::read(path, file, 1, first.page_bytes)?;
        let newest = if first.txn < second.txn { second } else { first };
        // Commits take turns: the even ones write page 0, the odd ones page 1. An empty file has two of number 0.
        let in_turn = newest.txn % 2 == newest.page;
        if second.page_bytes != first.page_bytes || !in_turn {
            return Err(newest.damaged(path, "the meta pages are not of two commits in turn"));
        }
        if let Some(what) = newest.nonsense() {
            return Err(newest.damaged(path, what));
        }
        Ok(newest)
    }

    fn read(path: &Path, file: &File, page: u64, page_bytes: u64) -> Result<Meta, Fault> {
        let damaged = |at: u64, what: &str| Fault::damaged(path.to_owned(), at, what, REMEDY);
        let mut bytes = [0; END];
        match file.read_exact_at(&mut bytes, page * page_bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                let len = file.metadata().map_or(0, |meta| meta.len());
                return Err(damaged(len, "the file ends inside its first pages"));
            }
            Err(e) => return Err(Fault::io("read", path, &e)),
        }
        if bytes[BBOLT_MAGIC_AT..].starts_with(&BBOLT_MAGIC) {
            return Err(Fault::new(format!(
                "{} is a database of etcd, which cannot be read here. It is left as it is: start with another --data-dir, and copy \
                 the keys from a running etcd with etcdctl make-mirror",
                path.display()
            )));
        }
        if u32_at(&bytes, MAGIC_AT) != MAGIC || u16_at(&bytes, FLAGS) != IS_META || word_at(&bytes, 0) != page {
            return Err(damaged(page * page_bytes, "not the meta page of an LMDB file"));
        }
        if u32_at(&bytes, VERSION_AT) != VERSION {
            return Err(damaged(page * page_bytes, "the meta page is of another version of LMDB"));
        }
        let page_bytes = u64::from(u32_at(&bytes, FREE_AT));
        if !page_bytes.is_power_of_two() || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes) {
            return Err(damaged(page * page_bytes, "the meta page names an impossible page size"));
        }
        Ok(Meta {
            page,
            page_bytes,
            last_page: word_at(&bytes, LAST_PAGE_AT),
            txn: word_at(&bytes, TXN_AT),
            free: Record::read(&bytes, FREE_AT),
            main: Record::read(&bytes, MAIN_AT),
        })
    }

    /// Bytes up to the end of the last page.
    pub fn mapped_bytes(&self) -> u64 {
        self.last_page.saturating_add(1).saturating_mul(self.page_bytes)
    }

    /// What cannot be, if anything.
    fn nonsense(&self) -> Option<&'static str> {
        if self.mapped_bytes() > FILE_BYTES_MAX {
            return Some("the meta page names an impossible length");
        }
        let possible = |tree: &Record| tree.depth <= DEPTH_MAX && (tree.depth == 0) == (tree.root == usize::MAX as u64);
        // Free pages are kept by transaction number, as integers; rows by bytes. In the first, flags of the environment stand too.
        let ours = self.free.flags & TREE_FLAGS == INTEGER_KEYS && self.main.flags == 0;
        (!ours || !possible(&self.free) || !possible(&self.main)).then_some("the meta page describes no tree of ours")
    }

    fn damaged(&self, path: &Path, what: &str) -> Fault {
        Fault::damaged(path.to_owned(), self.page * self.page_bytes, what, REMEDY)
    }
}

impl Record {
    fn read(bytes: &[u8], at: usize) -> Record {
        let word = |n: usize| word_at(bytes, at + 8 + n * WORD);
        Record {
            flags: u16_at(bytes, at + 4),
            depth: u16_at(bytes, at + 6),
            branch_pages: word(0),
            leaf_pages: word(1),
            overflow_pages: word(2),
            entries: word(3),
            root: word(4),
        }
    }
}

/// LMDB maps the file and trusts its meta pages' idea of its length, so a file cut short would kill us with SIGBUS at the first
/// read behind its end. A shorter file is legal too, so it is extended to what the newer meta page says: what was never written is
/// never read, and what was cut off is read as zeros, which is refused with a message.
pub(super) fn extend_to_mapped_length(path: &Path) -> Result<(), Fault> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| Fault::io("open", path, &e))?;
    let needed = Meta::newest(path, &file)?.mapped_bytes();
    let len = file.metadata().map_err(|e| Fault::io("stat", path, &e))?.len();
    if len < needed {
        file.set_len(needed).map_err(|e| Fault::io("extend", path, &e))?;
    }
    Ok(())
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..][..2].try_into().expect("two bytes"))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..][..4].try_into().expect("four bytes"))
}

pub(super) fn word_at(bytes: &[u8], at: usize) -> u64 {
    usize::from_ne_bytes(bytes[at..][..WORD].try_into().expect("a word")) as u64
}
