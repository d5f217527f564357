//! What a server answered, as text without what may differ.

use bramble::pb::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, RangeRequest, RangeResponse, RangeStreamResponse, WatchResponse,
};
use bramble::pb::health::HealthCheckResponse;
use bytes::Bytes;
use prost::Message;

use super::normalise::Normal;
use crate::support::requests::Unary;

/// An answer, told.
#[derive(Debug, Default)]
pub struct Answer {
    /// What is compared.
    pub text: String,
    /// The revision of its header, or 0.
    pub revision: i64,
}

/// Decodes one message of an answer. Fields that we have no name for show in `text`.
fn read<A: Message + Default>(message: &Bytes, text: &mut String) -> A {
    let reply = A::decode(message.clone()).expect("a decodable answer");
    if reply.encoded_len() != message.len() {
        *text += &format!("of {} bytes only {} are known: {message:x?}\n", message.len(), reply.encoded_len());
    }
    reply
}

/// Of a unary method: one message.
pub fn unary<Q: Unary<Reply: Normal<Q>> + Default>(request: &Bytes, messages: &[Bytes]) -> Answer {
    let mut text = String::new();
    let [message] = messages else { return Answer { text: format!("{} messages\n", messages.len()), revision: 0 } };
    let mut reply = read::<Q::Reply>(message, &mut text);
    let revision = reply.revision();
    reply.normalise(Q::decode(request.clone()).ok().as_ref());
    Answer { text: text + &format!("{reply:#?}\n"), revision }
}

/// A streamed range as one answer: how it is cut into chunks is no promise, but that the last of them sums up is.
pub fn range_stream(request: &Bytes, messages: &[Bytes]) -> Answer {
    let mut text = String::new();
    let mut whole = RangeResponse::default();
    for message in messages {
        let chunk = read::<RangeStreamResponse>(message, &mut text).range_response.expect("a range");
        if whole.header.is_some() {
            text += "a chunk after the one that sums up\n";
        }
        whole.kvs.extend(chunk.kvs);
        whole = RangeResponse { kvs: whole.kvs, ..chunk };
    }
    whole.normalise(RangeRequest::decode(request.clone()).ok().as_ref());
    Answer { revision: Normal::<RangeRequest>::revision(&whole), text: text + &format!("{whole:#?}\n") }
}

/// Renewals, one after the other.
pub fn keep_alive(_: &Bytes, messages: &[Bytes]) -> Answer {
    let mut answer = Answer::default();
    for message in messages {
        let mut reply = read::<LeaseKeepAliveResponse>(message, &mut answer.text);
        answer.revision = answer.revision.max(Normal::<LeaseKeepAliveRequest>::revision(&reply));
        reply.normalise(None::<&LeaseKeepAliveRequest>);
        answer.text += &format!("{reply:?}\n");
    }
    answer
}

/// `Health/Check`.
pub fn health(_: &Bytes, messages: &[Bytes]) -> Answer {
    let mut text = String::new();
    let replies: Vec<HealthCheckResponse> = messages.iter().map(|message| read(message, &mut text)).collect();
    Answer { text: text + &format!("{replies:?}\n"), revision: 0 }
}

/// Of a conversation about watches: what is said in reply to its messages, in order. Events come when they come.
pub fn watch(_: &Bytes, messages: &[Bytes]) -> Answer {
    let mut answer = Answer::default();
    for message in messages {
        let reply: WatchResponse = read(message, &mut answer.text);
        if reply.created || reply.canceled && reply.compact_revision == 0 {
            answer.text += &format!("{reply:?}\n");
        }
    }
    answer
}
