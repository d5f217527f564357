//! The binary as its operators meet it: where it listens, whom it lets in, what it reads, what it says, and how it ends.

mod config;
mod damage;
mod life;
mod listeners;
mod starts;
mod tls;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use bramble::pb::etcdserverpb::RangeRequest;

use crate::support::requests::key;
use crate::support::server::Target;
use crate::support::wait::until;
use crate::support::{Client, under_test};

/// Whether a gRPC client is served there.
fn serves(target: &Target) -> bool {
    let request = RangeRequest { limit: 1, ..key("served?") };
    Client::connect(target).is_ok_and(|client| client.try_call(&request).is_ok())
}

/// Starts a server that has to refuse, in `dir`: its exit code and the lines of its log.
#[track_caller]
fn refusal(dir: &Path, args: &[impl AsRef<OsStr>]) -> (Option<i32>, Vec<String>) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new(under_test())
        .args(args)
        .current_dir(dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let status = until("the server to refuse its start", || child.try_wait().unwrap());
    (status.code(), std::fs::read_to_string(log.path()).unwrap().lines().map(str::to_owned).collect())
}
