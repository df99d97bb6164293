//! Text that must not be seen.

use std::fmt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroize as _;

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

/// Names of query parameters whose values are secret, in lower case; names that end in `_token` are too.
const SECRET_PARAMETERS: [&str; 15] = [
    "api_key",
    "client_secret",
    "code",
    "jwt",
    "key",
    "password",
    "secret",
    "sig",
    "signature",
    "token",
    "x-amz-credential",
    "x-amz-security-token",
    "x-amz-signature",
    "x-goog-credential",
    "x-goog-signature",
];

/// Further names, which the operator adds when the process begins.
static FURTHER_PARAMETERS: OnceLock<Vec<String>> = OnceLock::new();

/// Takes the values of these query parameters for secret, too. Only the first call in a process counts.
pub fn redact_parameters(names: &[String]) {
    let _ = FURTHER_PARAMETERS.set(names.iter().map(|name| name.to_ascii_lowercase()).collect());
}

/// Returns a URL as people may see it: its user part, and query values whose name says that they are secret, read
/// `REDACTED`. The rest stays byte for byte.
pub fn redacted(url: &Url) -> String {
    let mut seen = without_user(url);
    if let Some(query) = url.query().filter(|query| query.split('&').any(is_secret_pair)) {
        let pairs: Vec<_> = query.split('&').map(redacted_pair).collect();
        seen.set_query(Some(&pairs.join("&")));
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

fn is_secret_pair(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
    SECRET_PARAMETERS.contains(&name.as_str())
        || name.ends_with("_token")
        || FURTHER_PARAMETERS.get().is_some_and(|further| further.contains(&name))
}

fn redacted_pair(pair: &str) -> String {
    match pair.split_once('=') {
        Some((name, _)) if is_secret_pair(pair) => format!("{name}={REDACTED}"),
        _ => pair.to_owned(),
    }
}

/// Returns whether a URL holds `REDACTED` where its secret would be: it was copied from an answer.
pub fn is_redacted(url: &Url) -> bool {
    let of_query = |query: &str| {
        query.split('&').any(|pair| is_secret_pair(pair) && pair.split_once('=').is_some_and(|it| it.1 == REDACTED))
    };
    url.username() == REDACTED || url.password() == Some(REDACTED) || url.query().is_some_and(of_query)
}

/// Returns whether the text of a URL has, or may have, a user part or a secret in its query. It is not parsed: a text with an
/// `@` before its query is taken to have a user part.
pub fn holds_secret(url: &str) -> bool {
    let url = url.split('#').next().unwrap_or_default();
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    place.contains('@') || (!query.is_empty() && query.split('&').any(is_secret_pair))
}

/// As [`redacted`], for text that is meant to be a URL. Other text is hidden whole when it has an `@`.
pub fn redacted_text(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if url.has_host() => redacted(&url),
        // `me:pw@nowhere` parses, as a URL of the scheme `me`.
        _ if text.contains('@') => REDACTED.to_owned(),
        _ => text.to_owned(),
    }
}

/// As [`redacted`], for text with URLs in it, relative ones among them, as some headers have.
pub fn redacted_within(text: &str) -> String {
    const ENDS: [char; 8] = ['&', '#', '>', '<', '"', ';', ',', ' '];
    let mut seen = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['?', '&']) {
        let (before, pair) = rest.split_at(at + 1);
        let pair = &pair[..pair.find(ENDS).unwrap_or(pair.len())];
        seen += before;
        seen += &redacted_pair(pair);
        rest = &rest[before.len() + pair.len()..];
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
    ["authorization", "cookie", "proxy-authorization", "set-cookie"]
        .iter()
        .any(|secret| name.eq_ignore_ascii_case(secret))
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
            ("http://a/x?tokens=1&key&a=b%3Dc&&", "http://a/x?tokens=1&key&a=b%3Dc&&"),
        ] {
            assert_eq!(redacted_text(url), seen);
            assert_eq!(is_redacted(&Url::parse(seen).unwrap()), seen.contains("=REDACTED"));
        }
        assert!(is_redacted(&Url::parse("http://REDACTED@a/").unwrap()));
        for (url, holds) in [
            ("http://a/x?page=2&token=t", true),
            ("http://a/x?%6bey=1#f", true),
            ("http://me:pw@a/", true),
            ("http://a/x?page=2#token=t@", false),
            ("http://a/x", false),
        ] {
            assert_eq!(holds_secret(url), holds, "{url}");
        }
        let source = Url::parse("http://me:pw@a/x?key=1").unwrap();
        assert_eq!(source_name(&source), "http://REDACTED@a/x?key=1");
    }
}
