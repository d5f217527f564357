//! HPACK's tables (RFC 7541 §2.3): 61 fields that everybody knows, and those that a connection has learned.

use std::collections::VecDeque;

use bytes::Bytes;

/// A header field. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// In lower case; a pseudo-header's begins with a colon.
    pub name: Bytes,
    /// Its value.
    pub value: Bytes,
}

impl Field {
    /// What it counts for (RFC 7541 §4.1, RFC 9113 §6.5.2).
    pub fn size(&self) -> usize {
        size(&self.name, &self.value)
    }
}

/// What a field counts for.
pub fn size(name: &[u8], value: &[u8]) -> usize {
    32 + name.len() + value.len()
}

/// RFC 7541, Appendix A. The first has the index 1.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The index of a field that everybody knows, or of one with its name.
pub fn find_static(name: &[u8], value: &[u8]) -> (Option<usize>, Option<usize>) {
    let named = STATIC.iter().position(|(known, _)| known.as_bytes() == name);
    let whole = STATIC.iter().position(|(known, text)| known.as_bytes() == name && text.as_bytes() == value);
    (whole.map(|at| at + 1), named.map(|at| at + 1))
}

/// The fields that a connection has learned in one direction, newest first.
pub struct Table {
    fields: VecDeque<Field>,
    size: usize,
    max_size: usize,
}

impl Table {
    /// Empty, of at most so many bytes by [`Field::size`].
    pub fn new(max_size: usize) -> Table {
        Table { fields: VecDeque::new(), size: 0, max_size }
    }

    /// The field of an index, of both tables.
    pub fn get(&self, index: usize) -> Option<Field> {
        let at = index.checked_sub(1)?;
        match STATIC.get(at) {
            Some((name, value)) => {
                Some(Field { name: Bytes::from_static(name.as_bytes()), value: Bytes::from_static(value.as_bytes()) })
            }
            None => self.fields.get(at - STATIC.len()).cloned(),
        }
    }

    /// The index of a field that was learned.
    pub fn find(&self, name: &[u8], value: &[u8]) -> Option<usize> {
        let at = self.fields.iter().position(|field| field.name == name && field.value == value)?;
        Some(STATIC.len() + 1 + at)
    }

    /// Learns a field; old ones make room. One that is larger than the table empties it.
    pub fn insert(&mut self, field: Field) {
        let size = field.size();
        self.evict(self.max_size.saturating_sub(size));
        if size <= self.max_size {
            self.size += size;
            self.fields.push_front(field);
        }
    }

    /// Whether a field would fit.
    pub fn takes(&self, name: &[u8], value: &[u8]) -> bool {
        size(name, value) <= self.max_size
    }

    /// Changes the bound.
    pub fn set_max_size(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict(max_size);
    }

    fn evict(&mut self, left: usize) {
        while self.size > left {
            let oldest = self.fields.pop_back().expect("the size is theirs");
            self.size -= oldest.size();
        }
    }
}
