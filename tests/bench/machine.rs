//! What everything was measured on, and with.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::{oracle, under_test};

/// Words about machine, versions, commit and day.
pub fn describe() -> BTreeMap<String, String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: u64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let version = |binary: &Path| first_line(Command::new(binary).arg("--version"));
    [
        ("cpu", format!("{}, {cores} cores, {}", field("/proc/cpuinfo", "model name"), std::env::consts::ARCH)),
        ("memory", format!("{} MB", memory / 1000)),
        ("kernel", first_line(Command::new("uname").arg("-sr"))),
        ("disk", first_line(Command::new("findmnt").args(["-no", "FSTYPE,OPTIONS", "--target"]).arg(std::env::temp_dir()))),
        ("bramble", version(&under_test())),
        ("etcd", version(&oracle("etcd"))),
        ("commit", commit()),
        ("date", first_line(Command::new("date").args(["-u", "+%Y-%m-%d"]))),
    ]
    .map(|(name, words)| (name.to_owned(), words))
    .into()
}

/// The commit, and whether what the binary is made of has changed since.
fn commit() -> String {
    let git = |args: &[&str]| first_line(Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(args));
    let changed = git(&["status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock", "build.rs"]);
    git(&["rev-parse", "--short", "HEAD"]) + if changed.is_empty() { "" } else { "-changed" }
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    output.lines().next().unwrap_or_default().trim().to_owned()
}

fn field(path: &str, name: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
    line.map_or("unknown", |(_, value)| value.trim()).to_owned()
}
