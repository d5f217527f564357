//! The interval of keys that `key` and `range_end` mean on the wire.

use std::ops::Bound;

/// A set of keys: one key, or all from a key up to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange<'a> {
    /// `range_end` is empty.
    One(&'a [u8]),
    /// `range_end` is a single zero byte: all keys from this one on.
    From(&'a [u8]),
    /// `[key, range_end)`; empty if the end is not above the key.
    Between(&'a [u8], &'a [u8]),
}

impl<'a> KeyRange<'a> {
    /// Reads the two fields as every etcd request means them.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> KeyRange<'a> {
        match range_end {
            [] => KeyRange::One(key),
            [0] => KeyRange::From(key),
            end => KeyRange::Between(key, end),
        }
    }

    /// Whether the range can hold a key at all.
    pub fn is_empty(&self) -> bool {
        matches!(self, KeyRange::Between(key, end) if end <= key)
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::One(one) => key == *one,
            KeyRange::From(first) => key >= *first,
            KeyRange::Between(first, end) => key >= *first && key < *end,
        }
    }

    /// The range as bounds of an ordered map. Not for an empty range, which ordered maps refuse.
    pub fn bounds(&self) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        match self {
            KeyRange::One(one) => (Bound::Included(one), Bound::Included(one)),
            KeyRange::From(first) => (Bound::Included(first), Bound::Unbounded),
            KeyRange::Between(first, end) => (Bound::Included(first), Bound::Excluded(end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_forms_mean_what_etcd_means() {
        assert_eq!(KeyRange::new(b"a", b""), KeyRange::One(b"a"));
        assert!(KeyRange::new(b"a", b"").contains(b"a") && !KeyRange::new(b"a", b"").contains(b"b"));
        assert!(KeyRange::new(b"a", b"\0").contains(b"zz"));
        assert!(KeyRange::new(b"\0", b"\0").contains(b"\0"));
        assert!(!KeyRange::new(b"b", b"\0").contains(b"a"));
        assert!(KeyRange::new(b"b", b"d").contains(b"c") && !KeyRange::new(b"b", b"d").contains(b"d"));
        assert!(KeyRange::new(b"b", b"b").is_empty() && KeyRange::new(b"b", b"a").is_empty());
    }
}
