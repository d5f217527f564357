//! The v3 API by its rules, over bare gRPC. Each rule holds of etcd 3.7.3 too: run with `BRAMBLE_BIN=tests/oracle/bin/etcd`.

mod cluster;
mod compaction;
mod errors;
mod grpc_layer;
mod http;
mod lease;
mod maintenance;
mod put;
mod range;
mod range_stream;
mod txn;
mod watch;
