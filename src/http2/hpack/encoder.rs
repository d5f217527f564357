//! Header blocks of ours.

use bytes::Bytes;

use super::table::{Field, Table, find_static};
use super::{TABLE, put_integer};

/// Writes header blocks, in the order in which they are sent.
pub struct Encoder {
    table: Table,
    /// A bound that the other side has to be told of: the smallest there was, and the last.
    told: Option<(usize, usize)>,
}

impl Encoder {
    /// Of a new connection.
    pub fn new() -> Encoder {
        Encoder { table: Table::new(TABLE), told: None }
    }

    /// The other side allows a table of so many bytes (SETTINGS_HEADER_TABLE_SIZE). More than the usual is not made use of.
    pub fn set_max_size(&mut self, max_size: usize) {
        let last = max_size.min(TABLE);
        self.table.set_max_size(last);
        let smallest = self.told.map_or(last, |(smallest, _)| smallest.min(last));
        self.told = Some((smallest, last));
    }

    /// Begins a block.
    pub fn begin(&mut self, block: &mut Vec<u8>) {
        if let Some((smallest, last)) = self.told.take() {
            if smallest < last {
                put_integer(block, 0x20, 5, smallest);
            }
            put_integer(block, 0x20, 5, last);
        }
    }

    /// Appends the pseudo-header of an answer, `:status`.
    pub fn status(&mut self, block: &mut Vec<u8>, status: u16) {
        match status {
            200 => block.push(0x88),
            _ => self.field(block, b":status", status.to_string().as_bytes(), false),
        }
    }

    /// Appends a field. One that will be sent again is worth `keep`ing: later it is a number.
    pub fn field(&mut self, block: &mut Vec<u8>, name: &[u8], value: &[u8], keep: bool) {
        if let Some(index) = self.table.find(name, value) {
            return put_integer(block, 0x80, 7, index);
        }
        let (whole, named) = find_static(name, value);
        if let Some(index) = whole {
            return put_integer(block, 0x80, 7, index);
        }
        let keep = keep && self.table.takes(name, value);
        let (first, prefix_bits) = if keep { (0x40, 6) } else { (0, 4) };
        put_integer(block, first, prefix_bits, named.unwrap_or(0));
        if named.is_none() {
            put_string(block, name);
        }
        put_string(block, value);
        if keep {
            self.table.insert(Field { name: Bytes::copy_from_slice(name), value: Bytes::copy_from_slice(value) });
        }
    }
}

fn put_string(block: &mut Vec<u8>, text: &[u8]) {
    put_integer(block, 0, 7, text.len());
    block.extend_from_slice(text);
}
