//! The process as the kernel sees it, under the names of Prometheus's client libraries. In: `/proc`. Out: families; what cannot be
//! read is left out.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::text::Text;

/// Writes all families of the process. Blocks for as long as `/proc` takes.
pub fn families(text: &mut Text) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
        let ticks = clock_ticks_per_second() as f64;
        text.counters(
            "process_cpu_seconds_total",
            "Seconds of processor time used, for the program and for the kernel on its behalf.",
            [(&[][..], stat.cpu_ticks as f64 / ticks)],
        );
        if let Some(boot) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot_time) {
            let started = boot as f64 + stat.start_ticks as f64 / ticks;
            text.value("process_start_time_seconds", "Unix time at which the process started.", started);
        }
        text.value("process_virtual_memory_bytes", "Bytes of address space in use.", stat.virtual_bytes as f64);
        let resident = stat.resident_pages as f64 * page_size() as f64;
        text.value("process_resident_memory_bytes", "Bytes of memory in use.", resident);
    }
    let most = getrlimit(Resource::As).current.unwrap_or(u64::MAX);
    text.value("process_virtual_memory_max_bytes", "Bytes of address space that may be used.", most as f64);
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) as f64;
    text.value("process_max_fds", "File descriptors that may be open.", limit);
    text.value("os_fd_limit", "File descriptors that may be open.", limit);
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is this directory.
        let open = entries.count().saturating_sub(1) as f64;
        text.value("process_open_fds", "File descriptors that are open.", open);
        text.value("os_fd_used", "File descriptors that are open.", open);
    }
    if let Some((received, sent)) = fs::read_to_string("/proc/self/net/netstat").ok().as_deref().and_then(network) {
        let scope = "by all processes of its network namespace";
        text.counters("process_network_receive_bytes_total", &format!("Bytes received {scope}."), [(&[][..], received as f64)]);
        text.counters("process_network_transmit_bytes_total", &format!("Bytes sent {scope}."), [(&[][..], sent as f64)]);
    }
}

/// What is wanted of `/proc/self/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Stat> {
        // The second field is the program's name in parentheses, which may hold both blanks and parentheses.
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Fields are counted from 1 in the manual; `rest` begins with the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine started, seconds since 1970, out of `/proc/stat`.
fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// Bytes received and sent, out of `/proc/self/net/netstat`: a line of names, then a line of numbers.
fn network(netstat: &str) -> Option<(u64, u64)> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let number = |wanted: &str| {
        let mut pairs = names.split_ascii_whitespace().zip(numbers.split_ascii_whitespace());
        pairs.find(|(name, _)| *name == wanted)?.1.parse().ok()
    };
    Some((number("InOctets")?, number("OutOctets")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_may_hold_anything() {
        let line = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 11 31 5 6 20 0 4 0 8070 9000 77 18446744073709551615 1";
        let stat = Stat { cpu_ticks: 42, start_ticks: 8070, virtual_bytes: 9000, resident_pages: 77 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("7 (short) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn kernel_tables_are_read_by_their_names() {
        assert_eq!(boot_time("cpu 1 2\nbtime 1795446000\nprocesses 5\n"), Some(1_795_446_000));
        assert_eq!(boot_time("cpu 1 2\n"), None);
        let netstat = "TcpExt: A InOctets\nTcpExt: 1 2\nIpExt: X InOctets OutOctets\nIpExt: 9 10 11\n";
        assert_eq!(network(netstat), Some((10, 11)));
        assert_eq!(network("IpExt: X\nIpExt: 9\n"), None);
    }

    #[test]
    fn this_process_is_found() {
        let mut text = Text::new();
        families(&mut text);
        let text = text.finish();
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "os_fd_limit"] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{name} in {text}");
        }
    }
}
