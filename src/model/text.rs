//! Text of others, made harmless before a person or a terminal reads it.
//!
//! Titles, names, messages of origins and answers of a server may hold characters that a terminal obeys, that turn the
//! direction of what follows, or that cannot be seen. Everything that prints such text passes it through here.

use std::borrow::Cow;

/// Joins or separates letters of many scripts and is invisible: harmless only where it stands between such letters.
const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];

/// The most bytes of a value that an error repeats.
const SHOWN_BYTES_MAX: usize = 128;

/// Returns whether a character controls a terminal, changes the direction of text, breaks a line, or is invisible.
///
/// These are the Unicode categories Cc, Cf, Zl and Zp and the ignorable characters, without the variation selectors that
/// emoji use.
pub fn is_misleading(letter: char) -> bool {
    matches!(letter,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}'
        | '\u{70f}' | '\u{890}' | '\u{891}' | '\u{8e2}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Returns the text as one harmless line: each misleading character reads U+FFFD.
pub fn plain(text: &str) -> Cow<'_, str> {
    replaced(text, |_| false)
}

/// As [`plain`], with the line ends and tabs of the text kept.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    replaced(text, |letter| letter == '\n' || letter == '\t')
}

/// As [`plain`], with the colour sequences kept that a formatter of ours wrote (`ESC [ digits m`), which colour and
/// nothing else.
pub fn plain_coloured(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        let (before, sequence) = rest.split_at(at);
        out.push_str(&plain(before));
        let digits = sequence[1..].strip_prefix('[').and_then(|body| {
            let end = body.find(|letter: char| !letter.is_ascii_digit() && letter != ';')?;
            body[end..].starts_with('m').then_some(end)
        });
        // ESC, `[`, the digits and `m`; a lone ESC is replaced.
        let length = digits.map_or(1, |digits| digits + 3);
        out.push_str(&if digits.is_some() { Cow::Borrowed(&sequence[..length]) } else { plain(&sequence[..length]) });
        rest = &sequence[length..];
    }
    out.push_str(&plain(rest));
    out
}

/// Returns a JSON document with each misleading character escaped, which leaves its value as it is.
pub fn json_escaped(document: &str) -> Cow<'_, str> {
    if !document.contains(is_misleading) {
        return Cow::Borrowed(document);
    }
    let mut out = String::with_capacity(document.len() + 16);
    for letter in document.chars() {
        if is_misleading(letter) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(letter);
        }
    }
    Cow::Owned(out)
}

/// Returns `text` for an error: at most 128 bytes, with characters escaped that cannot be seen.
pub fn shown(text: &str) -> String {
    cut(text.chars().flat_map(escaped), SHOWN_BYTES_MAX)
}

/// The most bytes of a quoted part of a message: more than a path of most.
const QUOTED_BYTES_MAX: usize = 400;

/// Returns a message as one line: what it quotes is cut where it is long, and characters that cannot be seen are escaped, so that a
/// value cannot pass for a line of its own.
pub fn message(text: &str) -> String {
    let parts: Vec<String> = text
        .split('`')
        .enumerate()
        .map(|(at, part)| {
            let bytes_max = if at % 2 == 1 { QUOTED_BYTES_MAX } else { usize::MAX };
            cut(part.chars().flat_map(escaped), bytes_max)
        })
        .collect();
    parts.join("`")
}

fn escaped(letter: char) -> impl Iterator<Item = char> {
    let hidden = is_misleading(letter).then(|| letter.escape_default());
    let visible = hidden.is_none().then_some(letter);
    hidden.into_iter().flatten().chain(visible)
}

/// Returns the first letters of a text, at most `bytes_max` with the ellipsis that stands for the rest.
pub fn cut(letters: impl Iterator<Item = char>, bytes_max: usize) -> String {
    const ELLIPSIS: char = '…';
    let mut text = String::new();
    let mut room_for_ellipsis = 0;
    for letter in letters {
        if text.len() + letter.len_utf8() > bytes_max {
            text.truncate(room_for_ellipsis);
            text.push(ELLIPSIS);
            return text;
        }
        text.push(letter);
        if text.len() + ELLIPSIS.len_utf8() <= bytes_max {
            room_for_ellipsis = text.len();
        }
    }
    text
}

fn replaced(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(|letter| is_misleading(letter) && !keep(letter)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    let mut before = None;
    while let Some(letter) = letters.next() {
        let joins = |other: Option<char>| other.is_some_and(|other| !other.is_ascii() && !is_misleading(other));
        let is_joiner = JOINERS.contains(&letter) && joins(before) && joins(letters.peek().copied());
        let stays = is_joiner || keep(letter) || !is_misleading(letter);
        out.push(if stays { letter } else { char::REPLACEMENT_CHARACTER });
        before = Some(letter);
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor_or_turns_the_line() {
        for hostile in
            ["\x1b[2J", "\u{9b}31m", "\u{202e}gpj", "a\rb", "\x07", "\x7f", "a\u{2028}b", "\u{200b}", "\u{e0041}"]
        {
            let clean = plain(hostile);
            assert!(!clean.contains(is_misleading) && clean.contains('\u{fffd}'), "{hostile:?} {clean:?}");
        }
        assert_eq!(plain("a\nb"), "a\u{fffd}b");
        assert_eq!(plain_lines("a\n\tb\r"), "a\n\tb\u{fffd}");
        assert!(matches!(plain("München 日本 👍\u{fe0f}"), Cow::Borrowed(_)));
    }

    #[test]
    fn joiners_stay_where_they_join() {
        for good in ["می\u{200c}خواهم", "👩\u{200d}💻"] {
            assert_eq!(plain(good), good);
        }
        for bad in ["pay\u{200d}pal", "\u{200c}é", "é\u{200d}", "é\u{200d}\u{200d}é"] {
            assert!(plain(bad).contains('\u{fffd}'), "{bad:?}");
        }
    }

    #[test]
    fn only_colours_pass() {
        assert_eq!(plain_coloured("\x1b[2m12:00\x1b[0m \x1b[1;31mx"), "\x1b[2m12:00\x1b[0m \x1b[1;31mx");
        assert_eq!(plain_coloured("\x1b[2J\x1b]0;t\x07\x1b"), "\u{fffd}[2J\u{fffd}]0;t\u{fffd}\u{fffd}");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({"a": "\u{9b}\u{202e}\u{e0041}\x7f é"});
        let escaped = json_escaped(&value.to_string()).into_owned();
        assert!(!escaped.contains(is_misleading));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn a_message_is_one_line_and_its_values_are_cut() {
        assert_eq!(message("`listen` is `a\nb`; correct it"), "`listen` is `a\\nb`; correct it");
        let long = message(&format!("`listen` is `{}`; correct it", "x".repeat(10_000)));
        assert!(long.len() < 500 && long.ends_with("…`; correct it"), "{long}");
    }

    #[test]
    fn a_cut_text_is_whole_letters_and_says_that_it_was_cut() {
        assert_eq!(shown("plain"), "plain");
        assert_eq!(shown("a\nb"), "a\\nb");
        let long = shown(&"ü".repeat(100));
        assert!(long.len() <= SHOWN_BYTES_MAX && long.ends_with('…'), "{long}");
        assert_eq!(shown(&"x".repeat(128)).len(), 128);
        assert_eq!(shown(&"x".repeat(129)), format!("{}…", "x".repeat(125)));
    }
}
