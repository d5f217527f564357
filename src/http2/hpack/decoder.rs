//! Header blocks of the other side.

use bytes::Bytes;

use super::table::{Field, Table};
use super::{TABLE, huffman};

/// A block that is none: the connection cannot go on, since nobody knows what the tables hold (RFC 7541 §2.3.3 and others).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads header blocks, in the order in which they came.
pub struct Decoder {
    table: Table,
}

/// A block under way.
struct Cursor<'a>(&'a [u8]);

impl Decoder {
    /// Of a new connection.
    pub fn new() -> Decoder {
        Decoder { table: Table::new(TABLE) }
    }

    /// Reads a whole block; `each` is told every field in its order. Whether the table has changed: while it does not, the same bytes
    /// mean the same fields.
    pub fn decode(&mut self, block: &[u8], mut each: impl FnMut(Field)) -> Result<bool, Malformed> {
        let mut cursor = Cursor(block);
        let (mut is_first, mut has_changed) = (true, false);
        while let Some(&first) = cursor.0.first() {
            // Representations, RFC 7541 §6.
            match first {
                0x80.. => {
                    let index = cursor.integer(7)?;
                    each(self.table.get(index).ok_or(Malformed)?);
                }
                0x40..0x80 => {
                    let field = self.literal(&mut cursor, 6)?;
                    each(field.clone());
                    self.table.insert(field);
                    has_changed = true;
                }
                0x20..0x40 => {
                    let size = cursor.integer(5)?;
                    if !is_first || size > TABLE {
                        return Err(Malformed);
                    }
                    self.table.set_max_size(size);
                    has_changed = true;
                    continue;
                }
                0..0x20 => each(self.literal(&mut cursor, 4)?),
            }
            is_first = false;
        }
        Ok(has_changed)
    }

    fn literal(&self, cursor: &mut Cursor<'_>, prefix_bits: u32) -> Result<Field, Malformed> {
        let name = match cursor.integer(prefix_bits)? {
            0 => cursor.string()?,
            index => self.table.get(index).ok_or(Malformed)?.name,
        };
        Ok(Field { name, value: cursor.string()? })
    }
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(byte)
    }

    fn integer(&mut self, prefix_bits: u32) -> Result<usize, Malformed> {
        let most = (1 << prefix_bits) - 1;
        let mut number = usize::from(self.byte()?) & most;
        if number < most {
            return Ok(number);
        }
        // Four bytes more say all that a block of ours can be long.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn string(&mut self) -> Result<Bytes, Malformed> {
        let is_coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        if is_coded { huffman::decode(text).map(Bytes::from).ok_or(Malformed) } else { Ok(Bytes::copy_from_slice(text)) }
    }
}
