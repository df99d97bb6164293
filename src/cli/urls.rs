//! URLs as people type them.

use url::Url;

use crate::model::host::is_named;
use crate::model::secret;
use crate::model::text::{is_misleading, shown};

/// Reads the URL of a task. The error says what is wrong with it and what may have been meant.
pub(crate) fn read(text: &str) -> Result<Url, String> {
    let typed = shown(&secret::redacted_text(text));
    if let Some(letter) = text.chars().find(|letter| is_misleading(*letter)) {
        let code = u32::from(letter);
        return Err(format!(
            "`{typed}` has the invisible or control character U+{code:04X}; remove it, or percent-encode it"
        ));
    }
    let is_separate = |rest: &str| ["http://", "https://"].iter().any(|scheme| rest.starts_with(scheme));
    if text.split_whitespace().skip(1).any(is_separate) {
        return Err(format!("`{typed}` holds more than one URL; write each on a line of its own"));
    }
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => {
            return if url.has_host() && is_named(text) {
                Ok(url)
            } else {
                // What was parsed names one, and is not what was typed.
                let scheme = shown(url.scheme());
                Err(format!(
                    "the URL does not name a host after `{scheme}://`; write it like `https://example.com/file`"
                ))
            };
        }
        parsed => parsed,
    };
    if let Some(meant) = with_scheme(text) {
        return Err(format!("`{typed}` is not a URL; did you mean `{meant}`?"));
    }
    Err(match url {
        Ok(url) if text.contains("://") => {
            let scheme = shown(url.scheme());
            format!("`{typed}` has the scheme `{scheme}`, and only http and https URLs can be fetched")
        }
        Err(error) if error != url::ParseError::RelativeUrlWithoutBase => {
            format!("`{typed}` is not a URL ({error}); write it like `https://example.com/file`")
        }
        _ => format!("`{typed}` is not a URL; write it like `https://example.com/file`"),
    })
}

/// The URL that a text without a scheme may have meant: one that begins with a name that has a dot, with `localhost` or
/// with an address.
fn with_scheme(text: &str) -> Option<String> {
    if text.contains("://") || text.contains('@') {
        return None;
    }
    let host = text.split(['/', '?', '#']).next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_local = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok() || name.starts_with('[');
    if !is_local && !name.trim_matches('.').contains('.') {
        return None;
    }
    let scheme = if is_local { "http" } else { "https" };
    let url = Url::parse(&format!("{scheme}://{text}")).ok()?;
    Some(secret::redacted(&url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_suggested() {
        for (text, meant) in [
            ("example.com/x", "https://example.com/x"),
            ("example.com:8443/x", "https://example.com:8443/x"),
            ("localhost:8000/a b", "http://localhost:8000/a%20b"),
            ("127.0.0.1:80", "http://127.0.0.1/"),
            ("[::1]:80/", "http://[::1]/"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(&format!("did you mean `{meant}`?")), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("notaurl", "write it like `https://"),
            ("", "write it like"),
            ("ftp://a/x", "the scheme `ftp`"),
            ("http://", "empty host"),
            ("http:///x", "does not name a host"),
            ("https:a", "does not name a host"),
            ("http://a/\u{202e}x", "U+202E"),
            ("http://a/\tb", "U+0009"),
            ("http://a/ http://b/", "more than one URL"),
            ("me:pw@nowhere", "`REDACTED` is not a URL"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        for text in [
            "api.example.com/x?token=hidden",
            "localhost:8080/x?token=hidden",
            "http://h:99999/?token=hidden",
            "http://[::x]/?token=hidden",
            "//h/x?sig=hidden",
            "http://h/?token=hidden\u{7}",
            "http://h/ http://h/#token=hidden",
            "ftp://h/?a=1;token=hidden",
            "h?a=b&hidden@h",
        ] {
            let error = read(text).unwrap_err();
            assert!(!error.contains("hidden"), "{text}: {error}");
        }
        let long = read(&"\u{0}".repeat(60_000)).unwrap_err();
        assert!(long.len() < 300, "{long}");
        for good in ["http://a/ü c.txt", "https://a.example:1/x#y", "HTTP://a/", "http://[::1]/"] {
            assert!(read(good).is_ok(), "{good}");
        }
    }
}
