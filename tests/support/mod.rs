//! What every black-box test needs: servers on free ports, certificates, etcdctl, a gRPC client that shows the raw wire.
//!
//! The server under test is Bramble, or any binary named by `BRAMBLE_BIN`: Bramble takes etcd's flags, so the whole suite also
//! runs against the etcd of `tests/oracle/bin`, and is proven there.

pub mod certs;
pub mod command;
pub mod etcdctl;
pub mod grpc;
pub mod http;
pub mod process;
pub mod random;
pub mod requests;
pub mod server;
pub mod volume;
pub mod wait;

use std::path::PathBuf;

pub use certs::Certs;
pub use etcdctl::{Etcdctl, Version};
pub use grpc::{Client, Code, Status};
pub use server::{Security, Server};

/// A binary of `tests/oracle/bin`. Missing, it is no reason to skip a test: the test fails and says how to build it.
pub fn oracle(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/bin").join(name);
    let part = match name {
        "etcd" | "etcdctl" | "etcdutl" => "etcd",
        "etcdctl34" | "benchmark" => name,
        _ => "kube",
    };
    assert!(path.is_file(), "{} is missing; build it with: tests/oracle/build.sh {part}", path.display());
    path
}

/// The server that the tests are about.
pub fn under_test() -> PathBuf {
    std::env::var_os("BRAMBLE_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_bramble")), PathBuf::from)
}
