//! What kube-apiserver asks of its store while nobody asks anything of it: its 58 watches, the objects of a fresh cluster, and in each
//! 180 seconds 90 renewals of the lease of each of two leader-elected components, 18 of the apiserver's identity, and 18 of each of its
//! two entries among its peers, which take a lease of their own each time and let the one before end. Every five minutes a compaction.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bramble::pb::etcdserverpb::compare::{CompareResult, TargetUnion};
use bramble::pb::etcdserverpb::response_op::Response;
use bramble::pb::etcdserverpb::{CompactionRequest, LeaseGrantRequest, PutRequest, WatchCreateRequest};
use bytes::Bytes;

use crate::kube_shaped::resources::{RESOURCES, Resource};
use crate::support::requests::{IntoOp, Revision, Watch, cmp, key, prefix, put, put_leased, txn, watch_prefix};
use crate::support::{Client, Server};

/// Seconds that an apiserver's entries among its peers live.
const MASTER_LEASE_TTL: i64 = 15;
/// Seconds between two compactions.
const COMPACTION: f64 = 300.0;
const COMPACTION_LOCK: &str = "compact_rev_key";

/// The objects of a fresh cluster, with so many nodes.
pub fn fill(server: &Server, nodes: usize) {
    let filler = Bytes::from(vec![b'x'; 1 << 20]);
    let mut puts: Vec<PutRequest> = Vec::new();
    for resource in &RESOURCES {
        puts.extend((0..resource.count).map(|n| put(resource.key(n), filler.slice(..resource.size))));
    }
    let minions = Resource::named("minions");
    puts.extend((0..nodes).map(|node| put(minions.key_of(&format!("node-{node}")), filler.slice(..minions.size))));
    assert!(server.client().call_all(&puts, 8).iter().all(Result::is_ok));
}

/// The load, for so long. Gives how many entries of the log it has asked for: writes, leases and their ends.
pub fn play(server: &Server, nodes: usize, length: Duration) -> u64 {
    let stop = AtomicBool::new(false);
    let end = Instant::now() + length;
    let every = |seconds: f64, offset: f64, turn: &mut dyn FnMut()| {
        let begun = Instant::now() + Duration::from_secs_f64(offset);
        (0..).map(|n| begun + Duration::from_secs_f64(seconds * f64::from(n))).take_while(|next| *next < end).fold(
            0,
            |turns, next| {
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                turn();
                turns + 1
            },
        )
    };
    std::thread::scope(|scope| {
        let (every, stop) = (&every, &stop);
        for resource in &RESOURCES {
            let mut watch = open_watch(&server.client(), resource);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(Err(status)) = watch.stream.recv_within(Duration::from_millis(500)) {
                        panic!("a watch has ended: {status:?}");
                    }
                }
            });
        }
        let leases = Resource::named("leases");
        let renewals = [
            ("kube-controller-manager", 2.0, leases.size, 0.0),
            ("kube-scheduler", 2.0, leases.size, 0.7),
            ("apiserver-1", 10.0, 720, 0.3),
        ];
        let mut writers: Vec<_> = Vec::new();
        for (name, seconds, size, offset) in renewals {
            let mut object = Object::new(server, leases.key_in("kube-system", name), size);
            writers.push(scope.spawn(move || every(seconds, offset, &mut || object.write(0))));
        }
        for (name, size, offset) in [("masterleases/10.0.0.1", 63, 1.1), ("peerserverleases/apiserver-1", 140, 5.4)] {
            let mut object = Object::new(server, format!("/registry/{name}").into(), size);
            writers.push(scope.spawn(move || {
                let turns = every(10.0, offset, &mut || {
                    object.client.call(&key(&object.key));
                    let lease = object.client.call(&LeaseGrantRequest { ttl: MASTER_LEASE_TTL, id: 0 }).id;
                    object.write(lease);
                });
                // Each grant is an entry, each write one, and each end of the lease before.
                3 * turns
            }));
        }
        for node in 0..nodes {
            let name = format!("node-{node}");
            let offset = 10.0 / nodes as f64 * node as f64;
            let mut lease = Object::new(server, leases.key_in("kube-node-lease", &name), leases.size);
            let mut status = Object::new(server, Resource::named("minions").key_of(&name), Resource::named("minions").size);
            writers.push(scope.spawn(move || every(10.0, offset, &mut || lease.write(0))));
            writers.push(scope.spawn(move || every(300.0, 30.0 * offset, &mut || status.write(0))));
        }
        let client = server.client();
        scope.spawn(move || every(10.0, 2.0, &mut || look_at_service(&client)));
        let client = server.client();
        let mut lock = Object::new(server, COMPACTION_LOCK.into(), 7);
        let mut seen = 0;
        writers.push(scope.spawn(move || {
            every(COMPACTION, 1.5, &mut || {
                lock.write(0);
                if seen > 0 {
                    client.call(&CompactionRequest { revision: seen, physical: false });
                }
                seen = client.call(&key(COMPACTION_LOCK)).revision();
            })
        }));
        let entries = writers.into_iter().map(|writer| writer.join().expect("a writer has failed")).sum();
        stop.store(true, Ordering::Relaxed);
        entries
    })
}

fn open_watch(client: &Client, resource: &Resource) -> Watch {
    let revision = client.call(&prefix(resource.prefix())).revision();
    let mut watch = Watch::open(client);
    let from = revision + 1;
    watch.create(WatchCreateRequest {
        start_revision: from,
        prev_kv: true,
        progress_notify: true,
        ..watch_prefix(resource.prefix())
    });
    watch
}

/// The `kubernetes` service and what it is made of, as the apiserver looks at them.
fn look_at_service(client: &Client) {
    for resource in ["services/endpoints", "endpointslices"] {
        client.call(&key(Resource::named(resource).key_in("default", "kubernetes")));
    }
    for name in ["masterleases/10.0.0.1", "peerserverleases/apiserver-1"] {
        client.call(&key(format!("/registry/{name}")));
    }
    client.call(&prefix("/registry/masterleases/"));
}

/// An object that one client alone writes, over a connection of its own.
struct Object {
    client: Client,
    key: Bytes,
    value: Bytes,
    modified: i64,
}

impl Object {
    fn new(server: &Server, key: Bytes, size: usize) -> Object {
        let client = server.client();
        let kvs = client.call(&crate::support::requests::key(&key)).kvs;
        Object { client, key, value: vec![b'x'; size].into(), modified: kvs.first().map_or(0, |kv| kv.mod_revision) }
    }

    /// Writes it in the apiserver's shape: guarded by the revision that it believes the object to have.
    fn write(&mut self, lease: i64) {
        let guard = cmp(&self.key, CompareResult::Equal, TargetUnion::ModRevision(self.modified));
        let there = key(&self.key).op();
        let reply = self.client.call(&txn(vec![guard], vec![put_leased(&self.key, &self.value, lease).op()], vec![there]));
        self.modified = match reply.responses.into_iter().next().and_then(|op| op.response) {
            Some(Response::ResponsePut(_)) if reply.succeeded => reply.header.expect("a header").revision,
            // Its lease has ended meanwhile.
            Some(Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.mod_revision),
            other => panic!("{other:?}"),
        };
    }
}
