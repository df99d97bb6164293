//! Tables that fit the screen. Pure: rows come in, lines go out.
//!
//! Where the screen is too narrow, columns that may be cut are cut first, then columns that may be missing are left out.
//! Output that does not go to a terminal has every column in full.

use crate::cli::term::line::{Hue, Line, cut_name};
use crate::cli::term::screen::{self, Size};

/// Cells between two columns.
const GAP: usize = 2;
/// How many of the last digits of a job's id stand for it, which commands take in place of the whole.
const ID_TAIL: usize = 8;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    heading: &'static str,
    fit: Fit,
    is_number: bool,
}

/// What happens to a column where the screen is too narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// Nothing.
    Whole,
    /// It is left out; those of the lowest rank first.
    Optional(u8),
    /// It shows the last digits of an id.
    Id,
    /// It is cut as a name, to no fewer than so many cells.
    Name(usize),
    /// It is cut at its end, to no fewer than so many cells.
    End(usize),
}

impl Column {
    fn new(heading: &'static str, fit: Fit) -> Column {
        Column { heading, fit, is_number: false }
    }

    /// A column that always stands whole.
    pub(crate) fn whole(heading: &'static str) -> Column {
        Column::new(heading, Fit::Whole)
    }

    /// A column that is left out where there is no room; those of the lowest rank first.
    pub(crate) fn optional(heading: &'static str, rank: u8) -> Column {
        Column::new(heading, Fit::Optional(rank))
    }

    /// A column of ids, which shrink to their last digits.
    pub(crate) fn id(heading: &'static str) -> Column {
        Column::new(heading, Fit::Id)
    }

    /// A column of names or URLs, of which their ends are kept.
    pub(crate) fn name(heading: &'static str, least: usize) -> Column {
        Column::new(heading, Fit::Name(least))
    }

    /// A column of text, which is cut at its end.
    pub(crate) fn text(heading: &'static str, least: usize) -> Column {
        Column::new(heading, Fit::End(least))
    }

    /// The same column with its cells flushed right.
    pub(crate) fn number(self) -> Column {
        Column { is_number: true, ..self }
    }

    /// The cells that it needs at least, of the `wanted` that it would take.
    fn least(self, wanted: usize) -> usize {
        match self.fit {
            Fit::Whole | Fit::Optional(_) => wanted,
            Fit::Id => wanted.min(ID_TAIL),
            Fit::Name(least) | Fit::End(least) => wanted.min(least),
        }
    }

    fn cell(self, cell: &Line, width: usize) -> Line {
        let cell = match self.fit {
            _ if cell.width() <= width => cell.clone(),
            // Digits of an id that can be typed, so no mark of the cut.
            Fit::Id => {
                let text = cell.text();
                let skipped = text.chars().count().saturating_sub(width);
                Line::from(text.chars().skip(skipped).collect::<String>())
            }
            Fit::Name(_) => Line::from(cut_name(&cell.text(), width)),
            _ => cell.clone().cut(width),
        };
        if self.is_number { cell.flushed_right(width) } else { cell.padded(width) }
    }
}

/// A row: its cells, and a remark that has a line of its own on a screen and else is the last column.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) cells: Vec<Line>,
    pub(crate) remark: String,
}

impl Row {
    /// A row without a remark.
    pub(crate) fn of(cells: Vec<Line>) -> Row {
        Row { cells, remark: String::new() }
    }
}

/// Prints rows under their headings.
pub(crate) fn print(columns: &[Column], rows: &[Row]) {
    screen::lines(&layout(columns, rows, screen::stdout_size()));
}

/// The lines of a table, on a screen of `size` or without one.
pub(crate) fn layout(columns: &[Column], rows: &[Row], size: Option<Size>) -> Vec<Line> {
    let Some(size) = size else { return whole(columns, rows) };
    let wanted = |at: usize, column: &Column| {
        let widths = rows.iter().filter_map(|row| row.cells.get(at)).map(Line::width);
        widths.max().filter(|width| *width > 0).map(|width| width.max(column.heading.len()))
    };
    // A column that nothing stands in is noise.
    let shown: Vec<(usize, Column, usize)> = columns
        .iter()
        .enumerate()
        .filter_map(|(at, column)| {
            let width = if rows.is_empty() { Some(column.heading.len()) } else { wanted(at, column) };
            Some((at, *column, width?))
        })
        .collect();
    let fitted = fitted(shown, size.columns);
    let heading = fitted.iter().map(|(_, column, width)| column.cell(&Line::of(Hue::Strong, column.heading), *width));
    let mut lines = vec![joined(heading).cut(size.columns)];
    for row in rows {
        let cells = fitted.iter().map(|(at, column, width)| {
            row.cells.get(*at).map_or_else(|| Line::default().padded(*width), |cell| column.cell(cell, *width))
        });
        lines.push(joined(cells).cut(size.columns));
        if !row.remark.is_empty() {
            let remark = Line::from(" ".repeat(GAP)).with(Hue::Faint, &row.remark);
            lines.extend(remark.folded(size.columns, GAP));
        }
    }
    lines
}

/// The width that each column gets on a screen of `room` cells; columns that have no room are gone.
fn fitted(mut shown: Vec<(usize, Column, usize)>, room: usize) -> Vec<(usize, Column, usize)> {
    let needed = |shown: &[(usize, Column, usize)]| {
        let least: usize = shown.iter().map(|(_, column, width)| column.least(*width)).sum();
        least + GAP * shown.len().saturating_sub(1)
    };
    while needed(&shown) > room {
        let rank = |(_, column, _): &(usize, Column, usize)| match column.fit {
            Fit::Optional(rank) => Some(rank),
            _ => None,
        };
        let lowest = shown.iter().enumerate().filter_map(|(at, column)| rank(column).map(|rank| (rank, at))).min();
        let Some((_, at)) = lowest else { break };
        shown.remove(at);
    }
    let mut spare = room.saturating_sub(needed(&shown));
    let mut widths: Vec<usize> = shown.iter().map(|(_, column, width)| column.least(*width)).collect();
    // The narrowest column that could use a cell gets the next one, so that no long text starves another.
    while spare > 0 {
        let short = |at: &usize| widths[*at] < shown[*at].2 && shown[*at].1.fit != Fit::Id;
        let Some(at) = (0..shown.len()).filter(short).min_by_key(|at| widths[*at]) else { break };
        widths[at] += 1;
        spare -= 1;
    }
    // An id is whole or its tail, and whole only where nothing else is cut for it.
    for (at, (_, column, wanted)) in shown.iter().enumerate() {
        if column.fit == Fit::Id && wanted - widths[at] <= spare {
            spare -= wanted - widths[at];
            widths[at] = *wanted;
        }
    }
    shown.into_iter().zip(widths).map(|((at, column, _), width)| (at, column, width)).collect()
}

/// Every column, as wide as its widest cell.
fn whole(columns: &[Column], rows: &[Row]) -> Vec<Line> {
    let width = |at: usize, column: &Column| {
        let widths = rows.iter().filter_map(|row| row.cells.get(at)).map(Line::width);
        widths.max().unwrap_or(0).max(column.heading.len())
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(|(at, column)| width(at, column)).collect();
    let headings = columns.iter().zip(&widths).map(|(column, width)| column.cell(&Line::from(column.heading), *width));
    let mut lines = vec![joined(headings)];
    for row in rows {
        let cells =
            columns.iter().zip(&widths).zip(&row.cells).map(|((column, width), cell)| column.cell(cell, *width));
        let remark = (!row.remark.is_empty()).then(|| Line::from(row.remark.as_str()));
        lines.push(joined(cells.chain(remark)));
    }
    lines
}

fn joined(cells: impl Iterator<Item = Line>) -> Line {
    let gap = " ".repeat(GAP);
    let mut line = Line::default();
    for (at, cell) in cells.enumerate() {
        line = if at > 0 { line.with(Hue::Plain, &gap).and(cell) } else { cell };
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0198c0de-0000-7000-8000-00001234abcd";

    fn columns() -> Vec<Column> {
        vec![
            Column::id("JOB"),
            Column::whole("STATE"),
            Column::optional("DONE", 2).number(),
            Column::optional("CANCELLED", 1).number(),
            Column::text("TITLE", 6),
        ]
    }

    fn rows(title: &str, remark: &str) -> Vec<Row> {
        let cells = [ID, "running", "140/200", "", title].map(Line::from).to_vec();
        vec![Row { cells, remark: remark.to_owned() }]
    }

    fn text(rows: &[Row], width: Option<usize>) -> String {
        let size = width.map(|columns| Size { columns, rows: 24 });
        layout(&columns(), rows, size).iter().map(|line| line.rendered(false) + "\n").collect()
    }

    #[test]
    fn a_table_degrades_with_its_screen() {
        let rows = rows("nightly images of the north", "`a.example` is paused until 12:03");
        let widths = [None, Some(100), Some(60), Some(40), Some(24), Some(10)];
        insta::assert_snapshot!(widths.map(|width| format!("{width:?}\n{}", text(&rows, width))).join("\n"));
    }

    #[test]
    fn nothing_of_others_moves_the_cursor() {
        let shown = text(&rows("ä\x1b[2J", "x\ny"), None);
        assert!(shown.contains("ä\u{fffd}[2J  x\u{fffd}y\n"), "{shown:?}");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_screen(title in "\\PC{0,60}", remark in "\\PC{0,60}", width in 2usize..120) {
            let size = Some(Size { columns: width, rows: 24 });
            for line in layout(&columns(), &rows(&title, &remark), size) {
                prop_assert!(line.width() <= width, "{width}: {line:?}");
            }
        }
    }
}
