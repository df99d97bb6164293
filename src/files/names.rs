//! Names of files, as decisions over text: which are allowed, what an origin's suggestion becomes, and what comes next
//! when a name is taken. Nothing here touches the disk.

use crate::model::failure::{Failure, FailureReason};
use crate::model::path::{self, is_device};
use crate::model::text::is_misleading;

pub use crate::model::path::{NAME_BYTES_MAX, OWN_PREFIX};

/// What a file is called when neither the origin nor the URL has a name for it.
pub const FALLBACK: &str = "download";

/// Room that a derived name leaves for the ` (12345)` of a renamed one.
const RENAME_ROOM: usize = 15;

/// Splits a path that a client gave into its directory (empty: none) and its name.
///
/// Refuses with `FORBIDDEN_PATH` what is absolute, climbs, is empty in part, holds control or format characters, is too
/// long, or is a reserved name.
pub fn split(path: &str) -> Result<(&str, &str), Failure> {
    check(path)?;
    Ok(path.rsplit_once('/').unwrap_or(("", path)))
}

/// Refuses a relative path that must not be used; see [`split`].
pub fn check(path: &str) -> Result<(), Failure> {
    let Some(why) = path::objection(path) else { return Ok(()) };
    let shown: String = path.chars().take(80).flat_map(char::escape_debug).collect();
    Err(Failure::fatal(FailureReason::ForbiddenPath, format!("the path `{shown}` {why}; choose another path")))
}

/// Makes a name that may be used out of what an origin or a URL suggests; `None` when nothing of it is left.
///
/// Only what follows the last slash or backslash counts, so a suggestion never chooses a directory.
pub fn sanitize(suggestion: &str) -> Option<String> {
    let last = suggestion.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last
        .chars()
        .filter(|char| !is_misleading(*char))
        .map(|char| if matches!(char, '<' | '>' | ':' | '"' | '|' | '?' | '*') { '_' } else { char })
        .collect();
    // A leading dash makes an option of the name.
    let clean = clean.trim_start_matches(|char| is_edge(char) || char == '-').trim_end_matches(is_edge);
    if clean.is_empty() {
        return None;
    }
    let named = if is_device(clean) { format!("_{clean}") } else { clean.to_owned() };
    Some(shorten(&named))
}

/// The name that a URL suggests: its last path segment, percent-decoded.
pub fn from_url(url: &url::Url) -> Option<String> {
    let last = url.path_segments()?.rev().find(|segment| !segment.is_empty())?;
    let bytes = std::borrow::Cow::from(percent_encoding::percent_decode_str(last));
    // What is not UTF-8 is Latin-1, as in headers: two names that differ must not become one.
    let latin1 = || bytes.iter().map(|byte| char::from(*byte)).collect();
    sanitize(&std::str::from_utf8(&bytes).map_or_else(|_| latin1(), str::to_owned))
}

/// The `nth` name to try: `name.ext`, `name (1).ext`, `name (2).ext`, ….
pub fn candidate(name: &str, nth: u32) -> String {
    if nth == 0 {
        return name.to_owned();
    }
    let (stem, extension) = split_extension(name);
    let suffix = format!(" ({nth}){extension}");
    format!("{}{suffix}", cut(stem, NAME_BYTES_MAX.saturating_sub(suffix.len())))
}

/// Whether `key` can be in the name of a part file.
pub fn is_part_key(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !key.is_empty() && key.len() <= 128 && key.bytes().all(plain)
}

fn shorten(name: &str) -> String {
    let most = NAME_BYTES_MAX - RENAME_ROOM;
    if name.len() <= most {
        return name.to_owned();
    }
    let (stem, extension) = split_extension(name);
    // What the cut has brought to an end is trimmed like any end.
    let stem = cut(stem, most - extension.len()).trim_end_matches(is_edge);
    format!("{stem}{extension}")
}

/// A dot or space at an end hides the file, or is dropped by other systems; a leading one could also make `..`.
fn is_edge(char: char) -> bool {
    char.is_whitespace() || char == '.'
}

/// The extension with its dot, `.tar.gz` and the like whole; empty for none, and for what is too long to be one.
fn split_extension(name: &str) -> (&str, &str) {
    let Some(dot) = name.rfind('.').filter(|dot| *dot > 0 && name.len() - dot <= 16) else {
        return (name, "");
    };
    let (stem, extension) = name.split_at(dot);
    match stem.strip_suffix(".tar") {
        Some(inner) if !inner.is_empty() => name.split_at(inner.len()),
        _ => (stem, extension),
    }
}

/// The first `most` bytes of `text`, less what would split a character.
fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_that_are_no_utf8_stay_apart() {
        let name = |text: &str| from_url(&url::Url::parse(text).unwrap()).unwrap();
        assert_eq!([name("http://h/caf%E9.txt"), name("http://h/caf%E8.txt")], ["caf\u{e9}.txt", "caf\u{e8}.txt"]);
        assert_eq!(name("http://h/caf%C3%A9.txt"), "caf\u{e9}.txt");
    }

    #[test]
    fn what_clients_may_not_ask_for() {
        let long_part = "x".repeat(256);
        let long_path = "x/".repeat(1100) + "x";
        let bad = [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            ".",
            "a/.",
            "a\0b",
            "a\nb",
            ".haul-x.part",
            "a/.haul-b",
            "NUL",
            "con.txt",
            "a/COM1.log",
            "lpt9",
            "COM0",
            "com¹.txt",
            "conout$",
            "a\u{202e}b",
            "a/x\u{200b}y",
            "a\u{2028}b",
            &long_part,
            &long_path,
        ];
        for path in bad {
            let failure = check(path).expect_err(path);
            assert_eq!(failure.reason, FailureReason::ForbiddenPath, "{path}");
            assert!(!failure.retryable);
        }
        for path in ["a", "a/b.c", "…/ü", "com10", "console", "a\\b", "..a", " x"] {
            check(path).expect(path);
        }
        assert_eq!(split("a/b/c").unwrap(), ("a/b", "c"));
        assert_eq!(split("c").unwrap(), ("", "c"));
    }

    #[test]
    fn what_suggestions_become() {
        let suggestions = [
            "report.pdf",
            "../../etc/passwd",
            "C:\\dir\\evil.exe",
            "a:b?.txt",
            " .bashrc",
            "..",
            "",
            "nul",
            "con.txt",
            "x\0y\r\n.z",
            "...",
            "ends. ",
            ".haul-1.part",
            "invoice\u{202e}fdp.exe",
            "a\u{2066}b\u{2069}\u{200b}\u{e0041}.txt",
            "שלום.txt",
            "-rf",
            "-- .-x",
            "LPT²",
        ];
        let table: Vec<_> = suggestions.iter().map(|text| format!("{text:?} -> {:?}", sanitize(text))).collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn what_is_cut_ends_as_a_name_may() {
        let most = NAME_BYTES_MAX - RENAME_ROOM;
        for end in [".", " ", ". ."] {
            let name = sanitize(&format!("{}{end}{}", "a".repeat(most - 1), "b".repeat(50))).unwrap();
            assert_eq!(name, "a".repeat(most - 1), "{end:?}");
        }
    }

    #[test]
    fn names_of_urls() {
        let name = |url: &str| from_url(&url.parse().unwrap());
        assert_eq!(name("http://h/a/b.iso?x=/y").as_deref(), Some("b.iso"));
        assert_eq!(name("http://h/a/dir/").as_deref(), Some("dir"));
        assert_eq!(name("http://h/%2e%2e%2fetc%2fpasswd").as_deref(), Some("passwd"));
        assert_eq!(name("http://h/"), None);
    }

    #[test]
    fn names_after_a_taken_one() {
        assert_eq!(candidate("a.txt", 0), "a.txt");
        assert_eq!(candidate("a.txt", 1), "a (1).txt");
        assert_eq!(candidate("a.tar.gz", 12), "a (12).tar.gz");
        assert_eq!(candidate("noext", 2), "noext (2)");
        assert_eq!(candidate(&"é".repeat(127), 1).len(), 254);
    }

    proptest! {
        #[test]
        fn whatever_is_suggested_gives_a_name_that_is_allowed(text in ".{0,300}", nth in 0u32..100_000) {
            if let Some(name) = sanitize(&text) {
                prop_assert!(!name.contains('/'));
                prop_assert!(check(&name).is_ok(), "{name:?}");
                prop_assert!(check(&candidate(&name, nth)).is_ok());
            }
        }
    }
}
