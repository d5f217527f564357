//! RangeStream: a Range in chunks.

use bramble::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use bramble::pb::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use bramble::pb::mvccpb::KeyValue;

use crate::support::requests::{RANGE_STREAM, compact, everything, key, prefix, put, range};
use crate::support::{Client, Code, Server, Status};

fn chunks(client: &Client, request: &RangeRequest) -> Result<Vec<RangeResponse>, Status> {
    let replies: Vec<RangeStreamResponse> = client.collect(RANGE_STREAM, request)?;
    Ok(replies.into_iter().map(|reply| reply.range_response.expect("a chunk holds a range")).collect())
}

fn joined(chunks: &[RangeResponse]) -> Vec<KeyValue> {
    chunks.iter().flat_map(|chunk| chunk.kvs.clone()).collect()
}

fn filled() -> Server {
    let server = Server::start();
    let client = server.client();
    for i in 0..100 {
        client.call(&put(format!("k{i:03}"), "x".repeat(i)));
    }
    server
}

#[test]
fn chunks_join_to_what_a_range_answers() {
    let server = filled();
    let client = server.client();
    let cases = [
        prefix("k"),
        key("k001"),
        range("k010", "k050"),
        RangeRequest { limit: 7, ..prefix("k") },
        RangeRequest { limit: 33, ..prefix("k") },
        RangeRequest { limit: 100, ..prefix("k") },
        RangeRequest { revision: 50, ..prefix("k") },
        RangeRequest { revision: 50, limit: 20, ..prefix("k") },
        RangeRequest { keys_only: true, ..prefix("k") },
        RangeRequest { serializable: true, ..prefix("k") },
        everything(),
        range("z", "a"),
        prefix("missing"),
        RangeRequest { sort_order: SortOrder::Ascend as i32, ..prefix("k") },
    ];
    for request in cases {
        let whole = client.call(&request);
        let chunks = chunks(&client, &request).unwrap_or_else(|status| panic!("{request:?}: {status:?}"));
        let (last, rest) = chunks.split_last().expect("even an empty range has a final message");
        assert_eq!(joined(&chunks), whole.kvs, "{request:?}");
        assert_eq!((last.count, last.more), (whole.count, whole.more), "{request:?}");
        assert_eq!(last.header.as_ref().map(|header| header.revision), Some(101), "{request:?}");
        for chunk in rest {
            assert!(chunk.header.is_none() && chunk.count == 0 && !chunk.more, "only the last chunk sums up: {chunk:?}");
        }
    }
}

#[test]
fn large_answers_come_in_several_chunks() {
    let server = Server::start();
    let client = server.client();
    for i in 0..40 {
        client.call(&put(format!("k{i:03}"), vec![b'x'; 200_000]));
    }
    let chunks = chunks(&client, &prefix("k")).unwrap();
    assert!(chunks.len() > 2, "8 MB in {} chunks", chunks.len());
    assert!(chunks[0].kvs.len() <= 10, "the first chunk comes soon");
    assert_eq!(joined(&chunks).len(), 40);
}

#[test]
fn a_count_is_one_message() {
    let server = filled();
    let client = server.client();
    let chunks = chunks(&client, &RangeRequest { count_only: true, ..prefix("k") }).unwrap();
    assert_eq!(chunks.len(), 1);
    assert_eq!((chunks[0].count, chunks[0].kvs.len()), (100, 0));
}

#[test]
fn orders_and_filters_are_not_streamed() {
    let server = filled();
    let client = server.client();
    let sort = Status::new(Code::Unimplemented, "RangeStream does not support custom sort orders");
    let filter = Status::new(Code::Unimplemented, "RangeStream does not support revision filters");
    let cases = [
        (RangeRequest { sort_order: SortOrder::Descend as i32, ..prefix("k") }, &sort),
        (RangeRequest { sort_order: SortOrder::Ascend as i32, sort_target: SortTarget::Mod as i32, ..prefix("k") }, &sort),
        (RangeRequest { min_mod_revision: 1, ..prefix("k") }, &filter),
        (RangeRequest { max_mod_revision: 1, ..prefix("k") }, &filter),
        (RangeRequest { min_create_revision: 1, ..prefix("k") }, &filter),
        (RangeRequest { max_create_revision: 1, ..prefix("k") }, &filter),
    ];
    for (request, expected) in cases {
        assert_eq!(chunks(&client, &request).unwrap_err(), *expected, "{request:?}");
    }
}

#[test]
fn a_stream_is_refused_as_a_range_is() {
    let server = filled();
    let client = server.client();
    client.call(&compact(50));
    for request in [
        key(""),
        RangeRequest { revision: 49, ..prefix("k") },
        RangeRequest { revision: 1000, ..prefix("k") },
        RangeRequest { sort_order: 7, ..prefix("k") },
    ] {
        assert_eq!(chunks(&client, &request).unwrap_err(), client.fail(&request), "{request:?}");
    }
}
