//! What the kernel says about this process.

use std::fs;

/// Figures of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // The names of the series.
pub struct Process {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub open_fds: u64,
    pub max_fds: u64,
    pub start_time_seconds: f64,
    pub threads: u64,
}

impl Process {
    /// Reads them; `None` where there is no `/proc`. The time of the start is the caller's to know: what the kernel knows of that is
    /// relative to the start of the machine, which is not for every process to see.
    pub fn read(start_time_seconds: f64) -> Option<Process> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let stat = Stat::parse(&stat)?;
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Some(Process {
            cpu_seconds: stat.cpu_ticks as f64 / ticks,
            resident_bytes: stat.resident_pages.saturating_mul(rustix::param::page_size() as u64),
            open_fds: open_fds(),
            max_fds: limits.current.unwrap_or(u64::MAX),
            start_time_seconds,
            threads: stat.threads,
        })
    }
}

/// The kernel from 6.2 on says how many there are; before, they are counted.
fn open_fds() -> u64 {
    let directory = "/proc/self/fd";
    match fs::metadata(directory).map_or(0, |found| found.len()) {
        0 => fs::read_dir(directory).map_or(0, |entries| entries.count().saturating_sub(1) as u64),
        count => count,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    resident_pages: u64,
}

impl Stat {
    /// Reads `/proc/self/stat`. The name of the program may have anything in it, parentheses too.
    fn parse(text: &str) -> Option<Stat> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        // The first field behind the name is the third of all.
        let number = |place: usize| fields.get(place - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: number(14)?.saturating_add(number(15)?),
            threads: number(20)?,
            resident_pages: number(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_process_with_an_odd_name_is_read() {
        let line = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 12 3 0 0 20 0 5 0 900 1000 77 18446744073709551615";
        let stat = Stat { cpu_ticks: 15, threads: 5, resident_pages: 77 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_there() {
        let process = Process::read(0.0).unwrap();
        assert!(process.open_fds >= 3 && process.threads >= 1 && process.resident_bytes > 1 << 20, "{process:?}");
        assert!(process.max_fds >= process.open_fds && process.start_time_seconds.abs() < 0.5, "{process:?}");
    }
}
