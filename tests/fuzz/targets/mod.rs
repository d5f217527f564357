//! What takes bytes from outside, each behind one function that may be given any. A function panics if what it tries breaks a
//! promise. Two runners call them: `tests/fuzz/mod.rs` replays the corpus and mutates it with fixed seeds, and `fuzz/` is guided by
//! coverage.

mod calls;
mod checkpoint;
mod data_dir;
mod flags;
mod frames;
mod http1;
mod http2;
mod input;
mod log;
mod messages;
mod pipe;
mod requests;
mod served;
mod tls;
mod wal;
mod yaml;

use tempfile::TempDir;

/// One way in.
pub struct Target {
    /// Also the directory of its corpus.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "calls", run: calls::run },
    Target { name: "checkpoint", run: checkpoint::run },
    Target { name: "flags", run: flags::run },
    Target { name: "frames", run: frames::run },
    Target { name: "http1", run: http1::run },
    Target { name: "http2", run: http2::run },
    Target { name: "log", run: log::run },
    Target { name: "requests", run: requests::run },
    Target { name: "tls", run: tls::run },
    Target { name: "wal", run: wal::run },
    Target { name: "yaml", run: yaml::run },
];

/// The target of this name.
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// A directory in memory, where there is one: what the targets write is worth no disk.
fn memory_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("there is room for a directory")
}
