//! HPACK: header fields as they travel (RFC 7541). Both directions learn fields and name them by number from then on.

mod decoder;
mod encoder;
mod huffman;
mod table;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use table::Field;
#[cfg(test)]
mod tests;

/// What a table may hold unless somebody says otherwise, in bytes.
const TABLE: usize = 4096;

/// Appends a number below the bits that its first byte has for it (RFC 7541 §5.1).
fn put_integer(out: &mut Vec<u8>, first: u8, prefix_bits: u32, number: usize) {
    let most = (1 << prefix_bits) - 1;
    if number < most {
        return out.push(first | number as u8);
    }
    out.push(first | most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
