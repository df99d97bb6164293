//! The cookies of one task: kept from answer to answer, sent where they belong (RFC 6265), and never shared.

use cookie_store::{CookieStore, RawCookie};
use http::{HeaderMap, HeaderValue, header};
use url::{Host, Url};

/// What one task may keep; an origin that sets more is ignored.
const COOKIES_MAX: usize = 300;

/// Cookies. Empty costs nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Jar(Option<Box<CookieStore>>);

impl Jar {
    /// The `Cookie` header for a request to `url`, after what the client itself set.
    pub(super) fn header(&self, url: &Url, own: Option<&HeaderValue>) -> Option<HeaderValue> {
        let mut text = String::new();
        for (name, value) in self.0.as_ref()?.get_request_values(url) {
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.extend([name, "=", value]);
        }
        if text.is_empty() {
            return None;
        }
        if let Some(own) = own.and_then(|own| own.to_str().ok()) {
            text = format!("{own}; {text}");
        }
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Takes in what an answer of `url` sets. Returns whether it set any.
    pub(super) fn keep(&mut self, url: &Url, headers: &HeaderMap) -> bool {
        let mut changed = false;
        for value in headers.get_all(header::SET_COOKIE) {
            let Some(cookie) = value.to_str().ok().and_then(|text| RawCookie::parse(text).ok()) else { continue };
            let store = self.0.get_or_insert_with(Box::default);
            if is_for_everyone(&cookie, url) || store.iter_any().nth(COOKIES_MAX - 1).is_some() {
                continue;
            }
            changed |= store.insert_raw(&cookie, url).is_ok();
        }
        changed
    }
}

/// A cookie for a whole top-level domain would be sent to strangers. (Longer public suffixes, such as `co.uk`, are not
/// known here; a jar lives no longer than its task, so what may go astray is one origin's cookie to another that it
/// redirects to.)
fn is_for_everyone(cookie: &RawCookie<'_>, url: &Url) -> bool {
    let is_host_itself = |domain: &str| matches!(url.host(), Some(Host::Domain(host)) if host == domain);
    cookie
        .domain()
        .map(|domain| domain.trim_start_matches('.'))
        .is_some_and(|domain| !domain.contains('.') && !is_host_itself(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jar(url: &str, cookies: &[&str]) -> Jar {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::SET_COOKIE, cookie.parse().unwrap());
        }
        let mut jar = Jar::default();
        jar.keep(&Url::parse(url).unwrap(), &headers);
        jar
    }

    fn sent(jar: &Jar, url: &str) -> Option<String> {
        let value = jar.header(&Url::parse(url).unwrap(), None)?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn cookies_go_where_they_belong() {
        let jar = jar(
            "https://www.a.example/x/",
            &["s=1; Secure", "d=2; Domain=a.example; Path=/x", "e=3; Domain=example", "f=4; Domain=b.example"],
        );
        assert_eq!(sent(&jar, "https://www.a.example/x/").map(|text| text.len()), Some("s=1; d=2".len()));
        assert_eq!(sent(&jar, "http://api.a.example/x/y").as_deref(), Some("d=2"));
        assert_eq!(sent(&jar, "https://www.a.example/").as_deref(), None, "the default path is that of the setter");
        assert_eq!(sent(&jar, "https://b.example/x/"), None);
        let own = HeaderValue::from_static("mine=0");
        let both = jar.header(&Url::parse("http://a.example/x").unwrap(), Some(&own));
        assert_eq!(both.unwrap(), "mine=0; d=2");
    }

    #[test]
    fn a_flood_of_cookies_is_cut() {
        let many: Vec<String> = (0..1000).map(|n| format!("c{n}=1")).collect();
        let jar = jar("http://a.example/", &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(jar.0.unwrap().iter_any().count(), COOKIES_MAX);
    }
}
