//! The file name in a `Content-Disposition` header (RFC 6266, with RFC 8187 for `filename*`).
//!
//! The name is what the origin says, and not yet fit for a file system: making it safe is for whoever writes the file.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

/// Returns the file name that the origin suggests; never empty.
pub fn file_name(headers: &HeaderMap) -> Option<String> {
    headers.get_all(header::CONTENT_DISPOSITION).iter().find_map(|value| parse(value.as_bytes()))
}

/// Reads the value of the header. `filename*` goes before `filename`, as the RFC asks.
pub fn parse(value: &[u8]) -> Option<String> {
    // Headers are bytes. Origins that put a name in there raw mean UTF-8 nowadays, or else Latin-1.
    let text: Cow<'_, str> = match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(latin1(value)),
    };
    let (kind, after) = text.split_once(';').unwrap_or((&text, ""));
    // Some origins leave the type away, or the semicolon behind it: what it has is the last word before the sign.
    let mut rest = match kind.split_once('=') {
        None => after,
        Some((before, _)) => {
            let before = before.trim_end();
            &text[before.rfind([',', ' ', '\t']).map_or(0, |at| at + 1)..]
        }
    };
    let mut plain = None;
    while let Some((name, value)) = rest.split_once('=') {
        let (value, after) = self::value(value.trim_start());
        // A parameter without a value leaves its name before that of the next.
        let name = name.rsplit(';').next().unwrap_or_default().trim();
        if name.eq_ignore_ascii_case("filename*") {
            if let Some(decoded) = extended(&value).filter(|name| !name.is_empty()) {
                return Some(decoded);
            }
        } else if name.eq_ignore_ascii_case("filename") && plain.is_none() {
            plain = Some(value.into_owned());
        }
        rest = after;
    }
    plain.map(|name| decoded_words(&name).unwrap_or(name)).filter(|name| !name.is_empty())
}

/// The text of a name that is written in encoded words, as in the headers of mail (RFC 2047). HTTP has none, but programs
/// that send mail too write them, and browsers read them. `None` where it is anything else.
fn decoded_words(text: &str) -> Option<String> {
    text.split_ascii_whitespace().map(decoded_word).collect::<Option<String>>().filter(|name| !name.is_empty())
}

/// `=?charset?B?base64?=`, or `=?charset?Q?quoted-printable?=`.
fn decoded_word(word: &str) -> Option<String> {
    let mut parts = word.strip_prefix("=?")?.strip_suffix("?=")?.split('?');
    let (charset, coding, text) = (parts.next()?, parts.next()?, parts.next()?);
    let bytes = match (coding, parts.next()) {
        ("B" | "b", None) => STANDARD.decode(text).ok()?,
        // As a URL has it, but for two characters.
        ("Q" | "q", None) => {
            percent_decode_str(&text.replace('%', "%25").replace('=', "%").replace('_', " ")).collect()
        }
        _ => return None,
    };
    in_charset(charset, bytes)
}

/// A token or a quoted string, unescaped, and what follows its semicolon.
fn value(text: &str) -> (Cow<'_, str>, &str) {
    let after_next = |rest: &'_ str| rest.find(';').map_or(rest.len(), |at| at + 1);
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return (Cow::Borrowed(text[..end].trim()), &text[(end + 1).min(text.len())..]);
    };
    let mut unescaped = String::new();
    let mut is_escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            '"' if !is_escaped => {
                let rest = &quoted[at + 1..];
                return (Cow::Owned(unescaped), &rest[after_next(rest)..]);
            }
            // A backslash before anything else is one of a path that somebody did not escape.
            '\\' if !is_escaped && quoted[at + 1..].starts_with(['"', '\\']) => is_escaped = true,
            _ => {
                is_escaped = false;
                unescaped.push(c);
            }
        }
    }
    (Cow::Owned(unescaped), "")
}

/// `charset'language'percent-encoded`, in the two charsets that are used.
fn extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    in_charset(charset, percent_decode_str(encoded).collect())
}

fn in_charset(charset: &str, bytes: Vec<u8>) -> Option<String> {
    // ASCII is a part of UTF-8.
    if ["utf-8", "utf8", "us-ascii"].iter().any(|own| charset.eq_ignore_ascii_case(own)) {
        String::from_utf8(bytes).ok()
    } else if charset.eq_ignore_ascii_case("iso-8859-1") {
        Some(latin1(&bytes))
    } else {
        None
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(value: &str) -> Option<String> {
        parse(value.as_bytes())
    }

    #[test]
    fn reads_every_form() {
        assert_eq!(name("attachment; filename=a.txt").as_deref(), Some("a.txt"));
        assert_eq!(name(r#"attachment; filename="a \"b\"; c.txt"; size=3"#).as_deref(), Some("a \"b\"; c.txt"));
        assert_eq!(name("inline; FileName = a.txt ;x=y").as_deref(), Some("a.txt"));
        assert_eq!(name("attachment; filename=x; filename*=UTF-8'en'%e2%82%ac%20x").as_deref(), Some("€ x"));
        assert_eq!(name("attachment; filename*=utf-8''%e2; filename=\"x\"").as_deref(), Some("x"), "not UTF-8");
        assert_eq!(name("attachment; filename*=iso-8859-1''%e9").as_deref(), Some("é"));
        assert_eq!(name("attachment; filename=\"é\"").as_deref(), Some("é"));
        assert_eq!(parse(b"attachment; filename=\"\xe9\"").as_deref(), Some("é"));
        assert_eq!(name("attachment; flag; filename=a").as_deref(), Some("a"));
        assert_eq!(name("attachment; filename=\"../../etc/passwd\"").as_deref(), Some("../../etc/passwd"), "as it is");
        assert_eq!(name("filename=\"a;b.txt\"; size=3").as_deref(), Some("a;b.txt"), "without a type");
        assert_eq!(name(r#"attachment; filename="C:\dir\a.txt""#).as_deref(), Some(r"C:\dir\a.txt"));
        assert_eq!(name(r#"attachment; filename="\\host\\a.txt""#).as_deref(), Some(r"\host\a.txt"));
        for (words, text) in [
            ("=?UTF-8?B?w6kudHh0?=", "é.txt"),
            ("=?utf-8?q?=C3=A9_100%25.txt?=", "é 100%25.txt"),
            ("=?ISO-8859-1?Q?=E9?= =?UTF-8?B?w6kudHh0?=", "éé.txt"),
            ("=?UTF-8?B?w6k", "=?UTF-8?B?w6k"),
            ("=?koi8-r?B?w6k=?=", "=?koi8-r?B?w6k=?="),
            ("a =?UTF-8?B?w6k=?=", "a =?UTF-8?B?w6k=?="),
        ] {
            assert_eq!(name(&format!("attachment; filename=\"{words}\"")).as_deref(), Some(text), "{words}");
        }
        for odd in
            ["attachment, filename=\"a;b.txt\"", "attachment filename = \"a;b.txt\" ; x=y", " filename=\"a;b.txt\""]
        {
            assert_eq!(name(odd).as_deref(), Some("a;b.txt"), "{odd}");
        }
        assert_eq!(name("attachment; filename*=UTF8''a%20b").as_deref(), Some("a b"));
        assert_eq!(name("attachment; filename*=us-ascii''a%20b").as_deref(), Some("a b"));
        for none in ["", "attachment", "attachment;", "attachment; filename=", "filename=", "attachment; xfilename=y"] {
            assert_eq!(name(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&value);
        }

        #[test]
        fn never_panics_on_what_looks_like_one(value in r#"a;([;="'%* \\é]|filename|utf-8|e2){0,30}"#) {
            let _ = name(&value);
        }

        #[test]
        fn quoting_is_undone(given in "[^\\x00-\\x1f\\x7f]{1,30}") {
            let quoted = given.replace('\\', r"\\").replace('"', "\\\"");
            prop_assert_eq!(name(&format!("attachment; filename=\"{quoted}\"")), Some(given));
        }
    }
}
