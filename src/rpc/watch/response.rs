//! A watch's events as the bytes of a `WatchResponse`. Rows are encoded already (see [`crate::mvcc::RowHead`]): small ones are copied
//! in, large ones become parts of the message as they are.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, message};

use crate::mvcc::watch::EventBatch;
use crate::mvcc::{Event, EventKind};
use crate::pb::etcdserverpb::ResponseHeader;

/// Numbers of `mvccpb.Event`'s fields, and of `WatchResponse`'s. All tags below 16 take one byte.
const TYPE: u32 = 1;
const KV: u32 = 2;
const PREV_KV: u32 = 3;
const HEADER: u32 = 1;
const WATCH_ID: u32 = 2;
const FRAGMENT: u32 = 7;
const EVENTS: u32 = 11;

/// A row from this size on is not copied.
const LARGE_ROW: usize = 8 * 1024;

/// The header of a stream's last answer, encoded: watches of one stream are mostly told of the same revision one after the other.
#[derive(Default)]
pub struct Header {
    of: ResponseHeader,
    /// The field, tag and length included.
    field: Vec<u8>,
}

impl Header {
    fn encode(&mut self, header: ResponseHeader) -> &[u8] {
        if self.field.is_empty() || self.of != header {
            self.of = header;
            self.field.clear();
            message::encode(HEADER, &self.of, &mut self.field);
        }
        &self.field
    }
}

/// Encodes a batch as one message, or as several if it may be split and is not smaller than `max_bytes`. Each message is a list of
/// parts. `prev` of the events has been looked up if the client wants it.
pub fn encode(
    last: &mut Header,
    header: ResponseHeader,
    batch: &EventBatch,
    max_bytes: usize,
    mut message: impl FnMut(Vec<Bytes>),
) {
    let mut head = Head { header: last.encode(header), watch_id: batch.watch_id, fragment: false };
    let size = head.len() + events(&batch.events, batch.prev_kv).map(|event| event.len()).sum::<usize>();
    if !batch.fragment || size < max_bytes || batch.events.len() < 2 {
        return message(encode_message(&head, events(&batch.events, batch.prev_kv)));
    }
    let mut rest = &batch.events[..];
    while !rest.is_empty() {
        head.fragment = true;
        let (first, after) = rest.split_at(fragment_len(events(rest, batch.prev_kv), head.len(), max_bytes));
        head.fragment = !after.is_empty();
        message(encode_message(&head, events(first, batch.prev_kv)));
        rest = after;
    }
}

fn events(events: &[Arc<Event>], with_prev: bool) -> impl Iterator<Item = EncodedEvent<'_>> + Clone {
    events.iter().map(move |event| EncodedEvent::new(event, with_prev))
}

/// How many events fit: one at least, and as many as keep the message below `max_bytes`.
fn fragment_len<'a>(events: impl Iterator<Item = EncodedEvent<'a>>, head_len: usize, max_bytes: usize) -> usize {
    let mut size = head_len;
    let fits = events.take_while(|event| {
        size += event.len();
        size < max_bytes
    });
    fits.count().max(1)
}

fn encode_message<'a>(head: &Head<'_>, events: impl Iterator<Item = EncodedEvent<'a>> + Clone) -> Vec<Bytes> {
    let copied: usize = events.clone().map(|event| event.copied_len()).sum();
    let mut parts = Parts { done: Vec::new(), open: BytesMut::with_capacity(head.len() + copied) };
    // `events` has the highest number, so it may follow what is already encoded.
    head.put(&mut parts.open);
    for event in events {
        event.put(&mut parts);
    }
    parts.finish()
}

/// What stands before the events.
struct Head<'a> {
    header: &'a [u8],
    watch_id: i64,
    fragment: bool,
}

impl Head<'_> {
    fn len(&self) -> usize {
        let watch_id = if self.watch_id == 0 { 0 } else { 1 + encoded_len_varint(self.watch_id.cast_unsigned()) };
        self.header.len() + watch_id + if self.fragment { 2 } else { 0 }
    }

    fn put(&self, buf: &mut BytesMut) {
        buf.put_slice(self.header);
        if self.watch_id != 0 {
            encode_key(WATCH_ID, WireType::Varint, buf);
            encode_varint(self.watch_id.cast_unsigned(), buf);
        }
        if self.fragment {
            encode_key(FRAGMENT, WireType::Varint, buf);
            encode_varint(1, buf);
        }
    }
}

struct EncodedEvent<'a> {
    is_delete: bool,
    kv: &'a Bytes,
    prev_kv: Option<&'a Bytes>,
}

impl<'a> EncodedEvent<'a> {
    fn new(event: &'a Arc<Event>, with_prev: bool) -> EncodedEvent<'a> {
        let prev_kv = if with_prev { event.prev.row.get().and_then(Option::as_ref) } else { None };
        EncodedEvent { is_delete: event.kind == EventKind::Delete, kv: &event.kv, prev_kv }
    }

    fn body_len(&self) -> usize {
        let kind = if self.is_delete { 2 } else { 0 };
        kind + field_len(self.kv.len()) + self.prev_kv.map_or(0, |row| field_len(row.len()))
    }

    fn len(&self) -> usize {
        field_len(self.body_len())
    }

    /// What of it is copied.
    fn copied_len(&self) -> usize {
        let uncopied = [Some(self.kv), self.prev_kv].into_iter().flatten().map(Bytes::len).filter(|len| *len >= LARGE_ROW);
        self.len() - uncopied.sum::<usize>()
    }

    fn put(&self, parts: &mut Parts) {
        parts.put_field(EVENTS, self.body_len());
        if self.is_delete {
            encode_key(TYPE, WireType::Varint, &mut parts.open);
            encode_varint(1, &mut parts.open);
        }
        parts.put_field(KV, self.kv.len());
        parts.put_row(self.kv);
        if let Some(row) = self.prev_kv {
            parts.put_field(PREV_KV, row.len());
            parts.put_row(row);
        }
    }
}

/// Length of a field of one tag byte that holds `len` bytes.
fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

/// A message in the making.
struct Parts {
    done: Vec<Bytes>,
    open: BytesMut,
}

impl Parts {
    fn put_field(&mut self, tag: u32, len: usize) {
        encode_key(tag, WireType::LengthDelimited, &mut self.open);
        encode_varint(len as u64, &mut self.open);
    }

    fn put_row(&mut self, row: &Bytes) {
        if row.len() < LARGE_ROW {
            self.open.put_slice(row);
        } else {
            self.done.push(self.open.split().freeze());
            self.done.push(row.clone());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        let open = self.open.freeze();
        if self.done.is_empty() {
            return vec![open];
        }
        if !open.is_empty() {
            self.done.push(open);
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::{Prev, Revision, RowHead, encode_delete, encode_row};
    use crate::pb::etcdserverpb::WatchResponse;
    use crate::pb::mvccpb;
    use prost::Message;

    fn header() -> ResponseHeader {
        ResponseHeader { cluster_id: u64::MAX, member_id: 7, revision: 300, raft_term: 2 }
    }

    fn row(key: &str, main: i64, value: &[u8]) -> Bytes {
        let key = key.as_bytes();
        encode_row(&RowHead { key, create_revision: main, mod_revision: main, version: 1, value, lease: 0 })
    }

    fn event(key: &str, main: i64, kind: EventKind, value: &[u8], prev: Option<Bytes>) -> Arc<Event> {
        let kv = if kind == EventKind::Put { row(key, main, value) } else { encode_delete(key.as_bytes(), main) };
        let prev = Prev { revision: None, row: prev.map_or_else(Default::default, |row| Some(row).into()) };
        let key = Bytes::copy_from_slice(key.as_bytes());
        Arc::new(Event { revision: Revision::first_of(main), kind, key, kv, prev })
    }

    fn batch(events: Vec<Arc<Event>>, prev_kv: bool, fragment: bool) -> EventBatch {
        EventBatch::of(9, 300, events, prev_kv, fragment)
    }

    fn encode(batch: &EventBatch, max_bytes: usize) -> Vec<Vec<Bytes>> {
        let mut messages = Vec::new();
        super::encode(&mut Header::default(), header(), batch, max_bytes, |message| messages.push(message));
        messages
    }

    /// What prost makes of the same events.
    fn expected(events: &[Arc<Event>], prev_kv: bool, fragment: bool) -> WatchResponse {
        let decode = |row: &Bytes| mvccpb::KeyValue::decode(row.clone()).unwrap();
        let events = events.iter().map(|event| mvccpb::Event {
            r#type: (event.kind == EventKind::Delete).into(),
            kv: Some(decode(&event.kv)),
            prev_kv: event.prev.row.get().filter(|_| prev_kv).and_then(Option::as_ref).map(decode),
        });
        let events = events.collect();
        WatchResponse { header: Some(header()), watch_id: 9, fragment, events, ..WatchResponse::default() }
    }

    fn some_events() -> Vec<Arc<Event>> {
        vec![
            event("a", 2, EventKind::Put, b"v", None),
            event("b", 2, EventKind::Put, &[5; 20_000], Some(row("b", 1, b"old"))),
            event("a", 3, EventKind::Delete, b"", Some(row("a", 2, &[6; 9_000]))),
            event("", 4, EventKind::Put, b"", None),
        ]
    }

    #[test]
    fn the_bytes_are_those_of_prosts_encoder() {
        for prev_kv in [false, true] {
            let messages = encode(&batch(some_events(), prev_kv, false), 1);
            assert_eq!(messages.len(), 1);
            assert_eq!(messages[0].concat(), expected(&some_events(), prev_kv, false).encode_to_vec());
        }
    }

    #[test]
    fn an_answer_has_the_header_of_its_own_revision() {
        let mut last = Header::default();
        for (revision, watch_id) in [(300, 0), (300, 1), (301, 300), (0, -1)] {
            let header = ResponseHeader { revision, ..header() };
            let batch = EventBatch::of(watch_id, revision, some_events(), false, false);
            let expected = WatchResponse { header: Some(header), watch_id, ..expected(&some_events(), false, false) };
            super::encode(&mut last, header, &batch, 1, |parts| assert_eq!(parts.concat(), expected.encode_to_vec()));
        }
    }

    #[test]
    fn rule_63_fragments_are_split_where_etcd_splits_them() {
        let events: Vec<Arc<Event>> = (0..10).map(|n| event("k", 2 + n, EventKind::Put, &[1; 100], None)).collect();
        let whole = expected(&events, false, false).encoded_len();
        let split = |max_bytes| -> Vec<WatchResponse> {
            let messages = encode(&batch(events.clone(), false, true), max_bytes);
            messages.iter().map(|parts| WatchResponse::decode(&parts.concat()[..]).unwrap()).collect()
        };
        assert_eq!(split(whole + 1), [expected(&events, false, false)], "smaller than the limit");
        let three = expected(&events[..3], false, true).encoded_len();
        let fragments = split(three + 1);
        let sizes: Vec<usize> = fragments.iter().map(|fragment| fragment.events.len()).collect();
        assert_eq!(sizes, [3, 3, 3, 1]);
        assert_eq!(split(three).iter().map(|f| f.events.len()).max(), Some(2), "a fragment stays below the limit");
        assert_eq!(split(1).len(), 10, "one event at least");
        let marks: Vec<bool> = fragments.iter().map(|fragment| fragment.fragment).collect();
        assert_eq!(marks, [true, true, true, false]);
        let joined: Vec<_> = fragments.into_iter().flat_map(|fragment| fragment.events).collect();
        assert_eq!(joined, expected(&events, false, false).events);
    }
}
