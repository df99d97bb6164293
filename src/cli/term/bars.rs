//! A row for each transfer that runs or waits, and a sum below them. Pure: where each stands comes in, lines go out.

use std::time::Duration;

use crate::cli::term::line::{Hue, Line, cut_name};
use crate::cli::term::screen::Size;
use crate::cli::term::words;

/// Rows of the screen that are left to what is printed above the bars.
const ROWS_LEFT: usize = 2;
/// Cells of a bar on a wide screen, and on one that is less so.
const BARS: [usize; 2] = [20, 12];

/// A transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// What it is called.
    pub(crate) name: String,
    /// Bytes in hand.
    pub(crate) done: u64,
    /// The size; 0 while it is not known.
    pub(crate) total: u64,
    /// Bytes that arrive in a second.
    pub(crate) bytes_per_second: u64,
    /// Why it waits, when it does not run.
    pub(crate) waits: Option<String>,
}

/// The lines of all transfers that fit on the screen, with `sum` below them.
pub(crate) fn frame(transfers: &[Transfer], sum: Line, size: Size) -> Vec<Line> {
    let room = size.rows.saturating_sub(ROWS_LEFT + 1);
    let fits = transfers.len() <= room;
    // One row says how many have none.
    let shown = if fits { transfers.len() } else { room.saturating_sub(1) };
    let columns = size.columns.saturating_sub(1);
    let mut lines: Vec<Line> = transfers[..shown].iter().map(|transfer| row(transfer, columns)).collect();
    if !fits && room > 0 {
        lines.push(Line::of(Hue::Faint, &format!("and {} more", transfers.len() - shown)).cut(columns));
    }
    lines.push(sum.cut(columns));
    lines
}

/// One transfer: its name, then figures in columns that stay in their place.
fn row(transfer: &Transfer, columns: usize) -> Line {
    let figures = match &transfer.waits {
        Some(why) => {
            let room = columns.saturating_sub(columns / 3 + 2);
            Line::of(Hue::Warn, why).cut(room)
        }
        None => figures(transfer, columns),
    };
    let width = if transfer.waits.is_some() { columns / 3 } else { columns.saturating_sub(figures.width() + 2) };
    if width == 0 {
        return figures.cut(columns);
    }
    Line::from(cut_name(&transfer.name, width)).padded(width).with(Hue::Plain, "  ").and(figures).cut(columns)
}

/// As many figures as leave room for a name: a bar, how much of it is there, its size, its rate and the time left.
fn figures(transfer: &Transfer, columns: usize) -> Line {
    let Transfer { done, total, bytes_per_second, .. } = *transfer;
    let percent = if total > 0 { format!("{:>3}%", percent(done, total)) } else { "    ".to_owned() };
    let size = format!("{:>9}", words::size(if total > 0 { total } else { done }));
    let rate = if bytes_per_second > 0 { words::rate(bytes_per_second) } else { String::new() };
    let rate = format!("{rate:>11}");
    let left = left(done, total, bytes_per_second).map(words::clock).unwrap_or_default();
    let left = format!("{left:>7}");
    let cells = match columns {
        99.. => bar(done, total, BARS[0]),
        72.. => bar(done, total, BARS[1]),
        _ => Line::default(),
    };
    let cells = if cells.is_empty() { cells } else { cells.with(Hue::Plain, "  ") };
    match columns {
        50.. => cells.with(Hue::Plain, &format!("{percent}  {size}  {rate}  {left}")),
        30.. => Line::from(format!("{percent}  {rate}")),
        _ => Line::from(percent),
    }
}

/// How much of it is there, in whole percent: 100 only when all of it is.
pub(crate) fn percent(done: u64, total: u64) -> u64 {
    (u128::from(done.min(total)) * 100 / u128::from(total.max(1))) as u64
}

/// A bar of so many cells, full where it is done.
pub(crate) fn bar(done: u64, total: u64, cells: usize) -> Line {
    if total == 0 {
        return Line::of(Hue::Faint, &"░".repeat(cells));
    }
    let full = (u128::from(done.min(total)) * cells as u128 / u128::from(total)) as usize;
    Line::of(Hue::Good, &"█".repeat(full)).with(Hue::Faint, &"░".repeat(cells - full))
}

/// How long the rest takes at the rate of now.
fn left(done: u64, total: u64, bytes_per_second: u64) -> Option<Duration> {
    (total > done && bytes_per_second > 0).then(|| Duration::from_secs((total - done).div_ceil(bytes_per_second)))
}

/// How far something is, in one phrase: `3.00 MiB of 12.0 MiB, 1.50 MiB/s, 6 s left`, as far as it is known. `is_all` says
/// whether `total` is the size of everything; otherwise the time that is left is unknown.
pub(crate) fn phrase(done: u64, total: u64, bytes_per_second: u64, is_all: bool) -> String {
    let mut text = words::size(done);
    if total > 0 {
        text += &format!(" of {}", words::size(total));
    }
    if bytes_per_second > 0 {
        text += &format!(", {}", words::rate(bytes_per_second));
    }
    if let Some(left) = left(done, total, bytes_per_second).filter(|_| is_all) {
        text += &format!(", {} left", words::duration(left));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn transfers() -> Vec<Transfer> {
        let transfer = |name: &str, done, total, bytes_per_second| Transfer {
            name: name.into(),
            done,
            total,
            bytes_per_second,
            waits: None,
        };
        let waits = Some("the origin answered 503, again in 3 s (attempt 2 of 5)".to_owned());
        vec![
            transfer("debian-13.1.0-amd64-netinst.iso", 300 << 20, 784 << 20, 12 << 20),
            transfer("a.txt", 5, 0, 0),
            Transfer { waits, ..transfer("checksums.sha256", 0, 0, 0) },
        ]
    }

    fn shown(columns: usize, rows: usize) -> String {
        let lines = frame(&transfers(), Line::from("1 of 4 files"), Size { columns, rows });
        lines.iter().map(|line| line.rendered(false) + "\n").collect()
    }

    #[test]
    fn bars_stay_in_their_columns() {
        let screens = [(120, 24), (80, 24), (60, 24), (40, 24), (20, 24), (80, 5), (80, 3)];
        insta::assert_snapshot!(
            screens.map(|(columns, rows)| format!("{columns}x{rows}\n{}", shown(columns, rows))).join("\n")
        );
    }

    #[test]
    fn a_phrase_says_what_is_known() {
        assert_eq!(phrase(3 << 20, 12 << 20, 3 << 19, true), "3.00 MiB of 12.0 MiB, 1.50 MiB/s, 6 s left");
        assert_eq!(phrase(3 << 20, 12 << 20, 3 << 19, false), "3.00 MiB of 12.0 MiB, 1.50 MiB/s");
        assert_eq!(phrase(5, 0, 0, true), "5 B");
        assert_eq!((percent(999, 1000), percent(u64::MAX, u64::MAX)), (99, 100));
    }

    proptest! {
        #[test]
        fn no_frame_exceeds_the_screen(name in "\\PC{0,80}", count in 0usize..40, columns in 1usize..160, rows in 1usize..50) {
            let one = Transfer { name, done: 1, total: 2, bytes_per_second: 3, waits: None };
            let lines = frame(&vec![one; count], Line::from("sum"), Size { columns, rows });
            prop_assert!(lines.len() <= rows.saturating_sub(ROWS_LEFT).max(1));
            prop_assert!(lines.iter().all(|line| line.width() < columns.max(1)));
        }
    }
}
