//! A walk through LMDB's trees that trusts no page before it has looked at it.
//!
//! LMDB 0.9 follows whatever its pages say: a flipped bit in a branch page, in a node's length or in the list of free pages makes
//! it read beyond the map, die of an assertion, or hand out a page in use and write over it. So before it may touch a file, we go
//! through it with plain reads, which report an unreadable sector as an error and not as a signal: page numbers, kinds, bounds
//! and order of nodes, and whether every page is used once. A start reads all rows anyway, so it costs no reading from the disk.
//!
//! What it does not see: a page whose every byte is as LMDB left it, but some commits ago (a write that the disk lost and
//! acknowledged), if that page holds as many rows within the same bounds as the right one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::REMEDY;
use super::meta::{Meta, PAGE_HEADER, Record, word_at};
use super::page::{Kind, Page, Value, overflow_pages};
use crate::error::Fault;

const WORD: usize = size_of::<usize>();

/// Called with each row's key and value as the tree holds them.
pub(super) type Each<'e> = &'e mut dyn FnMut(&[u8], &[u8]) -> Result<(), Fault>;

/// Looks at every branch page and at the free list, and at those leaves that hold keys below `rows`.
pub(super) fn check_frame(path: &Path, rows: &[u8]) -> Result<(), Fault> {
    Walk::open(path)?.run(Some(rows), &mut |_, _| Ok(()))
}

/// Looks at everything, and hands out what it finds, in key order.
pub(super) fn check_all(path: &Path, each: Each<'_>) -> Result<(), Fault> {
    Walk::open(path)?.run(None, each)
}

struct Walk<'p> {
    path: &'p Path,
    file: File,
    meta: Meta,
    seen: Seen,
    /// The last value that lay on overflow pages.
    value: Vec<u8>,
    nodes: Vec<(usize, usize)>,
    /// A page of each level, kept from one to the next.
    pages: Vec<Vec<u8>>,
}

/// A bit for each page of the file.
struct Seen {
    bits: Vec<u64>,
    pages: u64,
}

impl Seen {
    /// Enters a page. False if it is no page of the file, or was entered before.
    fn enter(&mut self, page: u64) -> bool {
        if !(2..self.pages).contains(&page) {
            return false;
        }
        let Some(word) = usize::try_from(page / 64).ok().and_then(|at| self.bits.get_mut(at)) else { return false };
        let bit = 1 << (page % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// How a tree's keys are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Bytes,
    /// Of one word each.
    Integers,
}

/// One tree while it is walked.
struct Tree<'t, 'e> {
    record: Record,
    found: Record,
    order: Order,
    /// Leaves that begin here or later are left to another walk.
    until: Option<&'t [u8]>,
    each: Each<'e>,
}

impl Tree<'_, '_> {
    fn takes(&self, key: &[u8]) -> bool {
        self.order == Order::Bytes || key.len() == WORD
    }

    /// Of keys that the tree takes.
    fn is_before(&self, a: &[u8], b: &[u8]) -> bool {
        match self.order {
            Order::Bytes => a < b,
            Order::Integers => word_at(a, 0) < word_at(b, 0),
        }
    }
}

/// Where a subtree's keys have to lie: from the first on, and before the second.
type Bounds<'k> = (Option<&'k [u8]>, Option<&'k [u8]>);

impl<'p> Walk<'p> {
    fn open(path: &'p Path) -> Result<Walk<'p>, Fault> {
        let file = File::open(path).map_err(|e| Fault::io("open", path, &e))?;
        let meta = Meta::newest(path, &file)?;
        let len = file.metadata().map_err(|e| Fault::io("stat", path, &e))?.len();
        let pages = (len / meta.page_bytes).min(meta.last_page + 1);
        let words = usize::try_from(pages.div_ceil(64)).map_err(|_| Fault::new("the checkpoint is larger than memory"))?;
        let seen = Seen { bits: vec![0; words], pages };
        Ok(Walk { path, file, meta, seen, value: Vec::new(), nodes: Vec::new(), pages: Vec::new() })
    }

    fn run(&mut self, until: Option<&[u8]>, each: Each<'_>) -> Result<(), Fault> {
        let main = self.meta.main;
        self.tree(Tree { record: main, found: Record::default(), order: Order::Bytes, until, each })?;
        let mut lists: Vec<Box<[u8]>> = Vec::new();
        let mut keep = |_: &[u8], list: &[u8]| {
            lists.push(list.into());
            Ok(())
        };
        let free = self.meta.free;
        self.tree(Tree { record: free, found: Record::default(), order: Order::Integers, until: None, each: &mut keep })?;
        self.free_pages(&lists)
    }

    fn tree(&mut self, mut tree: Tree<'_, '_>) -> Result<(), Fault> {
        if tree.record.depth > 0 {
            let Record { root, depth, .. } = tree.record;
            self.subtree(&mut tree, root, depth - 1, (None, None))?;
        }
        let Record { flags, depth, root, .. } = tree.record;
        let mut found = Record { flags, depth, root, ..tree.found };
        if tree.until.is_some() {
            (found.entries, found.overflow_pages) = (tree.record.entries, tree.record.overflow_pages);
        }
        if found != tree.record {
            return Err(self.damaged(self.meta.page, "the tree is not of the size that the meta page says: rows are missing"));
        }
        Ok(())
    }

    /// `height` is the number of levels below the page.
    fn subtree(&mut self, tree: &mut Tree<'_, '_>, number: u64, height: u16, bounds: Bounds<'_>) -> Result<(), Fault> {
        if !self.seen.enter(number) {
            return Err(self.damaged(number, "the page is used twice, or lies outside of the file"));
        }
        let kind = if height == 0 { Kind::Leaf } else { Kind::Branch };
        match kind {
            Kind::Leaf => tree.found.leaf_pages += 1,
            Kind::Branch => tree.found.branch_pages += 1,
        }
        if kind == Kind::Leaf && tree.until.is_some_and(|until| bounds.0.is_some_and(|low| low >= until)) {
            return Ok(());
        }
        let mut bytes = self.pages.pop().unwrap_or_default();
        bytes.resize(self.meta.page_bytes as usize, 0);
        self.read(number, &mut bytes)?;
        let mut nodes = std::mem::take(&mut self.nodes);
        let page = Page::check(&bytes, number, kind, &mut nodes);
        self.nodes = nodes;
        let page = page.map_err(|what| self.damaged(number, what))?;
        match kind {
            Kind::Leaf => self.leaf(tree, number, &page, bounds)?,
            Kind::Branch => self.branch(tree, number, &page, height, bounds)?,
        }
        self.pages.push(bytes);
        Ok(())
    }

    fn branch(
        &mut self,
        tree: &mut Tree<'_, '_>,
        number: u64,
        page: &Page<'_>,
        height: u16,
        (low, high): Bounds<'_>,
    ) -> Result<(), Fault> {
        // LMDB never looks at the first node's key: whatever is less than the second belongs below the first.
        let mut from = low;
        for at in 0..page.len() {
            let to = if at + 1 < page.len() { Some(page.key(at + 1)) } else { high };
            if to.is_some_and(|to| !tree.takes(to) || from.is_some_and(|from| !tree.is_before(from, to))) {
                return Err(self.damaged(number, "the branch page's keys are out of order"));
            }
            self.subtree(tree, page.child(at), height - 1, (from, to))?;
            from = to;
        }
        Ok(())
    }

    fn leaf(&mut self, tree: &mut Tree<'_, '_>, number: u64, page: &Page<'_>, (low, high): Bounds<'_>) -> Result<(), Fault> {
        let mut last = None;
        for at in 0..page.len() {
            let key = page.key(at);
            let follows = tree.takes(key)
                && match last {
                    Some(last) => tree.is_before(last, key),
                    None => low.is_none_or(|low| !tree.is_before(key, low)),
                };
            if !follows || high.is_some_and(|high| !tree.is_before(key, high)) {
                return Err(self.damaged(number, "the leaf page's keys are out of order"));
            }
            last = Some(key);
            tree.found.entries += 1;
            match page.value(at) {
                Value::Here(value) => (tree.each)(key, value)?,
                Value::Overflow { page, bytes } => {
                    tree.found.overflow_pages += self.overflow(page, bytes)?;
                    (tree.each)(key, &self.value)?;
                }
            }
        }
        Ok(())
    }

    /// Reads a value of so many bytes from its overflow pages, and returns their number.
    fn overflow(&mut self, number: u64, bytes: u64) -> Result<u64, Fault> {
        let mut header = [0; PAGE_HEADER];
        let begins = (2..self.seen.pages).contains(&number);
        if begins {
            self.read(number, &mut header)?;
        }
        let pages = overflow_pages(&header, number).filter(|_| begins).unwrap_or(0);
        if (PAGE_HEADER as u64 + bytes).div_ceil(self.meta.page_bytes) > pages {
            return Err(self.damaged(number, "not the overflow pages that belong here"));
        }
        for page in number..number + pages {
            if !self.seen.enter(page) {
                return Err(self.damaged(page, "the page is used twice, or lies outside of the file"));
            }
        }
        let mut value = std::mem::take(&mut self.value);
        value.resize(bytes as usize, 0);
        self.read_at(number * self.meta.page_bytes + PAGE_HEADER as u64, &mut value)?;
        self.value = value;
        Ok(pages)
    }

    /// Each list begins with its length, then come page numbers, the largest first.
    fn free_pages(&mut self, lists: &[Box<[u8]>]) -> Result<(), Fault> {
        let mut beyond = 0;
        for list in lists {
            let mut words = list.chunks_exact(WORD).map(|word| word_at(word, 0));
            let mut last = u64::MAX;
            for _ in 0..words.next().unwrap_or(0) {
                let Some(page) = words.next().filter(|page| *page < last) else {
                    return Err(self.free_damaged("it is out of order"));
                };
                last = page;
                if (self.seen.pages..=self.meta.last_page).contains(&page) {
                    beyond += 1;
                } else if !self.seen.enter(page) {
                    return Err(self.free_damaged(&format!("page {page} is in use or listed twice")));
                }
            }
        }
        // The file may end before pages that were never written, but those are all free.
        if beyond != self.meta.last_page + 1 - self.seen.pages {
            return Err(self.damaged(self.seen.pages, "the file ends before its last page"));
        }
        Ok(())
    }

    fn free_damaged(&self, what: &str) -> Fault {
        self.damaged(self.meta.free.root.min(self.meta.last_page), &format!("the list of free pages is wrong: {what}"))
    }

    fn read(&self, number: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        self.read_at(number * self.meta.page_bytes, bytes)
    }

    fn read_at(&self, at: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        self.file.read_exact_at(bytes, at).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Fault::damaged(self.path.to_owned(), at, "the file ends here", REMEDY),
            _ => Fault::new(format!("cannot read {} at byte {at}: {e}. {REMEDY}", self.path.display())),
        })
    }

    fn damaged(&self, page: u64, what: &str) -> Fault {
        Fault::damaged(self.path.to_owned(), page.saturating_mul(self.meta.page_bytes), what, REMEDY)
    }
}
