//! One run of the server under valgrind's callgrind, which counts its instructions and tells its system calls.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::load::Load;
use crate::support::Server;

/// What a server has done from its start to its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Instructions outside the kernel.
    pub instructions: u64,
    /// System calls by name.
    pub calls: BTreeMap<String, u64>,
    /// Bytes written to the write-ahead log.
    pub logged: u64,
    /// Bytes written to sockets.
    pub sent: u64,
}

/// Whether there is a valgrind to run it with.
pub fn is_possible() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Starts `binary`, gives it `requests` of the load and ends it in good order. What callgrind knows by function goes to `profile`.
pub fn run(binary: &Path, load: &Load, requests: u64, profile: &Path) -> Counts {
    let dir = tempfile::tempdir().unwrap();
    let (program, trace) = (dir.path().join("bramble"), dir.path().join("trace"));
    let script = format!(
        "#!/bin/sh\nexec valgrind --tool=callgrind --callgrind-out-file={} --trace-syscalls=yes --log-file={} {} \"$@\"\n",
        profile.display(),
        trace.display(),
        binary.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
    let mut server = Server::builder().binary(program).start();
    load.prepare(&server);
    load.ask(&server, requests);
    let files = files(server.pid());
    server.terminate();
    read(&fs::read_to_string(&trace).unwrap(), &files)
}

/// The files that a process has open, by file descriptor.
fn files(pid: u32) -> BTreeMap<String, PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap());
    let named = open.map(|entry| (entry.file_name().into_string().unwrap(), fs::read_link(entry.path()).unwrap_or_default()));
    named.filter(|(_, path)| path.is_absolute()).collect()
}

/// Where bytes are written to.
#[derive(Clone, Copy, PartialEq)]
enum To {
    Log,
    Socket,
    /// The checkpoint, the server's own log, another thread's bell.
    Elsewhere,
}

/// Reads valgrind's log. A call is a line, `SYSCALL[pid,thread](number) sys_name ( arguments ) --> result`; if it may wait, the result
/// follows on a line of its own, with the same brackets and no name.
fn read(trace: &str, files: &BTreeMap<String, PathBuf>) -> Counts {
    let mut counts = Counts::default();
    // What each thread is about to write to.
    let mut writing: BTreeMap<&str, To> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.strip_prefix("SYSCALL[").and_then(|line| line.split_once("](")) else { continue };
        if let Some((_, call)) = rest.split_once(") sys_") {
            let name = call.split([' ', '(', '[']).next().unwrap();
            let fd = call.split_once("( ").map_or("", |(_, arguments)| arguments.split([',', ' ']).next().unwrap());
            writing.insert(thread, target(name, files.get(fd)));
            // Outside valgrind it is no call: the kernel's page of clocks is read.
            if name != "clock_gettime" {
                *counts.calls.entry(name.to_owned()).or_default() += 1;
            }
        }
        if let Some((_, result)) = rest.split_once("Success(0x") {
            let bytes = u64::from_str_radix(result.split(')').next().unwrap(), 16).unwrap();
            match writing.get(thread) {
                Some(To::Log) => counts.logged += bytes,
                Some(To::Socket) => counts.sent += bytes,
                _ => {}
            }
        }
    }
    // Callgrind tells it last.
    let (_, number) = trace.rsplit_once("Collected : ").expect("valgrind tells what it has counted");
    counts.instructions = number.lines().next().unwrap().trim().parse().unwrap();
    counts
}

fn target(call: &str, file: Option<&PathBuf>) -> To {
    match (call, file) {
        ("pwrite64" | "pwritev" | "write" | "writev", Some(file)) if file.extension().is_some_and(|kind| kind == "wal") => {
            To::Log
        }
        ("writev" | "sendto" | "sendmsg", None) => To::Socket,
        _ => To::Elsewhere,
    }
}
