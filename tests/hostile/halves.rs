//! Connections of which only one half is left: the client has said its last word and hangs up no more, or its host is gone.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use bramble::pb::etcdserverpb::{PutRequest, RangeRequest};
use prost::Message;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::watches::create;
use super::wire::{self, DATA, END_HEADERS, END_STREAM, HEADERS, Wire, dial_from, frame};
use super::{Field, REPLIES, Size, attacks, withstands};
use crate::support::grpc;
use crate::support::requests::{Unary, WATCH, key, put, watch};
use crate::support::{Security, Server};

attacks! {
    clients_that_close_their_half_and_stay
}

/// What a connection may cost in the middle of two calls.
const IN_CALLS: u64 = 96 * 1024;
/// Short enough for every run.
const CROWD: usize = 300;
/// For benchmarks of networks (RFC 2544): nobody lives there.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Opens a watch, and a put whose end does not come.
fn in_the_middle(wire: &mut Wire) {
    let mut bytes = wire::greeting(wire::WIDE);
    let (watching, putting) = (wire.stream(), wire.stream());
    bytes.extend(frame(HEADERS, END_HEADERS, watching, &wire::call(WATCH)));
    bytes.extend(frame(DATA, 0, watching, &create(watch("bystander"))));
    bytes.extend(frame(HEADERS, END_HEADERS, putting, &wire::call(PutRequest::PATH)));
    let message = grpc::frame(false, &put("half", "a value").encode_to_vec());
    bytes.extend(frame(DATA, 0, putting, &message[..message.len() / 2]));
    wire.send(&bytes);
    wire.frame_of(DATA).expect("the watch is created");
}

/// The server hangs up, or the client would have it held for ever.
fn clients_that_close_their_half_and_stay(server: &Server, size: Size) {
    let count = size.of(CROWD, 5_000);
    withstands(server, "half-closed", count as u64 * IN_CALLS, |field| {
        let mut halves: Vec<Wire> = (0..count).map(|n| Wire::open(&field.target, n).unwrap()).collect();
        for wire in &mut halves {
            in_the_middle(wire);
            wire.close_half();
        }
        for wire in &mut halves {
            assert!(wire.frame_of(wire::CONTINUATION).is_none(), "the connection ends");
        }
        halves
    });
    assert!(server.client().call(&key("half")).kvs.is_empty(), "half a put is none");
}

/// A network of this thread's own, with an address that can be taken away from its clients.
struct Network;

impl Network {
    /// None: whoever runs this may make no network.
    fn make() -> Option<Network> {
        // SAFETY: a network namespace holds neither memory nor descriptors, and only this thread, whose test owns it, moves.
        if let Err(why) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            eprintln!("\nSKIPPED: this test needs a network of its own, and none can be made here: {why}\n");
            return None;
        }
        let network = Network;
        network.ip(&["link", "set", "lo", "up"]);
        Some(network)
    }

    fn ip(&self, arguments: &[&str]) {
        let status = Command::new("ip").args(arguments).status().expect("ip(8), of iproute2, runs");
        assert!(status.success(), "ip {arguments:?}: {status}");
    }

    fn give(&self, addr: Ipv4Addr) {
        self.ip(&["address", "add", &format!("{addr}/32"), "dev", "lo"]);
    }

    /// From now on no packet comes from there, or reaches it.
    fn take(&self, addr: Ipv4Addr) {
        self.ip(&["address", "del", &format!("{addr}/32"), "dev", "lo"]);
    }
}

/// Clients whose host vanishes: in the middle of calls, before answers they had asked for, within a handshake, and before a word.
/// No packet tells the server; it asks, and gives their sockets back.
fn hosts_that_vanish(network: &Network, security: Security, size: Size) {
    let server =
        Server::builder().security(security).flag("--grpc-keepalive-interval=1s").flag("--grpc-keepalive-timeout=1s").start();
    let large = "x".repeat(1 << 20);
    (0..8).for_each(|n| {
        server.client().call(&put(format!("large/{n}"), large.as_str()));
    });
    let count = size.of(CROWD, 4_000);
    withstands(&server, "hosts that vanish", count as u64 * IN_CALLS + REPLIES, |field| {
        network.give(FAR);
        let gone: Vec<_> = (0..count).map(|n| begun(field, n, size)).collect();
        network.take(FAR);
        gone
    });
}

/// What a vanished client has left behind.
enum Begun {
    Word { _wire: Wire },
    Nothing { _stream: std::net::TcpStream },
}

fn begun(field: &Field<'_>, n: usize, size: Size) -> Begun {
    let stream = dial_from(IpAddr::V4(FAR), field.target.addr).unwrap();
    // TCP itself takes minutes to find those of whom nothing is awaited.
    if size == Size::Full && n % 4 == 3 {
        return Begun::Nothing { _stream: stream };
    }
    let mut wire = Wire::over(&field.target, stream).unwrap();
    if n.is_multiple_of(2) {
        in_the_middle(&mut wire);
    } else {
        let mut call = wire::greeting(wire::WIDE);
        let stream = wire.stream();
        call.extend(frame(HEADERS, END_HEADERS, stream, &wire::call(RangeRequest::PATH)));
        let message = grpc::frame(false, &key(format!("large/{}", n % 8)).encode_to_vec());
        call.extend(frame(DATA, END_STREAM, stream, &message));
        wire.send(&call);
    }
    Begun::Word { _wire: wire }
}

#[test]
fn hosts_may_vanish() {
    if let Some(network) = Network::make() {
        hosts_that_vanish(&network, Security::Plain, Size::Short);
    }
}

#[test]
#[ignore = "large: make hostile"]
fn many_hosts_may_vanish() {
    let Some(network) = Network::make() else { return };
    for security in [Security::Plain, Security::Tls] {
        println!("{security:?}");
        hosts_that_vanish(&network, security, Size::Full);
    }
}
