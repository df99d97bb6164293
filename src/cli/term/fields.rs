//! Names and values in two columns.

use crate::cli::term::line::{Hue, Line};
use crate::cli::term::screen;

/// Prints names and values in two columns, a value that is wider than the screen on several lines.
pub(crate) fn print_fields(fields: &[(&str, Line)]) {
    let shown: Vec<&(&str, Line)> = fields.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = shown.iter().map(|(name, _)| name.len() + 2).max().unwrap_or_default();
    let room = screen::stdout_size().map_or(usize::MAX, |size| size.columns.saturating_sub(width).max(10));
    let mut lines = Vec::new();
    for (name, value) in shown {
        let name = Line::of(Hue::Faint, name).padded(width);
        for (at, part) in value.folded(room, 0).into_iter().enumerate() {
            let front = if at == 0 { name.clone() } else { Line::default().padded(width) };
            lines.push(front.and(part));
        }
    }
    screen::lines(&lines);
}
