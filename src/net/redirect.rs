//! Where a redirect leads, and what may go along. Pure.

use http::{Method, StatusCode};
use percent_encoding::{CONTROLS, percent_encode};
use url::Url;

use crate::model::failure::{Failure, FailureReason};
use crate::model::secret::redacted;

/// What a URL may have that an origin leads to, as much as one that a client names: it is kept with the task.
pub const URL_BYTES_MAX: usize = 8 << 10;

/// The next request of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Where it goes.
    pub url: Url,
    /// The method, as RFC 9110 rewrites it.
    pub method: Method,
    /// Whether the body goes again; when not, neither do the headers that describe it.
    pub keeps_body: bool,
    /// Whether it is another scheme, host or port, which must not see the credentials.
    pub leaves_origin: bool,
}

/// How far a chain of redirects has come.
#[derive(Debug)]
pub struct Trail<'a> {
    /// The URL that answered.
    pub from: &'a Url,
    /// The method that was used.
    pub method: &'a Method,
    /// Redirects followed already.
    pub followed: u32,
    /// How many may be followed.
    pub limit: u32,
}

/// Decides where an answer leads; `None` where it does not redirect.
///
/// A redirect to a URL that has been asked before is followed like any other: an origin may answer otherwise the next
/// time, because it has set a cookie or finished what it is asked for. What never ends is ended by the limit.
pub fn decide(status: StatusCode, location: Option<&[u8]>, trail: &Trail<'_>) -> Result<Option<Hop>, Failure> {
    let location = location.map(<[u8]>::trim_ascii).filter(|location| !location.is_empty());
    // Among several choices the one that the origin prefers, as curl takes it.
    let is_choice = status == StatusCode::MULTIPLE_CHOICES && matches!(*trail.method, Method::GET | Method::HEAD);
    let redirects = is_choice || matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let (true, Some(location)) = (redirects, location) else {
        return Ok(None);
    };
    let from = redacted(trail.from);
    let fail = |reason, message| Failure { http_status: status.as_u16(), ..Failure::fatal(reason, message) };
    let mut url = trail.from.join(&ascii_of(location)).map_err(|_| {
        let message = format!("`{from}` redirects to something that is not a URL; its operator has to correct that");
        fail(FailureReason::Protocol, message)
    })?;
    if url.as_str().len() > URL_BYTES_MAX {
        let message = format!("`{from}` redirects to a URL of more than {URL_BYTES_MAX} bytes");
        return Err(fail(FailureReason::Protocol, message));
    }
    // That of the client stays, for what it says to whoever reads the URL. One of the origin's would be for a browser, and
    // is where logins put tokens.
    url.set_fragment(trail.from.fragment());
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        let scheme = url.scheme();
        let message = format!("`{from}` redirects to a `{scheme}` URL; haul follows http and https only");
        return Err(fail(FailureReason::ForbiddenAddress, message));
    }
    if trail.from.scheme() == "https" && url.scheme() == "http" {
        let message =
            format!("`{from}` redirects from https to http at `{}`, which haul does not follow", redacted(&url));
        return Err(fail(FailureReason::Protocol, message));
    }
    if trail.followed >= trail.limit {
        let message = format!("more than {} redirects, the last one at `{from}` (`http.max_redirects`)", trail.limit);
        return Err(fail(FailureReason::TooManyRedirects, message));
    }
    let (method, keeps_body) = rewrite(status, trail.method);
    let leaves_origin = url.origin() != trail.from.origin();
    Ok(Some(Hop { url, method, keeps_body, leaves_origin }))
}

/// The text of a URL in a header, with each byte beyond ASCII percent-encoded as it is, so that the origin gets back
/// the bytes that it wrote, whatever their charset. What is percent-encoded already stays.
pub(super) fn ascii_of(value: &[u8]) -> String {
    percent_encode(value, CONTROLS).to_string()
}

/// RFC 9110, sections 15.4.2 to 15.4.9, and what every client does with a POST.
fn rewrite(status: StatusCode, method: &Method) -> (Method, bool) {
    match status.as_u16() {
        303 if *method != Method::HEAD && *method != Method::GET => (Method::GET, false),
        301 | 302 if *method == Method::POST => (Method::GET, false),
        _ => (method.clone(), true),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn follow(status: u16, method: &Method, from: &str, location: impl AsRef<[u8]>) -> Result<Option<Hop>, Failure> {
        let from = url(from);
        let trail = Trail { from: &from, method, followed: 0, limit: 10 };
        decide(StatusCode::from_u16(status).unwrap(), Some(location.as_ref()), &trail)
    }

    #[test]
    fn the_method_by_status() {
        let mut table = Vec::new();
        for status in [200, 300, 301, 302, 303, 304, 307, 308] {
            for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT] {
                let end = match follow(status, &method, "http://a/", "/b").unwrap() {
                    Some(hop) => {
                        format!("{} {}", hop.method, if hop.keeps_body { "with body" } else { "without body" })
                    }
                    None => "not followed".into(),
                };
                table.push(format!("{status} {method}: {end}\n"));
            }
        }
        let table = table.concat();
        insta::assert_snapshot!(table);
    }

    #[test]
    fn where_it_leads_and_where_not() {
        let lead = |from: &str, location: &str| match follow(302, &Method::GET, from, location) {
            Ok(Some(hop)) => {
                format!("{} {}", hop.url, if hop.leaves_origin { "another origin" } else { "same origin" })
            }
            Ok(None) => "not followed".into(),
            Err(failure) => format!("{:?}: {failure}", failure.reason),
        };
        let table = [
            ("http://a/x/y?q", "z"),
            ("http://a/x#part", "/z"),
            ("http://a/", "//b/z"),
            ("http://a:80/", "http://a/z"),
            ("http://a/", "http://a:81/"),
            ("http://a/", "https://a/"),
            ("https://a/", "http://a/"),
            ("http://me:pw@a/", "ftp://b/"),
            ("http://a/", "file:///etc/passwd"),
            ("http://a/", "http://"),
            ("http://a/", ""),
            ("http://a/", "/é x"),
        ]
        .into_iter()
        .map(|(from, location)| format!("{from} + {location} = {}\n", lead(from, location)))
        .collect::<Vec<String>>()
        .concat();
        insta::assert_snapshot!(table);
    }

    #[test]
    fn bytes_beyond_ascii_come_back_as_they_were_written() {
        let lead =
            |location: &[u8]| follow(302, &Method::GET, "http://a/x/y", location).unwrap().unwrap().url.to_string();
        assert_eq!(lead(b"/caf\xc3\xa9"), "http://a/caf%C3%A9");
        assert_eq!(lead(b"/caf\xe9?q=\xc0\xb1#\xff"), "http://a/caf%E9?q=%C0%B1");
        assert_eq!(lead(b" a%2Fb c+d.txt?x=%7E%2f&y='z' "), "http://a/x/a%2Fb%20c+d.txt?x=%7E%2f&y=%27z%27");
    }

    #[test]
    fn a_url_may_redirect_to_itself_and_nowhere_is_no_redirect() {
        let same = follow(302, &Method::GET, "http://a/x", "/x").unwrap().unwrap();
        assert_eq!(same.url.as_str(), "http://a/x");
        assert_eq!(follow(302, &Method::GET, "http://a/x", " ").unwrap(), None);
        assert!(follow(300, &Method::GET, "http://a/x", "/y").unwrap().is_some(), "what the origin prefers");
        assert_eq!(follow(300, &Method::POST, "http://a/x", "/y").unwrap(), None);
        let long = "\u{e9}".repeat(URL_BYTES_MAX / 6);
        let failure = follow(302, &Method::GET, "https://a/x", format!("http://a/{long}")).unwrap_err();
        assert_eq!(failure.reason, FailureReason::Protocol);
        assert!(failure.message.len() < 200, "{failure}");
    }

    #[test]
    fn the_limit_counts() {
        let (from, method) = (url("http://a/"), Method::GET);
        let reason = |followed, limit| {
            let trail = Trail { from: &from, method: &method, followed, limit };
            decide(StatusCode::FOUND, Some(b"/b"), &trail).map_err(|failure| failure.reason).map(|hop| hop.is_some())
        };
        assert_eq!(reason(0, 0), Err(FailureReason::TooManyRedirects));
        assert_eq!(reason(9, 10), Ok(true));
        assert_eq!(reason(10, 10), Err(FailureReason::TooManyRedirects));
    }

    proptest! {
        #[test]
        fn follows_to_the_web_only_and_never_panics(location in ".*|(http|https|ftp|//|:|a|/|@){0,8}", https: bool) {
            let from = if https { "https://a.example/x" } else { "http://a.example/x" };
            if let Ok(Some(hop)) = follow(307, &Method::POST, from, &location) {
                prop_assert!(matches!(hop.url.scheme(), "http" | "https"));
                prop_assert!(!https || hop.url.scheme() == "https");
                prop_assert_eq!(hop.leaves_origin, hop.url.origin() != url(from).origin());
            }
        }
    }
}
