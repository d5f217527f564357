//! Leases: every rule of contracts §4.7.

use bramble::pb::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};

use crate::support::requests::{Revision, Watch, delete, everything, grant, keep_alive, key, put, put_leased, watch_prefix};
use crate::support::wait::until;
use crate::support::{Client, Server};

fn lives(client: &Client, id: i64) -> LeaseTimeToLiveResponse {
    client.call(&LeaseTimeToLiveRequest { id, keys: true })
}

fn keys(client: &Client, id: i64) -> Vec<String> {
    let mut keys: Vec<String> = lives(client, id).keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    keys.sort();
    keys
}

#[test]
fn ids_are_chosen_by_the_client_or_the_server() {
    let server = Server::start();
    let client = server.client();
    let chosen = client.call(&grant(600, 0));
    assert!(chosen.id > 0, "{chosen:?}");
    assert_eq!((chosen.ttl, chosen.error.as_str()), (600, ""));
    assert_eq!(chosen.revision(), 1, "a lease takes no revision");
    let other = client.call(&grant(600, 0));
    assert_ne!(chosen.id, other.id);
    for id in [1, i64::MAX, -5, i64::MIN] {
        assert_eq!(client.call(&grant(600, id)).id, id);
        assert_eq!(lives(&client, id).granted_ttl, 600);
    }
}

#[test]
fn a_ttl_has_a_least_value() {
    let server = Server::start();
    let client = server.client();
    for ttl in [0, -1, i64::MIN, 1, 2] {
        assert_eq!(client.call(&grant(ttl, 0)).ttl, 2, "of {ttl}");
    }
    assert_eq!(client.call(&grant(3, 0)).ttl, 3);
    let slow = Server::builder().flag("--heartbeat-interval=500").flag("--election-timeout=5000").start();
    assert_eq!(slow.client().call(&grant(1, 0)).ttl, 8, "half as long again as an election timeout, in whole seconds");
}

#[test]
fn a_lease_knows_its_keys() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    client.call(&grant(600, 8));
    for name in ["b", "a", "c"] {
        client.call(&put_leased(name, "", 7));
    }
    assert_eq!(keys(&client, 7), ["a", "b", "c"]);
    assert!(client.call(&LeaseTimeToLiveRequest { id: 7, keys: false }).keys.is_empty(), "only if asked for");
    client.call(&put_leased("a", "", 8));
    client.call(&put("b", ""));
    client.call(&delete("c"));
    assert_eq!(keys(&client, 7), Vec::<String>::new());
    assert_eq!(keys(&client, 8), ["a"]);
}

#[test]
fn what_is_left_of_a_lease_is_told() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    let told = lives(&client, 7);
    assert_eq!((told.id, told.granted_ttl), (7, 600));
    assert!((590..=600).contains(&told.ttl), "{told:?}");
    let unknown = lives(&client, 99);
    assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl, unknown.keys.len()), (99, -1, 0, 0));
}

#[test]
fn keepalives_are_answered_with_the_granted_ttl_and_zero_for_the_unknown() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    let mut stream = keep_alive(&client);
    for (id, ttl) in [(7, 600), (99, 0), (7, 600), (0, 0), (7, 600)] {
        stream.send(&LeaseKeepAliveRequest { id });
        let reply = stream.recv();
        assert_eq!((reply.id, reply.ttl), (id, ttl));
        assert_eq!(reply.revision(), 1);
    }
    stream.close_send();
    assert_eq!(stream.end().code, crate::support::Code::Ok, "it ends when the client has ended");
}

#[test]
fn a_lease_lives_as_long_as_it_is_kept_alive_and_no_longer() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(2, 7));
    client.call(&put_leased("k/kept", "", 7));
    client.call(&grant(2, 8));
    client.call(&put_leased("k/left", "", 8));
    let mut watch = Watch::open(&client);
    watch.create(watch_prefix("k/"));
    let mut stream = keep_alive(&client);
    until("the lease that is left alone to expire", || {
        stream.send(&LeaseKeepAliveRequest { id: 7 });
        assert_eq!(stream.recv().ttl, 2, "the kept lease lives");
        (lives(&client, 8).ttl == -1).then_some(())
    });
    let reply = watch.events();
    assert_eq!(reply.events.len(), 1);
    let kv = reply.events[0].kv.clone().unwrap();
    assert_eq!((reply.events[0].r#type, kv.key.as_ref(), kv.mod_revision), (1, &b"k/left"[..], 4));
    assert_eq!(client.call(&key("k/kept")).count, 1);
    let reply = watch.events();
    assert_eq!(reply.events[0].kv.as_ref().unwrap().key, "k/kept", "and then it expires too");
    stream.send(&LeaseKeepAliveRequest { id: 7 });
    assert_eq!(stream.recv().ttl, 0, "what has expired cannot be kept alive");
}

#[test]
fn revoking_deletes_the_keys_in_one_revision() {
    let server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    for i in 0..10 {
        client.call(&put_leased(format!("k{i}"), "", 7));
    }
    let reply = client.call(&LeaseRevokeRequest { id: 7 });
    assert_eq!(reply.revision(), 12);
    let state = client.call(&everything());
    assert_eq!((state.count, state.revision()), (0, 12));
    client.call(&grant(600, 8));
    assert_eq!(client.call(&LeaseRevokeRequest { id: 8 }).revision(), 12, "a lease without keys takes no revision");
    assert_eq!(lives(&client, 7).ttl, -1);
}

#[test]
fn each_expired_lease_is_one_revision() {
    let server = Server::start();
    let client = server.client();
    let mut watch = Watch::open(&client);
    watch.create(watch_prefix("k"));
    for id in 1..=3 {
        client.call(&grant(2, id));
        for i in 0..2 {
            client.call(&put_leased(format!("k{id}{i}"), "", id));
            watch.events();
        }
    }
    let mut deletions = Vec::new();
    while deletions.len() < 6 {
        deletions.extend(watch.events().events);
    }
    let revisions: Vec<i64> = deletions.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect();
    assert_eq!(revisions, [8, 8, 9, 9, 10, 10]);
    for pair in deletions.chunks(2) {
        let lease = |event: &bramble::pb::mvccpb::Event| event.kv.as_ref().unwrap().key[1];
        assert_eq!(lease(&pair[0]), lease(&pair[1]), "the keys of one lease go together");
    }
}

#[test]
fn all_leases_are_listed_by_when_they_expire() {
    let server = Server::start();
    let client = server.client();
    for (id, ttl) in [(3, 300), (1, 100), (2, 200)] {
        client.call(&grant(ttl, id));
    }
    let list: Vec<i64> = client.call(&LeaseLeasesRequest {}).leases.iter().map(|lease| lease.id).collect();
    assert_eq!(list, [1, 2, 3]);
    client.call(&LeaseRevokeRequest { id: 1 });
    assert_eq!(client.call(&LeaseLeasesRequest {}).leases.len(), 2);
}

#[test]
fn leases_and_their_keys_survive_a_crash() {
    let mut server = Server::start();
    let client = server.client();
    client.call(&grant(600, 7));
    client.call(&grant(600, 8));
    client.call(&put_leased("a", "", 7));
    client.call(&put_leased("b", "", 8));
    client.call(&put("b", ""));
    client.call(&LeaseRevokeRequest { id: 8 });
    server.kill();
    server.restart();
    let client = server.client();
    assert_eq!(keys(&client, 7), ["a"]);
    let told = lives(&client, 7);
    assert_eq!(told.granted_ttl, 600);
    assert!((1..=600).contains(&told.ttl), "{told:?}");
    assert_eq!(lives(&client, 8).ttl, -1);
    client.call(&LeaseRevokeRequest { id: 7 });
    let left: Vec<_> = client.call(&everything()).kvs.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!(left, ["b"]);
}

#[test]
fn an_expired_lease_stays_expired_after_a_crash() {
    let mut server = Server::start();
    let client = server.client();
    client.call(&grant(2, 7));
    client.call(&put_leased("a", "", 7));
    until("the lease to expire", || (client.call(&key("a")).count == 0).then_some(()));
    let revision = client.call(&everything()).revision();
    server.kill();
    server.restart();
    let client = server.client();
    assert_eq!(client.call(&everything()).revision(), revision);
    assert_eq!(lives(&client, 7).ttl, -1);
    assert_eq!(client.call(&key("a")).count, 0);
}

#[test]
fn a_lease_that_was_running_out_expires_after_a_restart_too() {
    let mut server = Server::start();
    let client = server.client();
    client.call(&grant(2, 7));
    client.call(&put_leased("a", "", 7));
    server.kill();
    server.restart();
    let client = server.client();
    until("the lease to expire after the restart", || (client.call(&key("a")).count == 0).then_some(()));
    assert_eq!(lives(&client, 7).ttl, -1);
}
