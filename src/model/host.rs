//! A host as limits see it.

use std::fmt;

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use url::Url;

/// Host name (or address) and port, whatever the scheme: `example.com:443`, `[::1]:8080`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Host(Arc<str>);

impl Host {
    /// The host that a request to `url` goes to. `None` for a URL without a host.
    pub fn of(url: &Url) -> Option<Host> {
        let port = url.port_or_known_default()?;
        Some(Host(match url.host()? {
            // `example.com.` is `example.com`, said to be complete.
            url::Host::Domain(name) => format!("{}:{port}", name.strip_suffix('.').unwrap_or(name)).into(),
            address => format!("{}:{port}", canonical(address)).into(),
        }))
    }

    /// A host from its `host:port` text.
    pub fn new(text: &str) -> Host {
        Host(text.into())
    }

    /// `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the port.
    pub fn name(&self) -> &str {
        self.0.rsplit_once(':').map_or(&*self.0, |(name, _)| name)
    }
}

/// An address of IPv4 that is written as one of IPv6 (RFC 4291, 2.5.5.2) leads to the same server, which has one limit.
fn canonical<S>(host: url::Host<S>) -> url::Host<S> {
    match host {
        url::Host::Ipv6(address) => address.to_ipv4_mapped().map_or(host, url::Host::Ipv4),
        host => host,
    }
}

/// Returns `host` or `host:port` as [`Host::of`] has it: lower case, IDNA, no final dot; `None` where it is neither.
pub fn normal(text: &str) -> Option<String> {
    // The colons of an address of IPv6 stand in brackets.
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        Some(port) => Some(port.parse::<u16>().ok().filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()))?),
        None => None,
    };
    let host = canonical(url::Host::parse(name).ok()?).to_string();
    let host = host.strip_suffix('.').unwrap_or(&host);
    if host.is_empty() || host.len() > NAME_BYTES_MAX {
        return None;
    }
    Some(port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// The most bytes of the name of a host (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// Returns whether an http or https URL names a host where it is written: not `http:///x` or `http:x`, of which a browser
/// makes `http://x`. Such a URL must be rejected (RFC 9110, 4.2.1); it is what remains of one whose host was left empty.
pub fn is_named(url: &str) -> bool {
    let behind = url.split_once(':').and_then(|(_, rest)| rest.strip_prefix("//"));
    behind.is_some_and(|authority| !authority.is_empty() && !authority.starts_with(['/', '\\', '?', '#']))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_written_as_urls_have_them() {
        for (text, expected) in [
            ("Example.COM", Some("example.com")),
            ("example.com.:443", Some("example.com:443")),
            ("b\u{fc}cher.example", Some("xn--bcher-kva.example")),
            ("[::1]", Some("[::1]")),
            ("[0:0::1]:80", Some("[::1]:80")),
            ("0x7f.1:80", Some("127.0.0.1:80")),
            ("[::ffff:127.0.0.1]:80", Some("127.0.0.1:80")),
            ("", None),
            (":80", None),
            (".", None),
            ("a:https", None),
            ("a:+1", None),
            ("a:70000", None),
            ("a:", None),
            (" a", None),
            ("a/b", None),
            ("u@a", None),
            ("[::1", None),
            ("a\nb", None),
        ] {
            assert_eq!(normal(text).as_deref(), expected, "{text:?}");
        }
        assert_eq!(normal(&"a.".repeat(200)), None);
    }

    #[test]
    fn one_server_is_one_host() {
        for (url, expected) in [
            ("https://Example.com./x", "example.com:443"),
            ("http://127.1:8080", "127.0.0.1:8080"),
            ("http://[::ffff:127.0.0.1]/", "127.0.0.1:80"),
            ("http://[::FFFF:7f00:1]:81", "127.0.0.1:81"),
            ("http://[0::1]", "[::1]:80"),
        ] {
            let host = Host::of(&Url::parse(url).unwrap()).unwrap();
            assert_eq!(host.as_str(), expected, "{url}");
            assert_eq!(normal(host.as_str()).as_deref(), Some(expected));
        }
        assert_eq!(Host::of(&Url::parse("data:x").unwrap()), None);
    }

    #[test]
    fn a_host_is_named_where_it_is_written() {
        for url in ["http://a", "HTTPS://a/", "http://[::1]:1/x", "http://user@a?x", "http://a//b"] {
            assert!(is_named(url), "{url}");
        }
        for url in [
            "http:",
            "http://",
            "http:///a",
            "http:/a",
            "http:a",
            r"http:\\a",
            r"http://\a",
            "http://?a",
            "http://#a",
            "a",
        ] {
            assert!(!is_named(url), "{url}");
        }
    }
}
