//! `etcdserverpb.KV`. Ranges are answered from the store's rows without decoding them; writes go through the log.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};

use super::call::PIECE;
use super::check;
use super::encode;
use super::grpc::{Replies, Reply};
use super::services::Api;
use super::status::{Code, Status};
use crate::error::{Error, Fault};
use crate::mvcc::{RangeAnswer, Rows};
use crate::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, PutRequest, RangeRequest, ResponseHeader, TxnRequest,
};
use crate::server::Handle;

/// An answer of many rows up to so many bytes is made at once: on another thread, beside others that nobody may be reading.
const SMALL: usize = 16 << 10;
/// So many rows are read inside the connection's task. More might be many page faults on a slow card, and are read off it.
const INLINE_ROWS: usize = 64;
/// Rows in the first chunk of a stream at the most, as in etcd: the client sees the first rows soon.
const FIRST_CHUNK: usize = 10;

/// `Range`.
pub async fn range(api: &Api, request: RangeRequest) -> Result<Reply, Status> {
    check::range(&request)?;
    let RangeAnswer { revision, count, more, rows } = api.server.range(&request).await?;
    let header = api.server.header(revision);
    let (rows, (mut first, rest)) = read(&api.server, rows, move |rows| begin(rows, &header)).await?;
    if rows.is_empty() {
        encode::end(&mut first, more, count);
        return Ok(Reply::Whole(first.freeze()));
    }
    let tail = encode::tail(more, count);
    let total = first.len() + rest + tail.len();
    // What gRPC's Go library can send at the most, which is etcd's only limit here.
    if total > i32::MAX as usize {
        let why = format!("trying to send message larger than max ({total} vs. {})", i32::MAX);
        return Err(Status::new(Code::ResourceExhausted, why));
    }
    let total = u32::try_from(total).expect("it is not above i32::MAX");
    Ok(Reply::Pieces { total, pieces: Box::pin(pieces(api.server.clone(), first.freeze(), rows, tail)) })
}

/// The beginning of the answer, up to [`PIECE`], and the length of what the rows left will add.
fn begin(rows: &mut Rows, header: &ResponseHeader) -> Result<(BytesMut, usize), Fault> {
    let mut first = BytesMut::with_capacity(512);
    encode::header(&mut first, header);
    let framed = |rows: &mut Rows| {
        let mut sum = 0;
        rows.lengths(|row| sum += encode::framed_len(row))?;
        Ok(sum)
    };
    if rows.len() > INLINE_ROWS {
        let length = framed(rows)?;
        if length > SMALL {
            return Ok((first, length));
        }
    }
    encode::rows(&mut first, rows, usize::MAX, PIECE)?;
    let rest = framed(rows)?;
    Ok((first, rest))
}

/// The rest of an answer, piece by piece. Ends early if the store breaks, which the transport takes for what it is.
fn pieces(server: Handle, first: Bytes, rows: Rows, tail: Bytes) -> impl stream::Stream<Item = Bytes> + Send {
    let rest = stream::unfold((server, Some(rows), tail), async |(server, rows, tail)| {
        let (rows, mut piece) = read(&server, rows?, |rows| {
            let mut piece = BytesMut::with_capacity(PIECE);
            encode::rows(&mut piece, rows, usize::MAX, PIECE)?;
            Ok(piece)
        })
        .await
        .ok()?;
        if !rows.is_empty() {
            return Some((piece.freeze(), (server, Some(rows), tail)));
        }
        piece.extend_from_slice(&tail);
        Some((piece.freeze(), (server, None, tail)))
    });
    stream::once(std::future::ready(first)).chain(rest)
}

/// Lets `work` read rows, few of them here and many where a slow disk holds up no connection, and lets go of the store.
async fn read<T>(
    server: &Handle,
    mut rows: Rows,
    work: impl FnOnce(&mut Rows) -> Result<T, Fault> + Send + 'static,
) -> Result<(Rows, T), Error>
where
    T: Send + 'static,
{
    let few = rows.len() <= INLINE_ROWS;
    if !few {
        // Read transactions are as many as threads, not as many as clients that wait for one.
        rows.park();
    }
    let read = move || {
        let result = work(&mut rows)?;
        rows.park();
        Ok((rows, result))
    };
    let outcome = if few { read() } else { smol::unblock(read).await };
    outcome.map_err(|fault: Fault| {
        server.fail(fault);
        Error::Stopped
    })
}

/// `RangeStream`: the answer of one range in chunks. All rows are of the revision that the range was answered at; only the last
/// chunk has a header, `more` and `count`.
pub async fn range_stream(api: &Api, request: RangeRequest, replies: &mut Replies) -> Result<(), Status> {
    check::range_stream(&request)?;
    let RangeAnswer { revision, count, more, mut rows } = api.server.range(&request).await?;
    // The client may not be ready for long, and a defragmentation would wait for its read transaction, and all others for that.
    rows.park();
    let header = api.server.header(revision);
    // A chunk never grows much beyond the longest request, however long the rows are that come after short ones.
    let target = api.limits.max_request_bytes;
    let mut limit = FIRST_CHUNK;
    loop {
        let most = replies.at_once(target);
        let reserved = replies.reserve(most).await?;
        let (left, chunk) = read(&api.server, rows, move |rows| {
            let mut chunk = BytesMut::new();
            encode::rows(&mut chunk, rows, limit, most)?;
            Ok(chunk.freeze())
        })
        .await?;
        rows = left;
        drop(reserved);
        if rows.is_empty() {
            let tail = encode::tail(more, count);
            return Ok(replies.push(encode::chunk(chunk, Some((&header, tail))))?);
        }
        if chunk.len() < target / 2 {
            limit = limit.saturating_mul(2);
        }
        replies.push(encode::chunk(chunk, None))?;
    }
}

/// `Put`.
pub async fn put(api: &Api, request: PutRequest) -> Result<Reply, Status> {
    api.server.admit_put(&request)?;
    check::put(&request)?;
    let mut response = api.server.put(request).await?;
    response.header = Some(api.completed(response.header));
    Ok(encode::put(&response))
}

/// `DeleteRange`.
pub async fn delete_range(api: &Api, request: DeleteRangeRequest) -> Result<Reply, Status> {
    check::delete_range(&request)?;
    let mut response = api.server.delete_range(request).await?;
    response.header = Some(api.completed(response.header));
    Ok(encode::message(&response))
}

/// `Txn`. One that only reads takes no part of the log. The headers of its operations hold the revision alone, as the store made
/// them.
pub async fn txn(api: &Api, request: TxnRequest) -> Result<Reply, Status> {
    api.server.admit_txn(&request)?;
    check::txn(&request, api.limits.max_txn_ops)?;
    let mut response = if check::is_read_only(&request) {
        api.server.read_txn(&request, check::is_serializable(&request)).await?
    } else {
        api.server.txn(request).await?
    };
    response.header = Some(api.completed(response.header));
    Ok(encode::message(&response))
}

/// `Compact`.
pub async fn compact(api: &Api, request: CompactionRequest) -> Result<Reply, Status> {
    let revision = api.server.compact(request).await?;
    Ok(encode::message(&CompactionResponse { header: Some(api.server.header(revision)) }))
}
