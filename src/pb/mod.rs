//! The words of the wire: etcd's messages, generated from the `.proto` files beside this one. A leaf: every room may name it.

/// Keys, values and events.
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

/// Requests and responses of the KV, Watch, Lease, Cluster and Maintenance services, and what the Raft log holds.
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// `grpc.health.v1`.
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
