//! Twenty thousand leases, each with a key, and their end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::{LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest};

use super::{beside, tell, tell_memory};
use crate::support::requests::{Revision, Watch, grant, keep_alive, prefix, put_leased, watch_prefix};
use crate::support::{Client, Server};

const LEASES: i64 = 20_000;

fn grant_all(client: &Client, ttl: i64) {
    let begun = Instant::now();
    let grants: Vec<_> = (1..=LEASES).map(|id| grant(ttl, id)).collect();
    assert!(client.call_all(&grants, 500).iter().all(Result::is_ok));
    tell(format!("{LEASES} leases granted"), format!("{:.2?}", begun.elapsed()));
    let begun = Instant::now();
    let puts: Vec<_> = (1..=LEASES).map(|id| put_leased(format!("leased/{id:06}"), "", id)).collect();
    assert!(client.call_all(&puts, 500).iter().all(Result::is_ok));
    tell(format!("{LEASES} keys attached"), format!("{:.2?}", begun.elapsed()));
}

/// Renews all of them over one stream.
fn renew_all(client: &Client, ttl: i64) {
    let mut stream = keep_alive(client);
    for id in 1..=LEASES {
        stream.send(&LeaseKeepAliveRequest { id });
    }
    for id in 1..=LEASES {
        let answer = stream.recv();
        assert_eq!((answer.id, answer.ttl), (id, ttl), "answers come in order");
    }
}

/// Reads deletions until each lease's key is gone: one revision for each.
fn all_go(deletions: &mut Watch) {
    let mut gone = BTreeSet::new();
    let mut newest = 0;
    while gone.len() < LEASES as usize {
        for event in deletions.events().events {
            let kv = event.kv.unwrap();
            if event.r#type == 1 {
                assert!(kv.mod_revision > newest, "two leases ended in one revision");
                newest = kv.mod_revision;
                assert!(gone.insert(kv.key.to_vec()), "a key was deleted twice");
            }
        }
    }
}

#[test]
#[ignore = "takes long: make limits"]
fn twenty_thousand_leases_live_as_long_as_they_are_renewed_and_end_together() {
    const TTL: i64 = 20;
    let mut server = Server::start();
    let client = server.client();
    tell_memory(&server, "idle");
    let mut deletions = Watch::open(&client);
    deletions.create(watch_prefix("leased/"));
    beside(&server, "while leases are granted", || grant_all(&client, TTL));
    tell_memory(&server, "with 20,000 leases and keys");
    let begun = Instant::now();
    beside(&server, "while leases are renewed", || (0..3).for_each(|_| renew_all(&client, TTL)));
    let renewals = 3.0 * LEASES as f64 / begun.elapsed().as_secs_f64();
    tell("renewals over one stream", format!("{renewals:.0}/s"));
    // The time of each begins again at its renewal, over a restart too.
    server.kill();
    let begun = Instant::now();
    server.restart();
    tell("start with 20,000 leases and keys after kill -9", format!("{:.2?}", begun.elapsed()));
    let client = server.client();
    renew_all(&client, TTL);
    let renewed = Instant::now();
    assert_eq!(client.call(&LeaseLeasesRequest {}).leases.len(), LEASES as usize);
    assert_eq!(client.call(&prefix("leased/")).count, LEASES);
    let revision = super::revision_of(&client);
    let mut deletions = Watch::open(&client);
    deletions.create(watch_prefix("leased/"));
    while renewed.elapsed() < Duration::from_secs(TTL as u64 - 2) {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(super::revision_of(&client), revision, "none ends early");
    beside(&server, "while leases end together", || all_go(&mut deletions));
    tell("after their time, all 20,000 had ended within", format!("{:.1?}", renewed.elapsed() - Duration::from_secs(TTL as u64)));
    assert_eq!(client.call(&prefix("leased/")).count, 0);
    assert_eq!(client.call(&LeaseLeasesRequest {}).leases, []);
    tell_memory(&server, "after their end");
}

#[test]
fn twenty_thousand_revocations_are_as_many_revisions() {
    let server = Server::start();
    let client = server.client();
    grant_all(&client, 9_000);
    let before = client.call(&prefix("leased/")).revision();
    let mut deletions = Watch::open(&client);
    deletions.create(watch_prefix("leased/"));
    let begun = Instant::now();
    let revokes: Vec<_> = (1..=LEASES).map(|id| LeaseRevokeRequest { id }).collect();
    assert!(client.call_all(&revokes, 500).iter().all(Result::is_ok));
    tell(format!("{LEASES} leases revoked"), format!("{:.2?}", begun.elapsed()));
    all_go(&mut deletions);
    let after = client.call(&prefix("leased/"));
    assert_eq!((after.count, after.revision()), (0, before + LEASES));
    tell_memory(&server, "after 20,000 revocations");
}
