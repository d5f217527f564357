//! One page of LMDB's trees (mdb.c of 0.9: `MDB_page`, `MDB_node`), looked at byte by byte before anybody trusts it.

use super::meta::{PAGE_HEADER, u16_at, u32_at, word_at};

const WORD: usize = size_of::<usize>();
const FLAGS: usize = WORD + 2;
/// Where the list of node offsets ends and where the nodes begin; of an overflow page the number of its pages.
const LOWER: usize = WORD + 4;
const UPPER: usize = WORD + 6;
const RUN_PAGES: usize = WORD + 4;

const OVERFLOW: u16 = 0x04;
/// A node begins with four bytes of size or page number, two of flags and two of key length.
const NODE_HEADER: usize = 8;
/// The node's value is on overflow pages.
const BIG_DATA: u16 = 0x01;

/// What a page of a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Branch = 0x01,
    Leaf = 0x02,
}

/// A page whose nodes lie where they may: side by side up to the page's end.
pub(super) struct Page<'a> {
    bytes: &'a [u8],
    kind: Kind,
}

/// Where a leaf's node has its value.
pub(super) enum Value<'a> {
    Here(&'a [u8]),
    Overflow { page: u64, bytes: u64 },
}

impl<'a> Page<'a> {
    /// Checks page `number`, which has to be of this kind. The error says what is wrong with it. `nodes` is room to work in.
    pub fn check(bytes: &'a [u8], number: u64, kind: Kind, nodes: &mut Vec<(usize, usize)>) -> Result<Page<'a>, &'static str> {
        if word_at(bytes, 0) != number {
            return Err("the page bears another page's number");
        }
        if u16_at(bytes, FLAGS) != kind as u16 {
            return Err(match kind {
                Kind::Branch => "not the branch page that belongs here",
                Kind::Leaf => "not the leaf page that belongs here",
            });
        }
        let (lower, upper) = (usize::from(u16_at(bytes, LOWER)), usize::from(u16_at(bytes, UPPER)));
        if lower < PAGE_HEADER || !lower.is_multiple_of(2) || upper < lower || upper > bytes.len() {
            return Err("the page's free space has impossible bounds");
        }
        let page = Page { bytes, kind };
        if page.len() < if kind == Kind::Branch { 2 } else { 1 } {
            return Err("the page has too few nodes");
        }
        nodes.clear();
        for at in 0..page.len() {
            nodes.push(page.extent(at).ok_or("a node lies outside of its page")?);
        }
        nodes.sort_unstable();
        let end = nodes.iter().try_fold(upper, |end, (begin, len)| (*begin == end).then_some(end + len));
        if end != Some(bytes.len()) {
            return Err("the page's nodes do not fill it side by side");
        }
        Ok(page)
    }

    /// Nodes.
    pub fn len(&self) -> usize {
        (usize::from(u16_at(self.bytes, LOWER)) - PAGE_HEADER) / 2
    }

    fn offset(&self, at: usize) -> usize {
        usize::from(u16_at(self.bytes, PAGE_HEADER + 2 * at))
    }

    /// Where a node begins and how long it is, if it lies within the page and is of a kind that we write.
    fn extent(&self, at: usize) -> Option<(usize, usize)> {
        let begin = self.offset(at);
        let node = self.bytes.get(begin..begin + NODE_HEADER).filter(|_| begin.is_multiple_of(2))?;
        let data = match (self.kind, u16_at(node, 4)) {
            (Kind::Branch, _) => 0,
            (Kind::Leaf, 0) => u32_at(node, 0) as usize,
            (Kind::Leaf, BIG_DATA) => WORD,
            (Kind::Leaf, _) => return None,
        };
        let len = (NODE_HEADER + usize::from(u16_at(node, 6))).checked_add(data)?.checked_next_multiple_of(2)?;
        (len <= self.bytes.len() - begin).then_some((begin, len))
    }

    fn node(&self, at: usize) -> &'a [u8] {
        &self.bytes[self.offset(at)..]
    }

    pub fn key(&self, at: usize) -> &'a [u8] {
        let node = self.node(at);
        &node[NODE_HEADER..NODE_HEADER + usize::from(u16_at(node, 6))]
    }

    /// The page below a branch's node.
    pub fn child(&self, at: usize) -> u64 {
        let node = self.node(at);
        // Where a page number has more than 32 bits, the flags' place holds the others.
        let high = if WORD > 4 { u64::from(u16_at(node, 4)) << 32 } else { 0 };
        u64::from(u32_at(node, 0)) | high
    }

    /// The value of a leaf's node.
    pub fn value(&self, at: usize) -> Value<'a> {
        let node = self.node(at);
        let data = &node[NODE_HEADER + usize::from(u16_at(node, 6))..];
        let bytes = u32_at(node, 0);
        match u16_at(node, 4) {
            BIG_DATA => Value::Overflow { page: word_at(data, 0), bytes: u64::from(bytes) },
            _ => Value::Here(&data[..bytes as usize]),
        }
    }
}

/// How many pages follow each other from this one on, if it begins a run of overflow pages.
pub(super) fn overflow_pages(header: &[u8; PAGE_HEADER], number: u64) -> Option<u64> {
    let begins = word_at(header, 0) == number && u16_at(header, FLAGS) == OVERFLOW;
    begins.then(|| u64::from(u32_at(header, RUN_PAGES)))
}
