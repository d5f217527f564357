//! One HTTP/1.1 connection, by hyper. In: a [`Stream`]. Out: requests with their whole body, to [`Endpoints`].

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_lite::AsyncWrite;
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::allowance::{Allowance, Ticket};
use super::front::{DOUBLED, Link, no_room, plain_text};
use super::grpc::BoxFuture;
use super::http::{Body, Endpoints};
use super::stop::{Guest, Phase};
use super::stream::{Stream, poll_read_scratch};
use super::timers::{Timers, within};

/// Time for a request's headers, and for the next request of a connection that is kept.
const HEADERS: Duration = Duration::from_secs(60);
/// Time for a request's body.
const BODY: Duration = Duration::from_secs(60);
/// Headers of a request, in bytes.
const BUFFER: usize = 64 * 1024;

/// Serves a connection to its end.
pub async fn serve(stream: Stream, link: Arc<Link>, mut guest: Guest) {
    let requests = link.memory.of_connection().requests;
    let service = service_fn(|request| {
        let (link, requests) = (link.clone(), requests.clone());
        async move { Ok::<_, Infallible>(answer(&link, &requests, request).await) }
    });
    let mut settings = http1::Builder::new();
    settings.timer(HyperTimer(link.timers.clone())).header_read_timeout(HEADERS).max_buf_size(BUFFER);
    let mut connection = pin!(settings.serve_connection(Hyper(stream), service));
    let mut draining = false;
    let ended = std::future::poll_fn(|cx| {
        match guest.poll_phase(cx) {
            Phase::Drain if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            Phase::Close => return Poll::Ready(Ok(())),
            Phase::Open | Phase::Drain => {}
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = ended {
        log::debug!("HTTP/1.1 connection of {} ended: {error}", link.peer.addr);
    }
}

async fn answer(link: &Link, requests: &Arc<Allowance>, request: Request<Incoming>) -> Response<HyperBody> {
    let response = match &link.offer.endpoints {
        Some(endpoints) => ask(link, requests, endpoints.clone(), request).await,
        None => plain_text(
            StatusCode::NOT_FOUND,
            "this address serves gRPC only, over HTTP/2: use one of --listen-client-http-urls\n",
        ),
    };
    response.map(HyperBody)
}

async fn ask(
    link: &Link,
    requests: &Arc<Allowance>,
    endpoints: Arc<dyn Endpoints>,
    request: Request<Incoming>,
) -> Response<Body> {
    let limit = link.settings.message_limit();
    let (head, body) = request.into_parts();
    let mut held = requests.ticket(0);
    match within(&*link.timers, BODY, read_body(body, limit, &mut held)).await {
        Some(Ok(body)) => endpoints.answer(link.peer.clone(), Request::from_parts(head, body)).await,
        Some(Err(Unread::TooLong)) => {
            plain_text(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes\n"))
        }
        Some(Err(Unread::NoRoom)) => no_room(),
        Some(Err(Unread::Broken(error))) => plain_text(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}\n")),
        None => plain_text(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive in {BODY:?}\n")),
    }
}

/// Why a body was not read to its end.
enum Unread {
    TooLong,
    NoRoom,
    Broken(hyper::Error),
}

/// The whole body, up to `limit`, counted as `held`.
async fn read_body(mut body: Incoming, limit: usize, held: &mut Ticket) -> Result<Bytes, Unread> {
    let mut whole = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        // Trailers mean nothing to us.
        let Ok(part) = frame.map_err(Unread::Broken)?.into_data() else { continue };
        if whole.len() + part.len() > limit {
            return Err(Unread::TooLong);
        }
        if !held.grow(DOUBLED * part.len()) {
            return Err(Unread::NoRoom);
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

/// A [`Body`] as hyper wants it.
struct HyperBody(Body);

impl http_body::Body for HyperBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Body::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Pieces(pieces) => pieces.as_mut().poll_next(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Body::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Pieces(_) => SizeHint::default(),
        }
    }
}

/// A stream as hyper wants it.
struct Hyper(Stream);

impl Read for Hyper {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let most = buffer.remaining();
        poll_read_scratch(&mut self.0, cx, most, |bytes| buffer.put_slice(bytes)).map_ok(drop)
    }
}

impl Write for Hyper {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

/// Our timers as hyper wants them.
struct HyperTimer(Arc<dyn Timers>);

struct HyperSleep(std::sync::Mutex<BoxFuture<()>>);

impl Timer for HyperTimer {
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(HyperSleep(std::sync::Mutex::new(self.0.sleep(time))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(Instant::now()))
    }
}

impl Sleep for HyperSleep {}

/// hyper asks for `Sync`; the lock is never shared.
impl Future for HyperSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().expect("no panic while it was held").as_mut().poll(cx)
    }
}
