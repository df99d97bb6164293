//! The cookies of one task: kept from answer to answer, sent where they belong (RFC 6265), and never shared.

use cookie_store::{CookieStore, RawCookie};
use http::{HeaderMap, HeaderValue, header};
use url::{Host, Url};

/// What one task may keep, in cookies and in bytes of their names and values; an origin that sets more is ignored.
const COOKIES_MAX: usize = 300;
const BYTES_MAX: usize = 64 << 10;
/// A larger cookie is ignored, as browsers do (RFC 6265bis, section 5.7).
const COOKIE_BYTES_MAX: usize = 4096;

/// The cookies of one task. An empty jar costs nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Jar(Option<Box<CookieStore>>);

impl Jar {
    /// Returns the `Cookie` header for a request to `url`: what the client itself set, and behind it what was kept.
    pub(super) fn header(&self, url: &Url, own: Option<&HeaderValue>) -> Option<HeaderValue> {
        let mut bytes = Vec::new();
        for (name, value) in self.0.as_ref()?.get_request_values(url) {
            if !bytes.is_empty() {
                bytes.extend_from_slice(b"; ");
            }
            bytes.extend(bytes_of(name));
            bytes.push(b'=');
            bytes.extend(bytes_of(value));
        }
        if bytes.is_empty() {
            return None;
        }
        if let Some(own) = own {
            bytes = [own.as_bytes(), b"; ", &bytes].concat();
        }
        let mut value = HeaderValue::from_bytes(&bytes).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Takes in what an answer of `url` sets.
    pub(super) fn keep(&mut self, url: &Url, headers: &HeaderMap) {
        for value in headers.get_all(header::SET_COOKIE) {
            let Ok(cookie) = RawCookie::parse(text_of(value.as_bytes())) else { continue };
            let store = self.0.get_or_insert_with(Box::default);
            if is_for_everyone(&cookie, url) || !has_room(store, &cookie) {
                continue;
            }
            // What it refuses is not for this origin to set.
            let _ = store.insert_raw(&cookie, url);
        }
    }
}

/// Returns whether a cookie may be kept beside those that are. One that takes the place of another may when all are full.
fn has_room(store: &CookieStore, cookie: &RawCookie<'_>) -> bool {
    let length = |name: &str, value: &str| bytes_of(name).count() + bytes_of(value).count();
    let own = length(cookie.name(), cookie.value());
    let others = || store.iter_any().filter(|other| other.name() != cookie.name());
    let bytes: usize = others().map(|other| length(other.name(), other.value())).sum();
    own <= COOKIE_BYTES_MAX && bytes + own <= BYTES_MAX && others().count() < COOKIES_MAX
}

/// Where bytes beyond ASCII stand while they are text: a range of private use, so that none of them is white space.
const BYTES_FROM: u32 = 0xf700;

/// Bytes as text, which [`bytes_of`] reverses: cookies are bytes of any charset, and the store deals in text.
fn text_of(bytes: &[u8]) -> String {
    let letter = |byte: &u8| {
        if byte.is_ascii() { Some(char::from(*byte)) } else { char::from_u32(BYTES_FROM + u32::from(*byte)) }
    };
    bytes.iter().filter_map(letter).collect()
}

fn bytes_of(text: &str) -> impl Iterator<Item = u8> {
    // Only what `text_of` made is in the store, so nothing is lost here.
    text.chars().filter_map(|letter| {
        let code = u32::from(letter);
        u8::try_from(code.checked_sub(BYTES_FROM).unwrap_or(code)).ok()
    })
}

/// Returns whether a cookie is for a whole top-level domain, and would be sent to strangers.
///
/// Longer public suffixes, such as `co.uk`, are not known here: their list would be a third of the program, and since a
/// jar lives no longer than its task, what may go astray is one origin's cookie to another that it redirects to.
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
    fn cookies_keep_their_bytes() {
        let mut headers = HeaderMap::new();
        headers.append(header::SET_COOKIE, HeaderValue::from_bytes(b"a=\xe9\xa0; Path=/").unwrap());
        headers.append(header::SET_COOKIE, HeaderValue::from_bytes("b=\u{e9}".as_bytes()).unwrap());
        let (mut jar, url) = (Jar::default(), Url::parse("http://a.example/").unwrap());
        jar.keep(&url, &headers);
        let sent = jar.header(&url, Some(&HeaderValue::from_bytes(b"own=\xff").unwrap())).unwrap();
        let mut parts: Vec<&[u8]> = sent.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii).collect();
        parts.sort_unstable();
        assert_eq!(parts, [&b"a=\xe9\xa0"[..], "b=\u{e9}".as_bytes(), b"own=\xff"]);
    }

    #[test]
    fn a_flood_of_cookies_is_cut() {
        let many: Vec<String> = (0..1000).map(|n| format!("c{n}=1")).collect();
        let mut full = jar("http://a.example/", &many.iter().map(String::as_str).collect::<Vec<_>>());
        let change = [(header::SET_COOKIE, HeaderValue::from_static("c7=2"))].into_iter().collect();
        full.keep(&Url::parse("http://a.example/").unwrap(), &change);
        assert_eq!(full.0.as_ref().unwrap().iter_any().count(), COOKIES_MAX);
        assert!(sent(&full, "http://a.example/").unwrap().contains("c7=2"), "what is there can be changed");
        let large: Vec<String> = (0..40).map(|n| format!("c{n}={}", "x".repeat(4000))).collect();
        let jar = jar("http://a.example/", &large.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(sent(&jar, "http://a.example/").unwrap().len() < BYTES_MAX + 1000);
        let one = format!("c={}", "x".repeat(COOKIE_BYTES_MAX));
        assert_eq!(sent(&super::tests::jar("http://a.example/", &[&one]), "http://a.example/"), None);
    }
}
