//! A line of text in pieces, each with its colour; measured in the cells of a terminal.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::model::text;

/// What stands where text was cut off.
const CUT: &str = "…";

/// The role of a piece of text, which decides its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hue {
    /// As the terminal shows text.
    #[default]
    Plain,
    /// A heading, or what matters most.
    Strong,
    /// What matters least.
    Faint,
    /// It succeeded.
    Good,
    /// It waits, or needs a look.
    Warn,
    /// It failed.
    Bad,
}

impl Hue {
    /// The sequence that switches the colour on; empty for none.
    fn sequence(self) -> &'static str {
        match self {
            Hue::Plain => "",
            Hue::Strong => "\x1b[1m",
            Hue::Faint => "\x1b[2m",
            Hue::Good => "\x1b[32m",
            Hue::Warn => "\x1b[33m",
            Hue::Bad => "\x1b[31m",
        }
    }
}

/// One line. Its text is harmless: what would move the cursor or mislead the eye is replaced when a piece is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line(Vec<(Hue, String)>);

impl From<&str> for Line {
    fn from(text: &str) -> Line {
        Line::default().with(Hue::Plain, text)
    }
}

impl From<String> for Line {
    fn from(text: String) -> Line {
        Line::from(text.as_str())
    }
}

impl Line {
    /// A line of one piece.
    pub(crate) fn of(hue: Hue, text: &str) -> Line {
        Line::default().with(hue, text)
    }

    /// Adds a piece.
    #[must_use]
    pub(crate) fn with(mut self, hue: Hue, text: &str) -> Line {
        if !text.is_empty() {
            self.0.push((hue, text::plain(text).into_owned()));
        }
        self
    }

    /// Adds the pieces of another line.
    #[must_use]
    pub(crate) fn and(mut self, other: Line) -> Line {
        self.0.extend(other.0);
        self
    }

    /// Adds spaces until the line is `width` cells wide.
    #[must_use]
    pub(crate) fn padded(self, width: usize) -> Line {
        let missing = width.saturating_sub(self.width());
        self.with(Hue::Plain, &" ".repeat(missing))
    }

    /// Puts spaces in front until the line is `width` cells wide.
    #[must_use]
    pub(crate) fn flushed_right(self, width: usize) -> Line {
        let missing = width.saturating_sub(self.width());
        Line::from(" ".repeat(missing)).and(self)
    }

    /// How many cells of a terminal the line takes.
    pub(crate) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.width()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text without colours.
    pub(crate) fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// The line in at most `width` cells, its end cut off where it is longer.
    #[must_use]
    pub(crate) fn cut(self, width: usize) -> Line {
        if self.width() <= width {
            return self;
        }
        let mut left = width.saturating_sub(CUT.width());
        let mut cut = Line::default();
        for (hue, text) in self.0 {
            let head = head(&text, left);
            left -= head.width();
            let is_cut = head.len() < text.len();
            cut.0.push((hue, head.to_owned()));
            if is_cut {
                break;
            }
        }
        if width > 0 { cut.with(Hue::Faint, CUT) } else { Line::default() }
    }

    /// What is written: the text, with sequences for its colours if `colours`, and without spaces at its end.
    pub(crate) fn rendered(&self, colours: bool) -> String {
        let mut out = String::new();
        for (hue, text) in &self.0 {
            let sequence = if colours { hue.sequence() } else { "" };
            let reset = if sequence.is_empty() { "" } else { "\x1b[0m" };
            out.push_str(&format!("{sequence}{text}{reset}"));
        }
        out.truncate(out.trim_end_matches(' ').len());
        out
    }
}

/// Text in at most `width` cells, its middle cut out where it is longer: names and URLs differ at their ends.
pub(crate) fn cut_middle(text: &str, width: usize) -> String {
    let text = text::plain(text);
    if text.width() <= width {
        return text.into_owned();
    }
    let Some(room) = width.checked_sub(CUT.width()) else { return String::new() };
    let front = head(&text, room / 2);
    let back = tail(&text, room - front.width());
    format!("{front}{CUT}{back}")
}

/// Splits text into lines of at most `width` cells, at spaces where there are any.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word;
        let line = lines.last_mut().map(|line| (line.width(), line));
        if let Some((filled, line)) = line
            && (filled == 0 || filled + 1 + word.width() <= width)
        {
            if filled > 0 {
                line.push(' ');
            }
            let fits = head(word, width.max(1));
            line.push_str(fits);
            word = &word[fits.len()..];
            if word.is_empty() {
                continue;
            }
        }
        while !word.is_empty() {
            // A character that is wider than the screen would never fit.
            let fits = head(word, width.max(2));
            lines.push(fits.to_owned());
            word = &word[fits.len()..];
        }
    }
    lines
}

/// The first characters that fit into `width` cells.
fn head(text: &str, width: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, letter)| {
        used += letter.width().unwrap_or(0);
        used > width
    });
    end.map_or(text, |(at, _)| &text[..at])
}

/// The last characters that fit into `width` cells.
fn tail(text: &str, width: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().rev().find(|(_, letter)| {
        used += letter.width().unwrap_or(0);
        used > width
    });
    end.map_or(text, |(at, letter)| &text[at + letter.len_utf8()..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cuts_are_marked_and_fit() {
        assert_eq!(Line::from("hello").cut(5).text(), "hello");
        assert_eq!(Line::from("hello").with(Hue::Bad, " world").cut(8).text(), "hello w…");
        assert_eq!(cut_middle("archive-2026-11-26.tar.gz", 12), "archi…tar.gz");
        assert_eq!(cut_middle("日本語日本語", 7), "日…本語");
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("http://a.example/very/long x", 10), ["http://a.e", "xample/ver", "y/long x"]);
    }

    #[test]
    fn colours_are_for_those_who_want_them() {
        let line = Line::of(Hue::Good, "done").with(Hue::Plain, " \x1b[2J");
        assert_eq!(line.rendered(true), "\x1b[32mdone\x1b[0m \u{fffd}[2J");
        assert_eq!(line.rendered(false), "done \u{fffd}[2J");
        assert_eq!(Line::from("a").padded(4).rendered(false), "a");
    }

    proptest! {
        #[test]
        fn no_text_exceeds_its_room(text in "\\PC{0,40}", width in 0usize..30) {
            prop_assert!(Line::from(text.as_str()).cut(width).width() <= width);
            prop_assert!(cut_middle(&text, width).width() <= width);
            for line in wrapped(&text, width.max(2)) {
                prop_assert!(line.width() <= width.max(2), "{line:?}");
            }
        }
    }
}
