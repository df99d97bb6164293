//! Numbers, times and states in words.

use std::time::Duration;

use prost_types::Timestamp;

/// Bytes for people: `999 B`, `1.50 KiB`, `12.3 MiB`; at most nine cells wide.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 999.5 would be written as 1000, a cell wider than what follows it.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A rate for people: `1.50 MiB/s`.
pub(crate) fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", size(bytes_per_second))
}

/// A duration for people, in its two largest units: `7 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let pair = |large: u64, unit: &str, small: u64, below: &str| {
        if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {below}") }
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// A duration as a clock shows it, in at most seven cells: `0:07`, `12:03`, `2:05:00`, `3 d 4 h`, `120 d`.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}:{:02}:{:02}", seconds / 3600, seconds % 3600 / 60, seconds % 60),
        86_400..864_000 => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
        _ => format!("{} d", (seconds / 86_400).min(99_999)),
    }
}

/// A duration in its largest unit, for narrow columns: `7 s`, `3 min`, `2 h`, `5 d`.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A time, in UTC and whole seconds; empty for none.
pub(crate) fn time(time: Option<&Timestamp>) -> String {
    time.map(|time| Timestamp { nanos: 0, ..*time }.to_string()).unwrap_or_default()
}

/// How many of something: `1 file`, `1,234 files`.
pub(crate) fn count(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", number(count))
}

/// A number with its thousands apart: `1,234,567`.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A state without its prefix: `JOB_STATE_RUNNING` reads `running`.
pub(crate) fn state(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_in_their_column() {
        let sizes = [0, 999, 1000, 1023, 1536, 10 << 10, (1 << 20) - 1, 3 << 20, 123 << 20, 5 << 30, u64::MAX];
        let texts: Vec<String> = sizes.map(size).to_vec();
        let expected = [
            "0 B", "999 B", "0.98 KiB", "1.00 KiB", "1.50 KiB", "10.0 KiB", "1.00 MiB", "3.00 MiB", "123 MiB",
            "5.00 GiB",
        ];
        assert_eq!(texts[..10], expected);
        assert!(texts.iter().all(|text| text.len() <= 9), "{texts:?}");
    }

    #[test]
    fn durations_have_two_units() {
        let seconds = [0, 59, 60, 200, 7500, 273_600];
        assert_eq!(
            seconds.map(|seconds| duration(Duration::from_secs(seconds))),
            ["0 s", "59 s", "1 min", "3 min 20 s", "2 h 5 min", "3 d 4 h"]
        );
        assert_eq!(
            seconds.map(|seconds| clock(Duration::from_secs(seconds))),
            ["0:00", "0:59", "1:00", "3:20", "2:05:00", "3 d 4 h"]
        );
        assert!(clock(Duration::MAX).len() <= 7);
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!((count(1, "file"), count(2, "file")), ("1 file".into(), "2 files".into()));
    }
}
