//! The lines at the bottom of the screen that are drawn again and again, while what is printed scrolls above them.

use crate::cli::term::line::Line;
use crate::cli::term::screen::{self, Size};

/// The drawn lines. Dropping it takes them off the screen.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// The width of each line on the screen, from the top.
    drawn: Vec<usize>,
    /// The columns of the screen that they were drawn on.
    columns: usize,
}

impl Live {
    /// Draws these lines in place of the last ones.
    pub(crate) fn draw(&mut self, lines: Vec<Line>, size: Size) {
        let colours = screen::has_stderr_colours();
        let lines: Vec<Line> = lines.into_iter().map(|line| line.cut(size.columns.saturating_sub(1))).collect();
        let mut out = self.back(size.columns);
        for line in &lines {
            // What is left of a longer line goes with it, without the flicker of an empty screen.
            out.push_str(&format!("{}\x1b[K\n", line.rendered(colours)));
        }
        out.push_str("\x1b[J");
        screen::draw(&out);
        self.drawn = lines.iter().map(Line::width).collect();
        self.columns = size.columns;
    }

    /// Takes the lines off the screen, so that something can be printed above them.
    pub(crate) fn clear(&mut self) {
        if !self.drawn.is_empty() {
            let columns = screen::stderr_size().map_or(self.columns, |size| size.columns);
            screen::draw(&format!("{}\x1b[J", self.back(columns)));
            self.drawn.clear();
        }
    }

    /// The sequence that moves the cursor to the first of the lines. On a screen that became narrower they wrapped.
    fn back(&self, columns: usize) -> String {
        let columns = columns.max(1);
        let rows: usize = self.drawn.iter().map(|width| width.div_ceil(columns).max(1)).sum();
        if rows == 0 { "\r".to_owned() } else { format!("\r\x1b[{rows}A") }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.clear();
    }
}
