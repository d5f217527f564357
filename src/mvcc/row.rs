//! Rows: what a revision holds, already in the form the wire wants. A row is an encoded `mvccpb.KeyValue`, so a range answer, an
//! event and HashKV copy its bytes as they are. A deletion's row (tombstone) holds the key alone, as in etcd.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_varint, encoded_len_varint, skip_field};

const KEY: u32 = 1;
const CREATE_REVISION: u32 = 2;
const MOD_REVISION: u32 = 3;
const VERSION: u32 = 4;
const VALUE: u32 = 5;
const LEASE: u32 = 6;

/// The fields of a row, borrowed from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowHead<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Main revision of the put that created this generation; 0 in a tombstone.
    pub create_revision: i64,
    /// Main revision of this row; 0 in a tombstone.
    pub mod_revision: i64,
    /// Puts since creation; 0 in a tombstone.
    pub version: i64,
    /// The value.
    pub value: &'a [u8],
    /// The lease the key hangs on; 0 for none.
    pub lease: i64,
}

impl<'a> RowHead<'a> {
    /// Reads a row. None if the bytes are not an encoded KeyValue.
    pub fn parse(row: &'a [u8]) -> Option<RowHead<'a>> {
        let mut head = RowHead::default();
        let mut rest = row;
        while !rest.is_empty() {
            let (tag, wire) = decode_key(&mut rest).ok()?;
            match (tag, wire) {
                (KEY | VALUE, WireType::LengthDelimited) => {
                    let len = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                    let (bytes, after) = rest.split_at_checked(len)?;
                    rest = after;
                    if tag == KEY {
                        head.key = bytes;
                    } else {
                        head.value = bytes;
                    }
                }
                (CREATE_REVISION | MOD_REVISION | VERSION | LEASE, WireType::Varint) => {
                    let number = decode_varint(&mut rest).ok()?.cast_signed();
                    match tag {
                        CREATE_REVISION => head.create_revision = number,
                        MOD_REVISION => head.mod_revision = number,
                        VERSION => head.version = number,
                        _ => head.lease = number,
                    }
                }
                (KEY | CREATE_REVISION | MOD_REVISION | VERSION | VALUE | LEASE, _) => return None,
                _ => skip_field(wire, tag, &mut rest, DecodeContext::default()).ok()?,
            }
        }
        Some(head)
    }

    /// Whether a row read back can be what was written at `main`.
    pub fn is_sound(&self, main: i64) -> bool {
        let of_put =
            self.mod_revision == main && (1..=main).contains(&self.create_revision) && (1..=main).contains(&self.version);
        let of_delete = *self == RowHead { key: self.key, ..RowHead::default() };
        !self.key.is_empty() && (of_put || of_delete)
    }

    /// Whether the row marks a deletion.
    pub fn is_tombstone(&self) -> bool {
        self.create_revision == 0
    }
}

/// Encodes a row (or, with the zeros of a tombstone, the key alone). Field order and omitted zeros are those of etcd's encoder, so
/// that equal stores have equal hashes.
pub fn encode_row(head: &RowHead<'_>) -> Bytes {
    let mut row = BytesMut::with_capacity(encoded_len(head));
    put_bytes(&mut row, KEY, head.key);
    put_number(&mut row, CREATE_REVISION, head.create_revision);
    put_number(&mut row, MOD_REVISION, head.mod_revision);
    put_number(&mut row, VERSION, head.version);
    put_bytes(&mut row, VALUE, head.value);
    put_number(&mut row, LEASE, head.lease);
    row.freeze()
}

/// Encodes what an event says of a deleted key: the key and the revision that deleted it.
pub fn encode_delete(key: &[u8], mod_revision: i64) -> Bytes {
    encode_row(&RowHead { key, mod_revision, ..RowHead::default() })
}

/// Where `key` lies in its encoded row: it is the first field, behind a tag byte and its length.
pub fn key_in_row(key: &[u8]) -> Range<usize> {
    if key.is_empty() {
        return 0..0;
    }
    let begin = 1 + encoded_len_varint(key.len() as u64);
    begin..begin + key.len()
}

fn encoded_len(head: &RowHead<'_>) -> usize {
    let bytes = |b: &[u8]| if b.is_empty() { 0 } else { 1 + encoded_len_varint(b.len() as u64) + b.len() };
    let number = |n: i64| if n == 0 { 0 } else { 1 + encoded_len_varint(n.cast_unsigned()) };
    bytes(head.key)
        + number(head.create_revision)
        + number(head.mod_revision)
        + number(head.version)
        + bytes(head.value)
        + number(head.lease)
}

fn put_bytes(row: &mut BytesMut, tag: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        row.put_u8((tag << 3 | WireType::LengthDelimited as u32) as u8);
        encode_varint(bytes.len() as u64, row);
        row.put_slice(bytes);
    }
}

fn put_number(row: &mut BytesMut, tag: u32, number: i64) {
    if number != 0 {
        row.put_u8((tag << 3 | WireType::Varint as u32) as u8);
        encode_varint(number.cast_unsigned(), row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::mvccpb::KeyValue;
    use prost::Message;

    #[test]
    fn a_row_is_an_encoded_key_value() {
        let row = encode_row(&RowHead { key: b"k", create_revision: 2, mod_revision: 300, version: 4, value: b"v", lease: -5 });
        let kv = KeyValue::decode(row.clone()).unwrap();
        assert_eq!(kv.encode_to_vec(), row);
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (2, 300, 4, -5));
        let head = RowHead::parse(&row).unwrap();
        assert_eq!((head.key, head.value, head.lease, head.is_tombstone()), (&b"k"[..], &b"v"[..], -5, false));
    }

    #[test]
    fn a_tombstone_is_the_key_alone() {
        let row = encode_row(&RowHead { key: b"gone", ..RowHead::default() });
        assert_eq!(row[..], *b"\x0a\x04gone");
        assert!(RowHead::parse(&row).unwrap().is_tombstone());
    }

    #[test]
    fn a_key_lies_where_it_was_written() {
        for length in [0, 1, 127, 128, 20_000] {
            let key = vec![b'k'; length];
            let row = encode_row(&RowHead { key: &key, create_revision: 1, ..RowHead::default() });
            assert_eq!(row[key_in_row(&key)], key);
        }
    }

    #[test]
    fn a_cut_row_is_refused() {
        let row =
            encode_row(&RowHead { key: b"key", create_revision: 1, mod_revision: 1, version: 1, value: b"value", lease: 0 });
        assert_eq!(RowHead::parse(&row[..row.len() - 1]), None);
        assert_eq!(RowHead::parse(&row[..3]), None);
        // What the message's own decoder refuses: a known field of another type.
        assert_eq!(RowHead::parse(&[(KEY << 3) as u8, 5]), None);
    }

    #[test]
    fn a_row_that_was_never_written_is_not_sound() {
        let put = RowHead { key: b"k", create_revision: 2, mod_revision: 5, version: 3, value: b"v", lease: 1 };
        let delete = RowHead { key: b"k", ..RowHead::default() };
        assert!(put.is_sound(5) && delete.is_sound(5));
        assert!(!put.is_sound(6));
        for head in [
            RowHead { key: b"", ..put },
            RowHead { create_revision: 6, ..put },
            RowHead { create_revision: -1, ..put },
            RowHead { version: 0, ..put },
            RowHead { version: i64::MAX, ..put },
            RowHead { key: b"", ..delete },
            RowHead { lease: 1, ..delete },
        ] {
            assert!(!head.is_sound(5), "{head:?}");
        }
    }
}
