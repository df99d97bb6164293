//! The `Link` header (RFC 8288), as far as listings use it. Pure.

use http::{HeaderMap, header};
use url::{Position, Url};

use crate::net::redirect::ascii_of;

/// A `Link` header that is not one. What it would have said is not known, so a listing must not take it for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the `Link` header cannot be read (RFC 8288)")]
pub struct Unreadable;

/// Returns the target of the first link whose relation is `next`, relative to `page`, its URL, with bytes beyond ASCII
/// percent-encoded. `None` where no link leads on.
pub fn next(headers: &HeaderMap, page: &Url) -> Result<Option<String>, Unreadable> {
    let mut found = None;
    // All are read, even behind the one that counts, so that it does not depend on their order whether they can be.
    for value in headers.get_all(header::LINK) {
        // A tab separates as a space does, and is part of nothing.
        let value: Vec<u8> = value.as_bytes().iter().map(|byte| if *byte == b'\t' { b' ' } else { *byte }).collect();
        let next = next_in(&ascii_of(&value), page)?.map(str::to_owned);
        found = found.or(next);
    }
    Ok(found)
}

/// The same, in one value of the header.
pub fn next_in<'a>(value: &'a str, page: &Url) -> Result<Option<&'a str>, Unreadable> {
    let mut rest = value;
    let mut found = None;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace());
        if rest.is_empty() {
            return Ok(found);
        }
        let (target, after) = rest.strip_prefix('<').and_then(|rest| rest.split_once('>')).ok_or(Unreadable)?;
        let (is_next, after) = parameters(after, page)?;
        if is_next {
            found = found.or(Some(target.trim()));
        }
        rest = after;
    }
}

/// Reads the parameters of one link. Returns whether its relations include `next`, and what follows the link. A link that
/// names another thing than the page as its context leads on from there and not from here (RFC 8288, section 3.2).
fn parameters<'a>(mut rest: &'a str, page: &Url) -> Result<(bool, &'a str), Unreadable> {
    let (mut relation, mut is_of_page) = (None, true);
    loop {
        rest = rest.trim_start();
        let Some(after) = rest.strip_prefix(';') else {
            if !(rest.is_empty() || rest.starts_with(',')) {
                return Err(Unreadable);
            }
            let is_next = relation.is_some_and(|rel: &str| {
                rel.trim_matches('\'').split_ascii_whitespace().any(|one| one.eq_ignore_ascii_case("next"))
            });
            return Ok((is_next && is_of_page, rest));
        };
        let end = after.find(['=', ';', ',']).unwrap_or(after.len());
        let name = after[..end].trim();
        // A link behind a semicolon and not a comma, perhaps: what it says is not known.
        if name.contains(['<', '>', '"']) {
            return Err(Unreadable);
        }
        let Some(value) = after[end..].strip_prefix('=') else {
            rest = &after[end..];
            continue;
        };
        let (value, after) = self::value(value.trim_start())?;
        rest = after;
        // The first one counts (RFC 8288, section 3.3).
        if name.eq_ignore_ascii_case("rel") && relation.is_none() {
            relation = Some(value);
        }
        if name.eq_ignore_ascii_case("anchor") {
            let mut own = page.clone();
            own.set_fragment(None);
            is_of_page &= own.join(value).is_ok_and(|context| is_same(&context, &own));
        }
    }
}

/// Returns whether two URLs name the same thing of an origin. The origin itself may be spelled otherwise, as one behind a
/// proxy does that knows neither its scheme nor its name, and no listing has to end for that.
fn is_same(one: &Url, other: &Url) -> bool {
    one[Position::BeforePath..] == other[Position::BeforePath..]
}

/// A token or a quoted string, and what follows it. Relations have no use for escapes, so those stay as they are.
fn value(text: &str) -> Result<(&str, &str), Unreadable> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        return Ok((text[..end].trim_end(), &text[end..]));
    };
    let mut is_escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return Ok((&quoted[..at], &quoted[at + 1..])),
            _ => {}
        }
    }
    Err(Unreadable)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn page() -> Url {
        Url::parse("http://a/list?page=1").unwrap()
    }

    fn next_in(value: &str) -> Result<Option<&str>, Unreadable> {
        super::next_in(value, &page())
    }

    #[test]
    fn a_link_of_another_context_does_not_lead_on_from_here() {
        let with = |anchor: &str| next_in(&format!("</b>; rel=next; anchor=\"{anchor}\"")).unwrap().is_some();
        for own in ["", "/list?page=1", "?page=1", "http://a/list?page=1", "https://u@inner:8080/list?page=1"] {
            assert!(with(own), "{own}");
        }
        for other in ["#part", "/other", "http://a/list?page=2", "http://b/list?page=1#part", "urn:a", "http://"] {
            assert!(!with(other), "{other}");
        }
    }

    #[test]
    fn finds_the_next_page() {
        let next_in = |value| next_in(value).unwrap();
        assert_eq!(next_in(r#"<https://a/?page=2>; rel="next""#), Some("https://a/?page=2"));
        assert_eq!(next_in("</p1>; rel=prev, </p3>; rel=next"), Some("/p3"));
        assert_eq!(next_in(r#"</p,1>; title="a,b;\"rel=next"; rel="prev", </p3> ;REL="last  Next""#), Some("/p3"));
        assert_eq!(next_in(r#"</a>; crossorigin; rel="next"; rel="prev""#), Some("/a"));
        assert_eq!(next_in(r#"</a>; rel="prev"; rel="next""#), None, "the first relation counts");
        assert_eq!(next_in(r#"</a>; title="rel=next""#), None);
        assert_eq!(next_in(", </a>; rel=next,"), Some("/a"));
        assert_eq!(next_in("</a>; rel='prev', </b>; rel='next'"), Some("/b"), "quoted as HTML may be");
        for none in ["", " ", ",", "</a>", "</a>;", "</a>;rel", "</a>; rel="] {
            assert_eq!(next_in(none), None, "{none}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_end() {
        for bad in [
            "</a>; rel=prev; </b>; rel=next",
            "<",
            "</a",
            "</a>; rel=\"",
            ">;rel=next",
            "/a; rel=next",
            "</a> rel=next",
            "</a>; rel=\"next\" </b>",
        ] {
            assert_eq!(next_in(bad), Err(Unreadable), "{bad}");
        }
        let mut headers = HeaderMap::new();
        headers.append(header::LINK, "</b>; rel=next".parse().unwrap());
        headers.append(header::LINK, "/c; rel=last".parse().unwrap());
        assert_eq!(next(&headers, &page()), Err(Unreadable));
    }

    #[test]
    fn looks_at_every_header_and_keeps_every_byte() {
        let mut headers = HeaderMap::new();
        headers.append(header::LINK, "</a>; rel=prev".parse().unwrap());
        headers.append(header::LINK, HeaderValue::from_bytes(b"</caf\xe9?q=\xc3\xa9>; rel=next; title=\xff").unwrap());
        assert_eq!(next(&headers, &page()).unwrap().as_deref(), Some("/caf%E9?q=%C3%A9"));
        headers.clear();
        headers.append(header::LINK, "</a>\t;\trel\t=\t\"prev\tnext\"".parse().unwrap());
        assert_eq!(next(&headers, &page()).unwrap().as_deref(), Some("/a"));
    }

    proptest! {
        #[test]
        fn never_panics(value in r#".*|([<>;,="\\ ]|rel|next|a){0,40}"#) {
            let _ = next_in(&value);
        }

        #[test]
        fn finds_it_among_others(before in "[a-z/?=]{0,9}", target in "[a-z/?=,;]{0,9}") {
            let value = format!(r#"<{before}>; rel="prev"; title="x, <y>", <{target}>; rel="next""#);
            prop_assert_eq!(next_in(&value), Ok(Some(target.as_str())));
        }
    }
}
