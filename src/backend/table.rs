//! The tables of the checkpoint and the form of their keys and values.

use crc32c::{crc32c, crc32c_append};

/// A table. The byte begins each of its keys; `Row` sorts last, so that new revisions are appended at the end of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// Active alarms: member id and alarm type, no value.
    Alarm = b'a',
    /// Members and removed members of the cluster.
    Member = b'c',
    /// Leases: id to TTL and remaining TTL.
    Lease = b'l',
    /// Format version, identity, applied index and the like, by name.
    Meta = b'm',
    /// Revisions: key of [`crate`]'s revision to row.
    Row = b'~',
}

/// Bytes of the checksum in front of each value.
pub(super) const CRC_BYTES: usize = 4;

/// The key as the tree holds it.
pub(super) fn tree_key(table: Table, key: &[u8], buf: &mut Vec<u8>) {
    buf.clear();
    buf.push(table as u8);
    buf.extend_from_slice(key);
}

/// The value as the tree holds it.
pub(super) fn seal(tree_key: &[u8], value: &[u8], buf: &mut Vec<u8>) {
    buf.clear();
    buf.extend_from_slice(&checksum(tree_key, value).to_le_bytes());
    buf.extend_from_slice(value);
}

/// The value that was sealed; none if it or its key has changed since.
pub(super) fn unseal<'a>(tree_key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, value) = sealed.split_first_chunk::<CRC_BYTES>()?;
    (u32::from_le_bytes(*crc) == checksum(tree_key, value)).then_some(value)
}

fn checksum(tree_key: &[u8], value: &[u8]) -> u32 {
    crc32c_append(crc32c(tree_key), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_unchanged_and_under_its_own_key() {
        let mut sealed = Vec::new();
        seal(b"~key", b"value", &mut sealed);
        assert_eq!(unseal(b"~key", &sealed), Some(&b"value"[..]));
        assert_eq!(unseal(b"~kez", &sealed), None);
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(b"~key", &damaged), None, "bit {bit}");
        }
        assert_eq!(unseal(b"~key", &sealed[..3]), None);
    }
}
