//! Reads one thing out of reply headers: `grpc-status`. The rest of HPACK (RFC 7541) is followed only as far as that takes.
//!
//! A server names fields by their place in a table that both ends keep, so every field has to be counted. The true size of a field
//! under Huffman's code is not computed but bounded from above: as long as the bounds fit the table, nothing can have been evicted,
//! and places are certain. A connection on which they no longer fit is given up rather than guessed about.

use std::collections::VecDeque;

/// Fields of the static table (RFC 7541 appendix A), none of them `grpc-status`.
const STATIC: usize = 61;
/// SETTINGS_HEADER_TABLE_SIZE unless somebody changes it, and nobody here does.
const TABLE: usize = 4096;
const NAME: &[u8] = b"grpc-status";
/// [`NAME`] under Huffman's code.
const NAME_CODED: &[u8] = &[0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f];

#[derive(Clone, Copy)]
struct Field {
    is_status: bool,
    /// The number, if it is the status.
    status: Option<u32>,
}

/// What the server's encoder has put into the table of one connection.
#[derive(Default)]
pub struct Fields {
    /// The youngest first.
    table: VecDeque<Field>,
    /// At least as many bytes as the table has.
    size: usize,
}

impl Fields {
    /// The status that a header block holds, if it holds one.
    ///
    /// # Errors
    /// When the block is malformed or the table's contents are no longer certain.
    pub fn read(&mut self, block: &[u8]) -> Result<Option<u32>, String> {
        let mut rest = block;
        let mut status = None;
        while let Some(&first) = rest.first() {
            let field = match first {
                0x80.. => self.at(integer(&mut rest, 7)?)?,
                0x40.. => {
                    let (field, size) = self.literal(&mut rest, 6)?;
                    self.table.push_front(field);
                    self.size += size;
                    if self.size > TABLE {
                        return Err("more header fields than the table is sure to hold".to_owned());
                    }
                    field
                }
                0x20.. => return Err("a change of the header table's size".to_owned()),
                _ => self.literal(&mut rest, 4)?.0,
            };
            status = field.status.or(status);
        }
        Ok(status)
    }

    fn at(&self, index: usize) -> Result<Field, String> {
        match index {
            0 => Err("header field 0".to_owned()),
            1..=STATIC => Ok(Field { is_status: false, status: None }),
            _ => self.table.get(index - STATIC - 1).copied().ok_or_else(|| format!("no header field {index}")),
        }
    }

    /// A literal field and at least as many bytes as it takes in the table. Its name's place is in the low `bits` of the first byte.
    fn literal(&self, rest: &mut &[u8], bits: u32) -> Result<(Field, usize), String> {
        let index = integer(rest, bits)?;
        let (is_status, name) = if index == 0 {
            let (coded, name) = string(rest)?;
            (name == if coded { NAME_CODED } else { NAME }, decoded_at_most(coded, name))
        } else {
            // No name of the static table, and none that we have seen in the other, is longer.
            (self.at(index)?.is_status, 32)
        };
        let (coded, value) = string(rest)?;
        let status = if is_status { Some(number(coded, value)?) } else { None };
        Ok((Field { is_status, status }, name + decoded_at_most(coded, value) + 32))
    }
}

/// An integer whose first `bits` are in the first byte (RFC 7541 §5.1).
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, String> {
    let mut next = || {
        let (&byte, tail) = rest.split_first().ok_or("a header block ends early")?;
        *rest = tail;
        Ok::<usize, String>(usize::from(byte))
    };
    let most = (1 << bits) - 1;
    let mut value = next()? & most;
    if value < most {
        return Ok(value);
    }
    for shift in (0..28).step_by(7) {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("an endless number in a header block".to_owned())
}

/// Whether a string is under Huffman's code, and its bytes (RFC 7541 §5.2).
fn string<'a>(rest: &mut &'a [u8]) -> Result<(bool, &'a [u8]), String> {
    let coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (bytes, tail) = rest.split_at_checked(length).ok_or("a header string ends early")?;
    *rest = tail;
    Ok((coded, bytes))
}

/// The shortest code has five bits.
fn decoded_at_most(coded: bool, bytes: &[u8]) -> usize {
    if coded { bytes.len() * 8 / 5 } else { bytes.len() }
}

/// A status in digits. Huffman's code has 5 bits for 0 to 2 (their values), 6 bits for 3 to 9 (22 more than theirs), and ones at
/// the end.
fn number(coded: bool, bytes: &[u8]) -> Result<u32, String> {
    let unclear = || format!("a grpc-status of the bytes {bytes:02x?}");
    if !coded {
        return std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or_else(unclear);
    }
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u32::from(byte >> at & 1)));
    let mut value = None;
    loop {
        let five: Vec<u32> = bits.by_ref().take(5).collect();
        let code = five.iter().fold(0, |code, bit| code << 1 | bit);
        let digit = match (five.len(), code) {
            (5, 0..=2) => code,
            (5, 12..=15) => {
                (code << 1 | bits.next().ok_or_else(unclear)?).checked_sub(22).filter(|digit| *digit < 10).ok_or_else(unclear)?
            }
            (length, code) if code == (1 << length) - 1 => return value.ok_or_else(unclear),
            _ => return Err(unclear()),
        };
        value = Some(value.unwrap_or(0) * 10 + digit);
    }
}

#[cfg(test)]
mod tests {
    use super::Fields;
    use crate::hostile::wire::field;

    #[test]
    fn a_status_is_read_as_literal_by_name_and_by_place() {
        let mut fields = Fields::default();
        let ok = [&[0x88][..], &field(0x40, "content-type", b"application/grpc"), &field(0x40, "grpc-status", b"0")].concat();
        assert_eq!(fields.read(&ok), Ok(Some(0)));
        // The youngest is field 62, the one before it 63.
        assert_eq!(fields.read(&[0xbe]), Ok(Some(0)));
        assert_eq!(fields.read(&[0xbf]), Ok(None));
        // Another value for the name of field 62: "14", and "8" (code 011110) under Huffman's code.
        assert_eq!(fields.read(&[0x7e, 2, b'1', b'4']), Ok(Some(14)));
        assert_eq!(fields.read(&[0xbe]), Ok(Some(14)));
        assert_eq!(fields.read(&[0x0f, 0x2f, 0x81, 0b0111_1011]), Ok(Some(8)));
        // "10": 00001 00000, then ones.
        assert_eq!(fields.read(&[0x0f, 0x2f, 0x82, 0b0000_1000, 0b0011_1111]), Ok(Some(10)));
    }

    #[test]
    fn what_is_uncertain_is_an_error() {
        for block in [&[0xc0][..], &[0x80], &[0x40, 5, b'x'], &[0x3f, 0], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
            assert!(Fields::default().read(block).is_err(), "{block:02x?}");
        }
        let mut fields = Fields::default();
        let long = field(0x40, "grpc-message", &[b'x'; 2000]);
        assert_eq!(fields.read(&long), Ok(None));
        assert!(fields.read(&long).is_ok_and(|status| status.is_none()));
        assert!(fields.read(&long).is_err(), "the first may have been evicted");
    }
}
