//! Where connections go instead of to their origin: the proxies that `proxy_url` may name.
//!
//! Requests for https URLs go through a tunnel (CONNECT), those for plain http are passed on by an HTTP proxy in the
//! form that RFC 9112, 3.2.2, has for it: many proxies let tunnels lead to port 443 only. `socks5` carries both, and so
//! does `socks5h`, which leaves the name to the proxy.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::model::failure::{Failure, FailureReason};
use crate::model::secret::Secret;
use crate::net::message::Form;
use crate::net::target::Target;

/// A proxy.
#[derive(PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) kind: Kind,
    pub(super) host: Host<String>,
    pub(super) port: u16,
    pub(super) credentials: Option<(String, Secret)>,
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    /// HTTP over TLS.
    Https,
    Socks5,
    /// SOCKS5, with names that the proxy resolves.
    Socks5h,
}

impl Proxy {
    /// Reads `http://`, `https://`, `socks5://` or `socks5h://`, with credentials or without. Says nothing of a text
    /// that is none of them, since it may hold a password.
    pub(super) fn parse(text: &Secret) -> Result<Proxy, Failure> {
        let bad = |why: &str| Failure::fatal(FailureReason::Proxy, format!("`proxy_url` {why}"));
        let url = Url::parse(text.expose()).map_err(|_| bad("is not a URL"))?;
        let (kind, port) = match url.scheme() {
            "http" => (Kind::Http, 80),
            "https" => (Kind::Https, 443),
            "socks5" => (Kind::Socks5, 1080),
            "socks5h" => (Kind::Socks5h, 1080),
            _ => return Err(bad("must begin with `http://`, `https://`, `socks5://` or `socks5h://`")),
        };
        // Parsed again because the hosts of schemes that are not the web's are taken for names, whatever they are.
        let host = url.host_str().and_then(|host| Host::parse(host).ok()).ok_or_else(|| bad("names no host"))?;
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        let credentials =
            has_credentials.then(|| (decode(url.username()), Secret::new(decode(url.password().unwrap_or_default()))));
        Ok(Proxy { kind, host, port: url.port().unwrap_or(port), credentials })
    }

    /// Returns how requests for `target` name what they ask for.
    pub(super) fn form(&self, target: &Target) -> Form {
        match self.kind {
            Kind::Http | Kind::Https if !target.https => Form::Absolute { authorization: self.authorization() },
            _ => Form::Origin,
        }
    }

    /// The value of `Proxy-Authorization`.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let (name, password) = self.credentials.as_ref()?;
        let pair = STANDARD.encode(format!("{name}:{}", password.expose()));
        // Base64 has no character that a header could not hold.
        let mut value = HeaderValue::from_str(&format!("Basic {pair}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl std::fmt::Display for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls_and_tells_nothing_of_bad_ones() {
        let proxy = Proxy::parse(&Secret::new("socks5h://me:p%40ss@127.0.0.1")).ok().unwrap();
        assert_eq!((proxy.to_string(), &proxy.host), ("127.0.0.1:1080".into(), &Host::Ipv4([127, 0, 0, 1].into())));
        assert_eq!(proxy.credentials.unwrap().1.expose(), "p@ss");
        for (text, port) in [("http://p", 80), ("https://p", 443), ("http://p:3128", 3128), ("https://p:80", 80)] {
            assert_eq!(Proxy::parse(&Secret::new(text)).ok().unwrap().port, port, "{text}");
        }
        for bad in ["hunter2", "ftp://hunter2@a/", "socks5://"] {
            let failure = Proxy::parse(&Secret::new(bad)).err().unwrap();
            assert_eq!(failure.reason, FailureReason::Proxy);
            assert!(!failure.message.contains("hunter2"), "{failure}");
        }
    }

    #[test]
    fn plain_requests_are_passed_on_and_others_go_through() {
        let target = |url: &str| Target::of(&url.parse().unwrap()).unwrap();
        let form = |proxy: &str, url: &str| Proxy::parse(&Secret::new(proxy)).ok().unwrap().form(&target(url));
        let authorization = Some(HeaderValue::from_static("Basic bWU6cHc="));
        assert_eq!(form("http://me:pw@p", "http://a/"), Form::Absolute { authorization });
        assert_eq!(form("https://p", "http://a/"), Form::Absolute { authorization: None });
        for (proxy, url) in [("http://p", "https://a/"), ("socks5://p", "http://a/"), ("socks5h://p", "https://a/")] {
            assert_eq!(form(proxy, url), Form::Origin, "{proxy} {url}");
        }
    }
}
