//! How rows travel out of `SQLite`: each as a JSON array, all of them as one text.
//!
//! Reading a row through sqlx costs microseconds, and a million of them seconds; one text of many rows is read in a
//! fraction. The texts are put together by plain concatenation, since every piece is a number or JSON that we wrote. They
//! are bounded: a page ends after [`crate::store::PAGE_BYTES_MAX`].

use std::fmt::Display;
use std::sync::Arc;

use memchr::memmem;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::store::{Listed, PAGE_BYTES_MAX, StoreError};

/// All lines of a query as one JSON array.
macro_rules! array_of {
    ($($piece:expr),+) => {
        concat!("SELECT '[' || coalesce(group_concat(line, ',\n'), '') || ']' FROM (", $($piece),+, ")")
    };
}

/// What stands between the lines of a text. Nothing that we wrote has it, so that a line is found whatever another has.
pub(super) const BETWEEN: &str = ",\n";

pub(super) use array_of;

/// The text of a statement that gives a page as one JSON array and whether it has all the bytes that a page may have,
/// followed by the columns `more`. `places` selects `id` and `bytes` of the rows in their order; `rest` joins to these
/// places `w` what `line` is made of. The page ends before a row that begins beyond [`PAGE_BYTES_MAX`].
pub(super) fn page_of(places: &str, line: &str, rest: &str, more: &str) -> Arc<str> {
    format!(
        "SELECT '[' || coalesce(group_concat(line, '{BETWEEN}'), '') || ']', coalesce(max(upto), 0) >= {PAGE_BYTES_MAX}{more} \
         FROM (SELECT {line} AS line, w.upto AS upto FROM \
         (SELECT id, bytes, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) AS upto FROM ({places})) w {rest} \
         WHERE w.upto - w.bytes < {PAGE_BYTES_MAX})"
    )
    .into()
}

/// A page as [`page_of`] gives it.
pub(super) struct Page {
    /// The rows as one JSON array.
    pub(super) text: String,
    /// Whether it ended because of its bytes. The length of the text does not say so: what is counted for a row may be
    /// more than its text, and less.
    pub(super) is_cut: bool,
}

impl Page {
    /// Whether the page, of which so many rows were read, ended because it was full, by rows or by bytes.
    pub(super) fn is_full(&self, rows: usize, limit: u32) -> bool {
        rows > 0 && (rows >= limit as usize || self.is_cut)
    }
}

/// How many rows are read to know whether there are more than `limit`.
pub(super) fn one_more(limit: u32) -> i64 {
    i64::from(limit) + 1
}

/// What a page has for a caller.
pub(super) enum Readable<T> {
    Page(Listed<T>),
    /// None of its rows can be read, and there are more: the first value of the last row.
    GoOn(u32),
}

/// A page of at most `limit` of what `open` makes of the lines of `page`, of which [`one_more`] were asked for. A row that
/// cannot be read is logged and left out, so that it holds nothing that is behind it.
pub(super) fn readable<L: DeserializeOwned, T>(
    page: &Page,
    what: &str,
    limit: u32,
    open: impl Fn(L) -> Result<T, StoreError>,
) -> Readable<T> {
    let lines = good_lines::<L>(&page.text, what);
    let has_more = lines.count > 0 && page.is_cut || lines.count > limit as usize;
    let last = lines.last_head::<1>().and_then(|[first]| first.parse().ok());
    let mut items = opened(lines.good.into_iter().map(open));
    match last {
        Some(last) if items.is_empty() && has_more => Readable::GoOn(last),
        _ => {
            items.truncate(limit as usize);
            Readable::Page(Listed { items, has_more })
        }
    }
}

/// Reads one JSON value that we wrote; `what` names the row.
pub(super) fn parse<T: DeserializeOwned>(text: &str, what: impl Display) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unreadable(format!("{what}: {error}")))
}

/// Reads what [`array_of`] and [`page_of`] made; `what` names the listing.
pub(super) fn lines<L: DeserializeOwned>(text: &str, what: impl Display) -> Result<Vec<L>, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unreadable(format!("{what}{}: {error}", place::<L>(text))))
}

/// The lines of a listing that stand for themselves.
pub(super) struct Lines<'t, L> {
    /// Those that parse.
    pub(super) good: Vec<L>,
    /// How many there are in all.
    pub(super) count: usize,
    /// The text of the last one, whether it parses or not; empty where there is none.
    last: &'t str,
}

impl<L> Lines<'_, L> {
    /// The first `N` values of the last line: names, which `SQLite` has put together from keys, whatever stands behind them.
    /// `None`: there is no line.
    pub(super) fn last_head<const N: usize>(&self) -> Option<[&str; N]> {
        head(self.last)
    }
}

fn head<const N: usize>(line: &str) -> Option<[&str; N]> {
    let mut values = line.split(',').map(|value| value.trim_matches(['[', ']', '"']));
    let head: Vec<&str> = values.by_ref().take(N).collect();
    head.try_into().ok()
}

/// How many lines a listing has, and the first `N` values of the last one, as [`Lines::last_head`] has them; none of them is read.
pub(super) fn count_and_last_head<const N: usize>(text: &str) -> (usize, Option<[&str; N]>) {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if inner.is_empty() {
        return (0, None);
    }
    let last = memmem::rfind(inner.as_bytes(), BETWEEN.as_bytes()).map_or(0, |at| at + BETWEEN.len());
    (memmem::find_iter(inner.as_bytes(), BETWEEN).count() + 1, head(&inner[last..]))
}

/// Reads a listing line by line. One that does not parse is logged, and its first `N` values are returned, as by
/// [`Lines::last_head`].
pub(super) fn each_line<'t, L: DeserializeOwned, const N: usize>(
    text: &'t str,
    what: &str,
) -> Vec<Result<L, [&'t str; N]>> {
    if let Ok(good) = serde_json::from_str::<Vec<L>>(text) {
        return good.into_iter().map(Ok).collect();
    }
    let read = |line: &'t str| match serde_json::from_str(line) {
        Ok(read) => Some(Ok(read)),
        Err(error) => {
            tracing::error!(%error, "the {what}{} cannot be read and is left out", name(line));
            head(line).map(Err)
        }
    };
    raw_lines(text).filter_map(read).collect()
}

/// Reads a listing whose lines stand for themselves: one that does not parse is logged and left out.
pub(super) fn good_lines<'t, L: Deserialize<'t>>(text: &'t str, what: &str) -> Lines<'t, L> {
    if let Ok(good) = serde_json::from_str::<Vec<L>>(text) {
        let inner = text.strip_suffix(']').unwrap_or(text);
        let last = inner.rsplit(BETWEEN).next().unwrap_or_default();
        return Lines { count: good.len(), good, last };
    }
    let (mut good, mut count, mut last) = (Vec::new(), 0, "");
    for line in raw_lines(text) {
        (count, last) = (count + 1, line);
        match serde_json::from_str(line) {
            Ok(read) => good.push(read),
            // The rest of the line may hold secrets.
            Err(error) => tracing::error!(%error, "the {what}{} cannot be read and is left out", name(line)),
        }
    }
    Lines { good, count, last }
}

/// The text of each line.
fn raw_lines(text: &str) -> impl Iterator<Item = &str> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    inner.split(BETWEEN).filter(|line| !line.is_empty())
}

/// Names the first line that does not parse, by what stands first in it. The rest may hold secrets.
fn place<L: DeserializeOwned>(text: &str) -> String {
    let bad = raw_lines(text).find(|line| serde_json::from_str::<L>(line).is_err());
    bad.map(name).unwrap_or_default()
}

fn name(line: &str) -> String {
    format!(" {}", line.trim_start_matches('[').split(',').next().unwrap_or_default())
}

/// Returns what the lines of a listing stand for. One whose secrets do not open is logged and left out.
pub(super) fn opened<T>(lines: impl Iterator<Item = Result<T, StoreError>>) -> Vec<T> {
    lines.filter_map(|line| line.inspect_err(|error| tracing::error!("{error}; it is left out")).ok()).collect()
}
