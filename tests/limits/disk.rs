//! Disks that are full, and disks that stand still.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::{AlarmRequest, DefragmentRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, StatusRequest};

use super::{Latencies, tell, tell_memory};
use crate::support::requests::{
    Revision, Watch, compact, delete, delete_range, grant, keep_alive, key, prefix, put, watch_prefix,
};
use crate::support::volume::Volume;
use crate::support::wait::until;
use crate::support::{Client, Code, Server, Status};

const VALUE_BYTES: usize = 100_000;

fn no_space() -> Status {
    Status::new(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
}

fn value(n: i64) -> Vec<u8> {
    vec![n as u8; VALUE_BYTES]
}

/// Puts until one is refused for want of space; those acknowledged go to the ledger. Returns how the refusal was worded.
fn put_until_refused(client: &Client, ledger: &mut BTreeMap<String, i64>) -> Status {
    let next = ledger.last_key_value().map_or(0, |(name, _)| name["fill/".len()..].parse::<i64>().unwrap() + 1);
    for n in next..next + 10_000 {
        let name = format!("fill/{n:05}");
        match client.try_call(&put(&name, value(n))) {
            Ok(_) => drop(ledger.insert(name, n)),
            Err(status) => return status,
        }
    }
    panic!("1 GB went to a volume of 96 MB");
}

#[track_caller]
fn nothing_is_lost(client: &Client, ledger: &BTreeMap<String, i64>) {
    let found = client.call(&prefix("fill/"));
    for (name, n) in ledger {
        let kv = found.kvs.iter().find(|kv| kv.key == *name);
        assert!(kv.is_some_and(|kv| kv.value == value(*n)), "{name} was acknowledged, and is gone or another");
    }
}

/// What a full disk must not stop.
fn the_rest_works(client: &Client, ledger: &mut BTreeMap<String, i64>, lease: i64) {
    nothing_is_lost(client, ledger);
    let mut stream = keep_alive(client);
    stream.send(&LeaseKeepAliveRequest { id: lease });
    assert_eq!(stream.recv().ttl, 9_000);
    let mut watching = Watch::open(client);
    watching.create(watch_prefix("fill/"));
    let (gone, _) = ledger.pop_first().expect("some puts were acknowledged");
    assert_eq!(client.call(&delete(&gone)).deleted, 1);
    assert_eq!(watching.events().events[0].kv.as_ref().unwrap().key, gone);
    client.call(&StatusRequest {});
    assert_eq!(client.call(&AlarmRequest::default()).alarms, [], "a full disk is this member's own trouble, and no alarm");
}

/// Deletes all but one in so many keys, and compacts.
fn give_back(client: &Client, ledger: &mut BTreeMap<String, i64>, of: usize) {
    let gone: Vec<String> = ledger.keys().take(ledger.len() - ledger.len() / of).cloned().collect();
    let deleted = client.call(&delete_range(&gone[0], format!("{}\0", gone.last().unwrap()))).deleted;
    assert_eq!(deleted as usize, gone.len());
    ledger.retain(|name, _| !gone.contains(name));
    client.call(&compact(client.call(&key("fill/")).revision()));
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_is_left_again() {
    let Some(volume) = Volume::mount(112 << 20) else { return };
    let others = volume.path().join("others");
    std::fs::write(&others, vec![1; 16 << 20]).unwrap();
    let mut server = Server::builder().data_dir(volume.path().join("data")).start();
    let client = server.client();
    client.call(&grant(9_000, 5));
    client.call(&grant(9_000, 6));
    let mut ledger = BTreeMap::new();
    let begun = Instant::now();
    assert_eq!(put_until_refused(&client, &mut ledger), no_space());
    tell("puts of 100 kB on 96 MiB of ext4 until refused", format!("{}, {:.1?}", ledger.len(), begun.elapsed()));
    tell_memory(&server, "on a full disk");
    the_rest_works(&client, &mut ledger, 5);
    // Now truly full, to the last block.
    let filler = volume.fill();
    assert_eq!(client.fail(&put("fill/more", "")), no_space());
    the_rest_works(&client, &mut ledger, 5);
    client.call(&LeaseRevokeRequest { id: 6 });
    server.kill();
    let begun = Instant::now();
    server.restart();
    tell("start on a full disk after kill -9", format!("{:.2?}", begun.elapsed()));
    let client = server.client();
    // A start learns how full the disk is when its first checkpoint finds no room.
    assert_eq!(put_until_refused(&client, &mut ledger), no_space());
    the_rest_works(&client, &mut ledger, 5);
    // Room is made from outside ...
    std::fs::remove_file(filler).unwrap();
    // ... and from inside, where the deletions and the compaction find the room that puts have left them.
    let begun = Instant::now();
    give_back(&client, &mut ledger, 2);
    until("puts to be taken again", || client.try_call(&put("again", "")).ok());
    tell("half deleted and compacted: first put taken after", format!("{:.1?}", begun.elapsed()));
    let before = ledger.len();
    assert_eq!(put_until_refused(&client, &mut ledger), no_space());
    tell("after that, puts again", ledger.len() - before);
    assert!(ledger.len() - before > 50, "only {}", ledger.len() - before);
    // A defragmentation needs room for its copy: others make it. Then the file gives back what it no longer needs.
    give_back(&client, &mut ledger, 10);
    std::fs::remove_file(others).unwrap();
    client.call(&DefragmentRequest {});
    let status = client.call(&StatusRequest {});
    tell("all but a tenth deleted, defragmented: file", super::size(status.db_size as u64));
    assert!(status.db_size < 16 << 20, "{status:?}");
    nothing_is_lost(&client, &ledger);
    until("puts to be taken again", || client.try_call(&put("again", "")).ok());
    let before = ledger.len();
    assert_eq!(put_until_refused(&client, &mut ledger), no_space());
    tell("after that, puts again", ledger.len() - before);
    assert!(ledger.len() - before > 200, "only {}", ledger.len() - before);
    server.kill();
    server.restart();
    nothing_is_lost(&server.client(), &ledger);
    assert_eq!(server.terminate().code(), None, "a full disk does not keep it from leaving");
    server.restart();
    nothing_is_lost(&server.client(), &ledger);
}

#[test]
fn a_disk_filled_by_others_is_left_as_soon_as_they_make_room() {
    let Some(volume) = Volume::mount(96 << 20) else { return };
    let mut server = Server::builder().data_dir(volume.path().join("data")).start();
    let client = server.client();
    client.call(&grant(9_000, 5));
    let mut ledger = BTreeMap::new();
    for n in 0..20 {
        client.call(&put(format!("fill/{n:05}"), value(n)));
        ledger.insert(format!("fill/{n:05}"), n);
    }
    let filler = volume.fill();
    assert_eq!(put_until_refused(&client, &mut ledger), no_space());
    tell("puts of 100 kB taken after others filled the disk", ledger.len() - 20);
    the_rest_works(&client, &mut ledger, 5);
    server.kill();
    server.restart();
    let client = server.client();
    the_rest_works(&client, &mut ledger, 5);
    std::fs::remove_file(filler).unwrap();
    let begun = Instant::now();
    until("puts to be taken again", || client.try_call(&put("again", "")).ok());
    tell("after they made room: first put taken after", format!("{:.1?}", begun.elapsed()));
    nothing_is_lost(&client, &ledger);
}

/// HTTP/2 PINGs by hand.
struct Pinger(TcpStream);

impl Pinger {
    fn connect(server: &Server) -> Pinger {
        let mut socket = TcpStream::connect(server.addr()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        Pinger(socket)
    }

    /// Sends one, and waits for its answer.
    fn ping(&mut self) {
        self.0.write_all(b"\0\0\x08\x06\0\0\0\0\0bramble?").unwrap();
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).unwrap();
            let mut body = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut body).unwrap();
            if head[3] == 6 && head[4] == 1 && body == b"bramble?" {
                return;
            }
        }
    }
}

const STALL: Duration = Duration::from_secs(5);

/// One stall: what must not wait does not, what has to wait succeeds.
fn stall(server: &Server, volume: &Volume, round: i64) {
    let client = server.client();
    let mut renewals = keep_alive(&client);
    let mut watching = Watch::open(&client);
    watching.create(watch_prefix("old/"));
    let mut frozen = volume.freeze(STALL);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|n| {
                let client = server.client();
                scope.spawn(move || {
                    let mut puts = Latencies::default();
                    let answer = puts.time(|| client.call(&put(format!("stalled/{round}/{n}"), "x")));
                    (answer.revision(), puts)
                })
            })
            .collect();
        let (mut gets, mut stored, mut pings, mut keepalives, mut creations) = Default::default();
        let mut read = 0;
        while frozen.lasts() {
            Latencies::time(&mut gets, || client.call(&key("recent")));
            Latencies::time(&mut stored, || client.call(&key(format!("old/{:05}", read % 2_000))));
            // A fresh one each time: a client that pings without a call more than now and then is sent away.
            let mut pinger = Pinger::connect(server);
            Latencies::time(&mut pings, || pinger.ping());
            Latencies::time(&mut keepalives, || {
                renewals.send(&LeaseKeepAliveRequest { id: 5 });
                assert_eq!(renewals.recv().ttl, 9_000);
            });
            Latencies::time(&mut creations, || {
                // From shortly before the present: 20 MB of history would stand before the next answers on this connection.
                let mut another = Watch::open(&client);
                another.create(bramble::pb::etcdserverpb::WatchCreateRequest {
                    start_revision: 1_990 + read % 10,
                    ..watch_prefix("old/")
                });
                another.events();
                another.stream.reset();
            });
            read += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
        gets.tell("linearizable gets of recent rows during a stall of 5 s");
        stored.tell("linearizable gets of rows in the checkpoint");
        pings.tell("PINGs");
        keepalives.tell("lease keepalives");
        creations.tell("watches created, and their first page of history");
        let mut all = Latencies::default();
        for put in waiting {
            let (revision, mut took) = put.join().unwrap();
            assert!(revision > 0);
            all.0.append(&mut took.0);
        }
        all.tell("puts that waited for the disk");
    });
    frozen.wait();
    client.call(&put("old/00000", format!("after {round}")));
    assert_eq!(watching.events().events[0].kv.as_ref().unwrap().value, format!("after {round}"));
    for n in 0..4 {
        assert_eq!(client.call(&key(format!("stalled/{round}/{n}"))).count, 1);
    }
}

#[test]
fn a_disk_that_stands_still_stops_writes_alone() {
    let Some(volume) = Volume::mount(256 << 20) else { return };
    let mut server = Server::builder().data_dir(volume.path().join("data")).start();
    let client = server.client();
    client.call(&grant(9_000, 5));
    // More than a checkpoint's worth, so that most of it is on the disk alone.
    let puts: Vec<_> = (0..2_000).map(|n| put(format!("old/{n:05}"), vec![b'x'; 10_000])).collect();
    assert!(client.call_all(&puts, 16).iter().all(Result::is_ok));
    client.call(&put("recent", "x"));
    stall(&server, &volume, 1);
    stall(&server, &volume, 2);
    // Told to leave while the disk stands still, it leaves as soon as that moves again.
    let revision = client.call(&key("recent")).revision();
    let frozen = volume.freeze(Duration::from_secs(2));
    let begun = Instant::now();
    assert_eq!(server.terminate().code(), None);
    tell("SIGTERM at the beginning of a stall of 2 s: ended after", format!("{:.2?}", begun.elapsed()));
    frozen.wait();
    server.restart();
    let client = server.client();
    let reply = client.call(&key("recent"));
    assert_eq!((reply.count, reply.revision()), (1, revision));
    assert_eq!(client.call(&prefix("stalled/")).count, 8);
}
