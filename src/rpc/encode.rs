//! Answers to ranges, encoded by hand. A row of the store is an encoded `mvccpb.KeyValue`, so an answer is a header, the rows as they
//! are with a tag before each, and two numbers. In: rows. Out: bytes that are exactly those of the generated encoder.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::grpc::Reply;
use crate::error::Fault;
use crate::mvcc::Rows;
use crate::pb::etcdserverpb::ResponseHeader;

/// `RangeResponse.header`, and `RangeStreamResponse.range_response`: field 1, length-delimited.
const FIRST_FIELD: u8 = 1 << 3 | 2;
/// `RangeResponse.kvs`.
const KVS: u8 = 2 << 3 | 2;
/// `RangeResponse.more`.
const MORE: u8 = 3 << 3;
/// `RangeResponse.count`.
const COUNT: u8 = 4 << 3;

/// A reply that the generated encoder makes.
pub fn message(message: &impl Message) -> Reply {
    Reply::Whole(message.encode_to_vec().into())
}

/// Begins a `RangeResponse`.
pub fn header(buf: &mut BytesMut, header: &ResponseHeader) {
    buf.put_u8(FIRST_FIELD);
    encode_varint(header.encoded_len() as u64, buf);
    header.encode_raw(buf);
}

/// Takes rows into the answer, until `max_rows` are taken, or the buffer holds `max_bytes` or more. Returns how many were taken.
///
/// # Errors
/// A fault if the checkpoint cannot be read.
pub fn rows(buf: &mut BytesMut, rows: &mut Rows, max_rows: usize, max_bytes: usize) -> Result<usize, Fault> {
    if max_rows == 0 || buf.len() >= max_bytes {
        return Ok(0);
    }
    let mut taken = 0;
    rows.take_while(|row| {
        buf.reserve(framed_len(row.len()));
        buf.put_u8(KVS);
        encode_varint(row.len() as u64, buf);
        buf.put_slice(row);
        taken += 1;
        taken < max_rows && buf.len() < max_bytes
    })?;
    Ok(taken)
}

/// The bytes that a row of so many bytes takes in an answer.
pub fn framed_len(row: usize) -> usize {
    1 + encoded_len_varint(row as u64) + row
}

/// Ends a `RangeResponse`.
pub fn tail(more: bool, count: i64) -> Bytes {
    let mut tail = BytesMut::with_capacity(13);
    if more {
        tail.put_slice(&[MORE, 1]);
    }
    if count != 0 {
        tail.put_u8(COUNT);
        encode_varint(count.cast_unsigned(), &mut tail);
    }
    tail.freeze()
}

/// A `RangeStreamResponse` as its parts: nothing but rows, or for the last of a stream also the header before and the tail behind.
pub fn chunk(rows: Bytes, end: Option<(&ResponseHeader, Bytes)>) -> [Bytes; 3] {
    let mut head = BytesMut::new();
    let mut last = Bytes::new();
    if let Some((response_header, tail)) = end {
        header(&mut head, response_header);
        last = tail;
    }
    let length = head.len() + rows.len() + last.len();
    let mut first = BytesMut::with_capacity(head.len() + 8);
    first.put_u8(FIRST_FIELD);
    encode_varint(length as u64, &mut first);
    first.put_slice(&head);
    [first.freeze(), rows, last]
}
