//! What the server's process takes.

use std::fs;

use crate::support::Server;

/// Memory, descriptors and threads of a process.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// Bytes in memory.
    pub resident: u64,
    /// The most that were in memory since [`Footprint::forget_peak`].
    pub peak: u64,
    /// Open sockets: other descriptors come and go with the log's segments.
    pub sockets: usize,
    /// Threads.
    pub threads: usize,
}

impl Footprint {
    /// Now.
    pub fn of(server: &Server) -> Footprint {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap()
        };
        Footprint {
            resident: field("VmRSS:") * 1024,
            peak: field("VmHWM:") * 1024,
            sockets: sockets(server.pid()),
            threads: field("Threads:") as usize,
        }
    }

    /// Lets [`Footprint::peak`] begin anew.
    pub fn forget_peak(server: &Server) {
        fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
    }
}

fn sockets(pid: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // One that is closed meanwhile is none.
    let files = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    files.filter(|file| file.to_string_lossy().starts_with("socket:")).count()
}

/// Bytes in words.
pub fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
