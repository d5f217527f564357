//! The most frequent answers, encoded by hand: the generated encoder measures a header before it writes it, byte by byte. A row of the
//! store is an encoded `mvccpb.KeyValue`, so an answer to a range is a header, the rows as they are with a tag before each, and two
//! numbers. In: rows and numbers. Out: bytes that are exactly those of the generated encoder.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::grpc::Reply;
use crate::error::Fault;
use crate::mvcc::Rows;
use crate::pb::etcdserverpb::{PutResponse, ResponseHeader};

/// Every answer's `header`, and `RangeStreamResponse.range_response`: field 1, length-delimited.
const FIRST_FIELD: u8 = 1 << 3 | 2;
/// `RangeResponse.kvs`.
const KVS: u8 = 2 << 3 | 2;
/// `RangeResponse.more`.
const MORE: u8 = 3;
/// `RangeResponse.count`.
const COUNT: u8 = 4;
/// `LeaseKeepAliveResponse.ID`.
const ID: u8 = 2;
/// `LeaseKeepAliveResponse.TTL`.
const TTL: u8 = 3;

/// A number with its tag.
const NUMBER: usize = 11;
/// A header with its tag and length.
const HEADER: usize = 2 + 4 * NUMBER;

/// A short message in the making. It is in no memory of its own before it is done.
struct Short {
    bytes: [u8; HEADER + 2 * NUMBER],
    length: usize,
}

impl Short {
    fn new() -> Short {
        Short { bytes: [0; HEADER + 2 * NUMBER], length: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// A field that holds a number; none if that is 0.
    fn number(&mut self, field: u8, mut number: u64) {
        if number == 0 {
            return;
        }
        self.push(field << 3);
        while number >= 0x80 {
            self.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.push(number as u8);
    }

    fn header(&mut self, header: &ResponseHeader) {
        self.push(FIRST_FIELD);
        let length_at = self.length;
        self.push(0);
        self.number(1, header.cluster_id);
        self.number(2, header.member_id);
        self.number(3, header.revision.cast_unsigned());
        self.number(4, header.raft_term);
        self.bytes[length_at] = (self.length - length_at - 1) as u8;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A reply that the generated encoder makes.
pub fn message(message: &impl Message) -> Reply {
    Reply::Whole(message.encode_to_vec().into())
}

/// A `PutResponse`.
pub fn put(response: &PutResponse) -> Reply {
    let (Some(header), None) = (&response.header, &response.prev_kv) else { return message(response) };
    let mut short = Short::new();
    short.header(header);
    Reply::Whole(Bytes::copy_from_slice(short.bytes()))
}

/// A `LeaseKeepAliveResponse`.
pub fn keep_alive(header: &ResponseHeader, id: i64, ttl: i64) -> Bytes {
    let mut short = Short::new();
    short.header(header);
    short.number(ID, id.cast_unsigned());
    short.number(TTL, ttl.cast_unsigned());
    Bytes::copy_from_slice(short.bytes())
}

/// Begins a `RangeResponse`.
pub fn header(buf: &mut BytesMut, header: &ResponseHeader) {
    let mut short = Short::new();
    short.header(header);
    buf.put_slice(short.bytes());
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
pub fn end(buf: &mut BytesMut, more: bool, count: i64) {
    buf.put_slice(end_of(more, count).bytes());
}

/// The end of a `RangeResponse` by itself.
pub fn tail(more: bool, count: i64) -> Bytes {
    Bytes::copy_from_slice(end_of(more, count).bytes())
}

fn end_of(more: bool, count: i64) -> Short {
    let mut short = Short::new();
    short.number(MORE, u64::from(more));
    short.number(COUNT, count.cast_unsigned());
    short
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::{LeaseKeepAliveResponse, RangeResponse};
    use crate::pb::mvccpb::KeyValue;

    const NUMBERS: [i64; 7] = [0, 1, 127, 128, 300, i64::MAX, -1];

    fn headers() -> impl Iterator<Item = ResponseHeader> {
        NUMBERS.into_iter().enumerate().map(|(at, revision)| {
            let other = |step: usize| NUMBERS[(at + step) % NUMBERS.len()].cast_unsigned();
            ResponseHeader { cluster_id: other(1), member_id: other(2), revision, raft_term: other(3) }
        })
    }

    fn whole(reply: Reply) -> Bytes {
        match reply {
            Reply::Whole(message) => message,
            Reply::Pieces { .. } => panic!("it is short"),
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_generated_encoder() {
        for header in headers() {
            let prev_kv = Some(KeyValue { key: "key".into(), ..KeyValue::default() });
            for response in [PutResponse { header: Some(header), prev_kv: None }, PutResponse { header: Some(header), prev_kv }] {
                assert_eq!(whole(put(&response)), response.encode_to_vec());
            }
            for number in NUMBERS {
                let response = LeaseKeepAliveResponse { header: Some(header), id: number, ttl: number };
                assert_eq!(keep_alive(&header, number, number), response.encode_to_vec());
                let more = number == 1;
                let response = RangeResponse { header: Some(header), more, count: number, ..RangeResponse::default() };
                let mut range = BytesMut::new();
                super::header(&mut range, &header);
                assert_eq!([&range[..], &tail(more, number)].concat(), response.encode_to_vec());
                end(&mut range, more, number);
                assert_eq!(range, response.encode_to_vec());
            }
        }
    }
}
