//! Text that must not be seen.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

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

/// A URL as people may see it: with the user part, if there is one, replaced.
pub fn redacted(url: &Url) -> String {
    if url.username().is_empty() && url.password().is_none() {
        return url.to_string();
    }
    let mut seen = url.clone();
    // Both fail only for URLs that cannot have a user part, and those have none.
    let _ = seen.set_password(None);
    let _ = seen.set_username(REDACTED);
    seen.to_string()
}

/// As [`redacted`], for text that is meant to be a URL. Text that is none is hidden whole when it has an `@`.
pub fn redacted_text(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if url.has_host() => redacted(&url),
        // `me:pw@nowhere` parses, as a URL of the scheme `me`.
        _ if text.contains('@') => REDACTED.to_owned(),
        _ => text.to_owned(),
    }
}

/// Whether a header is secret by its name alone.
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
}
