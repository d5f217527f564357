//! A gRPC client with nothing hidden: header fields, trailers, frames and status as they came. Blocking; every wait has a deadline.

use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_rustls::TlsConnector;
use futures_util::{StreamExt, stream};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use rustls::pki_types::ServerName;
use smol::io::{AsyncRead, AsyncWrite};
use smol::net::TcpStream;
use tokio::io::ReadBuf;

use super::requests::Unary;
use super::server::Target;
use super::wait::block_on;

/// gRPC's status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];
}

/// How a call ended.
#[derive(Clone, PartialEq, Eq)]
pub struct Status {
    /// `grpc-status`
    pub code: Code,
    /// `grpc-message`, percent-decoded.
    pub message: String,
}

impl Status {
    /// A status.
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into() }
    }

    fn transport(error: impl fmt::Display) -> Status {
        Status::new(Code::Unavailable, format!("transport: {error}"))
    }

    fn of(fields: &HeaderMap) -> Option<Status> {
        let number: usize = fields.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        let raw = fields.get("grpc-message").map_or(&b""[..], |value| value.as_bytes());
        Some(Status::new(*Code::ALL.get(number)?, percent_decoded(raw)))
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.code, self.message)
    }
}

fn percent_decoded(raw: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = (byte == b'%').then(|| tail.get(..2)).flatten().and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One message with its 5-byte prefix.
pub fn frame(compressed: bool, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(u8::from(compressed));
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(message);
    framed.freeze()
}

fn gunzip(message: &[u8]) -> Bytes {
    let mut inflated = Vec::new();
    flate2::read::GzDecoder::new(message).read_to_end(&mut inflated).expect("gzip is the only compression");
    inflated.into()
}

/// A whole answer, as it came.
#[derive(Debug)]
pub struct Reply {
    /// `:status`
    pub http_status: u16,
    /// The first header block.
    pub headers: HeaderMap,
    /// Messages without their prefixes.
    pub messages: Vec<Bytes>,
    /// The last header block; empty if the first was also the last.
    pub trailers: HeaderMap,
    /// From either block.
    pub status: Status,
}

/// A connection.
#[derive(Clone)]
pub struct Client {
    send: SendRequest<Bytes>,
    authority: String,
    scheme: &'static str,
}

const WINDOW: u32 = 16 << 20;

impl Client {
    /// Connects.
    pub fn connect(target: &Target) -> io::Result<Client> {
        Client::connect_with_window(target, WINDOW)
    }

    /// Connects with a flow control window of so many bytes for each stream.
    pub fn connect_with_window(target: &Target, window: u32) -> io::Result<Client> {
        block_on("the connection", async {
            let socket = TcpStream::connect(target.addr).await?;
            socket.set_nodelay(true)?;
            let (send, scheme) = match &target.tls {
                None => (handshake(socket, window).await?, "http"),
                Some(config) => {
                    let name = ServerName::try_from("127.0.0.1").unwrap();
                    let session = TlsConnector::from(config.clone()).connect(name, socket).await?;
                    (handshake(session, window).await?, "https")
                }
            };
            Ok(Client { send, authority: target.addr.to_string(), scheme })
        })
    }

    /// A unary call that has to succeed.
    #[track_caller]
    pub fn call<R: Unary>(&self, request: &R) -> R::Reply {
        self.try_call(request).unwrap_or_else(|status| panic!("{}: {status:?}", R::PATH))
    }

    /// A unary call that has to fail.
    #[track_caller]
    pub fn fail<R: Unary>(&self, request: &R) -> Status {
        match self.try_call(request) {
            Ok(reply) => panic!("{} should have failed, but answered {reply:?}", R::PATH),
            Err(status) => status,
        }
    }

    /// A unary call.
    #[track_caller]
    pub fn try_call<R: Unary>(&self, request: &R) -> Result<R::Reply, Status> {
        self.call_at(R::PATH, request)
    }

    /// A unary call of any method.
    #[track_caller]
    pub fn call_at<Q: Message, A: Message + Default>(&self, path: &str, request: &Q) -> Result<A, Status> {
        let reply = self.raw(path, &[], frame(false, &request.encode_to_vec()))?;
        if reply.status.code != Code::Ok {
            return Err(reply.status);
        }
        assert_eq!(reply.messages.len(), 1, "{path}: a unary call has one answer");
        Ok(A::decode(reply.messages[0].clone()).expect("a decodable answer"))
    }

    /// Many unary calls, at most `at_once` of them under way; their answers in the order of the requests.
    #[track_caller]
    pub fn call_all<R: Unary>(&self, requests: &[R], at_once: usize) -> Vec<Result<R::Reply, Status>> {
        let answer = async |request: &R| {
            let (mut send, response) = self.request(R::PATH, &[]).await?;
            send_whole(&mut send, frame(false, &request.encode_to_vec()));
            let reply = Answer::Waiting(response).collect().await?;
            match reply.status.code {
                Code::Ok => Ok(R::Reply::decode(reply.messages[0].clone()).expect("a decodable answer")),
                _ => Err(reply.status),
            }
        };
        block_on(R::PATH, stream::iter(requests).map(answer).buffered(at_once).collect())
    }

    /// A call whose answer is a stream, read to its end.
    #[track_caller]
    pub fn collect<Q: Message, A: Message + Default>(&self, path: &str, request: &Q) -> Result<Vec<A>, Status> {
        let reply = self.raw(path, &[], frame(false, &request.encode_to_vec()))?;
        if reply.status.code != Code::Ok {
            return Err(reply.status);
        }
        Ok(reply.messages.into_iter().map(|message| A::decode(message).expect("a decodable answer")).collect())
    }

    /// A call with these bytes as its body, read to its end. An error means that there was no gRPC answer.
    #[track_caller]
    pub fn raw(&self, path: &str, fields: &[(&str, &str)], body: Bytes) -> Result<Reply, Status> {
        block_on(path, async {
            let (mut send, response) = self.request(path, fields).await?;
            send_whole(&mut send, body);
            Answer::Waiting(response).collect().await
        })
    }

    /// `GET` over HTTP/2, which is no call: status, content type and body.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String, String) {
        block_on(path, async {
            let mut send = self.send.clone().ready().await.unwrap();
            let request = Request::get(format!("{}://{}{path}", self.scheme, self.authority)).body(()).unwrap();
            let (head, mut body) = send.send_request(request, true).unwrap().0.await.unwrap().into_parts();
            let mut bytes = Vec::new();
            while let Some(data) = body.data().await {
                bytes.extend_from_slice(&data.unwrap());
            }
            let kind = head.headers.get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
            (head.status.as_u16(), kind, String::from_utf8(bytes).unwrap())
        })
    }

    /// A call without any body that has been started and is now reset.
    #[track_caller]
    pub fn start_and_reset(&self, path: &str) {
        block_on(path, async {
            let (mut send, _response) = self.request(path, &[]).await.unwrap();
            send.send_reset(h2::Reason::CANCEL);
        });
    }

    /// Opens a stream in both directions.
    #[track_caller]
    pub fn open<Q: Message, A: Message + Default>(&self, path: &str, fields: &[(&str, &str)]) -> Stream<Q, A> {
        self.try_open(path, fields).unwrap_or_else(|status| panic!("{path}: {status:?}"))
    }

    /// The same where the connection may be gone.
    pub fn try_open<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<Stream<Q, A>, Status> {
        let (send, response) = block_on(path, self.request(path, fields))?;
        Ok(Stream { send, answer: Answer::Waiting(response), path: path.to_owned(), words: PhantomData })
    }

    async fn request(&self, path: &str, fields: &[(&str, &str)]) -> Result<(SendStream<Bytes>, ResponseFuture), Status> {
        let mut send = self.send.clone().ready().await.map_err(Status::transport)?;
        let uri = format!("{}://{}{path}", self.scheme, self.authority);
        let mut request = Request::post(uri);
        if !fields.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        request = request.header("te", "trailers");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (response, stream) = send.send_request(request.body(()).unwrap(), false).map_err(Status::transport)?;
        Ok((stream, response))
    }
}

/// Sends a call's whole body. A server that refuses a call by its headers may have ended the stream before this: then the answer
/// is there, and tells more than the failure to send. On a connection that is gone, the wait for the answer fails as well.
fn send_whole(send: &mut SendStream<Bytes>, body: Bytes) {
    let _ = send.send_data(body, true);
}

async fn handshake<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: T, window: u32) -> io::Result<SendRequest<Bytes>> {
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(window.saturating_mul(4))
        .max_frame_size(1 << 20)
        .handshake(Io(io))
        .await
        .map_err(io::Error::other)?;
    smol::spawn(async move {
        // Its end shows in the calls that it carried.
        let _ = connection.await;
    })
    .detach();
    Ok(send)
}

/// The receiving half of a call.
enum Answer {
    Waiting(ResponseFuture),
    Open { http_status: u16, headers: HeaderMap, body: RecvStream, buffer: BytesMut },
    Ended(Status),
}

impl Answer {
    async fn open(&mut self) -> Result<(), Status> {
        if let Answer::Waiting(response) = self {
            let (head, body) = response.await.map_err(Status::transport)?.into_parts();
            *self = Answer::Open { http_status: head.status.as_u16(), headers: head.headers, body, buffer: BytesMut::new() };
        }
        Ok(())
    }

    /// The next message; none: the answer has ended, and the state is `Ended`.
    async fn message(&mut self) -> Result<Option<Bytes>, Status> {
        self.open().await?;
        let Answer::Open { headers, body, buffer, .. } = self else { return Ok(None) };
        loop {
            if buffer.len() >= 5 {
                let length = u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize;
                if buffer.len() >= 5 + length {
                    assert_eq!(buffer[0], 0, "an uncompressed answer");
                    buffer.advance(5);
                    return Ok(Some(buffer.split_to(length).freeze()));
                }
            }
            match body.data().await {
                Some(data) => {
                    let data = data.map_err(Status::transport)?;
                    let _ = body.flow_control().release_capacity(data.len());
                    buffer.extend_from_slice(&data);
                }
                None => {
                    let trailers = body.trailers().await.map_err(Status::transport)?;
                    let status = trailers.as_ref().and_then(Status::of).or_else(|| Status::of(headers));
                    assert!(buffer.is_empty(), "the answer ends within a message");
                    *self = Answer::Ended(status.ok_or_else(|| Status::transport("the answer has no grpc-status"))?);
                    return Ok(None);
                }
            }
        }
    }

    async fn collect(mut self) -> Result<Reply, Status> {
        self.open().await?;
        let Answer::Open { http_status, headers, mut body, mut buffer } = self else { unreachable!("just opened") };
        while let Some(data) = body.data().await {
            let data = data.map_err(Status::transport)?;
            let _ = body.flow_control().release_capacity(data.len());
            buffer.extend_from_slice(&data);
        }
        let trailers = body.trailers().await.map_err(Status::transport)?.unwrap_or_default();
        let status = Status::of(&trailers).or_else(|| Status::of(&headers));
        let mut messages = Vec::new();
        let mut bytes = buffer.freeze();
        while bytes.len() >= 5 && status.is_some() {
            let (compressed, length) = (bytes[0] == 1, u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize);
            bytes.advance(5);
            let message = bytes.split_to(length);
            messages.push(if compressed { gunzip(&message) } else { message });
        }
        let status = status.unwrap_or_else(|| Status::new(Code::Unknown, "no grpc-status"));
        Ok(Reply { http_status, headers, messages, trailers, status })
    }
}

/// A call that streams both ways.
pub struct Stream<Q, A> {
    send: SendStream<Bytes>,
    answer: Answer,
    path: String,
    words: PhantomData<fn(Q) -> A>,
}

impl<Q: Message, A: Message + Default> Stream<Q, A> {
    /// Sends a message.
    #[track_caller]
    pub fn send(&mut self, message: &Q) {
        self.try_send(message).expect("the stream is open");
    }

    /// The same where the stream may have ended.
    pub fn try_send(&mut self, message: &Q) -> Result<(), Status> {
        self.send.send_data(frame(false, &message.encode_to_vec()), false).map_err(Status::transport)
    }

    /// Sends the last message of a stream that may have ended.
    pub fn try_send_last(&mut self, message: &Q) -> Result<(), Status> {
        self.send.send_data(frame(false, &message.encode_to_vec()), true).map_err(Status::transport)
    }

    /// Sends bytes as they are. If the call has ended, its answer says so.
    pub fn send_bytes(&mut self, bytes: Bytes) {
        let _ = self.send.send_data(bytes, false);
    }

    /// Ends the sending half.
    pub fn close_send(&mut self) {
        self.send.send_data(Bytes::new(), true).expect("the stream is open");
    }

    /// Resets the call.
    pub fn reset(mut self) {
        self.send.send_reset(h2::Reason::CANCEL);
    }

    /// The next message, which has to come.
    #[track_caller]
    pub fn recv(&mut self) -> A {
        self.try_recv().unwrap_or_else(|status| panic!("{} ended with {status:?}", self.path))
    }

    /// The next message, or how the call ended.
    #[track_caller]
    pub fn try_recv(&mut self) -> Result<A, Status> {
        match block_on(&format!("the next message of {}", self.path), self.answer.message())? {
            Some(message) => Ok(A::decode(message).expect("a decodable answer")),
            None => match &self.answer {
                Answer::Ended(status) => Err(status.clone()),
                _ => unreachable!("no message means the end"),
            },
        }
    }

    /// Waits until the answer has begun; nothing of it is read.
    #[track_caller]
    pub fn wait_for_answer(&mut self) {
        block_on(&self.path, self.answer.open()).unwrap_or_else(|status| panic!("{} ended with {status:?}", self.path));
    }

    /// The next message or how the call ended, if there is any within `patience`.
    pub fn recv_within(&mut self, patience: Duration) -> Option<Result<A, Status>> {
        let next = async { Some(self.answer.message().await) };
        let enough = async {
            smol::Timer::after(patience).await;
            None
        };
        match smol::block_on(smol::future::or(next, enough))? {
            Ok(Some(message)) => Some(Ok(A::decode(message).expect("a decodable answer"))),
            Ok(None) => match &self.answer {
                Answer::Ended(status) => Some(Err(status.clone())),
                _ => unreachable!("no message means the end"),
            },
            Err(status) => Some(Err(status)),
        }
    }

    /// How the call ended; no message may come before that.
    #[track_caller]
    pub fn end(&mut self) -> Status
    where
        A: fmt::Debug,
    {
        match self.try_recv() {
            Ok(message) => panic!("{} should have ended, but answered {message:?}", self.path),
            Err(status) => status,
        }
    }
}

/// futures' IO traits worn as tokio's, which h2 asks for.
struct Io<T>(T);

impl<T: AsyncRead + Unpin> tokio::io::AsyncRead for Io<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.0).poll_read(cx, buf.initialize_unfilled()))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> tokio::io::AsyncWrite for Io<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
