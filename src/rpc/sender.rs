//! Our half of a gRPC stream: headers, message bytes, trailers.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::frame::Segment;
use super::grpc::Gone;
use super::metadata::percent_encode;
use super::status::{Code, Status};
use super::streams::Answer;

const CONTENT_TYPE: &[u8] = b"application/grpc";
const OK: u16 = 200;

/// A stream that is answered.
pub struct Sender {
    answer: Answer,
    /// The headers are out.
    is_started: bool,
    content_type: Bytes,
}

impl Sender {
    /// Nothing has been sent yet. The answer is of the request's subtype, whatever that is, as gRPC's Go library has it.
    pub fn new(answer: Answer, asked_as: &[u8]) -> Sender {
        Sender { answer, is_started: false, content_type: content_type(asked_as) }
    }

    /// Ready when the client has reset the stream or its connection has ended.
    pub fn poll_gone(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.answer.poll_gone(cx)
    }

    /// Sends these bytes as the client's windows open, headers first.
    pub async fn send(&mut self, mut segment: Segment) -> Result<(), Gone> {
        self.start();
        poll_fn(|cx| self.answer.poll_send(&mut segment, cx)).await
    }

    /// Ends the stream with a status. With nothing sent before, headers and trailers go out as one frame.
    pub fn finish(self, outcome: Result<(), &Status>) {
        let (code, message) = match outcome {
            Ok(()) => (Code::Ok, None),
            Err(status) => (status.code, Some(&*status.message)),
        };
        if !self.is_started {
            return self.send_status(OK, code, message, None);
        }
        let message = message.map(percent_encode);
        self.answer.trailers(status_fields(code, message.as_ref().map(|message| message.as_bytes())));
    }

    /// Ends the stream before it begins, with an HTTP status that says what is wrong with the request as such.
    pub fn refuse(self, http: u16, status: &Status) {
        // For a client whose compression we lack, and harmless for others.
        let accepts = (status.code == Code::Unimplemented).then_some((&b"grpc-accept-encoding"[..], &b"gzip"[..], false));
        self.send_status(http, status.code, Some(&status.message), accepts);
    }

    /// Breaks the stream off: what was sent of a message cannot be completed.
    pub fn reset(self) {
        self.answer.reset();
    }

    fn start(&mut self) {
        if !std::mem::replace(&mut self.is_started, true) {
            let content_type = content_type_field(&self.content_type);
            self.answer.head(OK, [content_type], false);
        }
    }

    fn send_status(mut self, http: u16, code: Code, message: Option<&str>, more: Option<(&[u8], &[u8], bool)>) {
        let message = message.map(percent_encode);
        let status = status_fields(code, message.as_ref().map(|message| message.as_bytes()));
        let fields = [content_type_field(&self.content_type)].into_iter().chain(status).chain(more);
        self.answer.head(http, fields, true);
    }
}

fn content_type(asked_as: &[u8]) -> Bytes {
    match asked_as.strip_prefix(CONTENT_TYPE) {
        Some([b'+' | b';', subtype @ ..]) if !subtype.is_empty() => [CONTENT_TYPE, b"+", subtype].concat().into(),
        _ => Bytes::from_static(CONTENT_TYPE),
    }
}

fn content_type_field(content_type: &[u8]) -> (&[u8], &[u8], bool) {
    (b"content-type", content_type, content_type == CONTENT_TYPE)
}

fn status_fields(code: Code, message: Option<&[u8]>) -> impl Iterator<Item = (&[u8], &[u8], bool)> {
    let status = (&b"grpc-status"[..], code.digits().as_bytes(), code == Code::Ok);
    [status].into_iter().chain(message.map(|message| (&b"grpc-message"[..], message, false)))
}
