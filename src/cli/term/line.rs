//! A line of text in pieces, each with its colour; measured in the cells of a terminal.

use std::ops::Range;

use unicode_width::UnicodeWidthStr as _;

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

    /// The pieces, each with its colour.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (Hue, &str)> {
        self.0.iter().map(|(hue, text)| (*hue, text.as_str()))
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

    /// The line in lines of at most `width` cells. All but the first begin with `indent` spaces.
    pub(crate) fn folded(&self, width: usize, indent: usize) -> Vec<Line> {
        // The widest character takes three cells.
        let indent = if width < indent + 3 { 0 } else { indent };
        let breaks = breaks(&self.text(), width, width - indent);
        let line = |(at, range): (usize, &Range<usize>)| {
            let front = Line::from(" ".repeat(if at > 0 { indent } else { 0 }));
            front.and(self.slice(range))
        };
        breaks.iter().enumerate().map(line).collect()
    }

    /// The pieces of the text between two places.
    fn slice(&self, range: &Range<usize>) -> Line {
        let (mut slice, mut start) = (Line::default(), 0);
        for (hue, text) in &self.0 {
            let (from, to) = (range.start.clamp(start, start + text.len()), range.end.clamp(start, start + text.len()));
            if from < to {
                slice.0.push((*hue, text[from - start..to - start].to_owned()));
            }
            start += text.len();
        }
        slice
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

/// Returns text in at most `width` cells, its middle cut out where it is longer: names differ at their ends.
fn cut_middle(text: &str, width: usize) -> String {
    let text = text::plain(text);
    if text.width() <= width {
        return text.into_owned();
    }
    let Some(room) = width.checked_sub(CUT.width()) else { return String::new() };
    let front = head(&text, room / 2);
    let back = tail(&text, room - front.width());
    format!("{front}{CUT}{back}")
}

/// Returns a name or a URL in at most `width` cells. Of a URL the end is kept, which names the file: its scheme goes first,
/// then what stands before the last part of its path.
pub(crate) fn cut_name(text: &str, width: usize) -> String {
    let text = text::plain(text);
    let Some((_, rest)) = text.split_once("://").filter(|_| text.width() > width) else {
        return cut_middle(&text, width);
    };
    let name = rest.rsplit('/').find(|part| !part.is_empty()).unwrap_or(rest);
    if rest.width() <= width {
        rest.to_owned()
    } else if name.width() + CUT.width() < width {
        format!("{CUT}{}", tail(rest, width - CUT.width()))
    } else {
        cut_middle(name, width)
    }
}

/// Where text is broken into lines of at most `width` cells: at spaces, which are left out, and within a word only where the
/// word alone is wider. The first line is at most `first` cells wide.
fn breaks(text: &str, first: usize, width: usize) -> Vec<Range<usize>> {
    let (mut lines, mut start) = (Vec::new(), 0);
    loop {
        let rest = &text[start..];
        let room = if start == 0 { first } else { width };
        if rest.width() <= room {
            lines.push(start..text.len());
            return lines;
        }
        // A character that is wider than the screen would never fit.
        let one = rest.chars().next().map_or(0, char::len_utf8);
        let fits = head(rest, room).len().max(one);
        let space = if rest[fits..].starts_with(' ') { Some(fits) } else { rest[..fits].rfind(' ') };
        let end = space.filter(|end| !rest[..*end].trim().is_empty()).unwrap_or(fits);
        lines.push(start..start + end);
        start += end + (rest[end..].len() - rest[end..].trim_start_matches(' ').len());
    }
}

/// The first characters that fit into `width` cells. They are measured together: some take another width beside others than
/// alone.
fn head(text: &str, width: usize) -> &str {
    let end = text.char_indices().find(|(at, letter)| text[..at + letter.len_utf8()].width() > width);
    end.map_or(text, |(at, _)| &text[..at])
}

/// The last characters that fit into `width` cells.
fn tail(text: &str, width: usize) -> &str {
    let end = text.char_indices().rev().find(|(at, _)| text[*at..].width() > width);
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
    }

    #[test]
    fn of_a_url_the_name_is_kept() {
        let url = "https://cdn.example.com/pool/debian-13.iso";
        let cuts = [42, 40, 25, 15, 10].map(|width| cut_name(url, width));
        let expected =
            [url, "cdn.example.com/pool/debian-13.iso", "…e.com/pool/debian-13.iso", "…/debian-13.iso", "debi…3.iso"];
        assert_eq!(cuts, expected);
        assert_eq!(cut_name("http://a.example/", 6), "a.…ple");
    }

    #[test]
    fn long_lines_are_folded_at_spaces() {
        let folded = |line: Line, width, indent| {
            line.folded(width, indent).iter().map(|line| line.rendered(true)).collect::<Vec<_>>()
        };
        assert_eq!(folded(Line::from("one two three"), 7, 0), ["one two", "three"]);
        assert_eq!(folded(Line::from("  one two"), 5, 2), ["  one", "  two"]);
        let url = Line::from("http://a.example/very/long x");
        assert_eq!(folded(url, 10, 0), ["http://a.e", "xample/ver", "y/long x"]);
        let coloured = Line::of(Hue::Good, "good and").with(Hue::Plain, " plain");
        assert_eq!(folded(coloured, 6, 1), ["\x1b[32mgood\x1b[0m", " \x1b[32mand\x1b[0m", " plain"]);
        assert_eq!(folded(Line::default(), 0, 2), [""]);
    }

    #[test]
    fn colours_are_for_those_who_want_them() {
        let line = Line::of(Hue::Good, "done").with(Hue::Plain, " \x1b[2J");
        assert_eq!(line.rendered(true), "\x1b[32mdone\x1b[0m \u{fffd}[2J");
        assert_eq!(line.rendered(false), "done \u{fffd}[2J");
        assert_eq!(Line::from("a").padded(4).rendered(false), "a");
    }

    /// U+17D8 has no width alone, and three cells in a text.
    #[test]
    fn characters_are_measured_in_their_text() {
        let text = "a\u{17d8}b";
        assert_eq!(text.width(), 5);
        assert_eq!(Line::from(text).cut(3).text(), "a…");
        assert_eq!(cut_middle(text, 3), "a…b");
        assert!(Line::from(text).folded(4, 2).iter().all(|line| line.width() <= 4));
    }

    proptest! {
        #[test]
        fn no_text_exceeds_its_room(text in "\\PC{0,40}", width in 0usize..30) {
            prop_assert!(Line::from(text.as_str()).cut(width).width() <= width);
            prop_assert!(cut_name(&text, width).width() <= width);
            let url = format!("http://{text}");
            prop_assert!(cut_name(&url, width).width() <= width);
            let width = width.max(4);
            let folded = Line::from(text.as_str()).folded(width, 2);
            prop_assert!(folded.iter().all(|line| line.width() <= width), "{folded:?}");
            let letters = |text: String| text.replace(' ', "");
            let all = folded.iter().map(Line::text).collect::<String>();
            prop_assert_eq!(letters(all), letters(Line::from(text).text()), "nothing is lost");
        }
    }
}
