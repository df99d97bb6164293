//! The cookies of one task: kept from answer to answer, sent where they belong (RFC 6265), and never shared.

use cookie_store::{Cookie, CookieStore, RawCookie, StoreAction};
use http::{HeaderMap, HeaderValue, header};
use url::{Host, Url};

/// What one task may keep, in cookies and in bytes of their names, values, domains and paths; an origin that sets more is ignored.
const COOKIES_MAX: usize = 300;
const BYTES_MAX: usize = 64 << 10;
/// A larger cookie is ignored, as browsers do (RFC 6265bis, section 5.7).
const COOKIE_BYTES_MAX: usize = 4096;

/// The cookies of one task. An empty jar costs nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Jar(Option<Box<Kept>>);

/// Cookies, and what they come to.
#[derive(Clone, Debug, Default)]
struct Kept {
    store: CookieStore,
    count: usize,
    bytes: usize,
}

impl Jar {
    /// Returns the `Cookie` header for a request to `url`: what the client itself set, and behind it what was kept.
    pub(super) fn header(&self, url: &Url, own: Option<&HeaderValue>) -> Option<HeaderValue> {
        let mut bytes = Vec::new();
        for (name, value) in self.0.as_ref()?.store.get_request_values(url) {
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
            if is_for_everyone(&cookie, url) {
                continue;
            }
            // What it refuses is not for this origin to set.
            let Ok(cookie) = Cookie::try_from_raw_cookie(&bare(&cookie), url) else { continue };
            self.0.get_or_insert_with(Box::default).keep(cookie, url);
        }
    }
}

impl Kept {
    /// Keeps a cookie, if there is room beside the others. One that takes the place of another, which has its domain, its
    /// path and its name, may when all are full.
    fn keep(&mut self, cookie: Cookie<'static>, url: &Url) {
        let (domain, path, name) = (String::from(&cookie.domain), String::from(&cookie.path), cookie.name().to_owned());
        let own = bytes_kept(&cookie);
        let before = self.store.get_any(&domain, &path, &name).map(bytes_kept);
        let (count, bytes) = (self.count - usize::from(before.is_some()), self.bytes - before.unwrap_or(0));
        let is_large = text_bytes(cookie.name()) + text_bytes(cookie.value()) > COOKIE_BYTES_MAX;
        if is_large || bytes + own > BYTES_MAX || count == COOKIES_MAX {
            return;
        }
        match self.store.insert(cookie, url) {
            Ok(StoreAction::Inserted | StoreAction::UpdatedExisting) => {
                (self.count, self.bytes) = (count + 1, bytes + own);
            }
            Ok(StoreAction::ExpiredExisting) => {
                self.store.remove(&domain, &path, &name);
                (self.count, self.bytes) = (count, bytes);
            }
            // As above.
            Err(_) => {}
        }
    }
}

/// The cookie without the text that it was read from, which would be kept with it, and may be as long as a head.
fn bare(cookie: &RawCookie<'_>) -> RawCookie<'static> {
    let mut bare = RawCookie::new(cookie.name().to_owned(), cookie.value().to_owned());
    if let Some(domain) = cookie.domain() {
        bare.set_domain(domain.to_owned());
    }
    if let Some(path) = cookie.path() {
        bare.set_path(path.to_owned());
    }
    if let Some(expires) = cookie.expires() {
        bare.set_expires(expires);
    }
    bare.set_max_age(cookie.max_age());
    bare.set_secure(cookie.secure());
    bare.set_http_only(cookie.http_only());
    bare
}

/// What a cookie counts as.
fn bytes_kept(cookie: &Cookie<'_>) -> usize {
    let (domain, path) = (String::from(&cookie.domain), String::from(&cookie.path));
    text_bytes(cookie.name()) + text_bytes(cookie.value()) + domain.len() + path.len()
}

fn text_bytes(text: &str) -> usize {
    bytes_of(text).count()
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
    let is_host_itself =
        |domain: &str| matches!(url.host(), Some(Host::Domain(host)) if host.trim_end_matches('.') == domain);
    cookie
        .domain()
        .map(|domain| domain.trim_matches('.'))
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
    fn no_cookie_is_for_a_whole_top_level_domain_however_it_is_written() {
        for domain in ["example.", ".example.", "EXAMPLE."] {
            let jar = jar("https://a.example./", &[&format!("e=1; Domain={domain}; Path=/")]);
            assert_eq!(sent(&jar, "https://b.example./"), None, "{domain}");
        }
        let own = jar("https://localhost./", &["l=1; Domain=localhost.; Path=/"]);
        assert_eq!(sent(&own, "https://localhost./").as_deref(), Some("l=1"));
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
        assert_eq!(full.0.as_ref().unwrap().store.iter_any().count(), COOKIES_MAX);
        assert!(sent(&full, "http://a.example/").unwrap().contains("c7=2"), "what is there can be changed");
        let large: Vec<String> = (0..40).map(|n| format!("c{n}={}", "x".repeat(4000))).collect();
        let jar = jar("http://a.example/", &large.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(sent(&jar, "http://a.example/").unwrap().len() < BYTES_MAX + 1000);
        // Cookies of one name are others where their paths are.
        let paths: Vec<String> = (0..1000).map(|n| format!("c=1; Path=/{n}")).collect();
        let jar = super::tests::jar("http://a.example/", &paths.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(jar.0.as_ref().unwrap().store.iter_any().count(), COOKIES_MAX);
        let large: Vec<String> = (0..40).map(|n| format!("c={}; Path=/{n}", "x".repeat(4000))).collect();
        let jar = super::tests::jar("http://a.example/", &large.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(jar.0.as_ref().unwrap().store.iter_any().count(), BYTES_MAX / 4001);
        let one = format!("c={}", "x".repeat(COOKIE_BYTES_MAX));
        assert_eq!(sent(&super::tests::jar("http://a.example/", &[&one]), "http://a.example/"), None);
    }

    #[test]
    fn what_is_deleted_makes_room() {
        let (mut jar, url) = (Jar::default(), Url::parse("http://a.example/").unwrap());
        let mut set = |text: String| {
            jar.keep(&url, &[(header::SET_COOKIE, text.parse().unwrap())].into_iter().collect());
            let kept = jar.0.as_ref().unwrap();
            (kept.count, kept.bytes, kept.store.iter_any().count())
        };
        for n in 0..2 * COOKIES_MAX {
            assert_eq!(set(format!("c{n}=1; unknown={}", "x".repeat(1000))).0, 1);
            assert_eq!(set(format!("c{n}=; Max-Age=0")), (0, 0, 0));
        }
        assert_eq!(set("d=22; Path=/p".into()), (1, "d22a.example/p".len(), 1));
        assert_eq!(set("d=333; Path=/p".into()), (1, "d333a.example/p".len(), 1));
    }
}
