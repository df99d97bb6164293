//! Text that must not be seen.

use std::fmt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroize as _;

use crate::model::header::is_header;

/// What a secret reads as, wherever it is printed.
pub const REDACTED: &str = "REDACTED";

/// A password, token, key or header value. Prints as `REDACTED`; [`Secret::expose`] is the only way to its text.
///
/// Serialising it writes the text, since a task must survive a restart: only the store may serialise.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text in.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the wire and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// What is freed is not left in memory, where a core dump or a swapped page would show it.
impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Names of parameters of a query or a fragment whose values are secret, as [`joined`] writes them. Names that end in `token` or
/// `signature` are too.
const SECRET_PARAMETERS: [&str; 13] = [
    "accesskey",
    "apikey",
    "clientsecret",
    "code",
    "jwt",
    "key",
    "passwd",
    "password",
    "privatekey",
    "secret",
    "sig",
    "xamzcredential",
    "xgoogcredential",
];
/// How such names end.
const SECRET_ENDS: [&str; 2] = ["token", "signature"];

/// Further names, which the operator adds when the process begins.
static FURTHER_PARAMETERS: OnceLock<Vec<String>> = OnceLock::new();

/// Takes the values of these parameters for secret, too. Only the first call in a process counts.
pub fn redact_parameters(names: &[String]) {
    let _ = FURTHER_PARAMETERS.set(names.iter().map(|name| joined(name)).collect());
}

/// Returns a URL as people may see it: its user part, and values of its query and its fragment whose name says that they are
/// secret, read `REDACTED`. The rest stays byte for byte.
pub fn redacted(url: &Url) -> String {
    let mut seen = without_user(url);
    if let Some(query) = url.query().filter(|query| has_secret(query)) {
        seen.set_query(Some(&redacted_pairs(query)));
    }
    if let Some(fragment) = url.fragment().filter(|fragment| has_secret(fragment)) {
        seen.set_fragment(Some(&redacted_pairs(fragment)));
    }
    seen.into()
}

/// Returns the text by which a source of bytes is recognised: the URL without its user part, which may change.
///
/// It is no text for people, since it has all of the query: two queries name two sources.
pub fn source_name(url: &Url) -> String {
    without_user(url).into()
}

fn without_user(url: &Url) -> Url {
    let mut seen = url.clone();
    if !url.username().is_empty() || url.password().is_some() {
        // Both fail only for URLs that cannot have a user part, and those have none.
        let _ = seen.set_password(None);
        let _ = seen.set_username(REDACTED);
    }
    seen
}

/// Returns a name of a parameter in the one form in which all its spellings are compared: `api_key`, `api-key` and `apiKey` are
/// one name.
fn joined(name: &str) -> String {
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    name.chars().filter(|letter| !matches!(letter, '_' | '-')).map(|letter| letter.to_ascii_lowercase()).collect()
}

/// Returns whether the value of a parameter of this name is secret.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let name = joined(name);
    SECRET_PARAMETERS.contains(&name.as_str())
        || SECRET_ENDS.iter().any(|end| name.ends_with(end))
        || FURTHER_PARAMETERS.get().is_some_and(|further| further.contains(&name))
}

/// What ends a name, or the value of a name that is not secret, where only `&` ends the value of one that is: some origins
/// take `;` for `&`, and fragments hold whole queries (`#/path?token=a`).
const SEPARATORS: [char; 2] = [';', '?'];

/// Returns where a secret begins in the text between two `&`: all from there on is one, since most origins end a value at `&`
/// alone.
fn secret_at(text: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let rest = &text[from..];
        let end = rest.find(|letter| letter == '=' || SEPARATORS.contains(&letter))?;
        if rest[end..].starts_with('=') && is_secret_name(&rest[..end]) {
            return Some(from + end + 1);
        }
        from += end + rest[end..].find(SEPARATORS)? + 1;
    }
}

/// Returns whether a query or a fragment holds a secret.
fn has_secret(text: &str) -> bool {
    text.contains('=') && text.split('&').any(|part| secret_at(part).is_some())
}

/// Returns a query or a fragment without its secrets.
fn redacted_pairs(text: &str) -> String {
    let redacted = |part: &str| secret_at(part).map_or_else(|| part.to_owned(), |at| part[..at].to_owned() + REDACTED);
    text.split('&').map(redacted).collect::<Vec<_>>().join("&")
}

/// Returns whether a URL holds `REDACTED` where its secret would be: it was copied from an answer.
pub fn is_redacted(url: &Url) -> bool {
    let of_pairs = |pairs: &str| pairs.split('&').any(|part| secret_at(part).is_some_and(|at| part[at..] == *REDACTED));
    url.username() == REDACTED
        || url.password() == Some(REDACTED)
        || [url.query(), url.fragment()].into_iter().flatten().any(of_pairs)
}

/// Returns whether the text of a URL has, or may have, a user part or a secret in its query or fragment. It is not parsed: a
/// text with an `@` before these is taken to have a user part.
pub fn holds_secret(url: &str) -> bool {
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    place.contains('@') || has_secret(query) || has_secret(fragment)
}

/// As [`redacted`], for text that is meant to be a URL. Other text is hidden whole when it has an `@`, and else shown without
/// what would be secret in the query or the fragment of a URL.
pub fn redacted_text(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if url.has_host() => redacted(&url),
        // `me:pw@nowhere` parses, as a URL of the scheme `me`.
        _ if text.contains('@') => REDACTED.to_owned(),
        // What reads URLs leaves tabs and ends of lines out, wherever they stand.
        _ => {
            let text: String = text.chars().filter(|letter| !matches!(letter, '\t' | '\n' | '\r')).collect();
            text.split_inclusive(['#', '&']).map(redacted_after_names).collect()
        }
    }
}

/// Returns a piece of text up to its `#` or `&` without what stands behind the first secret name in it, whatever is before that.
fn redacted_after_names(piece: &str) -> String {
    let is_of_name = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '%' | '.');
    let (text, end) = piece.split_at(piece.trim_end_matches(['#', '&']).len());
    let secret = text.match_indices('=').find(|(at, _)| {
        let name = text[..*at].rsplit(|letter| !is_of_name(letter)).next();
        name.is_some_and(is_secret_name)
    });
    secret.map_or_else(|| piece.to_owned(), |(at, _)| format!("{}{REDACTED}{end}", &text[..=at]))
}

/// As [`redacted`], for text with URLs in it, relative ones among them, as some headers have.
pub fn redacted_within(text: &str) -> String {
    const BEGINS: [char; 4] = ['?', '&', ';', '#'];
    const ENDS: [char; 7] = ['&', '#', '>', '<', '"', ',', ' '];
    let mut seen = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(BEGINS) {
        let (before, behind) = rest.split_at(at + 1);
        seen += before;
        rest = behind;
        let end = rest.find(|letter| letter == '=' || BEGINS.contains(&letter) || ENDS.contains(&letter));
        if let Some(end) = end.filter(|end| rest[*end..].starts_with('=') && is_secret_name(&rest[..*end])) {
            seen += &rest[..=end];
            seen += REDACTED;
            rest = &rest[end..];
            rest = &rest[rest.find(ENDS).unwrap_or(rest.len())..];
        }
    }
    seen += rest;
    without_users(&seen)
}

/// Hides what stands before an `@` in the authorities of URLs.
fn without_users(text: &str) -> String {
    let mut parts = text.split("//");
    let mut seen = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let authority = &part[..part.find(['/', '?', '#', '>', '"', ' ']).unwrap_or(part.len())];
        let host = authority.rfind('@');
        seen += "//";
        seen += &host.map_or_else(|| part.to_owned(), |at| format!("{REDACTED}{}", &part[at..]));
    }
    seen
}

/// Returns whether a header is secret by its name alone.
pub fn is_secret_header(name: &str) -> bool {
    ["authorization", "cookie", "proxy-authorization", "set-cookie"].iter().any(|secret| is_header(name, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_nothing_of_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "REDACTED REDACTED");
    }

    #[test]
    fn hides_the_user_part_of_a_url() {
        assert_eq!(redacted_text("http://me:pw@example.com/a"), "http://REDACTED@example.com/a");
        assert_eq!(redacted_text("http://example.com/a"), "http://example.com/a");
        assert_eq!(redacted_text("me:pw@nowhere"), "REDACTED");
    }

    #[test]
    fn hides_the_secrets_of_a_query_and_nothing_else() {
        for (url, seen) in [
            ("http://a/x?page=2&token=t&q=a%20b", "http://a/x?page=2&token=REDACTED&q=a%20b"),
            ("http://a/x?X-Amz-Signature=abc&X-Amz-Date=1", "http://a/x?X-Amz-Signature=REDACTED&X-Amz-Date=1"),
            ("http://a/x?access_token=a&%6bey=b#f", "http://a/x?access_token=REDACTED&%6bey=REDACTED#f"),
            (
                "http://a/x?access-token=a&apiKey=b&oauth_signature=c",
                "http://a/x?access-token=REDACTED&apiKey=REDACTED&oauth_signature=REDACTED",
            ),
            ("http://a/x?tokens=1&key&a=b%3Dc&&", "http://a/x?tokens=1&key&a=b%3Dc&&"),
            ("http://a/x#access_token=a&b=%20c", "http://a/x#access_token=REDACTED&b=%20c"),
            ("http://a/x?key=a#/b?token=c", "http://a/x?key=REDACTED#/b?token=REDACTED"),
            ("http://a/x?a=1;token=b;c=2&d=3", "http://a/x?a=1;token=REDACTED&d=3"),
            ("http://a/x?token=b;c&d=3", "http://a/x?token=REDACTED&d=3"),
            ("http://a/x?;;;a=;sig;b=1#L10", "http://a/x?;;;a=;sig;b=1#L10"),
        ] {
            assert_eq!(redacted_text(url), seen);
            assert_eq!(is_redacted(&Url::parse(seen).unwrap()), seen.contains("=REDACTED"));
        }
        assert!(is_redacted(&Url::parse("http://REDACTED@a/").unwrap()));
        for (url, holds) in [
            ("http://a/x?page=2&token=t", true),
            ("http://a/x?%6bey=1#f", true),
            ("http://me:pw@a/", true),
            ("http://a/x?page=2#token=t@", true),
            ("http://a/x?page=2#t@", false),
            ("http://a/x?page=2;token=t", true),
            ("http://a/x", false),
        ] {
            assert_eq!(holds_secret(url), holds, "{url}");
        }
        let source = Url::parse("http://me:pw@a/x?key=1").unwrap();
        assert_eq!(source_name(&source), "http://REDACTED@a/x?key=1");
    }

    #[test]
    fn hides_the_secrets_of_what_is_no_url() {
        for (text, seen) in [
            ("api.example.com/x?token=a&b=c", "api.example.com/x?token=REDACTED&b=c"),
            ("localhost:8080/x?a=1;sig=b#key=c", "localhost:8080/x?a=1;sig=REDACTED#key=REDACTED"),
            ("http://h:99999/?to\tken=a", "http://h:99999/?token=REDACTED"),
            ("//h/x?sig=a", "//h/x?sig=REDACTED"),
            ("token=a", "token=REDACTED"),
            ("foo:token=a", "foo:token=REDACTED"),
            ("http://h/ token=a&b=c", "http://h/%20token=a&b=c"),
            ("http://h x/ api-key=a&b=c#d", "http://h x/ api-key=REDACTED&b=c#d"),
            ("a=b&apiKey=c", "a=b&apiKey=REDACTED"),
            ("h/x?y&token=a@", "REDACTED"),
            ("notaurl", "notaurl"),
        ] {
            assert_eq!(redacted_text(text), seen);
        }
    }

    #[test]
    fn hides_the_secrets_of_urls_within_text() {
        for (text, seen) in [
            ("</x?token=a&b=c>; rel=\"next\"", "</x?token=REDACTED&b=c>; rel=\"next\""),
            ("</x?a=1;token=b;c>; rel=next, </y#sig=d>", "</x?a=1;token=REDACTED>; rel=next, </y#sig=REDACTED>"),
            ("5; url=//me:pw@a/x?b=c", "5; url=//REDACTED@a/x?b=c"),
        ] {
            assert_eq!(redacted_within(text), seen);
        }
    }

    #[test]
    fn a_header_is_secret_however_it_is_written() {
        assert!(["Authorization", "PROXY_authorization", "Set_Cookie"].iter().all(|name| is_secret_header(name)));
        assert!(!is_secret_header("x-cookie"));
    }
}
