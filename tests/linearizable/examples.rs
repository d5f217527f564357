//! Small histories that break one promise each, and the same ones kept: the checks tell them apart.

use bramble::pb::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, WatchCreateRequest, WatchResponse,
};
use bramble::pb::mvccpb::event::EventType;
use bramble::pb::mvccpb::{Event, KeyValue};

use crate::support::requests::{IntoOp, bytes, delete, key, put, then, watch_prefix};

use super::history::{Operation, Reply, Request, Time};
use super::order;
use super::promises::{self, Compactions};
use super::timeline::Timeline;
use super::watchers::Watch;

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

fn kv(name: &str, value: &str, create_revision: i64, mod_revision: i64, version: i64) -> KeyValue {
    KeyValue { key: bytes(name), value: bytes(value), create_revision, mod_revision, version, lease: 0 }
}

fn written(kv: KeyValue) -> Event {
    Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: None }
}

fn deleted(name: &str, mod_revision: i64) -> Event {
    let kv = KeyValue { key: bytes(name), mod_revision, ..KeyValue::default() };
    Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: None }
}

/// a = 1 at revision 2; a = 2 and b = 1 at revision 3; a deleted at revision 4.
fn timeline() -> Timeline {
    let events =
        [written(kv("a", "1", 2, 2, 1)), written(kv("a", "2", 2, 3, 2)), written(kv("b", "1", 3, 3, 1)), deleted("a", 4)];
    Timeline::new(events).unwrap()
}

fn operation(epoch: usize, call: Time, request: Request, end: Option<(Time, Reply)>) -> Operation {
    Operation { client: 0, epoch, call, request, end }
}

fn put_at(call: Time, revision: i64) -> Operation {
    let reply = Reply::Put(PutResponse { header: header(revision), prev_kv: None });
    operation(0, call, Request::Put(put("a", "1")), Some((call + 1, reply)))
}

/// The transaction of revision 3, its answer lost.
fn lost_txn(epoch: usize, call: Time) -> Operation {
    operation(epoch, call, Request::Txn(then(vec![put("a", "2").op(), put("b", "1").op()])), None)
}

fn delete_at(epoch: usize, call: Time, revision: i64) -> Operation {
    let reply = Reply::DeleteRange(DeleteRangeResponse { header: header(revision), deleted: 1, prev_kvs: Vec::new() });
    operation(epoch, call, Request::DeleteRange(delete("a")), Some((call + 1, reply)))
}

fn read_at(call: Time, revision: i64, kvs: Vec<KeyValue>) -> Operation {
    let reply = Reply::Range(RangeResponse { header: header(revision), count: kvs.len() as i64, kvs, more: false });
    operation(0, call, Request::Range(key("a")), Some((call + 1, reply)))
}

#[track_caller]
fn is_refused(history: &[Operation], because: &str) {
    let violation = order::check(history, &timeline(), &[]).unwrap_err().to_string();
    assert!(violation.starts_with(because), "{violation}");
}

#[test]
fn a_history_that_keeps_all_promises_is_accepted() {
    let read = |call, revision| read_at(call, revision, vec![kv("a", "1", 2, 2, 1)]);
    let history = [put_at(1, 2), read(3, 2), lost_txn(0, 5), delete_at(1, 9, 4), read_at(11, 4, Vec::new())];
    order::check(&history, &timeline(), &[]).unwrap();
}

#[test]
fn answers_that_contradict_the_order_or_the_clock_are_found() {
    let (txn, end) = (lost_txn(0, 5), delete_at(1, 9, 4));
    let old = read_at(3, 1, Vec::new());
    is_refused(&[put_at(1, 2), old, txn.clone(), end.clone()], "an answer is older than what had been seen");
    let wrong = read_at(3, 2, vec![kv("a", "1", 2, 2, 2)]);
    is_refused(&[put_at(1, 2), wrong, txn.clone(), end.clone()], "an answer does not fit to revision 2");
    is_refused(&[put_at(1, 2), txn.clone(), end.clone(), delete_at(1, 20, 4)], "two writes have revision 4");
    is_refused(&[put_at(7, 2), txn.clone(), delete_at(1, 2, 4)], "a write has a revision that had been seen");
    is_refused(&[put_at(1, 2), txn, delete_at(1, 9, 5)], "an answer names revision 5");
}

#[test]
fn a_write_without_an_answer_is_there_wholly_or_not_and_in_its_time() {
    let half = operation(0, 5, Request::Put(put("a", "2")), None);
    is_refused(&[put_at(1, 2), half, delete_at(1, 9, 4)], "nobody asked for what happened");
    is_refused(&[put_at(1, 2), delete_at(1, 9, 4)], "nobody asked for what happened");
    // Sent after an answer of a later revision, or to a process that was gone before one of an earlier revision was asked for.
    is_refused(&[put_at(1, 2), delete_at(0, 3, 4), lost_txn(0, 6)], "nobody asked for what happened");
    let mut late = put_at(7, 2);
    late.epoch = 1;
    is_refused(&[late, lost_txn(0, 1), delete_at(1, 9, 4)], "nobody asked for what happened");
}

#[test]
fn a_watch_of_everything_cannot_hide_a_gap() {
    let first = || written(kv("a", "1", 2, 2, 1));
    assert!(Timeline::new([first(), deleted("a", 4)]).is_err(), "revision 3 is missing");
    assert!(Timeline::new([first(), first()]).is_err(), "revision 2 comes twice");
    assert!(Timeline::new([first(), written(kv("a", "2", 2, 3, 3))]).is_err(), "version 2 was never there");
    assert!(Timeline::new([first(), deleted("b", 3)]).is_err(), "b was never there");
}

/// A watch of everything from the start with previous values, and what it was told.
fn told(responses: Vec<WatchResponse>) -> Result<(), String> {
    let request = WatchCreateRequest { start_revision: 1, prev_kv: true, fragment: true, ..watch_prefix("") };
    let request = WatchCreateRequest { key: bytes("\0"), range_end: bytes("\0"), ..request };
    let created = WatchResponse { header: header(4), created: true, ..WatchResponse::default() };
    let told = [created].into_iter().chain(responses).map(|response| (1, response)).collect();
    let watch = Watch { epoch: 0, request, asked: 0, cancelled: None, told };
    promises::check(&watch, &timeline(), &Compactions::of(&[]), None).map_err(|violation| violation.to_string())
}

fn response(revision: i64, fragment: bool, events: Vec<Event>) -> WatchResponse {
    WatchResponse { header: header(revision), fragment, events, ..WatchResponse::default() }
}

fn after(prev: KeyValue, event: Event) -> Event {
    Event { prev_kv: Some(prev), ..event }
}

#[test]
fn a_watch_is_told_of_everything_once_in_order_and_whole() {
    let one = || written(kv("a", "1", 2, 2, 1));
    let two = || after(kv("a", "1", 2, 2, 1), written(kv("a", "2", 2, 3, 2)));
    let three = || written(kv("b", "1", 3, 3, 1));
    let four = || after(kv("a", "2", 2, 3, 2), deleted("a", 4));
    let all = |events| response(4, false, events);
    let progress = |revision| response(revision, false, Vec::new());
    told(vec![all(vec![one(), two(), three()]), progress(3), all(vec![four()]), progress(4)]).unwrap();
    told(vec![response(4, true, vec![one(), two()]), all(vec![three(), four()])]).unwrap();

    let broken = [
        (vec![all(vec![two(), three()])], "revision 2 is missing"),
        (vec![all(vec![one(), four()])], "revision 3 is missing"),
        (vec![all(vec![one()]), all(vec![one()])], "revision 2 is told again"),
        (vec![all(vec![one(), two()]), all(vec![three()])], "the events of a revision should be"),
        (vec![all(vec![one(), three(), two()])], "the events of a revision should be"),
        (vec![all(vec![one()]), progress(3)], "progress to 3 is told before the events of revision 3"),
        (vec![all(vec![one(), two(), three()]), progress(2)], "progress goes back from 3 to 2"),
        (vec![response(1, false, vec![one()])], "an event of revision 2 is told under a header of 1"),
        (vec![all(vec![one(), written(kv("a", "2", 2, 3, 2)), three()])], "before revision 3 the key held"),
        (vec![response(4, true, vec![one()]), progress(4)], "something stands between the fragments"),
    ];
    for (responses, because) in broken {
        let violation = told(responses).unwrap_err();
        assert!(violation.starts_with(because), "{because}: {violation}");
    }
}
