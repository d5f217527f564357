//! What a process has taken, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;

use super::Server;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident: with the pages of the checkpoint that are mapped, which the kernel takes back when it wants to.
    pub resident: u64,
    /// The part of it that is no file's.
    pub own: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

impl Memory {
    /// Of a running server.
    pub fn of(server: &Server) -> Memory {
        Memory::of_process(server.pid())
    }

    /// Of a running process.
    pub fn of_process(pid: u32) -> Memory {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| number_after(&status, name) * 1024;
        Memory { resident: field("VmRSS:"), own: field("RssAnon:"), peak: field("VmHWM:") }
    }
}

/// Bytes that each thread of a process has had written to the block layer, by its name (threads of one name together). Whole pages
/// where it wrote through the page cache, and nothing of the file system's own.
pub fn written_by_thread(pid: u32) -> BTreeMap<String, u64> {
    let mut written = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = entry.unwrap().path();
        // A thread of a pool may end meanwhile.
        let (Ok(name), Ok(io)) = (fs::read_to_string(task.join("comm")), fs::read_to_string(task.join("io"))) else { continue };
        *written.entry(name.trim().to_owned()).or_default() += number_after(&io, "\nwrite_bytes:");
    }
    written
}

fn number_after(text: &str, name: &str) -> u64 {
    let rest = text.split_once(name).expect(name).1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}
