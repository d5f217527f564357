//! Our half of a gRPC stream: headers, message bytes, trailers. Always: no byte is handed to HTTP/2 that the client has no window
//! for, so that what its library buffers is bounded by the connection's window and not by the size of our replies.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::frame::Segment;
use super::grpc::Gone;
use super::metadata::percent_encode;
use super::status::{Code, Status};

const CONTENT_TYPE: &str = "application/grpc";

/// A stream that is answered.
pub struct Sender {
    state: State,
    content_type: HeaderValue,
}

enum State {
    Fresh(SendResponse<Segment>),
    Started(SendStream<Segment>),
}

impl Sender {
    /// Nothing has been sent yet. The answer is of the request's subtype, whatever that is, as gRPC's Go library has it.
    pub fn new(respond: SendResponse<Segment>, asked_as: &[u8]) -> Sender {
        Sender { state: State::Fresh(respond), content_type: content_type(asked_as) }
    }

    /// Ready when the client has reset the stream or its connection has ended.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Fresh(respond) => respond.poll_reset(cx).map(drop),
            State::Started(stream) => stream.poll_reset(cx).map(drop),
        }
    }

    /// Sends these bytes as the client's windows open, headers first.
    pub async fn send(&mut self, segment: Segment) -> Result<(), Gone> {
        send_data(self.start()?, segment).await
    }

    /// Ends the stream with a status. With nothing sent before, headers and trailers go out as one frame.
    pub fn finish(mut self, outcome: Result<(), &Status>) {
        let (code, message) = match outcome {
            Ok(()) => (Code::Ok, None),
            Err(status) => (status.code, Some(&*status.message)),
        };
        // A stream that is gone needs no status: errors are dropped.
        match &mut self.state {
            State::Fresh(respond) => {
                let _ = respond.send_response(trailers_only(self.content_type, StatusCode::OK, code, message), true);
            }
            State::Started(stream) => {
                let mut trailers = HeaderMap::with_capacity(2);
                put_status(&mut trailers, code, message);
                let _ = stream.send_trailers(trailers);
            }
        }
    }

    /// Ends the stream before it begins, with an HTTP status that says what is wrong with the request as such.
    pub fn refuse(self, http: StatusCode, status: &Status) {
        let State::Fresh(mut respond) = self.state else { unreachable!("refused before anything is sent") };
        let mut response = trailers_only(self.content_type, http, status.code, Some(&status.message));
        if status.code == Code::Unimplemented {
            // For a client whose compression we lack, and harmless for others.
            response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
        }
        let _ = respond.send_response(response, true);
    }

    /// Breaks the stream off: what was sent of a message cannot be completed.
    pub fn reset(mut self) {
        match &mut self.state {
            State::Fresh(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            State::Started(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    fn start(&mut self) -> Result<&mut SendStream<Segment>, Gone> {
        if let State::Fresh(respond) = &mut self.state {
            let mut response = Response::new(());
            response.headers_mut().insert(header::CONTENT_TYPE, self.content_type.clone());
            let stream = respond.send_response(response, false).map_err(|_| Gone)?;
            self.state = State::Started(stream);
        }
        match &mut self.state {
            State::Started(stream) => Ok(stream),
            State::Fresh(_) => unreachable!("started above"),
        }
    }
}

fn content_type(asked_as: &[u8]) -> HeaderValue {
    match asked_as.strip_prefix(CONTENT_TYPE.as_bytes()) {
        Some([b'+' | b';', subtype @ ..]) if !subtype.is_empty() => {
            HeaderValue::from_bytes(&[CONTENT_TYPE.as_bytes(), b"+", subtype].concat())
                .unwrap_or(HeaderValue::from_static(CONTENT_TYPE))
        }
        _ => HeaderValue::from_static(CONTENT_TYPE),
    }
}

/// Sends bytes on a stream whose headers are out, as the client's windows open.
pub async fn send_data(stream: &mut SendStream<Segment>, mut segment: Segment) -> Result<(), Gone> {
    poll_fn(|cx| {
        while segment.has_remaining() {
            let room = ready!(poll_room(stream, segment.remaining(), cx))?;
            let part = segment.split_to(room.min(segment.remaining()));
            stream.send_data(part, false).map_err(|_| Gone)?;
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// How much of `wanted` bytes may be sent now.
fn poll_room(stream: &mut SendStream<Segment>, wanted: usize, cx: &mut Context<'_>) -> Poll<Result<usize, Gone>> {
    stream.reserve_capacity(wanted);
    match stream.capacity() {
        0 => match ready!(stream.poll_capacity(cx)) {
            Some(Ok(room)) => Poll::Ready(Ok(room)),
            Some(Err(_)) | None => Poll::Ready(Err(Gone)),
        },
        room => Poll::Ready(Ok(room)),
    }
}

fn trailers_only(content_type: HeaderValue, http: StatusCode, code: Code, message: Option<&str>) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = http;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    put_status(response.headers_mut(), code, message);
    response
}

fn put_status(headers: &mut HeaderMap, code: Code, message: Option<&str>) {
    headers.insert("grpc-status", HeaderValue::from_static(code.digits()));
    if let Some(message) = message {
        headers.insert("grpc-message", percent_encode(message));
    }
}
