//! What a server's process costs, read from the kernel.

use std::time::Duration;

/// What a process has used since it began.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time of all its threads, ended ones included. The kernel keeps nanoseconds but tells hundredths of a second.
    pub cpu: Duration,
    /// Bytes it has caused to be written to storage: `write_bytes`, without the file system's own.
    pub written: u64,
    /// The most memory that was resident since [`forget_peak`], in bytes.
    pub peak: u64,
}

impl Usage {
    /// Of a process that runs.
    pub fn of(pid: u32) -> Usage {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        let stat = read("stat");
        // The name in brackets may hold anything; utime and stime are fields 14 and 15, counted from 1.
        let after_name = &stat[stat.rfind(')').unwrap() + 2..];
        let ticks: u64 = after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        let cpu = Duration::from_secs(ticks) / rustix::param::clock_ticks_per_second() as u32;
        Usage { cpu, written: number(&read("io"), "write_bytes:"), peak: number(&read("status"), "VmHWM:") * 1024 }
    }
}

/// Lets the peak of a process's memory begin anew.
pub fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}
