//! What the pages of `haul top` share: a list, and how figures are written in one.

use crate::cli::term::table::{Column, Row};
use crate::cli::term::words;
use crate::pb;

/// A list: its columns and rows, the place of its first row among all, and what is said where there is none.
pub(super) struct Listing {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
    pub(super) first: usize,
    pub(super) empty: String,
}

/// The rate of a transfer; empty where there is none.
pub(super) fn speed(progress: &pb::Progress) -> String {
    if progress.bytes_per_second > 0 { words::rate(progress.bytes_per_second) } else { String::new() }
}

/// The time that is left, as a clock shows it; empty where it is not known.
pub(super) fn left(progress: &pb::Progress) -> String {
    let left = progress.estimated_remaining.and_then(|left| std::time::Duration::try_from(left).ok());
    left.map(words::clock).unwrap_or_default()
}
