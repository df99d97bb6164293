//! How rows travel out of `SQLite`: each as a JSON array, all of them as one text.
//!
//! Reading a row through sqlx costs microseconds, and a million of them seconds; one text of many rows is read in a
//! fraction. The texts are put together by plain concatenation, since every piece is a number or JSON that we wrote. They
//! are bounded: a page ends after [`crate::store::PAGE_BYTES_MAX`].
//!
//! A text stays bytes until its lines are read: damage may have made one of them something else than UTF-8, as it may have made it
//! something else than JSON, and the others are read all the same.

use std::fmt::Display;
use std::sync::Arc;

use memchr::memmem;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::store::sqlite::text::Text;
use crate::store::{Listed, PAGE_BYTES_MAX, StoreError};

/// All lines of a query as one JSON array.
macro_rules! array_of {
    ($($piece:expr),+) => {
        concat!("SELECT '[' || coalesce(group_concat(line, ',\n\n\n'), '') || ']' FROM (", $($piece),+, ")")
    };
}

/// What stands between the lines of a text. Nothing that we wrote has it, and a damaged byte or two do not make it, so that a line
/// is found whatever another has.
pub(super) const BETWEEN: &str = ",\n\n\n";

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
    pub(super) text: Text,
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
    let lines = good_lines::<L>(page.text.as_ref(), what);
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
pub(super) fn parse<T: DeserializeOwned>(text: impl AsRef<[u8]>, what: impl Display) -> Result<T, StoreError> {
    value(text.as_ref()).map_err(|error| StoreError::Unreadable(format!("{what}: {error}")))
}

/// Reads one JSON value. Whether the whole is UTF-8 is judged at once, which is quicker than text by text.
pub(super) fn value<'t, T: Deserialize<'t>>(text: &'t [u8]) -> Result<T, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Reads what [`array_of`] and [`page_of`] made; `what` names the listing.
pub(super) fn lines<L: DeserializeOwned>(text: impl AsRef<[u8]>, what: impl Display) -> Result<Vec<L>, StoreError> {
    let text = text.as_ref();
    value(text).map_err(|error| StoreError::Unreadable(format!("{what}{}: {error}", place::<L>(text))))
}

/// The lines of a listing that stand for themselves.
pub(super) struct Lines<'t, L> {
    /// Those that parse.
    pub(super) good: Vec<L>,
    /// How many there are in all.
    pub(super) count: usize,
    /// The text of the last one, whether it parses or not; empty where there is none.
    last: &'t [u8],
}

impl<L> Lines<'_, L> {
    /// The first `N` values of the last line: names, which `SQLite` has put together from keys, whatever stands behind them.
    /// `None`: there is no line.
    pub(super) fn last_head<const N: usize>(&self) -> Option<[&str; N]> {
        head(self.last)
    }
}

fn head<const N: usize>(line: &[u8]) -> Option<[&str; N]> {
    let values = line.split(|byte| *byte == b',').map(|value| std::str::from_utf8(value).ok());
    let head: Option<Vec<&str>> =
        values.take(N).map(|value| value.map(|it| it.trim_matches(['[', ']', '"']))).collect();
    head?.try_into().ok()
}

/// How many lines a listing has, and the first `N` values of the last one, as [`Lines::last_head`] has them; none of them is read.
pub(super) fn count_and_last_head<const N: usize>(text: &[u8]) -> (usize, Option<[&str; N]>) {
    let inner = inner(text);
    if inner.is_empty() {
        return (0, None);
    }
    let last = memmem::rfind(inner, BETWEEN.as_bytes()).map_or(0, |at| at + BETWEEN.len());
    (memmem::find_iter(inner, BETWEEN).count() + 1, head(&inner[last..]))
}

/// Reads a listing line by line. One that does not parse is logged, and its first `N` values are returned, as by
/// [`Lines::last_head`].
pub(super) fn each_line<'t, L: DeserializeOwned, const N: usize>(
    text: &'t [u8],
    what: &str,
) -> Vec<Result<L, [&'t str; N]>> {
    if let Ok(good) = value::<Vec<L>>(text) {
        return good.into_iter().map(Ok).collect();
    }
    let read = |line: &'t [u8]| match value(line) {
        Ok(read) => Some(Ok(read)),
        Err(error) => {
            left_out(what, line, &error);
            head(line).map(Err)
        }
    };
    raw_lines(text).filter_map(read).collect()
}

/// Reads a listing whose lines stand for themselves: one that does not parse is logged and left out.
pub(super) fn good_lines<'t, L: Deserialize<'t>>(text: &'t [u8], what: &str) -> Lines<'t, L> {
    if let Ok(good) = value::<Vec<L>>(text) {
        let inner = inner(text);
        let last = memmem::rfind(inner, BETWEEN.as_bytes()).map_or(0, |at| at + BETWEEN.len());
        return Lines { count: good.len(), good, last: &inner[last..] };
    }
    let (mut good, mut count, mut last) = (Vec::new(), 0, &text[..0]);
    for line in raw_lines(text) {
        (count, last) = (count + 1, line);
        match value(line) {
            Ok(read) => good.push(read),
            Err(error) => left_out(what, line, &error),
        }
    }
    Lines { good, count, last }
}

/// Reads a listing whose lines stand for themselves, and shows each that does not parse, by why, with its first `N` values. Returns
/// how many lines there are, and the first `N` values of the last one.
pub(super) fn judge<'t, L: Deserialize<'t>, const N: usize>(
    text: &'t [u8],
    mut is_wrong: impl FnMut(&L) -> Option<String>,
    mut tell: impl FnMut([&'t str; N], String),
) -> (usize, Option<[&'t str; N]>) {
    for line in raw_lines(text) {
        let why = match value::<L>(line) {
            Ok(read) => is_wrong(&read),
            Err(why) => Some(why),
        };
        if let (Some(why), Some(head)) = (why, head(line)) {
            tell(head, why);
        }
    }
    count_and_last_head(text)
}

/// Logs a line that does not parse. What stands behind its name may hold secrets.
fn left_out(what: &str, line: &[u8], error: &str) {
    tracing::error!(error, "the {what}{} cannot be read and is left out", name(line));
}

/// What stands between the brackets of a listing.
fn inner(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"[").and_then(|text| text.strip_suffix(b"]")).unwrap_or(text)
}

/// The text of each line.
fn raw_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(inner(text)).filter(|inner| !inner.is_empty());
    std::iter::from_fn(move || {
        let text = rest?;
        let end = memmem::find(text, BETWEEN.as_bytes());
        rest = end.map(|at| &text[at + BETWEEN.len()..]);
        Some(end.map_or(text, |at| &text[..at]))
    })
}

/// Names the first line that does not parse, by what stands first in it. The rest may hold secrets.
fn place<L: DeserializeOwned>(text: &[u8]) -> String {
    let bad = raw_lines(text).find(|line| value::<L>(line).is_err());
    bad.map(name).unwrap_or_default()
}

/// What stands first in a line, an id of a job as it is shown.
fn name(line: &[u8]) -> String {
    let [first] = head(line).unwrap_or_default();
    let id = Some(first).filter(|first| first.len() == 32).and_then(|first| Uuid::parse_str(first).ok());
    id.map_or_else(|| format!(" {first}"), |id| format!(" {id}"))
}

/// Returns what the lines of a listing stand for. One whose secrets do not open is logged and left out.
pub(super) fn opened<T>(lines: impl Iterator<Item = Result<T, StoreError>>) -> Vec<T> {
    lines.filter_map(|line| line.inspect_err(|error| tracing::error!("{error}; it is left out")).ok()).collect()
}
